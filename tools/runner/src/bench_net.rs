//! `tools/bench net`: Quiclane on the wire.

mod profiles;
mod report;

use crate::failure::Failure;
use crate::process::Process;
use crate::stage::{PORT, Stage, only, words};
use quiclane_measure::interleaved;
use quiclane_testkit::netns::Side;
use regex::Regex;
use report::{Outcome, Report};
use serde_json::Value;
use std::time::Duration;

/// One core for each side.
const SERVER_CPU: usize = 0;
const CLIENT_CPU: usize = 1;
/// The port that the flood comes from.
const FLOOD_PORT: u16 = 4434;
const FORGED_PER_SECOND: u64 = 40_000;
const ESTABLISHED: u64 = 100;
const REQUESTS_PER_SECOND: u64 = 2_000;
const HONEST: u64 = 20;
/// Seconds that requests run before the flood, and that the flood runs before anything counts.
const FLOOD_LEAD: u64 = 2;
/// How much longer than told a program may take.
const SPARE: Duration = Duration::from_secs(60);

/// Measure Quiclane on a veth pair between two namespaces, with one core for each side. All cases are
/// interleaved in one run; figures are medians over rounds.
///
/// Cases: ping (100 B each way, one at a time, both sides polling) as a raw AF_XDP echo, and as QUIC on
/// AF_XDP and on kernel UDP. rps (512 B up, 4,000 B down, 100 connections x 10 streams), download,
/// upload and hps (full handshakes) on AF_XDP and on kernel UDP. Needs root and two CPUs.
///
/// flood: 40,000 handshakes a second arrive at one worker. Each is from another forged address, and
/// fails with its first packet. Meanwhile 100 connections send 2,000 requests a second, and 20 clients
/// connect. "per s" is how many forged datagrams left in a second; the latencies are of the requests.
///
/// alone and shared: 100 B each way, one at a time, over AF_XDP, with the server's worker under each profile
/// (serve --profile), on a core of its own, and on one where an ordinary program never sleeps. The three
/// threads of max-throughput share that core: it shows what the way between them costs, and not what more
/// cores gain.
///
/// Last: the cost of parsing a received frame, as AF_XDP does, and with its UDP checksum summed, which
/// is needed only if no AEAD guards the datagram. The same in instructions: tools/bench counts --case
/// frame
///
/// A veth is not a NIC: the sender's thread runs the receiver's part of the kernel too. With
/// --threaded a kernel thread on the receiver's core runs that part; then both sides sleep when idle.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run each case this many times.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    rounds: u64,
    /// Run each case for this many seconds.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Run only cases whose name, such as ping/xdp, matches this regular expression.
    #[arg(long, value_name = "PATTERN", default_value = ".")]
    only: Regex,
    /// Run NAPI of both ends in kernel threads.
    #[arg(long)]
    threaded: bool,
    /// Print one JSON object on standard output, and nothing else.
    #[arg(long)]
    json: bool,
}

/// The program of a case.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// A raw AF_XDP echo.
    RawPing,
    /// A scenario of `quiclane perf`.
    Perf(&'static str),
    Flood,
    /// A profile of the server's worker; true if another program wants its core.
    Profile(&'static str, bool),
}

/// One case.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    path: &'static str,
    what: What,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut all = vec![Self { name: "ping", path: "raw", what: What::RawPing }];
        for (name, what) in [
            ("ping", What::Perf("latency")),
            ("rps", What::Perf("rps")),
            ("download", What::Perf("download")),
            ("upload", What::Perf("upload")),
            ("hps", What::Perf("hps")),
            ("flood", What::Flood),
        ] {
            all.extend(["xdp", "udp"].map(|path| Self { name, path, what }));
        }
        for (name, shares) in [("alone", false), ("shared", true)] {
            let case = |path| Self { name, path, what: What::Profile(path, shares) };
            let profiles = ["low-latency", "real-time", "scavenger", "max-throughput"];
            all.extend(profiles.map(case));
        }
        all
    }

    fn full_name(&self) -> String {
        format!("{}/{}", self.name, self.path)
    }
}

/// Runs the cases, and prints the report.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let cases = only(Case::all(), &args.only, Case::full_name)?;
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        return Err(Failure::Unsupported(
            "this machine has one CPU; one core for each side needs two".to_owned(),
        ));
    }
    let mut bench = Bench::new(args)?;
    let report = bench.measure(&cases)?;
    if args.json {
        let text = serde_json::to_string(&report).map_err(|e| Failure::of("the report", e))?;
        println!("{text}");
    } else {
        print!("{}", report.table());
    }
    Ok(())
}

struct Bench<'a> {
    /// The running programs, for their output when a case fails. They end before their namespace.
    server: Option<Process>,
    stage: Stage,
    args: &'a Args,
}

impl<'a> Bench<'a> {
    fn new(args: &'a Args) -> Result<Self, Failure> {
        let stage = Stage::new("bench net", &["quiclane-tools", "quiclane-bench"], &[])?;
        stage.scratch.zeros("files/file", 4_000);
        let bench = Self { stage, args, server: None };
        // Answers to forged addresses leave over the veth pair.
        let client = Side::Client.ip(false).to_string();
        bench.inside(Side::Server, &["ip", "route", "add", "10.0.0.0/8", "via", &client])?;
        if args.threaded {
            for (side, cpu) in [(Side::Server, SERVER_CPU), (Side::Client, CLIENT_CPU)] {
                // A veth has no NAPI before GRO is on.
                let device = bench.stage.lab.device(side);
                bench.inside(side, &["ethtool", "-K", &device, "gro", "on"])?;
                bench.stage.lab.thread_napi(side, cpu);
            }
        }
        Ok(bench)
    }

    fn measure(&mut self, cases: &[Case]) -> Result<Report, Failure> {
        let mut outcomes: Vec<Vec<Outcome>> = cases.iter().map(|_| Vec::new()).collect();
        for (round, at) in interleaved(self.args.rounds as usize, cases.len()) {
            let name = cases[at].full_name();
            let outcome = self.run(&cases[at]);
            let server = self.server.take();
            match outcome {
                Ok(outcome) => {
                    self.stage.say(&format!("round {}: {name} {outcome}", round + 1));
                    outcomes[at].push(outcome);
                }
                Err(Failure::Failed(text)) => {
                    eprint!("{}", server.map(|server| server.log()).unwrap_or_default());
                    let what = format!("{name} failed in round {}", round + 1);
                    return Err(Failure::of(what, text));
                }
                Err(other) => return Err(other),
            }
        }
        let names = cases.iter().map(|case| (case.name, case.path));
        Ok(Report::new(names.zip(outcomes), self.frames()?))
    }

    fn run(&mut self, case: &Case) -> Result<Outcome, Failure> {
        // Kernel UDP uses GSO. For AF_XDP the kernel has to fill in checksums, as a NIC would.
        let offloads = if case.path == "udp" { "on" } else { "off" };
        for side in [Side::Server, Side::Client] {
            let device = self.stage.lab.device(side);
            self.inside(side, &["ethtool", "-K", &device, "tx", offloads])?;
        }
        match case.what {
            What::RawPing => self.raw_ping(),
            What::Perf(scenario) => self.perf(scenario, case.path),
            What::Flood => self.flood(case.path),
            What::Profile(profile, shares) => self.profile(profile, shares),
        }
    }

    fn inside(&self, side: Side, line: &[&str]) -> Result<(), Failure> {
        self.stage.lab.try_run(side, line).map(drop).map_err(|e| Failure::of(line.join(" "), e))
    }

    /// Starts a program on a side's core.
    fn start(&self, side: Side, name: &str, line: Vec<String>) -> Result<Process, Failure> {
        let cpu = if side == Side::Server { SERVER_CPU } else { CLIENT_CPU };
        let line = [words(["taskset", "-c", &cpu.to_string()]), line].concat();
        self.stage.start(side, name, &line)
    }

    /// Starts the server of a case, and waits until it is ready.
    fn serve(&mut self, ready: &str, line: Vec<String>) -> Result<(), Failure> {
        let server = self.start(Side::Server, "server", line)?;
        self.server.insert(server).wait_for(ready)
    }

    fn seconds(&self, more: u64) -> String {
        (self.args.seconds + more).to_string()
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(self.args.seconds) + SPARE
    }

    fn raw_ping(&mut self) -> Result<Outcome, Failure> {
        let line = |side, port| {
            let device = self.stage.lab.device(side);
            let local = self.stage.address(side, port).to_string();
            let bench = self.stage.program("quiclane-bench");
            words([&*bench, "echo", "--dev", &device, "--local", &local])
        };
        let mut server = line(Side::Server, PORT);
        let mut client = line(Side::Client, PORT);
        server.extend(words(["--seconds", &self.seconds(3)]));
        let to = self.stage.address(Side::Server, PORT).to_string();
        client.extend(words(["--to", &to, "--seconds", &self.seconds(0)]));
        self.serve("ready", server)?;
        let mut client = self.start(Side::Client, "client", client)?;
        client.succeed(self.limit())?;
        Ok(Outcome::of_echo(&client.last_line()?))
    }

    /// The datapath options of a side.
    fn io(&self, side: Side, path: &str) -> Vec<String> {
        let cpu = if side == Side::Server { SERVER_CPU } else { CLIENT_CPU };
        let mut line = words(["--cpus", &cpu.to_string(), "--io", path]);
        if path == "xdp" {
            let device = self.stage.lab.device(side);
            line.extend(words(["--dev", &device, "--queues", "0", "--require", "native"]));
        }
        line
    }

    fn serve_line(&self, more: &[&str]) -> Vec<String> {
        let address = self.stage.address(Side::Server, PORT).to_string();
        let certificate = self.stage.scratch.text("cert.pem");
        let quiclane = self.stage.program("quiclane");
        let line =
            [&*quiclane, "serve", "--perf", "--listen", &address, "--cert-out", &certificate];
        words(line.into_iter().chain(["--json"]).chain(more.iter().copied()))
    }

    /// `quiclane perf run SERVER --scenario SCENARIO`, which pins the server's certificate.
    fn perf_line(&self, scenario: &str) -> Vec<String> {
        let address = self.stage.address(Side::Server, PORT).to_string();
        let certificate = self.stage.scratch.text("cert.pem");
        let quiclane = self.stage.program("quiclane");
        let mut line = words([&*quiclane, "perf", "run", &address, "--scenario", scenario]);
        line.extend(words(["--pin", &certificate, "--json", "--seconds", &self.seconds(0)]));
        line
    }

    /// `quiclane serve` and `quiclane perf run`.
    fn perf(&mut self, scenario: &str, path: &str) -> Result<Outcome, Failure> {
        let spins = scenario == "latency" && !self.args.threaded;
        let poll = ["--poll", if spins { "spin" } else { "adaptive" }];
        let server = [self.serve_line(&poll), self.io(Side::Server, path)].concat();
        self.serve("\"event\":\"ready\"", server)?;
        let client = [self.perf_line(scenario), words(poll), self.io(Side::Client, path)].concat();
        let mut client = self.start(Side::Client, "client", client)?;
        client.succeed(self.limit())?;
        Ok(Outcome::of_perf(&client.last_line()?["result"]))
    }

    /// See the help.
    fn flood(&mut self, path: &str) -> Result<Outcome, Failure> {
        // Packets of kernel sockets arrive on queue 0 as well: at the one worker, as the flood does.
        self.transmit_queues("1")?;
        let mut server = self.serve_line(&["--files", &self.stage.scratch.text("files")]);
        server.extend(self.io(Side::Server, path));
        if path == "udp" {
            server.extend(words(["--workers", "1"]));
        }
        self.serve("\"event\":\"ready\"", server)?;
        let mut asking = self.ask()?;
        self.stage.interrupt.wait(Duration::from_secs(FLOOD_LEAD), || Ok(None::<()>))?;
        let mut forging = self.forge()?;
        forging.wait_for("ready")?;
        let arrived = self.come()?;
        forging.succeed(self.limit())?;
        // Requests without an answer are counted; they do not fail the benchmark.
        asking.wait(self.limit())?;
        let asked = asking.last_line()?;
        let Some(server) = self.server.take().map(Process::stop) else {
            return Err(Failure::Failed("the server is gone".to_owned()));
        };
        let end = server.last_line()?;
        self.server = Some(server);
        self.transmit_queues("2")?;
        let forged = forging.last_line()?;
        Ok(Outcome::of_flood(&asked["result"], &forged, &end, [arrived, HONEST]))
    }

    /// Of both ends.
    fn transmit_queues(&self, count: &str) -> Result<(), Failure> {
        [Side::Server, Side::Client].into_iter().try_for_each(|side| {
            let device = self.stage.lab.device(side);
            self.inside(side, &["ethtool", "-L", &device, "tx", count])
        })
    }

    /// The connections that exist before the flood, and stay.
    fn ask(&self) -> Result<Process, Failure> {
        let mut line = self.perf_line("rps");
        line.extend(words(["--connections", &ESTABLISHED.to_string()]));
        line.extend(words(["--rate", &REQUESTS_PER_SECOND.to_string()]));
        line.extend(words(["--warmup", &(2 * FLOOD_LEAD).to_string(), "--max-silence", "60"]));
        line.extend(self.io(Side::Client, "udp"));
        self.start(Side::Client, "asking", line)
    }

    /// The flood. It uses the client's device beside its kernel, which the clients use.
    fn forge(&self) -> Result<Process, Failure> {
        let bench = self.stage.program("quiclane-bench");
        let device = self.stage.lab.device(Side::Client);
        let local = self.stage.address(Side::Client, FLOOD_PORT).to_string();
        let to = self.stage.address(Side::Server, PORT).to_string();
        let mut line = words([&*bench, "flood", "--dev", &device, "--local", &local, "--to", &to]);
        line.extend(words(["--rate", &FORGED_PER_SECOND.to_string()]));
        line.extend(words(["--seconds", &self.seconds(FLOOD_LEAD)]));
        self.start(Side::Client, "forging", line)
    }

    /// Clients one after another. Returns how many got their file.
    fn come(&self) -> Result<u64, Failure> {
        let quiclane = self.stage.program("quiclane");
        let address = self.stage.address(Side::Server, PORT).to_string();
        let certificate = self.stage.scratch.text("cert.pem");
        let line = [&*quiclane, "get", &address, "/file", "--pin", &certificate];
        let mut arrived = 0;
        for _ in 0..HONEST {
            let mut client = self.start(Side::Client, "coming", words(line))?;
            let status = client.wait(SPARE)?;
            arrived += u64::from(status.is_some_and(|status| status.success()));
        }
        Ok(arrived)
    }

    /// The cost of parsing a received frame.
    fn frames(&self) -> Result<Value, Failure> {
        let line = words([&*self.stage.program("quiclane-bench"), "frame"]);
        let mut frames = self.start(Side::Server, "frames", line)?;
        frames.succeed(SPARE)?;
        frames.last_line()
    }
}
