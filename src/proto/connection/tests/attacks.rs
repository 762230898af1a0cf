//! Hostile peers: forged frames in authentic packets. Each test is named after its row.

use super::forge::{initial, initial_from, payload};
use super::pair::*;
use super::*;
use crate::proto::observer::{DropReason, Observation};
use crate::wire::VARINT_MAX;
use crate::wire::Writer;
use crate::wire::frame::{Frame, write_ack};
use std::cell::Cell;
use std::rc::Rc;

fn stream(index: u64) -> StreamId {
    StreamId::new(Side::Client, Dir::Bi, index)
}

/// Closes a fresh pair's server with forged frames and returns its verdict.
fn server_verdict(frames: &[Frame<'_>]) -> Option<u64> {
    let mut pair = Pair::connected();
    pair.attack(Side::Client, frames);
    pair.verdict(Side::Server)
}

fn raw_verdict(payload: &[u8]) -> Option<u64> {
    let mut pair = Pair::connected();
    pair.attack_1rtt(Side::Client, payload);
    pair.verdict(Side::Server)
}

pub(super) fn ack_payload(ranges: &[(u64, u64)]) -> Vec<u8> {
    let mut buf = vec![0; 4096];
    let mut w = Writer::new(&mut buf);
    write_ack(&mut w, ranges.iter().copied(), ranges.len(), 0, None).unwrap();
    let len = w.position();
    buf.truncate(len);
    buf
}

#[test]
fn attack_01_spoofed_initials_are_answered_with_three_times_the_bytes_at_most() {
    let mut pair = Pair::new();
    let (mut to_server, mut to_client) = (0usize, 0usize);
    let mut buf = [0; 2048];
    // The client's first flight arrives, its answers never do, and every datagram counts.
    let t = pair.client.transmit(pair.now, &mut buf).unwrap();
    let mut first = buf[..t.len].to_vec();
    to_server += first.len();
    pair.deliver(Side::Server, Ecn::NotEct, &mut first);
    for _ in 0..10_000 {
        while let Some(t) = pair.server.transmit(pair.now, &mut buf) {
            to_client += t.len;
            assert!(to_client <= 3 * to_server, "{to_client} bytes for {to_server}");
        }
        let Some(next) = pair.server.next_timeout() else { break };
        pair.now = pair.now.max(next);
        pair.server.handle_timeout(pair.now, &mut pair.server_app);
        if pair.server.is_drained() {
            break;
        }
    }
    assert!(to_client > to_server, "the server did try");
    assert!(pair.server.is_drained(), "and gave up by itself");
}

#[test]
fn attack_02_small_initials_are_discarded() {
    let mut pair = Pair::new();
    let drops = pair.hear_drops(Side::Server);
    let mut small = initial(&payload(&[Frame::Ping]), 0, cid(1), 1199);
    pair.deliver(Side::Server, Ecn::NotEct, &mut small);
    assert_eq!(drops.take(), [DropReason::SmallInitial]);
    assert_eq!((pair.server.stats.rx_packets, pair.server.stats.rx_dropped), (0, 1));
    let mut fine = initial(&payload(&[Frame::Ping]), 0, cid(1), 1200);
    pair.deliver(Side::Server, Ecn::NotEct, &mut fine);
    assert_eq!(pair.server.stats.rx_packets, 1);
}

#[test]
fn attack_03_coalesced_packets_for_other_ids_are_ignored_and_not_kept() {
    let mut pair = Pair::new();
    let mut both = initial(&payload(&[Frame::Ping]), 0, cid(1), 600);
    both.extend(initial_from(Side::Client, cid(9), cid(1), &payload(&[Frame::Ping]), 1, 700));
    let drops = pair.hear_drops(Side::Server);
    pair.deliver(Side::Server, Ecn::NotEct, &mut both);
    assert_eq!(drops.take(), [DropReason::OtherConnection]);
    assert_eq!((pair.server.stats.rx_packets, pair.server.stats.rx_dropped), (1, 1));
    assert!(pair.server.early.is_none());
}

#[test]
fn attack_04_crypto_and_close_in_one_initial_end_quietly() {
    let mut pair = Pair::new();
    let frames = [
        Frame::Crypto { offset: 0, data: &[1, 0, 0, 9] },
        Frame::ConnectionClose { code: 0, frame_type: 0, reason: b"" },
    ];
    let mut answers = 0;
    let mut buf = [0; 2048];
    for pn in 0..50 {
        let mut packet = initial(&payload(&frames), pn, cid(1), 1200);
        pair.deliver(Side::Server, Ecn::NotEct, &mut packet);
        while pair.server.transmit(pair.now, &mut buf).is_some() {
            answers += 1;
        }
    }
    assert!(pair.server.is_closed());
    assert_eq!(answers, 0, "a peer that has closed gets no answer");
}

#[test]
fn attack_08_a_retry_to_a_server_or_late_to_a_client_is_discarded() {
    use crate::proto::crypto::retry_tag;
    let retry = |to: ConnectionId| {
        let mut buf = [0; 256];
        let mut w = Writer::new(&mut buf);
        crate::wire::packet::write_retry_header(&mut w, 1, &to, &cid(7), b"token", 0).unwrap();
        let tag = retry_tag(cid(2).as_slice(), w.written()).unwrap();
        w.bytes(&tag).unwrap();
        let len = w.position();
        buf[..len].to_vec()
    };
    let mut pair = Pair::new();
    let [to_client, to_server] = [Side::Client, Side::Server].map(|side| pair.hear_drops(side));
    pair.deliver(Side::Server, Ecn::NotEct, &mut retry(cid(3)));
    assert_eq!(to_server.take(), [DropReason::UselessRetry]);
    pair.run_ms(3);
    let before = *pair.client.remote_cids.current();
    pair.deliver(Side::Client, Ecn::NotEct, &mut retry(cid(1)));
    assert_eq!(to_client.take(), [DropReason::UselessRetry]);
    assert_eq!(*pair.client.remote_cids.current(), before, "the server has been heard already");
    pair.settle();
    assert!(pair.client.is_confirmed());
}

#[test]
fn attack_10_version_negotiation_that_lists_our_version_is_discarded() {
    let negotiation = |versions: &[u32], scid: ConnectionId| {
        let mut buf = [0; 256];
        let mut w = Writer::new(&mut buf);
        let (d, s) = (cid(1), scid);
        crate::wire::packet::write_version_negotiation(
            &mut w,
            d.as_slice(),
            s.as_slice(),
            versions,
            0,
        )
        .unwrap();
        let len = w.position();
        buf[..len].to_vec()
    };
    let mut pair = Pair::new();
    pair.deliver(Side::Client, Ecn::NotEct, &mut negotiation(&[1, 2], cid(2)));
    pair.deliver(Side::Client, Ecn::NotEct, &mut negotiation(&[2], cid(9)));
    pair.deliver(Side::Server, Ecn::NotEct, &mut negotiation(&[2], cid(2)));
    assert!(!pair.client.is_closed() && !pair.server.is_closed());
    pair.deliver(Side::Client, Ecn::NotEct, &mut negotiation(&[2], cid(2)));
    assert_eq!(pair.client_app.closed(), Some(&CloseReason::VersionMismatch));
}

#[test]
fn attack_11_packets_before_their_keys_are_kept_up_to_a_bound() {
    let mut pair = Pair::new();
    for n in 0..100 {
        // The shape of a Handshake packet for the client.
        let mut packet = vec![0xe0, 0, 0, 0, 1, 8];
        packet.extend_from_slice(cid(1).as_slice());
        packet.extend_from_slice(&[8, 3, 3, 3, 3, 3, 3, 3, 3, 0x40, 64]);
        packet.extend_from_slice(&[n; 64]);
        pair.deliver(Side::Client, Ecn::NotEct, &mut packet);
    }
    let kept = pair.client.early.as_ref().unwrap().len();
    assert_eq!(kept, super::super::early::EARLY_MAX);
    pair.settle();
    assert!(pair.client.is_confirmed(), "the real ones still get through");
}

#[test]
fn attack_15_crypto_beyond_the_buffer_is_refused() {
    let mut pair = Pair::new();
    let far = payload(&[Frame::Crypto { offset: 1 << 20, data: b"x" }]);
    pair.deliver(Side::Server, Ecn::NotEct, &mut initial(&far, 0, cid(1), 1200));
    assert_eq!(pair.verdict(Side::Server), Some(code::CRYPTO_BUFFER_EXCEEDED));
    let mut pair = Pair::new();
    let near = payload(&[Frame::Crypto { offset: 4000, data: &[1; 96] }]);
    pair.deliver(Side::Server, Ecn::NotEct, &mut initial(&near, 0, cid(1), 1200));
    assert_eq!(pair.verdict(Side::Server), None, "4096 bytes are accepted");
}

#[test]
fn attack_16_crypto_after_the_handshake_is_bounded() {
    let verdict = server_verdict(&[Frame::Crypto { offset: 0, data: &[24, 0, 0, 1, 0] }]);
    assert_eq!(verdict, Some(code::UNEXPECTED_MESSAGE));
    // A client reads tickets, but buffers no more than its bound.
    let mut pair = Pair::connected();
    let mut n = 0;
    while pair.verdict(Side::Client).is_none() {
        n += 1;
        assert!(n < 1_000, "a flood without end was accepted");
        let frame = Frame::Crypto { offset: 10_000 + n * 8, data: b"x" };
        pair.attack(Side::Server, &[frame]);
    }
    assert_eq!(pair.verdict(Side::Client), Some(code::CRYPTO_BUFFER_EXCEEDED));
}

#[test]
fn attack_17_handshake_done_to_a_server_is_a_violation() {
    assert_eq!(server_verdict(&[Frame::HandshakeDone]), Some(code::PROTOCOL_VIOLATION));
    let mut pair = Pair::new();
    // Early to a client: in an Initial, it is a frame in the wrong packet.
    let done = payload(&[Frame::HandshakeDone]);
    let mut packet = initial_from(Side::Server, cid(1), cid(3), &done, 0, 1200);
    pair.deliver(Side::Client, Ecn::NotEct, &mut packet);
    assert_eq!(pair.verdict(Side::Client), Some(code::PROTOCOL_VIOLATION));
}

#[test]
fn attack_19_the_last_client_flight_lost_again_and_again_ends_by_probes() {
    let mut pair = Pair::new();
    let mut lost = 0;
    pair.filter = Box::new(move |f| {
        // Whatever the client sends after its first datagram is lost eight times.
        let later = f.to == Side::Server && f.bytes[0] & 0x30 != 0;
        lost += u32::from(later);
        !later || lost > 8
    });
    let start = pair.now;
    while !pair.server.is_confirmed() {
        assert!(pair.step(start.plus_ns(9_900_000_000)), "stalled");
    }
    pair.settle();
    assert!(pair.client.is_confirmed());
}

#[test]
fn attack_19_a_window_full_of_data_does_not_hold_back_the_last_flight() {
    // The client's Finished is lost while 1-RTT packets fill the window, and lost again in the
    // first probe; the PING beside it arrives, so that no packet of the space is outstanding.
    let mut pair = Pair::new();
    pair.client_app.initial = Some(Bytes::from(vec![7; 100_000]));
    let mut finished = 0;
    pair.filter = Box::new(move |f| {
        let carries = f.to == Side::Server && f.bytes[0] & 0xb0 == 0xa0 && f.bytes.len() > 80
            || f.to == Side::Server && f.bytes[0] & 0x80 != 0 && finished == 0 && {
                crate::wire::packet::parse(&f.bytes, 0, 8).is_ok_and(|p| p.end < f.bytes.len())
            };
        finished += u32::from(carries);
        !carries || finished > 2
    });
    let start = pair.now;
    while !pair.server.is_confirmed() {
        assert!(pair.step(start.plus_ns(9_900_000_000)), "stalled");
    }
    pair.settle();
    assert!(pair.client.is_confirmed());
}

#[test]
fn attack_20_unknown_and_truncated_frames_are_encoding_errors() {
    assert_eq!(raw_verdict(&[0x3f, 0, 0, 0]), Some(code::FRAME_ENCODING_ERROR));
    assert_eq!(raw_verdict(&[0x08, 0x40]), Some(code::FRAME_ENCODING_ERROR));
    assert_eq!(raw_verdict(&[0x06, 0, 0x40, 0x80, 1]), Some(code::FRAME_ENCODING_ERROR));
}

#[test]
fn attack_21_empty_payload_reserved_bits_and_misplaced_frames_are_violations() {
    assert_eq!(raw_verdict(&[]), Some(code::PROTOCOL_VIOLATION));
    let mut pair = Pair::connected();
    let mut packet = pair.forge_1rtt(Side::Client, &[1, 0, 0, 0], 0x18);
    pair.deliver(Side::Server, Ecn::NotEct, &mut packet);
    assert_eq!(pair.verdict(Side::Server), Some(code::PROTOCOL_VIOLATION));
    let mut pair = Pair::new();
    let misplaced = payload(&[Frame::MaxData(9)]);
    pair.deliver(Side::Server, Ecn::NotEct, &mut initial(&misplaced, 0, cid(1), 1200));
    assert_eq!(pair.verdict(Side::Server), Some(code::PROTOCOL_VIOLATION));
}

#[test]
fn attack_22_a_packet_of_pings_costs_one_acknowledgement() {
    let mut pair = Pair::connected();
    let sent = pair.hear(Side::Server, |what| match what {
        Observation::PacketSent(p) => Some(format!("{:?}", p.frames())),
        _ => None,
    });
    let mut packet = pair.forge_1rtt(Side::Client, &[1; 1200], 0);
    let pn = pair.client.data.sent.next_pn() - 1;
    pair.deliver(Side::Server, Ecn::NotEct, &mut packet);
    pair.settle();
    let sent = sent.take();
    let [frames] = &sent[..] else { panic!("{sent:?}") };
    assert!(frames.starts_with(" Ack ") && frames.contains(&format!("-{pn}")), "{frames}");
    assert!(!frames.contains("Ping"), "{frames}");
    assert!(pair.server.is_established());
}

#[test]
fn attack_23_huge_offsets_are_refused_without_a_loop() {
    let frame = Frame::Stream { stream: stream(0), offset: VARINT_MAX - 1, data: b"x", fin: false };
    assert_eq!(server_verdict(&[frame]), Some(code::FLOW_CONTROL_ERROR));
    let beyond = Frame::Stream { stream: stream(0), offset: VARINT_MAX, data: b"xx", fin: false };
    assert_eq!(server_verdict(&[beyond]), Some(code::FRAME_ENCODING_ERROR));
}

#[test]
fn attack_24_an_ack_of_a_packet_never_sent_is_a_violation() {
    assert_eq!(raw_verdict(&ack_payload(&[(0, 1 << 40)])), Some(code::PROTOCOL_VIOLATION));
}

#[test]
fn attack_25_optimistic_acknowledgements_run_into_a_skipped_number() {
    let mut pair = Pair::connected();
    let s = pair.server.streams().open(Dir::Uni).unwrap();
    pair.server.streams().send(s, Bytes::from(vec![0; 8 << 20]), true).unwrap();
    let mut buf = [0; 2048];
    for _ in 0..100_000 {
        // The receiver reads nothing and acknowledges whatever was sent.
        while pair.server.transmit(pair.now, &mut buf).is_some() {}
        let next = pair.server.data.sent.next_pn();
        let first = pair.server.data.sent.first_pn();
        pair.now = pair.now.plus_ns(1_000_000);
        pair.attack_1rtt(Side::Client, &ack_payload(&[(first, next - 1)]));
        if pair.server.is_closed() {
            break;
        }
    }
    assert_eq!(pair.verdict(Side::Server), Some(code::PROTOCOL_VIOLATION));
    let sent = pair.server.stats.tx_bytes;
    assert!(sent < 1 << 20, "{sent} bytes were sent before the lie was found");
}

/// The ranges of `numbers`, which ascend, the last first.
pub(super) fn ranges(numbers: &[u64]) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &pn in numbers {
        match ranges.last_mut() {
            Some((_, hi)) if *hi + 1 == pn => *hi = pn,
            _ => ranges.push((pn, pn)),
        }
    }
    ranges.reverse();
    ranges
}

/// Claims of late arrival take congestion events back: a receiver that makes them up has to
/// guess which gaps are losses.
#[test]
fn attack_25_claims_of_late_arrival_run_into_a_skipped_number() {
    let mut pair = Pair::connected();
    let s = pair.server.streams().open(Dir::Uni).unwrap();
    pair.server.streams().send(s, Bytes::from(vec![0; 8 << 20]), true).unwrap();
    let mut buf = [0; 2048];
    for _ in 0..10_000 {
        let mut flight = Vec::new();
        while pair.server.transmit(pair.now, &mut buf).is_some() {
            flight.push(pair.server.data.sent.next_pn() - 1);
        }
        pair.now = pair.now.plus_ns(5_000_000);
        let &[first, _, _, .., last] = &flight[..] else { continue };
        // One packet of each flight was lost; soon after, everything has come.
        let mut arrived = flight.clone();
        arrived.remove(flight.len() / 3);
        pair.attack_1rtt(Side::Client, &ack_payload(&ranges(&arrived)));
        pair.now = pair.now.plus_ns(1_000_000);
        pair.attack_1rtt(Side::Client, &ack_payload(&[(first, last)]));
        if pair.server.is_closed() {
            break;
        }
    }
    assert_eq!(pair.verdict(Side::Server), Some(code::PROTOCOL_VIOLATION));
    let stats = pair.server.stats();
    assert!(stats.congestion_events > 0, "{stats:?}");
    assert!(
        stats.tx_bytes < 1 << 20,
        "{} bytes were sent before the lie was found",
        stats.tx_bytes
    );
}

#[test]
fn attack_26_thousands_of_ack_ranges_cost_little_and_negative_ones_are_refused() {
    let mut pair = Pair::connected();
    let ranges: Vec<_> = (0..500).rev().map(|n| (n * 2, n * 2)).collect();
    pair.attack_1rtt(Side::Client, &ack_payload(&ranges));
    assert_eq!(pair.verdict(Side::Server), Some(code::PROTOCOL_VIOLATION), "never sent");
    // largest 0, first range 5: below zero.
    assert_eq!(raw_verdict(&[0x02, 0, 0, 0, 5]), Some(code::FRAME_ENCODING_ERROR));
}

#[test]
fn attack_27_data_streams_and_final_sizes_beyond_the_limits_are_refused() {
    let far = TransportConfig::default().stream_window_bytes;
    let data = Frame::Stream { stream: stream(0), offset: far, data: b"x", fin: false };
    assert_eq!(server_verdict(&[data]), Some(code::FLOW_CONTROL_ERROR));
    let many = Frame::Stream { stream: stream(100), offset: 0, data: b"x", fin: false };
    assert_eq!(server_verdict(&[many]), Some(code::STREAM_LIMIT_ERROR));
    let end = Frame::Stream { stream: stream(0), offset: 10, data: b"", fin: true };
    let more = Frame::Stream { stream: stream(0), offset: 10, data: b"x", fin: false };
    assert_eq!(server_verdict(&[end, more]), Some(code::FINAL_SIZE_ERROR));
}

#[test]
fn attack_28_one_byte_fragments_with_gaps_stay_within_twice_the_window() {
    let window = 64 * 1024;
    let config = TransportConfig {
        stream_window_bytes: window,
        connection_window_bytes: window,
        ..TransportConfig::default()
    };
    let mut pair = Pair::with(TransportConfig::default(), config);
    pair.settle();
    let base = pair.server.memory_bytes();
    let mut at = 1;
    while at + 1 < window {
        let mut frames = Vec::new();
        while frames.len() < 200 && at + 1 < window {
            frames.push(Frame::Stream { stream: stream(0), offset: at, data: b"x", fin: false });
            at += 2;
        }
        pair.attack(Side::Client, &frames);
    }
    assert_eq!(pair.verdict(Side::Server), None);
    let grown = pair.server.memory_bytes() - base;
    assert!(grown as u64 <= 2 * window, "{grown} bytes for a window of {window}");
    assert!(pair.server.stats.rx_refused > 0, "the bound was met");
}

#[test]
fn attack_30_frames_in_the_wrong_direction_are_refused() {
    let ours = StreamId::new(Side::Server, Dir::Uni, 0);
    let data = Frame::Stream { stream: ours, offset: 0, data: b"x", fin: false };
    assert_eq!(server_verdict(&[data]), Some(code::STREAM_STATE_ERROR));
    let theirs = StreamId::new(Side::Client, Dir::Uni, 0);
    let credit = Frame::MaxStreamData { stream: theirs, max: 9 };
    assert_eq!(server_verdict(&[credit]), Some(code::STREAM_STATE_ERROR));
}

#[test]
fn attack_32_ids_retired_without_end_close_the_connection() {
    let mut pair = Pair::connected();
    for n in 10..100u64 {
        let frame = Frame::NewConnectionId {
            sequence: n,
            retire_prior_to: n,
            cid: ConnectionId::new(&[n as u8; 8]).unwrap(),
            reset_token: [n as u8; 16],
        };
        pair.attack(Side::Client, &[frame]);
        // It sends RETIRE_CONNECTION_ID, but hears no acknowledgement.
        let mut buf = [0; 2048];
        while pair.server.transmit(pair.now, &mut buf).is_some() {}
    }
    assert_eq!(pair.verdict(Side::Server), Some(code::CONNECTION_ID_LIMIT_ERROR));
}

#[test]
fn attack_33_a_retirement_of_an_id_never_issued_is_a_violation() {
    let odd = Frame::RetireConnectionId { sequence: 99 };
    assert_eq!(server_verdict(&[odd]), Some(code::PROTOCOL_VIOLATION));
}

#[test]
fn attack_38_only_the_right_reset_token_ends_a_connection() {
    let mut pair = Pair::connected();
    let mut forged = vec![0x55; 60];
    pair.deliver(Side::Client, Ecn::NotEct, &mut forged);
    assert!(pair.client.is_established());
    let token = [3; 16];
    assert!(pair.client.remote_cids.is_reset_token(&token));
    let mut reset = vec![0x55; 44];
    reset.extend_from_slice(&token);
    pair.deliver(Side::Client, Ecn::NotEct, &mut reset);
    assert_eq!(pair.client_app.closed(), Some(&CloseReason::StatelessReset));
    let mut buf = [0; 2048];
    assert!(pair.client.transmit(pair.now, &mut buf).is_none(), "no answer, no loop");
}

#[test]
fn attack_38_a_reset_without_a_known_id_is_believed_from_the_peers_address_alone() {
    let mut pair = Pair::connected();
    assert_eq!(pair.client.reset_token(), Some(&[3; 16]));
    let mut reset = vec![0x55; 21];
    reset[5..].fill(3);
    let Pair { client, client_app, now, .. } = &mut pair;
    let mut ask = |from: u16, bytes: &[u8]| {
        client.receive_stateless_reset(*now, addr(from), bytes, client_app)
    };
    assert!(!ask(444, &reset), "another address");
    assert!(!ask(443, &reset[1..]), "too short to be one");
    assert!(!ask(443, &[3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4]));
    assert!(ask(443, &reset));
    assert_eq!(pair.client_app.closed(), Some(&CloseReason::StatelessReset));
}

#[test]
fn attack_38_every_packet_of_ours_can_be_answered_by_a_reset_that_looks_like_a_packet() {
    // RFC 9000 section 10.3: 22 bytes longer than the id that we asked for. Ids have 8 bytes here.
    let shortest = Rc::new(Cell::new(usize::MAX));
    let mut pair = Pair::connected();
    let seen = Rc::clone(&shortest);
    pair.filter = Box::new(move |flight| {
        if flight.bytes[0] & 0x80 == 0 {
            seen.set(seen.get().min(flight.bytes.len()));
        }
        true
    });
    let mut stream = pair.client.streams().open(Dir::Bi).unwrap();
    pair.client.streams().send(stream, Bytes::from_static(b"x"), true).unwrap();
    pair.settle();
    stream = pair.client.streams().open(Dir::Uni).unwrap();
    pair.client.streams().send(stream, Bytes::new(), true).unwrap();
    pair.settle();
    pair.attack(Side::Client, &[Frame::Ping]);
    pair.settle();
    let now = pair.now;
    pair.client.close(now, 0, Bytes::new());
    pair.settle();
    assert_eq!(shortest.get(), 30);
}

#[test]
fn attack_40_a_second_key_update_before_the_first_is_answered_is_an_error() {
    let mut pair = Pair::connected();
    let turn = |pair: &mut Pair| {
        let next = pair.client.data.sent.next_pn();
        pair.client.keys.as_mut().unwrap().update(None, next, Instant::NEVER);
        pair.attack(Side::Client, &[Frame::Ping]);
    };
    turn(&mut pair);
    assert_eq!(pair.server.stats().key_updates, 1);
    assert_eq!(pair.verdict(Side::Server), None);
    turn(&mut pair);
    assert_eq!(pair.verdict(Side::Server), Some(code::KEY_UPDATE_ERROR));
}

#[test]
fn attack_40_forged_phase_bits_change_nothing() {
    let mut pair = Pair::connected();
    for _ in 0..100 {
        let mut packet = pair.forge_1rtt(Side::Client, &[1, 0, 0, 0], 0x04);
        pair.deliver(Side::Server, Ecn::NotEct, &mut packet);
    }
    assert_eq!(pair.server.stats().key_updates, 0);
    assert!(pair.server.is_established());
}

#[test]
fn attack_41_forgeries_up_to_the_integrity_limit_end_the_connection() {
    let mut pair = Pair::connected();
    let limit = pair.server.keys.as_ref().unwrap().integrity_limit();
    assert!(limit >= 1 << 36, "RFC 9001 §6.6 allows 2^52 for AES-GCM");
    pair.server.keys.as_mut().unwrap().assume_failures(limit);
    let mut packet = pair.forge_1rtt(Side::Client, &[1, 0, 0, 0], 0);
    let last = packet.len() - 1;
    packet[last] ^= 1;
    pair.deliver(Side::Server, Ecn::NotEct, &mut packet);
    assert_eq!(pair.verdict(Side::Server), Some(code::AEAD_LIMIT_REACHED));
}

/// A first sample of 9 s once kept a closed connection, and an idle one, for 81.
#[test]
fn attack_18_a_peer_that_acknowledges_late_keeps_no_place_for_long() {
    let second = crate::time::SECOND_NS;
    let late = |pair: &mut Pair| {
        pair.server.path.rtt = crate::proto::rtt::Rtt::default();
        pair.server.path.rtt.update(9 * second, 0, pair.now);
    };
    let mut pair = Pair::connected();
    late(&mut pair);
    pair.attack_1rtt(Side::Client, &payload(&[Frame::Ping]));
    assert!(pair.server.deadlines.idle <= pair.now.plus_ns(30 * second));
    let now = pair.now;
    pair.server.close(now, 0, Bytes::new());
    assert!(pair.server.next_timeout().unwrap() <= now.plus_ns(10 * second));
}
