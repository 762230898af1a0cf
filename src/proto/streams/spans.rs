//! Sets of byte ranges: what arrived, what was acknowledged, what was lost.
//!
//! Half-open, sorted, disjoint and never touching. A stream that loses nothing has none of
//! these; one that loses a packet has one or two spans, and grows them at an end. So both ends
//! are the fast path, and a hostile middle costs at most a move of half the spans: every owner
//! bounds how many there are.

use std::collections::VecDeque;

/// Spans for which a set that is kept for later keeps memory.
const SPANS_KEPT: usize = 16;

/// The bytes `lo..hi`; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// First byte.
    pub(super) lo: u64,
    /// One past the last byte.
    pub(super) hi: u64,
}

/// A sorted set of disjoint spans.
#[derive(Debug, Default)]
pub(super) struct Spans {
    spans: VecDeque<Span>,
}

impl Spans {
    /// No spans, no heap.
    pub(super) const fn new() -> Self {
        Self { spans: VecDeque::new() }
    }

    /// How many spans there are.
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The lowest span.
    pub(super) fn first(&self) -> Option<Span> {
        self.spans.front().copied()
    }

    /// The highest span.
    pub(super) fn last(&self) -> Option<Span> {
        self.spans.back().copied()
    }

    /// Adds `lo..hi`, joining whatever it overlaps or adjoins.
    pub(super) fn insert(&mut self, lo: u64, hi: u64) {
        debug_assert!(lo < hi, "an empty span");
        if let Some(last) = self.spans.back_mut()
            && lo >= last.lo
            && lo <= last.hi
        {
            last.hi = last.hi.max(hi);
            return;
        }
        let from = self.spans.partition_point(|span| span.hi < lo);
        let joined = self.spans.range(from..).take_while(|span| span.lo <= hi).count();
        if joined == 0 {
            self.make_room();
            self.spans.insert(from, Span { lo, hi });
            return;
        }
        let last_hi = self.spans[from + joined - 1].hi;
        let span = &mut self.spans[from];
        *span = Span { lo: span.lo.min(lo), hi: last_hi.max(hi) };
        if joined > 1 {
            self.spans.drain(from + 1..from + joined);
        }
    }

    /// Takes `lo..hi` out, splitting the span around it if there is one.
    pub(super) fn remove(&mut self, lo: u64, hi: u64) {
        if lo >= hi {
            return;
        }
        let mut at = self.spans.partition_point(|span| span.hi <= lo);
        let Some(&first) = self.spans.get(at) else { return };
        if first.lo < lo {
            self.spans[at].hi = lo;
            at += 1;
            if first.hi > hi {
                self.make_room();
                self.spans.insert(at, Span { lo: hi, hi: first.hi });
                return;
            }
        }
        let covered = self.spans.range(at..).take_while(|span| span.hi <= hi).count();
        self.spans.drain(at..at + covered);
        if let Some(span) = self.spans.get_mut(at) {
            span.lo = span.lo.max(hi);
        }
    }

    /// Takes everything below `at` out.
    pub(super) fn remove_below(&mut self, at: u64) {
        while let Some(first) = self.spans.front_mut() {
            if first.lo >= at {
                return;
            }
            if first.hi > at {
                first.lo = at;
                return;
            }
            self.spans.pop_front();
        }
    }

    /// Whether `at` is in the set.
    pub(super) fn contains(&self, at: u64) -> bool {
        let place = self.spans.partition_point(|span| span.hi <= at);
        self.spans.get(place).is_some_and(|span| span.lo <= at)
    }

    /// Whether adding `lo..hi` would join a span rather than make a new one.
    pub(super) fn touches(&self, lo: u64, hi: u64) -> bool {
        let at = self.spans.partition_point(|span| span.hi < lo);
        self.spans.get(at).is_some_and(|span| span.lo <= hi)
    }

    /// The parts of `lo..hi` that are not in the set, ascending.
    pub(super) fn uncovered(&self, lo: u64, hi: u64) -> impl Iterator<Item = Span> + '_ {
        let mut at = self.spans.partition_point(|span| span.hi <= lo);
        let mut from = lo;
        std::iter::from_fn(move || {
            while from < hi {
                let next = self.spans.get(at).copied().unwrap_or(Span { lo: hi, hi });
                at += 1;
                let gap = Span { lo: from, hi: next.lo.min(hi) };
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
        self.spans.clear();
        self.spans.shrink_to(SPANS_KEPT);
    }

    /// Gives unused memory back.
    pub(super) fn shrink(&mut self) {
        self.spans.shrink_to_fit();
    }

    /// Bytes of heap held.
    pub(super) fn heap_bytes(&self) -> usize {
        self.spans.capacity() * size_of::<Span>()
    }

    /// Grows by a quarter, not by doubling: the bound on memory of a fragmented stream counts
    /// these bytes too.
    fn make_room(&mut self) {
        let len = self.spans.len();
        if len == self.spans.capacity() {
            self.spans.reserve_exact((len / 4).max(4));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPACE: u64 = 64;

    fn members(spans: &Spans) -> Vec<u64> {
        (0..SPACE).filter(|&at| spans.contains(at)).collect()
    }

    fn check_shape(spans: &Spans) {
        let all: Vec<Span> = spans.spans.iter().copied().collect();
        assert!(all.iter().all(|span| span.lo < span.hi), "empty span in {all:?}");
        assert!(all.windows(2).all(|two| two[0].hi < two[1].lo), "touching spans in {all:?}");
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_bytes(
            steps in prop::collection::vec((0..3u8, 0..SPACE, 1..12u64), 1..60),
        ) {
            let mut spans = Spans::new();
            let mut model = std::collections::BTreeSet::new();
            for (kind, lo, len) in steps {
                let hi = (lo + len).min(SPACE);
                let absent: Vec<u64> = (lo..hi).filter(|at| !model.contains(at)).collect();
                let uncovered: Vec<u64> =
                    spans.uncovered(lo, hi).flat_map(|gap| gap.lo..gap.hi).collect();
                prop_assert_eq!(uncovered, absent);
                let near = (lo.saturating_sub(1)..=hi).any(|at| model.contains(&at));
                prop_assert_eq!(spans.touches(lo, hi), near);
                match kind {
                    0 => { spans.insert(lo, hi); model.extend(lo..hi); }
                    1 => { spans.remove(lo, hi); model.retain(|at| !(lo..hi).contains(at)); }
                    _ => { spans.remove_below(lo); model.retain(|&at| at >= lo); }
                }
                check_shape(&spans);
                prop_assert_eq!(members(&spans), model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(spans.first().map(|span| span.lo), model.first().copied());
            }
        }
    }

    #[test]
    fn growth_is_by_a_quarter() {
        let mut spans = Spans::new();
        for at in 0..1000 {
            spans.insert(at * 2, at * 2 + 1);
        }
        assert_eq!(spans.len(), 1000);
        assert!(spans.heap_bytes() <= 1000 * size_of::<Span>() * 5 / 4 + 64);
    }
}
