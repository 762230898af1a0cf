//! `quiclane perf run`: a run from beginning to end.
//!
//! Connections are made, a few hundred handshakes at a time. Then all begin together, warm up, and
//! are measured. When time is up no request begins, and the run waits for open ones as long as
//! answers come: a request without an answer is a fault then. At last the connections close, so that
//! both sides know what they have lost.

use super::args::{PerfArgs, PerfCommand, PerfRunArgs, Scenario};
use super::client::{CLOSE, FAILURES_MAX, GO, Message, PerfClient, Plan};
use super::control::Control;
use super::cycles::Cycles;
use super::lines::Lines;
use super::pacer::Pacer;
use super::report::{Report, Server, Spent};
use super::settings::Settings;
use super::state::ServerState;
use super::tally::{Latencies, Tally, Totals, Window, histogram, out_most};
use super::{ALPN, host, state, widened};
use crate::args::{PollKind, ProfileKind, ServeArgs};
use crate::error::Failure;
use crate::identity::client_tls;
use crate::signals::End;
use crate::{io, serve, status};
use hdrhistogram::Histogram;
use quiclane::TransportConfig;
use quiclane::exec::clock::Clock;
use quiclane::exec::{ClientConfig, Handle, HandleError, Registration};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Handshakes under way at one time: enough to keep a server busy, and a quarter of the number at
/// which our server begins to send Retry.
const HANDSHAKES_AT_ONCE: usize = 256;
/// How long connecting goes on without another connection.
const CONNECT_PATIENCE_NS: u64 = 20_000_000_000;
/// The interval at which the main thread looks, if nothing is reported.
const TICK: Duration = Duration::from_millis(20);
/// How long the end waits for the next answer to open requests.
const DRAIN_NS: u64 = 10_000_000_000;
/// How long connections may take to begin closing.
const CLOSE_PATIENCE_NS: u64 = 2_000_000_000;
/// How long the server's connections may take to end; and so much longer for each.
const LOSS_PATIENCE_NS: u64 = 3_000_000_000;
const LOSS_PATIENCE_EACH_NS: u64 = 50_000;
/// How long connections may take to close at the end.
const SHUTDOWN_PATIENCE: Duration = Duration::from_millis(500);
/// Quiet connections stay: a server gives up silent ones after 30 s or more.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// The most reasons of ended connections in a report.
const REASONS_MAX: usize = 8;

/// Runs a scenario, or the server for one.
pub(crate) fn run(args: &PerfArgs) -> Result<(), Failure> {
    match &args.command {
        PerfCommand::Server(args) => serve::run(&ServeArgs { perf: true, ..args.clone() }),
        PerfCommand::Run(run) => measure(run),
    }
}

fn measure(args: &PerfRunArgs) -> Result<(), Failure> {
    let settings = Settings::new(args, std::io::stderr().is_terminal())?;
    // Before the workers' threads begin: it counts those that begin later.
    let cycles = Cycles::start();
    let mut run = Run::prepare(args, settings, cycles)?;
    let (mut control, first) = Control::connect(&run.registration, &run.plan)?;
    if run.plan.settings.scenario != Scenario::Hps {
        run.connect_all()?;
    }
    // A server that was slow to report is asked once more, before anything is measured.
    let first = first.or_else(|| control.ask());
    run.go()?;
    run.wait_until(run.plan.window.begin());
    let before = run.sample();
    let server_before = control.ask();
    run.wait_until(run.plan.window.end());
    let spent = run.sample().since(&before);
    let server_after = control.ask();
    let mut report = run.report(args, spent, &control);
    run.drain(&mut report);
    run.close();
    report.server = Server {
        first,
        before: server_before,
        after: server_after,
        last: run.lost_by_server(&mut control, report.is_silent()),
        why_silent: control.why_silent().to_owned(),
    };
    run.finish(&mut report);
    report.print(args.json)?;
    report.verdict()
}

/// What this process has spent until now.
struct Sample {
    cpu_seconds: f64,
    cycles: Option<u64>,
}

impl Sample {
    fn since(&self, before: &Self) -> Spent {
        Spent {
            client_cpu: self.cpu_seconds - before.cpu_seconds,
            cycles: self.cycles.zip(before.cycles).map(|(a, b)| a.saturating_sub(b)),
        }
    }
}

struct Run {
    plan: Arc<Plan>,
    registration: Registration,
    inbox: Receiver<Message>,
    end: End,
    clock: Clock,
    cycles: Option<Cycles>,
    /// By worker.
    handles: Vec<Vec<Handle>>,
    spins: bool,
    handshakes: Histogram<u64>,
    latencies: Latencies,
    lines: Lines,
    /// Why connections ended early.
    reasons: Vec<String>,
    is_interrupted: bool,
}

impl Run {
    fn prepare(
        args: &PerfRunArgs,
        settings: Settings,
        cycles: Option<Cycles>,
    ) -> Result<Self, Failure> {
        let mut config = ClientConfig::new(client_tls(&args.trust, ALPN)?);
        let transport = widened(io::transport(&args.io)?);
        config.transport = Arc::new(TransportConfig { keep_alive: Some(KEEP_ALIVE), ..transport });
        let server_name = args.trust.server_name(&args.server)?;
        let server = args.server.resolve_one()?;
        tracing::info!("connecting to {server} as {server_name}");
        let registration = io::open_client(&args.io)?;
        let workers = registration.workers();
        let (messages, inbox) = channel();
        let plan = Arc::new(Plan {
            request: Plan::request(&settings),
            settings,
            server,
            server_name,
            config,
            window: Window::default(),
            tallies: (0..workers).map(|_| Tally::default()).collect(),
            messages,
        });
        let clock = Clock::monotonic();
        Ok(Self {
            lines: Lines::new(&plan, clock.now().as_nanos()),
            plan,
            registration,
            inbox,
            end: End::listen()?,
            clock,
            cycles,
            handles: vec![Vec::new(); workers],
            spins: args.io.poll != Some(PollKind::Sleep)
                && args.io.profile != ProfileKind::Scavenger,
            handshakes: histogram(),
            latencies: Latencies { all: histogram(), recent: histogram() },
            reasons: Vec::new(),
            is_interrupted: false,
        })
    }

    fn now(&self) -> u64 {
        self.clock.now().as_nanos()
    }

    fn totals(&self) -> Totals {
        Totals::of(&self.plan.tallies)
    }

    fn sample(&mut self) -> Sample {
        Sample {
            cpu_seconds: crate::sys::cpu_seconds(),
            cycles: self.cycles.as_mut().and_then(Cycles::read),
        }
    }

    /// Takes one report of a connection, if there is one soon. True if a handshake is complete.
    fn hear(&mut self, patience: Duration) -> bool {
        self.inbox.recv_timeout(patience).is_ok_and(|message| self.note(message))
    }

    fn note(&mut self, message: Message) -> bool {
        match message {
            Message::Connected { handshake_ns } => {
                self.handshakes.saturating_record(handshake_ns);
                true
            }
            Message::Failed(why) => {
                if self.reasons.len() < REASONS_MAX && !self.reasons.contains(&why) {
                    self.reasons.push(why);
                }
                false
            }
        }
    }

    /// Makes the connections, as many at a time as the server and the inboxes take.
    fn connect_all(&mut self) -> Result<(), Failure> {
        let wanted = self.plan.settings.connections;
        let (mut begun, mut there, mut progress_at) = (0, 0, self.now());
        loop {
            let failed = self.totals().ended_early as usize;
            if there + failed >= wanted {
                break;
            }
            while begun < wanted && begun < there + failed + HANDSHAKES_AT_ONCE {
                if !self.connect_one(begun)? {
                    break;
                }
                begun += 1;
            }
            if self.hear(TICK) {
                there += 1;
                progress_at = self.now();
            }
            let now = self.now();
            self.lines.connecting(now, there, wanted);
            if self.end.wait(Duration::ZERO) {
                let so_far = format!("interrupted: {there} of {wanted} connections were made");
                return Err(Failure::Failed(so_far));
            }
            if now - progress_at > CONNECT_PATIENCE_NS {
                let s = CONNECT_PATIENCE_NS / 1_000_000_000;
                return Err(Failure::Failed(format!(
                    "{there} of {wanted} connections were made, and no other for {s} s"
                )));
            }
        }
        if there == 0 {
            let why = self.reasons.first().map_or("no connection was made", String::as_str);
            let server = self.plan.server;
            return Err(Failure::Failed(format!("no connection to {server}: {why}")));
        }
        Ok(())
    }

    /// False if the inbox of the worker is full just now.
    fn connect_one(&mut self, number: usize) -> Result<bool, Failure> {
        let plan = &self.plan;
        let worker = number % self.handles.len();
        let client = PerfClient::new(plan, self.now());
        let connecting = self.registration.connect_on(
            worker,
            plan.server,
            &plan.server_name,
            &plan.config,
            client,
        );
        match connecting {
            Ok(handle) => self.handles[worker].push(handle),
            Err(HandleError::Full) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// Starts the requests.
    fn go(&mut self) -> Result<(), Failure> {
        let settings = &self.plan.settings;
        let (workers, is_hps) = (self.handles.len(), settings.scenario == Scenario::Hps);
        if settings.rate.is_none() && !is_hps {
            self.wake_all(GO);
        }
        let settings = &self.plan.settings;
        let ns = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let start = self.now();
        let begin = start.saturating_add(ns(settings.warmup));
        self.plan.window.set(begin, begin.saturating_add(ns(settings.seconds)));
        tracing::info!(
            "{} begins with {} connections: {:?} of warm-up, then {:?}",
            settings.scenario.name(),
            self.totals().live,
            settings.warmup,
            settings.seconds
        );
        self.lines.begin(start);
        for worker in 0..workers {
            let plan = Arc::clone(&self.plan);
            if is_hps {
                let all = settings.connections;
                let share = all / workers + usize::from(worker < all % workers);
                self.registration.on_worker(worker, move |w| {
                    (0..share).for_each(|_| plan.connect_from(w));
                })?;
            } else if settings.rate.is_some() {
                let handles = self.handles[worker].clone();
                let pacer = Pacer::new(&plan, handles, start, (worker, workers), self.spins);
                self.registration.on_worker(worker, move |w| pacer.run(w))?;
            }
        }
        Ok(())
    }

    /// Wakes every connection.
    fn wake_all(&self, token: u64) {
        for handle in self.handles.iter().flatten() {
            while handle.wake(token) == Err(HandleError::Full) {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    }

    /// Waits until then. A signal, or the end of all connections, ends the run.
    fn wait_until(&mut self, until: u64) {
        loop {
            let now = self.now();
            // A run that was cut ends before.
            let until = until.min(self.plan.window.end());
            if now >= until {
                return;
            }
            let totals = self.totals();
            let is_hps = self.plan.settings.scenario == Scenario::Hps;
            let is_alone =
                if is_hps { totals.ended_early >= FAILURES_MAX } else { totals.live == 0 };
            if self.end.wait(Duration::ZERO) {
                self.is_interrupted = true;
                self.plan.window.cut(now);
            } else if is_alone {
                self.plan.window.cut(now);
            }
            self.lines.tick(now, &self.plan, &mut self.latencies);
            self.hear(TICK.min(Duration::from_nanos(until - now)));
        }
    }

    /// The state when time is up.
    fn report(&self, args: &PerfRunArgs, spent: Spent, control: &Control) -> Report {
        let (settings, window) = (&self.plan.settings, &self.plan.window);
        let status = self.registration.status();
        let totals = self.totals();
        let in_flight = if settings.counts_requests() {
            totals.asked.saturating_sub(totals.settled + totals.refused)
        } else {
            totals.out
        };
        let mut queues = status::rows(&status);
        // The control connection is not part of the run.
        if let Some((worker, is_there)) = control.place()
            && let Some(row) = queues.get_mut(worker)
        {
            row.connections = row.connections.saturating_sub(u64::from(is_there));
            row.connections_total = row.connections_total.saturating_sub(1);
        }
        Report {
            settings: settings.clone(),
            streams_asked: args.streams,
            seconds: window.end().saturating_sub(window.begin()) as f64 / 1e9,
            is_interrupted: self.is_interrupted,
            connections_live: totals.live,
            streams_most: out_most(&self.plan.tallies),
            in_flight,
            rss_bytes: host::rss_bytes(),
            drops: state::drops(&status),
            spent,
            queues,
            totals,
            longest_silence_ns: 0,
            silent_worker: 0,
            handshakes: self.handshakes.clone(),
            latencies: histogram(),
            intervals: Vec::new(),
            reasons: Vec::new(),
            server: Server::default(),
        }
    }

    /// Waits for open requests, while answers come.
    fn drain(&mut self, report: &mut Report) {
        let until = self.now() + DRAIN_NS;
        let is_hps = self.plan.settings.scenario == Scenario::Hps;
        let max_silence = self.plan.settings.max_silence.as_nanos();
        loop {
            let (now, totals) = (self.now(), self.totals());
            let (silence, worker) = Lines::silence(&self.plan, now);
            // In a run that ends by the clock, open requests are no silence after the end.
            if self.plan.settings.counts_requests() || report.longest_silence_ns == 0 {
                (report.longest_silence_ns, report.silent_worker) = (silence, worker);
            }
            let is_done = totals.settled + totals.refused >= totals.asked;
            let is_alone = !is_hps && totals.live == 0;
            let counts = self.plan.settings.counts_requests();
            let is_silent = u128::from(silence) > max_silence;
            if !counts || is_done || is_alone || is_silent || now > until {
                report.totals = totals;
                return;
            }
            self.hear(TICK);
        }
    }

    /// Closes the connections, and waits until they are closing.
    fn close(&mut self) {
        self.plan.window.close();
        self.wake_all(CLOSE);
        let until = self.now() + CLOSE_PATIENCE_NS;
        while self.totals().live > 0 && self.now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The server's state once it has as many connections as before the run: the losses of a
    /// connection are counted when it ends. A busy server is asked again, one that `is_silent` once.
    fn lost_by_server(&mut self, control: &mut Control, is_silent: bool) -> Option<ServerState> {
        let connections = self.plan.settings.connections as u64;
        let patience = LOSS_PATIENCE_NS + connections * LOSS_PATIENCE_EACH_NS;
        let until = self.now() + if is_silent { 0 } else { patience };
        loop {
            let state = control.ask();
            // The control connection is one of them.
            let is_last = |state: &ServerState| state.connections.is_none_or(|n| n <= 1);
            if state.as_ref().is_some_and(is_last) || control.is_over() || self.now() > until {
                return state;
            }
            std::thread::sleep(TICK);
        }
    }

    fn finish(mut self, report: &mut Report) {
        while let Ok(message) = self.inbox.try_recv() {
            self.note(message);
        }
        self.registration.shutdown(0, SHUTDOWN_PATIENCE);
        self.plan.tallies.iter().for_each(|tally| tally.collect(&mut self.latencies));
        let (settled, last) = (report.totals, Totals::of(&self.plan.tallies));
        // What closing has counted: losses. The rest is as it was when waiting ended.
        report.totals = Totals {
            lost_packets: last.lost_packets,
            lost_bytes: last.lost_bytes,
            ptos: last.ptos,
            congestion_events: last.congestion_events,
            ..settled
        };
        report.latencies = self.latencies.all;
        report.reasons = self.reasons;
        report.intervals = self.lines.intervals;
    }
}
