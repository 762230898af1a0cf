//! What the application does with received data besides taking it in a callback.

use super::StreamsRef;
use super::error::ReceiveError;
use super::list::Way;
use crate::wire::StreamId;
use bytes::BytesMut;

impl StreamsRef<'_> {
    /// Has the data offered again that the application did not take.
    ///
    /// # Errors
    /// The stream is unknown, not ours to receive on, or its receiving half has ended.
    pub fn resume_receive(&mut self, stream: StreamId) -> Result<(), ReceiveError> {
        let streams = &mut *self.streams;
        let slot = streams.receivable(stream)?;
        let recv = &mut streams.table.slots[slot as usize].recv;
        recv.paused = false;
        streams.drain(slot);
        let recv = &mut streams.table.slots[slot as usize].recv;
        if recv.is_ready() && !recv.resumed {
            recv.resumed = true;
            streams.resumed.push(&mut streams.table.slots, Way::Resumed, slot);
        }
        streams.grant_if_due(slot);
        Ok(())
    }

    /// Turns receiving on a stream off, or on again. While it is off, what arrives waits, and the peer is
    /// held back by flow control once a window of data does; a reset is told all the same. Turned on,
    /// it is offered, as by [`resume_receive`](Self::resume_receive).
    ///
    /// # Errors
    /// As [`resume_receive`](Self::resume_receive).
    pub fn set_receive(&mut self, stream: StreamId, on: bool) -> Result<(), ReceiveError> {
        let slot = self.streams.receivable(stream)?;
        self.streams.stream_mut(slot).recv.off = !on;
        if on { self.resume_receive(stream) } else { Ok(()) }
    }

    /// Copies what waits in order of a stream into `out`. Returns how many bytes, and whether the
    /// stream ended with them, which nothing else tells then. A stream that was paused, since the
    /// application had left data, is offered again once nothing waits any more. What a callback is being
    /// shown does not wait.
    ///
    /// # Errors
    /// As [`resume_receive`](Self::resume_receive).
    pub fn read(
        &mut self,
        stream: StreamId,
        out: &mut [u8],
    ) -> Result<(usize, bool), ReceiveError> {
        let streams = &mut *self.streams;
        let slot = streams.receivable(stream)?;
        let mut len = 0;
        if let Some(mut buffer) = streams.stream_mut(slot).recv.buffer.take() {
            loop {
                let front = buffer.front().0;
                let count = front.len().min(out.len() - len);
                if count == 0 {
                    break;
                }
                out[len..len + count].copy_from_slice(&front[..count]);
                buffer.skip(count as u64);
                len += count;
            }
            let recv = &mut streams.table.slots[slot as usize].recv;
            recv.window.consumed += len as u64;
            streams.window.consumed += len as u64;
            recv.paused &= buffer.has_front();
            if buffer.is_empty() {
                streams.pool.give(buffer);
            } else {
                recv.buffer = Some(buffer);
            }
        }
        let fin = streams.stream(slot).recv.is_read();
        if fin {
            streams.finish_receiving(slot);
        }
        streams.grant_if_due(slot);
        Ok((len, fin))
    }

    /// What [`read`](Self::read) would copy, as far as it lies in one piece.
    ///
    /// # Errors
    /// As [`resume_receive`](Self::resume_receive).
    pub fn peek(&mut self, stream: StreamId) -> Result<&[u8], ReceiveError> {
        let slot = self.streams.receivable(stream)?;
        let buffer = self.streams.stream(slot).recv.buffer.as_ref();
        Ok(buffer.map_or(&[], |buffer| buffer.front().0))
    }

    /// The offset of the next byte of a stream that the application gets: how many it has taken, or, in
    /// a callback, the offset of the first byte that it is shown. `None` if there is no such
    /// stream.
    #[must_use]
    pub fn received(&self, stream: StreamId) -> Option<u64> {
        let slot = self.streams.table.search(stream)?;
        Some(self.streams.stream(slot).recv.window.consumed)
    }

    /// Provides memory to receive into: what arrives from now on, and what waits, is copied into
    /// `buffer` from its first byte to its length, and no callback is shown it. When the buffer is
    /// full, or the stream is over, [`StreamEvent::BufferFilled`](super::StreamEvent::BufferFilled) gives it back.
    /// Buffers are filled in the order in which they were provided. When all are,
    /// [`StreamEvent::BufferNeeded`](super::StreamEvent::BufferNeeded) tells once, and data waits.
    ///
    /// What arrives in order is copied once. What arrives early is copied twice: it waits in the stream's
    /// own memory until the gap before it is closed.
    ///
    /// # Errors
    /// [`ReceiveError::EmptyBuffer`] if the length of `buffer` is 0, whatever its capacity; otherwise as
    /// [`resume_receive`](Self::resume_receive). `buffer` is dropped then.
    pub fn provide(&mut self, stream: StreamId, buffer: BytesMut) -> Result<(), ReceiveError> {
        let slot = self.streams.receivable(stream)?;
        if buffer.is_empty() {
            // It would be full at once, and more be needed at once: an application that answers with
            // another empty one would hold the worker for ever.
            return Err(ReceiveError::EmptyBuffer);
        }
        self.streams.add_buffer(slot, buffer);
        Ok(())
    }

    /// Takes back the memory that would be filled next, and how many bytes were received into it so
    /// far. `None` if there is none.
    pub fn take_provided(&mut self, stream: StreamId) -> Option<(BytesMut, usize)> {
        let slot = self.streams.table.find(stream)?;
        let index = self.streams.stream(slot).recv.rare;
        let rare = self.streams.rare.get_mut(index)?;
        let buffer = rare.provided.pop_front()?;
        Some((buffer, std::mem::take(&mut rare.front_len)))
    }
}
