//! Paths that come, change and go (RFC 9000 §9).
//!
//! # The peer moves
//!
//! A client appears at another address: its NAT has forgotten it, or it has gone to another network.
//! The server notices when an authentic packet comes from there.
//!
//! 1. The address becomes a path, which may be sent three times what came from it (§9.3).
//! 2. A packet with anything but probing frames, and the largest number so far, makes it the active
//!    path (§9.3). The window and the round trip begin anew, unless only the port is another (§9.4).
//! 3. PATH_CHALLENGE goes to the new address, and to the old one (§9.3.3): if a third party has copied
//!    packets, the peer answers where it is, with a packet that makes its own path active again.
//! 4. An answer from the new address lifts the limit, and the old path is forgotten. Without one the
//!    old path is taken up again (§9.3.2).
//!
//! A packet of probing frames alone is answered on its path, and moves nothing (§9.1). The path is
//! asked with PATH_CHALLENGE as well (§9.6.3), as quiche and s2n-quic do: the peer that moves there finds it
//! validated, and one that was only copied there gives its connection id back.
//!
//! A packet to another address of ours makes that one ours once the path is validated (§9.6.2).
//!
//! A close goes to the active path and, while that one is not validated, to the last validated one as
//! well: an address that a third party made up does not swallow it.
//!
//! # We move
//!
//! A client calls [`Connection::migrate`], or its worker does when its address goes away. Either the new path is validated first and then
//! taken, or, where the old address is gone, it is taken at once. A new path gets a connection id
//! that no path has had (§9.5): who sees both paths cannot tell that they belong together.

use super::assemble::write_path_responses;
use super::other_paths::OtherPath;
use super::{Connection, Event, State, Transmit};
use crate::ecn::Ecn;
use crate::proto::crypto::TAG_LEN;
use crate::proto::packet_builder::{Header, Number, PacketBuilder, pad_to};
use crate::proto::path::{Addresses, MIN_ROOM, PathId};
use crate::proto::path_validation::Proof;
use crate::proto::recovery::SentInfo;
use crate::proto::sent::SentFrame;
use crate::time::Instant;
use crate::wire::frame::{self, Frame};
use crate::wire::{ConnectionId, Side};
use std::fmt;
use std::net::SocketAddr;

/// Where the payload of a packet ends that makes a datagram of 1,200 bytes.
const PADDED_PAYLOAD_END: usize = super::MIN_DATAGRAM_BYTES as usize - TAG_LEN;

/// When a client that moves takes its new path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migration {
    /// Once it is validated. The old path is used until then.
    Validated,
    /// Now: the old address is gone.
    AtOnce,
}

/// Why a connection cannot move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrateError {
    /// Only clients move (RFC 9000 §9).
    Server,
    /// The handshake is not confirmed yet, or the connection is closing.
    NotEstablished,
    /// The server has asked its clients not to (`disable_active_migration`).
    Forbidden,
    /// The peer has given no connection id that no path has used.
    NoConnectionId,
    /// The server's connection ids have no bytes: it knows its clients by their addresses, and both paths
    /// would be seen to belong together (RFC 9000 §9.5).
    ZeroLengthIds,
    /// The path is the active one, or is being validated and was not to be taken at once.
    SamePath,
}

impl fmt::Display for MigrateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "a server does not move: its clients do",
            Self::NotEstablished => {
                "the handshake is not confirmed, or the connection is closing: wait for `confirmed`"
            }
            Self::Forbidden => "the server has asked its clients not to move: connect again",
            Self::NoConnectionId => {
                "the server has given no unused connection id: try again after a round trip"
            }
            Self::ZeroLengthIds => {
                "the server's connection ids have no bytes, so it knows its clients by their addresses: connect again"
            }
            Self::SamePath => "the connection is at this address, or on its way there",
        })
    }
}

impl std::error::Error for MigrateError {}

impl Connection {
    /// Moves a client to another address of its own.
    ///
    /// [`Event::LocalAddressChanged`] tells that the new path is in use, [`Event::MigrationFailed`] that
    /// the server could not be reached from there.
    ///
    /// # Errors
    /// [`MigrateError`].
    pub fn migrate(
        &mut self,
        now: Instant,
        local: SocketAddr,
        when: Migration,
    ) -> Result<(), MigrateError> {
        if self.side == Side::Server {
            return Err(MigrateError::Server);
        }
        if !self.confirmed || self.state != State::Established {
            return Err(MigrateError::NotEstablished);
        }
        if !self.peer_allows_migration {
            return Err(MigrateError::Forbidden);
        }
        if self.remote_cids.current().is_empty() {
            return Err(MigrateError::ZeroLengthIds);
        }
        let at = Addresses { local, remote: self.path.remote };
        self.begin_path(now, now, &at, when)?;
        self.seek_preferred(now);
        Ok(())
    }

    /// Begins to validate a path that we want to take, with a first challenge at `from`. One that is known
    /// already, because we want it or had it before, can be taken at once.
    pub(super) fn begin_path(
        &mut self,
        now: Instant,
        from: Instant,
        at: &Addresses,
        when: Migration,
    ) -> Result<(), MigrateError> {
        let known = self.others.as_mut().and_then(|others| others.between(at));
        if let Some((known, id)) = known.map(|known| (known.path.id, known.remote_cid)) {
            if when == Migration::Validated {
                return Err(MigrateError::SamePath);
            }
            // The server may have retired its id, and given no other. The one of the path that is left would
            // show that both belong together (RFC 9000 §9.5).
            if self.remote_cids.get(id).is_none() {
                return Err(MigrateError::NoConnectionId);
            }
            self.activate(now, known);
            return Ok(());
        }
        if self.path.is_between(at.ends()) {
            return Err(MigrateError::SamePath);
        }
        let id = self.remote_cids.take_unused().ok_or(MigrateError::NoConnectionId)?;
        // The server has proved its address: what we send there is not limited.
        let other = self.new_path(now, at, true, id);
        let path = self.add_path(OtherPath { wanted: true, peer_uses: self.peer_uses, ..other });
        self.challenge(from, path);
        if when == Migration::AtOnce {
            self.activate(now, path);
        }
        Ok(())
    }

    /// An authentic packet of `bytes` came from elsewhere, with this number and payload: the path that it took,
    /// if it may become one.
    #[cold]
    #[inline(never)]
    pub(super) fn enter_path(
        &mut self,
        now: Instant,
        at: &Addresses,
        dcid: &ConnectionId,
        bytes: usize,
        (pn, payload): (u64, &[u8]),
    ) -> Option<PathId> {
        if self.path.is_between(at.ends()) {
            return Some(self.path.id);
        }
        if let Some(other) = self.others.as_mut().and_then(|others| others.between(at)) {
            other.path.validation.on_received(bytes);
            return Some(other.path.id);
        }
        // RFC 9000 §9: a server stays where it is.
        if self.side == Side::Client {
            return None;
        }
        // A packet that moves nothing begins no path, or that would be kept, with its connection id, until the
        // connection is idle. Who sent it has gone on since.
        let moves = !self.is_late(pn) && !self.leaves_preferred(at.local);
        if !moves && !frame::is_probing(payload) {
            return None;
        }
        let peer_uses = self.local_cids.sequence_of(dcid);
        let Some(remote_cid) = self.cid_for_peer(peer_uses, at) else {
            self.stats.rx_refused_paths += 1;
            self.forget_quiet_path();
            return None;
        };
        let mut other = self.new_path(now, at, false, remote_cid);
        other.path.validation.on_received(bytes);
        Some(self.add_path(OtherPath { peer_uses, ..other }))
    }

    /// True if a packet that was more than a probe, with a larger number than this, was there before.
    fn is_late(&self, pn: u64) -> bool {
        let largest = self.data.received.largest;
        let newest = self.others.as_ref().map_or(largest, |others| others.newest(largest));
        newest.is_some_and(|newest| newest > pn)
    }

    /// The number of the id to write to a peer that appears elsewhere. RFC 9000 §9.5: a peer that
    /// has moved uses a new one, and so do we. One whose NAT has forgotten it knows nothing of it; but no
    /// NAT of its side changes the address of ours that it writes to.
    fn cid_for_peer(&mut self, peer_uses: Option<u64>, at: &Addresses) -> Option<u64> {
        match peer_uses == self.peer_uses && at.local == self.path.local {
            true => Some(self.remote_cids.current_sequence()),
            false => self.remote_cids.take_unused(),
        }
    }

    /// The peer appears elsewhere, and the ids that it gave are taken: the oldest path that it only
    /// probed gives its id back. The peer sends another for it.
    fn forget_quiet_path(&mut self) {
        let Some(others) = &mut self.others else { return };
        let quiet =
            |other: &OtherPath| !other.fallback && !other.wanted && other.path.exchange.is_none();
        if let Some(at) = others.paths.iter().position(quiet) {
            let gone = others.paths.remove(at);
            self.forget(Some(gone));
            self.note_paths();
        }
    }

    pub(super) fn new_path(
        &mut self,
        now: Instant,
        at: &Addresses,
        validated: bool,
        remote_cid: u64,
    ) -> OtherPath {
        let id = self.free_path_id();
        let path = self.path.successor(now, id, at, validated, &self.config.path());
        OtherPath { path, remote_cid, peer_uses: None, fallback: false, wanted: false }
    }

    fn free_path_id(&mut self) -> PathId {
        loop {
            self.last_path = self.last_path.wrapping_add(1);
            let id = PathId(self.last_path);
            let others = self.others.iter().flat_map(|others| &others.paths);
            if id != self.path.id && others.into_iter().all(|other| other.path.id != id) {
                return id;
            }
        }
    }

    /// Enters a path. The oldest that can be spared goes, if there are too many.
    pub(super) fn add_path(&mut self, other: OtherPath) -> PathId {
        let id = other.path.id;
        let gone = self.others.get_or_insert_default().add(other);
        self.tell_failure(gone.as_ref());
        self.forget(gone);
        self.note_paths();
        id
    }

    /// Asks whether the peer is at the other end of a path.
    fn challenge(&mut self, now: Instant, id: PathId) {
        // RFC 9000 §8.2.4: the larger of the probe timeouts of the active path and the new one.
        let (pto_ns, max_delay_ns) = (self.pto_ns(), self.peer_max_ack_delay_ns);
        let path = match self.others.as_mut().and_then(|others| others.get(id)) {
            Some(other) => &mut other.path,
            None => &mut self.path,
        };
        path.challenge(now, pto_ns.max(path.pto_ns(max_delay_ns)));
        self.note_paths();
    }

    /// A packet was read while there are several paths: the peer moves to where it came from, if it says
    /// so. `largest` was the largest number before it.
    #[cold]
    #[inline(never)]
    pub(super) fn follow(
        &mut self,
        now: Instant,
        id: Option<PathId>,
        (pn, largest): (u64, Option<u64>),
        payload: &[u8],
    ) {
        if self.side == Side::Client || self.is_closed() {
            return;
        }
        let probing = frame::is_probing(payload);
        let Some(others) = &mut self.others else { return };
        let moves = others.note_number(pn, largest, probing);
        if moves {
            // Whatever the peer wanted before.
            others.paths.iter_mut().for_each(|other| other.wanted = false);
        }
        let Some(other) = id.and_then(|id| others.get(id)) else { return };
        let id = other.path.id;
        let validated = other.path.validation.is_validated() && !other.path.is_challenged();
        let other_local = other.path.local;
        let moves = moves && !self.leaves_preferred(other_local);
        // RFC 9000 §9.6.2: our own address changes once the peer is known to be reached from there.
        if moves && (validated || other_local == self.path.local) {
            self.activate(now, id);
        } else if !validated && (moves || probing) {
            // RFC 9000 §9.6.3, §9.6.2: a path that is probed is asked as well.
            if let Some(other) = self.others.as_mut().and_then(|others| others.get(id)) {
                other.wanted |= moves;
            }
            self.challenge(now, id);
        }
    }

    /// Takes another path. The one before is kept until the new one is validated.
    pub(super) fn activate(&mut self, now: Instant, id: PathId) {
        let Some(new) = self.others.as_mut().and_then(|others| others.take(id)) else { return };
        let old = self.switch_to(now, new);
        self.note_preferred_move(old.path.remote);
        let validated = self.path.validation.is_validated() && !self.path.is_challenged();
        // RFC 9000 §9.3.2: the last path that was validated is returned to, and no other. A client
        // takes the address of its server for proved, and asks whether the path is one.
        let proved = old.path.validation.is_validated()
            && (self.side == Side::Server || !old.path.is_challenged());
        // RFC 9000 §9.6.2: to the address that it has left for the one that it prefers, a server does not return,
        // and its client does not answer from there any more. The new path was validated first.
        let proved = proved && !self.leaves_preferred(old.path.local);
        if proved && !(self.side == Side::Client && validated) {
            let old_id = old.path.id;
            let others = self.others.get_or_insert_default();
            let older = others.take_fallback();
            let gone = others.add(OtherPath { fallback: true, ..old });
            self.forget(older);
            self.forget(gone);
            if self.side == Side::Server {
                self.challenge(now, old_id);
            }
        } else {
            self.forget(Some(old));
        }
        if !self.path.validation.is_validated() {
            self.challenge(now, id);
        }
        // RFC 9000 §9.2: the server follows a packet that is more than a probe. There may be no other.
        self.pending.ping |= self.side == Side::Client;
        self.note_paths();
    }

    /// Makes `next` the active path, tells the application, and returns the one that was active.
    fn switch_to(&mut self, now: Instant, mut next: OtherPath) -> OtherPath {
        let remote_cid = self.remote_cids.current_sequence();
        self.remote_cids.switch_to(next.remote_cid);
        if remote_cid != next.remote_cid {
            self.cid_since = now;
        }
        self.remote_cids.note_path_change();
        next.path.ecn.count_from(&self.path.ecn);
        std::mem::swap(&mut self.path, &mut next.path);
        std::mem::swap(&mut self.peer_uses, &mut next.peer_uses);
        self.data.sent.set_path(self.path.id);
        self.path.mtu.enable_once(self.peer_max_datagram_bytes);
        // The back-off is that of the other path.
        (self.pto_count, self.follow_ups) = (0, 0);
        self.deadlines.pacing = Instant::NEVER;
        self.stats.path_changes += 1;
        self.tell_addresses(next.path.addresses());
        OtherPath { remote_cid, wanted: false, fallback: false, ..next }
    }

    fn tell_addresses(&mut self, before: Addresses) {
        let Addresses { local, remote } = self.path.addresses();
        if remote != before.remote {
            self.events.push_back(Event::PeerAddressChanged { remote });
        }
        if local != before.local {
            self.events.push_back(Event::LocalAddressChanged { local });
        }
    }

    /// PATH_CHALLENGE arrived on a path (RFC 9000 §8.2.2).
    #[cold]
    #[inline(never)]
    pub(super) fn on_path_challenge(&mut self, id: Option<PathId>, data: [u8; 8]) {
        let kept = if id == Some(self.path.id) {
            // RFC 9000 §9.3.3: a packet that is more than a probe shows the peer that this path is
            // the one that we use.
            self.pending.ping = true;
            self.path.on_challenge(data)
        } else {
            let other = id.and_then(|id| self.others.as_mut()?.get(id));
            other.is_some_and(|other| other.path.on_challenge(data))
        };
        self.stats.rx_refused_challenges += u64::from(!kept);
    }

    /// PATH_RESPONSE arrived, on whatever path.
    #[cold]
    #[inline(never)]
    pub(super) fn on_path_response(&mut self, now: Instant, data: [u8; 8]) {
        if !self.paths_busy {
            return;
        }
        let others = self.others.iter_mut().flat_map(|others| &mut others.paths);
        let all = std::iter::once(&mut self.path).chain(others.map(|other| &mut other.path));
        let answered = all
            .filter_map(|path| Some((path.id, path.exchange.as_mut()?.on_response(data)?)))
            .next();
        if let Some((id, proof)) = answered {
            self.on_proof(now, id, proof);
        }
    }

    /// The peer is at the other end of a path.
    fn on_proof(&mut self, now: Instant, id: PathId, proof: Proof) {
        if id == self.path.id {
            self.path.validation.validate();
            self.path.end_challenge();
        } else if let Some(other) = self.others.as_mut().and_then(|others| others.get(id)) {
            other.path.validation.validate();
            other.path.end_challenge();
        }
        if proof == Proof::Address {
            return self.challenge(now, id);
        }
        self.stats.paths_validated += 1;
        let other = self.others.as_mut().and_then(|others| others.get(id));
        if let Some(remote_cid) = other.filter(|other| other.wanted).map(|other| other.remote_cid) {
            if self.side == Side::Client && self.remote_cids.get(remote_cid).is_none() {
                // The server has retired its id meanwhile: see `begin_path`.
                let gone = self.others.as_mut().and_then(|others| others.take(id));
                self.tell_failure(gone.as_ref());
            } else {
                self.activate(now, id);
            }
        }
        self.forget_old_paths();
    }

    /// A path that a client wanted is given up: its application is told, if it is one that it asked for.
    fn tell_failure(&mut self, gone: Option<&OtherPath>) {
        if let Some(gone) = gone.filter(|gone| gone.wanted && self.side == Side::Client)
            && !self.gives_up_preferred(gone)
        {
            let local = gone.path.local;
            self.events.push_back(Event::MigrationFailed { local });
        }
    }

    /// A path that nothing needs goes: the one before a path that is validated by now.
    fn forget_old_paths(&mut self) {
        if !self.path.validation.is_validated() || self.path.is_challenged() {
            return;
        }
        while let Some(others) = &mut self.others
            && let Some(at) =
                others.paths.iter().position(|o| o.fallback && !o.path.is_challenged())
        {
            let gone = others.paths.remove(at);
            self.forget(Some(gone));
        }
        self.note_paths();
    }

    /// Forgets paths that are validated and not in use: the connection is idle.
    pub(super) fn shrink_paths(&mut self) {
        while let Some(others) = &mut self.others
            && let Some(at) =
                others.paths.iter().position(|o| !o.fallback && !o.path.is_challenged())
        {
            let gone = others.paths.remove(at);
            self.forget(Some(gone));
        }
        self.note_paths();
    }

    /// A path is no more: its connection id goes with it, unless another path has it.
    pub(super) fn forget(&mut self, gone: Option<OtherPath>) {
        if let Some(gone) = gone {
            self.release_cid(gone.remote_cid);
        }
    }

    /// NEW_CONNECTION_ID may have retired the ids of other paths: they get others.
    #[cold]
    #[inline(never)]
    pub(super) fn renew_path_ids(&mut self) {
        let Self { others, remote_cids, .. } = self;
        for other in others.iter_mut().flat_map(|others| &mut others.paths) {
            if remote_cids.get(other.remote_cid).is_none()
                && let Some(next) = remote_cids.take_unused()
            {
                other.remote_cid = next;
            }
        }
    }

    /// Whether anything besides the active path, or anything of its validation, wants attention.
    fn note_paths(&mut self) {
        if self.others.as_ref().is_some_and(|others| others.paths.is_empty()) {
            self.others = None;
        }
        self.paths_busy = self.others.is_some()
            || self.path.is_challenged()
            || !self.path.validation.is_validated();
    }

    /// When [`handle_path_timeouts`](Self::handle_path_timeouts) is due.
    #[cold]
    #[inline(never)]
    pub(super) fn path_deadline(&self) -> Instant {
        let others = self.others.iter().flat_map(|others| &others.paths);
        // A challenge that has no connection id to leave with waits for the peer, not for a time.
        let deadlines = others.map(|other| match self.remote_cids.get(other.remote_cid) {
            Some(_) => other.path.exchange_deadline(),
            None => other.path.exchange_end(),
        });
        deadlines.fold(self.path.exchange_deadline(), Instant::min)
    }

    /// Gives up paths that are not validated in time (RFC 9000 §8.2.4).
    #[cold]
    #[inline(never)]
    pub(super) fn handle_path_timeouts(&mut self, now: Instant) {
        let failed = |other: &&mut OtherPath| other.path.has_failed(now);
        while let Some(other) =
            self.others.as_mut().and_then(|others| others.paths.iter_mut().find(failed))
        {
            other.path.end_challenge();
            let (id, fallback) = (other.path.id, other.fallback);
            self.stats.path_validations_failed += 1;
            if !fallback {
                let gone = self.others.as_mut().and_then(|others| others.take(id));
                self.tell_failure(gone.as_ref());
                self.forget(gone);
            }
        }
        if self.path.has_failed(now) {
            self.path.end_challenge();
            self.stats.path_validations_failed += 1;
            self.return_to_old_path(now);
        }
        self.forget_old_paths();
        self.note_paths();
    }

    /// RFC 9000 §9.3.2: the last validated path is taken up again. Where there is none, the active one
    /// stays, with its limit, until the connection is idle for too long.
    fn return_to_old_path(&mut self, now: Instant) {
        let Some(old) = self.others.as_mut().and_then(|others| others.take_fallback()) else {
            return;
        };
        if self.side == Side::Client {
            self.events.push_back(Event::MigrationFailed { local: self.path.local });
        }
        let failed = self.switch_to(now, old);
        self.forget(Some(failed));
    }

    // ---- datagrams ------------------------------------------------------------------------

    /// The next path besides the active one that a datagram is to leave on:
    /// [`transmit_elsewhere`](Self::transmit_elsewhere) writes it. Ask before
    /// [`transmit`](Self::transmit), until `None`.
    #[inline]
    #[must_use]
    pub fn wants_elsewhere(&self, now: Instant) -> Option<(PathId, Addresses)> {
        if self.paths_busy { self.next_elsewhere(now) } else { None }
    }

    #[cold]
    #[inline(never)]
    fn next_elsewhere(&self, now: Instant) -> Option<(PathId, Addresses)> {
        let closes = match self.state {
            State::Established => false,
            State::Closing if self.closing.as_ref()?.pending_elsewhere => true,
            State::Closing | State::Handshaking | State::Draining | State::Drained => return None,
        };
        let speaks = |other: &&OtherPath| {
            let speaks = if closes { other.path.has_budget() } else { other.path.speaks(now) };
            speaks && self.remote_cids.get(other.remote_cid).is_some()
        };
        let other = self.others.as_ref()?.paths.iter().find(speaks)?;
        Some((other.path.id, other.path.addresses()))
    }

    /// Writes a datagram for the path that [`wants_elsewhere`](Self::wants_elsewhere) named.
    pub fn transmit_elsewhere(
        &mut self,
        now: Instant,
        id: PathId,
        buf: &mut [u8],
    ) -> Option<Transmit> {
        let at = self.others.as_ref()?.paths.iter().position(|other| other.path.id == id)?;
        let mut other = self.others.as_mut()?.paths.remove(at);
        let dcid = self.remote_cids.get(other.remote_cid).copied();
        // A packet is built with the active path.
        std::mem::swap(&mut self.path, &mut other.path);
        let closes = self.state == State::Closing;
        let sent = dcid.and_then(|dcid| match closes {
            true => self.write_close_elsewhere(now, &dcid, buf),
            false => self.write_path_frames(now, &dcid, buf),
        });
        std::mem::swap(&mut self.path, &mut other.path);
        self.others.get_or_insert_default().paths.insert(at, other);
        let (len, ecn) = sent?;
        Some(self.note_datagram(len, ecn))
    }

    /// The next challenge of the active path, if one is due.
    #[cold]
    #[inline(never)]
    pub(super) fn transmit_challenge(&mut self, now: Instant, buf: &mut [u8]) -> Option<Transmit> {
        if !self.path.challenge_is_due(now) {
            return None;
        }
        let dcid = *self.remote_cids.current();
        let (len, ecn) = self.write_path_frames(now, &dcid, buf)?;
        Some(self.note_datagram(len, ecn))
    }

    /// How much of `bytes` the next datagram may have; `None` if that is too little for any.
    #[cold]
    #[inline(never)]
    pub(super) fn path_limit(&self, bytes: usize) -> Option<usize> {
        let budget = usize::try_from(self.path.validation.budget()).unwrap_or(usize::MAX);
        (budget >= MIN_ROOM).then_some(bytes.min(budget))
    }

    /// A datagram of so many bytes has left on a path that may be limited; `None` if there was none.
    #[cold]
    #[inline(never)]
    pub(super) fn note_limited(&mut self, now: Instant, sent: Option<usize>) {
        match sent {
            Some(bytes) => self.path.validation.on_sent(bytes),
            // An acknowledgement with many ranges may be longer than what is left.
            None if self.data.received.ack_due(now) => self.path.validation.block(),
            None => {}
        }
    }

    /// A datagram of challenges and responses, on what is the active path at the moment. RFC 9000
    /// §8.2.1, §8.2.2: it has 1,200 bytes, if the limit of §8.1 allows that.
    fn write_path_frames(
        &mut self,
        now: Instant,
        dcid: &ConnectionId,
        buf: &mut [u8],
    ) -> Option<(usize, Ecn)> {
        let budget = usize::try_from(self.path.validation.budget()).unwrap_or(usize::MAX);
        let size = buf.len().min(budget).min(super::MIN_DATAGRAM_BYTES.into());
        if size < MIN_ROOM || !self.keys_are_fit(now) {
            return None;
        }
        let phase = self.keys.as_ref()?.phase();
        let header = Header::Short { dcid, phase, local_cid_len: self.local_cid_len };
        let number = Number::next(&self.data.sent);
        let (packet, mut w) = PacketBuilder::begin(header, number, &mut buf[..size])?;
        write_path_responses(&mut self.path, &mut self.data.sent, &mut w);
        let mut challenge = None;
        if self.path.challenge_is_due(now) {
            let data = self.random().to_be_bytes();
            if Frame::PathChallenge(data).write(&mut w).is_ok() {
                self.data.sent.push_frame(SentFrame::Ping);
                challenge = Some(data);
            }
        }
        if packet.is_empty(&w) {
            self.data.sent.abandon();
            return None;
        }
        // A smaller one is not padded: what the limit leaves is for those that follow.
        if size == usize::from(super::MIN_DATAGRAM_BYTES) {
            pad_to(&mut w, PADDED_PAYLOAD_END);
        }
        let ecn = self.path.ecn.codepoint();
        let info = SentInfo {
            ack_eliciting: true,
            in_flight: true,
            ecn_capable: ecn != Ecn::NotEct,
            ..SentInfo::default()
        };
        let len = self.finish_data(now, packet.end(w, info), buf)?;
        self.path.ecn.on_sent();
        self.path.validation.on_sent(len);
        if let (Some(data), Some(e)) = (challenge, &mut self.path.exchange) {
            self.stats.tx_path_challenges += 1;
            e.challenge_sent(now, data, len >= super::MIN_DATAGRAM_BYTES.into());
        }
        Some((len, ecn))
    }
}
