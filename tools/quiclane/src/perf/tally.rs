//! What the connections of a run have done.
//!
//! Each worker of the client has a [`Tally`], which only its thread writes: a load, an addition and a
//! store. The main thread reads the numbers while they change; each number that it reads is one that
//! the worker had.

use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The longest time of a histogram; longer ones count as this.
const MAX_LATENCY_NS: u64 = 600_000_000_000;

/// Nanoseconds, with three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    #[expect(clippy::unwrap_used, reason = "the bounds are constants that are valid")]
    Histogram::new_with_bounds(1, MAX_LATENCY_NS, 3).unwrap()
}

/// The measured time, in nanoseconds of the library's clock. Set once it is known.
#[derive(Debug)]
pub(crate) struct Window {
    begin: AtomicU64,
    end: AtomicU64,
    /// Requests that are still open are given up.
    closing: AtomicBool,
}

impl Default for Window {
    fn default() -> Self {
        let (begin, end) = (AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX));
        Self { begin, end, closing: AtomicBool::new(false) }
    }
}

impl Window {
    pub(crate) fn set(&self, begin: u64, end: u64) {
        self.begin.store(begin, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
    }

    /// It ends now, if it has not ended.
    pub(crate) fn cut(&self, now: u64) {
        self.begin.fetch_min(now, Ordering::Relaxed);
        self.end.fetch_min(now, Ordering::Relaxed);
    }

    pub(crate) fn begin(&self) -> u64 {
        self.begin.load(Ordering::Relaxed)
    }

    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    pub(crate) fn holds(&self, at: u64) -> bool {
        self.begin() <= at && at < self.end()
    }

    /// No new requests.
    pub(crate) fn is_over(&self, now: u64) -> bool {
        now >= self.end()
    }

    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }
}

/// Latencies of requests that were sent in the measured time.
#[derive(Debug)]
pub(crate) struct Latencies {
    pub(crate) all: Histogram<u64>,
    /// Since the last line on standard error, warm-up included.
    pub(crate) recent: Histogram<u64>,
}

macro_rules! tally {
    ($( $(#[$about:meta])* $field:ident, )*) => {
        /// What one worker's connections have done.
        #[derive(Debug)]
        pub(crate) struct Tally {
            $( $(#[$about])* $field: AtomicU64, )*
            /// The most requests out at one time on one connection.
            out_most: AtomicU64,
            /// When something arrived last, or when the first request left after a time without any.
            waiting_since: AtomicU64,
            /// The longest part of the measured time in which requests were open and nothing
            /// arrived.
            longest_silence: AtomicU64,
            latencies: Mutex<Latencies>,
        }

        /// Sums over all workers, at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(crate) struct Totals {
            $( $(#[$about])* pub(crate) $field: u64, )*
        }

        impl Default for Tally {
            fn default() -> Self {
                let latencies = Latencies { all: histogram(), recent: histogram() };
                Self {
                    $( $field: AtomicU64::new(0), )*
                    out_most: AtomicU64::new(0),
                    waiting_since: AtomicU64::new(0),
                    longest_silence: AtomicU64::new(0),
                    latencies: Mutex::new(latencies),
                }
            }
        }

        impl Totals {
            pub(crate) fn of(tallies: &[Tally]) -> Self {
                let mut totals = Self::default();
                for tally in tallies {
                    $( totals.$field += tally.$field.load(Ordering::Relaxed); )*
                }
                totals
            }
        }
    };
}

tally! {
    /// Bytes of streams that arrived, or of uploads that were acknowledged.
    bytes,
    /// Those of the measured time.
    bytes_measured,
    /// Requests answered, or handshakes complete.
    answers,
    /// Those of the measured time, whenever they were sent.
    answers_measured,
    /// Requests of the measured time: sent, or with --rate due.
    asked,
    /// Of those, how many have been answered.
    settled,
    /// Of those, how many the server has reset.
    refused,
    /// Open requests.
    out,
    /// Connections whose handshake is complete and that are not closed.
    live,
    /// Connections that ended without a close from this side.
    ended_early,
    /// Packets that closed connections declared lost.
    lost_packets,
    /// Bytes of them.
    lost_bytes,
    /// Probe timeouts of closed connections.
    ptos,
    /// Times that closed connections reduced their windows.
    congestion_events,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

fn subtract(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).saturating_sub(n), Ordering::Relaxed);
}

fn raise(counter: &AtomicU64, n: u64) {
    if n > counter.load(Ordering::Relaxed) {
        counter.store(n, Ordering::Relaxed);
    }
}

impl Tally {
    fn latencies(&self) -> MutexGuard<'_, Latencies> {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves what was recorded to where the main thread sums up.
    pub(crate) fn collect(&self, into: &mut Latencies) {
        let mut own = self.latencies();
        // Same bounds, so that they always fit.
        let _ = into.all.add(&own.all);
        let _ = into.recent.add(&own.recent);
        own.recent.reset();
        own.all.reset();
    }

    pub(crate) fn connected(&self) {
        add(&self.live, 1);
    }

    /// Counts a request, whether or not it leaves now.
    pub(crate) fn asked(&self, window: &Window, intended: u64) {
        if window.holds(intended) {
            add(&self.asked, 1);
        }
    }

    /// A request has left; `on_connection` requests are open on its connection.
    pub(crate) fn left(&self, now: u64, on_connection: usize) {
        if self.out.load(Ordering::Relaxed) == 0 {
            self.waiting_since.store(now, Ordering::Relaxed);
        }
        add(&self.out, 1);
        raise(&self.out_most, on_connection as u64);
    }

    /// Something arrived from the server.
    pub(crate) fn heard(&self, window: &Window, now: u64, bytes: u64) {
        add(&self.bytes, bytes);
        if window.holds(now) {
            add(&self.bytes_measured, bytes);
        }
        let silence = self.silence(window, now);
        raise(&self.longest_silence, silence);
        self.waiting_since.store(now, Ordering::Relaxed);
    }

    /// How long nothing has arrived while requests were open: the part since measuring began.
    pub(crate) fn silence(&self, window: &Window, now: u64) -> u64 {
        if self.out.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        now.saturating_sub(self.waiting_since.load(Ordering::Relaxed).max(window.begin()))
    }

    /// A request with the send time `intended` is answered.
    pub(crate) fn answered(&self, window: &Window, now: u64, intended: u64) {
        subtract(&self.out, 1);
        add(&self.answers, 1);
        if window.holds(now) {
            add(&self.answers_measured, 1);
        }
        let counts = window.holds(intended);
        if counts {
            add(&self.settled, 1);
        }
        self.record(counts, now.saturating_sub(intended));
    }

    fn record(&self, counts: bool, ns: u64) {
        let mut latencies = self.latencies();
        latencies.recent.saturating_record(ns);
        if counts {
            latencies.all.saturating_record(ns);
        }
    }

    /// The server reset a request.
    pub(crate) fn refused(&self, window: &Window, intended: u64) {
        subtract(&self.out, 1);
        if window.holds(intended) {
            add(&self.refused, 1);
        }
    }

    /// A request is given up. The time so far counts as its latency: percentiles without it would
    /// look better than the truth.
    pub(crate) fn abandoned(&self, window: &Window, now: u64, intended: u64, was_out: bool) {
        if was_out {
            subtract(&self.out, 1);
        }
        if window.holds(intended) {
            self.record(true, now.saturating_sub(intended));
        }
    }

    pub(crate) fn closed(&self, was_connected: bool, stats: &quiclane::ConnectionStats) {
        if was_connected {
            subtract(&self.live, 1);
        }
        add(&self.lost_packets, stats.lost_packets);
        add(&self.lost_bytes, stats.lost_bytes);
        add(&self.ptos, stats.ptos);
        add(&self.congestion_events, stats.congestion_events);
    }

    /// A connection ended by itself. Returns how many did.
    pub(crate) fn ended_early(&self) -> u64 {
        add(&self.ended_early, 1);
        self.ended_early.load(Ordering::Relaxed)
    }
}

/// The longest silence of any worker until `now`, and the worker.
pub(crate) fn longest_silence(tallies: &[Tally], window: &Window, now: u64) -> (u64, usize) {
    let one = |t: &Tally| t.longest_silence.load(Ordering::Relaxed).max(t.silence(window, now));
    let all = tallies.iter().enumerate().map(|(worker, tally)| (one(tally), worker));
    all.max_by_key(|&(silence, _)| silence).unwrap_or_default()
}

/// The most requests that any connection had open at one time.
pub(crate) fn out_most(tallies: &[Tally]) -> u64 {
    tallies.iter().map(|t| t.out_most.load(Ordering::Relaxed)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(begin: u64, end: u64) -> Window {
        let window = Window::default();
        window.set(begin, end);
        window
    }

    #[test]
    fn silence_counts_while_requests_are_out_and_only_in_the_measured_time() {
        let (window, tally) = (window(1_000, 9_000), Tally::default());
        tally.left(100, 1);
        tally.heard(&window, 1_200, 10);
        assert_eq!(longest_silence(std::slice::from_ref(&tally), &window, 1_200), (200, 0));
        tally.answered(&window, 1_200, 100);
        // No request is open for a long time: that is no silence of the server.
        assert_eq!(tally.silence(&window, 5_000), 0);
        tally.left(5_000, 1);
        assert_eq!(longest_silence(std::slice::from_ref(&tally), &window, 8_000), (3_000, 0));
    }

    #[test]
    fn what_many_workers_have_done_adds_up_and_their_clocks_do_not() {
        // The clock counts nanoseconds since 1970; those of eleven workers are beyond 64 bits.
        let year_2026 = 1_790_000_000_000_000_000;
        let window = window(year_2026, year_2026 + 1_000);
        let tallies: Vec<Tally> = (0..64).map(|_| Tally::default()).collect();
        for tally in &tallies {
            tally.left(year_2026 + 5, 2);
        }
        assert_eq!(Totals::of(&tallies).out, 64);
        assert_eq!(longest_silence(&tallies, &window, year_2026 + 30), (25, 63));
        assert_eq!(out_most(&tallies), 2);
    }

    #[test]
    fn a_request_counts_by_when_it_was_meant_to_leave() {
        let (window, tally) = (window(1_000, 2_000), Tally::default());
        for intended in [900, 1_500, 2_100] {
            tally.asked(&window, intended);
            tally.left(intended, 1);
            tally.heard(&window, 1_900, 5);
            tally.answered(&window, 1_900, intended);
        }
        let totals = Totals::of(std::slice::from_ref(&tally));
        assert_eq!((totals.asked, totals.settled, totals.answers_measured), (1, 1, 3));
        assert_eq!((totals.bytes, totals.bytes_measured), (15, 15));
        let mut sum = Latencies { all: histogram(), recent: histogram() };
        tally.collect(&mut sum);
        assert_eq!((sum.all.len(), sum.all.max(), sum.recent.len()), (1, 400, 3));
    }

    #[test]
    fn what_is_never_answered_is_in_the_percentiles_and_no_answer() {
        let (window, tally) = (window(0, 10_000), Tally::default());
        tally.asked(&window, 1_000);
        tally.left(1_000, 1);
        tally.abandoned(&window, 9_000, 1_000, true);
        let totals = Totals::of(std::slice::from_ref(&tally));
        assert_eq!((totals.asked, totals.settled, totals.out), (1, 0, 0));
        let mut sum = Latencies { all: histogram(), recent: histogram() };
        tally.collect(&mut sum);
        assert_eq!(sum.all.len(), 1);
        assert!(sum.all.max() >= 8_000);
    }
}
