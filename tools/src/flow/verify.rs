//! Whether a flow goes where it was predicted to go: packets, and the counters of the queues.
//!
//! Either we send the flow ourselves, from the network namespace that its source address is in
//! (`--send-from-netns`), and know how many packets one queue has to have more. Or the operator
//! lets the flow arrive, and we watch; then the other traffic of the device is counted as well,
//! and only a queue that stands out says anything.

use crate::error::Failure;
use crate::sys;
use clap::Args;
use quiclane::topology::counters::ReceiveCounters;
use quiclane::topology::explain::{Protocol, Question};
use quiclane::topology::toeplitz::Flow;
use quiclane::topology::{Reading, Source};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// Emulated devices push nobody back: 16 packets, then a pause, is below 8,000 a second.
const BURST_PACKETS: u32 = 16;
const PAUSE: Duration = Duration::from_millis(2);
/// Some drivers bring their counters up to date every two seconds.
const COUNTERS_STEP: Duration = Duration::from_millis(20);
const COUNTERS_STEPS: u32 = 125;
/// A queue stands out if it has counted so many times as much as any other.
const STANDS_OUT: u64 = 10;

#[derive(Clone, Debug, Args)]
pub(super) struct VerifyArgs {
    /// Compare with reality: send packets of the flow, or watch those that arrive.
    #[arg(long)]
    verify: bool,
    /// Send the flow from this network namespace (`ip netns`), which has its source address.
    #[arg(long, value_name = "NAME", requires = "verify")]
    send_from_netns: Option<String>,
    /// Packets to send; or, watching, how many have to arrive at least.
    #[arg(long, value_name = "N", default_value_t = 100, requires = "verify",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    packets: u32,
    /// How long to watch.
    #[arg(long, value_name = "S", default_value_t = 5, requires = "verify",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// It goes where it was predicted to go.
    Match,
    /// It goes elsewhere.
    Mismatch,
    /// That could not be told.
    Unsure,
}

impl Verdict {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Match => "MATCH",
            Self::Mismatch => "MISMATCH",
            Self::Unsure => "UNSURE",
        }
    }
}

/// What was seen.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Verified {
    pub(super) verdict: Verdict,
    why: String,
    /// Packets that were sent; none if others sent them.
    sent: Option<u32>,
    /// Packets that each queue has counted meanwhile.
    counted: Vec<Counted>,
    /// Where the counters stand.
    counters: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Counted {
    queue: u32,
    packets: u64,
}

impl Verified {
    pub(super) fn text(&self) -> String {
        let counted: Vec<String> = self
            .counted
            .iter()
            .filter(|counted| counted.packets > 0)
            .map(|counted| format!("q{} +{}", counted.queue, counted.packets))
            .collect();
        let counted = if counted.is_empty() { "nothing".to_owned() } else { counted.join(", ") };
        let counters = self.counters.map(|at| format!(" ({at})")).unwrap_or_default();
        let sent = match self.sent {
            Some(sent) => format!("sent {sent}, "),
            None => String::new(),
        };
        format!("{}: {}; {sent}counted {counted}{counters}\n", self.verdict.name(), self.why)
    }
}

impl VerifyArgs {
    pub(super) const fn is_wanted(&self) -> bool {
        self.verify
    }

    /// # Errors
    /// A captured machine receives nothing.
    pub(super) fn check(&self, source: &Source) -> Result<(), Failure> {
        if self.verify && !source.is_live() {
            return Err(Failure::Usage(
                "--verify needs the machine itself, not a captured one (--root)".to_owned(),
            ));
        }
        Ok(())
    }

    pub(super) fn run(
        &self,
        source: &Source,
        device: &str,
        question: &Question,
        predicted: Option<u32>,
    ) -> Result<Verified, Failure> {
        let before = match ReceiveCounters::read(source, device) {
            Reading::Known(before) => before,
            Reading::Unknown(reason) => return Ok(blind(reason)),
        };
        let after = |least: u64| settled(source, device, &before, least);
        let (sent, counted) = match &self.send_from_netns {
            Some(namespace) => {
                send(namespace, question, self.packets)?;
                (Some(self.packets), after(self.packets.into()))
            }
            None => {
                thread::sleep(Duration::from_secs(self.seconds));
                (None, after(0))
            }
        };
        let counted = match counted {
            Reading::Known(counted) => counted,
            Reading::Unknown(reason) => return Ok(blind(reason)),
        };
        let (verdict, why) = match sent {
            Some(sent) => judge_sent(predicted, sent.into(), &counted),
            None => judge_watched(predicted, self.packets.into(), &counted),
        };
        let rows = counted.into_iter().map(|(queue, packets)| Counted { queue, packets });
        let counters = Some(before.origin);
        Ok(Verified { verdict, why, sent, counted: rows.collect(), counters })
    }
}

fn blind(reason: String) -> Verified {
    let counted = Vec::new();
    Verified { verdict: Verdict::Unsure, why: reason, sent: None, counted, counters: None }
}

/// What the queues have counted since `before`, as soon as it is `least` on one of them, or as
/// late as counters may be.
fn settled(
    source: &Source,
    device: &str,
    before: &ReceiveCounters,
    least: u64,
) -> Reading<BTreeMap<u32, u64>> {
    let mut steps = COUNTERS_STEPS;
    loop {
        let now = match ReceiveCounters::read(source, device) {
            Reading::Known(now) => now,
            Reading::Unknown(reason) => return Reading::Unknown(reason),
        };
        let more = |(queue, packets): (&u32, &u64)| {
            (*queue, packets.saturating_sub(before.packets.get(queue).copied().unwrap_or(0)))
        };
        let counted: BTreeMap<u32, u64> = now.packets.iter().map(more).collect();
        let is_enough = counted.values().any(|&packets| packets >= least);
        if is_enough || steps == 0 {
            return Reading::Known(counted);
        }
        steps -= 1;
        thread::sleep(COUNTERS_STEP);
    }
}

/// Sends datagrams of the flow from a namespace. A thread of its own goes there, and ends there.
fn send(namespace: &str, question: &Question, packets: u32) -> Result<(), Failure> {
    if question.protocol != Protocol::Udp {
        return Err(Failure::Usage(
            "--send-from-netns sends UDP; for TCP let the flow arrive, and leave it away"
                .to_owned(),
        ));
    }
    let path = PathBuf::from("/run/netns").join(namespace);
    let file = File::open(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::Usage(format!(
            "--send-from-netns {namespace}: there is no {}; `ip netns` lists them",
            path.display()
        )),
        _ => Failure::file("open", &path, &error),
    })?;
    let flow = question.flow;
    let sender = thread::spawn(move || -> Result<(), Failure> {
        sys::enter_netns(&file).map_err(|error| {
            Failure::Permission(format!(
                "cannot enter the network namespace: {error}; it takes CAP_SYS_ADMIN (sudo)"
            ))
        })?;
        send_here(&flow, packets).map_err(|error| {
            Failure::Failed(format!("{} -> {}: {error}", flow.source, flow.destination))
        })
    });
    sender.join().unwrap_or_else(|_| Err(Failure::Failed("the sender panicked".to_owned())))
}

fn send_here(flow: &Flow, packets: u32) -> std::io::Result<()> {
    // Not connected: an answer that nobody listens is none of our business.
    let socket = UdpSocket::bind(flow.source)?;
    for packet in 0..packets {
        socket.send_to(b"quiclane flow explain --verify", flow.destination)?;
        if packet % BURST_PACKETS == BURST_PACKETS - 1 {
            thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// One queue has to have `sent` packets more, and no other so many that it could be the one.
fn judge_sent(
    predicted: Option<u32>,
    sent: u64,
    counted: &BTreeMap<u32, u64>,
) -> (Verdict, String) {
    let took: Vec<u32> =
        counted.iter().filter(|&(_, &packets)| packets >= sent).map(|(&queue, _)| queue).collect();
    // Half of it elsewhere is more than strays: packets were lost, or others are as busy.
    let busy = counted.iter().filter(|&(_, &packets)| packets * 2 >= sent).count();
    match (took[..].first(), predicted) {
        (Some(queue), Some(expected)) if busy == 1 && *queue == expected => {
            (Verdict::Match, format!("the flow arrives on queue {queue}"))
        }
        (Some(queue), Some(expected)) if busy == 1 => {
            (Verdict::Mismatch, format!("the flow arrives on queue {queue}, not on {expected}"))
        }
        (Some(queue), None) if busy == 1 => {
            (Verdict::Unsure, format!("nothing was predicted; the flow arrives on queue {queue}"))
        }
        (Some(_), _) => (Verdict::Unsure, "other queues are as busy".to_owned()),
        (None, _) => (Verdict::Unsure, "not all packets were counted".to_owned()),
    }
}

/// One queue has to stand out.
fn judge_watched(
    predicted: Option<u32>,
    least: u64,
    counted: &BTreeMap<u32, u64>,
) -> (Verdict, String) {
    let Some((&queue, &most)) = counted.iter().max_by_key(|&(_, &packets)| packets) else {
        return (Verdict::Unsure, "the device has no queue that counts".to_owned());
    };
    let others = counted.iter().filter(|&(&other, _)| other != queue);
    let next = others.map(|(_, &packets)| packets).max().unwrap_or(0);
    if most < least {
        let why = format!("fewer than {least} packets on any queue: is the flow under way?");
        return (Verdict::Unsure, why);
    }
    if next.saturating_mul(STANDS_OUT) > most {
        return (Verdict::Unsure, "no queue stands out: other traffic is too strong".to_owned());
    }
    match predicted {
        Some(expected) if expected == queue => {
            (Verdict::Match, format!("what arrives, arrives on queue {queue}"))
        }
        Some(expected) => (
            Verdict::Mismatch,
            format!("what arrives, arrives on queue {queue}, not on {expected}"),
        ),
        None => {
            (Verdict::Unsure, format!("nothing was predicted; packets arrive on queue {queue}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(predicted: Option<u32>, counted: &[u64]) -> Verdict {
        judge_sent(predicted, 100, &map(counted)).0
    }

    fn map(counted: &[u64]) -> BTreeMap<u32, u64> {
        (0..).zip(counted.iter().copied()).collect()
    }

    #[test]
    fn what_was_sent_has_to_be_on_one_queue() {
        assert_eq!(verdict(Some(1), &[3, 104, 0, 7]), Verdict::Match);
        assert_eq!(verdict(Some(0), &[3, 104, 0, 7]), Verdict::Mismatch);
        for (why, counted) in [
            ("lost", [0, 99, 0, 0]),
            ("nothing came", [0, 0, 0, 0]),
            ("another is as busy", [100, 130, 0, 0]),
            ("perhaps lost there, and busy here", [60, 100, 0, 0]),
        ] {
            assert_eq!(verdict(Some(1), &counted), Verdict::Unsure, "{why}");
        }
        assert_eq!(verdict(None, &[0, 100, 0, 0]), Verdict::Unsure);
    }

    #[test]
    fn what_is_watched_has_to_stand_out() {
        let watch = |predicted, counted: &[u64]| judge_watched(predicted, 100, &map(counted)).0;
        assert_eq!(watch(Some(1), &[9, 1000]), Verdict::Match);
        assert_eq!(watch(Some(0), &[9, 1000]), Verdict::Mismatch);
        assert_eq!(watch(Some(1), &[101, 1000]), Verdict::Unsure);
        assert_eq!(watch(Some(1), &[0, 99]), Verdict::Unsure);
        assert_eq!(watch(None, &[0, 1000]), Verdict::Unsure);
        assert_eq!(watch(Some(1), &[]), Verdict::Unsure);
    }
}
