//! What the network does for a connection: told while data flows, for those who steer by it.
//!
//! An application that makes data as it is sent (a video encoder, a proxy that reads from somewhere
//! else) asks two things: how fast does it go, and how much should lie ready. Both follow from
//! acknowledgements, so that is when they are looked at:
//!
//! - **The rate** is what was acknowledged between two reports, by the time between them. A report is due
//!   with the first acknowledgement that comes a round trip, and the interval that was asked for, after
//!   the last. Where nothing was acknowledged for long before, the application was idle and not the
//!   network slow: there is no rate then.
//! - **The ideal send buffer** is twice what was in flight at most. What was sent has to be kept until it is
//!   acknowledged, and as much again has to lie ready by then, or the window stays open. It grows at
//!   once, and halves when a report's worth of traffic needed a quarter of it.
//!
//! A connection that tells nothing of this pays for one comparison in each acknowledgement.

use super::config::nanos;
use crate::time::{Instant, SECOND_NS};
use std::time::Duration;

/// The ideal send buffer is never below this: about what a gigabit per second sends in a millisecond.
pub const IDEAL_SEND_MIN_BYTES: u64 = 128 << 10;
/// An interval of so many times its length says nothing of the network: there was little to send.
const IDLE_INTERVALS: u64 = 8;

/// What is known of the path that a connection's packets take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetworkStatistics {
    /// Bytes of packets that were sent and neither acknowledged nor declared lost.
    pub bytes_in_flight: u64,
    /// The congestion window, in bytes.
    pub window_bytes: u64,
    /// The smoothed round-trip time (RFC 9002 §5.3).
    pub smoothed_rtt: Duration,
    /// The smallest round-trip time of late.
    pub min_rtt: Duration,
    /// How much round-trip times differ (RFC 9002 §5.3).
    pub rtt_variation: Duration,
    /// Bytes a second that were acknowledged between the last two reports; `None` before there are two, if
    /// most of the time between them was idle, or if nothing is reported.
    pub delivery_rate: Option<u64>,
    /// How much data to keep ready and unacknowledged, in bytes, so that the network never waits for the
    /// application; the smallest value if nothing is reported.
    pub ideal_send_bytes: u64,
}

/// What reports are made of.
#[derive(Debug)]
pub(super) struct NetworkWatch {
    every_ns: u64,
    since: Instant,
    pub(super) due: Instant,
    /// Bytes acknowledged since the last report.
    delivered: u64,
    /// The most that was in flight since then.
    most_in_flight: u64,
    pub(super) rate: Option<u64>,
    pub(super) ideal: u64,
}

impl NetworkWatch {
    pub(super) fn new(now: Instant, every: Duration) -> Self {
        Self {
            every_ns: nanos(every),
            // The first report has none before it.
            since: Instant::NEVER,
            due: now,
            delivered: 0,
            most_in_flight: 0,
            rate: None,
            ideal: IDEAL_SEND_MIN_BYTES,
        }
    }

    /// So much was acknowledged, of what was in flight. The ideal send buffer, if that changes it.
    pub(super) fn note(&mut self, acked: u64, in_flight_before: u64) -> bool {
        self.delivered += acked;
        self.most_in_flight = self.most_in_flight.max(in_flight_before);
        let wanted = ideal(self.most_in_flight);
        let grows = wanted > self.ideal;
        self.ideal = self.ideal.max(wanted);
        grows
    }

    /// A report is made. True if the ideal send buffer shrinks with it.
    pub(super) fn report(&mut self, now: Instant, rtt_ns: u64) -> bool {
        let interval_ns = self.every_ns.max(rtt_ns);
        let took_ns = now.ns_since(self.since);
        let was_busy = took_ns > 0 && took_ns <= interval_ns.saturating_mul(IDLE_INTERVALS);
        self.rate = was_busy.then(|| rate(self.delivered, took_ns));
        let shrinks = ideal(self.most_in_flight) <= self.ideal / 4;
        if shrinks {
            self.ideal /= 2;
        }
        (self.since, self.due) = (now, now.plus_ns(interval_ns));
        (self.delivered, self.most_in_flight) = (0, 0);
        shrinks
    }
}

/// The smallest of 1, 1.5, 2, 3, 4, 6.. times the least buffer that holds twice what is in flight.
fn ideal(in_flight: u64) -> u64 {
    let wanted = in_flight.saturating_mul(2);
    let power = wanted.max(IDEAL_SEND_MIN_BYTES).checked_next_power_of_two().unwrap_or(u64::MAX);
    let less = power / 4 * 3;
    if wanted <= less && less >= IDEAL_SEND_MIN_BYTES { less } else { power }
}

/// Bytes a second.
fn rate(bytes: u64, took_ns: u64) -> u64 {
    let rate = u128::from(bytes) * u128::from(SECOND_NS) / u128::from(took_ns);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MILLISECOND_NS;

    const K: u64 = 1 << 10;

    #[test]
    fn the_ideal_buffer_holds_twice_what_is_in_flight_in_steps() {
        for (in_flight, wanted) in [
            (0, 128),
            (64, 128),
            (65, 192),
            (96, 192),
            (97, 256),
            (128, 256),
            (129, 384),
            (193, 512),
        ] {
            assert_eq!(ideal(in_flight * K), wanted * K, "{in_flight} KiB");
        }
        assert_eq!(ideal(u64::MAX), u64::MAX);
    }

    #[test]
    fn the_buffer_grows_at_once_and_halves_with_a_report_that_needed_a_quarter() {
        let at = |ms: u64| Instant::from_nanos(ms * MILLISECOND_NS);
        let mut watch = NetworkWatch::new(at(0), Duration::ZERO);
        assert!(watch.note(10 * K, 512 * K));
        assert!(!watch.note(10 * K, 512 * K), "told once");
        assert_eq!(watch.ideal, 1024 * K);
        assert!(!watch.report(at(10), 10 * MILLISECOND_NS), "it was needed");
        assert!(!watch.note(10 * K, 100 * K));
        assert!(watch.report(at(20), 10 * MILLISECOND_NS));
        assert_eq!(watch.ideal, 512 * K);
        for ms in 3..10 {
            watch.report(at(ms * 10), 10 * MILLISECOND_NS);
        }
        // Nothing needs less than a quarter of this.
        assert_eq!(watch.ideal, 2 * IDEAL_SEND_MIN_BYTES);
    }

    #[test]
    fn a_rate_is_what_came_in_between_and_none_after_idle_time() {
        let at = |ms: u64| Instant::from_nanos(ms * MILLISECOND_NS);
        let mut watch = NetworkWatch::new(at(0), Duration::from_millis(100));
        watch.note(5_000, 5_000);
        watch.report(at(100), MILLISECOND_NS);
        assert_eq!((watch.rate, watch.due), (None, at(200)), "there is one report");
        watch.note(5_000, 5_000);
        watch.report(at(200), MILLISECOND_NS);
        assert_eq!((watch.rate, watch.due), (Some(50_000), at(300)));
        watch.note(1, 1);
        watch.report(at(200 + 801), MILLISECOND_NS);
        assert_eq!(watch.rate, None);
        watch.report(at(1001), MILLISECOND_NS);
        assert_eq!(watch.rate, None, "no time has passed");
    }
}
