//! The threads that serve the queues: pinned, near, alone on their cores.

use crate::doctor::context::{Context, Sift, Worker, delivered, known, named};
use crate::doctor::finding::{Check, Found, Judgement, Kind, Severity};
use crate::inspect::sheet::count;
use quiclane::topology::{Irq, list};
use std::collections::BTreeMap;

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "QL013",
        severity: Severity::Warn,
        title: "An interrupt and a worker share a core",
        reads: "/proc/irq/N/effective_affinity_list, the workers' CPUs, and the cores (hwloc)",
        why: "Two hardware threads of one core share its execution units and its caches. A worker \
              that polls takes half of the core from the interrupt beside it, and each of them \
              looks idle half of the time.",
        mend: "quiclane plan DEV",
        afterwards: "quiclane queue show DEV: IRQ and worker on one CPU, or on two cores",
        check: Check::Device(irq_sibling),
    },
    Kind {
        id: "QL014",
        severity: Severity::Warn,
        title: "Two workers share a core",
        reads: "the workers' CPUs (/run/quiclane, /proc/PID/task/TID/status) and the cores (hwloc)",
        why: "Two busy hardware threads of one core do about 1.2 times the work of one. Workers \
              belong on cores of their own, as long as there are enough.",
        mend: "quiclane plan DEV",
        afterwards: "quiclane queue show DEV: no two workers on one core",
        check: Check::Device(worker_siblings),
    },
    Kind {
        id: "QL015",
        severity: Severity::Warn,
        title: "A worker is not pinned",
        reads: "the workers' CPUs (/run/quiclane, /proc/PID/task/TID/status)",
        why: "The scheduler may move it away from its cache, its node and its interrupt, or put \
              it behind another thread; packets wait meanwhile, and the rings fill.",
        mend: "quiclane plan DEV",
        afterwards: "quiclane queue show DEV: every worker has one CPU",
        check: Check::Device(not_pinned),
    },
    Kind {
        id: "QL016",
        severity: Severity::Warn,
        title: "A worker on another node than the NIC",
        reads: "the workers' CPUs, their nodes, and /sys/class/net/DEV/device/numa_node",
        why: "Frames, rings and packets lie on the node of the NIC; the worker crosses the \
              interconnect for each of them.",
        mend: "quiclane plan DEV",
        afterwards: "quiclane queue show DEV: node of the worker = node of the device",
        check: Check::Device(other_node),
    },
    Kind {
        id: "QL017",
        severity: Severity::Warn,
        title: "Several workers on one CPU",
        reads: "the workers' CPUs (/run/quiclane, /proc/PID/task/TID/status)",
        why: "They take turns, each for milliseconds, as the scheduler decides: the queue of the \
              one that waits overflows at a few hundred thousand packets a second.",
        mend: "quiclane plan DEV",
        afterwards: "quiclane queue show DEV: no CPU twice",
        check: Check::Device(one_cpu),
    },
    Kind {
        id: "QL018",
        severity: Severity::Warn,
        title: "A queue's interrupt and its worker share no cache",
        reads: "/proc/irq/N/effective_affinity_list, the workers' CPUs, and the last-level caches \
                (hwloc)",
        why: "What the interrupt's CPU just read of a packet is in its last-level cache. A worker \
              with another last-level cache reads it from memory again, even if both are on one \
              node (a CPU package with several cache domains).",
        mend: "quiclane plan DEV --policy ccx",
        afterwards: "quiclane queue show DEV: IRQ and worker in one cache domain",
        check: Check::Device(other_cache),
    },
    Kind {
        id: "QL019",
        severity: Severity::Note,
        title: "A worker is not where its server wanted it",
        reads: "unmet of each worker: /run/quiclane/PID.json",
        why: "The server asked for the CPU of the queue's interrupt, or for one beside it under the \
              same cache (--place), and could not have it. Where the worker's CPU does not share a \
              cache with that of the interrupt, it reads from memory what the interrupt's CPU just \
              read of a packet. A virtual device has no interrupts: ask for the node.",
        mend: "quiclane plan DEV",
        afterwards: "restart the server; quiclane doctor DEV: no QL019",
        check: Check::Device(not_near),
    },
];

/// Interrupts of queues that have one CPU: (queue, IRQ, CPU).
fn irq_cpus<'a, T>(cx: &Context<'a>, sift: &mut Sift<T>) -> Vec<(u32, &'a Irq, u32)> {
    let irqs = cx.queue_irqs(sift).into_iter();
    irqs.filter_map(|(queue, irq)| match sift.take(&irq.effective_cpus)?[..] {
        [cpu] => Some((queue, irq, cpu)),
        _ => None,
    })
    .collect()
}

fn pinned(workers: &[Worker]) -> Vec<(&Worker, u32)> {
    workers.iter().filter_map(|worker| Some((worker, worker.cpu()?))).collect()
}

fn irq_sibling(cx: &Context<'_>) -> Judgement {
    let workers = cx.workers()?;
    if workers.is_empty() {
        return Ok(None);
    }
    let mut sift = Sift::new();
    for (queue, irq, cpu) in irq_cpus(cx, &mut sift) {
        let pinned = pinned(&workers);
        let near = pinned.into_iter().find(|(_, other)| cx.host.are_siblings(cpu, *other));
        sift.hits.extend(near.map(|(worker, other)| (queue, irq, cpu, worker.clone(), other)));
    }
    sift.judge(|hits| {
        let says = format!("{} on a sibling of a worker's CPU", count(hits.len(), "IRQ"));
        hits.iter().fold(Found::new(says), |found, (queue, irq, cpu, worker, other)| {
            found
                .read(
                    format!(
                        "queue {queue}, IRQ {}: {}, sibling of cpu {other}",
                        irq.number,
                        delivered(irq, *cpu)
                    ),
                    format!("/proc/irq/{}/effective_affinity_list", irq.number),
                )
                .read(format!("worker of queue {}: cpu {other}", worker.queue), &*worker.from)
        })
    })
}

fn worker_siblings(cx: &Context<'_>) -> Judgement {
    let workers = cx.workers()?;
    let pinned = pinned(&workers);
    let mut pairs = Vec::new();
    for (at, (worker, cpu)) in pinned.iter().enumerate() {
        let other = pinned[..at].iter().find(|(_, other)| cx.host.are_siblings(*cpu, *other));
        pairs.extend(other.map(|(other, other_cpu)| (*other, *other_cpu, *worker, *cpu)));
    }
    if pairs.is_empty() {
        return Ok(None);
    }
    let cores = if pairs.len() == 1 { "core is" } else { "cores are" };
    let says = format!("{} {cores} shared by two workers", pairs.len());
    pairs
        .iter()
        .fold(Found::new(says), |found, (first, first_cpu, second, second_cpu)| {
            found.read(
                format!(
                    "queues {} and {}: cpus {first_cpu} and {second_cpu}",
                    first.queue, second.queue
                ),
                &*second.from,
            )
        })
        .judged()
}

fn not_pinned(cx: &Context<'_>) -> Judgement {
    let workers = cx.workers()?;
    // Soft affinity was asked for: those workers keep to the CPUs of a node.
    let is_loose = |worker: &&Worker| worker.cpu().is_none() && !worker.is_soft;
    let loose: Vec<&Worker> = workers.iter().filter(is_loose).collect();
    if loose.is_empty() {
        return Ok(None);
    }
    let queues: Vec<u32> = loose.iter().map(|worker| worker.queue).collect();
    let verb = if loose.len() == 1 { "is" } else { "are" };
    let what = if loose.len() == 1 { "worker" } else { "workers" };
    let says = format!("the {what} of {} {verb} not pinned", named("queue", &queues));
    loose
        .iter()
        .fold(Found::new(says), |found, worker| {
            let cpus = match worker.cpus[..] {
                [] => "any cpu".to_owned(),
                _ => format!("cpus {}", list::format(worker.cpus.iter().copied())),
            };
            found.read(format!("queue {}, {}: {cpus}", worker.queue, worker.name), &*worker.from)
        })
        .judged()
}

fn other_node(cx: &Context<'_>) -> Judgement {
    let workers = cx.workers()?;
    if workers.is_empty() || cx.is_virtual() || !cx.host.has_many_nodes() {
        return Ok(None);
    }
    let node = *known(&cx.nic.node)?;
    let is_far = |cpu: &u32| cx.host.node_of(*cpu).is_some_and(|other| other != node);
    let has_one_place = |worker: &&Worker| worker.cpu().is_some() || worker.is_soft;
    let far: Vec<&Worker> = workers
        .iter()
        .filter(has_one_place)
        .filter(|worker| worker.cpus.iter().all(is_far))
        .collect();
    if far.is_empty() {
        return Ok(None);
    }
    let says = format!("{} not on node {node}, the NIC's", count(far.len(), "worker"));
    far.iter()
        .fold(Found::new(says), |found, worker| {
            let cpus = named("cpu", &worker.cpus);
            found.read(format!("queue {}: {cpus}", worker.queue), &*worker.from)
        })
        .judged()
}

fn one_cpu(cx: &Context<'_>) -> Judgement {
    let workers = cx.workers()?;
    let mut of_cpu: BTreeMap<u32, Vec<&Worker>> = BTreeMap::new();
    for (worker, cpu) in pinned(&workers) {
        of_cpu.entry(cpu).or_default().push(worker);
    }
    of_cpu.retain(|_, workers| workers.len() > 1);
    let mut of_count: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for (cpu, workers) in &of_cpu {
        of_count.entry(workers.len()).or_default().push(*cpu);
    }
    if of_count.is_empty() {
        return Ok(None);
    }
    // Every CPU that has several workers, the fullest first.
    let says = of_count.iter().rev().map(|(many, cpus)| match &cpus[..] {
        [cpu] => format!("cpu {cpu} has {many} workers"),
        cpus => format!("{} have {many} workers each", named("cpu", cpus)),
    });
    let found = Found::new(says.collect::<Vec<_>>().join(", "));
    of_cpu
        .iter()
        .flat_map(|(cpu, workers)| workers.iter().map(move |worker| (cpu, worker)))
        .fold(found, |found, (cpu, worker)| {
            found.read(format!("queue {}: cpu {cpu}", worker.queue), &*worker.from)
        })
        .judged()
}

fn other_cache(cx: &Context<'_>) -> Judgement {
    let workers = cx.workers()?;
    if workers.is_empty() {
        return Ok(None);
    }
    let mut sift = Sift::new();
    for (queue, irq, irq_cpu) in irq_cpus(cx, &mut sift) {
        let pinned = pinned(&workers);
        let Some((_, cpu)) = pinned.into_iter().find(|(w, _)| w.queue == queue) else { continue };
        let Some(cpu_there) = cx.host.survey.machine.cpu(cpu) else { continue };
        let Some(domain) = sift.take(&cpu_there.cache) else { continue };
        if !domain.contains(&irq_cpu) {
            sift.hits.push((queue, irq, irq_cpu, cpu));
        }
    }
    sift.judge(|hits| {
        let queues: Vec<u32> = hits.iter().map(|(queue, ..)| *queue).collect();
        let says = format!("IRQ and worker of {} share no cache", named("queue", &queues));
        hits.iter().fold(Found::new(says), |found, (queue, irq, irq_cpu, cpu)| {
            found.read(
                format!(
                    "queue {queue}: IRQ {} on {}, worker on cpu {cpu}",
                    irq.number,
                    delivered(irq, *irq_cpu)
                ),
                format!("/proc/irq/{}/effective_affinity_list", irq.number),
            )
        })
    })
}

fn not_near(cx: &Context<'_>) -> Judgement {
    if cx.workers()?.is_empty() {
        return Ok(None);
    }
    let served = cx.served().filter_map(|(server, worker)| {
        Some((format!("/run/quiclane/{}.json", server.pid), worker, worker.unmet.as_ref()?))
    });
    let told: Vec<_> = served.collect();
    let Some((_, _, first)) = told.first() else { return Ok(None) };
    let queues: Vec<u32> = told.iter().map(|(_, worker, _)| worker.queue).collect();
    let what = if told.len() == 1 { "worker" } else { "workers" };
    let reason = first.split_once("; ").map_or(first.as_str(), |(reason, _)| reason);
    let says = format!("{what} of {} not as --place asks: {reason}", named("queue", &queues));
    let mut found = Found::new(says);
    if cx.nic.irqs.is_empty() {
        found.mend = Some("quiclane serve --place node".to_owned());
    }
    told.iter()
        .fold(found, |found, (from, worker, unmet)| {
            let cpu = match (worker.cpu, &worker.soft_cpus[..]) {
                (None, _) => "any cpu".to_owned(),
                (Some(cpu), []) => format!("cpu {cpu}"),
                (Some(cpu), _) => format!("starts on cpu {cpu}"),
            };
            found.read(format!("queue {}, {cpu}: {unmet}", worker.queue), &**from)
        })
        .judged()
}
