//! A server that prefers another address (RFC 9000 §9.6).

use super::pair::*;
use super::*;
use crate::proto::path::Addresses;
use std::collections::BTreeSet;
use std::net::{SocketAddrV4, SocketAddrV6};

/// The address that the server prefers.
fn preferred() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 5], 4433))
}

/// Another address of the client's.
fn moved() -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 7], 3))
}

fn naming(at: SocketAddr) -> TransportConfig {
    let mut config = TransportConfig::default();
    match at {
        SocketAddr::V4(at) => config.preferred_v4 = Some(at),
        SocketAddr::V6(at) => config.preferred_v6 = Some(at),
    }
    config
}

/// A pair whose server names the address, in the middle of an echo of a megabyte.
fn echoing(server: TransportConfig) -> (Pair, StreamId) {
    let mut pair = Pair::with(TransportConfig::default(), server);
    pair.client_app.initial = Some(Bytes::from(vec![5; 1_000_000]));
    (pair, StreamId::new(Side::Client, Dir::Bi, 0))
}

/// Both ends, as each sees them: local and remote of the client, then of the server.
fn ends(pair: &Pair) -> [(SocketAddr, SocketAddr); 2] {
    [&pair.client, &pair.server].map(|c| (c.local(), c.remote()))
}

fn addresses_told(app: &Recorder) -> Vec<&Event> {
    let told = |event: &&Event| {
        matches!(
            event,
            Event::PeerAddressChanged { .. }
                | Event::LocalAddressChanged { .. }
                | Event::MigrationFailed { .. }
        )
    };
    app.events.iter().filter(told).collect()
}

/// What leaves and passes, by the ends that the sender sees, and the id that it carries.
fn watch(
    pair: &mut Pair,
    passes: impl Fn(&Addresses) -> bool + 'static,
) -> std::sync::mpsc::Receiver<(Side, Addresses, Vec<u8>)> {
    let (tell, heard) = std::sync::mpsc::channel();
    pair.filter = Box::new(move |f| {
        let at = Addresses { local: f.at.remote, remote: f.at.local };
        if f.bytes[0] & 0x80 == 0 {
            let _ = tell.send((f.to.peer(), at, f.bytes[1..9].to_vec()));
        }
        passes(&at)
    });
    heard
}

fn is_quiet(c: &Connection) -> bool {
    c.others.is_none() && !c.paths_busy && c.path.exchange.is_none()
}

#[test]
fn a_client_moves_to_the_address_that_its_server_prefers() {
    // RFC 9000 §18.2: also where it may not move to addresses of its own.
    for active_migration in [true, false] {
        let config = TransportConfig { active_migration, ..naming(preferred()) };
        let (mut pair, s) = echoing(config);
        let heard = watch(&mut pair, |_| true);
        pair.run_ms(10_000);
        let there = [(addr(1000), preferred()), (preferred(), addr(1000))];
        assert_eq!(ends(&pair), there);
        let [client, server] = [&pair.client_app, &pair.server_app].map(addresses_told);
        assert_eq!(client, [&Event::PeerAddressChanged { remote: preferred() }]);
        assert_eq!(server, [&Event::LocalAddressChanged { local: preferred() }]);
        assert_eq!(pair.client.stats().preferred_moves, 1);
        // What the server sent before it noticed is not lost.
        assert_eq!(pair.client_app.data.get(&s).map(Vec::len), Some(1_000_000));
        assert_eq!(pair.client.stats().rx_foreign + pair.server.stats().rx_foreign, 0);
        assert_eq!(pair.client.stats().paths_validated, 1);
        let server = pair.server.stats();
        assert_eq!((server.paths_validated, server.path_validations_failed), (1, 0));
        assert!(is_quiet(&pair.client) && is_quiet(&pair.server));
        // RFC 9000 §9.5: no id is seen at both addresses, in neither direction.
        for side in [Side::Client, Side::Server] {
            let mut seen = [BTreeSet::new(), BTreeSet::new()];
            for (from, at, id) in heard.try_iter().filter(|(from, ..)| *from == side) {
                assert_eq!(from, side);
                let of_server = if side == Side::Client { at.remote } else { at.local };
                seen[usize::from(of_server == preferred())].insert(id);
            }
            assert!(seen[0].is_disjoint(&seen[1]), "{side:?} {seen:?}");
        }
        // Having acted on it, the client may move.
        assert_eq!(pair.client.migrate(pair.now, moved(), Migration::Validated), Ok(()));
        pair.settle();
        assert_eq!(ends(&pair), [(moved(), preferred()), (preferred(), moved())]);
    }
}

#[test]
fn an_address_where_nobody_answers_changes_nothing() {
    let (mut pair, s) = echoing(naming(preferred()));
    let heard = watch(&mut pair, |at| at.remote != preferred());
    pair.run_ms(10_000);
    assert_eq!(ends(&pair), [(addr(1000), addr(443)), (addr(443), addr(1000))]);
    assert_eq!(addresses_told(&pair.client_app), [&Event::Closed(CloseReason::IdleTimeout); 0]);
    assert_eq!(pair.client_app.data.get(&s).map(Vec::len), Some(1_000_000));
    let stats = pair.client.stats();
    assert_eq!((stats.path_validations_failed, stats.preferred_moves), (1, 0));
    // Once, and with nothing but probes.
    assert_eq!(stats.tx_path_challenges, 3);
    assert_eq!(heard.try_iter().filter(|(_, at, _)| at.remote == preferred()).count(), 3);
    pair.run_ms(15_000);
    assert_eq!(pair.client.stats().tx_path_challenges, 3);
    assert!(is_quiet(&pair.client) && is_quiet(&pair.server));
}

#[test]
fn a_server_whose_answers_are_lost_stays_where_it_is() {
    // RFC 9000 §9.6.2: until its path is validated, whatever its client says there.
    let (mut pair, s) = echoing(naming(preferred()));
    let _heard = watch(&mut pair, |at| at.local != preferred());
    pair.run_ms(10_000);
    assert_eq!(ends(&pair), [(addr(1000), addr(443)), (addr(443), addr(1000))]);
    assert_eq!(pair.client_app.data.get(&s).map(Vec::len), Some(1_000_000));
    assert_eq!(addresses_told(&pair.server_app).len(), 0);
}

#[test]
fn an_address_of_no_host_and_one_that_is_not_wanted_are_not_tried() {
    let strange = [
        SocketAddr::from(([203, 0, 113, 5], 0)),
        SocketAddr::from(([0, 0, 0, 0], 4433)),
        SocketAddr::from(([224, 0, 0, 1], 4433)),
        SocketAddr::from(([255, 255, 255, 255], 4433)),
        SocketAddr::from(([127, 0, 0, 1], 4433)),
        addr(443),
        "[2001:db8::5]:4433".parse().unwrap(),
    ];
    for at in strange {
        let mut pair = Pair::with(TransportConfig::default(), naming(at));
        pair.run_ms(3_000);
        assert!(pair.client.is_confirmed());
        assert_eq!(pair.client.stats().tx_path_challenges, 0, "{at}");
    }
    let unwilling =
        TransportConfig { follow_preferred_address: false, ..TransportConfig::default() };
    let mut pair = Pair::with(unwilling, naming(preferred()));
    pair.run_ms(3_000);
    assert_eq!(pair.client.stats().tx_path_challenges, 0);
    // The id serves any path (§9.6.3).
    assert_eq!(pair.client.migrate(pair.now, moved(), Migration::Validated), Ok(()));
    pair.settle();
    assert_eq!(ends(&pair), [(moved(), addr(443)), (addr(443), moved())]);
}

#[test]
fn the_address_of_the_family_in_use_is_taken() {
    let v6 = SocketAddrV6::new("2001:db8::5".parse().unwrap(), 4433, 0, 0);
    let v4 = SocketAddrV4::new([203, 0, 113, 5].into(), 4433);
    let both = TransportConfig {
        preferred_v4: Some(v4),
        preferred_v6: Some(v6),
        ..TransportConfig::default()
    };
    let mut pair = Pair::with(TransportConfig::default(), both);
    pair.run_ms(3_000);
    assert_eq!(pair.client.remote(), SocketAddr::V4(v4));
}

#[test]
fn a_client_that_moves_meanwhile_asks_from_its_new_address() {
    // RFC 9000 §9.6.3.
    for when in [Migration::Validated, Migration::AtOnce] {
        for answers in [true, false] {
            let (mut pair, s) = echoing(naming(preferred()));
            while !pair.client.is_confirmed() {
                let limit = pair.now.plus_ns(1_000_000_000);
                assert!(pair.step(limit));
            }
            // The ids for two paths are there after a round trip.
            pair.run_ms(3);
            let heard = watch(&mut pair, move |at| answers || at.remote != preferred());
            assert_eq!(pair.client.remote(), addr(443));
            pair.client.migrate(pair.now, moved(), when).unwrap();
            pair.run_ms(10_000);
            let server = if answers { preferred() } else { addr(443) };
            assert_eq!(ends(&pair), [(moved(), server), (server, moved())], "{when:?}");
            assert_eq!(pair.client_app.data.get(&s).map(Vec::len), Some(1_000_000));
            assert_eq!(pair.client.stats().preferred_moves, u64::from(answers));
            let failed = |e: &&Event| matches!(e, Event::MigrationFailed { .. });
            assert_eq!(pair.client_app.events.iter().filter(failed).count(), 0);
            assert!(is_quiet(&pair.client) && is_quiet(&pair.server));
            // RFC 9000 §9.5: no id leaves from two addresses, or for two.
            let mut paths: std::collections::BTreeMap<Vec<u8>, BTreeSet<_>> = Default::default();
            for (_, at, id) in heard.try_iter().filter(|(from, ..)| *from == Side::Client) {
                paths.entry(id).or_default().insert((at.local, at.remote));
            }
            assert!(paths.values().all(|ends| ends.len() == 1), "{paths:?}");
        }
    }
}

#[test]
fn a_server_at_the_address_that_it_prefers_does_not_return() {
    use super::forge::payload;
    use crate::wire::frame::Frame;
    let mut pair = Pair::with(TransportConfig::default(), naming(preferred()));
    pair.run_ms(3_000);
    assert_eq!(pair.server.local(), preferred());
    let mut packet = pair.forge_1rtt(Side::Client, &payload(&[Frame::Ping]), 0);
    let at = Addresses { local: addr(443), remote: addr(1000) };
    pair.deliver_at(Side::Server, &at, Ecn::NotEct, &mut packet);
    pair.settle();
    assert_eq!(pair.server.local(), preferred());
    let (rx, tx) = (pair.server.stats().rx_packets, pair.server.stats().tx_path_challenges);
    assert!(rx > 0 && tx > 0 && is_quiet(&pair.client));
}

#[test]
fn a_server_that_has_moved_forgets_the_address_that_it_left() {
    use super::forge::payload;
    use crate::wire::frame::Frame;
    let (mut pair, _) = echoing(naming(preferred()));
    let mut late = None;
    while pair.server.local() != preferred() {
        let limit = pair.now.plus_ns(1_000_000_000);
        assert!(pair.step(limit));
        if late.is_none() && pair.client.remote() == preferred() {
            late = Some(pair.forge_1rtt(Side::Client, &payload(&[Frame::Ping]), 0));
        }
    }
    assert!(is_quiet(&pair.server), "{:?}", pair.server.others);
    // What the client sent before, and what it sends there by mistake, begins no path.
    let at = Addresses { local: addr(443), remote: addr(1000) };
    let ids = pair.server.remote_cids.get(2).copied();
    let strays = [late.unwrap(), pair.forge_1rtt(Side::Client, &payload(&[Frame::Ping]), 0)];
    for (n, mut packet) in strays.into_iter().enumerate() {
        let rx = pair.server.stats().rx_packets;
        let path = pair.deliver_at(Side::Server, &at, Ecn::NotEct, &mut packet);
        assert_eq!((path, pair.server.stats().rx_packets), (None, rx + 1), "{n}: it is read");
        assert!(is_quiet(&pair.server), "{n}");
    }
    assert_eq!(pair.server.remote_cids.get(2).copied(), ids);
    // A probe is answered there, once there is an id for that, and the path goes again.
    pair.run_ms(50);
    let mut probe = pair.forge_1rtt(Side::Client, &payload(&[Frame::PathChallenge([7; 8])]), 0);
    pair.deliver_at(Side::Server, &at, Ecn::NotEct, &mut probe);
    assert!(pair.server.wants_elsewhere(pair.now).is_some_and(|(_, to)| to == at));
    pair.run_ms(10_000);
    assert!(is_quiet(&pair.server) && pair.server.local() == preferred());
}
