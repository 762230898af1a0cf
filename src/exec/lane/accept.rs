//! Listeners: which clients get a connection, and what is answered without one.

use super::super::address::{Key, OwnedAddress};
use super::super::api::{Handshake, Seat};
use super::super::message::Listener;
use super::super::overrun::Callback;
use super::super::pressure::Pressure;
use super::super::table::InitialKey;
use super::adapter::{discard, guarded};
use super::admission::{self, NoPlace};
use super::deciding::{ask, carry_out};
use super::{Entry, Lane, enlist};
use crate::datapath::{MAX_BURST, Path, RxMeta};
use crate::lb::Route;
use crate::proto::connection::Ends;
use crate::proto::connection::{Application, Connection, Event};
use crate::proto::endpoint::{ClientInitial, EndpointStats, Place};
use crate::wire::StreamId;
use crate::wire::packet::Form;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;

/// Answers that wait for the next transmission: as many as a turn can take in datagrams, from the
/// datapath and from other workers. The endpoint limits their rate in the long run; this limits
/// what waits for a datapath that is full.
const ANSWERS: usize = 2 * MAX_BURST;
/// The largest answer: a Retry with a token, far below it.
const ANSWER_BYTES: usize = 1200;

/// The reason phrase for a client for which there is no place.
const NO_ROOM: &str = "no room for another connection";

impl Listener {
    /// True once it accepts nothing more.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// True while it refuses new connections.
    pub(super) fn is_refusing(&self) -> bool {
        self.refusing.iter().any(|refusing| refusing.load(Ordering::Relaxed))
    }

    /// True if a datagram to `local`, received at `datapath`, is for this listener.
    pub(super) fn hears(&self, datapath: usize, local: SocketAddr) -> bool {
        let any = match self.local.ip() {
            IpAddr::V4(ip) => ip.is_unspecified() && local.is_ipv4(),
            // An IPv6 socket receives IPv4 too.
            IpAddr::V6(ip) => ip.is_unspecified(),
        };
        self.datapath == datapath
            && self.local.port() == local.port()
            && (any || self.local.ip() == local.ip())
            && !self.is_over()
    }
}

/// A datagram that answers a datagram of no connection.
pub(super) struct Answer {
    pub(super) datapath: usize,
    pub(super) path: Option<Path>,
    pub(super) len: usize,
    pub(super) bytes: Box<[u8; ANSWER_BYTES]>,
}

/// Answers that wait, and free buffers.
#[derive(Default)]
pub(super) struct Answers {
    waiting: Vec<Answer>,
    spare: Vec<Answer>,
}

impl Answers {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A buffer to write an answer into, if there is to be one.
    pub(super) fn vacant(&mut self) -> Answer {
        let made =
            || Answer { datapath: 0, path: None, len: 0, bytes: Box::new([0; ANSWER_BYTES]) };
        self.spare.pop().unwrap_or_else(made)
    }

    /// Lets an answer wait; false if too many do already.
    pub(super) fn push(&mut self, answer: Answer) -> bool {
        let fits = self.waiting.len() < ANSWERS;
        if fits {
            self.waiting.push(answer);
        } else {
            self.spare.push(answer);
        }
        fits
    }

    pub(super) fn pop(&mut self) -> Option<Answer> {
        self.waiting.pop()
    }

    pub(super) fn give_back(&mut self, answer: Answer) {
        self.spare.push(answer);
    }
}

impl Lane {
    /// Accepts client Initials from now on.
    pub(in crate::exec) fn listen(&mut self, listener: Listener) {
        self.retire(Listener::is_over);
        self.listeners.push(listener);
    }

    /// Accepts no more client Initials for `id`; its connections go on.
    pub(in crate::exec) fn stop_listening(&mut self, id: u32) {
        self.retire(|listener| listener.id == id);
    }

    /// Drops listeners, and keeps what they have counted.
    fn retire(&mut self, over: impl Fn(&Listener) -> bool) {
        for listener in self.listeners.extract_if(.., |listener| over(listener)) {
            self.stopped.add(&listener.endpoint.stats());
            discard(&mut self.services, listener);
        }
    }

    /// Tells each listener what is done about new connections from now on.
    #[cold]
    pub(super) fn tell_pressure(&mut self, pressure: Pressure) {
        let worker = self.services.worker();
        for listener in &self.listeners {
            let entered = self.services.overruns.entered(Callback::Accept);
            let told = guarded(|| listener.acceptor.pressure_changed(worker, pressure));
            if let Err(message) = told {
                tracing::error!(message, "an acceptor panicked as it was told of the load");
                self.services.panics += 1;
            }
            self.services.overruns.left(Callback::Accept, entered);
        }
    }

    /// The counters of all listeners together, those that have stopped included.
    #[must_use]
    pub(crate) fn endpoint_stats(&self) -> EndpointStats {
        let mut all = self.stopped;
        for listener in &self.listeners {
            all.add(&listener.endpoint.stats());
        }
        all
    }

    /// Makes a connection of a client Initial, if there is a place, it is authentic, and the
    /// application wants it, in this order: a forged datagram never reaches the application.
    pub(super) fn accept_initial(
        &mut self,
        at: usize,
        initial: ClientInitial,
        datapath: usize,
        meta: &RxMeta,
        datagram: &mut [u8],
    ) {
        let (now, remote) = (self.services.now(), meta.path.remote);
        let (source, proven) = (self.admission.source(remote), initial.address_validated());
        // A client that has not proven its address gets here only if there is a place.
        if proven && let Err(why) = self.admit(remote, source) {
            return self.turn_away(at, &initial, datapath, meta, why);
        }
        let Some(key) = self.table.next_key() else {
            return self.turn_away(at, &initial, datapath, meta, NoPlace::Full);
        };
        self.admission.rates.take(now, remote.ip(), proven);
        self.waiting.begun += 1;
        let local_cid = self.new_cid(key);
        let (seed, grease) = (self.services.entropy.number(), self.services.entropy.number());
        let local = meta.path.local;
        let place = Place { now, local, remote, local_cid, seed, grease };
        let listener = &mut self.listeners[at];
        let initial_key = InitialKey { dcid: initial.initial_dcid, remote };
        let connection = listener.endpoint.accept(initial, place);
        let Some(mut connection) = connection else {
            self.counters.refused_broken += 1;
            return;
        };
        let ends = Ends { local: &meta.path.local, remote: &remote };
        if connection.receive(now, ends, meta.ecn, datagram, &mut NoApplication).is_none() {
            self.counters.refused_broken += 1;
            return;
        }
        // A handshake that has failed already still has to send its close; the application is not
        // asked.
        if connection.is_closed() {
            return self.close_at_once(at, &mut connection, datapath, meta);
        }
        let mut seat = Seat::new(key, datapath, meta.path.link, now);
        let asked = ask(&self.listeners[at], &mut self.services, &connection, key);
        let unasked = asked.is_none();
        seat.handshake = Some(Box::new(Handshake { initial: initial_key, proven, unasked }));
        (seat.source, seat.listener) = (Some(source), Some(self.listeners[at].id));
        let mut entry = Entry { connection, seat, handler: Box::new(()) };
        if let Some((decided, address)) = asked {
            entry.seat.address = address.map(OwnedAddress::new);
            let preferred_cid = self.prepare(key, &decided);
            if let Some(handler) = carry_out(&mut entry.connection, now, decided, preferred_cid) {
                entry.handler = handler;
                self.counters.accepted += u64::from(!entry.connection.is_closed());
            }
            if entry.connection.is_closed() {
                return self.end_at_once(at, entry, datapath, meta);
            }
        }
        self.seat_at(entry);
    }

    /// A connection that ended with its first datagram, after its listener was asked.
    fn end_at_once(&mut self, at: usize, mut entry: Entry, datapath: usize, meta: &RxMeta) {
        let (connection, mut application) = entry.split(&mut self.services);
        connection.deliver_events(&mut application);
        self.close_at_once(at, &mut entry.connection, datapath, meta);
        self.part_with(&mut entry);
        discard(&mut self.services, entry);
    }

    /// The worker that has the handshake of a client's first packet, if it is another one.
    pub(super) fn begun_elsewhere(&self, initial: &InitialKey) -> Option<Route> {
        let handshakes = self.services.fleet().handshakes();
        if handshakes.is_empty() {
            return None;
        }
        let digest = handshakes.digest(initial);
        let worker = handshakes.owner(digest)?;
        let elsewhere = usize::from(worker) != self.services.worker();
        elsewhere.then(|| self.stand_in(worker, digest))
    }

    /// Forgets what a client's first packets are known by.
    pub(super) fn forget_handshake(&mut self, initial: &InitialKey, key: Key) {
        self.table.remove_initial(initial, key);
        let handshakes = self.services.fleet().handshakes();
        handshakes.forget(handshakes.digest(initial), self.services.worker());
    }

    /// Answers a client for which there is no place, without a connection.
    fn turn_away(
        &mut self,
        at: usize,
        initial: &ClientInitial,
        datapath: usize,
        meta: &RxMeta,
        why: NoPlace,
    ) {
        self.count_no_place(why);
        if why.is_brief() {
            return;
        }
        let mut answer = self.answers.vacant();
        let mut context = self.context(Form::Long, meta, &mut answer.bytes[..]);
        match self.listeners[at].endpoint.refuse(initial, NO_ROOM, &mut context) {
            Some(len) => {
                let _routed = self.reply(Answer { datapath, path: Some(meta.path), len, ..answer });
            }
            None => self.answers.give_back(answer),
        }
    }

    /// The last packet of a connection that ended with its first datagram. Its close is sent once
    /// and the connection is forgotten (RFC 9000 §10.2.1): that datagram's sender may be forged.
    fn close_at_once(
        &mut self,
        at: usize,
        connection: &mut Connection,
        datapath: usize,
        meta: &RxMeta,
    ) {
        let now = self.services.now();
        self.counters.handshakes_failed += 1;
        self.admission.failed(now);
        if !connection.wants_transmit() || !self.listeners[at].endpoint.may_close(now) {
            return;
        }
        let mut answer = self.answers.vacant();
        match connection.transmit(now, &mut answer.bytes[..]) {
            Some(t) => {
                let (path, len) = (Some(meta.path), t.len);
                self.reply(Answer { datapath, path, len, ..answer });
            }
            None => self.answers.give_back(answer),
        }
    }

    /// Puts a new connection into the slot that its key names.
    pub(super) fn seat_at(&mut self, entry: Entry) {
        let (handshake, source) = (entry.seat.handshake.as_deref().copied(), entry.seat.source);
        let Ok(key) = self.table.insert(|_| entry) else { return };
        if let Some((handshake, source)) = handshake.zip(source) {
            self.table.insert_initial(handshake.initial, key);
            let handshakes = self.services.fleet().handshakes();
            let digest = handshakes.digest(handshake.initial);
            if !handshakes.note(digest, self.services.worker()) {
                self.counters.handshakes_unshared += 1;
            }
            self.admission.began(key, source, handshake.proven, &self.table);
        }
        self.wheel.grow(self.table.slots());
        let now = self.services.now();
        if let Some(entry) = self.table.get(key) {
            admission::measure(&mut self.admission, entry, now);
            enlist(&mut self.touched, &mut entry.seat);
        }
    }
}

/// The application of a connection that has none yet.
struct NoApplication;

impl Application for NoApplication {
    fn data(&mut self, _: &mut Connection, _: StreamId, _: &[u8], _: bool) -> usize {
        0
    }

    fn event(&mut self, _: &mut Connection, _: Event) {}
}
