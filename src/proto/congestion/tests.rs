//! Simulated sequences with answers worked out by hand, and random ones without panics.

use super::*;
use crate::time::{MILLISECOND_NS, SECOND_NS};
use proptest::prelude::*;

const MTU: u16 = 1_200;
const MSS: u64 = 1_200;
const MS: u64 = MILLISECOND_NS;
const ALL: [Algorithm; 3] = [Algorithm::NewReno, Algorithm::Cubic, Algorithm::StrictCubic];

fn at(ns: u64) -> Instant {
    Instant::from_nanos(ns)
}

fn rtt_of(rtt_ns: u64) -> Rtt {
    let mut rtt = Rtt::new(rtt_ns);
    rtt.update(rtt_ns, 0, Instant::EPOCH);
    rtt
}

/// A path whose queue shows in its round trips.
fn queued() -> Rtt {
    let mut rtt = rtt_of(20 * MS);
    rtt.update(40 * MS, 0, Instant::EPOCH);
    rtt
}

/// Congestion on a path whose queue shows: a packet was lost, or marked.
trait Meets: Controller {
    fn meets(&mut self, now: Instant, sent_time: Instant, persistent: bool, ecn: bool) -> bool {
        let event = Congestion { sent_time, lost_bytes: MSS, persistent, ecn };
        self.on_congestion(now, &event, &queued())
    }
}

impl<C: Controller> Meets for C {}

/// A sender that is always limited by its window, over a path with a fixed round trip: in
/// each round it sends one window, and all of it is acknowledged one round trip later.
struct Path<C: Controller> {
    controller: C,
    now_ns: u64,
    rtt_ns: u64,
    pn: u64,
}

impl<C: Controller> Path<C> {
    fn new(controller: C, rtt_ns: u64) -> Self {
        Self { controller, now_ns: SECOND_NS, rtt_ns, pn: 0 }
    }

    /// One round, its packets and acknowledgements spread evenly over the round trip.
    fn round(&mut self) {
        let packets = (self.controller.window() / MSS).max(1);
        let rtt = rtt_of(self.rtt_ns);
        for i in 0..packets {
            let sent_ns = self.now_ns + i * self.rtt_ns / packets;
            self.controller.on_sent(at(sent_ns), MSS, i * MSS);
        }
        for i in 0..packets {
            let sent_ns = self.now_ns + i * self.rtt_ns / packets;
            let (now, sent) = (at(sent_ns + self.rtt_ns), at(sent_ns));
            self.controller.on_acked(now, sent, MSS, false, &rtt);
        }
        self.pn += packets;
        self.now_ns += self.rtt_ns;
    }

    fn rounds(&mut self, count: u64) {
        (0..count).for_each(|_| self.round());
    }

    /// A packet sent just now is lost. Acknowledged rounds end one round trip later.
    fn lose(&mut self) {
        self.now_ns += self.rtt_ns;
        let now = at(self.now_ns);
        self.controller.meets(now, now, false, false);
        self.now_ns += 1;
    }
}

#[test]
fn initial_windows_of_the_rfc() {
    // RFC 9002 §7.2.
    assert_eq!(initial_window(1_200), 12_000);
    assert_eq!(initial_window(1_472), 14_720);
    assert_eq!(initial_window(1_500), 14_720);
    assert_eq!(initial_window(9_000), 18_000);
    assert_eq!(min_window(1_200), 2_400);
}

#[test]
fn slow_start_doubles_each_round() {
    for algorithm in ALL {
        let mut path = Path::new(AnyController::new(algorithm, MTU), 50 * MS);
        path.rounds(5);
        assert_eq!(path.controller.window(), 12_000 << 5, "{:?}", path.controller);
        assert_eq!(path.controller.ssthresh(), None);
    }
}

#[test]
fn new_reno_halves_and_then_adds_a_packet_each_round() {
    let mut path = Path::new(NewReno::new(MTU), 50 * MS);
    path.rounds(4);
    assert_eq!(path.controller.window(), 192_000);
    path.lose();
    assert_eq!(path.controller.window(), 96_000);
    assert_eq!(path.controller.ssthresh(), Some(96_000));
    // 80 packets a round: each round's acknowledgements are one window, within a packet.
    path.rounds(20);
    let grown = path.controller.window() - 96_000;
    assert!((19 * MSS..=20 * MSS).contains(&grown), "{grown}");
}

#[test]
fn cubic_keeps_seven_tenths() {
    let mut path = Path::new(Cubic::new(MTU), 50 * MS);
    path.rounds(4);
    path.lose();
    assert_eq!(path.controller.window(), 134_400);
    assert_eq!(path.controller.ssthresh(), Some(134_400));
}

/// Packets were lost, and no queue shows.
fn by_chance(sent_time: Instant, packets: u64) -> Congestion {
    Congestion { sent_time, lost_bytes: packets * MSS, persistent: false, ecn: false }
}

/// CUBIC with a window of 100 packets that has met congestion before.
fn cubic_at_100() -> Cubic {
    let mut cubic = Cubic::new(MTU);
    cubic.meets(at(1), at(1), false, false);
    cubic.window = 100 * MSS;
    cubic
}

#[test]
fn a_loss_without_a_queue_costs_half_of_what_was_lost() {
    let (mut cubic, flat) = (cubic_at_100(), rtt_of(20 * MS));
    assert!(cubic.on_congestion(at(20), &by_chance(at(10), 2), &flat));
    assert_eq!((cubic.window(), cubic.ssthresh()), (99 * MSS, Some(99 * MSS)));
    // More of the same flight.
    assert!(!cubic.on_congestion(at(22), &by_chance(at(15), 4), &flat));
    assert_eq!((cubic.window(), cubic.ssthresh()), (97 * MSS, Some(97 * MSS)));
    // However many: three tenths of the window before the event.
    cubic.on_congestion(at(24), &by_chance(at(20), 90), &flat);
    assert_eq!(cubic.window(), 70 * MSS);
    cubic.on_congestion(at(26), &by_chance(at(20), u64::MAX / MSS), &flat);
    assert_eq!(cubic.window(), 70 * MSS);
    // The next flight is an event of its own.
    assert!(cubic.on_congestion(at(40), &by_chance(at(30), 2), &flat));
    assert_eq!(cubic.window(), 69 * MSS);
}

#[test]
fn a_queue_or_a_mark_costs_three_tenths_at_once_and_afterwards() {
    let flat = rtt_of(20 * MS);
    let lost = by_chance(at(15), 2);
    let mark = Congestion { ecn: true, lost_bytes: 0, ..lost };
    for (event, rtt) in [(lost, queued()), (mark, flat), (mark, queued()), (lost, Rtt::default())] {
        let mut cubic = cubic_at_100();
        assert!(cubic.on_congestion(at(20), &event, &rtt));
        assert_eq!(cubic.window(), 70 * MSS);
        // An event that begins with losses by chance becomes a full one, once.
        let mut cubic = cubic_at_100();
        cubic.on_congestion(at(20), &by_chance(at(10), 2), &flat);
        for _ in 0..3 {
            assert!(!cubic.on_congestion(at(22), &event, &rtt), "the same event");
            assert_eq!((cubic.window(), cubic.ssthresh()), (70 * MSS, Some(70 * MSS)));
        }
        cubic.on_congestion(at(24), &by_chance(at(18), 2), &flat);
        assert_eq!(cubic.window(), 70 * MSS, "it is paid for");
        cubic.on_spurious();
        assert_eq!(cubic.window(), 100 * MSS);
    }
    let mut strict = Cubic::strict(MTU);
    strict.window = 100 * MSS;
    strict.on_congestion(at(20), &lost, &flat);
    assert_eq!(strict.window(), 70 * MSS);
}

#[test]
fn persistent_congestion_without_a_queue_is_what_it_is() {
    let mut cubic = cubic_at_100();
    let flat = rtt_of(20 * MS);
    cubic.on_congestion(at(20), &by_chance(at(10), 2), &flat);
    let persistent = Congestion { persistent: true, ..by_chance(at(15), 2) };
    assert!(cubic.on_congestion(at(22), &persistent, &flat));
    assert_eq!((cubic.window(), cubic.ssthresh()), (2 * MSS, Some(70 * MSS)));
    cubic.on_spurious();
    assert_eq!(cubic.window(), 2 * MSS);
}

#[test]
fn losses_by_chance_leave_a_window_of_one_over_their_rate() {
    // One packet in a hundred. RFC 9438 comes to 12 packets, 1.2 / sqrt(0.01).
    let mean = |mut cubic: Cubic| {
        let flat = rtt_of(20 * MS);
        let (mut now_ns, mut pn, mut sum) = (SECOND_NS, 0, 0);
        for round in 0..2_000 {
            let packets = cubic.window() / MSS;
            for i in 0..packets {
                let sent = at(now_ns + i * 20 * MS / packets);
                let now = sent.plus_ns(20 * MS);
                pn += 1;
                if pn % 100 == 0 {
                    cubic.on_congestion(now, &by_chance(sent, 1), &flat);
                } else {
                    cubic.on_acked(now, sent, MSS, false, &flat);
                }
            }
            now_ns += 20 * MS;
            sum += if round < 1_000 { 0 } else { packets };
        }
        sum / 1_000
    };
    let (strict, own) = (mean(Cubic::strict(MTU)), mean(Cubic::new(MTU)));
    assert!((8..=16).contains(&strict), "{strict} packets");
    assert!((50..=200).contains(&own), "{own} packets");
}

#[test]
fn losses_of_one_flight_count_once() {
    for algorithm in ALL {
        let mut controller = AnyController::new(algorithm, MTU);
        let rtt = rtt_of(50 * MS);
        controller.meets(at(100), at(10), false, false);
        let window = controller.window();
        // Sent before the event, lost or acknowledged after it: nothing changes.
        controller.meets(at(110), at(100), false, true);
        controller.on_acked(at(120), at(100), MSS, false, &rtt);
        assert_eq!(controller.window(), window);
        // Sent after it: a new event.
        controller.meets(at(200), at(101), false, false);
        assert!(controller.window() < window);
    }
}

#[test]
fn an_event_that_was_none_leaves_no_trace() {
    // RFC 9438 §4.9.2.
    for algorithm in ALL {
        let mut path = Path::new(AnyController::new(algorithm, MTU), 20 * MS);
        path.rounds(4);
        path.lose();
        path.rounds(10);
        let mut undisturbed = path.controller.clone();
        let now = at(path.now_ns);
        assert!(path.controller.meets(now, now, false, false));
        assert!(!path.controller.meets(now, now, false, false), "the same event");
        path.controller.on_spurious();
        assert_eq!(path.controller.window(), undisturbed.window());
        assert_eq!(path.controller.ssthresh(), undisturbed.ssthresh());
        path.controller.on_spurious();
        let mut path = Path { controller: path.controller, ..path };
        let mut other = Path { controller: undisturbed, ..path };
        path.rounds(30);
        other.rounds(30);
        let (a, b) = (path.controller.window(), other.controller.window());
        assert!(a.abs_diff(b) <= MSS, "{a} {b}");
        undisturbed = other.controller;
        assert!(undisturbed.meets(at(path.now_ns), at(path.now_ns), true, false));
        undisturbed.on_spurious();
        assert_eq!(undisturbed.window(), min_window(MTU), "persistent congestion stands");
    }
}

#[test]
fn ecn_counts_as_loss() {
    for algorithm in ALL {
        let mut marked = AnyController::new(algorithm, MTU);
        let mut lost = AnyController::new(algorithm, MTU);
        marked.meets(at(100), at(10), false, true);
        lost.meets(at(100), at(10), false, false);
        assert_eq!(marked.window(), lost.window());
    }
}

#[test]
fn persistent_congestion_leaves_the_minimum_and_slow_start() {
    for algorithm in ALL {
        let mut path = Path::new(AnyController::new(algorithm, MTU), 50 * MS);
        path.rounds(5);
        let before = path.controller.window();
        path.now_ns += SECOND_NS;
        let now = at(path.now_ns);
        path.controller.meets(now, now, true, false);
        assert_eq!(path.controller.window(), 2 * MSS);
        let ssthresh = path.controller.ssthresh().expect("an event");
        assert!(ssthresh < before && ssthresh >= before / 2);
        // The period of recovery is over: what was sent before the event grows the window.
        path.controller.on_acked(now, now, MSS, false, &rtt_of(50 * MS));
        assert_eq!(path.controller.window(), 3 * MSS);
        path.rounds(3);
        assert_eq!(path.controller.window(), 24 * MSS);
    }
}

#[test]
fn repeated_events_stop_at_the_minimum() {
    for algorithm in ALL {
        let mut controller = AnyController::new(algorithm, MTU);
        for i in 1..100 {
            controller.meets(at(10 * i), at(10 * i), false, false);
        }
        assert_eq!(controller.window(), min_window(MTU));
    }
}

#[test]
fn an_application_limited_sender_does_not_grow() {
    for algorithm in ALL {
        let mut controller = AnyController::new(algorithm, MTU);
        let rtt = rtt_of(50 * MS);
        for phase in 0..2u64 {
            let window = controller.window();
            for i in 1..1_000 {
                let sent = at(phase * 20_000 * MS + i * MS);
                controller.on_acked(sent.plus_ns(50 * MS), sent, MSS, true, &rtt);
            }
            assert_eq!(controller.window(), window, "{controller:?}");
            let now = at(15_000 * MS);
            controller.meets(now, now, false, false);
        }
    }
}

#[test]
fn a_larger_mtu_moves_the_untouched_window_only() {
    for algorithm in ALL {
        let mut controller = AnyController::new(algorithm, MTU);
        controller.on_mtu(1_452);
        assert_eq!(controller.window(), initial_window(1_452));
        controller.meets(at(100), at(10), true, false);
        controller.on_mtu(9_000);
        assert_eq!(controller.window(), 18_000);
    }
}

/// W_cubic of RFC 9438 §4.2 in packets, `t` seconds after an event at `w_max` packets.
fn w_cubic(w_max: f64, t: f64) -> f64 {
    let k = (w_max * 0.3 / 0.4).cbrt();
    0.4 * (t - k).powi(3) + w_max
}

/// W_max of [`cubic_after_event`], in packets.
const W_MAX: u64 = 2_000;

/// A path past slow start, with a window and a round trip where the curve leads, at an event.
fn cubic_after_event() -> Path<Cubic> {
    let mut path = Path::new(Cubic::new(MTU), 200 * MS);
    path.controller.window = W_MAX * MSS;
    path.lose();
    assert_eq!(path.controller.window(), 1_400 * MSS);
    path
}

#[test]
fn cubic_follows_its_curve() {
    let mut path = cubic_after_event();
    let start_ns = path.now_ns;
    // K is the cube root of 1,500: 11.4 s. Follow it up, through the flat part, and beyond.
    for _ in 0..100 {
        path.round();
        let t = (path.now_ns - start_ns) as f64 / SECOND_NS as f64;
        let got = path.controller.window() as f64 / MSS as f64;
        // Within a step of the curve, once the first steps have found it; without its look
        // ahead of one round trip it would be 31 packets behind at first, 7 after 6 s.
        let slack = match t {
            t if t < 3.0 => 12.0,
            t if t < 7.0 => 4.0,
            _ => 2.0,
        };
        let curve = w_cubic(W_MAX as f64, t);
        assert!((got - curve).abs() < slack, "{t:.1} s: {got:.1} against {curve:.1}");
    }
}

#[test]
fn cubic_is_flat_at_w_max() {
    let mut path = cubic_after_event();
    let at_seconds = |path: &mut Path<Cubic>, seconds: u64| {
        let rounds = (seconds * SECOND_NS).saturating_sub(path.now_ns) / path.rtt_ns;
        path.rounds(rounds);
        path.controller.window() / MSS
    };
    // The event was at 1.2 s, so that the middle is at 12.6 s.
    let (before, middle, after) =
        (at_seconds(&mut path, 9), at_seconds(&mut path, 13), at_seconds(&mut path, 17));
    assert!((1_995..=2_001).contains(&middle), "{middle}");
    assert!((10..30).contains(&(middle - before)), "{before} {middle}");
    assert!((20..45).contains(&(after - middle)), "{middle} {after}");
    assert!(at_seconds(&mut path, 30) > 3_900);
}

#[test]
fn cubic_is_as_fast_as_reno_where_its_curve_is_slower() {
    // RFC 9438 §4.3. 5 ms and 100 packets: the curve needs 4.2 s back to 100 packets, Reno's
    // ALPHA of 9/17 packets per round 57 rounds, 0.28 s.
    let mut path = Path::new(Cubic::new(MTU), 5 * MS);
    path.controller.window = 100 * MSS;
    path.lose();
    path.rounds(2);
    let start = path.controller.window() as f64 / MSS as f64;
    path.rounds(40);
    let grown = path.controller.window() as f64 / MSS as f64 - start;
    let expected = 40.0 * 9.0 / 17.0;
    assert!((grown - expected).abs() < 1.5, "{grown:.1} against {expected:.1}");
    // Past the prior window, one packet per round.
    path.rounds(40);
    let start = path.controller.window() as f64 / MSS as f64;
    assert!(start > 100.0);
    path.rounds(20);
    let grown = path.controller.window() as f64 / MSS as f64 - start;
    assert!((grown - 20.0).abs() < 1.5, "{grown:.1}");
}

#[test]
fn cubic_converges_fast_when_its_share_shrinks() {
    // RFC 9438 §4.7: a second event below the last W_max aims at 0.85 of the window.
    let mut path = cubic_after_event();
    path.rounds(3);
    let window = path.controller.window();
    assert!(window < W_MAX * MSS);
    path.lose();
    assert_eq!(path.controller.w_max as u64, (window as f64 * 0.85) as u64);
    // An event above it aims at the window itself.
    path.controller.window = 1_990 * MSS;
    path.lose();
    assert_eq!(path.controller.w_max as u64, 1_990 * MSS);
}

#[test]
fn cubic_does_not_count_time_that_the_application_idled() {
    // RFC 9438 §4.2: 10 s of idling, then the curve goes on where it was.
    let mut path = cubic_after_event();
    path.rounds(30);
    let mut busy = path.controller.clone();
    let rtt = rtt_of(path.rtt_ns);
    let idle_ns = 10 * SECOND_NS;
    path.controller.on_acked(at(path.now_ns), at(path.now_ns - MS), MSS, true, &rtt);
    path.now_ns += idle_ns;
    path.rounds(30);

    let mut steady = Path { controller: busy.clone(), now_ns: path.now_ns - idle_ns, ..path };
    steady.now_ns -= 30 * steady.rtt_ns;
    steady.rounds(30);
    busy = steady.controller;
    let (idled, steady) = (path.controller.window(), busy.window());
    assert!(idled.abs_diff(steady) < steady / 200, "{idled} {steady}");
}

#[test]
fn after_persistent_congestion_the_curve_starts_flat() {
    let mut path = cubic_after_event();
    path.now_ns += SECOND_NS;
    let now = at(path.now_ns);
    path.controller.meets(now, now, true, false);
    path.now_ns += 1;
    // Slow start from 2 packets to 980 ends in the 9th round. Then K is 0 (RFC 9438 §4.8): in
    // a second the curve rises by 0.4 packets, and Reno's share by one a round.
    path.rounds(9);
    let start = path.controller.window();
    assert!((980..=983).contains(&(start / MSS)), "{start}");
    path.rounds(5);
    let grown = (path.controller.window() - start) / MSS;
    assert!((4..=6).contains(&grown), "{grown}");
}

/// One round of a window-limited slow start in which round trips take `rtt_ns`.
fn slow_start_round(cubic: &mut Cubic, now_ns: &mut u64, rtt_ns: u64) {
    let rtt = rtt_of(rtt_ns);
    let packets = cubic.window() / MSS;
    let start = *now_ns;
    (0..packets).for_each(|i| cubic.on_sent(at(start + i * 1_000), MSS, i * MSS));
    for i in 0..packets {
        let sent_ns = start + i * 1_000;
        cubic.on_acked(at(sent_ns + rtt_ns), at(sent_ns), MSS, false, &rtt);
    }
    *now_ns = start + rtt_ns + packets * 1_000;
}

#[test]
fn hystart_leaves_slow_start_when_round_trips_grow() {
    let (mut cubic, mut now_ns) = (Cubic::new(MTU), SECOND_NS);
    (0..4).for_each(|_| slow_start_round(&mut cubic, &mut now_ns, 40 * MS));
    assert_eq!(cubic.window(), 192_000);
    // RFC 9406 §4.2: an eighth of 40 ms more, 5 ms. After eight samples growth is a quarter.
    slow_start_round(&mut cubic, &mut now_ns, 45 * MS);
    assert!(cubic.hystart.is_conservative());
    assert_eq!(cubic.window(), 192_000 + 8 * MSS + (160 - 8) * MSS / 4);
    assert_eq!(cubic.ssthresh(), None);
    // The next rounds stay as slow: five of them, and slow start is over.
    let mut rounds = 0;
    while cubic.ssthresh().is_none() {
        slow_start_round(&mut cubic, &mut now_ns, 45 * MS);
        rounds += 1;
        assert!(rounds <= 5, "still in slow start");
    }
    assert_eq!(rounds, 5);
    // Congestion avoidance starts with a flat curve, so that a loss-free exit does not jump.
    let window = cubic.window();
    assert!(cubic.ssthresh().is_some_and(|ssthresh| ssthresh <= window));
    slow_start_round(&mut cubic, &mut now_ns, 45 * MS);
    assert!(cubic.window() - window <= 2 * MSS);
}

#[test]
fn hystart_goes_on_when_it_was_noise() {
    let (mut cubic, mut now_ns) = (Cubic::new(MTU), SECOND_NS);
    (0..4).for_each(|_| slow_start_round(&mut cubic, &mut now_ns, 40 * MS));
    slow_start_round(&mut cubic, &mut now_ns, 60 * MS);
    assert!(cubic.hystart.is_conservative());
    slow_start_round(&mut cubic, &mut now_ns, 40 * MS);
    assert!(!cubic.hystart.is_conservative());
    let window = cubic.window();
    slow_start_round(&mut cubic, &mut now_ns, 40 * MS);
    assert_eq!(cubic.window(), 2 * window);
}

#[test]
fn hystart_ignores_growth_below_its_threshold() {
    // RFC 9406 §4.3: at least 4 ms, at most 16.
    for (from_ms, to_ms, leaves) in
        [(10, 13, false), (10, 14, true), (200, 215, false), (200, 216, true)]
    {
        let (mut cubic, mut now_ns) = (Cubic::new(MTU), SECOND_NS);
        (0..3).for_each(|_| slow_start_round(&mut cubic, &mut now_ns, from_ms * MS));
        slow_start_round(&mut cubic, &mut now_ns, to_ms * MS);
        assert_eq!(cubic.hystart.is_conservative(), leaves, "{from_ms} to {to_ms} ms");
    }
}

#[test]
fn hystart_is_for_the_first_slow_start_only() {
    let mut path = Path::new(Cubic::new(MTU), 40 * MS);
    path.rounds(4);
    path.now_ns += SECOND_NS;
    let now = at(path.now_ns);
    path.controller.meets(now, now, true, false);
    path.now_ns += 1;
    let mut now_ns = path.now_ns;
    slow_start_round(&mut path.controller, &mut now_ns, 40 * MS);
    let window = path.controller.window();
    slow_start_round(&mut path.controller, &mut now_ns, 400 * MS);
    assert_eq!(path.controller.window(), 2 * window);
}

#[derive(Clone, Debug)]
enum Event {
    Sent(u64, u64),
    Acked(u64, u64, u64, bool, u64),
    Congestion(u64, u64, bool, bool),
    Chance(u64, u64, u64, u64),
    Spurious,
    Mtu(u16),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        1 => (any::<u64>(), any::<u64>()).prop_map(|(now, bytes)| Event::Sent(now, bytes)),
        6 => (any::<u64>(), any::<u64>(), any::<u64>(), any::<bool>(), any::<u64>())
            .prop_map(|(now, sent, bytes, app, rtt)| Event::Acked(now, sent, bytes, app, rtt)),
        4 => (0..1_000_000u64, 0..1_000_000u64, 0..5_000u64, any::<bool>(), 0..100_000_000u64)
            .prop_map(|(now, sent, bytes, app, rtt)| Event::Acked(now, sent, bytes, app, rtt)),
        2 => (any::<u64>(), any::<u64>(), any::<bool>(), any::<bool>())
            .prop_map(|(now, sent, p, ecn)| Event::Congestion(now, sent, p, ecn)),
        2 => (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>())
            .prop_map(|(now, sent, bytes, rtt)| Event::Chance(now, sent, bytes, rtt)),
        1 => Just(Event::Spurious),
        1 => (1_200..u16::MAX).prop_map(Event::Mtu),
    ];
    prop::collection::vec(event, 0..200)
}

proptest! {
    #[test]
    fn no_input_panics_or_leaves_the_range(events in events(), cubic: bool) {
        let algorithm = if cubic { Algorithm::Cubic } else { Algorithm::NewReno };
        let mut controller = AnyController::new(algorithm, MTU);
        let mut mtu = MTU;
        for event in events {
            let before = controller.window();
            match event {
                Event::Sent(now, bytes) => controller.on_sent(at(now), bytes, 0),
                Event::Acked(now, sent, bytes, app_limited, rtt_ns) => {
                    let rtt = rtt_of(rtt_ns);
                    controller.on_acked(at(now), at(sent), bytes, app_limited, &rtt);
                    prop_assert!(controller.window() >= before);
                    prop_assert!(!app_limited || controller.window() == before);
                }
                Event::Congestion(now, sent, persistent, ecn) => {
                    controller.meets(at(now), at(sent), persistent, ecn);
                    prop_assert!(controller.window() <= before);
                }
                Event::Chance(now, sent, lost_bytes, rtt_ns) => {
                    let event = Congestion { lost_bytes, ..by_chance(at(sent), 0) };
                    controller.on_congestion(at(now), &event, &rtt_of(rtt_ns));
                    prop_assert!(controller.window() <= before);
                }
                Event::Spurious => {
                    controller.on_spurious();
                    prop_assert!(controller.window() >= before);
                }
                Event::Mtu(to) => {
                    controller.on_mtu(to);
                    mtu = to;
                }
            }
            prop_assert!(controller.window() >= min_window(mtu).min(before));
            prop_assert!(controller.window() <= WINDOW_MAX_BYTES);
        }
    }
}

/// What an acknowledged packet costs in the steady state. Prints, asserts nothing about time:
///
/// ```text
/// cargo test --release --lib congestion::tests::costs -- --nocapture
/// ```
#[test]
fn costs() {
    let packets: u64 = if cfg!(debug_assertions) { 1_000 } else { 1_000_000 };
    for algorithm in ALL {
        for window_packets in [20, 1_000] {
            let mut controller = AnyController::new(algorithm, MTU);
            let rtt = rtt_of(10 * MS);
            controller.meets(at(1), at(1), false, false);
            while controller.window() < window_packets * MSS {
                controller.on_acked(at(2), at(2), MSS, false, &rtt);
            }
            let mut best = f64::INFINITY;
            for _ in 0..5 {
                #[expect(clippy::disallowed_methods, reason = "this measures, and decides nothing")]
                let start = std::time::Instant::now();
                for i in 0..packets {
                    let now = at(SECOND_NS + i * 1_000);
                    controller.on_sent(now, MSS, 0);
                    controller.on_acked(now, now, MSS, false, &rtt);
                    std::hint::black_box(controller.window());
                }
                best = best.min(start.elapsed().as_nanos() as f64 / packets as f64);
            }
            let name = format!("{algorithm:?}");
            println!("{name:<11} from {window_packets:>5} packets: {best:.2} ns per packet");
        }
    }
}
