//! Spurious losses: packets that arrive after they were declared lost.
//!
//! Loss is inferred from what arrived, so a packet that is overtaken by three others is declared
//! lost (RFC 9002 §6.1.1). When its acknowledgement arrives after all,
//! two things follow, and [`SpuriousCandidates`] keeps the books for both:
//!
//! - the congestion event that it led to was spurious, if the same holds for every packet lost in
//!   it: the controller takes the event back (RFC 9438 §4.9.2);
//! - the path reorders by at least so many packets. From then on that many may overtake one
//!   before it is lost, as RFC 9002 §6.1.1 allows, until enough true losses have passed
//!   (RFC 8985 §6.2). The time threshold of RFC 9002 §6.1.2 stands, so that it costs at most an
//!   eighth of a round trip.
//!
//! Both follow from what the receiver says, and a receiver gains by it: a window that no loss
//! shrinks. So it has to be right about what it says:
//!
//! - it cannot tell a packet that was lost from a skipped packet number (RFC 9000 §21.4): the
//!   last few skipped numbers are remembered here, longer than among the sent packets, and an
//!   acknowledgement that reaches back over one of them convicts it;
//! - it has to be quick: about a probe timeout after the last loss of an event, what has not
//!   turned up was lost. A packet that is only late is at most that late;
//! - an event that something else shows to be true, such as a mark of a router, stays true
//!   whatever turns up.
//!
//! One per connection, for 1-RTT packets: [`SpuriousCandidates::on_lost`] for each packet that is
//! declared lost, [`SpuriousCandidates::on_event`] with what the controller made of them, and
//! [`SpuriousCandidates::on_range`] for the ranges of each ACK frame down to [`SpuriousCandidates::oldest`].

use super::recovery::{NeverSent, PACKET_THRESHOLD};
use crate::time::Instant;

/// Losses of one congestion event that are remembered. An event with more of them is taken for
/// true: that much reordering would be worse than congestion.
const CANDIDATES_MAX: usize = 64;

/// Skipped numbers that are remembered: one or two windows lie between them, and candidates are
/// younger than that.
const SKIPPED_MAX: usize = 8;

/// No path is thought to reorder by more packets than this: beyond it, the time threshold
/// alone decides.
const PACKET_THRESHOLD_MAX: u64 = 64;

/// RFC 8985 §6.2 step 4, RACK.reo_wnd_persist: events that were true after which the path is
/// thought to keep its order again.
const PERSIST_EVENTS: u8 = 16;

/// The losses of the last congestion event, and how far the path reorders.
#[derive(Debug)]
pub(crate) struct SpuriousCandidates {
    /// Packet numbers that were declared lost and have not turned up, ascending.
    lost: Vec<u64>,
    /// How many of them the controller has not been told of.
    fresh: usize,
    /// From this time on, packets that have not turned up count as truly lost.
    until: Instant,
    /// The last event was true, and so are further losses that belong to it.
    convicted: bool,
    packet_threshold: u64,
    /// True events until the threshold falls back.
    persist: u8,
    /// The numbers skipped last, in no order; allocated at the first.
    skipped: Option<Box<[u64; SKIPPED_MAX]>>,
    next_skipped: u8,
}

impl Default for SpuriousCandidates {
    fn default() -> Self {
        Self {
            lost: Vec::new(),
            fresh: 0,
            until: Instant::NEVER,
            convicted: false,
            packet_threshold: PACKET_THRESHOLD,
            persist: 0,
            skipped: None,
            next_skipped: 0,
        }
    }
}

impl SpuriousCandidates {
    /// How many later packets may be acknowledged before one is lost.
    #[inline]
    #[must_use]
    pub(crate) fn packet_threshold(&self) -> u64 {
        self.packet_threshold
    }

    /// The smallest number whose acknowledgement would show a spurious loss at `now`.
    #[inline]
    #[must_use]
    pub(crate) fn oldest(&mut self, now: Instant) -> Option<u64> {
        if now > self.until && !self.lost.is_empty() {
            let all = self.lost.len();
            self.believe(all);
            self.convicted = true;
        }
        self.lost.first().copied()
    }

    /// The numbers of `lo..=hi` whose acknowledgement would show a spurious loss.
    pub(crate) fn candidates(&self, lo: u64, hi: u64) -> &[u64] {
        let first = self.lost.partition_point(|&pn| pn < lo);
        let end = self.lost.partition_point(|&pn| pn <= hi);
        self.lost.get(first..end).unwrap_or_default()
    }

    /// A number was skipped.
    pub(crate) fn on_skipped(&mut self, pn: u64) {
        // The initial value is a number that no packet has (RFC 9000 §12.3).
        let skipped = self.skipped.get_or_insert_with(|| Box::new([u64::MAX; SKIPPED_MAX]));
        skipped[usize::from(self.next_skipped) % SKIPPED_MAX] = pn;
        self.next_skipped = self.next_skipped.wrapping_add(1);
    }

    /// A packet was declared lost: a later one than any before it.
    pub(crate) fn on_lost(&mut self, pn: u64) {
        self.lost.push(pn);
        self.fresh += 1;
    }

    /// The controller was told of the losses since the last call. `reduced` says that they are
    /// a congestion event of their own, not part of the last one; `until` is how long they may
    /// still turn up.
    pub(crate) fn on_event(&mut self, reduced: bool, until: Instant) {
        let fresh = std::mem::take(&mut self.fresh);
        if reduced {
            self.believe(self.lost.len() - fresh);
            // Losses of another space have no candidates: nothing can take them back.
            self.convicted = fresh == 0;
        }
        if self.convicted || self.lost.len() > CANDIDATES_MAX {
            return self.convict();
        }
        self.until = until;
    }

    /// The event was true for other reasons: a router's CE mark, or persistent congestion.
    pub(crate) fn convict(&mut self) {
        self.lost = Vec::new();
        self.fresh = 0;
        self.convicted = true;
    }

    /// The first `count` losses belong to an event that was true.
    fn believe(&mut self, count: usize) {
        self.lost.drain(..count);
        self.persist = self.persist.saturating_sub(u8::from(count > 0));
        if self.persist == 0 {
            self.packet_threshold = PACKET_THRESHOLD;
        }
    }

    /// `lo..=hi` is acknowledged by a frame whose largest number is `largest`. True if that
    /// leaves nothing of the last congestion event: it has to be taken back.
    ///
    /// # Errors
    /// The range covers a number that was skipped.
    pub(crate) fn on_range(&mut self, lo: u64, hi: u64, largest: u64) -> Result<bool, NeverSent> {
        let range = lo..=hi;
        let mut skipped = self.skipped.iter().flat_map(|all| all.iter());
        if let Some(&skipped) = skipped.find(|skipped| range.contains(skipped)) {
            return Err(NeverSent(skipped));
        }
        let first = self.lost.partition_point(|&pn| pn < lo);
        let end = self.lost.partition_point(|&pn| pn <= hi);
        let Some(&earliest) = self.lost[first..end].first() else { return Ok(false) };
        self.lost.drain(first..end);
        let overtaken_by = largest.saturating_sub(earliest).saturating_add(1);
        self.persist = PERSIST_EVENTS;
        self.packet_threshold = self.packet_threshold.max(overtaken_by.min(PACKET_THRESHOLD_MAX));
        Ok(self.lost.is_empty())
    }

    /// Bytes of heap held.
    #[must_use]
    pub(crate) fn memory_bytes(&self) -> usize {
        self.lost.capacity() * size_of::<u64>() + self.skipped.as_deref().map_or(0, size_of_val)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_nanos(1_000);
    const SOON: Instant = Instant::from_nanos(2_000);
    const LATER: Instant = Instant::from_nanos(2_001);

    #[test]
    fn an_event_is_taken_back_when_all_of_it_turned_up() {
        let mut s = SpuriousCandidates::default();
        assert_eq!(s.oldest(NOW), None);
        s.on_lost(4);
        s.on_lost(5);
        s.on_event(true, SOON);
        s.on_lost(6);
        s.on_event(false, SOON);
        assert_eq!(s.oldest(NOW), Some(4));
        assert_eq!(s.on_range(0, 3, 20), Ok(false));
        assert_eq!(s.on_range(4, 5, 9), Ok(false));
        assert_eq!(s.packet_threshold(), 6, "4 was overtaken by five");
        assert_eq!(s.on_range(0, 100, 100), Ok(true));
        assert_eq!(s.on_range(0, 100, 100), Ok(false), "once");
    }

    #[test]
    fn what_the_next_event_finds_was_lost() {
        let mut s = SpuriousCandidates::default();
        s.on_lost(4);
        s.on_event(true, SOON);
        s.on_lost(9);
        s.on_event(true, SOON);
        assert_eq!(s.oldest(NOW), Some(9));
        assert_eq!(s.on_range(4, 4, 12), Ok(false), "too late");
        assert_eq!(s.packet_threshold(), PACKET_THRESHOLD);
        assert_eq!(s.on_range(9, 9, 12), Ok(true));
    }

    #[test]
    fn what_has_not_turned_up_in_time_was_lost() {
        let mut s = SpuriousCandidates::default();
        s.on_lost(4);
        s.on_event(true, SOON);
        assert_eq!(s.oldest(SOON), Some(4));
        assert_eq!(s.oldest(LATER), None);
        assert_eq!(s.on_range(4, 4, 12), Ok(false));
        // What else is lost of that event cannot take it back.
        s.on_lost(5);
        s.on_event(false, LATER.plus_ns(1_000));
        assert_eq!(s.oldest(LATER), None);
        // The next one is judged by itself.
        s.on_lost(30);
        s.on_event(true, LATER.plus_ns(1_000));
        assert_eq!(s.on_range(30, 30, 34), Ok(true));
    }

    #[test]
    fn marks_and_floods_of_losses_convict() {
        let mut s = SpuriousCandidates::default();
        s.on_lost(4);
        s.on_event(true, SOON);
        s.convict();
        assert_eq!(s.on_range(0, 10, 10), Ok(false));
        // A packet that is lost while the event lasts, and turns up, changes nothing of that.
        s.on_lost(11);
        s.on_event(false, SOON);
        assert_eq!(s.on_range(11, 11, 15), Ok(false));
        (20..=20 + CANDIDATES_MAX as u64).for_each(|pn| s.on_lost(pn));
        s.on_event(true, SOON);
        assert_eq!((s.oldest(NOW), s.memory_bytes()), (None, 0));
        s.on_lost(100);
        s.on_event(false, SOON);
        assert_eq!(s.on_range(100, 100, 104), Ok(false));
        // Losses of another space reduced the window: no packet of this one can take that back.
        s.on_event(true, SOON);
        s.on_lost(200);
        s.on_event(false, SOON);
        assert_eq!(s.on_range(200, 200, 204), Ok(false));
    }

    #[test]
    fn a_skipped_number_convicts_a_peer_that_acknowledges_it_later() {
        let mut s = SpuriousCandidates::default();
        for pn in 0..20 {
            s.on_skipped(100 * pn);
        }
        s.on_lost(1_850);
        s.on_event(true, SOON);
        assert_eq!(s.on_range(1_801, 1_899, 1_950), Ok(true));
        assert_eq!(s.on_range(1_200, 1_200, 1_950), Err(NeverSent(1_200)));
        assert_eq!(s.on_range(1_100, 1_100, 1_950), Ok(false), "so far back nothing is believed");
    }

    #[test]
    fn the_threshold_is_bounded_and_falls_back_after_true_events() {
        let mut s = SpuriousCandidates::default();
        s.on_lost(4);
        s.on_event(true, SOON);
        assert_eq!(s.on_range(4, 4, u64::MAX - 1), Ok(true));
        assert_eq!(s.packet_threshold(), PACKET_THRESHOLD_MAX);
        for pn in 0..=u64::from(PERSIST_EVENTS) {
            assert_eq!(s.packet_threshold(), PACKET_THRESHOLD_MAX, "{pn}");
            s.on_lost(100 + pn);
            s.on_event(true, SOON);
        }
        assert_eq!(s.packet_threshold(), PACKET_THRESHOLD);
    }
}
