//! Lines on standard error while a run goes on.

use super::client::Plan;
use super::tally::{Latencies, Totals, longest_silence};
use serde::Serialize;
use std::io::Write;

/// What happened between two lines.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Interval {
    /// Since measuring began; negative while the run warms up.
    pub(crate) at_seconds: f64,
    pub(crate) seconds: f64,
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    /// `None` if nothing was answered.
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) in_flight: u64,
    /// How long nothing had arrived at the end of it.
    pub(crate) silence_us: f64,
}

/// The lines of a run.
pub(crate) struct Lines {
    every_ns: Option<u64>,
    last_at: u64,
    last: Totals,
    pub(crate) intervals: Vec<Interval>,
}

impl Lines {
    pub(crate) fn new(plan: &Plan, now: u64) -> Self {
        let every = plan.settings.interval.map(|i| u64::try_from(i.as_nanos()).unwrap_or(u64::MAX));
        Self { every_ns: every, last_at: now, last: Totals::default(), intervals: Vec::new() }
    }

    fn is_due(&self, now: u64) -> bool {
        self.every_ns.is_some_and(|every| now.saturating_sub(self.last_at) >= every)
    }

    /// Prints how many connections there are.
    pub(crate) fn connecting(&mut self, now: u64, there: usize, wanted: usize) {
        if self.is_due(now) {
            self.last_at = now;
            say(&format!("connecting: {there} of {wanted} connections"));
        }
    }

    /// Requests begin.
    pub(crate) fn begin(&mut self, now: u64) {
        self.last_at = now;
    }

    /// Prints what happened since the last line, if it is time.
    pub(crate) fn tick(&mut self, now: u64, plan: &Plan, latencies: &mut Latencies) {
        if !self.is_due(now) {
            return;
        }
        plan.tallies.iter().for_each(|tally| tally.collect(latencies));
        let totals = Totals::of(&plan.tallies);
        let seconds = (now - self.last_at) as f64 / 1e9;
        let percentile = |p| {
            let recent = &latencies.recent;
            (!recent.is_empty()).then(|| recent.value_at_percentile(p) as f64 / 1e3)
        };
        let silent = plan.tallies.iter().map(|tally| tally.silence(&plan.window, now)).max();
        let interval = Interval {
            at_seconds: (now as f64 - plan.window.begin() as f64) / 1e9,
            seconds,
            requests: totals.answers - self.last.answers,
            bytes: totals.bytes - self.last.bytes,
            p50_us: percentile(50.0),
            p99_us: percentile(99.0),
            in_flight: totals.out,
            silence_us: silent.unwrap_or(0) as f64 / 1e3,
        };
        say(&interval.line(plan.settings.max_silence.as_secs_f64()));
        latencies.recent.reset();
        (self.last, self.last_at) = (totals, now);
        self.intervals.push(interval);
    }

    /// The longest silence so far, and the worker.
    pub(crate) fn silence(plan: &Plan, now: u64) -> (u64, usize) {
        longest_silence(&plan.tallies, &plan.window, now)
    }
}

impl Interval {
    fn line(&self, max_silence: f64) -> String {
        let rate = self.requests as f64 / self.seconds;
        let gbps = self.bytes as f64 * 8.0 / self.seconds / 1e9;
        let latency = match (self.p50_us, self.p99_us) {
            (Some(p50), Some(p99)) => format!(", p50 {p50:.1} us, p99 {p99:.1} us"),
            _ => String::new(),
        };
        let silence = match self.silence_us / 1e6 {
            s if s >= max_silence.min(0.1) => format!(", nothing heard for {s:.1} s"),
            _ => String::new(),
        };
        let phase = if self.at_seconds < 0.0 { "warm-up, " } else { "" };
        format!(
            "{phase}{:.1} s: {rate:.0} requests/s, {gbps:.3} Gb/s{latency}, {} in flight{silence}",
            self.at_seconds, self.in_flight
        )
    }
}

fn say(line: &str) {
    // Standard error may have no reader.
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_an_interval_was() {
        let mut interval = Interval {
            at_seconds: 2.0,
            seconds: 0.5,
            requests: 100,
            bytes: 62_500_000,
            p50_us: Some(10.0),
            p99_us: Some(20.0),
            in_flight: 3,
            silence_us: 50.0,
        };
        let line = interval.line(1.0);
        assert_eq!(
            line,
            "2.0 s: 200 requests/s, 1.000 Gb/s, p50 10.0 us, p99 20.0 us, 3 in flight"
        );
        (interval.p50_us, interval.at_seconds, interval.silence_us) = (None, -1.0, 2e6);
        let line = interval.line(1.0);
        assert!(line.starts_with("warm-up") && line.ends_with("nothing heard for 2.0 s"), "{line}");
    }
}
