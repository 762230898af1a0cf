//! Packets of each receive queue, from the counters that a device has.
//!
//! The kernel's own (netdev netlink, `qstats-get`) come first: they mean the same for every
//! driver. Where they are missing the driver's statistics (`ethtool -S`) have to do, whose names
//! differ from driver to driver.

use super::survey::device::{Attached, Device, Direction, QueueCounters};
use super::{Reading, Source};
use std::collections::BTreeMap;

/// What the receive queues of a device have counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiveCounters {
    /// Packets by queue.
    pub packets: BTreeMap<u32, u64>,
    /// Bytes by queue; no entry if they are not counted.
    pub bytes: BTreeMap<u32, u64>,
    /// Packets that were lost, by queue; no entry if they are not counted.
    pub drops: BTreeMap<u32, u64>,
    /// Where the numbers stand, for people.
    pub origin: &'static str,
}

const QSTATS: &str = "netdev netlink qstats-get";
const STATISTICS: &str = "ethtool -S";
const XDP_STATISTICS: &str = "ethtool -S (what XDP saw)";

impl ReceiveCounters {
    /// Asks the device again: what it counts now.
    #[must_use]
    pub fn read(source: &Source, device: &str) -> Reading<Self> {
        let counters = source.queue_counters(device);
        joined(&counters, &source.statistics(device), &source.attached(device))
    }

    /// What was counted when the device was read.
    #[must_use]
    pub fn of(device: &Device) -> Reading<Self> {
        joined(&device.queue_counters, &device.statistics, &device.attached)
    }
}

/// The kernel's own counters, with what they lack from the driver's.
fn joined(
    counters: &Reading<Vec<QueueCounters>>,
    statistics: &Reading<Vec<(String, u64)>>,
    attached: &Reading<Vec<Attached>>,
) -> Reading<ReceiveCounters> {
    let Some(mut found) = from_qstats(counters) else {
        let is_bare = attached.known().is_some_and(Vec::is_empty);
        return match from_statistics(statistics, counters) {
            // Without an XDP program the driver counts 0, whatever arrives.
            Reading::Known(found) if found.origin == XDP_STATISTICS && is_bare => Reading::unknown(
                "the driver counts packets by queue only while an XDP program is attached",
            ),
            other => other,
        };
    };
    let mut by_driver: BTreeMap<u32, u64> = BTreeMap::new();
    for (name, drops) in statistics.known().into_iter().flatten() {
        if let Some((queue, Kind::Drops)) = receive_statistic(name) {
            *by_driver.entry(queue).or_default() += drops;
        }
    }
    for (queue, drops) in by_driver {
        found.drops.entry(queue).or_insert(drops);
    }
    Reading::Known(found)
}

fn from_qstats(counters: &Reading<Vec<QueueCounters>>) -> Option<ReceiveCounters> {
    let mut found = ReceiveCounters { origin: QSTATS, ..ReceiveCounters::default() };
    for row in counters.known()?.iter().filter(|row| row.direction == Direction::Rx) {
        found.packets.insert(row.index, row.packets?);
        found.bytes.extend(row.bytes.map(|bytes| (row.index, bytes)));
        if let (None, None) = (row.hw_drops, row.alloc_fail) {
            continue;
        }
        let drops = row.hw_drops.unwrap_or(0) + row.alloc_fail.unwrap_or(0);
        found.drops.insert(row.index, drops);
    }
    (!found.packets.is_empty()).then_some(found)
}

/// What a statistic counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// All packets of a queue.
    Packets,
    /// Packets for its AF_XDP socket, which [`Kind::Packets`] does not count (mlx5).
    XskPackets,
    /// Packets that an XDP program saw (veth counts no others).
    XdpPackets,
    /// All bytes of a queue.
    Bytes,
    /// Bytes that an XDP program saw.
    XdpBytes,
    /// Lost packets.
    Drops,
}

fn from_statistics(
    statistics: &Reading<Vec<(String, u64)>>,
    counters: &Reading<Vec<QueueCounters>>,
) -> Reading<ReceiveCounters> {
    let statistics = match statistics {
        Reading::Known(statistics) => statistics,
        Reading::Unknown(reason) => {
            let other = counters.reason().unwrap_or("the driver does not count packets by queue");
            return Reading::unknown(format!("{QSTATS}: {other}; {STATISTICS}: {reason}"));
        }
    };
    let mut found = ReceiveCounters { origin: STATISTICS, ..ReceiveCounters::default() };
    let (mut by_xdp, mut bytes_by_xdp) = (BTreeMap::new(), BTreeMap::new());
    for (name, value) in statistics {
        let Some((queue, kind)) = receive_statistic(name) else { continue };
        let counts = match kind {
            Kind::Packets | Kind::XskPackets => &mut found.packets,
            Kind::XdpPackets => &mut by_xdp,
            Kind::Bytes => &mut found.bytes,
            Kind::XdpBytes => &mut bytes_by_xdp,
            Kind::Drops => &mut found.drops,
        };
        *counts.entry(queue).or_insert(0) += value;
    }
    if found.packets.is_empty() && !by_xdp.is_empty() {
        (found.packets, found.bytes, found.origin) = (by_xdp, bytes_by_xdp, XDP_STATISTICS);
    }
    if found.packets.is_empty() {
        return Reading::unknown(format!(
            "neither {QSTATS} nor {STATISTICS} counts packets by queue"
        ));
    }
    Reading::Known(found)
}

/// What a driver means by the name of a statistic, if it is of a receive queue:
///
/// `rx_queue_3_packets` (igb, ixgbe, ice), `rx-3.packets` (i40e, iavf), `rx3_packets` (mlx5,
/// virtio), `queue_3_rx_cnt` (ena), `[3]: rx_ucast_packets` (bnxt), `rx_packets[3]` (gve).
fn receive_statistic(name: &str) -> Option<(u32, Kind)> {
    let numbered = |text: &str, prefix: &str| -> Option<(u32, String)> {
        let rest = text.strip_prefix(prefix)?;
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        Some((rest[..digits].parse().ok()?, rest[digits..].to_owned()))
    };
    for prefix in ["rx_queue_", "rx-", "rx"] {
        if let Some((queue, rest)) = numbered(name, prefix) {
            let kind = match rest.trim_start_matches(['_', '.']) {
                "packets" => Kind::Packets,
                "xsk_packets" => Kind::XskPackets,
                "xdp_packets" => Kind::XdpPackets,
                "bytes" => Kind::Bytes,
                "xdp_bytes" => Kind::XdpBytes,
                "drops" | "dropped" => Kind::Drops,
                _ => return None,
            };
            return Some((queue, kind));
        }
    }
    if let Some((queue, "_rx_cnt")) = numbered(name, "queue_").as_ref().map(|(q, r)| (*q, &**r)) {
        return Some((queue, Kind::Packets));
    }
    if let Some((queue, rest)) = numbered(name, "[") {
        return (rest == "]: rx_ucast_packets").then_some((queue, Kind::Packets));
    }
    let (queue, rest) = numbered(name, "rx_packets[")?;
    (rest == "]").then_some((queue, Kind::Packets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::survey::device::AttachMode;

    fn statistics(rows: &[(&str, u64)]) -> Reading<Vec<(String, u64)>> {
        Reading::Known(rows.iter().map(|&(name, value)| (name.to_owned(), value)).collect())
    }

    fn none() -> Reading<Vec<QueueCounters>> {
        Reading::unknown("not offered")
    }

    #[test]
    fn names_of_every_driver_lead_to_the_queue() {
        for (name, queue) in [
            ("rx_queue_3_packets", 3),
            ("rx-12.packets", 12),
            ("rx3_packets", 3),
            ("queue_7_rx_cnt", 7),
            ("[5]: rx_ucast_packets", 5),
            ("rx_packets[1]", 1),
        ] {
            assert_eq!(receive_statistic(name), Some((queue, Kind::Packets)), "{name}");
        }
        for name in ["rx_packets", "tx_queue_3_packets", "rx_queue_3_x", "queue_7_tx_cnt", "rx"] {
            assert_eq!(receive_statistic(name), None, "{name}");
        }
    }

    #[test]
    fn packets_for_af_xdp_are_counted_apart_by_mlx5_and_belong_to_the_queue() {
        let rows = statistics(&[("rx0_packets", 5), ("rx0_xsk_packets", 7), ("rx1_packets", 1)]);
        let found = from_statistics(&rows, &none());
        assert_eq!(found.known().unwrap().packets, BTreeMap::from([(0, 12), (1, 1)]));
    }

    #[test]
    fn what_xdp_saw_counts_only_where_nothing_else_does() {
        let veth = statistics(&[("rx_queue_0_xdp_packets", 9), ("rx_queue_0_drops", 2)]);
        let found = from_statistics(&veth, &none());
        let found = found.known().unwrap();
        assert_eq!((found.packets[&0], found.drops[&0], found.origin), (9, 2, XDP_STATISTICS));
        let both = statistics(&[("rx_queue_0_xdp_packets", 9), ("rx_queue_0_packets", 20)]);
        assert_eq!(from_statistics(&both, &none()).known().unwrap().packets[&0], 20);
    }

    #[test]
    fn what_xdp_saw_is_nothing_where_no_program_is() {
        let veth = statistics(&[("rx_queue_0_xdp_packets", 0), ("rx_queue_0_xdp_bytes", 0)]);
        let bare = Reading::Known(Vec::new());
        let reason = joined(&none(), &veth, &bare);
        assert!(reason.reason().unwrap().contains("while an XDP program"), "{reason:?}");
        let program = Attached { mode: AttachMode::Native, program: 7 };
        let veth = statistics(&[("rx_queue_0_xdp_packets", 4), ("rx_queue_0_xdp_bytes", 240)]);
        let found = joined(&none(), &veth, &Reading::Known(vec![program]));
        let found = found.known().unwrap();
        assert_eq!((found.packets[&0], found.bytes[&0]), (4, 240));
        assert!(joined(&none(), &veth, &Reading::unknown("no")).known().is_some());
    }

    #[test]
    fn drops_that_the_kernel_does_not_count_are_the_drivers() {
        let row = |index, hw_drops| QueueCounters {
            index,
            direction: Direction::Rx,
            packets: Some(9),
            bytes: Some(900),
            hw_drops,
            alloc_fail: None,
        };
        let counters = Reading::Known(vec![row(0, None), row(1, Some(5))]);
        let driver = statistics(&[("rx0_drops", 2), ("rx0_dropped", 1), ("rx1_drops", 4)]);
        let found = joined(&counters, &driver, &Reading::unknown("no"));
        let found = found.known().unwrap();
        assert_eq!((found.drops[&0], found.drops[&1], found.bytes[&0]), (3, 5, 900));
    }

    #[test]
    fn the_kernels_counters_come_first_and_a_lack_of_any_is_said() {
        let row = |index, packets| QueueCounters {
            index,
            direction: Direction::Rx,
            packets,
            bytes: None,
            hw_drops: Some(1),
            alloc_fail: Some(2),
        };
        let found = from_qstats(&Reading::Known(vec![row(0, Some(4)), row(1, Some(5))])).unwrap();
        assert_eq!((found.packets[&1], found.drops[&1]), (5, 3));
        assert_eq!(from_qstats(&Reading::Known(vec![row(0, None)])), None);
        let reason = from_statistics(&statistics(&[("rx_packets", 1)]), &none());
        assert!(reason.reason().unwrap().contains("ethtool -S"), "{reason:?}");
    }
}
