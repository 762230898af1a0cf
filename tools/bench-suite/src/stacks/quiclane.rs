//! Quiclane: a worker, its lane and its connections, on a datapath in memory.
//!
//! What is measured is a worker's whole turn: the burst, the id decrypted and its slot looked
//! up, decryption in the frame, callbacks through the public API, timers, transmission into
//! the datapath's buffers. Settings are the library's defaults but for those that the suite
//! fixes for all. Requests are started from outside, through a handle, as an application thread would:
//! that counts for the client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use quiclane::datapath::memory::{Datagrams, MemoryDatapath};
use quiclane::datapath::{Checksum, Link, Path, RxMeta};
use quiclane::ecn::Ecn;
use quiclane::exec::{
    ClientConfig, ConnectionRef, Handle, Handler, LaneLimits, ServerConfig, SimulatedWorkers,
    Worker,
};
use quiclane::proto::congestion::Algorithm;
use quiclane::proto::connection::TransportConfig;
use quiclane::proto::crypto::{ClientTls, ServerTls};
use quiclane::proto::endpoint::RetryPolicy;
use quiclane::time::{Instant, SECOND_NS};
use quiclane::wire::{Dir, StreamId};

use crate::Failure;
use crate::identity::{ALPN, SERVER_NAME};
use crate::stack::{
    BATCH_DATAGRAMS, BULK_AHEAD_BYTES, CHUNK_BYTES, Client, Endpoint, MAX_STREAMS, REQUEST_BYTES,
    RESPONSE_BYTES, Server, Setup, Stack, WINDOW_BYTES,
};
use crate::stacks::{BEGIN_NS, CLIENT, SERVER};
use crate::wire::{MAX_DATAGRAM_BYTES, Wire};

/// Seeds of the two hosts.
const SEEDS: [u64; 2] = [1, 2];
/// Longer than the closing state of a connection.
const LONG_NS: u64 = 60 * SECOND_NS;
/// What a handle's wake-up asks for.
const REQUEST: u64 = 0;
/// What a handle's wake-up asks for.
const BULK: u64 = 1;
/// What a handle's wake-up asks for.
const WINDOW: u64 = 2;

/// This library.
pub(crate) struct Quiclane;

impl Stack for Quiclane {
    const NAME: &'static str = "quiclane";
    const REAL_TIME: bool = false;
    type Client = Side;
    type Server = Side;

    fn pair(setup: &Setup) -> Result<(Side, Side), Failure> {
        pair(setup, Algorithm::Cubic)
    }
}

/// This library, as [`Algorithm::StrictCubic`].
pub(crate) struct Strict;

impl Stack for Strict {
    const NAME: &'static str = "strict";
    const REAL_TIME: bool = false;
    type Client = Side;
    type Server = Side;

    fn pair(setup: &Setup) -> Result<(Side, Side), Failure> {
        pair(setup, Algorithm::StrictCubic)
    }
}

fn pair(setup: &Setup, congestion: Algorithm) -> Result<(Side, Side), Failure> {
    let identity = &setup.identity;
    let server = ServerTls::builder()
        .certificate_der(&[&identity.leaf], &identity.key_der)?
        .alpn([ALPN])
        .build()?;
    let mut client = ClientTls::builder().roots_der(&[&identity.root])?.alpn([ALPN]);
    if !setup.resume {
        client = client.sessions(0);
    }
    let transport = Arc::new(TransportConfig {
        idle_timeout: Duration::ZERO,
        connection_window_bytes: WINDOW_BYTES,
        stream_window_bytes: WINDOW_BYTES,
        bidi_streams: MAX_STREAMS,
        initial_mtu_bytes: setup.mtu,
        max_mtu_bytes: setup.mtu,
        congestion,
        ..TransportConfig::default()
    });
    let config = ServerConfig {
        transport: transport.clone(),
        retry: RetryPolicy::Never,
        ..ServerConfig::new(server)
    };
    let mut listening = Side::new(true, None)?;
    let state = listening.state.clone();
    let accept = move |_: &quiclane::exec::NewConnection<'_>| {
        Some(Box::new(App::new(&state)) as Box<dyn Handler>)
    };
    listening.worker.listen(0, SERVER, &config, Arc::new(accept));
    let config = ClientConfig { transport, ..ClientConfig::new(client.build()?) };
    Ok((Side::new(false, Some(config))?, listening))
}

/// What the applications of a side's connections have in common. Handlers are `Send`, hence
/// the atomics; no other thread writes, hence no read-modify-write.
struct State {
    is_server: bool,
    chunk: Bytes,
    request: Bytes,
    response: Bytes,
    handshakes: AtomicU64,
    resumptions: AtomicU64,
    responses: AtomicU64,
    received_bytes: AtomicU64,
    /// The congestion window when it was last asked for.
    window_bytes: AtomicU64,
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed) + amount, Relaxed);
}

/// The application of one connection.
struct App {
    state: Arc<State>,
    bulk: Option<StreamId>,
}

impl App {
    fn new(state: &Arc<State>) -> Self {
        Self { state: state.clone(), bulk: None }
    }

    /// Keeps the bulk stream full.
    fn fill(&self, c: &mut ConnectionRef<'_>, stream: StreamId) {
        let mut streams = c.streams();
        while streams.buffered(stream) < BULK_AHEAD_BYTES {
            assert!(streams.send(stream, self.state.chunk.clone(), false).is_ok(), "no bulk");
        }
    }
}

impl Handler for App {
    fn connected(&mut self, _: &mut ConnectionRef<'_>, resumed: bool) {
        add(&self.state.handshakes, 1);
        add(&self.state.resumptions, u64::from(resumed));
    }

    fn stream_data(
        &mut self,
        c: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        add(&self.state.received_bytes, data.len() as u64);
        if fin && self.state.is_server {
            assert!(
                c.streams().send(stream, self.state.response.clone(), true).is_ok(),
                "no response"
            );
        } else if fin {
            add(&self.state.responses, 1);
        }
        data.len()
    }

    fn acknowledged(&mut self, c: &mut ConnectionRef<'_>, stream: StreamId, _: u64, _: bool) {
        if self.bulk == Some(stream) {
            self.fill(c, stream);
        }
    }

    fn woken(&mut self, c: &mut ConnectionRef<'_>, what: u64) {
        if what == WINDOW {
            return self.state.window_bytes.store(c.stats().window_bytes, Relaxed);
        }
        let Ok(stream) = c.streams().open(Dir::Bi) else { return };
        if what == BULK {
            self.bulk = Some(stream);
            self.fill(c, stream);
        } else {
            assert!(
                c.streams().send(stream, self.state.request.clone(), true).is_ok(),
                "no request"
            );
        }
    }
}

/// One side of a pair.
pub(crate) struct Side {
    worker: Worker<MemoryDatapath>,
    /// What is known of every datagram that arrives here.
    meta: RxMeta,
    state: Arc<State>,
    config: Option<ClientConfig>,
    handles: Vec<Handle>,
    /// How far the worker's time is ahead, so that dropped connections are over.
    ahead_ns: u64,
}

impl Side {
    fn new(is_server: bool, config: Option<ClientConfig>) -> Result<Self, Failure> {
        let state = State {
            is_server,
            chunk: vec![0; CHUNK_BYTES].into(),
            request: vec![0; REQUEST_BYTES].into(),
            response: vec![0; RESPONSE_BYTES].into(),
            handshakes: AtomicU64::new(0),
            resumptions: AtomicU64::new(0),
            responses: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            window_bytes: AtomicU64::new(0),
        };
        let workers = SimulatedWorkers::new(1, SEEDS[usize::from(is_server)])?;
        // All clients are of one network, and connect faster than one may.
        let limits = LaneLimits { network_new_per_second: 0, ..LaneLimits::default() };
        let mut worker = workers.worker(0, Instant::from_nanos(BEGIN_NS), limits);
        let (local, remote) = if is_server { (SERVER, CLIENT) } else { (CLIENT, SERVER) };
        let mut datapath = MemoryDatapath::new(MAX_DATAGRAM_BYTES);
        datapath.limit_sent(BATCH_DATAGRAMS);
        worker.add_datapath(datapath)?;
        let path = Path { local, remote, link: Link::UNKNOWN };
        let meta = RxMeta { path, ecn: Ecn::Ect0, checksum: Checksum::Verified };
        let (state, handles) = (Arc::new(state), Vec::new());
        Ok(Self { worker, meta, state, config, handles, ahead_ns: BEGIN_NS })
    }

    fn turn(&mut self, now_ns: u64) {
        let turned = self.worker.turn(Instant::from_nanos(now_ns + self.ahead_ns));
        assert!(turned.is_ok(), "memory does not fail");
    }

    fn sent(&mut self) -> &mut Datagrams {
        self.worker.datapaths()[0].sent()
    }
}

impl Endpoint for Side {
    fn stage(&mut self, wire: &mut Wire) {
        let arrived = self.worker.datapaths()[0].arrived();
        wire.iter().for_each(|datagram| arrived.put(&self.meta, datagram));
        wire.clear();
    }

    /// A server's turn receives and transmits, so it runs in `transmit`. A client has to process its
    /// responses now; what it has to send leaves with the next `transmit`.
    fn receive(&mut self, now_ns: u64) {
        if !self.state.is_server {
            self.turn(now_ns);
        }
    }

    fn transmit(&mut self, now_ns: u64, wire: &mut Wire, _budget: usize) {
        if self.sent().len() < BATCH_DATAGRAMS {
            self.turn(now_ns);
        }
        for datagram in self.sent().iter_mut() {
            let len = datagram.exchange(wire.next());
            wire.commit(len, len);
        }
        self.sent().clear();
    }

    fn forget_all(&mut self, now_ns: u64) {
        self.worker.lane().close_all(0);
        while !self.worker.lane().is_empty() {
            self.turn(now_ns);
            self.sent().clear();
            self.ahead_ns += LONG_NS;
        }
        self.handles.clear();
    }

    fn handshakes(&self) -> u64 {
        self.state.handshakes.load(Relaxed)
    }
}

impl Client for Side {
    fn connect(&mut self, _now_ns: u64) -> Result<usize, Failure> {
        let config = self.config.as_ref().ok_or("a server does not connect")?;
        let app = Box::new(App::new(&self.state));
        self.handles.push(self.worker.connect(0, CLIENT, SERVER, SERVER_NAME, config, app));
        Ok(self.handles.len() - 1)
    }

    fn request(&mut self, _now_ns: u64, index: usize) {
        assert!(self.handles[index].wake(REQUEST).is_ok(), "no request");
    }

    fn responses(&self) -> u64 {
        self.state.responses.load(Relaxed)
    }

    fn start_bulk(&mut self, _now_ns: u64, index: usize) {
        assert!(self.handles[index].wake(BULK).is_ok(), "no bulk");
    }

    fn resumptions(&self) -> u64 {
        self.state.resumptions.load(Relaxed)
    }

    /// As it was when it was last asked for.
    fn window_bytes(&mut self, index: usize) -> u64 {
        assert!(self.handles[index].wake(WINDOW).is_ok(), "no window");
        self.state.window_bytes.load(Relaxed)
    }
}

impl Server for Side {
    fn received_bytes(&self) -> u64 {
        self.state.received_bytes.load(Relaxed)
    }
}
