//! Which clients get a place, for how long, and what happens where there is none.

use super::forged::{Kind, anywhere, id, initial, meta};
use super::*;
use crate::proto::connection::code;
use crate::wire::packet;
use std::net::SocketAddr;

fn with_retry(limits: LaneLimits) -> Scene {
    let config = ServerConfig { retry: RetryPolicy::Always, ..server_config() };
    Scene::with_config(1, limits, &config)
}

fn refused(told: &[Told]) -> usize {
    let refused = |told: &&Told| {
        matches!(told, Told::Closed(CloseReason::PeerTransport { code, .. })
            if *code == code::CONNECTION_REFUSED)
    };
    told.iter().filter(refused).count()
}

fn connected(told: &[Told]) -> usize {
    told.iter().filter(|told| matches!(told, Told::Connected(_))).count()
}

/// Each of these once held a slot for three seconds.
#[test]
fn a_handshake_that_fails_with_its_first_packet_never_has_a_place() {
    for kind in [Kind::Close, Kind::NotTls, Kind::NoAlpn] {
        let mut scene = Scene::new(1, LaneLimits::default());
        let answers = scene.inject(anywhere(1), &initial(kind, id(1), b"", 0));
        // A client that closes is not answered; one that fails gets CONNECTION_CLOSE once.
        assert_eq!(answers.len(), usize::from(kind != Kind::Close), "{kind:?}");
        assert!(answers.iter().all(|answer| answer.len() <= 3 * 1200));
        let counters = scene.counters();
        assert_eq!((counters.connections, counters.handshakes), (0, 0), "{kind:?}");
        assert_eq!((counters.handshakes_failed, counters.accepted), (1, 0), "{kind:?}");
        let lane = scene.servers[0].lane();
        assert_eq!((lane.table.slots(), lane.table.initials()), (0, 0), "{kind:?}");
        // Only one that says what it asks for reaches the application: closed, and drained.
        let told = if kind == Kind::NoAlpn { 2 } else { 0 };
        assert_eq!(scene.told_server().len(), told, "{kind:?}");
    }
}

#[test]
fn a_handshake_that_fails_later_leaves_its_place_at_once_and_counts_until_then() {
    let mut scene = Scene::new(1, LaneLimits::default());
    for kind in [Kind::Close, Kind::NotTls] {
        scene.inject(anywhere(1), &initial(Kind::Ping, id(1), b"", 0));
        assert_eq!((scene.counters().connections, scene.counters().handshakes), (1, 1));
        scene.inject(anywhere(1), &initial(kind, id(1), b"", 1));
        assert_eq!((scene.counters().connections, scene.counters().handshakes), (0, 0));
        let lane = scene.servers[0].lane();
        assert_eq!((lane.table.initials(), lane.next_timeout()), (0, Instant::NEVER), "{kind:?}");
    }
    assert_eq!(scene.counters().handshakes_failed, 2);
}

#[test]
fn handshakes_that_failed_a_moment_ago_lead_to_retry_and_are_forgotten() {
    let config = ServerConfig { retry: RetryPolicy::Above(10), ..server_config() };
    let mut scene = Scene::with_config(1, LaneLimits::default(), &config);
    for n in 0..100 {
        scene.inject(anywhere(n), &initial(Kind::Close, id(n.into()), b"", 0));
    }
    assert_eq!(scene.counters().handshakes_failed, 10);
    assert_eq!(scene.servers[0].lane().endpoint_stats().retries, 90);
    scene.run(2_000);
    scene.connect(None);
    scene.run(20);
    assert_eq!(connected(&scene.told_client()), 1);
    assert_eq!(scene.servers[0].lane().endpoint_stats().retries, 90, "without a Retry");
}

/// ATTACKS row 18: handshakes never finished but kept alive: own lifetime.
#[test]
fn attack_18_a_handshake_that_is_kept_alive_ends_in_its_time() {
    let mut scene = Scene::new(1, LaneLimits::default());
    for pn in 0..99 {
        scene.inject(anywhere(1), &initial(Kind::Ping, id(1), b"", pn));
        assert_eq!(scene.counters().connections, 1, "packet {pn}");
        scene.run(100);
    }
    scene.run(200);
    assert_eq!((scene.counters().connections, scene.counters().handshakes_failed), (0, 1));
}

/// ATTACKS row 18: the oldest is evicted.
#[test]
fn attack_18_the_oldest_unfinished_handshake_makes_room_for_a_proven_address() {
    let mut scene = with_retry(few(100, 4));
    for n in 0..4 {
        scene.begin_proven_with(Kind::Hello, anywhere(n), n.into());
    }
    assert_eq!((scene.counters().handshakes, scene.counters().evicted_handshakes), (4, 0));
    for _ in 0..3 {
        scene.connect(None);
        scene.run(30);
    }
    assert_eq!(connected(&scene.told_client()), 3);
    // The first was evicted, and its application called; the others were not evicted: a client that
    // finishes leaves its place among the handshakes.
    let counters = scene.counters();
    assert_eq!((counters.handshakes, counters.evicted_handshakes), (3, 1));
    let ended = |told: &&Told| {
        matches!(told, Told::Closed(CloseReason::Transport(e))
        if e.code == code::CONNECTION_REFUSED)
    };
    assert_eq!(scene.told_server().iter().filter(ended).count(), 1);
    // Nothing of the evicted one is left behind.
    scene.run(11_000);
    assert_eq!((scene.counters().connections, scene.counters().handshakes), (3, 0));
}

/// It was taken for unfinished until it had written, and was evicted for a client of the same turn.
#[test]
fn a_handshake_that_is_done_in_this_turn_is_not_evicted() {
    let mut scene = with_retry(few(100, 1));
    let retry = scene.inject(anywhere(1), &initial(Kind::Ping, id(1), b"", 0));
    let p = packet::parse(&retry[0], 0, 8).unwrap();
    let proven = initial(Kind::Ping, p.scid, &retry[0][p.token.clone()], 1);
    scene.connect(None);
    // Retry, and the server's flight.
    scene.run(2);
    assert_eq!((scene.counters().handshakes, connected(&scene.told_server())), (1, 0));
    scene.now = scene.now.plus_ns(crate::time::MILLISECOND_NS);
    scene.client.turn(scene.now).unwrap();
    let lane = scene.servers[0].lane();
    lane.set_now(scene.now);
    for mut datagram in take_sent(&mut scene.client) {
        let meta = datagram.meta.crossed();
        lane.receive(0, &meta, datagram.payload_mut());
    }
    lane.receive(0, &meta(anywhere(1)), &mut proven.clone());
    scene.servers[0].turn(scene.now).unwrap();
    let counters = scene.counters();
    assert_eq!((counters.connections, counters.handshakes, counters.evicted_handshakes), (2, 1, 0));
    assert_eq!((connected(&scene.told_server()), counters.refused_full), (1, 0));
}

#[test]
fn a_table_that_is_full_means_retry_and_then_an_answer() {
    for retry in [RetryPolicy::Never, RetryPolicy::Above(1_000)] {
        let config = ServerConfig { retry, ..server_config() };
        let mut scene = Scene::with_config(1, few(2, 16), &config);
        for _ in 0..3 {
            scene.connect(None);
            scene.run(20);
        }
        assert_eq!(connected(&scene.told_client()), 2);
        assert_eq!(refused(&scene.told_client()), 1, "{retry:?}: {:?}", scene.told_client());
        let stats = scene.servers[0].lane().endpoint_stats();
        assert_eq!((stats.retries, stats.refusals), (1, 1), "{retry:?}");
        assert_eq!((scene.counters().refused_full, scene.counters().connections), (1, 2));
    }
}

#[test]
fn forged_handshakes_that_fill_a_table_make_room_for_proven_ones() {
    let config = ServerConfig { retry: RetryPolicy::Never, ..server_config() };
    let mut scene = Scene::with_config(1, few(8, 100), &config);
    for n in 0..50 {
        scene.inject(anywhere(n), &initial(Kind::Ping, id(n.into()), b"", 0));
    }
    assert_eq!(scene.counters().connections, 8);
    for _ in 0..6 {
        scene.connect(None);
    }
    scene.run(30);
    assert_eq!(connected(&scene.told_client()), 6);
    assert_eq!((scene.counters().connections, scene.counters().evicted_handshakes), (8, 6));
}

/// ATTACKS row 31: a cap of connections for each source.
#[test]
fn attack_31_one_address_has_its_share_of_connections() {
    let limits = LaneLimits { source_connections: 2, ..few(100, 100) };
    let mut scene = Scene::new(1, limits);
    let handles: Vec<_> = (0..3)
        .map(|_| {
            let handle = scene.connect(None);
            scene.run(20);
            handle
        })
        .collect();
    assert_eq!((connected(&scene.told_client()), refused(&scene.told_client())), (2, 1));
    assert_eq!(scene.counters().refused_source_connections, 1);
    // Another source gets in, and so does the same one, once it has closed one of its own.
    scene.inject(anywhere(9), &initial(Kind::Ping, id(9), b"", 0));
    assert_eq!(scene.counters().connections, 3);
    handles[0].close(0, Bytes::new()).unwrap();
    scene.run(3_000);
    scene.connect(None);
    scene.run(20);
    assert_eq!((connected(&scene.told_client()), refused(&scene.told_client())), (3, 1));
}

/// ATTACKS row 31: and of handshakes; with IPv6 a source is a prefix.
#[test]
fn attack_31_one_source_has_its_share_of_handshakes() {
    let limits = LaneLimits { source_handshakes: 3, ..few(100, 100) };
    let mut scene = Scene::new(1, limits);
    let v6 = |host: u16| SocketAddr::from(([0x2001, 0xdb8, 0, 1, host, 0, 0, 1], 50_000 + host));
    for n in 0..10 {
        scene.inject(v6(n), &initial(Kind::Ping, id(n.into()), b"", 0));
    }
    assert_eq!(scene.counters().handshakes, 3, "of one /64");
    assert_eq!(scene.servers[0].lane().endpoint_stats().retries, 7);
    // What an attacker may have forged in its name does not keep it out: it proves its address.
    for n in 20..30 {
        scene.begin_proven(v6(n), n.into());
    }
    assert_eq!(scene.counters().handshakes, 6);
    assert_eq!(scene.counters().refused_source_handshakes, 7);
    assert_eq!(scene.counters().evicted_handshakes, 0, "and no other is evicted for it");
    scene.connect(None);
    scene.run(20);
    assert_eq!(connected(&scene.told_client()), 1);
    // The accounts close with what was on them.
    scene.run(11_000);
    assert_eq!((scene.counters().handshakes, scene.counters().connections), (0, 1));
    for n in 0..10 {
        scene.inject(v6(n), &initial(Kind::Ping, id(n.into()), b"", 0));
    }
    assert_eq!(scene.counters().handshakes, 3);
}

/// There once was no budget of memory over connections.
#[test]
fn connections_hold_no_more_memory_than_a_worker_grants_them() {
    let mut probe = Scene::new(1, LaneLimits::default());
    probe.connect(None);
    probe.run(100);
    let each = probe.counters().memory_bytes;
    assert!((2_000..32_768).contains(&each), "{each} bytes for a connection");

    let limits = LaneLimits { memory_bytes: 3 * each, ..few(100, 100) };
    let mut scene = Scene::new(1, limits);
    let handles: Vec<_> = (0..6)
        .map(|_| {
            let handle = scene.connect(None);
            scene.run(100);
            handle
        })
        .collect();
    let told = scene.told_client();
    assert_eq!((connected(&told) + refused(&told), refused(&told) >= 2), (6, true), "{told:?}");
    let counters = scene.counters();
    assert_eq!(counters.refused_memory, refused(&told) as u64);
    assert!(counters.memory_bytes <= 4 * each, "{counters:?}");
    for handle in handles {
        let _ = handle.close(0, Bytes::new());
    }
    scene.run(5_000);
    assert_eq!((scene.counters().connections, scene.counters().memory_bytes), (0, 0));
    scene.connect(None);
    scene.run(20);
    assert_eq!(connected(&scene.told_client()), connected(&told) + 1);
}

/// Two connections in a row, known by the same id and address.
#[test]
fn an_id_that_is_forgotten_for_one_connection_stays_known_for_the_next() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let close = |scene: &mut Scene| {
        let (key, entry) = scene.servers[0].lane().table.get_slot(0).unwrap();
        entry.connection.abandon(Instant::EPOCH);
        scene.servers[0].lane().remove(key);
    };
    let handle = scene.connect(None);
    scene.client.turn(scene.now).unwrap();
    let initial = scene.first_of_client();
    scene.run(20);
    assert_eq!(scene.servers[0].lane().lingering.len(), 1);
    close(&mut scene);
    // While its id is remembered, a late copy begins no other connection.
    carry(&mut scene.servers[0], &initial);
    scene.servers[0].turn(scene.now).unwrap();
    assert_eq!((scene.counters().connections, scene.counters().rx_late_initials), (0, 1));
    drop(handle);
    scene.run(600);
    assert!(scene.servers[0].lane().lingering.is_empty(), "the first is forgotten");
    // After that it does, and the id leads to the second connection.
    for _ in 0..2 {
        carry(&mut scene.servers[0], &initial);
        scene.servers[0].turn(scene.now).unwrap();
        assert_eq!(scene.counters().connections, 1, "a copy of the second's Initial is no third");
    }
}

/// ATTACKS row 64: what the application has not been given whole is bounded: it is asked about a
/// client that has said what it asks for, and there are no more unfinished ones than places.
#[test]
fn attack_64_connections_that_are_not_established_yet_are_bounded() {
    let config = ServerConfig { retry: RetryPolicy::Never, ..server_config() };
    let mut scene = Scene::with_config(1, few(1_000, 5), &config);
    for n in 0..100 {
        scene.inject(anywhere(n), &initial(Kind::Ping, id(n.into()), b"", 0));
    }
    let counters = scene.counters();
    assert_eq!((counters.accepted, counters.handshakes), (0, 5));
    let mut scene = Scene::with_config(1, few(1_000, 5), &config);
    for n in 0..100 {
        scene.inject(anywhere(n), &initial(Kind::Hello, id(n.into()), b"", 0));
    }
    let counters = scene.counters();
    assert_eq!((counters.accepted, counters.handshakes), (5, 5));
}

#[test]
fn a_retry_is_a_tenth_of_what_it_answers() {
    let mut scene = with_retry(LaneLimits::default());
    let datagram = initial(Kind::Ping, id(1), b"", 0);
    let answers = scene.inject(anywhere(1), &datagram);
    assert!(answers[0].len() * 5 < datagram.len(), "{}", answers[0].len());
    assert_eq!(packet::parse(&answers[0], 0, 8).unwrap().kind, packet::PacketType::Retry);
}
