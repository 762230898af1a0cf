//! A [`Map`] as text: boxes in a terminal, and where it is too narrow for boxes, indented lines.

use super::map::{Card, Map, Node, Package, Queue, Row, ranges, speed};
use std::collections::{BTreeMap, BTreeSet};

/// With fewer columns than this, there are no boxes.
const BOXES_FROM: usize = 64;
/// More columns than this show nothing more.
const WIDTH_MAX: usize = 100;

/// The columns of the end of a line: where an interrupt or a worker runs.
const END_COLUMNS: usize = 18;

/// How a piece of text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paint {
    Plain,
    Bold,
    Dim,
    Red,
}

/// A line of pieces.
type Pieces = Vec<(Paint, String)>;

fn plain(text: impl Into<String>) -> (Paint, String) {
    (Paint::Plain, text.into())
}

fn columns(text: &str) -> usize {
    text.chars().count()
}

fn length(line: &Pieces) -> usize {
    line.iter().map(|(_, text)| columns(text)).sum()
}

/// Writes the map, `width` columns wide at most.
pub(crate) fn render(map: &Map, width: usize, has_color: bool) -> String {
    let page = Page { map, has_boxes: width >= BOXES_FROM };
    let width = width.clamp(24, WIDTH_MAX);
    let mut lines = page.head();
    let lost: Vec<&Card> = map.devices.iter().filter(|card| page.home(card).is_none()).collect();
    if !lost.is_empty() {
        let inside = lost.iter().flat_map(|card| page.card(card, page.inner(width)));
        let inside = inside.collect();
        lines.extend(page.boxed("node unknown", inside, width, true));
    }
    for node in &map.nodes {
        lines.extend(page.node(node, width));
    }
    lines.push(vec![(Paint::Dim, "▲ the CPU of the interrupt  ● of the worker  ".to_owned())]);
    if map.crossings > 0 {
        lines.push(vec![(Paint::Red, "✕ on another node than the device".to_owned())]);
    }
    let mut out = String::new();
    for line in lines {
        out += paint(&cut(line, width), has_color).trim_end();
        out.push('\n');
    }
    out
}

fn paint(line: &Pieces, has_color: bool) -> String {
    let piece = |(paint, text): &(Paint, String)| match paint {
        _ if !has_color => text.clone(),
        Paint::Plain => text.clone(),
        Paint::Bold => format!("\x1b[1m{text}\x1b[0m"),
        Paint::Dim => format!("\x1b[2m{text}\x1b[0m"),
        Paint::Red => format!("\x1b[1;31m{text}\x1b[0m"),
    };
    line.iter().map(piece).collect()
}

/// As much of a line as fits.
fn cut(line: Pieces, width: usize) -> Pieces {
    if length(&line) <= width {
        return line;
    }
    let mut room = width - 1;
    let mut short = Pieces::new();
    for (paint, text) in line {
        let part: String = text.chars().take(room).collect();
        room -= columns(&part);
        short.push((paint, part));
    }
    short.push(plain("…"));
    short
}

/// The end of an interrupt, and the CPUs that it moves to with the next one: `──▲ 3 then 1`.
fn then((paint, text): (Paint, String), next: &[u32]) -> (Paint, String) {
    if next.is_empty() {
        return (paint, text);
    }
    let both = format!("{} then {} ", text.trim_end(), ranges(next.iter().copied()));
    (paint, format!("{both:<END_COLUMNS$}"))
}

struct Page<'a> {
    map: &'a Map,
    has_boxes: bool,
}

impl Page<'_> {
    /// The node of the machine that a device is on.
    fn home(&self, card: &Card) -> Option<u32> {
        self.map.nodes.iter().filter_map(|node| node.node).find(|&node| card.node == Some(node))
    }

    /// The width of what is in a box.
    const fn inner(&self, width: usize) -> usize {
        if self.has_boxes { width - 4 } else { width - 2 }
    }

    fn head(&self) -> Vec<Pieces> {
        let map = self.map;
        let host = map.host.as_deref().unwrap_or("unknown host");
        let kernel = map.kernel.as_deref().unwrap_or("(unknown release)");
        let size = format!(" · Linux {kernel} · {} cores, {} CPUs", map.cores(), map.cpus());
        let verdict = match map.crossings {
            0 if map.devices.iter().all(|card| self.home(card).is_some()) => {
                plain("every queue stays on its node")
            }
            0 => plain("the node of a device is unknown: lines may cross"),
            1 => (Paint::Red, "✕ 1 line crosses nodes".to_owned()),
            count => (Paint::Red, format!("✕ {count} lines cross nodes")),
        };
        vec![vec![(Paint::Bold, host.to_owned()), plain(size)], vec![verdict], Vec::new()]
    }

    /// Lines in a box, or indented.
    fn boxed(&self, title: &str, lines: Vec<Pieces>, width: usize, dashed: bool) -> Vec<Pieces> {
        if !self.has_boxes {
            let indented = lines.into_iter().map(|mut line| {
                line.insert(0, plain("  "));
                line
            });
            return std::iter::once(vec![(Paint::Bold, title.to_owned())])
                .chain(indented)
                .collect();
        }
        let (level, upright) = if dashed { ("╌", "┆") } else { ("─", "│") };
        let title: String = title.chars().take(width - 6).collect();
        let rest = width - columns(&title) - 5;
        let mut out = vec![vec![
            plain(format!("┌{level} ")),
            (Paint::Bold, title),
            plain(format!(" {}┐", level.repeat(rest))),
        ]];
        for line in lines {
            let mut line = cut(line, width - 4);
            let space = " ".repeat(width - 4 - length(&line));
            line.insert(0, plain(format!("{upright} ")));
            line.push(plain(format!("{space} {upright}")));
            out.push(line);
        }
        out.push(vec![plain(format!("└{}┘", level.repeat(width - 2)))]);
        out
    }

    fn node(&self, node: &Node, width: usize) -> Vec<Pieces> {
        let inner = self.inner(width);
        let mine = self.map.devices.iter();
        let mine = mine.filter(|card| card.node.is_some() && card.node == node.node);
        let mut lines: Vec<Pieces> = mine.flat_map(|card| self.card(card, inner)).collect();
        for package in &node.packages {
            lines.extend(self.package(package, inner));
        }
        let name = node.node.map_or("node unknown".to_owned(), |node| format!("node {node}"));
        let cpus = ranges(node.cpus.iter().copied());
        let title = match (cpus.is_empty(), self.has_boxes) {
            (true, _) => format!("{name} · memory without CPUs"),
            (false, _) => format!("{name} · CPUs {cpus}"),
        };
        self.boxed(&title, lines, width, node.node.is_none())
    }

    fn card(&self, card: &Card, width: usize) -> Vec<Pieces> {
        let driver = card.driver.as_deref().unwrap_or("unknown driver");
        let mut title = format!("{} · {driver}", card.device);
        if let Some(mbps) = card.speed_mbps {
            title += &format!(" · {}", speed(mbps));
        }
        if let Some(bus) = &card.bus {
            title += &format!(" · {bus}");
        }
        let rows = self.map.rows(card);
        let lines = rows.iter().flat_map(|row| match row {
            Row::One(queue) => self.queue(card, queue),
            Row::Fold(queues) => self.fold(queues),
        });
        let lines = lines.collect();
        self.boxed(&title, lines, width, self.home(card).is_none())
    }

    fn queue(&self, card: &Card, queue: &Queue) -> Vec<Pieces> {
        let mut line = vec![(Paint::Bold, format!("{:<5}", format!("q{}", queue.queue)))];
        match queue.irq {
            None => line.push((Paint::Dim, format!("{:<8} {:<END_COLUMNS$}", "no irq", ""))),
            Some(irq) => {
                line.push(plain(format!("{:<8} ", format!("irq {irq}"))));
                let end = self.end(card, "──", '▲', &queue.irq_cpus, queue.irq_crosses);
                line.push(then(end, &queue.irq_next_cpus));
            }
        }
        let mut worker = Pieces::new();
        let zerocopy = if queue.zerocopy == Some(true) { " zc" } else { "" };
        match (&queue.process, queue.pid) {
            _ if !queue.is_served() => worker.push((Paint::Dim, "no worker".to_owned())),
            (Some(name), Some(pid)) => worker.push(plain(format!("{name} {pid}{zerocopy} "))),
            _ => worker.push(plain(format!("unknown process{zerocopy} "))),
        }
        if let Some(cpu) = queue.worker_cpu {
            worker.push(self.end(card, "━━", '●', &[cpu], queue.worker_crosses));
        }
        if self.has_boxes {
            line.extend(worker);
            return vec![line];
        }
        worker.insert(0, plain("     "));
        vec![line, worker]
    }

    /// `──▲ 3`, and where it crosses `╌✕▲ 16 (node 1)`.
    fn end(
        &self,
        card: &Card,
        stroke: &str,
        glyph: char,
        cpus: &[u32],
        crosses: Option<bool>,
    ) -> (Paint, String) {
        let there = ranges(cpus.iter().copied());
        let nodes = cpus.iter().filter_map(|&cpu| self.map.node_of(cpu));
        let away = nodes.into_iter().find(|&node| Some(node) != card.node);
        let text = match (crosses, away) {
            (Some(true), Some(node)) => format!("╌✕{glyph} {there} (node {node})"),
            (Some(_), _) => format!("{stroke}{glyph} {there}"),
            (None, _) if cpus.is_empty() => "CPU unknown".to_owned(),
            (None, _) => format!("╌?{glyph} {there}"),
        };
        let paint = if crosses == Some(true) { Paint::Red } else { Paint::Plain };
        (paint, format!("{text:<END_COLUMNS$}"))
    }

    fn fold(&self, queues: &[Queue]) -> Vec<Pieces> {
        let crosses = queues.iter().any(|queue| queue.irq_crosses == Some(true));
        let numbers = ranges(queues.iter().map(|queue| queue.queue));
        let mut cpus: Vec<u32> = queues.iter().flat_map(|queue| queue.irq_cpus.clone()).collect();
        cpus.sort_unstable();
        cpus.dedup();
        let mut line = vec![(Paint::Bold, format!("q{numbers} "))];
        if !cpus.is_empty() {
            let glyph = if crosses { "╌✕▲" } else { "──▲" };
            let paint = if crosses { Paint::Red } else { Paint::Plain };
            line.push((paint, format!("irqs {glyph} {}  ", ranges(cpus))));
        }
        line.push((Paint::Dim, format!("{} queues, no worker", queues.len())));
        vec![line]
    }

    fn package(&self, package: &Package, width: usize) -> Vec<Pieces> {
        let inner = self.inner(width);
        let mut lines = Vec::new();
        for cache in &package.caches {
            let name = if cache.is_known { "last-level cache" } else { "cache unknown" };
            let text = format!("{name} · {} cores", cache.cores.len());
            lines.push(vec![(Paint::Dim, text)]);
            lines.extend(self.cores(&cache.cores, inner));
        }
        let name = package.package.map_or("unknown".to_owned(), |package| package.to_string());
        self.boxed(&format!("package {name}"), lines, width, false)
    }

    /// Cores with queues in a grid, and the numbers of the others.
    fn cores(&self, cores: &[Vec<u32>], width: usize) -> Vec<Pieces> {
        let marks = self.marks();
        let is_busy = |core: &&Vec<u32>| core.iter().any(|cpu| marks.at.contains_key(cpu));
        let (busy, rest): (Vec<_>, Vec<_>) = cores.iter().partition(is_busy);
        let cell = |core: &Vec<u32>| {
            let mark = |cpu: &u32| marks.at.get(cpu);
            let cpu = |cpu: &u32| format!("{cpu}{}", mark(cpu).map_or("", |(mark, _)| mark));
            let red = core.iter().any(|cpu| mark(cpu).is_some_and(|(_, crosses)| *crosses));
            let text = core.iter().map(cpu).collect::<Vec<_>>().join("/");
            (if red { Paint::Red } else { Paint::Plain }, format!("[{text}]"))
        };
        let cells: Vec<(Paint, String)> = busy.into_iter().map(cell).collect();
        let widest = cells.iter().map(|(_, text)| columns(text)).max().unwrap_or(1);
        let across = ((width + 1) / (widest + 1)).max(1);
        let padded = |(paint, text): &(Paint, String)| (*paint, format!("{text:<widest$} "));
        let grid = cells.chunks(across).map(|row| row.iter().map(padded).collect());
        let mut lines: Vec<Pieces> = grid.collect();
        let mut rest: Vec<u32> = rest.into_iter().flatten().copied().collect();
        rest.sort_unstable();
        if !rest.is_empty() {
            let has_folded = rest.iter().any(|cpu| marks.folded.contains(cpu));
            let what = if has_folded { "▲ of folded queues" } else { "no queue here" };
            lines.push(vec![(Paint::Dim, format!("{what}: CPUs {}", ranges(rest)))]);
        }
        lines
    }

    fn marks(&self) -> Marks {
        let mut marks = Marks::default();
        for card in &self.map.devices {
            for row in self.map.rows(card) {
                match row {
                    Row::One(queue) => self.mark(&mut marks, card, queue),
                    Row::Fold(queues) => {
                        marks.folded.extend(queues.iter().flat_map(|queue| &queue.irq_cpus));
                    }
                }
            }
        }
        marks
    }

    fn mark(&self, marks: &mut Marks, card: &Card, queue: &Queue) {
        let mut mark = |cpu: u32, glyph: char, crosses: Option<bool>| {
            let mark = marks.at.entry(cpu).or_default();
            if !mark.0.contains(glyph) {
                mark.0.push(glyph);
            }
            mark.1 |= crosses == Some(true) && self.map.node_of(cpu) != card.node;
        };
        queue.irq_cpus.iter().for_each(|&cpu| mark(cpu, '▲', queue.irq_crosses));
        queue.worker_cpu.iter().for_each(|&cpu| mark(cpu, '●', queue.worker_crosses));
    }
}

/// What CPUs have.
#[derive(Default)]
struct Marks {
    /// `▲`, `●` or both, and whether that crosses nodes.
    at: BTreeMap<u32, (String, bool)>,
    /// CPUs of the interrupts of folded queues.
    folded: BTreeSet<u32>,
}
