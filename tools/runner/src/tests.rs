//! Tests of what needs no root: names, reports, comparisons, and processes that end.

use super::*;
use crate::process::{Interrupt, Process};
use clap::CommandFactory;
use quiclane_testkit::server::Scratch;
use serde_json::json;
use std::process::Command as Program;
use std::time::Duration;

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
    assert!(Cli::try_parse_from(["runner", "interop", "--only", "xdp/("]).is_err());
    assert!(Cli::try_parse_from(["runner", "demo", "--seconds", "0"]).is_err());
}

fn default_cases() -> Vec<interop::Case> {
    interop::Case::all(&[interop::Peer::Quinn, interop::Peer::S2n])
}

#[test]
fn cases_have_names_of_their_own() {
    let names: Vec<_> = default_cases().into_iter().map(interop::Case::name).collect();
    assert_eq!((names.len(), &*names[0]), (48, "xdp/quinn/server/clean"));
    assert!(names.contains(&"udp/s2n/client/reset".to_owned()));
    assert!(names.contains(&"xdp/s2n/server/readdress6".to_owned()));
    let with_quiche = interop::Case::all(&[interop::Peer::Quiche]);
    assert_eq!(with_quiche.len(), 18, "its server takes no part where the address changes");
    assert_eq!(
        interop::Case::all(&[interop::Peer::Ngtcp2]).len(),
        24,
        "in both roles, on both datapaths"
    );
    let different: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(different.len(), names.len());
}

/// A run of no case would succeed.
#[test]
fn a_pattern_that_no_case_matches_is_a_usage_error() {
    let only = |pattern: &str| {
        let pattern = regex::Regex::new(pattern).unwrap();
        stage::only(default_cases(), &pattern, |case| case.name())
    };
    assert_eq!(only("^xdp/.*/reset").map(|cases| cases.len()).unwrap(), 4);
    let Err(failure) = only("xpd/") else { panic!("cases") };
    let text = failure.text().unwrap_or_default();
    assert!(text.contains("xpd/") && text.contains("xdp/quinn/server/clean"), "{text}");
    assert_eq!(failure.exit_code(), 2);
    for verb in ["interop", "bench-net"] {
        let cli = Cli::parse_from(["runner", verb, "--only", "xpd/"]);
        let code = cli.command.run().1.unwrap_err().exit_code();
        assert_eq!(code, 2, "{verb}: before anything is built, and without root");
    }
}

/// A download that ends before the NAT forgets the client would prove nothing.
#[test]
fn a_nat_that_did_not_do_its_part_fails_its_case() {
    use interop::{Way, changed};
    let one = "forward: ready on 10.0.0.2:5000\nforward: 10.0.0.1:9 leaves from 10.0.0.2:70\n";
    let port = format!("{one}forward: 10.0.0.1:9 leaves from 10.0.0.2:71\n");
    let address = format!("{port}forward: 10.0.0.1:9 leaves from 10.0.0.3:71\n");
    let passes = |told| {
        [Way::Lossy, Way::Rebind, Way::Readdress, Way::Readdress6].map(|w| changed(w, told).is_ok())
    };
    assert_eq!(passes(""), [false; 4]);
    assert_eq!(passes(one), [true, false, false, false]);
    assert_eq!(passes(&port), [true, true, false, false]);
    assert_eq!(passes(&address), [true; 4]);
    let v6 =
        "forward: [::1]:9 leaves from [fd77::2]:70\nforward: [::1]:9 leaves from [fd77::12]:70";
    assert_eq!(passes(v6), [true; 4]);
}

#[test]
fn files_are_compared_byte_for_byte() {
    let scratch = Scratch::new("same");
    let bytes = vec![7; 200_000];
    let mut other = bytes.clone();
    other[199_999] = 8;
    for (name, bytes) in [("a", &bytes), ("b", &bytes), ("c", &other)] {
        scratch.write(name, bytes);
    }
    scratch.write("d", "short");
    let same = |other| interop::same(&scratch.at("a"), &scratch.at(other)).unwrap();
    assert_eq!(["a", "b", "c", "d"].map(same), [true, true, false, false]);
}

#[test]
fn the_demo_reports_what_the_server_and_the_client_say() {
    let queue = json!({"queue": 0, "cpu": 1, "node": null, "mode": "native-copy", "rx_packets": 10,
        "tx_packets": 20, "drops": 0, "wrong_queue": 3, "connections_total": 32, "more": 1});
    let end = json!({"event": "end", "queues": [queue]});
    let perf = json!({"result": {"scenario": "download", "seconds": 5.0, "bytes": 100,
        "gbps": 1.2346}});
    let report = demo::Report::new(&end, &perf).unwrap();
    let table = report.table();
    let lines: Vec<_> = table.lines().collect();
    let cells: Vec<_> = lines[1].split_whitespace().collect();
    assert_eq!(cells, ["0", "1", "-", "native-copy", "10", "20", "0", "3", "32"]);
    assert_eq!(lines[2], "Result: download 5 s: 1.235 Gb/s, 100 bytes");
    assert!(demo::Report::new(&json!({"event": "ready"}), &perf).is_err());
}

fn shell(scratch: &Scratch, script: &str) -> Process {
    let files = ["out", "err"].map(|name| scratch.at(name));
    let mut command = Program::new("sh");
    command.args(["-c", script]);
    Process::start("sh", &mut command, files, &Interrupt::listen().unwrap()).unwrap()
}

#[test]
fn a_process_is_waited_for_and_its_failure_is_said() {
    let scratch = Scratch::new("process");
    let mut good = shell(&scratch, "echo ready; echo '{\"a\": 1}'");
    good.wait_for("ready").unwrap();
    good.succeed(Duration::from_secs(10)).unwrap();
    assert_eq!(good.last_line().unwrap()["a"], 1);
    let mut bad = shell(&scratch, "echo why >&2; exit 3");
    let said = bad.wait_for("ready").unwrap_err();
    let text = said.text().unwrap_or_default().to_owned();
    assert!(text.contains("ended") && text.contains("why"), "{text}");
    let said = bad.succeed(Duration::from_secs(10)).unwrap_err();
    let text = said.text().unwrap_or_default().to_owned();
    assert!(text.contains("exit status: 3") && text.contains("why"), "{text}");
}

#[test]
fn a_process_that_stands_still_is_stopped() {
    let scratch = Scratch::new("stop");
    let mut waiting = shell(&scratch, "echo ready; exec sleep 600");
    waiting.wait_for("ready").unwrap();
    waiting.signal(libc::SIGSTOP);
    assert!(waiting.wait(Duration::from_millis(50)).unwrap().is_none());
    let mut stopped = waiting.stop();
    let status = stopped.wait(Duration::ZERO).unwrap().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGTERM));
}
