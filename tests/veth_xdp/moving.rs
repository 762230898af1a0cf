//! Connections that follow their datagrams to another AF_XDP queue.
//!
//! The queue that a veth receives on is the one that its peer sends from, which XPS chooses: a change
//! of it is to this device what a change of the indirection table is to a NIC.

use super::configs::configs;
use super::following::{Board, all_follow};
use super::*;
use quiclane::exec::{Io, Pin, Polling, Profile, Registration, RegistrationConfig, WorkerStatus};
use quiclane_testkit::netns::{LabConfig, privileged};

/// All that the client sends leaves, and arrives, on this queue.
fn steer(lab: &Lab, queue: usize) {
    let device = lab.device(Side::Client);
    let write = |of: usize, mask: &str| {
        format!("echo {mask} > /sys/class/net/{device}/queues/tx-{of}/xps_cpus")
    };
    let script = format!("{} && {}", write(1 - queue, "0"), write(queue, "ffffffff"));
    // Not more than there are CPUs.
    let cpus = std::thread::available_parallelism().unwrap().get().min(32);
    let mask = format!("{:x}", u32::MAX >> (32 - cpus));
    lab.must_run(Side::Client, &["sh", "-c", &script.replace("ffffffff", &mask)]);
}

/// What the workers of each of two queues have together.
fn of_queues(rows: &[WorkerStatus]) -> Vec<WorkerStatus> {
    let sum = |rows: &[WorkerStatus]| {
        let mut sum = rows[0].clone();
        rows[1..].iter().for_each(|row| sum.counters.lane.add(&row.counters.lane));
        sum
    };
    rows.chunks(rows.len() / 2).map(sum).collect()
}

fn follow(v6: bool, profile: Profile) {
    let lab = Arc::new(Lab::new(LabConfig::default()));
    let (server_config, client_config) = configs();
    lab.enter_with_sysfs(Side::Server);
    let io = Io::Xdp(config(&lab, Mode::NativeCopy));
    let (pin, polling) = (Pin::Off, Polling::Sleep);
    let config = RegistrationConfig { io, pin, polling, profile, ..Default::default() };
    let server = Registration::open(config).unwrap();
    let board = Arc::new(Board::default());
    let _listener = server.listen(any(v6), &server_config, board.acceptor()).unwrap();
    std::thread::scope(|threads| {
        let (lab, server, board) = (&lab, &server, &board);
        let client = threads.spawn(move || {
            netns::enter(&lab.namespace(Side::Client));
            let to = super::server(v6);
            let status = || of_queues(&server.status());
            all_follow(board, status, to, &client_config, |queue| steer(lab, queue));
        });
        client.join().unwrap();
    });
    let rows = server.status();
    assert!(rows.iter().all(|row| row.counters.lane.tx_datagrams > 0), "every worker has its part");
    let kernel: u64 = rows.iter().map(|row| row.counters.queue.rx_via_kernel).sum();
    assert_eq!(kernel, 0, "all of it came through the rings");
}

#[test]
fn connections_follow_the_queue_over_ipv4() {
    if privileged("connections_follow_the_queue_over_ipv4") {
        follow(false, Profile::LowLatency);
    }
}

#[test]
fn connections_follow_the_queue_over_ipv6() {
    if privileged("connections_follow_the_queue_over_ipv6") {
        follow(true, Profile::LowLatency);
    }
}

/// From a QUIC thread of one queue to the one with its number at the other, and to no other thread.
#[test]
fn connections_follow_the_queue_where_quic_has_threads_of_its_own() {
    if privileged("connections_follow_the_queue_where_quic_has_threads_of_its_own") {
        follow(false, Profile::MaxThroughput);
    }
}
