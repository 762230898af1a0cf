//! Decides which CPU serves which queue.
//!
//! [`place`] is a pure function: a machine and a wish in, a [`Placement`] out. The rules:
//!
//! 1. a list of CPUs that the operator gave wins, in its order;
//! 2. otherwise the CPUs of the device's own memory node, as far as this process may use them.
//!    If it may use none of them, those of the nearest nodes come first (NUMA distances). If the
//!    node is not known, all CPUs are candidates, and the placement says so;
//! 3. of these, the CPU that [`Near`] asks for: the interrupt's own, or one beside it. A queue whose
//!    wish cannot be met gets the next best, and a note says why;
//! 4. one queue per physical core first; hardware threads that share a core come after all
//!    cores have one;
//! 5. fewer CPUs than queues is an error, unless sharing was asked for, and then it is noted.

use super::near::{self, Near, Unmet};
use super::{Cpu, Machine, Nic};
use std::fmt;

/// What to do when there are fewer CPUs than queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Refuse.
    #[default]
    Forbid,
    /// Let one CPU serve several queues, and note it.
    Allow,
}

/// What is to be placed.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The device whose queues are served; `None` for kernel sockets, which have none.
    pub device: Option<String>,
    /// The queues, in the order of the workers. Empty: all queues of the device.
    pub queues: Vec<u32>,
    /// The CPUs to use, in the order of the queues. Empty: chosen here.
    pub cpus: Vec<u32>,
    /// The CPUs that this process may run on. Empty: all of the machine.
    pub allowed: Vec<u32>,
    /// What to do when there are too few.
    pub sharing: Sharing,
    /// Where the worker of a queue is placed, if `cpus` is empty.
    pub near: Near,
}

/// One queue and the CPU that serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The queue.
    pub queue: u32,
    /// The CPU.
    pub cpu: u32,
    /// The memory node of that CPU, if it is known.
    pub node: Option<u32>,
}

/// Something about a placement that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The device's node is not known: CPUs of all nodes were candidates.
    NodeUnknown {
        /// The device.
        device: String,
        /// Why it is not known.
        reason: String,
    },
    /// None of the node's CPUs may be used: CPUs of other nodes were taken.
    NodeHasNoCpu {
        /// The device.
        device: String,
        /// Its node.
        node: u32,
    },
    /// A CPU of another node than the device's, chosen by the operator.
    OtherNode {
        /// The queue.
        queue: u32,
        /// Its CPU.
        cpu: u32,
        /// The CPU's node.
        cpu_node: u32,
        /// The device's node.
        nic_node: u32,
    },
    /// The worker of a queue is not where [`Near`] asks for.
    NotNear {
        /// The queue.
        queue: u32,
        /// Its CPU.
        cpu: u32,
        /// What was asked for.
        near: Near,
        /// Why it could not be had.
        unmet: Unmet,
    },
    /// Two queues are served by hardware threads of one physical core.
    SharedCore {
        /// A queue and its CPU.
        first: (u32, u32),
        /// The other queue and its CPU.
        second: (u32, u32),
    },
    /// One CPU serves several queues.
    SharedCpu {
        /// The CPU.
        cpu: u32,
        /// The queues.
        queues: Vec<u32>,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeUnknown { device, reason } => {
                write!(f, "the memory node of {device} is unknown ({reason}): any CPU was taken")
            }
            Self::NodeHasNoCpu { device, node } => {
                write!(f, "{device} is on node {node}, and none of that node's CPUs may be used")
            }
            Self::OtherNode { queue, cpu, cpu_node, nic_node } => write!(
                f,
                "queue {queue} is served by cpu {cpu} of node {cpu_node}, the device is on node \
                 {nic_node}"
            ),
            Self::NotNear { queue, cpu, near, unmet } => write!(
                f,
                "queue {queue} is served by cpu {cpu} and not as near {near} asks: {unmet}; {}",
                unmet.remedy()
            ),
            Self::SharedCore { first, second } => write!(
                f,
                "queues {} and {} share a core: cpus {} and {}",
                first.0, second.0, first.1, second.1
            ),
            Self::SharedCpu { cpu, queues } => write!(f, "cpu {cpu} serves queues {queues:?}"),
        }
    }
}

/// Why there is no placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlacementError {
    /// There is no such device.
    NoDevice(String),
    /// The device has no such queue.
    NoQueue {
        /// The device.
        device: String,
        /// The queue asked for.
        queue: u32,
        /// How many it has.
        queues: usize,
    },
    /// There is no such CPU, or it is offline.
    NoCpu(u32),
    /// Neither a device nor queues were named.
    NothingToPlace,
    /// Fewer CPUs than queues.
    TooFewCpus {
        /// How many queues.
        queues: usize,
        /// How many CPUs.
        cpus: usize,
    },
}

impl fmt::Display for PlacementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice(device) => {
                write!(f, "there is no device {device}: name one that `ip link` lists")
            }
            Self::NoQueue { device, queue, queues } => write!(
                f,
                "{device} has {queues} receive queues, and no queue {queue}: name queues below \
                 {queues}"
            ),
            Self::NoCpu(cpu) => write!(
                f,
                "there is no cpu {cpu}, or it is offline: name CPUs that `lscpu -e` shows online"
            ),
            Self::NothingToPlace => {
                f.write_str("there is nothing to place: name a device, or queues")
            }
            Self::TooFewCpus { queues, cpus } => write!(
                f,
                "{queues} queues and {cpus} CPUs for them: name fewer queues, more CPUs, or \
                 allow sharing"
            ),
        }
    }
}

impl std::error::Error for PlacementError {}

/// Which CPU serves which queue, and what is to be said about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// One row for each queue, in the order asked for.
    pub rows: Vec<Assignment>,
    /// What an operator should know.
    pub notes: Vec<Note>,
}

/// Decides which CPU serves which queue.
///
/// # Errors
/// The wish cannot be met: see [`PlacementError`].
pub fn place(machine: &Machine, request: &Request) -> Result<Placement, PlacementError> {
    let nic = match &request.device {
        Some(name) => {
            Some(machine.nic(name).ok_or_else(|| PlacementError::NoDevice(name.clone()))?)
        }
        None => None,
    };
    let queues = queues(nic, request)?;
    let mut notes = Vec::new();
    let cpus = if request.cpus.is_empty() {
        candidates(machine, nic, &request.allowed, &mut notes)
    } else {
        let known = |&id: &u32| machine.cpu(id).ok_or(PlacementError::NoCpu(id));
        request.cpus.iter().map(known).collect::<Result<_, _>>()?
    };
    let too_few = cpus.len() < queues.len() && request.sharing == Sharing::Forbid;
    if cpus.is_empty() || too_few {
        return Err(PlacementError::TooFewCpus { queues: queues.len(), cpus: cpus.len() });
    }
    let row = |queue: u32, cpu: &Cpu| {
        let node = cpu.node.known().copied();
        Assignment { queue, cpu: cpu.id, node }
    };
    let rows: Vec<Assignment> = match nic.filter(|_| request.cpus.is_empty()) {
        None => {
            let at = |(at, &queue): (usize, &u32)| row(queue, cpus[at % cpus.len()]);
            queues.iter().enumerate().map(at).collect()
        }
        Some(nic) => {
            let near = request.near;
            let chosen = near::choose(machine, nic, &queues, near, &cpus, &request.allowed);
            for (&queue, chosen) in queues.iter().zip(&chosen) {
                let note = |unmet| Note::NotNear { queue, cpu: chosen.cpu.id, near, unmet };
                notes.extend(chosen.unmet.clone().map(note));
            }
            queues.iter().zip(chosen).map(|(&queue, chosen)| row(queue, chosen.cpu)).collect()
        }
    };
    note_nodes(nic, &rows, request, &mut notes);
    note_sharing(machine, &rows, &mut notes);
    Ok(Placement { rows, notes })
}

fn queues(nic: Option<&Nic>, request: &Request) -> Result<Vec<u32>, PlacementError> {
    let Some(nic) = nic else {
        let none = request.queues.is_empty();
        return if none { Err(PlacementError::NothingToPlace) } else { Ok(request.queues.clone()) };
    };
    if request.queues.is_empty() {
        return Ok(nic.queues.iter().map(|queue| queue.index).collect());
    }
    let missing = |&&queue: &&u32| !nic.queues.iter().any(|other| other.index == queue);
    match request.queues.iter().find(missing) {
        Some(&queue) => Err(PlacementError::NoQueue {
            device: nic.name.clone(),
            queue,
            queues: nic.queues.len(),
        }),
        None => Ok(request.queues.clone()),
    }
}

/// The CPUs to choose from, best first.
pub(super) fn candidates<'a>(
    machine: &'a Machine,
    nic: Option<&Nic>,
    allowed: &[u32],
    notes: &mut Vec<Note>,
) -> Vec<&'a Cpu> {
    let usable = |cpu: &&Cpu| allowed.is_empty() || allowed.contains(&cpu.id);
    let all: Vec<&Cpu> = machine.cpus.iter().filter(usable).collect();
    let mut chosen = match nic.map(|nic| (nic, nic.node.known())) {
        None => all,
        Some((nic, None)) => {
            let reason = nic.node.reason().unwrap_or_default().to_owned();
            notes.push(Note::NodeUnknown { device: nic.name.clone(), reason });
            all
        }
        Some((nic, Some(&node))) => {
            let near: Vec<&Cpu> =
                all.iter().filter(|cpu| cpu.node.known() == Some(&node)).copied().collect();
            if near.is_empty() {
                notes.push(Note::NodeHasNoCpu { device: nic.name.clone(), node });
                all
            } else {
                near
            }
        }
    };
    let home = nic.and_then(|nic| nic.node.known());
    chosen.sort_by_key(|cpu| (cpu.sibling_rank(), distance(machine, cpu, home), cpu.id));
    chosen
}

/// How far a CPU is from the memory of the device's node. All CPUs of one node are equally far; where
/// nothing says it, as far as can be. The device's node may have no CPUs and be no node of the machine's,
/// so the row of the CPU's node comes first.
fn distance(machine: &Machine, cpu: &Cpu, home: Option<&u32>) -> u64 {
    let between = |from: &u32, to: &u32| {
        machine.nodes.iter().find(|node| node.id == *from)?.distances.get(to).copied()
    };
    let known = home.zip(cpu.node.known());
    let known =
        known.and_then(|(home, there)| between(there, home).or_else(|| between(home, there)));
    known.unwrap_or(u64::MAX)
}

fn note_nodes(nic: Option<&Nic>, rows: &[Assignment], request: &Request, notes: &mut Vec<Note>) {
    let Some(&nic_node) = nic.and_then(|nic| nic.node.known()) else { return };
    if request.cpus.is_empty() {
        return; // Said once for all of them, by NodeHasNoCpu.
    }
    for row in rows {
        if let Some(cpu_node) = row.node.filter(|&node| node != nic_node) {
            notes.push(Note::OtherNode { queue: row.queue, cpu: row.cpu, cpu_node, nic_node });
        }
    }
}

fn note_sharing(machine: &Machine, rows: &[Assignment], notes: &mut Vec<Note>) {
    for (at, row) in rows.iter().enumerate() {
        let same: Vec<u32> = rows.iter().filter(|r| r.cpu == row.cpu).map(|r| r.queue).collect();
        let first = same.first() == Some(&row.queue);
        if same.len() > 1 && first {
            notes.push(Note::SharedCpu { cpu: row.cpu, queues: same });
        }
        let siblings = machine.cpu(row.cpu).map(|cpu| cpu.siblings.as_slice()).unwrap_or_default();
        let other = rows[..at].iter().find(|r| r.cpu != row.cpu && siblings.contains(&r.cpu));
        if let Some(other) = other {
            let (first, second) = ((other.queue, other.cpu), (row.queue, row.cpu));
            notes.push(Note::SharedCore { first, second });
        }
    }
}
