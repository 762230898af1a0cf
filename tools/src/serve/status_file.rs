//! `/run/quiclane/PID.json`: what a server says of itself while it serves, for the inspection
//! verbs, which have no other way to learn of packets on wrong queues and of lost datapaths.
//!
//! The file is replaced as a whole (rename), so that a reader never sees half of one, and is
//! removed in the end. What killed servers left behind is removed by the next one.

use quiclane::exec::WorkerStatus;
use quiclane::topology::survey::server::{
    DIRECTORY, SCHEMA, Server, ServerWorker, parse_started_ticks,
};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often it is written.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// Files of others that a start looks at.
const LEFTOVERS_MAX: usize = 256;

/// The file. Dropping it removes it.
#[derive(Debug)]
pub(super) struct StatusFile {
    path: PathBuf,
    server: Server,
    /// Nobody may write there: said once, and not tried again.
    refused: bool,
}

impl StatusFile {
    /// Makes the place for it, as far as this process may.
    pub(super) fn new(listen: SocketAddr) -> Self {
        Self::below(Path::new(DIRECTORY), listen)
    }

    fn below(directory: &Path, listen: SocketAddr) -> Self {
        let pid = std::process::id();
        let server = Server {
            schema: SCHEMA.to_owned(),
            pid,
            started_ticks: started_ticks(pid).unwrap_or(0),
            network_namespace: fs::read_link("/proc/self/ns/net")
                .map(|target| target.to_string_lossy().into_owned())
                .unwrap_or_default(),
            listen: listen.to_string(),
            workers: Vec::new(),
        };
        let path = directory.join(format!("{pid}.json"));
        let made = fs::create_dir_all(directory);
        let refused = made.inspect_err(|error| not_written(&path, error)).is_err();
        sweep(directory);
        Self { path, server, refused }
    }

    /// Writes the state of the workers.
    pub(super) fn write(&mut self, status: &[WorkerStatus]) {
        if self.refused {
            return;
        }
        let before = std::mem::take(&mut self.server.workers);
        self.server.workers = status.iter().map(|worker| describe(worker, &before)).collect();
        if let Err(error) = self.replace() {
            not_written(&self.path, &error);
            self.refused = true;
        }
    }

    fn replace(&self) -> io::Result<()> {
        let draft = self.path.with_file_name(format!(".{}.json", self.server.pid));
        let text = serde_json::to_string(&self.server)?;
        fs::write(&draft, text + "\n")?;
        fs::rename(&draft, &self.path).inspect_err(|_| drop(fs::remove_file(&draft)))
    }
}

impl Drop for StatusFile {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
        // The last server takes the directory along; it stays while another has a file in it.
        if let Some(directory) = self.path.parent() {
            drop(fs::remove_dir(directory));
        }
    }
}

fn not_written(path: &Path, error: &io::Error) {
    tracing::info!("{}: {error}: `quiclane doctor` cannot see this server", path.display());
}

fn describe(worker: &WorkerStatus, before: &[ServerWorker]) -> ServerWorker {
    let same =
        |other: &&ServerWorker| (other.queue, &other.device) == (worker.queue, &worker.device);
    let known = before.iter().find(same).map_or(0, |other| other.wrong_queue);
    ServerWorker {
        queue: worker.queue,
        device: worker.device.clone(),
        cpu: worker.cpu,
        mode: worker.mode.map(|mode| mode.name().to_owned()),
        error: worker.error.clone(),
        rx_packets: worker.counters.queue.rx_packets,
        drops: worker.counters.queue.drops(),
        wrong_queue: worker.wrong_queue,
        wrong_queue_recent: worker.wrong_queue.saturating_sub(known),
        connections: worker.connections,
    }
}

fn started_ticks(pid: u32) -> Option<u64> {
    parse_started_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Removes what servers left behind that were killed.
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
        // A draft of a living server may be half written: that one is its own affair.
        if lives.is_none() || (written.is_some() && written != lives) {
            drop(fs::remove_file(entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_comes_goes_and_sweeps_what_is_dead() {
        let base = std::env::temp_dir().join(format!("quiclane-status-{}", std::process::id()));
        fs::create_dir_all(&base).unwrap();
        // No process has a number beyond the kernel's limit of 2^22.
        fs::write(base.join("99999999.json"), "{}").unwrap();
        fs::write(base.join(".99999998.json"), "{").unwrap();
        fs::write(base.join("notes.txt"), "stay").unwrap();
        let mut file = StatusFile::below(&base, "127.0.0.1:4433".parse().unwrap());
        let names = || {
            let entries = fs::read_dir(&base).unwrap();
            entries.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>()
        };
        assert_eq!(names(), ["notes.txt"]);
        file.write(&[]);
        let text = fs::read_to_string(&file.path).unwrap();
        let server: Server = serde_json::from_str(&text).unwrap();
        assert_eq!((server.pid, server.schema.as_str()), (std::process::id(), SCHEMA));
        assert!(server.started_ticks > 0 && server.network_namespace.starts_with("net:["));
        drop(file);
        assert_eq!(names(), ["notes.txt"]);
        fs::remove_dir_all(&base).unwrap();
    }
}
