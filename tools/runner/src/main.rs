//! `quiclane-runner`: runs the programs of this workspace against each other, in two network
//! namespaces with a veth pair of 2 queues between them.
//!
//! `tools/demo` starts it. It builds the programs that a run
//! needs, and leaves nothing behind, also when it is interrupted: namespaces, processes and files
//! go with the values that stand for them.
//!
//! Exit codes: 0 fine; 1 failed; 2 usage; 3 needs root; 128 and the
//! number of the signal that interrupted it.

#[cfg(test)]
mod tests;

mod demo;
mod failure;
mod process;
mod stage;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Runs Quiclane's programs against each other in network namespaces.
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
}

fn main() -> ExitCode {
    let (name, result) = match Cli::parse().command {
        Command::Demo(args) => ("demo", demo::run(&args)),
    };
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
