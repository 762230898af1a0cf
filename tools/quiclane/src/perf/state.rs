//! What a Quiclane server reports on a stream of ALPN perf: its state, and its machine.

use super::host::Host;
use quiclane::counters::Meaning;
use quiclane::exec::{Monitor, WorkerStatus};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The state of a server at one moment. Counts are since its start. A value that an older server
/// does not report is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ServerState {
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) rss_bytes: Option<u64>,
    pub(crate) host: Option<Host>,
    pub(crate) workers: Option<Vec<WorkerState>>,
    /// Datagrams that arrived and were thrown away, by reason.
    pub(crate) drops: Option<BTreeMap<String, u64>>,
    /// Connections now.
    pub(crate) connections: Option<u64>,
    /// Packets that ended connections declared lost.
    pub(crate) ended_lost_packets: Option<u64>,
}

/// A worker, where it runs and what it reads from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkerState {
    pub(crate) queue: u32,
    pub(crate) device: Option<String>,
    pub(crate) cpu: Option<u32>,
    pub(crate) node: Option<u32>,
    pub(crate) mode: Option<String>,
}

impl WorkerState {
    pub(crate) fn of(worker: &WorkerStatus) -> Self {
        Self {
            queue: worker.queue,
            device: worker.device.clone(),
            cpu: worker.cpu,
            node: worker.node,
            mode: worker.mode.map(|mode| mode.name().to_owned()),
        }
    }
}

impl ServerState {
    pub(crate) fn now(monitor: &Monitor) -> Self {
        let status = monitor.status();
        let lane = |f: fn(&WorkerStatus) -> u64| Some(status.iter().map(f).sum());
        Self {
            cpu_seconds: Some(crate::sys::cpu_seconds()),
            rss_bytes: super::host::rss_bytes(),
            host: Some(Host::this()),
            workers: Some(status.iter().map(WorkerState::of).collect()),
            drops: Some(drops(&status)),
            connections: lane(|w| w.connections),
            ended_lost_packets: lane(|w| w.counters.ended_connections.lost_packets),
        }
    }
}

/// What `QueueStats::drops` sums up, by name.
pub(crate) fn drops(status: &[WorkerStatus]) -> BTreeMap<String, u64> {
    let mut drops = BTreeMap::new();
    for worker in status {
        for (counter, count) in worker.counters.queue.iter() {
            let is_drop = matches!(counter.meaning, Meaning::Dropped | Meaning::Lost);
            if is_drop && count > 0 {
                *drops.entry(counter.name.to_owned()).or_default() += count;
            }
        }
    }
    drops
}

/// What was counted between two moments.
pub(crate) fn difference(
    after: &BTreeMap<String, u64>,
    before: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    let less = |(name, n): (&String, &u64)| {
        (name.clone(), n.saturating_sub(before.get(name).copied().unwrap_or(0)))
    };
    after.iter().map(less).filter(|(_, n)| *n > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quiclane::datapath::QueueStats;

    #[test]
    fn the_named_drops_are_what_is_called_drops_elsewhere() {
        let all = QueueStats { rx_packets: 1, tx_errors: 1, ..QueueStats::default() };
        let names: Vec<&str> = all.iter().map(|(counter, _)| counter.name).collect();
        let mut worker = WorkerStatus::default();
        let q = &mut worker.counters.queue;
        (q.drop_malformed, q.drop_ip_checksum, q.drop_udp_checksum) = (1, 2, 4);
        (q.drop_udp_length, q.drop_truncated, q.drop_empty) = (8, 16, 32);
        (q.drop_socket_full, q.xdp_rx_dropped, q.xdp_rx_ring_full) = (64, 128, 256);
        (q.xdp_rx_fill_ring_empty, q.tx_errors) = (512, 1024);
        let total = q.drops();
        let named = drops(&[worker]);
        assert_eq!(named.values().sum::<u64>(), total);
        assert!(named.keys().all(|name| names.contains(&name.as_str())));
        let before = BTreeMap::from([("drop_empty".to_owned(), 30)]);
        assert_eq!(difference(&named, &before)["drop_empty"], 2);
    }

    #[test]
    fn an_older_server_tells_its_cpu_time_only() {
        let state: ServerState = serde_json::from_str(r#"{"cpu_seconds": 1.5}"#).unwrap();
        assert_eq!((state.cpu_seconds, state.drops), (Some(1.5), None));
    }
}
