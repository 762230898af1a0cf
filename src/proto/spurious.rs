//! Losses that were none: packets that arrive after they were declared lost.
//!
//! Loss is inferred from what arrived, so a packet that is overtaken by three others is lost
//! as far as anybody can tell (RFC 9002 §6.1.1). When its acknowledgement arrives after all,
//! two things follow, and [`Suspects`] keeps the books for both:
//!
//! - the congestion event that it led to was none, if the same holds for every packet lost in
//!   it: the controller takes the event back (RFC 9438 §4.9.2);
//! - the path reorders by at least so many packets. From then on that many may overtake one
//!   before it is lost, as RFC 9002 §6.1.1 allows, until enough true losses have passed
//!   (RFC 8985 §6.2). The time threshold of RFC 9002 §6.1.2 stands, so that it costs at most an
//!   eighth of a round trip.
//!
//! One per connection, for 1-RTT packets: [`Suspects::on_lost`] for each packet that is
//! declared lost, [`Suspects::on_event`] with what the controller made of them, and
//! [`Suspects::on_range`] for the ranges of each ACK frame while [`Suspects::oldest`] is in
//! their reach.

use super::recovery::PACKET_THRESHOLD;

/// Losses of one congestion event that are remembered. An event with more of them is taken for
/// true: that much reordering would be worse than congestion.
const SUSPECTS_MAX: usize = 64;

/// No path is thought to reorder by more packets than this: beyond it, the time threshold
/// alone decides.
const PACKET_THRESHOLD_MAX: u64 = 64;

/// RFC 8985 §6.2 step 4, RACK.reo_wnd_persist: events that were true after which the path is
/// thought to keep its order again.
const PERSIST_EVENTS: u8 = 16;

/// The losses of the last congestion event, and how far the path reorders.
#[derive(Debug)]
pub struct Suspects {
    /// Packet numbers that were declared lost and have not turned up.
    lost: Vec<u64>,
    /// How many of them the controller has not been told of.
    fresh: usize,
    packet_threshold: u64,
    /// True events until the threshold falls back.
    persist: u8,
}

impl Default for Suspects {
    fn default() -> Self {
        Self { lost: Vec::new(), fresh: 0, packet_threshold: PACKET_THRESHOLD, persist: 0 }
    }
}

impl Suspects {
    /// How many later packets may be acknowledged before one is lost.
    #[inline]
    #[must_use]
    pub fn packet_threshold(&self) -> u64 {
        self.packet_threshold
    }

    /// The smallest number that would be news.
    #[inline]
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        self.lost.iter().copied().min()
    }

    /// A packet was declared lost.
    pub fn on_lost(&mut self, pn: u64) {
        self.lost.push(pn);
        self.fresh += 1;
    }

    /// The controller was told of the losses since the last call. `reduced` says that they are
    /// a congestion event of their own, not part of the last one.
    pub fn on_event(&mut self, reduced: bool) {
        let fresh = std::mem::take(&mut self.fresh);
        if reduced {
            // What is left of the event before was lost indeed.
            let before = self.lost.len() - fresh;
            self.lost.drain(..before);
            self.persist = self.persist.saturating_sub(u8::from(before > 0));
            if self.persist == 0 {
                self.packet_threshold = PACKET_THRESHOLD;
            }
        }
        if self.lost.len() > SUSPECTS_MAX {
            self.convict();
        }
    }

    /// The event was true for other reasons: a mark of a router, or persistent congestion.
    pub fn convict(&mut self) {
        self.lost = Vec::new();
        self.fresh = 0;
    }

    /// `lo..=hi` is acknowledged by a frame whose largest number is `largest`. True if that
    /// leaves nothing of the last congestion event: it has to be taken back.
    pub fn on_range(&mut self, lo: u64, hi: u64, largest: u64) -> bool {
        let before = self.lost.len();
        let (mut farthest, range) = (0, lo..=hi);
        self.lost.retain(|pn| {
            let late = range.contains(pn);
            farthest = if late { largest.saturating_sub(*pn).max(farthest) } else { farthest };
            !late
        });
        if self.lost.len() == before {
            return false;
        }
        self.persist = PERSIST_EVENTS;
        self.packet_threshold =
            self.packet_threshold.max(farthest.saturating_add(1).min(PACKET_THRESHOLD_MAX));
        self.lost.is_empty()
    }

    /// Bytes of heap held.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.lost.capacity() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_taken_back_when_all_of_it_turned_up() {
        let mut s = Suspects::default();
        assert_eq!(s.oldest(), None);
        s.on_lost(4);
        s.on_lost(5);
        s.on_event(true);
        s.on_lost(6);
        s.on_event(false);
        assert_eq!(s.oldest(), Some(4));
        assert!(!s.on_range(0, 3, 20));
        assert!(!s.on_range(4, 5, 9));
        assert_eq!(s.packet_threshold(), 6, "4 was overtaken by five");
        assert!(s.on_range(0, 100, 100));
        assert!(!s.on_range(0, 100, 100), "once");
    }

    #[test]
    fn what_the_next_event_finds_was_lost() {
        let mut s = Suspects::default();
        s.on_lost(4);
        s.on_event(true);
        s.on_lost(9);
        s.on_event(true);
        assert_eq!(s.oldest(), Some(9));
        assert!(!s.on_range(4, 4, 12), "too late");
        assert_eq!(s.packet_threshold(), PACKET_THRESHOLD);
        assert!(s.on_range(9, 9, 12));
    }

    #[test]
    fn marks_and_floods_of_losses_convict() {
        let mut s = Suspects::default();
        s.on_lost(4);
        s.on_event(true);
        s.convict();
        assert!(!s.on_range(0, 10, 10));
        (0..=SUSPECTS_MAX as u64).for_each(|pn| s.on_lost(pn));
        s.on_event(true);
        assert_eq!((s.oldest(), s.memory_bytes()), (None, 0));
    }

    #[test]
    fn the_threshold_is_bounded_and_falls_back_after_true_events() {
        let mut s = Suspects::default();
        s.on_lost(4);
        s.on_event(true);
        assert!(s.on_range(4, 4, u64::MAX));
        assert_eq!(s.packet_threshold(), PACKET_THRESHOLD_MAX);
        for pn in 0..=u64::from(PERSIST_EVENTS) {
            assert_eq!(s.packet_threshold(), PACKET_THRESHOLD_MAX, "{pn}");
            s.on_lost(100 + pn);
            s.on_event(true);
        }
        assert_eq!(s.packet_threshold(), PACKET_THRESHOLD);
    }
}
