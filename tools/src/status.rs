//! A row for each queue, for people and for programs.

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
        let lane = quiclane::exec::LaneCounters::NAMES.iter().zip(w.counters.lane.values());
        let lane: serde_json::Map<_, _> =
            lane.filter(|(_, v)| *v != 0).map(|(name, v)| ((*name).to_owned(), v.into())).collect();
        let queue: serde_json::Map<_, _> = quiclane::exec::named_queue_stats(&w.counters.queue)
            .filter(|(_, v)| *v != 0)
            .map(|(name, v)| (name.to_owned(), v.into()))
            .collect();
        let endpoint: serde_json::Map<_, _> =
            quiclane::exec::named_endpoint_stats(&w.counters.endpoint)
                .filter(|(_, v)| *v != 0)
                .map(|(name, v)| (name.to_owned(), v.into()))
                .collect();
        let turns = quiclane::exec::TurnCounters::NAMES.iter().zip(w.counters.turns.values());
        let turns: serde_json::Map<_, _> =
            turns.map(|(name, v)| ((*name).to_owned(), v.into())).collect();
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

/// A table of the rows.
pub(crate) fn table(rows: &[QueueRow]) -> String {
    use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "queue",
        "cpu",
        "node",
        "mode",
        "rx packets",
        "tx packets",
        "drops",
        "wrong queue",
        "connections",
        "total",
    ]);
    let unknown = |v: Option<u32>| v.map_or_else(|| "-".to_owned(), |v| v.to_string());
    for r in rows {
        table.add_row([
            r.queue.to_string(),
            unknown(r.cpu),
            unknown(r.node),
            r.mode.unwrap_or("-").to_owned(),
            r.rx_packets.to_string(),
            r.tx_packets.to_string(),
            r.drops.to_string(),
            r.wrong_queue.to_string(),
            r.connections.to_string(),
            r.connections_total.to_string(),
        ]);
    }
    for (i, column) in table.column_iter_mut().enumerate() {
        if i != 3 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}
