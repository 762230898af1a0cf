//! The only place of this program that reads a clock.

use std::time::Instant;

/// The time now.
#[expect(clippy::disallowed_methods, reason = "the forwarder delays real datagrams in real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
