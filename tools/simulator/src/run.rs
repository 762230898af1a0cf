//! One run of one seed, in virtual time.

use crate::agent::{Agent, CLOSE_CODE, TICKET_DATA};
use crate::oracle::{Complaint, Sampler, Shared, Watch};
use crate::scenario::{PORTS_PER_REBIND, Plan, Preferred, Scenario, first_port};
use crate::secrets;
use bytes::Bytes;
use quiclane::datapath::sim::{SimConfig, SimDatapath, SimNet};
use quiclane::exec::{
    Acceptor, ClientConfig, Decision, Deferred, Handle, LaneCounters, LaneLimits, NewConnection,
    ServerConfig, SimulatedWorkers, Worker,
};
use quiclane::proto::connection::{ConnectionStats, TransportConfig};
use quiclane::proto::crypto::{ClientTls, ServerTls};
use quiclane::time::{Instant, SECOND_NS};
use quiclane::wire::Side;
use quiclane_testkit::Identity;
use std::collections::BTreeMap;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// The virtual time after which a seed counts as stuck.
const WATCHDOG_NS: u64 = 400 * SECOND_NS;
/// The most turns at one instant: with more, time does not advance.
const MAX_TURNS_AT_ONCE: u32 = 10_000;
const SERVER_PORT: u16 = 4433;
/// Makes the random numbers of the server's workers differ from the client's: bits above the numbers of
/// workers, which the library puts into bits 32 to 48.
const SERVER_HOST: u64 = 1 << 56;
/// The seed of the server's key, which protects nothing.
const KEY_SEED: [u8; 32] = *b"quiclane simulates in the open..";

/// The result of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The same for every run of a seed: every datagram, with its time and every bit, and every
    /// callback.
    pub(crate) hash: u64,
    /// The violations.
    pub(crate) complaints: Vec<Complaint>,
    /// The last events of the connection of the first complaint; only if it was asked for.
    pub(crate) story: Vec<String>,
    /// Datagrams sent.
    pub(crate) datagrams: u64,
    /// Ends of connections whose streams had all closed.
    pub(crate) finished: u64,
    /// Times that a connection took another id of its peer's while its path stayed.
    pub(crate) rotations: u64,
    /// Times that a server answered its client at another address during the handshake.
    pub(crate) handshake_moves: u64,
    /// Times that a client moved to the address that its server prefers.
    pub(crate) preferred_moves: u64,
    /// Times that a connection went to another worker.
    pub(crate) worker_moves: u64,
    /// Datagrams that followed a connection which had just moved.
    pub(crate) passed_on: u64,
    /// When it was over.
    pub(crate) over_at_ns: u64,
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The server's certificate and key, the same in every process.
fn identity() -> &'static Identity {
    static MADE: OnceLock<Identity> = OnceLock::new();
    MADE.get_or_init(|| Identity::from_seed("sim", KEY_SEED))
}

struct Host {
    workers: Vec<Worker<SimDatapath>>,
    sampler: Sampler,
}

struct World {
    net: SimNet,
    now: Instant,
    client: Host,
    server: Host,
    /// The addresses of the client and of the server.
    addresses: [IpAddr; 2],
    client_config: ClientConfig,
    shared: Shared,
    handles: BTreeMap<u16, Handle>,
    waiting: Waiting,
    manner: Manner,
}

/// An action of the scenario from outside.
#[derive(Clone, Debug)]
enum Deed {
    Connect(Box<Plan>),
    GiveUp(u16),
    /// A host, by number, and its table.
    Steer(usize, Vec<usize>),
}

/// Actions and their times.
fn deeds(scenario: &Scenario) -> Vec<(Instant, Deed)> {
    let mut all = Vec::new();
    for plan in &scenario.connections {
        all.push((plan.begins, Deed::Connect(Box::new(plan.clone()))));
        if let Some(after) = plan.gives_up {
            all.push((plan.begins.plus_ns(after), Deed::GiveUp(plan.port)));
        }
    }
    for (host, changes) in scenario.steering.iter().enumerate() {
        for (at, table) in changes {
            all.push((*at, Deed::Steer(host, table.clone())));
        }
    }
    all.sort_by_key(|(at, _)| *at);
    all
}

/// How a seed is run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner {
    /// Keep the story, which takes time.
    pub(crate) told: bool,
    /// Plant a fault that the oracle has to find.
    pub(crate) planted: Option<Planted>,
    /// Allow pauses that are this much longer.
    pub(crate) more_patience_ns: u64,
}

/// Faults that a library could have, to test that the oracle finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Planted {
    /// A receiver that has paused a stream never resumes it, and so grants nothing more: to its peer
    /// it looks as if a lost MAX_STREAM_DATA were never repeated.
    NoCredit,
    /// The same, but it resumes after [`LATE`]: a stall that ends by itself.
    LateCredit,
    /// The longest pause that is still right: slow, and no fault.
    SlowCredit,
    /// The server's workers do nothing for [`LATE`]: timers are late, and what arrives waits.
    Deaf,
    /// Calls by which a worker wakes a connection are lost.
    LostCalls,
    /// TLS gets its random numbers from another seed.
    Unseeded,
}

/// How late a planted fault is: longer than the oracle allows.
const LATE: Duration = Duration::from_secs(25);
const SLOW: Duration = Duration::from_secs(5);
/// When the server stops: during handshakes and transfers.
const DEAF_FROM: Instant = Instant::from_nanos(SECOND_NS + SECOND_NS / 10);

impl Planted {
    /// How long a receiver waits before it asks for the rest of a stream; `None`: for ever.
    pub(crate) fn resumes_after(planted: Option<Self>, otherwise: Duration) -> Option<Duration> {
        match planted {
            Some(Self::NoCredit) => None,
            Some(Self::LateCredit) => Some(LATE),
            Some(Self::SlowCredit) => Some(SLOW),
            _ => Some(otherwise),
        }
    }

    /// Until when the server does nothing, if it does nothing now.
    fn deaf_until(planted: Option<Self>, now: Instant) -> Option<Instant> {
        let until = DEAF_FROM + LATE;
        (planted == Some(Self::Deaf) && (DEAF_FROM..until).contains(&now)).then_some(until)
    }
}

/// The complaint that two runs of a seed differ.
pub(crate) fn difference(first: &Outcome, second: &Outcome) -> Option<Complaint> {
    let [a, b] = [first, second].map(|run| (run.hash, run.datagrams, run.over_at_ns));
    let what = format!("two runs differ: hash, datagrams, end {a:x?} and {b:x?}");
    (a != b).then_some(Complaint { port: None, what })
}

/// Runs a seed once.
pub(crate) fn run(seed: u64, manner: Manner) -> Result<Outcome> {
    run_scenario(&Scenario::new(seed), manner)
}

/// Runs a scenario once.
pub(crate) fn run_scenario(scenario: &Scenario, manner: Manner) -> Result<Outcome> {
    secrets::begin(scenario.seed ^ u64::from(manner.planted == Some(Planted::Unseeded)));
    let mut world = World::new(scenario, manner)?;
    let mut deeds = deeds(scenario).into_iter().peekable();
    let mut next = Instant::EPOCH;
    while !world.shared.has_complaints() {
        if let Some((at, _)) = deeds.peek() {
            next = next.min(*at);
        }
        if next == Instant::NEVER {
            break;
        }
        let now = Instant::from_nanos(next.as_nanos().next_multiple_of(scenario.turn_ns));
        if now.as_nanos() > WATCHDOG_NS {
            let open = world.shared.unfinished();
            world.shared.complain(format!("not over after {WATCHDOG_NS} ns: {open:?}"));
            break;
        }
        world.now = now;
        world.shared.set_now(now);
        while let Some((_, deed)) = deeds.next_if(|(at, _)| *at <= now) {
            world.carry_out(deed);
        }
        next = world.step()?;
    }
    Ok(world.outcome())
}

impl World {
    fn new(scenario: &Scenario, manner: Manner) -> Result<Self> {
        let net = SimNet::new(scenario.seed, SimConfig::default());
        let addresses: [IpAddr; 2] = if scenario.ipv6 {
            [Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)]
                .map(IpAddr::V6)
        } else {
            [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)].map(IpAddr::V4)
        };
        let preferred = preferred_address(scenario);
        let own: Vec<_> = match scenario.preferred {
            Preferred::Answers => vec![addresses[1], preferred],
            Preferred::Nowhere | Preferred::Dead => vec![addresses[1]],
        };
        let ports = [
            net.attach(&addresses[..1], scenario.workers[0])?,
            net.attach(&own, scenario.workers[1])?,
        ];
        let [here, there] = [ports[0][0].host(), ports[1][0].host()];
        if let Some((count, rebinds)) = &scenario.nat {
            let public: Vec<_> = (0..*count).map(|n| public_address(scenario, n)).collect();
            net.put_behind_nat(here, &public, Some(PORTS_PER_REBIND))?;
            rebinds.iter().for_each(|at| net.rebind_at(here, *at));
        }
        net.set_path(here, there, scenario.paths[0].clone());
        net.set_path(there, here, scenario.paths[1].clone());
        let server_address = SocketAddr::new(addresses[1], SERVER_PORT);
        let servers = [addresses[1], preferred].map(|ip| SocketAddr::new(ip, SERVER_PORT));
        let shared = Shared::new(scenario, servers, manner);
        let mut watch = Watch::new(servers, scenario.clients_move(), shared.clone());
        net.observe(move |event| watch.see(event));
        let (mut server_config, client_config) = configs(scenario)?;
        if manner.told {
            observe(&mut server_config.transport, &shared, None);
        }
        let plans = scenario.connections.iter().map(|plan| (plan.port, plan.clone())).collect();
        let waiting = Waiting::default();
        let acceptor: Arc<dyn Acceptor> =
            Arc::new(Listener { plans, shared: shared.clone(), manner, waiting: waiting.clone() });
        let [client_addresses, server_ports] = ports;
        let [own, peer] = &scenario.transport;
        let [from, to] = scenario.move_after;
        let client = host(scenario.seed ^ 1 << 32, from, client_addresses, |_| {})?;
        let server = host(scenario.seed ^ SERVER_HOST, to, server_ports, |worker| {
            worker.listen(0, server_address, &server_config, acceptor.clone());
        })?;
        Ok(Self {
            net,
            now: Instant::EPOCH,
            client: Host { workers: client, sampler: Sampler::new(own, peer, shared.clone()) },
            server: Host { workers: server, sampler: Sampler::new(peer, own, shared.clone()) },
            addresses,
            client_config,
            shared,
            handles: BTreeMap::new(),
            waiting,
            manner,
        })
    }

    fn carry_out(&mut self, deed: Deed) {
        match deed {
            Deed::Connect(plan) => self.connect(*plan),
            Deed::GiveUp(port) => {
                if let Some(handle) = self.handles.get(&port) {
                    // The connection may be over already.
                    let _ = handle.close(CLOSE_CODE, Bytes::from_static(b"gave up"));
                }
            }
            Deed::Steer(host, table) => {
                let host = if host == 0 { &mut self.client } else { &mut self.server };
                let host = host.workers[0].datapaths()[0].host();
                if !self.net.set_queue_table(host, &table) {
                    self.shared.complain("the queue table was refused".to_owned());
                }
            }
        }
    }

    /// Answers the clients whose time has come; those that nobody wants are forgotten, which turns
    /// them away. When the next one is to be answered.
    fn answer(&self) -> Instant {
        let mut waiting = lock(&self.waiting);
        for (_, plan, deferred) in waiting.extract_if(.., |(at, ..)| *at <= self.now) {
            if plan.refused || deferred.is_closed() {
                continue;
            }
            if let Err(error) = deferred.answer(decide(&plan, &self.shared, self.manner)) {
                self.shared.complain(error.to_string());
            }
        }
        waiting.iter().map(|(at, ..)| *at).min().unwrap_or(Instant::NEVER)
    }

    fn connect(&mut self, plan: Plan) {
        let port = plan.port;
        let count = self.client.workers.len();
        let worker = &mut self.client.workers[usize::from(port) % count];
        let agent = Agent::front(plan, Side::Client, self.shared.clone(), self.manner.planted);
        let local = SocketAddr::new(self.addresses[0], port);
        let remote = SocketAddr::new(self.addresses[1], SERVER_PORT);
        // The lane's own time may be that of an earlier turn.
        worker.lane().set_now(self.now);
        let mut config = self.client_config.clone();
        if self.manner.told {
            observe(&mut config.transport, &self.shared, Some(port));
        }
        let handle = worker.connect(0, local, remote, "sim", &config, Box::new(agent));
        self.handles.insert(port, handle);
    }

    /// Runs everything that is due now. Returns the time of the next event.
    fn step(&mut self) -> Result<Instant> {
        self.net.advance(self.now);
        let mut turns = 0;
        let deaf = Planted::deaf_until(self.manner.planted, self.now);
        loop {
            let (mut work, mut next) = (0, self.answer());
            for (host, deaf) in [(&mut self.client, None), (&mut self.server, deaf)] {
                if let Some(until) = deaf {
                    next = next.min(until);
                    continue;
                }
                for (number, worker) in host.workers.iter_mut().enumerate() {
                    let turn = worker.turn(self.now)?;
                    work += turn.work;
                    next = next.min(turn.next);
                    if turn.work > 0 {
                        let sampler = &mut host.sampler;
                        let name = (number as u64) << 62;
                        worker.lane().inspect(|id, c| {
                            let [here, there] = [c.local().port(), c.remote().port()];
                            let port = first_port(if here == SERVER_PORT { there } else { here });
                            sampler.look(id ^ name, port, c);
                        });
                    }
                }
            }
            turns += 1;
            if turns == MAX_TURNS_AT_ONCE {
                self.shared.complain(format!("time stands still at {:?}", self.now));
            }
            if self.shared.has_complaints() {
                return Ok(next);
            }
            // Datagrams that wait at a stopped host are no reason for a turn.
            if let Some(event) = self.net.next_event()
                && (event > self.now || deaf.is_none())
            {
                next = next.min(event);
            }
            if work == 0 && next > self.now {
                return Ok(next);
            }
            self.net.advance(self.now);
        }
    }

    fn outcome(mut self) -> Outcome {
        let ended = self.ended();
        let lanes = self.lanes();
        if !self.shared.has_complaints() {
            self.check_end();
        }
        let complaints = self.shared.take_complaints();
        let story = complaints.first().map(|first| self.shared.take_story(first.port));
        Outcome {
            story: story.unwrap_or_default(),
            complaints,
            hash: self.net.trace_hash() ^ self.shared.hash().rotate_left(32),
            datagrams: self.net.stats().sent,
            finished: self.shared.finished(),
            rotations: ended.iter().map(|c| c.cid_rotations).sum(),
            handshake_moves: ended.iter().map(|c| c.handshake_moves).sum(),
            preferred_moves: ended.iter().map(|c| c.preferred_moves).sum(),
            worker_moves: lanes.iter().map(|lane| lane.moved_in).sum(),
            passed_on: lanes.iter().map(|lane| lane.rx_passed_on).sum(),
            over_at_ns: self.now.as_nanos(),
        }
    }

    /// What the workers have counted.
    fn lanes(&mut self) -> Vec<LaneCounters> {
        let workers = self.client.workers.iter_mut().chain(&mut self.server.workers);
        workers.map(|worker| worker.snapshot().lane).collect()
    }

    /// What the connections that are over have counted, by worker.
    fn ended(&mut self) -> Vec<ConnectionStats> {
        let workers = self.client.workers.iter_mut().chain(&mut self.server.workers);
        workers.map(|worker| worker.snapshot().ended_connections).collect()
    }

    /// Checks that nothing is left.
    fn check_end(&mut self) {
        let open = self.shared.unfinished();
        if !open.is_empty() {
            self.shared.complain(format!("never told of their end: {open:?}"));
        }
        for host in [&mut self.client, &mut self.server] {
            let left = host.workers.iter_mut().map(|w| usize::from(!w.lane().is_empty()));
            let left: usize = left.sum();
            if left > 0 {
                self.shared.complain(format!("{left} workers still have connections"));
            }
        }
        let frames = self.net.frames_in_use();
        // A datapath may keep one frame that it gave out for writing and that was not used.
        let kept = self.client.workers.len() + self.server.workers.len();
        if frames > kept {
            self.shared.complain(format!("{frames} frames never came back"));
        }
        self.client.workers.clear();
        self.server.workers.clear();
        lock(&self.waiting).clear();
        let frames = self.net.frames_in_use();
        if frames > 0 {
            self.shared.complain(format!("{frames} frames outlive their datapaths"));
        }
    }
}

/// An address of the client's NAT.
fn public_address(scenario: &Scenario, n: u8) -> IpAddr {
    match scenario.ipv6 {
        true => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n))),
        false => IpAddr::V4(Ipv4Addr::new(203, 0, 113, n)),
    }
}

/// The address that the server prefers, if it prefers one.
fn preferred_address(scenario: &Scenario) -> IpAddr {
    match scenario.ipv6 {
        true => IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3)),
        false => IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3)),
    }
}

fn configs(scenario: &Scenario) -> Result<(ServerConfig, ClientConfig)> {
    let Identity { certificate, certificate_pem, key, .. } = identity();
    let [client_asks, server_asks] = scenario.asks;
    let mut server = ServerTls::builder_with(secrets::provider());
    let mut client = ClientTls::builder_with(secrets::provider());
    if server_asks {
        server = server.require_client_certificates(certificate_pem.as_bytes())?;
        server = server.application_judges();
        client = client.certificate_der(&[certificate], key)?;
    }
    if client_asks {
        client = client.application_judges();
    }
    let server = server.certificate_der(&[certificate], key)?.alpn(["sim"]).build()?;
    let server = server.with_ticket_data(TICKET_DATA)?;
    let others = if scenario.long_hello { 20 } else { 0 };
    let protocols = (0..others).map(|n| format!("{n:0100}")).chain(["sim".to_owned()]);
    let client = client.pinned_certificate_der(certificate).alpn(protocols).build()?;
    let [client_transport, mut server_transport] = scenario.transport.clone();
    if scenario.preferred != Preferred::Nowhere {
        match SocketAddr::new(preferred_address(scenario), SERVER_PORT) {
            SocketAddr::V4(at) => server_transport.preferred_v4 = Some(at),
            SocketAddr::V6(at) => server_transport.preferred_v6 = Some(at),
        }
    }
    let mut server = ServerConfig::new(server);
    server.transport = Arc::new(server_transport);
    server.retry = scenario.retry;
    let mut client = ClientConfig::new(client);
    client.transport = Arc::new(client_transport);
    Ok((server, client))
}

/// Adds observers for the story to connections with these settings.
fn observe(transport: &mut Arc<TransportConfig>, shared: &Shared, client: Option<u16>) {
    Arc::make_mut(transport).observers = Some(shared.observers(client));
}

/// Clients that wait for an answer, and when it comes.
type Waiting = Arc<Mutex<Vec<(Instant, Plan, Deferred)>>>;

/// The listener: it knows clients by their port.
struct Listener {
    plans: BTreeMap<u16, Plan>,
    shared: Shared,
    manner: Manner,
    waiting: Waiting,
}

impl Acceptor for Listener {
    fn accept(&self, new: &NewConnection<'_>) -> Decision {
        let Some(plan) = self.plans.get(&first_port(new.remote.port())) else {
            self.shared.complain(format!("a connection from {}, which has none", new.remote));
            return Decision::Refuse;
        };
        if new.server_name() != Some("sim") || !new.protocols().any(|name| name == b"sim") {
            self.shared.complain(format!("a client that asks for something else: {new:?}"));
        }
        match plan.answered_after {
            None => decide(plan, &self.shared, self.manner),
            Some(after) => {
                let at = self.shared.now().plus_ns(after.as_nanos() as u64);
                lock(&self.waiting).push((at, plan.clone(), new.defer()));
                Decision::Later
            }
        }
    }
}

fn decide(plan: &Plan, shared: &Shared, manner: Manner) -> Decision {
    match plan.refused {
        true => Decision::Refuse,
        false => Decision::accept(Agent::front(
            plan.clone(),
            Side::Server,
            shared.clone(),
            manner.planted,
        )),
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn host(
    seed: u64,
    move_after: u16,
    ports: Vec<SimDatapath>,
    prepare: impl Fn(&mut Worker<SimDatapath>),
) -> Result<Vec<Worker<SimDatapath>>> {
    let simulated = SimulatedWorkers::new(ports.len(), seed)?;
    let limits = LaneLimits { move_after, ..LaneLimits::default() };
    let mut workers = Vec::new();
    for (number, port) in ports.into_iter().enumerate() {
        let mut worker = simulated.worker(number, Instant::EPOCH, limits);
        worker.add_datapath(port)?;
        prepare(&mut worker);
        workers.push(worker);
    }
    Ok(workers)
}
