//! Packets that the kernel moves between CPUs by itself: RPS, RFS, XPS.

use crate::doctor::context::{Context, Sift, Worker, known, named};
use crate::doctor::finding::{Check, Found, Judgement, Kind, Severity};
use quiclane::topology::list;

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "QL020",
        severity: Severity::Warn,
        title: "RPS moves packets to other CPUs",
        reads: "/sys/class/net/DEV/queues/rx-N/rps_cpus",
        why: "RPS hands packets from the CPU of the interrupt to others, with an interrupt \
              between CPUs for each batch. In generic mode it runs before the XDP program, so \
              that frames of one queue reach its socket from several CPUs. In native mode it \
              slows down what the kernel still receives. Hardware queues do its work for free.",
        mend: "quiclane plan DEV",
        afterwards: "cat /sys/class/net/DEV/queues/rx-*/rps_cpus: zeros only",
        check: Check::Device(rps),
    },
    Kind {
        id: "QL021",
        severity: Severity::Note,
        title: "RFS is switched on",
        reads: "/sys/class/net/DEV/queues/rx-N/rps_flow_cnt",
        why: "RFS moves flows to the CPU where a socket was read last. With accelerated RFS it \
              writes ntuple rules for that, and these apply before RSS. A worker never moves: its \
              flows have to stay on its queue.",
        mend: "quiclane plan DEV",
        afterwards: "cat /sys/class/net/DEV/queues/rx-*/rps_flow_cnt: zeros only",
        check: Check::Device(rfs),
    },
    Kind {
        id: "QL022",
        severity: Severity::Warn,
        title: "XPS does not match the queues' CPUs",
        reads: "/sys/class/net/DEV/queues/tx-N/xps_cpus, the queues' IRQs and workers",
        why: "XPS says which CPUs send through a queue. If the CPU that serves receive queue N \
              sends through another queue, completions come back on another CPU, and two CPUs \
              compete for the lock of one transmit queue.",
        mend: "quiclane plan DEV",
        afterwards: "cat /sys/class/net/DEV/queues/tx-*/xps_cpus: each its own CPU",
        check: Check::Device(xps),
    },
];

fn rps(cx: &Context<'_>) -> Judgement {
    let mut sift = Sift::new();
    for rps in &cx.device.rps {
        let cpus = sift.take(&rps.cpus).filter(|cpus| !cpus.is_empty());
        sift.hits.extend(cpus.map(|cpus| (rps.queue, cpus.clone())));
    }
    sift.judge(|hits| {
        let queues: Vec<u32> = hits.iter().map(|(queue, _)| *queue).collect();
        let cpus = list::format(hits.iter().flat_map(|(_, cpus)| cpus).copied());
        let says = format!("RPS moves packets of {} to cpus {cpus}", named("queue", &queues));
        hits.iter().fold(Found::new(says), |found, (queue, cpus)| {
            let file = cx.file(&format!("queues/rx-{queue}/rps_cpus"));
            found.read(format!("cpus {}", list::format(cpus.iter().copied())), file)
        })
    })
}

fn rfs(cx: &Context<'_>) -> Judgement {
    let mut sift = Sift::new();
    for rps in &cx.device.rps {
        let entries = sift.take(&rps.flow_entries).filter(|entries| **entries > 0);
        sift.hits.extend(entries.map(|entries| (rps.queue, *entries)));
    }
    sift.judge(|hits| {
        let queues: Vec<u32> = hits.iter().map(|(queue, _)| *queue).collect();
        let found = Found::new(format!("RFS is on for {}", named("queue", &queues)));
        hits.iter().fold(found, |found, (queue, entries)| {
            let file = cx.file(&format!("queues/rx-{queue}/rps_flow_cnt"));
            found.read(format!("{entries} entries"), file)
        })
    })
}

/// The CPU that serves a queue: its worker's, else its interrupt's.
fn serves(cx: &Context<'_>, workers: &[Worker], queue: u32) -> Result<u32, String> {
    let worker = workers.iter().find(|worker| worker.queue == queue);
    if let Some(cpu) = worker.and_then(Worker::cpu) {
        return Ok(cpu);
    }
    let queue = cx.nic.queues.iter().find(|other| other.index == queue);
    let irq = queue.ok_or_else(|| "it receives nothing".to_owned()).and_then(|q| known(&q.irq))?;
    match known(&irq.effective_cpus)?[..] {
        [cpu] => Ok(cpu),
        _ => Err(format!("IRQ {} has no single CPU", irq.number)),
    }
}

fn xps(cx: &Context<'_>) -> Judgement {
    // With one queue the kernel has no XPS.
    if cx.device.xps.len() < 2 {
        return Ok(None);
    }
    let mut sift = Sift::new();
    let workers = cx.workers().unwrap_or_default();
    for xps in &cx.device.xps {
        // Without CPUs any CPU may send through it.
        let Some(cpus) = sift.take(&xps.cpus).filter(|cpus| !cpus.is_empty()) else { continue };
        match serves(cx, &workers, xps.queue) {
            Ok(cpu) if cpus.contains(&cpu) => {}
            Ok(cpu) => sift.hits.push((xps.queue, cpus.clone(), cpu)),
            Err(reason) => sift.miss(&reason),
        }
    }
    sift.judge(|hits| {
        let queues: Vec<u32> = hits.iter().map(|(queue, ..)| *queue).collect();
        let says = format!("XPS of {} is not the CPU that serves it", named("queue", &queues));
        hits.iter().fold(Found::new(says), |found, (queue, cpus, cpu)| {
            let what = format!("cpus {}; cpu {cpu} serves it", list::format(cpus.iter().copied()));
            found.read(what, cx.file(&format!("queues/tx-{queue}/xps_cpus")))
        })
    })
}
