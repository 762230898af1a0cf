//! Where everything goes: a [`Map`] in, a [`Scene`] out. Pure.
//!
//! Each memory node is a band. Its cores are on the right; the devices that are attached to it
//! are on the left of the same band, so that a line which leaves its band is one that crosses
//! nodes. A node without devices has the right half only, and beside it is space for devices
//! whose node is unknown.
//!
//! ```text
//!   +- node 0 ----------------------------------------+
//!   |  +- eth0 -------+          +- package, cache -+ |
//!   |  | q0  irq 121  o----------o [cpu 0] [cpu 16] | |
//!   |  | q1  irq 122  o------.   | [cpu 1] [cpu 17] | |
//!   +--+--------------+-------\--+------------------+-+
//!                         +- no\e 1 ------------------+
//!                         |     `o [cpu 8] [cpu 24] | |
//! ```

mod cards;
mod cores;
mod wires;

use super::map::{Card, Map, speed};
use super::scene::{Align, Area, Kind, Line, Point, Rect, Scene, Text, Tone, Wire, fit, width};
use crate::inspect::sheet::count;
use std::collections::BTreeMap;

/// From the edge of the page.
const MARGIN: f64 = 20.0;
/// From the edge of a box to what is in it.
const PAD: f64 = 10.0;
/// Between boxes.
const GAP: f64 = 14.0;
/// Devices.
const CARD_X: f64 = MARGIN + PAD;
const CARD_WIDTH: f64 = 262.0;
/// Cores; between them and the devices is the space for lines.
const CORES_X: f64 = CARD_X + CARD_WIDTH + 230.0;
const CORES_WIDTH: f64 = 368.0;
const PAGE_WIDTH: f64 = CORES_X + CORES_WIDTH + PAD + MARGIN;
/// With more rows than this in a column, rows are drawn closer together.
const CLOSE_ABOVE: usize = 40;

/// The end of a line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Anchor {
    /// A row of a device, by its place among the devices and its first queue.
    Row(usize, u32),
    /// A CPU.
    Cpu(u32),
    /// The box of the cores that share a cache with this CPU, the first of them.
    Cache(u32),
}

/// A part of the picture whose height on the page is not decided yet.
#[derive(Clone, Debug, Default)]
struct Block {
    areas: Vec<Area>,
    texts: Vec<Text>,
    anchors: BTreeMap<Anchor, Point>,
    height: f64,
    /// Where its first row of queues or cores begins.
    first_row: f64,
}

impl Block {
    fn area(&mut self, kind: Kind, tone: Tone, rect: Rect, hint: impl Into<String>) {
        self.areas.push(Area { kind, rect, tone, hint: hint.into() });
    }

    /// Writes as much of a text as fits into `room`.
    fn text(&mut self, style: Style, at: Point, room: f64, text: &str) {
        let Style { size, is_bold, tone, align } = style;
        let text = fit(text, size, is_bold, room);
        if !text.is_empty() {
            self.texts.push(Text { at, size, is_bold, tone, align, text });
        }
    }

    fn place(mut self, down: f64, scene: &mut Scene, anchors: &mut BTreeMap<Anchor, Point>) {
        self.areas.iter_mut().for_each(|area| area.rect.y += down);
        self.texts.iter_mut().for_each(|text| text.at.y += down);
        scene.areas.append(&mut self.areas);
        scene.texts.append(&mut self.texts);
        anchors.extend(
            self.anchors.into_iter().map(|(anchor, at)| (anchor, Point { y: at.y + down, ..at })),
        );
    }
}

/// How a text looks.
#[derive(Clone, Copy, Debug)]
struct Style {
    size: f64,
    is_bold: bool,
    tone: Tone,
    align: Align,
}

const fn plain(size: f64) -> Style {
    Style { size, is_bold: false, tone: Tone::Plain, align: Align::Left }
}

const fn bold(size: f64) -> Style {
    Style { is_bold: true, ..plain(size) }
}

const fn dim(size: f64) -> Style {
    Style { tone: Tone::Dim, ..plain(size) }
}

const fn to_the_right(style: Style) -> Style {
    Style { align: Align::Right, ..style }
}

/// How high rows are, and how large their text is.
#[derive(Clone, Copy, Debug)]
struct Rows {
    height: f64,
    text: f64,
}

impl Rows {
    const fn of(count: usize) -> Self {
        if count > CLOSE_ABOVE {
            Self { height: 17.0, text: 10.0 }
        } else {
            Self { height: 21.0, text: 11.5 }
        }
    }

    /// The baseline of a text in a row that begins at `y`.
    fn baseline(self, y: f64) -> f64 {
        y + self.height / 2.0 + self.text * 0.36
    }
}

/// Lays a map out.
pub(crate) fn scene(map: &Map) -> Scene {
    let mut scene = Scene { width: PAGE_WIDTH, ..Scene::default() };
    let mut anchors = BTreeMap::new();
    let top = header(map, &mut scene);
    let rows = map.devices.iter().map(|card| map.rows(card).len()).max();
    let rows = Rows::of(rows.unwrap_or_default());
    let bottom = columns(map, rows, top, &mut scene, &mut anchors);
    scene.lines = wires::lines(map, &anchors);
    scene.height = legend(map, bottom, &mut scene);
    scene
}

fn header(map: &Map, scene: &mut Scene) -> f64 {
    let host = map.host.as_deref().unwrap_or("unknown host");
    let names: Vec<&str> = map.devices.iter().map(|card| card.device.as_str()).collect();
    scene.title = format!("{host}: queues, interrupts and workers of {}", names.join(", "));
    let (verdict, tone) = verdict(map);
    scene.description = verdict.trim_start_matches(['✓', '✕', '?', ' ']).to_owned();
    let mut block = Block::default();
    let room = PAGE_WIDTH - 2.0 * MARGIN;
    let verdict_style = Style { tone, ..to_the_right(bold(14.0)) };
    let right = Point { x: PAGE_WIDTH - MARGIN, y: 40.0 };
    block.text(verdict_style, right, room * 0.55, &verdict);
    block.text(bold(24.0), Point { x: MARGIN, y: 42.0 }, room * 0.42, host);
    let kernel = map.kernel.as_deref().unwrap_or("(unknown release)");
    let line = [
        format!("Linux {kernel}"),
        count(map.nodes.iter().filter(|node| node.node.is_some()).count(), "memory node"),
        count(map.packages(), "package"),
        count(map.cores(), "core"),
        count(map.cpus(), "CPU"),
    ];
    block.text(dim(12.5), Point { x: MARGIN, y: 64.0 }, room, &line.join(" · "));
    let cards: Vec<String> = map.devices.iter().map(summary).collect();
    block.text(dim(12.5), Point { x: MARGIN, y: 82.0 }, room, &cards.join(" · "));
    block.place(0.0, scene, &mut BTreeMap::new());
    98.0
}

/// `eth0 (ice, 100 Gb/s)`.
fn summary(card: &Card) -> String {
    let driver = card.driver.clone().unwrap_or_else(|| "unknown driver".to_owned());
    let speed = card.speed_mbps.map(|mbps| format!(", {}", speed(mbps))).unwrap_or_default();
    format!("{} ({driver}{speed})", card.device)
}

/// The verdict of the picture, in a line.
fn verdict(map: &Map) -> (String, Tone) {
    let lost = map.devices.iter().filter(|card| card.node.is_none());
    let lost: Vec<&str> = lost.map(|card| card.device.as_str()).collect();
    match (map.crossings, lost.is_empty()) {
        (0, true) => ("✓ every queue stays on its node".to_owned(), Tone::Plain),
        (0, false) => (format!("? node of {} unknown", lost.join(", ")), Tone::Unknown),
        (1, _) => ("✕ 1 line crosses nodes".to_owned(), Tone::Crossing),
        (count, _) => (format!("✕ {count} lines cross nodes"), Tone::Crossing),
    }
}

/// Puts bands and devices below each other. Returns where they end.
fn columns(
    map: &Map,
    rows: Rows,
    top: f64,
    scene: &mut Scene,
    anchors: &mut BTreeMap<Anchor, Point>,
) -> f64 {
    let landings = wires::landings(map);
    // The heights that no device takes yet.
    let mut free: Vec<(f64, f64)> = Vec::new();
    let mut y = top;
    for (at, node) in map.nodes.iter().enumerate() {
        let tone = node.node.map_or(Tone::Unknown, |_| Tone::Node(at));
        let cores = cores::block(map, node, tone, rows, &landings);
        let mine = map.devices.iter().enumerate();
        let mine: Vec<(usize, &Card)> =
            mine.filter(|(_, card)| card.node.is_some() && card.node == node.node).collect();
        let blocks: Vec<Block> =
            mine.iter().map(|(index, card)| cards::block(map, *index, card, tone, rows)).collect();
        let first = blocks.first().map(|block| (cores.first_row - block.first_row).max(PAD));
        let stack: f64 = blocks.iter().map(|block| block.height + GAP).sum::<f64>() - GAP;
        let height = first.map_or(cores.height, |first| cores.height.max(first + stack + PAD));
        let x = if blocks.is_empty() { CORES_X - PAD } else { MARGIN };
        let rect = Rect::new(x, y, PAGE_WIDTH - MARGIN - x, height);
        scene.areas.push(Area { kind: Kind::Node, rect, tone, hint: String::new() });
        cores.place(y, scene, anchors);
        let mut down = y + first.unwrap_or_default();
        if blocks.is_empty() {
            match free.last_mut().filter(|(_, end)| *end == y) {
                Some((_, end)) => *end = y + height + GAP,
                None => free.push((y, y + height + GAP)),
            }
        }
        for block in blocks {
            let height = block.height;
            block.place(down, scene, anchors);
            down += height + GAP;
        }
        y += height + GAP;
    }
    lost_cards(map, rows, free, y, scene, anchors).max(y - GAP)
}

/// Puts the devices of unknown node where nothing else is. Returns where the last one ends.
fn lost_cards(
    map: &Map,
    rows: Rows,
    mut free: Vec<(f64, f64)>,
    bottom: f64,
    scene: &mut Scene,
    anchors: &mut BTreeMap<Anchor, Point>,
) -> f64 {
    match free.last_mut().filter(|(_, end)| *end == bottom) {
        Some((_, end)) => *end = f64::INFINITY,
        None => free.push((bottom, f64::INFINITY)),
    }
    let is_lost =
        |card: &Card| !map.nodes.iter().any(|node| card.node.is_some() && node.node == card.node);
    let mut last: f64 = 0.0;
    for (index, card) in map.devices.iter().enumerate().filter(|(_, card)| is_lost(card)) {
        let block = cards::block(map, index, card, Tone::Unknown, rows);
        let height = block.height;
        let slot = free.iter_mut().find(|(start, end)| start + PAD + height + GAP <= *end);
        let Some((start, _)) = slot else { continue };
        // Its rows are then beside those of the cores.
        block.place(*start + PAD, scene, anchors);
        *start += PAD + height + GAP;
        last = last.max(*start - GAP);
    }
    last
}

/// Explains the strokes. Returns the height of the page.
fn legend(map: &Map, bottom: f64, scene: &mut Scene) -> f64 {
    const SAMPLE: f64 = 44.0;
    let known = map.nodes.iter().position(|node| node.node.is_some()).unwrap_or_default();
    let mut entries = vec![
        (Wire::Irq, Tone::Node(known), "▲ the CPU of its interrupt"),
        (Wire::Worker, Tone::Node(known), "● the CPU of its worker"),
        (Wire::Irq, Tone::Crossing, "crosses nodes"),
    ];
    if scene.lines.iter().any(|line| line.tone == Tone::Unknown) {
        entries.push((Wire::Irq, Tone::Unknown, "node unknown"));
    }
    let y = bottom + 30.0;
    let mut x = MARGIN;
    for (wire, tone, text) in entries {
        let (from, to) = (Point { x, y }, Point { x: x + SAMPLE, y });
        let mark = (tone == Tone::Crossing).then_some(Point { x: x + SAMPLE / 2.0, y });
        let (device, hint) = (String::new(), String::new());
        scene.lines.push(Line { wire, tone, from, to, mark, device, queues: Vec::new(), hint });
        let mut block = Block::default();
        let room = PAGE_WIDTH - MARGIN - to.x;
        block.text(dim(12.0), Point { x: to.x + 10.0, y: y + 4.0 }, room, text);
        block.place(0.0, scene, &mut BTreeMap::new());
        x = to.x + 10.0 + width(text, 12.0, false) + 14.0;
    }
    y + MARGIN
}
