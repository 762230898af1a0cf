//! A memory node: its packages, caches and cores.

use super::super::map::{Cache, Map, Node, Package, ranges};
use super::super::scene::Wire;
use super::wires::{Landing, Landings};
use super::{
    Anchor, Block, CORES_WIDTH, CORES_X, Kind, PAD, Point, Rect, Rows, Style, Tone, bold, dim,
    plain, to_the_right,
};

const NODE_HEAD: f64 = 30.0;
const PACKAGE_HEAD: f64 = 22.0;
const CACHE_HEAD: f64 = 20.0;
/// From the edge of a package or cache to what is in it.
const INSET: f64 = 6.0;
/// A core to which nothing leads is a small square.
const IDLE: f64 = 11.0;
const IDLE_STEP: f64 = IDLE + 3.0;

/// What is drawn in a node, and how.
struct Frame<'a> {
    tone: Tone,
    rows: Rows,
    landings: &'a Landings,
    /// Cores to which nothing leads are squares without numbers: there are many.
    folds_idle: bool,
}

/// The right half of a node's band.
pub(super) fn block(map: &Map, node: &Node, tone: Tone, rows: Rows, landings: &Landings) -> Block {
    /// As many cores as a page shows well in rows.
    const ROWS_MAX: usize = 16;
    let mut block = Block::default();
    let frame = Frame { tone, rows, landings, folds_idle: map.cores() > ROWS_MAX };
    let name = match node.node {
        Some(node) => format!("node {node}"),
        None => "node unknown".to_owned(),
    };
    block.text(bold(14.0), Point { x: CORES_X, y: 21.0 }, CORES_WIDTH * 0.4, &name);
    let cpus = format!("CPUs {}", ranges(node.cpus.iter().copied()));
    let cpus = if node.cpus.is_empty() { "memory without CPUs".to_owned() } else { cpus };
    let right = Point { x: CORES_X + CORES_WIDTH, y: 21.0 };
    block.text(to_the_right(dim(11.5)), right, CORES_WIDTH * 0.58, &cpus);
    let mut y = NODE_HEAD;
    for part in &node.packages {
        y = package(&mut block, &frame, part, y) + PAD;
    }
    block.height = y;
    if block.first_row == 0.0 {
        block.first_row = NODE_HEAD;
    }
    block
}

/// Returns where it ends.
fn package(block: &mut Block, frame: &Frame<'_>, package: &Package, top: f64) -> f64 {
    let at = block.areas.len();
    let rect = Rect::new(CORES_X, top, CORES_WIDTH, 0.0);
    block.area(Kind::Package, frame.tone, rect, String::new());
    let name = match package.package {
        Some(package) => format!("package {package}"),
        None => "package unknown".to_owned(),
    };
    let room = CORES_WIDTH - 2.0 * INSET;
    block.text(bold(11.5), Point { x: CORES_X + INSET + 2.0, y: top + 15.5 }, room, &name);
    let mut y = top + PACKAGE_HEAD;
    for part in &package.caches {
        y = cache(block, frame, part, y) + INSET;
    }
    block.areas[at].rect.height = y - top;
    y
}

/// Returns where it ends.
fn cache(block: &mut Block, frame: &Frame<'_>, cache: &Cache, top: f64) -> f64 {
    let outer = Rect::new(CORES_X + INSET, top, CORES_WIDTH - 2.0 * INSET, 0.0);
    let at = block.areas.len();
    block.area(Kind::Cache, frame.tone, outer, String::new());
    let count = cache.cores.len();
    let cores = format!("{count} core{}", if count == 1 { "" } else { "s" });
    let name = if cache.is_known { "last-level cache" } else { "cache unknown" };
    let room = outer.width - 2.0 * INSET;
    let text = format!("{name} · {cores}");
    block.text(dim(11.0), Point { x: outer.x + INSET + 2.0, y: top + 14.5 }, room, &text);
    if let Some(first) = cache.cores.first().and_then(|core| core.first()) {
        let anchor = Point { x: outer.x, y: top + CACHE_HEAD / 2.0 };
        block.anchors.insert(Anchor::Cache(*first), anchor);
    }
    let is_row = |core: &&Vec<u32>| {
        !frame.folds_idle || core.iter().any(|cpu| frame.landings.at.contains_key(cpu))
    };
    let (rows, idle): (Vec<_>, Vec<_>) = cache.cores.iter().partition(is_row);
    let inner = Rect::new(outer.x + INSET, 0.0, room, 0.0);
    let mut y = top + CACHE_HEAD;
    for cpus in rows {
        if block.first_row == 0.0 {
            block.first_row = y;
        }
        let rect = Rect::new(inner.x, y + 1.5, inner.width, frame.rows.height - 3.0);
        core(block, frame, cpus, rect);
        y += frame.rows.height;
    }
    y = squares(block, frame, &idle, inner, y) + INSET - 2.0;
    block.areas[at].rect.height = y - top;
    y
}

/// A core to which a line may lead: a cell for each of its logical CPUs.
fn core(block: &mut Block, frame: &Frame<'_>, cpus: &[u32], rect: Rect) {
    /// Between cells.
    const GAP: f64 = 4.0;
    block.area(Kind::Core, frame.tone, rect, String::new());
    let count = cpus.len() as f64;
    let width = (rect.width - GAP * (count - 1.0)) / count;
    for (at, &cpu) in cpus.iter().enumerate() {
        let x = rect.x + (width + GAP) * at as f64;
        let cell = Rect::new(x, rect.y, width, rect.height);
        let landings = frame.landings.at.get(&cpu).map(Vec::as_slice).unwrap_or_default();
        let kind = if landings.is_empty() { Kind::Cpu } else { Kind::BusyCpu };
        block.area(kind, frame.tone, cell, format!("CPU {cpu}"));
        let size = frame.rows.text;
        let y = rect.y + rect.height / 2.0 + size * 0.36;
        let style = if landings.is_empty() { dim(size) } else { bold(size) };
        let number = (width - 12.0).min(size * 3.0);
        block.text(style, Point { x: x + 6.0, y }, number, &cpu.to_string());
        let end = Point { x: x + width - 6.0, y };
        block.text(badge_style(size, landings), end, width - number - 18.0, &badges(landings));
        let anchor = Point { x: rect.x, y: rect.y + rect.height / 2.0 };
        block.anchors.insert(Anchor::Cpu(cpu), anchor);
    }
}

fn badge_style(size: f64, landings: &[Landing]) -> Style {
    let crosses = landings.iter().any(|landing| landing.tone == Tone::Crossing);
    let style = to_the_right(plain(size - 0.5));
    if crosses { Style { tone: Tone::Crossing, is_bold: true, ..style } } else { style }
}

/// `▲ q3 ● q3`, or how many there are; with their devices where there are several.
fn badges(landings: &[Landing]) -> String {
    let first = landings.first().map(|landing| &landing.device);
    let has_one_device = landings.iter().all(|landing| Some(&landing.device) == first);
    let of = |wire: Wire| {
        let glyph = if wire == Wire::Irq { '▲' } else { '●' };
        let mine: Vec<&Landing> = landings.iter().filter(|landing| landing.wire == wire).collect();
        // A crossing is shown first: it is what readers look for.
        let worst = mine.iter().find(|landing| landing.tone == Tone::Crossing).or(mine.first());
        let Some(worst) = worst else { return String::new() };
        let device = if has_one_device { String::new() } else { format!("{} ", worst.device) };
        match mine.len() {
            1 => format!("{glyph} {device}q{}", worst.queue),
            count => format!("{glyph} {device}q{} +{}", worst.queue, count - 1),
        }
    };
    [of(Wire::Irq), of(Wire::Worker)].join("  ").trim().to_owned()
}

/// Cores to which nothing leads. Returns where they end.
fn squares(block: &mut Block, frame: &Frame<'_>, cores: &[&Vec<u32>], room: Rect, top: f64) -> f64 {
    if cores.is_empty() {
        return top;
    }
    let mut cpus: Vec<u32> = cores.iter().flat_map(|core| core.iter().copied()).collect();
    cpus.sort_unstable();
    let has_folded = cpus.iter().any(|cpu| frame.landings.folded.contains(cpu));
    let what = if has_folded { "folded queues interrupt here" } else { "no queue here" };
    let text = format!("{what}: CPUs {}", ranges(cpus));
    block.text(dim(10.5), Point { x: room.x + 2.0, y: top + 12.0 }, room.width - 4.0, &text);
    let top = top + 19.0;
    let across = (room.width / IDLE_STEP).floor().max(1.0) as usize;
    for (at, core) in cores.iter().enumerate() {
        let x = room.x + 2.0 + IDLE_STEP * (at % across) as f64;
        let y = top + IDLE_STEP * (at / across) as f64;
        let folded = core.iter().any(|cpu| frame.landings.folded.contains(cpu));
        let tone = if folded { frame.tone } else { Tone::Dim };
        let hint = format!("CPU {}", ranges(core.iter().copied()));
        block.area(Kind::IdleCore, tone, Rect::new(x, y, IDLE, IDLE), hint);
    }
    top + IDLE_STEP * cores.len().div_ceil(across) as f64
}
