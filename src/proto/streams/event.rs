//! What the application is told.
//!
//! Events are not stored: each stream remembers which of its events are due, as bits, and the
//! streams with events are linked into a queue. So events of one kind come together as one, a
//! flood of them needs no memory, and no event is lost for lack of it.

use super::Streams;
use super::list::Way;
use super::slot::pending_events;
use crate::wire::{Dir, StreamId};

/// Something happened to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Nothing more will happen on the stream; its id means nothing from now on.
    Closed {
        /// The stream.
        stream: StreamId,
        /// What [`StreamsRef::set_context`](super::StreamsRef::set_context) was given.
        context: u64,
    },
    /// Streams of this kind may be opened again.
    Available {
        /// The kind.
        dir: Dir,
    },
}

impl Streams {
    /// The next thing to tell the application.
    pub fn pop_event(&mut self) -> Option<StreamEvent> {
        if self.available != 0 {
            return Some(StreamEvent::Available { dir: self.pop_available() });
        }
        let slot = self.events.first()?;
        let it = &mut self.table.slots[slot as usize];
        let (stream, bit) = (it.id, it.pending_events & it.pending_events.wrapping_neg());
        it.pending_events &= !bit;
        let event = match bit {
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
            _ => StreamEvent::Closed { stream, context: it.context },
        };
        if it.pending_events == 0 {
            self.events.remove(&mut self.table.slots, Way::Event, slot);
        }
        if bit == pending_events::CLOSED {
            self.release(slot);
        }
        Some(event)
    }

    /// True if there is something to tell.
    #[must_use]
    pub const fn has_event(&self) -> bool {
        self.available != 0 || !self.events.is_empty()
    }

    fn pop_available(&mut self) -> Dir {
        let dir = if self.available & 1 != 0 { Dir::Bi } else { Dir::Uni };
        self.available &= !(1 << dir as u8);
        dir
    }
}
