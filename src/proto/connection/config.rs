//! What an endpoint grants and how it behaves: the settings of a connection.

use crate::proto::congestion::Algorithm;
use crate::proto::observer::Observers;
use crate::proto::path::PathConfig;
use crate::proto::streams::{Bounds, Limits};
use crate::time::{Instant, MILLISECOND_NS};
use crate::wire::transport_parameters::TransportParameters;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

/// RFC 9000 §14: every path carries datagrams of this size.
pub const MIN_DATAGRAM_BYTES: u16 = 1200;
/// The exponent that our ACK delays are scaled by: the default of RFC 9000 §18.2.
pub(super) const ACK_DELAY_EXPONENT: u8 = 3;

/// Datagrams of this size are taken whatever our max_udp_payload_size says: a client's first
/// ones leave before it knows, in the size that its own link has.
const MAX_DATAGRAM_BYTES_LEAST: u16 = 1500;

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
    /// How large a connection's window may grow: it doubles when the application takes a whole one within
    /// two round trips, as long as the shortest was. What a reset throws away does not count. No more than
    /// `connection_window_bytes`: it does not grow.
    pub connection_window_max_bytes: u64,
    /// The same for the window of a stream.
    pub stream_window_max_bytes: u64,
    /// Bytes of one stream that [`StreamsRef::send_copy`](crate::proto::streams::StreamsRef::send_copy)
    /// buffers until they are acknowledged.
    pub send_copy_bytes: u32,
    /// Bytes of memory that copies take of all streams of the connection together, in blocks of 4,096: a
    /// stream whose copy is one byte has one.
    pub connection_send_copy_bytes: u32,
    /// Streams of one kind that the peer may have open at most, however many
    /// [`StreamsRef::grant_streams`](crate::proto::streams::StreamsRef::grant_streams) would add.
    pub granted_streams_max: u32,
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
    /// Where a server wants to be reached over IPv4 after the handshake (RFC 9000 §9.6). All clients are told of
    /// it; those whose handshake came over IPv4 move there, if they want to. The server has to receive there: with
    /// a wildcard address, or by a listener of its own. An address of one host, with a port:
    /// `Registration::listen` refuses any other. `None`: where the handshake was.
    pub preferred_v4: Option<SocketAddrV4>,
    /// The same over IPv6.
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
    /// Tell the application what the network does
    /// ([`Event::NetworkStatistics`](super::Event::NetworkStatistics),
    /// [`Event::IdealSendBuffer`](super::Event::IdealSendBuffer)): at most once each round trip and each time
    /// of this length; with zero, each round trip. `None`: not.
    pub network_statistics: Option<Duration>,
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
            connection_window_bytes: 1 << 20,
            stream_window_bytes: 256 << 10,
            connection_window_max_bytes: 32 << 20,
            stream_window_max_bytes: 16 << 20,
            send_copy_bytes: 256 << 10,
            // Sixteen streams that are full. A peer chooses how many streams it asks on, and when it
            // acknowledges the answers.
            connection_send_copy_bytes: 4 << 20,
            granted_streams_max: 10_000,
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
            network_statistics: None,
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

    /// Bounds of the streams that the peer is not told.
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            send_copy_bytes: self.send_copy_bytes,
            connection_send_copy_bytes: self.connection_send_copy_bytes,
            open_streams: self.granted_streams_max,
            stream_window: self.stream_window_max_bytes,
            connection_window: self.connection_window_max_bytes,
        }
    }

    /// True if a server names an address that it prefers.
    pub(crate) fn has_preferred(&self) -> bool {
        self.preferred_v4.is_some() || self.preferred_v6.is_some()
    }

    /// An address that a server prefers, and at which no client can reach it.
    pub(crate) fn unreachable_preferred(&self) -> Option<SocketAddr> {
        let v4 = self.preferred_v4.map(SocketAddr::V4);
        v4.into_iter().chain(self.preferred_v6.map(SocketAddr::V6)).find(|at| !is_host(*at))
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

    /// The largest datagram that is taken in.
    pub(super) fn max_rx_bytes(&self) -> u16 {
        let begins_with = self.initial_mtu_bytes.max(MIN_DATAGRAM_BYTES);
        self.max_mtu_bytes.max(begins_with).max(MAX_DATAGRAM_BYTES_LEAST)
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

/// True if one host can be reached there (RFC 9000 §21.5.3: a server may name any address).
pub(super) fn is_host(at: SocketAddr) -> bool {
    let shared = match at.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast(),
    };
    at.port() != 0 && !shared
}
