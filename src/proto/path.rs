//! A path: everything that is known of one way between two addresses, and nothing else.
//!
//! Round trips, the window, the pacer, the size of datagrams and what becomes of ECN codepoints all
//! belong to the way that packets take (RFC 9000 §9.4). A connection holds its active path by value:
//! each packet touches it.

use super::congestion::{AnyController, Controller};
use super::ecn::EcnSender;
use super::mtu::Mtu;
use super::pacer::Pacer;
use super::patience::Patience;
use super::recovery::Resolved;
use super::rtt::Rtt;
use super::spurious::SpuriousCandidates;
use crate::time::Instant;
use std::net::SocketAddr;

/// RFC 9000 §8.1: bytes that may be sent for each byte that came from an address that is not
/// validated.
const AMPLIFICATION: u64 = 3;

/// A path of a connection.
#[derive(Debug)]
pub(super) struct Path {
    /// The peer's address.
    pub(super) remote: SocketAddr,
    pub(super) validation: Validation,
    pub(super) rtt: Rtt,
    pub(super) congestion: AnyController,
    pub(super) spurious: SpuriousCandidates,
    pub(super) pacer: Pacer,
    pub(super) bytes_in_flight: u64,
    pub(super) ecn: EcnSender,
    pub(super) mtu: Mtu,
    /// What the peer waits for before it acknowledges.
    pub(super) patience: Patience,
}

impl Path {
    /// RFC 9002 §6.2.1: the base of the probe timeout of 1-RTT packets, without the backoff.
    #[inline]
    pub(super) fn pto_ns(&self, peer_max_ack_delay_ns: u64) -> u64 {
        self.rtt.pto_base_ns(peer_max_ack_delay_ns)
    }

    /// True if the window has no room for so many bytes more.
    #[inline]
    pub(super) fn is_full(&self, bytes: usize) -> bool {
        self.bytes_in_flight + bytes as u64 > self.congestion.window()
    }

    /// Bytes left flight with the space that they belonged to, and tell nothing of the path.
    pub(super) fn on_discarded(&mut self, bytes: u64) {
        self.bytes_in_flight = self.bytes_in_flight.saturating_sub(bytes);
    }

    /// A packet was acknowledged or lost.
    #[inline]
    pub(super) fn on_resolved(&mut self, p: &Resolved) {
        if p.info.in_flight {
            self.bytes_in_flight = self.bytes_in_flight.saturating_sub(u64::from(p.info.bytes));
        }
    }

    /// When a packet of so many bytes may leave, as the pacer has it.
    #[inline]
    pub(super) fn pace(&mut self, now: Instant, bytes: usize) -> Result<(), Instant> {
        let window = self.congestion.window();
        self.pacer.can_send(now, bytes as u64, window, self.rtt.smoothed_ns())
    }

    /// Datagrams have another size from now on.
    pub(super) fn set_mtu(&mut self, mtu: u16) {
        self.congestion.on_mtu(mtu);
        self.pacer.on_mtu(mtu);
    }
}

/// Whether the peer is where its packets say that they come from, and what may be sent until that
/// is known (RFC 9000 §8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validation {
    validated: bool,
    received_bytes: u64,
    sent_bytes: u64,
}

impl Validation {
    pub(super) const fn new(validated: bool) -> Self {
        Self { validated, received_bytes: 0, sent_bytes: 0 }
    }

    pub(super) const fn is_validated(&self) -> bool {
        self.validated
    }

    /// The peer has shown that it gets what is sent there.
    pub(super) const fn validate(&mut self) {
        self.validated = true;
    }

    /// So many bytes came from the address.
    pub(super) const fn on_received(&mut self, bytes: usize) {
        self.received_bytes += bytes as u64;
    }

    /// So many bytes were sent to it.
    pub(super) const fn on_sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }

    /// Bytes that may still be sent.
    pub(super) const fn budget(&self) -> u64 {
        match self.validated {
            true => u64::MAX,
            false => (AMPLIFICATION * self.received_bytes).saturating_sub(self.sent_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_not_validated_gets_three_times_what_came_from_it() {
        let mut v = Validation::new(false);
        assert_eq!(v.budget(), 0, "nothing came");
        v.on_received(1_200);
        v.on_sent(3_000);
        assert_eq!(v.budget(), 600);
        v.on_sent(700);
        assert_eq!(v.budget(), 0, "a datagram may be a little longer");
        v.validate();
        assert!(v.is_validated() && v.budget() == u64::MAX);
    }
}
