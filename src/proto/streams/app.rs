//! What the application asks for.

use super::error::{OpenError, ReceiveError, SendError};
use super::list::Way;
use super::recv::RecvState;
use super::send::SendState;
use super::slot::{Stream, pending_frames};
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
    streams: &'a mut Streams,
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

    /// Lends `data` to a stream until the peer has acknowledged it; nothing is copied. `fin` ends
    /// the stream with it. There is no limit but the application's:
    /// [`StreamEvent::Acknowledged`](super::StreamEvent::Acknowledged) tells when bytes are its own
    /// again, [`buffered`](Self::buffered) how many are not.
    ///
    /// # Errors
    /// The stream is not ours to send on, or is finished, reset or stopped.
    pub fn send(&mut self, stream: StreamId, data: Bytes, fin: bool) -> Result<(), SendError> {
        let streams = &mut *self.streams;
        streams.app_limited = false;
        let slot = streams.sendable(stream)?;
        let stream = &mut streams.table.slots[slot as usize];
        if stream.send.is_finished() {
            return Err(SendError::Finished);
        }
        stream.send.write(&mut streams.send_buffer, data, fin);
        streams.schedule(slot);
        streams.tell_data_blocked();
        Ok(())
    }

    /// Bytes in a stream's send buffer: written and not acknowledged yet.
    #[must_use]
    pub fn buffered(&self, stream: StreamId) -> u64 {
        self.streams.table.search(stream).map_or(0, |slot| {
            let send = &self.streams.stream(slot).send;
            if send.state == SendState::Open { send.written - send.acked } else { 0 }
        })
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
        streams.discard_unread(slot);
        if streams.stream(slot).recv.final_size().is_some() {
            // RFC 9000 §3.5: with the end known there is nothing left to stop.
            streams.finish_receiving(slot);
        } else {
            streams.want(slot, pending_frames::STOP_SENDING);
        }
        Ok(())
    }

    /// Has the data offered again that the application did not take.
    ///
    /// # Errors
    /// The stream is unknown, not ours to receive on, or its receiving half has ended.
    pub fn resume_receive(&mut self, stream: StreamId) -> Result<(), ReceiveError> {
        let streams = &mut *self.streams;
        let slot = streams.receivable(stream)?;
        let recv = &mut streams.table.slots[slot as usize].recv;
        recv.paused = false;
        if recv.is_ready() && !recv.resumed {
            recv.resumed = true;
            streams.resumed.push(&mut streams.table.slots, Way::Resumed, slot);
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
    fn receivable(&mut self, id: StreamId) -> Result<u32, ReceiveError> {
        let slot = self.table.find(id).ok_or(ReceiveError::UnknownStream)?;
        match self.stream(slot).recv.state {
            RecvState::Open => Ok(slot),
            RecvState::Absent => Err(ReceiveError::NotReceivable),
            RecvState::Stopped | RecvState::Done => Err(ReceiveError::Ended),
        }
    }

    /// Resets the open sending half with `code`.
    pub(super) fn abandon(&mut self, slot: u32, code: u64) {
        let stream = &mut self.table.slots[slot as usize];
        stream.reset_code = code;
        stream.send.abandon(&mut self.send_buffer);
        self.schedule(slot);
        self.want(slot, pending_frames::RESET_STREAM);
    }
}
