//! Tells whether another thread wants a worker's CPU.
//!
//! A worker that looks again for 50 us before it sleeps saves the time of a wake-up, if the CPU is
//! its own. If the CPU is shared with a thread that answers it (a client and a server on one
//! machine), each looks in vain while the other waits for the CPU: a request of 13 us takes 112 us.
//! The kernel knows: it counts how long a thread was ready to run and did not run.
//!
//! ```text
//!   every 50 ms: waited / passed > 1/20, twice in a row --> sleep at once, for 1 s, 2 s, .. 64 s
//!                                                           then look for 50 us again
//! ```
//!
//! This is for [`Polling::Adaptive`](super::config::Polling) alone: with `Spin` a worker never
//! sleeps.

use crate::time::{Instant, MILLISECOND_NS, SECOND_NS};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// How often a worker that spins asks. The answer costs a system call.
const INTERVAL_NS: u64 = 50 * MILLISECOND_NS;
/// The part of the time that a worker may wait for its CPU, as a divisor. Two that spin against
/// each other wait for nearly half of it; interrupts and the kernel's own threads for less than a
/// hundredth.
const SHARE: u64 = 20;
/// Intervals in a row that have to be crowded: one alone may be a thread that just started.
const IN_A_ROW: u32 = 2;
/// How long a worker does not spin, at first.
const PAUSE_NS: u64 = SECOND_NS;
/// How long it does not spin at most. If the CPU is crowded at each try, it spins for a tenth of a
/// second of each 64.
const PAUSE_MAX_NS: u64 = 64 * SECOND_NS;

/// How long this thread has waited for a CPU, from the kernel.
#[derive(Debug)]
pub(super) struct RunDelay(Option<File>);

impl RunDelay {
    /// Of the calling thread.
    pub(super) fn of_this_thread() -> Self {
        Self(File::open("/proc/thread-self/schedstat").ok())
    }

    /// Nanoseconds since the thread began; `None` where the kernel does not count.
    pub(super) fn read(&self) -> Option<u64> {
        let mut text = [0; 64];
        let len = self.0.as_ref()?.read_at(&mut text, 0).ok()?;
        parse(std::str::from_utf8(text.get(..len)?).ok()?)
    }
}

/// "time on a CPU, time waiting for one, slices": `Documentation/scheduler/sched-stats.rst`.
fn parse(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().nth(1)?.parse().ok()
}

/// Decides when a worker may spin. Call [`is_due`](Self::is_due) in every turn, and
/// [`judge`](Self::judge) if it says so.
#[derive(Debug)]
pub(super) struct Crowding {
    /// When the kernel was asked last, and what it said.
    asked_at: Instant,
    waited_ns: Option<u64>,
    crowded_in_a_row: u32,
    /// The worker does not spin before this time.
    spin_from: Instant,
    pause_ns: u64,
}

impl Crowding {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            asked_at: now,
            waited_ns: None,
            crowded_in_a_row: 0,
            spin_from: now,
            pause_ns: PAUSE_NS,
        }
    }

    /// It is time to ask the kernel.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now.ns_since(self.asked_at) >= INTERVAL_NS && now >= self.spin_from
    }

    /// Takes the kernel's count. True if the worker stops spinning now.
    pub(super) fn judge(&mut self, now: Instant, waited_ns: Option<u64>) -> bool {
        let passed = now.ns_since(self.asked_at);
        let waited = waited_ns.zip(self.waited_ns).map(|(now, then)| now.saturating_sub(then));
        (self.asked_at, self.waited_ns) = (now, waited_ns);
        match waited {
            Some(waited) if waited > passed / SHARE => self.crowded_in_a_row += 1,
            Some(_) => {
                self.crowded_in_a_row = 0;
                // Spinning went well for as long as the pause was: the next one is short again.
                if now.ns_since(self.spin_from) > self.pause_ns {
                    self.pause_ns = PAUSE_NS;
                }
            }
            None => {}
        }
        if self.crowded_in_a_row < IN_A_ROW {
            return false;
        }
        self.crowded_in_a_row = 0;
        self.spin_from = now.plus_ns(self.pause_ns);
        self.pause_ns = (self.pause_ns * 2).min(PAUSE_MAX_NS);
        // The time that it waits during the pause says nothing about spinning.
        self.waited_ns = None;
        true
    }

    /// Whether the worker may look again before it sleeps.
    pub(super) fn may_spin(&self, now: Instant) -> bool {
        now >= self.spin_from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets `seconds` pass on a CPU that is wanted by others for `share` of the time.
    /// Returns how often spinning stopped.
    fn live(crowding: &mut Crowding, now: &mut Instant, seconds: u64, share: f64) -> u32 {
        let (mut waited, mut stops) = (0.0, 0);
        let until = now.plus_ns(seconds * SECOND_NS);
        while *now < until {
            *now = now.plus_ns(10 * MILLISECOND_NS);
            if crowding.may_spin(*now) {
                waited += share * 1e7;
            }
            if crowding.is_due(*now) && crowding.judge(*now, Some(waited as u64)) {
                stops += 1;
                assert!(!crowding.may_spin(*now));
            }
        }
        stops
    }

    #[test]
    fn two_that_spin_on_one_cpu_stop_and_try_ever_more_rarely() {
        let mut now = Instant::from_nanos(SECOND_NS);
        let mut crowding = Crowding::new(now);
        // 1, 2, 4, 8, 16, 32, 64, 64 s and what the tries take.
        assert_eq!(live(&mut crowding, &mut now, 190, 0.45), 8);
        // The other has gone: at the end of the pause it spins for good.
        live(&mut crowding, &mut now, 64, 0.0);
        assert_eq!(live(&mut crowding, &mut now, 64, 0.001), 0);
        assert!(crowding.may_spin(now));
        // And the next pause is short.
        assert_eq!(live(&mut crowding, &mut now, 1, 0.45), 1);
        assert!(crowding.spin_from.ns_since(now) <= PAUSE_NS);
    }

    #[test]
    fn a_cpu_of_its_own_and_a_kernel_that_does_not_count_let_a_worker_spin() {
        let mut now = Instant::from_nanos(SECOND_NS);
        let mut crowding = Crowding::new(now);
        assert_eq!(live(&mut crowding, &mut now, 60, 0.01), 0);
        for _ in 0..100 {
            now = now.plus_ns(INTERVAL_NS);
            assert!(crowding.is_due(now) && !crowding.judge(now, None));
        }
    }

    #[test]
    fn the_kernels_line_is_read() {
        assert_eq!(parse("1704721 250 17\n"), Some(250));
        assert_eq!(parse(""), None);
        let delay = RunDelay::of_this_thread();
        assert_eq!(delay.read().is_some(), delay.0.is_some());
    }
}
