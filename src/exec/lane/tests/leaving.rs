//! Connections of this side whose own address goes away.

use super::*;
use crate::proto::connection::TransportConfig;
use std::net::{IpAddr, SocketAddr};

/// Addresses that the test takes away.
#[derive(Default)]
struct Addresses {
    gone: Vec<IpAddr>,
    dark: Vec<IpAddr>,
    way: Option<SocketAddr>,
    /// How often the client's first address was asked for: once for each connection.
    asked: usize,
}

impl OwnAddresses for Addresses {
    fn standing(&mut self, ip: IpAddr) -> Standing {
        self.asked += usize::from(ip == client().ip());
        match ip {
            ip if self.gone.contains(&ip) => Standing::Gone,
            ip if self.dark.contains(&ip) => Standing::Dark,
            _ => Standing::Own,
        }
    }

    fn towards(&mut self, remote: SocketAddr) -> Option<SocketAddr> {
        assert_eq!(remote, SERVER.into());
        self.way
    }
}

/// The address of each connection.
fn locals(lane: &mut Lane) -> Vec<SocketAddr> {
    let mut all = Vec::new();
    lane.inspect(|_, connection| all.push(connection.local()));
    all
}

fn look(lane: &mut Lane, addresses: &mut Addresses) -> (u64, u64) {
    let mut sweep = Sweep::default();
    while !lane.leave_lost(&mut sweep, addresses) {}
    (sweep.moved, sweep.stay)
}

fn client() -> SocketAddr {
    CLIENT.into()
}

/// Another address of the client's, with a port of a socket that it was found with.
fn other() -> SocketAddr {
    "192.0.2.3:1".parse().unwrap()
}

fn counts(lane: &Lane) -> (u64, u64) {
    let counters = lane.counters();
    (counters.address_moves, counters.address_strandings)
}

#[test]
fn a_client_whose_address_goes_away_moves_to_another_with_its_port() {
    let mut scene = Scene::new(1, LaneLimits::default());
    assert!(!scene.client.lane().has_clients());
    scene.connect(None);
    scene.run(20);
    assert!(scene.client.lane().has_clients() && !scene.servers[0].lane().has_clients());
    let mut addresses = Addresses { way: Some(other()), ..Addresses::default() };
    assert_eq!(look(scene.client.lane(), &mut addresses), (0, 0), "nothing is gone");
    addresses.gone.extend([client().ip(), SocketAddr::from(SERVER).ip()]);
    assert_eq!(look(scene.client.lane(), &mut addresses), (1, 0));
    let moved = SocketAddr::new(other().ip(), client().port());
    assert_eq!(locals(scene.client.lane()), [moved]);
    assert_eq!(look(scene.client.lane(), &mut addresses), (0, 0), "it is there");
    // Without anything to send it tells the server where it is, which validates its path.
    scene.run(100);
    let mut remotes = Vec::new();
    scene.servers[0].lane().inspect(|_, connection| remotes.push(connection.remote()));
    assert_eq!(remotes, [moved]);
    // A server stays where it is.
    assert_eq!(look(scene.servers[0].lane(), &mut addresses), (0, 0));
    // The address comes back: the client stays.
    addresses.gone.clear();
    assert_eq!(look(scene.client.lane(), &mut addresses), (0, 0));
    assert_eq!((locals(scene.client.lane()), counts(scene.client.lane())), (vec![moved], (1, 0)));
}

#[test]
fn a_client_without_another_address_stays_and_moves_when_there_is_one() {
    let mut scene = Scene::new(1, LaneLimits::default());
    scene.connect(None);
    // During the handshake there is nothing to be done.
    scene.step();
    let mut addresses = Addresses { gone: vec![client().ip()], ..Addresses::default() };
    assert_eq!(look(scene.client.lane(), &mut addresses), (0, 0));
    scene.run(20);
    for _ in 0..2 {
        assert_eq!(look(scene.client.lane(), &mut addresses), (0, 1));
        assert_eq!(locals(scene.client.lane()), [client()]);
    }
    assert_eq!(counts(scene.client.lane()), (0, 1), "told once");
    // It comes back, and goes again.
    addresses.gone.clear();
    assert_eq!(look(scene.client.lane(), &mut addresses), (0, 0));
    addresses.gone.push(client().ip());
    assert_eq!(look(scene.client.lane(), &mut addresses), (0, 1));
    assert_eq!(counts(scene.client.lane()), (0, 2));
    // The kernel says that it is not ours, and sends from it.
    addresses.way = Some(client());
    assert_eq!(look(scene.client.lane(), &mut addresses), (0, 0));
    addresses.way = Some(other());
    assert_eq!(look(scene.client.lane(), &mut addresses), (1, 0));
    assert_eq!(counts(scene.client.lane()), (1, 2));
    scene.run(100);
    assert_eq!(scene.servers[0].lane().counters().connections, 1);
}

#[test]
fn a_client_whose_device_loses_its_carrier_moves_if_another_device_leads_there() {
    let mut scene = Scene::new(1, LaneLimits::default());
    scene.connect(None);
    scene.run(20);
    let dark = vec![client().ip()];
    let mut addresses = Addresses { dark, way: Some(client()), ..Addresses::default() };
    // The kernel leads to where there is no carrier.
    for _ in 0..2 {
        assert_eq!(look(scene.client.lane(), &mut addresses), (0, 1));
    }
    addresses.way = None;
    assert_eq!(look(scene.client.lane(), &mut addresses), (0, 1));
    // The same device has another address.
    addresses.way = Some(other());
    addresses.dark.push(other().ip());
    assert_eq!(look(scene.client.lane(), &mut addresses), (0, 1));
    assert_eq!(
        (locals(scene.client.lane()), counts(scene.client.lane())),
        (vec![client()], (0, 1))
    );
    // Another device leads there.
    addresses.dark.pop();
    assert_eq!(look(scene.client.lane(), &mut addresses), (1, 0));
    let moved = SocketAddr::new(other().ip(), client().port());
    assert_eq!((locals(scene.client.lane()), counts(scene.client.lane())), (vec![moved], (1, 1)));
    scene.run(100);
    let mut remotes = Vec::new();
    scene.servers[0].lane().inspect(|_, connection| remotes.push(connection.remote()));
    assert_eq!(remotes, [moved]);
    // The carrier comes back: the client stays.
    addresses.dark.clear();
    assert_eq!(look(scene.client.lane(), &mut addresses), (0, 0));
}

#[test]
fn a_server_that_forbids_it_keeps_its_clients_where_they_are() {
    let transport = TransportConfig { active_migration: false, ..TransportConfig::default() };
    let config = ServerConfig { transport: Arc::new(transport), ..server_config() };
    let mut scene = Scene::with_config(1, LaneLimits::default(), &config);
    scene.connect(None);
    scene.run(20);
    let mut addresses =
        Addresses { gone: vec![client().ip()], way: Some(other()), ..Addresses::default() };
    assert_eq!(look(scene.client.lane(), &mut addresses), (0, 1));
    assert_eq!(
        (locals(scene.client.lane()), counts(scene.client.lane())),
        (vec![client()], (0, 1))
    );
}

#[test]
fn a_look_at_many_takes_several_turns() {
    let mut scene = Scene::new(1, LaneLimits::default());
    for _ in 0..40 {
        scene.connect(None);
    }
    scene.run(200);
    let mut addresses =
        Addresses { gone: vec![client().ip()], way: Some(other()), ..Addresses::default() };
    let (mut sweep, mut parts) = (Sweep::default(), Vec::new());
    let mut is_over = false;
    while !is_over {
        is_over = scene.client.lane().leave_lost(&mut sweep, &mut addresses);
        parts.push(std::mem::take(&mut addresses.asked));
    }
    assert_eq!(parts, [16, 16, 8]);
    assert_eq!((sweep.moved, sweep.stay), (40, 0));
    scene.run(200);
    let mut remotes = Vec::new();
    scene.servers[0].lane().inspect(|_, connection| remotes.push(connection.remote().ip()));
    assert_eq!(remotes, [other().ip(); 40]);
}
