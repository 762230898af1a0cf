//! When a worker that has nothing to do sleeps, in virtual time: turns and sleeps are counted.

use super::super::api::WorkerRef;
use super::super::config::LaneLimits;
use super::super::message::Command;
use super::super::simulated::SimulatedWorkers;
use super::super::testing::{client_config, wire};
use super::*;
use crate::datapath::memory::MemoryDatapath;
use crate::datapath::{Checksum, Link, Path, RxMeta};
use crate::ecn::Ecn;
use std::net::SocketAddr;
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
