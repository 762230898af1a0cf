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
enum Outcome {
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
        self.counters.tx_datagrams += sent as u64;
        sent
    }

    fn transmit_one<D: Datapath>(&mut self, slot: u32, datapaths: &mut [D]) -> (usize, Outcome) {
        let now = self.services.now();
        self.supply(slot);
        let Some((_, entry)) = self.table.get_slot(slot) else { return (0, Outcome::Done) };
        let Some(elsewhere) = transmit_elsewhere(entry, now, datapaths) else {
            return (0, Outcome::Blocked);
        };
        self.counters.tx_datagrams += elsewhere;
        if entry.connection.path_id() != entry.seat.way.path {
            let connection = &entry.connection;
            entry.seat.follow(connection.path_id(), |path| connection.has_path(path));
        }
        let Some(datapath) = datapaths.get_mut(entry.seat.way.datapath) else {
            return (0, Outcome::Done);
        };
        let path = entry.path();
        for sent in 0..CONNECTION_BUDGET {
            if !entry.connection.wants_transmit() {
                return (sent, Outcome::Done);
            }
            let Some(buffer) = datapath.tx_buffer(&path) else { return (sent, Outcome::Blocked) };
            let Some(written) = entry.connection.transmit(now, buffer) else {
                return (sent, Outcome::Done);
            };
            datapath.tx_commit(written.len, &path, written.ecn);
        }
        (CONNECTION_BUDGET, Outcome::More)
    }

    /// Gives a connection what only its owner can make, before it writes: ids that the peer is
    /// ready to hold, and once the handshake is done a token for a later connection.
    fn supply(&mut self, slot: u32) {
        let Some((_, entry)) = self.table.get_slot(slot) else { return };
        // All of it is rare, and one look tells that nothing is due.
        let is_done = entry.seat.handshake.is_some() && entry.connection.is_established();
        let enters_reset = entry.connection.take_reset_token_change();
        if is_done || enters_reset || entry.connection.wants_cid() {
            self.supply_due(slot, enters_reset);
        }
    }

    #[cold]
    fn supply_due(&mut self, slot: u32, enters_reset: bool) {
        self.note_established(slot);
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
        let source = entry.seat.source;
        self.handshake_done(key, &handshake, source);
        self.supply_token(slot);
        true
    }

    fn supply_token(&mut self, slot: u32) {
        let now = self.services.now();
        let Some((_, entry)) = self.table.get_slot(slot) else { return };
        let id = entry.seat.listener;
        if !entry.connection.is_established() {
            return;
        }
        // A listener that was closed gives no tokens for a later connection.
        if let Some(listener) = self.listeners.iter_mut().find(|l| Some(l.id) == id && !l.is_over())
        {
            let nonce = self.services.entropy.bytes();
            let remote = entry.connection.remote().ip();
            entry.connection.send_new_token(&listener.endpoint.new_token(now, &nonce, remote));
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
            sent += 1;
        }
        sent
    }
}

/// Lets a connection write on paths besides its active one; how many datagrams left. `None` if a datapath
/// has no buffer.
#[inline]
fn transmit_elsewhere<D: Datapath>(
    entry: &mut Entry,
    now: Instant,
    datapaths: &mut [D],
) -> Option<u64> {
    let mut sent = 0;
    while let Some((id, Addresses { local, remote })) = entry.connection.wants_elsewhere(now) {
        let way = entry.seat.way_of(id);
        let Some(datapath) = datapaths.get_mut(way.datapath) else { break };
        let path = Path { local, remote, link: way.link };
        let buffer = datapath.tx_buffer(&path)?;
        let Some(written) = entry.connection.transmit_elsewhere(now, id, buffer) else { break };
        datapath.tx_commit(written.len, &path, written.ecn);
        sent += 1;
    }
    Some(sent)
}
