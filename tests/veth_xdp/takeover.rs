//! One process after another serves a device, and no connection notices.
//!
//! Here they are registrations of one process, which changes nothing: sockets, link and feeds go through a socket
//! in the file system.

use super::configs::configs;
use super::echo_handler::Echo;
use super::*;
use bytes::Bytes;
use quiclane::exec::clock::Clock;
use quiclane::exec::{
    ClientConfig, ConnectionRef, Handle, Handler, Io, Listener, Offer, Pin, Polling, Registration,
    RegistrationConfig, ServerConfig, WorkerStatus,
};
use quiclane::time::Instant;
use quiclane::wire::{Dir, StreamId};
use quiclane_testkit::netns::{LabConfig, privileged};
use quiclane_testkit::server::Scratch;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const TRANSFERS: u32 = 64;
const TRANSFER_BYTES: u32 = 200_000;
const TAKEOVERS: usize = 3;
/// What a request takes with, beside 64 transfers.
const REQUEST_INTERVAL: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(60);

fn now() -> Instant {
    Clock::monotonic().now()
}

/// What all clients count.
#[derive(Default)]
struct Score {
    over: AtomicBool,
    transfers: AtomicU64,
    answers: Mutex<Vec<Instant>>,
    closed: AtomicU64,
}

/// Echoes one message after the other, each compared byte for byte.
struct Transfers {
    score: Arc<Score>,
    message: Bytes,
    echoed: usize,
}

impl Transfers {
    fn next(&mut self, connection: &mut ConnectionRef<'_>) {
        self.echoed = 0;
        let stream = connection.streams().open(Dir::Bi).unwrap();
        connection.streams().send(stream, self.message.clone(), true).unwrap();
    }
}

impl Handler for Transfers {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _resumed: bool) {
        self.next(connection);
    }

    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        _stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        assert!(data == &self.message[self.echoed..][..data.len()], "other bytes than were sent");
        self.echoed += data.len();
        if fin {
            assert_eq!(self.echoed, self.message.len());
            self.score.transfers.fetch_add(1, Ordering::Relaxed);
            if !self.score.over.load(Ordering::Relaxed) {
                self.next(connection);
            }
        }
        data.len()
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, _: quiclane::CloseReason) {
        self.score.closed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Notes when answers come.
struct Requests(Arc<Score>);

impl Handler for Requests {
    fn stream_data(
        &mut self,
        _connection: &mut ConnectionRef<'_>,
        _stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        if fin {
            assert_eq!(data, b"request");
            self.0.answers.lock().unwrap().push(now());
        }
        data.len()
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, _: quiclane::CloseReason) {
        self.0.closed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Clients in the client's namespace, on kernel UDP.
struct Clients {
    registration: Registration,
    requests: Vec<Handle>,
    score: Arc<Score>,
    config: ClientConfig,
    remote: SocketAddr,
}

impl Clients {
    /// 64 connections with transfers, and one for requests. Call it in the client's namespace.
    fn new(remote: SocketAddr, config: ClientConfig) -> Self {
        let score = Arc::new(Score::default());
        let workers = RegistrationConfig {
            pin: Pin::Off,
            polling: Polling::Sleep,
            ..RegistrationConfig::udp(1)
        };
        let registration = Registration::open(workers).unwrap();
        let mut clients = Self { registration, requests: Vec::new(), score, config, remote };
        for n in 0..TRANSFERS {
            let message = (0..TRANSFER_BYTES).map(|at| (at.wrapping_mul(2 * n + 1) >> 7) as u8);
            let (score, message) = (clients.score.clone(), message.collect());
            clients.connect(Transfers { score, message, echoed: 0 });
        }
        clients.connect_for_requests();
        clients
    }

    fn connect(&self, handler: impl Handler) -> Handle {
        self.registration.connect(self.remote, "localhost", &self.config, handler).unwrap()
    }

    /// One more connection for requests, which the newest server gets.
    fn connect_for_requests(&mut self) {
        let handle = self.connect(Requests(self.score.clone()));
        self.requests.push(handle);
    }

    /// Asks once on each connection.
    fn ask(&self) {
        for handle in &self.requests {
            let send = |c: &mut ConnectionRef<'_>, stream: Result<StreamId, _>| {
                let Ok(stream) = stream else { return };
                let _ = c.streams().send(stream, Bytes::from_static(b"request"), true);
            };
            // Before the handshake is done there are no streams.
            let _ = handle.open(Dir::Bi, send);
        }
    }

    /// Asks until `until` is set.
    fn ask_until(&self, until: &AtomicBool) {
        while !until.load(Ordering::Relaxed) {
            self.ask();
            std::thread::sleep(REQUEST_INTERVAL);
        }
    }

    fn transfers_reach(&self, count: u64) {
        let start = now();
        while self.score.transfers.load(Ordering::Relaxed) < count {
            assert!(now() - start < PATIENCE, "{count} transfers do not come to an end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn open(lab: &Lab, mode: Mode, path: &Path) -> Registration {
    let io = Io::Xdp(config(lab, mode));
    let takeover = Some(path.to_owned());
    Registration::open(RegistrationConfig {
        io,
        pin: Pin::Off,
        polling: Polling::Sleep,
        takeover,
        ..Default::default()
    })
    .unwrap()
}

fn serve(registration: &Registration, config: &ServerConfig, v6: bool) -> Listener {
    let listener = registration.listen(any(v6), config, |_| Some(Box::new(Echo))).unwrap();
    registration.complete_takeover().unwrap();
    listener
}

fn sum(rows: &[WorkerStatus], counter: impl Fn(&WorkerStatus) -> u64) -> u64 {
    rows.iter().map(counter).sum()
}

/// The longest time without an answer, though one a millisecond was asked for.
fn longest_gap(answers: &[Instant]) -> Duration {
    answers.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// Looks until all clients have their connections.
fn all_begin(server: &Registration) {
    let start = now();
    while sum(&server.status(), |row| row.connections) < u64::from(TRANSFERS) + 1 {
        assert!(now() - start < PATIENCE, "{:#?}", server.status());
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Server {
    registration: Registration,
    offer: Offer,
    _listener: Listener,
}

fn three_in_a_row(mode: Mode, v6: bool) {
    let lab = Arc::new(Lab::new(LabConfig::default()));
    let (server_config, client_config) = configs();
    let scratch = Scratch::new("veth-takeover");
    let path = scratch.path().join("quiclane.sock");
    lab.enter_with_sysfs(Side::Server);
    let mut servers: Vec<Server> = Vec::new();
    let next = |servers: &mut Vec<Server>| {
        let registration = open(&lab, mode, &path);
        let listener = serve(&registration, &server_config, v6);
        if let Some(last) = servers.last() {
            assert!(last.offer.wait(PATIENCE).is_some());
        }
        let offer = registration.offer_takeover(&path).unwrap();
        servers.push(Server { registration, offer, _listener: listener });
    };
    next(&mut servers);
    let (inner, remote) = (lab.clone(), super::server(v6));
    let clients = inside(&inner, Side::Client, move || Clients::new(remote, client_config));
    let (over, score) = (AtomicBool::new(false), clients.score.clone());
    all_begin(&servers[0].registration);
    let mut before = now();
    std::thread::scope(|threads| {
        threads.spawn(|| clients.ask_until(&over));
        for n in 0..TAKEOVERS {
            let done = score.transfers.load(Ordering::Relaxed);
            clients.transfers_reach(done + u64::from(TRANSFERS));
            before = if n == 0 { now() } else { before };
            next(&mut servers);
        }
        let done = score.transfers.load(Ordering::Relaxed);
        clients.transfers_reach(done + u64::from(TRANSFERS));
        over.store(true, Ordering::Relaxed);
    });
    let answers = score.answers.lock().unwrap().clone();
    let split = answers.partition_point(|at| *at < before);
    let [usual, gap] = [&answers[..split], &answers[split.saturating_sub(1)..]].map(longest_gap);
    let rows: Vec<Vec<WorkerStatus>> =
        servers.iter().map(|server| server.registration.status()).collect();
    let passed_on: Vec<u64> =
        rows.iter().map(|rows| sum(rows, |row| row.counters.lane.rx_for_predecessor)).collect();
    let lost =
        rows.iter().map(|rows| sum(rows, |row| row.counters.lane.rx_for_predecessor_dropped));
    println!(
        "  {mode} {}: {} transfers and {} answers over {TAKEOVERS} takeovers; longest time without an \
         answer {gap:?}, before them {usual:?}; datagrams passed on {passed_on:?}, dropped {}",
        if v6 { "IPv6" } else { "IPv4" },
        score.transfers.load(Ordering::Relaxed),
        answers.len(),
        lost.sum::<u64>(),
    );
    assert_eq!(score.closed.load(Ordering::Relaxed), 0, "every connection goes on");
    assert!(passed_on[1..].iter().all(|count| *count > 0), "{passed_on:?}");
    // Those that began with the first are with it still.
    let of_first = sum(&rows[0], |row| row.connections);
    assert_eq!(of_first, u64::from(TRANSFERS) + 1);
    // And the last one has the queues.
    let xdp = rows[TAKEOVERS].iter().all(|row| row.mode == Some(mode));
    assert!(xdp, "{:?}", rows[TAKEOVERS]);
    score.over.store(true, Ordering::Relaxed);
    drop(clients.registration);
}

#[test]
fn connections_go_on_through_three_takeovers_over_ipv4() {
    if privileged("connections_go_on_through_three_takeovers_over_ipv4") {
        three_in_a_row(Mode::NativeCopy, false);
    }
}

#[test]
fn connections_go_on_through_three_takeovers_over_ipv6() {
    if privileged("connections_go_on_through_three_takeovers_over_ipv6") {
        three_in_a_row(Mode::NativeCopy, true);
    }
}

/// A successor that ends while it takes over: the program, the queues and the sockets are the old ones.
#[test]
fn a_successor_that_ends_early_leaves_the_device_served() {
    if !privileged("a_successor_that_ends_early_leaves_the_device_served") {
        return;
    }
    let lab = Arc::new(Lab::new(LabConfig::default()));
    let (server_config, client_config) = configs();
    let scratch = Scratch::new("veth-takeover-ends");
    let path = scratch.path().join("quiclane.sock");
    lab.enter_with_sysfs(Side::Server);
    let server = open(&lab, Mode::Generic, &path);
    let _listener = serve(&server, &server_config, false);
    let _offer = server.offer_takeover(&path).unwrap();
    let (inner, remote) = (lab.clone(), super::server(false));
    let clients = inside(&inner, Side::Client, move || Clients::new(remote, client_config));
    for _ in 0..3 {
        let done = clients.score.transfers.load(Ordering::Relaxed);
        clients.transfers_reach(done + u64::from(TRANSFERS));
        open(&lab, Mode::Generic, &path).shutdown(0, Duration::ZERO);
    }
    let done = clients.score.transfers.load(Ordering::Relaxed);
    clients.transfers_reach(done + u64::from(TRANSFERS));
    let via_kernel = |rows: &[WorkerStatus]| sum(rows, |row| row.counters.queue.rx_via_kernel);
    let mut rows = server.status();
    // What had fallen to the kernel sockets meanwhile may lie there for some rounds more.
    for round in 2..20 {
        let before = via_kernel(&rows);
        clients.transfers_reach(done + round * u64::from(TRANSFERS));
        rows = server.status();
        if via_kernel(&rows) == before {
            break;
        }
        assert!(round < 19, "the rings do not serve: {rows:?}");
    }
    assert!(rows.iter().all(|row| row.mode == Some(Mode::Generic)), "{rows:?}");
    assert_eq!(clients.score.closed.load(Ordering::Relaxed), 0);
    clients.score.over.store(true, Ordering::Relaxed);
    drop(clients.registration);
}
