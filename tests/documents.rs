//! Compares documents with what they describe: the table of attacks with the tests, the tree in
//! CONTRIBUTING with the folders, and the links of the README with the package. Each check is also
//! tried on a wrong document, so that a check that finds nothing fails.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "documents/attacks.rs"]
mod attacks;
#[path = "documents/parity.rs"]
mod parity;
#[path = "documents/tree.rs"]
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a file of the repository.
fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Fails if there are complaints.
#[track_caller]
fn holds(complaints: &[String]) {
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

/// Entries of a folder of the repository, sorted, without build output and without `.git`.
fn entries(folder: &Path) -> Vec<PathBuf> {
    const NOT_OURS: &[&str] = &["target", ".git", "corpus", "artifacts"];
    let all = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = all.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| !NOT_OURS.iter().any(|name| path.ends_with(name)));
    paths.sort();
    paths
}
