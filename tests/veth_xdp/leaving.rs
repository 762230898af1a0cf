//! Clients whose own address is taken away while data is on its way, on kernel UDP and on AF_XDP.

use super::configs::configs;
use super::echo_handler::Echo;
use super::*;
use bytes::Bytes;
use quiclane::exec::clock::Clock;
use quiclane::exec::{
    ClientConfig, ConnectionRef, Handle, Handler, Io, Listener, NewConnection, Next, Pin, Polling,
    Registration, RegistrationConfig, WorkerLoop, WorkerStatus,
};
use quiclane::{CloseReason, Dir, StreamId};
use quiclane_testkit::netns::{LabConfig, privileged};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is on its way at any time.
const WINDOW_BYTES: u64 = 256 << 10;
/// What is sent at least before the address goes away, and after the client has moved.
const PART_BYTES: u64 = 1 << 20;

#[derive(Debug, PartialEq)]
enum Told {
    /// The first part has come back, to this address.
    Under(SocketAddr),
    Moved(SocketAddr),
    Failed(SocketAddr),
    /// All of it has come back.
    Done(u64),
    Closed(CloseReason),
}

/// Sends without end, checks that the same comes back, and ends some time after it was told to, or after
/// a move.
struct Pump {
    tell: Sender<Told>,
    stream: Option<StreamId>,
    sent: u64,
    back: u64,
    /// Sends no more than this.
    goal: Option<u64>,
    is_under: bool,
}

impl Pump {
    fn new() -> (Self, Receiver<Told>) {
        let (tell, told) = channel();
        let new = Self { tell, stream: None, sent: 0, back: 0, goal: None, is_under: false };
        (new, told)
    }

    fn say(&self, told: Told) {
        // The test may have dropped the receiver.
        let _ = self.tell.send(told);
    }

    /// The bytes from `at` on.
    fn pattern(at: u64, len: u64) -> impl Iterator<Item = u8> {
        (at..at + len).map(|n| (n % 251) as u8)
    }

    fn pump(&mut self, connection: &mut ConnectionRef<'_>) {
        let Some(stream) = self.stream else { return };
        let goal = self.goal.unwrap_or(u64::MAX);
        let len = (self.back + WINDOW_BYTES).min(goal) - self.sent;
        let is_end = self.sent + len == goal;
        if len > 0 || is_end {
            let data: Vec<u8> = Self::pattern(self.sent, len).collect();
            self.sent += len;
            connection.streams().send(stream, Bytes::from(data), is_end).unwrap();
            self.stream = (!is_end).then_some(stream);
        }
    }

    fn end_soon(&mut self) {
        self.goal.get_or_insert(self.sent + PART_BYTES);
    }
}

impl Handler for Pump {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _: bool) {
        self.stream = Some(connection.streams().open(Dir::Bi).unwrap());
        self.pump(connection);
    }

    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        _: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        assert!(data.iter().copied().eq(Self::pattern(self.back, data.len() as u64)));
        self.back += data.len() as u64;
        if self.back >= PART_BYTES && !std::mem::replace(&mut self.is_under, true) {
            self.say(Told::Under(connection.local()));
        }
        if fin {
            assert_eq!(Some(self.back), self.goal);
            self.say(Told::Done(self.back));
        }
        self.pump(connection);
        data.len()
    }

    fn local_address_changed(&mut self, connection: &mut ConnectionRef<'_>, local: SocketAddr) {
        assert_eq!(connection.local(), local);
        self.say(Told::Moved(local));
        self.end_soon();
    }

    fn migration_failed(&mut self, _: &mut ConnectionRef<'_>, local: SocketAddr) {
        self.say(Told::Failed(local));
    }

    fn woken(&mut self, connection: &mut ConnectionRef<'_>, _: u64) {
        self.end_soon();
        self.pump(connection);
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, reason: CloseReason) {
        self.say(Told::Closed(reason));
    }
}

/// A second address of the client's.
fn second(v6: bool) -> IpAddr {
    if v6 { "fd77::3" } else { "10.77.0.3" }.parse().unwrap()
}

/// `ip addr add` or `del` at the client.
fn address(lab: &Lab, verb: &str, ip: IpAddr) {
    let device = lab.device(Side::Client);
    let bits = if ip.is_ipv4() { 24 } else { 64 };
    let prefix = format!("{ip}/{bits}");
    let mut command = vec!["ip", "addr", verb, &prefix, "dev", &device];
    if ip.is_ipv6() && verb == "add" {
        command.push("nodad");
    }
    lab.must_run(Side::Client, &command);
}

/// Not pinned: tests run beside each other on few CPUs.
fn one_worker() -> RegistrationConfig {
    RegistrationConfig { pin: Pin::Off, polling: Polling::Sleep, ..RegistrationConfig::udp(1) }
}

/// A server that echoes, and what a client of it needs.
struct Net {
    lab: Lab,
    config: ClientConfig,
    _server: (Listener, Registration),
}

impl Net {
    /// With `has_second` the client has two addresses.
    fn new(v6: bool, has_second: bool) -> Self {
        let lab = Lab::new(LabConfig::default());
        // The kernel would remove the second address together with the first.
        let promote = "net.ipv4.conf.all.promote_secondaries=1";
        lab.must_run(Side::Client, &["sysctl", "-qw", promote]);
        if has_second {
            address(&lab, "add", second(v6));
        }
        let (server_config, config) = configs();
        let server = inside(&lab, Side::Server, move || {
            let registration = Registration::open(one_worker()).unwrap();
            let accept = |_: &NewConnection<'_>| Some(Box::new(Echo) as Box<dyn Handler>);
            let listener = registration.listen(any(v6), &server_config, accept).unwrap();
            (listener, registration)
        });
        Self { lab, config, _server: server }
    }
}

/// The next that is told.
fn next(told: &Receiver<Told>) -> Told {
    told.recv_timeout(PATIENCE).expect("to be told something")
}

/// A client whose transfer is under way.
struct Scene {
    net: Net,
    client: Registration,
    handle: Handle,
    told: Receiver<Told>,
    local: SocketAddr,
}

impl Scene {
    /// `change` is made to the configuration of a client on kernel UDP.
    fn new(v6: bool, has_second: bool, change: impl FnOnce(&mut RegistrationConfig, &Lab)) -> Self {
        Self::towards(super::server(v6), Net::new(v6, has_second), change)
    }

    fn towards(
        to: SocketAddr,
        net: Net,
        change: impl FnOnce(&mut RegistrationConfig, &Lab),
    ) -> Self {
        let mut config = one_worker();
        change(&mut config, &net.lab);
        let client = std::thread::scope(|threads| {
            let lab = &net.lab;
            let opened = threads.spawn(move || {
                lab.enter_with_sysfs(Side::Client);
                Registration::open(config).unwrap()
            });
            opened.join().unwrap()
        });
        let (pump, told) = Pump::new();
        let handle = client.connect_on(0, to, "localhost", &net.config, pump).unwrap();
        let Told::Under(local) = next(&told) else { panic!("the first part comes first") };
        Self { net, client, handle, told, local }
    }

    fn address(&self, verb: &str, ip: IpAddr) {
        address(&self.net.lab, verb, ip);
    }

    fn next(&self) -> Told {
        next(&self.told)
    }

    /// How often connections have moved, and could not.
    fn counts(&self) -> (u64, u64) {
        let of = |row: &WorkerStatus| {
            let lane = row.counters.lane;
            (lane.address_moves, lane.address_strandings)
        };
        self.client.status().iter().map(of).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    }

    /// A worker that spins publishes its counters now and then.
    fn await_counts(&self, wanted: impl Fn((u64, u64)) -> bool) {
        for _ in 0..PATIENCE.as_millis() {
            if wanted(self.counts()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("{:?}", self.counts());
    }

    fn counts_become(&self, wanted: (u64, u64)) {
        self.await_counts(|counts| counts == wanted);
    }
}

/// AF_XDP on the client's device.
fn on_xdp(config: &mut RegistrationConfig, lab: &Lab) {
    let device = lab.device(Side::Client);
    let xdp = XdpConfig { force_mode: Some(Mode::NativeCopy), ..XdpConfig::new(device) };
    (config.io, config.workers) = (Io::Xdp(xdp), None);
}

fn on_udp(_: &mut RegistrationConfig, _: &Lab) {}

/// The address that a client uses is deleted in mid-transfer, and it has another.
fn moves(v6: bool, change: impl FnOnce(&mut RegistrationConfig, &Lab)) -> Scene {
    let scene = Scene::new(v6, true, change);
    let addresses = [Side::Client.ip(v6), second(v6)];
    let [gone, left] = match scene.local.ip() == addresses[0] {
        true => addresses,
        false => [addresses[1], addresses[0]],
    };
    assert_eq!(scene.local.ip(), gone);
    scene.address("del", gone);
    let (clock, family) = (Clock::monotonic(), if v6 { "IPv6" } else { "IPv4" });
    let deleted = clock.now();
    assert_eq!(scene.next(), Told::Moved(SocketAddr::new(left, scene.local.port())));
    println!(
        "{family}: told of {} us after the address was deleted",
        clock.now().ns_since(deleted) / 1_000
    );
    let Told::Done(bytes) = scene.next() else { panic!("the transfer goes on") };
    assert!(bytes >= 2 * PART_BYTES);
    scene.await_counts(|(moves, _)| moves == 1);
    scene
}

#[test]
fn a_client_on_udp_leaves_an_address_that_is_deleted_in_mid_transfer() {
    if privileged("a_client_on_udp_leaves_an_address_that_is_deleted_in_mid_transfer") {
        for v6 in [false, true] {
            moves(v6, on_udp);
        }
    }
}

#[test]
fn a_client_on_af_xdp_leaves_an_address_that_is_deleted_in_mid_transfer() {
    if privileged("a_client_on_af_xdp_leaves_an_address_that_is_deleted_in_mid_transfer") {
        for v6 in [false, true] {
            let scene = moves(v6, on_xdp);
            let (mut sent, mut through_kernel) = (0, 0);
            for row in scene.client.status() {
                assert_eq!(row.mode, Some(Mode::NativeCopy));
                sent += row.counters.queue.tx_packets;
                through_kernel += row.counters.queue.tx_via_kernel;
            }
            // The neighbour is known: the new address is no reason to leave the rings.
            assert!(through_kernel * 10 < sent, "{through_kernel} of {sent}");
        }
    }
}

#[test]
fn a_client_that_spins_leaves_an_address_that_is_deleted() {
    if privileged("a_client_that_spins_leaves_an_address_that_is_deleted") {
        moves(false, |config, _| config.polling = Polling::Spin);
    }
}

/// Waits until the worker's descriptor is readable; false if it is not in that time.
fn wakes(worker: &WorkerLoop, timeout: Duration) -> bool {
    let timeout = Timespec::try_from(timeout).unwrap();
    let mut fds = [PollFd::from_borrowed_fd(worker.as_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&timeout)).unwrap() > 0
}

/// Turns a worker until it has told something, if that is wanted, and it may wait for longer than `least`.
fn turn_until(
    worker: &mut WorkerLoop,
    told: Option<&Receiver<Told>>,
    least: Duration,
) -> Vec<Told> {
    let mut heard = Vec::new();
    loop {
        let Next::Wait(wait) = worker.turn() else { continue };
        heard.extend(told.iter().filter_map(|told| told.try_recv().ok()));
        let timeout = wait.timeout().unwrap_or(PATIENCE).min(PATIENCE);
        if timeout > least && (told.is_none() || !heard.is_empty()) {
            return heard;
        }
        wakes(worker, timeout);
    }
}

/// Between `ip addr del` and the wake nothing turns the worker: no timer of its own helps.
fn sleep_and_leave() {
    let net = Net::new(false, true);
    net.lab.enter_with_sysfs(Side::Client);
    let (client, mut seeds) = Registration::open_without_threads(one_worker()).unwrap();
    let mut worker = seeds.remove(0).start().unwrap();
    let (pump, told) = Pump::new();
    let handle = client.connect(super::server(false), "localhost", &net.config, pump).unwrap();
    let under = turn_until(&mut worker, Some(&told), Duration::ZERO);
    let [Told::Under(local)] = under[..] else { panic!("{under:?}") };
    handle.wake(0).unwrap();
    let done = turn_until(&mut worker, Some(&told), Duration::ZERO);
    assert!(matches!(done[..], [Told::Done(_)]), "{done:?}");
    turn_until(&mut worker, None, Duration::from_secs(1));
    address(&net.lab, "del", local.ip());
    assert!(wakes(&worker, PATIENCE), "the kernel tells of the address");
    let moved = turn_until(&mut worker, Some(&told), Duration::ZERO);
    assert_eq!(moved, [Told::Moved(SocketAddr::new(second(false), local.port()))]);
}

#[test]
fn a_client_that_sleeps_is_woken_by_an_address_that_is_deleted() {
    if privileged("a_client_that_sleeps_is_woken_by_an_address_that_is_deleted") {
        // On a thread that stays in the client's namespace, and ends.
        std::thread::spawn(sleep_and_leave).join().unwrap();
    }
}

#[test]
fn a_client_whose_only_address_is_deleted_moves_to_the_one_that_comes() {
    if !privileged("a_client_whose_only_address_is_deleted_moves_to_the_one_that_comes") {
        return;
    }
    let scene = Scene::new(false, false, on_udp);
    scene.address("del", scene.local.ip());
    scene.counts_become((0, 1));
    scene.address("add", second(false));
    assert_eq!(scene.next(), Told::Moved(SocketAddr::new(second(false), scene.local.port())));
    assert!(matches!(scene.next(), Told::Done(_)));
    // What it left comes back: it stays.
    scene.address("add", scene.local.ip());
    scene.counts_become((1, 1));
}

#[test]
fn with_the_setting_off_a_client_waits_for_its_address_to_come_back() {
    if !privileged("with_the_setting_off_a_client_waits_for_its_address_to_come_back") {
        return;
    }
    let scene = Scene::new(false, true, |config, _| config.leave_lost_addresses = false);
    scene.address("del", scene.local.ip());
    // Far longer than a move takes.
    std::thread::sleep(Duration::from_millis(500));
    let refused: u64 = scene.client.status().iter().map(|row| row.counters.udp.send_refused).sum();
    assert!(refused > 0, "the kernel sends nothing from an address that is gone");
    assert_eq!((scene.told.try_recv().ok(), scene.counts()), (None, (0, 0)));
    scene.address("add", scene.local.ip());
    scene.handle.wake(0).unwrap();
    let Told::Done(bytes) = scene.next() else { panic!("it goes on where it was") };
    assert!(bytes >= 2 * PART_BYTES);
}

/// Two devices lead to an address of the server's that neither has, the first of them preferred.
fn two_ways(v6: bool) -> (SocketAddr, Net) {
    const SECOND: [&str; 2] = ["second", "second-end"];
    let net = Net::new(v6, false);
    let lab = &net.lab;
    let server = lab.namespace(Side::Server);
    let [ours, theirs] = SECOND;
    let [mine, gateway, to, family, bits] = match v6 {
        false => ["10.78.0.2", "10.78.0.1", "10.79.0.1", "ipv4", "24"],
        true => ["fd78::2", "fd78::1", "fd79::1", "ipv6", "64"],
    };
    let run = |side: Side, line: &str| {
        lab.must_run(side, &line.split_whitespace().collect::<Vec<_>>());
    };
    let nodad = if v6 { "nodad" } else { "" };
    run(Side::Client, &format!("ip link add {ours} type veth peer name {theirs} netns {server}"));
    for (side, ip, device) in [(Side::Client, mine, ours), (Side::Server, gateway, theirs)] {
        run(side, &format!("ip addr add {ip}/{bits} dev {device} {nodad}"));
        run(side, &format!("ip link set {device} up"));
    }
    run(Side::Server, "ip link set lo up");
    run(Side::Server, &format!("ip addr add {to} dev lo {nodad}"));
    let (first, device) = (Side::Server.ip(v6), lab.device(Side::Client));
    run(Side::Client, &format!("ip route add {to} via {first} dev {device} metric 10"));
    run(Side::Client, &format!("ip route add {to} via {gateway} dev {ours} metric 20"));
    let heeds = format!("net.{family}.conf.all.ignore_routes_with_linkdown=1");
    run(Side::Client, &format!("sysctl -qw {heeds}"));
    (SocketAddr::new(to.parse().unwrap(), super::server(v6).port()), net)
}

/// A device of the pair goes down in mid-transfer, that of `side`, and another leads to the server. If it
/// is not the client's, that has no carrier then.
fn moves_to_another_device(
    v6: bool,
    side: Side,
    change: impl FnOnce(&mut RegistrationConfig, &Lab),
) {
    let (to, net) = two_ways(v6);
    let scene = Scene::towards(to, net, change);
    assert_eq!(scene.local.ip(), Side::Client.ip(v6));
    let lab = &scene.net.lab;
    let clock = Clock::monotonic();
    lab.must_run(side, &["ip", "link", "set", &lab.device(side), "down"]);
    let lost = clock.now();
    let other = if v6 { "fd78::2" } else { "10.78.0.2" }.parse().unwrap();
    assert_eq!(scene.next(), Told::Moved(SocketAddr::new(other, scene.local.port())));
    println!("{other}: told of {} ms after the carrier", clock.now().ns_since(lost) / 1_000_000);
    let told = scene.next();
    let Told::Done(bytes) = told else { panic!("the transfer goes on: {told:?}") };
    assert!(bytes >= 2 * PART_BYTES);
    scene.await_counts(|(moves, _)| moves == 1);
}

#[test]
fn a_client_on_udp_leaves_a_device_that_loses_its_carrier_in_mid_transfer() {
    if privileged("a_client_on_udp_leaves_a_device_that_loses_its_carrier_in_mid_transfer") {
        for v6 in [false, true] {
            moves_to_another_device(v6, Side::Server, on_udp);
        }
    }
}

#[test]
fn a_client_on_af_xdp_leaves_a_device_that_loses_its_carrier_in_mid_transfer() {
    if privileged("a_client_on_af_xdp_leaves_a_device_that_loses_its_carrier_in_mid_transfer") {
        for v6 in [false, true] {
            moves_to_another_device(v6, Side::Server, on_xdp);
        }
    }
}

#[test]
fn a_client_leaves_a_device_that_is_taken_down_in_mid_transfer() {
    if privileged("a_client_leaves_a_device_that_is_taken_down_in_mid_transfer") {
        for v6 in [false, true] {
            moves_to_another_device(v6, Side::Client, on_udp);
        }
    }
}

/// The carrier of a client's device goes and comes back. Returns how long that took at most.
fn blink(scene: &Scene) -> Duration {
    let (lab, clock) = (&scene.net.lab, Clock::monotonic());
    let device = lab.device(Side::Server);
    let both = format!("printf 'link set {device} down\\nlink set {device} up\\n' | ip -batch -");
    let begin = clock.now();
    lab.must_run(Side::Server, &["sh", "-c", &both]);
    Duration::from_nanos(clock.now().ns_since(begin))
}

#[test]
fn a_carrier_that_is_away_for_a_moment_moves_nothing() {
    /// Less than what a carrier may be away.
    const MOMENT: Duration = Duration::from_millis(150);
    if !privileged("a_carrier_that_is_away_for_a_moment_moves_nothing") {
        return;
    }
    // A busy machine may be slower.
    for _ in 0..10 {
        let (to, net) = two_ways(false);
        let scene = Scene::towards(to, net, on_udp);
        if blink(&scene) > MOMENT {
            continue;
        }
        // Longer than a carrier may be away.
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!((scene.told.try_recv().ok(), scene.counts()), (None, (0, 0)));
        scene.handle.wake(0).unwrap();
        let Told::Done(bytes) = scene.next() else { panic!("it goes on where it was") };
        assert!(bytes >= 2 * PART_BYTES);
        assert_eq!(scene.counts(), (0, 0));
        return;
    }
    panic!("the machine is too slow");
}
