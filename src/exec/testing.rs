//! Shared by the unit tests of this module: a wire in memory, a certificate, a host of two workers.

use super::api::{ConnectionRef, Handle, Handler, WorkerRef};
use super::config::{ClientConfig, LaneLimits, ServerConfig};
use super::message::{Acceptor, ConnectFailure, Refusal};
use super::simulated::{SimulatedWorkers, Worker};
use crate::datapath::{
    Capabilities, Checksum, Datapath, DatapathError, Link, Mode, Path, QueueStats, RxMeta,
};
use crate::ecn::Ecn;
use crate::proto::connection::CloseReason;
use crate::proto::crypto::{ClientTls, ServerTls};
use crate::time::{Instant, MILLISECOND_NS};
use crate::wire::{Dir, StreamId};
use bytes::Bytes;
use quiclane_testkit::Identity;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, OnceLock};

pub(super) const SERVER: ([u8; 4], u16) = ([192, 0, 2, 1], 4433);
pub(super) const CLIENT: ([u8; 4], u16) = ([192, 0, 2, 2], 9999);

/// A datapath that keeps what was sent, and hands out what was put in.
pub(super) struct Pipe {
    capabilities: Capabilities,
    pub(super) arrived: VecDeque<(RxMeta, Vec<u8>)>,
    pub(super) sent: VecDeque<(Path, Ecn, Vec<u8>)>,
    buffer: Vec<u8>,
    /// How many buffers are left to lend; `None`: any number.
    pub(super) room: Option<usize>,
}

impl Pipe {
    pub(super) fn new() -> Self {
        Self {
            capabilities: Capabilities {
                mode: Mode::Simulated,
                queue: 0,
                device: None,
                max_datagram_bytes: 1500,
                ecn: true,
                segmentation_offload: false,
            },
            arrived: VecDeque::new(),
            sent: VecDeque::new(),
            buffer: vec![0; 1500],
            room: None,
        }
    }

    /// What was sent over there arrives here.
    pub(super) fn carry(&mut self, sent: (Path, Ecn, Vec<u8>)) {
        let (path, ecn, bytes) = sent;
        let path = Path { local: path.remote, remote: path.local, link: Link::UNKNOWN };
        self.arrived.push_back((RxMeta { path, ecn, checksum: Checksum::Verified }, bytes));
    }
}

impl Datapath for Pipe {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn preview(&mut self, budget: usize, look: &mut dyn FnMut(&[u8])) {
        self.arrived.iter().take(budget).for_each(|(_, bytes)| look(bytes));
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&RxMeta, &mut [u8])) -> usize {
        let count = budget.min(self.arrived.len());
        for (meta, mut bytes) in self.arrived.drain(..count) {
            sink(&meta, &mut bytes);
        }
        count
    }

    fn tx_buffer(&mut self, _path: &Path) -> Option<&mut [u8]> {
        if self.room == Some(0) { None } else { Some(&mut self.buffer) }
    }

    fn tx_commit(&mut self, len: usize, path: &Path, ecn: Ecn) {
        self.room = self.room.map(|room| room - 1);
        self.sent.push_back((*path, ecn, self.buffer[..len].to_vec()));
    }

    fn flush(&mut self) -> Result<(), DatapathError> {
        Ok(())
    }

    fn prepare_sleep(&mut self) -> bool {
        self.arrived.is_empty()
    }

    fn poll_fds(&self) -> &[RawFd] {
        &[]
    }

    fn stats(&self) -> QueueStats {
        QueueStats::default()
    }
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
    NotConnected,
}

pub(super) type Log = Arc<Mutex<Vec<Told>>>;

/// Records its callbacks; echoes, or sends data of its own.
pub(super) struct Scribe {
    pub(super) log: Log,
    pub(super) echo: bool,
    pub(super) greeting: Option<Bytes>,
}

impl Scribe {
    pub(super) fn new(log: &Log) -> Self {
        Self { log: log.clone(), echo: false, greeting: None }
    }

    fn tell(&self, told: Told) {
        self.log.lock().unwrap().push(told);
    }
}

impl Handler for Scribe {
    fn connected(&mut self, c: &mut ConnectionRef<'_>, _: bool) {
        self.tell(Told::Connected(c.worker()));
        if let Some(greeting) = self.greeting.take() {
            let stream = c.streams().open(Dir::Bi).unwrap();
            c.streams().send(stream, greeting, true).unwrap();
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
}

/// Listens, echoes, and records the callbacks.
fn server(mut worker: Worker<Pipe>, config: &ServerConfig, log: &Log) -> Worker<Pipe> {
    worker.add_datapath(Pipe::new()).unwrap();
    let log = log.clone();
    let acceptor: Acceptor = Arc::new(move |_| {
        Some(Box::new(Scribe { echo: true, ..Scribe::new(&log) }) as Box<dyn Handler>)
    });
    worker.listen(0, SERVER.into(), config, acceptor);
    worker
}

/// A server of some workers and a client of one, joined by a wire.
pub(super) struct Scene {
    pub(super) now: Instant,
    pub(super) servers: Vec<Worker<Pipe>>,
    pub(super) client: Worker<Pipe>,
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
        let now = Instant::from_nanos(1_000 * MILLISECOND_NS);
        let simulated = SimulatedWorkers::new(workers, 1).unwrap();
        let server_log = Log::default();
        let servers = (0..workers)
            .map(|number| server(simulated.worker(number, now, limits), config, &server_log));
        let servers = servers.collect();
        let mut client = SimulatedWorkers::new(1, 2).unwrap().worker(0, now, LaneLimits::default());
        client.add_datapath(Pipe::new()).unwrap();
        Self { now, servers, client, server_log, client_log: Log::default(), queue: 0 }
    }

    pub(super) fn connect(&mut self, greeting: Option<&'static [u8]>) -> Handle {
        let greeting = greeting.map(Bytes::from_static);
        let handler = Box::new(Scribe { greeting, ..Scribe::new(&self.client_log) });
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
        self.servers[number] = server(worker, &server_config(), &self.server_log);
    }

    /// Turns all workers, and carries what was sent, for `ms` milliseconds.
    pub(super) fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.step();
        }
    }

    /// A millisecond.
    pub(super) fn step(&mut self) {
        self.now = self.now.plus_ns(MILLISECOND_NS);
        self.client.turn(self.now).unwrap();
        let sent: Vec<_> = self.client.datapaths()[0].sent.drain(..).collect();
        for mut datagram in sent {
            if datagram.0.local.ip().is_unspecified() {
                datagram.0.local = CLIENT.into(); // The address that a kernel chooses.
            }
            self.servers[self.queue].datapaths()[0].carry(datagram);
        }
        for server in &mut self.servers {
            server.turn(self.now).unwrap();
            let sent: Vec<_> = server.datapaths()[0].sent.drain(..).collect();
            for datagram in sent {
                self.client.datapaths()[0].carry(datagram);
            }
        }
    }

    pub(super) fn told_server(&self) -> Vec<Told> {
        self.server_log.lock().unwrap().clone()
    }

    pub(super) fn told_client(&self) -> Vec<Told> {
        self.client_log.lock().unwrap().clone()
    }
}
