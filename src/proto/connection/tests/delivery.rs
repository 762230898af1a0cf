//! What a controller is told that models the path: delivery rates, bytes in flight, the end of ACK
//! frames; and the rate at which it lets packets leave.

use super::pair::*;
use super::*;
use crate::proto::congestion::{AnyController, RateProbe};
use crate::time::{MILLISECOND_NS, SECOND_NS};

/// 10 Mbit/s.
const LINK_BYTES_PER_SECOND: u64 = 1_250_000;
/// 50 round trips' worth: the link is never idle.
const WINDOW_BYTES: u64 = 100_000;

/// A pair whose server has a [`RateProbe`].
fn pair_with(pacing_rate: Option<u64>) -> Pair {
    let mut pair = Pair::connected();
    let probe = RateProbe::new(WINDOW_BYTES, pacing_rate);
    pair.server.path.congestion = AnyController::Probe(Box::new(probe));
    // It learns that the application has nothing to send.
    pair.run_ms(1);
    pair
}

fn probe(pair: &Pair) -> &RateProbe {
    let AnyController::Probe(probe) = &pair.server.path.congestion else { panic!("set above") };
    probe
}

/// The link to the client carries one datagram after the other.
fn slow_link(pair: &mut Pair) {
    let mut free_at = Instant::EPOCH;
    pair.filter = Box::new(move |f| {
        if f.to == Side::Client {
            let sent_at = Instant::from_nanos(f.due.as_nanos() - DELAY_NS);
            let takes_ns = f.bytes.len() as u64 * SECOND_NS / LINK_BYTES_PER_SECOND;
            free_at = free_at.max(sent_at).plus_ns(takes_ns);
            f.due = free_at.plus_ns(DELAY_NS);
        }
        true
    });
}

fn download(pair: &mut Pair, bytes: usize) -> u64 {
    let stream = pair.server.streams().open(Dir::Uni).unwrap();
    pair.server.streams().send(stream, Bytes::from(vec![7; bytes]), true).unwrap();
    let begin = pair.now;
    let limit = begin.plus_ns(60 * SECOND_NS);
    while !pair.client_app.fins.contains(&stream) {
        assert!(pair.step(limit), "{:?}", pair.server.stats());
    }
    pair.now.ns_since(begin)
}

#[test]
fn delivery_samples_tell_the_rate_of_the_link() {
    let mut pair = pair_with(None);
    slow_link(&mut pair);
    download(&mut pair, 900_000);
    let samples = &probe(&pair).samples;
    // The first window finds an empty link.
    let steady = &samples[samples.len() / 2..];
    assert!(steady.len() > 100, "{}", steady.len());
    for s in steady {
        let off = s.bytes_per_second().abs_diff(LINK_BYTES_PER_SECOND);
        assert!(off < LINK_BYTES_PER_SECOND / 50, "{s:?}: {}", s.bytes_per_second());
        assert!(!s.app_limited, "{s:?}");
    }
}

#[test]
fn samples_of_an_application_that_sends_little_are_marked() {
    let mut pair = pair_with(None);
    slow_link(&mut pair);
    for _ in 0..20 {
        download(&mut pair, 10_000);
        pair.run_ms(50);
    }
    let samples = &probe(&pair).samples;
    assert!(samples.len() > 50, "{}", samples.len());
    assert!(samples.iter().all(|s| s.app_limited), "{samples:?}");
}

#[test]
fn bytes_in_flight_are_told_with_packets_and_ack_frames() {
    let mut pair = pair_with(None);
    slow_link(&mut pair);
    download(&mut pair, 500_000);
    pair.settle();
    let [sent, acked] = probe(&pair).most_in_flight;
    let packet = 1_500;
    // A packet finds what was in flight before it, and an ACK frame leaves what it did not name.
    assert!((WINDOW_BYTES - 2 * packet..=WINDOW_BYTES).contains(&sent), "{sent}");
    assert!((WINDOW_BYTES - 4 * packet..WINDOW_BYTES).contains(&acked), "{acked}");
    assert_eq!(probe(&pair).fewest_in_flight, 0);
}

#[test]
fn a_pacing_rate_replaces_window_and_round_trip() {
    // The window and a round trip of 2 ms would allow 62 MB/s.
    let rate = 500_000;
    let mut pair = pair_with(Some(rate));
    let took_ns = download(&mut pair, 900_000);
    let expected_ns = 900_000 * SECOND_NS / rate;
    let slack_ns = expected_ns / 20;
    assert!(took_ns.abs_diff(expected_ns) < slack_ns, "{} ms", took_ns / MILLISECOND_NS);
}
