//! The output of the reading verbs to a terminal, to a terminal without colours, and to a reader that
//! leaves.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_quiclane");

/// Verbs that have something to colour on a machine whose interrupts are on the wrong node.
const COLOURED: [&[&str]; 3] = [&["queue", "show", "eth0"], &["doctor", "eth0"], &["topo", "eth0"]];

const ALL: [&[&str]; 8] = [
    &["nic", "list"],
    &["queue", "show", "eth0"],
    &["rss", "show", "eth0"],
    &["xdp", "list"],
    &["flow", "explain", "eth0", "192.0.2.7:50123", "198.51.100.1:443"],
    &["doctor", "eth0"],
    &["plan", "eth0"],
    &["topo", "eth0"],
];

/// What a terminal gets. `script` gives the command one.
fn on_a_terminal(root: &Path, verb: &[&str], no_color: &str, term: &str) -> String {
    let line = format!("{BINARY} {} --root {}", verb.join(" "), root.display());
    let out = Command::new("script")
        .args(["--quiet", "--command", &line, "/dev/null"])
        .env("TERM", term)
        .env("NO_COLOR", no_color)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("eth0"), "{verb:?}: {text}");
    text
}

#[test]
fn a_terminal_gets_colours_unless_its_owner_says_no() {
    let machine = quiclane_fixtures::two_node_ice_crossed().written();
    for verb in COLOURED {
        // An empty NO_COLOR says nothing (no-color.org).
        let coloured = on_a_terminal(machine.path(), verb, "", "xterm-256color");
        assert!(coloured.contains("\x1b["), "{verb:?}: {coloured:?}");
        for (no_color, term) in [("1", "xterm-256color"), ("", "dumb")] {
            let plain = on_a_terminal(machine.path(), verb, no_color, term);
            assert!(!plain.contains('\x1b'), "{verb:?}: {plain:?}");
        }
    }
}

/// The output to a terminal of 80 columns, which would break longer lines at column 80.
#[test]
fn on_80_columns_a_plan_breaks_between_words() {
    use std::collections::BTreeSet;
    let machines =
        [quiclane_fixtures::two_node_ice_crossed().written(), quiclane_fixtures::veth().written()];
    for (machine, device) in machines.iter().zip(["eth0", "veth0"]) {
        let line = format!("{BINARY} plan {device} --root {}", machine.path().display());
        let piped = Command::new("sh").args(["-c", &line]).output().unwrap();
        let piped = String::from_utf8(piped.stdout).unwrap();
        assert!(piped.lines().any(|line| line.chars().count() > 80), "nothing to break: {piped}");
        let out = Command::new("script")
            .args([
                "--quiet",
                "--command",
                &format!("stty cols 80 rows 24; {line} 2>/dev/null"),
                "/dev/null",
            ])
            .env("TERM", "xterm-256color")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let shown = String::from_utf8(out.stdout).unwrap().replace('\r', "");
        let whole: BTreeSet<&str> = piped.split_whitespace().collect();
        let is_rule = |word: &str| word.chars().all(|c| c == '─');
        for line in shown.lines() {
            assert!(line.chars().count() <= 80, "{line}");
            for word in line.split_whitespace().filter(|word| !is_rule(word)) {
                assert!(whole.contains(word), "{word} is a part of a word: {line}");
            }
        }
        let words = |text: &str| text.split_whitespace().filter(|word| !is_rule(word)).count();
        assert_eq!(words(&shown), words(&piped), "{shown}");
    }
}

#[test]
fn a_pipe_gets_no_colours() {
    let machine = quiclane_fixtures::two_node_ice_crossed().written();
    for verb in ALL {
        let out = Command::new(BINARY)
            .args(verb)
            .arg("--root")
            .arg(machine.path())
            .env_remove("NO_COLOR")
            .output()
            .unwrap();
        assert!(!out.stdout.is_empty() && !out.stdout.contains(&0x1b), "{verb:?}: {out:?}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let machine = quiclane_fixtures::two_node_ice().written();
    for verb in ALL {
        for more in [&[][..], &["--json"]] {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let child = Command::new(BINARY)
                .args(verb)
                .args(more)
                .arg("--root")
                .arg(machine.path())
                .stdout(writer)
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let out = child.wait_with_output().unwrap();
            let said = String::from_utf8(out.stderr).unwrap();
            assert_eq!(out.status.code(), Some(0), "{verb:?} {more:?}: {said}");
            assert!(!said.contains("panicked") && !said.contains("pipe"), "{verb:?}: {said}");
        }
    }
}
