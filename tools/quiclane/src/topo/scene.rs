//! A picture in numbers: areas, texts and lines with their places, and nothing of how they are
//! drawn. Lengths are pixels; y runs down.

/// A place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
}

/// A rectangle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rect {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

impl Rect {
    pub(crate) const fn new(x: f64, y: f64, width: f64, height: f64) -> Self {
        Self { x, y, width, height }
    }

    pub(crate) const fn right(&self) -> f64 {
        self.x + self.width
    }

    #[cfg(test)]
    pub(crate) const fn bottom(&self) -> f64 {
        self.y + self.height
    }
}

/// The meaning of a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tone {
    /// The memory node with this place among the nodes.
    Node(usize),
    /// The node is unknown.
    Unknown,
    /// A queue and its CPU are on different nodes.
    Crossing,
    /// Ordinary text.
    Plain,
    /// Text of less weight.
    Dim,
}

/// The meaning of an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Node,
    Nic,
    /// A queue, or several that are folded.
    Queue,
    Package,
    Cache,
    /// A core that a line leads to.
    Core,
    /// A logical CPU of such a core.
    Cpu,
    /// A logical CPU that an interrupt or a worker has.
    BusyCpu,
    /// A core to which nothing leads.
    IdleCore,
}

/// A box.
#[derive(Clone, Debug)]
pub(crate) struct Area {
    pub(crate) kind: Kind,
    pub(crate) rect: Rect,
    pub(crate) tone: Tone,
    /// The tooltip; may be empty.
    pub(crate) hint: String,
}

/// Where a text begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A text on a line.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    /// The end of its baseline that `align` names.
    pub(crate) at: Point,
    pub(crate) size: f64,
    pub(crate) is_bold: bool,
    pub(crate) tone: Tone,
    pub(crate) align: Align,
    pub(crate) text: String,
}

#[cfg(test)]
impl Text {
    /// The rectangle that it needs at most.
    pub(crate) fn bounds(&self) -> Rect {
        let width = width(&self.text, self.size, self.is_bold);
        let x = if self.align == Align::Left { self.at.x } else { self.at.x - width };
        Rect::new(x, self.at.y - self.size * 0.8, width, self.size)
    }
}

/// What a line leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// The CPU of an interrupt.
    Irq,
    /// The CPU of a worker.
    Worker,
}

/// From a queue to a CPU.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) wire: Wire,
    pub(crate) tone: Tone,
    pub(crate) from: Point,
    pub(crate) to: Point,
    /// Where the sign of a crossing is.
    pub(crate) mark: Option<Point>,
    /// The device; empty for the samples of the legend.
    pub(crate) device: String,
    /// The queues that it stands for: one, or those of a fold.
    pub(crate) queues: Vec<u32>,
    pub(crate) hint: String,
}

impl Line {
    /// How far the curve runs level from either end.
    pub(crate) const fn reach(&self) -> f64 {
        (self.to.x - self.from.x) * 0.45
    }

    /// The point at `t` of the way, between 0 and 1.
    pub(crate) fn at(&self, t: f64) -> Point {
        let s = 1.0 - t;
        let (a, b, c, d) = (s * s * s, 3.0 * s * s * t, 3.0 * s * t * t, t * t * t);
        let reach = self.reach();
        let (from, to) = (self.from, self.to);
        let x = a * from.x + b * (from.x + reach) + c * (to.x - reach) + d * to.x;
        Point { x, y: (a + b) * from.y + (c + d) * to.y }
    }
}

/// A picture.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scene {
    pub(crate) width: f64,
    pub(crate) height: f64,
    /// The description for readers who do not see it.
    pub(crate) title: String,
    pub(crate) description: String,
    /// An area stands after those around it.
    pub(crate) areas: Vec<Area>,
    pub(crate) lines: Vec<Line>,
    pub(crate) texts: Vec<Text>,
}

/// The width of a text, at least as wide as in the usual fonts: measured on DejaVu Sans, which is
/// wider than Arial, Segoe UI, Roboto and San Francisco.
pub(crate) fn width(text: &str, size: f64, is_bold: bool) -> f64 {
    let letter = |letter: char| match letter {
        ' ' | '.' | ',' | ':' | ';' | 'i' | 'j' | 'l' | '·' | '\'' => 0.36,
        'f' | 'r' | 't' | 'I' | '(' | ')' | '[' | ']' | '-' | '/' | '|' => 0.44,
        'm' | 'w' | 'M' | 'W' | '@' | '%' | '…' | '→' => 1.01,
        'A'..='Z' | '▲' | '●' | '×' | '✕' | '✓' => 0.80,
        'a'..='z' | '0'..='9' | '_' | '–' | '=' | '+' | '#' => 0.64,
        _ => 1.05,
    };
    let sum: f64 = text.chars().map(letter).sum();
    sum * size * if is_bold { 1.12 } else { 1.0 }
}

/// As much of a text as fits, with an ellipsis if that is not all.
pub(crate) fn fit(text: &str, size: f64, is_bold: bool, room: f64) -> String {
    if width(text, size, is_bold) <= room {
        return text.to_owned();
    }
    let mut short = text.to_owned();
    while short.pop().is_some() {
        let candidate = format!("{}…", short.trim_end());
        if width(&candidate, size, is_bold) <= room {
            return candidate;
        }
    }
    String::new()
}
