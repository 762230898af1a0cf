//! What a connection tells its application.

use super::error::CloseReason;
use crate::proto::crypto::PeerCertificate;
use crate::proto::streams::StreamEvent;
use std::net::SocketAddr;

/// How a connection ended: told once nothing is left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Why it was closed.
    pub reason: CloseReason,
    /// The handshake had completed before.
    pub handshake_completed: bool,
    /// The peer knows of the end: it closed by itself, or an authentic packet of its answered our close
    /// with a CONNECTION_CLOSE while we waited (RFC 9000 §10.2.1). False does not say that it knows
    /// nothing: a peer need not answer, and its answer may be lost.
    pub acknowledged: bool,
}

/// Something happened on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer has shown a certificate, and the application has the last word on it: the handshake waits
    /// for [`judge_certificate`](super::Connection::judge_certificate).
    PeerCertificate(Box<PeerCertificate>),
    /// A server's client resumes a session by a ticket in which the application had kept something. Told before
    /// `Connected`.
    Resumed {
        /// What it had kept.
        data: Box<[u8]>,
    },
    /// The handshake is complete: streams can be opened and data sent.
    Connected {
        /// The session was resumed from a ticket.
        resumed: bool,
    },
    /// The handshake is confirmed (RFC 9001 §4.1.2): the peer has proved that it is complete.
    HandshakeConfirmed,
    /// Something happened to a stream, or streams can be opened again.
    Stream(StreamEvent),
    /// The server has given a ticket: a later connection to it may resume the session.
    TicketReceived,
    /// The server hands out a token for a later connection (RFC 9000 §8.1.3).
    NewToken {
        /// What to put into the first packet of that connection.
        token: Box<[u8]>,
    },
    /// The peer is at another address: what is sent goes there. It is not validated yet, unless the
    /// connection has returned to an address from before.
    PeerAddressChanged {
        /// The peer's address.
        remote: SocketAddr,
    },
    /// Our packets leave from another address.
    LocalAddressChanged {
        /// Our address.
        local: SocketAddr,
    },
    /// The peer could not be reached from an address that the connection was to move to.
    MigrationFailed {
        /// That address.
        local: SocketAddr,
    },
    /// A round trip's worth of acknowledgements has arrived: see
    /// [`Connection::network_statistics`](super::Connection::network_statistics).
    NetworkStatistics,
    /// How much data to keep ready has changed.
    IdealSendBuffer {
        /// Bytes, those in flight included.
        bytes: u64,
    },
    /// The connection is over: no more data goes either way, and no other event follows.
    Closed(CloseReason),
}
