//! Remembers which tokens were used, for as long as they would be good.
//!
//! The memory is exact: a token that was taken once is never taken again. It is bounded: when it is
//! full it forgets the tokens that were issued first. From then on it takes no token that was issued
//! no later than those. So many used tokens shorten the time for which others' tokens are good, and
//! never make them worthless. No source has more than a share of it ([`SHARE`]), so that this takes
//! many addresses; the tokens of a source beyond its share count as no token.

use super::Refusal;
use crate::proto::source::Source;
use crate::time::Instant;
use std::collections::BTreeMap;

/// Used tokens that are remembered of one source: what many clients behind one address use in the
/// lifetime of a token, and a thousandth of the whole.
const SHARE: u32 = 64;

/// A token that was found good, as it is remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    pub(super) issued: Instant,
    /// 64 bits that a client cannot choose.
    pub(super) id: u64,
    pub(super) source: Source,
}

/// A bounded memory of used tokens.
#[derive(Debug)]
pub(super) struct ReplayFilter {
    lifetime_ns: u64,
    capacity: usize,
    /// In the order in which they were issued.
    used: BTreeMap<(Instant, u64), Source>,
    by_source: BTreeMap<Source, u32>,
    /// Tokens that were issued until then are not taken any more.
    forgotten: Option<Instant>,
}

impl ReplayFilter {
    pub(super) fn new(lifetime_ns: u64, capacity: usize) -> Self {
        let (used, by_source) = (BTreeMap::new(), BTreeMap::new());
        Self { lifetime_ns, capacity, used, by_source, forgotten: None }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.used.len()
    }

    /// Remembers a token, if it is new and can be told from the forgotten ones.
    pub(super) fn insert(&mut self, now: Instant, token: Used) -> Result<(), Refusal> {
        self.expire(now);
        if self.forgotten.is_some_and(|until| token.issued <= until) {
            return Err(Refusal::FilterFull);
        }
        if self.used.contains_key(&(token.issued, token.id)) {
            return Err(Refusal::Replayed);
        }
        if self.by_source.get(&token.source).is_some_and(|count| *count >= SHARE) {
            return Err(Refusal::FilterFull);
        }
        if self.used.len() >= self.capacity {
            let first = self.used.first_key_value().map(|((issued, _), _)| *issued);
            if first.is_none_or(|first| token.issued <= first) {
                return Err(Refusal::FilterFull);
            }
            self.forget_first();
        }
        self.used.insert((token.issued, token.id), token.source);
        *self.by_source.entry(token.source).or_default() += 1;
        Ok(())
    }

    /// Forgets what its time alone makes worthless.
    fn expire(&mut self, now: Instant) {
        while let Some(((issued, _), _)) = self.used.first_key_value()
            && issued.plus_ns(self.lifetime_ns) <= now
        {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some(((issued, _), source)) = self.used.pop_first() else { return };
        self.forgotten = Some(issued);
        if let Some(count) = self.by_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ns: u64) -> Instant {
        Instant::from_nanos(ns)
    }

    fn token(issued_ns: u64, id: u64, address: u32) -> Used {
        Used { issued: at(issued_ns), id, source: Source::V4(address) }
    }

    #[test]
    fn each_token_once_while_it_lives() {
        let mut filter = ReplayFilter::new(100, 10);
        assert_eq!(filter.insert(at(1_000), token(1_000, 7, 1)), Ok(()));
        for now in 1_000..1_100 {
            let again = filter.insert(at(now), token(1_000, 7, 1));
            assert_eq!(again, Err(Refusal::Replayed), "{now}");
        }
        assert_eq!(filter.insert(at(1_100), token(1_050, 8, 1)), Ok(()));
        assert_eq!(filter.len(), 1, "what has expired is forgotten");
        assert!(filter.insert(at(1_100), token(1_000, 7, 1)).is_err(), "and not taken again");
    }

    /// ATTACKS row 69.
    #[test]
    fn attack_69_a_full_filter_forgets_the_oldest_and_takes_none_of_them_again() {
        let mut filter = ReplayFilter::new(1_000, 3);
        for n in 0..3 {
            assert_eq!(filter.insert(at(10), token(n, n, n as u32)), Ok(()));
        }
        for n in 3..100 {
            // A client with a fresh token gets in, however many others have.
            assert_eq!(filter.insert(at(10 + n), token(n, n, n as u32)), Ok(()), "{n}");
            assert_eq!(filter.len(), 3);
            for old in 0..=n {
                assert!(filter.insert(at(10 + n), token(old, old, 7)).is_err(), "{old} of {n}");
            }
        }
    }

    /// ATTACKS row 69: one address cannot shorten the time of others' tokens.
    #[test]
    fn attack_69_one_source_has_a_share_of_the_filter() {
        let mut filter = ReplayFilter::new(u64::MAX, 10_000);
        let taken = (0..100_000).filter(|n| filter.insert(at(*n), token(*n, *n, 1)).is_ok());
        assert_eq!(taken.count(), SHARE as usize);
        // The oldest token of another source is as good as ever.
        assert_eq!(filter.insert(at(100_000), token(0, 9, 2)), Ok(()));
        assert_eq!(filter.len(), SHARE as usize + 1);
    }

    proptest! {
        #[test]
        fn attack_69_a_token_is_never_taken_twice_within_its_life(
            capacity in 1..12_usize,
            steps in prop::collection::vec((0..30u64, 0..40u64, 0..60u64), 0..300)
        ) {
            const LIFETIME_NS: u64 = 100;
            let mut filter = ReplayFilter::new(LIFETIME_NS, capacity);
            let mut taken = std::collections::BTreeSet::new();
            let mut now_ns = 1_000;
            for (wait_ns, id, age_ns) in steps {
                now_ns += wait_ns;
                let used = token(now_ns - age_ns, id, id as u32 % 3);
                if filter.insert(at(now_ns), used).is_ok() {
                    prop_assert!(taken.insert((used.issued, id)), "{id} twice");
                }
                prop_assert!(filter.len() <= capacity);
                let counted: u32 = filter.by_source.values().sum();
                prop_assert_eq!(counted as usize, filter.len());
            }
        }
    }
}
