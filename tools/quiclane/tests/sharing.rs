//! Several servers on one device: `serve --share`, and `--xskmap`. Needs root; skips loudly without, fails
//! without where `QUICLANE_REQUIRE_ROOT=1`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quiclane_testkit::netns::{Lab, LabConfig, Side, privileged};
use quiclane_testkit::server::{Scratch, Server};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_quiclane");

/// Mounts a BPF file system that this thread, and what it starts, sees alone. Moves the thread into the server's
/// namespace.
fn place(lab: &Lab, scratch: &Scratch) -> String {
    lab.enter_with_sysfs(Side::Server);
    let at = scratch.text("bpf");
    std::fs::create_dir(&at).unwrap();
    let mounted = Command::new("mount").args(["-t", "bpf", "bpf", &at]).status().unwrap();
    assert!(mounted.success());
    at
}

fn serve(lab: &Lab, scratch: &Scratch, port: u16, more: &[&str]) -> Server {
    let listen = format!("10.77.0.1:{port}");
    let (device, status) = (lab.device(Side::Server), scratch.text("status"));
    let base = [BINARY, "serve", "--perf", "--json", "--listen", &listen, "--dev", &device];
    let mut command = lab.command(Side::Server, &base);
    command.args(["--status-dir", &status, "--poll", "sleep", "--share-cpus"]).args(more);
    Server::start(command.stderr(Stdio::null()))
}

/// Requests from many ports, so that they arrive on both queues.
fn requests(lab: &Lab, port: u16) -> Value {
    let to = format!("10.77.0.1:{port}");
    let line =
        "--scenario rps --connections 16 --streams 1 --workers 4 --seconds 1 --insecure --json";
    let base = [BINARY, "perf", "run", &to, "--max-silence", "20"];
    let out = lab.command(Side::Client, &base).args(line.split_whitespace()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["result"]["unanswered"], 0, "{report}");
    report
}

/// All that the client sends leaves, and arrives, on this queue.
fn steer(lab: &Lab, queue: usize) {
    let device = lab.device(Side::Client);
    // Not more than there are CPUs.
    let cpus = std::thread::available_parallelism().unwrap().get().min(32);
    let all = format!("{:x}", u32::MAX >> (32 - cpus));
    for (of, mask) in [(1 - queue, "0"), (queue, &all)] {
        let script = format!("echo {mask} > /sys/class/net/{device}/queues/tx-{of}/xps_cpus");
        lab.must_run(Side::Client, &["sh", "-c", &script]);
    }
}

/// The device has a program.
fn has_program(lab: &Lab) -> bool {
    lab.must_run(Side::Server, &["ip", "link", "show", &lab.device(Side::Server)])
        .contains("prog/xdp")
}

#[test]
fn two_servers_share_a_device_and_one_that_is_killed_leaves_room() {
    if !privileged("two_servers_share_a_device_and_one_that_is_killed_leaves_room") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let scratch = Scratch::new("share");
    let directory = format!("{}/quiclane", place(&lab, &scratch));
    let of = |queue| ["--queues", queue, "--share", &directory];
    let first = serve(&lab, &scratch, 4433, &of("0"));
    let second = serve(&lab, &scratch, 4434, &of("1"));
    for server in [&first, &second] {
        assert_eq!(server.ready()["queues"].as_array().unwrap().len(), 1);
        assert_eq!(server.ready()["queues"][0]["mode"], "native-copy");
    }
    requests(&lab, 4433);
    requests(&lab, 4434);
    // One that is killed leaves its entries; who comes next has its place, and the other has not noticed.
    first.signal("-KILL");
    drop(first.end());
    requests(&lab, 4434);
    let third = serve(&lab, &scratch, 4435, &of("0"));
    // On its own queue, on the other's, where they go to kernel sockets, and the same for the other.
    for queue in [0, 1] {
        steer(&lab, queue);
        requests(&lab, 4435);
        requests(&lab, 4434);
    }
    let ended = third.stop();
    let datapath = &ended.last["counters"][0]["datapath"];
    let (all, by_kernel) = (&datapath["rx_packets"], &datapath["rx_via_kernel"]);
    println!("  {all} datagrams, {by_kernel} of them through the kernel");
    assert!(all.as_u64() > by_kernel.as_u64() && by_kernel.as_u64() > Some(0), "{}", ended.last);
    requests(&lab, 4434);
    assert!(Path::new(&directory).exists() && has_program(&lab));
    // A queue that a living process has.
    let listen = ["--listen", "10.77.0.1:4436", "--dev", &lab.device(Side::Server)];
    let base = [&[BINARY, "serve", "--perf"][..], &listen].concat();
    let out = lab.command(Side::Server, &base).args(of("1")).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("queue 1 of"), "{said}");
    requests(&lab, 4434);
    second.stop();
    assert!(!Path::new(&directory).exists() && !has_program(&lab), "the last one takes all away");
}

#[test]
fn sockets_are_entered_into_the_map_of_another_program() {
    if !privileged("sockets_are_entered_into_the_map_of_another_program") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let scratch = Scratch::new("xskmap");
    let directory = format!("{}/quiclane", place(&lab, &scratch));
    // The program of another is here that of a server with queue 0, which steers its port on any queue to
    // its map, at the number of the queue.
    let steering = serve(&lab, &scratch, 4433, &["--queues", "0", "--share", &directory]);
    let map = format!("{directory}/xsks");
    let server = serve(&lab, &scratch, 4434, &["--queues", "1", "--xskmap", &map]);
    assert_eq!(server.ready()["queues"][0]["mode"], "native-copy");
    // That program does not know of the other port: all of it comes by the kernel sockets.
    requests(&lab, 4434);
    let rows = server.stop().last;
    let datapath = &rows["counters"][0]["datapath"];
    assert!(datapath["rx_via_kernel"].as_u64().unwrap() > 0, "{rows}");
    assert!(has_program(&lab), "it is not ours to take away");
    requests(&lab, 4433);
    steering.stop();
    let missing = ["--queues", "1", "--xskmap", &map, "--listen", "10.77.0.1:4434"];
    let base = [BINARY, "serve", "--perf", "--dev", &lab.device(Side::Server)];
    let out = lab.command(Side::Server, &base).args(missing).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains(&map), "{said}");
}

/// One that fails once it has loaded the program leaves the place to others, and the first one nothing at all.
#[test]
fn a_server_that_cannot_begin_keeps_nobody_waiting() {
    if !privileged("a_server_that_cannot_begin_keeps_nobody_waiting") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let scratch = Scratch::new("share-fails");
    let directory = format!("{}/quiclane", place(&lab, &scratch));
    let fails = |port: u16| {
        let (device, listen) = (lab.device(Side::Server), format!("10.77.0.1:{port}"));
        let wants = ["--dev", &device, "--share", &directory, "--require", "zerocopy"];
        let base = [BINARY, "serve", "--perf", "--json", "--listen", &listen];
        // It would wait for ever.
        let mut command = lab.command(Side::Server, &["timeout", "20"]);
        let out = command.args(base).args(wants).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code().is_some_and(|code| code != 0 && code != 124), "{said}");
        assert!(said.contains("zerocopy"), "{said}");
    };
    fails(4433);
    assert!(!std::path::Path::new(&directory).exists(), "the first of all takes everything away");
    assert!(!has_program(&lab));
    let server = serve(&lab, &scratch, 4433, &["--queues", "0", "--share", &directory]);
    fails(4434);
    let other = serve(&lab, &scratch, 4435, &["--queues", "1", "--share", &directory]);
    other.stop();
    server.stop();
    assert!(!has_program(&lab));
}
