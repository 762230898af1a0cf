//! `quiclane flow explain` against the NIC: each of 64 flows, sent and counted.

use crate::flows::{Family, Flows};
use crate::nic::{LANES, Lane, run};
use crate::rss::{listen, put_back, under_three_settings};
use crate::{Outcome, ensure};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

/// A port that is not in use: counters of the queues are compared.
const PORT: u16 = 4434;

/// The flows, as a capture of one packet each.
pub(crate) const CAPTURE: &str = "/tmp/flows.pcap";

/// The link type of packets that begin with their IP header.
const LINKTYPE_RAW: u32 = 101;

pub(crate) fn every_flow_goes_where_it_was_explained() -> Outcome {
    for (lane, family) in [(&LANES[0], Family::V4), (&LANES[1], Family::V6)] {
        let flows = Flows::to(lane, family, PORT);
        let _owner = listen(&flows)?;
        fs::write(CAPTURE, capture(&flows)).map_err(|error| format!("{CAPTURE}: {error}"))?;
        put_back(lane, || {
            under_three_settings(lane, |what, queues| verify(lane, family, what, queues))?;
            refuted(lane, &flows)
        })?;
    }
    Ok(())
}

/// All 64 flows match, and they use all queues.
fn verify(lane: &Lane, family: Family, what: &str, queues: usize) -> Outcome {
    let text = run(
        "quiclane",
        &[
            "flow",
            "explain",
            lane.dev,
            "--pcap",
            CAPTURE,
            "--verify",
            "--send-from-netns",
            "peer",
            "--packets",
            "32",
        ],
    )?;
    let verified = text.lines().find(|line| line.starts_with("verified:")).unwrap_or_default();
    println!("  {} {family:?} {what}: {verified}", lane.dev);
    ensure!(verified == "verified: 64 MATCH, 0 MISMATCH, 0 UNSURE", "{what}: {text}");
    // The rows of the first table: queue, flows, packets.
    let rows = text.lines().skip_while(|line| !line.trim_start().starts_with("queue")).skip(1);
    let used = rows.take_while(|line| !line.trim().is_empty()).count();
    ensure!(used == queues, "{what}: {used} queues of {queues}: {text}");
    Ok(())
}

/// A prediction from another machine's table is refuted: the test can fail.
///
/// The table names only queue 3 when the flow is explained, and only queue 1 when it is sent. The
/// change happens within `--seconds`, before the watched flow arrives.
fn refuted(lane: &Lane, flows: &Flows) -> Outcome {
    let source = flows.sources().next().ok_or("no flow")?;
    run("ethtool", &["-X", lane.dev, "weight", "0", "0", "0", "1"])?;
    let watching = Command::new("quiclane")
        .args(["flow", "explain", lane.dev, &source.to_string(), &flows.destination.to_string()])
        .args(["--verify", "--seconds", "8", "--packets", "500"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .map_err(|error| format!("quiclane: {error}"))?;
    std::thread::sleep(std::time::Duration::from_secs(3));
    run("ethtool", &["-X", lane.dev, "weight", "0", "1", "0", "0"])?;
    flows.send()?;
    let output = watching.wait_with_output().map_err(|error| format!("quiclane: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(1), "{}: {text}", output.status);
    ensure!(text.contains("MISMATCH") && text.contains("queue 1, not on 3"), "{text}");
    Ok(())
}

/// A pcap file with one UDP packet of each flow.
pub(crate) fn capture(flows: &Flows) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend(0xa1b2_c3d4_u32.to_le_bytes());
    file.extend([2, 0, 4, 0]);
    file.extend([0; 8]);
    file.extend(u32::from(u16::MAX).to_le_bytes());
    file.extend(LINKTYPE_RAW.to_le_bytes());
    for source in flows.sources() {
        let packet = packet(source, flows.destination);
        let bytes = (packet.len() as u32).to_le_bytes();
        file.extend([0; 8]);
        file.extend(bytes);
        file.extend(bytes);
        file.extend(packet);
    }
    file
}

/// An IP header and a UDP header without a payload: they identify a flow.
fn packet(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    const UDP: u8 = 17;
    const UDP_BYTES: u8 = 8;
    let mut packet = Vec::new();
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            packet.extend([0x45, 0, 0, 20 + UDP_BYTES, 0, 0, 0, 0, 64, UDP, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet.extend([0x60, 0, 0, 0, 0, UDP_BYTES, UDP, 64]);
            packet.extend(from.octets());
            packet.extend(to.octets());
        }
        _ => {}
    }
    packet.extend(source.port().to_be_bytes());
    packet.extend(destination.port().to_be_bytes());
    packet.extend([0, UDP_BYTES, 0, 0]);
    packet
}
