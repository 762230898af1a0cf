//! When a worker that has nothing to do sleeps, in virtual time: turns and sleeps are counted.

use super::super::api::{HandleError, WorkerRef};
use super::super::config::LaneLimits;
use super::super::message::Command;
use super::super::simulated::SimulatedWorkers;
use super::super::sys::Poller;
use super::super::testing::{client_config, wire};
use super::*;
use crate::datapath::memory::MemoryDatapath;
use crate::datapath::{Checksum, Link, Path, RxMeta};
use crate::ecn::Ecn;
use crate::exec::sys::Interest;
use std::cell::Cell;
use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

const SPIN_US: u64 = 50;

fn at(us: u64) -> Instant {
    Instant::from_nanos(us * MICROSECOND_NS)
}

fn worker(polling: Polling) -> Worker<MemoryDatapath> {
    let workers = SimulatedWorkers::new(1, 7).unwrap();
    let mut worker = workers.worker(0, at(0), LaneLimits::default()).into_inner();
    worker.polling = polling;
    worker.add_datapath(wire()).unwrap();
    worker
}

/// A turn, and what follows it. True if the worker slept; nothing wakes it but the next call.
fn sleeps(worker: &mut Worker<MemoryDatapath>, us: u64) -> bool {
    let before = worker.counters.sleeps;
    let turn = worker.turn(at(us)).unwrap();
    assert_eq!(turn.next, Instant::NEVER, "nothing is due on an idle worker");
    worker.wait(at(us), turn, Instant::NEVER);
    worker.counters.sleeps > before
}

/// A datagram of no connection.
fn disturb(worker: &mut Worker<MemoryDatapath>) {
    let address = SocketAddr::from(([192, 0, 2, 1], 1));
    let path = Path { local: address, remote: address, link: Link::UNKNOWN };
    let meta = RxMeta { path, ecn: Ecn::NotEct, checksum: Checksum::Verified };
    worker.datapaths()[0].arrived().put(&meta, &[0; 9]);
}

#[test]
fn an_idle_worker_looks_again_for_a_while_and_then_costs_a_turn_for_each_wake() {
    let mut worker = worker(Polling::Adaptive { spin: Duration::from_micros(SPIN_US) });
    assert!(!sleeps(&mut worker, 0) && !sleeps(&mut worker, SPIN_US - 1));
    assert!(sleeps(&mut worker, SPIN_US));
    // Woken for nothing, it sleeps after that one turn: only work begins a new time of looking.
    for wake in 1..100 {
        assert!(sleeps(&mut worker, wake * 1_000_000));
    }
    assert_eq!((worker.counters.turns, worker.counters.sleeps), (102, 100));
    assert_eq!(worker.counters.idle_turns, worker.counters.turns);
    disturb(&mut worker);
    assert!(!sleeps(&mut worker, 200_000_000));
    assert!(!sleeps(&mut worker, 200_000_000 + SPIN_US - 1));
    assert!(sleeps(&mut worker, 200_000_000 + SPIN_US));
}

#[test]
fn a_worker_that_sleeps_at_once_does_so_unless_there_was_work() {
    let mut worker = worker(Polling::Sleep);
    assert!(sleeps(&mut worker, 0));
    disturb(&mut worker);
    assert!(!sleeps(&mut worker, 1) && sleeps(&mut worker, 1));
}

#[test]
fn a_worker_does_not_sleep_on_what_has_arrived_since_its_turn() {
    let mut worker = worker(Polling::Sleep);
    let turn = worker.turn(at(0)).unwrap();
    disturb(&mut worker);
    worker.wait(at(0), turn, Instant::NEVER);
    assert_eq!(worker.counters.sleeps, 0);
}

/// A turn, and whether an application with a loop of its own may wait after it.
fn arms(worker: &mut Worker<MemoryDatapath>, us: u64) -> bool {
    let turn = worker.turn(at(us)).unwrap();
    worker.arm(at(us), turn.work, turn.next)
}

/// A worker whose application waits for its descriptor.
fn worker_with_poller() -> Worker<MemoryDatapath> {
    let mut worker = worker(Polling::Sleep);
    worker.lane().services().set_poller(Poller::new().unwrap());
    worker.watch_own().unwrap();
    worker
}

/// True if the worker's descriptor is readable, for whoever waits on it from outside.
fn is_readable(outer: &mut Poller) -> bool {
    outer.wait(0, |_, _| ()).unwrap() > 0
}

fn outer(worker: &mut Worker<MemoryDatapath>) -> Poller {
    let outer = Poller::new().unwrap();
    let inner = worker.lane().services().poller().unwrap().descriptor();
    outer.add(inner.as_raw_fd(), Interest::Readable, 0).unwrap();
    outer
}

/// A call that does nothing.
fn post(worker: &Worker<MemoryDatapath>) {
    worker.fleet().inbox(0).unwrap().post(Command::Worker(Box::new(|_| ()))).unwrap();
}

#[test]
fn who_waits_on_the_descriptor_of_an_armed_worker_is_woken_by_a_call() {
    let mut worker = worker_with_poller();
    let mut outer = outer(&mut worker);
    assert!(arms(&mut worker, 0) && !is_readable(&mut outer));
    assert_eq!(worker.counters.sleeps, 1);
    post(&worker);
    post(&worker);
    assert!(is_readable(&mut outer));
    worker.awake();
    assert!(!is_readable(&mut outer), "a turn finds what is in the inbox by itself");
    assert!(!arms(&mut worker, 1), "there was work");
    assert!(arms(&mut worker, 2));
    worker.awake();
    assert_eq!((worker.counters.turns, worker.counters.sleeps), (3, 2));
}

/// The lost wake-up: what comes between the turn and the wait must not wait for the next timer.
#[test]
fn what_comes_before_the_worker_is_armed_keeps_it_from_waiting() {
    let mut worker = worker_with_poller();
    for us in 0..10 {
        let turn = worker.turn(at(us)).unwrap();
        // A worker that is awake is not signalled.
        post(&worker);
        assert!(!worker.arm(at(us), turn.work, turn.next));
        assert!(worker.fleet().inbox(0).unwrap().waiting() == 1);
        worker.turn(at(us)).unwrap();
        disturb(&mut worker);
        assert!(!worker.arm(at(us), 0, Instant::NEVER), "a datagram");
        worker.turn(at(us)).unwrap();
        assert!(!worker.arm(at(us), 0, at(us)), "a timer");
        assert!(arms(&mut worker, us));
        worker.awake();
    }
}

/// A sender that is slow signals after the sleep that it meant to end.
#[test]
fn a_late_signal_costs_one_turn() {
    let mut worker = worker_with_poller();
    worker.fleet().inbox(0).unwrap().wakeup.signal();
    assert!(!arms(&mut worker, 0) && arms(&mut worker, 1));
    worker.awake();
    worker.fleet().inbox(0).unwrap().wakeup.signal();
    // A thread that sleeps by itself returns at once, and finds nothing the next time.
    assert!(sleeps(&mut worker, 2));
    assert!(!is_readable(&mut outer(&mut worker)));
}

/// A watched descriptor, its far end, and how often its closure was called.
fn watched(worker: &mut Worker<MemoryDatapath>, us: u64) -> (UnixStream, Rc<Cell<u32>>) {
    let (near, far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let calls = Rc::new(Cell::new(0));
    let counted = calls.clone();
    let services = worker.lane().services();
    services.spawn(Box::new(move |worker| {
        let fd = near.as_fd().try_clone_to_owned().unwrap();
        let drain = move |_: &mut WorkerRef<'_>, _: Readiness| {
            counted.set(counted.get() + 1);
            (&near).read_exact(&mut [0]).unwrap();
        };
        // The duplicate is what is watched: it is to stay open.
        worker.watch(&fd, Interest::Readable, drain).unwrap();
        std::mem::forget(fd);
    }));
    worker.turn(at(us)).unwrap();
    (far, calls)
}

#[test]
fn a_descriptor_that_wakes_a_worker_is_served_in_its_first_turn() {
    let mut worker = worker_with_poller();
    let (mut far, calls) = watched(&mut worker, 0);
    let mut outer = outer(&mut worker);
    for wake in 1..=20_u32 {
        // A thread that sleeps by itself, and an application that waits, take turns. Little time goes
        // by between wake-ups: less than a worker that does not sleep would let pass.
        let us = u64::from(wake);
        far.write_all(b"x").unwrap();
        if wake % 2 == 0 {
            worker.wait(at(us), Turn { work: 0, next: Instant::NEVER }, Instant::NEVER);
        } else {
            assert!(is_readable(&mut outer));
            assert!(!worker.arm(at(us), 0, Instant::NEVER), "it is served and not waited for");
        }
        assert_eq!(worker.turn(at(us)).unwrap().work, 1);
        assert_eq!(calls.get(), wake);
    }
}

#[test]
fn a_descriptor_is_served_within_50_us_by_a_worker_that_spins() {
    let mut worker = worker_with_poller();
    worker.polling = Polling::Spin;
    let (mut far, calls) = watched(&mut worker, 0);
    let mut us = 1_000;
    for round in 0..100_u64 {
        far.write_all(b"x").unwrap();
        let ready_at = us;
        while calls.get() == round as u32 {
            // A packet in some turns: a busy worker does not let descriptors wait either.
            if us % 3 == 0 {
                disturb(&mut worker);
            }
            let turn = worker.turn(at(us)).unwrap();
            worker.wait(at(us), turn, Instant::NEVER);
            us += 1;
        }
        let served_at = us - 1;
        assert!(served_at - ready_at <= 50, "round {round}: {} us", served_at - ready_at);
        us += round % 70;
    }
    assert_eq!(worker.counters.sleeps, 0);
    // A look is a system call: none in most turns.
    let (mut looks, mut last) = (0, worker.looked_at);
    for us in us..us + 1_000 {
        worker.turn(at(us)).unwrap();
        looks += u32::from(worker.looked_at != last);
        last = worker.looked_at;
    }
    assert!((19..=21).contains(&looks), "{looks} looks in a thousand turns of 1 us");
}

type Log = Rc<RefCell<Vec<String>>>;

/// A closure for every turn, which writes its name and breaks off after `times` calls.
fn noted(
    log: &Log,
    name: &'static str,
    times: u32,
) -> impl FnMut(&mut WorkerRef<'_>) -> ControlFlow<()> + 'static {
    let (log, mut left) = (log.clone(), times);
    move |_| {
        log.borrow_mut().push(name.to_owned());
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Turns the worker, and returns what was noted meanwhile.
fn noted_in_turn(worker: &mut Worker<MemoryDatapath>, log: &Log, us: u64) -> String {
    worker.turn(at(us)).unwrap();
    let noted = log.borrow().join(" ");
    log.borrow_mut().clear();
    noted
}

#[test]
fn closures_of_every_turn_stand_before_and_after_all_that_happens_in_it() {
    let mut worker = worker(Polling::Sleep);
    let log = Log::default();
    let spawned = log.clone();
    worker.lane().services().spawn(Box::new(move |worker| {
        worker.before_turn(noted(&spawned, "before", 3));
        worker.after_turn(noted(&spawned, "once", 1));
        worker.after_turn(noted(&spawned, "after", 3));
        spawned.borrow_mut().push("job".to_owned());
        let job = spawned.clone();
        worker.spawn(move |_| job.borrow_mut().push("job".to_owned()));
    }));
    let mut turn = |us| noted_in_turn(&mut worker, &log, us);
    assert_eq!(turn(0), "job once after");
    assert_eq!(turn(1), "before job after");
    assert_eq!(turn(2), "before after");
    assert_eq!(turn(3), "before");
    assert_eq!(turn(4), "");
    assert!(sleeps(&mut worker, 5));
}

#[test]
fn a_closure_of_every_turn_keeps_no_worker_awake_and_what_it_asks_for_does() {
    let mut worker = worker(Polling::Sleep);
    let log = Log::default();
    let logged = log.clone();
    worker.lane().services().spawn(Box::new(move |worker| {
        worker.before_turn(noted(&logged, "b", 100));
        worker.after_turn(noted(&logged, "a", 100));
    }));
    worker.turn(at(0)).unwrap();
    for us in 1..10 {
        assert!(sleeps(&mut worker, us));
    }
    assert_eq!(log.borrow().concat(), "a".to_owned() + &"ba".repeat(9));
    // Asked for after everything else in a turn.
    worker.lane().services().spawn(Box::new(|worker| {
        worker.after_turn(|worker| {
            worker.connect(([192, 0, 2, 1], 4433).into(), "localhost", &client_config(), ());
            worker.spawn(|_| ());
            // One that it adds begins in the next turn, and does not hold this one up.
            worker.after_turn(|_| ControlFlow::Break(()));
            ControlFlow::Break(())
        });
    }));
    let turn = worker.turn(at(20)).unwrap();
    assert_eq!(turn.next, at(20), "a closure waits");
    worker.wait(at(20), Turn { work: 0, next: Instant::NEVER }, Instant::NEVER);
    assert_eq!(worker.counters.sleeps, 9, "a connection is to be begun");
    assert!(matches!(worker.next_control(), Some(Control::Connect(_))));
    assert_eq!(worker.turn(at(21)).unwrap().work, 1);
    assert!(sleeps(&mut worker, 22));
}

#[test]
fn a_worker_posts_closures_to_others_and_to_itself_in_order() {
    let workers = SimulatedWorkers::new(2, 7).unwrap();
    let made = |number| -> Worker<MemoryDatapath> {
        let mut worker = workers.worker(number, at(0), LaneLimits::default()).into_inner();
        worker.polling = Polling::Sleep;
        worker
    };
    let (mut zero, mut one) = (made(0), made(1));
    let (tell, told) = std::sync::mpsc::channel();
    zero.lane().services().spawn(Box::new(move |worker| {
        for number in 0..3 {
            let tell = tell.clone();
            let task = move |worker: &mut WorkerRef<'_>| {
                tell.send((worker.number(), number)).unwrap();
            };
            worker.post_to(number % 2, task).unwrap();
        }
        // And back.
        let there = move |worker: &mut WorkerRef<'_>| {
            worker.post_to(0, move |worker| tell.send((worker.number(), 9)).unwrap()).unwrap();
        };
        worker.post_to(1, there).unwrap();
        assert_eq!(worker.post_to(2, |_| ()), Err(HandleError::Closed));
    }));
    let told = || told.try_iter().collect::<Vec<_>>();
    zero.turn(at(0)).unwrap();
    assert_eq!(told(), [], "a posted closure runs in no other one");
    assert!(!sleeps(&mut zero, 1) && sleeps(&mut zero, 1));
    assert_eq!(told(), [(0, 0), (0, 2)]);
    one.turn(at(1)).unwrap();
    assert_eq!(told(), [(1, 1)]);
    zero.turn(at(2)).unwrap();
    assert_eq!(told(), [(0, 9)]);
    one.fleet().close(one.lane.number());
    zero.lane().services().spawn(Box::new(|worker| {
        assert_eq!(worker.post_to(1, |_| ()), Err(HandleError::Closed));
    }));
    assert_eq!(zero.turn(at(3)).unwrap().work, 1);
}

#[test]
fn what_a_callback_orders_is_handed_out_and_no_sleep_comes_before() {
    let mut worker = worker(Polling::Sleep);
    let task = |w: &mut WorkerRef<'_>| {
        w.connect(([192, 0, 2, 1], 4433).into(), "localhost", &client_config(), ());
    };
    worker.fleet().inbox(0).unwrap().post(Command::Worker(Box::new(task))).unwrap();
    let turn = worker.turn(at(0)).unwrap();
    worker.wait(at(0), Turn { work: 0, next: Instant::NEVER }, Instant::NEVER);
    assert_eq!((turn.work, worker.counters.sleeps), (1, 0));
    assert!(worker.lane().is_empty(), "it is begun by whoever turns the worker");
    assert!(matches!(worker.next_control(), Some(Control::Connect(_))));
    assert!(worker.next_control().is_none());
}

#[test]
fn what_a_burst_leaves_waits_for_the_turns_that_read_what_lies_before_it() {
    let mut worker = worker(Polling::Spin);
    (0..MAX_BURST * 4).for_each(|_| disturb(&mut worker));
    let delays = [0, 1_000, 3_000, 4_000, 5_000, 9_000].map(|us| {
        worker.turn(at(us)).unwrap();
        worker.snapshot().turns.queue_delay_ns / MICROSECOND_NS
    });
    // Three bursts were left after the first turn, which took a millisecond; two after the second.
    assert_eq!(delays, [0, 4_000, 6_000, 2_000, 0, 0]);
    assert_eq!(worker.snapshot().turns.queue_delay_max_ns, 6_000 * MICROSECOND_NS);
}
