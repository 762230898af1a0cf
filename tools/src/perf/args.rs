//! Arguments of `quiclane perf`, as they are typed.

use crate::args::{IoArgs, ServeArgs, TrustArgs};
use clap::{Args, Subcommand, ValueEnum};
use std::net::SocketAddr;

#[derive(Clone, Debug, Args)]
pub(crate) struct PerfArgs {
    #[command(subcommand)]
    pub(crate) command: PerfCommand,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum PerfCommand {
    /// Run a scenario against a server.
    Run(PerfRunArgs),
    /// Be the server: the same as `serve` without files.
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
pub(crate) struct PerfRunArgs {
    /// The server.
    #[arg(value_name = "ADDR:PORT")]
    pub(crate) server: SocketAddr,
    /// What is measured.
    #[arg(long, value_enum, default_value = "download")]
    pub(crate) scenario: Scenario,
    /// Connections at one time [default: 1; rps 100; hps 16].
    #[arg(long, value_name = "N")]
    pub(crate) connections: Option<usize>,
    /// Requests at one time on each connection [default: rps 10, else 1].
    #[arg(long, value_name = "N")]
    pub(crate) streams: Option<usize>,
    /// Bytes of a request [default: rps 512, latency 100].
    #[arg(long, value_name = "BYTES")]
    pub(crate) up: Option<u64>,
    /// Bytes of a response [default: rps 4000, latency 100].
    #[arg(long, value_name = "BYTES")]
    pub(crate) down: Option<u64>,
    /// How long it runs.
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    pub(crate) seconds: f64,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    #[command(flatten)]
    pub(crate) io: IoArgs,
    /// One JSON object on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}
