//! The reading verbs on a running machine: a veth in a namespace, with a server on it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../tests/common/netns.rs"]
mod netns;

use netns::{Lab, LabConfig, Side, privileged};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

const QUEUES: u32 = 2;
const PORT: u16 = 4433;

/// A server on every queue of the device. Dropped, it is killed.
struct Server(Child);

impl Server {
    fn start(lab: &Lab) -> Self {
        let address = format!("{}:{PORT}", Side::Server.ip(false));
        // The id of `ip netns exec` is that of the server, which takes its place.
        let mut child = Command::new("ip")
            .args(["netns", "exec", &lab.namespace(Side::Server)])
            .args([env!("CARGO_BIN_EXE_quiclane"), "serve", "--json", "--listen", &address])
            .args(["--io", "xdp", "--dev", &lab.device(Side::Server), "--share-cpus"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
        assert!(ready.contains("\"event\":\"ready\""), "{ready:?}");
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails if it has ended, which is as well.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn quiclane(lab: &Lab, args: &[&str]) -> Output {
    lab.run(Side::Server, &[&[env!("CARGO_BIN_EXE_quiclane")], args].concat())
}

fn json(lab: &Lab, args: &[&str]) -> Value {
    let out = quiclane(lab, &[args, &["--json"]].concat());
    serde_json::from_slice(&out.stdout).unwrap_or_else(|error| panic!("{error}: {out:?}"))
}

#[test]
fn a_server_is_found_behind_its_queues() {
    if !privileged("a_server_is_found_behind_its_queues") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: QUEUES });
    let device = lab.device(Side::Server);
    let before = json(&lab, &["queue", "show", &device]);
    assert_eq!(before["rows"][0]["socket"], Value::Null, "{before}");
    let server = Server::start(&lab);
    let pid = server.0.id();
    let show = json(&lab, &["queue", "show", &device]);
    assert_eq!(show["rows"].as_array().unwrap().len(), QUEUES as usize);
    for (queue, row) in show["rows"].as_array().unwrap().iter().enumerate() {
        let (process, worker) = (&row["socket"]["process"], &row["socket"]["worker"]);
        assert_eq!(process["pid"], json!(pid), "{row}");
        assert_eq!(
            (&worker["queue"], &worker["cpus"].as_array().unwrap().len()),
            (&json!(queue), &1)
        );
    }
    let list = json(&lab, &["xdp", "list"]);
    let row = &list["rows"][0];
    assert_eq!((&row["device"], &row["mode"]), (&json!(device), &json!("native")), "{list}");
    assert_eq!(row["sockets"], json!([{"queue": 0, "pid": pid}, {"queue": 1, "pid": pid}]));
    sent_packets_are_counted(&lab, &device);
}

/// A veth has no RSS, so that nothing is predicted; where the packets went is told all the same.
fn sent_packets_are_counted(lab: &Lab, device: &str) {
    let source = format!("{}:5555", Side::Client.ip(false));
    let destination = format!("{}:{PORT}", Side::Server.ip(false));
    let namespace = lab.namespace(Side::Client);
    let args = [
        "flow",
        "explain",
        device,
        &source,
        &destination,
        "--verify",
        "--send-from-netns",
        &namespace,
        "--packets",
        "50",
        "--json",
    ];
    let out = quiclane(lab, &args);
    assert_eq!(out.status.code(), Some(4), "{out:?}");
    let answer: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(
        (&answer["outcome"], &answer["verify"]["verdict"]),
        (&json!("unknown"), &json!("unsure"))
    );
    let counted = answer["verify"]["counted"].as_array().unwrap();
    let packets: u64 = counted.iter().map(|queue| queue["packets"].as_u64().unwrap()).sum();
    assert!((50..60).contains(&packets), "{answer}");
}
