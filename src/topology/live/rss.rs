//! Keys and tables: over netlink, and from kernels without RSS_GET by ioctl.

use super::Kernel;
use super::ethtool::{RSS_GET, about};
use super::ioctl;
use super::netlink::Attributes;
use super::refused::Refused;
use super::rules;
use crate::topology::survey::rss::{RssContext, RuleAction};
use std::collections::BTreeMap;

/// Contexts that are read: no device has more.
const CONTEXTS_MAX: usize = 4_096;

/// Every context, by number.
pub(super) fn contexts(kernel: &Kernel, device: &str) -> Result<Vec<RssContext>, Refused> {
    let mut contexts = match kernel.generic(|generic| generic.can_dump(&RSS_GET)) {
        Ok(true) => dumped(kernel, device)?,
        _ => BTreeMap::new(),
    };
    if contexts.is_empty() {
        let context = main(kernel, device)?;
        contexts.insert(0, context);
        // A kernel that does not list them: those that rules send packets to.
        for id in contexts_of_rules(kernel, device) {
            if let Ok(context) = ioctl::rss(kernel, device, id) {
                contexts.insert(id, context);
            }
        }
    }
    Ok(contexts.into_values().collect())
}

fn dumped(kernel: &Kernel, device: &str) -> Result<BTreeMap<u32, RssContext>, Refused> {
    let mut contexts = BTreeMap::new();
    kernel.generic(|generic| {
        generic.dump(&RSS_GET, &about(device), &mut |answer| {
            let context = read_context(answer);
            if contexts.len() < CONTEXTS_MAX {
                contexts.insert(context.id, context);
            }
        })
    })?;
    Ok(contexts)
}

/// Context 0. Some kernels leave the table out of what netlink tells.
fn main(kernel: &Kernel, device: &str) -> Result<RssContext, Refused> {
    let told = kernel.generic(|generic| generic.get(&RSS_GET, &about(device)));
    match told.map(|answer| read_context(Attributes(&answer))) {
        Ok(context) if !context.table.is_empty() => Ok(context),
        Ok(context) => Ok(ioctl::rss(kernel, device, 0).unwrap_or(context)),
        Err(refused) if refused.is_unsupported() => {
            ioctl::rss(kernel, device, 0).map_err(|older| match refused {
                Refused::Unasked { .. } => older,
                refused => refused,
            })
        }
        Err(refused) => Err(refused),
    }
}

/// The numbers of the contexts that the device's rules name.
pub(super) fn contexts_of_rules(kernel: &Kernel, device: &str) -> Vec<u32> {
    let rules = rules::rules(kernel, device).unwrap_or_default();
    let mut contexts: Vec<u32> = rules
        .iter()
        .filter_map(|rule| match rule.action {
            RuleAction::Context { context, .. } => Some(context),
            _ => None,
        })
        .collect();
    contexts.sort_unstable();
    contexts.dedup();
    contexts.truncate(CONTEXTS_MAX);
    contexts
}

fn read_context(answer: Attributes<'_>) -> RssContext {
    const CONTEXT: u16 = 2;
    const FUNCTION: u16 = 3;
    const TABLE: u16 = 4;
    const KEY: u16 = 5;
    const TRANSFORM: u16 = 6;
    let table = answer.get(TABLE).unwrap_or_default().chunks_exact(4);
    RssContext {
        id: answer.u32(CONTEXT).unwrap_or(0),
        hash_function: answer.u32(FUNCTION).and_then(hash_function),
        input_transform: answer.u32(TRANSFORM).and_then(input_transform),
        key: answer.get(KEY).unwrap_or_default().to_vec(),
        table: table.map(|slot| u32::from_ne_bytes([slot[0], slot[1], slot[2], slot[3]])).collect(),
    }
}

/// The bits of `ETH_RSS_HASH_*`, of which one is set.
pub(super) fn hash_function(bits: u32) -> Option<String> {
    named(bits, &["toeplitz", "xor", "crc32"], "function")
}

/// The bits of `RXH_XFRM_*`, of which one is set, or none.
pub(super) fn input_transform(bits: u32) -> Option<String> {
    /// The driver did not say.
    const NO_CHANGE: u32 = 0xff;
    if bits == NO_CHANGE {
        return None;
    }
    named(bits, &["symmetric-xor", "symmetric-or-xor"], "transform")
}

fn named(bits: u32, names: &[&str], what: &str) -> Option<String> {
    if bits == 0 {
        return None;
    }
    let name = names.get(bits.trailing_zeros() as usize).filter(|_| bits.is_power_of_two());
    Some(name.map_or_else(|| format!("{what}-{bits:#x}"), |&name| name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_read() {
        let table: Vec<u8> = [0u32, 1, 1, 0].iter().flat_map(|slot| slot.to_ne_bytes()).collect();
        let answer =
            about("eth0").u32(2, 3).u32(3, 1).bytes(4, &table).bytes(5, &[0x6d, 0x5a]).u32(6, 1);
        let context = read_context(Attributes(answer.as_bytes()));
        assert_eq!(context.id, 3);
        assert_eq!(context.hash_function.as_deref(), Some("toeplitz"));
        assert_eq!(context.input_transform.as_deref(), Some("symmetric-xor"));
        assert_eq!(context.key, [0x6d, 0x5a]);
        assert_eq!(context.table, [0, 1, 1, 0]);
    }

    #[test]
    fn bits_without_a_name_are_shown() {
        assert_eq!(hash_function(2).as_deref(), Some("xor"));
        assert_eq!(hash_function(0x10).as_deref(), Some("function-0x10"));
        assert_eq!(hash_function(3).as_deref(), Some("function-0x3"));
        assert_eq!(hash_function(0), None);
        assert_eq!(input_transform(0xff), None);
    }
}
