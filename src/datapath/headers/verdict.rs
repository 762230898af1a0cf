//! The XDP program's decision, in Rust.
//!
//! This is not on the packet path: it exists so that every input can be given to both parsers and
//! the answers compared. It follows `bpf/steer.bpf.c` step by step, and `bpf/steer.h` numbers the
//! verdicts as [`Verdict`] does, which a test reads.

use super::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, FRAGMENT_BITS, IPV4_BYTES, IPV6_BYTES, LinkRules, PROTOCOL_UDP,
    UDP_BYTES, ethernet, is_vlan, read_u16,
};
use crate::counters::reasons;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Set for a port on which servers listen: Initials in datagrams below 1200 bytes are dropped by
/// the program (RFC 9000 §14.1). Servers may send small ones, so a client's port must not have it.
pub(crate) const PORT_DROP_SMALL_INITIALS: u32 = 1;

/// The smallest datagram that may carry a client's Initial (RFC 9000 §14.1).
const INITIAL_MIN_BYTES: usize = 1200;
/// Bytes of a long header up to the end of the version (RFC 8999 §5.1).
const LONG_HEADER_BYTES: usize = 5;
/// IPv6 next headers that are extension headers (RFC 8200 §4, RFC 4302, 4303, 6275, 7401, 5533).
const EXTENSION_HEADERS: [u8; 8] = [0, 43, 50, 51, 60, 135, 139, 140];
const EXTENSION_FRAGMENT: u8 = 44;

reasons! {
    /// What the XDP program does with a frame, and why.
    pub enum Verdict(u32);
    /// How often each verdict was given since the program was loaded, on all CPUs.
    pub struct VerdictCounters, counted by "the XDP program" {
        /// Ours: handed to the AF_XDP socket of the receive queue.
        Redirect = "redirect";
        /// Passed: the frame ends before the headers do.
        PassShort = "pass-short";
        /// Passed: neither IPv4 nor IPv6.
        PassNotIp = "pass-not-ip";
        /// Passed: more than two VLAN tags.
        PassVlanDepth = "pass-vlan-depth";
        /// Passed: the version is not what the EtherType says, or IHL is below 5.
        PassMalformed = "pass-malformed";
        /// Passed: a fragment, IPv4 or IPv6.
        PassFragment = "pass-fragment";
        /// Passed: IPv4 options.
        PassOptions = "pass-options";
        /// Passed: IPv6 extension headers.
        PassExtension = "pass-extension";
        /// Passed: not UDP.
        PassNotUdp = "pass-not-udp";
        /// Passed: this address and port are not registered.
        PassNotListened = "pass-not-listened";
        /// Passed: ours, but the receive queue has no socket.
        PassNoSocket = "pass-no-socket";
        /// Dropped: a client's Initial in a datagram of less than 1200 bytes.
        DropSmallInitial = "drop-small-initial";
        /// Passed: ours, but in a VLAN that was not allowed.
        PassVlan = "pass-vlan";
        /// Passed: ours, but to another MAC than the device's.
        PassOtherHost = "pass-other-host";
    }
}

impl Verdict {
    /// The verdict with this number in the program.
    #[must_use]
    pub fn from_raw(raw: u32) -> Option<Self> {
        Self::ALL.get(raw as usize).copied()
    }
}

impl VerdictCounters {
    /// Frames that the program saw.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.values().iter().sum()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The program's decision when servers listen to every address and port, and every queue has a
/// socket.
#[must_use]
pub fn verdict(frame: &[u8]) -> Verdict {
    verdict_for(frame, |_| Some(PORT_DROP_SMALL_INITIALS))
}

/// The program's decision when `flags_of` tells the flags of a registered address and port.
#[must_use]
pub fn verdict_for(frame: &[u8], flags_of: impl Fn(SocketAddr) -> Option<u32>) -> Verdict {
    decide(frame, None, flags_of).unwrap_or_else(|passed| passed)
}

/// As [`verdict_for`], of the program of a device that takes frames by `rules`: the others take
/// them from any neighbour.
#[must_use]
#[cfg(test)]
pub(crate) fn verdict_on(
    frame: &[u8],
    rules: &LinkRules,
    flags_of: impl Fn(SocketAddr) -> Option<u32>,
) -> Verdict {
    decide(frame, Some(rules), flags_of).unwrap_or_else(|passed| passed)
}

/// `Err` is an early end, as in the program.
fn decide(
    frame: &[u8],
    rules: Option<&LinkRules>,
    flags_of: impl Fn(SocketAddr) -> Option<u32>,
) -> Result<Verdict, Verdict> {
    let (ethertype, at) = ethernet(frame).ok_or(Verdict::PassShort)?;
    let (destination, at) = match ethertype {
        ETHERTYPE_IPV4 => ipv4(frame, at)?,
        ETHERTYPE_IPV6 => ipv6(frame, at)?,
        other if is_vlan(other) => return Err(Verdict::PassVlanDepth),
        _ => return Err(Verdict::PassNotIp),
    };
    let udp = frame.get(at..at + UDP_BYTES).ok_or(Verdict::PassShort)?;
    let port = u16::from_be_bytes([udp[2], udp[3]]);
    let flags = flags_of(SocketAddr::new(destination, port)).ok_or(Verdict::PassNotListened)?;
    rules.map_or(Ok(()), |rules| rules.admit(frame))?;
    let length = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
    if flags & PORT_DROP_SMALL_INITIALS != 0 && small_initial(&frame[at + UDP_BYTES..], length) {
        return Ok(Verdict::DropSmallInitial);
    }
    Ok(Verdict::Redirect)
}

fn ipv4(frame: &[u8], at: usize) -> Result<(IpAddr, usize), Verdict> {
    let header = frame.get(at..at + IPV4_BYTES).ok_or(Verdict::PassShort)?;
    let words = header[0] & 0x0f;
    if header[0] >> 4 != 4 || words < 5 {
        return Err(Verdict::PassMalformed);
    }
    if u16::from_be_bytes([header[6], header[7]]) & FRAGMENT_BITS != 0 {
        return Err(Verdict::PassFragment);
    }
    if words > 5 {
        return Err(Verdict::PassOptions);
    }
    if header[9] != PROTOCOL_UDP {
        return Err(Verdict::PassNotUdp);
    }
    let destination = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
    Ok((IpAddr::V4(destination), at + IPV4_BYTES))
}

fn ipv6(frame: &[u8], at: usize) -> Result<(IpAddr, usize), Verdict> {
    let header = frame.get(at..at + IPV6_BYTES).ok_or(Verdict::PassShort)?;
    if header[0] >> 4 != 6 {
        return Err(Verdict::PassMalformed);
    }
    match header[6] {
        PROTOCOL_UDP => {}
        EXTENSION_FRAGMENT => return Err(Verdict::PassFragment),
        other if EXTENSION_HEADERS.contains(&other) => return Err(Verdict::PassExtension),
        _ => return Err(Verdict::PassNotUdp),
    }
    let mut octets = [0; 16];
    octets.copy_from_slice(&header[24..40]);
    Ok((IpAddr::V6(Ipv6Addr::from(octets)), at + IPV6_BYTES))
}

/// RFC 9000 §14.1, by the length that the UDP header declares: if it lies, the socket's parser
/// drops the datagram and counts why.
fn small_initial(payload: &[u8], udp_length: usize) -> bool {
    let small = UDP_BYTES + LONG_HEADER_BYTES..UDP_BYTES + INITIAL_MIN_BYTES;
    if !small.contains(&udp_length) {
        return false;
    }
    let Some(header) = payload.get(..LONG_HEADER_BYTES) else { return false };
    let version_1 = read_u16(header, 1) == Some(0) && read_u16(header, 3) == Some(1);
    // RFC 9000 §17.2: the form bit, and 00 as the type.
    header[0] & 0xb0 == 0x80 && version_1
}
