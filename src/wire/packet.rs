//! Packet headers (RFC 9000 §17, and RFC 8999 for versions that are not ours).
//!
//! A datagram holds one or more packets, one behind the other. The header of a packet names its
//! kind, its connection ids and where it ends; its last field, the packet number, and the low
//! bits of its first byte are under header protection (RFC 9001 §5.4), so [`parse`] stops in
//! front of the packet number and leaves those bits as they are.
//!
//! ```text
//! long    1Rtt pp..  version  dcid len, dcid  scid len, scid  [token]  length  packet number ..
//! short   01Skkpp..  dcid (its issuer knows the length)                        packet number ..
//! ```
//!
//! A [`Packet`] holds positions in the datagram and no borrow of it, because the datagram is
//! decrypted in place next.

use super::codec::encode_varint2;
use super::{ConnectionId, Full, Reader, Truncated, VARINT_MAX, Writer};
use std::error::Error;
use std::fmt;
use std::ops::Range;

/// QUIC version 1 (RFC 9000 §15).
pub const VERSION_1: u32 = 1;

/// The bit that tells a long header from a short one (RFC 8999 §5).
const LONG_FORM: u8 = 0x80;

/// The bit that is set in every packet of version 1 but Version Negotiation (RFC 9000 §17.2).
const FIXED_BIT: u8 = 0x40;

/// The latency spin bit of a short header (RFC 9000 §17.4).
const SPIN_BIT: u8 = 0x20;

/// The key phase of a short header (RFC 9001 §6).
pub(crate) const KEY_PHASE: u8 = 0x04;

/// How many bytes the integrity tag of a Retry packet has (RFC 9001 §5.8).
pub const RETRY_TAG_LEN: usize = 16;

/// What kind of packet a header announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PacketType {
    /// The first flights of both endpoints, under keys that anyone can derive.
    Initial,
    /// Data that a client sends before the handshake is done, under keys of an older session.
    ZeroRtt,
    /// The rest of the handshake.
    Handshake,
    /// A server's demand to prove the address; carries a token and no packet number.
    Retry,
    /// A server's list of the versions that it speaks.
    VersionNegotiation,
    /// The only packet with a short header: application data, called 1-RTT.
    Short,
    /// A long header of a version other than 1, of which only the connection ids are known.
    UnknownVersion,
}

impl PacketType {
    /// The two bits of a long header, for the kinds that have them (RFC 9000 §17.2).
    const fn long_bits(self) -> Option<u8> {
        match self {
            Self::Initial => Some(0b00),
            Self::ZeroRtt => Some(0b01),
            Self::Handshake => Some(0b10),
            Self::Retry => Some(0b11),
            Self::VersionNegotiation | Self::Short | Self::UnknownVersion => None,
        }
    }
}

/// The header of one packet: where its parts lie in the datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What kind of packet it is.
    pub kind: PacketType,
    /// The first byte as it came, its low bits still under header protection.
    pub first: u8,
    /// The version; 1 for a short header, which does not say.
    pub version: u32,
    /// The connection id that it is addressed to. Of a packet of an unknown version it is empty
    /// where the id is longer than ours can be; [`long_ids`] gives it whole.
    pub dcid: ConnectionId,
    /// The connection id that answers go to; empty for a short header.
    pub scid: ConnectionId,
    /// Where the token of an Initial or Retry lies; an empty range at any other kind.
    pub token: Range<usize>,
    /// Where the packet number begins, or what stands in its place: the integrity tag of a
    /// Retry, the list of versions, the rest of a packet of an unknown version.
    pub pn_offset: usize,
    /// Where the packet ends, and the next one begins if the datagram is longer.
    pub end: usize,
}

/// Why no header could be read. None of it is an error of a connection: such a packet, and what
/// follows it in the datagram, is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeaderError {
    /// The datagram ends within the header.
    Truncated,
    /// The bit that version 1 fixes to one is zero (RFC 9000 §17.2, §17.3).
    FixedBitClear,
    /// A connection id has more than 20 bytes (RFC 9000 §17.2).
    CidTooLong,
    /// The length field points beyond the end of the datagram.
    LengthBeyondDatagram,
    /// A Version Negotiation packet's list is empty or ends within a version.
    BadVersionList,
}

impl HeaderError {
    /// What is wrong, in words.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Truncated => "the datagram ends within the header",
            Self::FixedBitClear => "the fixed bit is zero",
            Self::CidTooLong => "a connection id has more than 20 bytes",
            Self::LengthBeyondDatagram => "the length points beyond the datagram",
            Self::BadVersionList => "the list of versions is empty or cut short",
        }
    }
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl Error for HeaderError {}

impl From<Truncated> for HeaderError {
    #[inline]
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

/// Reads the header of the packet that begins at `start` of the datagram. A short header's
/// connection id has `short_dcid_len` bytes: it is one of those that the receiver issued.
///
/// # Errors
/// [`HeaderError`] if the bytes are no packet; nothing after `start` can be used then.
#[inline]
pub fn parse(datagram: &[u8], start: usize, short_dcid_len: usize) -> Result<Packet, HeaderError> {
    let bytes = datagram.get(start..).ok_or(HeaderError::Truncated)?;
    let first = *bytes.first().ok_or(HeaderError::Truncated)?;
    if first & LONG_FORM != 0 {
        return parse_long(datagram, start, first);
    }
    // RFC 9000 §17.3.1
    if first & FIXED_BIT == 0 {
        return Err(HeaderError::FixedBitClear);
    }
    let dcid = ConnectionId::prefix(&bytes[1..], short_dcid_len).ok_or(HeaderError::Truncated)?;
    let pn_offset = start + 1 + short_dcid_len;
    Ok(Packet {
        kind: PacketType::Short,
        first,
        version: VERSION_1,
        dcid,
        scid: ConnectionId::EMPTY,
        token: pn_offset..pn_offset,
        pn_offset,
        end: datagram.len(),
    })
}

/// A long header of any version (RFC 8999 §5.1): version and connection ids, at most 255 bytes
/// each.
fn read_ids<'a>(reader: &mut Reader<'a>) -> Result<(u32, &'a [u8], &'a [u8]), Truncated> {
    let version = reader.u32()?;
    let dcid_len = reader.u8()?;
    let dcid = reader.bytes(usize::from(dcid_len))?;
    let scid_len = reader.u8()?;
    let scid = reader.bytes(usize::from(scid_len))?;
    Ok((version, dcid, scid))
}

/// The two forms of a packet header (RFC 8999 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// With version and both connection ids.
    Long,
    /// With the destination connection id alone, of a length that only its owner knows.
    Short,
}

/// What a datagram is routed by, before anything else is known of it: the form of its first
/// header, and the destination connection id in it (RFC 8999 §5). None if it is cut short.
#[inline]
#[must_use]
pub(crate) fn destination(datagram: &[u8], short_dcid_len: usize) -> Option<(Form, &[u8])> {
    if datagram.first()? & LONG_FORM == 0 {
        return Some((Form::Short, datagram.get(1..1 + short_dcid_len)?));
    }
    long_ids(datagram, 0).map(|(dcid, _)| (Form::Long, dcid))
}

/// True if the long header at the start of a datagram is that of Version Negotiation: version 0
/// (RFC 8999 §6).
#[must_use]
pub(crate) fn negotiates_version(datagram: &[u8]) -> bool {
    datagram.get(1..5) == Some(&[0; 4])
}

/// True if a datagram begins with an Initial of version 1.
#[must_use]
pub(crate) fn is_initial(datagram: &[u8]) -> bool {
    matches!(parse(datagram, 0, 0), Ok(packet) if packet.kind == PacketType::Initial)
}

/// The destination and the source connection id of the long header at `start`, of any version
/// and so of up to 255 bytes (RFC 8999 §5.1): what a Version Negotiation packet has to echo.
/// None if no long header is there.
#[must_use]
pub fn long_ids(datagram: &[u8], start: usize) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader::new(datagram.get(start..)?);
    if reader.u8().ok()? & LONG_FORM == 0 {
        return None;
    }
    let (_, dcid, scid) = read_ids(&mut reader).ok()?;
    Some((dcid, scid))
}

/// Reads a long header of which the first byte was read.
fn parse_long(datagram: &[u8], start: usize, first: u8) -> Result<Packet, HeaderError> {
    let mut reader = Reader::new(datagram);
    reader.bytes(start + 1)?;
    let (version, dcid, scid) = read_ids(&mut reader)?;
    let kind = match version {
        0 => PacketType::VersionNegotiation,
        VERSION_1 => match first >> 4 & 0b11 {
            0b00 => PacketType::Initial,
            0b01 => PacketType::ZeroRtt,
            0b10 => PacketType::Handshake,
            _ => PacketType::Retry,
        },
        _ => PacketType::UnknownVersion,
    };
    let fits = |id| ConnectionId::new(id).ok_or(HeaderError::CidTooLong);
    let (dcid, scid) = if kind == PacketType::UnknownVersion {
        (fits(dcid).unwrap_or(ConnectionId::EMPTY), fits(scid).unwrap_or(ConnectionId::EMPTY))
    } else {
        (fits(dcid)?, fits(scid)?)
    };
    // RFC 9000 §17.2: the fixed bit belongs to version 1, and not to its Version Negotiation.
    if version == VERSION_1 && first & FIXED_BIT == 0 {
        return Err(HeaderError::FixedBitClear);
    }
    let tail = read_tail(&mut reader, kind)?;
    Ok(Packet {
        kind,
        first,
        version,
        dcid,
        scid,
        token: tail.token,
        pn_offset: tail.pn_offset,
        end: tail.end,
    })
}

/// What follows the connection ids of a long header.
struct Tail {
    token: Range<usize>,
    pn_offset: usize,
    end: usize,
}

/// Reads what follows the connection ids: the reader stands there, counted from the start of
/// the datagram.
fn read_tail(reader: &mut Reader<'_>, kind: PacketType) -> Result<Tail, HeaderError> {
    let at = reader.position();
    let datagram_end = at + reader.remaining();
    let mut token = at..at;
    match kind {
        // RFC 9000 §17.2.2
        PacketType::Initial => {
            let len = reader.prefixed()?.len();
            token = reader.position() - len..reader.position();
        }
        // RFC 9000 §17.2.5
        PacketType::Retry => {
            let len = reader.remaining().checked_sub(RETRY_TAG_LEN);
            token = at..at + len.ok_or(HeaderError::Truncated)?;
            return Ok(Tail { pn_offset: token.end, token, end: datagram_end });
        }
        // RFC 9000 §17.2.1
        PacketType::VersionNegotiation if !is_version_list(reader.remaining()) => {
            return Err(HeaderError::BadVersionList);
        }
        PacketType::VersionNegotiation | PacketType::UnknownVersion => {
            return Ok(Tail { token, pn_offset: at, end: datagram_end });
        }
        PacketType::ZeroRtt | PacketType::Handshake | PacketType::Short => {}
    }
    let len = usize::try_from(reader.varint()?).unwrap_or(usize::MAX);
    let pn_offset = reader.position();
    reader.bytes(len).map_err(|Truncated| HeaderError::LengthBeyondDatagram)?;
    Ok(Tail { token, pn_offset, end: reader.position() })
}

/// True if so many bytes can be the list of a Version Negotiation packet.
const fn is_version_list(len: usize) -> bool {
    len > 0 && len.is_multiple_of(4)
}

/// The versions that a Version Negotiation packet lists; nothing for any other packet.
pub fn versions<'a>(packet: &Packet, datagram: &'a [u8]) -> impl Iterator<Item = u32> + use<'a> {
    let is_list = packet.kind == PacketType::VersionNegotiation;
    let list = if is_list { packet.pn_offset..packet.end } else { 0..0 };
    let (list, _) = datagram.get(list).unwrap_or_default().as_chunks::<4>();
    list.iter().map(|version| u32::from_be_bytes(*version))
}

/// The long header of a packet that has a packet number: Initial, 0-RTT or Handshake.
#[derive(Clone, Debug)]
pub struct LongHeader<'a> {
    /// What kind of packet.
    pub kind: PacketType,
    /// The version.
    pub version: u32,
    /// The connection id that it goes to.
    pub dcid: ConnectionId,
    /// The sender's connection id.
    pub scid: ConnectionId,
    /// The token of an Initial; other kinds have none, and it is not written.
    pub token: &'a [u8],
}

/// Where a long header's fields landed that are filled in later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongLayout {
    /// The two bytes of the length, for [`patch_length`]: packet number, payload and tag.
    pub length_at: usize,
    /// The packet number; it ends where the writer stands.
    pub pn_at: usize,
}

impl LongHeader<'_> {
    /// Writes the header, with a length of zero to be patched and a packet number of `pn_len`
    /// (1 to 4) bytes.
    ///
    /// # Errors
    /// [`Full`] if it does not fit; nothing is written then. Also, since they have no such
    /// header, for kinds other than Initial, 0-RTT and Handshake.
    pub fn write(&self, w: &mut Writer<'_>, pn: u64, pn_len: usize) -> Result<LongLayout, Full> {
        let bits = self.kind.long_bits().filter(|_| self.kind != PacketType::Retry);
        debug_assert!(bits.is_some(), "{:?} has no long header with a packet number", self.kind);
        let first = LONG_FORM | FIXED_BIT | bits.ok_or(Full)? << 4 | pn_len_bits(pn_len);
        w.whole(|w| {
            w.u8(first)?;
            write_ids(w, self.version, self.dcid.as_slice(), self.scid.as_slice())?;
            if self.kind == PacketType::Initial {
                w.prefixed(self.token)?;
            }
            let length_at = w.position();
            w.varint2(0)?;
            let pn_at = w.position();
            write_pn(w, pn, pn_len)?;
            Ok(LongLayout { length_at, pn_at })
        })
    }
}

/// Writes a version and two connection ids, each of at most 255 bytes.
fn write_ids(w: &mut Writer<'_>, version: u32, dcid: &[u8], scid: &[u8]) -> Result<(), Full> {
    w.u32(version)?;
    for id in [dcid, scid] {
        w.u8(u8::try_from(id.len()).map_err(|_| Full)?)?;
        w.bytes(id)?;
    }
    Ok(())
}

/// The two low bits of the first byte: the packet number's length less one.
#[inline]
fn pn_len_bits(pn_len: usize) -> u8 {
    debug_assert!((1..=4).contains(&pn_len), "a packet number has 1 to 4 bytes");
    (pn_len.wrapping_sub(1) & 0b11) as u8
}

/// Writes the low `pn_len` bytes of a packet number.
#[inline]
fn write_pn(w: &mut Writer<'_>, pn: u64, pn_len: usize) -> Result<(), Full> {
    let [.., a, b, c, d] = pn.to_be_bytes();
    match pn_len {
        1 => w.u8(d),
        2 => w.bytes(&[c, d]),
        3 => w.bytes(&[b, c, d]),
        _ => w.bytes(&[a, b, c, d]),
    }
}

/// Sets the length of a long header, at most 16,383, once the packet is complete: packet
/// number, payload and tag.
///
/// # Panics
/// If `buf` ends within the field.
#[inline]
pub fn patch_length(buf: &mut [u8], length_at: usize, value: usize) {
    buf[length_at..length_at + 2].copy_from_slice(&encode_varint2(value as u64));
}

/// Writes a short header (RFC 9000 §17.3.1) and returns where its packet number of `pn_len`
/// (1 to 4) bytes begins.
///
/// # Errors
/// [`Full`] if it does not fit; nothing is written then.
#[inline]
pub fn write_short(
    w: &mut Writer<'_>,
    dcid: &ConnectionId,
    spin: bool,
    key_phase: bool,
    pn: u64,
    pn_len: usize,
) -> Result<usize, Full> {
    let spin = if spin { SPIN_BIT } else { 0 };
    let phase = if key_phase { KEY_PHASE } else { 0 };
    w.whole(|w| {
        w.u8(FIXED_BIT | spin | phase | pn_len_bits(pn_len))?;
        w.bytes(dcid.as_slice())?;
        let pn_at = w.position();
        write_pn(w, pn, pn_len)?;
        Ok(pn_at)
    })
}

/// Writes a Version Negotiation packet (RFC 9000 §17.2.1) to a client whose packet had the
/// source id `dcid` and the destination id `scid`. The low seven bits of `first_random` become
/// those of the first byte, which have no meaning; the second highest is set, as for packets of
/// version 1, so that QUIC can be told from other protocols on the port.
///
/// # Errors
/// [`Full`] if it does not fit or an id has more than 255 bytes; nothing is written then.
pub fn write_version_negotiation(
    w: &mut Writer<'_>,
    dcid: &[u8],
    scid: &[u8],
    versions: &[u32],
    first_random: u8,
) -> Result<(), Full> {
    w.whole(|w| {
        w.u8(LONG_FORM | FIXED_BIT | first_random)?;
        write_ids(w, 0, dcid, scid)?;
        versions.iter().try_for_each(|version| w.u32(*version))
    })
}

/// Writes a Retry packet (RFC 9000 §17.2.5) up to its integrity tag, which is computed over
/// what stands there and comes behind it. The low four bits of `unused_random` become those of
/// the first byte, which have no meaning.
///
/// # Errors
/// [`Full`] if it does not fit; nothing is written then.
pub fn write_retry_header(
    w: &mut Writer<'_>,
    version: u32,
    dcid: &ConnectionId,
    scid: &ConnectionId,
    token: &[u8],
    unused_random: u8,
) -> Result<(), Full> {
    w.whole(|w| {
        w.u8(LONG_FORM | FIXED_BIT | 0b11 << 4 | unused_random & 0x0f)?;
        write_ids(w, version, dcid.as_slice(), scid.as_slice())?;
        w.bytes(token)
    })
}

/// How many bytes of packet number `pn` to send so that the peer, of whom `largest_acked` is
/// known, can tell it from all others in flight (RFC 9000 §17.1, A.2).
#[inline]
#[must_use]
pub fn pn_len(pn: u64, largest_acked: Option<u64>) -> usize {
    let unacked = match largest_acked {
        Some(acked) => pn.saturating_sub(acked),
        None => pn + 1,
    };
    // n bytes tell 2^(8n) numbers apart, of which half lie behind the expected one.
    match unacked {
        0..=0x80 => 1,
        0x81..=0x8000 => 2,
        0x8001..=0x80_0000 => 3,
        _ => 4,
    }
}

/// The whole packet number of which the low `len` (1 to 4) bytes arrived (RFC 9000 §17.1,
/// A.3): the candidate nearest to the one after the largest received.
#[inline]
#[must_use]
pub fn decode_pn(truncated: u64, len: usize, largest_received: Option<u64>) -> u64 {
    let expected = largest_received.map_or(0, |largest| (largest + 1).min(VARINT_MAX));
    let window = 1 << (8 * len.clamp(1, 4));
    let half = window / 2;
    let candidate = expected & !(window - 1) | truncated & (window - 1);
    if candidate + half <= expected && candidate + window <= VARINT_MAX {
        candidate + window
    } else if candidate > expected + half && candidate >= window {
        candidate - window
    } else {
        candidate
    }
}

#[cfg(test)]
mod tests;
