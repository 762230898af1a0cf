//! What a peer does to find out whether a path lives.

use super::pair::*;
use super::*;
use crate::proto::observer::Observation;
use crate::proto::path_validation::PATH_RESPONSES_MAX;
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
