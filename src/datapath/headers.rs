//! Ethernet, VLAN, IPv4, IPv6, UDP and their checksums.
//!
//! A frame of ours looks like this, and nothing else is ours:
//!
//! ```text
//! | destination MAC 6 | source MAC 6 | tags 0, 4 or 8 | EtherType 2 | IPv4 20 or IPv6 40 | UDP 8 | payload |
//! ```
//!
//! Fragments, IPv4 options and IPv6 extension headers are legal and rare: the kernel has the code
//! for them, so they are left to it and come back through the kernel socket beside the port. What
//! is left has headers of a fixed length, which the XDP program and [`parse`] can both check with
//! a handful of comparisons.
//!
//! - [`parse`] takes a received frame apart: path, ECN, where the payload lies, or a
//!   [`DropReason`].
//! - [`Template`] holds what is the same for every packet of a path and writes the headers in
//!   front of a payload that lies in its frame already.
//! - [`verdict`] is the XDP program's decision in Rust, so that the two parsers can be compared on
//!   every input.
//!
//! # The rule for VLAN tags
//!
//! Up to two tags (802.1Q, 802.1ad) are looked through. The XDP program takes a frame if each of
//! its tags is of a VLAN that was allowed (`LinkRules`; by default no VLAN is), and the reply
//! carries the same tags in the same order. Frames with other tags, or with a third one, are left
//! to the kernel, which knows its VLAN devices. A tag that the NIC strips before XDP, or that generic
//! XDP hides, cannot be seen here: `ethtool -K DEV rxvlan off` where neighbours share a trunk.
//!
//! The same program leaves frames to another MAC than the device's to the kernel. What reaches
//! [`parse`] has passed it.

use super::{Checksum, Link, Path, QueueStats};
use crate::ecn::Ecn;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;

mod checksum;
mod link_rules;
mod template;
mod verdict;

#[cfg(test)]
mod tests;

pub(crate) use checksum::fold;
pub use checksum::sum;
pub(crate) use link_rules::LinkRules;
pub use link_rules::{BadVlan, VlanSet};
pub use template::{FlowKey, HEADERS_MAX_BYTES, Template};
pub(crate) use verdict::PORT_DROP_SMALL_INITIALS;
#[cfg(test)]
pub(crate) use verdict::verdict_on;
pub use verdict::{Verdict, VerdictCounters, verdict, verdict_for};

/// Bytes of an Ethernet header without tags.
pub(crate) const ETHERNET_BYTES: usize = 14;
/// Bytes of a VLAN tag.
pub(crate) const VLAN_BYTES: usize = 4;
/// How many tags are looked through.
pub(crate) const VLAN_TAGS_MAX: usize = 2;
/// Bytes of an IPv4 header without options.
pub(crate) const IPV4_BYTES: usize = 20;
/// Bytes of an IPv6 header.
pub(crate) const IPV6_BYTES: usize = 40;
/// Bytes of a UDP header.
pub(crate) const UDP_BYTES: usize = 8;

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
pub(crate) const ETHERTYPE_VLAN: u16 = 0x8100;
pub(crate) const ETHERTYPE_QINQ: u16 = 0x88a8;
pub(crate) const PROTOCOL_UDP: u8 = 17;
/// More fragments, and the fragment offset (RFC 791 §3.1).
const FRAGMENT_BITS: u16 = 0x3fff;

/// A received frame, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Addresses and ports as seen from here, and the link header to answer with.
    pub path: Path,
    /// The ECN codepoint of the IP header.
    pub ecn: Ecn,
    /// Where the UDP payload lies in the frame; never empty.
    pub payload: Range<usize>,
    /// What is known of the UDP checksum.
    pub checksum: Checksum,
}

/// Why a received frame is dropped. Each has its counter in [`QueueStats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Not Ethernet with IP and UDP, cut short, or from an address that cannot be answered.
    Malformed,
    /// The IPv4 header checksum is wrong.
    IpChecksum,
    /// The UDP checksum is zero under IPv6, or wrong where it is [verified](Checksums::Verify).
    UdpChecksum,
    /// The UDP length is below 8, or beyond the IP packet.
    UdpLength,
    /// There is not a byte of payload.
    Empty,
}

impl DropReason {
    /// Counts this drop.
    pub const fn count(self, stats: &mut QueueStats) {
        match self {
            Self::Malformed => stats.drop_malformed += 1,
            Self::IpChecksum => stats.drop_ip_checksum += 1,
            Self::UdpChecksum => stats.drop_udp_checksum += 1,
            Self::UdpLength => stats.drop_udp_length += 1,
            Self::Empty => stats.drop_empty += 1,
        }
    }
}

/// Who verifies the checksums of a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// Compute and compare them.
    Verify,
    /// Compare that of the IPv4 header, which routes, and check that UDP has one under IPv6. The
    /// UDP checksum itself is compared only where no AEAD guards the datagram:
    /// [`Parsed::checksum`].
    Defer,
    /// The hardware has, and said so for this frame.
    Trusted,
}

/// Takes a received frame apart.
///
/// # Errors
/// The reason for which the frame has to be dropped and counted.
pub fn parse(frame: &[u8], checksums: Checksums) -> Result<Parsed, DropReason> {
    let (ethertype, at) = ethernet(frame).ok_or(DropReason::Malformed)?;
    let network = match ethertype {
        ETHERTYPE_IPV4 => ipv4(frame, at, checksums)?,
        ETHERTYPE_IPV6 => ipv6(frame, at)?,
        _ => return Err(DropReason::Malformed),
    };
    let (ports, payload, checksum) = udp(frame, &network, checksums)?;
    let path = Path {
        local: network.endpoint(network.destination, ports.destination),
        remote: network.endpoint(network.source, ports.source),
        link: link_back(frame, at),
    };
    if !answerable(&path) {
        return Err(DropReason::Malformed);
    }
    if payload.is_empty() {
        return Err(DropReason::Empty);
    }
    Ok(Parsed { path, ecn: network.ecn, payload, checksum })
}

/// The EtherType behind at most two tags, and where the network header begins.
fn ethernet(frame: &[u8]) -> Option<(u16, usize)> {
    let mut at = ETHERNET_BYTES;
    let mut ethertype = read_u16(frame, at - 2)?;
    for _ in 0..VLAN_TAGS_MAX {
        if !is_vlan(ethertype) {
            break;
        }
        at += VLAN_BYTES;
        ethertype = read_u16(frame, at - 2)?;
    }
    Some((ethertype, at))
}

const fn is_vlan(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ
}

/// What the network header says: who, how marked, and which bytes belong to UDP.
struct Network {
    source: IpAddr,
    destination: IpAddr,
    ecn: Ecn,
    transport: Range<usize>,
}

impl Network {
    const fn endpoint(&self, ip: IpAddr, port: u16) -> SocketAddr {
        match ip {
            IpAddr::V4(ip) => SocketAddr::V4(SocketAddrV4::new(ip, port)),
            IpAddr::V6(ip) => SocketAddr::V6(SocketAddrV6::new(ip, port, 0, 0)),
        }
    }
}

fn ipv4(frame: &[u8], at: usize, checksums: Checksums) -> Result<Network, DropReason> {
    let header: &[u8; IPV4_BYTES] =
        frame.get(at..).and_then(<[u8]>::first_chunk).ok_or(DropReason::Malformed)?;
    let fragment = u16::from_be_bytes([header[6], header[7]]) & FRAGMENT_BITS;
    if header[0] != 0x45 || fragment != 0 || header[9] != PROTOCOL_UDP {
        return Err(DropReason::Malformed);
    }
    // RFC 791 §3.1: the sum over a header with its checksum is all ones.
    if checksums != Checksums::Trusted && fold(sum(header)) != 0xffff {
        return Err(DropReason::IpChecksum);
    }
    let end = at + usize::from(u16::from_be_bytes([header[2], header[3]]));
    if end < at + IPV4_BYTES + UDP_BYTES || end > frame.len() {
        return Err(DropReason::Malformed);
    }
    Ok(Network {
        source: IpAddr::V4(Ipv4Addr::new(header[12], header[13], header[14], header[15])),
        destination: IpAddr::V4(Ipv4Addr::new(header[16], header[17], header[18], header[19])),
        ecn: Ecn::from_tos(header[1]),
        transport: at + IPV4_BYTES..end,
    })
}

fn ipv6(frame: &[u8], at: usize) -> Result<Network, DropReason> {
    let header: &[u8; IPV6_BYTES] =
        frame.get(at..).and_then(<[u8]>::first_chunk).ok_or(DropReason::Malformed)?;
    if header[0] >> 4 != 6 || header[6] != PROTOCOL_UDP {
        return Err(DropReason::Malformed);
    }
    let start = at + IPV6_BYTES;
    let end = start + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if end < start + UDP_BYTES || end > frame.len() {
        return Err(DropReason::Malformed);
    }
    Ok(Network {
        source: IpAddr::V6(ipv6_address(header, 8)),
        destination: IpAddr::V6(ipv6_address(header, 24)),
        // RFC 8200 §3: the traffic class lies across the first two octets.
        ecn: Ecn::from_tos(header[1] >> 4),
        transport: start..end,
    })
}

fn ipv6_address(header: &[u8; IPV6_BYTES], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&header[at..at + 16]);
    Ipv6Addr::from(octets)
}

struct Ports {
    source: u16,
    destination: u16,
}

fn udp(
    frame: &[u8],
    network: &Network,
    checksums: Checksums,
) -> Result<(Ports, Range<usize>, Checksum), DropReason> {
    let segment = &frame[network.transport.clone()];
    let header: &[u8; UDP_BYTES] = segment.first_chunk().ok_or(DropReason::Malformed)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    // RFC 768: the length counts the header. What IP carries beyond it is padding.
    if length < UDP_BYTES || length > segment.len() {
        return Err(DropReason::UdpLength);
    }
    let checksum = udp_checksum(&segment[..length], network, checksums)?;
    let start = network.transport.start;
    let ports = Ports {
        source: u16::from_be_bytes([header[0], header[1]]),
        destination: u16::from_be_bytes([header[2], header[3]]),
    };
    Ok((ports, start + UDP_BYTES..start + length, checksum))
}

fn udp_checksum(
    segment: &[u8],
    network: &Network,
    checksums: Checksums,
) -> Result<Checksum, DropReason> {
    if checksums == Checksums::Trusted {
        return Ok(Checksum::Verified);
    }
    let field = [segment[6], segment[7]];
    // RFC 768: zero means none under IPv4. RFC 8200 §8.1: not under IPv6, where nothing else
    // guards the addresses.
    if field == NO_CHECKSUM && network.source.is_ipv6() {
        return Err(DropReason::UdpChecksum);
    }
    if checksums == Checksums::Defer {
        return Ok(Checksum::Unverified(field));
    }
    if field == NO_CHECKSUM {
        return Ok(Checksum::Verified);
    }
    let pseudo = pseudo_sum(network.source, network.destination, segment.len());
    if fold(pseudo + sum(segment)) == FULL_SUM {
        Ok(Checksum::Verified)
    } else {
        Err(DropReason::UdpChecksum)
    }
}

/// What stands in the header of a datagram without a checksum.
const NO_CHECKSUM: [u8; 2] = [0, 0];
/// RFC 1071: the sum over data with its checksum.
const FULL_SUM: u16 = 0xffff;

/// True if a datagram from `path.remote` to `path.local` matches the two bytes of its checksum.
///
/// Where both ends of a wire are virtual, the kernel leaves a checksum to hardware that does not
/// exist: what stands in the header is the sum of the pseudo header, for that hardware to go on
/// from. This is recognised, and counts as no checksum: addresses, protocol and length are as they
/// were sent, and memory carried the rest. A damaged datagram looks like it once in 65,536 times,
/// as often as a wrong checksum looks right.
#[must_use]
pub(crate) fn udp_checksum_holds(path: &Path, field: [u8; 2], payload: &[u8]) -> bool {
    let (source, destination) = (path.remote, path.local);
    if field == NO_CHECKSUM {
        return source.is_ipv4();
    }
    let bytes = UDP_BYTES + payload.len();
    let pseudo = pseudo_sum(source.ip(), destination.ip(), bytes);
    let field = u64::from(u16::from_ne_bytes(field));
    let word = |value: u16| u64::from(value.to_be());
    let header = word(source.port()) + word(destination.port()) + word(bytes as u16) + field;
    u64::from(fold(pseudo)) == field || fold(pseudo + header + sum(payload)) == FULL_SUM
}

fn pseudo_sum(source: IpAddr, destination: IpAddr, udp_bytes: usize) -> u64 {
    let address = |ip| match ip {
        IpAddr::V4(ip) => sum(&Ipv4Addr::octets(&ip)),
        IpAddr::V6(ip) => sum(&Ipv6Addr::octets(&ip)),
    };
    address(source) + address(destination) + pseudo_tail(udp_bytes)
}

/// The protocol and length words of the pseudo header, as they sum in memory order.
const fn pseudo_tail(udp_bytes: usize) -> u64 {
    let length = (udp_bytes as u16).to_be();
    let protocol = (PROTOCOL_UDP as u16).to_be();
    length as u64 + protocol as u64
}

/// The link header of a reply: MACs swapped, tags and EtherType as they came. Unknown when the
/// frame was not sent to us alone, since a group address is no source.
fn link_back(frame: &[u8], len: usize) -> Link {
    let group = |mac: u8| mac & 1 == 1;
    if group(frame[0]) || group(frame[6]) {
        return Link::UNKNOWN;
    }
    let mut header = [0; 22];
    header[..6].copy_from_slice(&frame[6..12]);
    header[6..12].copy_from_slice(&frame[..6]);
    // The tags are 0, 4 or 8 bytes long: fixed copies are cheaper than one of variable length.
    match len {
        ETHERNET_BYTES => header[12..14].copy_from_slice(&frame[12..14]),
        18 => header[12..18].copy_from_slice(&frame[12..18]),
        _ => header[12..22].copy_from_slice(&frame[12..22]),
    }
    Link { header, len: len as u8 }
}

/// True if a datagram can be answered. RFC 1122 §3.2.1.3 forbids the other addresses as sources,
/// and no socket has port 0. The destination must be unicast, or the reply would come from a group.
const fn answerable(path: &Path) -> bool {
    path.remote.port() != 0 && unicast(path.remote.ip()) && unicast(path.local.ip())
}

const fn unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let first = ip.octets()[0];
            // This network, loopback, and groups up to the limited broadcast.
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(ip) => {
            let words = ip.segments();
            let mapped = matches!(words, [0, 0, 0, 0, 0, 0xffff, _, _]);
            !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || mapped)
        }
    }
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]))
}
