//! Flow control, the numbers alone (RFC 9000 §4.1, §4.2).
//!
//! The same two counters serve a stream and the whole connection: a [`Window`] for what we
//! grant, a [`Credit`] for what we were granted. At the connection's level the "offset" is the
//! sum of the largest offsets of all streams.

use crate::time::Instant;
use crate::wire::VARINT_MAX;

/// What we grant the peer: bytes below `max` may be sent to us.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// Largest offset received; what lies below counts against `max` whether it arrived or not.
    pub(super) received: u64,
    /// Offset up to which the application took the bytes, or we threw them away.
    pub(super) consumed: u64,
    /// Largest offset that we allowed.
    pub(super) max: u64,
    /// How far ahead of `consumed` we allow. A window that tunes itself to the path moves this, and
    /// nothing else.
    pub(super) size: u64,
}

impl Window {
    /// A window that starts at offset 0.
    #[inline]
    pub(super) fn new(size: u64) -> Self {
        let size = size.min(VARINT_MAX);
        Self { received: 0, consumed: 0, max: size, size }
    }

    /// How far a frame that ends at `end` moves the largest offset.
    #[inline]
    pub(super) const fn rise(&self, end: u64) -> u64 {
        end.saturating_sub(self.received)
    }

    /// True if the peer should get a higher limit: half the window was consumed.
    ///
    /// Less often, and a sender at full speed would stall; more often costs frames for nothing
    /// (RFC 9000 §4.2).
    #[inline]
    pub(super) fn update_due(&self) -> bool {
        self.target() - self.max >= (self.size / 2).max(1)
    }

    /// Moves `max` to what may be granted now, and returns it.
    pub(super) fn grant(&mut self) -> u64 {
        self.max = self.target();
        self.max
    }

    /// What would be granted now; never below what was granted before.
    #[inline]
    fn target(&self) -> u64 {
        self.consumed.saturating_add(self.size).min(VARINT_MAX).max(self.max)
    }
}

/// Tunes a [`Window`] to bandwidth times delay: one of which the application takes a whole size within two
/// round trips held the sender up, or soon will, and doubles.
///
/// It is asked whenever a higher limit is granted, and measures over a round trip or more: an application
/// that slept, and then takes all that waits at once, is not a fast one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuning {
    /// When the measurement began; `NEVER` before the first.
    began: Instant,
    /// What was consumed then, and what was thrown away since: the application took neither.
    consumed: u64,
}

impl Tuning {
    /// Nothing was measured.
    pub(super) const NEW: Self = Self { began: Instant::NEVER, consumed: 0 };

    /// The window opened for bytes that the application did not take: they were thrown away. A peer that
    /// resets what it sends has no larger window for it.
    #[inline]
    pub(super) fn leave_out(&mut self, bytes: u64) {
        self.consumed += bytes;
    }

    /// A higher limit is about to be granted. Doubles the window, up to `limit`, if it is used up that
    /// fast; says whether it did.
    pub(super) fn tune(&mut self, window: &mut Window, limit: u64, clock: &Clock) -> bool {
        let limit = limit.min(VARINT_MAX);
        if window.size >= limit || clock.rtt_ns == 0 {
            return false;
        }
        let since = if self.began == Instant::NEVER { None } else { Some(self.began) };
        let elapsed_ns = since.map(|began| clock.now.ns_since(began));
        if elapsed_ns.is_some_and(|elapsed_ns| elapsed_ns < clock.rtt_ns) {
            return false;
        }
        let consumed = window.consumed - self.consumed;
        *self = Self { began: clock.now, consumed: window.consumed };
        let Some(elapsed_ns) = elapsed_ns else { return false };
        let taken = u128::from(consumed) * 2 * u128::from(clock.rtt_ns);
        let grows = taken >= u128::from(window.size) * u128::from(elapsed_ns);
        if grows {
            window.size = window.size.saturating_mul(2).min(limit);
        }
        grows
    }
}

/// What time it is, and how long a round trip takes at least: 0 as long as that is not known, and no
/// window grows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) now: Instant,
    pub(super) rtt_ns: u64,
}

/// What the peer granted us at the connection's level.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Credit {
    /// New bytes sent on all streams.
    pub(super) used: u64,
    /// The peer's limit for them.
    pub(super) max: u64,
}

impl Credit {
    /// Bytes that may still be sent.
    #[inline]
    pub(super) const fn left(&self) -> u64 {
        self.max.saturating_sub(self.used)
    }

    /// Takes a new limit; says whether it is larger than before (RFC 9000 §4.1: a smaller one
    /// is no error, frames arrive out of order).
    pub(super) fn raise(&mut self, max: u64) -> bool {
        let higher = max > self.max;
        self.max = self.max.max(max);
        higher
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn update_falls_due_at_half_the_window() {
        let mut window = Window::new(100);
        window.consumed = 49;
        assert!(!window.update_due());
        window.consumed = 50;
        assert!(window.update_due());
        assert_eq!(window.grant(), 150);
        assert!(!window.update_due());
    }

    #[test]
    fn tiny_and_huge_windows_neither_stall_nor_overflow() {
        let mut one = Window::new(1);
        assert!(!one.update_due());
        one.consumed = 1;
        assert!(one.update_due());
        let mut none = Window::new(0);
        assert!(!none.update_due());
        assert_eq!(none.grant(), 0);
        let mut huge = Window::new(u64::MAX);
        assert_eq!(huge.max, VARINT_MAX);
        huge.consumed = VARINT_MAX / 2 + 2;
        assert!(!huge.update_due());
        assert_eq!(huge.grant(), VARINT_MAX);
    }

    #[test]
    fn a_smaller_window_takes_nothing_back() {
        // RFC 9000 §4.1: a limit once granted stays.
        let mut window = Window::new(100);
        window.size = 10;
        window.consumed = 50;
        assert_eq!(window.grant(), 100);
        window.consumed = 95;
        assert_eq!(window.grant(), 105);
    }

    const RTT_NS: u64 = 100;

    /// Consumes `bytes` until `at` and grants, as a stream does.
    fn consume(window: &mut Window, tuning: &mut Tuning, bytes: u64, at: u64) -> bool {
        window.consumed += bytes;
        let clock = Clock { now: Instant::from_nanos(at), rtt_ns: RTT_NS };
        assert!(window.update_due());
        let grows = tuning.tune(window, 1_000, &clock);
        window.grant();
        grows
    }

    #[test]
    fn a_window_that_is_used_up_within_two_round_trips_doubles_up_to_its_limit() {
        let (mut window, mut tuning) = (Window::new(200), Tuning::NEW);
        assert!(!consume(&mut window, &mut tuning, 100, 1_000), "nothing to compare with");
        assert!(!consume(&mut window, &mut tuning, 100, 1_001), "less than a round trip");
        assert!(consume(&mut window, &mut tuning, 100, 1_200));
        assert_eq!(window.size, 400);
        // 200 bytes in 100 ns: exactly fast enough; in 101 ns it is not.
        assert!(consume(&mut window, &mut tuning, 200, 1_300));
        assert_eq!(window.size, 800);
        assert!(!consume(&mut window, &mut tuning, 400, 1_401));
        assert!(consume(&mut window, &mut tuning, 400, 1_501));
        assert_eq!(window.size, 1_000);
        assert!(!consume(&mut window, &mut tuning, 1_000, 1_601), "at its limit");
    }

    #[test]
    fn what_is_thrown_away_makes_no_window_grow() {
        let (mut window, mut tuning) = (Window::new(200), Tuning::NEW);
        let discard = |window: &mut Window, tuning: &mut Tuning, bytes, at| {
            tuning.leave_out(bytes);
            consume(window, tuning, bytes, at)
        };
        for round in 0..20 {
            assert!(!discard(&mut window, &mut tuning, 200, round * RTT_NS));
        }
        // Beside it the application takes 100 in a round trip: that counts.
        tuning.leave_out(500);
        window.consumed += 500;
        assert!(consume(&mut window, &mut tuning, 100, 20 * RTT_NS));
    }

    #[test]
    fn no_window_grows_before_a_round_trip_was_measured() {
        let (mut window, mut tuning) = (Window::new(200), Tuning::NEW);
        for _ in 0..20 {
            window.consumed += 200;
            let clock = Clock { now: Instant::from_nanos(5), rtt_ns: 0 };
            assert!(!tuning.tune(&mut window, 1_000, &clock));
        }
    }

    #[test]
    fn an_application_that_takes_much_at_once_and_then_sleeps_is_not_fast() {
        let (mut window, mut tuning) = (Window::new(200), Tuning::NEW);
        for round in 0..20 {
            assert!(!consume(&mut window, &mut tuning, 100, round * 1_000));
            assert!(!consume(&mut window, &mut tuning, 100, round * 1_000 + 1));
        }
        assert_eq!(window.size, 200);
    }

    #[test]
    fn credit_never_falls() {
        let mut credit = Credit::default();
        assert!(credit.raise(10));
        assert!(!credit.raise(5));
        credit.used = 7;
        assert_eq!(credit.left(), 3);
    }
}
