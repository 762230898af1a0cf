//! The headers of a path, ready to be put in front of a payload.

use super::{
    ETHERNET_BYTES, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_BYTES, IPV6_BYTES, PROTOCOL_UDP,
    UDP_BYTES, VLAN_BYTES, VLAN_TAGS_MAX, fold, pseudo_tail, sum,
};
use crate::datapath::Path;
use crate::ecn::Ecn;
use std::net::SocketAddr;
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
    fn label(self, local: SocketAddr, remote: SocketAddr) -> u32 {
        let mut hash = self.0;
        for endpoint in [local, remote] {
            let SocketAddr::V6(endpoint) = endpoint else { continue };
            let bits = u128::from_be_bytes(endpoint.ip().octets());
            hash = mix(hash ^ bits as u64);
            hash = mix(hash ^ (bits >> 64) as u64);
            hash = mix(hash ^ u64::from(endpoint.port()));
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
    /// Sum of addresses and ports, for the UDP checksum.
    udp_sum: u64,
    ipv6: bool,
}

impl Template {
    /// The template of `path`; `None` while its link is unknown, or if its ends are of different
    /// families.
    #[must_use]
    pub fn new(path: &Path, flow: FlowKey) -> Option<Self> {
        let link_bytes = usize::from(path.link.len);
        if !path.link.is_known() {
            return None;
        }
        let (ip_bytes, ethertype) = match (path.local, path.remote) {
            (SocketAddr::V4(_), SocketAddr::V4(_)) => (IPV4_BYTES, ETHERTYPE_IPV4),
            (SocketAddr::V6(_), SocketAddr::V6(_)) => (IPV6_BYTES, ETHERTYPE_IPV6),
            _ => return None,
        };
        let headers_bytes = link_bytes + ip_bytes + UDP_BYTES;
        let mut template = Self {
            block: [0; BLOCK_BYTES],
            headers_bytes,
            ip_sum: 0,
            udp_sum: 0,
            ipv6: ip_bytes == IPV6_BYTES,
        };
        let headers = &mut template.block[BLOCK_BYTES - headers_bytes..];
        let (link, rest) = headers.split_at_mut(link_bytes);
        link.copy_from_slice(&path.link.header[..link_bytes]);
        link[link_bytes - 2..].copy_from_slice(&ethertype.to_be_bytes());
        let (ip, udp) = rest.split_at_mut(ip_bytes);
        let addresses_sum = write_ip(ip, path, flow);
        udp[..2].copy_from_slice(&path.local.port().to_be_bytes());
        udp[2..4].copy_from_slice(&path.remote.port().to_be_bytes());
        template.ip_sum = sum(ip);
        template.udp_sum = addresses_sum + sum(udp);
        Some(template)
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
        let room = front.len() - BLOCK_BYTES;
        let block: &mut [u8] = &mut front[room..];
        block.copy_from_slice(&self.block);
        let udp_bytes = UDP_BYTES + payload.len();
        if self.ipv6 {
            set_ipv6(block, udp_bytes, ecn);
        } else {
            self.set_ipv4(block, udp_bytes, ecn);
        }
        let length = (udp_bytes as u16).to_be_bytes();
        block[BLOCK_BYTES - 4..BLOCK_BYTES - 2].copy_from_slice(&length);
        // The length stands in the pseudo header and in the header.
        let total = self.udp_sum
            + pseudo_tail(udp_bytes)
            + u64::from(u16::from_ne_bytes(length))
            + payload_sum;
        // RFC 768: a computed zero is sent as all ones.
        let checksum = match !fold(total) {
            0 => 0xffff,
            checksum => checksum,
        };
        block[BLOCK_BYTES - 2..].copy_from_slice(&checksum.to_ne_bytes());
        payload.start - self.headers_bytes..payload.end
    }

    /// Room that [`Template::write`] needs in front of the payload, in bytes.
    pub const ROOM_BYTES: usize = BLOCK_BYTES;

    fn set_ipv4(&self, block: &mut [u8], udp_bytes: usize, ecn: Ecn) {
        let ip = &mut block[BLOCK_BYTES - UDP_BYTES - IPV4_BYTES..BLOCK_BYTES - UDP_BYTES];
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
    let ip = &mut block[BLOCK_BYTES - UDP_BYTES - IPV6_BYTES..BLOCK_BYTES - UDP_BYTES];
    // RFC 8200 §3: the low bits of the traffic class are the high nibble of the second octet.
    ip[1] |= ecn.bits() << 4;
    ip[4..6].copy_from_slice(&(udp_bytes as u16).to_be_bytes());
}

/// Writes what is constant of the network header; returns the sum of its addresses.
fn write_ip(ip: &mut [u8], path: &Path, flow: FlowKey) -> u64 {
    match (path.local, path.remote) {
        (SocketAddr::V4(local), SocketAddr::V4(remote)) => {
            ip[0] = 0x45;
            // RFC 6864 §4.1: a datagram that is never fragmented needs no identification.
            ip[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
            ip[8] = HOP_LIMIT;
            ip[9] = PROTOCOL_UDP;
            ip[12..16].copy_from_slice(&local.ip().octets());
            ip[16..20].copy_from_slice(&remote.ip().octets());
            sum(&ip[12..20])
        }
        (SocketAddr::V6(local), SocketAddr::V6(remote)) => {
            let word = 6 << 28 | flow.label(path.local, path.remote);
            ip[..4].copy_from_slice(&word.to_be_bytes());
            ip[6] = PROTOCOL_UDP;
            ip[7] = HOP_LIMIT;
            ip[8..24].copy_from_slice(&local.ip().octets());
            ip[24..40].copy_from_slice(&remote.ip().octets());
            sum(&ip[8..40])
        }
        // Template::new has refused mixed families.
        _ => 0,
    }
}
