//! What a peer does to find out whether a path lives.

use super::forge::payload;
use super::pair::*;
use super::*;
use crate::proto::observer::Observation;
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

/// The size of a packet that is sent, and the PATH_RESPONSE frames in it.
fn responses(what: &Observation<'_>) -> Option<(usize, Vec<u64>)> {
    let Observation::PacketSent(p) = what else { return None };
    let responses = p.frames().filter_map(|frame| match frame {
        Frame::PathResponse(data) => Some(u64::from_be_bytes(data)),
        _ => None,
    });
    Some((p.bytes, responses.collect()))
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
        let heard = pair.hear(Side::Server, responses);
        for mut answer in challenged(&mut pair, 3) {
            pair.deliver(Side::Client, Ecn::NotEct, &mut answer);
        }
        let (mut answers, others): (Vec<_>, Vec<_>) =
            heard.take().into_iter().partition(|(_, all)| !all.is_empty());
        let (bytes, first) = answers.remove(0);
        assert!(bytes >= 1_200, "{bytes} bytes");
        assert_eq!((first, answers), (vec![0, 1, 2], vec![]), "beside {others:?}");
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
    let heard = pair.hear(Side::Server, responses);
    let mut buf = [0; 2048];
    let answer = pair.server.transmit(pair.now, &mut buf).unwrap();
    assert!(answer.len >= 1_200 && !pair.server.path.has_response());
    let oldest: Vec<u64> = (0..PATH_RESPONSES_MAX as u64).collect();
    assert_eq!(heard.take(), [(answer.len, oldest)]);
    pair.deliver(Side::Client, answer.ecn, &mut buf[..answer.len]);
    pair.settle();
    assert!(pair.server.is_established());
}

#[test]
fn attack_35_a_packet_that_is_copied_to_another_address_changes_nothing() {
    // An attacker on the path sends what it saw from an address of its own, before the original comes.
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
