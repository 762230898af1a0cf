//! The result, as a table and as one JSON object.

use quiclane_measure::{Column, Columns, figure};
use serde::Serialize;

use crate::suite::{COLUMNS, Measured, NAMES};

/// The name and version of the JSON object.
const SCHEMA: &str = "quiclane.bench/1";

/// The JSON object.
#[derive(Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    rows: Vec<Row>,
    /// Calls of the allocator, same shape.
    allocations: Vec<Row>,
    /// Heap of an idle connection, same shape.
    idle: Vec<Row>,
    /// The floor, in nanoseconds per packet of 1,472 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    floor: Option<Floor>,
}

#[derive(Serialize)]
struct Row {
    case: String,
    side: &'static str,
    unit: String,
    quiclane: Option<f64>,
    quinn_proto: Option<f64>,
    quiche: Option<f64>,
}

#[derive(Serialize)]
struct Floor {
    sender: f64,
    receiver: f64,
}

impl Row {
    fn new(case: String, side: &'static str, unit: String, values: [Option<f64>; COLUMNS]) -> Self {
        let [quiclane, quinn_proto, quiche] = values.map(|v| v.map(|x| (x * 1e3).round() / 1e3));
        Self { case, side, unit, quiclane, quinn_proto, quiche }
    }

    fn values(&self) -> [Option<f64>; COLUMNS] {
        [self.quiclane, self.quinn_proto, self.quiche]
    }
}

impl Report {
    /// Nothing measured yet.
    pub(crate) fn new() -> Self {
        Self { schema: SCHEMA, rows: vec![], allocations: vec![], idle: vec![], floor: None }
    }

    /// Adds a case.
    pub(crate) fn add(&mut self, measured: &Measured) {
        let (case, operation) = (measured.case, measured.case.operation());
        for (end, side) in case.sides().into_iter().enumerate() {
            let row = |unit: &str, values| {
                Row::new(case.name(), side, format!("{unit}/{operation}"), values)
            };
            self.rows.push(row("ns", measured.ns[end]));
            self.allocations.push(row("allocations", measured.allocations[end]));
        }
    }

    /// Adds the bytes of an idle connection: per column, of client and server.
    pub(crate) fn add_idle(&mut self, bytes: [Option<[f64; 2]>; COLUMNS]) {
        for (end, side) in ["client", "server"].into_iter().enumerate() {
            let values = bytes.map(|of| of.map(|b| b[end]));
            self.idle.push(Row::new("idle".into(), side, "bytes/connection".into(), values));
        }
    }

    /// Sets the floor.
    pub(crate) fn set_floor(&mut self, [sender, receiver]: [f64; 2]) {
        self.floor = Some(Floor { sender, receiver });
    }

    /// The report as text.
    pub(crate) fn table(&self) -> String {
        let mut out = table().line(["case", "side", "unit"].iter().chain(&NAMES).chain(&["ratio"]));
        for row in self.rows.iter().chain(&self.allocations).chain(&self.idle) {
            out.push_str(&line(row));
        }
        if let Some(Floor { sender, receiver }) = &self.floor {
            let floor = |side, ns: &f64| {
                table().line(["floor-1472", side, "ns/packet", &figure(Some(*ns), 0)])
            };
            out.push_str(&floor("sender", sender));
            out.push_str(&floor("receiver", receiver));
        }
        out
    }
}

fn line(row: &Row) -> String {
    let decimals = if row.unit.starts_with("allocations") { 2 } else { 0 };
    let best_peer = row.quinn_proto.into_iter().chain(row.quiche).min_by(f64::total_cmp);
    let ratio = match (row.quiclane, best_peer) {
        (Some(own), Some(peer)) if peer > 0.0 => Some(own / peer),
        _ => None,
    };
    let words = [row.case.clone(), row.side.to_owned(), row.unit.clone()];
    let values = row.values().map(|value| figure(value, decimals));
    table().line(words.into_iter().chain(values).chain([figure(ratio, 2)]))
}

fn table() -> Columns {
    let words = [19, 10, 23].map(Column::Left);
    let values = [Column::Right(13); COLUMNS];
    Columns::new(words.into_iter().chain(values).chain([Column::Right(8)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::Case;

    fn measured() -> Measured {
        let values = [Some(300.0), Some(779.0), Some(844.0)];
        Measured {
            case: Case::Bulk(1472),
            ns: [values; 2],
            allocations: [[None; COLUMNS]; 2],
            kept: 1,
            interrupted: 0,
        }
    }

    #[test]
    fn json_has_the_shape_that_was_promised() {
        let mut report = Report::new();
        report.add(&measured());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["schema"], "quiclane.bench/1");
        assert_eq!(
            json["rows"][0],
            serde_json::json!({"case": "bulk-1472", "side": "sender", "unit": "ns/packet",
                "quiclane": 300.0, "quinn_proto": 779.0, "quiche": 844.0})
        );
        assert_eq!(json["rows"][1]["side"], "receiver");
    }

    #[test]
    fn the_ratio_is_to_the_better_peer() {
        let mut report = Report::new();
        report.add(&measured());
        assert!(report.table().lines().nth(1).unwrap().ends_with("0.39"));
    }
}
