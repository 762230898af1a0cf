//! The deterministic simulator: runs seeds, and says which do not hold.
//!
//! Each seed is two hosts with workers, connections and applications, joined by a network with
//! faults, in virtual time. `scenario` makes a scenario of a seed, `agent` is the application at either
//! end, `secrets` are the random numbers of TLS, `oracle` checks what must hold, `lines` tells when a
//! connection is stuck, `run` is the loop that drives it all, `story` keeps the last events of a run.

mod agent;
mod fronts;
mod lines;
mod oracle;
mod run;
mod scenario;
mod secrets;
mod story;
#[cfg(test)]
mod tests;

use clap::Parser;
use lines::PATIENCE_NS;
use oracle::Complaint;
use quiclane::exec::clock::Clock;
use quiclane::time::SECOND_NS;
use run::{Manner, Outcome, Planted, difference};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{available_parallelism, scope};
use std::time::Duration;

/// Seeds that failed once, each with why, and hold since.
const REGRESSIONS: [u64; 55] = [
    // An agent wrote 2 to 89 bytes of 300,000 in a round trip.
    777_926_180,
    777_929_294,
    777_934_558,
    // Ten probes in a row fell into one burst; in the second in the handshake.
    777_957_400,
    900_009_869,
    // Two runs differed: TLS drew from the machine, and damaged ciphertext was read as lengths.
    777_973_216,
    777_982_288,
    // An acknowledgement that a probe repeated was taken for a sample of the round trip: probe
    // timeouts of 20 to 76 s, handshakes that timed out, connections that ended idle.
    5_000_718,
    5_000_921,
    5_004_249,
    5_010_538,
    5_015_226,
    5_015_594,
    5_018_088,
    // The peer was heard again, and our own packets waited for a timer that had backed off.
    5_001_351,
    5_003_562,
    5_005_263,
    5_006_515,
    5_009_685,
    5_011_491,
    5_011_529,
    5_012_225,
    5_012_264,
    5_015_182,
    5_016_282,
    5_017_148,
    5_017_754,
    // Two probes that waited for the amplification limit left beyond the window.
    5_015_892,
    // The answer to the first probe that arrived after 20 s was damaged.
    60_002_612,
    // The answer to such a PING was lost, and the next one waited for the timer again.
    862_519_914_043,
    // No more such PINGs were allowed until the timer ran out.
    457_772_382_903,
    // A probe of the MTU left in place of such a PING.
    457_772_385_070,
    // A server received only Finished for 50 s, for which it had no keys any more.
    126_222_607_244,
    // Workers of client and server drew the same random numbers: the id of a Retry was the client's.
    78_890_236_844,
    // A peer was heard 70 ms after a probe, the answer was damaged, and no probe followed for 28 s.
    78_890_304_585,
    // Data waited 38 s for its keys, and was acknowledged without that delay: a round trip of 38 s.
    465_144_489_829,
    // After a damaged packet an undamaged one was decrypted with the wrong keys.
    411_462_127_096,
    // A NEW_CONNECTION_ID that was repeated brought an id back that was retired, and it was used on
    // another path.
    34_066_438_298,
    34_066_440_019,
    34_066_440_748,
    34_066_441_447,
    // An acknowledgement was longer than what a path that is not validated may be sent, and its
    // timer was due for ever.
    34_066_439_679,
    // A probe that waited for that limit left beyond the window.
    34_066_443_740,
    // An announcement of a connection id was repeated, and told its peer to retire the only id that it
    // had left.
    880_010_754,
    // Each copy of an announcement was answered, and the answers were lost: "retired faster than
    // acknowledged".
    880_014_497,
    880_018_270,
    502_561_520_931,
    // A client heard packets that it could not read, and waited 32 s for its timer: it ended idle.
    781_555_213_034,
    // A client's handshake went on after 40 s of losses, and its timer did not begin anew.
    5_500_006_416,
    // Acknowledgements were lost, and probes repeated the first datagram of a ClientHello that lacked
    // its last: a deadlock.
    85_386_206_151,
    // NATs lost each refusal; and an answer that came too late.
    507_635_189_040,
    507_635_191_042,
    507_635_206_256,
    // A call that an application posts to itself was taken for progress, and the silence of 27 s before it
    // explained nothing any more.
    799_470_220_304,
    // A server whose first four acknowledgements of a ClientHello in two parts were lost said nothing more.
    717_886_206_266,
];
/// Seeds drawn with `--from random` are below this: a number that one can read out.
const RANDOM_BELOW: u64 = 1_000_000_000_000;
/// Seeds, when neither a number nor a time is given.
const DEFAULT_SEEDS: u64 = 100;
/// The most failed seeds whose story is printed; further ones are only named.
const STORIES: u64 = 5;

/// Run seeds of the deterministic simulator. A seed gives the same run on every machine.
#[derive(Parser)]
#[command(name = "sim")]
struct Arguments {
    /// Run this many seeds (default: 100, or as many as fit with --for).
    #[arg(long)]
    seeds: Option<u64>,
    /// Begin with this seed: a number, or `random`.
    #[arg(long, default_value = "0", value_parser = parse_start)]
    from: u64,
    /// Begin no seed after this many seconds.
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Run the seeds that failed once, and no others.
    #[arg(long, conflicts_with_all = ["seeds", "from", "seconds"])]
    regressions: bool,
    /// Run each seed once: faster, but differences between two runs are not found.
    #[arg(long)]
    once: bool,
    /// Run this many seeds at a time (default: one for each CPU).
    #[arg(long)]
    jobs: Option<NonZero<usize>>,
    /// Allow a connection this many seconds without progress, beyond what the network explains.
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(20..))]
    patience: u64,
    /// Plant a fault, to test the oracle: no-credit, late-credit, slow-credit, deaf, lost-calls,
    /// unseeded.
    #[arg(long, value_parser = parse_planted)]
    plant: Option<Planted>,
    /// Print the scenario and the result of each seed.
    #[arg(long)]
    verbose: bool,
}

fn parse_start(text: &str) -> Result<u64, String> {
    if text == "random" {
        return Ok(RandomState::new().build_hasher().finish() % RANDOM_BELOW);
    }
    text.parse().map_err(|_| format!("\"{text}\" is not a seed: give a number, or `random`"))
}

fn parse_planted(text: &str) -> Result<Planted, String> {
    Ok(match text {
        "no-credit" => Planted::NoCredit,
        "late-credit" => Planted::LateCredit,
        "slow-credit" => Planted::SlowCredit,
        "deaf" => Planted::Deaf,
        "lost-calls" => Planted::LostCalls,
        "unseeded" => Planted::Unseeded,
        _ => return Err(format!("\"{text}\" cannot be planted: --help names what can")),
    })
}

/// Runs a seed; its panics and errors become complaints.
fn attempt(seed: u64, manner: Manner) -> Outcome {
    let said = match catch_unwind(AssertUnwindSafe(|| run::run(seed, manner))) {
        Ok(Ok(outcome)) => return outcome,
        Ok(Err(error)) => error.to_string(),
        Err(panic) => match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(text), _) => format!("panic: {text}"),
            (_, Some(text)) => format!("panic: {text}"),
            _ => "panic".to_owned(),
        },
    };
    Outcome { complaints: vec![Complaint { port: None, what: said }], ..Outcome::default() }
}

/// Runs a seed once or twice. A fault that makes runs differ is planted in the first.
fn judge(seed: u64, manner: Manner, twice: bool) -> Outcome {
    let mut first = attempt(seed, manner);
    if twice && first.complaints.is_empty() {
        let planted = manner.planted.filter(|planted| *planted != Planted::Unseeded);
        let second = attempt(seed, Manner { planted, ..manner });
        first.complaints.extend(difference(&first, &second));
    }
    first
}

/// All seeds of a call, and their results.
#[derive(Debug, Default)]
struct Tally {
    /// Seeds begun.
    begun: AtomicU64,
    failed: AtomicU64,
    datagrams: AtomicU64,
    finished: AtomicU64,
    /// Held while one seed is printed: its lines stay together.
    printing: Mutex<()>,
}

impl Tally {
    fn take(&self, seed: u64, manner: Manner, outcome: &Outcome) {
        self.datagrams.fetch_add(outcome.datagrams, Ordering::Relaxed);
        self.finished.fetch_add(outcome.finished, Ordering::Relaxed);
        if outcome.complaints.is_empty() {
            return;
        }
        let number = self.failed.fetch_add(1, Ordering::Relaxed);
        // The story is kept in a second run, which is the same: keeping it takes time.
        let story = match number < STORIES {
            true => attempt(seed, Manner { told: true, ..manner }).story,
            false => Vec::new(),
        };
        let what: Vec<_> = outcome.complaints.iter().map(|c| c.what.as_str()).collect();
        let _printing = self.printing.lock().unwrap_or_else(PoisonError::into_inner);
        println!("tools/sim --seeds 1 --from {seed}    # {}", what.join("; "));
        for event in story {
            println!("    {event}");
        }
    }
}

/// Runs seeds until `next`, which gets the number of seeds begun so far, has no more.
fn run_all(arguments: &Arguments, next: impl Fn(u64) -> Option<u64> + Sync) -> Tally {
    let tally = Tally::default();
    let jobs = arguments.jobs.or(available_parallelism().ok()).map_or(1, NonZero::get);
    let manner = Manner {
        planted: arguments.plant,
        more_patience_ns: arguments.patience * SECOND_NS - PATIENCE_NS,
        ..Manner::default()
    };
    let work = || {
        while let Some(seed) = next(tally.begun.fetch_add(1, Ordering::Relaxed)) {
            let outcome = judge(seed, manner, !arguments.once);
            if arguments.verbose {
                let _printing = tally.printing.lock().unwrap_or_else(PoisonError::into_inner);
                println!("{:#?}\n{outcome:#?}", scenario::Scenario::new(seed));
            }
            tally.take(seed, manner, &outcome);
        }
        // What was not begun after all.
        tally.begun.fetch_sub(1, Ordering::Relaxed);
    };
    scope(|scope| {
        for _ in 1..jobs {
            scope.spawn(work);
        }
        work();
    });
    tally
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let clock = Clock::monotonic();
    let begin = clock.now();
    let tally = if arguments.regressions {
        run_all(&arguments, |begun| REGRESSIONS.get(begun as usize).copied())
    } else {
        let most = match (arguments.seeds, arguments.seconds) {
            (Some(seeds), _) => seeds,
            (None, Some(_)) => u64::MAX,
            (None, None) => DEFAULT_SEEDS,
        };
        println!("seeds from {}", arguments.from);
        let end = arguments.seconds.map(|seconds| begin + Duration::from_secs(seconds));
        run_all(&arguments, |begun| {
            let in_time = end.is_none_or(|end| clock.now() < end);
            (begun < most && in_time).then_some(arguments.from.wrapping_add(begun))
        })
    };
    let Tally { begun, failed, datagrams, finished, .. } = tally;
    let [begun, failed] = [begun, failed].map(AtomicU64::into_inner);
    let [datagrams, finished] = [datagrams, finished].map(AtomicU64::into_inner);
    let times = if arguments.once { "once" } else { "twice" };
    let seconds = clock.now().ns_since(begin) / SECOND_NS;
    println!("{datagrams} datagrams, {finished} ends of connections with all their streams done");
    println!("{} passed, {failed} failed; each {times}, {seconds} s", begun - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
