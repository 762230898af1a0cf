//! The beginning: TLS in CRYPTO frames, transport parameters, Retry, Version Negotiation
//! (RFC 9000 §6, §7, §8.1; RFC 9001 §4).

use super::config::{after, nanos};
use super::crypto_stream::{Bounds, BufferExceeded, CRYPTO_BUFFER_BYTES};
use super::error::{CloseReason, TransportError, code};
use super::hello::Undecided;
use super::keys::OneRttKeys;
use super::late_crypto::unexpected;
use super::space::{Handshake, HandshakeSpace, SpaceId};
use super::stats::Tally;
use super::undecided::{Choice, encoded};
use super::{
    Connection, DataSpace, Deadlines, Event, LocalCids, Pending, RemoteCids, State, Taken,
    TransportConfig,
};
use crate::proto::crypto::{
    ClientTls, KeyChange, Keys, Level, ServerTls, Session, TlsError, initial_keys,
    retry_tag_matches,
};
use crate::proto::observer::{DropReason, Observation};
use crate::proto::path::Path;
use crate::proto::streams::{Limits, Streams};
use crate::time::{Instant, MILLISECOND_NS};
use crate::wire::packet::{self, Packet};
use crate::wire::transport_parameters::TransportParameters;
use crate::wire::{ConnectionId, Side, VERSION_1};
use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Times per connection that a server sends its flight again before its timer says so, because
/// the client repeats its own (RFC 9002 §6.2.3). The network duplicates a datagram now and then;
/// a client whose own timer runs out doubles it each time, so that two cover its first second.
const FLIGHT_REPEATS_AT_ONCE: u8 = 2;
/// The same in all. After those the server waits for a probe timeout without the back-off: its own
/// timer may stand at half a minute by then. A client that doubles its timer asks so often in a
/// minute.
const FLIGHT_REPEATS_MAX: u8 = 8;
/// Packets of a space that are remembered while the flight is repeated to an address that is not
/// validated: with more, the older copies are forgotten. A client that has got one of those and
/// says so late gets another.
const UNVALIDATED_RECORDS: u64 = 8;

/// What makes a client's connection.
pub struct ClientArgs<'a> {
    /// Settings.
    pub config: Arc<TransportConfig>,
    /// Certificates to trust, and protocols to offer.
    pub tls: &'a Arc<ClientTls>,
    /// The name that the server has to prove.
    pub server_name: &'a str,
    /// The time.
    pub now: Instant,
    /// Our address; unspecified if the kernel is to choose it.
    pub local: SocketAddr,
    /// The server.
    pub remote: SocketAddr,
    /// The id that the server writes into its packets; names our slot.
    pub local_cid: ConnectionId,
    /// The unpredictable id of the first Initial: at least 8 bytes.
    pub initial_dcid: ConnectionId,
    /// A token of an earlier connection's NEW_TOKEN frame.
    pub token: Vec<u8>,
    /// The seed of what the connection does by chance; from the system's random source.
    pub seed: u64,
    /// What the reserved transport parameter is made of, which the peer reads: random bytes of
    /// its own, since `seed` decides which packet numbers are skipped (RFC 9000 §21.4).
    pub grease: u64,
}

/// What makes a server's connection.
pub struct ServerArgs {
    /// Settings.
    pub config: Arc<TransportConfig>,
    /// Certificates and protocols; `None` if they are [chosen](Connection::choose) when the client has
    /// said what it asks for.
    pub tls: Option<Arc<ServerTls>>,
    /// The time.
    pub now: Instant,
    /// Our address, which the client wrote to.
    pub local: SocketAddr,
    /// The client.
    pub remote: SocketAddr,
    /// The id that the client writes from now on; names our slot.
    pub local_cid: ConnectionId,
    /// The token that resets it.
    pub reset_token: [u8; 16],
    /// The id for the address that the server prefers, with the token that resets it: for settings that name
    /// such an address.
    pub preferred_cid: Option<(ConnectionId, [u8; 16])>,
    /// The keys of Initial packets: [`initial_keys`] of the id that the client wrote into this one.
    pub initial_keys: Option<Keys>,
    /// The id that the client wrote into its first Initial; differs after a Retry.
    pub original_dcid: ConnectionId,
    /// The source id of our Retry, if the client comes from one.
    pub retry_scid: Option<ConnectionId>,
    /// The source id of the client.
    pub peer_cid: ConnectionId,
    /// A token has proved the client's address.
    pub address_validated: bool,
    /// The seed of what the connection does by chance; from the system's random source.
    pub seed: u64,
    /// What the reserved transport parameter is made of, which the peer reads: random bytes of
    /// its own, since `seed` decides which packet numbers are skipped (RFC 9000 §21.4).
    pub grease: u64,
}

/// Why a connection could not be started.
#[derive(Debug)]
pub enum ConnectError {
    /// TLS refused: a server name that is none, or settings that do not go together.
    Tls(TlsError),
    /// The initial destination id is shorter than 8 bytes (RFC 9000 §7.2).
    ShortInitialId,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(e) => write!(f, "TLS cannot start: {e}"),
            Self::ShortInitialId => {
                f.write_str("the first packet's connection id has fewer than 8 bytes")
            }
        }
    }
}

impl std::error::Error for ConnectError {}

/// What both kinds of connection are made from.
struct Base {
    side: Side,
    address_validated: bool,
    config: Arc<TransportConfig>,
    now: Instant,
    local: SocketAddr,
    remote: SocketAddr,
    local_cid: ConnectionId,
    remote_cid: ConnectionId,
    seed: u64,
    session: Option<Box<Session>>,
    handshake: Handshake,
}

impl Connection {
    /// Starts a connection to a server; the first [`transmit`](Connection::transmit) writes its Initial.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(args: ClientArgs<'_>) -> Result<Self, ConnectError> {
        if args.initial_dcid.len() < 8 {
            return Err(ConnectError::ShortInitialId);
        }
        let mut parameters = args.config.parameters();
        parameters.initial_source_connection_id = Some(args.local_cid);
        parameters.grease = Some(args.grease);
        let session = Session::client(args.now, args.tls, args.server_name, &encoded(&parameters))
            .map_err(ConnectError::Tls)?;
        let mut handshake = Handshake::new(args.initial_dcid, None);
        handshake.token = args.token;
        handshake.initial.keys =
            initial_keys(VERSION_1, args.initial_dcid.as_slice(), Side::Client);
        let mut connection = Self::assemble(Base {
            side: Side::Client,
            // The client chose it.
            address_validated: true,
            config: args.config,
            now: args.now,
            local: args.local,
            remote: args.remote,
            local_cid: args.local_cid,
            remote_cid: args.initial_dcid,
            seed: args.seed,
            session: Some(session),
            handshake,
        });
        connection.pump_tls(args.now);
        Ok(connection)
    }

    /// Starts a connection for a client whose first Initial has arrived; give that datagram to
    /// [`receive`](Connection::receive) next.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn accept(args: ServerArgs) -> Result<Self, ConnectError> {
        let mut handshake = Handshake::new(args.original_dcid, args.retry_scid);
        handshake.peer_validated_us = true;
        handshake.peer_scid = Some(args.peer_cid);
        handshake.initial.keys = args.initial_keys;
        handshake.undecided = Some(Box::new(Undecided::new(args.reset_token, args.grease)));
        let mut connection = Self::assemble(Base {
            side: Side::Server,
            address_validated: args.address_validated,
            config: args.config.clone(),
            now: args.now,
            local: args.local,
            remote: args.remote,
            local_cid: args.local_cid,
            remote_cid: args.peer_cid,
            seed: args.seed,
            session: None,
            handshake,
        });
        if let Some(tls) = &args.tls {
            let choice = Choice { config: args.config, tls, preferred_cid: args.preferred_cid };
            connection.begin_session(args.now, choice).map_err(ConnectError::Tls)?;
        }
        Ok(connection)
    }

    fn assemble(mut base: Base) -> Self {
        let Base { side, address_validated, config, now, local, remote, .. } = base;
        let original_dcid = base.handshake.original_dcid;
        base.handshake.began_at = now;
        let idle_timeout_ns = nanos(config.idle_timeout);
        let mut connection = Self {
            state: State::Handshaking,
            observed: false,
            network_watched: false,
            paths_busy: false,
            side,
            confirmed: false,
            sent_since_received: false,
            local_cid_len: base.local_cid.len() as u8,
            pto_count: 0,
            ack_probes_left: 0,
            follow_ups: 0,
            path: Path::new(now, local, remote, address_validated, &config.path()),
            keys: None,
            data: DataSpace::default(),
            streams: Streams::with_bounds(side, config.limits(), config.bounds()),
            skip_at: 0,
            remote_cids: RemoteCids::new(
                base.remote_cid,
                config.parameters().active_connection_id_limit,
            ),
            local_cids: LocalCids::new(base.local_cid),
            pending: Pending::default(),
            deadlines: Deadlines {
                idle: after(now, idle_timeout_ns),
                handshake: after(now, nanos(config.handshake_timeout)),
                ..Deadlines::NEVER
            },
            idle_timeout_ns,
            keep_alive_ns: config.keep_alive.map_or(0, nanos),
            peer_max_ack_delay_ns: 25 * MILLISECOND_NS,
            peer_ack_delay_exponent: 3,
            peer_max_datagram_bytes: u64::MAX,
            max_rx_bytes: config.max_rx_bytes(),
            rng: base.seed,
            config,
            stats: Tally::default(),
            events: VecDeque::new(),
            handshake: Some(Box::new(base.handshake)),
            session: base.session,
            tickets: None,
            tickets_received: None,
            new_token: None,
            early: None,
            others: None,
            last_path: 0,
            peer_uses: Some(0),
            cid_since: now,
            rested: None,
            taken: Taken::default(),
            peer_allows_migration: true,
            completed: false,
            peer_closed: false,
            preferred: None,
            closing: None,
            close_reason: None,
            alpn: None,
            observing: None,
            network: None,
        };
        connection.plan_skip();
        connection.set_network_statistics(now, connection.config.network_statistics);
        connection.start_observing(now, original_dcid);
        connection
    }

    /// CRYPTO arrived (RFC 9000 §19.6).
    pub(super) fn on_crypto(
        &mut self,
        now: Instant,
        space: SpaceId,
        offset: u64,
        data: &[u8],
    ) -> Result<(), TransportError> {
        let level = if space == SpaceId::Initial { Level::Initial } else { Level::Handshake };
        let server = self.side == Side::Server;
        if space == SpaceId::Data {
            return self.on_late_crypto(now, offset, data);
        }
        let Some(h) = &mut self.handshake else { return Ok(()) };
        let (recv, bounds) = match (space, server, self.path.validation.is_validated()) {
            (SpaceId::Initial, true, true) => (&mut h.initial.crypto_recv, Bounds::VALIDATED_HELLO),
            (SpaceId::Initial, true, false) => {
                (&mut h.initial.crypto_recv, Bounds::UNVALIDATED_HELLO)
            }
            (SpaceId::Initial, false, _) => (&mut h.initial.crypto_recv, Bounds::VALIDATED),
            _ => (&mut h.handshake.crypto_recv, Bounds::VALIDATED),
        };
        if space == SpaceId::Initial && server && recv.has_read(offset, data.len()) {
            self.repeat_flight(now);
            return Ok(());
        }
        let (session, undecided) = (&mut self.session, &mut h.undecided);
        let read = |bytes: &[u8]| match (session.as_mut(), undecided.as_mut()) {
            (Some(session), _) => {
                session.read(now, level, bytes).map_err(|e| TransportError::from(&e))
            }
            (None, Some(undecided)) => undecided.keep(bytes),
            (None, None) => Ok(()),
        };
        let before = recv.read_bytes();
        recv.receive(offset, data, bounds, read).unwrap_or_else(|e| Err(e.into()))?;
        let goes_on = recv.read_bytes() > before;
        if goes_on && !server && self.handshake.as_ref().is_some_and(|h| h.peer_validated_us) {
            // A client's probes are answered by more than acknowledgements: see `on_ack`.
            self.pto_count = 0;
        }
        self.tls_has_read(now)
    }

    /// What follows from bytes that TLS was given.
    pub(super) fn tls_has_read(&mut self, now: Instant) -> Result<(), TransportError> {
        if self.awaits_verdict() {
            return Ok(());
        }
        self.apply_peer_parameters(now)?;
        self.pump_tls(now);
        self.check_nothing_waits()?;
        self.check_complete(now)
    }

    /// CRYPTO arrived in a 1-RTT packet.
    fn on_late_crypto(
        &mut self,
        now: Instant,
        offset: u64,
        data: &[u8],
    ) -> Result<(), TransportError> {
        if self.side == Side::Server {
            // RFC 9000 §7.5: what lies beyond the buffer is refused as such, whatever it is.
            if offset.saturating_add(data.len() as u64) > CRYPTO_BUFFER_BYTES {
                return Err(BufferExceeded.into());
            }
            // A client has nothing more to say, and KeyUpdate is forbidden (RFC 9001 §6).
            return Err(unexpected());
        }
        let late = self.tickets_received.get_or_insert_default();
        let given = |session: &Option<Box<Session>>| session.as_ref().map(|s| s.tickets_received());
        let before = given(&self.session);
        late.receive(now, self.session.as_deref_mut(), offset, data)?;
        if given(&self.session) > before {
            self.events.push_back(Event::TicketReceived);
        }
        self.release_tls(false);
        Ok(())
    }

    /// Lets TLS go, if it can do nothing more, or if the connection is `idle` and what it could
    /// still do is to wait.
    pub(super) fn release_tls(&mut self, idle: bool) {
        let useless = idle || self.session.as_ref().is_some_and(|tls| !tls.wants_tickets());
        // TLS reads to its end a message that it has begun to read.
        let between = self.tickets_received.as_ref().is_none_or(|late| late.is_between());
        if self.confirmed && useless && between {
            self.session = None;
        }
    }

    /// RFC 9001 §4.1.3: once there are keys of the next level, TLS wants nothing more of the
    /// Initial level, and what waits there is no handshake of an honest peer.
    fn check_nothing_waits(&self) -> Result<(), TransportError> {
        match &self.handshake {
            Some(h) if h.handshake.keys.is_some() && h.initial.crypto_recv.has_waiting() => {
                let what = "CRYPTO data in Initial packets beyond the last TLS message";
                Err(TransportError::protocol_violation(what))
            }
            _ => Ok(()),
        }
    }

    /// RFC 9002 §6.2.3: a client that repeats its first flight has not got all of ours. What it
    /// has not acknowledged goes out again, as far as the window and the limit of an address that
    /// is not validated allow.
    fn repeat_flight(&mut self, now: Instant) {
        let pto_ns = self.path.rtt.pto_base_ns(0);
        let Some(h) = &mut self.handshake else { return };
        let [a, b] = [&h.initial, &h.handshake].map(|s| s.sent.last_eliciting_sent_at());
        let waited = a.max(b).plus_ns(pto_ns) <= now;
        let most = if waited { FLIGHT_REPEATS_MAX } else { FLIGHT_REPEATS_AT_ONCE };
        if h.flight_repeats >= most {
            return;
        }
        if !self.path.validation.is_validated() {
            for s in [&mut h.initial, &mut h.handshake] {
                if s.sent.next_pn() - s.sent.first_pn() > UNVALIDATED_RECORDS {
                    let in_flight = s.sent.drain(|_| {});
                    s.sent.forget();
                    self.path.on_discarded(in_flight);
                }
            }
        }
        let initial = h.initial.crypto_send.repeat_unacknowledged();
        if initial | h.handshake.crypto_send.repeat_unacknowledged() {
            h.flight_repeats += 1;
            self.stats.flight_repeats += 1;
        }
    }

    /// Moves what TLS wrote into CRYPTO streams, and installs the keys that it made.
    pub(super) fn pump_tls(&mut self, now: Instant) {
        let (Some(session), Some(h)) = (&mut self.session, &mut self.handshake) else { return };
        loop {
            let buffer = match h.write_level {
                Level::Initial => h.initial.crypto_send.buffer(),
                Level::Handshake => h.handshake.crypto_send.buffer(),
                Level::ZeroRtt | Level::OneRtt => {
                    self.tickets.get_or_insert_with(Default::default).buffer()
                }
            };
            let before = buffer.len();
            let change = session.write(buffer);
            let wrote = buffer.len() > before;
            match change {
                Some(KeyChange::Handshake(keys)) => {
                    h.handshake.keys = Some(keys);
                    self.taken.note_first_flight(now, h);
                    h.write_level = Level::Handshake;
                }
                Some(KeyChange::OneRtt { keys, next }) => {
                    h.one_rtt = Some((keys, next));
                    h.write_level = Level::OneRtt;
                }
                None if !wrote => break,
                None => {}
            }
        }
        h.initial.crypto_send.shrink();
        h.handshake.crypto_send.shrink();
    }

    /// RFC 9000 §7.4: the peer's transport parameters, as soon as TLS has authenticated them.
    fn apply_peer_parameters(&mut self, now: Instant) -> Result<(), TransportError> {
        let (Some(session), Some(h)) = (&self.session, &mut self.handshake) else { return Ok(()) };
        if h.parameters_done {
            return Ok(());
        }
        let Some(raw) = session.peer_transport_parameters() else { return Ok(()) };
        let p = TransportParameters::decode(self.side.peer(), raw).map_err(|_| {
            TransportError::transport_parameter("transport parameters cannot be accepted")
        })?;
        h.check_ids(self.side, &p)?;
        h.parameters_done = true;
        if let Some(token) = p.stateless_reset_token {
            self.remote_cids.set_first_reset_token(token);
        }
        if let Some(preferred) = &p.preferred_address {
            self.remote_cids.add_preferred(preferred.cid, preferred.reset_token)?;
            self.note_preferred(preferred);
        }
        self.streams.set_peer_limits(&Limits {
            data: p.initial_max_data,
            stream_data_bidi_local: p.initial_max_stream_data_bidi_local,
            stream_data_bidi_remote: p.initial_max_stream_data_bidi_remote,
            stream_data_uni: p.initial_max_stream_data_uni,
            streams_bidi: p.initial_max_streams_bidi,
            streams_uni: p.initial_max_streams_uni,
        });
        self.local_cids.set_peer_limit(p.active_connection_id_limit);
        self.peer_max_ack_delay_ns = p.max_ack_delay_ms * MILLISECOND_NS;
        self.peer_ack_delay_exponent = p.ack_delay_exponent as u8;
        self.peer_max_datagram_bytes = p.max_udp_payload_size;
        self.peer_allows_migration = !p.disable_active_migration;
        // RFC 9000 §10.1: the smaller of the two that are set.
        let theirs = p.max_idle_timeout_ms.saturating_mul(MILLISECOND_NS);
        self.idle_timeout_ns = match (self.idle_timeout_ns, theirs) {
            (0, t) | (t, 0) => t,
            (ours, theirs) => ours.min(theirs),
        };
        self.tell(now, &Observation::PeerParameters(&p));
        Ok(())
    }

    /// Turns to the established state when TLS is done.
    fn check_complete(&mut self, now: Instant) -> Result<(), TransportError> {
        let (Some(session), Some(h)) = (&mut self.session, &mut self.handshake) else {
            return Ok(());
        };
        if self.state != State::Handshaking || session.is_handshaking() {
            return Ok(());
        }
        let Some((keys, secrets)) = h.one_rtt.take() else { return Ok(()) };
        if !h.parameters_done {
            // RFC 9001 §8.2.
            return Err(TransportError::new(
                code::MISSING_EXTENSION,
                "the peer sent no transport parameters",
            ));
        }
        self.taken.note_complete(now, h, session);
        let tickets = session.ticket_troubles();
        self.stats.tx_withheld_tickets += tickets.withheld;
        self.stats.rx_ticket_panics += tickets.panics;
        let resumed = session.resumed();
        self.alpn = session.alpn().map(Into::into);
        self.state = State::Established;
        self.completed = true;
        self.keys = Some(OneRttKeys::new(keys, secrets));
        self.deadlines.handshake = Instant::NEVER;
        if let Some(data) = session.take_resumed_data() {
            self.events.push_back(Event::Resumed { data });
        }
        self.events.push_back(Event::Connected { resumed });
        if self.side == Side::Server {
            // RFC 9001 §4.1.2: for a server, complete is confirmed. TLS has written its tickets
            // and may go, with the memory that it holds.
            self.session = None;
            self.pending.handshake_done = true;
            self.confirm(now);
        }
        Ok(())
    }

    /// The handshake is confirmed: its keys and state go (RFC 9001 §4.9.2).
    pub(super) fn confirm(&mut self, now: Instant) {
        if self.confirmed {
            return;
        }
        self.confirmed = true;
        self.cid_since = now;
        self.discard_space(SpaceId::Initial);
        self.discard_space(SpaceId::Handshake);
        // A server keeps the count of what it may send only until here.
        let home = self.handshake.take().and_then(|h| h.home);
        self.release_tls(false);
        self.events.push_back(Event::HandshakeConfirmed);
        self.rearm_keep_alive(now);
        self.path.mtu.enable(self.peer_max_datagram_bytes);
        self.seek_preferred(now);
        if let Some(home) = home {
            self.leave_home(now, home);
        }
    }

    /// RFC 9001 §4.9, RFC 9002 §6.4: drops a space with its keys and what is in flight.
    pub(super) fn discard_space(&mut self, space: SpaceId) {
        let Some(h) = &mut self.handshake else { return };
        let s = match space {
            SpaceId::Initial => {
                h.initial_discarded = true;
                &mut h.initial
            }
            SpaceId::Handshake => &mut h.handshake,
            SpaceId::Data => return,
        };
        if s.keys.is_none() {
            return;
        }
        let in_flight = s.sent.drain(|_| {});
        *s = HandshakeSpace::default();
        self.path.on_discarded(in_flight);
        self.pto_count = 0;
    }

    /// The first authentic packet of the peer settles which id it wants to be addressed by
    /// (RFC 9000 §7.2). Returns false for a packet that changes its mind.
    pub(super) fn settle_peer_id(&mut self, scid: ConnectionId) -> bool {
        let Some(h) = &mut self.handshake else { return true };
        h.heard = true;
        match h.peer_scid {
            Some(known) => known == scid,
            None => {
                h.peer_scid = Some(scid);
                self.remote_cids.replace_first(scid);
                true
            }
        }
    }

    /// A Retry packet arrived (RFC 9000 §17.2.5.2).
    pub(super) fn on_retry(
        &mut self,
        now: Instant,
        packet: &Packet,
        datagram: &[u8],
        start: usize,
    ) {
        let useful = |h: &Handshake| {
            let too_late = h.heard || h.retry_scid.is_some();
            let says_nothing = packet.token.is_empty() || packet.scid == h.original_dcid;
            let bytes = &datagram[start..packet.end];
            !too_late && !says_nothing && retry_tag_matches(h.original_dcid.as_slice(), bytes)
        };
        let client = self.side == Side::Client;
        let Some(h) = self.handshake.as_deref_mut().filter(|h| client && useful(h)) else {
            let (kind, bytes) = (Some(packet.kind), packet.end - start);
            return self.drop_packet(now, kind, bytes, DropReason::UselessRetry);
        };
        h.retry_scid = Some(packet.scid);
        h.token = datagram[packet.token.clone()].to_vec();
        h.initial.keys = initial_keys(VERSION_1, packet.scid.as_slice(), self.side);
        // What was sent is void, but its numbers stay used.
        let in_flight = h.initial.sent.drain(|_| {});
        h.initial.crypto_send.restart();
        h.initial.probes = 0;
        self.path.on_discarded(in_flight);
        self.pto_count = 0;
        self.remote_cids.replace_first(packet.scid);
        self.restart_idle(now);
    }

    /// A Version Negotiation packet arrived (RFC 9000 §6.2).
    pub(super) fn on_version_negotiation(
        &mut self,
        now: Instant,
        packet: &Packet,
        datagram: &[u8],
    ) {
        let useful = |h: &Handshake| {
            // RFC 9000 §17.2.1: both ids echo ours, or an attacker guesses.
            let ours = packet.scid == h.original_dcid && packet.dcid == self.first_local_cid();
            let too_late = h.heard || h.retry_scid.is_some();
            ours && !too_late && packet::versions(packet, datagram).all(|v| v != VERSION_1)
        };
        if self.side == Side::Server || !self.handshake.as_deref().is_some_and(useful) {
            let (kind, bytes) = (Some(packet.kind), datagram.len());
            return self.drop_packet(now, kind, bytes, DropReason::UselessVersionNegotiation);
        }
        if self.observed {
            let versions: Vec<u32> = packet::versions(packet, datagram).collect();
            let offered = Observation::VersionsOffered { versions: &versions, chosen: None };
            self.tell(now, &offered);
        }
        self.end_silently(now, CloseReason::VersionMismatch);
    }

    /// The id that datagrams of ours carry as their source.
    pub(super) fn first_local_cid(&self) -> ConnectionId {
        self.local_cids.iter().next().map_or(ConnectionId::EMPTY, |c| c.cid)
    }
}
