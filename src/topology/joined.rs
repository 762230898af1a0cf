//! The joined view: a receive queue with everything that belongs to it.
//!
//! ```text
//!   queue -- NAPI -- interrupt -- CPU -- memory node
//!     +---- AF_XDP socket -- process -- worker thread -- its CPU
//! ```
//!
//! Each of these is told by another part of the kernel. Here they are put into one row, and each
//! link says what it rests on.

use super::counters::ReceiveCounters;
use super::survey::Survey;
use super::survey::device::{Device, Direction, Napi, Process, Program, WorkerThread, XskSocket};
use super::survey::server::{Server, ServerWorker};
use super::{Irq, Nic, Reading};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A receive queue with everything that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueRow {
    /// Its number.
    pub queue: u32,
    /// Its NAPI instance.
    pub napi: Reading<Napi>,
    /// Its interrupt.
    pub irq: Reading<Irq>,
    /// The CPUs that the interrupt is delivered to now.
    pub cpus: Reading<Vec<u32>>,
    /// The node of those CPUs.
    pub node: Reading<u32>,
    /// Whether that is another node than the device's; `None` if either is unknown.
    pub crosses_node: Option<bool>,
    /// The CPUs that the kernel moves its packets to (RPS).
    pub rps: Reading<Vec<u32>>,
    /// The CPUs whose packets go out through the transmit queue of the same number (XPS).
    pub xps: Reading<Vec<u32>>,
    /// The process that has an AF_XDP socket on it.
    pub holder: Reading<Option<Holder>>,
    /// Packets that it has received.
    pub packets: Reading<u64>,
    /// Packets that it has lost.
    pub drops: Reading<u64>,
    /// Packets that the server on it threw away, by the name of its counter; `None` if no server
    /// tells.
    pub server_drops: Option<BTreeMap<String, u64>>,
    /// Clients that the server on it refused, by the name of its counter; `None` if no server tells.
    pub server_refused: Option<BTreeMap<String, u64>>,
}

impl QueueRow {
    /// True if nothing has arrived on it and no socket waits on it.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.packets.known() == Some(&0) && matches!(self.holder.known(), None | Some(None))
    }
}

/// The owner of the AF_XDP socket of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process; `None` if that could not be read.
    pub process: Option<Process>,
    /// Its thread that serves the queue, if one says so.
    pub worker: Option<WorkerThread>,
    /// Zero-copy; `None` if the kernel does not report it.
    pub zerocopy: Option<bool>,
    /// Entries of the receive ring; `None` if the kernel does not report it.
    pub rx_ring: Option<u32>,
    /// What this rests on.
    pub evidence: Evidence,
}

/// What it rests on that a process has the socket of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The kernel's list of AF_XDP sockets.
    SocketList,
    /// The server's own description, below `/run/quiclane`.
    Server,
    /// The process holds the XDP program of the device, and has AF_XDP sockets.
    Program,
    /// The process has AF_XDP sockets, and a thread that is named after the queue.
    ThreadName,
}

impl Evidence {
    /// True if it is inferred: neither the kernel nor a server reports it.
    #[must_use]
    pub const fn is_inferred(self) -> bool {
        matches!(self, Self::Program | Self::ThreadName)
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SocketList => "the kernel's list of AF_XDP sockets",
            Self::Server => "the server's status file (/run/quiclane)",
            Self::Program => "inferred: holds the XDP program of the device, and AF_XDP sockets",
            Self::ThreadName => "inferred: has AF_XDP sockets, and a thread named after the queue",
        })
    }
}

/// The rows of a device, by queue; `None` if the survey does not have it.
#[must_use]
pub fn queues(survey: &Survey, name: &str) -> Option<Vec<QueueRow>> {
    let (nic, device) = survey.device(name)?;
    let join = Join { survey, nic, device, counters: ReceiveCounters::of(device) };
    Some(nic.queues.iter().map(|queue| join.row(queue.index, &queue.irq)).collect())
}

struct Join<'a> {
    survey: &'a Survey,
    nic: &'a Nic,
    device: &'a Device,
    counters: Reading<ReceiveCounters>,
}

impl Join<'_> {
    fn row(&self, queue: u32, named_irq: &Reading<Irq>) -> QueueRow {
        let napi = self.napi(queue);
        let irq = self.irq(&napi, named_irq);
        let cpus = match &irq {
            Reading::Known(irq) => irq.effective_cpus.clone(),
            Reading::Unknown(reason) => Reading::Unknown(reason.clone()),
        };
        let node = self.node(&cpus);
        let crosses_node = match (&node, &self.nic.node) {
            (Reading::Known(node), Reading::Known(home)) => Some(node != home),
            _ => None,
        };
        let mask = |found: Option<&Reading<Vec<u32>>>| {
            found.cloned().unwrap_or_else(|| Reading::unknown("there is no such queue"))
        };
        let server = self.server(queue).map(|(_, worker)| worker);
        QueueRow {
            queue,
            napi,
            irq,
            cpus,
            node,
            crosses_node,
            rps: mask(self.device.rps.iter().find(|rps| rps.queue == queue).map(|rps| &rps.cpus)),
            xps: mask(self.device.xps.iter().find(|xps| xps.queue == queue).map(|xps| &xps.cpus)),
            holder: self.holder(queue),
            packets: self.packets(queue),
            drops: self.count(queue, "drops", |counters| counters.drops.get(&queue)),
            server_drops: server.and_then(|worker| worker.dropped.clone()),
            server_refused: server.and_then(|worker| worker.refused.clone()),
        }
    }

    /// What the queue has received. Of a device with one queue that is all that it has received.
    fn packets(&self, queue: u32) -> Reading<u64> {
        let counted = self.count(queue, "packets", |counters| counters.packets.get(&queue));
        match (&counted, self.device.totals.known()) {
            (Reading::Unknown(_), Some(totals)) if self.nic.queues.len() == 1 => {
                Reading::Known(totals.rx_packets)
            }
            _ => counted,
        }
    }

    fn count(
        &self,
        queue: u32,
        what: &str,
        of: impl FnOnce(&ReceiveCounters) -> Option<&u64>,
    ) -> Reading<u64> {
        match &self.counters {
            Reading::Unknown(reason) => Reading::Unknown(reason.clone()),
            Reading::Known(counters) => of(counters).copied().map_or_else(
                || {
                    let origin = counters.origin;
                    Reading::unknown(format!("{origin} has no {what} of queue {queue}"))
                },
                Reading::Known,
            ),
        }
    }

    fn napi(&self, queue: u32) -> Reading<Napi> {
        let links = match &self.device.queue_links {
            Reading::Known(links) => links,
            Reading::Unknown(reason) => return Reading::Unknown(reason.clone()),
        };
        let link = links.iter().find(|link| link.index == queue && link.direction == Direction::Rx);
        let Some(id) = link.and_then(|link| link.napi) else {
            return Reading::unknown("the driver does not report the NAPI of its queues");
        };
        let napis = self.device.napis.known();
        let napi = napis.and_then(|napis| napis.iter().find(|napi| napi.id == id).copied());
        Reading::Known(napi.unwrap_or(Napi { id, ..Napi::default() }))
    }

    /// The interrupt that NAPI names; or the one whose name speaks of the queue.
    fn irq(&self, napi: &Reading<Napi>, named: &Reading<Irq>) -> Reading<Irq> {
        let number = napi.known().and_then(|napi| napi.irq);
        let by_napi = self.nic.irqs.iter().find(|irq| Some(irq.number) == number);
        by_napi.cloned().map_or_else(|| named.clone(), Reading::Known)
    }

    /// The node that all of `cpus` are on.
    fn node(&self, cpus: &Reading<Vec<u32>>) -> Reading<u32> {
        let cpus = match cpus {
            Reading::Known(cpus) => cpus,
            Reading::Unknown(reason) => return Reading::Unknown(reason.clone()),
        };
        let mut nodes = BTreeSet::new();
        for &cpu in cpus {
            match self.survey.machine.cpu(cpu).map(|cpu| &cpu.node) {
                Some(Reading::Known(node)) => drop(nodes.insert(*node)),
                Some(Reading::Unknown(reason)) => return Reading::Unknown(reason.clone()),
                None => return Reading::unknown(format!("CPU {cpu} is not online")),
            }
        }
        match nodes.iter().copied().collect::<Vec<_>>()[..] {
            [node] => Reading::Known(node),
            [] => Reading::unknown("the interrupt is delivered to no CPU"),
            _ => Reading::unknown("the interrupt is delivered to CPUs of several nodes"),
        }
    }

    fn holder(&self, queue: u32) -> Reading<Option<Holder>> {
        let bound = self.is_bound(queue);
        let sockets = match &self.survey.sockets {
            Reading::Known(sockets) => sockets,
            Reading::Unknown(_) if bound == Some(false) => return Reading::Known(None),
            Reading::Unknown(reason) => {
                let server = self.holder_by_server(queue);
                return server.map_or_else(
                    || Reading::Unknown(reason.clone()),
                    |holder| Reading::Known(Some(holder)),
                );
            }
        };
        let index = self.nic.index.known().copied();
        let listed = sockets.iter().find(|socket| {
            socket.device.is_some() && socket.device == index && socket.queue == Some(queue)
        });
        if let Some(socket) = listed {
            return Reading::Known(Some(held(socket, queue, Evidence::SocketList)));
        }
        let is_told = |socket: &XskSocket| socket.device.is_some() && socket.queue.is_some();
        if let Some(holder) = self.holder_by_server(queue) {
            return Reading::Known(Some(holder));
        }
        if bound == Some(false) || sockets.iter().all(is_told) {
            return Reading::Known(None);
        }
        self.holder_by_signs(queue, bound, sockets)
    }

    /// The server of ours that says that the queue is its, and the worker.
    fn server(&self, queue: u32) -> Option<(&Server, &ServerWorker)> {
        let mine = |worker: &&ServerWorker| {
            worker.queue == queue && worker.device.as_ref() == Some(&self.nic.name)
        };
        let servers = &self.survey.servers;
        servers.iter().find_map(|server| Some((server, server.workers.iter().find(mine)?)))
    }

    /// A server of ours that says that the queue is its.
    fn holder_by_server(&self, queue: u32) -> Option<Holder> {
        let (server, worker) = self.server(queue)?;
        let sockets = self.survey.sockets.known().into_iter().flatten();
        let is_its = |process: &Process| process.pid == server.pid;
        let mut its = sockets.filter(|socket| socket.process.as_ref().is_some_and(is_its));
        let socket = its.next().map(|socket| held(socket, queue, Evidence::Server));
        let unseen = || Holder {
            process: Some(Process { pid: server.pid, name: "quiclane".to_owned() }),
            worker: None,
            zerocopy: None,
            rx_ring: None,
            evidence: Evidence::Server,
        };
        let mut holder = socket.unwrap_or_else(unseen);
        let is_zerocopy = |mode: &String| mode.ends_with("zerocopy");
        holder.zerocopy = holder.zerocopy.or_else(|| worker.mode.as_ref().map(is_zerocopy));
        Some(holder)
    }

    /// Where the kernel lists no sockets: the process that holds the program, or whose threads are
    /// named after the queue.
    fn holder_by_signs(
        &self,
        queue: u32,
        bound: Option<bool>,
        sockets: &[XskSocket],
    ) -> Reading<Option<Holder>> {
        let owners = self.program_owners();
        let mut found: Vec<(u32, Holder)> = Vec::new();
        for socket in sockets.iter().filter(|socket| socket.device.is_none()) {
            let Some(process) = &socket.process else { continue };
            if found.iter().any(|(pid, _)| *pid == process.pid) {
                continue;
            }
            let evidence = match &owners {
                Some(owners) if owners.contains(&process.pid) => Evidence::Program,
                Some(_) => continue,
                None => Evidence::ThreadName,
            };
            let holder = held(socket, queue, evidence);
            let names_the_queue = holder.worker.is_some();
            if names_the_queue || (bound == Some(true) && evidence == Evidence::Program) {
                found.push((process.pid, holder));
            }
        }
        match (found.len(), bound) {
            (1, _) => Reading::Known(found.pop().map(|(_, holder)| holder)),
            (0, Some(true)) => Reading::unknown(
                "an AF_XDP socket has this queue, and the kernel does not report its process",
            ),
            (0, _) => Reading::Known(None),
            (count, _) => Reading::unknown(format!(
                "{count} processes may have it; a kernel with CONFIG_XDP_SOCKETS_DIAG reports which"
            )),
        }
    }

    /// Whether an AF_XDP socket has the queue; `None` if the kernel does not report it.
    fn is_bound(&self, queue: u32) -> Option<bool> {
        let links = self.device.queue_links.known();
        let link = links.and_then(|links| {
            links.iter().find(|link| link.index == queue && link.direction == Direction::Rx)
        });
        if let Some(has_xsk) = link.and_then(|link| link.has_xsk) {
            return Some(has_xsk);
        }
        // A socket in the program's map at that place is bound to that queue, or gets nothing.
        let programs = self.programs()?;
        let xskmaps: Vec<_> = programs
            .iter()
            .flat_map(|program| &program.maps)
            .filter(|map| map.kind == "xskmap")
            .collect();
        let queues: Option<Vec<_>> = xskmaps.iter().map(|map| map.queues.as_ref()).collect();
        let queues = queues.filter(|queues| !queues.is_empty())?;
        Some(queues.into_iter().flatten().any(|&other| other == queue))
    }

    /// The programs on the device; `None` if that is not known.
    fn programs(&self) -> Option<Vec<&Program>> {
        let attached = self.device.attached.known()?;
        let loaded = self.survey.programs.known()?;
        let is_here = |program: &&Program| attached.iter().any(|here| here.program == program.id);
        Some(loaded.iter().filter(is_here).collect())
    }

    /// The processes that hold the programs of the device; `None` if that is not known.
    fn program_owners(&self) -> Option<BTreeSet<u32>> {
        let programs = self.programs()?;
        let processes = programs.iter().flat_map(|program| &program.processes);
        let owners: BTreeSet<u32> = processes.map(|process| process.pid).collect();
        (!owners.is_empty()).then_some(owners)
    }
}

fn held(socket: &XskSocket, queue: u32, evidence: Evidence) -> Holder {
    Holder {
        process: socket.process.clone(),
        worker: socket.workers.iter().find(|worker| worker.queue == Some(queue)).cloned(),
        zerocopy: socket.zerocopy,
        rx_ring: socket.rx_ring,
        evidence,
    }
}
