//! Why AF_XDP cannot be had, and what to do about it.

use super::ladder::{Ladder, Require};
use super::sys::{CAPABILITIES, Failed};
use crate::datapath::udp::UdpError;
use std::error::Error;
use std::fmt;
use std::io;

/// A process that holds what we need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub pid: u32,
    /// Its name, as the kernel keeps it.
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.name)
    }
}

/// A program that is attached to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignProgram {
    /// Its id.
    pub id: u32,
    /// Its name; unknown without the privilege to ask, empty if it was loaded without one.
    pub name: Option<String>,
    /// It is one of Quiclane's, by its name or by the names of its maps; false if that is unknown.
    pub is_ours: bool,
    /// `native`, `generic` or `hardware`.
    pub mode: &'static str,
    /// Who keeps it attached, as far as can be found.
    pub holder: Option<Holder>,
}

/// Why a device or a queue could not be opened. The text names device, queue, cause and remedy.
#[derive(Debug)]
#[non_exhaustive]
pub enum XdpError {
    /// The configuration contradicts itself.
    Config {
        /// How.
        what: &'static str,
    },
    /// There is no such device in this network namespace.
    NoSuchDevice {
        /// The name that was asked for.
        device: String,
    },
    /// The process may not do this.
    Privilege {
        /// What it tried.
        what: &'static str,
        /// Capabilities that it lacks; empty if it lacks none that we know of.
        missing: Vec<&'static str>,
    },
    /// The kernel is too old or was built without something.
    Kernel {
        /// What is missing, and since when it exists.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// Another program is attached to the device. It is never removed.
    Occupied {
        /// The device.
        device: String,
        /// The first queue that was wanted.
        queue: u32,
        /// What is attached.
        program: ForeignProgram,
    },
    /// The device has fewer receive queues.
    QueueOutOfRange {
        /// The device.
        device: String,
        /// The queue that was asked for.
        queue: u32,
        /// How many it has.
        queues: u32,
    },
    /// Another socket is bound to the queue.
    QueueBusy {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
        /// Processes with AF_XDP sockets in this network namespace.
        holders: Vec<Holder>,
    },
    /// A packet would not fit into a frame.
    MtuTooLarge {
        /// The device.
        device: String,
        /// Its MTU in bytes.
        mtu: u32,
        /// The largest MTU that the frames can hold.
        limit: u32,
        /// Bytes of a frame.
        chunk_bytes: usize,
    },
    /// The driver cuts packets short in frames of this size.
    ChunkTooSmall {
        /// The device.
        device: String,
        /// Its driver.
        driver: String,
        /// The size of a frame that is needed, in bytes.
        needed: usize,
    },
    /// No rung of the ladder that the configuration allows could be reached.
    Refused {
        /// The device.
        device: String,
        /// What the configuration asks for.
        require: Require,
        /// What was tried, and why each step failed.
        ladder: Ladder,
    },
    /// The kernel socket beside a port cannot be opened: most likely another process has the port.
    Port(UdpError),
    /// The frames may not be locked in memory.
    MemoryLock {
        /// How much is needed, in bytes.
        bytes: u64,
    },
    /// The XSKMAP would lose every packet of this queue.
    WrongSlot {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
        /// The queue of the socket that the slot leads to, if any.
        found: Option<u32>,
    },
    /// The kernel refused the program.
    Program {
        /// What failed.
        what: &'static str,
        /// What the loader or the verifier said.
        detail: String,
    },
    /// A system call failed in a way that has no better name.
    System {
        /// The device.
        device: String,
        /// The call.
        call: &'static str,
        /// What it said.
        error: io::Error,
    },
}

impl XdpError {
    pub(super) const fn config(what: &'static str) -> Self {
        Self::Config { what }
    }

    /// The meaning of a failed call on `device`.
    pub(super) fn from_call(device: &str, failed: Failed) -> Self {
        match failed.errno() {
            libc::EPERM | libc::EACCES => Self::privilege(failed.call),
            _ => Self::System { device: device.to_owned(), call: failed.call, error: failed.error },
        }
    }

    pub(super) fn privilege(what: &'static str) -> Self {
        Self::Privilege { what, missing: super::sys::missing_capabilities() }
    }

    /// The meaning of a UMEM that could not be made from `bytes` of memory.
    pub(super) fn from_umem(error: &(dyn Error + 'static), bytes: u64) -> Self {
        let io = Self::system_error(error);
        match io.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::privilege("socket(AF_XDP)"),
            Some(libc::ENOBUFS) => Self::MemoryLock { bytes },
            Some(libc::EAFNOSUPPORT) => {
                Self::Kernel { what: "AF_XDP sockets (CONFIG_XDP_SOCKETS)", error: io }
            }
            _ => {
                Self::System { device: String::new(), call: "setsockopt(XDP_UMEM_REG)", error: io }
            }
        }
    }

    /// The first system error in a chain of causes.
    pub(super) fn system_error(error: &(dyn Error + 'static)) -> io::Error {
        let mut next = Some(error);
        while let Some(cause) = next {
            let code = cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
            if let Some(code) = code {
                return io::Error::from_raw_os_error(code);
            }
            next = cause.source();
        }
        io::Error::other(Self::chain(error))
    }

    /// A chain of causes in one line.
    pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }
}

impl fmt::Display for XdpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config { what } => write!(f, "AF_XDP configuration: {what}"),
            Self::NoSuchDevice { device } => {
                write!(f, "no network device {device} in this network namespace; see: ip link")
            }
            Self::Privilege { what, missing } => fmt_privilege(f, what, missing),
            Self::Kernel { what, error } => {
                write!(f, "this kernel has no {what} ({error}); use kernel UDP instead")
            }
            Self::Occupied { device, queue, program } => fmt_occupied(f, device, *queue, program),
            Self::QueueOutOfRange { device, queue, queues } => write!(
                f,
                "{device} has no receive queue {queue}, its {queues} queues count from 0; \
                 see: ethtool -l {device}"
            ),
            Self::QueueBusy { device, queue, holders } => fmt_busy(f, device, *queue, holders),
            Self::MtuTooLarge { device, mtu, limit, chunk_bytes } => write!(
                f,
                "the MTU of {device} is {mtu}, frames of {chunk_bytes} bytes hold {limit} at \
                 most; lower it: ip link set {device} mtu {limit}"
            ),
            Self::ChunkTooSmall { device, driver, needed } => write!(
                f,
                "{driver} ({device}) cuts zero-copy packets short in smaller frames: set the \
                 frame size to {needed} bytes"
            ),
            Self::Refused { device, require, ladder } => write!(
                f,
                "{device} does not reach what the configuration requires ({require}): {ladder}"
            ),
            Self::Port(error) => error.fmt(f),
            Self::MemoryLock { bytes } => write!(
                f,
                "{bytes} bytes of packet memory may not be locked: raise `ulimit -l` \
                 (LimitMEMLOCK= in a systemd unit), or grant CAP_IPC_LOCK"
            ),
            Self::WrongSlot { device, queue, found: None } => write!(
                f,
                "the XSKMAP has no socket for queue {queue} of {device}: every packet of the \
                 queue would go to the kernel"
            ),
            Self::WrongSlot { device, queue, found: Some(found) } => write!(
                f,
                "slot {queue} of the XSKMAP of {device} leads to a socket of queue {found}: \
                 every packet of the queue would be lost without a count"
            ),
            Self::Program { what, detail } => write!(f, "{what}: {detail}"),
            Self::System { device, call, error } => write!(f, "{device}: {call}: {error}"),
        }
    }
}

fn fmt_privilege(f: &mut fmt::Formatter<'_>, what: &str, missing: &[&'static str]) -> fmt::Result {
    write!(f, "no permission for {what}: AF_XDP needs {}", CAPABILITIES.join(", "))?;
    if !missing.is_empty() {
        write!(f, ", and this process lacks {}", missing.join(", "))?;
    }
    write!(f, "; run as root, grant them, or use kernel UDP")
}

fn fmt_occupied(
    f: &mut fmt::Formatter<'_>,
    device: &str,
    queue: u32,
    program: &ForeignProgram,
) -> fmt::Result {
    let name = match program.name.as_deref() {
        None => "its name shows with CAP_SYS_ADMIN only",
        Some("") => "without a name: loaded without CAP_PERFMON",
        Some(name) => name,
    };
    let (mode, id) = (program.mode, program.id);
    write!(f, "{device} (queue {queue}): the {mode} XDP program {id} ({name}) is attached")?;
    if let Some(holder) = &program.holder {
        write!(f, " by {holder}")?;
    }
    if program.is_ours {
        write!(f, ", another instance of Quiclane: stop it, or use another device")
    } else if program.name.is_none() {
        write!(
            f,
            ", and whether it is one of Quiclane's is not known: stop its owner, or use another \
             device"
        )
    } else {
        write!(
            f,
            ", and it is not ours to remove: stop its owner, or: ip link set dev {device} xdp off"
        )
    }
}

fn fmt_busy(
    f: &mut fmt::Formatter<'_>,
    device: &str,
    queue: u32,
    holders: &[Holder],
) -> fmt::Result {
    write!(f, "queue {queue} of {device} has an AF_XDP socket already")?;
    let mut before = "; such sockets are held by ";
    for holder in holders {
        write!(f, "{before}{holder}")?;
        before = ", ";
    }
    write!(f, "; stop that process, or use another queue")
}

impl Error for XdpError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Kernel { error, .. } | Self::System { error, .. } => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occupied(name: Option<&str>, is_ours: bool) -> String {
        let holder = Some(Holder { pid: 7, name: "quiclane".to_owned() });
        let name = name.map(str::to_owned);
        let program = ForeignProgram { id: 5, name, is_ours, mode: "native", holder };
        XdpError::Occupied { device: "v0".to_owned(), queue: 0, program }.to_string()
    }

    /// A server with the capabilities of the README, without CAP_PERFMON, loads it so.
    #[test]
    fn our_program_without_a_name_is_not_to_be_removed() {
        let text = occupied(Some(""), true);
        assert!(
            text.contains("another instance of Quiclane") && !text.contains("xdp off"),
            "{text}"
        );
        assert!(text.contains("CAP_PERFMON"), "{text}");
        let text = occupied(None, false);
        assert!(text.contains("is not known") && !text.contains("xdp off"), "{text}");
        let text = occupied(Some("stranger"), false);
        assert!(text.contains("not ours to remove") && text.contains("xdp off"), "{text}");
    }

    #[test]
    fn a_privilege_that_is_missing_is_named_with_all_that_are_needed() {
        let missing = vec!["CAP_BPF"];
        let text = XdpError::Privilege { what: "bpf(2)", missing }.to_string();
        for name in CAPABILITIES {
            assert!(text.contains(name), "{name} in {text}");
        }
    }
}
