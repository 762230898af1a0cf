//! What a connection tells its application.

use super::Connection;
use super::error::CloseReason;
use crate::proto::streams::StreamEvent;
use crate::wire::StreamId;

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
    /// The connection is over; nothing follows.
    Closed(CloseReason),
}

/// The application of a connection, as the protocol sees it.
///
/// Callbacks never nest: what a callback does to the connection takes effect at once, and what
/// follows from it is told after the callback has returned.
pub trait Application {
    /// In-order data of a stream, lent from the buffer that the packet arrived in. Returns how
    /// many bytes were taken. The rest is kept, and the stream stays silent until
    /// [`StreamsRef::resume_receive`](crate::proto::streams::StreamsRef::resume_receive). `fin` says that `data` ends the stream; it is told once,
    /// with the last byte (or alone, with no data).
    fn data(
        &mut self,
        connection: &mut Connection,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize;

    /// Anything else.
    fn event(&mut self, connection: &mut Connection, event: Event);
}
