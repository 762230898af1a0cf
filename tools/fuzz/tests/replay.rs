//! Replays the corpus of every fuzz target, so that what fuzzing once found stays fixed.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};

/// Every cut of a file is a run; longer files are cut only up to here.
const CUTS: usize = 300;
/// Connections with a hostile peer in an ordinary test run: some seconds.
const RUNS: u64 = 2_000;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus")
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

/// Every file whole, and cut at every byte.
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

/// Bytes from a seed (splitmix64).
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let word = |n: u64| {
        let z = (seed ^ n << 32).wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31).to_le_bytes()
    };
    (1..).flat_map(word).take(len).collect()
}

/// Says how to repeat a run that failed.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "failed: repeat it with QUICLANE_FUZZ_RUNS=1 QUICLANE_FUZZ_SEED={} cargo test \
                 -p quiclane-fuzz-bodies fresh",
                self.0
            );
        }
    }
}

/// Connections with a peer that holds their keys, from another seed in every run. QUICLANE_FUZZ_RUNS
/// is their number, QUICLANE_FUZZ_SEED the first seed.
#[test]
fn fresh_inputs_of_an_authenticated_peer() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let fresh = || RandomState::new().hash_one(0u8) >> 16;
    let from = number("QUICLANE_FUZZ_SEED").unwrap_or_else(fresh);
    let runs = number("QUICLANE_FUZZ_RUNS").unwrap_or(RUNS);
    eprintln!("{runs} connections from seed {from}");
    for seed in from..from + runs {
        let _seed = Seed(seed);
        let len = 50 << (seed % 8);
        bodies::run("authenticated_peer", &noise(seed, len));
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
