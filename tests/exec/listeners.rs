//! Listeners that come and go while workers are busy.

use super::*;
use quiclane::proto::connection::TransportConfig;
use std::net::UdpSocket;

/// Holds a worker in a closure, until the returned value is dropped.
fn hold(registration: &Registration, worker: usize) -> Sender<()> {
    let (release, held) = channel::<()>();
    let (entered, is_held) = channel();
    let wait = move |_: &mut quiclane::exec::WorkerRef<'_>| {
        entered.send(()).unwrap();
        held.recv().unwrap_err();
    };
    registration.on_worker(worker, wait).unwrap();
    is_held.recv_timeout(PATIENCE).unwrap();
    release
}

fn fill_inbox(registration: &Registration, worker: usize) {
    while registration.on_worker(worker, |_| ()) != Err(HandleError::Full) {}
}

/// Returns when a worker, whose inbox may be full, has processed what was posted before.
fn emptied(registration: &Registration, worker: usize) {
    let (tell, told) = channel();
    loop {
        let tell = tell.clone();
        match registration.on_worker(worker, move |_| tell.send(()).unwrap()) {
            Ok(()) => break,
            Err(error) => assert_eq!(error, HandleError::Full),
        }
        std::thread::yield_now();
    }
    told.recv_timeout(PATIENCE).unwrap();
}

/// An address with a port that is free just now.
fn free_address() -> SocketAddr {
    UdpSocket::bind(any_port()).unwrap().local_addr().unwrap()
}

/// Begins to listen on another thread; returns when that has the port.
fn begin_to_listen(
    server: &Arc<Registration>,
    config: &ServerConfig,
    address: SocketAddr,
) -> Receiver<Result<Listener, String>> {
    let (tell, told) = channel();
    let (server, config) = (server.clone(), config.clone());
    std::thread::spawn(move || {
        let listener = server.listen(address, &config, |_| None);
        tell.send(listener.map_err(|error| error.to_string())).unwrap();
    });
    while UdpSocket::bind(address).is_ok() {
        std::thread::sleep(Duration::from_millis(1));
    }
    told
}

#[test]
fn an_address_that_no_client_can_reach_is_not_preferred() {
    let (good, _) = configs();
    let server = open(workers(1));
    let with = |v4: Option<&str>, v6: Option<&str>| {
        let transport = TransportConfig {
            preferred_v4: v4.map(|v4| v4.parse().unwrap()),
            preferred_v6: v6.map(|v6| v6.parse().unwrap()),
            ..TransportConfig::default()
        };
        let config = ServerConfig { transport: Arc::new(transport), ..good.clone() };
        server.listen(any_port(), &config, |_| None).map(|_| ()).map_err(|error| error.to_string())
    };
    let (v4, v6) = (Some("203.0.113.5:4433"), Some("[2001:db8::5]:4433"));
    assert_eq!(with(v4, v6), Ok(()));
    for (name, wrong) in [
        ("preferred_v4", "203.0.113.5:0"),
        ("preferred_v4", "0.0.0.0:4433"),
        ("preferred_v4", "224.0.0.1:4433"),
        ("preferred_v4", "255.255.255.255:4433"),
        ("preferred_v6", "[::]:4433"),
        ("preferred_v6", "[ff02::1]:4433"),
        ("preferred_v6", "[2001:db8::5]:0"),
    ] {
        let is_v4 = name == "preferred_v4";
        let error = if is_v4 { with(Some(wrong), v6) } else { with(v4, Some(wrong)) }.unwrap_err();
        assert!(error.contains(name) && error.contains(wrong) && error.contains("None"), "{error}");
    }
}

#[test]
fn a_listen_that_failed_half_way_can_be_tried_again() {
    let (server_config, _) = configs();
    let server = open(RegistrationConfig { inbox_commands: 16, ..workers(2) });
    let address = free_address();
    let held = hold(&server, 1);
    fill_inbox(&server, 1);
    // The first worker has opened its socket by then.
    let error = server.listen(address, &server_config, |_| None).unwrap_err();
    assert!(matches!(error, ListenError::Worker(1)), "{error}");
    drop(held);
    emptied(&server, 1);
    for _ in 0..2 {
        drop(server.listen(address, &server_config, |_| None).unwrap());
    }
}

#[test]
fn a_listener_is_over_though_its_worker_could_not_be_told() {
    let (server_config, client_config) = configs();
    let server = open(RegistrationConfig { inbox_commands: 16, ..workers(1) });
    let first = server.listen(any_port(), &server_config, |_| None).unwrap();
    let address = first.local_addr();
    let held = hold(&server, 0);
    fill_inbox(&server, 0);
    drop(first);
    drop(held);
    emptied(&server, 0);
    let _second = server.listen(address, &server_config, |_| Some(Box::new(Echo))).unwrap();
    let client = open(workers(1));
    let (handler, told) = Client::new(&b"hello"[..]);
    client.connect(address, "localhost", &client_config, handler).unwrap();
    assert_eq!(echoed(&told), b"hello");
}

#[test]
fn a_worker_may_drop_a_listener_while_somebody_begins_to_listen() {
    let (server_config, _) = configs();
    let server = Arc::new(open(workers(1)));
    let first = echo_server(&server, &server_config);
    let address = free_address();
    let (go, gone) = channel::<()>();
    let (entered, is_held) = channel();
    server
        .on_worker(0, move |_| {
            entered.send(()).unwrap();
            gone.recv().unwrap();
            drop(first);
        })
        .unwrap();
    is_held.recv_timeout(PATIENCE).unwrap();
    // It waits for the worker, which this test holds.
    let told = begin_to_listen(&server, &server_config, address);
    go.send(()).unwrap();
    let second = told.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(second.local_addr(), address);
}

#[test]
fn an_address_is_taken_while_somebody_begins_to_listen() {
    let (server_config, _) = configs();
    let server = Arc::new(open(workers(1)));
    let address = free_address();
    let held = hold(&server, 0);
    let told = begin_to_listen(&server, &server_config, address);
    // The error comes at once, while the worker is held.
    let error = server.listen(address, &server_config, |_| None).unwrap_err();
    assert!(matches!(error, ListenError::Taken(_)), "{error}");
    drop(held);
    drop(told.recv_timeout(PATIENCE).unwrap().unwrap());
    drop(server.listen(address, &server_config, |_| None).unwrap());
}
