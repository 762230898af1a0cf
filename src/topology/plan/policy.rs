//! Which CPUs work, in which order: the candidates of [`place`](crate::topology::place()), and
//! how a policy orders them.

use crate::topology::placement::{Note, candidates};
use crate::topology::survey::Survey;
use crate::topology::{Cpu, Nic, list};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How workers are spread over CPUs. A hardware thread whose core has a worker comes last under
/// each of them: what two threads of one core lose is more than any cache gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The CPUs of the device's memory node, one core after another.
    #[default]
    Node,
    /// The same CPUs, but one last-level cache is filled before the next: workers that talk to
    /// one another share it.
    Ccx,
    /// A core of each memory node in turn: the most memory bandwidth, at the price of packets
    /// that cross between nodes.
    Spread,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Node, Self::Ccx, Self::Spread];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Ccx => "ccx",
            Self::Spread => "spread",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The CPUs to choose from, best first, and what is to be said about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidates {
    pub(super) cpus: Vec<u32>,
    /// How many of them are the first thread of their core among the candidates.
    pub(super) cores: usize,
    pub(super) notes: Vec<String>,
}

pub(super) fn choose(survey: &Survey, nic: &Nic, policy: Policy) -> Candidates {
    let mut notes: Vec<Note> = Vec::new();
    // All nodes are candidates of `spread`: what is said of the device's node is not its concern.
    let near = candidates(
        &survey.machine,
        if policy == Policy::Spread { None } else { Some(nic) },
        &[],
        &mut notes,
    );
    let mut notes: Vec<String> = notes.iter().map(Note::to_string).collect();
    let cpus = match policy {
        Policy::Node => near,
        Policy::Ccx => by_cache(near, &mut notes),
        Policy::Spread => by_turns(near),
    };
    let cores = cpus.iter().filter(|cpu| cpu.sibling_rank() == 0).count();
    Candidates { cpus: cpus.iter().map(|cpu| cpu.id).collect(), cores, notes }
}

/// One cache after another. A CPU whose cache is not known is one of its own.
fn by_cache<'a>(mut cpus: Vec<&'a Cpu>, notes: &mut Vec<String>) -> Vec<&'a Cpu> {
    let first_of_domain = |cpu: &Cpu| cpu.cache.known()?.first().copied();
    let unknown: Vec<u32> =
        cpus.iter().filter(|cpu| first_of_domain(cpu).is_none()).map(|cpu| cpu.id).collect();
    if !unknown.is_empty() {
        let list = list::format(unknown);
        notes.push(format!("the last-level caches of cpus {list} are unknown"));
    }
    cpus.sort_by_key(|cpu| (cpu.sibling_rank(), first_of_domain(cpu).unwrap_or(cpu.id), cpu.id));
    cpus
}

/// The first core of each node, then the second of each, and so on. A node that is not known
/// counts as one.
fn by_turns(mut cpus: Vec<&Cpu>) -> Vec<&Cpu> {
    let of_node = |cpu: &Cpu| (cpu.sibling_rank(), cpu.node.known().copied());
    let turn = |cpu: &Cpu, all: &[&Cpu]| {
        all.iter().filter(|other| of_node(other) == of_node(cpu) && other.id < cpu.id).count()
    };
    let all = cpus.clone();
    cpus.sort_by_cached_key(|cpu| {
        (cpu.sibling_rank(), turn(cpu, &all), cpu.node.known().copied(), cpu.id)
    });
    cpus
}
