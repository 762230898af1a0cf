//! What `top` shows: [`Rates`] on a screen of any size. Pure: nothing here knows of a terminal.
//!
//! ```text
//!   lb-a1  eth0 ice 100 Gb/s node 0                                     1.0 s
//!   rx 1.62M pps ...                                                            totals
//!   drops/s: ...                                                                by reason
//!                                              node 0            node 1         heat map:
//!   queue rx pps rx b/s tx pps drop/s wrong/s  0 1 2 3 4 5 6 7   16 17 18       a column a CPU
//!   q0     101k   807M   101k      0       0   9 . . .
//!   softirq, worker                            3 3 3 3                          load of each CPU
//!   q quit  p pause ...                                                         keys
//! ```

mod counters;

use super::rates::{CpuRates, Flow, QueueRates, Rates};
use crate::inspect::sheet;
use crate::topo::map::{ranges, speed};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use std::collections::BTreeSet;

pub(crate) use counters::Chosen;

/// Lines that are not queues: title, totals, drops, two of heads, two of loads, keys.
const FRAME: u16 = 8;
/// The smallest screen that shows something.
const SMALLEST: (u16, u16) = (40, 12);
/// From this width on all columns are shown.
const WIDE: u16 = 120;
/// A number and the space before it.
const COLUMN: u16 = 7;
const QUEUE: u16 = 6;

/// What stands first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sort {
    #[default]
    Queue,
    Packets,
    Drops,
    WrongQueue,
}

impl Sort {
    pub(crate) const fn next(self) -> Self {
        match self {
            Self::Queue => Self::Packets,
            Self::Packets => Self::Drops,
            Self::Drops => Self::WrongQueue,
            Self::WrongQueue => Self::Queue,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Packets => "packets",
            Self::Drops => "drops",
            Self::WrongQueue => "wrong",
        }
    }
}

/// What the reader asked for.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) sort: Sort,
    pub(crate) folds_idle: bool,
    pub(crate) is_paused: bool,
    pub(crate) shows_help: bool,
    pub(crate) has_color: bool,
    /// Keys are of use.
    pub(crate) has_keys: bool,
    /// Queues that are scrolled away.
    pub(crate) scroll: usize,
    /// The counters of this queue are listed in place of the queues.
    pub(crate) counters: Option<Chosen>,
}

/// A column of numbers.
struct Column {
    head: &'static str,
    of: fn(&Flow) -> Option<f64>,
}

static COLUMNS: [Column; 6] = [
    Column { head: "rx pps", of: |flow| flow.rx_pps },
    Column { head: "rx b/s", of: |flow| flow.rx_bps },
    Column { head: "tx pps", of: |flow| flow.tx_pps },
    Column { head: "tx b/s", of: |flow| flow.tx_bps },
    Column { head: "drops", of: |flow| flow.drops_ps },
    Column { head: "wrong", of: |flow| flow.wrong_queue_ps },
];

/// The lines that a screen needs to show all queues.
pub(crate) fn height(rates: &Rates, view: &View) -> u16 {
    let (shown, idle) = split(rates, view);
    let rows = shown.len() + usize::from(!idle.is_empty());
    FRAME.saturating_add(u16::try_from(rows).unwrap_or(u16::MAX))
}

/// Nothing is scrolled further than the screen needs to show the last line: the key back works at
/// once, and what stands first is what was scrolled to.
pub(crate) fn limit(rates: &Rates, view: &mut View, area: Rect) {
    view.scroll = view.scroll.min(furthest(rates, view, area));
    if let Some(chosen) = &mut view.counters {
        chosen.scroll = chosen.scroll.min(chosen.furthest(rates, area));
    }
}

/// How many queues are scrolled away when the last one is in the last line.
fn furthest(rates: &Rates, view: &View, area: Rect) -> usize {
    usize::from(height(rates, view).saturating_sub(area.height))
}

/// Draws everything.
pub(crate) fn draw(rates: &Rates, view: &View, area: Rect, buffer: &mut Buffer) {
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        too_small(area, buffer);
        return;
    }
    let mut screen = Screen { view, area, buffer };
    screen.title(rates);
    screen.totals(rates);
    screen.drops(rates);
    match view.counters {
        Some(chosen) => screen.counters(rates, chosen),
        None => screen.queues(rates),
    }
    screen.footer();
    if view.shows_help {
        screen.help();
    }
}

/// The queue that stands first on the screen.
pub(crate) fn first(rates: &Rates, view: &View) -> Option<u32> {
    let (shown, idle) = split(rates, view);
    let scroll = view.scroll.min(shown.len().saturating_sub(1));
    shown.get(scroll).or_else(|| idle.first()).map(|queue| queue.queue)
}

/// Says so on as many lines as that takes, and how to leave.
fn too_small(area: Rect, buffer: &mut Buffer) {
    let text = format!(
        "{}x{} is too small: {}x{} at least, 80x24 shows all. q quits",
        area.width, area.height, SMALLEST.0, SMALLEST.1
    );
    let width = usize::from(area.width);
    for (line, y) in sheet::wrap(&text, width, 0).lines().zip(area.y..area.bottom()) {
        buffer.set_stringn(area.x, y, line, width, Style::new());
    }
}

/// The queues to show in their order, and those that are folded.
fn split<'a>(rates: &'a Rates, view: &View) -> (Vec<&'a QueueRates>, Vec<&'a QueueRates>) {
    let folds = view.folds_idle && rates.seconds.is_some();
    let (idle, mut shown): (Vec<_>, Vec<_>) =
        rates.queues.iter().partition(|queue| folds && queue.is_idle());
    let key = |queue: &QueueRates| match view.sort {
        Sort::Queue => None,
        Sort::Packets => Some(queue.flow.rx_pps.unwrap_or(0.0) + queue.flow.tx_pps.unwrap_or(0.0)),
        Sort::Drops => queue.flow.drops_ps,
        Sort::WrongQueue => queue.flow.wrong_queue_ps,
    };
    // Stable: equal ones stay in the order of their numbers.
    shown.sort_by(|a, b| key(b).unwrap_or(0.0).total_cmp(&key(a).unwrap_or(0.0)));
    (shown, idle)
}

/// Where the heat map is, and which CPUs it has.
struct Heat<'a> {
    x: u16,
    cell: u16,
    cpus: Vec<&'a CpuRates>,
    /// CPUs that do not fit.
    hidden: usize,
    busiest: f64,
}

impl<'a> Heat<'a> {
    /// CPUs of the queues shown, and those that are busy with interrupts without being theirs.
    fn new(rates: &'a Rates, shown: &[&QueueRates], area: Rect, view: &View) -> Self {
        /// The load from which on a CPU gets a column.
        const BUSY: f64 = 0.10;
        let all: Vec<&QueueRates> = rates.queues.iter().collect();
        // If no queue is shown, the CPUs of all queues.
        let queues = if shown.is_empty() { &all[..] } else { shown };
        let of_queues: BTreeSet<u32> = queues
            .iter()
            .flat_map(|queue| queue.irq_cpus.iter().copied().chain(queue.worker_cpu))
            .collect();
        let is_worth = |cpu: &&CpuRates| {
            of_queues.contains(&cpu.cpu)
                || cpu.softirq.is_some_and(|share| share >= BUSY)
                || (!view.folds_idle && of_queues.is_empty())
        };
        let mut cpus: Vec<&CpuRates> = rates.cpus.iter().filter(is_worth).collect();
        // CPUs of unknown node stand last.
        cpus.sort_by_key(|cpu| (cpu.node.is_none(), cpu.node, cpu.cpu));
        let x =
            QUEUE + COLUMN * columns(area).len() as u16 + 1 + u16::from(area.width >= WIDE) * 18;
        let nodes = cpus.chunk_by(|a, b| a.node == b.node).count();
        let room = usize::from(area.width.saturating_sub(x)).saturating_sub(nodes);
        let cell = (room / cpus.len().max(1)).clamp(1, 6) as u16;
        // Two columns look no better than one and a space, and cost the same.
        let hidden = cpus.len().saturating_sub(room / usize::from(cell));
        cpus.truncate(cpus.len() - hidden);
        let rates = shown.iter().filter_map(|queue| queue.flow.rx_pps);
        Self { x: area.x + x, cell, cpus, hidden, busiest: rates.fold(0.0, f64::max) }
    }

    /// Every CPU with the column where it begins; nodes are a column apart.
    fn places(&self) -> impl Iterator<Item = (u16, &'a CpuRates)> {
        let mut x = self.x;
        let mut last: Option<Option<u32>> = None;
        self.cpus.iter().map(move |cpu| {
            x += u16::from(last.is_some_and(|node| node != cpu.node));
            last = Some(cpu.node);
            let place = x;
            x += self.cell;
            (place, *cpu)
        })
    }

    /// Between 1, little, and 9, as much as the busiest; 0 is nothing.
    fn level(&self, rate: f64) -> u8 {
        if rate <= 0.0 || self.busiest <= 0.0 {
            return 0;
        }
        (rate / self.busiest * 9.0).ceil().clamp(1.0, 9.0) as u8
    }
}

fn columns(area: Rect) -> Vec<&'static Column> {
    // A narrow screen has no space for the bits of transmission.
    let fits = |column: &&Column| area.width >= WIDE || column.head != "tx b/s";
    COLUMNS.iter().filter(fits).collect()
}

struct Screen<'a> {
    view: &'a View,
    area: Rect,
    buffer: &'a mut Buffer,
}

impl Screen<'_> {
    fn put(&mut self, x: u16, y: u16, text: &str, style: Style) -> u16 {
        let room = usize::from(self.area.right().saturating_sub(x));
        let style = if self.view.has_color { style } else { without_color(style) };
        self.buffer.set_stringn(x, y, text, room, style).0
    }

    fn title(&mut self, rates: &Rates) {
        let (x, y) = (self.area.x, self.area.y);
        let host = rates.host.as_deref().unwrap_or("unknown host");
        let x = self.put(x, y, host, bold());
        let mut text = format!("  {}", rates.device);
        text += &format!(" {}", rates.driver.as_deref().unwrap_or("unknown driver"));
        text += &rates.speed_mbps.map(|mbps| format!(" {}", speed(mbps))).unwrap_or_default();
        text += &match rates.node {
            Some(node) => format!(" node {node}"),
            None => " node unknown".to_owned(),
        };
        self.put(x, y, &text, Style::new());
        let state = match (self.view.is_paused, rates.seconds) {
            (true, _) => " PAUSED".to_owned(),
            (false, Some(seconds)) => format!(" over {seconds:.1} s"),
            (false, None) => " one look: no rates".to_owned(),
        };
        let at = self.area.right().saturating_sub(state.len() as u16);
        let style = if self.view.is_paused { bold().fg(Color::Yellow) } else { dim() };
        self.put(at, y, &state, style);
    }

    fn totals(&mut self, rates: &Rates) {
        let total = &rates.total;
        let (mut x, y) = (self.area.x, self.area.y + 1);
        let parts = [
            ("rx ", total.rx_pps, "pps "),
            ("", total.rx_bps, "b/s   "),
            ("tx ", total.tx_pps, "pps "),
            ("", total.tx_bps, "b/s   "),
        ];
        for (before, rate, after) in parts {
            x = self.put(x, y, before, dim());
            x = self.put(x, y, &short(rate), bold());
            x = self.put(x, y, &format!(" {after}"), dim());
        }
        x = self.put(x, y, "wrong queue ", dim());
        x = self.put(x, y, &short(total.wrong_queue_ps), alarm(total.wrong_queue_ps));
        self.put(x, y, " /s", dim());
    }

    fn drops(&mut self, rates: &Rates) {
        let y = self.area.y + 2;
        let mut x = self.refused(rates, self.area.x, y);
        x = self.put(x, y, "drops/s ", dim());
        if rates.drops.is_empty() {
            let why = if rates.seconds.is_some() { "not counted here" } else { "–" };
            self.put(x, y, why, Style::new());
            return;
        }
        let (some, none): (Vec<_>, Vec<_>) = rates.drops.iter().partition(|(_, rate)| **rate > 0.0);
        let mut hidden = 0;
        for (reason, rate) in &some {
            let (name, rate) = (words(reason), Some(**rate));
            let needed = name.chars().count() + short(rate).len() + 3;
            // A name that is cut off tells nothing.
            if usize::from(self.area.right().saturating_sub(x)) < needed + MORE.len() {
                hidden += 1;
                continue;
            }
            x = self.put(x, y, &format!("{name} "), Style::new());
            x = self.put(x, y, &short(rate), alarm(rate));
            x = self.put(x, y, "  ", Style::new());
        }
        if hidden > 0 {
            self.put(x, y, &format!("+{hidden} more"), alarm(Some(1.0)));
            return;
        }
        let names: Vec<String> = none.iter().map(|(reason, _)| words(reason)).collect();
        let room = usize::from(self.area.right().saturating_sub(x));
        let text = none_by(&names, room);
        self.put(x, y, &text, dim());
    }

    /// Clients that are refused, as one number: `doctor` tells the limits.
    fn refused(&mut self, rates: &Rates, x: u16, y: u16) -> u16 {
        let all: f64 = rates.refused.values().sum();
        if all == 0.0 {
            return x;
        }
        let x = self.put(x, y, "clients refused/s ", dim());
        let x = self.put(x, y, &short(Some(all)), alarm(Some(all)));
        self.put(x, y, "  ", Style::new())
    }

    /// A row for each queue, and the load of each CPU below.
    fn queues(&mut self, rates: &Rates) {
        let area = self.area;
        let (shown, idle) = split(rates, self.view);
        let room = usize::from(area.height - FRAME);
        let scroll = self.view.scroll.min(furthest(rates, self.view, area));
        let heat = Heat::new(rates, &shown, area, self.view);
        self.heads(&heat);
        let mut y = area.y + 5;
        let end = area.bottom() - 3;
        for queue in shown.iter().skip(scroll) {
            if y == end {
                break;
            }
            self.queue(queue, &heat, y);
            y += 1;
        }
        if y < end && !idle.is_empty() {
            self.idle(&idle, y);
        }
        let left = shown.len().saturating_sub(scroll);
        self.loads(rates, &heat, left > room);
    }

    fn heads(&mut self, heat: &Heat<'_>) {
        let y = self.area.y + 4;
        self.put(self.area.x, y, "queue", dim());
        let mut x = self.area.x + QUEUE;
        for column in columns(self.area) {
            self.put(x, y, &format!("{:>7}", column.head), dim());
            x += COLUMN;
        }
        if self.area.width >= WIDE {
            self.put(x + 2, y, "process", dim());
        }
        let (mut node, mut free) = (None, 0);
        for (x, cpu) in heat.places() {
            if node != Some(cpu.node) {
                node = Some(cpu.node);
                let name = cpu.node.map_or("node ?".to_owned(), |node| format!("node {node}"));
                self.put(x, y - 1, &name, node_style(cpu.node));
            }
            // Where cells are narrow, only those numbers that do not run into each other.
            if x >= free {
                free = self.put(x, y, &cpu.cpu.to_string(), node_style(cpu.node)) + 1;
            }
        }
        if heat.hidden > 0 {
            let text = format!(" {} CPUs more", heat.hidden);
            let at = self.area.right().saturating_sub(text.len() as u16);
            self.put(at, y - 1, &text, dim());
        }
    }

    fn queue(&mut self, queue: &QueueRates, heat: &Heat<'_>, y: u16) {
        let crosses = queue.crosses == Some(true);
        let name = format!("q{}{}", queue.queue, if crosses { "✕" } else { "" });
        let style = if crosses { bold().fg(Color::Red) } else { bold() };
        self.put(self.area.x, y, &name, style);
        let mut x = self.area.x + QUEUE;
        for column in columns(self.area) {
            let rate = (column.of)(&queue.flow);
            let is_trouble = matches!(column.head, "drops" | "wrong");
            let style = if is_trouble { alarm(rate) } else { Style::new() };
            self.put(x, y, &format!("{:>7}", short(rate)), style);
            x += COLUMN;
        }
        if self.area.width >= WIDE {
            let process = match (&queue.process, queue.pid) {
                (Some(name), Some(pid)) => format!("{name} {pid}"),
                _ => "–".to_owned(),
            };
            let process: String = process.chars().take(15).collect();
            self.put(x + 2, y, &process, dim());
        }
        for (x, cpu) in heat.places() {
            self.cell(queue, heat, cpu, x, y);
        }
    }

    /// What a queue does to a CPU: packets that arrive there, or where its worker is.
    fn cell(&mut self, queue: &QueueRates, heat: &Heat<'_>, cpu: &CpuRates, x: u16, y: u16) {
        let width = usize::from(heat.cell);
        let is_irq = queue.irq_cpus.contains(&cpu.cpu);
        let is_worker = queue.worker_cpu == Some(cpu.cpu);
        let interrupts = if queue.irq_cpus.is_empty() { is_worker } else { is_irq };
        let share = 1.0 / queue.irq_cpus.len().max(1) as f64;
        let rate = queue.flow.rx_pps.filter(|_| interrupts).map(|rate| rate * share);
        let level = rate.map_or(0, |rate| heat.level(rate));
        let text = match rate {
            Some(rate) if width >= 6 && level > 0 => short(Some(rate)),
            Some(_) if level > 0 => level.to_string(),
            _ if interrupts => "0".to_owned(),
            _ if is_worker => "w".to_owned(),
            _ => "·".to_owned(),
        };
        let style = match (level, is_irq || is_worker) {
            (0, false) => dim(),
            (0, true) => bold(),
            (level, _) => heat_style(level),
        };
        let filled = if width > 2 { width - 1 } else { width };
        self.put(x, y, &format!("{text:^filled$}"), style);
    }

    fn idle(&mut self, idle: &[&QueueRates], y: u16) {
        let mut numbers: Vec<u32> = idle.iter().map(|queue| queue.queue).collect();
        numbers.sort_unstable();
        let what = if numbers.len() == 1 { "queue" } else { "queues" };
        let text = format!("{} idle {what}: q{}", numbers.len(), ranges(numbers));
        self.put(self.area.x, y, &text, dim());
    }

    /// Load of each CPU in tenths, below its column.
    fn loads(&mut self, rates: &Rates, heat: &Heat<'_>, has_more: bool) {
        type Share = fn(&CpuRates) -> Option<f64>;
        let y = self.area.bottom() - 3;
        let loads: [(&str, Share); 2] = [
            ("interrupts, % of CPU", |cpu| cpu.softirq),
            ("programs,   % of CPU", |cpu| cpu.program),
        ];
        for (line, (name, of)) in loads.into_iter().enumerate() {
            let y = y + line as u16;
            let known = rates.cpus.iter().filter_map(of);
            let most = known.fold(None, |most: Option<f64>, share| {
                Some(most.map_or(share, |most| most.max(share)))
            });
            let most = most.map_or("–".to_owned(), |most| format!("{:.0}", most * 100.0));
            let text = format!("{name}: most {most}");
            self.put(self.area.x, y, &text, dim());
            for (x, cpu) in heat.places() {
                self.load(of(cpu), usize::from(heat.cell), x, y);
            }
        }
        if has_more {
            let text = "↓ more";
            self.put(heat.x.saturating_sub(8), y, text, dim());
        }
    }

    fn load(&mut self, share: Option<f64>, width: usize, x: u16, y: u16) {
        let Some(share) = share else {
            self.put(x, y, "–", dim());
            return;
        };
        let level = (share * 9.0).ceil().clamp(0.0, 9.0) as u8;
        // Two digits or more are percent, one digit is tenths.
        let text = match width {
            0..=2 => ((share * 10.0) as u8).min(9).to_string(),
            _ => format!("{:.0}", share * 100.0),
        };
        let filled = if width > 2 { width - 1 } else { width };
        let style = if level == 0 { dim() } else { heat_style(level) };
        self.put(x, y, &format!("{text:^filled$}"), style);
    }

    fn footer(&mut self) {
        if !self.view.has_keys {
            return;
        }
        let (mut x, y) = (self.area.x, self.area.bottom() - 1);
        let sort = format!("by {}", self.view.sort.name());
        let fold = if self.view.folds_idle { "show idle" } else { "fold idle" };
        let pause = if self.view.is_paused { "go on" } else { "pause" };
        let of_queues =
            [("c", "counters"), ("f", fold), ("d", "device"), ("?", "help"), ("s", &sort)];
        let of_counters = [("c", "queues"), ("←→", "queue"), ("↑↓", "scroll"), ("?", "help")];
        let more = if self.view.counters.is_some() { &of_counters[..] } else { &of_queues[..] };
        let keys = [("q", "quit"), ("p", pause)].into_iter().chain(more.iter().copied());
        for (key, what) in keys {
            x = self.put(x, y, &format!(" {key} "), Style::new().add_modifier(Modifier::REVERSED));
            x = self.put(x, y, &format!(" {what} "), Style::new());
        }
    }

    fn help(&mut self) {
        const LINES: [&str; 15] = [
            "q, Esc, Ctrl-C  quit             p, space  pause",
            "s  sort by queue, packets, drops, wrong",
            "f  fold queues on which nothing happens",
            "d  next device                   ↑ ↓ k j   scroll",
            "c  every counter of the first queue shown, and back;",
            "   ← → N n  the queue before, the next queue",
            "",
            "Heat map: a row is a queue, a column a CPU, grouped",
            "by memory node. A cell is the packets per second that",
            "arrive there; in a narrow one 1 to 9, 9 for the most.",
            "w: the queue's worker is on that CPU.",
            "✕: its interrupt or worker is on another node than",
            "the device (quiclane topo shows it).",
            "wrong: packets of other workers' connections, per s.",
            "Below: each CPU's load, in % or in tenths.",
        ];
        let width = 58.min(self.area.width);
        let height = (LINES.len() as u16 + 2).min(self.area.height);
        let x = self.area.x + (self.area.width - width) / 2;
        let y = self.area.y + (self.area.height - height) / 2;
        let inner = usize::from(width - 2);
        let edge = |left: &str, right: &str| format!("{left}{}{right}", "─".repeat(inner));
        self.put(x, y, &edge("┌", "┐"), bold());
        for (line, text) in LINES.iter().enumerate().take(usize::from(height - 2)) {
            let text: String = text.chars().take(inner.saturating_sub(2)).collect();
            let room = inner - 1;
            let y = y + 1 + line as u16;
            self.put(x, y, &format!("│ {text:<room$}│"), Style::new());
        }
        self.put(x, y + height - 1, &edge("└", "┘"), bold());
    }
}

/// The text for reasons that do not fit.
const MORE: &str = "+99 more";

/// `none by: backlog, socket, +4 more`: as many whole names as fit.
fn none_by(names: &[String], room: usize) -> String {
    for shown in (1..=names.len()).rev() {
        let more = match names.len() - shown {
            0 => String::new(),
            more => format!(", +{more} more"),
        };
        let text = format!("none by: {}{more}", names[..shown].join(", "));
        if text.chars().count() <= room {
            return text;
        }
    }
    String::new()
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

/// A rate that should be zero.
fn alarm(rate: Option<f64>) -> Style {
    match rate {
        Some(rate) if rate > 0.0 => bold().fg(Color::Red),
        _ => Style::new(),
    }
}

fn node_style(node: Option<u32>) -> Style {
    /// Blue first, then green: they differ for every kind of colour vision.
    const COLORS: [Color; 4] = [Color::Blue, Color::Green, Color::Magenta, Color::Yellow];
    match node {
        Some(node) => Style::new().fg(COLORS[node as usize % COLORS.len()]),
        None => dim(),
    }
}

/// The higher, the brighter: shades of blue from the 256 colours.
fn heat_style(level: u8) -> Style {
    const BACK: [u8; 10] = [0, 17, 18, 19, 25, 26, 32, 38, 44, 51];
    let level = usize::from(level.min(9));
    let ink = if level < 6 { Color::Indexed(255) } else { Color::Indexed(16) };
    Style::new().bg(Color::Indexed(BACK[level])).fg(ink)
}

/// A style without its colours.
fn without_color(style: Style) -> Style {
    Style { fg: None, bg: None, ..style }
}

/// A name of JSON for people.
fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// Three digits and a unit: `0`, `12`, `1.23k`, `101k`, `9.87G`.
pub(crate) fn short(rate: Option<f64>) -> String {
    let Some(mut rate) = rate else { return "–".to_owned() };
    let mut unit = "";
    for next in ["k", "M", "G", "T"] {
        if rate < 999.5 {
            break;
        }
        rate /= 1_000.0;
        unit = next;
    }
    let digits = if rate == 0.0 || rate >= 99.95 || (unit.is_empty() && rate >= 9.95) {
        0
    } else if unit.is_empty() || rate >= 9.995 {
        1
    } else {
        2
    };
    format!("{rate:.digits$}{unit}")
}
