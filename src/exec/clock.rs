//! The only reader of a clock.
//!
//! A worker reads it once at the start of a turn and passes the value down; everything else
//! in the library is told what time it is. A read costs about 25 ns, a packet about 300, so
//! one read per packet would be felt and one per turn is not.

use crate::time::Instant;
use std::sync::OnceLock;
use std::time::Instant as StdInstant;

/// `CLOCK_MONOTONIC`, counted from the first use in this process.
///
/// All clocks of a process share that epoch, so that instants may pass between workers.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    epoch: StdInstant,
}

/// The epoch of this process. Instants start one second after it: an instant a little before
/// "now" can then be expressed without saturating at zero.
static EPOCH: OnceLock<StdInstant> = OnceLock::new();
const HEADROOM_NS: u64 = crate::time::SECOND_NS;

impl Clock {
    /// The clock of this process.
    #[must_use]
    pub fn monotonic() -> Self {
        Self { epoch: *EPOCH.get_or_init(read) }
    }

    /// What time it is.
    #[must_use]
    pub fn now(&self) -> Instant {
        let ns = read().duration_since(self.epoch).as_nanos();
        Instant::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX).saturating_add(HEADROOM_NS))
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
fn read() -> StdInstant {
    StdInstant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_of_a_process_share_an_epoch_and_never_run_back() {
        let first = Clock::monotonic().now();
        let second = Clock::monotonic().now();
        assert!(second >= first);
        assert!(first.as_nanos() >= HEADROOM_NS);
    }
}
