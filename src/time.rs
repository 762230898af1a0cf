//! Time as a value.
//!
//! Nothing below `exec` reads a clock: the time of a turn is read once by the worker and
//! passed down, so that a simulation can pass whatever it likes. An [`Instant`] is a count
//! of nanoseconds since an epoch that the caller chose; only differences mean anything.

use core::fmt;
use core::ops::{Add, Sub};
use core::time::Duration;

/// Nanoseconds in a microsecond.
pub const MICROSECOND_NS: u64 = 1_000;
/// Nanoseconds in a millisecond.
pub const MILLISECOND_NS: u64 = 1_000_000;
/// Nanoseconds in a second.
pub const SECOND_NS: u64 = 1_000_000_000;

/// A point in time, in nanoseconds since the caller's epoch.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The epoch itself.
    pub const EPOCH: Self = Self(0);
    /// Later than anything that happens: 584 years after the epoch.
    pub const NEVER: Self = Self(u64::MAX);

    /// The instant `ns` nanoseconds after the epoch.
    #[must_use]
    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since the epoch.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// This instant, `ns` nanoseconds later; saturates at [`Instant::NEVER`].
    #[must_use]
    pub const fn plus_ns(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// Nanoseconds from `earlier` to this instant; 0 if `earlier` is the later one.
    #[must_use]
    pub const fn ns_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        self.plus_ns(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, rhs: Self) -> Duration {
        Duration::from_nanos(self.ns_since(rhs))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}s", self.0 / SECOND_NS, self.0 % SECOND_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(Instant::EPOCH.ns_since(Instant::from_nanos(5)), 0);
        assert_eq!(Instant::NEVER.plus_ns(1), Instant::NEVER);
        assert_eq!(Instant::EPOCH + Duration::from_micros(3), Instant::from_nanos(3_000));
    }
}
