//! Where data waits that the application cannot have yet.
//!
//! A ring over the stream's offsets, with the ranges that were filled in. What is taken from the
//! front moves the ring's head and copies nothing.
//!
//! ```text
//!        head                                   front(): up to the first gap
//!         v                                     or the end of the memory
//! [......|##########|......|#####|.............]
//!        ^ start = consumed      ^ received
//! ```
//!
//! # Bounds
//!
//! A peer that sends one byte here and there (CVE-2026-25800) makes memory of two kinds. The
//! ring is as long as the offsets reach, rounded up by a quarter at most; they count against
//! both flow-control windows. The ranges are kept below one for every [`GAP_BYTES`] of those
//! offsets, and below [`SPANS_MAX`]: beyond that the frame is refused and its packet not
//! acknowledged, which an honest sender repairs as any loss. Together that is below 1.6 times
//! the window.

use crate::proto::byte_ranges::ByteRanges;

/// Ranges that any buffer may have, however short.
const SPANS_MIN: usize = 16;
/// Ranges that no buffer may exceed: an insertion in the middle moves at most half of them, 8 KiB.
/// At 1,200 bytes a packet, that many gaps are 2% loss of a window of 60 MB.
const SPANS_MAX: usize = 1024;
/// Beyond [`SPANS_MIN`], one range is allowed for so many bytes of offsets. A range is 16 bytes of
/// memory; honest gaps are packets, 20 times as far apart.
const GAP_BYTES: u64 = 64;
/// The shortest ring.
const RING_MIN: usize = 64;
/// Buffers kept for the next gap.
const POOL_MAX: usize = 8;

/// Data of one stream that waits.
#[derive(Debug, Default)]
struct Reassembly {
    ring: Box<[u8]>,
    /// Where `start` lies in the ring.
    head: usize,
    /// Offset of the first byte that the application has not taken.
    start: u64,
    /// Where the stream ends, if that was known when the buffer was detached.
    end: u64,
    ranges: ByteRanges,
}

/// Data of a stream that arrived early or was not taken.
///
/// Detached by [`Streams::detach_ready`](super::Streams::detach_ready), so that the application
/// may read it while it holds the connection; it has to go back by
/// [`Streams::attach`](super::Streams::attach).
#[derive(Debug)]
pub struct RecvBuffer {
    inner: Box<Reassembly>,
}

impl RecvBuffer {
    /// The bytes that are next in order, as far as they lie in one piece, and whether the last
    /// byte of the stream is among them.
    #[must_use]
    pub fn front(&self) -> (&[u8], bool) {
        let it = &*self.inner;
        let len = (self.front_end() - it.start) as usize;
        let piece = len.min(it.ring.len() - it.head);
        (&it.ring[it.head..it.head + piece], it.start + piece as u64 == it.end)
    }

    /// True if there are bytes that are next in order.
    pub(super) fn has_front(&self) -> bool {
        self.first_offset() == Some(self.inner.start)
    }

    /// Where the bytes that are next in order end.
    pub(super) fn front_end(&self) -> u64 {
        let first = self.inner.ranges.first();
        first
            .filter(|range| range.lo == self.inner.start)
            .map_or(self.inner.start, |range| range.hi)
    }

    /// Offset of the first byte held.
    pub(super) fn first_offset(&self) -> Option<u64> {
        self.inner.ranges.first().map(|range| range.lo)
    }

    /// True if it holds nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.inner.ranges.is_empty()
    }

    /// Notes where the stream ends; `u64::MAX` if that is not known.
    pub(super) fn set_end(&mut self, end: u64) {
        self.inner.end = end;
    }

    /// Forgets `count` bytes at the front, which may not have arrived through here.
    pub(super) fn skip(&mut self, count: u64) {
        let it = &mut *self.inner;
        it.start += count;
        it.ranges.remove_below(it.start);
        if it.ranges.is_empty() {
            it.head = 0;
        } else {
            it.head = position(it.head, count, it.ring.len());
        }
    }

    /// True if the data `offset..end` would make one range more than is allowed.
    pub(super) fn refuses(&self, offset: u64, end: u64) -> bool {
        let ranges = &self.inner.ranges;
        if ranges.len() < SPANS_MIN {
            return false;
        }
        let reach = end.max(ranges.last().map_or(0, |range| range.hi)) - self.inner.start;
        let allowed = SPANS_MIN.saturating_add((reach / GAP_BYTES) as usize).min(SPANS_MAX);
        ranges.len() >= allowed && !ranges.touches(offset.max(self.inner.start), end)
    }

    /// Copies `data`, which starts at `offset`; what is there already stays. The ring will not
    /// need more than `window` bytes.
    pub(super) fn insert(&mut self, pool: &mut Pool, window: u64, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        let lo = offset.max(self.inner.start);
        if lo >= end {
            return;
        }
        self.make_room(pool, (end - self.inner.start) as usize, window);
        let it = &mut *self.inner;
        for gap in it.ranges.uncovered(lo, end) {
            let source = &data[(gap.lo - offset) as usize..(gap.hi - offset) as usize];
            let at = position(it.head, gap.lo - it.start, it.ring.len());
            let (first, second) = source.split_at(source.len().min(it.ring.len() - at));
            it.ring[at..at + first.len()].copy_from_slice(first);
            it.ring[..second.len()].copy_from_slice(second);
        }
        it.ranges.insert(lo, end);
    }

    /// Bytes of heap held.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of::<Reassembly>() + self.inner.ring.len() + self.inner.ranges.heap_bytes()
    }

    fn make_room(&mut self, pool: &mut Pool, need: usize, window: u64) {
        let it = &mut *self.inner;
        let old = it.ring.len();
        if need <= old {
            return;
        }
        let limit = usize::try_from(window).unwrap_or(usize::MAX);
        let new = round_up(need).min(limit).max(need);
        pool.account_growth(old, new);
        let mut ring = vec![0; new].into_boxed_slice();
        if !it.ranges.is_empty() {
            let (before, from_head) = it.ring.split_at(it.head);
            ring[..from_head.len()].copy_from_slice(from_head);
            ring[from_head.len()..old].copy_from_slice(before);
        }
        it.ring = ring;
        it.head = 0;
    }
}

/// Where the byte `distance` after `head` lies in a ring of `len` bytes.
const fn position(head: usize, distance: u64, len: usize) -> usize {
    let at = head + distance as usize;
    if at >= len { at - len } else { at }
}

/// The next length of a ring: a quarter of a power of two apart, so that at most a fifth of
/// it lies idle and growing from nothing copies each byte five times at most.
const fn round_up(need: usize) -> usize {
    if need <= RING_MIN {
        return RING_MIN;
    }
    let quarter = (1 << need.ilog2()) / 4;
    need.next_multiple_of(quarter)
}

/// Empty buffers of a connection, kept for the next gap.
#[derive(Debug)]
pub(super) struct Pool {
    free: Vec<RecvBuffer>,
    /// Bytes of all rings, in use or not.
    ring_bytes: usize,
    /// Beyond this, buffers are not kept.
    limit_bytes: usize,
}

impl Pool {
    /// An empty pool for a connection whose window is `window` bytes.
    pub(super) fn new(window: u64) -> Self {
        let limit_bytes = usize::try_from(window).unwrap_or(usize::MAX);
        Self { free: Vec::new(), ring_bytes: 0, limit_bytes }
    }

    /// The connection's window has become `window` bytes.
    pub(super) fn set_limit(&mut self, window: u64) {
        self.limit_bytes = usize::try_from(window).unwrap_or(usize::MAX);
    }

    /// An empty buffer whose first byte will have offset `start`.
    pub(super) fn take(&mut self, start: u64) -> RecvBuffer {
        let mut buffer = self.free.pop().unwrap_or_else(|| RecvBuffer { inner: Box::default() });
        buffer.inner.start = start;
        buffer.inner.head = 0;
        buffer.inner.end = u64::MAX;
        buffer
    }

    /// Takes back a buffer that no stream needs.
    pub(super) fn give(&mut self, mut buffer: RecvBuffer) {
        if self.free.len() < POOL_MAX && self.ring_bytes <= self.limit_bytes {
            buffer.inner.ranges.recycle();
            self.free.push(buffer);
        } else {
            self.ring_bytes -= buffer.inner.ring.len();
        }
    }

    /// Gives unused memory back.
    pub(super) fn shrink(&mut self) {
        for buffer in std::mem::take(&mut self.free) {
            self.ring_bytes -= buffer.inner.ring.len();
        }
    }

    /// Bytes of heap held by buffers that are not in use.
    pub(super) fn heap_bytes(&self) -> usize {
        self.free.capacity() * size_of::<RecvBuffer>()
            + self.free.iter().map(RecvBuffer::heap_bytes).sum::<usize>()
    }

    /// A ring in use grows: those that are not in use go first.
    fn account_growth(&mut self, old: usize, new: usize) {
        self.ring_bytes += new - old;
        if self.ring_bytes > self.limit_bytes {
            self.shrink();
        }
    }
}

#[cfg(test)]
mod tests;
