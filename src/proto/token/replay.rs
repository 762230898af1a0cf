//! Remembers which tokens were used, for at least as long as they would be good.
//!
//! Two sets: what was used in the current stretch of time, and in the one before. A stretch
//! is as long as a token lives, so that when a set is forgotten all its tokens have expired.

use super::Refusal;
use crate::time::Instant;

/// Slots of a set when it gets its first member.
const FIRST_SLOTS: usize = 64;

/// A bounded memory of 64-bit values that nobody can choose.
#[derive(Debug)]
pub(super) struct ReplayFilter {
    lifetime_ns: u64,
    capacity: usize,
    since: Option<Instant>,
    current: Set,
    previous: Set,
}

impl ReplayFilter {
    pub(super) fn new(lifetime_ns: u64, capacity: usize) -> Self {
        Self {
            lifetime_ns,
            capacity,
            since: None,
            current: Set::default(),
            previous: Set::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.current.len + self.previous.len
    }

    /// Remembers `id`, if it is new and there is room. When there is none the token is
    /// refused and what is remembered stays: forgetting would let old tokens in again.
    pub(super) fn insert(&mut self, now: Instant, id: u64) -> Result<(), Refusal> {
        self.turn(now);
        if self.current.contains(id) || self.previous.contains(id) {
            return Err(Refusal::Replayed);
        }
        if self.current.len >= self.capacity {
            return Err(Refusal::FilterFull);
        }
        self.current.insert(id);
        Ok(())
    }

    fn turn(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let age_ns = now.ns_since(since);
        if age_ns < self.lifetime_ns {
            return;
        }
        self.previous = core::mem::take(&mut self.current);
        if age_ns / 2 >= self.lifetime_ns {
            self.previous = Set::default();
        }
        self.since = Some(now);
    }
}

/// Open addressing, at most half full; 0 marks a free slot.
#[derive(Debug, Default)]
struct Set {
    slots: Vec<u64>,
    len: usize,
}

impl Set {
    /// Where `id` is, or the free slot where it would be. `None` while there are no slots.
    fn slot(&self, id: u64) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = id as usize & mask;
        // Half of the slots are free, so that this ends.
        while self.slots[at] != 0 && self.slots[at] != id {
            at = (at + 1) & mask;
        }
        Some(at)
    }

    fn contains(&self, id: u64) -> bool {
        let id = id.max(1);
        self.slot(id).is_some_and(|at| self.slots[at] == id)
    }

    fn insert(&mut self, id: u64) {
        if 2 * (self.len + 1) > self.slots.len() {
            self.grow();
        }
        self.put(id.max(1));
    }

    fn put(&mut self, id: u64) {
        if let Some(at) = self.slot(id)
            && self.slots[at] == 0
        {
            self.slots[at] = id;
            self.len += 1;
        }
    }

    fn grow(&mut self) {
        let slots = (2 * self.slots.len()).max(FIRST_SLOTS);
        let before = core::mem::replace(&mut self.slots, vec![0; slots]);
        self.len = 0;
        before.into_iter().filter(|id| *id != 0).for_each(|id| self.put(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ns: u64) -> Instant {
        Instant::from_nanos(ns)
    }

    #[test]
    fn each_value_once_while_it_lives() {
        let mut filter = ReplayFilter::new(100, 10);
        assert_eq!(filter.insert(at(1_000), 7), Ok(()));
        for now in 1_000..1_100 {
            assert_eq!(filter.insert(at(now), 7), Err(Refusal::Replayed), "{now}");
        }
        // Past its life the filter may forget it, and after two stretches it must have.
        assert_eq!(filter.insert(at(1_300), 8), Ok(()));
        assert_eq!(filter.len(), 1);
    }

    #[test]
    fn a_full_filter_refuses_and_forgets_nothing() {
        let mut filter = ReplayFilter::new(100, 3);
        for id in 2..5 {
            assert_eq!(filter.insert(at(0), id), Ok(()));
        }
        assert_eq!(filter.insert(at(1), 5), Err(Refusal::FilterFull));
        assert_eq!(filter.insert(at(1), 2), Err(Refusal::Replayed));
        assert_eq!(filter.insert(at(100), 5), Ok(()));
        assert_eq!(filter.insert(at(101), 2), Err(Refusal::Replayed));
        assert_eq!(filter.len(), 4);
    }

    #[test]
    fn memory_grows_with_use_and_stays_below_32_bytes_a_token() {
        let mut filter = ReplayFilter::new(u64::MAX, 100_000);
        assert_eq!(filter.current.slots.capacity(), 0);
        for id in 1..=100_000u64 {
            filter.insert(at(0), id.wrapping_mul(0x9e37_79b9_7f4a_7c15)).unwrap();
        }
        assert!(filter.current.slots.len() * 8 <= 32 * 100_000);
        assert_eq!(filter.len(), 100_000);
    }

    proptest! {
        #[test]
        fn a_value_is_never_taken_twice_within_its_life(
            steps in prop::collection::vec((0..40u64, 0..30u64), 0..300)
        ) {
            const LIFETIME_NS: u64 = 100;
            let mut filter = ReplayFilter::new(LIFETIME_NS, 12);
            let mut taken: Vec<(u64, u64)> = Vec::new();
            let mut now_ns = 0;
            for (wait_ns, id) in steps {
                now_ns += wait_ns;
                let lives = taken.iter().any(|(t, i)| *i == id && now_ns < t + LIFETIME_NS);
                let answer = filter.insert(at(now_ns), id);
                prop_assert!(!(lives && answer.is_ok()), "{id} twice");
                // 0 and 1 share a slot: values are hashes, where that is as rare as any
                // collision and costs one Retry.
                if answer == Err(Refusal::Replayed) && id > 1 {
                    prop_assert!(taken.iter().any(|(_, i)| *i == id));
                }
                if answer.is_ok() {
                    taken.push((now_ns, id));
                }
            }
        }
    }
}
