//! `overload`: what a flood of handshakes costs the connections that a worker has.
//!
//! A server's worker with 100 connections that ask and are answered, alone and while client Initials
//! of made-up addresses arrive at ten times the rate that the worker can begin handshakes at. Each is
//! whole: the worker that answers one makes a TLS session and a signature for it.
//!
//! The server's turns take their real time, and nothing else does: the clock of both sides is the
//! time that the server has worked, and goes on by what a turn took. So what is counted are requests
//! in a second of the server's CPU, and what a request waits for the server; clients, the flood's
//! sender and the kernel cost nothing. The two runs take turns, a slice each.
//!
//! | load | requests |
//! |---|---|
//! | `full` | each connection asks again when it is answered: the server is never idle |
//! | `half` | at half of the rate that was measured alone, evenly |

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quiclane::datapath::memory::MemoryDatapath;
use quiclane::datapath::{Checksum, Link, Path, RxMeta};
use quiclane::ecn::Ecn;
use quiclane::exec::{
    ClientConfig, ConnectionRef, Handle, Handler, LaneLimits, NewConnection, ServerConfig,
    SimulatedWorkers, Worker,
};
use quiclane::proto::connection::TransportConfig;
use quiclane::proto::crypto::{ClientTls, ServerTls};
use quiclane::time::Instant;
use quiclane::wire::{Dir, StreamId};
use quiclane_measure::{Column, Columns};

use crate::identity::{ALPN, Identity, SERVER_NAME};
use crate::stacks::{BEGIN_NS, CLIENT, SERVER};
use crate::{Failure, clock};

const CONNECTIONS: usize = 100;
const REQUEST: &[u8] = &[1; 64];
const ANSWER: &[u8] = &[2; 1_000];
/// Client Initials that differ; each comes from many addresses.
const DISTINCT: usize = 256;
/// The flood, as a multiple of what the worker can begin.
const TIMES: f64 = 10.0;
/// Slices of each run, and their length in the server's time.
const SLICES: usize = 20;
const QUICK_SLICES: usize = 4;
const SLICE_NS: u64 = 250_000_000;
/// The step of a server that has nothing to do.
const STEP_NS: u64 = 1_000;
/// A turn that takes longer was interrupted: a burst and a handshake take half of it.
const INTERRUPTED_NS: u64 = 1_000_000;
/// Turns after which all clients have connected, or never will.
const CONNECTED_TURNS: usize = 100_000;
const SECOND_NS: f64 = 1e9;
const MAX_DATAGRAM_BYTES: usize = 1_452;
/// Handshakes from which the cost of one is taken.
const HANDSHAKES: usize = 200;

/// What the client's applications share.
#[derive(Default)]
struct Book {
    now_ns: AtomicU64,
    /// Waits of requests, in nanoseconds.
    waits: Mutex<Vec<u64>>,
    connected: AtomicU64,
}

/// Asks, and notes how long it waited.
struct Asks {
    book: Arc<Book>,
    again: bool,
    asked_ns: VecDeque<(StreamId, u64)>,
}

impl Asks {
    fn ask(&mut self, c: &mut ConnectionRef<'_>) {
        let Ok(stream) = c.streams().open(Dir::Bi) else { return };
        if c.streams().send(stream, Bytes::from_static(REQUEST), true).is_ok() {
            self.asked_ns.push_back((stream, self.book.now_ns.load(Relaxed)));
        }
    }
}

impl Handler for Asks {
    fn connected(&mut self, c: &mut ConnectionRef<'_>, _resumed: bool) {
        self.book.connected.fetch_add(1, Relaxed);
        if self.again {
            self.ask(c);
        }
    }

    fn woken(&mut self, c: &mut ConnectionRef<'_>, _token: u64) {
        self.ask(c);
    }

    fn stream_data(
        &mut self,
        c: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        if fin && let Some(at) = self.asked_ns.iter().position(|(asked, _)| *asked == stream) {
            let (_, asked_ns) = self.asked_ns.remove(at).unwrap_or((stream, 0));
            let waited = self.book.now_ns.load(Relaxed) - asked_ns;
            self.book.waits.lock().unwrap_or_else(PoisonError::into_inner).push(waited);
            if self.again {
                self.ask(c);
            }
        }
        data.len()
    }
}

struct Answers;

impl Handler for Answers {
    fn stream_data(
        &mut self,
        c: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        if fin {
            let _ = c.streams().send(stream, Bytes::from_static(ANSWER), true);
        }
        data.len()
    }
}

/// Client Initials of made-up addresses.
struct Flood {
    initials: Vec<Vec<u8>>,
    sent: u64,
    per_ns: f64,
    since_ns: u64,
}

impl Flood {
    /// The next one, with where it comes from.
    fn next(&mut self) -> (SocketAddr, &[u8]) {
        let n = self.sent as u32;
        self.sent += 1;
        let address = (0x0a00_0000 | (n & 0x00ff_ffff)).to_be_bytes();
        (SocketAddr::from((address, 40_000)), &self.initials[n as usize % DISTINCT])
    }
}

/// A server and its clients.
struct Scene {
    server: Worker<MemoryDatapath>,
    client: Worker<MemoryDatapath>,
    handles: Vec<Handle>,
    book: Arc<Book>,
    now_ns: u64,
    flood: Flood,
    /// Requests for each nanosecond, and how many were made; 0: clients ask by themselves.
    asks_per_ns: f64,
    asked: u64,
    asks_since_ns: u64,
}

fn put(worker: &mut Worker<MemoryDatapath>, remote: SocketAddr, payload: &[u8]) {
    let path = Path { local: SERVER, remote, link: Link::UNKNOWN };
    let meta = RxMeta { path, ecn: Ecn::NotEct, checksum: Checksum::Verified };
    worker.datapaths()[0].arrived().put(&meta, payload);
}

/// What one has sent arrives at the other. What goes to made-up addresses arrives nowhere.
fn carry(from: &mut Worker<MemoryDatapath>, to: &mut Worker<MemoryDatapath>, only: SocketAddr) {
    let sent = from.datapaths()[0].sent();
    let arrived = to.datapaths()[0].arrived();
    while let Some(datagram) = sent.pop() {
        if datagram.meta.path.remote == only {
            arrived.put(&datagram.meta.crossed(), datagram.payload());
        }
    }
}

impl Scene {
    fn new(identity: &Identity, initials: Vec<Vec<u8>>, again: bool) -> Result<Self, Failure> {
        let transport = Arc::new(TransportConfig {
            idle_timeout: Duration::ZERO,
            ..TransportConfig::default()
        });
        let tls = ServerTls::builder()
            .certificate_der(&[&identity.leaf], &identity.key_der)?
            .alpn([ALPN])
            .build()?;
        let config = ServerConfig { transport: transport.clone(), ..ServerConfig::new(tls) };
        let start = Instant::from_nanos(BEGIN_NS);
        let mut server = SimulatedWorkers::new(1, 1)?.worker(0, start, LaneLimits::default());
        server.add_datapath(MemoryDatapath::new(MAX_DATAGRAM_BYTES))?;
        let accept = |_: &NewConnection<'_>| Some(Box::new(Answers) as Box<dyn Handler>);
        server.listen(0, SERVER, &config, Arc::new(accept));
        let mut client = SimulatedWorkers::new(1, 2)?.worker(0, start, LaneLimits::default());
        client.add_datapath(MemoryDatapath::new(MAX_DATAGRAM_BYTES))?;
        let book = Arc::new(Book::default());
        let config = ClientConfig { transport, ..ClientConfig::new(client_tls(identity)?) };
        let handles = (0..CONNECTIONS).map(|_| {
            let asks = Asks { book: book.clone(), again, asked_ns: VecDeque::new() };
            client.connect(0, CLIENT, SERVER, SERVER_NAME, &config, Box::new(asks))
        });
        let handles = handles.collect();
        let flood = Flood { initials, sent: 0, per_ns: 0.0, since_ns: 0 };
        let now_ns = start.as_nanos();
        let mut scene = Self {
            server,
            client,
            handles,
            book,
            now_ns,
            flood,
            asks_per_ns: 0.0,
            asked: 0,
            asks_since_ns: now_ns,
        };
        for _ in 0..CONNECTED_TURNS {
            if scene.book.connected.load(Relaxed) == CONNECTIONS as u64 {
                return Ok(scene);
            }
            scene.turn()?;
        }
        let connected = scene.book.connected.load(Relaxed);
        Err(format!("only {connected} of {CONNECTIONS} clients have connected").into())
    }

    /// The clients do all that they have to, and the server takes a turn.
    fn turn(&mut self) -> Result<(), Failure> {
        let now = Instant::from_nanos(self.now_ns);
        self.book.now_ns.store(self.now_ns, Relaxed);
        carry(&mut self.server, &mut self.client, CLIENT);
        let due = ((self.now_ns - self.asks_since_ns) as f64 * self.asks_per_ns) as u64;
        while self.asked < due {
            if self.handles[self.asked as usize % CONNECTIONS].wake(0).is_err() {
                break; // The inbox is full: the rest is asked with the next turn.
            }
            self.asked += 1;
        }
        loop {
            let turn = self.client.turn(now)?;
            if turn.next > now && self.client.datapaths()[0].arrived().is_empty() {
                break;
            }
        }
        carry(&mut self.client, &mut self.server, SERVER);
        let due = ((self.now_ns - self.flood.since_ns) as f64 * self.flood.per_ns) as u64;
        while self.flood.sent < due {
            let (remote, bytes) = self.flood.next();
            put(&mut self.server, remote, bytes);
        }
        let begin = clock::now();
        let turn = self.server.turn(now)?;
        let took_ns = (begin.elapsed().as_nanos() as u64).min(INTERRUPTED_NS);
        self.now_ns += if turn.work == 0 { STEP_NS } else { took_ns };
        Ok(())
    }

    /// A slice: requests in it, and their waits.
    fn slice(&mut self) -> Result<Vec<u64>, Failure> {
        self.book.waits.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let until = self.now_ns + SLICE_NS;
        while self.now_ns < until {
            self.turn()?;
        }
        Ok(std::mem::take(&mut self.book.waits.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn begin_flood(&mut self, per_second: f64) {
        (self.flood.per_ns, self.flood.since_ns) = (per_second / SECOND_NS, self.now_ns);
        self.flood.sent = 0;
    }

    fn begin_asking(&mut self, per_second: f64) {
        (self.asks_per_ns, self.asks_since_ns) = (per_second / SECOND_NS, self.now_ns);
        self.asked = 0;
    }
}

fn client_tls(identity: &Identity) -> Result<ClientTls, Failure> {
    Ok(ClientTls::builder().roots_der(&[&identity.root])?.alpn([ALPN]).sessions(0).build()?)
}

/// The first packets of clients that differ.
fn initials(identity: &Identity) -> Result<Vec<Vec<u8>>, Failure> {
    let now = Instant::from_nanos(BEGIN_NS);
    let mut client = SimulatedWorkers::new(1, 3)?.worker(0, now, LaneLimits::default());
    client.add_datapath(MemoryDatapath::new(MAX_DATAGRAM_BYTES))?;
    let config = ClientConfig::new(client_tls(identity)?);
    for _ in 0..DISTINCT {
        client.connect(0, CLIENT, SERVER, SERVER_NAME, &config, Box::new(()));
    }
    while client.turn(now)?.next <= now {}
    let sent = client.datapaths()[0].sent();
    let all: Vec<_> = sent.iter().map(|datagram| datagram.payload().to_vec()).collect();
    if all.len() == DISTINCT { Ok(all) } else { Err(format!("{} Initials", all.len()).into()) }
}

/// How many handshakes an idle server begins in a second of its time.
fn handshakes_per_second(identity: &Identity, initials: &[Vec<u8>]) -> Result<f64, Failure> {
    let mut scene = Scene::new(identity, initials.to_vec(), false)?;
    let begin_ns = scene.now_ns;
    for _ in 0..HANDSHAKES {
        let (remote, bytes) = scene.flood.next();
        put(&mut scene.server, remote, bytes);
        scene.turn()?;
    }
    Ok(HANDSHAKES as f64 / (scene.now_ns - begin_ns) as f64 * SECOND_NS)
}

/// What a run has measured.
#[derive(Default)]
struct Measured {
    waits: Vec<u64>,
    slices: usize,
}

impl Measured {
    fn add(&mut self, waits: Vec<u64>) {
        self.waits.extend(waits);
        self.slices += 1;
    }

    fn per_second(&self) -> f64 {
        self.waits.len() as f64 / (self.slices as u64 * SLICE_NS) as f64 * SECOND_NS
    }

    /// The wait that this share of the requests stay below, in microseconds.
    fn wait_us(&mut self, share: f64) -> f64 {
        self.waits.sort_unstable();
        let at = (self.waits.len() as f64 * share) as usize;
        self.waits.get(at).map_or(0.0, |ns| *ns as f64 / 1e3)
    }
}

/// Runs both loads, and prints what the flood did to them.
pub(crate) fn run(quick: bool) -> Result<(), Failure> {
    let identity = Identity::new()?;
    let initials = initials(&identity)?;
    let capacity = handshakes_per_second(&identity, &initials)?;
    let slices = if quick { QUICK_SLICES } else { SLICES };
    println!("{capacity:.0} handshakes a second can begin; the flood is {:.0}", TIMES * capacity);
    print!("{}", table().line(["load", "", "requests/s", "p50 us", "p99 us", "begun/s"]));
    let mut half = 0.0;
    for again in [true, false] {
        let mut alone = Scene::new(&identity, initials.clone(), again)?;
        let mut beside = Scene::new(&identity, initials.clone(), again)?;
        if !again {
            alone.begin_asking(half);
            beside.begin_asking(half);
        }
        alone.slice()?;
        beside.slice()?;
        beside.begin_flood(TIMES * capacity);
        beside.slice()?;
        let (mut first, mut second) = (Measured::default(), Measured::default());
        let before = beside.server.snapshot().endpoint.accepted;
        for _ in 0..slices {
            first.add(alone.slice()?);
            second.add(beside.slice()?);
        }
        let counters = beside.server.snapshot();
        let begun = counters.endpoint.accepted - before;
        half = first.per_second() / 2.0;
        let load = if again { "full" } else { "half" };
        let begun = begun as f64 / (slices as u64 * SLICE_NS) as f64 * SECOND_NS;
        for (run, measured, begun) in [("alone", &mut first, 0.0), ("flood", &mut second, begun)] {
            let figures = [measured.per_second(), measured.wait_us(0.5), measured.wait_us(0.99)];
            let [rate, p50, p99] = figures.map(|figure| format!("{figure:.0}"));
            print!("{}", table().line([load, run, &rate, &p50, &p99, &format!("{begun:.0}")]));
        }
        let lane = counters.lane;
        println!(
            "{load}: {:.1} % of the requests, p99 x {:.2}; {} Initials dropped, {} answered by Retry",
            100.0 * second.per_second() / first.per_second(),
            second.wait_us(0.99) / first.wait_us(0.99),
            lane.initials_dropped,
            counters.endpoint.retries,
        );
    }
    Ok(())
}

fn table() -> Columns {
    let figures = [12, 9, 9, 9].map(Column::Right);
    Columns::new([Column::Left(6), Column::Left(7)].into_iter().chain(figures))
}
