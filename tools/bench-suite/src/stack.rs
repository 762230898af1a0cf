//! What a QUIC stack has to do for the suite: two endpoints without I/O, and one application.
//!
//! The application is the same everywhere. A server discards what it receives and answers
//! each finished stream with [`RESPONSE_BYTES`]. A client opens a stream per request of
//! [`REQUEST_BYTES`], or keeps one stream full for ever (bulk).
//!
//! # How an endpoint is driven
//!
//! [`Endpoint::stage`] hands over a batch of datagrams, not measured; [`Endpoint::receive`]
//! processes all of them, then the application's part; [`Endpoint::transmit`] runs due timers
//! and sends. So every stack sees whole batches before it sends, and acknowledges as seldom
//! as its own policy allows.
//!
//! # Fairness
//!
//! For all: AES-128-GCM, X25519, ECDSA P-256, [`Identity`], CUBIC, no MTU discovery, no idle
//! timeout or one that never strikes, [`WINDOW_BYTES`] of flow control, [`MAX_STREAMS`]
//! streams, the largest datagram as the case says, one address per side, connection ids of
//! the stack's own default length. Settings of a single stack are in its adapter.

use std::rc::Rc;

use crate::Failure;
use crate::identity::Identity;
use crate::wire::Wire;

/// Datagrams that an endpoint gets or sends at once: `recvmmsg` of quinn's socket layer, and
/// half a burst of an AF_XDP lane.
pub(crate) const BATCH_DATAGRAMS: usize = 32;
/// Flow control of a stream and of a connection: never the limit in memory, and so large
/// that updates of it are rare.
pub(crate) const WINDOW_BYTES: u64 = 64 * 1024 * 1024;
/// Streams that a client may have open on a connection: the usual default. Not "unlimited":
/// quinn keeps an entry for each stream that its peer may open.
pub(crate) const MAX_STREAMS: u64 = 100;
/// The size of a request.
pub(crate) const REQUEST_BYTES: usize = 100;
/// The size of a response.
pub(crate) const RESPONSE_BYTES: usize = 1000;
/// The bytes that a bulk sender hands over at once.
pub(crate) const CHUNK_BYTES: usize = 256 * 1024;
/// The bytes that a bulk sender keeps in the stack's send buffer, if the stack takes them.
pub(crate) const BULK_AHEAD_BYTES: u64 = 4 * CHUNK_BYTES as u64;

/// Settings of a pair.
#[derive(Clone)]
pub(crate) struct Setup {
    /// The largest UDP payload either side sends, from the first packet on.
    pub(crate) mtu: u16,
    /// Whether clients keep tickets and use them.
    pub(crate) resume: bool,
    /// The certificate.
    pub(crate) identity: Rc<Identity>,
}

/// One side of one stack, with all its connections.
pub(crate) trait Endpoint {
    /// Takes the datagrams from the wire, in the form that the stack wants. Not measured.
    fn stage(&mut self, wire: &mut Wire);
    /// Processes what was staged, the application's part included.
    fn receive(&mut self, now_ns: u64);
    /// Runs due timers, then sends at most `budget` datagrams.
    fn transmit(&mut self, now_ns: u64, wire: &mut Wire, budget: usize);
    /// Drops every connection, without sending anything.
    fn forget_all(&mut self, now_ns: u64);
    /// Handshakes that this side completed so far.
    fn handshakes(&self) -> u64;
}

/// The side that connects.
pub(crate) trait Client: Endpoint {
    /// Opens a connection; returns its index.
    fn connect(&mut self, now_ns: u64) -> Result<usize, Failure>;
    /// Sends a request on a new stream of a connection.
    fn request(&mut self, now_ns: u64, connection: usize);
    /// Responses that arrived whole.
    fn responses(&self) -> u64;
    /// Opens a stream that is kept full from now on.
    fn start_bulk(&mut self, now_ns: u64, connection: usize);
    /// Handshakes that used a ticket.
    fn resumptions(&self) -> u64;
    /// The congestion window of a connection. Not measured.
    fn window_bytes(&mut self, connection: usize) -> u64;
}

/// The side that accepts.
pub(crate) trait Server: Endpoint {
    /// Bytes of stream data that the application got.
    fn received_bytes(&self) -> u64;
}

/// A QUIC implementation.
pub(crate) trait Stack: 'static {
    /// The name of the column in the result.
    const NAME: &'static str;
    /// The stack reads clocks itself: the suite passes real time, and waits it out.
    const REAL_TIME: bool;
    /// Its client side.
    type Client: Client;
    /// Its server side.
    type Server: Server;

    /// A client and a server, not connected.
    fn pair(setup: &Setup) -> Result<(Self::Client, Self::Server), Failure>;
}
