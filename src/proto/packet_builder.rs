//! The one way to make a packet, in every packet number space (RFC 9000 §12, §17; RFC 9001 §5).
//!
//! 1. [`PacketBuilder::begin`] writes the header into what is left of a datagram.
//! 2. Frames are written with the [`Writer`] that it returns; each is noted in the
//!    [`SentPackets`] of the packet's space.
//! 3. [`PacketBuilder::end`] makes a [`Draft`] of it: a packet that is not protected yet. The
//!    datagram may get more packets, and [`Draft::pad`] fills it once all of them are there.
//! 4. [`Draft::finish`] protects the packet and records it in its space and its
//!    path. [`Draft::protect`] only protects: for a packet that nothing remembers.
//!
//! A packet into which no frame was written is given up: [`SentPackets::abandon`].
//!
//! Positions are counted from the packet's first byte. The builder and the writer are two values,
//! because functions that write frames take the address of the writer: what the builder knows may
//! stay in registers.

use super::crypto::{DirectionKeys, TAG_LEN};
use super::path::Path;
use super::recovery::{SentInfo, SentPackets};
use crate::time::Instant;
use crate::wire::frame::Frame;
use crate::wire::packet::{LongHeader, patch_length, pn_len, write_short};
use crate::wire::{ConnectionId, Writer};

/// RFC 9001 §5.4.2: packet number and payload have 4 bytes at least, so that the sample fits.
const MIN_PN_AND_PAYLOAD: usize = 4;
/// RFC 9000 §10.3: a 1-RTT packet is this much longer than the ids that we ask the peer to write,
/// at least. The stateless reset that answers it is shorter, and still as long as a packet to us.
pub(super) const MIN_SHORT_OVERHEAD_BYTES: usize = 22;

/// The number of a packet, and how many bytes of it are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number {
    pn: u64,
    len: usize,
}

impl Number {
    /// The next one of a space, as short as the peer can read it.
    #[inline]
    pub(super) fn next(sent: &SentPackets) -> Self {
        let pn = sent.next_pn();
        Self { pn, len: pn_len(pn, sent.largest_acked()) }
    }

    /// A number in four bytes.
    pub(super) fn long(pn: u64) -> Self {
        Self { pn, len: 4 }
    }
}

/// The header of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Header<'a> {
    /// Initial and Handshake.
    Long(&'a LongHeader<'a>),
    /// 1-RTT.
    Short {
        dcid: &'a ConnectionId,
        /// The key phase.
        phase: bool,
        /// How long the ids are that the peer writes to us.
        local_cid_len: u8,
    },
}

/// Where the parts of a packet are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) pn: u64,
    /// The two bytes of a long header's length.
    length_at: Option<usize>,
    pub(super) pn_at: usize,
    pub(super) payload_at: usize,
}

/// Keys of one direction and one space.
pub(super) trait Seal {
    /// Protects a packet in place, which ends in [`TAG_LEN`] bytes for the tag. False if that is
    /// impossible: then the packet must not be sent.
    fn seal(self, packet: &mut [u8], at: Layout, payload_len: usize) -> bool;
}

impl Seal for &DirectionKeys {
    fn seal(self, packet: &mut [u8], at: Layout, payload_len: usize) -> bool {
        self.packet().seal(at.pn, packet, at.payload_at, payload_len).is_some()
            && self.header().mask(packet, at.pn_at)
    }
}

/// Where a packet that leaves is entered.
pub(super) struct Book<'a> {
    /// Its space.
    pub(super) sent: &'a mut SentPackets,
    /// The path that it takes.
    pub(super) path: &'a mut Path,
}

/// A packet whose header is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct PacketBuilder {
    at: Layout,
    /// Where the payload ends at the earliest.
    min_end: usize,
}

impl PacketBuilder {
    /// Writes a header at the start of `buf`, which the packet may fill. `None` if it does
    /// not fit.
    #[inline]
    pub(super) fn begin<'b>(
        header: Header<'_>,
        number: Number,
        buf: &'b mut [u8],
    ) -> Option<(Self, Writer<'b>)> {
        let room = buf.len().checked_sub(TAG_LEN)?;
        let mut w = Writer::new(&mut buf[..room]);
        let Number { pn, len } = number;
        let (length_at, pn_at, min_end) = match header {
            Header::Long(header) => {
                let layout = header.write(&mut w, pn, len).ok()?;
                (Some(layout.length_at), layout.pn_at, 0)
            }
            // Padding up to there is not counted as in flight: a packet that needs it is an
            // acknowledgement as a rule, and those must not wait for the window.
            Header::Short { dcid, phase, local_cid_len } => {
                let pn_at = write_short(&mut w, dcid, false, phase, pn, len).ok()?;
                let answerable = MIN_SHORT_OVERHEAD_BYTES + usize::from(local_cid_len) - TAG_LEN;
                (None, pn_at, answerable)
            }
        };
        let at = Layout { pn, length_at, pn_at, payload_at: w.position() };
        Some((Self { at, min_end: min_end.max(pn_at + MIN_PN_AND_PAYLOAD) }, w))
    }

    /// True if no frame was written.
    #[inline]
    pub(super) fn is_empty(&self, w: &Writer<'_>) -> bool {
        w.position() == self.at.payload_at
    }

    /// No more frames come. `info` says how the packet leaves, its size aside.
    #[inline]
    pub(super) fn end(self, mut w: Writer<'_>, info: SentInfo) -> Draft {
        pad_to(&mut w, self.min_end);
        Draft { at: self.at, end: w.position(), info }
    }
}

/// Fills up to position `end`, as far as the buffer goes.
#[inline]
pub(super) fn pad_to(w: &mut Writer<'_>, end: usize) {
    if w.position() < end {
        let len = (end - w.position()).min(w.remaining());
        let _fits = Frame::Padding { len }.write(w);
    }
}

/// A packet that is not protected yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draft {
    at: Layout,
    /// Where the payload ends; the tag follows.
    end: usize,
    /// How it leaves; the size is set in the end.
    pub(super) info: SentInfo,
}

impl Draft {
    /// Bytes of the packet, with its tag.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.end + TAG_LEN
    }

    /// The packet's number.
    pub(super) fn number(&self) -> u64 {
        self.at.pn
    }

    /// The payload of the packet, which lies at the start of `datagram`.
    pub(super) fn payload<'a>(&self, datagram: &'a [u8]) -> &'a [u8] {
        datagram.get(self.at.payload_at..self.end).unwrap_or_default()
    }

    /// Makes the packet, which lies at the start of `datagram`, longer by `bytes`.
    pub(super) fn pad(&mut self, datagram: &mut [u8], bytes: usize) {
        datagram[self.end..self.end + bytes].fill(0);
        self.end += bytes;
    }

    /// Protects the packet, which lies at the start of `datagram`; its length. `None` if the keys
    /// cannot.
    #[inline]
    pub(super) fn protect(&self, datagram: &mut [u8], keys: impl Seal) -> Option<usize> {
        let total = self.len();
        if let Some(at) = self.at.length_at {
            patch_length(datagram, at, total - self.at.pn_at);
        }
        let payload_len = self.end - self.at.payload_at;
        keys.seal(datagram.get_mut(..total)?, self.at, payload_len).then_some(total)
    }

    /// Protects the packet and enters it; how it leaves. `None` if the keys cannot: then its
    /// frames are forgotten.
    #[inline]
    pub(super) fn finish(
        self,
        now: Instant,
        datagram: &mut [u8],
        keys: impl Seal,
        book: Book<'_>,
    ) -> Option<SentInfo> {
        let Some(total) = self.protect(datagram, keys) else {
            book.sent.abandon();
            return None;
        };
        let info = SentInfo { bytes: total as u16, path: book.path.id, ..self.info };
        book.sent.commit(now, info);
        book.path.on_sent(now, info);
        Some(info)
    }
}

#[cfg(test)]
mod tests;
