//! From the touched connections to the wire.

use super::{Entry, Lane};
use crate::datapath::{Datapath, Path};
use crate::ecn::Ecn;
use crate::proto::connection::Addresses;
use crate::time::Instant;

/// Datagrams that one connection writes before the next has its turn. Fewer would break up
/// what segmentation offload can send at once, more would let one connection hold up others.
const CONNECTION_BUDGET: usize = 16;
/// Datagrams written in one turn: about as many as a TX ring takes while a burst is received.
const TRANSMIT_BUDGET: usize = 512;

/// How one connection's turn to write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It has written all that it has.
    Done,
    /// It has more.
    More,
    /// The datapath has no buffer.
    Blocked,
}

impl Lane {
    /// Lets the touched connections write, each into the buffers of its own datapath, until they
    /// are done, the budget is spent, or no buffer is left. Returns the number of datagrams.
    pub(crate) fn transmit<D: Datapath>(&mut self, datapaths: &mut [D]) -> usize {
        let mut sent = self.transmit_answers(datapaths);
        while sent < TRANSMIT_BUDGET
            && let Some(slot) = self.touched.pop_front()
        {
            let (count, outcome) = self.transmit_one(slot, datapaths);
            sent += count;
            // At once: what follows may panic, and what has left has left.
            self.count_sent(count);
            match outcome {
                Outcome::Done => {
                    if let Some((_, entry)) = self.table.get_slot(slot) {
                        entry.seat.touched = false;
                    }
                }
                Outcome::More => self.touched.push_back(slot),
                Outcome::Blocked => {
                    // It keeps its place, and the connections behind it wait too: workers have
                    // one datapath as a rule, and a datapath that is full for one is full for all.
                    self.counters.tx_blocked += 1;
                    self.touched.push_front(slot);
                    self.settle(slot);
                    break;
                }
            }
            self.settle(slot);
        }
        sent
    }

    /// Counts what connections have written.
    #[inline]
    pub(super) fn count_sent(&mut self, datagrams: usize) {
        self.counters.tx_datagrams += datagrams as u64;
        self.waiting.written += datagrams as u64;
    }

    pub(super) fn transmit_one<D: Datapath>(
        &mut self,
        slot: u32,
        datapaths: &mut [D],
    ) -> (usize, Outcome) {
        let now = self.services.now();
        self.supply(slot);
        let Some((_, entry)) = self.table.get_slot(slot) else { return (0, Outcome::Done) };
        let (elsewhere, is_blocked) = transmit_elsewhere(entry, now, datapaths);
        if is_blocked {
            return (elsewhere, Outcome::Blocked);
        }
        if entry.connection.path_id() != entry.seat.way.path {
            let connection = &entry.connection;
            entry.seat.follow(connection.path_id(), |path| connection.has_path(path));
        }
        let Some(datapath) = datapaths.get_mut(entry.seat.way.datapath) else {
            return (elsewhere, Outcome::Done);
        };
        let path = entry.path();
        for sent in elsewhere..elsewhere + CONNECTION_BUDGET {
            if !entry.connection.wants_transmit() {
                return (sent, Outcome::Done);
            }
            let Some(buffer) = datapath.tx_buffer(&path) else { return (sent, Outcome::Blocked) };
            let Some(written) = entry.connection.transmit(now, buffer) else {
                return (sent, Outcome::Done);
            };
            datapath.tx_commit(written.len, &path, written.ecn);
        }
        (elsewhere + CONNECTION_BUDGET, Outcome::More)
    }

    /// Gives a connection what only its owner can make, before it writes: ids that the peer is
    /// ready to hold, and a token for a later connection, once the handshake is done and the address of the
    /// active path is validated.
    fn supply(&mut self, slot: u32) {
        let Some((_, entry)) = self.table.get_slot(slot) else { return };
        // All of it is rare, and one look tells that nothing is due.
        let is_done = entry.seat.handshake.is_some() && entry.connection.is_established();
        let enters_reset = entry.connection.take_reset_token_change();
        let earns_token = entry.seat.owes_token && entry.connection.is_address_validated();
        if is_done || earns_token || enters_reset || entry.connection.wants_cid() {
            self.supply_due(slot, enters_reset);
        }
    }

    #[cold]
    fn supply_due(&mut self, slot: u32, enters_reset: bool) {
        self.note_established(slot);
        self.supply_token(slot);
        let Some((key, _)) = self.table.get_slot(slot) else { return };
        if enters_reset {
            self.enter_reset(key);
        }
        while let Some(entry) = self.table.get(key)
            && entry.connection.wants_cid()
        {
            let cid = self.new_cid(key);
            let token = self.reset.token(cid.as_slice());
            if let Some(entry) = self.table.get(key) {
                entry.connection.add_cid(cid, token);
            }
        }
    }

    /// Counts a handshake that is done as a connection; false if there is none. One that failed
    /// is a handshake until its place is free.
    pub(super) fn note_established(&mut self, slot: u32) -> bool {
        let Some((key, entry)) = self.table.get_slot(slot) else { return false };
        if !entry.connection.is_established() {
            return false;
        }
        let Some(handshake) = entry.seat.handshake.take() else { return false };
        self.admission.handshake_measured(entry.seat.held_bytes, 0);
        entry.seat.owes_token = entry.seat.listener.is_some();
        let source = entry.seat.source;
        self.handshake_done(key, &handshake, source);
        true
    }

    /// Gives a client a token for its address, once that is validated. A client that finishes its handshake
    /// with packets from an address that it made up would get a token for that one otherwise: what is lost
    /// on one path is sent again on the next.
    fn supply_token(&mut self, slot: u32) {
        let now = self.services.now();
        let Some((_, entry)) = self.table.get_slot(slot) else { return };
        let connection = &mut entry.connection;
        let earns = connection.is_established() && connection.is_address_validated();
        if !entry.seat.owes_token || !earns {
            return;
        }
        entry.seat.owes_token = false;
        let id = entry.seat.listener;
        // A listener that was closed gives no tokens for a later connection.
        if let Some(listener) = self.listeners.iter_mut().find(|l| Some(l.id) == id && !l.is_over())
        {
            let nonce = self.services.entropy.bytes();
            let remote = connection.remote().ip();
            connection.send_new_token(&listener.endpoint.new_token(now, &nonce, remote));
        }
    }

    fn transmit_answers<D: Datapath>(&mut self, datapaths: &mut [D]) -> usize {
        let mut sent = 0;
        while let Some(answer) = self.answers.pop() {
            let Some((datapath, path)) = datapaths.get_mut(answer.datapath).zip(answer.path) else {
                self.answers.give_back(answer);
                continue;
            };
            let Some(buffer) = datapath.tx_buffer(&path) else {
                // It came from there: there is a place for it.
                let _waits = self.answers.push(answer);
                break;
            };
            buffer[..answer.len].copy_from_slice(&answer.bytes[..answer.len]);
            datapath.tx_commit(answer.len, &path, Ecn::NotEct);
            self.answers.give_back(answer);
            self.counters.answers += 1;
            self.counters.tx_datagrams += 1;
            sent += 1;
        }
        sent
    }
}

/// Lets a connection write on paths besides its active one. How many datagrams left, and whether a datapath
/// had no buffer for more.
#[inline]
fn transmit_elsewhere<D: Datapath>(
    entry: &mut Entry,
    now: Instant,
    datapaths: &mut [D],
) -> (usize, bool) {
    let mut sent = 0;
    while let Some((id, Addresses { local, remote })) = entry.connection.wants_elsewhere(now) {
        let way = entry.seat.way_of(id);
        let Some(datapath) = datapaths.get_mut(way.datapath) else { break };
        let path = Path { local, remote, link: way.link };
        let Some(buffer) = datapath.tx_buffer(&path) else { return (sent, true) };
        let Some(written) = entry.connection.transmit_elsewhere(now, id, buffer) else { break };
        datapath.tx_commit(written.len, &path, written.ecn);
        sent += 1;
    }
    (sent, false)
}
