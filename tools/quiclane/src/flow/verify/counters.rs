//! Observing by counters: which queue has counted the packets.

use super::{Counted, STEP, Seen, Verdict};
use quiclane::topology::counters::ReceiveCounters;
use quiclane::topology::{Reading, Source};
use std::collections::BTreeMap;
use std::thread;

/// How many looks: some drivers update their counters only every two seconds.
const STEPS: u32 = 125;
/// A queue stands out if it has counted this many times as much as any other.
const STANDS_OUT: u64 = 10;

/// The counters before anything was sent.
pub(super) struct Before<'a> {
    source: &'a Source,
    device: &'a str,
    counters: ReceiveCounters,
}

impl<'a> Before<'a> {
    pub(super) fn read(source: &'a Source, device: &'a str) -> Result<Self, String> {
        match ReceiveCounters::read(source, device) {
            Reading::Known(counters) => Ok(Self { source, device, counters }),
            Reading::Unknown(reason) => Err(reason),
        }
    }

    /// Judges packets that we sent.
    pub(super) fn sent(&self, predicted: Option<u32>, sent: u32) -> Seen {
        self.seen(sent.into(), |counted| judge_sent(predicted, sent.into(), counted))
    }

    /// Judges packets that others sent, at least `least` of them.
    pub(super) fn watched(&self, predicted: Option<u32>, least: u32) -> Seen {
        self.seen(0, |counted| judge_watched(predicted, least.into(), counted))
    }

    fn seen(&self, least: u64, judge: impl Fn(&BTreeMap<u32, u64>) -> (Verdict, String)) -> Seen {
        let counted = match settled(self.source, self.device, &self.counters, least) {
            Reading::Known(counted) => counted,
            Reading::Unknown(reason) => return Seen::nothing(reason),
        };
        let (verdict, why) = judge(&counted);
        let counted = counted.into_iter().map(|(queue, packets)| Counted { queue, packets });
        let counters = Some(self.counters.origin);
        Seen { verdict, why, counted: counted.collect(), counters, reported: Vec::new() }
    }
}

/// What the queues have counted since `before`: as soon as one of them has `least`, or after the
/// longest delay of counters.
fn settled(
    source: &Source,
    device: &str,
    before: &ReceiveCounters,
    least: u64,
) -> Reading<BTreeMap<u32, u64>> {
    let mut steps = STEPS;
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
        thread::sleep(STEP);
    }
}

/// One queue has to have `sent` packets more, and no other queue half as many.
fn judge_sent(
    predicted: Option<u32>,
    sent: u64,
    counted: &BTreeMap<u32, u64>,
) -> (Verdict, String) {
    let took: Vec<u32> =
        counted.iter().filter(|&(_, &packets)| packets >= sent).map(|(&queue, _)| queue).collect();
    // Half of them on another queue are too many strays: packets were lost, or others are as busy.
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
