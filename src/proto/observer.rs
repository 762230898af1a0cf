//! What happens in a connection, told to an [`Observer`].
//!
//! A qlog writer, a trace and a test listen in the same way: [`TransportConfig`] holds
//! [`Observers`], which are asked once for each connection that begins and may answer with an
//! observer for it. The observer hears of packets, frames, drops, acknowledgements, losses,
//! recovery figures, keys, the path, and what the application is told. It gets no access to the
//! connection, so that it cannot change what happens.
//!
//! ```
//! use quiclane::proto::connection::TransportConfig;
//! use quiclane::proto::observer::{Observation, Observer, Observers};
//! use quiclane::time::Instant;
//!
//! struct Print;
//!
//! impl Observer for Print {
//!     fn observe(&mut self, now: Instant, what: &Observation<'_>) {
//!         if let Observation::PacketSent(packet) = what {
//!             for frame in packet.frames() {
//!                 println!("{} ns: {} carries {frame:?}", now.as_nanos(), packet.number);
//!             }
//!         }
//!     }
//! }
//!
//! let servers_only = Observers::new(|start| {
//!     (start.side == quiclane::Side::Server).then(|| Box::new(Print) as Box<dyn Observer>)
//! });
//! let config = TransportConfig { observers: Some(servers_only), ..TransportConfig::default() };
//! ```
//!
//! # What it costs
//!
//! A connection without an observer tests one byte for each packet in either direction, for each ACK
//! frame and for each event; the byte lies beside the state, which a packet reads anyway. All else
//! is out of line, and nothing is kept or allocated. An observation borrows from the connection, so
//! that an observer pays for what it copies.

use crate::ecn::Ecn;
use crate::proto::connection::Event;
use crate::time::Instant;
use crate::wire::frame::Frame;
use crate::wire::packet::PacketType;
use crate::wire::transport_parameters::TransportParameters;
use crate::wire::{ConnectionId, Reader, Side};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

#[cfg(doc)]
use crate::proto::connection::TransportConfig;

/// Hears what happens in one connection.
pub trait Observer: Send {
    /// Something happened at `now`. Called on the thread that owns the connection, between two
    /// steps of the protocol: what takes long here delays every connection of the thread.
    fn observe(&mut self, now: Instant, what: &Observation<'_>);
}

impl<F: FnMut(Instant, &Observation<'_>) + Send> Observer for F {
    fn observe(&mut self, now: Instant, what: &Observation<'_>) {
        self(now, what);
    }
}

/// Makes the observer of a connection, or `None` for one that is not observed.
pub type MakeObserver = dyn Fn(&Start) -> Option<Box<dyn Observer>> + Send + Sync;

/// Decides for each connection whether it is observed, and by what.
#[derive(Clone)]
pub struct Observers(Arc<MakeObserver>);

impl Observers {
    /// Calls `make` for each connection that begins, on the thread that will own it.
    #[must_use]
    pub fn new(make: impl Fn(&Start) -> Option<Box<dyn Observer>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }

    /// The observer of a connection that begins.
    pub(super) fn observer(&self, start: &Start) -> Option<Box<dyn Observer>> {
        (self.0)(start)
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observers")
    }
}

/// A connection that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Which end this is.
    pub side: Side,
    /// The peer's address.
    pub remote: SocketAddr,
    /// The version of the first packet.
    pub version: u32,
    /// The id that the peer writes into its packets.
    pub local_cid: ConnectionId,
    /// The id that we write into our packets.
    pub remote_cid: ConnectionId,
    /// The destination id of the client's first Initial, before any Retry: the same at both ends.
    pub original_dcid: ConnectionId,
}

/// Something that happened.
#[derive(Clone, Copy, Debug)]
pub enum Observation<'a> {
    /// The connection begins.
    Started(Start),
    /// A Version Negotiation packet arrived.
    VersionsOffered {
        /// The versions in it.
        versions: &'a [u32],
        /// The version that the connection goes on with; `None` ends it.
        chosen: Option<u32>,
    },
    /// The peer's transport parameters, authenticated by TLS.
    PeerParameters(&'a TransportParameters),
    /// A packet is written, and about to be protected and sent.
    PacketSent(PacketSent<'a>),
    /// An authentic packet arrived, and was not seen before. Its frames are not read yet.
    PacketReceived(PacketReceived<'a>),
    /// A packet, or the rest of a datagram, was dropped.
    PacketDropped(PacketDropped),
    /// A packet was opened, but what it carries may not be buffered: it is not acknowledged, and the
    /// peer sends it again.
    PacketRefused {
        /// Its type.
        kind: PacketType,
        /// Its number.
        number: u64,
    },
    /// What is left of a datagram is kept, from the first packet on for which there are no keys yet.
    DatagramKept {
        /// Which datagram.
        datagram: u64,
        /// The size of what is kept.
        bytes: usize,
    },
    /// A packet of ours was acknowledged for the first time.
    PacketAcknowledged(Resolved),
    /// A packet of ours was declared lost.
    PacketLost(Resolved, LossTrigger),
    /// A packet that was declared lost was acknowledged after all.
    LossWasSpurious {
        /// The packet's number; its type is 1-RTT.
        number: u64,
    },
    /// The congestion controller was told of congestion.
    Congestion(CongestionEvent),
    /// All packets of the last congestion event arrived: it was taken back.
    CongestionWasSpurious,
    /// Figures of recovery and congestion control changed.
    Recovery(Recovery),
    /// The connection changed its state.
    State(State),
    /// Keys were made, changed or discarded.
    Keys(KeyChange),
    /// The path changed.
    Path(PathChange),
    /// The application is told something.
    Event(&'a Event),
}

/// A packet that was sent.
#[derive(Clone, Copy)]
pub struct PacketSent<'a> {
    /// Its type.
    pub kind: PacketType,
    /// Its number.
    pub number: u64,
    /// Its size, header and tag included.
    pub bytes: usize,
    /// Which datagram of the connection carries it, counted from 1.
    pub datagram: u64,
    /// The id that it is addressed to.
    pub dcid: ConnectionId,
    /// The count of key updates before it; 0 unless its type is 1-RTT.
    pub key_phase: u64,
    /// The codepoint of its datagram.
    pub ecn: Ecn,
    /// It asks for an acknowledgement.
    pub ack_eliciting: bool,
    /// It counts against the congestion window.
    pub in_flight: bool,
    /// It probes the path's MTU.
    pub mtu_probe: bool,
    /// Its payload, before protection.
    pub payload: &'a [u8],
}

/// A packet that arrived.
#[derive(Clone, Copy)]
pub struct PacketReceived<'a> {
    /// Its type.
    pub kind: PacketType,
    /// Its number.
    pub number: u64,
    /// Its size, header and tag included.
    pub bytes: usize,
    /// Which datagram of the connection carried it, counted from 1. That of a packet that was
    /// kept is the datagram after which it was opened.
    pub datagram: u64,
    /// The id that it was addressed to.
    pub dcid: ConnectionId,
    /// The count of key updates before it; 0 unless its type is 1-RTT.
    pub key_phase: u64,
    /// The codepoint of its datagram.
    pub ecn: Ecn,
    /// Its payload, opened.
    pub payload: &'a [u8],
}

impl<'a> PacketSent<'a> {
    /// Its frames.
    #[must_use]
    pub fn frames(&self) -> Frames<'a> {
        Frames::new(self.payload)
    }
}

impl<'a> PacketReceived<'a> {
    /// Its frames, up to the first that cannot be read.
    #[must_use]
    pub fn frames(&self) -> Frames<'a> {
        Frames::new(self.payload)
    }
}

impl fmt::Debug for PacketSent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, number, bytes, datagram, ecn, .. } = self;
        write!(f, "{kind:?} {number}, {bytes} bytes, datagram {datagram}, {ecn:?}")?;
        f.write_str(if self.mtu_probe { ", probes the MTU:" } else { ":" })?;
        self.frames().fmt(f)
    }
}

impl fmt::Debug for PacketReceived<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, number, bytes, datagram, ecn, .. } = self;
        write!(f, "{kind:?} {number}, {bytes} bytes, datagram {datagram}, {ecn:?}:")?;
        self.frames().fmt(f)
    }
}

/// The frames of a packet, read from its payload.
#[derive(Clone)]
pub struct Frames<'a>(Reader<'a>);

impl<'a> Frames<'a> {
    fn new(payload: &'a [u8]) -> Self {
        Self(Reader::new(payload))
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        if self.0.is_empty() { None } else { Frame::read(&mut self.0).ok() }
    }
}

impl fmt::Debug for Frames<'_> {
    /// Data is told by its length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for frame in self.clone() {
            match &frame {
                Frame::Crypto { offset, data } => {
                    write!(f, " Crypto {offset}..{}", offset + data.len() as u64)?;
                }
                Frame::Stream { stream, offset, data, fin } => {
                    let (id, end) = (stream.raw(), offset + data.len() as u64);
                    write!(f, " Stream {id} {offset}..{end}{}", if *fin { " fin" } else { "" })?;
                }
                Frame::NewToken { token } => write!(f, " NewToken of {} bytes", token.len())?,
                Frame::Ack(ack) => {
                    f.write_str(" Ack")?;
                    for (low, high) in ack.ranges() {
                        write!(f, " {low}-{high}")?;
                    }
                }
                Frame::Padding { .. }
                | Frame::Ping
                | Frame::ResetStream { .. }
                | Frame::StopSending { .. }
                | Frame::MaxData(_)
                | Frame::MaxStreamData { .. }
                | Frame::MaxStreams { .. }
                | Frame::DataBlocked(_)
                | Frame::StreamDataBlocked { .. }
                | Frame::StreamsBlocked { .. }
                | Frame::NewConnectionId { .. }
                | Frame::RetireConnectionId { .. }
                | Frame::PathChallenge(_)
                | Frame::PathResponse(_)
                | Frame::ConnectionClose { .. }
                | Frame::ApplicationClose { .. }
                | Frame::HandshakeDone => write!(f, " {frame:?}")?,
            }
        }
        Ok(())
    }
}

/// A packet that was dropped, or all that is left of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketDropped {
    /// Its type; `None` if that was not looked at, or makes no sense.
    pub kind: Option<PacketType>,
    /// Its size.
    pub bytes: usize,
    /// Which datagram of the connection carried it, counted from 1.
    pub datagram: u64,
    /// Why.
    pub reason: DropReason,
}

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The datagram is larger than we take.
    TooLarge,
    /// The datagram came from an address that is not the path's.
    ForeignAddress,
    /// The connection is closing or over.
    Closed,
    /// The header cannot be read.
    Malformed,
    /// It is addressed to another connection than the first packet of its datagram
    /// (RFC 9000 §12.2).
    OtherConnection,
    /// A client's Initial in a datagram of less than 1,200 bytes (RFC 9000 §14.1).
    SmallInitial,
    /// A server's Initial with a token (RFC 9000 §17.2.2).
    UnexpectedToken,
    /// A 0-RTT packet: we offer none.
    ZeroRtt,
    /// A version that we do not speak.
    UnknownVersion,
    /// There are no keys for it yet.
    KeysUnavailable,
    /// Its keys are discarded.
    KeysDiscarded,
    /// The fixed bit is 0 (RFC 9000 §17.3.1).
    FixedBit,
    /// Too short for its header protection.
    TooShort,
    /// It does not open with the keys: forged, or damaged.
    NotAuthentic,
    /// It was seen before.
    Duplicate,
    /// It brings one key update too many for now.
    KeyUpdateLimit,
    /// Its source id is not the one that the peer began with (RFC 9000 §7.2).
    PeerIdChanged,
    /// A Retry that came too late, is not authentic, or says nothing (RFC 9000 §17.2.5.2).
    UselessRetry,
    /// A Version Negotiation that came too late, is not for us, or offers our own version
    /// (RFC 9000 §6.2).
    UselessVersionNegotiation,
    /// There are no keys for it yet, and as many datagrams wait for theirs as may.
    TooManyWait,
}

impl DropReason {
    /// True if the bytes may be a stateless reset: those of a packet that nothing opens
    /// (RFC 9000 §10.3.1).
    pub(super) fn may_be_reset(self) -> bool {
        matches!(self, Self::FixedBit | Self::TooShort | Self::NotAuthentic)
    }
}

/// A packet of ours whose fate is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Its type.
    pub kind: PacketType,
    /// Its number.
    pub number: u64,
    /// Its size.
    pub bytes: u16,
    /// When it was sent.
    pub sent_at: Instant,
    /// It probed the path's MTU.
    pub mtu_probe: bool,
}

/// Why a packet was declared lost (RFC 9002 §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossTrigger {
    /// Enough later packets were acknowledged.
    ReorderingThreshold,
    /// It was sent long enough before one that was acknowledged.
    TimeThreshold,
}

/// What the congestion controller was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CongestionEvent {
    /// Bytes lost; 0 for ECN-CE codepoints.
    pub lost_bytes: u64,
    /// The losses are persistent congestion (RFC 9002 §7.6).
    pub persistent: bool,
    /// A router set the ECN-CE codepoint.
    pub ecn: bool,
    /// An event of its own; false if it belongs to the last one.
    pub reduced: bool,
}

/// Figures of recovery and congestion control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The congestion window.
    pub window_bytes: u64,
    /// Where slow start ends; `None` while nothing has ended it.
    pub ssthresh_bytes: Option<u64>,
    /// Bytes in flight.
    pub in_flight_bytes: u64,
    /// The last sample of the round-trip time.
    pub latest_rtt_ns: u64,
    /// The smoothed round-trip time.
    pub smoothed_rtt_ns: u64,
    /// Its variation.
    pub rtt_variance_ns: u64,
    /// The smallest round-trip time.
    pub min_rtt_ns: u64,
    /// The rate at which packets leave, where the controller sets one.
    pub pacing_bytes_per_second: Option<u64>,
    /// Probe timeouts in a row.
    pub probe_count: u8,
}

/// The states of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// TLS is not done.
    Handshaking,
    /// TLS is done, and application data flows.
    Established,
    /// TLS is known to be done at both ends (RFC 9001 §4.1.2).
    Confirmed,
    /// We closed the connection (RFC 9000 §10.2.1).
    Closing,
    /// The peer closed the connection (RFC 9000 §10.2.2).
    Draining,
    /// It is over.
    Drained,
}

/// A change of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// There are keys for packets of this type.
    Installed(PacketType),
    /// The keys of packets of this type are gone.
    Discarded(PacketType),
    /// 1-RTT keys were updated (RFC 9001 §6).
    Updated {
        /// The count of updates, this one included.
        phase: u64,
        /// The peer began it.
        by_peer: bool,
    },
    /// The 1-RTT keys from before the last update are gone.
    PreviousDiscarded {
        /// The count of updates at which they were in use.
        phase: u64,
    },
}

/// A change of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// Packets take another path.
    Moved {
        /// Our address.
        local: SocketAddr,
        /// The peer's.
        remote: SocketAddr,
    },
    /// The peer is at the address that its packets come from (RFC 9000 §8).
    Validated,
    /// Datagrams have another size from now on.
    Mtu {
        /// The size in bytes.
        bytes: u16,
    },
    /// What is known of ECN on the path (RFC 9000 §A.4).
    Ecn(EcnState),
}

/// The states of ECN validation (RFC 9000 §A.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EcnState {
    /// The first packets leave with ECT(0).
    Testing,
    /// They have left, and nothing is known of them yet.
    Unknown,
    /// The peer has seen the codepoints.
    Capable,
    /// The path or the peer does not keep them, or ECN is switched off.
    Failed,
}
