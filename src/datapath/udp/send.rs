//! The queue of datagrams between `tx_commit` and sendmmsg(2).
//!
//! Payloads lie in one arena. A datagram is written where the last one ended, so that a run of
//! datagrams to one peer is one contiguous message already, and the kernel cuts it again
//! (`UDP_SEGMENT`, generic segmentation offload): one trip through the IP stack for up to 64
//! datagrams, without a byte copied to bring them together.
//!
//! ```text
//! arena    | 1472 | 1472 | 1472 | 600 | 1472 | 1472 | free ...                |
//! messages |  to A, 4 segments        |  to B, 2    ^ the next datagram begins here
//! ```
//!
//! All segments of a message are of one length, except that the last may be shorter; so a
//! shorter datagram ends its message. Nothing here makes a system call.

use super::abi::{Control, Name};
use super::socket::Socket;
use super::syscall::{Outgoing, SEND_BATCH};
use crate::datapath::Path;
use crate::ecn::Ecn;
use std::net::SocketAddr;

/// The most segments of one message: `UDP_MAX_SEGMENTS` of Linux before 6.9 (later 128).
const MAX_SEGMENTS: usize = 64;
/// The most bytes of one message: an IP packet carries 65,507, less what headers may need.
const MAX_MESSAGE_BYTES: usize = 65_000;

/// What waits for the next flush, in bytes. On loopback at 1,472 bytes with GSO a datagram costs
/// 239 ns with 100 KiB, 212 with 256, 206 with 512 and with 2,048 (Linux 6.18, 2 vCPUs): below,
/// the kernel gets short messages; above, the arena only takes cache from everything else.
const ARENA_BYTES: usize = 256 << 10;

/// One message for sendmmsg: one datagram, or several of one length to one peer.
struct Message {
    start: usize,
    bytes: usize,
    /// The length of every segment but the last.
    segment_bytes: usize,
    segments: usize,
    /// No datagram may follow: the last one was shorter, or the kernel has seen it.
    closed: bool,
    local: SocketAddr,
    remote: SocketAddr,
    ecn: Ecn,
    name: Name,
    control: Control,
}

impl Message {
    fn takes(&self, len: usize, path: &Path, ecn: Ecn) -> bool {
        !self.closed
            && len <= self.segment_bytes
            && self.segments < MAX_SEGMENTS
            && self.bytes + len <= MAX_MESSAGE_BYTES
            && self.remote == path.remote
            && self.local == path.local
            && self.ecn == ecn
    }

    fn append(&mut self, len: usize) {
        self.bytes += len;
        self.segments += 1;
        self.closed = len < self.segment_bytes;
    }

    /// Completes the message for the kernel; idempotent.
    fn close(&mut self, socket: &Socket) {
        socket.write_control(&mut self.control, &self.local, self.ecn);
        if self.segments > 1 {
            self.control.push_segment(self.segment_bytes as u16);
        }
        self.closed = true;
    }

    /// The same datagrams, one message each.
    fn singles(&self) -> impl Iterator<Item = Self> {
        (0..self.segments).map(|i| {
            let start = i * self.segment_bytes;
            let bytes = self.segment_bytes.min(self.bytes - start);
            Self {
                start: self.start + start,
                bytes,
                segment_bytes: bytes,
                segments: 1,
                closed: true,
                name: self.name,
                control: Control::EMPTY,
                ..*self
            }
        })
    }
}

/// How much a part of the queue held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) datagrams: u64,
    pub(super) bytes: u64,
    /// Messages of more than one datagram.
    pub(super) joined: u64,
}

/// Datagrams that are written and not yet sent.
pub(super) struct SendQueue {
    arena: Box<[u8]>,
    max_datagram_bytes: usize,
    /// Where the next datagram begins.
    written: usize,
    messages: Vec<Message>,
    /// Messages before this one have been sent.
    head: usize,
    /// Datagrams may be joined.
    pub(super) gso: bool,
}

impl SendQueue {
    pub(super) fn new(max_datagram_bytes: usize, gso: bool) -> Self {
        Self {
            // At least two datagrams of the largest size.
            arena: vec![0; ARENA_BYTES.max(2 * max_datagram_bytes)].into_boxed_slice(),
            max_datagram_bytes,
            written: 0,
            messages: Vec::with_capacity(SEND_BATCH),
            head: 0,
            gso,
        }
    }

    /// A buffer for the next datagram; `None` when what waits has to be sent first.
    pub(super) fn buffer(&mut self) -> Option<&mut [u8]> {
        if self.messages.len() - self.head >= SEND_BATCH {
            return None;
        }
        self.arena.get_mut(self.written..self.written + self.max_datagram_bytes)
    }

    /// Makes the first `len` bytes of the last [`buffer`](Self::buffer) a datagram.
    pub(super) fn commit(&mut self, len: usize, path: &Path, ecn: Ecn) {
        debug_assert!(len <= self.max_datagram_bytes, "{len} bytes in a smaller buffer");
        let len = len.min(self.max_datagram_bytes);
        let start = self.written;
        self.written += len;
        let last = self.messages[self.head..].last_mut();
        if let Some(last) = last.filter(|m| self.gso && m.takes(len, path, ecn)) {
            last.append(len);
            return;
        }
        self.messages.push(Message {
            start,
            bytes: len,
            segment_bytes: len,
            segments: 1,
            closed: false,
            local: path.local,
            remote: path.remote,
            ecn,
            name: Name::new(&path.remote),
            control: Control::EMPTY,
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head == self.messages.len()
    }

    /// Completes what waits for one system call.
    pub(super) fn close(&mut self, socket: &Socket) {
        for message in self.messages[self.head..].iter_mut().take(SEND_BATCH) {
            message.close(socket);
        }
    }

    /// What the system call sends.
    pub(super) fn outgoing(&self) -> impl Iterator<Item = Outgoing<'_>> {
        self.messages[self.head..].iter().map(|m| Outgoing {
            payload: &self.arena[m.start..m.start + m.bytes],
            name: &m.name,
            control: &m.control,
        })
    }

    /// The first `count` messages are gone, sent or given up; tells what they held.
    pub(super) fn remove(&mut self, count: usize) -> Amount {
        let mut amount = Amount::default();
        for message in &self.messages[self.head..self.head + count] {
            amount.datagrams += message.segments as u64;
            amount.bytes += message.bytes as u64;
            amount.joined += u64::from(message.segments > 1);
        }
        self.head += count;
        if self.is_empty() {
            // Begin at the front again, where the cache is warm.
            self.messages.clear();
            self.head = 0;
            self.written = 0;
        }
        amount
    }

    /// The next message holds more than one datagram.
    pub(super) fn next_is_joined(&self) -> bool {
        self.messages.get(self.head).is_some_and(|m| m.segments > 1)
    }

    /// Takes the next message apart, to be sent datagram by datagram.
    pub(super) fn split_next(&mut self) {
        if let Some(message) = self.messages.get(self.head) {
            let singles: Vec<_> = message.singles().collect();
            self.messages.splice(self.head..=self.head, singles);
        }
    }

    /// Joins no more, and takes apart all that is joined already.
    pub(super) fn stop_joining(&mut self) {
        self.gso = false;
        let waiting = self.messages.split_off(self.head);
        self.messages.extend(waiting.iter().flat_map(Message::singles));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::Link;

    const MAX: usize = 1500;

    fn path(port: u16) -> Path {
        Path {
            local: "127.0.0.1:1".parse().unwrap(),
            remote: SocketAddr::new("127.0.0.1".parse().unwrap(), port),
            link: Link::UNKNOWN,
        }
    }

    fn queue(gso: bool) -> SendQueue {
        SendQueue::new(MAX, gso)
    }

    fn put(queue: &mut SendQueue, len: usize, port: u16, ecn: Ecn) {
        queue.buffer().unwrap()[..len].fill(port as u8);
        queue.commit(len, &path(port), ecn);
    }

    /// (bytes, segments) of each message that waits.
    fn shape(queue: &SendQueue) -> Vec<(usize, usize)> {
        queue.messages[queue.head..].iter().map(|m| (m.bytes, m.segments)).collect()
    }

    #[test]
    fn full_sized_datagrams_to_one_peer_join_and_a_shorter_one_ends_the_run() {
        let mut q = queue(true);
        for len in [1200, 1200, 700, 700, 1200] {
            put(&mut q, len, 9, Ecn::Ect0);
        }
        // 700 ended the first; the next 700 began a second that 1200 does not fit.
        assert_eq!(shape(&q), [(3100, 3), (700, 1), (1200, 1)]);
        let starts: Vec<_> = q.messages.iter().map(|m| m.start).collect();
        assert_eq!(starts, [0, 3100, 3800], "nothing was moved");
    }

    #[test]
    fn another_peer_or_mark_begins_a_message() {
        let mut q = queue(true);
        put(&mut q, 1200, 9, Ecn::Ect0);
        put(&mut q, 1200, 8, Ecn::Ect0);
        put(&mut q, 1200, 8, Ecn::NotEct);
        put(&mut q, 1200, 8, Ecn::NotEct);
        assert_eq!(shape(&q), [(1200, 1), (1200, 1), (2400, 2)]);
        let payloads: Vec<_> = q.outgoing().map(|m| m.payload.to_vec()).collect();
        assert_eq!(payloads, [vec![9; 1200], vec![8; 1200], vec![8; 2400]]);
    }

    #[test]
    fn limits_of_the_kernel_end_a_message() {
        let mut q = queue(true);
        for _ in 0..MAX_SEGMENTS + 1 {
            put(&mut q, 100, 9, Ecn::Ect0);
        }
        assert_eq!(shape(&q), [(6400, 64), (100, 1)]);
        let mut q = queue(true);
        for _ in 0..44 {
            put(&mut q, 1500, 9, Ecn::Ect0);
        }
        // 43 * 1500 = 64,500: one more would pass 65,000.
        assert_eq!(shape(&q), [(64_500, 43), (1500, 1)]);
    }

    #[test]
    fn without_offload_every_datagram_is_a_message_until_the_batch_is_full() {
        let mut q = queue(false);
        for _ in 0..SEND_BATCH {
            put(&mut q, 1200, 9, Ecn::Ect0);
        }
        assert!(q.buffer().is_none());
        assert_eq!(shape(&q), vec![(1200, 1); SEND_BATCH]);
        assert_eq!(q.remove(1), Amount { datagrams: 1, bytes: 1200, joined: 0 });
        assert!(q.buffer().is_some(), "what was sent makes room");
        let rest = q.remove(SEND_BATCH - 1);
        assert_eq!(rest.datagrams, SEND_BATCH as u64 - 1);
        assert!(q.is_empty());
        assert_eq!((q.written, q.head), (0, 0), "begins at the front again");
    }

    #[test]
    fn a_full_arena_lends_no_buffer_and_a_sent_one_lends_all() {
        let mut q = queue(true);
        let mut count = 0;
        while q.buffer().is_some() {
            put(&mut q, MAX, 9, Ecn::Ect0);
            count += 1;
        }
        assert_eq!(count, ARENA_BYTES / MAX);
        let messages = shape(&q).len();
        let amount = q.remove(messages);
        assert_eq!(amount.datagrams, count as u64);
        assert_eq!(amount.joined, messages as u64);
        assert!(q.buffer().is_some());
    }

    #[test]
    fn a_buffer_that_is_not_committed_is_lent_again() {
        let mut q = queue(true);
        q.buffer().unwrap()[0] = 77;
        assert_eq!(q.buffer().unwrap()[0], 77);
        assert!(q.is_empty());
    }

    #[test]
    fn a_message_taken_apart_holds_the_same_datagrams() {
        let mut q = queue(true);
        put(&mut q, 1000, 9, Ecn::Ect0);
        q.messages[0].closed = true;
        for len in [1200, 1200, 700] {
            put(&mut q, len, 9, Ecn::Ce);
        }
        put(&mut q, 500, 8, Ecn::Ce);
        q.remove(1);
        assert!(q.next_is_joined());
        q.split_next();
        assert_eq!(shape(&q), [(1200, 1), (1200, 1), (700, 1), (500, 1)]);
        assert!(!q.next_is_joined());
        let starts: Vec<_> = q.messages[q.head..].iter().map(|m| m.start).collect();
        assert_eq!(starts, [1000, 2200, 3400, 4100]);
        assert!(q.messages[q.head..].iter().all(|m| m.ecn == Ecn::Ce));
        assert_eq!(q.remove(4).bytes, 3600);
    }

    #[test]
    fn once_joining_stops_nothing_waits_joined() {
        let mut q = queue(true);
        for port in [9, 9, 8, 8, 8] {
            put(&mut q, 1200, port, Ecn::Ect0);
        }
        q.remove(1);
        q.stop_joining();
        assert_eq!(shape(&q), vec![(1200, 1); 3]);
        put(&mut q, 1200, 8, Ecn::Ect0);
        assert_eq!(shape(&q).len(), 4);
        assert_eq!(q.remove(4).bytes, 4800);
    }
}
