//! HyStart++ (RFC 9406): leaving slow start because round trips grow, before packets are lost.
//!
//! Slow start doubles the window each round until a queue overflows. The queue shows earlier:
//! the smallest round trip of a round is longer than that of the round before. Then the
//! window grows four times slower for a few rounds (conservative slow start); if the round
//! trip falls again, it was noise and slow start goes on, otherwise it ends there.

use crate::proto::rtt::Rtt;
use crate::time::{Instant, MILLISECOND_NS};

// RFC 9406 §4.3, the recommended constants.
const MIN_RTT_THRESH_NS: u64 = 4 * MILLISECOND_NS;
const MAX_RTT_THRESH_NS: u64 = 16 * MILLISECOND_NS;
const MIN_RTT_DIVISOR: u64 = 8;
const N_RTT_SAMPLE: u32 = 8;
const CSS_GROWTH_DIVISOR: u64 = 4;
const CSS_ROUNDS: u32 = 5;
/// No sample yet.
const INFINITY: u64 = u64::MAX;

/// What an acknowledgement led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Slow start, of either kind, goes on.
    Stay,
    /// It ends: the window is where congestion avoidance starts.
    Leave,
}

/// The state of the first slow start of a connection.
#[derive(Clone, Debug)]
pub(super) struct HyStart {
    /// An acknowledged packet that was sent at this time or later ends the round.
    round_ends: Option<Instant>,
    last_round_min_ns: u64,
    round_min_ns: u64,
    samples: u32,
    /// The sample counted last: all packets of one ACK share one sample.
    last_sample: (Instant, u64),
    css: Option<Css>,
}

/// Conservative slow start.
#[derive(Clone, Copy, Debug)]
struct Css {
    baseline_ns: u64,
    rounds: u32,
}

impl HyStart {
    pub(super) fn new() -> Self {
        Self {
            round_ends: None,
            last_round_min_ns: INFINITY,
            round_min_ns: INFINITY,
            samples: 0,
            last_sample: (Instant::EPOCH, INFINITY),
            css: None,
        }
    }

    #[inline]
    pub(super) fn on_sent(&mut self, now: Instant) {
        if self.round_ends.is_none() {
            // What is sent at this same instant belongs to the first round.
            self.round_ends = Some(now.plus_ns(1));
        }
    }

    /// By how much `bytes` acknowledged grow the window. Sending is paced, so that the RFC's
    /// limit L on one acknowledgement's growth is infinite (§4.3).
    #[inline]
    pub(super) fn growth(&self, bytes: u64) -> u64 {
        if self.css.is_some() { bytes / CSS_GROWTH_DIVISOR } else { bytes }
    }

    // RFC 9406 §4.2.
    #[inline]
    pub(super) fn on_acked(&mut self, now: Instant, sent_time: Instant, rtt: &Rtt) -> Verdict {
        if self.round_ends.is_none_or(|end| sent_time >= end) && self.next_round(now) {
            return Verdict::Leave;
        }
        let latest_ns = rtt.latest_ns();
        if self.last_sample == (now, latest_ns) {
            return Verdict::Stay;
        }
        self.last_sample = (now, latest_ns);
        self.samples = self.samples.saturating_add(1);
        self.round_min_ns = self.round_min_ns.min(latest_ns);
        if self.samples >= N_RTT_SAMPLE {
            self.judge();
        }
        Verdict::Stay
    }

    /// Starts a round; says whether conservative slow start has had its rounds.
    fn next_round(&mut self, now: Instant) -> bool {
        self.round_ends = Some(now);
        self.last_round_min_ns = self.round_min_ns;
        self.round_min_ns = INFINITY;
        self.samples = 0;
        match &mut self.css {
            None => false,
            Some(css) => {
                css.rounds += 1;
                css.rounds >= CSS_ROUNDS
            }
        }
    }

    fn judge(&mut self) {
        match self.css {
            None if self.last_round_min_ns != INFINITY => {
                let threshold_ns = (self.last_round_min_ns / MIN_RTT_DIVISOR)
                    .clamp(MIN_RTT_THRESH_NS, MAX_RTT_THRESH_NS);
                if self.round_min_ns >= self.last_round_min_ns.saturating_add(threshold_ns) {
                    self.css = Some(Css { baseline_ns: self.round_min_ns, rounds: 0 });
                }
            }
            Some(css) if self.round_min_ns < css.baseline_ns => self.css = None,
            _ => {}
        }
    }

    #[cfg(test)]
    pub(super) fn is_conservative(&self) -> bool {
        self.css.is_some()
    }
}
