//! What must hold, whatever the network does.
//!
//! [`Shared`] collects the reports of the agents: complaints, progress, and ends of connections.
//! [`Watch`] sees every datagram: it checks amplification and repeated packets, and notes when the
//! network was silent. [`Sampler`] looks at every connection after every turn.

use crate::agent::CLOSE_CODE;
use crate::lines::{Lines, PATIENCE_NS};
use crate::run::Manner;
use crate::scenario::{Plan, Preferred, Scenario, first_port};
use crate::story::Story;
use quiclane::datapath::sim::{TapEvent, TapKind};
use quiclane::proto::connection::{CloseReason, Connection, ConnectionStats, TransportConfig};
use quiclane::proto::observer::{Observation, Observer, Observers};
use quiclane::time::{Instant, SECOND_NS};
use quiclane::wire::Side;
use quiclane::wire::packet::{PacketType, parse};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// RFC 9000 §20.1.
const CONNECTION_REFUSED: u64 = 2;
const INVALID_TOKEN: u64 = 0xb;
/// RFC 9000 §8.1: how much more than it received a server may send to an unproven address.
const AMPLIFICATION: u64 = 3;
/// RFC 9000 §14.1: the padded size of a datagram with an Initial.
const INITIAL_BYTES: u64 = 1_200;
/// Two probes of a server that the amplification limit held back, and the acknowledgement of the
/// Initial that releases them.
const HANDSHAKE_PROBE_BYTES: u64 = 3 * INITIAL_BYTES;
/// RFC 9002 §6.2.4: probes may exceed the window. A probe that is an acknowledgement is no longer than
/// this, with all its ranges.
const ACK_PROBE_BYTES: u64 = 400;
/// A Retry token is valid for ten seconds. A client whose probes are lost for this long sends the next
/// one after those ten seconds.
const TOKEN_SILENCE_NS: u64 = 3 * SECOND_NS;
/// Callbacks that are no progress. How a connection ends is judged separately.
const NO_PROGRESS: [&str; 9] = [
    "timer",
    "keys",
    "closed",
    "migrate",
    "peer_address",
    "local_address",
    "migration_failed",
    "processor",
    "moved",
];
/// The most complaints kept of one seed: the first one says most.
const MAX_COMPLAINTS: usize = 8;
/// Memory of a connection besides what windows and streams explain.
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

/// How an agent ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The connection could not be started.
    NotConnected,
    /// It is over.
    Closed { reason: CloseReason, plan: Box<Plan> },
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

/// A violation, by the connection of a port, or by no connection in particular.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    pub(crate) port: Option<u16>,
    pub(crate) what: String,
}

#[derive(Debug)]
struct Ledger {
    now: Instant,
    agents: Vec<AgentState>,
    complaints: Vec<Complaint>,
    hash: Hash,
    lines: Lines,
    /// Only if it was asked for: keeping it takes time.
    story: Option<Story>,
    /// The listener saw some clients at more than one address.
    readdressed: bool,
    /// When the client's NAT forgot it last.
    last_rebind: Instant,
    /// The server prefers another address, and is there.
    server_moves: bool,
    finished: u64,
}

impl Ledger {
    fn complain(&mut self, port: Option<u16>, what: String) {
        if self.complaints.len() < MAX_COMPLAINTS {
            self.complaints.push(Complaint { port, what });
        }
    }

    fn peers(&self, port: u16, side: Side) -> impl Iterator<Item = &AgentState> {
        self.agents.iter().filter(move |a| a.port == port && a.side != side)
    }

    fn both_done(&self, port: u16) -> bool {
        let done = |side| self.agents.iter().any(|a| a.port == port && a.side == side && a.done);
        done(Side::Client) && done(Side::Server)
    }

    fn tell(&mut self, port: u16, what: impl FnOnce() -> String) {
        let now = self.now;
        // It ends with what failed.
        if let Some(story) = &mut self.story
            && self.complaints.is_empty()
        {
            story.tell(now, port, &what());
        }
    }

    /// Whether the server of a port has confirmed the handshake, and dropped all keys but those of
    /// 1-RTT packets (RFC 9001 §4.9.2).
    fn is_confirmed(&self, port: u16) -> bool {
        self.agents.iter().any(|a| a.port == port && a.side == Side::Server && a.connected)
    }

    /// Whether a connection has work to do, and both ends to do it.
    fn is_at_work(&self, port: u16) -> bool {
        let mut agents = self.agents.iter().filter(|a| a.port == port);
        !self.both_done(port) && !agents.any(|a| a.ended || a.closing)
    }

    /// A connection made progress. It is at fault if the network does not explain the time since the
    /// last.
    fn progress(&mut self, port: u16) {
        let pause = self.lines.progress(port, self.now);
        if let Some(pause) = pause
            && self.is_at_work(port)
        {
            self.complain(Some(port), format!("port {port}: {pause}"));
        }
    }

    /// Whether a connection may end like this.
    fn is_right(&self, agent: &AgentState, reason: &CloseReason, plan: &Plan) -> bool {
        let port = agent.port;
        let peer_over = self.peers(port, agent.side).any(|p| p.ended || p.closing);
        let gave_up = plan.gives_up.is_some() || plan.refused;
        // A client's Initial that arrived twice, late or from another address, began a connection
        // that has no client.
        let server = agent.side == Side::Server;
        let orphan = server
            && (self.peers(port, Side::Client).count() + 1)
                < self.agents.iter().filter(|a| a.port == port).count();
        let has_no_client = orphan || self.readdressed && server && !agent.connected;
        match reason {
            CloseReason::Local { code } => *code == CLOSE_CODE && (agent.closing || gave_up),
            CloseReason::PeerApplication { code, .. } => *code == CLOSE_CODE && peer_over,
            CloseReason::PeerTransport { code: CONNECTION_REFUSED, .. } => plan.refused,
            CloseReason::PeerTransport { code: INVALID_TOKEN, .. } => {
                // A token is bound to the address that the client had.
                let lost = self.last_rebind >= plan.begins;
                lost || self.lines.silence_ns(port) >= TOKEN_SILENCE_NS
            }
            // RFC 9000 §10.2.3: before the handshake is done, an application's close travels as
            // APPLICATION_ERROR.
            CloseReason::PeerTransport { code: 0xc, .. } => peer_over,
            CloseReason::IdleTimeout => {
                let nothing_to_do = plan.ends_idle && self.both_done(port);
                let silent = self.lines.kept_silent(port, agent.side, self.now);
                peer_over || nothing_to_do || has_no_client || silent
            }
            CloseReason::Handshake(_) => false,
            CloseReason::HandshakeTimeout => {
                peer_over || has_no_client || self.lines.pause(port, self.now).is_none()
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
    /// Keeps the story, if the manner asks for one, to print it for a failure.
    pub(crate) fn new(scenario: &Scenario, servers: [SocketAddr; 2], manner: Manner) -> Self {
        Self(Arc::new(Mutex::new(Ledger {
            now: Instant::EPOCH,
            agents: Vec::new(),
            complaints: Vec::new(),
            hash: Hash::default(),
            lines: Lines::new(servers, PATIENCE_NS + manner.more_patience_ns),
            story: manner.told.then(Story::default),
            readdressed: scenario.nat.is_some(),
            last_rebind: scenario.last_rebind(),
            server_moves: scenario.preferred == Preferred::Answers,
            finished: 0,
        })))
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begins(&self, port: u16, side: Side) -> usize {
        let mut ledger = self.ledger();
        let now = ledger.now;
        if side == Side::Client {
            ledger.lines.begins(port, now);
        }
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

    /// Clients may move to another address of the server.
    pub(crate) fn server_moves(&self) -> bool {
        self.ledger().server_moves
    }

    pub(crate) fn both_done(&self, port: u16) -> bool {
        self.ledger().both_done(port)
    }

    pub(crate) fn closing(&self, agent: usize) {
        self.ledger().agents[agent].closing = true;
    }

    pub(crate) fn ended(&self, agent: usize, end: End) {
        let mut ledger = self.ledger();
        if let End::Closed { reason, plan } = &end {
            let state = &ledger.agents[agent];
            if !ledger.is_right(state, reason, plan) {
                let (side, port) = (state.side, state.port);
                let what = format!("{side:?} of port {port} ended: {reason}");
                ledger.complain(Some(port), what);
            }
            ledger.finished += u64::from(ledger.agents[agent].done);
        }
        ledger.agents[agent].ended = true;
    }

    /// Time advances.
    pub(crate) fn set_now(&self, now: Instant) {
        self.ledger().now = now;
    }

    /// A callback was called.
    pub(crate) fn told(&self, port: u16, side: Side, what: &'static str, a: u64, b: u64) {
        let mut ledger = self.ledger();
        let name = what.len() as u64 ^ u64::from(what.as_bytes()[0]) << 8;
        for word in [u64::from(port) << 1 | side as u64, name, a, b] {
            ledger.hash.add(word);
        }
        if !NO_PROGRESS.contains(&what) {
            ledger.progress(port);
        }
        // A client's timer runs every 50 ms: it would fill the story.
        if what != "timer" {
            ledger.tell(port, || format!("{side:?} is told {what} {a} {b}"));
        }
    }

    /// Observers of connections, for the story: of a client's by the port that it has, of servers'
    /// by the port that their client has.
    pub(crate) fn observers(&self, client: Option<u16>) -> Observers {
        let shared = self.clone();
        Observers::new(move |start| {
            let (shared, side) = (shared.clone(), start.side);
            let port = client.unwrap_or(first_port(start.remote.port()));
            let observer = move |_: Instant, what: &Observation<'_>| {
                // The story has the callbacks already, with what the applications do in them.
                if !matches!(what, Observation::Event(_)) {
                    shared.ledger().tell(port, || format!("{side:?} {what:?}"));
                }
            };
            Some(Box::new(observer) as Box<dyn Observer>)
        })
    }

    pub(crate) fn complain(&self, what: String) {
        self.ledger().complain(None, what);
    }

    pub(crate) fn complain_of(&self, port: u16, what: String) {
        self.ledger().complain(Some(port), what);
    }

    pub(crate) fn has_complaints(&self) -> bool {
        !self.ledger().complaints.is_empty()
    }

    /// Agents that got no callback for their end.
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

    pub(crate) fn take_complaints(&self) -> Vec<Complaint> {
        std::mem::take(&mut self.ledger().complaints)
    }

    /// The last events of the connection of a port; without a port, of all connections.
    pub(crate) fn take_story(&self, port: Option<u16>) -> Vec<String> {
        self.ledger().story.as_mut().map(|story| story.take(port)).unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct Balance {
    received: u64,
    sent: u64,
    validated: bool,
}

/// Sees every datagram.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The addresses of the server.
    servers: [SocketAddr; 2],
    balances: BTreeMap<SocketAddr, Balance>,
    /// Clients change their address.
    moves: bool,
    shared: Shared,
}

impl Watch {
    pub(crate) fn new(servers: [SocketAddr; 2], moves: bool, shared: Shared) -> Self {
        Self { servers, balances: BTreeMap::new(), moves, shared }
    }

    pub(crate) fn see(&mut self, event: &TapEvent<'_>) {
        self.note(event);
        match event.kind {
            TapKind::Sent => self.sent(event),
            TapKind::Delivered { .. } if self.servers.contains(&event.destination) => {
                let balance = self.balances.entry(event.source).or_default();
                balance.received += event.payload.len() as u64;
                balance.validated |= validates(event.payload);
                if self.moves {
                    self.may_answer(event.source.port());
                }
            }
            _ => {}
        }
    }

    /// Notes what shows whether the network is silent, and the story.
    fn note(&self, event: &TapEvent<'_>) {
        let mut hash = Hash::default();
        if matches!(event.kind, TapKind::Sent | TapKind::Delivered { .. }) {
            hash.add_bytes(event.payload);
        }
        let mut ledger = self.shared.ledger();
        let (port, to) = ledger.lines.ends(event);
        // Every packet has its own number, and so its own nonce: no two are equal.
        if event.kind == TapKind::Sent && !ledger.lines.sent(hash.0) {
            let (from, len) = (event.source, event.payload.len());
            ledger.complain(Some(port), format!("{from} sent the same {len} bytes twice"));
        }
        let opens = to == Side::Client || !ledger.is_confirmed(port) || has_short(event.payload);
        ledger.lines.see(event, hash.0, opens);
        let arrives = matches!(event.kind, TapKind::Delivered { .. });
        let damaged = arrives && !ledger.lines.was_sent(hash.0);
        // Datagrams that leave, or arrive undamaged, are in the story by the connections' observers.
        if damaged || !arrives && event.kind != TapKind::Sent {
            ledger.tell(port, || {
                let (ecn, packets) = (event.ecn, packets(event.payload));
                let damaged = if damaged { " damaged" } else { "" };
                format!("a datagram to the {to:?}: {:?}{damaged}, {packets}, {ecn:?}", event.kind)
            });
        }
    }

    /// A datagram of a client's may answer a challenge that was sent to any of its addresses (RFC 9000
    /// §8.2.3): what is in it cannot be seen on the wire.
    fn may_answer(&mut self, port: u16) {
        for (address, balance) in &mut self.balances {
            if first_port(address.port()) == first_port(port) {
                balance.validated |= balance.sent > 0;
            }
        }
    }

    fn sent(&mut self, event: &TapEvent<'_>) {
        if !self.servers.contains(&event.source) {
            return;
        }
        let balance = self.balances.entry(event.destination).or_default();
        balance.sent += event.payload.len() as u64;
        if !balance.validated && balance.sent > AMPLIFICATION * balance.received {
            let (to, Balance { sent, received, .. }) = (event.destination, balance);
            let what = format!("{sent} bytes sent to unproven {to} for {received}");
            self.shared.complain_of(first_port(to.port()), what);
        }
    }
}

/// The packets of a datagram, as far as one can see without its keys.
fn packets(datagram: &[u8]) -> String {
    let (mut start, mut text) = (0, format!("{} bytes", datagram.len()));
    while start < datagram.len() {
        match parse(datagram, start, 0) {
            Ok(packet) if packet.end > start => {
                text += &format!(", {:?} of {}", packet.kind, packet.end - start);
                start = packet.end;
            }
            _ => return text + ", and what is no packet",
        }
    }
    text
}

/// Whether a datagram contains a 1-RTT packet.
fn has_short(datagram: &[u8]) -> bool {
    let mut start = 0;
    while let Ok(packet) = parse(datagram, start, 0) {
        match packet.kind {
            PacketType::Short => return true,
            _ if packet.end <= start => return false,
            _ => start = packet.end,
        }
    }
    false
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
    /// RFC 9002 §6.2.3: a server's flight that is sent again is a probe.
    flight_repeats: u64,
    /// Acknowledgements that are small probes as well.
    ack_probes: u64,
    /// Each path has a window of its own.
    path_changes: u64,
    /// They pass the window.
    challenges: u64,
    /// Probes may wait for the amplification limit.
    limited: bool,
}

impl Sample {
    fn of(stats: &ConnectionStats) -> Self {
        Self {
            in_flight: stats.bytes_in_flight,
            congestion_events: stats.congestion_events + stats.persistent_congestions,
            ptos: stats.ptos,
            flight_repeats: stats.flight_repeats,
            ack_probes: stats.ack_probes,
            path_changes: stats.path_changes,
            challenges: stats.tx_path_challenges,
            limited: false,
        }
    }
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

    /// `id` is that of a connection, whose client has this port.
    pub(crate) fn look(&mut self, id: u64, port: u16, connection: &Connection) {
        let stats = connection.stats();
        let limited = !connection.is_address_validated();
        let now = Sample { limited, ..Sample::of(&stats) };
        let before = self.before.insert(id, now);
        // One that came from another worker with more in flight than its window was seen there.
        let has_come = before.is_none() && !connection.is_handshaking();
        let before = before.unwrap_or_default();
        // RFC 9002 §7: more than the window may be in flight after it shrank, and probes may
        // exceed it, those too that wait for the amplification limit. Nor does it hold back the
        // acknowledgement of an Initial, which counts all the same because it is padded.
        let grown = now.in_flight.saturating_sub(before.in_flight);
        let excused = has_come
            || now.congestion_events != before.congestion_events
            || now.ptos != before.ptos
            || now.flight_repeats != before.flight_repeats
            || now.path_changes != before.path_changes
            || (connection.is_handshaking() || before.limited) && grown <= HANDSHAKE_PROBE_BYTES
            || grown
                <= (now.ack_probes - before.ack_probes) * ACK_PROBE_BYTES
                    + (now.challenges - before.challenges) * INITIAL_BYTES;
        let allowed = stats.window_bytes + self.max_mtu_bytes;
        if now.in_flight > allowed && now.in_flight > before.in_flight && !excused {
            let (was, is) = (before.in_flight, now.in_flight);
            let window = stats.window_bytes;
            self.complain(connection, port, format!("{was} -> {is} in flight of {window}"));
        }
        let packets = (now.in_flight / 64) as usize + 64;
        let limit = self.limit_bytes + packets * PACKET_BYTES;
        let memory = connection.memory_bytes();
        if memory > limit {
            self.complain(connection, port, format!("holds {memory} bytes, of {limit}"));
        }
    }

    fn complain(&self, connection: &Connection, port: u16, what: String) {
        self.shared.complain_of(port, format!("{:?} of port {port}: {what}", connection.side()));
    }
}
