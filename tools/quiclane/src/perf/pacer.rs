//! An open loop: requests leave at their time, whether or not others were answered.
//!
//! Each worker has a pacer. The requests of a run are spaced evenly; worker `w` of `n` sends each
//! `n`th of them, and wakes its connections in turn. The library's timers are for timeouts and
//! have ticks of 65 us, which would be seen in every latency: shortly before a request is due, the
//! pacer asks to be called in each turn of its worker, which spins for it.

use super::client::Plan;
use quiclane::exec::{Handle, HandleError, WorkerRef};
use std::sync::Arc;
use std::time::Duration;

/// How long before a request the worker begins to spin: two ticks of its timers.
const SPIN_NS: u64 = 131_072;
/// The most requests that one turn sends: as many as a worker takes from its inbox in a turn.
const BURST: usize = 128;

/// Sends the requests of one worker.
pub(crate) struct Pacer {
    plan: Arc<Plan>,
    connections: Vec<Handle>,
    /// The next connection.
    turn: usize,
    /// The send time of the first request of the run, in nanoseconds.
    start: u64,
    /// The time between two requests of this worker.
    spacing_ns: f64,
    /// The time from the start to this worker's first request.
    offset_ns: f64,
    /// Requests that have left.
    sent: u64,
    /// The next request has been counted.
    is_counted: bool,
    /// A worker that was told to sleep does not spin for requests.
    spins: bool,
}

impl Pacer {
    /// The pacer of worker `worker` of `workers`, for a plan with a rate.
    pub(crate) fn new(
        plan: &Arc<Plan>,
        connections: Vec<Handle>,
        start: u64,
        (worker, workers): (usize, usize),
        spins: bool,
    ) -> Self {
        let all_ns = 1e9 / plan.settings.rate.unwrap_or(1.0);
        Self {
            plan: Arc::clone(plan),
            connections,
            turn: 0,
            start,
            spacing_ns: all_ns * workers as f64,
            offset_ns: all_ns * worker as f64,
            sent: 0,
            is_counted: false,
            spins,
        }
    }

    fn due(&self) -> u64 {
        self.start + (self.offset_ns + self.sent as f64 * self.spacing_ns) as u64
    }

    /// Sends what is due, and asks to be called again.
    pub(crate) fn run(mut self, worker: &mut WorkerRef<'_>) {
        let now = worker.now().as_nanos();
        for _ in 0..BURST {
            let due = self.due();
            if self.plan.window.is_over(due) || self.plan.window.is_closing() {
                return;
            }
            if due > now {
                break;
            }
            if !self.is_counted {
                self.is_counted = true;
                self.plan.tally(worker.number()).asked(&self.plan.window, due);
            }
            if !self.wake(due) {
                break;
            }
            self.sent += 1;
            self.is_counted = false;
        }
        let ahead = if self.spins { SPIN_NS } else { 0 };
        match self.due().saturating_sub(ahead) {
            later if later > now => {
                worker.set_timer(Duration::from_nanos(later - now), move |w| self.run(w));
            }
            _ => worker.spawn(move |w| self.run(w)),
        }
    }

    /// Gives a request to the next connection. False if it has to wait for the inbox.
    fn wake(&mut self, due: u64) -> bool {
        for _ in 0..self.connections.len() {
            let Some(connection) = self.connections.get(self.turn) else { return true };
            let woken = connection.wake(due);
            if woken == Err(HandleError::Full) {
                return false;
            }
            self.turn = (self.turn + 1) % self.connections.len();
            if woken.is_ok() {
                return true;
            }
        }
        // All connections are gone: it stays unanswered.
        true
    }
}
