//! The rules of the project. Each looks at one file, and reports what breaks the rule.

use super::source::{Source, is_word, words};
use std::fmt;

/// The most lines of a file.
pub(crate) const MAX_FILE_LINES: usize = 800;
/// The most lines of a function.
pub(crate) const MAX_FUNCTION_LINES: usize = 70;

/// Top modules, and which modules each may import besides itself.
const ARROWS: &[(&str, &[&str])] = &[
    ("time", &[]),
    ("ecn", &[]),
    ("counters", &[]),
    ("wire", &["time", "ecn", "counters"]),
    ("lb", &["wire", "time", "ecn", "counters"]),
    ("proto", &["wire", "time", "ecn", "counters"]),
    ("datapath", &["time", "ecn", "counters"]),
    ("topology", &["time", "ecn", "counters"]),
    ("exec", &["proto", "wire", "datapath", "topology", "lb", "time", "ecn", "counters"]),
];

/// The layers within a folder: its files and folders, bottom to top. Each may import those before it.
/// Names in one string may import each other; every other circle is an error. If `mod` is in a row, it
/// means what the folder's own `mod.rs` defines: imports that `mod.rs` makes of the folder's files
/// count, and what it re-exports does not. Elsewhere `mod.rs` only puts the folder together: it may
/// import all of the folder, and no file imports it.
pub(crate) const LAYERS: &[(&str, &[&str])] = &[
    (
        "src/proto/streams",
        &[
            "error",
            "flow",
            "limits",
            "buffer",
            "rare",
            "recv",
            // The slots, the lists through them and the send buffer share one arena's indexes.
            "list send send_buffer slot table",
            "mod app deliver event incoming provided read transmit",
        ],
    ),
    (
        "src/proto/connection",
        &[
            "error",
            "config",
            "event",
            "stats",
            // The parts, which know no connection.
            "hello",
            "crypto_stream",
            "cids",
            "keys",
            "space",
            "summary",
            "early",
            "late_crypto",
            "closing",
            "observing",
            "network",
            "other_paths",
            // The state, and what it is told and asked from outside.
            "mod",
            // What drives it, by the families of its methods.
            "observe",
            "close",
            "acks",
            "judging",
            "undecided",
            "handshake",
            "timers",
            "preferred",
            "rebinding",
            "rotation",
            "assemble",
            "frames",
            "receive",
            "transmit",
            "paths",
        ],
    ),
    ("src/datapath/udp", &["abi", "error", "syscall", "socket", "send", "receive", "side"]),
    (
        "src/datapath/xdp",
        &[
            // The ground: system calls, values, errors.
            "sys",
            "ladder",
            "error",
            "layout",
            "metadata",
            "config",
            "stall",
            "poll",
            "netlink",
            "rings",
            // A socket and its memory.
            "share",
            "loader",
            "steering",
            "who",
            "registration",
            "umem",
            "socket",
            // A device and its queues.
            "carrier",
            "inspect",
            "attach",
            "device",
            "handover",
            "lease",
            "ports",
            "neighbours",
            "datapath",
            "probe",
        ],
    ),
    (
        "src/exec",
        &[
            // The machine.
            "sync",
            "sys",
            "clock",
            "entropy",
            "overrun",
            "crowding",
            "delay",
            // The ground floor, and what needs nothing but it.
            "fate",
            "address",
            "config",
            "counters",
            "affinity",
            "owners",
            "predecessors",
            "handoff",
            "relay",
            "source",
            "status",
            "wheel",
            "table",
            "pressure",
            "rates",
            "takeover",
            // What applications touch, and what passes between threads: see api/mod.rs.
            "api message",
            "lane",
            "forward",
            "worker",
            // What runs the turns of a worker.
            "simulated",
            "registration",
            "testing",
        ],
    ),
];

/// Between the modules of `proto`, and what lies above them.
const ABOVE: &[(&[&str], &[&[&str]])] = &[
    (
        &["proto", "rtt"],
        &[&["proto", "congestion"], &["proto", "recovery"], &["proto", "connection"]],
    ),
    (&["proto", "congestion"], &[&["proto", "recovery"], &["proto", "connection"]]),
    (&["proto", "path"], &[&["proto", "packet_builder"], &["proto", "connection"]]),
    (&["proto", "packet_builder"], &[&["proto", "connection"]]),
];

/// Paths that the command line must not name: it has no protocol logic, and inspects one datapath.
const NOT_IN_TOOLS: &[&[&str]] =
    &[&["wire"], &["proto"], &["datapath", "udp"], &["datapath", "headers"]];

/// Packages held to the rules on TLS and `unsafe`. The rest of tools/ drives other stacks, or tests.
const OWN: &[&str] = &["src/", "tools/quiclane/src/", "tools/simulator/src/"];
/// The files that may name the TLS library and what it stands on.
const TLS_MODULE: &str = "src/proto/crypto";
/// One more file: a provider with all random numbers from a seed, for the simulator.
const TLS_OF_THE_SIMULATOR: &str = "tools/simulator/src/secrets.rs";
const TLS_CRATES: &[&str] = &["rustls", "aws_lc_rs", "aws_lc_sys", "ring"];

/// Files and directories of the library that may contain `unsafe`.
const UNSAFE_PLACES: &[&str] = &[
    "src/datapath/xdp/",
    "src/datapath/udp/syscall.rs",
    "src/exec/sys.rs",
    "src/topology/sys.rs",
    "tools/quiclane/src/sys.rs",
];
/// Modules that have `#![forbid(unsafe_code)]`.
const SAFE_MODULES: &[&str] = &["src/proto/mod.rs", "src/wire/mod.rs"];

/// The one file of the library that reads a clock.
const CLOCK: &str = "src/exec/clock.rs";

/// Modules that packets go through.
const PACKET_MODULES: &[&str] = &["wire", "proto", "lb", "datapath", "exec"];
/// Their files and directories that share something between threads, each with the reason why no
/// packet of an established connection takes a lock there, or an atomic that another thread writes.
const SHARED: &[(&str, &str)] = &[
    ("src/proto/token.rs", "used tokens: a client Initial that brings one"),
    ("src/proto/crypto/config.rs", "the key log: handshakes"),
    ("src/proto/crypto/provider.rs", "suites: when a configuration is built"),
    ("src/proto/crypto/ticketer.rs", "keys of tickets: handshakes, written once in six hours"),
    ("src/datapath/xdp/device.rs", "the control plane of a device"),
    ("src/datapath/xdp/rings.rs", "shared with the kernel, in bursts"),
    ("src/exec/address.rs", "where a connection is: its owner writes when it moves"),
    ("src/exec/fate.rs", "how a connection ended: written once, at its end"),
    ("src/exec/handoff.rs", "rings between workers, inboxes: one look a turn"),
    (
        "src/exec/relay.rs",
        "rings between the two threads of a profile that has them: one look a turn",
    ),
    ("src/exec/message.rs", "whether a listener is over, or refuses: client Initials"),
    ("src/exec/registration/", "the control plane of the workers"),
    ("src/exec/owners.rs", "tokens and handshakes: noted once, read for what leads nowhere"),
    ("src/exec/predecessors.rs", "processes before this one: what is not its own"),
    ("src/exec/takeover/", "the control plane of a takeover"),
    ("src/exec/status.rs", "counters: stored by their owner once a turn, read by others"),
    ("src/exec/sync.rs", "what an address is made of: calls of handles"),
    ("src/exec/testing.rs", "tests"),
];
/// Names of types that threads share; also every name that begins with `Atomic`.
const SHARING: &[&str] = &["Mutex", "RwLock", "Condvar", "Barrier"];

/// A finding: code that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) what: String,
    pub(crate) remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {} >>> {}", self.path, self.line, self.what, self.remedy)
    }
}

/// All findings in a file.
pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = file_length(source);
    if source.path.ends_with(".rs") {
        let rules = [
            arrows,
            layers,
            above,
            tools,
            tls,
            unsafe_code,
            functions,
            attributes,
            unfinished,
            clocks,
            sharing,
            module_docs,
        ];
        findings.extend(rules.iter().flat_map(|rule| rule(source)));
    }
    findings
}

fn finding(source: &Source, at: usize, what: String, remedy: impl Into<String>) -> Finding {
    Finding { path: source.path.clone(), line: source.line(at), what, remedy: remedy.into() }
}

fn file_length(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().count();
    let long = lines > MAX_FILE_LINES;
    let what = format!("{lines} lines, more than {MAX_FILE_LINES}");
    let remedy = "split it by the families of its methods into a directory of the same name";
    long.then(|| finding(source, source.text.len(), what, remedy)).into_iter().collect()
}

fn arrows(source: &Source) -> Vec<Finding> {
    let Some((top, allowed)) =
        source.top_module().and_then(|r| ARROWS.iter().find(|(n, _)| *n == r))
    else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for named in source.own_paths() {
        let Some(target) = named.segments.first() else { continue };
        let is_module = ARROWS.iter().any(|(name, _)| name == target);
        if is_module && target != top && !allowed.contains(&target.as_str()) {
            let what =
                format!("`{top}` names `{}`: that arrow runs back", named.segments.join("::"));
            findings.push(finding(source, named.at, what, where_instead(top, target)));
        }
    }
    findings
}

/// Where code of `top` that needs `target` belongs.
fn where_instead(top: &str, target: &str) -> String {
    match (top, target) {
        ("proto", "datapath") | ("datapath", "proto") => {
            "these two meet in src/exec/lane alone: move the code there".to_owned()
        }
        (_, "exec") => format!("pass a value into src/{top}, or move the code to src/exec"),
        ("time" | "ecn", _) => format!("move the code to src/{target}"),
        _ => format!(
            "move the code to src/{target}, or, if it needs both, to src/exec; what both need \
             goes below them, to src/wire"
        ),
    }
}

/// The row of [`LAYERS`] that a file is in, and which of the row's names the file goes by.
fn layered(source: &Source) -> Option<(&'static str, &'static [&'static str], String)> {
    LAYERS.iter().find_map(|(folder, layers)| {
        let inside = source.path.strip_prefix(folder)?.strip_prefix('/')?;
        let name = inside.split('/').next()?.trim_end_matches(".rs");
        Some((*folder, *layers, name.to_owned()))
    })
}

fn layers(source: &Source) -> Vec<Finding> {
    let is_test = source.path.ends_with("/tests.rs") || source.path.contains("/tests/");
    let Some((folder, layers, name)) = layered(source).filter(|_| !is_test) else {
        return Vec::new();
    };
    let level =
        |name: &str| layers.iter().position(|layer| layer.split(' ').any(|known| known == name));
    let Some(own) = level(&name) else {
        // A `mod.rs` that puts the folder together.
        if name == "mod" {
            return Vec::new();
        }
        let what = format!("`{name}` stands in no layer of {folder}");
        let remedy = "give it one in LAYERS, in tests/tidy/rules.rs, as low as it can stand";
        return vec![finding(source, 0, what, remedy)];
    };
    let prefix: Vec<&str> = folder.split('/').skip(1).collect();
    let mut findings = Vec::new();
    let of_children = if name == "mod" { source.child_imports() } else { Vec::new() };
    for named in source.own_paths().into_iter().chain(of_children) {
        // `pub(in crate::exec)` imports nothing.
        let is_visibility = source.code[..named.at].ends_with("(in ");
        let is_inside = starts_with(&named.segments, &prefix);
        if !is_inside || is_visibility || source.is_in_unit_test(named.at) {
            continue;
        }
        let path = named.segments.join("::");
        let target = named.segments.get(prefix.len()).map_or("mod", String::as_str);
        match level(target).or_else(|| level("mod")) {
            Some(at) if at <= own => {}
            Some(at) => {
                let place = if level(target).is_some() { target } else { layers[at] };
                let what = format!("`{name}` stands below `{place}` and names `{path}`");
                let remedy = format!(
                    "move the code up to {folder}/{place}, or what it needs of that down to \
                     {folder}/{name} or below it (LAYERS, in tests/tidy/rules.rs)"
                );
                findings.push(finding(source, named.at, what, remedy));
            }
            None => {
                let what = format!("`{path}` does not show the file that it is in");
                let remedy = format!("name it by its module in {folder}: its layer counts");
                findings.push(finding(source, named.at, what, remedy));
            }
        }
    }
    findings
}

fn above(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (below, above) in ABOVE {
        let place = format!("src/{}", below.join("/"));
        if source.path != format!("{place}.rs") && !source.path.starts_with(&format!("{place}/")) {
            continue;
        }
        for named in source.own_paths() {
            let target = above.iter().find(|prefix| starts_with(&named.segments, prefix));
            if let Some(target) = target {
                let what = format!("`{}` stands below `{}`", below.join("::"), target.join("::"));
                let remedy = format!("move the code to src/{}", target.join("/"));
                findings.push(finding(source, named.at, what, remedy));
            }
        }
    }
    findings
}

fn starts_with(segments: &[String], prefix: &[&str]) -> bool {
    segments.len() >= prefix.len() && segments.iter().zip(prefix).all(|(a, b)| a == b)
}

fn tools(source: &Source) -> Vec<Finding> {
    // Not the simulator, which is a test: its oracles read the packets on the wire.
    if !source.path.starts_with("tools/quiclane/src/") {
        return Vec::new();
    }
    let named = source.paths_from("quiclane").into_iter();
    let wrong = named.filter(|n| NOT_IN_TOOLS.iter().any(|p| starts_with(&n.segments, p)));
    wrong
        .map(|named| {
            let what = format!("the command line names `quiclane::{}`", named.segments.join("::"));
            let remedy = "move the logic to src/exec and call it from here";
            finding(source, named.at, what, remedy)
        })
        .collect()
}

fn tls(source: &Source) -> Vec<Finding> {
    let own = OWN.iter().any(|place| source.path.starts_with(place));
    if !own || source.path.starts_with(TLS_MODULE) || source.path == TLS_OF_THE_SIMULATOR {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for name in TLS_CRATES {
        for at in source.words(name) {
            let before = source.code[..at].trim_end();
            let after = source.code[at + name.len()..].trim_start();
            // `super::ring` is a module of ours; `::ring` is the crate.
            let parent = before.strip_suffix("::").and_then(|path| path.chars().next_back());
            let ours = parent.is_some_and(is_word);
            let imported = before.ends_with("use") || before.ends_with("crate");
            if imported || (after.starts_with("::") && !ours) {
                let what = format!("`{name}` is named outside {TLS_MODULE}");
                let remedy = format!(
                    "move the code there; if a module of ours is meant, give it another name \
                     (`{name}s`)"
                );
                findings.push(finding(source, at, what, remedy));
            }
        }
    }
    findings
}

fn unsafe_code(source: &Source) -> Vec<Finding> {
    let own = OWN.iter().any(|place| source.path.starts_with(place));
    if !own || UNSAFE_PLACES.iter().any(|place| source.path.starts_with(place)) {
        return Vec::new();
    }
    let remedy = format!(
        "wrap the call in a safe function in the file of system calls of its module ({})",
        UNSAFE_PLACES.join(", ")
    );
    let word = "unsafe";
    let mut findings: Vec<_> = source
        .words(word)
        .map(|at| finding(source, at, "`unsafe` outside its places".to_owned(), remedy.clone()))
        .collect();
    let forbids = source.code.contains("#![forbid(unsafe_code)]");
    if SAFE_MODULES.contains(&source.path.as_str()) && !forbids {
        let what = "this module does not forbid unsafe code".to_owned();
        findings.push(finding(source, 0, what, "write `#![forbid(unsafe_code)]` below its doc"));
    }
    findings
}

fn functions(source: &Source) -> Vec<Finding> {
    let long = source.functions().into_iter().filter(|f| f.lines > MAX_FUNCTION_LINES);
    long.map(|f| {
        let what = format!("`{}` has {} lines, more than {MAX_FUNCTION_LINES}", f.name, f.lines);
        finding(source, f.at, what, "name its steps, and make each a function")
    })
    .collect()
}

fn attributes(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, _) in source.code.match_indices("#[").chain(source.code.match_indices("#![")) {
        let open = at + source.code[at..].find('[').unwrap_or_default();
        let end = source.code[open..].find(']').map_or(source.code.len(), |len| open + len);
        let body = &source.code[open..end];
        let has = |word| words(body, word).next().is_some();
        if has("ignore") {
            let remedy = "run it always; a privileged test skips loudly by hand and fails in CI";
            findings.push(finding(source, at, "a test that is ignored".to_owned(), remedy));
        }
        if has("allow") {
            let remedy = "write `#[expect(lint, reason = \"...\")]`";
            findings.push(finding(source, at, "an `allow` attribute".to_owned(), remedy));
        }
        if has("expect") && !has("reason") {
            let remedy = "add `reason = \"...\"`";
            findings.push(finding(source, at, "an `expect` without a reason".to_owned(), remedy));
        }
    }
    findings
}

fn unfinished(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in ["todo", "unimplemented", "dbg"] {
        for at in source.words(name) {
            if source.code[at + name.len()..].starts_with('!') {
                let what = format!("`{name}!` in code");
                findings.push(finding(source, at, what, "finish it, or leave it out"));
            }
        }
    }
    // In parts, so that this file does not break the rule itself.
    for note in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")] {
        for at in words(&source.text, note) {
            let what = format!("a note `{note}`");
            let remedy = "do it now, or open an issue and say in a sentence what holds today";
            findings.push(finding(source, at, what, remedy));
        }
    }
    findings
}

fn clocks(source: &Source) -> Vec<Finding> {
    if source.path == CLOCK || source.path.starts_with("tools/") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for name in ["Instant", "SystemTime"] {
        for at in source.words(name) {
            let after = &source.code[at + name.len()..];
            if after.starts_with("::now") && !expected(source, at) {
                let what = format!("`{name}::now` outside {CLOCK}");
                let remedy = "take a `quiclane::time::Instant` as an argument";
                findings.push(finding(source, at, what, remedy));
            }
        }
    }
    findings
}

fn sharing(source: &Source) -> Vec<Finding> {
    let is_packet_module = source.top_module().is_some_and(|top| PACKET_MODULES.contains(&top));
    let is_test = source.path.ends_with("/tests.rs") || source.path.contains("/tests/");
    let is_known = SHARED.iter().any(|(place, _)| {
        source.path == *place || (place.ends_with('/') && source.path.starts_with(place))
    });
    if !is_packet_module || is_test || is_known {
        return Vec::new();
    }
    let locks = SHARING.iter().flat_map(|name| source.words(name).map(move |at| (*name, at)));
    let atomics = source.code.match_indices("Atomic").filter(|(at, name)| {
        let (before, after) = (&source.code[..*at], &source.code[at + name.len()..]);
        !before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
            && after.starts_with(|c: char| c.is_ascii_uppercase())
    });
    locks
        .chain(atomics.map(|(at, name)| (name, at)))
        .map(|(name, at)| {
            let what = format!("`{name}` where packets go by: threads would meet there");
            let remedy = "let one thread own it, and post to that thread; or say in SHARED, in \
                          tests/tidy/rules.rs, why no packet waits for it";
            finding(source, at, what, remedy)
        })
        .collect()
}

/// True for a measurement that decides nothing: the attribute on the line above gives the reason.
fn expected(source: &Source, at: usize) -> bool {
    let line = source.code[..at].rfind('\n').unwrap_or(0);
    let above = source.code[..line].rfind('\n').map_or(0, |start| start + 1);
    source.code[above..line].trim_start().starts_with("#[expect(clippy::disallowed_methods,")
}

fn module_docs(source: &Source) -> Vec<Finding> {
    // Unit tests beside a module are documented by that module.
    let unit_tests = source.path.starts_with("src/")
        && (source.path.ends_with("/tests.rs") || source.path.contains("/tests/"));
    let first = source.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if unit_tests || first.starts_with("//!") || first.starts_with("#!/") {
        return Vec::new();
    }
    let remedy = "begin with `//!` and say what the module is for and how to drive it";
    vec![finding(source, 0, "no module documentation".to_owned(), remedy)]
}
