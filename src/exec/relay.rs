//! The way between the thread of a queue and a thread that runs QUIC, for
//! [`Profile::MaxThroughput`](super::Profile).
//!
//! ```text
//!   thread of the queue                         QUIC thread
//!   Forwarder, over AF_XDP or kernel UDP        Worker, over a RelayDatapath
//!         |  ----------- arrived, full ----------->  |
//!         |  <---------- arrived, empty -----------  |
//!         |  <---------- leaving, full ------------  |
//!         |  ----------- leaving, empty ---------->  |
//! ```
//!
//! A [`Link`] is these four rings. [`RELAY_SLOTS`] buffers go round in each direction: they are made once,
//! by the QUIC thread, so that they lie on its memory node. A datagram is copied once on its way in, from
//! the frame that it arrived in, and once on its way out, into the frame that it leaves from. Frames of a
//! queue stay with its thread.
//!
//! A ring cannot overflow, since no more buffers exist than it has places. What runs out is empty buffers:
//! of a QUIC thread that is behind, and then a datagram that arrives is dropped and counted
//! (`drop_relay_full`); of a wire that is behind, and then the QUIC thread waits, as it does for a full
//! ring of AF_XDP (`tx_no_buffer`).
//!
//! Neither side waits for the other. One that sleeps has said so first: see [`Wakeup`]. The QUIC thread is
//! woken through its inbox, the thread of the queue through the [`Hub`], once for each burst.

use super::handoff::Wakeup;
use crate::datapath::udp::UdpStats;
use crate::datapath::{
    Backlog, Capabilities, Checksum, Datapath, DatapathError, Link as LinkLayer, MAX_BURST, Path,
    QueueStats, RxMeta,
};
use crate::ecn::Ecn;
use crossbeam::queue::ArrayQueue;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

/// Datagrams that may be on their way between the two threads, in each direction: 16 bursts. A QUIC
/// thread that stands still for 500 us at two million datagrams in a second loses none.
pub(super) const RELAY_SLOTS: usize = 16 * MAX_BURST;

/// A buffer with a datagram, or none.
pub(super) struct Slot {
    pub(super) meta: RxMeta,
    len: usize,
    bytes: Box<[u8]>,
}

impl Slot {
    fn new(bytes: usize) -> Box<Self> {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let path = Path { local: nowhere, remote: nowhere, link: LinkLayer::UNKNOWN };
        let meta = RxMeta { path, ecn: Ecn::NotEct, checksum: Checksum::Verified };
        Box::new(Self { meta, len: 0, bytes: vec![0; bytes].into() })
    }

    /// The datagram.
    pub(super) fn payload(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Copies a datagram in. False if it is larger than the buffer.
    pub(super) fn fill(&mut self, meta: &RxMeta, datagram: &[u8]) -> bool {
        let Some(buffer) = self.bytes.get_mut(..datagram.len()) else { return false };
        buffer.copy_from_slice(datagram);
        self.meta = *meta;
        self.len = datagram.len();
        true
    }
}

/// Buffers of one direction.
struct Ring {
    full: ArrayQueue<Box<Slot>>,
    empty: ArrayQueue<Box<Slot>>,
}

impl Ring {
    fn new() -> Self {
        Self { full: ArrayQueue::new(RELAY_SLOTS), empty: ArrayQueue::new(RELAY_SLOTS) }
    }

    fn fill_up(&self, bytes: usize) {
        for _ in 0..RELAY_SLOTS {
            put(&self.empty, Slot::new(bytes));
        }
    }
}

/// Puts a buffer into a ring that has a place for each of them.
fn put(ring: &ArrayQueue<Box<Slot>>, slot: Box<Slot>) {
    let is_in = ring.push(slot).is_ok();
    debug_assert!(is_in, "there are more buffers than places");
}

/// Takes a buffer. A look before a pop: `pop` on an empty queue costs a fence.
fn take(ring: &ArrayQueue<Box<Slot>>) -> Option<Box<Slot>> {
    if ring.is_empty() { None } else { ring.pop() }
}

/// What one QUIC thread shares with the thread of its queue.
pub(super) struct Link {
    arrived: Ring,
    leaving: Ring,
    /// The QUIC thread has found no empty buffer, and wants to hear of one.
    is_starved: AtomicBool,
}

/// The side of the queue's thread.
impl Link {
    pub(super) fn new() -> Arc<Self> {
        let is_starved = AtomicBool::new(false);
        Arc::new(Self { arrived: Ring::new(), leaving: Ring::new(), is_starved })
    }

    /// An empty buffer for a datagram that has arrived.
    pub(super) fn vacant(&self) -> Option<Box<Slot>> {
        take(&self.arrived.empty)
    }

    /// Gives a buffer back that was not used.
    pub(super) fn unused(&self, slot: Box<Slot>) {
        put(&self.arrived.empty, slot);
    }

    /// Sends a datagram to the QUIC thread. Wake it once the burst is over.
    pub(super) fn deliver(&self, slot: Box<Slot>) {
        put(&self.arrived.full, slot);
    }

    /// The next datagram that the QUIC thread sends.
    pub(super) fn next_leaving(&self) -> Option<Box<Slot>> {
        take(&self.leaving.full)
    }

    /// Gives the buffer of a datagram back that has left.
    pub(super) fn has_left(&self, slot: Box<Slot>) {
        put(&self.leaving.empty, slot);
    }

    /// True if nothing is to be sent.
    pub(super) fn is_idle(&self) -> bool {
        self.leaving.full.is_empty()
    }

    /// Buffers were given back: true if the QUIC thread is to be woken for them. It says that it wants some
    /// before it announces its sleep and looks for the last time: one of the two sees the other.
    pub(super) fn is_awaited(&self) -> bool {
        fence(Ordering::SeqCst);
        self.is_starved()
    }

    fn is_starved(&self) -> bool {
        self.is_starved.load(Ordering::Relaxed)
    }
}

/// What all QUIC threads of a queue share with its thread.
pub(super) struct Hub {
    /// Wakes the thread of the queue.
    pub(super) wakeup: Wakeup,
    /// QUIC threads that have not ended, or not begun.
    lines: AtomicUsize,
    is_lost: AtomicBool,
    has_ended: AtomicBool,
    /// What the datapath counted, but for what each QUIC thread counts of its own.
    queue: [AtomicU64; QueueStats::LEN],
    udp: [AtomicU64; UdpStats::LEN],
}

impl Hub {
    /// For so many QUIC threads.
    pub(super) fn new(lines: usize) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            wakeup: Wakeup::new()?,
            lines: AtomicUsize::new(lines),
            is_lost: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            queue: std::array::from_fn(|_| AtomicU64::new(0)),
            udp: std::array::from_fn(|_| AtomicU64::new(0)),
        }))
    }

    /// A QUIC thread has ended: the last one ends the thread of the queue.
    pub(super) fn hang_up(&self) {
        self.lines.fetch_sub(1, Ordering::AcqRel);
        self.wakeup.wake();
    }

    /// True once all QUIC threads have ended.
    pub(super) fn is_abandoned(&self) -> bool {
        self.lines.load(Ordering::Acquire) == 0
    }

    /// Whether the datapath is lost.
    pub(super) fn set_lost(&self, is_lost: bool) {
        self.is_lost.store(is_lost, Ordering::Relaxed);
    }

    /// The thread of the queue has ended.
    pub(super) fn set_ended(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }

    /// Tells what the datapath counted. What it handed out and took is left out: QUIC threads count that.
    pub(super) fn publish(&self, queue: &QueueStats, udp: &UdpStats) {
        let told = QueueStats {
            rx_packets: 0,
            rx_bytes: 0,
            tx_packets: 0,
            tx_bytes: 0,
            tx_no_buffer: 0,
            ..*queue
        };
        let store = |(place, value): (&AtomicU64, u64)| place.store(value, Ordering::Relaxed);
        self.queue.iter().zip(told.values()).for_each(store);
        self.udp.iter().zip(udp.values()).for_each(store);
    }

    fn queue_stats(&self) -> QueueStats {
        QueueStats::from_values(std::array::from_fn(|at| self.queue[at].load(Ordering::Relaxed)))
    }

    fn udp_stats(&self) -> UdpStats {
        UdpStats::from_values(std::array::from_fn(|at| self.udp[at].load(Ordering::Relaxed)))
    }

    fn failure(&self) -> Option<DatapathError> {
        let what = if self.has_ended.load(Ordering::Relaxed) {
            "it has ended: see its error in the log"
        } else if self.is_lost.load(Ordering::Relaxed) {
            "its datapath is lost: see its error in the log"
        } else {
            return None;
        };
        Some(DatapathError::System {
            call: "the thread of the queue",
            error: io::Error::other(what),
        })
    }
}

/// A datapath whose NIC is the thread of a queue.
pub(super) struct RelayDatapath {
    capabilities: Capabilities,
    hub: Arc<Hub>,
    link: Arc<Link>,
    /// It tells what the datapath of the queue counted, for all of its QUIC threads.
    tells: bool,
    /// Taken out of the ring to look at.
    burst: VecDeque<Box<Slot>>,
    /// What the sink looks at.
    reading: Option<Box<Slot>>,
    /// What `tx_buffer` gave last.
    writing: Option<Box<Slot>>,
    has_committed: bool,
    stats: QueueStats,
}

impl RelayDatapath {
    /// Call it on the QUIC thread, which is the first to touch the buffers. `tells`: it tells what the
    /// datapath of the queue counted.
    pub(super) fn new(
        hub: Arc<Hub>,
        link: Arc<Link>,
        capabilities: Capabilities,
        tells: bool,
    ) -> Self {
        link.leaving.fill_up(capabilities.max_datagram_bytes);
        // From here on datagrams arrive.
        link.arrived.fill_up(capabilities.max_datagram_bytes);
        Self {
            capabilities,
            hub,
            link,
            tells,
            burst: VecDeque::with_capacity(MAX_BURST),
            reading: None,
            writing: None,
            has_committed: false,
            stats: QueueStats::default(),
        }
    }
}

impl Datapath for RelayDatapath {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn preview(&mut self, budget: usize, look: &mut dyn FnMut(&[u8])) {
        while self.burst.len() < budget.min(MAX_BURST)
            && let Some(slot) = take(&self.link.arrived.full)
        {
            self.burst.push_back(slot);
        }
        self.burst.iter().take(budget).for_each(|slot| look(slot.payload()));
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&RxMeta, &mut [u8])) -> usize {
        let mut handed = 0;
        while handed < budget {
            let next = self.burst.pop_front();
            self.reading = next.or_else(|| take(&self.link.arrived.full));
            let Some(slot) = &mut self.reading else { break };
            handed += 1;
            self.stats.rx_packets += 1;
            self.stats.rx_bytes += slot.len as u64;
            sink(&slot.meta, &mut slot.bytes[..slot.len]);
            self.recover();
        }
        handed
    }

    fn backlog(&mut self) -> Backlog {
        let waiting = self.burst.len() + self.link.arrived.full.len();
        Backlog { waiting, age_ns: 0 }
    }

    /// What the sink had goes back.
    fn recover(&mut self) {
        if let Some(slot) = self.reading.take() {
            put(&self.link.arrived.empty, slot);
        }
    }

    fn tx_buffer(&mut self, _path: &Path) -> Option<&mut [u8]> {
        if self.writing.is_none() {
            self.writing = take(&self.link.leaving.empty);
            let is_starved = self.writing.is_none();
            if self.link.is_starved() != is_starved {
                self.link.is_starved.store(is_starved, Ordering::Relaxed);
            }
        }
        match &mut self.writing {
            Some(slot) => Some(&mut slot.bytes),
            None => {
                self.stats.tx_no_buffer += 1;
                None
            }
        }
    }

    fn tx_commit(&mut self, len: usize, path: &Path, ecn: Ecn) {
        let Some(mut slot) = self.writing.take() else { return };
        slot.meta = RxMeta { path: *path, ecn, checksum: Checksum::Verified };
        slot.len = len.min(slot.bytes.len());
        self.stats.tx_packets += 1;
        self.stats.tx_bytes += slot.len as u64;
        put(&self.link.leaving.full, slot);
        self.has_committed = true;
    }

    fn flush(&mut self) -> Result<(), DatapathError> {
        if std::mem::take(&mut self.has_committed) {
            self.hub.wakeup.wake();
        }
        self.hub.failure().map_or(Ok(()), Err)
    }

    /// The worker has announced its sleep in its inbox, with a fence: the thread of the queue wakes it.
    fn prepare_sleep(&mut self) -> bool {
        let has_room = self.link.is_starved() && !self.link.leaving.empty.is_empty();
        self.burst.is_empty() && self.link.arrived.full.is_empty() && !has_room
    }

    /// None: see [`prepare_sleep`](Self::prepare_sleep).
    fn poll_fds(&self) -> &[RawFd] {
        &[]
    }

    fn stats(&self) -> QueueStats {
        let mut all = self.stats;
        if self.tells {
            all.add(&self.hub.queue_stats());
        }
        all
    }

    fn udp_stats(&self) -> UdpStats {
        if self.tells { self.hub.udp_stats() } else { UdpStats::default() }
    }
}
