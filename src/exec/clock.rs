//! The only reader of a clock.
//!
//! A worker reads it once at the start of a turn and passes the value down; everything else
//! in the library is told what time it is. A read costs about 25 ns, a packet about 300, so
//! one read per packet would be felt and one per turn is not.

use crate::time::Instant;
use std::sync::OnceLock;
use std::time::{Duration, Instant as StdInstant, SystemTime, UNIX_EPOCH};

/// `CLOCK_MONOTONIC`, set once to the time of day.
///
/// The clocks of a process share their setting, so that instants may pass between workers. They
/// count from 1970, so that a token that was handed out before a restart, or by another host of
/// a fleet, stays valid. They do not follow when the operator or NTP sets the time of day. Code
/// that needs the time of day reads [`time_of_day`]: TLS does, for the dates of certificates.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    epoch: Epoch,
}

#[derive(Clone, Copy, Debug)]
struct Epoch {
    monotonic: StdInstant,
    unix_ns: u64,
}

static EPOCH: OnceLock<Epoch> = OnceLock::new();

impl Clock {
    /// The clock of this process.
    #[must_use]
    pub fn monotonic() -> Self {
        Self { epoch: *EPOCH.get_or_init(set) }
    }

    /// What time it is.
    #[must_use]
    pub fn now(&self) -> Instant {
        let ns = read().duration_since(self.epoch.monotonic).as_nanos();
        Instant::from_nanos(self.epoch.unix_ns).plus_ns(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
fn read() -> StdInstant {
    StdInstant::now()
}

/// The time of day since 1970, as the system has it now: it may jump, in either direction.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
pub fn time_of_day() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn set() -> Epoch {
    let unix_ns = u64::try_from(time_of_day().as_nanos()).unwrap_or_default();
    Epoch { monotonic: read(), unix_ns }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::SECOND_NS;

    #[test]
    fn clocks_of_a_process_share_their_setting_and_never_run_back() {
        let first = Clock::monotonic().now();
        let second = Clock::monotonic().now();
        assert!(second >= first);
    }

    #[test]
    fn a_clock_counts_from_1970() {
        // 2020: an unset clock would be a reason to look at the machine.
        assert!(Clock::monotonic().now().as_nanos() > 50 * 365 * 24 * 3_600 * SECOND_NS);
    }
}
