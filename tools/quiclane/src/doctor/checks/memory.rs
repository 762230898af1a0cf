//! Memory: its nodes, huge pages, and how much of it may be locked.

use crate::doctor::context::{Context, Host, known};
use crate::doctor::finding::{Check, Found, Judgement, Kind, Severity};
use crate::inspect::sheet::count;
use quiclane::datapath::xdp::XdpConfig;
use quiclane::topology::survey::host::HugePages;

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "QL070",
        severity: Severity::Note,
        title: "No huge pages on the NIC's node",
        reads: "/sys/devices/system/node/nodeN/hugepages/hugepages-*/free_hugepages",
        why: "The frames of a worker are 16 MiB: 4096 small pages, or 8 huge ones. With small \
              ones the worker, and with an IOMMU the NIC too, look addresses up far more often.",
        mend: "echo 64 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
        afterwards: "grep . /sys/devices/system/node/node*/hugepages/*/free_hugepages",
        check: Check::Device(huge_pages),
    },
    Kind {
        id: "QL071",
        severity: Severity::Warn,
        title: "Too little memory may be locked",
        reads: "Max locked memory (/proc/self/limits) and CAP_IPC_LOCK (/proc/self/status), of the \
                process that looks",
        why: "The kernel counts the frames of AF_XDP sockets as locked memory, of all processes \
              of a user together. A server started from here gets ENOBUFS at one of its sockets.",
        mend: "ulimit -l unlimited",
        afterwards: "ulimit -l: unlimited; for a unit, LimitMEMLOCK=infinity",
        check: Check::Device(memlock),
    },
    Kind {
        id: "QL072",
        severity: Severity::Warn,
        title: "The NIC's memory node is unknown",
        reads: "/sys/class/net/DEV/device/numa_node",
        why: "The firmware does not say on which node the device is, so interrupts, workers and \
              frames cannot be put beside it. This machine has several nodes: half of them or more \
              are far away. Unknown does not mean node 0.",
        mend: "quiclane plan DEV --policy spread",
        afterwards: "cat /sys/class/net/DEV/device/numa_node: not -1, after a firmware update or \
                     by the board's manual",
        check: Check::Device(node_unknown),
    },
];

fn huge_pages(cx: &Context<'_>) -> Judgement {
    let pages = &cx.host.survey.host.huge_pages;
    if pages.is_empty() {
        return Err("/sys/kernel/mm/hugepages shows no size".to_owned());
    }
    // For a device on no bus, or on an unknown node, the pages of the whole machine count.
    let node = cx.nic.node.known().copied().filter(|_| !cx.is_virtual());
    let of_node: Vec<&HugePages> = pages.iter().filter(|it| it.node == node).collect();
    let of_node = if of_node.is_empty() { pages.iter().collect() } else { of_node };
    // Pages in use may be those of the server that runs.
    if of_node.iter().any(|it| it.total > 0) {
        return Ok(None);
    }
    let (place, base) = match node {
        Some(node) => (format!("node {node}"), format!("/sys/devices/system/node/node{node}")),
        None => ("this machine".to_owned(), "/sys/kernel/mm".to_owned()),
    };
    let size = of_node.iter().map(|it| it.size_kib).min().unwrap_or(2048);
    let wanted = worker_bytes(cx).div_ceil(u64::from(size) * 1024) * cx.nic.queues.len() as u64;
    let directory = format!("{base}/hugepages/hugepages-{size}kB");
    Found::new(format!("{place} has no huge pages"))
        .read("nr_hugepages 0", format!("{directory}/nr_hugepages"))
        .mend(format!("echo {} > {directory}/nr_hugepages", wanted.max(1)))
        .judged()
}

/// The frames of a worker, in bytes.
fn worker_bytes(cx: &Context<'_>) -> u64 {
    let config = XdpConfig::new(cx.name());
    config.chunk_bytes as u64 * u64::from(config.frames)
}

fn memlock(cx: &Context<'_>) -> Judgement {
    let capabilities = known(&cx.host.survey.host.capabilities)?;
    // A process that may not open AF_XDP sockets at all does not reach this limit.
    if capabilities.ipc_lock || !capabilities.net_raw {
        return Ok(None);
    }
    let limit = *known(&cx.host.survey.host.memlock_bytes)?;
    let workers = cx.nic.queues.len();
    let needed = worker_bytes(cx) * workers as u64;
    if limit >= needed {
        return Ok(None);
    }
    let mib = |bytes: u64| bytes / (1 << 20);
    Found::new(format!(
        "{} MiB may be locked, {} need {} MiB",
        mib(limit),
        count(workers, "worker"),
        mib(needed)
    ))
    .read(format!("Max locked memory {limit}"), "/proc/self/limits")
    .read("no CAP_IPC_LOCK", "/proc/self/status")
    .judged()
}

fn node_unknown(cx: &Context<'_>) -> Judgement {
    let host: &Host<'_> = &cx.host;
    let Some(reason) = cx.nic.node.reason() else { return Ok(None) };
    if cx.is_virtual() || !host.has_many_nodes() {
        return Ok(None);
    }
    // A node that could not be read differs from one that reads as unknown.
    if !reason.ends_with("reads -1") {
        return Err(reason.to_owned());
    }
    let nodes = host.survey.machine.nodes.len();
    Found::new(format!("it may be on any of {}", count(nodes, "node")))
        .read(reason, cx.file("device/numa_node"))
        .judged()
}
