//! From a configuration to running workers.

use super::super::affinity::{self, PinError, WorkerPlacement};
use super::super::api::{Services, Setting};
use super::super::clock::Clock;
use super::super::config::{Io, LaneLimits, Polling, Profile, RegistrationConfig, UdpTuning};
use super::super::entropy::Entropy;
use super::super::lane::{Lane, LaneParts};
use super::super::message::{Command, Control, WorkerFleet};
use super::super::predecessors::Predecessors;
use super::super::source::{LadderStep, OpenDatapathError, Source, steps};
use super::super::status::Board;
use super::super::sys::{self, Poller};
use super::super::takeover::{self, Identity, Inheritance, Received, TakeoverError};
use super::super::worker::Worker;
use super::relays::{self, Line};
use super::run::{LoopParts, Occupied};
use super::seating::{self, Seating, is_pinned, polling, seat, suffix, thread_name};
use super::watching::Watching;
use super::{Registration, Shared, WorkerLoop};
use crate::datapath::Mode;
use crate::datapath::xdp::{HandedDevice, XdpConfig, XdpDevice, XdpError};
use crate::lb::{Codec, MAX_PROCESSES, MAX_WORKERS, ReservedConfigId};
use crate::proto::crypto::ResetKey;
use crate::proto::token::{TokenConfig, Tokens, UsedTokens};
use crate::time::Instant;
use crate::topology::watch::Steering;
use crate::topology::{self, Machine, Note, Placement, PlacementError, Request, Sharing, Unmet};
use crossbeam::channel;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Why a registration did not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The queues could not be placed on CPUs.
    Placement(PlacementError),
    /// The device could not be opened for AF_XDP.
    Xdp(XdpError),
    /// A worker's queue could not be opened.
    Queue {
        /// The worker.
        worker: usize,
        /// Why.
        error: OpenDatapathError,
    },
    /// A worker's thread could not be pinned or scheduled.
    Pin {
        /// The worker.
        worker: usize,
        /// Why.
        error: PinError,
    },
    /// The configuration id for connection ids is reserved.
    CidConfig(ReservedConfigId),
    /// The running process could not be taken over from.
    Takeover(TakeoverError),
    /// No workers, or more than connection ids can name.
    Workers(usize),
    /// A system call of the workers' own failed.
    System(io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Placement(error) => error.fmt(f),
            Self::Xdp(error) => error.fmt(f),
            Self::Queue { worker, error } => write!(f, "worker {worker}: {error}"),
            Self::Pin { worker, error } => write!(f, "worker {worker}: {error}"),
            Self::CidConfig(error) => error.fmt(f),
            Self::Takeover(error) => error.fmt(f),
            Self::Workers(count) => {
                write!(f, "{count} workers cannot be opened: ask for 1 to {MAX_WORKERS}")
            }
            Self::System(error) => write!(
                f,
                "a worker cannot be started: {error}; check the limits on open files and threads \
                 (`ulimit -n`, `ulimit -u`)"
            ),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Placement(error) => Some(error),
            Self::Xdp(error) => Some(error),
            Self::Queue { error, .. } => Some(error),
            Self::Pin { error, .. } => Some(error),
            Self::CidConfig(error) => Some(error),
            Self::Takeover(error) => Some(error),
            Self::Workers(_) => None,
            Self::System(error) => Some(error),
        }
    }
}

/// A worker that has not started: what a thread needs to become it.
pub struct WorkerSeed {
    number: usize,
    name: String,
    placement: WorkerPlacement,
    soft_cpus: Vec<u32>,
    profile: Profile,
    polling: Polling,
    limits: LaneLimits,
    codec: Codec,
    secrets: Secrets,
    occupied: Occupied,
    source: Source,
    board: Arc<Board>,
    clock: Clock,
    leaves_lost: bool,
    process: u8,
    inheritance: Option<Arc<Inheritance>>,
    /// To the thread of its queue, if that is another one.
    line: Option<Line>,
}

impl fmt::Debug for WorkerSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerSeed")
            .field("number", &self.number)
            .field("placement", &self.placement)
            .finish_non_exhaustive()
    }
}

impl WorkerSeed {
    /// The number of the worker.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

    /// The CPU that the worker was placed on: [`start`](Self::start) pins the thread to it.
    #[must_use]
    pub fn cpu(&self) -> Option<u32> {
        self.placement.cpu
    }

    /// Makes the calling thread this worker: pins it, and opens its queue.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn start(self) -> Result<WorkerLoop, OpenError> {
        let worker = self.number;
        let poller = Poller::new().map_err(OpenError::System)?;
        let descriptor = poller.descriptor();
        affinity::take(&self.placement, self.profile)
            .map_err(|error| OpenError::Pin { worker, error })?;
        let services = Services::new(Setting {
            now: self.clock.now(),
            worker: worker as u16,
            fleet: self.occupied.fleet.clone(),
            entropy: Entropy::system(),
            clock: Some(self.clock),
            poller: Some(poller),
        });
        let (codec, reset, limits) = (self.codec, self.secrets.reset_key(), self.limits);
        let lane = Lane::new(LaneParts { services, codec, process: self.process, reset, limits });
        let worker_with_board = Worker::new(lane, self.occupied.fleet.clone(), self.polling)
            .with_board(self.board.clone());
        let mut running = WorkerLoop::new(LoopParts {
            worker: worker_with_board,
            descriptor,
            clock: self.clock,
            source: self.source,
            board: self.board.clone(),
            placement: self.placement,
            occupied: self.occupied,
            leaves_lost: self.leaves_lost,
            inheritance: self.inheritance,
            line: self.line,
        });
        running.open_queue().map_err(|error| OpenError::Queue { worker, error })?;
        // Told once it is so.
        if affinity::loosen(&self.soft_cpus) {
            self.board.change_facts(|facts| facts.soft_cpus = self.soft_cpus);
        }
        Ok(running)
    }
}

/// Prepares everything but the threads.
pub(super) fn prepare(
    mut config: RegistrationConfig,
) -> Result<(Registration, Vec<WorkerSeed>), OpenError> {
    let Origin { identity, device, inherited } = origin(&mut config)?;
    let (source, machine, placement) = attach_and_place(&config, device)?;
    say(&placement.notes);
    let workers_of_a_queue = config.workers_of_a_queue();
    let fleet = fleet(&config, placement.rows.len().saturating_mul(workers_of_a_queue))?;
    let workers = fleet.len();
    let queues: Vec<u32> = placement.rows.iter().map(|row| row.queue).collect();
    let inheritance = inherited.map(|inherited| inherited.divide(&fleet, &queues));
    let secrets = Secrets::derive(&config);
    let codec = Codec::new(&config.cid_config(secrets.cid_secret, secrets.cid_key))
        .map_err(OpenError::CidConfig)?;
    let boards: Arc<[Arc<Board>]> = (0..workers).map(|_| Arc::default()).collect();
    let clock = Clock::monotonic();
    let polling = polling(&config);
    let plan = relays::Plan {
        source: &source,
        fleet: &fleet,
        codec: &codec,
        clock,
        polling,
        workers_of_a_queue,
    };
    let seating = seat(&config, &machine, &placement, &plan)?;
    seating::tell(&boards, &placement, &seating);
    let Seating { places, soft_cpus, lines, relays, .. } = seating;
    let limits = config.limits_of_one(workers, sys::memory_bytes());
    let mut lines = lines.into_iter();
    let seed = |(number, placement): (usize, WorkerPlacement)| WorkerSeed {
        number,
        name: thread_name(&config.name, &suffix(&config, &source, number, placement.queue)),
        soft_cpus: soft_cpus.get(number / workers_of_a_queue).cloned().unwrap_or_default(),
        placement,
        profile: config.profile,
        polling,
        limits,
        codec: codec.clone(),
        secrets,
        occupied: Occupied { fleet: fleet.clone(), number },
        source: source.clone(),
        board: boards[number].clone(),
        clock,
        leaves_lost: config.leave_lost_addresses,
        process: identity.process,
        inheritance: inheritance.clone(),
        line: lines.next(),
    };
    let seeds = places.into_iter().enumerate().map(seed).collect();
    let shared = Arc::new(Shared {
        watching: source.device().and_then(|on| Watching::open(on, queues)).map(Mutex::new),
        fleet,
        boards,
        source,
        secrets,
        used_tokens: UsedTokens::new(&TokenConfig::default(), UsedTokens::DEFAULT_CAPACITY),
        refusing: Arc::default(),
        next_listener: AtomicU32::new(0),
        next_worker: AtomicUsize::new(0),
        notes: placement.notes,
        listening: Mutex::default(),
        opened: Mutex::new(inheritance.iter().flat_map(|all| all.listened().to_vec()).collect()),
        identity,
        inheritance,
        profile: config.profile,
        succession: Default::default(),
    });
    Ok((Registration { shared, threads: Vec::new(), relays, clock, is_over: false }, seeds))
}

fn fleet(config: &RegistrationConfig, workers: usize) -> Result<Arc<WorkerFleet>, OpenError> {
    if workers == 0 || workers > MAX_WORKERS {
        return Err(OpenError::Workers(workers));
    }
    WorkerFleet::new(workers, config.inbox_commands.max(1)).map_err(OpenError::System)
}

/// How a process begins: by itself, or with what another one gave it.
struct Origin {
    identity: Identity,
    /// What the other one gave of its device, if it had one; `None` if there is no other.
    device: Option<Option<(String, HandedDevice)>>,
    inherited: Option<Inherited>,
}

/// What workers go on with.
struct Inherited {
    predecessors: Predecessors,
    inheritance: Inheritance,
}

impl Inherited {
    /// Divides it among the workers of these queues.
    fn divide(self, fleet: &WorkerFleet, queues: &[u32]) -> Arc<Inheritance> {
        fleet.set_predecessors(self.predecessors);
        self.inheritance.assign(queues);
        Arc::new(self.inheritance)
    }
}

/// Asks the running process, if there is to be one, for what it has.
fn origin(config: &mut RegistrationConfig) -> Result<Origin, OpenError> {
    let received = match &config.takeover {
        Some(_) if config.profile == Profile::MaxThroughput => {
            let what = "a process with the profile MaxThroughput takes over from no other: choose another \
                        profile, or leave out the takeover";
            return Err(OpenError::Takeover(TakeoverError::Differs(what.to_owned())));
        }
        Some(path) => takeover::receive(path).map_err(OpenError::Takeover)?,
        None => None,
    };
    let before = received.as_ref().map(|received| &received.identity);
    let identity = identity(config, before).map_err(OpenError::Takeover)?;
    config.secret = Some(identity.secret);
    Ok(match received {
        Some(Received { device, predecessors, inheritance, .. }) => {
            let inherited = Some(Inherited { predecessors, inheritance });
            Origin { identity, device: Some(device), inherited }
        }
        None => Origin { identity, device: None, inherited: None },
    })
}

/// Attaches to the device, if there is one, and says which worker sits where.
fn attach_and_place(
    config: &RegistrationConfig,
    device: Option<Option<(String, HandedDevice)>>,
) -> Result<(Source, Machine, Placement), OpenError> {
    // A placement that fails is reported before the device is touched: attaching to it makes some
    // drivers reset their queues.
    let mut machine = topology::Source::live().machine();
    if let Io::Xdp(xdp) | Io::Auto(xdp) = &config.io {
        placement(config, &machine, Some(&xdp.device))?;
    }
    let source = match device {
        Some(device) => taken_source(&config.io, device)?,
        None => source(&config.io)?,
    };
    if matches!(source, Source::Xdp { .. }) {
        // Interrupts that were requested again may be served elsewhere than before.
        machine = topology::Source::live().machine();
    }
    let placement = placement(config, &machine, source.device())?;
    Ok((source, machine, placement))
}

/// A thread for each seed; all of them have started when this returns.
pub(super) fn spawn(seeds: Vec<WorkerSeed>) -> Result<Vec<JoinHandle<()>>, OpenError> {
    let mut threads = Vec::new();
    let fleet = seeds.first().map(|seed| seed.occupied.fleet.clone());
    let mut outcome = Ok(());
    for seed in seeds {
        let (started, report) = channel::bounded(1);
        let thread = std::thread::Builder::new().name(seed.name.clone());
        let spawned = thread.spawn(move || match seed.start() {
            Ok(running) => {
                drop(started.send(Ok(())));
                running.run();
            }
            Err(error) => drop(started.send(Err(error))),
        });
        match spawned {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                outcome = Err(OpenError::System(error));
                break;
            }
        }
        // One after the other: queues are opened in order, and the first failure ends it.
        outcome = report.recv().unwrap_or_else(|_| {
            Err(OpenError::System(io::Error::other("a worker's thread panicked as it began")))
        });
        if outcome.is_err() {
            break;
        }
    }
    if outcome.is_err() {
        end(fleet, threads);
        return outcome.map(|()| Vec::new());
    }
    Ok(threads)
}

/// Ends workers that had started before one failed.
fn end(fleet: Option<Arc<WorkerFleet>>, threads: Vec<JoinHandle<()>>) {
    let Some(fleet) = fleet else { return };
    for worker in 0..fleet.len() {
        if let Some(inbox) = fleet.inbox(worker) {
            let finish = Control::Finish { code: 0, until: Instant::EPOCH };
            let _ = inbox.post(Command::Control(finish));
        }
    }
    for thread in threads {
        drop(thread.join());
    }
}

fn source(io: &Io) -> Result<Source, OpenError> {
    match io {
        Io::Udp(tuning) => Ok(Source::Udp { tuning: tuning.clone(), ladder: Vec::new() }),
        Io::Xdp(config) => attach(config).map_err(OpenError::Xdp),
        Io::Auto(config) => attach(config).or_else(|error| {
            if !config.require.allows(Mode::Udp) {
                return Err(OpenError::Xdp(error));
            }
            tracing::warn!(device = config.device, %error, "kernel UDP instead of AF_XDP");
            let ladder = match error {
                XdpError::Refused { ladder, .. } => steps(&ladder),
                // It failed before any mode was tried: the first rung.
                error => {
                    let tried = config.force_mode.unwrap_or(Mode::NativeZerocopy);
                    vec![LadderStep { tried, reason: error.to_string() }]
                }
            };
            Ok(Source::Udp { tuning: UdpTuning::default(), ladder })
        }),
    }
}

/// What workers open their datapaths from, where another process had opened it.
fn taken_source(io: &Io, handed: Option<(String, HandedDevice)>) -> Result<Source, OpenError> {
    let differs = |what: String| OpenError::Takeover(TakeoverError::Differs(what));
    match (io, handed) {
        (Io::Udp(tuning), None) => Ok(Source::Udp { tuning: tuning.clone(), ladder: Vec::new() }),
        (Io::Auto(xdp), None) if xdp.require.allows(Mode::Udp) => {
            Ok(Source::Udp { tuning: UdpTuning::default(), ladder: Vec::new() })
        }
        (Io::Xdp(xdp) | Io::Auto(xdp), Some((device, handed))) if xdp.device == device => {
            let (device, ladder) = XdpDevice::adopt(xdp, handed).map_err(OpenError::Xdp)?;
            Ok(Source::Xdp { device, ladder })
        }
        (Io::Xdp(xdp) | Io::Auto(xdp), None) => Err(differs(format!(
            "this process is to serve {}, and the running one uses kernel UDP: stop it first",
            xdp.device
        ))),
        (Io::Udp(_), Some((device, _))) => Err(differs(format!(
            "this process is to use kernel UDP, and the running one serves {device}: stop it first"
        ))),
        (Io::Xdp(xdp) | Io::Auto(xdp), Some((device, _))) => Err(differs(format!(
            "this process is to serve {}, and the running one serves {device}: stop it first",
            xdp.device
        ))),
    }
}

/// What this process and those that take over from it agree on.
fn identity(
    config: &RegistrationConfig,
    before: Option<&Identity>,
) -> Result<Identity, TakeoverError> {
    let &RegistrationConfig { server_id, cid_config_id, cid_key, .. } = config;
    let Some(before) = before else {
        let secret = config.secret.unwrap_or_else(|| Entropy::system().bytes());
        return Ok(Identity { process: 0, secret, server_id, cid_config_id, cid_key });
    };
    let secret = config.secret.unwrap_or(before.secret);
    let process = (before.process + 1) % MAX_PROCESSES as u8;
    let identity = Identity { process, secret, server_id, cid_config_id, cid_key };
    let same = [
        ("secret", identity.secret == before.secret),
        ("server_id", server_id == before.server_id),
        ("cid_config_id", cid_config_id == before.cid_config_id),
        ("cid_key", cid_key == before.cid_key),
    ];
    match same.iter().find(|(_, same)| !same) {
        None => Ok(identity),
        Some((setting, _)) => Err(TakeoverError::Differs(format!(
            "{setting} is not that of the running process, whose connections it names: set it to the same"
        ))),
    }
}

fn attach(config: &XdpConfig) -> Result<Source, XdpError> {
    let before = Steering::read(&config.device);
    let (device, ladder) = XdpDevice::attach(config)?;
    if let Some(lost) = before.lost(&Steering::read(&config.device)) {
        tracing::warn!(
            device = config.device,
            "attaching the program changed RSS: {lost}; set it again, now that the program is there: \
             quiclane plan {}",
            config.device
        );
    }
    Ok(Source::Xdp { device, ladder })
}

/// Which CPU serves which queue of `device`; without one, workers are placed as if they were
/// queues.
fn placement(
    config: &RegistrationConfig,
    machine: &Machine,
    device: Option<&str>,
) -> Result<Placement, OpenError> {
    let allowed = sys::allowed_cpus().map_err(OpenError::System)?;
    let mut request = Request {
        device: device.map(str::to_owned),
        queues: config.queues.clone(),
        cpus: config.cpus.clone(),
        allowed,
        sharing: config.sharing,
        near: config.near,
    };
    if device.is_none() {
        let cpus = if config.cpus.is_empty() { &request.allowed } else { &config.cpus };
        let workers = config.workers.unwrap_or((cpus.len() / config.threads_of_a_queue()).max(1));
        if workers == 0 || workers > MAX_WORKERS {
            return Err(OpenError::Workers(workers));
        }
        request.queues = (0..workers as u32).collect();
    }
    let is_pinned = is_pinned(config.pin, device.is_some());
    if !is_pinned {
        request.sharing = Sharing::Allow;
    }
    let mut placement = topology::place(machine, &request).map_err(OpenError::Placement)?;
    if !is_pinned {
        // Nothing is placed, so there are no notes.
        placement.notes.retain(|note| matches!(note, Note::NodeUnknown { .. }));
    }
    Ok(placement)
}

/// Logs what is to be said of the workers' places. That a virtual device has no interrupts is not
/// worth a warning: it is a line of information here, and a note of `quiclane doctor` (QL019).
fn say(notes: &[Note]) {
    let (quiet, loud): (Vec<Note>, Vec<Note>) = notes
        .iter()
        .cloned()
        .partition(|note| matches!(note, Note::NotNear { unmet: Unmet::NoInterrupts, .. }));
    for note in folded(&loud) {
        tracing::warn!("{note}");
    }
    for note in folded(&quiet) {
        tracing::info!("{note}");
    }
}

/// Notes for a log: one line for each kind.
fn folded(notes: &[Note]) -> Vec<String> {
    let mut lines: Vec<(&Note, usize)> = Vec::new();
    for note in notes {
        let kind = std::mem::discriminant(note);
        match lines.iter_mut().find(|(first, _)| std::mem::discriminant(*first) == kind) {
            Some((_, more)) => *more += 1,
            None => lines.push((note, 0)),
        }
    }
    let line = |(note, more): &(&Note, usize)| match more {
        0 => note.to_string(),
        more => format!("{note}; and {more} more such"),
    };
    lines.iter().map(line).collect()
}

/// What is derived from the host's secret, each from bytes of its own.
#[derive(Clone, Copy)]
pub(super) struct Secrets {
    cid_secret: [u8; 16],
    cid_key: [u8; 16],
    reset: [u8; 32],
    tokens: [u8; 32],
}

impl Secrets {
    /// A worker's key for the tokens of stateless resets.
    pub(super) fn reset_key(&self) -> ResetKey {
        ResetKey::new(&self.reset)
    }

    /// A worker's part in tokens.
    pub(super) fn tokens(&self, used: &UsedTokens) -> Tokens {
        Tokens::new(&self.tokens, TokenConfig::default(), used.clone())
    }

    fn derive(config: &RegistrationConfig) -> Self {
        let secret = config.secret.unwrap_or_else(|| Entropy::system().bytes());
        // HMAC of a label under the secret, as key derivation does (RFC 5869, expand).
        let root = ResetKey::new(&secret);
        let half = |label: &[u8]| root.token(label);
        let whole = |a: &[u8], b: &[u8]| {
            let (a, b) = (half(a), half(b));
            std::array::from_fn(|at| if at < 16 { a[at] } else { b[at - 16] })
        };
        let for_host = |label: &[u8]| [label, &config.server_id.to_be_bytes()].concat();
        Self {
            cid_secret: half(b"quiclane cid secret"),
            cid_key: half(b"quiclane cid key"),
            // Hosts may share a secret. A host answers for its own ids alone: an attacker that sends
            // an id to another host must not learn its token (RFC 9000 §21.11).
            reset: whole(&for_host(b"quiclane reset 1"), &for_host(b"quiclane reset 2")),
            tokens: whole(b"quiclane tokens 1", b"quiclane tokens 2"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::config::{Affinity, Pin};

    #[test]
    fn secrets_follow_from_the_hosts_secret_and_differ_from_each_other() {
        let config = |byte| RegistrationConfig { secret: Some([byte; 32]), ..Default::default() };
        let (a, b) = (Secrets::derive(&config(1)), Secrets::derive(&config(1)));
        assert_eq!((a.cid_key, a.reset, a.tokens), (b.cid_key, b.reset, b.tokens));
        let other = Secrets::derive(&config(2));
        assert!(a.cid_key != other.cid_key && a.reset != other.reset && a.tokens != other.tokens);
        assert!(a.reset != a.tokens && a.cid_secret != a.cid_key);
        assert!(a.reset[..16] != a.reset[16..]);
    }

    #[test]
    fn attack_38_hosts_with_one_secret_do_not_know_each_others_reset_tokens() {
        let host = |server_id| {
            let config =
                RegistrationConfig { secret: Some([1; 32]), server_id, ..Default::default() };
            Secrets::derive(&config)
        };
        let (a, b) = (host(1), host(2));
        assert_eq!((a.cid_key, a.tokens), (b.cid_key, b.tokens), "tokens work on every host");
        assert!(a.reset != b.reset);
    }

    /// A process that began before the machine knew the time refused certificates for ever.
    #[test]
    fn a_worker_lets_tls_read_the_time_of_day() {
        use crate::exec::clock::time_of_day;
        use crate::proto::crypto::told_time_of_day;
        let config = RegistrationConfig {
            io: Io::Udp(UdpTuning::default()),
            pin: Pin::Off,
            workers: Some(1),
            ..Default::default()
        };
        let (_registration, mut seeds) = prepare(config).unwrap();
        assert_eq!(told_time_of_day(), None);
        let before = time_of_day();
        let worker = seeds.remove(0).start().unwrap();
        let told = told_time_of_day().unwrap();
        assert!(before <= told && told <= time_of_day(), "{told:?}");
        drop(worker);
        assert_eq!(told_time_of_day(), None);
    }

    /// The status names the CPUs that a soft worker may run on when the kernel has granted them.
    #[test]
    fn soft_cpus_are_told_when_they_are_so() {
        for is_granted in [true, false] {
            let config = RegistrationConfig {
                io: Io::Udp(UdpTuning::default()),
                pin: Pin::All,
                affinity: Affinity::Soft,
                workers: Some(1),
                ..Default::default()
            };
            let (registration, mut seeds) = prepare(config).unwrap();
            let mut seed = seeds.remove(0);
            if !is_granted {
                seed.soft_cpus = vec![100_000];
            }
            let cpus = if is_granted { seed.soft_cpus.clone() } else { Vec::new() };
            assert_eq!(
                (cpus.is_empty(), registration.status()[0].soft_cpus.len()),
                (!is_granted, 0)
            );
            // The thread that is pinned ends with it.
            std::thread::spawn(move || drop(seed.start().unwrap())).join().unwrap();
            assert_eq!(registration.status()[0].soft_cpus, cpus);
        }
    }

    #[test]
    fn notes_of_one_kind_are_one_line() {
        let shared = |cpu| Note::SharedCpu { cpu, queues: vec![0, 1] };
        let unknown = Note::NodeUnknown { device: "a".to_owned(), reason: "b".to_owned() };
        let lines = folded(&[shared(0), unknown, shared(1), shared(2)]);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("cpu 0") && lines[0].contains("2 more"), "{lines:?}");
    }
}
