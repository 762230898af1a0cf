//! The settings of a run: the arguments with defaults filled in, or why they contradict each other.

use super::HEADER_BYTES;
use super::args::{PerfRunArgs, Scenario};
use crate::error::Failure;
use std::time::Duration;

/// The longest run.
const MAX_SECONDS: f64 = 86_400.0;
/// The shortest interval between two lines.
const MIN_INTERVAL_SECONDS: f64 = 0.1;
/// Lines that a run may have: they are kept for `--json`.
const MAX_INTERVALS: f64 = 100_000.0;
/// The most connections: what the table of one worker holds by default.
const MAX_CONNECTIONS: usize = 1 << 20;
/// The most requests at one time on a connection: stream numbers have 60 bits, and each open
/// request takes memory.
const MAX_STREAMS: usize = 1 << 20;
/// The largest request: all its bytes go into a send buffer.
const MAX_UP_BYTES: u64 = 1 << 30;
/// More than can be sent in a day: the clock ends it.
const ENDLESS_BYTES: u64 = 1 << 50;
/// The most requests per second: more than the pacers of one machine can send.
const MAX_RATE: f64 = 1e7;

/// What a run does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) scenario: Scenario,
    pub(crate) connections: usize,
    pub(crate) streams: usize,
    pub(crate) up: u64,
    pub(crate) down: u64,
    /// Requests a second in all, if they do not wait for answers.
    pub(crate) rate: Option<f64>,
    pub(crate) seconds: Duration,
    pub(crate) warmup: Duration,
    pub(crate) interval: Option<Duration>,
    pub(crate) max_silence: Duration,
}

impl Settings {
    /// `watched`: standard error is a terminal.
    pub(crate) fn new(args: &PerfRunArgs, watched: bool) -> Result<Self, Failure> {
        applicable(args)?;
        let scenario = args.scenario;
        let (connections, streams, up, down) = match scenario {
            Scenario::Rps => (100, 10, 512, 4000),
            Scenario::Latency => (1, 1, 100, 100),
            Scenario::Download => (1, 1, HEADER_BYTES as u64, ENDLESS_BYTES),
            Scenario::Upload => (1, 1, HEADER_BYTES as u64, 0),
            Scenario::Hps => (16, 0, 0, 0),
        };
        let streams = if args.rate.is_some() { MAX_STREAMS } else { streams };
        let settings = Self {
            scenario,
            connections: within("connections", args.connections, 1, MAX_CONNECTIONS)?
                .unwrap_or(connections),
            streams: within("streams", args.streams, 1, MAX_STREAMS)?.unwrap_or(streams),
            up: within("up", args.up, HEADER_BYTES as u64, MAX_UP_BYTES)?.unwrap_or(up),
            down: within("down", args.down, 0, ENDLESS_BYTES)?.unwrap_or(down),
            rate: positive("rate", args.rate, MAX_RATE)?,
            seconds: seconds("seconds", args.seconds, 0.001)?,
            warmup: seconds("warmup", args.warmup, 0.0)?,
            interval: interval(args, watched)?,
            max_silence: seconds("max-silence", args.max_silence, 0.001)?,
        };
        Ok(settings)
    }

    /// Every request has an end, and is waited for.
    pub(crate) const fn counts_requests(&self) -> bool {
        matches!(self.scenario, Scenario::Rps | Scenario::Latency | Scenario::Hps)
    }
}

/// Refuses options that would change nothing: a user who gives one expects a change.
fn applicable(args: &PerfRunArgs) -> Result<(), Failure> {
    use Scenario::{Download, Latency, Rps};
    let requests: &[Scenario] = &[Rps, Latency];
    let given: [(&str, bool, &[Scenario]); 4] = [
        ("rate", args.rate.is_some(), requests),
        ("up", args.up.is_some(), requests),
        ("down", args.down.is_some(), &[Rps, Latency, Download]),
        ("streams", args.streams.is_some(), &[Rps, Latency, Download, Scenario::Upload]),
    ];
    for (name, is_given, scenarios) in given {
        if is_given && !scenarios.contains(&args.scenario) {
            let names: Vec<_> = scenarios.iter().map(|s| s.name()).collect();
            return Err(Failure::Usage(format!(
                "--{name} changes nothing in --scenario {}: it is for {}",
                args.scenario.name(),
                names.join(", ")
            )));
        }
    }
    Ok(())
}

fn within<T: PartialOrd + std::fmt::Display>(
    name: &str,
    value: Option<T>,
    least: T,
    most: T,
) -> Result<Option<T>, Failure> {
    match value {
        Some(v) if v < least || v > most => {
            Err(Failure::Usage(format!("--{name} {v}: give {least} to {most}")))
        }
        value => Ok(value),
    }
}

fn positive(name: &str, value: Option<f64>, most: f64) -> Result<Option<f64>, Failure> {
    match value {
        Some(v) if v <= 0.0 || v > most => {
            Err(Failure::Usage(format!("--{name} {v}: give more than 0, and at most {most}")))
        }
        value => Ok(value),
    }
}

fn seconds(name: &str, value: f64, least: f64) -> Result<Duration, Failure> {
    let value = within(name, Some(value), least, MAX_SECONDS)?.unwrap_or_default();
    Ok(Duration::from_secs_f64(value))
}

fn interval(args: &PerfRunArgs, watched: bool) -> Result<Option<Duration>, Failure> {
    let value = args.interval.unwrap_or(if watched { 1.0 } else { 0.0 });
    if value == 0.0 {
        return Ok(None);
    }
    let least = ((args.seconds + args.warmup) / MAX_INTERVALS).max(MIN_INTERVAL_SECONDS);
    seconds("interval", value, least).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        run: PerfRunArgs,
    }

    fn settings(line: &str) -> Result<Settings, String> {
        let words = ["run", "127.0.0.1:1", "--insecure"].into_iter().chain(line.split_whitespace());
        let args = Cli::try_parse_from(words).map_err(|e| e.to_string())?;
        Settings::new(&args.run, false).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_follow_the_scenario() {
        let rps = settings("--scenario rps").unwrap();
        assert_eq!((rps.connections, rps.streams, rps.up, rps.down), (100, 10, 512, 4000));
        assert_eq!(rps.interval, None);
        let open = settings("--scenario rps --rate 100").unwrap();
        assert_eq!((open.rate, open.streams), (Some(100.0), MAX_STREAMS));
        assert!(settings("--scenario hps").unwrap().counts_requests());
        assert!(!settings("--scenario upload").unwrap().counts_requests());
    }

    #[test]
    fn options_that_change_nothing_are_refused_by_name() {
        for line in [
            "--connections 0",
            "--scenario rps --streams 0",
            "--scenario latency --up 7",
            "--scenario hps --streams 2",
            "--scenario upload --down 9",
            "--scenario download --up 100",
            "--scenario download --rate 10",
            "--scenario rps --rate 0",
            "--scenario rps --rate -1",
            "--seconds abc",
            "--seconds -1",
            "--seconds nan",
            "--interval 0.01",
            "--max-silence 0",
        ] {
            let said = settings(line).unwrap_err();
            let mut words = line.split_whitespace().rev();
            let (value, option) = (words.next().unwrap(), words.next().unwrap());
            assert!(said.contains(option), "{line}: {said}");
            let names_value = said.contains(value) || said.contains("changes nothing");
            assert!(names_value && !said.contains("literal"), "{line}: {said}");
        }
    }
}
