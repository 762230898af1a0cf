//! The result of a case, and the report of all rounds.

use quiclane_measure::{Column, Columns, figure, median, short};
use serde::Serialize;
use serde_json::Value;
use std::fmt;

/// The result of one run of a case. A figure that it does not have is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Outcome {
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    gbps: Option<f64>,
    per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_seconds: Option<CpuSeconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flood: Option<Flood>,
}

/// The CPU time of both sides, and the time that it is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct CpuSeconds {
    client: Option<f64>,
    server: Option<f64>,
    of: Option<f64>,
}

/// The effect of a flood on others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Flood {
    clients: u64,
    clients_in: u64,
    requests: f64,
    /// Part of the requests that were answered.
    answered: f64,
    forged: f64,
    /// Handshakes that the server saw fail.
    failed: u64,
    retries: u64,
}

impl Outcome {
    /// From the output of `quiclane-bench echo`.
    pub(super) fn of_echo(said: &Value) -> Self {
        let get = |name: &str| said[name].as_f64();
        Self { p50_us: get("p50_us"), p99_us: get("p99_us"), ..Self::default() }
    }

    /// From the result of `quiclane perf run`.
    pub(super) fn of_perf(result: &Value) -> Self {
        let get = |name: &str| result[name].as_f64();
        Self {
            p50_us: result["latency"]["p50_us"].as_f64(),
            p99_us: result["latency"]["p99_us"].as_f64(),
            gbps: get("gbps"),
            per_second: get("requests_per_second"),
            cpu_seconds: Some(CpuSeconds {
                client: get("client_cpu_seconds"),
                server: get("server_cpu_seconds"),
                of: get("seconds"),
            }),
            flood: None,
        }
    }

    /// Of the requests beside the flood, the flood, and the server's last words; `clients`: how
    /// many got in, of how many.
    pub(super) fn of_flood(
        asked: &Value,
        forged: &Value,
        server: &Value,
        [clients_in, clients]: [u64; 2],
    ) -> Self {
        let total = |layer: &str, name: &str| {
            let workers = server["counters"].as_array().into_iter().flatten();
            workers.filter_map(|worker| worker[layer][name].as_u64()).sum()
        };
        let number = |value: &Value| value.as_f64().unwrap_or_default();
        let requests = number(&asked["sent"]);
        Self {
            p50_us: asked["latency"]["p50_us"].as_f64(),
            p99_us: asked["latency"]["p99_us"].as_f64(),
            per_second: forged["per_second"].as_f64(),
            flood: Some(Flood {
                clients,
                clients_in,
                requests,
                answered: (requests - number(&asked["unanswered"])) / requests.max(1.0),
                forged: number(&forged["sent"]),
                failed: total("lane", "handshakes_failed"),
                retries: total("endpoint", "retries"),
            }),
            ..Self::default()
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

/// What `--json` prints.
#[derive(Serialize)]
pub(super) struct Report {
    schema: &'static str,
    rows: Vec<Row>,
    frames: Value,
}

/// A case: medians over its rounds; for the effect of a flood on others, the worst round.
#[derive(Serialize)]
struct Row {
    case: &'static str,
    path: &'static str,
    rounds: usize,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    gbps: Option<f64>,
    per_second: Option<f64>,
    #[serde(flatten)]
    others: Option<Others>,
}

#[derive(Serialize)]
struct Others {
    clients: u64,
    clients_in: u64,
    answered: f64,
}

impl Row {
    fn new(case: &'static str, path: &'static str, rounds: &[Outcome]) -> Self {
        let of = |figure: fn(&Outcome) -> Option<f64>| median(rounds.iter().filter_map(figure));
        let worst = |others: Option<Others>, flood: &Flood| {
            let best = Others { clients: flood.clients, clients_in: u64::MAX, answered: 1.0 };
            let others = others.unwrap_or(best);
            Some(Others {
                clients: flood.clients,
                clients_in: others.clients_in.min(flood.clients_in),
                answered: others.answered.min(flood.answered),
            })
        };
        Self {
            case,
            path,
            rounds: rounds.len(),
            p50_us: of(|o| o.p50_us),
            p99_us: of(|o| o.p99_us),
            gbps: of(|o| o.gbps),
            per_second: of(|o| o.per_second),
            others: rounds.iter().filter_map(|o| o.flood.as_ref()).fold(None, worst),
        }
    }

    fn cells(&self) -> [String; 8] {
        let cell = |value: Option<f64>, decimals| {
            value.map_or_else(|| figure(None, 0), |value| short(value, decimals))
        };
        let others = self.others.as_ref();
        let none = || figure(None, 0);
        [
            self.case.to_owned(),
            self.path.to_owned(),
            cell(self.p50_us, 1),
            cell(self.p99_us, 1),
            cell(self.gbps, 2),
            cell(self.per_second, 0),
            others.map_or_else(none, |o| format!("{} of {}", o.clients_in, o.clients)),
            // Rounded down: 100% means all of them.
            others.map_or_else(none, |o| {
                format!("{} %", short((o.answered * 1_000.0).floor() / 10.0, 1))
            }),
        ]
    }
}

impl Report {
    /// Of the rounds of each case, and of what frames cost.
    pub(super) fn new(
        cases: impl Iterator<Item = ((&'static str, &'static str), Vec<Outcome>)>,
        frames: Value,
    ) -> Self {
        let rows = cases.map(|((case, path), rounds)| Row::new(case, path, &rounds)).collect();
        Self { schema: "quiclane.bench-net/1", rows, frames }
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mut table = String::new();
        for frame in self.frames.as_array().into_iter().flatten() {
            let [bytes, ns, summed] = ["bytes", "ns", "summed_ns"].map(|name| &frame[name]);
            table += &format!(
                "a frame of {bytes} B: {ns} ns, with its UDP checksum summed {summed} ns\n"
            );
        }
        let mut widths = [Column::Right(12); 8];
        // The names of profiles.
        widths[1] = Column::Right(16);
        let columns = Columns::new(widths);
        table += &columns
            .line(["case", "path", "p50 us", "p99 us", "Gb/s", "per s", "let in", "answered"]);
        self.rows.iter().for_each(|row| table += &columns.line(row.cells()));
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn flood(arrived: u64, unanswered: u64) -> Outcome {
        let asked = json!({"sent": 4000, "unanswered": unanswered,
            "latency": {"p50_us": 210.0, "p99_us": 900.0}});
        let forged = json!({"sent": 80_000, "per_second": 40_000.4});
        let worker = json!({"lane": {"handshakes_failed": 7}, "endpoint": {"retries": 5}});
        let server = json!({"counters": [worker, worker]});
        Outcome::of_flood(&asked, &forged, &server, [arrived, 20])
    }

    #[test]
    fn medians_are_taken_and_of_others_the_worst() {
        let echo =
            |us: f64| Outcome::of_echo(&json!({"pings": 9, "p50_us": us, "p99_us": 2.0 * us}));
        let cases = [
            (("ping", "raw"), vec![echo(9.04), echo(100.0), echo(8.0)]),
            (("flood", "xdp"), vec![flood(20, 0), flood(19, 3)]),
            (("shared", "max-throughput"), vec![echo(42.0)]),
        ];
        let frames = json!([{"bytes": 60, "ns": 3.5, "summed_ns": 7.25}]);
        let report = Report::new(cases.into_iter(), frames);
        let table = report.table();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines[0], "a frame of 60 B: 3.5 ns, with its UDP checksum summed 7.25 ns");
        let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(cells(lines[2]), ["ping", "raw", "9", "18.1", "-", "-", "-", "-"]);
        let names = |line: &str| cells(line)[..2].to_vec();
        assert_eq!(names(lines[4]), ["shared", "max-throughput"]);
        let flood = ["flood", "xdp", "210", "900", "-", "40000", "19", "of", "20", "99.9", "%"];
        assert_eq!(cells(lines[3]), flood);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["schema"], "quiclane.bench-net/1");
        assert_eq!(json["rows"][0]["rounds"], 3);
        assert!(json["rows"][0].get("clients").is_none());
        assert_eq!(json["rows"][1]["clients_in"], 19);
    }

    #[test]
    fn a_flood_is_counted_over_all_workers() {
        let Some(counted) = flood(20, 0).flood else { panic!("no flood") };
        assert_eq!((counted.failed, counted.retries, counted.answered), (14, 10, 1.0));
    }

    #[test]
    fn what_perf_reports_is_taken_over() {
        let result = json!({"seconds": 2.0, "gbps": 1.5, "requests_per_second": null,
            "client_cpu_seconds": 1.0, "server_cpu_seconds": 1.5, "latency": {}});
        let outcome = Outcome::of_perf(&result);
        assert_eq!((outcome.gbps, outcome.per_second, outcome.p50_us), (Some(1.5), None, None));
        assert!(outcome.to_string().contains("\"server\":1.5"), "{outcome}");
    }
}
