//! Opening a UDP socket with the options that QUIC needs, and knowing which of them it got.

use super::abi::{Control, UDP_GRO, UDP_SEGMENT};
use super::error::UdpError;
use super::syscall;
use crate::ecn::Ecn;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// What a socket's buffers are asked to hold, in bytes: 20 ms at 1.6 Gb/s.
pub(super) const DEFAULT_BUFFER_BYTES: usize = 4 << 20;
/// How many queued errors one call reads past before it lets its caller go on.
pub(super) const QUEUED_ERRORS_PER_CALL: usize = 64;
/// `asm-generic/socket.h`: nine words about the memory of a socket, drops among them.
const SO_MEMINFO: i32 = 55;

/// What to open.
#[derive(Clone, Debug)]
pub(super) struct Options<'a> {
    pub(super) local: SocketAddr,
    pub(super) device: Option<&'a str>,
    pub(super) reuse_port: bool,
    /// Queue ICMP errors for [`Socket::fd`] to be read from the error queue.
    pub(super) error_queue: bool,
    pub(super) gso: bool,
    pub(super) gro: bool,
    pub(super) rcvbuf_bytes: usize,
    pub(super) sndbuf_bytes: usize,
    pub(super) busy_poll_us: Option<u32>,
    pub(super) incoming_cpu: Option<u32>,
}

/// An open, bound, non-blocking socket.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    /// With the port that the kernel chose, if none was asked for.
    pub(super) local: SocketAddr,
    /// ECN codepoints are read and written.
    pub(super) ecn: bool,
    /// One send can carry many datagrams.
    pub(super) gso: bool,
    /// One receive can carry many datagrams.
    pub(super) gro: bool,
}

impl Socket {
    pub(super) fn open(options: &Options<'_>) -> Result<Self, UdpError> {
        let fail = |call| move |e| UdpError::new(call, options.local, options.device, e);
        let ipv4 = options.local.is_ipv4();
        let fd = syscall::socket(ipv4).map_err(fail("socket"))?;
        let s = fd.as_fd();
        let on = |level, name| syscall::set_option(s, level, name, 1);
        if !ipv4 {
            // A listener on both families has a socket for each.
            on(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY).map_err(fail("setsockopt IPV6_V6ONLY"))?;
        }
        if options.reuse_port {
            on(libc::SOL_SOCKET, libc::SO_REUSEPORT).map_err(fail("setsockopt SO_REUSEPORT"))?;
        }
        if let Some(cpu) = options.incoming_cpu {
            // Before bind: joining the group is what makes the kernel look at it.
            let cpu = i32::try_from(cpu).unwrap_or(i32::MAX);
            syscall::set_option(s, libc::SOL_SOCKET, libc::SO_INCOMING_CPU, cpu)
                .map_err(fail("setsockopt SO_INCOMING_CPU"))?;
        }
        if let Some(device) = options.device {
            bind_to_device(s, device).map_err(fail("setsockopt SO_BINDTODEVICE"))?;
        }
        let (level, info, discover, errors) = family_options(ipv4);
        on(level, info).map_err(fail("setsockopt PKTINFO"))?;
        // RFC 9000 §14: UDP datagrams MUST NOT be fragmented at the IP layer. PROBE sets DF and
        // ignores what the kernel believes of the path, since probes have to be larger.
        syscall::set_option(s, level, discover, libc::IP_PMTUDISC_PROBE)
            .map_err(fail("setsockopt MTU_DISCOVER"))?;
        if options.error_queue {
            on(level, errors).map_err(fail("setsockopt RECVERR"))?;
        }
        let ecn = receives_ecn(s, ipv4);
        let gso = options.gso && segments(s);
        let gro = options.gro && joins_segments(s);
        size_buffers(s, options);
        busy_poll(s, options);
        syscall::bind(s, &options.local).map_err(fail("bind"))?;
        let local = syscall::local_address(s).map_err(fail("getsockname"))?;
        Ok(Self { fd, local, ecn, gso, gro })
    }

    /// A socket that another process has opened and bound: its options stand as that has set them, but for
    /// `gro`, by which the reader's buffers are sized.
    pub(super) fn adopt(fd: OwnedFd, gso: bool, gro: bool) -> io::Result<Self> {
        let local = syscall::local_address(fd.as_fd())?;
        let ecn = receives_ecn(fd.as_fd(), local.is_ipv4());
        let gso = gso && segments(fd.as_fd());
        let gro = if gro {
            joins_segments(fd.as_fd())
        } else {
            // A kernel that does not know it joins nothing.
            let _ = syscall::set_option(fd.as_fd(), libc::SOL_UDP, UDP_GRO, 0);
            false
        };
        Ok(Self { fd, local, ecn, gso, gro })
    }

    /// Lets sockets that ask for it bind the same address from now on.
    pub(super) fn let_join(&self) -> io::Result<()> {
        syscall::set_option(self.fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
    }

    /// Has the kernel tell when each message reached the host, or not. Where it cannot, it does not.
    pub(super) fn tell_arrivals(&self, told: bool) {
        let _ =
            syscall::set_option(self.fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, i32::from(told));
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Writes what a datagram from `local` needs beside its payload.
    pub(super) fn write_control(&self, control: &mut Control, local: &SocketAddr, ecn: Ecn) {
        control.clear();
        if self.local.ip().is_unspecified() && !local.ip().is_unspecified() {
            control.push_source(local);
        }
        if self.ecn && ecn != Ecn::NotEct {
            control.push_ecn(self.local.is_ipv4(), ecn);
        }
    }

    /// The local address of a datagram that was sent to `ip` and arrived on `interface`.
    pub(super) fn arrived_at(&self, local: Option<(IpAddr, u32)>) -> SocketAddr {
        let port = self.local.port();
        match local {
            // A link-local address means nothing without its interface.
            Some((IpAddr::V6(ip), interface)) if ip.is_unicast_link_local() => {
                SocketAddr::V6(SocketAddrV6::new(ip, port, 0, interface))
            }
            Some((ip, _)) => SocketAddr::new(ip, port),
            None => self.local,
        }
    }

    /// Datagrams that the kernel dropped because the socket's buffer was full.
    pub(super) fn kernel_drops(&self) -> u64 {
        let mut words = [0; 9];
        match syscall::option_words(self.fd(), libc::SOL_SOCKET, SO_MEMINFO, &mut words) {
            Ok(_) => u64::from(words[libc::SK_MEMINFO_DROPS as usize]),
            Err(_) => 0,
        }
    }
}

/// The address that the kernel sends from towards `remote`, through `device` if one is named. Nothing is
/// sent.
pub(crate) fn source_towards(remote: SocketAddr, device: Option<&str>) -> io::Result<SocketAddr> {
    let fd = syscall::socket(remote.is_ipv4())?;
    if let Some(device) = device {
        bind_to_device(fd.as_fd(), device)?;
    }
    let socket = UdpSocket::from(fd);
    socket.connect(remote)?;
    socket.local_addr()
}

/// Level, packet info, MTU discovery and error queue of a family.
fn family_options(ipv4: bool) -> (i32, i32, i32, i32) {
    if ipv4 {
        (libc::IPPROTO_IP, libc::IP_PKTINFO, libc::IP_MTU_DISCOVER, libc::IP_RECVERR)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, libc::IPV6_MTU_DISCOVER, libc::IPV6_RECVERR)
    }
}

fn bind_to_device(s: BorrowedFd<'_>, device: &str) -> io::Result<()> {
    // The kernel cuts a longer name silently.
    if device.is_empty() || device.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    syscall::set_option_bytes(s, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, device.as_bytes())
}

fn receives_ecn(s: BorrowedFd<'_>, ipv4: bool) -> bool {
    let (level, name) = if ipv4 {
        (libc::IPPROTO_IP, libc::IP_RECVTOS)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS)
    };
    wanted("ECN", syscall::set_option(s, level, name, 1))
}

/// Asks whether sends can be cut into segments, by setting "no segments" (Linux 4.18). An older
/// kernel would ignore the control message and send one giant datagram.
fn segments(s: BorrowedFd<'_>) -> bool {
    wanted("UDP_SEGMENT", syscall::set_option(s, libc::SOL_UDP, UDP_SEGMENT, 0))
}

fn joins_segments(s: BorrowedFd<'_>) -> bool {
    wanted("UDP_GRO", syscall::set_option(s, libc::SOL_UDP, UDP_GRO, 1))
}

fn wanted(what: &'static str, result: io::Result<()>) -> bool {
    if let Err(error) = &result {
        tracing::warn!(%error, "{what} is not to be had on this kernel: going on without");
    }
    result.is_ok()
}

fn busy_poll(s: BorrowedFd<'_>, options: &Options<'_>) {
    if let Some(us) = options.busy_poll_us {
        let us = i32::try_from(us).unwrap_or(i32::MAX);
        wanted(
            "SO_BUSY_POLL (more than `sysctl net.core.busy_read` needs CAP_NET_ADMIN)",
            syscall::set_option(s, libc::SOL_SOCKET, libc::SO_BUSY_POLL, us),
        );
    }
}

fn size_buffers(s: BorrowedFd<'_>, options: &Options<'_>) {
    let receive = (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, options.rcvbuf_bytes);
    let send = (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, options.sndbuf_bytes);
    for ((force, plain, bytes), (name, sysctl)) in
        [receive, send].into_iter().zip([("SO_RCVBUF", "rmem_max"), ("SO_SNDBUF", "wmem_max")])
    {
        let got = size_buffer(s, force, plain, bytes);
        // The kernel doubles what it is asked for, and reports the double.
        if got / 2 < bytes {
            tracing::warn!(
                asked_bytes = bytes,
                got_bytes = got / 2,
                "{name} is smaller than asked for: raise `sysctl net.core.{sysctl}`, or run with \
                 CAP_NET_ADMIN"
            );
        }
    }
}

fn size_buffer(s: BorrowedFd<'_>, force: i32, plain: i32, bytes: usize) -> usize {
    let value = i32::try_from(bytes).unwrap_or(i32::MAX);
    if syscall::set_option(s, libc::SOL_SOCKET, force, value).is_err() {
        // Not privileged: as much as the limit of the machine allows, silently cut.
        let _ = syscall::set_option(s, libc::SOL_SOCKET, plain, value);
    }
    let got = syscall::option(s, libc::SOL_SOCKET, plain).unwrap_or(0);
    usize::try_from(got).unwrap_or(0)
}
