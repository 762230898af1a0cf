//! `/run/quiclane/PID.json`: the state of a server while it serves. The inspection verbs read it:
//! they have no other way to learn of packets on wrong queues and of lost datapaths.
//!
//! The file is replaced as a whole (rename), so that a reader never sees half of one. The server
//! removes it when it ends, and the files of servers that were killed when it starts.

use crate::error::Failure;
use crate::status;
use quiclane::counters::Meaning;
use quiclane::datapath::xdp::VerdictCounters;
use quiclane::exec::WorkerStatus;
use quiclane::topology::apply::trusted;
use quiclane::topology::survey::server::{
    DIRECTORY, DeviceChanges, SCHEMA, Server, ServerWorker, parse_started_ticks,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often it is written.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// The most files of other servers that a start looks at.
const LEFTOVERS_MAX: usize = 256;

/// The file. Dropping it removes it.
#[derive(Debug)]
pub(super) struct StatusFile {
    path: PathBuf,
    server: Server,
    /// The directory cannot be written to: not tried again.
    refused: bool,
    /// The last attempt failed, as on a full disk: logged once, and tried again.
    is_failing: bool,
    /// Reasons for drops that were logged.
    warned: BTreeSet<String>,
    /// The operator named the directory.
    is_named: bool,
}

impl StatusFile {
    /// Makes the directory for it, as far as this process may. The default is the directory where
    /// the reading verbs look, and a server that may not write there runs without a status file. A
    /// directory that the operator named has to be writable.
    ///
    /// # Errors
    /// The directory that was named cannot be written to.
    pub(super) fn new(named: Option<&Path>) -> Result<Self, Failure> {
        let directory = named.unwrap_or(Path::new(DIRECTORY));
        let mut file = Self::below(directory);
        file.is_named = named.is_some();
        let ready = fs::create_dir_all(directory).and_then(|()| trusted(directory));
        let written = ready.and_then(|()| file.replace());
        let is_ours = written.is_ok();
        match (written, named) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => {
                if !directory.starts_with(DIRECTORY) {
                    let path = directory.display();
                    tracing::info!(
                        "doctor reads status files from {DIRECTORY} only, and not from {path}"
                    );
                }
            }
            (Err(error), Some(_)) => {
                return Err(Failure::file("write below", directory, &error));
            }
            (Err(error), None) => file.refuse(&error),
        }
        if is_ours {
            sweep(directory);
        }
        Ok(file)
    }

    fn below(directory: &Path) -> Self {
        let pid = std::process::id();
        let server = Server {
            schema: SCHEMA.to_owned(),
            pid,
            started_ticks: started_ticks(pid).unwrap_or(0),
            network_namespace: fs::read_link("/proc/self/ns/net")
                .map(|target| target.to_string_lossy().into_owned())
                .unwrap_or_default(),
            listen: String::new(),
            workers: Vec::new(),
            xdp_verdicts: None,
            device_changes: None,
        };
        let path = directory.join(format!("{pid}.json"));
        let warned = BTreeSet::new();
        Self { path, server, refused: false, is_failing: false, warned, is_named: false }
    }

    /// Where the server listens.
    pub(super) fn listen(&mut self, address: SocketAddr) {
        self.server.listen = address.to_string();
    }

    /// How often the device was changed.
    pub(super) fn device_changed(&mut self, changes: Option<DeviceChanges>) {
        self.server.device_changes = changes;
    }

    /// Writes the state of the workers, and the verdicts of the XDP program if there is one.
    pub(super) fn write(&mut self, workers: &[WorkerStatus], verdicts: Option<&VerdictCounters>) {
        self.warn_of_drops(workers);
        if self.refused {
            return;
        }
        let before = std::mem::take(&mut self.server.workers);
        let queues = of_queues(workers);
        self.server.workers = queues.iter().map(|worker| describe(worker, &before)).collect();
        self.server.xdp_verdicts = verdicts.map(status::verdicts);
        match self.replace() {
            Ok(()) => self.is_failing = false,
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    self.warn(&error);
                }
                // The old file goes: a reader would take it for the present state.
                drop(fs::remove_file(&self.path));
            }
        }
    }

    /// Logs each reason for which packets are thrown away, once.
    fn warn_of_drops(&mut self, status: &[WorkerStatus]) {
        for worker in status {
            for (reason, count) in with_meaning(worker, Meaning::Dropped) {
                if self.warned.insert(reason.clone()) {
                    tracing::warn!(
                        queue = worker.queue,
                        device = worker.device.as_deref().unwrap_or("-"),
                        count,
                        "packets are thrown away: {reason}; see: quiclane doctor --explain QL057"
                    );
                }
            }
        }
    }

    fn refuse(&mut self, error: &io::Error) {
        self.warn(error);
        self.refused = true;
    }

    fn warn(&self, error: &io::Error) {
        tracing::warn!(
            "{}: {error}: `quiclane doctor` and `top` see only part of this server; give the directory \
             to its user (RuntimeDirectory=quiclane in a unit), or name another: --status-dir",
            self.path.display()
        );
    }

    fn replace(&self) -> io::Result<()> {
        let draft = self.path.with_file_name(format!(".{}.json", self.server.pid));
        let text = serde_json::to_string(&self.server)?;
        // A new file each time: a link that another user put there is not followed.
        drop(fs::remove_file(&draft));
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o644);
        let written = options.open(&draft)?.write_all((text + "\n").as_bytes());
        let moved = written.and_then(|()| fs::rename(&draft, &self.path));
        moved.inspect_err(|_| drop(fs::remove_file(&draft)))
    }
}

impl Drop for StatusFile {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
        // The last server removes the directory. It stays while another server has a file in it, and
        // where another process has made it for us.
        if !self.is_named
            && let Some(directory) = self.path.parent()
        {
            drop(fs::remove_dir(directory));
        }
    }
}

/// What readers look for is a queue and who serves it: workers that share one are told as one, on the CPU
/// of the thread that has the queue.
fn of_queues(workers: &[WorkerStatus]) -> Vec<WorkerStatus> {
    let same = |one: &WorkerStatus, other: &WorkerStatus| {
        (one.queue, &one.device) == (other.queue, &other.device)
    };
    let sum = |workers: &[WorkerStatus]| {
        let mut sum = workers[0].clone();
        if workers.len() == 1 {
            return sum;
        }
        sum.cpu = sum.queue_cpu;
        sum.soft_cpus.clear();
        for worker in &workers[1..] {
            sum.error = sum.error.or_else(|| worker.error.clone());
            sum.connections += worker.connections;
            sum.wrong_queue += worker.wrong_queue;
            sum.counters.add(&worker.counters);
        }
        sum
    };
    workers.chunk_by(same).map(sum).collect()
}

fn describe(worker: &WorkerStatus, before: &[ServerWorker]) -> ServerWorker {
    let same =
        |other: &&ServerWorker| (other.queue, &other.device) == (worker.queue, &worker.device);
    let known = before.iter().find(same).map_or(0, |other| other.wrong_queue);
    ServerWorker {
        queue: worker.queue,
        device: worker.device.clone(),
        cpu: worker.cpu,
        soft_cpus: worker.soft_cpus.clone(),
        unmet: worker.unmet.clone(),
        mode: worker.mode.map(|mode| mode.name().to_owned()),
        error: worker.error.clone(),
        rx_packets: worker.counters.queue.rx_packets,
        drops: worker.counters.queue.drops(),
        dropped: Some(with_meaning(worker, Meaning::Dropped)),
        refused: Some(with_meaning(worker, Meaning::Refused)),
        crowded: Some(worker.counters.turns.crowded),
        wrong_queue: worker.wrong_queue,
        wrong_queue_recent: worker.wrong_queue.saturating_sub(known),
        connections: worker.connections,
        counters: Some(status::by_set(&worker.counters)),
    }
}

/// The counters with this meaning to an operator that are not zero, by name.
fn with_meaning(worker: &WorkerStatus, meaning: Meaning) -> BTreeMap<String, u64> {
    let met = worker.counters.with_meaning(meaning);
    met.map(|(counter, count)| (counter.name.to_owned(), count)).collect()
}

fn started_ticks(pid: u32) -> Option<u64> {
    parse_started_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Removes the files of servers that were killed.
fn sweep(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten().take(LEFTOVERS_MAX) {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let pid = name.trim_start_matches('.').strip_suffix(".json");
        let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let written = serde_json::from_str::<Server>(&text).ok().map(|it| it.started_ticks);
        let lives = started_ticks(pid);
        // A draft of a living server may be half written: it is left alone.
        if lives.is_none() || (written.is_some() && written != lives) {
            drop(fs::remove_file(entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quiclane::datapath::QueueStats;
    use quiclane::exec::Snapshot;

    #[test]
    fn a_directory_that_others_may_write_to_is_left_alone() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let base = std::env::temp_dir().join(format!("quiclane-trusted-{}", std::process::id()));
        fs::create_dir_all(&base).unwrap();
        fs::set_permissions(&base, fs::Permissions::from_mode(0o777)).unwrap();
        let error = StatusFile::new(Some(&base)).unwrap_err();
        assert!(error.to_string().contains("mode 777"), "{error}");
        assert!(fs::read_dir(&base).unwrap().next().is_none());
        fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).unwrap();
        let victim = base.join("victim");
        fs::write(&victim, "mine").unwrap();
        symlink(&victim, base.join(format!(".{}.json", std::process::id()))).unwrap();
        let file = StatusFile::new(Some(&base)).unwrap();
        assert!(file.path.is_file() && !file.path.is_symlink());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        drop(file);
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn workers_that_share_a_queue_are_told_as_one() {
        let worker = |number: usize, queue, cpu| WorkerStatus {
            worker: number,
            queue,
            device: Some("veth0".to_owned()),
            cpu,
            queue_cpu: Some(1),
            connections: 10 + number as u64,
            wrong_queue: number as u64,
            ..WorkerStatus::default()
        };
        let told = |workers: &[WorkerStatus]| {
            let queues = of_queues(workers);
            let before = [ServerWorker { wrong_queue: 1, ..describe(&queues[0], &[]) }];
            let rows = queues.iter().map(|queue| describe(queue, &before));
            let row = |row: ServerWorker| {
                (row.queue, row.cpu, row.connections, row.wrong_queue, row.wrong_queue_recent)
            };
            rows.map(row).collect::<Vec<_>>()
        };
        let apart = [worker(1, 3, Some(2)), worker(2, 3, None), worker(4, 5, Some(6))];
        assert_eq!(told(&apart), [(3, Some(1), 23, 3, 2), (5, Some(6), 14, 4, 4)]);
    }

    #[test]
    fn what_is_thrown_away_is_told_and_warned_of_once() {
        let base = std::env::temp_dir().join(format!("quiclane-dropped-{}", std::process::id()));
        fs::create_dir_all(&base).unwrap();
        let mut file = StatusFile::new(Some(&base)).unwrap();
        let worker = |drop_udp_checksum| {
            let queue = QueueStats { drop_udp_checksum, rx_packets: 9, ..QueueStats::default() };
            WorkerStatus {
                queue: 3,
                device: Some("veth0".to_owned()),
                counters: Snapshot { queue, ..Snapshot::default() },
                ..WorkerStatus::default()
            }
        };
        let told = |file: &mut StatusFile, count| {
            file.write(&[worker(count)], None);
            let text = fs::read_to_string(&file.path).unwrap();
            let server: Server = serde_json::from_str(&text).unwrap();
            server.workers[0].dropped.clone().unwrap()
        };
        assert!(told(&mut file, 0).is_empty() && file.warned.is_empty());
        assert_eq!(told(&mut file, 4)["drop_udp_checksum"], 4);
        assert_eq!(told(&mut file, 7)["drop_udp_checksum"], 7);
        assert_eq!(file.warned.iter().collect::<Vec<_>>(), ["drop_udp_checksum"]);
        // And clients that are refused, by the limit that they ran into.
        let mut refusing = worker(7);
        refusing.counters.lane.refused_memory = 3;
        refusing.counters.lane.refused_by_acceptor = 5;
        refusing.counters.turns.crowded = 2;
        file.write(&[refusing], None);
        let text = fs::read_to_string(&file.path).unwrap();
        let server: Server = serde_json::from_str(&text).unwrap();
        let told = &server.workers[0];
        let only = BTreeMap::from([("refused_memory".to_owned(), 3)]);
        assert_eq!((&told.refused, told.crowded), (&Some(only), Some(2)));
        let counters = told.counters.as_ref().unwrap();
        assert_eq!((counters["lane"]["refused_by_acceptor"], counters["turns"]["crowded"]), (5, 2));
        assert_eq!(counters["datapath"]["rx_packets"], 9);
        drop(file);
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn the_file_comes_goes_and_sweeps_what_is_dead() {
        let base = std::env::temp_dir().join(format!("quiclane-status-{}", std::process::id()));
        fs::create_dir_all(&base).unwrap();
        // No process has a number beyond the kernel's limit of 2^22.
        fs::write(base.join("99999999.json"), "{}").unwrap();
        fs::write(base.join(".99999998.json"), "{").unwrap();
        fs::write(base.join("notes.txt"), "stay").unwrap();
        let mut file = StatusFile::new(Some(&base)).unwrap();
        file.listen("127.0.0.1:4433".parse().unwrap());
        let names = || {
            let entries = fs::read_dir(&base).unwrap();
            entries.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>()
        };
        assert_eq!(names().len(), 2, "{:?}", names());
        file.write(&[], None);
        let text = fs::read_to_string(&file.path).unwrap();
        let server: Server = serde_json::from_str(&text).unwrap();
        assert_eq!((server.pid, server.schema.as_str()), (std::process::id(), SCHEMA));
        assert!(server.started_ticks > 0 && server.network_namespace.starts_with("net:["));
        drop(file);
        assert_eq!(names(), ["notes.txt"]);
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn a_place_that_is_lost_and_found_is_written_to_again() {
        let base = std::env::temp_dir().join(format!("quiclane-lost-{}", std::process::id()));
        fs::create_dir_all(&base).unwrap();
        let mut file = StatusFile::new(Some(&base)).unwrap();
        file.write(&[], None);
        // A directory in its place: the file can be written beside it, and not moved there.
        fs::remove_file(&file.path).unwrap();
        fs::create_dir(&file.path).unwrap();
        file.write(&[], None);
        let names = fs::read_dir(&base).unwrap().count();
        assert!(file.is_failing && names == 1, "{names} names: a draft was left");
        fs::remove_dir(&file.path).unwrap();
        file.write(&[], None);
        assert!(!file.is_failing && file.path.is_file());
        drop(file);
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn a_link_in_the_place_of_the_file_is_not_written_through() {
        let base = std::env::temp_dir().join(format!("quiclane-link-{}", std::process::id()));
        fs::create_dir_all(&base).unwrap();
        let target = base.join("target");
        fs::write(&target, "precious").unwrap();
        let draft = base.join(format!(".{}.json", std::process::id()));
        std::os::unix::fs::symlink(&target, draft).unwrap();
        drop(StatusFile::new(Some(&base)).unwrap());
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn a_directory_that_was_named_has_to_be_had() {
        let error = StatusFile::new(Some(Path::new("/dev/null/x"))).unwrap_err();
        assert!(error.to_string().contains("/dev/null/x"), "{error}");
    }
}
