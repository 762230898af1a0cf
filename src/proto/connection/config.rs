//! What an endpoint grants and how it behaves: the settings of a connection.

use crate::proto::congestion::Algorithm;
use crate::proto::observer::Observers;
use crate::proto::path::PathConfig;
use crate::proto::streams::Limits;
use crate::time::{Instant, MILLISECOND_NS};
use crate::wire::transport_parameters::TransportParameters;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

/// RFC 9000 §14: every path carries datagrams of this size.
pub const MIN_DATAGRAM_BYTES: u16 = 1200;
/// The exponent that our ACK delays are scaled by: the default of RFC 9000 §18.2.
pub(super) const ACK_DELAY_EXPONENT: u8 = 3;

/// Settings of a connection. One value serves many connections: share it in an `Arc`.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// Silence after which the connection is given up; zero never gives up.
    pub idle_timeout: Duration,
    /// A handshake that takes longer is given up.
    pub handshake_timeout: Duration,
    /// Quiet time after which a PING keeps the connection alive.
    pub keep_alive: Option<Duration>,
    /// The round-trip time assumed before the first sample.
    pub initial_rtt: Duration,
    /// How long an acknowledgement may be held back.
    pub max_ack_delay: Duration,
    /// Packets that ask for an acknowledgement before one is sent at once.
    pub ack_threshold: u32,
    /// Bytes that the peer may have outstanding on the whole connection.
    pub connection_window_bytes: u64,
    /// Bytes that the peer may have outstanding on one stream.
    pub stream_window_bytes: u64,
    /// Bidirectional streams that the peer may have open.
    pub bidi_streams: u64,
    /// Unidirectional streams that the peer may have open.
    pub uni_streams: u64,
    /// The congestion controller.
    pub congestion: Algorithm,
    /// Spread packets over the round-trip time instead of sending whole windows in bursts.
    pub pacing: bool,
    /// Clients may move to other addresses of theirs. A server for which this is false asks its
    /// clients not to (`disable_active_migration`); one whose NAT forgets it is followed all the
    /// same (RFC 9000 §9).
    pub active_migration: bool,
    /// Where a server wants to be reached after the handshake (RFC 9000 §9.6): clients whose handshake came over
    /// IPv4 are told of this address, and may move to it. The server has to receive there: with a wildcard
    /// address, or by a listener of its own. `None`: where the handshake was.
    pub preferred_v4: Option<SocketAddrV4>,
    /// The same for IPv6.
    pub preferred_v6: Option<SocketAddrV6>,
    /// Clients move to the address that their server prefers, once it has answered from there. Of the
    /// server's addresses that of the family in use is tried.
    pub follow_preferred_address: bool,
    /// Time without sending anything but acknowledgements after which the next packets carry another
    /// connection id of the peer's, if it has given one (RFC 9000 §9.5): who saw the connection before does
    /// not know it again. One second and more: workers notice that a connection is idle after a second.
    /// With `None` or zero, ids change only with paths, and when the peer changes its own.
    pub cid_rotation: Option<Duration>,
    /// Send packets with the ECT(0) codepoint, and report the codepoints that arrive.
    pub ecn: bool,
    /// Datagram size to start with; at least 1200.
    pub initial_mtu_bytes: u16,
    /// Largest datagram size to probe for, and to accept.
    pub max_mtu_bytes: u16,
    /// Connection ids that we are ready to hold for the peer's use: RFC 9000 §5.1.1.
    pub active_connection_ids: u64,
    /// Packets protected with one key before we change it; bounded by the AEAD's own limit.
    pub key_update_packets: u64,
    /// Asked for an observer of each connection; with `None`, no connection has one.
    pub observers: Option<Observers>,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
            keep_alive: None,
            initial_rtt: Duration::from_millis(333),
            max_ack_delay: Duration::from_millis(25),
            ack_threshold: 2,
            connection_window_bytes: 16 << 20,
            stream_window_bytes: 1 << 20,
            bidi_streams: 100,
            uni_streams: 100,
            congestion: Algorithm::Cubic,
            pacing: true,
            active_migration: true,
            preferred_v4: None,
            preferred_v6: None,
            follow_preferred_address: true,
            cid_rotation: Some(Duration::from_secs(20)),
            ecn: true,
            initial_mtu_bytes: MIN_DATAGRAM_BYTES,
            max_mtu_bytes: 1472,
            active_connection_ids: 4,
            key_update_packets: 1 << 22,
            observers: None,
        }
    }
}

impl TransportConfig {
    /// Flow-control limits that we grant the peer.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            data: self.connection_window_bytes,
            stream_data_bidi_local: self.stream_window_bytes,
            stream_data_bidi_remote: self.stream_window_bytes,
            stream_data_uni: self.stream_window_bytes,
            streams_bidi: self.bidi_streams,
            streams_uni: self.uni_streams,
        }
    }

    /// True if a server names an address that it prefers.
    pub(crate) fn has_preferred(&self) -> bool {
        self.preferred_v4.is_some() || self.preferred_v6.is_some()
    }

    /// True if a server prefers this address of its own.
    pub(super) fn prefers(&self, local: SocketAddr) -> bool {
        match local {
            SocketAddr::V4(local) => self.preferred_v4 == Some(local),
            SocketAddr::V6(local) => self
                .preferred_v6
                .is_some_and(|v6| (v6.ip(), v6.port()) == (local.ip(), local.port())),
        }
    }

    /// How paths begin.
    pub(super) fn path(&self) -> PathConfig {
        PathConfig {
            initial_rtt_ns: nanos(self.initial_rtt),
            congestion: self.congestion,
            paced: self.pacing,
            ecn: self.ecn,
            initial_mtu_bytes: self.initial_mtu_bytes.max(MIN_DATAGRAM_BYTES),
            max_mtu_bytes: self.max_mtu_bytes,
        }
    }

    /// The transport parameters that follow from these settings. The connection adds the ids.
    pub(super) fn parameters(&self) -> TransportParameters {
        TransportParameters {
            max_idle_timeout_ms: millis(self.idle_timeout),
            max_udp_payload_size: u64::from(self.max_mtu_bytes.max(MIN_DATAGRAM_BYTES)),
            initial_max_data: self.connection_window_bytes,
            initial_max_stream_data_bidi_local: self.stream_window_bytes,
            initial_max_stream_data_bidi_remote: self.stream_window_bytes,
            initial_max_stream_data_uni: self.stream_window_bytes,
            initial_max_streams_bidi: self.bidi_streams,
            initial_max_streams_uni: self.uni_streams,
            ack_delay_exponent: u64::from(ACK_DELAY_EXPONENT),
            max_ack_delay_ms: millis(self.max_ack_delay),
            disable_active_migration: !self.active_migration,
            active_connection_id_limit: self.active_connection_ids.max(2),
            ..TransportParameters::default()
        }
    }

    /// The acknowledgement delay that we promise, in nanoseconds.
    pub(super) fn max_ack_delay_ns(&self) -> u64 {
        millis(self.max_ack_delay) * MILLISECOND_NS
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX >> 2).min(u64::MAX >> 2)
}

/// A duration as nanoseconds, saturating.
pub(super) fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// `now` and a timeout later, where 0 means never.
pub(super) fn after(now: Instant, timeout_ns: u64) -> Instant {
    if timeout_ns == 0 { Instant::NEVER } else { now.plus_ns(timeout_ns) }
}
