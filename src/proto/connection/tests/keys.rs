//! Key updates, as often as can be, over paths that lose and reorder.

use super::pair::*;
use super::*;
use crate::wire::frame::Frame;

/// When an end changes its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// As soon as RFC 9001 §6.1 lets it.
    Allowed,
    /// As some stacks do: once a packet of the present phase was sent and one was received,
    /// whether or not ours is acknowledged.
    Early,
}

fn update(c: &mut Connection, habit: Habit) {
    let next_pn = c.data.sent.next_pn();
    match habit {
        Habit::Allowed => {
            c.update_keys();
        }
        Habit::Early => {
            let seen = c.keys.as_ref().is_some_and(|k| k.updates == 0 || k.phase_is_seen(next_pn));
            if seen && c.is_confirmed() && c.is_established() {
                c.keys.as_mut().unwrap().update(None, next_pn, Instant::NEVER);
            }
        }
    }
}

/// Loses one datagram of a hundred and delays one of twenty past the next few.
fn rough(seed: u64) -> Box<dyn FnMut(&mut Flight) -> bool> {
    let mut state = seed;
    Box::new(move |f| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let chance = state >> 33;
        if chance.is_multiple_of(20) {
            f.due = f.due.plus_ns(chance % 3_000_000);
        }
        !chance.is_multiple_of(100)
    })
}

/// Echoes some streams while both ends change keys after `every` steps; their updates.
fn run(habits: [Habit; 2], every: u64, seed: u64) -> [ConnectionStats; 2] {
    let mut pair = Pair::connected();
    pair.filter = rough(seed);
    let streams: Vec<_> = (0..4)
        .map(|_| {
            let stream = pair.client.streams().open(Dir::Bi).unwrap();
            pair.client
                .streams()
                .send(stream, Bytes::from(vec![seed as u8; 400_000]), true)
                .unwrap();
            stream
        })
        .collect();
    let limit = pair.now.plus_ns(60_000_000_000);
    let mut steps = 0u64;
    while pair.client_app.fins.len() < streams.len() {
        steps += 1;
        if steps.is_multiple_of(every) {
            update(&mut pair.client, habits[0]);
        }
        if (steps + every / 2).is_multiple_of(every) {
            update(&mut pair.server, habits[1]);
        }
        let what = format!("{habits:?} every {every} steps, seed {seed}");
        assert!(pair.step(limit), "{what}: stalled: {:?}", pair.client.stats());
        assert!(pair.client.is_established(), "{what}: {:?}", pair.client_app.closed());
        assert!(pair.server.is_established(), "{what}: {:?}", pair.server_app.closed());
    }
    for stream in streams {
        assert_eq!(pair.client_app.data[&stream], vec![seed as u8; 400_000]);
    }
    [pair.client.stats(), pair.server.stats()]
}

#[test]
fn both_ends_update_as_often_as_they_may() {
    let mut updates = 0;
    for seed in 0..10 {
        for every in [1, 7, 40] {
            let [client, server] = run([Habit::Allowed; 2], every, seed);
            assert_eq!(client.key_updates.abs_diff(server.key_updates) / 2, 0);
            updates += client.key_updates;
        }
    }
    assert!(updates > 30, "{updates}");
}

#[test]
fn peers_that_update_once_they_have_seen_the_new_phase_are_borne() {
    let mut updates = [0; 2];
    for seed in 0..10 {
        for every in [7, 40] {
            updates[0] += run([Habit::Early, Habit::Allowed], every, seed)[1].key_updates;
            updates[1] += run([Habit::Allowed, Habit::Early], every, seed)[0].key_updates;
        }
    }
    assert!(updates.iter().all(|&n| n > 200), "{updates:?}");
}

#[test]
fn attack_66_the_first_packet_of_a_phase_answers_the_update() {
    let mut pair = Pair::connected();
    // Everything that the client sends is acknowledged already.
    pair.settle();
    let next = pair.client.data.sent.next_pn();
    pair.client.keys.as_mut().unwrap().update(None, next, Instant::NEVER);
    pair.attack(Side::Client, &[Frame::Padding { len: 30 }]);
    assert_eq!(pair.server.stats().key_updates, 1);
    pair.server.pending.ping = true;
    pair.settle();
    assert!(pair.client.keys.as_ref().unwrap().may_update() || pair.client.update_keys());
    assert_eq!((pair.client.stats().key_updates, pair.server.stats().key_updates), (1, 1));
}

#[test]
fn attack_40_old_keys_in_a_packet_after_one_with_newer_keys_end_the_connection() {
    // RFC 9001 §6.4. The client answers an update of the server's, or makes one of its own.
    for server_updates in [false, true] {
        let mut pair = Pair::connected();
        if server_updates {
            assert!(pair.server.update_keys());
        }
        let pn = pair.client.data.sent.next_pn();
        let ping = [1];
        let mut old = pair.forge_numbered(Side::Client, pn + 1, &ping, 0);
        pair.client.keys.as_mut().unwrap().update(None, pn, Instant::NEVER);
        let mut new = pair.forge_numbered(Side::Client, pn, &ping, 0);
        pair.deliver(Side::Server, Ecn::NotEct, &mut old);
        assert_eq!(pair.verdict(Side::Server), None);
        pair.deliver(Side::Server, Ecn::NotEct, &mut new);
        assert_eq!(pair.verdict(Side::Server), Some(code::KEY_UPDATE_ERROR), "{server_updates}");
    }
}

#[test]
fn attack_66_updates_of_a_peer_are_limited_and_counted() {
    let mut pair = Pair::connected();
    // A client that updates its keys as soon as an answer lets it, with each second packet.
    let flood = |pair: &mut Pair, packets: u32| {
        let before = pair.server.stats();
        for _ in 0..packets {
            let next_pn = pair.client.data.sent.next_pn();
            if pair.client.keys.as_ref().is_some_and(|k| k.updates == 0 || k.phase_is_seen(next_pn))
            {
                pair.client.keys.as_mut().unwrap().update(None, next_pn, pair.now);
            }
            pair.attack(Side::Client, &[crate::wire::frame::Frame::Ping]);
            let mut buf = [0; 2048];
            while let Some(t) = pair.server.transmit(pair.now, &mut buf) {
                pair.deliver(Side::Client, t.ecn, &mut buf[..t.len]);
            }
        }
        let after = pair.server.stats();
        let followed = after.key_updates - before.key_updates;
        (followed, after.rx_limited_key_updates - before.rx_limited_key_updates)
    };
    assert_eq!(flood(&mut pair, 1_000), (100, 800), "a tenth of a second's worth at once");
    for ms in 0..50 {
        pair.now = pair.now.plus_ns(1_000_000);
        let (followed, limited) = flood(&mut pair, 10);
        assert!(followed == 1 && limited >= 8, "{followed}, {limited} after {ms} ms");
    }
    // Nothing is lost but time: the peer repeats what was dropped.
    let stream = pair.client.streams().open(Dir::Bi).unwrap();
    pair.client.streams().send(stream, Bytes::from_static(b"after all"), true).unwrap();
    pair.run_ms(2_000);
    assert_eq!(pair.client_app.data[&stream], b"after all");
    assert!(pair.client.is_established() && pair.server.is_established());
}

#[test]
fn a_damaged_packet_costs_no_other_while_our_update_is_not_sent() {
    // After a damaged packet the next was opened as if the peer had updated twice.
    let mut pair = Pair::connected();
    pair.settle();
    let next_pn = pair.server.data.sent.next_pn();
    pair.server.keys.as_mut().unwrap().update(None, next_pn, Instant::NEVER);
    let mut buf = [0; 2048];
    let before = pair.server.stats();
    for damage in [1, 0] {
        let stream = pair.client.streams().open(Dir::Uni).unwrap();
        pair.client.streams().send(stream, Bytes::from_static(b"news"), true).unwrap();
        let t = pair.client.transmit(pair.now, &mut buf).unwrap();
        buf[t.len - 1] ^= damage;
        pair.deliver(Side::Server, Ecn::NotEct, &mut buf[..t.len]);
    }
    let stats = pair.server.stats();
    assert_eq!(stats.rx_dropped, before.rx_dropped + 1);
    assert_eq!(stats.rx_packets, before.rx_packets + 1, "{stats:?}");
}

#[test]
fn an_idle_connection_keeps_what_its_keys_are_made_of() {
    let at_work =
        |pair: &Pair| [&pair.client, &pair.server].map(|c| c.keys.as_ref().unwrap().is_at_work());
    let mut pair = Pair::connected();
    pair.settle();
    let mut buf = [0; 2048];
    for round in 0..6 {
        let busy = pair.server.memory_bytes();
        pair.client.shrink();
        pair.server.shrink();
        assert_eq!(at_work(&pair), [false; 2]);
        assert!(pair.server.memory_bytes() + 2_000 < busy, "{busy}");
        match round {
            // An update begins at an end whose keys rest, and meets one whose keys rest.
            1 => assert!(pair.client.update_keys()),
            2 => assert!(pair.server.update_keys()),
            // What is forged is refused as ever, and wakes the keys.
            3 => {
                let mut packet = pair.forge_1rtt(Side::Client, &[1], 0);
                *packet.last_mut().unwrap() ^= 1;
                let failed = pair.server.stats().rx_dropped;
                pair.deliver(Side::Server, Ecn::NotEct, &mut packet);
                assert_eq!(pair.server.stats().rx_dropped, failed + 1);
                assert!(at_work(&pair)[1]);
                pair.server.shrink();
            }
            // A packet of the phase before arrives after the keys were made anew.
            4 => {
                let stream = pair.client.streams().open(Dir::Uni).unwrap();
                pair.client.streams().send(stream, Bytes::from_static(b"late"), true).unwrap();
                let late = pair.client.transmit(pair.now, &mut buf).unwrap().len;
                let next_pn = pair.client.data.sent.next_pn();
                pair.client.keys.as_mut().unwrap().update(None, next_pn, Instant::NEVER);
                pair.attack(Side::Client, &[Frame::Ping]);
                pair.server.shrink();
                pair.deliver(Side::Server, Ecn::NotEct, &mut buf[..late]);
                pair.settle();
                assert_eq!(pair.server_app.data[&stream], b"late");
            }
            _ => {}
        }
        let stream = pair.client.streams().open(Dir::Bi).unwrap();
        pair.client.streams().send(stream, Bytes::from_static(b"awake"), true).unwrap();
        pair.run_ms(2_000);
        assert_eq!(pair.client_app.data[&stream], b"awake", "round {round}");
        assert_eq!(at_work(&pair), [true; 2]);
    }
    assert_eq!((pair.client.stats().key_updates, pair.server.stats().key_updates), (3, 3));
}
