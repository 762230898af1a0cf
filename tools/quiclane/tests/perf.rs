//! `perf run` reports what happened: servers that die or pause, requests without an answer, and options
//! that it cannot follow.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quiclane_testkit::server::{Server, signal};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_quiclane");

fn serve(more: &[&str]) -> Server {
    let mut command = Command::new(BINARY);
    command.args(["perf", "server", "--listen", "127.0.0.1:0", "--json"]).args(more);
    Server::start(command.stderr(Stdio::null()))
}

fn run(server: &Server, line: &str) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["perf", "run", server.address()]).args(line.split_whitespace());
    // A loaded machine pauses as well: only pauses that a test makes are faults.
    if !line.contains("--max-silence") {
        command.args(["--max-silence", "60"]);
    }
    command.arg("--insecure").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn result(server: &Server, line: &str) -> (i32, Value, String) {
    judged(run(server, &format!("{line} --json")).output().unwrap())
}

/// Exit code, the object, and what was said.
fn judged(out: Output) -> (i32, Value, String) {
    let said = String::from_utf8(out.stderr).unwrap();
    let report = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    (out.status.code().unwrap(), report, said)
}

/// Waits for a line of standard error that holds `part`: the run has begun.
fn await_line(child: &mut Child, part: &str) -> BufReader<std::process::ChildStderr> {
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(part) {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "no line with {part}");
    }
    lines
}

#[test]
fn a_server_that_is_killed_is_no_success() {
    for scenario in ["latency", "rps --connections 4 --streams 2", "download", "upload"] {
        let server = serve(&[]);
        let line = format!("--scenario {scenario} --seconds 4 --interval 0.2 --max-silence 1");
        let mut child = run(&server, &format!("{line} --json")).spawn().unwrap();
        let lines = await_line(&mut child, "in flight");
        server.signal("-KILL");
        let said: Vec<String> = lines.lines().map_while(Result::ok).collect();
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{scenario}: {said:?}");
        let report: Value = serde_json::from_slice(&out.stdout).unwrap();
        let result = &report["result"];
        let faults = result["faults"].as_array().unwrap();
        assert!(!faults.is_empty(), "{scenario}: {result}");
        assert!(said.last().unwrap().contains(faults[0].as_str().unwrap()), "{said:?}");
        let counted = matches!(scenario, "latency") || scenario.starts_with("rps");
        if counted {
            assert!(result["unanswered"].as_u64().unwrap() > 0, "{result}");
            assert!(result["in_flight_at_end"].as_u64().unwrap() > 0, "{result}");
            // What was never answered is in the percentiles.
            let (sent, count) = (&result["sent"], &result["latency"]["count"]);
            assert_eq!(sent, count, "{scenario}: {result}");
        }
        // It is unknown, and why: not zero.
        assert!(report["server"]["lost_packets"].is_null(), "{report}");
        assert!(report["unknown"]["lost_packets"].is_string(), "{report}");
    }
}

#[test]
fn a_pause_of_the_server_is_seen_in_an_open_loop() {
    let server = serve(&[]);
    let line = "--scenario latency --rate 200 --seconds 4 --interval 0.2 --max-silence 1 --json";
    let mut child = run(&server, line).spawn().unwrap();
    let lines = await_line(&mut child, "in flight");
    server.signal("-STOP");
    sleep(Duration::from_secs(2));
    server.signal("-CONT");
    let said: Vec<String> = lines.lines().map_while(Result::ok).collect();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{said:?}");
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let result = &report["result"];
    // The stop lasted 2 s at least, and requests were due all the time.
    assert!(result["longest_silence_us"].as_f64().unwrap() > 1.8e6, "{result}");
    assert!(result["latency"]["p99_us"].as_f64().unwrap() > 1.5e6, "{result}");
    // 200 a second were due, whatever the server did; and it has answered all in the end.
    assert_eq!(result["sent"], 800, "{result}");
    assert_eq!(result["unanswered"], 0, "{result}");
    assert!(said.iter().any(|line| line.contains("nothing heard for")), "{said:?}");
}

/// A busy server that did not report when measuring ended reports when the run is over.
#[test]
fn a_server_that_was_busy_is_asked_again() {
    let server = serve(&[]);
    let line = "--scenario latency --seconds 1 --interval 0.2 --json";
    let mut child = run(&server, line).spawn().unwrap();
    let lines = await_line(&mut child, "in flight");
    server.signal("-STOP");
    sleep(Duration::from_millis(2500));
    server.signal("-CONT");
    let said: Vec<String> = lines.lines().map_while(Result::ok).collect();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{said:?}");
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(report["server"]["drops_total"].is_u64(), "{}", report["unknown"]);
}

/// By default no worker is pinned; if two share a CPU by option, the report says so.
#[test]
fn two_local_processes_do_not_share_a_cpu_unless_told_to() {
    let line = "--scenario latency --seconds 0.2";
    let (_, report, _) = result(&serve(&[]), line);
    assert!(report["queues"][0]["cpu"].is_null(), "{report}");
    assert!(report["server"]["workers"][0]["cpu"].is_null(), "{report}");
    assert_eq!(report["shared_cpus"], serde_json::json!([]));
    let server = serve(&["--cpus", "0"]);
    let (_, report, _) = result(&server, &format!("{line} --cpus 0"));
    assert_eq!(report["shared_cpus"], serde_json::json!([0]), "{report}");
    let out = run(&server, &format!("{line} --cpus 0")).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("server and client share cpu 0"), "{text}");
}

#[test]
fn a_signal_ends_a_run_with_its_summary() {
    let server = serve(&[]);
    for name in ["-INT", "-TERM"] {
        let line = "--scenario rps --connections 2 --seconds 600 --interval 0.2";
        let mut child = run(&server, line).spawn().unwrap();
        let lines = await_line(&mut child, "in flight");
        signal(&child, name);
        let said: Vec<String> = lines.lines().map_while(Result::ok).collect();
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(0), "{said:?}");
        let text = String::from_utf8(out.stdout).unwrap();
        for part in ["interrupted after", "latency us:", "Result: rps", "unanswered 0"] {
            assert!(text.contains(part), "{name}: no {part} in {text}");
        }
    }
}

#[test]
fn an_open_loop_sends_as_often_as_it_is_told() {
    let server = serve(&[]);
    let line = "--scenario rps --rate 100 --connections 3 --seconds 2 --warmup 0.5 -v";
    let (code, report, said) = result(&server, line);
    let result = &report["result"];
    assert_eq!(code, 0, "{said} {result}");
    assert!(said.contains(&format!("connecting to {} as 127.0.0.1", server.address())), "{said}");
    assert!(said.contains("rps begins with 3 connections: 500ms of warm-up, then 2s"), "{said}");
    // Of 250 the first 50 warm up.
    let sent = result["sent"].as_u64().unwrap();
    assert!((199..=201).contains(&sent), "{result}");
    assert_eq!(result["latency"]["count"].as_u64().unwrap(), sent);
    assert_eq!((&result["rate"], &result["unanswered"]), (&100.0.into(), &0.into()));
    assert!(result["latency"]["mean_us"].as_f64().unwrap() > 0.0);
    // How many of the 250 came in the measured time is a matter of the machine.
    let bytes = result["bytes"].as_u64().unwrap();
    assert!(bytes > 0 && bytes <= 4000 * 250, "{result}");
}

#[test]
fn what_the_server_does_not_allow_is_reported_truly() {
    let server = serve(&[]);
    let line = "--scenario rps --connections 1 --streams 5000 --down 0 --up 8 --seconds 0.5";
    let (code, report, said) = result(&server, line);
    assert_eq!(code, 0, "{said} {report}");
    let result = &report["result"];
    assert_eq!((&result["streams_asked"], &result["streams"]), (&5000.into(), &1000.into()));
    assert_eq!(report["queues"][0]["connections_total"], 1, "the run's connections alone");
    assert_eq!(report["queues"][0]["connections"], 1, "{report}");
    assert_eq!(report["server"]["modes"], serde_json::json!(["udp"]));
    for fact in ["drops_total", "rss_bytes"] {
        assert!(report["server"][fact].is_u64(), "{fact}: {}", report["unknown"]);
    }
    assert!(result["server_cpu_seconds"].is_number(), "{}", report["unknown"]);
    assert!(report["server"]["host"]["kernel"].is_string() && report["client"]["host"].is_object());
}

#[test]
fn a_closed_port_is_said_for_what_it_is() {
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let closed = closed.to_string();
    for scenario in ["download", "hps"] {
        let run = ["perf", "run", &closed, "--insecure", "--scenario", scenario];
        let out = Command::new(BINARY).args(run).output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(1), "{scenario}: {said}");
        assert!(said.contains("no socket listens") && said.contains(&closed), "{scenario}: {said}");
    }
}

#[test]
fn options_without_effect_are_refused() {
    for (line, words) in [
        ("--connections 0", ["--connections 0", "1 to"]),
        ("--scenario rps --streams 0", ["--streams 0", "1 to"]),
        ("--scenario latency --up 7", ["--up 7", "8 to"]),
        ("--scenario download --up 100", ["--up", "rps, latency"]),
        ("--rate 5", ["--rate", "rps, latency"]),
        ("--seconds abc", ["abc", "number"]),
        ("--seconds -1", ["--seconds -1", "86400"]),
        ("--interval 0.001", ["--interval 0.001", "0.1"]),
    ] {
        let line = format!("perf run 127.0.0.1:1 --insecure {line}");
        let out = Command::new(BINARY).args(line.split_whitespace()).output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{line}: {said}");
        for word in words {
            assert!(said.contains(word), "{line}: no {word} in {said}");
        }
        assert!(out.stdout.is_empty() && !said.contains("literal"), "{line}: {said}");
    }
}

#[test]
fn thousands_of_connections_are_made_at_the_pace_of_the_inbox() {
    let server = serve(&[]);
    // More than an inbox takes at once (4,096).
    let line = "--scenario latency --connections 4200 --rate 50 --seconds 1 --interval 0.5";
    let (code, report, said) = result(&server, line);
    assert_eq!(code, 0, "{said} {}", report["result"]);
    assert_eq!(report["result"]["connections_at_end"], 4200);
    assert_eq!(report["result"]["handshake"]["count"], 4200);
    assert!(said.contains("of 4200 connections"), "{said}");
}

/// The limits of an operator hold, and the server reports at its end what it refused.
#[test]
fn a_source_has_as_many_connections_as_the_server_says() {
    let server = serve(&["--max-per-source", "1"]);
    let mut command = run(&server, "--scenario latency --connections 3 --seconds 1 --json");
    let _some_fail = command.output().unwrap();
    let end = server.stop().last;
    let of = |name: &str| {
        let rows = end["counters"].as_array().unwrap().iter();
        rows.filter_map(|row| row["lane"][name].as_u64()).sum::<u64>()
    };
    assert!(of("refused_source_connections") >= 1, "{end}");
    assert!(of("accepted") >= 1, "{end}");
}
