//! The calls behind a [`Write`] that is no file. `topology::apply` alone makes them, after it has
//! looked whether they may be made; each names the device that it is for.

use super::ethtool::about;
use super::ioctl::letter_bits;
use super::netlink::{Command, Question};
use super::refused::Refused;
use super::{Kernel, ethtool, netdev, rules};
use crate::topology::Source;
use crate::topology::apply::Write;
use crate::topology::survey::rss::FlowType;
use crate::topology::sys::{FLOW_BYTES, FlowCall, RssChange};
use std::collections::BTreeMap;

const FEATURES_SET: Command = ethtool::command("ethtool FEATURES_SET", 12, "Linux 5.8 does");
const RINGS_SET: Command = ethtool::command("ethtool RINGS_SET", 16, "Linux 5.8 does");
const CHANNELS_SET: Command = ethtool::command("ethtool CHANNELS_SET", 18, "Linux 5.8 does");
const COALESCE_SET: Command = ethtool::command("ethtool COALESCE_SET", 20, "Linux 5.8 does");
const NAPI_SET: Command = netdev::command("netdev napi-set", 14, "Linux 6.13 does");

impl Source {
    /// Makes the call for `write`.
    pub(in crate::topology) fn set(&self, device: &str, write: &Write) -> Result<(), Refused> {
        let kernel = self.kernel();
        match write {
            Write::File { path, .. } => Err(Refused::Silent(format!("{path} is a file"))),
            Write::Feature { name, on } => feature(kernel, device, name, *on),
            Write::Channels(numbers) => {
                let kinds = [("rx", 6), ("tx", 7), ("combined", 9)];
                tell(kernel, &CHANNELS_SET, numbered(about(device), numbers, &kinds))
            }
            Write::Rings(numbers) => {
                tell(kernel, &RINGS_SET, numbered(about(device), numbers, &[("rx", 6), ("tx", 9)]))
            }
            Write::Coalesce(numbers) => {
                tell(kernel, &COALESCE_SET, coalesce(about(device), numbers))
            }
            Write::Key(key) => rss(kernel, device, RssChange::Key(key)),
            Write::Table(None) => rss(kernel, device, RssChange::DefaultTable),
            Write::Table(Some(table)) => rss(kernel, device, RssChange::Table(table)),
            Write::Fields { flow, letters } => fields(kernel, device, *flow, letters),
            Write::Napi { id, numbers } => {
                let kinds = [
                    ("defer-hard-irqs", 5),
                    ("gro-flush-timeout-ns", 6),
                    ("irq-suspend-timeout-ns", 7),
                    // Linux 6.17 takes 0 and 1, Linux 6.19 also 2.
                    ("threaded", 8),
                ];
                let napi = Question::default().u32(2, *id);
                tell(kernel, &NAPI_SET, numbered(napi, numbers, &kinds))
            }
        }
    }
}

fn tell(
    kernel: &Kernel,
    command: &Command,
    told: Result<Question, Refused>,
) -> Result<(), Refused> {
    let told = told?;
    kernel.generic(|generic| generic.tell(command, &told))
}

/// Numbers by the kinds of attributes that they have.
fn numbered(
    question: Question,
    numbers: &BTreeMap<String, u64>,
    kinds: &[(&str, u16)],
) -> Result<Question, Refused> {
    numbers.iter().try_fold(question, |question, (name, number)| {
        let unknown = || Refused::Silent(format!("{name} {number} cannot be told to the kernel"));
        let kind = kinds.iter().find(|(other, _)| other == name).map(|(_, kind)| *kind);
        let number = u32::try_from(*number).ok();
        let (kind, number) = kind.zip(number).ok_or_else(unknown)?;
        Ok(question.u32(kind, number))
    })
}

fn coalesce(question: Question, numbers: &BTreeMap<String, u64>) -> Result<Question, Refused> {
    const SWITCHES: [(&str, u16); 2] = [("adaptive-rx", 11), ("adaptive-tx", 12)];
    const NUMBERS: [(&str, u16); 4] =
        [("rx-usecs", 2), ("rx-frames", 3), ("tx-usecs", 6), ("tx-frames", 7)];
    let mut rest = numbers.clone();
    let question =
        SWITCHES.into_iter().fold(question, |question, (name, kind)| match rest.remove(name) {
            Some(on) => question.bytes(kind, &[u8::from(on != 0)]),
            None => question,
        });
    numbered(question, &rest, &NUMBERS)
}

/// A set of one bit, by name, with its mask: listed is in the mask, with a mark is on.
fn feature(kernel: &Kernel, device: &str, name: &str, on: bool) -> Result<(), Refused> {
    const WANTED: u16 = 3;
    const BITS: u16 = 3;
    const BIT: u16 = 1;
    const NAME: u16 = 2;
    const VALUE: u16 = 3;
    let bit = Question::default().text(NAME, name);
    let bit = if on { bit.bytes(VALUE, &[]) } else { bit };
    let bits = Question::default().nest(BITS, &Question::default().nest(BIT, &bit));
    tell(kernel, &FEATURES_SET, Ok(about(device).nest(WANTED, &bits)))
}

fn rss(kernel: &Kernel, device: &str, change: RssChange<'_>) -> Result<(), Refused> {
    kernel.ioctl(|ethtool| ethtool.set_rss(device, change))
}

fn fields(kernel: &Kernel, device: &str, flow: FlowType, letters: &str) -> Result<(), Refused> {
    const FLOW_AT: usize = 4;
    const FIELDS_AT: usize = 8;
    let mut buffer = [0; FLOW_BYTES];
    buffer[FLOW_AT..FLOW_AT + 4].copy_from_slice(&rules::flow_number(flow).to_ne_bytes());
    let bits = u64::from(letter_bits(letters));
    buffer[FIELDS_AT..FIELDS_AT + 8].copy_from_slice(&bits.to_ne_bytes());
    kernel.ioctl(|ethtool| ethtool.flow(device, FlowCall::SetFields, &mut buffer))
}
