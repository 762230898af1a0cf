//! The command line of Quiclane.
//!
//! Data goes to standard output, messages go to standard error. Exit codes: see `error`.

mod args;
mod bundle;
mod doctor;
mod error;
mod flow;
mod generate;
mod get;
mod hq;
mod identity;
mod inspect;
mod io;
mod nic;
mod output;
mod perf;
#[cfg(test)]
mod pictures;
mod place;
mod queue;
mod reach;
mod rss;
mod secret;
mod serve;
mod signals;
mod status;
mod sys;
mod target;
mod top;
mod topo;
mod xdp;

use args::{Cli, Command};
use clap::Parser;
use error::Failure;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.verbose);
    let result = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Get(args) => get::run(&args),
        Command::Perf(args) => perf::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Topo(args) => topo::run(&args),
        Command::Bundle(args) => bundle::run(&args),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(&args),
        Command::Nic(args) => nic::run(&args),
        Command::Queue(args) => queue::run(&args),
        Command::Flow(args) => flow::run(&args),
        Command::Rss(args) => rss::run(&args),
        Command::Xdp(args) => xdp::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Plan(args) => place::plan(&args),
        Command::Apply(args) => place::apply(&args),
        Command::Confirm(args) => place::confirm(&args),
        Command::Undo(args) => place::undo(&args),
        Command::Persist(args) => place::persist(&args),
        Command::Revert(args) => place::revert(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has seen enough is no failure.
        Err(Failure::BrokenPipe) => ExitCode::SUCCESS,
        // What was found has been printed.
        Err(Failure::Findings) => ExitCode::from(Failure::Findings.exit_code()),
        Err(failure) => {
            // Standard error may have no reader any more.
            let _ = writeln!(std::io::stderr(), "quiclane: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Logs go to standard error; `QUICLANE_LOG` overrides the verbosity flags.
fn start_log(verbose: u8) {
    use std::io::IsTerminal;
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("QUICLANE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let color = !inspect::refuses_color() && std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(color)
        .without_time()
        .with_target(false)
        .init();
}
