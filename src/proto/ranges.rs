//! A set of numbers kept as few ranges: which packets arrived, which bytes were acknowledged.
//!
//! Ranges are inclusive at both ends (`lo..=hi`, as in ACK frames), sorted, and never touch:
//! 1..=3 and 4..=6 are held as 1..=6. The number of ranges is bounded when the set is made,
//! so that a peer which leaves a gap between every two packets costs a known amount: at the
//! bound [`RangeSet::insert`] says [`Full`] and the caller decides what to forget, usually
//! with [`RangeSet::pop_min`].
//!
//! Up to `INLINE` ranges live in the set itself. The common case, a number that follows the
//! highest, changes one field.

use core::fmt;

/// Ranges held without heap memory.
pub(crate) const INLINE: usize = 2;

/// `lo..=hi`.
type Range = (u64, u64);

/// The set holds as many ranges as it may, and the change would have made one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the set holds as many ranges as it may")
    }
}

impl std::error::Error for Full {}

/// A bounded, sorted set of inclusive ranges.
#[derive(Clone)]
pub struct RangeSet {
    /// Most ranges that it may hold.
    cap: u32,
    /// Ranges in `inline`, if `heap` has no capacity; otherwise all are in `heap`.
    inline_len: u32,
    inline: [Range; INLINE],
    heap: Vec<Range>,
}

impl RangeSet {
    /// An empty set that will hold at most `cap` ranges, at least one.
    #[must_use]
    pub fn new(cap: usize) -> Self {
        let cap = u32::try_from(cap.max(1)).unwrap_or(u32::MAX);
        Self { cap, inline_len: 0, inline: [(0, 0); INLINE], heap: Vec::new() }
    }

    /// Bytes of heap held.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.heap.capacity() * size_of::<Range>()
    }

    fn is_spilled(&self) -> bool {
        self.heap.capacity() > 0
    }

    #[inline]
    fn ranges(&self) -> &[Range] {
        if self.is_spilled() { &self.heap } else { &self.inline[..self.inline_len as usize] }
    }

    #[inline]
    fn ranges_mut(&mut self) -> &mut [Range] {
        if self.is_spilled() {
            &mut self.heap
        } else {
            &mut self.inline[..self.inline_len as usize]
        }
    }

    /// Adds `lo..=hi`; says whether any of it was new. A range whose ends are in the wrong
    /// order is empty.
    ///
    /// # Errors
    /// [`Full`] if it touches no other range and there are as many as there may be; then
    /// nothing was changed.
    #[inline]
    pub fn insert(&mut self, lo: u64, hi: u64) -> Result<bool, Full> {
        if let Some(last) = self.ranges_mut().last_mut()
            && last.1.checked_add(1) == Some(lo)
            && lo <= hi
        {
            last.1 = hi;
            return Ok(true);
        }
        self.insert_anywhere(lo, hi)
    }

    fn insert_anywhere(&mut self, lo: u64, hi: u64) -> Result<bool, Full> {
        if lo > hi {
            return Ok(false);
        }
        // All of from..until overlap or touch lo..=hi, and become one with it.
        let ranges = self.ranges();
        let from = ranges.partition_point(|range| range.1.saturating_add(1) < lo);
        let until = from + ranges[from..].partition_point(|range| range.0 <= hi.saturating_add(1));
        if from == until {
            self.insert_at(from, (lo, hi))?;
            return Ok(true);
        }
        let (first, last) = (ranges[from], ranges[until - 1]);
        if first.0 <= lo && hi <= first.1 {
            return Ok(false);
        }
        self.ranges_mut()[from] = (first.0.min(lo), last.1.max(hi));
        self.remove_at(from + 1, until);
        Ok(true)
    }

    /// Takes `lo..=hi` out.
    ///
    /// # Errors
    /// [`Full`] if that would split a range in two and there are as many as there may be;
    /// then nothing was changed.
    pub fn remove(&mut self, lo: u64, hi: u64) -> Result<(), Full> {
        if lo > hi {
            return Ok(());
        }
        let ranges = self.ranges();
        let from = ranges.partition_point(|range| range.1 < lo);
        let until = from + ranges[from..].partition_point(|range| range.0 <= hi);
        if from == until {
            return Ok(());
        }
        // What stays of the first range before `lo`, and of the last after `hi`.
        let head = (ranges[from].0 < lo).then(|| (ranges[from].0, lo - 1));
        let tail = (ranges[until - 1].1 > hi).then(|| (hi + 1, ranges[until - 1].1));
        match (head, tail) {
            (Some(head), Some(tail)) if until - from == 1 => {
                self.insert_at(from + 1, tail)?;
                self.ranges_mut()[from] = head;
            }
            (head, tail) => {
                let mut at = from;
                for kept in [head, tail].into_iter().flatten() {
                    self.ranges_mut()[at] = kept;
                    at += 1;
                }
                self.remove_at(at, until);
            }
        }
        Ok(())
    }

    /// Takes out everything below `floor`.
    #[inline]
    pub fn remove_below(&mut self, floor: u64) {
        let gone = self.ranges().partition_point(|range| range.1 < floor);
        self.remove_at(0, gone);
        if let Some(first) = self.ranges_mut().first_mut() {
            first.0 = first.0.max(floor);
        }
    }

    /// Takes the lowest range out.
    pub fn pop_min(&mut self) -> Option<(u64, u64)> {
        let lowest = self.ranges().first().copied()?;
        self.remove_at(0, 1);
        Some(lowest)
    }

    /// Empties the set and keeps its memory.
    pub fn clear(&mut self) {
        self.inline_len = 0;
        self.heap.clear();
    }

    /// Gives heap memory back, as far as the ranges held allow.
    pub fn shrink(&mut self) {
        if self.heap.len() > INLINE {
            self.heap.shrink_to_fit();
            return;
        }
        if self.is_spilled() {
            let heap = core::mem::take(&mut self.heap);
            self.inline[..heap.len()].copy_from_slice(&heap);
            self.inline_len = heap.len() as u32;
        }
    }

    /// True if `value` is in the set.
    #[inline]
    #[must_use]
    pub fn contains(&self, value: u64) -> bool {
        let ranges = self.ranges();
        // Most questions are about the highest range or beyond it.
        match ranges.last() {
            None => return false,
            Some(last) if value > last.1 => return false,
            Some(last) if value >= last.0 => return true,
            Some(_) => {}
        }
        let at = ranges.partition_point(|range| range.1 < value);
        ranges.get(at).is_some_and(|range| range.0 <= value)
    }

    /// The lowest number.
    #[must_use]
    pub fn min(&self) -> Option<u64> {
        self.ranges().first().map(|range| range.0)
    }

    /// The highest number.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        self.ranges().last().map(|range| range.1)
    }

    /// How many ranges there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges().len()
    }

    /// True if there is no range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges().is_empty()
    }

    /// True if one more range, apart from all others, would be refused.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() >= self.cap as usize
    }

    /// The ranges as (lowest, highest), ascending; `.rev()` gives them descending, as ACK
    /// frames want them.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter(self.ranges().iter())
    }

    fn insert_at(&mut self, at: usize, range: Range) -> Result<(), Full> {
        if self.is_full() {
            return Err(Full);
        }
        if self.is_spilled() {
            self.heap.insert(at, range);
            return Ok(());
        }
        let len = self.inline_len as usize;
        if len < INLINE {
            self.inline.copy_within(at..len, at + 1);
            self.inline[at] = range;
            self.inline_len += 1;
            return Ok(());
        }
        self.heap.reserve(2 * INLINE);
        self.heap.extend_from_slice(&self.inline);
        self.heap.insert(at, range);
        self.inline_len = 0;
        Ok(())
    }

    fn remove_at(&mut self, from: usize, until: usize) {
        if from >= until {
            return;
        }
        if self.is_spilled() {
            self.heap.drain(from..until);
            return;
        }
        self.inline.copy_within(until..self.inline_len as usize, from);
        self.inline_len -= (until - from) as u32;
    }
}

impl fmt::Debug for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|(lo, hi)| lo..=hi)).finish()
    }
}

impl<'a> IntoIterator for &'a RangeSet {
    type Item = (u64, u64);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// The ranges of a [`RangeSet`].
#[derive(Clone, Debug)]
pub struct Iter<'a>(core::slice::Iter<'a, Range>);

impl Iterator for Iter<'_> {
    type Item = (u64, u64);

    #[inline]
    fn next(&mut self) -> Option<(u64, u64)> {
        self.0.next().copied()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl DoubleEndedIterator for Iter<'_> {
    #[inline]
    fn next_back(&mut self) -> Option<(u64, u64)> {
        self.0.next_back().copied()
    }
}

impl ExactSizeIterator for Iter<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn ranges(set: &RangeSet) -> Vec<(u64, u64)> {
        set.iter().collect()
    }

    #[test]
    fn neighbours_become_one() {
        let mut set = RangeSet::new(8);
        assert_eq!(set.insert(4, 6), Ok(true));
        assert_eq!(set.insert(1, 3), Ok(true));
        assert_eq!(set.insert(8, 9), Ok(true));
        assert_eq!(ranges(&set), [(1, 6), (8, 9)]);
        assert_eq!(set.insert(7, 7), Ok(true));
        assert_eq!(ranges(&set), [(1, 9)]);
        assert_eq!(set.insert(2, 9), Ok(false));
        assert_eq!(set.insert(5, 4), Ok(false));
    }

    #[test]
    fn a_full_set_still_takes_what_touches() {
        let mut set = RangeSet::new(2);
        set.insert(10, 10).unwrap();
        set.insert(20, 20).unwrap();
        assert!(set.is_full());
        assert_eq!(set.insert(15, 15), Err(Full));
        assert_eq!(set.insert(0, 0), Err(Full));
        assert_eq!(set.insert(30, 30), Err(Full));
        assert_eq!(ranges(&set), [(10, 10), (20, 20)]);
        assert_eq!(set.insert(21, 25), Ok(true));
        assert_eq!(set.remove(22, 23), Err(Full));
        assert_eq!(set.insert(9, 9), Ok(true));
        assert_eq!(ranges(&set), [(9, 10), (20, 25)]);
        assert_eq!(set.insert(0, 100), Ok(true));
        assert_eq!(ranges(&set), [(0, 100)]);
    }

    #[test]
    fn the_ends_of_the_number_line() {
        let mut set = RangeSet::new(8);
        set.insert(u64::MAX, u64::MAX).unwrap();
        set.insert(0, 0).unwrap();
        assert_eq!(set.insert(u64::MAX, u64::MAX), Ok(false));
        assert!(set.contains(0) && set.contains(u64::MAX) && !set.contains(1));
        set.insert(0, u64::MAX).unwrap();
        assert_eq!(ranges(&set), [(0, u64::MAX)]);
        set.remove(0, 0).unwrap();
        set.remove(u64::MAX, u64::MAX).unwrap();
        assert_eq!(ranges(&set), [(1, u64::MAX - 1)]);
        set.remove_below(u64::MAX);
        assert!(set.is_empty());
    }

    #[test]
    fn memory_is_inline_then_heap_then_inline_again() {
        let mut set = RangeSet::new(64);
        for i in 0..INLINE as u64 {
            set.insert(10 * i, 10 * i).unwrap();
        }
        assert_eq!(set.heap.capacity(), 0);
        set.insert(1_000, 1_000).unwrap();
        assert!(set.heap.capacity() > 0);
        assert_eq!(set.pop_min(), Some((0, 0)));
        set.shrink();
        assert_eq!(set.heap.capacity(), 0);
        let left = (1..INLINE as u64).map(|i| 10 * i).chain([1_000]);
        assert_eq!(ranges(&set), left.map(|number| (number, number)).collect::<Vec<_>>());
    }

    #[test]
    fn appending_in_order_keeps_one_range() {
        let mut set = RangeSet::new(1);
        for pn in 0..10_000 {
            assert_eq!(set.insert(pn, pn), Ok(true));
        }
        assert_eq!(ranges(&set), [(0, 9_999)]);
        assert_eq!((set.min(), set.max()), (Some(0), Some(9_999)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64, u64),
        Remove(u64, u64),
        RemoveBelow(u64),
        PopMin,
        Shrink,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let range = (0..120u64, 0..12u64);
        let step = prop_oneof![
            6 => range.clone().prop_map(|(lo, len)| Step::Insert(lo, lo + len)),
            3 => range.prop_map(|(lo, len)| Step::Remove(lo, lo + len)),
            1 => (0..120u64).prop_map(Step::RemoveBelow),
            1 => Just(Step::PopMin),
            1 => Just(Step::Shrink),
        ];
        prop::collection::vec(step, 0..80)
    }

    /// The ranges of a plain set of numbers.
    fn model_ranges(model: &BTreeSet<u64>) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for &value in model {
            match ranges.last_mut() {
                Some(last) if last.1 + 1 == value => last.1 = value,
                _ => ranges.push((value, value)),
            }
        }
        ranges
    }

    proptest! {
        #[test]
        fn behaves_as_a_plain_set_of_numbers(steps in steps(), cap in 1..12usize) {
            let mut set = RangeSet::new(cap);
            let mut model: BTreeSet<u64> = BTreeSet::new();
            for step in steps {
                let mut wanted = model.clone();
                let done = match step {
                    Step::Insert(lo, hi) => {
                        wanted.extend(lo..=hi);
                        let done = set.insert(lo, hi);
                        if let Ok(new) = done {
                            prop_assert_eq!(new, wanted.len() > model.len());
                        }
                        done.is_ok()
                    }
                    Step::Remove(lo, hi) => {
                        wanted.retain(|value| !(lo..=hi).contains(value));
                        set.remove(lo, hi).is_ok()
                    }
                    Step::RemoveBelow(floor) => {
                        wanted = wanted.split_off(&floor);
                        set.remove_below(floor);
                        true
                    }
                    Step::PopMin => {
                        let lowest = model_ranges(&wanted).first().copied();
                        prop_assert_eq!(set.pop_min(), lowest);
                        if let Some((lo, hi)) = lowest {
                            wanted.retain(|value| !(lo..=hi).contains(value));
                        }
                        true
                    }
                    Step::Shrink => {
                        set.shrink();
                        true
                    }
                };
                // It refuses exactly what would be one range too many.
                prop_assert_eq!(done, model_ranges(&wanted).len() <= cap);
                if done {
                    model = wanted;
                }
                let expected = model_ranges(&model);
                prop_assert_eq!(ranges(&set), expected.clone());
                let backwards: Vec<_> = set.iter().rev().collect();
                prop_assert_eq!(backwards, expected.into_iter().rev().collect::<Vec<_>>());
                prop_assert_eq!((set.min(), set.max()),
                    (model.first().copied(), model.last().copied()));
                for value in 0..140 {
                    prop_assert_eq!(set.contains(value), model.contains(&value));
                }
            }
        }
    }
}
