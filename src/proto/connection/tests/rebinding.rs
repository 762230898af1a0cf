//! A client whose NAT forgets it during the handshake (RFC 9000 §9).

use super::forge::{initial, payload};
use super::pair::*;
use super::*;
use crate::proto::crypto::TAG_LEN;
use crate::proto::path::Addresses;
use crate::wire::frame::Frame;
use crate::wire::packet::{LongHeader, PacketType, patch_length};
use crate::wire::{VERSION_1, Writer};

/// An address on another network than [`addr`]'s.
fn far(port: u16) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 7], port))
}

fn is_quiet(c: &Connection) -> bool {
    c.others.is_none() && !c.paths_busy && c.path.exchange.is_none()
}

/// Runs a handshake whose NAT forgets the client after so many milliseconds, a millisecond being half
/// a round trip. With `early`, the client has something to say at once.
fn forgotten_after(ms: u64, nat: SocketAddr, early: bool) -> Pair {
    let mut pair = Pair::new();
    pair.client_app.initial = early.then(|| Bytes::from_static(b"hello"));
    pair.run_ms(ms);
    pair.nat = nat;
    pair.run_ms(9_000);
    pair
}

#[test]
fn a_handshake_survives_a_nat_that_forgets_at_any_moment() {
    let mut moved = 0;
    for nat in [addr(2000), far(1000)] {
        for early in [true, false] {
            for ms in 0..8 {
                let mut pair = forgotten_after(ms, nat, early);
                let about = format!("{ms} ms, {nat}, {early}");
                assert!(pair.client.is_confirmed() && pair.server.is_confirmed(), "{about}");
                // After that a client that is silent is found where it was.
                if pair.server.remote() == nat {
                    moved += pair.server.stats().handshake_moves;
                    assert!(is_quiet(&pair.server), "{about} {:?}", pair.server.others);
                }
                let s = pair.client.streams().open(Dir::Bi).unwrap();
                pair.client.streams().send(s, Bytes::from_static(b"again"), true).unwrap();
                pair.run_ms(9_000);
                assert_eq!(pair.client_app.data.get(&s).map(Vec::len), Some(5), "{about}");
                assert_eq!(pair.server.remote(), nat, "{about}");
                assert!(is_quiet(&pair.server) && is_quiet(&pair.client), "{about}");
            }
        }
    }
    assert!(moved > 0, "none during the handshake");
}

#[test]
fn a_client_asks_until_its_handshake_is_complete() {
    // The server has little room at the new address, and what it sent last there is lost. All packets of
    // the client's are acknowledged, and none of the server's may follow: the client has to ask.
    // As if the server's flight had come in part.
    let mut pair = Pair::new();
    pair.run_ms(1);
    let h = pair.client.handshake.as_mut().unwrap();
    h.peer_validated_us = true;
    h.initial.sent.forget();
    assert!(pair.client.is_handshaking());
    let waits_ns = pair.client.next_timeout().unwrap().ns_since(pair.now);
    assert!(waits_ns < 2_000_000_000, "{waits_ns}: the handshake has ten seconds");
}

#[test]
fn a_nat_that_forgets_again_and_again_is_followed() {
    let mut pair = Pair::new();
    pair.client_app.initial = Some(Bytes::from(vec![5; 10_000]));
    for n in 0..40 {
        pair.nat = addr(2000 + n);
        pair.run_ms(7);
    }
    pair.run_ms(9_000);
    assert!(pair.client.is_confirmed() && pair.server.is_confirmed());
    let s = StreamId::new(Side::Client, Dir::Bi, 0);
    assert_eq!(pair.client_app.data.get(&s).map(Vec::len), Some(10_000));
}

/// A server that has answered the client's first flight, and that flight's bytes.
fn half_way() -> Pair {
    let mut pair = Pair::new();
    pair.run_ms(1);
    assert!(pair.server.is_handshaking() && !pair.server.is_address_validated());
    let mut buf = [0; 2048];
    while pair.server.transmit(pair.now, &mut buf).is_some() {}
    pair
}

fn drain(pair: &mut Pair) -> usize {
    let (mut buf, mut sent) = ([0; 2048], 0);
    while let Some(t) = pair.server.transmit(pair.now, &mut buf) {
        sent += t.len;
    }
    sent
}

#[test]
fn attack_35_a_forged_initial_moves_a_handshake_until_its_client_is_heard() {
    let mut pair = half_way();
    let at = Addresses { local: addr(443), remote: far(9) };
    let before = pair.server.path.validation;
    // Not authentic: nothing changes, and what came counts for nobody.
    let mut noise = initial(&payload(&[Frame::Ping]), 1 << 20, cid(1), 1_200);
    noise[600] ^= 1;
    assert_eq!(pair.deliver_at(Side::Server, &at, Ecn::NotEct, &mut noise), None);
    assert_eq!((pair.server.remote(), pair.server.path.validation), (addr(1000), before));
    // A third party has seen the first packet. It gets three times what it sends, at most.
    let hello = Frame::Crypto { offset: 0, data: &[1] };
    let mut forged = initial(&payload(&[hello]), 1 << 20, cid(1), 1_200);
    assert!(pair.deliver_at(Side::Server, &at, Ecn::NotEct, &mut forged).is_some());
    assert_eq!(pair.server.remote(), far(9));
    let mut sent = drain(&mut pair);
    for _ in 0..20 {
        pair.now = pair.now.plus_ns(1_000_000_000 / 4);
        pair.server.handle_timeout(pair.now, &mut pair.server_app);
        sent += drain(&mut pair);
    }
    assert!((1..=3_600).contains(&sent), "{sent}");
    // Where the handshake began costs no memory of its own: each datagram that is not authentic writes it too.
    let h = pair.server.handshake.as_mut().unwrap();
    let (held, home) = (h.memory_bytes(), h.home.take());
    assert!(home.is_some() && h.memory_bytes() == held);
    h.home = home;
    // The client's Handshake packets lead back.
    pair.run_ms(5_000);
    assert_eq!(pair.server.remote(), addr(1000));
    assert!(pair.client.is_confirmed() && pair.server.is_confirmed());
    assert!(is_quiet(&pair.server));
    assert_eq!(pair.server.stats().rx_foreign, 0);
}

#[test]
fn attack_35_a_handshake_packet_of_before_does_not_move_a_handshake_back() {
    let (mut pair, mut old) = (half_way(), Vec::new());
    // The client's answers are caught: the first arrives last.
    let (tell, heard) = std::sync::mpsc::channel();
    pair.filter = Box::new(move |f| {
        if f.to == Side::Server {
            let _ = tell.send(f.bytes.clone());
        }
        f.to == Side::Client
    });
    // The server's flight is lost as well, in part: it has to be repeated.
    pair.run_ms(3_000);
    old.extend(heard.try_iter());
    let handshake = |bytes: &Vec<u8>| bytes[0] & 0xf0 == 0xe0;
    let packets: Vec<_> = old.into_iter().filter(handshake).collect();
    assert!(packets.len() > 1, "the client repeats its Finished");
    // Those with a 1-RTT packet are longer.
    let longest = packets.iter().map(Vec::len).max().unwrap();
    let mut last = packets.iter().rfind(|p| p.len() == longest).unwrap().clone();
    let mut first = packets[0].clone();
    assert_ne!(first, last);
    let there = Addresses { local: addr(443), remote: far(9) };
    let here = Addresses { local: addr(443), remote: addr(1000) };
    pair.deliver_at(Side::Server, &there, Ecn::NotEct, &mut last);
    // It has ended the handshake, or moved it.
    assert_eq!(pair.server.remote(), far(9));
    assert!(pair.server.others.as_ref().is_none_or(|o| o.paths[0].fallback));
    pair.deliver_at(Side::Server, &here, Ecn::NotEct, &mut first);
    assert_eq!(pair.server.remote(), far(9));
}

/// A packet of the client's that says nothing but that it is there.
fn handshake_ping(pair: &mut Pair, pn: u64) -> Vec<u8> {
    let keys = pair.client.handshake.as_ref().unwrap().handshake.keys.as_ref().unwrap();
    let header = LongHeader {
        kind: PacketType::Handshake,
        version: VERSION_1,
        dcid: cid(3),
        scid: cid(1),
        token: b"",
    };
    let mut buf = vec![0; 200];
    let mut w = Writer::new(&mut buf);
    let layout = header.write(&mut w, pn, 4).unwrap();
    let start = w.position();
    w.bytes(&payload(&[Frame::Ping, Frame::Padding { len: 20 }])).unwrap();
    let end = w.position();
    patch_length(&mut buf, layout.length_at, end + TAG_LEN - layout.pn_at);
    let total = keys.local.packet().seal(pn, &mut buf, start, end - start).unwrap();
    assert!(keys.local.header().mask(&mut buf[..total], layout.pn_at));
    buf.truncate(total);
    buf
}

#[test]
fn a_late_packet_of_a_handshake_does_not_say_how_its_client_is_reached() {
    let mut pair = Pair::new();
    pair.run_ms(1);
    // The client gets the server's flight, and its own is lost.
    pair.filter = Box::new(|f| f.to == Side::Client);
    pair.run_ms(2);
    let here = Addresses { local: addr(443), remote: addr(1000) };
    let there = Addresses { local: addr(443), remote: far(9) };
    let mut deliver = |pn, at| {
        let mut packet = handshake_ping(&mut pair, pn);
        let path = pair.deliver_at(Side::Server, at, Ecn::NotEct, &mut packet);
        assert!(pair.server.is_handshaking());
        (path.is_some(), pair.server.remote())
    };
    assert_eq!(deliver(50, &there), (true, far(9)));
    // The worker would send to the neighbour of the one address what is for the other.
    assert_eq!(deliver(40, &here), (false, far(9)));
    assert_eq!(deliver(51, &here), (true, addr(1000)));
}
