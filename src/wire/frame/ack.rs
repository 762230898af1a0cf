//! ACK frames: ranges of packet numbers, largest first (RFC 9000 §19.3).
//!
//! ```text
//! type  largest  delay  range count  first range  { gap, range } x count  [ECT(0) ECT(1) CE]
//! ```
//!
//! A range is written as the numbers it has beyond one; a gap as the numbers missing beyond
//! one. So each step down is `gap + 2` to the next range's top and `range` to its bottom, and
//! a step below zero is an encoding error.

use super::read::FrameErrorKind;
use super::types;
use crate::wire::{Full, Reader, Truncated, Writer};

/// How many packets arrived with each ECN codepoint (RFC 9000 §19.3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EcnCounts {
    /// Packets with ECT(0).
    pub ect0: u64,
    /// Packets with ECT(1).
    pub ect1: u64,
    /// Packets that a router marked CE: they met congestion.
    pub ce: u64,
}

/// An ACK frame whose ranges were checked when it was read: they descend and stay above zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The largest packet number acknowledged.
    pub largest: u64,
    /// How long its acknowledgement was held back, in units of 2^ack_delay_exponent
    /// microseconds.
    pub delay_raw: u64,
    /// The counts of ECN codepoints, if the frame has them.
    pub ecn: Option<EcnCounts>,
    /// How many ranges follow the first.
    more: u64,
    /// First range and, `more` times, gap and range; as they came.
    encoded: &'a [u8],
}

impl<'a> Ack<'a> {
    /// Reads what follows the type.
    #[inline]
    pub(super) fn read(r: &mut Reader<'a>, ecn: bool) -> Result<Self, FrameErrorKind> {
        let largest = r.varint()?;
        let delay_raw = r.varint()?;
        let more = r.varint()?;
        let from = r.as_slice();
        let mut low = largest.checked_sub(r.varint()?).ok_or(BELOW_ZERO)?;
        for _ in 0..more {
            // RFC 9000 §19.3.1: the next range ends two below where this one begins, less the gap.
            let down = r.varint()? + 2;
            let high = low.checked_sub(down).ok_or(BELOW_ZERO)?;
            low = high.checked_sub(r.varint()?).ok_or(BELOW_ZERO)?;
        }
        let encoded = from.get(..from.len() - r.remaining()).unwrap_or(from);
        let ecn = if ecn { Some(read_ecn(r)?) } else { None };
        Ok(Self { largest, delay_raw, ecn, more, encoded })
    }

    /// The ranges `(lowest, largest)`, both acknowledged, from the largest down.
    #[inline]
    #[must_use]
    pub const fn ranges(&self) -> AckRanges<'a> {
        AckRanges { encoded: Reader::new(self.encoded), top: Some(self.largest) }
    }

    /// How many ranges there are: at least 1.
    #[inline]
    #[must_use]
    pub const fn range_count(&self) -> u64 {
        self.more + 1
    }

    /// Writes the frame as it was read.
    pub(super) fn write(&self, w: &mut Writer<'_>) -> Result<(), Full> {
        w.whole(|w| {
            w.varint(if self.ecn.is_some() { types::ACK_ECN } else { types::ACK })?;
            w.varint(self.largest)?;
            w.varint(self.delay_raw)?;
            w.varint(self.more)?;
            w.bytes(self.encoded)?;
            write_ecn(w, self.ecn)
        })
    }
}

/// RFC 9000 §19.3.1: "If any computed packet number is negative, an endpoint MUST generate a
/// connection error of type FRAME_ENCODING_ERROR."
const BELOW_ZERO: FrameErrorKind = FrameErrorKind::InvalidValue("an ACK range reaches below zero");

fn read_ecn(r: &mut Reader<'_>) -> Result<EcnCounts, Truncated> {
    Ok(EcnCounts { ect0: r.varint()?, ect1: r.varint()?, ce: r.varint()? })
}

fn write_ecn(w: &mut Writer<'_>, ecn: Option<EcnCounts>) -> Result<(), Full> {
    let Some(counts) = ecn else { return Ok(()) };
    w.varint(counts.ect0)?;
    w.varint(counts.ect1)?;
    w.varint(counts.ce)
}

/// The ranges of an [`Ack`], from the largest down.
#[derive(Clone, Debug)]
pub struct AckRanges<'a> {
    encoded: Reader<'a>,
    /// The top of the next range; to be computed, from the range that was given last, when the
    /// first one is gone.
    top: Option<u64>,
}

impl Iterator for AckRanges<'_> {
    type Item = (u64, u64);

    #[inline]
    fn next(&mut self) -> Option<(u64, u64)> {
        let high = self.top?;
        let low = high.checked_sub(self.encoded.varint().ok()?)?;
        self.top = match self.encoded.varint() {
            Ok(gap) => low.checked_sub(gap + 2),
            Err(Truncated) => None,
        };
        Some((low, high))
    }
}

/// Writes an ACK frame of `count` ranges `(lowest, largest)`, given from the largest down and
/// not touching each other.
///
/// # Errors
/// [`Full`] if it does not fit, and if `ranges` gives fewer than `count` or none; nothing is
/// written then.
#[inline]
pub fn write_ack<I: Iterator<Item = (u64, u64)>>(
    w: &mut Writer<'_>,
    mut ranges: I,
    count: usize,
    delay_raw: u64,
    ecn: Option<EcnCounts>,
) -> Result<(), Full> {
    w.whole(|w| {
        let (mut low, largest) = ranges.next().ok_or(Full)?;
        w.varint(if ecn.is_some() { types::ACK_ECN } else { types::ACK })?;
        w.varint(largest)?;
        w.varint(delay_raw)?;
        let more = count.checked_sub(1).ok_or(Full)?;
        w.varint(more as u64)?;
        w.varint(largest - low)?;
        for _ in 0..more {
            let (next_low, high) = ranges.next().ok_or(Full)?;
            debug_assert!(high + 2 <= low && next_low <= high, "ranges descend and do not touch");
            w.varint(low - high - 2)?;
            w.varint(high - next_low)?;
            low = next_low;
        }
        write_ecn(w, ecn)
    })
}
