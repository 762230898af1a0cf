//! Flow control, the numbers alone (RFC 9000 §4.1, §4.2).
//!
//! The same two counters serve a stream and the whole connection: a [`Window`] for what we
//! grant, a [`Credit`] for what we were granted. At the connection's level the "offset" is the
//! sum of the largest offsets of all streams.

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
    /// How far ahead of `consumed` we allow. Fixed for now: a receiver that tunes its window to
    /// the path writes here, and nothing else changes.
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

    #[test]
    fn credit_never_falls() {
        let mut credit = Credit::default();
        assert!(credit.raise(10));
        assert!(!credit.raise(5));
        credit.used = 7;
        assert_eq!(credit.left(), 3);
    }
}
