//! From a datagram to packets: coalescing, keys, packet numbers (RFC 9000 §12, §5.2).

use super::config::after;
use super::early::{EARLY_HELLO_MAX, EARLY_MAX, EARLY_UNVALIDATED_MAX, Early};
use super::error::{CloseReason, TransportError};
use super::keys::Opened;
use super::space::{Arrival, SpaceId};
use super::{Application, Connection, State};
use crate::ecn::Ecn;
use crate::proto::crypto::{HeaderKey, PacketKey};
use crate::proto::observer::{DropReason, Observation};
use crate::proto::path::{Addresses, Ends, PathId};
use crate::time::{Instant, SECOND_NS};
use crate::wire::frame::Frame;
use crate::wire::packet::{self, KEY_PHASE, Packet, PacketType, decode_pn};
use crate::wire::{ConnectionId, Reader, Side};
use std::net::SocketAddr;

/// The form bit of the first byte: long headers have it.
const LONG_FORM: u8 = 0x80;
/// The fixed bit of the first byte.
const FIXED_BIT: u8 = 0x40;
/// Bits of a short header that must be zero once unprotected.
const SHORT_RESERVED: u8 = 0x18;
/// Bits of a long header that must be zero once unprotected.
const LONG_RESERVED: u8 = 0x0c;
/// A slow path makes a short idle timeout longer, up to this: three probe timeouts of a path whose
/// first round trip took 3.3 s.
///
/// RFC 9000 §10.1 has no such bound: "at least three times the current Probe Timeout". But the peer
/// makes the samples that the probe timeout is computed from: one acknowledgement that is withheld
/// for an hour while the connection is kept alive would let a silent peer hold it for three hours more.
/// A path that is slower than this needs an idle timeout that says so: what is configured holds
/// whatever it is.
const IDLE_STRETCH_MAX_NS: u64 = 30 * SECOND_NS;
/// The smallest datagram that can be a stateless reset (RFC 9000 §10.3).
const MIN_RESET_BYTES: usize = 21;

/// A packet, opened.
struct Plain {
    pn: u64,
    /// The payload within the datagram.
    start: usize,
    end: usize,
    /// A reserved bit was set: a violation, but only of an authentic packet.
    reserved_set: bool,
}

impl Connection {
    /// Takes a datagram in that came from and to the addresses `at`. Packets are decrypted where they
    /// lie, so the bytes of `datagram` are not meaningful afterwards. Returns the path that the datagram
    /// took, if a packet of it was the peer's (authentic, and new) and the connection knows the path:
    /// where it came from leads to the peer.
    pub fn receive(
        &mut self,
        now: Instant,
        at: Ends<'_>,
        ecn: Ecn,
        datagram: &mut [u8],
        app: &mut dyn Application,
    ) -> Option<PathId> {
        self.stats.rx_datagrams += 1;
        self.stats.rx_bytes += datagram.len() as u64;
        if datagram.len() > usize::from(self.max_rx_bytes) {
            self.stats.rx_oversized += 1;
            self.tell_dropped(now, None, datagram.len(), DropReason::TooLarge);
            return None;
        }
        let here = self.path.is_between(at);
        if !here && let Some(path) = self.receive_elsewhere(now, at, ecn, datagram, app) {
            return path;
        }
        match self.state {
            State::Handshaking | State::Established => {}
            State::Closing => {
                self.tell_dropped(now, None, datagram.len(), DropReason::Closed);
                self.path.validation.on_received(datagram.len());
                self.receive_closing(now, datagram, app);
                return None;
            }
            State::Draining | State::Drained => {
                self.tell_dropped(now, None, datagram.len(), DropReason::Closed);
                return None;
            }
        }
        let (before, path) = (self.stats.rx_packets, self.path.id);
        let short = datagram.first().is_some_and(|b| b & LONG_FORM == 0);
        if short && self.state == State::Established {
            if self.paths_busy {
                self.receive_watched(now, ecn, datagram, app);
            } else {
                self.receive_short(now, ecn, datagram, None, app);
            }
        } else {
            self.receive_coalesced(now, ecn, datagram, app);
        }
        let authentic = self.stats.rx_packets != before;
        if !here && authentic {
            self.learn_local(at);
        }
        self.deliver(app);
        if self.observed {
            self.tell_all_changes(now);
        }
        authentic.then_some(path)
    }

    /// A datagram that arrives while we close: it may be the peer's answer, and is answered otherwise.
    #[cold]
    fn receive_closing(&mut self, now: Instant, datagram: &mut [u8], app: &mut dyn Application) {
        let reads = self.closing.as_mut().is_some_and(|closing| closing.may_read());
        if reads && self.finds_close(now, datagram) {
            self.close_is_answered(now);
        } else {
            self.on_closing_datagram();
        }
        self.deliver(app);
    }

    /// True if an authentic packet of the datagram has a CONNECTION_CLOSE. Nothing else of it acts.
    fn finds_close(&mut self, now: Instant, datagram: &mut [u8]) -> bool {
        let (mut at, mut first_dcid) = (0, None);
        while at < datagram.len()
            && let Ok(p) = packet::parse(datagram, at, usize::from(self.local_cid_len))
        {
            // RFC 9000 §12.2.
            if *first_dcid.get_or_insert(p.dcid) != p.dcid || p.end <= at {
                return false;
            }
            let start = std::mem::replace(&mut at, p.end);
            let (base, opened) = match p.kind {
                PacketType::Short => {
                    let opened = self.open_short_seldom(now, &mut datagram[start..p.end]);
                    if let (Err(_), Some(closing)) = (&opened, &mut self.closing) {
                        closing.end_reads();
                    }
                    (start, opened.ok().and_then(Result::ok))
                }
                PacketType::Initial | PacketType::Handshake => {
                    (0, self.open_checked(datagram, start, &p).ok().map(|(_, plain)| plain))
                }
                PacketType::ZeroRtt
                | PacketType::Retry
                | PacketType::VersionNegotiation
                | PacketType::UnknownVersion => (0, None),
            };
            if let Some(plain) = opened.filter(|plain| !plain.reserved_set) {
                self.stats.rx_packets += 1;
                if closes(&datagram[base + plain.start..base + plain.end], p.kind) {
                    return true;
                }
            }
        }
        false
    }

    /// A 1-RTT packet on the active path while there are others, or while that one is not validated.
    #[cold]
    #[inline(never)]
    fn receive_watched(
        &mut self,
        now: Instant,
        ecn: Ecn,
        datagram: &mut [u8],
        app: &mut dyn Application,
    ) {
        self.path.validation.on_received(datagram.len());
        let at = self.path.addresses();
        self.receive_short(now, ecn, datagram, Some(&at), app);
    }

    /// A client whose address the kernel chooses learns it from the first packet.
    #[cold]
    fn learn_local(&mut self, at: Ends<'_>) {
        if self.path.local.ip().is_unspecified() {
            self.path.local = *at.local;
        }
    }

    /// A datagram that did not take the active path. `None` if it is to be read as if it had: a
    /// client may get a packet at any address of its own.
    #[cold]
    #[inline(never)]
    fn receive_elsewhere(
        &mut self,
        now: Instant,
        at: Ends<'_>,
        ecn: Ecn,
        datagram: &mut [u8],
        app: &mut dyn Application,
    ) -> Option<Option<PathId>> {
        let at = &at.addresses();
        let other = self.others.as_mut().and_then(|others| others.between(at));
        let known = other.is_some();
        if self.state == State::Closing
            && let Some(other) = other
        {
            other.path.validation.on_received(datagram.len());
            self.receive_closing(now, datagram, app);
            return Some(None);
        }
        let ours = self.side == Side::Client || self.state != State::Established;
        if at.remote == self.path.remote && ours && !known {
            return None;
        }
        // RFC 9000 §9: clients move only after the handshake, and servers not at all.
        if self.state == State::Handshaking
            && self.side == Side::Server
            && at.local == self.path.local
        {
            let path = self.receive_rebound(now, at, ecn, datagram, app);
            self.deliver(app);
            if self.observed {
                self.tell_all_changes(now);
            }
            return Some(path);
        }
        let established = self.state == State::Established && self.handshake.is_none();
        let start = self.start_of_short(datagram);
        let lost = self.side == Side::Client && !known && !self.has_left(at.remote);
        let Some(start) = start.filter(|_| established && !lost) else {
            self.stats.rx_foreign += 1;
            self.tell_dropped(now, None, datagram.len(), DropReason::ForeignAddress);
            return Some(None);
        };
        let before = self.stats.rx_packets;
        self.receive_short(now, ecn, &mut datagram[start..], Some(at), app);
        self.deliver(app);
        if self.observed {
            self.tell_all_changes(now);
        }
        let authentic = self.stats.rx_packets != before;
        let others = self.others.as_mut().filter(|_| authentic);
        let other = others.and_then(|others| others.between(at)).map(|other| other.path.id);
        let active = (authentic && self.path.is_between(at.ends())).then_some(self.path.id);
        Some(other.or(active))
    }

    /// Where a datagram's 1-RTT packet begins: behind what a client repeats of a handshake that its server
    /// has done with (RFC 9001 §4.9.2).
    fn start_of_short(&self, datagram: &[u8]) -> Option<usize> {
        let (mut at, mut first_dcid) = (0, None);
        while at < datagram.len() && datagram[at] & LONG_FORM != 0 {
            let p = packet::parse(datagram, at, usize::from(self.local_cid_len)).ok()?;
            // RFC 9000 §12.2.
            if *first_dcid.get_or_insert(p.dcid) != p.dcid || p.end <= at {
                return None;
            }
            at = p.end;
        }
        (at < datagram.len()).then_some(at)
    }

    /// A packet, or what is left of a datagram, is of no use.
    #[cold]
    pub(super) fn drop_packet(
        &mut self,
        now: Instant,
        kind: Option<PacketType>,
        bytes: usize,
        reason: DropReason,
    ) {
        self.stats.rx_dropped += 1;
        self.tell_dropped(now, kind, bytes, reason);
    }

    /// A datagram that may hold several packets, as those of the handshake do.
    pub(super) fn receive_coalesced(
        &mut self,
        now: Instant,
        ecn: Ecn,
        datagram: &mut [u8],
        app: &mut dyn Application,
    ) {
        self.path.validation.on_received(datagram.len());
        if let Some(at) = self.receive_packets(now, ecn, datagram, app) {
            self.keep_early(now, ecn, &datagram[at..]);
        }
        self.replay_early(now, app);
    }

    /// Where the first packet begins whose keys are still to come, if there is one. What stands
    /// before it is read, and must not be read again.
    fn receive_packets(
        &mut self,
        now: Instant,
        ecn: Ecn,
        datagram: &mut [u8],
        app: &mut dyn Application,
    ) -> Option<usize> {
        let mut at = 0;
        let mut first_dcid: Option<ConnectionId> = None;
        let mut early_at = None;
        while at < datagram.len() && !self.is_closed() {
            let Ok(p) = packet::parse(datagram, at, usize::from(self.local_cid_len)) else {
                // Padding after the last packet, or garbage.
                if at == 0 {
                    self.drop_packet(now, None, datagram.len(), DropReason::Malformed);
                }
                break;
            };
            // RFC 9000 §12.2: packets for another connection are not ours to keep.
            if *first_dcid.get_or_insert(p.dcid) != p.dcid {
                let bytes = datagram.len() - at;
                self.drop_packet(now, Some(p.kind), bytes, DropReason::OtherConnection);
                break;
            }
            let start = std::mem::replace(&mut at, p.end);
            match p.kind {
                PacketType::Short => {
                    if !self.reads_1rtt() {
                        early_at.get_or_insert(start);
                    }
                    self.receive_short(now, ecn, &mut datagram[start..p.end], None, app);
                }
                PacketType::Initial | PacketType::Handshake => {
                    if self.receive_long(now, ecn, datagram, start, &p, app) {
                        early_at.get_or_insert(start);
                    }
                }
                PacketType::Retry => self.on_retry(now, &p, datagram, start),
                PacketType::VersionNegotiation => {
                    self.on_version_negotiation(now, &p, datagram);
                }
                PacketType::ZeroRtt => {
                    self.drop_packet(now, Some(p.kind), p.end - start, DropReason::ZeroRtt);
                }
                PacketType::UnknownVersion => {
                    self.drop_packet(now, Some(p.kind), p.end - start, DropReason::UnknownVersion);
                }
            }
        }
        early_at
    }

    /// An Initial or Handshake packet; true if its keys are still to come.
    fn receive_long(
        &mut self,
        now: Instant,
        ecn: Ecn,
        datagram: &mut [u8],
        start: usize,
        p: &Packet,
        app: &mut dyn Application,
    ) -> bool {
        let (space, plain) = match self.open_checked(datagram, start, p) {
            Ok(opened) => opened,
            Err(DropReason::KeysUnavailable) => return true,
            Err(reason) => {
                self.drop_packet(now, Some(p.kind), p.end - start, reason);
                return false;
            }
        };
        self.on_authentic(now);
        if space == SpaceId::Handshake && self.side == Side::Server {
            // RFC 9000 §8.1, RFC 9001 §4.9.1: only the real client could have answered.
            self.validate_by_handshake();
            self.discard_space(SpaceId::Initial);
        }
        let path = Some(self.path.id);
        let arrival = Arrival { space, pn: plain.pn, ecn, dcid: p.dcid, path };
        let payload = &datagram[plain.start..plain.end];
        if self.observed {
            self.tell_received(now, &arrival, &datagram[start..p.end], payload);
        }
        self.process(now, arrival, plain.reserved_set, payload, app);
        false
    }

    /// Opens an Initial or Handshake packet, if it is as such a packet has to be.
    fn open_checked(
        &mut self,
        datagram: &mut [u8],
        start: usize,
        p: &Packet,
    ) -> Result<(SpaceId, Plain), DropReason> {
        let space =
            if p.kind == PacketType::Initial { SpaceId::Initial } else { SpaceId::Handshake };
        // RFC 9000 §14.1.
        let small = datagram.len() < usize::from(super::MIN_DATAGRAM_BYTES);
        // RFC 9000 §17.2.2: a server's Initial has no token.
        let plain = match (space, self.side) {
            (SpaceId::Initial, Side::Server) if small => Err(DropReason::SmallInitial),
            (SpaceId::Initial, Side::Client) if !p.token.is_empty() => {
                Err(DropReason::UnexpectedToken)
            }
            _ => self.open_long(space, datagram, start, p),
        }?;
        match self.settle_peer_id(p.scid) {
            true => Ok((space, plain)),
            false => Err(DropReason::PeerIdChanged),
        }
    }

    fn open_long(
        &mut self,
        space: SpaceId,
        datagram: &mut [u8],
        start: usize,
        p: &Packet,
    ) -> Result<Plain, DropReason> {
        let h = self.handshake.as_mut().ok_or(DropReason::KeysDiscarded)?;
        if space == SpaceId::Initial && h.initial_discarded {
            return Err(DropReason::KeysDiscarded);
        }
        let s = h.space(space).ok_or(DropReason::KeysDiscarded)?;
        let keys = s.keys.as_ref().ok_or(DropReason::KeysUnavailable)?;
        let bytes = &mut datagram[start..p.end];
        let offset = p.pn_offset - start;
        let (first, pn, header) =
            unprotect(&keys.remote.header(), bytes, offset, s.received.largest)?;
        let len = open(&keys.remote.packet(), pn, bytes, header)?;
        if s.received.dedup.is_duplicate(pn) {
            return Err(DropReason::Duplicate);
        }
        let from = start + header;
        Ok(Plain { pn, start: from, end: from + len, reserved_set: first & LONG_RESERVED != 0 })
    }

    /// A 1-RTT packet: the way that nearly every packet takes. `at` are the ends of its path, if that
    /// is not the active one, or not the only one.
    fn receive_short(
        &mut self,
        now: Instant,
        ecn: Ecn,
        packet: &mut [u8],
        at: Option<&Addresses>,
        app: &mut dyn Application,
    ) {
        let plain = match self.open_short(now, packet) {
            Ok(Ok(plain)) => plain,
            // The caller keeps the datagram.
            Ok(Err(DropReason::KeysUnavailable)) => return,
            Ok(Err(reason)) => return self.drop_short(now, reason, packet),
            Err(e) => return self.close_transport(now, e),
        };
        self.on_authentic(now);
        // The end of the handshake may stand in the same datagram: it is told before its data.
        if !self.events.is_empty() {
            self.deliver(app);
        }
        let cid_end = 1 + usize::from(self.local_cid_len);
        let dcid = ConnectionId::new(&packet[1..cid_end]).unwrap_or(ConnectionId::EMPTY);
        let payload = &packet[plain.start..plain.end];
        let (path, largest) = match at {
            None => (Some(self.path.id), None),
            Some(at) => {
                let path = self.enter_path(now, at, &dcid, packet.len(), (plain.pn, payload));
                (path, self.data.received.largest)
            }
        };
        let arrival = Arrival { space: SpaceId::Data, pn: plain.pn, ecn, dcid, path };
        if self.observed {
            self.tell_received(now, &arrival, packet, payload);
        }
        self.process(now, arrival, plain.reserved_set, payload, app);
        if at.is_some() {
            self.follow(now, path, (plain.pn, largest), payload);
        }
    }

    /// As [`open_short`](Self::open_short), for those who open few: that one stands where each packet
    /// passes, and nowhere else.
    #[cold]
    #[inline(never)]
    fn open_short_seldom(
        &mut self,
        now: Instant,
        bytes: &mut [u8],
    ) -> Result<Result<Plain, DropReason>, TransportError> {
        self.open_short(now, bytes)
    }

    #[inline(always)]
    fn open_short(
        &mut self,
        now: Instant,
        bytes: &mut [u8],
    ) -> Result<Result<Plain, DropReason>, TransportError> {
        let expires = now.plus_ns(3 * self.pto_ns());
        let Some(keys) = &mut self.keys else {
            return Ok(Err(DropReason::KeysUnavailable));
        };
        if bytes[0] & FIXED_BIT == 0 {
            return Ok(Err(DropReason::FixedBit));
        }
        let received = &self.data.received;
        let offset = 1 + usize::from(self.local_cid_len);
        let Ok((first, pn, header)) =
            unprotect(keys.remote_header(), bytes, offset, received.largest)
        else {
            return Ok(Err(DropReason::TooShort));
        };
        // RFC 9001 §9.5: that a number was seen shows only after the packet was opened, or the
        // time of the answer would tell which numbers a forger has guessed.
        let opened = keys.open(pn, bytes, header, first & KEY_PHASE != 0, received.largest)?;
        if opened != Opened::Forged && received.dedup.is_duplicate(pn) {
            return Ok(Err(DropReason::Duplicate));
        }
        let len = match opened {
            Opened::Plain(len) => len,
            Opened::Updated(_) if !keys.follows_update(now) => {
                self.stats.rx_limited_key_updates += 1;
                return Ok(Err(DropReason::KeyUpdateLimit));
            }
            Opened::Updated(len) => {
                keys.update(Some(pn), self.data.sent.next_pn(), expires);
                len
            }
            Opened::Forged => return Ok(Err(DropReason::NotAuthentic)),
        };
        keys.start_expiry(expires);
        let reserved_set = first & SHORT_RESERVED != 0;
        Ok(Ok(Plain { pn, start: header, end: header + len, reserved_set }))
    }

    /// Reads the frames of an authentic packet and notes its arrival.
    #[inline]
    fn process(
        &mut self,
        now: Instant,
        arrival: Arrival,
        reserved_set: bool,
        payload: &[u8],
        app: &mut dyn Application,
    ) {
        // RFC 9000 §17.2, §17.3.1, §12.4.
        let result = if reserved_set {
            Err(TransportError::protocol_violation("a reserved bit is set"))
        } else if payload.is_empty() {
            Err(TransportError::protocol_violation("a packet without frames"))
        } else {
            self.read_frames(now, &arrival, payload, app)
        };
        match result {
            Ok(outcome) => self.note_arrival(now, &arrival, outcome),
            Err(e) => self.close_transport(now, e),
        }
    }

    /// Something of the peer's was authentic: it is alive.
    #[inline]
    fn on_authentic(&mut self, now: Instant) {
        self.stats.rx_packets += 1;
        self.restart_idle(now);
        self.sent_since_received = false;
    }

    #[inline]
    pub(super) fn restart_idle(&mut self, now: Instant) {
        // RFC 9000 §10.1: never shorter than three probe timeouts.
        let timeout = match self.idle_timeout_ns {
            t @ (0 | IDLE_STRETCH_MAX_NS..) => t,
            t => t.max(self.three_ptos_ns(IDLE_STRETCH_MAX_NS)),
        };
        self.deadlines.idle = after(now, timeout);
        self.rearm_keep_alive(now);
    }

    /// RFC 9000 §10.3: a packet that nothing opens may say that the peer has forgotten us.
    #[cold]
    fn drop_short(&mut self, now: Instant, reason: DropReason, bytes: &[u8]) {
        self.drop_packet(now, Some(PacketType::Short), bytes.len(), reason);
        if reason.may_be_reset() && self.is_stateless_reset(bytes) {
            self.end_silently(now, CloseReason::StatelessReset);
        }
    }

    fn is_stateless_reset(&self, bytes: &[u8]) -> bool {
        bytes.len() >= MIN_RESET_BYTES
            && bytes.last_chunk().is_some_and(|token| self.remote_cids.is_reset_token(token))
    }

    /// Takes in a datagram that names no connection, and that may be a stateless reset of this one,
    /// as the owner of the table thinks: a reset's id is random. False if it is none (RFC 9000
    /// §10.3.1).
    pub fn receive_stateless_reset(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        datagram: &[u8],
        app: &mut dyn Application,
    ) -> bool {
        if self.is_closed() || remote != self.path.remote || !self.is_stateless_reset(datagram) {
            return false;
        }
        self.stats.rx_datagrams += 1;
        self.stats.rx_bytes += datagram.len() as u64;
        self.end_silently(now, CloseReason::StatelessReset);
        self.deliver(app);
        if self.observed {
            self.tell_all_changes(now);
        }
        true
    }

    // ---- packets that came before their keys ----------------------------------------------

    /// True if 1-RTT packets can be opened. RFC 9001 §5.7: a server that could make their keys must
    /// not use them before the handshake is complete.
    #[inline]
    fn reads_1rtt(&self) -> bool {
        self.keys.is_some()
    }

    /// How many datagrams may wait for their keys now.
    fn early_limit(&self) -> usize {
        match &self.handshake {
            None => 0,
            Some(_) if self.path.validation.is_validated() => EARLY_MAX,
            // Nothing of an honest client's can be early before it has 1-RTT keys.
            Some(h) if h.one_rtt.is_none() => 0,
            Some(h) if h.initial.crypto_recv.read_bytes() > EARLY_HELLO_MAX => 0,
            Some(_) => EARLY_UNVALIDATED_MAX,
        }
    }

    /// Keeps what is left of a datagram until there are keys for it.
    fn keep_early(&mut self, arrived: Instant, ecn: Ecn, datagram: &[u8]) {
        let limit = self.early_limit();
        if self.early.as_ref().map_or(0, |early| early.len()) >= limit {
            self.stats.rx_refused += 1;
            self.tell_dropped(arrived, None, datagram.len(), DropReason::TooManyWait);
            return;
        }
        let kept =
            Observation::DatagramKept { datagram: self.stats.rx_datagrams, bytes: datagram.len() };
        self.tell(arrived, &kept);
        let early = Early { arrived, ecn, datagram: datagram.into() };
        self.early.get_or_insert_default().keep(early, limit);
        self.hears_early();
    }

    /// Reads what has waited, as far as there are keys by now.
    pub(super) fn replay_early(&mut self, now: Instant, app: &mut dyn Application) {
        let Some(early) = self.early.take() else { return };
        let has_handshake_keys =
            self.handshake.as_ref().is_some_and(|h| h.handshake.keys.is_some());
        if !self.reads_1rtt() && (!has_handshake_keys || self.side == Side::Server) {
            self.early = Some(early);
            return;
        }
        let limit = self.early_limit();
        for mut early in early.into_datagrams() {
            let (newest, may_wait) = (self.newest(), !self.reads_1rtt());
            let rest = self.receive_packets(now, early.ecn, &mut early.datagram, app);
            self.note_wait(newest, early.arrived);
            if may_wait && let Some(at) = rest {
                let datagram = early.datagram[at..].into();
                self.early.get_or_insert_default().keep(Early { datagram, ..early }, limit);
            }
        }
    }

    /// The largest numbers received in the two spaces that packets wait for.
    fn newest(&self) -> [Option<u64>; 2] {
        let handshake = self.handshake.as_ref().and_then(|h| h.handshake.received.largest);
        [self.data.received.largest, handshake]
    }

    /// What has become newer than `before` came long ago.
    fn note_wait(&mut self, before: [Option<u64>; 2], arrived: Instant) {
        if self.data.received.largest != before[0] {
            self.data.received.largest_at = arrived;
        }
        if let Some(h) = &mut self.handshake
            && h.handshake.received.largest != before[1]
        {
            h.handshake.received.largest_at = arrived;
        }
    }
}

/// True if a payload has a CONNECTION_CLOSE where it may have one.
fn closes(payload: &[u8], kind: PacketType) -> bool {
    let mut reader = Reader::new(payload);
    while !reader.is_empty()
        && let Ok(frame) = Frame::read(&mut reader)
    {
        let is_close =
            matches!(frame, Frame::ConnectionClose { .. } | Frame::ApplicationClose { .. });
        if is_close && (kind == PacketType::Short || frame.allowed_in(kind)) {
            return true;
        }
    }
    false
}

/// Removes header protection: the first byte, the whole packet number, the header's length.
#[inline]
fn unprotect(
    key: &HeaderKey,
    bytes: &mut [u8],
    offset: usize,
    largest: Option<u64>,
) -> Result<(u8, u64, usize), DropReason> {
    let u = key.unmask(bytes, offset).ok_or(DropReason::TooShort)?;
    let pn = decode_pn(u.truncated_pn, u.pn_len, largest);
    Ok((u.first, pn, offset + u.pn_len))
}

#[inline]
fn open(key: &PacketKey, pn: u64, bytes: &mut [u8], header: usize) -> Result<usize, DropReason> {
    key.open(pn, bytes, header).ok_or(DropReason::NotAuthentic)
}
