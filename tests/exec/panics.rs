//! A fault in the middle of a turn, outside of callbacks: here of an observer.

use super::*;
use quiclane::TransportConfig;
use quiclane::exec::LaneLimits;
use quiclane::proto::observer::{Observation, Observers, State};
use std::sync::atomic::AtomicBool;

/// Panics once for each time that it is armed, as the worker of that number receives a packet.
fn faulty(worker: usize, armed: &Arc<AtomicBool>) -> Observers {
    let armed = armed.clone();
    Observers::new(move |_| {
        let armed = armed.clone();
        Some(Box::new(move |_, what: &Observation<'_>| {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            let is_due = matches!(what, Observation::PacketReceived(..))
                && name.ends_with(&format!("u-{worker}"));
            assert!(!is_due || !armed.swap(false, Ordering::Relaxed), "as the test wants it");
        }))
    })
}

/// A client and its connection.
type Connected = (Registration, Handle, Receiver<Told>);

/// Clients of an echo server, until each of its two workers has two. Each has a port of its own, by
/// which the kernel chooses the worker.
fn clients_of_both(
    address: SocketAddr,
    config: &quiclane::exec::ClientConfig,
    owners: &Receiver<usize>,
) -> [Vec<Connected>; 2] {
    let mut of = [Vec::new(), Vec::new()];
    while of.iter().any(|of| of.len() < 2) {
        let client = open(workers(1));
        let (handler, told) = Client::new("hello");
        let handle = client.connect(address, "localhost", config, handler).unwrap();
        wait_for(&told, |t| matches!(t, Told::Echoed(_)).then_some(()));
        let owner = owners.recv_timeout(PATIENCE).unwrap();
        of[owner].push((client, handle, told));
    }
    of
}

/// Has the connection echo once more.
fn echoes(handle: &Handle, told: &Receiver<Told>) {
    handle
        .open(Dir::Bi, |c, stream| {
            c.streams().send(stream.unwrap(), Bytes::from_static(b"again"), true).unwrap();
        })
        .unwrap();
    wait_for(told, |t| matches!(t, Told::Echoed(_)).then_some(()));
}

/// Tells which worker has it.
struct Owned(Sender<usize>);

impl Handler for Owned {
    fn connected(&mut self, c: &mut ConnectionRef<'_>, _: bool) {
        let _ = self.0.send(c.worker());
    }

    fn stream_data(
        &mut self,
        c: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        Echo.stream_data(c, stream, data, fin)
    }
}

#[test]
fn a_turn_that_panics_ends_the_connections_of_its_worker_and_no_others() {
    let (mut server_config, client_config) = configs();
    let armed = Arc::new(AtomicBool::new(false));
    let observers = Some(faulty(0, &armed));
    server_config.transport = Arc::new(TransportConfig { observers, ..Default::default() });
    let (tell, owners) = channel();
    // A connection that follows its datagrams to the other worker would share its fate.
    let limits = LaneLimits { move_after: 0, ..LaneLimits::default() };
    let server = open(RegistrationConfig { name: "u".to_owned(), limits, ..workers(2) });
    let listener = server
        .listen(any_port(), &server_config, move |_| Some(Box::new(Owned(tell.clone()))))
        .unwrap();
    for times in 1..=3 {
        let [broken, sound] = clients_of_both(listener.local_addr(), &client_config, &owners);
        armed.store(true, Ordering::Relaxed);
        // Any packet will do. What it brings may be lost.
        for (_, handle, _) in &broken {
            let _ = handle.open(Dir::Bi, |c, stream| {
                c.streams().send(stream.unwrap(), Bytes::from_static(b"again"), true).unwrap();
            });
        }
        for (_, _, told) in &broken {
            // RFC 9000 §20.1, INTERNAL_ERROR; one that was closing already has no word of its own.
            let reason = wait_for_close(told);
            let is_told = matches!(reason, CloseReason::PeerTransport { code: 1, .. });
            assert!(is_told, "{reason}");
        }
        assert!(!armed.load(Ordering::Relaxed));
        for (_, handle, told) in &sound {
            echoes(handle, told);
        }
        let status = server.status();
        assert_eq!((status[0].counters.turns.panics, status[1].counters.turns.panics), (times, 0));
        assert!(status[0].error.as_ref().unwrap().contains("as the test wants it"));
        assert_eq!(status[1].error, None);
    }
}

#[test]
fn an_order_of_the_registration_that_panics_ends_no_worker_before_its_time() {
    let (mut server_config, client_config) = configs();
    let armed = Arc::new(AtomicBool::new(false));
    let trap = armed.clone();
    let observers = Some(Observers::new(move |_| {
        let trap = trap.clone();
        Some(Box::new(move |_, what: &Observation<'_>| {
            let closes = matches!(what, Observation::State(State::Closing));
            assert!(!closes || !trap.swap(false, Ordering::Relaxed), "as the test wants it");
        }))
    }));
    server_config.transport = Arc::new(TransportConfig { observers, ..Default::default() });
    let server = open(workers(1));
    let listener = echo_server(&server, &server_config);
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let client = open(workers(1));
            let (handler, told) = Client::new("hello");
            let address = listener.local_addr();
            let handle = client.connect(address, "localhost", &client_config, handler).unwrap();
            wait_for(&told, |t| matches!(t, Told::Echoed(_)).then_some(()));
            (client, handle, told)
        })
        .collect();
    armed.store(true, Ordering::Relaxed);
    let report = server.shutdown(3, PATIENCE);
    assert_eq!((report.abandoned, report.stuck), (0, 0));
    assert!(!armed.load(Ordering::Relaxed));
    for (_, _, told) in &clients {
        // As the registration wants it, or INTERNAL_ERROR: nobody is left to time out.
        let reason = wait_for_close(told);
        let is_told = matches!(
            reason,
            CloseReason::PeerApplication { code: 3, .. }
                | CloseReason::PeerTransport { code: 1, .. }
        );
        assert!(is_told, "{reason}");
    }
}
