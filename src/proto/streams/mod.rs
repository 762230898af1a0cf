//! Streams: what both sides send, in order, with flow control (RFC 9000 §2 to §4).
//!
//! [`Streams`] is the part of a connection that knows streams and nothing else: no packets, no
//! time, no keys. It copies what the application sends only when a packet is written, and never
//! copies what arrives in order.
//!
//! # How to drive it
//!
//! *To receive*, hand each STREAM frame to [`Streams::on_stream`]. Data that is next in order
//! is not taken in: the answer is [`Delivery::Lend`], and the caller shows the slice to the
//! application, which may use the connection meanwhile. Afterwards:
//!
//! ```text
//! on_stream -> Lend ---> application ---> taken(how much, the rest)
//!           -> Ready -----------------------+
//!                                           v
//!              while let Some(buffer) = detach_ready() { application; attach(buffer, n) }
//! ```
//!
//! What the application leaves is copied, and the stream pauses until [`StreamsRef::resume_receive`]; then
//! [`Streams::next_resumed`] names it, and the loop above delivers. It may also read what waits
//! ([`StreamsRef::read`]), or provide the memory that data is copied into when it arrives
//! ([`StreamsRef::provide`]). Events come before data:
//! drain [`Streams::pop_event`] before the application sees a slice, then ask
//! [`Streams::is_to_show`] whether it still wants to, for it may have stopped the stream.
//!
//! *To send*, ask [`Streams::has_control`] and [`Streams::has_data`], both O(1), and let
//! [`Streams::write_control`] and [`Streams::write_data`] fill the packet. Every frame written is
//! reported as a [`StreamFrame`](crate::proto::sent::StreamFrame); when its packet is acknowledged
//! or lost, give that back to [`Streams::on_acked`] or [`Streams::on_lost`]. Acknowledgements
//! are cheapest in the order of sending: then each one moves an offset.
//!
//! # Life of a stream
//!
//! Each half ends by itself (`send.rs`, `recv.rs`). When both have, the stream's last event is
//! [`StreamEvent::Closed`]; popping it frees the slot, and only then the peer gets credit for
//! another stream. Until then the application's context number stays readable.
//!
//! # What bounds it
//!
//! Streams: the limits that we grant, per kind. Memory for data received: the windows, see
//! `buffer.rs`. Events and queues: one entry for each stream, because the queues are linked
//! through the streams themselves. Data to send stays in the application's own memory, or is copied within
//! a bound of our own ([`Bounds`]).

mod app;
mod buffer;
mod deliver;
mod error;
mod event;
mod flow;
mod incoming;
mod limits;
mod list;
mod provided;
mod rare;
mod read;
mod recv;
mod send;
mod send_buffer;
mod slot;
mod table;
mod transmit;

#[cfg(test)]
mod tests;

pub use app::StreamsRef;
pub use buffer::RecvBuffer;
pub use deliver::Delivery;
pub use error::{OpenError, ReceiveError, SendError, StreamError};
pub use event::StreamEvent;
pub use limits::{Bounds, Limits};

use crate::counters::counters;
use crate::proto::byte_ranges::ByteRanges;
use crate::proto::sent::StreamRef;
use crate::time::Instant;
use crate::wire::{Dir, Side, StreamId};
use buffer::Pool;
use flow::{Clock, Credit, Tuning, Window};
use limits::{Accepting, Opening, StreamWindows};
use list::{List, Way};
use rare::{NO_RARE, RareStates};
use recv::RecvState;
use send::{SendQueue, SendState};
use send_buffer::SendBuffer;
use slot::{Stream, pending_events, pending_frames};
use table::Table;

/// Pending control frames of the connection as a whole, as bits.
mod pending_control {
    /// MAX_DATA.
    pub(super) const MAX_DATA: u8 = 1;
    /// DATA_BLOCKED.
    pub(super) const DATA_BLOCKED: u8 = 1 << 1;
    /// MAX_STREAMS for bidirectional streams; the next bit is for unidirectional ones.
    pub(super) const MAX_STREAMS: u8 = 1 << 2;
    /// STREAMS_BLOCKED for bidirectional streams; the next bit is for unidirectional ones.
    pub(super) const STREAMS_BLOCKED: u8 = 1 << 4;
}

/// What is to be told that concerns no single stream, as bits.
mod notices {
    /// More bidirectional streams may be opened; the next bit is for unidirectional ones.
    pub(super) const AVAILABLE: u8 = 1;
    /// The peer needs more bidirectional streams; the next bit is for unidirectional ones.
    pub(super) const NEEDED: u8 = 1 << 2;
    /// `NEEDED` was told for the present limit; the next bit is for unidirectional streams.
    pub(super) const NEEDED_TOLD: u8 = 1 << 4;
    /// What events there are.
    pub(super) const EVENTS: u8 = 0b1111;
}

counters! {
    /// Streams of a connection, and their data.
    pub struct StreamsStats, counted by "the streams of the connection" {
        /// Streams that are open, or closed and not yet told so.
        open: Gauge, Count;
        /// Streams that we opened.
        opened: Counter, Count;
        /// Streams that the peer opened, or skipped and so opened too.
        accepted: Counter, Count;
        /// Streams that are closed.
        closed: Counter, Count;
        /// Sum over all streams of the bytes sent for the first time.
        sent_bytes: Counter, Bytes;
        /// Bytes sent again.
        resent_bytes: Counter, Bytes;
        /// Sum over all streams of the largest offset received.
        received_bytes: Counter, Bytes;
        /// Sum over all streams of the bytes that were taken by the application or thrown away.
        consumed_bytes: Counter, Bytes;
        /// Frames whose data was copied into a buffer.
        buffered_frames: Counter, Count;
        /// Frames that brought nothing new.
        duplicate_frames: Counter, Count;
        /// Frames refused because their stream had too many gaps.
        refused_frames: Counter, Count;
        /// Calls of send_copy that did not find room for all of their data.
        short_copies: Counter, Count;
        /// Times that a window was doubled, of a stream or of the connection.
        windows_grown: Counter, Count;
    }
}

/// All streams of a connection.
///
/// The order of the fields is that of their use: with thousands of connections every request
/// finds them cold, and an ordinary one needs the first six cache lines.
#[repr(C)]
#[derive(Debug)]
pub struct Streams {
    side: Side,
    /// The peer's limits are known.
    peer_known: bool,
    /// Pending control frames of the whole connection: bits of [`pending_control`].
    pending_control: u8,
    /// DATA_BLOCKED was pending for the present limit.
    data_blocked_told: bool,
    /// Events for the application that concern no stream: bits of [`notices`].
    notices: u8,
    /// The connection found nothing to send last time, though the window had room, and the
    /// application has sent nothing since: the window does not grow (RFC 9002 §7.8).
    pub(in crate::proto) app_limited: bool,
    /// Streams wait for room that copies of others take.
    copies_wait: bool,
    /// Streams with data to send again.
    repair: List,
    /// Streams with new data that their own limit lets through.
    fresh: List,
    /// Streams with pending control frames.
    control: List,
    /// Streams with events.
    events: List,
    /// Streams to deliver again.
    resumed: List,
    /// What we grant on all streams together.
    window: Window,
    /// What the peer grants us on all streams together.
    credit: Credit,
    table: Table,
    send_buffer: SendBuffer,
    accepting: [Accepting; 2],
    local: StreamWindows,
    peer: StreamWindows,
    opening: [Opening; 2],
    /// Streams of the peer that count as open because a later one was used, see [`skip_key`].
    skipped: ByteRanges,
    pool: Pool,
    rare: RareStates,
    /// Our own bounds.
    bounds: Bounds,
    /// Of the whole connection's window.
    tuning: Tuning,
    clock: Clock,
    short_copies: u32,
    windows_grown: u32,
    resent_bytes: u64,
    buffered_frames: u64,
    duplicate_frames: u64,
    refused_frames: u64,
}

/// Slots of a connection that does one thing at a time: the stream that has just ended, until
/// its end is acknowledged, and the next.
const HOT_SLOTS: usize = 2;

// At most 8 KiB for an idle connection is the whole budget; this module takes its share.
const _: () = assert!(size_of::<Streams>() <= 640, "an idle connection's streams are small");

impl Streams {
    /// No streams yet; `local` is what we grant the peer, as in our transport parameters.
    #[must_use]
    pub fn new(side: Side, local: Limits) -> Self {
        Self::with_bounds(side, local, Bounds::default())
    }

    /// As [`new`](Self::new), with bounds of our own.
    #[must_use]
    pub fn with_bounds(side: Side, local: Limits, bounds: Bounds) -> Self {
        let local = local.clamped();
        Self {
            side,
            peer_known: false,
            pending_control: 0,
            data_blocked_told: false,
            notices: 0,
            app_limited: true,
            copies_wait: false,
            repair: List::EMPTY,
            fresh: List::EMPTY,
            control: List::EMPTY,
            events: List::EMPTY,
            resumed: List::EMPTY,
            window: Window::new(local.data),
            credit: Credit::default(),
            table: Table::new(),
            send_buffer: SendBuffer::new(),
            accepting: [Accepting::new(local.streams_bidi), Accepting::new(local.streams_uni)],
            local: StreamWindows::from(&local),
            peer: StreamWindows::default(),
            opening: [Opening::default(); 2],
            skipped: ByteRanges::new(),
            pool: Pool::new(local.data),
            rare: RareStates::default(),
            bounds,
            tuning: Tuning::NEW,
            clock: Clock { now: Instant::EPOCH, rtt_ns: 0 },
            short_copies: 0,
            windows_grown: 0,
            resent_bytes: 0,
            buffered_frames: 0,
            duplicate_frames: 0,
            refused_frames: 0,
        }
    }

    /// Takes what the peer grants, from its transport parameters. Limits only rise: streams
    /// that were opened on remembered ones (0-RTT) keep what they had.
    pub fn set_peer_limits(&mut self, limits: &Limits) {
        let limits = limits.clamped();
        self.peer = StreamWindows::from(&limits);
        self.peer_known = true;
        self.raise_credit(limits.data);
        for dir in [Dir::Bi, Dir::Uni] {
            self.raise_opening(dir, limits.streams(dir));
            if self.opening[dir as usize].wanted {
                self.pending_control |= pending_control::STREAMS_BLOCKED << dir as u8;
            }
        }
        for slot in 0..self.table.slots.len() as u32 {
            let stream = self.stream(slot);
            if !stream.is_vacant() && stream.send.state == SendState::Open {
                let max = self.send_limit(self.stream(slot).id);
                self.stream_mut(slot).send.raise(max);
                self.schedule(slot);
            }
        }
    }

    /// The streams as the application uses them.
    #[inline]
    pub fn app(&mut self) -> StreamsRef<'_> {
        StreamsRef::new(self)
    }

    /// The stream behind a name, if it still lives.
    #[must_use]
    pub fn id_of(&self, name: StreamRef) -> Option<StreamId> {
        self.table.resolve(name).map(|slot| self.stream(slot).id)
    }

    /// How many streams live.
    #[must_use]
    pub const fn open_streams(&self) -> usize {
        self.table.len()
    }

    /// Bytes of heap that [`hot_memory`](Self::hot_memory) names at most.
    pub(crate) const HOT_BYTES: usize = HOT_SLOTS * size_of::<Stream>() + SendBuffer::HOT_BYTES;

    /// Names the memory that a request and its answer touch: the slots that are used first, and
    /// the pieces of the send buffer that are used first.
    pub(crate) fn hot_memory(&self, each: &mut impl FnMut(*const u8, usize)) {
        let slots = &self.table.slots[..self.table.slots.len().min(HOT_SLOTS)];
        each(slots.as_ptr().cast(), size_of_val(slots));
        self.send_buffer.hot_memory(each);
    }

    /// Gives back memory that nothing uses: for a connection that fell idle.
    pub fn shrink(&mut self) {
        self.table.shrink();
        self.send_buffer.shrink();
        self.pool.shrink();
        self.rare.shrink();
        self.skipped.shrink();
    }

    /// Bytes of memory held, with this struct and without the application's data to send.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let streams = self.table.slots.iter().map(|stream| {
            let buffer = stream.recv.buffer.as_ref().map_or(0, RecvBuffer::heap_bytes);
            buffer + stream.send.heap_bytes()
        });
        size_of::<Self>()
            + self.table.heap_bytes()
            + self.send_buffer.heap_bytes()
            + self.pool.heap_bytes()
            + self.rare.heap_bytes()
            + self.skipped.heap_bytes()
            + streams.sum::<usize>()
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> StreamsStats {
        let opened: u64 = self.opening.iter().map(|kind| kind.count).sum();
        let accepted: u64 = self.accepting.iter().map(|kind| kind.count).sum();
        let open = self.table.len() as u64;
        StreamsStats {
            open,
            opened,
            accepted,
            closed: self.closed_count(),
            sent_bytes: self.credit.used,
            resent_bytes: self.resent_bytes,
            received_bytes: self.window.received,
            consumed_bytes: self.window.consumed,
            buffered_frames: self.buffered_frames,
            duplicate_frames: self.duplicate_frames,
            refused_frames: self.refused_frames,
            short_copies: u64::from(self.short_copies),
            windows_grown: u64::from(self.windows_grown),
        }
    }

    /// Says what time it is, and how long a round trip takes at least, 0 if none was measured: before
    /// [`write_control`](Self::write_control), where windows grow that are used up fast. The least, since
    /// a peer makes an average as long as it likes, by acknowledging late, and a full queue does so too.
    #[inline]
    pub fn set_clock(&mut self, now: Instant, rtt_ns: u64) {
        self.clock = Clock { now, rtt_ns };
    }

    // -- what the families of methods share

    fn stream(&self, slot: u32) -> &Stream {
        &self.table.slots[slot as usize]
    }

    fn stream_mut(&mut self, slot: u32) -> &mut Stream {
        &mut self.table.slots[slot as usize]
    }

    /// Streams that lived and are gone.
    fn closed_count(&self) -> u64 {
        let accepted: u64 = self.accepting.iter().map(|kind| kind.closed).sum();
        let opened: u64 = self.opening.iter().map(|kind| kind.closed).sum();
        accepted + opened
    }

    /// Makes the stream `id`, which does not exist.
    fn create(&mut self, id: StreamId) -> u32 {
        let ours = id.initiator() == self.side;
        let window = match (id.dir(), ours) {
            (Dir::Bi, true) => self.local.bidi_local,
            (Dir::Bi, false) => self.local.bidi_remote,
            (Dir::Uni, _) => self.local.uni,
        };
        let slot = self.table.insert(id, window, self.send_limit(id));
        if id.dir() == Dir::Uni {
            let stream = self.stream_mut(slot);
            if ours {
                stream.recv.state = RecvState::Absent;
            } else {
                stream.send.state = SendState::Absent;
            }
        }
        slot
    }

    /// What the peer granted for the stream `id` at first.
    fn send_limit(&self, id: StreamId) -> u64 {
        match (id.dir(), id.initiator() == self.side) {
            (Dir::Bi, true) => self.peer.bidi_remote,
            (Dir::Bi, false) => self.peer.bidi_local,
            (Dir::Uni, _) => self.peer.uni,
        }
    }

    fn raise_credit(&mut self, max: u64) {
        if self.credit.raise(max) {
            self.data_blocked_told = false;
            self.pending_control &= !pending_control::DATA_BLOCKED;
        }
    }

    fn raise_opening(&mut self, dir: Dir, max: u64) {
        if self.opening[dir as usize].raise(max) {
            self.notices |= notices::AVAILABLE << dir as u8;
            self.pending_control &= !(pending_control::STREAMS_BLOCKED << dir as u8);
        }
    }

    /// Puts the stream into the queue where its data belongs now.
    #[inline]
    fn schedule(&mut self, slot: u32) {
        let stream = &mut self.table.slots[slot as usize];
        let (now, wanted) = (stream.send.queue, stream.send.wanted_queue());
        if stream.send.tell_blocked() {
            self.want(slot, pending_frames::STREAM_DATA_BLOCKED);
        }
        if now != wanted {
            self.move_between(slot, now, wanted);
        }
    }

    fn move_between(&mut self, slot: u32, now: SendQueue, wanted: SendQueue) {
        let slots = &mut self.table.slots;
        match now {
            SendQueue::Idle => {}
            SendQueue::Repair => self.repair.remove(slots, Way::Send, slot),
            SendQueue::Fresh => self.fresh.remove(slots, Way::Send, slot),
        }
        match wanted {
            SendQueue::Idle => {}
            SendQueue::Repair => self.repair.push(slots, Way::Send, slot),
            SendQueue::Fresh => self.fresh.push(slots, Way::Send, slot),
        }
        slots[slot as usize].send.queue = wanted;
    }

    /// Tells the peer, once for each limit, that it blocks data on the connection's level.
    fn tell_data_blocked(&mut self) {
        if self.is_data_blocked() && !self.data_blocked_told {
            self.data_blocked_told = true;
            self.pending_control |= pending_control::DATA_BLOCKED;
        }
    }

    const fn is_data_blocked(&self) -> bool {
        !self.fresh.is_empty() && self.credit.left() == 0
    }

    /// Notes control frames of the stream as pending: bits of [`pending_frames`].
    fn want(&mut self, slot: u32, frames: u8) {
        let stream = &mut self.table.slots[slot as usize];
        let before = stream.pending_frames;
        stream.pending_frames |= frames;
        if before == 0 {
            self.control.push(&mut self.table.slots, Way::Control, slot);
        }
    }

    /// Notes that the application is to be told of the stream: bits of [`pending_events`].
    #[inline]
    fn tell(&mut self, slot: u32, events: u8) {
        let stream = &mut self.table.slots[slot as usize];
        let before = stream.pending_events;
        stream.pending_events |= events;
        if before == 0 {
            self.events.push(&mut self.table.slots, Way::Event, slot);
        }
    }

    /// Ends the stream if both its halves have ended.
    #[inline]
    fn close_if_done(&mut self, slot: u32) {
        let stream = self.stream(slot);
        if !stream.send.is_done() || !stream.recv.is_done() {
            return;
        }
        if stream.pending_frames != 0 {
            self.stream_mut(slot).pending_frames = 0;
            self.control.remove(&mut self.table.slots, Way::Control, slot);
        }
        self.schedule(slot);
        self.tell(slot, pending_events::CLOSED);
    }

    /// Frees the slot of a stream whose end was told, and gives the peer credit for it.
    #[inline]
    fn release(&mut self, slot: u32) {
        let stream = self.stream_mut(slot);
        let (id, rare) = (stream.id, stream.recv.rare);
        if rare != NO_RARE {
            self.rare.give(rare);
        }
        if self.stream(slot).recv.resumed {
            self.resumed.remove(&mut self.table.slots, Way::Resumed, slot);
        }
        self.table.remove(slot);
        let dir = id.dir();
        if id.initiator() == self.side {
            self.opening[dir as usize].closed += 1;
            return;
        }
        let accepting = &mut self.accepting[dir as usize];
        accepting.closed += 1;
        if accepting.update_due() {
            self.pending_control |= pending_control::MAX_STREAMS << dir as u8;
        }
    }
}

/// Names a stream of the peer in the set of skipped ones: both kinds share it.
const fn skip_key(id: StreamId) -> u64 {
    (id.dir() as u64) << 60 | id.index()
}
