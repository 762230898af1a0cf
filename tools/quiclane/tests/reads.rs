//! How much a reading verb reads, counted and not timed: it must not be slow on a large machine. Every
//! file is read once, and no file without need.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quiclane::topology::survey::Survey;
use quiclane::topology::{Recorder, Source};
use quiclane_fixtures::verbs::{Cli, devices};
use quiclane_fixtures::{Entry, Tree};
use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::sync::Arc;

/// System calls to start: libraries, the locale, the terminal.
const START: u64 = 200;
/// A file is read until nothing comes any more: two calls, and three for a long one. A verb that
/// looked at the machine twice would have more than four.
const CALLS_FOR_TWO_FILES: u64 = 5;

/// read(2) calls of a whole run, from the accounts that the kernel keeps of a process until its
/// parent has taken note of its end.
fn read_calls(arguments: &[String]) -> u64 {
    let mut command = Cli::new(env!("CARGO_BIN_EXE_quiclane")).command();
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut printed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    let process = format!("/proc/{}", child.id());
    let is_over = || {
        let stat = fs::read_to_string(format!("{process}/stat")).unwrap();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
    };
    while !is_over() {
        std::thread::yield_now();
    }
    let accounts = fs::read_to_string(format!("{process}/io")).unwrap();
    let status = child.wait().unwrap();
    assert!(status.code().is_some_and(|code| code <= 1), "{arguments:?}: {status} {printed}");
    let calls = accounts.lines().find_map(|line| line.strip_prefix("syscr: "));
    calls.unwrap().parse().unwrap()
}

#[test]
fn a_large_machine_is_read_once() {
    if !fs::exists("/proc/self/io").unwrap() {
        eprintln!("SKIPPED: this kernel keeps no accounts of reads (CONFIG_TASK_IO_ACCOUNTING)");
        return;
    }
    let machine = quiclane_fixtures::two_node_ice_64();
    let files = machine.entries().filter(|(_, entry)| matches!(entry, Entry::File(_))).count();
    let written = machine.written();
    let root = written.path().to_str().unwrap();
    let most = START + files as u64 * CALLS_FOR_TWO_FILES / 2;
    let calls_of = |path: &[String], more: &[&str]| {
        let mut all = path.to_vec();
        all.extend(more.iter().map(|&word| word.to_owned()));
        all.extend(["--root".to_owned(), root.to_owned()]);
        let calls = read_calls(&all);
        println!("{calls} reads of {files} files: {all:?}");
        assert!(calls <= most, "{all:?}: {calls} reads of {files} files");
        calls
    };
    for verb in Cli::new(env!("CARGO_BIN_EXE_quiclane")).reading_verbs() {
        let call = verb.calls(&devices(written.path())).into_iter().next().unwrap();
        let call: Vec<&str> = call.iter().map(String::as_str).collect();
        calls_of(&verb.path, &call);
    }
    let mut place = Tree::new();
    place.directory("here");
    let place = place.written();
    let output = place.path().join("bundle");
    let all = calls_of(&["bundle".to_owned()], &["-o", output.to_str().unwrap()]);
    assert!(all >= files as u64 / 2, "{all} reads of {files} files: is anything read at all?");
}

/// A survey, and how many files were looked at for it.
fn counted(tree: &Tree, survey: impl FnOnce(&Source) -> Survey) -> (Survey, usize) {
    let written = tree.written();
    let recorder = Arc::new(Recorder::default());
    let survey = survey(&Source::captured(written.path()).recorded(recorder.clone()));
    (survey, recorder.records().len())
}

/// Of one second to the next only what changes is read, and nothing is missed.
#[test]
fn another_look_reads_what_changes() {
    let before = quiclane_fixtures::two_node_ice_64();
    let (first, all) = counted(&before, |source| Survey::read_device(source, "eth0"));
    let mut after = before;
    after.edit("proc/stat", |text| text.replace("cpu3 ", "cpu3 9"));
    after.edit("proc/softirqs", |text| text.replace("NET_RX:", "NET_RX: 7"));
    after.set("proc/irq/123/effective_affinity_list", "77");
    after.edit_answer("device/eth0/queue_counters", |rows| rows[0]["packets"] = 17.into());
    after.edit_answer("sockets", |sockets| sockets[1]["counters"]["rx_dropped"] = 5.into());
    after.edit("run/quiclane/812.json", |text| {
        text.replacen("\"connections\":", "\"connections\":1", 1)
    });
    for device in ["eth0", "eth1"] {
        let (fresh, _) = counted(&after, |source| Survey::read_device(source, device));
        let (again, few) = counted(&after, |source| first.again(source, device));
        assert_eq!(again, fresh, "{device}");
        println!("{few} of {all} files");
        assert!(few * 3 < all, "{device}: {few} of {all} files");
    }
    let (gone, _) = counted(&after, |source| first.again(source, "eth7"));
    assert!(gone.device("eth7").is_none());
}
