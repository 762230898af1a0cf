//! What a run found, for people and for programs.

use super::args::Scenario;
use crate::error::Failure;
use crate::status::{QueueRow, table};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::io::Write;

/// What both sides have spent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    pub(crate) client_cpu: f64,
    /// Unknown if the server does not tell.
    pub(crate) server_cpu: Option<f64>,
    /// Cycles of the client; unknown where the machine does not count them.
    pub(crate) cycles: Option<u64>,
}

/// The outcome of a run.
pub(crate) struct Report {
    pub(crate) scenario: Scenario,
    pub(crate) connections: usize,
    pub(crate) streams: usize,
    pub(crate) seconds: f64,
    pub(crate) bytes: u64,
    pub(crate) requests: u64,
    pub(crate) spent: Spent,
    /// Nanoseconds of requests; of handshakes in hps.
    pub(crate) latencies: Histogram<u64>,
    pub(crate) queues: Vec<QueueRow>,
}

const PERCENTILES: [(&str, f64); 5] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p999", 99.9), ("max", 100.0)];

impl Report {
    pub(crate) fn print(&self, as_json: bool) -> Result<(), Failure> {
        let mut out = std::io::stdout();
        if as_json {
            writeln!(out, "{}", self.json())?;
            return Ok(());
        }
        writeln!(out, "{}", table(&self.queues))?;
        if !self.latencies.is_empty() {
            let figures: Vec<_> = PERCENTILES
                .iter()
                .map(|(n, p)| format!("{n} {:.1}", self.percentile_us(*p)))
                .collect();
            writeln!(out, "latency us: {}", figures.join(", "))?;
        }
        writeln!(out, "{}", self.result_line())?;
        Ok(())
    }

    fn gbps(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.seconds / 1e9
    }

    fn rate(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    fn percentile_us(&self, p: f64) -> f64 {
        self.latencies.value_at_percentile(p) as f64 / 1000.0
    }

    /// The one line that says it all.
    fn result_line(&self) -> String {
        let what = match self.scenario {
            Scenario::Upload | Scenario::Download => {
                format!("{:.3} Gb/s, {} bytes", self.gbps(), self.bytes)
            }
            Scenario::Rps => format!("{:.0} requests/s, {:.3} Gb/s down", self.rate(), self.gbps()),
            Scenario::Hps => format!("{:.0} handshakes/s", self.rate()),
            Scenario::Latency => format!(
                "p50 {:.1} us, p99 {:.1} us, {:.0} requests/s",
                self.percentile_us(50.0),
                self.percentile_us(99.0),
                self.rate()
            ),
        };
        let server =
            self.spent.server_cpu.map_or_else(|| "unknown".to_owned(), |c| format!("{c:.2} s"));
        let cycles = self.spent.cycles.map_or_else(String::new, |c| format!(", cycles {c}"));
        format!(
            "Result: {} {:.1} s, {} connections x {} streams: {what}, cpu client {:.2} s server \
             {server}{cycles}",
            self.scenario.name(),
            self.seconds,
            self.connections,
            self.streams,
            self.spent.client_cpu,
        )
    }

    fn json(&self) -> Value {
        let latency: serde_json::Map<_, _> = PERCENTILES
            .iter()
            .filter(|_| !self.latencies.is_empty())
            .map(|(n, p)| (format!("{n}_us"), json!(self.percentile_us(*p))))
            .collect();
        json!({
            "schema": "quiclane.perf/1",
            "queues": self.queues,
            "result": {
                "scenario": self.scenario.name(),
                "connections": self.connections,
                "streams": self.streams,
                "seconds": self.seconds,
                "bytes": self.bytes,
                "gbps": self.gbps(),
                "requests": self.requests,
                "requests_per_second": self.rate(),
                "latency": latency,
                "client_cpu_seconds": self.spent.client_cpu,
                "server_cpu_seconds": self.spent.server_cpu,
                "client_cycles": self.spent.cycles,
            },
        })
    }
}
