//! Connections that follow an indirection table: a program plays the NIC, with a Toeplitz hash and a table that
//! changes under load.

use super::configs::configs;
use super::echo_handler::Echo;
use super::following::Asking;
use super::*;
use quiclane::exec::clock::Clock;
use quiclane::exec::{
    ConnectionRef, Handler, Io, Listener, NewConnection, Pin, Polling, Registration,
    RegistrationConfig, ServerConfig, WorkerStatus,
};
use quiclane::topology::toeplitz::{Flow, HashFields, Rss};
use quiclane::{CloseReason, StreamId};
use quiclane_testkit::netns::{LabConfig, privileged};
use quiclane_testkit::tap::Wire;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};

const QUEUES: usize = 4;
const SLOTS: usize = 128;
/// The client's sockets, and so its ports: connections take them in turn.
const PORTS: usize = 8;
const CONNECTIONS: usize = 64;
/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where each connection is, by the number that it got: the client's port, and the worker.
type Homes = Arc<Mutex<BTreeMap<u64, (u16, usize)>>>;

/// Echoes, and says where it is.
struct Placed {
    homes: Homes,
    number: u64,
}

impl Placed {
    fn tell(&self, connection: &ConnectionRef<'_>) {
        let home = (connection.remote().port(), connection.worker());
        self.homes.lock().unwrap().insert(self.number, home);
    }
}

impl Handler for Placed {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _: bool) {
        self.tell(connection);
    }

    fn moved(&mut self, connection: &mut ConnectionRef<'_>, _: usize) {
        self.tell(connection);
    }

    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        Echo.stream_data(connection, stream, data, fin)
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, reason: CloseReason) {
        let code = matches!(reason, CloseReason::PeerApplication { code: 0, .. });
        assert!(code, "{reason}");
    }
}

/// Microsoft's example of a key, longer than any input.
fn key() -> Vec<u8> {
    let seed = [0x6d_u8, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67];
    seed.iter().cycle().take(40).copied().collect()
}

fn place(rss: &Rss, source: SocketAddr, destination: SocketAddr) -> usize {
    let flow = Flow { source, destination };
    rss.place(&flow, HashFields::AddressesAndPorts).unwrap().queue as usize
}

/// What the NIC does with a frame: UDP over IPv4 by its hash, all else to queue 0.
fn steer(rss: &Rss, frame: &[u8]) -> usize {
    let is_udp =
        frame.len() >= 42 && frame[12..14] == [8, 0] && frame[14] == 0x45 && frame[23] == 17;
    if !is_udp {
        return 0;
    }
    let end = |ip: usize, port: usize| {
        let octets: [u8; 4] = frame[ip..ip + 4].try_into().unwrap();
        SocketAddr::from((octets, u16::from_be_bytes([frame[port], frame[port + 1]])))
    };
    place(rss, end(26, 34), end(30, 36))
}

/// The tables of one run: all queues, one, two, others, and all in another order.
fn tables() -> [Vec<u32>; 6] {
    let of = |queues: &[u32]| (0..SLOTS).map(|slot| queues[slot % queues.len()]).collect();
    [of(&[1]), of(&[2, 3]), of(&[0, 1, 2, 3]), of(&[3, 0]), of(&[2]), of(&[3, 2, 1, 0])]
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let clock = Clock::monotonic();
    let until = clock.now() + PATIENCE;
    while !done() {
        assert!(clock.now() < until, "{what} takes too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A server behind the NIC, with four queues.
struct Served {
    server: Registration,
    _listener: Listener,
    homes: Homes,
    address: SocketAddr,
}

impl Served {
    /// Moves the calling thread into the server's namespace.
    fn new(lab: &Lab, config: &ServerConfig) -> Self {
        lab.enter_with_sysfs(Side::Server);
        let xdp = XdpConfig { force_mode: Some(Mode::NativeCopy), ..XdpConfig::new(Wire::DEVICE) };
        let io = Io::Xdp(xdp);
        let polling = Polling::Sleep;
        let open = RegistrationConfig { io, pin: Pin::Off, polling, ..Default::default() };
        let server = Registration::open(open).unwrap();
        let homes = Homes::default();
        let (shown, next) = (homes.clone(), AtomicU64::new(0));
        let address = SocketAddr::from((Wire::ip(Side::Server), PORT));
        let accept = move |_: &NewConnection<'_>| -> Option<Box<dyn Handler>> {
            let number = next.fetch_add(1, Ordering::Relaxed);
            Some(Box::new(Placed { homes: shown.clone(), number }))
        };
        let listener = server.listen(address, config, accept).unwrap();
        Self { server, _listener: listener, homes, address }
    }

    /// True if every connection is at the worker that the NIC says.
    fn all_at_home(&self, rss: &Rss) -> bool {
        let homes = self.homes.lock().unwrap();
        let is_right = |(port, worker): &(u16, usize)| {
            let source = SocketAddr::from((Wire::ip(Side::Client), *port));
            place(rss, source, self.address) == *worker
        };
        homes.len() == CONNECTIONS && homes.values().all(is_right)
    }

    fn total(&self, of: impl Fn(&WorkerStatus) -> u64) -> u64 {
        self.server.status().iter().map(of).sum()
    }

    fn wrong(&self) -> u64 {
        self.total(|row| row.counters.lane.rx_wrong_queue)
    }
}

#[test]
fn connections_follow_a_table_that_changes_under_load() {
    if !privileged("connections_follow_a_table_that_changes_under_load") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let all: Vec<u32> = (0..SLOTS as u32).map(|slot| slot % QUEUES as u32).collect();
    let nic = Arc::new(RwLock::new(Rss::new(key(), all).unwrap()));
    let its = nic.clone();
    let wire = Wire::new(&lab, QUEUES, move |frame| steer(&its.read().unwrap(), frame));
    let (server_config, client_config) = configs();
    let served = Served::new(&lab, &server_config);
    let client = inside(&lab, Side::Client, || {
        let udp = RegistrationConfig::udp(PORTS);
        let config = RegistrationConfig { pin: Pin::Off, polling: Polling::Sleep, ..udp };
        Registration::open(config).unwrap()
    });
    let answers = Arc::new(AtomicU64::new(0));
    for _ in 0..CONNECTIONS {
        let asking = Asking::new(answers.clone());
        client.connect(served.address, "localhost", &client_config, asking).unwrap();
    }
    let answered = || answers.load(Ordering::Relaxed);
    wait_until("the first table", || served.all_at_home(&nic.read().unwrap()));
    let ports: BTreeSet<u16> = served.homes.lock().unwrap().values().map(|home| home.0).collect();
    assert_eq!(ports.len(), PORTS);
    for table in tables().into_iter().cycle().take(24) {
        *nic.write().unwrap() = Rss::new(key(), table).unwrap();
        wait_until("a table", || served.all_at_home(&nic.read().unwrap()));
        // From here on nothing is handed over, but for what was on its way.
        let (settled, before) = (served.wrong(), answered());
        wait_until("answers", || answered() > before + 10 * CONNECTIONS as u64);
        let late = served.wrong() - settled;
        assert!(late <= 256, "{late} datagrams at the wrong worker");
    }
    assert_eq!(served.total(|row| row.counters.lane.rx_wrong_queue_dropped), 0);
    assert_eq!(served.total(|row| row.counters.queue.rx_via_kernel), 0, "all through the rings");
    assert!(served.wrong() > 0);
    client.shutdown(0, PATIENCE);
    println!("{} answers, {} frames that a tap did not take", answered(), wire.lost());
}
