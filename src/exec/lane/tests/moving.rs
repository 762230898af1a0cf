//! Connections that go from one worker to another.

use super::*;
use crate::datapath::memory::MemoryDatapath;
use crate::exec::address::Address;
use crate::exec::api::{Acceptor, NewConnection};
use crate::exec::message::Move;
use crate::exec::{Processor, SimulatedWorkers, Worker};
use crate::wire::{Dir, StreamId};
use std::collections::HashMap;
use std::sync::Mutex;

/// What the server's applications have seen, and their handles.
#[derive(Default)]
struct Seen {
    /// Worker and token of each wake-up, timer and closure, in order.
    tokens: Vec<(usize, u64)>,
    /// From which worker to which.
    moves: Vec<(usize, usize)>,
    asked: Vec<Processor>,
    bytes: HashMap<StreamId, Vec<u8>>,
    handle: Option<Handle>,
    closed: usize,
}

type Shared = Arc<Mutex<Seen>>;

/// Echoes, and records what it is called for and where.
struct Mover {
    seen: Shared,
    stays: bool,
}

impl Mover {
    fn token(&self, c: &ConnectionRef<'_>, token: u64) {
        self.seen.lock().unwrap().tokens.push((c.worker(), token));
    }
}

impl Handler for Mover {
    fn connected(&mut self, c: &mut ConnectionRef<'_>, _: bool) {
        self.seen.lock().unwrap().handle = Some(c.handle());
    }

    fn stream_data(
        &mut self,
        c: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        self.seen.lock().unwrap().bytes.entry(stream).or_default().extend(data);
        c.streams().send(stream, Bytes::copy_from_slice(data), fin).unwrap();
        data.len()
    }

    fn ideal_processor_changed(&mut self, _: &mut ConnectionRef<'_>, to: Processor) -> bool {
        self.seen.lock().unwrap().asked.push(to);
        !self.stays
    }

    fn moved(&mut self, c: &mut ConnectionRef<'_>, from: usize) {
        self.seen.lock().unwrap().moves.push((from, c.worker()));
    }

    fn woken(&mut self, c: &mut ConnectionRef<'_>, token: u64) {
        self.token(c, token);
    }

    fn timer(&mut self, c: &mut ConnectionRef<'_>, token: u64) {
        self.token(c, token);
    }

    fn ready(&mut self, c: &mut ConnectionRef<'_>, token: u64, readiness: crate::exec::Readiness) {
        self.token(c, if readiness.readable { token } else { u64::MAX });
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, _: CloseReason) {
        self.seen.lock().unwrap().closed += 1;
    }
}

/// A server of `workers` workers, and what its applications see.
fn scene(workers: usize, limits: LaneLimits, stays: bool) -> (Scene, Shared) {
    let seen = Shared::default();
    let noted = seen.clone();
    let acceptor: Arc<dyn Acceptor> = Arc::new(move |_: &NewConnection<'_>| {
        Some(Box::new(Mover { seen: noted.clone(), stays }) as Box<dyn Handler>)
    });
    (Scene::with_acceptor(workers, limits, &server_config(), &acceptor), seen)
}

/// The client sends `data` on a stream of its own.
fn say(handle: &Handle, data: &'static [u8]) {
    handle
        .open(Dir::Bi, move |c, stream| {
            c.streams().send(stream.unwrap(), Bytes::from_static(data), true).unwrap();
        })
        .unwrap();
}

/// Client and server talk for `ms`, a message each 10 ms.
fn talk(scene: &mut Scene, handle: &Handle, ms: u64) {
    for _ in 0..ms / 10 {
        say(handle, b"0123456789");
        scene.run(10);
    }
}

fn connections(scene: &mut Scene) -> Vec<u64> {
    scene.servers.iter_mut().map(|server| server.lane().counters().connections).collect()
}

fn wrong(scene: &mut Scene) -> u64 {
    scene.servers.iter_mut().map(|server| server.lane().counters().rx_wrong_queue).sum()
}

fn dropped(scene: &mut Scene) -> u64 {
    let dropped = |server: &mut Worker<MemoryDatapath>| {
        let counters = server.lane().counters();
        // A listener is asked about the first datagram of each connection.
        let unknown = counters.rx_unknown - counters.accepted;
        counters.rx_wrong_queue_dropped + counters.rx_unroutable + unknown
    };
    scene.servers.iter_mut().map(dropped).sum()
}

/// A connection of worker 0, whose datagrams arrive at worker 1 from now on.
fn steered(limits: LaneLimits, stays: bool) -> (Scene, Shared, Handle) {
    let (mut scene, seen) = scene(3, limits, stays);
    let handle = scene.connect(None);
    scene.run(20);
    talk(&mut scene, &handle, 100);
    assert_eq!(connections(&mut scene), [1, 0, 0]);
    scene.queue = 1;
    (scene, seen, handle)
}

#[test]
fn a_connection_follows_its_datagrams() {
    let (mut scene, seen, handle) = steered(LaneLimits::default(), false);
    talk(&mut scene, &handle, 300);
    assert_eq!(connections(&mut scene), [0, 1, 0]);
    let before = wrong(&mut scene);
    talk(&mut scene, &handle, 1_000);
    assert_eq!(wrong(&mut scene), before, "nothing is handed over any more");
    assert_eq!(dropped(&mut scene), 0);
    let seen = seen.lock().unwrap();
    assert_eq!((seen.moves.clone(), seen.asked.len()), (vec![(0, 1)], 1));
    assert_eq!(seen.asked[0], Processor { worker: 1, cpu: None });
    assert_eq!(seen.bytes.len(), 10 + 30 + 100);
    assert!(seen.bytes.values().all(|bytes| bytes == b"0123456789"));
    // The former place is free, and nothing leads there.
    let lane = scene.servers[0].lane();
    assert_eq!((lane.counters().moved_out, lane.table.len(), lane.table.reserved()), (1, 0, 0));
    assert!(lane.is_empty() && lane.resets.len() == 0);
    assert_eq!(lane.table.next_key().unwrap().generation, 1);
    let lane = scene.servers[1].lane();
    assert_eq!(lane.counters().moved_in, 1);
    let (key, entry) = lane.table.get_slot(0).unwrap();
    let ids: Vec<_> = entry.connection.local_cids().copied().collect();
    assert_eq!(ids.len(), 2);
    for id in ids {
        let route = lane.codec.decode(id.as_slice()).unwrap();
        assert_eq!(crate::exec::address::Home::of(route).key, key);
        assert_eq!(route.worker, 1);
    }
    assert!(lane.moves.is_at_rest());
}

#[test]
fn a_connection_goes_round_all_workers_and_comes_back() {
    let (mut scene, seen, handle) = steered(LaneLimits::default(), false);
    for round in 0..9 {
        scene.queue = (round + 1) % 3;
        talk(&mut scene, &handle, 1_000);
        assert_eq!(connections(&mut scene)[scene.queue], 1, "round {round}");
    }
    assert_eq!(dropped(&mut scene), 0);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.moves[..4], [(0, 1), (1, 2), (2, 0), (0, 1)]);
    assert!(seen.bytes.values().all(|bytes| bytes == b"0123456789"));
    assert!(scene.servers.iter_mut().all(|server| server.lane().moves.is_at_rest()));
}

#[test]
fn stray_datagrams_move_nothing() {
    // Three in a row that arrive elsewhere are not four; nor are four at two workers.
    for pattern in [&[1, 1, 1, 0][..], &[1, 2], &[1, 1, 1, 2, 2, 2]] {
        let (mut scene, seen, handle) = steered(LaneLimits::default(), false);
        let mut arrived = 0;
        for step in 0..1_500 {
            if step % 5 == 0 {
                say(&handle, b"0123456789");
            }
            arrived += scene.step_by(|n| pattern[(arrived + n) % pattern.len()]);
        }
        assert!(arrived > 300, "{arrived}");
        assert_eq!(connections(&mut scene), [1, 0, 0]);
        assert!(seen.lock().unwrap().asked.is_empty(), "{pattern:?}");
    }
}

#[test]
fn with_a_limit_of_zero_nothing_ever_moves() {
    let limits = LaneLimits { move_after: 0, ..LaneLimits::default() };
    let (mut scene, seen, handle) = steered(limits, false);
    talk(&mut scene, &handle, 1_000);
    assert_eq!(connections(&mut scene), [1, 0, 0]);
    assert!(seen.lock().unwrap().asked.is_empty() && wrong(&mut scene) > 100);
}

#[test]
fn the_application_may_wish_to_stay() {
    let (mut scene, seen, handle) = steered(LaneLimits::default(), true);
    talk(&mut scene, &handle, 1_000);
    assert_eq!(connections(&mut scene), [1, 0, 0]);
    assert_eq!(seen.lock().unwrap().asked.len(), 1, "it is asked once for each worker");
    scene.queue = 2;
    talk(&mut scene, &handle, 500);
    assert_eq!(seen.lock().unwrap().asked.len(), 2);
    assert_eq!(scene.servers[0].lane().counters().moves_vetoed, 2);
    assert_eq!((dropped(&mut scene), seen.lock().unwrap().bytes.len()), (0, 10 + 100 + 50));
}

#[test]
fn a_worker_without_a_place_declines_and_is_asked_again_later() {
    let (mut scene, seen, handle) = steered(few(1, 10), false);
    let other = scene.connect(None);
    scene.run(20);
    assert_eq!(connections(&mut scene), [1, 1, 0]);
    talk(&mut scene, &handle, 2_500);
    assert_eq!(connections(&mut scene), [1, 1, 0]);
    assert_eq!(scene.servers[0].lane().counters().moves_declined, 3, "once a second");
    other.close(0, Bytes::new()).unwrap();
    talk(&mut scene, &handle, 2_000);
    assert_eq!(connections(&mut scene), [0, 1, 0]);
    assert_eq!((dropped(&mut scene), seen.lock().unwrap().moves.clone()), (0, vec![(0, 1)]));
}

/// The client says so little that the server does not move, so that the test can move it.
fn quiet() -> (Scene, Shared, Handle) {
    let limits = LaneLimits { move_after: 1000, ..LaneLimits::default() };
    let (mut scene, seen, handle) = steered(limits, false);
    scene.run(50);
    let server = seen.lock().unwrap().handle.clone().unwrap();
    drop(handle);
    (scene, seen, server)
}

/// Begins the move of the only connection from worker 0 to worker 1.
fn begin_move(scene: &mut Scene) {
    let lane = scene.servers[0].lane();
    let key = lane.table.get_slot(0).unwrap().0;
    lane.moves.push_astray(key, 1);
}

#[test]
fn timers_descriptors_and_closures_travel() {
    let (mut scene, seen, handle) = quiet();
    for server in &mut scene.servers {
        server.lane().services().set_poller(Poller::new().unwrap());
    }
    let (here, there) = UnixStream::pair().unwrap();
    let pair = Arc::new(here);
    let watched = pair.clone();
    handle
        .run(move |c| {
            c.set_timer(Duration::from_millis(40), 1);
            let late = c.set_timer(Duration::from_millis(41), 2);
            let watch = c.watch(&*watched, Interest::Readable, 3).unwrap();
            c.set_timer(Duration::from_secs(600), 4);
            let name = c.handle();
            // What stands in the application's state must mean the same after the move.
            c.set_timer(Duration::from_millis(30), 5);
            c.spawn(move |c| {
                assert_eq!(c.worker(), 0);
                c.spawn(move |c| {
                    assert_eq!(c.worker(), 1, "it travelled");
                    assert!(c.cancel_timer(late));
                    assert!(!c.cancel_timer(late));
                    name.wake(6).unwrap();
                    c.spawn(move |c| {
                        c.set_timer(Duration::from_millis(60), 7);
                        let again = c.watch(&*watched, Interest::Readable, 8);
                        assert!(again.is_err(), "it is watched still");
                        c.unwatch(watch);
                        c.watch(&*watched, Interest::Readable, 9).unwrap();
                    });
                });
            });
        })
        .unwrap();
    // In this turn the closure runs, and spawns the one that travels with the next turn's move.
    scene.step();
    begin_move(&mut scene);
    for _ in 0..2 {
        for number in [0, 1] {
            let now = scene.now;
            let lane = scene.servers[number].lane();
            lane.set_now(now);
            assert!(lane.serve_moves() > 0);
        }
    }
    assert_eq!(connections(&mut scene), [0, 1, 0]);
    assert_eq!(scene.servers[0].lane().services().watched(), 0);
    assert_eq!(scene.servers[0].lane().services().next_timer(), Instant::NEVER);
    std::io::Write::write_all(&mut &there, b"x").unwrap();
    scene.run(20);
    let told: Vec<_> = seen.lock().unwrap().tokens.clone();
    let place = |of: u64| told.iter().position(|(worker, token)| (*worker, *token) == (1, of));
    assert!(place(6).is_some() && place(3) < place(9), "{told:?}");
    assert_eq!(told.last(), Some(&(1, 9)), "the first watch was taken back");
    scene.run(70);
    let told: Vec<_> = seen.lock().unwrap().tokens.clone();
    let timers: Vec<_> = told.iter().filter(|(_, token)| [1, 2, 4, 5, 7].contains(token)).collect();
    assert_eq!(timers, [&(1, 5), &(1, 1), &(1, 7)]);
    // With the connection its timers and watches end.
    handle.close(0, Bytes::new()).unwrap();
    scene.run(3_000);
    let services = scene.servers[1].lane().services();
    assert_eq!((services.watched(), services.next_timer()), (0, Instant::NEVER));
    drop(pair);
}

#[test]
fn a_watch_that_the_new_worker_cannot_keep_is_told_and_counted() {
    let (mut scene, seen, handle) = quiet();
    // Worker 1 has no poller.
    scene.servers[0].lane().services().set_poller(Poller::new().unwrap());
    let (here, _there) = UnixStream::pair().unwrap();
    handle.run(move |c| drop(c.watch(&here, Interest::Readable, 3).map(|_| here))).unwrap();
    scene.step();
    // The descriptor was closed with the closure: the watch is over, and nothing is lost.
    begin_move(&mut scene);
    scene.run(10);
    assert_eq!(scene.servers[1].lane().counters().watches_lost, 0);
    assert!(seen.lock().unwrap().tokens.is_empty());

    let (mut scene, seen, handle) = quiet();
    scene.servers[0].lane().services().set_poller(Poller::new().unwrap());
    let (here, _there) = UnixStream::pair().unwrap();
    let here = Arc::new(here);
    let watched = here.clone();
    handle.run(move |c| drop(c.watch(&*watched, Interest::Readable, 3))).unwrap();
    scene.step();
    begin_move(&mut scene);
    scene.run(10);
    assert_eq!(scene.servers[1].lane().counters().watches_lost, 1);
    assert_eq!(seen.lock().unwrap().tokens, [(1, u64::MAX)], "ready for nothing");
}

/// Serves the moves of the workers in turn, with the calls in their inboxes, without datagrams.
fn serve(scene: &mut Scene, number: usize) {
    let now = scene.now;
    let fleet = scene.servers[number].fleet().clone();
    let lane = scene.servers[number].lane();
    lane.set_now(now);
    lane.serve_moves();
    while lane.takes_commands()
        && let Some(command) = fleet.inbox(number).unwrap().command()
    {
        assert!(lane.command(command).is_none());
    }
}

#[test]
fn calls_are_carried_out_in_their_order_wherever_they_were_posted() {
    let (mut scene, seen, handle) = quiet();
    begin_move(&mut scene);
    handle.wake(0).unwrap();
    serve(&mut scene, 0); // Offers; 0 is carried out.
    handle.wake(1).unwrap();
    serve(&mut scene, 1); // Accepts.
    handle.wake(2).unwrap();
    let fleet = scene.servers[0].fleet().clone();
    let now = scene.now;
    let lane = scene.servers[0].lane();
    lane.set_now(now);
    lane.serve_moves(); // The connection leaves, before 1 and 2 are carried out.
    assert_eq!(handle.worker(), 1);
    handle.wake(3).unwrap();
    handle.wake(4).unwrap();
    serve(&mut scene, 1); // It has arrived; 3 and 4 wait.
    handle.wake(5).unwrap();
    let told = |seen: &Shared| seen.lock().unwrap().tokens.clone();
    assert_eq!(told(&seen), [(0, 0)]);
    serve(&mut scene, 0); // Forwards 1 and 2.
    serve(&mut scene, 1);
    assert_eq!(told(&seen), [(0, 0), (1, 1), (1, 2)]);
    serve(&mut scene, 0); // No more come.
    serve(&mut scene, 1);
    let all: Vec<_> = told(&seen).iter().map(|(_, token)| *token).collect();
    assert_eq!(all, [0, 1, 2, 3, 4, 5]);
    handle.wake(6).unwrap();
    assert_eq!(fleet.inbox(1).unwrap().waiting(), 1, "posted to the new worker");
    scene.run(2);
    assert_eq!(told(&seen).last(), Some(&(1, 6)));
}

/// The address in the handles of worker 0's connection. A post that begins and does not end is a
/// thread that the scheduler has stopped.
fn address(scene: &mut Scene) -> Arc<Address> {
    let (_, entry) = scene.servers[0].lane().table.get_slot(0).unwrap();
    Arc::clone(entry.seat.address.as_ref().unwrap())
}

#[test]
fn a_post_that_is_under_way_during_the_move_is_waited_for() {
    let (mut scene, seen, handle) = quiet();
    let address = address(&mut scene);
    // A thread has read the old place, and is stopped by the scheduler.
    let slow = address.begin_post();
    begin_move(&mut scene);
    for number in [0, 1, 0] {
        serve(&mut scene, number);
    }
    handle.wake(2).unwrap(); // By another thread, or by the same one later.
    for number in [1, 0, 1, 0, 1] {
        serve(&mut scene, number);
    }
    assert!(seen.lock().unwrap().tokens.is_empty(), "it has to wait");
    assert!(scene.servers[0].lane().is_busy(), "the worker looks again");
    let late = crate::exec::message::Command::Connection {
        target: address.clone(),
        op: crate::exec::message::Op::Wake { token: 1 },
    };
    scene.servers[0].fleet().inbox(0).unwrap().post(late).unwrap();
    address.end_post(slow);
    for number in [0, 1, 0, 1] {
        serve(&mut scene, number);
    }
    assert_eq!(seen.lock().unwrap().tokens, [(1, 1), (1, 2)]);
    assert!(!scene.servers[0].lane().moves.is_busy());
}

#[test]
fn a_connection_does_not_move_on_before_its_calls_are_settled() {
    let (mut scene, seen, handle) = quiet();
    let address = address(&mut scene);
    let slow = address.begin_post();
    begin_move(&mut scene);
    scene.run(1_500); // Its old ids are retired and forgotten meanwhile.
    assert_eq!(connections(&mut scene), [0, 1, 0]);
    handle.wake(2).unwrap();
    scene.run(5);
    let again = |scene: &mut Scene| {
        let now = scene.now;
        let lane = scene.servers[1].lane();
        let (key, entry) = lane.table.get_slot(0).unwrap();
        assert!(entry.seat.move_state.as_ref().unwrap().former.is_none());
        lane.set_now(now);
        lane.moves.push_astray(key, 2);
        scene.run(5);
    };
    again(&mut scene);
    assert_eq!(connections(&mut scene), [0, 1, 0], "a call may still come from worker 0");
    address.end_post(slow);
    scene.run(5);
    assert_eq!(seen.lock().unwrap().tokens, [(1, 2)]);
    again(&mut scene);
    assert_eq!(connections(&mut scene), [0, 0, 1]);
    handle.wake(3).unwrap();
    scene.run(5);
    assert_eq!(seen.lock().unwrap().tokens, [(1, 2), (2, 3)]);
    scene.run(1_000);
    assert!(scene.servers.iter_mut().all(|server| server.lane().moves.is_at_rest()));
}

#[test]
fn calls_wait_for_no_worker_that_has_ended() {
    let (mut scene, seen, handle) = quiet();
    let address = address(&mut scene);
    let _never_ends = address.begin_post();
    begin_move(&mut scene);
    for number in [0, 1, 0, 1] {
        serve(&mut scene, number);
    }
    handle.wake(2).unwrap();
    serve(&mut scene, 1);
    assert!(seen.lock().unwrap().tokens.is_empty());
    // Its thread has panicked.
    scene.servers[0].fleet().close(0);
    serve(&mut scene, 1);
    assert_eq!(seen.lock().unwrap().tokens, [(1, 2)]);
    handle.wake(3).unwrap();
    serve(&mut scene, 1);
    assert_eq!(seen.lock().unwrap().tokens, [(1, 2), (1, 3)]);
}

#[test]
fn attack_31_moves_are_no_way_round_the_limit_of_a_source() {
    let limits = LaneLimits { source_connections: 2, ..LaneLimits::default() };
    let (mut scene, _seen, handle) = steered(limits, false);
    let others: Vec<_> = (0..2).map(|_| scene.connect(None)).collect();
    scene.run(20);
    assert_eq!(connections(&mut scene), [1, 2, 0], "its place at worker 1 is full");
    talk(&mut scene, &handle, 1_000);
    assert_eq!(connections(&mut scene), [1, 2, 0]);
    assert!(scene.servers[0].lane().counters().moves_declined > 0);
    others[0].close(0, Bytes::new()).unwrap();
    scene.run(1_000);
    talk(&mut scene, &handle, 200);
    assert_eq!(connections(&mut scene), [0, 2, 0]);
    // Until the former place is free, it counts there as well.
    let source = scene.servers[1].lane().table.get_slot(0).unwrap().1.seat.source.unwrap();
    let admission = &scene.servers[0].lane().admission;
    assert_eq!(admission.connections_of(source), 1);
    scene.run(1_000);
    assert_eq!(scene.servers[0].lane().admission.connections_of(source), 0);
}

#[test]
fn names_of_one_workers_timers_mean_nothing_to_another() {
    let (mut scene, seen, handle) = quiet();
    let kept = Arc::new(Mutex::new(None));
    let keep = kept.clone();
    handle
        .run(move |c| {
            let timer = c.on_worker().set_timer(Duration::from_secs(9), |_| ());
            *keep.lock().unwrap() = Some(timer);
        })
        .unwrap();
    scene.run(2);
    begin_move(&mut scene);
    scene.run(5);
    handle
        .run(move |c| {
            c.set_timer(Duration::from_millis(20), 1);
            let timer = kept.lock().unwrap().take().unwrap();
            assert!(!c.cancel_timer(timer) && !c.on_worker().cancel_timer(timer));
        })
        .unwrap();
    scene.run(50);
    assert_eq!(seen.lock().unwrap().tokens, [(1, 1)]);
}

#[test]
fn a_connection_asks_no_worker_that_has_ended_twice_and_stays_free_to_move() {
    // The question lies in the inbox of a worker that ends, or finds it closed.
    for late in [false, true] {
        let (mut scene, seen, handle) = steered(LaneLimits::default(), false);
        let fleet = scene.servers[0].fleet().clone();
        if late {
            fleet.close(1);
        }
        begin_move(&mut scene);
        serve(&mut scene, 0);
        fleet.close(1);
        // Its flows arrive at the third worker from now on.
        scene.queue = 2;
        talk(&mut scene, &handle, 1_500);
        assert_eq!(connections(&mut scene), [0, 0, 1], "late: {late}");
        assert_eq!(seen.lock().unwrap().moves, [(0, 2)]);
        assert_eq!(scene.servers[0].lane().counters().moves_declined, 1);
    }
}

#[test]
fn a_place_is_kept_for_no_worker_that_has_ended() {
    let (mut scene, _seen, _handle) = quiet();
    begin_move(&mut scene);
    serve(&mut scene, 0);
    scene.servers[0].fleet().close(0);
    serve(&mut scene, 1);
    let lane = scene.servers[1].lane();
    assert_eq!((lane.table.reserved(), lane.is_empty()), (0, true));
}

#[test]
fn a_connection_that_ended_with_its_new_worker_leaves_its_former_place() {
    let (mut scene, _seen, _handle) = quiet();
    let lane = scene.client.lane();
    let (_, entry) = lane.table.get_slot(0).unwrap();
    let stream = entry.connection.streams().open(Dir::Bi).unwrap();
    entry.connection.streams().send(stream, Bytes::from_static(b"late"), true).unwrap();
    touch(&mut lane.touched, &mut entry.seat, scene.now);
    scene.client.turn(scene.now).unwrap();
    let late = take_sent(&mut scene.client);
    begin_move(&mut scene);
    for number in [0, 1, 0, 1] {
        serve(&mut scene, number);
    }
    assert_eq!(connections(&mut scene), [0, 1, 0]);
    let free = |scene: &mut Scene| scene.servers[0].lane().table.next_key().unwrap().slot;
    scene.servers[1].fleet().close(1);
    assert_eq!(free(&mut scene), 1, "its slot is taken");
    for datagram in &late {
        carry(&mut scene.servers[0], datagram);
    }
    let now = scene.now;
    scene.servers[0].turn(now).unwrap();
    assert_eq!(free(&mut scene), 0);
    assert!(scene.servers[0].lane().moves.is_at_rest());
}

#[test]
fn attack_35_a_peer_on_many_ports_has_the_application_asked_ten_times_a_second() {
    let (mut scene, seen, handle) =
        steered(LaneLimits { move_after: 1, ..LaneLimits::default() }, true);
    // Its datagrams arrive at the two other workers in turn.
    let mut arrived = 0;
    for step in 0..1_000 {
        if step % 2 == 0 {
            say(&handle, b"0123456789");
        }
        arrived += scene.step_by(|n| 1 + (arrived + n) % 2);
    }
    assert!(arrived > 400, "{arrived}");
    let asked = seen.lock().unwrap().asked.len();
    assert!((5..=11).contains(&asked), "{asked} times");
}

#[test]
fn who_hands_over_to_a_worker_that_has_ended_keeps_its_buffers() {
    let (mut scene, _seen, handle) = steered(LaneLimits::default(), true);
    scene.servers[0].fleet().close(0);
    for _ in 0..80 {
        say(&handle, b"0123456789");
        scene.client.turn(scene.now).unwrap();
        for datagram in take_sent(&mut scene.client) {
            carry(&mut scene.servers[1], &datagram);
        }
        scene.servers[1].turn(scene.now).unwrap();
    }
    let counters = scene.servers[1].lane().counters();
    assert!(counters.rx_wrong_queue_dropped > 0 && counters.rx_wrong_queue == 0, "{counters:?}");
}

#[test]
fn a_connection_that_ends_on_its_way_leaves_nothing_behind() {
    // After each number of steps of the move, the client closes, or the server does.
    for (steps, by_client) in (0..8).flat_map(|steps| [(steps, true), (steps, false)]) {
        let (mut scene, seen, handle) = quiet();
        begin_move(&mut scene);
        for step in 0..steps {
            serve(&mut scene, step % 2);
            handle.wake(step as u64).unwrap();
        }
        if by_client {
            scene.client.lane().close_all(1);
        } else {
            handle.close(1, Bytes::new()).unwrap();
        }
        scene.run(3_000);
        assert_eq!(seen.lock().unwrap().closed, 1, "{steps} {by_client}");
        assert_eq!(handle.wake(9), Err(HandleError::Closed));
        for server in &mut scene.servers {
            let lane = server.lane();
            assert!(lane.is_empty() && lane.moves.is_at_rest(), "{steps} {by_client}");
            assert_eq!((lane.table.len(), lane.table.reserved()), (0, 0));
            assert_eq!(lane.next_timeout(), Instant::NEVER);
        }
    }
}

#[test]
fn a_worker_that_finishes_takes_none_and_closes_what_has_come() {
    for steps in 0..6 {
        let (mut scene, seen, _handle) = quiet();
        begin_move(&mut scene);
        for step in 0..steps {
            serve(&mut scene, step % 2);
        }
        for server in &mut scene.servers {
            server.lane().close_all(7);
        }
        scene.run(3_000);
        assert_eq!(seen.lock().unwrap().closed, 1, "after {steps} steps");
        assert!(scene.servers.iter_mut().all(|server| server.lane().is_empty()));
    }
}

#[test]
fn a_connection_on_its_way_to_a_worker_that_has_ended_is_gone_for_its_handles() {
    for steps in 1..4 {
        let (mut scene, _seen, handle) = quiet();
        begin_move(&mut scene);
        for step in 0..steps {
            serve(&mut scene, step % 2);
        }
        scene.servers[1].fleet().close(1);
        serve(&mut scene, 0);
        serve(&mut scene, 0);
        // Before the connection has left, it stays.
        let stays = steps == 1;
        assert_eq!(handle.wake(1).is_ok(), stays, "after {steps} steps");
        assert_eq!(scene.servers[0].lane().table.len(), usize::from(stays));
    }
}

#[test]
fn datagrams_follow_a_connection_that_moves_while_they_are_on_their_way() {
    let (mut scene, seen, _handle) = quiet();
    // Datagrams that arrive at worker 2 while the connection goes from 0 to 1.
    scene.queue = 2;
    begin_move(&mut scene);
    serve(&mut scene, 0);
    serve(&mut scene, 1);
    let now = scene.now;
    let lane = scene.client.lane();
    let (_, entry) = lane.table.get_slot(0).unwrap();
    let stream = entry.connection.streams().open(Dir::Bi).unwrap();
    entry.connection.streams().send(stream, Bytes::from_static(b"on its way"), true).unwrap();
    touch(&mut lane.touched, &mut entry.seat, now);
    scene.client.turn(now).unwrap();
    for datagram in take_sent(&mut scene.client) {
        carry(&mut scene.servers[2], &datagram);
    }
    scene.servers[2].turn(now).unwrap(); // To worker 0, whose id it names.
    serve(&mut scene, 0); // The connection leaves.
    scene.servers[0].turn(now).unwrap(); // After it.
    scene.servers[1].turn(now).unwrap();
    assert_eq!(seen.lock().unwrap().bytes.get(&stream).unwrap(), b"on its way");
    assert_eq!(scene.servers[0].lane().counters().rx_passed_on, 1);
    assert_eq!(dropped(&mut scene), 0);
}

#[test]
fn a_peer_that_keeps_its_ids_keeps_its_connection_where_it_is() {
    let (mut scene, seen, handle) = steered(LaneLimits::default(), false);
    for step in 0..2_000 {
        // It moves to worker 1, and not on to worker 2.
        scene.queue = 1 + step / 1_000;
        if step % 10 == 0 {
            say(&handle, b"0123456789");
        }
        if let Some((_, entry)) = scene.servers[1].lane().table.get_slot(0) {
            // As if the peer had not retired an id of before.
            entry.connection.replace_cids();
        }
        scene.step();
    }
    assert_eq!((connections(&mut scene), dropped(&mut scene)), (vec![0, 1, 0], 0));
    assert_eq!(seen.lock().unwrap().moves.len(), 1);
}

#[test]
fn messages_that_find_no_room_are_kept_in_order() {
    let (mut scene, _seen, _handle) = quiet();
    let fleet = scene.servers[0].fleet().clone();
    let key = Key { slot: 999, generation: 0 };
    while fleet.inbox(1).unwrap().tell(Move::Release { key }).is_ok() {}
    begin_move(&mut scene);
    serve(&mut scene, 0);
    let lane = scene.servers[0].lane();
    lane.tell(1, Move::Decline { key });
    lane.tell(2, Move::Decline { key });
    assert!(lane.is_busy() && !lane.takes_commands());
    serve(&mut scene, 0);
    assert!(
        matches!(fleet.inbox(2).unwrap().told(), Some(Move::Decline { .. })),
        "others get theirs"
    );
    while fleet.inbox(1).unwrap().told().is_some() {}
    serve(&mut scene, 0);
    assert!(matches!(fleet.inbox(1).unwrap().told(), Some(Move::Offer { .. })));
    assert!(matches!(fleet.inbox(1).unwrap().told(), Some(Move::Decline { .. })));
    assert!(scene.servers[0].lane().takes_commands());
}

#[test]
fn a_reset_finds_a_connection_that_has_moved() {
    // The client side of a connection that has moved between workers of the client.
    let mut scene = Scene::new(1, LaneLimits::default());
    let workers = SimulatedWorkers::new(2, 2).unwrap();
    let mut other: Worker<MemoryDatapath> = workers.worker(1, scene.now, LaneLimits::default());
    other.add_datapath(crate::exec::testing::wire()).unwrap();
    scene.client = workers.worker(0, scene.now, LaneLimits::default());
    scene.client.add_datapath(crate::exec::testing::wire()).unwrap();
    scene.connect(None);
    scene.run(20);
    let key = scene.client.lane().table.get_slot(0).unwrap().0;
    scene.client.lane().moves.push_astray(key, 1);
    for _ in 0..3 {
        scene.client.turn(scene.now).unwrap();
        other.turn(scene.now).unwrap();
    }
    assert_eq!((scene.client.lane().resets.len(), other.lane().resets.len()), (0, 1));
    assert_eq!(other.lane().counters().connections, 1);
}
