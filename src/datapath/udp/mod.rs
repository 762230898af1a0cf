//! Kernel UDP sockets: what users without privileges get, and what AF_XDP is measured against.
//!
//! A datagram's way through the kernel costs one to four microseconds, most of it per *call
//! into the IP stack*, not per byte or per system call. So the two things that make kernel UDP
//! fast are offloads that pass through the stack once for many datagrams:
//!
//! - **GSO** (`UDP_SEGMENT`): one message of up to 64 datagrams is cut apart below IP;
//! - **GRO** (`UDP_GRO`): datagrams of one flow that arrive together are joined below IP, and
//!   one receive call brings all of them.
//!
//! sendmmsg(2) and recvmmsg(2) save system calls on top. Datagrams are written into,
//! and handed out from, arenas that are allocated once: `send` and `receive` in this module explain
//! how, and `syscall` holds every system call. Each socket also
//!
//! - tells the local address of each datagram (`IP_PKTINFO`), and answers from it, so that one
//!   socket on the wildcard address serves a machine with many addresses;
//! - reads and writes the ECN codepoint of each datagram;
//! - sets DF and never fragments (`IP_PMTUDISC_PROBE`), so that MTU probes mean something.
//!
//! [`UdpDatapath`] is the datapath, with a socket for each address that it serves.
//! `SideSocket` is one socket without the machinery, for the port beside AF_XDP.
#![deny(unsafe_code)]

mod abi;
mod error;
mod receive;
mod send;
mod side;
mod socket;
mod syscall;

pub use error::{SendError, UdpError, UdpErrorKind};
pub(crate) use side::SideSocket;
pub(crate) use socket::source_towards;

use super::{Backlog, Capabilities, Datapath, DatapathError, Mode, Path, QueueStats, RxMeta};
use crate::counters::counters;
use crate::ecn::Ecn;
use receive::Receiver;
use send::SendQueue;
use socket::{DEFAULT_BUFFER_BYTES, Options, Socket};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};

/// The payload that fits any Ethernet frame.
const DEFAULT_MAX_DATAGRAM_BYTES: usize = 1_500;
/// The largest payload of a UDP datagram over IPv4: 65,535 less 20 and 8.
const LARGEST_DATAGRAM_BYTES: usize = 65_507;

/// How many calls one flush of a socket may make. One suffices unless the kernel refuses a
/// message: each refusal costs two calls, and what is left waits for the next flush.
const SEND_CALLS_PER_FLUSH: usize = 16;

/// What to open.
#[derive(Clone, Debug)]
pub struct UdpConfig {
    /// The address to bind; port 0 lets the kernel choose one.
    pub local: SocketAddr,
    /// Share the port with other sockets that also set this: one per worker.
    pub reuse_port: bool,
    /// The largest UDP payload to send or to receive. Larger ones are dropped and counted.
    pub max_datagram_bytes: usize,
    /// Send many datagrams as one message, where the kernel can.
    pub gso: bool,
    /// Receive many datagrams as one message, where the kernel can.
    pub gro: bool,
    /// The kernel's receive buffer. Above `net.core.rmem_max` only with CAP_NET_ADMIN.
    pub rcvbuf_bytes: usize,
    /// The kernel's send buffer. Above `net.core.wmem_max` only with CAP_NET_ADMIN.
    pub sndbuf_bytes: usize,
    /// How long a receive call may poll the NIC for (`SO_BUSY_POLL`).
    pub busy_poll_us: Option<u32>,
    /// Of the sockets that share the port, this one gets what the kernel receives on that CPU
    /// (`SO_INCOMING_CPU`, Linux 6.2); what it receives on a CPU that none of them names is spread by a
    /// hash of the flow. Linux 4.6 to 6.1 take the option and spread everything. With a NIC of several
    /// queues, whose interrupts go to one CPU each, and without RPS, the worker that is pinned there gets
    /// what the NIC's own hash put there.
    pub incoming_cpu: Option<u32>,
    /// Send and receive through this device only.
    pub device: Option<String>,
}

impl UdpConfig {
    /// Offloads on, default buffers, the port not shared.
    #[must_use]
    pub const fn new(local: SocketAddr) -> Self {
        Self {
            local,
            reuse_port: false,
            max_datagram_bytes: DEFAULT_MAX_DATAGRAM_BYTES,
            gso: true,
            gro: true,
            rcvbuf_bytes: DEFAULT_BUFFER_BYTES,
            sndbuf_bytes: DEFAULT_BUFFER_BYTES,
            busy_poll_us: None,
            incoming_cpu: None,
            device: None,
        }
    }

    pub(crate) fn check(&self) -> Result<(), UdpError> {
        if self.max_datagram_bytes == 0 || self.max_datagram_bytes > LARGEST_DATAGRAM_BYTES {
            let why = "a UDP datagram carries 1 to 65,507 bytes";
            return Err(UdpError::settings("max_datagram_bytes", self.local, why));
        }
        Ok(())
    }

    fn options(&self) -> Options<'_> {
        Options {
            local: self.local,
            device: self.device.as_deref(),
            reuse_port: self.reuse_port,
            // Without it, the ICMP errors of an unconnected socket are not reported at all. An
            // attacker who forges one could otherwise disturb every peer of the socket.
            error_queue: false,
            gso: self.gso,
            gro: self.gro,
            rcvbuf_bytes: self.rcvbuf_bytes,
            sndbuf_bytes: self.sndbuf_bytes,
            busy_poll_us: self.busy_poll_us,
            incoming_cpu: self.incoming_cpu,
        }
    }
}

counters! {
    /// What only kernel sockets count of sending; the rest is in `QueueStats`.
    pub struct UdpStats, counted by "the sockets of the worker" {
        /// Sends that found the socket's buffer full (EAGAIN): the rest waited.
        send_would_block: Counter, Count;
        /// Sends that found the device's queue or memory full (ENOBUFS, ENOMEM): the rest waited.
        send_no_memory: Counter, Count;
        /// Datagrams larger than the MTU of their device (EMSGSIZE). MTU probes end so.
        send_too_big: Counter, Count;
        /// Datagrams refused for any other reason: no route, a firewall, no socket of the family.
        send_refused: Counter, Count;
        /// Messages sent that held more than one datagram.
        send_joined: Counter, Count;
        /// Joined messages that the kernel refused, and that were sent datagram by datagram.
        send_split: Counter, Count;
        /// Sockets that gave up joining, since the kernel or the device cannot do it.
        offload_lost: Counter, Count;
    }
}

/// A socket with what is on its way in and out.
struct ServedSocket {
    socket: Socket,
    sending: SendQueue,
    receiving: Receiver,
    /// A joined message met EINVAL: if its first datagram alone is sent, joining was the fault.
    joining_suspected: bool,
}

impl ServedSocket {
    fn open(config: &UdpConfig) -> Result<Self, UdpError> {
        config.check()?;
        Ok(Self::over(Socket::open(&config.options())?, config.max_datagram_bytes))
    }

    fn over(socket: Socket, max_datagram_bytes: usize) -> Self {
        Self {
            sending: SendQueue::new(max_datagram_bytes, socket.gso),
            receiving: Receiver::new(max_datagram_bytes, socket.gro),
            socket,
            joining_suspected: false,
        }
    }

    /// How well this socket suits a datagram between these addresses; `None` if not at all.
    fn suits(&self, path: &Path) -> Option<u8> {
        let own = self.socket.local;
        if own.is_ipv4() != path.remote.is_ipv4() {
            return None;
        }
        let port = u8::from(own.port() == path.local.port());
        let address =
            if own.ip() == path.local.ip() { 2 } else { u8::from(own.ip().is_unspecified()) };
        Some(3 * port + address)
    }
}

/// Bursts in a row that use up their budget, before the kernel is asked for times of arrival.
const STANDING_BURSTS: u32 = 4;
/// Bursts that do not, before it is asked no more.
const QUIET_BURSTS: u32 = 4096;

/// Whether datagrams queue up in the kernel, so that it is worth knowing how long.
///
/// A time of arrival (`SO_TIMESTAMPNS`) costs 60 to 170 ns for each message, beside 730 ns to receive
/// it (loopback, Linux 6.18, 2 vCPUs): too much where nothing waits.
#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    told: bool,
    /// Bursts in a row that speak for the opposite.
    against: u32,
}

impl Standing {
    /// A burst was read, of so much of its budget. What to ask the kernel for from now on, if that changes.
    fn note(&mut self, used: usize, budget: usize) -> Option<bool> {
        if used == 0 {
            // The kernel holds nothing, and a time of arrival costs nothing. A worker that spins finds that
            // thousands of times in a millisecond between two queues: it must not turn the option off and
            // on each time.
            self.against = if self.told { self.against } else { 0 };
            return None;
        }
        let is_full = used >= budget;
        let most = if self.told { QUIET_BURSTS } else { STANDING_BURSTS };
        self.against = if is_full == self.told { 0 } else { self.against + 1 };
        if self.against < most {
            return None;
        }
        *self = Self { told: !self.told, against: 0 };
        Some(self.told)
    }
}

/// A datapath on kernel UDP sockets.
///
/// Drive it as [`Datapath`] says. It belongs to one thread; give each worker its own, bound to
/// the same address with [`reuse_port`](UdpConfig::reuse_port).
pub struct UdpDatapath {
    capabilities: Capabilities,
    /// Never empty.
    sockets: Vec<ServedSocket>,
    fds: Vec<RawFd>,
    /// The socket whose buffer `tx_buffer` gave last; `None` if no socket suits the path.
    chosen: Option<usize>,
    /// The socket that the next receive call begins with, so that no socket starves.
    first: usize,
    standing: Standing,
    stats: QueueStats,
    udp_stats: UdpStats,
    /// Found while receiving; told by the next flush.
    lost: Option<DatapathError>,
}

// A worker opens its datapath on one thread and may run on another.
const _: fn() = || {
    fn goes_to_another_thread<T: Send>() {}
    goes_to_another_thread::<UdpDatapath>();
    goes_to_another_thread::<SideSocket>();
};

impl UdpDatapath {
    /// Opens and binds a socket.
    ///
    /// # Errors
    /// Names the call, the address, the device and the remedy.
    pub fn bind(config: &UdpConfig) -> Result<Self, UdpError> {
        let served = ServedSocket::open(config)?;
        Ok(Self::over(vec![served], config.device.clone(), config.max_datagram_bytes))
    }

    /// Serves sockets that another process has bound, and shares with this one.
    ///
    /// # Errors
    /// As [`bind`](Self::bind); also if there is none.
    pub(crate) fn adopt(fds: Vec<OwnedFd>, config: &UdpConfig) -> Result<Self, UdpError> {
        config.check()?;
        let fail = |e| UdpError::new("getsockname", config.local, config.device.as_deref(), e);
        let adopt = |fd| {
            let socket = Socket::adopt(fd, config.gso, config.gro).map_err(fail)?;
            Ok(ServedSocket::over(socket, config.max_datagram_bytes))
        };
        let sockets = fds.into_iter().map(adopt).collect::<Result<Vec<_>, UdpError>>()?;
        if sockets.is_empty() {
            return Err(fail(io::ErrorKind::NotFound.into()));
        }
        Ok(Self::over(sockets, config.device.clone(), config.max_datagram_bytes))
    }

    /// The kernel sockets beside an AF_XDP port, to serve without a queue. `None` if there is none.
    pub(crate) fn of_side_sockets(
        sockets: Vec<SideSocket>,
        device: Option<String>,
        max_datagram_bytes: usize,
    ) -> Option<Self> {
        let over =
            |socket: SideSocket| ServedSocket::over(socket.into_socket(), max_datagram_bytes);
        let sockets: Vec<_> = sockets.into_iter().map(over).collect();
        (!sockets.is_empty()).then(|| Self::over(sockets, device, max_datagram_bytes))
    }

    /// The sockets, to stand beside an AF_XDP port again.
    pub(crate) fn into_side_sockets(self) -> Vec<SideSocket> {
        self.sockets.into_iter().map(|served| SideSocket::from_socket(served.socket)).collect()
    }

    /// One more descriptor of each socket, for another process, with its address.
    ///
    /// # Errors
    /// The limit on open files.
    pub(crate) fn share(&self) -> io::Result<Vec<(SocketAddr, OwnedFd)>> {
        let share = |served: &ServedSocket| {
            Ok((served.socket.local, served.socket.fd().try_clone_to_owned()?))
        };
        self.sockets.iter().map(share).collect()
    }

    /// Hands out what was fetched before, and fetches nothing.
    pub(crate) fn receive_held(
        &mut self,
        budget: usize,
        sink: &mut dyn FnMut(&RxMeta, &mut [u8]),
    ) -> usize {
        let mut handed = 0;
        for served in &mut self.sockets {
            let left = budget - handed;
            handed += served.receiving.deliver(&served.socket, left, &mut self.stats, sink).handed;
        }
        handed
    }

    fn over(sockets: Vec<ServedSocket>, device: Option<String>, max_datagram_bytes: usize) -> Self {
        let capabilities = Capabilities {
            mode: Mode::Udp,
            queue: 0,
            device,
            max_datagram_bytes,
            ecn: sockets.iter().all(|served| served.socket.ecn),
            segmentation_offload: sockets.iter().any(|served| served.socket.gso),
        };
        Self {
            capabilities,
            fds: sockets.iter().map(|served| served.socket.raw_fd()).collect(),
            sockets,
            chosen: None,
            first: 0,
            standing: Standing::default(),
            stats: QueueStats::default(),
            udp_stats: UdpStats::default(),
            lost: None,
        }
    }

    /// Serves one more address, for example IPv6 beside IPv4.
    ///
    /// # Errors
    /// As [`bind`](Self::bind); also when `max_datagram_bytes` differs from the first.
    pub fn add_socket(&mut self, config: &UdpConfig) -> Result<SocketAddr, UdpError> {
        if config.max_datagram_bytes != self.capabilities.max_datagram_bytes {
            let why = "all sockets of a datapath have one size";
            return Err(UdpError::settings("max_datagram_bytes", config.local, why));
        }
        let served = ServedSocket::open(config)?;
        self.capabilities.ecn &= served.socket.ecn;
        self.capabilities.segmentation_offload |= served.socket.gso;
        served.socket.tell_arrivals(self.standing.told);
        let local = served.socket.local;
        self.fds.push(served.socket.raw_fd());
        self.sockets.push(served);
        Ok(local)
    }

    /// The address of the first socket, with the port that the kernel chose.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.sockets[0].socket.local
    }

    /// The addresses of all sockets, in the order in which they were added.
    pub fn local_addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.sockets.iter().map(|served| served.socket.local)
    }

    /// The socket for a path: its address and port if there is one, else the wildcard, else any
    /// of the same family.
    fn socket_for(&self, path: &Path) -> Option<usize> {
        let ranked = self.sockets.iter().enumerate();
        let ranked = ranked.filter_map(|(index, served)| Some((served.suits(path)?, index)));
        ranked.max_by_key(|(rank, index)| (*rank, usize::MAX - index)).map(|(_, index)| index)
    }

    /// One receive call on a socket, and what it brought.
    fn receive_from(
        &mut self,
        index: usize,
        budget: usize,
        sink: &mut dyn FnMut(&RxMeta, &mut [u8]),
    ) -> receive::Delivered {
        let served = &mut self.sockets[index];
        let mut done = served.receiving.deliver(&served.socket, budget, &mut self.stats, sink);
        let drained = served.receiving.take_drained();
        while done.used < budget && !drained {
            self.stats.rx_calls += 1;
            let more = match served.receiving.fetch(&served.socket, budget - done.used) {
                Ok(more) => more,
                Err(error) => {
                    self.lost = Some(DatapathError::System { call: "recvmmsg", error });
                    return done;
                }
            };
            let left = budget - done.used;
            let next = served.receiving.deliver(&served.socket, left, &mut self.stats, sink);
            done.handed += next.handed;
            done.used += next.used;
            if !more {
                break;
            }
        }
        done
    }

    fn flush_port(&mut self, index: usize) -> Result<(), DatapathError> {
        for _ in 0..SEND_CALLS_PER_FLUSH {
            let served = &mut self.sockets[index];
            if served.sending.is_empty() {
                return Ok(());
            }
            served.sending.close(&served.socket);
            self.stats.tx_kicks += 1;
            match syscall::send_many(served.socket.fd(), served.sending.outgoing()) {
                Ok(count) => self.sent(index, count),
                Err(error) => {
                    if !self.send_failed(index, error)? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn sent(&mut self, index: usize, count: usize) {
        let served = &mut self.sockets[index];
        let amount = served.sending.remove(count);
        self.stats.tx_packets += amount.datagrams;
        self.stats.tx_bytes += amount.bytes;
        self.udp_stats.send_joined += amount.joined;
        if served.joining_suspected {
            served.joining_suspected = false;
            self.stop_joining(index);
        }
    }

    /// The kernel refused the next message of a socket. True when it is worth calling again.
    fn send_failed(&mut self, index: usize, error: io::Error) -> Result<bool, DatapathError> {
        let served = &mut self.sockets[index];
        let joined = served.sending.next_is_joined();
        let errno = error.raw_os_error();
        match SendError::of(error) {
            SendError::Full => {
                let blocked = errno == Some(libc::EAGAIN);
                self.udp_stats.send_would_block += u64::from(blocked);
                self.udp_stats.send_no_memory += u64::from(!blocked);
                return Ok(false);
            }
            SendError::Lost(error) => {
                return Err(DatapathError::System { call: "sendmmsg", error });
            }
            SendError::TooBig | SendError::Refused(_) if joined => {
                self.udp_stats.send_split += 1;
                // EIO: the device cannot, and the kernel does not do it in its place (before
                // 6.11). EINVAL: perhaps the same, perhaps a segment above the MTU (before
                // 6.14): datagram by datagram we shall see.
                served.joining_suspected = errno == Some(libc::EINVAL);
                served.sending.split_next();
                if errno == Some(libc::EIO) {
                    self.stop_joining(index);
                }
            }
            SendError::TooBig => self.give_up_next(index, |stats| &mut stats.send_too_big),
            SendError::Refused(error) => {
                tracing::debug!(%error, "a datagram was refused");
                self.give_up_next(index, |stats| &mut stats.send_refused);
            }
        }
        Ok(true)
    }

    fn give_up_next(&mut self, index: usize, counter: fn(&mut UdpStats) -> &mut u64) {
        let served = &mut self.sockets[index];
        served.joining_suspected = false;
        let amount = served.sending.remove(1);
        self.stats.tx_errors += amount.datagrams;
        *counter(&mut self.udp_stats) += amount.datagrams;
    }

    fn stop_joining(&mut self, index: usize) {
        let served = &mut self.sockets[index];
        if served.sending.gso {
            served.sending.stop_joining();
            self.udp_stats.offload_lost += 1;
            let local = served.socket.local;
            tracing::warn!(%local, "the kernel refuses UDP_SEGMENT here: sending one by one");
        }
    }
}

impl Datapath for UdpDatapath {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Fetches from every socket at which nothing waits, so that there is something to see.
    fn preview(&mut self, budget: usize, look: &mut dyn FnMut(&[u8])) {
        let count = self.sockets.len();
        for turn in 0..count {
            let served = &mut self.sockets[(self.first + turn) % count];
            self.stats.rx_calls += u64::from(served.receiving.is_empty());
            if let Err(error) = served.receiving.fetch_ahead(&served.socket, budget) {
                self.lost = Some(DatapathError::System { call: "recvmmsg", error });
            }
            served.receiving.show(budget, look);
        }
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&RxMeta, &mut [u8])) -> usize {
        let count = self.sockets.len();
        let (mut handed, mut used) = (0, 0);
        for turn in 0..count {
            if used >= budget {
                break;
            }
            let done = self.receive_from((self.first + turn) % count, budget - used, sink);
            handed += done.handed;
            used += done.used;
        }
        self.first = (self.first + 1) % count;
        if let Some(told) = self.standing.note(used, budget) {
            self.sockets.iter().for_each(|served| served.socket.tell_arrivals(told));
        }
        handed
    }

    fn backlog(&mut self) -> Backlog {
        let mut all = Backlog::default();
        for served in &mut self.sockets {
            let one = served.receiving.backlog();
            all.waiting += one.waiting;
            all.age_ns = all.age_ns.max(one.age_ns);
        }
        all
    }

    fn tx_buffer(&mut self, path: &Path) -> Option<&mut [u8]> {
        self.chosen = self.socket_for(path);
        // A path that no socket can serve gets a buffer too: the commit counts it.
        let index = self.chosen.unwrap_or(0);
        let buffer = self.sockets[index].sending.buffer();
        if buffer.is_none() {
            self.stats.tx_no_buffer += 1;
        }
        buffer
    }

    fn tx_commit(&mut self, len: usize, path: &Path, ecn: Ecn) {
        match self.chosen {
            // A datagram without a byte carries nothing, and would be dropped on arrival.
            Some(index) if len > 0 => self.sockets[index].sending.commit(len, path, ecn),
            Some(_) => {}
            None => {
                self.stats.tx_errors += 1;
                self.udp_stats.send_refused += 1;
            }
        }
    }

    fn flush(&mut self) -> Result<(), DatapathError> {
        for index in 0..self.sockets.len() {
            self.flush_port(index)?;
        }
        self.lost.take().map_or(Ok(()), Err)
    }

    fn prepare_sleep(&mut self) -> bool {
        // What the kernel holds wakes the poll; what we hold does not, nor does room to send.
        self.sockets.iter().all(|served| served.receiving.is_empty() && served.sending.is_empty())
    }

    fn poll_fds(&self) -> &[RawFd] {
        &self.fds
    }

    fn stats(&self) -> QueueStats {
        let drops = self.sockets.iter().map(|served| served.socket.kernel_drops()).sum();
        QueueStats { drop_socket_full: drops, ..self.stats }
    }

    fn udp_stats(&self) -> UdpStats {
        self.udp_stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each burst changes, and what it was after them.
    fn changes(standing: &mut Standing, bursts: impl IntoIterator<Item = usize>) -> (usize, bool) {
        let changes = bursts.into_iter().filter_map(|used| standing.note(used, 64)).count();
        (changes, standing.told)
    }

    #[test]
    fn times_of_arrival_are_asked_for_while_a_queue_stands_and_empty_polls_change_nothing() {
        let mut standing = Standing::default();
        // Each burst is all there was.
        assert_eq!(changes(&mut standing, [64, 0].repeat(1_000)), (0, false));
        assert_eq!(changes(&mut standing, [64; 10]), (1, true));
        // A worker spins, and nothing comes.
        assert_eq!(changes(&mut standing, std::iter::repeat_n(0, 100_000)), (0, true));
        assert_eq!(changes(&mut standing, [64; 10]), (0, true));
        assert_eq!(changes(&mut standing, [1; QUIET_BURSTS as usize]), (1, false));
    }
}
