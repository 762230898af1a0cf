//! A bundle replaces the machine that it was made of: every reading verb prints the same.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quiclane_fixtures::verbs::{Cli, devices};
use quiclane_fixtures::{Entry, Tree, Written};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;

fn cli() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_quiclane"))
}

/// A directory for bundles, removed with the guard.
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

/// The output of every verb about a machine, by its arguments: code, standard output and error.
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
    let keys = place.path().join("keys");
    manifest(&bundle(machine.path(), &keys, &["--json", "--redact=but-keys"]));
    let keys = Tree::load(&keys).unwrap();
    let [plain, redacted, all] = [plain, redacted, all].map(|root| Tree::load(&root).unwrap());
    let text = format!("{redacted:?}");
    for secret in ["private-host", "192.0.2.77", "b4:96:91", "b8:ce:f6", "/dev/nvme0n1p2"] {
        assert!(format!("{plain:?}").contains(secret), "{secret} is not in the plain bundle");
        assert!(!text.contains(secret), "{secret}");
    }
    // Only names and addresses differ.
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
            "quiclane/answers/device/eth0/rss.json",
            "quiclane/answers/device/eth0/rules.json",
            "quiclane/answers/device/eth1/link.json",
            "quiclane/answers/device/eth1/rss.json",
            "run/quiclane/812.json",
        ]
    );
    let key = |tree: &Tree| tree.answered("device/eth0/rss").unwrap()[0]["key"].clone();
    // With the key an attacker can aim all flows at one queue.
    assert_eq!(key(&redacted), serde_json::json!([]));
    assert_eq!(key(&keys), key(&plain));
    assert!(format!("{plain:?}").contains("eth0") && !format!("{all:?}").contains("eth0"));
}

#[test]
fn a_bundle_is_its_owners_and_goes_where_it_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let machine = quiclane_fixtures::two_node_ice().written();
    let place = place();
    for (name, mode) in [("x.tar", 0o600), ("x.tar.gz", 0o600), ("x", 0o700)] {
        let output = place.path().join(name);
        let made = bundle(machine.path(), &output, &[]);
        assert!(made.status.success() && made.stderr.is_empty(), "{made:?}");
        let said = String::from_utf8(made.stdout).unwrap();
        assert!(said.contains("RSS keys") && said.lines().count() == 1, "{said}");
        assert_eq!(output.metadata().unwrap().permissions().mode() & 0o777, mode, "{name}");
    }
    let file = place.path().join("x/proc/cmdline").metadata().unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    // Standard output is a bundle like any other.
    let mut command = cli().command();
    command.args(["bundle", "-o", "-", "--root"]).arg(machine.path()).current_dir(place.path());
    let out = command.output().unwrap();
    assert!(out.status.success() && !place.path().join("-").exists(), "{:?}", out.status);
    let stdout = place.path().join("stdout.tar.gz");
    std::fs::write(&stdout, out.stdout).unwrap();
    let mut list = cli().command();
    list.args(["nic", "list", "--root"]).arg(&stdout);
    let listed = String::from_utf8(list.output().unwrap().stdout).unwrap();
    assert!(listed.contains("eth0"), "{listed}");
    let zip = bundle(machine.path(), &place.path().join("x.zip"), &[]);
    assert_eq!(zip.status.code(), Some(2), "{zip:?}");
    assert!(!place.path().join("x.zip").exists());
}

/// As with every reading verb, a value that could not be read is reported, and is no failure. Hardly any
/// machine answers every question.
#[test]
fn questions_without_an_answer_are_counted_and_are_no_failure() {
    let count = |refused: &[&str]| {
        let mut tree = quiclane_fixtures::veth();
        for question in refused {
            tree.refuse(question, "no right to ask");
        }
        let (machine, place) = (tree.written(), place());
        let made = bundle(machine.path(), &place.path().join("x.tar"), &[]);
        assert_eq!(made.status.code(), Some(0), "{made:?}");
        let said = String::from_utf8(made.stdout).unwrap();
        let words: Vec<&str> = said.split(' ').collect();
        let at = words.windows(3).position(|it| it[0].starts_with("question") && it[1] == "not");
        let at = at.unwrap_or_else(|| panic!("{said}"));
        assert!(said.contains("not answered (see /quiclane/bundle.json in it)"), "{said}");
        words[at - 1].parse::<usize>().unwrap()
    };
    let always = count(&["sockets"]);
    assert_eq!(count(&["sockets", "programs"]), always + 1);
}

#[test]
fn standard_output_is_one_thing_at_a_time() {
    let machine = quiclane_fixtures::two_node_ice().written();
    let both = bundle(machine.path(), std::path::Path::new("-"), &["--json"]);
    assert_eq!((both.status.code(), both.stdout.len()), (Some(2), 0), "{both:?}");
    // A reader that has seen enough is no failure.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut left = cli().command();
    left.args(["bundle", "-o", "-", "--root"]).arg(machine.path()).stdout(writer);
    let left = left.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(left.status.code(), Some(0), "{left:?}");
    let line = format!(
        "{} bundle -o - --root {}",
        env!("CARGO_BIN_EXE_quiclane"),
        machine.path().display()
    );
    let mut terminal = std::process::Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    let out = terminal.stdin(std::process::Stdio::null()).output().unwrap();
    assert_eq!(out.status.code(), Some(2), "{:?}", out.status);
    assert!(String::from_utf8(out.stdout).unwrap().contains("not text for a terminal"));
}

#[test]
fn what_is_no_archive_is_said_in_a_line() {
    let place = place();
    let file = place.path().join("cert.pem");
    std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nMIIB\n".repeat(40)).unwrap();
    let out = cli().command().args(["nic", "list", "--root"]).arg(&file).output().unwrap();
    let error = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{error}");
    assert!(error.contains("is not a bundle") && !error.contains("BEGIN"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
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
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    let out = bundle(machine.path(), &place.path().join("x.tar.zst"), &[]);
    assert_eq!(out.status.code(), Some(2), "{out:?}");
}

#[test]
fn what_is_no_machine_is_refused() {
    let place = place();
    let file = place.path().join("x.tar");
    std::fs::write(&file, "no archive").unwrap();
    let out = bundle(&file, &place.path().join("out"), &[]);
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    let out = bundle(place.path(), &place.path().join("out"), &[]);
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    assert!(String::from_utf8(out.stderr).unwrap().contains("not a captured machine"));
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
