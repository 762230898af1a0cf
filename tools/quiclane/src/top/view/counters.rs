//! The list of the counters of the server on one queue, generated from their declarations: every
//! declared counter that is not zero is listed, with its help text.

use super::{Screen, alarm, bold, dim, short};
use crate::inspect::sheet;
use crate::top::rates::{QueueRates, Rates};
use quiclane::counters::{Description, Kind, Meaning, Set, Unit};
use quiclane::exec::Snapshot;
use ratatui::layout::Rect;
use ratatui::style::Style;

/// The queue whose counters are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) queue: u32,
    /// Lines of the list that are scrolled away.
    pub(crate) scroll: usize,
}

impl Chosen {
    pub(crate) const fn new(queue: u32) -> Self {
        Self { queue, scroll: 0 }
    }

    /// The queue after this one, or before it; around the end. It stays where the device has no
    /// such queue any more.
    pub(crate) fn neighbour(self, rates: &Rates, is_next: bool) -> Self {
        let many = rates.queues.len();
        let Some(at) = rates.queues.iter().position(|queue| queue.queue == self.queue) else {
            return self;
        };
        let step = if is_next { 1 } else { many - 1 };
        Self::new(rates.queues[(at + step) % many].queue)
    }

    pub(crate) fn found(self, rates: &Rates) -> Option<&QueueRates> {
        rates.queues.iter().find(|queue| queue.queue == self.queue)
    }

    /// How many lines are scrolled away when the last one is at the end of the screen.
    pub(crate) fn furthest(self, rates: &Rates, area: Rect) -> usize {
        let lines = self.found(rates).map_or(0, |queue| lines(queue).len());
        lines.saturating_sub(space(area))
    }
}

/// Lines of the screen that the list may take: all but totals, the queue, what is left, and keys.
fn space(area: Rect) -> usize {
    usize::from(area.height.saturating_sub(6))
}

/// A line of the list.
enum Line {
    Set(&'static Set),
    Counter(&'static Description, f64),
}

/// Every declared counter whose rate, and gauge whose value, is not zero: below its set, in the order
/// of the declaration.
fn lines(queue: &QueueRates) -> Vec<Line> {
    let mut lines = Vec::new();
    for set in Snapshot::SETS {
        let Some(told) = queue.counters.get(set.name) else { continue };
        lines.push(Line::Set(set));
        let told =
            |counter: &'static Description| Some(Line::Counter(counter, *told.get(counter.name)?));
        lines.extend(set.counters.iter().filter_map(told));
    }
    lines
}

/// The unit of a value: a counter is shown as a rate, a gauge as it is.
const fn unit(counter: &Description) -> &'static str {
    match (counter.kind, counter.unit) {
        (Kind::Counter, Unit::Count) => "/s",
        (Kind::Counter, Unit::Bytes) => "B/s",
        (Kind::Counter, Unit::Nanoseconds) => "ns/s",
        (Kind::Gauge, Unit::Count) => "",
        (Kind::Gauge, Unit::Bytes) => "B",
        (Kind::Gauge, Unit::Nanoseconds) => "ns",
    }
}

/// A rate has digits behind the point. A gauge is a whole number, and has none as long as no unit
/// stands for thousands of it.
fn number(counter: &Description, value: f64) -> String {
    match counter.kind {
        Kind::Gauge if value < 1_000.0 => format!("{value:.0}"),
        _ => short(Some(value)),
    }
}

/// The reason why no counter is listed.
const fn silence(rates: &Rates, queue: &QueueRates) -> &'static str {
    if queue.connections.is_none() {
        "no server describes this queue in /run/quiclane: quiclane serve does"
    } else if rates.seconds.is_none() {
        "one look has no rates: they come with the next one"
    } else {
        "nothing counted since the last look, or the server is too old to report it"
    }
}

impl Screen<'_> {
    /// The list, between the totals and the keys.
    pub(super) fn counters(&mut self, rates: &Rates, chosen: Chosen) {
        let (x, y) = (self.area.x, self.area.y + 3);
        let Some(queue) = chosen.found(rates) else {
            let text = format!("{} has no queue {} any more", rates.device, chosen.queue);
            self.put(x, y, &text, bold());
            return;
        };
        self.whose(queue);
        let lines = lines(queue);
        if lines.is_empty() {
            self.put(x, y + 1, silence(rates, queue), dim());
            return;
        }
        let end = self.area.bottom() - 2;
        let space = space(self.area);
        let scroll = chosen.scroll.min(chosen.furthest(rates, self.area));
        for (line, y) in lines.iter().skip(scroll).zip(y + 1..end) {
            self.line(line, y);
        }
        if lines.len() - scroll > space {
            let text = format!("↓ {} more", lines.len() - scroll - space);
            self.put(x, end, &text, dim());
        }
    }

    /// The queue, and who serves it.
    fn whose(&mut self, queue: &QueueRates) {
        let (x, y) = (self.area.x, self.area.y + 3);
        let x = self.put(x, y, &format!("q{}", queue.queue), bold());
        let mut parts = Vec::new();
        if let (Some(name), Some(pid)) = (&queue.process, queue.pid) {
            parts.push(format!("{name} {pid}"));
        }
        parts.extend(queue.worker_cpu.map(|cpu| format!("worker on CPU {cpu}")));
        parts.extend(
            queue.connections.map(|many| {
                sheet::count(usize::try_from(many).unwrap_or(usize::MAX), "connection")
            }),
        );
        self.put(x + 2, y, &parts.join(", "), Style::new());
    }

    fn line(&mut self, line: &Line, y: u16) {
        /// Where the values end, and where the help begins.
        const VALUE: usize = 40;
        const HELP: u16 = 48;
        let x = self.area.x;
        match line {
            Line::Set(set) => {
                let x = self.put(x, y, set.name, bold());
                self.put(x, y, &format!("  {}", set.about), dim());
            }
            Line::Counter(counter, value) => {
                let is_trouble = counter.meaning != Meaning::Plain;
                let style = if is_trouble { alarm(Some(*value)) } else { Style::new() };
                let (name, value) = (counter.name, number(counter, *value));
                let space = VALUE.saturating_sub(name.chars().count() + 2);
                let at = self.put(x, y, &format!("  {name}{value:>space$}"), style);
                let at = self.put(at, y, &format!(" {}", unit(counter)), dim());
                self.put(at.max(x + HELP), y, counter.help, dim());
            }
        }
    }
}
