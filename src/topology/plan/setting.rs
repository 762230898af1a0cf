//! What a plan can hold: settings, their values, and both as text.
//!
//! The text of a value is what a person types into a plan and what a snapshot keeps, so each
//! value is read back from its own text ([`Setting::parse`]).

use crate::topology::list;
use crate::topology::survey::rss::FlowType;
use std::collections::BTreeMap;
use std::fmt;

/// One thing that can be set on a device. Their order is the order in which they are written:
/// what resets the device first, then what a reset would have taken with it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Setting {
    /// An offload, by the kernel's name for it.
    Feature(String),
    /// How many queues there are.
    Channels,
    /// How many packets fit into a ring.
    Rings,
    /// Interrupt moderation.
    Coalesce,
    /// The hash key.
    Key,
    /// The indirection table: which queue each slot of the hash leads to.
    Table,
    /// The fields that are hashed.
    Fields(FlowType),
    /// The CPUs that the interrupt of a receive queue may go to.
    Irq(u32),
    /// Receive packet steering of a receive queue.
    Rps(u32),
    /// Entries of the flow table of a receive queue.
    Rfs(u32),
    /// The CPUs whose packets go through a transmit queue.
    Xps(u32),
    /// Hard interrupts that NAPI defers, for the device.
    DeferHardIrqs,
    /// How long NAPI waits before it polls by itself, for the device, in nanoseconds.
    GroFlushTimeout,
    /// NAPI runs in kernel threads.
    Threaded,
    /// The NAPI settings of one receive queue.
    Napi(u32),
}

/// The numbers of a setting that has several, by name.
type Names = &'static [&'static str];

const CHANNELS: Names = &["combined", "rx", "tx"];
const RINGS: Names = &["rx", "tx"];
const COALESCE: Names =
    &["adaptive-rx", "adaptive-tx", "rx-usecs", "rx-frames", "tx-usecs", "tx-frames"];
/// `threaded`: 0 no, 1 in a kernel thread, [`BUSY_POLL`].
const NAPI: Names =
    &["defer-hard-irqs", "gro-flush-timeout-ns", "irq-suspend-timeout-ns", "threaded"];

/// `threaded` of a NAPI instance that a kernel thread polls all the time
/// (NETDEV_NAPI_THREADED_BUSY_POLL).
pub(super) const BUSY_POLL: u64 = 2;

/// More slots than any indirection table has.
const MAX_SLOTS: usize = 1 << 16;
/// More bytes than any hash key has.
const MAX_KEY_BYTES: usize = 512;

impl Setting {
    /// The table of a plan that it stands in.
    #[must_use]
    pub const fn section(&self) -> &'static str {
        match self {
            Self::Feature(_) => "features",
            Self::Channels | Self::Rings | Self::Coalesce => "queues",
            Self::Key | Self::Table | Self::Fields(_) => "rss",
            Self::Irq(_) => "irq",
            Self::Rps(_) => "rps",
            Self::Rfs(_) => "rfs",
            Self::Xps(_) => "xps",
            Self::DeferHardIrqs | Self::GroFlushTimeout | Self::Threaded | Self::Napi(_) => "napi",
        }
    }

    /// Its key in that table.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Feature(name) => name.clone(),
            Self::Channels => "channels".to_owned(),
            Self::Rings => "rings".to_owned(),
            Self::Coalesce => "coalesce".to_owned(),
            Self::Key => "key".to_owned(),
            Self::Table => "table".to_owned(),
            Self::Fields(flow) => flow.name().to_owned(),
            Self::Irq(queue) | Self::Rps(queue) | Self::Rfs(queue) | Self::Napi(queue) => {
                format!("rx-{queue}")
            }
            Self::Xps(queue) => format!("tx-{queue}"),
            Self::DeferHardIrqs => "defer-hard-irqs".to_owned(),
            Self::GroFlushTimeout => "gro-flush-timeout-ns".to_owned(),
            Self::Threaded => "threaded".to_owned(),
        }
    }

    /// The setting at `section.key` of a plan.
    ///
    /// # Errors
    /// Says what there is in that section.
    pub fn named(section: &str, key: &str) -> Result<Self, String> {
        let queue = |prefix: &str| key.strip_prefix(prefix).and_then(|n| n.parse::<u32>().ok());
        let rx = || queue("rx-");
        let (found, known) = match section {
            "features" => (Some(Self::Feature(key.to_owned())), "names as `ethtool -k` has them"),
            "queues" => match key {
                "channels" => (Some(Self::Channels), ""),
                "rings" => (Some(Self::Rings), ""),
                "coalesce" => (Some(Self::Coalesce), ""),
                _ => (None, "channels, rings, coalesce"),
            },
            "rss" => match key {
                "key" => (Some(Self::Key), ""),
                "table" => (Some(Self::Table), ""),
                _ => (
                    FlowType::ALL.into_iter().find(|f| f.name() == key).map(Self::Fields),
                    "key, table, udp4, udp6, tcp4, tcp6",
                ),
            },
            "irq" => (rx().map(Self::Irq), "rx-0, rx-1, ..."),
            "rps" => (rx().map(Self::Rps), "rx-0, rx-1, ..."),
            "rfs" => (rx().map(Self::Rfs), "rx-0, rx-1, ..."),
            "xps" => (queue("tx-").map(Self::Xps), "tx-0, tx-1, ..."),
            "napi" => match key {
                "defer-hard-irqs" => (Some(Self::DeferHardIrqs), ""),
                "gro-flush-timeout-ns" => (Some(Self::GroFlushTimeout), ""),
                "threaded" => (Some(Self::Threaded), ""),
                _ => (
                    rx().map(Self::Napi),
                    "defer-hard-irqs, gro-flush-timeout-ns, threaded, rx-0, rx-1, ...",
                ),
            },
            _ => return Err(format!("there is no section [{section}]")),
        };
        found.ok_or_else(|| format!("[{section}] has no key {key}; the keys are: {known}"))
    }

    /// The receive or transmit queue that it belongs to, if it belongs to one.
    #[must_use]
    pub const fn queue(&self) -> Option<u32> {
        match self {
            Self::Irq(queue)
            | Self::Rps(queue)
            | Self::Rfs(queue)
            | Self::Xps(queue)
            | Self::Napi(queue) => Some(*queue),
            _ => None,
        }
    }

    /// The value that `text` stands for.
    ///
    /// # Errors
    /// Says what is expected.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        match self {
            Self::Feature(_) => switch(text),
            Self::Channels => numbers(text, CHANNELS),
            Self::Rings => numbers(text, RINGS),
            Self::Coalesce => numbers(text, COALESCE),
            Self::Napi(_) => numbers(text, NAPI),
            Self::Key => key_bytes(text),
            Self::Table => table(text).map(Value::Table),
            Self::Fields(_) => letters(text),
            Self::Irq(_) | Self::Rps(_) | Self::Xps(_) => self.cpus(text),
            Self::Rfs(_) | Self::DeferHardIrqs | Self::GroFlushTimeout | Self::Threaded => {
                let number = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
                Ok(Value::Number(number))
            }
        }
    }

    fn cpus(&self, text: &str) -> Result<Value, String> {
        let list = if text == "none" { Some(Vec::new()) } else { list::parse(text) };
        match list {
            None => Err(format!("{text:?} is not a list of CPUs such as \"0-3,6\", or \"none\"")),
            Some(cpus) if cpus.is_empty() && matches!(self, Self::Irq(_)) => {
                Err("an interrupt needs a CPU: name at least one".to_owned())
            }
            Some(cpus) if cpus.is_empty() && text != "none" => {
                Err("write \"none\" for no CPUs".to_owned())
            }
            Some(cpus) => Ok(Value::Cpus(cpus)),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.section(), self.key())
    }
}

impl std::str::FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (section, key) =
            text.split_once('.').ok_or_else(|| format!("{text:?} is not section.key"))?;
        Self::named(section, key)
    }
}

/// What a setting is, or is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// On or off.
    Switch(bool),
    /// A number.
    Number(u64),
    /// Several numbers, by name. Those that are not named stay as they are.
    Numbers(BTreeMap<String, u64>),
    /// CPUs, ascending.
    Cpus(Vec<u32>),
    /// Hash fields, in ethtool's letters.
    Letters(String),
    /// A hash key.
    Key(Vec<u8>),
    /// An indirection table.
    Table(Table),
}

impl Value {
    /// Numbers by name.
    pub(crate) fn of_numbers<const N: usize>(numbers: [(&str, u64); N]) -> Self {
        Self::Numbers(numbers.into_iter().map(|(name, n)| (name.to_owned(), n)).collect())
    }

    /// True of NAPI settings with a thread that polls all the time.
    pub(super) fn polls_busily(&self) -> bool {
        matches!(self, Self::Numbers(numbers) if numbers.get("threaded") == Some(&BUSY_POLL))
    }

    /// True if a device with this value has what `wanted` asks for.
    #[must_use]
    pub(crate) fn fulfils(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Numbers(have), Self::Numbers(want)) => {
                want.iter().all(|(name, number)| have.get(name) == Some(number))
            }
            (Self::Letters(have), Self::Letters(want)) => sorted(have) == sorted(want),
            (Self::Table(Table::Slots(have)), Self::Table(Table::Equal(queues))) => {
                is_even(have, *queues)
            }
            _ => self == wanted,
        }
    }
}

fn sorted(letters: &str) -> Vec<char> {
    let mut letters: Vec<char> = letters.chars().collect();
    letters.sort_unstable();
    letters.dedup();
    letters
}

/// True if the slots lead to the first `queues` queues, equally often as far as that goes.
fn is_even(slots: &[u32], queues: u32) -> bool {
    let count = |queue: u32| slots.iter().filter(|&&other| other == queue).count();
    let counts: Vec<usize> = (0..queues).map(count).collect();
    let (least, most) = (counts.iter().min(), counts.iter().max());
    let (Some(least), Some(most)) = (least, most) else { return false };
    counts.iter().sum::<usize>() == slots.len() && *least > 0 && most - least <= 1
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch(on) => f.write_str(if *on { "on" } else { "off" }),
            Self::Number(number) => write!(f, "{number}"),
            Self::Numbers(numbers) => {
                let words: Vec<String> = numbers.iter().map(|(n, v)| format!("{n} {v}")).collect();
                f.write_str(&words.join(" "))
            }
            Self::Cpus(cpus) if cpus.is_empty() => f.write_str("none"),
            Self::Cpus(cpus) => f.write_str(&list::format(cpus.iter().copied())),
            Self::Letters(letters) if letters.is_empty() => f.write_str("none"),
            Self::Letters(letters) => f.write_str(letters),
            Self::Key(key) => {
                let bytes: Vec<String> = key.iter().map(|byte| format!("{byte:02x}")).collect();
                f.write_str(&bytes.join(":"))
            }
            Self::Table(table) => table.fmt(f),
        }
    }
}

/// An indirection table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Table {
    /// All slots over the first queues in turn, however many slots there are.
    Equal(u32),
    /// The queue of each slot.
    Slots(Vec<u32>),
}

impl Table {
    /// The queue of each of `slots` slots.
    #[must_use]
    pub fn slots(&self, slots: usize) -> Vec<u32> {
        match self {
            Self::Equal(queues) => in_turn(*queues, slots),
            Self::Slots(table) => table.clone(),
        }
    }

    /// How many queues it needs at least.
    #[must_use]
    pub fn queues(&self) -> u32 {
        match self {
            Self::Equal(queues) => *queues,
            Self::Slots(table) => table.iter().max().map_or(0, |last| last.saturating_add(1)),
        }
    }
}

fn in_turn(queues: u32, slots: usize) -> Vec<u32> {
    (0..queues.max(1)).cycle().take(slots).collect()
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = match self {
            Self::Equal(queues) => return write!(f, "equal {queues}"),
            Self::Slots(slots) => slots,
        };
        let queues = self.queues();
        if queues > 0 && slots.len() > 1 && *slots == in_turn(queues, slots.len()) {
            return write!(f, "equal {queues} over {} slots", slots.len());
        }
        let run = |run: &[u32]| match run {
            [queue] => queue.to_string(),
            _ => format!("{}*{}", run[0], run.len()),
        };
        let runs: Vec<String> = slots.chunk_by(|a, b| a == b).map(run).collect();
        f.write_str(&runs.join(" "))
    }
}

fn table(text: &str) -> Result<Table, String> {
    let bad = || {
        format!(
            "{text:?} is not a table: \"equal 4\", or the queue of each slot such as \
             \"0*32 1*32 2 3\""
        )
    };
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        ["equal", queues] => {
            let queues = queues.parse().ok().filter(|&n| n > 0).ok_or_else(bad)?;
            return Ok(Table::Equal(queues));
        }
        ["equal", queues, "over", slots, "slots"] => {
            let queues = queues.parse().ok().filter(|&n| n > 0).ok_or_else(bad)?;
            let slots = slots.parse().ok().filter(|&n| n <= MAX_SLOTS).ok_or_else(bad)?;
            return Ok(Table::Slots(in_turn(queues, slots)));
        }
        _ => {}
    }
    let mut slots = Vec::new();
    for word in words {
        let (queue, times) = word.split_once('*').unwrap_or((word, "1"));
        let queue: u32 = queue.parse().map_err(|_| bad())?;
        let times: usize = times.parse().map_err(|_| bad())?;
        if times > MAX_SLOTS - slots.len() {
            return Err(bad());
        }
        slots.extend(std::iter::repeat_n(queue, times));
    }
    if slots.is_empty() { Err(bad()) } else { Ok(Table::Slots(slots)) }
}

fn switch(text: &str) -> Result<Value, String> {
    match text {
        "on" | "true" => Ok(Value::Switch(true)),
        "off" | "false" => Ok(Value::Switch(false)),
        _ => Err(format!("{text:?} is neither on nor off")),
    }
}

fn numbers(text: &str, names: Names) -> Result<Value, String> {
    let bad = |what: String| format!("{what}; write names and numbers, of: {}", names.join(", "));
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut numbers = BTreeMap::new();
    for pair in words.chunks(2) {
        let [name, number] = pair else {
            return Err(bad(format!("{:?} has no number", pair.concat())));
        };
        if !names.contains(name) {
            return Err(bad(format!("{name:?} is not known")));
        }
        let number = number.parse().map_err(|_| bad(format!("{number:?} is not a number")))?;
        if numbers.insert((*name).to_owned(), number).is_some() {
            return Err(bad(format!("{name:?} is given twice")));
        }
    }
    if numbers.is_empty() {
        return Err(bad("there is nothing".to_owned()));
    }
    Ok(Value::Numbers(numbers))
}

fn letters(text: &str) -> Result<Value, String> {
    /// What ethtool takes for a flow type (`ethtool -N dev rx-flow-hash udp4 sdfn`).
    const LETTERS: &str = "mvtsdfnre";
    let text = if text == "none" { "" } else { text };
    let known = text.chars().all(|letter| LETTERS.contains(letter));
    if known && text.chars().count() == sorted(text).len() {
        return Ok(Value::Letters(text.to_owned()));
    }
    Err(format!(
        "{text:?} are not ethtool's letters: s and d for the addresses, f and n for the ports, \
         of {LETTERS}, or \"none\""
    ))
}

fn key_bytes(text: &str) -> Result<Value, String> {
    let byte = |hex: &str| if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None };
    let key: Option<Vec<u8>> = text.split(':').map(byte).collect();
    match key {
        Some(key) if key.len() <= MAX_KEY_BYTES => Ok(Value::Key(key)),
        _ => Err(format!("{text:?} is not a key: bytes in hex with colons, such as \"6d:5a:56\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind of setting with a value as it is typed, which is also how it is printed.
    const TYPED: &[(&str, &str)] = &[
        ("features.rx-lro", "off"),
        ("queues.channels", "combined 4"),
        ("queues.channels", "rx 2 tx 3"),
        ("queues.rings", "rx 1024 tx 512"),
        ("queues.coalesce", "adaptive-rx 0 rx-usecs 20"),
        ("rss.key", "6d:5a:00"),
        ("rss.table", "equal 4"),
        ("rss.table", "equal 4 over 128 slots"),
        ("rss.table", "0*32 1*32 2 3 0"),
        ("rss.udp6", "sdfn"),
        ("rss.tcp4", "none"),
        ("irq.rx-3", "2"),
        ("rps.rx-0", "none"),
        ("rfs.rx-0", "0"),
        ("xps.tx-17", "0-3,8"),
        ("napi.defer-hard-irqs", "2"),
        ("napi.gro-flush-timeout-ns", "20000"),
        ("napi.threaded", "1"),
        ("napi.rx-5", "defer-hard-irqs 2 gro-flush-timeout-ns 20000"),
    ];

    #[test]
    fn what_is_printed_is_read_back() {
        for (name, text) in TYPED {
            let setting: Setting = name.parse().unwrap();
            assert_eq!(setting.to_string(), *name);
            assert_eq!(setting.parse(text).unwrap().to_string(), *text, "{name}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        let refused = [
            ("features.rx-lro", "maybe", "on nor off"),
            ("queues.channels", "combined", "no number"),
            ("queues.channels", "combined 4 combined 5", "twice"),
            ("queues.channels", "many 4", "combined, rx, tx"),
            ("queues.rings", "", "rx, tx"),
            ("rss.key", "6d5a", "colons"),
            ("rss.table", "equal 0", "equal 4"),
            ("rss.table", "0*99999999", "equal 4"),
            ("rss.udp4", "sdq", "letters"),
            ("rss.udp4", "ss", "letters"),
            ("irq.rx-0", "none", "at least one"),
            ("irq.rx-0", "0-x", "0-3,6"),
            ("xps.tx-0", "", "none"),
            ("napi.threaded", "yes", "number"),
        ];
        for (name, text, why) in refused {
            let setting: Setting = name.parse().unwrap();
            let error = setting.parse(text).unwrap_err();
            assert!(error.contains(why), "{name} = {text:?}: {error}");
        }
        for (name, why) in
            [("rss.udp9", "udp4"), ("irq.tx-0", "rx-0"), ("bogus.x", "[bogus]"), ("x", "section")]
        {
            let error = name.parse::<Setting>().unwrap_err();
            assert!(error.contains(why), "{name}: {error}");
        }
    }

    #[test]
    fn a_value_fulfils_what_asks_for_no_more() {
        let fulfils = |name: &str, have: &str, want: &str| {
            let setting: Setting = name.parse().unwrap();
            setting.parse(have).unwrap().fulfils(&setting.parse(want).unwrap())
        };
        assert!(fulfils("queues.channels", "combined 4 rx 0 tx 0", "combined 4"));
        assert!(!fulfils("queues.channels", "combined 4", "combined 4 rx 1"));
        assert!(fulfils("rss.udp4", "nfds", "sdfn"));
        assert!(fulfils("rss.table", "0*32 1*32", "equal 2"), "in blocks is equal as well");
        assert!(fulfils("rss.table", "0*3 1*2", "equal 2"), "as far as it goes");
        assert!(!fulfils("rss.table", "0*32 1*31 2", "equal 2"));
        assert!(!fulfils("rss.table", "0*40 1*24", "equal 2"));
        assert!(!fulfils("rss.table", "0*64", "equal 2"));
        assert!(!fulfils("rss.table", "0*32 1*32", "equal 2 over 64 slots"), "slot by slot");
    }

    #[test]
    fn the_order_is_what_resets_first() {
        let mut settings: Vec<Setting> = ["napi.rx-0", "irq.rx-1", "rss.table", "queues.channels"]
            .iter()
            .map(|name| name.parse().unwrap())
            .collect();
        settings.sort();
        let names: Vec<String> = settings.iter().map(Setting::to_string).collect();
        assert_eq!(names, ["queues.channels", "rss.table", "irq.rx-1", "napi.rx-0"]);
    }
}
