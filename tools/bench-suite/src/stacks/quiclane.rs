//! Quiclane: connections in the table, the wheel and behind the ids of a worker.
//!
//! What a lane does per packet is done here: the id is decrypted, the slot looked up, the
//! datagram opened in its frame, callbacks run inline, the connection put on the touched list
//! once; after the batch the touched connections transmit in turn, and each sets its timer.
//! Settings are the library's defaults but for those that the suite fixes for all.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quiclane::ecn::Ecn;
use quiclane::exec::table::{InitialKey, Key, Table};
use quiclane::exec::wheel::Wheel;
use quiclane::lb::{CID_LEN, Codec, Config, Route};
use quiclane::proto::connection::{Application, ClientArgs, Connection, Event, TransportConfig};
use quiclane::proto::crypto::{ClientTls, ResetKey, ServerTls};
use quiclane::proto::endpoint::{Context, Endpoint as Greeter, Incoming, RetryPolicy};
use quiclane::proto::token::{TokenConfig, Tokens, UsedTokens};
use quiclane::time::Instant;
use quiclane::wire::{ConnectionId, Dir, StreamId};

use crate::Failure;
use crate::identity::{ALPN, SERVER_NAME};
use crate::stack::{
    BULK_AHEAD_BYTES, CHUNK_BYTES, Client, Endpoint, MAX_STREAMS, REQUEST_BYTES, RESPONSE_BYTES,
    Server, Setup, Stack, WINDOW_BYTES,
};
use crate::stacks::{CLIENT, SERVER};
use crate::wire::{Frames, MAX_DATAGRAM_BYTES, Wire};

/// Connections of a side at one time, and handshakes among them.
const MAX_CONNECTIONS: usize = 1 << 16;
/// Datagrams that a touched connection writes before it is the next one's turn.
const TRANSMIT_BUDGET: usize = 16;
/// Seeds, keys and ids of the two sides differ by this.
const SIDE_SEEDS: [u64; 2] = [0x5851_f42d_4c95_7f2d, 0x1405_7b7e_f767_814f];

/// This library.
pub(crate) struct Quiclane;

impl Stack for Quiclane {
    const NAME: &'static str = "quiclane";
    const REAL_TIME: bool = false;
    type Client = Side;
    type Server = Side;

    fn pair(setup: &Setup) -> Result<(Side, Side), Failure> {
        let identity = &setup.identity;
        let server = ServerTls::builder()
            .certificate_der(&[&identity.leaf], &identity.key_der)?
            .alpn([ALPN])
            .build()?;
        let mut client = ClientTls::builder().roots_der(&[&identity.root])?.alpn([ALPN]);
        if !setup.resume {
            client = client.sessions(0);
        }
        let config = Arc::new(TransportConfig {
            idle_timeout: Duration::ZERO,
            connection_window_bytes: WINDOW_BYTES,
            stream_window_bytes: WINDOW_BYTES,
            bidi_streams: MAX_STREAMS,
            initial_mtu_bytes: setup.mtu,
            max_mtu_bytes: setup.mtu,
            ..TransportConfig::default()
        });
        let greeter = greeter(config.clone(), Arc::new(server));
        Ok((
            Side::new(SIDE_SEEDS[0], config.clone(), Some(Arc::new(client.build()?)), None)?,
            Side::new(SIDE_SEEDS[1], config, None, Some(greeter))?,
        ))
    }
}

fn greeter(config: Arc<TransportConfig>, tls: Arc<ServerTls>) -> Greeter {
    let tokens = TokenConfig::default();
    let used = UsedTokens::new(&tokens, MAX_CONNECTIONS);
    let tokens = Tokens::new(&[1; 32], tokens, used);
    Greeter::new(config, tls, tokens, ResetKey::new(&[2; 32]), RetryPolicy::Never)
}

/// One side of a pair.
pub(crate) struct Side {
    config: Arc<TransportConfig>,
    tls: Option<Arc<ClientTls>>,
    greeter: Option<Greeter>,
    reset: ResetKey,
    codec: Codec,
    /// `None` only while a connection could not be made.
    table: Table<Option<Entry>>,
    wheel: Wheel,
    touched: VecDeque<u32>,
    frames: Frames,
    app: App,
    random: u64,
}

struct Entry {
    connection: Connection,
    touched: bool,
    initial: Option<InitialKey>,
}

/// The application's state, and what it sends.
struct App {
    is_server: bool,
    bulk: Option<StreamId>,
    chunk: Bytes,
    request: Bytes,
    response: Bytes,
    handshakes: u64,
    resumptions: u64,
    responses: u64,
    received_bytes: u64,
}

impl Application for App {
    fn data(&mut self, c: &mut Connection, stream: StreamId, data: &[u8], fin: bool) -> usize {
        self.received_bytes += data.len() as u64;
        if fin && self.is_server {
            assert!(c.send(stream, self.response.clone(), true).is_ok(), "no response");
        } else if fin {
            self.responses += 1;
        }
        data.len()
    }

    fn event(&mut self, c: &mut Connection, event: Event) {
        match event {
            Event::Connected { resumed } => {
                self.handshakes += 1;
                self.resumptions += u64::from(resumed);
            }
            Event::Acknowledged { stream, .. } if self.bulk == Some(stream) => {
                self.fill(c, stream);
            }
            _ => {}
        }
    }
}

impl App {
    /// Keeps the bulk stream full.
    fn fill(&self, c: &mut Connection, stream: StreamId) {
        while c.buffered(stream) < BULK_AHEAD_BYTES {
            assert!(c.send(stream, self.chunk.clone(), false).is_ok(), "no bulk");
        }
    }
}

impl Side {
    fn new(
        seed: u64,
        config: Arc<TransportConfig>,
        tls: Option<Arc<ClientTls>>,
        greeter: Option<Greeter>,
    ) -> Result<Self, Failure> {
        let app = App {
            is_server: greeter.is_some(),
            bulk: None,
            chunk: vec![0; CHUNK_BYTES].into(),
            request: vec![0; REQUEST_BYTES].into(),
            response: vec![0; RESPONSE_BYTES].into(),
            handshakes: 0,
            resumptions: 0,
            responses: 0,
            received_bytes: 0,
        };
        let secret = (u128::from(seed) * u128::from(seed)).to_be_bytes();
        let ids = Config { config_id: 0, server_id: seed as u32, key: Some(secret), secret };
        Ok(Self {
            config,
            tls,
            greeter,
            reset: ResetKey::new(&[2; 32]),
            codec: Codec::new(&ids)?,
            table: Table::new(MAX_CONNECTIONS, MAX_CONNECTIONS),
            wheel: Wheel::new(Instant::EPOCH),
            touched: VecDeque::new(),
            frames: Frames::default(),
            app,
            random: seed,
        })
    }

    /// SplitMix64: the suite's stand-in for a worker's buffered system randomness.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
    }

    fn new_cid(&mut self, key: Key) -> ConnectionId {
        let random = self.random();
        self.codec.encode(route(key), random)
    }

    /// The connection that a datagram is for; a new one for a greeting.
    fn find(&mut self, now: Instant, datagram: &[u8]) -> Option<Key> {
        let long = datagram.first()? & 0x80 != 0;
        let dcid = if long {
            datagram.get(6..6 + usize::from(*datagram.get(5)?))?
        } else {
            datagram.get(1..1 + CID_LEN)?
        };
        if let Some(Route { slot, generation, .. }) = self.codec.decode(dcid) {
            return Some(Key { slot, generation: generation as u16 });
        }
        let remote = if self.app.is_server { CLIENT } else { SERVER };
        let initial = InitialKey { dcid: ConnectionId::new(dcid)?, remote };
        self.table.find_initial(&initial).or_else(|| self.greet(now, datagram, initial))
    }

    fn greet(&mut self, now: Instant, datagram: &[u8], initial: InitialKey) -> Option<Key> {
        let mut random = [0; 32];
        for bytes in random.chunks_exact_mut(8) {
            bytes.copy_from_slice(&self.random().to_be_bytes());
        }
        let (cid_random, seed) = (self.random(), self.random());
        let greeter = self.greeter.as_mut()?;
        let mut answer = [0; MAX_DATAGRAM_BYTES];
        let handshakes = self.table.initials();
        let mut cx = Context { now, remote: CLIENT, handshakes, random, answer: &mut answer };
        let Incoming::Accept(greeting) = greeter.incoming(datagram, CID_LEN, &mut cx) else {
            return None;
        };
        let codec = &self.codec;
        let key = self.table.insert(|key| {
            let cid = codec.encode(route(key), cid_random);
            let connection = greeter.accept(&greeting, now, CLIENT, cid, seed)?;
            Some(Entry { connection, touched: false, initial: Some(initial) })
        });
        let key = key.ok()?;
        if self.table.get(key).is_some_and(|entry| entry.is_none()) {
            self.table.remove(key);
            return None;
        }
        self.wheel.grow(self.table.slots());
        self.table.insert_initial(initial, key).is_ok().then_some(key)
    }

    /// Sets the timer of a connection that has written all it has, or ends it.
    fn settle(&mut self, slot: u32) {
        let Some((key, Some(entry))) = self.table.get_slot(slot) else { return };
        if let Some(initial) = &entry.initial
            && !entry.connection.is_handshaking()
        {
            let initial = *initial;
            entry.initial = None;
            self.wheel.set(slot, entry.connection.next_timeout().unwrap_or(Instant::NEVER));
            self.table.remove_initial(&initial);
        } else if entry.connection.is_drained() {
            self.table.remove(key);
            self.wheel.remove(slot);
        } else {
            self.wheel.set(slot, entry.connection.next_timeout().unwrap_or(Instant::NEVER));
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(slot) = self.wheel.pop_due(now) {
            if let Some((_, Some(entry))) = self.table.get_slot(slot) {
                entry.connection.handle_timeout(now, &mut self.app);
                touch(&mut self.touched, slot, entry);
            }
        }
    }

    fn issue_cids(&mut self, key: Key) {
        while self
            .table
            .get(key)
            .is_some_and(|e| e.as_ref().is_some_and(|e| e.connection.wants_cid()))
        {
            let cid = self.new_cid(key);
            let token = self.reset.token(cid.as_slice());
            if let Some(Some(entry)) = self.table.get(key) {
                entry.connection.add_cid(cid, token);
            }
        }
    }
}

fn touch(touched: &mut VecDeque<u32>, slot: u32, entry: &mut Entry) {
    if !entry.touched {
        entry.touched = true;
        touched.push_back(slot);
    }
}

fn route(key: Key) -> Route {
    Route { worker: 0, slot: key.slot, generation: key.generation.into() }
}

impl Endpoint for Side {
    fn stage(&mut self, wire: &mut Wire) {
        self.frames.fill(wire);
    }

    fn receive(&mut self, now_ns: u64) {
        let now = Instant::from_nanos(now_ns);
        let remote = if self.app.is_server { CLIENT } else { SERVER };
        let mut frames = std::mem::take(&mut self.frames);
        for at in 0..frames.len() {
            let datagram = frames.get(at);
            let Some(key) = self.find(now, datagram) else { continue };
            if let Some(Some(entry)) = self.table.get(key) {
                entry.connection.receive(now, remote, Ecn::Ect0, datagram, &mut self.app);
                touch(&mut self.touched, key.slot, entry);
            }
        }
        frames.clear();
        self.frames = frames;
    }

    fn transmit(&mut self, now_ns: u64, wire: &mut Wire, budget: usize) {
        let now = Instant::from_nanos(now_ns);
        self.expire(now);
        while wire.len() < budget
            && let Some(slot) = self.touched.pop_front()
        {
            let Some((key, Some(entry))) = self.table.get_slot(slot) else { continue };
            entry.touched = false;
            if entry.connection.wants_cid() {
                self.issue_cids(key);
            }
            let Some(Some(entry)) = self.table.get(key) else { continue };
            let mut left = TRANSMIT_BUDGET.min(budget - wire.len());
            while left > 0
                && let Some(made) = entry.connection.transmit(now, wire.next_datagram())
            {
                wire.commit(made.len, made.len);
                left -= 1;
            }
            if left == 0 {
                touch(&mut self.touched, slot, entry);
            } else {
                self.settle(slot);
            }
        }
    }

    fn forget_all(&mut self, _now_ns: u64) {
        for slot in 0..self.table.slots() as u32 {
            if let Some((key, _)) = self.table.get_slot(slot) {
                self.table.remove(key);
                self.wheel.remove(slot);
            }
        }
        self.touched.clear();
    }

    fn handshakes(&self) -> u64 {
        self.app.handshakes
    }
}

impl Client for Side {
    fn connect(&mut self, now_ns: u64) -> Result<usize, Failure> {
        let tls = self.tls.clone().ok_or("a server does not connect")?;
        let (cid_random, seed, dcid) = (self.random(), self.random(), self.random());
        let initial_dcid = ConnectionId::new(&dcid.to_be_bytes()).ok_or("no id")?;
        let mut error = None;
        let (codec, config) = (&self.codec, &self.config);
        let key = self.table.insert(|key| {
            let made = Connection::connect(ClientArgs {
                config: config.clone(),
                tls: &tls,
                server_name: SERVER_NAME,
                now: Instant::from_nanos(now_ns),
                remote: SERVER,
                local_cid: codec.encode(route(key), cid_random),
                initial_dcid,
                token: Vec::new(),
                seed,
            });
            match made {
                Ok(connection) => Some(Entry { connection, touched: true, initial: None }),
                Err(cause) => {
                    error = Some(cause);
                    None
                }
            }
        });
        let key = key.map_err(|_| "the table is full")?;
        if let Some(cause) = error {
            return Err(cause.to_string().into());
        }
        self.wheel.grow(self.table.slots());
        self.touched.push_back(key.slot);
        Ok(key.slot as usize)
    }

    fn request(&mut self, _now_ns: u64, index: usize) {
        let slot = index as u32;
        let Some((_, Some(entry))) = self.table.get_slot(slot) else { return };
        let sent = entry
            .connection
            .open(Dir::Bi)
            .map(|stream| entry.connection.send(stream, self.app.request.clone(), true).is_ok());
        assert!(matches!(sent, Ok(true)), "no request");
        touch(&mut self.touched, slot, entry);
    }

    fn responses(&self) -> u64 {
        self.app.responses
    }

    fn start_bulk(&mut self, _now_ns: u64, index: usize) {
        let slot = index as u32;
        let Some((_, Some(entry))) = self.table.get_slot(slot) else { return };
        if let Ok(stream) = entry.connection.open(Dir::Bi) {
            self.app.bulk = Some(stream);
            self.app.fill(&mut entry.connection, stream);
        }
        touch(&mut self.touched, slot, entry);
    }

    fn resumptions(&self) -> u64 {
        self.app.resumptions
    }
}

impl Server for Side {
    fn received_bytes(&self) -> u64 {
        self.app.received_bytes
    }
}
