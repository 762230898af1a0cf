//! The output of `--json` has the fields of `tools/schemas`: every field, and no other.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quiclane_fixtures::verbs::{Cli, Verb, devices};
use quiclane_fixtures::{Tree, machines, schema};
use quiclane_testkit::server::{Scratch, Server};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Calls of reading verbs that print something else than without these arguments.
const OPTIONS: &[(&str, &[&str])] = &[("doctor", &["--list"]), ("doctor", &["--explain", "QL012"])];

fn cli() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_quiclane"))
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas")
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

/// A line that was printed, as the output of a call.
fn printed(line: &str) -> Output {
    Output { status: std::process::ExitStatus::default(), stdout: line.into(), stderr: Vec::new() }
}

#[test]
fn a_server_and_a_measurement_say_what_their_schemas_say() {
    let schemas = schemas();
    let binary = env!("CARGO_BIN_EXE_quiclane");
    let scratch = Scratch::new("schemas");
    let server = Server::on_loopback(binary, &scratch, &["perf", "server"]);
    let mut faulty = faults(&schemas, "ready", &printed(&server.ready().to_string()));
    let status = fs::read_to_string(scratch.at(&format!("status/{}.json", server.pid()))).unwrap();
    faulty.extend(faults(&schemas, "status", &printed(&status)));
    let address = server.address();
    for more in [
        "--scenario rps --connections 2 --interval 0.1",
        "--scenario latency --rate 50",
        "--scenario hps --connections 2",
        "--scenario download",
        "--scenario upload",
    ] {
        let mut run = Command::new(binary);
        run.args(["perf", "run", address, "--insecure", "--json", "--seconds", "0.5"]);
        let out = run.args(more.split_whitespace()).output().unwrap();
        faulty.extend(faults(&schemas, more, &out));
    }
    let end = server.stop().last;
    faulty.extend(faults(&schemas, "end", &printed(&end.to_string())));
    assert_eq!(end["event"], "end");
    assert!(faulty.is_empty(), "{} faults:\n{}", faulty.len(), faulty.join("\n"));
}

#[test]
fn a_measurement_of_a_server_that_is_not_there_is_described_too() {
    // A port that is taken, and answers nothing.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let mut run = Command::new(env!("CARGO_BIN_EXE_quiclane"));
    run.args(["perf", "run", &address, "--insecure", "--json", "--scenario", "hps"]);
    let out = run.args(["--seconds", "1.5", "--connections", "2"]).output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert_eq!(faults(&schemas(), "silent", &out), Vec::<String>::new());
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(report["server"]["modes"].is_null() && report["unknown"]["modes"].is_string());
}

#[test]
fn a_field_that_is_not_described_is_a_fault() {
    let schemas = schemas();
    let good = r#"{"schema": "quiclane.bundle/1", "version": "0", "taken_unix_s": 1,
        "kernel": null, "redacted": null, "files": 1, "links": 0, "unanswered": []}"#;
    assert_eq!(faults(&schemas, "good", &printed(good)), Vec::<String>::new());
    for (bad, part) in [
        (good.replace("\"links\"", "\"lines\""), "lines"),
        (good.replace("\"files\": 1", "\"files\": -1"), "/files"),
        (good.replace("bundle/1", "bundle/2"), "there is no file"),
        ("{".to_owned(), "no JSON"),
    ] {
        let faults = faults(&schemas, "bad", &printed(&bad));
        assert!(faults.iter().any(|fault| fault.contains(part)), "{bad}: {faults:?}");
    }
}
