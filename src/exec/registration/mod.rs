//! The front door: workers, listeners, connections.
//!
//! A [`Registration`] is a set of workers with one configuration, as in MsQuic. From it come
//! listeners and connections:
//!
//! ```text
//!   Registration --listen--> Listener   accepts on all workers in parallel
//!        |        --connect-> Handle    a connection on one worker
//!        |
//!        +-- worker 0: thread, queue 0, table, timers, inbox
//!        +-- worker 1: thread, queue 1, table, timers, inbox
//! ```

mod addresses;
mod handover;
mod listener;
mod offer;
mod relays;
mod run;
mod seating;
mod start;
mod watching;

pub use listener::{ListenError, Listener};
pub use offer::{Offer, OfferError, TakenOver};
pub use run::{Next, Progress, Wait, WorkerLoop};
pub use start::{OpenError, WorkerSeed};

use super::address::Address;
use super::api::{Handle, HandleError, Handler, WaitError, WorkerRef, wait_for};
use super::clock::Clock;
use super::config::{ClientConfig, Profile, RegistrationConfig};
use super::handoff::PostError;
use super::message::{Command, ConnectRequest, Control, WorkerFleet};
use super::source::Source;
use super::status::{Board, WorkerStatus};
use super::takeover::{Identity, Inheritance, TakeoverError, TookOver};
use crate::datapath::headers::VerdictCounters;
use crate::proto::token::UsedTokens;
use crate::time::Instant;
use crate::topology::Note;
use crate::topology::survey::server::DeviceChanges;
use start::Secrets;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use watching::Watching;

/// One process at a time may take over, and only one does.
#[derive(Default)]
struct Succession {
    under_way: Mutex<()>,
    taken_over: AtomicBool,
}

/// What the registration, its listeners and its workers share.
struct Shared {
    fleet: Arc<WorkerFleet>,
    boards: Arc<[Arc<Board>]>,
    source: Source,
    secrets: Secrets,
    used_tokens: UsedTokens,
    /// What a process that takes over has to agree on.
    identity: Identity,
    /// From the process that this one took over from.
    inheritance: Option<Arc<Inheritance>>,
    profile: Profile,
    succession: Succession,
    /// All listeners refuse new connections.
    refusing: Arc<AtomicBool>,
    next_listener: AtomicU32,
    next_worker: AtomicUsize,
    notes: Vec<Note>,
    /// Changes of the device; `None` without one, or if they cannot be heard.
    watching: Option<Mutex<Watching>>,
    /// Addresses that have a listener, or are about to. A worker may want this lock, to drop a
    /// listener: so a thread that holds it must not wait, least of all for a worker.
    listening: Mutex<Vec<SocketAddr>>,
    /// Addresses that a worker has a socket on, which it keeps: not to be claimed again.
    opened: Mutex<Vec<SocketAddr>>,
}

impl Shared {
    fn listening(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A set of workers with one configuration. Dropping it closes every connection.
///
/// An echo server:
///
/// ```no_run
/// use bytes::Bytes;
/// use quiclane::exec::{ConnectionRef, Handler, Registration, RegistrationConfig, ServerConfig};
/// use quiclane::{ServerTls, StreamId};
///
/// struct Echo;
///
/// impl Handler for Echo {
///     fn stream_data(
///         &mut self,
///         connection: &mut ConnectionRef<'_>,
///         stream: StreamId,
///         data: &[u8],
///         fin: bool,
///     ) -> usize {
///         // Fails only if the peer does not want an answer.
///         let _ = connection.streams().send(stream, Bytes::copy_from_slice(data), fin);
///         data.len()
///     }
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let tls = ServerTls::builder()
///         .certificate_pem(&std::fs::read("cert.pem")?, &std::fs::read("key.pem")?)?
///         .alpn(["echo"])
///         .build()?;
///     // AF_XDP: a worker for each queue, pinned beside the device.
///     let registration = Registration::open(RegistrationConfig::xdp("eth0"))?;
///     let config = ServerConfig::new(tls);
///     let _listener = registration
///         .listen("0.0.0.0:4433".parse()?, &config, |_new| Some(Box::new(Echo)))?;
///     loop {
///         std::thread::park();
///     }
/// }
/// ```
pub struct Registration {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// The threads of the queues, if workers are not that themselves. They end after their workers.
    relays: Vec<JoinHandle<()>>,
    clock: Clock,
    /// The workers were told to end.
    is_over: bool,
}

/// The status of the workers of a [`Registration`], for any thread. Cheap to clone; it holds
/// nothing open, and shows the last state once the workers have ended.
#[derive(Clone, Debug)]
pub struct Monitor {
    boards: Arc<[Arc<Board>]>,
}

impl Monitor {
    /// As [`Registration::status`].
    #[must_use]
    pub fn status(&self) -> Vec<WorkerStatus> {
        let row = |(number, board): (usize, &Arc<Board>)| WorkerStatus::new(number, board);
        self.boards.iter().enumerate().map(row).collect()
    }
}

/// How often a shutdown looks whether workers have ended.
const JOIN_STEP: Duration = Duration::from_micros(200);

/// How a shutdown went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Connections that had not finished closing when time was up, on the workers that were waited for.
    pub abandoned: u64,
    /// Workers that did not end: stuck in a callback.
    pub stuck: usize,
    /// The worker on whose own thread the shutdown was called, in a callback or between turns. It
    /// cannot be waited for: it has the order to end, and carries it out when the callback has returned.
    /// By then `patience` may be over, and its connections send their close and are forgotten at once.
    /// It is in neither of the other counts.
    pub caller: Option<usize>,
}

impl Registration {
    /// Places and starts the workers, each on a thread of its own, and opens their queues.
    ///
    /// # Errors
    /// [`OpenError`] says what is missing and what to do about it.
    pub fn open(config: RegistrationConfig) -> Result<Self, OpenError> {
        let (mut registration, seeds) = start::prepare(config)?;
        registration.threads = start::spawn(seeds)?;
        Ok(registration)
    }

    /// As [`open`](Self::open), without threads: the application starts each worker on a thread
    /// of its own with [`WorkerSeed::start`], and turns it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_without_threads(
        config: RegistrationConfig,
    ) -> Result<(Self, Vec<WorkerSeed>), OpenError> {
        start::prepare(config)
    }

    /// The process that this one took over from; `None` if it began by itself.
    #[must_use]
    pub fn took_over(&self) -> Option<&TookOver> {
        Some(&self.shared.inheritance.as_ref()?.from)
    }

    /// Call it once all listeners are there: the process that was taken over from accepts no connection any
    /// more. Until then it gets those that no listener here is for, and if this process ends it serves on as
    /// if nothing had happened. Without a takeover nothing happens.
    ///
    /// # Errors
    /// That process does not answer: it may have died, or it goes on by itself.
    pub fn complete_takeover(&self) -> Result<(), TakeoverError> {
        let Some(inheritance) = &self.shared.inheritance else { return Ok(()) };
        inheritance.complete()?;
        if let Some(predecessors) = self.shared.fleet.predecessors() {
            predecessors.complete();
        }
        Ok(())
    }

    /// How many workers there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.shared.fleet.len()
    }

    /// Notes for the operator on where the workers were placed.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.shared.notes
    }

    /// The status and counters of every worker. Those of a busy worker are at most 50 ms old.
    #[must_use]
    pub fn status(&self) -> Vec<WorkerStatus> {
        self.monitor().status()
    }

    /// Reads the status from elsewhere: from another thread, or in a callback.
    #[must_use]
    pub fn monitor(&self) -> Monitor {
        Monitor { boards: self.shared.boards.clone() }
    }

    /// What the XDP program did with the frames of the device, by reason, since it was attached:
    /// handed to a worker, passed to the kernel, dropped. `None` without a device.
    #[must_use]
    pub fn verdicts(&self) -> Option<VerdictCounters> {
        self.shared.source.verdicts()
    }

    /// How often the device was changed by others since the start: its indirection table, its queues.
    /// Each change that was heard since the last call is logged. Call it now and then, about once a
    /// second: the kernel keeps what it tells meanwhile. `None` without a device, or if the kernel does
    /// not tell.
    #[must_use]
    pub fn device_changes(&self) -> Option<DeviceChanges> {
        let watching = self.shared.watching.as_ref()?;
        Some(watching.lock().unwrap_or_else(PoisonError::into_inner).hear())
    }

    /// Whether all listeners refuse new connections from now on, as
    /// [`Listener::refuse_new`](Listener::refuse_new) for each.
    pub fn refuse_new(&self, refuses: bool) {
        self.shared.refusing.store(refuses, Ordering::Relaxed);
    }

    /// Begins a connection to `remote`, which has to prove that it is `server_name`. Workers
    /// take turns. The handler is called on the worker's thread.
    ///
    /// # Errors
    /// The worker's inbox is full, or it has ended.
    pub fn connect(
        &self,
        remote: SocketAddr,
        server_name: &str,
        config: &ClientConfig,
        handler: impl Handler,
    ) -> Result<Handle, HandleError> {
        let next = self.shared.next_worker.fetch_add(1, Ordering::Relaxed);
        self.connect_on(next % self.workers(), remote, server_name, config, handler)
    }

    /// As [`connect`](Self::connect), on the worker of that number.
    ///
    /// # Errors
    /// As [`connect`](Self::connect); also if there is no such worker.
    pub fn connect_on(
        &self,
        worker: usize,
        remote: SocketAddr,
        server_name: &str,
        config: &ClientConfig,
        handler: impl Handler,
    ) -> Result<Handle, HandleError> {
        let inbox = self.shared.fleet.inbox(worker).ok_or(HandleError::Closed)?;
        let address = Address::pending(worker as u16);
        let request =
            ConnectRequest::new(remote, server_name, config, Box::new(handler), address.clone());
        inbox.post(Command::Control(Control::Connect(Box::new(request))))?;
        Ok(Handle::new(address, self.shared.fleet.clone()))
    }

    /// Has `task` run on a worker's thread.
    ///
    /// # Errors
    /// The worker's inbox is full, or it has ended, or there is no such worker.
    pub fn on_worker(
        &self,
        worker: usize,
        task: impl FnOnce(&mut WorkerRef<'_>) + Send + 'static,
    ) -> Result<(), HandleError> {
        let inbox = self.shared.fleet.inbox(worker).ok_or(HandleError::Closed)?;
        Ok(inbox.post(Command::Worker(Box::new(task)))?)
    }

    /// As [`on_worker`](Self::on_worker), and waits for what `task` returns. For threads that turn no
    /// worker. A worker that the application turns has to be turned meanwhile.
    ///
    /// # Errors
    /// [`WaitError`]; at once, and before anything is posted, on a worker's thread.
    pub fn on_worker_and_wait<T: Send + 'static>(
        &self,
        worker: usize,
        task: impl FnOnce(&mut WorkerRef<'_>) -> T + Send + 'static,
    ) -> Result<T, WaitError> {
        wait_for(|reply| self.on_worker(worker, move |worker| drop(reply.send(task(worker)))))
    }

    /// Closes every connection with an application code, and waits until all are gone, but no
    /// longer than `patience`; then the workers end. Connections take a few round trips to
    /// close: their last packet may be lost. A worker that is stuck in a callback is waited for
    /// a second longer ([`STUCK_PATIENCE`](Self::STUCK_PATIENCE)) and then left behind.
    ///
    /// A callback may call it, or drop the registration: the worker that it runs on is not waited for
    /// ([`ShutdownReport::caller`]), and stands still as long as the others are. An inbox that is full
    /// has room for this order.
    ///
    /// Workers that an application turns itself get the order, and are not waited for; the report says
    /// nothing of them.
    pub fn shutdown(mut self, code: u64, patience: Duration) -> ShutdownReport {
        self.finish(code, patience)
    }

    /// The time that a worker gets to end after its connections have: more than any turn takes on
    /// a machine that is overloaded, and a short wait for an operator who stops the process.
    pub const STUCK_PATIENCE: Duration = Duration::from_secs(1);

    fn finish(&mut self, code: u64, patience: Duration) -> ShutdownReport {
        self.is_over = true;
        let until = self.clock.now() + patience;
        let last = until + Self::STUCK_PATIENCE;
        for worker in 0..self.workers() {
            self.post_until(last, worker, || Control::Finish { code, until });
        }
        let mut report = ShutdownReport::default();
        let mut running = std::mem::take(&mut self.threads);
        if running.is_empty() {
            return report;
        }
        // Threads stand in the order of their workers.
        let own = std::thread::current().id();
        report.caller = running.iter().position(|thread| thread.thread().id() == own);
        if let Some(caller) = report.caller {
            running.remove(caller);
        }
        report.stuck += self.join_until(last, running);
        if report.stuck == 0 && report.caller.is_none() {
            // What they have sent is to leave. No worker is left in them.
            let relays = std::mem::take(&mut self.relays);
            self.join_until(last, relays);
        }
        let waited_for = self.shared.boards.iter().enumerate();
        report.abandoned = waited_for
            .filter(|(worker, _)| report.caller != Some(*worker))
            .map(|(_, board)| board.read().lane.connections)
            .sum();
        report
    }

    /// Waits for threads. Returns how many did not end, or panicked.
    fn join_until(&self, last: Instant, mut running: Vec<JoinHandle<()>>) -> usize {
        let mut stuck = 0;
        loop {
            let (ended, left): (Vec<_>, Vec<_>) =
                running.into_iter().partition(JoinHandle::is_finished);
            stuck += ended.into_iter().filter_map(|thread| thread.join().err()).count();
            running = left;
            if running.is_empty() || self.clock.now() >= last {
                break;
            }
            std::thread::sleep(JOIN_STEP);
        }
        stuck + running.len()
    }

    /// Posts to a worker whose inbox may be full just now. Tries until the worker must be stuck.
    fn post_until(&self, last: Instant, worker: usize, control: impl Fn() -> Control) {
        let Some(inbox) = self.shared.fleet.inbox(worker) else { return };
        while inbox.post_last(Command::Control(control())) == Err(PostError::Full)
            && self.clock.now() < last
        {
            std::thread::yield_now();
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if !self.is_over {
            self.finish(0, Duration::ZERO);
        }
    }
}

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registration").field("workers", &self.workers()).finish_non_exhaustive()
    }
}
