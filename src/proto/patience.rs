//! Peers that hold acknowledgements back longer than a small window can bear.
//!
//! A peer may wait for some packets, or for its max_ack_delay, before it acknowledges
//! (RFC 9000 §13.2.2). The peer does not say how many: many peers wait for two, some for ten.
//! After a few losses the window can be smaller than that. Then the sender has sent all it may, the
//! peer waits for more, and each flight takes a max_ack_delay instead of a round trip: on a
//! path of half a millisecond, fifty times as long.
//!
//! The peer's own acknowledgements show it: one that says that it was held back covers packets
//! that were not enough. A flight that fills the window with no more than that skips a packet
//! number before its last packet: the gap makes the peer acknowledge at once (RFC 9000 §13.2.1).
//! It costs the peer a range, and us nothing.

/// Packets that a peer is thought to wait for at most. Acknowledgements that were lost make
/// it look more patient than it is; a window of more packets is acknowledged in several steps
/// by any policy that is known, and needs no help.
const PACKETS_MAX: u32 = 32;

/// The most packets for which the peer was seen to hold back an acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Patience {
    packets: u32,
}

impl Patience {
    /// An ACK frame newly acknowledged `packets` packets and says that it was held back for
    /// `delay_ns`.
    #[inline]
    pub(super) fn on_ack(
        &mut self,
        packets: u64,
        delay_ns: u64,
        max_ack_delay_ns: u64,
        smoothed_rtt_ns: u64,
    ) {
        // Less than half of what it may wait is the jitter of its threads. Less than a quarter
        // of a round trip is not worth a word.
        if delay_ns < (max_ack_delay_ns / 2).max(smoothed_rtt_ns / 4) || delay_ns == 0 {
            return;
        }
        let packets = u32::try_from(packets).unwrap_or(PACKETS_MAX).min(PACKETS_MAX);
        self.packets = self.packets.max(packets);
    }

    /// True if the peer may hold back the acknowledgement of so many packets.
    #[inline]
    pub(super) fn outlasts(self, packets: u32) -> bool {
        packets <= self.packets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MILLISECOND_NS as MS;

    #[test]
    fn only_delays_that_were_meant_and_that_hurt_are_learnt_from() {
        let mut p = Patience::default();
        p.on_ack(9, 12 * MS, 25 * MS, MS);
        assert!(!p.outlasts(1), "a busy thread");
        p.on_ack(9, 24 * MS, 25 * MS, 100 * MS);
        assert!(!p.outlasts(1), "a quarter of a round trip");
        p.on_ack(9, 0, 0, 0);
        assert!(!p.outlasts(1), "a peer that never waits");
        p.on_ack(9, 24 * MS, 25 * MS, MS);
        assert!(p.outlasts(9) && !p.outlasts(10));
        p.on_ack(4, 24 * MS, 25 * MS, MS);
        assert!(p.outlasts(9), "fewer prove nothing");
        p.on_ack(u64::MAX, 24 * MS, 25 * MS, MS);
        assert!(p.outlasts(PACKETS_MAX) && !p.outlasts(PACKETS_MAX + 1));
    }
}
