//! Connection ids of both sides (RFC 9000 §5.1).
//!
//! *Local* ids are the ones the peer writes into its packets: the owner of the connection table
//! makes them (they name worker and slot), we announce them and replace those that the peer
//! retires. *Remote* ids are the ones we write: the peer announces them and may ask us to stop
//! using some.

use super::error::TransportError;
use crate::proto::byte_ranges::ByteRanges;
use crate::proto::token::same_reset_token;
use crate::wire::ConnectionId;

/// Ids that we keep issued to a peer that is ready to hold as many.
const LOCAL_TARGET: u64 = 2;
/// Ids of ours that can be outstanding at most, with their retirements in flight.
const LOCAL_MAX: usize = 8;
/// Retirements that may wait for acknowledgement, for each id the peer may keep with us:
/// beyond it the peer is churning ids and withholding acknowledgements (CVE-2024-22189). RFC 9000 §5.1.2 asks
/// for twice the limit at least. An honest peer can come to that: it asks for others twice while our own
/// changes of path, or its acknowledgements, are on their way or lost.
const RETIRE_FACTOR: u64 = 4;
/// And of those that we retire by ourselves: the rest is left for what the peer asks for.
const OWN_RETIRE_FACTOR: u64 = 1;

/// Gaps between the ids that we retired, of a peer that numbers its ids one after another: those in
/// use. One that leaves numbers out keeps its ids until it retires them itself.
const RETIRED_RANGES: usize = 16;

/// RFC 9000 §5.1.1: the sequence number of the preferred address's connection id.
const PREFERRED_SEQUENCE: u64 = 1;

/// An id that we issued.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalCid {
    pub(super) sequence: u64,
    pub(super) cid: ConnectionId,
    pub(super) reset_token: [u8; 16],
    /// What its announcement tells the peer to retire: the same in every copy. If a copy told more, a
    /// peer that has given this id back already would be left without one.
    pub(super) retire_prior_to: u64,
    /// NEW_CONNECTION_ID has to be sent (again).
    pub(super) announce: bool,
}

/// The ids that the peer may put into packets for us.
#[derive(Debug)]
pub(super) struct LocalCids {
    active: Vec<LocalCid>,
    next_sequence: u64,
    /// How many the peer is ready to hold.
    peer_limit: u64,
    /// How many are kept issued, if the peer can hold as many.
    target: u64,
    /// The peer has to retire the ids below this number: see [`replace`](Self::replace).
    retire_prior_to: u64,
    /// How many of the active ones are below it.
    replaced: usize,
    pub(super) pending: bool,
}

impl LocalCids {
    pub(super) fn new(first: ConnectionId) -> Self {
        let first = LocalCid {
            sequence: 0,
            cid: first,
            reset_token: [0; 16],
            retire_prior_to: 0,
            announce: false,
        };
        Self {
            active: vec![first],
            next_sequence: 1,
            peer_limit: 0,
            target: LOCAL_TARGET,
            retire_prior_to: 0,
            replaced: 0,
            pending: false,
        }
    }

    pub(super) fn set_peer_limit(&mut self, limit: u64) {
        self.peer_limit = limit;
    }

    /// True while another id should be handed to [`add`](Self::add).
    pub(super) fn wants_more(&self) -> bool {
        // RFC 9000 §5.1.1: ids that the same frame retires do not count towards the peer's limit.
        ((self.active.len() - self.replaced) as u64) < self.peer_limit.min(self.target)
            && self.active.len() < LOCAL_MAX
            && self.active.first().is_some_and(|c| !c.cid.is_empty())
    }

    pub(super) fn add(&mut self, cid: ConnectionId, reset_token: [u8; 16]) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let retire_prior_to = self.retire_prior_to;
        self.active.push(LocalCid { sequence, cid, reset_token, retire_prior_to, announce: true });
        self.pending = true;
    }

    /// The id of the address that we prefer, which the peer has from the transport parameters (RFC 9000
    /// §5.1.1). One that probes there and moves itself meanwhile needs an id more.
    pub(super) fn add_preferred(&mut self, cid: ConnectionId, reset_token: [u8; 16]) {
        let sequence = PREFERRED_SEQUENCE;
        self.next_sequence = sequence + 1;
        let (retire_prior_to, announce) = (0, false);
        self.active.push(LocalCid { sequence, cid, reset_token, retire_prior_to, announce });
        self.target = LOCAL_TARGET + 1;
    }

    /// The peer is to retire all ids of now, for those that are added from now on.
    pub(super) fn replace(&mut self) {
        self.retire_prior_to = self.next_sequence;
        self.replaced = self.active.len();
    }

    /// True while the peer may still write to an id that was [replaced](Self::replace).
    pub(super) fn has_replaced(&self) -> bool {
        self.replaced > 0
    }

    /// How many were issued.
    #[cfg(test)]
    pub(super) fn issued(&self) -> u64 {
        self.next_sequence
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &LocalCid> {
        self.active.iter()
    }

    /// Gives back the memory for ids that are not there.
    pub(super) fn shrink(&mut self) {
        self.active.shrink_to_fit();
    }

    /// The next id to announce; stays pending until [`announced`](Self::announced).
    pub(super) fn next_announcement(&mut self) -> Option<LocalCid> {
        let next = self.active.iter().find(|c| c.announce).copied();
        self.pending = next.is_some();
        next
    }

    pub(super) fn announced(&mut self, sequence: u64) {
        self.set_announce(sequence, false);
        self.pending = self.active.iter().any(|c| c.announce);
    }

    pub(super) fn announcement_lost(&mut self, sequence: u64) {
        self.set_announce(sequence, true);
        self.pending = self.active.iter().any(|c| c.announce);
    }

    /// The sequence number of an id that the peer wrote to.
    pub(super) fn sequence_of(&self, cid: &ConnectionId) -> Option<u64> {
        self.active.iter().find(|c| c.cid == *cid).map(|c| c.sequence)
    }

    fn set_announce(&mut self, sequence: u64, announce: bool) {
        if let Some(c) = self.active.iter_mut().find(|c| c.sequence == sequence) {
            c.announce = announce;
        }
    }

    /// RETIRE_CONNECTION_ID arrived, in a packet that was addressed to `used`.
    pub(super) fn retire(
        &mut self,
        sequence: u64,
        used: &ConnectionId,
    ) -> Result<(), TransportError> {
        // RFC 9000 §19.16: a number never issued, or the id of the very packet.
        if sequence >= self.next_sequence {
            return Err(TransportError::protocol_violation("retires a connection id never issued"));
        }
        let Some(at) = self.active.iter().position(|c| c.sequence == sequence) else {
            return Ok(());
        };
        if self.active[at].cid.is_empty() {
            return Err(TransportError::protocol_violation("retires a zero-length connection id"));
        }
        if self.active[at].cid == *used {
            return Err(TransportError::protocol_violation("retires the connection id it uses"));
        }
        self.active.swap_remove(at);
        self.replaced -= usize::from(sequence < self.retire_prior_to);
        Ok(())
    }
}

/// An id that the peer issued.
#[derive(Clone, Copy, Debug)]
struct RemoteCid {
    sequence: u64,
    cid: ConnectionId,
    reset_token: Option<[u8; 16]>,
    /// It stands in packets of a path, or did: no other path may use it (RFC 9000 §9.5).
    used: bool,
    /// No path uses it any more: it is retired as soon as there is room for that.
    stale: bool,
}

impl RemoteCid {
    fn new(sequence: u64, cid: ConnectionId, reset_token: Option<[u8; 16]>) -> Self {
        Self { sequence, cid, reset_token, used: false, stale: false }
    }
}

/// The ids that we may put into packets for the peer.
#[derive(Debug)]
pub(super) struct RemoteCids {
    current: RemoteCid,
    spare: Vec<RemoteCid>,
    /// Everything below was retired at the peer's request.
    retired_below: u64,
    /// What we retired by ourselves, above that: a NEW_CONNECTION_ID that is repeated brings none of
    /// them back.
    retired: ByteRanges,
    /// RETIRE_CONNECTION_ID frames to send.
    to_retire: Vec<u64>,
    /// RETIRE_CONNECTION_ID frames sent and not acknowledged.
    retiring: Vec<u64>,
    limit: u64,
    /// The reset token of the id in use is another one than when it was asked for last.
    token_changed: bool,
}

impl RemoteCids {
    /// Gives back the memory for ids that are not there.
    pub(super) fn shrink(&mut self) {
        self.spare.shrink_to_fit();
        self.to_retire.shrink_to_fit();
        self.retiring.shrink_to_fit();
        self.retired.shrink();
    }

    /// `limit` is what our active_connection_id_limit said.
    pub(super) fn new(first: ConnectionId, limit: u64) -> Self {
        Self {
            current: RemoteCid::new(0, first, None),
            spare: Vec::new(),
            retired_below: 0,
            retired: ByteRanges::new(),
            to_retire: Vec::new(),
            retiring: Vec::new(),
            limit,
            token_changed: false,
        }
    }

    #[inline]
    pub(super) fn current(&self) -> &ConnectionId {
        &self.current.cid
    }

    /// Until the handshake has settled on one, the first id follows what the peer says
    /// (RFC 9000 §7.2).
    pub(super) fn replace_first(&mut self, cid: ConnectionId) {
        if self.current.sequence == 0 {
            self.current.cid = cid;
        }
    }

    pub(super) fn set_first_reset_token(&mut self, token: [u8; 16]) {
        if self.current.sequence == 0 {
            self.current.reset_token = Some(token);
            self.token_changed = true;
        }
    }

    /// The id of the server's preferred address, which counts as number 1 (RFC 9000 §5.1.1).
    /// It serves any path, and a NEW_CONNECTION_ID that gives the number to another id is a violation.
    pub(super) fn add_preferred(
        &mut self,
        cid: ConnectionId,
        reset_token: [u8; 16],
    ) -> Result<(), TransportError> {
        if self.current.cid.is_empty() {
            // RFC 9000 §18.2.
            return Err(TransportError::transport_parameter(
                "preferred_address from a server with zero-length connection ids",
            ));
        }
        self.check_reuse(PREFERRED_SEQUENCE, &cid, &reset_token)?;
        self.spare.push(RemoteCid::new(PREFERRED_SEQUENCE, cid, Some(reset_token)));
        Ok(())
    }

    /// True if `token` is the reset token of the id in use: compared in constant time, so that
    /// an attacker learns nothing by trying.
    ///
    /// RFC 9000 §10.3.1: tokens of ids that were never used, or that are retired, do not count.
    /// Nor do those of other paths: what is reset there says nothing of this one.
    pub(super) fn is_reset_token(&self, token: &[u8; 16]) -> bool {
        self.current.reset_token.as_ref().is_some_and(|t| same_reset_token(t, token))
    }

    /// The reset token of the id in use.
    pub(super) fn reset_token(&self) -> Option<&[u8; 16]> {
        self.current.reset_token.as_ref()
    }

    /// True once after another id, with another token, came into use.
    #[inline]
    pub(super) fn take_token_change(&mut self) -> bool {
        std::mem::take(&mut self.token_changed)
    }

    /// A reset comes from another address from now on.
    pub(super) fn note_path_change(&mut self) {
        self.token_changed |= self.current.reset_token.is_some();
    }

    /// NEW_CONNECTION_ID arrived (RFC 9000 §19.15).
    pub(super) fn add(
        &mut self,
        sequence: u64,
        retire_prior_to: u64,
        cid: ConnectionId,
        reset_token: [u8; 16],
    ) -> Result<(), TransportError> {
        if self.current.cid.is_empty() {
            return Err(TransportError::protocol_violation(
                "NEW_CONNECTION_ID to a peer with zero-length ids",
            ));
        }
        self.check_reuse(sequence, &cid, &reset_token)?;
        let known =
            std::iter::once(&self.current).chain(&self.spare).any(|c| c.sequence == sequence);
        if !known && !self.retired.contains(sequence) {
            if sequence < self.retired_below {
                self.queue_retirement(sequence)?;
            } else {
                self.spare.push(RemoteCid::new(sequence, cid, Some(reset_token)));
            }
        }
        if retire_prior_to > self.retired_below {
            self.retire_prior_to(retire_prior_to)?;
        }
        if 1 + self.spare.len() as u64 > self.limit {
            return Err(TransportError::connection_id_limit("more connection ids than we allowed"));
        }
        Ok(())
    }

    fn check_reuse(
        &self,
        sequence: u64,
        cid: &ConnectionId,
        token: &[u8; 16],
    ) -> Result<(), TransportError> {
        for c in std::iter::once(&self.current).chain(&self.spare) {
            let same_number = c.sequence == sequence;
            let same_token = c.reset_token.is_none_or(|t| t == *token);
            if same_number != (c.cid == *cid) || (same_number && !same_token) {
                return Err(TransportError::protocol_violation(
                    "a connection id and its sequence number changed partners",
                ));
            }
        }
        Ok(())
    }

    fn retire_prior_to(&mut self, bound: u64) -> Result<(), TransportError> {
        self.retired_below = bound;
        self.retired.remove_below(bound);
        let mut at = 0;
        while at < self.spare.len() {
            if self.spare[at].sequence < bound {
                let gone = self.spare.swap_remove(at).sequence;
                self.queue_retirement(gone)?;
            } else {
                at += 1;
            }
        }
        if self.current.sequence < bound {
            let left = self.spare.iter().position(|c| !c.stale);
            let Some(i) = self.oldest_unused().or(left) else {
                return Err(TransportError::protocol_violation("every connection id was retired"));
            };
            let gone = self.current.sequence;
            self.current = self.spare.swap_remove(i);
            self.token_changed = true;
            self.queue_retirement(gone)?;
        }
        Ok(())
    }

    /// Where the oldest id is that no path has used.
    fn oldest_unused(&self) -> Option<usize> {
        let unused = (0..self.spare.len()).filter(|&i| !self.spare[i].used);
        unused.min_by_key(|&i| self.spare[i].sequence)
    }

    /// The sequence number of the id in use.
    pub(super) fn current_sequence(&self) -> u64 {
        self.current.sequence
    }

    /// The id with this number, unless it is retired.
    pub(super) fn get(&self, sequence: u64) -> Option<&ConnectionId> {
        let all = std::iter::once(&self.current).chain(&self.spare);
        all.filter(|c| !c.stale).find(|c| c.sequence == sequence).map(|c| &c.cid)
    }

    /// The number of an id that no path has used, which is used from now on. A peer without ids has
    /// one for all paths.
    pub(super) fn take_unused(&mut self) -> Option<u64> {
        if self.current.cid.is_empty() {
            return Some(self.current.sequence);
        }
        let i = self.oldest_unused()?;
        self.spare[i].used = true;
        Some(self.spare[i].sequence)
    }

    /// Packets of the active path carry this id from now on. The one before stays, for its path.
    pub(super) fn switch_to(&mut self, sequence: u64) {
        if let Some(next) = self.spare.iter_mut().find(|c| c.sequence == sequence) {
            std::mem::swap(&mut self.current, next);
            next.used = true;
            self.token_changed = true;
        }
    }

    /// No path uses this id any more.
    pub(super) fn release(&mut self, sequence: u64) {
        if let Some(gone) = self.spare.iter_mut().find(|c| c.sequence == sequence) {
            gone.stale = true;
        }
        self.retire_stale();
    }

    /// Retires what no path uses, as far as there is room: an id too many costs the peer nothing,
    /// a retirement too many might not be acknowledged.
    fn retire_stale(&mut self) {
        while let Some(at) = self.spare.iter().position(|c| c.stale)
            && self.retired.len() < RETIRED_RANGES
            && self.unheard() < OWN_RETIRE_FACTOR * self.limit
            && self.queue_retirement(self.spare[at].sequence).is_ok()
        {
            let gone = self.spare.swap_remove(at).sequence;
            self.retired.insert(gone, gone + 1);
        }
    }

    fn queue_retirement(&mut self, sequence: u64) -> Result<(), TransportError> {
        // A copy of NEW_CONNECTION_ID for an id that is retired already is no reason to say it twice.
        if self.to_retire.contains(&sequence) || self.retiring.contains(&sequence) {
            return Ok(());
        }
        if self.unheard() >= RETIRE_FACTOR * self.limit {
            return Err(TransportError::connection_id_limit(
                "connection ids are retired faster than acknowledged",
            ));
        }
        self.to_retire.push(sequence);
        Ok(())
    }

    /// Retirements that the peer has not acknowledged.
    fn unheard(&self) -> u64 {
        (self.retiring.len() + self.to_retire.len()) as u64
    }

    pub(super) fn has_retirements(&self) -> bool {
        !self.to_retire.is_empty()
    }

    pub(super) fn next_retirement(&self) -> Option<u64> {
        self.to_retire.last().copied()
    }

    pub(super) fn retirement_sent(&mut self) {
        self.retiring.extend(self.to_retire.pop());
    }

    /// A packet with a retirement was lost. One that is not under way was acknowledged by another copy, or
    /// waits already.
    pub(super) fn retirement_lost(&mut self, sequence: u64) {
        if let Some(at) = self.retiring.iter().position(|sent| *sent == sequence) {
            self.to_retire.push(self.retiring.swap_remove(at));
        }
    }

    pub(super) fn retirement_acknowledged(&mut self, sequence: u64) {
        self.retiring.retain(|sent| *sent != sequence);
        self.to_retire.retain(|lost| *lost != sequence);
        self.retire_stale();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cid(n: u8) -> ConnectionId {
        ConnectionId::new(&[n; 8]).unwrap()
    }

    #[test]
    fn attack_32_retirements_without_acknowledgement_are_bounded() {
        let mut r = RemoteCids::new(cid(0), 4);
        let mut outcome = Ok(());
        let mut n = 0;
        while outcome.is_ok() {
            n += 1;
            assert!(n < 100, "churn without end was accepted");
            outcome = r.add(n, n, cid(n as u8), [n as u8; 16]);
            while r.has_retirements() {
                r.retirement_sent();
            }
        }
        assert_eq!(outcome.unwrap_err().code, 0x09);
        assert_eq!(n, 17, "four times the limit of 4 may be outstanding");
    }

    #[test]
    fn copies_of_an_announcement_are_answered_once_until_the_answer_is_lost() {
        let mut r = RemoteCids::new(cid(0), 2);
        r.add(2, 2, cid(2), [2; 16]).unwrap();
        for _ in 0..20 {
            // Its frame was lost, and is repeated until it is acknowledged.
            r.add(1, 0, cid(1), [1; 16]).unwrap();
            while r.has_retirements() {
                r.retirement_sent();
            }
        }
        assert_eq!(r.retiring, [1, 0]);
        r.retirement_lost(1);
        r.retirement_lost(1);
        assert_eq!((r.next_retirement(), r.to_retire.len(), r.retiring.len()), (Some(1), 1, 1));
        r.retirement_acknowledged(1);
        assert_eq!(r.next_retirement(), None, "a copy that was taken for lost has arrived");
        r.retirement_lost(1);
        assert_eq!(r.next_retirement(), None, "the peer has heard it");
    }

    /// A server changed its path twice, and its client moved to another worker twice, while acknowledgements
    /// were lost: the server took its client for one that churns ids.
    #[test]
    fn what_we_retire_ourselves_leaves_room_for_what_the_peer_asks_for() {
        let mut r = RemoteCids::new(cid(0), 2);
        let send = |r: &mut RemoteCids| {
            while r.has_retirements() {
                r.retirement_sent();
            }
        };
        for n in 1..8 {
            r.add(n, 0, cid(n as u8), [n as u8; 16]).unwrap();
            let before = r.current_sequence();
            let next = r.take_unused().unwrap();
            r.switch_to(next);
            r.release(before);
            send(&mut r);
            if r.retiring.len() == 2 {
                break;
            }
        }
        assert_eq!((r.retiring.len(), r.current_sequence()), (2, 2));
        for n in [4, 6] {
            for sequence in [n, n + 1] {
                let id = cid(sequence as u8);
                r.add(sequence, n, id, [sequence as u8; 16]).unwrap();
            }
            send(&mut r);
        }
        assert!(r.retiring.len() > 4, "{:?}", r.retiring);
    }

    #[test]
    fn attack_33_odd_sequences_are_violations() {
        let mut r = RemoteCids::new(ConnectionId::EMPTY, 4);
        assert_eq!(r.add(1, 0, cid(1), [1; 16]).unwrap_err().code, 0x0a);
        let mut r = RemoteCids::new(cid(0), 4);
        assert!(r.add(1, 0, cid(1), [1; 16]).is_ok());
        assert!(r.add(1, 0, cid(1), [1; 16]).is_ok(), "a repeat is fine");
        assert_eq!(r.add(1, 0, cid(9), [1; 16]).unwrap_err().code, 0x0a);
        assert_eq!(r.add(2, 0, cid(1), [1; 16]).unwrap_err().code, 0x0a);
        assert_eq!(r.add(1, 0, cid(1), [2; 16]).unwrap_err().code, 0x0a);

        let mut l = LocalCids::new(cid(0));
        assert_eq!(l.retire(1, &cid(7)).unwrap_err().code, 0x0a, "never issued");
        assert_eq!(l.retire(0, &cid(0)).unwrap_err().code, 0x0a, "in use by the packet");
        l.set_peer_limit(4);
        assert!(l.wants_more());
        l.add(cid(1), [1; 16]);
        assert!(l.retire(0, &cid(1)).is_ok());
        assert!(l.retire(0, &cid(1)).is_ok(), "a repeat is fine");
        assert!(l.wants_more(), "the retired one is replaced");
    }

    #[test]
    fn ids_that_are_replaced_make_room_for_others_and_are_retired_by_the_peer() {
        let mut l = LocalCids::new(cid(0));
        l.set_peer_limit(2);
        l.add(cid(1), [1; 16]);
        assert!(!l.wants_more() && !l.has_replaced());
        l.replace();
        // A peer that reads the announcements in any order ends with the new ones.
        let mut r = RemoteCids::new(cid(0), 2);
        for n in 2..4 {
            assert!(l.wants_more(), "{n}");
            l.add(cid(n), [n; 16]);
        }
        assert!(!l.wants_more());
        let announce = |l: &LocalCids, r: &mut RemoteCids, n: u64| {
            let c = l.iter().find(|c| c.sequence == n).unwrap();
            r.add(n, c.retire_prior_to, c.cid, c.reset_token).unwrap();
        };
        // It has given one back by itself, and a late copy of its announcement comes.
        announce(&l, &mut r, 1);
        assert_eq!(r.take_unused(), Some(1));
        r.release(1);
        for n in [1, 3, 1, 2] {
            announce(&l, &mut r, n);
        }
        while let Some(gone) = r.next_retirement() {
            assert!(l.has_replaced());
            l.retire(gone, r.current()).unwrap();
            r.retirement_sent();
        }
        assert!(!l.has_replaced() && !l.wants_more());
        assert_eq!(l.iter().map(|c| c.sequence).sum::<u64>(), 5);
    }

    #[test]
    fn more_ids_than_the_limit_are_refused() {
        // RFC 9000 §5.1.1.
        let mut r = RemoteCids::new(cid(0), 2);
        assert!(r.add(1, 0, cid(1), [1; 16]).is_ok());
        assert_eq!(r.add(2, 0, cid(2), [2; 16]).unwrap_err().code, 0x09);
    }

    #[test]
    fn retire_prior_to_moves_to_the_next_id() {
        let mut r = RemoteCids::new(cid(0), 3);
        assert!(r.add(1, 0, cid(1), [1; 16]).is_ok());
        assert!(r.add(2, 1, cid(2), [2; 16]).is_ok());
        assert_eq!(*r.current(), cid(1));
        assert_eq!(r.next_retirement(), Some(0));
        assert!(r.is_reset_token(&[1; 16]) && !r.is_reset_token(&[2; 16]));
    }

    #[test]
    fn an_id_that_we_retired_does_not_come_back_with_a_late_copy_of_its_frame() {
        let mut r = RemoteCids::new(cid(0), 4);
        r.add(1, 0, cid(1), [1; 16]).unwrap();
        r.add(2, 0, cid(2), [2; 16]).unwrap();
        assert_eq!(r.take_unused(), Some(1));
        r.switch_to(1);
        r.release(0);
        assert_eq!(r.take_unused(), Some(2));
        r.release(2);
        assert_eq!((r.get(0), r.get(2), r.next_retirement()), (None, None, Some(2)));
        for _ in 0..10 {
            r.add(2, 0, cid(2), [2; 16]).unwrap();
        }
        assert_eq!(r.take_unused(), None, "it is not there");
        assert_eq!(r.get(1), Some(&cid(1)));
        // What the peer retires itself is told to be retired, however late its frame comes.
        r.add(5, 5, cid(5), [5; 16]).unwrap();
        assert_eq!((r.current_sequence(), r.retired.len()), (5, 0));
    }

    #[test]
    fn only_the_token_of_the_id_in_use_is_believed() {
        // RFC 9000 §10.3.1: not those of ids never used, and not those of retired ones.
        let mut r = RemoteCids::new(cid(0), 3);
        assert!(!r.take_token_change() && r.reset_token().is_none());
        r.set_first_reset_token([7; 16]);
        assert!(r.take_token_change() && !r.take_token_change());
        r.add(1, 0, cid(1), [1; 16]).unwrap();
        assert!(!r.take_token_change(), "a spare id changes nothing");
        assert!(r.is_reset_token(&[7; 16]) && !r.is_reset_token(&[1; 16]));
        r.add(2, 1, cid(2), [2; 16]).unwrap();
        assert!(r.take_token_change());
        assert_eq!(r.reset_token(), Some(&[1; 16]));
        assert!(!r.is_reset_token(&[7; 16]) && r.is_reset_token(&[1; 16]));
        assert!(!r.is_reset_token(&[2; 16]));
    }
}
