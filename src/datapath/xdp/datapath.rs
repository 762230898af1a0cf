//! Bursts through one AF_XDP socket.

use super::device::XdpDevice;
use super::error::XdpError;
use super::layout::TX_PAYLOAD_OFFSET;
use super::lease::QueueLease;
use super::metadata::{Metadata, ask_for_checksum};
use super::neighbours::{Neighbours, Reach};
use super::netlink::Netlink;
use super::poll::PollSet;
use super::ports::{Ports, needs_scope, scoped};
use super::socket::Socket;
use super::stall::Stall;
use super::sys::{self, DeviceQuery, Failed, XdpStatistics};
use super::umem::TxFrame;
use crate::datapath::headers::{
    Checksums, DropReason, ETHERNET_BYTES, FlowKey, IPV4_BYTES, Parsed, Template, UDP_BYTES,
    VLAN_BYTES, VLAN_TAGS_MAX, parse,
};
use crate::datapath::udp::SideSocket;
use crate::datapath::{
    Backlog, Capabilities, Datapath, DatapathError, MAX_BURST, Path, QueueStats, RxMeta,
};
use crate::ecn::Ecn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// How many calls of `receive` pass between two looks at the kernel sockets while the worker
/// spins. A look costs a system call for each port; at a turn per microsecond what came through
/// the kernel waits 64 us at most. A worker that was woken looks at once.
pub(super) const PORTS_EVERY: u32 = 64;

/// One queue of a device: AF_XDP rings, and kernel sockets beside the ports.
pub struct XdpDatapath {
    capabilities: Capabilities,
    /// `None` after the socket was lost and could not be opened again.
    socket: Option<Socket>,
    /// The frame that `tx_buffer` gave last.
    tx_frame: Option<TxFrame>,
    /// Frames handed to the kernel to send, less those that came back.
    in_flight: u32,
    template: Option<(Path, Template)>,
    flow: FlowKey,
    neighbours: Neighbours,
    ports: Ports,
    poll: PollSet,
    until_ports: u32,
    stall: Stall,
    /// Descriptors of the receive ring that were taken in this burst: 0 between bursts.
    taken: u32,
    /// The device was polled to look ahead: no need to do it again to receive.
    polled: bool,
    gone: bool,
    /// A test loses the kicks.
    #[cfg(test)]
    withheld: bool,
    counters: QueueStats,
    /// Statistics of sockets that were replaced.
    retired: XdpStatistics,
    /// The longest packet that the device takes, with its Ethernet header.
    frame_max_bytes: usize,
    lease: QueueLease,
}

impl XdpDevice {
    /// Opens a queue: call it on the thread that will serve it, since its memory is touched here
    /// first. `ports` are the addresses that get a kernel socket beside; a port of 0 is chosen by
    /// the kernel, see [`XdpDatapath::local_addresses`]. Steering is a matter of
    /// [`XdpDevice::listen`].
    ///
    /// # Errors
    /// The queue does not exist or is taken, a port is in use, memory may not be locked, or a rung
    /// that is required is not reached.
    pub fn open_queue(
        self: &Arc<Self>,
        queue: u32,
        ports: &[SocketAddr],
    ) -> Result<XdpDatapath, XdpError> {
        // The queue is given back when the lease is dropped.
        let lease = QueueLease::take(self, queue)?;
        let socket = lease.bind()?;
        XdpDatapath::new(lease, socket, ports)
    }
}

impl XdpDatapath {
    fn new(lease: QueueLease, socket: Socket, ports: &[SocketAddr]) -> Result<Self, XdpError> {
        let device = lease.shared();
        let info = device.info();
        let netlink = Netlink::new().map_err(|failed| XdpError::from_call(&info.name, failed))?;
        let mtu = info.mtu as usize;
        let capabilities = Capabilities {
            mode: socket.mode,
            queue: lease.queue(),
            device: Some(info.name.clone()),
            // Of IPv4. IPv6 takes 20 bytes more: what does not fit is dropped and counted, which
            // is what a probe of the path's MTU finds out.
            max_datagram_bytes: mtu - IPV4_BYTES - UDP_BYTES,
            ecn: true,
            segmentation_offload: false,
        };
        let poll =
            PollSet::new(socket.fd).map_err(|failed| XdpError::from_call(&info.name, failed))?;
        let mut datapath = Self {
            capabilities,
            in_flight: 0,
            tx_frame: None,
            template: None,
            flow: FlowKey::new(sys::random_u64()),
            neighbours: Neighbours::new(netlink, info.ifindex, info.mac),
            ports: Ports::new(Arc::clone(&device), mtu - IPV4_BYTES - UDP_BYTES),
            poll,
            until_ports: 0,
            stall: Stall::default(),
            taken: 0,
            polled: false,
            gone: false,
            #[cfg(test)]
            withheld: false,
            counters: QueueStats::default(),
            retired: XdpStatistics::default(),
            frame_max_bytes: mtu + ETHERNET_BYTES + VLAN_TAGS_MAX * VLAN_BYTES,
            socket: Some(socket),
            lease,
        };
        tracing::info!(
            device = info.name,
            queue = datapath.capabilities.queue,
            mode = %datapath.capabilities.mode,
            huge_pages = datapath.socket.as_ref().is_some_and(|s| s.umem.huge_pages()),
            tx_checksum = datapath.tx_checksum(),
            frames_posted = datapath.socket.as_ref().map_or(0, |s| s.posted),
            "AF_XDP queue open"
        );
        for &address in ports {
            datapath.open_port(address)?;
        }
        Ok(datapath)
    }

    /// Opens a kernel socket beside a port, at run time. Returns the address with the port that
    /// the kernel chose if none was asked for. Steering is a matter of [`XdpDevice::listen`].
    ///
    /// The first queue of the device that opens a port waits up to a second for it if another
    /// process has it: a process that was killed may keep it for a moment.
    ///
    /// # Errors
    /// Another process has the port, or the address is not this machine's.
    pub fn open_port(&mut self, address: SocketAddr) -> Result<SocketAddr, XdpError> {
        let bound = self.ports.open(address)?;
        self.poll_ports()?;
        Ok(bound)
    }

    /// As [`open_port`](Self::open_port), on an address that this process has claimed: a port that
    /// is in use is not waited for.
    pub(crate) fn join_port(&mut self, address: SocketAddr) -> Result<(), XdpError> {
        self.ports.join(address)?;
        self.poll_ports()
    }

    fn poll_ports(&mut self) -> Result<(), XdpError> {
        for fd in self.ports.fds() {
            self.poll
                .add(fd)
                .map_err(|failed| XdpError::from_call(self.lease.device().name(), failed))?;
        }
        Ok(())
    }

    /// Closes the kernel socket beside a port.
    pub fn close_port(&mut self, address: SocketAddr) {
        self.ports.close(address);
        self.counters.drop_socket_full = self.ports.kernel_drops();
    }

    /// Puts kernel sockets beside that are open already.
    pub(crate) fn adopt_ports(&mut self, sockets: Vec<SideSocket>) -> Result<(), XdpError> {
        sockets.into_iter().for_each(|socket| self.ports.adopt(socket));
        self.poll_ports()
    }

    /// One more descriptor of the AF_XDP socket, for another process to enter into its program's map.
    pub(crate) fn share_socket(&self) -> io::Result<Option<OwnedFd>> {
        self.socket.as_ref().map(|socket| sys::duplicate(socket.fd)).transpose()
    }

    /// One more descriptor of each kernel socket, for another process, with its address.
    pub(crate) fn share_ports(&self) -> io::Result<Vec<(SocketAddr, OwnedFd)>> {
        self.ports.share()
    }

    /// True if nothing waits in the receive ring, and all that was sent has left.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.in_flight == 0 && self.backlog().waiting == 0
    }

    /// Gives the queue up. The kernel sockets stay open.
    pub(crate) fn into_ports(mut self) -> Vec<SideSocket> {
        self.ports.take()
    }

    /// The addresses of the kernel sockets, with the ports that the kernel chose.
    pub fn local_addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.ports.addresses()
    }

    /// Who computes the UDP checksums of what is sent: `nic`, `kernel` or `software`.
    #[must_use]
    pub fn tx_checksum(&self) -> &'static str {
        let metadata = self.socket.as_ref().and_then(|socket| socket.umem.metadata());
        metadata.map_or("software", Metadata::name)
    }

    /// The device that this is a queue of.
    #[must_use]
    pub fn device(&self) -> &XdpDevice {
        self.lease.device()
    }

    /// One burst from the RX ring. Returns how many frames were taken from it, and adds to
    /// `handed` those that were datagrams.
    fn receive_burst(
        &mut self,
        budget: usize,
        handed: &mut usize,
        sink: &mut dyn FnMut(&RxMeta, &mut [u8]),
    ) -> usize {
        let Some(socket) = &mut self.socket else { return 0 };
        let count = socket.rx.available(budget.min(MAX_BURST) as u32);
        for offset in 0..count {
            // Known to `recover`, if this one makes the sink panic.
            self.taken = offset + 1;
            let descriptor = socket.rx.peek(offset);
            let Some(frame) = socket.umem.received(descriptor) else {
                // Not a frame of ours: nothing can be read, and nothing given back.
                self.counters.drop_malformed += 1;
                continue;
            };
            let bytes = socket.umem.received_bytes(&frame);
            match parse(bytes, Checksums::Defer) {
                Ok(parsed) => {
                    *handed += 1;
                    self.counters.rx_packets += 1;
                    self.counters.rx_bytes += parsed.payload.len() as u64;
                    deliver(bytes, parsed, self.lease.device().info().ifindex, sink);
                }
                Err(reason) => DropReason::count(reason, &mut self.counters),
            }
            socket.repost(frame);
        }
        if count > 0 {
            self.taken = 0;
            socket.end_burst();
            socket.rx.release(count);
        }
        count as usize
    }

    /// Looks at the kernel sockets, if it is time.
    fn receive_ports(&mut self, budget: usize, sink: &mut dyn FnMut(&RxMeta, &mut [u8])) -> usize {
        if self.until_ports > 0 {
            self.until_ports -= 1;
            return 0;
        }
        if budget == 0 {
            return 0;
        }
        self.until_ports = PORTS_EVERY;
        self.ports.receive(budget, &mut self.counters, sink)
    }

    /// Puts the frames that the kernel has sent back among the free ones.
    fn collect(&mut self) -> u32 {
        let Some(socket) = &mut self.socket else { return 0 };
        let count = socket.completion.available(u32::MAX);
        for offset in 0..count {
            if !socket.umem.reclaim(socket.completion.peek(offset)) {
                self.counters.tx_errors += 1;
            }
        }
        if count > 0 {
            socket.completion.release(count);
            self.in_flight = self.in_flight.saturating_sub(count);
        }
        count
    }

    /// One kick at most, and only where the kernel wants one.
    fn kick(&mut self) -> Result<(), DatapathError> {
        #[cfg(test)]
        if self.withheld {
            return Ok(());
        }
        let Some(socket) = &mut self.socket else { return Ok(()) };
        let result = if self.in_flight > 0 && socket.tx.needs_wakeup() && socket.tx.waiting() > 0 {
            self.counters.tx_kicks += 1;
            sys::kick_transmit(socket.fd)
        } else if socket.fill.needs_wakeup() {
            self.counters.rx_calls += 1;
            sys::kick_receive(socket.fd)
        } else {
            return Ok(());
        };
        result.or_else(|failed| self.judge_kick(failed))
    }

    /// What a failed kick means.
    fn judge_kick(&mut self, failed: Failed) -> Result<(), DatapathError> {
        match failed.errno() {
            // The kernel took what it could (EAGAIN), has no memory or no room in a queue now, or
            // the device is down: what is in the ring stays there for the next kick.
            libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR | libc::ENETDOWN => Ok(()),
            // The socket is bound to nothing any more.
            libc::ENXIO | libc::ENODEV => Err(self.device_gone()),
            _ => Err(DatapathError::System { call: failed.call, error: failed.error }),
        }
    }

    fn device_gone(&mut self) -> DatapathError {
        self.gone = true;
        DatapathError::DeviceGone { device: self.lease.device().name().to_owned() }
    }

    /// Sends the frame from the TX ring.
    fn send_frame(&mut self, frame: TxFrame, len: usize, path: &Path, ecn: Ecn) {
        let Some(socket) = &mut self.socket else { return };
        if self.template.as_ref().is_none_or(|(cached, _)| cached != path) {
            self.template = Template::new(path, self.flow).map(|template| (*path, template));
        }
        let Some((_, template)) = &self.template else {
            self.counters.tx_errors += 1;
            return socket.umem.give_back(frame);
        };
        if template.headers_bytes() + len > self.frame_max_bytes {
            self.counters.tx_errors += 1;
            return socket.umem.give_back(frame);
        }
        let has_metadata = socket.umem.has_metadata();
        let bytes = socket.umem.frame_bytes(&frame);
        let payload = TX_PAYLOAD_OFFSET..TX_PAYLOAD_OFFSET + len;
        let packet = if has_metadata {
            let packet = template.write_unsummed(bytes, payload, ecn);
            ask_for_checksum(bytes, &packet, template.headers_bytes());
            packet
        } else {
            template.write(bytes, payload, ecn)
        };
        let descriptor = socket.umem.send(frame, packet.start, packet.len());
        // `tx_buffer` gives no frame without a free slot in the ring.
        let pushed = socket.tx.push(descriptor);
        debug_assert!(pushed, "tx_buffer has looked for a free slot");
        self.in_flight += 1;
        self.counters.tx_packets += 1;
        self.counters.tx_bytes += len as u64;
    }

    /// Sends the frame's payload through the kernel, and keeps the frame.
    fn send_through_kernel(&mut self, frame: TxFrame, len: usize, path: &Path, ecn: Ecn) {
        let Some(socket) = &mut self.socket else { return };
        let bytes = socket.umem.frame_bytes(&frame);
        let payload = &bytes[TX_PAYLOAD_OFFSET..TX_PAYLOAD_OFFSET + len];
        self.counters.tx_kicks += 1;
        if self.ports.send(path, ecn, payload) {
            self.counters.tx_via_kernel += 1;
            self.counters.tx_packets += 1;
            self.counters.tx_bytes += len as u64;
        } else {
            self.counters.tx_errors += 1;
        }
        socket.umem.give_back(frame);
    }

    /// Looks for completions that stopped, and replaces the socket if they did.
    fn watch_completions(&mut self, completed: u32) -> Result<(), DatapathError> {
        if self.in_flight == 0 || completed > 0 {
            self.stall.progress();
            return Ok(());
        }
        if !self.stall.stands_still(sys::coarse_now_ns()) {
            return Ok(());
        }
        let device = self.lease.device().name();
        let running = DeviceQuery::new(device)
            .and_then(|mut query| query.flags())
            .is_ok_and(|flags| flags & libc::IFF_RUNNING != 0);
        // Without a carrier a driver keeps what it cannot send: a new socket would change nothing.
        if running { self.rebuild() } else { Ok(()) }
    }

    /// A new socket in place of one that the kernel does not serve any more. What was on its way is
    /// lost, as packets are.
    fn rebuild(&mut self) -> Result<(), DatapathError> {
        tracing::warn!(
            device = self.lease.device().name(),
            queue = self.lease.queue(),
            in_flight = self.in_flight,
            "completions stopped, the AF_XDP socket is opened anew"
        );
        self.counters.tx_stalls += 1;
        if let Some(old) = self.socket.take() {
            self.retired = self.retired.plus(sys::xdp_statistics(old.fd).unwrap_or_default());
            self.poll.remove(old.fd);
        }
        self.tx_frame = None;
        self.in_flight = 0;
        self.stall.progress();
        let socket = self.lease.bind().map_err(|error| DatapathError::System {
            call: "opening the AF_XDP socket anew",
            error: std::io::Error::other(error.to_string()),
        })?;
        self.poll
            .add(socket.fd)
            .map_err(|failed| DatapathError::System { call: failed.call, error: failed.error })?;
        self.capabilities.mode = socket.mode;
        self.socket = Some(socket);
        Ok(())
    }
}

/// Hands one datagram on.
fn deliver(
    frame: &mut [u8],
    parsed: Parsed,
    ifindex: u32,
    sink: &mut dyn FnMut(&RxMeta, &mut [u8]),
) {
    let mut meta = RxMeta { path: parsed.path, ecn: parsed.ecn, checksum: parsed.checksum };
    if needs_scope(meta.path.remote.ip()) {
        meta.path.remote = scoped(meta.path.remote, ifindex);
        meta.path.local = scoped(meta.path.local, ifindex);
    }
    sink(&meta, &mut frame[parsed.payload]);
}

impl Datapath for XdpDatapath {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// What lies in the RX ring. What the kernel socket received waits in the kernel.
    fn preview(&mut self, budget: usize, look: &mut dyn FnMut(&[u8])) {
        if self.busy_polls() {
            self.poll_device();
            self.polled = true;
        }
        let Some(socket) = &mut self.socket else { return };
        for offset in 0..socket.rx.available(budget.min(MAX_BURST) as u32) {
            let descriptor = socket.rx.peek(offset);
            // A preview is only a hint, so its checksums need no check.
            if let Some(bytes) = socket.umem.look_at(descriptor)
                && let Ok(parsed) = parse(bytes, Checksums::Trusted)
            {
                look(&bytes[parsed.payload]);
            }
        }
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&RxMeta, &mut [u8])) -> usize {
        let mut handed = 0;
        let mut taken = 0;
        if self.busy_polls() && !std::mem::take(&mut self.polled) {
            self.poll_device();
        }
        while taken < budget {
            // What is dropped costs budget as well: a flood of it must not hold the turn up.
            let burst = self.receive_burst(budget - taken, &mut handed, sink);
            taken += burst;
            if burst < MAX_BURST {
                break;
            }
        }
        handed + self.receive_ports(budget - taken, sink)
    }

    /// The frames in the RX ring. Those that the NIC still holds, and those in the kernel sockets
    /// beside the ports, are not seen.
    fn backlog(&mut self) -> Backlog {
        let waiting = self.socket.as_mut().map_or(0, |socket| socket.rx.available(u32::MAX));
        Backlog { waiting: waiting as usize, age_ns: 0 }
    }

    /// The frame that the sink panicked with goes back like those before it.
    #[cold]
    fn recover(&mut self) {
        let taken = std::mem::take(&mut self.taken);
        let Some((socket, last)) = self.socket.as_mut().zip(taken.checked_sub(1)) else { return };
        let descriptor = socket.rx.peek(last);
        if let Some(frame) = socket.umem.received(descriptor) {
            socket.repost(frame);
        }
        socket.end_burst();
        socket.rx.release(taken);
    }

    fn tx_buffer(&mut self, _path: &Path) -> Option<&mut [u8]> {
        if self.tx_frame.is_none() {
            self.tx_frame = self.free_frame();
        }
        let (Some(frame), Some(socket)) = (&self.tx_frame, &mut self.socket) else {
            self.counters.tx_no_buffer += 1;
            return None;
        };
        let end = TX_PAYLOAD_OFFSET + self.capabilities.max_datagram_bytes;
        Some(&mut socket.umem.frame_bytes(frame)[TX_PAYLOAD_OFFSET..end])
    }

    fn tx_commit(&mut self, len: usize, path: &Path, ecn: Ecn) {
        let Some(frame) = self.tx_frame.take() else { return };
        let len = len.min(self.capabilities.max_datagram_bytes);
        if path.link.is_known() && !path.local.ip().is_unspecified() {
            return self.send_frame(frame, len, path, ecn);
        }
        let now_ns = sys::coarse_now_ns();
        match self.neighbours.reach(now_ns, path.local.ip(), path.remote.ip()) {
            Reach::Link(link, source) => {
                let local = SocketAddr::new(source, path.local.port());
                self.send_frame(frame, len, &Path { local, link, ..*path }, ecn);
            }
            Reach::Kernel => self.send_through_kernel(frame, len, path, ecn),
            Reach::NotNow => {
                self.counters.tx_unresolved += 1;
                if let Some(socket) = &mut self.socket {
                    socket.umem.give_back(frame);
                }
            }
        }
    }

    fn flush(&mut self) -> Result<(), DatapathError> {
        if self.gone {
            return Err(self.device_gone());
        }
        let Some(socket) = &mut self.socket else {
            let error = std::io::Error::from_raw_os_error(libc::ENOTCONN);
            return Err(DatapathError::System { call: "AF_XDP", error });
        };
        socket.tx.submit();
        self.kick()?;
        // After the kick: where the kernel sends within it, what was sent is back already, and the
        // next frame taken is one that the cache still holds.
        let completed = self.collect();
        self.watch_completions(completed)
    }

    fn prepare_sleep(&mut self) -> bool {
        // The kernel may set need_wakeup and look at the ring once more while we do the opposite:
        // with a fence in between one of both sees the other.
        fence(Ordering::SeqCst);
        // Errors show in the next flush.
        let _ = self.kick();
        self.until_ports = 0;
        let Some(socket) = &mut self.socket else { return true };
        if let Some(error) = sys::socket_error(socket.fd) {
            tracing::warn!(%error, queue = self.capabilities.queue, "AF_XDP socket error");
            self.gone |= error.raw_os_error() == Some(libc::ENETDOWN);
            return false;
        }
        let unsent = socket.tx.needs_wakeup() && socket.tx.waiting() > 0;
        socket.rx.available(1) == 0 && !unsent
    }

    fn poll_fds(&self) -> &[RawFd] {
        self.poll.fds()
    }

    fn stats(&self) -> QueueStats {
        let now = self
            .socket
            .as_ref()
            .and_then(|socket| sys::xdp_statistics(socket.fd).ok())
            .unwrap_or_default();
        let xdp = self.retired.plus(now);
        QueueStats {
            xdp_rx_dropped: xdp.rx_dropped,
            xdp_rx_invalid_descs: xdp.rx_invalid_descs,
            xdp_tx_invalid_descs: xdp.tx_invalid_descs,
            xdp_rx_ring_full: xdp.rx_ring_full,
            xdp_rx_fill_ring_empty: xdp.rx_fill_ring_empty,
            xdp_tx_ring_empty: xdp.tx_ring_empty,
            ..self.counters
        }
    }
}

impl XdpDatapath {
    /// A frame to write into, if there is one and a free slot in the ring for it.
    fn free_frame(&mut self) -> Option<TxFrame> {
        let socket = self.socket.as_mut()?;
        if !socket.tx.has_room(1) {
            return None;
        }
        if let Some(frame) = socket.umem.take() {
            return Some(frame);
        }
        self.collect();
        self.socket.as_mut()?.umem.take()
    }

    fn busy_polls(&self) -> bool {
        self.lease.device().config().busy_poll.is_some()
    }

    /// Lets the NIC be polled on this thread, if nothing waits in the ring.
    fn poll_device(&mut self) {
        let Some(socket) = &mut self.socket else { return };
        if socket.rx.available(1) > 0 {
            return;
        }
        self.counters.rx_calls += 1;
        // EAGAIN says that nothing came; anything worse shows in the next flush.
        let _ = sys::kick_receive(socket.fd);
    }
}

#[cfg(test)]
impl XdpDatapath {
    pub(super) fn withhold_kicks(&mut self, withheld: bool) {
        self.withheld = withheld;
    }

    pub(super) fn verify_slot(&self) -> Result<(), XdpError> {
        self.lease.verify_slot()
    }

    /// Enters the socket of another queue into the slot of this one.
    pub(super) fn enter_slot_of(&self, other: &Self) {
        let fd = other.socket.as_ref().map(|socket| socket.fd).unwrap_or_default();
        self.lease.enter_fd(fd).unwrap();
    }

    /// Fills the fill ring up with frames that nothing counts, as if the kernel had not yet said
    /// what it took. Returns how many.
    pub(super) fn crowd_fill_ring(&mut self) -> usize {
        let Some(socket) = &mut self.socket else { return 0 };
        let before = socket.umem.free_frames();
        while socket.fill.has_room(1) {
            let Some(frame) = socket.umem.take() else { break };
            socket.fill.push(socket.umem.post(frame));
        }
        socket.fill.submit();
        before - socket.umem.free_frames()
    }

    pub(super) fn empty_slot(&self) {
        self.lease.empty_slot();
    }

    /// Frames that are neither posted nor in flight, with the one that `tx_buffer` gave.
    pub(super) fn free_frames(&self) -> usize {
        let free = self.socket.as_ref().map_or(0, |socket| socket.umem.free_frames());
        free + usize::from(self.tx_frame.is_some())
    }
}
