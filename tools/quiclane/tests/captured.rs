//! The reading verbs on machines that were captured and not made: the archives in
//! `tools/fixtures/captured`.
//!
//! `igb`, `virtio` and `veth` are the QEMU guest of `tools/lab` with a server on AF_XDP, on
//! Debian's kernel 7.3.4, in November 2026: four queues of an emulated igb NIC and of a virtio NIC
//! in zero-copy, and a veth pair with two queues each way, the latter two in a namespace of their
//! own. `tools/lab capture` takes them, with `quiclane bundle --redact`. The expected output of the verbs
//! is beside each archive and was checked by reading; `QUICLANE_EXPECTED=write` writes it again. Every
//! archive there is tested: there is no list of them. What hwloc
//! says of the CPUs (`processors`) was written into them afterwards, from the files of the same archives.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quiclane::topology::{Near, Note, Request, Sharing, Source, place};
use quiclane_fixtures::verbs::{Cli, Verb};
use quiclane_fixtures::{CAPTURED, Entry, Tree, captured};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// An archive is a small file among the sources.
const ARCHIVE_BYTES_MAX: u64 = 48 << 10;
/// Where flows go to in the predictions.
const HERE: ([u8; 4], u16) = ([198, 18, 0, 1], 4433);

fn cli() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_quiclane"))
}

/// The status file of the machine's server.
fn server(tree: &Tree) -> Value {
    let is_status = |path: &&str| path.starts_with("run/quiclane/");
    let mut servers = tree.entries().map(|(path, _)| path).filter(is_status);
    let status = tree.get(servers.next().unwrap()).unwrap();
    assert_eq!(servers.next(), None, "one server");
    serde_json::from_str(status).unwrap()
}

/// The device that it serves.
fn device(tree: &Tree) -> String {
    server(tree)["workers"][0]["device"].as_str().unwrap().to_owned()
}

/// What a verb prints, and how it ends.
fn said(verb: &Verb, call: &[String], archive: &Path) -> String {
    let out = cli().look(verb, call, archive, false);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let mut said = format!("$ quiclane {} {}\n", verb.path.join(" "), call.join(" "));
    said = said.replace(" \n", "\n") + &text(out.stdout);
    match out.status.code() {
        Some(0) => said + "\n",
        Some(code) => said + &text(out.stderr) + &format!("exit {code}\n\n"),
        None => panic!("{said}: {}", out.status),
    }
}

#[test]
fn every_reading_verb_says_what_was_looked_at() {
    for (name, archive, tree) in captured() {
        let device = [device(&tree)];
        let verbs = cli().reading_verbs();
        let all = verbs.iter().flat_map(|verb| {
            let calls = verb.calls(&device);
            calls.into_iter().map(|call| said(verb, &call, &archive)).collect::<Vec<_>>()
        });
        let text: String = all.collect();
        let path = Path::new(CAPTURED).join(format!("{name}.txt"));
        if std::env::var_os("QUICLANE_EXPECTED").is_some_and(|what| what == "write") {
            fs::write(&path, &text).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        assert!(text == expected, "{}:\n{expected}\nand now:\n{text}", path.display());
    }
}

#[test]
fn a_worker_is_found_behind_every_queue() {
    for (name, archive, tree) in captured() {
        let device = device(&tree);
        let verbs = cli().reading_verbs();
        let show = verbs.iter().find(|verb| verb.name() == "queue_show").unwrap();
        let out = cli().look(show, std::slice::from_ref(&device), &archive, true);
        let show: Value = serde_json::from_slice(&out.stdout).unwrap();
        let server = server(&tree);
        let workers = server["workers"].as_array().unwrap();
        let rows = show["rows"].as_array().unwrap();
        assert_eq!(rows.len(), workers.len(), "{name}");
        for (row, told) in rows.iter().zip(workers) {
            let socket = &row["socket"];
            assert_eq!(socket["process"]["pid"], server["pid"], "{name}: {row}");
            assert_eq!(socket["worker"]["cpus"], json!([told["cpu"]]), "{name}: {row}");
            let is_zerocopy = told["mode"] == "native-zerocopy";
            assert_eq!(socket["zerocopy"], json!(is_zerocopy), "{name}: {row}");
        }
    }
}

/// Toeplitz by its definition, which shares no code with ours: for each bit of the input that is set,
/// the 32 bits of the key that begin there.
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let bit = |at: usize| u32::from(key[at / 8] >> (7 - at % 8) & 1);
    let window = |at: usize| (at..at + 32).fold(0, |window, at| window << 1 | bit(at));
    let is_set = |at: &usize| input[at / 8] >> (7 - at % 8) & 1 == 1;
    (0..input.len() * 8).filter(is_set).fold(0, |hash, at| hash ^ window(at))
}

#[test]
fn flows_are_explained_by_the_key_and_table_of_the_nic() {
    for nic in ["igb", "virtio"] {
        let (_, archive, tree) = captured().into_iter().find(|(name, ..)| name == nic).unwrap();
        flows_are_explained(&archive, &tree);
    }
}

fn flows_are_explained(archive: &Path, tree: &Tree) {
    let device = device(tree);
    let rss = tree.answered(&format!("device/{device}/rss")).unwrap()[0].clone();
    let key: Vec<u8> = serde_json::from_value(rss["key"].clone()).unwrap();
    let table: Vec<u32> = serde_json::from_value(rss["table"].clone()).unwrap();
    assert_eq!((key.len(), table.len()), (40, 128));
    let (to, to_port) = HERE;
    let mut used = std::collections::BTreeSet::new();
    for flow in 0..16u16 {
        let (from, port) = ([192, 0, 2, flow as u8 + 1], 40_000 + 97 * flow);
        let ports = [port.to_be_bytes(), to_port.to_be_bytes()].concat();
        let hash = toeplitz(&key, &[&from[..], &to, &ports].concat());
        let queue = table[hash as usize % table.len()];
        used.insert(queue);
        let address = |ip: [u8; 4], port| format!("{}:{port}", std::net::Ipv4Addr::from(ip));
        let mut command = cli().command();
        command.args(["flow", "explain", &device, &address(from, port), &address(to, to_port)]);
        let out = command.args(["--json", "--root"]).arg(archive).output().unwrap();
        let answer: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(answer["hash"]["hash"], format!("{hash:#010x}"), "{answer}");
        assert_eq!((&answer["queue"], &answer["is_sure"]), (&json!(queue), &json!(true)));
    }
    assert_eq!(used.len(), 4, "the flows are on all queues");
}

#[test]
fn an_archive_is_small_and_names_nobody() {
    for (name, archive, tree) in captured() {
        let bytes = fs::metadata(&archive).unwrap().len();
        assert!(bytes <= ARCHIVE_BYTES_MAX, "{name}: {bytes} bytes");
        let manifest: Value =
            serde_json::from_str(tree.get("quiclane/bundle.json").unwrap()).unwrap();
        assert_eq!(manifest["redacted"], "names", "{name}");
        assert_eq!(tree.get("proc/sys/kernel/hostname"), Some("host"), "{name}");
        assert_eq!(server(&tree)["listen"], "198.18.0.1:4433", "{name}");
        for (path, entry) in tree.entries() {
            let Entry::File(text) = entry else { continue };
            let secret = ["52:54:00", "/root", "/home", "/work", "10.77.", "10.79."]
                .into_iter()
                .find(|secret| text.contains(secret));
            assert_eq!(secret, None, "{name}: {path}");
            assert!(!path.ends_with("cmdline") || !text.contains("ttyS0"), "{name}: {text}");
        }
    }
}

/// The placement of a server on the machines that were captured: always on the device's node, and
/// where the interrupt is wherever that can be had.
#[test]
fn workers_are_placed_near_the_interrupts_of_captured_devices() {
    for (name, _, tree) in captured() {
        let device = device(&tree);
        let written = tree.written();
        let machine = Source::captured(written.path()).machine();
        let nic = machine.nic(&device).unwrap();
        let wish = |near, queues| Request {
            device: Some(device.clone()),
            queues,
            near,
            sharing: Sharing::Allow,
            ..Request::default()
        };
        for near in Near::ALL {
            let placement = place(&machine, &wish(near, Vec::new())).unwrap();
            assert_eq!(placement.rows.len(), nic.queues.len(), "{name}");
            for row in &placement.rows {
                let is_home = nic.node.known().is_none_or(|&node| row.node == Some(node));
                assert!(is_home, "{name}, near {near}: {row:?}");
            }
            // One queue: nothing stands in its way but what the machine lacks.
            let one = place(&machine, &wish(near, vec![0])).unwrap();
            let cpu = machine.cpu(one.rows[0].cpu).unwrap();
            // That of virtio was about to move when it was captured: effective 1, permitted 0.
            let served = nic.queues[0].irq.known().map(|irq| {
                let (now, next) = (&irq.effective_cpus, &irq.permitted_cpus);
                let (now, next) = (now.known().unwrap()[0], next.known().unwrap());
                if next.contains(&now) { now } else { next[0] }
            });
            let is_home = |cpu: &u32| {
                let node = machine.cpu(*cpu).and_then(|cpu| cpu.node.known());
                nic.node.known().is_none_or(|home| node == Some(home))
            };
            let Some(served) = served.filter(is_home) else {
                let is_said = one.notes.iter().any(|it| matches!(it, Note::NotNear { .. }));
                assert_eq!(is_said, near != Near::Node, "{name}, near {near}");
                continue;
            };
            println!("{name}, near {near}: IRQ on cpu {served}, worker on cpu {}", cpu.id);
            match near {
                Near::Irq => assert_eq!(cpu.id, served, "{name}"),
                Near::Cache => {
                    assert_ne!(cpu.id, served, "{name}");
                    assert!(cpu.cache.known().unwrap().contains(&served), "{name}");
                }
                Near::Node => {}
            }
        }
    }
}
