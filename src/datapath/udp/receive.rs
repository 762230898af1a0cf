//! Buffers between recvmmsg(2) and the sink.
//!
//! With `UDP_GRO` one buffer holds up to 64 KiB of datagrams of one flow that arrived
//! together, each of one length but the last. The sink borrows each one where it lies. What the
//! budget of a call leaves over stays here for the next one.

use super::abi::Arrival;
use super::error;
use super::socket::{QUEUED_ERRORS_PER_CALL, Socket};
use super::syscall::{self, RECEIVE_BATCH, Slot};
use crate::datapath::{Backlog, Checksum, Link, Path, QueueStats, RxMeta};
use std::io;

/// The largest that the kernel joins.
const GRO_BUFFER_BYTES: usize = 65_535;
/// Buffers with GRO, 64 KiB each. Datagrams that could not be joined cost 707 ns each with 8,
/// 682 with 16, 670 with 32 and 662 with 64; joined ones 82 with any (loopback, 1,472 bytes,
/// Linux 6.18, 2 vCPUs).
const GRO_BUFFERS: usize = 32;
/// Buffers begin on a cache line.
const CACHE_LINE_BYTES: usize = 64;

/// What one call of [`Receiver::deliver`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Delivered {
    /// Datagrams handed to the sink.
    pub(super) handed: usize,
    /// Datagrams handed or dropped: what the budget pays for.
    pub(super) used: usize,
}

/// Received datagrams, and the buffers that they are received into.
pub(super) struct Receiver {
    arena: Box<[u8]>,
    stride_bytes: usize,
    buffer_bytes: usize,
    max_datagram_bytes: usize,
    slots: Box<[Slot]>,
    /// Slots before this one hold datagrams.
    filled: usize,
    /// Slots before this one have been handed out.
    next: usize,
    /// How many bytes of slot `next` have been handed out.
    offset: usize,
    /// The kernel had no more when datagrams were fetched ahead.
    drained: bool,
    /// How long the oldest datagram that was fetched since this was told had waited in the kernel.
    age_ns: u64,
}

impl Receiver {
    pub(super) fn new(max_datagram_bytes: usize, gro: bool) -> Self {
        let (buffers, buffer_bytes) =
            if gro { (GRO_BUFFERS, GRO_BUFFER_BYTES) } else { (RECEIVE_BATCH, max_datagram_bytes) };
        let stride_bytes = buffer_bytes.next_multiple_of(CACHE_LINE_BYTES);
        Self {
            arena: vec![0; buffers * stride_bytes].into_boxed_slice(),
            stride_bytes,
            buffer_bytes,
            max_datagram_bytes,
            slots: (0..buffers).map(|_| Slot::EMPTY).collect(),
            filled: 0,
            next: 0,
            offset: 0,
            drained: false,
            age_ns: 0,
        }
    }

    /// Nothing waits here; the kernel may still hold datagrams.
    pub(super) fn is_empty(&self) -> bool {
        self.next == self.filled
    }

    /// Fetches at most `budget` messages. True when the kernel may have more.
    ///
    /// Only to be called when nothing waits.
    pub(super) fn fetch(&mut self, socket: &Socket, budget: usize) -> io::Result<bool> {
        debug_assert!(self.is_empty(), "datagrams would be overwritten");
        (self.filled, self.next, self.offset) = (0, 0, 0);
        let count = budget.min(self.slots.len());
        for _ in 0..QUEUED_ERRORS_PER_CALL {
            let buffers =
                self.arena.chunks_mut(self.stride_bytes).map(|b| &mut b[..self.buffer_bytes]);
            match syscall::receive_many(socket.fd(), &mut self.slots[..count], buffers) {
                Ok(got) => {
                    self.filled = got;
                    self.note_age();
                    return Ok(got == count);
                }
                Err(e) if error::is_icmp(&e) || e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// The first is the oldest. Its time of arrival is by the time of day, which may be set: a wrong
    /// age is that of one call.
    fn note_age(&mut self) {
        let Some(first) = self.slots[..self.filled].first() else { return };
        let waited_ns = first
            .control
            .arrival()
            .arrived_ns
            .map(|at| syscall::time_of_day_ns().saturating_sub(at));
        self.age_ns = self.age_ns.max(waited_ns.unwrap_or(0));
    }

    /// What waits here: the kernel does not tell what it holds. The age is told once.
    pub(super) fn backlog(&mut self) -> Backlog {
        let left = self.slots[self.next..self.filled].iter();
        let waiting = left.map(|slot| slot.len.div_ceil(self.max_datagram_bytes).max(1)).sum();
        Backlog { waiting, age_ns: std::mem::take(&mut self.age_ns) }
    }

    /// Fetches ahead of [`deliver`](Self::deliver), if nothing waits.
    pub(super) fn fetch_ahead(&mut self, socket: &Socket, budget: usize) -> io::Result<()> {
        if self.is_empty() {
            self.drained = !self.fetch(socket, budget)?;
        }
        Ok(())
    }

    /// True, once, if what was fetched ahead is all that the kernel had.
    pub(super) fn take_drained(&mut self) -> bool {
        std::mem::take(&mut self.drained)
    }

    /// Shows what waits: of datagrams that arrived joined the first, for they are of one flow.
    pub(super) fn show(&self, budget: usize, look: &mut dyn FnMut(&[u8])) {
        for at in (self.next..self.filled).take(budget) {
            let start = at * self.stride_bytes;
            look(&self.arena[start..start + self.slots[at].len]);
        }
    }

    /// Lends what waits to `sink`, for at most `budget` datagrams.
    pub(super) fn deliver(
        &mut self,
        socket: &Socket,
        budget: usize,
        stats: &mut QueueStats,
        sink: &mut dyn FnMut(&RxMeta, &mut [u8]),
    ) -> Delivered {
        let mut done = Delivered::default();
        while done.used < budget && !self.is_empty() {
            let slot = &self.slots[self.next];
            let arrival = slot.control.arrival();
            let Some(meta) = meta_of(socket, slot, &arrival) else {
                stats.drop_malformed += 1;
                done.used += 1;
                self.finish_slot();
                continue;
            };
            let start = self.next * self.stride_bytes;
            let datagrams = Datagrams {
                bytes: &mut self.arena[start..start + slot.len],
                segment_bytes: arrival.segment_bytes.unwrap_or(slot.len),
                max_bytes: if slot.truncated { 0 } else { self.max_datagram_bytes },
            };
            datagrams.hand_out(&mut self.offset, budget, &meta, stats, sink, &mut done);
            if self.offset >= self.slots[self.next].len {
                self.finish_slot();
            }
        }
        done
    }

    fn finish_slot(&mut self) {
        self.next += 1;
        self.offset = 0;
    }
}

fn meta_of(socket: &Socket, slot: &Slot, arrival: &Arrival) -> Option<RxMeta> {
    let remote = slot.name.get()?;
    let local = socket.arrived_at(arrival.local);
    let path = Path { local, remote, link: Link::UNKNOWN };
    Some(RxMeta { path, ecn: arrival.ecn, checksum: Checksum::Verified })
}

/// The datagrams of one message.
struct Datagrams<'a> {
    bytes: &'a mut [u8],
    segment_bytes: usize,
    /// Larger ones, or all when this is 0, are dropped as truncated.
    max_bytes: usize,
}

impl Datagrams<'_> {
    /// Hands out from `offset` while the budget lasts. It stands behind a datagram before that is
    /// handed out: one that makes the sink panic is not handed out again.
    fn hand_out(
        self,
        offset: &mut usize,
        budget: usize,
        meta: &RxMeta,
        stats: &mut QueueStats,
        sink: &mut dyn FnMut(&RxMeta, &mut [u8]),
        done: &mut Delivered,
    ) {
        if self.bytes.is_empty() {
            stats.drop_empty += 1;
            done.used += 1;
            return;
        }
        let segment_bytes = self.segment_bytes.max(1);
        for datagram in self.bytes[*offset..].chunks_mut(segment_bytes).take(budget - done.used) {
            done.used += 1;
            *offset += datagram.len();
            if datagram.len() > self.max_bytes {
                stats.drop_truncated += 1;
                continue;
            }
            stats.rx_packets += 1;
            stats.rx_bytes += datagram.len() as u64;
            done.handed += 1;
            sink(meta, datagram);
        }
    }
}
