//! The loop of a worker's thread, or of an application that turns a worker itself.

use super::super::affinity::WorkerPlacement;
use super::super::api::{on_worker_thread, worker_begins, worker_ends};
use super::super::clock::{Clock, time_of_day};
use super::super::crowding::{Crowding, RunDelay};
use super::super::lane::guarded;
use super::super::message::{ConnectRequest, Control, WorkerFleet};
use super::super::source::{AnyDatapath, OpenDatapathError, Purpose, Source};
use super::super::status::Board;
use super::super::takeover::Inheritance;
use super::super::worker::{Turn, Worker};
use super::addresses::Leaving;
use super::relays::Line;
use crate::datapath::{Datapath, DatapathError};
use crate::proto::crypto::tell_time_of_day;
use crate::time::{Instant, MILLISECOND_NS};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// How long a worker whose datapath is lost waits before it tries again.
const LOST_PAUSE_NS: u64 = 100 * MILLISECOND_NS;

/// A worker that an application turns on a thread of its own. Made by
/// [`WorkerSeed::start`](super::WorkerSeed::start) on that thread, and bound to it.
///
/// An application that has no loop calls [`turn_and_sleep`](Self::turn_and_sleep). One that has a
/// loop of its own calls [`turn`](Self::turn), which never sleeps, and waits on the worker's descriptor
/// (`AsFd`) in that loop:
///
/// ```no_run
/// # use quiclane::exec::{Next, WorkerLoop};
/// # use std::os::fd::{AsFd, BorrowedFd};
/// # use std::time::Duration;
/// # fn poll_readable(_: BorrowedFd<'_>, _: Option<Duration>) {}
/// fn drive(mut worker: WorkerLoop) {
///     loop {
///         match worker.turn() {
///             Next::Turn => {} // Other work, if there is any.
///             // Level or edge triggered; beside other descriptors, and for less time, as you like.
///             Next::Wait(wait) => poll_readable(worker.as_fd(), wait.timeout()),
///             Next::Ended => break,
///         }
///     }
/// }
/// ```
///
/// The descriptor is the same for the life of the worker. It becomes readable when a datagram, a call
/// of another thread or a watched descriptor is there. It tells of calls of other threads only while
/// the last turn said [`Next::Wait`].
pub struct WorkerLoop {
    pub(super) worker: Worker<AnyDatapath>,
    descriptor: Arc<OwnedFd>,
    /// The last turn said that the application may wait.
    is_armed: bool,
    pub(super) clock: Clock,
    pub(super) source: Source,
    board: Arc<Board>,
    pub(super) placement: WorkerPlacement,
    occupied: Occupied,
    /// Where connections are sent from, by address family: IPv4, IPv6.
    client_addresses: [Option<SocketAddr>; 2],
    /// Addresses opened for listeners. They stay open for the connections that were accepted
    /// there.
    pub(super) listened: Vec<SocketAddr>,
    /// What this process has from the one that it took over from, until this worker has opened its part.
    inheritance: Option<Arc<Inheritance>>,
    /// To the thread of the queue, if that is another one. Dropped after the worker, whose last datagrams
    /// that thread still sends.
    line: Option<Line>,
    /// The end was asked for: no later than this.
    finish_at: Option<Instant>,
    failed: bool,
    crowding: Crowding,
    run_delay: RunDelay,
    /// Connections are to leave addresses that are gone, and nothing is heard of those yet.
    leaves_lost: bool,
    leaving: Option<Leaving>,
}

/// Whether a worker goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Turn it again.
    Running,
    /// The registration was shut down and every connection is gone: drop it.
    Ended,
}

/// What an application does after [`WorkerLoop::turn`].
#[derive(Clone, Copy, Debug)]
#[must_use = "an application that waits when it may not is not woken"]
pub enum Next {
    /// Turn again, without waiting: there is more to do, or the worker's
    /// [`Polling`](crate::exec::Polling) says that it looks again: of a worker that spins, this follows
    /// every turn. A loop with other descriptors looks at those in between, without waiting.
    Turn,
    /// Wait until the descriptor of the worker is readable, or for the time that this says. Then turn.
    /// To turn earlier costs the turn, and does no harm.
    Wait(Wait),
    /// The registration was shut down and every connection is gone: drop the worker.
    Ended,
}

/// How long an application may wait before it turns its worker again.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    until: Instant,
    clock: Clock,
}

impl Wait {
    /// The time of the next timer, on [`Clock::monotonic`]; [`Instant::NEVER`] if there is none.
    #[must_use]
    pub fn until(&self) -> Instant {
        self.until
    }

    /// How long it is until then, from now; `None` if there is no timer. A loop that counts in
    /// milliseconds should round up: an early turn finds nothing to do.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        (self.until != Instant::NEVER).then(|| self.until - self.clock.now())
    }
}

/// What a loop is made of.
pub(super) struct LoopParts {
    pub(super) worker: Worker<AnyDatapath>,
    /// Of the worker's poller.
    pub(super) descriptor: Arc<OwnedFd>,
    pub(super) clock: Clock,
    pub(super) source: Source,
    pub(super) board: Arc<Board>,
    pub(super) placement: WorkerPlacement,
    pub(super) occupied: Occupied,
    /// Connections leave addresses that are gone.
    pub(super) leaves_lost: bool,
    pub(super) inheritance: Option<Arc<Inheritance>>,
    pub(super) line: Option<Line>,
}

/// The place of a worker in its fleet. Dropped, it tells the others, and those that wait for an answer,
/// that the worker has ended, or that it will never begin.
pub(super) struct Occupied {
    pub(super) fleet: Arc<WorkerFleet>,
    pub(super) number: usize,
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.fleet.close(self.number);
    }
}

/// What is known after a turn.
struct Turned {
    now: Instant,
    turn: Turn,
    /// When the worker has to end.
    until: Instant,
}

impl WorkerLoop {
    pub(super) fn new(parts: LoopParts) -> Self {
        let LoopParts { worker, descriptor, clock, source, board, placement, .. } = parts;
        worker_begins();
        tell_time_of_day(Some(time_of_day));
        if let Some(cpu) = placement.cpu {
            worker.note_cpu(cpu);
        }
        Self {
            worker,
            descriptor,
            is_armed: false,
            clock,
            source,
            board,
            placement,
            occupied: parts.occupied,
            client_addresses: [None; 2],
            listened: Vec::new(),
            inheritance: parts.inheritance,
            line: parts.line,
            finish_at: None,
            failed: false,
            crowding: Crowding::new(clock.now()),
            run_delay: RunDelay::of_this_thread(),
            leaves_lost: parts.leaves_lost,
            leaving: None,
        }
    }

    /// Opens what a worker has from its start.
    pub(super) fn open_queue(&mut self) -> Result<(), OpenDatapathError> {
        self.worker.watch_own().map_err(OpenDatapathError::Wait)?;
        let WorkerPlacement { queue, cpu, .. } = self.placement;
        let datapath = match self.inheritance.take() {
            Some(inheritance) => {
                let number = self.worker.lane().number();
                let datapath = inheritance.open(number, &self.source, queue, cpu)?;
                if datapath.is_some() {
                    self.listened.extend_from_slice(inheritance.listened());
                }
                datapath
            }
            None => match &self.line {
                Some(line) => line.at_start(),
                None => self.source.at_start(queue)?,
            },
        };
        if let Some(datapath) = datapath {
            self.add_datapath(datapath)?;
        }
        self.tell_facts();
        Ok(())
    }

    /// Turns until the registration ends.
    pub(super) fn run(mut self) {
        while self.serve(None) == Progress::Running {}
    }

    /// One turn, which never sleeps, and what to do next.
    pub fn turn(&mut self) -> Next {
        self.disarm();
        let Some(Turned { now, turn, until }) = self.turn_once() else { return Next::Ended };
        let until = until.min(turn.next);
        self.is_armed = self.worker.arm(now, turn.work, until);
        if self.is_armed { Next::Wait(Wait { until, clock: self.clock }) } else { Next::Turn }
    }

    /// One turn; then, if there is nothing to do, sleeps as the registration's polling says,
    /// for `patience` at most.
    pub fn turn_and_sleep(&mut self, patience: Option<Duration>) -> Progress {
        self.disarm();
        self.serve(patience)
    }

    fn disarm(&mut self) {
        if std::mem::take(&mut self.is_armed) {
            self.worker.awake();
        }
    }

    fn serve(&mut self, patience: Option<Duration>) -> Progress {
        let Some(Turned { now, turn, until }) = self.turn_once() else { return Progress::Ended };
        let patience = patience.map_or(Instant::NEVER, |patience| now + patience);
        self.worker.wait(now, turn, until.min(patience));
        Progress::Running
    }

    /// A turn, and what follows it before a sleep; `None` if the worker has ended.
    fn turn_once(&mut self) -> Option<Turned> {
        let now = self.clock.now();
        let mut turn = match guarded(|| self.worker.turn(now)) {
            Ok(Ok(turn)) => {
                self.failed = false;
                turn
            }
            Ok(Err(error)) => self.lost(now, &error),
            Err(message) => self.recover(&message),
        };
        while let Some(control) = self.worker.next_control() {
            if let Err(message) = guarded(|| self.carry_out(control)) {
                turn = self.recover(&message);
            }
            turn.next = self.worker.lane().next_timeout().min(turn.next);
        }
        self.outlive_successor();
        match guarded(|| self.leave_lost_addresses(now)) {
            Ok(at) => turn.next = turn.next.min(at),
            Err(message) => turn = self.recover(&message),
        }
        let mut until = Instant::NEVER;
        if let Some(finish_at) = self.finish_at {
            if self.worker.lane().is_empty() || finish_at <= now {
                self.finish();
                return None;
            }
            until = finish_at;
        }
        if self.crowding.is_due(now) && self.worker.spins_by_choice() {
            self.judge_crowding(now);
        }
        Some(Turned { now, turn, until })
    }

    /// Has connections leave addresses that are gone. Returns when to turn again for it. A worker that has
    /// no connection of this side never hears of addresses.
    fn leave_lost_addresses(&mut self, now: Instant) -> Instant {
        if self.leaves_lost && self.worker.lane().has_clients() {
            self.leaves_lost = false;
            self.leaving = Leaving::open(&mut self.worker);
        }
        let Some(leaving) = &mut self.leaving else { return Instant::NEVER };
        leaving.turn(now, &mut self.worker, &self.source)
    }

    /// True if it is this worker of this fleet.
    pub(super) fn is_worker(&self, fleet: &Arc<WorkerFleet>, number: usize) -> bool {
        Arc::ptr_eq(&self.occupied.fleet, fleet) && self.occupied.number == number
    }

    /// Turns until all that was posted is carried out. The next wait on the descriptor returns at once:
    /// what the last turn said of the time to wait is void.
    pub(super) fn catch_up(&mut self) {
        while self.worker.has_calls()
            && self.turn_and_sleep(Some(Duration::ZERO)) == Progress::Running
        {}
        self.worker.nudge();
    }

    fn judge_crowding(&mut self, now: Instant) {
        if self.crowding.judge(now, self.run_delay.read()) {
            let (worker, cpu) = (self.worker.lane().number(), self.placement.cpu);
            tracing::info!(
                worker,
                cpu,
                "other threads want the CPU: the worker sleeps and does not spin"
            );
        }
        self.worker.set_crowded(!self.crowding.may_spin(now));
    }

    fn carry_out(&mut self, control: Control) {
        match control {
            Control::Open { address, purpose, reply } => {
                // The caller may have given up.
                drop(reply.send(self.open(address, purpose)));
            }
            Control::Listen(listener) => self.worker.lane().listen(*listener),
            Control::StopListening(id) => self.worker.lane().stop_listening(id),
            Control::Connect(request) => self.connect(*request),
            Control::Takeover(order) => self.obey(order),
            Control::Finish { code, until } => {
                // A turn more at least: the connections have to send their CONNECTION_CLOSE.
                self.finish_at = Some(until.max(self.clock.now().plus_ns(1)));
                self.worker.lane().close_all(code);
            }
        }
    }

    fn open(
        &mut self,
        address: SocketAddr,
        purpose: Purpose,
    ) -> Result<SocketAddr, OpenDatapathError> {
        if purpose == Purpose::Listen && self.listened.contains(&address) {
            // Still open since an earlier listener; the poller may not watch it yet.
            self.worker.watch_datapath(0).map_err(OpenDatapathError::Wait)?;
            return Ok(address);
        }
        let datapath = self.worker.datapaths().first_mut();
        let (bound, made) = match &self.line {
            Some(line) => line.open(address, purpose, datapath.is_some())?,
            None => self.source.open(datapath, address, purpose, self.placement.cpu)?,
        };
        if purpose == Purpose::Listen {
            self.listened.push(bound);
        }
        match made {
            Some(datapath) => self.add_datapath(datapath)?,
            None => self.worker.watch_datapath(0).map_err(OpenDatapathError::Wait)?,
        }
        self.tell_facts();
        Ok(bound)
    }

    fn add_datapath(&mut self, datapath: AnyDatapath) -> Result<(), OpenDatapathError> {
        self.worker.add_datapath(datapath).map(drop).map_err(OpenDatapathError::Wait)
    }

    fn connect(&mut self, mut request: ConnectRequest) {
        match self.client_address(request.remote) {
            Ok(local) => {
                request.local = local;
                self.worker.lane().connect(request);
            }
            Err(error) => self.worker.lane().cannot_connect(request, error),
        }
    }

    /// Where to send from towards `remote`; opens a socket of the family once.
    fn client_address(&mut self, remote: SocketAddr) -> Result<SocketAddr, OpenDatapathError> {
        let (family, any) = match remote {
            SocketAddr::V4(_) => (0, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            SocketAddr::V6(_) => (1, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        };
        let bound = match self.client_addresses[family] {
            Some(bound) => bound,
            None => {
                let bound = self.open(SocketAddr::new(any, 0), Purpose::Connect)?;
                self.client_addresses[family] = Some(bound);
                bound
            }
        };
        self.source.local_towards(bound, remote)
    }

    /// A datapath is lost. Its connections time out; others, and handles, go on.
    fn lost(&mut self, now: Instant, error: &DatapathError) -> Turn {
        if !self.failed {
            let worker = self.worker.lane().number();
            tracing::error!(worker, %error, "a datapath is lost");
            self.board.change_facts(|facts| facts.error = Some(error.to_string()));
            self.failed = true;
        }
        Turn { work: 0, next: now.plus_ns(LOST_PAUSE_NS) }
    }

    /// The turn panicked. Its connections end, and the worker goes on.
    #[cold]
    fn recover(&mut self, message: &str) -> Turn {
        // A panic takes its time, and connections close for a time that begins now.
        let now = self.clock.now();
        let worker = self.worker.lane().number();
        let ended = guarded(|| self.worker.recover(now)).unwrap_or_else(|message| {
            tracing::error!(worker, message, "to recover from a panic panicked");
            0
        });
        tracing::error!(
            worker,
            ended,
            message,
            "a turn panicked: all connections of the worker end"
        );
        let error = format!("a turn panicked, and {ended} connections ended with it: {message}");
        self.board.change_facts(|facts| facts.error = Some(error));
        Turn { work: 1, next: now }
    }

    pub(super) fn tell_facts(&mut self) {
        let mode = self.worker.datapaths().first().map(|datapath| datapath.capabilities().clone());
        let (placement, ladder) = (self.placement, self.source.ladder());
        self.board.change_facts(|facts| {
            facts.queue = placement.queue;
            facts.cpu = placement.cpu;
            facts.node = placement.node;
            facts.ladder = ladder;
            facts.device = mode.as_ref().and_then(|capabilities| capabilities.device.clone());
            facts.mode = mode.map(|capabilities| capabilities.mode);
        });
    }

    fn finish(&mut self) {
        let number = self.worker.lane().number();
        let left = self.worker.lane().counters().connections;
        if left > 0 {
            // All have sent CONNECTION_CLOSE; there was no time left to answer late packets.
            tracing::debug!(worker = number, connections = left, "ended while they closed");
        }
        let Occupied { fleet, number } = &self.occupied;
        // Closures that were posted and come to nothing are dropped: each panic is of one.
        while let Err(message) = guarded(|| fleet.close(*number)) {
            tracing::error!(worker = number, message, "a call panicked as it was dropped");
        }
        self.worker.publish();
        self.worker.lane().finish();
    }
}

impl AsFd for WorkerLoop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl AsRawFd for WorkerLoop {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

impl Drop for WorkerLoop {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = "the worker panicked, and its connections ended with it".to_owned();
            self.board.change_facts(|facts| facts.error = Some(error));
        }
        worker_ends();
        if !on_worker_thread() {
            tell_time_of_day(None);
        }
    }
}
