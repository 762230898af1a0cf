//! Arguments of `quiclane perf`, as they are typed.

use crate::args::{IoArgs, ServeArgs, TrustArgs};
use crate::target::Target;
use clap::{Args, Subcommand, ValueEnum};

#[derive(Clone, Debug, Args)]
pub(crate) struct PerfArgs {
    #[command(subcommand)]
    pub(crate) command: PerfCommand,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum PerfCommand {
    /// Run a scenario against a server.
    Run(PerfRunArgs),
    /// Serve measurements: the same as `serve --perf`.
    Server(ServeArgs),
}

/// The kinds of measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Throughput to the server.
    Upload,
    /// Throughput from the server.
    Download,
    /// Requests per second.
    Rps,
    /// Handshakes per second.
    Hps,
    /// Response times of small requests, one at a time.
    Latency,
}

impl Scenario {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
            Self::Rps => "rps",
            Self::Hps => "hps",
            Self::Latency => "latency",
        }
    }
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  quiclane perf run 192.0.2.1:4433 --scenario latency --ca ca.pem --server-name www.example.com
  quiclane perf run 127.0.0.1:4433 --scenario rps --rate 1000 --warmup 1 --pin /tmp/cert.pem

The exit code is 1 if a request stayed unanswered or was refused, a connection ended early, or
nothing arrived for longer than --max-silence. SIGINT or SIGTERM ends a run early, with its
summary; a second signal ends it at once.")]
pub(crate) struct PerfRunArgs {
    /// Connect to this server: a name or an address, and a UDP port, such as [2001:db8::1]:4433.
    #[arg(value_name = "HOST:PORT", value_parser = Target::parse)]
    pub(crate) server: Target,
    /// Measure this.
    #[arg(long, value_enum, default_value = "download")]
    pub(crate) scenario: Scenario,
    /// Use this many connections at a time [default: 1; rps 100; hps 16].
    #[arg(long, value_name = "N")]
    pub(crate) connections: Option<usize>,
    /// Keep at most this many requests open on each connection [default: rps 10, else 1; with
    /// --rate as many as the server allows].
    #[arg(long, value_name = "N")]
    pub(crate) streams: Option<usize>,
    /// Send requests of this many bytes in rps and latency, at least 8 [default: rps 512, latency
    /// 100].
    #[arg(long, value_name = "BYTES")]
    pub(crate) up: Option<u64>,
    /// Ask for responses of this many bytes [default: rps 4000, latency 100; download: endless].
    #[arg(long, value_name = "BYTES")]
    pub(crate) down: Option<u64>,
    /// Send this many requests per second in rps and latency, whether or not earlier ones were
    /// answered; a latency counts from the intended send time. Without --rate a new request waits
    /// for an answer, so that a server that pauses gets fewer requests.
    #[arg(long, value_name = "N", value_parser = number, allow_negative_numbers = true)]
    pub(crate) rate: Option<f64>,
    /// Measure for this many seconds.
    #[arg(long, value_name = "S", default_value = "5", value_parser = number,
          allow_negative_numbers = true)]
    pub(crate) seconds: f64,
    /// Send requests for this many seconds before anything counts.
    #[arg(long, value_name = "S", default_value = "0", value_parser = number,
          allow_negative_numbers = true)]
    pub(crate) warmup: f64,
    /// Print a line on standard error every so many seconds; 0 for none [default: 1 on a terminal,
    /// else 0].
    #[arg(long, value_name = "S", value_parser = number, allow_negative_numbers = true)]
    pub(crate) interval: Option<f64>,
    /// Fail if requests are open and nothing arrives for this many seconds.
    #[arg(long, value_name = "S", default_value = "1", value_parser = number,
          allow_negative_numbers = true)]
    pub(crate) max_silence: f64,
    /// Print one JSON object on standard output.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    #[command(flatten)]
    pub(crate) io: IoArgs,
}

/// A finite number; the error says what to type.
fn number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("give a number, such as 5 or 0.5".to_owned()),
    }
}
