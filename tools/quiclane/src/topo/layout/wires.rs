//! The lines from queues to CPUs.

use super::super::map::{Card, Map, Queue, Row, ranges};
use super::super::scene::Wire;
use super::{Anchor, Line, Point, Tone};
use std::collections::{BTreeMap, BTreeSet};

/// An interrupt that goes to more CPUs than this leads to the boxes of their caches.
const CPUS_MAX: usize = 2;

/// The lines that end at a CPU.
#[derive(Clone, Debug)]
pub(super) struct Landing {
    pub(super) device: String,
    pub(super) wire: Wire,
    pub(super) queue: u32,
    pub(super) tone: Tone,
}

/// Where lines will end.
#[derive(Clone, Debug, Default)]
pub(super) struct Landings {
    /// By CPU.
    pub(super) at: BTreeMap<u32, Vec<Landing>>,
    /// CPUs of interrupts whose line ends at the box around them.
    pub(super) folded: BTreeSet<u32>,
}

/// Where the lines of a map end, before it is laid out.
pub(super) fn landings(map: &Map) -> Landings {
    let mut landings = Landings::default();
    for card in &map.devices {
        for row in map.rows(card) {
            let queues = match row {
                Row::One(queue) => std::slice::from_ref(queue),
                Row::Fold(queues) => queues,
            };
            let is_fold = matches!(row, Row::Fold(_));
            for queue in queues {
                let mut land = |wire, cpu| {
                    let (device, tone) = (card.device.clone(), tone(map, card, cpu));
                    let landing = Landing { device, wire, queue: queue.queue, tone };
                    landings.at.entry(cpu).or_default().push(landing);
                };
                queue.worker_cpu.into_iter().for_each(|cpu| land(Wire::Worker, cpu));
                if is_fold || queue.irq_cpus.len() > CPUS_MAX {
                    landings.folded.extend(&queue.irq_cpus);
                } else {
                    queue.irq_cpus.iter().for_each(|&cpu| land(Wire::Irq, cpu));
                }
            }
        }
    }
    landings
}

/// The colour of a line from a device to a CPU.
fn tone(map: &Map, card: &Card, cpu: u32) -> Tone {
    let at = map.nodes.iter().position(|node| node.cpus.contains(&cpu));
    let there = at.and_then(|at| Some((at, map.nodes[at].node?)));
    match (card.node, there) {
        (Some(home), Some((at, node))) if home == node => Tone::Node(at),
        (Some(_), Some(_)) => Tone::Crossing,
        _ => Tone::Unknown,
    }
}

/// The lines of a map that has been laid out.
pub(super) fn lines(map: &Map, anchors: &BTreeMap<Anchor, Point>) -> Vec<Line> {
    let mut lines = Vec::new();
    for (index, card) in map.devices.iter().enumerate() {
        for row in map.rows(card) {
            let wires = Wires { map, anchors, index, card };
            match row {
                Row::One(queue) => wires.one(queue, &mut lines),
                Row::Fold(queues) => wires.bundles(queues, &mut lines),
            }
        }
    }
    lines
}

struct Wires<'a> {
    map: &'a Map,
    anchors: &'a BTreeMap<Anchor, Point>,
    index: usize,
    card: &'a Card,
}

impl Wires<'_> {
    fn one(&self, queue: &Queue, lines: &mut Vec<Line>) {
        let from = Anchor::Row(self.index, queue.queue);
        if queue.irq_cpus.len() > CPUS_MAX {
            self.bundles(std::slice::from_ref(queue), lines);
        } else {
            for &cpu in &queue.irq_cpus {
                lines.extend(self.line(Wire::Irq, &from, &Anchor::Cpu(cpu), cpu, &[queue.queue]));
            }
        }
        if let Some(cpu) = queue.worker_cpu {
            lines.extend(self.line(Wire::Worker, &from, &Anchor::Cpu(cpu), cpu, &[queue.queue]));
        }
    }

    /// A line to each cache behind which one of their interrupts is.
    fn bundles(&self, queues: &[Queue], lines: &mut Vec<Line>) {
        let mut by_cache: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for queue in queues {
            for cache in queue.irq_cpus.iter().filter_map(|&cpu| self.cache(cpu)) {
                let there = by_cache.entry(cache).or_default();
                if there.last() != Some(&queue.queue) {
                    there.push(queue.queue);
                }
            }
        }
        let Some(first) = queues.first() else { return };
        let from = Anchor::Row(self.index, first.queue);
        for (cache, queues) in by_cache {
            lines.extend(self.line(Wire::Irq, &from, &Anchor::Cache(cache), cache, &queues));
        }
    }

    /// The first CPU of the box around `cpu`.
    fn cache(&self, cpu: u32) -> Option<u32> {
        let packages = self.map.nodes.iter().flat_map(|node| &node.packages);
        let mut caches = packages.flat_map(|package| &package.caches);
        let cache = caches.find(|cache| cache.cores.iter().any(|core| core.contains(&cpu)))?;
        cache.cores.first()?.first().copied()
    }

    fn line(
        &self,
        wire: Wire,
        from: &Anchor,
        to: &Anchor,
        cpu: u32,
        queues: &[u32],
    ) -> Option<Line> {
        /// The two lines of a queue run side by side.
        const APART: f64 = 3.5;
        let shift = if wire == Wire::Irq { -APART } else { APART };
        let moved = |anchor: &Anchor| {
            let point = self.anchors.get(anchor)?;
            Some(Point { y: point.y + shift, ..*point })
        };
        let tone = tone(self.map, self.card, cpu);
        let mut line = Line {
            wire,
            tone,
            from: moved(from)?,
            to: moved(to)?,
            mark: None,
            device: self.card.device.clone(),
            queues: queues.to_vec(),
            hint: self.hint(wire, to, tone, queues),
        };
        // So that the signs are apart when both lines of a queue cross.
        let along = if wire == Wire::Irq { 0.36 } else { 0.64 };
        line.mark = (tone == Tone::Crossing).then(|| line.at(along));
        Some(line)
    }

    fn hint(&self, wire: Wire, to: &Anchor, tone: Tone, queues: &[u32]) -> String {
        let what = if wire == Wire::Irq { "interrupt" } else { "worker" };
        let (cpu, place) = match to {
            Anchor::Cpu(cpu) => (*cpu, format!("CPU {cpu}")),
            Anchor::Cache(cpu) | Anchor::Row(_, cpu) => {
                (*cpu, format!("the cores beside CPU {cpu}"))
            }
        };
        let node = self.map.node_of(cpu).map_or("unknown node".to_owned(), |n| format!("node {n}"));
        let crosses = if tone == Tone::Crossing { ", crosses nodes" } else { "" };
        let queues = ranges(queues.iter().copied());
        format!("{} queue {queues}: {what} on {place} ({node}){crosses}", self.card.device)
    }
}
