//! The reading verbs on machines that were made for tests: their text, their JSON, and their errors.
//!
//! The text is compared with the files below `expected`, which were checked by reading.
//! `QUICLANE_EXPECTED=write` writes them again, and then they have to be read again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quiclane_fixtures::{Tree, Written};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const FLOW: [&str; 2] = ["192.0.2.7:50123", "198.51.100.1:443"];

fn quiclane(root: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quiclane"))
        .args(args)
        .arg("--root")
        .arg(root)
        .output()
        .unwrap()
}

/// Standard output of a success.
fn said(root: &Path, args: &[&str]) -> String {
    let out = quiclane(root, args);
    assert!(out.status.success(), "{args:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

fn json(root: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&said(root, &[args, &["--json"]].concat())).unwrap()
}

fn written(tree: &Tree) -> Written {
    tree.written()
}

/// Compares with the file of that name.
#[track_caller]
fn expect(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/expected").join(name);
    if std::env::var_os("QUICLANE_EXPECTED").is_some_and(|what| what == "write") {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == expected, "{}:\n{expected}\nand now:\n{text}", path.display());
}

/// Everything that the verbs say about a device, one after another.
fn all_about(root: &Path, device: &str) -> String {
    let verbs: [&[&str]; 5] = [
        &["nic", "list"],
        &["queue", "show", device],
        &["rss", "show", device],
        &["xdp", "list"],
        &["flow", "explain", device, FLOW[0], FLOW[1]],
    ];
    let one = |verb: &&[&str]| format!("$ quiclane {}\n{}\n", verb.join(" "), said(root, verb));
    verbs.iter().map(one).collect()
}

#[test]
fn a_server_that_is_well() {
    let machine = written(&quiclane_fixtures::two_node_ice());
    expect("two_node_ice.txt", &all_about(machine.path(), "eth0"));
}

#[test]
fn a_server_whose_interrupts_are_on_the_wrong_node() {
    let machine = written(&quiclane_fixtures::two_node_ice_crossed());
    expect("two_node_ice_crossed.txt", &all_about(machine.path(), "eth0"));
}

#[test]
fn a_cloud_instance() {
    let machine = written(&quiclane_fixtures::ena());
    expect("ena.txt", &all_about(machine.path(), "eth0"));
}

#[test]
fn a_virtual_machine() {
    let machine = written(&quiclane_fixtures::virtio());
    expect("virtio.txt", &all_about(machine.path(), "enp1s0"));
}

#[test]
fn a_namespace() {
    let machine = written(&quiclane_fixtures::veth());
    expect("veth.txt", &all_about(machine.path(), "veth0"));
}

#[test]
fn a_machine_that_does_not_know_its_nodes() {
    let machine = written(&quiclane_fixtures::lost_node());
    let text =
        said(machine.path(), &["nic", "list"]) + &said(machine.path(), &["queue", "show", "eth1"]);
    expect("lost_node.txt", &text);
}

#[test]
fn everything_fits_80_columns_where_the_values_do() {
    for file in
        std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/expected")).unwrap()
    {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        // Sentences may wrap; columns may not.
        let is_column =
            |line: &&str| !line.starts_with(['?', '!', '$', ' ']) && !line.contains(": ");
        for line in text.lines().filter(is_column) {
            assert!(line.chars().count() <= 80, "{}: {line}", path.display());
        }
    }
}

#[test]
fn rows_name_their_schema_and_say_why_something_is_unknown() {
    let machine = written(&quiclane_fixtures::lost_node());
    let root = machine.path();
    let list = json(root, &["nic", "list"]);
    assert_eq!(list["schema"], "quiclane.nic_list/1");
    let eth0 = &list["rows"][0];
    assert_eq!((&eth0["name"], &eth0["node"]), (&json!("eth0"), &Value::Null));
    assert!(eth0["unknown"]["node"].as_str().unwrap().contains("reads -1"), "{eth0}");
    assert_eq!(eth0["xdp"]["zerocopy"], true);
    let show = json(root, &["queue", "show", "eth0"]);
    assert_eq!(show["schema"], "quiclane.queue_show/1");
    let row = &show["rows"][3];
    let worker = &row["socket"]["worker"];
    assert_eq!((&row["irq"], &row["cpus"]), (&json!(124), &json!([3])));
    assert_eq!((&row["socket"]["process"]["pid"], &worker["tid"]), (&json!(812), &json!(816)));
    assert_eq!(row["crosses_node"], Value::Null, "the device's node is unknown");
    let rss = json(root, &["rss", "show", "eth0"]);
    assert_eq!(rss["schema"], "quiclane.rss_show/1");
    assert_eq!(rss["contexts"][0]["queues"][5]["slots"], 32);
    let xdp = json(root, &["xdp", "list"]);
    assert_eq!(
        (&xdp["schema"], &xdp["rows"][0]["program"]),
        (&json!("quiclane.xdp_list/1"), &json!(198))
    );
    assert_eq!(xdp["rows"][0]["sockets"].as_array().unwrap().len(), 16);
}

/// Microsoft's first vector, through the program: the hash has to be 0x51ccc178, slot 120.
#[test]
fn a_known_answer_comes_out_of_the_program() {
    let mut tree = quiclane_fixtures::ena();
    let key = tree.answered("device/eth0/rss").unwrap()[0]["key"].clone();
    assert_eq!(key, json!(quiclane::topology::toeplitz::MICROSOFT_KEY.to_vec()));
    tree.answer("device/eth0/rules", json!([]));
    let machine = written(&tree);
    let flow = ["flow", "explain", "eth0", "66.9.149.187:2794", "161.142.100.80:1766"];
    let answer = json(machine.path(), &flow);
    assert_eq!(answer["schema"], "quiclane.flow_explain/1");
    let hash = &answer["hash"];
    assert_eq!((&hash["hash"], &hash["slot"]), (&json!("0x51ccc178"), &json!(120)));
    assert_eq!((&answer["queue"], &answer["outcome"]), (&json!(0), &json!("queue")));
    assert_eq!(answer["is_sure"], false, "ena has a seed of its own: {answer}");
    let tcp = json(machine.path(), &[&flow[..], &["--proto", "tcp"]].concat());
    assert_eq!(tcp["flow_type"], "tcp4");
}

/// The hashed fields, and that no source tells them, are nothing to an operator of one queue.
#[test]
fn one_queue_has_nothing_to_spread() {
    let mut captured = quiclane_fixtures::captured().into_iter();
    let (_, root, _) = captured.find(|(name, ..)| name == "veth").unwrap();
    let root = root.as_path();
    let said_of_lo = said(root, &["rss", "show", "lo"]);
    assert_eq!(said_of_lo, "lo: every packet arrives on the only queue\n");
    let plan = said(root, &["plan", "lo"]);
    let about: Vec<&str> = plan.lines().filter(|line| line.contains("rss")).collect();
    assert_eq!(about, ["left out: rss: every packet arrives on the only queue"]);
    assert!(!plan.contains("hash"), "{plan}");
    let doctor = String::from_utf8(quiclane(root, &["doctor", "lo"]).stdout).unwrap();
    assert!(!doctor.contains("hash"), "{doctor}");
    // JSON has each field still, and why it is not known.
    let unknown = json(root, &["rss", "show", "lo"])["unknown"].clone();
    assert!(
        unknown["hash_fields"].as_str().unwrap().contains("which fields it hashes"),
        "{unknown}"
    );
    assert!(said(root, &["rss", "show", "veth0"]).contains("hash_fields"), "two queues");
}

#[test]
fn a_rule_goes_before_the_hash() {
    let mut tree = quiclane_fixtures::two_node_ice();
    let rule = |location: u32, others: &[&str]| {
        json!({"location": location, "flow": "udp4", "source": null, "destination": null,
               "source_port": null, "destination_port": [443, 65535], "vlan": null,
               "action": {"queue": 11}, "others": others})
    };
    tree.answer("device/eth0/rules", json!([rule(4, &[])]));
    let args = ["flow", "explain", "eth0", FLOW[0], FLOW[1]];
    let text = said(written(&tree).path(), &args);
    assert!(text.contains("4 matches: queue 11") && text.contains("on CPU 11"), "{text}");
    tree.answer("device/eth0/rules", json!([rule(4, &["user-def bytes"])]));
    let machine = written(&tree);
    let answer = json(machine.path(), &args);
    assert_eq!(
        (&answer["is_sure"], &answer["rules"][0]["matches"]),
        (&json!(false), &json!("maybe"))
    );
    assert!(said(machine.path(), &args).contains("user-def bytes"));
}

#[test]
fn a_program_on_no_device_is_folded_unless_nobody_holds_it() {
    let mut tree = quiclane_fixtures::two_node_ice();
    tree.edit_answer("programs", |programs| {
        let mut helper = programs[0].clone();
        (helper["id"], helper["links"]) = (json!(199), json!([]));
        let mut stale = helper.clone();
        (stale["id"], stale["processes"]) = (json!(77), json!([]));
        stale["pins"] = json!(["/sys/fs/bpf/old_steer"]);
        programs.as_array_mut().unwrap().extend([helper, stale]);
    });
    let machine = written(&tree);
    let text = said(machine.path(), &["xdp", "list"]);
    assert!(
        text.contains("and 1 XDP program on no device here") && !text.contains("199"),
        "{text}"
    );
    assert!(text.contains("program 77 is pinned at /sys/fs/bpf/old_steer"), "{text}");
    assert!(said(machine.path(), &["xdp", "list", "--all"]).contains("199"));
}

#[test]
fn a_connection_id_tells_what_it_can() {
    let machine = written(&quiclane_fixtures::two_node_ice());
    let config =
        quiclane::lb::Config { config_id: 1, server_id: 5, key: Some([0xab; 16]), secret: [0; 16] };
    let route = quiclane::lb::Route { process: 1, worker: 3, slot: 41, generation: 9 };
    let id = quiclane::lb::Codec::new(&config).unwrap().encode(route, 7);
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let id = hex(id.as_slice());
    let args = ["flow", "explain", "eth0", FLOW[0], FLOW[1], "--cid", &id];
    let closed = json(machine.path(), &args);
    let closed = &closed["connection_id"];
    assert_eq!((&closed["config_id"], &closed["worker"]), (&json!(1), &Value::Null));
    assert!(closed["unknown"].as_str().unwrap().contains("--cid-key"));
    let key = hex(&[0xab; 16]);
    let text = said(machine.path(), &[&args[..], &["--cid-key", &key]].concat());
    assert!(text.contains("server 5, process 1, worker 3, slot 41, generation 9"), "{text}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let machine = written(&quiclane_fixtures::two_node_ice_64());
    let mut child = Command::new(env!("CARGO_BIN_EXE_quiclane"))
        .args(["queue", "show", "eth0", "--json", "--root"])
        .arg(machine.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // 64 rows are more than a pipe holds: the rest meets no reader.
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
}

#[test]
fn mistakes_are_answered_with_the_thing_and_the_remedy() {
    let machine = written(&quiclane_fixtures::two_node_ice());
    let root = machine.path();
    let nowhere = std::env::temp_dir();
    let flow = ["flow", "explain", "eth0", FLOW[0], FLOW[1]];
    let with = |more: &[&'static str]| [&flow[..], more].concat();
    let cases: [(&Path, Vec<&str>, i32, &str); 9] = [
        (root, vec!["queue", "show", "eth7"], 2, "eth0, eth1, lo"),
        (root, vec!["rss", "show", "eth7"], 2, "eth7"),
        (root, vec!["flow", "explain", "eth7", FLOW[0], FLOW[1]], 2, "eth7"),
        (root, vec!["flow", "explain", "eth0", FLOW[0]], 2, "DST:PORT"),
        (&nowhere, vec!["nic", "list"], 2, "quiclane bundle"),
        (&nowhere, vec!["xdp", "list"], 2, "not a captured machine"),
        (root, with(&["--verify"]), 2, "--root"),
        (root, with(&["--cid", "xyz"]), 2, "hex"),
        (root, vec!["flow", "explain", "eth0", "--pcap", "/nowhere.pcap"], 2, "/nowhere.pcap"),
    ];
    for (root, args, code, word) in cases {
        let out = quiclane(root, &args);
        let text = String::from_utf8_lossy(&out.stderr);
        assert!(out.stdout.is_empty(), "{args:?}: {out:?}");
        assert_eq!(out.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(word), "{args:?} does not say {word}: {text}");
    }
}
