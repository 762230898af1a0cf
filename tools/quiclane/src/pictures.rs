//! The pictures of the README, below `tools/pictures`: drawn here from the machines of the tests, so
//! that they always show what the command draws. To change them:
//! `QUICLANE_PICTURES=write cargo test -p quiclane-tools --bin quiclane pictures`.

use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};
use std::fmt::Write as _;
use std::path::Path;

/// The most bytes of a picture.
const BYTES_MAX: usize = 60_000;

/// Compares a picture with the one that is kept, or writes it.
pub(crate) fn keep(name: &str, picture: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pictures").join(name);
    assert!(picture.len() < BYTES_MAX, "{name}: {} bytes", picture.len());
    if std::env::var_os("QUICLANE_PICTURES").is_some_and(|value| value == "write") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, picture).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == picture,
        "{} differs from what the command draws; \
         QUICLANE_PICTURES=write cargo test -p quiclane-tools --bin quiclane pictures",
        path.display()
    );
}

/// Colours of a terminal.
pub(crate) struct Terminal {
    paper: &'static str,
    ink: &'static str,
    dim: &'static str,
    red: &'static str,
    yellow: &'static str,
    /// Blue, green, magenta.
    nodes: [&'static str; 3],
}

pub(crate) const LIGHT: Terminal = Terminal {
    paper: "#ffffff",
    ink: "#1f2328",
    dim: "#6e7781",
    red: "#cf222e",
    yellow: "#7d4e00",
    nodes: ["#0550ae", "#116329", "#8250df"],
};

pub(crate) const DARK: Terminal = Terminal {
    paper: "#0d1117",
    ink: "#e6edf3",
    dim: "#8b949e",
    red: "#ff7b72",
    yellow: "#e3b341",
    nodes: ["#79c0ff", "#56d364", "#d2a8ff"],
};

impl Terminal {
    fn color(&self, color: Color, default: &str) -> String {
        let named = match color {
            Color::Red => self.red,
            Color::Yellow => self.yellow,
            Color::Blue => self.nodes[0],
            Color::Green => self.nodes[1],
            Color::Magenta => self.nodes[2],
            Color::Indexed(index) => return indexed(index),
            _ => default,
        };
        named.to_owned()
    }

    /// The colours of a cell: behind, and of its letter.
    fn colors(&self, cell: &Cell) -> (String, String) {
        let is_dim = cell.modifier.contains(Modifier::DIM);
        let ink = self.color(cell.fg, if is_dim { self.dim } else { self.ink });
        let paper = self.color(cell.bg, self.paper);
        if cell.modifier.contains(Modifier::REVERSED) { (ink, paper) } else { (paper, ink) }
    }
}

/// The 256 colours of xterm.
fn indexed(index: u8) -> String {
    if index >= 232 {
        let gray = 8 + 10 * (index - 232);
        return format!("#{gray:02x}{gray:02x}{gray:02x}");
    }
    let level = |part: u8| [0u8, 95, 135, 175, 215, 255][usize::from(part % 6)];
    let at = index.saturating_sub(16);
    format!("#{:02x}{:02x}{:02x}", level(at / 36), level(at / 6), level(at))
}

/// A screen as SVG.
pub(crate) fn terminal(buffer: &Buffer, title: &str, colors: &Terminal) -> String {
    const CELL: (u16, u16) = (8, 18);
    const EDGE: u16 = 12;
    let area = buffer.area;
    let (width, height) = (area.width * CELL.0 + 2 * EDGE, area.height * CELL.1 + 2 * EDGE);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\">\n<title>{title}</title>\n\
         <style>text{{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,\"DejaVu Sans Mono\",\
         monospace;white-space:pre}}.b{{font-weight:700}}</style>\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"{}\"/>\n",
        colors.paper
    );
    for y in 0..area.height {
        let row: Vec<&Cell> = (0..area.width).map(|x| &buffer[(x, y)]).collect();
        let mut x = 0;
        let same =
            |a: &&Cell, b: &&Cell| colors.colors(a) == colors.colors(b) && a.modifier == b.modifier;
        for run in row.chunk_by(same) {
            let columns = run.len() as u16;
            let (paper, ink) = colors.colors(run[0]);
            let (left, top) = (EDGE + x * CELL.0, EDGE + y * CELL.1);
            let wide = columns * CELL.0;
            if paper != colors.paper {
                let _ = writeln!(
                    out,
                    "<rect x=\"{left}\" y=\"{top}\" width=\"{wide}\" height=\"{}\" fill=\"{paper}\"/>",
                    CELL.1
                );
            }
            let text: String = run.iter().map(|cell| cell.symbol()).collect();
            let bold = run[0].modifier.contains(Modifier::BOLD);
            word(&mut out, &text, (left, top + 13), CELL.0, &ink, bold);
            x += columns;
        }
    }
    out + "</svg>\n"
}

/// A run of text, each word placed at its first letter.
fn word(out: &mut String, text: &str, at: (u16, u16), cell: u16, ink: &str, bold: bool) {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return;
    }
    let columns = trimmed.chars().count() as u16;
    let before = text.chars().take_while(|letter| *letter == ' ').count() as u16;
    let (x, y, wide) = (at.0 + before * cell, at.1, columns * cell);
    let class = if bold { " class=\"b\"" } else { "" };
    let words = trimmed.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        "<text{class} x=\"{x}\" y=\"{y}\" fill=\"{ink}\" textLength=\"{wide}\" \
         xml:space=\"preserve\">{words}</text>"
    );
}
