//! What has to work without an attacker.

use super::pair::*;
use super::*;

fn pattern(len: usize) -> Bytes {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn a_handshake_completes_and_both_sides_confirm_it() {
    let mut pair = Pair::new();
    pair.settle();
    for app in [&pair.client_app, &pair.server_app] {
        assert!(app.events.contains(&Event::Connected { resumed: false }));
        assert!(app.events.contains(&Event::HandshakeConfirmed));
    }
    assert_eq!(pair.client.alpn(), Some(&b"test"[..]));
    assert_eq!(pair.client.path.bytes_in_flight, 0);
    assert_eq!(pair.server.path.bytes_in_flight, 0);
}

#[test]
fn a_stream_is_echoed_byte_for_byte() {
    let mut pair = Pair::connected();
    let stream = pair.client.streams().open(Dir::Bi).unwrap();
    let data = pattern(3_000_000);
    pair.client.streams().send(stream, data.clone(), true).unwrap();
    pair.run_ms(20_000);
    assert_eq!(pair.server_app.data[&stream], data);
    assert_eq!(pair.client_app.data[&stream], data);
    assert_eq!(pair.client_app.fins, [stream]);
    let closed = |e: &&Event| matches!(e, Event::Stream(StreamEvent::Closed { .. }));
    assert_eq!(pair.client_app.events.iter().filter(closed).count(), 1);
    assert_eq!(pair.client.stats().lost_packets, 0);
}

#[test]
fn data_that_comes_with_the_end_of_the_handshake_is_told_after_it() {
    let mut pair = Pair::new();
    pair.client_app.initial = Some(pattern(100));
    pair.settle();
    assert_eq!(pair.client_app.data.values().next(), Some(&pattern(100).to_vec()));
    assert!(!pair.server_app.early && !pair.client_app.early);
}

#[test]
fn many_streams_pass_the_limit_by_waiting_for_credit() {
    let mut pair = Pair::connected();
    let mut opened = 0;
    while opened < 1_000 {
        match pair.client.streams().open(Dir::Bi) {
            Ok(stream) => {
                pair.client.streams().send(stream, pattern(100), true).unwrap();
                opened += 1;
            }
            Err(_) => pair.run_ms(10),
        }
    }
    pair.settle();
    assert_eq!(pair.client_app.fins.len(), 1_000);
    assert!(pair.client_app.data.values().all(|d| *d == pattern(100)));
}

#[test]
fn a_third_of_all_datagrams_lost_delays_but_does_not_damage() {
    let mut pair = Pair::new();
    let mut state = 12_345u32;
    pair.filter = Box::new(move |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16 & 0xff > 85
    });
    pair.run_ms(9_000);
    assert!(pair.client.is_established(), "{:?}", pair.client_app.events);
    let stream = pair.client.streams().open(Dir::Bi).unwrap();
    pair.client.streams().send(stream, pattern(50_000), true).unwrap();
    for _ in 0..100 {
        pair.run_ms(1_000);
        if !pair.client_app.fins.is_empty() {
            break;
        }
    }
    assert_eq!(pair.client_app.data[&stream], pattern(50_000));
    assert!(pair.server.stats().lost_packets > 0);
}

#[test]
fn an_application_that_takes_little_gets_the_rest_later() {
    let mut pair = Pair::connected();
    pair.server_app.appetite = Some(100);
    let stream = pair.client.streams().open(Dir::Uni).unwrap();
    pair.client.streams().send(stream, pattern(10_000), true).unwrap();
    pair.settle();
    assert_eq!(pair.server_app.data[&stream].len(), 100);
    for _ in 0..200 {
        let _gone = pair.server.streams().resume_receive(stream);
        pair.server.deliver_events(&mut pair.server_app);
    }
    pair.settle();
    assert_eq!(pair.server_app.data[&stream], pattern(10_000));
    assert_eq!(pair.server_app.fins, [stream]);
}

#[test]
fn a_close_reaches_the_other_side_with_code_and_reason() {
    let mut pair = Pair::connected();
    pair.client.close(pair.now, 42, Bytes::from_static(b"enough"));
    pair.settle();
    let reason = CloseReason::PeerApplication { code: 42, reason: Bytes::from_static(b"enough") };
    assert_eq!(pair.server_app.closed(), Some(&reason));
    pair.run_ms(5_000);
    assert!(pair.client.is_drained() && pair.server.is_drained());
}

#[test]
fn silence_ends_the_connection_on_both_sides() {
    let mut pair = Pair::connected();
    pair.run_ms(31_000);
    assert_eq!(pair.client_app.closed(), Some(&CloseReason::IdleTimeout));
    assert_eq!(pair.server_app.closed(), Some(&CloseReason::IdleTimeout));
}

#[test]
fn keep_alive_outlasts_the_idle_timeout() {
    let lively = TransportConfig {
        keep_alive: Some(std::time::Duration::from_secs(10)),
        ..TransportConfig::default()
    };
    let mut pair = Pair::with(lively, TransportConfig::default());
    pair.run_ms(120_000);
    assert!(pair.client.is_established() && pair.server.is_established());
}

#[test]
fn keys_are_updated_on_demand_and_by_wear() {
    let worn = TransportConfig { key_update_packets: 100, ..TransportConfig::default() };
    let mut pair = Pair::with(worn, TransportConfig::default());
    pair.settle();
    for _ in 0..4 {
        let stream = pair.client.streams().open(Dir::Bi).unwrap();
        pair.client.streams().send(stream, pattern(500_000), true).unwrap();
        pair.run_ms(1_000);
        assert_eq!(pair.client_app.data[&stream], pattern(500_000));
    }
    let updates = pair.client.stats().key_updates;
    assert!(updates >= 2, "{updates}");
    assert_eq!(updates, pair.server.stats().key_updates);
    assert!(pair.server.update_keys());
    assert!(!pair.server.update_keys(), "not twice in a row");
    let stream = pair.client.streams().open(Dir::Bi).unwrap();
    pair.client.streams().send(stream, pattern(1_000), true).unwrap();
    pair.settle();
    assert_eq!(pair.client_app.data[&stream], pattern(1_000));
    assert_eq!(pair.client.stats().key_updates, updates + 1);
}

#[test]
fn a_reset_and_a_stop_reach_the_other_side() {
    let mut pair = Pair::connected();
    let stream = pair.client.streams().open(Dir::Uni).unwrap();
    pair.client.streams().send(stream, pattern(10), false).unwrap();
    pair.settle();
    pair.client.streams().reset(stream, 7).unwrap();
    pair.settle();
    assert!(
        pair.server_app.events.contains(&Event::Stream(StreamEvent::Reset { stream, code: 7 }))
    );
    let stream = pair.client.streams().open(Dir::Uni).unwrap();
    pair.client.streams().send(stream, pattern(10), false).unwrap();
    pair.settle();
    pair.server.streams().stop_sending(stream, 8).unwrap();
    pair.settle();
    assert!(
        pair.client_app
            .events
            .contains(&Event::Stream(StreamEvent::StopSending { stream, code: 8 }))
    );
}

#[test]
fn a_lost_server_flight_is_repeated_within_the_amplification_limit() {
    let mut pair = Pair::new();
    let mut from_server = 0;
    pair.filter = Box::new(move |f| {
        from_server += u32::from(f.to == Side::Client);
        f.to == Side::Server || from_server > 3
    });
    pair.run_ms(9_000);
    assert!(pair.client.is_confirmed() && pair.server.is_confirmed());
}
