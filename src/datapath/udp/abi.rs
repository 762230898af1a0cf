//! The kernel's byte layouts: socket addresses and control messages.
//!
//! Everything that a datagram carries beside its payload passes through a socket as bytes: the
//! peer's address in `msg_name`, and in `msg_control` a chain of control messages, each a
//! length, a level, a type and some data, padded to the word size (`cmsg(3)`):
//!
//! ```text
//! | len: usize | level: i32 | type: i32 | data ... pad | len | level | type | data ... pad |
//! ```
//!
//! They are written and read here as bytes, without a pointer, so that it can all be tested
//! without a socket. Integers are in native order, ports and addresses in network order.

use crate::ecn::Ecn;
use crate::time::SECOND_NS;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// `sizeof(struct sockaddr_in6)`, the larger of the two.
pub(super) const NAME_BYTES: usize = 28;
/// `sizeof(struct sockaddr_in)`.
const NAME_V4_BYTES: usize = 16;

/// Room for the control messages of one datagram in either direction, and for those of an
/// entry of the error queue, which are the longest: packet info (40), traffic class (24) and
/// the extended error with its offender (64).
pub(super) const CONTROL_BYTES: usize = 128;
/// A control message's length, level and type.
const HEADER_BYTES: usize = size_of::<usize>() + 8;

/// `struct sock_extended_err`, before the offender's address.
const EXTENDED_ERROR_BYTES: usize = 16;

const _: () = assert!(
    padded(HEADER_BYTES + 20)
        + padded(HEADER_BYTES + 4)
        + padded(HEADER_BYTES + 4)
        + padded(HEADER_BYTES + 16)
        <= CONTROL_BYTES,
    "packet info, traffic class, segment size and time of a received message fit"
);
const _: () = assert!(
    padded(HEADER_BYTES + 20) + padded(HEADER_BYTES + 4) + padded(HEADER_BYTES + 16 + NAME_BYTES)
        <= CONTROL_BYTES,
    "an entry of the error queue fits"
);

/// `linux/udp.h`: the size of the segments that one send is cut into, or that were joined.
pub(super) const UDP_SEGMENT: i32 = 103;
/// `linux/udp.h`: the size of the segments that one receive holds.
pub(super) const UDP_GRO: i32 = 104;

const fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(size_of::<usize>())
}

/// A socket address as the kernel writes it.
#[derive(Clone, Copy)]
pub(super) struct Name {
    bytes: [u8; NAME_BYTES],
    len: u32,
}

impl Name {
    /// Room for an address that the kernel will write.
    pub(super) const EMPTY: Self = Self { bytes: [0; NAME_BYTES], len: NAME_BYTES as u32 };

    pub(super) fn new(address: &SocketAddr) -> Self {
        let mut name = Self::EMPTY;
        let b = &mut name.bytes;
        b[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(v4) => {
                b[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                b[4..8].copy_from_slice(&v4.ip().octets());
                name.len = NAME_V4_BYTES as u32;
            }
            SocketAddr::V6(v6) => {
                b[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                b[4..8].copy_from_slice(&v6.flowinfo().to_ne_bytes());
                b[8..24].copy_from_slice(&v6.ip().octets());
                b[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            }
        }
        name
    }

    /// The address, unless the family is neither IPv4 nor IPv6. The flow label is left out: it
    /// belongs to a packet, and two packets of one flow may differ in it.
    pub(super) fn get(&self) -> Option<SocketAddr> {
        read_name(self.bytes())
    }

    /// The bytes that count.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..(self.len as usize).min(NAME_BYTES)]
    }

    pub(super) fn storage(&mut self) -> &mut [u8; NAME_BYTES] {
        &mut self.bytes
    }

    pub(super) fn set_len(&mut self, len: u32) {
        self.len = len;
    }
}

fn read_name(b: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(array(b, 0)?));
    let port = u16::from_be_bytes(array(b, 2)?);
    match family {
        libc::AF_INET => {
            let ip = Ipv4Addr::from(array::<4>(b, 4)?);
            Some(SocketAddr::V4(SocketAddrV4::new(ip, port)))
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(array::<16>(b, 8)?);
            let scope = u32::from_ne_bytes(array(b, 24)?);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)))
        }
        _ => None,
    }
}

/// `struct timespec` of a 64-bit kernel, in nanoseconds.
fn read_time(data: &[u8]) -> Option<u64> {
    let seconds = u64::try_from(i64::from_ne_bytes(array(data, 0)?)).ok()?;
    let ns = u64::try_from(i64::from_ne_bytes(array(data, 8)?)).ok()?;
    seconds.checked_mul(SECOND_NS)?.checked_add(ns)
}

/// `N` bytes of `b` from `at`.
fn array<const N: usize>(b: &[u8], at: usize) -> Option<[u8; N]> {
    b.get(at..at + N)?.try_into().ok()
}

/// The control messages of one datagram.
#[derive(Clone)]
pub(super) struct Control {
    bytes: [u8; CONTROL_BYTES],
    len: usize,
}

impl Control {
    /// Nothing yet.
    pub(super) const EMPTY: Self = Self { bytes: [0; CONTROL_BYTES], len: 0 };

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(super) fn storage(&mut self) -> &mut [u8; CONTROL_BYTES] {
        &mut self.bytes
    }

    pub(super) fn set_len(&mut self, len: usize) {
        self.len = len.min(CONTROL_BYTES);
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let len = HEADER_BYTES + data.len();
        let room = &mut self.bytes[self.len..self.len + padded(len)];
        let (header, rest) = room.split_at_mut(HEADER_BYTES);
        let word = size_of::<usize>();
        header[..word].copy_from_slice(&len.to_ne_bytes());
        header[word..word + 4].copy_from_slice(&level.to_ne_bytes());
        header[word + 4..].copy_from_slice(&kind.to_ne_bytes());
        rest[..data.len()].copy_from_slice(data);
        rest[data.len()..].fill(0);
        self.len += padded(len);
    }

    /// The address to send from, for a socket bound to the wildcard address.
    pub(super) fn push_source(&mut self, local: &SocketAddr) {
        match local {
            SocketAddr::V4(v4) => {
                // struct in_pktinfo: interface, source, destination (ignored on sending).
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&v4.ip().octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            SocketAddr::V6(v6) => {
                // struct in6_pktinfo: source, interface.
                let mut info = [0; 20];
                info[..16].copy_from_slice(&v6.ip().octets());
                info[16..].copy_from_slice(&v6.scope_id().to_ne_bytes());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    /// The ECN codepoint to send with; without this message the socket's default is used.
    pub(super) fn push_ecn(&mut self, ipv4: bool, ecn: Ecn) {
        let tos = i32::from(ecn.bits()).to_ne_bytes();
        if ipv4 {
            self.push(libc::IPPROTO_IP, libc::IP_TOS, &tos);
        } else {
            self.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &tos);
        }
    }

    /// Cuts the payload into datagrams of `bytes` each.
    pub(super) fn push_segment(&mut self, bytes: u16) {
        self.push(libc::SOL_UDP, UDP_SEGMENT, &bytes.to_ne_bytes());
    }

    fn messages(&self) -> Messages<'_> {
        Messages { rest: self.bytes() }
    }

    /// What the kernel said of a received datagram.
    pub(super) fn arrival(&self) -> Arrival {
        let mut arrival = Arrival::default();
        for (level, kind, data) in self.messages() {
            arrival.note(level, kind, data);
        }
        arrival
    }

    /// The entry of the error queue that these messages describe.
    pub(super) fn extended_error(&self) -> Option<ExtendedError> {
        self.messages().find_map(|(level, kind, data)| {
            let wanted = (level == libc::IPPROTO_IP && kind == libc::IP_RECVERR)
                || (level == libc::IPPROTO_IPV6 && kind == libc::IPV6_RECVERR);
            if wanted { ExtendedError::read(data) } else { None }
        })
    }
}

/// Walks the chain: level, type, data. Ends at a length that makes no sense.
struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = (i32, i32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let word = size_of::<usize>();
        let len = usize::from_ne_bytes(array(self.rest, 0)?);
        let level = i32::from_ne_bytes(array(self.rest, word)?);
        let kind = i32::from_ne_bytes(array(self.rest, word + 4)?);
        let data = self.rest.get(HEADER_BYTES..len)?;
        self.rest = self.rest.get(padded(len)..).unwrap_or(&[]);
        Some((level, kind, data))
    }
}

/// What the control messages of a received datagram tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Arrival {
    /// The address to answer from, and the interface it arrived on.
    pub(super) local: Option<(IpAddr, u32)>,
    /// The codepoint in its IP header.
    pub(super) ecn: Ecn,
    /// The length of each datagram but the last, if the kernel joined several.
    pub(super) segment_bytes: Option<usize>,
    /// When it reached the host, by the time of day in nanoseconds.
    pub(super) arrived_ns: Option<u64>,
}

impl Arrival {
    fn note(&mut self, level: i32, kind: i32, data: &[u8]) {
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // The second field is the local address, also for a broadcast.
                self.local = array::<4>(data, 4)
                    .zip(array::<4>(data, 0))
                    .map(|(ip, index)| (IpAddr::V4(Ipv4Addr::from(ip)), u32::from_ne_bytes(index)));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                self.local = array::<16>(data, 0)
                    .zip(array::<4>(data, 16))
                    .map(|(ip, index)| (IpAddr::V6(Ipv6Addr::from(ip)), u32::from_ne_bytes(index)));
            }
            // One octet under IPv4, an int under IPv6.
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                self.ecn = data.first().map_or(Ecn::NotEct, |tos| Ecn::from_tos(*tos));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                self.ecn = array(data, 0)
                    .map_or(Ecn::NotEct, |b| Ecn::from_tos(i32::from_ne_bytes(b) as u8));
            }
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => self.arrived_ns = read_time(data),
            (libc::SOL_UDP, UDP_GRO) => {
                let bytes = array(data, 0).map(i32::from_ne_bytes);
                self.segment_bytes = bytes.and_then(|b| usize::try_from(b).ok()).filter(|b| *b > 0);
            }
            _ => {}
        }
    }
}

/// An ICMP error, or a local one, as `struct sock_extended_err` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ExtendedError {
    pub(super) errno: i32,
    pub(super) origin: u8,
    pub(super) kind: u8,
    pub(super) code: u8,
    /// The path's MTU, for "packet too big".
    pub(super) info: u32,
    /// Who sent the ICMP message.
    pub(super) offender: Option<SocketAddr>,
}

impl ExtendedError {
    fn read(data: &[u8]) -> Option<Self> {
        let [origin, kind, code, _pad] = array(data, 4)?;
        Some(Self {
            errno: i32::from_ne_bytes(array(data, 0)?),
            origin,
            kind,
            code,
            info: u32::from_ne_bytes(array(data, 8)?),
            offender: data.get(EXTENDED_ERROR_BYTES..).and_then(read_name),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_survive_a_round_trip() {
        for text in ["192.0.2.7:4433", "[2001:db8::1]:443", "[fe80::1%3]:9", "0.0.0.0:0"] {
            assert_eq!(Name::new(&address(text)).get(), Some(address(text)), "{text}");
        }
    }

    #[test]
    fn an_ipv4_name_has_the_layout_of_sockaddr_in() {
        let name = Name::new(&address("192.0.2.7:4433"));
        let mut want = vec![0; 16];
        want[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        want[2..8].copy_from_slice(&[0x11, 0x51, 192, 0, 2, 7]);
        assert_eq!(name.bytes(), want);
    }

    #[test]
    fn an_unknown_family_or_a_short_name_is_no_address() {
        let mut name = Name::new(&address("192.0.2.7:4433"));
        name.storage()[0] = 77;
        assert_eq!(name.get(), None);
        let mut name = Name::new(&address("[::1]:1"));
        name.set_len(27);
        assert_eq!(name.get(), None);
        name.set_len(0);
        assert_eq!(name.get(), None);
    }

    #[test]
    fn what_is_written_for_sending_is_what_arrives() {
        let mut control = Control::EMPTY;
        control.push_source(&address("192.0.2.7:1"));
        control.push_ecn(true, Ecn::Ce);
        let arrival = control.arrival();
        assert_eq!(arrival.local, Some(("192.0.2.7".parse().unwrap(), 0)));
        assert_eq!(arrival.ecn, Ecn::Ce);
        assert_eq!(arrival.segment_bytes, None);

        control.clear();
        control.push_source(&address("[fe80::2%9]:1"));
        control.push_ecn(false, Ecn::Ect1);
        control.push(libc::SOL_UDP, UDP_GRO, &1200i32.to_ne_bytes());
        let arrival = control.arrival();
        assert_eq!(arrival.local, Some(("fe80::2".parse().unwrap(), 9)));
        assert_eq!(arrival.ecn, Ecn::Ect1);
        assert_eq!(arrival.segment_bytes, Some(1200));
    }

    #[test]
    fn a_chain_that_lies_about_its_lengths_ends() {
        let mut control = Control::EMPTY;
        control.push_ecn(true, Ecn::Ce);
        for len in [0usize, 1, HEADER_BYTES - 1, CONTROL_BYTES + 1, usize::MAX] {
            control.storage()[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(control.arrival(), Arrival::default(), "length {len}");
        }
        control.set_len(7);
        assert_eq!(control.arrival(), Arrival::default());
        // A message of bare header: no data, and the walk goes on behind it.
        control.clear();
        control.push(0, 0, &[]);
        control.push_ecn(true, Ecn::Ect0);
        assert_eq!(control.arrival().ecn, Ecn::Ect0);
    }

    #[test]
    fn data_that_is_too_short_is_no_fact() {
        let mut control = Control::EMPTY;
        control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &[1, 2, 3]);
        control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &[0; 19]);
        control.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &[3]);
        control.push(libc::IPPROTO_IP, libc::IP_TOS, &[]);
        control.push(libc::SOL_UDP, UDP_GRO, &0i32.to_ne_bytes());
        assert_eq!(control.arrival(), Arrival::default());
    }

    #[test]
    fn an_extended_error_names_its_offender() {
        let mut data = vec![0; EXTENDED_ERROR_BYTES];
        data[..4].copy_from_slice(&libc::EHOSTUNREACH.to_ne_bytes());
        data[4..7].copy_from_slice(&[2, 3, 1]);
        data[8..12].copy_from_slice(&1400u32.to_ne_bytes());
        data.extend_from_slice(Name::new(&address("192.0.2.1:0")).bytes());
        let mut control = Control::EMPTY;
        control.push_ecn(true, Ecn::Ce);
        control.push(libc::IPPROTO_IP, libc::IP_RECVERR, &data);
        let error = control.extended_error().unwrap();
        assert_eq!(
            (error.errno, error.origin, error.kind, error.code),
            (libc::EHOSTUNREACH, 2, 3, 1)
        );
        assert_eq!(error.info, 1400);
        assert_eq!(error.offender, Some(address("192.0.2.1:0")));
        control.clear();
        control.push(libc::IPPROTO_IP, libc::IP_RECVERR, &data[..11]);
        assert_eq!(control.extended_error(), None);
    }

    #[test]
    fn the_time_of_arrival_is_read_and_one_that_makes_no_sense_is_none() {
        let told = |seconds: i64, ns: i64, len: usize| {
            let mut data = [seconds.to_ne_bytes(), ns.to_ne_bytes()].concat();
            data.truncate(len);
            let mut control = Control::EMPTY;
            control.push(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &data);
            control.arrival().arrived_ns
        };
        assert_eq!(told(3, 7, 16), Some(3_000_000_007));
        assert_eq!((told(-1, 0, 16), told(i64::MAX, 0, 16), told(3, 7, 12)), (None, None, None));
    }
}
