//! Addresses that change under a connection (RFC 9000 §9).

use super::forge::payload;
use super::pair::*;
use super::*;
use crate::proto::observer::Observation;
use crate::proto::path::Addresses;
use crate::wire::Writer;
use crate::wire::frame::{Frame, write_ack};
use std::collections::BTreeSet;

/// An address on another network than [`addr`]'s.
fn far(port: u16) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 7], port))
}

fn from_client(remote: SocketAddr) -> Addresses {
    Addresses { local: addr(443), remote }
}

/// A pair in which the client sends `bytes` and gets them back.
fn echoing(bytes: usize) -> (Pair, StreamId) {
    let mut pair = Pair::connected();
    let s = pair.client.streams().open(Dir::Bi).unwrap();
    pair.client.streams().send(s, Bytes::from(vec![5; bytes]), true).unwrap();
    (pair, s)
}

/// The addresses that a side was told of.
fn moves(app: &Recorder) -> Vec<SocketAddr> {
    let address = |event: &Event| match event {
        Event::PeerAddressChanged { remote } => Some(*remote),
        Event::LocalAddressChanged { local } => Some(*local),
        _ => None,
    };
    app.events.iter().filter_map(address).collect()
}

fn failures(app: &Recorder) -> usize {
    app.events.iter().filter(|e| matches!(e, Event::MigrationFailed { .. })).count()
}

/// What only the beginning of a path has is gone again.
fn is_quiet(c: &Connection) -> bool {
    c.others.is_none() && !c.paths_busy && c.path.exchange.is_none()
}

#[test]
fn a_client_whose_nat_forgets_it_in_mid_transfer_is_followed() {
    for (nat, same_host) in [(addr(2000), true), (far(1000), false)] {
        let (mut pair, s) = echoing(1_000_000);
        pair.run_ms(12);
        assert!(pair.server_app.data.contains_key(&s) && pair.server_app.fins.is_empty());
        let window = pair.server.path.congestion.window();
        pair.nat = nat;
        let start = pair.now;
        while pair.server.remote() == addr(1000) {
            assert!(
                pair.step(start.plus_ns(1_000_000_000)),
                "the client asks where the answers are"
            );
        }
        assert_eq!((moves(&pair.server_app), pair.server.remote()), (vec![nat], nat));
        // RFC 9000 §9.4.
        assert_eq!(pair.server.path.rtt.first_sample().is_some(), same_host);
        assert_eq!(pair.server.path.congestion.window() >= window, same_host);
        pair.run_ms(6_000);
        assert_eq!(pair.client_app.data.get(&s).map(Vec::len), Some(1_000_000));
        let stats = pair.server.stats();
        assert_eq!((stats.path_changes, stats.paths_validated, stats.rx_foreign), (1, 1, 0));
        // The old mapping is gone, and so nothing came from there.
        assert_eq!(stats.path_validations_failed, 1);
        assert!(is_quiet(&pair.server) && is_quiet(&pair.client));
        assert_eq!(pair.server.remote_cids.current_sequence(), 0, "§9.5: the peer has not moved");
    }
}

#[test]
fn packets_of_the_old_path_say_nothing_of_the_new_one() {
    // The server has a window full of data under way when the client appears elsewhere.
    let mut pair = Pair::connected();
    let s = pair.server.streams().open(Dir::Uni).unwrap();
    pair.server.streams().send(s, Bytes::from(vec![5; 1_000_000]), true).unwrap();
    pair.run_ms(10);
    let in_flight = pair.server.path.bytes_in_flight;
    assert!(in_flight > 10_000);
    let mut moved = pair.forge_1rtt(Side::Client, &payload(&[Frame::Ping]), 0);
    pair.nat = far(1);
    pair.deliver(Side::Server, Ecn::NotEct, &mut moved);
    assert_eq!((pair.server.remote(), pair.server.path.bytes_in_flight), (far(1), 0));
    let window = pair.server.path.congestion.window();
    let old = pair.server.others.as_ref().unwrap().paths[0].path.bytes_in_flight;
    assert_eq!(old, in_flight);
    // Acknowledgements of what went the old way arrive, and show losses.
    let lost = pair.server.data.sent.first_pn();
    let mut ack = [0; 64];
    let mut w = Writer::new(&mut ack);
    write_ack(&mut w, std::iter::once((lost + 5, lost + 8)), 1, 0, None).unwrap();
    let len = w.position();
    let mut ack = pair.forge_1rtt(Side::Client, &ack[..len], 0);
    pair.deliver(Side::Server, Ecn::NotEct, &mut ack);
    let path = &pair.server.path;
    assert!(pair.server.stats.lost_packets > 0);
    assert_eq!((path.bytes_in_flight, path.congestion.window()), (0, window));
    assert_eq!((path.rtt.first_sample(), pair.server.stats.congestion_events), (None, 0));
    let old = pair.server.others.as_ref().unwrap().paths[0].path.bytes_in_flight;
    assert!(old < in_flight, "{old} of {in_flight}");
}

#[test]
fn attack_35_a_packet_that_is_copied_to_another_address_moves_nothing_for_long() {
    // An attacker on the path sends what it saw from an address of its own, before the original
    // comes.
    let mut pair = Pair::connected();
    let s = pair.server.streams().open(Dir::Uni).unwrap();
    let mut packet = pair.forge_1rtt(Side::Client, &payload(&[Frame::Ping]), 0);
    let len = packet.len();
    let mut copy = packet.clone();
    assert!(pair.deliver_at(Side::Server, &from_client(far(9)), Ecn::NotEct, &mut copy).is_some());
    assert_eq!(pair.server.remote(), far(9));
    // RFC 9000 §8, §9.3: three times what came from there, however much there is to send.
    pair.server.streams().send(s, Bytes::from(vec![9; 100_000]), true).unwrap();
    let (mut buf, mut sent) = ([0; 2048], 0);
    pair.dead.push(far(9));
    while let Some(t) = pair.server.transmit(pair.now, &mut buf) {
        sent += t.len;
    }
    assert!((1..=3 * len).contains(&sent), "{sent} for {len}");
    // The original is a duplicate. The challenge reaches the peer on the old path, and its answer, which
    // is more than a probe, brings the connection back (§9.3.3).
    pair.deliver(Side::Server, Ecn::NotEct, &mut packet);
    assert_eq!(pair.server.remote(), far(9));
    pair.run_ms(10);
    assert_eq!(moves(&pair.server_app), [far(9), addr(1000)]);
    pair.run_ms(5_000);
    assert_eq!(pair.client_app.data.get(&s).map(Vec::len), Some(100_000));
    assert!(is_quiet(&pair.server), "{:?}", pair.server.others);
}

#[test]
fn attack_36_a_path_whose_challenges_are_lost_is_given_up() {
    let mut pair = Pair::connected();
    let mut copy = pair.forge_1rtt(Side::Client, &payload(&[Frame::Ping]), 0);
    pair.deliver_at(Side::Server, &from_client(far(9)), Ecn::NotEct, &mut copy);
    pair.dead.extend([far(9), addr(1000)]);
    let start = pair.now;
    while pair.server.remote() == far(9) {
        assert!(pair.step(start.plus_ns(20_000_000_000)), "the old path was taken up again");
    }
    // RFC 9000 §8.2.4: the round trip of the new path is not known: four times a second.
    let waited_ms = pair.now.ns_since(start) / 1_000_000;
    assert!((3_000..5_000).contains(&waited_ms), "{waited_ms} ms");
    assert_eq!(pair.server.stats().path_validations_failed, 2);
    assert!(is_quiet(&pair.server));
    pair.dead.clear();
    let (s, data) = (pair.client.streams().open(Dir::Bi).unwrap(), Bytes::from_static(b"there"));
    pair.client.streams().send(s, data, true).unwrap();
    pair.run_ms(30_000);
    assert_eq!(pair.client_app.data.get(&s).map(|d| &d[..]), Some(&b"there"[..]));
    assert_eq!(pair.server.remote(), addr(1000));
}

#[test]
fn a_flood_of_addresses_costs_three_paths() {
    let mut pair = Pair::connected();
    let idle = pair.server.memory_bytes();
    for port in 0..1_000 {
        let mut copy = pair.forge_1rtt(Side::Client, &payload(&[Frame::Ping]), 0);
        pair.deliver_at(Side::Server, &from_client(far(port)), Ecn::NotEct, &mut copy);
        let others = &pair.server.others.as_ref().unwrap().paths;
        assert!(
            others.len() <= 3 && others.iter().any(|other| other.fallback),
            "{port} {others:#?}"
        );
        assert!(pair.server.memory_bytes() < idle + 5_000, "{}", pair.server.memory_bytes());
    }
    assert_eq!(pair.server.stats().path_changes, 1_000);
    // The peer is where it was.
    pair.run_ms(20_000);
    assert!(pair.server.is_established() && is_quiet(&pair.server));
    assert_eq!(pair.server.remote(), addr(1000));
}

#[test]
fn a_probe_is_answered_where_it_came_from_and_moves_nothing() {
    let mut pair = Pair::connected();
    let challenge = [Frame::PathChallenge([7; 8]), Frame::Padding { len: 1_150 }];
    let mut probe = pair.forge_1rtt(Side::Client, &payload(&challenge), 0);
    pair.deliver_at(Side::Server, &from_client(far(9)), Ecn::NotEct, &mut probe);
    assert_eq!((pair.server.remote(), moves(&pair.server_app).len()), (addr(1000), 0));
    let (id, at) = pair.server.wants_elsewhere(pair.now).unwrap();
    assert_eq!(at, Addresses { local: addr(443), remote: far(9) });
    let heard = pair.hear(Side::Server, |what| match what {
        Observation::PacketSent(p) => {
            let answers = |f| matches!(f, Frame::PathResponse(data) if data == [7; 8]);
            Some((p.bytes, p.frames().any(answers)))
        }
        _ => None,
    });
    let mut buf = [0; 2048];
    let t = pair.server.transmit_elsewhere(pair.now, id, &mut buf).unwrap();
    assert_eq!((t.len, heard.take()), (1_200, vec![(1_200, true)]));
    assert!(pair.server.wants_elsewhere(pair.now).is_none());
    // RFC 9000 §9.6.3: the server asks as well. Who does not answer is forgotten, with its id.
    assert_eq!(pair.server.stats().tx_path_challenges, 1);
    pair.dead.push(far(9));
    pair.run_ms(5_000);
    let stats = pair.server.stats();
    assert_eq!((stats.tx_path_challenges, stats.path_validations_failed), (3, 1));
    assert!(is_quiet(&pair.server) && pair.server.remote() == addr(1000));
}

/// The ids that each path of the client's carries, as the wire shows them.
fn ids_by_path(pair: &mut Pair) -> std::sync::mpsc::Receiver<(SocketAddr, Vec<u8>)> {
    let (tell, heard) = std::sync::mpsc::channel();
    pair.filter = Box::new(move |f| {
        let client = if f.to == Side::Server { f.at.remote } else { f.at.local };
        let _ = tell.send((client, f.bytes[1..9].to_vec()));
        true
    });
    heard
}

#[test]
fn a_client_that_moves_takes_new_ids_along() {
    for (when, old_path_lives) in
        [(Migration::Validated, true), (Migration::AtOnce, true), (Migration::AtOnce, false)]
    {
        let (mut pair, s) = echoing(3_000_000);
        pair.run_ms(12);
        let ids = ids_by_path(&mut pair);
        pair.run_ms(1);
        if !old_path_lives {
            pair.dead.push(addr(1000));
        }
        pair.client.migrate(pair.now, far(3), when).unwrap();
        let moved_at_once = when == Migration::AtOnce;
        assert_eq!(pair.client.local() == far(3), moved_at_once);
        assert_eq!(pair.client.migrate(pair.now, far(3), when), Err(MigrateError::SamePath));
        pair.run_ms(5_000);
        assert_eq!(pair.client_app.data.get(&s).map(Vec::len), Some(3_000_000));
        assert_eq!(moves(&pair.client_app), [far(3)]);
        assert_eq!(moves(&pair.server_app), [far(3)]);
        assert_eq!((pair.client.local(), pair.server.remote()), (far(3), far(3)));
        assert!(is_quiet(&pair.client) && is_quiet(&pair.server));
        // RFC 9000 §9.5: no id is seen on both.
        let mut seen = [BTreeSet::new(), BTreeSet::new()];
        for (address, id) in ids.try_iter() {
            seen[usize::from(address == far(3))].insert(id);
        }
        assert!(seen.iter().all(|ids| ids.len() >= 2), "{seen:?}");
        assert!(seen[0].is_disjoint(&seen[1]), "{seen:?}");
        // The old ones are retired, and new ones came.
        assert_eq!(pair.server.local_cids().count(), 2);
        assert!(pair.server.local_cids().all(|id| *id != cid(3)));
    }
}

#[test]
fn a_path_that_is_known_can_be_taken_at_once() {
    // The old address goes away while the new path is being validated.
    let (mut pair, s) = echoing(100_000);
    pair.run_ms(5);
    pair.client.migrate(pair.now, far(3), Migration::Validated).unwrap();
    pair.dead.push(addr(1000));
    pair.client.migrate(pair.now, far(3), Migration::AtOnce).unwrap();
    assert_eq!(pair.client.local(), far(3));
    let again = pair.client.migrate(pair.now, far(3), Migration::AtOnce);
    assert_eq!(again, Err(MigrateError::SamePath));
    pair.run_ms(5_000);
    assert_eq!(pair.client_app.data.get(&s).map(Vec::len), Some(100_000));
    assert_eq!((moves(&pair.client_app), failures(&pair.client_app)), (vec![far(3)], 0));
    assert!(is_quiet(&pair.client) && is_quiet(&pair.server));
    // The new address goes away before anything came back from there: it returns.
    let (mut pair, s) = echoing(100_000);
    pair.run_ms(5);
    pair.dead.push(far(3));
    pair.client.migrate(pair.now, far(3), Migration::AtOnce).unwrap();
    pair.run_ms(5);
    pair.client.migrate(pair.now, addr(1000), Migration::AtOnce).unwrap();
    pair.run_ms(5_000);
    assert_eq!(pair.client_app.data.get(&s).map(Vec::len), Some(100_000));
    assert_eq!(
        (moves(&pair.client_app), failures(&pair.client_app)),
        (vec![far(3), addr(1000)], 0)
    );
    assert!(is_quiet(&pair.client) && pair.client.local() == addr(1000));
}

#[test]
fn a_path_whose_id_is_retired_is_not_taken_with_the_id_of_another() {
    let mut pair = Pair::connected();
    pair.client.migrate(pair.now, far(3), Migration::Validated).unwrap();
    // The server retires all ids of now, and gives one.
    let id = Frame::NewConnectionId {
        sequence: 9,
        retire_prior_to: 9,
        cid: cid(77),
        reset_token: [77; 16],
    };
    let mut packet = pair.forge_1rtt(Side::Server, &payload(&[id]), 0);
    pair.deliver(Side::Client, Ecn::NotEct, &mut packet);
    let moved = pair.client.migrate(pair.now, far(3), Migration::AtOnce);
    assert_eq!((moved, pair.client.local()), (Err(MigrateError::NoConnectionId), addr(1000)));
    assert_eq!(*pair.client.remote_cids.current(), cid(77));
    // With another one it is.
    let id = Frame::NewConnectionId {
        sequence: 10,
        retire_prior_to: 9,
        cid: cid(78),
        reset_token: [78; 16],
    };
    let mut packet = pair.forge_1rtt(Side::Server, &payload(&[id]), 0);
    pair.deliver(Side::Client, Ecn::NotEct, &mut packet);
    pair.client.migrate(pair.now, far(3), Migration::AtOnce).unwrap();
    assert_eq!((pair.client.local(), *pair.client.remote_cids.current()), (far(3), cid(78)));
}

#[test]
fn a_path_that_loses_its_id_before_it_is_validated_is_given_up() {
    for retires in [false, true] {
        let mut pair = Pair::connected();
        pair.client.migrate(pair.now, far(3), Migration::Validated).unwrap();
        // The challenge is under way.
        let now = pair.now;
        assert!(pair.step(now.plus_ns(DELAY_NS)));
        let id = Frame::NewConnectionId {
            sequence: 9,
            retire_prior_to: 9,
            cid: cid(77),
            reset_token: [77; 16],
        };
        if retires {
            let mut packet = pair.forge_1rtt(Side::Server, &payload(&[id]), 0);
            pair.deliver(Side::Client, Ecn::NotEct, &mut packet);
            // The server does not know of this.
            pair.filter = Box::new(|flight| flight.to == Side::Client);
        }
        pair.run_ms(20);
        let moved = (pair.client.local(), failures(&pair.client_app));
        assert_eq!(moved, if retires { (addr(1000), 1) } else { (far(3), 0) });
    }
}

#[test]
fn a_move_to_where_nothing_passes_is_taken_back() {
    for when in [Migration::Validated, Migration::AtOnce] {
        let (mut pair, s) = echoing(100_000);
        pair.run_ms(5);
        pair.dead.push(far(3));
        pair.client.migrate(pair.now, far(3), when).unwrap();
        pair.run_ms(20_000);
        assert_eq!(pair.client_app.data.get(&s).map(Vec::len), Some(100_000));
        let there_and_back =
            if when == Migration::AtOnce { vec![far(3), addr(1000)] } else { vec![] };
        assert_eq!((moves(&pair.client_app), failures(&pair.client_app)), (there_and_back, 1));
        assert!(is_quiet(&pair.client) && pair.client.local() == addr(1000));
        assert_eq!(pair.client.stats().path_validations_failed, 1);
    }
}

#[test]
fn what_cannot_move_says_why() {
    let mut pair = Pair::new();
    let (now, to) = (pair.now, far(3));
    let migrate = |c: &mut Connection, to| c.migrate(now, to, Migration::Validated);
    assert_eq!(migrate(&mut pair.client, to), Err(MigrateError::NotEstablished));
    pair.settle();
    assert_eq!(migrate(&mut pair.server, to), Err(MigrateError::Server));
    assert_eq!(migrate(&mut pair.client, addr(1000)), Err(MigrateError::SamePath));
    assert_eq!(migrate(&mut pair.client, to), Ok(()));
    // Two ids are issued at a time: one is in use, and one is taken.
    assert_eq!(migrate(&mut pair.client, far(4)), Err(MigrateError::NoConnectionId));
    // RFC 9000 §9.5.
    pair.client.remote_cids = RemoteCids::new(ConnectionId::EMPTY, 4);
    assert_eq!(migrate(&mut pair.client, far(4)), Err(MigrateError::ZeroLengthIds));
    let fixed = TransportConfig { active_migration: false, ..TransportConfig::default() };
    let mut pair = Pair::with(TransportConfig::default(), fixed);
    pair.settle();
    let now = pair.now;
    let refused = pair.client.migrate(now, to, Migration::AtOnce);
    assert_eq!(refused, Err(MigrateError::Forbidden));
    // Its NAT may forget it all the same (§9).
    pair.nat = far(3);
    let s = pair.client.streams().open(Dir::Bi).unwrap();
    pair.client.streams().send(s, Bytes::from_static(b"still here"), true).unwrap();
    pair.run_ms(3_000);
    assert_eq!(pair.client_app.data.get(&s).map(Vec::len), Some(10));
    assert_eq!(pair.server.remote(), far(3));
}

#[test]
fn an_observer_hears_where_packets_go() {
    use crate::proto::observer::PathChange;
    let mut pair = Pair::connected();
    let heard = pair.hear(Side::Server, |what| match what {
        Observation::Path(change @ (PathChange::Moved { .. } | PathChange::Validated)) => {
            Some(*change)
        }
        _ => None,
    });
    pair.nat = far(1);
    let s = pair.client.streams().open(Dir::Bi).unwrap();
    pair.client.streams().send(s, Bytes::from_static(b"hi"), true).unwrap();
    pair.settle();
    let moved = PathChange::Moved { local: addr(443), remote: far(1) };
    assert_eq!(heard.take(), [moved, PathChange::Validated]);
}

#[test]
fn an_idle_client_that_moves_is_followed() {
    for when in [Migration::Validated, Migration::AtOnce] {
        let mut pair = Pair::connected();
        pair.client.migrate(pair.now, far(3), when).unwrap();
        pair.settle();
        assert_eq!((pair.client.local(), pair.server.remote()), (far(3), far(3)));
        // And what the server has to say goes there.
        pair.dead.push(addr(1000));
        let s = pair.server.streams().open(Dir::Uni).unwrap();
        pair.server.streams().send(s, Bytes::from_static(b"news"), true).unwrap();
        pair.settle();
        assert_eq!(pair.client_app.data.get(&s).map(|d| &d[..]), Some(&b"news"[..]));
    }
}

#[test]
fn a_client_that_moves_on_and_on_costs_three_paths() {
    // It answers each challenge from its new address and none from the old one, and the probe timeout
    // that it asks for keeps the challenges of all of them under way.
    let mut pair = Pair::connected();
    pair.server.peer_max_ack_delay_ns = 16_000_000_000;
    for n in 0..20u16 {
        pair.nat = addr(2_000 + n);
        let mut moved = pair.forge_1rtt(Side::Client, &payload(&[Frame::Ping]), 0);
        pair.deliver(Side::Server, Ecn::NotEct, &mut moved);
        pair.run_ms(50);
        assert_eq!(pair.server.remote(), pair.nat);
        assert_eq!(pair.server.stats().paths_validated, u64::from(n) + 1);
        let others = &pair.server.others.as_ref().unwrap().paths;
        assert!(others.len() <= 3, "{n} {}", others.len());
        assert_eq!(others.iter().filter(|other| other.fallback).count(), 1, "{n}");
    }
    // What is returned to is where the client was last.
    let last = pair.nat;
    let mut copy = pair.forge_1rtt(Side::Client, &payload(&[Frame::Ping]), 0);
    pair.deliver_at(Side::Server, &from_client(far(9)), Ecn::NotEct, &mut copy);
    let others = &pair.server.others.as_ref().unwrap().paths;
    let fallbacks = others.iter().filter(|other| other.fallback).map(|other| other.path.remote);
    assert_eq!(fallbacks.collect::<Vec<_>>(), [last]);
}

#[test]
fn a_path_without_a_connection_id_does_not_keep_its_worker_awake() {
    // The peer moves, and retires all ids but one: the old path has none, and its challenge cannot leave.
    let mut pair = Pair::connected();
    pair.nat = far(1);
    let mut moved = pair.forge_1rtt(Side::Client, &payload(&[Frame::Ping]), 0);
    pair.deliver(Side::Server, Ecn::NotEct, &mut moved);
    let id = Frame::NewConnectionId {
        sequence: 2,
        retire_prior_to: 2,
        cid: cid(77),
        reset_token: [77; 16],
    };
    pair.attack(Side::Client, &[id]);
    let mut buf = [0; 2048];
    for _ in 0..60 {
        while let Some((id, _)) = pair.server.wants_elsewhere(pair.now) {
            pair.server.transmit_elsewhere(pair.now, id, &mut buf).unwrap();
        }
        while pair.server.transmit(pair.now, &mut buf).is_some() {}
        // Until it is idle for too long.
        let Some(next) = pair.server.next_timeout() else { return };
        assert!(next > pair.now, "{:?}", pair.server.others);
        pair.now = next;
        pair.server.handle_timeout(pair.now, &mut pair.server_app);
    }
    panic!("woken too often");
}

#[test]
fn a_client_that_moves_twice_at_once_returns_to_where_it_was_heard() {
    let mut pair = Pair::connected();
    pair.server.add_cid(cid(150), [150; 16]);
    pair.settle();
    pair.dead.extend([far(3), far(4)]);
    pair.client.migrate(pair.now, far(3), Migration::AtOnce).unwrap();
    pair.client.migrate(pair.now, far(4), Migration::AtOnce).unwrap();
    let others = &pair.client.others.as_ref().unwrap().paths;
    let fallbacks = others.iter().filter(|other| other.fallback).map(|other| other.path.local);
    assert_eq!(fallbacks.collect::<Vec<_>>(), [addr(1000)]);
    pair.run_ms(20_000);
    assert_eq!(pair.client.local(), addr(1000));
    assert!(is_quiet(&pair.client));
}

/// The challenges that the server sends on other paths than the active one, and where to.
fn challenges_elsewhere(pair: &mut Pair) -> Vec<(Addresses, [u8; 8])> {
    let heard = pair.hear(Side::Server, |what| match what {
        Observation::PacketSent(p) => p.frames().find_map(|f| match f {
            Frame::PathChallenge(data) => Some(data),
            _ => None,
        }),
        _ => None,
    });
    let (mut buf, mut ends) = ([0; 2048], Vec::new());
    while let Some((id, at)) = pair.server.wants_elsewhere(pair.now) {
        pair.server.transmit_elsewhere(pair.now, id, &mut buf).unwrap();
        ends.push(at);
    }
    ends.into_iter().zip(heard.take()).collect()
}

#[test]
fn only_the_newest_packet_that_is_more_than_a_probe_moves_a_path() {
    // RFC 9000 §9.3. Each row: packets in the order in which they arrive, by number, kind and address;
    // and where the peer is in the end.
    let (here, there) = (addr(1000), far(9));
    let probe = &Frame::PathChallenge([7; 8]);
    type Packet<'a> = (u64, &'a Frame<'a>, SocketAddr);
    let rows: [(&[Packet<'_>], SocketAddr); 6] = [
        (&[(1, &Frame::Ping, there)], there),
        (&[(1, &Frame::Ping, here), (0, &Frame::Ping, there)], here),
        // A probe that overtakes holds nothing up.
        (&[(2, probe, there), (1, &Frame::Ping, there)], there),
        (&[(3, probe, there), (2, probe, there), (1, &Frame::Ping, there)], there),
        // And what is older than what moved the path moves it no more.
        (&[(3, probe, there), (2, &Frame::Ping, there), (1, &Frame::Ping, here)], there),
        (&[(3, probe, there), (1, &Frame::Ping, there), (2, &Frame::Ping, here)], here),
    ];
    for (n, (packets, end)) in rows.into_iter().enumerate() {
        let mut pair = Pair::connected();
        let base = pair.client.data.sent.next_pn();
        for (number, frame, from) in packets {
            let bytes = payload(std::slice::from_ref(*frame));
            let mut packet = pair.forge_numbered(Side::Client, base + number, &bytes, 0);
            pair.deliver_at(Side::Server, &from_client(*from), Ecn::NotEct, &mut packet);
        }
        assert_eq!(pair.server.remote(), end, "row {n}");
    }
}

#[test]
fn attack_35_an_address_that_is_made_up_does_not_swallow_the_close() {
    for (honest, heard_at) in [(false, addr(1000)), (true, far(9))] {
        let mut pair = Pair::connected();
        let mut packet = pair.forge_1rtt(Side::Client, &payload(&[Frame::Ping]), 0);
        pair.deliver_at(Side::Server, &from_client(far(9)), Ecn::NotEct, &mut packet);
        pair.dead.push(if honest { addr(1000) } else { far(9) });
        let (tell, heard) = std::sync::mpsc::channel();
        pair.filter = Box::new(move |f| {
            if f.to == Side::Client {
                let _ = tell.send(f.at.local);
            }
            true
        });
        pair.server.close(pair.now, 7, Bytes::new());
        let closed = |pair: &Pair| {
            matches!(pair.client_app.closed(), Some(CloseReason::PeerApplication { code: 7, .. }))
        };
        pair.run_ms(50);
        assert!(closed(&pair), "{honest}");
        assert_eq!(heard.try_iter().collect::<BTreeSet<_>>(), BTreeSet::from([heard_at]));
        assert!(!pair.server.is_drained(), "it answers, since the peer is known");
        pair.run_ms(20_000);
        assert!(pair.server.is_drained());
    }
}

#[test]
fn a_close_is_repeated_on_the_path_that_asks_and_limited_on_one_that_is_not_validated() {
    let mut pair = Pair::connected();
    let mut packet = pair.forge_1rtt(Side::Client, &payload(&[Frame::Ping]), 0);
    let mut bytes = packet.len();
    pair.deliver_at(Side::Server, &from_client(far(9)), Ecn::NotEct, &mut packet);
    pair.server.close(pair.now, 7, Bytes::from(vec![b'x'; 200]));
    let (mut buf, mut sent) = ([0; 2048], [0, 0]);
    for round in 0..6 {
        while let Some((id, at)) = pair.server.wants_elsewhere(pair.now) {
            assert_eq!(at.remote, addr(1000));
            sent[0] += pair.server.transmit_elsewhere(pair.now, id, &mut buf).unwrap().len;
        }
        while let Some(t) = pair.server.transmit(pair.now, &mut buf) {
            sent[1] += t.len;
        }
        assert!(sent[1] <= 3 * bytes, "round {round}: {sent:?} for {bytes}");
        assert!(sent[0] > 200 * (1 + usize::from(round > 0)), "round {round}: {sent:?}");
        let from = if round % 2 == 0 { addr(1000) } else { far(9) };
        let mut packet = pair.forge_1rtt(Side::Client, &payload(&[Frame::Ping]), 0);
        bytes += if from == far(9) { packet.len() } else { 0 };
        pair.deliver_at(Side::Server, &from_client(from), Ecn::NotEct, &mut packet);
    }
}

#[test]
fn acknowledgements_of_another_path_leave_the_back_off_of_the_active_one() {
    let mut pair = Pair::connected();
    let s = pair.server.streams().open(Dir::Uni).unwrap();
    pair.server.streams().send(s, Bytes::from(vec![5; 3_000]), false).unwrap();
    let mut buf = [0; 2048];
    let first = pair.server.data.sent.next_pn();
    while pair.server.transmit(pair.now, &mut buf).is_some() {}
    let mut moved = pair.forge_1rtt(Side::Client, &payload(&[Frame::Ping]), 0);
    pair.deliver_at(Side::Server, &from_client(addr(2000)), Ecn::NotEct, &mut moved);
    pair.server.pto_count = 3;
    let acks = |lo, hi| {
        let mut buf = [0; 64];
        let mut w = Writer::new(&mut buf);
        write_ack(&mut w, std::iter::once((lo, hi)), 1, 0, None).unwrap();
        w.written().to_vec()
    };
    let deliver = |pair: &mut Pair, ack: &[u8]| {
        let mut packet = pair.forge_1rtt(Side::Client, ack, 0);
        pair.deliver_at(Side::Server, &from_client(addr(2000)), Ecn::NotEct, &mut packet);
    };
    deliver(&mut pair, &acks(first, first + 1));
    assert_eq!(pair.server.pto_count, 3, "RFC 9000 §9.4");
    let next = pair.server.data.sent.next_pn();
    pair.server.pending.ping = true;
    assert!(pair.server.transmit(pair.now, &mut buf).is_some());
    deliver(&mut pair, &acks(next, next));
    assert_eq!(pair.server.pto_count, 0);
}

/// A packet that the client sends to the id of the server's with this number.
fn forge_to(pair: &mut Pair, sequence: u64, frame: Frame<'_>) -> Vec<u8> {
    let current = pair.client.remote_cids.current_sequence();
    pair.client.remote_cids.switch_to(sequence);
    let packet = pair.forge_1rtt(Side::Client, &payload(&[frame]), 0);
    pair.client.remote_cids.switch_to(current);
    packet
}

#[test]
fn a_path_that_was_only_probed_does_not_hold_a_connection_id_for_ever() {
    let mut pair = Pair::connected();
    pair.server.add_cid(cid(150), [150; 16]);
    pair.settle();
    // The probe takes the only id that the client has given beyond the one in use.
    let mut probe = forge_to(&mut pair, 1, Frame::PathChallenge([7; 8]));
    pair.deliver_at(Side::Server, &from_client(far(5)), Ecn::NotEct, &mut probe);
    pair.run_ms(50);
    let mut moved = forge_to(&mut pair, 2, Frame::Ping);
    pair.deliver_at(Side::Server, &from_client(far(6)), Ecn::NotEct, &mut moved);
    assert_eq!((pair.server.remote(), pair.server.stats().rx_refused_paths), (addr(1000), 1));
    pair.run_ms(50);
    let mut moved = forge_to(&mut pair, 2, Frame::Ping);
    pair.deliver_at(Side::Server, &from_client(far(6)), Ecn::NotEct, &mut moved);
    assert_eq!((pair.server.remote(), pair.server.stats().rx_refused_paths), (far(6), 1));
}

#[test]
fn a_packet_to_another_address_of_the_server_takes_another_id() {
    // RFC 9000 §9.5: an id is not sent from two addresses of ours.
    let mut pair = Pair::connected();
    let before = pair.server.remote_cids.current_sequence();
    let full = payload(&[Frame::Ping, Frame::Padding { len: 1_150 }]);
    let mut packet = pair.forge_1rtt(Side::Client, &full, 0);
    let at = Addresses { local: far(443), remote: addr(1000) };
    pair.deliver_at(Side::Server, &at, Ecn::NotEct, &mut packet);
    // RFC 9000 §9.6.2: not before the path is validated.
    assert_eq!(pair.server.local(), addr(443));
    let asked = challenges_elsewhere(&mut pair);
    assert_eq!(asked.len(), 1);
    pair.attack(Side::Client, &[Frame::PathResponse(asked[0].1)]);
    assert_eq!(pair.server.local(), far(443));
    assert_ne!(pair.server.remote_cids.current_sequence(), before);
    // A client that goes on at the address before has not moved.
    let mut pair = Pair::connected();
    let mut packet = pair.forge_1rtt(Side::Client, &full, 0);
    pair.deliver_at(Side::Server, &at, Ecn::NotEct, &mut packet);
    let asked = challenges_elsewhere(&mut pair);
    pair.attack(Side::Client, &[Frame::Ping]);
    pair.attack(Side::Client, &[Frame::PathResponse(asked[0].1)]);
    assert_eq!((pair.server.local(), pair.server.stats().paths_validated), (addr(443), 1));
}

#[test]
fn a_late_packet_begins_no_path() {
    // RFC 9000 §9.3: it does not move its sender. Kept, the path would hold a connection id.
    let mut pair = Pair::connected();
    let mut forge = || pair.forge_1rtt(Side::Client, &payload(&[Frame::Ping]), 0);
    let [mut first, mut second, mut third] = [forge(), forge(), forge()];
    let rx = pair.server.stats().rx_packets;
    pair.deliver_at(Side::Server, &from_client(addr(1000)), Ecn::NotEct, &mut third);
    let path = pair.deliver_at(Side::Server, &from_client(far(9)), Ecn::NotEct, &mut first);
    assert_eq!((path, pair.server.stats().rx_packets), (None, rx + 2), "it is read");
    assert!(is_quiet(&pair.server) && pair.server.remote() == addr(1000));
    // Nor while there are other paths.
    let mut probe = forge_to(&mut pair, 1, Frame::PathChallenge([7; 8]));
    pair.deliver_at(Side::Server, &from_client(far(5)), Ecn::NotEct, &mut probe);
    pair.deliver_at(Side::Server, &from_client(far(8)), Ecn::NotEct, &mut second);
    assert_eq!(pair.server.stats().rx_packets, rx + 4);
    assert_eq!(pair.server.others.as_ref().unwrap().paths.len(), 1);
}
