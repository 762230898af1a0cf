//! Packets that overtook the ones that bring their keys (RFC 9001 §5.7).
//!
//! A client keeps the server's Handshake and 1-RTT packets that arrive before the Initial that
//! opens the way to them; a server keeps 1-RTT packets that overtake the client's Finished, which
//! it may not read before (§5.7). Both keep few: what is not kept is sent again (ATTACKS row 11).
//!
//! An acknowledgement says how long its packet has waited here (RFC 9000 §13.2.5): where what brings
//! the keys is lost again and again that is half a minute, which is no round trip.

use super::{Application, Connection};
use crate::ecn::Ecn;
use crate::proto::observer::{DropReason, Observation};
use crate::time::Instant;
use crate::wire::Side;
use std::collections::VecDeque;

/// Datagrams kept of a peer whose address is known.
pub(super) const EARLY_MAX: usize = 10;
/// Datagrams kept of a client that has not proved its address, once there is something for them
/// to overtake.
pub(super) const EARLY_UNVALIDATED_MAX: usize = 1;

/// A ClientHello of more than this leaves no room in 16 KiB for a datagram beside it. Browsers with
/// post-quantum key shares say 1.8 to 2.5 kB.
const EARLY_HELLO_MAX: u64 = 2_560;

/// A datagram whose keys are still to come.
#[derive(Debug)]
struct Early {
    arrived: Instant,
    ecn: Ecn,
    datagram: Box<[u8]>,
}

/// Datagrams that wait.
#[derive(Debug, Default)]
pub(super) struct EarlyPackets {
    datagrams: VecDeque<Early>,
}

impl EarlyPackets {
    /// How many datagrams wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Bytes of memory held.
    pub(super) fn memory_bytes(&self) -> usize {
        let bytes: usize = self.datagrams.iter().map(|early| early.datagram.len()).sum();
        size_of::<Self>() + self.datagrams.capacity() * size_of::<Early>() + bytes
    }
}

impl Connection {
    /// True if 1-RTT packets can be opened. RFC 9001 §5.7: a server that could make their keys must
    /// not use them before the handshake is complete.
    #[inline]
    pub(super) fn reads_1rtt(&self) -> bool {
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

    /// Keeps a datagram until there are keys for it.
    pub(super) fn keep_early(&mut self, arrived: Instant, ecn: Ecn, datagram: &[u8]) {
        let limit = self.early_limit();
        if self.early.as_ref().map_or(0, |early| early.datagrams.len()) >= limit {
            self.stats.rx_refused += 1;
            self.tell_dropped(arrived, None, datagram.len(), DropReason::TooManyWait);
            return;
        }
        let kept =
            Observation::DatagramKept { datagram: self.stats.rx_datagrams, bytes: datagram.len() };
        self.tell(arrived, &kept);
        let early = self.early.get_or_insert_default();
        if early.datagrams.capacity() == 0 {
            early.datagrams.reserve_exact(limit);
        }
        early.datagrams.push_back(Early { arrived, ecn, datagram: datagram.into() });
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
        for Early { arrived, ecn, mut datagram } in early.datagrams {
            let (newest, may_wait) = (self.newest(), !self.reads_1rtt());
            if self.receive_packets(now, ecn, &mut datagram, app) && may_wait {
                self.keep_early(arrived, ecn, &datagram);
            }
            self.note_wait(newest, arrived);
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
