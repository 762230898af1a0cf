//! Stream data on its way to the application.

use super::buffer::RecvBuffer;
use super::error::StreamError;
use super::list::Way;
use super::rare::NO_RARE;
use super::recv::{Place, RecvState};
use super::slot::pending_frames;
use super::{Streams, pending_control};
use crate::proto::sent::StreamRef;
use crate::wire::StreamId;

/// What to do with the data of a STREAM frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// `data[skip..]` is next in order: show it to the application now, and tell
    /// [`Streams::taken`] how much it took.
    Lend {
        /// The stream.
        stream: StreamRef,
        /// Bytes at the start that were delivered before.
        skip: usize,
        /// The last byte of the stream is included; the slice may be empty then.
        fin: bool,
    },
    /// Data was copied and closed a gap: deliver with [`Streams::detach_ready`].
    Ready {
        /// The stream.
        stream: StreamRef,
    },
    /// The data was copied; it cannot be delivered yet.
    Buffered,
    /// The data was copied into memory that the application provided.
    Placed,
    /// There was nothing new, or the stream is gone.
    Nothing,
    /// There is no place for the data: the packet must not be acknowledged.
    Refused,
}

impl Streams {
    /// STREAM (RFC 9000 §19.8).
    ///
    /// # Errors
    /// The frame exceeds a limit, contradicts the final size, or names a stream it cannot.
    pub fn on_stream(
        &mut self,
        id: StreamId,
        offset: u64,
        data: &[u8],
        fin: bool,
    ) -> Result<Delivery, StreamError> {
        let Some(slot) = self.receiving(id)? else { return Ok(Delivery::Nothing) };
        // An end beyond 2^62 - 1 is beyond every limit too.
        let end = offset.saturating_add(data.len() as u64);
        let recv = &mut self.table.slots[slot as usize].recv;
        recv.check(end, fin, &self.window)?;
        if recv.state != RecvState::Open {
            self.throw_away(slot, end, fin);
            return Ok(Delivery::Nothing);
        }
        match recv.place(offset, end, fin) {
            Place::Next { skip } => {
                self.note_received(slot, end, fin);
                let recv = &self.stream(slot).recv;
                let fin = recv.ends_at(end);
                if recv.rare != NO_RARE && self.is_provided(slot) {
                    self.place(slot, &data[skip..], fin);
                    return Ok(Delivery::Placed);
                }
                Ok(Delivery::Lend { stream: self.table.name(slot), skip, fin })
            }
            Place::Buffer => Ok(self.keep(slot, offset, data, fin)),
            Place::Nowhere => {
                self.duplicate_frames += u64::from(!data.is_empty());
                self.note_received(slot, end, fin);
                Ok(Delivery::Nothing)
            }
        }
    }

    /// True if the application still wants data of the stream: it may have stopped it since.
    #[must_use]
    pub fn is_receiving(&self, stream: StreamRef) -> bool {
        self.table
            .resolve(stream)
            .is_some_and(|slot| self.stream(slot).recv.state == RecvState::Open)
    }

    /// Asked between the events and the data, which [`Delivery::Lend`] let lie: true if the application is to
    /// be shown `data`. If not, it is done with: the application has stopped the stream, has provided
    /// memory, or has turned receiving off. An end without data has been told when it is shown: the half is
    /// over, and what the application calls meanwhile does not tell it again.
    pub fn is_to_show(&mut self, stream: StreamRef, data: &[u8], fin: bool) -> bool {
        let Some(slot) = self.table.resolve(stream) else { return false };
        let recv = &mut self.table.slots[slot as usize].recv;
        if recv.state != RecvState::Open {
            return false;
        }
        if recv.off {
            if !data.is_empty() {
                let (consumed, size) = (recv.window.consumed, recv.window.size);
                let buffer = recv.buffer.get_or_insert_with(|| self.pool.take(consumed));
                buffer.insert(&mut self.pool, size, consumed, data);
            }
            return false;
        }
        if recv.rare != NO_RARE && self.is_provided(slot) {
            self.place(slot, data, fin);
            return false;
        }
        if fin && data.is_empty() {
            self.finish_receiving(slot);
        }
        true
    }

    /// The application was shown uncopied data and took `taken` bytes of it; `rest` is what it left,
    /// `fin` whether the end of the stream was included. A rest pauses the stream.
    pub fn taken(&mut self, stream: StreamRef, taken: usize, rest: &[u8], fin: bool) {
        let Some(slot) = self.table.resolve(stream) else { return };
        let it = &mut self.table.slots[slot as usize];
        if it.recv.state != RecvState::Open {
            return;
        }
        let taken = (taken as u64).min(it.recv.window.received - it.recv.window.consumed);
        it.recv.window.consumed += taken;
        self.window.consumed += taken;
        if let Some(buffer) = &mut it.recv.buffer {
            buffer.skip(taken);
        }
        if rest.is_empty() {
            if fin {
                self.finish_receiving(slot);
            }
        } else {
            let (consumed, size) = (it.recv.window.consumed, it.recv.window.size);
            it.recv.paused = true;
            let buffer = it.recv.buffer.get_or_insert_with(|| self.pool.take(consumed));
            buffer.insert(&mut self.pool, size, consumed, rest);
            if it.recv.rare != NO_RARE {
                self.drain(slot);
            }
        }
        self.grant_if_due(slot);
    }

    /// Takes out the buffer of a stream that has data for the application, or its end: as in
    /// [`is_to_show`](Self::is_to_show), an end without data has been told then.
    pub fn detach_ready(&mut self, stream: StreamRef) -> Option<RecvBuffer> {
        let slot = self.table.resolve(stream)?;
        let recv = &mut self.stream_mut(slot).recv;
        if !recv.is_ready() {
            return None;
        }
        let buffer = recv.buffer.take();
        let consumed = recv.window.consumed;
        let mut buffer = buffer.unwrap_or_else(|| self.pool.take(consumed));
        let recv = &self.stream(slot).recv;
        buffer.set_end(recv.final_size().unwrap_or(u64::MAX));
        if recv.is_read() {
            self.finish_receiving(slot);
        }
        Some(buffer)
    }

    /// Puts a buffer back of whose [front](RecvBuffer::front) the application took `consumed`
    /// bytes. If that was not all of it, the stream pauses. There may be more to deliver: ask
    /// [`Streams::detach_ready`] again.
    pub fn attach(&mut self, stream: StreamRef, mut buffer: RecvBuffer, consumed: usize) {
        let slot = self.table.resolve(stream);
        let Some(slot) = slot.filter(|&slot| self.stream(slot).recv.state == RecvState::Open)
        else {
            self.pool.give(buffer);
            return;
        };
        let shown = buffer.front().0.len();
        let consumed = consumed.min(shown);
        buffer.skip(consumed as u64);
        let recv = &mut self.table.slots[slot as usize].recv;
        recv.window.consumed += consumed as u64;
        self.window.consumed += consumed as u64;
        recv.paused = consumed < shown;
        if buffer.is_empty() {
            self.pool.give(buffer);
            if recv.is_read() {
                self.finish_receiving(slot);
            }
        } else {
            recv.buffer = Some(buffer);
            if recv.rare != NO_RARE {
                self.drain(slot);
            }
        }
        self.grant_if_due(slot);
    }

    /// The next stream that was resumed and has data to deliver.
    pub fn next_resumed(&mut self) -> Option<StreamRef> {
        let slot = self.resumed.first()?;
        self.resumed.remove(&mut self.table.slots, Way::Resumed, slot);
        self.stream_mut(slot).recv.resumed = false;
        Some(self.table.name(slot))
    }

    /// True while a resumed stream waits for [`Streams::next_resumed`].
    #[must_use]
    pub const fn has_resumed(&self) -> bool {
        !self.resumed.is_empty()
    }

    /// Counts a frame that ends at `end` against both windows.
    pub(super) fn note_received(&mut self, slot: u32, end: u64, fin: bool) {
        let recv = &mut self.table.slots[slot as usize].recv;
        let rise = recv.window.rise(end);
        recv.window.received += rise;
        self.window.received += rise;
        if fin {
            recv.set_final_size(end);
        }
    }

    /// Throws away what the application has not taken; the connection's window opens for it (RFC 9000
    /// §4.5), and does not grow for it.
    pub(super) fn discard_unread(&mut self, slot: u32) {
        let recv = &mut self.table.slots[slot as usize].recv;
        let unread = recv.window.received - recv.window.consumed;
        recv.window.consumed += unread;
        self.window.consumed += unread;
        self.tuning.leave_out(unread);
        if let Some(buffer) = recv.buffer.take() {
            self.pool.give(buffer);
        }
        if self.window.update_due() {
            self.pending_control |= pending_control::MAX_DATA;
        }
    }

    /// The receiving half is over.
    pub(super) fn finish_receiving(&mut self, slot: u32) {
        if self.stream(slot).recv.rare != NO_RARE {
            self.return_buffers(slot, false);
        }
        let recv = &mut self.table.slots[slot as usize].recv;
        recv.state = RecvState::Done;
        recv.paused = false;
        if let Some(buffer) = recv.buffer.take() {
            self.pool.give(buffer);
        }
        self.close_if_done(slot);
    }

    /// Data for a half that takes none: counted, so that both sides agree on the connection's
    /// window (RFC 9000 §3.5). A half that is over stays so.
    fn throw_away(&mut self, slot: u32, end: u64, fin: bool) {
        self.note_received(slot, end, fin);
        self.discard_unread(slot);
        if fin {
            self.finish_receiving(slot);
        }
    }

    /// Copies data that is not next in order, or may not be delivered.
    fn keep(&mut self, slot: u32, offset: u64, data: &[u8], fin: bool) -> Delivery {
        let end = offset + data.len() as u64;
        let recv = &mut self.table.slots[slot as usize].recv;
        if recv.buffer.as_ref().is_some_and(|buffer| buffer.refuses(offset, end)) {
            self.refused_frames += 1;
            return Delivery::Refused;
        }
        let (consumed, size) = (recv.window.consumed, recv.window.size);
        let buffer = recv.buffer.get_or_insert_with(|| self.pool.take(consumed));
        buffer.insert(&mut self.pool, size, offset, data);
        let ready = recv.is_ready();
        self.buffered_frames += 1;
        self.note_received(slot, end, fin);
        if self.stream(slot).recv.rare != NO_RARE && self.is_provided(slot) {
            self.drain(slot);
            self.grant_if_due(slot);
            return Delivery::Placed;
        }
        if ready { Delivery::Ready { stream: self.table.name(slot) } } else { Delivery::Buffered }
    }

    /// Schedules a higher limit for the peer if half a window was consumed.
    pub(super) fn grant_if_due(&mut self, slot: u32) {
        let recv = &self.stream(slot).recv;
        let open = recv.state == RecvState::Open && recv.final_size().is_none();
        if open && recv.window.update_due() {
            self.want(slot, pending_frames::MAX_STREAM_DATA);
        }
        if self.window.update_due() {
            self.pending_control |= pending_control::MAX_DATA;
        }
    }
}
