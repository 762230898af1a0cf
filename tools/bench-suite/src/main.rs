//! `quiclane-bench`: Quiclane beside quinn-proto and quiche, in memory.
//!
//! One thread, both endpoints, no sockets: what is measured is the protocol and its
//! cryptography. Time is split between the two sides of a connection, the stacks take turns in one run,
//! and the output is medians and the ratio to the better peer.
//! `tools/bench` builds and runs it.
//!
//! [`stack`] says what a stack has to do and how fairness is kept, [`cases`] has the cases, [`pair`] the
//! time, [`meter`] the costs of each side.

use std::process::ExitCode;
use std::rc::Rc;

use clap::{Args, Parser, Subcommand};

mod cases;
mod clock;
mod counts;
mod echo;
mod fair;
mod flood;
mod floor;
mod frame;
mod heap;
mod identity;
mod link;
mod loss;
mod meter;
mod overload;
mod pair;
mod report;
mod stack;
mod stacks;
mod suite;
mod timers;
mod tls;
mod wire;

use cases::Case;
use identity::Identity;
use report::Report;
use suite::{COLUMNS, NAMES, Plan};

/// An error that ends a run: printed once, exit code 1.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The case in which each operation finds its connection cold.
const COLD: &str = "rpc-10000";
/// Connections of the memory measurement.
const IDLE_CONNECTIONS: usize = 500;

/// Measure Quiclane beside quinn-proto and quiche.
#[derive(Parser)]
#[command(name = "quiclane-bench", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Sub>,
    #[command(flatten)]
    what: What,
    /// Fewer and shorter rounds: for a look, not for a claim
    #[arg(long)]
    quick: bool,
    /// One JSON object on stdout and nothing else there
    #[arg(long)]
    json: bool,
}

/// The cases and stacks of a run.
#[derive(Args)]
struct What {
    /// Only this case or family: bulk-1472, rpc, handshake-resumed, idle, floor, frame (counts);
    /// repeatable
    #[arg(long)]
    case: Vec<String>,
    /// Only this stack: quiclane, quinn-proto, quiche; repeatable
    #[arg(long)]
    only: Vec<String>,
}

/// Arguments of `loss`.
#[derive(Args)]
struct LossArgs {
    #[command(flatten)]
    what: What,
    /// Fewer seeds
    #[arg(long)]
    quick: bool,
    /// One seed, and the congestion window every 100 ms
    #[arg(long)]
    trace: bool,
}

/// Arguments of `fair`.
#[derive(Args)]
struct FairArgs {
    /// Only this pairing: two, beside-strict, beside-quinn; repeatable
    #[arg(long)]
    case: Vec<String>,
    /// Fewer seeds
    #[arg(long)]
    quick: bool,
}

#[derive(Subcommand)]
enum Sub {
    /// Count instructions per operation with callgrind
    Counts(What),
    /// Count cache lines that an operation touches, with callgrind's simulated cache; for rpc-10000 if
    /// no case is named
    Lines(What),
    /// Run transfers over a simulated path with random loss
    Loss(LossArgs),
    /// Run two transfers through one simulated bottleneck
    Fair(FairArgs),
    /// Measure what a flood of handshakes costs the connections of one worker
    Overload {
        /// Fewer slices
        #[arg(long)]
        quick: bool,
    },
    /// One slice of one case on one stack: what runs under callgrind
    #[command(hide = true)]
    One(What),
    /// Idle connections of each stack: what runs in a process of its own
    #[command(hide = true)]
    Idle(What),
    /// Parse frames: what runs under callgrind
    #[command(hide = true)]
    OneFrame(frame::FrameArgs),
    /// Measure the UDP checksum of a received frame: a part of `tools/bench net`
    #[command(hide = true)]
    Frame,
    /// Run a raw AF_XDP echo, or its client: a part of `tools/bench net`
    #[command(hide = true)]
    Echo(echo::EchoArgs),
    /// Send failing handshakes from forged addresses: a part of `tools/bench net`
    #[command(hide = true)]
    Flood(flood::FloodArgs),
}

fn main() -> ExitCode {
    match dispatch(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("quiclane-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: &Cli) -> Result<(), Failure> {
    match &cli.command {
        None => run(cli),
        Some(Sub::Counts(what)) => {
            counts::print(counts::What::Instructions, &what.cases()?, what.columns()?)?;
            if what.wants("frame") { counts::print_frames() } else { Ok(()) }
        }
        Some(Sub::Lines(what)) => {
            let mut cases = what.cases()?;
            cases.retain(|case| !what.case.is_empty() || case.name() == COLD);
            counts::print(counts::What::Lines, &cases, what.columns()?)
        }
        Some(Sub::Idle(what)) => {
            let columns = what.columns()?;
            (0..COLUMNS).filter(|column| columns[*column]).try_for_each(idle_of)
        }
        Some(Sub::OneFrame(args)) => frame::one(*args),
        Some(Sub::Frame) => frame::run(),
        Some(Sub::Echo(args)) => echo::run(args),
        Some(Sub::Flood(args)) => flood::run(args),
        Some(Sub::Loss(args)) => {
            let mut columns = args.what.columns()?;
            columns[2] &= !args.what.only.is_empty();
            loss::run(columns, &args.what.case, args.quick, args.trace)
        }
        Some(Sub::Overload { quick }) => overload::run(*quick),
        Some(Sub::Fair(args)) => fair::run(&args.case, args.quick),
        Some(Sub::One(what)) => {
            let identity = Rc::new(Identity::new()?);
            for case in what.cases()? {
                for column in (0..COLUMNS).filter(|c| what.columns().is_ok_and(|on| on[*c])) {
                    counts::one_of(column, case, &identity)?;
                }
            }
            Ok(())
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    let columns = cli.what.columns()?;
    let plan = Plan { quick: cli.quick, columns };
    let identity = Rc::new(Identity::new()?);
    let mut report = Report::new();
    for case in cli.what.cases()? {
        let measured = suite::run(case, &plan, &identity)?;
        let (interrupted, all) = (measured.interrupted, measured.kept + measured.interrupted);
        eprintln!("{}: {interrupted} of {all} exchanges were interrupted, left out", case.name());
        report.add(&measured);
    }
    if cli.what.wants("idle") {
        report.add_idle(idle(columns)?);
    }
    if cli.what.wants("floor") {
        report.set_floor(floor::measure(&identity)?);
    }
    if cli.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.table());
    }
    Ok(())
}

impl What {
    fn wants(&self, name: &str) -> bool {
        self.case.is_empty() || self.case.iter().any(|wanted| selects(wanted, name))
    }

    fn cases(&self) -> Result<Vec<Case>, Failure> {
        let names = || cases::ALL.iter().map(|case| case.name());
        let known = |wanted: &str| {
            names()
                .chain(["idle", "floor", "frame"].map(String::from))
                .any(|name| selects(wanted, &name))
        };
        if let Some(unknown) = self.case.iter().find(|wanted| !known(wanted)) {
            let all: Vec<_> = names().collect();
            return Err(format!("there is no case {unknown}; the cases are {all:?}").into());
        }
        Ok(cases::ALL.into_iter().filter(|case| self.wants(&case.name())).collect())
    }

    fn columns(&self) -> Result<[bool; COLUMNS], Failure> {
        if let Some(unknown) = self.only.iter().find(|name| !NAMES.contains(&name.as_str())) {
            return Err(format!("there is no stack {unknown}; the stacks are {NAMES:?}").into());
        }
        Ok(NAMES.map(|name| self.only.is_empty() || self.only.iter().any(|only| only == name)))
    }
}

/// Whether `wanted` is the case's name, or the family that it belongs to: `bulk`, `rpc`.
fn selects(wanted: &str, name: &str) -> bool {
    let family = name.rsplit_once('-').map(|(family, _)| family);
    wanted == name || (Some(wanted) == family && wanted != "handshake")
}

/// What an idle connection holds on each stack, each measured in a process of its own.
fn idle(columns: [bool; COLUMNS]) -> Result<[Option<[f64; 2]>; COLUMNS], Failure> {
    let mut bytes = [None; COLUMNS];
    for column in (0..COLUMNS).filter(|column| columns[*column]) {
        let output = heap::counted_exactly(&["idle", "--only", NAMES[column]])?;
        let mut words = output.split_whitespace().map(str::parse);
        let (Some(Ok(client)), Some(Ok(server))) = (words.next(), words.next()) else {
            return Err(format!("idle connections of {}: {output}", NAMES[column]).into());
        };
        bytes[column] = Some([client, server]);
    }
    Ok(bytes)
}

/// Prints bytes per idle connection of client and server.
fn idle_of(column: usize) -> Result<(), Failure> {
    let identity = Rc::new(Identity::new()?);
    let [client, server] = match column {
        0 => cases::idle::bytes_per_connection::<suite::Quiclane>(identity, IDLE_CONNECTIONS)?,
        1 => cases::idle::bytes_per_connection::<suite::Quinn>(identity, IDLE_CONNECTIONS)?,
        _ => cases::idle::bytes_per_connection::<suite::Quiche>(identity, IDLE_CONNECTIONS)?,
    };
    println!("{client} {server}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_selects_its_cases() {
        assert!(selects("bulk", "bulk-1472") && selects("rpc-100", "rpc-100"));
        assert!(!selects("rpc-100", "rpc-1000") && !selects("handshake", "handshake-resumed"));
        assert!(selects("handshake", "handshake"));
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let what = What { case: vec!["rcp".into()], only: vec![] };
        assert!(what.cases().is_err());
    }
}
