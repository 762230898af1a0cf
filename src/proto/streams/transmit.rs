//! Frames into packets, and what became of them.

use super::list::Way;
use super::recv::RecvState;
use super::send::{Segment, SendQueue, SendState};
use super::slot::{pending_events, pending_frames};
use super::{Streams, notices, pending_control};
use crate::proto::sent::{StreamFrame, StreamRef};
use crate::wire::frame::{Frame, stream_header_len, write_stream_header};
use crate::wire::{Dir, StreamId, Writer, varint_len};

/// Data is not cut into less than this: a frame's bookkeeping on both sides costs more than a
/// few bytes of room at the end of a packet are worth.
const FRAGMENT_MIN: usize = 16;

/// Control frames, and STREAM frames, that one call writes. The record of a packet counts its
/// frames in eight bits, and a peer could make more pending: a RESET_STREAM for each of
/// its STOP_SENDINGs is four bytes. What is left over goes into the next packet.
const FRAMES_MAX: usize = 100;

const _: () = assert!(2 * FRAMES_MAX < 230, "both calls and the other frames fit one record");

/// How a segment of a stream is laid into the room that a packet has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fit {
    /// PADDING in front, so that data which needs no length field ends with the packet.
    padding: usize,
    /// Bytes of data.
    len: usize,
    /// True if the length is written.
    explicit: bool,
}

/// Lays `wanted` bytes, after a header of `header` bytes without length field, into `room`
/// bytes. With `to_end` the frame may run to the end of the packet without a length (RFC 9000
/// §19.8). Nothing, if not enough of it would fit.
fn fit(room: usize, header: usize, wanted: u64, to_end: bool) -> Option<Fit> {
    let space = room.checked_sub(header)?;
    let whole = usize::try_from(wanted).unwrap_or(usize::MAX);
    let to_end = to_end && space <= usize::from(u16::MAX);
    if to_end && whole >= space {
        return (whole == space || space >= FRAGMENT_MIN).then_some(Fit {
            padding: 0,
            len: space,
            explicit: false,
        });
    }
    let len = whole.min(usize::from(u16::MAX));
    if varint_len(len as u64) + len <= space {
        return Some(Fit { padding: 0, len, explicit: true });
    }
    if to_end {
        // Without the length it fits, and leaves less than a length's bytes.
        return Some(Fit { padding: space - whole, len: whole, explicit: false });
    }
    let len = space.saturating_sub(varint_len(space as u64)).min(usize::from(u16::MAX));
    (len >= FRAGMENT_MIN).then_some(Fit { padding: 0, len, explicit: true })
}

impl Streams {
    /// True if STREAM frames can be written now.
    #[must_use]
    pub const fn has_data(&self) -> bool {
        !self.repair.is_empty() || (!self.fresh.is_empty() && self.credit.left() > 0)
    }

    /// True if other frames are pending.
    #[must_use]
    pub const fn has_control(&self) -> bool {
        self.pending_control != 0 || !self.control.is_empty()
    }

    /// Writes the pending control frames, as many as fit and at most 100; the others stay
    /// pending.
    pub fn write_control(&mut self, w: &mut Writer<'_>, sent: &mut impl FnMut(StreamFrame)) {
        while self.pending_control != 0 {
            let bit = self.pending_control & self.pending_control.wrapping_neg();
            if !self.write_pending_all(bit, w, sent) {
                return;
            }
            self.pending_control &= !bit;
        }
        // Less the connection's own, at most six.
        for _ in 6..FRAMES_MAX {
            let Some(slot) = self.control.first() else { return };
            let pending_frames = self.stream(slot).pending_frames;
            let bit = pending_frames & pending_frames.wrapping_neg();
            if !self.write_pending(slot, bit, w, sent) {
                return;
            }
            self.stream_mut(slot).pending_frames &= !bit;
            if pending_frames == bit {
                self.control.remove(&mut self.table.slots, Way::Control, slot);
            }
        }
    }

    /// Fills the packet with STREAM frames, at most 100: what was lost first, then new data, one
    /// frame of each stream in turn. A frame that reaches exactly the end of `w` has no length field, so
    /// nothing may follow it in the packet.
    pub fn write_data(&mut self, w: &mut Writer<'_>, sent: &mut impl FnMut(StreamFrame)) {
        self.write_segments(w, true, sent);
    }

    /// As [`Streams::write_data`], with a length field in every frame: anything may follow.
    pub fn write_data_with_lengths(
        &mut self,
        w: &mut Writer<'_>,
        sent: &mut impl FnMut(StreamFrame),
    ) {
        self.write_segments(w, false, sent);
    }

    /// A frame's packet was acknowledged.
    pub fn on_acked(&mut self, frame: &StreamFrame) {
        match *frame {
            StreamFrame::Stream { stream, offset, len, fin } => {
                let Some(slot) = self.table.resolve(stream) else { return };
                let send = &mut self.table.slots[slot as usize].send;
                let moved = send.on_acked(&mut self.send_buffer, offset, u64::from(len), fin);
                let (done, watched) = (send.is_done(), send.is_watched());
                if send.queue == SendQueue::Repair {
                    self.schedule(slot);
                }
                if moved {
                    self.tell(slot, pending_events::ACKNOWLEDGED);
                    if watched {
                        self.note_progress(slot);
                    }
                    if self.copies_wait {
                        self.tell_copies_waiting();
                    }
                }
                if done {
                    self.close_if_done(slot);
                }
            }
            StreamFrame::ResetStream { stream } => {
                let Some(slot) = self.table.resolve(stream) else { return };
                let send = &mut self.stream_mut(slot).send;
                if send.state == SendState::Reset {
                    send.state = SendState::ResetDone;
                    self.close_if_done(slot);
                }
            }
            // That it arrived changes nothing here: the peer acts on it.
            StreamFrame::StopSending { .. }
            | StreamFrame::MaxData
            | StreamFrame::MaxStreamData { .. }
            | StreamFrame::MaxStreams { .. }
            | StreamFrame::DataBlocked
            | StreamFrame::StreamDataBlocked { .. }
            | StreamFrame::StreamsBlocked { .. } => {}
        }
    }

    /// A frame's packet was lost: what of it still matters is pending again (RFC 9000 §13.3).
    pub fn on_lost(&mut self, frame: &StreamFrame) {
        match *frame {
            StreamFrame::Stream { stream, offset, len, fin } => {
                let Some(slot) = self.table.resolve(stream) else { return };
                self.stream_mut(slot).send.on_lost(offset, u64::from(len), fin);
                self.schedule(slot);
            }
            StreamFrame::ResetStream { stream } => {
                self.resend(stream, pending_frames::RESET_STREAM)
            }
            StreamFrame::StopSending { stream } => {
                self.resend(stream, pending_frames::STOP_SENDING)
            }
            StreamFrame::MaxStreamData { stream } => {
                self.resend(stream, pending_frames::MAX_STREAM_DATA)
            }
            StreamFrame::StreamDataBlocked { stream } => {
                self.resend(stream, pending_frames::STREAM_DATA_BLOCKED);
            }
            StreamFrame::MaxData => self.pending_control |= pending_control::MAX_DATA,
            StreamFrame::MaxStreams { dir } => {
                self.pending_control |= pending_control::MAX_STREAMS << dir as u8
            }
            StreamFrame::DataBlocked if self.is_data_blocked() => {
                self.pending_control |= pending_control::DATA_BLOCKED;
            }
            StreamFrame::StreamsBlocked { dir } if self.opening[dir as usize].wanted => {
                self.pending_control |= pending_control::STREAMS_BLOCKED << dir as u8;
            }
            // The limit that it spoke of has moved.
            StreamFrame::DataBlocked | StreamFrame::StreamsBlocked { .. } => {}
        }
    }

    /// Makes a control frame of a stream pending again, if it still means something.
    fn resend(&mut self, stream: StreamRef, frame: u8) {
        if let Some(slot) = self.table.resolve(stream)
            && self.still_matters(slot, frame)
        {
            self.want(slot, frame);
        }
    }

    /// True if a control frame still means something to the peer.
    fn still_matters(&self, slot: u32, frame: u8) -> bool {
        let stream = self.stream(slot);
        match frame {
            pending_frames::RESET_STREAM => stream.send.state == SendState::Reset,
            pending_frames::STOP_SENDING => stream.recv.state == RecvState::Stopped,
            pending_frames::MAX_STREAM_DATA => {
                stream.recv.state == RecvState::Open && stream.recv.final_size().is_none()
            }
            _ => stream.send.is_blocked(),
        }
    }

    /// Writes a frame of the connection's own; says whether it fitted, or had become needless.
    fn write_pending_all(
        &mut self,
        bit: u8,
        w: &mut Writer<'_>,
        sent: &mut impl FnMut(StreamFrame),
    ) -> bool {
        const MAX_STREAMS_UNI: u8 = pending_control::MAX_STREAMS << 1;
        let dir = match bit {
            MAX_STREAMS_UNI => Dir::Uni,
            bit if bit == pending_control::STREAMS_BLOCKED << 1 => Dir::Uni,
            _ => Dir::Bi,
        };
        if bit == pending_control::MAX_DATA && self.window.update_due() {
            self.tune_connection();
        }
        let (frame, record) = match bit {
            pending_control::MAX_DATA => {
                (Frame::MaxData(self.window.grant()), StreamFrame::MaxData)
            }
            pending_control::DATA_BLOCKED if !self.is_data_blocked() => return true,
            pending_control::DATA_BLOCKED => {
                (Frame::DataBlocked(self.credit.max), StreamFrame::DataBlocked)
            }
            pending_control::MAX_STREAMS | MAX_STREAMS_UNI => {
                let before = self.accepting[dir as usize].max;
                let max = self.accepting[dir as usize].grant();
                // A limit that is repeated after a loss is not another one.
                if max > before {
                    self.notices &= !(notices::NEEDED_TOLD << dir as u8);
                }
                (Frame::MaxStreams { dir, max }, StreamFrame::MaxStreams { dir })
            }
            _ => {
                let limit = self.opening[dir as usize].max;
                (Frame::StreamsBlocked { dir, limit }, StreamFrame::StreamsBlocked { dir })
            }
        };
        write_frame(&frame, record, w, sent)
    }

    /// Writes a control frame of a stream; as [`Streams::write_pending_all`].
    fn write_pending(
        &mut self,
        slot: u32,
        bit: u8,
        w: &mut Writer<'_>,
        sent: &mut impl FnMut(StreamFrame),
    ) -> bool {
        if !self.still_matters(slot, bit) {
            return true;
        }
        if bit == pending_frames::MAX_STREAM_DATA {
            self.tune_stream(slot);
        }
        let name = self.table.name(slot);
        let it = self.stream_mut(slot);
        let stream = it.id;
        let (frame, record) = match bit {
            pending_frames::RESET_STREAM => (
                Frame::ResetStream { stream, code: it.reset_code, final_size: it.send.next },
                StreamFrame::ResetStream { stream: name },
            ),
            pending_frames::STOP_SENDING => (
                Frame::StopSending { stream, code: it.recv_code },
                StreamFrame::StopSending { stream: name },
            ),
            pending_frames::MAX_STREAM_DATA => (
                Frame::MaxStreamData { stream, max: it.recv.window.grant() },
                StreamFrame::MaxStreamData { stream: name },
            ),
            _ => (
                Frame::StreamDataBlocked { stream, limit: it.send.max },
                StreamFrame::StreamDataBlocked { stream: name },
            ),
        };
        write_frame(&frame, record, w, sent)
    }

    /// A higher limit of the stream is about to be granted: the window may have to grow.
    fn tune_stream(&mut self, slot: u32) {
        let recv = &mut self.table.slots[slot as usize].recv;
        if recv.window.update_due() && recv.window.size < self.bounds.stream_window {
            let tuning = &mut self.rare.of(&mut recv.rare).tuning;
            let grown = tuning.tune(&mut recv.window, self.bounds.stream_window, &self.clock);
            self.windows_grown += u32::from(grown);
        }
    }

    /// The same for the connection's.
    fn tune_connection(&mut self) {
        let most = self.bounds.connection_window;
        if self.tuning.tune(&mut self.window, most, &self.clock) {
            self.windows_grown += 1;
            self.pool.set_limit(self.window.size);
        }
    }

    fn write_segments(
        &mut self,
        w: &mut Writer<'_>,
        to_end: bool,
        sent: &mut impl FnMut(StreamFrame),
    ) {
        for _ in 0..FRAMES_MAX {
            let Some(slot) = self.next_sender() else { return };
            if !self.write_segment(slot, w, to_end, sent) {
                return;
            }
        }
    }

    /// The stream whose turn it is to send data.
    fn next_sender(&mut self) -> Option<u32> {
        if let Some(slot) = self.repair.first() {
            return Some(slot);
        }
        let slot = self.fresh.first()?;
        if self.credit.left() == 0 {
            self.tell_data_blocked();
            return None;
        }
        Some(slot)
    }

    /// Writes one frame of the stream, which is first in its queue; true if there was room.
    fn write_segment(
        &mut self,
        slot: u32,
        w: &mut Writer<'_>,
        to_end: bool,
        sent: &mut impl FnMut(StreamFrame),
    ) -> bool {
        let name = self.table.name(slot);
        let stream = &mut self.table.slots[slot as usize];
        let Segment { offset, len: pending, again } = stream.send.segment();
        let wanted = if again { pending } else { pending.min(self.credit.left()) };
        let header = stream_header_len(stream.id, offset, None);
        let Some(fit) = fit(w.remaining(), header, wanted, to_end) else { return false };
        let fin = stream.send.fin_at(offset + fit.len as u64);
        if !write_header(w, stream.id, offset, fit, fin) {
            return false;
        }
        let out = &mut w.rest_mut()[..fit.len];
        stream.send.emit(&self.send_buffer, Segment { offset, len: pending, again }, out);
        w.advance(fit.len);
        if again {
            self.resent_bytes += fit.len as u64;
        } else {
            self.credit.used += fit.len as u64;
        }
        sent(StreamFrame::Stream { stream: name, offset, len: fit.len as u16, fin });
        self.schedule(slot);
        // The next frame is another stream's.
        for queue in [&mut self.repair, &mut self.fresh] {
            if queue.first() == Some(slot) {
                queue.rotate(&mut self.table.slots, Way::Send);
            }
        }
        true
    }
}

/// Writes padding and header; says whether they fitted, as they do if `fit` was asked.
#[inline]
fn write_header(w: &mut Writer<'_>, id: StreamId, offset: u64, fit: Fit, fin: bool) -> bool {
    if fit.padding > 0 {
        w.rest_mut()[..fit.padding].fill(0);
        w.advance(fit.padding);
    }
    write_stream_header(w, id, offset, fit.explicit.then_some(fit.len), fin).is_ok()
}

/// Writes a control frame and records it; says whether it fitted.
fn write_frame(
    frame: &Frame<'_>,
    record: StreamFrame,
    w: &mut Writer<'_>,
    sent: &mut impl FnMut(StreamFrame),
) -> bool {
    let fits = frame.write(w).is_ok();
    if fits {
        sent(record);
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: usize = 5;

    #[test]
    fn a_segment_is_laid_out_for_every_room() {
        for room in 0..200 {
            for wanted in 0..250 {
                for to_end in [false, true] {
                    let Some(Fit { padding, len, explicit }) = fit(room, HEADER, wanted, to_end)
                    else {
                        assert!(room < HEADER + FRAGMENT_MIN + 2 || room < HEADER + 1);
                        continue;
                    };
                    let length = if explicit { varint_len(len as u64) } else { 0 };
                    let end = padding + HEADER + length + len;
                    assert!(end <= room && len as u64 <= wanted);
                    assert!(explicit || (to_end && end == room));
                    assert!(padding == 0 || len as u64 == wanted);
                    assert!(len as u64 == wanted || len >= FRAGMENT_MIN);
                    // What is cut off must not have fitted.
                    assert!(len as u64 == wanted || room - end <= 1);
                }
            }
        }
    }

    #[test]
    fn a_frame_is_never_longer_than_its_record_can_say() {
        // `StreamFrame::Stream` counts bytes in 16 bits.
        let all = usize::from(u16::MAX);
        for to_end in [false, true] {
            let fit = fit(100_000, HEADER, u64::MAX, to_end);
            assert_eq!(fit, Some(Fit { padding: 0, len: all, explicit: true }));
        }
        let exactly = fit(HEADER + all, HEADER, u64::MAX, true);
        assert_eq!(exactly, Some(Fit { padding: 0, len: all, explicit: false }));
        let lone_fin = fit(HEADER + 1, HEADER, 0, false);
        assert_eq!(lone_fin, Some(Fit { padding: 0, len: 0, explicit: true }));
    }
}
