//! Where a machine is read from: a directory that stands for `/`.
//!
//! Everything passes through here: files by [`Source::text`] and its kin, and what only the
//! running kernel can answer by `Source::ask`. So a recording of a source ([`Source::recorded`])
//! holds all that was read, and can be written as a tree that gives the same answers.

use super::captured::Captured;
use super::live::Kernel;
use super::record::{Record, Recorder};
use super::{Machine, Nic, Reading, cpus, list, nics};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a captured tree has the kernel's answers, as JSON.
const ANSWERS: &str = "/quiclane/answers";

/// A tree of `/sys` and `/proc` files: of the running machine, or captured from another.
#[derive(Clone, Debug)]
pub struct Source {
    /// `None`: the machine that this process runs on.
    captured: Option<Arc<Captured>>,
    recorder: Option<Arc<Recorder>>,
    kernel: Arc<Kernel>,
}

impl Source {
    /// The machine that this process runs on. The kernel is asked in the network namespace of the
    /// thread that reads first; `/sys` shows that in which it was mounted.
    #[must_use]
    pub fn live() -> Self {
        Self { captured: None, recorder: None, kernel: Arc::default() }
    }

    /// The files below `root`. Links that lead out of it are not followed.
    pub fn captured(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        if root == Path::new("/") {
            return Self::live();
        }
        Self { captured: Some(Arc::new(Captured::directory(root))), ..Self::live() }
    }

    /// What was recorded of a machine, by path from `/`.
    #[must_use]
    pub fn records(records: BTreeMap<PathBuf, Record>) -> Self {
        Self { captured: Some(Arc::new(Captured::records(records))), ..Self::live() }
    }

    /// The same, and everything that is read is written down.
    #[must_use]
    pub fn recorded(self, recorder: Arc<Recorder>) -> Self {
        Self { recorder: Some(recorder), ..self }
    }

    /// True for the machine that this process runs on: libraries that can only look at that
    /// one may be asked as well.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.captured.is_none()
    }

    pub(super) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Reads all that placement needs.
    #[must_use]
    pub fn machine(&self) -> Machine {
        let (cpus, nodes) = cpus::read(self);
        Machine { cpus, nodes, nics: nics::read(self) }
    }

    /// The same with one device, if it is there.
    pub(super) fn machine_with(&self, device: &str) -> Machine {
        let (cpus, nodes) = cpus::read(self);
        Machine { cpus, nodes, nics: self.nic(device).into_iter().collect() }
    }

    pub(super) fn nic(&self, device: &str) -> Option<Nic> {
        nics::one(self, device)
    }

    /// The text of a file without the white space around it.
    pub(super) fn text(&self, path: impl AsRef<Path>) -> Reading<String> {
        let path = path.as_ref();
        match self.raw_text(path) {
            Ok(text) => Reading::Known(text.trim().to_owned()),
            Err(error) => Reading::unknown(format!("{}: {error}", path.display())),
        }
    }

    fn raw_text(&self, path: &Path) -> io::Result<String> {
        let text = match &self.captured {
            Some(tree) => tree.text(path),
            None => fs::read_to_string(path),
        };
        if let Some(recorder) = &self.recorder {
            recorder.file(path, &text);
        }
        text
    }

    /// Where a symbolic link leads, as it is written.
    pub(super) fn link_target(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        let path = path.as_ref();
        let target = match &self.captured {
            Some(tree) => tree.link_target(path),
            None => fs::read_link(path).ok(),
        }?;
        if let Some(recorder) = &self.recorder {
            recorder.link(path, &target);
        }
        Some(target)
    }

    /// True if there is something at `path`.
    pub(super) fn exists(&self, path: impl AsRef<Path>) -> bool {
        let path = path.as_ref();
        let is_directory = match &self.captured {
            Some(tree) => tree.presence(path),
            None => fs::metadata(path).ok().map(|metadata| metadata.is_dir()),
        };
        if let (Some(is_directory), Some(recorder)) = (is_directory, &self.recorder) {
            recorder.presence(path, is_directory);
        }
        is_directory.is_some()
    }

    /// What the running kernel answers to a question called `name`, or what it answered when the
    /// tree was captured.
    pub(super) fn ask<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        live: impl FnOnce() -> Reading<T>,
    ) -> Reading<T> {
        if !self.is_live() {
            return self.captured_answer(name);
        }
        let answer = live();
        if let Some(recorder) = &self.recorder {
            recorder.answer(&format!("{ANSWERS}/{name}.json"), &answer);
        }
        answer
    }

    fn captured_answer<T: DeserializeOwned>(&self, name: &str) -> Reading<T> {
        let path = format!("{ANSWERS}/{name}.json");
        let text = match self.raw_text(Path::new(&path)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Reading::unknown(format!("the captured tree has no answer {name}"));
            }
            Err(error) => return Reading::unknown(format!("{path}: {error}")),
        };
        serde_json::from_str(&text)
            .unwrap_or_else(|error| Reading::unknown(format!("{path}: {error}")))
    }

    /// A file that holds one number.
    pub(super) fn number(&self, path: impl AsRef<Path>) -> Reading<u32> {
        self.parsed(path, |text| text.parse().ok())
    }

    /// A file that holds a list like `0-3,8`.
    pub(super) fn list(&self, path: impl AsRef<Path>) -> Reading<Vec<u32>> {
        self.parsed(path, list::parse)
    }

    pub(super) fn parsed<T>(
        &self,
        path: impl AsRef<Path>,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Reading<T> {
        let path = path.as_ref();
        match self.text(path) {
            Reading::Unknown(reason) => Reading::Unknown(reason),
            Reading::Known(text) => match parse(&text) {
                Some(value) => Reading::Known(value),
                None => Reading::unknown(format!("{} reads {text:?}", path.display())),
            },
        }
    }

    /// The names in a directory, sorted; empty if it cannot be read.
    pub(super) fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let path = path.as_ref();
        let Some(names) = self.names_there(path) else { return Vec::new() };
        let mut names: Vec<String> =
            names.into_iter().filter_map(|name| name.into_string().ok()).collect();
        names.sort();
        if let Some(recorder) = &self.recorder {
            recorder.directory(path, &names);
        }
        names
    }

    fn names_there(&self, path: &Path) -> Option<Vec<OsString>> {
        if let Some(tree) = &self.captured {
            return tree.names(path);
        }
        let entries = fs::read_dir(path).ok()?;
        Some(entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect())
    }

    /// The numbers N of the entries called `prefixN` in a directory, ascending.
    pub(super) fn numbered(&self, path: impl AsRef<Path>, prefix: &str) -> Vec<u32> {
        let names = self.names(path);
        let mut numbers: Vec<u32> =
            names.iter().filter_map(|name| name.strip_prefix(prefix)?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    }
}
