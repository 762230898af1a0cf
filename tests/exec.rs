//! Workers, listeners and connections over the loopback device and kernel UDP, through the
//! public API alone. Nothing here depends on the speed of the machine: a test waits for an event, and
//! fails only after a time that no machine needs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "exec/acceptors.rs"]
mod acceptors;
#[path = "exec/apart.rs"]
mod apart;
#[path = "exec/certificates.rs"]
mod certificates;
#[path = "common/configs.rs"]
mod configs;
#[path = "common/echo_handler.rs"]
mod echo_handler;
#[path = "exec/ends.rs"]
mod ends;
#[path = "common/following.rs"]
mod following;
#[path = "exec/listeners.rs"]
mod listeners;
#[path = "exec/loops.rs"]
mod loops;
#[path = "exec/moves.rs"]
mod moves;
#[path = "exec/panics.rs"]
mod panics;
#[path = "exec/queues.rs"]
mod queues;
#[path = "exec/refusals.rs"]
mod refusals;
#[path = "exec/streams.rs"]
mod streams;
#[path = "exec/takeovers.rs"]
mod takeovers;

use bytes::Bytes;
use configs::configs;
use echo_handler::Echo;
use quiclane::exec::{
    Callback, ConnectionRef, Handle, HandleError, Handler, Interest, ListenError, Listener,
    OpenError, Pin, Polling, Progress, Registration, RegistrationConfig, ServerConfig, WorkerRef,
    WorkerStatus,
};
use quiclane::proto::connection::CloseReason;
use quiclane::wire::{Dir, StreamId};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Not pinned: tests run beside each other on few CPUs.
fn workers(count: usize) -> RegistrationConfig {
    RegistrationConfig { pin: Pin::Off, polling: Polling::Sleep, ..RegistrationConfig::udp(count) }
}

fn open(config: RegistrationConfig) -> Registration {
    Registration::open(config).unwrap()
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn echo_server(registration: &Registration, config: &ServerConfig) -> Listener {
    registration.listen(any_port(), config, |_| Some(Box::new(Echo))).unwrap()
}

#[derive(Debug, PartialEq)]
enum Told {
    Connected { worker: usize },
    Echoed(Vec<u8>),
    Acknowledged(u64),
    Woken(u64),
    Ready(u64),
    Moved(SocketAddr),
    MoveFailed(SocketAddr),
    Closed(CloseReason),
    NotConnected,
}

/// Sends one message on one stream and tells what comes back.
struct Client {
    message: Bytes,
    echoed: Vec<u8>,
    tell: Sender<Told>,
}

impl Client {
    fn new(message: impl Into<Bytes>) -> (Self, Receiver<Told>) {
        let (tell, told) = channel();
        (Self { message: message.into(), echoed: Vec::new(), tell }, told)
    }

    fn say(&self, told: Told) {
        // The test may have dropped the receiver.
        let _ = self.tell.send(told);
    }
}

impl Handler for Client {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _resumed: bool) {
        self.say(Told::Connected { worker: connection.worker() });
        if !self.message.is_empty() {
            let stream = connection.streams().open(Dir::Bi).unwrap();
            connection.streams().send(stream, self.message.clone(), true).unwrap();
        }
    }

    fn stream_data(
        &mut self,
        _connection: &mut ConnectionRef<'_>,
        _stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        self.echoed.extend_from_slice(data);
        if fin {
            let echoed = std::mem::take(&mut self.echoed);
            self.say(Told::Echoed(echoed));
        }
        data.len()
    }

    fn acknowledged(&mut self, _: &mut ConnectionRef<'_>, _: StreamId, bytes: u64, _: bool) {
        self.say(Told::Acknowledged(bytes));
    }

    fn woken(&mut self, _: &mut ConnectionRef<'_>, token: u64) {
        self.say(Told::Woken(token));
    }

    fn ready(&mut self, _: &mut ConnectionRef<'_>, token: u64, _: quiclane::exec::Readiness) {
        self.say(Told::Ready(token));
    }

    fn local_address_changed(&mut self, connection: &mut ConnectionRef<'_>, local: SocketAddr) {
        assert_eq!(connection.local(), local);
        self.say(Told::Moved(local));
    }

    fn migration_failed(&mut self, _: &mut ConnectionRef<'_>, local: SocketAddr) {
        self.say(Told::MoveFailed(local));
    }

    fn not_connected(
        &mut self,
        _: &mut quiclane::exec::WorkerRef<'_>,
        _: quiclane::exec::ConnectFailure,
    ) {
        self.say(Told::NotConnected);
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, reason: CloseReason) {
        self.say(Told::Closed(reason));
    }
}

/// Waits for a message that `wanted` accepts, and skips others.
fn wait_for<T>(told: &Receiver<Told>, wanted: impl Fn(&Told) -> Option<T>) -> T {
    loop {
        let next = told.recv_timeout(PATIENCE).unwrap();
        if let Some(found) = wanted(&next) {
            return found;
        }
        assert!(!matches!(next, Told::Closed(_)), "{next:?}");
    }
}

fn echoed(told: &Receiver<Told>) -> Vec<u8> {
    wait_for(told, |t| if let Told::Echoed(data) = t { Some(data.clone()) } else { None })
}

fn connected(told: &Receiver<Told>) -> usize {
    wait_for(told, |t| if let Told::Connected { worker } = t { Some(*worker) } else { None })
}

/// Returns when every worker has processed what was posted before.
fn settled(registration: &Registration) {
    for worker in 0..registration.workers() {
        let (tell, told) = channel();
        registration.on_worker(worker, move |_| tell.send(()).unwrap()).unwrap();
        told.recv_timeout(PATIENCE).unwrap();
    }
}

/// Looks until the status is as wanted.
fn status_until(registration: &Registration, wanted: impl Fn(&[WorkerStatus]) -> bool) {
    let mut last = Vec::new();
    for _ in 0..PATIENCE.as_millis() / 10 {
        last = registration.status();
        if wanted(&last) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("never came to be: {last:#?}");
}

#[test]
fn a_message_comes_back() {
    let (server_config, client_config) = configs();
    let server = open(workers(1));
    let listener = echo_server(&server, &server_config);
    let client = open(workers(1));
    let message: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    let (handler, told) = Client::new(message.clone());
    client.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
    assert_eq!(echoed(&told), message);
    let report = client.shutdown(3, PATIENCE);
    assert_eq!((report.abandoned, report.stuck), (0, 0));
    wait_for(&told, |t| (*t == Told::Closed(CloseReason::Local { code: 3 })).then_some(()));
    status_until(&server, |rows| rows[0].connections == 0);
}

#[test]
fn a_worker_that_is_stuck_is_left_behind() {
    let registration = open(workers(2));
    let (release, released) = channel::<()>();
    let (tell, told) = channel();
    let stuck = move |_: &mut WorkerRef<'_>| {
        tell.send(()).unwrap();
        // Until the test is over, passed or failed.
        let _ended = released.recv();
    };
    registration.on_worker(1, stuck).unwrap();
    told.recv_timeout(PATIENCE).unwrap();
    let report = registration.shutdown(0, Duration::ZERO);
    assert!(report.abandoned == 0 && report.stuck >= 1, "{report:?}");
    drop(release);
}

#[test]
fn every_way_to_sleep_serves() {
    let (server_config, client_config) = configs();
    let adaptive = Polling::Adaptive { spin: Duration::from_micros(20) };
    for polling in [Polling::Spin, adaptive, Polling::Sleep] {
        let server = open(RegistrationConfig { polling, ..workers(1) });
        let listener = echo_server(&server, &server_config);
        let client = open(RegistrationConfig { polling, ..workers(1) });
        let (handler, told) = Client::new(&b"ping"[..]);
        client.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
        assert_eq!(echoed(&told), b"ping");
        if polling != Polling::Spin {
            status_until(&server, |rows| rows[0].counters.turns.sleeps > 0);
        }
    }
}

#[test]
fn sixty_four_connections_spread_over_two_workers() {
    let (server_config, client_config) = configs();
    let server = open(workers(2));
    let listener = echo_server(&server, &server_config);
    let client = open(workers(2));
    let mut open_connections = Vec::new();
    for n in 0..64u8 {
        let (handler, told) = Client::new(vec![n; 3_000]);
        let handle =
            client.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
        open_connections.push((handle, told));
    }
    for (n, (_, told)) in open_connections.iter().enumerate() {
        assert_eq!(echoed(told), vec![n as u8; 3_000]);
    }
    // The client has 2 sockets, so the kernel hashes 2 flows, which may arrive at one server worker.
    // All connections are on some worker, and the client's workers have equal shares.
    status_until(&server, |rows| rows.iter().map(|row| row.connections).sum::<u64>() == 64);
    status_until(&client, |rows| rows.iter().all(|row| row.connections == 32));
    let rows = server.status();
    assert_eq!(rows.iter().map(|row| row.wrong_queue).sum::<u64>(), 0);
    assert!(rows.iter().all(|row| row.mode == Some(quiclane::datapath::Mode::Udp)));
    let names: Vec<usize> = rows.iter().map(|row| row.worker).collect();
    assert_eq!(names, [0, 1]);
}

#[test]
fn many_flows_use_both_workers() {
    let (server_config, client_config) = configs();
    let server = open(workers(2));
    let listener = echo_server(&server, &server_config);
    // Sixteen clients are sixteen flows: the chance that one worker has all is 1 in 32768.
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let client = open(workers(1));
            let (handler, told) = Client::new(&b"hello"[..]);
            client.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
            (client, told)
        })
        .collect();
    for (_, told) in &clients {
        assert_eq!(echoed(told), b"hello");
    }
    status_until(&server, |rows| {
        rows.iter().all(|row| row.connections > 0 && row.counters.queue.rx_packets > 0)
            && rows.iter().map(|row| row.connections).sum::<u64>() == 16
    });
}

/// Forwards datagrams between one client and a server, and can change the port that it sends
/// from: to the server's kernel that is another flow, which may hash to another worker.
struct Rebinder {
    stop: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
    local: SocketAddr,
}

impl Drop for Rebinder {
    fn drop(&mut self) {
        self.stop.store(1, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Rebinder {
    /// Every datagram to the server leaves from the next of `ports` ports.
    fn start(server: SocketAddr, ports: usize) -> Self {
        use std::net::UdpSocket;
        let quick = |socket: &UdpSocket| {
            socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        };
        let front = UdpSocket::bind(any_port()).unwrap();
        quick(&front);
        let backs: Vec<UdpSocket> = (0..ports)
            .map(|_| {
                let socket = UdpSocket::bind(any_port()).unwrap();
                socket.connect(server).unwrap();
                quick(&socket);
                socket
            })
            .collect();
        let local = front.local_addr().unwrap();
        let stop = Arc::new(AtomicUsize::new(0));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut client = None;
            let mut next = 0;
            let mut buffer = [0; 2048];
            while stopped.load(Ordering::Relaxed) == 0 {
                if let Ok((len, from)) = front.recv_from(&mut buffer) {
                    client = Some(from);
                    backs[next % ports].send(&buffer[..len]).unwrap();
                    next += 1;
                }
                for back in &backs {
                    back.set_nonblocking(true).unwrap();
                    while let Ok(len) = back.recv(&mut buffer) {
                        if let Some(client) = client {
                            front.send_to(&buffer[..len], client).unwrap();
                        }
                    }
                }
            }
        });
        Self { stop, thread: Some(thread), local }
    }
}

#[test]
fn datagrams_at_the_wrong_worker_reach_the_owner_and_are_counted() {
    let (server_config, client_config) = configs();
    let server = open(workers(2));
    let listener = echo_server(&server, &server_config);
    let client = open(workers(1));
    let rebinder = Rebinder::start(listener.local_addr(), 16);
    // A path cannot move yet, so most datagrams of the client come from another address and are
    // dropped. But every datagram has to reach the owner, which decides that.
    let (handler, told) = Client::new(Bytes::new());
    let _handle = client.connect(rebinder.local, "localhost", &client_config, handler).unwrap();
    drop(told);
    status_until(&server, |rows| rows.iter().any(|row| row.wrong_queue > 0));
    let handed = |rows: &[WorkerStatus]| {
        rows.iter().map(|row| row.counters.lane.rx_handed_over).sum::<u64>()
    };
    status_until(&server, |rows| handed(rows) > 0);
    let rows = server.status();
    assert_eq!(rows.iter().map(|row| row.counters.lane.rx_wrong_queue_dropped).sum::<u64>(), 0);
}

#[test]
fn a_handle_works_from_other_threads() {
    let (server_config, client_config) = configs();
    let server = open(workers(1));
    let listener = echo_server(&server, &server_config);
    let client = open(workers(1));
    let (handler, told) = Client::new(Bytes::new());
    let handle =
        client.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
    connected(&told);
    let threads: Vec<_> = (0..4u64)
        .map(|n| {
            let handle = handle.clone();
            std::thread::spawn(move || {
                for k in 0..50 {
                    while handle.wake(n * 100 + k) == Err(HandleError::Full) {
                        std::thread::yield_now();
                    }
                }
                let data = Bytes::from(vec![n as u8; 10]);
                let send = move |c: &mut ConnectionRef<'_>, s: Result<StreamId, _>| {
                    c.streams().send(s.unwrap(), data, true).unwrap();
                };
                handle.open(Dir::Bi, send).unwrap();
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let (mut woken, mut answers) = (Vec::new(), 0);
    while woken.len() < 200 || answers < 4 {
        match told.recv_timeout(PATIENCE).unwrap() {
            Told::Woken(token) => woken.push(token),
            Told::Echoed(_) => answers += 1,
            Told::Closed(reason) => panic!("{reason}"),
            _ => {}
        }
    }
    for n in 0..4 {
        let of_one: Vec<u64> = woken.iter().copied().filter(|token| token / 100 == n).collect();
        assert_eq!(of_one, (0..50).map(|k| n * 100 + k).collect::<Vec<_>>(), "in order");
    }
    handle.close(0, Bytes::new()).unwrap();
    wait_for(&told, |t| matches!(t, Told::Closed(_)).then_some(()));
    assert_eq!(handle.wake(1), Err(HandleError::Closed));
}

#[test]
fn a_full_inbox_is_an_error_that_the_caller_sees() {
    let (server_config, client_config) = configs();
    let server = open(workers(1));
    let listener = echo_server(&server, &server_config);
    let client = open(RegistrationConfig { inbox_commands: 4, ..workers(1) });
    let (handler, told) = Client::new(Bytes::new());
    let handle =
        client.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
    connected(&told);
    // The worker is held in a closure until the inbox has overflowed.
    let (release, held) = channel::<()>();
    let (entered, is_held) = channel();
    handle
        .run(move |_| {
            entered.send(()).unwrap();
            held.recv().unwrap();
            // Longer than any callback may take.
            std::thread::sleep(Duration::from_millis(5));
        })
        .unwrap();
    is_held.recv_timeout(PATIENCE).unwrap();
    let results: Vec<_> = (0..6).map(|token| handle.wake(token)).collect();
    assert_eq!(results[..4], [Ok(()); 4]);
    assert_eq!(results[4..], [Err(HandleError::Full); 2]);
    release.send(()).unwrap();
    for token in 0..4 {
        wait_for(&told, |t| (*t == Told::Woken(token)).then_some(()));
    }
    status_until(&client, |rows| {
        rows[0].counters.turns.overruns > 0 && rows[0].counters.overruns.get(Callback::Task) == 1
    });
}

#[test]
fn descriptors_timers_and_closures_are_served_between_turns() {
    let (server_config, client_config) = configs();
    let server = open(workers(1));
    let listener = echo_server(&server, &server_config);
    for polling in [Polling::Sleep, Polling::Spin] {
        let client = open(RegistrationConfig { polling, ..workers(1) });
        let (handler, told) = Client::new(Bytes::new());
        let handle =
            client.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
        connected(&told);
        let (here, mut there) = UnixStream::pair().unwrap();
        let here = Arc::new(here);
        let watched = here.clone();
        handle
            .run(move |c| {
                c.watch(&*watched, Interest::Readable, 5).unwrap();
            })
            .unwrap();
        there.write_all(b"x").unwrap();
        wait_for(&told, |t| (*t == Told::Ready(5)).then_some(()));

        let (tell, order) = channel();
        client
            .on_worker(0, move |worker| {
                let later = tell.clone();
                worker.set_timer(Duration::from_millis(1), move |worker| {
                    let last = later.clone();
                    worker.spawn(move |_| last.send("closure").unwrap());
                    later.send("timer").unwrap();
                });
                tell.send("posted").unwrap();
            })
            .unwrap();
        let next = || order.recv_timeout(PATIENCE).unwrap();
        assert_eq!([next(), next(), next()], ["posted", "timer", "closure"]);
    }
}

#[test]
fn a_listener_that_is_dropped_turns_clients_away_and_keeps_those_it_has() {
    let (server_config, client_config) = configs();
    let server = open(workers(2));
    let listener = echo_server(&server, &server_config);
    let address = listener.local_addr();
    let client = open(workers(1));
    let (handler, told) = Client::new(Bytes::new());
    let handle = client.connect(address, "localhost", &client_config, handler).unwrap();
    connected(&told);
    drop(listener);
    settled(&server);
    let second = Client::new(&b"too late"[..]);
    client.connect(address, "localhost", &client_config, second.0).unwrap();
    let unheard =
        |rows: &[WorkerStatus]| rows.iter().map(|row| row.counters.lane.rx_unroutable).sum::<u64>();
    status_until(&server, |rows| unheard(rows) > 0);
    let data = Bytes::from_static(b"still here");
    handle.open(Dir::Bi, move |c, s| c.streams().send(s.unwrap(), data, true).unwrap()).unwrap();
    assert_eq!(echoed(&told), b"still here");
    assert!(second.1.try_iter().all(|t| !matches!(t, Told::Connected { .. })));
}

#[test]
fn an_acceptor_may_turn_clients_away() {
    let (server_config, client_config) = configs();
    let server = open(workers(1));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let refuse = move |wish: &quiclane::exec::NewConnection<'_>| {
        seen.lock().unwrap().push((wish.local, wish.worker));
        None
    };
    let listener = server.listen(any_port(), &server_config, refuse).unwrap();
    let client = open(workers(1));
    let (handler, told) = Client::new(Bytes::new());
    client.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
    // RFC 9000 §20.1, CONNECTION_REFUSED.
    let reason = wait_for_close(&told);
    assert!(matches!(reason, CloseReason::PeerTransport { code: 2, .. }), "{reason}");
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 1, "a client that was turned away is asked about once");
    assert_eq!(asked[0], (listener.local_addr(), 0));
}

#[test]
fn what_is_posted_right_after_connecting_is_carried_out() {
    let (server_config, client_config) = configs();
    let server = open(workers(1));
    let listener = echo_server(&server, &server_config);
    let client = open(workers(1));
    for _ in 0..20 {
        let (handler, told) = Client::new(Bytes::new());
        let handle =
            client.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
        handle.wake(9).unwrap();
        wait_for(&told, |t| (*t == Told::Woken(9)).then_some(()));
        let (next, told) = Client::new(Bytes::new());
        let (address, config) = (listener.local_addr(), client_config.clone());
        handle
            .run(move |c| {
                let handle = c.on_worker().connect(address, "localhost", &config, next);
                handle.wake(8).unwrap();
            })
            .unwrap();
        wait_for(&told, |t| (*t == Told::Woken(8)).then_some(()));
    }
}

fn wait_for_close(told: &Receiver<Told>) -> CloseReason {
    loop {
        if let Told::Closed(reason) = told.recv_timeout(PATIENCE).unwrap() {
            return reason;
        }
    }
}

#[test]
fn a_server_that_cannot_prove_its_name_is_left() {
    let (server_config, _) = configs();
    let (_, other_client) = configs();
    let server = open(workers(1));
    let listener = echo_server(&server, &server_config);
    let client = open(workers(1));
    let (handler, told) = Client::new(Bytes::new());
    client.connect(listener.local_addr(), "localhost", &other_client, handler).unwrap();
    let reason = wait_for_close(&told);
    assert!(matches!(reason, CloseReason::Handshake(_)), "{reason}");
}

#[test]
fn a_name_that_is_none_is_told_to_the_handler() {
    let (_, client_config) = configs();
    let client = open(workers(1));
    let (handler, told) = Client::new(Bytes::new());
    let remote = SocketAddr::from(([127, 0, 0, 1], 9));
    let handle = client.connect(remote, "no name at all", &client_config, handler).unwrap();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Told::NotConnected);
    assert!(handle.is_closed());
}

#[test]
fn dropping_a_registration_closes_its_connections() {
    let (server_config, client_config) = configs();
    let server = open(workers(2));
    let listener = echo_server(&server, &server_config);
    let client = open(workers(1));
    // The echo shows that the server's handshake is done too: before, it may only send the close
    // of type APPLICATION_ERROR (RFC 9000 §10.2.3).
    let (handler, told) = Client::new(&b"hello"[..]);
    client.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
    assert_eq!(echoed(&told), b"hello");
    drop(server);
    assert!(matches!(wait_for_close(&told), CloseReason::PeerApplication { code: 0, .. }));
}

#[test]
fn a_port_that_is_taken_is_an_error_that_names_it() {
    let (server_config, _) = configs();
    let taken = std::net::UdpSocket::bind(any_port()).unwrap();
    let address = taken.local_addr().unwrap();
    let server = open(workers(2));
    let error = server.listen(address, &server_config, |_| None).unwrap_err();
    assert!(matches!(error, ListenError::Address(_)), "{error}");
    assert!(error.to_string().contains(&address.port().to_string()), "{error}");
    drop(taken);
    let listener = server.listen(address, &server_config, |_| None).unwrap();
    // The kernel would let processes of one user share the port, and each get some datagrams.
    let second = open(workers(2));
    let error = second.listen(address, &server_config, |_| None).unwrap_err();
    assert!(matches!(error, ListenError::Address(_)), "{error}");
    let error = server.listen(address, &server_config, |_| None).unwrap_err();
    assert!(matches!(error, ListenError::Taken(_)), "{error}");
    drop(listener);
    drop(server.listen(address, &server_config, |_| None).unwrap());
}

#[test]
fn listening_on_a_workers_thread_is_refused_instead_of_hanging() {
    let (server_config, _) = configs();
    let server = Arc::new(open(workers(1)));
    let (tell, told) = channel();
    let inner = server.clone();
    server
        .on_worker(0, move |_| {
            let result = inner.listen(any_port(), &server_config, |_| None);
            tell.send(result.map(drop).map_err(|error| error.to_string())).unwrap();
        })
        .unwrap();
    let error = told.recv_timeout(PATIENCE).unwrap().unwrap_err();
    assert!(error.contains("cannot wait for itself"), "{error}");
}

#[test]
fn workers_that_the_application_turns_serve_too() {
    let (server_config, client_config) = configs();
    let config = RegistrationConfig { polling: Polling::Sleep, ..workers(2) };
    let (server, seeds) = Registration::open_without_threads(config).unwrap();
    let own: Vec<_> = seeds
        .into_iter()
        .map(|seed| {
            std::thread::spawn(move || {
                let mut worker = seed.start().unwrap();
                let mut turns = 0;
                while worker.turn_and_sleep(Some(Duration::from_millis(5))) == Progress::Running {
                    turns += 1; // Here an application does its own work.
                }
                turns
            })
        })
        .collect();
    let listener = echo_server(&server, &server_config);
    let client = open(workers(1));
    let (handler, told) = Client::new(&b"ping"[..]);
    client.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
    assert_eq!(echoed(&told), b"ping");
    server.shutdown(0, PATIENCE);
    for thread in own {
        assert!(thread.join().unwrap() > 0);
    }
    wait_for_close(&told);
}

#[test]
fn impossible_configurations_are_refused() {
    let error =
        Registration::open(RegistrationConfig { pin: Pin::Off, ..RegistrationConfig::udp(0) });
    assert!(matches!(error.unwrap_err(), OpenError::Workers(0)));
    let config = RegistrationConfig { cpus: vec![60_000], ..RegistrationConfig::udp(1) };
    assert!(matches!(Registration::open(config).unwrap_err(), OpenError::Placement(_)));
    let config = RegistrationConfig { cid_config_id: 7, ..workers(1) };
    assert!(matches!(Registration::open(config).unwrap_err(), OpenError::CidConfig(_)));
    let error = Registration::open(RegistrationConfig::xdp("quiclane-none")).unwrap_err();
    assert!(error.to_string().contains("quiclane-none"), "{error}");
}

#[test]
fn a_pinned_worker_tells_its_cpu() {
    // Every CPU of this process gets a worker; they are placed and pinned.
    let registration = open(RegistrationConfig::default());
    let rows = registration.status();
    assert!(rows.iter().all(|row| row.cpu.is_some()), "{rows:#?}");
    let mut cpus: Vec<_> = rows.iter().filter_map(|row| row.cpu).collect();
    cpus.sort_unstable();
    cpus.dedup();
    assert_eq!(cpus.len(), rows.len(), "no CPU serves two");
}

#[test]
fn handles_outlive_everything() {
    let (server_config, client_config) = configs();
    let server = open(workers(1));
    let listener = echo_server(&server, &server_config);
    let client = open(workers(1));
    let (handler, told) = Client::new(Bytes::new());
    let handle: Handle =
        client.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
    connected(&told);
    drop((client, server, listener));
    assert_eq!(handle.wake(0), Err(HandleError::Closed));
    assert_eq!(handle.send(StreamId::from_raw(0), Bytes::new(), true), Err(HandleError::Closed));
}
