//! Holds documents against what they speak of: the table of attacks against the tests, the tree in
//! CONTRIBUTING against the folders, and the links of the README against the package. Each check is
//! tried on a document that is wrong, so that it cannot fall asleep.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "documents/attacks.rs"]
mod attacks;
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

/// Entries of a folder of the repository, sorted; what is built, and what Git keeps, is not.
fn entries(folder: &Path) -> Vec<PathBuf> {
    const NOT_OURS: &[&str] = &["target", ".git", "corpus", "artifacts"];
    let all = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = all.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| !NOT_OURS.iter().any(|name| path.ends_with(name)));
    paths.sort();
    paths
}
