//! What a network does to datagrams: nodes that are strung together into a path.
//!
//! Each node sees one datagram at a time, at the instant at which the node before it let it
//! go, and decides: pass it on (changed or not, now or later), pass on copies, or drop it.

use super::rng::{Chance, Rng};
use super::trace::DropReason;
use crate::ecn::Ecn;
use crate::time::{Instant, SECOND_NS};

/// IPv4 and UDP headers, which a bottleneck carries too.
const HEADERS_V4_BYTES: u64 = 28;
/// IPv6 and UDP headers.
const HEADERS_V6_BYTES: u64 = 48;

/// A burst of [`Fault::DropBursts`] ends when no datagram has come by for so long. Without this a
/// burst of ten is ten probes in a row, of which the last is sent 40 s after the first.
const BURST_SILENCE_NS: u64 = SECOND_NS;

/// A node of a path. The order of a list of them is the order in which datagrams meet them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Drops some datagrams, each independent of the others.
    Drop(Chance),
    /// Drops in bursts (Gilbert and Elliott): a good and a bad state, each with its own loss.
    /// The states change as datagrams come by; after a second without one, the next
    /// finds the good state, so that a burst does not outlive what it fell on.
    DropBursts {
        /// A datagram finds the state gone bad.
        good_to_bad: Chance,
        /// A datagram finds the state good again.
        bad_to_good: Chance,
        /// Loss while good.
        drop_good: Chance,
        /// Loss while bad.
        drop_bad: Chance,
    },
    /// Drops exactly these, counted from 0 as they come by.
    DropThese(Vec<u64>),
    /// Lets datagrams go later.
    Delay {
        /// By at least this.
        base_ns: u64,
        /// By up to so much more, each equally likely.
        jitter_ns: u64,
        /// No datagram overtakes another; otherwise jitter reorders them.
        keep_order: bool,
    },
    /// Lets some datagrams go later, so that those behind overtake them.
    Reorder {
        /// Which.
        chance: Chance,
        /// By how much.
        extra_ns: u64,
    },
    /// Holds everything until an instant, then lets it go at once, in order.
    HoldUntil(Instant),
    /// Sends copies after some datagrams.
    Duplicate {
        /// Which.
        chance: Chance,
        /// How many copies.
        copies: u8,
        /// How long one copy comes after the other.
        spacing_ns: u64,
    },
    /// Flips bits in some datagrams.
    Corrupt {
        /// Which.
        chance: Chance,
        /// One to so many bits.
        max_bits: u8,
    },
    /// Cuts the end off some datagrams; nothing may be left.
    Truncate(Chance),
    /// Drops datagrams with a larger UDP payload.
    Mtu {
        /// The largest that passes.
        max_bytes: usize,
    },
    /// A bottleneck: datagrams wait in a queue and leave at a rate; what does not fit is
    /// dropped at its tail. IP and UDP headers count.
    Bottleneck {
        /// The rate.
        bytes_per_second: u64,
        /// The queue, including the datagram that is leaving.
        queue_bytes: u64,
        /// ECN-capable datagrams that find more than this waiting are marked.
        mark_above_bytes: Option<u64>,
    },
    /// Marks some ECN-capable datagrams as having met congestion.
    MarkEcn(Chance),
    /// Sets every ECN codepoint to this one: bleaching, or a router that breaks the rules.
    RewriteEcn(Ecn),
    /// Another fault, from one instant until just before another.
    During {
        /// The first instant.
        from: Instant,
        /// The first instant after.
        until: Instant,
        /// What happens then.
        fault: Box<Fault>,
    },
}

impl Fault {
    /// A delay without jitter.
    #[must_use]
    pub const fn delay_ns(base_ns: u64) -> Self {
        Self::Delay { base_ns, jitter_ns: 0, keep_order: true }
    }

    /// Nothing passes from one instant until just before another.
    #[must_use]
    pub fn blackout(from: Instant, until: Instant) -> Self {
        Self::Drop(Chance::ALWAYS).during(from, until)
    }

    /// This fault, at some time only.
    #[must_use]
    pub fn during(self, from: Instant, until: Instant) -> Self {
        Self::During { from, until, fault: Box::new(self) }
    }
}

/// The part of a datagram that a node may look at and change.
pub(super) struct Passing<'a> {
    /// The payload; its length can shrink.
    pub(super) bytes: &'a mut [u8],
    pub(super) len: &'a mut usize,
    pub(super) ecn: &'a mut Ecn,
    pub(super) ipv4: bool,
}

impl Passing<'_> {
    fn wire_bytes(&self) -> u64 {
        *self.len as u64 + if self.ipv4 { HEADERS_V4_BYTES } else { HEADERS_V6_BYTES }
    }

    fn mark(&mut self) -> Verdict {
        if matches!(self.ecn, Ecn::Ect0 | Ecn::Ect1) {
            *self.ecn = Ecn::Ce;
        }
        Verdict::NOW
    }
}

/// What becomes of a datagram at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Goes on, so much later.
    Pass { later_ns: u64 },
    /// Goes on, and so do copies of it.
    Copies { copies: u8, spacing_ns: u64 },
    /// Ends here.
    Drop(DropReason),
}

impl Verdict {
    const NOW: Self = Self::Pass { later_ns: 0 };
}

/// A fault with its state and its own random numbers.
#[derive(Debug)]
pub(super) struct Node {
    /// Never [`Fault::During`]: those are in `windows`.
    fault: Fault,
    /// It happens only within all of these, from the first instant until before the second.
    windows: Vec<(Instant, Instant)>,
    state: State,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    /// Datagrams that came by.
    seen: u64,
    /// `DropBursts`: the state.
    bad: bool,
    /// `DropBursts`: when a datagram came by last.
    last: Instant,
    /// `Delay` in order: no datagram may leave before. `Bottleneck`: it is free from here on.
    busy_until: Instant,
}

impl Node {
    pub(super) fn new(mut fault: Fault, rng: Rng) -> Self {
        let mut windows = Vec::new();
        while let Fault::During { from, until, fault: inner } = fault {
            windows.push((from, until));
            fault = *inner;
        }
        let state =
            State { rng, seen: 0, bad: false, last: Instant::EPOCH, busy_until: Instant::EPOCH };
        Self { fault, windows, state }
    }

    /// A datagram comes by at `now`.
    pub(super) fn pass(&mut self, now: Instant, datagram: &mut Passing<'_>) -> Verdict {
        if self.windows.iter().any(|(from, until)| now < *from || now >= *until) {
            return Verdict::NOW;
        }
        let state = &mut self.state;
        let index = state.seen;
        state.seen += 1;
        match &self.fault {
            Fault::Drop(chance) => drop_if(state.rng.happens(*chance), DropReason::Loss),
            Fault::DropBursts { good_to_bad, bad_to_good, drop_good, drop_bad } => {
                state.bad &= now.ns_since(state.last) < BURST_SILENCE_NS;
                state.last = now;
                let turn = if state.bad { bad_to_good } else { good_to_bad };
                state.bad ^= state.rng.happens(*turn);
                let chance = if state.bad { drop_bad } else { drop_good };
                drop_if(state.rng.happens(*chance), DropReason::Loss)
            }
            Fault::DropThese(list) => drop_if(list.contains(&index), DropReason::Loss),
            Fault::Delay { base_ns, jitter_ns, keep_order } => {
                state.delay(now, *base_ns, *jitter_ns, *keep_order)
            }
            Fault::Reorder { chance, extra_ns } => {
                let later = state.rng.happens(*chance);
                Verdict::Pass { later_ns: if later { *extra_ns } else { 0 } }
            }
            Fault::HoldUntil(until) => Verdict::Pass { later_ns: until.ns_since(now) },
            Fault::Duplicate { chance, copies, spacing_ns } => {
                if state.rng.happens(*chance) && *copies > 0 {
                    Verdict::Copies { copies: *copies, spacing_ns: *spacing_ns }
                } else {
                    Verdict::NOW
                }
            }
            Fault::Corrupt { chance, max_bits } => state.corrupt(*chance, *max_bits, datagram),
            Fault::Truncate(chance) => {
                if state.rng.happens(*chance) {
                    *datagram.len = state.rng.below(*datagram.len as u64) as usize;
                }
                Verdict::NOW
            }
            Fault::Mtu { max_bytes } => drop_if(*datagram.len > *max_bytes, DropReason::AboveMtu),
            Fault::Bottleneck { bytes_per_second, queue_bytes, mark_above_bytes } => {
                let rate = (*bytes_per_second).max(1);
                state.queue(now, rate, *queue_bytes, *mark_above_bytes, datagram)
            }
            Fault::MarkEcn(chance) if state.rng.happens(*chance) => datagram.mark(),
            Fault::MarkEcn(_) => Verdict::NOW,
            Fault::RewriteEcn(ecn) => {
                *datagram.ecn = *ecn;
                Verdict::NOW
            }
            // `new` took them apart.
            Fault::During { .. } => Verdict::NOW,
        }
    }
}

impl State {
    fn delay(&mut self, now: Instant, base_ns: u64, jitter_ns: u64, keep_order: bool) -> Verdict {
        let later_ns = base_ns.saturating_add(self.rng.between(0, jitter_ns));
        let mut at = now.plus_ns(later_ns);
        if keep_order {
            at = at.max(self.busy_until);
            self.busy_until = at;
        }
        Verdict::Pass { later_ns: at.ns_since(now) }
    }

    fn corrupt(&mut self, chance: Chance, max_bits: u8, datagram: &mut Passing<'_>) -> Verdict {
        if self.rng.happens(chance) && *datagram.len > 0 {
            for _ in 0..self.rng.between(1, u64::from(max_bits)) {
                let bit = self.rng.below(8 * *datagram.len as u64);
                datagram.bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            }
        }
        Verdict::NOW
    }

    /// The queue is kept as the time that it takes to empty.
    fn queue(
        &mut self,
        now: Instant,
        rate: u64,
        queue_bytes: u64,
        mark_above_bytes: Option<u64>,
        datagram: &mut Passing<'_>,
    ) -> Verdict {
        let waiting_ns = self.busy_until.ns_since(now);
        let leaving_ns = ns_at(rate, datagram.wire_bytes());
        if waiting_ns + leaving_ns > ns_at(rate, queue_bytes) {
            return Verdict::Drop(DropReason::QueueFull);
        }
        if mark_above_bytes.is_some_and(|bytes| waiting_ns > ns_at(rate, bytes)) {
            datagram.mark();
        }
        let later_ns = waiting_ns + leaving_ns;
        self.busy_until = now.plus_ns(later_ns);
        Verdict::Pass { later_ns }
    }
}

/// How long `bytes` take at `rate` bytes per second.
fn ns_at(rate: u64, bytes: u64) -> u64 {
    let ns = u128::from(bytes) * u128::from(SECOND_NS) / u128::from(rate);
    // An hour: longer than any scenario, and far from overflowing a sum.
    u64::try_from(ns).unwrap_or(u64::MAX).min(3_600 * SECOND_NS)
}

fn drop_if(drop: bool, reason: DropReason) -> Verdict {
    if drop { Verdict::Drop(reason) } else { Verdict::NOW }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MILLISECOND_NS;

    fn at(ns: u64) -> Instant {
        Instant::from_nanos(ns)
    }

    fn node(fault: Fault) -> Node {
        Node::new(fault, Rng::new(1))
    }

    /// Passes a datagram of `len` bytes, all zero, marked ECT(0); tells what came of it.
    fn pass(node: &mut Node, now: Instant, len: usize) -> (Verdict, Vec<u8>, Ecn) {
        let (mut bytes, mut len, mut ecn) = (vec![0; len], len, Ecn::Ect0);
        let mut passing = Passing { bytes: &mut bytes, len: &mut len, ecn: &mut ecn, ipv4: true };
        let verdict = node.pass(now, &mut passing);
        bytes.truncate(len);
        (verdict, bytes, ecn)
    }

    fn verdicts(fault: Fault, count: usize) -> Vec<Verdict> {
        let mut node = node(fault);
        (0..count).map(|_| pass(&mut node, at(0), 100).0).collect()
    }

    fn dropped(verdicts: &[Verdict]) -> usize {
        verdicts.iter().filter(|v| matches!(v, Verdict::Drop(_))).count()
    }

    #[test]
    fn drops_are_as_many_as_the_seed_says() {
        assert_eq!(dropped(&verdicts(Fault::Drop(Chance::NEVER), 1000)), 0);
        assert_eq!(dropped(&verdicts(Fault::Drop(Chance::ALWAYS), 1000)), 1000);
        assert_eq!(dropped(&verdicts(Fault::Drop(Chance::percent(10)), 1000)), 101);
        let these = verdicts(Fault::DropThese(vec![0, 3, 999, 1000]), 1000);
        let which: Vec<_> =
            (0..1000).filter(|i| these[*i] == Verdict::Drop(DropReason::Loss)).collect();
        assert_eq!(which, [0, 3, 999]);
    }

    #[test]
    fn bursts_have_the_length_that_the_states_give() {
        let fault = Fault::DropBursts {
            good_to_bad: Chance::percent(1),
            bad_to_good: Chance::percent(20),
            drop_good: Chance::NEVER,
            drop_bad: Chance::ALWAYS,
        };
        let all = verdicts(fault, 100_000);
        let bursts =
            all.windows(2).filter(|w| w[0] == Verdict::NOW && w[1] != Verdict::NOW).count();
        // 1 in 100 begins one while good, and one lasts for 1/0.2 = 5: 4,762 and 952 expected.
        assert_eq!((dropped(&all), bursts), (4760, 972));
    }

    #[test]
    fn a_burst_ends_after_a_second_of_silence() {
        let fault = Fault::DropBursts {
            good_to_bad: Chance::ALWAYS,
            bad_to_good: Chance::NEVER,
            drop_good: Chance::NEVER,
            drop_bad: Chance::ALWAYS,
        };
        let lost = Verdict::Drop(DropReason::Loss);
        // Just under a second apart, a burst lasts for as long as its states say.
        let mut dense = node(fault.clone());
        let times = (0..50).map(|i| at(i * (BURST_SILENCE_NS - 1)));
        assert!(times.into_iter().all(|now| pass(&mut dense, now, 100).0 == lost));
        // Probes that are a second and more apart meet no burst that began before them.
        let mut sparse = node(fault);
        assert_eq!(pass(&mut sparse, at(0), 100).0, lost);
        let Fault::DropBursts { good_to_bad, .. } = &mut sparse.fault else { panic!("bursts") };
        *good_to_bad = Chance::NEVER;
        assert_eq!(pass(&mut sparse, at(BURST_SILENCE_NS), 100).0, Verdict::NOW);
        assert_eq!(pass(&mut sparse, at(BURST_SILENCE_NS + 1), 100).0, Verdict::NOW);
    }

    #[test]
    fn delays_keep_order_only_when_told_to() {
        let fault = |keep_order| Fault::Delay {
            base_ns: 10 * MILLISECOND_NS,
            jitter_ns: 5 * MILLISECOND_NS,
            keep_order,
        };
        for keep_order in [true, false] {
            let mut node = node(fault(keep_order));
            let arrivals: Vec<u64> = (0..1000u64)
                .map(|i| match pass(&mut node, at(i * 1000), 100).0 {
                    Verdict::Pass { later_ns } => {
                        assert!(later_ns >= 10 * MILLISECOND_NS);
                        assert!(later_ns <= 15 * MILLISECOND_NS);
                        i * 1000 + later_ns
                    }
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(arrivals.is_sorted(), keep_order);
        }
        let plain = verdicts(Fault::delay_ns(7), 3);
        assert_eq!(plain, [Verdict::Pass { later_ns: 7 }; 3]);
    }

    #[test]
    fn some_are_held_back_and_all_are_held() {
        let some = verdicts(Fault::Reorder { chance: Chance::percent(50), extra_ns: 9 }, 1000);
        let later = some.iter().filter(|v| **v == Verdict::Pass { later_ns: 9 }).count();
        assert_eq!(later, 504);
        let mut hold = node(Fault::HoldUntil(at(100)));
        for (now, later_ns) in [(0, 100), (99, 1), (100, 0), (101, 0)] {
            assert_eq!(pass(&mut hold, at(now), 1).0, Verdict::Pass { later_ns });
        }
    }

    #[test]
    fn copies_are_made_of_some() {
        let fault = Fault::Duplicate { chance: Chance::percent(30), copies: 2, spacing_ns: 5 };
        let all = verdicts(fault, 1000);
        let copied = Verdict::Copies { copies: 2, spacing_ns: 5 };
        assert_eq!(all.iter().filter(|v| **v == copied).count(), 301);
        let none = Fault::Duplicate { chance: Chance::ALWAYS, copies: 0, spacing_ns: 5 };
        assert_eq!(verdicts(none, 1), [Verdict::NOW]);
    }

    #[test]
    fn corruption_flips_few_bits_and_keeps_the_length() {
        let mut some = node(Fault::Corrupt { chance: Chance::percent(50), max_bits: 3 });
        let mut flipped = [0; 4];
        for _ in 0..1000 {
            let (verdict, bytes, _) = pass(&mut some, at(0), 100);
            assert_eq!((verdict, bytes.len()), (Verdict::NOW, 100));
            let bits: u32 = bytes.iter().map(|b| b.count_ones()).sum();
            flipped[bits as usize] += 1;
        }
        assert_eq!(flipped, [470, 170, 193, 167]);
        assert_eq!(pass(&mut some, at(0), 0).1, [0u8; 0]);
    }

    #[test]
    fn truncation_always_takes_something() {
        let mut some = node(Fault::Truncate(Chance::percent(50)));
        let mut cut = 0;
        for _ in 0..1000 {
            let len = pass(&mut some, at(0), 100).1.len();
            cut += usize::from(len < 100);
        }
        assert_eq!(cut, 489);
        let mut all = node(Fault::Truncate(Chance::ALWAYS));
        assert!((0..1000).all(|_| pass(&mut all, at(0), 100).1.len() < 100));
        assert_eq!(pass(&mut all, at(0), 0).1.len(), 0);
    }

    #[test]
    fn the_mtu_is_the_largest_that_passes() {
        let mut mtu = node(Fault::Mtu { max_bytes: 1200 });
        assert_eq!(pass(&mut mtu, at(0), 1200).0, Verdict::NOW);
        assert_eq!(pass(&mut mtu, at(0), 1201).0, Verdict::Drop(DropReason::AboveMtu));
    }

    #[test]
    fn a_bottleneck_is_a_rate_and_a_queue() {
        // A byte takes a microsecond; 72 bytes and their headers take 100.
        let fault = Fault::Bottleneck {
            bytes_per_second: 1_000_000,
            queue_bytes: 350,
            mark_above_bytes: Some(199),
        };
        let mut neck = node(fault);
        let mut next = |now: u64| {
            let (verdict, _, ecn) = pass(&mut neck, at(now * 1000), 72);
            match verdict {
                Verdict::Pass { later_ns } => Some((now + later_ns / 1000, ecn)),
                Verdict::Drop(DropReason::QueueFull) => None,
                other => panic!("{other:?}"),
            }
        };
        // Three fit into 350 bytes; the third finds 200 waiting, above the mark.
        assert_eq!(next(0), Some((100, Ecn::Ect0)));
        assert_eq!(next(0), Some((200, Ecn::Ect0)));
        assert_eq!(next(0), Some((300, Ecn::Ce)));
        assert_eq!(next(0), None);
        // 50 us later 50 bytes have left: room for exactly one.
        assert_eq!(next(50), Some((400, Ecn::Ce)));
        assert_eq!(next(50), None);
        // Idle again.
        assert_eq!(next(1000), Some((1100, Ecn::Ect0)));
    }

    #[test]
    fn headers_of_the_family_count_at_a_bottleneck() {
        let mut neck = node(Fault::Bottleneck {
            bytes_per_second: 1_000_000_000,
            queue_bytes: 1 << 20,
            mark_above_bytes: None,
        });
        let (mut bytes, mut len, mut ecn) = ([0; 100], 100, Ecn::NotEct);
        let mut v6 = Passing { bytes: &mut bytes, len: &mut len, ecn: &mut ecn, ipv4: false };
        assert_eq!(neck.pass(at(0), &mut v6), Verdict::Pass { later_ns: 148 });
        assert_eq!(pass(&mut neck, at(148), 100).0, Verdict::Pass { later_ns: 128 });
    }

    #[test]
    fn marks_are_set_on_those_that_can_bear_one() {
        let mut all = node(Fault::MarkEcn(Chance::ALWAYS));
        assert_eq!(pass(&mut all, at(0), 1).2, Ecn::Ce);
        let (mut len, mut ecn) = (0, Ecn::NotEct);
        let mut plain = Passing { bytes: &mut [], len: &mut len, ecn: &mut ecn, ipv4: true };
        all.pass(at(0), &mut plain);
        assert_eq!(ecn, Ecn::NotEct);
        let mut some = node(Fault::MarkEcn(Chance::percent(20)));
        let marked = (0..1000).filter(|_| pass(&mut some, at(0), 1).2 == Ecn::Ce).count();
        assert_eq!(marked, 208);
        let mut bleach = node(Fault::RewriteEcn(Ecn::NotEct));
        assert_eq!(pass(&mut bleach, at(0), 1).2, Ecn::NotEct);
    }

    #[test]
    fn a_fault_within_a_window_leaves_the_rest_alone() {
        let mut dark = node(Fault::blackout(at(10), at(20)));
        let dropped: Vec<_> =
            (0..30).filter(|now| pass(&mut dark, at(*now), 1).0 != Verdict::NOW).collect();
        assert_eq!(dropped, (10..20).collect::<Vec<_>>());
        // Windows nest: both have to be open.
        let mut both = node(Fault::blackout(at(10), at(20)).during(at(0), at(12)));
        let dropped: Vec<_> =
            (0..30).filter(|now| pass(&mut both, at(*now), 1).0 != Verdict::NOW).collect();
        assert_eq!(dropped, [10, 11]);
    }

    #[test]
    fn times_at_a_rate_are_exact_and_bounded() {
        assert_eq!(ns_at(1_000_000_000, 1500), 1500);
        assert_eq!(ns_at(125_000_000, 1500), 12_000);
        assert_eq!(ns_at(1, u64::MAX), 3_600 * SECOND_NS);
    }
}
