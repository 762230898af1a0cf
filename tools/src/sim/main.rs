//! The deterministic simulator: runs seeds, and says which do not hold.
//!
//! Each seed is two hosts with workers, connections and applications, joined by a network with
//! faults, in virtual time. `scenario` is what a seed stands for, `agent` the application at
//! either end, `oracle` what must hold, `run` the loop that drives it all.

mod agent;
mod oracle;
mod run;
mod scenario;

use clap::Parser;
use run::Outcome;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// Of so many seeds one is run twice, when there are many.
const TWICE_EVERY: u64 = 16;
/// Fewer seeds than this are all run twice.
const FEW_SEEDS: u64 = 64;

/// Runs seeds of the deterministic simulator. One seed is one run, wherever it is repeated.
#[derive(Parser)]
#[command(name = "sim")]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Say what each seed is, and what came of it.
    #[arg(long)]
    verbose: bool,
}

/// Runs a seed, and its panics and errors are complaints.
fn attempt(seed: u64) -> Outcome {
    let said = match catch_unwind(AssertUnwindSafe(|| run::run(seed))) {
        Ok(Ok(outcome)) => return outcome,
        Ok(Err(error)) => error.to_string(),
        Err(panic) => match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(text), _) => format!("panic: {text}"),
            (_, Some(text)) => format!("panic: {text}"),
            _ => "panic".to_owned(),
        },
    };
    Outcome { complaints: vec![said], ..Outcome::default() }
}

/// Runs a seed, twice if it shall be.
fn judge(seed: u64, twice: bool) -> Outcome {
    let mut first = attempt(seed);
    if twice && first.complaints.is_empty() {
        let second = attempt(seed);
        if first.hash != second.hash {
            let text = format!("two runs differ: {:x} and {:x}", first.hash, second.hash);
            first.complaints.push(text);
        }
    }
    first
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (mut failed, mut datagrams, mut finished) = (0, 0, 0);
    for seed in arguments.from..arguments.from.saturating_add(arguments.seeds) {
        if arguments.verbose {
            println!("{:#?}", scenario::Scenario::new(seed));
        }
        let twice = arguments.seeds < FEW_SEEDS || seed % TWICE_EVERY == 0;
        let outcome = judge(seed, twice);
        if arguments.verbose {
            println!("{outcome:#?}");
        }
        (datagrams, finished) = (datagrams + outcome.datagrams, finished + outcome.finished);
        if !outcome.complaints.is_empty() {
            failed += 1;
            println!("tools/sim --seeds 1 --from {seed}    # {}", outcome.complaints.join("; "));
        }
    }
    println!("{datagrams} datagrams, {finished} ends of connections with all their streams done");
    println!("{} passed, {failed} failed", arguments.seeds - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
