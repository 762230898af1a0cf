//! A datapath in memory: no kernel, no NIC.
//!
//! A [`MemoryDatapath`] has two queues: datagrams that have arrived, and datagrams that were sent.
//! On its own it goes nowhere: the caller fills the first and empties the second, so that a test or
//! a benchmark decides what reaches whom and when. With a [`Medium`] the two queues are filled and
//! emptied by it: [`SimDatapath`](super::sim::SimDatapath) is one queue of a simulated host.
//!
//! Buffers are used again: in steady state nothing is allocated.
//!
//! ```
//! use quiclane::datapath::memory::MemoryDatapath;
//! use quiclane::datapath::{Datapath, Link, Path};
//! use quiclane::ecn::Ecn;
//!
//! let (mut a, mut b) = (MemoryDatapath::new(1_500), MemoryDatapath::new(1_500));
//! let path = Path { local: "192.0.2.1:1".parse()?, remote: "192.0.2.2:2".parse()?, link: Link::UNKNOWN };
//! a.tx_buffer(&path).ok_or("full")?[..5].copy_from_slice(b"hello");
//! a.tx_commit(5, &path, Ecn::Ect0);
//! a.flush()?;
//!
//! while let Some(datagram) = a.sent().pop() {
//!     b.arrived().put(&datagram.meta.crossed(), datagram.payload());
//! }
//! assert_eq!(b.receive(64, &mut |meta, bytes| {
//!     assert_eq!((meta.path.remote, &bytes[..]), (path.local, &b"hello"[..]));
//! }), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use super::{
    Backlog, Capabilities, Checksum, Datapath, DatapathError, Link, Mode, Path, QueueStats, RxMeta,
};
use crate::ecn::Ecn;
use std::os::fd::RawFd;

/// A datagram at the beginning of a buffer that is used again.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// The path as the holder of the datagram sees it, and the ECN codepoint.
    pub meta: RxMeta,
    buffer: Vec<u8>,
    len: usize,
}

impl Datagram {
    /// The UDP payload.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// The UDP payload, to be changed.
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.len]
    }

    /// Takes the buffer away without a copy, and gives another one for later use. The first
    /// `payload().len()` bytes of the one that is returned are the payload; none is left here.
    #[inline]
    pub fn exchange(&mut self, buffer: &mut Vec<u8>) -> usize {
        std::mem::swap(&mut self.buffer, buffer);
        std::mem::take(&mut self.len)
    }
}

impl RxMeta {
    /// The same datagram as the other end sees it, over a wire that damages nothing.
    #[must_use]
    pub fn crossed(&self) -> Self {
        let path = Path { local: self.path.remote, remote: self.path.local, link: Link::UNKNOWN };
        Self { path, checksum: Checksum::Verified, ..*self }
    }
}

/// Datagrams in the order of their arrival.
#[derive(Debug, Default)]
pub struct Datagrams {
    /// What waits is `list[first..end]`; the others are free buffers.
    list: Vec<Datagram>,
    first: usize,
    end: usize,
}

impl Datagrams {
    /// How many there are.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.first
    }

    /// True if there is none.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.first == self.end
    }

    /// All of them, the first first.
    #[inline]
    pub fn iter(&self) -> std::slice::Iter<'_, Datagram> {
        self.list[self.first..self.end].iter()
    }

    /// All of them, the first first, to be changed.
    #[inline]
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Datagram> {
        self.list[self.first..self.end].iter_mut()
    }

    /// Adds a copy of `payload` at the end.
    pub fn put(&mut self, meta: &RxMeta, payload: &[u8]) {
        self.vacant(payload.len())[..payload.len()].copy_from_slice(payload);
        self.commit(payload.len(), &meta.path, meta.ecn, meta.checksum);
    }

    /// Takes the first. Its buffer is free once the next datagram is added.
    #[inline]
    pub fn pop(&mut self) -> Option<&mut Datagram> {
        if self.is_empty() {
            return None;
        }
        self.first += 1;
        Some(&mut self.list[self.first - 1])
    }

    /// Drops all of them.
    #[inline]
    pub fn clear(&mut self) {
        (self.first, self.end) = (0, 0);
    }

    /// A buffer of at least `bytes` for the next datagram. Its content is what the last use left, so
    /// that no time goes to zeroing.
    #[inline]
    fn vacant(&mut self, bytes: usize) -> &mut [u8] {
        if self.is_empty() {
            self.clear();
        }
        if self.end == self.list.len() {
            self.make_room();
        }
        let buffer = &mut self.list[self.end].buffer;
        if buffer.len() < bytes {
            buffer.resize(bytes, 0);
        }
        buffer
    }

    #[cold]
    fn make_room(&mut self) {
        // What was taken at the front is free again, before the list grows.
        self.list.rotate_left(self.first);
        (self.first, self.end) = (0, self.end - self.first);
        if self.end == self.list.len() {
            let address = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
            let path = Path { local: address, remote: address, link: Link::UNKNOWN };
            let meta = RxMeta { path, ecn: Ecn::NotEct, checksum: Checksum::Verified };
            self.list.push(Datagram { meta, buffer: Vec::new(), len: 0 });
        }
    }

    /// Makes the first `len` bytes of the last [`vacant`](Self::vacant) a datagram.
    #[inline]
    fn commit(&mut self, len: usize, path: &Path, ecn: Ecn, checksum: Checksum) {
        if let Some(datagram) = self.list.get_mut(self.end) {
            debug_assert!(len <= datagram.buffer.len(), "{len} bytes in a smaller buffer");
            // One by one: a value made of them would be copied twice.
            datagram.meta.path = *path;
            datagram.meta.ecn = ecn;
            datagram.meta.checksum = checksum;
            datagram.len = len.min(datagram.buffer.len());
            self.end += 1;
        }
    }
}

/// What a [`MemoryDatapath`] sends into and receives from. `()` does neither: both queues are the
/// caller's.
pub trait Medium {
    /// Moves at most `budget` datagrams that have arrived to the end of `arrived`.
    fn receive(&mut self, _budget: usize, _arrived: &mut Datagrams) {}

    /// Takes what was committed. Returns what it refused of it.
    fn send(&mut self, _sent: &mut Datagrams) -> Amount {
        Amount::default()
    }

    /// True if [`receive`](Self::receive) would move something.
    fn has_arrived(&self) -> bool {
        false
    }

    /// Adds what was lost on the way to this datapath.
    fn add_drops(&self, _stats: &mut QueueStats) {}
}

impl Medium for () {}

/// So many datagrams with so many bytes of payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Datagrams.
    pub packets: u64,
    /// Bytes of their UDP payload.
    pub bytes: u64,
}

impl Amount {
    /// Adds a datagram.
    pub const fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// A datapath whose datagrams lie in memory.
#[derive(Debug)]
pub struct MemoryDatapath<M = ()> {
    capabilities: Capabilities,
    tx_frames: usize,
    arrived: Datagrams,
    sent: Datagrams,
    /// What was committed since the last flush.
    committed: Amount,
    stats: QueueStats,
    medium: M,
}

impl MemoryDatapath {
    /// A datapath whose two queues are the caller's, for datagrams of at most so many bytes.
    #[must_use]
    pub fn new(max_datagram_bytes: usize) -> Self {
        Self::plugged((), 0, max_datagram_bytes, usize::MAX)
    }
}

impl<M: Medium> MemoryDatapath<M> {
    /// A datapath of `medium` that stands for the queue of that number.
    #[must_use]
    pub fn plugged(medium: M, queue: u32, max_datagram_bytes: usize, tx_frames: usize) -> Self {
        let capabilities = Capabilities {
            mode: Mode::Simulated,
            queue,
            device: None,
            max_datagram_bytes,
            ecn: true,
            segmentation_offload: false,
        };
        Self {
            capabilities,
            tx_frames,
            arrived: Datagrams::default(),
            sent: Datagrams::default(),
            committed: Amount::default(),
            stats: QueueStats::default(),
            medium,
        }
    }

    /// Limits the datagrams that may wait among the sent ones: with so many there, no buffer is free.
    pub fn limit_sent(&mut self, datagrams: usize) {
        self.tx_frames = datagrams;
    }

    /// What has arrived and was not received yet.
    pub fn arrived(&mut self) -> &mut Datagrams {
        &mut self.arrived
    }

    /// What was sent and not taken yet.
    pub fn sent(&mut self) -> &mut Datagrams {
        &mut self.sent
    }

    /// What it is plugged into.
    pub fn medium(&self) -> &M {
        &self.medium
    }
}

impl<M: Medium> Datapath for MemoryDatapath<M> {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn preview(&mut self, budget: usize, look: &mut dyn FnMut(&[u8])) {
        self.arrived.iter().take(budget).for_each(|datagram| look(datagram.payload()));
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&RxMeta, &mut [u8])) -> usize {
        // Before the sink runs: it may look at the medium.
        self.medium.receive(budget.saturating_sub(self.arrived.len()), &mut self.arrived);
        let mut handed = Amount::default();
        for _ in 0..budget {
            let Some(datagram) = self.arrived.pop() else { break };
            if datagram.len == 0 {
                self.stats.drop_empty += 1;
                continue;
            }
            handed.add(datagram.len);
            sink(&datagram.meta, &mut datagram.buffer[..datagram.len]);
        }
        self.stats.rx_calls += 1;
        self.stats.rx_packets += handed.packets;
        self.stats.rx_bytes += handed.bytes;
        handed.packets as usize
    }

    fn backlog(&mut self) -> Backlog {
        Backlog { waiting: self.arrived.len(), age_ns: 0 }
    }

    fn tx_buffer(&mut self, _path: &Path) -> Option<&mut [u8]> {
        if self.sent.len() >= self.tx_frames {
            self.stats.tx_no_buffer += 1;
            return None;
        }
        Some(self.sent.vacant(self.capabilities.max_datagram_bytes))
    }

    fn tx_commit(&mut self, len: usize, path: &Path, ecn: Ecn) {
        self.sent.commit(len, path, ecn, Checksum::Verified);
        self.committed.add(len);
    }

    fn flush(&mut self) -> Result<(), DatapathError> {
        let committed = std::mem::take(&mut self.committed);
        if committed.packets > 0 {
            let refused = self.medium.send(&mut self.sent);
            self.stats.tx_kicks += 1;
            self.stats.tx_errors += refused.packets;
            self.stats.tx_packets += committed.packets - refused.packets;
            self.stats.tx_bytes += committed.bytes - refused.bytes;
        }
        Ok(())
    }

    fn prepare_sleep(&mut self) -> bool {
        self.committed.packets == 0 && self.arrived.is_empty() && !self.medium.has_arrived()
    }

    fn poll_fds(&self) -> &[RawFd] {
        &[]
    }

    fn stats(&self) -> QueueStats {
        let mut stats = self.stats;
        self.medium.add_drops(&mut stats);
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> Path {
        let [local, remote] = [1, 2].map(|host| ([192, 0, 2, host], u16::from(host)).into());
        Path { local, remote, link: Link::UNKNOWN }
    }

    fn meta() -> RxMeta {
        RxMeta { path: path(), ecn: Ecn::Ect0, checksum: Checksum::Verified }
    }

    fn send(datapath: &mut MemoryDatapath, payload: &[u8]) -> bool {
        let Some(buffer) = datapath.tx_buffer(&path()) else { return false };
        buffer[..payload.len()].copy_from_slice(payload);
        datapath.tx_commit(payload.len(), &path(), Ecn::Ect0);
        true
    }

    fn received(datapath: &mut MemoryDatapath, budget: usize) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let count = datapath.receive(budget, &mut |_, bytes| all.push(bytes.to_vec()));
        assert_eq!(count, all.len());
        all
    }

    #[test]
    fn what_is_sent_waits_until_it_is_taken() {
        let mut datapath = MemoryDatapath::new(1_500);
        assert!(send(&mut datapath, b"one") && !datapath.prepare_sleep());
        datapath.flush().unwrap();
        assert!(datapath.prepare_sleep() && send(&mut datapath, b"two"));
        datapath.flush().unwrap();
        let first = datapath.sent().pop().unwrap();
        assert_eq!(
            (first.payload(), first.meta.path, first.meta.ecn),
            (&b"one"[..], path(), Ecn::Ect0)
        );
        assert_eq!(datapath.sent().iter().map(Datagram::payload).collect::<Vec<_>>(), [b"two"]);
        let stats = datapath.stats();
        assert_eq!((stats.tx_packets, stats.tx_bytes, stats.tx_kicks), (2, 6, 2));
    }

    #[test]
    fn a_limit_of_sent_datagrams_is_kept_and_counted() {
        let mut datapath = MemoryDatapath::new(1_500);
        datapath.limit_sent(2);
        assert_eq!([(); 3].map(|()| send(&mut datapath, b"x")), [true, true, false]);
        assert_eq!(datapath.stats().tx_no_buffer, 1);
        datapath.sent().pop().unwrap();
        assert!(send(&mut datapath, b"x"));
    }

    #[test]
    fn what_arrives_is_handed_out_in_order_as_far_as_the_budget_goes() {
        let mut datapath = MemoryDatapath::new(1_500);
        for payload in [&b"1"[..], b"", b"2", b"3"] {
            datapath.arrived().put(&meta(), payload);
        }
        let mut shown = Vec::new();
        datapath.preview(3, &mut |bytes| shown.push(bytes.to_vec()));
        assert_eq!(shown, [&b"1"[..], b"", b"2"]);
        assert_eq!(received(&mut datapath, 3), [b"1", b"2"], "an empty one costs budget");
        assert!(!datapath.prepare_sleep());
        datapath.arrived().put(&meta(), b"4");
        assert_eq!(received(&mut datapath, 64), [b"3", b"4"]);
        assert!(datapath.prepare_sleep());
        let stats = datapath.stats();
        assert_eq!((stats.rx_packets, stats.rx_bytes, stats.drop_empty), (4, 4, 1));
    }

    #[test]
    fn buffers_are_used_again_also_if_the_queue_is_never_empty() {
        let mut datapath = MemoryDatapath::new(1_500);
        datapath.arrived().put(&meta(), b"0");
        for n in 1..100_u8 {
            datapath.arrived().put(&meta(), &[n]);
            assert_eq!(received(&mut datapath, 1).len(), 1);
        }
        assert_eq!((datapath.arrived.len(), datapath.arrived.list.len()), (1, 2));
        assert_eq!(received(&mut datapath, 1), [[99]]);
    }

    #[test]
    fn a_buffer_is_exchanged_for_another_one() {
        let mut datapath = MemoryDatapath::new(1_500);
        assert!(send(&mut datapath, b"taken"));
        let mut buffer = vec![7; 3];
        let len = datapath.sent().pop().unwrap().exchange(&mut buffer);
        assert_eq!((&buffer[..len], buffer.len()), (&b"taken"[..], 1_500));
        assert!(send(&mut datapath, b"a smaller buffer grows"));
        assert_eq!(datapath.sent().pop().unwrap().payload(), b"a smaller buffer grows");
    }
}
