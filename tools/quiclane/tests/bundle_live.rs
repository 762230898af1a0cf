//! A bundle of this machine, taken in a namespace with a veth pair: every reading verb prints the same
//! for it as for the machine.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quiclane_fixtures::Tree;
use quiclane_fixtures::verbs::{Cli, Verb};
use quiclane_testkit::netns::{Lab, LabConfig, Side, privileged};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Other programs start and end while the test looks.
const ATTEMPTS: usize = 5;

/// What a verb prints, and the path of each value in it.
fn values(lab: &Lab, verb: &Verb, call: &[String], root: Option<&Path>) -> BTreeMap<String, Value> {
    let mut command = vec![env!("CARGO_BIN_EXE_quiclane").to_owned()];
    command.extend(verb.path.iter().chain(call).cloned());
    command.push("--json".to_owned());
    if let Some(root) = root {
        command.extend(["--root".to_owned(), root.to_str().unwrap().to_owned()]);
    }
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let out = lab.run(Side::Server, &command);
    let mut found = BTreeMap::new();
    found.insert("exit code".to_owned(), out.status.code().into());
    match serde_json::from_slice(&out.stdout) {
        Ok(printed) => flatten(&printed, "", &mut found),
        Err(_) => drop(found.insert("error".to_owned(), format!("{out:?}").into())),
    }
    found
}

fn flatten(value: &Value, at: &str, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| flatten(value, &format!("{at}/{name}"), into));
        }
        Value::Array(values) => {
            into.insert(format!("{at}/length"), values.len().into());
            let values = values.iter().enumerate();
            values.for_each(|(n, value)| flatten(value, &format!("{at}/{n}"), into));
        }
        value => drop(into.insert(at.to_owned(), value.clone())),
    }
}

/// What differs between the machine and its bundle, of everything that did not change on the machine.
fn differences(lab: &Lab, verbs: &[Verb], place: &Path, attempt: usize) -> Vec<String> {
    let device = [lab.device(Side::Server)];
    let look = |root: Option<&Path>| -> Vec<(String, BTreeMap<String, Value>)> {
        let of = |verb: &Verb| {
            let calls = verb.calls(&device);
            let one = |call: Vec<String>| {
                (format!("{:?} {call:?}", verb.path), values(lab, verb, &call, root))
            };
            calls.into_iter().map(one).collect::<Vec<_>>()
        };
        verbs.iter().flat_map(of).collect()
    };
    let bundle = place.join(format!("bundle{attempt}"));
    let before = look(None);
    let output = bundle.to_str().unwrap();
    let program = env!("CARGO_BIN_EXE_quiclane");
    lab.must_run(Side::Server, &[program, "bundle", "-o", output]);
    let after = look(None);
    let mut differences = Vec::new();
    for ((before, after), (name, replayed)) in before.iter().zip(&after).zip(look(Some(&bundle))) {
        let still = before.1.iter().filter(|(path, value)| after.1.get(*path) == Some(value));
        let still: Vec<_> = still.collect();
        assert!(still.len() * 10 >= before.1.len() * 7, "{name}: nearly all changes all the time");
        let differs = |(path, value): &&(&String, &Value)| replayed.get(*path) != Some(*value);
        let say = |(path, value): &(&String, &Value)| {
            format!("{name} {path}: {value} live, {:?} in the bundle", replayed.get(*path))
        };
        differences.extend(still.iter().filter(differs).map(say));
    }
    differences
}

#[test]
fn a_bundle_of_a_namespace_says_what_the_machine_says() {
    if !privileged("a_bundle_of_a_namespace_says_what_the_machine_says") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 2 });
    let mut verbs = Cli::new(env!("CARGO_BIN_EXE_quiclane")).reading_verbs();
    // It shows what changes from one look to the next, and a bundle is one look.
    verbs.retain(|verb| verb.name() != "top");
    let mut place = Tree::new();
    place.directory("here");
    let place = place.written();
    let mut last = Vec::new();
    for attempt in 0..ATTEMPTS {
        last = differences(&lab, &verbs, place.path(), attempt);
        if last.is_empty() {
            break;
        }
    }
    assert!(last.is_empty(), "{} differences:\n{}", last.len(), last.join("\n"));
    // Only this namespace is in it.
    let tree = Tree::load(&place.path().join("bundle0")).unwrap();
    let device = lab.device(Side::Server);
    let rps = tree.get(&format!("sys/class/net/{device}/queues/rx-1/rps_cpus"));
    assert!(rps.is_some(), "{:?}", tree.entries().map(|(path, _)| path).collect::<Vec<_>>());
    assert!(tree.answered(&format!("device/{device}/channels")).is_some());
    assert!(!format!("{tree:?}").contains(&lab.device(Side::Client)));
}
