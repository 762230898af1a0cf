//! The rate at which a path delivers (draft-cheng-iccrg-delivery-rate-estimation).
//!
//! A controller that models the path, and does not wait for its losses, wants to know how many bytes
//! arrive in which time. Each packet is sent with a note of what had been delivered by then; when it
//! is acknowledged, what has been delivered since is a sample:
//!
//! ```text
//! sent      |--p0--------------p1-->|      send interval: how long it took to send what lies between
//! delivered      |--d0--------------d1-->  ACK interval: how long it took to be acknowledged
//!
//! rate = (delivered at d1 - delivered when p1 was sent) / the longer of the two
//! ```
//!
//! The longer interval is taken because ACK frames that were held up together arrive faster than the
//! packets did. What was sent while the application had nothing more to send tells how fast
//! the application is, and not the path: such a sample is marked.
//!
//! [`DeliveryRate`] belongs to the controller that wants samples, as HyStart++ belongs to CUBIC: no
//! other pays for it. It keeps one note for all packets that left at one instant, since they
//! are acknowledged by the time at which they were sent.

use crate::time::Instant;
use std::collections::VecDeque;

/// Bytes that were delivered, and the time that it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeliverySample {
    /// Bytes acknowledged in the interval.
    pub delivered_bytes: u64,
    /// The longer of the times that it took to send and to acknowledge them.
    pub interval_ns: u64,
    /// The application had nothing more to send for a part of it: the path may be faster.
    pub app_limited: bool,
}

/// What was known when packets left.
#[derive(Clone, Copy, Debug)]
struct Departure {
    sent_at: Instant,
    delivered_bytes: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
    app_limited: bool,
}

/// Makes samples of the delivery rate.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeliveryRate {
    delivered_bytes: u64,
    /// When the count above last grew, or the pipe was empty.
    delivered_at: Instant,
    /// When the newest acknowledged packet left, or the first after the pipe was empty.
    first_sent_at: Instant,
    /// Packets are marked until more than this was delivered.
    app_limited_until: Option<u64>,
    /// In the order of their times.
    departures: VecDeque<Departure>,
    /// The newest departure that the ACK frame which is being read acknowledges.
    newest: Option<Departure>,
}

impl DeliveryRate {
    /// Packets left, with so many bytes in flight before them.
    pub(crate) fn on_sent(&mut self, now: Instant, in_flight_bytes: u64) {
        if in_flight_bytes == 0 {
            self.first_sent_at = now;
            self.delivered_at = now;
        }
        if self.departures.back().is_some_and(|d| d.sent_at == now) {
            return;
        }
        self.departures.push_back(Departure {
            sent_at: now,
            delivered_bytes: self.delivered_bytes,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            app_limited: self.app_limited_until.is_some(),
        });
    }

    /// The window allows more, and there is no data to send.
    pub(crate) fn on_app_limited(&mut self, in_flight_bytes: u64) {
        self.app_limited_until = Some(self.delivered_bytes.saturating_add(in_flight_bytes));
    }

    /// Packets of so many bytes that left at `sent_at` were acknowledged.
    pub(crate) fn on_acked(&mut self, now: Instant, sent_at: Instant, bytes: u64) {
        self.delivered_bytes = self.delivered_bytes.saturating_add(bytes);
        self.delivered_at = now;
        let Ok(at) = self.departures.binary_search_by_key(&sent_at, |d| d.sent_at) else { return };
        if self.newest.is_none_or(|newest| newest.sent_at < sent_at) {
            self.newest = self.departures.get(at).copied();
            self.first_sent_at = sent_at;
        }
    }

    /// All packets of an ACK frame were told, and none that left before `oldest_sent_at` is
    /// outstanding: the sample of the frame. There is none in less than `min_rtt_ns`, the shortest
    /// time in which anything can be acknowledged: the clock was too coarse for it.
    pub(crate) fn sample(
        &mut self,
        oldest_sent_at: Instant,
        min_rtt_ns: u64,
    ) -> Option<DeliverySample> {
        while self.departures.front().is_some_and(|d| d.sent_at < oldest_sent_at) {
            self.departures.pop_front();
        }
        self.app_limited_until =
            self.app_limited_until.filter(|&until| self.delivered_bytes <= until);
        let newest = self.newest.take()?;
        let send_ns = newest.sent_at.ns_since(newest.first_sent_at);
        let ack_ns = self.delivered_at.ns_since(newest.delivered_at);
        let interval_ns = send_ns.max(ack_ns);
        (interval_ns >= min_rtt_ns.max(1)).then_some(DeliverySample {
            delivered_bytes: self.delivered_bytes - newest.delivered_bytes,
            interval_ns,
            app_limited: newest.app_limited,
        })
    }
}

impl DeliverySample {
    /// Bytes per second.
    #[must_use]
    pub(crate) fn bytes_per_second(&self) -> u64 {
        let per_second = u128::from(self.delivered_bytes) * u128::from(crate::time::SECOND_NS);
        u64::try_from(per_second / u128::from(self.interval_ns.max(1))).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MILLISECOND_NS;

    const RTT_NS: u64 = 10 * MILLISECOND_NS;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * MILLISECOND_NS)
    }

    fn sample(delivered_bytes: u64, ms: u64, app_limited: bool) -> Option<DeliverySample> {
        let interval_ns = ms * MILLISECOND_NS;
        Some(DeliverySample { delivered_bytes, interval_ns, app_limited })
    }

    #[test]
    fn the_longer_interval_counts() {
        let mut rate = DeliveryRate::default();
        // 1,000 bytes a millisecond for 10 ms.
        (0..10).for_each(|ms| rate.on_sent(at(100 + ms), ms * 1_000));
        rate.on_acked(at(110), at(100), 1_000);
        assert_eq!(rate.sample(at(101), RTT_NS), sample(1_000, 10, false));
        assert_eq!(rate.sample(at(101), RTT_NS), None, "one sample for a frame");
        rate.on_sent(at(110), 9_000);
        // The others are acknowledged together, sooner than they were sent.
        (1..10).for_each(|ms| rate.on_acked(at(119), at(100 + ms), 1_000));
        assert_eq!(rate.sample(at(110), RTT_NS), sample(10_000, 19, false));
        // From the acknowledgement of the first to that of the last: 19 ms lie between 100 and 119.
        rate.on_acked(at(120), at(110), 1_000);
        assert_eq!(rate.sample(at(120), RTT_NS), sample(10_000, 10, false));
        assert!(rate.departures.is_empty());
    }

    #[test]
    fn samples_are_marked_until_what_was_in_flight_at_the_pause_has_arrived() {
        let mut rate = DeliveryRate::default();
        rate.on_sent(at(0), 0);
        rate.on_app_limited(1_000);
        rate.on_sent(at(1), 1_000);
        rate.on_acked(at(10), at(0), 1_000);
        assert_eq!(rate.sample(at(1), RTT_NS), sample(1_000, 10, false));
        rate.on_sent(at(10), 1_000);
        rate.on_acked(at(11), at(1), 1_000);
        assert_eq!(rate.sample(at(10), RTT_NS), sample(2_000, 11, true));
        rate.on_sent(at(11), 1_000);
        rate.on_acked(at(20), at(10), 1_000);
        assert_eq!(rate.sample(at(11), RTT_NS), sample(2_000, 10, true));
        rate.on_acked(at(21), at(11), 1_000);
        assert_eq!(rate.sample(at(30), RTT_NS), sample(2_000, 10, false));
    }

    #[test]
    fn an_interval_shorter_than_any_round_trip_is_no_sample() {
        let mut rate = DeliveryRate::default();
        rate.on_sent(at(0), 0);
        rate.on_acked(at(9), at(0), 1_000);
        assert_eq!(rate.sample(at(1), RTT_NS), None);
        // What is known of nothing is counted all the same.
        rate.on_acked(at(9), at(5), 1_000);
        assert_eq!((rate.sample(at(9), 0), rate.delivered_bytes), (None, 2_000));
    }
}
