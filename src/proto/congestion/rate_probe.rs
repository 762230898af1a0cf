//! A controller for tests: a window and a rate that stay, and all that it is told.

use super::{AckEnd, Congestion, Controller, DeliveryRate, DeliverySample};
use crate::proto::rtt::Rtt;
use crate::time::Instant;

/// Keeps the samples of the delivery rate.
#[derive(Clone, Debug)]
pub(crate) struct RateProbe {
    window_bytes: u64,
    pacing_rate: Option<u64>,
    rate: DeliveryRate,
    /// Packets were acknowledged, and the end of their ACK frame is still to come.
    is_within_ack: bool,
    /// All of them.
    pub samples: Vec<DeliverySample>,
    /// The most bytes in flight that a packet found, and an end of an ACK frame.
    pub most_in_flight: [u64; 2],
    /// The fewest at an end of an ACK frame.
    pub fewest_in_flight: u64,
}

impl RateProbe {
    /// A window, and a rate if it sets one.
    #[must_use]
    pub(crate) fn new(window_bytes: u64, pacing_rate: Option<u64>) -> Self {
        Self {
            window_bytes,
            pacing_rate,
            rate: DeliveryRate::default(),
            is_within_ack: false,
            samples: Vec::new(),
            most_in_flight: [0; 2],
            fewest_in_flight: u64::MAX,
        }
    }
}

impl Controller for RateProbe {
    fn on_sent(&mut self, now: Instant, _bytes: u64, in_flight_bytes: u64) {
        assert!(!self.is_within_ack, "an ACK frame has an end");
        self.rate.on_sent(now, in_flight_bytes);
        self.most_in_flight[0] = self.most_in_flight[0].max(in_flight_bytes);
    }

    fn on_app_limited(&mut self, in_flight_bytes: u64) {
        self.rate.on_app_limited(in_flight_bytes);
    }

    fn on_acked(&mut self, now: Instant, sent_time: Instant, bytes: u64, _: bool, _: &Rtt) {
        self.is_within_ack = true;
        self.rate.on_acked(now, sent_time, bytes);
    }

    fn on_ack_end(&mut self, _now: Instant, end: &AckEnd<'_>) {
        self.is_within_ack = false;
        self.samples.extend(self.rate.sample(end.oldest_sent_at, end.rtt.min_ns()));
        self.most_in_flight[1] = self.most_in_flight[1].max(end.in_flight_bytes);
        self.fewest_in_flight = self.fewest_in_flight.min(end.in_flight_bytes);
    }

    fn on_congestion(&mut self, _: Instant, _: &Congestion, _: &Rtt) -> bool {
        false
    }

    fn on_spurious(&mut self) {}

    fn on_mtu(&mut self, _: u16) {}

    fn window(&self) -> u64 {
        self.window_bytes
    }

    fn ssthresh(&self) -> Option<u64> {
        None
    }

    fn pacing_rate(&self) -> Option<u64> {
        self.pacing_rate
    }
}
