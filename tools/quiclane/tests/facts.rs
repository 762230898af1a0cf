//! The verbs show facts: things that were once shown wrong, each on a machine that has them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quiclane_fixtures::verbs::Cli;
use quiclane_fixtures::{Tree, two_node_ice, veth};
use serde_json::{Value, json};

fn run(tree: &Tree, args: &[&str]) -> (Option<i32>, String, String) {
    let machine = tree.written();
    let cli = Cli::new(env!("CARGO_BIN_EXE_quiclane"));
    let out = cli.command().args(args).arg("--root").arg(machine.path()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

fn text(tree: &Tree, args: &[&str]) -> String {
    run(tree, args).1
}

fn json(tree: &Tree, args: &[&str]) -> Value {
    let (_, out, error) = run(tree, &[args, &["--json"]].concat());
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out} {error}"))
}

/// A veth without a program, as the driver counts it: only what XDP saw.
fn bare_veth() -> Tree {
    let mut tree = veth();
    tree.refuse("device/veth0/queue_counters", "the driver veth does not report its counters");
    let rows = json!([["rx_queue_0_xdp_packets", 0], ["rx_queue_1_xdp_packets", 0]]);
    tree.answer("device/veth0/statistics", rows).answer("device/veth0/attached", json!([]));
    for (name, count) in
        [("rx_packets", 34_000), ("rx_bytes", 9), ("tx_packets", 1), ("tx_bytes", 2)]
    {
        let file = format!("sys/devices/virtual/net/veth0/statistics/{name}");
        tree.set(&file, count.to_string());
    }
    tree
}

#[test]
fn a_veth_without_a_program_is_not_idle() {
    let show = json(&bare_veth(), &["queue", "show", "veth0"]);
    for row in show["rows"].as_array().unwrap() {
        assert_eq!((&row["packets"], &row["is_idle"]), (&Value::Null, &json!(false)), "{row}");
        let reason = row["unknown"]["packets"].as_str().unwrap();
        assert!(reason.contains("while an XDP program is attached"), "{reason}");
    }
    let out = text(&bare_veth(), &["queue", "show", "veth0"]);
    assert!(!out.contains("idle"), "{out}");
    // With one queue what the device received is what the queue did.
    let mut one = bare_veth();
    one.remove("sys/devices/virtual/net/veth0/queues/rx-1");
    let show = json(&one, &["queue", "show", "veth0"]);
    assert_eq!(show["rows"][0]["packets"], json!(34_000), "{show}");
}

#[test]
fn the_driver_of_a_veth_is_the_same_everywhere() {
    let tree = veth();
    let at = |args: &[&str], field: &str| json(&tree, args).pointer(field).cloned();
    let veth = Some(json!("veth"));
    assert_eq!(at(&["queue", "show", "veth0"], "/driver"), veth);
    assert_eq!(at(&["top", "veth0", "--once"], "/driver"), veth);
    assert_eq!(at(&["topo", "veth0"], "/devices/0/driver"), veth);
    let list = json(&tree, &["nic", "list"]);
    let mut rows = list["rows"].as_array().unwrap().iter();
    assert_eq!(rows.find(|row| row["name"] == "veth0").unwrap()["driver"], json!("veth"));
    assert!(text(&tree, &["queue", "show", "veth0"]).starts_with("veth0: veth,"));
}

#[test]
fn what_a_server_throws_away_is_shown() {
    let mut tree = two_node_ice();
    let show = text(&tree, &["queue", "show", "eth0"]);
    assert!(!show.contains("threw away"), "{show}");
    tree.edit("run/quiclane/812.json", |text| {
        let mut server: Value = serde_json::from_str(text).unwrap();
        server["workers"][3]["dropped"] = json!({"drop_udp_checksum": 7});
        server.to_string()
    });
    let show = text(&tree, &["queue", "show", "eth0"]);
    let row = show.lines().find(|line| line.trim_start().starts_with("3 ")).unwrap();
    assert!(row.ends_with(" 7"), "{row}");
    assert!(show.contains("threw away: drop_udp_checksum 7 >>> quiclane doctor eth0"), "{show}");
    let row = json(&tree, &["queue", "show", "eth0"])["rows"][3].clone();
    assert_eq!(row["server_drops"], json!({"drop_udp_checksum": 7}), "{row}");
    let (code, out, _) = run(&tree, &["doctor", "eth0"]);
    assert!(code == Some(1) && out.contains("QL057"), "{out}");
}

#[test]
fn clients_that_a_server_refuses_are_shown() {
    let mut tree = two_node_ice();
    tree.edit("run/quiclane/812.json", |text| {
        let mut server: Value = serde_json::from_str(text).unwrap();
        server["workers"][3]["refused"] = json!({"refused_source_connections": 7});
        server.to_string()
    });
    let show = text(&tree, &["queue", "show", "eth0"]);
    let line = "refused clients: refused_source_connections 7 >>> quiclane doctor eth0";
    assert!(show.contains(line) && !show.contains("threw away"), "{show}");
    let row = json(&tree, &["queue", "show", "eth0"])["rows"][3].clone();
    assert_eq!(row["server_refused"], json!({"refused_source_connections": 7}), "{row}");
    let (code, out, _) = run(&tree, &["doctor", "eth0"]);
    assert!(code == Some(1) && out.contains("QL058"), "{out}");
    assert!(out.contains(">>> quiclane serve --max-per-source N"), "{out}");
    // A server without these counters is not judged, and not reported as fine.
    tree.edit("run/quiclane/812.json", |text| {
        let mut server: Value = serde_json::from_str(text).unwrap();
        for worker in server["workers"].as_array_mut().unwrap() {
            worker.as_object_mut().unwrap().retain(|name, _| name != "refused");
        }
        server.to_string()
    });
    let report = json(&tree, &["doctor", "eth0"]);
    let gaps = report["not_judged"].as_array().unwrap();
    assert!(gaps.iter().any(|gap| gap["id"] == "QL058"), "{report}");
}

#[test]
fn a_holder_that_nobody_names_is_inferred() {
    let mut tree = two_node_ice();
    let holder = |tree: &Tree| json(tree, &["queue", "show", "eth0"])["rows"][2]["socket"].clone();
    assert_eq!(holder(&tree)["is_inferred"], json!(false));
    // Neither the kernel nor the server tells which queue a socket is of.
    tree.remove("run/quiclane");
    tree.edit_answer("sockets", |all| {
        for socket in all.as_array_mut().unwrap() {
            for field in ["device", "queue"] {
                socket[field] = Value::Null;
            }
        }
    });
    let found = holder(&tree);
    assert_eq!(found["is_inferred"], json!(true), "{found}");
    assert!(found["evidence"].as_str().unwrap().starts_with("inferred: "), "{found}");
    let show = text(&tree, &["queue", "show", "eth0"]);
    assert!(show.contains("~812") && show.contains("~ pid of queues 0-15 is inferred"), "{show}");
}

#[test]
fn a_program_without_a_name_is_said_to_have_none() {
    let mut tree = two_node_ice();
    tree.edit_answer("programs", |programs| programs[0]["name"] = "".into());
    for args in [&["queue", "show", "eth0"][..], &["xdp", "list"]] {
        let out = text(&tree, args);
        assert!(out.contains("CAP_PERFMON"), "{args:?}: {out}");
    }
}

#[test]
fn queues_of_a_map_are_those_of_the_sockets() {
    let mut tree = two_node_ice();
    tree.edit_answer("programs", |programs| programs[0]["maps"][0]["queues"] = Value::Null);
    let list = json(&tree, &["xdp", "list"]);
    let queues: Vec<u32> = (0..16).collect();
    assert_eq!(list["rows"][0]["xskmaps"][0]["queues"], json!(queues), "{list}");
    // Without any socket it is unknown, with the reason.
    tree.remove("run/quiclane").answer("sockets", json!([]));
    tree.edit_answer("device/eth0/queue_links", |links| {
        links.as_array_mut().unwrap().iter_mut().for_each(|link| link["has_xsk"] = false.into());
    });
    let list = json(&tree, &["xdp", "list"]);
    assert_eq!(list["rows"][0]["xskmaps"][0]["queues"], Value::Null, "{list}");
    assert!(list["unknown"]["xskmap.301.queues"].is_string(), "{list}");
}

#[test]
fn native_is_not_claimed_where_it_would_be_refused() {
    let mut tree = two_node_ice();
    let eth0 = |tree: &Tree| {
        let list = json(tree, &["nic", "list"]);
        let rows = list["rows"].as_array().unwrap();
        rows.iter().find(|row| row["name"] == "eth0").unwrap()["xdp"].clone()
    };
    assert_eq!((&eth0(&tree)["native"], &eth0(&tree)["refused"]), (&json!(true), &Value::Null));
    tree.edit_answer("device/eth0/features", |features| {
        features["rx-gro-hw"] = json!({"active": true, "wanted": true, "changeable": false});
    });
    let xdp = eth0(&tree);
    assert_eq!((&xdp["native"], &xdp["refused"]), (&json!(false), &json!("QL032")), "{xdp}");
    assert!(text(&tree, &["nic", "list"]).contains("generic (QL032)"));
}

#[test]
fn what_cannot_be_said_is_not_counted_as_none() {
    let place = two_node_ice().written();
    let picture = place.path().join("x.svg");
    let (_, _, said) = run(&veth(), &["topo", "veth0", "-o", picture.to_str().unwrap()]);
    assert!(said.contains("2 queues") && said.contains("lines may cross"), "{said}");
    let (_, _, said) = run(&two_node_ice(), &["topo", "eth0", "-o", picture.to_str().unwrap()]);
    assert!(said.contains("every queue stays on its node"), "{said}");
}

#[test]
fn a_flow_has_one_address_family_and_reasons_for_what_is_unknown() {
    let (code, _, said) = run(&veth(), &["flow", "explain", "veth0", "[::1]:1", "10.0.0.2:2"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("different address families"), "{said}");
    let mut tree = veth();
    tree.refuse("device/veth0/rules", "ethtool: EOPNOTSUPP");
    tree.refuse("device/veth0/features", "no");
    let flow = ["flow", "explain", "veth0", "10.0.0.1:1", "10.0.0.2:2"];
    let answer = json(&tree, &flow);
    assert_eq!(answer["unknown"]["rule"], json!("ethtool: EOPNOTSUPP"), "{answer}");
    let out = text(&tree, &flow);
    assert!(out.contains("? rule") && out.contains("EOPNOTSUPP"), "{out}");
    assert!(out.contains("transmit queue N"), "{out}");
}

/// More receive queues than cores, and the other end in another namespace.
#[test]
fn a_plan_leaves_a_veth_the_queues_that_its_other_end_may_need() {
    let mut tree = veth();
    tree.answer(
        "device/veth0/channels",
        json!({"rx": [4, 4], "tx": [4, 4], "other": [0, 0], "combined": [0, 0]}),
    );
    for queue in [2, 3] {
        let net = "sys/devices/virtual/net/veth0/queues";
        tree.set(&format!("{net}/rx-{queue}/rps_cpus"), "0");
        tree.directory(&format!("{net}/tx-{queue}"));
    }
    let plan = |args: &[&str]| json(&tree, &[&["plan", "veth0"], args].concat());
    let channels = |plan: &Value| {
        let mut lines = plan["lines"].as_array().unwrap().iter();
        lines.find(|line| line["setting"] == "queues.channels").map(|line| line["changes"].clone())
    };
    let whole = plan(&[]);
    assert_eq!(channels(&whole), Some(json!(false)), "{whole}");
    assert_eq!(whole["workers"].as_array().unwrap().len(), 4, "{whole}");
    assert!(whole["notes"].to_string().contains("another namespace"), "{whole}");
    // Fewer workers are possible, and the channels stay.
    let fewer = plan(&["--workers", "2"]);
    assert_eq!(channels(&fewer), None, "{fewer}");
    assert!(fewer["left_out"].to_string().contains("native XDP is refused"), "{fewer}");
}

#[test]
fn files_go_where_there_is_a_place_and_name_the_device() {
    let machine = two_node_ice().written();
    let cli = Cli::new(env!("CARGO_BIN_EXE_quiclane"));
    let plan = machine.path().join("plan.toml");
    let root = machine.path().to_str().unwrap().to_owned();
    let made = cli.run(&["plan", "eth0", "--root", &root, "-o", plan.to_str().unwrap()]);
    assert!(made.status.success(), "{made:?}");
    let nowhere = machine.path().join("nodir/x");
    let args = ["persist", plan.to_str().unwrap(), "-o"];
    let out = cli.run(&[&args[..], &[nowhere.to_str().unwrap()]].concat());
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    assert!(!machine.path().join("nodir").exists());
    // A virtual device is told by its address as well as by its name.
    let machine = veth().written();
    let plan = machine.path().join("plan.toml");
    let root = machine.path().to_str().unwrap().to_owned();
    let made = cli.run(&["plan", "veth0", "--root", &root, "-o", plan.to_str().unwrap()]);
    assert!(made.status.success(), "{made:?}");
    let out = cli.run(&["persist", plan.to_str().unwrap(), "-o", &root]);
    assert!(out.status.success(), "{out:?}");
    let link = machine.path().join("etc/systemd/network/70-quiclane-veth0.link");
    let link = std::fs::read_to_string(link).unwrap();
    let lines: Vec<&str> = link.lines().collect();
    assert!(lines.contains(&"OriginalName=veth0"), "{link}");
    assert!(lines.contains(&"MACAddress=3a:5e:10:a0:00:50"), "{link}");
}
