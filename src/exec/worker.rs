//! A worker: a lane, the datapaths it reads from, an inbox, and when to sleep.
//!
//! # The turn
//!
//! [`Worker::turn`] does once, in this order, and each as far as its budget goes:
//!
//! 1. a burst of datagrams from every datapath: to connections, and so to callbacks;
//! 2. the inbox: datagrams that other workers received for us; then client Initials of both, which
//!    have waited for that; then commands of handles;
//! 3. timers of connections that have come due;
//! 4. closures, timers and ready descriptors of the application;
//! 5. transmission: the touched connections write in round-robin;
//! 6. each datapath submits what was written and takes back what was sent.
//!
//! Closures that the application wants in every turn come before and after all of it.
//!
//! [`Worker::wait`] then decides: go on at once, or sleep until something arrives or the next
//! timer comes due. The time is read once, before the turn, and passed in; the worker never
//! looks at a clock, so a simulation turns it with virtual time.

use super::api::{Edge, watch_of};
use super::config::Polling;
use super::counters::{Snapshot, TurnCounters};
use super::delay::QueueDelay;
use super::handoff::{Dispatch, HandedOver, Sent};
use super::lane::{Arrived, Lane, Routed};
use super::message::{Control, WorkerFleet};
use super::status::{Board, PUBLISH_INTERVAL_NS};
use super::sys::{MAX_EVENTS, Readiness};
use crate::datapath::udp::UdpStats;
use crate::datapath::{Datapath, DatapathError, MAX_BURST, QueueStats, RxMeta};
use crate::time::{Instant, MICROSECOND_NS};
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

/// Datagrams from other workers taken in one turn: a burst, like that of the datapath.
const INBOX_BUDGET: usize = MAX_BURST;
/// Commands carried out in one turn.
const COMMAND_BUDGET: usize = 128;
/// How often descriptors of the application are looked at while the worker does not sleep: a
/// look is a system call, and would cost as much as a packet in every turn.
const DESCRIPTOR_INTERVAL_NS: u64 = 50 * MICROSECOND_NS;

/// Tokens of the poller with this bit are the worker's own: an inbox or a datapath is ready,
/// which the next turn finds by itself.
const OWN_TOKEN: u64 = 1 << 63;
/// The inbox.
const INBOX_TOKEN: u64 = OWN_TOKEN | 1;

/// The watch of this machine's addresses.
const ADDRESSES_TOKEN: u64 = OWN_TOKEN | 2;

/// The result of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Datagrams received and sent, timers, commands and jobs served.
    pub work: usize,
    /// Nothing is due before, unless something arrives. Not after now: turn again at once.
    pub next: Instant,
}

/// See the top of `exec/worker.rs`. `D` is the kind of its datapaths.
pub(super) struct Worker<D> {
    lane: Lane,
    datapaths: Vec<D>,
    fleet: Arc<WorkerFleet>,
    dispatch: Dispatch,
    /// Workers that were sent datagrams in this turn.
    to_wake: Vec<usize>,
    polling: Polling,
    /// Another thread wants the CPU: the worker does not look again before it sleeps.
    is_crowded: bool,
    controls: VecDeque<Control>,
    delay: QueueDelay,
    counters: TurnCounters,
    board: Arc<Board>,
    /// What the poller reported, until the next turn serves it.
    ready: Vec<(u64, Readiness)>,
    /// The watch of addresses was ready when the poller was asked last.
    has_address_news: bool,
    turned_at: Option<Instant>,
    worked_at: Instant,
    looked_at: Instant,
    published_at: Instant,
}

impl<D: Datapath> Worker<D> {
    pub(super) fn new(lane: Lane, fleet: Arc<WorkerFleet>, polling: Polling) -> Self {
        let now = lane.now();
        Self {
            dispatch: Dispatch::new(lane.number()),
            lane,
            datapaths: Vec::new(),
            fleet,
            to_wake: Vec::new(),
            polling,
            is_crowded: false,
            controls: VecDeque::new(),
            delay: QueueDelay::default(),
            counters: TurnCounters::default(),
            board: Arc::default(),
            ready: Vec::with_capacity(MAX_EVENTS),
            has_address_news: false,
            turned_at: None,
            worked_at: now,
            looked_at: now,
            published_at: now,
        }
    }

    pub(super) fn with_board(mut self, board: Arc<Board>) -> Self {
        self.board = board;
        self
    }

    pub(super) fn fleet(&self) -> &Arc<WorkerFleet> {
        &self.fleet
    }

    /// The worker's thread is pinned to this CPU.
    pub(super) fn note_cpu(&self, cpu: u32) {
        self.fleet.note_cpu(self.lane.number(), cpu);
    }

    /// Lets the worker be woken: by other threads, and by the descriptors of its datapaths.
    pub(super) fn watch_own(&mut self) -> io::Result<()> {
        let number = self.lane.number();
        let fd = self.fleet.inbox(number).map(|inbox| inbox.wakeup.fd());
        fd.map_or(Ok(()), |fd| self.lane.services().watch_own(fd, INBOX_TOKEN))
    }

    /// True if the worker looks again before it sleeps, where its polling leaves the choice.
    pub(super) fn spins_by_choice(&self) -> bool {
        matches!(self.polling, Polling::Adaptive { .. })
    }

    /// Sets whether another thread wants the worker's CPU, from now on.
    pub(super) fn set_crowded(&mut self, is_crowded: bool) {
        self.counters.crowded += u64::from(is_crowded && !self.is_crowded);
        self.is_crowded = is_crowded;
    }

    /// Adds a datapath, and says which number it has.
    ///
    /// # Errors
    /// Its descriptors cannot be waited for.
    pub(super) fn add_datapath(&mut self, datapath: D) -> io::Result<usize> {
        self.datapaths.push(datapath);
        let number = self.datapaths.len() - 1;
        self.watch_datapath(number)?;
        Ok(number)
    }

    /// Takes the first datapath out: nothing waits for it any more.
    pub(super) fn take_datapath(&mut self) -> Option<D> {
        if self.datapaths.is_empty() {
            return None;
        }
        let datapath = self.datapaths.remove(0);
        for fd in datapath.poll_fds() {
            self.lane.services().unwatch_own(*fd);
        }
        Some(datapath)
    }

    /// Puts a datapath in the place of the first.
    ///
    /// # Errors
    /// Its descriptors cannot be waited for.
    pub(super) fn put_datapath(&mut self, datapath: D) -> io::Result<()> {
        self.datapaths.insert(0, datapath);
        self.watch_datapath(0)
    }

    /// Watches the descriptors that a datapath has opened since the last call.
    pub(super) fn watch_datapath(&mut self, number: usize) -> io::Result<()> {
        let Self { datapaths, lane, .. } = self;
        let Some(datapath) = datapaths.get(number) else { return Ok(()) };
        for fd in datapath.poll_fds() {
            match lane.services().watch_own(*fd, OWN_TOKEN) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Lets the worker be woken when the watch of addresses, which is this descriptor, has something to
    /// tell.
    pub(super) fn watch_addresses(&mut self, fd: RawFd) -> io::Result<()> {
        self.lane.services().watch_own(fd, ADDRESSES_TOKEN)
    }

    /// True once if the watch of addresses was ready.
    pub(super) fn take_address_news(&mut self) -> bool {
        std::mem::take(&mut self.has_address_news)
    }

    /// True if a call waits in the inbox.
    pub(super) fn has_calls(&self) -> bool {
        self.fleet.inbox(self.lane.number()).is_some_and(|inbox| inbox.waiting() > 0)
    }

    /// Makes the descriptor readable: whoever waits on it turns the worker once more.
    pub(super) fn nudge(&self) {
        if let Some(inbox) = self.fleet.inbox(self.lane.number()) {
            inbox.wakeup.signal();
        }
    }

    /// The datapaths, by number.
    pub(super) fn datapaths(&mut self) -> &mut [D] {
        &mut self.datapaths
    }

    /// Its lane.
    pub(super) fn lane(&mut self) -> &mut Lane {
        &mut self.lane
    }

    /// What the registration and callbacks asked for, in order. The loop that turns the worker
    /// carries it out after each turn.
    pub(super) fn next_control(&mut self) -> Option<Control> {
        self.controls.pop_front()
    }

    /// One turn, at `now`.
    ///
    /// # Errors
    /// A datapath is lost. The turn was finished all the same; connections that use another
    /// one go on.
    pub(super) fn turn(&mut self, now: Instant) -> Result<Turn, DatapathError> {
        // The clock is read once for each turn: the time between two reads, if the worker did
        // not sleep in between, is what the turn took.
        let took_ns = self.turned_at.replace(now).map(|before| now.ns_since(before));
        if let Some(took_ns) = took_ns {
            self.lane.services().overruns.turn_ended(took_ns);
        }
        let delay_ns = self.delay.turn(took_ns, self.lane.services().overruns.is_timed());
        self.lane.set_now(now);
        self.lane.weigh(delay_ns);
        self.lane.at_edge(Edge::Before);
        // Before datagrams: some of them may be for a connection that has just come.
        let mut work = self.lane.serve_moves();
        self.lane.begin_burst();
        work += self.receive();
        work += self.read_handed_over();
        work += self.lane.begin_handshakes();
        work += self.read_commands();
        work += self.lane.expire();
        work += self.serve_descriptors();
        work += self.lane.jobs();
        take_orders(&mut self.lane, &mut self.controls);
        work += self.lane.transmit(&mut self.datapaths);
        let mut result = Ok(());
        for datapath in &mut self.datapaths {
            result = result.and(datapath.flush());
        }
        if self.lane.at_edge(Edge::After) {
            take_orders(&mut self.lane, &mut self.controls);
        }
        self.account(now, work);
        result.map(|()| Turn { work, next: self.lane.next_timeout() })
    }

    /// The last turn panicked: ends all connections, so that the next one begins with what is sound.
    /// Returns how many there were.
    #[cold]
    pub(super) fn recover(&mut self, now: Instant) -> usize {
        self.counters.panics += 1;
        self.ready.clear();
        self.datapaths.iter_mut().for_each(Datapath::recover);
        wake(&self.fleet, &mut self.to_wake);
        let ended = self.lane.recover(now, &mut self.datapaths);
        self.publish();
        ended
    }

    fn receive(&mut self) -> usize {
        let Self { lane, datapaths, dispatch, fleet, to_wake, delay, .. } = self;
        let mut received = 0;
        for (number, datapath) in datapaths.iter_mut().enumerate() {
            if lane.looks_ahead() {
                datapath.preview(MAX_BURST, &mut |datagram| lane.look_ahead(datagram));
                lane.fetch_ahead();
            }
            let count = datapath.receive(MAX_BURST, &mut |meta, datagram| {
                let route = match lane.receive(number, meta, datagram) {
                    Routed::Elsewhere(route) => route,
                    Routed::Before(process, worker) => {
                        return forward(lane, fleet, (process, worker), meta, datagram);
                    }
                    Routed::Here | Routed::Dropped => return,
                };
                match dispatch.send(fleet, route, number, meta, datagram) {
                    Sent::Yes => {
                        lane.counters_mut().rx_wrong_queue += 1;
                        let owner = usize::from(route.worker);
                        if !to_wake.contains(&owner) {
                            to_wake.push(owner);
                        }
                    }
                    Sent::Dropped => lane.counters_mut().rx_wrong_queue_dropped += 1,
                    Sent::Share => lane.counters_mut().rx_wrong_queue_share += 1,
                }
            });
            lane.forget_ahead();
            if count > 0 {
                delay.received(count, datapath.backlog());
                received += count;
            }
        }
        // Once for each burst and owner: a wake-up is a fence, and perhaps a system call.
        wake(fleet, to_wake);
        received
    }

    fn read_handed_over(&mut self) -> usize {
        let Self { lane, fleet, .. } = self;
        let Some(inbox) = fleet.inbox(lane.number()) else { return 0 };
        let mut work = 0;
        for _ in 0..INBOX_BUDGET {
            let Some(handed) = inbox.datagram() else { break };
            let mut reading = Reading { fleet, handed: Some(handed) };
            let Some(handed) = &mut reading.handed else { break };
            work += 1;
            lane.counters_mut().rx_handed_over += 1;
            let Some(meta) = handed.meta else { continue };
            let at = Arrived { datapath: handed.datapath, worker: handed.origin };
            match lane.receive_handed(at, &meta, &mut handed.bytes) {
                // Its connection has moved on.
                Routed::Elsewhere(route) => {
                    let Some(handed) = reading.handed.take() else { continue };
                    let passed = fleet.pass_on(handed, route);
                    lane.counters_mut().rx_passed_on += u64::from(passed);
                    lane.counters_mut().rx_wrong_queue_dropped += u64::from(!passed);
                }
                Routed::Before(process, worker) => {
                    forward(lane, fleet, (process, worker), &meta, &handed.bytes);
                }
                Routed::Here | Routed::Dropped => {}
            }
        }
        work
    }

    /// Carries out what was posted, up to the next [`Control`]: the loop that turns the worker has to
    /// carry that out first. Commands that follow a `Connect` are meant for that connection.
    fn read_commands(&mut self) -> usize {
        let Self { lane, fleet, controls, .. } = self;
        let Some(inbox) = fleet.inbox(lane.number()) else { return 0 };
        let mut work = 0;
        take_orders(lane, controls);
        while work < COMMAND_BUDGET
            && controls.is_empty()
            && lane.takes_commands()
            && let Some(command) = inbox.command()
        {
            work += 1;
            let control = lane.command(command);
            controls.extend(control);
            take_orders(lane, controls);
        }
        work
    }

    fn serve_descriptors(&mut self) -> usize {
        let now = self.lane.now();
        let due = now.ns_since(self.looked_at) >= DESCRIPTOR_INTERVAL_NS;
        if self.ready.is_empty() && due && self.lane.services().watched() > 0 {
            self.look(0);
        }
        let served = self.ready.len();
        for at in 0..served {
            let (token, readiness) = self.ready[at];
            self.lane.ready(watch_of(token), readiness);
        }
        self.ready.clear();
        served
    }

    /// Asks the poller, and keeps what it says of the application's descriptors. Returns how many are
    /// ready, the worker's own too.
    fn look(&mut self, timeout_ns: u64) -> usize {
        self.looked_at = self.lane.now();
        let Self { lane, ready, fleet, has_address_news, .. } = self;
        let number = lane.number();
        let Some(poller) = lane.services().poller() else { return 0 };
        let result = poller.wait(timeout_ns, |token, readiness| match token {
            // A sender may be slow: its signal can come after the sleep that it meant to end.
            INBOX_TOKEN => fleet.inbox(number).iter().for_each(|inbox| inbox.wakeup.clear()),
            ADDRESSES_TOKEN => *has_address_news = true,
            token if token & OWN_TOKEN != 0 => {}
            token => ready.push((token, readiness)),
        });
        result.unwrap_or_else(|error| {
            // It waits on descriptors that are its own: this is no error of operation.
            tracing::error!(%error, "a worker cannot wait");
            0
        })
    }

    fn account(&mut self, now: Instant, work: usize) {
        self.counters.turns += 1;
        if work == 0 {
            self.counters.idle_turns += 1;
        } else {
            self.worked_at = now;
        }
        if now.ns_since(self.published_at) >= PUBLISH_INTERVAL_NS {
            self.publish();
        }
    }

    /// What the worker has counted.
    pub(super) fn snapshot(&mut self) -> Snapshot {
        let (mut queue, mut udp) = (QueueStats::default(), UdpStats::default());
        for datapath in &self.datapaths {
            queue.add(&datapath.stats());
            udp.add(&datapath.udp_stats());
        }
        let overruns = &self.lane.services().overruns;
        let (overrun_turns, by_name) = (overruns.turns, overruns.by_name);
        Snapshot {
            lane: self.lane.counters(),
            endpoint: self.lane.endpoint_stats(),
            turns: TurnCounters {
                overruns: overrun_turns,
                queue_delay_ns: self.delay.now_ns,
                queue_delay_max_ns: self.delay.max_ns,
                ..self.counters
            },
            queue,
            udp,
            ended_connections: self.lane.ended().connections,
            ended_streams: self.lane.ended().streams,
            overruns: by_name,
        }
    }

    pub(super) fn publish(&mut self) {
        self.published_at = self.lane.now();
        let snapshot = self.snapshot();
        self.board.publish(&snapshot);
    }

    /// After a turn: returns at once, or sleeps until something arrives, `turn.next` comes, or
    /// `until`, whichever is first. `now` is the time of the turn.
    pub(super) fn wait(&mut self, now: Instant, turn: Turn, until: Instant) {
        let wake_at = turn.next.min(until);
        if !self.prepare_sleep(now, turn.work, wake_at) {
            return;
        }
        self.note_sleep();
        let timeout_ns = match wake_at {
            Instant::NEVER => Instant::NEVER.as_nanos(),
            at => at.ns_since(now),
        };
        self.look(timeout_ns);
        self.awake();
    }

    /// As [`wait`](Self::wait), for a caller that sleeps by itself: on the poller's descriptor, and no
    /// longer than `wake_at`. False if it must turn at once. If true, [`awake`](Self::awake) has to
    /// come before the next turn.
    pub(super) fn arm(&mut self, now: Instant, work: usize, wake_at: Instant) -> bool {
        if !self.prepare_sleep(now, work, wake_at) {
            return false;
        }
        // What is ready now would not be told again to a caller whose own poller is edge triggered.
        if self.look(0) > 0 {
            self.awake();
            return false;
        }
        self.note_sleep();
        true
    }

    /// Whether the worker may sleep until `wake_at`. If so, all that arrives from now on makes the
    /// poller's descriptor ready, until [`awake`](Self::awake).
    fn prepare_sleep(&mut self, now: Instant, work: usize, wake_at: Instant) -> bool {
        if !self.controls.is_empty() || wake_at <= now || !self.may_sleep(now, work) {
            return false;
        }
        let Some(inbox) = self.fleet.inbox(self.lane.number()) else { return false };
        inbox.wakeup.announce_sleep();
        let mut quiet = true;
        for datapath in &mut self.datapaths {
            // Every wake-up is armed, also when an earlier one shows that the worker must not sleep.
            quiet &= datapath.prepare_sleep();
        }
        let quiet = quiet && inbox.is_empty();
        if !quiet {
            inbox.wakeup.awake();
        }
        quiet
    }

    fn note_sleep(&mut self) {
        // A reader of a sleeping worker's counters sees the last ones.
        self.publish();
        self.counters.sleeps += 1;
    }

    /// The sleep is over, or there was none.
    pub(super) fn awake(&mut self) {
        // The time that the worker slept is no part of a turn.
        self.turned_at = None;
        if let Some(inbox) = self.fleet.inbox(self.lane.number()) {
            inbox.wakeup.awake();
        }
    }

    fn may_sleep(&self, now: Instant, work: usize) -> bool {
        match self.polling {
            Polling::Spin => false,
            Polling::Sleep => work == 0,
            Polling::Adaptive { .. } if self.is_crowded => work == 0,
            Polling::Adaptive { spin } => {
                u128::from(now.ns_since(self.worked_at)) >= spin.as_nanos()
            }
        }
    }
}

/// Passes a datagram on to a worker of the process that this one has taken over from.
#[cold]
fn forward(lane: &mut Lane, fleet: &WorkerFleet, to: (u8, u16), meta: &RxMeta, datagram: &[u8]) {
    let passed = fleet.predecessors().is_some_and(|all| all.pass_on(to, meta, datagram));
    lane.counters_mut().rx_for_predecessor += u64::from(passed);
    lane.counters_mut().rx_for_predecessor_dropped += u64::from(!passed);
}

/// Wakes workers that were sent datagrams.
fn wake(fleet: &WorkerFleet, owners: &mut Vec<usize>) {
    for owner in owners.drain(..) {
        if let Some(inbox) = fleet.inbox(owner) {
            inbox.wakeup.wake();
        }
    }
}

/// A datagram that was handed over, while it is read: its buffer goes back whatever happens.
struct Reading<'a> {
    fleet: &'a WorkerFleet,
    handed: Option<Box<HandedOver>>,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if let Some(handed) = self.handed.take() {
            self.fleet.give_back(handed);
        }
    }
}

/// Connections that callbacks have asked for. A socket has to be found for each first.
fn take_orders(lane: &mut Lane, controls: &mut VecDeque<Control>) {
    while let Some(request) = lane.services().next_order() {
        controls.push_back(Control::Connect(request));
    }
}

#[cfg(test)]
mod tests;
