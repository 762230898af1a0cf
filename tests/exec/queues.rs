//! Connections that follow their datagrams from worker to worker, on the kernel's sockets: what the
//! kernel receives on a CPU goes to the worker that is pinned there. Over loopback the sender's CPU
//! receives, so the client's thread chooses the worker.

use super::following::{Board, all_follow};
use super::*;
use quiclane_testkit::cpus::stay_on;

#[test]
fn connections_follow_the_cpu_that_their_datagrams_arrive_on() {
    let (server_config, client_config) = configs();
    let config = RegistrationConfig { polling: Polling::Sleep, ..RegistrationConfig::udp(2) };
    let server = open(config);
    let cpus: Vec<u32> = server.status().iter().map(|row| row.cpu.unwrap()).collect();
    let board = Arc::new(Board::default());
    let listener = server.listen(any_port(), &server_config, board.acceptor()).unwrap();
    let steer = |worker: usize| stay_on(cpus[worker]);
    all_follow(&board, || server.status(), listener.local_addr(), &client_config, steer);
    status_until(&server, |rows| rows.iter().all(|row| row.connections == 0));
}
