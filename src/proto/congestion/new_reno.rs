//! NewReno as RFC 9002 §7 and appendix B write it down.

use super::{
    Congestion, Controller, Recovery, WINDOW_MAX_BYTES, initial_window, min_window, window_for_mtu,
};
use crate::proto::rtt::Rtt;
use crate::time::Instant;

/// RFC 9002 appendix B.1: kLossReductionFactor is 1/2.
const LOSS_REDUCTION_DIVISOR: u64 = 2;

/// Additive increase, multiplicative decrease.
#[derive(Clone, Debug)]
pub(crate) struct NewReno {
    mtu: u16,
    window: u64,
    ssthresh: u64,
    recovery: Recovery,
    /// Bytes acknowledged in congestion avoidance since the window last grew.
    acked_bytes: u64,
    /// Window and ssthresh before the last congestion event.
    before_event: Option<(u64, u64)>,
}

impl NewReno {
    /// The initial state, for packets of `mtu` bytes.
    #[must_use]
    pub(crate) fn new(mtu: u16) -> Self {
        Self {
            mtu,
            window: initial_window(mtu),
            ssthresh: u64::MAX,
            recovery: Recovery::default(),
            acked_bytes: 0,
            before_event: None,
        }
    }
}

impl Controller for NewReno {
    // RFC 9002 §B.5, OnPacketAcked.
    #[inline]
    fn on_acked(
        &mut self,
        _now: Instant,
        sent_time: Instant,
        bytes: u64,
        app_limited: bool,
        _rtt: &Rtt,
    ) {
        if app_limited || self.recovery.covers(sent_time) {
            return;
        }
        if self.window < self.ssthresh {
            self.window = self.window.saturating_add(bytes).min(WINDOW_MAX_BYTES);
            return;
        }
        // One packet for each window's worth of bytes: the RFC's mtu * bytes / window per
        // packet, without its division.
        self.acked_bytes = self.acked_bytes.saturating_add(bytes);
        if self.acked_bytes >= self.window {
            self.acked_bytes -= self.window;
            self.window = (self.window + u64::from(self.mtu)).min(WINDOW_MAX_BYTES);
        }
    }

    // RFC 9002 §B.6, OnCongestionEvent, and §B.8.
    fn on_congestion(&mut self, now: Instant, event: &Congestion, _rtt: &Rtt) -> bool {
        let reduces = !self.recovery.covers(event.sent_time);
        if reduces {
            self.before_event = Some((self.window, self.ssthresh));
            self.recovery.start(now);
            self.window = (self.window / LOSS_REDUCTION_DIVISOR).max(min_window(self.mtu));
            self.ssthresh = self.window;
            self.acked_bytes = 0;
        }
        if event.persistent {
            self.window = min_window(self.mtu);
            self.recovery.end();
            self.before_event = None;
        }
        reduces || event.persistent
    }

    fn on_spurious(&mut self) {
        if let Some((window, ssthresh)) = self.before_event.take() {
            self.window = self.window.max(window);
            self.ssthresh = ssthresh;
            self.recovery.end();
        }
    }

    fn on_mtu(&mut self, mtu: u16) {
        self.window = window_for_mtu(self.window, self.mtu, mtu);
        self.mtu = mtu;
    }

    #[inline]
    fn window(&self) -> u64 {
        self.window
    }

    fn ssthresh(&self) -> Option<u64> {
        (self.ssthresh != u64::MAX).then_some(self.ssthresh)
    }
}
