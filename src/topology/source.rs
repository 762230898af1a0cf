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
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a captured tree has the kernel's answers, as JSON.
const ANSWERS: &str = "/quiclane/answers";

/// The most that is read of a file that a process has written about itself. That of a server with a
/// thousand workers has some 2 MB.
const OWN_TEXT_MAX_BYTES: u64 = 16 << 20;

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
        reading(path, self.raw_text(path))
    }

    /// The same of a file that a process has written about itself: it has to be of root, or of the user
    /// of the process. A captured tree says nothing of owners.
    pub(super) fn text_by_process(&self, path: impl AsRef<Path>, pid: u32) -> Reading<String> {
        let path = path.as_ref();
        reading(path, self.recorded_text(path, |path| own_text(path, user_of(pid)?)))
    }

    fn raw_text(&self, path: &Path) -> io::Result<String> {
        self.recorded_text(path, |path| fs::read_to_string(path))
    }

    fn recorded_text(
        &self,
        path: &Path,
        live: impl FnOnce(&Path) -> io::Result<String>,
    ) -> io::Result<String> {
        let text = match &self.captured {
            Some(tree) => tree.text(path),
            None => live(path),
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

fn reading(path: &Path, text: io::Result<String>) -> Reading<String> {
    match text {
        Ok(text) => Reading::Known(text.trim().to_owned()),
        Err(error) => Reading::unknown(format!("{}: {error}", path.display())),
    }
}

/// The user whose rights a process has. The owner of `/proc/PID` is another thing: of a process that
/// gained capabilities when it started, it is root.
fn user_of(pid: u32) -> io::Result<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    // Real, effective, saved, of the file system.
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let effective = users.and_then(|users| users.split_whitespace().nth(1)?.parse().ok());
    effective.ok_or_else(|| io::Error::other(format!("/proc/{pid}/status names no user")))
}

/// The text of a file of `user` or of root. Not through a link, which others may have put there, and
/// without waiting for the writer of a FIFO.
fn own_text(path: &Path, user: u32) -> io::Result<String> {
    let mut options = fs::OpenOptions::new();
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = options.read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    let refuse = |what: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    if !found.is_file() {
        return refuse("not a file".to_owned());
    }
    if found.uid() != 0 && found.uid() != user {
        return refuse(format!(
            "belongs to user {}, and its process to user {user}: not believed",
            found.uid()
        ));
    }
    let mut text = String::new();
    file.take(OWN_TEXT_MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > OWN_TEXT_MAX_BYTES {
        return refuse(format!("longer than {OWN_TEXT_MAX_BYTES} bytes: not believed"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{chown, symlink};
    use std::process::Command;

    #[test]
    fn a_file_of_another_user_is_not_believed() {
        let place = std::env::temp_dir().join(format!("quiclane-own-{}", std::process::id()));
        fs::create_dir_all(&place).unwrap();
        let [file, link, fifo, long] =
            ["file", "link", "fifo", "long"].map(|name| place.join(name));
        fs::write(&file, "x").unwrap();
        assert_eq!(own_text(&file, user_of(std::process::id()).unwrap()).unwrap(), "x");
        if fs::metadata(&file).unwrap().uid() == 0 {
            assert_eq!(own_text(&file, 1_234).unwrap(), "x", "root's is believed");
            chown(&file, Some(1_233), None).unwrap();
        }
        let owner = fs::metadata(&file).unwrap().uid();
        assert_eq!(own_text(&file, owner).unwrap(), "x");
        let error = own_text(&file, owner + 1).unwrap_err().to_string();
        assert!(error.contains(&format!("belongs to user {owner}")), "{error}");
        symlink(&file, &link).unwrap();
        assert!(own_text(&link, owner).is_err());
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let ours = fs::metadata(&fifo).unwrap().uid();
        assert!(own_text(&fifo, ours).unwrap_err().to_string().contains("not a file"));
        fs::File::create(&long).unwrap().set_len(OWN_TEXT_MAX_BYTES + 1).unwrap();
        assert!(own_text(&long, ours).unwrap_err().to_string().contains("longer than"));
        fs::remove_dir_all(&place).unwrap();
    }
}
