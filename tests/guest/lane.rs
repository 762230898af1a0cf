//! A QUIC server on zero-copy queues, and clients behind the other NIC.
//!
//! The server is on the second node: on the first, a wrong placement could be right by accident.

use crate::flows::{Family, address};
use crate::nic::{LANES, Lane, QUEUES, read, rss, run};
use crate::numa::large_mappings;
use crate::server::{CERTIFICATE, FILES, Server, connections_in_log, log_end};
use crate::{Outcome, ensure};
use quiclane::topology::toeplitz::{Flow, HashFields};
use std::fs;
use std::net::SocketAddr;

const LANE: &Lane = &LANES[1];
const PEER: &str = "peer1";
const PORT: u16 = 4433;
const FILE_BYTES: usize = 4 << 20;
const CONNECTIONS: usize = 64;
/// The least pages of a large mapping, such as a UMEM.
const UMEM_PAGES: u64 = 4096;

fn listen(family: Family) -> SocketAddr {
    SocketAddr::new(address(LANE, family, 1), PORT)
}

/// Runs the program in the namespace of the peers.
fn client(arguments: &[&str]) -> Result<String, String> {
    let all = [&["netns", "exec", "peer", "quiclane"], arguments].concat();
    run("ip", &all).map_err(|error| format!("{error}\nthe server: {}", log_end()))
}

/// Mode, CPU and node of every queue, threads and frames of the process.
pub(crate) fn workers_and_frames_are_on_the_node() -> Outcome {
    let server = Server::start(LANE, listen(Family::V4))?;
    ensure!(server.queues.len() == QUEUES, "queues {:?}", server.queues);
    for (row, queue) in server.queues.iter().zip(0..) {
        ensure!(row.queue == queue && row.mode == "native-zerocopy", "{row:?}");
        ensure!(row.node == Some(LANE.node), "{row:?}");
        ensure!(row.cpu.is_some_and(|cpu| cpus_of_node().contains(&cpu)), "{row:?}");
    }
    check_threads(&server)?;
    check_frames(&server)?;
    server.stop().map(drop)
}

const fn cpus_of_node() -> [u32; 2] {
    [2 * LANE.node, 2 * LANE.node + 1]
}

/// There is a thread for each queue that may run only on one CPU, of the node, and runs there.
fn check_threads(server: &Server) -> Outcome {
    let tasks = format!("/proc/{}/task", server.pid());
    let mut pinned = 0;
    for task in fs::read_dir(&tasks).map_err(|error| format!("{tasks}: {error}"))? {
        let path = task.map_err(|error| error.to_string())?.path().display().to_string();
        let status = read(&format!("{path}/status"))?;
        let allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .map(str::trim)
            .ok_or("no Cpus_allowed_list")?;
        let Ok(cpu) = allowed.parse::<u32>() else { continue };
        ensure!(cpus_of_node().contains(&cpu), "{path} may run on {allowed}");
        // After the name, which may have spaces: state is field 3, processor field 39.
        let stat = read(&format!("{path}/stat"))?;
        let fields = stat.rsplit_once(')').ok_or("stat without a name")?.1;
        let runs_on = fields.split_whitespace().nth(36).ok_or("stat without a processor")?;
        ensure!(runs_on == allowed, "{path} may run on {allowed} and runs on {runs_on}");
        pinned += 1;
    }
    ensure!(pinned == QUEUES, "{pinned} pinned threads, expected {QUEUES}");
    Ok(())
}

fn check_frames(server: &Server) -> Outcome {
    let pages = large_mappings(&server.pid(), UMEM_PAGES)?;
    let here = pages.get(&LANE.node).copied().unwrap_or_default();
    let expected = UMEM_PAGES * QUEUES as u64;
    ensure!(
        here == pages.values().sum::<u64>() && here >= expected,
        "pages by node {pages:?}, expected {expected} on node {} and none elsewhere",
        LANE.node
    );
    Ok(())
}

/// By kernel UDP and by AF_XDP in zero-copy, over IPv4 and IPv6.
pub(crate) fn downloads_are_byte_exact() -> Outcome {
    for family in [Family::V4, Family::V6] {
        let server = Server::start(LANE, listen(family))?;
        let expected = make_file()?;
        let to = listen(family).to_string();
        for io in [
            &["--io", "udp"][..],
            &["--io", "xdp", "--dev", PEER, "--share-cpus", "--require", "zerocopy"],
        ] {
            let fixed = ["get", &to, "/file", "-o", "/tmp/got", "--pin", CERTIFICATE];
            client(&[&fixed, io].concat())?;
            let got = sha256("/tmp/got")?;
            println!("  {family:?} {}: {FILE_BYTES} bytes, sha256 {}...", io[1], &got[..16]);
            ensure!(got == expected, "{family:?} {io:?}: sha256 {got}, expected {expected}");
            fs::remove_file("/tmp/got").map_err(|error| format!("/tmp/got: {error}"))?;
        }
        for row in server.stop()? {
            ensure!(row.wrong_queue == 0, "{row:?}");
        }
    }
    Ok(())
}

/// A file that changes if any parts are shifted or swapped; returns its hash.
fn make_file() -> Result<String, String> {
    let path = format!("{FILES}/file");
    let words = (0..FILE_BYTES as u64 / 8).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    fs::write(&path, bytes).map_err(|error| format!("{path}: {error}"))?;
    sha256(&path)
}

fn sha256(path: &str) -> Result<String, String> {
    Ok(run("sha256sum", &[path])?.split(' ').next().unwrap_or_default().to_owned())
}

/// 64 connections from 64 ports; each is on the queue that key and table predict for its port.
pub(crate) fn connections_land_where_toeplitz_says() -> Outcome {
    let server = Server::start(LANE, listen(Family::V4))?;
    let count = CONNECTIONS.to_string();
    let to = listen(Family::V4);
    // Kernel UDP has a port for each worker, and connections take the workers in turn.
    client(&[
        "perf",
        "run",
        &to.to_string(),
        "--scenario",
        "latency",
        "--connections",
        &count,
        "--io",
        "udp",
        "--workers",
        &count,
        "--poll",
        "sleep",
        "--seconds",
        "1",
        // 64 threads on an emulated machine.
        "--max-silence",
        "30",
        "--pin",
        CERTIFICATE,
    ])?;
    let told = connections_in_log()?;
    let rss = rss(LANE.dev)?;
    let mut expected = [0_u64; QUEUES];
    for &(source, worker) in &told {
        let placement = rss
            .place(&Flow { source, destination: to }, HashFields::AddressesAndPorts)
            .map_err(|error| error.to_string())?;
        ensure!(
            placement.queue == worker,
            "{source}: hash {:#010x} predicts queue {}, worker {worker} has it",
            placement.hash,
            placement.queue
        );
        expected[placement.queue as usize] += 1;
    }
    let mut ports: Vec<u16> = told.iter().map(|(source, _)| source.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    ensure!(ports.len() == CONNECTIONS, "{} connections from {} ports", told.len(), ports.len());
    let rows = server.stop()?;
    let got: Vec<u64> = rows.iter().map(|row| row.connections).collect();
    println!(
        "  {} connections from {} ports: predicted {expected:?}, accepted {got:?}",
        told.len(),
        ports.len()
    );
    ensure!(got == expected, "predicted {expected:?}, accepted {got:?}");
    ensure!(rows.iter().all(|row| row.wrong_queue == 0 && row.rx_packets > 0), "{rows:?}");
    Ok(())
}

/// kill -9: the program goes with the process, and the next server has its queues.
pub(crate) fn a_killed_server_leaves_nothing() -> Outcome {
    Server::start(LANE, listen(Family::V4))?.kill()?;
    let link = run("ip", &["-d", "link", "show", LANE.dev])?;
    ensure!(!link.contains("xdp"), "still attached: {link}");
    Server::start(LANE, listen(Family::V4))?.stop().map(drop)
}
