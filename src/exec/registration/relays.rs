//! The threads of the queues with [`Profile::MaxThroughput`]: how they start, what they are asked, how
//! they end.
//!
//! A thread of a queue lives as long as one of its QUIC threads, which each hold a [`Line`] to it. It is
//! not told to end: when the last line is dropped it sends what still waits (the CONNECTION_CLOSE of the
//! last connections), and ends. A QUIC thread that panics drops its line like any other.

use super::super::affinity::{self, WorkerPlacement};
use super::super::clock::Clock;
use super::super::config::{Polling, Profile};
use super::super::crowding::{Crowding, RunDelay};
use super::super::forward::{Forwarder, Refused};
use super::super::lane::guarded;
use super::super::message::WorkerFleet;
use super::super::relay::{Hub, Link, RelayDatapath};
use super::super::source::{AnyDatapath, OpenDatapathError, Purpose, Source};
use super::super::status::PUBLISH_INTERVAL_NS;
use super::super::sys::{Interest, Poller};
use super::start::OpenError;
use crate::datapath::{Capabilities, Datapath, DatapathError};
use crate::lb::Codec;
use crate::time::{Instant, MICROSECOND_NS, MILLISECOND_NS};
use crate::topology::{Assignment, Machine};
use crossbeam::channel::{self, Receiver, Sender};
use std::io;
use std::net::SocketAddr;

use std::sync::Arc;
use std::thread::JoinHandle;

/// How long a thread whose datapath is lost, or whose turn panicked, waits before it tries again.
const LOST_PAUSE_NS: u64 = 100 * MILLISECOND_NS;
/// How long a thread waits for room in its datapath before it looks again, where it may sleep: a burst
/// takes about as long to leave.
const BLOCKED_PAUSE_NS: u64 = 100 * MICROSECOND_NS;
/// How long a thread tries to send what its QUIC threads have left behind.
const LAST_WORDS_NS: u64 = 100 * MILLISECOND_NS;

/// The token of the poller for the [`Hub`]; datapaths have another.
const HUB_TOKEN: u64 = 1;
const DATAPATH_TOKEN: u64 = 2;

/// What a QUIC thread asks of the thread of its queue.
struct Order {
    address: SocketAddr,
    purpose: Purpose,
    reply: Sender<Result<Opened, OpenDatapathError>>,
}

/// An address is open, on a datapath that can do this.
type Opened = (SocketAddr, Capabilities);

/// A QUIC thread's line to the thread of its queue.
pub(super) struct Line {
    queue: u32,
    hub: Arc<Hub>,
    link: Arc<Link>,
    /// The first of the queue.
    is_first: bool,
    orders: Sender<Order>,
    /// Of a datapath that is there from the start.
    at_start: Option<Capabilities>,
}

impl Line {
    /// The datapath of a worker that has one from its start.
    pub(super) fn at_start(&self) -> Option<AnyDatapath> {
        self.at_start.clone().map(|capabilities| self.datapath(capabilities))
    }

    /// As [`Source::open`], by the thread of the queue. `is_there`: the worker has its datapath.
    pub(super) fn open(
        &self,
        address: SocketAddr,
        purpose: Purpose,
        is_there: bool,
    ) -> Result<(SocketAddr, Option<AnyDatapath>), OpenDatapathError> {
        let ended = || OpenDatapathError::QueueThread(self.queue);
        let (reply, answer) = channel::bounded(1);
        self.orders.send(Order { address, purpose, reply }).map_err(|_| ended())?;
        self.hub.wakeup.wake();
        let (bound, capabilities) = answer.recv().map_err(|_| ended())??;
        Ok((bound, (!is_there).then(|| self.datapath(capabilities))))
    }

    fn datapath(&self, capabilities: Capabilities) -> AnyDatapath {
        let (hub, link) = (self.hub.clone(), self.link.clone());
        AnyDatapath::Relay(Box::new(RelayDatapath::new(hub, link, capabilities, self.is_first)))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.hub.hang_up();
    }
}

/// What the threads of all queues have in common.
pub(super) struct Plan<'a> {
    pub(super) source: &'a Source,
    pub(super) fleet: &'a Arc<WorkerFleet>,
    pub(super) codec: &'a Codec,
    pub(super) clock: Clock,
    pub(super) polling: Polling,
    pub(super) workers_of_a_queue: usize,
}

impl Plan<'_> {
    /// Starts the threads, with their names and places. Returns the lines of all workers, in the order of
    /// their numbers.
    ///
    /// # Errors
    /// A queue cannot be opened, or a thread not be pinned. Then none is left.
    pub(super) fn start(
        &self,
        queues: Vec<(String, WorkerPlacement)>,
    ) -> Result<(Vec<Line>, Vec<JoinHandle<()>>), OpenError> {
        let (mut lines, mut threads) = (Vec::new(), Vec::new());
        for (name, placement) in queues {
            let started = self.start_one(name, placement, lines.len());
            match started {
                Ok((more, thread)) => {
                    lines.extend(more);
                    threads.push(thread);
                }
                Err(error) => {
                    drop(lines);
                    threads.into_iter().for_each(|thread| drop(thread.join()));
                    return Err(error);
                }
            }
        }
        Ok((lines, threads))
    }

    fn start_one(
        &self,
        name: String,
        placement: WorkerPlacement,
        first: usize,
    ) -> Result<(Vec<Line>, JoinHandle<()>), OpenError> {
        let count = self.workers_of_a_queue;
        let hub = Hub::new(count).map_err(OpenError::System)?;
        let links: Vec<Arc<Link>> = (0..count).map(|_| Link::new()).collect();
        let (orders, ordered) = channel::unbounded();
        let (codec, fleet) = (self.codec.clone(), self.fleet.clone());
        let seed = Seed {
            first,
            links: links.clone(),
            codec,
            fleet,
            orders: ordered,
            hub: hub.clone(),
            source: self.source.clone(),
            placement,
            clock: self.clock,
            polling: self.polling,
        };
        let (started, report) = channel::bounded(1);
        let thread = std::thread::Builder::new().name(name);
        let thread = thread.spawn(move || match seed.start() {
            Ok(mut running) => {
                let capabilities = running.forwarder.datapath().map(|d| d.capabilities().clone());
                drop(started.send(Ok(capabilities)));
                running.run();
            }
            Err(error) => drop(started.send(Err(error))),
        });
        let thread = thread.map_err(OpenError::System)?;
        let panicked = || io::Error::other("the thread of a queue panicked as it began");
        let at_start = match report.recv() {
            Ok(Ok(capabilities)) => capabilities,
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(OpenError::System(panicked())),
        };
        let line = |(at, link)| Line {
            queue: placement.queue,
            hub: hub.clone(),
            link,
            is_first: at == 0,
            orders: orders.clone(),
            at_start: at_start.clone(),
        };
        Ok((links.into_iter().enumerate().map(line).collect(), thread))
    }
}

/// A thread that has not begun.
struct Seed {
    /// The first of its workers.
    first: usize,
    links: Vec<Arc<Link>>,
    codec: Codec,
    fleet: Arc<WorkerFleet>,
    orders: Receiver<Order>,
    hub: Arc<Hub>,
    source: Source,
    placement: WorkerPlacement,
    clock: Clock,
    polling: Polling,
}

impl Seed {
    /// Makes the calling thread the thread of the queue.
    fn start(self) -> Result<QueueThread, OpenError> {
        let worker = self.first;
        affinity::take(&self.placement, Profile::MaxThroughput)
            .map_err(|error| OpenError::Pin { worker, error })?;
        let queue = |error| OpenError::Queue { worker, error };
        let poller = Poller::new().map_err(OpenError::System)?;
        poller
            .add(self.hub.wakeup.fd(), Interest::Readable, HUB_TOKEN)
            .map_err(OpenError::System)?;
        let mut forwarder = Forwarder::new(self.links, worker, self.codec, self.fleet);
        if let Some(datapath) = self.source.at_start(self.placement.queue).map_err(queue)? {
            forwarder.set_datapath(datapath);
        }
        let now = self.clock.now();
        let mut thread = QueueThread {
            forwarder,
            orders: self.orders,
            ending: Ending(self.hub),
            source: self.source,
            placement: self.placement,
            clock: self.clock,
            polling: self.polling,
            poller,
            listened: Vec::new(),
            crowding: Crowding::new(now),
            run_delay: RunDelay::of_this_thread(),
            is_crowded: false,
            worked_at: now,
            published_at: now,
            failed: false,
        };
        thread.watch().map_err(queue)?;
        Ok(thread)
    }
}

/// Tells QUIC threads that nobody serves them any more, however it came to that.
struct Ending(Arc<Hub>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.set_ended();
    }
}

/// The thread of a queue.
struct QueueThread {
    forwarder: Forwarder<AnyDatapath>,
    orders: Receiver<Order>,
    ending: Ending,
    source: Source,
    placement: WorkerPlacement,
    clock: Clock,
    polling: Polling,
    poller: Poller,
    /// Addresses that are open to listen: for all of the QUIC threads.
    listened: Vec<SocketAddr>,
    crowding: Crowding,
    run_delay: RunDelay,
    is_crowded: bool,
    worked_at: Instant,
    published_at: Instant,
    failed: bool,
}

impl QueueThread {
    fn run(mut self) {
        let mut last = None;
        loop {
            let now = self.clock.now();
            let is_abandoned = self.hub().is_abandoned();
            let work = self.turn(now);
            if is_abandoned {
                let last = *last.get_or_insert_with(|| now.plus_ns(LAST_WORDS_NS));
                if now >= last || (work == Some(0) && self.forwarder.is_drained()) {
                    return;
                }
            }
            match work {
                Some(0) if is_abandoned => self.pause(BLOCKED_PAUSE_NS),
                Some(work) => self.wait(now, work),
                None => self.pause(LOST_PAUSE_NS),
            }
        }
    }

    fn hub(&self) -> &Hub {
        &self.ending.0
    }

    /// One turn; `None` if it failed.
    fn turn(&mut self, now: Instant) -> Option<usize> {
        let turned = guarded(|| {
            while let Ok(order) = self.next_order() {
                let Order { address, purpose, reply } = order;
                // The worker may have given up.
                drop(reply.send(self.open(address, purpose)));
            }
            self.forwarder.turn()
        });
        if now.ns_since(self.published_at) >= PUBLISH_INTERVAL_NS {
            self.publish(now);
        }
        match turned {
            Ok(Ok(work)) => {
                if std::mem::take(&mut self.failed) {
                    self.hub().set_lost(false);
                }
                if work > 0 {
                    self.worked_at = now;
                }
                Some(work)
            }
            Ok(Err(error)) => {
                self.lost(&error);
                None
            }
            Err(message) => {
                self.recover(&message);
                None
            }
        }
    }

    fn next_order(&self) -> Result<Order, ()> {
        if self.orders.is_empty() { Err(()) } else { self.orders.try_recv().map_err(drop) }
    }

    fn open(&mut self, address: SocketAddr, purpose: Purpose) -> Result<Opened, OpenDatapathError> {
        let queue = self.placement.queue;
        if purpose == Purpose::Listen && self.listened.contains(&address) {
            return self.opened(address).ok_or(OpenDatapathError::QueueThread(queue));
        }
        let cpu = self.placement.cpu;
        let (bound, made) = self.source.open(self.forwarder.datapath(), address, purpose, cpu)?;
        if let Some(datapath) = made {
            self.forwarder.set_datapath(datapath);
        }
        self.watch()?;
        if purpose == Purpose::Listen {
            self.listened.push(bound);
        }
        self.opened(bound).ok_or(OpenDatapathError::QueueThread(queue))
    }

    fn opened(&mut self, bound: SocketAddr) -> Option<Opened> {
        Some((bound, self.forwarder.datapath()?.capabilities().clone()))
    }

    /// Watches the descriptors that the datapath has opened since the last call.
    fn watch(&mut self) -> Result<(), OpenDatapathError> {
        let Some(datapath) = self.forwarder.datapath() else { return Ok(()) };
        for fd in datapath.poll_fds() {
            match self.poller.add(*fd, Interest::Readable, DATAPATH_TOKEN) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other.map_err(OpenDatapathError::Wait)?,
            }
        }
        Ok(())
    }

    #[cold]
    fn lost(&mut self, error: &DatapathError) {
        if !self.failed {
            let queue = self.placement.queue;
            tracing::error!(queue, %error, "the datapath of a queue is lost");
            self.hub().set_lost(true);
            self.failed = true;
        }
    }

    #[cold]
    fn recover(&mut self, message: &str) {
        let queue = self.placement.queue;
        tracing::error!(queue, message, "a turn of the thread of a queue panicked");
        if let Err(message) = guarded(|| self.forwarder.recover()) {
            tracing::error!(queue, message, "to recover from a panic panicked");
        }
    }

    fn publish(&mut self, now: Instant) {
        self.published_at = now;
        let Refused { full, truncated } = self.forwarder.refused();
        let Some(datapath) = self.forwarder.datapath() else { return };
        let (mut queue, udp) = (datapath.stats(), datapath.udp_stats());
        queue.drop_relay_full += full;
        queue.drop_truncated += truncated;
        self.hub().publish(&queue, &udp);
    }

    /// After a turn: returns at once, or sleeps until something arrives or is to leave.
    fn wait(&mut self, now: Instant, work: usize) {
        if matches!(self.polling, Polling::Adaptive { .. }) && self.crowding.is_due(now) {
            self.crowding.judge(now, self.run_delay.read());
            self.is_crowded = !self.crowding.may_spin(now);
        }
        let may_sleep = match self.polling {
            Polling::Spin => false,
            Polling::Sleep => work == 0,
            Polling::Adaptive { .. } if self.is_crowded => work == 0,
            Polling::Adaptive { spin } => {
                u128::from(now.ns_since(self.worked_at)) >= spin.as_nanos()
            }
        };
        if !may_sleep {
            return;
        }
        if self.forwarder.is_blocked() {
            return self.pause(BLOCKED_PAUSE_NS);
        }
        self.hub().wakeup.announce_sleep();
        let quiet = self.forwarder.prepare_sleep();
        if quiet && self.orders.is_empty() && !self.hub().is_abandoned() {
            // A reader of the counters of a queue that sleeps sees the last ones.
            self.publish(now);
            self.sleep(Instant::NEVER.as_nanos());
        }
        self.hub().wakeup.awake();
    }

    /// Looks again after a while, or earlier if something arrives.
    fn pause(&mut self, ns: u64) {
        self.hub().wakeup.announce_sleep();
        if self.orders.is_empty() {
            self.sleep(ns);
        }
        self.hub().wakeup.awake();
    }

    fn sleep(&mut self, timeout_ns: u64) {
        let Self { poller, ending, .. } = self;
        let result = poller.wait(timeout_ns, |token, _| {
            if token == HUB_TOKEN {
                // The signal of a slow sender may come after the sleep that it meant to end.
                ending.0.wakeup.clear();
            }
        });
        if let Err(error) = result {
            // It waits on descriptors that are its own: this is no error of operation.
            tracing::error!(%error, "the thread of a queue cannot wait");
        }
    }
}

/// The places of the QUIC threads of all queues, in the order of their numbers: CPUs of the queue's node
/// that the process may use and that serve no queue, each for one thread; without one, any CPU of the node.
pub(super) fn beside(
    machine: &Machine,
    rows: &[Assignment],
    allowed: &[u32],
    workers_of_a_queue: usize,
) -> Vec<WorkerPlacement> {
    let mut free: Vec<u32> = allowed.to_vec();
    free.retain(|cpu| rows.iter().all(|row| row.cpu != *cpu));
    let mut place = |row: &Assignment| {
        let is_near = |cpu: &u32| {
            let node = machine.cpu(*cpu).and_then(|cpu| cpu.node.known().copied());
            row.node.is_none() || node == row.node
        };
        let at = free.iter().position(is_near);
        let cpu = at.map(|at| free.remove(at));
        WorkerPlacement { queue: row.queue, cpu, node: row.node }
    };
    let mut places = Vec::new();
    for row in rows {
        places.extend((0..workers_of_a_queue).map(|_| place(row)));
    }
    places
}

#[cfg(test)]
mod tests;
