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
use quiclane::proto::connection::{
    CloseReason, Connection, ConnectionStats, Drained, TransportConfig,
};
use quiclane::proto::observer::{Observation, Observer, Observers};
use quiclane::time::{Instant, SECOND_NS};
use quiclane::wire::packet::{Packet, PacketType, parse};
use quiclane::wire::{ConnectionId, Side};
use std::collections::{BTreeMap, BTreeSet, HashMap};
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
const NO_PROGRESS: [&str; 14] = [
    "timer",
    "posted",
    "keys",
    "closed",
    "drained",
    "stream_cut",
    "send_cut",
    "buffer_cut",
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

/// Streams that one end may copy data to at a time, and memory that is kept for such data.
const MAX_COPIES: usize = 80;
const KEPT_COPY_BYTES: usize = 256 << 10;

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
    drained: bool,
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
        // What comes after a refusal that got lost is of no connection, and a NAT that forgets the client
        // loses it however often it is said.
        let lost = self.last_rebind >= plan.begins;
        let refused = plan.refused && (plan.asked_late || lost);
        let has_no_client = orphan || self.readdressed && server && !agent.connected;
        match reason {
            CloseReason::Local { code } => *code == CLOSE_CODE && (agent.closing || gave_up),
            CloseReason::PeerApplication { code, .. } => *code == CLOSE_CODE && peer_over,
            CloseReason::PeerTransport { code: CONNECTION_REFUSED, .. } => plan.refused,
            CloseReason::PeerTransport { code: INVALID_TOKEN, .. } => {
                // A token is bound to the address that the client had.
                lost || self.lines.silence_ns(port) >= TOKEN_SILENCE_NS
            }
            // RFC 9000 §10.2.3: before the handshake is done, an application's close travels as
            // APPLICATION_ERROR.
            CloseReason::PeerTransport { code: 0xc, .. } => peer_over,
            CloseReason::IdleTimeout => {
                let nothing_to_do = plan.ends_idle && self.both_done(port);
                let silent = self.lines.kept_silent(port, agent.side, self.now);
                peer_over || nothing_to_do || has_no_client || silent || refused
            }
            CloseReason::Handshake(_) => false,
            CloseReason::HandshakeTimeout => {
                peer_over || has_no_client || refused || self.lines.pause(port, self.now).is_none()
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

    pub(crate) fn now(&self) -> Instant {
        self.ledger().now
    }

    pub(crate) fn begins(&self, port: u16, side: Side) -> usize {
        let mut ledger = self.ledger();
        let now = ledger.now;
        if side == Side::Client {
            ledger.lines.begins(port, now);
        }
        let [connected, done, closing, ended, drained] = [false; 5];
        ledger.agents.push(AgentState { port, side, connected, done, closing, ended, drained });
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
        } else {
            ledger.agents[agent].drained = true;
        }
        ledger.agents[agent].ended = true;
    }

    /// An agent had its last callback.
    pub(crate) fn drained(&self, agent: usize, drained: &Drained) {
        let mut ledger = self.ledger();
        let AgentState { port, side, connected, ended, drained: before, .. } = ledger.agents[agent];
        let peer_over = ledger.peers(port, side).any(|p| p.ended || p.closing);
        // Who never was connected may have been refused without an agent.
        let knows = !drained.acknowledged || peer_over || !connected;
        if before || !ended || connected && !drained.handshake_completed || !knows {
            let what = format!("{side:?} of port {port}, {peer_over}: {drained:?}");
            ledger.complain(Some(port), what);
        }
        ledger.agents[agent].drained = true;
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

    /// Agents that got no callback for their end, or not both.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        let ledger = self.ledger();
        let open = ledger.agents.iter().filter(|a| !a.ended || !a.drained);
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

/// Where the handshakes of a client began.
#[derive(Debug, Default)]
struct Homes {
    /// The id that its first Initial is for.
    chosen: Option<ConnectionId>,
    /// The addresses from which an Initial for that id arrived: each may have begun a connection. There is
    /// more than one where a NAT has forgotten the client before it heard from the server.
    addresses: BTreeSet<SocketAddr>,
}

/// Sees every datagram.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The addresses of the server.
    servers: [SocketAddr; 2],
    balances: BTreeMap<SocketAddr, Balance>,
    /// Of each client, by the port that it had first.
    homes: BTreeMap<u16, Homes>,
    /// Clients change their address.
    moves: bool,
    shared: Shared,
}

impl Watch {
    pub(crate) fn new(servers: [SocketAddr; 2], moves: bool, shared: Shared) -> Self {
        let (balances, homes) = (BTreeMap::new(), BTreeMap::new());
        Self { servers, balances, homes, moves, shared }
    }

    pub(crate) fn see(&mut self, event: &TapEvent<'_>) {
        self.note(event);
        match event.kind {
            TapKind::Sent => self.sent(event),
            TapKind::Delivered { .. } if self.servers.contains(&event.destination) => {
                let balance = self.balances.entry(event.source).or_default();
                balance.received += event.payload.len() as u64;
                for packet in Packets::of(event.payload) {
                    self.may_validate(event.source, &packet);
                }
            }
            _ => {}
        }
    }

    /// A packet of a client's may prove an address of its own. It may be damaged, which only makes this
    /// oracle milder.
    fn may_validate(&mut self, from: SocketAddr, packet: &Packet) {
        let homes = self.homes.entry(first_port(from.port())).or_default();
        match packet.kind {
            // RFC 9000 §8.1.2: a token was sent to the address that it comes from.
            PacketType::Initial if !packet.token.is_empty() => {
                self.balances.entry(from).or_default().validated = true;
            }
            PacketType::Initial if Some(packet.dcid) == homes.chosen => {
                homes.addresses.insert(from);
            }
            // RFC 9000 §8.1: its keys were sent to where the handshake began, wherever it comes from.
            PacketType::Handshake => {
                for home in &homes.addresses {
                    self.balances.entry(*home).or_default().validated = true;
                }
            }
            PacketType::Short if self.moves => self.may_answer(from.port()),
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

    /// A 1-RTT packet of a client's may answer a challenge that was sent to any of its addresses (RFC 9000
    /// §8.2.3): what is in it cannot be seen on the wire. No other packet carries PATH_RESPONSE (§12.4).
    fn may_answer(&mut self, port: u16) {
        for (address, balance) in &mut self.balances {
            if first_port(address.port()) == first_port(port) {
                balance.validated |= balance.sent > 0;
            }
        }
    }

    fn sent(&mut self, event: &TapEvent<'_>) {
        if !self.servers.contains(&event.source) {
            if let Some(packet) = Packets::of(event.payload).next()
                && packet.kind == PacketType::Initial
            {
                let homes = self.homes.entry(first_port(event.source.port())).or_default();
                homes.chosen.get_or_insert(packet.dcid);
            }
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
struct Packets<'a> {
    datagram: &'a [u8],
    at: usize,
}

impl<'a> Packets<'a> {
    fn of(datagram: &'a [u8]) -> Self {
        Self { datagram, at: 0 }
    }
}

impl Iterator for Packets<'_> {
    type Item = Packet;

    fn next(&mut self) -> Option<Packet> {
        if self.at >= self.datagram.len() {
            return None;
        }
        let packet = parse(self.datagram, self.at, 0).ok().filter(|packet| packet.end > self.at)?;
        self.at = packet.end;
        Some(packet)
    }
}

/// The packets of a datagram, for the story.
fn packets(datagram: &[u8]) -> String {
    let mut text = format!("{} bytes", datagram.len());
    let mut start = 0;
    for packet in Packets::of(datagram) {
        text += &format!(", {:?} of {}", packet.kind, packet.end - start);
        start = packet.end;
    }
    if start < datagram.len() { text + ", and what is no packet" } else { text }
}

/// Whether a datagram contains a 1-RTT packet.
fn has_short(datagram: &[u8]) -> bool {
    Packets::of(datagram).any(|packet| packet.kind == PacketType::Short)
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
        let window = own.connection_window_bytes.max(own.connection_window_max_bytes);
        let windows = 2 * window as usize;
        let granted = |t: &&TransportConfig| {
            t.bidi_streams + t.uni_streams + 2 * u64::from(t.granted_streams_max)
        };
        let streams = [own, peer].iter().map(granted).sum::<u64>();
        // Copied data is held until it is acknowledged.
        let copied = MAX_COPIES * own.send_copy_bytes as usize + KEPT_COPY_BYTES;
        Self {
            before: HashMap::new(),
            shared,
            limit_bytes: CONNECTION_BYTES + windows + copied + streams as usize * STREAM_BYTES,
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

#[cfg(test)]
mod tests {
    use super::*;
    use quiclane::ecn::Ecn;

    const SERVER: ([u8; 4], u16) = ([10, 0, 0, 2], 4433);
    /// The client, and where its NAT shows it later.
    const HERE: ([u8; 4], u16) = ([10, 0, 0, 1], 10_000);
    const THERE: ([u8; 4], u16) = ([192, 0, 2, 1], 11_000);
    /// The first byte of each kind of packet.
    const INITIAL: u8 = 0xc0;
    const HANDSHAKE: u8 = 0xe0;
    const SHORT: u8 = 0x40;

    /// A datagram of one packet, as far as it can be seen.
    fn datagram(first: u8, dcid: u8, bytes: usize) -> Vec<u8> {
        let mut all = vec![first, 0, 0, 0, 1, 8];
        if first == SHORT {
            all.truncate(1);
        } else {
            all.extend([dcid; 8]);
            // No source id; an Initial has no token.
            all.extend(std::iter::repeat_n(0, if first == INITIAL { 2 } else { 1 }));
            let rest = bytes - all.len() - 2;
            all.extend((rest as u16 | 0x4000).to_be_bytes());
        }
        all.resize(bytes, 7);
        all
    }

    struct Seen {
        watch: Watch,
        shared: Shared,
        count: u64,
    }

    impl Seen {
        fn new() -> Self {
            let servers = [SERVER.into(); 2];
            let shared = Shared::new(&Scenario::new(0), servers, Manner::default());
            Self { watch: Watch::new(servers, true, shared.clone()), shared, count: 0 }
        }

        fn see(&mut self, kind: TapKind, ends: [([u8; 4], u16); 2], mut payload: Vec<u8>) {
            self.count += 1;
            // No two are equal.
            let at = payload.len() - 8;
            payload[at..].copy_from_slice(&self.count.to_be_bytes());
            let [source, destination] = ends.map(SocketAddr::from);
            let (at, id, ecn, payload) = (Instant::EPOCH, self.count, Ecn::NotEct, &payload[..]);
            self.watch.see(&TapEvent { at, kind, id, source, destination, ecn, payload });
        }

        fn arrives(&mut self, from: ([u8; 4], u16), payload: Vec<u8>) {
            self.see(TapKind::Delivered { queue: 0 }, [from, SERVER], payload);
        }

        /// Whether the server may send much to an address. It has got 1,200 bytes at most from there.
        fn may_flood(mut self, to: ([u8; 4], u16)) -> bool {
            self.see(TapKind::Sent, [SERVER, to], datagram(SHORT, 0, 5_000));
            !self.shared.has_complaints()
        }

        /// The client's first Initial arrives.
        fn begun() -> Self {
            let mut seen = Self::new();
            seen.see(TapKind::Sent, [HERE, SERVER], datagram(INITIAL, 1, 1_200));
            seen.arrives(HERE, datagram(INITIAL, 1, 1_200));
            seen
        }
    }

    #[test]
    fn a_handshake_packet_validates_where_the_handshake_began() {
        for from in [HERE, THERE] {
            for to in [HERE, THERE] {
                let mut seen = Seen::begun();
                seen.arrives(from, datagram(HANDSHAKE, 9, 200));
                assert_eq!(seen.may_flood(to), to == HERE, "{from:?} {to:?}");
            }
        }
        assert!(!Seen::begun().may_flood(HERE));
        // The first connection may be one that the client has not heard of.
        let mut seen = Seen::begun();
        seen.arrives(THERE, datagram(INITIAL, 1, 1_200));
        seen.arrives(THERE, datagram(HANDSHAKE, 9, 200));
        assert!(seen.may_flood(THERE));
        // An Initial for an id of the server's begins none.
        let mut seen = Seen::begun();
        seen.arrives(THERE, datagram(INITIAL, 9, 1_200));
        seen.arrives(THERE, datagram(HANDSHAKE, 9, 200));
        assert!(!seen.may_flood(THERE));
    }

    #[test]
    fn only_1rtt_packets_answer_challenges() {
        for (first, answers) in [(INITIAL, false), (HANDSHAKE, false), (SHORT, true)] {
            let mut seen = Seen::begun();
            seen.arrives(THERE, datagram(SHORT, 0, 100));
            seen.see(TapKind::Sent, [SERVER, THERE], datagram(SHORT, 0, 200));
            seen.arrives(HERE, datagram(first, 9, 1_200));
            assert_eq!(seen.may_flood(THERE), answers, "{first:#x}");
        }
    }
}
