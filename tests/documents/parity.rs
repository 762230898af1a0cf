//! `src/exec/parity.md`: what others give their users, what does it here, and the tests that hold it.

use super::attacks::all_tests;
use super::{holds, text};
use std::collections::BTreeSet;

/// What a row says in place of a name of ours.
const ABSENT: &[&str] = &["Not yet", "No:"];
/// The text in place of tests where there are none.
const NO_TEST: &str = "None";

/// What is wrong with the tables, given the names of all tests.
fn check(document: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    for line in document.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, theirs, ours, named, _] = cells[..] else {
            complaints.push(format!("not three cells: {line}"));
            continue;
        };
        if named == "tests" {
            continue;
        }
        let is_absent = ABSENT.iter().any(|word| ours.starts_with(word));
        if theirs.is_empty() || ours.is_empty() || is_absent != (named == NO_TEST) {
            complaints.push(format!("{theirs}: ours and no test, or a test and nothing of ours"));
        }
        for name in named.split_whitespace().map(|word| word.trim_matches('`')) {
            if name != NO_TEST && !tests.contains(name) {
                complaints.push(format!("{theirs} names {name}, and there is no such test"));
            }
        }
    }
    complaints
}

#[test]
fn the_tables_of_parity_name_the_tests_that_are_there() {
    let document = text("src/exec/parity.md");
    assert!(document.lines().filter(|line| line.starts_with("| ")).count() > 50);
    holds(&check(&document, &all_tests()));
}

#[test]
fn what_is_wrong_with_a_table_is_said() {
    let tests = BTreeSet::from(["there".to_owned()]);
    let row =
        |row: &str| check(&format!("| theirs | here | tests |\n|---|---|---|\n{row}"), &tests);
    assert!(row("| A | `B` | `there` |").is_empty() && row("| A | Not yet. | None |").is_empty());
    for wrong in [
        "| A | `B` | `missing` |",
        "| A | `B` | None |",
        "| A | Not yet. | `there` |",
        "| A | | `there` |",
        "| A | `B` |",
    ] {
        assert_eq!(row(wrong).len(), 1, "{wrong}");
    }
}
