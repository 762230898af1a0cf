//! Stateless resets of peers (RFC 9000 §10.3.1).
//!
//! A peer that has forgotten a connection answers with a datagram whose id is random: it leads
//! nowhere. Its last 16 bytes name the connection: they are the token that the peer gave out with
//! the id that we write to. So a datagram without a route, and no other, is looked up here.
//!
//! The map holds a keyed hash of the peer's address and the token, and never compares tokens:
//! the connection that it names does, in constant time. There is one entry for a connection at
//! most, of the id in use, so the map is as bounded as the table. A reset that arrives on another
//! worker's queue is handed over as any datagram is: [`Owners`] names the worker.
//!
//! Resets are sent by listeners alone (`proto/endpoint.rs`). A host that only connects sends none,
//! though its peers hold its tokens: when its process is gone so are its ports, and the kernel
//! answers with ICMP. RFC 9000 §10.3 leaves it to the endpoint.

use super::{Entry, Lane, Routed, touch};
use crate::datapath::RxMeta;
use crate::exec::address::Key;
use crate::exec::owners::Owners;
use std::collections::HashMap;

/// Connections of this worker, by the keyed hash of address and reset token of their peers.
#[derive(Default)]
pub(super) struct Resets {
    entries: HashMap<u64, Key>,
}

impl Resets {
    /// Puts `now` in the place of `before`, which may be another connection's by now. False if
    /// other workers will not find it.
    fn replace(
        &mut self,
        (owners, worker): (&Owners, usize),
        before: Option<u64>,
        now: Option<u64>,
        key: Key,
    ) -> bool {
        if let Some(before) = before
            && self.entries.get(&before) == Some(&key)
        {
            self.entries.remove(&before);
            owners.forget(before, worker);
        }
        let Some(now) = now else { return true };
        // An entry of another connection stays.
        self.entries.insert(now, key).is_some() || owners.note(now, worker)
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
        let owners = self.services.fleet().resets();
        let remote = connection.remote();
        let digest = connection.reset_token().map(|token| owners.digest((remote, token)));
        let before = std::mem::replace(&mut seat.reset, digest);
        let us = (owners, self.services.worker());
        if !self.resets.replace(us, before, digest, key) {
            self.counters.resets_unshared += 1;
        }
    }

    /// A connection is gone.
    pub(super) fn leave_reset(&mut self, key: Key, digest: Option<u64>) {
        let us = (self.services.fleet().resets(), self.services.worker());
        self.resets.replace(us, digest, None, key);
    }

    /// Finds out if a datagram whose id leads nowhere is a stateless reset. A connection of this
    /// worker is over then; for a connection of another worker that worker is named.
    pub(super) fn forgotten_by_peer(&mut self, meta: &RxMeta, datagram: &[u8]) -> Option<Routed> {
        let owners = self.services.fleet().resets();
        if self.resets.entries.is_empty() && owners.is_empty() {
            return None;
        }
        let remote = meta.path.remote;
        let digest = owners.digest((remote, datagram.last_chunk::<16>()?));
        let Some(key) = self.resets.entries.get(&digest) else {
            let worker = owners.owner(digest)?;
            let elsewhere = usize::from(worker) != self.services.worker();
            return elsewhere.then(|| Routed::Elsewhere(self.stand_in(worker, digest)));
        };
        let entry = self.table.get(*key)?;
        let now = self.services.now();
        let (connection, mut application) = entry.split(&mut self.services);
        if !connection.receive_stateless_reset(now, remote, datagram, &mut application) {
            return None;
        }
        touch(&mut self.touched, &mut entry.seat, now);
        self.counters.rx_resets += 1;
        Some(Routed::Here)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::memory::MemoryDatapath;
    use crate::datapath::{Checksum, Link, Path};
    use crate::ecn::Ecn;
    use crate::exec::config::LaneLimits;
    use crate::exec::lane::Routed;
    use crate::exec::testing::{CLIENT, SERVER, Scene, Told, carry, take_sent, wire};
    use crate::exec::{SimulatedWorkers, Worker};
    use crate::proto::connection::CloseReason;
    use bytes::Bytes;

    fn from_server() -> RxMeta {
        let path = Path { local: CLIENT.into(), remote: SERVER.into(), link: Link::UNKNOWN };
        RxMeta { path, ecn: Ecn::NotEct, checksum: Checksum::Verified }
    }

    /// Bytes of a token, at the end of a datagram.
    const TOKEN_BYTES: usize = 16;
    const FORGOTTEN: Told = Told::Closed(CloseReason::StatelessReset);

    /// How the client's connection was closed, if it was.
    fn closed(scene: &Scene) -> Option<Told> {
        scene.told_client().into_iter().find(|told| matches!(told, Told::Closed(_)))
    }

    #[test]
    fn a_client_learns_within_a_round_trip_that_its_server_was_restarted() {
        let mut scene = Scene::new(1, LaneLimits::default());
        let handle = scene.connect(Some(b"before"));
        scene.run(50);
        assert_eq!(scene.client.lane().resets.len(), 1);
        scene.restart_server(0);
        handle
            .open(crate::wire::Dir::Uni, |c, stream| {
                c.streams().send(stream.unwrap(), Bytes::from_static(b"after"), true).unwrap();
            })
            .unwrap();
        // A round trip: the wire takes a turn each way.
        scene.run(2);
        assert_eq!(closed(&scene), Some(FORGOTTEN));
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
        let stream = entry.connection.streams().open(crate::wire::Dir::Uni).unwrap();
        entry.connection.streams().send(stream, Bytes::from_static(b"acknowledge"), true).unwrap();
        touch(&mut lane.touched, &mut entry.seat, scene.now);
        scene.servers[0].turn(scene.now).unwrap();
        let sent = take_sent(&mut scene.servers[0]);
        scene.restart_server(0);
        for datagram in sent {
            carry(&mut scene.client, &datagram);
        }
        // The acknowledgement is delayed by up to 25 ms.
        scene.run(30);
        assert_eq!(closed(&scene), Some(FORGOTTEN));
    }

    /// A client of two workers, of which the first is connected. Returns the second, and the token
    /// that ends the connection.
    fn with_another_worker() -> (Scene, Worker<MemoryDatapath>, [u8; TOKEN_BYTES]) {
        let mut scene = Scene::new(1, LaneLimits::default());
        let workers = SimulatedWorkers::new(2, 2).unwrap();
        let worker = |number| {
            let mut worker = workers.worker(number, scene.now, LaneLimits::default());
            worker.add_datapath(wire()).unwrap();
            worker
        };
        (scene.client, scene.queue) = (worker(0), 0);
        let other = worker(1);
        scene.connect(None);
        scene.run(20);
        let (_, entry) = scene.client.lane().table.get_slot(0).unwrap();
        let token = *entry.connection.reset_token().unwrap();
        (scene, other, token)
    }

    fn arrives(worker: &mut Worker<MemoryDatapath>, scene: &Scene, token: &[u8; TOKEN_BYTES]) {
        let mut reset = vec![0x55; 40];
        reset[24..].copy_from_slice(token);
        worker.datapaths()[0].arrived().put(&from_server(), &reset);
        worker.turn(scene.now).unwrap();
    }

    #[test]
    fn attack_38_a_reset_on_another_workers_queue_is_handed_over() {
        let (mut scene, mut other, token) = with_another_worker();
        let mut forged = token;
        forged[0] ^= 1;
        arrives(&mut other, &scene, &forged);
        let counters = other.lane().counters();
        assert_eq!((counters.rx_wrong_queue, counters.rx_unroutable), (0, 1), "no worker's");
        arrives(&mut other, &scene, &token);
        assert_eq!(other.lane().counters().rx_wrong_queue, 1);
        scene.run(1);
        assert_eq!(closed(&scene), Some(FORGOTTEN));
        let counters = scene.client.lane().counters();
        assert_eq!((counters.rx_handed_over, counters.rx_resets), (1, 1));
        // The connection is gone, and with it its entry among the owners.
        scene.run(10);
        assert!(scene.client.lane().is_empty());
        arrives(&mut other, &scene, &token);
        assert_eq!(other.lane().counters().rx_wrong_queue, 1);
        assert!(scene.client.fleet().resets().is_empty());
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
        assert_eq!(closed(&scene), Some(FORGOTTEN));
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
        assert_eq!(ask(lane, &elsewhere, id.as_slice()), 0, "for any client");
        let other = crate::lb::Codec::new(&crate::lb::Config {
            config_id: 0,
            server_id: 1,
            key: Some([7; 16]),
            secret: [7; 16],
        });
        let foreign = other
            .unwrap()
            .encode(crate::lb::Route { process: 0, worker: 0, slot: 5, generation: 5 }, 5);
        assert_eq!(ask(lane, &meta, foreign.as_slice()), 0, "another host's");
        let gone = lane.new_cid(Key { slot: 5, generation: 5 });
        assert_eq!(ask(lane, &meta, gone.as_slice()), 1);
    }
}
