//! Packets that overtook the ones that bring their keys (RFC 9001 §5.7).
//!
//! A client keeps the server's Handshake and 1-RTT packets that arrive before the Initial that
//! opens the way to them; a server keeps 1-RTT packets that overtake the client's Finished, which
//! it may not read before (§5.7). Both keep few: what is not kept is sent again (ATTACKS row 11).
//!
//! An acknowledgement says how long its packet has waited here (RFC 9000 §13.2.5): where what brings
//! the keys is lost again and again that is half a minute, which is no round trip.

use super::crypto_stream::UNVALIDATED_HELLO_BYTES;
use crate::ecn::Ecn;
use crate::proto::crypto::TICKET_MAX_BYTES;
use crate::time::Instant;
use std::collections::VecDeque;

/// Datagrams kept of a peer whose address is known.
pub(super) const EARLY_MAX: usize = 10;
/// Datagrams kept of a client that has not proved its address, once there is something for them
/// to overtake.
pub(super) const EARLY_UNVALIDATED_MAX: usize = 1;

/// Beside a ClientHello of more than this, a datagram does not fit the 16 KiB of a handshake whose
/// address is not validated. Browsers with post-quantum key shares send 1.8 to 2.5 kB.
pub(super) const EARLY_HELLO_MAX: u64 = 2_560;

// One of that size comes with a ticket of ours.
const _: () = assert!(EARLY_HELLO_MAX + TICKET_MAX_BYTES as u64 <= UNVALIDATED_HELLO_BYTES);

/// What is left of a datagram, from the first packet on whose keys are still to come.
#[derive(Debug)]
pub(super) struct Early {
    pub(super) arrived: Instant,
    pub(super) ecn: Ecn,
    pub(super) datagram: Box<[u8]>,
}

/// Datagrams that wait.
#[derive(Debug, Default)]
pub(super) struct EarlyPackets {
    datagrams: VecDeque<Early>,
    /// Their keys came then, and with no datagram: they are read as soon as the application is told of it.
    pub(super) due: Option<Instant>,
}

impl EarlyPackets {
    /// Keeps one more, of at most `limit`.
    pub(super) fn keep(&mut self, early: Early, limit: usize) {
        if self.datagrams.capacity() == 0 {
            self.datagrams.reserve_exact(limit);
        }
        self.datagrams.push_back(early);
    }

    /// The datagrams, oldest first.
    pub(super) fn into_datagrams(self) -> VecDeque<Early> {
        self.datagrams
    }

    /// How many datagrams wait.
    pub(super) fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Bytes of memory held.
    pub(super) fn memory_bytes(&self) -> usize {
        let bytes: usize = self.datagrams.iter().map(|early| early.datagram.len()).sum();
        size_of::<Self>() + self.datagrams.capacity() * size_of::<Early>() + bytes
    }
}
