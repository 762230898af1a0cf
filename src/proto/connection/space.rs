//! Packet number spaces: what was sent, what arrived, what has to be acknowledged; and the two of the
//! handshake, with all that goes when they go.

use super::crypto_stream::{CryptoRecv, CryptoSend};
use super::error::TransportError;
use super::hello::Undecided;
use crate::ecn::Ecn;
use crate::proto::crypto::{Keys, Level, OneRttSecrets};
use crate::proto::path::{Addresses, PathId, Validation};
use crate::proto::ranges::RangeSet;
use crate::proto::recovery::SentPackets;
use crate::time::Instant;
use crate::wire::frame::EcnCounts;
use crate::wire::packet::PacketType;
use crate::wire::transport_parameters::TransportParameters;
use crate::wire::{ConnectionId, Side};

/// Ranges of packet numbers that one ACK frame reports at most (ATTACKS row 26 seen from the
/// other side: what we keep is bounded whatever arrives).
pub(super) const MAX_ACK_RANGES: usize = 32;
/// The same in Initial and Handshake, where a peer sends a handful of packets: 128 bytes, for
/// anyone who begins a handshake.
const HANDSHAKE_ACK_RANGES: usize = 8;
/// Numbers below the largest received that can be told from duplicates.
const DEDUP_WINDOW: u64 = 128;

/// Which packet number space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpaceId {
    Initial,
    Handshake,
    Data,
}

impl SpaceId {
    /// The type of its packets.
    #[inline]
    pub(super) fn packet_type(self) -> PacketType {
        match self {
            Self::Initial => PacketType::Initial,
            Self::Handshake => PacketType::Handshake,
            Self::Data => PacketType::Short,
        }
    }
}

/// Numbers that were seen: the largest, and a bit for each of the 128 below it.
#[derive(Debug, Default)]
pub(super) struct Dedup {
    /// One more than the largest number seen.
    next: u64,
    /// Bit `i` stands for `next - 1 - i`.
    window: u128,
}

impl Dedup {
    /// True if `pn` was seen, or is too old to tell.
    #[inline]
    pub(super) fn is_duplicate(&self, pn: u64) -> bool {
        match self.next.checked_sub(1 + pn) {
            None => false,
            Some(age) if age < DEDUP_WINDOW => self.window >> age & 1 == 1,
            Some(_) => true,
        }
    }

    /// Notes that `pn` was seen.
    #[inline]
    pub(super) fn insert(&mut self, pn: u64) {
        if pn >= self.next {
            let shift = pn + 1 - self.next;
            self.window = if shift >= DEDUP_WINDOW { 0 } else { self.window << shift };
            self.next = pn + 1;
        }
        let age = self.next - 1 - pn;
        if age < DEDUP_WINDOW {
            self.window |= 1 << age;
        }
    }
}

/// A packet that arrived.
pub(super) struct Arrival {
    pub(super) space: SpaceId,
    pub(super) pn: u64,
    pub(super) ecn: Ecn,
    pub(super) dcid: ConnectionId,
    /// The path that it took, if it took one that we know.
    pub(super) path: Option<PathId>,
}

/// What arrived in a space and what the peer has to be told of it.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Received {
    pub(super) largest: Option<u64>,
    pub(super) largest_at: Instant,
    /// When an acknowledgement has to leave.
    pub(super) deadline: Option<Instant>,
    /// Packets that asked for an acknowledgement since the last one was sent.
    pub(super) unacked: u32,
    pub(super) dedup: Dedup,
    pub(super) ecn: EcnCounts,
    /// Numbers to report, bounded; the smallest ranges are forgotten first.
    pub(super) ranges: RangeSet,
}

impl Default for Received {
    fn default() -> Self {
        Self {
            dedup: Dedup::default(),
            ranges: RangeSet::new(MAX_ACK_RANGES),
            largest: None,
            largest_at: Instant::EPOCH,
            unacked: 0,
            deadline: None,
            ecn: EcnCounts::default(),
        }
    }
}

/// When packets of a space are acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct AckPolicy {
    /// How long an acknowledgement may be held back; 0 in Initial and Handshake.
    pub(super) delay_ns: u64,
    /// Packets after which it is not.
    pub(super) threshold: u32,
}

impl Received {
    /// Notes an authenticated packet. RFC 9000 §13.2.1: reordering and CE marks are reported at
    /// once, the rest after `policy`.
    #[inline]
    pub(super) fn note(
        &mut self,
        now: Instant,
        pn: u64,
        eliciting: bool,
        ecn: Ecn,
        policy: AckPolicy,
    ) {
        self.dedup.insert(pn);
        let in_order = self.largest.is_none_or(|l| pn == l + 1);
        if self.ranges.insert(pn, pn).is_err() {
            // Full: forget what is oldest, which the peer has repaired or given up long ago.
            self.ranges.pop_min();
            let _still_full = self.ranges.insert(pn, pn);
        }
        if self.largest.is_none_or(|l| pn > l) {
            self.largest = Some(pn);
            self.largest_at = now;
        }
        match ecn {
            Ecn::NotEct => {}
            Ecn::Ect0 => self.ecn.ect0 += 1,
            Ecn::Ect1 => self.ecn.ect1 += 1,
            Ecn::Ce => self.ecn.ce += 1,
        }
        if !eliciting {
            return;
        }
        self.unacked += 1;
        let at_once = !in_order || ecn == Ecn::Ce || self.unacked >= policy.threshold;
        let due = if at_once { now } else { now.plus_ns(policy.delay_ns) };
        self.deadline = Some(self.deadline.map_or(due, |d| d.min(due)));
    }

    /// True when an acknowledgement has to leave now.
    #[inline]
    pub(super) fn ack_due(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|d| d <= now)
    }

    /// True when a packet that leaves anyway should carry an acknowledgement.
    #[inline]
    pub(super) fn ack_is_pending(&self, now: Instant) -> bool {
        self.unacked > 0 || self.ack_due(now)
    }

    /// An ACK frame with everything in it was written.
    #[inline]
    pub(super) fn ack_sent(&mut self) {
        self.unacked = 0;
        self.deadline = None;
    }

    /// The peer has seen an ACK frame up to `largest`: what it reported need not be repeated
    /// (RFC 9000 §13.2.4).
    #[inline]
    pub(super) fn ack_acknowledged(&mut self, largest: u64) {
        self.ranges.remove_below(largest.saturating_add(1));
    }

    /// ECN counts for the next ACK frame, if any ECN codepoint was seen.
    pub(super) fn ecn_counts(&self) -> Option<EcnCounts> {
        let seen = self.ecn.ect0 | self.ecn.ect1 | self.ecn.ce;
        (seen != 0).then_some(self.ecn)
    }
}

/// A packet number space before 1-RTT: gone once the handshake is over.
pub(super) struct HandshakeSpace {
    pub(super) keys: Option<Keys>,
    pub(super) sent: SentPackets,
    pub(super) received: Received,
    pub(super) crypto_send: CryptoSend,
    pub(super) crypto_recv: CryptoRecv,
    /// Probes to send after a timeout.
    pub(super) probes: u8,
}

impl Default for HandshakeSpace {
    fn default() -> Self {
        let received =
            Received { ranges: RangeSet::new(HANDSHAKE_ACK_RANGES), ..Received::default() };
        Self {
            keys: None,
            sent: SentPackets::default(),
            received,
            crypto_send: CryptoSend::default(),
            crypto_recv: CryptoRecv::default(),
            probes: 0,
        }
    }
}

impl HandshakeSpace {
    /// Bytes of heap held.
    pub(super) fn heap_bytes(&self) -> usize {
        self.sent.memory_bytes()
            + self.received.ranges.heap_bytes()
            + self.crypto_send.heap_bytes()
            + self.crypto_recv.heap_bytes()
    }
}

/// Where a server's handshake began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Home {
    pub(super) addresses: Addresses,
    pub(super) validation: Validation,
}

/// What the handshake needs and the rest of the connection's life does not.
pub(super) struct Handshake {
    pub(super) initial: HandshakeSpace,
    pub(super) handshake: HandshakeSpace,
    pub(super) initial_discarded: bool,
    /// The token that the next Initial carries.
    pub(super) token: Vec<u8>,
    /// The destination id of the client's first Initial, before any Retry.
    pub(super) original_dcid: ConnectionId,
    /// The source id of the Retry packet.
    pub(super) retry_scid: Option<ConnectionId>,
    /// What the peer writes as source id, once it has written one.
    pub(super) peer_scid: Option<ConnectionId>,
    /// A packet of the peer's was authentic: Retry and Version Negotiation come too late.
    pub(super) heard: bool,
    /// RFC 9002 §6.2.2.1: the client knows that the server knows its address.
    pub(super) peer_validated_us: bool,
    /// What a server keeps until it has a configuration.
    pub(super) undecided: Option<Box<Undecided>>,
    /// The application has to say what it makes of the peer's certificate.
    pub(super) awaits_verdict: bool,
    /// Where a server's handshake began, if its client is somewhere else. In place: a datagram that is not
    /// authentic writes it too, and must cost no allocation.
    pub(super) home: Option<Home>,
    /// Times that a server sent its flight again because the client repeated its own.
    pub(super) flight_repeats: u8,
    /// Handshake bytes from TLS go here next.
    pub(super) write_level: Level,
    /// What the keys of 1-RTT packets are made of. A server has it with its first flight, and works
    /// it out, 1.6 kB, once it knows its client.
    pub(super) one_rtt: Option<(Keys, OneRttSecrets)>,
    pub(super) parameters_done: bool,
    /// When the connection began.
    pub(super) began_at: Instant,
}

impl Handshake {
    pub(super) fn new(original_dcid: ConnectionId, retry_scid: Option<ConnectionId>) -> Self {
        Self {
            initial: HandshakeSpace::default(),
            handshake: HandshakeSpace::default(),
            initial_discarded: false,
            token: Vec::new(),
            original_dcid,
            retry_scid,
            peer_scid: None,
            heard: false,
            peer_validated_us: false,
            undecided: None,
            awaits_verdict: false,
            home: None,
            flight_repeats: 0,
            write_level: Level::Initial,
            one_rtt: None,
            parameters_done: false,
            began_at: Instant::EPOCH,
        }
    }

    /// RFC 9000 §7.3: the ids seen on the wire are the ones that TLS authenticates.
    pub(super) fn check_ids(
        &self,
        side: Side,
        p: &TransportParameters,
    ) -> Result<(), TransportError> {
        let Some(initial) = p.initial_source_connection_id else {
            return Err(TransportError::transport_parameter(
                "initial_source_connection_id is missing",
            ));
        };
        let mut fine = self.peer_scid == Some(initial);
        if side == Side::Client {
            fine &= p.original_destination_connection_id == Some(self.original_dcid);
            fine &= p.retry_source_connection_id == self.retry_scid;
        }
        if fine {
            Ok(())
        } else {
            Err(TransportError::transport_parameter("connection ids do not match the packets"))
        }
    }

    /// Bytes of memory held. The TLS library keeps the ClientHello that it has read.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.initial.crypto_recv.read_bytes() as usize
            + self.token.capacity()
            + self.undecided.as_ref().map_or(0, |u| size_of::<Undecided>() + u.heap_bytes())
            + self.initial.heap_bytes()
            + self.handshake.heap_bytes()
    }

    pub(super) fn space(&mut self, id: SpaceId) -> Option<&mut HandshakeSpace> {
        match id {
            SpaceId::Initial => Some(&mut self.initial),
            SpaceId::Handshake => Some(&mut self.handshake),
            SpaceId::Data => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_told_apart_within_the_window_and_assumed_beyond() {
        let mut d = Dedup::default();
        assert!(!d.is_duplicate(0));
        d.insert(0);
        assert!(d.is_duplicate(0));
        d.insert(5);
        assert!(!d.is_duplicate(3));
        d.insert(3);
        assert!(d.is_duplicate(3) && d.is_duplicate(5) && !d.is_duplicate(4));
        d.insert(1_000);
        assert!(d.is_duplicate(4), "too old to tell");
        assert!(!d.is_duplicate(1_000 - 127) && d.is_duplicate(1_000 - 128));
    }

    #[test]
    fn acknowledgements_wait_unless_there_is_a_reason() {
        let policy = AckPolicy { delay_ns: 100, threshold: 2 };
        let at = Instant::from_nanos;
        let mut r = Received::default();
        r.note(at(0), 0, true, Ecn::NotEct, policy);
        assert!(!r.ack_due(at(99)) && r.ack_due(at(100)));
        r.note(at(1), 1, true, Ecn::NotEct, policy);
        assert!(r.ack_due(at(1)), "the second");
        r.ack_sent();
        r.note(at(2), 2, false, Ecn::NotEct, policy);
        assert_eq!(r.deadline, None, "acknowledgements are not acknowledged");
        r.note(at(3), 4, true, Ecn::NotEct, policy);
        assert!(r.ack_due(at(3)), "a gap");
        r.ack_sent();
        r.note(at(4), 5, true, Ecn::Ce, policy);
        assert!(r.ack_due(at(4)), "congestion");
    }

    #[test]
    fn the_ranges_kept_are_bounded() {
        let policy = AckPolicy { delay_ns: 0, threshold: 2 };
        let mut r = Received::default();
        for pn in 0..10_000 {
            r.note(Instant::EPOCH, pn * 2, true, Ecn::NotEct, policy);
        }
        assert_eq!(r.ranges.len(), MAX_ACK_RANGES);
        assert!(r.ranges.contains(19_998), "the newest are kept");
    }
}
