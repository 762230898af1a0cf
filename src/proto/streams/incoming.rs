//! Frames of the peer other than STREAM.

use super::error::StreamError;
use super::recv::RecvState;
use super::send::SendState;
use super::slot::pending_events;
use super::{Streams, notices, pending_control, skip_key};
use crate::wire::{Dir, StreamId};

impl Streams {
    /// RESET_STREAM (RFC 9000 §19.4): the peer gives up sending.
    ///
    /// # Errors
    /// The final size contradicts what is known or exceeds a limit, or the stream is ours alone.
    #[cold]
    pub fn on_reset_stream(
        &mut self,
        id: StreamId,
        code: u64,
        final_size: u64,
    ) -> Result<(), StreamError> {
        let Some(slot) = self.receiving(id)? else { return Ok(()) };
        let stream = &mut self.table.slots[slot as usize];
        stream.recv.check(final_size, true, &self.window)?;
        let state = stream.recv.state;
        // RFC 9000 §3.2: with all data here, a reset may be ignored, and data is worth more.
        if stream.recv.is_done() || (state == RecvState::Open && stream.recv.has_all()) {
            return Ok(());
        }
        self.note_received(slot, final_size, true);
        self.discard_unread(slot);
        if state == RecvState::Open {
            self.stream_mut(slot).recv_code = code;
            self.tell(slot, pending_events::RESET);
        }
        self.finish_receiving(slot);
        Ok(())
    }

    /// STOP_SENDING (RFC 9000 §19.5): the peer does not want what we send; the stream is
    /// reset with the same code (§3.5).
    ///
    /// # Errors
    /// The stream is the peer's alone, or ours and not open yet.
    #[cold]
    pub fn on_stop_sending(&mut self, id: StreamId, code: u64) -> Result<(), StreamError> {
        let Some(slot) = self.sending(id)? else { return Ok(()) };
        let send = &mut self.stream_mut(slot).send;
        if send.state == SendState::Open {
            send.stop();
            self.abandon(slot, code);
            self.tell(slot, pending_events::STOP_SENDING);
        }
        Ok(())
    }

    /// MAX_DATA (RFC 9000 §19.9).
    ///
    /// # Errors
    /// None.
    pub fn on_max_data(&mut self, max: u64) -> Result<(), StreamError> {
        self.raise_credit(max);
        Ok(())
    }

    /// MAX_STREAM_DATA (RFC 9000 §19.10).
    ///
    /// # Errors
    /// The stream is the peer's alone, or ours and not open yet.
    pub fn on_max_stream_data(&mut self, id: StreamId, max: u64) -> Result<(), StreamError> {
        let Some(slot) = self.sending(id)? else { return Ok(()) };
        if self.stream_mut(slot).send.raise(max) {
            self.schedule(slot);
            self.tell_data_blocked();
        }
        Ok(())
    }

    /// MAX_STREAMS (RFC 9000 §19.11).
    ///
    /// # Errors
    /// None: a count above 2^60 is a malformed frame, not a state.
    pub fn on_max_streams(&mut self, dir: Dir, max: u64) -> Result<(), StreamError> {
        if max > self.opening[dir as usize].max {
            self.notices |= notices::AVAILABLE << dir as u8;
        }
        self.raise_opening(dir, max);
        Ok(())
    }

    /// DATA_BLOCKED (RFC 9000 §19.12): says nothing that our own counters do not.
    ///
    /// # Errors
    /// None.
    pub fn on_data_blocked(&mut self, _limit: u64) -> Result<(), StreamError> {
        Ok(())
    }

    /// STREAM_DATA_BLOCKED (RFC 9000 §19.13): opens the stream, and says nothing else that our
    /// own counters do not.
    ///
    /// # Errors
    /// The stream is ours alone, or ours and not open yet.
    pub fn on_stream_data_blocked(&mut self, id: StreamId, _limit: u64) -> Result<(), StreamError> {
        self.receiving(id).map(|_| ())
    }

    /// STREAMS_BLOCKED (RFC 9000 §19.14): credit comes with closed streams, not with complaints; but
    /// the application may want to grant more.
    ///
    /// # Errors
    /// None.
    #[cold]
    pub fn on_streams_blocked(&mut self, dir: Dir, limit: u64) -> Result<(), StreamError> {
        let told = notices::NEEDED_TOLD << dir as u8;
        let accepting = &self.accepting[dir as usize];
        let pending = self.pending_control & pending_control::MAX_STREAMS << dir as u8 != 0;
        let answered = pending && accepting.has_more();
        if limit == accepting.max && self.notices & told == 0 && !answered {
            self.notices |= told | notices::NEEDED << dir as u8;
        }
        Ok(())
    }

    /// The slot of a stream on which the peer sends; opens it if it is new and may be. Nothing
    /// if the stream is gone.
    pub(super) fn receiving(&mut self, id: StreamId) -> Result<Option<u32>, StreamError> {
        match self.table.find(id) {
            Some(slot) if self.stream(slot).recv.state != RecvState::Absent => Ok(Some(slot)),
            // RFC 9000 §19.8, §19.4, §19.13.
            _ if id.dir() == Dir::Uni && id.initiator() == self.side => {
                Err(StreamError::StreamState("the peer sends on a stream that only we send on"))
            }
            _ => self.accept(id),
        }
    }

    /// The slot of a stream on which we send; as [`Streams::receiving`].
    fn sending(&mut self, id: StreamId) -> Result<Option<u32>, StreamError> {
        match self.table.find(id) {
            Some(slot) if self.stream(slot).send.state != SendState::Absent => Ok(Some(slot)),
            // RFC 9000 §19.5, §19.10.
            _ if id.dir() == Dir::Uni && id.initiator() != self.side => {
                Err(StreamError::StreamState("the peer steers a stream that only it sends on"))
            }
            _ => self.accept(id),
        }
    }

    /// Opens the stream `id`, which is not in the table, unless it is gone or may not be.
    fn accept(&mut self, id: StreamId) -> Result<Option<u32>, StreamError> {
        let (kind, index) = (id.dir() as usize, id.index());
        if id.initiator() == self.side {
            return if index < self.opening[kind].count {
                Ok(None)
            } else {
                Err(StreamError::StreamState("a stream that we have not opened"))
            };
        }
        let accepting = &mut self.accepting[kind];
        // RFC 9000 §4.6.
        if index >= accepting.max {
            return Err(StreamError::StreamLimit("more streams than allowed"));
        }
        let key = skip_key(id);
        if index < accepting.count {
            if !self.skipped.contains(key) {
                return Ok(None);
            }
            self.skipped.remove(key, key + 1);
        } else {
            // RFC 9000 §2.1: a stream opens all lower ones of its kind. They count, but have no
            // state before they are used.
            let skipped = index - accepting.count;
            accepting.count = index + 1;
            if skipped > 0 {
                self.skipped.insert(key - skipped, key);
            }
        }
        let slot = self.create(id);
        self.tell(slot, pending_events::OPENED);
        Ok(Some(slot))
    }
}
