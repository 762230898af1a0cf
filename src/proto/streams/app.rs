//! What the application asks for.

use super::error::{OpenError, ReceiveError, SendError};
use super::rare::TrackedSend;
use super::recv::RecvState;
use super::send::SendState;
use super::send_buffer::BLOCK_BYTES;
use super::slot::{Stream, pending_events, pending_frames};
use super::{Streams, pending_control};
use crate::wire::{Dir, StreamId};
use bytes::Bytes;
use std::fmt;
use std::marker::PhantomData;

/// The streams of a connection, as its application uses them.
///
/// Calls take effect at once, and what follows from them is told later, never within the call.
/// Not `Send`: what it borrows belongs to the thread that drives the connection.
pub struct StreamsRef<'a> {
    pub(super) streams: &'a mut Streams,
    at_home: PhantomData<*mut ()>,
}

impl fmt::Debug for StreamsRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamsRef").field("open", &self.streams.open_streams()).finish()
    }
}

impl<'a> StreamsRef<'a> {
    #[inline]
    pub(super) fn new(streams: &'a mut Streams) -> Self {
        Self { streams, at_home: PhantomData }
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// The peer allows no more for now. It is told that we want more, and
    /// [`StreamEvent::Available`](super::StreamEvent::Available) tells when it allows them.
    pub fn open(&mut self, dir: Dir) -> Result<StreamId, OpenError> {
        let streams = &mut *self.streams;
        let opening = &mut streams.opening[dir as usize];
        if opening.count >= opening.max {
            if streams.peer_known && !opening.wanted {
                streams.pending_control |= pending_control::STREAMS_BLOCKED << dir as u8;
            }
            opening.wanted = true;
            return Err(OpenError::LimitReached { limit: opening.max });
        }
        let id = StreamId::new(streams.side, dir, opening.count);
        opening.count += 1;
        streams.create(id);
        Ok(id)
    }

    /// How many streams of a kind can be opened now.
    #[must_use]
    pub fn available(&self, dir: Dir) -> u64 {
        self.streams.opening[dir as usize].left()
    }

    /// Lets the peer have `count` more streams of a kind open at a time, up to
    /// [`Bounds::open_streams`](super::Bounds). Returns how many it may have open now. What is granted is not
    /// taken back.
    pub fn grant_streams(&mut self, dir: Dir, count: u64) -> u64 {
        let streams = &mut *self.streams;
        let accepting = &mut streams.accepting[dir as usize];
        if accepting.raise(count, u64::from(streams.bounds.open_streams)) {
            streams.pending_control |= pending_control::MAX_STREAMS << dir as u8;
        }
        accepting.limit
    }

    /// Lends `data` to a stream until the peer has acknowledged it; nothing is copied. `fin` ends
    /// the stream with it. There is no limit but the application's:
    /// [`StreamEvent::Acknowledged`](super::StreamEvent::Acknowledged) tells when bytes are its own
    /// again, [`buffered`](Self::buffered) how many are not.
    ///
    /// # Errors
    /// The stream is not ours to send on, or is finished, reset or stopped.
    pub fn send(&mut self, stream: StreamId, data: Bytes, fin: bool) -> Result<(), SendError> {
        self.streams.lend(stream, data, fin)?;
        Ok(())
    }

    /// As [`send`](Self::send), and
    /// [`StreamEvent::SendComplete`](super::StreamEvent::SendComplete) tells once, with `context`, when
    /// all of it is acknowledged, with its FIN, or cancelled. Cancelled it is by a reset of either side, and by the
    /// end of the connection. A send without data completes with what was sent before it.
    ///
    /// # Errors
    /// As [`send`](Self::send); nothing is told of that send then.
    pub fn send_tracked(
        &mut self,
        stream: StreamId,
        data: Bytes,
        fin: bool,
        context: u64,
    ) -> Result<(), SendError> {
        let slot = self.streams.lend(stream, data, fin)?;
        self.streams.track(slot, fin, context);
        Ok(())
    }

    /// Copies `data` to a stream: it is the application's own again at once. Small writes are joined. Returns
    /// how many bytes were taken: if not all, as [`Bounds::send_copy_bytes`](super::Bounds) of the stream
    /// are buffered then (what was lent to it counts), `fin` was not either, and
    /// [`StreamEvent::SendReady`](super::StreamEvent::SendReady) tells when half of that is free again. The
    /// same holds of [`Bounds::connection_send_copy_bytes`](super::Bounds), which the copies of all streams
    /// share.
    ///
    /// # Errors
    /// [`SendError::Full`] or [`SendError::ConnectionFull`] if there is no room at all,
    /// [`SendError::TooLarge`] if there never is any; otherwise as [`send`](Self::send).
    pub fn send_copy(
        &mut self,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> Result<usize, SendError> {
        let streams = &mut *self.streams;
        let slot = streams.writable(stream)?;
        let taken = streams.room(slot, data.len(), false)?;
        let stream = &mut streams.table.slots[slot as usize];
        let fin = fin && taken == data.len();
        stream.send.write_copy(&mut streams.send_buffer, &data[..taken], fin);
        streams.app_limited = false;
        streams.schedule(slot);
        streams.tell_data_blocked();
        Ok(taken)
    }

    /// As [`send_copy`](Self::send_copy), for data that was copied already: all or nothing.
    ///
    /// # Errors
    /// [`SendError::Full`] or [`SendError::ConnectionFull`] if there is no room for all of it now, and
    /// [`SendError::TooLarge`] if there never is; otherwise as [`send`](Self::send).
    pub(crate) fn send_copied(
        &mut self,
        stream: StreamId,
        data: Bytes,
        fin: bool,
    ) -> Result<(), SendError> {
        let streams = &mut *self.streams;
        let slot = streams.writable(stream)?;
        streams.room(slot, data.len(), true)?;
        let stream = &mut streams.table.slots[slot as usize];
        stream.send.write_handed(&mut streams.send_buffer, data, fin);
        streams.app_limited = false;
        streams.schedule(slot);
        streams.tell_data_blocked();
        Ok(())
    }

    /// Bytes in a stream's send buffer: written and not acknowledged yet.
    #[must_use]
    pub fn buffered(&self, stream: StreamId) -> u64 {
        self.streams
            .table
            .search(stream)
            .map_or(0, |slot| self.streams.stream(slot).send.buffered())
    }

    /// Gives up sending on a stream: its send buffer is released at once, and the peer is told
    /// `code`.
    ///
    /// # Errors
    /// The stream is unknown, not ours to send on, or all of it is acknowledged.
    pub fn reset(&mut self, stream: StreamId, code: u64) -> Result<(), SendError> {
        let slot = self.streams.sendable(stream)?;
        self.streams.abandon(slot, code);
        Ok(())
    }

    /// Asks the peer to stop sending on a stream. What came and was not taken is thrown away, and
    /// so is what still comes.
    ///
    /// # Errors
    /// The stream is unknown, not ours to receive on, or its receiving half has ended.
    pub fn stop_sending(&mut self, stream: StreamId, code: u64) -> Result<(), ReceiveError> {
        let streams = &mut *self.streams;
        let slot = streams.receivable(stream)?;
        let stream = &mut streams.table.slots[slot as usize];
        stream.recv.state = RecvState::Stopped;
        stream.recv_code = code;
        streams.return_buffers(slot, false);
        streams.discard_unread(slot);
        if streams.stream(slot).recv.final_size().is_some() {
            // RFC 9000 §3.5: with the end known there is nothing left to stop.
            streams.finish_receiving(slot);
        } else {
            streams.want(slot, pending_frames::STOP_SENDING);
        }
        Ok(())
    }

    /// Attaches a number of the application's to a stream; false if there is no such stream.
    pub fn set_context(&mut self, stream: StreamId, context: u64) -> bool {
        let slot = self.streams.table.find(stream);
        if let Some(slot) = slot {
            self.streams.stream_mut(slot).context = context;
        }
        slot.is_some()
    }

    /// The number attached to a stream: 0 until it is set, `None` once
    /// [`StreamEvent::Closed`](super::StreamEvent::Closed) was told.
    #[must_use]
    pub fn context(&self, stream: StreamId) -> Option<u64> {
        self.streams.table.search(stream).map(|slot| self.streams.stream(slot).context)
    }
}

impl Streams {
    /// Adds data of the application's to a stream, and perhaps ends it; the stream's slot.
    #[inline]
    fn lend(&mut self, id: StreamId, data: Bytes, fin: bool) -> Result<u32, SendError> {
        self.app_limited = false;
        let slot = self.writable(id)?;
        let stream = &mut self.table.slots[slot as usize];
        stream.send.write(&mut self.send_buffer, data, fin);
        self.schedule(slot);
        self.tell_data_blocked();
        Ok(slot)
    }

    /// How much of `wanted` copied bytes a stream has room for. If that is not all, it waits for room;
    /// an error if it is nothing, or not `all`.
    fn room(&mut self, slot: u32, wanted: usize, all: bool) -> Result<usize, SendError> {
        let limit = self.copies_limit();
        let send = &self.table.slots[slot as usize].send;
        let own = u64::from(self.bounds.send_copy_bytes).saturating_sub(send.buffered());
        let shared = if all {
            limit.saturating_sub(self.send_buffer.copied_bytes())
        } else {
            send.copy_room(&self.send_buffer, limit)
        };
        if wanted as u64 <= own && wanted <= shared {
            return Ok(wanted);
        }
        self.lack_room(slot, (own, shared as u64), if all { wanted } else { 1 })
    }

    /// A stream has not room for all that was to be copied, but `own` bytes of its own, and `shared` with all
    /// others. An error if that is less than `least`.
    #[cold]
    fn lack_room(
        &mut self,
        slot: u32,
        (own, shared): (u64, u64),
        least: usize,
    ) -> Result<usize, SendError> {
        self.short_copies += 1;
        let (of_stream, of_all) =
            (u64::from(self.bounds.send_copy_bytes), self.copies_limit() as u64);
        let most = of_stream.min(of_all);
        if least as u64 > most {
            return Err(SendError::TooLarge { limit: most });
        }
        self.table.slots[slot as usize].send.await_room();
        // It is told by what it sends itself, or else by what others do.
        self.copies_wait |= shared < own;
        let room = own.min(shared);
        if room >= least as u64 {
            Ok(room as usize)
        } else if shared < own {
            Err(SendError::ConnectionFull { limit: of_all })
        } else {
            Err(SendError::Full { limit: of_stream })
        }
    }

    /// Bytes of memory that copies of all streams may take: one block at least.
    fn copies_limit(&self) -> usize {
        (self.bounds.connection_send_copy_bytes as usize).max(BLOCK_BYTES)
    }

    /// True if half of the memory for copies is free.
    pub(super) fn copies_have_room(&self) -> bool {
        self.send_buffer.copied_bytes() <= self.copies_limit() / 2
    }

    /// Copies have gone, and streams wait for the room of others: tells them, once there is some.
    #[cold]
    pub(super) fn tell_copies_waiting(&mut self) {
        if !self.copies_have_room() {
            return;
        }
        self.copies_wait = false;
        let half = u64::from(self.bounds.send_copy_bytes) / 2;
        for slot in 0..self.table.slots.len() as u32 {
            let stream = self.stream_mut(slot);
            let waits = !stream.is_vacant() && stream.send.state == SendState::Open;
            if waits && stream.send.has_room_again(half) {
                self.tell(slot, pending_events::SEND_READY);
            }
        }
    }

    /// What was just sent on a stream is tracked.
    fn track(&mut self, slot: u32, fin: bool, context: u64) {
        let stream = &mut self.table.slots[slot as usize];
        let end = stream.send.written;
        let rare = self.rare.of(&mut stream.recv.rare);
        rare.sends.push_back(TrackedSend { end, fin, context });
        stream.send.set_tracked(true);
        if stream.send.has_acked(end, fin) {
            self.tell(slot, pending_events::SEND_COMPLETE);
        }
    }

    /// The slot of a stream that more can be written to.
    #[inline]
    fn writable(&mut self, id: StreamId) -> Result<u32, SendError> {
        let slot = self.sendable(id)?;
        if self.stream(slot).send.is_finished() {
            return Err(SendError::Finished);
        }
        Ok(slot)
    }

    /// The slot of a stream whose sending half is open.
    fn sendable(&mut self, id: StreamId) -> Result<u32, SendError> {
        let slot = self.table.find(id).ok_or(SendError::UnknownStream)?;
        let stream: &Stream = self.stream(slot);
        match stream.send.state {
            SendState::Open => Ok(slot),
            SendState::Absent => Err(SendError::NotSendable),
            SendState::Finished => Err(SendError::Finished),
            SendState::Reset | SendState::ResetDone if stream.send.is_stopped() => {
                Err(SendError::Stopped(stream.reset_code))
            }
            SendState::Reset | SendState::ResetDone => Err(SendError::Reset),
        }
    }

    /// The slot of a stream whose receiving half is open.
    pub(super) fn receivable(&mut self, id: StreamId) -> Result<u32, ReceiveError> {
        let slot = self.table.find(id).ok_or(ReceiveError::UnknownStream)?;
        match self.stream(slot).recv.state {
            RecvState::Open => Ok(slot),
            RecvState::Absent => Err(ReceiveError::NotReceivable),
            RecvState::Stopped | RecvState::Done => Err(ReceiveError::Ended),
        }
    }

    /// Resets the open sending half with `code`.
    #[cold]
    pub(super) fn abandon(&mut self, slot: u32, code: u64) {
        let stream = &mut self.table.slots[slot as usize];
        stream.reset_code = code;
        stream.send.abandon(&mut self.send_buffer);
        if stream.send.is_tracked() {
            self.tell(slot, pending_events::SEND_COMPLETE);
        }
        if self.copies_wait {
            self.tell_copies_waiting();
        }
        self.schedule(slot);
        self.want(slot, pending_frames::RESET_STREAM);
    }
}
