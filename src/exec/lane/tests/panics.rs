//! Callbacks that panic.

use super::*;
use crate::exec::api::{Acceptor, Edge, NewConnection};
use crate::exec::{Readiness, StreamHandler, WorkerRef};
use crate::wire::{Dir, StreamId};
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// The callbacks of a server's connection in which an application may panic.
const CALLBACKS: [&str; 8] = [
    "connected",
    "stream_opened",
    "stream_data",
    "acknowledged",
    "timer",
    "ready",
    "woken",
    "task",
];

/// Echoes, and panics in the callback of this name.
struct Faulty {
    fails_in: &'static str,
    /// Callbacks since it panicked.
    after: Arc<AtomicU64>,
    failed: bool,
    handle: Arc<Mutex<Option<Handle>>>,
    watched: UnixStream,
}

impl Faulty {
    fn called(&mut self, name: &'static str) {
        if self.failed {
            self.after.fetch_add(1, Ordering::Relaxed);
        }
        if name == self.fails_in {
            self.failed = true;
            panic!("as the test wants it");
        }
    }
}

impl Handler for Faulty {
    fn connected(&mut self, c: &mut ConnectionRef<'_>, _: bool) {
        *self.handle.lock().unwrap() = Some(c.handle());
        c.set_timer(Duration::from_millis(1), 1);
        c.watch(&self.watched, Interest::Writable, 2).unwrap();
        let fails = self.fails_in == "task";
        c.spawn(move |_| assert!(!fails, "as the test wants it"));
        c.handle().wake(3).unwrap();
        self.called("connected");
    }

    fn stream_opened(&mut self, _: &mut ConnectionRef<'_>, _: StreamId) {
        self.called("stream_opened");
    }

    fn stream_data(
        &mut self,
        c: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        c.streams().send(stream, Bytes::copy_from_slice(data), fin).unwrap();
        self.called("stream_data");
        data.len()
    }

    fn acknowledged(&mut self, _: &mut ConnectionRef<'_>, _: StreamId, _: u64, _: bool) {
        self.called("acknowledged");
    }

    fn timer(&mut self, _: &mut ConnectionRef<'_>, _: u64) {
        self.called("timer");
    }

    fn ready(&mut self, _: &mut ConnectionRef<'_>, _: u64, _: Readiness) {
        self.called("ready");
    }

    fn woken(&mut self, _: &mut ConnectionRef<'_>, _: u64) {
        self.called("woken");
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, _: CloseReason) {
        self.called("closed");
    }
}

fn say(handle: &Handle) {
    handle
        .open(Dir::Bi, |c, stream| {
            c.streams().send(stream.unwrap(), Bytes::from_static(b"0123456789"), true).unwrap();
        })
        .unwrap();
}

#[test]
fn attack_73_a_panic_in_a_callback_ends_its_connection_and_no_other() {
    for fails_in in CALLBACKS {
        let (after, handle) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None)));
        let (noted, named) = (after.clone(), handle.clone());
        let accepted = AtomicU64::new(0);
        let acceptor: Arc<dyn Acceptor> = Arc::new(move |_: &NewConnection<'_>| {
            let first = accepted.fetch_add(1, Ordering::Relaxed) == 0;
            let faulty = Faulty {
                fails_in: if first { "nowhere" } else { fails_in },
                after: noted.clone(),
                failed: false,
                handle: named.clone(),
                watched: UnixStream::pair().unwrap().0,
            };
            Some(Box::new(faulty) as Box<dyn Handler>)
        });
        let mut scene = Scene::with_acceptor(1, LaneLimits::default(), &server_config(), &acceptor);
        scene.servers[0].lane().services().set_poller(Poller::new().unwrap());
        let good = scene.connect(None);
        scene.run(30);
        let log = scene.client_log.clone();
        log.lock().unwrap().clear();
        let bad = scene.connect(None);
        scene.run(10);
        if !bad.is_closed() {
            say(&bad);
        }
        for _ in 0..5 {
            say(&good);
            scene.run(50);
        }
        // INTERNAL_ERROR, which has no name of the application's.
        let told = log.lock().unwrap().clone();
        let ends: Vec<_> = told.iter().filter(|told| matches!(told, Told::Closed(_))).collect();
        assert_eq!(ends.len(), 1, "{fails_in}: {told:?}");
        assert!(
            matches!(ends[0], Told::Closed(CloseReason::PeerTransport { code: 1, .. })),
            "{fails_in}: {ends:?}"
        );
        let echoes =
            told.iter().filter(|t| matches!(t, Told::Data(_, d, true) if d == b"0123456789"));
        assert!(echoes.count() >= 5, "{fails_in}: the other connection goes on");
        assert_eq!(after.load(Ordering::Relaxed), 0, "{fails_in}: it is told nothing more");
        let server = handle.lock().unwrap().clone().unwrap();
        assert_eq!(server.wake(9), Err(HandleError::Closed), "{fails_in}");
        scene.run(3_000);
        let counters = scene.servers[0].lane().counters();
        assert_eq!((counters.callback_panics, counters.connections), (1, 1), "{fails_in}");
        assert_eq!(
            scene.servers[0].lane().services().watched(),
            1,
            "{fails_in}: that of the good one"
        );
    }
}

#[test]
fn attack_73_an_acceptor_that_panics_turns_its_client_away() {
    let acceptor: Arc<dyn Acceptor> =
        Arc::new(|_: &NewConnection<'_>| panic!("as the test wants it"));
    let mut scene = Scene::with_acceptor(1, LaneLimits::default(), &server_config(), &acceptor);
    scene.connect(None);
    scene.run(50);
    let told = scene.told_client();
    let refused =
        |told: &Told| matches!(told, Told::Closed(CloseReason::PeerTransport { code: 2, .. }));
    assert!(told.last().is_some_and(refused), "{told:?}");
    let counters = scene.servers[0].lane().counters();
    assert_eq!((counters.callback_panics, counters.refused_by_acceptor), (1, 1));
}

#[test]
fn attack_73_closures_of_the_worker_that_panic_are_dropped() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let (here, _there) = UnixStream::pair().unwrap();
    let lane = scene.servers[0].lane();
    lane.services().set_poller(Poller::new().unwrap());
    let mut worker = WorkerRef::new(lane.services());
    worker.spawn(|_| panic!("as the test wants it"));
    worker.set_timer(Duration::from_millis(1), |_| panic!("as the test wants it"));
    worker.watch(&here, Interest::Writable, |_, _| panic!("as the test wants it")).unwrap();
    scene.connect(Some(b"hello"));
    scene.run(30);
    let lane = scene.servers[0].lane();
    assert_eq!((lane.counters().callback_panics, lane.services().watched()), (3, 0));
    assert!(
        scene.told_client().iter().any(|t| matches!(t, Told::Data(_, d, true) if d == b"hello"))
    );
}

/// Panics as it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "as the test wants it");
    }
}

/// A stream's own application, which may give the stream another one.
struct OwnBomb {
    replaced: bool,
    _bomb: Bomb,
}

impl StreamHandler for OwnBomb {
    fn acknowledged(&mut self, c: &mut ConnectionRef<'_>, stream: StreamId, _: u64, _: bool) {
        struct Quiet;
        impl StreamHandler for Quiet {}
        assert!(!self.replaced || c.set_stream_handler(stream, Box::new(Quiet)));
    }
}

#[test]
fn attack_73_a_streams_own_handler_that_panics_as_it_is_dropped_ends_its_connection() {
    for way in ["closed", "replaced", "end"] {
        let mut scene = Scene::new(1, LaneLimits::default());
        let bad = scene.connect(None);
        let other = scene.connect(Some(b"hello"));
        scene.run(10);
        bad.run(move |c| {
            for _ in 0..2 {
                let stream = c.streams().open(Dir::Bi).unwrap();
                let own = OwnBomb { replaced: way == "replaced", _bomb: Bomb };
                assert!(c.set_stream_handler(stream, Box::new(own)));
                let data = Bytes::from_static(b"x");
                c.streams().send(stream, data, way == "closed").unwrap();
            }
        })
        .unwrap();
        scene.run(10);
        if way == "end" {
            assert!(!bad.is_closed());
            bad.close(1, Bytes::new()).unwrap();
            scene.run(10);
        }
        assert!(bad.is_closed() && !other.is_closed(), "{way}");
        scene.run(3_000);
        let counters = scene.client.lane().counters();
        assert_eq!((counters.callback_panics, counters.connections), (2, 1), "{way}");
    }
}

/// An application that panics as it is dropped, and before that if it is woken.
struct Fragile(Bomb);

impl Handler for Fragile {
    fn woken(&mut self, _: &mut ConnectionRef<'_>, _: u64) {
        panic!("as the test wants it");
    }
}

#[test]
fn attack_73_a_handler_that_panics_as_it_is_dropped_harms_no_other_connection() {
    for woken in [false, true] {
        let mut scene = Scene::new(1, LaneLimits::default());
        let bad = scene.connect_with(Box::new(Fragile(Bomb)));
        let other = scene.connect(Some(b"hello"));
        scene.run(10);
        if woken {
            bad.wake(1).unwrap();
        } else {
            bad.close(1, Bytes::new()).unwrap();
        }
        scene.run(3_000);
        let counters = scene.client.lane().counters();
        let panics = 1 + u64::from(woken);
        assert_eq!((counters.callback_panics, counters.connections), (panics, 1), "{woken}");
        assert!(bad.is_closed() && !other.is_closed());
    }
}

#[test]
fn attack_73_closures_that_panic_as_they_are_dropped_are_counted() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let handle = scene.connect(None);
    let other = scene.connect(Some(b"hello"));
    scene.run(10);
    // Posted behind the close: it is never called.
    let (late, watching, turning) = (Bomb, Bomb, Bomb);
    handle.close(1, Bytes::new()).unwrap();
    handle.run(move |_| drop(late)).unwrap();
    scene.run(10);
    assert_eq!(scene.client.lane().counters().callback_panics, 1);
    let (here, _there) = UnixStream::pair().unwrap();
    let lane = scene.client.lane();
    lane.services().set_poller(Poller::new().unwrap());
    let mut worker = WorkerRef::new(lane.services());
    let watch = move |_: &mut WorkerRef<'_>, _| {
        let _bomb = &watching;
        panic!("as the test wants it");
    };
    worker.watch(&here, Interest::Writable, watch).unwrap();
    worker.before_turn(move |_| {
        let _bomb = &turning;
        ControlFlow::Break(())
    });
    scene.run(10);
    scene.client.lane().at_edge(Edge::Before);
    assert_eq!(scene.client.lane().counters().callback_panics, 4);
    assert!(!other.is_closed());
}
