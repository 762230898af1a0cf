//! AF_XDP over veth pairs in namespaces. Needs root; skips loudly without, fails without where
//! `QUICLANE_REQUIRE_ROOT=1`.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../common/configs.rs"]
mod configs;
#[path = "../common/echo.rs"]
mod echo;
#[path = "../common/echo_handler.rs"]
mod echo_handler;
#[path = "../common/following.rs"]
mod following;

mod hostile;
mod leaving;
mod listen;
mod moving;
mod probe;
mod refused;
mod takeover;
mod tap;
mod traffic;
mod unfinished;

use quiclane::datapath::xdp::{XdpConfig, XdpDevice};
use quiclane::datapath::{Mode, QueueStats};
use quiclane_testkit::netns::{self, Lab, Side};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

const PORT: u16 = 4433;

/// The server's address and port, of one family.
fn server(v6: bool) -> SocketAddr {
    SocketAddr::new(Side::Server.ip(v6), PORT)
}

/// All addresses of the server, of one family.
fn any(v6: bool) -> SocketAddr {
    let mut address: SocketAddr = if v6 { "[::]:0" } else { "0.0.0.0:0" }.parse().unwrap();
    address.set_port(PORT);
    address
}

/// Runs `work` on a thread in a namespace.
fn inside<T: Send + 'static>(
    lab: &Lab,
    side: Side,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let namespace = lab.namespace(side);
    let thread = std::thread::spawn(move || {
        netns::enter(&namespace);
        work()
    });
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// A kernel socket in the client's namespace, connected to the server.
fn client(lab: &Lab, v6: bool) -> UdpSocket {
    inside(lab, Side::Client, move || {
        let socket = UdpSocket::bind(SocketAddr::new(Side::Client.ip(v6), 0)).unwrap();
        socket.connect(server(v6)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    })
}

fn config(lab: &Lab, mode: Mode) -> XdpConfig {
    XdpConfig { force_mode: Some(mode), ..XdpConfig::new(lab.device(Side::Server)) }
}

/// The server's device in one mode, listening on both families. Moves the calling thread into the
/// server's namespace.
fn listening(lab: &Lab, mode: Mode) -> Arc<XdpDevice> {
    lab.enter(Side::Server);
    let (device, ladder) = XdpDevice::attach(&config(lab, mode)).unwrap();
    assert_eq!(ladder.reached, Some(mode));
    for v6 in [false, true] {
        device.listen(any(v6)).unwrap();
    }
    device
}

/// The sum of a counter over queues.
fn total(stats: &[QueueStats], counter: impl Fn(&QueueStats) -> u64) -> u64 {
    stats.iter().map(counter).sum()
}

/// Sends one payload and waits for it to come back.
fn round_trip(socket: &UdpSocket, payload: &[u8]) {
    socket.send(payload).unwrap();
    let mut buffer = [0; 2048];
    let (length, _) = receive(socket, &mut buffer);
    assert_eq!(&buffer[..length], payload);
}

/// The next datagram of a socket with a time-out.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> (usize, SocketAddr) {
    loop {
        match socket.recv_from(buffer) {
            // The kernel had other work for the thread: it does not restart a receive with a time-out.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            received => return received.expect("a datagram"),
        }
    }
}
