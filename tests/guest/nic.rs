//! The guest's NICs, and their settings by ethtool.

use crate::{Outcome, ensure};
use quiclane::topology::toeplitz::Rss;
use quiclane::topology::{Machine, Reading, Request, Sharing, Source, place};
use std::fs;
use std::process::Command;

/// Our end of a pair of NICs, and its place in the machine.
pub(crate) struct Lane {
    pub(crate) dev: &'static str,
    pub(crate) pair: u8,
    pub(crate) node: u32,
    pub(crate) cpus: &'static str,
}

pub(crate) const LANES: [Lane; 2] = [
    Lane { dev: "lane0", pair: 0, node: 0, cpus: "0-1" },
    Lane { dev: "lane1", pair: 1, node: 1, cpus: "2-3" },
];

pub(crate) const QUEUES: usize = 4;

/// Runs a program to its end; its stdout, or why it failed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let called = || format!("{program} {}", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{}: {error}", called()))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {}: {}", called(), output.status, stderr.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(crate) fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|error| format!("{path}: {error}"))
}

/// Key and indirection table, from `ethtool -x`.
pub(crate) fn rss(dev: &str) -> Result<Rss, String> {
    let text = run("ethtool", &["-x", dev])?;
    let mut table = Vec::new();
    let mut key = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("RSS hash key") {
            let hex = lines.next().unwrap_or_default().trim();
            key = hex
                .split(':')
                .map(|byte| u8::from_str_radix(byte, 16).map_err(|_| format!("key {hex}")))
                .collect::<Result<_, _>>()?;
        } else if let Some((slot, queues)) = line.split_once(':')
            && slot.trim().parse::<usize>() == Ok(table.len())
        {
            for queue in queues.split_whitespace() {
                table.push(queue.parse().map_err(|_| format!("table {line}"))?);
            }
        }
    }
    Rss::new(key, table).map_err(|error| format!("{dev}: {error}"))
}

/// Packets received by each queue, from `ethtool -S`.
pub(crate) fn queue_packets(dev: &str) -> Result<[u64; QUEUES], String> {
    let text = run("ethtool", &["-S", dev])?;
    let mut packets = [0; QUEUES];
    for (queue, count) in packets.iter_mut().enumerate() {
        let name = format!("rx_queue_{queue}_packets");
        *count = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.trim() == name)
            .and_then(|(_, value)| value.trim().parse().ok())
            .ok_or_else(|| format!("ethtool -S {dev} has no {name}"))?;
    }
    Ok(packets)
}

pub(crate) fn two_nodes_and_a_nic_on_each() -> Outcome {
    let nodes = read("/sys/devices/system/node/online")?;
    ensure!(nodes == "0-1", "nodes {nodes}, expected 0-1");
    for lane in &LANES {
        let device = format!("/sys/class/net/{}/device", lane.dev);
        let driver = fs::read_link(format!("{device}/driver")).unwrap_or_default();
        ensure!(driver.ends_with("igb"), "{}: driver {}", lane.dev, driver.display());
        let node = read(&format!("{device}/numa_node"))?;
        ensure!(node == lane.node.to_string(), "{}: node {node}", lane.dev);
        let cpus = read(&format!("{device}/local_cpulist"))?;
        ensure!(cpus == lane.cpus, "{}: local CPUs {cpus}", lane.dev);
        let rss = rss(lane.dev)?;
        ensure!(rss.key().len() == 40, "{}: key of {} bytes", lane.dev, rss.key().len());
        ensure!(rss.table().len() == 128, "{}: table of {}", lane.dev, rss.table().len());
        let used = (0..QUEUES as u32).filter(|queue| rss.table().contains(queue)).count();
        ensure!(used == QUEUES, "{}: {used} of {QUEUES} queues in the table", lane.dev);
    }
    Ok(())
}

/// Topology as the library reads it: hwloc, sysfs and procfs, of a machine with two nodes.
pub(crate) fn the_library_reads_the_same_machine() -> Outcome {
    let machine = Source::live().machine();
    ensure!(machine.nodes.len() == 2, "{} nodes", machine.nodes.len());
    ensure!(machine.cpus.len() == 4, "{} CPUs", machine.cpus.len());
    for node in &machine.nodes {
        // hwloc's distances against the file that it reads: those to node 0, 1, ...
        let told: Vec<String> = node.distances.values().map(u64::to_string).collect();
        let file = read(&format!("/sys/devices/system/node/node{}/distance", node.id))?;
        ensure!(told == file.split_whitespace().collect::<Vec<_>>(), "{node:?}, not {file}");
    }
    for lane in &LANES {
        let nic = machine.nic(lane.dev).ok_or_else(|| format!("no {}", lane.dev))?;
        ensure!(nic.node == Reading::Known(lane.node), "{}: node {}", lane.dev, nic.node);
        ensure!(nic.driver.known().is_some_and(|name| name == "igb"), "driver {}", nic.driver);
        ensure!(nic.queues.len() == QUEUES, "{}: {} queues", lane.dev, nic.queues.len());
        let mut irqs: Vec<u32> =
            nic.queues.iter().filter_map(|queue| queue.irq.known()).map(|irq| irq.number).collect();
        irqs.dedup();
        ensure!(irqs.len() == QUEUES, "{}: interrupts {irqs:?}", lane.dev);
        check_placement(&machine, lane)?;
    }
    Ok(())
}

/// Every queue is served by a CPU of the device's node.
fn check_placement(machine: &Machine, lane: &Lane) -> Outcome {
    let request = Request {
        device: Some(lane.dev.to_owned()),
        sharing: Sharing::Allow,
        ..Request::default()
    };
    let placement = place(machine, &request).map_err(|error| format!("{}: {error}", lane.dev))?;
    ensure!(placement.rows.len() == QUEUES, "{}: {:?}", lane.dev, placement.rows);
    for row in &placement.rows {
        ensure!(row.node == Some(lane.node), "{}: {row:?}", lane.dev);
    }
    Ok(())
}
