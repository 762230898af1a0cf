//! Adds up the counters of connections when they end: the operator of the worker must see a limit
//! that one of them has met, and not its application alone.

use crate::proto::connection::{Connection, ConnectionStats};
use crate::proto::streams::StreamsStats;

/// The counters of connections that are over.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::exec) struct Ended {
    pub(in crate::exec) connections: ConnectionStats,
    pub(in crate::exec) streams: StreamsStats,
}

impl Ended {
    /// Adds the counters of a connection that is over.
    pub(super) fn add(&mut self, connection: &Connection) {
        self.connections.add_ended(&connection.stats());
        self.streams.add_ended(&connection.streams_stats());
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
        // A long header: only 1-RTT packets may show that the peer has moved.
        let head = [0xc0, 0, 0, 0, 1, id.len() as u8];
        let mut small = [&head, id.as_slice(), &[0, 0, 0x40, 96], &[0; 96]].concat();
        assert_eq!(lane.receive(0, &here, &mut huge), Routed::Here);
        for _ in 0..2 {
            assert_eq!(lane.receive(0, &elsewhere, &mut small), Routed::Here);
        }
        handle.close(0, bytes::Bytes::new()).unwrap();
        scene.run(3_000);
        let lane = scene.servers[0].lane();
        assert_eq!(lane.counters().connections, 0);
        let Ended { connections: all, streams } = lane.ended();
        assert_eq!((all.key_updates, all.rx_oversized, all.rx_foreign), (0, 1, 2), "{all:?}");
        assert!(all.rx_packets > 0 && all.tx_datagrams > 0, "{all:?}");
        assert_eq!((all.mtu_bytes, all.smoothed_rtt_ns), (0, 0), "a gauge of what is over");
        assert_eq!((streams.open, streams.opened + streams.accepted), (0, streams.closed));
    }
}
