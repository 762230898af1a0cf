//! How much may be in flight (RFC 9002 §7).
//!
//! A `Controller` is a number, the window, and what moves it. Recovery tells it about every
//! packet sent, acknowledged or lost, and compares the window with the bytes in flight, which
//! it counts itself. The controller knows no packet: only when one was sent, which decides
//! whether a loss of it belongs to a period of recovery that has already reduced the window.
//!
//! A controller may set the rate as well at which packets leave (`Controller::pacing_rate`), and
//! learn the rate at which they arrive: it holds a `DeliveryRate` and tells it what it is told.
//!
//! | | grows by | a congestion event leaves |
//! |---|---|---|
//! | `NewReno` (RFC 9002 §7.3) | one packet per round trip | half |
//! | `Cubic` (RFC 9438), default | a cubic function of time | seven tenths, or nearly all where losses show no queue |
//!
//! Both start with slow start; CUBIC leaves it before loss where round trips grow
//! (HyStart++, RFC 9406). All lengths are bytes.

mod cubic;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "no controller models the path yet, but in tests")
)]
mod delivery;
mod hystart;
mod new_reno;
#[cfg(test)]
mod rate_probe;

pub(crate) use cubic::Cubic;
#[cfg(test)]
pub(crate) use delivery::{DeliveryRate, DeliverySample};
pub(crate) use new_reno::NewReno;
#[cfg(test)]
pub(crate) use rate_probe::RateProbe;

use super::rtt::Rtt;
use crate::time::Instant;

/// RFC 9002 §7.2: the window starts at ten packets, as far as that is at most this or two
/// packets.
const INITIAL_WINDOW_MAX_BYTES: u64 = 14_720;

/// RFC 9002 §7.2, kMinimumWindow.
const MIN_WINDOW_PACKETS: u64 = 2;

/// No window grows beyond 1 TiB: keeps products of a window with nanoseconds and rates in the
/// range of 128 bits, and of its conversion to a float exact.
const WINDOW_MAX_BYTES: u64 = 1 << 40;

/// The window before anything is known (RFC 9002 §7.2).
#[must_use]
pub(crate) fn initial_window(mtu: u16) -> u64 {
    let mtu = u64::from(mtu);
    (10 * mtu).min(INITIAL_WINDOW_MAX_BYTES.max(2 * mtu))
}

/// The window that nothing goes below (RFC 9002 §7.2).
#[must_use]
pub(crate) fn min_window(mtu: u16) -> u64 {
    MIN_WINDOW_PACKETS * u64::from(mtu)
}

/// Packets that were lost or marked, as one ACK frame or one timer found them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Congestion {
    /// When the newest of them was sent.
    pub sent_time: Instant,
    /// Bytes lost; 0 for marks.
    pub lost_bytes: u64,
    /// The losses lasted for the time of RFC 9002 §7.6.
    pub persistent: bool,
    /// A router marked them.
    pub ecn: bool,
}

/// How things stand when an ACK frame has been read.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "no controller models the path yet, but in tests")
)]
pub(crate) struct AckEnd<'a> {
    /// Bytes in flight.
    pub in_flight_bytes: u64,
    /// No packet that was sent before is outstanding.
    pub oldest_sent_at: Instant,
    /// Round trips, with the sample of the frame.
    pub rtt: &'a Rtt,
}

/// Decides how many bytes may be in flight. What a controller does not need to hear has a default.
pub(crate) trait Controller: Send {
    /// A packet of `bytes` that counts in flight was sent, with `in_flight_bytes` before it.
    #[expect(unused_variables, reason = "a default")]
    #[inline]
    fn on_sent(&mut self, now: Instant, bytes: u64, in_flight_bytes: u64) {}

    /// The window allows more, and there is no data to send: what is sent next follows a pause.
    #[expect(unused_variables, reason = "a default")]
    #[inline]
    fn on_app_limited(&mut self, in_flight_bytes: u64) {}

    /// Packets that counted in flight, and left at one instant, were acknowledged. `app_limited`
    /// says that the window was not what limited sending, so that it proves nothing about a
    /// larger one (RFC 9002 §7.8); waiting for the pacer does not make a sender application
    /// limited. `rtt` does not have the sample of this ACK frame yet.
    fn on_acked(
        &mut self,
        now: Instant,
        sent_time: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &Rtt,
    );

    /// All that an ACK frame newly acknowledged was told, and the losses that follow from it.
    #[expect(unused_variables, reason = "a default")]
    #[inline]
    fn on_ack_end(&mut self, now: Instant, end: &AckEnd<'_>) {}

    /// Packets were lost, or a router marked some. Returns true if this is an event of its own,
    /// and false if it belongs to the last one.
    fn on_congestion(&mut self, now: Instant, event: &Congestion, rtt: &Rtt) -> bool;

    /// Everything that the last congestion event was about has arrived: it was none. What it
    /// changed is changed back (RFC 9438 §4.9.2), unless persistent congestion came after it.
    fn on_spurious(&mut self);

    /// Packets may now have `mtu` bytes.
    fn on_mtu(&mut self, mtu: u16);

    /// Bytes that may be in flight.
    fn window(&self) -> u64;

    /// Where slow start ends; `None` while nothing has ended it yet.
    fn ssthresh(&self) -> Option<u64>;

    /// Bytes per second at which packets leave, where pacing is switched on; `None` for 5/4 of a
    /// window in a round trip.
    #[inline]
    fn pacing_rate(&self) -> Option<u64> {
        None
    }
}

/// Which controller a connection uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RFC 9002 §7.
    NewReno,
    /// RFC 9438 with RFC 9406; a loss without a queue costs a share of the window: see
    /// `Cubic`.
    #[default]
    Cubic,
    /// RFC 9438 with RFC 9406; any loss costs three tenths of the window.
    StrictCubic,
}

/// Any controller, held by value: a connection's is chosen at run time, and a call costs a
/// branch, not a jump through a table to memory of its own.
#[derive(Clone, Debug)]
pub(crate) enum AnyController {
    /// RFC 9002 §7.
    NewReno(NewReno),
    /// RFC 9438 with RFC 9406.
    Cubic(Cubic),
    /// Listens.
    #[cfg(test)]
    Probe(Box<RateProbe>),
}

impl AnyController {
    /// A controller in its initial state for packets of `mtu` bytes.
    #[must_use]
    pub(crate) fn new(algorithm: Algorithm, mtu: u16) -> Self {
        match algorithm {
            Algorithm::NewReno => Self::NewReno(NewReno::new(mtu)),
            Algorithm::Cubic => Self::Cubic(Cubic::new(mtu)),
            Algorithm::StrictCubic => Self::Cubic(Cubic::strict(mtu)),
        }
    }
}

/// Calls the same method of whichever it is.
macro_rules! each {
    ($any:expr, $controller:ident => $call:expr) => {
        match $any {
            AnyController::NewReno($controller) => $call,
            AnyController::Cubic($controller) => $call,
            #[cfg(test)]
            AnyController::Probe($controller) => $call,
        }
    };
}

#[deny(clippy::missing_trait_methods, reason = "a default would hide what the controller says")]
impl Controller for AnyController {
    #[inline]
    fn on_sent(&mut self, now: Instant, bytes: u64, in_flight_bytes: u64) {
        each!(self, controller => controller.on_sent(now, bytes, in_flight_bytes));
    }

    #[inline]
    fn on_app_limited(&mut self, in_flight_bytes: u64) {
        each!(self, controller => controller.on_app_limited(in_flight_bytes));
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
        each!(self, controller => controller.on_acked(now, sent_time, bytes, app_limited, rtt));
    }

    #[inline]
    fn on_ack_end(&mut self, now: Instant, end: &AckEnd<'_>) {
        each!(self, controller => controller.on_ack_end(now, end));
    }

    fn on_congestion(&mut self, now: Instant, event: &Congestion, rtt: &Rtt) -> bool {
        each!(self, controller => controller.on_congestion(now, event, rtt))
    }

    fn on_spurious(&mut self) {
        each!(self, controller => controller.on_spurious());
    }

    fn on_mtu(&mut self, mtu: u16) {
        each!(self, controller => controller.on_mtu(mtu));
    }

    #[inline]
    fn window(&self) -> u64 {
        each!(self, controller => controller.window())
    }

    fn ssthresh(&self) -> Option<u64> {
        each!(self, controller => controller.ssthresh())
    }

    fn pacing_rate(&self) -> Option<u64> {
        each!(self, controller => controller.pacing_rate())
    }
}

/// A period of recovery (RFC 9002 §7.3.2): from a congestion event until a packet sent after
/// it is acknowledged. A loss or mark of a packet sent before is part of the event.
#[derive(Clone, Copy, Debug, Default)]
struct Recovery(Option<Instant>);

impl Recovery {
    fn start(&mut self, now: Instant) {
        self.0 = Some(now);
    }

    fn end(&mut self) {
        self.0 = None;
    }

    #[inline]
    fn covers(self, sent_time: Instant) -> bool {
        self.0.is_some_and(|start| sent_time <= start)
    }
}

/// The window after the size of packets changed (RFC 9002 §7.2): a connection that nothing
/// moved yet starts anew with the new size, any other keeps its window down to the minimum.
fn window_for_mtu(window: u64, from_mtu: u16, to_mtu: u16) -> u64 {
    if window == initial_window(from_mtu) {
        initial_window(to_mtu)
    } else {
        window.max(min_window(to_mtu))
    }
}

#[cfg(test)]
mod tests;
