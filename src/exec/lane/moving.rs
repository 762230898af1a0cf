//! A connection goes from one worker to another.
//!
//! The NIC chooses the queue that a datagram arrives on, and each queue has its worker. When the NIC
//! is told to choose differently, or the peer's address changes, the datagrams of a connection arrive
//! at another worker than its own. They are handed over one by one, at the cost of a copy each; so
//! the connection follows them:
//!
//! ```text
//!   worker A: has the connection                   worker B: its datagrams arrive here
//!
//!   some in a row came from B
//!   the application agrees      -- Offer -->       keeps a place in its table
//!                               <- Accept --
//!   packs it: timers, watches,
//!   closures; its slot says:
//!   "at B"                      -- Arrive ->       seats it; its old id leads here (an alias)
//!   calls posted to A           -- Call --->       carried out first
//!   no more will come           -- Settled>        then those posted to B
//!                                                  the peer gets ids that name B, retires the others
//!   its slot is free            <- Release-        half a second after that
//! ```
//!
//! Who has the connection is decided by the message that carries it: no lock is needed, and at no
//! instant do two workers reach it. A datagram that A gets meanwhile is forwarded, and one that
//! comes to B before the connection does goes to A and back. A connection does not move again before
//! its former place is released, which a peer delays at its own cost: its datagrams are handed over
//! one by one then. A worker agrees to no more connections than its ring of arrivals can hold.
//!
//! A connection moves only when its handshake is confirmed, and only after
//! [`LaneLimits::move_after`](crate::exec::LaneLimits::move_after) authentic datagrams of its active,
//! validated path in a row arrived at one other worker: a stray one moves nothing.

use super::super::address::{Address, Home, Key, Place, Settling};
use super::super::api::{Entry, MoveState, Processor};
use super::super::handoff::{INCOMING_MAX, Inbox};
use super::super::message::{Command, Move, Op, Transfer};
use super::adapter::discard;
use super::command::perform;
use super::{Lane, admission, touch};
use crate::proto::source::Source;
use crate::time::{Instant, MILLISECOND_NS, SECOND_NS};
use crate::wire::Side;
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::hash::RandomState;
use std::sync::Arc;

/// Messages about moves that are taken in one turn.
const MOVE_BUDGET: usize = 128;
/// How long an id that the peer has retired is known: packets that carry it may be on their way.
const RELEASE_LINGER_NS: u64 = 500 * MILLISECOND_NS;
/// How long a connection is not offered again to a worker that had no place for it.
const DECLINED_NS: u64 = SECOND_NS;
/// How long a connection whose application was asked is not asked again, for any worker: a peer that sends
/// from many ports in turn could ask with each datagram.
const QUESTION_PAUSE_NS: u64 = 100 * MILLISECOND_NS;
/// Calls of handles that may wait for those posted before a move. Beyond it the worker takes no calls
/// out of its inbox, which is bounded too.
const HELD_MAX: usize = 4096;

/// The moves of a lane's connections.
#[derive(Default)]
pub(super) struct Moves {
    /// Connections whose datagrams arrive elsewhere, and where.
    astray: Vec<(Key, u16)>,
    /// Connections that came from elsewhere, by the place that their old ids name.
    aliases: HashMap<Home, Key, RandomState>,
    settling: Vec<Settling>,
    /// Connections that wait for the calls which their former worker still has, and that worker.
    awaiting: Vec<(Key, u16)>,
    /// The sources of connections that have left, whose places here are still taken.
    left: HashMap<Key, Source, RandomState>,
    /// Connections whose old ids are retired, with the time to forget these.
    releasing: VecDeque<(Instant, Key)>,
    /// Messages for which the receiver had no room.
    outbox: VecDeque<(u16, Move)>,
    /// Calls that wait for those posted before a move.
    held: usize,
    /// The lane closes all connections with this code.
    finishing: Option<u64>,
}

impl Moves {
    /// True if a turn would find something to do.
    pub(super) fn is_busy(&self) -> bool {
        !self.astray.is_empty() || !self.outbox.is_empty() || !self.settling.is_empty()
    }

    /// True while calls of handles may be taken out of the inbox.
    pub(super) fn takes_calls(&self) -> bool {
        self.outbox.is_empty() && self.held < HELD_MAX
    }

    /// A call was taken out of the inbox.
    #[inline]
    pub(super) fn call_taken(&mut self) {
        self.settling.iter_mut().for_each(Settling::call_taken);
    }

    /// The connection that an id of another worker's leads to, if it has moved here.
    pub(super) fn alias(&self, home: Home) -> Option<Key> {
        if self.aliases.is_empty() { None } else { self.aliases.get(&home).copied() }
    }

    /// A connection's datagrams arrive at another worker.
    pub(super) fn push_astray(&mut self, key: Key, at: u16) {
        self.astray.push((key, at));
    }

    /// True if nothing is left of any move.
    #[cfg(test)]
    pub(super) fn is_at_rest(&self) -> bool {
        let none = self.aliases.is_empty() && self.awaiting.is_empty() && self.left.is_empty();
        none && !self.is_busy() && self.releasing.is_empty() && self.held == 0
    }

    /// Nothing is due before this instant.
    pub(super) fn next_timeout(&self) -> Instant {
        self.releasing.front().map_or(Instant::NEVER, |(until, _)| *until)
    }

    /// Connections are closed as they arrive, and none leaves.
    pub(super) fn finish(&mut self, code: u64) {
        self.finishing = Some(code);
    }
}

impl Entry {
    /// True if the connection may move to worker `to`.
    fn may_move(&self, to: u16, now: Instant) -> bool {
        let free = self.seat.move_state.as_ref().is_none_or(|move_state| {
            let refused = move_state.refused.is_some_and(|(by, until)| by == to && now < until);
            let rests = move_state.rests_until.is_some_and(|until| now < until);
            // Calls that wait for those of the last move have to be carried out first.
            let is_over = move_state.former.is_none() && move_state.held.is_none();
            move_state.asked.is_none() && is_over && !refused && !rests
        });
        free && self.is_movable()
    }

    /// True from the confirmed handshake until the connection closes.
    fn is_movable(&self) -> bool {
        let connection = &self.connection;
        !self.seat.over
            && self.seat.handshake.is_none()
            && connection.is_confirmed()
            && connection.is_established()
            && connection.is_path_validated()
    }

    fn move_state(&mut self) -> &mut MoveState {
        self.seat.move_state.get_or_insert_default()
    }
}

impl Lane {
    /// An authentic datagram of the connection's active path arrived at worker `at`, and was handed
    /// over.
    #[cold]
    pub(super) fn note_astray(&mut self, key: Key, at: u16) {
        let (after, now) = (self.admission.limits().move_after, self.services.now());
        let Some(entry) = self.table.get(key) else { return };
        let seen = entry.seat.astray.note(at);
        if after == 0 || seen < after {
            return;
        }
        if entry.may_move(at, now) {
            self.moves.push_astray(key, at);
        } else if entry.seat.move_state.is_some() && seen.is_multiple_of(after) {
            // All that waits is looked at: not for each datagram.
            self.forget_ended(key);
        }
    }

    /// A connection waits for no worker that has ended: neither for its answer, nor for its calls.
    fn forget_ended(&mut self, key: Key) {
        self.settle_orphans();
        let asked = self.table.get(key).and_then(|entry| entry.move_state().asked);
        if asked.is_some_and(|asked| self.has_ended(asked)) {
            self.declined(key);
        }
    }

    /// Where the connection lives that was here. One that went to a worker which has ended is over.
    pub(super) fn moved_to(&mut self, key: Key) -> Option<Home> {
        let home = self.table.away(key)?;
        if self.has_ended(home.worker) {
            self.former_place_is_free(key);
            return None;
        }
        Some(home)
    }

    /// True if that worker carries out nothing any more.
    fn has_ended(&self, worker: u16) -> bool {
        self.services.fleet().inbox(worker.into()).is_none_or(|inbox| inbox.is_closed())
    }

    /// What is due of moves in this turn. Returns how many connections and messages were served.
    #[inline]
    pub(in crate::exec) fn serve_moves(&mut self) -> usize {
        let has_mail = self.inbox().is_some_and(|inbox| inbox.has_moves());
        if has_mail || self.moves.is_busy() || self.moves.held > 0 {
            self.serve_all_moves()
        } else {
            0
        }
    }

    #[cold]
    fn serve_all_moves(&mut self) -> usize {
        let mut work = self.take_arrivals();
        while work < MOVE_BUDGET
            && let Some(message) = self.inbox().and_then(|inbox| inbox.told())
        {
            work += 1;
            self.told(message);
        }
        if self.moves.is_busy() {
            work += self.serve_own_moves();
        }
        // What a worker that has ended had told is carried out first.
        if self.moves.held > 0 && work < MOVE_BUDGET {
            self.settle_orphans();
        }
        work
    }

    /// Where the former worker has ended, no more calls come from it.
    fn settle_orphans(&mut self) {
        let ended = |(key, former): &(Key, u16)| self.has_ended(*former).then_some(*key);
        let orphans: Vec<Key> = self.moves.awaiting.iter().filter_map(ended).collect();
        for key in orphans {
            self.settled(key);
        }
    }

    fn serve_own_moves(&mut self) -> usize {
        let mut astray = std::mem::take(&mut self.moves.astray);
        let count = astray.len();
        for (key, to) in astray.drain(..) {
            self.consider(key, to);
        }
        self.moves.astray = astray;
        self.settle_calls();
        self.empty_outbox();
        count
    }

    fn inbox(&self) -> Option<&Inbox<Command, Move>> {
        self.services.fleet().inbox(self.services.worker())
    }

    fn told(&mut self, message: Move) {
        match message {
            Move::Offer { from, key, source } => self.offered(from, key, source),
            Move::Accept { key, place } => self.accepted(key, place),
            Move::Decline { key } => self.declined(key),
            Move::Cancel { place } => self.table.release(place),
            Move::Arrive(transfer) => self.arrive(*transfer),
            Move::Call { target, op } => self.forwarded_call(target, op),
            Move::Settled { place } => self.settled(place),
            Move::Release { key } => self.former_place_is_free(key),
        }
    }

    /// Tells another worker, or keeps the message until there is room for it.
    pub(super) fn tell(&mut self, worker: u16, message: Move) {
        if !self.moves.outbox.is_empty() {
            return self.moves.outbox.push_back((worker, message));
        }
        if let Err(message) = self.try_tell(worker, message) {
            self.moves.outbox.push_back((worker, message));
        }
    }

    fn try_tell(&mut self, worker: u16, message: Move) -> Result<(), Move> {
        let fleet = self.services.fleet().clone();
        match fleet.inbox(worker.into()).filter(|inbox| !inbox.is_closed()) {
            Some(inbox) => inbox.tell(message),
            None => {
                // It has ended, and what it had with it.
                match message {
                    Move::Offer { key, .. } => self.declined(key),
                    Move::Accept { place, .. } => self.table.release(place.key),
                    other => discard(&mut self.services, other),
                }
                Ok(())
            }
        }
    }

    fn empty_outbox(&mut self) {
        // What is for one worker stays in order.
        let mut full: Vec<u16> = Vec::new();
        for (worker, message) in std::mem::take(&mut self.moves.outbox) {
            let refused =
                if full.contains(&worker) { Err(message) } else { self.try_tell(worker, message) };
            if let Err(message) = refused {
                full.push(worker);
                self.moves.outbox.push_back((worker, message));
            }
        }
    }

    /// No id leads any more to where a connection was.
    fn former_place_is_free(&mut self, key: Key) {
        self.table.release(key);
        if let Some(source) = self.moves.left.remove(&key) {
            self.admission.left(source);
        }
    }

    // ---- the worker that has the connection -------------------------------------------------

    /// Offers a connection to the worker at which its datagrams arrive, if its application agrees.
    fn consider(&mut self, key: Key, to: u16) {
        let (now, cpu) = (self.services.now(), self.services.fleet().cpu(to.into()));
        if self.moves.finishing.is_some() {
            return;
        }
        let Some(entry) = self.table.get(key).filter(|entry| entry.may_move(to, now)) else {
            return;
        };
        let processor = Processor { worker: to.into(), cpu };
        let (connection, mut application) = entry.split(&mut self.services);
        let agrees = application.ideal_processor_changed(connection, processor);
        connection.deliver_events(&mut application);
        touch(&mut self.touched, &mut entry.seat, now);
        entry.move_state().rests_until = Some(now.plus_ns(QUESTION_PAUSE_NS));
        if !agrees {
            entry.move_state().refused = Some((to, Instant::NEVER));
            self.counters.moves_vetoed += 1;
            return;
        }
        entry.move_state().asked = Some(to);
        let (from, source) = (self.services.worker() as u16, entry.seat.source);
        self.tell(to, Move::Offer { from, key, source });
    }

    fn declined(&mut self, key: Key) {
        let until = self.services.now().plus_ns(DECLINED_NS);
        let Some(entry) = self.table.get(key) else { return };
        if let Some(by) = entry.move_state().asked.take() {
            entry.move_state().refused = Some((by, until));
            self.counters.moves_declined += 1;
        }
    }

    fn accepted(&mut self, key: Key, place: Home) {
        let open = self.moves.finishing.is_none();
        let goes = self.table.get(key).is_some_and(|entry| {
            let asked = entry.move_state().asked.take();
            open && asked == Some(place.worker) && entry.is_movable()
        });
        if goes {
            self.depart(key, place);
        } else {
            self.tell(place.worker, Move::Cancel { place: place.key });
        }
    }

    /// Sends a connection away.
    fn depart(&mut self, key: Key, place: Home) {
        let Some(mut entry) = self.table.depart(key, place) else { return };
        let former = Home { worker: self.services.worker() as u16, key };
        let belongings = self.services.pack(&mut entry.seat);
        self.wheel.remove(key.slot);
        self.leave_reset(key, entry.seat.reset.take());
        admission::release(&mut self.admission, &entry);
        entry.seat.held_bytes = 0;
        // It stays on the account of its source until its place here is free.
        self.moves.left.extend(entry.seat.source.map(|source| (key, source)));
        // Its slot may still be on the list, and finds nothing there.
        entry.seat.touched = false;
        let address = entry.seat.address.as_ref().map(|address| Arc::clone(address));
        let left_at = self.services.now();
        let transfer =
            Transfer { former, place: place.key, entry: Some(entry), belongings, left_at };
        self.counters.moved_out += 1;
        let fleet = self.services.fleet().clone();
        // There is room: a place was kept. A worker that has ended drops it.
        let message = Move::Arrive(Box::new(transfer));
        let refused = match fleet.inbox(place.worker.into()) {
            Some(inbox) => inbox.deliver(message),
            None => Err(message),
        };
        if let Err(message) = refused {
            self.former_place_is_free(key);
            return discard(&mut self.services, message);
        }
        if let Some(address) = address {
            self.moves.settling.push(Address::move_on(address, former, place));
        }
    }

    /// Tells new owners when all calls that were posted here are forwarded.
    fn settle_calls(&mut self) {
        let fleet = self.services.fleet().clone();
        let inbox = fleet.inbox(self.services.worker());
        let waiting = || inbox.map_or(0, |inbox| inbox.waiting());
        let mut done = Vec::new();
        self.moves.settling.retain_mut(|settling| {
            let ends = settling.ends(waiting);
            if ends {
                done.push(settling.to());
            }
            !ends
        });
        for to in done {
            self.tell(to.worker, Move::Settled { place: to.key });
        }
    }

    // ---- the worker that gets it --------------------------------------------------------------

    fn offered(&mut self, from: u16, key: Key, source: Option<Source>) {
        let room = self.moves.finishing.is_none()
            && self.table.reserved() < INCOMING_MAX
            && !self.admission.is_out_of_memory()
            && source.is_none_or(|source| self.admission.has_room_for(source));
        let place = if room { self.table.reserve() } else { None };
        let worker = self.services.worker() as u16;
        self.tell(
            from,
            match place {
                Some(place) => Move::Accept { key, place: Home { worker, key: place } },
                None => Move::Decline { key },
            },
        );
    }

    /// Seats the connections that have come. Returns how many.
    pub(super) fn take_arrivals(&mut self) -> usize {
        let mut taken = 0;
        while let Some(message) = self.inbox().and_then(|inbox| inbox.arrival()) {
            taken += 1;
            self.told(message);
        }
        taken
    }

    fn arrive(&mut self, mut transfer: Transfer) {
        // Time never runs back for a connection either.
        self.services.set_now(transfer.left_at);
        let now = self.services.now();
        let (former, place) = (transfer.former, transfer.place);
        let belongings = std::mem::take(&mut transfer.belongings);
        let Some(mut entry) = transfer.entry.take() else { return };
        let seat = &mut entry.seat;
        (seat.key, seat.astray) = (place, Default::default());
        let held = seat.address.as_ref().map(|_| VecDeque::new());
        if held.is_some() {
            self.moves.awaiting.push((place, former.worker));
        }
        seat.move_state =
            Some(Box::new(MoveState { former: Some(former), held, ..MoveState::default() }));
        let lost = self.services.unpack(seat, belongings);
        self.counters.watches_lost += lost.len() as u64;
        if let Some(source) = seat.source {
            self.admission.arrived(source);
        }
        entry.connection.replace_cids();
        self.wheel.grow(self.table.slots());
        self.counters.moved_in += 1;
        self.has_clients |= entry.connection.side() == Side::Client;
        let Ok(entry) = self.table.seat(place, entry) else {
            unreachable!("a place was kept for it")
        };
        self.moves.aliases.insert(former, place);
        admission::measure(&mut self.admission, entry, now);
        let (connection, mut application) = entry.split(&mut self.services);
        application.moved(connection, former.worker.into());
        for token in lost {
            application.lost_watch(connection, token);
        }
        if let Some(code) = self.moves.finishing {
            connection.close(now, code, Bytes::new());
        }
        connection.deliver_events(&mut application);
        touch(&mut self.touched, &mut entry.seat, now);
        self.enter_reset(place);
    }

    /// Keeps a call back until those that were posted before the move are carried out. Gives it back
    /// if there is nothing to wait for.
    pub(super) fn hold(&mut self, key: Key, op: Op) -> Option<Op> {
        if self.table.is_reserved(key) {
            // It has been sent: its new address was written after that.
            self.take_arrivals();
        }
        let move_state = self.table.get(key).and_then(|entry| entry.seat.move_state.as_mut());
        let Some(held) = move_state.and_then(|move_state| move_state.held.as_mut()) else {
            return Some(op);
        };
        held.push_back(op);
        self.moves.held += 1;
        None
    }

    fn forwarded_call(&mut self, target: Arc<Address>, op: Op) {
        match target.place() {
            Place::At(worker, key) if usize::from(worker) == self.services.worker() => {
                if self.table.is_reserved(key) {
                    self.take_arrivals();
                }
                if !self.with(key, |connection, adapter| perform(connection, adapter, op)) {
                    self.counters.commands_late += 1;
                }
            }
            Place::At(worker, _) => self.tell(worker, Move::Call { target, op }),
            Place::Pending | Place::Gone => {
                self.counters.commands_late += 1;
                discard(&mut self.services, op);
            }
        }
    }

    /// All calls that were posted before the move are carried out: those that waited are next.
    fn settled(&mut self, place: Key) {
        if self.table.is_reserved(place) {
            self.take_arrivals();
        }
        self.moves.awaiting.retain(|(key, _)| *key != place);
        let held = self.table.get(place).and_then(|entry| entry.move_state().held.take());
        let held = held.unwrap_or_default();
        // All at once: a call that panics takes the rest with it.
        self.moves.held -= held.len();
        for op in held {
            if !self.with(place, |connection, adapter| perform(connection, adapter, op)) {
                self.counters.commands_late += 1;
            }
        }
    }

    /// After a connection has written: perhaps nothing leads to its former place any more.
    #[cold]
    pub(super) fn note_retired_ids(&mut self, key: Key) {
        let until = self.services.now().plus_ns(RELEASE_LINGER_NS);
        let Some(entry) = self.table.get(key) else { return };
        let replaced = entry.connection.has_replaced_cids();
        let move_state = entry.move_state();
        if move_state.former.is_some() && !replaced && !move_state.releasing {
            move_state.releasing = true;
            self.moves.releasing.push_back((until, key));
        }
    }

    /// Gives up the former places of connections whose old ids were retired long enough ago.
    pub(super) fn release_places(&mut self, now: Instant) {
        while self.moves.releasing.front().is_some_and(|(until, _)| *until <= now) {
            let Some((_, key)) = self.moves.releasing.pop_front() else { return };
            let Some(entry) = self.table.get(key) else { continue };
            entry.move_state().releasing = false;
            if let Some(former) = entry.move_state().former.take() {
                self.release_former(former);
            }
        }
    }

    fn release_former(&mut self, former: Home) {
        self.moves.aliases.remove(&former);
        self.tell(former.worker, Move::Release { key: former.key });
    }

    /// A connection is gone: so is what was left of its move.
    pub(super) fn end_move(&mut self, key: Key, move_state: &MoveState) {
        if move_state.held.is_some() {
            self.moves.awaiting.retain(|(waiting, _)| *waiting != key);
        }
        let late = move_state.held.as_ref().map_or(0, VecDeque::len);
        self.moves.held -= late;
        self.counters.commands_late += late as u64;
        if let Some(former) = move_state.former {
            self.release_former(former);
        }
    }
}
