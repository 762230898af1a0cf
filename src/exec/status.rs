//! The status that a worker publishes while it runs.
//!
//! A worker counts in plain fields that no other thread reads. Now and then (every
//! [`PUBLISH_INTERVAL_NS`] at most, and before it sleeps) it copies them to its [`Board`], word
//! by word with relaxed stores; readers load the same words. So the packet path has no shared
//! atomic, a reader never waits for a worker nor a worker for a reader, and each number that is
//! read is one that the worker had. Two numbers of one reading may be of different moments.

use super::counters::Snapshot;
use super::source::LadderStep;
use crate::datapath::Mode;
use crate::time::MILLISECOND_NS;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// How often a busy worker publishes its counters. Copying costs about 100 ns; a person or a
/// monitoring system reads them ten times a second at most.
pub(super) const PUBLISH_INTERVAL_NS: u64 = 50 * MILLISECOND_NS;

/// Where a worker runs and what it reads from: told once it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) queue: u32,
    pub(super) device: Option<String>,
    pub(super) cpu: Option<u32>,
    pub(super) queue_cpu: Option<u32>,
    pub(super) node: Option<u32>,
    pub(super) soft_cpus: Vec<u32>,
    pub(super) unmet: Option<String>,
    pub(super) mode: Option<Mode>,
    pub(super) ladder: Vec<LadderStep>,
    /// Why the datapath is lost, if it is.
    pub(super) error: Option<String>,
}

/// The part of a worker that other threads read.
#[derive(Debug)]
pub(super) struct Board {
    words: [AtomicU64; Snapshot::WORDS],
    /// Changed at start and when a socket is opened, never by the packet path.
    facts: Mutex<Facts>,
}

impl Default for Board {
    fn default() -> Self {
        Self { words: std::array::from_fn(|_| AtomicU64::new(0)), facts: Mutex::default() }
    }
}

impl Board {
    pub(super) fn publish(&self, snapshot: &Snapshot) {
        for (word, value) in self.words.iter().zip(snapshot.words()) {
            word.store(value, Ordering::Relaxed);
        }
    }

    pub(super) fn read(&self) -> Snapshot {
        Snapshot::from_words(std::array::from_fn(|at| self.words[at].load(Ordering::Relaxed)))
    }

    /// Changes the facts. A reader that panicked cannot have left them half changed.
    pub(super) fn change_facts(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    pub(super) fn facts(&self) -> Facts {
        self.facts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// A worker, as [`Registration::status`](super::Registration::status) shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Its number.
    pub worker: usize,
    /// The NIC queue that it serves; its own number for kernel sockets.
    pub queue: u32,
    /// The device, if its sockets are bound to one.
    pub device: Option<String>,
    /// The CPU that its thread is pinned to, if it is; with soft affinity, the one that it starts on.
    pub cpu: Option<u32>,
    /// The CPU that the thread of its queue is pinned to, if it is: its own thread, but with
    /// [`Profile::MaxThroughput`](super::Profile).
    pub queue_cpu: Option<u32>,
    /// The memory node of its CPU, if it is known.
    pub node: Option<u32>,
    /// The CPUs that it may run on with soft affinity, those of the same node, once its queue is open;
    /// else empty, also if the kernel refused them.
    pub soft_cpus: Vec<u32>,
    /// Why it is not where [`RegistrationConfig::near`](super::RegistrationConfig) wants it, and the
    /// remedy; `None` if it is, or is not pinned.
    pub unmet: Option<String>,
    /// How its datagrams reach the wire; `None` before a socket is open.
    pub mode: Option<Mode>,
    /// The steps of the ladder that led down to that mode.
    pub ladder: Vec<LadderStep>,
    /// Why the worker's datapath is lost, if it is.
    pub error: Option<String>,
    /// Connections now.
    pub connections: u64,
    /// Datagrams that arrived here for connections of other workers.
    pub wrong_queue: u64,
    /// All counters.
    pub counters: Snapshot,
}

impl WorkerStatus {
    pub(super) fn new(worker: usize, board: &Board) -> Self {
        let Facts { queue, device, cpu, queue_cpu, node, soft_cpus, unmet, mode, ladder, error } =
            board.facts();
        let counters = board.read();
        Self {
            worker,
            queue,
            device,
            cpu,
            queue_cpu,
            node,
            soft_cpus,
            unmet,
            mode,
            ladder,
            error,
            connections: counters.lane.connections,
            wrong_queue: counters.lane.rx_wrong_queue
                + counters.lane.rx_wrong_queue_dropped
                + counters.lane.rx_wrong_queue_share,
            counters,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_what_is_read() {
        let snapshot = Snapshot::from_words(std::array::from_fn(|at| at as u64 + 1));
        assert!(snapshot.iter().all(|(_, _, value)| value > 0));
        let board = Board::default();
        assert_eq!(board.read(), Snapshot::default());
        board.publish(&snapshot);
        assert_eq!(board.read(), snapshot);
    }
}
