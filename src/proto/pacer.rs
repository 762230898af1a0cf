//! Spreads a window over a round trip (RFC 9002 §7.7).
//!
//! A bucket of tokens, one per byte. It fills at 5/4 of window / smoothed RTT, so that pacing
//! never is what limits a sender, or at the [`Rate`] that the congestion controller sets. It holds
//! a burst: at least ten packets, and what is sent in a millisecond at the current rate, so that a
//! sender that wakes up late, or once per batch, still reaches its rate. Where the round trip is shorter than a millisecond, as in a
//! data centre, that is the whole window and pacing is out of the way.
//!
//! Ask [`Pacer::can_send`] before each datagram, tell [`Pacer::on_sent`] after it. While
//! tokens suffice, asking is a comparison; the divisions happen once per burst.

use crate::time::{Instant, MILLISECOND_NS, SECOND_NS};

/// The bucket holds at least this many packets: RFC 9002 §7.7 wants bursts limited to the
/// initial window, which is ten.
const BURST_PACKETS: u64 = 10;

/// The bucket holds at least what the rate gives in this time: how late a timer or a turn of
/// a busy worker may come.
const BURST_NS: u64 = MILLISECOND_NS;

/// RFC 9002 §7.7, the factor N as a fraction: 5/4.
const RATE_NUMERATOR: u64 = 5;
const RATE_DENOMINATOR: u64 = 4;

/// So many bytes in so many nanoseconds; neither is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    bytes: u64,
    ns: u64,
}

impl Rate {
    /// 5/4 of a window in a round trip.
    #[must_use]
    pub(crate) fn of_window(window: u64, smoothed_rtt_ns: u64) -> Self {
        Self {
            bytes: window.max(1).saturating_mul(RATE_NUMERATOR),
            ns: smoothed_rtt_ns.max(1).saturating_mul(RATE_DENOMINATOR),
        }
    }

    /// So many bytes in a second, or one.
    #[must_use]
    pub(crate) fn per_second(bytes: u64) -> Self {
        Self { bytes: bytes.max(1), ns: SECOND_NS }
    }
}

/// A token bucket in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Pacer {
    tokens: u64,
    burst: u64,
    filled_at: Instant,
    /// What of the last filling was less than a byte, times the divisor of that filling.
    remainder: u64,
    mtu: u16,
}

impl Pacer {
    /// A full bucket: the first flight goes out at once.
    #[must_use]
    pub(crate) fn new(now: Instant, mtu: u16) -> Self {
        let burst = BURST_PACKETS * u64::from(mtu);
        Self { tokens: burst, burst, filled_at: now, remainder: 0, mtu }
    }

    /// True if `bytes` may be sent now; `rate` is asked for when the bucket has to be filled.
    ///
    /// # Errors
    /// The instant to ask again: when half of the bucket has filled, and at least `bytes`, so
    /// that a sender wakes up for several packets at a time.
    #[inline]
    pub(crate) fn can_send(
        &mut self,
        now: Instant,
        bytes: u64,
        rate: impl FnOnce() -> Rate,
    ) -> Result<(), Instant> {
        if self.tokens >= bytes {
            return Ok(());
        }
        self.fill(now, bytes, rate())
    }

    /// `bytes` were sent.
    #[inline]
    pub(crate) fn on_sent(&mut self, bytes: u64) {
        self.tokens = self.tokens.saturating_sub(bytes);
    }

    /// Packets may now have `mtu` bytes.
    pub(crate) fn on_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
        self.burst = self.burst.max(BURST_PACKETS * u64::from(mtu));
    }

    fn fill(&mut self, now: Instant, bytes: u64, rate: Rate) -> Result<(), Instant> {
        let Rate { bytes: per_rtt, ns: divisor } = rate;

        let (rate_burst, _) = scaled(BURST_NS, per_rtt, divisor, 0);
        self.burst = rate_burst.max(BURST_PACKETS * u64::from(self.mtu));

        let elapsed_ns = now.ns_since(self.filled_at);
        let (filled, remainder) =
            scaled(elapsed_ns, per_rtt, divisor, self.remainder.min(divisor - 1));
        self.tokens = self.tokens.saturating_add(filled).min(self.burst);
        self.remainder = remainder;
        self.filled_at = self.filled_at.max(now);

        // A datagram larger than the bucket passes when the bucket is full.
        let needed = bytes.min(self.burst);
        if self.tokens >= needed {
            return Ok(());
        }
        let missing = needed.max(self.burst / 2) - self.tokens;
        let (wait_ns, rest) = scaled(missing, divisor, per_rtt, 0);
        Err(now.plus_ns(wait_ns.saturating_add(u64::from(rest > 0))))
    }
}

/// `(value * numerator + carry) / divisor` and the remainder, saturating.
fn scaled(value: u64, numerator: u64, divisor: u64, carry: u64) -> (u64, u64) {
    // Nearly always all fits in 64 bits, whose division is several times cheaper.
    if let Some(product) = value.checked_mul(numerator).and_then(|n| n.checked_add(carry)) {
        return (product / divisor, product % divisor);
    }
    let product = u128::from(value) * u128::from(numerator) + u128::from(carry);
    let quotient = u64::try_from(product / u128::from(divisor)).unwrap_or(u64::MAX);
    // The remainder is below the divisor, which has 64 bits.
    (quotient, (product % u128::from(divisor)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MTU: u16 = 1_200;
    const MS: u64 = MILLISECOND_NS;

    fn at(ns: u64) -> Instant {
        Instant::from_nanos(ns)
    }

    /// Sends packets of `bytes` as fast as the pacer lets it until `end_ns`; returns the bytes
    /// and the largest burst at one instant.
    fn run(window: u64, rtt_ns: u64, bytes: u64, end_ns: u64) -> (u64, u64) {
        let mut pacer = Pacer::new(at(0), MTU);
        let (mut now, mut sent, mut burst, mut largest) = (at(0), 0, 0, 0);
        while now.as_nanos() < end_ns {
            match pacer.can_send(now, bytes, || Rate::of_window(window, rtt_ns)) {
                Ok(()) => {
                    pacer.on_sent(bytes);
                    sent += bytes;
                    burst += bytes;
                    largest = largest.max(burst);
                }
                Err(when) => {
                    assert!(when > now, "a wait that is none");
                    now = when;
                    burst = 0;
                }
            }
        }
        (sent, largest)
    }

    #[test]
    fn the_first_ten_packets_go_at_once_then_it_waits() {
        let mut pacer = Pacer::new(at(0), MTU);
        for _ in 0..10 {
            assert_eq!(pacer.can_send(at(0), 1_200, || Rate::of_window(12_000, 100 * MS)), Ok(()));
            pacer.on_sent(1_200);
        }
        // 12,000 bytes in 100 ms, times 5/4, are 150 bytes a millisecond: five packets, half
        // of the bucket, take 40 ms.
        assert_eq!(
            pacer.can_send(at(0), 1_200, || Rate::of_window(12_000, 100 * MS)),
            Err(at(40 * MS))
        );
        assert_eq!(
            pacer.can_send(at(40 * MS), 1_200, || Rate::of_window(12_000, 100 * MS)),
            Ok(())
        );
    }

    #[test]
    fn the_rate_is_five_quarters_of_window_over_rtt() {
        for (window, rtt_ns) in [(12_000, 100 * MS), (1_000_000, 20 * MS), (3_000, 333 * MS)] {
            let end_ns = 10_000 * MS;
            let (sent, _) = run(window, rtt_ns, 1_200, end_ns);
            let exact = window * 5 / 4 * (end_ns / MS) / (rtt_ns / MS);
            // The full bucket at the start, and less than half of one at the end.
            let slack = 12_000.max(window * 5 / 4 * MS / rtt_ns) * 2;
            assert!(sent >= exact.saturating_sub(slack), "{sent} of {exact}");
            assert!(sent <= exact + slack, "{sent} of {exact}");
        }
    }

    #[test]
    fn a_rate_of_its_own_is_kept() {
        let mut pacer = Pacer::new(at(0), MTU);
        let (mut now, mut sent) = (at(0), 0);
        while now < at(10_000 * MS) {
            match pacer.can_send(now, 1_200, || Rate::per_second(250_000)) {
                Ok(()) => {
                    pacer.on_sent(1_200);
                    sent += 1_200;
                }
                Err(when) => now = when,
            }
        }
        // 10 s, the full bucket at the start, and less than half of one at the end.
        assert!((2_500_000..=2_500_000 + 2 * 12_000).contains(&sent), "{sent}");
    }

    #[test]
    fn a_burst_is_ten_packets_or_a_millisecond() {
        let (_, largest) = run(12_000, 100 * MS, 1_200, 5_000 * MS);
        assert_eq!(largest, 12_000);
        // 10 MB in 20 ms, times 5/4, are 625,000 bytes a millisecond.
        let (_, largest) = run(10_000_000, 20 * MS, 1_250, 1_000 * MS);
        assert!((300_000..=625_000).contains(&largest), "{largest}");
    }

    #[test]
    fn asking_often_does_not_starve_a_slow_sender() {
        // 9 bytes a millisecond, asked every microsecond: each filling is less than a byte.
        let mut pacer = Pacer::new(at(0), MTU);
        pacer.on_sent(u64::MAX);
        let mut us = 0;
        while pacer.can_send(at(us * 1_000), 1_200, || Rate::of_window(2_400, 333 * MS)).is_err() {
            us += 1;
        }
        let exact_us = 1_200 * 4 * 333 * 1_000 / (2_400 * 5);
        assert!((exact_us..exact_us + 2).contains(&us), "{us} against {exact_us}");
    }

    #[test]
    fn a_short_round_trip_is_not_paced() {
        // 50 us: a millisecond is 25 windows.
        let mut pacer = Pacer::new(at(0), MTU);
        pacer.on_sent(u64::MAX);
        assert!(pacer.can_send(at(MS), 1_200, || Rate::of_window(120_000, 50_000)).is_ok());
        assert!(pacer.tokens >= 120_000);
    }

    #[test]
    fn a_datagram_larger_than_the_bucket_is_not_held_for_ever() {
        let mut pacer = Pacer::new(at(0), MTU);
        let when = match pacer.can_send(at(0), 60_000, || Rate::of_window(12_000, 100 * MS)) {
            Ok(()) => at(0),
            Err(when) => when,
        };
        assert_eq!(pacer.can_send(when, 60_000, || Rate::of_window(12_000, 100 * MS)), Ok(()));
    }

    proptest! {
        #[test]
        fn any_input_gives_an_answer_that_comes_true(
            bytes in 1..u64::from(u16::MAX), window: u64, rtt_ns: u64, start: u64
        ) {
            let mut pacer = Pacer::new(at(start), MTU);
            pacer.on_sent(u64::MAX);
            if let Err(when) = pacer.can_send(at(start), bytes, || Rate::of_window(window, rtt_ns)) {
                prop_assert!(when > at(start) || when == Instant::NEVER);
                let answer = pacer.can_send(when, bytes, || Rate::of_window(window, rtt_ns));
                prop_assert!(answer.is_ok() || when == Instant::NEVER);
            }
        }
    }
}
