//! Frames (RFC 9000 §19).
//!
//! The payload of a packet is a sequence of frames; each begins with its type, and only STREAM
//! frames without a length run to the end of the packet. [`Frame::read`] takes them one by one
//! and refuses what RFC 9000 calls an encoding error; whether a frame makes sense for this
//! connection, in this packet, now, is for the caller to judge (for the packet's kind there is
//! [`Frame::allowed_in`]).
//!
//! ```
//! use quiclane::wire::{Reader, frame::Frame};
//!
//! // PING, three bytes of PADDING, MAX_DATA.
//! let mut payload = Reader::new(&[0x01, 0x00, 0x00, 0x00, 0x10, 0x25]);
//! assert_eq!(Frame::read(&mut payload), Ok(Frame::Ping));
//! assert_eq!(Frame::read(&mut payload), Ok(Frame::Padding { len: 3 }));
//! assert_eq!(Frame::read(&mut payload), Ok(Frame::MaxData(37)));
//! assert!(payload.is_empty());
//! ```
//!
//! The transmit path writes its frequent frames from their parts, with [`write_ack`],
//! `write_stream_header` and `write_crypto_header`, and all others with [`Frame::write`].

mod ack;
mod read;
mod write;

#[cfg(test)]
mod tests;

pub use ack::{Ack, AckRanges, EcnCounts, write_ack};
pub(crate) use read::is_probing;
pub use read::{FrameError, FrameErrorKind};
pub(crate) use write::{stream_header_len, write_crypto_header, write_stream_header};

use super::packet::PacketType;
use super::{ConnectionId, Dir, StreamId};

/// The most streams of one kind that a connection can have (RFC 9000 §4.6): ids end at 2^62.
pub(crate) const MAX_STREAM_COUNT: u64 = 1 << 60;

/// The numbers of RFC 9000 §19, table 3.
mod types {
    pub(super) const PADDING: u64 = 0x00;
    pub(super) const PING: u64 = 0x01;
    pub(super) const ACK: u64 = 0x02;
    pub(super) const ACK_ECN: u64 = 0x03;
    pub(super) const RESET_STREAM: u64 = 0x04;
    pub(super) const STOP_SENDING: u64 = 0x05;
    pub(super) const CRYPTO: u64 = 0x06;
    pub(super) const NEW_TOKEN: u64 = 0x07;
    pub(super) const STREAM: u64 = 0x08;
    pub(super) const STREAM_LAST: u64 = STREAM | STREAM_OFF | STREAM_LEN | STREAM_FIN;
    pub(super) const STREAM_OFF: u64 = 0x04;
    pub(super) const STREAM_LEN: u64 = 0x02;
    pub(super) const STREAM_FIN: u64 = 0x01;
    pub(super) const MAX_DATA: u64 = 0x10;
    pub(super) const MAX_STREAM_DATA: u64 = 0x11;
    pub(super) const MAX_STREAMS_BIDI: u64 = 0x12;
    pub(super) const MAX_STREAMS_UNI: u64 = 0x13;
    pub(super) const DATA_BLOCKED: u64 = 0x14;
    pub(super) const STREAM_DATA_BLOCKED: u64 = 0x15;
    pub(super) const STREAMS_BLOCKED_BIDI: u64 = 0x16;
    pub(super) const STREAMS_BLOCKED_UNI: u64 = 0x17;
    pub(super) const NEW_CONNECTION_ID: u64 = 0x18;
    pub(super) const RETIRE_CONNECTION_ID: u64 = 0x19;
    pub(super) const PATH_CHALLENGE: u64 = 0x1a;
    pub(super) const PATH_RESPONSE: u64 = 0x1b;
    pub(super) const CONNECTION_CLOSE: u64 = 0x1c;
    pub(super) const APPLICATION_CLOSE: u64 = 0x1d;
    pub(super) const HANDSHAKE_DONE: u64 = 0x1e;
    pub(super) const DATAGRAM: u64 = 0x30;
    pub(super) const DATAGRAM_WITH_LENGTH: u64 = 0x31;
}

/// One frame; it borrows its contents from the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// PADDING: a run of `len` bytes, each of which is a frame on the wire (RFC 9000 §19.1).
    Padding {
        /// How many.
        len: usize,
    },
    /// PING: asks for an acknowledgement (RFC 9000 §19.2).
    Ping,
    /// ACK: packets that arrived (RFC 9000 §19.3).
    Ack(Ack<'a>),
    /// RESET_STREAM: the sender abandons a stream (RFC 9000 §19.4).
    ResetStream {
        /// The stream.
        stream: StreamId,
        /// The application's reason.
        code: u64,
        /// How many bytes the stream ended with.
        final_size: u64,
    },
    /// STOP_SENDING: the receiver wants no more of a stream (RFC 9000 §19.5).
    StopSending {
        /// The stream.
        stream: StreamId,
        /// The application's reason.
        code: u64,
    },
    /// CRYPTO: bytes of the TLS handshake (RFC 9000 §19.6).
    Crypto {
        /// Where they belong in the level's stream of bytes.
        offset: u64,
        /// The bytes.
        data: &'a [u8],
    },
    /// NEW_TOKEN: a token for the client's next connection (RFC 9000 §19.7).
    NewToken {
        /// The token, not empty.
        token: &'a [u8],
    },
    /// STREAM: bytes of a stream (RFC 9000 §19.8).
    Stream {
        /// The stream.
        stream: StreamId,
        /// Where they belong in the stream.
        offset: u64,
        /// The bytes.
        data: &'a [u8],
        /// The stream ends behind them.
        fin: bool,
    },
    /// MAX_DATA: how many bytes all streams together may carry (RFC 9000 §19.9).
    MaxData(u64),
    /// MAX_STREAM_DATA: how many bytes a stream may carry (RFC 9000 §19.10).
    MaxStreamData {
        /// The stream.
        stream: StreamId,
        /// The limit.
        max: u64,
    },
    /// MAX_STREAMS: how many streams may be opened (RFC 9000 §19.11).
    MaxStreams {
        /// Which kind of streams.
        dir: Dir,
        /// The limit, counted from the first stream of the connection; at most 2^60.
        max: u64,
    },
    /// DATA_BLOCKED: the sender has more data than the connection's limit (RFC 9000 §19.12).
    DataBlocked(u64),
    /// STREAM_DATA_BLOCKED: the sender has more data than a stream's limit (RFC 9000 §19.13).
    StreamDataBlocked {
        /// The stream.
        stream: StreamId,
        /// The limit.
        limit: u64,
    },
    /// STREAMS_BLOCKED: the sender wants to open more streams (RFC 9000 §19.14).
    StreamsBlocked {
        /// Which kind of streams.
        dir: Dir,
        /// The limit, at most 2^60.
        limit: u64,
    },
    /// NEW_CONNECTION_ID: one more id to reach the sender under (RFC 9000 §19.15).
    NewConnectionId {
        /// Its number.
        sequence: u64,
        /// Ids with smaller numbers are to be retired; at most `sequence`.
        retire_prior_to: u64,
        /// The id, of 1 to 20 bytes.
        cid: ConnectionId,
        /// What ends the connection if a datagram to `cid` is answered with it.
        reset_token: [u8; 16],
    },
    /// RETIRE_CONNECTION_ID: the sender uses an id no longer (RFC 9000 §19.16).
    RetireConnectionId {
        /// The id's number.
        sequence: u64,
    },
    /// PATH_CHALLENGE: to be answered on the same path (RFC 9000 §19.17).
    PathChallenge([u8; 8]),
    /// PATH_RESPONSE: the answer, of the same bytes (RFC 9000 §19.18).
    PathResponse([u8; 8]),
    /// CONNECTION_CLOSE of type 0x1c: QUIC itself failed (RFC 9000 §19.19).
    ConnectionClose {
        /// The transport error.
        code: u64,
        /// The type of the frame that caused it, 0 if unknown.
        frame_type: u64,
        /// Words for people.
        reason: &'a [u8],
    },
    /// CONNECTION_CLOSE of type 0x1d: the application ends the connection (RFC 9000 §19.19).
    ApplicationClose {
        /// The application's code.
        code: u64,
        /// Words for people.
        reason: &'a [u8],
    },
    /// HANDSHAKE_DONE: the server confirms the handshake (RFC 9000 §19.20).
    HandshakeDone,
}

impl Frame<'_> {
    /// True if a packet with this frame must be acknowledged (RFC 9002 §2).
    #[inline]
    #[must_use]
    pub const fn ack_eliciting(&self) -> bool {
        !matches!(
            self,
            Self::Padding { .. }
                | Self::Ack(_)
                | Self::ConnectionClose { .. }
                | Self::ApplicationClose { .. }
        )
    }

    /// True if this frame may stand in a packet of that kind (RFC 9000 §12.4, table 3, and the
    /// list of what cannot occur in 0-RTT in §12.5).
    #[inline]
    #[must_use]
    pub const fn allowed_in(&self, kind: PacketType) -> bool {
        match kind {
            PacketType::Short => true,
            PacketType::Initial | PacketType::Handshake => matches!(
                self,
                Self::Padding { .. }
                    | Self::Ping
                    | Self::Ack(_)
                    | Self::Crypto { .. }
                    | Self::ConnectionClose { .. }
            ),
            PacketType::ZeroRtt => !matches!(
                self,
                Self::Ack(_)
                    | Self::Crypto { .. }
                    | Self::NewToken { .. }
                    | Self::PathResponse(_)
                    | Self::RetireConnectionId { .. }
                    | Self::HandshakeDone
            ),
            PacketType::Retry | PacketType::VersionNegotiation | PacketType::UnknownVersion => {
                false
            }
        }
    }

    /// The type that [`write`](Self::write) gives it, as CONNECTION_CLOSE names it.
    #[must_use]
    pub const fn frame_type(&self) -> u64 {
        match self {
            Self::Padding { .. } => types::PADDING,
            Self::Ping => types::PING,
            Self::Ack(ack) if ack.ecn.is_some() => types::ACK_ECN,
            Self::Ack(_) => types::ACK,
            Self::ResetStream { .. } => types::RESET_STREAM,
            Self::StopSending { .. } => types::STOP_SENDING,
            Self::Crypto { .. } => types::CRYPTO,
            Self::NewToken { .. } => types::NEW_TOKEN,
            Self::Stream { offset, fin, .. } => write::stream_type(*offset, true, *fin) as u64,
            Self::MaxData(_) => types::MAX_DATA,
            Self::MaxStreamData { .. } => types::MAX_STREAM_DATA,
            Self::MaxStreams { dir: Dir::Bi, .. } => types::MAX_STREAMS_BIDI,
            Self::MaxStreams { dir: Dir::Uni, .. } => types::MAX_STREAMS_UNI,
            Self::DataBlocked(_) => types::DATA_BLOCKED,
            Self::StreamDataBlocked { .. } => types::STREAM_DATA_BLOCKED,
            Self::StreamsBlocked { dir: Dir::Bi, .. } => types::STREAMS_BLOCKED_BIDI,
            Self::StreamsBlocked { dir: Dir::Uni, .. } => types::STREAMS_BLOCKED_UNI,
            Self::NewConnectionId { .. } => types::NEW_CONNECTION_ID,
            Self::RetireConnectionId { .. } => types::RETIRE_CONNECTION_ID,
            Self::PathChallenge(_) => types::PATH_CHALLENGE,
            Self::PathResponse(_) => types::PATH_RESPONSE,
            Self::ConnectionClose { .. } => types::CONNECTION_CLOSE,
            Self::ApplicationClose { .. } => types::APPLICATION_CLOSE,
            Self::HandshakeDone => types::HANDSHAKE_DONE,
        }
    }
}
