//! The kernel sockets beside the ports of a queue.
//!
//! They reserve the ports, receive what XDP passed (fragments, IP options, packets of queues
//! without a socket), send to peers that AF_XDP cannot reach, and hear ICMP errors. All of it is
//! rare, so they are looked at now and then while the worker spins, and when it was woken.
//!
//! A client's port is that of one queue. A connection that another queue's worker has taken over sends
//! through the same socket, by a descriptor of its own; what comes there the first queue receives.

use super::device::XdpDevice;
use super::error::XdpError;
use crate::datapath::udp::SideSocket;
use crate::datapath::{Path, QueueStats, RxMeta};
use crate::ecn::Ecn;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

/// The ports of one queue.
pub(super) struct Ports {
    device: Arc<XdpDevice>,
    sockets: Vec<SideSocket>,
    /// Sockets of other queues, to send through.
    borrowed: Vec<SideSocket>,
    buffer: Vec<u8>,
    /// Datagrams that did not fit into the buffers of sockets that are closed.
    closed_drops: u64,
}

impl Ports {
    /// Fragments may add up to 65,507 bytes. What is longer than `max_datagram_bytes`, which is what the
    /// device takes in one piece, is cut, counted and dropped. A worker that keeps datagrams would
    /// otherwise keep more of a client that sends fragments than of any other.
    pub(super) fn new(device: Arc<XdpDevice>, max_datagram_bytes: usize) -> Self {
        let buffer = vec![0; max_datagram_bytes];
        Self { device, sockets: Vec::new(), borrowed: Vec::new(), buffer, closed_drops: 0 }
    }

    /// Opens a kernel socket on `address`. Returns the address that it got.
    ///
    /// The first queue of the device claims the port, and waits for it if another process has it;
    /// the others join. Queues share a port (SO_REUSEPORT), and so could another process of the same
    /// user: it would take a part of the packets without an error.
    pub(super) fn open(&mut self, address: SocketAddr) -> Result<SocketAddr, XdpError> {
        let device = Arc::clone(&self.device);
        // A queue that opens the same port at the same time has to know how this call ended. A port
        // that the kernel chooses is free, so there is nothing to wait for.
        let claiming = (address.port() != 0).then(|| device.claiming());
        if claiming.is_some() && device.holds_port(address) {
            return self.join(address);
        }
        let socket = match claiming {
            Some(_) => SideSocket::claim(address, None),
            // For this socket alone: among shared ports, the kernel may choose one that another
            // queue has.
            None => SideSocket::bind(address, None, false),
        };
        let socket = socket.map_err(XdpError::Port)?;
        let bound = socket.local_addr();
        device.hold_port(bound);
        match socket.share() {
            Ok(lent) => device.lend_port(bound, lent),
            Err(error) => {
                tracing::debug!(%bound, %error, "other queues cannot send from this port")
            }
        }
        self.sockets.push(socket);
        Ok(bound)
    }

    /// Opens a kernel socket on `address` beside those that this process has there. Never waits.
    pub(super) fn join(&mut self, address: SocketAddr) -> Result<SocketAddr, XdpError> {
        self.device.hold_port(address);
        let socket = SideSocket::bind(address, None, true).map_err(|error| {
            self.device.release_port(address);
            XdpError::Port(error)
        })?;
        self.sockets.push(socket);
        Ok(address)
    }

    /// Takes a kernel socket that another process has bound.
    pub(super) fn adopt(&mut self, socket: SideSocket) {
        self.device.hold_port(socket.local_addr());
        self.sockets.push(socket);
    }

    /// One more descriptor of each socket, for another process, with its address.
    pub(super) fn share(&self) -> io::Result<Vec<(SocketAddr, OwnedFd)>> {
        self.sockets.iter().map(|socket| Ok((socket.local_addr(), socket.share()?))).collect()
    }

    /// Gives up all sockets, and leaves them open.
    pub(super) fn take(&mut self) -> Vec<SideSocket> {
        let sockets = std::mem::take(&mut self.sockets);
        sockets.iter().for_each(|socket| self.device.release_port(socket.local_addr()));
        sockets
    }

    /// Closes the kernel socket on `address`. Returns its descriptor, which is closed.
    pub(super) fn close(&mut self, address: SocketAddr) -> Option<RawFd> {
        let index = self.sockets.iter().position(|socket| socket.local_addr() == address)?;
        let socket = self.sockets.swap_remove(index);
        self.closed_drops += socket.kernel_drops();
        self.device.release_port(address);
        Some(socket.fd())
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.sockets.iter().map(SideSocket::local_addr)
    }

    pub(super) fn fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.sockets.iter().map(SideSocket::fd)
    }

    /// Datagrams that the kernel dropped because the buffer of a socket was full.
    pub(super) fn kernel_drops(&self) -> u64 {
        self.closed_drops + self.sockets.iter().map(SideSocket::kernel_drops).sum::<u64>()
    }

    /// Hands at most `budget` datagrams that the kernel received to `sink`.
    pub(super) fn receive(
        &mut self,
        budget: usize,
        counters: &mut QueueStats,
        sink: &mut dyn FnMut(&RxMeta, &mut [u8]),
    ) -> usize {
        let mut handed = 0;
        let mut taken = 0;
        for socket in &self.sockets {
            while taken < budget {
                counters.rx_calls += 1;
                let received = match socket.receive(&mut self.buffer) {
                    Ok(Some(received)) => received,
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(%error, "the kernel socket beside a port fails");
                        break;
                    }
                };
                taken += 1;
                if received.truncated {
                    counters.drop_truncated += 1;
                } else if received.len == 0 {
                    counters.drop_empty += 1;
                } else {
                    counters.rx_via_kernel += 1;
                    counters.rx_packets += 1;
                    counters.rx_bytes += received.len as u64;
                    handed += 1;
                    sink(&received.meta, &mut self.buffer[..received.len]);
                }
            }
            // Read, so that the socket does not stay ready for ever. What an ICMP message claims is
            // not acted on: path MTU is probed, and a dead peer is a matter of time-outs.
            socket.drain_errors(&mut |error| {
                tracing::debug!(remote = %error.remote, errno = error.errno, "ICMP error");
            });
        }
        if taken > 0 {
            // A socket that was full has something to read: nothing is asked where nothing came.
            counters.drop_socket_full = self.kernel_drops();
        }
        handed
    }

    /// Sends one datagram through the kernel. False if it was not sent.
    pub(super) fn send(&mut self, path: &Path, ecn: Ecn, datagram: &[u8]) -> bool {
        if self.socket_for(path.local).is_none() {
            self.borrow_socket_for(path.local);
        }
        let Some(socket) = self.socket_for(path.local) else { return false };
        let path = Path { remote: scoped(path.remote, self.device.info().ifindex), ..*path };
        match socket.send(&path, ecn, datagram) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(remote = %path.remote, ?error, "the kernel does not send");
                false
            }
        }
    }

    fn socket_for(&self, local: SocketAddr) -> Option<&SideSocket> {
        let mut all = self.sockets.iter().chain(&self.borrowed);
        all.find(|socket| serves(socket.local_addr(), local))
    }

    /// Looks for a socket among those of other queues.
    #[cold]
    fn borrow_socket_for(&mut self, local: SocketAddr) {
        let Some(lent) = self.device.borrow_port(|bound| serves(bound, local)) else { return };
        match SideSocket::adopt(lent) {
            Ok(socket) => self.borrowed.push(socket),
            Err(error) => tracing::debug!(%local, %error, "another queue's socket cannot be used"),
        }
    }
}

/// True if a socket that is bound so sends from that address.
fn serves(bound: SocketAddr, local: SocketAddr) -> bool {
    bound.port() == local.port()
        && bound.is_ipv4() == local.is_ipv4()
        && (bound.ip() == local.ip() || bound.ip().is_unspecified() || local.ip().is_unspecified())
}

impl Drop for Ports {
    fn drop(&mut self) {
        for socket in self.sockets.drain(..) {
            self.device.release_port(socket.local_addr());
        }
    }
}

/// Link-local addresses mean nothing without their interface; frames do not carry it.
pub(super) fn scoped(address: SocketAddr, ifindex: u32) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => {
            SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, ifindex))
        }
        other => other,
    }
}

/// True if [`scoped`] changes an address of this kind.
pub(super) const fn needs_scope(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}
