//! Loss and reordering on a bad path, as a pure state machine.
//!
//! One [`Impairer`] serves one direction of one flow and draws from its own generator, so that
//! which datagram of that direction is hit depends on the seed and its number alone, not on
//! how two directions or two flows interleave. Reordering is counted in datagrams: a datagram
//! that is held back is released after 1 to [`MAX_BEHIND`] later ones, or after
//! [`MAX_HOLD`] when no more come, so that it is late and never lost.

use std::time::{Duration, Instant};

/// A datagram is held back behind at most this many later ones: beyond the packet threshold
/// of 3 (RFC 9002 §6.1.1), so that some are declared lost though they arrive.
pub(crate) const MAX_BEHIND: u64 = 8;
/// Longest time that a datagram is held back.
pub(crate) const MAX_HOLD: Duration = Duration::from_millis(5);
/// Datagrams of one direction held back at once; one more is not reordered.
pub(crate) const MAX_HELD: usize = 16;

/// What an [`Impairer`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Datagrams passed on, the late ones included.
    pub(crate) forwarded: u64,
    /// Datagrams that were dropped.
    pub(crate) lost: u64,
    /// Datagrams that were held back.
    pub(crate) reordered: u64,
}

impl Counts {
    /// Adds those of another direction or flow.
    pub(crate) fn add(&mut self, other: Self) {
        self.forwarded += other.forwarded;
        self.lost += other.lost;
        self.reordered += other.reordered;
    }
}

/// Loses and reorders the datagrams of one direction of one flow.
pub(crate) struct Impairer {
    random: SplitMix64,
    loss: u64,
    reorder: u64,
    held: Vec<Held>,
    counts: Counts,
}

struct Held {
    datagram: Vec<u8>,
    behind: u64,
    since: Instant,
}

impl Impairer {
    /// `loss` and `reorder` are probabilities; `stream` tells directions and flows apart.
    pub(crate) fn new(seed: u64, stream: u64, loss: f64, reorder: f64) -> Self {
        let mut mix = SplitMix64(seed);
        let random =
            SplitMix64(mix.next().wrapping_add(stream.wrapping_mul(0x9e6c_63d0_676a_9a99)));
        let (loss, reorder) = (threshold(loss), threshold(reorder));
        Self { random, loss, reorder, held: Vec::new(), counts: Counts::default() }
    }

    /// Takes the next datagram, passes on what leaves now.
    pub(crate) fn offer(&mut self, datagram: &[u8], now: Instant, out: &mut dyn FnMut(&[u8])) {
        // Both are drawn every time: one rate does not shift the other.
        let lost = self.random.next() < self.loss;
        let late = self.random.next() < self.reorder;
        if lost {
            self.counts.lost += 1;
        } else if late && self.held.len() < MAX_HELD {
            self.counts.reordered += 1;
            let behind = 1 + self.random.next() % MAX_BEHIND;
            self.held.push(Held { datagram: datagram.to_vec(), behind, since: now });
        } else {
            self.counts.forwarded += 1;
            out(datagram);
            self.held.iter_mut().for_each(|h| h.behind -= 1);
            self.release(out, |h| h.behind == 0);
        }
    }

    /// Releases what was held back for [`MAX_HOLD`]: call it when no datagram comes.
    pub(crate) fn expire(&mut self, now: Instant, out: &mut dyn FnMut(&[u8])) {
        self.release(out, |h| now.saturating_duration_since(h.since) >= MAX_HOLD);
    }

    /// The counts so far.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    fn release(&mut self, out: &mut dyn FnMut(&[u8]), due: impl Fn(&Held) -> bool) {
        let counts = &mut self.counts;
        self.held.retain(|held| {
            let due = due(held);
            if due {
                counts.forwarded += 1;
                out(&held.datagram);
            }
            !due
        });
    }
}

/// The `u64` below which a uniform draw falls with probability `p`.
fn threshold(p: f64) -> u64 {
    (p.clamp(0.0, 1.0) * u64::MAX as f64) as u64
}

/// SplitMix64: one addition and three mixes a draw, good enough to pick victims.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Offers `0..count`; returns what came out, in order, and the counts.
    fn run(seed: u64, stream: u64, loss: f64, reorder: f64, count: u32) -> (Vec<u32>, Counts) {
        let mut impairer = Impairer::new(seed, stream, loss, reorder);
        let (now, mut seen) = (clock::now(), Vec::new());
        let number = |d: &[u8]| u32::from_be_bytes([d[0], d[1], d[2], d[3]]);
        for i in 0..count {
            impairer.offer(&i.to_be_bytes(), now, &mut |d| seen.push(number(d)));
        }
        impairer.expire(now + MAX_HOLD, &mut |d| seen.push(number(d)));
        (seen, impairer.counts())
    }

    #[test]
    fn a_clean_path_changes_nothing() {
        let (seen, counts) = run(1, 0, 0.0, 0.0, 1000);
        assert_eq!(seen, (0..1000).collect::<Vec<_>>());
        assert_eq!(counts, Counts { forwarded: 1000, lost: 0, reordered: 0 });
    }

    #[test]
    fn rates_are_met_and_every_datagram_is_accounted_for() {
        let (seen, counts) = run(7, 0, 0.1, 0.05, 100_000);
        assert_eq!(seen.len() as u64, counts.forwarded);
        assert_eq!(counts.forwarded + counts.lost, 100_000);
        assert!((9_500..10_500).contains(&counts.lost), "{counts:?}");
        assert!((4_200..4_800).contains(&counts.reordered), "{counts:?}");
        assert_eq!(run(7, 0, 1.0, 0.5, 100).1.lost, 100);
    }

    #[test]
    fn a_late_datagram_is_at_most_max_behind_late() {
        let (seen, counts) = run(3, 0, 0.0, 0.02, 50_000);
        assert!(counts.reordered > 0);
        // Overtaken by at most MAX_BEHIND datagrams that were passed on at once.
        for (at, number) in seen.iter().enumerate() {
            let overtook = seen[..at].iter().filter(|earlier| *earlier > number).count() as u64;
            assert!(overtook <= MAX_BEHIND + MAX_HELD as u64, "{number} overtaken by {overtook}");
        }
        assert!(seen.windows(2).any(|pair| pair[0] > pair[1]));
    }

    #[test]
    fn a_seed_repeats_and_streams_differ() {
        assert_eq!(run(9, 4, 0.1, 0.1, 2000), run(9, 4, 0.1, 0.1, 2000));
        assert_ne!(run(9, 4, 0.1, 0.1, 2000).0, run(9, 5, 0.1, 0.1, 2000).0);
        assert_ne!(run(9, 4, 0.1, 0.1, 2000).0, run(8, 4, 0.1, 0.1, 2000).0);
    }

    #[test]
    fn what_is_held_leaves_after_max_hold() {
        let (now, mut seen) = (clock::now(), 0);
        let mut impairer = Impairer::new(1, 0, 0.0, 1.0);
        impairer.offer(b"late", now, &mut |_| seen += 1);
        impairer.expire(now, &mut |_| seen += 1);
        assert_eq!(seen, 0);
        impairer.expire(now + MAX_HOLD, &mut |_| seen += 1);
        assert_eq!(seen, 1);
    }
}
