//! Every system call of this module: ethtool's ioctls, BPF objects, sockets of other processes; and
//! the calls of hwloc that its crate lacks.
//!
//! The only file of `topology` with `unsafe` in it. Each function here makes the buffers that the
//! kernel writes, in the size that the kernel documents for the call; what the bytes mean is read
//! elsewhere, by code that can be tried without a kernel.

use super::live::Refused;
use hwloc2::{ObjectType, TopologyObject};
use libbpf_rs::libbpf_sys;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_ulong, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

/// `struct ethtool_drvinfo`.
pub(super) const DRIVER_BYTES: usize = 196;
/// `struct ethtool_rxnfc` without the locations of rules behind it.
pub(super) const FLOW_BYTES: usize = 192;
/// Where the locations of rules begin: the structure is padded behind its last field.
pub(super) const LOCATIONS_AT: usize = 188;
/// `struct ethtool_rxfh` without the table and the key behind it.
pub(super) const RSS_BYTES: usize = 24;
/// The name of a counter.
pub(super) const NAME_BYTES: usize = 32;

/// Counters of a device, rules of a device, slots of a table: what is more is not asked for.
const ENTRIES_MAX: u32 = 1 << 20;

/// A socket for ioctls, of the network namespace in which it was made.
#[derive(Debug)]
pub(super) struct Ethtool(OwnedFd);

impl Ethtool {
    pub(super) fn new() -> Result<Self, Refused> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(Refused::last("socket(AF_INET)"));
        }
        // SAFETY: `fd` was returned by socket() just now and has no other owner.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The index of a device.
    pub(super) fn index(&self, device: &str) -> Result<u32, Refused> {
        const CALL: &str = "ioctl SIOCGIFINDEX";
        let mut request = request(CALL, device)?;
        // SAFETY: the kernel reads and writes one `ifreq`, which outlives the call.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SIOCGIFINDEX, &raw mut request) };
        if done < 0 {
            return Err(Refused::last(CALL));
        }
        // SAFETY: this call answers in `ifru_ifindex`; any bytes are an integer.
        Ok(unsafe { request.ifr_ifru.ifru_ifindex } as u32)
    }

    /// True if a device is up and has its carrier. Neither call waits for the lock of the network's
    /// configuration (RTNL), which a program that removes devices may hold for seconds.
    pub(super) fn has_carrier(&self, index: u32) -> Result<bool, Refused> {
        const NAME: &str = "ioctl SIOCGIFNAME";
        const FLAGS: &str = "ioctl SIOCGIFFLAGS";
        let mut request = request(NAME, "")?;
        request.ifr_ifru.ifru_ifindex = index as c_int;
        let fd = self.0.as_raw_fd();
        // SAFETY: the kernel reads and writes one `ifreq`, which outlives the call.
        if unsafe { libc::ioctl(fd, libc::SIOCGIFNAME, &raw mut request) } < 0 {
            return Err(Refused::last(NAME));
        }
        // SAFETY: as above; the name in it is the kernel's own.
        if unsafe { libc::ioctl(fd, libc::SIOCGIFFLAGS, &raw mut request) } < 0 {
            return Err(Refused::last(FLAGS));
        }
        // SAFETY: this call answers in `ifru_flags`; any bytes are an integer.
        Ok(i32::from(unsafe { request.ifr_ifru.ifru_flags }) & libc::IFF_RUNNING != 0)
    }

    /// ETHTOOL_GDRVINFO.
    pub(super) fn driver(&self, device: &str) -> Result<Vec<u8>, Refused> {
        const GDRVINFO: u32 = 0x3;
        let mut buffer = vec![0; DRIVER_BYTES];
        self.call("ioctl ETHTOOL_GDRVINFO", device, GDRVINFO, &mut buffer)?;
        Ok(buffer)
    }

    /// ETHTOOL_GSTRINGS: the names of `count` counters, 32 bytes each.
    pub(super) fn counter_names(&self, device: &str, count: u32) -> Result<Vec<u8>, Refused> {
        const GSTRINGS: u32 = 0x1b;
        const COUNTERS: u32 = 1;
        let mut buffer = vec![0; 12 + entries(count) * NAME_BYTES];
        buffer[4..8].copy_from_slice(&COUNTERS.to_ne_bytes());
        buffer[8..12].copy_from_slice(&count.to_ne_bytes());
        self.call("ioctl ETHTOOL_GSTRINGS", device, GSTRINGS, &mut buffer)?;
        Ok(behind(buffer, 12, 8, NAME_BYTES))
    }

    /// ETHTOOL_GSTATS: `count` counters, 8 bytes each.
    pub(super) fn counters(&self, device: &str, count: u32) -> Result<Vec<u8>, Refused> {
        const GSTATS: u32 = 0x1d;
        let mut buffer = vec![0; 8 + entries(count) * 8];
        buffer[4..8].copy_from_slice(&count.to_ne_bytes());
        self.call("ioctl ETHTOOL_GSTATS", device, GSTATS, &mut buffer)?;
        Ok(behind(buffer, 8, 4, 8))
    }

    /// ETHTOOL_GRXFH, GRXCLSRLCNT or GRXCLSRULE: a `struct ethtool_rxnfc` there and back.
    pub(super) fn flow(
        &self,
        device: &str,
        call: FlowCall,
        buffer: &mut [u8; FLOW_BYTES],
    ) -> Result<(), Refused> {
        self.call(call.name(), device, call as u32, buffer)
    }

    /// ETHTOOL_GRXCLSRLALL: where the rules are, of which there are at most `count`.
    pub(super) fn locations(&self, device: &str, count: u32) -> Result<Vec<u8>, Refused> {
        const GRXCLSRLALL: u32 = 0x30;
        const COUNT_AT: usize = 184;
        let count = count.min(ENTRIES_MAX);
        // Behind the padded structure there is space for all that is asked for, and more.
        let mut buffer = vec![0; FLOW_BYTES + count as usize * 4];
        buffer[COUNT_AT..COUNT_AT + 4].copy_from_slice(&count.to_ne_bytes());
        self.call("ioctl ETHTOOL_GRXCLSRLALL", device, GRXCLSRLALL, &mut buffer)?;
        Ok(behind(buffer, LOCATIONS_AT, COUNT_AT, 4))
    }

    /// ETHTOOL_GRSSH: `struct ethtool_rxfh` with the table (4 bytes a slot) and the key behind it.
    pub(super) fn rss(&self, device: &str, context: u32) -> Result<Vec<u8>, Refused> {
        const CALL: &str = "ioctl ETHTOOL_GRSSH";
        const GRSSH: u32 = 0x46;
        let mut head = vec![0; RSS_BYTES];
        head[4..8].copy_from_slice(&context.to_ne_bytes());
        // Without space: the sizes. The kernel takes no others after that.
        self.call(CALL, device, GRSSH, &mut head)?;
        let size =
            |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (slots, key) = (size(8).min(ENTRIES_MAX), size(12).min(ENTRIES_MAX));
        let mut buffer = vec![0; RSS_BYTES + slots as usize * 4 + key as usize];
        buffer[4..8].copy_from_slice(&context.to_ne_bytes());
        buffer[8..12].copy_from_slice(&slots.to_ne_bytes());
        buffer[12..16].copy_from_slice(&key.to_ne_bytes());
        self.call(CALL, device, GRSSH, &mut buffer)?;
        Ok(buffer)
    }

    /// ETHTOOL_SRSSH: a new table (its slots, 4 bytes each) or key for context 0, behind what
    /// `change` says of them in the structure.
    pub(super) fn set_rss(&self, device: &str, change: RssChange<'_>) -> Result<(), Refused> {
        const SRSSH: u32 = 0x47;
        /// ETH_RXFH_INDIR_NO_CHANGE.
        const SAME_TABLE: u32 = u32::MAX;
        const TRANSFORM_AT: usize = 17;
        let told = self.rss(device, 0)?;
        let mut buffer = vec![0; RSS_BYTES];
        // The transform has a value for "as it is" in new kernels only: it is told again.
        buffer[TRANSFORM_AT] = told[TRANSFORM_AT];
        let (slots, key) = match change {
            RssChange::DefaultTable => (0, 0),
            RssChange::Table(table) => {
                buffer.extend(table.iter().flat_map(|slot| slot.to_ne_bytes()));
                (table.len() as u32, 0)
            }
            RssChange::Key(key) => {
                buffer.extend(key);
                (SAME_TABLE, key.len() as u32)
            }
        };
        buffer[8..12].copy_from_slice(&slots.to_ne_bytes());
        buffer[12..16].copy_from_slice(&key.to_ne_bytes());
        self.call("ioctl ETHTOOL_SRSSH", device, SRSSH, &mut buffer)
    }

    /// Every caller has made `buffer` as large as what the kernel writes for `command`.
    fn call(
        &self,
        call: &'static str,
        device: &str,
        command: u32,
        buffer: &mut [u8],
    ) -> Result<(), Refused> {
        const SIOCETHTOOL: libc::c_ulong = 0x8946;
        buffer[..4].copy_from_slice(&command.to_ne_bytes());
        let mut request = request(call, device)?;
        request.ifr_ifru.ifru_data = buffer.as_mut_ptr().cast::<c_char>();
        // SAFETY: `request` and the buffer that it points at outlive the call. The kernel writes
        // at most what `command` and the counts in the buffer say, for which callers made space.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
        if done < 0 { Err(Refused::last(call)) } else { Ok(()) }
    }
}

/// What is changed of RSS context 0.
#[derive(Clone, Copy, Debug)]
pub(super) enum RssChange<'a> {
    /// The kernel's own table.
    DefaultTable,
    /// The queue of each slot.
    Table(&'a [u32]),
    /// The key, of the length that the device has.
    Key(&'a [u8]),
}

/// The commands that take and return a `struct ethtool_rxnfc`.
#[derive(Clone, Copy, Debug)]
pub(super) enum FlowCall {
    Fields = 0x29,
    SetFields = 0x2a,
    RuleCount = 0x2e,
    Rule = 0x2f,
}

impl FlowCall {
    const fn name(self) -> &'static str {
        match self {
            Self::Fields => "ioctl ETHTOOL_GRXFH",
            Self::SetFields => "ioctl ETHTOOL_SRXFH",
            Self::RuleCount => "ioctl ETHTOOL_GRXCLSRLCNT",
            Self::Rule => "ioctl ETHTOOL_GRXCLSRULE",
        }
    }
}

/// Entries to allocate when `count` are expected. A driver writes as many as it has at that moment
/// (a change of the channels may have added some), and does not know how many there is space for.
fn entries(count: u32) -> usize {
    const SPARE: usize = 8_192;
    count.min(ENTRIES_MAX) as usize * 2 + SPARE
}

/// The entries behind a head of `head` bytes, as many as the kernel says at `count_at`.
fn behind(mut buffer: Vec<u8>, head: usize, count_at: usize, entry: usize) -> Vec<u8> {
    let count: [u8; 4] = std::array::from_fn(|byte| buffer[count_at + byte]);
    let length = (u32::from_ne_bytes(count) as usize).saturating_mul(entry);
    buffer.truncate(head.saturating_add(length));
    buffer.split_off(head.min(buffer.len()))
}

fn request(call: &'static str, device: &str) -> Result<libc::ifreq, Refused> {
    // SAFETY: `ifreq` is integers, arrays and pointers, for all of which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if device.len() >= request.ifr_name.len() {
        let error = std::io::Error::from_raw_os_error(libc::ENODEV);
        return Err(Refused::failed(call, error));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as c_char;
    }
    Ok(request)
}

/// True if BPF programs can be listed at all; an error says why not.
pub(super) fn can_list_programs() -> Result<(), Refused> {
    let mut id = 0;
    // SAFETY: the pointer is to an integer that outlives the call.
    let done = unsafe { libbpf_sys::bpf_prog_get_next_id(0, &raw mut id) };
    if done == 0 {
        return Ok(());
    }
    match Refused::last("BPF_PROG_GET_NEXT_ID") {
        Refused::Failed { error, .. } if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        refused => Err(refused),
    }
}

/// What bpftool calls a kind of program, such as `xdp`.
pub(super) fn program_kind(kind: u32) -> String {
    // SAFETY: no pointers are passed.
    name(unsafe { libbpf_sys::libbpf_bpf_prog_type_str(kind) }, kind)
}

/// What bpftool calls a kind of map, such as `xskmap`.
pub(super) fn map_kind(kind: u32) -> String {
    // SAFETY: no pointers are passed.
    name(unsafe { libbpf_sys::libbpf_bpf_map_type_str(kind) }, kind)
}

fn name(text: *const c_char, kind: u32) -> String {
    if text.is_null() {
        return format!("kind-{kind}");
    }
    // SAFETY: not null, so it is one of libbpf's constant strings, which end with a zero.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Opens what is pinned at a path of a BPF file system.
pub(super) fn open_pinned(path: &Path) -> Result<OwnedFd, Refused> {
    const CALL: &str = "BPF_OBJ_GET";
    let path = CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|error| Refused::failed(CALL, error.into()))?;
    // SAFETY: the path ends with a zero and outlives the call.
    let fd = unsafe { libbpf_sys::bpf_obj_get(path.as_ptr()) };
    if fd < 0 {
        return Err(Refused::last(CALL));
    }
    // SAFETY: `fd` was returned just now and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor of our own for what `pid` has open as `fd`.
pub(super) fn copy_descriptor(pid: u32, fd: RawFd) -> Result<OwnedFd, Refused> {
    // SAFETY: no pointers are passed.
    let process = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    if process < 0 {
        return Err(Refused::last("pidfd_open"));
    }
    // SAFETY: the descriptor was returned just now and has no other owner.
    let process = unsafe { OwnedFd::from_raw_fd(process as RawFd) };
    // SAFETY: no pointers are passed.
    let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) };
    if copy < 0 {
        return Err(Refused::last("pidfd_getfd"));
    }
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(copy as RawFd) })
}

/// Reads a socket option into `value`; how many bytes the kernel wrote.
pub(super) fn socket_option(
    socket: BorrowedFd<'_>,
    level: i32,
    option: i32,
    value: &mut [u8],
) -> Result<usize, Refused> {
    let mut length = value.len() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `value`; both outlive the call.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if done < 0 { Err(Refused::last("getsockopt")) } else { Ok(length as usize) }
}

/// `struct hwloc_distances_s`.
#[repr(C)]
struct Distances {
    count: c_uint,
    objects: *mut *const TopologyObject,
    kind: c_ulong,
    /// From object `i` to object `j` at `i * count + j`.
    values: *mut u64,
}

// hwloc 2, which the crate hwloc2 links: it has no distances, and does not lend its topology.
unsafe extern "C" {
    fn hwloc_topology_init(topology: *mut *mut c_void) -> c_int;
    fn hwloc_topology_set_flags(topology: *mut c_void, flags: c_ulong) -> c_int;
    fn hwloc_topology_load(topology: *mut c_void) -> c_int;
    fn hwloc_topology_destroy(topology: *mut c_void);
    fn hwloc_distances_get_by_type(
        topology: *mut c_void,
        kind_of_object: c_uint,
        count: *mut c_uint,
        distances: *mut *mut Distances,
        kind: c_ulong,
        flags: c_ulong,
    ) -> c_int;
    fn hwloc_distances_release(topology: *mut c_void, distances: *mut Distances);
}

/// How far the memory of each node is from the CPUs of each, as the firmware says (10 is a node's own
/// memory): by node, by node. Empty if it does not say.
pub(super) fn node_distances() -> BTreeMap<u32, BTreeMap<u32, u64>> {
    /// HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED.
    const ALL: c_ulong = 1;
    let mut topology = std::ptr::null_mut();
    // SAFETY: the pointer is to a pointer that outlives the call.
    if unsafe { hwloc_topology_init(&raw mut topology) } != 0 {
        return BTreeMap::new();
    }
    // SAFETY: `topology` was made just now, and is loaded once, after its flags are set.
    let loaded = unsafe {
        hwloc_topology_set_flags(topology, ALL);
        hwloc_topology_load(topology)
    };
    // SAFETY: `topology` is loaded.
    let found = if loaded == 0 { unsafe { distances_of(topology) } } else { BTreeMap::new() };
    // SAFETY: made above, and not used any more.
    unsafe { hwloc_topology_destroy(topology) };
    found
}

/// # Safety
/// `topology` is loaded.
unsafe fn distances_of(topology: *mut c_void) -> BTreeMap<u32, BTreeMap<u32, u64>> {
    /// HWLOC_DISTANCES_KIND_FROM_OS and _MEANS_LATENCY.
    const LATENCY: c_ulong = 1 << 0 | 1 << 2;
    let mut found = BTreeMap::new();
    let (mut count, mut distances) = (1, std::ptr::null_mut::<Distances>());
    let nodes = ObjectType::NUMANode as c_uint;
    // SAFETY: `distances` has room for the one matrix that `count` says.
    let done = unsafe {
        let (count, distances) = (&raw mut count, &raw mut distances);
        hwloc_distances_get_by_type(topology, nodes, count, distances, LATENCY, 0)
    };
    if done != 0 || count == 0 || distances.is_null() {
        return found;
    }
    // SAFETY: hwloc gave a matrix: `count` objects and the square of that many values. Objects
    // are objects of `topology`, or null.
    let (objects, values) = unsafe {
        let matrix = &*distances;
        let count = matrix.count as usize;
        let objects = std::slice::from_raw_parts(matrix.objects, count);
        let numbers: Vec<Option<u32>> =
            objects.iter().map(|object| object.as_ref().map(TopologyObject::os_index)).collect();
        (numbers, std::slice::from_raw_parts(matrix.values, count * count).to_vec())
    };
    for (from, row) in objects.iter().zip(values.chunks_exact(objects.len().max(1))) {
        let to = objects.iter().zip(row).filter_map(|(to, value)| Some(((*to)?, *value)));
        if let Some(from) = from {
            found.insert(*from, to.collect());
        }
    }
    // SAFETY: given by hwloc above, and not used any more.
    unsafe { hwloc_distances_release(topology, distances) };
    found
}
