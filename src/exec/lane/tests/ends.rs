//! The end of a connection in two steps, as applications see it.

use super::*;
use crate::exec::WaitError;
use crate::exec::api::{Acceptor, NewConnection};
use crate::exec::{Drained, WorkerRef};
use crate::proto::connection::CloseReason;
use crate::wire::StreamId;
use std::sync::Mutex;

/// The last two callbacks of all.
fn last_two(told: &[Told]) -> (&CloseReason, &Drained) {
    let [.., Told::Closed(reason), Told::Drained(drained)] = told else {
        panic!("not closed and then drained: {told:?}");
    };
    assert_eq!(*reason, drained.reason);
    (reason, drained)
}

#[test]
fn closed_comes_at_once_and_drained_when_the_place_is_free() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let handle = scene.connect(None);
    scene.run(20);
    handle.close(7, Bytes::new()).unwrap();
    scene.run(3);
    assert!(matches!(scene.told_client().last(), Some(Told::Closed(_))));
    assert!(matches!(scene.told_server().last(), Some(Told::Closed(_))));
    assert!(handle.is_closed());
    scene.run(3_000);
    assert!(scene.client.lane().is_empty() && scene.servers[0].lane().is_empty());
    for told in [scene.told_client(), scene.told_server()] {
        let (_, drained) = last_two(&told);
        assert!(drained.handshake_completed && drained.acknowledged, "{drained:?}");
    }
}

#[test]
fn a_close_that_nobody_answers_is_told_as_not_acknowledged() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let handle = scene.connect(None);
    scene.run(20);
    handle.close(7, Bytes::new()).unwrap();
    for _ in 0..3_000 {
        scene.now = scene.now.plus_ns(MILLISECOND_NS);
        scene.client.turn(scene.now).unwrap();
        take_sent(&mut scene.client);
    }
    let told = scene.told_client();
    let (_, drained) = last_two(&told);
    assert!(drained.handshake_completed && !drained.acknowledged, "{drained:?}");
}

#[test]
fn a_handshake_that_times_out_ends_in_both_steps_at_once() {
    let mut scene = Scene::new(1, LaneLimits::default());
    scene.connect(None);
    for _ in 0..11_000 {
        scene.now = scene.now.plus_ns(MILLISECOND_NS);
        scene.client.turn(scene.now).unwrap();
        take_sent(&mut scene.client);
    }
    let told = scene.told_client();
    let (reason, drained) = last_two(&told);
    assert_eq!((reason, told.len()), (&CloseReason::HandshakeTimeout, 2));
    assert!(!drained.handshake_completed && !drained.acknowledged);
}

#[test]
fn a_worker_that_ends_tells_connections_that_still_close() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let handle = scene.connect(None);
    scene.run(20);
    scene.client.lane().close_all(3);
    scene.client.turn(scene.now).unwrap();
    scene.client.lane().finish();
    assert!(scene.client.lane().is_empty());
    let told = scene.told_client();
    let (reason, drained) = last_two(&told);
    assert_eq!(*reason, CloseReason::Local { code: 3 });
    assert!(drained.handshake_completed && !drained.acknowledged);
    let ending = handle.close_and_wait(0, Bytes::new(), Duration::ZERO);
    assert_eq!(ending.as_ref(), Ok(drained));
}

#[test]
fn a_handle_waits_for_the_end_of_what_is_closed_already_and_never_for_ever() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let handle = scene.connect(None);
    scene.run(20);
    let wait = |patience| handle.close_and_wait(5, Bytes::new(), patience);
    assert_eq!(wait(Duration::ZERO), Err(WaitError::TimedOut));
    scene.run(3_000);
    let drained = wait(Duration::ZERO).unwrap();
    assert_eq!(drained.reason, CloseReason::Local { code: 5 }, "the first call was carried out");
    assert!(drained.acknowledged);
    // A worker that is dropped tells nobody.
    let handle = scene.connect(None);
    scene.run(20);
    let handler = Scribe::new(&scene.client_log);
    let never = scene.connect_with(Box::new(handler));
    let fresh = Scene::new(1, LaneLimits::default());
    scene.client = fresh.client;
    for handle in [handle, never] {
        let ending = handle.close_and_wait(0, Bytes::new(), Duration::MAX);
        assert_eq!(ending, Err(WaitError::Dropped));
    }
}

/// Closes in a callback, and is told inline.
#[derive(Default)]
struct Hasty {
    log: Arc<Mutex<Vec<String>>>,
}

impl Hasty {
    fn note(&self, what: impl Into<String>) {
        self.log.lock().unwrap().push(what.into());
    }
}

impl Handler for Hasty {
    fn connected(&mut self, c: &mut ConnectionRef<'_>, _: bool) {
        let handle = c.handle();
        c.set_timer(Duration::ZERO, 1);
        c.spawn(|_| panic!("its connection is closed"));
        let told = c.close_inline(9, Bytes::new());
        assert_eq!(told, Some(CloseReason::Local { code: 9 }));
        self.note("told inline");
        assert!(handle.is_closed() && c.handle().is_closed() && c.is_closed());
        assert_eq!(c.close_inline(10, Bytes::new()), None, "only once");
        self.note("returned");
    }

    fn stream_data(&mut self, _: &mut ConnectionRef<'_>, _: StreamId, d: &[u8], _: bool) -> usize {
        self.note("data");
        d.len()
    }

    fn timer(&mut self, _: &mut ConnectionRef<'_>, _: u64) {
        self.note("timer");
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, _: CloseReason) {
        self.note("closed");
    }

    fn drained(&mut self, c: &mut ConnectionRef<'_>, drained: Drained) {
        assert_eq!(drained.reason, CloseReason::Local { code: 9 });
        // What is begun here ends with the connection.
        c.set_timer(Duration::ZERO, 2);
        c.spawn(|_| panic!("its connection is gone"));
        assert!(c.handle().is_closed() && c.streams().open(crate::wire::Dir::Bi).is_err());
        self.note("drained");
    }
}

#[test]
fn who_closes_inline_is_told_by_the_call_and_once() {
    let log = Arc::default();
    let noted = Arc::clone(&log);
    let acceptor: Arc<dyn Acceptor> = Arc::new(move |_: &NewConnection<'_>| {
        Some(Box::new(Hasty { log: Arc::clone(&noted) }) as Box<dyn Handler>)
    });
    let mut scene = Scene::with_acceptor(1, LaneLimits::default(), &server_config(), &acceptor);
    scene.connect(Some(b"unread"));
    scene.run(3_000);
    assert_eq!(*log.lock().unwrap(), ["told inline", "returned", "drained"]);
    assert_eq!(scene.servers[0].lane().counters().callback_panics, 0);
    let told = scene.told_client();
    let (reason, _) = last_two(&told);
    let closed = CloseReason::PeerApplication { code: 9, reason: Bytes::new() };
    assert_eq!(*reason, closed);
}

#[test]
fn a_connection_that_never_began_has_no_end_to_wait_for() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let unknown = std::net::SocketAddr::from(([192, 0, 2, 9], 1));
    let log = scene.client_log.clone();
    let config = client_config();
    let handle = Arc::new(Mutex::new(None));
    let ordered = handle.clone();
    let task = move |worker: &mut WorkerRef<'_>| {
        let scribe = Scribe::new(&log);
        // Not a name: the protocol refuses it.
        *ordered.lock().unwrap() = Some(worker.connect(unknown, "not a name", &config, scribe));
    };
    scene.client.lane().services().spawn(Box::new(task));
    scene.run(3);
    let handle = handle.lock().unwrap().take().unwrap();
    let ending = handle.close_and_wait(0, Bytes::new(), Duration::MAX);
    assert_eq!(ending, Err(WaitError::Dropped));
    assert_eq!(scene.told_client(), [Told::NotConnected]);
}
