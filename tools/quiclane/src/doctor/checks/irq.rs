//! Interrupts: where they are delivered, and what moves them.

use crate::doctor::context::{Context, Sift, delivered, known};
use crate::doctor::finding::{Check, Found, Judgement, Kind, Severity};
use crate::inspect::sheet::count;
use quiclane::topology::Irq;
use std::collections::BTreeMap;

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "QL010",
        severity: Severity::Warn,
        title: "Interrupts on another node than the NIC",
        reads: "/proc/irq/N/effective_affinity_list of every queue's IRQ, the node of that CPU \
                and of the device (/sys/class/net/DEV/device/numa_node)",
        why: "The NIC writes packets into the cache and the memory of its own node. A CPU of \
              another node fetches each of them, and each descriptor, over the interconnect.",
        mend: "quiclane plan DEV",
        afterwards: "quiclane queue show DEV: node of the CPU = node of the device",
        check: Check::Device(other_node),
    },
    Kind {
        id: "QL011",
        severity: Severity::Warn,
        title: "Several queues interrupt one CPU",
        reads: "/proc/irq/N/effective_affinity_list of every queue's IRQ",
        why: "Several queues exist to share the work. Queues that interrupt one CPU wait for each \
              other while other CPUs are idle, and a burst on one delays all of them.",
        mend: "quiclane plan DEV",
        afterwards: "quiclane queue show DEV: no CPU twice",
        check: Check::Device(one_cpu),
    },
    Kind {
        id: "QL012",
        severity: Severity::Warn,
        title: "irqbalance may move the interrupts",
        reads: "the process irqbalance (/proc/*/comm) and the IRQs of the device \
                (/sys/class/net/DEV/device/msi_irqs)",
        why: "irqbalance moves interrupts every ten seconds, by its own measure of load. Some time \
              after everything was set, a queue leaves the CPU beside its worker, without a \
              message.",
        mend: "systemctl disable --now irqbalance && quiclane plan DEV",
        afterwards: "systemctl is-active irqbalance: inactive",
        check: Check::Device(irqbalance),
    },
];

fn other_node(cx: &Context<'_>) -> Judgement {
    if cx.is_virtual() || !cx.host.has_many_nodes() {
        return Ok(None);
    }
    let node = *known(&cx.nic.node)?;
    let mut sift = Sift::new();
    for (queue, irq) in cx.queue_irqs(&mut sift) {
        for &cpu in sift.take(&irq.effective_cpus).into_iter().flatten() {
            if cx.host.node_of(cpu).is_some_and(|other| other != node) {
                sift.hits.push((queue, irq, cpu));
            }
        }
    }
    sift.judge(|hits| {
        let says = format!("{} not on node {node}, the NIC's", count(hits.len(), "IRQ"));
        hits.iter().fold(Found::new(says), |found, (queue, irq, cpu)| {
            let other = cx.host.node_of(*cpu).unwrap_or(node);
            found.read(
                format!(
                    "queue {queue}, IRQ {}: {} of node {other}",
                    irq.number,
                    delivered(irq, *cpu)
                ),
                format!("/proc/irq/{}/effective_affinity_list", irq.number),
            )
        })
    })
}

fn one_cpu(cx: &Context<'_>) -> Judgement {
    let mut sift = Sift::new();
    let mut of_cpu: BTreeMap<u32, Vec<(u32, &Irq)>> = BTreeMap::new();
    for (queue, irq) in cx.queue_irqs(&mut sift) {
        // An interrupt that is spread over CPUs has no fixed CPU to name.
        if let Some([cpu]) = sift.take(&irq.effective_cpus).map(Vec::as_slice) {
            of_cpu.entry(*cpu).or_default().push((queue, irq));
        }
    }
    sift.hits.extend(of_cpu.into_iter().filter(|(_, queues)| queues.len() > 1));
    sift.judge(|hits| {
        let worst = hits.iter().max_by_key(|(_, queues)| queues.len());
        let (cpu, most) = worst.map_or((0, 0), |(cpu, queues)| (*cpu, queues.len()));
        let more = if hits.len() > 1 {
            format!(", and {} more with several", count(hits.len() - 1, "CPU"))
        } else {
            String::new()
        };
        let found = Found::new(format!("{most} queues interrupt cpu {cpu}{more}"));
        hits.iter().flat_map(|(cpu, queues)| queues.iter().map(move |q| (cpu, q))).fold(
            found,
            |found, (cpu, (queue, irq))| {
                found.read(
                    format!("queue {queue}, IRQ {}: {}", irq.number, delivered(irq, *cpu)),
                    format!("/proc/irq/{}/effective_affinity_list", irq.number),
                )
            },
        )
    })
}

fn irqbalance(cx: &Context<'_>) -> Judgement {
    let Some(pid) = known(&cx.host.survey.host.irqbalance)? else { return Ok(None) };
    let irqs = cx.nic.irqs.len();
    if irqs == 0 {
        return Ok(None);
    }
    Found::new(format!("irqbalance may move {}", count(irqs, "IRQ")))
        .read(format!("irqbalance is process {pid}"), format!("/proc/{pid}/comm"))
        .read(count(irqs, "IRQ"), cx.file("device/msi_irqs"))
        .judged()
}
