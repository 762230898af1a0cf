//! Every system call of this module that is not netlink or the kernel UDP socket.
//!
//! Each wrapper says in its error which call failed. No wrapper decides what that means.

use libxdp_sys as xdp;
use std::error::Error;
use std::ffi::{CString, c_int, c_void};
use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

/// A failed system call.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) call: &'static str,
    pub(super) error: io::Error,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.error)
    }
}

impl Error for Failed {}

impl Failed {
    pub(super) fn last(call: &'static str) -> Self {
        Self { call, error: io::Error::last_os_error() }
    }

    pub(super) fn errno(&self) -> i32 {
        self.error.raw_os_error().unwrap_or(0)
    }
}

fn check(call: &'static str, result: c_int) -> Result<c_int, Failed> {
    if result < 0 { Err(Failed::last(call)) } else { Ok(result) }
}

/// The number of the file system that a path is in.
pub(super) fn file_system(path: &Path) -> io::Result<i64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the structure is made of integers, for which zero is a value.
    let mut found: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: the path ends with a zero byte, and `found` is valid for writes; both outlive the call.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut found) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(found.f_type)
}

/// One more descriptor of what `fd` stands for.
pub(super) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes a number and gives another; one that is not open is an error.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Makes a BPF link hold another program.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Failed> {
    // SAFETY: both are open for the length of the call, and no options are allowed.
    let result = unsafe {
        libbpf_rs::libbpf_sys::bpf_link_update(link.as_raw_fd(), program.as_raw_fd(), ptr::null())
    };
    // libbpf returns the negative number of the error.
    match result {
        0.. => Ok(()),
        failed => {
            let error = io::Error::from_raw_os_error(-failed);
            Err(Failed { call: "bpf(BPF_LINK_UPDATE)", error })
        }
    }
}

// ---- clock and randomness ----

/// Nanoseconds of the coarse monotonic clock: a read of shared memory, good to a few milliseconds.
/// It bounds how long the kernel may keep a frame and how old a neighbour may be; the protocol's
/// time never comes from here.
pub(super) fn coarse_now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for writes for the length of the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Eight bytes from the kernel's generator.
pub(super) fn random_u64() -> u64 {
    let mut bytes = [0u8; 8];
    // SAFETY: `bytes` is valid for writes of its length. Reads of up to 256 bytes are never short.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    u64::from_ne_bytes(bytes)
}

// ---- devices ----

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct EthtoolChannels {
    cmd: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct EthtoolDrvinfo {
    cmd: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

const _: () = assert!(mem::size_of::<EthtoolChannels>() == 36);
const _: () = assert!(mem::size_of::<EthtoolDrvinfo>() == 196);

/// Asks about a device by its name. Sees the network namespace of the thread, as sysfs would not.
pub(super) struct DeviceQuery {
    socket: OwnedFd,
    request: libc::ifreq,
}

impl DeviceQuery {
    pub(super) fn new(device: &str) -> Result<Self, Failed> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        let fd = check("socket(AF_INET)", fd)?;
        // SAFETY: `fd` was returned by socket() just now and has no other owner.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: ifreq is a plain C structure, for which zeroes are valid.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        let limit = request.ifr_name.len() - 1;
        for (to, from) in request.ifr_name[..limit].iter_mut().zip(device.bytes()) {
            *to = from as libc::c_char;
        }
        Ok(Self { socket, request })
    }

    fn ioctl(&mut self, call: &'static str, code: libc::c_ulong) -> Result<(), Failed> {
        // SAFETY: `request` is a valid ifreq; the codes used here read and write no more than it,
        // and what its data pointer points to is set up by the callers.
        let result =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), code as _, &raw mut self.request) };
        check(call, result).map(drop)
    }

    pub(super) fn mtu(&mut self) -> Result<u32, Failed> {
        self.ioctl("ioctl(SIOCGIFMTU)", libc::SIOCGIFMTU as libc::c_ulong)?;
        // SAFETY: SIOCGIFMTU has written this member of the union.
        Ok(unsafe { self.request.ifr_ifru.ifru_mtu } as u32)
    }

    /// Flags of the interface: IFF_UP, IFF_RUNNING and so on.
    pub(super) fn flags(&mut self) -> Result<c_int, Failed> {
        self.ioctl("ioctl(SIOCGIFFLAGS)", libc::SIOCGIFFLAGS as libc::c_ulong)?;
        // SAFETY: SIOCGIFFLAGS has written this member of the union.
        Ok(c_int::from(unsafe { self.request.ifr_ifru.ifru_flags }))
    }

    pub(super) fn mac(&mut self) -> Result<[u8; 6], Failed> {
        self.ioctl("ioctl(SIOCGIFHWADDR)", libc::SIOCGIFHWADDR as libc::c_ulong)?;
        // SAFETY: SIOCGIFHWADDR has written this member of the union.
        let data = unsafe { self.request.ifr_ifru.ifru_hwaddr }.sa_data;
        Ok(std::array::from_fn(|index| data[index] as u8))
    }

    /// Receive queues in use.
    pub(super) fn receive_queues(&mut self) -> Result<u32, Failed> {
        let mut channels = EthtoolChannels { cmd: ETHTOOL_GCHANNELS, ..Default::default() };
        self.request.ifr_ifru.ifru_data = (&raw mut channels).cast();
        self.ioctl("ioctl(ETHTOOL_GCHANNELS)", libc::SIOCETHTOOL as libc::c_ulong)?;
        Ok(channels.rx + channels.combined)
    }

    pub(super) fn driver(&mut self) -> Result<String, Failed> {
        let mut info = EthtoolDrvinfo { cmd: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
        self.request.ifr_ifru.ifru_data = (&raw mut info).cast();
        self.ioctl("ioctl(ETHTOOL_GDRVINFO)", libc::SIOCETHTOOL as libc::c_ulong)?;
        let end = info.driver.iter().position(|&byte| byte == 0).unwrap_or(info.driver.len());
        Ok(String::from_utf8_lossy(&info.driver[..end]).into_owned())
    }
}

/// The index of a device in the namespace of this thread; `None` if no device has that name.
pub(super) fn device_index(device: &str) -> Option<u32> {
    let name = CString::new(device).ok()?;
    // SAFETY: `name` is a valid C string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

/// What is attached to a device, by `bpf_xdp_query`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) driver_program: u32,
    pub(super) generic_program: u32,
    pub(super) hardware_program: u32,
    pub(super) any_program: u32,
    /// `NETDEV_XDP_ACT_*`; 0 where the kernel does not say (before 6.3).
    pub(super) features: u64,
}

pub(super) fn attached(ifindex: u32) -> Result<Attached, Failed> {
    // SAFETY: the options are a plain C structure, for which zeroes are valid.
    let mut options: xdp::bpf_xdp_query_opts = unsafe { mem::zeroed() };
    options.sz = mem::size_of_val(&options);
    // SAFETY: `options` is valid for writes and states its size.
    let result = unsafe { xdp::bpf_xdp_query(ifindex as c_int, 0, &raw mut options) };
    if result < 0 {
        let error = io::Error::from_raw_os_error(-result);
        return Err(Failed { call: "bpf_xdp_query", error });
    }
    Ok(Attached {
        driver_program: options.drv_prog_id,
        generic_program: options.skb_prog_id,
        hardware_program: options.hw_prog_id,
        any_program: options.prog_id,
        features: options.feature_flags,
    })
}

// ---- sockets ----

pub(super) fn set_option<T>(
    fd: RawFd,
    level: c_int,
    name: c_int,
    value: &T,
    call: &'static str,
) -> Result<(), Failed> {
    // SAFETY: `value` is valid for reads of its size.
    let result = unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            ptr::from_ref(value).cast(),
            mem::size_of::<T>() as libc::socklen_t,
        )
    };
    check(call, result).map(drop)
}

/// Reads an option into `value`; returns how many bytes the kernel wrote.
///
/// # Safety
/// Every bit pattern has to be valid for `T`.
unsafe fn get_option<T>(
    fd: RawFd,
    level: c_int,
    name: c_int,
    value: &mut T,
    call: &'static str,
) -> Result<usize, Failed> {
    let mut length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is valid for writes of `length` bytes, and the caller vouches that whatever
    // is written is valid.
    let result =
        unsafe { libc::getsockopt(fd, level, name, ptr::from_mut(value).cast(), &raw mut length) };
    check(call, result).map(|_| length as usize)
}

/// `struct xdp_statistics`; what an older kernel does not know stays 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct XdpStatistics {
    pub(super) rx_dropped: u64,
    pub(super) rx_invalid_descs: u64,
    pub(super) tx_invalid_descs: u64,
    pub(super) rx_ring_full: u64,
    pub(super) rx_fill_ring_empty: u64,
    pub(super) tx_ring_empty: u64,
}

impl XdpStatistics {
    /// Both together.
    pub(super) const fn plus(self, other: Self) -> Self {
        Self {
            rx_dropped: self.rx_dropped + other.rx_dropped,
            rx_invalid_descs: self.rx_invalid_descs + other.rx_invalid_descs,
            tx_invalid_descs: self.tx_invalid_descs + other.tx_invalid_descs,
            rx_ring_full: self.rx_ring_full + other.rx_ring_full,
            rx_fill_ring_empty: self.rx_fill_ring_empty + other.rx_fill_ring_empty,
            tx_ring_empty: self.tx_ring_empty + other.tx_ring_empty,
        }
    }
}

const _: () = assert!(mem::size_of::<XdpStatistics>() == mem::size_of::<xdp::xdp_statistics>());

pub(super) fn xdp_statistics(fd: RawFd) -> Result<XdpStatistics, Failed> {
    let mut statistics = XdpStatistics::default();
    let name = xdp::XDP_STATISTICS as c_int;
    // SAFETY: the structure is made of integers.
    unsafe {
        get_option(fd, libc::SOL_XDP, name, &mut statistics, "getsockopt(XDP_STATISTICS)")?;
    }
    Ok(statistics)
}

/// True if a bound socket works without copies.
pub(super) fn is_zerocopy(fd: RawFd) -> Result<bool, Failed> {
    let mut options = 0u32;
    let name = xdp::XDP_OPTIONS as c_int;
    // SAFETY: any u32 is valid.
    unsafe { get_option(fd, libc::SOL_XDP, name, &mut options, "getsockopt(XDP_OPTIONS)")? };
    Ok(options & xdp::XDP_OPTIONS_ZEROCOPY != 0)
}

/// The pending error of a socket, which the read clears.
pub(super) fn socket_error(fd: RawFd) -> Option<io::Error> {
    let mut error: c_int = 0;
    // SAFETY: any c_int is valid.
    let read = unsafe {
        get_option(fd, libc::SOL_SOCKET, libc::SO_ERROR, &mut error, "getsockopt(SO_ERROR)")
    };
    (read.is_ok() && error != 0).then(|| io::Error::from_raw_os_error(error))
}

/// Where the kernel keeps the parts of each ring: `struct xdp_mmap_offsets`.
pub(super) fn mmap_offsets(fd: RawFd) -> Result<xdp::xdp_mmap_offsets, Failed> {
    // SAFETY: the offsets are plain integers, for which zeroes are valid.
    let mut offsets: xdp::xdp_mmap_offsets = unsafe { mem::zeroed() };
    let name = xdp::XDP_MMAP_OFFSETS as c_int;
    let call = "getsockopt(XDP_MMAP_OFFSETS)";
    // SAFETY: the structure is made of integers.
    let length = unsafe { get_option(fd, libc::SOL_XDP, name, &mut offsets, call)? };
    if length != mem::size_of_val(&offsets) {
        // Before 5.4 there are no flags, and no need_wakeup: too old for this datapath.
        return Err(Failed { call, error: io::Error::from_raw_os_error(libc::ENOSYS) });
    }
    Ok(offsets)
}

/// An AF_XDP socket that nothing is registered with yet.
pub(super) fn xdp_socket() -> Result<OwnedFd, Failed> {
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    let fd = check("socket(AF_XDP)", fd)?;
    // SAFETY: `fd` was returned by socket() just now and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Binds an AF_XDP socket to a queue; `flags` are `XDP_COPY`, `XDP_ZEROCOPY` and so on.
pub(super) fn bind_xdp(fd: RawFd, ifindex: u32, queue: u32, flags: u16) -> Result<(), Failed> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: ifindex,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    let length = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: `address` is valid for reads of its size.
    let result = unsafe { libc::bind(fd, ptr::from_ref(&address).cast(), length) };
    check("bind(AF_XDP)", result).map(drop)
}

/// Memory that is shared with the kernel.
pub(super) struct Mapping {
    start: ptr::NonNull<c_void>,
    bytes: usize,
}

impl Mapping {
    /// Maps `bytes` of the ring at page offset `offset` of an AF_XDP socket.
    pub(super) fn new(fd: RawFd, offset: u64, bytes: usize) -> Result<Self, Failed> {
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing of ours.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd,
                offset as libc::off_t,
            )
        };
        match ptr::NonNull::new(start) {
            Some(start) if start.as_ptr() != libc::MAP_FAILED => Ok(Self { start, bytes }),
            _ => Err(Failed::last("mmap(AF_XDP ring)")),
        }
    }

    /// New memory, of huge pages if they are asked for, all of it there when this returns.
    pub(super) fn memory(bytes: usize, huge_pages: bool) -> Result<Self, Failed> {
        let huge = if huge_pages { libc::MAP_HUGETLB } else { 0 };
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing of ours.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE | huge,
                -1,
                0,
            )
        };
        match ptr::NonNull::new(start) {
            Some(start) if start.as_ptr() != libc::MAP_FAILED => Ok(Self { start, bytes }),
            _ => Err(Failed::last("mmap(UMEM)")),
        }
    }

    pub(super) const fn start(&self) -> ptr::NonNull<c_void> {
        self.start
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `start` and `bytes` are those of a mapping that this value owns.
        unsafe { libc::munmap(self.start.as_ptr(), self.bytes) };
    }
}

/// Asks the kernel to look at the TX ring.
pub(super) fn kick_transmit(fd: RawFd) -> Result<(), Failed> {
    // SAFETY: no buffer is passed: AF_XDP takes an empty send as a wake-up.
    let result = unsafe { libc::sendto(fd, ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
    if result < 0 { Err(Failed::last("sendto(AF_XDP)")) } else { Ok(()) }
}

/// Asks the kernel to look at the fill ring, and to poll the queue when busy polling is on.
pub(super) fn kick_receive(fd: RawFd) -> Result<(), Failed> {
    // SAFETY: no buffer is passed: AF_XDP takes an empty receive as a wake-up.
    let result = unsafe {
        libc::recvfrom(fd, ptr::null_mut(), 0, libc::MSG_DONTWAIT, ptr::null_mut(), ptr::null_mut())
    };
    if result < 0 { Err(Failed::last("recvfrom(AF_XDP)")) } else { Ok(()) }
}

/// What AF_XDP takes, by name (capabilities(7)): the socket CAP_NET_RAW, the program CAP_NET_ADMIN
/// and CAP_BPF, its memory CAP_IPC_LOCK unless `ulimit -l` allows as much. README, errors and
/// `quiclane doctor` name these.
pub const CAPABILITIES: [&str; 4] = ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_IPC_LOCK"];

/// Which of [`CAPABILITIES`] the thread lacks, by name. CAP_IPC_LOCK is not among them: the limit
/// may do instead.
pub(super) fn missing_capabilities() -> Vec<&'static str> {
    /// The numbers of the first of them.
    const NUMBERS: [u32; 3] = [12, 13, 39];
    const CAP_SYS_ADMIN: u32 = 21;
    let Some(effective) = effective_capabilities() else { return Vec::new() };
    let has = |number: u32| effective >> number & 1 == 1;
    NUMBERS
        .into_iter()
        .zip(CAPABILITIES)
        // CAP_SYS_ADMIN includes CAP_BPF, as before 5.8.
        .filter(|&(number, _)| !(has(number) || number == 39 && has(CAP_SYS_ADMIN)))
        .map(|(_, name)| name)
        .collect()
}

fn effective_capabilities() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}
