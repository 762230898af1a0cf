//! CUBIC (RFC 9438), with HyStart++ for the first slow start.
//!
//! After a congestion event the window climbs along a cubic curve of the time since: fast,
//! then flat around the window at which congestion was met, then fast again in search of
//! more. Time, not acknowledgements, drives it, so that flows of long and short round trips
//! share alike; where that is slower than Reno would be, it goes as fast as Reno.
//!
//! ```text
//! W_cubic(t) = C * (t - K)^3 + W_max          K = cbrt((W_max - cwnd_epoch) / C)
//! ```
//!
//! # Losses without a queue
//!
//! A window that is too large fills the queue in front of the slowest line, and round trips grow,
//! before anything is lost. So a packet that is lost while round trips are as short as ever was
//! probably lost by chance: on a radio link, to a broken bit. A smaller window would not have
//! saved it, and CUBIC leaves little of a line for it: 7 Mb/s at 20 ms and 1% of loss.
//!
//! | what was seen | what it costs |
//! |---|---|
//! | losses, and no queue: round trips within 1/24 of the shortest | half of the bytes lost, at most three tenths of the window |
//! | any other loss, a CE mark of a router | three tenths of the window (RFC 9438 §4.6) |
//! | persistent congestion | all but two packets |
//!
//! So the window at a rate of loss p is about 0.7 / p packets instead of 1.2 / sqrt(p). An event
//! that begins as the first row becomes the second as soon as anything of its flight shows a
//! queue.
//!
//! The price: a queue that is too short to be seen, under a twentieth of the bandwidth-delay
//! product, looks like chance. A flow that follows RFC 9438 to the letter keeps little of such a
//! line beside this one (`tools/bench fair`: 3%), and the same holds where round trips have never
//! been seen without the queue. [`Algorithm::StrictCubic`](super::Algorithm::StrictCubic) has the
//! last two rows only.
//!
//! The curve is not evaluated per packet: acknowledged bytes are added up, and each eighth of
//! a window of them takes one step of the curve.

use super::hystart::{HyStart, Verdict};
use super::{
    Congestion, Controller, Recovery, WINDOW_MAX_BYTES, initial_window, min_window, window_for_mtu,
};
use crate::proto::rtt::Rtt;
use crate::time::{Instant, SECOND_NS};

/// RFC 9438 §5: in packets per second cubed.
const C: f64 = 0.4;
/// RFC 9438 §4.6: what remains of the window after a congestion event.
const BETA: f64 = 0.7;
/// RFC 9438 §4.3: packets per round trip that make an additive increase as aggressive as
/// Reno's, given BETA: 3 (1 - BETA) / (1 + BETA).
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);
/// RFC 9438 §4.2: in one round trip the window grows to at most this multiple.
const TARGET_MAX_FACTOR: f64 = 1.5;

/// A step of the curve is taken when this part of a window was acknowledged: 1/8, so that a
/// step is at most 6 % (half a window per round trip at most, an eighth of it per step).
const STEP_SHIFT: u32 = 3;

/// A loss without a queue costs this part of what was lost: half, as a share of marked packets
/// costs half that share of the window (RFC 8257 §3.3). With all of it, a transfer at 1% of loss
/// has 26 Mb/s instead of 42 (`tools/bench loss`).
const LOST_SHARE_DIVISOR: u32 = 2;

/// CUBIC.
#[repr(C)]
#[derive(Clone, Debug)]
pub(crate) struct Cubic {
    pub(super) window: u64,
    ssthresh: u64,
    mtu: u16,
    /// Any loss costs three tenths of the window.
    strict: bool,
    /// Losses without a queue are all there was of the last congestion event.
    by_share: bool,
    /// What that one lost, saturating.
    lost_bytes: u32,
    /// Since when acknowledgements came without the window being used.
    app_limited_since: Option<Instant>,
    pub(super) hystart: HyStart,
    recovery: Recovery,
    /// Bytes acknowledged in congestion avoidance since the last step.
    acked_bytes: u64,
    /// The current stretch of congestion avoidance.
    epoch: Option<Epoch>,
    /// W_max in bytes: the window when congestion was last met; 0 if that says nothing.
    pub(super) w_max: f64,
    /// cwnd_prior in bytes: the window before the last congestion event.
    prior_window: f64,
    /// What the last congestion event changed.
    before_event: Option<BeforeEvent>,
}

/// RFC 9438 §4.9.2: the state to go back to when a congestion event was none.
#[derive(Clone, Copy, Debug)]
struct BeforeEvent {
    window: u64,
    ssthresh: u64,
    w_max: f64,
    prior_window: f64,
    epoch: Option<Epoch>,
}

/// A stretch of congestion avoidance.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    start: Instant,
    /// Seconds from the start to the flat middle of the curve.
    k: f64,
    /// The window in the flat middle, in bytes.
    origin: f64,
    /// W_est in bytes: where Reno would be.
    reno: f64,
}

impl Cubic {
    /// The initial state, for packets of `mtu` bytes.
    #[must_use]
    pub(crate) fn new(mtu: u16) -> Self {
        Self {
            mtu,
            window: initial_window(mtu),
            ssthresh: u64::MAX,
            recovery: Recovery::default(),
            acked_bytes: 0,
            w_max: 0.0,
            prior_window: 0.0,
            epoch: None,
            app_limited_since: None,
            hystart: HyStart::new(),
            before_event: None,
            strict: false,
            by_share: false,
            lost_bytes: 0,
        }
    }

    /// As [`new`](Self::new), and any loss costs three tenths of the window.
    #[must_use]
    pub(crate) fn strict(mtu: u16) -> Self {
        Self { strict: true, ..Self::new(mtu) }
    }

    /// An event of its own begins.
    fn begin_event(&mut self, now: Instant, event: &Congestion, by_share: bool) {
        self.before_event = Some(BeforeEvent {
            window: self.window,
            ssthresh: self.ssthresh,
            w_max: self.w_max,
            prior_window: self.prior_window,
            epoch: self.epoch,
        });
        self.recovery.start(now);
        let acked_bytes = self.acked_bytes;
        self.end_epoch();
        let window = self.window as f64;
        // RFC 9438 §4.7, fast convergence: a flow whose share shrinks leaves bandwidth to the others.
        self.w_max = if window < self.w_max { window * (1.0 + BETA) / 2.0 } else { window };
        self.prior_window = window;
        if by_share {
            // The growth that they have earned stays due.
            self.acked_bytes = acked_bytes;
        }
        self.lost_bytes = 0;
        self.pay(event, by_share);
    }

    /// Shrinks the window by what the event has come to. One that is paid for in full never gets
    /// here again.
    fn pay(&mut self, event: &Congestion, by_share: bool) {
        let lost_bytes = u32::try_from(event.lost_bytes).unwrap_or(u32::MAX);
        self.lost_bytes = self.lost_bytes.saturating_add(lost_bytes);
        self.by_share = by_share;
        let before = self.prior_window as u64;
        // RFC 9438 §4.6.
        let full = before - (self.prior_window * BETA) as u64;
        let share = u64::from(self.lost_bytes / LOST_SHARE_DIVISOR);
        let left = before - if by_share { share.min(full) } else { full };
        self.window = self.window.min(left).max(min_window(self.mtu));
        self.ssthresh = self.window;
    }

    fn slow_start(&mut self, now: Instant, sent_time: Instant, bytes: u64, rtt: &Rtt) {
        // RFC 9406 §4.3: only in the first slow start, while ssthresh has its initial value.
        let first = self.ssthresh == u64::MAX;
        let growth = if first { self.hystart.growth(bytes) } else { bytes };
        self.window = self.window.saturating_add(growth).min(WINDOW_MAX_BYTES);
        if first && self.hystart.on_acked(now, sent_time, rtt) == Verdict::Leave {
            self.ssthresh = self.window;
        }
    }

    /// One step of congestion avoidance for the bytes acknowledged since the last.
    fn step(&mut self, now: Instant, rtt: &Rtt) {
        let acked = core::mem::take(&mut self.acked_bytes) as f64;
        let window = self.window as f64;
        let mtu = f64::from(self.mtu);
        let epoch = self.epoch.get_or_insert_with(|| Epoch::new(now, window, self.w_max, mtu));

        // RFC 9438 §4.3: Reno-friendly region.
        let alpha = if epoch.reno >= self.prior_window { 1.0 } else { ALPHA };
        epoch.reno += alpha * mtu * acked / window;

        let t_ns = now.ns_since(epoch.start);
        let grown = if epoch.at(t_ns, mtu) < epoch.reno {
            epoch.reno.max(window)
        } else {
            // RFC 9438 §4.4 and §4.5: towards where the curve is one round trip from now.
            let ahead_ns = t_ns.saturating_add(rtt.smoothed_ns());
            let target = epoch.at(ahead_ns, mtu).clamp(window, TARGET_MAX_FACTOR * window);
            window + (target - window) * acked / window
        };
        self.window = (grown as u64).clamp(min_window(self.mtu), WINDOW_MAX_BYTES);
    }

    /// RFC 9438 §4.2: time in which the application did not use the window is not part of t.
    fn resume(&mut self, now: Instant) {
        if let (Some(since), Some(epoch)) = (self.app_limited_since.take(), &mut self.epoch) {
            epoch.start = epoch.start.plus_ns(now.ns_since(since.max(epoch.start)));
        }
    }

    fn end_epoch(&mut self) {
        self.epoch = None;
        self.app_limited_since = None;
        self.acked_bytes = 0;
    }
}

impl Congestion {
    /// True if there is no sign that a queue overflowed.
    fn by_chance(&self, rtt: &Rtt) -> bool {
        !self.ecn && !self.persistent && !rtt.shows_queue()
    }
}

impl Epoch {
    // RFC 9438 §4.2. Without a W_max above the window (slow start ended by itself, or after
    // persistent congestion: §4.8, §4.10) the curve starts in its flat middle.
    fn new(now: Instant, window: f64, w_max: f64, mtu: f64) -> Self {
        let origin = w_max.max(window);
        let k = ((origin - window) / mtu / C).cbrt();
        Self { start: now, k, origin, reno: window }
    }

    /// W_cubic in bytes, `t_ns` after the start.
    fn at(&self, t_ns: u64, mtu: f64) -> f64 {
        let t = t_ns as f64 / SECOND_NS as f64 - self.k;
        C * t * t * t * mtu + self.origin
    }
}

impl Controller for Cubic {
    #[inline]
    fn on_sent(&mut self, now: Instant, _bytes: u64, _in_flight_bytes: u64) {
        self.hystart.on_sent(now);
    }

    #[inline]
    fn on_acked(
        &mut self,
        now: Instant,
        sent_time: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &Rtt,
    ) {
        if app_limited {
            self.app_limited_since.get_or_insert(now);
            return;
        }
        if self.recovery.covers(sent_time) {
            return;
        }
        if self.app_limited_since.is_some() {
            self.resume(now);
        }
        if self.window < self.ssthresh {
            self.slow_start(now, sent_time, bytes, rtt);
            return;
        }
        self.acked_bytes = self.acked_bytes.saturating_add(bytes);
        if self.acked_bytes >= self.window >> STEP_SHIFT {
            self.step(now, rtt);
        }
    }

    fn on_congestion(&mut self, now: Instant, event: &Congestion, rtt: &Rtt) -> bool {
        let by_share = !self.strict && event.by_chance(rtt);
        let reduces = !self.recovery.covers(event.sent_time);
        if reduces {
            self.begin_event(now, event, by_share);
        } else if self.by_share {
            self.pay(event, by_share);
        }
        if event.persistent {
            // RFC 9002 §7.6.2, RFC 9438 §4.8: the next epoch starts with W_max at its window.
            self.window = min_window(self.mtu);
            self.w_max = 0.0;
            self.prior_window = 0.0;
            self.end_epoch();
            self.recovery.end();
            self.before_event = None;
            self.by_share = false;
        }
        reduces || event.persistent
    }

    fn on_spurious(&mut self) {
        let Some(before) = self.before_event.take() else { return };
        self.by_share = false;
        self.end_epoch();
        self.window = self.window.max(before.window);
        self.ssthresh = before.ssthresh;
        self.w_max = before.w_max;
        self.prior_window = before.prior_window;
        self.epoch = before.epoch;
        self.recovery.end();
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
