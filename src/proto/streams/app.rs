//! What the application asks for.

use super::error::{OpenError, ReceiveError, SendError};
use super::list::Way;
use super::recv::RecvState;
use super::send::SendState;
use super::slot::{Stream, pending_frames};
use super::{Streams, pending_control};
use crate::wire::{Dir, StreamId};
use bytes::Bytes;

impl Streams {
    /// Opens a stream.
    ///
    /// # Errors
    /// The peer allows no more for now: it is told so, and [`Available`] follows once it does.
    ///
    /// [`Available`]: super::StreamEvent::Available
    pub fn open(&mut self, dir: Dir) -> Result<StreamId, OpenError> {
        let opening = &mut self.opening[dir as usize];
        if opening.count >= opening.max {
            if self.peer_known && !opening.wanted {
                self.pending_control |= pending_control::STREAMS_BLOCKED << dir as u8;
            }
            opening.wanted = true;
            return Err(OpenError::LimitReached { limit: opening.max });
        }
        let id = StreamId::new(self.side, dir, opening.count);
        opening.count += 1;
        self.create(id);
        Ok(id)
    }

    /// Lends `data` until it is acknowledged, and ends the stream after it if `fin` says so.
    /// There is no limit but the application's: [`Acknowledged`](super::StreamEvent) tells
    /// when bytes are its own again, [`Streams::buffered`] how many are not.
    ///
    /// # Errors
    /// The stream is not open for sending.
    pub fn send(&mut self, id: StreamId, data: Bytes, fin: bool) -> Result<(), SendError> {
        let slot = self.sendable(id)?;
        let stream = &mut self.table.slots[slot as usize];
        if stream.send.is_finished() {
            return Err(SendError::Finished);
        }
        stream.send.write(&mut self.send_buffer, data, fin);
        self.schedule(slot);
        self.tell_data_blocked();
        Ok(())
    }

    /// Bytes lent on the stream that were not acknowledged yet.
    #[must_use]
    pub fn buffered(&self, id: StreamId) -> u64 {
        self.table.search(id).map_or(0, |slot| {
            let send = &self.stream(slot).send;
            if send.state == SendState::Open { send.written - send.acked } else { 0 }
        })
    }

    /// Gives up sending: what is lent is returned at once, and the peer is told `code`.
    ///
    /// # Errors
    /// The stream is not open for sending, or everything was acknowledged already.
    pub fn reset(&mut self, id: StreamId, code: u64) -> Result<(), SendError> {
        let slot = self.sendable(id)?;
        self.abandon(slot, code);
        Ok(())
    }

    /// Asks the peer to stop sending: what came and was not taken is thrown away, and what still
    /// comes will be.
    ///
    /// # Errors
    /// The stream is not open for receiving.
    pub fn stop_sending(&mut self, id: StreamId, code: u64) -> Result<(), ReceiveError> {
        let slot = self.receivable(id)?;
        let stream = &mut self.table.slots[slot as usize];
        stream.recv.state = RecvState::Stopped;
        stream.recv_code = code;
        self.discard_unread(slot);
        if self.stream(slot).recv.final_size().is_some() {
            // RFC 9000 §3.5: with the end known there is nothing left to stop.
            self.finish_receiving(slot);
        } else {
            self.want(slot, pending_frames::STOP_SENDING);
        }
        Ok(())
    }

    /// Delivers again on a stream whose application had not taken all that it was shown.
    ///
    /// # Errors
    /// The stream is not open for receiving.
    pub fn resume(&mut self, id: StreamId) -> Result<(), ReceiveError> {
        let slot = self.receivable(id)?;
        let recv = &mut self.table.slots[slot as usize].recv;
        recv.paused = false;
        if recv.is_ready() && !recv.resumed {
            recv.resumed = true;
            self.resumed.push(&mut self.table.slots, Way::Resumed, slot);
        }
        Ok(())
    }

    /// Keeps a number of the application's with the stream; says whether there is the stream.
    pub fn set_context(&mut self, id: StreamId, context: u64) -> bool {
        let slot = self.table.find(id);
        if let Some(slot) = slot {
            self.stream_mut(slot).context = context;
        }
        slot.is_some()
    }

    /// The application's number: 0 until it is set, nothing after [`Closed`] was told.
    ///
    /// [`Closed`]: super::StreamEvent::Closed
    #[must_use]
    pub fn context(&self, id: StreamId) -> Option<u64> {
        self.table.search(id).map(|slot| self.stream(slot).context)
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
