//! Frames to bytes.

use super::{Frame, types};
use crate::wire::{Full, StreamId, Writer, varint_len};

impl Frame<'_> {
    /// Writes the frame; a STREAM frame with its length.
    ///
    /// # Errors
    /// [`Full`] if it does not fit; nothing is written then.
    pub fn write(&self, w: &mut Writer<'_>) -> Result<(), Full> {
        match self {
            Self::Padding { len } => {
                w.rest_mut().get_mut(..*len).ok_or(Full)?.fill(0);
                w.advance(*len);
                Ok(())
            }
            Self::Ack(ack) => ack.write(w),
            Self::Crypto { offset, data } => w.whole(|w| {
                write_crypto_header(w, *offset, data.len())?;
                w.bytes(data)
            }),
            Self::Stream { stream, offset, data, fin } => w.whole(|w| {
                write_stream_header(w, *stream, *offset, Some(data.len()), *fin)?;
                w.bytes(data)
            }),
            Self::Ping
            | Self::ResetStream { .. }
            | Self::StopSending { .. }
            | Self::NewToken { .. }
            | Self::MaxData(_)
            | Self::MaxStreamData { .. }
            | Self::MaxStreams { .. }
            | Self::DataBlocked(_)
            | Self::StreamDataBlocked { .. }
            | Self::StreamsBlocked { .. }
            | Self::NewConnectionId { .. }
            | Self::RetireConnectionId { .. }
            | Self::PathChallenge(_)
            | Self::PathResponse(_)
            | Self::ConnectionClose { .. }
            | Self::ApplicationClose { .. }
            | Self::HandshakeDone => w.whole(|w| {
                w.varint(self.frame_type())?;
                self.write_fields(w)
            }),
        }
    }

    /// What follows the type.
    fn write_fields(&self, w: &mut Writer<'_>) -> Result<(), Full> {
        match self {
            Self::ResetStream { stream, code, final_size } => {
                w.varint(stream.raw())?;
                w.varint(*code)?;
                w.varint(*final_size)
            }
            Self::StopSending { stream, code: number }
            | Self::MaxStreamData { stream, max: number }
            | Self::StreamDataBlocked { stream, limit: number } => {
                w.varint(stream.raw())?;
                w.varint(*number)
            }
            Self::MaxData(number)
            | Self::DataBlocked(number)
            | Self::MaxStreams { max: number, .. }
            | Self::StreamsBlocked { limit: number, .. }
            | Self::RetireConnectionId { sequence: number } => w.varint(*number),
            Self::NewToken { token } => w.prefixed(token),
            Self::NewConnectionId { sequence, retire_prior_to, cid, reset_token } => {
                w.varint(*sequence)?;
                w.varint(*retire_prior_to)?;
                w.u8(cid.len() as u8)?;
                w.bytes(cid.as_slice())?;
                w.bytes(reset_token)
            }
            Self::PathChallenge(data) | Self::PathResponse(data) => w.bytes(data),
            Self::ConnectionClose { code, frame_type, reason } => {
                w.varint(*code)?;
                w.varint(*frame_type)?;
                w.prefixed(reason)
            }
            Self::ApplicationClose { code, reason } => {
                w.varint(*code)?;
                w.prefixed(reason)
            }
            // PING and HANDSHAKE_DONE are their type; the others are written by `write`.
            Self::Ping
            | Self::HandshakeDone
            | Self::Padding { .. }
            | Self::Ack(_)
            | Self::Crypto { .. }
            | Self::Stream { .. } => Ok(()),
        }
    }
}

/// The type of a STREAM frame: which fields it has, and whether the stream ends.
#[inline]
pub(super) const fn stream_type(offset: u64, has_len: bool, fin: bool) -> u8 {
    let off = if offset > 0 { types::STREAM_OFF } else { 0 };
    let len = if has_len { types::STREAM_LEN } else { 0 };
    let fin = if fin { types::STREAM_FIN } else { 0 };
    (types::STREAM | off | len | fin) as u8
}

/// How many bytes stand in front of the data of a STREAM frame; `data_len` as for
/// [`write_stream_header`].
#[inline]
#[must_use]
pub(crate) const fn stream_header_len(id: StreamId, offset: u64, data_len: Option<usize>) -> usize {
    let offset_len = if offset > 0 { varint_len(offset) } else { 0 };
    let length_len = match data_len {
        Some(len) => varint_len(len as u64),
        None => 0,
    };
    1 + varint_len(id.raw()) + offset_len + length_len
}

/// Writes what stands in front of the data of a STREAM frame. Without `data_len` the data runs
/// to the end of the packet.
///
/// # Errors
/// [`Full`] if it does not fit; nothing is written then.
#[inline]
pub(crate) fn write_stream_header(
    w: &mut Writer<'_>,
    id: StreamId,
    offset: u64,
    data_len: Option<usize>,
    fin: bool,
) -> Result<(), Full> {
    w.whole(|w| {
        w.u8(stream_type(offset, data_len.is_some(), fin))?;
        w.varint(id.raw())?;
        if offset > 0 {
            w.varint(offset)?;
        }
        match data_len {
            Some(len) => w.varint(len as u64),
            None => Ok(()),
        }
    })
}

/// Writes what stands in front of the data of a CRYPTO frame, which always has a length.
///
/// # Errors
/// [`Full`] if it does not fit; nothing is written then.
#[inline]
pub(crate) fn write_crypto_header(
    w: &mut Writer<'_>,
    offset: u64,
    data_len: usize,
) -> Result<(), Full> {
    w.whole(|w| {
        w.u8(types::CRYPTO as u8)?;
        w.varint(offset)?;
        w.varint(data_len as u64)
    })
}
