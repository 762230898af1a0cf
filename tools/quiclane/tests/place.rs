//! `plan`, `apply`, `confirm`, `undo` on a veth. Needs root; skips loudly without, fails without
//! where `QUICLANE_REQUIRE_ROOT=1`.
//!
//! The tool's own report is not trusted: settings are read from sysfs and ethtool, of the device and of
//! another one, which nothing may change.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quiclane::topology::plan::Plan;
use quiclane_testkit::netns::{Lab, LabConfig, Side, privileged};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Looks, a tenth of a second apart, before something counts as missing.
const PATIENCE: usize = 600;
const POLL: Duration = Duration::from_millis(100);

/// A pair with its own snapshots. The client's end is the device that nothing may touch.
struct Rig {
    lab: Lab,
    directory: PathBuf,
}

impl Rig {
    fn new(name: &str, queues: u32) -> Self {
        let lab = Lab::new(LabConfig { queues });
        let name = format!("quiclane-place-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let rig = Self { lab, directory };
        // Without GRO, or an XDP program, a veth has no NAPI to run in threads.
        rig.lab.must_run(Side::Server, &["ethtool", "-K", &rig.device(), "gro", "on"]);
        rig
    }

    fn device(&self) -> String {
        self.lab.device(Side::Server)
    }

    fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.lab.namespace(Side::Server)])
            .arg(env!("CARGO_BIN_EXE_quiclane"))
            .args(args)
            .env("QUICLANE_STATE", self.state());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Its exit code and what it says.
    fn fails(&self, args: &[&str]) -> (i32, String) {
        let out = self.run(args);
        (out.status.code().unwrap(), String::from_utf8_lossy(&out.stderr).into_owned())
    }

    fn json(&self, args: &[&str]) -> Value {
        let out = self.run(args);
        assert!(out.status.success(), "{args:?}: {out:?}");
        serde_json::from_slice(&out.stdout).unwrap()
    }

    /// A plan as a person would write it.
    fn plan(&self, sections: &str) -> String {
        let path = self.directory.join("plan.toml");
        let text = format!("version = 1\ndevice.name = \"{}\"\n{sections}", self.device());
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Everything that sysfs and ethtool say of an end, but what counts packets and events.
    fn settings(&self, side: Side) -> BTreeMap<String, String> {
        let device = self.lab.device(side);
        let script = format!(
            "cd /sys/class/net/{device} && grep -rs . queues $(ls -p | grep -v / | \
             grep -vE 'uevent|carrier|operstate')"
        );
        let files = self.lab.run(side, &["sh", "-c", &script]);
        let files = String::from_utf8_lossy(&files.stdout).into_owned();
        let mut all: BTreeMap<String, String> = files
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        assert!(all.contains_key("queues/rx-0/rps_cpus"), "{files}");
        for option in ["-k", "-l"] {
            all.insert(option.to_owned(), self.lab.must_run(side, &["ethtool", option, &device]));
        }
        all
    }

    fn value(&self, file: &str) -> String {
        let path = format!("/sys/class/net/{}/{file}", self.device());
        self.lab.must_run(Side::Server, &["cat", &path]).trim().to_owned()
    }

    /// Waits until the device is set as it was `before`.
    fn wait_until(&self, what: &str, reached: impl Fn(&Self) -> bool) {
        for _ in 0..PATIENCE {
            if reached(self) {
                return;
            }
            std::thread::sleep(POLL);
        }
        panic!("{what} did not come: {:#?}", self.settings(Side::Server));
    }

    /// State and id of the last snapshot that `cause` begins with.
    fn snapshot(&self, cause: &str) -> Option<(String, String)> {
        let list = self.json(&["undo", "--list", "--json"]);
        let all = list["snapshots"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let found = all.iter().rev().find(|s| text(&s["cause"]).starts_with(cause))?;
        Some((text(&found["state"]), text(&found["id"])))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Everything that a veth has.
const EVERYTHING: &str = r#"
[features]
rx-vlan-hw-parse = { new = false }
tx-generic-segmentation = { new = false }
[queues]
channels = { new = "rx 2 tx 2" }
[rps]
rx-1 = { new = "0-1" }
[rfs]
rx-0 = { new = 64 }
[xps]
tx-0 = { new = "0" }
tx-1 = { new = "1" }
[napi]
defer-hard-irqs = { new = 3 }
gro-flush-timeout-ns = { new = 30000 }
threaded = { new = 1 }
"#;

fn outcomes(report: &Value) -> BTreeMap<String, String> {
    let lines = report["lines"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    lines.map(|line| (text(&line["setting"]), text(&line["outcome"]))).collect()
}

#[test]
fn everything_is_written_and_put_back_and_nothing_else() {
    if !privileged("everything_is_written_and_put_back_and_nothing_else") {
        return;
    }
    let rig = Rig::new("all", 4);
    let plan = rig.plan(EVERYTHING);
    let (before, other) = (rig.settings(Side::Server), rig.settings(Side::Client));

    let dry = rig.json(&["apply", &plan, "--dry-run", "--json"]);
    assert_eq!(outcomes(&dry)["queues.channels"], "would_change");
    assert_eq!(rig.settings(Side::Server), before, "a dry run writes nothing");
    assert!(!rig.state().exists(), "not even a snapshot");

    let report = rig.json(&["apply", &plan, "--json"]);
    assert!(outcomes(&report).values().all(|outcome| outcome == "done"), "{report:#}");
    assert_eq!(rig.value("queues/rx-1/rps_cpus"), "3");
    assert_eq!(rig.value("queues/rx-0/rps_flow_cnt"), "64");
    assert_eq!(rig.value("queues/tx-1/xps_cpus"), "2");
    assert_eq!(rig.value("napi_defer_hard_irqs"), "3");
    assert_eq!(rig.value("gro_flush_timeout"), "30000");
    assert_eq!(rig.value("threaded"), "1");
    let applied = rig.settings(Side::Server);
    assert!(!applied.contains_key("queues/rx-2/rps_cpus"), "two queues are gone");
    assert!(applied["-k"].contains("rx-vlan-offload: off"), "{}", applied["-k"]);
    assert_eq!(rig.settings(Side::Client), other, "nothing else was written");

    let again = rig.json(&["apply", &plan, "--json"]);
    assert!(outcomes(&again).values().all(|outcome| outcome == "already"), "{again:#}");
    assert!(again["snapshot"].is_null(), "nothing to write, nothing to put back");

    let undone = rig.json(&["undo", "--json"]);
    assert_eq!(undone["restores"], report["snapshot"]);
    assert_eq!(rig.settings(Side::Server), before);
    let redo = undone["snapshot"].as_str().unwrap();
    rig.json(&["undo", redo, "--json"]);
    assert_eq!(rig.settings(Side::Server), applied, "an undo can be undone");
    assert_eq!(rig.settings(Side::Client), other, "nothing else was written");
    let (code, error) = rig.fails(&["undo"]);
    assert!(code == 1 && error.contains("nothing to undo"), "{code}: {error}");
    // The list says the same: what an undo wrote is not listed as applied.
    let list = rig.json(&["undo", "--list", "--json"]);
    let states =
        list["snapshots"].as_array().unwrap().iter().map(|it| it["state"].as_str().unwrap());
    assert!(states.clone().all(|state| state != "applied"), "{list}");
    assert!(states.into_iter().any(|state| state == "written by undo"), "{list}");
}

#[test]
fn what_plan_writes_is_what_apply_reads() {
    if !privileged("what_plan_writes_is_what_apply_reads") {
        return;
    }
    let rig = Rig::new("plan", 4);
    let before = rig.settings(Side::Server);
    let path = rig.directory.join("eth.toml");
    let path = path.to_str().unwrap();
    let args = ["plan", &rig.device(), "--workers", "2", "--cpus", "0,1", "-o", path, "--json"];
    let plan = rig.json(&args);
    assert_eq!(plan["schema"], "quiclane.plan/1");
    assert_eq!(plan["workers"].as_array().unwrap().len(), 2);
    assert_eq!(rig.settings(Side::Server), before, "a plan changes nothing");
    let lines = plan["lines"].as_array().unwrap();
    let report = rig.json(&["apply", path, "--json"]);
    assert_eq!(outcomes(&report).len(), lines.len());
    assert_eq!(rig.value("queues/tx-1/xps_cpus"), "2");
    // The other end sends on four queues: with fewer here native XDP would be refused.
    assert!(rig.settings(Side::Server).contains_key("queues/rx-3/rps_cpus"));
    rig.json(&["undo", "--json"]);
    assert_eq!(rig.settings(Side::Server), before);
}

#[test]
fn some_of_it_refused_is_exit_code_5() {
    if !privileged("some_of_it_refused_is_exit_code_5") {
        return;
    }
    let rig = Rig::new("partly", 2);
    let before = rig.settings(Side::Server);
    let plan = rig.plan(
        "[queues]\nchannels = { new = \"rx 77 tx 77\" }\nrings = { new = \"rx 64\" }\n\
         [rps]\nrx-0 = { new = \"0\" }\nrx-5 = { new = \"0\" }\n\
         [napi]\ndefer-hard-irqs = { new = 4 }\n",
    );
    let out = rig.run(&["apply", &plan, "--json"]);
    assert_eq!(out.status.code(), Some(5), "{out:?}");
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    for setting in ["queues.channels", "queues.rings", "rps.rx-5"] {
        assert!(error.contains(setting), "{setting} is in the list: {error}");
    }
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let outcomes = outcomes(&report);
    assert_eq!(outcomes["queues.channels"], "refused");
    assert_eq!(outcomes["queues.rings"], "not_tried", "what cannot be read is not written");
    assert_eq!(outcomes["rps.rx-5"], "not_tried");
    assert_eq!(outcomes["rps.rx-0"], "done");
    assert_eq!(rig.value("napi_defer_hard_irqs"), "4");
    let refused = report["lines"].as_array().unwrap().iter().find(|l| l["outcome"] == "refused");
    let reason = refused.unwrap()["reason"].as_str().unwrap();
    assert!(reason.contains("CHANNELS_SET"), "{reason}");
    rig.json(&["undo", "--json"]);
    assert_eq!(rig.settings(Side::Server), before, "what was written is put back");
}

#[test]
fn what_is_not_confirmed_is_put_back() {
    if !privileged("what_is_not_confirmed_is_put_back") {
        return;
    }
    let rig = Rig::new("late", 4);
    let plan = rig.plan(EVERYTHING);
    let before = rig.settings(Side::Server);
    // In a group of its own, as a shell starts it; the group dies as it does with a terminal.
    let mut apply = rig.command(&["apply", &plan, "--confirm", "3s"]);
    let mut apply = apply.process_group(0).stdout(Stdio::null()).spawn().unwrap();
    let group = format!("-{}", apply.id());
    assert!(apply.wait().unwrap().success());
    for signal in ["-HUP", "-KILL"] {
        // The group may be empty already, which is as good.
        let _ = Command::new("kill").args([signal, "--", &group]).output();
    }
    assert_eq!(rig.value("napi_defer_hard_irqs"), "3", "it was written");
    assert_eq!(rig.snapshot("apply").unwrap().0, "waits for confirm");
    rig.wait_until("what was there before", |rig| rig.settings(Side::Server) == before);
    rig.wait_until("the mark", |rig| rig.snapshot("apply").unwrap().0 == "undone");
    let (code, error) = rig.fails(&["confirm"]);
    assert!(code == 1 && error.contains("nothing waits"), "{code}: {error}");
}

/// The process that waits to put a snapshot back, stopped: on a busy machine its time would be over
/// before the test has done what comes first. It goes on when this is dropped.
struct Stopped(String);

impl Stopped {
    fn reverter_of(id: &str) -> Self {
        let is_it = |pid: &String| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words.contains(&id.as_bytes()) && words.contains(&b"--detached".as_slice())
        };
        let all = std::fs::read_dir("/proc").unwrap();
        let mut pids = all.filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        let stopped = Self(pids.find(is_it).unwrap());
        stopped.signal("-STOP");
        stopped
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.0]).status().unwrap().success());
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

/// A server that came since has queues that would vanish: they stay, the rest goes back, and what
/// could not be is written down.
#[test]
fn queues_in_use_do_not_keep_the_rest_from_being_put_back() {
    if !privileged("queues_in_use_do_not_keep_the_rest_from_being_put_back") {
        return;
    }
    let rig = Rig::new("busy", 4);
    let device = rig.device();
    rig.lab.must_run(Side::Server, &["ethtool", "-L", &device, "rx", "2", "tx", "2"]);
    let plan = rig.plan(
        "[queues]\nchannels = { new = \"rx 4 tx 4\" }\n[napi]\ndefer-hard-irqs = { new = 3 }\n",
    );
    assert!(rig.run(&["apply", &plan, "--confirm", "10s"]).status.success());
    let stopped = Stopped::reverter_of(&rig.snapshot("apply").unwrap().1);
    assert_eq!(rig.value("napi_defer_hard_irqs"), "3", "it was written");
    let args = ["serve", "--listen", "0.0.0.0:4433", "--io", "xdp", "--dev", &device];
    let args = [&args[..], &["--queues", "2,3", "--json"]].concat();
    let mut server = rig.command(&args).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = String::new();
    BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
    assert!(ready.contains("ready"), "{ready}");
    drop(stopped);
    // First it writes down what failed, then that it is done.
    rig.wait_until("the end", |rig| rig.snapshot("apply").unwrap().0.starts_with("undone"));
    let (state, id) = rig.snapshot("apply").unwrap();
    let list = rig.json(&["undo", "--list", "--json"]);
    let again = rig.fails(&["undo", &id]);
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(state, "undone in part");
    assert_eq!(rig.value("napi_defer_hard_irqs"), "0", "put back");
    let all = list["snapshots"].as_array().unwrap();
    let failed = all.iter().find(|s| s["id"] == id.as_str()).unwrap()["failed"].to_string();
    assert!(failed.contains("queues.channels") && failed.contains("in use by"), "{failed}");
    assert!(again.0 == 5 && again.1.contains("queues.channels"), "{again:?}");
    // The server is gone, and a moment later so are its sockets.
    rig.wait_until("two queues", |rig| {
        rig.run(&["undo", &id]).status.success()
            && rig.lab.must_run(Side::Server, &["ethtool", "-l", &device]).matches("2\n").count()
                >= 2
    });
}

#[test]
fn what_is_confirmed_stays() {
    if !privileged("what_is_confirmed_stays") {
        return;
    }
    let rig = Rig::new("confirm", 4);
    let plan = rig.plan(EVERYTHING);
    rig.json(&["apply", &plan, "--confirm", "4s", "--json"]);
    let applied = rig.settings(Side::Server);
    let more = rig.plan("[napi]\ndefer-hard-irqs = { new = 9 }\n");
    let (code, error) = rig.fails(&["apply", &more]);
    assert!(code == 1 && error.contains("quiclane confirm"), "one at a time: {code}: {error}");
    assert_eq!(rig.run(&["confirm"]).status.code(), Some(0));
    assert_eq!(rig.snapshot("apply").unwrap().0, "confirmed");
    // Longer than it would have waited.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(rig.settings(Side::Server), applied);
    assert_eq!(rig.snapshot("revert"), None);
    let (code, error) = rig.fails(&["confirm", &rig.snapshot("apply").unwrap().1]);
    assert!(code == 1 && error.contains("confirmed already"), "{code}: {error}");
}

/// Kills `apply` as soon as it has written something.
fn kill_in_the_middle(rig: &Rig, apply: &mut Child, before: &BTreeMap<String, String>) {
    rig.wait_until("a first write", |rig| {
        let now = rig.lab.must_run(Side::Server, &["ethtool", "-k", &rig.device()]);
        now != before["-k"]
    });
    // SIGKILL. If it was done before, what follows is what happens without a confirmation.
    apply.kill().unwrap();
    apply.wait().unwrap();
}

#[test]
fn a_killed_apply_is_put_back() {
    if !privileged("a_killed_apply_is_put_back") {
        return;
    }
    let rig = Rig::new("killed", 16);
    let mut plan = EVERYTHING.replace("[rfs]", "rx-0 = { new = \"1\" }\n[rfs]");
    plan = plan.replace("rx 2 tx 2", "rx 12 tx 12");
    let plan = rig.plan(&plan);
    let before = rig.settings(Side::Server);
    let mut apply = rig.command(&["apply", &plan, "--confirm", "5s"]);
    let mut apply = apply.stdout(Stdio::null()).spawn().unwrap();
    kill_in_the_middle(&rig, &mut apply, &before);
    rig.wait_until("what was there before", |rig| rig.settings(Side::Server) == before);
    rig.wait_until("the mark", |rig| rig.snapshot("apply").unwrap().0 == "undone");
    assert!(rig.snapshot("revert").is_some());
}

#[test]
fn mistakes_are_refused_before_anything_is_written() {
    if !privileged("mistakes_are_refused_before_anything_is_written") {
        return;
    }
    let rig = Rig::new("mistakes", 2);
    let before = rig.settings(Side::Server);
    let written = rig.plan("[napi]\ndefer-hard-irqs = { new = 4 }\n");
    let text = std::fs::read_to_string(&written).unwrap();
    let try_plan = |text: &str| {
        std::fs::write(&written, text).unwrap();
        rig.fails(&["apply", &written])
    };
    let (code, error) = try_plan(&text.replace("defer-hard", "defer-soft"));
    assert!(code == 2 && error.contains("line 4: napi.defer-soft-irqs"), "{code}: {error}");
    let other = text.replace("[napi]", "device.address = \"02:00:00:00:00:99\"\n[napi]");
    let (code, error) = try_plan(&other);
    assert!(code == 1 && error.contains("not the device of the plan"), "{code}: {error}");
    let (code, error) = try_plan(&text.replace(&rig.device(), "nodevice0"));
    assert!(code == 2 && error.contains("no device nodevice0"), "{code}: {error}");
    let (code, error) = rig.fails(&["undo", "../../etc"]);
    assert_eq!(code, 1, "there is no store yet: {error}");
    let (code, error) = rig.fails(&["plan", &rig.device(), "--workers", "9"]);
    assert!(code == 2 && error.contains("--workers 2"), "{code}: {error}");
    assert_eq!(rig.settings(Side::Server), before);
    assert!(!rig.state().exists());
}

#[test]
fn without_the_capability_nothing_is_tried() {
    if !privileged("without_the_capability_nothing_is_tried") {
        return;
    }
    let rig = Rig::new("capability", 2);
    let plan = rig.plan("[napi]\ndefer-hard-irqs = { new = 4 }\n");
    let binary = env!("CARGO_BIN_EXE_quiclane");
    let all = "--bounding-set=-net_admin";
    let out = rig.lab.run(Side::Server, &["setpriv", all, binary, "apply", &plan]);
    assert_eq!(out.status.code(), Some(3), "{out:?}");
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(error.contains("CAP_NET_ADMIN") && error.contains("sudo"), "{error}");
    // A dry run only looks, and has done all that it was asked for: it says what to apply takes, and
    // that is no failure.
    let before = rig.settings(Side::Server);
    let dry = ["setpriv", all, binary, "apply", &plan, "--dry-run", "--json"];
    let out = rig.lab.run(Side::Server, &dry);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["lines"][0]["outcome"], "would_change", "{report}");
    assert!(String::from_utf8_lossy(&out.stderr).contains("CAP_NET_ADMIN"), "{out:?}");
    assert_eq!(rig.settings(Side::Server), before);
}

#[test]
fn a_device_that_is_gone_is_said_to_be() {
    if !privileged("a_device_that_is_gone_is_said_to_be") {
        return;
    }
    let rig = Rig::new("gone", 2);
    let plan = rig.plan("[napi]\ndefer-hard-irqs = { new = 4 }\n");
    rig.json(&["apply", &plan, "--json"]);
    rig.lab.must_run(Side::Server, &["ip", "link", "del", &rig.device()]);
    let (code, error) = rig.fails(&["undo"]);
    assert_eq!(code, 5, "{error}");
    assert!(error.contains("no device") && error.contains(&rig.device()), "{error}");
    let (_, id) = rig.snapshot("apply").unwrap();
    let (code, _) = rig.fails(&["undo", &id]);
    assert_eq!(code, 5, "it is still there to be undone");
}

/// Plans for machines that are not this one, under every policy: the file is read back, and says
/// what the JSON says.
#[test]
fn captured_machines_are_planned_for() {
    let machines = [
        ("two_node_ice_64", quiclane_fixtures::two_node_ice_64()),
        ("two_node_ice_crossed", quiclane_fixtures::two_node_ice_crossed()),
        ("ena", quiclane_fixtures::ena()),
        ("virtio", quiclane_fixtures::virtio()),
        ("lost_node", quiclane_fixtures::lost_node()),
    ];
    for (name, tree) in machines {
        let tree = tree.written();
        let root = tree.path().to_str().unwrap();
        let device = if name == "virtio" { "enp1s0" } else { "eth0" };
        for policy in ["node", "ccx", "spread"] {
            let run = |more: &[&str]| {
                let out = Command::new(env!("CARGO_BIN_EXE_quiclane"))
                    .args(["plan", device, "--root", root, "--policy", policy])
                    .args(more)
                    .output()
                    .unwrap();
                assert!(out.status.success(), "{name} {policy}: {out:?}");
                String::from_utf8(out.stdout).unwrap()
            };
            let plan = Plan::from_toml(&run(&["-o", "-"])).unwrap();
            let json: Value = serde_json::from_str(&run(&["--json"])).unwrap();
            let lines = json["lines"].as_array().unwrap();
            let names: Vec<&str> = lines.iter().map(|l| l["setting"].as_str().unwrap()).collect();
            let planned: Vec<String> =
                plan.lines.iter().map(|line| line.setting.to_string()).collect();
            assert_eq!(names, planned, "{name} {policy}");
            let workers = json["workers"].as_array().unwrap();
            assert!(!workers.is_empty(), "{name} {policy}");
            let notes = json["notes"].to_string();
            if name == "lost_node" && policy != "spread" {
                assert!(notes.contains("node of eth0 is unknown"), "{notes}");
            }
            if name.starts_with("two_node") && policy != "spread" {
                let nodes: BTreeSet<String> =
                    workers.iter().map(|worker| worker["node"].to_string()).collect();
                assert_eq!(nodes.len(), 1, "{name} {policy}: one node: {nodes:?}");
            }
            let shown = run(&[]);
            let wide = |line: &&str| line.chars().count() > 120 && line.contains("risk");
            assert_eq!(shown.lines().find(wide), None, "{name} {policy}: for 120 columns");
        }
    }
}

#[test]
fn a_plan_lasts_in_files_for_systemd() {
    let directory = std::env::temp_dir().join(format!("quiclane-persist-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let plan = directory.join("plan.toml");
    let text =
        "version = 1\ndevice.name = \"eth0\"\n[queues]\nchannels = { new = \"combined 4\" }\n";
    std::fs::write(&plan, text).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_quiclane"))
        .arg("persist")
        .args([&plan, &PathBuf::from("-o"), &directory])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    let files: Vec<String> =
        String::from_utf8(out.stdout).unwrap().lines().map(String::from).collect();
    let read = |end: &str| {
        let path = files.iter().find(|path| path.ends_with(end)).unwrap();
        std::fs::read_to_string(path).unwrap()
    };
    assert!(read("etc/systemd/network/70-quiclane-eth0.link").contains("CombinedChannels=4"));
    assert!(read("etc/systemd/system/quiclane-eth0.service").contains("quiclane\" apply \"/etc"));
    assert!(read("etc/quiclane/eth0.toml").contains("combined 4"));
    let unit = directory.join("etc/systemd/system/quiclane-eth0.service");
    systemd_takes_it(&unit);
    std::fs::remove_dir_all(&directory).unwrap();
}

/// What systemd says of the unit, where it is installed: nothing, until it has a fault.
fn systemd_takes_it(unit: &Path) {
    let says = || {
        let mut command = Command::new("systemd-analyze");
        let out = command.args(["verify", "--man=no"]).arg(unit).output().ok()?;
        let said = String::from_utf8(out.stderr).unwrap();
        // It looks at what the unit depends on as well, which is this machine's.
        let name = unit.file_name().unwrap().to_str().unwrap();
        Some(said.lines().filter(|line| line.contains(name)).collect::<Vec<_>>().join("\n"))
    };
    let Some(said) = says() else {
        eprintln!("SKIPPED: there is no systemd-analyze to look at {}", unit.display());
        return;
    };
    assert_eq!(said, "");
    let text = std::fs::read_to_string(unit).unwrap();
    std::fs::write(unit, text.replace("RemainAfterExit", "RemainAfter")).unwrap();
    assert!(says().unwrap().contains("Unknown key 'RemainAfter'"), "a fault is not seen");
}
