//! How fast data flows over paths that lose some of it, and to peers with habits of their own.

use super::pair::*;
use super::*;
use crate::proto::congestion::Algorithm;
use crate::proto::mtu::Mtu;
use crate::proto::patience::Patience;
use crate::time::MILLISECOND_NS;
use crate::wire::packet;

/// Drops so many of 1,024 datagrams to the client, the same ones each time.
fn lossy(of_1024: u32) -> Box<dyn FnMut(&mut Flight) -> bool> {
    let mut state = 12_345u32;
    Box::new(move |f| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f.to == Side::Server || state >> 16 & 0x3ff >= of_1024
    })
}

/// Sends 6 MB from the server to a client that acknowledges every so many packets, over a path
/// that loses 3%; returns the milliseconds that it took. Not `helped`, the server learns
/// nothing of the client's patience.
fn download_ms(ack_threshold: u32, helped: bool, congestion: Algorithm) -> u64 {
    const BYTES: usize = 6_000_000;
    let client = TransportConfig { ack_threshold, ..TransportConfig::default() };
    let server = TransportConfig { congestion, ..TransportConfig::default() };
    let mut pair = Pair::with(client, server);
    pair.settle();
    let stream = pair.server.streams().open(Dir::Uni).unwrap();
    pair.filter = lossy(30);
    let begin = pair.now;
    pair.server.streams().send(stream, Bytes::from(vec![7; BYTES]), true).unwrap();
    let limit = pair.now.plus_ns(100_000 * MILLISECOND_NS);
    while pair.client_app.fins.is_empty() && pair.step(limit) {
        if !helped {
            pair.server.path.patience = Patience::default();
        }
    }
    assert_eq!(pair.client_app.data[&stream].len(), BYTES);
    assert!(pair.server.stats().congestion_events > 10);
    pair.now.ns_since(begin) / MILLISECOND_NS
}

#[test]
fn a_peer_that_acknowledges_every_tenth_packet_is_served_nearly_as_fast() {
    // Less than ten packets are what 3% of loss leaves of a window: without help, most flights
    // wait for the peer's 25 ms.
    let [every_second, helped, unhelped] = [(2, true), (10, true), (10, false)]
        .map(|(n, h)| download_ms(n, h, Algorithm::StrictCubic));
    eprintln!("every second: {every_second} ms; every tenth: {helped} ms, unhelped {unhelped} ms");
    assert!(helped < 3 * every_second, "{helped} ms against {every_second} ms");
    assert!(3 * helped < 2 * unhelped, "{helped} ms against {unhelped} ms");
}

#[test]
fn losses_without_a_queue_cost_less_than_those_with_one() {
    let [own, strict] = [Algorithm::Cubic, Algorithm::StrictCubic].map(|a| download_ms(2, true, a));
    eprintln!("{own} ms; strict: {strict} ms");
    assert!(2 * own < strict, "{own} ms against {strict} ms");
}

#[test]
fn a_bulk_transfer_finds_the_size_that_the_path_carries() {
    let mut pair = Pair::new();
    pair.settle();
    let max = TransportConfig::default().max_mtu_bytes;
    // What was found in the idle time after the handshake shall not count.
    pair.server.path.mtu = Mtu::new(MIN_DATAGRAM_BYTES, max);
    pair.server.path.mtu.enable(u64::from(max));
    let stream = pair.server.streams().open(Dir::Uni).unwrap();
    pair.server.streams().send(stream, Bytes::from(vec![7; 1_000_000]), true).unwrap();
    pair.run_ms(10);
    assert!(pair.client_app.fins.is_empty(), "the transfer lasts longer");
    assert_eq!(pair.server.stats().mtu_bytes, u64::from(max));
}

/// A pair whose server has found the largest size, and that size.
fn pair_at_full_size() -> (Pair, u64) {
    let mut pair = Pair::new();
    pair.settle();
    let max = u64::from(TransportConfig::default().max_mtu_bytes);
    assert_eq!(pair.server.stats().mtu_bytes, max);
    (pair, max)
}

/// The server begins to send so many bytes.
fn start_download(pair: &mut Pair, bytes: usize) -> StreamId {
    let stream = pair.server.streams().open(Dir::Uni).unwrap();
    pair.server.streams().send(stream, Bytes::from(vec![7; bytes]), true).unwrap();
    stream
}

#[test]
fn a_blackout_is_no_black_hole() {
    for size in [100, 5_000, 3_000_000] {
        let (mut pair, max) = pair_at_full_size();
        // Nothing arrives for a while: the probe timer runs out again and again.
        let stream = start_download(&mut pair, size);
        pair.run_ms(0);
        pair.filter = Box::new(|_| false);
        pair.run_ms(2_000);
        assert!(pair.server.stats().ptos >= 3, "{:?}", pair.server.stats());
        pair.filter = Box::new(|_| true);
        pair.run_ms(8_000);
        assert!(pair.client_app.fins.contains(&stream));
        assert_eq!((pair.server.stats().mtu_bytes, pair.server.stats().mtu_black_holes), (max, 0));
    }
}

#[test]
fn random_loss_is_no_black_hole() {
    for seed in 0..10 {
        let (mut pair, max) = pair_at_full_size();
        let stream = start_download(&mut pair, 3_000_000);
        let mut state: u64 = 77 + seed;
        pair.filter = Box::new(move |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) & 0xffff_ffff;
            !(state >> 16).is_multiple_of(10)
        });
        let limit = pair.now.plus_ns(100_000 * MILLISECOND_NS);
        while pair.client_app.fins.is_empty() && pair.step(limit) {}
        assert!(pair.client_app.fins.contains(&stream), "seed {seed}");
        assert!(pair.server.stats().lost_packets > 150);
        let found = (pair.server.stats().mtu_bytes, pair.server.stats().mtu_black_holes);
        assert_eq!(found, (max, 0), "seed {seed}");
    }
}

#[test]
fn a_black_hole_is_found_within_a_few_probe_timeouts_and_left_again() {
    for size in [5_000, 3_000_000] {
        let (mut pair, max) = pair_at_full_size();
        let stream = start_download(&mut pair, size);
        // The path shrinks, and no ICMP message says so.
        pair.filter = Box::new(|f| f.bytes.len() <= 1_300);
        let begin = pair.now;
        while pair.server.stats().mtu_black_holes == 0 {
            assert!(pair.step(begin.plus_ns(500 * MILLISECOND_NS)), "{:?}", pair.server.stats());
        }
        assert_eq!(pair.server.stats().mtu_bytes, u64::from(MIN_DATAGRAM_BYTES));
        pair.run_ms(1_000);
        assert!(pair.client_app.fins.contains(&stream));
        // It grows again: a transfer some seconds later finds out.
        pair.filter = Box::new(|_| true);
        pair.run_ms(2_000);
        start_download(&mut pair, 100_000);
        pair.run_ms(1_000);
        assert_eq!(pair.server.stats().mtu_bytes, max);
    }
}

#[test]
fn reordering_is_told_from_loss() {
    // One datagram in fifty arrives after the eight behind it: at a few microseconds between
    // datagrams that is soon, but more than the packet threshold.
    let mut pair = Pair::new();
    pair.settle();
    let mut count = 0u64;
    pair.filter = Box::new(move |f| {
        count += 1;
        // Flights that end at one instant are delivered in the order of sending.
        f.due = f.due.plus_ns(if count.is_multiple_of(50) { MILLISECOND_NS / 10 } else { 0 });
        true
    });
    let stream = pair.server.streams().open(Dir::Uni).unwrap();
    pair.server.streams().send(stream, Bytes::from(vec![7; 3_000_000]), true).unwrap();
    pair.run_ms(5_000);
    assert_eq!(pair.client_app.fins, [stream]);
    let stats = pair.server.stats();
    assert!(stats.spurious_congestion_events > 0, "{stats:?}");
    // Most events are taken back, unless the next one came before all of the last had arrived;
    // and they teach the path's reordering, so that there are few.
    assert!(2 * stats.spurious_congestion_events > stats.congestion_events, "{stats:?}");
    assert!(stats.congestion_events < 10, "{stats:?}");
}

#[test]
fn a_server_that_acknowledges_probes_and_sends_nothing_is_asked_ever_more_rarely() {
    let mut pair = Pair::new();
    let mut is_first = true;
    // Of the server's first datagram the Initial arrives, and the client has Handshake keys. Of what follows,
    // acknowledgements alone.
    pair.filter = Box::new(move |f| {
        if f.to == Side::Client && std::mem::take(&mut is_first) {
            let end = packet::parse(&f.bytes, 0, 8).map_or(0, |initial| initial.end);
            f.bytes.truncate(end);
            return true;
        }
        f.to == Side::Server || f.bytes.len() < 100
    });
    pair.run_ms(9_000);
    assert!(pair.client.is_handshaking());
    assert!(pair.client.handshake.as_ref().is_some_and(|h| h.peer_validated_us));
    // The round trip takes 2 ms: without the back-off there were more than a thousand.
    let ptos = pair.client.stats().ptos;
    assert!((5..20).contains(&ptos), "{ptos}");
}
