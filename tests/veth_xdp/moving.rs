//! Connections that follow their datagrams to another AF_XDP queue.
//!
//! The queue that a veth receives on is the one that its peer sends from, which XPS chooses: a change
//! of it is to this device what a change of the indirection table is to a NIC.

use super::configs::configs;
use super::following::{Board, all_follow};
use super::*;
use quiclane::exec::{Io, Pin, Polling, Registration, RegistrationConfig};
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

fn follow(v6: bool) {
    let lab = Arc::new(Lab::new(LabConfig::default()));
    let (server_config, client_config) = configs();
    lab.enter_with_sysfs(Side::Server);
    let io = Io::Xdp(config(&lab, Mode::NativeCopy));
    let config =
        RegistrationConfig { io, pin: Pin::Off, polling: Polling::Sleep, ..Default::default() };
    let server = Registration::open(config).unwrap();
    let board = Arc::new(Board::default());
    let _listener = server.listen(any(v6), &server_config, board.acceptor()).unwrap();
    std::thread::scope(|threads| {
        let (lab, server, board) = (&lab, &server, &board);
        let client = threads.spawn(move || {
            netns::enter(&lab.namespace(Side::Client));
            let to = super::server(v6);
            all_follow(board, || server.status(), to, &client_config, |queue| steer(lab, queue));
        });
        client.join().unwrap();
    });
    let kernel: u64 = server.status().iter().map(|row| row.counters.queue.rx_via_kernel).sum();
    assert_eq!(kernel, 0, "all of it came through the rings");
}

#[test]
fn connections_follow_the_queue_over_ipv4() {
    if privileged("connections_follow_the_queue_over_ipv4") {
        follow(false);
    }
}

#[test]
fn connections_follow_the_queue_over_ipv6() {
    if privileged("connections_follow_the_queue_over_ipv6") {
        follow(true);
    }
}
