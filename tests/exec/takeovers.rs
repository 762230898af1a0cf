//! A registration takes over from another one, here in one process: the socket, the descriptors and the
//! feeds are the same as between two.

use super::*;
use quiclane::exec::{TakeoverError, TookOver};
use quiclane_testkit::server::Scratch;
use std::path::Path;

/// Takes over at `path`, if a process offers itself there.
fn successor(path: &Path, count: usize) -> Registration {
    open(RegistrationConfig { takeover: Some(path.to_owned()), ..workers(count) })
}

/// Serves the address of the one before, and is served by nobody else.
fn serve(registration: &Registration, config: &ServerConfig, address: SocketAddr) -> Listener {
    let listener = registration.listen(address, config, |_| Some(Box::new(Echo))).unwrap();
    registration.complete_takeover().unwrap();
    listener
}

/// Looks until it has so many connections.
fn has(registration: &Registration, connections: u64) {
    status_until(registration, |rows| {
        rows.iter().map(|row| row.connections).sum::<u64>() == connections
    });
}

/// A client with a port of its own, so that the kernel hashes it to a socket of its own.
struct Caller {
    handle: Handle,
    told: Receiver<Told>,
    _registration: Registration,
}

impl Caller {
    fn new(remote: SocketAddr, config: &quiclane::exec::ClientConfig) -> Self {
        let registration = open(workers(1));
        let (handler, told) = Client::new("hello");
        let handle = registration.connect(remote, "localhost", config, handler).unwrap();
        assert_eq!(echoed(&told), b"hello");
        Self { handle, told, _registration: registration }
    }

    fn send(&self, message: Bytes) {
        let send = move |c: &mut ConnectionRef<'_>, stream: Result<StreamId, _>| {
            c.streams().send(stream.unwrap(), message, true).unwrap();
        };
        self.handle.open(Dir::Bi, send).unwrap();
    }
}

/// What a caller sends while the server changes: some seconds of a busy machine.
fn bulk(seed: u32) -> Bytes {
    (0..2_000_000u32).map(|n| (n.wrapping_mul(seed | 1) >> 13) as u8).collect()
}

#[test]
fn connections_go_on_through_three_takeovers() {
    let (server_config, client_config) = configs();
    let scratch = Scratch::new("takeovers");
    let path = scratch.path().join("quiclane.sock");
    let first = successor(&path, 2);
    assert_eq!(first.took_over(), None, "there was nobody");
    let listener = first.listen(any_port(), &server_config, |_| Some(Box::new(Echo))).unwrap();
    let address = listener.local_addr();
    let mut offers = vec![first.offer_takeover(&path).unwrap()];
    let (mut servers, mut listeners) = (vec![first], vec![listener]);
    let mut callers: Vec<Vec<Caller>> = Vec::new();
    // The third has more workers than those before, and the fourth fewer.
    for (n, count) in [2, 3, 1].into_iter().enumerate() {
        callers.push((0..4).map(|_| Caller::new(address, &client_config)).collect());
        has(&servers[n], 4);
        let under_way: Vec<Bytes> = (0..callers.len() as u32 * 4).map(bulk).collect();
        for (caller, message) in callers.iter().flatten().zip(&under_way) {
            caller.send(message.clone());
        }
        let next = successor(&path, count);
        let process = n as u8 + 1;
        let (pid, version) = (std::process::id(), env!("CARGO_PKG_VERSION").to_owned());
        assert_eq!(next.took_over(), Some(&TookOver { pid, version, process }));
        // Until it listens, those that begin reach the one before.
        let early = Caller::new(address, &client_config);
        has(&servers[n], 5);
        has(&next, 0);
        drop(early);
        listeners.push(serve(&next, &server_config, address));
        assert!(offers[n].wait(PATIENCE).is_some());
        offers.push(next.offer_takeover(&path).unwrap());
        for (caller, message) in callers.iter().flatten().zip(&under_way) {
            assert!(echoed(&caller.told) == *message);
        }
        servers.push(next);
    }
    callers.push((0..4).map(|_| Caller::new(address, &client_config)).collect());
    for (server, callers) in servers.iter().zip(&callers) {
        has(server, 4);
        callers.iter().for_each(|caller| caller.send(Bytes::from_static(b"still here")));
        callers.iter().for_each(|caller| assert_eq!(echoed(&caller.told), b"still here"));
    }
    // Ids tell four processes apart.
    let fifth = RegistrationConfig { takeover: Some(path.clone()), ..workers(1) };
    let Err(OpenError::Takeover(TakeoverError::Refused(reason))) =
        Registration::open(fifth.clone())
    else {
        panic!("a fifth process");
    };
    assert!(reason.contains("the first of them still has connections"), "{reason}");
    let dropped = servers.iter().flat_map(Registration::status);
    let dropped = dropped.map(|row| row.counters.lane.rx_for_predecessor_dropped);
    assert_eq!(dropped.sum::<u64>(), 0);
    // The first ends: its number is free, and what others have of it goes on.
    callers.remove(0);
    has(&servers[0], 0);
    servers.remove(0).shutdown(0, PATIENCE);
    let fifth = open(fifth);
    assert_eq!(fifth.took_over().unwrap().process, 0);
    listeners.push(serve(&fifth, &server_config, address));
    for caller in callers.iter().flatten() {
        caller.send(Bytes::from_static(b"and on"));
        assert_eq!(echoed(&caller.told), b"and on");
    }
    drop((listeners, offers));
}

#[test]
fn a_successor_that_ends_before_it_serves_leaves_everything_as_it_was() {
    let (server_config, client_config) = configs();
    let scratch = Scratch::new("takeover-ends");
    let path = scratch.path().join("quiclane.sock");
    let server = open(workers(2));
    let listener = echo_server(&server, &server_config);
    let address = listener.local_addr();
    let offer = server.offer_takeover(&path).unwrap();
    let callers: Vec<_> = (0..4).map(|_| Caller::new(address, &client_config)).collect();
    for round in 0..3 {
        let under_way = bulk(round);
        callers.iter().for_each(|caller| caller.send(under_way.clone()));
        let next = successor(&path, 2);
        let listens = round == 2;
        let listener = listens
            .then(|| next.listen(address, &server_config, |_| Some(Box::new(Echo))).unwrap());
        next.shutdown(0, Duration::ZERO);
        drop(listener);
        callers.iter().for_each(|caller| assert!(echoed(&caller.told) == under_way));
        drop(Caller::new(address, &client_config));
    }
    assert_eq!(offer.wait(Duration::ZERO), None);
    // And then one serves.
    let next = successor(&path, 2);
    let _listener = serve(&next, &server_config, address);
    assert!(offer.wait(PATIENCE).is_some());
    drop(Caller::new(address, &client_config));
    callers.iter().for_each(|caller| {
        caller.send(Bytes::from_static(b"on"));
        assert_eq!(echoed(&caller.told), b"on");
    });
}

/// Its connections end with it; those of the process before do not, and that one sleeps again.
#[test]
fn a_successor_that_ends_after_it_served_leaves_the_connections_of_the_one_before() {
    let (server_config, client_config) = configs();
    let scratch = Scratch::new("takeover-outlived");
    let path = scratch.path().join("quiclane.sock");
    let first = open(workers(2));
    let listener = echo_server(&first, &server_config);
    let address = listener.local_addr();
    let mut offers = vec![first.offer_takeover(&path).unwrap()];
    let (mut servers, mut listeners) = (vec![first], vec![listener]);
    let mut callers = vec![];
    // The one that ends has one before it that was itself taken over, and then none.
    for _ in 0..2 {
        callers.extend((0..4).map(|_| Caller::new(address, &client_config)));
        let next = successor(&path, 2);
        listeners.push(serve(&next, &server_config, address));
        assert!(offers.last().unwrap().wait(PATIENCE).is_some());
        offers.push(next.offer_takeover(&path).unwrap());
        servers.push(next);
    }
    // It has given away what it had, and says so before anything changes.
    let beside = scratch.path().join("second.sock");
    let again = servers[0].offer_takeover(&beside).unwrap();
    let late = RegistrationConfig { takeover: Some(beside), ..workers(1) };
    let Err(OpenError::Takeover(TakeoverError::Refused(reason))) = Registration::open(late) else {
        panic!("a second process took over from one that has nothing");
    };
    assert!(reason.contains("has taken over already"), "{reason}");
    drop(again);
    for round in 0..2 {
        let under_way = bulk(round);
        callers.iter().for_each(|caller| caller.send(under_way.clone()));
        drop((offers.pop(), listeners.pop()));
        servers.pop().unwrap().shutdown(0, PATIENCE);
        for caller in &callers[..8 - 4 * round as usize] {
            assert!(echoed(&caller.told) == under_way);
        }
        callers.truncate(4);
    }
    let turns = || servers[0].status().iter().map(|row| row.counters.turns.turns).sum::<u64>();
    let before = turns();
    std::thread::sleep(Duration::from_millis(300));
    let during = turns() - before;
    assert!(during < 1_000, "{during} turns: something wakes its workers all the time");
}

#[test]
fn a_process_that_does_not_fit_is_told_why_and_changes_nothing() {
    let (server_config, client_config) = configs();
    let scratch = Scratch::new("takeover-differs");
    let path = scratch.path().join("quiclane.sock");
    let server = open(RegistrationConfig { secret: Some([1; 32]), server_id: 7, ..workers(1) });
    let listener = echo_server(&server, &server_config);
    let caller = Caller::new(listener.local_addr(), &client_config);
    let offer = server.offer_takeover(&path).unwrap();
    let takeover = Some(path.clone());
    for (config, setting) in [
        (RegistrationConfig { takeover: takeover.clone(), ..workers(1) }, "server_id"),
        (
            RegistrationConfig {
                takeover: takeover.clone(),
                secret: Some([2; 32]),
                server_id: 7,
                ..workers(1)
            },
            "secret",
        ),
    ] {
        let Err(error) = Registration::open(config) else { panic!("{setting}") };
        assert!(error.to_string().contains(setting), "{error}");
    }
    // One that says something else than it should.
    let stranger = UnixStream::connect(&path);
    assert!(stranger.is_err(), "another kind of socket");
    caller.send(Bytes::from_static(b"on"));
    assert_eq!(echoed(&caller.told), b"on");
    drop(Caller::new(listener.local_addr(), &client_config));
    // A place that cannot be made.
    let nowhere = scratch.path().join("none/quiclane.sock");
    let error = server.offer_takeover(&nowhere).unwrap_err().to_string();
    assert!(error.contains("none/quiclane.sock"), "{error}");
    drop(offer);
    assert!(!path.exists());
    // Whoever is not there is not taken over from.
    assert_eq!(successor(&path, 1).took_over(), None);
}
