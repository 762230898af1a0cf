//! Connection ids that change while the path stays (RFC 9000 §9.5).

use super::pair::*;
use super::*;
use crate::wire::frame::Frame;
use std::time::Duration;

/// Both sides are silent for so long, and their owner notices.
fn rest(pair: &mut Pair, ms: u64) {
    pair.run_ms(ms);
    pair.client.shrink();
    pair.server.shrink();
}

/// The client sends a few bytes, and gets them back.
fn echo(pair: &mut Pair) {
    let s = pair.client.streams().open(Dir::Bi).unwrap();
    pair.client.streams().send(s, Bytes::from_static(b"again"), true).unwrap();
    pair.settle();
    assert_eq!(pair.client_app.data.get(&s).map(|d| &d[..]), Some(&b"again"[..]));
}

/// The numbers of the ids that the client and the server write, and how often they rotated.
fn ids(pair: &Pair) -> [(u64, u64); 2] {
    [&pair.client, &pair.server]
        .map(|c| (c.remote_cids.current_sequence(), c.stats().cid_rotations))
}

fn patient(cid_rotation: Option<Duration>) -> TransportConfig {
    let idle_timeout = Duration::from_secs(600);
    TransportConfig { idle_timeout, cid_rotation, ..TransportConfig::default() }
}

#[test]
fn who_speaks_after_silence_has_another_id_in_both_directions() {
    for side in [Side::Client, Side::Server] {
        let config = patient(Some(Duration::from_secs(20)));
        let mut pair = Pair::with(config.clone(), config);
        pair.settle();
        rest(&mut pair, 19_000);
        echo(&mut pair);
        assert_eq!(ids(&pair), [(0, 0); 2], "19 s are not long enough");
        rest(&mut pair, 20_000);
        let (tell, heard) = std::sync::mpsc::channel();
        pair.filter = Box::new(move |f| {
            let _ = tell.send((f.to, f.bytes[1..9].to_vec()));
            true
        });
        let old = [*pair.server.remote_cids.current(), *pair.client.remote_cids.current()];
        let speaker = if side == Side::Client { &mut pair.client } else { &mut pair.server };
        let s = speaker.streams().open(Dir::Uni).unwrap();
        speaker.streams().send(s, Bytes::from_static(b"news"), true).unwrap();
        pair.settle();
        // Each side takes one, and neither answers the answer.
        assert_eq!(ids(&pair), [(1, 1); 2]);
        let seen: Vec<_> = heard.try_iter().collect();
        assert!(seen.iter().all(|(to, id)| id != old[*to as usize].as_slice()), "{seen:?}");
        // The old ones are retired, and others came: it goes on so.
        assert!([&pair.client, &pair.server].iter().all(|c| c.local_cids().count() == 2));
        echo(&mut pair);
        assert_eq!(ids(&pair), [(1, 1); 2]);
        rest(&mut pair, 20_000);
        echo(&mut pair);
        assert_eq!(ids(&pair), [(2, 2); 2]);
        assert_eq!(pair.client.stats().lost_packets + pair.server.stats().lost_packets, 0);
    }
}

#[test]
fn two_changes_under_way_are_answered_once_and_the_answer_is_not() {
    let mut pair = Pair::with(patient(None), patient(None));
    pair.settle();
    for n in [90, 91] {
        pair.server.add_cid(cid(n), [n; 16]);
        pair.client.add_cid(cid(n - 50), [n - 50; 16]);
    }
    pair.settle();
    pair.run_ms(6_000);
    let now = pair.now;
    for _ in 0..2 {
        assert!(pair.client.rotate_cid(now));
        // Each is seen by itself.
        pair.client.pending.ping = true;
        let mut buf = [0; 2048];
        let len = pair.client.transmit(now, &mut buf).unwrap().len;
        pair.deliver(Side::Server, Ecn::NotEct, &mut buf[..len]);
    }
    pair.run_ms(10_000);
    assert_eq!(ids(&pair).map(|(_, rotations)| rotations), [2, 1]);
}

#[test]
fn silence_changes_nothing_where_that_is_asked_for() {
    for never in [None, Some(Duration::ZERO)] {
        let mut pair = Pair::with(patient(never), patient(never));
        pair.settle();
        rest(&mut pair, 100_000);
        echo(&mut pair);
        assert_eq!(ids(&pair), [(0, 0); 2]);
    }
}

#[test]
fn a_side_that_does_not_rotate_follows_one_that_does() {
    let mut pair = Pair::with(patient(Some(Duration::from_secs(20))), patient(None));
    pair.settle();
    rest(&mut pair, 20_000);
    echo(&mut pair);
    assert_eq!(ids(&pair), [(1, 1); 2]);
}

#[test]
fn an_id_stays_where_the_peer_has_given_no_other() {
    let config = patient(Some(Duration::from_secs(20)));
    let mut pair = Pair::with(config.clone(), config);
    pair.settle();
    for c in [&mut pair.client, &mut pair.server] {
        assert_eq!(c.remote_cids.take_unused(), Some(1), "a path has it");
    }
    rest(&mut pair, 20_000);
    echo(&mut pair);
    assert_eq!(ids(&pair), [(0, 0); 2]);
    // A peer without ids has none to give.
    pair.server.remote_cids = RemoteCids::new(ConnectionId::EMPTY, 4);
    pair.server.rest();
    pair.server.wake(pair.now.plus_ns(100_000_000_000));
    assert_eq!(ids(&pair)[1], (0, 0));
}

#[test]
fn the_ids_of_a_path_that_is_kept_stay() {
    // The client's NAT forgets it, and both paths of the server's carry the same id.
    let mut pair = Pair::connected();
    pair.nat = addr(2000);
    pair.attack(Side::Client, &[Frame::Ping]);
    assert_eq!(pair.server.remote(), addr(2000));
    pair.server.rest();
    pair.server.wake(pair.now.plus_ns(100_000_000_000));
    assert_eq!(ids(&pair)[1], (1, 1));
    assert!(pair.server.remote_cids.get(0).is_some() && !pair.server.remote_cids.has_retirements());
}

#[test]
fn a_client_that_has_changed_its_id_is_known_when_its_nat_forgets_it() {
    let mut pair = Pair::with(patient(Some(Duration::from_secs(20))), patient(None));
    pair.settle();
    rest(&mut pair, 20_000);
    echo(&mut pair);
    assert_eq!(pair.server.peer_uses, Some(1));
    pair.nat = addr(2000);
    echo(&mut pair);
    // RFC 9000 §9.5: the peer has not moved, and the id may stay.
    assert_eq!((pair.server.remote(), ids(&pair)[1]), (addr(2000), (1, 1)));
}

#[test]
fn a_client_that_goes_on_from_another_address_with_another_id_is_a_stranger() {
    let mut pair = Pair::with(patient(Some(Duration::from_secs(20))), patient(None));
    pair.settle();
    rest(&mut pair, 20_000);
    pair.nat = addr(2000);
    echo(&mut pair);
    assert_eq!((pair.server.remote(), ids(&pair)), (addr(2000), [(1, 1), (1, 0)]));
}

#[test]
fn a_close_after_silence_carries_another_id() {
    for side in [Side::Client, Side::Server] {
        let config = patient(Some(Duration::from_secs(20)));
        let mut pair = Pair::with(config.clone(), config);
        pair.settle();
        rest(&mut pair, 20_000);
        let (c, app) = match side {
            Side::Client => (&mut pair.client, &mut pair.client_app),
            Side::Server => (&mut pair.server, &mut pair.server_app),
        };
        let old = *c.remote_cids.current();
        c.close(pair.now, 7, Bytes::new());
        c.deliver_events(app);
        let mut buf = [0; 2048];
        let len = c.transmit(pair.now, &mut buf).unwrap().len;
        assert_ne!(&buf[1..9], old.as_slice(), "{side:?}");
        pair.deliver(side.peer(), Ecn::NotEct, &mut buf[..len]);
        let heard = if side == Side::Client { &pair.server_app } else { &pair.client_app };
        let is_close = |reason| matches!(reason, &CloseReason::PeerApplication { code: 7, .. });
        assert!(heard.closed().is_some_and(is_close), "{side:?}");
    }
}

#[test]
fn a_change_that_only_one_side_knows_of_is_not_answered_for_ever() {
    let mut pair = Pair::with(patient(None), patient(None));
    pair.settle();
    pair.run_ms(6_000);
    // The client writes to another id, and does not think of it as a change.
    let (now, since) = (pair.now, pair.client.cid_since);
    assert!(pair.client.rotate_cid(now));
    pair.client.cid_since = since;
    pair.client.pending.ping = true;
    pair.run_ms(60_000);
    // The server follows, the client takes that for a change and follows too, and there it ends.
    assert_eq!(ids(&pair).map(|(_, rotations)| rotations), [2, 1]);
}

#[test]
fn a_peer_that_changes_its_id_all_the_time_is_followed_now_and_then() {
    let mut pair = Pair::with(patient(None), patient(None));
    pair.settle();
    pair.run_ms(6_000);
    for _ in 0..40 {
        let now = pair.now;
        assert!(pair.client.rotate_cid(now));
        pair.client.pending.ping = true;
        pair.run_ms(500);
    }
    // Once in five of the twenty seconds; and the client's id is always young.
    assert_eq!(pair.server.stats().cid_rotations, 4);
    assert_eq!(pair.client.stats().cid_rotations, 40);
}
