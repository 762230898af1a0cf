//! The command line of a new user: the first mistakes, their messages and exit codes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quiclane_testkit::server::{Scratch, Server};
use std::process::{Command, Output, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_quiclane");

fn quiclane(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).output().unwrap()
}

/// Exit code and standard error; standard output has to be empty.
fn failure(args: &[&str]) -> (i32, String) {
    let out = quiclane(args);
    assert!(out.stdout.is_empty(), "data without success: {out:?}");
    (out.status.code().unwrap(), String::from_utf8(out.stderr).unwrap())
}

/// A server of everything in the directory `files` of a place, and of measurements.
fn serve(place: &Scratch) -> Server {
    std::fs::create_dir_all(place.at("files")).unwrap();
    let arguments = ["serve", "--perf", "--files", &place.text("files")];
    Server::on_loopback(BINARY, place, &arguments)
}

#[test]
fn mistakes_are_named_with_value_and_remedy() {
    let cases: [(&[&str], i32, &[&str]); 8] = [
        (&["serve", "--io", "xdp"], 2, &["--dev"]),
        (&["serve", "--dev", "lo", "--queues", "0-x"], 2, &["--queues", "0-x"]),
        (&["serve", "--files", "/nowhere/at/all"], 2, &["/nowhere/at/all"]),
        (&["serve", "--io", "xdp", "--dev", "no-such-dev0"], 2, &["no-such-dev0"]),
        (&["get", "127.0.0.1:1", "/x", "--ca", "/nowhere.pem"], 2, &["/nowhere.pem"]),
        (&["perf", "run", "127.0.0.1:1", "--insecure", "--seconds", "0"], 2, &["--seconds"]),
        (&["get", "nonsense", "/x"], 2, &["nonsense"]),
        (&["serve", "--cert", "/dev/null", "--key", "/dev/null"], 2, &["--key /dev/null"]),
    ];
    for (args, code, words) in cases {
        let (got, text) = failure(args);
        assert_eq!(got, code, "{args:?}: {text}");
        for word in words {
            assert!(text.contains(word), "{args:?} does not name {word}: {text}");
        }
    }
}

#[test]
fn a_port_in_use_is_named() {
    let held = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let (code, text) = failure(&["serve", "--listen", &address]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(&held.local_addr().unwrap().port().to_string()), "{text}");
    // It waits for an owner that is about to end, and logs that before.
    assert!(text.contains("waiting up to 1s for it"), "{text}");
}

#[test]
fn a_second_server_on_a_port_is_refused() {
    let place = Scratch::new("cli-second");
    place.write("files/data", "data");
    let server = serve(&place);
    let (code, text) = failure(&["serve", "--perf", "--listen", server.address()]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(server.address()) && text.contains("in use"), "{text}");
    // The first goes on.
    let got = quiclane(&["get", server.address(), "/data", "--pin", &place.text("cert.pem")]);
    assert_eq!(got.stdout, b"data");
}

#[test]
fn a_file_is_fetched_and_counted() {
    let place = Scratch::new("cli-get");
    let content: Vec<u8> = (0..3_000_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
    place.write("files/data", &content);
    let server = serve(&place);
    let got = quiclane(&["get", server.address(), "/data", "--pin", &place.text("cert.pem")]);
    assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
    assert!(got.stdout == content, "{} of {} bytes", got.stdout.len(), content.len());
    let (code, text) =
        failure(&["get", server.address(), "/none", "--pin", &place.text("cert.pem")]);
    assert_eq!(code, 1);
    assert!(text.contains("/none"), "{text}");
    let end = server.stop().last;
    assert_eq!(end["schema"], "quiclane.serve/1");
    let rows = end["queues"].as_array().unwrap();
    let connections = rows.iter().map(|row| row["connections_total"].as_u64().unwrap());
    assert_eq!(connections.sum::<u64>(), 2, "on one worker for each CPU");
}

#[test]
fn a_server_that_is_not_trusted_is_refused() {
    let place = Scratch::new("cli-trust");
    let server = serve(&place);
    let other = Scratch::new("cli-other");
    let _other = serve(&other);
    let pin = other.text("cert.pem");
    let (code, text) = failure(&["get", server.address(), "/x", "--pin", &pin]);
    assert_eq!(code, 1, "{text}");
    assert!(!text.is_empty());
}

#[test]
fn every_scenario_reports_one_object() {
    let place = Scratch::new("cli-perf");
    let server = serve(&place);
    for scenario in ["upload", "download", "rps", "hps", "latency"] {
        let out = quiclane(&[
            "perf",
            "run",
            server.address(),
            "--scenario",
            scenario,
            "--seconds",
            "0.3",
            "--connections",
            "2",
            "--pin",
            &place.text("cert.pem"),
            "--json",
        ]);
        assert!(out.status.success(), "{scenario}: {}", String::from_utf8_lossy(&out.stderr));
        let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(report["schema"], "quiclane.perf/1");
        let result = &report["result"];
        assert_eq!(result["scenario"], scenario);
        let moved = if scenario == "hps" { &result["requests"] } else { &result["bytes"] };
        assert!(moved.as_u64().unwrap() > 0, "{scenario} moved nothing: {report}");
        assert!(result["server_cpu_seconds"].is_number(), "{report}");
    }
}

#[test]
fn standard_output_that_takes_nothing_is_named() {
    let place = Scratch::new("cli-full");
    place.write("files/data", "data");
    let server = serve(&place);
    let pin = place.text("cert.pem");
    let get = ["get", server.address(), "/data", "--pin", &pin];
    let run = ["perf", "run", server.address(), "--pin", &pin, "--seconds", "0.1"];
    for args in [&get[..], &run, &["serve", "--listen", "127.0.0.1:0"], &["completions", "bash"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let out = Command::new(BINARY).args(args).stdout(full).output().unwrap();
        let text = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(1), "{args:?}: {text}");
        assert!(text.contains("standard output: No space left"), "{args:?}: {text}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let place = Scratch::new("cli-pipe");
    place.write("files/data", vec![7; 2_000_000]);
    let server = serve(&place);
    let mut child = Command::new(BINARY)
        .args(["get", server.address(), "/data", "--pin", &place.text("cert.pem")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
