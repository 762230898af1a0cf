//! What can go wrong: one type for each kind of call.

use std::error::Error;
use std::fmt;

/// The peer broke a rule of streams; the connection is to be closed with [`StreamError::code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// More data than was allowed.
    FlowControl(&'static str),
    /// A stream beyond the number allowed.
    StreamLimit(&'static str),
    /// A frame that the stream's kind or state does not allow.
    StreamState(&'static str),
    /// Two different ends of one stream.
    FinalSize(&'static str),
}

impl StreamError {
    /// The transport error code of RFC 9000 §20.1.
    #[must_use]
    pub const fn code(&self) -> u64 {
        match self {
            Self::FlowControl(_) => 0x03,
            Self::StreamLimit(_) => 0x04,
            Self::StreamState(_) => 0x05,
            Self::FinalSize(_) => 0x06,
        }
    }

    /// What the peer did, in words.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::FlowControl(reason)
            | Self::StreamLimit(reason)
            | Self::StreamState(reason)
            | Self::FinalSize(reason) => reason,
        }
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl Error for StreamError {}

/// Why a stream could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The peer allows no more; it will be told, and
    /// [`StreamEvent::Available`](super::StreamEvent::Available) tells when it does.
    LimitReached {
        /// How many streams of this kind it has allowed so far.
        limit: u64,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::LimitReached { limit } = self;
        write!(f, "the peer allows {limit} streams of this kind so far")
    }
}

impl Error for OpenError {}

/// Why data could not be written to a stream, or the stream not be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The stream was never opened, or is closed.
    UnknownStream,
    /// The stream was ended with FIN before.
    Finished,
    /// The stream was reset by us.
    Reset,
    /// The peer asked us to stop, with this code, and the stream was reset for it.
    Stopped(u64),
    /// Only the peer sends on this stream.
    NotSendable,
    /// [`StreamsRef::send_copy`](super::StreamsRef::send_copy) buffers no more of this stream. When half
    /// of it is free again, [`StreamEvent::SendReady`](super::StreamEvent::SendReady) tells.
    Full {
        /// Bytes that may be buffered of one stream.
        limit: u64,
    },
    /// Copies of all streams together take the memory that they may. When half of it is free again,
    /// [`StreamEvent::SendReady`](super::StreamEvent::SendReady) tells.
    ConnectionFull {
        /// Bytes of memory that they may take.
        limit: u64,
    },
    /// More than is ever buffered was to be copied in one piece. Nothing is told later: send it in smaller
    /// pieces, or lend it.
    TooLarge {
        /// Bytes that may be copied in one piece.
        limit: u64,
    },
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownStream => f.write_str("the stream is not open"),
            Self::Finished => f.write_str("the stream was ended before"),
            Self::Reset => f.write_str("the stream was reset before"),
            Self::Stopped(code) => write!(f, "the peer asked to stop, with code {code}"),
            Self::NotSendable => f.write_str("only the peer sends on this stream"),
            Self::Full { limit } => write!(
                f,
                "of the stream's data {limit} bytes may be buffered, which they are: wait for \
                 send_ready, or raise TransportConfig::send_copy_bytes"
            ),
            Self::ConnectionFull { limit } => write!(
                f,
                "copied data of all streams takes {limit} bytes of memory, and may not take more: \
                 wait for send_ready, or raise TransportConfig::connection_send_copy_bytes"
            ),
            Self::TooLarge { limit } => write!(
                f,
                "{limit} bytes may be copied in one piece: send smaller ones, use send, or raise \
                 TransportConfig::send_copy_bytes and connection_send_copy_bytes"
            ),
        }
    }
}

impl Error for SendError {}

/// Why a call on a stream's receiving half could not be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveError {
    /// The stream was never opened, or is closed.
    UnknownStream,
    /// Everything was received, or the peer reset the stream, or it was stopped before.
    Ended,
    /// Only we send on this stream.
    NotReceivable,
    /// [`StreamsRef::provide`](super::StreamsRef::provide) was given memory of length 0, into which nothing
    /// can be received.
    EmptyBuffer,
}

impl fmt::Display for ReceiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownStream => "the stream is not open",
            Self::Ended => "nothing more is received on this stream",
            Self::NotReceivable => "only we send on this stream",
            Self::EmptyBuffer => {
                "the memory to receive into has length 0: its length counts, not its capacity \
                 (BytesMut::zeroed)"
            }
        })
    }
}

impl Error for ReceiveError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_rfc() {
        // RFC 9000 §20.1.
        let all = [
            StreamError::FlowControl(""),
            StreamError::StreamLimit(""),
            StreamError::StreamState(""),
            StreamError::FinalSize(""),
        ];
        assert_eq!(all.map(|error| error.code()), [3, 4, 5, 6]);
    }
}
