//! What ethtool's ioctls tell: the driver, its counters, hashed fields, keys of older kernels.
//!
//! Offsets are those of the structures in `linux/ethtool.h`.

use super::netlink::{number, text, u32_at};
use super::refused::Refused;
use super::rss::{contexts_of_rules, hash_function, input_transform};
use super::{Kernel, rules};
use crate::topology::survey::device::Identity;
use crate::topology::survey::rss::{FlowHash, FlowType, RssContext};
use crate::topology::sys::{FLOW_BYTES, FlowCall, NAME_BYTES, RSS_BYTES};

/// Driver and firmware, as the driver describes itself.
pub(super) fn identity(kernel: &Kernel, device: &str) -> Result<Identity, Refused> {
    kernel.ioctl(|ethtool| ethtool.driver(device)).map(|answer| read_identity(&answer))
}

/// The name of the driver, or that it is not known.
pub(super) fn driver(kernel: &Kernel, device: &str) -> String {
    let driver = identity(kernel, device).map(|identity| identity.driver).unwrap_or_default();
    if driver.is_empty() { format!("of {device}") } else { driver }
}

/// The driver's own counters, in its order.
pub(super) fn statistics(kernel: &Kernel, device: &str) -> Result<Vec<(String, u64)>, Refused> {
    const COUNT_AT: usize = 180;
    kernel.ioctl(|ethtool| {
        let driver = ethtool.driver(device)?;
        let count = u32_at(&driver, COUNT_AT).unwrap_or(0);
        let names = ethtool.counter_names(device, count)?;
        let values = ethtool.counters(device, count)?;
        Ok(read_statistics(&names, &values))
    })
}

/// One context, from a kernel that does not report it over netlink.
pub(super) fn rss(kernel: &Kernel, device: &str, context: u32) -> Result<RssContext, Refused> {
    let answer = kernel.ioctl(|ethtool| ethtool.rss(device, context))?;
    read_rss(context, &answer).ok_or(Refused::Garbled("ioctl ETHTOOL_GRSSH"))
}

/// What is hashed of each kind of traffic, in context 0 and in those that rules send packets to.
/// What the driver does not report of one kind is left out as long as it tells of another.
pub(super) fn hash_fields(kernel: &Kernel, device: &str) -> Result<Vec<FlowHash>, Refused> {
    let mut found = Vec::new();
    let mut refused = None;
    for flow in FlowType::ALL {
        match fields(kernel, device, flow, 0) {
            Ok(hash) => found.push(hash),
            Err(error) => refused = Some(error),
        }
    }
    if let (true, Some(refused)) = (found.is_empty(), refused) {
        return Err(refused);
    }
    for context in contexts_of_rules(kernel, device) {
        let of_context = FlowType::ALL.into_iter();
        found.extend(of_context.filter_map(|flow| fields(kernel, device, flow, context).ok()));
    }
    Ok(found)
}

fn fields(
    kernel: &Kernel,
    device: &str,
    flow: FlowType,
    context: u32,
) -> Result<FlowHash, Refused> {
    const FLOW_AT: usize = 4;
    const FIELDS_AT: usize = 8;
    const CONTEXT_AT: usize = 184;
    let mut buffer = [0; FLOW_BYTES];
    let mut number = rules::flow_number(flow);
    if context != 0 {
        number |= rules::OF_CONTEXT;
        buffer[CONTEXT_AT..CONTEXT_AT + 4].copy_from_slice(&context.to_ne_bytes());
    }
    buffer[FLOW_AT..FLOW_AT + 4].copy_from_slice(&number.to_ne_bytes());
    kernel.ioctl(|ethtool| ethtool.flow(device, FlowCall::Fields, &mut buffer))?;
    let bits = u32_at(&buffer, FIELDS_AT).unwrap_or(0);
    Ok(FlowHash { flow, letters: letters(bits), context })
}

/// The bits of `RXH_*`, in the order in which [`FlowHash`] wants their letters.
const LETTERS: [(u32, char); 9] =
    [(1, 'm'), (2, 'v'), (3, 't'), (4, 's'), (5, 'd'), (6, 'f'), (7, 'n'), (31, 'r'), (8, 'e')];

fn letters(bits: u32) -> String {
    LETTERS.into_iter().filter(|&(bit, _)| bits >> bit & 1 == 1).map(|(_, letter)| letter).collect()
}

/// The bits of letters; what is no letter of ethtool's has none.
pub(super) fn letter_bits(letters: &str) -> u32 {
    let set = LETTERS.into_iter().filter(|&(_, letter)| letters.contains(letter));
    set.fold(0, |bits, (bit, _)| bits | 1 << bit)
}

fn read_identity(answer: &[u8]) -> Identity {
    let field = |at: usize| text(answer.get(at..at + 32).unwrap_or_default());
    Identity { driver: field(4), version: field(36), firmware: field(68), bus: field(100) }
}

fn read_statistics(names: &[u8], values: &[u8]) -> Vec<(String, u64)> {
    let names = names.chunks_exact(NAME_BYTES).map(text);
    names.zip(values.chunks_exact(8).filter_map(number)).collect()
}

fn read_rss(context: u32, answer: &[u8]) -> Option<RssContext> {
    let slots = u32_at(answer, 8)? as usize;
    let (head, rest) = answer.split_at_checked(RSS_BYTES)?;
    let (table, key) = rest.split_at_checked(slots.checked_mul(4)?)?;
    Some(RssContext {
        id: context,
        hash_function: hash_function(u32::from(head[16])),
        input_transform: input_transform(u32::from(head[17])),
        key: key.to_vec(),
        table: table
            .chunks_exact(4)
            .map(|slot| u32::from_ne_bytes([slot[0], slot[1], slot[2], slot[3]]))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_those_of_ethtool() {
        assert_eq!(letters(0xf0), "sdfn");
        assert_eq!(letters(0x30), "sd");
        assert_eq!(letters(1 << 31 | 1 << 8 | 1 << 1), "mre");
        assert_eq!(letters(0), "");
    }

    #[test]
    fn counters_go_with_their_names() {
        let mut names = vec![0; 2 * NAME_BYTES];
        names[..10].copy_from_slice(b"rx_packets");
        names[NAME_BYTES..NAME_BYTES + 5].copy_from_slice(b"drops");
        let values: Vec<u8> = [3u64, u64::MAX].iter().flat_map(|v| v.to_ne_bytes()).collect();
        let read = read_statistics(&names, &values);
        assert_eq!(read, [("rx_packets".to_owned(), 3), ("drops".to_owned(), u64::MAX)]);
        assert_eq!(read_statistics(&names, &values[..9]).len(), 1);
    }

    #[test]
    fn a_table_and_a_key_are_told_apart() {
        let mut answer = vec![0; RSS_BYTES];
        answer[8] = 2;
        answer[12] = 3;
        answer[16] = 1;
        for slot in [5u32, 6] {
            answer.extend(slot.to_ne_bytes());
        }
        answer.extend([7, 8, 9]);
        let read = read_rss(1, &answer).unwrap();
        assert_eq!((read.table, read.key), (vec![5, 6], vec![7, 8, 9]));
        assert_eq!(read.hash_function.as_deref(), Some("toeplitz"));
        assert!(read_rss(1, &answer[..RSS_BYTES + 7]).is_none());
    }
}
