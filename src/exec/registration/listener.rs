//! Accepting connections.

use super::super::api::{Acceptor, Decision, Handler, NewConnection, on_worker_thread};
use super::super::config::ServerConfig;
use super::super::message::{self, Command, Control};
use super::super::pressure::Pressure;
use super::super::source::{OpenDatapathError, Purpose};
use super::{Registration, Shared, WorkerLoop};
use crate::datapath::udp::SideSocket;
use crate::proto::endpoint::Endpoint;
use crossbeam::channel::{self, RecvTimeoutError};
use std::fmt;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Why a listener could not be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum ListenError {
    /// No client can reach the server at this address, which its settings say that it prefers
    /// (`TransportConfig::preferred_v4`, `preferred_v6`).
    Preferred(SocketAddr),
    /// This registration has a listener on the address already.
    Taken(SocketAddr),
    /// The address cannot be bound, most likely since another process has it.
    Address(OpenDatapathError),
    /// A worker could not open the address.
    Datapath {
        /// The worker.
        worker: usize,
        /// Why.
        error: OpenDatapathError,
    },
    /// The device could not be told to steer the address to the workers.
    Steering(OpenDatapathError),
    /// A worker's inbox is full, or it has ended, or the application does not turn it.
    Worker(usize),
    /// Called on a worker's thread, which cannot wait for itself: call it elsewhere.
    OnWorkerThread,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preferred(address) => {
                let setting = if address.is_ipv4() { "preferred_v4" } else { "preferred_v6" };
                write!(
                    f,
                    "no client can reach the server at {address}, which {setting} names: name an address of \
                     one host and a port, or set it to None"
                )
            }
            Self::Taken(address) => {
                write!(f, "this registration has a listener on {address} already: drop it first")
            }
            Self::Datapath { worker, error } => write!(f, "worker {worker}: {error}"),
            Self::Address(error) | Self::Steering(error) => error.fmt(f),
            Self::Worker(worker) => write!(
                f,
                "worker {worker} does not answer: its inbox is full (try again), it has ended, or the \
                 application does not turn it"
            ),
            Self::OnWorkerThread => f.write_str(
                "a worker's thread cannot wait for itself: listen on another thread, or with \
                     Registration::listen_turning",
            ),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Datapath { error, .. } | Self::Address(error) | Self::Steering(error) => {
                Some(error)
            }
            Self::Preferred(_) | Self::Taken(_) | Self::Worker(_) | Self::OnWorkerThread => None,
        }
    }
}

/// Accepts connections on all workers, until it is dropped. The connections that it has
/// accepted go on.
#[must_use = "a listener stops when it is dropped"]
pub struct Listener {
    reservation: Reservation,
    id: u32,
    /// Shared with its parts on the workers.
    over: Arc<AtomicBool>,
    refusing: Arc<AtomicBool>,
}

/// An address that no other listener of the registration gets until this is dropped.
struct Reservation {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Reservation {
    fn new(shared: &Arc<Shared>, address: SocketAddr) -> Result<Self, ListenError> {
        let mut listening = shared.listening();
        if listening.contains(&address) {
            return Err(ListenError::Taken(address));
        }
        listening.push(address);
        Ok(Self { shared: shared.clone(), address })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shared.listening().retain(|address| *address != self.address);
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("id", &self.id)
            .field("local", &self.local_addr())
            .finish_non_exhaustive()
    }
}

impl Listener {
    /// The address, with the port that the kernel chose if it was to choose.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.reservation.address
    }

    /// Whether clients that begin a connection are refused from now on, with CONNECTION_REFUSED
    /// (RFC 9000 §20.1), up to [`AnswerLimits::refusals`](crate::AnswerLimits::refusals) in a second.
    /// Connections that exist go on, handshakes under way too. The port stays taken: nothing reaches a
    /// program that would answer otherwise.
    pub fn refuse_new(&self, refuses: bool) {
        self.refusing.store(refuses, Ordering::Relaxed);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Before the address is free again: of two listeners there, one is over.
        self.over.store(true, Ordering::Relaxed);
        let fleet = &self.reservation.shared.fleet;
        for worker in 0..fleet.len() {
            if let Some(inbox) = fleet.inbox(worker) {
                // A full inbox: the worker keeps a part that accepts nothing for a while.
                let _ = inbox.post_last(Command::Control(Control::StopListening(self.id)));
            }
        }
    }
}

/// Tells an acceptor that its listener has stopped, once no worker has a part of it.
struct Stopping<A: Acceptor>(A);

impl<A: Acceptor> Acceptor for Stopping<A> {
    fn accept(&self, client: &NewConnection<'_>) -> Decision {
        self.0.accept(client)
    }

    fn pressure_changed(&self, worker: usize, pressure: Pressure) {
        self.0.pressure_changed(worker, pressure);
    }
}

impl<A: Acceptor> Drop for Stopping<A> {
    fn drop(&mut self) {
        // What it panics with would end the worker.
        if std::panic::catch_unwind(AssertUnwindSafe(|| self.0.stopped())).is_err() {
            tracing::error!("an acceptor panicked as it was told that its listener has stopped");
        }
    }
}

/// How long the answer of a worker that another thread turns is waited for before one's own loops are
/// turned again.
const ANSWER_PAUSE: Duration = Duration::from_millis(1);

impl Registration {
    /// Accepts connections to `address` on all workers. `acceptor` is called for each on the
    /// thread of the worker that will own it, on all of them in parallel; it gives the
    /// connection's application, or `None` to turn the client away.
    ///
    /// Returns when every worker listens. With [`open_without_threads`] the workers have to be
    /// turned meanwhile.
    ///
    /// [`open_without_threads`]: Self::open_without_threads
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn listen(
        &self,
        address: SocketAddr,
        config: &ServerConfig,
        acceptor: impl Fn(&NewConnection<'_>) -> Option<Box<dyn Handler>> + Send + Sync + 'static,
    ) -> Result<Listener, ListenError> {
        self.listen_with_acceptor(&mut [], address, config, acceptor)
    }

    /// As [`listen`](Self::listen), for an application whose one thread turns `loops`: they are turned
    /// until all workers have answered. Workers that are not among them have to be turned by other
    /// threads. When it returns, the next wait on the descriptor of a loop returns at once.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn listen_turning(
        &self,
        loops: &mut [WorkerLoop],
        address: SocketAddr,
        config: &ServerConfig,
        acceptor: impl Fn(&NewConnection<'_>) -> Option<Box<dyn Handler>> + Send + Sync + 'static,
    ) -> Result<Listener, ListenError> {
        self.listen_with_acceptor(loops, address, config, acceptor)
    }

    /// As [`listen`](Self::listen), for an application that looks at what clients ask for, chooses a
    /// configuration for each, takes its time to answer, or wants to know when the listener has
    /// stopped. `loops` as for [`listen_turning`](Self::listen_turning); it may be empty.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn listen_with_acceptor(
        &self,
        loops: &mut [WorkerLoop],
        address: SocketAddr,
        config: &ServerConfig,
        acceptor: impl Acceptor,
    ) -> Result<Listener, ListenError> {
        if loops.is_empty() && on_worker_thread() {
            return Err(ListenError::OnWorkerThread);
        }
        let listener = self.listen_with(loops, address, config, Arc::new(Stopping(acceptor)));
        loops.iter_mut().for_each(WorkerLoop::catch_up);
        listener
    }

    fn listen_with(
        &self,
        loops: &mut [WorkerLoop],
        address: SocketAddr,
        config: &ServerConfig,
        acceptor: Arc<dyn Acceptor>,
    ) -> Result<Listener, ListenError> {
        if let Some(address) = config.transport.unreachable_preferred() {
            return Err(ListenError::Preferred(address));
        }
        let reservation = self.open_everywhere(loops, address)?;
        let local = reservation.address;
        let id = self.shared.next_listener.fetch_add(1, Ordering::Relaxed);
        // From here on dropping it undoes what has been done.
        let listener = Listener { reservation, id, over: Arc::default(), refusing: Arc::default() };
        for worker in 0..self.workers() {
            let part = message::Listener {
                id,
                datapath: 0,
                local,
                over: listener.over.clone(),
                refusing: [listener.refusing.clone(), self.shared.refusing.clone()],
                endpoint: Endpoint::new(
                    config.transport.clone(),
                    config.tls.clone(),
                    self.shared.secrets.tokens(&self.shared.used_tokens),
                    self.shared.secrets.reset_key(),
                    config.retry,
                )
                .limited(&config.answers)
                .with_health(config.health.clone()),
                acceptor: acceptor.clone(),
            };
            self.ask(worker, Control::Listen(Box::new(part)))?;
        }
        self.shared.source.steer(local).map_err(ListenError::Steering)?;
        tracing::info!(%local, workers = self.workers(), "listening");
        Ok(listener)
    }

    /// Checks that a server could listen on an address, before [`open`](Self::open) touches a
    /// device: attaching to it makes some drivers reset their queues. A port that is in use is
    /// waited for, as in [`listen`](Self::listen).
    ///
    /// # Errors
    /// Another process has the port, or the address is not of this machine.
    pub fn check_address(address: SocketAddr) -> Result<(), ListenError> {
        let claimed = SideSocket::claim(address, None);
        claimed.map(drop).map_err(|error| ListenError::Address(OpenDatapathError::Udp(error)))
    }

    /// Opens `address` on every worker. The address is reserved first, so that no other listener
    /// finds it half open.
    fn open_everywhere(
        &self,
        loops: &mut [WorkerLoop],
        address: SocketAddr,
    ) -> Result<Reservation, ListenError> {
        let claim = || self.shared.source.claim(address).map_err(ListenError::Address);
        let (reservation, claimed) = if address.port() == 0 {
            let claimed = claim()?;
            (Reservation::new(&self.shared, claimed.local_addr())?, Some(claimed))
        } else {
            let reservation = Reservation::new(&self.shared, address)?;
            let ours = self.shared.opened().contains(&address);
            (reservation, if ours { None } else { Some(claim()?) })
        };
        let local = reservation.address;
        for worker in 0..self.workers() {
            self.open_on(worker, loops, local)?;
            let mut opened = self.shared.opened();
            if !opened.contains(&local) {
                opened.push(local);
            }
        }
        drop(claimed); // Until here it held the port, for workers to join.
        Ok(reservation)
    }

    fn open_on(
        &self,
        worker: usize,
        loops: &mut [WorkerLoop],
        address: SocketAddr,
    ) -> Result<(), ListenError> {
        let (reply, answer) = channel::bounded(1);
        self.ask(worker, Control::Open { address, purpose: Purpose::Listen, reply })?;
        let is_own = loops.iter().any(|own| own.is_worker(&self.shared.fleet, worker));
        // Another thread may wait for the loops of this one: they are turned meanwhile.
        let pause = if is_own { Duration::ZERO } else { ANSWER_PAUSE };
        let answered = match loops {
            [] => answer.recv().ok(),
            _ => loop {
                for own in &mut *loops {
                    own.turn_and_sleep(Some(Duration::ZERO));
                }
                match answer.recv_timeout(pause) {
                    Err(RecvTimeoutError::Timeout) => {}
                    other => break other.ok(),
                }
            },
        };
        match answered {
            Some(opened) => {
                opened.map(drop).map_err(|error| ListenError::Datapath { worker, error })
            }
            None => Err(ListenError::Worker(worker)),
        }
    }

    fn ask(&self, worker: usize, control: Control) -> Result<(), ListenError> {
        let inbox = self.shared.fleet.inbox(worker).ok_or(ListenError::Worker(worker))?;
        inbox.post(Command::Control(control)).map_err(|_| ListenError::Worker(worker))
    }
}
