//! What a connection tells its application.

use super::error::CloseReason;
use crate::proto::streams::StreamEvent;
use std::net::SocketAddr;

/// Something happened on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The handshake is complete: streams can be opened and data sent.
    Connected {
        /// The session was resumed from a ticket.
        resumed: bool,
    },
    /// The handshake is confirmed (RFC 9001 §4.1.2): the peer has proved that it is complete.
    HandshakeConfirmed,
    /// Something happened to a stream, or streams can be opened again.
    Stream(StreamEvent),
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
    /// The connection is over; nothing follows.
    Closed(CloseReason),
}
