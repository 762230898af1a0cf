//! What time TLS is told that it is.
//!
//! TLS asks for the time through its configuration, which all connections share: for the dates
//! of certificates and the ages of tickets. There is no clock here. Whoever calls into a session
//! says what time it is, and for as long as the call lasts this is what TLS hears.

use core::cell::Cell;
use core::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use crate::time::Instant;

thread_local! {
    /// What the caller said. A call into TLS never leaves its thread.
    static NOW: Cell<Instant> = const { Cell::new(Instant::EPOCH) };
}

/// Runs `call` while TLS hears that it is `now`, which counts from 1970.
pub(super) fn at<T>(now: Instant, call: impl FnOnce() -> T) -> T {
    NOW.set(now);
    call()
}

/// The time of the call that is under way.
pub(super) fn now() -> Instant {
    NOW.get()
}

/// Tells TLS the time of the call that is under way.
#[derive(Debug)]
pub(super) struct TimeOfCall;

impl TimeProvider for TimeOfCall {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_nanos(now().as_nanos())))
    }
}
