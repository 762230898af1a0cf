//! Faults that stall nothing for ever, and that used to cost seconds.

use super::pair::*;
use super::*;
use crate::proto::connection::space::SpaceId;
use crate::wire::Reader;
use crate::wire::Writer;
use crate::wire::frame::{Frame, write_ack};

/// Lets pass the first datagram to the server, and what comes to the client after a while.
fn mute(pair: &mut Pair, ms: u64) {
    let (mut up, quiet_until) = (0, pair.now.plus_ns(ms * 1_000_000));
    pair.filter = Box::new(move |f| {
        up += u32::from(f.to == Side::Server);
        if f.to == Side::Server { up == 1 } else { f.due > quiet_until }
    });
}

#[test]
fn a_probe_tells_what_arrived_if_the_last_acknowledgement_was_lost() {
    // RFC 9000 §13.2.1. The answer is lost, with the acknowledgement in it, and nothing more
    // comes from the client that would have to be acknowledged.
    let mut pair = Pair::connected();
    mute(&mut pair, 20);
    let asked = pair.client.data.sent.next_pn();
    let stream = pair.client.streams().open(Dir::Bi).unwrap();
    pair.client.streams().send(stream, Bytes::from_static(b"question"), true).unwrap();
    let limit = pair.now.plus_ns(300_000_000);
    while pair.client_app.fins.is_empty() {
        assert!(pair.step(limit), "the probe did not come");
    }
    assert!(pair.server.stats().ptos > 0);
    assert!(pair.client.data.sent.largest_acked() >= Some(asked), "the client does not know");
}

#[test]
fn a_handshake_probe_tells_what_arrived_if_the_last_acknowledgement_was_lost() {
    let mut pair = Pair::new();
    mute(&mut pair, 500);
    pair.run_ms(1_100);
    assert!(pair.server.stats().ptos > 0 && pair.client.stats().rx_packets > 0);
    assert!(pair.client.path.rtt.first_sample().is_some(), "the client does not know");
}

/// A pair whose server has its first flight under way, and will hear nothing of it.
fn pair_with_flight() -> Pair {
    let mut pair = Pair::new();
    pair.filter = Box::new(|f| f.to == Side::Server);
    pair.run_ms(3);
    assert!(pair.server.stats().tx_datagrams > 0 && pair.server.is_handshaking());
    pair.filter = Box::new(|_| false);
    pair
}

fn send_all(c: &mut Connection, now: Instant) -> u64 {
    let mut buf = [0; 2048];
    let before = c.stats().tx_bytes;
    while c.transmit(now, &mut buf).is_some() {}
    c.stats().tx_bytes - before
}

fn acknowledge(c: &mut Connection, now: Instant, lo: u64, hi: u64) {
    on_ack(c, now, SpaceId::Handshake, (lo, hi), 0);
}

fn on_ack(c: &mut Connection, now: Instant, space: SpaceId, range: (u64, u64), delay_raw: u64) {
    let mut buf = [0; 64];
    let mut w = Writer::new(&mut buf);
    write_ack(&mut w, std::iter::once(range), 1, delay_raw, None).unwrap();
    let Frame::Ack(ack) = Frame::read(&mut Reader::new(w.written())).unwrap() else {
        panic!("not an ACK");
    };
    c.on_ack(now, space, &ack).unwrap();
}

#[test]
fn crypto_that_was_acknowledged_is_not_sent_again_for_an_older_copy() {
    let mut pair = pair_with_flight();
    let (server, mut now) = (&mut pair.server, pair.now);
    let sent = |c: &Connection| c.handshake.as_ref().unwrap().handshake.sent.next_pn();
    let first = sent(server);
    assert!(first > 0);
    // The flight goes out again, from its first byte to its last, and that copy arrives.
    server.path.validation.on_received(10_000);
    assert!(server.handshake.as_mut().unwrap().handshake.crypto_send.repeat_unacknowledged());
    assert!(send_all(server, now) > 0);
    let second = sent(server);
    now = now.plus_ns(20_000_000);
    acknowledge(server, now, first, second - 1);
    now = now.plus_ns(5_000_000_000);
    server.detect_losses(now, SpaceId::Handshake);
    assert!(server.stats().lost_packets >= first, "the first copy is lost");
    assert!(!server.handshake.as_ref().unwrap().handshake.crypto_send.has_pending());
}

/// The client sends `datagrams` that repeat its hello, one a time. What the server sends to each.
fn answers_to_repeats(pair: &mut Pair, times: usize) -> Vec<u64> {
    let mut buf = [0; 2048];
    let mut answers = Vec::new();
    for _ in 0..times {
        let now = pair.client.next_timeout().unwrap();
        pair.now = pair.now.max(now);
        pair.client.handle_timeout(pair.now, &mut pair.client_app);
        let before = answers.len();
        while let Some(t) = pair.client.transmit(pair.now, &mut buf) {
            pair.deliver(Side::Server, Ecn::NotEct, &mut buf[..t.len]);
            if answers.len() == before {
                answers.push(send_all(&mut pair.server, pair.now));
            }
        }
    }
    answers
}

#[test]
fn a_server_answers_a_repeated_hello_with_its_flight_whenever_a_probe_could_be_due() {
    // RFC 9002 §6.2.3. The server's own timer is not asked: it may have backed off, and the
    // client heard nothing for as long.
    let mut pair = pair_with_flight();
    let flight = pair.server.stats().tx_bytes;
    let answers = answers_to_repeats(&mut pair, 3);
    assert!(answers.iter().all(|answer| *answer >= flight), "{answers:?} after {flight}");
    assert_eq!(pair.server.stats().ptos, 0);
}

#[test]
fn a_server_repeats_its_flight_a_few_times_only() {
    // Copies that come at once: the network's, or those of a client that wants more of them.
    let mut pair = pair_with_flight();
    let mut hello = vec![0; 2048];
    pair.now = pair.client.next_timeout().unwrap();
    pair.client.handle_timeout(pair.now, &mut pair.client_app);
    let t = pair.client.transmit(pair.now, &mut hello).unwrap();
    hello.truncate(t.len);
    let pair = &mut pair;
    let mut copy = |wait_ns| {
        pair.now = pair.now.plus_ns(wait_ns);
        // The same frame in another packet.
        pair.server.on_crypto(pair.now, SpaceId::Initial, 0, &[1]).unwrap();
        pair.server.path.validation.on_received(1_200);
        send_all(&mut pair.server, pair.now);
        pair.server.stats().flight_repeats
    };
    let repeats: Vec<_> = (0..5).map(|_| copy(1_000)).collect();
    assert_eq!(repeats, [1, 2, 2, 2, 2]);
    let last = (0..50).map(|_| copy(2_000_000_000)).last();
    assert_eq!(last, Some(8));
}

#[test]
fn copies_of_a_flight_are_forgotten_and_the_handshake_goes_on() {
    let mut pair = pair_with_flight();
    let first = pair.server.handshake.as_ref().unwrap().handshake.sent.first_pn();
    let mut held = 0;
    for _ in 0..16 {
        pair.now = pair.now.plus_ns(250_000_000);
        pair.server.handle_timeout(pair.now, &mut pair.server_app);
        // The hello again, in another packet, and room to answer.
        pair.server.on_crypto(pair.now, SpaceId::Initial, 0, &[1]).unwrap();
        pair.server.path.validation.on_received(10_000);
        pair.server.handshake.as_mut().unwrap().flight_repeats = 0;
        send_all(&mut pair.server, pair.now);
        let sent = &pair.server.handshake.as_ref().unwrap().handshake.sent;
        held = held.max(sent.next_pn() - sent.first_pn());
        assert!(sent.has_ack_eliciting());
    }
    assert!(pair.server.stats().flight_repeats > 8);
    let sent = &pair.server.handshake.as_ref().unwrap().handshake.sent;
    assert!(sent.first_pn() > first && held <= 12, "{held} packets are remembered");
    // What acknowledges a copy that is forgotten does no harm, and nothing is counted twice.
    acknowledge(&mut pair.server, pair.now, first, first);
    pair.filter = Box::new(|_| true);
    pair.run_ms(5_000);
    assert!(pair.client.is_established() && pair.server.is_established());
    assert_eq!(pair.server.path.bytes_in_flight, 0);
}

#[test]
fn an_acknowledgement_that_a_probe_repeats_is_no_sample_of_the_round_trip() {
    // The answer is lost, and the server's probe tells seconds later what it had acknowledged.
    let mut pair = Pair::connected();
    let before = pair.client.path.rtt.smoothed_ns();
    assert!(before < 10 * DELAY_NS);
    mute(&mut pair, 5_000);
    let stream = pair.client.streams().open(Dir::Bi).unwrap();
    pair.client.streams().send(stream, Bytes::from_static(b"question"), true).unwrap();
    let limit = pair.now.plus_ns(30_000_000_000);
    while pair.client_app.fins.is_empty() {
        assert!(pair.step(limit), "the probe did not come");
    }
    let stats = pair.client.stats();
    assert_eq!(stats.repeated_acks, 1, "{stats:?}");
    assert!(pair.client.path.rtt.smoothed_ns() < 10 * DELAY_NS, "{stats:?}");
}

#[test]
fn a_peer_that_acknowledges_later_than_it_says_is_learnt_about() {
    // Both ends' timers run late, as those of busy threads do, and the peer owns up to its delay.
    // It is a part of the round trip, or each acknowledgement would come after a probe timeout.
    let mut pair = Pair::connected();
    let c = &mut pair.client;
    // In the units of the frame.
    let late_ns = (c.pto_ns() + DELAY_NS).next_multiple_of(8_000);
    assert!(c.peer_max_ack_delay_ns < late_ns);
    for _ in 0..10 {
        let stream = c.streams().open(Dir::Uni).unwrap();
        c.streams().send(stream, Bytes::from_static(b"question"), true).unwrap();
        let pn = c.data.sent.next_pn();
        send_all(c, pair.now);
        pair.now = pair.now.plus_ns(late_ns + 2 * DELAY_NS);
        let delay_raw = late_ns / 8_000;
        on_ack(c, pair.now, SpaceId::Data, (pn, pn), delay_raw);
    }
    assert_eq!(c.stats().repeated_acks, 0);
    assert!(c.pto_ns() > late_ns + 2 * DELAY_NS, "{} ns", c.pto_ns());
}

/// A pair whose client has `bytes` under way to a server that gets nothing for ten seconds; the
/// client does not mean to try again for some more.
fn pair_backed_off(bytes: usize) -> (Pair, StreamId) {
    let mut pair = Pair::connected();
    let heals = pair.now.plus_ns(10_000_000_000);
    pair.filter = Box::new(move |f| f.to == Side::Client || f.due > heals);
    let stream = pair.client.streams().open(Dir::Uni).unwrap();
    pair.client.streams().send(stream, Bytes::from(vec![7; bytes]), true).unwrap();
    pair.run_ms(10_001);
    assert!(pair.client.pto_count > 5 && pair.now > heals);
    let sent_at = pair.client.data.sent.last_eliciting_sent_at();
    assert!(pair.now.ns_since(sent_at) < 8_000_000_000, "it will be some seconds");
    (pair, stream)
}

#[test]
fn a_peer_that_is_heard_again_is_asked_without_waiting_for_the_timer() {
    for bytes in [100, 1 << 20] {
        let (mut pair, stream) = pair_backed_off(bytes);
        let ptos = pair.client.stats().ptos;
        pair.server.pending.ping = true;
        pair.run_ms(2_000);
        assert_eq!(pair.server_app.data[&stream].len(), bytes);
        let stats = pair.client.stats();
        assert_eq!((stats.ptos, stats.ack_probes), (ptos, 1), "{stats:?}");
    }
}

#[test]
fn a_peer_that_only_speaks_is_asked_a_few_times_between_two_probe_timeouts() {
    let (mut pair, _) = pair_backed_off(100);
    pair.filter = Box::new(|f| f.to == Side::Client);
    let ptos = pair.client.stats().ptos;
    for _ in 0..1_000 {
        pair.server.pending.ping = true;
        pair.run_ms(100);
    }
    let stats = pair.client.stats();
    assert!((1..=2 * (1 + stats.ptos - ptos)).contains(&stats.ack_probes), "{stats:?}");
}

#[test]
fn a_peer_that_is_heard_again_is_asked_again_if_the_answer_is_lost() {
    let (mut pair, stream) = pair_backed_off(100);
    let before = pair.client.stats();
    // The server's PING arrives; what acknowledges the client's answer to it does not.
    let mut down = 0;
    pair.filter = Box::new(move |f| {
        down += u32::from(f.to == Side::Client);
        f.to == Side::Server || down != 2
    });
    pair.server.pending.ping = true;
    pair.run_ms(1_000);
    assert_eq!(pair.server_app.data[&stream].len(), 100);
    let stats = pair.client.stats();
    assert_eq!((stats.ptos, stats.ack_probes), (before.ptos + 1, 1), "{stats:?}");
    assert_eq!(pair.client.pto_count, 0);
}

#[test]
fn a_peer_that_is_heard_right_after_a_probe_is_asked_again_though_the_timer_is_backed_off() {
    let (mut pair, stream) = pair_backed_off(100);
    let (ptos, limit) = (pair.client.stats().ptos, pair.now.plus_ns(60_000_000_000));
    while pair.client.stats().ptos == ptos {
        assert!(pair.step(limit), "no probe");
    }
    // The probe arrives, and its acknowledgement does not. A moment later the server speaks.
    let mut down = 0;
    pair.filter = Box::new(move |f| {
        down += u32::from(f.to == Side::Client);
        f.to == Side::Server || down != 1
    });
    let pto_ms = pair.client.pto_ns() / 1_000_000;
    pair.run_ms(pto_ms * 3 / 4);
    assert_eq!(pair.server_app.data[&stream].len(), 100);
    assert!(pair.client.pto_count > 5);
    pair.server.pending.ping = true;
    pair.run_ms(2 * pto_ms);
    assert_eq!((pair.client.pto_count, pair.client.stats().ack_probes), (0, 0));
}

#[test]
fn a_peer_that_is_heard_after_a_while_is_asked_though_it_was_asked_in_vain() {
    let (mut pair, stream) = pair_backed_off(100);
    pair.filter = Box::new(|f| f.to == Side::Client);
    for _ in 0..2 {
        pair.server.pending.ping = true;
        pair.run_ms(300);
    }
    assert_eq!(pair.client.ack_probes_left, 0);
    // A quarter of the timer later the path is whole, and the server speaks for another.
    let quarter_ms = (pair.client.pto_ns() << pair.client.pto_count) / 4 / 1_000_000;
    pair.run_ms(quarter_ms);
    pair.filter = Box::new(|_| true);
    for _ in 0..10 {
        pair.server.pending.ping = true;
        pair.run_ms(quarter_ms / 10);
    }
    assert_eq!(pair.server_app.data[&stream].len(), 100);
    assert_eq!(pair.client.pto_count, 0);
}

#[test]
fn no_probe_of_the_mtu_leaves_while_probes_are_not_answered() {
    let mut pair = Pair::new();
    let limit = pair.now.plus_ns(1_000_000_000);
    while !pair.client.is_confirmed() {
        assert!(pair.step(limit), "no handshake");
    }
    assert!(pair.client.path.mtu.probe(pair.now).is_some());
    let mut buf = [0; 2048];
    pair.client.pto_count = 1;
    assert!(pair.client.transmit_mtu_probe(pair.now, &mut buf).is_none());
    pair.client.pto_count = 0;
    assert!(pair.client.transmit_mtu_probe(pair.now, &mut buf).is_some());
}
