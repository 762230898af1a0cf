//! The command line as a new user meets it: the first mistakes, their words and exit codes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};

fn quiclane(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quiclane")).args(args).output().unwrap()
}

/// Exit code and standard error; standard output has to be empty.
fn failure(args: &[&str]) -> (i32, String) {
    let out = quiclane(args);
    assert!(out.stdout.is_empty(), "data without success: {out:?}");
    (out.status.code().unwrap(), String::from_utf8(out.stderr).unwrap())
}

/// A server that ends with the test.
struct Server {
    child: Child,
    address: String,
    certificate: std::path::PathBuf,
}

impl Server {
    fn start(files: &std::path::Path) -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("quiclane-cli-{}-{number}.pem", std::process::id());
        let certificate = std::env::temp_dir().join(name);
        let mut child = Command::new(env!("CARGO_BIN_EXE_quiclane"))
            .args(["serve", "--perf", "--listen", "127.0.0.1:0", "--json", "--files"])
            .arg(files)
            .arg("--cert-out")
            .arg(&certificate)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = ready["listen"].as_str().unwrap().to_owned();
        Self { child, address, certificate }
    }

    fn trust(&self) -> &str {
        self.certificate.to_str().unwrap()
    }

    /// Ends it as an operator would, and gives what it says last.
    fn stop(mut self) -> serde_json::Value {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let mut last = String::new();
        let out = self.child.stdout.take().unwrap();
        for line in BufReader::new(out).lines() {
            last = line.unwrap();
        }
        assert!(self.child.wait().unwrap().success());
        serde_json::from_str(&last).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.certificate);
    }
}

fn directory(name: &str) -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("quiclane-cli-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn mistakes_are_named_with_value_and_remedy() {
    let cases: [(&[&str], i32, &[&str]); 7] = [
        (&["serve", "--io", "xdp"], 2, &["--dev"]),
        (&["serve", "--dev", "lo", "--queues", "0-x"], 2, &["--queues", "0-x"]),
        (&["serve", "--files", "/nowhere/at/all"], 2, &["/nowhere/at/all"]),
        (&["serve", "--io", "xdp", "--dev", "no-such-dev0"], 2, &["no-such-dev0"]),
        (&["get", "127.0.0.1:1", "/x", "--ca", "/nowhere.pem"], 2, &["/nowhere.pem"]),
        (&["perf", "run", "127.0.0.1:1", "--insecure", "--seconds", "0"], 2, &["--seconds"]),
        (&["get", "nonsense", "/x"], 2, &["nonsense"]),
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
}

#[test]
fn a_file_is_fetched_and_counted() {
    let dir = directory("get");
    let content: Vec<u8> = (0..3_000_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
    std::fs::File::create(dir.join("data")).unwrap().write_all(&content).unwrap();
    let server = Server::start(&dir);
    let got = quiclane(&["get", &server.address, "/data", "--pin", server.trust()]);
    assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
    assert!(got.stdout == content, "{} of {} bytes", got.stdout.len(), content.len());
    let (code, text) = failure(&["get", &server.address, "/none", "--pin", server.trust()]);
    assert_eq!(code, 1);
    assert!(text.contains("/none"), "{text}");
    let end = server.stop();
    assert_eq!(end["schema"], "quiclane.serve/1");
    assert_eq!(end["queues"][0]["connections_total"], 2);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_server_that_is_not_trusted_is_refused() {
    let dir = directory("trust");
    let server = Server::start(&dir);
    let other = Server::start(&dir);
    let (code, text) = failure(&["get", &server.address, "/x", "--pin", other.trust()]);
    assert_eq!(code, 1, "{text}");
    assert!(!text.is_empty());
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn every_scenario_reports_one_object() {
    let dir = directory("perf");
    let server = Server::start(&dir);
    for scenario in ["upload", "download", "rps", "hps", "latency"] {
        let out = quiclane(&[
            "perf",
            "run",
            &server.address,
            "--scenario",
            scenario,
            "--seconds",
            "0.3",
            "--connections",
            "2",
            "--pin",
            server.trust(),
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
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let dir = directory("pipe");
    std::fs::write(dir.join("data"), vec![7; 2_000_000]).unwrap();
    let server = Server::start(&dir);
    let mut child = Command::new(env!("CARGO_BIN_EXE_quiclane"))
        .args(["get", &server.address, "/data", "--pin", server.trust()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    std::fs::remove_dir_all(&dir).unwrap();
}
