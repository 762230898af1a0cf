//! Classification rules (`ethtool -n`): where they are, and what each one looks at.
//!
//! A rule is a `struct ethtool_rx_flow_spec`: the kind of traffic, 52 bytes of values whose layout
//! depends on it, 20 bytes of values for any kind (MAC, VLAN, the driver's own), the same again as
//! masks, what to do, and the place. A bit that is set in the mask counts.

use super::Kernel;
use super::netlink::{number, u32_at};
use super::refused::Refused;
use crate::topology::survey::rss::{FlowType, NtupleRule, RuleAction};
use crate::topology::sys::{FLOW_BYTES, FlowCall};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Rules that are read.
const RULES_MAX: u32 = 65_536;
/// In the kind of traffic: the hash goes by a context.
pub(super) const OF_CONTEXT: u32 = 0x2000_0000;
/// In the kind of traffic: VLAN and the driver's own fields count.
const HAS_EXTENSION: u32 = 0x8000_0000;
/// In the kind of traffic: the destination MAC counts.
const HAS_MAC: u32 = 0x4000_0000;

/// Where the rule is in a `struct ethtool_rxnfc`, and its context or the number of rules.
const RULE_AT: usize = 16;
const CONTEXT_AT: usize = 184;
/// Offsets within the rule.
const VALUES_AT: usize = 4;
const MASKS_AT: usize = 76;
/// From the fields of a kind to those of any kind.
const EXTENSION: usize = 52;
const ACTION_AT: usize = 152;
const LOCATION_AT: usize = 160;

/// The kernel's number for a kind of traffic.
pub(super) const fn flow_number(flow: FlowType) -> u32 {
    match flow {
        FlowType::Tcp4 => 1,
        FlowType::Udp4 => 2,
        FlowType::Tcp6 => 5,
        FlowType::Udp6 => 6,
    }
}

/// Every rule of a device, by location.
pub(super) fn rules(kernel: &Kernel, device: &str) -> Result<Vec<NtupleRule>, Refused> {
    kernel.ioctl(|ethtool| {
        let mut answer = [0; FLOW_BYTES];
        ethtool.flow(device, FlowCall::RuleCount, &mut answer)?;
        let count = u32_at(&answer, CONTEXT_AT).unwrap_or(0).min(RULES_MAX);
        let locations = ethtool.locations(device, count)?;
        let mut rules = Vec::new();
        for location in locations.chunks_exact(4).filter_map(number) {
            let mut answer = [0; FLOW_BYTES];
            let at = RULE_AT + LOCATION_AT;
            answer[at..at + 4].copy_from_slice(&(location as u32).to_ne_bytes());
            match ethtool.flow(device, FlowCall::Rule, &mut answer) {
                Ok(()) => rules.extend(read_rule(&answer)),
                // Taken away since it was listed.
                Err(refused) if matches!(refused.errno(), libc::ENOENT | libc::EINVAL) => {}
                Err(refused) => return Err(refused),
            }
        }
        rules.sort_by_key(|rule| rule.location);
        Ok(rules)
    })
}

/// A field of a rule: bytes that are compared, and which bits of them count.
#[derive(Clone, Copy)]
struct Fields<'a> {
    values: &'a [u8],
    masks: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Value and mask of a field, unless no bit of it counts.
    fn get(self, at: usize, length: usize) -> Option<(&'a [u8], &'a [u8])> {
        let mask = self.masks.get(at..at + length)?;
        let counts = mask.iter().any(|&byte| byte != 0);
        counts.then_some((self.values.get(at..at + length)?, mask))
    }

    fn address(self, at: usize, length: usize) -> Option<(String, String)> {
        let (value, mask) = self.get(at, length)?;
        Some((address(value)?, address(mask)?))
    }

    fn port(self, at: usize) -> Option<(u16, u16)> {
        let (value, mask) = self.get(at, 2)?;
        Some((u16::from_be_bytes([value[0], value[1]]), u16::from_be_bytes([mask[0], mask[1]])))
    }

    /// `name 0xVALUE/0xMASK`, in the order of the bytes.
    fn other(self, name: &str, at: usize, length: usize) -> Option<String> {
        let (value, mask) = self.get(at, length)?;
        Some(format!("{name} 0x{}/0x{}", hex(value), hex(mask)))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn address(bytes: &[u8]) -> Option<String> {
    match *bytes {
        [a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d).to_string()),
        _ => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string()),
    }
}

fn read_rule(answer: &[u8; FLOW_BYTES]) -> Option<NtupleRule> {
    let rule = &answer[RULE_AT..];
    let kind = u32_at(rule, 0)?;
    let fields = Fields {
        values: rule.get(VALUES_AT..VALUES_AT + EXTENSION)?,
        masks: rule.get(MASKS_AT..MASKS_AT + EXTENSION)?,
    };
    let extension = Fields {
        values: rule.get(VALUES_AT + EXTENSION..MASKS_AT)?,
        masks: rule.get(MASKS_AT + EXTENSION..ACTION_AT)?,
    };
    let context = (kind & OF_CONTEXT != 0).then(|| u32_at(answer, CONTEXT_AT)).flatten();
    let mut read = NtupleRule {
        location: u32_at(rule, LOCATION_AT)?,
        action: action(number(rule.get(ACTION_AT..ACTION_AT + 8)?)?, context),
        ..NtupleRule::default()
    };
    read_fields(&mut read, kind & !(OF_CONTEXT | HAS_EXTENSION | HAS_MAC), fields);
    if kind & HAS_MAC != 0 {
        read.others.extend(extension.other("destination-mac", 2, 6));
    }
    if kind & HAS_EXTENSION != 0 {
        read.vlan = extension.port(10);
        read.others.extend(extension.other("vlan-etype", 8, 2));
        read.others.extend(extension.other("user-def", 12, 8));
    }
    Some(read)
}

fn read_fields(rule: &mut NtupleRule, kind: u32, fields: Fields<'_>) {
    /// Bytes of an address.
    const V4: usize = 4;
    const V6: usize = 16;
    let (name, length) = match kind {
        1 => ("tcp4", V4),
        2 => ("udp4", V4),
        3 => ("sctp4", V4),
        5 => ("tcp6", V6),
        6 => ("udp6", V6),
        7 => ("sctp6", V6),
        9 => ("ah4", V4),
        10 => ("esp4", V4),
        11 => ("ah6", V6),
        12 => ("esp6", V6),
        13 => ("ip4", V4),
        14 => ("ip6", V6),
        18 => ("ether", 0),
        _ => ("", 0),
    };
    rule.flow = if name.is_empty() { kind.to_string() } else { name.to_owned() };
    let (source, destination, behind) = (0, length, 2 * length);
    if length > 0 {
        rule.source = fields.address(source, length);
        rule.destination = fields.address(destination, length);
    }
    let others = match kind {
        1..=3 | 5..=7 => {
            rule.source_port = fields.port(behind);
            rule.destination_port = fields.port(behind + 2);
            [fields.other("tos", behind + 4, 1), None, None]
        }
        9..=12 => [fields.other("spi", behind, 4), fields.other("tos", behind + 4, 1), None],
        13 | 14 => {
            let protocol_at = if kind == 13 { behind + 6 } else { behind + 5 };
            [
                fields.other("l4data", behind, 4),
                fields.other("tos", behind + 4, 1),
                fields.other("l4proto", protocol_at, 1),
            ]
        }
        18 => [
            fields.other("destination-mac", 0, 6),
            fields.other("source-mac", 6, 6),
            fields.other("ethertype", 12, 2),
        ],
        _ => [fields.other("fields", 0, EXTENSION), None, None],
    };
    rule.others.extend(others.into_iter().flatten());
}

/// The queue is in the low half; above it the virtual function, counted from 1.
fn action(cookie: u64, context: Option<u32>) -> RuleAction {
    const DROP: u64 = u64::MAX;
    const FUNCTION_SHIFT: u32 = 32;
    let queue = cookie as u32;
    match (cookie, (cookie >> FUNCTION_SHIFT) as u8, context) {
        (DROP, _, _) => RuleAction::Drop,
        (_, _, Some(context)) => RuleAction::Context { queue_offset: queue, context },
        (_, 0, None) => RuleAction::Queue(queue),
        (_, function, None) => {
            RuleAction::VirtualFunction { function: u32::from(function) - 1, queue }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rule of a kind, with bytes at offsets of its values and masks.
    fn answer(kind: u32, cookie: u64, bytes: &[(usize, &[u8], &[u8])]) -> [u8; FLOW_BYTES] {
        let mut answer = [0; FLOW_BYTES];
        let mut put = |at: usize, bytes: &[u8]| {
            answer[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(RULE_AT, &kind.to_ne_bytes());
        put(RULE_AT + ACTION_AT, &cookie.to_ne_bytes());
        put(RULE_AT + LOCATION_AT, &1023u32.to_ne_bytes());
        put(CONTEXT_AT, &2u32.to_ne_bytes());
        for &(at, value, mask) in bytes {
            put(RULE_AT + VALUES_AT + at, value);
            put(RULE_AT + MASKS_AT + at, mask);
        }
        answer
    }

    fn pair(value: &str, mask: &str) -> Option<(String, String)> {
        Some((value.to_owned(), mask.to_owned()))
    }

    #[test]
    fn udp_to_a_port_goes_to_a_queue() {
        let fields: [(usize, &[u8], &[u8]); 2] =
            [(4, &[10, 0, 0, 1], &[255, 255, 255, 0]), (10, &4433u16.to_be_bytes(), &[255; 2])];
        let rule = read_rule(&answer(2, 3, &fields)).unwrap();
        let expected = NtupleRule {
            location: 1023,
            flow: "udp4".to_owned(),
            destination: pair("10.0.0.1", "255.255.255.0"),
            destination_port: Some((4433, 0xffff)),
            action: RuleAction::Queue(3),
            ..NtupleRule::default()
        };
        assert_eq!(rule, expected);
    }

    #[test]
    fn a_rule_may_go_to_a_context_or_a_virtual_function() {
        let source = [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let fields: [(usize, &[u8], &[u8]); 1] = [(0, &source, &[0xff; 16])];
        let rule = read_rule(&answer(6 | OF_CONTEXT, 1, &fields)).unwrap();
        assert_eq!(rule.action, RuleAction::Context { queue_offset: 1, context: 2 });
        assert_eq!(rule.source.unwrap().0, "fd77::1");
        let to_function = read_rule(&answer(1, 3 << 32 | 5, &[])).unwrap();
        let expected = RuleAction::VirtualFunction { function: 2, queue: 5 };
        assert_eq!(to_function.action, expected);
        assert_eq!(read_rule(&answer(1, u64::MAX, &[])).unwrap().action, RuleAction::Drop);
    }

    #[test]
    fn fields_that_are_not_understood_are_named() {
        let tos: (usize, &[u8], &[u8]) = (12, &[0x10], &[0xff]);
        let vlan: (usize, &[u8], &[u8]) = (EXTENSION + 10, &[0, 7], &[0x0f, 0xff]);
        let own: (usize, &[u8], &[u8]) = (EXTENSION + 12, &[1], &[0xff]);
        let rule = read_rule(&answer(2 | HAS_EXTENSION, 0, &[tos, vlan, own])).unwrap();
        assert_eq!(rule.vlan, Some((7, 0xfff)));
        let expected = ["tos 0x10/0xff", "user-def 0x0100000000000000/0xff00000000000000"];
        assert_eq!(rule.others, expected);
        // Without the flag, the same bytes count for nothing.
        assert_eq!(read_rule(&answer(2, 0, &[vlan, own])).unwrap().vlan, None);
        assert_eq!(read_rule(&answer(99, 0, &[tos])).unwrap().flow, "99");
    }
}
