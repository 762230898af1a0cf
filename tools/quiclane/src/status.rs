//! A row for each queue, for people and for programs.

use crate::inspect::sheet::{NONE, Sheet, Side};
use quiclane::datapath::xdp::VerdictCounters;
use quiclane::exec::WorkerStatus;
use serde::Serialize;

/// One queue and the worker that serves it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct QueueRow {
    pub(crate) queue: u32,
    pub(crate) cpu: Option<u32>,
    pub(crate) node: Option<u32>,
    pub(crate) mode: Option<&'static str>,
    pub(crate) rx_packets: u64,
    pub(crate) tx_packets: u64,
    pub(crate) drops: u64,
    pub(crate) wrong_queue: u64,
    /// Connections now, as in the status file.
    pub(crate) connections: u64,
    /// Connections accepted or opened since the start.
    pub(crate) connections_total: u64,
}

impl QueueRow {
    fn new(w: &WorkerStatus) -> Self {
        Self {
            queue: w.queue,
            cpu: w.cpu,
            node: w.node,
            mode: w.mode.map(quiclane::datapath::Mode::name),
            rx_packets: w.counters.queue.rx_packets,
            tx_packets: w.counters.queue.tx_packets,
            drops: w.counters.queue.drops(),
            wrong_queue: w.wrong_queue,
            connections: w.connections,
            connections_total: w.counters.lane.connected + w.counters.lane.accepted,
        }
    }
}

/// A row for each worker.
pub(crate) fn rows(status: &[WorkerStatus]) -> Vec<QueueRow> {
    status.iter().map(QueueRow::new).collect()
}

/// Every counter of every worker that is not zero, by name.
pub(crate) fn counters(status: &[WorkerStatus]) -> Vec<serde_json::Value> {
    let one = |w: &WorkerStatus| {
        let lane: serde_json::Map<_, _> = (w.counters.lane.iter())
            .filter(|(_, v)| *v != 0)
            .map(|(counter, v)| (counter.name.to_owned(), v.into()))
            .collect();
        let queue: serde_json::Map<_, _> = quiclane::exec::named_queue_stats(&w.counters.queue)
            .filter(|(_, v)| *v != 0)
            .map(|(name, v)| (name.to_owned(), v.into()))
            .collect();
        let endpoint: serde_json::Map<_, _> =
            quiclane::exec::named_endpoint_stats(&w.counters.endpoint)
                .filter(|(_, v)| *v != 0)
                .map(|(name, v)| (name.to_owned(), v.into()))
                .collect();
        let turns: serde_json::Map<_, _> = (w.counters.turns.iter())
            .map(|(counter, v)| (counter.name.to_owned(), v.into()))
            .collect();
        serde_json::json!({
            "queue": w.queue, "lane": lane, "endpoint": endpoint, "datapath": queue,
            "turns": turns,
        })
    };
    status.iter().map(one).collect()
}

/// What the XDP program did with the frames of the device: every verdict that was given, by name.
pub(crate) fn verdicts(counters: &VerdictCounters) -> serde_json::Value {
    let given = counters.iter().filter(|(_, count)| *count != 0);
    given
        .map(|(verdict, count)| (verdict.name().to_owned(), serde_json::Value::from(count)))
        .collect()
}

/// A table of the rows, for 80 columns: the node of a CPU, which `topo` and JSON tell, is left out.
pub(crate) fn table(rows: &[QueueRow]) -> String {
    use Side::{Left, Right};
    let mut sheet = Sheet::new(&[
        ("queue", Right),
        ("cpu", Right),
        ("mode", Left),
        ("rx packets", Right),
        ("tx packets", Right),
        ("drops", Right),
        ("wrong", Right),
        ("live", Right),
        ("total", Right),
    ]);
    for row in rows {
        sheet.row([
            row.queue.to_string().into(),
            row.cpu.map_or_else(|| NONE.to_owned(), |cpu| cpu.to_string()).into(),
            row.mode.unwrap_or(NONE).into(),
            row.rx_packets.to_string().into(),
            row.tx_packets.to_string().into(),
            row.drops.to_string().into(),
            row.wrong_queue.to_string().into(),
            row.connections.to_string().into(),
            row.connections_total.to_string().into(),
        ]);
    }
    sheet.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_80_columns() {
        let row = QueueRow {
            queue: 63,
            cpu: Some(127),
            node: Some(1),
            mode: Some("native-zerocopy"),
            rx_packets: 99_999_999_999,
            tx_packets: 99_999_999_999,
            drops: 12,
            wrong_queue: 12,
            connections: 1_000,
            connections_total: 10_000,
        };
        let text = table(&[row]);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert_eq!(text.lines().count(), 2);
    }
}
