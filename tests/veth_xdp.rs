//! AF_XDP over veth pairs in namespaces. Needs root; skips loudly without, fails without where
//! `QUICLANE_REQUIRE_ROOT=1`.

#[path = "common/echo.rs"]
mod echo;
#[path = "common/netns.rs"]
mod netns;

use echo::Echo;
use netns::{Lab, LabConfig, Side, privileged};
use quiclane::datapath::Mode;
use quiclane::datapath::headers::Verdict;
use quiclane::datapath::xdp::{XdpConfig, XdpDevice};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

const PORT: u16 = 4433;
const FLOWS: u16 = 16;
const ROUNDS: u8 = 20;

/// A kernel socket in the client's namespace, connected to the server.
fn client(lab: &Lab, v6: bool) -> UdpSocket {
    let namespace = lab.namespace(Side::Client);
    std::thread::spawn(move || {
        netns::enter(&namespace);
        let socket = UdpSocket::bind(SocketAddr::new(Side::Client.ip(v6), 0)).unwrap();
        socket.connect(SocketAddr::new(Side::Server.ip(v6), PORT)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    })
    .join()
    .unwrap()
}

fn config(lab: &Lab, mode: Mode) -> XdpConfig {
    XdpConfig { force_mode: Some(mode), ..XdpConfig::new(lab.device(Side::Server)) }
}

fn any(v6: bool) -> SocketAddr {
    let ip = if v6 { "[::]:0" } else { "0.0.0.0:0" };
    let mut address: SocketAddr = ip.parse().unwrap();
    address.set_port(PORT);
    address
}

fn echo_on_two_queues(mode: Mode) {
    let lab = Lab::new(LabConfig::default());
    lab.enter(Side::Server);
    let (device, ladder) = XdpDevice::attach(&config(&lab, mode)).unwrap();
    assert_eq!((device.queues(), ladder.reached), (2, Some(mode)));
    let ports = [any(false), any(true)];
    for port in ports {
        device.listen(port).unwrap();
    }
    let echo = Echo::start(&lab, &device, &[0, 1], &ports);
    for v6 in [false, true] {
        let flows: Vec<_> = (0..FLOWS).map(|_| client(&lab, v6)).collect();
        for round in 0..ROUNDS {
            for socket in &flows {
                let payload: Vec<u8> =
                    (0..40 * usize::from(round) + 1).map(|i| i as u8 ^ round).collect();
                socket.send(&payload).unwrap();
                let mut buffer = [0; 2048];
                let length = socket.recv(&mut buffer).unwrap();
                assert_eq!(buffer[..length], payload);
            }
        }
    }
    let stats = echo.stop();
    let total: u64 = stats.iter().map(|queue| queue.rx_packets).sum();
    assert_eq!(total, 2 * u64::from(FLOWS) * u64::from(ROUNDS));
    assert!(stats.iter().all(|queue| queue.drops() == 0), "{stats:?}");
    // Above the driver a veth does not tell which queue a packet arrived on: all are on queue 0.
    let served = stats.iter().filter(|queue| queue.rx_packets > 0).count();
    assert_eq!(served, if mode == Mode::Generic { 1 } else { 2 }, "{stats:?}");
    assert_eq!(stats.iter().map(|queue| queue.rx_via_kernel).sum::<u64>(), 0);
    assert_eq!(device.verdicts().get(Verdict::Redirect), total);
}

#[test]
fn echo_on_two_queues_native() {
    if privileged("echo_on_two_queues_native") {
        echo_on_two_queues(Mode::NativeCopy);
    }
}

#[test]
fn echo_on_two_queues_generic() {
    if privileged("echo_on_two_queues_generic") {
        echo_on_two_queues(Mode::Generic);
    }
}
