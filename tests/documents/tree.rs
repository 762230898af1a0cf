//! What documents say about the files of the repository: the tree in CONTRIBUTING, and links.

use super::{entries, holds, root, text};
use std::collections::BTreeSet;
use std::process::Command;

/// The heading above the tree.
const HEADING: &str = "## The tree";
/// Folders whose entries, files too, are all in the tree.
const DRAWN_WHOLE: &[&str] = &["src", "tools"];
/// Documents whose links are checked.
const DOCUMENTS: &[&str] =
    &["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "tests/ATTACKS.md"];

/// The paths of the tree below [`HEADING`]; folders end with `/`. A line begins with one or more names,
/// which two spaces end. Two spaces in front of a line put it into the folder above.
fn drawn(document: &str) -> BTreeSet<String> {
    let block = document.split_once(HEADING).and_then(|(_, rest)| rest.split("```").nth(1));
    let mut folder = String::new();
    let mut paths = BTreeSet::new();
    for line in block.unwrap_or_default().lines().skip(1) {
        let inside = line.starts_with("  ");
        let names = line.trim_start().split("  ").next().unwrap_or_default();
        for name in names.split(' ').filter(|name| !name.is_empty()) {
            let path = if inside { format!("{folder}{name}") } else { name.to_owned() };
            if !inside && name.ends_with('/') {
                folder.clone_from(&path);
            }
            paths.insert(path);
        }
    }
    paths
}

/// What is wrong with a tree, given the paths of the repository.
fn check(drawn: &BTreeSet<String>, there: &BTreeSet<String>) -> Vec<String> {
    let is_whole = |path: &str| DRAWN_WHOLE.iter().any(|f| path.starts_with(&format!("{f}/")));
    let wanted = |path: &&String| path.ends_with('/') || is_whole(path);
    let missing = there.iter().filter(wanted).filter(|path| !drawn.contains(*path));
    let gone = drawn.iter().filter(|path| !there.contains(*path));
    missing
        .map(|path| format!("{path} is there, and not in the tree of CONTRIBUTING.md"))
        .chain(gone.map(|path| format!("{path} is in the tree of CONTRIBUTING.md, and not there")))
        .collect()
}

/// Entries of the repository, and of the folders that are drawn whole.
fn there() -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for folder in [""].iter().chain(DRAWN_WHOLE) {
        for entry in entries(&root().join(folder)) {
            let inside = entry.strip_prefix(root()).unwrap().to_str().unwrap();
            paths.insert(format!("{inside}{}", if entry.is_dir() { "/" } else { "" }));
        }
    }
    paths
}

/// Targets of the links and pictures of a document that lead into the repository.
fn links(document: &str) -> Vec<&str> {
    let ends = [("](", ')'), ("src=\"", '"'), ("srcset=\"", '"')];
    let mut found = Vec::new();
    for (begin, end) in ends {
        for (at, _) in document.match_indices(begin) {
            let rest = &document[at + begin.len()..];
            let target = rest.split(end).next().unwrap_or_default();
            if !target.contains("://") && !target.starts_with('#') {
                found.push(target.split('#').next().unwrap_or_default());
            }
        }
    }
    found
}

#[test]
fn the_tree_in_contributing_is_the_tree_that_is_there() {
    let drawn = drawn(&text("CONTRIBUTING.md"));
    assert!(drawn.len() > 20, "{drawn:?}");
    holds(&check(&drawn, &there()));
}

#[test]
fn a_tree_that_is_wrong_is_found() {
    let document =
        "## The tree\n\n```text\nREADME.md EXTRA  words\nsrc/  code\n  lib.rs a/  all\n```\n";
    let right: BTreeSet<_> =
        ["README.md", "EXTRA", "src/", "src/lib.rs", "src/a/"].map(str::to_owned).into();
    assert_eq!(drawn(document), right);
    assert_eq!(check(&right, &right), Vec::<String>::new());
    for path in &right {
        let mut other = right.clone();
        other.remove(path);
        let gone = check(&right, &other);
        assert!(gone.len() == 1 && gone[0].contains("and not there"), "{gone:?}");
        // A file in the top folder need not be drawn.
        let missing = check(&other, &right);
        assert_eq!(missing.len(), usize::from(path.contains('/')), "{missing:?}");
    }
}

#[test]
fn links_lead_to_files() {
    let mut complaints = Vec::new();
    let mut count = 0;
    for name in DOCUMENTS {
        let document = text(name);
        for target in links(&document) {
            count += 1;
            if !root().join(name).with_file_name(target).exists() {
                complaints.push(format!("{name}: {target} is not there"));
            }
        }
    }
    assert!(count > 10, "only {count} links");
    holds(&complaints);
    assert_eq!(links("[a](b.md#c) [d](https://e) <img src=\"f\"> [g](#h)"), ["b.md", "f"]);
}

/// Paths of the repository that a document names in backticks.
fn named_paths(document: &str) -> impl Iterator<Item = &str> {
    let is_path = |word: &&str| {
        let folder = word.split('/').next().unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || "/_.-".contains(c);
        ["src", "tests", "tools", "bpf", "examples", ".ci"].contains(&folder)
            && word.contains('/')
            && word.chars().all(plain)
    };
    // Every second piece is between backticks; a command may begin with the path of a script.
    let code = document.split('`').skip(1).step_by(2);
    code.filter_map(|code| code.split_whitespace().next()).filter(is_path)
}

#[test]
fn paths_that_documents_name_are_there() {
    let mut complaints = Vec::new();
    for name in DOCUMENTS {
        for path in named_paths(&text(name).replace("```", "")) {
            if !root().join(path).exists() {
                complaints.push(format!("{name}: {path} is not there"));
            }
        }
    }
    holds(&complaints);
    let found: Vec<_> = named_paths("`src/a.rs` src/b `tools/c --d` `e/f` `x` `src/*`").collect();
    assert_eq!(found, ["src/a.rs", "tools/c"]);
}

/// Words of the first column of the table below a heading.
fn words_below<'a>(document: &'a str, heading: &str) -> Vec<&'a str> {
    let below = document.split_once(heading).map_or("", |(_, rest)| rest);
    let rows = below.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    rows.skip(1).flat_map(|cell| cell.split(", ")).collect()
}

#[test]
fn words_of_the_glossary_are_words_of_the_sources() {
    fn collect(path: &std::path::Path, all: &mut String) {
        if path.is_dir() {
            entries(path).iter().for_each(|entry| collect(entry, all));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *all += &std::fs::read_to_string(path).unwrap().to_lowercase();
        }
    }
    let mut sources = String::new();
    ["src", "tools"].iter().for_each(|place| collect(&root().join(place), &mut sources));
    let contributing = text("CONTRIBUTING.md");
    let words = words_below(&contributing, "## Glossary");
    assert!(words.len() > 15 && words.contains(&"lane"), "{words:?}");
    let known: BTreeSet<_> = sources.split(|c: char| !c.is_alphanumeric()).collect();
    let is_said = |word: &str| match word.contains([' ', '-']) {
        true => sources.contains(word),
        false => known.contains(word),
    };
    let gone = words.iter().filter(|word| !is_said(word));
    holds(&gone.map(|word| format!("no source says {word:?} any more")).collect::<Vec<_>>());
}

/// The files of the package of the library.
fn package() -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["package", "--list", "--allow-dirty", "--offline", "--package", "quiclane"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let list = String::from_utf8(output.stdout).unwrap();
    let files: BTreeSet<_> = list.lines().map(str::to_owned).collect();
    assert!(files.contains("src/lib.rs") && files.contains("bpf/steer.bpf.c"), "{files:?}");
    files
}

#[test]
fn links_of_the_readme_lead_into_the_package() {
    let (files, readme) = (package(), text("README.md"));
    let gone = links(&readme).into_iter().filter(|target| !files.contains(*target));
    holds(&gone.map(|t| format!("README.md: {t} is not in the package")).collect::<Vec<_>>());
}

/// The files that a source includes as text or bytes, relative to it.
fn included(source: &str) -> impl Iterator<Item = &str> {
    ["include_str!(\"", "include_bytes!(\""]
        .into_iter()
        .flat_map(|call| source.split(call).skip(1).filter_map(|rest| rest.split('"').next()))
}

#[test]
fn what_a_source_of_the_package_includes_is_in_the_package() {
    let files = package();
    let (mut complaints, mut count) = (Vec::new(), 0);
    for name in files.iter().filter(|name| name.ends_with(".rs")) {
        let source = text(name);
        for target in included(&source) {
            count += 1;
            let path = root().join(name).with_file_name(target).canonicalize().unwrap();
            let path = path.strip_prefix(root()).unwrap().to_str().unwrap();
            if !files.contains(path) {
                complaints.push(format!("{name}: {path} is not in the package"));
            }
        }
    }
    assert!(count > 2, "only {count} files");
    holds(&complaints);
    assert_eq!(included("include_str!(\"a\") include_bytes!(\"../b\")").count(), 2);
}
