//! A QUIC server on zero-copy queues, and clients behind the other NIC.
//!
//! The server is on the second node: on the first, a wrong placement could be right by accident.

use crate::download;
use crate::flows::{Family, address};
use crate::nic::{LANES, Lane, QUEUES, read, rss, run};
use crate::numa::large_mappings;
use crate::rss::put_back;
use crate::server::{CERTIFICATE, FILES, Server, connections_in_log, homes_in_log, log_end};
use crate::{Outcome, ensure};
use quiclane::topology::toeplitz::{Flow, HashFields};
use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

const LANE: &Lane = &LANES[1];
const PEER: &str = "peer1";
const PORT: u16 = 4433;
const FILE_BYTES: usize = 4 << 20;
pub(crate) const CONNECTIONS: usize = 64;
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

/// Makes the file that is served; returns its hash.
fn make_file() -> Result<String, String> {
    let path = format!("{FILES}/file");
    let bytes = download::contents(FILE_BYTES);
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

/// Starts the program in the namespace of the peers.
fn start_client(arguments: &[&str]) -> Result<Child, String> {
    Command::new("ip")
        .args(["netns", "exec", "peer", "quiclane"])
        .args(arguments)
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("quiclane {arguments:?}: {error}"))
}

/// The tables of one run, as `ethtool -X` takes them: how many queues share the flows, or the weights.
const TABLES: [&[&str]; 5] = [
    &["equal", "1"],
    &["equal", "2"],
    &["weight", "0", "0", "1", "1"],
    &["equal", "4"],
    &["weight", "0", "1", "0", "1"],
];

fn set_table(table: &[&str]) -> Outcome {
    run("ethtool", &[&["-X", LANE.dev], table].concat()).map(drop)
}

/// 64 downloads, while the table changes every second until the last is done: not a byte differs, and
/// not a datagram is lost on its way to its worker.
pub(crate) fn downloads_survive_changes_of_the_table() -> Outcome {
    put_back(LANE, || {
        let server = Server::start(LANE, listen(Family::V4))?;
        make_file()?;
        let mut client = download::start(listen(Family::V4), FILE_BYTES)?;
        let mut changes = 0;
        let ended = loop {
            set_table(TABLES[changes % TABLES.len()])?;
            changes += 1;
            sleep(Duration::from_secs(1));
            if let Some(ended) = client.try_wait().map_err(|error| error.to_string())? {
                break ended;
            }
        };
        ensure!(ended.success(), "the downloads: {ended}; {}", log_end());
        let homes = homes_in_log()?.len();
        // The file is written once a second.
        sleep(Duration::from_secs(2));
        let (wrong, lost) = server.wrong_queue()?;
        println!(
            "  {homes} downloads, {changes} tables: {wrong} datagrams handed over, {lost} lost"
        );
        ensure!(homes == CONNECTIONS && changes > 4, "{homes} connections, {changes} changes");
        ensure!(lost == 0 && wrong > 0, "{wrong} datagrams handed over, {lost} lost");
        server.stop().map(drop)
    })
}

/// How many connections are on each worker, if each is on the one that key and table predict; else one
/// that is not.
fn homes_as_predicted(to: SocketAddr) -> Result<Result<[u64; QUEUES], String>, String> {
    let rss = rss(LANE.dev)?;
    let homes = homes_in_log()?;
    if homes.len() < CONNECTIONS {
        return Ok(Err(format!("{} connections", homes.len())));
    }
    let mut workers = [0; QUEUES];
    for (source, worker) in homes {
        let flow = Flow { source, destination: to };
        let placement =
            rss.place(&flow, HashFields::AddressesAndPorts).map_err(|error| error.to_string())?;
        if placement.queue != worker {
            let queue = placement.queue;
            return Ok(Err(format!("{source} is at worker {worker}, and arrives at {queue}")));
        }
        workers[worker as usize] += 1;
    }
    Ok(Ok(workers))
}

/// Waits until no more datagrams arrive at other workers than their connections'. Returns how many did.
fn at_rest(server: &Server) -> Result<u64, String> {
    let mut before = u64::MAX;
    for _ in 0..5 {
        // The file is written once a second.
        sleep(Duration::from_secs(2));
        let (handed_over, lost) = server.wrong_queue()?;
        ensure!(lost == 0, "{lost} datagrams lost on the way to their workers");
        if handed_over == before {
            return Ok(before);
        }
        before = handed_over;
    }
    Err(format!("datagrams still arrive at other workers: {before}"))
}

/// 64 connections under load. After each change of the table every one goes to the worker that key and
/// table predict, and from then on datagrams arrive at no other.
pub(crate) fn connections_follow_the_table() -> Outcome {
    put_back(LANE, || {
        let server = Server::start(LANE, listen(Family::V4))?;
        let (count, to) = (CONNECTIONS.to_string(), listen(Family::V4));
        let address = to.to_string();
        let load = ["perf", "run", &address, "--scenario", "latency", "--connections", &count];
        let machine = ["--io", "udp", "--workers", &count, "--poll", "sleep", "--seconds", "600"];
        let patience = ["--max-silence", "60", "--pin", CERTIFICATE];
        let mut client = start_client(&[&load[..], &machine, &patience].concat())?;
        for table in [&["default"][..]].iter().chain(&TABLES) {
            set_table(table)?;
            let mut seconds = 0;
            let workers = loop {
                sleep(Duration::from_secs(1));
                seconds += 1;
                match homes_as_predicted(to)? {
                    Ok(workers) => break workers,
                    Err(why) => ensure!(seconds < 60, "{table:?}: {why}; {}", log_end()),
                }
            };
            let handed_over = at_rest(&server)?;
            println!(
                "  {table:?}: {workers:?} within {seconds} s, {handed_over} handed over so far"
            );
        }
        client.kill().map_err(|error| format!("kill: {error}"))?;
        client.wait().map_err(|error| format!("wait: {error}"))?;
        server.stop().map(drop)
    })
}

/// kill -9: the program goes with the process, and the next server has its queues.
pub(crate) fn a_killed_server_leaves_nothing() -> Outcome {
    Server::start(LANE, listen(Family::V4))?.kill()?;
    let link = run("ip", &["-d", "link", "show", LANE.dev])?;
    ensure!(!link.contains("xdp"), "still attached: {link}");
    Server::start(LANE, listen(Family::V4))?.stop().map(drop)
}
