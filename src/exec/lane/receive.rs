//! From a datagram to the connection that it belongs to.
//!
//! The destination id decides (RFC 9000 §5.2):
//!
//! 1. one that we issued says worker, slot and generation. Another worker: the datagram is
//!    handed over. This worker, and the generation fits: that is the connection;
//! 2. one that a client chose for a handshake under way is in the table's map, or in that of the
//!    worker that `exec/owners.rs` names;
//! 3. one that leads nowhere may stand in a stateless reset: its last 16 bytes are the token;
//! 4. otherwise a listener's endpoint judges: a client Initial, an answer without state, nothing.

use super::accept::Answer;
use super::waiting::Aside;
use super::{Lane, touch};
use crate::datapath::RxMeta;
use crate::exec::address::{Home, Key};
use crate::exec::api::Way;
use crate::exec::pressure::Pressure;
use crate::exec::table::InitialKey;
use crate::lb::{CID_LEN, Route};
use crate::proto::connection::Ends;
use crate::proto::endpoint::{Context, Incoming};
use crate::wire::ConnectionId;
use crate::wire::packet::{self, Form};

/// The reason phrase for a client that is refused at the application's wish.
const NOT_NOW: &str = "no new connections for now";
/// The reason phrase for a client that is refused for reasons of load.
const BUSY: &str = "too busy for a new connection";

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Routed {
    /// This lane took it in.
    Here,
    /// It is untouched, and belongs to the worker that this names.
    Elsewhere(Route),
    /// It is untouched, and belongs to a process that this one has taken over from: to this worker of it, if
    /// it has that many.
    Before(u8, u16),
    /// It belongs to no connection and no listener here; counted.
    Dropped,
}

/// Where a datagram arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    /// The datapath, by number: the same on every worker.
    pub(crate) datapath: usize,
    /// The worker.
    pub(crate) worker: usize,
}

impl Lane {
    /// Takes in a datagram that arrived at `datapath`. It is decrypted where it lies.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        datapath: usize,
        meta: &RxMeta,
        datagram: &mut [u8],
    ) -> Routed {
        let worker = self.services.worker();
        self.counters.rx_datagrams += 1;
        self.receive_from(Arrived { datapath, worker }, meta, datagram)
    }

    /// As [`receive`](Self::receive), of a datagram that arrived at the worker that `at` names.
    pub(super) fn receive_from(
        &mut self,
        at: Arrived,
        meta: &RxMeta,
        datagram: &mut [u8],
    ) -> Routed {
        let Some((form, dcid)) = packet::destination(datagram, CID_LEN) else {
            if let Some(routed) = self.forgotten_by_peer(meta, datagram) {
                return routed;
            }
            if let Some(listener) = self.hears(at, meta)
                && let Some(routed) = self.answer_health(listener, at, meta, datagram)
            {
                return routed;
            }
            self.counters.rx_unroutable += 1;
            return Routed::Dropped;
        };
        // Of all that a connection is given, this alone is not authenticated.
        if form == Form::Long && packet::negotiates_version(datagram) && !meta.is_intact(datagram) {
            self.counters.rx_damaged += 1;
            return Routed::Dropped;
        }
        let route = self.ahead.route(dcid).unwrap_or_else(|| self.codec.decode(dcid));
        if let Some(route) = route
            && route.process != self.process
        {
            if let Some(routed) = self.receive_of_predecessor(route) {
                return routed;
            }
        } else if let Some(route) = route {
            let key = Key { slot: route.slot, generation: route.generation };
            if usize::from(route.worker) != self.services.worker() {
                if let Some(routed) = self.receive_of_other(route, at, meta, datagram) {
                    return routed;
                }
            } else if self.receive_on(key, at, meta, datagram) {
                return Routed::Here;
            } else if let Some(home) = self.moved_to(key) {
                return Routed::Elsewhere(home.route(self.process));
            }
        } else if form == Form::Long
            && let Some(dcid) = ConnectionId::new(dcid)
        {
            let initial = InitialKey { dcid, remote: meta.path.remote };
            if let Some(key) = self.table.find_initial(&initial) {
                if self.receive_on(key, at, meta, datagram) {
                    return Routed::Here;
                }
                // A late copy, and its connection is over, or elsewhere: it must not begin another.
                self.counters.rx_late_initials += 1;
                return Routed::Dropped;
            }
            if let Some(route) = self.begun_elsewhere(&initial) {
                return Routed::Elsewhere(route);
            }
        }
        if let Some(routed) = self.forgotten_by_peer(meta, datagram) {
            return routed;
        }
        self.judge((form, route.is_some()), at, meta, datagram)
    }

    /// A datagram that arrived at another worker, which handed it over.
    pub(crate) fn receive_handed(
        &mut self,
        at: Arrived,
        meta: &RxMeta,
        datagram: &mut [u8],
    ) -> Routed {
        self.counters.rx_datagrams += 1;
        match self.receive_from(at, meta, datagram) {
            // Who forwarded it has sent its connection before it.
            Routed::Elsewhere(_) if self.take_arrivals() > 0 => {
                self.receive_from(at, meta, datagram)
            }
            routed => routed,
        }
    }

    /// A datagram whose id names another worker. `None` if there is no such worker: the id is from
    /// before a restart, with more workers.
    fn receive_of_other(
        &mut self,
        route: Route,
        at: Arrived,
        meta: &RxMeta,
        datagram: &mut [u8],
    ) -> Option<Routed> {
        if let Some(key) = self.moves.alias(Home::of(route))
            && self.receive_on(key, at, meta, datagram)
        {
            return Some(Routed::Here);
        }
        let exists = usize::from(route.worker) < self.services.fleet().len();
        exists.then_some(Routed::Elsewhere(route))
    }

    /// A datagram whose id is of another process. `None` if that has ended.
    #[cold]
    fn receive_of_predecessor(&self, route: Route) -> Option<Routed> {
        let lives = self.services.fleet().predecessors().is_some_and(|all| all.has(route.process));
        lives.then_some(Routed::Before(route.process, route.worker))
    }

    /// Who gets a datagram that no connection and no listener here is for, while this process takes over.
    fn receive_of_nobody(&self) -> Option<Routed> {
        let process = self.services.fleet().predecessors()?.for_unknown()?;
        Some(Routed::Before(process, self.services.worker() as u16))
    }

    /// Gives a datagram to the connection `key`; false if there is none.
    fn receive_on(&mut self, key: Key, at: Arrived, meta: &RxMeta, datagram: &mut [u8]) -> bool {
        let Some(entry) = self.table.get(key) else { return false };
        if self.waiting.in_burst && entry.seat.is_unasked() {
            self.put_aside_for(key, at, meta, datagram);
            return true;
        }
        let now = self.services.now();
        let ends = Ends { local: &meta.path.local, remote: &meta.path.remote };
        let (connection, mut application) = entry.split(&mut self.services);
        let path = connection.receive(now, ends, meta.ecn, datagram, &mut application);
        // Only an authentic packet may say how the peer is reached.
        if let Some(path) = path
            && (path != entry.seat.way.path || entry.seat.way.link != meta.path.link)
        {
            let way = Way { path, datapath: at.datapath, link: meta.path.link };
            let connection = &entry.connection;
            entry.seat.learn(way, |path| connection.has_path(path));
        }
        touch(&mut self.touched, &mut entry.seat, now);
        self.waiting.given += u64::from(entry.seat.handshake.is_none());
        let is_handshake = entry.seat.handshake.is_some();
        if at.worker == self.services.worker() {
            entry.seat.astray.count = 0;
        } else if path == Some(entry.connection.path_id()) {
            self.note_astray(key, at.worker as u16);
        }
        if is_handshake {
            self.ask_about(key);
        }
        true
    }

    /// The listener that a datagram is for, by its place.
    fn hears(&self, at: Arrived, meta: &RxMeta) -> Option<usize> {
        self.listeners.iter().position(|l| l.hears(at.datapath, meta.path.local))
    }

    /// What to do about a datagram of no connection, by its form and whether its id is of this host.
    fn judge(
        &mut self,
        (form, ours): (Form, bool),
        at: Arrived,
        meta: &RxMeta,
        datagram: &mut [u8],
    ) -> Routed {
        let Some(listener) = self.hears(at, meta) else {
            if let Some(routed) = self.receive_of_nobody() {
                return routed;
            }
            self.counters.rx_unroutable += 1;
            return Routed::Dropped;
        };
        let begins = form == Form::Long && packet::is_initial(datagram);
        let refusal = if begins { self.reason_to_refuse(listener) } else { None };
        if begins && self.pressure.now() == Pressure::Shed {
            self.counters.initials_shed += 1;
            return Routed::Dropped;
        }
        if form == Form::Long && refusal.is_none() {
            match self.put_aside(listener, at, meta, datagram) {
                Aside::No => {}
                Aside::Waits => return Routed::Here,
                Aside::Dropped => return Routed::Dropped,
            }
        }
        if form == Form::Short
            && let Some(routed) = self.answer_health(listener, at, meta, datagram)
        {
            return routed;
        }
        self.counters.rx_unknown += 1;
        let datapath = at.datapath;
        let mut answer = self.answers.vacant();
        let mut context = self.context(form, meta, &mut answer.bytes[..]);
        context.issued_here = ours;
        context.intact = meta.is_intact(datagram);
        let endpoint = &mut self.listeners[listener].endpoint;
        let incoming = match refusal {
            Some(reason) => endpoint.refuse_unread(datagram, reason, &mut context),
            None => endpoint.incoming(datagram, CID_LEN, &mut context),
        };
        match incoming {
            Incoming::Answer(len) => {
                return self.reply(Answer { datapath, path: Some(meta.path), len, ..answer });
            }
            Incoming::Accept(initial) => {
                self.answers.give_back(answer);
                self.accept_initial(listener, initial, datapath, meta, datagram);
                return Routed::Here;
            }
            Incoming::Forged => self.counters.refused_broken += 1,
            Incoming::Drop => {}
        }
        self.answers.give_back(answer);
        Routed::Dropped
    }

    /// Counts a client that is refused, at the application's wish or for reasons of load. The reason
    /// phrase for it; `None` if it is not.
    fn reason_to_refuse(&mut self, listener: usize) -> Option<&'static str> {
        if self.pressure.now() == Pressure::Refuse {
            self.counters.refused_pressure += 1;
            return Some(BUSY);
        }
        let by_wish = self.listeners[listener].is_refusing();
        self.counters.refused_by_wish += u64::from(by_wish);
        by_wish.then_some(NOT_NOW)
    }

    /// Answers a datagram that is a health check; `None` if it is none.
    fn answer_health(
        &mut self,
        listener: usize,
        at: Arrived,
        meta: &RxMeta,
        datagram: &[u8],
    ) -> Option<Routed> {
        let now = self.services.now();
        let said = self.listeners[listener].endpoint.answer_health(now, datagram)?;
        let (mut answer, len) = (self.answers.vacant(), said.len());
        answer.bytes[..len].copy_from_slice(said);
        let (datapath, path) = (at.datapath, Some(meta.path));
        Some(self.reply(Answer { datapath, path, len, ..answer }))
    }

    /// What an endpoint gets of a datagram besides its bytes.
    pub(super) fn context<'a>(
        &mut self,
        form: Form,
        meta: &RxMeta,
        answer: &'a mut [u8],
    ) -> Context<'a> {
        let (now, remote) = (self.services.now(), meta.path.remote);
        // A client Initial never has a short header.
        let table_full = self.table.next_key().is_none();
        let crowded = form == Form::Long
            && (self.pressure.now() >= Pressure::Retry
                || self.admission.is_crowded(now, remote, table_full));
        let handshakes = self.admission.pressure(now);
        let (issued_here, intact, random) = (false, true, self.services.entropy.bytes());
        Context { now, remote, handshakes, crowded, issued_here, intact, random, answer }
    }

    /// Sends an answer with the next transmission, if not too many wait for it.
    pub(super) fn reply(&mut self, answer: Answer) -> Routed {
        if self.answers.push(answer) {
            return Routed::Here;
        }
        self.counters.answers_dropped += 1;
        Routed::Dropped
    }
}
