//! Tables for people: aligned columns without frames, which grep and awk read as well.

use super::{Unknowns, has_color};
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use quiclane::topology::list;
use std::collections::BTreeMap;
use std::fmt::Display;

/// The sign for a value that could not be read.
pub(crate) const UNKNOWN: &str = "?";
/// The sign for nothing.
pub(crate) const NONE: &str = "-";

/// A cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    text: String,
    color: Option<Color>,
}

impl Shown {
    /// Text in red, with a `!` for those who see no colour.
    pub(crate) fn alarm(text: impl Display) -> Self {
        Self { text: format!("{text}!"), color: Some(Color::Red) }
    }

    /// Text in yellow.
    pub(crate) fn doubt(text: impl Display) -> Self {
        Self { text: text.to_string(), color: Some(Color::Yellow) }
    }

    /// A value, or a `?`.
    pub(crate) fn known<T: Display>(value: Option<T>) -> Self {
        value.map_or_else(|| Self::doubt(UNKNOWN), |value| value.to_string().into())
    }
}

impl<T: Into<String>> From<T> for Shown {
    fn from(text: T) -> Self {
        Self { text: text.into(), color: None }
    }
}

/// The alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// A table to be printed.
#[derive(Debug)]
pub(crate) struct Sheet {
    columns: Vec<(&'static str, Side)>,
    rows: Vec<Vec<Shown>>,
    hides_unknown: bool,
}

impl Sheet {
    pub(crate) fn new(columns: &[(&'static str, Side)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new(), hides_unknown: false }
    }

    /// Leaves out columns in which nothing is known; the reasons are below the table.
    pub(crate) const fn without_unknown_columns(mut self) -> Self {
        self.hides_unknown = true;
        self
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [Shown; N]) {
        self.rows.push(cells.into());
    }

    /// The text. Empty columns are left out.
    pub(crate) fn render(&self) -> String {
        let is_all = |at: usize, text: &str| {
            self.rows.iter().all(|row| row.get(at).is_none_or(|cell| cell.text == text))
        };
        let is_left_out = |at: usize| is_all(at, NONE) || self.hides_unknown && is_all(at, UNKNOWN);
        let columns = 0..self.columns.len();
        let kept: Vec<usize> = columns.filter(|&at| !is_left_out(at)).collect();
        let color = has_color();
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(kept.iter().map(|&at| self.columns[at].0));
        for row in &self.rows {
            table.add_row(kept.iter().filter_map(|&at| row.get(at)).map(|shown| {
                let cell = Cell::new(&shown.text);
                match shown.color.filter(|_| color) {
                    Some(paint) => cell.fg(paint),
                    None => cell,
                }
            }));
        }
        for (column, &at) in table.column_iter_mut().zip(&kept) {
            column.set_padding((0, 2));
            if self.columns[at].1 == Side::Right {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
        lines.collect()
    }
}

/// A list as the kernel writes it, or a dash.
pub(crate) fn ranges(numbers: &[u32]) -> String {
    if numbers.is_empty() { NONE.to_owned() } else { list::format(numbers.iter().copied()) }
}

/// A count of `what`, in the plural unless it is one.
pub(crate) fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// Breaks a text at spaces into lines of `width` characters at most; every line but the first is
/// indented by `indent` more. A word that is longer stands alone.
pub(crate) fn wrap(text: &str, width: usize, indent: usize) -> String {
    let (mut out, mut line) = (String::new(), 0);
    for word in text.split(' ') {
        let length = word.chars().count();
        if line > 0 && line + 1 + length > width {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            line = 0;
        } else if line > 0 {
            out.push(' ');
            line += 1;
        }
        out.push_str(word);
        line += length;
    }
    out
}

/// The reasons for what is unknown, each once: `? irq, node (q0-3): why`.
pub(crate) fn reasons<'a>(rows: impl Iterator<Item = (&'a str, &'a Unknowns)>) -> String {
    let mut by_reason: BTreeMap<&str, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
    let mut total = 0;
    for (row, unknowns) in rows {
        total += 1;
        for (field, reason) in &unknowns.0 {
            let (fields, whose) = by_reason.entry(reason).or_default();
            for (list, value) in [(fields, field.as_str()), (whose, row)] {
                if !list.contains(&value) {
                    list.push(value);
                }
            }
        }
    }
    let mut text = String::new();
    for (reason, (fields, whose)) in by_reason {
        let whose = match whose.len() {
            all if all == total => String::new(),
            1..=4 => format!(" ({})", whose.join(", ")),
            many => format!(" ({many} rows)"),
        };
        text += &format!("? {}{whose}: {reason}\n", fields.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_folded_as_the_kernel_does() {
        assert_eq!(ranges(&[0, 1, 2, 3, 8, 10, 11]), "0-3,8,10-11");
        assert_eq!((count(1, "IRQ"), count(2, "IRQ")), ("1 IRQ".into(), "2 IRQs".into()));
        assert_eq!(ranges(&[]), NONE);
    }

    #[test]
    fn columns_in_which_nothing_stands_are_left_out() {
        let mut sheet =
            Sheet::new(&[("queue", Side::Right), ("rps", Side::Left), ("cpu", Side::Right)]);
        sheet.row(["0".into(), NONE.into(), "12".into()]);
        sheet.row(["10".into(), NONE.into(), Shown::known::<u32>(None)]);
        assert_eq!(sheet.render(), "queue  cpu\n    0   12\n   10    ?\n");
        let mut sheet = Sheet::new(&[("queue", Side::Right), ("irq", Side::Right)]);
        sheet.row(["0".into(), Shown::known::<u32>(None)]);
        assert_eq!(sheet.render(), "queue  irq\n    0    ?\n");
        assert_eq!(sheet.without_unknown_columns().render(), "queue\n    0\n");
    }

    #[test]
    fn a_reason_stands_once() {
        let unknown = |fields: &[&str]| {
            let entries = fields.iter().map(|field| ((*field).to_owned(), "why".to_owned()));
            Unknowns(entries.collect())
        };
        let (a, b) = (unknown(&["irq", "node"]), unknown(&["irq"]));
        assert_eq!(reasons([("q0", &a), ("q1", &b)].into_iter()), "? irq, node: why\n");
        let none = unknown(&[]);
        assert_eq!(reasons([("q0", &b), ("q1", &none)].into_iter()), "? irq (q0): why\n");
    }
}
