//! Lanes, driven with virtual time through workers without threads.

mod accepting;
mod ends;
mod flood;
mod forged;
mod leaving;
mod moving;
mod overload;
mod panics;
mod places;
mod recovery;
mod streams;
mod tokens;

use super::*;
use crate::datapath::{Checksum, Link, RxMeta};
use crate::ecn::Ecn;
use crate::exec::sys::{Interest, Poller};
use crate::exec::testing::{
    CLIENT, SERVER, Scene, Scribe, Told, carry, client_config, server_config, take_sent,
};
use crate::exec::{
    ClientConfig, ConnectionRef, Handle, HandleError, Handler, IDEAL_SEND_MIN_BYTES,
    NetworkStatistics, ServerConfig,
};
use crate::proto::connection::CloseReason;
use crate::proto::endpoint::RetryPolicy;
use bytes::Bytes;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

fn few(connections: usize, handshakes: usize) -> LaneLimits {
    LaneLimits { connections, handshakes, ..LaneLimits::default() }
}

#[test]
fn a_connection_lives_from_initial_to_removal() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let handle = scene.connect(Some(b"hello"));
    scene.run(20);
    let echoed = |told: &Told| matches!(told, Told::Data(_, data, true) if data == b"hello");
    assert!(scene.told_server().iter().any(echoed), "{:?}", scene.told_server());
    assert!(scene.told_client().iter().any(echoed), "{:?}", scene.told_client());
    assert!(scene.told_client().contains(&Told::Acknowledged(5, true)));
    let counters = scene.servers[0].lane().counters();
    assert_eq!((counters.accepted, counters.connections, counters.handshakes), (1, 1, 0));

    handle.close(7, Bytes::from_static(b"done")).unwrap();
    scene.run(3);
    assert_eq!(scene.told_client().last(), Some(&Told::Closed(CloseReason::Local { code: 7 })));
    let reason = CloseReason::PeerApplication { code: 7, reason: Bytes::from_static(b"done") };
    assert_eq!(scene.told_server().last(), Some(&Told::Closed(reason)));
    assert_eq!(handle.wake(1), Err(HandleError::Closed), "no call follows the end");
    scene.run(3_000);
    assert!(scene.client.lane().is_empty() && scene.servers[0].lane().is_empty());
    assert_eq!(scene.client.lane().next_timeout(), Instant::NEVER, "nothing is left to wait for");
    assert!(scene.servers[0].lane().lingering.is_empty());
    assert_eq!(scene.servers[0].lane().table.initials(), 0);
}

#[test]
fn the_touched_list_holds_a_connection_once_and_is_left_empty() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let handle = scene.connect(None);
    scene.run(20);
    for token in 0..10 {
        handle.wake(token).unwrap();
    }
    let client = &mut scene.client;
    while let Some(command) = client.fleet().clone().inbox(0).unwrap().command() {
        assert!(client.lane().command(command).is_none());
    }
    assert_eq!(client.lane().touched.len(), 1);
    scene.run(30);
    assert!(scene.client.lane().touched.is_empty());
    let woken = |n| Told::Woken(n);
    let told = scene.told_client();
    let tokens: Vec<_> = told.iter().filter(|t| matches!(t, Told::Woken(_))).cloned().collect();
    assert_eq!(tokens, (0..10).map(woken).collect::<Vec<_>>(), "in the order they were posted");
}

#[test]
fn a_full_datapath_delays_and_loses_nothing() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let big: &'static [u8] = &[5; 100_000];
    scene.connect(Some(big));
    // One buffer in a turn.
    scene.client.datapaths()[0].limit_sent(1);
    scene.servers[0].datapaths()[0].limit_sent(1);
    scene.run(2_000);
    let echoed: usize = scene
        .told_client()
        .iter()
        .map(|told| if let Told::Data(_, data, _) = told { data.len() } else { 0 })
        .sum();
    assert_eq!(echoed, big.len());
    assert!(scene.client.lane().counters().tx_blocked > 0);
}

#[test]
fn attack_09_ids_that_clients_choose_are_found_with_their_address_and_forgotten() {
    let mut scene = Scene::new(1, few(10, 2));
    for _ in 0..2 {
        scene.connect(None);
    }
    scene.run(5);
    assert_eq!(scene.servers[0].lane().counters().connections, 2);
    // Done, but remembered for a while, so that a late copy of a client Initial begins no connection.
    assert_eq!(scene.servers[0].lane().table.initials(), 2);
    // A remembered id keeps no client out.
    scene.connect(None);
    scene.run(5);
    let counters = scene.servers[0].lane().counters();
    assert_eq!((counters.connections, counters.refused_full), (3, 0));
    assert_eq!(scene.servers[0].lane().endpoint_stats().retries, 0);
    scene.run(2_000);
    assert_eq!(scene.servers[0].lane().table.initials(), 0);
}

#[test]
fn a_late_copy_of_a_client_initial_makes_no_second_connection() {
    let mut scene = Scene::new(1, LaneLimits::default());
    scene.connect(None);
    scene.client.turn(scene.now).unwrap();
    let initial = scene.first_of_client();
    scene.run(20);
    carry(&mut scene.servers[0], &initial);
    scene.run(5);
    let counters = scene.servers[0].lane().counters();
    assert_eq!((counters.accepted, counters.connections), (1, 1));
}

#[test]
fn a_first_packet_that_arrives_elsewhere_reaches_the_worker_that_has_its_handshake() {
    let mut scene = Scene::new(2, LaneLimits::default());
    scene.connect(None);
    scene.client.turn(scene.now).unwrap();
    let initial = scene.first_of_client();
    scene.step();
    assert_eq!(scene.servers[0].lane().counters().connections, 1);
    // The client's answer is lost, and the NIC steers what it repeats to the other queue.
    take_sent(&mut scene.client);
    scene.queue = 1;
    carry(&mut scene.servers[1], &initial);
    scene.run(500);
    let [first, second] = [0, 1].map(|at| scene.servers[at].lane().counters());
    assert_eq!((first.accepted, first.connections + second.connections), (1, 1));
    assert_eq!((second.accepted, second.rx_wrong_queue > 0), (0, true));
    assert_eq!(first.handshakes_unshared, 0);
    assert!(scene.told_client().contains(&Told::Connected(0)));
    // What is remembered of the handshake goes with its first packets.
    scene.run(2_000);
    assert!(scene.servers[0].fleet().handshakes().is_empty());
    scene.connect(None);
    scene.run(30);
    assert_eq!(scene.servers[1].lane().counters().accepted, 1);
}

#[test]
fn a_late_copy_of_an_initial_whose_connection_is_over_begins_no_other() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let handle = scene.connect(None);
    scene.client.turn(scene.now).unwrap();
    let initial = scene.first_of_client();
    scene.run(20);
    handle.close(7, Bytes::new()).unwrap();
    scene.run(300);
    let lane = scene.servers[0].lane();
    assert!(lane.is_empty() && lane.table.initials() == 1, "over, and its id is remembered");
    carry(&mut scene.servers[0], &initial);
    scene.run(5);
    let counters = scene.servers[0].lane().counters();
    assert_eq!((counters.accepted, counters.connections, counters.rx_late_initials), (1, 0, 1));
    scene.run(500);
    assert_eq!(scene.servers[0].lane().table.initials(), 0, "and is forgotten in its time");
}

#[test]
fn a_client_initial_that_is_not_authentic_never_reaches_the_application() {
    let mut scene = Scene::new(1, LaneLimits::default());
    scene.connect(None);
    scene.client.turn(scene.now).unwrap();
    let mut initial = take_sent(&mut scene.client).remove(0);
    let last = initial.payload().len() - 1;
    initial.payload_mut()[last] ^= 1;
    initial.payload_mut()[last / 2] ^= 1;
    carry(&mut scene.servers[0], &initial);
    scene.servers[0].turn(scene.now).unwrap();
    let counters = scene.servers[0].lane().counters();
    assert_eq!((counters.refused_broken, counters.connections), (1, 0));
    let endpoint = scene.servers[0].lane().endpoint_stats();
    assert_eq!((endpoint.forged, endpoint.accepted), (1, 0), "no session was built for it");
    assert!(scene.told_server().is_empty());
}

#[test]
fn retry_is_answered_without_a_place_in_the_table() {
    let config = ServerConfig { retry: RetryPolicy::Always, ..server_config() };
    let mut scene = Scene::with_config(1, LaneLimits::default(), &config);
    scene.connect(Some(b"after retry"));
    scene.step();
    let counters = scene.servers[0].lane().counters();
    assert_eq!((counters.answers, counters.connections), (1, 0));
    scene.run(30);
    assert!(scene.told_client().iter().any(|t| matches!(t, Told::Data(..))));
    assert_eq!(scene.servers[0].lane().endpoint_stats().retries, 1);
}

/// A client Initial with a token was once dropped unseen while answers waited.
#[test]
fn answers_that_wait_do_not_stand_in_the_way_of_a_client_with_a_token() {
    let config = ServerConfig { retry: RetryPolicy::Always, ..server_config() };
    let mut scene = Scene::with_config(1, LaneLimits::default(), &config);
    scene.connect(None);
    scene.step(); // The Retry has arrived.
    scene.client.turn(scene.now).unwrap();
    let mut initial = take_sent(&mut scene.client).remove(0);
    let meta = initial.meta.crossed();
    let lane = scene.servers[0].lane();
    let gone = lane.new_cid(Key { slot: 9, generation: 9 });
    for _ in 0..1_000 {
        let mut datagram = [0x40; 100];
        datagram[1..=gone.len()].copy_from_slice(gone.as_slice());
        lane.receive(0, &meta, &mut datagram);
    }
    assert!(lane.counters().answers_dropped > 0, "more wait than may: {:?}", lane.counters());
    assert_eq!(lane.receive(0, &meta, initial.payload_mut()), Routed::Here);
    assert_eq!(lane.counters().connections, 1);
}

#[test]
fn what_a_listener_has_counted_outlives_it() {
    let config = ServerConfig { retry: RetryPolicy::Always, ..server_config() };
    let mut scene = Scene::with_config(1, LaneLimits::default(), &config);
    scene.connect(None);
    scene.run(30);
    let lane = scene.servers[0].lane();
    let before = lane.endpoint_stats();
    lane.stop_listening(0);
    assert_eq!((before.retries, lane.endpoint_stats()), (1, before));
    assert_eq!(scene.servers[0].snapshot().endpoint, before);
}

#[test]
fn a_client_that_returns_with_a_token_needs_no_retry() {
    let config = ServerConfig { retry: RetryPolicy::Always, ..server_config() };
    let mut scene = Scene::with_config(1, LaneLimits::default(), &config);
    scene.connect(None);
    scene.run(30);
    let told = scene.told_client();
    let tokens: Vec<_> = told.iter().filter(|told| matches!(told, Told::Token(_))).collect();
    let [Told::Token(token)] = tokens[..] else { panic!("{told:?}") };
    let config = ClientConfig { token: token.clone(), ..client_config() };
    let retries = |scene: &mut Scene| scene.servers[0].lane().endpoint_stats().retries;
    assert_eq!(retries(&mut scene), 1);
    for expected in [1, 2] {
        // A token works once.
        let handler = Box::new(Scribe::new(&scene.client_log));
        scene.connect_as(&config, handler);
        scene.run(30);
        assert_eq!(retries(&mut scene), expected);
    }
    assert_eq!(scene.servers[0].lane().counters().connections, 3);
}

#[test]
fn a_datagram_without_an_owner_is_counted_and_dropped() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let path = crate::datapath::Path {
        local: ([192, 0, 2, 1], 5555).into(),
        remote: CLIENT.into(),
        link: Link::UNKNOWN,
    };
    let meta = RxMeta { path, ecn: Ecn::NotEct, checksum: Checksum::Verified };
    let lane = scene.servers[0].lane();
    assert_eq!(
        lane.receive(0, &meta, &mut [0x40; 100]),
        Routed::Dropped,
        "a port without a listener"
    );
    assert_eq!(lane.receive(0, &meta, &mut [0x40; 3]), Routed::Dropped, "too short for an id");
    assert_eq!(lane.receive(0, &meta, &mut []), Routed::Dropped);
    assert_eq!(lane.counters().rx_unroutable, 3);
    let path = crate::datapath::Path { local: SERVER.into(), ..path };
    let meta = RxMeta { path, ..meta };
    // A short header to an id that no host issued.
    assert_eq!(lane.receive(0, &meta, &mut [0x40; 100]), Routed::Dropped);
    assert_eq!((lane.counters().rx_unknown, lane.endpoint_stats().resets), (1, 0));
    // To one of ours, of a connection that is gone: a stateless reset goes back.
    let mut datagram = [0x40; 100];
    let id = lane.new_cid(Key { slot: 9, generation: 9 });
    datagram[1..1 + id.len()].copy_from_slice(id.as_slice());
    assert_eq!(lane.receive(0, &meta, &mut datagram), Routed::Here);
    assert_eq!((lane.counters().rx_unknown, lane.endpoint_stats().resets), (2, 1));
    assert!(lane.is_busy());
}

#[test]
fn more_ids_are_issued_than_the_first_and_lead_to_the_same_connection() {
    let mut scene = Scene::new(1, LaneLimits::default());
    scene.connect(None);
    scene.run(20);
    let lane = scene.servers[0].lane();
    let (key, entry) = lane.table.get_slot(0).unwrap();
    let ids: Vec<ConnectionId> = entry.connection.local_cids().copied().collect();
    assert!(ids.len() >= 2, "{ids:?}");
    for id in ids {
        let route = lane.codec.decode(id.as_slice()).unwrap();
        assert_eq!((route.slot, route.generation), (key.slot, key.generation));
    }
}

#[test]
fn a_datagram_of_another_worker_is_handed_over() {
    let mut scene = Scene::new(2, LaneLimits::default());
    let first = scene.connect(Some(b"before"));
    scene.run(20);
    assert_eq!(scene.servers[0].lane().counters().connections, 1);
    // The NIC steers the flow to the other queue from now on.
    scene.queue = 1;
    scene.connect(None); // A second connection, which belongs to worker 1.
    scene.run(20);
    assert_eq!(scene.servers[1].lane().counters().connections, 1);
    assert_eq!(scene.told_server().iter().filter(|t| **t == Told::Connected(1)).count(), 1);
    let before = scene.told_server().len();
    first
        .open(crate::wire::Dir::Bi, |c, stream| {
            c.streams().send(stream.unwrap(), Bytes::from_static(b"after"), true).unwrap();
        })
        .unwrap();
    scene.run(20);
    let told = &scene.told_server()[before..];
    assert!(told.iter().any(|t| matches!(t, Told::Data(_, d, true) if d == b"after")), "{told:?}");
    let wrong = scene.servers[1].lane().counters();
    assert!(wrong.rx_wrong_queue >= 1);
    assert_eq!(wrong.rx_wrong_queue_dropped, 0);
    assert_eq!(scene.servers[0].lane().counters().rx_handed_over, wrong.rx_wrong_queue);
}

#[test]
fn timers_and_closures_of_a_connection_run_while_it_lives() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let handle = scene.connect(None);
    scene.run(20);
    handle
        .run(|c| {
            c.set_timer(Duration::from_millis(5), 1);
            let late = c.set_timer(Duration::from_millis(5), 2);
            assert!(c.cancel_timer(late));
            c.set_timer(Duration::from_secs(600), 3);
            c.spawn(|c| {
                c.set_timer(Duration::from_millis(1), 4);
            });
        })
        .unwrap();
    scene.run(10);
    let told = scene.told_client();
    assert!(told.ends_with(&[Told::Timer(4), Told::Timer(1)]), "{told:?}");
    handle.run(|c| c.close(0, Bytes::new())).unwrap();
    scene.run(3_000);
    let counted = scene.client.lane().counters();
    assert_eq!((counted.connections, counted.jobs), (0, 3), "timer 3 never came due");
}

#[test]
fn nothing_is_told_after_the_end() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let handle = scene.connect(None);
    scene.run(20);
    handle
        .run(|c| {
            c.set_timer(Duration::from_millis(3), 1);
            c.close(0, Bytes::new());
            c.spawn(|_| panic!("the connection is over"));
        })
        .unwrap();
    scene.run(10);
    let told = scene.told_client();
    assert_eq!(told.last(), Some(&Told::Closed(CloseReason::Local { code: 0 })), "{told:?}");
    assert!(!scene.client.lane().is_empty(), "it is drained later, and silently");
}

/// Uses a handle of the connection whose end it is told.
struct AsksAtTheEnd {
    handle: Arc<OnceLock<Handle>>,
    heard: Arc<OnceLock<Result<(), HandleError>>>,
}

impl Handler for AsksAtTheEnd {
    fn closed(&mut self, _: &mut ConnectionRef<'_>, _: CloseReason) {
        self.heard.set(self.handle.get().unwrap().wake(1)).unwrap();
    }
}

#[test]
fn who_is_told_of_the_end_finds_the_handles_closed() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let (known, heard) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::new()));
    let handler = AsksAtTheEnd { handle: Arc::clone(&known), heard: Arc::clone(&heard) };
    let handle = scene.connect_with(Box::new(handler));
    scene.run(20);
    known.set(handle.clone()).ok().unwrap();
    handle.close(0, Bytes::new()).unwrap();
    scene.run(3);
    assert_eq!(heard.get(), Some(&Err(HandleError::Closed)));
}

/// Has descriptors of its own, on which nothing ever happens.
struct Watches([(UnixStream, UnixStream); 2]);

impl Handler for Watches {
    fn connected(&mut self, c: &mut ConnectionRef<'_>, _: bool) {
        for (here, _there) in &self.0 {
            c.watch(here, Interest::Readable, 1).unwrap();
        }
    }
}

#[test]
fn descriptors_that_die_with_their_connection_are_forgotten() {
    let mut scene = Scene::new(1, LaneLimits::default());
    scene.client.lane().services().set_poller(Poller::new().unwrap());
    let handles = [(); 2].map(|()| {
        let pairs = [(); 2].map(|()| UnixStream::pair().unwrap());
        scene.connect_with(Box::new(Watches(pairs)))
    });
    scene.run(20);
    assert_eq!(scene.client.lane().services().watched(), 4);
    handles[0].close(0, Bytes::new()).unwrap();
    scene.run(3);
    assert_eq!(scene.client.lane().services().watched(), 2, "those of the other one stay");
    handles[1].close(0, Bytes::new()).unwrap();
    scene.run(3_000);
    assert!(scene.client.lane().is_empty());
    assert_eq!(scene.client.lane().services().watched(), 0);
}

#[test]
fn an_idle_connection_gives_memory_back_and_goes_on() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let big: &'static [u8] = &[9; 300_000];
    let handle = scene.connect(Some(big));
    scene.run(300);
    let bytes = |scene: &mut Scene| {
        scene.servers[0].lane().table.get_slot(0).unwrap().1.connection.memory_bytes()
    };
    let busy = bytes(&mut scene);
    scene.run(2_000);
    let idle = bytes(&mut scene);
    assert!(idle < busy, "{idle} of {busy} bytes are kept");
    assert!(scene.servers[0].lane().table.get_slot(0).unwrap().1.seat.shrunk);
    handle
        .open(crate::wire::Dir::Bi, |c, stream| {
            c.streams().send(stream.unwrap(), Bytes::from_static(b"again"), true).unwrap();
        })
        .unwrap();
    scene.run(20);
    assert!(
        scene.told_client().iter().any(|t| matches!(t, Told::Data(_, d, true) if d == b"again"))
    );
}

/// RFC 9000 §9.5: an endpoint MUST NOT reuse a connection ID when sending from more than one local
/// address.
#[test]
fn a_client_keeps_to_the_address_that_the_kernel_chose_for_it() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let any = ([0, 0, 0, 0], CLIENT.1).into();
    let handler = Box::new(Scribe::new(&scene.client_log));
    let handle =
        scene.client.connect(0, any, SERVER.into(), "localhost", &client_config(), handler);
    scene.client.turn(scene.now).unwrap();
    assert_eq!(scene.first_of_client().meta.path.local, any, "the kernel is to choose");
    scene.run(20);
    handle.close(0, Bytes::new()).unwrap();
    scene.client.turn(scene.now).unwrap();
    assert_eq!(scene.first_of_client().meta.path.local, CLIENT.into());
}

#[test]
fn a_refused_call_is_told_to_the_handler() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let handle = scene.connect(None);
    scene.run(20);
    handle.send(crate::wire::StreamId::from_raw(400), Bytes::from_static(b"x"), false).unwrap();
    scene.run(2);
    assert_eq!(scene.told_client().last(), Some(&Told::Refused));
}

/// Notes what it is told of the network.
#[derive(Default)]
struct Watcher {
    told: Arc<std::sync::Mutex<(u64, u64)>>,
}

impl Handler for Watcher {
    fn connected(&mut self, c: &mut ConnectionRef<'_>, _: bool) {
        c.tell_network_statistics(Some(Duration::ZERO));
        let stream = c.streams().open(crate::wire::Dir::Bi).unwrap();
        c.streams().send(stream, vec![0; 2 << 20].into(), true).unwrap();
    }

    fn network_statistics(&mut self, c: &mut ConnectionRef<'_>, statistics: &NetworkStatistics) {
        assert_eq!(*statistics, c.network_statistics());
        self.told.lock().unwrap().0 += 1;
    }

    fn ideal_send_buffer_changed(&mut self, c: &mut ConnectionRef<'_>, bytes: u64) {
        assert!(bytes >= c.network_statistics().bytes_in_flight);
        self.told.lock().unwrap().1 = bytes;
    }
}

#[test]
fn the_application_is_told_of_the_network() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let watcher = Watcher::default();
    let told = watcher.told.clone();
    scene.connect_with(Box::new(watcher));
    scene.run(200);
    let (reports, ideal) = *told.lock().unwrap();
    assert!(reports > 10 && ideal > IDEAL_SEND_MIN_BYTES, "{reports} reports, {ideal} bytes");
}

#[test]
fn a_callback_may_begin_a_connection_of_its_own() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let handle = scene.connect(None);
    scene.run(20);
    let second = Scribe::new(&scene.client_log);
    handle
        .run(|c| {
            let config = client_config();
            let handle = c.on_worker().connect(SERVER.into(), "localhost", &config, second);
            handle.wake(3).unwrap(); // Posted before it exists, and carried out after.
        })
        .unwrap();
    scene.run(20);
    let told = scene.told_client();
    assert_eq!(told.iter().filter(|told| **told == Told::Connected(0)).count(), 2, "{told:?}");
    assert!(told.contains(&Told::Woken(3)));
}

#[test]
fn a_connection_that_cannot_be_begun_is_told_too() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let log = scene.client_log.clone();
    let name = "not a name";
    let handle = scene.client.connect(
        0,
        CLIENT.into(),
        SERVER.into(),
        name,
        &client_config(),
        Box::new(Scribe::new(&log)),
    );
    assert_eq!(scene.told_client(), [Told::NotConnected]);
    assert!(handle.is_closed());
    assert_eq!(scene.client.lane().counters().connect_failed, 1);
}

#[test]
fn close_all_sends_a_close_to_every_peer() {
    let mut scene = Scene::new(1, LaneLimits::default());
    for _ in 0..3 {
        scene.connect(None);
    }
    scene.run(20);
    scene.servers[0].lane().close_all(9);
    scene.run(5);
    let closed =
        |told: &&Told| matches!(told, Told::Closed(CloseReason::PeerApplication { code: 9, .. }));
    assert_eq!(scene.told_client().iter().filter(closed).count(), 3);
}

/// A datagram from the other end, whose checksum is wrong if `wrong`.
fn from(remote: ([u8; 4], u16), local: ([u8; 4], u16), wrong: bool) -> RxMeta {
    let path =
        crate::datapath::Path { local: local.into(), remote: remote.into(), link: Link::UNKNOWN };
    let checksum = if wrong { Checksum::Unverified([1, 2]) } else { Checksum::Verified };
    RxMeta { path, ecn: Ecn::NotEct, checksum }
}

#[test]
fn attack_46_a_wrong_checksum_matters_where_no_aead_guards() {
    let config = ServerConfig { retry: RetryPolicy::Always, ..server_config() };
    let mut scene = Scene::with_config(1, LaneLimits::default(), &config);
    scene.connect(None);
    scene.client.turn(scene.now).unwrap();
    let initial = take_sent(&mut scene.client).remove(0).payload().to_vec();
    let lane = scene.servers[0].lane();
    let mut ask = |wrong: bool, datagram: &[u8]| {
        let routed = lane.receive(0, &from(CLIENT, SERVER, wrong), &mut datagram.to_vec());
        let stats = lane.endpoint_stats();
        (routed, stats.retries + stats.version_negotiations + stats.resets, stats.damaged)
    };
    // A client Initial whose AEAD opens is what was sent; one that does not is not answered.
    assert_eq!(ask(true, &initial), (Routed::Here, 1, 0));
    let mut damaged = initial.clone();
    damaged[700] ^= 1;
    assert_eq!(ask(true, &damaged), (Routed::Dropped, 1, 0));
    assert_eq!(ask(false, &damaged), (Routed::Here, 2, 0), "a Retry is cheaper than to open it");
    let mut unknown = initial.clone();
    unknown[1..5].fill(0x1a);
    assert_eq!(ask(true, &unknown), (Routed::Dropped, 2, 1));
    assert_eq!(ask(false, &unknown), (Routed::Here, 3, 1));
}

#[test]
fn attack_46_version_negotiation_is_believed_only_if_its_checksum_holds() {
    let mut scene = Scene::new(1, LaneLimits::default());
    scene.connect(None);
    scene.client.turn(scene.now).unwrap();
    let initial = take_sent(&mut scene.client).remove(0).payload().to_vec();
    let (dcid, scid) = crate::wire::packet::long_ids(&initial, 0).unwrap();
    let mut answer = [0; 64];
    let mut w = crate::wire::Writer::new(&mut answer);
    crate::wire::packet::write_version_negotiation(&mut w, scid, dcid, &[0x1a1a_1a1a], 1).unwrap();
    let len = w.position();
    let lane = scene.client.lane();
    let answer = &mut answer[..len];
    assert_eq!(lane.receive(0, &from(SERVER, CLIENT, true), answer), Routed::Dropped);
    assert_eq!(lane.counters().rx_damaged, 1);
    assert_eq!(lane.receive(0, &from(SERVER, CLIENT, false), answer), Routed::Here);
    scene.run(2);
    let told = scene.told_client();
    assert!(matches!(told[..], [Told::Closed(_), Told::Drained(_)]), "{told:?}");
}
