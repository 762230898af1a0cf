//! What a peer does to find out whether a path lives.

use super::forge::payload;
use super::pair::*;
use super::*;
use crate::proto::path::PATH_RESPONSES_MAX;
use crate::wire::frame::Frame;

/// Challenges in one packet, and the datagrams that answer it.
fn challenged(pair: &mut Pair, count: u64) -> Vec<Vec<u8>> {
    let challenges: Vec<_> = (0..count).map(|n| Frame::PathChallenge(n.to_be_bytes())).collect();
    pair.attack(Side::Client, &challenges);
    let mut buf = [0; 2048];
    let mut answers = Vec::new();
    while let Some(t) = pair.server.transmit(pair.now, &mut buf) {
        answers.push(buf[..t.len].to_vec());
    }
    answers
}

#[test]
fn attack_34_every_challenge_is_answered_in_datagrams_of_full_size() {
    // RFC 9000 §8.2.2, beside data whose frame could fill the packet, and alone.
    for data in [0, 300, 100_000] {
        let mut pair = Pair::connected();
        let s = pair.server.streams().open(Dir::Uni).unwrap();
        if data > 0 {
            pair.server.streams().send(s, Bytes::from(vec![9; data]), true).unwrap();
        }
        let answers = challenged(&mut pair, 3);
        assert!(answers[0].len() >= 1_200, "{} bytes", answers[0].len());
        let mut seen = Vec::new();
        for mut answer in answers {
            seen.extend(pair.client_reads(&mut answer));
        }
        let responses: Vec<_> = (0..3u64).map(|n| n.to_be_bytes()).collect();
        assert_eq!(seen, responses);
        pair.settle();
        assert_eq!(pair.client_app.data.get(&s).map_or(0, Vec::len), data);
        assert_eq!(pair.server.stats().rx_refused_challenges, 0);
    }
}

#[test]
fn attack_71_a_flood_of_challenges_is_bounded_and_counted() {
    let mut pair = Pair::connected();
    let challenges: Vec<_> = (0..100u64).map(|n| Frame::PathChallenge(n.to_be_bytes())).collect();
    for _ in 0..100 {
        pair.attack(Side::Client, &challenges);
    }
    let refused = 100 * 100 - PATH_RESPONSES_MAX as u64;
    assert_eq!(pair.server.stats().rx_refused_challenges, refused);
    let mut buf = [0; 2048];
    let answer = pair.server.transmit(pair.now, &mut buf).unwrap();
    assert!(answer.len >= 1_200 && !pair.server.path.has_response());
    let answers = pair.client_reads(&mut buf[..answer.len]);
    let first: Vec<_> = (0..PATH_RESPONSES_MAX as u64).map(|n| n.to_be_bytes()).collect();
    assert_eq!(answers, first, "the oldest");
    pair.settle();
    assert!(pair.server.is_established());
}

#[test]
fn attack_35_a_packet_that_is_copied_to_another_address_changes_nothing() {
    // Somebody on the path sends what it saw from an address of its own, before the original comes.
    let mut pair = Pair::connected();
    let mut packet = pair.forge_1rtt(Side::Client, &payload(&[Frame::Ping]), 0);
    let (mut copy, elsewhere) = (packet.clone(), addr(9));
    let before = pair.server.stats();
    assert_ne!(pair.server.remote(), elsewhere);
    let now = pair.now;
    assert!(!pair.server.receive(now, elsewhere, Ecn::NotEct, &mut copy, &mut pair.server_app));
    let stats = pair.server.stats();
    assert_eq!(stats.rx_foreign, before.rx_foreign + 1);
    assert_eq!(stats.rx_packets, before.rx_packets, "it was not opened");
    assert!(pair.server.transmit(now, &mut [0; 2048]).is_none(), "and is not answered");
    // The original is no duplicate, and the way back is the old one.
    pair.deliver(Side::Server, Ecn::NotEct, &mut packet);
    assert_eq!(pair.server.stats().rx_packets, before.rx_packets + 1);
    pair.settle();
    assert_ne!(pair.server.remote(), elsewhere);
}
