//! Receive-side scaling: our prediction compared with the NIC.

use crate::flows::{Family, Flows};
use crate::nic::{LANES, Lane, QUEUES, queue_packets, rss, run};
use crate::{Outcome, ensure};
use quiclane::topology::toeplitz::{Flow, HashFields, MICROSOFT_KEY, Rss};
use std::net::UdpSocket;

/// Other packets that the queues count, such as neighbour discovery: less than one flow.
const STRAY_PACKETS: u64 = 12;

/// A port that is not in use: counters are compared, not what a socket receives.
const PORT: u16 = 4433;

/// Microsoft's key with its bytes in reverse: a key that no driver has by itself.
pub(crate) fn other_key() -> Vec<u8> {
    MICROSOFT_KEY.iter().rev().copied().collect()
}

/// A key as ethtool takes it.
pub(crate) fn hex(key: &[u8]) -> String {
    let bytes: Vec<String> = key.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

/// Packets for each queue, if every flow goes where `rss` says.
fn predicted(rss: &Rss, flows: &Flows, fields: HashFields) -> Result<[u64; QUEUES], String> {
    let mut packets = [0; QUEUES];
    for source in flows.sources() {
        let flow = Flow { source, destination: flows.destination };
        let placement = rss.place(&flow, fields).map_err(|error| error.to_string())?;
        packets[placement.queue as usize] += flows.sizes_bytes.len() as u64;
    }
    Ok(packets)
}

/// Sends 64 flows and compares the queues' counters with the prediction.
fn check(what: &str, dev: &str, flows: &Flows, fields: HashFields) -> Outcome {
    let expected = predicted(&rss(dev)?, flows, fields)?;
    let before = queue_packets(dev)?;
    flows.send()?;
    let after = queue_packets(dev)?;
    let got: [u64; QUEUES] = std::array::from_fn(|queue| after[queue] - before[queue]);
    println!("  {dev} {what}: predicted {expected:?}, received {got:?}");
    let matches = expected
        .iter()
        .zip(&got)
        .all(|(expected, got)| (*expected..=expected + STRAY_PACKETS).contains(got));
    ensure!(matches, "{dev} {what}: predicted {expected:?}, received {got:?}");
    Ok(())
}

/// A socket has to own the port, or the kernel answers each packet with an ICMP error.
pub(crate) fn listen(flows: &Flows) -> Result<UdpSocket, String> {
    UdpSocket::bind(flows.destination).map_err(|error| format!("{}: {error}", flows.destination))
}

pub(crate) fn udp_without_ports_meets_on_one_queue() -> Outcome {
    let lane = &LANES[0];
    let flows = Flows::to(lane, Family::V4, PORT);
    let _owner = listen(&flows)?;
    run("ethtool", &["-N", lane.dev, "rx-flow-hash", "udp4", "sd"])?;
    let checked = check("by addresses", lane.dev, &flows, HashFields::Addresses);
    run("ethtool", &["-N", lane.dev, "rx-flow-hash", "udp4", "sdfn"])?;
    checked
}

pub(crate) fn flows_go_where_toeplitz_says() -> Outcome {
    for lane in &LANES {
        for family in [Family::V4, Family::V6] {
            let flows = Flows::to(lane, family, PORT);
            let _owner = listen(&flows)?;
            put_back(lane, || {
                under_three_settings(lane, |what, _| {
                    let what = format!("{family:?} {what}");
                    check(&what, lane.dev, &flows, HashFields::AddressesAndPorts)
                })
            })?;
        }
    }
    Ok(())
}

/// Runs `body`, and then restores key and table of the NIC.
pub(crate) fn put_back(lane: &Lane, body: impl FnOnce() -> Outcome) -> Outcome {
    let before = rss(lane.dev)?;
    let done = body();
    run("ethtool", &["-X", lane.dev, "hkey", &hex(before.key())])?;
    run("ethtool", &["-X", lane.dev, "default"])?;
    done
}

/// Checks under the table and key that the driver chose, half of the queues, and another key. The
/// check is told how many queues there are.
pub(crate) fn under_three_settings(lane: &Lane, check: impl Fn(&str, usize) -> Outcome) -> Outcome {
    check("as found", QUEUES)?;
    run("ethtool", &["-X", lane.dev, "equal", "2"])?;
    check("equal 2", 2)?;
    run("ethtool", &["-X", lane.dev, "hkey", &hex(&other_key()), "equal", "4"])?;
    ensure!(rss(lane.dev)?.key() == other_key(), "{}: the key was not taken", lane.dev);
    check("other key", QUEUES)
}
