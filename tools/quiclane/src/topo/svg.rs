//! A [`Scene`] as SVG.

use super::scene::{Align, Area, Kind, Line, Point, Scene, Text, Tone, Wire};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// The colours of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Theme {
    /// Dark on white.
    Light,
    /// Light on black.
    Dark,
    /// As the screen of the reader is set.
    Auto,
}

type Color = [u8; 3];

/// The colours of a theme; all others are mixed from them.
struct Palette {
    paper: Color,
    ink: Color,
    dim: Color,
    crossing: Color,
    unknown: Color,
    /// Blue and green-blue differ for every kind of colour vision; further nodes follow.
    nodes: [Color; 6],
}

const LIGHT: Palette = Palette {
    paper: [0xff, 0xff, 0xff],
    ink: [0x1b, 0x1f, 0x24],
    dim: [0x59, 0x63, 0x6e],
    crossing: [0xcf, 0x1f, 0x2e],
    unknown: [0x6e, 0x77, 0x81],
    nodes: [
        [0x09, 0x5f, 0xc4],
        [0x14, 0x7d, 0x64],
        [0x7a, 0x48, 0xd6],
        [0x94, 0x62, 0x00],
        [0x0b, 0x72, 0x85],
        [0xa0, 0x38, 0x9b],
    ],
};

const DARK: Palette = Palette {
    paper: [0x0d, 0x11, 0x17],
    ink: [0xe6, 0xed, 0xf3],
    dim: [0x9d, 0xa5, 0xae],
    crossing: [0xff, 0x6b, 0x6b],
    unknown: [0x8b, 0x94, 0x9e],
    nodes: [
        [0x58, 0xa6, 0xff],
        [0x3f, 0xb9, 0x9a],
        [0xbc, 0x8c, 0xff],
        [0xd4, 0xa7, 0x2c],
        [0x39, 0xc5, 0xcf],
        [0xe0, 0x7a, 0xd8],
    ],
};

impl Palette {
    fn tone(&self, tone: Tone) -> Color {
        match tone {
            Tone::Node(at) => self.nodes[at % self.nodes.len()],
            Tone::Unknown => self.unknown,
            Tone::Crossing => self.crossing,
            Tone::Plain => self.ink,
            Tone::Dim => self.dim,
        }
    }

    /// `share` of a colour on the paper.
    fn mix(&self, color: Color, share: f64) -> String {
        let part = |at: usize| {
            let (color, paper) = (f64::from(color[at]), f64::from(self.paper[at]));
            (color * share + paper * (1.0 - share)).round() as u8
        };
        format!("#{:02x}{:02x}{:02x}", part(0), part(1), part(2))
    }
}

/// Writes the picture.
pub(crate) fn render(scene: &Scene, theme: Theme) -> String {
    let (width, height) = (number(scene.width), number(scene.height));
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\" aria-labelledby=\"title desc\">\n\
         <title id=\"title\">{}</title>\n<desc id=\"desc\">{}</desc>\n<style>\n{}</style>\n\
         <rect class=\"paper\" width=\"{width}\" height=\"{height}\"/>\n",
        escape(&scene.title),
        escape(&scene.description),
        style(scene, theme),
    );
    scene.areas.iter().for_each(|area| draw_area(&mut out, area));
    // Crossing lines are drawn last: nothing hides them.
    let (crossing, calm): (Vec<_>, Vec<_>) =
        scene.lines.iter().partition(|line| line.tone == Tone::Crossing);
    calm.into_iter().chain(crossing).for_each(|line| draw_line(&mut out, line));
    scene.lines.iter().filter_map(|line| line.mark).for_each(|mark| draw_mark(&mut out, mark));
    scene.texts.iter().for_each(|text| draw_text(&mut out, text));
    out.push_str("</svg>\n");
    out
}

fn style(scene: &Scene, theme: Theme) -> String {
    let areas = scene.areas.iter().map(|area| area.tone);
    let tones = areas.chain(scene.lines.iter().map(|line| line.tone));
    let tones: BTreeSet<usize> =
        tones.filter_map(|tone| if let Tone::Node(at) = tone { Some(at) } else { None }).collect();
    let rules = |palette: &Palette| colors(palette, &tones);
    let mut out = String::from(
        "text{font-family:system-ui,-apple-system,\"Segoe UI\",Roboto,\"Helvetica Neue\",Arial,\
         \"DejaVu Sans\",sans-serif;font-variant-numeric:tabular-nums}\n\
         .bold{font-weight:600}.end{text-anchor:end}\n\
         path{fill:none}.irq{stroke-width:1.2}.worker{stroke-width:2.6}\n\
         .x.irq{stroke-width:1.6;stroke-dasharray:6 3}.x.worker{stroke-dasharray:6 3}\n\
         .u.irq,.u.worker{stroke-dasharray:2 2.5}\n\
         .nic{stroke-width:1.6}.node.u,.nic.u{stroke-dasharray:6 4}\n",
    );
    match theme {
        Theme::Light => out += &rules(&LIGHT),
        Theme::Dark => out += &rules(&DARK),
        Theme::Auto => {
            let dark = rules(&DARK);
            out += &rules(&LIGHT);
            let _ = writeln!(out, "@media (prefers-color-scheme:dark){{\n{dark}}}");
        }
    }
    out
}

fn colors(palette: &Palette, nodes: &BTreeSet<usize>) -> String {
    let full = |tone: Tone| palette.mix(palette.tone(tone), 1.0);
    let mut out = format!(
        ".paper,.mark{{fill:{paper}}}text{{fill:{ink}}}text.d{{fill:{dim}}}text.x{{fill:{x}}}\
         text.u{{fill:{u}}}\n.mark{{stroke:{x};stroke-width:1.4}}\n",
        paper = palette.mix(palette.paper, 1.0),
        ink = full(Tone::Plain),
        dim = full(Tone::Dim),
        x = full(Tone::Crossing),
        u = full(Tone::Unknown),
    );
    let all = nodes.iter().map(|&at| Tone::Node(at)).chain([Tone::Unknown]);
    for tone in all {
        let color = palette.tone(tone);
        let mix = |share: f64| palette.mix(color, share);
        let _ = writeln!(
            out,
            ".node.{c}{{fill:{};stroke:{}}}.nic.{c}{{fill:{};stroke:{}}}.package.{c}{{fill:{};\
             stroke:{}}}.cache.{c}{{fill:{};stroke:{}}}.cpu.{c}{{fill:{};stroke:{}}}.busy.{c}\
             {{fill:{};stroke:{}}}.idle.{c}{{fill:{}}}.queue.{c}{{fill:{}}}",
            mix(0.09),
            mix(0.45),
            mix(0.02),
            mix(1.0),
            mix(0.15),
            mix(0.40),
            mix(0.06),
            mix(0.28),
            mix(0.02),
            mix(0.30),
            mix(0.24),
            mix(0.80),
            mix(0.60),
            mix(0.08),
            c = class(tone),
        );
    }
    for tone in nodes.iter().map(|&at| Tone::Node(at)).chain([Tone::Crossing, Tone::Unknown]) {
        let (c, color) = (class(tone), full(tone));
        let _ = writeln!(out, "path.{c}{{stroke:{color}}}circle.{c},polygon.{c}{{fill:{color}}}");
    }
    let faint = palette.mix(palette.ink, 0.14);
    let row = palette.mix(palette.ink, 0.05);
    let _ = writeln!(out, ".idle.d{{fill:{faint}}}.queue.d{{fill:{row}}}");
    out
}

fn class(tone: Tone) -> String {
    match tone {
        Tone::Node(at) => format!("n{at}"),
        Tone::Unknown => "u".to_owned(),
        Tone::Crossing => "x".to_owned(),
        Tone::Plain => String::new(),
        Tone::Dim => "d".to_owned(),
    }
}

fn draw_area(out: &mut String, area: &Area) {
    let (kind, radius, inset) = match area.kind {
        Kind::Node => ("node", 10.0, 0.0),
        Kind::Nic => ("nic", 8.0, 0.0),
        Kind::Queue => ("queue", 3.0, 1.0),
        Kind::Package => ("package", 7.0, 0.0),
        Kind::Cache => ("cache", 5.0, 0.0),
        Kind::Cpu => ("cpu", 3.0, 0.0),
        Kind::BusyCpu => ("busy", 3.0, 0.0),
        Kind::IdleCore => ("idle", 2.0, 0.0),
        // Its CPUs are drawn.
        Kind::Core => return,
    };
    let rect = area.rect;
    let _ = write!(
        out,
        "<rect class=\"{kind} {}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"{}\"",
        class(area.tone),
        number(rect.x),
        number(rect.y + inset),
        number(rect.width),
        number(rect.height - 2.0 * inset),
        number(radius),
    );
    close(out, "rect", &area.hint);
}

fn close(out: &mut String, element: &str, hint: &str) {
    if hint.is_empty() {
        out.push_str("/>\n");
    } else {
        let _ = writeln!(out, "><title>{}</title></{element}>", escape(hint));
    }
}

fn draw_line(out: &mut String, line: &Line) {
    let wire = if line.wire == Wire::Irq { "irq" } else { "worker" };
    let c = class(line.tone);
    let (from, to, reach) = (line.from, line.to, line.reach());
    let _ = write!(
        out,
        "<path class=\"{wire} {c}\" d=\"M{} {}C{} {} {} {} {} {}\"",
        number(from.x),
        number(from.y),
        number(from.x + reach),
        number(from.y),
        number(to.x - reach),
        number(to.y),
        number(to.x),
        number(to.y),
    );
    if !line.device.is_empty() {
        // For programs that read the picture.
        let queues: Vec<String> = line.queues.iter().map(u32::to_string).collect();
        let device = escape(&line.device);
        let _ = write!(out, " data-device=\"{device}\" data-queues=\"{}\"", queues.join(" "));
    }
    close(out, "path", &line.hint);
    let (x, y) = (number(from.x), number(from.y));
    let _ = writeln!(out, "<circle class=\"{c}\" cx=\"{x}\" cy=\"{y}\" r=\"2.2\"/>");
    if line.wire == Wire::Worker {
        let (x, y) = (number(to.x), number(to.y));
        let _ = writeln!(out, "<circle class=\"{c}\" cx=\"{x}\" cy=\"{y}\" r=\"3.4\"/>");
    } else {
        let (tip, back) = (number(to.x + 3.0), number(to.x - 4.0));
        let (high, y, low) = (number(to.y - 3.4), number(to.y), number(to.y + 3.4));
        let points = format!("{tip},{y} {back},{high} {back},{low}");
        let _ = writeln!(out, "<polygon class=\"{c}\" points=\"{points}\"/>");
    }
}

/// A cross in a circle: a crossing is known without its colour.
fn draw_mark(out: &mut String, at: Point) {
    let (x, y) = (number(at.x), number(at.y));
    let _ = writeln!(out, "<circle class=\"mark\" cx=\"{x}\" cy=\"{y}\" r=\"4.6\"/>");
    let (left, top) = (number(at.x - 2.0), number(at.y - 2.0));
    let _ = writeln!(out, "<path class=\"mark\" d=\"M{left} {top}l4 4m0-4l-4 4\"/>");
}

fn draw_text(out: &mut String, text: &Text) {
    let mut classes = class(text.tone);
    if text.is_bold {
        classes += " bold";
    }
    if text.align == Align::Right {
        classes += " end";
    }
    let classes = match classes.trim() {
        "" => String::new(),
        some => format!(" class=\"{some}\""),
    };
    let (x, y, size) = (number(text.at.x), number(text.at.y), number(text.size));
    let words = escape(&text.text);
    let _ = writeln!(out, "<text{classes} x=\"{x}\" y=\"{y}\" font-size=\"{size}\">{words}</text>");
}

/// One digit after the point, and none that is not needed.
fn number(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML has no other control characters.
            letter if letter.is_control() => out.push(' '),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_the_machine_cannot_break_out_of_their_text() {
        assert_eq!(escape("a<b>&\"c\u{1b}"), "a&lt;b&gt;&amp;&quot;c ");
        assert_eq!((number(3.0), number(2.25)), ("3".to_owned(), "2.2".to_owned()));
    }
}
