//! Sets of byte ranges: what of a stream arrived, was acknowledged, or was lost.
//!
//! Half-open, sorted, disjoint and never touching. A stream that loses nothing has none of
//! these; one that loses a packet has one or two ranges, and grows them at an end. So both ends
//! are the fast path, and a hostile middle costs at most a move of half the ranges: every owner
//! bounds how many there are.

use std::collections::VecDeque;

/// Ranges for which a set that is kept for later keeps memory.
const RANGES_KEPT: usize = 16;

/// The bytes `lo..hi`; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ByteRange {
    /// First byte.
    pub(super) lo: u64,
    /// One past the last byte.
    pub(super) hi: u64,
}

/// A sorted set of disjoint ranges.
#[derive(Debug, Default)]
pub(super) struct ByteRanges {
    ranges: VecDeque<ByteRange>,
}

impl ByteRanges {
    /// No ranges, no heap.
    pub(super) const fn new() -> Self {
        Self { ranges: VecDeque::new() }
    }

    /// How many ranges there are.
    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// True if there are no ranges.
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The lowest range.
    pub(super) fn first(&self) -> Option<ByteRange> {
        self.ranges.front().copied()
    }

    /// The highest range.
    pub(super) fn last(&self) -> Option<ByteRange> {
        self.ranges.back().copied()
    }

    /// Adds `lo..hi`, joining whatever it overlaps or adjoins.
    pub(super) fn insert(&mut self, lo: u64, hi: u64) {
        debug_assert!(lo < hi, "an empty range");
        if let Some(last) = self.ranges.back_mut()
            && lo >= last.lo
            && lo <= last.hi
        {
            last.hi = last.hi.max(hi);
            return;
        }
        let from = self.ranges.partition_point(|range| range.hi < lo);
        let joined = self.ranges.range(from..).take_while(|range| range.lo <= hi).count();
        if joined == 0 {
            self.make_room();
            self.ranges.insert(from, ByteRange { lo, hi });
            return;
        }
        let last_hi = self.ranges[from + joined - 1].hi;
        let range = &mut self.ranges[from];
        *range = ByteRange { lo: range.lo.min(lo), hi: last_hi.max(hi) };
        if joined > 1 {
            self.ranges.drain(from + 1..from + joined);
        }
    }

    /// Takes `lo..hi` out, splitting the range around it if there is one.
    pub(super) fn remove(&mut self, lo: u64, hi: u64) {
        if lo >= hi {
            return;
        }
        let mut at = self.ranges.partition_point(|range| range.hi <= lo);
        let Some(&first) = self.ranges.get(at) else { return };
        if first.lo < lo {
            self.ranges[at].hi = lo;
            at += 1;
            if first.hi > hi {
                self.make_room();
                self.ranges.insert(at, ByteRange { lo: hi, hi: first.hi });
                return;
            }
        }
        let covered = self.ranges.range(at..).take_while(|range| range.hi <= hi).count();
        self.ranges.drain(at..at + covered);
        if let Some(range) = self.ranges.get_mut(at) {
            range.lo = range.lo.max(hi);
        }
    }

    /// Takes everything below `at` out.
    pub(super) fn remove_below(&mut self, at: u64) {
        while let Some(first) = self.ranges.front_mut() {
            if first.lo >= at {
                return;
            }
            if first.hi > at {
                first.lo = at;
                return;
            }
            self.ranges.pop_front();
        }
    }

    /// True if `at` is in the set.
    pub(super) fn contains(&self, at: u64) -> bool {
        let place = self.ranges.partition_point(|range| range.hi <= at);
        self.ranges.get(place).is_some_and(|range| range.lo <= at)
    }

    /// True if adding `lo..hi` would join a range rather than make a new one.
    pub(super) fn touches(&self, lo: u64, hi: u64) -> bool {
        let at = self.ranges.partition_point(|range| range.hi < lo);
        self.ranges.get(at).is_some_and(|range| range.lo <= hi)
    }

    /// The parts of `lo..hi` that are not in the set, ascending.
    pub(super) fn uncovered(&self, lo: u64, hi: u64) -> impl Iterator<Item = ByteRange> + '_ {
        let mut at = self.ranges.partition_point(|range| range.hi <= lo);
        let mut from = lo;
        std::iter::from_fn(move || {
            while from < hi {
                let next = self.ranges.get(at).copied().unwrap_or(ByteRange { lo: hi, hi });
                at += 1;
                let gap = ByteRange { lo: from, hi: next.lo.min(hi) };
                from = next.hi;
                if gap.lo < gap.hi {
                    return Some(gap);
                }
            }
            None
        })
    }

    /// Takes everything out; keeps a little memory for the next use.
    pub(super) fn recycle(&mut self) {
        self.ranges.clear();
        self.ranges.shrink_to(RANGES_KEPT);
    }

    /// Gives unused memory back.
    pub(super) fn shrink(&mut self) {
        self.ranges.shrink_to_fit();
    }

    /// Bytes of heap held.
    pub(super) fn heap_bytes(&self) -> usize {
        self.ranges.capacity() * size_of::<ByteRange>()
    }

    /// Grows by a quarter, not by doubling: the bound on memory of a fragmented stream counts
    /// these bytes too.
    fn make_room(&mut self) {
        let len = self.ranges.len();
        if len == self.ranges.capacity() {
            self.ranges.reserve_exact((len / 4).max(4));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPACE: u64 = 64;

    fn members(ranges: &ByteRanges) -> Vec<u64> {
        (0..SPACE).filter(|&at| ranges.contains(at)).collect()
    }

    fn check_shape(ranges: &ByteRanges) {
        let all: Vec<ByteRange> = ranges.ranges.iter().copied().collect();
        assert!(all.iter().all(|range| range.lo < range.hi), "empty range in {all:?}");
        assert!(all.windows(2).all(|two| two[0].hi < two[1].lo), "touching ranges in {all:?}");
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_bytes(
            steps in prop::collection::vec((0..3u8, 0..SPACE, 1..12u64), 1..60),
        ) {
            let mut ranges = ByteRanges::new();
            let mut model = std::collections::BTreeSet::new();
            for (kind, lo, len) in steps {
                let hi = (lo + len).min(SPACE);
                let absent: Vec<u64> = (lo..hi).filter(|at| !model.contains(at)).collect();
                let uncovered: Vec<u64> =
                    ranges.uncovered(lo, hi).flat_map(|gap| gap.lo..gap.hi).collect();
                prop_assert_eq!(uncovered, absent);
                let near = (lo.saturating_sub(1)..=hi).any(|at| model.contains(&at));
                prop_assert_eq!(ranges.touches(lo, hi), near);
                match kind {
                    0 => { ranges.insert(lo, hi); model.extend(lo..hi); }
                    1 => { ranges.remove(lo, hi); model.retain(|at| !(lo..hi).contains(at)); }
                    _ => { ranges.remove_below(lo); model.retain(|&at| at >= lo); }
                }
                check_shape(&ranges);
                prop_assert_eq!(members(&ranges), model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(ranges.first().map(|range| range.lo), model.first().copied());
            }
        }
    }

    #[test]
    fn growth_is_by_a_quarter() {
        let mut ranges = ByteRanges::new();
        for at in 0..1000 {
            ranges.insert(at * 2, at * 2 + 1);
        }
        assert_eq!(ranges.len(), 1000);
        assert!(ranges.heap_bytes() <= 1000 * size_of::<ByteRange>() * 5 / 4 + 64);
    }
}
