//! What a run found, for people and for programs.

use super::args::Scenario;
use super::host::Host;
use super::lines::Interval;
use super::settings::Settings;
use super::state::{ServerState, WorkerState, difference};
use super::tally::Totals;
use crate::error::Failure;
use crate::inspect::print;
use crate::status::{QueueRow, table};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What the client has spent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    pub(crate) client_cpu: f64,
    /// Cycles of the client; unknown where the machine does not count them.
    pub(crate) cycles: Option<u64>,
}

/// What the server reported, if it reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    /// Before the run began.
    pub(crate) first: Option<ServerState>,
    /// When measuring began, and when it ended.
    pub(crate) before: Option<ServerState>,
    pub(crate) after: Option<ServerState>,
    /// When the run's connections were closed.
    pub(crate) last: Option<ServerState>,
    pub(crate) why_silent: String,
}

/// The outcome of a run.
pub(crate) struct Report {
    pub(crate) settings: Settings,
    /// `None` if none was given.
    pub(crate) streams_asked: Option<usize>,
    /// The measured time, which a signal or the end of all connections cuts short.
    pub(crate) seconds: f64,
    pub(crate) is_interrupted: bool,
    pub(crate) connections_live: u64,
    pub(crate) streams_most: u64,
    /// Requests that were open when time was up.
    pub(crate) in_flight: u64,
    pub(crate) longest_silence_ns: u64,
    /// The client's worker to which nothing arrived.
    pub(crate) silent_worker: usize,
    pub(crate) rss_bytes: Option<u64>,
    pub(crate) drops: BTreeMap<String, u64>,
    pub(crate) spent: Spent,
    pub(crate) totals: Totals,
    /// Nanoseconds.
    pub(crate) handshakes: Histogram<u64>,
    pub(crate) latencies: Histogram<u64>,
    pub(crate) queues: Vec<QueueRow>,
    pub(crate) intervals: Vec<Interval>,
    /// Why connections ended early.
    pub(crate) reasons: Vec<String>,
    pub(crate) server: Server,
}

const PERCENTILES: [(&str, f64); 5] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p999", 99.9), ("max", 100.0)];

impl Report {
    pub(crate) fn print(&self, as_json: bool) -> Result<(), Failure> {
        if as_json {
            return print(&format!("{}\n", self.json()));
        }
        let mut lines = vec![table(&self.queues) + &self.server_line()];
        lines.extend(self.notes());
        if !self.latencies.is_empty() {
            let figures: Vec<_> = PERCENTILES
                .iter()
                .map(|(n, p)| format!("{n} {:.1}", self.percentile_us(*p)))
                .collect();
            let (mean, n) = (self.latencies.mean() / 1e3, self.latencies.len());
            lines.push(format!("latency us: {}, mean {mean:.1}, count {n}", figures.join(", ")));
        }
        lines.extend([self.answers_line(), self.result_line()]);
        print(&(lines.join("\n") + "\n"))
    }

    /// Success, or what was wrong.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        let faults = self.faults();
        if faults.is_empty() { Ok(()) } else { Err(Failure::Failed(faults.join("; "))) }
    }

    fn unanswered(&self) -> u64 {
        self.totals.asked.saturating_sub(self.totals.settled + self.totals.refused)
    }

    /// Nothing arrived for longer than is allowed.
    pub(crate) fn is_silent(&self) -> bool {
        u128::from(self.longest_silence_ns) > self.settings.max_silence.as_nanos()
    }

    /// Why the run is no success.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let silence = self.longest_silence_ns as f64 / 1e9;
        let max_silence = self.settings.max_silence.as_secs_f64();
        if self.is_silent() {
            faults.push(format!(
                "nothing arrived at worker {} for {silence:.3} s, more than --max-silence {max_silence}",
                self.silent_worker
            ));
        }
        let wanted = self.settings.connections as u64;
        let (ended, refused) = (self.totals.ended_early, self.totals.refused);
        let is_hps = self.settings.scenario == Scenario::Hps;
        let reasons = if self.reasons.is_empty() { "no reason" } else { &self.reasons.join(", ") };
        match (ended, is_hps) {
            (0, _) => {}
            (n, true) => faults.push(format!("{} failed: {reasons}", many(n, "handshake"))),
            (n, false) => {
                faults
                    .push(format!("{n} of {} ended early: {reasons}", many(wanted, "connection")));
            }
        }
        if self.settings.counts_requests() && self.unanswered() > 0 {
            let asked = self.totals.asked;
            faults.push(format!("{} of {asked} requests stayed unanswered", self.unanswered()));
        }
        if refused > 0 {
            faults.push(format!("{} refused by the server", many(refused, "request was")));
        }
        if self.totals.answers_measured == 0 && self.totals.bytes_measured == 0 {
            faults.push("nothing was answered".to_owned());
        }
        faults
    }

    /// Things to know about the figures.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for cpu in self.shared_cpus() {
            notes.push(format!(
                "server and client share cpu {cpu}: they wait for each other; see --cpus"
            ));
        }
        if let Some(asked) = self.streams_asked
            && self.streams_most < asked as u64
            && self.settings.rate.is_none()
        {
            let most = self.streams_most;
            notes.push(format!(
                "--streams {asked}: at most {most} were open at one time on a connection; the \
                 server allows no more"
            ));
        }
        if self.is_interrupted {
            notes.push(format!("interrupted after {:.1} s", self.seconds));
        }
        notes
    }

    /// CPUs to which a worker of each side is pinned, on one machine.
    fn shared_cpus(&self) -> BTreeSet<u32> {
        let Some(state) = &self.server.first else { return BTreeSet::new() };
        let boot_id = state.host.as_ref().and_then(|host| host.boot_id.clone());
        if boot_id.is_none() || boot_id != Host::this().boot_id {
            return BTreeSet::new();
        }
        let theirs: BTreeSet<u32> = state.workers.iter().flatten().filter_map(|w| w.cpu).collect();
        self.queues.iter().filter_map(|row| row.cpu).filter(|cpu| theirs.contains(cpu)).collect()
    }

    fn gbps(&self) -> f64 {
        self.totals.bytes_measured as f64 * 8.0 / self.seconds.max(1e-9) / 1e9
    }

    fn rate(&self) -> f64 {
        self.totals.answers_measured as f64 / self.seconds.max(1e-9)
    }

    fn percentile_us(&self, p: f64) -> f64 {
        self.latencies.value_at_percentile(p) as f64 / 1000.0
    }

    /// The server's modes, drops and losses; `?` with the reason.
    fn server_line(&self) -> String {
        let (facts, unknown) = self.server_facts();
        let told = |name: &str| match &facts[name] {
            Value::Null => "?".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let modes: Vec<_> =
            facts["modes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let modes = if modes.is_empty() { "?".to_owned() } else { modes.join(", ") };
        let reasons: BTreeSet<_> = unknown.values().filter_map(Value::as_str).collect();
        let mut line = format!(
            "server: mode {modes}, drops {}, packets lost {}",
            told("drops_total"),
            told("lost_packets")
        );
        for reason in reasons {
            line.push_str(&format!(" ({reason})"));
        }
        line
    }

    fn answers_line(&self) -> String {
        let silence = self.longest_silence_ns as f64 / 1e3;
        let mut parts = Vec::new();
        if self.settings.counts_requests() {
            parts.push(format!("sent {}", self.totals.asked));
            parts.push(format!("in flight at the end {}", self.in_flight));
            parts.push(format!("unanswered {}", self.unanswered()));
            parts.push(format!("refused {}", self.totals.refused));
        }
        parts.push(format!("ended early {}", self.totals.ended_early));
        parts.push(format!("client lost {} packets", self.totals.lost_packets));
        parts.push(format!("longest silence {silence:.1} us"));
        format!("answers: {}", parts.join(", "))
    }

    /// The result in one line.
    fn result_line(&self) -> String {
        let what = match self.settings.scenario {
            Scenario::Upload | Scenario::Download => {
                format!("{:.3} Gb/s, {} bytes", self.gbps(), self.totals.bytes_measured)
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
        let load = match (self.settings.scenario, self.settings.rate) {
            (Scenario::Hps, _) => String::new(),
            (_, Some(rate)) => format!(" at {rate} requests/s"),
            _ => format!(" x {}", many(self.streams_most, "stream")),
        };
        let server =
            self.server_cpu().map_or_else(|| "unknown".to_owned(), |c| format!("{c:.2} s"));
        let cycles = self.spent.cycles.map_or_else(String::new, |c| format!(", cycles {c}"));
        format!(
            "Result: {} {:.1} s, {}{load}: {what}, cpu client {:.2} s server {server}{cycles}",
            self.settings.scenario.name(),
            self.seconds,
            many(self.settings.connections as u64, "connection"),
            self.spent.client_cpu,
        )
    }

    fn server_cpu(&self) -> Option<f64> {
        let cpu = |state: &Option<ServerState>| state.as_ref().and_then(|s| s.cpu_seconds);
        cpu(&self.server.after).zip(cpu(&self.server.before)).map(|(a, b)| a - b)
    }

    /// What is known of the server, and why the rest is not.
    fn server_facts(&self) -> (Value, Map<String, Value>) {
        let Server { first, before: _, after, last, why_silent } = &self.server;
        let first_and_last = first.as_ref().zip(last.as_ref());
        let drops = first_and_last.and_then(|(first, last)| {
            Some(difference(last.drops.as_ref()?, first.drops.as_ref()?))
        });
        let lost = first_and_last.and_then(|(first, last)| {
            // Some connections are still there: their losses are not counted yet.
            let is_over = last.connections? <= 1;
            let lost = last.ended_lost_packets?.checked_sub(first.ended_lost_packets?);
            lost.filter(|_| is_over)
        });
        let modes = first.as_ref().and_then(|state| state.workers.as_ref()).map(|workers| {
            workers.iter().filter_map(|w: &WorkerState| w.mode.clone()).collect::<BTreeSet<_>>()
        });
        let facts = json!({
            "host": first.as_ref().and_then(|state| state.host.clone()),
            "workers": first.as_ref().and_then(|state| state.workers.clone()),
            "modes": modes,
            "drops": drops,
            "drops_total": drops.as_ref().map(|drops| drops.values().sum::<u64>()),
            "lost_packets": lost,
            "rss_bytes": after.as_ref().and_then(|state| state.rss_bytes),
        });
        let other =
            "connections of the server had not ended yet: what they lost is counted when they end";
        let reason = |name: &String| {
            let is_other = name == "lost_packets" && last.is_some();
            let old = "the server is too old to report it";
            let why = match (why_silent.as_str(), is_other && drops.is_some()) {
                (_, true) => other,
                ("", _) => old,
                (why, _) => why,
            };
            (name.clone(), why.into())
        };
        let nulls = facts.as_object().into_iter().flatten().filter(|(_, value)| value.is_null());
        let unknown = nulls.map(|(name, _)| reason(name)).collect();
        (facts, unknown)
    }

    fn json(&self) -> Value {
        let (server, unknown) = self.server_facts();
        let s = &self.settings;
        json!({
            "schema": "quiclane.perf/1",
            "client": {
                "host": Host::this(),
                "drops": self.drops,
                "lost_packets": self.totals.lost_packets,
                "lost_bytes": self.totals.lost_bytes,
                "probe_timeouts": self.totals.ptos,
                "congestion_events": self.totals.congestion_events,
                "rss_bytes": self.rss_bytes,
            },
            "server": server,
            "unknown": unknown,
            "queues": self.queues,
            "shared_cpus": self.shared_cpus(),
            "intervals": self.intervals,
            "result": {
                "scenario": s.scenario.name(),
                "connections": s.connections,
                "connections_at_end": self.connections_live,
                "streams": self.streams_most,
                "streams_asked": self.streams_asked,
                "rate": s.rate,
                "up_bytes": s.up,
                "down_bytes": s.down,
                "warmup_seconds": s.warmup.as_secs_f64(),
                "seconds": self.seconds,
                "interrupted": self.is_interrupted,
                "bytes": self.totals.bytes_measured,
                "gbps": self.gbps(),
                "requests": self.totals.answers_measured,
                "requests_per_second": self.rate(),
                "sent": self.totals.asked,
                "in_flight_at_end": self.in_flight,
                "unanswered": if s.counts_requests() { self.unanswered() } else { 0 },
                "refused": self.totals.refused,
                "ended_early": self.totals.ended_early,
                "reasons": self.reasons,
                "longest_silence_us": self.longest_silence_ns as f64 / 1e3,
                "max_silence_us": s.max_silence.as_secs_f64() * 1e6,
                "faults": self.faults(),
                "latency": distribution(&self.latencies),
                "handshake": distribution(&self.handshakes),
                "client_cpu_seconds": self.spent.client_cpu,
                "server_cpu_seconds": self.server_cpu(),
                "client_cycles": self.spent.cycles,
            },
        })
    }
}

/// Percentiles, mean, count, and every bucket that is not empty: its upper bound in microseconds,
/// with two digits, and how many there are. Empty if nothing was recorded.
fn distribution(histogram: &Histogram<u64>) -> Value {
    let mut out = Map::new();
    if histogram.is_empty() {
        return Value::Object(out);
    }
    for (name, p) in PERCENTILES {
        let us = histogram.value_at_percentile(p) as f64 / 1e3;
        out.insert(format!("{name}_us"), json!(us));
    }
    out.insert("mean_us".to_owned(), json!(histogram.mean() / 1e3));
    out.insert("count".to_owned(), json!(histogram.len()));
    let mut buckets: BTreeMap<u64, u64> = BTreeMap::new();
    for value in histogram.iter_recorded() {
        *buckets.entry(two_digits(value.value_iterated_to())).or_default() +=
            value.count_at_value();
    }
    let buckets: Vec<_> = buckets.iter().map(|(ns, n)| json!([*ns as f64 / 1e3, n])).collect();
    out.insert("buckets_us".to_owned(), json!(buckets));
    Value::Object(out)
}

/// Rounds up to a number of two digits and zeros.
fn two_digits(ns: u64) -> u64 {
    let unit = 10u64.pow(ns.max(1).ilog10().saturating_sub(1));
    ns.div_ceil(unit) * unit
}

/// `1 stream`, `2 streams`.
fn many(n: u64, what: &str) -> String {
    match (n, what.split_once(' ')) {
        (1, _) => format!("1 {what}"),
        (n, Some((noun, _was))) => format!("{n} {noun}s were"),
        (n, None) => format!("{n} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_has_every_value_in_a_bucket() {
        let mut histogram = super::super::tally::histogram();
        for ns in [1, 99, 100, 101, 12_345, 12_999, 600_000_000] {
            histogram.saturating_record(ns);
        }
        let out = distribution(&histogram);
        assert_eq!(out["count"], 7);
        let buckets = out["buckets_us"].as_array().unwrap();
        let total: u64 = buckets.iter().map(|b| b[1].as_u64().unwrap()).sum();
        assert_eq!(total, 7);
        assert!(buckets.contains(&json!([13.0, 2])), "{buckets:?}");
        assert_eq!(distribution(&super::super::tally::histogram()), json!({}));
    }

    #[test]
    fn numbers_have_their_plural() {
        assert_eq!(many(1, "connection"), "1 connection");
        assert_eq!(many(2, "request was"), "2 requests were");
        assert_eq!([two_digits(1), two_digits(99), two_digits(101)], [1, 99, 110]);
    }
}
