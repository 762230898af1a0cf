//! What `--json` prints is what `tools/schemas` says: every field, and no other.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quiclane_fixtures::verbs::{Cli, Verb, devices};
use quiclane_fixtures::{Tree, machines, schema};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

/// Calls of reading verbs that print something else than without these arguments.
const OPTIONS: &[(&str, &[&str])] = &[("doctor", &["--list"]), ("doctor", &["--explain", "QL012"])];

fn cli() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_quiclane"))
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

/// Every schema file, by the name that output has in its `schema`: `quiclane.nic_list/1`.
fn schemas() -> BTreeMap<String, Value> {
    let read = |path: PathBuf| {
        let schema: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let forms = schema["oneOf"].as_array().cloned().unwrap_or_else(|| vec![schema.clone()]);
        let name =
            |form: &Value| form["properties"]["schema"]["const"].as_str().unwrap().to_owned();
        let names: BTreeSet<String> = forms.iter().map(name).collect();
        assert_eq!(names.len(), 1, "{}", path.display());
        let name = names.into_iter().next().unwrap();
        let (stem, version) = name.strip_prefix("quiclane.").unwrap().split_once('/').unwrap();
        assert_eq!(path.file_stem().unwrap(), stem, "{name}");
        assert_eq!(schema["$id"], format!("urn:quiclane:{stem}:{version}"));
        (name, schema)
    };
    let entries = fs::read_dir(directory()).unwrap();
    entries.map(|entry| read(entry.unwrap().path())).collect()
}

/// What is wrong with an output; nothing if it printed nothing because it failed.
fn faults(schemas: &BTreeMap<String, Value>, what: &str, out: &Output) -> Vec<String> {
    let Ok(printed) = serde_json::from_slice::<Value>(&out.stdout) else {
        return vec![format!("{what}: prints no JSON: {out:?}")];
    };
    let Some(name) = printed["schema"].as_str() else {
        return vec![format!("{what}: names no schema")];
    };
    let Some(schema) = schemas.get(name) else {
        return vec![format!("{what}: there is no file in tools/schemas for {name}")];
    };
    let faults = schema::faults(schema, &printed);
    faults.into_iter().map(|fault| format!("{what}: {name}: {fault}")).collect()
}

/// Every way to call a verb on a machine.
fn calls(verb: &Verb, devices: &[String]) -> Vec<Vec<String>> {
    let mut calls = verb.calls(devices);
    let name = verb.name();
    for (_, options) in OPTIONS.iter().filter(|(other, _)| *other == name) {
        calls.push(options.iter().map(|&option| option.to_owned()).collect());
    }
    calls
}

#[test]
fn schemas_are_named_and_closed() {
    let schemas = schemas();
    assert!(schemas.contains_key("quiclane.bundle/1"));
    for (name, schema) in schemas {
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{name}");
        assert!(schema["title"].as_str().unwrap().contains("quiclane "), "{name}");
        objects_are_closed(&name, &schema);
    }
}

/// An object that names its fields allows no others: a new field has to be described.
fn objects_are_closed(name: &str, schema: &Value) {
    if schema.get("properties").is_some() {
        assert_eq!(schema["additionalProperties"], false, "{name}: {schema}");
    }
    let parts: Vec<&Value> = match schema {
        Value::Object(fields) => fields.values().collect(),
        Value::Array(values) => values.iter().collect(),
        _ => Vec::new(),
    };
    parts.into_iter().for_each(|part| objects_are_closed(name, part));
}

#[test]
fn every_reading_verb_prints_what_its_schema_says() {
    let schemas = schemas();
    let cli = cli();
    let mut faulty = Vec::new();
    let mut proven = BTreeSet::new();
    for (machine, tree) in machines() {
        let written = tree.written();
        let devices = devices(written.path());
        for verb in cli.reading_verbs() {
            for call in calls(&verb, &devices) {
                let out = cli.look(&verb, &call, written.path(), true);
                let what = format!("{machine}: {} {call:?}", verb.path.join(" "));
                // A device that has no such thing (`rss show lo`) is an error and no JSON.
                if out.stdout.is_empty() && !out.status.success() {
                    continue;
                }
                proven.insert(verb.name());
                faulty.extend(faults(&schemas, &what, &out));
            }
        }
    }
    assert!(faulty.is_empty(), "{} faults:\n{}", faulty.len(), faulty.join("\n"));
    let all: BTreeSet<String> = cli.reading_verbs().iter().map(Verb::name).collect();
    assert_eq!(proven, all, "verbs that printed JSON, and all that should");
}

#[test]
fn a_bundle_says_what_its_schema_says() {
    let machine = quiclane_fixtures::veth().written();
    let mut place = Tree::new();
    place.directory("here");
    let place = place.written();
    for redact in ["--verbose", "--redact", "--redact=all"] {
        let output = place.path().join(redact);
        let mut command = cli().command();
        command.args(["bundle", "--json", redact, "--root"]).arg(machine.path());
        let out = command.arg("-o").arg(output).output().unwrap();
        assert_eq!(faults(&schemas(), redact, &out), Vec::<String>::new());
    }
}

#[test]
fn a_field_that_is_not_described_is_a_fault() {
    let schemas = schemas();
    let out = |text: &str| Output {
        status: std::process::ExitStatus::default(),
        stdout: text.into(),
        stderr: Vec::new(),
    };
    let good = r#"{"schema": "quiclane.bundle/1", "version": "0", "taken_unix_s": 1,
        "kernel": null, "redacted": null, "files": 1, "links": 0, "unanswered": []}"#;
    assert_eq!(faults(&schemas, "good", &out(good)), Vec::<String>::new());
    for (bad, part) in [
        (good.replace("\"links\"", "\"lines\""), "lines"),
        (good.replace("\"files\": 1", "\"files\": -1"), "/files"),
        (good.replace("bundle/1", "bundle/2"), "there is no file"),
        ("{".to_owned(), "no JSON"),
    ] {
        let faults = faults(&schemas, "bad", &out(&bad));
        assert!(faults.iter().any(|fault| fault.contains(part)), "{bad}: {faults:?}");
    }
}
