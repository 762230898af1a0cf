//! quiche: `Connection::recv`, `send` and `on_timeout`, as its examples do it.
//!
//! quiche reads clocks itself, once a packet; so its pairs run in real time. Settings in its
//! favour: stream data is handed over without copying (`stream_send_zc` with `Bytes`); pacing
//! is off, since it only computes release times that this benchmark does not wait for, and so is HyStart,
//! which mistakes a shared machine's jitter for congestion; connections are found by the first
//! 8 bytes of a short header, without parsing (its examples parse the header, which allocates);
//! one connection id each, no new ones issued. Everything else is its default, among that an
//! acknowledgement whenever `send` is called after a packet came.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quiche::{BufFactory, Config, Connection, ConnectionId, Header, RecvInfo, Type};

use crate::identity::{ALPN, Identity, SERVER_NAME};
use crate::stack::{
    CHUNK_BYTES, Client, Endpoint, MAX_STREAMS, REQUEST_BYTES, RESPONSE_BYTES, Server, Setup,
    Stack, WINDOW_BYTES,
};
use crate::stacks::{CLIENT, SERVER};
use crate::timers::{Dirty, Timers};
use crate::wire::{Frames, Wire};
use crate::{Failure, clock};

/// Bytes of our connection ids: quinn's default length.
const ID_BYTES: usize = 8;
/// The most bytes of one read of stream data.
const READ_BYTES: usize = 64 * 1024;
/// Seed of the connection ids, which only have to differ.
const ID_SEED: u64 = 0x9e37_79b9_7f4a_7c15;
/// quiche's ticket keys: name, HMAC key and AES key of 16 bytes each.
const TICKET_KEY: [u8; 48] = [7; 48];

/// quiche 0.30.
pub(crate) struct Quiche;

impl Stack for Quiche {
    const NAME: &'static str = "quiche";
    const REAL_TIME: bool = true;
    type Client = Side;
    type Server = Side;

    fn pair(setup: &Setup) -> Result<(Side, Side), Failure> {
        let files = PemFiles::write(&setup.identity)?;
        let mut client = config(setup)?;
        client.load_verify_locations_from_file(&files.path("root.pem"))?;
        client.verify_peer(true);
        let mut server = config(setup)?;
        server.load_cert_chain_from_pem_file(&files.path("leaf.pem"))?;
        server.load_priv_key_from_pem_file(&files.path("key.pem"))?;
        server.set_ticket_key(&TICKET_KEY)?;
        Ok((Side::new(client, false, setup.resume), Side::new(server, true, false)))
    }
}

fn config(setup: &Setup) -> Result<Config, Failure> {
    let mut config = Config::new(quiche::PROTOCOL_VERSION)?;
    config.set_application_protos(&[ALPN])?;
    config.set_curves_list("X25519")?;
    config.set_max_send_udp_payload_size(setup.mtu.into());
    config.set_max_recv_udp_payload_size(setup.mtu.into());
    config.set_initial_max_data(WINDOW_BYTES);
    config.set_initial_max_stream_data_bidi_local(WINDOW_BYTES);
    config.set_initial_max_stream_data_bidi_remote(WINDOW_BYTES);
    config.set_max_connection_window(WINDOW_BYTES);
    config.set_max_stream_window(WINDOW_BYTES);
    config.set_initial_max_streams_bidi(MAX_STREAMS);
    config.enable_hystart(false);
    config.enable_pacing(false);
    config.grease(false);
    Ok(config)
}

/// PEM files for the one way in which quiche takes certificates; gone when dropped.
struct PemFiles(PathBuf);

impl PemFiles {
    fn write(identity: &Identity) -> Result<Self, Failure> {
        let dir = std::env::temp_dir().join(format!("quiclane-bench-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let files = Self(dir);
        std::fs::write(files.path("root.pem"), &identity.root_pem)?;
        std::fs::write(files.path("leaf.pem"), &identity.leaf_pem)?;
        std::fs::write(files.path("key.pem"), &identity.key_pem)?;
        Ok(files)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for PemFiles {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Stream data as `Bytes`: splitting and cloning are counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedBytes;

impl BufFactory for SharedBytes {
    type Buf = Bytes;
    type DgramBuf = Vec<u8>;

    fn buf_from_slice(data: &[u8]) -> Bytes {
        Bytes::copy_from_slice(data)
    }

    fn dgram_buf_from_slice(data: &[u8]) -> Vec<u8> {
        data.to_vec()
    }
}

/// Our ids are random already.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.0 = self.0.rotate_left(8) ^ u64::from(*b));
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }
}

/// One side of a pair.
pub(crate) struct Side {
    config: Config,
    base: Instant,
    by_id: HashMap<u64, usize, BuildHasherDefault<IdHasher>>,
    slots: Vec<Option<Box<Slot>>>,
    frames: Frames,
    dirty: Dirty,
    timers: Timers,
    due: Vec<usize>,
    ids_made: u64,
    app: App,
    keep_tickets: bool,
    ticket: Option<Vec<u8>>,
}

struct Slot {
    connection: Connection<SharedBytes>,
    ready: bool,
    next_stream: u64,
    ids: Vec<u64>,
}

/// The application's state, and what it sends.
struct App {
    is_server: bool,
    bulk: Option<u64>,
    chunk: Bytes,
    request: Bytes,
    response: Bytes,
    buffer: Vec<u8>,
    handshakes: u64,
    resumptions: u64,
    responses: u64,
    received_bytes: u64,
}

impl Side {
    fn new(config: Config, is_server: bool, keep_tickets: bool) -> Self {
        let app = App {
            is_server,
            bulk: None,
            chunk: vec![0; CHUNK_BYTES].into(),
            request: vec![0; REQUEST_BYTES].into(),
            response: vec![0; RESPONSE_BYTES].into(),
            buffer: vec![0; READ_BYTES],
            handshakes: 0,
            resumptions: 0,
            responses: 0,
            received_bytes: 0,
        };
        Self {
            config,
            base: clock::now(),
            by_id: HashMap::default(),
            slots: Vec::new(),
            frames: Frames::default(),
            dirty: Dirty::default(),
            timers: Timers::new(),
            due: Vec::new(),
            ids_made: 0,
            app,
            keep_tickets,
            ticket: None,
        }
    }

    fn new_id(&mut self) -> u64 {
        self.ids_made += 1;
        self.ids_made.wrapping_mul(ID_SEED)
    }

    fn insert(&mut self, connection: Connection<SharedBytes>, ids: Vec<u64>) -> usize {
        let index = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if index == self.slots.len() {
            self.slots.push(None);
        }
        ids.iter().for_each(|id| {
            self.by_id.insert(*id, index);
        });
        self.slots[index] = Some(Box::new(Slot { connection, ready: false, next_stream: 0, ids }));
        self.dirty.mark(index);
        index
    }

    /// The connection that a datagram is for; a new one for an Initial.
    fn find(&mut self, datagram: &mut [u8]) -> Option<usize> {
        if datagram.first()? & 0x80 == 0 {
            return self.by_id.get(&id_of(datagram.get(1..)?)?).copied();
        }
        let header = Header::from_slice(datagram, ID_BYTES).ok()?;
        let id = id_of(&header.dcid)?;
        if let Some(index) = self.by_id.get(&id) {
            return Some(*index);
        }
        (self.app.is_server && header.ty == Type::Initial).then_some(())?;
        let own = self.new_id();
        let bytes = own.to_be_bytes();
        let own_id = ConnectionId::from_ref(&bytes);
        let config = &mut self.config;
        let connection =
            quiche::accept_with_buf_factory(&own_id, None, SERVER, CLIENT, config).ok()?;
        Some(self.insert(connection, vec![own, id]))
    }

    /// Lets the application do its part on a connection.
    fn service(&mut self, index: usize) {
        let Some(Some(slot)) = self.slots.get_mut(index) else { return };
        if !slot.ready && slot.connection.is_established() {
            slot.ready = true;
            self.app.handshakes += 1;
            self.app.resumptions += u64::from(slot.connection.is_resumed());
        }
        while let Some(id) = slot.connection.stream_readable_next() {
            self.app.read(&mut slot.connection, id);
        }
        if let Some(bulk) = self.app.bulk {
            self.app.fill(&mut slot.connection, bulk);
        }
        if slot.connection.is_closed() {
            self.remove(index);
        }
    }

    fn remove(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index).and_then(Option::take) else { return };
        for id in &slot.ids {
            self.by_id.remove(id);
        }
        if self.keep_tickets
            && let Some(ticket) = slot.connection.session()
        {
            self.ticket = Some(ticket.to_vec());
        }
    }
}

fn id_of(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk::<ID_BYTES>().map(|id| u64::from_be_bytes(*id))
}

impl App {
    fn read(&mut self, connection: &mut Connection<SharedBytes>, id: u64) {
        while let Ok((len, finished)) = connection.stream_recv(id, &mut self.buffer) {
            self.received_bytes += len as u64;
            if finished && self.is_server {
                send_all(connection, id, self.response.clone());
            } else if finished {
                self.responses += 1;
            }
        }
    }

    /// Keeps the bulk stream full: quiche takes what congestion control lets it send.
    fn fill(&self, connection: &mut Connection<SharedBytes>, id: u64) {
        while let Ok((_, None)) = connection.stream_send_zc(id, self.chunk.clone(), false) {}
    }
}

/// Sends a short message that ends its stream.
fn send_all(connection: &mut Connection<SharedBytes>, id: u64, message: Bytes) {
    let sent = connection.stream_send_zc(id, message, true);
    assert!(matches!(sent, Ok((_, None))), "quiche took a message in part");
}

impl Endpoint for Side {
    fn stage(&mut self, wire: &mut Wire) {
        self.frames.fill(wire);
    }

    fn receive(&mut self, _now_ns: u64) {
        let (from, to) = if self.app.is_server { (CLIENT, SERVER) } else { (SERVER, CLIENT) };
        let mut frames = std::mem::take(&mut self.frames);
        for at in 0..frames.len() {
            let datagram = frames.get(at);
            let Some(index) = self.find(datagram) else { continue };
            if let Some(Some(slot)) = self.slots.get_mut(index) {
                // An error closes the connection, which `service` sees.
                let _ = slot.connection.recv(datagram, RecvInfo { from, to });
                self.dirty.mark(index);
            }
        }
        frames.clear();
        self.frames = frames;
        self.dirty.snapshot(&mut self.due);
        while let Some(index) = self.due.pop() {
            self.service(index);
        }
    }

    fn transmit(&mut self, now_ns: u64, wire: &mut Wire, budget: usize) {
        let mut due = std::mem::take(&mut self.due);
        self.timers.expire(now_ns, &mut due);
        for index in due.drain(..) {
            if let Some(Some(slot)) = self.slots.get_mut(index) {
                slot.connection.on_timeout();
                self.dirty.mark(index);
                self.service(index);
            }
        }
        self.due = due;
        while wire.len() < budget {
            let Some(index) = self.dirty.pop() else { break };
            let Some(Some(slot)) = self.slots.get_mut(index) else { continue };
            loop {
                if wire.len() == budget {
                    self.dirty.mark(index);
                    break;
                }
                let Ok((len, _)) = slot.connection.send(wire.next_datagram()) else { break };
                wire.commit(len, len);
            }
            let deadline = slot.connection.timeout_instant();
            self.timers.set(index, deadline.map(|at| nanos(at.duration_since(self.base))));
        }
    }

    fn forget_all(&mut self, _now_ns: u64) {
        for index in 0..self.slots.len() {
            self.remove(index);
        }
    }

    fn handshakes(&self) -> u64 {
        self.app.handshakes
    }
}

fn nanos(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

impl Client for Side {
    fn connect(&mut self, _now_ns: u64) -> Result<usize, Failure> {
        let own = self.new_id();
        let bytes = own.to_be_bytes();
        let id = ConnectionId::from_ref(&bytes);
        let config = &mut self.config;
        let mut new =
            quiche::connect_with_buffer_factory(Some(SERVER_NAME), &id, CLIENT, SERVER, config)?;
        if let Some(ticket) = self.ticket.take() {
            new.set_session(&ticket)?;
        }
        Ok(self.insert(new, vec![own]))
    }

    fn request(&mut self, _now_ns: u64, index: usize) {
        let Some(Some(slot)) = self.slots.get_mut(index) else { return };
        send_all(&mut slot.connection, slot.next_stream, self.app.request.clone());
        slot.next_stream += 4;
        self.dirty.mark(index);
    }

    fn responses(&self) -> u64 {
        self.app.responses
    }

    fn start_bulk(&mut self, _now_ns: u64, index: usize) {
        let Some(Some(slot)) = self.slots.get_mut(index) else { return };
        self.app.bulk = Some(slot.next_stream);
        self.dirty.mark(index);
        self.service(index);
    }

    fn resumptions(&self) -> u64 {
        self.app.resumptions
    }

    fn window_bytes(&mut self, index: usize) -> u64 {
        let slot = self.slots[index].as_ref();
        slot.and_then(|slot| slot.connection.path_stats().next()).map_or(0, |p| p.cwnd as u64)
    }
}

impl Server for Side {
    fn received_bytes(&self) -> u64 {
        self.app.received_bytes
    }
}
