//! What time TLS is told that it is.
//!
//! TLS asks for the time through its configuration, which all connections share: for the dates
//! of certificates and the ages of tickets. There is no clock here. The caller of a session
//! says what time it is, and TLS gets that time for as long as the call lasts.
//!
//! Instants measure what passes, so they do not follow when the time of day is set. A
//! certificate's dates mean the time of day. So a thread of the real world names a clock besides
//! ([`tell_time_of_day`]), which is read when TLS asks, a few times in a handshake. A simulation names
//! no clock, and TLS gets the instant of the call.

use core::cell::Cell;
use core::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use crate::time::Instant;

thread_local! {
    /// What the caller said. A call into TLS never leaves its thread.
    static NOW: Cell<Instant> = const { Cell::new(Instant::EPOCH) };
    /// The time of day since 1970, where that is not what instants count.
    static TIME_OF_DAY: Cell<Option<fn() -> Duration>> = const { Cell::new(None) };
}

/// From now on TLS hears on this thread what `clock` says, which counts from 1970; without one, what
/// the caller of a session says.
pub(crate) fn tell_time_of_day(clock: Option<fn() -> Duration>) {
    TIME_OF_DAY.set(clock);
}

/// What the clock of this thread says, if it has one.
#[cfg(test)]
pub(crate) fn told_time_of_day() -> Option<Duration> {
    TIME_OF_DAY.get().map(|clock| clock())
}

/// Runs `call` while TLS hears that it is `now`, which counts from 1970; or what the clock of the
/// thread says, if it has one.
pub(super) fn at<T>(now: Instant, call: impl FnOnce() -> T) -> T {
    NOW.set(now);
    call()
}

/// The time of the call that is under way.
pub(super) fn now() -> Instant {
    match TIME_OF_DAY.get() {
        Some(clock) => Instant::EPOCH + clock(),
        None => NOW.get(),
    }
}

/// Tells TLS the time of the call that is under way.
#[derive(Debug)]
pub(super) struct TimeOfCall;

impl TimeProvider for TimeOfCall {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_nanos(now().as_nanos())))
    }
}
