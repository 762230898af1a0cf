//! All of a worker except its datapaths, its clock and its thread.
//!
//! A lane owns the connections of one worker: their table, their timers, their ids, what their
//! application wants of the worker. The caller sets the time, and lends it the datagrams to read
//! and the buffers to write into, so that a simulation or a benchmark drives it exactly like a
//! thread does.
//!
//! # A turn
//!
//! ```text
//!            datagram                                   buffer
//!               |                                          ^
//!   receive: id -> slot -> connection -> callbacks         | transmit: round-robin over the
//!               |                             |            | touched connections
//!               +--------- touched list <-----+------------+
//!                              ^
//!   expire: timer wheel -------+------- command, job: handles, closures, descriptors
//! ```
//!
//! Everything that happens to a connection puts its slot on the *touched list*, once. Transmit
//! goes round that list: each connection writes a few datagrams and goes to the end if it has
//! more. A connection with nothing more to write gets new connection ids if the peer can hold
//! more, and its timer; it is removed if it is drained.
//!
//! # Callbacks
//!
//! The application is called through `adapter.rs` alone, with the connection, its [`Seat`] and
//! the [`Services`] of the worker, each borrowed from its own field: no callback can reach the
//! table, so none can remove the connection that it is called for, and none can recurse.

mod accept;
mod adapter;
mod admission;
mod ahead;
mod command;
mod deciding;
mod ended;
mod leaving;
mod moving;
mod receive;
mod recovery;
mod resets;
#[cfg(test)]
mod tests;
mod transmit;
mod waiting;

pub(super) use adapter::guarded;
pub(super) use leaving::{OwnAddresses, Standing, Sweep};
pub(crate) use receive::{Arrived, Routed};

use super::address::Key;
use super::api::{Entry, Handshake, Seat, Services};
use super::config::LaneLimits;
use super::counters::LaneCounters;
use super::message::Listener;
use super::pressure::PressureGauge;
use super::table::{InitialKey, Table};
use super::wheel::Wheel;
use crate::datapath::Path;
use crate::lb::{Codec, Route};
use crate::proto::connection::Connection;
use crate::proto::crypto::ResetKey;
use crate::proto::endpoint::EndpointStats;
use crate::proto::source::Source;
use crate::time::{Instant, MILLISECOND_NS, SECOND_NS};
use crate::wire::ConnectionId;
use accept::Answers;
use adapter::{CallbackAdapter, discard, discard_streams};
use admission::Admission;
use ahead::Ahead;
use ended::Ended;
use moving::Moves;
use resets::Resets;
use std::collections::VecDeque;
use std::time::Duration;
use waiting::Waiting;

/// Timers served in one turn. A timer costs about as much as a packet; together with a burst
/// of packets a turn stays within the callback budget.
const TIMER_BUDGET: usize = 128;
/// Closures and timers of the application served in one turn.
const JOB_BUDGET: usize = 64;
/// A connection that is idle for so long gives back the memory that only a busy one needs. Long
/// beside a round trip, so that the memory is not given back and taken again; short beside the
/// idle timeout, so that most of many connections are small.
const IDLE_NS: u64 = SECOND_NS;
/// How long the id that a client chose is remembered after its handshake: a late copy of its first
/// packets would otherwise begin a second connection.
const INITIAL_LINGER_NS: u64 = 500 * MILLISECOND_NS;
/// Ids that are remembered so at one time, the oldest going first: more handshakes than a worker can
/// finish in that time.
const LINGERING_IDS: usize = 1 << 14;

/// What a lane is made of.
pub(super) struct LaneParts {
    pub(super) services: Services,
    pub(super) codec: Codec,
    /// The number of this process, of those that have connections on this host.
    pub(super) process: u8,
    pub(super) reset: ResetKey,
    pub(super) limits: LaneLimits,
}

impl Entry {
    /// The connection, and its application as the protocol's callback adapter.
    fn split<'a>(
        &'a mut self,
        services: &'a mut Services,
    ) -> (&'a mut Connection, CallbackAdapter<'a>) {
        let Self { connection, seat, handler } = self;
        (connection, CallbackAdapter { handler: &mut **handler, seat, services })
    }

    /// The path that its datagrams take, for the datapath.
    #[inline]
    fn path(&self) -> Path {
        let Self { connection, seat, .. } = self;
        Path { local: connection.local(), remote: connection.remote(), link: seat.way.link }
    }
}

/// See the top of `exec/lane/mod.rs`. Drive it so, in each turn: [`set_now`](Self::set_now), for
/// each burst `look_ahead` at all of it and `fetch_ahead` where that can be had, then `receive` for
/// each datagram and `forget_ahead`, `expire`, `jobs`, `transmit`. [`Worker`](super::Worker) does so.
pub struct Lane {
    table: Table<Entry>,
    wheel: Wheel,
    touched: VecDeque<u32>,
    services: Services,
    codec: Codec,
    process: u8,
    reset: ResetKey,
    listeners: Vec<Listener>,
    /// The counters of listeners that were closed.
    stopped: EndpointStats,
    answers: Answers,
    ahead: Ahead,
    resets: Resets,
    /// Ids that clients chose, of handshakes that are done, with the time to forget them.
    lingering: VecDeque<(Instant, InitialKey, Key)>,
    admission: Admission,
    waiting: Waiting,
    pressure: PressureGauge,
    moves: Moves,
    /// There is a connection of this side, or was one.
    has_clients: bool,
    counters: LaneCounters,
    ended: Ended,
}

impl Lane {
    pub(super) fn new(mut parts: LaneParts) -> Self {
        let limits = parts.limits;
        parts.services.overruns.set_budget(duration_ns(limits.callback_budget));
        Self {
            table: Table::new(limits.connections),
            wheel: Wheel::new(parts.services.now()),
            touched: VecDeque::new(),
            services: parts.services,
            codec: parts.codec,
            process: parts.process,
            reset: parts.reset,
            listeners: Vec::new(),
            stopped: EndpointStats::default(),
            answers: Answers::default(),
            ahead: Ahead::new(),
            resets: Resets::default(),
            lingering: VecDeque::new(),
            admission: Admission::new(limits),
            waiting: Waiting::default(),
            pressure: PressureGauge::new(duration_ns(limits.queue_delay_max)),
            moves: Moves::default(),
            has_clients: false,
            counters: LaneCounters::default(),
            ended: Ended::default(),
        }
    }

    /// The number of the worker.
    #[must_use]
    pub(crate) fn number(&self) -> usize {
        self.services.worker()
    }

    /// The time of this turn.
    #[must_use]
    pub(crate) fn now(&self) -> Instant {
        self.services.now()
    }

    /// Begins a turn. Time never runs back.
    pub fn set_now(&mut self, now: Instant) {
        self.services.set_now(now);
        while self.lingering.front().is_some_and(|(until, ..)| *until <= now) {
            self.forget_initial();
        }
        self.release_places(now);
    }

    /// Judges the load, at the beginning of a turn with this queue delay: what is done about new
    /// connections.
    pub(crate) fn weigh(&mut self, queue_delay_ns: u64) {
        let now = self.services.now();
        let wants_retry = self.admission.weigh_handshakes() || self.waiting.is_overrun(now);
        let Some(pressure) = self.pressure.judge(now, queue_delay_ns, wants_retry) else { return };
        self.counters.pressure_changes += 1;
        let worker = self.services.worker();
        tracing::info!(worker, ?pressure, queue_delay_ns, "new connections are treated otherwise");
        self.tell_pressure(pressure);
    }

    /// The counters.
    #[must_use]
    pub(crate) fn counters(&self) -> LaneCounters {
        LaneCounters {
            connections: self.table.len() as u64,
            handshakes: self.admission.handshakes() as u64,
            handshake_bytes: self.admission.handshake_bytes(),
            initials_waiting: self.waiting.len() as u64,
            pressure: self.pressure.now() as u64,
            memory_bytes: self.admission.memory_bytes(),
            callback_panics: self.services.panics,
            ..self.counters
        }
    }

    /// The counters of connections that are over.
    pub(super) fn ended(&self) -> &Ended {
        &self.ended
    }

    /// True when no connection is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// True when a turn at this time would find something to do without any new datagram:
    /// do not sleep.
    #[must_use]
    pub(crate) fn is_busy(&self) -> bool {
        !self.touched.is_empty()
            || !self.answers.is_empty()
            || self.waiting.len() > 0
            || self.services.jobs() > 0
            || self.services.has_orders()
            || self.moves.is_busy()
    }

    /// Nothing is due before this instant, unless something arrives.
    #[must_use]
    pub(crate) fn next_timeout(&self) -> Instant {
        if self.is_busy() {
            return self.now();
        }
        let timers = self.wheel.next_expiry().min(self.services.next_timer());
        let load = self.pressure.next_step(self.now()).min(self.waiting.overrun_until());
        timers.min(self.moves.next_timeout()).min(load)
    }

    /// True while calls of handles may be taken out of the inbox.
    pub(super) fn takes_commands(&self) -> bool {
        self.moves.takes_calls()
    }

    pub(super) fn services(&mut self) -> &mut Services {
        &mut self.services
    }

    pub(super) fn counters_mut(&mut self) -> &mut LaneCounters {
        &mut self.counters
    }

    /// Serves the timers of connections that have come due, as far as the budget goes. Returns
    /// how many.
    pub(crate) fn expire(&mut self) -> usize {
        let now = self.services.now();
        let mut served = 0;
        while served < TIMER_BUDGET
            && let Some(slot) = self.wheel.pop_due(now)
        {
            served += 1;
            if let Some((_, entry)) = self.table.get_slot(slot) {
                let (connection, mut application) = entry.split(&mut self.services);
                connection.handle_timeout(now, &mut application);
                let idle = now.ns_since(entry.seat.touched_at) >= IDLE_NS;
                if idle && !entry.seat.shrunk {
                    entry.connection.shrink();
                    entry.seat.shrunk = true;
                }
                enlist(&mut self.touched, &mut entry.seat);
            }
        }
        self.counters.timers += served as u64;
        served
    }

    /// Shows every connection to `look`, with a number that no later connection of the lane
    /// gets: for simulations, which check after each turn what must hold between turns.
    pub fn inspect(&mut self, mut look: impl FnMut(u64, &Connection)) {
        for slot in 0..self.table.slots() as u32 {
            if let Some((key, entry)) = self.table.get_slot(slot) {
                let id = u64::from(key.generation) << 32 | u64::from(slot);
                look(id, &entry.connection);
            }
        }
    }

    /// Closes every connection that is not closing yet, with an application code, and those that
    /// still come from other workers.
    pub fn close_all(&mut self, code: u64) {
        self.moves.finish(code);
        let now = self.services.now();
        for slot in 0..self.table.slots() as u32 {
            if let Some((_, entry)) = self.table.get_slot(slot)
                && !entry.connection.is_closed()
            {
                let (connection, mut application) = entry.split(&mut self.services);
                connection.close(now, code, bytes::Bytes::new());
                connection.deliver_events(&mut application);
                touch(&mut self.touched, &mut entry.seat, now);
            }
        }
    }

    /// An id that leads to `key`.
    fn new_cid(&mut self, key: Key) -> ConnectionId {
        let worker = self.services.worker() as u16;
        let Key { slot, generation } = key;
        let route = Route { process: self.process, worker, slot, generation };
        self.codec.encode(route, self.services.entropy.number())
    }

    /// A route to another worker for a datagram whose id names no slot: what stands there tells flows apart.
    fn stand_in(&self, worker: u16, digest: u64) -> Route {
        Route { process: self.process, worker, slot: digest as u32, generation: 0 }
    }

    /// What is due after a connection has written: its timer, and its removal.
    fn settle(&mut self, slot: u32) {
        let now = self.services.now();
        let Some((key, entry)) = self.table.get_slot(slot) else { return };
        if now.ns_since(entry.seat.measured_at) >= admission::MEASURE_NS || entry.seat.over {
            admission::measure(&mut self.admission, entry, now);
        }
        if entry.connection.is_drained() {
            return self.remove(key);
        }
        let moves = entry.seat.move_state.is_some();
        if entry.seat.over {
            self.services.end_all(&mut entry.seat);
        }
        if entry.seat.panicked {
            discard(&mut self.services, std::mem::replace(&mut entry.handler, Box::new(())));
            discard_streams(&mut self.services, entry.seat.stream_handlers.take());
        }
        let mut at = entry.connection.next_timeout().unwrap_or(Instant::NEVER);
        if !entry.seat.shrunk {
            at = at.min(entry.seat.touched_at.plus_ns(IDLE_NS));
        }
        self.wheel.set(slot, at);
        if moves {
            self.note_retired_ids(key);
        }
    }

    /// A handshake is done: the id that the client chose is remembered for a while.
    fn handshake_done(&mut self, key: Key, handshake: &Handshake, source: Option<Source>) {
        if let Some(source) = source {
            self.admission.done(source, handshake.proven);
        }
        if self.lingering.len() >= LINGERING_IDS {
            self.forget_initial();
        }
        let until = self.services.now().plus_ns(INITIAL_LINGER_NS);
        self.lingering.push_back((until, handshake.initial, key));
    }

    /// Forgets the id that has been remembered longest.
    fn forget_initial(&mut self) {
        if let Some((_, initial, key)) = self.lingering.pop_front() {
            self.forget_handshake(&initial, key);
        }
    }

    /// A place that a client had is free.
    fn client_left(&mut self, key: Key, handshake: Option<&Handshake>, source: Source) {
        match handshake {
            None => self.admission.left(source),
            Some(handshake) => {
                self.counters.handshakes_failed += 1;
                self.admission.gave_up(self.services.now(), source, handshake.proven);
                self.forget_handshake(&handshake.initial, key);
            }
        }
    }

    /// The place of a connection is free. The books come first: what follows runs code of the
    /// application, and whatever that does, nothing is left of the connection here.
    fn remove(&mut self, key: Key) {
        let Some(mut entry) = self.table.remove(key) else { return };
        self.wheel.remove(key.slot);
        if let Some(move_state) = &entry.seat.move_state {
            self.end_move(key, move_state);
        }
        self.ended.add(&entry.connection);
        admission::release(&mut self.admission, &entry);
        if let Some(source) = entry.seat.source {
            self.client_left(key, entry.seat.handshake.as_deref(), source);
        }
        self.leave_reset(key, entry.seat.reset);
        self.part_with(&mut entry);
        discard(&mut self.services, entry);
    }

    /// Tells an application that its connection has left its place, and drops what is its own.
    fn part_with(&mut self, entry: &mut Entry) {
        let told = guarded(|| {
            let (connection, mut application) = entry.split(&mut self.services);
            application.drained(connection);
        });
        if let Err(message) = told {
            tracing::error!(message, "a connection panicked as it left its place");
            self.services.panics += 1;
        }
        self.services.end_all(&mut entry.seat);
        // One by one: a second panic while a first one unwinds would end the process.
        discard(&mut self.services, std::mem::replace(&mut entry.handler, Box::new(())));
        discard_streams(&mut self.services, entry.seat.stream_handlers.take());
        let move_state = entry.seat.move_state.take();
        discard(&mut self.services, move_state);
    }

    /// The worker ends: connections that are still closing leave their places.
    pub(super) fn finish(&mut self) {
        for slot in 0..self.table.slots() as u32 {
            if let Some((key, _)) = self.table.get_slot(slot) {
                self.remove(key);
            }
        }
    }
}

fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Something happened to a connection.
fn touch(touched: &mut VecDeque<u32>, seat: &mut Seat, now: Instant) {
    seat.touched_at = now;
    seat.shrunk = false;
    enlist(touched, seat);
}

/// Puts a connection on the touched list, once.
fn enlist(touched: &mut VecDeque<u32>, seat: &mut Seat) {
    if !seat.touched {
        seat.touched = true;
        touched.push_back(seat.key.slot);
    }
}
