//! A prediction as it is shown: every step with the source of its value.

use super::cid::ConnectionIdRow;
use super::verify::Verified;
use crate::inspect::Unknowns;
use crate::inspect::sheet::{self, NONE, Sheet, Shown, Side};
use crate::queue::SocketRow;
use crate::rss::action_text;
use quiclane::topology::explain::{
    Hashing, Match, Outcome, Prediction, Protocol, Question, RuleVerdict,
};
use quiclane::topology::joined::QueueRow;
use quiclane::topology::survey::device::Device;
use quiclane::topology::survey::rss::FlowType;
use quiclane::topology::{Nic, Reading};
use serde::Serialize;
use std::net::SocketAddr;

/// Where a flow goes, and why.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Answer {
    pub(super) device: String,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    protocol: Protocol,
    pub(super) flow_type: FlowType,
    /// `queue`, `dropped`, `virtual_function` or `unknown`.
    outcome: &'static str,
    pub(super) queue: Option<u32>,
    is_sure: bool,
    pub(super) doubts: Vec<String>,
    rules: Vec<RuleRow>,
    pub(super) hash: Option<HashRow>,
    pub(super) row: Option<Way>,
    steps: Vec<Step>,
    /// Packets of a captured file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) packets: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) connection_id: Option<ConnectionIdRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) connection_ids: Vec<ConnectionIdRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) verify: Option<Verified>,
    pub(super) unknown: Unknowns,
}

#[derive(Clone, Debug, Serialize)]
struct RuleRow {
    location: u32,
    /// `yes`, `no` or `maybe`.
    matches: &'static str,
    why: Option<String>,
    action: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct HashRow {
    context: u32,
    fields: String,
    /// The bytes that were hashed.
    input: String,
    pub(super) hash: Option<String>,
    slot: Option<usize>,
    slots: usize,
    /// The content of the slot.
    slot_queue: Option<u32>,
    /// What the rule adds to it.
    queue_offset: u32,
}

/// The steps from the queue on.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Way {
    napi_id: Option<u32>,
    irq: Option<u32>,
    pub(super) cpus: Option<Vec<u32>>,
    node: Option<u32>,
    crosses_node: Option<bool>,
    rps_cpus: Option<Vec<u32>>,
    socket: Option<SocketRow>,
}

#[derive(Clone, Debug, Serialize)]
struct Step {
    step: &'static str,
    value: String,
    source: String,
    is_alarm: bool,
}

impl Answer {
    pub(super) fn new(
        nic: &Nic,
        device: &Device,
        question: &Question,
        prediction: Prediction,
        row: Option<&QueueRow>,
    ) -> Self {
        let mut unknown = Unknowns::default();
        let outcome = match &prediction.outcome {
            Outcome::Queue(_) => "queue",
            Outcome::Dropped => "dropped",
            Outcome::VirtualFunction { .. } => "virtual_function",
            Outcome::Unknown(reason) => {
                unknown.0.insert("queue".to_owned(), reason.clone());
                "unknown"
            }
        };
        if let (Reading::Unknown(reason), None) = (&device.rules, prediction.deciding_rule()) {
            unknown.0.insert("rule".to_owned(), reason.clone());
        }
        let mut steps = Steps { nic, device, flow_type: question.flow_type(), list: Vec::new() };
        steps.device(&prediction);
        let way = row.map(|row| {
            steps.queue(row);
            Way::new(row, &mut unknown)
        });
        Self {
            device: nic.name.clone(),
            source: question.flow.source,
            destination: question.flow.destination,
            protocol: question.protocol,
            flow_type: question.flow_type(),
            outcome,
            queue: prediction.queue(),
            is_sure: prediction.doubts.is_empty() && outcome != "unknown",
            rules: prediction.rules.iter().map(RuleRow::new).collect(),
            hash: prediction.hashing.as_ref().map(HashRow::new),
            row: way,
            steps: steps.list,
            packets: None,
            connection_id: None,
            connection_ids: Vec::new(),
            verify: None,
            doubts: prediction.doubts,
            unknown,
        }
    }

    pub(super) fn text(&self) -> String {
        let verdict = match (self.outcome, self.queue) {
            (_, Some(queue)) if self.is_sure => format!("queue {queue}"),
            (_, Some(queue)) => format!("queue {queue} (unsure)"),
            ("dropped", _) => "dropped by the device".to_owned(),
            ("virtual_function", _) => "to a virtual function".to_owned(),
            _ => "unknown".to_owned(),
        };
        let mut text = format!(
            "{} {} -> {} on {}: {verdict}\n",
            self.flow_type, self.source, self.destination, self.device
        );
        for doubt in &self.doubts {
            text += &format!("  ? {doubt}\n");
        }
        let mut sheet =
            Sheet::new(&[("step", Side::Left), ("value", Side::Left), ("read from", Side::Left)]);
        for step in &self.steps {
            let value = match step.is_alarm {
                true => Shown::alarm(&step.value),
                false => step.value.clone().into(),
            };
            sheet.row([step.step.into(), value, step.source.clone().into()]);
        }
        if let Some(id) = &self.connection_id {
            sheet.row(["cid".into(), id.text().into(), "the id itself".into()]);
        }
        text += &sheet.render();
        if let Some(reason) = self.connection_id.as_ref().and_then(|id| id.unknown.as_ref()) {
            text += &format!("? cid: {reason}\n");
        }
        text += &sheet::reasons([("", &self.unknown)].into_iter());
        if let Some(verified) = &self.verify {
            text += &verified.text();
        }
        text
    }
}

impl RuleRow {
    fn new(rule: &RuleVerdict) -> Self {
        let (matches, why) = match &rule.verdict {
            Match::Yes => ("yes", None),
            Match::No => ("no", None),
            Match::Maybe(why) => ("maybe", Some(why.clone())),
        };
        Self { location: rule.location, matches, why, action: action_text(rule.action) }
    }
}

impl HashRow {
    fn new(hashing: &Hashing) -> Self {
        let placement = hashing.placement;
        Self {
            context: hashing.context,
            fields: hashing.letters.clone(),
            input: hashing.input.iter().map(|byte| format!("{byte:02x}")).collect(),
            hash: placement.map(|placement| format!("{:#010x}", placement.hash)),
            slot: placement.map(|placement| placement.slot),
            slots: hashing.slots,
            slot_queue: placement.map(|placement| placement.queue),
            queue_offset: hashing.queue_offset,
        }
    }
}

impl Way {
    fn new(row: &QueueRow, unknown: &mut Unknowns) -> Self {
        Self {
            napi_id: unknown.take("row.napi_id", &row.napi).map(|napi| napi.id),
            irq: unknown.take("row.irq", &row.irq).map(|irq| irq.number),
            cpus: unknown.take("row.cpus", &row.cpus),
            node: unknown.take("row.node", &row.node),
            crosses_node: row.crosses_node,
            rps_cpus: unknown.take("row.rps_cpus", &row.rps),
            socket: unknown.take("row.socket", &row.holder).flatten().map(SocketRow::new),
        }
    }
}

/// Collects the steps.
struct Steps<'a> {
    nic: &'a Nic,
    device: &'a Device,
    flow_type: FlowType,
    list: Vec<Step>,
}

impl Steps<'_> {
    fn push(&mut self, step: &'static str, value: impl Into<String>, source: impl Into<String>) {
        let (value, source) = (value.into(), source.into());
        self.list.push(Step { step, value, source, is_alarm: false });
    }

    /// The steps in the device.
    fn device(&mut self, prediction: &Prediction) {
        let name = &self.nic.name;
        let rules = format!("ethtool -n {name}");
        match (prediction.deciding_rule(), &self.device.rules) {
            (Some(rule), _) => {
                let value = format!("{} matches: {}", rule.location, action_text(rule.action));
                self.push("rule", value, rules);
            }
            // The reason is listed under `unknown`.
            (None, Reading::Unknown(_)) => self.push("rule", sheet::UNKNOWN, rules),
            (None, Reading::Known(all)) => {
                let value = match all.len() {
                    0 => "there is none".to_owned(),
                    many => format!("none of {many} certainly matches"),
                };
                self.push("rule", value, rules);
            }
        }
        if let Some(hashing) = &prediction.hashing {
            self.hash(hashing);
        }
        if let (Some(queue), None) = (prediction.queue(), &prediction.hashing)
            && prediction.deciding_rule().is_none()
        {
            let source = format!("/sys/class/net/{name}/queues");
            self.push("queue", format!("{queue}, the only one"), source);
        }
    }

    fn hash(&mut self, hashing: &Hashing) {
        let name = self.nic.name.clone();
        let context = match hashing.context {
            0 => String::new(),
            context => format!(" context {context}"),
        };
        let fields = format!("{}, {} bytes", hashing.letters, hashing.input.len());
        let flow = self.flow_type;
        self.push("fields", fields, format!("ethtool -n {name} rx-flow-hash {flow}{context}"));
        let Some(placement) = hashing.placement else { return };
        let table = format!("ethtool -x {name}{context}");
        self.push("hash", format!("{:#010x} toeplitz", placement.hash), table.clone());
        let slot = format!("{} of {}", placement.slot, hashing.slots);
        self.push("slot", slot, "the low bits of the hash");
        let queue = match hashing.queue_offset {
            0 => placement.queue.to_string(),
            offset => format!("{} + {offset} of the rule", placement.queue),
        };
        self.push("queue", queue, table);
    }

    /// The steps behind the queue.
    fn queue(&mut self, row: &QueueRow) {
        if let Some(napi) = row.napi.known() {
            self.push("napi", napi.id.to_string(), "netdev netlink queue-get");
        }
        if let Some(irq) = row.irq.known() {
            let by_napi = row.napi.known().and_then(|napi| napi.irq) == Some(irq.number);
            let source = if by_napi { "netdev netlink napi-get" } else { "/proc/interrupts" };
            self.push("irq", irq.number.to_string(), source);
        }
        if let (Some(cpus), Some(irq)) = (row.cpus.known(), row.irq.known()) {
            let source = format!("/proc/irq/{}/effective_affinity_list", irq.number);
            self.push("cpu", sheet::ranges(cpus), source);
        }
        if let Some(node) = row.node.known() {
            let value = match (row.crosses_node, self.nic.node.known()) {
                (Some(true), Some(home)) => format!("{node}, the device is on {home}"),
                _ => node.to_string(),
            };
            self.push("node", value, "hwloc");
            if let (Some(step), Some(true)) = (self.list.last_mut(), row.crosses_node) {
                step.is_alarm = true;
            }
        }
        if let Some(cpus) = row.rps.known().filter(|cpus| !cpus.is_empty()) {
            let value = format!("moved to CPUs {} (not AF_XDP)", sheet::ranges(cpus));
            let source =
                format!("/sys/class/net/{}/queues/rx-{}/rps_cpus", self.nic.name, row.queue);
            self.push("rps", value, source);
        }
        if let Some(holder) = row.holder.known() {
            self.holder(holder.clone().map(SocketRow::new));
        }
    }

    fn holder(&mut self, socket: Option<SocketRow>) {
        let Some(socket) = socket else {
            return self.push("socket", "the kernel's stack (no AF_XDP)", NONE);
        };
        if let Some(process) = &socket.process {
            let value = format!("AF_XDP, pid {} {}", process.pid, process.name);
            self.push("socket", value, socket.evidence.clone());
        } else {
            self.push("socket", "AF_XDP", socket.evidence.clone());
        }
        if let Some(worker) = &socket.worker {
            let cpus = sheet::ranges(&worker.cpus);
            let value = format!("{} (tid {}) on CPU {cpus}", worker.name, worker.tid);
            self.push("worker", value, format!("/proc/{}/status", worker.tid));
        }
    }
}
