//! A device and the rows of its queues.

use super::super::map::{Card, Map, Queue, Row, ranges, speed};
use super::{
    Anchor, Block, CARD_WIDTH, CARD_X, Kind, PAD, Point, Rect, Rows, Style, Tone, bold, dim, plain,
    to_the_right,
};

/// Above the rows.
const HEAD: f64 = 62.0;
/// Between a row and the edge of its device.
const INSET: f64 = 4.0;

/// A device; `index` is its place among the devices.
pub(super) fn block(map: &Map, index: usize, card: &Card, tone: Tone, rows: Rows) -> Block {
    let mut block = Block { first_row: HEAD, ..Block::default() };
    let shown = map.rows(card);
    let height = HEAD + rows.height * shown.len() as f64 + INSET;
    block.height = height;
    block.area(Kind::Nic, tone, Rect::new(CARD_X, 0.0, CARD_WIDTH, height), card.device.clone());
    head(&mut block, card);
    for (at, row) in shown.iter().enumerate() {
        let y = HEAD + rows.height * at as f64;
        let rect = Rect::new(CARD_X + INSET, y, CARD_WIDTH - 2.0 * INSET, rows.height);
        let first = match row {
            Row::One(queue) => {
                block.area(Kind::Queue, tone, rect, hint(card, queue));
                one(&mut block, queue, rows, rect);
                queue.queue
            }
            Row::Fold(queues) => {
                block.area(Kind::Queue, Tone::Dim, rect, String::new());
                fold(&mut block, queues, rows, rect);
                queues[0].queue
            }
        };
        let anchor = Point { x: CARD_X + CARD_WIDTH, y: y + rows.height / 2.0 };
        block.anchors.insert(Anchor::Row(index, first), anchor);
    }
    block
}

fn head(block: &mut Block, card: &Card) {
    let x = CARD_X + PAD;
    let room = CARD_WIDTH - 2.0 * PAD;
    block.text(bold(16.0), Point { x, y: 22.0 }, room * 0.5, &card.device);
    let right = Point { x: CARD_X + CARD_WIDTH - PAD, y: 22.0 };
    let (node, style) = match card.node {
        Some(node) => (format!("node {node}"), plain(12.0)),
        None => ("node unknown".to_owned(), Style { tone: Tone::Unknown, ..bold(12.0) }),
    };
    block.text(to_the_right(style), right, room * 0.48, &node);
    let driver = card.driver.as_deref().unwrap_or("unknown driver");
    let speed = card.speed_mbps.map(speed).unwrap_or_else(|| "no speed".to_owned());
    let mtu = card.mtu_bytes.map(|mtu| format!(" · MTU {mtu}")).unwrap_or_default();
    let line = format!("{driver} · {speed}{mtu}");
    block.text(dim(11.5), Point { x, y: 38.0 }, room, &line);
    let bus = card.bus.as_deref().unwrap_or("no bus: a virtual device");
    let count = card.queues.len();
    let line = format!("{bus} · {count} queue{}", if count == 1 { "" } else { "s" });
    block.text(dim(11.5), Point { x, y: 53.5 }, room, &line);
}

fn one(block: &mut Block, queue: &Queue, rows: Rows, rect: Rect) {
    let y = rows.baseline(rect.y);
    let size = rows.text;
    block.text(bold(size), Point { x: rect.x + 6.0, y }, 38.0, &format!("q{}", queue.queue));
    let irq = match (queue.irq, queue.irq_cpus.len()) {
        (None, _) => "no irq".to_owned(),
        (Some(irq), 0..=2) => format!("irq {irq}"),
        (Some(irq), count) => format!("irq {irq} ({count})"),
    };
    block.text(dim(size), Point { x: rect.x + 46.0, y }, 76.0, &irq);
    let owner = owner(queue);
    let style = if queue.is_served() { plain(size) } else { dim(size) };
    let at = Point { x: rect.right() - 10.0, y };
    block.text(to_the_right(style), at, rect.width - 46.0 - 76.0 - 14.0, &owner);
}

fn owner(queue: &Queue) -> String {
    let zerocopy = if queue.zerocopy == Some(true) { " zc" } else { "" };
    match (&queue.process, queue.pid) {
        (Some(name), Some(pid)) => format!("{name} {pid}{zerocopy}"),
        _ if queue.is_served() => format!("unknown process{zerocopy}"),
        _ => "no worker".to_owned(),
    }
}

fn fold(block: &mut Block, queues: &[Queue], rows: Rows, rect: Rect) {
    let y = rows.baseline(rect.y);
    let name = format!("q{}", ranges(queues.iter().map(|queue| queue.queue)));
    block.text(bold(rows.text), Point { x: rect.x + 6.0, y }, 86.0, &name);
    let text = format!("{} queues, no worker", queues.len());
    let at = Point { x: rect.right() - 10.0, y };
    block.text(to_the_right(dim(rows.text)), at, rect.width - 106.0, &text);
}

fn hint(card: &Card, queue: &Queue) -> String {
    let mut text = format!("{} queue {}", card.device, queue.queue);
    if let Some(irq) = queue.irq {
        text += &format!(", irq {irq} on CPU {}", ranges(queue.irq_cpus.iter().copied()));
        if !queue.irq_next_cpus.is_empty() {
            text += &format!(" (then {})", ranges(queue.irq_next_cpus.iter().copied()));
        }
    }
    if let Some(cpu) = queue.worker_cpu {
        text += &format!(", worker of {} on CPU {cpu}", owner(queue));
    }
    for (field, reason) in &queue.unknown.0 {
        text += &format!("; {field} unknown: {reason}");
    }
    text
}
