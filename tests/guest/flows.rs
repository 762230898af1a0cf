//! Flows of plain UDP from the peer's namespace: the senders, their ports, and the pace.

use crate::nic::Lane;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::Duration;

/// As many as the placement tests use.
const FLOWS: u32 = 64;

/// The guest has no backpressure: 16 packets, then a pause, is below 10,000 a second.
const BURST_PACKETS: usize = 16;
const PAUSE: Duration = Duration::from_millis(2);

/// How long an answer may take. It is far more than needed: only a lost answer takes it.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// The source ports, one for each flow. They are well mixed, since Toeplitz is linear: consecutive
/// ports, or a simple pattern, spread perfectly evenly, and then a wrong prediction looks like a right
/// one.
fn ports() -> impl Iterator<Item = u16> {
    (1..=FLOWS).map(|flow| {
        let mut mixed = flow.wrapping_mul(0x9e37_79b1);
        mixed ^= mixed >> 15;
        mixed = mixed.wrapping_mul(0x85eb_ca77);
        mixed ^= mixed >> 13;
        1024 + (mixed % 64_000) as u16
    })
}

/// The payload of a datagram of a flow.
pub(crate) fn pattern(port: u16, payload_bytes: usize) -> Vec<u8> {
    let seed = u32::from(port) << 16 | payload_bytes as u32;
    (0..payload_bytes as u32)
        .map(|at| (seed.wrapping_add(at).wrapping_mul(0x9e37_79b1) >> 24) as u8)
        .collect()
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// Flows from a lane's peer to the lane.
#[derive(Clone, Debug)]
pub(crate) struct Flows {
    /// The peer's address; the ports are those of [`ports`].
    pub(crate) source: IpAddr,
    pub(crate) destination: SocketAddr,
    /// Each flow sends one datagram of each of these sizes.
    pub(crate) sizes_bytes: Vec<usize>,
}

impl Flows {
    /// 16 small datagrams for each flow.
    pub(crate) fn to(lane: &Lane, family: Family, port: u16) -> Self {
        let destination = SocketAddr::new(address(lane, family, 1), port);
        Self { source: address(lane, family, 2), destination, sizes_bytes: vec![64; 16] }
    }

    pub(crate) fn sources(&self) -> impl Iterator<Item = SocketAddr> {
        let address = self.source;
        ports().map(move |port| SocketAddr::new(address, port))
    }

    /// Sends all datagrams from the namespace of the peers, and waits for the end.
    pub(crate) fn send(&self) -> Result<(), String> {
        let status = self.start("send")?.wait().map_err(|error| format!("sender: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("the sender: {status}")) }
    }

    /// Starts a client in the namespace of the peers that expects each datagram back.
    pub(crate) fn start_echo_client(&self) -> Result<Child, String> {
        self.start("want-echo")
    }

    fn start(&self, role: &str) -> Result<Child, String> {
        let program = std::env::current_exe().map_err(|error| format!("own path: {error}"))?;
        Command::new("ip")
            .args(["netns", "exec", "peer"])
            .arg(program)
            .args([role, &self.source.to_string(), &self.destination.to_string()])
            .args(self.sizes_bytes.iter().map(usize::to_string))
            .spawn()
            .map_err(|error| format!("ip netns exec: {error}"))
    }

    /// What [`Flows::start`] wrote: `SOURCE DESTINATION SIZE...`.
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let [source, destination, sizes @ ..] = arguments else {
            return Err(format!("SOURCE DESTINATION SIZE..., not {arguments:?}"));
        };
        Ok(Self {
            source: source.parse().map_err(|error| format!("{source}: {error}"))?,
            destination: destination.parse().map_err(|error| format!("{destination}: {error}"))?,
            sizes_bytes: sizes
                .iter()
                .map(|size| size.parse().map_err(|error| format!("{size}: {error}")))
                .collect::<Result<_, _>>()?,
        })
    }

    fn sockets(&self) -> Result<Vec<(u16, UdpSocket)>, String> {
        self.sources()
            .map(|source| {
                let socket = UdpSocket::bind(source)?;
                socket.connect(self.destination)?;
                socket.set_read_timeout(Some(ANSWER_PATIENCE))?;
                Ok((source.port(), socket))
            })
            .collect::<Result<_, std::io::Error>>()
            .map_err(|error| format!("sockets on {}: {error}", self.source))
    }
}

/// The address of a host on a pair: 1 is ours, 2 the peer.
pub(crate) fn address(lane: &Lane, family: Family, host: u16) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 77, lane.pair, host as u8)),
        Family::V6 => Ipv6Addr::new(0xfd77, lane.pair.into(), 0, 0, 0, 0, 0, host).into(),
    }
}

/// The sender's side.
pub(crate) fn send_role(arguments: &[String]) -> Result<(), String> {
    let flows = Flows::parse(arguments)?;
    let sockets = flows.sockets()?;
    for &size in &flows.sizes_bytes {
        for burst in sockets.chunks(BURST_PACKETS) {
            send_burst(burst, size)?;
            sleep(PAUSE);
        }
    }
    Ok(())
}

/// The client's side: sends a burst, waits for all of it, compares.
pub(crate) fn want_echo_role(arguments: &[String]) -> Result<(), String> {
    let flows = Flows::parse(arguments)?;
    let sockets = flows.sockets()?;
    for &size in &flows.sizes_bytes {
        for burst in sockets.chunks(BURST_PACKETS) {
            send_burst(burst, size)?;
            for (port, socket) in burst {
                want_back(*port, socket, size)?;
            }
        }
    }
    Ok(())
}

fn send_burst(burst: &[(u16, UdpSocket)], size: usize) -> Result<(), String> {
    for (port, socket) in burst {
        let sent = socket.send(&pattern(*port, size));
        sent.map_err(|error| format!("port {port}, {size} bytes: {error}"))?;
    }
    Ok(())
}

fn want_back(port: u16, socket: &UdpSocket, size: usize) -> Result<(), String> {
    let mut answer = [0; 2048];
    let len = socket
        .recv(&mut answer)
        .map_err(|error| format!("port {port}, {size} bytes: no answer: {error}"))?;
    if answer[..len] != pattern(port, size) {
        return Err(format!("port {port}: sent {size} bytes, {len} came back, changed"));
    }
    Ok(())
}
