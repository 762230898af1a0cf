//! The reading verbs on a running machine: a veth in a namespace, with a server on it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quiclane_fixtures::schema;
use quiclane_testkit::netns::{Lab, LabConfig, Side, privileged};
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
    sent_packets_are_counted(&lab);
}

/// `flow explain --verify`, of a flow from the client that it sends itself, or watches.
fn verify(device: &str, args: &[&str]) -> Vec<String> {
    let source = format!("{}:5555", Side::Client.ip(false));
    let destination = format!("{}:{PORT}", Side::Server.ip(false));
    ["flow", "explain", device, &source, &destination, "--verify", "--json"]
        .iter()
        .chain(args)
        .map(|&word| word.to_owned())
        .collect()
}

/// What it says, with its exit code.
fn verified(lab: &Lab, args: &[&str]) -> (Option<i32>, Value) {
    let namespace = lab.namespace(Side::Client);
    let device = lab.device(Side::Server);
    let sending = ["--send-from-netns", &namespace, "--packets", "50"];
    let args = verify(&device, &[&sending, args].concat());
    let out = quiclane(lab, &args.iter().map(String::as_str).collect::<Vec<_>>());
    let answer = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    let file = include_str!("../../schemas/flow_explain.json");
    let faults = schema::faults(&serde_json::from_str(file).unwrap(), &answer);
    assert!(faults.is_empty(), "{faults:?}");
    (out.status.code(), answer)
}

/// A veth has no RSS, so that nothing is predicted; where the packets went is told all the same.
/// The server's program stays where it is, and the counters have to do.
fn sent_packets_are_counted(lab: &Lab) {
    let (code, answer) = verified(lab, &[]);
    let seen = &answer["verify"];
    assert_eq!(code, Some(4), "{answer}");
    assert_eq!((&answer["outcome"], &seen["verdict"]), (&json!("unknown"), &json!("unsure")));
    let counted = seen["counted"].as_array().unwrap();
    let packets: u64 = counted.iter().map(|queue| queue["packets"].as_u64().unwrap()).sum();
    assert!((50..60).contains(&packets), "{answer}");
    assert_eq!((&seen["way"], &seen["reported"]), (&json!("counters"), &json!([])), "{answer}");
    assert!(seen["way_reason"].as_str().unwrap().contains("quiclane_steer"), "{answer}");
    let args = verify(&lab.device(Side::Server), &["--by", "rx-hash"]);
    let required = quiclane(lab, &args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(required.status.code(), Some(4), "{required:?}");
    assert!(String::from_utf8_lossy(&required.stderr).contains("quiclane_steer"), "{required:?}");
}

/// A veth reports the kernel's own hash: the queue is compared, the hash is told.
#[test]
fn a_flow_is_verified_by_what_the_driver_reports() {
    if !privileged("a_flow_is_verified_by_what_the_driver_reports") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 1 });
    let (code, answer) = verified(&lab, &[]);
    let seen = &answer["verify"];
    assert_eq!((code, &seen["verdict"]), (Some(0), &json!("match")), "{answer}");
    assert_eq!((&seen["way"], &seen["way_reason"]), (&json!("rx_hash"), &Value::Null), "{answer}");
    let [reported] = &seen["reported"].as_array().unwrap()[..] else { panic!("{answer}") };
    assert_eq!(
        (&reported["queue"], &reported["packets"], &reported["hash_type"], &reported["error"]),
        (&json!(0), &json!(50), &json!("l4"), &Value::Null)
    );
    assert!(reported["hash"].as_str().unwrap().starts_with("0x"), "{answer}");
    assert_eq!(seen["predicted_hash"], Value::Null, "{answer}");
    assert!(seen["why"].as_str().unwrap().contains("no RSS key"), "{answer}");
    let (code, answer) = verified(&lab, &["--by", "counters"]);
    assert_eq!((code, &answer["verify"]["way"]), (Some(4), &json!("counters")), "{answer}");
    // Programs of other processes, on no device, may be there.
    let programs = json(&lab, &["xdp", "list"])["rows"].as_array().unwrap().clone();
    assert!(programs.iter().all(|row| row["device"].is_null()), "{programs:?}");
}

/// The attachment is a link: it dies with the process, however that dies.
#[test]
fn a_killed_verification_leaves_no_program() {
    if !privileged("a_killed_verification_leaves_no_program") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 1 });
    // Those on a device: other processes' programs, which are on none, come and go.
    let programs = || {
        let rows = json(&lab, &["xdp", "list"])["rows"].as_array().unwrap().clone();
        rows.iter().filter(|row| !row["device"].is_null()).count()
    };
    let wait_for = |wanted| {
        let pause = std::time::Duration::from_millis(20);
        let found = (0..500).any(|_| {
            std::thread::sleep(pause);
            programs() == wanted
        });
        assert!(found, "{} programs, not {wanted}", programs());
    };
    let mut watching = Command::new("ip")
        .args(["netns", "exec", &lab.namespace(Side::Server), env!("CARGO_BIN_EXE_quiclane")])
        .args(verify(&lab.device(Side::Server), &["--seconds", "600"]))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(1);
    watching.kill().unwrap();
    watching.wait().unwrap();
    wait_for(0);
}
