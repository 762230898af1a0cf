//! `quiclane serve --takeover`: one server after another, each a process, and clients that notice nothing. What is
//! about AF_XDP needs root; it skips loudly without, and fails without where `QUICLANE_REQUIRE_ROOT=1`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quiclane_testkit::netns::{Lab, LabConfig, Side, privileged};
use quiclane_testkit::server::{Scratch, Server};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::thread::sleep;
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_quiclane");

/// A server that takes over at the scratch's socket, and offers itself there.
fn command(scratch: &Scratch, listen: &str, more: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["serve", "--perf", "--json", "--listen", listen]);
    command.args(["--takeover", &scratch.text("takeover")]);
    command.args(["--status-dir", &scratch.text("status")]).args(more).stderr(Stdio::piped());
    command
}

fn serve(scratch: &Scratch, listen: &str, more: &[&str]) -> Server {
    Server::start(&mut command(scratch, listen, more))
}

/// Clients of a server for some seconds: requests at a rate, or uploads, which the server has to answer at the end.
fn clients(server: &str, line: &str) -> Child {
    let mut command = Command::new(BINARY);
    command.args(["perf", "run", server, "--insecure", "--json", "--max-silence", "20"]);
    command.args(line.split_whitespace());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn result(out: &Output) -> Value {
    let said = String::from_utf8_lossy(&out.stderr);
    let report: Value =
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert!(out.status.success(), "{report} {said}");
    report["result"].clone()
}

#[test]
fn three_servers_in_a_row_serve_the_clients_of_the_first() {
    let scratch = Scratch::new("serve-takeover");
    let mut first = serve(&scratch, "127.0.0.1:0", &[]);
    assert!(first.ready()["took_over"].is_null());
    let address = first.address().to_owned();
    let rate = "--scenario rps --rate 1000 --connections 4 --seconds 6";
    let requests = clients(&address, rate);
    let transfers = clients(&address, "--scenario download --connections 8 --seconds 6");
    sleep(Duration::from_millis(700));
    let mut second = serve(&scratch, &address, &[]);
    assert_eq!(second.ready()["took_over"]["pid"], first.pid());
    let told = first.line();
    assert_eq!((&told["event"], &told["pid"]), (&"taken-over".into(), &second.pid().into()));
    // Each run has one more, by which it asks what the server counts.
    assert_eq!(told["connections"], 14, "{told}");
    // New clients are the second's.
    let begun = clients(&address, "--scenario rps --rate 100 --connections 2 --seconds 4");
    sleep(Duration::from_millis(700));
    let third = serve(&scratch, &address, &[]);
    assert_eq!(second.line()["connections"], 3);
    let counted = result(&requests.wait_with_output().unwrap());
    println!("  requests: longest silence {} us", counted["longest_silence_us"]);
    assert_eq!((&counted["unanswered"], &counted["sent"]), (&0.into(), &6_000.into()), "{counted}");
    result(&transfers.wait_with_output().unwrap());
    assert_eq!(result(&begun.wait_with_output().unwrap())["unanswered"], 0);
    // Each ends with its last connection.
    for server in [first, second] {
        let ended = server.end();
        assert_eq!((ended.code, &ended.last["event"]), (Some(0), &"end".into()), "{}", ended.log);
    }
    let out = clients(&address, "--scenario latency --seconds 1").wait_with_output().unwrap();
    result(&out);
    third.stop();
    assert!(!scratch.at("takeover").exists());
}

/// Starts a successor, and kills it after this time. Gives it back if it serves by then.
fn killed_after(mut successor: Command, time: Duration) -> Option<Child> {
    let mut child = successor.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = tell.send(out.read_line(&mut line).is_ok_and(|bytes| bytes > 0));
        // Until its end: it writes a line more then.
        let _ = std::io::copy(&mut out, &mut std::io::sink());
    });
    if told.recv_timeout(time) == Ok(true) {
        return Some(child);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

/// At every moment of a takeover, in steps.
#[test]
fn a_server_whose_successors_are_killed_serves_on() {
    let scratch = Scratch::new("serve-takeover-killed");
    let mut first = serve(&scratch, "127.0.0.1:0", &[]);
    let address = first.address().to_owned();
    let requests = clients(&address, "--scenario rps --rate 500 --connections 4 --seconds 10");
    let mut broke_off = 0;
    let steps = (0..).map(|step| Duration::from_millis(1 + 4 * step));
    let mut second = steps
        .map(|time| killed_after(command(&scratch, &address, &[]), time))
        .inspect(|successor| broke_off += u32::from(successor.is_none()))
        .find_map(|successor| successor)
        .unwrap();
    assert!(broke_off > 0);
    let told = first.line();
    let is_case = told["pid"] == second.id();
    let out = requests.wait_with_output().unwrap();
    if !is_case {
        println!("  one had taken over, and was killed a moment later: no case of this test");
        second.kill().unwrap();
        second.wait().unwrap();
        return;
    }
    assert_eq!(result(&out)["unanswered"], 0);
    let log = first.end().log;
    let seen = log.matches("a takeover broke off").count();
    println!("  {broke_off} successors killed, {seen} of them while they took over");
    let out = clients(&address, "--scenario latency --seconds 1").wait_with_output().unwrap();
    result(&out);
    second.kill().unwrap();
    second.wait().unwrap();
}

#[test]
fn a_server_that_was_taken_over_ends_its_connections_when_their_time_is_over() {
    let scratch = Scratch::new("serve-takeover-time");
    let first = serve(&scratch, "127.0.0.1:0", &["--takeover-time", "0.5"]);
    let address = first.address().to_owned();
    let requests = clients(&address, "--scenario rps --rate 100 --connections 1 --seconds 30");
    sleep(Duration::from_millis(500));
    let second = serve(&scratch, &address, &[]);
    let ended = first.end();
    assert_eq!(ended.code, Some(0));
    assert!(ended.log.contains("2 connections cut short; see --takeover-time"), "{}", ended.log);
    let out = requests.wait_with_output().unwrap();
    assert!(!out.status.success(), "it was told that the server closes");
    second.stop();
    let out = Command::new(BINARY).args(["serve", "--perf", "--takeover-time", "-1"]).output();
    let said = String::from_utf8(out.unwrap().stderr).unwrap();
    assert!(said.contains("-1 seconds: give 0 or more"), "{said}");
}

fn device_server(lab: &Lab, scratch: &Scratch) -> Server {
    let device = lab.device(Side::Server);
    let base =
        [BINARY, "serve", "--perf", "--json", "--listen", "10.77.0.1:4433", "--dev", &device];
    let mut command = lab.command(Side::Server, &base);
    command.args(["--takeover", &scratch.text("takeover"), "--share-cpus", "--poll", "sleep"]);
    command.args(["--status-dir", &scratch.text("status")]);
    Server::start(command.stderr(Stdio::piped()))
}

fn device_clients(lab: &Lab, line: &str) -> Child {
    let base = [BINARY, "perf", "run", "10.77.0.1:4433", "--insecure", "--json"];
    let mut command = lab.command(Side::Client, &base);
    command.args(["--max-silence", "20"]).args(line.split_whitespace());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Also with a third between, which passes on to the first while it lives itself.
#[test]
fn a_server_goes_on_when_the_ones_that_took_over_are_killed() {
    if !privileged("a_server_goes_on_when_the_ones_that_took_over_are_killed") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let scratch = Scratch::new("serve-takeover-outlived");
    let mut first = device_server(&lab, &scratch);
    let requests = device_clients(&lab, "--scenario rps --rate 1000 --connections 4 --seconds 7");
    let transfers = device_clients(&lab, "--scenario download --connections 8 --seconds 7");
    sleep(Duration::from_millis(700));
    let mut second = device_server(&lab, &scratch);
    assert_eq!(first.line()["event"], "taken-over");
    let begun = device_clients(&lab, "--scenario rps --rate 100 --connections 2 --seconds 4");
    sleep(Duration::from_millis(700));
    let mut third = device_server(&lab, &scratch);
    assert_eq!(second.line()["event"], "taken-over");
    third.kill();
    assert_eq!(result(&begun.wait_with_output().unwrap())["unanswered"], 0);
    let log = second.end().log;
    assert!(log.contains("reads its kernel sockets again"), "{log}");
    let counted = result(&requests.wait_with_output().unwrap());
    println!("  requests: longest silence {} us", counted["longest_silence_us"]);
    assert_eq!((&counted["unanswered"], &counted["sent"]), (&0.into(), &7_000.into()), "{counted}");
    result(&transfers.wait_with_output().unwrap());
    assert_eq!(first.end().code, Some(0));
}

/// The device and its queues change hands, from process to process.
#[test]
fn a_device_goes_from_one_server_to_the_next() {
    if !privileged("a_device_goes_from_one_server_to_the_next") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let scratch = Scratch::new("serve-takeover-device");
    let device = lab.device(Side::Server);
    let start = || device_server(&lab, &scratch);
    let run = |line: &str| device_clients(&lab, line);
    let mut servers = vec![start()];
    let requests = run("--scenario rps --rate 1000 --connections 4 --seconds 8");
    let transfers = run("--scenario download --connections 16 --seconds 8");
    for _ in 0..3 {
        sleep(Duration::from_millis(700));
        let next = start();
        let last = servers.last_mut().unwrap();
        assert_eq!(next.ready()["took_over"]["pid"], last.pid());
        assert_eq!(last.line()["event"], "taken-over");
        for row in next.ready()["queues"].as_array().unwrap() {
            assert_eq!(row["mode"], "native-copy", "{row}");
        }
        servers.push(next);
    }
    let counted = result(&requests.wait_with_output().unwrap());
    println!("  requests: longest silence {} us", counted["longest_silence_us"]);
    assert_eq!((&counted["unanswered"], &counted["sent"]), (&0.into(), &8_000.into()), "{counted}");
    result(&transfers.wait_with_output().unwrap());
    let last = servers.pop().unwrap();
    for server in servers {
        let ended = server.end();
        assert_eq!(ended.code, Some(0), "{}", ended.log);
    }
    result(&run("--scenario latency --seconds 1").wait_with_output().unwrap());
    last.stop();
    let link = lab.must_run(Side::Server, &["ip", "link", "show", &device]);
    assert!(!link.contains("prog/xdp"), "the program goes with the last of them: {link}");
}
