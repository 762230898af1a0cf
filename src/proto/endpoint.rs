//! Packets that belong to no connection (RFC 9000 §5.2.2, §6, §8.1, §10.3).
//!
//! A server's worker asks `Endpoint::incoming` about every datagram whose connection id it does
//! not know. The answer is to accept a connection, to send one datagram back without keeping
//! anything, or to drop. What is sent back is never larger than three times what arrived, is
//! limited in rate ([`AnswerLimits`]), and is not sent in answer to anything that could itself be
//! such an answer, so that two endpoints never keep each other busy.

use super::connection::{Connection, ServerArgs, TransportConfig, code};
use super::crypto::{InitialSecret, Keys, ResetKey, ServerTls, TAG_LEN, initial_keys, retry_tag};
use super::health::HealthCheck;
use super::limiter::Limiter;
use super::packet_builder::{Header, Number, PacketBuilder};
use super::recovery::SentInfo;
use super::token::{MAX_TOKEN_LEN, Refusal, Tokens, Validation};
use crate::counters::counters;
use crate::time::Instant;
use crate::wire::frame::Frame;
use crate::wire::packet::{self, LongHeader, Packet, PacketType, decode_pn};
use crate::wire::{ConnectionId, Side, VERSION_1, Writer};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// RFC 9000 §7.2: a client's first destination id has at least this length.
const MIN_INITIAL_DCID: usize = 8;
/// RFC 9000 §14.1.
const MIN_INITIAL_BYTES: usize = 1200;
/// A packet with a short header is this much longer than its destination id, at least: the first
/// byte, 4 bytes for the sample of header protection, and the tag (RFC 9001 §5.4.2). Nothing
/// shorter is a packet to an id of ours, and nothing shorter is answered by a stateless reset.
const MIN_SHORT_OVERHEAD_BYTES: usize = 1 + 4 + TAG_LEN;
/// The longest stateless reset: as long as the shortest packet to an id of 20 bytes, so that it
/// looks like any packet to an observer (RFC 9000 §10.3).
const MAX_RESET_BYTES: usize = 42;
/// The length of the ids that a Retry chooses.
const RETRY_CID_LEN: usize = 16;

/// When clients have to prove their address before anything is kept for them.
///
/// Where the worker has no room for an address that may be forged, each policy asks for the proof:
/// a client that brings it still gets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryPolicy {
    /// Never, as long as there is room.
    Never,
    /// Always.
    Always,
    /// While this many handshakes are under way on the worker, or were under way within the last
    /// second and failed.
    Above(usize),
}

/// How many answers without state each worker sends for a listener in a second, by kind: a flood
/// that is answered in one way leaves the others as they are. What is held back is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerLimits {
    /// Retry packets. They are what honest clients need while forged Initials arrive, cost about
    /// 2 us each, and are a tenth as long as what they answer.
    pub retries: u32,
    /// Version Negotiation packets.
    pub version_negotiations: u32,
    /// CONNECTION_CLOSE frames without a connection: bad tokens, no room, refusals at the application's
    /// wish or for reasons of load, handshakes that fail with their first packet.
    pub refusals: u32,
    /// Stateless resets, which any short packet asks for.
    pub resets: u32,
    /// Answers to [health checks](crate::HealthCheck), from all who ask together: balancers ask a few
    /// times in a second.
    pub health_checks: u32,
}

impl Default for AnswerLimits {
    fn default() -> Self {
        Self {
            retries: 100_000,
            version_negotiations: 10_000,
            refusals: 10_000,
            resets: 5_000,
            health_checks: 1_000,
        }
    }
}

/// A kind of answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Retry,
    VersionNegotiation,
    InvalidToken,
    Refusal,
    Reset,
    HealthCheck,
}

/// A bucket for each kind.
struct Limiters {
    retries: Limiter,
    version_negotiations: Limiter,
    refusals: Limiter,
    resets: Limiter,
    health_checks: Limiter,
}

impl Limiters {
    fn new(limits: &AnswerLimits) -> Self {
        Self {
            retries: Limiter::new(limits.retries),
            version_negotiations: Limiter::new(limits.version_negotiations),
            refusals: Limiter::new(limits.refusals),
            resets: Limiter::new(limits.resets),
            health_checks: Limiter::new(limits.health_checks),
        }
    }
}

/// What a server does with unknown datagrams.
pub(crate) struct Endpoint {
    transport: Arc<TransportConfig>,
    tls: Arc<ServerTls>,
    tokens: Tokens,
    reset: ResetKey,
    retry: RetryPolicy,
    health: Option<HealthCheck>,
    limiters: Limiters,
    stats: EndpointStats,
    /// The buffer in which a client Initial is opened to check it.
    scratch: Vec<u8>,
}

counters! {
    /// Datagrams that belong to no connection: answers and refusals.
    pub struct EndpointStats, counted by "the listeners of the worker" {
        /// Connections accepted.
        accepted: Counter, Count;
        /// Retry packets sent.
        retries: Counter, Count;
        /// Version Negotiation packets sent.
        version_negotiations: Counter, Count;
        /// Stateless resets sent.
        resets: Counter, Count;
        /// Tokens refused with INVALID_TOKEN.
        invalid_tokens: Counter, Count;
        /// Initials in datagrams that are too small, or with an id that is too short.
        small_initials: Counter, Count;
        /// Client Initials that were forged, or damaged on the way.
        forged: Counter, Count;
        /// Datagrams of no connection whose UDP checksum was wrong.
        damaged: Counter, Count, Dropped;
        /// Datagrams dropped for any other reason.
        dropped: Counter, Count;
        /// CONNECTION_CLOSE frames sent without a connection, those for tokens aside.
        refusals: Counter, Count;
        /// Retry packets held back by a limit.
        limited_retries: Counter, Count;
        /// Version Negotiation packets held back.
        limited_version_negotiations: Counter, Count;
        /// CONNECTION_CLOSE frames held back.
        limited_refusals: Counter, Count;
        /// Stateless resets held back.
        limited_resets: Counter, Count;
        /// Tokens of NEW_TOKEN frames that came a second time: they count as no token.
        replayed_tokens: Counter, Count;
        /// Tokens of NEW_TOKEN frames that could not be told from used ones any more, or whose source
        /// has used its share: they count as no token.
        forgotten_tokens: Counter, Count;
        /// Health checks answered.
        health_checks: Counter, Count;
        /// Health checks not answered, for a limit.
        limited_health_checks: Counter, Count;
    }
}

/// True if a client Initial is large enough to begin a connection (RFC 9000 §14.1, §7.2).
#[inline]
pub(crate) fn may_begin(datagram: &[u8], p: &Packet) -> bool {
    datagram.len() >= MIN_INITIAL_BYTES && p.dcid.len() >= MIN_INITIAL_DCID
}

/// What to do about a datagram.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, and it moves once")]
pub(crate) enum Incoming {
    /// A client Initial: make a slot for it and call `Endpoint::accept`.
    Accept(ClientInitial),
    /// The first bytes of the answer buffer go back to where the datagram came from.
    Answer(usize),
    /// Nothing: it looks like a client Initial, and does not open.
    Forged,
    /// Nothing.
    Drop,
}

/// A client's first Initial, as far as it is worth a connection.
pub(crate) struct ClientInitial {
    /// The id that the client wrote as destination: its next Initials have it too.
    pub initial_dcid: ConnectionId,
    original_dcid: ConnectionId,
    retry_scid: Option<ConnectionId>,
    peer_cid: ConnectionId,
    address_validated: bool,
    /// It was opened with them.
    keys: Keys,
}

impl fmt::Debug for ClientInitial {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientInitial")
            .field("initial_dcid", &self.initial_dcid)
            .field("address_validated", &self.address_validated)
            .finish_non_exhaustive()
    }
}

impl ClientInitial {
    /// A token has proved the client's address.
    #[must_use]
    pub(crate) fn address_validated(&self) -> bool {
        self.address_validated
    }
}

/// What is known about a datagram besides its bytes, and what may be used up on it.
pub(crate) struct Context<'a> {
    /// The time.
    pub now: Instant,
    /// Where it came from.
    pub remote: SocketAddr,
    /// Handshakes under way, and those that failed within the last second.
    pub handshakes: usize,
    /// There is no room for a client whose address is not validated.
    pub crowded: bool,
    /// The destination id is one that this host issues, and of no connection that lives. Only
    /// such an id is answered by a stateless reset: an attacker who could ask for the token of
    /// another host's id could end that host's connection (RFC 9000 §21.11).
    pub issued_here: bool,
    /// The datagram shows no damage: its UDP checksum holds, or it has none. Of a damaged datagram,
    /// only what an AEAD has opened is believed.
    pub intact: bool,
    /// Fresh random bytes.
    pub random: [u8; 32],
    /// Space for an answer of up to 1200 bytes.
    pub answer: &'a mut [u8],
}

/// What an [`Endpoint`] is to know of a connection that it accepts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The time.
    pub now: Instant,
    /// Our address, which the client wrote to.
    pub local: SocketAddr,
    /// The client.
    pub remote: SocketAddr,
    /// The id that the client writes from now on; names the slot.
    pub local_cid: ConnectionId,
    /// As [`ServerArgs::seed`].
    pub seed: u64,
    /// As [`ServerArgs::grease`].
    pub grease: u64,
}

impl Endpoint {
    /// A server's endpoint. `tokens` and `reset` are shared by all workers of a host (and of a
    /// fleet, where one host may answer for another).
    #[must_use]
    pub(crate) fn new(
        transport: Arc<TransportConfig>,
        tls: Arc<ServerTls>,
        tokens: Tokens,
        reset: ResetKey,
        retry: RetryPolicy,
    ) -> Self {
        let limiters = Limiters::new(&AnswerLimits::default());
        let (stats, scratch) = (EndpointStats::default(), Vec::new());
        Self { transport, tls, tokens, reset, retry, health: None, limiters, stats, scratch }
    }

    /// The same with other limits of its answers.
    #[must_use]
    pub(crate) fn limited(mut self, limits: &AnswerLimits) -> Self {
        self.limiters = Limiters::new(limits);
        self
    }

    /// The same with answers to a health check.
    #[must_use]
    pub(crate) fn with_health(mut self, health: Option<HealthCheck>) -> Self {
        self.health = health;
        self
    }

    /// The counters.
    #[must_use]
    pub(crate) fn stats(&self) -> EndpointStats {
        self.stats
    }

    /// What its connections are made with, if nothing else is chosen.
    #[must_use]
    pub(crate) fn configuration(&self) -> (&Arc<TransportConfig>, &Arc<ServerTls>) {
        (&self.transport, &self.tls)
    }

    /// The token that resets a connection id of ours.
    #[must_use]
    pub(crate) fn reset_token(&self, cid: &ConnectionId) -> [u8; 16] {
        self.reset.token(cid.as_slice())
    }

    /// A token for [`Connection::send_new_token`]: it lets the client at `remote` return without
    /// proving its address again. `nonce` must be random.
    pub(crate) fn new_token(&mut self, now: Instant, nonce: &[u8; 12], remote: IpAddr) -> Vec<u8> {
        let mut token = Vec::with_capacity(MAX_TOKEN_LEN);
        self.tokens.new_token(now, nonce, remote, &mut token);
        token
    }

    /// True if a token proves that the client is at `remote`, for all that shows without using it up.
    pub(crate) fn proves(&mut self, now: Instant, remote: SocketAddr, token: &[u8]) -> bool {
        self.tokens.proves(now, remote, token)
    }

    /// Judges a datagram whose connection is not known. `short_cid_len` is the length of the
    /// ids that we issue.
    pub(crate) fn incoming(
        &mut self,
        datagram: &[u8],
        short_cid_len: usize,
        cx: &mut Context<'_>,
    ) -> Incoming {
        let Ok(p) = packet::parse(datagram, 0, short_cid_len) else {
            self.stats.dropped += 1;
            return Incoming::Drop;
        };
        if !cx.intact && p.kind != PacketType::Initial {
            self.stats.damaged += 1;
            return Incoming::Drop;
        }
        match p.kind {
            PacketType::Initial => self.on_initial(datagram, &p, cx),
            PacketType::UnknownVersion => self.negotiate(datagram, cx),
            PacketType::Short => self.answer_reset(datagram.len(), &p.dcid, cx),
            PacketType::ZeroRtt
            | PacketType::Handshake
            | PacketType::Retry
            | PacketType::VersionNegotiation => {
                self.stats.dropped += 1;
                Incoming::Drop
            }
        }
    }

    /// Makes the connection for a client Initial, which [`incoming`](Endpoint::incoming) has opened
    /// already. Give it the datagram next. What it is made with is to be
    /// [chosen](Connection::choose) when it has its ClientHello.
    pub(crate) fn accept(&mut self, initial: ClientInitial, place: Place) -> Option<Connection> {
        let Place { now, local, remote, local_cid, seed, grease } = place;
        let connection = Connection::accept(ServerArgs {
            config: Arc::clone(&self.transport),
            tls: None,
            now,
            local,
            remote,
            local_cid,
            reset_token: self.reset_token(&local_cid),
            preferred_cid: None,
            initial_keys: Some(initial.keys),
            original_dcid: initial.original_dcid,
            retry_scid: initial.retry_scid,
            peer_cid: initial.peer_cid,
            address_validated: initial.address_validated,
            seed,
            grease,
        });
        match connection {
            Ok(connection) => {
                self.stats.accepted += 1;
                Some(connection)
            }
            Err(_) => {
                self.stats.dropped += 1;
                None
            }
        }
    }

    fn on_initial(&mut self, datagram: &[u8], p: &Packet, cx: &mut Context<'_>) -> Incoming {
        if !may_begin(datagram, p) {
            self.stats.small_initials += 1;
            return Incoming::Drop;
        }
        let token = &datagram[p.token.clone()];
        // A client Initial that was damaged on the way must not use up a token that works once.
        let mut keys = None;
        if self.tokens.works_once(token) {
            keys = self.open(datagram, p);
            if keys.is_none() {
                return Incoming::Forged;
            }
        }
        let (mut original_dcid, mut retry_scid, mut address_validated) = (p.dcid, None, true);
        match self.tokens.validate(cx.now, cx.remote, token) {
            Validation::Retry { original_dcid: original, retry_scid: ours } if ours == p.dcid => {
                (original_dcid, retry_scid) = (original, Some(ours));
            }
            Validation::NewToken => {}
            Validation::Retry { .. } | Validation::BadRetry(_) => {
                return match keys.or_else(|| self.open(datagram, p)) {
                    Some(_) => self.refuse_token(p, cx),
                    None => Incoming::Forged,
                };
            }
            // RFC 9000 §8.1.3: a token that proves nothing counts as no token.
            Validation::Absent(refusal) => {
                address_validated = false;
                self.note_refusal(refusal);
                // Before the check for room: a client that is asked for proof is not lost.
                if cx.crowded || self.must_retry(cx.handshakes) {
                    if !cx.intact && keys.is_none() && self.open(datagram, p).is_none() {
                        return Incoming::Forged;
                    }
                    return self.send_retry(p, cx);
                }
            }
        }
        // Only now is the packet opened. A Retry is sent without, because it costs less than opening
        // the packet that it answers. A session costs far more than either.
        let Some(keys) = keys.or_else(|| self.open(datagram, p)) else { return Incoming::Forged };
        Incoming::Accept(ClientInitial {
            initial_dcid: p.dcid,
            original_dcid,
            retry_scid,
            peer_cid: p.scid,
            address_validated,
            keys,
        })
    }

    /// The keys of a client Initial, if it is as it was sent; else it is counted. The client is not
    /// at fault for a token that was damaged on the way: it sends its Initial again, and must not
    /// get a CONNECTION_CLOSE.
    fn open(&mut self, datagram: &[u8], p: &Packet) -> Option<Keys> {
        self.scratch.clear();
        self.scratch.extend_from_slice(&datagram[..p.end]);
        let keys = open(&mut self.scratch, p);
        self.stats.forged += u64::from(keys.is_none());
        keys
    }

    fn note_refusal(&mut self, refusal: Refusal) {
        self.stats.replayed_tokens += u64::from(refusal == Refusal::Replayed);
        self.stats.forgotten_tokens += u64::from(refusal == Refusal::FilterFull);
    }

    fn must_retry(&self, handshakes: usize) -> bool {
        match self.retry {
            RetryPolicy::Never => false,
            RetryPolicy::Always => true,
            RetryPolicy::Above(limit) => handshakes >= limit,
        }
    }

    fn send_retry(&mut self, p: &Packet, cx: &mut Context<'_>) -> Incoming {
        let scid = ConnectionId::new(&cx.random[..RETRY_CID_LEN]).unwrap_or(ConnectionId::EMPTY);
        let nonce: [u8; 12] = std::array::from_fn(|i| cx.random[RETRY_CID_LEN + i]);
        let mut token = Vec::with_capacity(MAX_TOKEN_LEN);
        self.tokens.retry(cx.now, &nonce, cx.remote, &p.dcid, &scid, &mut token);
        let len = write_retry(cx.answer, p, &scid, &token, cx.random[31]);
        self.answer(cx.now, Kind::Retry, len)
    }

    /// RFC 9000 §8.1.2: tells a client with a bad Retry token at once, or it would wait for its
    /// time-out.
    fn refuse_token(&mut self, p: &Packet, cx: &mut Context<'_>) -> Incoming {
        let (code, reason) = (code::INVALID_TOKEN, "token is expired or not for this address");
        let refusal = Close { dcid: &p.scid, scid: &p.dcid, code, reason };
        let len = refusal.write(cx.answer, number(&cx.random));
        self.answer(cx.now, Kind::InvalidToken, len)
    }

    /// Turns away a client for which there is no room, without a connection (CONNECTION_REFUSED).
    /// Returns the length of what to send back, if anything.
    pub(crate) fn refuse(
        &mut self,
        initial: &ClientInitial,
        reason: &str,
        cx: &mut Context<'_>,
    ) -> Option<usize> {
        let refusal = Close {
            dcid: &initial.peer_cid,
            scid: &initial.initial_dcid,
            code: code::CONNECTION_REFUSED,
            reason,
        };
        let len = refusal.write(cx.answer, number(&cx.random));
        if let Incoming::Answer(len) = self.answer(cx.now, Kind::Refusal, len) {
            return Some(len);
        }
        None
    }

    /// As [`refuse`](Self::refuse), of a datagram that is not looked into: of a client Initial whose
    /// length is right, and nothing else.
    pub(crate) fn refuse_unread(
        &mut self,
        datagram: &[u8],
        reason: &str,
        cx: &mut Context<'_>,
    ) -> Incoming {
        let parsed = packet::parse(datagram, 0, 0).ok();
        let Some(p) = parsed.filter(|p| p.kind == PacketType::Initial) else {
            self.stats.dropped += 1;
            return Incoming::Drop;
        };
        if !may_begin(datagram, &p) {
            self.stats.small_initials += 1;
            return Incoming::Drop;
        }
        if !cx.intact && self.open(datagram, &p).is_none() {
            return Incoming::Forged;
        }
        // Before it is written: what is held back costs nothing.
        if !self.may_close(cx.now) {
            return Incoming::Drop;
        }
        let code = code::CONNECTION_REFUSED;
        let refusal = Close { dcid: &p.scid, scid: &p.dcid, code, reason };
        refusal.write(cx.answer, number(&cx.random)).map_or(Incoming::Drop, Incoming::Answer)
    }

    /// The answer to a datagram that is a health check; `None` if it is none, or for a limit.
    pub(crate) fn answer_health(&mut self, now: Instant, datagram: &[u8]) -> Option<&[u8]> {
        if !self.health.as_ref()?.is_asked(datagram) {
            return None;
        }
        let answered = self.answer(now, Kind::HealthCheck, Some(0));
        let health = self.health.as_ref().filter(|_| matches!(answered, Incoming::Answer(_)))?;
        Some(health.answer())
    }

    /// True if the close of a connection that ended with its first datagram may go out.
    pub(crate) fn may_close(&mut self, now: Instant) -> bool {
        matches!(self.answer(now, Kind::Refusal, Some(0)), Incoming::Answer(_))
    }

    /// RFC 9000 §6.1: only for datagrams that could have started a connection.
    fn negotiate(&mut self, datagram: &[u8], cx: &mut Context<'_>) -> Incoming {
        let ids = packet::long_ids(datagram, 0).filter(|_| datagram.len() >= MIN_INITIAL_BYTES);
        let Some((dcid, scid)) = ids else {
            self.stats.dropped += 1;
            return Incoming::Drop;
        };
        let mut w = Writer::new(cx.answer);
        // RFC 9000 §6.3: a reserved version keeps clients ready for surprises.
        let versions = [VERSION_1, 0x0a0a_0a0a | u32::from(cx.random[0] & 0xf0) << 24];
        let written =
            packet::write_version_negotiation(&mut w, scid, dcid, &versions, cx.random[1]);
        let len = written.ok().map(|()| w.position());
        self.answer(cx.now, Kind::VersionNegotiation, len)
    }

    /// RFC 9000 §10.3: shorter than what it answers, so that two endpoints that have both lost
    /// a connection fall silent.
    fn answer_reset(&mut self, len: usize, dcid: &ConnectionId, cx: &mut Context<'_>) -> Incoming {
        if !cx.issued_here || dcid.is_empty() || len < MIN_SHORT_OVERHEAD_BYTES + dcid.len() {
            self.stats.dropped += 1;
            return Incoming::Drop;
        }
        let size = (len - 1).min(MAX_RESET_BYTES);
        let Some(out) = cx.answer.get_mut(..size) else { return Incoming::Drop };
        for (o, r) in out.iter_mut().zip(cx.random.iter().cycle()) {
            *o = *r;
        }
        out[0] = 0x40 | (out[0] & 0x3f);
        out[size - 16..].copy_from_slice(&self.reset_token(dcid));
        self.answer(cx.now, Kind::Reset, Some(size))
    }

    fn answer(&mut self, now: Instant, kind: Kind, len: Option<usize>) -> Incoming {
        let Some(len) = len else {
            self.stats.dropped += 1;
            return Incoming::Drop;
        };
        let Self { limiters: l, stats: s, .. } = self;
        let (limiter, sent, limited) = match kind {
            Kind::Retry => (&mut l.retries, &mut s.retries, &mut s.limited_retries),
            Kind::VersionNegotiation => (
                &mut l.version_negotiations,
                &mut s.version_negotiations,
                &mut s.limited_version_negotiations,
            ),
            Kind::InvalidToken => (&mut l.refusals, &mut s.invalid_tokens, &mut s.limited_refusals),
            Kind::Refusal => (&mut l.refusals, &mut s.refusals, &mut s.limited_refusals),
            Kind::Reset => (&mut l.resets, &mut s.resets, &mut s.limited_resets),
            Kind::HealthCheck => {
                (&mut l.health_checks, &mut s.health_checks, &mut s.limited_health_checks)
            }
        };
        if limiter.allow(now) {
            *sent += 1;
            Incoming::Answer(len)
        } else {
            *limited += 1;
            Incoming::Drop
        }
    }
}

fn write_retry(
    out: &mut [u8],
    p: &Packet,
    scid: &ConnectionId,
    token: &[u8],
    random: u8,
) -> Option<usize> {
    let mut w = Writer::new(out);
    packet::write_retry_header(&mut w, VERSION_1, &p.scid, scid, token, random).ok()?;
    let tag = retry_tag(p.dcid.as_slice(), w.written())?;
    w.bytes(&tag).ok()?;
    Some(w.position())
}

/// The keys that the destination id of an Initial makes, if it opens under them (RFC 9001 §5.2).
fn open(packet: &mut [u8], p: &Packet) -> Option<Keys> {
    let secret = InitialSecret::new(VERSION_1, p.dcid.as_slice())?;
    let remote = secret.client()?;
    let u = remote.header().unmask(packet, p.pn_offset)?;
    // It is among the client's first packets: the number is as short as it looks.
    let pn = decode_pn(u.truncated_pn, u.pn_len, None);
    remote.packet().open(pn, packet, p.pn_offset + u.pn_len)?;
    // What is forged costs no more than the half that opens it.
    Some(Keys { local: secret.server()?, remote })
}

/// Four random bytes of those that are there for an answer.
fn number(random: &[u8; 32]) -> u32 {
    let [a, b, c, d, ..] = *random;
    u32::from_be_bytes([a, b, c, d])
}

/// A CONNECTION_CLOSE in an Initial packet, by a server that keeps nothing.
struct Close<'a> {
    /// The client's id.
    dcid: &'a ConnectionId,
    /// What the client wrote to, and what the keys are made from.
    scid: &'a ConnectionId,
    code: u64,
    reason: &'a str,
}

impl Close<'_> {
    /// `random` gives the packet number: no state is kept of refusals, and no two packets under one
    /// key may have the same number (RFC 9001 §5.3).
    fn write(&self, out: &mut [u8], random: u32) -> Option<usize> {
        // Below 2^31, a client that has seen no packet yet reads its four bytes as they are.
        let pn = u64::from(random >> 1);
        let keys = initial_keys(VERSION_1, self.scid.as_slice(), Side::Server)?;
        let header = LongHeader {
            kind: PacketType::Initial,
            version: VERSION_1,
            dcid: *self.dcid,
            scid: *self.scid,
            token: b"",
        };
        let header = Header::Long(&header);
        let (packet, mut w) = PacketBuilder::begin(header, Number::long(pn), out)?;
        let reason = self.reason.as_bytes();
        Frame::ConnectionClose { code: self.code, frame_type: 0, reason }.write(&mut w).ok()?;
        packet.end(w, SentInfo::default()).protect(out, &keys.local)
    }
}

#[cfg(test)]
mod tests;
