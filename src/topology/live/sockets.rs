//! AF_XDP sockets: from sock_diag where the kernel has it (XDP_SOCKETS_DIAG), else from what
//! shows through.
//!
//! ```text
//!                sock_diag                      without it
//!   which        all of the namespace           those whose rings a process has mapped
//!   process      /proc/PID/fd, by inode         whose mappings they were found in
//!   queue        told                           by the NAPI id of the socket (zero-copy), or
//!                                               if there is one socket and one queue with one
//!   zero-copy,   told                           getsockopt on a copy of the descriptor
//!   counters                                    (pidfd_getfd: the same user, or CAP_SYS_PTRACE)
//!   ring sizes   told                           not told
//! ```

use super::netlink::{Attributes, Netlink, number, u32_at};
use super::refused::Refused;
use super::{Kernel, netdev, processes};
use crate::topology::survey::device::{XskCounters, XskSocket};
use crate::topology::sys;
use neli::consts::socket::NlFamily;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, OwnedFd, RawFd};

/// Sockets that are read.
const SOCKETS_MAX: usize = 65_536;

/// The sockets of this network namespace, by inode.
pub(super) fn sockets(kernel: &Kernel) -> Result<Vec<XskSocket>, Refused> {
    let mut sockets = match told() {
        Err(refused) if matches!(refused.errno(), libc::ENOENT | libc::EINVAL) => shown(kernel)?,
        told => with_processes(told?),
    };
    for socket in &mut sockets {
        let process = socket.process.as_ref();
        socket.workers = process.map(|process| processes::workers(process.pid)).unwrap_or_default();
    }
    sockets.sort_by_key(|socket| (socket.device, socket.queue, socket.inode));
    Ok(sockets)
}

fn empty(inode: u64) -> XskSocket {
    XskSocket {
        inode,
        process: None,
        workers: Vec::new(),
        device: None,
        queue: None,
        zerocopy: None,
        rx_ring: None,
        tx_ring: None,
        counters: None,
    }
}

/// What sock_diag tells.
fn told() -> Result<Vec<XskSocket>, Refused> {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    /// Where it is bound, its rings, its UMEM, its counters.
    const SHOW: u32 = 1 | 2 | 4 | 16;
    const REQUEST_BYTES: usize = 20;
    let mut body = [0; REQUEST_BYTES];
    body[0] = libc::AF_XDP as u8;
    body[8..12].copy_from_slice(&SHOW.to_ne_bytes());
    let mut found = Vec::new();
    let mut netlink = Netlink::new(NlFamily::SockOrInetDiag)?;
    netlink.ask("sock_diag AF_XDP", SOCK_DIAG_BY_FAMILY, true, &body, &mut |answer| {
        if found.len() < SOCKETS_MAX {
            found.extend(read_told(answer));
        }
    })?;
    Ok(found)
}

fn read_told(answer: &[u8]) -> Option<XskSocket> {
    /// Family, type, inode, cookie.
    const FIXED_BYTES: usize = 16;
    const BOUND: u16 = 1;
    const RX_RING: u16 = 3;
    const TX_RING: u16 = 4;
    const UMEM: u16 = 5;
    const COUNTERS: u16 = 9;
    const UMEM_FLAGS_AT: usize = 32;
    const ZEROCOPY: u32 = 1;
    let attributes = Attributes(answer.get(FIXED_BYTES..)?);
    let bound = attributes.get(BOUND).unwrap_or_default();
    let device = u32_at(bound, 0).filter(|&index| index != 0);
    let umem = attributes.get(UMEM).and_then(|umem| u32_at(umem, UMEM_FLAGS_AT));
    Some(XskSocket {
        device,
        queue: device.and_then(|_| u32_at(bound, 4)),
        zerocopy: umem.map(|flags| flags & ZEROCOPY != 0),
        rx_ring: attributes.u32(RX_RING),
        tx_ring: attributes.u32(TX_RING),
        counters: attributes.get(COUNTERS).and_then(|counters| {
            let [rx_dropped, rx_invalid, rx_ring_full, fill_ring_empty, tx_invalid, tx_ring_empty] =
                numbers(counters)?;
            Some(XskCounters {
                rx_dropped,
                rx_invalid,
                rx_ring_full,
                fill_ring_empty,
                tx_invalid,
                tx_ring_empty,
            })
        }),
        ..empty(u64::from(u32_at(answer, 4)?))
    })
}

fn numbers(bytes: &[u8]) -> Option<[u64; 6]> {
    let mut numbers = bytes.chunks_exact(8).filter_map(number);
    let mut read = [0; 6];
    for value in &mut read {
        *value = numbers.next()?;
    }
    Some(read)
}

/// Finds the processes that have the sockets.
fn with_processes(mut sockets: Vec<XskSocket>) -> Vec<XskSocket> {
    if sockets.is_empty() {
        return sockets;
    }
    let mut by_name: BTreeMap<String, &mut XskSocket> =
        sockets.iter_mut().map(|socket| (format!("socket:[{}]", socket.inode), socket)).collect();
    for pid in processes::all() {
        for (_, target) in processes::descriptors(pid) {
            if let Some(socket) = by_name.get_mut(&target)
                && socket.process.is_none()
            {
                socket.process = Some(processes::process(pid));
            }
        }
    }
    sockets
}

/// What shows through where sock_diag does not know AF_XDP.
fn shown(kernel: &Kernel) -> Result<Vec<XskSocket>, Refused> {
    let Some(count) = socket_count().filter(|&count| count > 0) else { return Ok(Vec::new()) };
    let mut sockets = Vec::new();
    let mut napis = BTreeMap::new();
    let here = namespace_of_thread();
    for pid in processes::all() {
        let inodes = mapped(&fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default());
        if inodes.is_empty() {
            continue;
        }
        let descriptors = descriptors_of(pid, &inodes);
        for inode in inodes {
            // Shared between processes since a fork: the first has it.
            if sockets.iter().any(|socket: &XskSocket| socket.inode == inode) {
                continue;
            }
            let copy = descriptors.get(&inode).and_then(|&fd| sys::copy_descriptor(pid, fd).ok());
            let is_here = match &copy {
                Some(copy) => namespace(copy) == here.cookie,
                None => fs::read_link(format!("/proc/{pid}/ns/net")).ok() == here.link,
            };
            if !is_here || sockets.len() >= SOCKETS_MAX {
                continue;
            }
            let mut socket = empty(inode);
            socket.process = Some(processes::process(pid));
            if let Some(copy) = &copy {
                ask_socket(copy, &mut socket);
                napis.extend(napi(copy).map(|napi| (inode, napi)));
            }
            sockets.push(socket);
        }
    }
    if sockets.is_empty() {
        return Err(Refused::Silent(format!(
            "there are {count} AF_XDP sockets, but the kernel was built without XDP_SOCKETS_DIAG \
             and whose they are shows only with CAP_SYS_PTRACE: run it with sudo"
        )));
    }
    place(kernel, &mut sockets, &napis, count);
    Ok(sockets)
}

/// AF_XDP sockets of the namespace: `XDP  1088  4  ...` in the list of protocols. `None`: the kernel
/// has no such protocol.
fn socket_count() -> Option<usize> {
    let protocols = fs::read_to_string("/proc/thread-self/net/protocols").ok()?;
    let line = protocols.lines().find(|line| line.split_whitespace().next() == Some("XDP"))?;
    line.split_whitespace().nth(2)?.parse().ok()
}

/// The inodes of sockets whose transmit, fill or completion ring is mapped: nothing else maps a
/// socket at these offsets.
fn mapped(maps: &str) -> BTreeSet<u64> {
    /// `XDP_PGOFF_TX_RING`, `XDP_UMEM_PGOFF_FILL_RING`, `XDP_UMEM_PGOFF_COMPLETION_RING`.
    const OFFSETS: [&str; 3] = ["80000000", "100000000", "180000000"];
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, _, offset, _, inode, name] = fields[..] else { return None };
        (name.starts_with("socket:[") && OFFSETS.contains(&offset)).then(|| inode.parse().ok())?
    };
    maps.lines().filter_map(inode).collect()
}

fn descriptors_of(pid: u32, inodes: &BTreeSet<u64>) -> BTreeMap<u64, RawFd> {
    let socket = |(fd, target): (RawFd, String)| {
        let inode = target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
        inodes.contains(&inode).then_some((inode, fd))
    };
    processes::descriptors(pid).filter_map(socket).collect()
}

/// The network namespace of the calling thread, by both of its names.
struct Namespace {
    cookie: Option<u64>,
    link: Option<std::path::PathBuf>,
}

fn namespace_of_thread() -> Namespace {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").map(OwnedFd::from);
    Namespace {
        cookie: socket.ok().as_ref().and_then(namespace),
        link: fs::read_link("/proc/thread-self/ns/net").ok(),
    }
}

/// The number of a socket's network namespace (Linux 5.14), which is never used again.
fn namespace(socket: &OwnedFd) -> Option<u64> {
    let mut cookie = [0; 8];
    sys::socket_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, &mut cookie)
        .ok()?;
    Some(u64::from_ne_bytes(cookie))
}

/// The NAPI instance that serves a socket, once the kernel knows it.
fn napi(socket: &OwnedFd) -> Option<u32> {
    let mut id = [0; 4];
    sys::socket_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_INCOMING_NAPI_ID, &mut id)
        .ok()?;
    Some(u32::from_ne_bytes(id)).filter(|&id| id != 0)
}

/// What a socket says of itself.
fn ask_socket(copy: &OwnedFd, socket: &mut XskSocket) {
    const STATISTICS: i32 = 7;
    const OPTIONS: i32 = 8;
    const ZEROCOPY: u32 = 1;
    let mut options = [0; 4];
    let told = sys::socket_option(copy.as_fd(), libc::SOL_XDP, OPTIONS, &mut options);
    socket.zerocopy = told.ok().map(|_| u32::from_ne_bytes(options) & ZEROCOPY != 0);
    // Kernels before 5.9 tell three of the six.
    let mut counters = [0; 48];
    let told = sys::socket_option(copy.as_fd(), libc::SOL_XDP, STATISTICS, &mut counters);
    socket.counters = told.ok().and_then(|_| {
        let [rx_dropped, rx_invalid, tx_invalid, rx_ring_full, fill_ring_empty, tx_ring_empty] =
            numbers(&counters)?;
        Some(XskCounters {
            rx_dropped,
            rx_invalid,
            rx_ring_full,
            fill_ring_empty,
            tx_invalid,
            tx_ring_empty,
        })
    });
}

/// Finds queues: by a NAPI instance that serves only one, or because there is no other choice.
fn place(kernel: &Kernel, sockets: &mut [XskSocket], napis: &BTreeMap<u64, u32>, count: usize) {
    let queues = netdev::receive_queues(kernel).unwrap_or_default();
    for socket in sockets.iter_mut() {
        let Some(&napi) = napis.get(&socket.inode) else { continue };
        let of_napi: Vec<_> = queues.iter().filter(|(_, queue)| queue.napi == Some(napi)).collect();
        if let [(device, queue)] = of_napi[..] {
            (socket.device, socket.queue) = (Some(*device), Some(queue.index));
        }
    }
    let taken: Vec<_> = queues.iter().filter(|(_, queue)| queue.has_xsk == Some(true)).collect();
    if let ([only], [(device, queue)], 1) = (sockets, &taken[..], count) {
        (only.device, only.queue) = (Some(*device), Some(queue.index));
    }
}

#[cfg(test)]
mod tests {
    use super::super::netlink::Question;
    use super::*;

    #[test]
    fn a_socket_is_read_as_sock_diag_tells_it() {
        let words = |words: &[u32]| words.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<_>>();
        let counters: Vec<u8> = (1u64..=6).flat_map(u64::to_ne_bytes).collect();
        let attributes = Question::default()
            .bytes(1, &words(&[9, 3]))
            .u32(3, 2_048)
            .u32(4, 1_024)
            .bytes(5, &words(&[0, 0, 1, 64, 4_096, 0, 9, 3, 1, 2]))
            .bytes(9, &counters);
        let head = words(&[44, 4_711, 0, 0]);
        let answer = [&head[..], attributes.as_bytes()].concat();
        let socket = read_told(&answer).unwrap();
        let expected = XskSocket {
            device: Some(9),
            queue: Some(3),
            zerocopy: Some(true),
            rx_ring: Some(2_048),
            tx_ring: Some(1_024),
            counters: Some(XskCounters {
                rx_dropped: 1,
                rx_invalid: 2,
                rx_ring_full: 3,
                fill_ring_empty: 4,
                tx_invalid: 5,
                tx_ring_empty: 6,
            }),
            ..empty(4_711)
        };
        assert_eq!(socket, expected);
        // Not bound: index 0 is no device, and its queue means nothing.
        let answer = [&head[..], Question::default().bytes(1, &[0; 8]).as_bytes()].concat();
        assert_eq!(read_told(&answer), Some(empty(4_711)));
        assert_eq!(read_told(&head[..12]), None);
    }

    #[test]
    fn rings_are_known_by_their_offsets() {
        let maps = "\
7f01 rw-s 180000000 00:09 4711                   socket:[4711]
7f02 rw-s 00000000 00:09 4712                    socket:[4712]
7f03 rw-s 80000000 00:09 4713                    socket:[4713]
7f04 r--p 180000000 fd:00 99                     /lib/x.so
7f05 rw-p 00000000 00:00 0
";
        assert_eq!(mapped(maps), BTreeSet::from([4_711, 4_713]));
    }
}
