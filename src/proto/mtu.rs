//! How large a datagram the path carries (RFC 9000 §14.3, RFC 8899).
//!
//! Every QUIC path carries 1,200 bytes. More must be found out, because routers drop what is
//! too large and may not tell the sender. A probe is an ack-eliciting packet (PING and PADDING)
//! of the size to try, whose loss says nothing about congestion.
//!
//! 1. [`Mtu::enable`] when the handshake is confirmed, with the peer's limit.
//! 2. While there is something to send: if [`Mtu::probe`] names a size, send a probe of it
//!    and call [`Mtu::on_probe_sent`]. One is under way at a time.
//! 3. Tell its fate: [`Mtu::on_probe_acked`] raises [`Mtu::current`], [`Mtu::on_probe_lost`]
//!    tries again or lower.
//! 4. Tell about ordinary packets: [`Mtu::on_packet_acked`], [`Mtu::on_packets_lost`]. If large
//!    packets vanish while later, smaller ones pass (the path's MTU shrank: a black hole), the
//!    size falls back to what every path carries. Silence alone proves nothing: one of the
//!    packets that the probe timer sends is small ([`MIN_MTU`]), so that a path that lives can
//!    show it.
//!
//! The search tries the largest size first, since most paths carry what the interface does,
//! and halves the rest of the interval when that fails.

use crate::time::{Instant, SECOND_NS};

/// RFC 9000 §14: every path carries datagrams of this size.
pub(crate) const MIN_MTU: u16 = 1_200;

/// RFC 8899 §5.1.2, MAX_PROBES: a size that was lost this often does not pass.
const MAX_PROBES: u8 = 3;

/// RFC 8899 §5.1.1, PMTU_RAISE_TIMER: 600 s after a search, the path may have become better.
const RAISE_INTERVAL_NS: u64 = 600 * SECOND_NS;

/// After a black hole the path is given this long before larger packets are tried again. A
/// probe that is lost costs one datagram, so the first try is soon: chance may have looked like
/// a hole.
const BLACK_HOLE_INTERVAL_NS: u64 = 2 * SECOND_NS;

/// A route that flaps must not cost a stall each time: the interval doubles up to this with
/// each black hole that follows the last within [`RAISE_INTERVAL_NS`].
const BLACK_HOLE_INTERVAL_MAX_NS: u64 = 64 * SECOND_NS;

const _: () = assert!(BLACK_HOLE_INTERVAL_MAX_NS < RAISE_INTERVAL_NS, "else it never doubles");

/// The search ends when it could win less than this: 20 bytes are 1.7 % of the smallest size,
/// less than the probes cost.
const SEARCH_GRAIN_BYTES: u16 = 20;

/// This many events are a black hole, if nothing as large was acknowledged between them. An
/// event is the loss of large packets (of more than 1,200 bytes) while, of what was sent after
/// them, only smaller packets arrived. Congestion and chance lose some of a flight, and what
/// passes of it ends the count.
const BLACK_HOLE_EVENTS: u8 = 3;

/// What the search is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not allowed to probe yet.
    Disabled,
    /// Looking between `current` and `failed`.
    Searching {
        /// The size being tried.
        size: u16,
        /// How often it was lost.
        lost: u8,
        /// A probe is under way.
        in_flight: bool,
        /// The smallest size that did not pass; `max + 1` if none.
        failed: u16,
    },
    /// Found, until the time to look again.
    Settled { until: Instant },
}

/// The size of datagrams on one path.
#[repr(C)]
#[derive(Clone, Debug)]
pub(crate) struct Mtu {
    current: u16,
    max: u16,
    /// The smallest packet lost in the black-hole events: when one so large passes, there is no black
    /// hole.
    suspicious_bytes: u16,
    /// Packets of so many bytes are worth a note when they are acknowledged: the size, or the
    /// smallest of what was lost.
    notable_bytes: u16,
    /// Events towards a black hole.
    suspicions: u8,
    state: State,
    /// The largest number of a packet of full size that was acknowledged.
    full_acked: Option<u64>,
    /// How long the path is given after the next black hole.
    retry_ns: u64,
    /// When the last one was found.
    fell_at: Instant,
    /// Times that a black hole was found.
    black_holes: u64,
}

impl Mtu {
    /// Sends `initial` bytes (at least 1,200) until told more; tries up to `max`, the largest
    /// that the interface and the datapath's buffers carry.
    #[must_use]
    pub(crate) fn new(initial: u16, max: u16) -> Self {
        let current = initial.max(MIN_MTU);
        Self {
            current,
            max: max.max(current),
            state: State::Disabled,
            suspicions: 0,
            suspicious_bytes: u16::MAX,
            notable_bytes: current,
            full_acked: None,
            retry_ns: BLACK_HOLE_INTERVAL_NS,
            fell_at: Instant::EPOCH,
            black_holes: 0,
        }
    }

    /// The largest datagram to send.
    #[inline]
    #[must_use]
    pub(crate) fn current(&self) -> u16 {
        self.current
    }

    /// How often the size had to fall back because large packets vanished.
    #[must_use]
    pub(crate) fn black_holes(&self) -> u64 {
        self.black_holes
    }

    /// Starts the search. `peer_max` is the peer's max_udp_payload_size (RFC 9000 §18.2),
    /// which also bounds the size from now on.
    pub(crate) fn enable(&mut self, peer_max: u64) {
        let peer_max = u16::try_from(peer_max).unwrap_or(u16::MAX).max(MIN_MTU);
        self.max = self.max.min(peer_max);
        self.current = self.current.min(peer_max);
        self.trust();
        self.search();
    }

    /// As [`enable`](Self::enable), unless that was done.
    pub(crate) fn enable_once(&mut self, peer_max: u64) {
        if matches!(self.state, State::Disabled) {
            self.enable(peer_max);
        }
    }

    fn search(&mut self) {
        self.state = State::Searching {
            size: self.max,
            lost: 0,
            in_flight: false,
            failed: self.max.saturating_add(1),
        };
        self.settle_if_done(Instant::NEVER);
    }

    /// The size of the probe to send now, if one is due.
    #[inline]
    #[must_use]
    pub(crate) fn probe(&mut self, now: Instant) -> Option<u16> {
        match self.state {
            State::Searching { size, in_flight: false, .. } => Some(size),
            State::Settled { until } if now >= until => {
                self.search();
                if let State::Searching { size, .. } = self.state { Some(size) } else { None }
            }
            State::Disabled | State::Searching { .. } | State::Settled { .. } => None,
        }
    }

    /// The probe that [`Mtu::probe`] asked for is on its way.
    pub(crate) fn on_probe_sent(&mut self) {
        if let State::Searching { in_flight, .. } = &mut self.state {
            *in_flight = true;
        }
    }

    /// What becomes of a probe that is under way is not learnt: it took another path.
    pub(crate) fn forget_probe(&mut self) {
        if let State::Searching { in_flight, .. } = &mut self.state {
            *in_flight = false;
        }
    }

    /// A probe of `size` bytes was acknowledged; returns the new size if it grew.
    pub(crate) fn on_probe_acked(&mut self, now: Instant, size: u16) -> Option<u16> {
        // One that was declared lost may still arrive: then it passed all the same.
        let size = size.min(self.max);
        if size <= self.current {
            return None;
        }
        self.current = size;
        self.trust();
        if let State::Searching { failed, .. } = self.state {
            self.state = State::Searching {
                size: middle(size, failed),
                lost: 0,
                in_flight: false,
                failed: failed.max(size.saturating_add(1)),
            };
            self.settle_if_done(now);
        }
        Some(size)
    }

    /// A probe of `size` bytes was lost.
    pub(crate) fn on_probe_lost(&mut self, now: Instant, size: u16) {
        let State::Searching { size: tried, lost, in_flight, failed } = &mut self.state else {
            return;
        };
        if *tried != size || !*in_flight {
            return;
        }
        *in_flight = false;
        *lost += 1;
        if *lost >= MAX_PROBES {
            *failed = size;
            *lost = 0;
            *tried = middle(self.current, size);
            self.settle_if_done(now);
        }
    }

    fn settle_if_done(&mut self, now: Instant) {
        let State::Searching { failed, .. } = self.state else { return };
        let known_max = self.current >= self.max;
        if known_max || failed.saturating_sub(self.current) <= SEARCH_GRAIN_BYTES {
            // At the maximum there is nothing to look for later either.
            let until = if known_max { Instant::NEVER } else { now.plus_ns(RAISE_INTERVAL_NS) };
            self.state = State::Settled { until };
        }
    }

    /// An ordinary packet of `size` bytes was acknowledged.
    #[inline]
    pub(crate) fn on_packet_acked(&mut self, pn: u64, size: u16) {
        if size < self.notable_bytes {
            return;
        }
        if size >= self.current {
            self.full_acked = self.full_acked.max(Some(pn));
        }
        if size >= self.suspicious_bytes {
            self.trust();
        }
    }

    /// Ordinary packets were found lost at one time: the newest is `pn`, the largest has `size`
    /// bytes, and something that was sent after them was acknowledged. Returns the new size if
    /// that makes a black hole.
    pub(crate) fn on_packets_lost(&mut self, now: Instant, pn: u64, size: u16) -> Option<u16> {
        // Packets sent before an earlier fall may still be larger than what is sent now. Small ones
        // pass wherever anything does: their loss says nothing about size.
        if size <= MIN_MTU || self.current <= MIN_MTU {
            return None;
        }
        // A packet of full size that left later has arrived: it was not the size.
        if self.full_acked.is_some_and(|full| full > pn) {
            return None;
        }
        self.suspicions += 1;
        self.suspicious_bytes = self.suspicious_bytes.min(size);
        self.notable_bytes = self.current.min(self.suspicious_bytes);
        if self.suspicions < BLACK_HOLE_EVENTS {
            return None;
        }
        self.fall(now);
        Some(MIN_MTU)
    }

    /// RFC 8899 §4.3: down to what is known to pass.
    fn fall(&mut self, now: Instant) {
        self.current = MIN_MTU;
        self.trust();
        let flaps = self.black_holes > 0 && now.ns_since(self.fell_at) < RAISE_INTERVAL_NS;
        self.retry_ns =
            if flaps { self.retry_ns.saturating_mul(2) } else { BLACK_HOLE_INTERVAL_NS };
        self.retry_ns = self.retry_ns.min(BLACK_HOLE_INTERVAL_MAX_NS);
        self.fell_at = now;
        self.black_holes += 1;
        if self.state != State::Disabled {
            self.state = State::Settled { until: now.plus_ns(self.retry_ns) };
        }
    }

    /// Forgets what spoke for a black hole.
    fn trust(&mut self) {
        self.suspicions = 0;
        self.suspicious_bytes = u16::MAX;
        self.notable_bytes = self.current;
    }
}

/// Half way between what passes and what does not.
fn middle(passes: u16, fails: u16) -> u16 {
    passes + fails.saturating_sub(passes) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const T0: Instant = Instant::EPOCH;

    /// Runs a search over a path that carries `path` bytes; returns the sizes tried.
    fn search(mtu: &mut Mtu, now: Instant, path: u16) -> Vec<u16> {
        let mut tried = Vec::new();
        while let Some(size) = mtu.probe(now) {
            mtu.on_probe_sent();
            assert_eq!(mtu.probe(now), None, "two probes under way");
            tried.push(size);
            if size <= path {
                mtu.on_probe_acked(now, size);
            } else {
                mtu.on_probe_lost(now, size);
            }
            assert!(tried.len() < 100, "the search does not end");
        }
        tried
    }

    #[test]
    fn one_probe_finds_a_path_that_carries_all() {
        let mut mtu = Mtu::new(1_200, 1_472);
        assert_eq!(mtu.probe(T0), None);
        mtu.enable(65_527);
        assert_eq!(search(&mut mtu, T0, 1_472), [1_472]);
        assert_eq!(mtu.current(), 1_472);
        assert_eq!(mtu.probe(Instant::NEVER), None);
    }

    #[test]
    fn a_smaller_path_is_found_by_halving() {
        let mut mtu = Mtu::new(1_200, 1_472);
        mtu.enable(65_527);
        let tried = search(&mut mtu, T0, 1_400);
        assert_eq!(tried, [1_472, 1_472, 1_472, 1_336, 1_404, 1_404, 1_404, 1_370, 1_387]);
        assert_eq!(mtu.current(), 1_387);
    }

    #[test]
    fn the_peers_limit_holds() {
        let mut mtu = Mtu::new(1_400, 9_000);
        mtu.enable(1_300);
        assert_eq!((mtu.current(), mtu.probe(T0)), (1_300, None));
        let mut mtu = Mtu::new(1_200, 9_000);
        mtu.enable(0);
        assert_eq!((mtu.current(), mtu.probe(T0)), (1_200, None));
        let mut mtu = Mtu::new(0, 0);
        mtu.enable(u64::MAX);
        assert_eq!((mtu.current(), mtu.probe(T0)), (1_200, None));
    }

    #[test]
    fn after_a_while_it_looks_again() {
        let mut mtu = Mtu::new(1_200, 1_472);
        mtu.enable(65_527);
        search(&mut mtu, T0, 1_300);
        assert!((1_280..=1_300).contains(&mtu.current()));
        let later = T0.plus_ns(RAISE_INTERVAL_NS);
        assert_eq!(mtu.probe(Instant::from_nanos(later.as_nanos() - 1)), None);
        assert_eq!(search(&mut mtu, later, 1_472), [1_472]);
        assert_eq!(mtu.current(), 1_472);
    }

    #[test]
    fn a_late_acknowledgement_of_a_lost_probe_counts() {
        let mut mtu = Mtu::new(1_200, 1_472);
        mtu.enable(65_527);
        for _ in 0..MAX_PROBES {
            assert_eq!(mtu.probe(T0), Some(1_472));
            mtu.on_probe_sent();
            mtu.on_probe_lost(T0, 1_472);
        }
        assert_eq!(mtu.on_probe_acked(T0, 1_472), Some(1_472));
        assert_eq!((mtu.current(), mtu.probe(T0)), (1_472, None));
    }

    /// A path of 1,472 bytes, found.
    fn found() -> Mtu {
        let mut mtu = Mtu::new(1_200, 1_472);
        mtu.enable(65_527);
        search(&mut mtu, T0, 1_472);
        assert_eq!(mtu.current(), 1_472);
        mtu
    }

    /// Large packets are lost and small ones pass until the size falls.
    fn fall(mtu: &mut Mtu, now: Instant) {
        for pn in 0..u64::from(BLACK_HOLE_EVENTS) {
            mtu.on_packet_acked(pn, 1_200);
            let fell = pn + 1 == u64::from(BLACK_HOLE_EVENTS);
            assert_eq!(mtu.on_packets_lost(now, pn, 1_472), fell.then_some(1_200));
        }
    }

    #[test]
    fn a_black_hole_falls_back_and_is_probed_later() {
        let mut mtu = found();
        // Congestion: some of each flight passes.
        for pn in 0..10 {
            assert_eq!(mtu.on_packets_lost(T0, pn, 1_472), None);
            mtu.on_packet_acked(pn, 1_472);
        }
        // Packets that are not quite full count as well.
        for pn in 10..20 {
            assert_eq!(mtu.on_packets_lost(T0, pn, 1_460), None);
            mtu.on_packet_acked(pn, 1_465);
        }
        // Small packets that pass prove nothing; neither do small ones that are lost.
        assert_eq!(mtu.on_packets_lost(T0, 20, 1_471), None);
        mtu.on_packet_acked(21, 1_470);
        assert_eq!(mtu.on_packets_lost(T0, 22, 1_200), None);
        assert_eq!(mtu.on_packets_lost(T0, 23, 1_472), None);
        assert_eq!(mtu.on_packets_lost(T0, 24, 1_472), Some(1_200));
        assert_eq!((mtu.current(), mtu.black_holes(), mtu.probe(T0)), (1_200, 1, None));
        // 1,200 bytes always pass: there is no hole below.
        for pn in 0..10 {
            assert_eq!(mtu.on_packets_lost(T0, pn, 1_472), None);
        }
        let later = T0.plus_ns(BLACK_HOLE_INTERVAL_NS);
        search(&mut mtu, later, 1_472);
        assert_eq!(mtu.current(), 1_472);
    }

    #[test]
    fn losses_before_a_full_packet_that_arrived_are_no_black_hole() {
        let mut mtu = found();
        mtu.on_packet_acked(100, 1_472);
        for pn in 0..100 {
            assert_eq!(mtu.on_packets_lost(T0, pn, 1_472), None);
        }
        assert_eq!(mtu.current(), 1_472);
    }

    #[test]
    fn a_flapping_route_is_tried_less_and_less_often() {
        let mut mtu = found();
        let (mut now, mut waits) = (T0, Vec::new());
        for _ in 0..8 {
            fall(&mut mtu, now);
            let mut wait_ns = 0;
            while mtu.probe(now.plus_ns(wait_ns)).is_none() {
                wait_ns += SECOND_NS;
            }
            waits.push(wait_ns / SECOND_NS);
            now = now.plus_ns(wait_ns);
            search(&mut mtu, now, 1_472);
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 64, 64]);
        // One that held for long is forgiven.
        fall(&mut mtu, now.plus_ns(RAISE_INTERVAL_NS));
        assert!(mtu.probe(now.plus_ns(RAISE_INTERVAL_NS + BLACK_HOLE_INTERVAL_NS)).is_some());
    }

    proptest! {
        #[test]
        fn every_search_ends_close_below_the_path(max in 1_200..=u16::MAX, path in 1_200..=u16::MAX) {
            let mut mtu = Mtu::new(1_200, max);
            mtu.enable(u64::MAX);
            search(&mut mtu, T0, path);
            let best = path.min(max);
            prop_assert!(mtu.current() <= best);
            prop_assert!(best - mtu.current() <= SEARCH_GRAIN_BYTES);
        }

        #[test]
        fn any_sequence_of_events_keeps_it_in_range(
            events in prop::collection::vec((0..6u8, any::<u16>()), 0..200), max: u16
        ) {
            let mut mtu = Mtu::new(1_200, max);
            for (event, size) in events {
                match event {
                    0 => mtu.enable(u64::from(size)),
                    1 => if mtu.probe(Instant::NEVER).is_some() { mtu.on_probe_sent() },
                    2 => drop(mtu.on_probe_acked(T0, size)),
                    3 => mtu.on_probe_lost(T0, size),
                    4 => mtu.on_packet_acked(u64::from(size), size),
                    _ => drop(mtu.on_packets_lost(T0, u64::from(size), size)),
                }
                prop_assert!((1_200..=max.max(1_200)).contains(&mtu.current()));
                if let Some(size) = mtu.probe(T0) {
                    prop_assert!(size > mtu.current() && size <= max);
                }
            }
        }
    }
}
