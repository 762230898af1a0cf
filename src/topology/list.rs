//! The kernel's way to write sets of numbers: `0-3,8,10-11`.

use std::collections::BTreeSet;

/// More CPUs than any machine has: a captured file cannot make us allocate without end.
const NUMBERS_MAX: u32 = 1 << 16;

/// The numbers in such a list, ascending, each once. An empty text is an empty list; `None` if it is
/// not a list.
pub(super) fn parse(text: &str) -> Option<Vec<u32>> {
    let mut numbers = BTreeSet::new();
    for range in text.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last >= NUMBERS_MAX {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers.into_iter().collect())
}

/// Writes a set of numbers so.
///
/// ```
/// use quiclane::topology::list;
/// assert_eq!(list::format([8, 0, 1, 2, 1]), "0-2,8");
/// assert_eq!(list::format([]), "");
/// ```
#[must_use]
pub fn format(numbers: impl IntoIterator<Item = u32>) -> String {
    let numbers: Vec<u32> = numbers.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    let runs = numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b));
    let written = |run: &[u32]| match run {
        [one] => one.to_string(),
        _ => format!("{}-{}", run[0], run[run.len() - 1]),
    };
    runs.map(written).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_kernel_are_read() {
        assert_eq!(parse("0-3,8,10-11"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(parse(""), Some(vec![]));
        assert_eq!(parse("7,1"), Some(vec![1, 7]));
        for wrong in ["a", "1-", "-1", "0-4294967295", "0x3"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_written_is_read_as_it_was() {
        for text in ["", "7", "0-3,8,10-11", "0-1,3"] {
            assert_eq!(format(parse(text).unwrap()), text);
        }
        assert_eq!(format([3, 1, 0, 2, 7, 8, 1]), "0-3,7-8");
        assert_eq!(format([u32::MAX, 0]), "0,4294967295");
    }
}
