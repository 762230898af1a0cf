//! The machine: CPUs, memory nodes, network devices and their queues, as values.
//!
//! A [`Machine`] does not know how it was read. It comes from a running Linux: from its files, and
//! from hwloc (CPUs, packages, caches, memory nodes); or from the same files and answers captured
//! somewhere else ([`Source`] is a directory that stands for `/`); or from a test. What the kernel does not report is [`Reading::Unknown`] with the
//! reason: a device whose `numa_node` reads -1 is on an unknown node, and not on node 0.
//!
//! On top of it stands [`place`]: which CPU serves which queue.
//!
//! ```text
//!   Source (files) ---------+
//!   hwloc, or its answer    +--> Machine --place--> Placement: queue -> CPU, and what was noticed
//!   in a captured tree -----+
//! ```
//!
//! What a device would have to be told for that is a [`plan`], which [`apply`] writes.

pub mod apply;
mod captured;
pub mod counters;
mod cpus;
pub mod explain;
pub mod joined;
pub mod list;
mod live;
mod near;
mod nics;
mod placement;
pub mod plan;
mod record;
mod source;
pub mod survey;
mod sys;
pub mod toeplitz;
pub mod watch;

pub(crate) use live::{AddressNews, AddressWatch};
pub use near::{Near, Unmet};
pub use placement::{Assignment, Note, Placement, PlacementError, Request, Sharing, place};
pub use record::{Record, Recorder};
pub use source::Source;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Something that was read, or the reason why it could not be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reading<T> {
    /// What the machine said.
    Known(T),
    /// Why there is no answer.
    Unknown(String),
}

impl<T> Reading<T> {
    /// The value, if there is one.
    pub const fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }

    /// Why there is no value, if there is none.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Known(_) => None,
            Self::Unknown(reason) => Some(reason),
        }
    }

    pub(crate) fn unknown(reason: impl Into<String>) -> Self {
        Self::Unknown(reason.into())
    }
}

impl<T: fmt::Display> fmt::Display for Reading<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(value) => value.fmt(f),
            Self::Unknown(reason) => write!(f, "unknown ({reason})"),
        }
    }
}

/// A logical CPU: what a thread is pinned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its number.
    pub id: u32,
    /// The memory node that is nearest to it.
    pub node: Reading<u32>,
    /// The package (socket) that it is part of.
    pub package: Reading<u32>,
    /// The physical core that it is part of; unique only within a package.
    pub core: Reading<u32>,
    /// All logical CPUs of its physical core, itself among them, in ascending order.
    pub siblings: Vec<u32>,
    /// All logical CPUs that share its last-level cache, itself among them, in ascending order.
    pub cache: Reading<Vec<u32>>,
    /// Kept free of ordinary threads (`isolcpus`).
    pub isolated: bool,
}

impl Cpu {
    /// Its place among the logical CPUs of its core: 0 for the first.
    #[must_use]
    pub(crate) fn sibling_rank(&self) -> usize {
        self.siblings.iter().position(|&cpu| cpu == self.id).unwrap_or(0)
    }
}

/// A memory node with CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub id: u32,
    /// The CPUs that are nearest to it.
    pub cpus: Vec<u32>,
    /// How far the memory of each node is from its CPUs, by node, as the firmware says: 10 is its
    /// own. Empty if the firmware does not say.
    pub distances: BTreeMap<u32, u64>,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Its name.
    pub name: String,
    /// Its interface index.
    pub index: Reading<u32>,
    /// The driver that runs it.
    pub driver: Reading<String>,
    /// Where it sits: a PCI address, or what the bus calls it.
    pub bus: Reading<String>,
    /// The memory node that it is attached to.
    pub node: Reading<u32>,
    /// The largest IP packet that it carries, in bytes.
    pub mtu_bytes: Reading<u32>,
    /// Its receive queues, by number.
    pub queues: Vec<Queue>,
    /// How many transmit queues it has.
    pub tx_queues: usize,
    /// Its interrupts, those of no queue too.
    pub irqs: Vec<Irq>,
}

/// A receive queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Its number.
    pub index: u32,
    /// The interrupt that says that packets have arrived on it.
    pub irq: Reading<Irq>,
}

/// An interrupt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Irq {
    /// Its number.
    pub number: u32,
    /// What the driver calls it.
    pub name: Reading<String>,
    /// The CPUs that it is delivered to now.
    pub effective_cpus: Reading<Vec<u32>>,
    /// The CPUs that it may be delivered to.
    pub permitted_cpus: Reading<Vec<u32>>,
}

impl Irq {
    /// Where it goes from the next interrupt on, if that is elsewhere: a new affinity takes effect with
    /// the next interrupt, and until then the effective CPUs are not among those that are permitted.
    #[must_use]
    pub fn next_cpus(&self) -> Option<&Vec<u32>> {
        let (now, next) = (self.effective_cpus.known()?, self.permitted_cpus.known()?);
        (!next.is_empty() && !now.iter().any(|cpu| next.contains(cpu))).then_some(next)
    }
}

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// The CPUs that are online, by number.
    pub cpus: Vec<Cpu>,
    /// The memory nodes, by number.
    pub nodes: Vec<Node>,
    /// The network devices, by name.
    pub nics: Vec<Nic>,
}

impl Machine {
    /// The device called `name`.
    #[must_use]
    pub fn nic(&self, name: &str) -> Option<&Nic> {
        self.nics.iter().find(|nic| nic.name == name)
    }

    /// The CPU with number `id`.
    #[must_use]
    pub fn cpu(&self, id: u32) -> Option<&Cpu> {
        self.cpus.iter().find(|cpu| cpu.id == id)
    }
}

#[cfg(test)]
mod rig;
#[cfg(test)]
mod tests;
