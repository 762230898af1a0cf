//! A QUIC connection: one state machine, without I/O, clock or threads.
//!
//! # How to drive it
//!
//! The owner of a connection calls, with the time as an argument:
//!
//! 1. [`receive`](Connection::receive) for every datagram that belongs to it. Packets are
//!    decrypted where they lie, and the [`Application`] gets in-order stream data as a slice of the
//!    datagram;
//! 2. [`handle_timeout`](Connection::handle_timeout) when [`next_timeout`](Connection::next_timeout)
//!    has come;
//! 3. [`transmit_elsewhere`](Connection::transmit_elsewhere) while
//!    [`wants_elsewhere`](Connection::wants_elsewhere) names a path, and then
//!    [`transmit`](Connection::transmit) until it returns `None`, after any of the above and
//!    after any call of the application's;
//! 4. [`add_cid`](Connection::add_cid) while [`wants_cid`](Connection::wants_cid): ids are made
//!    by the owner of the connection table, since they say where the connection lives;
//! 5. [`shrink`](Connection::shrink) once nothing has happened to it for a second or more: it gives
//!    memory back, and notices that it was idle;
//! 6. nothing more, once [`is_drained`](Connection::is_drained).
//!
//! # Where things are
//!
//! | file | what |
//! |---|---|
//! | `receive.rs`, `frames.rs` | from a datagram to packets, from packets to frames |
//! | `transmit.rs`, `assemble.rs` | which datagrams leave, which frames go into a packet |
//! | `acks.rs` | acknowledgements and losses |
//! | `timers.rs` | what is due when |
//! | `handshake.rs` | TLS, transport parameters, Retry, Version Negotiation |
//! | `paths.rs`, `other_paths.rs` | paths that come, change and go |
//! | `rebinding.rs` | a client whose NAT forgets it during the handshake |
//! | `preferred.rs` | the address at which a server prefers to be reached |
//! | `rotation.rs` | connection ids that change while the path stays |
//! | `hello.rs`, `undecided.rs` | a server that chooses its configuration by what the client asks for |
//! | `close.rs` | the end |
//! | `observe.rs` | tells the observer of all this |
//! | `space.rs` | packet number spaces, and the state that goes with the handshake |
//! | `keys.rs`, `cids.rs`, `crypto_stream.rs` | 1-RTT keys, connection ids, TLS bytes |
//! | `stats.rs` | the counters |
//! | `early.rs` | packets that overtook the ones that bring their keys |
//! | `judging.rs` | the application's word on the peer's certificate |
//! | `late_crypto.rs` | TLS messages after the handshake |
//! | `closing.rs`, `observing.rs` | what is kept of a close, and of an observer |
//!
//! What belongs to the way that packets take is in `proto/path.rs`; `proto/packet_builder.rs` makes
//! packets.

mod acks;
mod assemble;
mod cids;
mod close;
mod closing;
mod config;
mod crypto_stream;
mod early;
mod error;
mod event;
mod frames;
mod handshake;
mod hello;
mod judging;
mod keys;
mod late_crypto;
mod network;
mod observe;
mod observing;
mod other_paths;
mod paths;
mod preferred;
mod rebinding;
mod receive;
mod rotation;
mod space;
mod stats;
mod summary;
mod timers;
mod transmit;
mod undecided;

pub use config::{MIN_DATAGRAM_BYTES, TransportConfig};
pub use error::{CloseReason, TransportError, code};
pub use event::{Drained, Event};
pub use handshake::{ClientArgs, ConnectError, ServerArgs};
pub use network::{IDEAL_SEND_MIN_BYTES, NetworkStatistics};
pub use paths::{MigrateError, Migration};

pub use crate::proto::path::{Addresses, Ends, PathId};
pub use stats::ConnectionStats;
pub use summary::HandshakeSummary;
pub use undecided::Choice;

use crate::ecn::Ecn;
use crate::proto::congestion::Controller;
use crate::proto::crypto::Session;
use crate::proto::path::Path;
use crate::proto::recovery::SentPackets;
use crate::proto::streams::{Streams, StreamsRef, StreamsStats};
use crate::time::Instant;
use crate::wire::{ConnectionId, Side, StreamId};
use bytes::Bytes;
use cids::{LocalCids, RemoteCids};
use closing::Closing;
use crypto_stream::CryptoSend;
use early::EarlyPackets;
use keys::OneRttKeys;
use late_crypto::LateCrypto;
use network::NetworkWatch;
use observing::Observing;
use other_paths::{OtherPaths, Preferred};
use space::{Handshake, Received};
use stats::{Read, Tally};
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use summary::Taken;

/// Streams whose buffered data is offered again within one delivery of events.
const MAX_REDELIVERIES: u32 = 64;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// TLS is not done.
    Handshaking,
    /// Streams flow.
    Established,
    /// CONNECTION_CLOSE was sent; answers what still arrives (RFC 9000 §10.2.1).
    Closing,
    /// The peer has closed, or answered our close; silent but for one answer (RFC 9000 §10.2.2).
    Draining,
    /// Nothing is left to do.
    Drained,
}

/// The 1-RTT packet number space.
#[repr(C)]
#[derive(Default)]
struct DataSpace {
    /// Probes to send after a timeout (RFC 9002 §6.2.4).
    probes: u8,
    sent: SentPackets,
    received: Received,
}

/// A datagram that [`Connection::transmit`] wrote, from [`Connection::local`] to
/// [`Connection::remote`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Bytes written.
    pub len: usize,
    /// The ECN codepoint to send it with.
    pub ecn: Ecn,
}

/// Control frames that wait to be written, besides those of the streams.
#[derive(Debug, Default)]
struct Pending {
    handshake_done: bool,
    ping: bool,
    new_token: bool,
}

/// Times that something is due, besides those that follow from sent packets.
#[derive(Debug)]
struct Deadlines {
    idle: Instant,
    handshake: Instant,
    keep_alive: Instant,
    /// The pacer holds data back until then.
    pacing: Instant,
    /// Closing or draining is over.
    close: Instant,
}

impl Deadlines {
    const NEVER: Self = Self {
        idle: Instant::NEVER,
        handshake: Instant::NEVER,
        keep_alive: Instant::NEVER,
        pacing: Instant::NEVER,
        close: Instant::NEVER,
    };
}

/// A QUIC connection; see the [module](self) for how to drive it.
#[repr(C)]
pub struct Connection {
    // What every packet touches comes first.
    state: State,
    /// There is an observer in `observing`.
    observed: bool,
    /// There is a watch in `network`.
    network_watched: bool,
    /// The active path is not validated, or there are others.
    paths_busy: bool,
    side: Side,
    /// TLS is confirmed by both sides (RFC 9001 §4.1.2).
    confirmed: bool,
    /// An ack-eliciting packet was sent since the last packet arrived (RFC 9000 §10.1).
    sent_since_received: bool,
    local_cid_len: u8,
    pto_count: u8,
    /// Acknowledgements that may leave as probes until the next probe timeout.
    ack_probes_left: u8,
    /// Probe timeouts that are due sooner than `pto_count` says, since the peer was heard again.
    follow_ups: u8,
    peer_ack_delay_exponent: u8,
    /// Larger datagrams are dropped.
    max_rx_bytes: u16,
    idle_timeout_ns: u64,
    /// Zero: no PING keeps the connection alive.
    keep_alive_ns: u64,
    deadlines: Deadlines,
    peer_max_ack_delay_ns: u64,
    /// The packet number to skip next.
    skip_at: u64,
    config: Arc<TransportConfig>,
    handshake: Option<Box<Handshake>>,
    /// TLS bytes in 1-RTT packets: session tickets.
    tickets: Option<Box<CryptoSend>>,
    events: VecDeque<Event>,
    pending: Pending,
    keys: Option<OneRttKeys>,
    /// Where packets go, and what is known of the way.
    path: Path,
    data: DataSpace,
    streams: Streams,
    remote_cids: RemoteCids,
    local_cids: LocalCids,
    stats: Tally,
    // What only the beginning and the end touch.
    rng: u64,
    peer_max_datagram_bytes: u64,
    session: Option<Box<Session>>,
    tickets_received: Option<Box<LateCrypto>>,
    new_token: Option<Box<[u8]>>,
    early: Option<Box<EarlyPackets>>,
    others: Option<Box<OtherPaths>>,
    /// The number of the newest path.
    last_path: u8,
    /// The number of the id of ours that the peer writes to on the active path.
    peer_uses: Option<u64>,
    /// Since when the active path carries the id of the peer's that it does, once the handshake is
    /// confirmed.
    cid_since: Instant,
    /// The connection is idle: what `skip_at` is when it goes on.
    rested: Option<u64>,
    /// What the handshake took.
    taken: Taken,
    peer_allows_migration: bool,
    /// The handshake has completed.
    completed: bool,
    /// The peer closed, or answered our close.
    peer_closed: bool,
    preferred: Option<Box<Preferred>>,
    closing: Option<Box<Closing>>,
    close_reason: Option<Box<CloseReason>>,
    alpn: Option<Box<[u8]>>,
    observing: Option<Box<Observing>>,
    network: Option<Box<NetworkWatch>>,
}

impl Connection {
    /// Which end of the connection this is.
    #[must_use]
    pub fn side(&self) -> Side {
        self.side
    }

    /// Our address.
    #[inline]
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.path.local
    }

    /// The peer's address.
    #[inline]
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.path.remote
    }

    /// Tells [`Event::NetworkStatistics`] from now on, at most once each round trip and each `every`, and
    /// [`Event::IdealSendBuffer`]. `None` ends that.
    pub fn set_network_statistics(&mut self, now: Instant, every: Option<Duration>) {
        self.network = every.map(|every| Box::new(NetworkWatch::new(now, every)));
        self.network_watched = self.network.is_some();
    }

    /// What is known of the path that packets take.
    #[must_use]
    pub fn network_statistics(&self) -> NetworkStatistics {
        let rtt = &self.path.rtt;
        let watch = self.network.as_ref();
        NetworkStatistics {
            bytes_in_flight: self.path.bytes_in_flight,
            window_bytes: self.path.congestion.window(),
            smoothed_rtt: Duration::from_nanos(rtt.smoothed_ns()),
            min_rtt: Duration::from_nanos(rtt.min_ns()),
            rtt_variation: Duration::from_nanos(rtt.variance_ns()),
            delivery_rate: watch.and_then(|watch| watch.rate),
            ideal_send_bytes: watch.map_or(IDEAL_SEND_MIN_BYTES, |watch| watch.ideal),
        }
    }

    /// What the handshake took; `None` until it is complete.
    #[must_use]
    pub fn handshake_summary(&self) -> Option<HandshakeSummary> {
        self.completed.then(|| self.taken.into())
    }

    /// The path that packets take.
    #[inline]
    #[must_use]
    pub fn path_id(&self) -> PathId {
        self.path.id
    }

    /// True if the peer has shown that it receives on the path that packets take.
    #[must_use]
    pub fn is_path_validated(&self) -> bool {
        self.path.validation.is_validated()
    }

    /// True if the connection has this path.
    #[cold]
    #[must_use]
    pub fn has_path(&self, id: PathId) -> bool {
        let others = self.others.iter().flat_map(|others| &others.paths);
        self.path.id == id || others.into_iter().any(|other| other.path.id == id)
    }

    /// The protocol that TLS agreed on, once it has.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.alpn.as_deref()
    }

    /// True from the end of the handshake until the connection closes.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.state == State::Established
    }

    /// True until the handshake has ended, well or badly.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.state == State::Handshaking
    }

    /// True once the peer has shown that it is where its packets come from (RFC 9000 §8.1).
    #[must_use]
    pub fn is_address_validated(&self) -> bool {
        self.path.validation.is_validated()
    }

    /// True once the handshake is confirmed.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// True once closing has begun, on either side.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closing | State::Draining | State::Drained)
    }

    /// True once nothing is left to do: the connection can be dropped.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.state == State::Drained
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> ConnectionStats {
        self.stats.with(&Read {
            bytes_in_flight: self.path.bytes_in_flight,
            window_bytes: self.path.congestion.window(),
            smoothed_rtt_ns: self.path.rtt.smoothed_ns(),
            mtu_bytes: self.path.mtu.current().into(),
            mtu_black_holes: self.path.mtu.black_holes(),
            key_updates: self.keys.as_ref().map_or(0, |k| k.updates),
        })
    }

    /// The counters of its streams.
    #[must_use]
    pub fn streams_stats(&self) -> StreamsStats {
        self.streams.stats()
    }

    /// Bytes of memory that the connection holds, its handshake with keys and TLS included.
    /// What the TLS library allocates by itself is counted as measured, see
    /// `Session::HEAP_BYTES`.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let cold = self.handshake.as_ref().map_or(0, |h| h.memory_bytes())
            + self.session.as_ref().map_or(0, |_| size_of::<Session>() + Session::HEAP_BYTES)
            + self.tickets.as_ref().map_or(0, |t| size_of::<CryptoSend>() + t.heap_bytes())
            + self.tickets_received.as_ref().map_or(0, |t| t.memory_bytes())
            + self.early.as_ref().map_or(0, |e| e.memory_bytes())
            + self.others.as_ref().map_or(0, |others| others.memory_bytes())
            + self.preferred.as_ref().map_or(0, |_| size_of::<Preferred>())
            + self.new_token.as_ref().map_or(0, |t| t.len())
            + self.closing.as_ref().map_or(0, |_| size_of::<Closing>())
            + self.close_reason.as_ref().map_or(0, |_| size_of::<CloseReason>());
        // The streams count themselves.
        size_of::<Self>() - size_of::<Streams>()
            + self.keys.as_ref().map_or(0, OneRttKeys::heap_bytes)
            + self.data.sent.memory_bytes()
            + self.data.received.ranges.heap_bytes()
            + self.path.memory_bytes()
            + self.streams.memory_bytes()
            + self.events.capacity() * size_of::<Event>()
            + cold
    }

    /// Bytes that an ordinary packet may touch, keys aside: the connection itself, and what
    /// [`hot_memory`](Self::hot_memory) names.
    pub(crate) const HOT_BYTES: usize = Self::COLD_AT + Streams::HOT_BYTES + SentPackets::HOT_BYTES;

    /// Where in the connection that begins which no ordinary packet touches.
    pub(crate) const COLD_AT: usize = std::mem::offset_of!(Self, rng);

    /// Names the memory outside of the connection itself that an ordinary packet in either
    /// direction touches, as addresses and lengths: a caller that knows that packets are about to
    /// come fetches it into the cache.
    pub(crate) fn hot_memory(&self, each: &mut impl FnMut(*const u8, usize)) {
        if let Some(keys) = &self.keys {
            keys.hot_memory(each);
        }
        self.streams.hot_memory(each);
        self.data.sent.hot_memory(each);
    }

    /// Gives back what an idle connection does not need, and lets the next packet look how long the
    /// connection was idle ([`TransportConfig::cid_rotation`]).
    pub fn shrink(&mut self) {
        self.rest();
        self.data.sent.shrink();
        self.streams.shrink();
        self.local_cids.shrink();
        self.remote_cids.shrink();
        if let Some(keys) = &mut self.keys {
            keys.rest();
        }
        self.events.shrink_to(0);
        self.release_tls(true);
        if self.paths_busy {
            self.shrink_paths();
        }
    }

    // ---- what the application does --------------------------------------------------------

    /// The streams, for the application: open, send, reset, and the rest.
    #[inline]
    pub fn streams(&mut self) -> StreamsRef<'_> {
        self.streams.app()
    }

    /// Changes the keys of 1-RTT packets (RFC 9001 §6). Returns false when the last change is
    /// not confirmed yet, or the handshake is not.
    pub fn update_keys(&mut self) -> bool {
        let next_pn = self.data.sent.next_pn();
        let ready = self.confirmed && self.keys.as_ref().is_some_and(OneRttKeys::may_update);
        if ready && let Some(keys) = &mut self.keys {
            // The expiry begins when the peer answers; until then the old key stays.
            keys.update(None, next_pn, Instant::NEVER);
        }
        ready
    }

    /// Closes the connection: everything not yet delivered is void.
    pub fn close(&mut self, now: Instant, code: u64, reason: Bytes) {
        self.close_application(now, code, reason);
    }

    /// Closes the connection for a fault of this side (RFC 9000 §20.1, INTERNAL_ERROR).
    pub(crate) fn fail(&mut self, now: Instant, reason: &'static str) {
        self.close_transport(now, TransportError::new(code::INTERNAL_ERROR, reason));
    }

    // ---- connection ids -------------------------------------------------------------------

    /// True while the peer is ready to hold another connection id of ours.
    #[must_use]
    pub fn wants_cid(&self) -> bool {
        self.confirmed && self.state == State::Established && self.local_cids.wants_more()
    }

    /// Issues a connection id, with the token that resets it.
    pub fn add_cid(&mut self, cid: ConnectionId, reset_token: [u8; 16]) {
        self.local_cids.add(cid, reset_token);
    }

    /// The owner has moved the connection: the ids of now lead to where it was. Others are asked for
    /// ([`wants_cid`](Self::wants_cid)), and the peer is told to retire these.
    pub(crate) fn replace_cids(&mut self) {
        self.local_cids.replace();
    }

    /// True while the peer may still write to an id from before [`replace_cids`](Self::replace_cids).
    pub(crate) fn has_replaced_cids(&self) -> bool {
        self.local_cids.has_replaced()
    }

    /// The connection ids that the peer may use, oldest first.
    pub fn local_cids(&self) -> impl Iterator<Item = &ConnectionId> {
        self.local_cids.iter().map(|c| &c.cid)
    }

    /// The token with which the peer resets the connection without state, if it has told one:
    /// that of the id that we write to (RFC 9000 §10.3.1).
    #[must_use]
    pub fn reset_token(&self) -> Option<&[u8; 16]> {
        self.remote_cids.reset_token()
    }

    /// True once after [`reset_token`](Self::reset_token) has changed.
    #[inline]
    pub fn take_reset_token_change(&mut self) -> bool {
        self.remote_cids.take_token_change()
    }

    /// Hands a server a token to give to its client for a later connection (RFC 9000 §8.1.3).
    pub fn send_new_token(&mut self, token: &[u8]) {
        self.new_token = Some(token.into());
        self.pending.new_token = true;
    }

    // ---- helpers of all files -------------------------------------------------------------

    /// A pseudo-random number from the seed that the owner gave: a hash (SipHash) of the seed and a
    /// count. The peer sees what is made of them, and must not foretell the next one: it could validate
    /// an address that is not its own (RFC 9000 §8.2.1).
    #[cold]
    #[inline(never)]
    fn random(&mut self) -> u64 {
        self.rng = self.rng.wrapping_add(0xa076_1d64_78bd_642f);
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.rng);
        hasher.finish()
    }

    /// Tells the application what has happened, including what follows from its own answers.
    #[inline]
    fn deliver(&mut self, app: &mut dyn Application) {
        if self.streams.has_event() || !self.events.is_empty() || self.streams.has_resumed() {
            self.deliver_all(app);
        }
    }

    fn deliver_all(&mut self, app: &mut dyn Application) {
        // An application that asks again for what it does not take waits for the next turn.
        let mut redeliveries = MAX_REDELIVERIES;
        loop {
            while redeliveries > 0
                && let Some(s) = self.streams.next_resumed()
            {
                redeliveries -= 1;
                self.deliver_buffered(s, app);
            }
            if let Some(event) = self.events.pop_front() {
                self.emit(event, app);
            } else if let Some(event) = self.streams.pop_event() {
                self.emit(Event::Stream(event), app);
            } else if let Some(now) = self.early.as_mut().and_then(|early| early.due.take()) {
                self.replay_early(now, app);
            } else if redeliveries == 0 || !self.streams.has_resumed() {
                break;
            }
        }
    }

    /// Tells the application that something happened.
    #[inline]
    fn emit(&mut self, event: Event, app: &mut dyn Application) {
        if self.observed {
            self.tell_event(&event);
        }
        app.event(self, event);
    }

    /// Tells the application what its own calls from outside of callbacks led to.
    pub fn deliver_events(&mut self, app: &mut dyn Application) {
        self.deliver(app);
    }
}

/// The application of a connection, as the protocol sees it.
///
/// Callbacks never nest: what a callback does to the connection takes effect at once, and what
/// follows from it is told after the callback has returned.
pub trait Application {
    /// In-order data of a stream, a slice of the buffer that the packet arrived in. Returns how
    /// many bytes were taken. The rest is kept, and the stream stays silent until
    /// [`StreamsRef::resume_receive`]. `fin` says that `data` ends the stream; it is told once, with
    /// the last byte (or alone, with no data).
    fn data(
        &mut self,
        connection: &mut Connection,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize;

    /// Anything else.
    fn event(&mut self, connection: &mut Connection, event: Event);
}

#[cfg(test)]
mod tests;
