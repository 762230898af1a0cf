//! How long the path takes, there and back (RFC 9002 §5).
//!
//! One [`Rtt`] per path. Give it a sample for every ACK that newly acknowledges its largest
//! packet, if anything newly acknowledged was ack-eliciting; read the smoothed value, its
//! variance and the minimum, or the timer lengths made from them.

use crate::time::{Instant, MILLISECOND_NS};

/// RFC 9002 §6.1.2, kGranularity: no timer is shorter than the clocks of common systems.
pub(crate) const GRANULARITY_NS: u64 = MILLISECOND_NS;

/// RFC 9002 §6.2.2, kInitialRtt: what is assumed before the first sample.
pub(crate) const INITIAL_RTT_NS: u64 = 333 * MILLISECOND_NS;

/// RFC 9002 §7.6.1, kPersistentCongestionThreshold: this many probe time-outs without an
/// acknowledgement mean persistent congestion.
const PERSISTENT_CONGESTION_THRESHOLD: u64 = 3;

/// A sample above this is a clock that jumped, not a path: 1 hour. Keeps all sums in range.
const SAMPLE_MAX_NS: u64 = 3_600 * 1_000 * MILLISECOND_NS;

/// Round trips that are longer than the minimum by this part of it show a queue: 1/24, so that a
/// full queue of a tenth of the bandwidth-delay product shows, and a burst of ten packets on a
/// line of 100 Mb/s at 20 ms, 1.2 ms, seldom does. With 1/16 the figures of `tools/bench loss` are
/// the same; with 1/8 a queue of a tenth is not seen, and a flow of RFC 9438 beside ours gets 4%
/// of the line (`tools/bench fair`); with 1/32 transfers at 1% of loss are 2% slower.
const QUEUE_DIVISOR: u64 = 24;

/// The estimate for one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rtt {
    latest_ns: u64,
    smoothed_ns: u64,
    variance_ns: u64,
    min_ns: u64,
    first_sample: Option<Instant>,
    /// The next sample becomes the minimum.
    min_is_stale: bool,
}

impl Rtt {
    /// An estimate without samples: `initial_ns`, from an earlier connection to the same
    /// place or [`INITIAL_RTT_NS`].
    #[must_use]
    pub(crate) fn new(initial_ns: u64) -> Self {
        // RFC 9002 §5.3: before any samples.
        let initial_ns = initial_ns.min(SAMPLE_MAX_NS);
        Self {
            latest_ns: 0,
            smoothed_ns: initial_ns,
            variance_ns: initial_ns / 2,
            min_ns: 0,
            first_sample: None,
            min_is_stale: true,
        }
    }

    /// Takes a sample: the newest acknowledged packet was sent `latest_ns` ago, and the peer
    /// says that it waited `ack_delay_ns` before it acknowledged.
    ///
    /// The caller passes 0 for the delay of Initial packets, the delay as told before the
    /// handshake is confirmed, and at most the peer's max_ack_delay afterwards (§5.3).
    pub(crate) fn update(&mut self, latest_ns: u64, ack_delay_ns: u64, now: Instant) {
        let latest_ns = latest_ns.min(SAMPLE_MAX_NS);
        self.latest_ns = latest_ns;
        // RFC 9002 §5.2: the minimum ignores the peer's delay, which could make it too small.
        if self.min_is_stale || latest_ns < self.min_ns {
            self.min_ns = latest_ns;
            self.min_is_stale = false;
        }
        if self.first_sample.is_none() {
            self.first_sample = Some(now);
            self.smoothed_ns = latest_ns;
            self.variance_ns = latest_ns / 2;
            return;
        }
        // RFC 9002 §5.3: a delay that would take the sample under the minimum is not believed.
        let adjusted_ns = match latest_ns.checked_sub(ack_delay_ns) {
            Some(adjusted_ns) if adjusted_ns >= self.min_ns => adjusted_ns,
            _ => latest_ns,
        };
        let deviation_ns = self.smoothed_ns.abs_diff(adjusted_ns);
        self.variance_ns = (3 * self.variance_ns + deviation_ns) / 4;
        self.smoothed_ns = (7 * self.smoothed_ns + adjusted_ns) / 8;
    }

    /// RFC 9002 §5.2: after persistent congestion the path may be another one, so that the
    /// next sample becomes the minimum.
    pub(crate) fn forget_minimum(&mut self) {
        self.min_is_stale = true;
    }

    /// The newest sample; 0 before the first.
    #[must_use]
    pub(crate) fn latest_ns(&self) -> u64 {
        self.latest_ns
    }

    /// The moving average.
    #[must_use]
    pub(crate) fn smoothed_ns(&self) -> u64 {
        self.smoothed_ns
    }

    /// The moving average of the deviation from it.
    #[must_use]
    pub(crate) fn variance_ns(&self) -> u64 {
        self.variance_ns
    }

    /// The smallest sample; 0 before the first.
    #[must_use]
    pub(crate) fn min_ns(&self) -> u64 {
        self.min_ns
    }

    /// True unless round trips are known to be about as short as the path allows. Too long are
    /// the average, which a standing queue moves, or the newest sample: the packet that reveals a
    /// loss went through the same full queue.
    #[must_use]
    pub(crate) fn shows_queue(&self) -> bool {
        let longest_ns = self.smoothed_ns.max(self.latest_ns);
        self.min_is_stale || longest_ns.saturating_sub(self.min_ns) > self.min_ns / QUEUE_DIVISOR
    }

    /// When the first sample was taken. Packets sent before it do not count towards
    /// persistent congestion (RFC 9002 §7.6.2).
    #[must_use]
    pub(crate) fn first_sample(&self) -> Option<Instant> {
        self.first_sample
    }

    /// One probe time-out, before it is doubled for each that went unanswered
    /// (RFC 9002 §6.2.1). `max_ack_delay_ns` is the peer's, and 0 for Initial and Handshake.
    #[must_use]
    pub(crate) fn pto_base_ns(&self, max_ack_delay_ns: u64) -> u64 {
        (self.smoothed_ns + GRANULARITY_NS.max(4 * self.variance_ns))
            .saturating_add(max_ack_delay_ns)
    }

    /// After how long a packet is lost, if a later one was acknowledged (RFC 9002 §6.1.2:
    /// kTimeThreshold is 9/8).
    #[must_use]
    pub(crate) fn loss_delay_ns(&self) -> u64 {
        let longest_ns = self.smoothed_ns.max(self.latest_ns);
        GRANULARITY_NS.max(longest_ns + longest_ns / 8)
    }

    /// How long everything must have been lost for persistent congestion (RFC 9002 §7.6.1).
    #[must_use]
    pub(crate) fn persistent_congestion_ns(&self, max_ack_delay_ns: u64) -> u64 {
        self.pto_base_ns(max_ack_delay_ns).saturating_mul(PERSISTENT_CONGESTION_THRESHOLD)
    }
}

impl Default for Rtt {
    fn default() -> Self {
        Self::new(INITIAL_RTT_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = MILLISECOND_NS;
    const T0: Instant = Instant::EPOCH;

    #[test]
    fn before_any_sample() {
        let rtt = Rtt::default();
        assert_eq!((rtt.smoothed_ns(), rtt.variance_ns()), (333 * MS, 333 * MS / 2));
        assert_eq!((rtt.min_ns(), rtt.latest_ns(), rtt.first_sample()), (0, 0, None));
        // RFC 9002 §6.2.2: with no sample, the first PTO is 3 times the initial RTT.
        assert_eq!(rtt.pto_base_ns(0), 999 * MS);
    }

    #[test]
    fn the_first_sample_replaces_the_guess() {
        let mut rtt = Rtt::default();
        rtt.update(40 * MS, 30 * MS, Instant::from_nanos(7));
        // The delay is not subtracted from the first sample.
        assert_eq!((rtt.smoothed_ns(), rtt.variance_ns()), (40 * MS, 20 * MS));
        assert_eq!((rtt.min_ns(), rtt.first_sample()), (40 * MS, Some(Instant::from_nanos(7))));
    }

    #[test]
    fn later_samples_move_the_average_by_an_eighth() {
        let mut rtt = Rtt::default();
        rtt.update(80 * MS, 0, T0);
        rtt.update(160 * MS, 0, T0);
        assert_eq!(rtt.smoothed_ns(), 90 * MS);
        assert_eq!(rtt.variance_ns(), (3 * 40 * MS + 80 * MS) / 4);
        assert_eq!((rtt.min_ns(), rtt.latest_ns()), (80 * MS, 160 * MS));
    }

    #[test]
    fn the_peers_delay_is_subtracted_down_to_the_minimum() {
        let mut rtt = Rtt::default();
        rtt.update(80 * MS, 0, T0);
        rtt.update(100 * MS, 20 * MS, T0);
        assert_eq!(rtt.smoothed_ns(), 80 * MS);
        // 1 ns more would take it under the minimum: the delay is ignored as a whole.
        rtt.update(100 * MS, 20 * MS + 1, T0);
        assert_eq!(rtt.smoothed_ns(), (7 * 80 * MS + 100 * MS) / 8);
    }

    #[test]
    fn timers_have_a_floor() {
        let mut rtt = Rtt::default();
        for _ in 0..100 {
            rtt.update(10_000, 0, T0);
        }
        assert_eq!(rtt.pto_base_ns(25 * MS), 10_000 + MS + 25 * MS);
        assert_eq!(rtt.loss_delay_ns(), MS);
        assert_eq!(rtt.persistent_congestion_ns(25 * MS), 3 * rtt.pto_base_ns(25 * MS));
    }

    #[test]
    fn the_loss_delay_follows_the_slower_of_latest_and_smoothed() {
        let mut rtt = Rtt::default();
        rtt.update(80 * MS, 0, T0);
        assert_eq!(rtt.loss_delay_ns(), 90 * MS);
        rtt.update(160 * MS, 0, T0);
        assert_eq!(rtt.loss_delay_ns(), 180 * MS);
        rtt.update(8 * MS, 0, T0);
        assert_eq!(rtt.loss_delay_ns(), rtt.smoothed_ns() + rtt.smoothed_ns() / 8);
    }

    #[test]
    fn a_queue_is_seen_in_the_newest_sample_and_in_the_average() {
        let mut rtt = Rtt::default();
        assert!(rtt.shows_queue(), "nothing is known");
        rtt.update(24 * MS, 0, T0);
        assert!(!rtt.shows_queue());
        rtt.update(25 * MS, 0, T0);
        assert!(!rtt.shows_queue(), "1 ms is the bound");
        rtt.update(25 * MS + 1, 0, T0);
        assert!(rtt.shows_queue(), "the newest");
        (0..20).for_each(|_| rtt.update(30 * MS, 0, T0));
        rtt.update(24 * MS, 0, T0);
        assert!(rtt.shows_queue(), "the average");
        (0..40).for_each(|_| rtt.update(24 * MS, 0, T0));
        assert!(!rtt.shows_queue());
        rtt.forget_minimum();
        assert!(rtt.shows_queue(), "another path");
    }

    #[test]
    fn a_forgotten_minimum_comes_from_the_next_sample() {
        let mut rtt = Rtt::default();
        rtt.update(10 * MS, 0, T0);
        rtt.forget_minimum();
        assert_eq!(rtt.min_ns(), 10 * MS);
        rtt.update(50 * MS, 0, T0);
        assert_eq!(rtt.min_ns(), 50 * MS);
    }

    proptest! {
        #[test]
        fn no_sample_overflows_and_the_average_stays_between(
            samples in prop::collection::vec((any::<u64>(), any::<u64>()), 1..50)
        ) {
            let mut rtt = Rtt::new(u64::MAX);
            for (latest_ns, delay_ns) in &samples {
                rtt.update(*latest_ns, *delay_ns, T0);
            }
            let all = samples.iter().map(|(latest_ns, _)| (*latest_ns).min(SAMPLE_MAX_NS));
            let (min_ns, max_ns) = (all.clone().min().unwrap(), all.max().unwrap());
            prop_assert_eq!(rtt.min_ns(), min_ns);
            // Integer division takes less than 1 ns off at each step.
            prop_assert!(rtt.smoothed_ns() + 8 >= min_ns && rtt.smoothed_ns() <= max_ns);
            prop_assert!(rtt.pto_base_ns(u64::MAX) == u64::MAX);
            let _ = (rtt.loss_delay_ns(), rtt.persistent_congestion_ns(u64::MAX));
        }
    }
}
