//! A survey of veth pairs in namespaces, compared with other tools. Needs root; without it the tests
//! skip loudly, and fail where `QUICLANE_REQUIRE_ROOT=1`.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use libbpf_rs::libbpf_sys;
use quiclane::datapath::Mode;
use quiclane::datapath::xdp::{XdpConfig, XdpDevice};
use quiclane::topology::survey::Survey;
use quiclane::topology::survey::device::{
    AttachMode, Attached, Channels, Device, Direction, Program, XskCounters,
};
use quiclane::topology::{Reading, Recorder, Source};
use quiclane_testkit::netns::{Lab, LabConfig, Side, privileged};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::net::SocketAddr;
use std::ptr;
use std::sync::Arc;

/// Runs `work` on a thread that sees one end of the pair as a process there would: its network
/// namespace, and a `/sys` of it.
fn at<T: Send>(lab: &Lab, side: Side, work: impl FnOnce() -> T + Send) -> T {
    aside(|| {
        lab.enter(side);
        mount_own_sys();
        work()
    })
}

/// Runs `work` on a new thread, which begins in the namespaces of this one.
fn aside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(work);
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn mount_own_sys() {
    // SAFETY: no pointers are passed; what is mounted from here on only this thread sees.
    let left = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    assert_eq!(left, 0, "unshare: {}", std::io::Error::last_os_error());
    mount("none", "/", None, libc::MS_REC | libc::MS_PRIVATE);
    mount("sysfs", "/sys", Some("sysfs"), 0);
}

fn mount(source: &str, target: &str, kind: Option<&str>, flags: libc::c_ulong) {
    let text = |text: &str| CString::new(text).unwrap();
    let (source, at, kind) = (text(source), text(target), kind.map(text));
    let kind = kind.as_ref().map_or(ptr::null(), |kind| kind.as_ptr());
    // SAFETY: every text ends with a zero and outlives the call; there is no data.
    let done = unsafe { libc::mount(source.as_ptr(), at.as_ptr(), kind, flags, ptr::null()) };
    assert_eq!(done, 0, "mount({target}): {}", std::io::Error::last_os_error());
}

fn look(device: &str) -> (Survey, Device) {
    let survey = Survey::read_device(&Source::live(), device);
    let found = survey.device(device).expect("the device").1.clone();
    (survey, found)
}

#[track_caller]
fn known<T>(reading: &Reading<T>) -> &T {
    reading.known().unwrap_or_else(|| panic!("{:?}", reading.reason()))
}

/// Opens the server's device with our program, on two queues; `work` sees it.
fn with_lane(lab: &Lab, mode: Mode, work: impl FnOnce() + Send) {
    at(lab, Side::Server, || {
        let config =
            XdpConfig { force_mode: Some(mode), ..XdpConfig::new(lab.device(Side::Server)) };
        let (device, _) = XdpDevice::attach(&config).unwrap();
        let address = SocketAddr::new(Side::Server.ip(false), 4433);
        device.listen(address).unwrap();
        let _queues = [0, 1].map(|queue| device.open_queue(queue, &[address]).unwrap());
        work();
    });
}

fn program_of(survey: &Survey, attached: Attached) -> &Program {
    let programs = known(&survey.programs);
    programs.iter().find(|program| program.id == attached.program).expect("the program")
}

/// `Current hardware settings:` and the maximums above, by name.
fn ethtool_channels(text: &str) -> Channels {
    let (most, now) = text.split_once("Current hardware settings:").expect("two lists");
    let number = |list: &str, name: &str| {
        let line = list.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        line.trim_start_matches(':').trim().parse().unwrap_or(0)
    };
    let pair = |name: &str| (number(now, name), number(most, name));
    Channels { rx: pair("RX"), tx: pair("TX"), other: pair("Other"), combined: pair("Combined") }
}

#[test]
fn ethtool_says_the_same() {
    if !privileged("ethtool_says_the_same") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 4 });
    let name = lab.device(Side::Server);
    lab.must_run(Side::Server, &["ethtool", "-L", &name, "rx", "3", "tx", "2"]);
    lab.must_run(Side::Server, &["ethtool", "-K", &name, "gro", "on", "tx-nocache-copy", "on"]);
    let device = at(&lab, Side::Server, || look(&name).1);

    let text = lab.must_run(Side::Server, &["ethtool", "-l", &name]);
    assert_eq!(*known(&device.channels), ethtool_channels(&text));
    assert_eq!(known(&device.channels).rx, (3, 4));

    let text = lab.must_run(Side::Server, &["ethtool", "-i", &name]);
    let identity = known(&device.identity);
    assert!(text.contains(&format!("driver: {}\n", identity.driver)), "{text}");
    assert!(text.contains(&format!("\nversion: {}\n", identity.version)), "{text}");
    assert_eq!(identity.driver, "veth");

    let text = lab.must_run(Side::Server, &["ethtool", "-S", &name]);
    let told: Vec<&str> =
        text.lines().skip(1).filter_map(|line| Some(line.trim().rsplit_once(':')?.0)).collect();
    let names: Vec<&str> =
        known(&device.statistics).iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, told);
    assert!(names.contains(&"peer_ifindex"));
    compare_features(&lab, &name, &device);
}

/// `ethtool -k` shows `name: on [fixed]`, and `[requested off]` where a request was refused.
fn compare_features(lab: &Lab, name: &str, device: &Device) {
    let text = lab.must_run(Side::Server, &["ethtool", "-k", name]);
    let features = known(&device.features);
    let mut compared = 0;
    for line in text.lines().skip(1) {
        let Some((name, state)) = line.trim().split_once(": ") else { continue };
        // Groups of offloads have names of ethtool's own.
        let Some(feature) = features.get(name) else { continue };
        assert_eq!(feature.active, state.starts_with("on"), "{line}");
        assert_eq!(feature.changeable, !state.contains("[fixed]"), "{line}");
        if feature.changeable {
            let differs = state.contains("[requested");
            assert_eq!(feature.wanted != feature.active, differs, "{line}");
        }
        compared += 1;
    }
    assert!(compared >= 30, "{compared} names of {} in {text}", features.len());
    assert!(features["tx-nocache-copy"].active && features["rx-gro"].active);
    assert!(!features.contains_key(""));
}

#[test]
fn ip_says_the_same_of_links_and_programs() {
    if !privileged("ip_says_the_same_of_links_and_programs") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let name = lab.device(Side::Server);
    for (mode, expected) in
        [(Mode::NativeCopy, AttachMode::Native), (Mode::Generic, AttachMode::Generic)]
    {
        with_lane(&lab, mode, || {
            let (survey, device) = look(&name);
            let [attached] = known(&device.attached)[..] else { panic!("{:?}", device.attached) };
            assert_eq!(attached.mode, expected);
            compare_link(&lab, &name, &device, attached);
            check_program(&survey, attached);
        });
    }
    let device = at(&lab, Side::Server, || look(&name).1);
    assert_eq!(*known(&device.attached), []);
}

fn compare_link(lab: &Lab, name: &str, device: &Device, attached: Attached) {
    let text = lab.must_run(Side::Server, &["ip", "-d", "-j", "link", "show", "dev", name]);
    let told: Value = serde_json::from_str(&text).unwrap();
    let told = &told[0];
    let link = known(&device.link);
    assert_eq!(told["address"], link.address.as_str());
    assert_eq!(told["operstate"], link.state.to_uppercase().as_str());
    assert_eq!(told["linkinfo"]["info_kind"], link.kind.as_deref().unwrap());
    assert_eq!(told["num_tx_queues"], link.tx_queues.unwrap());
    assert_eq!(told["num_rx_queues"], link.rx_queues.unwrap());
    assert_eq!(told["max_mtu"], link.max_mtu_bytes.unwrap());
    assert!(link.is_up && link.has_carrier);
    // The peer is in another namespace, where the index belongs to it.
    assert!(told["link_netnsid"].is_number());
    assert_eq!((link.lower, link.master), (None, None));
    assert_eq!(link.speed_mbps, Some(10_000));
    assert_eq!(told["xdp"]["prog"]["id"], attached.program);
    let mode = if attached.mode == AttachMode::Native { 1 } else { 2 };
    assert_eq!(told["xdp"]["mode"], mode);
}

fn check_program(survey: &Survey, attached: Attached) {
    let program = program_of(survey, attached);
    assert_eq!(program.kind, "xdp");
    assert!(program.name.starts_with("quiclane"), "{program:?}");
    assert_eq!((program.tag.len(), program.uid), (16, 0));
    assert!(program.loaded_ns > 0);
    let pids: Vec<u32> = program.processes.iter().map(|process| process.pid).collect();
    // A process that another test starts has our descriptors open until its program runs.
    assert!(pids.contains(&std::process::id()), "{pids:?}");
    let device = survey.machine.nics[0].index.known().copied();
    assert!(program.links.iter().any(|&(_, index)| index == device), "{program:?}");
    let xsks = program.maps.iter().find(|map| map.kind == "xskmap").expect("a map of sockets");
    assert!(xsks.max_entries >= 2);
}

#[test]
fn sockets_are_seen_with_their_process() {
    if !privileged("sockets_are_seen_with_their_process") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 3 });
    let name = lab.device(Side::Server);
    with_lane(&lab, Mode::NativeCopy, || {
        let (survey, device) = look(&name);
        let sockets = known(&survey.sockets);
        assert_eq!(sockets.len(), 2, "{sockets:?}");
        for socket in sockets {
            let process = socket.process.as_ref().expect("a process");
            assert_eq!(process.pid, std::process::id());
            assert_eq!(socket.zerocopy, Some(false));
            // Nothing was lost; the transmit ring was never looked at.
            let counters = socket.counters.expect("counters");
            assert_eq!(XskCounters { tx_ring_empty: 0, ..counters }, XskCounters::default());
        }
        let taken: Vec<u32> = known(&device.queue_links)
            .iter()
            .filter(|queue| queue.direction == Direction::Rx && queue.has_xsk == Some(true))
            .map(|queue| queue.index)
            .collect();
        assert_eq!(taken, [0, 1]);
        assert!(known(&device.queue_links).iter().all(|queue| queue.has_xsk.is_some()));
        // NAPI runs in the driver once a program is attached.
        assert_eq!(known(&device.napis).len(), 3);
    });
    // The other end of the pair is another namespace.
    with_lane(&lab, Mode::NativeCopy, || {
        let survey = at(&lab, Side::Client, || Survey::read(&Source::live()));
        assert_eq!(*known(&survey.sockets), []);
    });
}

#[test]
fn the_only_socket_is_on_the_only_queue_that_has_one() {
    if !privileged("the_only_socket_is_on_the_only_queue_that_has_one") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    at(&lab, Side::Server, || {
        let config = XdpConfig {
            force_mode: Some(Mode::NativeCopy),
            ..XdpConfig::new(lab.device(Side::Server))
        };
        let (device, _) = XdpDevice::attach(&config).unwrap();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let worker = std::thread::Builder::new().name("inspected-q1".to_owned());
        let worker = worker.spawn(move || {
            let queue = device.open_queue(1, &[]).unwrap();
            ready.send(()).unwrap();
            ended.recv().unwrap_err();
            drop(queue);
        });
        is_ready.recv().unwrap();
        let (survey, _) = look(&lab.device(Side::Server));
        let [socket] = &known(&survey.sockets)[..] else { panic!("{:?}", survey.sockets) };
        assert_eq!(socket.device.as_ref(), survey.machine.nics[0].index.known());
        assert_eq!(socket.queue, Some(1));
        let thread = socket.workers.iter().find(|thread| thread.name == "inspected-q1");
        assert_eq!(thread.expect("the worker").queue, Some(1));
        drop(end);
        worker.unwrap().join().unwrap();
    });
}

#[test]
fn a_recorded_survey_is_the_same_survey() {
    if !privileged("a_recorded_survey_is_the_same_survey") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 64 });
    with_lane(&lab, Mode::NativeCopy, || {
        let recorder = Arc::<Recorder>::default();
        let live = Survey::read(&Source::live().recorded(recorder.clone()));
        let again = Survey::read(&Source::records(recorder.records()));
        assert_eq!(live.devices, again.devices);
        assert_eq!(live.programs, again.programs);
        assert_eq!(live.sockets, again.sockets);
        assert_eq!(live.host, again.host);
        assert_eq!(live, again);
        let (_, device) = live.device(&lab.device(Side::Server)).unwrap();
        assert_eq!(known(&device.queue_links).len(), 128);
        assert_eq!(known(&device.napis).len(), 64);
    });
}

#[test]
fn every_no_has_a_reason() {
    if !privileged("every_no_has_a_reason") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let name = lab.device(Side::Server);
    let device = at(&lab, Side::Server, || look(&name).1);
    let reasons = [
        ("its ring sizes", device.rings.reason()),
        ("its interrupt moderation", device.coalesce.reason()),
        ("flags of its own", device.private_flags.reason()),
        ("its hash key and table", device.rss.reason()),
        ("which fields it hashes", device.hash_fields.reason()),
        ("classification rules", device.rules.reason()),
        ("counters of its queues", device.queue_counters.reason()),
    ];
    for (what, reason) in reasons {
        let reason = reason.unwrap_or_else(|| panic!("veth told {what}"));
        assert!(
            reason.starts_with(&format!("the driver veth does not report {what} (")),
            "{reason}"
        );
        assert!(reason.ends_with(": EOPNOTSUPP)"), "{reason}");
    }
    lab.must_run(Side::Server, &["ip", "link", "set", &name, "down"]);
    let device = at(&lab, Side::Server, || look(&name).1);
    for reason in [device.queue_links.reason(), device.napis.reason()] {
        assert!(reason.is_some_and(|reason| reason.contains("is down")), "{reason:?}");
    }
    assert!(!known(&device.link).is_up);
}

/// The device, for the process that looks without privilege.
const AS_NOBODY: &str = "QUICLANE_INSPECT_AS_NOBODY";

#[test]
fn without_privilege_only_what_needs_it_is_missing() {
    if let Ok(device) = std::env::var(AS_NOBODY) {
        look_as_nobody(&device);
        return;
    }
    if !privileged("without_privilege_only_what_needs_it_is_missing") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    with_lane(&lab, Mode::NativeCopy, || {
        // A process may always look into itself, so another process looks.
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "without_privilege_only_what_needs_it_is_missing", "--nocapture"])
            .env(AS_NOBODY, lab.device(Side::Server))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
    });
}

fn look_as_nobody(device: &str) {
    const NOBODY: libc::c_long = 65_534;
    let everything = look(device);
    assert_eq!(known(&everything.0.sockets).len(), 2);
    // SAFETY: no pointers. The call itself, not the library's function, changes the calling
    // thread alone.
    let done = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
    assert_eq!(done, 0, "setresuid: {}", std::io::Error::last_os_error());
    let little = look(device);
    // Counters go on counting.
    let lasting = |device: &Device| Device {
        statistics: Reading::Known(vec![]),
        totals: everything.1.totals.clone(),
        ..device.clone()
    };
    assert_eq!(lasting(&little.1), lasting(&everything.1));
    let reason = little.0.programs.reason().expect("no programs");
    assert!(reason.contains("CAP_SYS_ADMIN") && reason.contains("sudo"), "{reason}");
    let reason = little.0.sockets.reason().expect("no sockets");
    assert!(reason.contains("2 AF_XDP sockets"), "{reason}");
    assert!(reason.contains("CAP_SYS_PTRACE"), "{reason}");
    assert_eq!(little.0.host.kernel_options, everything.0.host.kernel_options);
}

#[test]
fn pins_are_found() {
    if !privileged("pins_are_found") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    with_lane(&lab, Mode::NativeCopy, || {
        mount("bpf", "/sys/fs/bpf", Some("bpf"), 0);
        std::fs::create_dir("/sys/fs/bpf/lanes").unwrap();
        let (survey, device) = look(&lab.device(Side::Server));
        let program = program_of(&survey, known(&device.attached)[0]);
        assert_eq!(program.pins, [""; 0]);
        let map = program.maps.iter().find(|map| map.kind == "xskmap").unwrap();
        // SAFETY: numbers go in, and the descriptors that come out stay open till the end.
        let objects = unsafe {
            BTreeMap::from([
                ("/sys/fs/bpf/steer", libbpf_sys::bpf_prog_get_fd_by_id(program.id)),
                ("/sys/fs/bpf/lanes/xsks", libbpf_sys::bpf_map_get_fd_by_id(map.id)),
            ])
        };
        for (path, object) in &objects {
            let path = CString::new(*path).unwrap();
            // SAFETY: the path ends with a zero and outlives the call.
            let done = unsafe { libbpf_sys::bpf_obj_pin(*object, path.as_ptr()) };
            assert_eq!(done, 0, "{path:?}: {}", std::io::Error::last_os_error());
        }
        let (survey, device) = look(&lab.device(Side::Server));
        let program = program_of(&survey, known(&device.attached)[0]);
        assert_eq!(program.pins, ["/sys/fs/bpf/lanes/xsks", "/sys/fs/bpf/steer"]);
        for object in objects.into_values() {
            // SAFETY: opened above, closed once.
            unsafe { libc::close(object) };
        }
    });
}
