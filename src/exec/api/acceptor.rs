//! The application's side of a listener: which clients get a connection, and of what kind.
//!
//! A listener asks its [`Acceptor`] about each client once the client has said what it asks for: the
//! name of the host, the application protocols, all of its ClientHello. Until then, and until there
//! is an answer, the client costs a place among the handshakes, 5 kB, and no TLS session.
//!
//! ```text
//! first datagrams -> Acceptor::accept -> Accept, AcceptWith -> Handler::connected, ..
//!                          |       `---> Refuse, RefuseWithAlert: the client is told
//!                          v
//!                        Later: Deferred::answer, from any thread
//! ```

use super::super::address::{Address, Key};
use super::super::config::ServerConfig;
use super::super::message::WorkerFleet;
use super::super::pressure::Pressure;
use super::handle::{Handle, HandleError};
use super::handler::Handler;
use crate::wire::ClientHello;
use crossbeam::queue::ArrayQueue;
use std::cell::Cell;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Decides about new connections.
///
/// One value serves all workers of a listener, and is called on their threads, in parallel. A closure
/// that gives a handler, or `None` to turn the client away, is an acceptor too.
pub trait Acceptor: Send + Sync + 'static {
    /// A client wants a connection. Its address may be forged.
    fn accept(&self, client: &NewConnection<'_>) -> Decision;

    /// A worker treats new connections otherwise from now on, for reasons of load. Called on the
    /// worker's thread, between two turns.
    fn pressure_changed(&self, _worker: usize, _pressure: Pressure) {}

    /// The listener has stopped on all workers, or they have ended: nothing more is accepted. The last
    /// callback, on the thread of the worker that stopped last.
    fn stopped(&self) {}
}

impl<F> Acceptor for F
where
    F: Fn(&NewConnection<'_>) -> Option<Box<dyn Handler>> + Send + Sync + 'static,
{
    fn accept(&self, client: &NewConnection<'_>) -> Decision {
        self(client).map_or(Decision::Refuse, Decision::Accept)
    }
}

/// What becomes of a client.
pub enum Decision {
    /// A connection with the listener's configuration, and this application.
    Accept(Box<dyn Handler>),
    /// A connection with another configuration: of it, [`tls`](ServerConfig::tls) and
    /// [`transport`](ServerConfig::transport) count; Retry and answers without state are the listener's.
    /// A configuration with a preferred address that no client can reach turns the client away, and the
    /// application is dropped untold.
    AcceptWith(Box<dyn Handler>, ServerConfig),
    /// The client is told CONNECTION_REFUSED (RFC 9000 §20.1).
    Refuse,
    /// The client is told a TLS alert: 112 for a name that is not served here (`unrecognized_name`),
    /// 120 for protocols that are not spoken (`no_application_protocol`).
    RefuseWithAlert(u8),
    /// [`NewConnection::defer`] was called: what it gave will answer. Without that, and as an answer, it
    /// is [`Refuse`](Self::Refuse).
    Later,
}

impl Decision {
    /// [`Accept`](Self::Accept) with this application.
    #[must_use]
    pub fn accept(handler: impl Handler) -> Self {
        Self::Accept(Box::new(handler))
    }
}

impl fmt::Debug for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept(_) => f.write_str("Accept"),
            Self::AcceptWith(..) => f.write_str("AcceptWith"),
            Self::Refuse => f.write_str("Refuse"),
            Self::RefuseWithAlert(number) => write!(f, "RefuseWithAlert({number})"),
            Self::Later => f.write_str("Later"),
        }
    }
}

/// A client that begins a connection.
pub struct NewConnection<'a> {
    /// The client's address. It may be forged until the handshake is done.
    pub remote: SocketAddr,
    /// The address that it wrote to.
    pub local: SocketAddr,
    /// The worker that will own the connection.
    pub worker: usize,
    /// The version of QUIC.
    pub version: u32,
    /// A token has proved the client's address (RFC 9000 §8.1).
    pub address_validated: bool,
    pub(in crate::exec) hello: ClientHello<'a>,
    pub(in crate::exec) key: Key,
    pub(in crate::exec) fleet: &'a Arc<WorkerFleet>,
    /// Set by [`defer`](Self::defer).
    pub(in crate::exec) deferred: Cell<Option<Arc<Address>>>,
}

impl fmt::Debug for NewConnection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewConnection")
            .field("remote", &self.remote)
            .field("local", &self.local)
            .field("worker", &self.worker)
            .field("server_name", &self.server_name())
            .finish_non_exhaustive()
    }
}

impl NewConnection<'_> {
    /// The host that the client wants to reach, as it wrote it (RFC 6066 §3).
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.hello.server_name()
    }

    /// The application protocols that it offers, the preferred one first (RFC 7301).
    pub fn protocols(&self) -> impl Iterator<Item = &[u8]> {
        self.hello.protocols()
    }

    /// The bytes of its ClientHello (RFC 8446 §4.1.2): for a fingerprint, or for a reader of one's own.
    #[must_use]
    pub fn client_hello(&self) -> &[u8] {
        self.hello.message()
    }

    /// What will answer later: the acceptor returns [`Decision::Later`] then. The client waits, for as
    /// long as a handshake may take
    /// ([`TransportConfig::handshake_timeout`](crate::TransportConfig::handshake_timeout)).
    #[must_use]
    pub fn defer(&self) -> Deferred {
        let address = self.deferred.take();
        let address = address.unwrap_or_else(|| Address::at(self.worker as u16, self.key));
        self.deferred.set(Some(address.clone()));
        Deferred { address, fleet: self.fleet.clone(), answered: false }
    }
}

/// An answer on its way to the worker, which takes it out; or whoever could not post it does.
pub(in crate::exec) type Answer = Arc<ArrayQueue<Decision>>;

/// A client that waits for an answer, from any thread. Dropped, it turns the client away.
pub struct Deferred {
    address: Arc<Address>,
    fleet: Arc<WorkerFleet>,
    answered: bool,
}

/// An answer that could not be posted.
#[derive(Debug)]
pub struct Unanswered {
    /// Still waits.
    pub deferred: Deferred,
    /// What was not posted.
    pub decision: Decision,
    /// Why not. [`HandleError::Closed`]: the client has gone, or has waited too long.
    pub error: HandleError,
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a client is not answered: {}", self.error)
    }
}

impl std::error::Error for Unanswered {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl fmt::Debug for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deferred").field("place", &self.address.place()).finish_non_exhaustive()
    }
}

impl Deferred {
    /// Answers. The handle reaches the connection once it has its application.
    ///
    /// # Errors
    /// [`Unanswered`], with all that is needed to try again.
    pub fn answer(mut self, decision: Decision) -> Result<Handle, Box<Unanswered>> {
        let answer = Answer::new(ArrayQueue::new(1));
        // It is empty.
        let _ = answer.push(decision);
        let handle = Handle::new(self.address.clone(), self.fleet.clone());
        let Err(error) = handle.decide(answer.clone(), false) else {
            self.answered = true;
            return Ok(handle);
        };
        let decision = take(&answer);
        Err(Box::new(Unanswered { deferred: self, decision, error }))
    }

    /// True if the client does not wait any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        Handle::new(self.address.clone(), self.fleet.clone()).is_closed()
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        if !self.answered {
            let handle = Handle::new(self.address.clone(), self.fleet.clone());
            // If even this finds no room, the client waits until its handshake has taken too long.
            let _ = handle.decide(Answer::new(ArrayQueue::new(1)), true);
        }
    }
}

/// What an answer says. One without a decision turns the client away.
pub(in crate::exec) fn take(answer: &Answer) -> Decision {
    answer.pop().unwrap_or(Decision::Refuse)
}
