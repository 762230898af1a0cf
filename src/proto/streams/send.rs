//! The sending half of a stream (RFC 9000 §3.1).
//!
//! ```text
//!  0          acked            next            written
//!  |------------|----------------|----------------|
//!   released      sent: in flight,  written, never
//!                 acked out of      sent
//!                 order, or lost
//! ```
//!
//! As long as nothing is lost, four offsets are all there is: what is acknowledged in order
//! moves `acked`, what is sent moves `next`. The first gap makes a [`Repair`], which knows
//! which ranges between `acked` and `next` were acknowledged already and which must be sent
//! again; everything else there is in flight.

use super::list::NONE;
use super::send_buffer::{Chain, SendBuffer};
use crate::proto::byte_ranges::ByteRanges;
use bytes::Bytes;

/// How far the sending half has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendState {
    /// No sending half: the peer's unidirectional stream.
    Absent,
    /// "Ready", "Send" and "Data Sent" of RFC 9000 §3.1.
    Open,
    /// Data and FIN were acknowledged.
    Finished,
    /// RESET_STREAM is pending or in flight.
    Reset,
    /// RESET_STREAM was acknowledged.
    ResetDone,
}

/// Which queue a stream's data waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendQueue {
    /// Nothing can be sent.
    Idle,
    /// Lost data or a lone FIN: costs no credit of the connection, and goes first.
    Repair,
    /// Data that was never sent.
    Fresh,
}

/// The application ended the stream.
const FIN_WANTED: u8 = 1;
/// A frame with FIN is in flight, or was acknowledged.
const FIN_SENT: u8 = 1 << 1;
/// A frame with FIN was acknowledged.
const FIN_ACKED: u8 = 1 << 2;
/// The peer asked us to stop.
const STOPPED: u8 = 1 << 3;
/// STREAM_DATA_BLOCKED was pending for the present limit.
const BLOCKED_TOLD: u8 = 1 << 4;
/// Some of its sends are tracked.
const TRACKED: u8 = 1 << 5;
/// Copied data was refused for lack of room.
const AWAITS_ROOM: u8 = 1 << 6;

/// What only a stream with gaps has to know.
#[derive(Debug)]
struct Repair {
    /// Acknowledged above `acked`.
    acked: ByteRanges,
    /// To be sent again; disjoint from `acked`, below `next`.
    lost: ByteRanges,
    /// The piece where the last repair was found.
    hint: u32,
}

/// The next frame of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// First byte.
    pub(super) offset: u64,
    /// How much may be sent from there.
    pub(super) len: u64,
    /// True if it was sent before, and so costs no credit.
    pub(super) again: bool,
}

/// The sending half.
#[derive(Debug)]
pub(super) struct SendHalf {
    /// First byte that was never sent.
    pub(super) next: u64,
    /// End of what the application has written.
    pub(super) written: u64,
    /// Everything below is acknowledged.
    pub(super) acked: u64,
    /// The peer's limit.
    pub(super) max: u64,
    /// What of `acked` the application was told.
    pub(super) reported: u64,
    repair: Option<Box<Repair>>,
    chain: Chain,
    /// How far it has come.
    pub(super) state: SendState,
    /// Where it waits.
    pub(super) queue: SendQueue,
    flags: u8,
}

const _: () = assert!(size_of::<SendHalf>() == 64, "a sending half is a cache line");

impl SendHalf {
    /// An open half that may send `max` bytes.
    #[inline]
    pub(super) const fn new(max: u64) -> Self {
        Self {
            next: 0,
            written: 0,
            acked: 0,
            max,
            reported: 0,
            repair: None,
            chain: Chain::EMPTY,
            state: SendState::Open,
            queue: SendQueue::Idle,
            flags: 0,
        }
    }

    /// True if nothing more will be sent.
    #[inline]
    pub(super) const fn is_done(&self) -> bool {
        !matches!(self.state, SendState::Open | SendState::Reset)
    }

    /// True if the application ended it.
    #[inline]
    pub(super) const fn is_finished(&self) -> bool {
        self.flags & FIN_WANTED != 0
    }

    /// True if data and FIN were acknowledged.
    #[inline]
    pub(super) const fn is_acked(&self) -> bool {
        self.flags & FIN_ACKED != 0 && self.acked == self.written
    }

    /// True if all below `end` was acknowledged, and with `fin` the FIN too.
    pub(super) const fn has_acked(&self, end: u64, fin: bool) -> bool {
        self.acked >= end && (!fin || self.is_acked())
    }

    /// Notes whether there are tracked sends.
    pub(super) const fn set_tracked(&mut self, tracked: bool) {
        self.flags = if tracked { self.flags | TRACKED } else { self.flags & !TRACKED };
    }

    /// Bytes that are in the send buffer.
    pub(super) const fn buffered(&self) -> u64 {
        if matches!(self.state, SendState::Open) { self.written - self.acked } else { 0 }
    }

    /// Copied data was refused for lack of room.
    pub(super) const fn await_room(&mut self) {
        self.flags |= AWAITS_ROOM;
    }

    /// True, once, if room was waited for and `limit` bytes are buffered at most.
    pub(super) const fn has_room_again(&mut self, limit: u64) -> bool {
        let ready =
            self.flags & (AWAITS_ROOM | FIN_WANTED) == AWAITS_ROOM && self.buffered() <= limit;
        if ready {
            self.flags &= !AWAITS_ROOM;
        }
        ready
    }

    /// True if the application waits for more than bytes acknowledged.
    #[inline]
    pub(super) const fn is_watched(&self) -> bool {
        self.flags & (TRACKED | AWAITS_ROOM) != 0
    }

    /// True if there are tracked sends.
    #[inline]
    pub(super) const fn is_tracked(&self) -> bool {
        self.flags & TRACKED != 0
    }

    /// True if the peer asked us to stop.
    pub(super) const fn is_stopped(&self) -> bool {
        self.flags & STOPPED != 0
    }

    /// The peer asked us to stop.
    pub(super) const fn stop(&mut self) {
        self.flags |= STOPPED;
    }

    /// New bytes that the stream's own limit lets through.
    #[inline]
    pub(super) fn sendable(&self) -> u64 {
        self.written.min(self.max).saturating_sub(self.next)
    }

    /// True if data waits for nothing but a larger limit of this stream.
    #[inline]
    pub(super) const fn is_blocked(&self) -> bool {
        matches!(self.state, SendState::Open) && self.next >= self.max && self.next < self.written
    }

    /// True if the peer is to be told now that it blocks us: once for each limit.
    #[inline]
    pub(super) const fn tell_blocked(&mut self) -> bool {
        let tell = self.is_blocked() && self.flags & BLOCKED_TOLD == 0;
        if tell {
            self.flags |= BLOCKED_TOLD;
        }
        tell
    }

    /// Takes a new limit; says whether it is larger than before.
    pub(super) fn raise(&mut self, max: u64) -> bool {
        let higher = max > self.max;
        if higher {
            self.max = max;
            self.flags &= !BLOCKED_TOLD;
        }
        higher
    }

    /// Adds data to the send buffer, and perhaps ends the stream.
    #[inline]
    pub(super) fn write(&mut self, send_buffer: &mut SendBuffer, data: Bytes, fin: bool) {
        if !data.is_empty() {
            let len = data.len() as u64;
            send_buffer.push(&mut self.chain, data, self.written);
            self.written += len;
        }
        if fin {
            self.flags |= FIN_WANTED;
        }
    }

    /// Copies data into the send buffer, and perhaps ends the stream.
    pub(super) fn write_copy(&mut self, send_buffer: &mut SendBuffer, data: &[u8], fin: bool) {
        send_buffer.append(&mut self.chain, data, self.written);
        self.written += data.len() as u64;
        if fin {
            self.flags |= FIN_WANTED;
        }
    }

    /// Adds data that was copied before, and perhaps ends the stream.
    pub(super) fn write_handed(&mut self, send_buffer: &mut SendBuffer, data: Bytes, fin: bool) {
        if !data.is_empty() {
            let len = data.len() as u64;
            send_buffer.push_copy(&mut self.chain, data, self.written);
            self.written += len;
        }
        if fin {
            self.flags |= FIN_WANTED;
        }
    }

    /// How many bytes can be copied to it before the connection's copies take more than `limit` bytes.
    pub(super) fn copy_room(&self, send_buffer: &SendBuffer, limit: usize) -> usize {
        send_buffer.room(&self.chain, limit)
    }

    /// The queue it belongs in.
    #[inline]
    pub(super) fn wanted_queue(&self) -> SendQueue {
        if !matches!(self.state, SendState::Open) {
            SendQueue::Idle
        } else if self.has_lost() || self.owes_lone_fin() {
            SendQueue::Repair
        } else if self.sendable() > 0 {
            SendQueue::Fresh
        } else {
            SendQueue::Idle
        }
    }

    /// What to send next: repairs first, then a lone FIN, then new data.
    #[inline]
    pub(super) fn segment(&self) -> Segment {
        if let Some(lost) = self.repair.as_ref().and_then(|repair| repair.lost.first()) {
            return Segment { offset: lost.lo, len: lost.hi - lost.lo, again: true };
        }
        Segment { offset: self.next, len: self.sendable(), again: false }
    }

    /// True if a frame that ends at `end` carries FIN.
    #[inline]
    pub(super) const fn fin_at(&self, end: u64) -> bool {
        self.is_finished() && end == self.written
    }

    /// Fills `out` with the first bytes of `segment` and counts them as sent.
    #[inline]
    pub(super) fn emit(&mut self, send_buffer: &SendBuffer, segment: Segment, out: &mut [u8]) {
        let end = segment.offset + out.len() as u64;
        if !segment.again {
            send_buffer.copy_next(&mut self.chain, segment.offset, out);
            self.next = end;
        } else if let Some(repair) = &mut self.repair {
            send_buffer.copy_again(&self.chain, &mut repair.hint, segment.offset, out);
            repair.lost.remove(segment.offset, end);
        }
        if self.fin_at(end) {
            self.flags |= FIN_SENT;
        }
    }

    /// The frame `offset..offset + len` was acknowledged; says whether `acked` moved or the
    /// stream ended.
    #[inline]
    pub(super) fn on_acked(
        &mut self,
        send_buffer: &mut SendBuffer,
        offset: u64,
        len: u64,
        fin: bool,
    ) -> bool {
        if !matches!(self.state, SendState::Open) {
            return false;
        }
        let before = self.acked;
        if fin {
            self.flags |= FIN_SENT | FIN_ACKED;
        }
        if offset == self.acked && self.repair.is_none() {
            self.acked += len;
        } else {
            self.on_acked_with_gaps(offset, offset + len);
        }
        if self.acked != before {
            send_buffer.pop_below(&mut self.chain, self.acked);
        }
        if self.is_acked() {
            self.state = SendState::Finished;
            self.repair = None;
            return true;
        }
        self.acked != before
    }

    /// The frame `offset..offset + len` was lost: what of it was not acknowledged is to be sent
    /// again.
    pub(super) fn on_lost(&mut self, offset: u64, len: u64, fin: bool) {
        if !matches!(self.state, SendState::Open) {
            return;
        }
        if fin && self.flags & FIN_ACKED == 0 {
            self.flags &= !FIN_SENT;
        }
        let (lo, hi) = (offset.max(self.acked), offset + len);
        if lo >= hi {
            return;
        }
        let repair = self.repair();
        for gap in repair.acked.uncovered(lo, hi) {
            repair.lost.insert(gap.lo, gap.hi);
        }
    }

    /// Releases all data: the stream is reset (RFC 9000 §3.1).
    pub(super) fn abandon(&mut self, send_buffer: &mut SendBuffer) {
        send_buffer.clear(&mut self.chain);
        self.repair = None;
        self.state = SendState::Reset;
    }

    /// Frees what repairs needed.
    #[inline]
    pub(super) fn forget_repair(&mut self) {
        self.repair = None;
    }

    /// Bytes of heap held.
    pub(super) fn heap_bytes(&self) -> usize {
        self.repair.as_ref().map_or(0, |repair| {
            size_of::<Repair>() + repair.acked.heap_bytes() + repair.lost.heap_bytes()
        })
    }

    #[inline]
    fn has_lost(&self) -> bool {
        self.repair.as_ref().is_some_and(|repair| !repair.lost.is_empty())
    }

    /// True if a FIN is to be sent that no data will carry.
    #[inline]
    const fn owes_lone_fin(&self) -> bool {
        self.flags & (FIN_WANTED | FIN_SENT) == FIN_WANTED && self.next == self.written
    }

    fn repair(&mut self) -> &mut Repair {
        self.repair.get_or_insert_with(|| {
            Box::new(Repair { acked: ByteRanges::new(), lost: ByteRanges::new(), hint: NONE })
        })
    }

    fn on_acked_with_gaps(&mut self, lo: u64, hi: u64) {
        let acked = self.acked;
        if hi <= acked || lo == hi {
            // Known, or a FIN alone.
            return;
        }
        let repair = self.repair();
        if lo > acked {
            repair.acked.insert(lo, hi);
            repair.lost.remove(lo, hi);
            return;
        }
        repair.acked.remove_below(hi);
        let next = repair.acked.first().filter(|range| range.lo == hi);
        let acked = next.map_or(hi, |range| range.hi);
        repair.acked.remove_below(acked);
        repair.lost.remove_below(acked);
        // Pieces below are given back, and the hint may name one of them.
        repair.hint = NONE;
        self.acked = acked;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_over_several_gaps_joins_what_lies_behind_the_last() {
        let (mut send_buffer, mut half) = (SendBuffer::new(), SendHalf::new(1_000));
        half.write(&mut send_buffer, Bytes::from_static(&[0; 100]), false);
        half.emit(&send_buffer, half.segment(), &mut [0; 100]);
        for (offset, len, acked) in [(10, 10, 0), (40, 20, 0), (70, 10, 0), (0, 40, 60)] {
            half.on_acked(&mut send_buffer, offset, len, false);
            assert_eq!(half.acked, acked);
        }
        half.on_acked(&mut send_buffer, 50, 20, false);
        assert_eq!(half.acked, 80);
    }

    #[test]
    fn a_loss_after_acknowledgements_is_only_what_lies_between_them() {
        let (mut send_buffer, mut half) = (SendBuffer::new(), SendHalf::new(1_000));
        half.write(&mut send_buffer, Bytes::from_static(&[0; 100]), true);
        half.emit(&send_buffer, half.segment(), &mut [0; 100]);
        half.on_acked(&mut send_buffer, 0, 10, false);
        half.on_acked(&mut send_buffer, 20, 10, false);
        half.on_lost(0, 100, true);
        assert_eq!(half.segment(), Segment { offset: 10, len: 10, again: true });
        half.emit(&send_buffer, half.segment(), &mut [0; 10]);
        assert_eq!(half.segment(), Segment { offset: 30, len: 70, again: true });
        assert!(half.fin_at(100) && !half.fin_at(99));
        half.on_acked(&mut send_buffer, 30, 70, true);
        assert_eq!(half.wanted_queue(), SendQueue::Idle);
        assert!(!half.is_done());
        half.on_acked(&mut send_buffer, 10, 10, false);
        assert_eq!(half.state, SendState::Finished);
    }
}
