//! `quiclane doctor` on the running kernel: a veth with a server on it, in a namespace. Needs root;
//! skips loudly without, fails without where `QUICLANE_REQUIRE_ROOT=1`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quiclane_testkit::netns::{Lab, LabConfig, Side, privileged};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The program in the server's namespace; `ip` becomes it, so the process is the program's.
fn quiclane(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &lab.namespace(Side::Server), env!("CARGO_BIN_EXE_quiclane")]);
    command.args(arguments);
    command
}

/// A server that ends with the test.
struct Server(Child);

impl Server {
    fn start(lab: &Lab, device: &str, queues: &str) -> Self {
        let listen = "10.77.0.1:4433";
        let mut arguments = vec!["serve", "--listen", listen, "--dev", device, "--share-cpus"];
        arguments.extend(["--queues", queues, "--json"]);
        let child = quiclane(lab, &arguments).stdout(Stdio::piped()).spawn();
        let mut server = Self(child.unwrap());
        let mut ready = String::new();
        BufReader::new(server.0.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
        assert!(ready.contains("\"ready\""), "{ready}");
        server
    }

    fn status_file(&self) -> PathBuf {
        PathBuf::from(format!("/run/quiclane/{}.json", self.0.id()))
    }

    /// Ends it as an operator would.
    fn stop(mut self) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The output of `doctor`, and its exit code.
fn doctor(lab: &Lab, arguments: &[&str]) -> (Value, i32) {
    let out = quiclane(lab, &[&["doctor", "--json"], arguments].concat()).output().unwrap();
    let report = serde_json::from_slice(&out.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&out.stderr));
    });
    (report, out.status.code().unwrap())
}

fn find<'a>(report: &'a Value, list: &str, id: &str) -> Option<&'a Value> {
    report[list].as_array().unwrap().iter().find(|entry| entry["id"] == id)
}

#[test]
fn a_server_on_a_veth_is_seen_and_judged() {
    if !privileged("a_server_on_a_veth_is_seen_and_judged") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let device = lab.device(Side::Server);
    // No server is there yet: a virtual device is looked at only by name.
    let (report, _) = doctor(&lab, &[]);
    assert_eq!(report["schema"], "quiclane.doctor/1");
    assert_eq!(report["devices"], serde_json::json!([]));
    let server = Server::start(&lab, &device, "0-1");
    let (report, _) = doctor(&lab, &[]);
    assert_eq!(report["devices"], serde_json::json!([device]));
    for id in ["QL003", "QL008", "QL009", "QL020", "QL040", "QL043", "QL045", "QL050"] {
        assert_eq!(find(&report, "findings", id), None, "{report:#}");
        // The driver shows no table: then QL008 judges the queues.
        let is_gap = find(&report, "not_judged", id).is_some();
        assert_eq!(is_gap, id == "QL003", "{id}: {report:#}");
    }
    // The other end is in another namespace, and is not guessed at.
    assert!(find(&report, "not_judged", "QL069").is_some(), "{report:#}");
    let file = format!("/sys/class/net/{device}/queues/rx-1/rps_cpus");
    lab.run(Side::Server, &["sh", "-c", &format!("echo 1 > {file}")]);
    let (report, code) = doctor(&lab, &[&device]);
    let finding = find(&report, "findings", "QL020").expect("RPS is on");
    assert_eq!(finding["mend"], format!("quiclane plan {device}"));
    assert_eq!(finding["read"][0]["from"], *file);
    assert_eq!((finding["severity"].as_str(), code), (Some("warn"), 1));
    let status = server.status_file();
    assert!(status.is_file(), "{} is not there", status.display());
    server.stop();
    assert!(!status.exists(), "{} is left behind", status.display());
}

/// Others change the queues of a device that is served: the server hears of it, and counts.
#[test]
fn a_change_of_the_device_is_heard() {
    if !privileged("a_change_of_the_device_is_heard") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let device = lab.device(Side::Server);
    // A queue that has a socket cannot be taken away.
    let server = Server::start(&lab, &device, "0");
    let changes = || {
        let text = std::fs::read_to_string(server.status_file()).unwrap();
        let status: Value = serde_json::from_str(&text).unwrap();
        status["device_changes"]["channels"].as_u64()
    };
    // The file is written about once a second, and at the start without a look at the device.
    let becomes = |count: u64| {
        let is_there = (0..400).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            changes() == Some(count)
        });
        assert!(is_there, "{:?} changes heard, and not {count}", changes());
    };
    becomes(0);
    // Transmit queues: native XDP needs the receive queues.
    for queues in ["1", "2"] {
        let set = lab.run(Side::Server, &["ethtool", "-L", &device, "tx", queues]);
        assert!(set.status.success(), "{set:?}");
    }
    becomes(2);
    server.stop();
}

#[test]
fn mistakes_are_named() {
    let run = |arguments: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_quiclane")).args(arguments).output().unwrap();
        (out.status.code().unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    let cases: [(&[&str], &str); 5] = [
        (&["doctor", "no-such-dev0"], "no-such-dev0"),
        (&["doctor", "--explain", "QL999"], "QL999"),
        (&["doctor", "--watch-seconds", "0"], "--watch-seconds 0"),
        (&["doctor", "--watch-seconds", "NaN"], "--watch-seconds NaN"),
        (&["doctor", "--root", "/nowhere"], "/nowhere"),
    ];
    for (arguments, word) in cases {
        let (code, text) = run(arguments);
        assert_eq!(code, 2, "{arguments:?}: {text}");
        assert!(text.contains(word), "{arguments:?} does not name {word}: {text}");
    }
}

#[test]
fn the_list_has_every_text() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quiclane"));
    let out = command.args(["doctor", "--list", "--json"]).output().unwrap();
    let list: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(list["schema"], "quiclane.doctor_list/1");
    let kinds = list["kinds"].as_array().unwrap();
    assert!(kinds.len() >= 60, "{}", kinds.len());
    for kind in kinds {
        for field in ["id", "severity", "title", "scope", "reads", "why", "mend", "afterwards"] {
            assert!(kind[field].as_str().is_some_and(|text| !text.is_empty()), "{kind}");
        }
    }
}
