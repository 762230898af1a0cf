//! Routes, neighbours and addresses, asked of the kernel over rtnetlink, and what a driver offers
//! AF_XDP sockets, over generic netlink.
//!
//! A few questions in a binary format that has not changed since 1999: a request is a header, a
//! fixed structure and attributes; the answer is the same, possibly many times over. A question
//! costs a few microseconds and is asked when a path is used for the first time, and again when
//! what is known grows old, so it goes out on a blocking socket: the kernel answers within the call
//! that asks.

use super::sys::Failed;
use std::ffi::c_int;
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// Bytes of one answer of the kernel: it never sends more at once to a reader that offers this.
const ANSWER_BYTES: usize = 32 * 1024;
/// Answers to one question that are read before giving up.
const ANSWERS_MAX: usize = 1024;

const HEADER_BYTES: usize = 16;
/// Of a generic netlink message, in front of its attributes.
const GENERIC_BYTES: usize = 4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_VIA: u16 = 18;
const RTN_UNICAST: u8 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// Reachable, stale, delay, probe, no ARP, permanent: states in which the address may be used.
const NUD_USABLE: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80;

/// How the kernel would send to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// The device that packets leave through.
    pub(super) ifindex: u32,
    /// The gateway, or the destination itself if it is on the link.
    pub(super) next_hop: IpAddr,
    /// The address that packets leave with unless the socket says otherwise.
    pub(super) source: Option<IpAddr>,
    /// It leads to another machine: not to us, not nowhere.
    pub(super) unicast: bool,
}

/// A socket to ask with.
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    answer: Vec<u8>,
}

impl Netlink {
    /// A socket for routes, neighbours and addresses, in the network namespace of the calling
    /// thread.
    pub(super) fn new() -> Result<Self, Failed> {
        Self::open(libc::NETLINK_ROUTE, "socket(NETLINK_ROUTE)")
    }

    /// A socket for [`Netlink::xsk_features`], likewise.
    pub(super) fn generic() -> Result<Self, Failed> {
        Self::open(libc::NETLINK_GENERIC, "socket(NETLINK_GENERIC)")
    }

    fn open(protocol: c_int, call: &'static str) -> Result<Self, Failed> {
        // SAFETY: no pointers are passed.
        let fd = unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol)
        };
        if fd < 0 {
            return Err(Failed::last(call));
        }
        // SAFETY: `fd` was returned by socket() just now and has no other owner.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { socket, sequence: 0, answer: vec![0; ANSWER_BYTES] })
    }

    /// How the kernel would send to `destination`, from `source` if it is given.
    pub(super) fn route(
        &mut self,
        destination: IpAddr,
        source: Option<IpAddr>,
    ) -> Result<Route, Failed> {
        const RTA_SRC: u16 = 2;
        let mut body = vec![0; 12];
        body[0] = family(destination);
        body[1] = bits(destination);
        attribute(&mut body, RTA_DST, &octets(destination));
        if let Some(source) = source {
            body[2] = bits(source);
            attribute(&mut body, RTA_SRC, &octets(source));
        }
        let mut found = None;
        self.ask("RTM_GETROUTE", RTM_GETROUTE, NLM_F_REQUEST, &body, &mut |kind, answer| {
            if kind == RTM_NEWROUTE {
                found = found.or_else(|| read_route(answer, destination));
            }
        })?;
        found.ok_or_else(|| unanswered("RTM_GETROUTE"))
    }

    /// The link address of a neighbour, if the kernel may use it now.
    pub(super) fn neighbour(
        &mut self,
        ifindex: u32,
        address: IpAddr,
    ) -> Result<Option<[u8; 6]>, Failed> {
        let mut body = vec![0; 12];
        body[0] = family(address);
        body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        attribute(&mut body, NDA_DST, &octets(address));
        let mut found = None;
        let asked =
            self.ask("RTM_GETNEIGH", RTM_GETNEIGH, NLM_F_REQUEST, &body, &mut |kind, answer| {
                if kind == RTM_NEWNEIGH {
                    found = found.or_else(|| read_neighbour(answer));
                }
            });
        match asked {
            Err(failed) if failed.errno() == libc::ENOENT => Ok(None),
            asked => asked.map(|()| found),
        }
    }

    /// The addresses of this machine, each with the index of its device.
    pub(super) fn addresses(&mut self) -> Result<Vec<(u32, IpAddr)>, Failed> {
        let mut found = Vec::new();
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        // Both families at once would wait for whoever changes devices (RTNL), and a worker asks this.
        for family in [libc::AF_INET, libc::AF_INET6] {
            let body = [family as u8, 0, 0, 0, 0, 0, 0, 0];
            self.ask("RTM_GETADDR", RTM_GETADDR, flags, &body, &mut |kind, answer| {
                if kind == RTM_NEWADDR {
                    found.extend(read_address(answer));
                }
            })?;
        }
        Ok(found)
    }

    /// What a device's driver offers to AF_XDP senders: bits of `NETDEV_XSK_FLAGS_*`.
    pub(super) fn xsk_features(&mut self, ifindex: u32) -> Result<u64, Failed> {
        const CONTROL: u16 = 0x10;
        const GET_FAMILY: u8 = 3;
        const FAMILY_NAME: u16 = 2;
        const DEV_GET: u8 = 1;
        const DEV_IFINDEX: u16 = 1;
        let mut body = vec![GET_FAMILY, 1, 0, 0];
        attribute(&mut body, FAMILY_NAME, b"netdev\0");
        let mut family = None;
        let call = "CTRL_CMD_GETFAMILY";
        self.ask(call, CONTROL, NLM_F_REQUEST, &body, &mut |_, answer| {
            family = read_family(answer);
        })?;
        let family = family.ok_or_else(|| unanswered(call))?;
        let mut body = vec![DEV_GET, 1, 0, 0];
        attribute(&mut body, DEV_IFINDEX, &ifindex.to_ne_bytes());
        let mut features = 0;
        self.ask("NETDEV_CMD_DEV_GET", family, NLM_F_REQUEST, &body, &mut |_, answer| {
            features = read_xsk_features(answer).unwrap_or(0);
        })?;
        Ok(features)
    }

    /// Sends a question and hands every answer, without its header, to `sink`.
    fn ask(
        &mut self,
        call: &'static str,
        kind: u16,
        flags: u16,
        body: &[u8],
        sink: &mut dyn FnMut(u16, &[u8]),
    ) -> Result<(), Failed> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let length = (HEADER_BYTES + body.len()) as u32;
        let mut request = Vec::with_capacity(length as usize);
        request.extend(length.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend(flags.to_ne_bytes());
        request.extend(sequence.to_ne_bytes());
        request.extend([0; 4]);
        request.extend(body);
        self.send(call, &request)?;
        for _ in 0..ANSWERS_MAX {
            let length = self.receive(call)?;
            let mut rest = &self.answer[..length];
            while let Some((header, message, next)) = split_message(rest) {
                rest = next;
                if header.sequence != sequence {
                    // What is left of a question that failed half way.
                    continue;
                }
                match header.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return error(call, message),
                    kind => sink(kind, message),
                }
                if flags & NLM_F_DUMP == 0 {
                    return Ok(());
                }
            }
        }
        Err(unanswered(call))
    }

    fn send(&self, call: &'static str, request: &[u8]) -> Result<(), Failed> {
        // SAFETY: `request` is valid for reads of its length.
        let sent = unsafe {
            libc::send(self.socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0)
        };
        if sent < 0 { Err(Failed::last(call)) } else { Ok(()) }
    }

    fn receive(&mut self, call: &'static str) -> Result<usize, Failed> {
        loop {
            // SAFETY: `answer` is valid for writes of its length.
            let length = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    self.answer.as_mut_ptr().cast(),
                    self.answer.len(),
                    0,
                    ptr::null_mut(),
                    ptr::null_mut(),
                )
            };
            if length >= 0 {
                return Ok(length as usize);
            }
            let failed = Failed::last(call);
            if failed.errno() != libc::EINTR {
                return Err(failed);
            }
        }
    }
}

struct Header {
    kind: u16,
    sequence: u32,
}

/// The first message in `bytes`: its header, its body, and what follows it.
fn split_message(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
    let length = read_u32(header, 0)? as usize;
    let body = bytes.get(HEADER_BYTES..length)?;
    let next = bytes.get(align(length)..).unwrap_or_default();
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    Some((Header { kind, sequence: read_u32(header, 8)? }, body, next))
}

/// The attributes in `bytes`, each with its number.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// Nested, or in network byte order: not part of the number.
    const FLAGS: u16 = 0xc000;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]));
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & !FLAGS;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(((4 + value.len()) as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(align(message.len()), 0);
}

const fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + mem::size_of::<u32>())?;
    Some(u32::from_ne_bytes([four[0], four[1], four[2], four[3]]))
}

fn read_ip(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => Some(IpAddr::V4(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]))),
        16 => {
            let mut address = [0; 16];
            address.copy_from_slice(octets);
            Some(IpAddr::V6(Ipv6Addr::from(address)))
        }
        _ => None,
    }
}

fn read_route(answer: &[u8], destination: IpAddr) -> Option<Route> {
    let unicast = *answer.get(7)? == RTN_UNICAST;
    let mut route = Route { ifindex: 0, next_hop: destination, source: None, unicast };
    for (kind, value) in attributes(answer.get(12..)?) {
        match kind {
            RTA_OIF => route.ifindex = read_u32(value, 0)?,
            RTA_GATEWAY => route.next_hop = read_ip(value)?,
            // A gateway of the other family (RFC 8950): two octets of family, then the address.
            RTA_VIA => route.next_hop = read_ip(value.get(2..)?)?,
            RTA_PREFSRC => route.source = read_ip(value),
            _ => {}
        }
    }
    Some(route)
}

fn read_neighbour(answer: &[u8]) -> Option<[u8; 6]> {
    let state = u16::from_ne_bytes([*answer.get(8)?, *answer.get(9)?]);
    if state & NUD_USABLE == 0 {
        return None;
    }
    attributes(answer.get(12..)?)
        .find(|&(kind, _)| kind == NDA_LLADDR)
        .and_then(|(_, mac)| mac.try_into().ok())
}

/// IPv4 says its own address in IFA_LOCAL (IFA_ADDRESS is the peer's on a point-to-point link),
/// IPv6 in IFA_ADDRESS unless there is an IFA_LOCAL.
fn read_address(answer: &[u8]) -> Option<(u32, IpAddr)> {
    let ifindex = read_u32(answer, 4)?;
    let find = |wanted| attributes(answer.get(8..)?).find(|&(kind, _)| kind == wanted);
    let (_, octets) = find(IFA_LOCAL).or_else(|| find(IFA_ADDRESS))?;
    Some((ifindex, read_ip(octets)?))
}

/// The number of a generic netlink family.
fn read_family(answer: &[u8]) -> Option<u16> {
    const FAMILY_ID: u16 = 1;
    let (_, id) = attributes(answer.get(GENERIC_BYTES..)?).find(|&(kind, _)| kind == FAMILY_ID)?;
    Some(u16::from_ne_bytes(id.try_into().ok()?))
}

/// `NETDEV_A_DEV_XSK_FEATURES`, which kernels before 6.8 do not send.
fn read_xsk_features(answer: &[u8]) -> Option<u64> {
    const XSK_FEATURES: u16 = 6;
    let mut found = attributes(answer.get(GENERIC_BYTES..)?);
    let (_, bits) = found.find(|&(kind, _)| kind == XSK_FEATURES)?;
    Some(u64::from_ne_bytes(bits.try_into().ok()?))
}

fn error(call: &'static str, message: &[u8]) -> Result<(), Failed> {
    match read_u32(message, 0) {
        Some(0) => Ok(()),
        Some(code) => Err(Failed { call, error: io::Error::from_raw_os_error(-(code as i32)) }),
        None => Err(unanswered(call)),
    }
}

fn unanswered(call: &'static str) -> Failed {
    Failed { call, error: io::Error::from(io::ErrorKind::InvalidData) }
}

const fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

const fn bits(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_to_ourselves_is_no_unicast_route() {
        let mut netlink = Netlink::new().unwrap();
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let route = netlink.route(loopback, None).unwrap();
        assert!(!route.unicast);
        assert_eq!(route.next_hop, loopback);
        assert_eq!(netlink.neighbour(route.ifindex, loopback).unwrap(), None);
        assert!(netlink.addresses().unwrap().contains(&(route.ifindex, loopback)));
    }

    #[test]
    fn what_is_cut_short_is_not_read() {
        let mut route = vec![0; 12];
        route[7] = RTN_UNICAST;
        attribute(&mut route, RTA_OIF, &7u32.to_ne_bytes());
        attribute(&mut route, RTA_GATEWAY, &[192, 0, 2, 1]);
        let destination = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
        let whole = read_route(&route, destination).unwrap();
        assert_eq!((whole.ifindex, whole.unicast), (7, true));
        assert_eq!(whole.next_hop, IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
        for length in 0..route.len() {
            // Attributes that are cut off are as good as absent; nothing panics.
            let cut = read_route(&route[..length], destination);
            assert_ne!(cut, Some(whole), "{length}");
        }
        assert!(split_message(&[0; 15]).is_none());
        assert!(split_message(&[255; 32]).is_none());
        let mut message = vec![0; 16];
        message[0] = 16;
        assert!(split_message(&message).is_some());
    }

    #[test]
    fn what_a_driver_offers_is_asked_of_the_netdev_family() {
        let mut netlink = Netlink::generic().unwrap();
        // The loopback device has no driver that could offer anything.
        assert_eq!(netlink.xsk_features(1).unwrap(), 0);
        let error = netlink.xsk_features(u32::MAX >> 1).unwrap_err();
        assert_eq!((error.call, error.errno()), ("NETDEV_CMD_DEV_GET", libc::ENODEV));

        // As mlx5 answers: timestamps and checksums.
        let mut answer = vec![1, 1, 0, 0];
        attribute(&mut answer, 1, &7u32.to_ne_bytes());
        attribute(&mut answer, 6, &3u64.to_ne_bytes());
        assert_eq!(read_xsk_features(&answer), Some(3));
        for length in 0..answer.len() {
            assert_eq!(read_xsk_features(&answer[..length]), None, "{length}");
        }
    }

    #[test]
    fn only_usable_neighbours_count() {
        let entry = |state: u16| {
            let mut answer = vec![0; 12];
            answer[8..10].copy_from_slice(&state.to_ne_bytes());
            attribute(&mut answer, NDA_LLADDR, &[2, 0, 0, 0, 0, 9]);
            read_neighbour(&answer)
        };
        assert_eq!(entry(0x02), Some([2, 0, 0, 0, 0, 9]));
        assert_eq!(entry(0x80), Some([2, 0, 0, 0, 0, 9]));
        for unusable in [0x00, 0x01, 0x20] {
            assert_eq!(entry(unusable), None);
        }
    }
}
