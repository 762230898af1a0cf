//! How connections and registrations end, and who may wait for it.

use super::*;
use quiclane::exec::{ClientConfig, ShutdownReport, WaitError};

/// A client's connection that is established.
fn established() -> (Registration, Listener, Registration, Handle) {
    let (server_config, client_config) = configs();
    let (server, listener, client, handle, _) = established_as(&server_config, &client_config);
    (server, listener, client, handle)
}

fn established_as(
    server_config: &ServerConfig,
    client_config: &ClientConfig,
) -> (Registration, Listener, Registration, Handle, Receiver<Told>) {
    let server = open(workers(1));
    let listener = echo_server(&server, server_config);
    let client = open(workers(1));
    let (handler, told) = Client::new(Bytes::new());
    let handle =
        client.connect(listener.local_addr(), "localhost", client_config, handler).unwrap();
    connected(&told);
    (server, listener, client, handle, told)
}

#[test]
fn another_thread_closes_and_waits_until_nothing_is_left() {
    let (_server, _listener, client, handle) = established();
    let drained = handle.close_and_wait(7, Bytes::new(), PATIENCE).unwrap();
    assert_eq!(drained.reason, CloseReason::Local { code: 7 });
    assert!(drained.handshake_completed && drained.acknowledged, "{drained:?}");
    assert_eq!(handle.wake(0), Err(HandleError::Closed));
    status_until(&client, |rows| rows[0].connections == 0);
    // Who asks again hears the same.
    assert_eq!(handle.close_and_wait(8, Bytes::new(), Duration::ZERO), Ok(drained));
}

#[test]
fn a_blocking_get_has_its_value_and_is_an_error_on_a_workers_thread() {
    let (_server, _listener, client, handle) = established();
    let stats = handle.run_and_wait(|connection| connection.stats()).unwrap();
    assert!(stats.rx_packets > 0 && stats.smoothed_rtt_ns > 0, "{stats:?}");
    let inside = handle.clone();
    let refused = client.on_worker_and_wait(0, move |_| {
        let get = inside.run_and_wait(|connection| connection.stats()).map(drop);
        let close = inside.close_and_wait(0, Bytes::new(), PATIENCE).map(drop);
        (get, close)
    });
    let error = Err(WaitError::OnWorkerThread);
    assert_eq!(refused, Ok((error, error)));
    assert!(!handle.is_closed(), "nothing was posted");
}

/// A worker that does nothing until it is released.
fn stuck(registration: &Registration) -> Sender<()> {
    let (release, released) = channel::<()>();
    let (tell, told) = channel();
    let stuck = move |_: &mut WorkerRef<'_>| {
        tell.send(()).unwrap();
        let _ended = released.recv();
    };
    registration.on_worker(0, stuck).unwrap();
    told.recv_timeout(PATIENCE).unwrap();
    release
}

#[test]
fn a_wait_for_a_worker_that_is_stuck_ends_with_its_patience() {
    let (_server, _listener, client, handle) = established();
    let release = stuck(&client);
    let short = Duration::from_millis(5);
    assert_eq!(handle.close_and_wait(1, Bytes::new(), short), Err(WaitError::TimedOut));
    while handle.wake(0).is_ok() {}
    let full = Err(WaitError::NotPosted(HandleError::Full));
    assert_eq!(handle.close_and_wait(2, Bytes::new(), short), full);
    drop(release);
    // The first order was carried out.
    let drained = handle.close_and_wait(3, Bytes::new(), PATIENCE).unwrap();
    assert_eq!(drained.reason, CloseReason::Local { code: 1 });
}

/// Shuts a registration down, or drops it, in a closure of its first worker, whose inbox is full.
fn ends_inside(orderly: bool) -> Option<ShutdownReport> {
    let (server_config, client_config) = configs();
    let (_server, listener, client, handle, _told) = established_as(&server_config, &client_config);
    let registration = open(workers(2));
    let (handler, told) = Client::new(Bytes::new());
    let own = registration
        .connect_on(0, listener.local_addr(), "localhost", &client_config, handler)
        .unwrap();
    connected(&told);
    let (give, given) = channel::<Registration>();
    let (tell, reported) = channel();
    let inside = move |_: &mut WorkerRef<'_>| {
        let registration: Registration = given.recv().unwrap();
        let report = orderly.then(|| registration.shutdown(4, PATIENCE));
        tell.send(report).unwrap();
    };
    registration.on_worker(0, inside).unwrap();
    while own.wake(0).is_ok() {}
    give.send(registration).unwrap();
    // It waits for no worker that stands still: long before the patience is over.
    let report = reported.recv_timeout(PATIENCE / 2).unwrap();
    // And carries the order out afterwards.
    let ended = |told: &Told| matches!(told, Told::Closed(CloseReason::Local { .. }));
    while !ended(&told.recv_timeout(PATIENCE).unwrap()) {}
    let outcome = own.close_and_wait(0, Bytes::new(), PATIENCE);
    assert!(outcome.is_ok(), "{outcome:?}");
    // Another registration of the process is not touched.
    assert!(!handle.is_closed());
    drop(client);
    report
}

#[test]
fn a_shutdown_inside_a_callback_does_not_wait_for_its_own_worker() {
    let report = ends_inside(true).unwrap();
    assert_eq!(report, ShutdownReport { abandoned: 0, stuck: 0, caller: Some(0) });
}

#[test]
fn a_registration_that_is_dropped_inside_a_callback_ends_all_the_same() {
    assert_eq!(ends_inside(false), None);
}

#[test]
fn a_listener_may_be_dropped_inside_a_callback() {
    let (server_config, _) = configs();
    let server = open(workers(2));
    let listener = echo_server(&server, &server_config);
    let address = listener.local_addr();
    server.on_worker_and_wait(0, move |_| drop(listener)).unwrap();
    let again = server.listen(address, &server_config, |_| None).unwrap();
    assert_eq!(again.local_addr(), address);
}

/// Closes when it is connected, and tells both steps of the end.
struct Hasty(Sender<Told>, Sender<quiclane::exec::Drained>);

impl Handler for Hasty {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _resumed: bool) {
        let told = connection.close_inline(6, Bytes::new()).unwrap();
        self.0.send(Told::Closed(told)).unwrap();
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, _: CloseReason) {
        self.0.send(Told::NotConnected).unwrap();
    }

    fn drained(&mut self, _: &mut ConnectionRef<'_>, drained: quiclane::exec::Drained) {
        self.1.send(drained).unwrap();
    }
}

#[test]
fn a_close_may_be_told_inline_and_drained_follows() {
    let (server_config, client_config) = configs();
    let server = open(workers(1));
    let listener = echo_server(&server, &server_config);
    let client = open(workers(1));
    let ((tell, told), (end, ended)) = (channel(), channel());
    client.connect(listener.local_addr(), "localhost", &client_config, Hasty(tell, end)).unwrap();
    let drained = ended.recv_timeout(PATIENCE).unwrap();
    assert!(drained.acknowledged, "{drained:?}");
    let closed = Told::Closed(CloseReason::Local { code: 6 });
    assert_eq!(told.iter().collect::<Vec<_>>(), [closed], "`closed` is not called");
}
