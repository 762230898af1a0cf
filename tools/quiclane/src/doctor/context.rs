//! What the checks ask: plain questions to a survey. Each is answered, or refused with a reason.

use super::finding::{Found, Judgement};
use quiclane::topology::survey::Survey;
use quiclane::topology::survey::device::{
    Attached, Device, Direction, Feature, Program, XskSocket,
};
use quiclane::topology::survey::server::{Server, ServerWorker};
use quiclane::topology::{Irq, Nic, Reading, list};
use std::collections::{BTreeMap, BTreeSet};

/// The machine, and an earlier look at it if there was one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host<'a> {
    pub(crate) survey: &'a Survey,
    pub(crate) before: Option<&'a Survey>,
}

/// A device of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    pub(crate) host: Host<'a>,
    pub(crate) nic: &'a Nic,
    pub(crate) device: &'a Device,
}

/// The thread that serves a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Worker {
    pub(crate) queue: u32,
    /// The CPUs that it may run on. It is not pinned if these are several, or none is named (all).
    pub(crate) cpus: Vec<u32>,
    /// Its server leaves it free to move among them (soft affinity).
    pub(crate) is_soft: bool,
    /// Its name in messages.
    pub(crate) name: String,
    /// Where that was read.
    pub(crate) from: String,
}

impl Worker {
    /// The CPU that it is pinned to.
    pub(crate) fn cpu(&self) -> Option<u32> {
        if let [cpu] = self.cpus[..] { Some(cpu) } else { None }
    }
}

/// The value, or why there is none.
pub(crate) fn known<T>(reading: &Reading<T>) -> Result<&T, String> {
    match reading {
        Reading::Known(value) => Ok(value),
        Reading::Unknown(reason) => Err(reason.clone()),
    }
}

/// Hits among many things, some of which may be unknown. A hit is a finding, whatever else is
/// unknown. Without a hit, and with something unknown, the check is not judged.
#[derive(Debug)]
pub(crate) struct Sift<T> {
    pub(crate) hits: Vec<T>,
    unknown: Option<String>,
}

impl<T> Sift<T> {
    pub(crate) const fn new() -> Self {
        Self { hits: Vec::new(), unknown: None }
    }

    /// The value; of missing values the first reason is kept.
    pub(crate) fn take<'r, R>(&mut self, reading: &'r Reading<R>) -> Option<&'r R> {
        if let Some(reason) = reading.reason() {
            self.miss(reason);
        }
        reading.known()
    }

    pub(crate) fn miss(&mut self, reason: &str) {
        self.unknown.get_or_insert_with(|| reason.to_owned());
    }

    pub(crate) fn judge(self, found: impl FnOnce(Vec<T>) -> Found) -> Judgement {
        match (self.hits.is_empty(), self.unknown) {
            (false, _) => Ok(Some(found(self.hits))),
            (true, Some(reason)) => Err(reason),
            (true, None) => Ok(None),
        }
    }
}

impl<'a> Host<'a> {
    /// Major and minor number of the kernel.
    pub(crate) fn kernel(&self) -> Result<(u32, u32), String> {
        let release = known(&self.survey.host.kernel)?;
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
            _ => Err(format!("/proc/sys/kernel/osrelease reads {release:?}")),
        }
    }

    /// An option that the kernel was built with: `y`, `m`, or `None`.
    pub(crate) fn option(&self, name: &str) -> Result<Option<&'a str>, String> {
        let options = known(&self.survey.host.kernel_options)?;
        let value = options.iter().find(|(option, _)| option == name).map(|(_, v)| v.as_str());
        Ok(value.filter(|value| *value == "y" || *value == "m"))
    }

    pub(crate) fn node_of(&self, cpu: u32) -> Option<u32> {
        self.survey.machine.cpu(cpu)?.node.known().copied()
    }

    /// The physical core's CPUs, itself among them.
    pub(crate) fn core_of(&self, cpu: u32) -> &'a [u32] {
        self.survey.machine.cpu(cpu).map(|cpu| cpu.siblings.as_slice()).unwrap_or_default()
    }

    /// True if two CPUs are threads of one core.
    pub(crate) fn are_siblings(&self, a: u32, b: u32) -> bool {
        a != b && self.core_of(a).contains(&b)
    }

    pub(crate) fn has_many_nodes(&self) -> bool {
        self.survey.machine.nodes.len() > 1
    }
}

impl<'a> Context<'a> {
    pub(crate) fn new(host: Host<'a>, name: &str) -> Option<Self> {
        let (nic, device) = host.survey.device(name)?;
        Some(Self { host, nic, device })
    }

    /// The same device at the earlier look.
    pub(crate) fn before(&self) -> Option<Self> {
        let survey = self.host.before?;
        Self::new(Host { survey, before: None }, &self.nic.name)
    }

    pub(crate) fn name(&self) -> &'a str {
        &self.nic.name
    }

    /// A file of the device in sysfs.
    pub(crate) fn file(&self, file: &str) -> String {
        format!("/sys/class/net/{}/{file}", self.nic.name)
    }

    /// `ethtool OPTION DEV`, the command that shows what was read.
    pub(crate) fn ethtool(&self, option: &str) -> String {
        format!("ethtool {option} {}", self.nic.name)
    }

    /// A device on no bus: it has neither interrupts nor a node, and needs none.
    pub(crate) fn is_virtual(&self) -> bool {
        self.nic.irqs.is_empty() && self.nic.bus.known().is_none()
    }

    /// The name of the driver; a virtual device has one too.
    pub(crate) fn driver(&self) -> Result<String, String> {
        match (self.device.driver(self.nic), self.device.link.known()) {
            (Reading::Known(driver), _) => Ok(driver),
            // The loopback device has neither a driver nor a kind.
            (Reading::Unknown(_), Some(_)) => Ok("virtual".to_owned()),
            (Reading::Unknown(reason), None) => Err(reason),
        }
    }

    /// An offload; `None` if the driver has no such thing.
    pub(crate) fn feature(&self, name: &str) -> Result<Option<Feature>, String> {
        Ok(known(&self.device.features)?.get(name).copied())
    }

    /// The programs on the device, with what is known of each.
    pub(crate) fn programs(&self) -> Result<Vec<(Attached, &'a Program)>, String> {
        let attached = known(&self.device.attached)?;
        if attached.is_empty() {
            return Ok(Vec::new());
        }
        let programs = known(&self.host.survey.programs)?;
        attached
            .iter()
            .map(|attached| {
                let program = programs.iter().find(|program| program.id == attached.program);
                let program = program.ok_or_else(|| {
                    format!("program {} is attached, and not shown", attached.program)
                })?;
                Ok((*attached, program))
            })
            .collect()
    }

    /// The AF_XDP sockets that are bound to the device, as far as the kernel reports them.
    pub(crate) fn sockets(&self) -> Result<Vec<&'a XskSocket>, String> {
        let sockets = known(&self.host.survey.sockets)?;
        let index = known(&self.nic.index)?;
        if sockets.iter().any(|socket| socket.device.is_none()) {
            return Err("the kernel does not report which device a socket is bound to \
                        (CONFIG_XDP_SOCKETS_DIAG)"
                .to_owned());
        }
        Ok(sockets.iter().filter(|socket| socket.device.as_ref() == Some(index)).collect())
    }

    /// What Quiclane servers report of this device.
    pub(crate) fn served(&self) -> impl Iterator<Item = (&'a Server, &'a ServerWorker)> + use<'a> {
        let name = self.name();
        let all = self.host.survey.servers.iter();
        all.flat_map(|server| server.workers.iter().map(move |worker| (server, worker)))
            .filter(move |(_, worker)| worker.device.as_deref() == Some(name))
    }

    /// The queues that have an AF_XDP socket, from the first source that knows: the queues themselves,
    /// the sockets, the map of the program, Quiclane servers.
    pub(crate) fn socket_queues(&self) -> Result<BTreeSet<u32>, String> {
        let mut queues: BTreeSet<u32> = self.served().map(|(_, worker)| worker.queue).collect();
        let mut is_told = !queues.is_empty();
        if let Some(links) = self.device.queue_links.known() {
            let rx = || links.iter().filter(|link| link.direction == Direction::Rx);
            is_told |= rx().next().is_some() && rx().all(|link| link.has_xsk.is_some());
            queues.extend(rx().filter(|link| link.has_xsk == Some(true)).map(|link| link.index));
        }
        let sockets = self.sockets();
        is_told |= sockets.is_ok();
        queues.extend(sockets.iter().flatten().filter_map(|socket| socket.queue));
        if let Ok(programs) = self.programs() {
            let maps = || programs.iter().flat_map(|(_, program)| &program.maps);
            let mut xskmaps = maps().filter(|map| map.kind == "xskmap");
            is_told |= xskmaps.all(|map| map.queues.is_some());
            queues.extend(maps().filter_map(|map| map.queues.as_ref()).flatten());
        }
        match (is_told, sockets) {
            (true, _) => Ok(queues),
            (false, Err(reason)) => Err(reason),
            (false, Ok(_)) => Err("no source says which queues have sockets".to_owned()),
        }
    }

    /// The threads that serve the queues with sockets, by queue.
    pub(crate) fn workers(&self) -> Result<Vec<Worker>, String> {
        let queues = self.socket_queues()?;
        let mut workers: BTreeMap<u32, Worker> = BTreeMap::new();
        for (server, worker) in self.served() {
            workers.insert(
                worker.queue,
                Worker {
                    queue: worker.queue,
                    cpus: match &worker.soft_cpus[..] {
                        [] => worker.cpu.into_iter().collect(),
                        soft => soft.to_vec(),
                    },
                    is_soft: !worker.soft_cpus.is_empty(),
                    name: format!("quiclane pid {}", server.pid),
                    from: format!("/run/quiclane/{}.json", server.pid),
                },
            );
        }
        for socket in self.host.survey.sockets.known().into_iter().flatten() {
            for worker in self.threads_of(socket) {
                if queues.contains(&worker.queue) {
                    workers.entry(worker.queue).or_insert(worker);
                }
            }
        }
        match queues.iter().find(|queue| !workers.contains_key(queue)) {
            Some(queue) => Err(format!("the thread that serves queue {queue} is not known")),
            None => Ok(workers.into_values().collect()),
        }
    }

    /// The workers behind a socket: those of its queue if that is known; else those with the number
    /// of a queue in their name, if the process holds the program of this device.
    fn threads_of(&self, socket: &XskSocket) -> Vec<Worker> {
        let Some(process) = &socket.process else { return Vec::new() };
        let is_here = match (socket.device, self.nic.index.known()) {
            (Some(device), Some(index)) => device == *index,
            _ => self.programs().is_ok_and(|programs| {
                let mut holders = programs.iter().flat_map(|(_, program)| &program.processes);
                holders.any(|holder| holder.pid == process.pid)
            }),
        };
        if !is_here {
            return Vec::new();
        }
        let worker = |queue: u32, tid: u32, cpus: &[u32]| Worker {
            queue,
            cpus: cpus.to_vec(),
            is_soft: false,
            name: format!("{} pid {}", process.name, process.pid),
            from: format!("/proc/{}/task/{tid}/status", process.pid),
        };
        let named = |of: Option<u32>| {
            let all = socket.workers.iter();
            all.filter_map(move |thread| Some((thread.queue?, thread)))
                .filter(move |(queue, _)| of.is_none_or(|of| of == *queue))
                .map(|(queue, thread)| worker(queue, thread.tid, &thread.cpus))
                .collect::<Vec<_>>()
        };
        match (socket.queue, &socket.workers[..], named(socket.queue)) {
            (_, _, found) if !found.is_empty() => found,
            // A process with one thread: that thread serves the socket, whatever its name.
            (Some(queue), [only], _) => vec![worker(queue, only.tid, &only.cpus)],
            // Only pinned threads are listed: a process without any has no pinned thread.
            (Some(queue), [], _) => vec![worker(queue, process.pid, &[])],
            _ => Vec::new(),
        }
    }

    /// The interrupts of the receive queues, by queue. A virtual device has none.
    pub(crate) fn queue_irqs<T>(&self, sift: &mut Sift<T>) -> Vec<(u32, &'a Irq)> {
        if self.is_virtual() {
            return Vec::new();
        }
        let irq = |queue: &'a quiclane::topology::Queue| {
            sift.take(&queue.irq).map(|irq| (queue.index, irq))
        };
        self.nic.queues.iter().filter_map(irq).collect()
    }

    /// The CPUs that packets of this device are handled on: of its interrupts and its workers.
    pub(crate) fn serving_cpus(&self) -> Result<BTreeSet<u32>, String> {
        let mut sift = Sift::<()>::new();
        let irqs = self.queue_irqs(&mut sift);
        let mut cpus: BTreeSet<u32> = irqs
            .iter()
            .filter_map(|(_, irq)| irq.effective_cpus.known())
            .flatten()
            .copied()
            .collect();
        let workers = self.workers();
        cpus.extend(workers.iter().flatten().filter_map(Worker::cpu));
        match (cpus.is_empty(), sift.judge(|_| Found::new("")), workers) {
            (false, ..) => Ok(cpus),
            (true, Err(reason), _) | (true, _, Err(reason)) => Err(reason),
            (true, ..) => Ok(cpus),
        }
    }

    /// The other end of a veth, if it is in this namespace.
    pub(crate) fn peer(&self) -> Result<Context<'a>, String> {
        let gone = || format!("the other end of {} is in another namespace", self.name());
        let lower = known(&self.device.link)?.lower.ok_or_else(gone)?;
        let survey = self.host.survey;
        let other = survey.machine.nics.iter().find(|nic| nic.index.known() == Some(&lower));
        let peer = other.and_then(|nic| Self::new(self.host, &nic.name)).ok_or_else(gone)?;
        // The index is of another namespace; another device may have it in this one.
        let back = peer.device.link.known().and_then(|link| link.lower);
        if back.as_ref() == self.nic.index.known() { Ok(peer) } else { Err(gone()) }
    }
}

/// The CPU that an interrupt is delivered to, and where it is set to go if it is elsewhere.
pub(crate) fn delivered(irq: &Irq, cpu: u32) -> String {
    match irq.next_cpus() {
        None => format!("cpu {cpu}"),
        Some(next) => format!("cpu {cpu} (from the next interrupt on {})", named("cpu", next)),
    }
}

/// `queue 3`, `queues 0-2,5`.
pub(crate) fn named(what: &str, numbers: &[u32]) -> String {
    let plural = if numbers.len() == 1 { "" } else { "s" };
    format!("{what}{plural} {}", list::format(numbers.iter().copied()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_short() {
        assert_eq!(named("queue", &[4, 5, 6]), "queues 4-6");
    }

    #[test]
    fn a_hit_counts_more_than_a_gap_and_a_gap_more_than_nothing() {
        let judge = |hit: bool, miss: bool| {
            let mut sift = Sift::new();
            sift.hits.extend(hit.then_some(()));
            if miss {
                assert_eq!(sift.take(&Reading::<u32>::Unknown("gap".to_owned())), None);
            }
            sift.judge(|_| Found::new("hit"))
        };
        assert_eq!(judge(true, true), Ok(Some(Found::new("hit"))));
        assert_eq!(judge(false, true), Err("gap".to_owned()));
        assert_eq!(judge(false, false), Ok(None));
    }
}
