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
    /// Be the server: the same as `serve --perf`.
    Server(ServeArgs),
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Bytes to the server.
    Upload,
    /// Bytes from the server.
    Download,
    /// Requests a second.
    Rps,
    /// Handshakes a second.
    Hps,
    /// The time of one small request at a time.
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
nothing was heard for longer than --max-silence. SIGINT or SIGTERM ends a run with its summary, a
second one at once.")]
pub(crate) struct PerfRunArgs {
    /// Connect to this server: a name or an address, and a UDP port, such as [2001:db8::1]:4433.
    #[arg(value_name = "HOST:PORT", value_parser = Target::parse)]
    pub(crate) server: Target,
    /// What is measured.
    #[arg(long, value_enum, default_value = "download")]
    pub(crate) scenario: Scenario,
    /// Connections at one time [default: 1; rps 100; hps 16].
    #[arg(long, value_name = "N")]
    pub(crate) connections: Option<usize>,
    /// Requests at one time on each connection [default: rps 10, else 1; with --rate no limit of
    /// ours].
    #[arg(long, value_name = "N")]
    pub(crate) streams: Option<usize>,
    /// Bytes of a request of rps and latency, 8 at least [default: rps 512, latency 100].
    #[arg(long, value_name = "BYTES")]
    pub(crate) up: Option<u64>,
    /// Bytes of a response [default: rps 4000, latency 100; download: without end].
    #[arg(long, value_name = "BYTES")]
    pub(crate) down: Option<u64>,
    /// Requests a second of rps and latency, sent whether or not the last ones were answered. A
    /// latency counts from the time that the request was meant to leave. Without it a new request
    /// waits for an answer, and a server that pauses is asked less.
    #[arg(long, value_name = "N", value_parser = number, allow_negative_numbers = true)]
    pub(crate) rate: Option<f64>,
    /// How long is measured.
    #[arg(long, value_name = "S", default_value = "5", value_parser = number,
          allow_negative_numbers = true)]
    pub(crate) seconds: f64,
    /// How long requests run before anything counts.
    #[arg(long, value_name = "S", default_value = "0", value_parser = number,
          allow_negative_numbers = true)]
    pub(crate) warmup: f64,
    /// A line on standard error so often; 0 for none [default: 1 on a terminal, else 0].
    #[arg(long, value_name = "S", value_parser = number, allow_negative_numbers = true)]
    pub(crate) interval: Option<f64>,
    /// Fail if requests are out and nothing is heard for so long.
    #[arg(long, value_name = "S", default_value = "1", value_parser = number,
          allow_negative_numbers = true)]
    pub(crate) max_silence: f64,
    /// One JSON object on standard output.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    #[command(flatten)]
    pub(crate) io: IoArgs,
}

/// A number that is finite, in words for who typed something else.
fn number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("a number such as 5 or 0.5 is needed".to_owned()),
    }
}
