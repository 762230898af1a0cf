//! Memory that the application provides to receive into.
//!
//! Data that is next in order is copied once, from the decrypted packet. What comes early waits in the
//! stream's own buffer, and is copied from there when the gap is closed. What was copied counts as taken: the
//! windows open for it. When there is no memory left, data waits, and the windows close.

use super::Streams;
use super::event::StreamEvent;
use super::rare::Filled;
use super::recv::RecvState;
use super::slot::pending_events;
use bytes::BytesMut;

impl Streams {
    /// True if the application provides the memory of that stream. Ask only if it has rare state.
    #[cold]
    pub(super) fn is_provided(&mut self, slot: u32) -> bool {
        let index = self.stream(slot).recv.rare;
        self.rare.get_mut(index).is_some_and(|rare| rare.owned)
    }

    /// The application provides memory.
    #[cold]
    pub(super) fn add_buffer(&mut self, slot: u32, buffer: BytesMut) {
        let recv = &mut self.table.slots[slot as usize].recv;
        let rare = self.rare.of(&mut recv.rare);
        (rare.owned, rare.needs_told) = (true, false);
        rare.provided.push_back(buffer);
        self.drain(slot);
        self.grant_if_due(slot);
    }

    /// Takes in data that is next in order; with `fin` it is the last.
    pub(super) fn place(&mut self, slot: u32, data: &[u8], fin: bool) {
        let taken = self.fill(slot, data);
        let recv = &mut self.table.slots[slot as usize].recv;
        if let Some(buffer) = &mut recv.buffer {
            buffer.skip(taken as u64);
        }
        let rest = &data[taken..];
        if rest.is_empty() && fin {
            self.return_buffers(slot, true);
            self.finish_receiving(slot);
        } else {
            if !rest.is_empty() {
                let (consumed, size) = (recv.window.consumed, recv.window.size);
                let buffer = recv.buffer.get_or_insert_with(|| self.pool.take(consumed));
                buffer.insert(&mut self.pool, size, consumed, rest);
            }
            self.drain(slot);
        }
        self.grant_if_due(slot);
    }

    /// Copies what waits into memory that is there. A stream that waits for more is paused.
    pub(super) fn drain(&mut self, slot: u32) {
        if self.stream(slot).recv.state != RecvState::Open || !self.is_provided(slot) {
            return;
        }
        self.stream_mut(slot).recv.paused = false;
        while self.stream(slot).recv.is_ready() {
            let Some(mut buffer) = self.stream_mut(slot).recv.buffer.take() else { break };
            let taken = self.fill(slot, buffer.front().0);
            buffer.skip(taken as u64);
            let recv = &mut self.table.slots[slot as usize].recv;
            if buffer.is_empty() {
                self.pool.give(buffer);
            } else {
                recv.buffer = Some(buffer);
            }
            if taken == 0 {
                recv.paused = !recv.is_read();
                break;
            }
        }
        let recv = &self.stream(slot).recv;
        if recv.is_read() && !recv.off {
            self.return_buffers(slot, true);
            self.finish_receiving(slot);
        } else if recv.paused {
            self.tell(slot, pending_events::BUFFER);
        }
    }

    /// Copies into the memory that is there; how much.
    fn fill(&mut self, slot: u32, data: &[u8]) -> usize {
        let recv = &mut self.table.slots[slot as usize].recv;
        let Some(rare) = self.rare.get_mut(recv.rare) else { return 0 };
        let (mut taken, mut full) = (0, false);
        while taken < data.len()
            && let Some(front) = rare.provided.front_mut()
        {
            let room = &mut front[rare.front_len..];
            let len = room.len().min(data.len() - taken);
            room[..len].copy_from_slice(&data[taken..taken + len]);
            taken += len;
            rare.front_len += len;
            if rare.front_len == front.len()
                && let Some(buffer) = rare.provided.pop_front()
            {
                let len = std::mem::take(&mut rare.front_len);
                rare.filled.push_back(Filled { buffer, len, fin: false });
                full = true;
            }
        }
        recv.window.consumed += taken as u64;
        self.window.consumed += taken as u64;
        if full {
            self.tell(slot, pending_events::BUFFER);
        }
        taken
    }

    /// Nothing more will be received into the memory that was provided. `fin`: all was.
    #[cold]
    pub(super) fn return_buffers(&mut self, slot: u32, fin: bool) {
        let index = self.stream(slot).recv.rare;
        let Some(rare) = self.rare.get_mut(index).filter(|rare| rare.owned) else { return };
        rare.owned = false;
        let mut fin = fin;
        if fin
            && rare.front_len == 0
            && let Some(last) = rare.filled.back_mut()
        {
            last.fin = std::mem::take(&mut fin);
        }
        while let Some(buffer) = rare.provided.pop_front() {
            let len = std::mem::take(&mut rare.front_len);
            rare.filled.push_back(Filled { buffer, len, fin: std::mem::take(&mut fin) });
        }
        if fin {
            rare.filled.push_back(Filled { buffer: BytesMut::new(), len: 0, fin });
        }
        self.tell(slot, pending_events::BUFFER);
    }

    /// What there is to tell of that memory. The stream looks again if there is more.
    #[cold]
    pub(super) fn buffer_event(&mut self, slot: u32) -> Option<StreamEvent> {
        let it = &mut self.table.slots[slot as usize];
        let (stream, open) = (it.id, it.recv.state == RecvState::Open);
        let rare = self.rare.get_mut(it.recv.rare)?;
        if let Some(Filled { buffer, len, fin }) = rare.filled.pop_front() {
            it.pending_events |= pending_events::BUFFER;
            return Some(StreamEvent::BufferFilled { stream, buffer, len, fin });
        }
        let needs = rare.owned && open && rare.provided.is_empty() && !rare.needs_told;
        rare.needs_told |= needs;
        needs.then_some(StreamEvent::BufferNeeded { stream })
    }
}
