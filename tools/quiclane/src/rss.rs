//! `quiclane rss show DEV`: how a device spreads packets over its queues, in plain words.

use crate::error::Failure;
use crate::inspect::sheet::{self, Sheet, Shown, Side};
use crate::inspect::{ReadArgs, Unknowns, device, print, print_json};
use clap::{Args, Subcommand};
use quiclane::topology::Nic;
use quiclane::topology::explain::{Fields, fields_of};
use quiclane::topology::survey::Survey;
use quiclane::topology::survey::device::Device;
use quiclane::topology::survey::rss::{FlowHash, FlowType, NtupleRule, RssContext, RuleAction};
use quiclane::topology::toeplitz::HashFields;
use serde::Serialize;
use std::collections::BTreeMap;

/// Receive-side scaling.
#[derive(Clone, Debug, Args)]
pub(crate) struct RssArgs {
    #[command(subcommand)]
    command: RssCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum RssCommand {
    /// Show hash function, key, table, hashed fields and rules of a device.
    Show(RssShowArgs),
}

#[derive(Clone, Debug, Args)]
struct RssShowArgs {
    /// The network device.
    #[arg(value_name = "DEV")]
    device: String,
    #[command(flatten)]
    read: ReadArgs,
}

pub(crate) fn run(args: &RssArgs) -> Result<(), Failure> {
    let RssCommand::Show(args) = &args.command;
    let source = args.read.source()?;
    let survey = Survey::read_device(&source, &args.device);
    let (nic, found) = device(&survey, &args.device, &source)?;
    let show = Show::new(nic, found);
    if args.read.json { print_json("quiclane.rss_show/1", &show) } else { print(&show.text()) }
}

#[derive(Clone, Debug, Serialize)]
struct Show {
    device: String,
    contexts: Option<Vec<Context>>,
    hash_fields: Option<Vec<FieldsRow>>,
    rules: Option<Vec<RuleRow>>,
    unknown: Unknowns,
    /// One queue and no table: every packet arrives there, whatever is hashed.
    #[serde(skip)]
    is_single: bool,
}

#[derive(Clone, Debug, Serialize)]
struct Context {
    id: u32,
    hash_function: Option<String>,
    input_transform: Option<String>,
    key: String,
    key_bytes: usize,
    slots: usize,
    table: Vec<u32>,
    /// Slots of each queue.
    queues: Vec<Share>,
}

#[derive(Clone, Debug, Serialize)]
struct Share {
    queue: u32,
    slots: usize,
    slot_ranges: String,
}

#[derive(Clone, Debug, Serialize)]
struct FieldsRow {
    flow: FlowType,
    context: u32,
    letters: String,
    ports_hashed: bool,
    verdict: String,
    /// The command that mends it, if there is something to mend.
    remedy: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct RuleRow {
    text: String,
    #[serde(flatten)]
    rule: NtupleRule,
}

impl Show {
    fn new(nic: &Nic, device: &Device) -> Self {
        let mut unknown = Unknowns::default();
        let contexts = unknown.take("contexts", &device.rss);
        let fields = unknown.take("hash_fields", &device.hash_fields);
        let rules = unknown.take("rules", &device.rules);
        let fields_row = |field: &FlowHash| FieldsRow::new(&nic.name, field);
        Self {
            device: nic.name.clone(),
            contexts: contexts.map(|contexts| contexts.into_iter().map(Context::new).collect()),
            hash_fields: fields.map(|fields| fields.iter().map(fields_row).collect()),
            rules: rules.map(|rules| {
                rules.into_iter().map(|rule| RuleRow { text: rule_text(&rule), rule }).collect()
            }),
            unknown,
            is_single: nic.queues.len() == 1 && !device.has_table(),
        }
    }

    fn text(&self) -> String {
        if self.is_single {
            let one = format!("{}: every packet arrives on the only queue\n", self.device);
            return one + &self.rules_text();
        }
        let mut text = String::new();
        for context in self.contexts.iter().flatten() {
            text += &context.text(&self.device);
        }
        text += &self.fields_text();
        if self.rules.as_ref().is_some_and(Vec::is_empty) {
            text += "no ntuple rules\n";
        }
        text += &self.rules_text();
        if text.is_empty() {
            text += &format!("{}: it is unknown how it spreads packets\n", self.device);
        }
        text + &sheet::reasons([(self.device.as_str(), &self.unknown)].into_iter())
    }

    fn rules_text(&self) -> String {
        let rules = self.rules.iter().flatten();
        rules.map(|rule| format!("rule {}: {}\n", rule.rule.location, rule.text)).collect()
    }

    fn fields_text(&self) -> String {
        let Some(fields) = &self.hash_fields else { return String::new() };
        let mut text = String::new();
        for field in fields {
            let context = match field.context {
                0 => String::new(),
                other => format!(" (context {other})"),
            };
            let letters = if field.letters.is_empty() { "-" } else { &field.letters };
            text += &format!("{}{context}={letters}: {}\n", field.flow, field.verdict);
            if let Some(remedy) = &field.remedy {
                text += &format!("  >>> {remedy}\n");
            }
        }
        text
    }
}

impl Context {
    fn new(context: RssContext) -> Self {
        let mut slots_of: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (slot, &queue) in context.table.iter().enumerate() {
            slots_of.entry(queue).or_default().push(slot as u32);
        }
        let key: Vec<String> = context.key.iter().map(|byte| format!("{byte:02x}")).collect();
        let share = |(queue, slots): (u32, Vec<u32>)| Share {
            queue,
            slots: slots.len(),
            slot_ranges: sheet::ranges(&slots),
        };
        Self {
            id: context.id,
            hash_function: context.hash_function,
            input_transform: context.input_transform,
            key_bytes: key.len(),
            key: key.join(":"),
            slots: context.table.len(),
            table: context.table,
            queues: slots_of.into_iter().map(share).collect(),
        }
    }

    fn text(&self, device: &str) -> String {
        let context = match self.id {
            0 => String::new(),
            id => format!(" context {id}"),
        };
        let function = self.hash_function.as_deref().unwrap_or("hash function ?");
        let transform = match &self.input_transform {
            Some(transform) => format!(", input {transform}"),
            None => String::new(),
        };
        let queues = sheet::count(self.queues.len(), "queue");
        let mut text = format!(
            "{device}{context}: {function}{transform}, {} slots over {queues}\n",
            self.slots
        );
        text += &self.key_text();
        text + &self.table_text()
    }

    /// The key, in lines of 20 bytes, which fit 80 columns.
    fn key_text(&self) -> String {
        const LINE: usize = 20 * 3;
        if self.key.is_empty() {
            return "the device does not show its key\n".to_owned();
        }
        let mut text = String::new();
        let mut rest = self.key.as_str();
        let mut head = "key ";
        while !rest.is_empty() {
            let (line, tail) = rest.split_at(rest.len().min(LINE));
            text += &format!("{head}{line}\n");
            (rest, head) = (tail, "    ");
        }
        text
    }

    /// A table that names its queues in turn is one line.
    fn table_text(&self) -> String {
        let queues: Vec<u32> = self.queues.iter().map(|share| share.queue).collect();
        if queues.is_empty() {
            return "there is no indirection table\n".to_owned();
        }
        let in_turn = self.table.iter().zip(queues.iter().cycle()).all(|(a, b)| a == b);
        if in_turn {
            let (least, most) = self.extremes();
            let each = if least == most { least.to_string() } else { format!("{least} or {most}") };
            return match queues[..] {
                [queue] => format!("all {} slots: queue {queue}\n", self.slots),
                _ => format!("slots in turn: queues {}, {each} each\n", sheet::ranges(&queues)),
            };
        }
        let mut table =
            Sheet::new(&[("queue", Side::Right), ("slots", Side::Right), ("which", Side::Left)]);
        for share in &self.queues {
            let which = shortened(&share.slot_ranges);
            table.row([Shown::known(Some(share.queue)), Shown::known(Some(share.slots)), which]);
        }
        table.render()
    }

    fn extremes(&self) -> (usize, usize) {
        let slots = || self.queues.iter().map(|share| share.slots);
        (slots().min().unwrap_or(0), slots().max().unwrap_or(0))
    }
}

/// The width of a list beside two numbers in 80 columns.
fn shortened(ranges: &str) -> Shown {
    const MAX: usize = 60;
    if ranges.len() <= MAX {
        return ranges.into();
    }
    let cut = ranges[..MAX].rfind(',').unwrap_or(MAX);
    format!("{},...", &ranges[..cut]).into()
}

impl FieldsRow {
    fn new(device: &str, field: &FlowHash) -> Self {
        let mend = || {
            let context = match field.context {
                0 => String::new(),
                id => format!(" context {id}"),
            };
            Some(format!("ethtool -N {device} rx-flow-hash {} sdfn{context}", field.flow))
        };
        let (verdict, remedy) = match fields_of(&field.letters) {
            Ok(Fields::Hashed(HashFields::AddressesAndPorts)) => {
                ("addresses and ports: flows spread over the queues".to_owned(), None)
            }
            Ok(Fields::Hashed(HashFields::Addresses)) => (
                "addresses only, ports NOT hashed: every flow between two hosts meets on one queue"
                    .to_owned(),
                mend(),
            ),
            Ok(Fields::Discard) => ("thrown away".to_owned(), mend()),
            Err(reason) => (reason, (!field.has_ports()).then(mend).flatten()),
        };
        Self {
            flow: field.flow,
            context: field.context,
            letters: field.letters.clone(),
            ports_hashed: field.has_ports(),
            verdict,
            remedy,
        }
    }
}

/// `udp4 from 10.0.0.0 mask 255.0.0.0 to port 443 -> queue 3`.
pub(crate) fn rule_text(rule: &NtupleRule) -> String {
    let mut text = rule.flow.clone();
    for (word, address, port) in
        [("from", &rule.source, rule.source_port), ("to", &rule.destination, rule.destination_port)]
    {
        if let Some((value, mask)) = address {
            let is_whole =
                mask == "255.255.255.255" || mask == "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
            let mask = if is_whole { String::new() } else { format!(" mask {mask}") };
            text += &format!(" {word} {value}{mask}");
        }
        if let Some((value, mask)) = port {
            let mask = if mask == u16::MAX { String::new() } else { format!(" mask {mask:#06x}") };
            text += &format!(" {word} port {value}{mask}");
        }
    }
    if let Some((value, mask)) = rule.vlan {
        text += &format!(" vlan {value} mask {mask:#06x}");
    }
    for other in &rule.others {
        text += &format!(" and {other}");
    }
    format!("{text} -> {}", action_text(rule.action))
}

/// What a rule does, in words.
pub(crate) fn action_text(action: RuleAction) -> String {
    match action {
        RuleAction::Drop => "dropped".to_owned(),
        RuleAction::Queue(queue) => format!("queue {queue}"),
        RuleAction::Context { queue_offset: 0, context } => format!("context {context}"),
        RuleAction::Context { queue_offset, context } => {
            format!("context {context}, queue + {queue_offset}")
        }
        RuleAction::VirtualFunction { function, queue } => {
            format!("queue {queue} of virtual function {function}")
        }
    }
}
