//! What changed between two looks at a machine: two [`Survey`]s and the time between them in,
//! [`Rates`] out. Pure.
//!
//! A counter that went back means that a server or a driver was restarted: there is no rate until the
//! next look. A 32-bit counter that wrapped is recognized by how far it fell.

use crate::inspect::Unknowns;
use quiclane::counters::Kind;
use quiclane::exec::Snapshot;
use quiclane::topology::counters::ReceiveCounters;
use quiclane::topology::joined::{self, QueueRow};
use quiclane::topology::survey::Survey;
use quiclane::topology::survey::device::{Device, Direction, QueueCounters, Totals, XskCounters};
use quiclane::topology::survey::host::{CpuState, CpuTime};
use quiclane::topology::survey::server::{CountersBySet, ServerWorker};
use quiclane::topology::{Nic, Reading};
use serde::Serialize;
use std::collections::BTreeMap;

/// What happened on a device between two looks. Rates are per second; `None`: not known.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Rates {
    pub(crate) host: Option<String>,
    pub(crate) device: String,
    pub(crate) driver: Option<String>,
    pub(crate) speed_mbps: Option<u32>,
    pub(crate) node: Option<u32>,
    /// The time between the looks; `None` after the first.
    pub(crate) seconds: Option<f64>,
    pub(crate) total: Flow,
    pub(crate) queues: Vec<QueueRates>,
    pub(crate) cpus: Vec<CpuRates>,
    /// By reason.
    pub(crate) drops: BTreeMap<String, f64>,
    /// Clients that the servers of the queues refuse, by reason.
    pub(crate) refused: BTreeMap<String, f64>,
    pub(crate) unknown: Unknowns,
}

/// Packets and bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Flow {
    pub(crate) rx_pps: Option<f64>,
    pub(crate) rx_bps: Option<f64>,
    pub(crate) tx_pps: Option<f64>,
    pub(crate) tx_bps: Option<f64>,
    pub(crate) drops_ps: Option<f64>,
    /// Packets for connections of other workers.
    pub(crate) wrong_queue_ps: Option<f64>,
}

/// A receive queue, and the transmit queue of the same number.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct QueueRates {
    pub(crate) queue: u32,
    #[serde(flatten)]
    pub(crate) flow: Flow,
    pub(crate) irq_cpus: Vec<u32>,
    pub(crate) worker_cpu: Option<u32>,
    /// Its interrupt or its worker is on another node than the device.
    pub(crate) crosses: Option<bool>,
    pub(crate) process: Option<String>,
    pub(crate) pid: Option<u32>,
    pub(crate) connections: Option<u64>,
    /// By reason.
    pub(crate) drops: BTreeMap<String, f64>,
    /// All counters of the server on it, by set and name: a counter as a rate, a gauge as it is; only
    /// those that are not zero.
    pub(crate) counters: BTreeMap<String, BTreeMap<String, f64>>,
}

impl QueueRates {
    /// Nothing happens on it. A queue whose arrivals are not counted may be busy.
    pub(crate) fn is_idle(&self) -> bool {
        let flow = &self.flow;
        let rates = [flow.rx_pps, flow.tx_pps, flow.drops_ps, flow.wrong_queue_ps];
        flow.rx_pps.is_some() && rates.into_iter().flatten().all(|rate| rate == 0.0)
    }
}

/// A CPU. Shares are of the time between the looks, 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct CpuRates {
    pub(crate) cpu: u32,
    pub(crate) node: Option<u32>,
    /// In soft and hard interrupts.
    pub(crate) softirq: Option<f64>,
    /// In programs, and in the kernel on their behalf; on a worker's CPU that is the worker.
    pub(crate) program: Option<f64>,
    pub(crate) net_rx_ps: Option<f64>,
    pub(crate) has_worker: bool,
}

/// The increase of a counter; `None` if it was reset.
pub(crate) fn advance(before: u64, after: u64) -> Option<u64> {
    const BITS_32: u64 = 1 << 32;
    if after >= before {
        return Some(after - before);
    }
    let fell = before - after;
    // Only a counter that wrapped falls by more than half of its range.
    if before < BITS_32 && fell > BITS_32 / 2 {
        Some(after + BITS_32 - before)
    } else if fell > u64::MAX / 2 {
        Some(after.wrapping_sub(before))
    } else {
        None
    }
}

/// Two looks at a device.
struct Pair<'a> {
    before: Option<&'a Survey>,
    after: &'a Survey,
    seconds: f64,
}

impl Pair<'_> {
    fn rate(&self, before: Option<u64>, after: Option<u64>) -> Option<f64> {
        Some(advance(before?, after?)? as f64 / self.seconds)
    }
}

/// What happened on `device` in the `seconds` between two looks; `None` if it is gone. Without a
/// first look there are no rates; everything else is there.
pub(crate) fn between(
    before: Option<(&Survey, f64)>,
    after: &Survey,
    device: &str,
) -> Option<Rates> {
    let (nic, card) = after.device(device)?;
    let seconds = before.map(|(_, seconds)| seconds).filter(|&seconds| seconds > 0.0);
    let pair = Pair {
        before: before.filter(|_| seconds.is_some()).map(|(survey, _)| survey),
        after,
        seconds: seconds.unwrap_or(1.0),
    };
    let mut unknown = Unknowns::default();
    let rows = joined::queues(after, device).unwrap_or_default();
    let queues: Vec<QueueRates> = rows.iter().map(|row| queue(&pair, nic, row)).collect();
    if let Reading::Unknown(reason) = &card.queue_counters {
        unknown.0.insert("queue_counters".to_owned(), reason.clone());
    }
    let mut drops = BTreeMap::new();
    for (reason, rate) in queues.iter().flat_map(|queue| &queue.drops) {
        *drops.entry(reason.clone()).or_insert(0.0) += rate;
    }
    if let Some(rate) = backlog_drops(&pair) {
        drops.insert("backlog".to_owned(), rate);
    }
    let mut cpus: Vec<CpuRates> = after.host.cpus.iter().map(|state| cpu(&pair, state)).collect();
    for cpu in &mut cpus {
        cpu.has_worker = queues.iter().any(|queue| queue.worker_cpu == Some(cpu.cpu));
    }
    Some(Rates {
        host: unknown.take("host", &after.host.name),
        device: device.to_owned(),
        driver: unknown.take("driver", &card.driver(nic)),
        speed_mbps: unknown.take("speed_mbps", &card.link).and_then(|link| link.speed_mbps),
        node: unknown.take("node", &nic.node),
        seconds,
        total: total(&pair, device, &queues),
        queues,
        cpus,
        drops,
        refused: refused(&pair, nic),
        unknown,
    })
}

/// The sum over the queues that are known; if none is, the counters of the whole device.
fn total(pair: &Pair<'_>, device: &str, queues: &[QueueRates]) -> Flow {
    let whole = |of: fn(&Totals) -> u64| {
        let look = |survey: &Survey| survey.device(device)?.1.totals.known().map(of);
        pair.rate(pair.before.and_then(look), look(pair.after))
    };
    let sum = |of: fn(&Flow) -> Option<f64>| {
        let known = queues.iter().filter_map(|queue| of(&queue.flow));
        known.fold(None, |sum, rate| Some(sum.unwrap_or(0.0) + rate))
    };
    Flow {
        rx_pps: sum(|flow| flow.rx_pps).or_else(|| whole(|all| all.rx_packets)),
        rx_bps: sum(|flow| flow.rx_bps).or_else(|| Some(8.0 * whole(|all| all.rx_bytes)?)),
        tx_pps: sum(|flow| flow.tx_pps).or_else(|| whole(|all| all.tx_packets)),
        tx_bps: sum(|flow| flow.tx_bps).or_else(|| Some(8.0 * whole(|all| all.tx_bytes)?)),
        drops_ps: sum(|flow| flow.drops_ps),
        wrong_queue_ps: sum(|flow| flow.wrong_queue_ps),
    }
}

fn queue(pair: &Pair<'_>, nic: &Nic, row: &QueueRow) -> QueueRates {
    let holder = row.holder.known().cloned().flatten();
    let server = |survey| worker(survey, &nic.name, row.queue);
    let now = server(pair.after);
    let irq_cpus = row.cpus.known().cloned().unwrap_or_default();
    let pinned = holder.as_ref().and_then(|holder| holder.worker.as_ref());
    let worker_cpu = match pinned.map(|worker| &worker.cpus[..]) {
        Some(&[cpu]) => Some(cpu),
        _ => now.and_then(|(_, worker)| worker.cpu),
    };
    let drops = drops(pair, nic, row.queue);
    let wrong_queue = |survey| {
        let (started, worker) = server(survey)?;
        // Another process counts from nothing.
        (Some(started) == now.map(|(started, _)| started)).then_some(worker.wrong_queue)
    };
    let flow = Flow {
        drops_ps: (!drops.is_empty()).then(|| drops.values().sum()),
        wrong_queue_ps: pair.rate(pair.before.and_then(wrong_queue), wrong_queue(pair.after)),
        ..flow(pair, nic, row.queue)
    };
    let process = holder.and_then(|holder| holder.process);
    QueueRates {
        queue: row.queue,
        flow,
        crosses: crosses(pair.after, nic, irq_cpus.iter().copied().chain(worker_cpu)),
        irq_cpus,
        worker_cpu,
        pid: process.as_ref().map(|process| process.pid),
        process: process.map(|process| process.name),
        connections: now.map(|(_, worker)| worker.connections),
        drops,
        counters: server_counters(pair, nic, row.queue),
    }
}

/// The server's worker of a queue, and what tells its process from others.
fn worker<'a>(
    survey: &'a Survey,
    device: &str,
    queue: u32,
) -> Option<((u32, u64), &'a ServerWorker)> {
    survey.servers.iter().find_map(|server| {
        let mut workers = server.workers.iter();
        let mine = |worker: &&ServerWorker| {
            worker.queue == queue && worker.device.as_deref() == Some(device)
        };
        Some(((server.pid, server.started_ticks), workers.find(mine)?))
    })
}

fn crosses(survey: &Survey, nic: &Nic, cpus: impl Iterator<Item = u32>) -> Option<bool> {
    let home = nic.node.known()?;
    let node = |cpu: u32| survey.machine.cpu(cpu)?.node.known().copied();
    let nodes: Vec<u32> = cpus.map(node).collect::<Option<_>>()?;
    (!nodes.is_empty()).then(|| nodes.iter().any(|node| node != home))
}

fn counters(device: &Device, direction: Direction, queue: u32) -> Option<&QueueCounters> {
    let rows = device.queue_counters.known()?;
    rows.iter().find(|row| row.index == queue && row.direction == direction)
}

fn flow(pair: &Pair<'_>, nic: &Nic, queue: u32) -> Flow {
    let look = |survey: &Survey, direction, of: fn(&QueueCounters) -> Option<u64>| {
        of(counters(survey.device(&nic.name)?.1, direction, queue)?)
    };
    let rate = |direction, of: fn(&QueueCounters) -> Option<u64>| {
        let before = pair.before.and_then(|survey| look(survey, direction, of));
        pair.rate(before, look(pair.after, direction, of))
    };
    let bits = |direction| rate(direction, |row| row.bytes).map(|bytes| bytes * 8.0);
    let rx_pps = rate(Direction::Rx, |row| row.packets);
    Flow {
        rx_pps: rx_pps.or_else(|| by_driver(pair, nic, queue, |counters| &counters.packets)),
        rx_bps: bits(Direction::Rx)
            .or_else(|| Some(8.0 * by_driver(pair, nic, queue, |counters| &counters.bytes)?)),
        tx_pps: rate(Direction::Tx, |row| row.packets),
        tx_bps: bits(Direction::Tx),
        ..Flow::default()
    }
}

/// The counters of the driver, where the kernel has none.
fn by_driver(
    pair: &Pair<'_>,
    nic: &Nic,
    queue: u32,
    of: fn(&ReceiveCounters) -> &BTreeMap<u32, u64>,
) -> Option<f64> {
    let look = |survey: &Survey| {
        let counters = ReceiveCounters::of(survey.device(&nic.name)?.1);
        of(counters.known()?).get(&queue).copied()
    };
    pair.rate(pair.before.and_then(look), look(pair.after))
}

/// A reason for drops, and where a row of counters has their number.
type Reason<R, N> = (&'static str, fn(&R) -> N);

/// What a queue loses, by reason; only what is counted.
fn drops(pair: &Pair<'_>, nic: &Nic, queue: u32) -> BTreeMap<String, f64> {
    const OF_QUEUE: [Reason<QueueCounters, Option<u64>>; 2] =
        [("hardware", |row| row.hw_drops), ("no_memory", |row| row.alloc_fail)];
    const OF_SOCKET: [Reason<XskCounters, u64>; 5] = [
        ("socket_ring_full", |row| row.rx_ring_full),
        ("fill_ring_empty", |row| row.fill_ring_empty),
        ("rx_descriptor", |row| row.rx_invalid),
        ("tx_descriptor", |row| row.tx_invalid),
        ("socket", XskCounters::rx_refused),
    ];
    let mut found = BTreeMap::new();
    for (reason, of) in OF_QUEUE {
        let look =
            |survey: &Survey| of(counters(survey.device(&nic.name)?.1, Direction::Rx, queue)?);
        let rate = pair.rate(pair.before.and_then(look), look(pair.after));
        found.extend(rate.map(|rate| (reason.to_owned(), rate)));
    }
    let inode = |survey: &Survey| socket(survey, nic, queue).map(|(inode, _)| inode);
    let is_same = pair.before.and_then(inode) == inode(pair.after);
    for (reason, of) in OF_SOCKET {
        let look = |survey: &Survey| socket(survey, nic, queue).map(|(_, row)| of(&row));
        let before = pair.before.filter(|_| is_same).and_then(look);
        let rate = pair.rate(before, look(pair.after));
        found.extend(rate.map(|rate| (reason.to_owned(), rate)));
    }
    found.extend(server_drops(pair, nic, queue));
    found
}

/// What the server on a queue throws away, by reason: `server_udp_checksum`.
fn server_drops(pair: &Pair<'_>, nic: &Nic, queue: u32) -> BTreeMap<String, f64> {
    let all = server_rates(pair, nic, queue, |worker| worker.dropped.as_ref());
    let named = |(name, rate): (&str, f64)| {
        (format!("server_{}", name.strip_prefix("drop_").unwrap_or(name)), rate)
    };
    all.into_iter().map(named).collect()
}

/// The clients that servers refuse, by reason: `source_connections`.
fn refused(pair: &Pair<'_>, nic: &Nic) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for queue in &nic.queues {
        for (name, rate) in server_rates(pair, nic, queue.index, |worker| worker.refused.as_ref()) {
            let reason = name.strip_prefix("refused_").unwrap_or(name);
            *found.entry(reason.to_owned()).or_insert(0.0) += rate;
        }
    }
    found
}

/// Counters of the server on a queue, by name.
fn server_rates<'a>(
    pair: &Pair<'a>,
    nic: &Nic,
    queue: u32,
    of: fn(&ServerWorker) -> Option<&BTreeMap<String, u64>>,
) -> Vec<(&'a str, f64)> {
    let look = |survey| worker(survey, &nic.name, queue);
    let (Some((started, now)), Some((before, earlier))) =
        (look(pair.after), pair.before.and_then(look))
    else {
        return Vec::new();
    };
    // Another process counts from nothing.
    let (true, Some(now), Some(earlier)) = (started == before, of(now), of(earlier)) else {
        return Vec::new();
    };
    let rate = |(name, &count): (&'a String, &u64)| {
        // What it does not name it has not counted.
        let known = earlier.get(name).copied().unwrap_or(0);
        Some((name.as_str(), pair.rate(Some(known), Some(count))?))
    };
    now.iter().filter_map(rate).collect()
}

/// Every declared counter of the server on a queue.
fn server_counters(
    pair: &Pair<'_>,
    nic: &Nic,
    queue: u32,
) -> BTreeMap<String, BTreeMap<String, f64>> {
    let mut told: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    let look = |survey| worker(survey, &nic.name, queue);
    let (Some((started, now)), Some((before, earlier))) =
        (look(pair.after), pair.before.and_then(look))
    else {
        return told;
    };
    // Another process counts from nothing.
    let (true, Some(now), Some(earlier)) = (started == before, &now.counters, &earlier.counters)
    else {
        return told;
    };
    for set in Snapshot::SETS {
        for counter in set.counters {
            // What it does not name is zero.
            let value = |look: &CountersBySet| {
                look.get(set.name).and_then(|set| set.get(counter.name)).copied().unwrap_or(0)
            };
            let shown = match counter.kind {
                Kind::Gauge => Some(value(now) as f64),
                Kind::Counter => pair.rate(Some(value(earlier)), Some(value(now))),
            };
            if let Some(shown) = shown.filter(|shown| *shown > 0.0) {
                told.entry(set.name.to_owned()).or_default().insert(counter.name.to_owned(), shown);
            }
        }
    }
    told
}

fn socket(survey: &Survey, nic: &Nic, queue: u32) -> Option<(u64, XskCounters)> {
    let index = nic.index.known()?;
    let mut sockets = survey.sockets.known()?.iter();
    let socket = sockets
        .find(|socket| socket.device.as_ref() == Some(index) && socket.queue == Some(queue))?;
    Some((socket.inode, socket.counters?))
}

/// Packets that the kernel's own stack dropped from its backlog, on all CPUs.
fn backlog_drops(pair: &Pair<'_>) -> Option<f64> {
    let rate = |state: &CpuState| {
        let dropped = |state: &CpuState| Some(state.backlog.known()?.dropped);
        let before = pair.before.and_then(|survey| dropped(before_of(survey, state)?));
        pair.rate(before, dropped(state))
    };
    let rates = pair.after.host.cpus.iter().filter_map(rate);
    rates.fold(None, |sum, rate| Some(sum.unwrap_or(0.0) + rate))
}

fn before_of<'a>(survey: &'a Survey, state: &CpuState) -> Option<&'a CpuState> {
    survey.host.cpus.iter().find(|other| other.cpu == state.cpu)
}

fn cpu(pair: &Pair<'_>, state: &CpuState) -> CpuRates {
    let before = pair.before.and_then(|survey| before_of(survey, state));
    let softirqs = |state: &CpuState| state.net_rx_softirqs.known().copied();
    let shares = before.and_then(|before| shares(before.time.known()?, state.time.known()?));
    CpuRates {
        cpu: state.cpu,
        node: pair.after.machine.cpu(state.cpu).and_then(|cpu| cpu.node.known().copied()),
        softirq: shares.map(|(softirq, _)| softirq),
        program: shares.map(|(_, program)| program),
        net_rx_ps: pair.rate(before.and_then(softirqs), softirqs(state)),
        has_worker: false,
    }
}

/// The shares of interrupts and of programs.
fn shares(before: &CpuTime, after: &CpuTime) -> Option<(f64, f64)> {
    // The kernel's idle time may go back by a tick.
    let part = |of: fn(&CpuTime) -> u64| of(after).saturating_sub(of(before)) as f64;
    let program = part(|time| time.user) + part(|time| time.system);
    let softirq = part(|time| time.softirq) + part(|time| time.irq);
    let all = program + softirq + part(|time| time.idle);
    (all > 0.0).then(|| (softirq / all, program / all))
}
