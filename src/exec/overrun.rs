//! Callbacks that hold the worker up: those that take longer than they may.
//!
//! A clock read costs 25 ns. For callbacks that come once in a while that is nothing, and they
//! are timed one by one. For those that come with packets ([`Callback::is_hot`]) it would cost too
//! much, so these only set a flag. The worker compares the clock at the start of one turn with that
//! at the start of the next, which it reads anyway:
//!
//! - a turn within the budget costs one store for each hot callback;
//! - a turn beyond it is counted; and if a hot callback ran in it, the next turns are *traced*:
//!   in them hot callbacks are timed too, and the one that overruns is counted by name.

use super::clock::Clock;
use crate::counters::reasons;
use crate::time::{Instant, MICROSECOND_NS};

/// How long the callbacks of one turn, or one callback while tracing, may take, if nothing else is
/// set ([`LaneLimits::callback_budget`](super::LaneLimits)). At 64 packets in a burst and 1 us each a
/// turn is done in a tenth of it; a peer's round-trip estimate notices ten times as much.
pub const CALLBACK_BUDGET_NS: u64 = 500 * MICROSECOND_NS;
/// Turns that are traced after a long one.
const TRACED_TURNS: u32 = 1024;

reasons! {
    /// What an application is called for.
    pub enum Callback(u8);
    /// Callbacks that took longer than they may, by name.
    pub struct OverrunCounters, counted by "the worker" {
        /// `Acceptor::accept` and `Acceptor::pressure_changed`.
        Accept = "accept";
        /// `Handler::connected`, and what else is told of a handshake.
        Connected = "connected";
        /// `Handler::stream_data`.
        StreamData = "stream_data";
        /// `Handler::acknowledged` and `Handler::send_complete`.
        Acknowledged = "acknowledged";
        /// Any other method about a stream.
        StreamEvent = "stream_event";
        /// `Handler::peer_address_changed`, and what else is told of paths.
        AddressChanged = "address_changed";
        /// `Handler::network_statistics` and `Handler::ideal_send_buffer_changed`.
        Network = "network";
        /// `Handler::ideal_processor_changed` and `Handler::moved`.
        Moved = "moved";
        /// `Handler::woken` and `Handler::refused`.
        Woken = "woken";
        /// `Handler::timer`, and timers of the worker.
        Timer = "timer";
        /// `Handler::ready`, and descriptors of the worker.
        Ready = "ready";
        /// Closures: posted from other threads, or spawned on the worker.
        Task = "task";
        /// `Handler::closed` and `Handler::drained`.
        Closed = "closed";
    }
}

impl Callback {
    /// True for those that come with packets, as often as these.
    #[must_use]
    pub const fn is_hot(self) -> bool {
        matches!(self, Self::StreamData | Self::Acknowledged | Self::StreamEvent)
    }
}

/// Counts overruns.
#[derive(Debug)]
pub(super) struct Overruns {
    /// `None` in a simulation, where callbacks take no time.
    clock: Option<Clock>,
    budget_ns: u64,
    /// A callback that was not timed ran in this turn.
    called: bool,
    untimed: bool,
    traced_turns: u32,
    /// Turns beyond the budget in which the application was called.
    pub(super) turns: u64,
    /// Overruns by name.
    pub(super) by_name: OverrunCounters,
}

impl Overruns {
    pub(super) fn new(clock: Option<Clock>) -> Self {
        Self {
            clock,
            budget_ns: CALLBACK_BUDGET_NS,
            called: false,
            untimed: false,
            traced_turns: 0,
            turns: 0,
            by_name: OverrunCounters::default(),
        }
    }

    /// Turns and callbacks may take so long from now on.
    pub(super) fn set_budget(&mut self, budget_ns: u64) {
        self.budget_ns = budget_ns;
    }

    /// True if turns take the time that they are told, and do not jump to the next event.
    pub(super) fn is_timed(&self) -> bool {
        self.clock.is_some()
    }

    /// Before a callback. Give the result to [`left`](Self::left) after it.
    #[inline]
    pub(super) fn entered(&mut self, callback: Callback) -> Option<Instant> {
        self.called = true;
        if callback.is_hot() && self.traced_turns == 0 {
            self.untimed = true;
            return None;
        }
        self.clock.as_ref().map(Clock::now)
    }

    /// After a callback.
    #[inline]
    pub(super) fn left(&mut self, callback: Callback, entered: Option<Instant>) {
        if let (Some(entered), Some(clock)) = (entered, &self.clock) {
            self.judge(callback, clock.now().ns_since(entered));
        }
    }

    fn judge(&mut self, callback: Callback, took_ns: u64) {
        if took_ns > self.budget_ns {
            self.by_name.count(callback);
        }
    }

    /// A turn is over, and took this long without the time that the worker slept.
    pub(super) fn turn_ended(&mut self, took_ns: u64) {
        let called = std::mem::take(&mut self.called);
        let untimed = std::mem::take(&mut self.untimed);
        self.traced_turns = self.traced_turns.saturating_sub(1);
        if called && took_ns > self.budget_ns {
            self.turns += 1;
            if untimed {
                self.traced_turns = TRACED_TURNS;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: u64 = CALLBACK_BUDGET_NS + 1;

    #[test]
    fn rare_callbacks_are_always_timed_and_hot_ones_after_a_long_turn() {
        let mut overruns = Overruns::new(Some(Clock::monotonic()));
        assert!(overruns.entered(Callback::Task).is_some());
        assert!(overruns.entered(Callback::StreamData).is_none());
        overruns.turn_ended(LONG);
        assert_eq!((overruns.turns, overruns.by_name), (1, OverrunCounters::default()));
        assert!(overruns.entered(Callback::StreamData).is_some());
        overruns.judge(Callback::StreamData, CALLBACK_BUDGET_NS);
        overruns.judge(Callback::StreamData, LONG);
        assert_eq!(overruns.by_name.get(Callback::StreamData), 1);
    }

    #[test]
    fn a_long_turn_that_called_nobody_is_nobodys_fault() {
        let mut overruns = Overruns::new(Some(Clock::monotonic()));
        overruns.turn_ended(LONG);
        overruns.entered(Callback::Timer);
        overruns.turn_ended(CALLBACK_BUDGET_NS);
        assert_eq!(overruns.turns, 0);
        assert!(overruns.entered(Callback::Acknowledged).is_none());
    }

    #[test]
    fn tracing_ends_by_itself() {
        let mut overruns = Overruns::new(Some(Clock::monotonic()));
        overruns.entered(Callback::StreamData);
        overruns.turn_ended(LONG);
        for _ in 0..TRACED_TURNS {
            overruns.turn_ended(0);
        }
        assert_eq!(overruns.entered(Callback::StreamData), None);
    }

    #[test]
    fn a_longer_budget_counts_less() {
        let mut overruns = Overruns::new(Some(Clock::monotonic()));
        overruns.set_budget(LONG);
        for took_ns in [LONG, LONG + 1] {
            overruns.entered(Callback::StreamData);
            overruns.turn_ended(took_ns);
            overruns.judge(Callback::Task, took_ns);
        }
        assert_eq!((overruns.turns, overruns.by_name.get(Callback::Task)), (1, 1));
    }

    #[test]
    fn a_simulation_times_nothing() {
        let mut overruns = Overruns::new(None);
        let entered = overruns.entered(Callback::Task);
        overruns.left(Callback::Task, entered);
        assert_eq!(entered, None);
    }
}
