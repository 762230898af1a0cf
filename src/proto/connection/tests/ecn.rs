//! CE marks of routers, round-trip times after long silence: what the path tells (RFC 9000 §13.4,
//! RFC 9002 §5.2).

use super::pair::*;
use super::*;

/// Transfers both ways with the default settings, probes of the MTU among them.
fn both_ways(pair: &mut Pair) {
    for _ in 0..3 {
        let stream = pair.client.streams().open(Dir::Bi).unwrap();
        pair.client.streams().send(stream, Bytes::from(vec![7; 200_000]), true).unwrap();
        pair.run_ms(2_000);
        assert_eq!(pair.client_app.data[&stream].len(), 200_000);
    }
    assert!(pair.client.stats().mtu_bytes > MIN_DATAGRAM_BYTES.into(), "probes were sent");
}

#[test]
fn marks_are_validated_on_both_sides_with_default_settings() {
    let mut pair = Pair::connected();
    both_ways(&mut pair);
    for (side, c) in [("client", &pair.client), ("server", &pair.server)] {
        assert!(c.path.ecn.is_capable(), "{side}: {:?}", c.path.ecn);
        assert_eq!(c.stats().congestion_events, 0, "{side}");
    }
}

#[test]
fn a_path_that_clears_marks_ends_them() {
    let mut pair = Pair::new();
    pair.filter = Box::new(|f| {
        f.ecn = Ecn::NotEct;
        true
    });
    pair.settle();
    both_ways(&mut pair);
    assert!(!pair.client.path.ecn.is_capable() && !pair.client.path.ecn.is_marking());
    assert!(!pair.server.path.ecn.is_capable() && !pair.server.path.ecn.is_marking());
}

#[test]
fn a_router_that_marks_is_heard_on_both_sides() {
    let mut pair = Pair::new();
    pair.settle();
    let mut n = 0;
    pair.filter = Box::new(move |f| {
        n += 1;
        if f.ecn == Ecn::Ect0 && n % 40 == 0 {
            f.ecn = Ecn::Ce;
        }
        true
    });
    both_ways(&mut pair);
    for c in [&pair.client, &pair.server] {
        assert!(c.path.ecn.is_capable(), "{:?}", c.path.ecn);
        assert!(c.stats().congestion_events > 0, "{:?}", c.stats());
        assert_eq!(c.stats().lost_packets, 0);
    }
}

#[test]
fn persistent_congestion_forgets_the_minimum_of_the_round_trip() {
    // RFC 9002 §5.2: the path becomes a longer one while nothing gets through.
    let mut pair = Pair::connected();
    let before = pair.client.path.rtt.min_ns();
    assert!(before <= 2 * DELAY_NS, "{before}");
    let stream = pair.client.streams().open(Dir::Uni).unwrap();
    pair.client.streams().send(stream, Bytes::from(vec![7; 2_000_000]), true).unwrap();
    let (start, from) = (pair.now.plus_ns(3_000_000), pair.now.plus_ns(1_500_000_000));
    pair.filter = Box::new(move |f| {
        f.due = f.due.plus_ns(if f.due >= from { 30 * DELAY_NS } else { 0 });
        f.due < start || f.due >= from
    });
    pair.run_ms(8_000);
    assert!(pair.client.stats().persistent_congestions > 0, "{:?}", pair.client.stats());
    let after = pair.client.path.rtt.min_ns();
    assert!(after > 20 * DELAY_NS, "{before} -> {after}");
}
