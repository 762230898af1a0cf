//! Writes down everything that was read of a machine, as a tree that stands for it.

use super::Reading;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What one path of the tree holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A file with this text.
    File(String),
    /// A symbolic link with this target, as it is written.
    Link(PathBuf),
    /// A directory.
    Directory,
}

/// What was read through a [`Source`](super::Source), path by path.
#[derive(Debug, Default)]
pub struct Recorder {
    records: Mutex<BTreeMap<PathBuf, Record>>,
}

impl Recorder {
    /// Everything that was read so far, by path from `/`.
    #[must_use]
    pub fn records(&self) -> BTreeMap<PathBuf, Record> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, path: &Path, record: Record) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let known = records.entry(path.to_path_buf()).or_insert(Record::Directory);
        // That something is there is the least that is known of it.
        if record != Record::Directory {
            *known = record;
        }
    }

    /// A file that cannot be read is not in the tree, and cannot be read from it either.
    pub(super) fn file(&self, path: &Path, text: &io::Result<String>) {
        if let Ok(text) = text {
            self.put(path, Record::File(text.clone()));
        }
    }

    pub(super) fn link(&self, path: &Path, target: &Path) {
        self.put(path, Record::Link(target.to_path_buf()));
    }

    pub(super) fn presence(&self, path: &Path, is_directory: bool) {
        let record = if is_directory { Record::Directory } else { Record::File(String::new()) };
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.entry(path.to_path_buf()).or_insert(record);
    }

    pub(super) fn directory(&self, path: &Path, names: &[String]) {
        self.put(path, Record::Directory);
        for name in names {
            let child = path.join(name);
            let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            records.entry(child).or_insert(Record::Directory);
        }
    }

    pub(super) fn answer<T: Serialize>(&self, path: &str, answer: &Reading<T>) {
        // Plain values: there is nothing in them that JSON cannot hold.
        if let Ok(text) = serde_json::to_string_pretty(answer) {
            self.put(Path::new(path), Record::File(text + "\n"));
        }
    }
}
