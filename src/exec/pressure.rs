//! Whether a worker takes new connections, by how long what arrives waits for it.
//!
//! A server with more work than it can do gets ever later with all of it, until nothing is in time.
//! The work that can be left is that of new connections. So a worker goes up these steps, and down
//! again:
//!
//! ```text
//!              delay >= limit          delay >= 2 x limit          delay >= 4 x limit
//!            for 100 ms               for 100 ms, or             for 100 ms
//!                                     a second of Retry
//!   None --------------------> Retry --------------------> Refuse -------------------> Shed
//!        <--------------------       <--------------------        <-------------------
//!                    each: delay < limit / 2 for 100 ms
//! ```
//!
//! One late burst is no queue that stands, and leads to nothing. Memory of handshakes, and client
//! Initials that find no place to wait, lead to Retry alone: proof costs a forger its forged addresses,
//! and an honest client a round trip.

use crate::time::{Instant, MILLISECOND_NS, SECOND_NS};

/// How long a delay has to last to lead to a step. Long beside a burst, and beside what the scheduler
/// takes a thread off its CPU for; short beside the second in which a client sends its Initial again.
const STEP_NS: u64 = 100 * MILLISECOND_NS;
/// How long Retry has to be in vain before clients are refused.
const RETRY_IN_VAIN_NS: u64 = SECOND_NS;

/// What a worker does about new connections, for reasons of load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pressure {
    /// It accepts them.
    #[default]
    None,
    /// It asks each client that brings no token to prove its address (Retry).
    Retry,
    /// It refuses them: CONNECTION_REFUSED, at a limited rate.
    Refuse,
    /// It does not answer them.
    Shed,
}

impl Pressure {
    /// The step below.
    fn less(self) -> Self {
        match self {
            Self::None | Self::Retry => Self::None,
            Self::Refuse => Self::Retry,
            Self::Shed => Self::Refuse,
        }
    }
}

/// Judges the pressure on one worker, once a turn.
#[derive(Debug)]
pub(super) struct PressureGauge {
    /// `None`: the delay leads to nothing.
    limit_ns: Option<u64>,
    /// What the delay has led to.
    by_delay: Pressure,
    /// What it leads to if it stays for long enough, and since when.
    rising: Option<(Pressure, Instant)>,
    /// Since when it is low.
    calm_since: Option<Instant>,
    /// Since when Retry is asked for, and in vain.
    in_vain_since: Option<Instant>,
    told: Pressure,
}

impl PressureGauge {
    /// `limit_ns` is the queue delay at which Retry begins; 0 for never.
    pub(super) fn new(limit_ns: u64) -> Self {
        Self {
            limit_ns: (limit_ns > 0).then_some(limit_ns),
            by_delay: Pressure::None,
            rising: None,
            calm_since: None,
            in_vain_since: None,
            told: Pressure::None,
        }
    }

    /// The pressure now.
    pub(super) fn now(&self) -> Pressure {
        self.told
    }

    /// When a turn has to judge again though nothing arrives: a worker that sleeps is not late, and the
    /// first clients after its sleep must not pay for what was before it.
    #[inline]
    pub(super) fn next_step(&self, now: Instant) -> Instant {
        match self.by_delay {
            Pressure::None => Instant::NEVER,
            _ => self.calm_since.unwrap_or(now).plus_ns(STEP_NS),
        }
    }

    /// A turn has this queue delay, and perhaps another reason for Retry. The pressure, if it has
    /// changed.
    #[inline]
    pub(super) fn judge(
        &mut self,
        now: Instant,
        delay_ns: u64,
        wants_retry: bool,
    ) -> Option<Pressure> {
        if let Some(limit_ns) = self.limit_ns
            && (delay_ns >= limit_ns || self.by_delay != Pressure::None || self.rising.is_some())
        {
            self.judge_delay(now, delay_ns, limit_ns);
        }
        let pressure =
            self.by_delay.max(if wants_retry { Pressure::Retry } else { Pressure::None });
        if pressure == self.told {
            return None;
        }
        self.told = pressure;
        Some(pressure)
    }

    #[cold]
    fn judge_delay(&mut self, now: Instant, delay_ns: u64, limit_ns: u64) {
        self.rise(now, delay_ns, limit_ns);
        if delay_ns >= limit_ns / 2 {
            self.calm_since = None;
            return;
        }
        let since = *self.calm_since.get_or_insert(now);
        if self.by_delay != Pressure::None && now.ns_since(since) >= STEP_NS {
            self.by_delay = self.by_delay.less();
            (self.calm_since, self.in_vain_since) = (Some(now), None);
        }
    }

    fn rise(&mut self, now: Instant, delay_ns: u64, limit_ns: u64) {
        let asks = self.by_delay == Pressure::Retry && delay_ns >= limit_ns;
        self.in_vain_since = if asks { self.in_vain_since.or(Some(now)) } else { None };
        let in_vain = self.in_vain_since.is_some_and(|s| now.ns_since(s) >= RETRY_IN_VAIN_NS);
        let wanted = wanted(delay_ns, limit_ns);
        let wanted = if in_vain { wanted.max(Pressure::Refuse) } else { wanted };
        if wanted <= self.by_delay {
            self.rising = None;
            return;
        }
        // The least that it led to in all that time counts.
        let (least, since) = self.rising.map_or((wanted, now), |(w, since)| (w.min(wanted), since));
        self.rising = Some((least, since));
        if in_vain || now.ns_since(since) >= STEP_NS {
            (self.by_delay, self.rising) = (least.max(self.by_delay), None);
        }
    }
}

fn wanted(delay_ns: u64, limit_ns: u64) -> Pressure {
    match delay_ns / limit_ns {
        0 => Pressure::None,
        1 => Pressure::Retry,
        2 | 3 => Pressure::Refuse,
        _ => Pressure::Shed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Pressure::{None as Low, Refuse, Retry, Shed};

    const LIMIT_MS: u64 = 250;

    struct Load {
        gauge: PressureGauge,
        ms: u64,
    }

    impl Load {
        fn new() -> Self {
            Self { gauge: PressureGauge::new(LIMIT_MS * MILLISECOND_NS), ms: 0 }
        }

        /// So many turns of a millisecond with this delay, and what they led to, each with its turn.
        fn turns(&mut self, turns: u64, delay_ms: u64) -> Vec<(u64, Pressure)> {
            let one = |n| {
                self.ms += 1;
                let now = Instant::from_nanos(self.ms * MILLISECOND_NS);
                let told = self.gauge.judge(now, delay_ms * MILLISECOND_NS, false);
                told.map(|pressure| (n, pressure))
            };
            (0..turns).filter_map(one).collect()
        }
    }

    #[test]
    fn a_delay_that_stays_leads_to_retry_and_one_that_ends_leads_back() {
        let mut load = Load::new();
        assert_eq!(load.turns(1_000, LIMIT_MS - 1), []);
        assert_eq!(load.turns(1_000, LIMIT_MS), [(100, Retry)]);
        // Neither late nor in time: it stays.
        assert_eq!(load.turns(1_000, LIMIT_MS / 2), []);
        assert_eq!(load.turns(1_000, LIMIT_MS / 2 - 1), [(100, Low)]);
    }

    #[test]
    fn one_late_burst_leads_to_nothing() {
        let mut load = Load::new();
        for _ in 0..20 {
            assert_eq!(load.turns(90, 10 * LIMIT_MS), []);
            assert_eq!(load.turns(1, 0), []);
        }
    }

    #[test]
    fn twice_the_limit_refuses_and_four_times_sheds_and_all_of_it_ends_step_by_step() {
        let mut load = Load::new();
        assert_eq!(load.turns(200, 2 * LIMIT_MS), [(100, Refuse)]);
        assert_eq!(load.turns(200, 4 * LIMIT_MS), [(100, Shed)]);
        assert_eq!(load.turns(500, 0), [(100, Refuse), (200, Retry), (300, Low)]);
        // The least of a time counts: it was at four times the limit for a moment only.
        load.turns(99, 2 * LIMIT_MS);
        assert_eq!(load.turns(50, 5 * LIMIT_MS), [(1, Refuse)]);
    }

    #[test]
    fn a_second_of_retry_in_vain_refuses() {
        let mut load = Load::new();
        assert_eq!(load.turns(1_200, LIMIT_MS), [(100, Retry), (1_101, Refuse)]);
    }

    #[test]
    fn a_worker_that_sleeps_is_woken_for_each_step_down_and_for_nothing_else() {
        let mut load = Load::new();
        load.turns(1_000, LIMIT_MS - 1);
        let at = |ms: u64| Instant::from_nanos(ms * MILLISECOND_NS);
        assert_eq!(load.gauge.next_step(at(load.ms)), Instant::NEVER);
        load.turns(200, 5 * LIMIT_MS);
        // It was late in the turn before its sleep.
        let mut steps = Vec::new();
        while load.gauge.next_step(at(load.ms)) != Instant::NEVER {
            let next = load.gauge.next_step(at(load.ms));
            assert!(next > at(load.ms), "it does not spin");
            load.ms = next.as_nanos() / MILLISECOND_NS;
            steps.push(load.gauge.judge(next, 0, false));
        }
        assert_eq!(steps, [None, Some(Refuse), Some(Retry), Some(Low)]);
    }

    #[test]
    fn other_reasons_ask_for_retry_alone_and_a_limit_of_nothing_for_nothing() {
        let now = Instant::from_nanos(SECOND_NS);
        let mut gauge = PressureGauge::new(0);
        assert_eq!(gauge.judge(now, u64::MAX, false), None);
        assert_eq!(gauge.judge(now, u64::MAX, true), Some(Retry));
        assert_eq!(gauge.judge(now, u64::MAX, true), None);
        assert_eq!((gauge.now(), gauge.judge(now, 0, false)), (Retry, Some(Low)));
    }
}
