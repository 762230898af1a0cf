//! Messages between threads, datagrams aside: the commands in a worker's inbox, and their errors.
//!
//! [`Command`]s come from handles, from closures of other threads, and from the registration. The
//! registration's are [`Control`]s: a worker hands them to the loop that turns it. A message carries
//! handlers, and closures over the references of `api/`; so the two modules import each other.

use super::address::{Address, Home, Key, OwnedAddress};
use super::api::{Acceptor, Answer, Belongings, ConnectionRef, Entry, Handler, WorkerRef};
use super::config::ClientConfig;
use super::handoff::{Fleet, Inbox};
use super::source::{OpenDatapathError, Purpose};
use super::takeover::Order;
use crate::proto::connection::{ConnectError, TransportConfig};
use crate::proto::crypto::ClientTls;
use crate::proto::endpoint::Endpoint;
use crate::proto::source::Source;
use crate::proto::streams::{ReceiveError, SendError};
use crate::time::Instant;
use crate::wire::StreamId;
use bytes::Bytes;
use crossbeam::channel::Sender;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A closure for a connection, from another thread.
pub(super) type Task = Box<dyn FnOnce(&mut ConnectionRef<'_>) + Send>;
/// A closure for a worker, from another thread.
pub(super) type WorkerTask = Box<dyn FnOnce(&mut WorkerRef<'_>) + Send>;

/// The inboxes of all workers.
pub(super) type WorkerFleet = Fleet<Command, Move>;
/// The inbox of one.
pub(super) type WorkerInbox = Inbox<Command, Move>;

/// What a handle asks of a connection.
pub(super) enum Op {
    Send {
        stream: StreamId,
        data: Bytes,
        fin: bool,
    },
    SendCopied {
        stream: StreamId,
        data: Bytes,
        fin: bool,
    },
    SendTracked {
        stream: StreamId,
        data: Bytes,
        fin: bool,
        context: u64,
    },
    Reset {
        stream: StreamId,
        code: u64,
    },
    StopSending {
        stream: StreamId,
        code: u64,
    },
    ResumeReceive {
        stream: StreamId,
    },
    Close {
        code: u64,
        reason: Bytes,
    },
    Wake {
        token: u64,
    },
    Run(Task),
    /// The answer to a client that waits for it.
    Decide(Answer),
}

/// A message in a worker's inbox.
pub(super) enum Command {
    /// For a connection.
    Connection { target: Arc<Address>, op: Op },
    /// For the worker itself.
    Worker(WorkerTask),
    /// From the registration.
    Control(Control),
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection { .. } => "Connection",
            Self::Worker(_) => "Worker",
            Self::Control(_) => "Control",
        })
    }
}

/// What workers tell each other about a connection that moves. See `exec/lane/moving.rs`.
pub(super) enum Move {
    /// The sender would give its connection `key` away, which is on the account of that source.
    Offer { from: u16, key: Key, source: Option<Source> },
    /// A place is kept for the receiver's connection `key`.
    Accept { key: Key, place: Home },
    /// There is no place for the receiver's connection `key`.
    Decline { key: Key },
    /// The connection does not come for which this place is kept.
    Cancel { place: Key },
    /// The connection.
    Arrive(Box<Transfer>),
    /// A call of a handle that was posted to the connection's former worker.
    Call { target: Arc<Address>, op: Op },
    /// There are no more such calls.
    Settled { place: Key },
    /// No id leads to the connection's former place any more.
    Release { key: Key },
}

impl fmt::Debug for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offer { .. } => "Offer",
            Self::Accept { .. } => "Accept",
            Self::Decline { .. } => "Decline",
            Self::Cancel { .. } => "Cancel",
            Self::Arrive(_) => "Arrive",
            Self::Call { .. } => "Call",
            Self::Settled { .. } => "Settled",
            Self::Release { .. } => "Release",
        })
    }
}

/// A connection between two workers. No one reaches it.
pub(super) struct Transfer {
    /// Where it comes from.
    pub(super) former: Home,
    /// The place that is kept for it.
    pub(super) place: Key,
    /// `None` once it has arrived.
    pub(super) entry: Option<Box<Entry>>,
    pub(super) belongings: Belongings,
    /// The time of the worker that it left. Its new one's must not be before.
    pub(super) left_at: Instant,
}

/// What a registration asks of a worker, or a callback that begins a connection. The worker hands it
/// to the loop that turns it, which carries it out between two turns.
pub(super) enum Control {
    /// Open an address, and answer with the address that the kernel chose.
    Open {
        address: SocketAddr,
        purpose: Purpose,
        reply: Sender<Result<SocketAddr, OpenDatapathError>>,
    },
    /// Accept connections.
    Listen(Box<Listener>),
    /// Accept no more for the listener of this number.
    StopListening(u32),
    /// Begin a connection; the port to send from is opened first, if need be.
    Connect(Box<ConnectRequest>),
    /// Close all connections with this code. The worker ends when they are gone, or at this time.
    Finish { code: u64, until: Instant },
    /// Another process takes over.
    Takeover(Order),
}

/// A connection to be made to a server.
pub(super) struct ConnectRequest {
    /// The server.
    pub(super) remote: SocketAddr,
    pub(super) server_name: String,
    pub(super) transport: Arc<TransportConfig>,
    pub(super) tls: Arc<ClientTls>,
    pub(super) token: Vec<u8>,
    pub(super) handler: Box<dyn Handler>,
    /// The datapath to send through, by number.
    pub(super) datapath: usize,
    /// Our address.
    pub(super) local: SocketAddr,
    /// The address in the handle that was given out.
    pub(super) address: OwnedAddress,
}

impl ConnectRequest {
    pub(super) fn new(
        remote: SocketAddr,
        server_name: &str,
        config: &ClientConfig,
        handler: Box<dyn Handler>,
        address: Arc<Address>,
    ) -> Self {
        let any = match remote {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Self {
            remote,
            server_name: server_name.to_owned(),
            transport: config.transport.clone(),
            tls: config.tls.clone(),
            token: config.token.clone(),
            handler,
            datapath: 0,
            local: SocketAddr::new(any, 0),
            address: OwnedAddress::new(address),
        }
    }
}

/// Why a connection could not be made.
#[derive(Debug)]
pub enum ConnectFailure {
    /// The worker's table is full.
    TableFull,
    /// There is no socket to send from, or no route.
    Datapath(OpenDatapathError),
    /// The protocol refused the settings.
    Protocol(ConnectError),
    /// A client that was let wait ([`NewConnection::defer`](super::NewConnection::defer)) had gone, its
    /// handshake had taken too long, or its listener had stopped, when the answer came.
    ClientGone,
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TableFull => f.write_str(
                "the worker's table has no place for another connection: raise LaneLimits::connections",
            ),
            Self::Datapath(error) => error.fmt(f),
            Self::Protocol(error) => error.fmt(f),
            Self::ClientGone => f.write_str(
                "the client did not wait for its answer: answer sooner, or raise \
                 TransportConfig::handshake_timeout of its listener",
            ),
        }
    }
}

impl std::error::Error for ConnectFailure {}

/// One listener's part on one worker.
pub(super) struct Listener {
    /// The same number on every worker.
    pub(super) id: u32,
    /// The datapath that receives for it.
    pub(super) datapath: usize,
    /// The address, whose IP may be unspecified.
    pub(super) local: SocketAddr,
    /// True once the listener was dropped: set at once, since the command to remove this part may be
    /// late, or lost.
    pub(super) over: Arc<AtomicBool>,
    /// True while new connections are refused: by this listener, by the registration.
    pub(super) refusing: [Arc<AtomicBool>; 2],
    pub(super) endpoint: Endpoint,
    pub(super) acceptor: Arc<dyn Acceptor>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("id", &self.id)
            .field("datapath", &self.datapath)
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

/// A posted call that could not be carried out when its turn came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// [`Handle::send`](super::Handle::send) or [`Handle::reset`](super::Handle::reset).
    Send {
        /// The stream.
        stream: StreamId,
        /// Why not.
        error: SendError,
    },
    /// [`Handle::stop_sending`](super::Handle::stop_sending) or [`Handle::resume_receive`](super::Handle::resume_receive).
    Receive {
        /// The stream.
        stream: StreamId,
        /// Why not.
        error: ReceiveError,
    },
}
