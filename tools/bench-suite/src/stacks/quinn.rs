//! quinn-proto: `Endpoint` and `Connection` driven by hand, as the `quinn` crate does it.
//!
//! Settings in its favour: datagrams arrive in one `BytesMut` per batch that is cut without
//! copying (quinn's own socket layer copies once more); `poll_transmit` may make bursts of
//! [`SEGMENTS`] as for GSO, where its best value was found by trying 1, 10 and 32; sent data
//! is `Bytes` in large chunks, so that its send buffer is a short list; received data is
//! taken as chunks and dropped. Timers are the suite's, cheaper than tokio's. Everything else
//! is quinn's default: 8-byte connection ids, up to 8 of them issued, delayed acknowledgements
//! of 25 ms, pacing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, EndpointConfig, Event,
    ServerConfig, StreamEvent, StreamId, TransportConfig, VarInt,
};

use crate::identity::SERVER_NAME;
use crate::stack::{
    BATCH_DATAGRAMS, BULK_AHEAD_BYTES, CHUNK_BYTES, Client, Endpoint, MAX_STREAMS, REQUEST_BYTES,
    RESPONSE_BYTES, Server, Setup, Stack, WINDOW_BYTES,
};
use crate::stacks::{CLIENT, SERVER};
use crate::timers::{Dirty, Timers};
use crate::wire::Wire;
use crate::{Failure, clock, tls};

/// Datagrams that one `poll_transmit` may make.
const SEGMENTS: usize = 10;
/// Longer than any timer that a closed connection has.
const LONG: Duration = Duration::from_secs(3600);

/// quinn-proto 0.11.
pub(crate) struct Quinn;

impl Stack for Quinn {
    const NAME: &'static str = "quinn-proto";
    const REAL_TIME: bool = false;
    type Client = Side;
    type Server = Side;

    fn pair(setup: &Setup) -> Result<(Side, Side), Failure> {
        let transport = Arc::new(transport(setup));
        let tls = tls::server(&setup.identity, setup.resume)?;
        let mut server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
        server.transport_config(transport.clone());
        let (tls, verified) = tls::client(&setup.identity, setup.resume)?;
        let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        client.transport_config(transport);
        Ok((Side::new(None, Some(client), verified), Side::new(Some(server), None, Arc::default())))
    }
}

fn transport(setup: &Setup) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let window = VarInt::from_u32(WINDOW_BYTES as u32);
    transport
        .initial_mtu(setup.mtu)
        .mtu_discovery_config(None)
        .max_idle_timeout(None)
        .stream_receive_window(window)
        .receive_window(window)
        .send_window(BULK_AHEAD_BYTES)
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS as u32));
    transport
}

/// One side of a pair.
pub(crate) struct Side {
    endpoint: quinn_proto::Endpoint,
    client_config: Option<ClientConfig>,
    base: Instant,
    connections: Vec<Option<Box<Connection>>>,
    inbound: Vec<BytesMut>,
    dirty: Dirty,
    timers: Timers,
    due: Vec<usize>,
    scratch: Vec<u8>,
    app: App,
    connects: u64,
    verified: Arc<AtomicU64>,
}

/// The application's state, and what it sends.
struct App {
    is_server: bool,
    bulk: Option<StreamId>,
    chunk: Bytes,
    request: Bytes,
    response: Bytes,
    handshakes: u64,
    responses: u64,
    received_bytes: u64,
}

impl Side {
    fn new(
        server: Option<ServerConfig>,
        client_config: Option<ClientConfig>,
        verified: Arc<AtomicU64>,
    ) -> Self {
        let app = App {
            is_server: server.is_some(),
            bulk: None,
            chunk: vec![0; CHUNK_BYTES].into(),
            request: vec![0; REQUEST_BYTES].into(),
            response: vec![0; RESPONSE_BYTES].into(),
            handshakes: 0,
            responses: 0,
            received_bytes: 0,
        };
        let config = Arc::new(EndpointConfig::default());
        Self {
            endpoint: quinn_proto::Endpoint::new(config, server.map(Arc::new), false, None),
            client_config,
            base: clock::now(),
            connections: Vec::new(),
            inbound: Vec::new(),
            dirty: Dirty::default(),
            timers: Timers::new(),
            due: Vec::new(),
            scratch: Vec::new(),
            app,
            connects: 0,
            verified,
        }
    }

    fn time(&self, now_ns: u64) -> Instant {
        self.base + Duration::from_nanos(now_ns)
    }

    fn insert(&mut self, handle: ConnectionHandle, connection: Connection) -> usize {
        if handle.0 >= self.connections.len() {
            self.connections.resize_with(handle.0 + 1, || None);
        }
        self.connections[handle.0] = Some(Box::new(connection));
        self.dirty.mark(handle.0);
        handle.0
    }

    fn deliver(&mut self, now: Instant, datagram: BytesMut) {
        let from = if self.app.is_server { CLIENT } else { SERVER };
        let scratch = &mut self.scratch;
        match self.endpoint.handle(now, from, None, None, datagram, scratch) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(Some(connection)) = self.connections.get_mut(handle.0) {
                    connection.handle_event(event);
                    self.dirty.mark(handle.0);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                if let Ok((handle, new)) = self.endpoint.accept(incoming, now, scratch, None) {
                    self.insert(handle, new);
                }
            }
            Some(DatagramEvent::Response(_)) | None => {}
        }
    }

    /// Lets a connection talk to its endpoint and the application, until both are done.
    fn service(&mut self, index: usize) {
        let Some(Some(connection)) = self.connections.get_mut(index) else { return };
        while let Some(event) = connection.poll() {
            self.app.event(connection, event);
        }
        if let Some(bulk) = self.app.bulk {
            self.app.fill(connection, bulk);
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(ConnectionHandle(index), event) {
                connection.handle_event(event);
            }
        }
        if connection.is_drained() {
            self.connections[index] = None;
        }
    }
}

impl App {
    fn event(&mut self, connection: &mut Connection, event: Event) {
        match event {
            Event::Connected => self.handshakes += 1,
            Event::Stream(StreamEvent::Opened { dir: Dir::Bi }) => {
                while let Some(id) = connection.streams().accept(Dir::Bi) {
                    self.read(connection, id);
                }
            }
            Event::Stream(StreamEvent::Readable { id }) => self.read(connection, id),
            _ => {}
        }
    }

    fn read(&mut self, connection: &mut Connection, id: StreamId) {
        let mut finished = false;
        let mut stream = connection.recv_stream(id);
        if let Ok(mut chunks) = stream.read(true) {
            loop {
                match chunks.next(usize::MAX) {
                    Ok(Some(chunk)) => self.received_bytes += chunk.bytes.len() as u64,
                    Ok(None) => {
                        finished = true;
                        break;
                    }
                    Err(_) => break,
                }
            }
            let _ = chunks.finalize();
        }
        if finished && self.is_server {
            let response = self.response.clone();
            self.send_all(connection, id, response);
        } else if finished {
            self.responses += 1;
        }
    }

    /// Sends a short message that ends its stream.
    fn send_all(&self, connection: &mut Connection, id: StreamId, message: Bytes) {
        let mut stream = connection.send_stream(id);
        let len = message.len();
        let written = stream.write_chunks(&mut [message]);
        assert!(written.is_ok_and(|w| w.bytes == len), "quinn took a message in part");
        assert!(stream.finish().is_ok(), "quinn cannot finish a stream");
    }

    /// Keeps the bulk stream full.
    fn fill(&self, connection: &mut Connection, id: StreamId) {
        let mut stream = connection.send_stream(id);
        while stream.write_chunks(&mut [self.chunk.clone()]).is_ok_and(|w| w.chunks == 1) {}
    }
}

impl Endpoint for Side {
    fn stage(&mut self, wire: &mut Wire) {
        let mut all = BytesMut::with_capacity(wire.bytes());
        wire.iter().for_each(|datagram| all.extend_from_slice(datagram));
        self.inbound.extend(wire.iter().map(|datagram| all.split_to(datagram.len())));
        wire.clear();
    }

    fn receive(&mut self, now_ns: u64) {
        let now = self.time(now_ns);
        let mut inbound = std::mem::take(&mut self.inbound);
        for datagram in inbound.drain(..) {
            self.deliver(now, datagram);
        }
        self.inbound = inbound;
        self.dirty.snapshot(&mut self.due);
        while let Some(index) = self.due.pop() {
            self.service(index);
        }
    }

    fn transmit(&mut self, now_ns: u64, wire: &mut Wire, budget: usize) {
        let now = self.time(now_ns);
        let mut due = std::mem::take(&mut self.due);
        self.timers.expire(now_ns, &mut due);
        for index in due.drain(..) {
            if let Some(Some(connection)) = self.connections.get_mut(index) {
                connection.handle_timeout(now);
                self.dirty.mark(index);
                self.service(index);
            }
        }
        self.due = due;
        while wire.len() < budget {
            let Some(index) = self.dirty.pop() else { break };
            let Some(Some(connection)) = self.connections.get_mut(index) else { continue };
            loop {
                let room = budget - wire.len();
                if room == 0 {
                    self.dirty.mark(index);
                    break;
                }
                let buffer = wire.next();
                buffer.clear();
                let Some(made) = connection.poll_transmit(now, SEGMENTS.min(room), buffer) else {
                    break;
                };
                wire.commit(made.size, made.segment_size.unwrap_or(made.size));
            }
            let deadline = connection.poll_timeout().map(|at| (at - self.base).as_nanos() as u64);
            self.timers.set(index, deadline);
        }
    }

    fn forget_all(&mut self, now_ns: u64) {
        for index in 0..self.connections.len() {
            if let Some(connection) = &mut self.connections[index] {
                connection.close(self.base, VarInt::from_u32(0), Bytes::new());
                // Draining takes three probe timeouts; let them be over.
                connection.handle_timeout(self.base + Duration::from_nanos(now_ns) + LONG);
                self.service(index);
            }
        }
    }

    fn handshakes(&self) -> u64 {
        self.app.handshakes
    }
}

impl Client for Side {
    fn connect(&mut self, now_ns: u64) -> Result<usize, Failure> {
        let config = self.client_config.clone().ok_or("a server does not connect")?;
        let now = self.time(now_ns);
        let (handle, new) = self.endpoint.connect(now, config, SERVER, SERVER_NAME)?;
        self.connects += 1;
        Ok(self.insert(handle, new))
    }

    fn request(&mut self, _now_ns: u64, index: usize) {
        let Some(Some(connection)) = self.connections.get_mut(index) else { return };
        if let Some(id) = connection.streams().open(Dir::Bi) {
            self.app.send_all(connection, id, self.app.request.clone());
            self.dirty.mark(index);
        }
    }

    fn responses(&self) -> u64 {
        self.app.responses
    }

    fn start_bulk(&mut self, _now_ns: u64, index: usize) {
        let Some(Some(connection)) = self.connections.get_mut(index) else { return };
        self.app.bulk = connection.streams().open(Dir::Bi);
        self.dirty.mark(index);
        self.service(index);
    }

    fn resumptions(&self) -> u64 {
        self.connects - self.verified.load(Relaxed)
    }

    fn window_bytes(&mut self, index: usize) -> u64 {
        self.connections[index].as_ref().map_or(0, |connection| connection.stats().path.cwnd)
    }
}

impl Server for Side {
    fn received_bytes(&self) -> u64 {
        self.app.received_bytes
    }
}

const _: () = assert!(BATCH_DATAGRAMS >= SEGMENTS);
