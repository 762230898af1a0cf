//! The counters of a connection.

use crate::counters::counters;

/// Declares the set, and the two parts that it is put together from: what a connection counts, in this
/// order in its memory, and what is read from its parts when the set is asked for.
macro_rules! declare {
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident, counted by $who:literal;
        counted in $tally:ident {
            $( $(#[doc = $help:literal])+ $field:ident: $kind:ident, $unit:ident; )+
        }
        read into $read:ident {
            $( $(#[doc = $part_help:literal])+ $part:ident: $part_kind:ident, $part_unit:ident; )+
        }
    ) => {
        counters! {
            $(#[doc = $about])+
            pub struct $name, counted by $who {
                $( $(#[doc = $help])+ $field: $kind, $unit; )+
                $( $(#[doc = $part_help])+ $part: $part_kind, $part_unit; )+
            }
        }

        /// What a connection counts.
        #[repr(C)]
        #[derive(Debug, Default)]
        pub(super) struct $tally {
            $( pub(super) $field: u64, )+
        }

        /// What is read from the parts of a connection.
        pub(super) struct $read {
            $( pub(super) $part: u64, )+
        }

        impl $tally {
            /// The set.
            pub(super) fn with(&self, parts: &$read) -> $name {
                $name { $( $field: self.$field, )+ $( $part: parts.$part, )+ }
            }
        }
    };
}

declare! {
    /// Datagrams and packets of a connection, and what became of them.
    pub struct ConnectionStats, counted by "the connection";
    counted in Tally {
        /// Datagrams received.
        rx_datagrams: Counter, Count;
        /// Bytes of datagrams received.
        rx_bytes: Counter, Bytes;
        /// Packets that were authentic.
        rx_packets: Counter, Count;
        /// Datagrams sent.
        tx_datagrams: Counter, Count;
        /// Bytes of datagrams sent.
        tx_bytes: Counter, Bytes;
        /// Packets sent.
        tx_packets: Counter, Count;
        /// Packets that were dropped: duplicates, no keys, not authentic, malformed.
        rx_dropped: Counter, Count;
        /// Datagrams from an address that is not the path's.
        rx_foreign: Counter, Count;
        /// Packets refused because buffering them would break a bound; the peer repeats them.
        rx_refused: Counter, Count;
        /// Path challenges that were not answered, since too many waited for their answer.
        rx_refused_challenges: Counter, Count;
        /// Datagrams dropped because they were larger than we said that we take.
        rx_oversized: Counter, Count;
        /// Acknowledgements that were not sent, since the peer acknowledges nothing of ours.
        tx_withheld_acks: Counter, Count;
        /// Packets declared lost.
        lost_packets: Counter, Count;
        /// Bytes declared lost.
        lost_bytes: Counter, Bytes;
        /// Probe timeouts.
        ptos: Counter, Count;
        /// Times that a server sent its flight again because the client repeated its own.
        flight_repeats: Counter, Count;
        /// Acknowledgements that asked for one themselves, since probes of ours are unanswered.
        ack_probes: Counter, Count;
        /// Acknowledgements that repeated a lost one, and so were no sample of the round trip.
        repeated_acks: Counter, Count;
        /// Losses that lasted long enough to be called persistent congestion.
        persistent_congestions: Counter, Count;
        /// Times that the congestion window was reduced.
        congestion_events: Counter, Count;
        /// Those of them that were taken back: everything lost in them arrived after all.
        spurious_congestion_events: Counter, Count;
        /// Packets dropped because the peer updated its keys too often.
        rx_limited_key_updates: Counter, Count;
        /// Times that packets began to take another path.
        path_changes: Counter, Count;
        /// PATH_CHALLENGE frames sent. They pass the congestion window: three for each path at most.
        tx_path_challenges: Counter, Count;
        /// Paths on which the peer answered a challenge of ours.
        paths_validated: Counter, Count;
        /// Paths that were given up: the peer answered none of our challenges.
        path_validations_failed: Counter, Count;
        /// Packets from a new address that changed no path, since the peer has given no connection id for it.
        rx_refused_paths: Counter, Count;
        /// Times that the active path took another connection id of the peer's: after idle time, or because
        /// the peer changed its own.
        cid_rotations: Counter, Count;
        /// Times that a server answered its client at another address during the handshake.
        handshake_moves: Counter, Count;
        /// Times that a client moved to the address that its server prefers.
        preferred_moves: Counter, Count;
        /// Session tickets that a server did not give, since a client could not have sent them back.
        tx_withheld_tickets: Counter, Count;
        /// Session tickets over which the application's filter panicked: the client had a full handshake.
        rx_ticket_panics: Counter, Count;
    }
    read into Read {
        /// Times that the datagram size fell to the smallest, because large ones vanished.
        mtu_black_holes: Counter, Count;
        /// Key updates, by either side.
        key_updates: Counter, Count;
        /// Bytes in flight now.
        bytes_in_flight: Gauge, Bytes;
        /// The congestion window now.
        window_bytes: Gauge, Bytes;
        /// The smoothed round-trip time now.
        smoothed_rtt_ns: Gauge, Nanoseconds;
        /// The datagram size now.
        mtu_bytes: Gauge, Bytes;
    }
}

// What every packet counts comes first.
const _: () = assert!(std::mem::offset_of!(Tally, rx_dropped) == 6 * size_of::<u64>());
