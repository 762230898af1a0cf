//! The headers of a path, ready to be put in front of a payload.

use super::{
    ETHERNET_BYTES, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_BYTES, IPV6_BYTES, PROTOCOL_UDP,
    UDP_BYTES, VLAN_BYTES, VLAN_TAGS_MAX, fold, pseudo_tail, sum,
};
use crate::datapath::Path;
use crate::ecn::Ecn;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;

/// The longest headers that are ever written, in bytes.
pub const HEADERS_MAX_BYTES: usize =
    ETHERNET_BYTES + VLAN_TAGS_MAX * VLAN_BYTES + IPV6_BYTES + UDP_BYTES;

/// Hops that our packets may take, as Linux sends them.
const HOP_LIMIT: u8 = 64;
/// Do not fragment (RFC 791 §3.1): QUIC forbids fragments (RFC 9000 §14).
const DONT_FRAGMENT: u16 = 0x4000;
/// A template is copied as a block of this size, which ends where the payload begins: a copy of a
/// fixed length is a few vector stores.
const BLOCK_BYTES: usize = 80;

/// Where the UDP header lies in a block.
const UDP_AT: usize = BLOCK_BYTES - UDP_BYTES;

const _: () = assert!(HEADERS_MAX_BYTES <= BLOCK_BYTES, "a block holds the longest headers");

/// A secret of this process, from which flow labels are derived: RFC 6437 §3 wants them
/// unpredictable to outsiders and constant within a flow.
#[derive(Clone, Copy)]
pub struct FlowKey(u64);

impl FlowKey {
    /// A key from `random`.
    #[must_use]
    pub const fn new(random: u64) -> Self {
        Self(random)
    }

    /// The flow label of two endpoints: 20 bits, never zero.
    fn label(self, local: SocketAddrV6, remote: SocketAddrV6) -> u32 {
        let mut hash = self.0;
        for endpoint in [local, remote] {
            let bits = u128::from_be_bytes(endpoint.ip().octets());
            // Rotated, so that halves which differ in the same bits do not cancel.
            let folded = bits as u64 ^ ((bits >> 64) as u64).rotate_left(17);
            hash = mix(hash ^ folded ^ u64::from(endpoint.port()).rotate_left(41));
        }
        ((hash >> 44) as u32).max(1)
    }
}

/// The finalizer of SplitMix64: every input bit reaches every output bit.
const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The headers of a path with all that does not change from packet to packet.
#[derive(Clone)]
pub struct Template {
    /// The headers, at the end of the block.
    block: [u8; BLOCK_BYTES],
    headers_bytes: usize,
    /// Sum of the IPv4 header without length, TOS and checksum.
    ip_sum: u64,
    /// Sum of the addresses, for the pseudo header.
    addresses_sum: u64,
    /// Sum of the ports, for the UDP checksum.
    ports_sum: u64,
    ipv6: bool,
}

impl Template {
    /// The template of `path`; `None` while its link is unknown, or if its ends are of different
    /// families.
    #[must_use]
    pub fn new(path: &Path, flow: FlowKey) -> Option<Self> {
        if !path.link.is_known() {
            return None;
        }
        match (path.local, path.remote) {
            (SocketAddr::V4(local), SocketAddr::V4(remote)) => {
                Some(Self::assemble(path, ETHERTYPE_IPV4, ipv4_header(local, remote), 12))
            }
            (SocketAddr::V6(local), SocketAddr::V6(remote)) => {
                let label = flow.label(local, remote);
                Some(Self::assemble(path, ETHERTYPE_IPV6, ipv6_header(local, remote, label), 8))
            }
            _ => None,
        }
    }

    /// Puts the headers together. Addresses begin at `addresses_at` and end with the IP header.
    fn assemble<const IP: usize>(
        path: &Path,
        ethertype: u16,
        ip: [u8; IP],
        addresses_at: usize,
    ) -> Self {
        let headers_bytes = usize::from(path.link.len) + IP + UDP_BYTES;
        let (start, ip_at) = (BLOCK_BYTES - headers_bytes, UDP_AT - IP);
        let ports = [path.local.port().to_be_bytes(), path.remote.port().to_be_bytes()];
        let mut block = [0; BLOCK_BYTES];
        // All that a link header may be, since a fixed length is cheaper than the right one: what
        // follows lies over the rest.
        block[start..start + path.link.header.len()].copy_from_slice(&path.link.header);
        block[ip_at - 2..ip_at].copy_from_slice(&ethertype.to_be_bytes());
        block[ip_at..UDP_AT].copy_from_slice(&ip);
        block[UDP_AT..UDP_AT + 4].copy_from_slice(ports.as_flattened());
        block[UDP_AT + 4..].fill(0);
        Self {
            headers_bytes,
            ip_sum: sum(&ip),
            addresses_sum: sum(&ip[addresses_at..]),
            ports_sum: sum(ports.as_flattened()),
            ipv6: IP == IPV6_BYTES,
            block,
        }
    }

    /// Bytes of all headers together.
    #[must_use]
    pub const fn headers_bytes(&self) -> usize {
        self.headers_bytes
    }

    /// Writes the headers into `frame` in front of the payload that lies at `payload`. Returns
    /// where the packet lies. `payload` has to begin [`Template::ROOM_BYTES`] or more behind the
    /// start of `frame`, and the packet must fit into 65,535 bytes.
    ///
    /// # Panics
    /// If `payload` lies outside of `frame` or leaves too little room in front.
    pub fn write(&self, frame: &mut [u8], payload: Range<usize>, ecn: Ecn) -> Range<usize> {
        let (front, rest) = frame.split_at_mut(payload.start);
        let payload_sum = sum(&rest[..payload.len()]);
        let (block, length) = self.write_block(front, payload.len(), ecn);
        // The length stands in the pseudo header and in the header.
        let total = self.pseudo_sum(payload.len())
            + self.ports_sum
            + u64::from(u16::from_ne_bytes(length))
            + payload_sum;
        // RFC 768: a computed zero is sent as all ones.
        let checksum = match !fold(total) {
            0 => 0xffff,
            checksum => checksum,
        };
        block[UDP_AT + 6..].copy_from_slice(&checksum.to_ne_bytes());
        payload.start - self.headers_bytes..payload.end
    }

    /// As [`Template::write`], and leaves the UDP checksum to the NIC or the kernel: in its place
    /// stands the sum of the pseudo header, to which a NIC adds the header and the payload. The payload is
    /// not read.
    ///
    /// # Panics
    /// As [`Template::write`].
    pub fn write_unsummed(
        &self,
        frame: &mut [u8],
        payload: Range<usize>,
        ecn: Ecn,
    ) -> Range<usize> {
        let front = &mut frame[..payload.start];
        let (block, _) = self.write_block(front, payload.len(), ecn);
        let pseudo = fold(self.pseudo_sum(payload.len()));
        block[UDP_AT + 6..].copy_from_slice(&pseudo.to_ne_bytes());
        payload.start - self.headers_bytes..payload.end
    }

    /// Writes all but the UDP checksum at the end of `front`. Returns the block, and the UDP length
    /// as it stands in it.
    fn write_block<'a>(
        &self,
        front: &'a mut [u8],
        payload_bytes: usize,
        ecn: Ecn,
    ) -> (&'a mut [u8], [u8; 2]) {
        let room = front.len() - BLOCK_BYTES;
        let block = &mut front[room..];
        block.copy_from_slice(&self.block);
        let udp_bytes = UDP_BYTES + payload_bytes;
        if self.ipv6 {
            set_ipv6(block, udp_bytes, ecn);
        } else {
            self.set_ipv4(block, udp_bytes, ecn);
        }
        let length = (udp_bytes as u16).to_be_bytes();
        block[UDP_AT + 4..UDP_AT + 6].copy_from_slice(&length);
        (block, length)
    }

    /// The sum of the pseudo header (RFC 768, RFC 8200 §8.1).
    const fn pseudo_sum(&self, payload_bytes: usize) -> u64 {
        self.addresses_sum + pseudo_tail(UDP_BYTES + payload_bytes)
    }

    /// Room that [`Template::write`] needs in front of the payload, in bytes.
    pub const ROOM_BYTES: usize = BLOCK_BYTES;

    fn set_ipv4(&self, block: &mut [u8], udp_bytes: usize, ecn: Ecn) {
        let ip = &mut block[UDP_AT - IPV4_BYTES..UDP_AT];
        let length = ((IPV4_BYTES + udp_bytes) as u16).to_be_bytes();
        ip[1] = ecn.bits();
        ip[2..4].copy_from_slice(&length);
        // The template's sum holds the first octet already: add the second alone.
        let tos = u64::from(u16::from_ne_bytes([0, ecn.bits()]));
        let total = self.ip_sum + tos + u64::from(u16::from_ne_bytes(length));
        ip[10..12].copy_from_slice(&(!fold(total)).to_ne_bytes());
    }
}

fn set_ipv6(block: &mut [u8], udp_bytes: usize, ecn: Ecn) {
    let ip = &mut block[UDP_AT - IPV6_BYTES..UDP_AT];
    // RFC 8200 §3: the low bits of the traffic class are the high nibble of the second octet.
    ip[1] |= ecn.bits() << 4;
    ip[4..6].copy_from_slice(&(udp_bytes as u16).to_be_bytes());
}

/// What is constant of an IPv4 header.
fn ipv4_header(local: SocketAddrV4, remote: SocketAddrV4) -> [u8; IPV4_BYTES] {
    let mut ip = [0; IPV4_BYTES];
    ip[0] = 0x45;
    // RFC 6864 §4.1: a datagram that is never fragmented needs no identification.
    ip[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
    ip[8] = HOP_LIMIT;
    ip[9] = PROTOCOL_UDP;
    ip[12..16].copy_from_slice(&local.ip().octets());
    ip[16..20].copy_from_slice(&remote.ip().octets());
    ip
}

/// What is constant of an IPv6 header.
fn ipv6_header(local: SocketAddrV6, remote: SocketAddrV6, label: u32) -> [u8; IPV6_BYTES] {
    let mut ip = [0; IPV6_BYTES];
    ip[..4].copy_from_slice(&(6 << 28 | label).to_be_bytes());
    ip[6] = PROTOCOL_UDP;
    ip[7] = HOP_LIMIT;
    ip[8..24].copy_from_slice(&local.ip().octets());
    ip[24..40].copy_from_slice(&remote.ip().octets());
    ip
}
