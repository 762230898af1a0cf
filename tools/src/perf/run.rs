//! `quiclane perf`: a run from beginning to end.

use super::args::{PerfArgs, PerfCommand, PerfRunArgs, Scenario};
use super::client::{News, PerfClient, Plan, StatusClient, Tally};
use super::cycles::Cycles;
use super::report::{Report, Spent};
use super::{ALPN, widened};
use crate::error::Failure;
use crate::identity::client_tls;
use crate::{io, serve, status};
use hdrhistogram::Histogram;
use quiclane::exec::{ClientConfig, Handle, Registration};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// How long connections may take to be there.
const CONNECT_PATIENCE: Duration = Duration::from_secs(20);
/// How long the server may take to say what it has spent.
const STATUS_PATIENCE: Duration = Duration::from_secs(1);
/// How long connections may take to close.
const SHUTDOWN_PATIENCE: Duration = Duration::from_millis(500);
/// The longest run.
const MAX_SECONDS: f64 = 86_400.0;

/// Runs a scenario, or the server for one.
pub(crate) fn run(args: &PerfArgs) -> Result<(), Failure> {
    match &args.command {
        PerfCommand::Server(serve) => serve::run(serve),
        PerfCommand::Run(run) => measure(run),
    }
}

/// The wall clock of a run: nothing in here is part of the library.
#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn clock() -> Instant {
    Instant::now()
}

struct Run<'a> {
    args: &'a PerfRunArgs,
    plan: Arc<Plan>,
    config: ClientConfig,
    registration: Registration,
    tallies: Vec<Arc<Tally>>,
    news: Sender<News>,
    inbox: Receiver<News>,
    status: Option<Handle>,
    handshakes: Histogram<u64>,
    /// Handshakes that ended while something else was awaited: hps owes each a successor.
    owed: usize,
}

fn measure(args: &PerfRunArgs) -> Result<(), Failure> {
    if !(args.seconds > 0.0 && args.seconds <= MAX_SECONDS) {
        let s = args.seconds;
        return Err(Failure::Usage(format!("--seconds {s}: between 0 and {MAX_SECONDS} please")));
    }
    let mut cycles = Cycles::start();
    let mut run = Run::prepare(args)?;
    run.ask_status_first();
    // Handshakes begin with the measurement: who asks in between would take the news of the
    // first ones, and nobody would begin the next.
    let is_hps = args.scenario == Scenario::Hps;
    let before_all = if is_hps { run.server_cpu() } else { None };
    run.connect_all()?;
    let server_before = if is_hps { before_all } else { run.server_cpu() };
    let (bytes_before, requests_before) = run.totals();
    let cpu_before = crate::sys::cpu_seconds();
    let cycles_before = cycles.as_mut().and_then(Cycles::read);
    let start = clock();
    run.plan.measuring.store(true, Ordering::Relaxed);
    run.wait(start)?;
    run.plan.measuring.store(false, Ordering::Relaxed);
    let seconds = start.elapsed().as_secs_f64();
    let (bytes, requests) = run.totals();
    let client_cpu = crate::sys::cpu_seconds() - cpu_before;
    let cycles = cycles.as_mut().and_then(Cycles::read).zip(cycles_before).map(|(a, b)| a - b);
    let server_cpu = run.server_cpu().zip(server_before).map(|(a, b)| a - b);
    run.plan.stopping.store(true, Ordering::Relaxed);
    let spent = Spent { client_cpu, server_cpu, cycles };
    let report = run.finish(seconds, bytes - bytes_before, requests - requests_before, spent);
    report.print(args.json)
}

impl<'a> Run<'a> {
    fn prepare(args: &'a PerfRunArgs) -> Result<Self, Failure> {
        let scenario = args.scenario;
        let (up, down) = match scenario {
            Scenario::Rps => (512, 4000),
            Scenario::Latency => (100, 100),
            // More than can be sent in a day: the clock ends it.
            Scenario::Download => (8, 1 << 50),
            Scenario::Upload | Scenario::Hps => (8, 0),
        };
        let plan = Plan {
            scenario,
            streams: args.streams.unwrap_or(if scenario == Scenario::Rps { 10 } else { 1 }),
            up: args.up.unwrap_or(up),
            down: args.down.unwrap_or(down),
            measuring: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        };
        let mut config = ClientConfig::new(client_tls(&args.trust, ALPN)?);
        config.transport = Arc::new(widened(io::transport(&args.io)));
        let registration = io::open(&args.io)?;
        let (news, inbox) = channel();
        let handshakes = Histogram::new_with_bounds(1, 60_000_000_000, 3)
            .map_err(|e| Failure::Failed(e.to_string()))?;
        Ok(Self {
            args,
            plan: Arc::new(plan),
            config,
            registration,
            tallies: Vec::new(),
            news,
            inbox,
            status: None,
            handshakes,
            owed: 0,
        })
    }

    fn connections(&self) -> usize {
        self.args.connections.unwrap_or(match self.plan.scenario {
            Scenario::Rps => 100,
            Scenario::Hps => 16,
            _ => 1,
        })
    }

    fn connect_one(&mut self, tally: &Arc<Tally>) -> Result<(), Failure> {
        let client = PerfClient::new(&self.plan, tally, &self.news, clock());
        let name = &self.args.trust.server_name;
        self.registration.connect(self.args.server, name, &self.config, client)?;
        Ok(())
    }

    fn connect_all(&mut self) -> Result<(), Failure> {
        let wanted = self.connections();
        for _ in 0..wanted {
            let tally = Arc::new(Tally::default());
            self.connect_one(&tally)?;
            self.tallies.push(tally);
        }
        if self.plan.scenario == Scenario::Hps {
            return Ok(());
        }
        let until = clock() + CONNECT_PATIENCE;
        let mut connected = 0;
        while connected < wanted {
            match self.inbox.recv_timeout(until.saturating_duration_since(clock())) {
                Ok(News::Connected { handshake_ns }) => {
                    connected += 1;
                    self.handshakes.saturating_record(handshake_ns);
                }
                Ok(News::Failed(why)) => {
                    let server = self.args.server;
                    return Err(Failure::Failed(format!("no connection to {server}: {why}")));
                }
                Ok(News::Status(_) | News::Latencies(_)) => {}
                Err(_) => {
                    return Err(Failure::Failed(format!(
                        "{connected} of {wanted} connections were there after {} s",
                        CONNECT_PATIENCE.as_secs()
                    )));
                }
            }
        }
        Ok(())
    }

    /// Lets the time pass; connections that end too early fail the run, unless they are meant
    /// to.
    fn wait(&mut self, start: Instant) -> Result<(), Failure> {
        let until = start + Duration::from_secs_f64(self.args.seconds);
        let owed = std::mem::take(&mut self.owed);
        self.succeed(owed)?;
        loop {
            let left = until.saturating_duration_since(clock());
            if left.is_zero() {
                return Ok(());
            }
            match self.inbox.recv_timeout(left) {
                Ok(News::Connected { handshake_ns }) => {
                    self.handshakes.saturating_record(handshake_ns);
                    self.succeed(1)?;
                }
                Ok(News::Failed(why)) => {
                    return Err(Failure::Failed(format!("a connection ended early: {why}")));
                }
                Ok(News::Status(_) | News::Latencies(_)) | Err(_) => {}
            }
        }
    }

    /// In hps each handshake is followed by another.
    fn succeed(&mut self, handshakes: usize) -> Result<(), Failure> {
        if self.plan.scenario != Scenario::Hps {
            return Ok(());
        }
        for _ in 0..handshakes {
            // A tally has one writer: each connection gets its own.
            let tally = Arc::new(Tally::default());
            self.tallies.push(Arc::clone(&tally));
            self.connect_one(&tally)?;
        }
        Ok(())
    }

    fn totals(&self) -> (u64, u64) {
        let sum = |f: fn(&Tally) -> u64| self.tallies.iter().map(|t| f(t)).sum();
        (sum(|t| t.bytes.load(Ordering::Relaxed)), sum(|t| t.requests.load(Ordering::Relaxed)))
    }

    fn ask_status_first(&mut self) {
        let client = StatusClient::new(&self.news);
        let name = &self.args.trust.server_name;
        let handle = self.registration.connect(self.args.server, name, &self.config, client);
        self.status = handle.ok();
        if self.await_status().is_none() {
            tracing::info!("the server does not tell what it spends");
            self.status = None;
        }
    }

    /// Seconds of CPU that the server has spent, if it is one that tells.
    fn server_cpu(&mut self) -> Option<f64> {
        self.status.as_ref()?.wake(0).ok()?;
        self.await_status()
    }

    fn await_status(&mut self) -> Option<f64> {
        let until = clock() + STATUS_PATIENCE;
        loop {
            match self.inbox.recv_timeout(until.saturating_duration_since(clock())).ok()? {
                News::Status(text) => {
                    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
                    return value.get("cpu_seconds")?.as_f64();
                }
                News::Connected { handshake_ns } => {
                    self.handshakes.saturating_record(handshake_ns);
                    self.owed += 1;
                }
                News::Failed(_) | News::Latencies(_) => {}
            }
        }
    }

    fn finish(self, seconds: f64, bytes: u64, requests: u64, spent: Spent) -> Report {
        let queues = status::rows(&self.registration.status());
        let connections = self.connections();
        self.registration.shutdown(0, SHUTDOWN_PATIENCE);
        let mut latencies = self.handshakes.clone();
        if self.plan.scenario != Scenario::Hps {
            latencies.reset();
            for news in self.inbox.try_iter() {
                if let News::Latencies(h) = news {
                    // Same bounds, so they always fit.
                    let _ = latencies.add(*h);
                }
            }
        }
        Report {
            scenario: self.plan.scenario,
            connections,
            streams: self.plan.streams,
            seconds,
            bytes,
            requests,
            spent,
            latencies,
            queues,
        }
    }
}
