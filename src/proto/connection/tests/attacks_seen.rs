//! Hostile peers, as they were seen in other stacks and in reviews: rows 57 to 75, and what a
//! review of this one found. Each test is named after its row, if it has one.

use super::forge::{initial, initial_from, initial_with, payload};
use super::pair::*;
use super::*;
use crate::proto::crypto::retry_tag;
use crate::proto::observer::{DropReason, Observation};
use crate::wire::frame::Frame;
use crate::wire::packet::{LongHeader, PacketType};
use crate::wire::{VERSION_1, Writer};
use std::hash::{DefaultHasher, Hasher};

fn stream(index: u64) -> StreamId {
    StreamId::new(Side::Client, Dir::Bi, index)
}

fn verdict_on(side: Side, payload: &[u8]) -> Option<u64> {
    let mut pair = Pair::connected();
    pair.attack_1rtt(side.peer(), payload);
    pair.verdict(side)
}

/// A Retry with a true tag, from `scid`.
fn retry(to: ConnectionId, scid: ConnectionId) -> Vec<u8> {
    let mut buf = [0; 256];
    let mut w = Writer::new(&mut buf);
    crate::wire::packet::write_retry_header(&mut w, 1, &to, &scid, b"token", 0).unwrap();
    let tag = retry_tag(cid(2).as_slice(), w.written()).unwrap();
    w.bytes(&tag).unwrap();
    let len = w.position();
    buf[..len].to_vec()
}

/// RFC 9000 §14.1: what is left of the amplification limit may be too small for an Initial that
/// asks for an acknowledgement.
#[test]
fn no_initial_that_asks_for_an_ack_leaves_in_a_small_datagram() {
    for size in [1200, 1252, 1300, 1400] {
        let mut pair = Pair::new();
        let mut buf = [0; 2048];
        let t = pair.client.transmit(pair.now, &mut buf).unwrap();
        let mut first = buf[..t.len].to_vec();
        // The datagram is longer than the packet in it: the rest is junk, and counts.
        first.resize(size, 0);
        pair.deliver(Side::Server, Ecn::NotEct, &mut first);
        let mut sent = 0;
        for _ in 0..100 {
            while let Some(t) = pair.server.transmit(pair.now, &mut buf) {
                sent += 1;
                let initial = buf[0] & 0xb0 == 0x80;
                let full = t.len >= usize::from(MIN_DATAGRAM_BYTES);
                assert!(!initial || full, "an Initial in {} of {size} bytes", t.len);
            }
            let Some(next) = pair.server.next_timeout() else { break };
            pair.now = pair.now.max(next);
            pair.server.handle_timeout(pair.now, &mut pair.server_app);
        }
        assert!(sent > 0);
    }
}

#[test]
fn attack_15_crypto_beyond_the_buffer_is_refused_after_the_handshake_too() {
    let far = payload(&[Frame::Crypto { offset: 1 << 20, data: b"x" }]);
    for side in [Side::Client, Side::Server] {
        assert_eq!(verdict_on(side, &far), Some(code::CRYPTO_BUFFER_EXCEEDED), "{side:?}");
    }
    let next = payload(&[Frame::Crypto { offset: 0, data: &[24, 0, 0, 1, 0] }]);
    assert_eq!(verdict_on(Side::Server, &next), Some(code::UNEXPECTED_MESSAGE));
}

/// The reserved transport parameters that the server of a pair sends: (id - 27) / 31, value.
fn told_by_server() -> Vec<(u64, Vec<u8>)> {
    let mut pair = Pair::new();
    let limit = pair.now.plus_ns(1_000_000_000);
    while !pair.client.is_established() {
        assert!(pair.step(limit));
    }
    let raw = pair.client.session.as_ref().unwrap().peer_transport_parameters().unwrap();
    let mut r = crate::wire::Reader::new(raw);
    let mut reserved = Vec::new();
    while !r.is_empty() {
        let (id, len) = (r.varint().unwrap(), r.varint().unwrap());
        let value = r.bytes(len as usize).unwrap();
        if id % 31 == 27 {
            reserved.push(((id - 27) / 31, value.to_vec()));
        }
    }
    reserved
}

#[test]
fn attack_25_the_grease_parameter_is_not_made_of_the_seed() {
    let told = (SERVER_GREASE & 0x00ff_ffff, SERVER_GREASE.to_be_bytes()[..7].to_vec());
    let len = (SERVER_GREASE >> 56) as usize % 8;
    assert_eq!(told_by_server(), [(told.0, told.1[..len].to_vec())]);
    assert_ne!(told.0, SERVER_SEED & 0x00ff_ffff);
}

/// The number that follows in the sequence of [`Connection::random`].
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0xa076_1d64_78bd_642f);
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(*state);
    hasher.finish()
}

/// An attacker who receives nothing and acknowledges everything but the numbers that it expects
/// to be skipped, since it believes that the connection's seed is `seed`; it knows the window,
/// and which number was sent last. Returns what the server sent, and whether it found out.
fn optimistic_with_seed(seed: u64) -> (u64, bool) {
    const WANTED_BYTES: u64 = 8 << 20;
    let wide = TransportConfig {
        connection_window_bytes: 4 * WANTED_BYTES,
        stream_window_bytes: 4 * WANTED_BYTES,
        ..TransportConfig::default()
    };
    let mut pair = Pair::with(wide, TransportConfig::default());
    pair.settle();
    let mut state = seed;
    let mut expected = 64 + next_random(&mut state) % 64;
    assert!(seed != SERVER_SEED || expected == pair.server.skip_at, "no good attacker");
    let s = pair.server.streams().open(Dir::Uni).unwrap();
    pair.server.streams().send(s, Bytes::from(vec![0; 2 * WANTED_BYTES as usize]), true).unwrap();
    let mut buf = [0; 2048];
    let mut first = 0;
    for _ in 0..100_000 {
        let mut arrived = Vec::new();
        loop {
            let window = pair.server.path.congestion.window();
            let span = (window / u64::from(pair.server.path.mtu.current())).max(64);
            let next = pair.server.data.sent.next_pn();
            if pair.server.transmit(pair.now, &mut buf).is_none() {
                break;
            }
            if next >= expected {
                arrived.extend(first..next);
                first = next + 1;
                expected = first + span + next_random(&mut state) % span;
            }
        }
        let end = pair.server.data.sent.next_pn();
        arrived.extend(first..end);
        first = end;
        pair.now = pair.now.plus_ns(1_000_000);
        if !arrived.is_empty() {
            let ranges = super::attacks::ranges(&arrived);
            pair.attack_1rtt(Side::Client, &super::attacks::ack_payload(&ranges));
        }
        let sent = pair.server.stats.tx_bytes;
        if pair.server.is_closed() {
            assert_eq!(pair.verdict(Side::Server), Some(code::PROTOCOL_VIOLATION));
            return (sent, true);
        }
        if sent >= WANTED_BYTES {
            return (sent, false);
        }
    }
    panic!("it stands still: {:?}", pair.server.stats());
}

#[test]
fn attack_25_who_reads_the_grease_parameter_cannot_tell_the_skipped_numbers() {
    let (sent, convicted) = optimistic_with_seed(SERVER_SEED);
    assert!(!convicted, "an attacker that has the seed is not found out: {sent} bytes");
    // What is told in part is believed to be the seed: the attacker reconnects until it is told
    // the whole of one.
    let told = told_by_server()[0].0;
    let of = [SERVER_SEED, SERVER_GREASE].into_iter().find(|n| n & 0x00ff_ffff == told).unwrap();
    let (sent, convicted) = optimistic_with_seed(of);
    assert!(convicted && sent < 1 << 20, "{sent} bytes were sent before the lie was found");
}

#[test]
fn attack_38_reset_tokens_of_ids_never_used_are_not_believed() {
    // RFC 9000 §10.3.1.
    let mut pair = Pair::connected();
    let spare = Frame::NewConnectionId {
        sequence: 7,
        retire_prior_to: 0,
        cid: cid(77),
        reset_token: [77; 16],
    };
    pair.attack(Side::Server, &[spare]);
    assert_eq!(pair.verdict(Side::Client), None);
    let mut reset = vec![0x55; 44];
    reset.extend_from_slice(&[77; 16]);
    pair.deliver(Side::Client, Ecn::NotEct, &mut reset);
    assert!(pair.client.is_established(), "the id was never used");
    // Once the old one is retired it is.
    let instead = Frame::NewConnectionId {
        sequence: 8,
        retire_prior_to: 7,
        cid: cid(78),
        reset_token: [78; 16],
    };
    pair.attack(Side::Server, &[instead]);
    assert_eq!(*pair.client.remote_cids.current(), cid(77));
    let mut old = [vec![0x55; 44], vec![3; 16]].concat();
    pair.deliver(Side::Client, Ecn::NotEct, &mut old);
    assert!(pair.client.is_established(), "the id is retired");
    let mut reset = [vec![0x55; 44], vec![77; 16]].concat();
    pair.deliver(Side::Client, Ecn::NotEct, &mut reset);
    assert_eq!(pair.client_app.closed(), Some(&CloseReason::StatelessReset));
}

#[test]
fn the_id_of_a_preferred_address_is_number_1() {
    // RFC 9000 §5.1.1, §19.15.
    let mut pair = Pair::connected();
    let mut ids = cids::RemoteCids::new(cid(1), 4);
    ids.add_preferred(cid(50), [50; 16]).unwrap();
    assert!(ids.add(1, 0, cid(50), [50; 16]).is_ok(), "repeated");
    assert!(ids.add(1, 0, cid(51), [51; 16]).is_err(), "another id under the same number");
    assert!(ids.add(2, 0, cid(50), [50; 16]).is_err(), "the same id under another number");
    let mut none = cids::RemoteCids::new(ConnectionId::EMPTY, 4);
    let e = none.add_preferred(cid(50), [50; 16]).unwrap_err();
    assert_eq!(e.code, code::TRANSPORT_PARAMETER_ERROR);
    pair.settle();
}

#[test]
fn a_huge_acknowledgement_delay_is_the_largest_not_a_small_one() {
    use super::super::acks::told_delay_ns;
    assert_eq!(told_delay_ns(1, 3), 8_000);
    assert_eq!(told_delay_ns(1 << 61, 3), u64::MAX);
    assert_eq!(told_delay_ns(crate::wire::VARINT_MAX, 20), u64::MAX);
}

#[test]
fn an_application_may_close_inside_its_data_callback_while_a_buffer_is_out() {
    let mut pair = Pair::connected();
    pair.server_app.closes_at = Some(pair.now);
    let late = Frame::Stream { stream: stream(0), offset: 5, data: b"world", fin: true };
    let first = Frame::Stream { stream: stream(0), offset: 0, data: b"hell", fin: false };
    let overlap = Frame::Stream { stream: stream(0), offset: 3, data: b"lo", fin: false };
    pair.server_app.appetite = None;
    pair.attack(Side::Client, &[late]);
    // Part of it arrived before: all of it goes through the buffer.
    pair.attack(Side::Client, &[overlap, first]);
    assert_eq!(pair.server_app.closed(), Some(&CloseReason::Local { code: 7 }));
    pair.server.shrink();
    let rings = pair.server.streams.memory_bytes();
    assert_eq!(rings, size_of_val(&pair.server.streams), "nothing of the old streams is kept");
    pair.run_ms(5_000);
    assert!(pair.server.is_drained() && pair.client.is_drained());
}

#[test]
fn attack_39_a_datagram_frame_that_was_not_negotiated_is_a_violation() {
    assert_eq!(verdict_on(Side::Server, &[0x30, 1, 2, 3]), Some(code::PROTOCOL_VIOLATION));
    assert_eq!(verdict_on(Side::Client, &[0x31, 2, 1, 2]), Some(code::PROTOCOL_VIOLATION));
}

#[test]
fn attack_57_a_retry_with_the_clients_own_first_id_is_discarded() {
    let mut pair = Pair::new();
    let drops = pair.hear_drops(Side::Client);
    pair.deliver(Side::Client, Ecn::NotEct, &mut retry(cid(1), cid(2)));
    assert_eq!(drops.take(), [DropReason::UselessRetry]);
    assert!(pair.client.handshake.as_ref().unwrap().token.is_empty());
    pair.settle();
    assert!(pair.client.is_confirmed(), "as if it had not come");
    // The same with another id is what a server sends.
    let mut pair = Pair::new();
    pair.deliver(Side::Client, Ecn::NotEct, &mut retry(cid(1), cid(9)));
    assert_eq!(pair.client.handshake.as_ref().unwrap().token, b"token");
}

#[test]
fn attack_58_an_initial_of_a_server_that_carries_a_token_is_discarded() {
    let mut pair = Pair::new();
    let forged = |token| {
        let kind = PacketType::Initial;
        let (dcid, scid) = (cid(1), cid(66));
        let header = LongHeader { kind, version: VERSION_1, dcid, scid, token };
        initial_with(Side::Server, &header, &payload(&[Frame::Ping]), 0, 1200)
    };
    let drops = pair.hear_drops(Side::Client);
    pair.deliver(Side::Client, Ecn::NotEct, &mut forged(b"token"));
    assert_eq!(drops.take(), [DropReason::UnexpectedToken]);
    assert_eq!(pair.client.stats.rx_packets, 0);
    assert_eq!(*pair.client.remote_cids.current(), cid(2), "its id is not taken either");
    pair.settle();
    assert!(pair.client.is_confirmed());
    let mut pair = Pair::new();
    pair.deliver(Side::Client, Ecn::NotEct, &mut forged(b""));
    assert_eq!(pair.client.stats.rx_packets, 1, "the token made the difference");
}

#[test]
fn attack_59_version_negotiation_that_does_not_echo_our_ids_is_discarded() {
    let negotiation = |dcid: ConnectionId, scid: ConnectionId| {
        let mut buf = [0; 256];
        let mut w = Writer::new(&mut buf);
        let (to, from) = (dcid.as_slice(), scid.as_slice());
        crate::wire::packet::write_version_negotiation(&mut w, to, from, &[2], 0).unwrap();
        let len = w.position();
        buf[..len].to_vec()
    };
    let mut pair = Pair::new();
    let drops = pair.hear_drops(Side::Client);
    for (dcid, scid) in [(cid(1), cid(9)), (cid(9), cid(2)), (cid(2), cid(1))] {
        pair.deliver(Side::Client, Ecn::NotEct, &mut negotiation(dcid, scid));
        assert_eq!(drops.take(), [DropReason::UselessVersionNegotiation]);
        assert!(!pair.client.is_closed(), "{dcid:?} {scid:?}");
    }
    pair.deliver(Side::Client, Ecn::NotEct, &mut negotiation(cid(1), cid(2)));
    assert_eq!(pair.client_app.closed(), Some(&CloseReason::VersionMismatch));
    // The same after the handshake.
    let mut pair = Pair::connected();
    let drops = pair.hear_drops(Side::Client);
    let before = pair.client.stats.rx_dropped;
    pair.deliver(Side::Client, Ecn::NotEct, &mut negotiation(cid(1), cid(2)));
    assert_eq!(drops.take(), [DropReason::UselessVersionNegotiation]);
    assert_eq!(pair.client.stats.rx_dropped, before + 1);
    assert!(pair.client.is_established());
}

/// Long headers of types that have no use on an established connection.
fn unhandled(to: ConnectionId, from: ConnectionId) -> Vec<Vec<u8>> {
    let long = |first: u8| {
        let mut packet = vec![first, 0, 0, 0, 1, 8];
        packet.extend_from_slice(to.as_slice());
        packet.push(8);
        packet.extend_from_slice(from.as_slice());
        if first & 0x30 == 0 {
            packet.push(0);
        }
        packet.extend_from_slice(&[0x44, 0x00]);
        packet.resize(packet.len() + 1024, 0x5a);
        packet.resize(1200.max(packet.len()), 0);
        packet
    };
    // Initial, 0-RTT, Handshake, Retry; and another version.
    let mut all = vec![long(0xc0), long(0xd0), long(0xe0), retry(to, from)];
    let mut version = long(0xc0);
    version[4] = 9;
    all.push(version);
    all
}

#[test]
fn attack_60_packets_of_types_that_we_do_not_handle_touch_nothing() {
    let mut pair = Pair::connected();
    for side in [Side::Client, Side::Server] {
        let drops = pair.hear_drops(side);
        let (to, from) = if side == Side::Client { (cid(1), cid(3)) } else { (cid(3), cid(1)) };
        for mut packet in unhandled(to, from) {
            let kind = packet[0];
            let c = if side == Side::Client { &pair.client } else { &pair.server };
            let before =
                (c.next_timeout(), c.memory_bytes(), c.stats.rx_packets, c.stats.tx_packets);
            let dropped = c.stats.rx_dropped;
            pair.now = pair.now.plus_ns(1_000);
            pair.deliver(side, Ecn::NotEct, &mut packet);
            let now = pair.now;
            let (c, mut buf) =
                (if side == Side::Client { &mut pair.client } else { &mut pair.server }, [0; 2048]);
            assert!(c.transmit(now, &mut buf).is_none(), "{side:?} answers {kind:#x}");
            let after =
                (c.next_timeout(), c.memory_bytes(), c.stats.rx_packets, c.stats.tx_packets);
            assert_eq!(before, after, "{side:?} {kind:#x}");
            assert!(c.is_established(), "{side:?} {kind:#x}");
            let counted = c.stats.rx_dropped - dropped;
            assert_eq!((counted, drops.take().len()), (1, 1), "{side:?} {kind:#x}");
        }
    }
    let s = pair.client.streams().open(Dir::Bi).unwrap();
    pair.client.streams().send(s, Bytes::from_static(b"still here"), true).unwrap();
    pair.settle();
    assert_eq!(pair.client_app.data[&s], b"still here");
}

#[test]
fn attack_60_a_handshake_survives_what_it_does_not_handle() {
    // Retry and 0-RTT to a server, and a server's Retry after its Initial.
    let mut pair = Pair::new();
    for mut packet in unhandled(cid(2), cid(1)).split_off(3) {
        pair.deliver(Side::Server, Ecn::NotEct, &mut packet);
    }
    let mut zero_rtt = unhandled(cid(2), cid(1)).swap_remove(1);
    pair.deliver(Side::Server, Ecn::NotEct, &mut zero_rtt);
    assert_eq!(pair.server.stats.rx_packets, 0);
    pair.settle();
    assert!(pair.client.is_confirmed() && pair.server.is_confirmed());
}

#[test]
fn attack_62_stream_counts_beyond_2_to_the_60_are_encoding_errors() {
    let huge = [0xd0, 0, 0, 0, 0, 0, 0, 1];
    for frame in [0x12, 0x13, 0x16, 0x17] {
        let payload = [&[frame][..], &huge].concat();
        for side in [Side::Client, Side::Server] {
            assert_eq!(verdict_on(side, &payload), Some(code::FRAME_ENCODING_ERROR), "{frame:#x}");
        }
        let most = [&[frame][..], &[0xd0, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(verdict_on(Side::Server, &most), None, "{frame:#x}: 2^60 itself is allowed");
    }
}

#[test]
fn attack_62_a_max_ack_delay_of_2_to_the_14_is_a_transport_parameter_error() {
    for (ms, verdict) in [((1 << 14) - 1, None), (1 << 14, Some(code::TRANSPORT_PARAMETER_ERROR))] {
        let delay = std::time::Duration::from_millis(ms);
        let client = TransportConfig { max_ack_delay: delay, ..TransportConfig::default() };
        let mut pair = Pair::with(client, TransportConfig::default());
        pair.settle();
        assert_eq!(pair.verdict(Side::Server), verdict, "{ms} ms");
        assert_eq!(pair.server.is_confirmed(), verdict.is_none());
    }
}

#[test]
fn attack_63_control_frames_for_ids_over_the_limit_allocate_nothing() {
    let far = stream(100);
    let frames = [
        Frame::ResetStream { stream: far, code: 0, final_size: 0 },
        Frame::StopSending { stream: far, code: 0 },
        Frame::MaxStreamData { stream: far, max: 1 << 20 },
        Frame::StreamDataBlocked { stream: far, limit: 0 },
    ];
    for frame in &frames {
        let mut pair = Pair::connected();
        let before = (pair.server.streams.open_streams(), pair.server.streams.stats().accepted);
        let mut packet = pair.forge_1rtt(Side::Client, &payload(std::slice::from_ref(frame)), 0);
        pair.deliver(Side::Server, Ecn::NotEct, &mut packet);
        assert_eq!(pair.verdict(Side::Server), Some(code::STREAM_LIMIT_ERROR), "{frame:?}");
        let after = (pair.server.streams.open_streams(), pair.server.streams.stats().accepted);
        assert_eq!(before, after, "{frame:?}");
    }
}

#[test]
fn attack_66_each_key_update_is_answered_once() {
    let mut pair = Pair::connected();
    let s = pair.client.streams().open(Dir::Bi).unwrap();
    for n in 1..=5 {
        assert!(pair.client.update_keys(), "update {n}");
        pair.client.streams().send(s, Bytes::from_static(b"x"), false).unwrap();
        // Both change once, and neither side answers the answer.
        pair.run_ms(2_000);
        assert_eq!(pair.client.stats().key_updates, n);
        assert_eq!(pair.server.stats().key_updates, n);
    }
    // A packet that says it again, and an old one again, are no update.
    let before = pair.server.stats().key_updates;
    let mut packet = pair.forge_1rtt(Side::Client, &payload(&[Frame::Ping]), 0);
    let mut again = packet.clone();
    pair.deliver(Side::Server, Ecn::NotEct, &mut packet);
    pair.deliver(Side::Server, Ecn::NotEct, &mut again);
    assert_eq!(pair.server.stats().key_updates, before);
}

#[test]
fn attack_67_a_packet_is_opened_before_it_is_known_as_a_duplicate() {
    // RFC 9001 §9.5: the time until a packet is dropped must not tell which numbers were seen.
    let mut pair = Pair::connected();
    let limit = pair.server.keys.as_ref().unwrap().integrity_limit();
    let mut packet = pair.forge_1rtt(Side::Client, &payload(&[Frame::Ping]), 0);
    let (mut again, mut damaged) = (packet.clone(), packet.clone());
    *damaged.last_mut().unwrap() ^= 1;
    pair.deliver(Side::Server, Ecn::NotEct, &mut packet);
    let drops = pair.hear_drops(Side::Server);
    pair.deliver(Side::Server, Ecn::NotEct, &mut again);
    assert_eq!(drops.take(), [DropReason::Duplicate]);
    // A forgery under a number that was seen is a forgery: it was opened, and counts.
    pair.server.keys.as_mut().unwrap().assume_failures(limit);
    pair.deliver(Side::Server, Ecn::NotEct, &mut damaged);
    assert_eq!(pair.verdict(Side::Server), Some(code::AEAD_LIMIT_REACHED));
}

#[test]
fn attack_68_not_one_decryption_past_the_integrity_limit() {
    let mut pair = Pair::connected();
    let limit = pair.server.keys.as_ref().unwrap().integrity_limit();
    pair.server.keys.as_mut().unwrap().assume_failures(limit);
    let mut authentic = pair.forge_1rtt(Side::Client, &payload(&[Frame::Ping]), 0);
    let mut forged = pair.forge_1rtt(Side::Client, &payload(&[Frame::Ping]), 0);
    *forged.last_mut().unwrap() ^= 1;
    pair.deliver(Side::Server, Ecn::NotEct, &mut forged);
    assert_eq!(pair.verdict(Side::Server), Some(code::AEAD_LIMIT_REACHED));
    let packets = pair.server.stats.rx_packets;
    pair.deliver(Side::Server, Ecn::NotEct, &mut authentic);
    assert_eq!(pair.server.stats.rx_packets, packets, "the key opens nothing any more");
}

#[test]
fn attack_70_the_back_off_of_probes_never_overflows() {
    let never = TransportConfig {
        idle_timeout: std::time::Duration::ZERO,
        initial_rtt: std::time::Duration::from_secs(1 << 40),
        ..TransportConfig::default()
    };
    let mut pair = Pair::with(never.clone(), never);
    pair.run_ms(100);
    let s = pair.client.streams().open(Dir::Bi).unwrap();
    pair.client.streams().send(s, Bytes::from_static(b"x"), true).unwrap();
    pair.filter = Box::new(|_| false);
    let mut buf = [0; 2048];
    while pair.client.transmit(pair.now, &mut buf).is_some() {}
    let mut last = pair.now;
    for _ in 0..300 {
        let Some(next) = pair.client.next_timeout() else { break };
        assert!(next >= last, "time goes on");
        last = next;
        pair.now = pair.now.max(next);
        pair.client.handle_timeout(pair.now, &mut pair.client_app);
        while pair.client.transmit(pair.now, &mut buf).is_some() {}
    }
    assert!(pair.client.stats().ptos > 20, "{:?}", pair.client.stats());
}

#[test]
fn initials_of_a_server_find_their_client() {
    // The forged ones above are refused for what is wrong with them, not for their shape.
    let mut pair = Pair::new();
    let fine = payload(&[Frame::Ping]);
    let mut packet = initial_from(Side::Server, cid(1), cid(3), &fine, 0, 1200);
    pair.deliver(Side::Client, Ecn::NotEct, &mut packet);
    assert_eq!(pair.client.stats.rx_packets, 1);
    let mut packet = initial(&fine, 0, cid(1), 1200);
    pair.deliver(Side::Server, Ecn::NotEct, &mut packet);
    assert_eq!(pair.server.stats.rx_packets, 1);
}

#[test]
fn a_peer_that_acknowledges_nothing_makes_us_hold_a_bounded_account() {
    let mut pair = Pair::connected();
    let mut buf = [0; 2048];
    let before = pair.server.memory_bytes();
    for n in 0..60_000 {
        // Each leaves a number out, so that it is acknowledged at once.
        pair.client.data.sent.skip();
        pair.attack(Side::Client, &[Frame::Ping]);
        while pair.server.transmit(pair.now, &mut buf).is_some() {}
        pair.now = pair.now.plus_ns(10_000);
        if n % 100 == 0 {
            pair.server.handle_timeout(pair.now, &mut pair.server_app);
        }
    }
    assert!(pair.server.is_established());
    let stats = pair.server.stats();
    let held = pair.server.memory_bytes() - before;
    assert!(held < 2 << 20, "{held} bytes after {} packets, {stats:?}", stats.tx_packets);
    assert!(stats.tx_withheld_acks > 0, "{stats:?}");
}

#[test]
fn acknowledgements_alone_are_forgotten_and_now_and_then_a_ping_asks() {
    // An honest client that keeps its connection alive, and a server that has nothing to say.
    let mut pair = Pair::connected();
    let asked = pair.hear(Side::Server, |what| match what {
        Observation::PacketSent(p) => p.frames().any(|f| f == Frame::Ping).then_some(()),
        _ => None,
    });
    let mut most = 0;
    for _ in 0..2_000 {
        pair.client.pending.ping = true;
        pair.run_ms(1_000);
        most = most.max(pair.server.data.sent.memory_bytes());
    }
    assert!(most <= 8 << 10, "{most} bytes");
    pair.server.shrink();
    assert!(pair.server.data.sent.memory_bytes() <= 1 << 10);
    // RFC 9000 §13.2.4: the ranges shrink too, since a PING among them is acknowledged.
    assert!(pair.server.data.received.ranges.heap_bytes() <= 1 << 10);
    let [client, server] = [&pair.client, &pair.server].map(|c| c.stats());
    assert!(client.rx_packets < 2_200 && server.rx_packets < 2_200, "{client:?} {server:?}");
    assert!((2_000 / 70..=2_000 / 50).contains(&asked.take().len()), "{server:?}");
}
