//! What a worker counts itself, and all sets that it publishes.

use super::overrun::OverrunCounters;
use crate::counters::{Description, Meaning, Set, counters};
use crate::datapath::QueueStats;
use crate::datapath::udp::UdpStats;
use crate::proto::connection::ConnectionStats;
use crate::proto::endpoint::EndpointStats;
use crate::proto::streams::StreamsStats;

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
        /// Datagrams not handed over: their connection had its share of the buffers under way.
        rx_wrong_queue_share: Counter, Count;
        /// Datagrams that other workers handed to this one.
        rx_handed_over: Counter, Count;
        /// Datagrams that were handed to this worker and passed on: their connection had moved.
        rx_passed_on: Counter, Count;
        /// Datagrams for the process that was taken over from, passed on to it.
        rx_for_predecessor: Counter, Count;
        /// Datagrams for the process that was taken over from, which had too many waiting or had ended.
        rx_for_predecessor_dropped: Counter, Count;
        /// Connections that came from another worker.
        moved_in: Counter, Count;
        /// Connections that went to another worker.
        moved_out: Counter, Count;
        /// Connections that stayed though their datagrams arrive at another worker: their application
        /// wished it.
        moves_vetoed: Counter, Count;
        /// Connections that stayed though their datagrams arrive at another worker, which had no place
        /// for them.
        moves_declined: Counter, Count;
        /// Times that a connection of this side lost its address, and moved to another one.
        address_moves: Counter, Count;
        /// Times that a connection of this side lost its address, and could not move: there is no other
        /// one, its server forbids it, or has given no connection id for it.
        address_strandings: Counter, Count;
        /// Watches of descriptors that ended with a move: the new worker could not wait for them.
        watches_lost: Counter, Count;
        /// Datagrams too short to hold a connection id, or to an address without a listener.
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
        /// Handshakes that other workers do not know, for want of a place: a copy of their first packet
        /// that arrives on another worker's queue begins a second one.
        handshakes_unshared: Counter, Count;
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
        /// Clients with a proven address not answered: more connections began in this second than may,
        /// in all or from their network.
        refused_rate: Counter, Count, Refused;
        /// Client Initials refused: the worker was late with what arrives.
        refused_pressure: Counter, Count, Refused;
        /// Client Initials not answered: the worker was very late with what arrives.
        initials_shed: Counter, Count, Refused;
        /// Client Initials dropped: too many waited for established connections to be served.
        initials_dropped: Counter, Count, Refused;
        /// Client Initials dropped: their source had its share of the places in which they wait.
        initials_source_share: Counter, Count, Refused;
        /// Client Initials that waited so long that their client has sent them again.
        initials_expired: Counter, Count;
        /// Client Initials refused at the application's wish.
        refused_by_wish: Counter, Count;
        /// Client Initials that wait for established connections to be served.
        initials_waiting: Gauge, Count;
        /// Bytes that unfinished handshakes hold.
        handshake_bytes: Gauge, Bytes;
        /// What is done about new connections for reasons of load: 0 they are accepted, 1 asked for
        /// proof of their address, 2 refused, 3 not answered.
        pressure: Gauge, Count;
        /// How often that has changed.
        pressure_changes: Counter, Count;
        /// Handshakes that failed, or did not finish in time.
        handshakes_failed: Counter, Count;
        /// Unfinished handshakes ended in favour of a client whose address was proven.
        evicted_handshakes: Counter, Count;
        /// Clients about which the acceptor has yet to decide, or had.
        deferred: Counter, Count;
        /// Clients that the acceptor turned away.
        refused_by_acceptor: Counter, Count;
        /// Client Initials that were not authentic, or broken beyond an answer.
        refused_broken: Counter, Count;
        /// Datagrams sent in answer to no connection: Retry, Version Negotiation, resets.
        answers: Counter, Count;
        /// Such answers that were dropped: too many waited already.
        answers_dropped: Counter, Count;
        /// Datagrams written, for connections and as answers.
        tx_datagrams: Counter, Count;
        /// Rounds of transmission that ended because the datapath had no buffer.
        tx_blocked: Counter, Count;
        /// Timers of connections that came due.
        timers: Counter, Count;
        /// Calls posted by handles that were carried out.
        commands: Counter, Count;
        /// Calls posted by handles whose connection was gone.
        commands_late: Counter, Count;
        /// Callbacks that panicked. Their connections were closed.
        callback_panics: Counter, Count;
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
        /// How long a datagram waited from its arrival until the last turn: an upper bound on AF_XDP.
        queue_delay_ns: Gauge, Nanoseconds;
        /// The largest queue delay since the start.
        queue_delay_max_ns: Gauge, Nanoseconds;
        /// Turns that panicked. All connections of the worker were closed.
        panics: Counter, Count;
    }
}

/// Declares what a worker publishes: its sets, each with the name that JSON has for it.
macro_rules! sets {
    (
        $(#[$about:meta])+
        pub struct $name:ident {
            $(
                $(#[$field_about:meta])+
                $field:ident as $key:literal: $set:ty, has gauges: $has_gauges:literal;
            )+
        }
    ) => {
        $(#[$about])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $( $(#[$field_about])+ pub $field: $set, )+
        }

        impl $name {
            /// Every set, in order.
            pub const SETS: &'static [Set] = &[$(
                Set {
                    name: $key,
                    about: <$set>::ABOUT,
                    counted_by: <$set>::COUNTED_BY,
                    counters: <$set>::DESCRIPTIONS,
                    has_gauges: $has_gauges,
                },
            )+];
            /// How many numbers all sets have together.
            pub const WORDS: usize = 0 $( + <$set>::LEN )+;

            /// All numbers of all sets, in order.
            #[must_use]
            pub fn words(&self) -> [u64; Self::WORDS] {
                let values = std::iter::empty() $( .chain(self.$field.values()) )+;
                let mut words = [0; Self::WORDS];
                for (word, value) in words.iter_mut().zip(values) {
                    *word = value;
                }
                words
            }

            /// The sets with these numbers, in order.
            #[must_use]
            pub fn from_words(words: [u64; Self::WORDS]) -> Self {
                let mut words = words.into_iter();
                let mut next = || words.next().unwrap_or_default();
                Self {
                    $( $field: <$set>::from_values(std::array::from_fn(|_| next())), )+
                }
            }

            /// Adds what another worker has counted.
            pub fn add(&mut self, other: &Self) {
                $( self.$field.add(&other.$field); )+
            }
        }
    };
}

sets! {
    /// What a worker counts, at one moment.
    pub struct Snapshot {
        /// Connections and datagrams.
        lane as "lane": LaneCounters, has gauges: true;
        /// Turns.
        turns as "turns": TurnCounters, has gauges: true;
        /// Datagrams of no connection: listeners' answers and refusals.
        endpoint as "endpoint": EndpointStats, has gauges: true;
        /// The datapaths of the worker together.
        queue as "datapath": QueueStats, has gauges: true;
        /// The kernel sockets of the worker together.
        udp as "udp": UdpStats, has gauges: true;
        /// Counters of connections that are over. Those that live are not read: at 10,000
        /// connections that would be as many misses of the cache, twenty times a second.
        ended_connections as "ended_connections": ConnectionStats, has gauges: false;
        /// The same of their streams.
        ended_streams as "ended_streams": StreamsStats, has gauges: false;
        /// Callbacks that took too long, by name.
        overruns as "overruns": OverrunCounters, has gauges: true;
    }
}

impl Snapshot {
    /// Every counter of every set, with its value: what is declared, and nothing else.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Set, &'static Description, u64)> + use<> {
        let all = Self::SETS.iter();
        let all = all.flat_map(|set| set.counters.iter().map(move |counter| (set, counter)));
        let all = all.zip(self.words()).map(|((set, counter), value)| (set, counter, value));
        all.filter(|(set, counter, _)| set.tells(counter))
    }

    /// The counters with this meaning to an operator that are not zero.
    pub fn with_meaning(
        &self,
        meaning: Meaning,
    ) -> impl Iterator<Item = (&'static Description, u64)> + use<> {
        let met = move |counter: &Description, value| counter.meaning == meaning && value > 0;
        let all = self.iter().map(|(_, counter, value)| (counter, value));
        all.filter(move |(counter, value)| met(counter, *value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_beside_their_own_values() {
        let mut one = Snapshot::default();
        (one.lane.tx_blocked, one.queue.rx_packets, one.queue.drop_empty) = (7, 1, 2);
        (one.endpoint.damaged, one.lane.refused_full, one.queue.xdp_rx_dropped) = (3, 4, 5);
        let of = |snapshot: &Snapshot, set, name| {
            let mut all = snapshot.iter();
            all.find(|(s, counter, _)| s.name == set && counter.name == name).unwrap().2
        };
        assert_eq!((of(&one, "lane", "tx_blocked"), of(&one, "datapath", "rx_packets")), (7, 1));
        let with = |meaning| -> Vec<_> {
            one.with_meaning(meaning).map(|(counter, value)| (counter.name, value)).collect()
        };
        assert_eq!(with(Meaning::Dropped), [("damaged", 3), ("drop_empty", 2)]);
        assert_eq!(with(Meaning::Refused), [("refused_full", 4)]);
        assert_eq!((with(Meaning::Lost), one.queue.drops()), (vec![("xdp_rx_dropped", 5)], 7));
        let mut both = one;
        both.add(&one);
        assert_eq!(of(&both, "datapath", "drop_empty"), 4);
    }

    #[test]
    fn every_counter_has_a_name_of_its_own_and_help() {
        let mut seen = std::collections::BTreeSet::new();
        for (set, counter, _) in Snapshot::default().iter() {
            assert!(seen.insert((set.name, counter.name)), "{} {}", set.name, counter.name);
            assert!(counter.help.ends_with(['.', ')']), "{}: {}", counter.name, counter.help);
            assert!(!counter.help.contains("]("), "{}: a link: {}", counter.name, counter.help);
        }
        assert!(seen.len() > 80, "{}", seen.len());
    }
}
