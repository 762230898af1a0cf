//! What rtnetlink tells of a device: the link layer, and the XDP programs on it.

use super::netlink::{Attributes, Question, u32_at};
use super::refused::Refused;
use super::{Kernel, ethtool};
use crate::topology::survey::device::{AttachMode, Attached, Link};
use neli::consts::rtnl::Rtm;

const CALL: &str = "netlink RTM_GETLINK";
/// Family, type, index, flags, change: what stands before the attributes.
const FIXED_BYTES: usize = 16;

const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const LOWER: u16 = 5;
const MASTER: u16 = 10;
const STATE: u16 = 16;
const INFO: u16 = 18;
const EXTENSIONS: u16 = 29;
const TX_QUEUES: u16 = 31;
const RX_QUEUES: u16 = 32;
const CARRIER: u16 = 33;
const LOWER_NAMESPACE: u16 = 37;
const XDP: u16 = 43;
const MAX_MTU: u16 = 51;
const PERMANENT_ADDRESS: u16 = 54;

/// The link layer.
pub(super) fn link(kernel: &Kernel, device: &str) -> Result<Link, Refused> {
    let answer = ask(kernel, device)?;
    let mut link = read_link(&answer).ok_or(Refused::Garbled(CALL))?;
    link.speed_mbps = ethtool::speed_mbps(kernel, device);
    Ok(link)
}

/// The programs that are attached, at most one in each place.
pub(super) fn attached(kernel: &Kernel, device: &str) -> Result<Vec<Attached>, Refused> {
    let answer = ask(kernel, device)?;
    let attributes = answer.get(FIXED_BYTES..).ok_or(Refused::Garbled(CALL))?;
    Ok(read_attached(Attributes(attributes).nest(XDP)))
}

fn ask(kernel: &Kernel, device: &str) -> Result<Vec<u8>, Refused> {
    /// Without the counters of protocols, which are not used here.
    const SKIP_STATISTICS: u32 = 1 << 3;
    let question = Question::default().text(NAME, device).u32(EXTENSIONS, SKIP_STATISTICS);
    let body = [&[0; FIXED_BYTES], question.as_bytes()].concat();
    let mut found = Vec::new();
    kernel.route(|netlink| {
        netlink.ask(CALL, u16::from(Rtm::Getlink), false, &body, &mut |answer| {
            found = answer.to_vec();
        })
    })?;
    Ok(found)
}

fn read_link(answer: &[u8]) -> Option<Link> {
    const KIND: u16 = 1;
    const IS_UP: u32 = 1;
    const HAS_CARRIER: u32 = 1 << 16;
    let index = u32_at(answer, 4)?;
    let flags = u32_at(answer, 8)?;
    let attributes = Attributes(answer.get(FIXED_BYTES..)?);
    let carrier = attributes.number(CARRIER).map(|value| value != 0);
    // An index of another namespace means nothing here.
    let lower = attributes.u32(LOWER).filter(|_| !attributes.has(LOWER_NAMESPACE));
    Some(Link {
        kind: attributes.nest(INFO).text(KIND),
        address: attributes.get(ADDRESS).map(hardware_address).unwrap_or_default(),
        permanent_address: attributes.get(PERMANENT_ADDRESS).map(hardware_address),
        state: state(attributes.u32(STATE).unwrap_or(0)).to_owned(),
        is_up: flags & IS_UP != 0,
        has_carrier: carrier.unwrap_or(flags & HAS_CARRIER != 0),
        master: attributes.u32(MASTER),
        lower: lower.filter(|&lower| lower != index && lower != 0),
        rx_queues: attributes.u32(RX_QUEUES),
        tx_queues: attributes.u32(TX_QUEUES),
        speed_mbps: None,
        max_mtu_bytes: attributes.u32(MAX_MTU).filter(|&bytes| bytes != 0),
    })
}

/// RFC 2863's states, as `ip link` calls them.
fn state(number: u32) -> &'static str {
    const NAMES: [&str; 7] =
        ["unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up"];
    NAMES.get(number as usize).copied().unwrap_or("unknown")
}

fn hardware_address(bytes: &[u8]) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

/// Old kernels tell one program and where it sits; since 4.18 each place has a number of its own.
fn read_attached(xdp: Attributes<'_>) -> Vec<Attached> {
    const PLACE: u16 = 2;
    const ANY: u16 = 4;
    const PLACES: [(u16, u64, AttachMode); 3] =
        [(5, 1, AttachMode::Native), (6, 2, AttachMode::Generic), (7, 3, AttachMode::Offloaded)];
    let any = |place| xdp.u32(ANY).filter(|_| xdp.number(PLACE) == Some(place));
    let found = PLACES.into_iter().filter_map(|(own, place, mode)| {
        let program = xdp.u32(own).or_else(|| any(place)).filter(|&program| program != 0)?;
        Some(Attached { mode, program })
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::super::netlink::recorded;
    use super::*;

    /// From a veth with two queues and a native program, Linux 6.18, without counters.
    #[test]
    fn a_recorded_link_is_read() {
        let answer = recorded(
            "00000100 03000000 43100100 00000000 07000300 76610000 08000d00 e8030000
             05001000 06000000 05001100 00000000 05004300 00000000 08000400 dc050000
             08003200 44000000 08003300 ffff0000 08001b00 00000000 08001f00 02000000
             08000500 02000000 08002000 02000000 05002100 01000000 0a000100 aa8e6393
             c0e90000 1c002b00 08000500 f81d0000 05000200 01000000 08000400 f81d0000
             10001200 09000100 76657468 00000000",
        );
        let expected = Link {
            kind: Some("veth".to_owned()),
            address: "aa:8e:63:93:c0:e9".to_owned(),
            state: "up".to_owned(),
            is_up: true,
            has_carrier: true,
            lower: Some(2),
            rx_queues: Some(2),
            tx_queues: Some(2),
            max_mtu_bytes: Some(65_535),
            ..Link::default()
        };
        assert_eq!(read_link(&answer), Some(expected));
        let xdp = Attributes(&answer[FIXED_BYTES..]).nest(XDP);
        let native = Attached { mode: AttachMode::Native, program: 7_672 };
        assert_eq!(read_attached(xdp), [native]);
        for cut in 0..answer.len() {
            // No cut is a panic, and none invents a program.
            let xdp = Attributes(answer[..cut].get(FIXED_BYTES..).unwrap_or_default()).nest(XDP);
            assert!(read_attached(xdp).len() <= 1);
            drop(read_link(&answer[..cut]));
        }
    }

    #[test]
    fn programs_in_two_places_are_both_seen() {
        let native = Attached { mode: AttachMode::Native, program: 7 };
        let generic = Attached { mode: AttachMode::Generic, program: 9 };
        let several = Question::default().bytes(2, &[4]).u32(5, 7).u32(6, 9);
        assert_eq!(read_attached(Attributes(several.as_bytes())), [native, generic]);
        let old = Question::default().bytes(2, &[2]).u32(4, 9);
        assert_eq!(read_attached(Attributes(old.as_bytes())), [generic]);
        let none = Question::default().bytes(2, &[0]);
        assert_eq!(read_attached(Attributes(none.as_bytes())), []);
    }
}
