//! The dependencies against `deny.toml`: licences, crates and sources, as cargo-deny reads it.

use super::{holds, root, text};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;
use toml_edit::{Document, Item};

/// The settings of `deny.toml` that are known here.
const KEYS: &[&str] = &[
    "graph.targets",
    "graph.all-features",
    "licenses.allow",
    "bans.wildcards",
    "bans.allow-wildcard-paths",
    "bans.multiple-versions",
    "bans.deny",
    "sources.unknown-registry",
    "sources.unknown-git",
    "sources.allow-registry",
];
/// Those with one value that is held.
const FIXED: &[(&str, &str)] = &[
    ("graph.all-features", "true"),
    ("bans.wildcards", "deny"),
    ("bans.allow-wildcard-paths", "true"),
    ("bans.multiple-versions", "allow"),
    ("sources.unknown-registry", "deny"),
    ("sources.unknown-git", "deny"),
];

/// What is allowed.
#[derive(Debug)]
struct Rules {
    targets: Vec<String>,
    licences: Vec<String>,
    banned: Vec<String>,
    registries: Vec<String>,
}

/// A text, or a truth value.
fn word(item: &Item) -> String {
    let truth = item.as_bool().map(|value| value.to_string());
    truth.or_else(|| item.as_str().map(str::to_owned)).unwrap_or_default()
}

fn words(item: &Item) -> Vec<String> {
    let values = item.as_array().into_iter().flatten();
    values.filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

/// Reads the rules; an error names a key that is missing, unknown, or set to what is not held.
fn rules(document: &str) -> Result<Rules, String> {
    let document: Document<String> =
        document.parse().map_err(|error: toml_edit::TomlError| error.to_string())?;
    let mut found = BTreeMap::new();
    for (table, items) in document.iter() {
        for (key, item) in items.as_table_like().into_iter().flat_map(|items| items.iter()) {
            found.insert(format!("{table}.{key}"), item);
        }
    }
    if let Some(unknown) = found.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(format!("{unknown} is not known to tests/documents/dependencies.rs"));
    }
    let get = |key: &str| found.get(key).copied().ok_or(format!("{key} is missing"));
    for (key, value) in FIXED {
        let set = word(get(key)?);
        if set != *value {
            return Err(format!("{key} is {set}, and what is held is {value}"));
        }
    }
    let banned = get("bans.deny")?.as_array().into_iter().flatten();
    let name = |value: &toml_edit::Value| {
        Some(value.as_inline_table()?.get("crate")?.as_str()?.to_owned())
    };
    Ok(Rules {
        targets: words(get("graph.targets")?),
        licences: words(get("licenses.allow")?),
        banned: banned.filter_map(name).collect(),
        registries: words(get("sources.allow-registry")?),
    })
}

/// Whether an SPDX expression can be met with allowed licences. `/` is an old way to write OR.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut tokens = spaced.split_whitespace().peekable();
    let met = any_of(&mut tokens, allowed);
    met && tokens.next().is_none()
}

type Tokens<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(tokens: &mut Tokens<'_>, allowed: &[String]) -> bool {
    let mut met = all_of(tokens, allowed);
    while tokens.next_if_eq(&"OR").is_some() {
        met |= all_of(tokens, allowed);
    }
    met
}

fn all_of(tokens: &mut Tokens<'_>, allowed: &[String]) -> bool {
    let mut met = one(tokens, allowed);
    while tokens.next_if_eq(&"AND").is_some() {
        met &= one(tokens, allowed);
    }
    met
}

fn one(tokens: &mut Tokens<'_>, allowed: &[String]) -> bool {
    if tokens.next_if_eq(&"(").is_some() {
        let met = any_of(tokens, allowed);
        return tokens.next() == Some(")") && met;
    }
    let Some(name) = tokens.next() else { return false };
    let mut name = name.to_owned();
    if tokens.next_if_eq(&"WITH").is_some() {
        name = format!("{name} WITH {}", tokens.next().unwrap_or_default());
    }
    allowed.contains(&name)
}

/// What is wrong with a package, as `cargo metadata` tells of it.
fn judge(package: &Value, rules: &Rules) -> Vec<String> {
    let field = |name: &str| package[name].as_str().unwrap_or_default();
    let who = format!("{} {}", field("name"), field("version"));
    let mut complaints = Vec::new();
    let licence = field("license");
    if !is_allowed(licence, &rules.licences) {
        complaints.push(format!("{who}: the licence {licence:?} is not allowed in deny.toml"));
    }
    if rules.banned.iter().any(|banned| banned == field("name")) {
        complaints.push(format!("{who}: banned in deny.toml"));
    }
    // Those of the workspace have no source.
    let source = field("source");
    let is_known = rules.registries.iter().any(|url| source == format!("registry+{url}"));
    if !source.is_empty() && !is_known {
        complaints.push(format!("{who}: comes from {source}, which deny.toml does not allow"));
    }
    if source.is_empty() {
        let wanted = package["dependencies"].as_array().into_iter().flatten();
        for dependency in wanted.filter(|d| d["path"].is_null() && d["req"] == "*") {
            complaints.push(format!("{who}: takes any version of {}", dependency["name"]));
        }
    }
    complaints
}

fn packages(target: &str) -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--all-features"])
        .args(["--filter-platform", target])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

#[test]
fn dependencies_are_what_deny_toml_allows() {
    let rules = rules(&text("deny.toml")).unwrap();
    assert!(rules.targets.len() == 2 && !rules.banned.is_empty(), "{rules:?}");
    let all: Vec<_> = rules.targets.iter().flat_map(|target| packages(target)).collect();
    assert!(all.len() > 200, "only {} packages", all.len());
    let mut complaints: Vec<_> = all.iter().flat_map(|package| judge(package, &rules)).collect();
    complaints.sort();
    complaints.dedup();
    holds(&complaints);
    // A licence that no package has is one that nobody decided about.
    for licence in &rules.licences {
        let has =
            |package: &Value| package["license"].as_str().unwrap_or_default().contains(licence);
        assert!(all.iter().any(has), "no package has {licence}: take it out of deny.toml");
    }
}

#[test]
fn dependencies_that_are_not_allowed_are_found() {
    type Change = fn(&mut Value);
    let rules = rules(&text("deny.toml")).unwrap();
    let package = |change: Change| {
        let mut package = serde_json::json!({
            "name": "fine", "version": "1.0.0", "license": "MIT",
            "source": "registry+https://github.com/rust-lang/crates.io-index",
            "dependencies": [{ "name": "other", "req": "*", "path": null }],
        });
        change(&mut package);
        judge(&package, &rules)
    };
    assert_eq!(package(|_| {}), Vec::<String>::new());
    let changes: [(Change, &str); 6] = [
        (|p| p["license"] = "GPL-3.0-only".into(), "GPL-3.0-only"),
        (|p| p["license"] = Value::Null, "licence"),
        (|p| p["name"] = "openssl-sys".into(), "banned"),
        (|p| p["source"] = "git+https://example.com/x".into(), "comes from git+"),
        (|p| p["source"] = "registry+https://example.com/x".into(), "comes from registry+"),
        (|p| p["source"] = Value::Null, "takes any version of"),
    ];
    for (change, part) in changes {
        let said = package(change);
        assert!(said.len() == 1 && said[0].contains(part), "{part}: {said:?}");
    }
}

#[test]
fn expressions_of_licences_are_read() {
    let allowed = ["MIT", "Apache-2.0", "ISC"].map(str::to_owned);
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("GPL-3.0-only OR MIT", true),
        ("GPL-3.0-only AND MIT", false),
        ("MIT/Apache-2.0", true),
        ("ISC AND (Apache-2.0 OR ISC)", true),
        ("ISC AND (GPL-2.0 OR LGPL-2.1)", false),
        ("(MIT OR GPL-2.0) AND GPL-2.0", false),
        // AND binds stronger.
        ("MIT OR GPL-2.0 AND GPL-3.0", true),
        ("GPL-2.0 AND MIT OR GPL-3.0", false),
        ("Apache-2.0 WITH LLVM-exception", false),
        ("Apache-2.0 WITH LLVM-exception OR MIT", true),
        ("", false),
        ("MIT MIT", false),
        ("(MIT", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression:?}");
    }
}

#[test]
fn settings_that_nothing_reads_are_refused() {
    let fine = text("deny.toml");
    for (from, to, part) in [
        ("[sources]", "[sources]\nprivate = []", "sources.private is not known"),
        ("wildcards = \"deny\"", "wildcards = \"allow\"", "bans.wildcards is"),
        ("unknown-git = \"deny\"", "", "sources.unknown-git is missing"),
        ("[bans]", "[bans", "TOML parse error"),
    ] {
        assert!(fine.contains(from), "{from}");
        let said = rules(&fine.replacen(from, to, 1)).unwrap_err();
        assert!(said.contains(part), "{said}");
    }
}
