//! Reads the sources, and fails on code that breaks a rule of the project, naming the file, the line
//! and the remedy. The rules are in `tidy/rules.rs`. Here each is tried on code that breaks it, so that
//! a rule that finds nothing fails.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use rules::{LAYERS, MAX_FILE_LINES, MAX_FUNCTION_LINES, check};
use source::Source;
use std::fs;
use std::path::Path;

/// Where sources are, without build output and a fuzzer's corpus.
const PLACES: &[&str] = &["src", "tests", "tools", "bpf", "build.rs", ".ci"];
const NOT_SOURCES: &[&str] = &["target", "corpus", "artifacts", "node_modules"];
/// Extensions that are read; a file without one is a script.
const EXTENSIONS: &[&str] = &["rs", "c", "h", "sh", "py"];

fn collect(root: &Path, path: &Path, sources: &mut Vec<Source>) {
    if path.is_dir() {
        let name = path.file_name().unwrap_or_default();
        if NOT_SOURCES.iter().any(|skipped| name == *skipped) {
            return;
        }
        let mut entries: Vec<_> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for entry in entries {
            collect(root, &entry, sources);
        }
    } else if path.extension().is_none_or(|e| EXTENSIONS.iter().any(|known| e == *known)) {
        let inside = path.strip_prefix(root).unwrap().to_str().unwrap();
        // A file that is not text is no source.
        if let Ok(text) = fs::read_to_string(path) {
            sources.push(Source::new(inside, &text));
        }
    }
}

#[test]
fn the_sources_keep_the_rules_of_the_house() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for place in PLACES.iter().map(|place| root.join(place)).filter(|place| place.exists()) {
        collect(root, &place, &mut sources);
    }
    let rust = sources.iter().filter(|source| source.path.ends_with(".rs")).count();
    assert!(rust > 50, "only {rust} Rust files found below {}", root.display());
    let findings: Vec<_> =
        sources.iter().flat_map(check).map(|finding| finding.to_string()).collect();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

/// The findings of the rules in a file with this text, as `line: what`.
fn say(path: &str, text: &str) -> Vec<String> {
    let text = format!("//! Documented.\n{text}");
    let found = check(&Source::new(path, &text));
    found.iter().map(|finding| format!("{}: {}", finding.line, finding.what)).collect()
}

/// The rules have exactly one finding, which contains `part`, about line `line` of `text`.
#[track_caller]
fn objects(path: &str, text: &str, line: usize, part: &str) {
    let said = say(path, text);
    let [only] = &said[..] else { panic!("{path}: {said:?}") };
    assert!(only.starts_with(&format!("{}: ", line + 1)), "{only}: not line {line}");
    assert!(only.contains(part), "{only}: no {part:?}");
}

#[track_caller]
fn accepts(path: &str, text: &str) {
    assert_eq!(say(path, text), Vec::<String>::new(), "{path}: {text}");
}

#[test]
fn an_arrow_that_runs_back_is_found_however_it_is_written() {
    let part = "`proto` names `datapath";
    for text in [
        "use crate::datapath::Path;",
        "use crate::{datapath::Path, wire::Reader};",
        "use crate::{wire::{self, Reader}, time, datapath};",
        "use crate::{\n    wire::Reader, datapath::{Path, Link}};",
        "fn f(p: &crate::datapath::Path) {}",
        "use super::datapath::Path;",
        "mod tests { use super::super::datapath::Path; }",
        "pub(crate) use crate :: datapath::*;",
    ] {
        let path = "src/proto/mod.rs";
        let said = say(path, &format!("#![forbid(unsafe_code)]\n{text}"));
        assert!(!said.is_empty() && said.iter().all(|s| s.contains(part)), "{text}: {said:?}");
    }
    objects("src/proto/connection/mod.rs", "use super::super::datapath::Path;", 1, part);
    objects("src/proto/rtt.rs", "\nuse super::super::exec::Lane;", 2, "`proto` names `exec::Lane`");
    objects("src/datapath/mod.rs", "use crate::proto::Connection;", 1, "`datapath` names `proto");
    objects("src/wire/mod.rs", "#![forbid(unsafe_code)]\nuse crate::lb::Route;", 2, "`wire` names");
    objects("src/time.rs", "use crate::wire::Reader;", 1, "`time` names");
    objects("src/lb.rs", "use crate::exec::Lane;", 1, "`lb` names");
    objects("src/topology/nics.rs", "use crate::datapath::Mode;", 1, "`topology` names");
}

#[test]
fn an_arrow_that_runs_forward_is_accepted() {
    accepts("src/proto/rtt.rs", "use crate::{wire::Reader, time::Instant, ecn::Ecn};");
    accepts("src/proto/rtt.rs", "use super::ranges::RangeSet;\nuse crate::proto::sent::Sent;");
    accepts("src/lb.rs", "use crate::wire::ConnectionId;");
    accepts("src/exec/worker.rs", "use crate::{proto::Connection, datapath::Datapath, lb::Route};");
    accepts("src/lib.rs", "pub use crate::exec::Registration;\npub use crate::proto::Event;");
    accepts("src/datapath/udp/mod.rs", "use super::Path;\nuse crate::ecn::Ecn;");
    // Not a module of ours, not code, or not a path from the root.
    accepts("src/proto/rtt.rs", "use crate::proto::datapath_like::X;\nuse other::datapath::Y;");
    accepts("src/proto/rtt.rs", "// crate::datapath\n/* crate::exec /* nested */ crate::exec */");
    accepts("src/proto/rtt.rs", "const S: &str = \"crate::datapath\";");
    accepts("src/proto/rtt.rs", "const S: &str = r#\"use \"crate::datapath\"#;");
}

#[test]
fn the_remedy_of_an_arrow_names_a_file() {
    let remedy = |path: &str, text: &str| {
        check(&Source::new(path, &format!("//! D.\n{text}"))).remove(0).remedy
    };
    let meet = remedy("src/proto/rtt.rs", "use crate::datapath::Path;");
    assert!(meet.contains("src/exec/lane"), "{meet}");
    let down = remedy("src/lb.rs", "use crate::proto::Event;");
    assert!(down.contains("src/proto") && down.contains("src/wire"), "{down}");
}

#[test]
fn layers_within_a_module_are_kept() {
    objects("src/proto/rtt.rs", "use super::congestion::Controller;", 1, "stands below");
    objects("src/proto/rtt.rs", "use crate::proto::{ranges, recovery::Loss};", 1, "stands below");
    objects("src/proto/congestion/cubic.rs", "use super::super::connection::State;", 1, "below");
    accepts("src/proto/congestion/cubic.rs", "use super::super::rtt::Rtt;\nuse super::Controller;");
    accepts("src/proto/recovery.rs", "use super::{rtt::Rtt, congestion::Controller};");
}

#[test]
fn layers_within_a_folder_are_kept() {
    let below = "`status` stands below `lane`";
    for text in [
        "use super::lane::Lane;",
        "use super::{sys::Event, lane::{self}};",
        "use crate::exec::lane::Lane;",
        "fn f(x: &super::lane::Lane) {}",
    ] {
        objects("src/exec/status.rs", text, 1, below);
    }
    objects("src/exec/lane/adapter.rs", "use super::super::worker::Turn;", 1, "below `worker`");
    objects("src/exec/api/handle.rs", "use super::super::lane::Seat;", 1, "`api` stands below");
    objects("src/datapath/xdp/umem.rs", "use super::device::XdpDevice;", 1, "below `device`");
    // A `mod.rs` that stands in a row imports its own files by their bare names.
    let mod_rs = "src/proto/connection/mod.rs";
    let below = "stands below `transmit`";
    objects(mod_rs, "mod transmit;\nuse transmit::Coalesced;", 2, below);
    objects(mod_rs, "mod a;\nmod transmit;\n\nuse transmit::{Coalesced};", 4, below);
    accepts(mod_rs, "mod transmit;\nmod space;\npub use transmit::X;\nuse space::Received;");
    accepts(mod_rs, "mod space;\npub(crate) use transmit::X;\nuse transmit::X;");
    objects("src/proto/connection/space.rs", "use super::Connection;", 1, "`space` stands below");
    objects("src/proto/connection/assemble.rs", "use super::transmit::X;", 1, "below `transmit`");
    objects("src/proto/path.rs", "use super::packet_builder::Draft;", 1, "stands below");
    objects("src/proto/packet_builder.rs", "use super::connection::X;", 1, "stands below");
    // Tests of a file may use what stands above it.
    let in_tests = "mod tests {\n    use super::*;\n    use crate::exec::worker::Turn;\n}";
    accepts("src/exec/table.rs", in_tests);
    accepts("src/exec/lane/tests/flood.rs", "use super::super::super::worker::Turn;");
    accepts(
        "src/exec/lane/accept.rs",
        "use super::{Lane, admission};\nuse super::super::table::Key;",
    );
    accepts(
        "src/exec/api/handle.rs",
        "use super::super::message::Op;\nuse super::handler::Handler;",
    );
    accepts("src/exec/message.rs", "use super::api::Handler;\npub(in crate::exec) struct X;");
    accepts("src/exec/mod.rs", "pub use registration::Registration;\nuse self::lane::Lane;");
    accepts("src/datapath/xdp/ports.rs", "use crate::datapath::{Path, udp::SideSocket};");
}

#[test]
fn a_layer_shows_in_every_import_and_every_file_has_one() {
    objects("src/exec/status.rs", "use super::Worker;", 1, "does not show the file");
    objects("src/exec/lane/mod.rs", "use crate::exec::Handle;", 1, "does not show the file");
    objects("src/exec/sys.rs", "use super::*;", 1, "does not show the file");
    objects("src/exec/newcomer.rs", "", 0, "`newcomer` stands in no layer of src/exec");
    let remedy = |path: &str, text: &str| {
        check(&Source::new(path, &format!("//! D.\n{text}"))).remove(0).remedy
    };
    let up = remedy("src/exec/status.rs", "use super::lane::Lane;");
    assert!(up.contains("src/exec/lane") && up.contains("down to src/exec/status"), "{up}");
}

#[test]
fn every_layer_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (folder, layers) in LAYERS {
        for name in layers.iter().flat_map(|layer| layer.split(' ')) {
            let place = root.join(folder).join(name);
            let is_there = place.is_dir() || place.with_extension("rs").exists();
            assert!(is_there, "{folder} has no {name}: take it out of LAYERS");
        }
    }
}

#[test]
fn the_command_line_has_no_protocol_logic() {
    for named in ["wire::Frame", "proto::Connection", "datapath::udp::UdpDatapath"] {
        objects(
            "tools/quiclane/src/main.rs",
            &format!("use quiclane::{named};"),
            1,
            "the command line",
        );
    }
    accepts("tools/quiclane/src/main.rs", "use quiclane::{topology, lb, exec::Lane};");
    accepts("tools/quiclane/src/main.rs", "use quiclane::datapath::{xdp::Device, Mode};");
    accepts("tools/bench-suite/src/main.rs", "use quiclane::proto::Connection;");
}

#[test]
fn the_tls_library_is_named_in_one_place() {
    for text in [
        "use rustls::quic;",
        "fn f(x: rustls::Error) {}",
        "use aws_lc_rs as crypto;",
        "use ring::aead;",
        "use ::ring::aead;",
        "extern crate rustls;",
    ] {
        objects("src/proto/token.rs", text, 1, "is named outside src/proto/crypto");
        accepts("src/proto/crypto/keys.rs", text);
        accepts("src/proto/crypto.rs", text);
    }
    // `ring` is also a ring buffer.
    accepts("src/datapath/xdp/rings.rs", "fn f(ring: &mut Ring) { ring.push(1); self.ring = 2; }");
    accepts("src/datapath/rings.rs", "use super::ring::Ring;");
    accepts("tools/peers/src/main.rs", "use rustls::ClientConfig;");
    accepts("tools/simulator/src/secrets.rs", "use aws_lc_rs::agreement;");
    objects("tools/simulator/src/run.rs", "use aws_lc_rs::agreement;", 1, "is named outside");
}

#[test]
fn unsafe_code_has_its_places() {
    let text = "fn f() { unsafe { g() } }";
    for path in ["src/datapath/udp/mod.rs", "src/topology/nics.rs", "tools/quiclane/src/main.rs"] {
        objects(path, text, 1, "outside its places");
    }
    for path in ["src/datapath/xdp/umem.rs", "src/datapath/udp/syscall.rs", "src/exec/sys.rs"] {
        accepts(path, text);
    }
    accepts("src/lb.rs", "#![deny(unsafe_code)] // unsafe\nconst S: &str = \"unsafe\";");
    objects("src/proto/mod.rs", "", 0, "does not forbid");
    accepts("src/proto/mod.rs", "#![forbid(unsafe_code)]");
}

#[test]
fn long_files_and_functions_are_found() {
    let line = "const X: u8 = 1;\n";
    accepts("src/lb.rs", &line.repeat(MAX_FILE_LINES - 1));
    let said = say("src/lb.rs", &line.repeat(MAX_FILE_LINES));
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("801 lines, more than 800"), "{said:?}");
    assert_eq!(check(&Source::new("bpf/steer.bpf.c", &"int x;\n".repeat(801))).len(), 1);

    let function = |lines: usize| {
        let body = "    f();\n".repeat(lines - 2);
        format!("fn short() {{}}\nfn g(x: [u8; 2]) -> Option<u8>\n{{\n{body}}}\n")
    };
    accepts("src/lb.rs", &function(MAX_FUNCTION_LINES - 1));
    objects("src/lb.rs", &function(MAX_FUNCTION_LINES), 2, "`g` has 71 lines, more than 70");
    // Braces in strings and characters end nothing; declarations and types are no functions.
    let tricky = function(MAX_FUNCTION_LINES).replacen("f();", "f('}', \"}}\", b'}', '\\'');", 1);
    objects("src/lb.rs", &tricky, 2, "71 lines");
    let others = format!("trait T {{ fn a(&self, x: [u8; 3]);\n{} }}", "\n".repeat(100));
    accepts("src/lb.rs", &others);
    accepts("src/lb.rs", &format!("type F = fn(u8) -> u8;\nstruct S {{{}}}", "\n".repeat(100)));
}

#[test]
fn attributes_that_hide_something_are_found() {
    objects("src/lb.rs", "#[test]\n#[ignore]\nfn f() {}", 2, "ignored");
    objects("src/lb.rs", "#[ignore = \"slow\"]\nfn f() {}", 1, "ignored");
    for attribute in [concat!("#[", "allow(dead_code)]"), concat!("#![", "allow(dead_code)]")] {
        objects("src/lb.rs", &format!("{attribute}\nfn f() {{}}"), 1, "`allow`");
    }
    objects("src/lb.rs", "#[cfg_attr(test, allow(dead_code))]\nfn f() {}", 1, "`allow`");
    objects("src/lb.rs", "#[expect(dead_code)]\nfn f() {}", 1, "without a reason");
    accepts("src/lb.rs", "#[expect(dead_code, reason = \"used by C\")]\nfn f() {}");
    accepts("src/lb.rs", "#[expect(\n    dead_code,\n    reason = \"[1]\"\n)]\nfn allow() {}");
    accepts("src/lb.rs", "fn f(allow: bool) { x.expect(\"there\"); ignore(allow(1)); }");
}

#[test]
fn unfinished_work_is_found() {
    // In parts, like the notes below: a plain search of the sources finds only what is meant.
    for text in
        [concat!("to", "do!()"), concat!("unimpl", "emented!(\"x\")"), concat!("db", "g!(x)")]
    {
        objects("src/lb.rs", &format!("fn f() {{ {text}; }}"), 1, "in code");
    }
    for note in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")] {
        objects("src/lb.rs", &format!("// {note}: later"), 1, "a note");
    }
    // Not a macro in code, not a note: in a comment, without the mark, within another word.
    for text in [
        concat!("// to", "do! is banned"),
        concat!("fn to", "do() { db", "g(1); }"),
        concat!("// a.XX", "XX", "XX and TO", "DOS"),
    ] {
        accepts("src/lb.rs", text);
    }
}

#[test]
fn clocks_are_read_in_one_file() {
    for text in ["let t = Instant::now();", "std::time::SystemTime::now()"] {
        objects("src/proto/rtt.rs", text, 1, "outside src/exec/clock.rs");
        objects("tests/udp.rs", text, 1, "outside src/exec/clock.rs");
        accepts("src/exec/clock.rs", text);
        accepts("tools/quiclane/src/main.rs", text);
    }
    accepts("src/proto/rtt.rs", "let t = now; StdInstant::now(); // Instant::now");
}

#[test]
fn nothing_is_shared_where_packets_go_by() {
    for text in ["use std::sync::Mutex;", "flag: AtomicBool", "static N: AtomicU64 = x;"] {
        objects("src/proto/rtt.rs", text, 1, "where packets go by");
        objects("src/exec/lane/receive.rs", text, 1, "where packets go by");
        accepts("src/exec/registration/start.rs", text);
        accepts("src/exec/lane/tests.rs", text);
        accepts("src/topology/record.rs", text);
        accepts("tools/quiclane/src/main.rs", text);
    }
    accepts("src/proto/rtt.rs", "// a Mutex\nfn atomically(x: Atomics, y: MutexLike) {}");
}

#[test]
fn modules_without_documentation_are_found() {
    let say = |path: &str, text: &str| check(&Source::new(path, text)).len();
    assert_eq!(say("src/lb.rs", "use std::fmt;"), 1);
    assert_eq!(say("src/lb.rs", "// Not documentation.\n"), 1);
    assert_eq!(say("src/lb.rs", "\n//! Documentation.\n"), 0);
    assert_eq!(say("src/proto/streams/tests.rs", "use super::*;"), 0);
    assert_eq!(say("src/proto/streams/tests/model.rs", "use super::*;"), 0);
    assert_eq!(say("tests/udp.rs", "use quiclane::time;"), 1);
    assert_eq!(say("bpf/steer.bpf.c", "int x;"), 0);
}

#[test]
fn a_finding_names_the_file_the_line_and_the_remedy() {
    let text = concat!("//! D.\n\nfn f() { db", "g!(1); }\n");
    let found = check(&Source::new("src/lb.rs", text));
    let [only] = &found[..] else { panic!("{found:?}") };
    let expected = concat!("src/lb.rs:3: `db", "g!` in code >>> finish it, or leave it out");
    assert_eq!(only.to_string(), expected);
}
