//! `tests/ATTACKS.md`: one row for each attack, with its tests.

use super::{entries, holds, root, text};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The rows of the table: attacks that need an answer.
const ROWS: usize = 77;
/// Where tests are.
const PLACES: &[&str] = &["src", "tests", "tools"];
/// The text in place of tests where there are none.
const NO_TEST: &str = "None";

/// A line of the table.
struct Row<'a> {
    number: usize,
    attack: &'a str,
    answer: &'a str,
    tests: &'a str,
}

/// The rows of a document: lines of four cells whose first is a number.
fn rows(document: &str) -> Vec<Row<'_>> {
    let row = |line| {
        let cells: Vec<&str> = str::split(line, '|').map(str::trim).collect();
        let [_, number, attack, answer, tests, _] = cells[..] else { return None };
        Some(Row { number: number.parse().ok()?, attack, answer, tests })
    };
    document.lines().filter_map(row).collect()
}

/// The row that a test is named after: 7 for `attack_07_...`.
fn row_of(test: &str) -> Option<usize> {
    test.strip_prefix("attack_")?.split_once('_')?.0.parse().ok()
}

/// What is wrong with a table, given the names of all tests.
fn check(document: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let rows = rows(document);
    let mut complaints = Vec::new();
    let numbers: Vec<_> = rows.iter().map(|row| row.number).collect();
    for number in 1..=ROWS {
        match numbers.iter().filter(|n| **n == number).count() {
            1 => {}
            0 => complaints.push(format!("row {number} is missing")),
            count => complaints.push(format!("row {number} is there {count} times")),
        }
    }
    let mut named = BTreeSet::new();
    for row in &rows {
        let number = row.number;
        if !(1..=ROWS).contains(&number) {
            complaints.push(format!("row {number} is none of 1 to {ROWS}"));
        }
        if row.attack.is_empty() || row.answer.is_empty() {
            complaints.push(format!("row {number} has no attack or no answer"));
        }
        if row.tests == NO_TEST {
            continue;
        }
        if row.tests.is_empty() {
            complaints.push(format!("row {number} names no test, and does not say `{NO_TEST}`"));
        }
        for word in row.tests.split_whitespace() {
            let name = word.trim_matches('`');
            named.insert((number, name));
            if !tests.contains(name) {
                complaints.push(format!("row {number} names {name}, and there is no such test"));
            }
            if row_of(name).is_some_and(|of| of != number) {
                complaints.push(format!("row {number} names {name}, a test of another row"));
            }
        }
    }
    for test in tests {
        if let Some(number) = row_of(test)
            && !named.contains(&(number, test))
        {
            complaints.push(format!("{test} is not named in row {number}"));
        }
    }
    complaints
}

/// Names of the tests in a source.
fn tests_of(source: &str) -> impl Iterator<Item = &str> {
    let mut is_test = false;
    source.lines().filter_map(move |line| {
        let line = line.trim_start();
        if line == "#[test]" {
            is_test = true;
        }
        let name = line.strip_prefix("fn ")?;
        let end = name.find(|c: char| !c.is_alphanumeric() && c != '_')?;
        std::mem::take(&mut is_test).then_some(&name[..end])
    })
}

fn collect(path: &Path, tests: &mut BTreeSet<String>) {
    if path.is_dir() {
        entries(path).iter().for_each(|entry| collect(entry, tests));
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        let source = fs::read_to_string(path).unwrap();
        tests.extend(tests_of(&source).map(str::to_owned));
    }
}

/// The names of all tests.
pub(super) fn all_tests() -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    PLACES.iter().for_each(|place| collect(&root().join(place), &mut tests));
    tests
}

#[test]
fn the_table_of_attacks_names_the_tests_that_are_there() {
    let tests = all_tests();
    let attacks = tests.iter().filter(|test| row_of(test).is_some()).count();
    assert!(tests.len() > 500 && attacks > 100, "only {attacks} of {} found", tests.len());
    holds(&check(&text("tests/ATTACKS.md"), &tests));
}

/// A table that is right, and its tests.
fn right() -> (String, BTreeSet<String>) {
    let tests = ["attack_01_a", "attack_01_b", "attack_77_c", "another"].map(str::to_owned);
    let mut table = "| row | attack | answer | tests |\n|---:|---|---|---|\n".to_owned();
    for number in 1..=ROWS {
        let tests = match number {
            1 => "`attack_01_a` `attack_01_b`",
            2 => "`another`",
            ROWS => "`attack_77_c`",
            _ => NO_TEST,
        };
        table += &format!("| {number} | sent | dropped | {tests} |\n");
    }
    (table, tests.into())
}

/// Changes the right table in one place: a complaint says `part`.
#[track_caller]
fn objects(from: &str, to: &str, part: &str) {
    let (table, tests) = right();
    assert!(table.contains(from), "{from}");
    let said = check(&table.replacen(from, to, 1), &tests);
    assert!(said.iter().any(|complaint| complaint.contains(part)), "{said:?}");
}

#[test]
fn a_table_that_is_wrong_is_found() {
    let (table, mut tests) = right();
    assert_eq!(check(&table, &tests), Vec::<String>::new());
    objects("| 7 | sent | dropped | None |\n", "", "row 7 is missing");
    objects("| 7 |", "| 8 |", "row 7 is missing");
    objects("| 77 | sent", "| 78 | sent", "attack_77_c is not named in row 77");
    objects("| 9 | sent | dropped", "| 9 | sent |  ", "row 9 has no attack or no answer");
    objects("| 9 | sent | dropped | None", "| 9 | sent | dropped | ", "row 9 names no test");
    objects("`another`", "`elsewhere`", "row 2 names elsewhere, and there is no such test");
    objects("`attack_01_b`", "", "attack_01_b is not named in row 1");
    objects("`another`", "`another` `attack_01_a`", "a test of another row");
    objects("| 3 | sent | dropped | None |\n", "| 3 | sent | None |\n", "row 3 is missing");
    tests.insert("attack_78_d".to_owned());
    assert_eq!(check(&table, &tests), ["attack_78_d is not named in row 78"]);
}

#[test]
fn tests_are_told_from_other_functions() {
    let source =
        "#[test]\n#[should_panic]\nfn a_test() {}\nfn helper() {}\n    #[test]\n    fn b() {}";
    assert_eq!(tests_of(source).collect::<Vec<_>>(), ["a_test", "b"]);
    assert_eq!(row_of("attack_07_of_seven"), Some(7));
    assert_eq!((row_of("attack_ranges"), row_of("an_attack_07_x")), (None, None));
}
