//! What a worker tells about itself while it runs.
//!
//! A worker counts in plain fields that nobody else sees. Now and then (every
//! [`PUBLISH_INTERVAL_NS`] at most, and before it sleeps) it copies them to its [`Board`], word
//! by word with relaxed stores; readers load the same words. So the packet path has no shared
//! atomic, a reader never waits for a worker nor a worker for a reader, and each number that is
//! read is one that the worker had. Two numbers of one reading may be of different moments.

use super::lane::LaneCounters;
use super::overrun::Callback;
use crate::datapath::{Mode, QueueStats};
use crate::proto::endpoint::EndpointStats;
use crate::time::MILLISECOND_NS;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// How often a busy worker publishes its counters. Copying costs about 100 ns; a person and a
/// monitoring system look ten times a second at most.
pub(super) const PUBLISH_INTERVAL_NS: u64 = 50 * MILLISECOND_NS;

/// Defines a struct of counters that can be copied to and from an array of words.
macro_rules! counters {
    (
        $(#[$about:meta])*
        pub struct $name:ident { $( $(#[$field_about:meta])* $field:ident, )* }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $( $(#[$field_about])* pub $field: u64, )*
        }

        impl $name {
            /// The names of the counters, in order.
            pub const NAMES: &'static [&'static str] = &[$( stringify!($field), )*];

            /// The counters, in order.
            #[must_use]
            pub fn values(&self) -> [u64; Self::NAMES.len()] {
                let Self { $( $field, )* } = *self;
                [$( $field, )*]
            }

            /// The counters from their values, in order.
            #[must_use]
            pub fn from_values(values: [u64; Self::NAMES.len()]) -> Self {
                let [$( $field, )*] = values;
                Self { $( $field, )* }
            }
        }
    };
}
pub(super) use counters;

counters! {
    /// How a worker spends its turns.
    pub struct TurnCounters {
        /// Turns.
        turns,
        /// Turns that found nothing to do.
        idle_turns,
        /// Times that the worker slept.
        sleeps,
        /// Turns whose callbacks took longer than they may.
        overruns,
        /// Times that others wanted the CPU, and the worker began to sleep instead of spinning.
        crowded,
    }
}

/// As for our own counters, for a struct that is defined elsewhere: a field that is added there
/// does not compile until it is added here.
macro_rules! foreign {
    (
        $of:ident: $words:ident, $values:ident, $from_values:ident, $sum:ident,
        $(#[$about:meta])* $named:ident { $( $field:ident, )* }
    ) => {
        const $words: usize = [$( stringify!($field), )*].len();

        fn $values(stats: &$of) -> [u64; $words] {
            let $of { $( $field, )* } = *stats;
            [$( $field, )*]
        }

        fn $from_values(values: [u64; $words]) -> $of {
            let [$( $field, )*] = values;
            $of { $( $field, )* }
        }

        /// What both have counted.
        pub(super) fn $sum(a: &$of, b: &$of) -> $of {
            let (a, b) = ($values(a), $values(b));
            $from_values(std::array::from_fn(|at| a[at] + b[at]))
        }

        $(#[$about])*
        pub fn $named(stats: &$of) -> impl Iterator<Item = (&'static str, u64)> {
            [$( stringify!($field), )*].into_iter().zip($values(stats))
        }
    };
}

foreign! {
    QueueStats: QUEUE_WORDS, queue_values, queue_from_values, sum,
    /// The counters of a queue with their names.
    named_queue_stats {
    rx_packets, rx_bytes, tx_packets, tx_bytes, tx_kicks, tx_no_buffer, tx_errors, tx_stalls,
    tx_via_kernel, tx_unresolved, rx_via_kernel, rx_calls, drop_malformed, drop_ip_checksum, drop_udp_checksum,
    drop_udp_length, drop_truncated, drop_empty, drop_socket_full, xdp_rx_dropped, xdp_rx_invalid_descs,
    xdp_tx_invalid_descs, xdp_rx_ring_full, xdp_rx_fill_ring_empty, xdp_tx_ring_empty,
    }
}

foreign! {
    EndpointStats: ENDPOINT_WORDS, endpoint_values, endpoint_from_values, endpoint_sum,
    /// The counters of what belongs to no connection, with their names.
    named_endpoint_stats {
    accepted, retries, version_negotiations, resets, invalid_tokens, small_initials, forged,
    damaged, dropped, refusals, limited_retries, limited_version_negotiations, limited_refusals,
    limited_resets, replayed_tokens, forgotten_tokens,
    }
}

const LANE_WORDS: usize = LaneCounters::NAMES.len();
const TURN_WORDS: usize = TurnCounters::NAMES.len();
const OVERRUN_WORDS: usize = Callback::ALL.len();

/// What a worker counts, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Connections and datagrams.
    pub lane: LaneCounters,
    /// Turns.
    pub turns: TurnCounters,
    /// What belonged to no connection: listeners' answers and refusals.
    pub endpoint: EndpointStats,
    /// The datapaths of the worker together.
    pub queue: QueueStats,
    /// Callbacks that took too long, by name ([`Callback::ALL`]).
    pub overruns: [u64; Callback::ALL.len()],
}

/// One step of the ladder of datapaths, taken downwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LadderStep {
    /// What was tried.
    pub tried: Mode,
    /// Why it did not work.
    pub reason: String,
}

/// Where a worker runs and what it reads from: told once it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) queue: u32,
    pub(super) device: Option<String>,
    pub(super) cpu: Option<u32>,
    pub(super) node: Option<u32>,
    pub(super) mode: Option<Mode>,
    pub(super) ladder: Vec<LadderStep>,
    /// Why the datapath is lost, if it is.
    pub(super) error: Option<String>,
}

/// What one worker shows to others.
#[derive(Debug)]
pub(super) struct Board {
    lane: [AtomicU64; LANE_WORDS],
    turns: [AtomicU64; TURN_WORDS],
    endpoint: [AtomicU64; ENDPOINT_WORDS],
    queue: [AtomicU64; QUEUE_WORDS],
    overruns: [AtomicU64; OVERRUN_WORDS],
    /// Changed at start and when a socket is opened, never by the packet path.
    facts: Mutex<Facts>,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            lane: std::array::from_fn(|_| AtomicU64::new(0)),
            turns: std::array::from_fn(|_| AtomicU64::new(0)),
            endpoint: std::array::from_fn(|_| AtomicU64::new(0)),
            queue: std::array::from_fn(|_| AtomicU64::new(0)),
            overruns: std::array::from_fn(|_| AtomicU64::new(0)),
            facts: Mutex::default(),
        }
    }
}

impl Board {
    pub(super) fn publish(&self, snapshot: &Snapshot) {
        store(&self.lane, &snapshot.lane.values());
        store(&self.turns, &snapshot.turns.values());
        store(&self.endpoint, &endpoint_values(&snapshot.endpoint));
        store(&self.queue, &queue_values(&snapshot.queue));
        store(&self.overruns, &snapshot.overruns);
    }

    pub(super) fn read(&self) -> Snapshot {
        Snapshot {
            lane: LaneCounters::from_values(load(&self.lane)),
            turns: TurnCounters::from_values(load(&self.turns)),
            endpoint: endpoint_from_values(load(&self.endpoint)),
            queue: queue_from_values(load(&self.queue)),
            overruns: load(&self.overruns),
        }
    }

    /// Changes the facts. A reader that panicked cannot have left them half changed.
    pub(super) fn change_facts(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    pub(super) fn facts(&self) -> Facts {
        self.facts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

fn store<const N: usize>(words: &[AtomicU64; N], values: &[u64; N]) {
    for (word, value) in words.iter().zip(values) {
        word.store(*value, Ordering::Relaxed);
    }
}

fn load<const N: usize>(words: &[AtomicU64; N]) -> [u64; N] {
    std::array::from_fn(|at| words[at].load(Ordering::Relaxed))
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
    /// The CPU that its thread is pinned to, if it is.
    pub cpu: Option<u32>,
    /// The memory node of that CPU, if it is known.
    pub node: Option<u32>,
    /// How its datagrams reach the wire; none before a socket is open.
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
        let Facts { queue, device, cpu, node, mode, ladder, error } = board.facts();
        let counters = board.read();
        Self {
            worker,
            queue,
            device,
            cpu,
            node,
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

    /// Callbacks that took too long, by name.
    pub fn overruns(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Callback::ALL.iter().map(|callback| callback.name()).zip(self.counters.overruns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_what_is_read() {
        let mut next = 0;
        let mut counter = || {
            next += 1;
            next
        };
        let snapshot = Snapshot {
            lane: LaneCounters::from_values(std::array::from_fn(|_| counter())),
            turns: TurnCounters::from_values(std::array::from_fn(|_| counter())),
            endpoint: endpoint_from_values(std::array::from_fn(|_| counter())),
            queue: queue_from_values(std::array::from_fn(|_| counter())),
            overruns: std::array::from_fn(|_| counter()),
        };
        let board = Board::default();
        assert_eq!(board.read(), Snapshot::default());
        board.publish(&snapshot);
        assert_eq!(board.read(), snapshot);
    }

    #[test]
    fn names_stand_beside_their_own_values() {
        let stats = QueueStats { rx_packets: 1, drop_empty: 2, ..QueueStats::default() };
        let value = |name| named_queue_stats(&stats).find(|(n, _)| *n == name).unwrap().1;
        assert_eq!((value("rx_packets"), value("drop_empty"), value("tx_packets")), (1, 2, 0));
        assert_eq!(sum(&stats, &stats).drop_empty, 4);
        let lane = LaneCounters { tx_blocked: 7, ..LaneCounters::default() };
        let at = LaneCounters::NAMES.iter().position(|name| *name == "tx_blocked").unwrap();
        assert_eq!(lane.values()[at], 7);
    }
}
