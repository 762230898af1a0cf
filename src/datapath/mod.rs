//! Bursts of datagrams in and out; knows nothing of QUIC.
//!
//! A [`Datapath`] belongs to one worker. In each turn the worker may look at what has arrived
//! with [`preview`](Datapath::preview), and calls
//! [`receive`](Datapath::receive), which lends every datagram where it lies (a UMEM frame, a
//! socket buffer) so that it can be decrypted in place; then, once for each datagram to send,
//! [`tx_buffer`](Datapath::tx_buffer) and [`tx_commit`](Datapath::tx_commit), which write where
//! the packet will leave from; then [`flush`](Datapath::flush), which submits all of it with at
//! most one system call. Between turns a worker that wants to sleep asks
//! [`prepare_sleep`](Datapath::prepare_sleep) and waits on [`poll_fds`](Datapath::poll_fds).

use crate::counters::{Meaning, counters};
use crate::ecn::Ecn;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::RawFd;

pub(crate) mod fed;
pub mod headers;
pub mod memory;
pub mod sim;
pub mod udp;
pub mod xdp;

/// The largest datagram burst that one call of [`Datapath::receive`] hands out.
pub const MAX_BURST: usize = 64;

/// How datagrams reach the wire: the rungs of the ladder, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// AF_XDP, the NIC reads and writes the UMEM itself.
    NativeZerocopy,
    /// AF_XDP in the driver, the kernel copies between its buffers and the UMEM.
    NativeCopy,
    /// AF_XDP above the driver (`skb` mode).
    Generic,
    /// Kernel UDP sockets.
    Udp,
    /// A network in memory.
    Simulated,
}

impl Mode {
    /// The name that status lines and JSON use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NativeZerocopy => "native-zerocopy",
            Self::NativeCopy => "native-copy",
            Self::Generic => "generic",
            Self::Udp => "udp",
            Self::Simulated => "simulated",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What lies below IP on a path: the Ethernet header to answer with, learnt from a packet.
///
/// Opaque to everything outside the datapath; 24 bytes, copied with the path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Link {
    /// Destination and source MAC, then up to two VLAN tags and the EtherType, as on the wire.
    pub(crate) header: [u8; 22],
    /// How many bytes of `header` are set; 0 until the neighbour is known.
    pub(crate) len: u8,
}

impl Link {
    /// Nothing is known yet: the datapath has to resolve the neighbour.
    pub const UNKNOWN: Self = Self { header: [0; 22], len: 0 };

    /// True once a packet, or the neighbour table, has told the link addresses.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.len != 0
    }
}

/// Two endpoints of a flow, with what is needed to reach the remote one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// Link-layer addresses.
    pub link: Link,
}

/// What is known of a received datagram besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct RxMeta {
    /// Where it came from and where it was sent to.
    pub path: Path,
    /// The ECN codepoint that it arrived with.
    pub ecn: Ecn,
    /// What is known of its UDP checksum.
    pub checksum: Checksum,
}

/// The UDP checksum of a received datagram.
///
/// It guards nothing that the authentication of a QUIC packet does not, so it is summed where no
/// authentication follows, and nowhere else: [`RxMeta::is_intact`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Verified below the datapath by the kernel or the NIC, or sent over a wire that damages nothing.
    #[default]
    Verified,
    /// The two bytes of the header, not compared yet.
    Unverified([u8; 2]),
}

impl RxMeta {
    /// True if `payload`, which is all of the datagram, matches its checksum. A kernel at the other
    /// end of a virtual wire leaves an unfinished checksum for hardware; that counts as no checksum:
    /// see `headers::udp_checksum_holds`.
    #[must_use]
    pub fn is_intact(&self, payload: &[u8]) -> bool {
        match self.checksum {
            Checksum::Verified => true,
            Checksum::Unverified(field) => headers::udp_checksum_holds(&self.path, field, payload),
        }
    }
}

/// What a datapath can do, fixed at its start.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// The rung of the ladder that was reached.
    pub mode: Mode,
    /// The NIC queue that this datapath serves; 0 for kernel UDP.
    pub queue: u32,
    /// The name of the device, if it is bound to one.
    pub device: Option<String>,
    /// The largest UDP payload that can be sent or received, in bytes.
    pub max_datagram_bytes: usize,
    /// ECN codepoints are read and written.
    pub ecn: bool,
    /// Datagrams to one path are cheaper when committed one after another.
    pub segmentation_offload: bool,
}

counters! {
    /// Datagrams of one queue, and what became of them.
    pub struct QueueStats, counted by "the datapath" {
        /// Datagrams handed to the worker.
        rx_packets: Counter, Count;
        /// UDP payload bytes handed to the worker.
        rx_bytes: Counter, Bytes;
        /// Datagrams given to the kernel or NIC.
        tx_packets: Counter, Count;
        /// UDP payload bytes given to the kernel or NIC.
        tx_bytes: Counter, Bytes;
        /// System calls made to kick transmission or to send.
        tx_kicks: Counter, Count;
        /// Requests for a buffer to send from that found no free frame.
        tx_no_buffer: Counter, Count;
        /// Datagrams that the kernel refused to send.
        tx_errors: Counter, Count;
        /// Completions that did not arrive in time: the socket was rebuilt.
        tx_stalls: Counter, Count;
        /// Datagrams sent through the kernel because the neighbour was unknown.
        tx_via_kernel: Counter, Count;
        /// Datagrams not sent: too many new destinations were to be resolved in this second.
        tx_unresolved: Counter, Count;
        /// Datagrams received through the kernel socket beside the port.
        rx_via_kernel: Counter, Count;
        /// Receive system calls made.
        rx_calls: Counter, Count;
        /// Frames that were not Ethernet with IPv4 or IPv6 and UDP, or were cut short.
        drop_malformed: Counter, Count, Dropped;
        /// IP header checksum wrong.
        drop_ip_checksum: Counter, Count, Dropped;
        /// UDP checksum wrong, or zero under IPv6.
        drop_udp_checksum: Counter, Count, Dropped;
        /// UDP length below 8 or beyond the IP packet.
        drop_udp_length: Counter, Count, Dropped;
        /// Datagrams larger than a receive buffer.
        drop_truncated: Counter, Count, Dropped;
        /// Datagrams without a byte of payload.
        drop_empty: Counter, Count, Dropped;
        /// Datagrams that the kernel dropped because the socket's buffer was full.
        drop_socket_full: Counter, Count, Dropped;
        /// Datagrams dropped because the QUIC thread that they were for was behind (profile MaxThroughput).
        drop_relay_full: Counter, Count, Dropped;
        /// XDP_STATISTICS: dropped for other reasons.
        xdp_rx_dropped: Counter, Count, Lost;
        /// XDP_STATISTICS: invalid receive descriptors.
        xdp_rx_invalid_descs: Counter, Count;
        /// XDP_STATISTICS: invalid transmit descriptors.
        xdp_tx_invalid_descs: Counter, Count;
        /// XDP_STATISTICS: the receive ring was full.
        xdp_rx_ring_full: Counter, Count, Lost;
        /// XDP_STATISTICS: the fill ring was empty.
        xdp_rx_fill_ring_empty: Counter, Count;
        /// XDP_STATISTICS: the transmit ring was empty when kicked.
        xdp_tx_ring_empty: Counter, Count;
    }
}

impl QueueStats {
    /// Every datagram that arrived and was not handed on, whatever the reason.
    #[must_use]
    pub fn drops(&self) -> u64 {
        self.sum_of(Meaning::Dropped) + self.sum_of(Meaning::Lost)
    }
}

/// Why a datapath stopped working.
#[derive(Debug)]
pub enum DatapathError {
    /// A system call failed for good.
    System {
        /// The call.
        call: &'static str,
        /// What it said.
        error: std::io::Error,
    },
    /// The device went away.
    DeviceGone {
        /// Its name.
        device: String,
    },
}

impl fmt::Display for DatapathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System { call, error } => write!(f, "{call}: {error}"),
            Self::DeviceGone { device } => write!(f, "device {device} is gone"),
        }
    }
}

impl std::error::Error for DatapathError {}

/// What a datapath knows of datagrams that wait for the worker, after a call of
/// [`Datapath::receive`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Datagrams that have arrived and were not handed out, as far as the datapath sees them.
    pub waiting: usize,
    /// How long the oldest of those that were fetched last had waited then, in nanoseconds; 0 if the
    /// datapath does not know when they arrived.
    pub age_ns: u64,
}

/// Datagrams in and out, for one worker.
pub trait Datapath {
    /// What this datapath can do.
    fn capabilities(&self) -> &Capabilities;

    /// Shows the datagrams that the next [`receive`](Self::receive) is likely to hand out, as far
    /// as they wait in memory and at most `budget` of them, in their order. The worker may prefetch
    /// what they need before the first is handed out. They are not checked yet, and some may never
    /// be handed out. A datapath that has nothing to show shows nothing.
    fn preview(&mut self, _budget: usize, _look: &mut dyn FnMut(&[u8])) {}

    /// Hands at most `budget` datagrams to `sink`, each borrowed mutably for the call, so that it
    /// can be decrypted where it lies. Returns how many it handed out.
    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&RxMeta, &mut [u8])) -> usize;

    /// What waits after the last [`receive`](Self::receive). Nothing, for a datapath that does not
    /// know. Makes no system call.
    fn backlog(&mut self) -> Backlog {
        Backlog::default()
    }

    /// The sink panicked in [`receive`](Self::receive): what it was given counts as handed out, and
    /// the rest waits.
    fn recover(&mut self) {}

    /// A buffer of at least `max_datagram_bytes` for the payload of one datagram to `path`.
    /// `None` when nothing is free, which is counted. A buffer that is not committed is reused.
    fn tx_buffer(&mut self, path: &Path) -> Option<&mut [u8]>;

    /// Makes the first `len` bytes of the last [`tx_buffer`](Self::tx_buffer) a datagram to `path`.
    fn tx_commit(&mut self, len: usize, path: &Path, ecn: Ecn);

    /// Submits what was committed, collects completions, refills; at most one system call to
    /// kick, and only where the kernel says that it needs one.
    ///
    /// # Errors
    /// The socket or the device is lost; the datapath has to be opened anew.
    fn flush(&mut self) -> Result<(), DatapathError>;

    /// Arms wake-ups. False when datagrams are waiting already: do not sleep.
    fn prepare_sleep(&mut self) -> bool;

    /// What to wait on for reading, level triggered.
    fn poll_fds(&self) -> &[RawFd];

    /// The counters of this queue; may cost a system call.
    fn stats(&self) -> QueueStats;

    /// What only kernel sockets count; nothing for others.
    fn udp_stats(&self) -> udp::UdpStats {
        udp::UdpStats::default()
    }
}
