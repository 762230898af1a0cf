//! What the application is told.
//!
//! Events are not stored: each stream remembers which of its events are due, as bits, and the
//! streams with events are linked into a queue. So events of one kind come together as one, a
//! flood of them needs no memory, and no event is lost for lack of it.

use super::list::Way;
use super::send::SendState;
use super::slot::pending_events;
use super::{Streams, notices};
use crate::wire::{Dir, StreamId};
use bytes::BytesMut;

/// Something happened to a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// The peer opened the stream.
    Opened {
        /// The stream.
        stream: StreamId,
    },
    /// Data was acknowledged and has left the send buffer.
    Acknowledged {
        /// The stream.
        stream: StreamId,
        /// Bytes since the last such event.
        bytes: u64,
        /// Everything up to the FIN is acknowledged.
        fin: bool,
    },
    /// The peer does not want more; the stream was reset for it, and its send buffer is released.
    StopSending {
        /// The stream.
        stream: StreamId,
        /// The peer application's code.
        code: u64,
    },
    /// The peer gave up sending; no more data will come.
    Reset {
        /// The stream.
        stream: StreamId,
        /// The peer application's code.
        code: u64,
    },
    /// A send by [`StreamsRef::send_tracked`](super::StreamsRef::send_tracked) is over: told once for
    /// each, in their order.
    SendComplete {
        /// The stream.
        stream: StreamId,
        /// What the application gave with the send.
        context: u64,
        /// Not all of it was acknowledged: the stream was reset, or the connection is over.
        cancelled: bool,
    },
    /// [`StreamsRef::send_copy`](super::StreamsRef::send_copy) was short of room, and half of it is free
    /// again.
    SendReady {
        /// The stream.
        stream: StreamId,
    },
    /// Memory that [`StreamsRef::provide`](super::StreamsRef::provide) was given is the application's
    /// again.
    BufferFilled {
        /// The stream.
        stream: StreamId,
        /// The memory, as long as it was given. Empty if the stream has ended and there was none.
        buffer: BytesMut,
        /// Bytes at its start that were received: all, unless the stream is over.
        len: usize,
        /// The stream ends with them.
        fin: bool,
    },
    /// The application provides the memory to receive into, and there is none left.
    BufferNeeded {
        /// The stream.
        stream: StreamId,
    },
    /// Nothing more will happen on the stream; its id means nothing from now on. Told for every stream
    /// that the application knows, also when the connection ends.
    Closed {
        /// The stream.
        stream: StreamId,
        /// What [`StreamsRef::set_context`](super::StreamsRef::set_context) was given.
        context: u64,
    },
    /// The peer allows more streams of this kind.
    Available {
        /// The kind.
        dir: Dir,
        /// How many can be opened now.
        count: u64,
    },
    /// The peer wants to open more streams of this kind than we allow. Told once for each limit.
    Needed {
        /// The kind.
        dir: Dir,
    },
}

impl StreamEvent {
    /// The stream that it concerns; `None` if it is none in particular.
    #[must_use]
    pub const fn stream(&self) -> Option<StreamId> {
        match *self {
            Self::Opened { stream }
            | Self::Acknowledged { stream, .. }
            | Self::StopSending { stream, .. }
            | Self::Reset { stream, .. }
            | Self::SendComplete { stream, .. }
            | Self::SendReady { stream }
            | Self::BufferFilled { stream, .. }
            | Self::BufferNeeded { stream }
            | Self::Closed { stream, .. } => Some(stream),
            Self::Available { .. } | Self::Needed { .. } => None,
        }
    }
}

impl Streams {
    /// The next thing to tell the application.
    #[inline]
    pub fn pop_event(&mut self) -> Option<StreamEvent> {
        // Asked before every slice that is shown, and most often there is nothing.
        if self.has_event() { self.pop_due_event() } else { None }
    }

    fn pop_due_event(&mut self) -> Option<StreamEvent> {
        loop {
            if self.notices & notices::EVENTS != 0 {
                return Some(self.pop_notice());
            }
            let slot = self.events.first()?;
            let pending = self.stream(slot).pending_events;
            let bit = pending & pending.wrapping_neg();
            self.stream_mut(slot).pending_events &= !bit;
            let event = self.event(slot, bit);
            if self.stream(slot).pending_events == 0 {
                self.events.remove(&mut self.table.slots, Way::Event, slot);
            }
            if bit == pending_events::CLOSED {
                self.release(slot);
            }
            if event.is_some() {
                return event;
            }
        }
    }

    /// What there is to tell of a stream; `bit` is one of [`pending_events`].
    #[inline]
    fn event(&mut self, slot: u32, bit: u8) -> Option<StreamEvent> {
        let it = &mut self.table.slots[slot as usize];
        let stream = it.id;
        Some(match bit {
            pending_events::OPENED => StreamEvent::Opened { stream },
            pending_events::ACKNOWLEDGED => {
                let bytes = it.send.acked - it.send.reported;
                it.send.reported = it.send.acked;
                StreamEvent::Acknowledged { stream, bytes, fin: it.send.is_acked() }
            }
            pending_events::STOP_SENDING => {
                StreamEvent::StopSending { stream, code: it.reset_code }
            }
            pending_events::RESET => StreamEvent::Reset { stream, code: it.recv_code },
            pending_events::SEND_COMPLETE => return self.complete_send(slot),
            pending_events::SEND_READY => StreamEvent::SendReady { stream },
            pending_events::BUFFER => return self.buffer_event(slot),
            _ => StreamEvent::Closed { stream, context: it.context },
        })
    }

    /// The oldest tracked send, if it is over. The stream looks again if there are more.
    #[cold]
    fn complete_send(&mut self, slot: u32) -> Option<StreamEvent> {
        let it = &mut self.table.slots[slot as usize];
        let sends = &mut self.rare.get_mut(it.recv.rare)?.sends;
        let first = *sends.front()?;
        let acked = it.send.has_acked(first.end, first.fin);
        if !acked && it.send.state == SendState::Open {
            return None;
        }
        sends.pop_front();
        if sends.is_empty() {
            it.send.set_tracked(false);
        } else {
            it.pending_events |= pending_events::SEND_COMPLETE;
        }
        Some(StreamEvent::SendComplete { stream: it.id, context: first.context, cancelled: !acked })
    }

    /// Data of a stream was acknowledged whose application waits for more than
    /// [`StreamEvent::Acknowledged`].
    #[cold]
    pub(super) fn note_progress(&mut self, slot: u32) {
        let free = self.copies_have_room();
        let it = &mut self.table.slots[slot as usize];
        let first = self.rare.get_mut(it.recv.rare).and_then(|rare| rare.sends.front());
        let complete = first.is_some_and(|first| it.send.has_acked(first.end, first.fin));
        let half = u64::from(self.bounds.send_copy_bytes) / 2;
        let ready = free && it.send.has_room_again(half);
        // What others have copied takes the room: it waits for them.
        self.copies_wait |= !free;
        if complete {
            self.tell(slot, pending_events::SEND_COMPLETE);
        }
        if ready {
            self.tell(slot, pending_events::SEND_READY);
        }
    }

    /// The connection is over. Tells what the application of each stream waits for: its tracked sends,
    /// the memory that it provided, and that it is closed. Streams of the peer that it was not told of yet are left out.
    pub fn end(mut self, mut tell: impl FnMut(StreamEvent)) {
        for slot in 0..self.table.slots.len() as u32 {
            let stream = self.stream_mut(slot);
            if stream.is_vacant() || stream.pending_events & pending_events::OPENED != 0 {
                continue;
            }
            if stream.send.state == SendState::Open {
                stream.send.state = SendState::Reset;
            }
            while let Some(event) = self.complete_send(slot) {
                tell(event);
            }
            self.return_buffers(slot, false);
            while let Some(event) = self.buffer_event(slot) {
                tell(event);
            }
            let stream = self.stream(slot);
            tell(StreamEvent::Closed { stream: stream.id, context: stream.context });
        }
    }

    /// True if there is something to tell.
    #[must_use]
    pub const fn has_event(&self) -> bool {
        self.notices & notices::EVENTS != 0 || !self.events.is_empty()
    }

    fn pop_notice(&mut self) -> StreamEvent {
        let bit = self.notices & self.notices.wrapping_neg();
        self.notices &= !bit;
        let odd = bit & (notices::AVAILABLE | notices::NEEDED) == 0;
        let dir = if odd { Dir::Uni } else { Dir::Bi };
        if bit < notices::NEEDED {
            StreamEvent::Available { dir, count: self.opening[dir as usize].left() }
        } else {
            StreamEvent::Needed { dir }
        }
    }
}
