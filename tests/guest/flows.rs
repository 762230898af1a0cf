//! Flows of plain UDP from the peer's namespace: who sends, from which ports, and the pace.

use crate::nic::Lane;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

/// As many as the placement tests use.
pub(crate) const FLOWS: u16 = 64;

/// The source ports; a flow is its source port. Well mixed, since Toeplitz is linear: ports in
/// a row, or of a simple pattern, spread perfectly evenly, and a wrong prediction would look
/// like a right one.
pub(crate) fn ports() -> impl Iterator<Item = u16> {
    (1..=u32::from(FLOWS)).map(|flow| {
        let mut mixed = flow.wrapping_mul(0x9e37_79b1);
        mixed ^= mixed >> 15;
        mixed = mixed.wrapping_mul(0x85eb_ca77);
        mixed ^= mixed >> 13;
        1024 + (mixed % 64_000) as u16
    })
}

/// Nothing in the guest pushes back: 16 packets, then a pause, is below 10,000 a second.
const BURST_PACKETS: u32 = 16;
const PAUSE: Duration = Duration::from_millis(2);

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// Flows from a lane's peer to the lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flows {
    /// The peer's address; the ports are those of [`ports`].
    pub(crate) source: IpAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) packets_each: u32,
    pub(crate) payload_bytes: usize,
}

impl Flows {
    pub(crate) fn to(lane: &Lane, family: Family, port: u16) -> Self {
        let address = |host: u8| match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 77, lane.pair, host)),
            Family::V6 => IpAddr::V6(Ipv6Addr::new(
                0xfd77,
                u16::from(lane.pair),
                0,
                0,
                0,
                0,
                0,
                u16::from(host),
            )),
        };
        Self {
            source: address(2),
            destination: SocketAddr::new(address(1), port),
            packets_each: 16,
            payload_bytes: 64,
        }
    }

    pub(crate) fn sources(&self) -> impl Iterator<Item = SocketAddr> {
        let address = self.source;
        ports().map(move |port| SocketAddr::new(address, port))
    }

    /// Sends all of it from the namespace of the peers, and waits until it is sent.
    pub(crate) fn send(&self) -> Result<(), String> {
        let program = std::env::current_exe().map_err(|error| format!("own path: {error}"))?;
        let status = Command::new("ip")
            .args(["netns", "exec", "peer"])
            .arg(program)
            .args(["send", &self.source.to_string(), &self.destination.to_string()])
            .args([self.packets_each.to_string(), self.payload_bytes.to_string()])
            .status()
            .map_err(|error| format!("ip netns exec: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("the sender: {status}")) }
    }
}

/// The sender's side: `send SOURCE DESTINATION PACKETS_EACH PAYLOAD_BYTES`.
///
/// The payload is the flow's source port and the packet's number, both big-endian, then zeros.
pub(crate) fn send_role(arguments: &[String]) -> Result<(), String> {
    let [source, destination, packets_each, payload_bytes] = arguments else {
        return Err(format!("4 arguments, not {arguments:?}"));
    };
    let flows = Flows {
        source: source.parse().map_err(|error| format!("{source}: {error}"))?,
        destination: destination.parse().map_err(|error| format!("{destination}: {error}"))?,
        packets_each: packets_each.parse().map_err(|error| format!("{packets_each}: {error}"))?,
        payload_bytes: payload_bytes
            .parse()
            .map_err(|error| format!("{payload_bytes}: {error}"))?,
    };
    let sockets = flows
        .sources()
        .map(|source| UdpSocket::bind(source).map_err(|error| format!("bind {source}: {error}")))
        .collect::<Result<Vec<_>, _>>()?;
    let mut payload = vec![0; flows.payload_bytes.max(6)];
    let mut sent = 0_u32;
    for number in 0..flows.packets_each {
        for (socket, port) in sockets.iter().zip(ports()) {
            payload[..2].copy_from_slice(&port.to_be_bytes());
            payload[2..6].copy_from_slice(&number.to_be_bytes());
            send_one(socket, flows.destination, &payload)?;
            sent += 1;
            if sent.is_multiple_of(BURST_PACKETS) {
                sleep(PAUSE);
            }
        }
    }
    Ok(())
}

fn send_one(socket: &UdpSocket, to: SocketAddr, payload: &[u8]) -> Result<(), String> {
    socket.send_to(payload, to).map_err(|error| format!("send to {to}: {error}")).map(drop)
}
