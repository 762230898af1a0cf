//! What a connection tells of the network, and what may be set while it lives.

use super::pair::*;
use super::*;
use std::time::Duration;

/// Takes 256 KiB in a round trip, however long it lasts.
fn narrow() -> TransportConfig {
    TransportConfig {
        stream_window_max_bytes: 0,
        connection_window_max_bytes: 0,
        ..TransportConfig::default()
    }
}

fn bulk(pair: &mut Pair, bytes: usize, ms: u64) {
    let stream = pair.client.streams().open(Dir::Bi).unwrap();
    pair.client.streams().send(stream, Bytes::from(vec![7; bytes]), true).unwrap();
    pair.run_ms(ms);
}

fn reports(app: &Recorder) -> usize {
    app.events.iter().filter(|event| **event == Event::NetworkStatistics).count()
}

fn buffers(app: &Recorder) -> Vec<u64> {
    let told = |event: &Event| match event {
        Event::IdealSendBuffer { bytes } => Some(*bytes),
        _ => None,
    };
    app.events.iter().filter_map(told).collect()
}

#[test]
fn the_network_is_told_of_once_a_round_trip_while_data_flows_and_not_before_it_is_asked_for() {
    let config = TransportConfig { network_statistics: Some(Duration::ZERO), ..Default::default() };
    let mut pair = Pair::with(config, narrow());
    pair.run_ms(20);
    let before = reports(&pair.client_app);
    bulk(&mut pair, 8 << 20, 60);
    let told = reports(&pair.client_app) - before;
    // A round trip takes 2 ms, and the receiver may hold an acknowledgement back.
    assert!((10..=31).contains(&told), "{told} reports in 60 ms");
    assert_eq!(reports(&pair.server_app), 0, "nobody asked");
    let now = pair.client.network_statistics();
    assert!(now.min_rtt >= Duration::from_millis(2) && now.smoothed_rtt >= now.min_rtt, "{now:?}");
    assert!(now.window_bytes > 100_000 && now.bytes_in_flight <= now.window_bytes, "{now:?}");
    // What was delivered in a round trip was in flight before: the window at most.
    let rate = now.delivery_rate.unwrap();
    assert!((50_000_000..200_000_000).contains(&rate), "256 KiB in 2 ms: {now:?}");
    let grown = buffers(&pair.client_app);
    assert!(grown.is_sorted() && !grown.is_empty(), "{grown:?}");
    assert_eq!(grown.last(), Some(&now.ideal_send_bytes));
    assert!(now.ideal_send_bytes >= 2 * now.bytes_in_flight, "{now:?}");
    let other = pair.server.network_statistics();
    assert_eq!((other.delivery_rate, other.ideal_send_bytes), (None, IDEAL_SEND_MIN_BYTES));
}

#[test]
fn reports_come_as_seldom_as_they_are_asked_for_and_end_when_they_are_not() {
    let mut pair = Pair::with(TransportConfig::default(), narrow());
    pair.run_ms(20);
    pair.client.set_network_statistics(pair.now, Some(Duration::from_millis(20)));
    bulk(&mut pair, 16 << 20, 100);
    let told = reports(&pair.client_app);
    assert!((4..=6).contains(&told), "{told} reports in 100 ms");
    pair.client.set_network_statistics(pair.now, None);
    bulk(&mut pair, 1 << 20, 100);
    assert_eq!(reports(&pair.client_app), told);
}

#[test]
fn a_ping_keeps_the_connection_alive_from_when_it_is_asked_for() {
    let mut pair = Pair::connected();
    pair.run_ms(15_000);
    pair.client.set_keep_alive(pair.now, Some(Duration::from_secs(10)));
    pair.run_ms(60_000);
    assert!(pair.client.is_established() && pair.server.is_established(), "it was idle for 60 s");
    pair.client.set_keep_alive(pair.now, None);
    let sent = pair.client.stats().tx_datagrams;
    pair.run_ms(40_000);
    assert_eq!(pair.client.stats().tx_datagrams, sent);
    assert_eq!(pair.client_app.closed(), Some(&CloseReason::IdleTimeout));
}

#[test]
fn the_first_probe_waits_for_three_times_the_round_trip_that_is_assumed() {
    let initial_rtt = Duration::from_millis(50);
    let config = TransportConfig { initial_rtt, ..TransportConfig::default() };
    let mut pair = Pair::with(config, TransportConfig::default());
    pair.filter = Box::new(|_| false);
    pair.run_ms(149);
    assert_eq!(pair.client.stats().ptos, 0);
    pair.run_ms(2);
    assert_eq!(pair.client.stats().ptos, 1);
}

#[test]
fn an_acknowledgement_is_held_back_as_long_as_the_settings_say_and_no_longer() {
    let max_ack_delay = Duration::from_millis(7);
    let server = TransportConfig { max_ack_delay, ack_threshold: 10, ..TransportConfig::default() };
    let mut pair = Pair::with(TransportConfig::default(), server);
    pair.settle();
    let stream = pair.client.streams().open(Dir::Uni).unwrap();
    pair.client.streams().send(stream, Bytes::from_static(b"one packet"), false).unwrap();
    let before = pair.server.stats().tx_datagrams;
    // A millisecond on the way, and then the delay.
    pair.run_ms(1 + 6);
    assert_eq!(pair.server.stats().tx_datagrams, before);
    pair.run_ms(2);
    assert_eq!(pair.server.stats().tx_datagrams, before + 1);
}
