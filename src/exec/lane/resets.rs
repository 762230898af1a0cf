//! Stateless resets of peers (RFC 9000 §10.3.1).
//!
//! A peer that has forgotten a connection answers with a datagram whose id is random: it leads
//! nowhere. What tells whom it is for are its last 16 bytes, the token that the peer gave out with
//! the id that we write to. So a datagram without a route, and no other, is looked up here.
//!
//! The map holds a keyed hash of the peer's address and the token, and never compares tokens:
//! the connection that it names does, in constant time. There is one entry for a connection at
//! most, of the id in use, so the map is as bounded as the table.

use super::{Entry, Lane, touch};
use crate::datapath::RxMeta;
use crate::exec::table::Key;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;

/// Bytes of a token, at the end of a datagram.
const TOKEN_BYTES: usize = 16;

/// Connections by address and reset token of their peers.
#[derive(Default)]
pub(super) struct Resets {
    /// Nobody outside knows its key: no two tokens can be made to collide.
    hash: RandomState,
    entries: HashMap<u64, Key, RandomState>,
}

impl Resets {
    fn digest(&self, remote: SocketAddr, token: &[u8; TOKEN_BYTES]) -> u64 {
        self.hash.hash_one((remote, token))
    }

    /// The connection that a datagram may reset.
    fn find(&self, remote: SocketAddr, datagram: &[u8]) -> Option<Key> {
        if self.entries.is_empty() {
            return None;
        }
        let token = datagram.last_chunk()?;
        self.entries.get(&self.digest(remote, token)).copied()
    }

    /// Puts `now` in the place of `before`, which may be another connection's by now.
    fn replace(&mut self, before: Option<u64>, now: Option<u64>, key: Key) {
        if let Some(before) = before
            && self.entries.get(&before) == Some(&key)
        {
            self.entries.remove(&before);
        }
        if let Some(now) = now {
            self.entries.insert(now, key);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl Lane {
    /// The peer's id in use has changed: so does the token that ends the connection.
    #[cold]
    pub(super) fn enter_reset(&mut self, key: Key) {
        let Some(Entry { connection, seat, .. }) = self.table.get(key) else { return };
        let remote = connection.remote();
        let digest = connection.reset_token().map(|token| self.resets.digest(remote, token));
        let before = std::mem::replace(&mut seat.reset, digest);
        self.resets.replace(before, digest, key);
    }

    /// A connection is gone.
    pub(super) fn leave_reset(&mut self, key: Key, digest: Option<u64>) {
        self.resets.replace(digest, None, key);
    }

    /// Whether a datagram that no id leads anywhere says that the peer has forgotten a
    /// connection, which is over then.
    pub(super) fn forgotten_by_peer(&mut self, meta: &RxMeta, datagram: &[u8]) -> bool {
        let Some(key) = self.resets.find(meta.path.remote, datagram) else { return false };
        let Some(entry) = self.table.get(key) else { return false };
        let now = self.services.now();
        let (connection, mut application) = entry.split(&mut self.services);
        let remote = meta.path.remote;
        if !connection.receive_stateless_reset(now, remote, datagram, &mut application) {
            return false;
        }
        touch(&mut self.touched, &mut entry.seat, now);
        self.counters.rx_resets += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::{Checksum, Link, Path};
    use crate::ecn::Ecn;
    use crate::exec::lane::{LaneLimits, Routed};
    use crate::exec::testing::{CLIENT, SERVER, Scene, Told};
    use crate::proto::connection::CloseReason;
    use bytes::Bytes;

    fn from_server() -> RxMeta {
        let path = Path { local: CLIENT.into(), remote: SERVER.into(), link: Link::UNKNOWN };
        RxMeta { path, ecn: Ecn::NotEct, checksum: Checksum::Verified }
    }

    const FORGOTTEN: Told = Told::Closed(CloseReason::StatelessReset);

    #[test]
    fn a_client_learns_within_a_round_trip_that_its_server_was_restarted() {
        let mut scene = Scene::new(1, LaneLimits::default());
        let handle = scene.connect(Some(b"before"));
        scene.run(50);
        assert_eq!(scene.client.lane().resets.len(), 1);
        scene.restart_server(0);
        handle
            .open(crate::wire::Dir::Uni, |c, stream| {
                c.send(stream.unwrap(), Bytes::from_static(b"after"), true).unwrap();
            })
            .unwrap();
        // A round trip: the wire takes a turn each way.
        scene.run(2);
        assert_eq!(scene.told_client().last(), Some(&FORGOTTEN));
        assert_eq!(scene.client.lane().counters().rx_resets, 1);
        assert_eq!(scene.servers[0].lane().endpoint_stats().resets, 1);
        scene.run(10);
        assert!(scene.client.lane().is_empty(), "nothing is kept");
        assert_eq!(scene.client.lane().resets.len(), 0);
    }

    #[test]
    fn attack_38_who_only_acknowledges_is_told_too() {
        let mut scene = Scene::new(1, LaneLimits::default());
        scene.connect(None);
        scene.run(20);
        let lane = scene.servers[0].lane();
        let (_, entry) = lane.table.get_slot(0).unwrap();
        let stream = entry.connection.open(crate::wire::Dir::Uni).unwrap();
        entry.connection.send(stream, Bytes::from_static(b"acknowledge"), true).unwrap();
        touch(&mut lane.touched, &mut entry.seat, scene.now);
        scene.servers[0].turn(scene.now).unwrap();
        let sent: Vec<_> = scene.servers[0].ports()[0].sent.drain(..).collect();
        scene.restart_server(0);
        for datagram in sent {
            scene.client.ports()[0].carry(datagram);
        }
        // The acknowledgement is delayed by up to 25 ms.
        scene.run(30);
        assert_eq!(scene.told_client().last(), Some(&FORGOTTEN));
    }

    #[test]
    fn attack_38_forged_resets_are_looked_up_and_forgotten() {
        let mut scene = Scene::new(1, LaneLimits::default());
        scene.connect(None);
        scene.run(20);
        let lane = scene.client.lane();
        let token = *lane.table.get_slot(0).unwrap().1.connection.reset_token().unwrap();
        let mut forged = [0x55; 40];
        for at in 0..TOKEN_BYTES {
            forged[24..].copy_from_slice(&token);
            forged[24 + at] ^= 1;
            assert_eq!(lane.receive(0, &from_server(), &mut forged), Routed::Dropped);
        }
        forged[24..].copy_from_slice(&token);
        let mut elsewhere = from_server();
        elsewhere.path.remote.set_port(1);
        assert_eq!(lane.receive(0, &elsewhere, &mut forged), Routed::Dropped);
        assert_eq!(lane.counters().rx_resets, 0);
        assert_eq!(lane.receive(0, &from_server(), &mut forged), Routed::Here);
        assert_eq!(lane.receive(0, &from_server(), &mut forged), Routed::Dropped, "only once");
        assert_eq!(lane.counters().rx_resets, 1);
        assert_eq!(scene.told_client().last(), Some(&FORGOTTEN));
    }

    #[test]
    fn attack_38_only_an_id_of_this_host_that_names_no_connection_is_answered() {
        let mut scene = Scene::new(1, LaneLimits::default());
        scene.connect(None);
        scene.run(20);
        let path = Path { local: SERVER.into(), remote: CLIENT.into(), link: Link::UNKNOWN };
        let meta = RxMeta { path, ecn: Ecn::NotEct, checksum: Checksum::Verified };
        let mut elsewhere = meta;
        elsewhere.path.remote.set_port(1);
        let lane = scene.servers[0].lane();
        let ask = |lane: &mut Lane, meta: &RxMeta, id: &[u8]| {
            let mut datagram = [0x41; 60];
            datagram[1..=id.len()].copy_from_slice(id);
            lane.receive(0, meta, &mut datagram);
            lane.endpoint_stats().resets
        };
        let live = lane.table.get_slot(0).unwrap().0;
        let id = lane.new_cid(live);
        assert_eq!(ask(lane, &meta, id.as_slice()), 0, "it lives");
        assert_eq!(ask(lane, &elsewhere, id.as_slice()), 0, "whoever asks");
        let other = crate::lb::Codec::new(&crate::lb::Config {
            config_id: 0,
            server_id: 1,
            key: Some([7; 16]),
            secret: [7; 16],
        });
        let foreign =
            other.unwrap().encode(crate::lb::Route { worker: 0, slot: 5, generation: 5 }, 5);
        assert_eq!(ask(lane, &meta, foreign.as_slice()), 0, "another host's");
        let gone = lane.new_cid(Key { slot: 5, generation: 5 });
        assert_eq!(ask(lane, &meta, gone.as_slice()), 1);
    }
}
