//! Replays the corpus of every fuzz target, so that what fuzzing once found stays fixed.

#[path = "fuzz/src/bodies.rs"]
pub mod bodies;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Cutting a file short costs a run for each byte; longer files are cut here only.
const CUTS: usize = 300;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus")
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let list = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect()
    };
    let mut paths = list().unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    paths.sort();
    paths
}

/// Names the file that a body failed on.
struct Blame<'a>(&'a Path, usize);

impl Drop for Blame<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed on {}, cut to {} bytes", self.0.display(), self.1);
        }
    }
}

/// Every file as it is, and cut short everywhere.
#[test]
fn every_corpus_file_replays() {
    for (name, _) in bodies::TARGETS {
        let files = entries(&corpus().join(name));
        assert!(files.len() >= 5, "the corpus of {name} has only {} files", files.len());
        for path in files {
            let data = fs::read(&path).unwrap();
            let cuts = (0..data.len().min(CUTS)).chain([data.len()]);
            for cut in cuts {
                let _blame = Blame(&path, cut);
                bodies::run(name, &data[..cut]);
            }
        }
    }
}

#[test]
fn every_corpus_has_a_target_and_a_bin() {
    let known: BTreeSet<String> =
        bodies::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let names = |directory: &Path| -> BTreeSet<String> {
        let stem = |path: PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
        entries(directory).into_iter().map(stem).collect()
    };
    assert_eq!(names(&corpus()), known);
    assert_eq!(names(&corpus().with_file_name("targets")), known);
}
