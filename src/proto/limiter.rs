//! At most so many in a second.

use crate::time::{Instant, MILLISECOND_NS, SECOND_NS};

/// What was not used is kept for so long: a burst of a tenth of a second's worth passes.
const BURST_NS: u64 = 100 * MILLISECOND_NS;

/// A bucket that fills evenly. Who counts by the second instead answers at the beginning of each
/// second and is silent for the rest of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limiter {
    /// How long the bucket needs for one; `None`: it never fills.
    each_ns: Option<u64>,
    /// When all that was taken is paid for.
    paid_at: Instant,
}

impl Limiter {
    /// At most `per_second`, for ever; 0 allows nothing.
    pub(crate) fn new(per_second: u32) -> Self {
        Self { each_ns: SECOND_NS.checked_div(per_second.into()), paid_at: Instant::EPOCH }
    }

    /// Takes one, if there is one.
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        let next = self.next(now);
        self.paid_at = next.unwrap_or(self.paid_at);
        next.is_some()
    }

    /// True if there is one.
    pub(crate) fn has_one(&self, now: Instant) -> bool {
        self.next(now).is_some()
    }

    /// True if it would not differ from a new one.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.paid_at <= now
    }

    /// When all is paid for if one is taken; `None` if there is none.
    fn next(&self, now: Instant) -> Option<Instant> {
        let each_ns = self.each_ns?;
        let paid_at = self.paid_at.max(now).plus_ns(each_ns);
        (paid_at.ns_since(now) <= BURST_NS.max(each_ns)).then_some(paid_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(limiter: &mut Limiter, now: Instant, asked: u32) -> u32 {
        (0..asked).filter(|_| limiter.allow(now)).count() as u32
    }

    #[test]
    fn a_burst_passes_and_the_rest_evenly() {
        let mut limiter = Limiter::new(1_000);
        let begin = Instant::from_nanos(SECOND_NS);
        assert_eq!(allowed(&mut limiter, begin, 5_000), 100);
        let mut later = Vec::new();
        for ms in 1..=1_000 {
            later.push(allowed(&mut limiter, begin.plus_ns(ms * MILLISECOND_NS), 50));
        }
        assert!(later.iter().all(|count| *count == 1), "{later:?}");
        assert_eq!(allowed(&mut limiter, begin.plus_ns(10 * SECOND_NS), 5_000), 100);
    }

    #[test]
    fn one_in_a_second_is_one_and_none_is_none() {
        let mut one = Limiter::new(1);
        let begin = Instant::from_nanos(SECOND_NS);
        assert_eq!(allowed(&mut one, begin, 3), 1);
        assert_eq!(allowed(&mut one, begin.plus_ns(SECOND_NS), 3), 1);
        assert_eq!(allowed(&mut Limiter::new(0), begin, 3), 0);
    }
}
