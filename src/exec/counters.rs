//! What a worker counts: one declaration for each set.

use super::overrun::Callback;
use crate::counters::counters;
use crate::datapath::QueueStats;
use crate::proto::endpoint::EndpointStats;

counters! {
    /// Connections and datagrams of one worker.
    pub struct LaneCounters, counted by "the lane of the worker" {
        /// Connections, those that are closing included.
        connections: Gauge, Count;
        /// Handshakes under way.
        handshakes: Gauge, Count;
        /// Bytes that the connections hold, what applications hold aside.
        memory_bytes: Gauge, Bytes;
        /// Datagrams looked at, from the datapath and from other workers.
        rx_datagrams: Counter, Count;
        /// Datagrams of another worker's connections, handed to it.
        rx_wrong_queue: Counter, Count;
        /// Datagrams of another worker's connections that could not be handed over.
        rx_wrong_queue_dropped: Counter, Count;
        /// Datagrams not handed over: their connection had its share under way.
        rx_wrong_queue_share: Counter, Count;
        /// Datagrams that other workers handed to this one.
        rx_handed_over: Counter, Count;
        /// Datagrams too short to hold a connection id, or for nobody who listens.
        rx_unroutable: Counter, Count;
        /// Datagrams of no connection that a listener was asked about.
        rx_unknown: Counter, Count;
        /// Late copies of a client's first packets, whose connection was over already.
        rx_late_initials: Counter, Count;
        /// Version Negotiation packets whose UDP checksum was wrong.
        rx_damaged: Counter, Count;
        /// Stateless resets of peers that ended a connection.
        rx_resets: Counter, Count;
        /// Reset tokens that other workers do not know, for want of a place: such a reset is
        /// recognised only on this worker's queue.
        resets_unshared: Counter, Count;
        /// Connections accepted.
        accepted: Counter, Count;
        /// Connections begun by this side.
        connected: Counter, Count;
        /// Connections that could not be begun.
        connect_failed: Counter, Count;
        /// Clients with a proven address turned away: the table was full of connections.
        refused_full: Counter, Count, Refused;
        /// Clients with a proven address turned away: the connections held as much memory as they may.
        refused_memory: Counter, Count, Refused;
        /// Clients turned away: their source had as many connections as it may.
        refused_source_connections: Counter, Count, Refused;
        /// Clients not answered: their source had as many handshakes under way as it may.
        refused_source_handshakes: Counter, Count, Refused;
        /// Handshakes that failed, or did not finish in time.
        handshakes_failed: Counter, Count;
        /// Unfinished handshakes that made room for a client whose address was proven.
        evicted_handshakes: Counter, Count;
        /// Client Initials that the acceptor turned away.
        refused_by_acceptor: Counter, Count;
        /// Client Initials that were not authentic, or broken beyond an answer.
        refused_broken: Counter, Count;
        /// Datagrams sent in answer to no connection: Retry, Version Negotiation, resets.
        answers: Counter, Count;
        /// Such answers that found no space.
        answers_dropped: Counter, Count;
        /// Datagrams written for connections.
        tx_datagrams: Counter, Count;
        /// Packets that connections which have ended took for lost.
        ended_lost_packets: Counter, Count;
        /// Probe timeouts of connections which have ended.
        ended_ptos: Counter, Count;
        /// Times that connections which have ended reduced their windows.
        ended_congestion_events: Counter, Count;
        /// Times that connections which have ended fell back to small datagrams, since large ones vanished.
        ended_mtu_black_holes: Counter, Count;
        /// Key updates of connections which have ended, by either side.
        ended_key_updates: Counter, Count;
        /// Packets that connections which have ended dropped: the peer updated its keys too often.
        ended_limited_key_updates: Counter, Count;
        /// Packets refused by connections which have ended, since keeping them would break a bound.
        ended_refused_packets: Counter, Count;
        /// Path challenges that connections which have ended left unanswered: too many waited.
        ended_refused_challenges: Counter, Count;
        /// Datagrams dropped by connections which have ended: larger than we said that we take.
        ended_oversized: Counter, Count;
        /// Datagrams dropped by connections which have ended: not from the address of the path.
        ended_foreign: Counter, Count;
        /// Acknowledgements that connections which have ended withheld: the peer acknowledged nothing.
        ended_withheld_acks: Counter, Count;
        /// Rounds of transmission that ended for want of a buffer.
        tx_blocked: Counter, Count;
        /// Timers of connections that came due.
        timers: Counter, Count;
        /// Calls posted by handles that were carried out.
        commands: Counter, Count;
        /// Calls posted by handles whose connection was gone.
        commands_late: Counter, Count;
        /// Application timers, closures and descriptors served.
        jobs: Counter, Count;
    }
}

counters! {
    /// How a worker spends its turns.
    pub struct TurnCounters, counted by "the worker" {
        /// Turns.
        turns: Counter, Count;
        /// Turns that found nothing to do.
        idle_turns: Counter, Count;
        /// Times that the worker slept.
        sleeps: Counter, Count;
        /// Turns whose callbacks took longer than they may.
        overruns: Counter, Count;
        /// Times that others wanted the CPU, and the worker began to sleep instead of spinning.
        crowded: Counter, Count;
    }
}

/// As for our own counters, for a struct that is defined elsewhere: a field that is added there
/// does not compile until it is added here.
macro_rules! foreign {
    (
        $of:ident: $words:ident, $values:ident, $from_values:ident, $sum:ident,
        $(#[$about:meta])* $named:ident { $( $field:ident, )* }
    ) => {
        pub(super) const $words: usize = [$( stringify!($field), )*].len();

        pub(super) fn $values(stats: &$of) -> [u64; $words] {
            let $of { $( $field, )* } = *stats;
            [$( $field, )*]
        }

        pub(super) fn $from_values(values: [u64; $words]) -> $of {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_beside_their_own_values() {
        let stats = QueueStats { rx_packets: 1, drop_empty: 2, ..QueueStats::default() };
        let value = |name| named_queue_stats(&stats).find(|(n, _)| *n == name).unwrap().1;
        assert_eq!((value("rx_packets"), value("drop_empty"), value("tx_packets")), (1, 2, 0));
        assert_eq!(sum(&stats, &stats).drop_empty, 4);
        let lane = LaneCounters { tx_blocked: 7, ..LaneCounters::default() };
        let of = |name| lane.iter().find(|(counter, _)| counter.name == name).unwrap().1;
        assert_eq!((of("tx_blocked"), of("timers")), (7, 0));
    }
}
