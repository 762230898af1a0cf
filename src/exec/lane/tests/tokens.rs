//! Tokens for later connections: who gets them, and for which address.

use super::forged::{Kind, id, initial};
use super::*;
use std::net::SocketAddr;

/// An address that is not the client's, and that it writes into its datagrams.
fn elsewhere() -> SocketAddr {
    ([203, 0, 113, 9], 7).into()
}

/// A server that asks all clients without a token for proof.
fn scene() -> Scene {
    let config = ServerConfig { retry: RetryPolicy::Always, ..server_config() };
    Scene::with_config(1, LaneLimits::default(), &config)
}

/// A millisecond in which the client's datagrams come `from` there. What the server sends to another
/// address is lost.
fn step_from(scene: &mut Scene, from: SocketAddr) {
    scene.now = scene.now.plus_ns(MILLISECOND_NS);
    scene.client.turn(scene.now).unwrap();
    for mut datagram in take_sent(&mut scene.client) {
        datagram.meta.path.local = from;
        carry(&mut scene.servers[0], &datagram);
    }
    scene.servers[0].turn(scene.now).unwrap();
    for mut datagram in take_sent(&mut scene.servers[0]) {
        if datagram.meta.path.remote == from {
            datagram.meta.path.remote = CLIENT.into();
            carry(&mut scene.client, &datagram);
        }
    }
}

/// A client that ends its handshake with packets from [`elsewhere`].
fn finished_from_elsewhere(scene: &mut Scene) -> Handle {
    let handle = scene.connect(None);
    // The Retry, and the server's flight.
    for _ in 0..2 {
        step_from(scene, CLIENT.into());
    }
    step_from(scene, elsewhere());
    let (_, entry) = scene.servers[0].lane().table.get_slot(0).unwrap();
    assert!(entry.connection.is_established() && entry.connection.remote() == elsewhere());
    assert!(!entry.connection.is_address_validated());
    handle
}

fn tokens(scene: &Scene) -> Vec<Vec<u8>> {
    let token = |told| if let Told::Token(token) = told { Some(token) } else { None };
    scene.told_client().into_iter().filter_map(token).collect()
}

/// True if a client at `from` with this token is not asked for any other proof.
fn is_proof(scene: &mut Scene, from: SocketAddr, token: &[u8]) -> bool {
    let retries = |scene: &mut Scene| scene.servers[0].lane().endpoint_stats().retries;
    let before = retries(scene);
    scene.inject(from, &initial(Kind::Ping, id(before), token, 0));
    retries(scene) == before
}

#[test]
fn attack_06_a_handshake_finished_from_a_forged_address_earns_no_token_for_it() {
    let mut scene = scene();
    let handle = finished_from_elsewhere(&mut scene);
    // The client is where it always was, and says something.
    handle
        .open(crate::wire::Dir::Bi, |c, stream| {
            c.streams().send(stream.unwrap(), Bytes::from_static(b"here"), true).unwrap();
        })
        .unwrap();
    for _ in 0..2_000 {
        step_from(&mut scene, CLIENT.into());
    }
    let tokens = tokens(&scene);
    let [token] = &tokens[..] else { panic!("{} tokens", tokens.len()) };
    assert!(!is_proof(&mut scene, elsewhere(), token), "an address that nobody has proved");
    assert!(is_proof(&mut scene, CLIENT.into(), token));
}

#[test]
fn a_client_that_moves_during_its_handshake_gets_its_token_once_it_is_found_there() {
    let mut scene = scene();
    let _handle = finished_from_elsewhere(&mut scene);
    assert!(tokens(&scene).is_empty(), "its address is not validated");
    for _ in 0..2_000 {
        step_from(&mut scene, elsewhere());
    }
    let tokens = tokens(&scene);
    let [token] = &tokens[..] else { panic!("{} tokens", tokens.len()) };
    assert!(is_proof(&mut scene, elsewhere(), token));
}
