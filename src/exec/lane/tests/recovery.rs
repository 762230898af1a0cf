//! Turns that panic, and code of the application that panics while it is dropped.

use super::forged::{anywhere, meta};
use super::*;
use crate::exec::api::{Acceptor, NewConnection};
use crate::exec::{Drained, WorkerRef};
use crate::proto::connection::TransportConfig;
use crate::proto::health::HealthCheck;
use crate::proto::observer::{Observation, Observer, Observers};
use crate::wire::Dir;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// When the server's connections panic.
#[derive(Clone, Default)]
struct Fault {
    /// The connection of this number, as it gets a packet.
    at_receipt: Arc<Mutex<Option<u64>>>,
    /// The connection of this number, as it sends one.
    at_sending: Arc<Mutex<Option<u64>>>,
}

impl Fault {
    fn server(&self, config: ServerConfig) -> ServerConfig {
        let (fault, made) = (self.clone(), AtomicU64::new(0));
        let observers = Some(Observers::new(move |_| {
            let (fault, me) = (fault.clone(), made.fetch_add(1, Ordering::Relaxed));
            Some(Box::new(move |_, what: &Observation<'_>| {
                let due = match what {
                    Observation::PacketReceived(_) => {
                        fault.at_receipt.lock().unwrap().take_if(|n| *n == me)
                    }
                    Observation::PacketSent(_) => *fault.at_sending.lock().unwrap(),
                    _ => None,
                };
                assert!(due != Some(me), "as the test wants it");
            }) as Box<dyn Observer>)
        }));
        let transport = Arc::new(TransportConfig { observers, ..Default::default() });
        ServerConfig { transport, ..config }
    }
}

/// Something that panics as it is dropped.
#[derive(Clone)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "as the test wants it");
    }
}

fn say(handle: &Handle) {
    let said = handle.open(Dir::Bi, |c, stream| {
        c.streams().send(stream.unwrap(), Bytes::from_static(b"hello"), true).unwrap();
    });
    said.unwrap();
}

/// What these clients say arrives, and the server's turn panics.
fn panic_of_a_turn(scene: &mut Scene, handles: &[Handle]) {
    handles.iter().for_each(say);
    scene.client.turn(scene.now).unwrap();
    let sent = take_sent(&mut scene.client);
    sent.iter().for_each(|datagram| carry(&mut scene.servers[0], datagram));
    let (now, server) = (scene.now, &mut scene.servers[0]);
    assert!(guarded(|| server.turn(now).map(drop)).is_err());
}

/// How many of the client's connections were told that the server failed.
fn told_of_failure(scene: &Scene) -> usize {
    let failed =
        |told: &&Told| matches!(told, Told::Closed(CloseReason::PeerTransport { code: 1, .. }));
    scene.told_client().iter().filter(failed).count()
}

#[test]
fn a_turn_that_panics_as_it_sends_leaves_no_credit_for_handshakes() {
    let fault = Fault::default();
    let mut config = fault.server(server_config());
    config.health = Some(HealthCheck::new(*b"0 alive?", *b"yes").unwrap());
    let mut scene = Scene::with_config(1, LaneLimits::default(), &config);
    let handle = scene.connect(None);
    scene.run(20);
    let server = &mut scene.servers[0];
    let before = server.lane().counters();
    // More answers than all that the connection has sent.
    for n in 0..60 {
        server.datapaths()[0].arrived().put(&meta(anywhere(n)), b"0 alive?");
    }
    *fault.at_sending.lock().unwrap() = Some(0);
    panic_of_a_turn(&mut scene, &[handle]);
    assert_eq!(scene.servers[0].recover(scene.now), 1);
    scene.servers[0].turn(scene.now).unwrap();
    let counters = scene.counters();
    let [answers, sent] =
        [counters.answers - before.answers, counters.tx_datagrams - before.tx_datagrams];
    assert!(answers > 50 && answers == sent, "{counters:?}");
    assert_eq!(counters.connections, 0, "it can say nothing");
}

#[test]
fn a_second_panic_costs_no_other_connection_its_close() {
    for limit in [usize::MAX, 1] {
        let fault = Fault::default();
        let config = fault.server(server_config());
        let mut scene = Scene::with_config(1, LaneLimits::default(), &config);
        let handles: Vec<_> = (0..4).map(|_| scene.connect(None)).collect();
        scene.run(20);
        *fault.at_receipt.lock().unwrap() = Some(1);
        *fault.at_sending.lock().unwrap() = Some(1);
        panic_of_a_turn(&mut scene, &handles);
        scene.servers[0].datapaths()[0].limit_sent(limit);
        assert_eq!(scene.servers[0].recover(scene.now), 4);
        // The one that panics again has left, unless there was no buffer to panic with.
        let left = if limit == 1 { 4 } else { 3 };
        assert_eq!(
            (scene.counters().connections, scene.servers[0].lane().touched.len()),
            (left, left as usize)
        );
        // The next turn panics at once: those that got no buffer have not said it yet.
        take_sent(&mut scene.servers[0]).iter().for_each(|d| carry(&mut scene.client, d));
        scene.servers[0].datapaths()[0].limit_sent(usize::MAX);
        scene.servers[0].recover(scene.now);
        take_sent(&mut scene.servers[0]).iter().for_each(|d| carry(&mut scene.client, d));
        scene.client.turn(scene.now).unwrap();
        assert_eq!(told_of_failure(&scene), 3, "with {limit} buffers");
        // A third one finds nobody who has anything left to say.
        scene.servers[0].recover(scene.now);
        scene.servers[0].recover(scene.now);
        assert_eq!(scene.counters().connections, 0);
    }
}

/// Panics in every way that is left to it at its end.
struct Spiteful(Bomb, Arc<AtomicBool>);

impl Handler for Spiteful {
    fn connected(&mut self, c: &mut ConnectionRef<'_>, _: bool) {
        c.set_timer(Duration::from_secs(1), 1);
    }

    fn drained(&mut self, _: &mut ConnectionRef<'_>, _: Drained) {
        self.1.store(true, Ordering::Relaxed);
        panic!("as the test wants it");
    }
}

#[test]
fn an_application_that_panics_while_a_worker_recovers_leaves_nothing_behind() {
    let fault = Fault::default();
    let drained = Arc::new(AtomicBool::new(false));
    let noted = drained.clone();
    let acceptor: Arc<dyn Acceptor> = Arc::new(move |_: &NewConnection<'_>| {
        Some(Box::new(Spiteful(Bomb, noted.clone())) as Box<dyn Handler>)
    });
    let config = fault.server(server_config());
    let mut scene = Scene::with_acceptor(1, LaneLimits::default(), &config, &acceptor);
    let handles: Vec<_> = (0..2).map(|_| scene.connect(None)).collect();
    scene.run(20);
    *fault.at_receipt.lock().unwrap() = Some(0);
    panic_of_a_turn(&mut scene, &handles);
    let source = scene.servers[0].lane().admission.source(CLIENT.into());
    for _ in 0..3 {
        scene.servers[0].recover(scene.now);
    }
    let lane = scene.servers[0].lane();
    let counters = lane.counters();
    assert_eq!((counters.connections, counters.handshakes, counters.memory_bytes), (0, 0, 0));
    assert_eq!(lane.admission.connections_of(source), 0);
    assert!(drained.load(Ordering::Relaxed) && counters.callback_panics >= 4, "{counters:?}");
    let now = lane.now();
    scene.servers[0].turn(now).unwrap();
    let lane = scene.servers[0].lane();
    assert_eq!(lane.wheel.next_expiry(), Instant::NEVER);
    assert!(lane.touched.is_empty());
}

#[test]
fn what_panics_as_it_is_dropped_is_counted_and_ends_nobody() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let (good, gone) = (scene.connect(None), scene.connect(None));
    scene.run(20);
    let client = &mut scene.client;
    client.lane().services().set_poller(Poller::new().unwrap());
    // A call, and a closure, for a connection that is closed by then.
    gone.close(0, Bytes::new()).unwrap();
    let bomb = Bomb;
    gone.run(move |_| drop(bomb)).unwrap();
    // The watch of the worker that panics, and closures of every turn that are over.
    let (here, _there) = UnixStream::pair().unwrap();
    let mut worker = WorkerRef::new(client.lane().services());
    let bomb = Bomb;
    let watch = worker.watch(&here, Interest::Writable, move |_, _| {
        let _kept = &bomb;
        panic!("as the test wants it");
    });
    watch.unwrap();
    for _ in 0..2 {
        let bomb = Bomb;
        worker.before_turn(move |_| {
            let _kept = &bomb;
            ControlFlow::Break(())
        });
    }
    let after = Arc::new(AtomicU64::new(0));
    let turns = after.clone();
    worker.before_turn(move |_| {
        turns.fetch_add(1, Ordering::Relaxed);
        ControlFlow::Continue(())
    });
    // A connection that cannot begin.
    struct Never(Bomb);
    impl Handler for Never {}
    let nobody = ([0, 0, 0, 0], 0).into();
    let config = client_config();
    client.connect(0, CLIENT.into(), nobody, "not a name", &config, Box::new(Never(Bomb)));
    assert_eq!(client.lane().counters().callback_panics, 1);
    scene.run(5);
    let counters = scene.client.lane().counters();
    // The handler; the call; the watch and its closure; two closures of turns.
    assert_eq!(counters.callback_panics, 6, "{counters:?}");
    assert_eq!(after.load(Ordering::Relaxed), 5, "it is called in every turn");
    assert!(!good.is_closed());
    say(&good);
    scene.run(5);
    assert!(scene.told_client().iter().any(|t| matches!(t, Told::Data(_, _, true))));
}

#[test]
fn an_acceptor_that_panics_as_it_is_dropped_ends_no_connection() {
    struct Gone(Bomb);
    impl Acceptor for Gone {
        fn accept(&self, _: &NewConnection<'_>) -> crate::exec::api::Decision {
            crate::exec::api::Decision::accept(())
        }
    }
    let acceptor: Arc<dyn Acceptor> = Arc::new(Gone(Bomb));
    let mut scene = Scene::with_acceptor(1, LaneLimits::default(), &server_config(), &acceptor);
    drop(acceptor);
    let handle = scene.connect(None);
    scene.run(20);
    scene.servers[0].lane().stop_listening(0);
    assert_eq!(scene.counters().callback_panics, 1);
    scene.run(20);
    assert!(!handle.is_closed() && scene.counters().connections == 1);
}
