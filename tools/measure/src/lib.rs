//! Figures of benchmarks: interleaved rounds, medians, tables.
//!
//! The speed of a shared machine changes within seconds. [`interleaved`] makes the compared programs
//! take turns, so that a slow phase hits all of them; the [`median`] over rounds hides the phase.
//! [`Columns`] prints one line at a time, so that a long run shows its results so far.

/// The turns of a run: `(round, index)`. Every round takes each of `count` once, in an order that
/// rotates from round to round.
pub fn interleaved(rounds: usize, count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rounds).flat_map(move |round| (0..count).map(move |turn| (round, (round + turn) % count)))
}

/// The middle value, or the mean of the two in the middle; `None` without values.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// The smallest value with at least this part of all values at or below it; there is no interpolation.
/// `sorted` is in ascending order; `None` without values.
#[must_use]
pub fn percentile<T: Copy>(sorted: &[T], part: f64) -> Option<T> {
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[((sorted.len() as f64 * part) as usize).min(last)])
}

/// A figure with this many decimals; `-` if there is none.
#[must_use]
pub fn figure(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
}

/// As [`figure`], without zeros at the end: 5, 1.2, 0.25.
#[must_use]
pub fn short(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The width of a column, and its alignment.
#[derive(Clone, Copy, Debug)]
pub enum Column {
    /// Words: they begin at the left.
    Left(usize),
    /// Figures: they end at the right.
    Right(usize),
}

/// The columns of a table.
#[derive(Clone, Debug)]
pub struct Columns(Vec<Column>);

impl Columns {
    /// A table with these columns.
    #[must_use]
    pub fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        Self(columns.into_iter().collect())
    }

    /// One line, with its end. Cells beyond the last column have no width.
    #[must_use]
    pub fn line<C: AsRef<str>>(&self, cells: impl IntoIterator<Item = C>) -> String {
        let widths = self.0.iter().copied().chain(std::iter::repeat(Column::Left(0)));
        let mut line = String::new();
        for (cell, column) in cells.into_iter().zip(widths) {
            let cell = cell.as_ref();
            line += &match column {
                Column::Left(width) => format!("{cell:<width$}"),
                Column::Right(width) => format!("{cell:>width$}"),
            };
        }
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_takes_each_once_and_begins_with_another() {
        let turns: Vec<_> = interleaved(2, 3).collect();
        assert_eq!(turns, [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (1, 0)]);
        assert_eq!(interleaved(3, 0).count(), 0);
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), Some(2.5));
    }

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let all: Vec<u32> = (0..100).collect();
        assert_eq!(percentile(&all, 0.5), Some(50));
        assert_eq!(percentile(&all, 0.99), Some(99));
        assert_eq!(percentile(&all, 1.0), Some(99));
        assert_eq!(percentile::<u32>(&[], 0.5), None);
    }

    #[test]
    fn figures_are_as_long_as_they_say_something() {
        assert_eq!([figure(Some(1.25), 1), figure(None, 1)], ["1.2", "-"]);
        assert_eq!(figure(Some(300.4), 0), "300");
        let short = [(5.0, 1), (1.25, 2), (10.0, 0), (0.1234, 3)].map(|(v, d)| short(v, d));
        assert_eq!(short, ["5", "1.25", "10", "0.123"]);
    }

    #[test]
    fn a_line_keeps_its_columns() {
        let columns = Columns::new([Column::Left(6), Column::Right(5)]);
        assert_eq!(columns.line(["case", "ns", " end"]), "case     ns end\n");
        assert_eq!(columns.line(["a"]), "a     \n");
    }
}
