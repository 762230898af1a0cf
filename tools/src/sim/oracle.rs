//! What must hold, whatever the network does.
//!
//! [`Shared`] collects what the agents say and judges how connections end. [`Watch`] sits on the
//! wire: amplification, packets that repeat, and the hash that two runs of a seed share.
//! [`Sampler`] looks at every connection after every turn.

use crate::agent::CLOSE_CODE;
use crate::scenario::{Plan, Scenario};
use quiclane::datapath::sim::{TapEvent, TapKind};
use quiclane::proto::connection::{CloseReason, Connection, TransportConfig};
use quiclane::wire::Side;
use quiclane::wire::packet::{PacketType, parse};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// RFC 9000 §20.1.
const CONNECTION_REFUSED: u64 = 2;
const INVALID_TOKEN: u64 = 0xb;
/// RFC 9000 §8.1: how much more than it received a server may send to an unproven address.
const AMPLIFICATION: u64 = 3;
/// RFC 9000 §14.1: what a datagram with an Initial is padded to.
const INITIAL_BYTES: u64 = 1_200;
/// Complaints kept of one seed: the first says most.
const MAX_COMPLAINTS: usize = 8;
/// Memory of a connection apart from what windows and streams explain.
const CONNECTION_BYTES: usize = 64 << 10;
/// Memory for each stream that may be open, and for each packet in flight.
const STREAM_BYTES: usize = 1 << 10;
const PACKET_BYTES: usize = 512;

/// A hash that depends on order.
#[derive(Clone, Copy, Debug, Default)]
struct Hash(u64);

impl Hash {
    fn add(&mut self, word: u64) {
        let mixed = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 29;
    }

    fn add_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
    }
}

/// How an agent came to its end.
#[derive(Debug)]
pub(crate) enum End {
    /// The connection could not be begun.
    NotConnected,
    /// It is over.
    Closed { reason: CloseReason, plan: Plan },
}

#[derive(Debug)]
struct AgentState {
    port: u16,
    side: Side,
    connected: bool,
    done: bool,
    closing: bool,
    ended: bool,
}

#[derive(Debug, Default)]
struct Ledger {
    agents: Vec<AgentState>,
    complaints: Vec<String>,
    hash: Hash,
    severe: bool,
    /// The listener heard some clients on more than one worker.
    steered: bool,
    finished: u64,
}

impl Ledger {
    fn complain(&mut self, what: String) {
        if self.complaints.len() < MAX_COMPLAINTS {
            self.complaints.push(what);
        }
    }

    fn peers(&self, port: u16, side: Side) -> impl Iterator<Item = &AgentState> {
        self.agents.iter().filter(move |a| a.port == port && a.side != side)
    }

    /// Whether a connection may end like this.
    fn is_right(&self, agent: &AgentState, reason: &CloseReason, plan: &Plan) -> bool {
        let peer_over = self.peers(agent.port, agent.side).any(|p| p.ended || p.closing);
        let gave_up = plan.gives_up.is_some() || plan.refused;
        match reason {
            CloseReason::Local { code } => *code == CLOSE_CODE && (agent.closing || gave_up),
            CloseReason::PeerApplication { code, .. } => *code == CLOSE_CODE && peer_over,
            CloseReason::PeerTransport { code: CONNECTION_REFUSED, .. } => plan.refused,
            // A client that the network kept silent for longer than its token is good for.
            CloseReason::PeerTransport { code: INVALID_TOKEN, .. } => self.severe,
            // RFC 9000 §10.2.3: before the handshake is done, an application's close travels as
            // APPLICATION_ERROR.
            CloseReason::PeerTransport { code: 0xc, .. } => peer_over,
            CloseReason::IdleTimeout => {
                self.severe || peer_over || plan.ends_idle && agent.done || !agent.connected
            }
            // A greeting that arrived twice, late or at another worker, began a connection that
            // has no client.
            CloseReason::HandshakeTimeout => {
                let orphan = agent.side == Side::Server
                    && (self.peers(agent.port, Side::Client).count() + 1)
                        < self.agents.iter().filter(|a| a.port == agent.port).count();
                self.severe || peer_over || orphan || self.steered && agent.side == Side::Server
            }
            CloseReason::StatelessReset => peer_over,
            CloseReason::Transport(_)
            | CloseReason::PeerTransport { .. }
            | CloseReason::VersionMismatch => false,
        }
    }
}

/// What all agents of a run write into. The run has one thread: the lock is never contended.
#[derive(Clone, Debug)]
pub(crate) struct Shared(Arc<Mutex<Ledger>>);

impl Shared {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let steered = !scenario.steering.is_empty();
        let ledger = Ledger { severe: scenario.severe, steered, ..Ledger::default() };
        Self(Arc::new(Mutex::new(ledger)))
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begins(&self, port: u16, side: Side) -> usize {
        let mut ledger = self.ledger();
        let [connected, done, closing, ended] = [false; 4];
        ledger.agents.push(AgentState { port, side, connected, done, closing, ended });
        ledger.agents.len() - 1
    }

    pub(crate) fn connected(&self, agent: usize) {
        self.ledger().agents[agent].connected = true;
    }

    /// All streams of the connection have closed at this end.
    pub(crate) fn done(&self, agent: usize) {
        self.ledger().agents[agent].done = true;
    }

    pub(crate) fn both_done(&self, port: u16) -> bool {
        let ledger = self.ledger();
        let done = |side| ledger.agents.iter().any(|a| a.port == port && a.side == side && a.done);
        done(Side::Client) && done(Side::Server)
    }

    pub(crate) fn closing(&self, agent: usize) {
        self.ledger().agents[agent].closing = true;
    }

    pub(crate) fn ended(&self, agent: usize, end: End) {
        let mut ledger = self.ledger();
        if let End::Closed { reason, plan } = &end {
            let state = &ledger.agents[agent];
            if !ledger.is_right(state, reason, plan) {
                let what = format!("{:?} of port {} ended: {reason}", state.side, state.port);
                ledger.complain(what);
            }
            ledger.finished += u64::from(ledger.agents[agent].done);
        }
        ledger.agents[agent].ended = true;
    }

    pub(crate) fn note(&self, words: [u64; 4]) {
        let mut ledger = self.ledger();
        words.into_iter().for_each(|word| ledger.hash.add(word));
    }

    pub(crate) fn complain(&self, what: String) {
        self.ledger().complain(what);
    }

    pub(crate) fn has_complaints(&self) -> bool {
        !self.ledger().complaints.is_empty()
    }

    /// Agents that have not been told of their end.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        let ledger = self.ledger();
        let open = ledger.agents.iter().filter(|a| !a.ended);
        open.map(|a| format!("{a:?}")).collect()
    }

    /// Ends whose streams had all closed.
    pub(crate) fn finished(&self) -> u64 {
        self.ledger().finished
    }

    pub(crate) fn hash(&self) -> u64 {
        self.ledger().hash.0
    }

    pub(crate) fn take_complaints(&self) -> Vec<String> {
        std::mem::take(&mut self.ledger().complaints)
    }
}

#[derive(Debug, Default)]
struct Balance {
    received: u64,
    sent: u64,
    validated: bool,
}

/// What sits on the wire.
#[derive(Debug)]
pub(crate) struct Watch {
    server: SocketAddr,
    balances: BTreeMap<SocketAddr, Balance>,
    /// Hashes of all that was sent.
    seen: HashSet<u64>,
    shape: Hash,
    shared: Shared,
}

impl Watch {
    pub(crate) fn new(server: SocketAddr, shared: Shared) -> Self {
        let (balances, seen) = (BTreeMap::new(), HashSet::new());
        Self { server, balances, seen, shape: Hash::default(), shared }
    }

    /// A hash over all that happened on the wire, except what TLS makes up: keys, and so all
    /// ciphertext, are new in every run. Sizes, times and order are not.
    pub(crate) fn shape(&self) -> u64 {
        self.shape.0
    }

    pub(crate) fn see(&mut self, event: &TapEvent<'_>) {
        let kind = match event.kind {
            TapKind::Sent => 1,
            TapKind::Injected => 2,
            TapKind::Copied => 3,
            TapKind::Dropped(reason) => 16 + reason as u64,
            TapKind::Delivered { queue } => 64 + queue as u64,
        };
        self.shape.add(event.at.as_nanos());
        self.shape.add(kind << 32 | event.payload.len() as u64);
        self.shape.add(u64::from(event.source.port()) << 16 | u64::from(event.destination.port()));
        self.shape.add(event.id << 2 | event.ecn as u64);
        match event.kind {
            TapKind::Sent => self.sent(event),
            TapKind::Delivered { .. } if event.destination == self.server => {
                let balance = self.balances.entry(event.source).or_default();
                balance.received += event.payload.len() as u64;
                balance.validated |= validates(event.payload);
            }
            _ => {}
        }
    }

    fn sent(&mut self, event: &TapEvent<'_>) {
        // Every packet has a number, and so a nonce, of its own: no two look alike.
        let mut hash = Hash::default();
        hash.add_bytes(event.payload);
        if !self.seen.insert(hash.0) {
            let (from, len) = (event.source, event.payload.len());
            self.shared.complain(format!("{from} sent the same {len} bytes twice"));
        }
        if event.source != self.server {
            return;
        }
        let balance = self.balances.entry(event.destination).or_default();
        balance.sent += event.payload.len() as u64;
        if !balance.validated && balance.sent > AMPLIFICATION * balance.received {
            let (to, Balance { sent, received, .. }) = (event.destination, balance);
            let what = format!("{sent} bytes sent to unproven {to} for {received}");
            self.shared.complain(what);
        }
    }
}

/// Whether a datagram from a client can prove its address: it holds a Handshake packet, or a
/// token (RFC 9000 §8.1). It may be damaged, which only makes this oracle milder.
fn validates(datagram: &[u8]) -> bool {
    let mut start = 0;
    while start < datagram.len() {
        match parse(datagram, start, 0) {
            Ok(packet) if packet.kind == PacketType::Handshake => return true,
            Ok(packet) if packet.kind == PacketType::Initial && !packet.token.is_empty() => {
                return true;
            }
            Ok(packet) if packet.end > start => start = packet.end,
            _ => return false,
        }
    }
    false
}

#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    in_flight: u64,
    congestion_events: u64,
    ptos: u64,
}

/// Looks at every connection after every turn.
#[derive(Debug)]
pub(crate) struct Sampler {
    before: HashMap<u64, Sample>,
    shared: Shared,
    /// The most memory that a connection may hold, apart from packets in flight.
    limit_bytes: usize,
    max_mtu_bytes: u64,
}

impl Sampler {
    pub(crate) fn new(own: &TransportConfig, peer: &TransportConfig, shared: Shared) -> Self {
        // RFC 9000 has no bound on buffers besides flow control; ours is twice the window.
        let windows = 2 * own.connection_window_bytes as usize;
        let streams = [own, peer].iter().map(|t| t.bidi_streams + t.uni_streams).sum::<u64>();
        Self {
            before: HashMap::new(),
            shared,
            limit_bytes: CONNECTION_BYTES + windows + streams as usize * STREAM_BYTES,
            max_mtu_bytes: u64::from(own.max_mtu_bytes),
        }
    }

    pub(crate) fn look(&mut self, id: u64, connection: &Connection) {
        let stats = connection.stats();
        let now = Sample {
            in_flight: stats.bytes_in_flight,
            congestion_events: stats.congestion_events + stats.persistent_congestions,
            ptos: stats.ptos,
        };
        let before = self.before.insert(id, now).unwrap_or_default();
        // RFC 9002 §7: more than the window may be in flight after it shrank, and probes may
        // exceed it. Nor does it hold back the acknowledgement of an Initial, which counts all
        // the same because it is padded.
        let excused = now.congestion_events != before.congestion_events
            || now.ptos != before.ptos
            || connection.is_handshaking()
                && now.in_flight.saturating_sub(before.in_flight) <= INITIAL_BYTES;
        let allowed = stats.window_bytes + self.max_mtu_bytes;
        if now.in_flight > allowed && now.in_flight > before.in_flight && !excused {
            let (was, is) = (before.in_flight, now.in_flight);
            let window = stats.window_bytes;
            self.complain(connection, format!("{was} -> {is} in flight of {window}"));
        }
        let packets = (now.in_flight / 64) as usize + 64;
        let limit = self.limit_bytes + packets * PACKET_BYTES;
        let memory = connection.memory_bytes();
        if memory > limit {
            self.complain(connection, format!("holds {memory} bytes, of {limit}"));
        }
    }

    fn complain(&self, connection: &Connection, what: String) {
        let (side, remote) = (connection.side(), connection.remote());
        self.shared.complain(format!("{side:?} of {remote}: {what}"));
    }
}
