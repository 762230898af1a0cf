//! A bundle stands for the machine that it was made of: every reading verb says the same.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quiclane_fixtures::verbs::{Cli, devices};
use quiclane_fixtures::{Entry, Tree, Written};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;

fn cli() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_quiclane"))
}

/// A place for bundles, gone with the guard.
fn place() -> Written {
    let mut tree = Tree::new();
    tree.directory("here");
    tree.written()
}

fn bundle(root: &Path, output: &Path, more: &[&str]) -> Output {
    let mut command = cli().command();
    command.args(["bundle", "--root"]).arg(root).arg("-o").arg(output).args(more);
    command.output().unwrap()
}

/// What every verb says of a machine, by how it was called: code, standard output and error.
fn answers(root: &Path, devices: &[String]) -> Vec<(String, Option<i32>, String, String)> {
    let mut answers = Vec::new();
    for verb in cli().reading_verbs() {
        for call in verb.calls(devices) {
            for json in [false, true] {
                let out = cli().look(&verb, &call, root, json);
                let text = |bytes| String::from_utf8(bytes).unwrap();
                let name = format!("{:?} {call:?} json: {json}", verb.path);
                answers.push((name, out.status.code(), text(out.stdout), text(out.stderr)));
            }
        }
    }
    answers
}

fn manifest(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_verb_says_the_same_of_a_bundle() {
    let machines =
        [quiclane_fixtures::two_node_ice(), quiclane_fixtures::virtio(), quiclane_fixtures::veth()];
    for tree in machines {
        let machine = tree.written();
        let place = place();
        let names = devices(machine.path());
        let before = answers(machine.path(), &names);
        for (name, format) in [("dir", ""), ("tar", ".tar"), ("gz", ".tar.gz")] {
            let output = place.path().join(format!("{name}{format}"));
            let made = manifest(&bundle(machine.path(), &output, &["--json"]));
            assert_eq!(made["output"], output.to_str().unwrap());
            assert_eq!(made["redacted"], Value::Null);
            for (before, after) in before.iter().zip(answers(&output, &names)) {
                let root = machine.path().to_str().unwrap();
                let here = output.to_str().unwrap();
                let same = |text: &str| text.replace(here, root);
                assert_eq!(*before, (after.0, after.1, same(&after.2), same(&after.3)));
            }
        }
    }
}

#[test]
fn a_bundle_of_a_bundle_is_the_same() {
    let machine = quiclane_fixtures::two_node_ice().written();
    let place = place();
    let [first, second] = ["first", "second"].map(|name| place.path().join(name));
    manifest(&bundle(machine.path(), &first, &["--json"]));
    manifest(&bundle(&first, &second, &["--json"]));
    let load = |root: &PathBuf| {
        let mut tree = Tree::load(root).unwrap();
        tree.remove("quiclane/bundle.json"); // has the time in it
        tree
    };
    let (first, second) = (load(&first), load(&second));
    assert!(first.entries().count() > 500, "{}", first.entries().count());
    for (path, entry) in first.entries() {
        assert_eq!(second.entries().find(|(other, _)| *other == path), Some((path, entry)));
    }
    assert_eq!(first, second);
}

#[test]
fn a_manifest_says_what_the_bundle_is() {
    let mut tree = quiclane_fixtures::veth();
    tree.refuse("sockets", "no XDP_SOCKETS_DIAG");
    let machine = tree.written();
    let place = place();
    let output = place.path().join("bundle");
    let printed = manifest(&bundle(machine.path(), &output, &["--json", "--redact"]));
    let kept = std::fs::read_to_string(output.join("quiclane/bundle.json")).unwrap();
    let mut kept: Value = serde_json::from_str(&kept).unwrap();
    kept["output"] = printed["output"].clone();
    assert_eq!(kept, printed);
    assert_eq!(printed["schema"], "quiclane.bundle/1");
    assert_eq!((&printed["kernel"], &printed["redacted"]), (&"6.18.5".into(), &"names".into()));
    // 2020: a clock that is not set would be seen.
    assert!(printed["taken_unix_s"].as_u64().unwrap() > 1_577_836_800);
    let unanswered = printed["unanswered"].as_array().unwrap();
    let sockets = unanswered.iter().find(|one| one["question"] == "sockets").unwrap();
    assert_eq!(sockets["reason"], "no XDP_SOCKETS_DIAG");
    let files = Tree::load(&output).unwrap();
    let files = files.entries().filter(|(_, entry)| matches!(entry, Entry::File(_))).count();
    assert_eq!(printed["files"].as_u64().unwrap() as usize + 1, files, "and the manifest");
}

#[test]
fn a_redacted_bundle_keeps_no_name_and_every_number() {
    let mut tree = quiclane_fixtures::two_node_ice();
    tree.set("proc/sys/kernel/hostname", "private-host");
    tree.edit_answer("device/eth0/rules", |rules| {
        *rules = serde_json::json!([{
            "location": 3, "flow": "udp4", "source": ["192.0.2.77", "255.255.255.255"],
            "destination": null, "source_port": null, "destination_port": null, "vlan": null,
            "action": {"queue": 5}, "others": [],
        }]);
    });
    let machine = tree.written();
    let place = place();
    let [plain, redacted, all] = ["plain", "redacted", "all"].map(|name| place.path().join(name));
    manifest(&bundle(machine.path(), &plain, &["--json"]));
    manifest(&bundle(machine.path(), &redacted, &["--json", "--redact"]));
    manifest(&bundle(machine.path(), &all, &["--json", "--redact=all"]));
    let [plain, redacted, all] = [plain, redacted, all].map(|root| Tree::load(&root).unwrap());
    let text = format!("{redacted:?}");
    for secret in ["private-host", "192.0.2.77", "b4:96:91", "b8:ce:f6", "/dev/nvme0n1p2"] {
        assert!(format!("{plain:?}").contains(secret), "{secret} is not in the plain bundle");
        assert!(!text.contains(secret), "{secret}");
    }
    // Only what names somebody differs.
    let changed: Vec<&str> = plain
        .entries()
        .zip(redacted.entries())
        .filter(|(before, after)| before.1 != after.1)
        .map(|(before, _)| before.0)
        .filter(|path| *path != "quiclane/bundle.json")
        .collect();
    assert_eq!(
        changed,
        [
            "proc/cmdline",
            "proc/sys/kernel/hostname",
            "quiclane/answers/device/eth0/link.json",
            "quiclane/answers/device/eth0/rules.json",
            "quiclane/answers/device/eth1/link.json",
            "run/quiclane/812.json",
        ]
    );
    let key = |tree: &Tree| tree.answered("device/eth0/rss").unwrap()[0]["key"].clone();
    assert_eq!(key(&redacted), key(&plain));
    assert_eq!(key(&all), serde_json::json!([]));
}

#[test]
fn what_is_there_is_not_written_over() {
    let machine = quiclane_fixtures::veth().written();
    let place = place();
    let output = place.path().join("bundle.tar.gz");
    std::fs::write(&output, "mine").unwrap();
    let out = bundle(machine.path(), &output, &[]);
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    let error = String::from_utf8(out.stderr).unwrap();
    assert!(error.contains("there already") && error.contains("-o"), "{error}");
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "mine");
    let out = bundle(machine.path(), &place.path().join("no/such/place.tar"), &[]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let out = bundle(machine.path(), &place.path().join("x.tar.zst"), &[]);
    assert_eq!(out.status.code(), Some(2), "{out:?}");
}

#[test]
fn what_is_no_machine_is_refused() {
    let place = place();
    let file = place.path().join("x.tar");
    std::fs::write(&file, "no archive").unwrap();
    let out = bundle(&file, &place.path().join("out"), &[]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let out = bundle(place.path(), &place.path().join("out"), &[]);
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    assert!(String::from_utf8(out.stderr).unwrap().contains("no captured machine"));
    assert!(!place.path().join("out").exists());
}

/// A captured tree whose links lead out does not show the files of the machine that looks.
#[test]
fn links_out_of_a_captured_tree_are_not_followed() {
    let place = place();
    let secret = place.path().join("secret");
    std::fs::write(&secret, "isolcpus=the-secret-of-this-machine").unwrap();
    let mut tree = quiclane_fixtures::veth();
    tree.link("proc/cmdline", secret.to_str().unwrap());
    tree.remove("proc/net");
    tree.link("proc/net", "../../../../../../../../proc/net");
    let machine = tree.written();
    let output = place.path().join("out");
    manifest(&bundle(machine.path(), &output, &["--json"]));
    let tree = Tree::load(&output).unwrap();
    assert!(!format!("{tree:?}").contains("the-secret"));
    assert!(tree.entries().all(|(path, _)| !path.contains("softnet_stat")));
    let refused = tree.get("quiclane/refused.json").unwrap();
    assert!(refused.contains("leads out of the captured tree"), "{refused}");
}
