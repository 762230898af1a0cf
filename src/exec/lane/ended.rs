//! What connections have counted is added up when they end: a limit that one of them has met must be
//! seen by whoever runs the worker, and not by its application alone.

use super::super::counters::LaneCounters;
use crate::proto::connection::ConnectionStats;

impl LaneCounters {
    /// Adds what a connection has counted that is no more.
    pub(super) fn add_ended(&mut self, stats: &ConnectionStats) {
        self.ended_lost_packets += stats.lost_packets;
        self.ended_ptos += stats.ptos;
        self.ended_congestion_events += stats.congestion_events;
        self.ended_mtu_black_holes += stats.mtu_black_holes;
        self.ended_key_updates += stats.key_updates;
        self.ended_limited_key_updates += stats.rx_limited_key_updates;
        self.ended_refused_packets += stats.rx_refused;
        self.ended_refused_challenges += stats.rx_refused_challenges;
        self.ended_oversized += stats.rx_oversized;
        self.ended_foreign += stats.rx_foreign;
        self.ended_withheld_acks += stats.tx_withheld_acks;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::{Checksum, Link, Path, RxMeta};
    use crate::ecn::Ecn;
    use crate::exec::config::LaneLimits;
    use crate::exec::lane::Routed;
    use crate::exec::testing::{CLIENT, SERVER, Scene};

    #[test]
    fn what_a_connection_has_dropped_is_counted_when_it_has_ended() {
        let mut scene = Scene::new(1, LaneLimits::default());
        let handle = scene.connect(None);
        scene.run(20);
        let lane = scene.servers[0].lane();
        let key = lane.table.get_slot(0).unwrap().0;
        let id = lane.new_cid(key);
        let path = Path { local: SERVER.into(), remote: CLIENT.into(), link: Link::UNKNOWN };
        let here = RxMeta { path, ecn: Ecn::NotEct, checksum: Checksum::Verified };
        let mut elsewhere = here;
        elsewhere.path.remote.set_port(1);
        let mut huge = vec![0x40; 20_000];
        huge[1..=id.len()].copy_from_slice(id.as_slice());
        let mut small = huge[..100].to_vec();
        assert_eq!(lane.receive(0, &here, &mut huge), Routed::Here);
        for _ in 0..2 {
            assert_eq!(lane.receive(0, &elsewhere, &mut small), Routed::Here);
        }
        handle.close(0, bytes::Bytes::new()).unwrap();
        scene.run(3_000);
        let counters = scene.servers[0].lane().counters();
        assert_eq!((counters.connections, counters.ended_key_updates), (0, 0));
        assert_eq!((counters.ended_oversized, counters.ended_foreign), (1, 2), "{counters:?}");
    }

    #[test]
    fn each_limit_of_a_connection_has_its_counter() {
        let stats = ConnectionStats {
            lost_packets: 1,
            ptos: 2,
            congestion_events: 3,
            mtu_black_holes: 4,
            key_updates: 5,
            rx_limited_key_updates: 6,
            rx_refused: 7,
            rx_refused_challenges: 8,
            rx_oversized: 9,
            rx_foreign: 10,
            tx_withheld_acks: 11,
            ..ConnectionStats::default()
        };
        let mut counters = LaneCounters::default();
        counters.add_ended(&stats);
        counters.add_ended(&stats);
        let ended = counters.iter().filter(|(counter, _)| counter.name.starts_with("ended_"));
        let mut values: Vec<_> = ended.map(|(_, value)| value).collect();
        values.sort_unstable();
        assert_eq!(values, (1..=11).map(|n| 2 * n).collect::<Vec<_>>());
    }
}
