//! The XDP program: loaded, attached as a link, its maps filled. Control plane only.

use super::error::XdpError;
use super::share::{INSTANCE_SLOTS, INSTANCES_MAX, Owner, PINNED_MAPS, Place};
use crate::datapath::headers::{LinkRules, PORT_DROP_SMALL_INITIALS, Verdict, VerdictCounters};
use aya::maps::{HashMap, MapData, PerCpuArray, XskMap};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramError, TestRun, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd, RawFd};

/// `bpf/steer.bpf.c`, compiled by `build.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

/// A program that is shared, or not ours, stays where it is: there is no link to give away.
pub(super) const NOT_TO_BE_TAKEN_OVER: XdpError = XdpError::config(
    "a process whose XDP program is shared, or another's, cannot be taken over: serve other queues beside it, \
     and stop it then",
);
/// Descriptors of this process that a search looks at.
const DESCRIPTORS_MAX: usize = 65_536;
/// How the names of our programs begin, as the kernel keeps them (15 bytes at most).
const PROGRAM_PREFIX: &str = "quiclane_";
/// The maps of the steering program (`bpf/steer.bpf.c`). They keep their names where the program
/// has no name: without CAP_PERFMON the loader cannot test that the kernel takes one, and loads the
/// program without.
const STEERING_MAPS: [&str; 4] = ["xsks", "ports_v4", "ports_v6", "verdicts"];

/// True of a program of Quiclane: by its name, or, if it has none, by the names of its maps.
#[must_use]
pub fn is_ours(name: &str, maps: &[&str]) -> bool {
    let has_our_maps = || STEERING_MAPS.iter().all(|map| maps.contains(map));
    name.starts_with(PROGRAM_PREFIX) || (name.is_empty() && has_our_maps())
}

const STEER: &str = "quiclane_steer";
const JUDGE: &str = "quiclane_judge";
const SLOT: &str = "quiclane_slot";

/// `struct steer_key_v4`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct KeyV4 {
    address: [u8; 4],
    port: [u8; 2],
    zero: [u8; 2],
}

/// `struct steer_key_v6`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct KeyV6 {
    address: [u8; 16],
    port: [u8; 2],
    zero: [u8; 2],
}

/// `struct steer_port`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct Port {
    flags: u32,
    /// Where the slots of its instance begin.
    base: u32,
}

const _: () = assert!(size_of::<KeyV4>() == 8, "bpf/steer.h: struct steer_key_v4");
const _: () = assert!(size_of::<KeyV6>() == 20, "bpf/steer.h: struct steer_key_v6");
const _: () = assert!(size_of::<Port>() == 8, "bpf/steer.h: struct steer_port");
const _: () = assert!(PORT_DROP_SMALL_INITIALS == 1, "bpf/steer.h: STEER_DROP_SMALL_INITIALS");

// SAFETY: made of bytes without padding, so that any bits are a value.
unsafe impl aya::Pod for KeyV4 {}
// SAFETY: made of bytes without padding, so that any bits are a value.
unsafe impl aya::Pod for KeyV6 {}
// SAFETY: made of integers without padding, so that any bits are a value.
unsafe impl aya::Pod for Port {}

/// What holds the program on its device.
enum Link {
    Made(FdLink),
    /// Shared with other processes.
    Pinned(#[expect(dead_code, reason = "it is held")] PinnedLink),
    /// Made by another process.
    Taken(OwnedFd),
}

/// The loaded program and its maps. Dropping it detaches the program; so does the death of the
/// process, since the attachment is a link that a file descriptor holds.
pub(super) struct Program {
    ebpf: Ebpf,
    link: Option<Link>,
    xsks: XskMap<MapData>,
    ports_v4: HashMap<MapData, KeyV4, Port>,
    ports_v6: HashMap<MapData, KeyV6, Port>,
    verdicts: PerCpuArray<MapData, u64>,
    /// Where the slots of this process begin.
    base: u32,
    shared: Option<Shared>,
}

/// What a process has of a program that it shares.
struct Shared {
    place: Place,
    instances: HashMap<MapData, u32, u64>,
    number: u32,
    ports: BTreeSet<SocketAddr>,
    /// The lock of the place, while this process begins: one that fails leaves under it.
    held: Option<OwnedFd>,
}

impl Program {
    /// Loads the program with a slot for each of `queues`, for a device that takes frames by
    /// `rules`.
    pub(super) fn load(queues: u32, rules: &LinkRules) -> Result<Self, XdpError> {
        Self::load_with(EbpfLoader::new().map_max_entries("xsks", queues.max(1)), rules)
    }

    /// Loads the program with the maps that are pinned at a place, or pins them there. Keeps the lock of the
    /// place until [`has_begun`](Self::has_begun).
    pub(super) fn load_shared(
        place: &Place,
        lock: OwnedFd,
        rules: &LinkRules,
    ) -> Result<Self, XdpError> {
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("xsks", INSTANCE_SLOTS * INSTANCES_MAX);
        for name in PINNED_MAPS {
            loader.map_pin_path(name, place.pin(name));
        }
        let mut program = Self::load_with(&mut loader, rules)?;
        let instances = map(&mut program.ebpf, "instances")?;
        let mut instances: HashMap<MapData, u32, u64> =
            HashMap::try_from(instances).map_err(|e| refused("instances", &e))?;
        let number = join(&mut instances)?;
        program.base = number * INSTANCE_SLOTS;
        let (place, ports) = (place.clone(), BTreeSet::new());
        let held = Some(lock);
        program.shared = Some(Shared { place, instances, number, ports, held });
        program.forget_ports()?;
        Ok(program)
    }

    /// Lets others change what is shared.
    pub(super) fn has_begun(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.held = None;
        }
    }

    fn load_with<'a>(loader: &mut EbpfLoader<'a>, rules: &'a LinkRules) -> Result<Self, XdpError> {
        let mut ebpf = loader
            .override_global("device_mac", &rules.mac, true)
            .override_global("vlans", rules.vlans.words(), true)
            .load(OBJECT)
            .map_err(|error| refused("loading the XDP program and its maps", &error))?;
        xdp(&mut ebpf, STEER)?
            .load()
            .map_err(|error| refused("loading the XDP program", &error))?;
        Ok(Self {
            xsks: XskMap::try_from(map(&mut ebpf, "xsks")?).map_err(|e| refused("xsks", &e))?,
            ports_v4: HashMap::try_from(map(&mut ebpf, "ports_v4")?)
                .map_err(|e| refused("ports_v4", &e))?,
            ports_v6: HashMap::try_from(map(&mut ebpf, "ports_v6")?)
                .map_err(|e| refused("ports_v6", &e))?,
            verdicts: PerCpuArray::try_from(map(&mut ebpf, "verdicts")?)
                .map_err(|e| refused("verdicts", &e))?,
            ebpf,
            link: None,
            base: 0,
            shared: None,
        })
    }

    /// Keeps the program on its device by the link that is pinned, or pins its own.
    /// Returns the number of the program that it holds.
    pub(super) fn pin_link(&mut self) -> Result<u32, XdpError> {
        let Some(Shared { place, .. }) = &self.shared else { return Ok(0) };
        let what = "pinning the link of the XDP program";
        let path = place.pin("link");
        let link = match self.link.take() {
            Some(Link::Made(link)) => link,
            // What is pinned cannot be asked; the lock is ours, so that it may be away for a moment.
            _ => PinnedLink::from_pin(&path)
                .map_err(|error| refused(what, &error))?
                .unpin()
                .map_err(|error| refused(what, &error))?,
        };
        let id = link.info().map_err(|error| refused(what, &error))?.program_id();
        let pinned = link.pin(path).map_err(|error| refused(what, &error))?;
        self.link = Some(Link::Pinned(pinned));
        Ok(id)
    }

    /// Removes the ports of a process that had this number and was killed.
    fn forget_ports(&mut self) -> Result<(), XdpError> {
        let base = self.base;
        let failed = |error| refused("reading the ports of the XDP program", &error);
        let of_v4 =
            self.ports_v4.iter().filter(|entry| !matches!(entry, Ok((_, p)) if p.base != base));
        for entry in of_v4.collect::<Vec<_>>() {
            let _ = self.ports_v4.remove(&entry.map_err(failed)?.0);
        }
        let of_v6 =
            self.ports_v6.iter().filter(|entry| !matches!(entry, Ok((_, p)) if p.base != base));
        for entry in of_v6.collect::<Vec<_>>() {
            let _ = self.ports_v6.remove(&entry.map_err(failed)?.0);
        }
        Ok(())
    }

    /// Attaches as a link. The error is the kernel's: what it means depends on the mode.
    pub(super) fn attach(&mut self, ifindex: u32, mode: XdpMode) -> Result<(), AttachError> {
        let program = xdp(&mut self.ebpf, STEER).map_err(AttachError::Program)?;
        let id = program
            .attach_to_if_index(ifindex, mode)
            .map_err(|error| AttachError::Kernel(XdpError::system_error(&error)))?;
        let link = program
            .take_link(id)
            .map_err(|error| AttachError::Program(refused("attaching", &error)))?;
        // Where links are refused aya attaches through netlink, which would outlive a kill: drop it.
        let link = FdLink::try_from(link).map_err(|_| AttachError::NoLink)?;
        self.link = Some(Link::Made(link));
        Ok(())
    }

    /// One more descriptor of the link, for another process.
    pub(super) fn share_link(&self) -> Result<OwnedFd, XdpError> {
        let shared = match &self.link {
            Some(Link::Taken(fd)) => fd.try_clone(),
            Some(Link::Pinned(_)) => return Err(NOT_TO_BE_TAKEN_OVER),
            // The library keeps the descriptor to itself; the kernel shows which one it is.
            Some(Link::Made(link)) => link
                .info()
                .map_err(|error| refused("asking for the link", &error))
                .map(|info| own_link(info.id()))?,
            None => Err(std::io::ErrorKind::NotConnected.into()),
        };
        shared.map_err(|error| refused("sharing the link of the XDP program", &error))
    }

    /// Makes a link hold this program, in place of the one that it holds.
    pub(super) fn take_link(&mut self, link: OwnedFd) -> Result<(), XdpError> {
        let what = "putting the XDP program in place of another";
        let program = xdp(&mut self.ebpf, STEER)?;
        let fd = program.fd().map_err(|error| refused(what, &error))?;
        super::sys::update_link(link.as_fd(), fd.as_fd())
            .map_err(|failed| refused(what, &failed.error))?;
        self.link = Some(Link::Taken(link));
        Ok(())
    }

    /// Lets packets of a queue go to a bound AF_XDP socket.
    pub(super) fn set_socket(&mut self, queue: u32, socket: RawFd) -> Result<(), XdpError> {
        self.xsks
            .set(self.base + queue, socket, 0)
            .map_err(|error| refused("entering a socket into the XSKMAP", &error))
    }

    /// Lets packets of a queue go to the kernel.
    pub(super) fn unset_socket(&mut self, queue: u32) {
        // An empty slot is as good: the kernel empties it when the socket closes.
        let _ = self.xsks.unset(self.base + queue);
    }

    /// The queue of the socket that a slot leads to.
    pub(super) fn slot(&mut self, queue: u32) -> Result<Option<u32>, XdpError> {
        // The smallest frame that BPF_PROG_TEST_RUN takes.
        let mut frame = [0; 64];
        frame[..4].copy_from_slice(&(self.base + queue).to_ne_bytes());
        let answer = self.test(SLOT, &frame)?;
        Ok(answer.checked_sub(1))
    }

    /// Steers UDP to this address and port into the sockets.
    pub(super) fn add_port(&mut self, address: SocketAddr, flags: u32) -> Result<(), XdpError> {
        let value = Port { flags, base: self.base };
        if let Some(shared) = &mut self.shared {
            shared.ports.insert(address);
        }
        match key(address) {
            Key::V4(key) => self.ports_v4.insert(key, value, 0),
            Key::V6(key) => self.ports_v6.insert(key, value, 0),
        }
        .map_err(|error| refused("adding a port to the XDP program", &error))
    }

    /// Leaves UDP to this address and port to the kernel again.
    pub(super) fn remove_port(&mut self, address: SocketAddr) {
        if let Some(shared) = &mut self.shared {
            shared.ports.remove(&address);
        }
        // A port that is not there is removed.
        let _ = match key(address) {
            Key::V4(key) => self.ports_v4.remove(&key),
            Key::V6(key) => self.ports_v6.remove(&key),
        };
    }

    /// The counters, summed over CPUs.
    pub(super) fn verdicts(&self) -> Result<VerdictCounters, XdpError> {
        let mut counts = [0; VerdictCounters::LEN];
        for (index, count) in counts.iter_mut().enumerate() {
            let per_cpu = self
                .verdicts
                .get(&(index as u32), 0)
                .map_err(|error| refused("reading the counters", &error))?;
            *count = per_cpu.iter().sum();
        }
        Ok(VerdictCounters::from_values(counts))
    }

    /// What the program would decide on `frame`, without doing it. Frames below the 14 bytes of an
    /// Ethernet header cannot be run.
    pub(super) fn judge(&mut self, frame: &[u8]) -> Result<Option<Verdict>, XdpError> {
        self.test(JUDGE, frame).map(Verdict::from_raw)
    }

    /// Runs the program itself on a frame; returns the XDP action. The verdict is counted.
    #[cfg(test)]
    pub(super) fn run(&mut self, frame: &[u8]) -> Result<u32, XdpError> {
        self.test(STEER, frame)
    }

    /// Runs one of the programs on a frame by BPF_PROG_TEST_RUN; returns what it returned.
    fn test(&mut self, name: &'static str, frame: &[u8]) -> Result<u32, XdpError> {
        let program = xdp(&mut self.ebpf, name)?;
        match program.load() {
            Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
            Err(error) => return Err(refused("loading a test program", &error)),
        }
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
        let result =
            program.test_run(options).map_err(|error| refused("BPF_PROG_TEST_RUN", &error))?;
        Ok(result.return_value)
    }
}

impl Drop for Program {
    /// Of a program that is shared, what is this process's goes; with the last process, all of it.
    fn drop(&mut self) {
        let Some(mut shared) = self.shared.take() else { return };
        let held = shared.held.take();
        let Ok(_locked) = held.map_or_else(|| shared.place.lock(), Ok) else { return };
        for address in std::mem::take(&mut shared.ports) {
            self.remove_port(address);
        }
        let _ = shared.instances.remove(&shared.number);
        if living(&shared.instances).next().is_none() {
            shared.place.clear();
        }
    }
}

/// The processes that share a program.
fn living(instances: &HashMap<MapData, u32, u64>) -> impl Iterator<Item = u32> {
    let entries: Vec<_> = instances.iter().flatten().collect();
    entries.into_iter().filter(|(_, owner)| Owner(*owner).lives()).map(|(number, _)| number)
}

/// Takes a number that no living process has.
fn join(instances: &mut HashMap<MapData, u32, u64>) -> Result<u32, XdpError> {
    let taken: Vec<u32> = living(instances).collect();
    let free = (0..INSTANCES_MAX).find(|number| !taken.contains(number));
    let Some(number) = free else {
        let detail = format!("{INSTANCES_MAX} processes share it already: stop one");
        return Err(XdpError::Program { what: "sharing the XDP program", detail });
    };
    instances
        .insert(number, Owner::this_process().0, 0)
        .map_err(|error| refused("sharing the XDP program", &error))?;
    Ok(number)
}

/// Why the program could not be attached.
pub(super) enum AttachError {
    /// The kernel's error.
    Kernel(std::io::Error),
    /// It can be attached, but not as a link.
    NoLink,
    /// Ours.
    Program(XdpError),
}

/// One more descriptor of a link that this process holds.
///
/// # Errors
/// It holds none of that number, or the kernel does not show it.
fn own_link(id: u32) -> std::io::Result<OwnedFd> {
    for entry in std::fs::read_dir("/proc/self/fdinfo")?.flatten().take(DESCRIPTORS_MAX) {
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let shown = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let found = shown.lines().find_map(|line| line.strip_prefix("link_id:"));
        if found.and_then(|found| found.trim().parse().ok()) == Some(id) {
            return super::sys::duplicate(fd);
        }
    }
    Err(std::io::ErrorKind::NotFound.into())
}

fn map(ebpf: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map, XdpError> {
    ebpf.take_map(name).ok_or_else(|| missing(name))
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, XdpError> {
    let program = ebpf.program_mut(name).ok_or_else(|| missing(name))?;
    program.try_into().map_err(|error: ProgramError| refused(name, &error))
}

fn missing(name: &'static str) -> XdpError {
    XdpError::Program { what: name, detail: "not in the compiled object".to_owned() }
}

/// The meaning of a failure to load or to fill a map.
fn refused(what: &'static str, error: &(dyn std::error::Error + 'static)) -> XdpError {
    match XdpError::system_error(error).raw_os_error() {
        Some(libc::EPERM | libc::EACCES) if !super::sys::missing_capabilities().is_empty() => {
            XdpError::privilege(what)
        }
        _ => XdpError::Program { what, detail: XdpError::chain(error) },
    }
}

enum Key {
    V4(KeyV4),
    V6(KeyV6),
}

fn key(address: SocketAddr) -> Key {
    let port = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) => Key::V4(KeyV4 { address: ip.octets(), port, zero: [0; 2] }),
        IpAddr::V6(ip) => Key::V6(KeyV6 { address: ip.octets(), port, zero: [0; 2] }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_program_is_known_by_its_name_or_by_its_maps() {
        assert!(is_ours("quiclane_steer", &[]));
        assert!(is_ours("", &["verdicts", "ports_v6", "ports_v4", "xsks", "rodata"]));
        for maps in [&[][..], &["xsks"], &["xsks", "ports_v4", "ports_v6"]] {
            assert!(!is_ours("", maps), "{maps:?}");
        }
        assert!(!is_ours("stranger", &STEERING_MAPS));
        // The maps of the compiled object have these names.
        let source = include_str!("../../../bpf/steer.bpf.c");
        for map in STEERING_MAPS {
            assert!(source.contains(&format!("}} {map} SEC(\".maps\")")), "{map}");
        }
    }
}
