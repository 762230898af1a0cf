//! Which receive queue a flow goes to, and why.
//!
//! A device asks three things of a packet, in this order, and so does [`predict`]:
//!
//! ```text
//!   classification rules (ntuple), by location     a queue, a context, another function, dropped
//!        | none matches
//!   RSS context: fields of this kind of traffic -> hash -> slot -> queue
//!        | no RSS
//!   the only queue
//! ```
//!
//! Nothing here guesses. A rule that looks at what a flow does not state (a VLAN, bytes of the
//! payload) may match, and makes the answer unsure; a hash function that only the device knows
//! makes it unknown. What belongs to the queue is in [`joined`](super::joined).

mod hashing;
mod rules;

pub use hashing::{Fields, Hashing, fields_of};
pub use rules::{Match, RuleVerdict};

use super::survey::device::Device;
use super::survey::rss::{FlowType, RuleAction};
use super::toeplitz::Flow;
use super::{Nic, Reading};
use serde::Serialize;

/// What carries the flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// UDP, and so QUIC.
    #[default]
    Udp,
    /// TCP.
    Tcp,
}

/// A flow that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// From where to where, as the receiving device sees it.
    pub flow: Flow,
    /// What carries it.
    pub protocol: Protocol,
}

impl Question {
    /// The kind of traffic that it is.
    #[must_use]
    pub const fn flow_type(&self) -> FlowType {
        match (self.protocol, self.flow.destination.is_ipv4()) {
            (Protocol::Udp, true) => FlowType::Udp4,
            (Protocol::Udp, false) => FlowType::Udp6,
            (Protocol::Tcp, true) => FlowType::Tcp4,
            (Protocol::Tcp, false) => FlowType::Tcp6,
        }
    }
}

/// Where a flow goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// To this receive queue.
    Queue(u32),
    /// Nowhere: the device throws it away.
    Dropped,
    /// To a queue of a virtual function.
    VirtualFunction {
        /// Which one, from 0.
        function: u32,
        /// Its queue.
        queue: u32,
    },
    /// That cannot be known, and why.
    Unknown(String),
}

/// Where a flow goes, with every step on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// What was made of each rule, up to the one that decided.
    pub rules: Vec<RuleVerdict>,
    /// The hash, if it came to that.
    pub hashing: Option<Hashing>,
    /// Where it goes.
    pub outcome: Outcome,
    /// Why the outcome may be another; empty if it is sure.
    pub doubts: Vec<String>,
}

impl Prediction {
    /// The queue, if it goes to one.
    #[must_use]
    pub const fn queue(&self) -> Option<u32> {
        match self.outcome {
            Outcome::Queue(queue) => Some(queue),
            _ => None,
        }
    }

    /// The rule that decided, if one did.
    #[must_use]
    pub fn deciding_rule(&self) -> Option<&RuleVerdict> {
        self.rules.iter().find(|rule| rule.verdict == Match::Yes)
    }
}

/// Where `device` puts the flow.
#[must_use]
pub fn predict(nic: &Nic, device: &Device, question: &Question) -> Prediction {
    let mut doubts = Vec::new();
    let flow = &question.flow;
    if flow.source.is_ipv4() != flow.destination.is_ipv4() {
        let reason = "source and destination are of different address families".to_owned();
        return unknown(reason, Vec::new(), doubts);
    }
    let rules = match &device.rules {
        Reading::Known(rules) => rules::judge(rules, question),
        Reading::Unknown(_) if cannot_have_rules(device) => Vec::new(),
        Reading::Unknown(reason) => {
            doubts.push(format!("there may be classification rules: {reason}"));
            Vec::new()
        }
    };
    for rule in &rules {
        if let Match::Maybe(why) = &rule.verdict {
            doubts.push(format!("rule {} may match: {why}", rule.location));
        }
    }
    let decided = rules.iter().find(|rule| rule.verdict == Match::Yes).map(|rule| rule.action);
    let (context, offset) = match decided {
        None => (0, 0),
        Some(RuleAction::Context { queue_offset, context }) => (context, queue_offset),
        Some(action) => {
            let outcome = match action {
                RuleAction::Queue(queue) => Outcome::Queue(queue),
                RuleAction::VirtualFunction { function, queue } => {
                    Outcome::VirtualFunction { function, queue }
                }
                _ => Outcome::Dropped,
            };
            return Prediction { rules, hashing: None, outcome, doubts };
        }
    };
    match hashing::hash(nic, device, question, context) {
        Ok(mut hashing) => {
            hashing.queue_offset = offset;
            doubts.append(&mut hashing.doubts);
            let outcome = match hashing.placement.map(|it| it.queue.checked_add(offset)) {
                Some(Some(queue)) => Outcome::Queue(queue),
                Some(None) => {
                    let reason = format!("the rule adds {offset} to the queue of the table");
                    return unknown(reason, rules, doubts);
                }
                None => Outcome::Dropped,
            };
            Prediction { rules, hashing: Some(hashing), outcome, doubts }
        }
        // Without anything to choose from there is nothing to predict.
        Err(_) if context == 0 && nic.queues.len() == 1 && decided.is_none() => {
            let outcome = Outcome::Queue(nic.queues[0].index);
            Prediction { rules, hashing: None, outcome, doubts }
        }
        Err(reason) => unknown(reason, rules, doubts),
    }
}

/// True if the driver says that it has no rules (`ethtool -k`: ntuple-filters off, fixed).
fn cannot_have_rules(device: &Device) -> bool {
    let features = device.features.known();
    features.is_some_and(|features| {
        features.get("rx-ntuple-filter").is_none_or(|found| !found.active && !found.changeable)
    })
}

const fn unknown(reason: String, rules: Vec<RuleVerdict>, doubts: Vec<String>) -> Prediction {
    Prediction { rules, hashing: None, outcome: Outcome::Unknown(reason), doubts }
}

#[cfg(test)]
mod tests;
