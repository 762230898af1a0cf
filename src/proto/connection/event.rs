//! What a connection tells its application.

use super::Connection;
use super::error::CloseReason;
use crate::proto::streams::StreamEvent;
use crate::wire::{Dir, StreamId};

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
    /// The peer opened a stream.
    StreamOpened {
        /// The stream.
        stream: StreamId,
    },
    /// Data that was lent to the stream has been acknowledged and is given back.
    Acknowledged {
        /// The stream.
        stream: StreamId,
        /// Bytes acknowledged since the last such event.
        bytes: u64,
        /// Everything is, the end of the stream included.
        fin: bool,
    },
    /// The peer will send no more on the stream and what it sent is void.
    StreamReset {
        /// The stream.
        stream: StreamId,
        /// The peer application's code.
        code: u64,
    },
    /// The peer asks us to stop sending on the stream; it was reset with the same code.
    StopSending {
        /// The stream.
        stream: StreamId,
        /// The peer application's code.
        code: u64,
    },
    /// Both directions of the stream are done; its id means nothing any more.
    StreamClosed {
        /// The stream.
        stream: StreamId,
        /// What the application had attached to the stream.
        context: u64,
    },
    /// Streams can be opened again after the peer's limit was reached.
    StreamsAvailable {
        /// Which kind.
        dir: Dir,
    },
    /// The server hands out a token for a later connection (RFC 9000 §8.1.3).
    NewToken {
        /// What to put into the first packet of that connection.
        token: Box<[u8]>,
    },
    /// The connection is over; nothing follows.
    Closed(CloseReason),
}

impl From<StreamEvent> for Event {
    fn from(e: StreamEvent) -> Self {
        match e {
            StreamEvent::Opened { stream } => Self::StreamOpened { stream },
            StreamEvent::Acknowledged { stream, bytes, fin } => {
                Self::Acknowledged { stream, bytes, fin }
            }
            StreamEvent::Reset { stream, code } => Self::StreamReset { stream, code },
            StreamEvent::StopSending { stream, code } => Self::StopSending { stream, code },
            StreamEvent::Closed { stream, context } => Self::StreamClosed { stream, context },
            StreamEvent::Available { dir } => Self::StreamsAvailable { dir },
        }
    }
}

/// The application of a connection, as the protocol sees it.
///
/// Callbacks never nest: what a callback does to the connection takes effect at once, and what
/// follows from it is told after the callback has returned.
pub trait Application {
    /// In-order data of a stream, lent from the buffer that the packet arrived in. Returns how
    /// many bytes were taken. The rest is kept, and the stream stays silent until
    /// [`Connection::resume_receive`]. `fin` says that `data` ends the stream; it is told once,
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
