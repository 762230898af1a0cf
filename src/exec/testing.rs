//! Shared by the unit tests of this module: a wire in memory, a certificate, a host of two workers.

use super::api::{Acceptor, ConnectionRef, Handle, Handler, NewConnection, WorkerRef};
use super::config::{ClientConfig, LaneLimits, ServerConfig};
use super::message::{ConnectFailure, Refusal};
use super::simulated::{SimulatedWorkers, Worker};
use crate::datapath::memory::{Datagram, MemoryDatapath};
use crate::proto::connection::{CloseReason, Drained};
use crate::proto::crypto::{ClientTls, ServerTls};
use crate::time::{Instant, MILLISECOND_NS};
use crate::wire::{Dir, StreamId};
use bytes::Bytes;
use quiclane_testkit::Identity;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};

pub(super) const SERVER: ([u8; 4], u16) = ([192, 0, 2, 1], 4433);
pub(super) const CLIENT: ([u8; 4], u16) = ([192, 0, 2, 2], 9999);

/// Client Initials that a worker of a scene looks at in a millisecond after its first turn, if nothing
/// else is to do.
const INITIALS_EACH_MS: usize = 64;

/// A datapath whose two queues the tests fill and empty.
pub(super) fn wire() -> MemoryDatapath {
    MemoryDatapath::new(1500)
}

/// What was sent over there arrives at `worker`.
pub(super) fn carry(worker: &mut Worker<MemoryDatapath>, sent: &Datagram) {
    worker.datapaths()[0].arrived().put(&sent.meta.crossed(), sent.payload());
}

/// What `worker` has sent, which arrives nowhere unless it is carried.
pub(super) fn take_sent(worker: &mut Worker<MemoryDatapath>) -> Vec<Datagram> {
    let sent = worker.datapaths()[0].sent();
    let all = sent.iter().cloned().collect();
    sent.clear();
    all
}

fn identity() -> &'static Identity {
    static MADE: OnceLock<Identity> = OnceLock::new();
    MADE.get_or_init(Identity::new)
}

pub(super) fn server_config() -> ServerConfig {
    let identity = identity();
    let tls = ServerTls::builder()
        .certificate_der(&[&identity.certificate], &identity.key)
        .unwrap()
        .alpn(["test"])
        .build()
        .unwrap();
    ServerConfig::new(tls)
}

pub(super) fn client_config() -> ClientConfig {
    let tls = ClientTls::builder().dangerous_insecure().alpn(["test"]).build().unwrap();
    ClientConfig::new(tls)
}

/// The callbacks that handlers got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Connected(usize),
    Data(StreamId, Vec<u8>, bool),
    Acknowledged(u64, bool),
    Woken(u64),
    Token(Vec<u8>),
    Timer(u64),
    Refused,
    Closed(CloseReason),
    Drained(Drained),
    NotConnected,
}

pub(super) type Log = Arc<Mutex<Vec<Told>>>;

/// Records its callbacks; echoes, or sends data of its own.
pub(super) struct Scribe {
    pub(super) log: Log,
    pub(super) echo: bool,
    pub(super) first_message: Option<Bytes>,
}

impl Scribe {
    pub(super) fn new(log: &Log) -> Self {
        Self { log: log.clone(), echo: false, first_message: None }
    }

    fn tell(&self, told: Told) {
        self.log.lock().unwrap().push(told);
    }
}

impl Handler for Scribe {
    fn connected(&mut self, c: &mut ConnectionRef<'_>, _: bool) {
        self.tell(Told::Connected(c.worker()));
        if let Some(first_message) = self.first_message.take() {
            let stream = c.streams().open(Dir::Bi).unwrap();
            c.streams().send(stream, first_message, true).unwrap();
        }
    }

    fn stream_data(
        &mut self,
        c: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        self.tell(Told::Data(stream, data.to_vec(), fin));
        if self.echo {
            c.streams().send(stream, Bytes::copy_from_slice(data), fin).unwrap();
        }
        data.len()
    }

    fn acknowledged(&mut self, _: &mut ConnectionRef<'_>, _: StreamId, bytes: u64, fin: bool) {
        self.tell(Told::Acknowledged(bytes, fin));
    }

    fn new_token(&mut self, _: &mut ConnectionRef<'_>, token: &[u8]) {
        self.tell(Told::Token(token.to_vec()));
    }

    fn woken(&mut self, _: &mut ConnectionRef<'_>, token: u64) {
        self.tell(Told::Woken(token));
    }

    fn timer(&mut self, _: &mut ConnectionRef<'_>, token: u64) {
        self.tell(Told::Timer(token));
    }

    fn refused(&mut self, _: &mut ConnectionRef<'_>, _: Refusal) {
        self.tell(Told::Refused);
    }

    fn not_connected(&mut self, _: &mut WorkerRef<'_>, _: ConnectFailure) {
        self.tell(Told::NotConnected);
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, reason: CloseReason) {
        self.tell(Told::Closed(reason));
    }

    fn drained(&mut self, _: &mut ConnectionRef<'_>, drained: Drained) {
        self.tell(Told::Drained(drained));
    }
}

/// Echoes, and records the callbacks.
fn scribe(log: &Log) -> Arc<dyn Acceptor> {
    let log = log.clone();
    Arc::new(move |_: &NewConnection<'_>| {
        Some(Box::new(Scribe { echo: true, ..Scribe::new(&log) }) as Box<dyn Handler>)
    })
}

fn server(
    mut worker: Worker<MemoryDatapath>,
    config: &ServerConfig,
    acceptor: Arc<dyn Acceptor>,
) -> Worker<MemoryDatapath> {
    worker.add_datapath(wire()).unwrap();
    worker.listen(0, SERVER.into(), config, acceptor);
    worker
}

/// A server of some workers and a client of one, joined by a wire.
pub(super) struct Scene {
    pub(super) now: Instant,
    pub(super) servers: Vec<Worker<MemoryDatapath>>,
    pub(super) client: Worker<MemoryDatapath>,
    pub(super) server_log: Log,
    pub(super) client_log: Log,
    /// Which server worker gets what the client sends.
    pub(super) queue: usize,
}

impl Scene {
    pub(super) fn new(workers: usize, limits: LaneLimits) -> Self {
        Self::with_config(workers, limits, &server_config())
    }

    pub(super) fn with_config(workers: usize, limits: LaneLimits, config: &ServerConfig) -> Self {
        let server_log = Log::default();
        let acceptor = scribe(&server_log);
        Self { server_log, ..Self::with_acceptor(workers, limits, config, &acceptor) }
    }

    pub(super) fn with_acceptor(
        workers: usize,
        limits: LaneLimits,
        config: &ServerConfig,
        acceptor: &Arc<dyn Acceptor>,
    ) -> Self {
        let now = Instant::from_nanos(1_000 * MILLISECOND_NS);
        let simulated = SimulatedWorkers::new(workers, 1).unwrap();
        let server_log = Log::default();
        let servers = (0..workers)
            .map(|number| server(simulated.worker(number, now, limits), config, acceptor.clone()));
        let servers = servers.collect();
        let mut client = SimulatedWorkers::new(1, 2).unwrap().worker(0, now, LaneLimits::default());
        client.add_datapath(wire()).unwrap();
        Self { now, servers, client, server_log, client_log: Log::default(), queue: 0 }
    }

    pub(super) fn connect(&mut self, first_message: Option<&'static [u8]>) -> Handle {
        let first_message = first_message.map(Bytes::from_static);
        let handler = Box::new(Scribe { first_message, ..Scribe::new(&self.client_log) });
        self.connect_with(handler)
    }

    pub(super) fn connect_with(&mut self, handler: Box<dyn Handler>) -> Handle {
        self.connect_as(&client_config(), handler)
    }

    pub(super) fn connect_as(
        &mut self,
        config: &ClientConfig,
        handler: Box<dyn Handler>,
    ) -> Handle {
        let (local, remote): (SocketAddr, SocketAddr) = (CLIENT.into(), SERVER.into());
        self.client.connect(0, local, remote, "localhost", config, handler)
    }

    /// A worker that knows no connection takes a server's place: another process of that host,
    /// with the same secret.
    pub(super) fn restart_server(&mut self, number: usize) {
        let workers = SimulatedWorkers::new(self.servers.len(), 1).unwrap();
        let worker = workers.worker(number, self.now, LaneLimits::default());
        self.servers[number] = server(worker, &server_config(), scribe(&self.server_log));
    }

    /// Turns all workers, and carries what was sent, for `ms` milliseconds.
    pub(super) fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.step();
        }
    }

    /// A millisecond.
    pub(super) fn step(&mut self) {
        let queue = self.queue;
        self.step_by(|_| queue);
    }

    /// A millisecond, in which the client's datagrams arrive at the worker that `queue` says for each.
    /// Returns how many there were.
    pub(super) fn step_by(&mut self, queue: impl Fn(usize) -> usize) -> usize {
        self.now = self.now.plus_ns(MILLISECOND_NS);
        self.client.turn(self.now).unwrap();
        let sent = take_sent(&mut self.client);
        let count = sent.len();
        for (n, mut datagram) in sent.into_iter().enumerate() {
            let local = &mut datagram.meta.path.local;
            if local.ip().is_unspecified() {
                *local = CLIENT.into(); // The address that a kernel chooses.
            }
            carry(&mut self.servers[queue(n)], &datagram);
        }
        for server in &mut self.servers {
            server.turn(self.now).unwrap();
            // A real worker does not sleep while client Initials wait.
            for _ in 0..INITIALS_EACH_MS {
                if server.lane().counters().initials_waiting > 0 {
                    server.turn(self.now).unwrap();
                }
            }
            for datagram in take_sent(server) {
                carry(&mut self.client, &datagram);
            }
        }
        count
    }

    /// The first datagram that the client has sent since the last step. It is carried by the next.
    pub(super) fn first_of_client(&mut self) -> Datagram {
        self.client.datapaths()[0].sent().iter().next().unwrap().clone()
    }

    pub(super) fn told_server(&self) -> Vec<Told> {
        self.server_log.lock().unwrap().clone()
    }

    pub(super) fn told_client(&self) -> Vec<Told> {
        self.client_log.lock().unwrap().clone()
    }
}
