//! Bytes to frames.

use super::{Ack, Frame, MAX_STREAM_COUNT, types};
use crate::wire::{ConnectionId, Dir, Reader, StreamId, Truncated, VARINT_MAX, varint_len};
use std::error::Error;
use std::fmt;

/// Why bytes are no frame, and the type that they began with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameError {
    /// The type of the frame; 0 if the bytes end within it.
    pub frame_type: u64,
    /// What is wrong.
    pub kind: FrameErrorKind,
}

/// What can be wrong with a frame's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameErrorKind {
    /// The packet ends within the frame.
    Truncated,
    /// No frame has this type (RFC 9000 §12.4).
    UnknownType,
    /// The type is not in its shortest form (RFC 9000 §12.4).
    TypeNotMinimal,
    /// DATAGRAM, which we never offer (RFC 9221 §3).
    NotNegotiated,
    /// A field has a value that it must not have; which, in words.
    InvalidValue(&'static str),
}

impl FrameError {
    /// The transport error that the connection is closed with (RFC 9000 §20.1).
    #[must_use]
    pub const fn code(self) -> u64 {
        const FRAME_ENCODING_ERROR: u64 = 0x07;
        const PROTOCOL_VIOLATION: u64 = 0x0a;
        match self.kind {
            FrameErrorKind::TypeNotMinimal | FrameErrorKind::NotNegotiated => PROTOCOL_VIOLATION,
            FrameErrorKind::Truncated
            | FrameErrorKind::UnknownType
            | FrameErrorKind::InvalidValue(_) => FRAME_ENCODING_ERROR,
        }
    }

    /// What is wrong, in words.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self.kind {
            FrameErrorKind::Truncated => "the packet ends within a frame",
            FrameErrorKind::UnknownType => "unknown frame type",
            FrameErrorKind::TypeNotMinimal => "a frame type is not in its shortest form",
            FrameErrorKind::NotNegotiated => "DATAGRAM was not negotiated",
            FrameErrorKind::InvalidValue(what) => what,
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (frame type {:#04x})", self.reason(), self.frame_type)
    }
}

impl Error for FrameError {}

impl From<Truncated> for FrameErrorKind {
    #[inline]
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

/// Types as they stand in the first byte.
const STREAM: u8 = types::STREAM as u8;
const STREAM_LAST: u8 = types::STREAM_LAST as u8;

impl<'a> Frame<'a> {
    /// Reads the next frame of a packet's payload. A run of PADDING is one frame.
    ///
    /// # Errors
    /// [`FrameError`] if the bytes are not a frame, also if there are none: the caller asks only
    /// while some are left. The reader is of no use after that.
    #[inline]
    pub fn read(r: &mut Reader<'a>) -> Result<Self, FrameError> {
        // Only the frame that bulk data comes in is read where it is wanted.
        match r.peek() {
            Some(first @ STREAM..=STREAM_LAST) => {
                read_stream(r).map_err(|kind| FrameError { frame_type: u64::from(first), kind })
            }
            _ => read_other(r),
        }
    }
}

/// RFC 9000 §19.8
#[inline]
fn read_stream<'a>(r: &mut Reader<'a>) -> Result<Frame<'a>, FrameErrorKind> {
    let first = r.u8()?;
    let has = |bit: u64| u64::from(first) & bit != 0;
    let stream = StreamId::from_raw(r.varint()?);
    let offset = if has(types::STREAM_OFF) { r.varint()? } else { 0 };
    let data = if has(types::STREAM_LEN) { r.prefixed()? } else { r.rest() };
    if offset + data.len() as u64 > VARINT_MAX {
        return Err(FrameErrorKind::InvalidValue("a stream would pass 2^62 - 1 bytes"));
    }
    Ok(Frame::Stream { stream, offset, data, fin: has(types::STREAM_FIN) })
}

/// All frames but STREAM.
#[inline(never)]
fn read_other<'a>(r: &mut Reader<'a>) -> Result<Frame<'a>, FrameError> {
    let start = r.remaining();
    let truncated = FrameError { frame_type: 0, kind: FrameErrorKind::Truncated };
    let frame_type = r.varint().map_err(|Truncated| truncated)?;
    // RFC 9000 §12.4: the one varint that must be in its shortest form.
    let frame = if start - r.remaining() == varint_len(frame_type) {
        read_fields(r, frame_type)
    } else {
        Err(FrameErrorKind::TypeNotMinimal)
    };
    frame.map_err(|kind| FrameError { frame_type, kind })
}

/// What follows the type.
#[inline]
fn read_fields<'a>(r: &mut Reader<'a>, frame_type: u64) -> Result<Frame<'a>, FrameErrorKind> {
    Ok(match frame_type {
        types::PADDING => Frame::Padding { len: 1 + r.zeros() },
        types::PING => Frame::Ping,
        types::ACK | types::ACK_ECN => Frame::Ack(Ack::read(r, frame_type == types::ACK_ECN)?),
        types::RESET_STREAM => {
            Frame::ResetStream { stream: stream(r)?, code: r.varint()?, final_size: r.varint()? }
        }
        types::STOP_SENDING => Frame::StopSending { stream: stream(r)?, code: r.varint()? },
        types::CRYPTO => return read_crypto(r),
        types::NEW_TOKEN => return read_new_token(r),
        types::MAX_DATA => Frame::MaxData(r.varint()?),
        types::MAX_STREAM_DATA => Frame::MaxStreamData { stream: stream(r)?, max: r.varint()? },
        types::MAX_STREAMS_BIDI => Frame::MaxStreams { dir: Dir::Bi, max: count(r)? },
        types::MAX_STREAMS_UNI => Frame::MaxStreams { dir: Dir::Uni, max: count(r)? },
        types::DATA_BLOCKED => Frame::DataBlocked(r.varint()?),
        types::STREAM_DATA_BLOCKED => {
            Frame::StreamDataBlocked { stream: stream(r)?, limit: r.varint()? }
        }
        types::STREAMS_BLOCKED_BIDI => Frame::StreamsBlocked { dir: Dir::Bi, limit: count(r)? },
        types::STREAMS_BLOCKED_UNI => Frame::StreamsBlocked { dir: Dir::Uni, limit: count(r)? },
        types::NEW_CONNECTION_ID => return read_new_connection_id(r),
        types::RETIRE_CONNECTION_ID => Frame::RetireConnectionId { sequence: r.varint()? },
        types::PATH_CHALLENGE => Frame::PathChallenge(r.array()?),
        types::PATH_RESPONSE => Frame::PathResponse(r.array()?),
        types::CONNECTION_CLOSE => Frame::ConnectionClose {
            code: r.varint()?,
            frame_type: r.varint()?,
            reason: r.prefixed()?,
        },
        types::APPLICATION_CLOSE => {
            Frame::ApplicationClose { code: r.varint()?, reason: r.prefixed()? }
        }
        types::HANDSHAKE_DONE => Frame::HandshakeDone,
        types::DATAGRAM | types::DATAGRAM_WITH_LENGTH => return Err(FrameErrorKind::NotNegotiated),
        _ => return Err(FrameErrorKind::UnknownType),
    })
}

fn stream(r: &mut Reader<'_>) -> Result<StreamId, Truncated> {
    r.varint().map(StreamId::from_raw)
}

/// A number of streams (RFC 9000 §19.11, §19.14).
fn count(r: &mut Reader<'_>) -> Result<u64, FrameErrorKind> {
    match r.varint()? {
        count if count > MAX_STREAM_COUNT => {
            Err(FrameErrorKind::InvalidValue("more than 2^60 streams"))
        }
        count => Ok(count),
    }
}

/// RFC 9000 §19.6
fn read_crypto<'a>(r: &mut Reader<'a>) -> Result<Frame<'a>, FrameErrorKind> {
    let offset = r.varint()?;
    let data = r.prefixed()?;
    if offset + data.len() as u64 > VARINT_MAX {
        return Err(FrameErrorKind::InvalidValue("CRYPTO would pass 2^62 - 1 bytes"));
    }
    Ok(Frame::Crypto { offset, data })
}

/// RFC 9000 §19.7
fn read_new_token<'a>(r: &mut Reader<'a>) -> Result<Frame<'a>, FrameErrorKind> {
    match r.prefixed()? {
        [] => Err(FrameErrorKind::InvalidValue("NEW_TOKEN without a token")),
        token => Ok(Frame::NewToken { token }),
    }
}

/// RFC 9000 §19.15
/// RFC 9000 §9.1: true if a payload that was read before has nothing but probing frames.
///
/// It steps over them by itself: a second caller of [`Frame::read`] would make that a function of its
/// own, which costs each packet some dozens of instructions.
#[cold]
pub(crate) fn is_probing(payload: &[u8]) -> bool {
    let mut r = Reader::new(payload);
    while !r.is_empty() {
        let read = match r.varint() {
            Ok(types::PADDING) => true,
            Ok(types::PATH_CHALLENGE | types::PATH_RESPONSE) => r.array::<8>().is_ok(),
            Ok(types::NEW_CONNECTION_ID) => {
                let ids = r.varint().and_then(|_| r.varint()).and_then(|_| r.u8());
                let id = ids.and_then(|len| r.bytes(usize::from(len)));
                id.is_ok() && r.array::<16>().is_ok()
            }
            Ok(_) | Err(_) => false,
        };
        if !read {
            return false;
        }
    }
    true
}

fn read_new_connection_id<'a>(r: &mut Reader<'a>) -> Result<Frame<'a>, FrameErrorKind> {
    let sequence = r.varint()?;
    let retire_prior_to = r.varint()?;
    if retire_prior_to > sequence {
        let what = "NEW_CONNECTION_ID retires the id that it brings";
        return Err(FrameErrorKind::InvalidValue(what));
    }
    let len = r.u8()?;
    let cid = ConnectionId::new(r.bytes(usize::from(len))?).filter(|cid| !cid.is_empty());
    let Some(cid) = cid else {
        let what = "NEW_CONNECTION_ID of no or more than 20 bytes";
        return Err(FrameErrorKind::InvalidValue(what));
    };
    Ok(Frame::NewConnectionId { sequence, retire_prior_to, cid, reset_token: r.array()? })
}
