//! The worker of a queue sits near the interrupt of the queue, and what that could not be had for.
//!
//! What a NIC's interrupt just read of a packet is in the caches of its CPU. A worker on that CPU
//! finds it there, but the two take turns; a worker beside it, under the same last-level cache, runs
//! while the interrupt's work runs. Whatever is asked for, a worker does not leave the device's node, where
//! frames and rings lie, as long as that node is known and this process may use a CPU of it.
//!
//! ```text
//!   Near::Irq     the CPU of the interrupt   -> else as Cache -> else as Node
//!   Near::Cache   another CPU of its cache   -> else the interrupt's own -> else as Node
//!   Near::Node    any CPU of the device's node, one core after another
//! ```

use super::{Cpu, Irq, Machine, Nic, Reading};
use std::fmt;

/// Where the worker of a queue is placed, if no CPUs are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Near {
    /// On a CPU that the interrupt of its queue is delivered to: by the effective affinity, or where a
    /// new affinity takes it with the next interrupt.
    #[default]
    Irq,
    /// On a CPU that shares the last-level cache with that CPU, and on the same one only if no other
    /// is free.
    Cache,
    /// On any CPU of the device's memory node.
    Node,
}

impl Near {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Irq, Self::Cache, Self::Node];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Irq => "irq",
            Self::Cache => "cache",
            Self::Node => "node",
        }
    }
}

impl fmt::Display for Near {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a worker is not where [`Near`] wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unmet {
    /// The device has no interrupts of its own: it is virtual, or older than message-signalled ones.
    NoInterrupts,
    /// The interrupt of the queue, or its CPU, is not known.
    NoIrq {
        /// Why.
        reason: String,
    },
    /// The interrupt goes to a CPU that is not online.
    Offline {
        /// The interrupt.
        irq: u32,
        /// Its CPU.
        cpu: u32,
    },
    /// The interrupt goes to a CPU that this process may not use: its affinity, or a cpuset.
    Forbidden {
        /// The interrupt.
        irq: u32,
        /// Its CPU.
        cpu: u32,
    },
    /// The interrupt goes to a CPU of another node than the device's.
    OtherNode {
        /// The interrupt.
        irq: u32,
        /// Its CPU.
        cpu: u32,
    },
    /// The interrupt goes to a CPU that has the worker of another queue.
    Taken {
        /// The interrupt.
        irq: u32,
        /// Its CPU.
        cpu: u32,
        /// The other queue.
        queue: u32,
    },
    /// The last-level cache of the interrupt's CPU is not known.
    NoCache {
        /// Why.
        reason: String,
    },
    /// No other CPU of that cache is free.
    CacheFull {
        /// The interrupt.
        irq: u32,
        /// Its CPU.
        cpu: u32,
    },
}

impl Unmet {
    /// What gives the worker its place.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::NoInterrupts | Self::NoIrq { .. } => {
                "ask for the node alone (Near::Node, --place node), or name the CPUs"
            }
            Self::Offline { .. } => {
                "bring the CPU online, or move the interrupt: quiclane plan DEV"
            }
            Self::Forbidden { .. } => {
                "let the process use the CPU (taskset, cpuset.cpus, AllowedCPUs=), or move the \
                 interrupt: quiclane plan DEV"
            }
            Self::OtherNode { .. } | Self::Taken { .. } => {
                "move the interrupts of the device: quiclane plan DEV"
            }
            Self::NoCache { .. } => {
                "ask for the interrupt's CPU or for the node (--place irq, --place node)"
            }
            Self::CacheFull { .. } => {
                "serve fewer queues, or spread the interrupts over caches: quiclane plan DEV"
            }
        }
    }
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoInterrupts => f.write_str("the device has no interrupts of its own"),
            Self::NoIrq { reason } => write!(f, "its interrupt's CPU is not known ({reason})"),
            Self::Offline { irq, cpu } => write!(f, "IRQ {irq} goes to cpu {cpu}, not online"),
            Self::Forbidden { irq, cpu } => {
                write!(f, "IRQ {irq} goes to cpu {cpu}, which this process may not use")
            }
            Self::OtherNode { irq, cpu } => {
                write!(f, "IRQ {irq} goes to cpu {cpu} of another node than the device's")
            }
            Self::Taken { irq, cpu, queue } => {
                write!(f, "IRQ {irq} goes to cpu {cpu}, which has the worker of queue {queue}")
            }
            Self::NoCache { reason } => write!(f, "the interrupt's cache is not known ({reason})"),
            Self::CacheFull { irq, cpu } => {
                write!(f, "no CPU is free that shares a cache with cpu {cpu} of IRQ {irq}")
            }
        }
    }
}

/// A queue with the CPU for its worker, and why that is not the CPU that was asked for.
pub(super) struct Chosen<'a> {
    pub(super) cpu: &'a Cpu,
    pub(super) unmet: Option<Unmet>,
}

/// Gives each queue a CPU of `candidates`, which come best first and of which there is one at least.
/// A CPU gets a second queue only when each has one.
pub(super) fn choose<'a>(
    machine: &'a Machine,
    nic: &Nic,
    queues: &[u32],
    near: Near,
    candidates: &[&'a Cpu],
    allowed: &[u32],
) -> Vec<Chosen<'a>> {
    let wishes: Vec<Wish<'_>> = queues.iter().map(|&queue| wish(machine, nic, queue)).collect();
    let is_virtual = nic.irqs.is_empty();
    let rows = Vec::new();
    let mut places = Places { queues, wishes: &wishes, is_virtual, candidates, allowed, rows };
    places.rows.resize_with(queues.len(), || None);
    // Every interrupt's own CPU first: a queue without one must not take another's.
    for at in 0..queues.len() {
        if near == Near::Irq {
            places.rows[at] = places.own(at).ok();
        }
    }
    for at in 0..queues.len() {
        if places.rows[at].is_none() && near != Near::Node {
            places.rows[at] = places.beside(at).or_else(|| places.own(at).ok());
        }
    }
    for at in 0..queues.len() {
        if places.rows[at].is_none() {
            places.rows[at] = Some(places.any(at));
        }
    }
    let row = |at: usize| {
        let cpu = places.rows[at].unwrap_or(candidates[0]);
        Chosen { cpu, unmet: places.unmet(at, cpu, near) }
    };
    (0..queues.len()).map(row).collect()
}

/// The interrupt of a queue and the CPUs that serve it, or why there is none.
type Wish<'a> = Result<(&'a Irq, &'a [u32], Option<&'a Cpu>), &'a str>;

fn wish<'a>(machine: &'a Machine, nic: &'a Nic, queue: u32) -> Wish<'a> {
    let found = nic.queues.iter().find(|other| other.index == queue);
    let irq = match found.map(|queue| &queue.irq) {
        Some(Reading::Known(irq)) => irq,
        Some(Reading::Unknown(reason)) => return Err(reason),
        None => return Err("there is no such queue"),
    };
    let cpus = match (irq.next_cpus(), &irq.effective_cpus) {
        (Some(next), _) => next,
        (None, Reading::Known(now)) => now,
        (None, Reading::Unknown(reason)) => return Err(reason),
    };
    if cpus.is_empty() {
        return Err("it is delivered to no CPU");
    }
    let first = cpus.iter().find_map(|&cpu| machine.cpu(cpu));
    Ok((irq, cpus, first))
}

struct Places<'q, 'a> {
    queues: &'q [u32],
    wishes: &'q [Wish<'q>],
    is_virtual: bool,
    candidates: &'q [&'a Cpu],
    allowed: &'q [u32],
    rows: Vec<Option<&'a Cpu>>,
}

impl<'a> Places<'_, 'a> {
    fn holder(&self, cpu: u32) -> Option<u32> {
        let taken = |row: &Option<&Cpu>| row.is_some_and(|other| other.id == cpu);
        self.rows.iter().position(taken).map(|at| self.queues[at])
    }

    fn load(&self, cpu: u32) -> usize {
        self.rows.iter().flatten().filter(|other| other.id == cpu).count()
    }

    /// A CPU of the queue's interrupt that has no worker yet.
    fn own(&self, at: usize) -> Result<&'a Cpu, Unmet> {
        let (irq, cpus, home) = match self.wishes[at] {
            Ok((irq, cpus, home)) => (irq.number, cpus, home),
            Err(_) if self.is_virtual => return Err(Unmet::NoInterrupts),
            Err(reason) => return Err(Unmet::NoIrq { reason: reason.to_owned() }),
        };
        let usable = |cpu: &&&Cpu| cpus.contains(&cpu.id);
        let mine: Vec<&&Cpu> = self.candidates.iter().filter(usable).collect();
        if let Some(free) = mine.iter().find(|cpu| self.load(cpu.id) == 0) {
            return Ok(free);
        }
        let cpu = mine.first().map(|cpu| cpu.id).or(home.map(|home| home.id)).unwrap_or(cpus[0]);
        Err(match (self.holder(cpu), home) {
            (Some(queue), _) if !mine.is_empty() => Unmet::Taken { irq, cpu, queue },
            (_, None) => Unmet::Offline { irq, cpu },
            _ if !self.allowed.is_empty() && !self.allowed.contains(&cpu) => {
                Unmet::Forbidden { irq, cpu }
            }
            _ => Unmet::OtherNode { irq, cpu },
        })
    }

    /// A free CPU under the last-level cache of the interrupt's CPU, and not that one: another core
    /// before a thread of the same, and one without an interrupt of ours before one with.
    fn beside(&self, at: usize) -> Option<&'a Cpu> {
        let Ok((_, cpus, Some(home))) = &self.wishes[at] else { return None };
        let domain = home.cache.known()?;
        let is_free = |cpu: &&&Cpu| {
            domain.contains(&cpu.id) && !cpus.contains(&cpu.id) && self.load(cpu.id) == 0
        };
        let is_interrupted =
            |cpu: &Cpu| self.wishes.iter().flatten().any(|(_, cpus, _)| cpus.contains(&cpu.id));
        let has_worker = |cpu: &Cpu| cpu.siblings.iter().any(|&other| self.load(other) > 0);
        let rank = |cpu: &&&Cpu| {
            let same_core = home.siblings.contains(&cpu.id);
            (same_core, has_worker(cpu), is_interrupted(cpu), cpu.sibling_rank(), cpu.id)
        };
        self.candidates.iter().filter(is_free).min_by_key(rank).copied()
    }

    /// The first of the candidates with the fewest workers; if all have some, one of the queue's own
    /// interrupt before the others.
    fn any(&self, at: usize) -> &'a Cpu {
        let least = self.candidates.iter().min_by_key(|cpu| {
            let is_own = matches!(&self.wishes[at], Ok((_, cpus, _)) if cpus.contains(&cpu.id));
            (self.load(cpu.id), !is_own && self.load(cpu.id) > 0)
        });
        least.copied().unwrap_or(self.candidates[0])
    }

    /// Why `cpu` is not what `near` asks for, if it is not.
    fn unmet(&self, at: usize, cpu: &Cpu, near: Near) -> Option<Unmet> {
        let (irq, cpus, home) = match (near, &self.wishes[at]) {
            (Near::Node, _) => return None,
            (_, Ok(wish)) => *wish,
            (_, Err(_)) => return self.own(at).err(),
        };
        if near == Near::Irq {
            let own = || self.own(at).err();
            return (!cpus.contains(&cpu.id)).then(own).flatten();
        }
        let Some(home) = home else { return self.own(at).err() };
        let domain = match &home.cache {
            Reading::Known(domain) => domain,
            Reading::Unknown(reason) => return Some(Unmet::NoCache { reason: reason.clone() }),
        };
        let is_beside = domain.contains(&cpu.id) && !cpus.contains(&cpu.id);
        let (irq, home) = (irq.number, home.id);
        let any_there = self.candidates.iter().any(|other| domain.contains(&other.id));
        match (is_beside, any_there) {
            (true, _) => None,
            (false, true) => Some(Unmet::CacheFull { irq, cpu: home }),
            (false, false) => self.own(at).err().or(Some(Unmet::CacheFull { irq, cpu: home })),
        }
    }
}

#[cfg(test)]
mod tests;
