//! The receiving half of a stream (RFC 9000 §3.2): numbers in, a decision out.
//!
//! Data that is next in order never touches this half: the application gets it as a slice of
//! the packet. Only what arrives early, or what the application did not take, is copied, into
//! a [`RecvBuffer`] that lives as long as there is something in it.

use super::buffer::RecvBuffer;
use super::error::StreamError;
use super::flow::Window;
use super::rare::NO_RARE;

/// No final size is known: RFC 9000 §4.5 allows none above 2^62 - 1.
const UNKNOWN: u64 = u64::MAX;

/// How far the receiving half has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecvState {
    /// No receiving half: our own unidirectional stream.
    Absent,
    /// "Recv", "Size Known" and "Data Recvd" of RFC 9000 §3.2.
    Open,
    /// We sent STOP_SENDING: what still comes is counted and thrown away.
    Stopped,
    /// The application has everything, or the peer reset the stream, or it ended after we
    /// asked it to.
    Done,
}

/// What becomes of a STREAM frame's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is next in order, after `skip` bytes that were delivered before.
    Next {
        /// Bytes that were delivered before.
        skip: usize,
    },
    /// It goes to the buffer.
    Buffer,
    /// There is nothing new in it.
    Nowhere,
}

/// The receiving half.
#[derive(Debug)]
pub(super) struct RecvHalf {
    /// The stream's own flow control.
    pub(super) window: Window,
    final_size: u64,
    /// What arrived early, or was not taken.
    pub(super) buffer: Option<RecvBuffer>,
    /// How far it has come.
    pub(super) state: RecvState,
    /// The application did not take all: nothing is delivered until it asks.
    pub(super) paused: bool,
    /// Waits in the queue of streams to deliver again.
    pub(super) resumed: bool,
    /// The application has turned receiving off.
    pub(super) off: bool,
    /// Where the stream's rare state is, of both halves: it fits here.
    pub(super) rare: u32,
}

const _: () = assert!(size_of::<RecvHalf>() == 56, "with the stream's id, a cache line");

impl RecvHalf {
    /// An open half with a window of `window` bytes.
    #[inline]
    pub(super) fn new(window: u64) -> Self {
        Self {
            window: Window::new(window),
            final_size: UNKNOWN,
            buffer: None,
            state: RecvState::Open,
            paused: false,
            resumed: false,
            off: false,
            rare: NO_RARE,
        }
    }

    /// True if nothing more will come.
    pub(super) const fn is_done(&self) -> bool {
        matches!(self.state, RecvState::Done | RecvState::Absent)
    }

    /// Where the stream ends, once that is known.
    pub(super) const fn final_size(&self) -> Option<u64> {
        if self.final_size == UNKNOWN { None } else { Some(self.final_size) }
    }

    /// The end was learnt.
    pub(super) const fn set_final_size(&mut self, size: u64) {
        self.final_size = size;
    }

    /// True if the byte before `end` is the last one.
    pub(super) const fn ends_at(&self, end: u64) -> bool {
        self.final_size == end
    }

    /// Checks a frame that ends at `end` against the final size and both windows.
    #[inline]
    pub(super) const fn check(
        &self,
        end: u64,
        fin: bool,
        connection: &Window,
    ) -> Result<(), StreamError> {
        // RFC 9000 §4.5.
        if self.final_size == UNKNOWN {
            if fin && end < self.window.received {
                return Err(StreamError::FinalSize("the stream ends below data that was received"));
            }
        } else if end > self.final_size {
            return Err(StreamError::FinalSize("data beyond the final size"));
        } else if fin && end != self.final_size {
            return Err(StreamError::FinalSize("the final size changed"));
        }
        // RFC 9000 §4.1.
        if end > self.window.max {
            return Err(StreamError::FlowControl("data beyond the stream's limit"));
        }
        let rise = self.window.rise(end);
        if rise > connection.max - connection.received {
            return Err(StreamError::FlowControl("data beyond the connection's limit"));
        }
        Ok(())
    }

    /// Where the bytes `offset..end` of an open half belong; `fin`: the stream ends there.
    #[inline]
    pub(super) fn place(&self, offset: u64, end: u64, fin: bool) -> Place {
        let consumed = self.window.consumed;
        if end < consumed || (end == consumed && !fin && !self.ends_at(end)) {
            return Place::Nowhere;
        }
        if end == offset && end > consumed {
            // A FIN alone, ahead of data: the final size is all that it says.
            return Place::Nowhere;
        }
        if self.is_held() || offset > consumed {
            return Place::Buffer;
        }
        let early = self.buffer.as_ref().and_then(RecvBuffer::first_offset);
        if early.is_some_and(|early| early < end) {
            // Part of it arrived before, and what arrived first counts.
            return Place::Buffer;
        }
        Place::Next { skip: (consumed - offset) as usize }
    }

    /// True if nothing may be delivered.
    #[inline]
    pub(super) const fn is_held(&self) -> bool {
        self.paused || self.off
    }

    /// True if the application may have data from the buffer, or a FIN that came while nothing could be
    /// delivered.
    #[inline]
    pub(super) fn is_ready(&self) -> bool {
        self.state == RecvState::Open
            && !self.is_held()
            && (self.buffer.as_ref().is_some_and(RecvBuffer::has_front) || self.is_read())
    }

    /// True if all data up to the final size was received, if not delivered ("Data Recvd").
    pub(super) fn has_all(&self) -> bool {
        self.buffer.as_ref().is_some_and(|buffer| buffer.front_end() == self.final_size)
    }

    /// True if the application has everything ("Data Read").
    pub(super) const fn is_read(&self) -> bool {
        self.window.consumed == self.final_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half(received: u64, consumed: u64) -> RecvHalf {
        let mut half = RecvHalf::new(1000);
        half.window.received = received;
        half.window.consumed = consumed;
        half
    }

    #[test]
    fn attack_27_final_size_never_changes_and_never_lies_below_data() {
        // RFC 9000 §4.5.
        let connection = Window::new(10_000);
        let mut recv = half(100, 50);
        assert!(matches!(recv.check(99, true, &connection), Err(StreamError::FinalSize(_))));
        assert!(recv.check(100, true, &connection).is_ok());
        recv.set_final_size(120);
        assert!(matches!(recv.check(121, false, &connection), Err(StreamError::FinalSize(_))));
        assert!(matches!(recv.check(119, true, &connection), Err(StreamError::FinalSize(_))));
        assert!(recv.check(120, true, &connection).is_ok());
    }

    #[test]
    fn attack_27_each_limit_holds_to_the_byte() {
        // RFC 9000 §4.1.
        let mut connection = Window::new(500);
        let recv = half(100, 50);
        assert!(matches!(recv.check(1001, false, &connection), Err(StreamError::FlowControl(_))));
        connection.received = 100;
        assert!(recv.check(500, false, &connection).is_ok());
        assert!(matches!(recv.check(501, false, &connection), Err(StreamError::FlowControl(_))));
    }

    #[test]
    fn data_is_placed_by_what_was_consumed() {
        let mut recv = half(100, 100);
        assert_eq!(recv.place(100, 110, false), Place::Next { skip: 0 });
        assert_eq!(recv.place(90, 110, false), Place::Next { skip: 10 });
        assert_eq!(recv.place(90, 100, false), Place::Nowhere);
        assert_eq!(recv.place(100, 100, false), Place::Nowhere);
        assert_eq!(recv.place(101, 102, false), Place::Buffer);
        assert_eq!(recv.place(100, 100, true), Place::Next { skip: 0 });
        recv.set_final_size(100);
        assert_eq!(recv.place(100, 100, false), Place::Next { skip: 0 });
        assert_eq!(recv.place(90, 100, false), Place::Next { skip: 10 });
        recv.set_final_size(200);
        assert_eq!(recv.place(200, 200, false), Place::Nowhere);
        recv.paused = true;
        assert_eq!(recv.place(100, 110, false), Place::Buffer);
    }
}
