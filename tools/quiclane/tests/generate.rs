//! Completions and manual pages cover every verb, and the programs that read them accept them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quiclane_fixtures::Tree;
use quiclane_fixtures::verbs::{Cli, Verb};
use std::process::{Command, Stdio};

fn cli() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_quiclane"))
}

fn completions(shell: &str) -> String {
    let out = cli().run(&["completions", shell]);
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).unwrap()
}

/// True if the program is there; a test that needs it says that it skips.
fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    let has = found.unwrap().status.success();
    if !has {
        eprintln!("SKIPPED a part of the test: there is no {program}");
    }
    has
}

#[test]
fn every_shell_completes_every_verb() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = completions(shell);
        for verb in cli().verbs() {
            let last = verb.path.last().unwrap();
            assert!(script.contains(last.as_str()), "{shell} does not know {last}");
        }
    }
    let out = cli().run(&["completions", "tcsh"]);
    assert_eq!(out.status.code(), Some(2), "{out:?}");
}

#[test]
fn bash_takes_the_script_and_completes_with_it() {
    let mut tree = Tree::new();
    tree.set("quiclane.bash", completions("bash"));
    let written = tree.written();
    let script = written.path().join("quiclane.bash");
    let status = Command::new("bash").arg("-n").arg(&script).status().unwrap();
    assert!(status.success());
    let ask = "source \"$1\"; COMP_WORDS=(quiclane comp); COMP_CWORD=1; \
               _quiclane quiclane comp quiclane; echo \"${COMPREPLY[@]}\"";
    let out = Command::new("bash").args(["-c", ask, "bash"]).arg(&script).output().unwrap();
    assert_eq!(String::from_utf8(out.stdout).unwrap().trim(), "completions");
}

#[test]
fn every_verb_has_a_page_that_groff_takes() {
    let mut tree = Tree::new();
    tree.directory("share");
    let written = tree.written();
    let directory = written.path().join("share/man/man1");
    let out = cli().command().arg("man").arg(&directory).output().unwrap();
    assert!(out.status.success() && out.stdout.is_empty(), "{out:?}");
    let has_groff = has("groff");
    for verb in cli().verbs() {
        let name = format!("quiclane-{}.1", verb.path.join("-"));
        let page = directory.join(&name);
        let text = std::fs::read_to_string(&page).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(text.contains(".SH SYNOPSIS") && text.contains(".SH DESCRIPTION"), "{name}");
        let synopsis = format!("quiclane {}", verb.path.join(" ")).replace('-', "\\-");
        assert!(text.contains(&synopsis), "{name} does not say {synopsis}: {text}");
        if has_groff {
            let mut groff = Command::new("groff");
            groff.args(["-man", "-ww", "-z", "-Tutf8"]).arg(&page).stderr(Stdio::piped());
            let out = groff.output().unwrap();
            let said = String::from_utf8(out.stderr).unwrap();
            assert!(out.status.success() && said.is_empty(), "{name}: {said}");
        }
    }
    assert!(directory.join("quiclane.1").is_file());
    let pages = std::fs::read_dir(&directory).unwrap().count();
    assert!(pages > cli().verbs().len(), "{pages} pages");
    let help = std::fs::read_dir(&directory).unwrap().map(|page| page.unwrap().file_name());
    assert!(help.into_iter().all(|name| !name.to_str().unwrap().contains("help")));
}

#[test]
fn a_page_has_a_date_and_the_sections_of_a_page() {
    let mut tree = Tree::new();
    tree.directory("man1");
    let written = tree.written();
    let directory = written.path().join("man1");
    let mut command = cli().command();
    command.arg("man").arg(&directory).env("SOURCE_DATE_EPOCH", "1795376656");
    assert!(command.output().unwrap().status.success());
    for page in ["quiclane.1", "quiclane-queue-show.1", "quiclane-serve.1"] {
        let text = std::fs::read_to_string(directory.join(page)).unwrap();
        let head = text.lines().find(|line| line.starts_with(".TH")).unwrap();
        assert!(head.contains("2026-11-22"), "{page}: {head}");
        for section in ["\"EXIT STATUS\"", "ENVIRONMENT", "FILES", "EXAMPLES", "\"SEE ALSO\""] {
            let is_head = |line: &str| {
                line.strip_prefix(".SH ")
                    .is_some_and(|rest| rest.contains(section.trim_matches('"')))
            };
            assert!(text.lines().any(is_head), "{page} has no {section}");
        }
        for word in ["QUICLANE_LOG", "QUICLANE_STATE", "NO_COLOR", "ethtool(8)"] {
            assert!(text.contains(word), "{page} does not say {word}");
        }
    }
    let help = String::from_utf8(cli().run(&["--help"]).stdout).unwrap();
    assert!(help.contains("QUICLANE_STATE") && help.contains("NO_COLOR"), "{help}");
}

#[test]
fn devices_are_completed() {
    let mut tree = Tree::new();
    tree.set("quiclane.bash", completions("bash"));
    let written = tree.written();
    let script = written.path().join("quiclane.bash");
    let complete = |words: &[&str]| {
        let at = words.len() - 1;
        let list = words.join(" ");
        let last = words.last().unwrap();
        let before = words[at - 1];
        let ask = format!(
            "source \"$1\"; COMP_WORDS=({list} {empty}); COMP_CWORD={at}; \
             _quiclane quiclane '{last}' '{before}'; echo \"${{COMPREPLY[@]}}\"",
            empty = if last.is_empty() { "''" } else { "" },
        );
        let out = Command::new("bash").args(["-c", &ask, "bash"]).arg(&script).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let has_lo = |text: &str| text.split_whitespace().any(|word| word == "lo");
    for words in [
        &["quiclane", "queue", "show", ""][..],
        &["quiclane", "doctor", ""],
        &["quiclane", "flow", "explain", ""],
        &["quiclane", "serve", "--dev", ""],
    ] {
        assert!(has_lo(&complete(words)), "{words:?}: {}", complete(words));
    }
    assert!(!has_lo(&complete(&["quiclane", "nic", "list", ""])));
    let zsh = completions("zsh");
    assert!(zsh.contains(":DEV:_net_interfaces'") && !zsh.contains(":DEV:_default"), "{zsh}");
    assert!(
        zsh.lines().any(|line| line.starts_with("':device -- ") && line.contains("_net_inter"))
    );
    let fish = completions("fish");
    let show =
        "__fish_quiclane_using_subcommand queue; and __fish_seen_subcommand_from show\" -f -a";
    assert!(fish.contains(show) && fish.contains("/sys/class/net"), "{fish}");
    let dev = |line: &&str| line.contains(" -l dev ");
    assert!(fish.lines().filter(dev).all(|line| line.contains("/sys/class/net")), "{fish}");
}

#[test]
fn a_place_that_takes_no_pages_is_named() {
    let out = cli().run(&["man", "/proc/no/pages"]);
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    let error = String::from_utf8(out.stderr).unwrap();
    assert!(error.contains("/proc/no/pages"), "{error}");
}

#[test]
fn reading_verbs_are_found_by_their_help() {
    for verb in cli().reading_verbs() {
        assert!(verb.takes("--json"), "{:?} has no --json", verb.path);
    }
    let names: Vec<String> = cli().verbs().iter().map(Verb::name).collect();
    assert!(names.contains(&"bundle".to_owned()) && names.contains(&"perf_run".to_owned()));
}
