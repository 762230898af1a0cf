//! Finds out if a classification rule matches a flow.

use super::Question;
use crate::topology::survey::rss::{NtupleRule, RuleAction};
use std::net::IpAddr;

/// Whether a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It looks at something that a flow does not state.
    Maybe(String),
}

/// What was made of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleVerdict {
    /// Its place.
    pub location: u32,
    /// Whether it matches.
    pub verdict: Match,
    /// What it does then.
    pub action: RuleAction,
}

/// Goes through the rules by location, up to the first that matches.
pub(super) fn judge(rules: &[NtupleRule], question: &Question) -> Vec<RuleVerdict> {
    let mut ordered: Vec<&NtupleRule> = rules.iter().collect();
    ordered.sort_by_key(|rule| rule.location);
    let mut verdicts = Vec::new();
    for rule in ordered {
        let verdict = verdict(rule, question);
        let decides = verdict == Match::Yes;
        verdicts.push(RuleVerdict { location: rule.location, verdict, action: rule.action });
        if decides {
            break;
        }
    }
    verdicts
}

/// A field that differs settles it. What cannot be told comes after that.
fn verdict(rule: &NtupleRule, question: &Question) -> Match {
    let flow = &question.flow;
    let kind = kind_matches(&rule.flow, question);
    let fields = [
        kind,
        address_matches(rule.source.as_ref(), flow.source.ip()),
        address_matches(rule.destination.as_ref(), flow.destination.ip()),
        port_matches(rule.source_port, flow.source.port()),
        port_matches(rule.destination_port, flow.destination.port()),
        unseen(rule),
    ];
    if fields.contains(&Match::No) {
        return Match::No;
    }
    fields.into_iter().find(|field| *field != Match::Yes).unwrap_or(Match::Yes)
}

fn kind_matches(kind: &str, question: &Question) -> Match {
    let is_v4 = question.flow.destination.is_ipv4();
    match kind {
        "ip4" => is(is_v4),
        "ip6" => is(!is_v4),
        "tcp4" | "udp4" | "tcp6" | "udp6" => is(kind == question.flow_type().name()),
        "sctp4" | "sctp6" | "ah4" | "ah6" | "esp4" | "esp6" => Match::No,
        "ether" => Match::Maybe("it looks at the Ethernet header".to_owned()),
        other => Match::Maybe(format!("it is for traffic of kind {other:?}")),
    }
}

fn unseen(rule: &NtupleRule) -> Match {
    let mut unseen = rule.others.clone();
    if rule.vlan.is_some_and(|(_, mask)| mask != 0) {
        unseen.push("VLAN".to_owned());
    }
    if unseen.is_empty() {
        return Match::Yes;
    }
    Match::Maybe(format!("it looks at {}", unseen.join(", ")))
}

/// Addresses are compared where the mask has bits.
fn address_matches(field: Option<&(String, String)>, address: IpAddr) -> Match {
    let Some((value, mask)) = field else { return Match::Yes };
    let parsed = (value.parse::<IpAddr>(), mask.parse::<IpAddr>());
    let (Ok(value), Ok(mask)) = parsed else {
        return Match::Maybe(format!("its address reads {value} mask {mask}"));
    };
    match (value, mask, address) {
        (IpAddr::V4(value), IpAddr::V4(mask), IpAddr::V4(address)) => {
            is(value.to_bits() & mask.to_bits() == address.to_bits() & mask.to_bits())
        }
        (IpAddr::V6(value), IpAddr::V6(mask), IpAddr::V6(address)) => {
            is(value.to_bits() & mask.to_bits() == address.to_bits() & mask.to_bits())
        }
        _ => Match::No,
    }
}

fn port_matches(field: Option<(u16, u16)>, port: u16) -> Match {
    is(field.is_none_or(|(value, mask)| value & mask == port & mask))
}

const fn is(matches: bool) -> Match {
    if matches { Match::Yes } else { Match::No }
}
