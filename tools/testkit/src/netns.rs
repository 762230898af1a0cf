//! Two network namespaces and a veth pair between them, removed when the guard is dropped.
//!
//! ```text
//!   namespace "server"                      namespace "client"
//!   DEVICE  10.77.0.1/24  fd77::1/64  <-->  DEVICE  10.77.0.2/24  fd77::2/64
//! ```
//!
//! A thread enters a namespace with [`Lab::enter`], and stays there; sockets and devices that it
//! opens are of that namespace. Programs run in one with [`Lab::run`].

use crate::cpus;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// Which end of the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The end of [`Lab`] with host number 1.
    Server,
    /// The end with host number 2.
    Client,
}

impl Side {
    /// The address of this end, IPv4 or IPv6.
    pub fn ip(self, v6: bool) -> IpAddr {
        let host = match self {
            Self::Server => 1,
            Self::Client => 2,
        };
        host_ip(host, v6)
    }

    const fn letter(self) -> char {
        match self {
            Self::Server => 's',
            Self::Client => 'c',
        }
    }
}

/// The address of a host number on the link of the pair, IPv4 or IPv6. [`Side`] has the first two.
pub fn host_ip(host: u16, v6: bool) -> IpAddr {
    if v6 {
        IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, host))
    } else {
        IpAddr::V4(Ipv4Addr::new(10, 77, 0, host as u8))
    }
}

/// Settings of the pair.
#[derive(Clone, Copy, Debug)]
pub struct LabConfig {
    /// Queues of each end, for both directions.
    pub queues: u32,
}

impl Default for LabConfig {
    fn default() -> Self {
        Self { queues: 2 }
    }
}

/// The pair. Dropping it removes everything, also when a test panics.
pub struct Lab {
    id: String,
}

/// True if the test may go on: as root. Skips loudly, or fails where `QUICLANE_REQUIRE_ROOT=1` says
/// that it must run.
pub fn privileged(test: &str) -> bool {
    // SAFETY: geteuid() has no preconditions.
    if unsafe { libc::geteuid() } == 0 {
        return true;
    }
    let required = std::env::var_os("QUICLANE_REQUIRE_ROOT").is_some_and(|value| value == "1");
    assert!(!required, "{test} needs root, and QUICLANE_REQUIRE_ROOT=1 says that it must run");
    eprintln!("SKIPPED {test}: needs root (network namespaces, XDP)");
    false
}

impl Lab {
    /// Builds the pair.
    ///
    /// # Panics
    /// The machine refuses.
    #[must_use]
    pub fn new(config: LabConfig) -> Self {
        Self::build(config).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Builds the pair, for a program that reports an error when the machine refuses.
    ///
    /// # Errors
    /// `ip` or `ethtool` cannot be run, or fails; what was made before is removed.
    pub fn build(config: LabConfig) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let lab = Self { id: format!("{:x}x{number}", std::process::id()) };
        for side in [Side::Server, Side::Client] {
            ip(&format!("netns add {}", lab.namespace(side)))?;
        }
        let queues = config.queues;
        let end = |side| format!("{} netns {}", lab.device(side), lab.namespace(side));
        let multi = format!("numrxqueues {queues} numtxqueues {queues}");
        ip(&format!(
            "link add {} {multi} type veth peer name {} {multi}",
            end(Side::Server),
            end(Side::Client)
        ))?;
        for side in [Side::Server, Side::Client] {
            lab.configure(side)?;
        }
        Ok(lab)
    }

    fn configure(&self, side: Side) -> io::Result<()> {
        let device = self.device(side);
        let namespace = self.namespace(side);
        let inside = |arguments: &str| ip(&format!("-n {namespace} {arguments}"));
        inside("link set lo up")?;
        self.add_address(side, side.ip(false))?;
        self.add_address(side, side.ip(true))?;
        inside(&format!("link set {device} up"))?;
        // Checksums that the kernel leaves to hardware would never be filled in on a veth.
        self.try_run(side, &["ethtool", "-K", &device, "tx", "off"]).map(drop)
    }

    /// Gives an end one more address, of the link that both ends are on.
    ///
    /// # Errors
    /// `ip` cannot be run, or fails: the end has the address already.
    pub fn add_address(&self, side: Side, address: IpAddr) -> io::Result<()> {
        let link = if address.is_ipv4() { "24" } else { "64 nodad" };
        let (namespace, device) = (self.namespace(side), self.device(side));
        ip(&format!("-n {namespace} addr add dev {device} {address}/{link}"))
    }

    /// The name of the device in a namespace; unique on the machine.
    pub fn device(&self, side: Side) -> String {
        format!("q{}{}", self.id, side.letter())
    }

    /// The name of a namespace.
    pub fn namespace(&self, side: Side) -> String {
        format!("quiclane-{}{}", self.id, side.letter())
    }

    /// Moves the calling thread into a namespace, for good.
    pub fn enter(&self, side: Side) {
        enter(&self.namespace(side));
    }

    /// Moves the calling thread, and threads that it starts, into a namespace, with its own `/sys`:
    /// that shows only the devices of the namespace.
    pub fn enter_with_sysfs(&self, side: Side) {
        self.enter(side);
        let (root, sys, kind) = (c"/".as_ptr(), c"/sys".as_ptr(), c"sysfs".as_ptr());
        let none = std::ptr::null();
        // SAFETY: the texts end with a zero byte and are only read; no other pointer is passed.
        let result = unsafe {
            libc::unshare(libc::CLONE_NEWNS)
                | libc::mount(none, root, none, libc::MS_REC | libc::MS_SLAVE, none.cast())
                | libc::umount2(sys, libc::MNT_DETACH)
                | libc::mount(kind, sys, kind, 0, none.cast())
        };
        assert_eq!(result, 0, "/sys of {side:?}: {}", io::Error::last_os_error());
    }

    /// A command that runs in a namespace. `ip netns exec` becomes the program: the process that
    /// is started is the program itself.
    #[must_use]
    pub fn command(&self, side: Side, command: &[&str]) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.namespace(side)]).args(command);
        inside
    }

    /// Runs a program in a namespace.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn run(&self, side: Side, command: &[&str]) -> Output {
        let ran = self.command(side, command).output();
        ran.unwrap_or_else(|error| panic!("ip netns exec {command:?}: {error}"))
    }

    /// Runs a program in a namespace. Returns what it printed.
    ///
    /// # Errors
    /// It cannot be started, or fails.
    pub fn try_run(&self, side: Side, command: &[&str]) -> io::Result<String> {
        printed(&mut self.command(side, command))
    }

    /// Runs a program in a namespace. Returns what it printed.
    ///
    /// # Panics
    /// It cannot be started, or fails.
    pub fn must_run(&self, side: Side, command: &[&str]) -> String {
        self.try_run(side, command).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Moves the NAPI of an end from the sender's core into kernel threads on `cpu`, as urgent as
    /// this process. It exists once XDP is attached to the device, or GRO is on. Returns how many
    /// threads there are.
    pub fn thread_napi(&self, side: Side, cpu: usize) -> usize {
        let device = self.device(side);
        let line = format!("echo 1 > /sys/class/net/{device}/threaded");
        self.must_run(side, &["sh", "-c", &line]);
        let prefix = format!("napi/{device}-");
        // The kernel cuts names to 15 bytes.
        let prefix = &prefix[..prefix.len().min(15)];
        let mut pinned = 0;
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if comm.starts_with(prefix) {
                let pid = entry.file_name().to_string_lossy().into_owned();
                pinned += usize::from(cpus::pin(&pid, cpu as u32).is_ok());
                // SAFETY: no pointers are passed.
                let niceness = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }.to_string();
                let _ = Command::new("renice").args(["-n", &niceness, "-p", &pid]).output();
            }
        }
        pinned
    }
}

/// Moves the calling thread into the namespace of this name, for good.
pub fn enter(namespace: &str) {
    let path = format!("/run/netns/{namespace}");
    let namespace = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    // SAFETY: no pointers are passed; the descriptor is open.
    let result = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "setns({path}): {}", io::Error::last_os_error());
}

impl Drop for Lab {
    fn drop(&mut self) {
        for side in [Side::Server, Side::Client] {
            // Devices are removed with their namespaces. A panic here would hide the test's own.
            let _ = Command::new("ip").args(["netns", "del", &self.namespace(side)]).output();
        }
    }
}

fn ip(arguments: &str) -> io::Result<()> {
    printed(Command::new("ip").args(arguments.split_ascii_whitespace())).map(drop)
}

/// What a command prints; an error names the command if it cannot be started, or fails.
fn printed(command: &mut Command) -> io::Result<String> {
    let output = command.output();
    let output = output.map_err(|e| io::Error::new(e.kind(), format!("{command:?}: {e}")))?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{command:?}: {output:?}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
