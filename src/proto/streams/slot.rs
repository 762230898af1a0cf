//! One stream's state, laid out for the cache.

use super::list::{Link, NONE, WAYS};
use super::recv::RecvHalf;
use super::send::SendHalf;
use crate::wire::StreamId;

/// The id of a slot without a stream; no id on the wire reaches it (they end at 2^62 - 1).
const VACANT: StreamId = StreamId::from_raw(u64::MAX);

/// Pending control frames of a stream, as bits.
pub(super) mod pending_frames {
    /// RESET_STREAM.
    pub(in super::super) const RESET_STREAM: u8 = 1;
    /// STOP_SENDING.
    pub(in super::super) const STOP_SENDING: u8 = 1 << 1;
    /// MAX_STREAM_DATA.
    pub(in super::super) const MAX_STREAM_DATA: u8 = 1 << 2;
    /// STREAM_DATA_BLOCKED.
    pub(in super::super) const STREAM_DATA_BLOCKED: u8 = 1 << 3;
}

/// Pending events of a stream, as bits; the application gets them from the lowest up.
pub(super) mod pending_events {
    /// The peer opened it.
    pub(in super::super) const OPENED: u8 = 1;
    /// Data was acknowledged.
    pub(in super::super) const ACKNOWLEDGED: u8 = 1 << 1;
    /// The peer asked us to stop.
    pub(in super::super) const STOP_SENDING: u8 = 1 << 2;
    /// The peer gave up sending.
    pub(in super::super) const RESET: u8 = 1 << 3;
    /// Tracked sends are complete, or cancelled.
    pub(in super::super) const SEND_COMPLETE: u8 = 1 << 4;
    /// There is room for copied data again.
    pub(in super::super) const SEND_READY: u8 = 1 << 5;
    /// Memory that the application provided is given back, or more is needed.
    pub(in super::super) const BUFFER: u8 = 1 << 6;
    /// Nothing more will happen; told last, and then the slot is free.
    pub(in super::super) const CLOSED: u8 = 1 << 7;
}

/// A stream: one cache line to receive, one to send, one for everything else.
#[repr(C, align(64))]
#[derive(Debug)]
pub(super) struct Stream {
    /// Its id on the wire.
    pub(super) id: StreamId,
    /// What comes in.
    pub(super) recv: RecvHalf,
    /// What goes out.
    pub(super) send: SendHalf,
    /// The application's own number.
    pub(super) context: u64,
    /// Code of our RESET_STREAM.
    pub(super) reset_code: u64,
    /// Code of our STOP_SENDING, or of the peer's RESET_STREAM.
    pub(super) recv_code: u64,
    /// Tells this stream from others that used its slot.
    pub(super) generation: u32,
    /// Control frames to write: bits of [`pending_frames`].
    pub(super) pending_frames: u8,
    /// Events to tell: bits of [`pending_events`].
    pub(super) pending_events: u8,
    /// Places in the queues.
    pub(super) links: [Link; WAYS],
}

const _: () = assert!(size_of::<Stream>() == 192, "a stream is three cache lines");

impl Stream {
    /// A slot without a stream.
    pub(super) fn vacant() -> Self {
        Self {
            id: VACANT,
            recv: RecvHalf::new(0),
            send: SendHalf::new(0),
            context: 0,
            reset_code: 0,
            recv_code: 0,
            generation: 0,
            pending_frames: 0,
            pending_events: 0,
            links: [Link::FREE; WAYS],
        }
    }

    /// Makes the free slot a stream, told from others by `generation`, with windows of
    /// `recv_window` bytes for the peer and `send_max` bytes for us. Both halves are open.
    #[inline]
    pub(super) fn occupy(
        &mut self,
        id: StreamId,
        generation: u32,
        recv_window: u64,
        send_max: u64,
    ) {
        debug_assert!(self.is_vacant(), "a stream would be overwritten");
        self.id = id;
        self.recv = RecvHalf::new(recv_window);
        self.send = SendHalf::new(send_max);
        self.context = 0;
        self.generation = generation;
        self.pending_frames = 0;
        self.pending_events = 0;
        self.links = [Link::FREE; WAYS];
    }

    /// True if the slot is free.
    pub(super) fn is_vacant(&self) -> bool {
        self.id == VACANT
    }

    /// Frees the slot and what it holds of the heap; `next` is the free slot after it.
    #[inline]
    pub(super) fn vacate(&mut self, next: u32) {
        self.id = VACANT;
        self.recv.buffer = None;
        self.send.forget_repair();
        self.links[0] = Link { prev: NONE, next };
    }

    /// The free slot after this one.
    pub(super) const fn next_vacant(&self) -> u32 {
        self.links[0].next
    }
}
