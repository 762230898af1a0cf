//! The end of a connection, seen from both sides (RFC 9000 §10.2).

use super::forge::{initial, payload};
use super::pair::{Pair, addr};
use super::*;
use crate::wire::frame::Frame;

fn ended(connection: &Connection) -> (bool, bool) {
    let ending = connection.ending().unwrap();
    (ending.handshake_completed, ending.acknowledged)
}

/// What a side sends while it closes or drains, for a second.
fn datagrams_from(pair: &mut Pair, side: Side) -> Arc<std::sync::atomic::AtomicU64> {
    let count = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = count.clone();
    pair.filter = Box::new(move |f| {
        let is_its = f.to != side;
        counted.fetch_add(u64::from(is_its), std::sync::atomic::Ordering::Relaxed);
        true
    });
    count
}

#[test]
fn a_close_is_answered_once_and_the_answer_ends_the_closing() {
    let mut pair = Pair::connected();
    assert_eq!(pair.client.ending(), None);
    let answers = datagrams_from(&mut pair, Side::Server);
    pair.client.close(pair.now, 42, Bytes::from_static(b"enough"));
    assert_eq!(pair.client.state, State::Closing);
    assert_eq!(ended(&pair.client), (true, false));
    pair.run_ms(4);
    assert_eq!((pair.client.state, pair.server.state), (State::Draining, State::Draining));
    assert_eq!((ended(&pair.client), ended(&pair.server)), ((true, true), (true, true)));
    assert_eq!(pair.client.ending().unwrap().reason, CloseReason::Local { code: 42 });
    assert_eq!(answers.load(std::sync::atomic::Ordering::Relaxed), 1);
    // RFC 9000 §10.2.2: one that drains is silent.
    for side in [Side::Client, Side::Server] {
        let other = if side == Side::Client { Side::Server } else { Side::Client };
        let mut packet = pair.forge_1rtt(other, &payload(&[Frame::Ping]), 0);
        pair.deliver(side, Ecn::NotEct, &mut packet);
        let silent = if side == Side::Client { &mut pair.client } else { &mut pair.server };
        assert!(!silent.wants_transmit(), "{side:?}");
        assert_eq!(silent.transmit(pair.now, &mut [0; 2048]), None, "{side:?}");
    }
    pair.run_ms(5_000);
    assert!(pair.client.is_drained() && pair.server.is_drained());
}

#[test]
fn a_close_that_nobody_hears_is_not_acknowledged() {
    let mut pair = Pair::connected();
    pair.filter = Box::new(|f| f.to == Side::Client);
    pair.client.close(pair.now, 1, Bytes::new());
    pair.run_ms(5_000);
    assert!(pair.client.is_drained());
    assert_eq!(ended(&pair.client), (true, false));
}

#[test]
fn two_closes_that_cross_acknowledge_each_other() {
    let mut pair = Pair::connected();
    pair.client.close(pair.now, 1, Bytes::new());
    pair.server.close(pair.now, 2, Bytes::new());
    pair.run_ms(4);
    for (side, code) in [(&pair.client, 1), (&pair.server, 2)] {
        assert_eq!((side.state, ended(side)), (State::Draining, (true, true)));
        assert_eq!(side.ending().unwrap().reason, CloseReason::Local { code });
    }
}

#[test]
fn a_close_that_has_not_left_yet_answers_that_of_the_peer() {
    let mut pair = Pair::connected();
    let close = payload(&[Frame::ConnectionClose { code: 3, frame_type: 0, reason: b"" }]);
    let mut from_server = pair.forge_1rtt(Side::Server, &close, 0);
    pair.client.close(pair.now, 1, Bytes::new());
    pair.deliver(Side::Client, Ecn::NotEct, &mut from_server);
    assert_eq!((pair.client.state, ended(&pair.client)), (State::Draining, (true, true)));
    let mut buf = [0; 2048];
    assert!(pair.client.transmit(pair.now, &mut buf).is_some(), "the peer is told");
    assert!(!pair.client.wants_transmit(), "once");
}

#[test]
fn a_close_in_an_initial_that_is_too_small_is_no_answer() {
    let mut pair = Pair::new();
    pair.run_ms(1);
    let close = payload(&[Frame::ConnectionClose { code: 0, frame_type: 0, reason: b"" }]);
    let scid = *pair.server.remote_cids.current();
    // One that has kept its client waiting goes on to listen.
    pair.server.refuse(pair.now);
    let mut buf = [0; 2048];
    while pair.server.transmit(pair.now, &mut buf).is_some() {}
    for (size, acknowledged) in [(600, false), (1_200, true)] {
        let mut datagram = initial(&close, 9, scid, size);
        pair.deliver(Side::Server, Ecn::NotEct, &mut datagram);
        let ending = pair.server.ending().unwrap();
        assert_eq!(ending.acknowledged, acknowledged, "{size} bytes (RFC 9000 §14.1)");
    }
}

#[test]
fn a_close_before_the_end_of_the_handshake_says_so() {
    let mut pair = Pair::new();
    pair.run_ms(0);
    pair.client.close(pair.now, 1, Bytes::new());
    pair.run_ms(5_000);
    assert_eq!(ended(&pair.client), (false, false));
}

/// The client's Finished never leaves: its close is all that the server hears after the ServerHello.
#[test]
fn a_client_that_closes_as_it_is_connected_is_answered_though_the_server_is_not() {
    let mut pair = Pair::new();
    while !pair.client.is_established() {
        assert!(pair.step(Instant::NEVER) && !pair.server.is_established());
    }
    pair.client.close(pair.now, 7, Bytes::from_static(b"changed its mind"));
    pair.run_ms(5_000);
    assert_eq!((ended(&pair.client), ended(&pair.server)), ((true, true), (false, true)));
}

#[test]
fn what_is_forged_or_older_is_no_answer_and_the_work_is_bounded() {
    let mut pair = Pair::connected();
    let close = payload(&[Frame::ConnectionClose { code: 0, frame_type: 0, reason: b"" }]);
    let mut real = pair.forge_1rtt(Side::Server, &close, 0);
    pair.client.close(pair.now, 1, Bytes::new());
    let mut buf = [0; 2048];
    while pair.client.transmit(pair.now, &mut buf).is_some() {}
    let mut forged = real.clone();
    *forged.last_mut().unwrap() ^= 1;
    pair.deliver(Side::Client, Ecn::NotEct, &mut forged.clone());
    let mut ping = pair.forge_1rtt(Side::Server, &payload(&[Frame::Ping]), 0);
    pair.deliver(Side::Client, Ecn::NotEct, &mut ping);
    assert_eq!(pair.client.state, State::Closing);
    // Beyond the bound nothing is opened, and the answers go on.
    for _ in 0..5_000 {
        pair.deliver(Side::Client, Ecn::NotEct, &mut forged.clone());
    }
    let packets = pair.client.stats.rx_packets;
    pair.deliver(Side::Client, Ecn::NotEct, &mut real);
    assert_eq!((pair.client.state, pair.client.stats.rx_packets), (State::Closing, packets));
    assert!(pair.client.wants_transmit(), "the 4096th datagram is answered");
    assert_eq!(pair.client.remote(), addr(443));
}
