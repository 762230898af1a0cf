//! One program on a device for several processes.
//!
//! A device runs one XDP program (at each place where it can), and a queue has one AF_XDP socket with memory
//! of its own. So processes share a device by its queues: each serves other ones, and other ports. The first
//! loads the program and pins what it is made of in a directory of a BPF file system; the others find it there:
//!
//! ```text
//!   DIRECTORY/link         holds the program on the device
//!             ports_v4,    address and port -> flags, and where the slots of its instance begin
//!             ports_v6
//!             xsks         slots: 128 for the queues of instance 0, 128 for those of instance 1, ...
//!             instances    number -> process
//!             verdicts     counters, of all together
//! ```
//!
//! A packet for a port of one instance that arrives on a queue of another finds an empty slot, and falls to the
//! kernel sockets of the port: a detour, and no loss. To send it by the NIC to the queues of the instance is what
//! flow rules are for (`ethtool -N`).
//!
//! Who changes anything holds a lock on the directory. The last instance that leaves removes what is pinned. One that
//! is killed leaves its entries, which lead to empty slots; the next that comes takes them over, and if there is
//! none the program passes every packet on.

use super::error::XdpError;
use super::sys;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Slots of an instance: the queues that a device may have whose program is shared.
pub(super) const INSTANCE_SLOTS: u32 = 128;
/// Instances that can share a program.
pub(super) const INSTANCES_MAX: u32 = 8;
/// The maps that are pinned, by their names.
pub(super) const PINNED_MAPS: [&str; 5] = ["xsks", "ports_v4", "ports_v6", "verdicts", "instances"];

/// How often a directory that goes away while its lock is waited for is made again.
const LOCKS_MAX: usize = 64;

/// `BPF_FS_MAGIC`.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// A directory where a program is shared.
#[derive(Clone, Debug)]
pub(super) struct Place {
    directory: PathBuf,
}

impl Place {
    /// Checks that things can be pinned in `directory`, and makes it.
    pub(super) fn open(directory: &Path) -> Result<Self, XdpError> {
        let fail = |detail: String| XdpError::Program { what: "sharing the XDP program", detail };
        let parent = directory.parent().unwrap_or(directory);
        let kind = sys::file_system(parent)
            .map_err(|error| fail(format!("{}: {error}", parent.display())))?;
        if kind != BPF_FS_MAGIC {
            return Err(fail(format!(
                "{} is not in a BPF file system: mount one (mount -t bpf bpf /sys/fs/bpf), and name a directory \
                 below it",
                directory.display()
            )));
        }
        let place = Self { directory: directory.to_owned() };
        place.make().map_err(|error| fail(format!("{}: {error}", directory.display())))?;
        Ok(place)
    }

    fn make(&self) -> io::Result<()> {
        match fs::create_dir(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Keeps others from changing anything, until it is dropped.
    pub(super) fn lock(&self) -> Result<OwnedFd, XdpError> {
        self.locked().map_err(|error| XdpError::Program {
            what: "sharing the XDP program",
            detail: format!("{}: {error}", self.directory.display()),
        })
    }

    /// The last process that leaves removes the directory, and who waited for the lock meanwhile has that of
    /// a directory which is gone.
    fn locked(&self) -> io::Result<OwnedFd> {
        for _ in 0..LOCKS_MAX {
            self.make()?;
            let directory = match fs::File::open(&self.directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            directory.lock()?;
            let is_there = fs::metadata(&self.directory).is_ok_and(|there| {
                directory.metadata().is_ok_and(|held| held.ino() == there.ino())
            });
            if is_there {
                return Ok(directory.into());
            }
        }
        Err(io::Error::other("other processes make and remove it all the time"))
    }

    /// Where a thing is pinned.
    pub(super) fn pin(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Takes everything away: the program goes from the device with its last holder.
    pub(super) fn clear(&self) {
        for name in PINNED_MAPS.iter().chain(&["link"]) {
            let _ = fs::remove_file(self.pin(name));
        }
        let _ = fs::remove_dir(&self.directory);
    }
}

/// A process, told from a later one of the same number by when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner(pub(super) u64);

impl Owner {
    pub(super) fn this_process() -> Self {
        Self::of(std::process::id()).unwrap_or(Self(0))
    }

    /// `None` if there is no such process.
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // proc(5): the name, in brackets, may hold anything; the start is the 20th field after it.
        let start = stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse::<u64>().ok()?;
        Some(Self(u64::from(pid) << 32 | start & 0xffff_ffff))
    }

    pub(super) fn pid(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(super) fn lives(self) -> bool {
        Self::of(self.pid()) == Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_of_its_number() {
        let own = Owner::this_process();
        assert!(own.pid() == std::process::id() && own.lives());
        assert!(!Owner(own.0 ^ 1).lives(), "another start");
        assert!(!Owner(u64::from(u32::MAX) << 32).lives());
    }

    #[test]
    fn who_waited_for_a_place_that_was_removed_has_the_lock_of_the_next() {
        let directory = std::env::temp_dir().join(format!("quiclane-place-{}", std::process::id()));
        let place = Place { directory };
        let first = place.lock().unwrap();
        let waits = std::thread::spawn({
            let place = place.clone();
            move || place.lock().unwrap()
        });
        // Long enough to have opened it, as a rule; in any other case it finds nothing and makes its own.
        std::thread::sleep(std::time::Duration::from_millis(50));
        place.clear();
        drop(first);
        let second = waits.join().unwrap();
        let there = fs::File::open(&place.directory).unwrap();
        assert!(there.try_lock().is_err(), "the lock is of the directory that is there");
        drop(second);
        there.try_lock().unwrap();
        place.clear();
    }

    #[test]
    fn a_place_that_is_no_bpf_file_system_is_refused_with_what_to_do() {
        let error = Place::open(Path::new("/tmp/quiclane-share")).unwrap_err().to_string();
        assert!(error.contains("mount -t bpf") && error.contains("/tmp/quiclane-share"), "{error}");
        let error = Place::open(Path::new("/nowhere/at/all")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at"), "{error}");
    }
}
