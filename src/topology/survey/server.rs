//! Servers of ours that run, as each describes itself.
//!
//! `quiclane serve` writes `/run/quiclane/PID.json` about once a second and removes it in the
//! end. What a killed server left behind is not believed: the file says when its process
//! started, and that has to be what the kernel says of the process with that number. A file that
//! neither root nor the user of the process has written is not believed either.

use crate::topology::{Reading, Source};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where servers describe themselves.
pub const DIRECTORY: &str = "/run/quiclane";
/// What a description calls its format.
pub const SCHEMA: &str = "quiclane.status/1";
/// Descriptions that are read at most: a directory with many files cannot keep us busy.
const FILES_MAX: usize = 256;

/// Counters that are not zero, by the names of their set and of themselves.
pub type CountersBySet = BTreeMap<String, BTreeMap<String, u64>>;

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// [`SCHEMA`].
    pub schema: String,
    /// Its process.
    pub pid: u32,
    /// When the process started, in clock ticks after boot (proc_pid_stat(5), field 22).
    pub started_ticks: u64,
    /// Its network namespace, as `/proc/PID/ns/net` names it.
    pub network_namespace: String,
    /// Where it listens.
    pub listen: String,
    /// Its workers.
    pub workers: Vec<ServerWorker>,
    /// What the XDP program did with frames, by the name of the verdict; only what is not zero.
    /// `None`: there is no device, or an older server does not report it.
    #[serde(default)]
    pub xdp_verdicts: Option<BTreeMap<String, u64>>,
    /// How often others changed its device since it started. `None`: there is no device, the kernel
    /// does not tell, or an older server does not report it.
    #[serde(default)]
    pub device_changes: Option<DeviceChanges>,
}

/// How often a device was changed by others since its server, or its registration, was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceChanges {
    /// RSS was set: the table, the key, the hashed fields or another context. `None`: the kernel does
    /// not tell (before Linux 6.17).
    pub rss: Option<u64>,
    /// The number of queues was set.
    pub channels: u64,
    /// Messages of the kernel were lost: more was changed than its buffer holds.
    #[serde(default)]
    pub missed: u64,
}

/// A worker of a server. Counts are since the server started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerWorker {
    /// The queue that it serves.
    pub queue: u32,
    /// The device; `None` for kernel sockets.
    pub device: Option<String>,
    /// The CPU that it is pinned to, if it is; with soft affinity, the one that it starts on.
    pub cpu: Option<u32>,
    /// The CPUs that it may run on with soft affinity; else empty.
    #[serde(default)]
    pub soft_cpus: Vec<u32>,
    /// Why it is not on the CPU that its placement asks for, and the remedy. `None`: it is, or an
    /// older server, which does not report it.
    #[serde(default)]
    pub unmet: Option<String>,
    /// How its datagrams reach the wire, such as `native-zerocopy`.
    pub mode: Option<String>,
    /// Why its datapath is lost, if it is.
    pub error: Option<String>,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets that arrived and were thrown away.
    pub drops: u64,
    /// Those that the server itself threw away, by the name of its counter, such as
    /// `drop_udp_checksum`; only what is not zero. `None`: an older server, which does not report it.
    #[serde(default)]
    pub dropped: Option<BTreeMap<String, u64>>,
    /// Clients that it refused at one of its limits, by the name of its counter, such as
    /// `refused_memory`; only what is not zero. `None`: an older server, which does not report it.
    #[serde(default)]
    pub refused: Option<BTreeMap<String, u64>>,
    /// Times that other threads wanted its CPU, and it began to sleep instead of spinning. `None`: an
    /// older server, which does not report it.
    #[serde(default)]
    pub crowded: Option<u64>,
    /// Packets that arrived for connections of other workers.
    pub wrong_queue: u64,
    /// Those of the last interval, about a second.
    pub wrong_queue_recent: u64,
    /// Connections now.
    pub connections: u64,
    /// All that it counts. `None`: an older server, which does not report it.
    #[serde(default)]
    pub counters: Option<CountersBySet>,
}

/// The servers of this network namespace.
pub(super) fn read(source: &Source) -> Vec<Server> {
    let Some(namespace) = source.link_target("/proc/self/ns/net") else { return Vec::new() };
    let namespace = namespace.to_string_lossy();
    let names = source.names(DIRECTORY).into_iter();
    names
        .filter_map(|name| Some((name.strip_suffix(".json")?.parse::<u32>().ok()?, name)))
        .take(FILES_MAX)
        .filter_map(|(pid, name)| {
            let path = format!("{DIRECTORY}/{name}");
            let text = source.text_by_process(path, pid).known().cloned()?;
            let server = serde_json::from_str::<Server>(&text).ok()?;
            (format!("{}.json", server.pid) == name).then_some(server)
        })
        .filter(|server| server.schema == SCHEMA && server.network_namespace == namespace)
        .filter(|server| started_ticks(source, server.pid).known() == Some(&server.started_ticks))
        .collect()
}

fn started_ticks(source: &Source, pid: u32) -> Reading<u64> {
    source.parsed(format!("/proc/{pid}/stat"), parse_started_ticks)
}

/// Field 22 of `/proc/PID/stat`. The second, the name, may hold spaces and brackets.
#[must_use]
pub fn parse_started_ticks(stat: &str) -> Option<u64> {
    /// Its place among the fields after the name: field 3 is the first of them.
    const AFTER_NAME: usize = 22 - 3;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(AFTER_NAME)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    struct Tree(PathBuf);

    impl Drop for Tree {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn stat(started: u64) -> String {
        format!("7 (a) b) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {started} 0 0")
    }

    fn tree() -> Tree {
        let root = std::env::temp_dir().join(format!("quiclane-servers-{}", std::process::id()));
        for place in ["proc/self/ns", "run/quiclane"] {
            fs::create_dir_all(root.join(place)).unwrap();
        }
        symlink("net:[1]", root.join("proc/self/ns/net")).unwrap();
        for pid in [7, 9, 10, 11, 12, 13] {
            let place = root.join(format!("proc/{pid}"));
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join("stat"), stat(900)).unwrap();
        }
        Tree(root)
    }

    fn describe(root: &Path, file: &str, pid: u32, started_ticks: u64, namespace: &str) {
        let server = Server {
            schema: SCHEMA.to_owned(),
            pid,
            started_ticks,
            network_namespace: namespace.to_owned(),
            listen: "0.0.0.0:4433".to_owned(),
            workers: vec![ServerWorker { queue: 3, wrong_queue: 5, ..ServerWorker::default() }],
            xdp_verdicts: None,
            device_changes: None,
        };
        let text = serde_json::to_string(&server).unwrap();
        fs::write(root.join("run/quiclane").join(file), text).unwrap();
    }

    #[test]
    fn a_server_is_believed_while_its_process_lives() {
        let tree = tree();
        describe(&tree.0, "7.json", 7, 900, "net:[1]");
        describe(&tree.0, "8.json", 8, 900, "net:[1]");
        describe(&tree.0, "9.json", 9, 899, "net:[1]");
        describe(&tree.0, "10.json", 10, 900, "net:[2]");
        describe(&tree.0, ".11.json", 11, 900, "net:[1]");
        describe(&tree.0, "13.json", 7, 900, "net:[1]");
        fs::write(tree.0.join("run/quiclane/12.json"), "{").unwrap();
        let servers = read(&Source::captured(&tree.0));
        assert_eq!(servers.len(), 1);
        assert_eq!((servers[0].pid, servers[0].workers[0].wrong_queue), (7, 5));
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        assert_eq!(parse_started_ticks(&stat(123)), Some(123));
        assert_eq!(parse_started_ticks("7 (x"), None);
        assert_eq!(parse_started_ticks("7 (x) S 1"), None);
    }
}
