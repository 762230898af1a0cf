//! Packets that overtake, and what an unvalidated client can make a server hold.

use super::forge::{initial, payload};
use super::pair::*;
use super::*;
use crate::proto::observer::{DropReason, Observation};
use crate::wire::frame::Frame;
use crate::wire::packet;
use std::time::Duration;

#[test]
fn data_that_overtakes_the_clients_finished_is_kept() {
    // RFC 9001 §5.7. The client's datagram with Finished takes 10 ms longer than its data.
    let mut pair = Pair::new();
    pair.client_app.initial = Some(Bytes::from(vec![7; 1_000]));
    let mut held = false;
    pair.filter = Box::new(move |f| {
        let long = f.bytes[0] & 0xb0 == 0xa0 || f.bytes[0] & 0xb0 == 0x80;
        if f.to == Side::Server && long && f.bytes[0] & 0x30 == 0x20 && !held {
            held = true;
            f.due = f.due.plus_ns(10 * DELAY_NS);
        }
        true
    });
    let start = pair.now;
    while pair.server_app.data.is_empty() {
        assert!(pair.step(start.plus_ns(2_000_000_000)), "the data came");
    }
    assert_eq!(pair.client.stats().ptos + pair.client.stats().lost_packets, 0);
    assert!(!pair.server_app.early, "it is told after the handshake");
    pair.settle();
    assert_eq!(pair.client_app.data.values().next().map(Vec::len), Some(1_000));
    assert!(pair.server.early.is_none());
}

/// All packets that a side would send now, apart.
fn packets(pair: &mut Pair, from: Side) -> Vec<(packet::PacketType, Vec<u8>)> {
    let (now, mut buf, mut out) = (pair.now, [0; 2048], Vec::new());
    let side = if from == Side::Client { &mut pair.client } else { &mut pair.server };
    while let Some(t) = side.transmit(now, &mut buf) {
        let mut at = 0;
        while let Ok(p) = packet::parse(&buf[..t.len], at, cid(1).len()) {
            out.push((p.kind, buf[at..p.end].to_vec()));
            at = p.end;
        }
    }
    out
}

#[test]
fn an_acknowledgement_tells_how_long_its_packet_waited_for_keys() {
    // RFC 9000 §13.2.5. The client's Finished takes five seconds longer than its data.
    let mut pair = Pair::new();
    pair.client_app.initial = Some(Bytes::from(vec![7; 1_000]));
    for (from, to) in [(Side::Client, Side::Server), (Side::Server, Side::Client)] {
        for (_, mut packet) in packets(&mut pair, from) {
            pair.deliver(to, Ecn::NotEct, &mut packet);
        }
    }
    let (data, others): (Vec<_>, Vec<_>) = packets(&mut pair, Side::Client)
        .into_iter()
        .partition(|(kind, _)| *kind == packet::PacketType::Short);
    assert_eq!(data.len(), 1);
    let arrived = pair.now;
    for (_, mut packet) in data {
        pair.deliver(Side::Server, Ecn::NotEct, &mut packet);
    }
    assert_eq!(pair.server.early.as_ref().map(|early| early.len()), Some(1));
    pair.now = pair.now.plus_ns(5_000_000_000);
    for (_, mut packet) in others {
        pair.deliver(Side::Server, Ecn::NotEct, &mut packet);
    }
    assert_eq!(pair.server_app.data.values().next().map(Vec::len), Some(1_000));
    assert_eq!(pair.server.data.received.largest_at, arrived);
}

/// What the observer of `side` hears of packets that wait: how many bytes were kept of which
/// datagram, and why what was dropped.
fn hear_waits(pair: &mut Pair, side: Side) -> Heard<Result<(u64, usize), DropReason>> {
    pair.hear(side, |what| match what {
        Observation::DatagramKept { datagram, bytes } => Some(Ok((*datagram, *bytes))),
        Observation::PacketDropped(dropped) => Some(Err(dropped.reason)),
        _ => None,
    })
}

#[test]
fn what_was_read_of_a_datagram_is_not_read_again_with_what_waited() {
    let mut pair = Pair::new();
    let heard = hear_waits(&mut pair, Side::Server);
    pair.client_app.initial = Some(Bytes::from(vec![7; 100]));
    for (from, to) in [(Side::Client, Side::Server), (Side::Server, Side::Client)] {
        for (_, mut packet) in packets(&mut pair, from) {
            pair.deliver(to, Ecn::NotEct, &mut packet);
        }
    }
    let (data, mut finished): (Vec<_>, Vec<_>) = packets(&mut pair, Side::Client)
        .into_iter()
        .partition(|(kind, _)| *kind == packet::PacketType::Short);
    // An Initial without its datagram's padding would be refused.
    finished.retain(|(kind, _)| *kind == packet::PacketType::Handshake);
    // A Handshake packet that can be read, and a 1-RTT packet that overtakes Finished.
    pair.client.handshake.as_mut().unwrap().handshake.probes = 1;
    let probe = packets(&mut pair, Side::Client).swap_remove(0);
    assert_eq!((probe.0, data.len()), (packet::PacketType::Handshake, 1));
    let mut both = [&probe.1[..], &data[0].1].concat();
    pair.deliver(Side::Server, Ecn::NotEct, &mut both);
    let arrived = pair.server.stats.rx_datagrams;
    assert_eq!(heard.take(), [Ok((arrived, data[0].1.len()))]);
    for (_, mut packet) in finished {
        pair.deliver(Side::Server, Ecn::NotEct, &mut packet);
    }
    assert_eq!(pair.server_app.data.values().next().map(Vec::len), Some(100));
    assert_eq!((heard.take(), pair.server.stats.rx_dropped), (vec![], 0));
}

#[test]
fn a_datagram_that_goes_on_waiting_is_told_once() {
    let mut pair = Pair::new();
    let heard = hear_waits(&mut pair, Side::Client);
    for (_, mut packet) in packets(&mut pair, Side::Client) {
        pair.deliver(Side::Server, Ecn::NotEct, &mut packet);
    }
    // A 1-RTT packet, as it seems, before any of the server's flight.
    let mut early = vec![0x40; 100];
    early[1..9].copy_from_slice(cid(1).as_slice());
    pair.deliver(Side::Client, Ecn::NotEct, &mut early);
    let flight = packets(&mut pair, Side::Server);
    assert!(flight.len() > 1, "its keys do not come with the first packet");
    for (_, mut packet) in flight {
        pair.deliver(Side::Client, Ecn::NotEct, &mut packet);
    }
    assert_eq!(heard.take(), [Ok((1, 100)), Err(DropReason::NotAuthentic)]);
}

#[test]
fn attack_11_a_server_keeps_little_of_a_client_that_it_does_not_know() {
    let junk = |n: u8| {
        let mut packet = vec![0x40];
        packet.extend_from_slice(cid(3).as_slice());
        packet.resize(1_400, n);
        packet
    };
    let mut pair = Pair::new();
    for n in 0..50 {
        pair.deliver(Side::Server, Ecn::NotEct, &mut junk(n));
    }
    assert!(pair.server.early.is_none(), "nothing can be early yet");
    let mut buf = [0; 2048];
    let t = pair.client.transmit(pair.now, &mut buf).unwrap();
    pair.deliver(Side::Server, Ecn::NotEct, &mut buf[..t.len]);
    for n in 0..50 {
        pair.deliver(Side::Server, Ecn::NotEct, &mut junk(n));
    }
    assert_eq!(
        pair.server.early.as_ref().unwrap().len(),
        super::super::early::EARLY_UNVALIDATED_MAX
    );
    let most = super::super::early::EARLY_UNVALIDATED_MAX as u64;
    assert_eq!(pair.server.stats.rx_refused, 100 - most);
    pair.settle();
    assert!(pair.server.is_confirmed());
}

#[test]
fn a_client_hello_beyond_the_bound_is_refused_before_it_is_there() {
    let mut pair = Pair::new();
    let start = payload(&[Frame::Crypto { offset: 0, data: &[1, 0, 0xf0, 0, 3, 3] }]);
    pair.deliver(Side::Server, Ecn::NotEct, &mut initial(&start, 0, cid(1), 1200));
    assert_eq!(pair.verdict(Side::Server), Some(code::CRYPTO_BUFFER_EXCEEDED));
    // RFC 9000 §8.1: from an address that is validated it is waited for.
    let mut pair = Pair::new();
    pair.server.path.validation.validate();
    pair.deliver(Side::Server, Ecn::NotEct, &mut initial(&start, 0, cid(1), 1200));
    assert_eq!(pair.verdict(Side::Server), None);
}

#[test]
fn datagrams_larger_than_we_said_are_dropped_and_counted() {
    let mut pair = Pair::new();
    let mut huge = initial(&payload(&[Frame::Ping]), 0, cid(1), 1200);
    huge.resize(16_000, 0);
    pair.deliver(Side::Server, Ecn::NotEct, &mut huge);
    assert_eq!((pair.server.stats.rx_packets, pair.server.stats.rx_oversized), (0, 1));
    let mut fine = initial(&payload(&[Frame::Ping]), 0, cid(1), 1200);
    fine.resize(1_500, 0);
    pair.deliver(Side::Server, Ecn::NotEct, &mut fine);
    assert_eq!(pair.server.stats.rx_packets, 1);
}

#[test]
fn nothing_follows_the_hello_in_initial_packets() {
    // RFC 9001 §4.1.3: a server has the keys of the next level once it has read the ClientHello.
    for offset in [0, 10] {
        let mut pair = Pair::new();
        let mut buf = [0; 2048];
        let t = pair.client.transmit(pair.now, &mut buf).unwrap();
        pair.deliver(Side::Server, Ecn::NotEct, &mut buf[..t.len]);
        let read = pair.server.handshake.as_ref().unwrap().initial.crypto_recv.read_bytes();
        assert!(read > 0);
        // What repeats the hello is fine, as often as it comes.
        let again = payload(&[Frame::Crypto { offset: 0, data: &[1; 100] }]);
        pair.deliver(Side::Server, Ecn::NotEct, &mut initial(&again, 100, cid(1), 1200));
        assert_eq!(pair.verdict(Side::Server), None);
        let more = payload(&[Frame::Crypto { offset: read + offset, data: &[7; 30] }]);
        pair.deliver(Side::Server, Ecn::NotEct, &mut initial(&more, 101, cid(1), 1200));
        let verdict = pair.verdict(Side::Server);
        assert!(verdict.is_some_and(|code| code != code::CRYPTO_BUFFER_EXCEEDED), "{verdict:?}");
        assert!(offset == 0 || verdict == Some(code::PROTOCOL_VIOLATION), "{verdict:?}");
    }
}

#[test]
fn nothing_waits_behind_the_hello_in_initial_packets() {
    let mut pair = Pair::new();
    let far = payload(&[Frame::Crypto { offset: 4_000, data: &[7; 30] }]);
    pair.deliver(Side::Server, Ecn::NotEct, &mut initial(&far, 100, cid(1), 1200));
    assert_eq!(pair.verdict(Side::Server), None);
    pair.settle();
    assert_eq!(pair.verdict(Side::Server), Some(code::PROTOCOL_VIOLATION));
}

#[test]
fn a_client_that_hears_what_it_cannot_read_does_not_wait_for_its_backed_off_timer() {
    // What the client says is lost for 14 s, and then all of the server's Initial packets until 22 s.
    // In a seed of the simulator (781,555,213,034) the server had no more to send by then, before it
    // heard from the client again.
    let patient = TransportConfig {
        handshake_timeout: Duration::from_secs(60),
        idle_timeout: Duration::from_secs(60),
        ..TransportConfig::default()
    };
    let mut pair = Pair::with(patient.clone(), patient);
    let start = pair.now;
    let at = move |seconds: u64| start.plus_ns(seconds * 1_000_000_000);
    pair.filter = Box::new(move |f| {
        if f.to == Side::Server || f.due > at(22) {
            return f.due > at(14);
        }
        while f.bytes.first().is_some_and(|first| first & 0xf0 == 0xc0) {
            let end = packet::parse(&f.bytes, 0, 8).map_or(f.bytes.len(), |initial| initial.end);
            f.bytes.drain(..end);
        }
        !f.bytes.is_empty()
    });
    while !pair.client.is_established() {
        assert!(pair.step(at(60)), "it ends");
    }
    let took_ns = pair.now.ns_since(start);
    // Its timer was at 31 s.
    assert!(took_ns < 24_000_000_000, "{took_ns} ns");
}
