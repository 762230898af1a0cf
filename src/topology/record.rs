//! Writes down everything that was read of a machine, as a tree that stands for it.

use super::Reading;
use super::captured::Captured;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where a tree says which files could not be read when it was made, and why.
pub(super) const REFUSED: &str = "/quiclane/refused.json";

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
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    records: BTreeMap<PathBuf, Record>,
    /// Files that are there and could not be read, with the reason.
    refused: BTreeMap<PathBuf, String>,
}

impl Recorder {
    /// Everything that was read so far, by path from `/`: no path leads through a link.
    #[must_use]
    pub fn records(&self) -> BTreeMap<PathBuf, Record> {
        let (read, refused) = {
            let seen = self.seen();
            (seen.records.clone(), seen.refused.clone())
        };
        let is_link = |(_, record): &(&PathBuf, &Record)| matches!(record, Record::Link(_));
        let links = read.iter().filter(is_link).map(|(path, link)| (path.clone(), link.clone()));
        let links = Captured::records(links.collect());
        let mut records = BTreeMap::new();
        for (path, record) in read {
            let at = links.place_of(&path).unwrap_or(path);
            put(&mut records, at, record);
        }
        // A link that leads where we cannot follow, and that something was read through.
        let parents: Vec<PathBuf> =
            records.keys().flat_map(|path| path.ancestors().skip(1)).map(Path::to_owned).collect();
        for parent in parents {
            if let Some(record @ Record::Link(_)) = records.get_mut(&parent) {
                *record = Record::Directory;
            }
        }
        if !refused.is_empty()
            && let Ok(text) = serde_json::to_string_pretty(&refused)
        {
            put(&mut records, PathBuf::from(REFUSED), Record::File(text + "\n"));
        }
        records
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, path: &Path, record: Record) {
        put(&mut self.seen().records, path.to_path_buf(), record);
    }

    /// A file that is not there is not in the tree either.
    pub(super) fn file(&self, path: &Path, text: &io::Result<String>) {
        match text {
            Ok(text) => self.put(path, Record::File(text.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                self.seen().refused.insert(path.to_path_buf(), error.to_string());
            }
        }
    }

    pub(super) fn link(&self, path: &Path, target: &Path) {
        self.put(path, Record::Link(target.to_path_buf()));
    }

    pub(super) fn presence(&self, path: &Path, is_directory: bool) {
        let record = if is_directory { Record::Directory } else { Record::File(String::new()) };
        self.seen().records.entry(path.to_path_buf()).or_insert(record);
    }

    pub(super) fn directory(&self, path: &Path, names: &[String]) {
        self.put(path, Record::Directory);
        for name in names {
            self.put(&path.join(name), Record::Directory);
        }
    }

    pub(super) fn answer<T: Serialize>(&self, path: &str, answer: &Reading<T>) {
        // Plain values: there is nothing in them that JSON cannot hold.
        if let Ok(text) = serde_json::to_string_pretty(answer) {
            self.put(Path::new(path), Record::File(text + "\n"));
        }
    }
}

/// That something is there is the least that is known of it, and its text the most.
fn put(records: &mut BTreeMap<PathBuf, Record>, path: PathBuf, record: Record) {
    let known = records.entry(path).or_insert(Record::Directory);
    if record != Record::Directory {
        *known = record;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Source;
    use crate::topology::survey::Survey;
    use std::sync::Arc;

    fn tree(records: &[(&str, Record)]) -> Source {
        let record = |(path, record): &(&str, Record)| (PathBuf::from(path), record.clone());
        Source::records(records.iter().map(record).collect())
    }

    fn file(text: &str) -> Record {
        Record::File(text.to_owned())
    }

    #[test]
    fn what_was_recorded_gives_the_same_survey_and_records_the_same() {
        let source = tree(&[
            ("/sys/class/net/eth0", Record::Link("../../devices/pci/x/net/eth0".into())),
            ("/sys/devices/pci/x/net/eth0/mtu", file("1500\n")),
            ("/sys/devices/pci/x/net/eth0/queues/rx-0/rps_cpus", file("3\n")),
            ("/sys/devices/pci/x/net/eth0/device", Record::Link("../../../x".into())),
            ("/sys/devices/pci/x/numa_node", file("1\n")),
            ("/sys/devices/pci/x/msi_irqs/70", file("msix\n")),
            ("/proc/interrupts", file("  CPU0\n 70: 1 PCI-MSIX eth0-TxRx-0\n")),
            ("/proc/never", file("read by nobody\n")),
            ("/quiclane/answers/device/eth0/rings.json", file("{\"unknown\":\"no rings\"}")),
            ("/quiclane/refused.json", file("{\"/proc/cmdline\": \"Permission denied\"}")),
        ]);
        let recorder = Arc::new(Recorder::default());
        let survey = Survey::read(&source.recorded(recorder.clone()));
        assert_eq!(survey.host.boot_arguments.reason(), Some("/proc/cmdline: Permission denied"));
        let records = recorder.records();
        let path = Path::new("/sys/devices/pci/x/net/eth0/mtu");
        assert_eq!(records.get(path), Some(&file("1500\n")), "{records:#?}");
        assert!(!records.contains_key(Path::new("/proc/never")));
        let again = Arc::new(Recorder::default());
        let replay = Source::records(records.clone()).recorded(again.clone());
        assert_eq!(Survey::read(&replay), survey);
        assert_eq!(again.records(), records);
    }

    #[test]
    fn this_machine_replays() {
        let recorder = Arc::new(Recorder::default());
        let survey = Survey::read(&Source::live().recorded(recorder.clone()));
        let replayed = Survey::read(&Source::records(recorder.records()));
        assert_eq!(replayed.devices, survey.devices);
        assert_eq!(replayed.host, survey.host);
        assert_eq!(replayed.machine, survey.machine);
        assert!(!survey.machine.cpus.is_empty());
    }

    #[test]
    fn nothing_is_recorded_below_a_link() {
        let recorder = Recorder::default();
        recorder.link(Path::new("/proc/1/cwd"), Path::new("/etc"));
        recorder.file(Path::new("/proc/1/cwd/hosts"), &Ok("x".to_owned()));
        let records = recorder.records();
        assert_eq!(records[Path::new("/proc/1/cwd")], Record::Directory);
    }
}
