//! `quiclane-runner`: runs the programs of this workspace against each other, in two network
//! namespaces with a veth pair of 2 queues between them.
//!
//! `tools/demo`, `tools/interop` and `tools/bench net` start it. It builds the programs that a run
//! needs, and leaves nothing behind, also when it is interrupted: namespaces, processes and files
//! go with the values that stand for them.
//!
//! Exit codes: 0 fine; 1 failed; 2 usage; 3 needs root; 4 the machine cannot do it; 128 and the
//! number of the signal that interrupted it.

#[cfg(test)]
mod tests;

mod bench_net;
mod demo;
mod failure;
mod interop;
mod process;
mod stage;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Run Quiclane's programs against each other in network namespaces.
#[derive(Parser)]
#[command(name = "quiclane-runner", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(name = "demo", bin_name = "tools/demo")]
    Demo(demo::Args),
    #[command(name = "interop", bin_name = "tools/interop")]
    Interop(interop::Args),
    #[command(name = "bench-net", bin_name = "tools/bench net")]
    BenchNet(bench_net::Args),
}

impl Command {
    /// Its name, and how it went.
    fn run(&self) -> (&'static str, Result<(), failure::Failure>) {
        match self {
            Self::Demo(args) => ("demo", demo::run(args)),
            Self::Interop(args) => ("interop", interop::run(args)),
            Self::BenchNet(args) => ("bench net", bench_net::run(args)),
        }
    }
}

fn main() -> ExitCode {
    let (name, result) = Cli::parse().command.run();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(text) = failure.text() {
                eprintln!("{name}: error: {text}");
            }
            ExitCode::from(failure.exit_code())
        }
    }
}
