//! Checks with real packets whether a flow goes to the predicted queue.
//!
//! Either we send the flow ourselves, from the network namespace that its source address is in
//! (`--send-from-netns`), or the operator lets it arrive, and we watch. Arriving packets are
//! observed in one of two ways:
//!
//! - `rx_hash`: where the driver offers it, an XDP program notes queue and hash of each packet of
//!   the flow, and of nothing else;
//! - `counters`: otherwise the counters of the queues are read, which count other traffic as
//!   well. If we sent the flow, one queue has to have as many packets more as were sent. If others
//!   send it, only a queue that stands out is an answer.

mod counters;
mod rx_hash;
mod send;

use crate::error::Failure;
use clap::{Args, ValueEnum};
use counters::Before;
use quiclane::datapath::xdp::HashProbe;
use quiclane::topology::explain::{Prediction, Question};
use quiclane::topology::survey::device::Device;
use quiclane::topology::{Nic, Source};
use rx_hash::{Expected, Reported};
use serde::Serialize;
use std::thread;
use std::time::Duration;

/// The interval of looks whether everything has arrived.
const STEP: Duration = Duration::from_millis(20);

/// How arriving packets are observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    /// rx-hash where possible, else counters.
    Auto,
    /// An XDP program on the device reads queue and hash of each packet.
    RxHash,
    /// The packet counters of the queues; nothing is attached to the device.
    Counters,
}

#[derive(Clone, Debug, Args)]
pub(super) struct VerifyArgs {
    /// Check the answer with real packets: send the flow, or watch it arrive.
    #[arg(long)]
    verify: bool,
    /// Choose how arriving packets are observed. For rx-hash an XDP program is attached for as
    /// long; some drivers reset their queues for that.
    #[arg(long, value_enum, default_value = "auto", value_name = "WAY", requires = "verify")]
    by: By,
    /// Send the flow from this network namespace (`ip netns`), which must have the source address.
    #[arg(long, value_name = "NAME", requires = "verify")]
    send_from_netns: Option<String>,
    /// Send this many packets; or when watching, wait for this many (for rx-hash one is enough).
    #[arg(long, value_name = "N", default_value_t = 100, requires = "verify",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    packets: u32,
    /// Watch for this many seconds.
    #[arg(long, value_name = "S", default_value_t = 5, requires = "verify",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
}

impl VerifyArgs {
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

    /// Gets ready, if verifying was asked for. Afterwards the program is on the device, where the
    /// way needs one.
    ///
    /// # Errors
    /// `--by rx-hash` is not possible.
    pub(super) fn start<'a>(
        &'a self,
        source: &'a Source,
        nic: &'a Nic,
        device: &'a Device,
    ) -> Result<Option<Verifier<'a>>, Failure> {
        if !self.verify {
            return Ok(None);
        }
        let probe = match self.by {
            By::Counters => Err("--by counters was given".to_owned()),
            By::Auto | By::RxHash => rx_hash::attach(nic, device),
        };
        match (self.by, probe) {
            (By::RxHash, Err(reason)) => Err(Failure::Unsupported(format!(
                "--by rx-hash: {reason}; --by counters uses the counters of the queues"
            ))),
            (_, probe) => Ok(Some(Verifier { args: self, source, nic, device, probe })),
        }
    }
}

/// The result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// It goes where it was predicted to go.
    Match,
    /// It goes elsewhere.
    Mismatch,
    /// It could not be verified.
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

/// What was seen of a flow.
#[derive(Clone, Debug, Serialize)]
struct Seen {
    verdict: Verdict,
    why: String,
    /// Packets that each queue has counted meanwhile.
    counted: Vec<Counted>,
    /// The source of the counters.
    counters: Option<&'static str>,
    /// What the driver reported of the packets.
    reported: Vec<Reported>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Counted {
    queue: u32,
    packets: u64,
}

impl Seen {
    fn nothing(why: String) -> Self {
        let verdict = Verdict::Unsure;
        Self { verdict, why, counted: Vec::new(), counters: None, reported: Vec::new() }
    }
}

/// How it was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Way {
    /// `rx_hash` or `counters`.
    way: &'static str,
    /// Why not by `rx_hash`.
    way_reason: Option<String>,
}

impl Way {
    pub(super) fn text(&self) -> String {
        match &self.way_reason {
            None => "compared by XDP rx_hash: queue and hash of each packet\n".to_owned(),
            Some(reason) => format!("compared by the queues' counters: {reason}\n"),
        }
    }
}

/// What was seen, and how.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Verified {
    #[serde(flatten)]
    seen: Seen,
    #[serde(flatten)]
    pub(super) way: Way,
    /// Packets that were sent; `None` if others sent them.
    sent: Option<u32>,
    /// The hash that was predicted, if one was.
    predicted_hash: Option<String>,
}

impl Verified {
    pub(super) const fn verdict(&self) -> Verdict {
        self.seen.verdict
    }

    pub(super) fn text(&self) -> String {
        let seen = &self.seen;
        let counted: Vec<String> = seen
            .counted
            .iter()
            .filter(|counted| counted.packets > 0)
            .map(|counted| format!("q{} +{}", counted.queue, counted.packets))
            .collect();
        let counted = if counted.is_empty() { "nothing".to_owned() } else { counted.join(", ") };
        let counters = seen.counters.map(|at| format!(" ({at})")).unwrap_or_default();
        let sent = match self.sent {
            Some(sent) => format!("sent {sent}, "),
            None => String::new(),
        };
        let verdict = seen.verdict.name();
        format!("{verdict}: {}; {sent}counted {counted}{counters}\n", seen.why) + &self.way.text()
    }
}

/// Verifies flows, one after another.
pub(super) struct Verifier<'a> {
    args: &'a VerifyArgs,
    source: &'a Source,
    nic: &'a Nic,
    device: &'a Device,
    /// Or why it is not used.
    probe: Result<HashProbe, String>,
}

impl Verifier<'_> {
    pub(super) fn run(
        &self,
        question: &Question,
        prediction: &Prediction,
    ) -> Result<Verified, Failure> {
        let seen = match &self.probe {
            Ok(probe) => self.by_rx_hash(probe, question, prediction)?,
            Err(_) => self.by_counters(question, prediction.queue())?,
        };
        let way = match &self.probe {
            Ok(_) => Way { way: "rx_hash", way_reason: None },
            Err(reason) => Way { way: "counters", way_reason: Some(reason.clone()) },
        };
        let sent = self.args.send_from_netns.is_some().then_some(self.args.packets);
        let predicted_hash = rx_hash::predicted(prediction).map(rx_hash::hex);
        Ok(Verified { seen, way, sent, predicted_hash })
    }

    fn by_counters(&self, question: &Question, predicted: Option<u32>) -> Result<Seen, Failure> {
        let before = match Before::read(self.source, &self.nic.name) {
            Ok(before) => before,
            Err(reason) => return Ok(Seen::nothing(reason)),
        };
        let packets = self.args.packets;
        if let Some(namespace) = &self.args.send_from_netns {
            send::send(namespace, question, packets)?;
            return Ok(before.sent(predicted, packets));
        }
        thread::sleep(Duration::from_secs(self.args.seconds));
        Ok(before.watched(predicted, packets))
    }

    fn by_rx_hash(
        &self,
        probe: &HashProbe,
        question: &Question,
        prediction: &Prediction,
    ) -> Result<Seen, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::Failed(error.to_string());
        rx_hash::watch(probe, question).map_err(|error| failed(&error))?;
        let patience = match &self.args.send_from_netns {
            Some(namespace) => {
                send::send(namespace, question, self.args.packets)?;
                rx_hash::LATE
            }
            None => Duration::from_secs(self.args.seconds),
        };
        let arrivals = rx_hash::settled(probe, self.args.packets.into(), patience)
            .map_err(|error| failed(&error))?;
        Ok(Expected::new(self.nic, self.device, prediction).judge(&arrivals))
    }
}
