//! When packets are polled: NAPI threads, deferred interrupts, moderation.

use crate::doctor::context::{Context, Sift, Worker, known};
use crate::doctor::finding::{Check, Found, Judgement, Kind, Severity};
use crate::inspect::sheet::count;
use quiclane::topology::list;
use quiclane::topology::survey::device::NapiThread;

/// Above this, the kernel waits longer before it polls a queue by itself than a small server takes
/// for a whole request.
const FLUSH_TIMEOUT_MAX_NS: u64 = 1_000_000;
/// Interrupt moderation from which on every round trip is visibly longer.
const RX_USECS_MAX: u32 = 100;

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "QL023",
        severity: Severity::Warn,
        title: "A NAPI thread is not beside its worker",
        reads: "the NAPI threads (netdev netlink, napi-get) and /proc/PID/status, \
                Cpus_allowed_list",
        why: "With threaded NAPI a kernel thread takes packets from the ring instead of the \
              softirq. At first it may run on every CPU: it moves around, competes with the \
              workers, and reads packets on other nodes than the NIC's.",
        mend: "quiclane plan DEV",
        afterwards: "taskset -cp PID of each napi/DEV thread: one CPU of the NIC's node",
        check: Check::Device(threads),
    },
    Kind {
        id: "QL024",
        severity: Severity::Warn,
        title: "Only half of interrupt deferral is set",
        reads: "/sys/class/net/DEV/napi_defer_hard_irqs and gro_flush_timeout",
        why: "The two work together: the count says how often NAPI polls again without an \
              interrupt, the timeout says when. With one of them zero the other does nothing.",
        mend: "quiclane plan DEV",
        afterwards: "cat /sys/class/net/DEV/{napi_defer_hard_irqs,gro_flush_timeout}: both zero, \
                     or 2 and 20000",
        check: Check::Device(half_deferred),
    },
    Kind {
        id: "QL025",
        severity: Severity::Note,
        title: "Busy polling is not prepared",
        reads: "defer_hard_irqs and gro_flush_timeout of the device \
                (/sys/class/net/DEV) and of each NAPI instance (netdev netlink, napi-get)",
        why: "SO_PREFER_BUSY_POLL keeps the interrupt off while the worker polls, and needs \
              interrupt deferral for that. Without deferral each poll ends with the interrupt \
              switched on again, and softirq and worker take turns on the CPU.",
        mend: "quiclane plan DEV",
        afterwards: "cat /sys/class/net/DEV/{napi_defer_hard_irqs,gro_flush_timeout}: 2 and 20000",
        check: Check::Device(not_deferred),
    },
    Kind {
        id: "QL026",
        severity: Severity::Warn,
        title: "gro_flush_timeout is long",
        reads: "/sys/class/net/DEV/gro_flush_timeout and that of each NAPI instance",
        why: "When no worker polls, the kernel polls a queue with deferred interrupts only at this \
              interval: a packet may wait that long. 20 to 200 microseconds are enough.",
        mend: "quiclane plan DEV",
        afterwards: "cat /sys/class/net/DEV/gro_flush_timeout: 200000 (nanoseconds) or less",
        check: Check::Device(long_timeout),
    },
    Kind {
        id: "QL027",
        severity: Severity::Note,
        title: "The NIC holds interrupts back for long",
        reads: "interrupt moderation: ethtool -c DEV",
        why: "Every packet of a quiet connection waits up to rx-usecs for its interrupt: each \
              request takes that much longer. With adaptive moderation, or workers that poll, so \
              high a value is not needed.",
        mend: "ethtool -C DEV adaptive-rx off rx-usecs 20",
        afterwards: "ethtool -c DEV: rx-usecs 20",
        check: Check::Device(moderation),
    },
];

fn threads(cx: &Context<'_>) -> Judgement {
    let napis = known(&cx.device.napis)?;
    if *known(&cx.device.threaded)? != 0 && !napis.iter().any(|napi| napi.thread.is_some()) {
        return Err("NAPI is threaded, and the kernel does not report the threads".to_owned());
    }
    let node = cx.nic.node.known().copied();
    let workers = cx.workers().unwrap_or_default();
    let mut sift = Sift::new();
    for thread in &cx.device.napi_threads {
        let Some(cpus) = sift.take(&thread.cpus) else { continue };
        if is_misplaced(cx, cpus, node, &workers) {
            sift.hits.push((thread.clone(), cpus.clone()));
        }
    }
    sift.judge(|hits| {
        let says = format!("{} not pinned beside its worker", count(hits.len(), "NAPI thread"));
        let commands = hits.iter().map(|(thread, _)| thread.pid).collect::<Vec<_>>();
        let found = hits.iter().fold(Found::new(says), |found, (thread, cpus)| {
            let NapiThread { pid, napi, .. } = thread;
            let what =
                format!("NAPI {napi}, thread {pid}: cpus {}", list::format(cpus.iter().copied()));
            found.read(what, format!("/proc/{pid}/status"))
        });
        match (&commands[..], beside(cx, &workers)) {
            // One thread and one CPU: a command is enough.
            ([pid], Some(cpu)) => found.mend(format!("taskset -cp {cpu} {pid}")),
            _ => found,
        }
    })
}

/// The CPU for the NAPI thread of a device with one worker.
fn beside(cx: &Context<'_>, workers: &[Worker]) -> Option<u32> {
    let [worker] = workers else { return None };
    (cx.nic.queues.len() == 1).then(|| worker.cpu()).flatten()
}

/// A thread that may move, or is on a node where neither the device nor a worker is.
fn is_misplaced(cx: &Context<'_>, cpus: &[u32], node: Option<u32>, workers: &[Worker]) -> bool {
    let [cpu] = cpus[..] else { return cx.host.survey.machine.cpus.len() > 1 };
    let Some(own) = cx.host.node_of(cpu) else { return false };
    let worker_nodes = || workers.iter().filter_map(Worker::cpu).filter_map(|c| cx.host.node_of(c));
    match node {
        Some(node) => own != node,
        None => worker_nodes().next().is_some() && worker_nodes().all(|node| node != own),
    }
}

fn half_deferred(cx: &Context<'_>) -> Judgement {
    let defer = *known(&cx.device.defer_hard_irqs)?;
    let timeout_ns = *known(&cx.device.gro_flush_timeout_ns)?;
    let says = match (defer, timeout_ns) {
        (0, 1..) => "gro_flush_timeout is set, napi_defer_hard_irqs is 0",
        (1.., 0) => "napi_defer_hard_irqs is set, gro_flush_timeout is 0",
        _ => return Ok(None),
    };
    deferral(cx, Found::new(says), defer, timeout_ns).judged()
}

fn deferral(cx: &Context<'_>, found: Found, defer: u32, timeout_ns: u64) -> Found {
    found
        .read(format!("napi_defer_hard_irqs {defer}"), cx.file("napi_defer_hard_irqs"))
        .read(format!("gro_flush_timeout {timeout_ns} ns"), cx.file("gro_flush_timeout"))
}

fn not_deferred(cx: &Context<'_>) -> Judgement {
    if cx.socket_queues()?.is_empty() || cx.is_virtual() {
        return Ok(None);
    }
    let defer = *known(&cx.device.defer_hard_irqs)?;
    let timeout_ns = *known(&cx.device.gro_flush_timeout_ns)?;
    // Settings of a NAPI instance override those of the device (Linux 6.13).
    let napis = cx.device.napis.known().into_iter().flatten();
    let own = napis
        .filter(|napi| napi.defer_hard_irqs.is_some_and(|count| count > 0))
        .filter(|napi| napi.gro_flush_timeout_ns.is_some_and(|timeout| timeout > 0))
        .count();
    if defer > 0 || timeout_ns > 0 || own > 0 {
        return Ok(None);
    }
    let found = Found::new("interrupts are not deferred: busy polling cannot hold them off");
    deferral(cx, found, defer, timeout_ns).judged()
}

fn long_timeout(cx: &Context<'_>) -> Judgement {
    let device_ns = *known(&cx.device.gro_flush_timeout_ns)?;
    let napis = cx.device.napis.known().into_iter().flatten();
    let worst = napis.filter_map(|napi| napi.gro_flush_timeout_ns).max().unwrap_or(0);
    let (longest_ns, from) = if worst > device_ns {
        (worst, format!("netdev netlink, napi-get, {}", cx.name()))
    } else {
        (device_ns, cx.file("gro_flush_timeout"))
    };
    if longest_ns <= FLUSH_TIMEOUT_MAX_NS {
        return Ok(None);
    }
    Found::new(format!("a packet may wait {} us (gro_flush_timeout)", longest_ns / 1_000))
        .read(format!("{longest_ns} ns"), from)
        .judged()
}

fn moderation(cx: &Context<'_>) -> Judgement {
    let coalesce = known(&cx.device.coalesce)?;
    let Some(usecs) = coalesce.rx_usecs.filter(|usecs| *usecs > RX_USECS_MAX) else {
        return Ok(None);
    };
    if coalesce.adaptive_rx == Some(true) {
        return Ok(None);
    }
    Found::new(format!("a packet may wait {usecs} us for its interrupt"))
        .read(format!("rx-usecs {usecs}"), cx.ethtool("-c"))
        .judged()
}
