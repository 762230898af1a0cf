//! A start that cannot work fails with a text that names cause and remedy, and leaves nothing behind.
//! Rows 48 and 52 to 54 of the attacks.

use super::*;
use quiclane::datapath::Datapath;
use quiclane::datapath::xdp::{Require, XdpError};
use quiclane_testkit::netns::{Lab, LabConfig, Side, privileged};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

const CHILD_DEVICE: &str = "QUICLANE_TEST_DEVICE";

/// Another process that has the device, until it is killed.
struct Holder {
    child: Child,
}

impl Holder {
    fn start(lab: &Lab) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut child = Command::new("ip")
            .args(["netns", "exec", &lab.namespace(Side::Server)])
            .arg(program)
            .args(["--exact", "refused::holds_the_device", "--nocapture"])
            .env(CHILD_DEVICE, lab.device(Side::Server))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line.contains("READY")));
        assert!(ready, "the other process does not open the device");
        Self { child }
    }

    fn kill(&mut self) {
        // SIGKILL: nothing of the process runs any more.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test: the code of the other process.
#[test]
fn holds_the_device() {
    let Ok(device) = std::env::var(CHILD_DEVICE) else { return };
    let config = XdpConfig { force_mode: Some(Mode::NativeCopy), ..XdpConfig::new(device) };
    let device = XdpDevice::attach(&config).unwrap().0;
    let _queues: Vec<_> =
        (0..2).map(|queue| device.open_queue(queue, &[any(false)]).unwrap()).collect();
    println!("READY");
    // Until the parent kills this process, or dies.
    let _ = std::io::stdin().read(&mut [0]);
}

fn links(lab: &Lab) -> String {
    lab.must_run(Side::Server, &["ip", "-d", "link", "show", "dev", &lab.device(Side::Server)])
}

#[test]
fn attack_52_a_killed_process_leaves_no_program_attached() {
    if !privileged("attack_52_a_killed_process_leaves_no_program_attached") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let mut holder = Holder::start(&lab);
    assert!(links(&lab).contains("prog/xdp"), "{}", links(&lab));
    holder.kill();
    // The kernel takes links down a moment after the process is gone.
    for _ in 0..1_000 {
        if !links(&lab).contains("prog/xdp") {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("still attached: {}", links(&lab));
}

#[test]
fn attack_53_a_restart_finds_its_way_past_what_the_dead_one_left() {
    if !privileged("attack_53_a_restart_finds_its_way_past_what_the_dead_one_left") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    lab.enter(Side::Server);
    for _ in 0..3 {
        let mut holder = Holder::start(&lab);
        holder.kill();
        // At once: program, queues and ports may still be there.
        let device = XdpDevice::attach(&config(&lab, Mode::NativeCopy)).unwrap().0;
        for queue in 0..2 {
            device.open_queue(queue, &[any(false)]).unwrap();
            // Also within a process: queues that were bound a moment ago.
            device.open_queue(queue, &[any(false)]).unwrap();
        }
    }
}

#[test]
fn attack_54_a_second_instance_is_told_who_the_first_one_is() {
    if !privileged("attack_54_a_second_instance_is_told_who_the_first_one_is") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    lab.enter(Side::Server);
    let holder = Holder::start(&lab);
    for mode in [Mode::NativeCopy, Mode::Generic] {
        let error = XdpDevice::attach(&config(&lab, mode)).err().unwrap();
        let XdpError::Occupied { device, program, .. } = &error else { panic!("{error}") };
        assert_eq!(*device, lab.device(Side::Server));
        assert_eq!(program.name.as_deref(), Some("quiclane_steer"));
        assert_eq!(program.holder.as_ref().map(|by| by.pid), Some(holder.child.id()));
        let text = error.to_string();
        let pid = holder.child.id().to_string();
        for part in [device.as_str(), "queue 0", "another instance", "stop it", &pid] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }
    // The first one still works.
    assert!(links(&lab).contains("prog/xdp"));
}

#[test]
fn a_queue_is_opened_once() {
    if !privileged("a_queue_is_opened_once") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let device = listening(&lab, Mode::NativeCopy);
    let first = device.open_queue(0, &[]).unwrap();
    let error = device.open_queue(0, &[]).err().unwrap();
    let XdpError::QueueBusy { queue: 0, holders, .. } = &error else { panic!("{error}") };
    assert_eq!(holders[0].pid, std::process::id());
    assert!(error.to_string().contains(device.name()), "{error}");
    drop(first);
    device.open_queue(0, &[]).unwrap();
    let error = device.open_queue(2, &[]).err().unwrap();
    assert!(matches!(error, XdpError::QueueOutOfRange { queue: 2, queues: 2, .. }), "{error}");
    assert!(error.to_string().contains("ethtool -l"), "{error}");
}

#[test]
fn a_program_of_somebody_else_is_named_and_left_alone() {
    if !privileged("a_program_of_somebody_else_is_named_and_left_alone") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    lab.enter(Side::Server);
    let id = attach_stranger(&lab.device(Side::Server));
    let error = XdpDevice::attach(&XdpConfig::new(lab.device(Side::Server))).err().unwrap();
    let XdpError::Occupied { program, .. } = &error else { panic!("{error}") };
    assert_eq!(
        (program.id, program.name.as_deref(), program.mode),
        (id, Some("stranger"), "native")
    );
    assert!(error.to_string().contains("xdp off"), "{error}");
    assert!(links(&lab).contains(&format!("prog/xdp id {id}")));
}

/// Attaches a program that passes everything, through netlink as `ip link` does. Returns its id.
fn attach_stranger(device: &str) -> u32 {
    use libxdp_sys as xdp;
    use std::ffi::CString;
    /// `linux/if_link.h`.
    const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
    // mov r0, XDP_PASS; exit
    let code: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
    let (name, license) = (CString::new("stranger").unwrap(), CString::new("GPL").unwrap());
    let device = CString::new(device).unwrap();
    // SAFETY: all pointers are to live values: C strings, and two instructions of eight bytes.
    unsafe {
        let fd = xdp::bpf_prog_load(
            xdp::bpf_prog_type_BPF_PROG_TYPE_XDP,
            name.as_ptr(),
            license.as_ptr(),
            code.as_ptr().cast(),
            code.len(),
            std::ptr::null_mut(),
        );
        assert!(fd >= 0, "bpf_prog_load: {fd}");
        let ifindex = libc::if_nametoindex(device.as_ptr()) as i32;
        let attached = xdp::bpf_xdp_attach(ifindex, fd, XDP_FLAGS_DRV_MODE, std::ptr::null());
        assert_eq!(attached, 0);
        let mut id = 0;
        assert_eq!(xdp::bpf_xdp_query_id(ifindex, XDP_FLAGS_DRV_MODE as i32, &raw mut id), 0);
        id
    }
}

#[test]
fn attack_48_a_frame_larger_than_its_memory_is_refused_at_start() {
    if !privileged("attack_48_a_frame_larger_than_its_memory_is_refused_at_start") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    lab.enter(Side::Server);
    let name = lab.device(Side::Server);
    lab.must_run(Side::Server, &["ip", "link", "set", "dev", &name, "mtu", "1771"]);
    let small = XdpConfig { chunk_bytes: 2048, ..XdpConfig::new(&name) };
    let error = XdpDevice::attach(&small).err().unwrap();
    assert!(matches!(error, XdpError::MtuTooLarge { mtu: 1771, limit: 1770, .. }), "{error}");
    assert!(error.to_string().contains(&format!("ip link set {name} mtu 1770")), "{error}");
    XdpDevice::attach(&XdpConfig::new(&name)).unwrap();
    lab.must_run(Side::Server, &["ip", "link", "set", "dev", &name, "mtu", "1770"]);
    XdpDevice::attach(&small).unwrap();
}

#[test]
fn a_device_that_does_not_exist_is_named() {
    let error = XdpDevice::attach(&XdpConfig::new("no-such-dev")).err().unwrap();
    assert!(
        matches!(&error, XdpError::NoSuchDevice { device } if device == "no-such-dev"),
        "{error}"
    );
}

#[test]
fn a_port_in_use_is_named() {
    if !privileged("a_port_in_use_is_named") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let device = listening(&lab, Mode::NativeCopy);
    let other = UdpSocket::bind(any(false)).unwrap();
    let error = device.open_queue(0, &[any(false)]).err().unwrap();
    assert!(matches!(error, XdpError::Port(_)), "{error}");
    assert!(error.to_string().contains("port 4433 is in use"), "{error}");
    drop(other);
    // A failed start gives the queue back. Workers of one process share the port.
    let _queues: Vec<_> =
        (0..2).map(|queue| device.open_queue(queue, &[any(false)]).unwrap()).collect();
}

#[test]
fn without_privilege_the_missing_capabilities_are_named() {
    if !privileged("without_privilege_the_missing_capabilities_are_named") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let name = lab.device(Side::Server);
    let error = inside(&lab, Side::Server, move || {
        drop_capabilities();
        XdpDevice::attach(&XdpConfig { require: Require::Xdp, ..XdpConfig::new(name) })
            .err()
            .unwrap()
    });
    let XdpError::Privilege { missing, .. } = &error else { panic!("{error}") };
    assert_eq!(missing[..], ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF"]);
    for name in ["CAP_BPF", "CAP_NET_ADMIN", "CAP_NET_RAW"] {
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// Takes all capabilities from the calling thread, for good.
fn drop_capabilities() {
    /// `_LINUX_CAPABILITY_VERSION_3`.
    const VERSION: u32 = 0x2008_0522;
    let header = [VERSION, 0];
    let sets = [0u32; 6];
    // SAFETY: the kernel reads a header of two words and two sets of three.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!(result, 0, "capset: {}", std::io::Error::last_os_error());
}

#[test]
fn after_a_device_is_gone_the_worker_is_told() {
    if !privileged("after_a_device_is_gone_the_worker_is_told") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let device = listening(&lab, Mode::NativeCopy);
    let mut datapath = device.open_queue(0, &[any(false)]).unwrap();
    datapath.flush().unwrap();
    lab.must_run(Side::Server, &["ip", "link", "del", device.name()]);
    assert!(!datapath.prepare_sleep(), "an idle worker must not sleep on a dead device");
    let error = datapath.flush().unwrap_err();
    assert!(error.to_string().contains("is gone"), "{error}");
}
