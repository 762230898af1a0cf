//! The content of the picture: nodes with their CPUs, devices with their queues, and where each
//! queue's interrupt and worker run. Pure: a [`Survey`] in, a [`Map`] out. `--json` prints the map.

use crate::inspect::Unknowns;
use quiclane::topology::joined::{self, QueueRow};
use quiclane::topology::survey::Survey;
use quiclane::topology::survey::device::Device;
use quiclane::topology::{Cpu, Irq, Nic, Reading, list};
use serde::Serialize;
use std::collections::BTreeMap;

/// On a device with more queues than this, those without a server are folded.
const FOLD_ABOVE: usize = 16;
/// A run of fewer queues is shown as it is: folding saves nothing.
const FOLD_RUN: usize = 3;

/// A machine as a picture shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Map {
    pub(crate) host: Option<String>,
    pub(crate) kernel: Option<String>,
    /// By number; CPUs whose node is unknown come last.
    pub(crate) nodes: Vec<Node>,
    pub(crate) devices: Vec<Card>,
    /// Interrupts and workers that run on another node than their device.
    pub(crate) crossings: usize,
    pub(crate) unknown: Unknowns,
}

/// A memory node; `None` holds the CPUs whose node the kernel does not report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Node {
    pub(crate) node: Option<u32>,
    pub(crate) cpus: Vec<u32>,
    pub(crate) packages: Vec<Package>,
}

/// The part of a package that is on a node.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Package {
    pub(crate) package: Option<u32>,
    pub(crate) caches: Vec<Cache>,
}

/// The cores that share a last-level cache.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cache {
    /// The kernel says that they do.
    pub(crate) is_known: bool,
    /// Each core as its logical CPUs.
    pub(crate) cores: Vec<Vec<u32>>,
}

/// A network device.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Card {
    pub(crate) device: String,
    pub(crate) driver: Option<String>,
    pub(crate) bus: Option<String>,
    pub(crate) speed_mbps: Option<u32>,
    pub(crate) mtu_bytes: Option<u32>,
    pub(crate) node: Option<u32>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) unknown: Unknowns,
}

/// A receive queue.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Queue {
    pub(crate) queue: u32,
    pub(crate) irq: Option<u32>,
    pub(crate) irq_cpus: Vec<u32>,
    /// Where it goes from the next interrupt on, if that is elsewhere; else empty.
    pub(crate) irq_next_cpus: Vec<u32>,
    /// One of `irq_cpus` is on another node than the device; `None` if either is unknown.
    pub(crate) irq_crosses: Option<bool>,
    pub(crate) pid: Option<u32>,
    pub(crate) process: Option<String>,
    pub(crate) zerocopy: Option<bool>,
    pub(crate) worker_cpu: Option<u32>,
    pub(crate) worker_crosses: Option<bool>,
    pub(crate) unknown: Unknowns,
}

impl Queue {
    /// A process has an AF_XDP socket on it.
    pub(crate) fn is_served(&self) -> bool {
        self.pid.is_some() || self.worker_cpu.is_some() || self.zerocopy.is_some()
    }

    /// How it looks in a run of queues that are folded.
    fn fold_key(&self) -> (Option<bool>, bool) {
        (self.irq_crosses, self.irq.is_some())
    }
}

/// What one row of a device stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Row<'a> {
    /// A queue.
    One(&'a Queue),
    /// Neighbours without a server.
    Fold(&'a [Queue]),
}

impl Map {
    /// How many lines cross nodes, in words. That no line crosses is known only if the node of every
    /// device is.
    pub(crate) fn verdict(&self) -> String {
        match self.crossings {
            0 if self.devices.iter().all(|card| card.node.is_some()) => {
                "every queue stays on its node".to_owned()
            }
            0 => "the node of a device is unknown: lines may cross".to_owned(),
            1 => "1 line crosses nodes".to_owned(),
            many => format!("{many} lines cross nodes"),
        }
    }

    /// The map of a machine with the devices of `names`; if that is empty, the devices of interest.
    pub(crate) fn of(survey: &Survey, names: &[String]) -> Self {
        let mut unknown = Unknowns::default();
        let cards = chosen(survey, names);
        let devices: Vec<Card> =
            cards.iter().map(|(nic, device)| card(survey, nic, device)).collect();
        let crosses = |queue: &Queue| {
            let both = [queue.irq_crosses, queue.worker_crosses];
            both.into_iter().filter(|&crosses| crosses == Some(true)).count()
        };
        Self {
            host: unknown.take("host", &survey.host.name),
            kernel: unknown.take("kernel", &survey.host.kernel),
            nodes: nodes(survey),
            crossings: devices.iter().flat_map(|card| &card.queues).map(crosses).sum(),
            devices,
            unknown,
        }
    }

    /// The rows of a device. Queues without a server are folded where others are served.
    pub(crate) fn rows<'a>(&self, card: &'a Card) -> Vec<Row<'a>> {
        let mut served = self.devices.iter().flat_map(|card| &card.queues);
        let folds = card.queues.len() > FOLD_ABOVE && served.any(Queue::is_served);
        let alike = |a: &Queue, b: &Queue| {
            folds && !a.is_served() && !b.is_served() && a.fold_key() == b.fold_key()
        };
        let mut rows = Vec::new();
        for run in card.queues.chunk_by(alike) {
            if run.len() >= FOLD_RUN {
                rows.push(Row::Fold(run));
            } else {
                rows.extend(run.iter().map(Row::One));
            }
        }
        rows
    }

    /// Node of a CPU.
    pub(crate) fn node_of(&self, cpu: u32) -> Option<u32> {
        self.nodes.iter().find(|node| node.cpus.contains(&cpu))?.node
    }

    pub(crate) fn packages(&self) -> usize {
        let all = self.nodes.iter().flat_map(|node| &node.packages);
        all.filter_map(|package| package.package).collect::<std::collections::BTreeSet<_>>().len()
    }

    pub(crate) fn cores(&self) -> usize {
        let packages = self.nodes.iter().flat_map(|node| &node.packages);
        packages.flat_map(|package| &package.caches).map(|cache| cache.cores.len()).sum()
    }

    pub(crate) fn cpus(&self) -> usize {
        self.nodes.iter().map(|node| node.cpus.len()).sum()
    }
}

/// Devices with a bus or with an AF_XDP socket; where there are none, all but the loopback.
fn chosen<'a>(survey: &'a Survey, names: &[String]) -> Vec<(&'a Nic, &'a Device)> {
    if !names.is_empty() {
        return names.iter().filter_map(|name| survey.device(name)).collect();
    }
    let all = || survey.machine.nics.iter().filter_map(|nic| survey.device(&nic.name));
    let sockets = survey.sockets.known();
    let has_socket = |nic: &Nic| {
        let index = nic.index.known().copied();
        let mut on = sockets.into_iter().flatten().map(|socket| socket.device);
        index.is_some() && on.any(|device| device == index)
    };
    let worth = |(nic, _): &(&Nic, &Device)| nic.bus.known().is_some() || has_socket(nic);
    let found: Vec<_> = all().filter(worth).collect();
    if found.is_empty() { all().filter(|(nic, _)| nic.name != "lo").collect() } else { found }
}

fn card(survey: &Survey, nic: &Nic, device: &Device) -> Card {
    let mut unknown = Unknowns::default();
    let rows = joined::queues(survey, &nic.name).unwrap_or_default();
    let queue = |row: &QueueRow| queue(survey, nic, row);
    Card {
        device: nic.name.clone(),
        driver: driver(&mut unknown, nic, device),
        bus: unknown.take("bus", &nic.bus),
        speed_mbps: unknown.take("speed_mbps", &device.link).and_then(|link| link.speed_mbps),
        mtu_bytes: unknown.take("mtu_bytes", &nic.mtu_bytes),
        node: unknown.take("node", &nic.node),
        queues: rows.iter().map(queue).collect(),
        unknown,
    }
}

/// As the bus names it, or for a device without a bus, as it names itself.
fn driver(unknown: &mut Unknowns, nic: &Nic, device: &Device) -> Option<String> {
    unknown.take("driver", &device.driver(nic))
}

fn queue(survey: &Survey, nic: &Nic, row: &QueueRow) -> Queue {
    let mut unknown = Unknowns::default();
    let irq = unknown.take("irq", &row.irq);
    let irq_cpus = unknown.take("irq_cpus", &row.cpus).unwrap_or_default();
    let holder = unknown.take("process", &row.holder).flatten();
    let worker_cpu = holder.as_ref().and_then(|holder| {
        let pinned = match holder.worker.as_ref().map(|worker| &worker.cpus[..]) {
            Some(&[cpu]) => Some(cpu),
            _ => told_by_server(survey, nic, row.queue),
        };
        if pinned.is_none() {
            let reason = "no thread that is pinned to one CPU serves the queue".to_owned();
            unknown.0.insert("worker_cpu".to_owned(), reason);
        }
        pinned
    });
    let crosses = |cpus: &[u32]| crosses(survey, &nic.node, cpus);
    let process = holder.as_ref().and_then(|holder| holder.process.clone());
    Queue {
        queue: row.queue,
        irq_next_cpus: irq.as_ref().and_then(Irq::next_cpus).cloned().unwrap_or_default(),
        irq: irq.map(|irq| irq.number),
        irq_crosses: crosses(&irq_cpus),
        irq_cpus,
        pid: process.as_ref().map(|process| process.pid),
        process: process.map(|process| process.name),
        zerocopy: holder.and_then(|holder| holder.zerocopy),
        worker_cpu,
        worker_crosses: worker_cpu.and_then(|cpu| crosses(&[cpu])),
        unknown,
    }
}

fn told_by_server(survey: &Survey, nic: &Nic, queue: u32) -> Option<u32> {
    let workers = survey.servers.iter().flat_map(|server| &server.workers);
    let mut mine = workers.filter(|worker| worker.device.as_ref() == Some(&nic.name));
    let worker = mine.find(|worker| worker.queue == queue)?;
    // With soft affinity that is only where it started.
    worker.cpu.filter(|_| worker.soft_cpus.is_empty())
}

/// Whether one of `cpus` is on another node than `home`.
fn crosses(survey: &Survey, home: &Reading<u32>, cpus: &[u32]) -> Option<bool> {
    let home = home.known()?;
    let node = |&cpu: &u32| survey.machine.cpu(cpu)?.node.known().copied();
    let nodes: Vec<u32> = cpus.iter().map(node).collect::<Option<_>>()?;
    (!nodes.is_empty()).then(|| nodes.iter().any(|node| node != home))
}

/// Nodes, packages, caches, cores: in the order of their first CPU.
fn nodes(survey: &Survey) -> Vec<Node> {
    let mut by_node: BTreeMap<Option<u32>, Vec<&Cpu>> = BTreeMap::new();
    for node in &survey.machine.nodes {
        by_node.entry(Some(node.id)).or_default();
    }
    for cpu in &survey.machine.cpus {
        by_node.entry(cpu.node.known().copied()).or_default().push(cpu);
    }
    let unknown = by_node.remove(&None).map(|cpus| (None, cpus));
    let all = by_node.into_iter().chain(unknown);
    all.map(|(node, cpus)| Node {
        node,
        cpus: cpus.iter().map(|cpu| cpu.id).collect(),
        packages: packages(&cpus),
    })
    .collect()
}

fn packages(cpus: &[&Cpu]) -> Vec<Package> {
    let mut by_package: BTreeMap<Option<u32>, Vec<&Cpu>> = BTreeMap::new();
    for cpu in cpus {
        by_package.entry(cpu.package.known().copied()).or_default().push(cpu);
    }
    let all = by_package.into_iter();
    all.map(|(package, cpus)| Package { package, caches: caches(&cpus) }).collect()
}

fn caches(cpus: &[&Cpu]) -> Vec<Cache> {
    let mut by_cache: Vec<(Option<&Vec<u32>>, Vec<&Cpu>)> = Vec::new();
    for cpu in cpus {
        let domain = cpu.cache.known();
        match by_cache.iter_mut().find(|(other, _)| *other == domain) {
            Some((_, members)) => members.push(cpu),
            None => by_cache.push((domain, vec![cpu])),
        }
    }
    let all = by_cache.into_iter();
    all.map(|(domain, cpus)| Cache { is_known: domain.is_some(), cores: cores(&cpus) }).collect()
}

fn cores(cpus: &[&Cpu]) -> Vec<Vec<u32>> {
    let mut cores: Vec<Vec<u32>> = Vec::new();
    for cpu in cpus {
        match cores.iter_mut().find(|core| core.iter().any(|id| cpu.siblings.contains(id))) {
            Some(core) => core.push(cpu.id),
            None => cores.push(vec![cpu.id]),
        }
    }
    cores
}

/// A list as books write it: `0–3, 8`.
pub(crate) fn ranges(numbers: impl IntoIterator<Item = u32>) -> String {
    list::format(numbers).replace('-', "–").replace(',', ", ")
}

/// `100 Gb/s`.
pub(crate) fn speed(mbps: u32) -> String {
    if mbps >= 1_000 && mbps.is_multiple_of(100) {
        format!("{} Gb/s", f64::from(mbps) / 1_000.0)
    } else {
        format!("{mbps} Mb/s")
    }
}
