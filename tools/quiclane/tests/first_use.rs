//! Situations of a first use, on real devices: a server that is not root, a veth with too few queues,
//! and packets that are thrown away. Needs root; skips loudly without, fails without where
//! `QUICLANE_REQUIRE_ROOT=1`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use quiclane_testkit::netns::{Lab, LabConfig, Side, privileged};
use quiclane_testkit::raw::{Frame, Raw};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const QUICLANE: &str = env!("CARGO_BIN_EXE_quiclane");
const PORT: u16 = 4433;
const LISTEN: &str = "10.77.0.1:4433";
/// A user and a group without any right.
const NOBODY: u32 = 65_534;
/// What README and `doctor` say that a server needs.
const CAPABILITIES: &str = "+net_admin,+net_raw,+bpf,+ipc_lock";
/// Looks, a tenth of a second apart, before something counts as missing.
const LOOKS: usize = 300;
const PAUSE: Duration = Duration::from_millis(100);

/// A directory that goes with the test, and that every user may look into.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("quiclane-first-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// The program, where a user who is not root can run it, and where it can be changed.
    fn program(&self) -> String {
        let copy = self.0.join("quiclane");
        std::fs::copy(QUICLANE, &copy).unwrap();
        copy.to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A server on the device of its namespace; it ends with the test.
struct Server {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Server {
    /// `shell` becomes the server, of which the arguments are `"$@"`.
    fn start(lab: &Lab, shell: &str) -> Self {
        Self::start_with(lab, shell, "native")
    }

    fn start_with(lab: &Lab, shell: &str, require: &str) -> Self {
        let device = lab.device(Side::Server);
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &lab.namespace(Side::Server), "sh", "-c", shell, "sh"])
            .args(["serve", "--perf", "--listen", LISTEN, "--io", "xdp", "--dev", &device])
            .args(["--require", require, "--share-cpus", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let mut server = Self { child, out };
        assert!(line.contains("\"event\":\"ready\""), "{line}{}", server.log());
        server
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The server's view of the file system: /run may be its own.
    fn sees(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid()))
    }

    /// Runs a verb as root where the server is, with its /run.
    fn beside(&self, args: &[&str]) -> Output {
        let pid = self.pid().to_string();
        let command = ["--target", &pid, "--mount", "--net", QUICLANE];
        Command::new("nsenter").args(command).args(args).output().unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        printed(&self.beside(&[args, &["--json"]].concat()))
    }

    /// What it has said, once it has ended.
    fn log(&mut self) -> String {
        drop(self.child.kill());
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        log
    }

    /// Its last words, and its log.
    fn end(mut self) -> (Value, String) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let mut last = String::new();
        self.out.read_to_string(&mut last).unwrap();
        self.child.wait().unwrap();
        (serde_json::from_str(&last).unwrap_or_else(|e| panic!("{e}: {last}")), self.log())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn printed(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|error| panic!("{error}: {out:?}"))
}

/// The finding with this id.
fn finding<'a>(report: &'a Value, id: &str) -> Option<&'a Value> {
    report["findings"].as_array().unwrap().iter().find(|finding| finding["id"] == id)
}

fn as_nobody(rest: &str) -> String {
    format!("exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups {rest} \"$@\"")
}

#[test]
fn a_server_that_is_not_root_is_not_told_to_be_killed() {
    if !privileged("a_server_that_is_not_root_is_not_told_to_be_killed") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 2 });
    let scratch = Scratch::new("nobody");
    let caps = format!("--inh-caps=-all,{CAPABILITIES} --ambient-caps=-all,{CAPABILITIES}");
    let shell = as_nobody(&format!("{caps} {}", scratch.program()));
    // The user `nobody` may not write below /run, and so it cannot describe itself.
    let server = Server::start(&lab, &format!("mount -t tmpfs -o mode=755 tmpfs /run && {shell}"));
    let device = lab.device(Side::Server);
    assert!(!server.sees(&format!("/run/quiclane/{}.json", server.pid())).exists());
    let show = server.json(&["queue", "show", &device]);
    // The loader leaves names out without CAP_PERFMON.
    assert_eq!(show["programs"][0]["name"], "", "{show}");
    let report = server.json(&["doctor", &device]);
    assert_eq!(finding(&report, "QL040"), None, "{report:#}");
    let (_, log) = server.end();
    assert!(log.contains("RuntimeDirectory=quiclane"), "{log}");
}

/// With the capabilities of the file, as QL094 says, and the directory that README says.
#[test]
fn a_server_with_capabilities_of_its_file_describes_itself() {
    if !privileged("a_server_with_capabilities_of_its_file_describes_itself") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 2 });
    let scratch = Scratch::new("setcap");
    let program = scratch.program();
    let all = format!("cap_{}+ep", CAPABILITIES.replace('+', "").replace(',', ",cap_"));
    let set = Command::new("setcap").args([&all, &program]).output().unwrap();
    assert!(set.status.success(), "{set:?}");
    let made = format!("mkdir /run/quiclane && chown {NOBODY} /run/quiclane");
    let shell =
        format!("mount -t tmpfs -o mode=755 tmpfs /run && {made} && {}", as_nobody(&program));
    let server = Server::start(&lab, &shell);
    let device = lab.device(Side::Server);
    let status = server.sees(&format!("/run/quiclane/{}.json", server.pid()));
    assert!(status.is_file(), "{}", status.display());
    let show = server.json(&["queue", "show", &device]);
    assert_eq!(show["rows"][1]["socket"]["process"]["pid"], json!(server.pid()), "{show:#}");
    assert_eq!(finding(&server.json(&["doctor", &device]), "QL040"), None);
}

/// A program of this namespace, with its own snapshots.
fn in_namespace(lab: &Lab, state: &Path, args: &[&str]) -> Output {
    Command::new("ip")
        .args(["netns", "exec", &lab.namespace(Side::Server), QUICLANE])
        .args(args)
        .env("QUICLANE_STATE", state)
        .output()
        .unwrap()
}

#[test]
fn what_plan_makes_of_a_veth_keeps_native_xdp() {
    if !privileged("what_plan_makes_of_a_veth_keeps_native_xdp") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 4 });
    let scratch = Scratch::new("veth");
    let device = lab.device(Side::Server);
    let plan = scratch.0.join("plan.toml");
    let plan = plan.to_str().unwrap();
    let run = |args: &[&str]| in_namespace(&lab, &scratch.0.join("state"), args);
    let made = run(&["plan", &device, "-o", plan]);
    assert!(made.status.success(), "{made:?}");
    let applied = run(&["apply", plan]);
    assert!(applied.status.success(), "{applied:?}");
    // Native or not at all.
    drop(Server::start(&lab, &format!("exec {QUICLANE} \"$@\"")));

    // What it made of it once. The other end, in another namespace, sends on four queues.
    lab.must_run(Side::Server, &["ethtool", "-L", &device, "rx", "2", "tx", "2"]);
    let generic = Server::start_with(&lab, &format!("exec {QUICLANE} \"$@\""), "xdp");
    let report = printed(&run(&["doctor", &device, "--json"]));
    let found = finding(&report, "QL068").unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!(finding(&report, "QL039"), None, "the driver is not to blame: {report:#}");
    let list = String::from_utf8(run(&["nic", "list", "--all"]).stdout).unwrap();
    let line = list.lines().find(|line| line.starts_with(&device)).unwrap();
    assert!(line.contains("generic (QL068)"), "{list}");
    drop(generic);
    let args = ["serve", "--perf", "--io", "xdp", "--dev", &device, "--require", "native"];
    let refused = run(&[&args[..], &["--share-cpus"]].concat());
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("more transmit queues"), "{error}");

    // The command that doctor names mends it.
    lab.must_run(Side::Server, &["sh", "-c", found["mend"].as_str().unwrap()]);
    let report = printed(&run(&["doctor", &device, "--json"]));
    assert_eq!(finding(&report, "QL068"), None, "{report:#}");
    drop(Server::start(&lab, &format!("exec {QUICLANE} \"$@\"")));
}

#[test]
fn what_is_thrown_away_is_shown_wherever_drops_are() {
    const LONG: u64 = 5;
    if !privileged("what_is_thrown_away_is_shown_wherever_drops_are") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 1 });
    let server = Server::start(&lab, &format!("exec {QUICLANE} \"$@\""));
    let raw = Raw::open(&lab, Side::Client);
    // UDP lengths beyond the IP packet.
    let mut frame = Frame::to_server(&raw, false, PORT, &[0x40; 60]);
    let mut long = frame.bytes();
    long[38..40].copy_from_slice(&1_000u16.to_be_bytes());
    (0..LONG).for_each(|_| raw.send(&long));
    // An unknown version, which Version Negotiation answers, with a checksum that was
    // never finished: no AEAD tells whether it is as it was sent.
    frame.payload = [&[0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8][..], &[7; 1_194]].concat();
    let mut unfinished = frame.bytes();
    unfinished[40] ^= 0xff;
    raw.send(&unfinished);

    let device = lab.device(Side::Server);
    let wanted = json!({"drop_udp_length": LONG, "damaged": 1});
    let mut show = Value::Null;
    let came = (0..LOOKS).any(|_| {
        std::thread::sleep(PAUSE);
        show = server.json(&["queue", "show", &device]);
        show["rows"][0]["server_drops"] == wanted
    });
    assert!(came, "{show:#}");
    let text = String::from_utf8(server.beside(&["queue", "show", &device]).stdout).unwrap();
    assert!(text.contains("threw away: damaged 1, drop_udp_length 5 >>> quiclane"), "{text}");
    let report = server.json(&["doctor", &device]);
    let found = finding(&report, "QL057").unwrap_or_else(|| panic!("{report:#}"));
    assert!(found["says"].as_str().unwrap().starts_with("6 packets thrown away"), "{found}");
    assert_eq!(found["mend"], "ethtool -K PEER tx off", "{found}");
    let (last, log) = server.end();
    let datapath = &last["counters"][0]["datapath"];
    assert_eq!(datapath["drop_udp_length"], json!(LONG), "{last:#}");
    for reason in ["drop_udp_length", "damaged"] {
        let lines = log.lines().filter(|line| line.contains(&format!("thrown away: {reason}")));
        assert_eq!(lines.count(), 1, "{log}");
    }
}
