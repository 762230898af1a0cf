//! Every system call of this module: where a thread runs, where its memory lies, how it sleeps.
//!
//! The only file of `exec` with `unsafe` in it. Datapaths have their own.

use crate::time::Instant;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// Readiness events taken from one wait; what does not fit is reported by the next one.
pub(super) const MAX_EVENTS: usize = 64;

fn checked(call: &'static str, result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(error.kind(), format!("{call}: {error}")));
    }
    Ok(result)
}

/// What a cache fetches at a time.
const CACHE_LINE_BYTES: usize = 64;

/// Asks for the `len` bytes at `at` to be brought into the cache, and does not wait for them.
///
/// Safe for any address: nothing is read, and an address that is not mapped is ignored.
#[inline]
pub(super) fn prefetch(at: *const u8, len: usize) {
    let first = at.map_addr(|addr| addr & !(CACHE_LINE_BYTES - 1));
    let lines = (at.addr() - first.addr() + len).div_ceil(CACHE_LINE_BYTES);
    for line in 0..lines {
        prefetch_line(first.wrapping_add(line * CACHE_LINE_BYTES));
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn prefetch_line(at: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: the instruction takes any address and reads nothing that can be observed; every
    // x86-64 has it.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
}

#[cfg(target_arch = "aarch64")]
#[inline]
fn prefetch_line(at: *const u8) {
    // SAFETY: the instruction takes any address, and changes neither memory nor flags.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) at, options(nostack, preserves_flags));
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline]
fn prefetch_line(_at: *const u8) {}

/// The memory of the machine in bytes; `None` if the kernel does not tell.
pub(super) fn memory_bytes() -> Option<u64> {
    // SAFETY: sysconf takes any name, and reads and writes nothing of ours.
    let of = |name| u64::try_from(unsafe { libc::sysconf(name) }).ok();
    of(libc::_SC_PHYS_PAGES)?.checked_mul(of(libc::_SC_PAGESIZE)?)
}

/// Binds the calling thread to these CPUs.
pub(super) fn bind_to_cpus(cpus: &[u32]) -> io::Result<()> {
    let limit = libc::CPU_SETSIZE as usize;
    // SAFETY: cpu_set_t is an array of integers, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus {
        if cpu as usize >= limit {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no cpu {cpu}")));
        }
        // SAFETY: `cpu` is below the number of bits of the set, checked above.
        unsafe { libc::CPU_SET(cpu as usize, &mut set) };
    }
    // SAFETY: the pointer and the size describe `set`, which outlives the call.
    let result =
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    checked("sched_setaffinity", libc::c_long::from(result)).map(drop)
}

/// The CPUs that the calling thread may run on.
pub(super) fn allowed_cpus() -> io::Result<Vec<u32>> {
    // SAFETY: cpu_set_t is an array of integers, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer and the size describe `set`, which outlives the call.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    checked("sched_getaffinity", libc::c_long::from(result))?;
    let limit = libc::CPU_SETSIZE as u32;
    // SAFETY: every index is below the number of bits of the set.
    Ok((0..limit).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu as usize, &set) }).collect())
}

/// Makes the calling thread's new memory come from `node` as long as that has any.
///
/// A preference and not a binding: a full node makes things slower, not impossible. The system call
/// is made here because the crate hwloc2 does not offer hwloc's memory binding, which makes the same
/// call on Linux.
pub(super) fn prefer_node(node: u32) -> io::Result<()> {
    const WORD_BITS: usize = libc::c_ulong::BITS as usize;
    const NODES: usize = 1024;
    let mut mask = [0 as libc::c_ulong; NODES / WORD_BITS];
    let Some(word) = mask.get_mut(node as usize / WORD_BITS) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no node {node}")));
    };
    *word |= 1 << (node as usize % WORD_BITS);
    // SAFETY: `mask` has NODES bits and outlives the call, which reads it only. The kernel
    // counts one bit fewer than it is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_set_mempolicy,
            libc::MPOL_PREFERRED,
            mask.as_ptr(),
            NODES as libc::c_ulong + 1,
        )
    };
    checked("set_mempolicy", result).map(drop)
}

/// Fills `bytes` from the kernel's random source.
///
/// Without random bytes an attacker could guess connection ids and tokens. If the kernel gives
/// none (it is older than 3.17, or a sandbox forbids the call), the process ends rather than go on
/// with predictable ids.
pub(super) fn random(mut bytes: &mut [u8]) {
    while !bytes.is_empty() {
        // SAFETY: the pointer and the length describe `bytes`, which outlives the call.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => bytes = &mut bytes[got..],
            Err(_) => {
                let error = io::Error::last_os_error();
                assert!(error.kind() == io::ErrorKind::Interrupted, "getrandom: {error}");
            }
        }
    }
}

/// How the kernel schedules the calling thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheduling {
    /// Before every ordinary thread (`SCHED_FIFO`, priority 1); needs CAP_SYS_NICE.
    RealTime,
    /// Only when nothing else wants the CPU (`SCHED_IDLE`).
    Idle,
}

/// Changes how the kernel schedules the calling thread.
pub(super) fn set_scheduling(scheduling: Scheduling) -> io::Result<()> {
    let (policy, priority) = match scheduling {
        Scheduling::RealTime => (libc::SCHED_FIFO, 1),
        Scheduling::Idle => (libc::SCHED_IDLE, 0),
    };
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: `param` outlives the call, which reads it only; 0 names the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const param) };
    checked("sched_setscheduler", libc::c_long::from(result)).map(drop)
}

/// An eventfd: what wakes a sleeping worker.
#[derive(Debug)]
pub(super) struct Event(OwnedFd);

impl Event {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        checked("eventfd", libc::c_long::from(fd))?;
        // SAFETY: the descriptor was just made and has no other owner.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes the descriptor readable. It can fail only when it is readable already.
    pub(super) fn signal(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the pointer and the length describe `one`, which outlives the call.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Makes the descriptor unreadable again.
    pub(super) fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: the pointer and the length describe `count`, which outlives the call.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }

    pub(super) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// What a descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interest {
    /// There is something to read.
    Readable,
    /// A write will not block.
    Writable,
    /// Either.
    Both,
}

impl Interest {
    const fn events(self) -> u32 {
        (match self {
            Self::Readable => libc::EPOLLIN,
            Self::Writable => libc::EPOLLOUT,
            Self::Both => libc::EPOLLIN | libc::EPOLLOUT,
        }) as u32
    }
}

/// What a watched descriptor is ready for. An error or a hang-up counts as both: the next
/// read or write says what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Readiness {
    /// A read will not block.
    pub readable: bool,
    /// A write will not block.
    pub writable: bool,
}

/// Waits for descriptors (epoll, level triggered).
#[derive(Debug)]
pub(super) struct Poller {
    /// Shared with whoever waits for it from outside.
    epoll: Arc<OwnedFd>,
    /// The kernel has no `epoll_pwait2` (before 5.11): waits are rounded up to milliseconds.
    coarse: bool,
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        checked("epoll_create1", libc::c_long::from(fd))?;
        // SAFETY: the descriptor was just made and has no other owner.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { epoll: Arc::new(epoll), coarse: false })
    }

    /// Readable when a watched descriptor is ready.
    pub(super) fn descriptor(&self) -> Arc<OwnedFd> {
        self.epoll.clone()
    }

    /// Reports `token` whenever `fd` is ready for what `interest` says.
    pub(super) fn add(&self, fd: RawFd, interest: Interest, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, interest.events(), token)
    }

    /// Stops watching `fd`.
    pub(super) fn remove(&self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn control(&self, op: i32, fd: RawFd, events: u32, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: `event` outlives the call; the kernel checks both descriptors.
        let result = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), op, fd, &raw mut event) };
        checked("epoll_ctl", libc::c_long::from(result)).map(drop)
    }

    /// Waits at most `timeout_ns` (for ever, if that is [`Instant::NEVER`]) and gives each
    /// ready descriptor's token to `sink`. A signal ends the wait early, with nothing ready.
    pub(super) fn wait(
        &mut self,
        timeout_ns: u64,
        mut sink: impl FnMut(u64, Readiness),
    ) -> io::Result<usize> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; MAX_EVENTS];
        let count = match self.wait_raw(&mut events, timeout_ns) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        for event in &events[..count] {
            let bits = event.events as i32;
            let both = bits & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
            let readable = both || bits & libc::EPOLLIN != 0;
            let writable = both || bits & libc::EPOLLOUT != 0;
            sink(event.u64, Readiness { readable, writable });
        }
        Ok(count)
    }

    fn wait_raw(
        &mut self,
        events: &mut [libc::epoll_event; MAX_EVENTS],
        timeout_ns: u64,
    ) -> io::Result<usize> {
        let fd = self.epoll.as_raw_fd();
        let forever = timeout_ns == Instant::NEVER.as_nanos();
        if !self.coarse {
            let timeout = libc::timespec {
                tv_sec: (timeout_ns / 1_000_000_000) as libc::time_t,
                tv_nsec: (timeout_ns % 1_000_000_000) as libc::c_long,
            };
            let timeout = if forever { std::ptr::null() } else { &raw const timeout };
            // SAFETY: `events` has room for MAX_EVENTS, `timeout` is null or a timespec, both
            // outlive the call; no signal mask is given.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    fd,
                    events.as_mut_ptr(),
                    MAX_EVENTS as libc::c_int,
                    timeout,
                    std::ptr::null::<libc::sigset_t>(),
                    size_of::<u64>(),
                )
            };
            match checked("epoll_pwait2", result) {
                // Old sandboxes answer calls that they do not know with EPERM.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
                    ) =>
                {
                    self.coarse = true;
                }
                other => return other.map(|count| count as usize),
            }
        }
        let timeout_ms = match forever {
            true => -1,
            false => i32::try_from(timeout_ns.div_ceil(1_000_000)).unwrap_or(i32::MAX),
        };
        // SAFETY: `events` has room for MAX_EVENTS and outlives the call.
        let result =
            unsafe { libc::epoll_wait(fd, events.as_mut_ptr(), MAX_EVENTS as i32, timeout_ms) };
        checked("epoll_wait", libc::c_long::from(result)).map(|count| count as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_runs_where_it_was_told() {
        let cpu = *allowed_cpus().unwrap().last().unwrap();
        let allowed = std::thread::spawn(move || {
            bind_to_cpus(&[cpu]).unwrap();
            allowed_cpus().unwrap()
        });
        assert_eq!(allowed.join().unwrap(), [cpu]);
    }

    #[test]
    fn a_cpu_that_cannot_exist_is_an_error() {
        assert!(bind_to_cpus(&[u32::MAX]).is_err());
        assert!(prefer_node(u32::MAX).is_err());
    }

    #[test]
    fn an_event_is_seen_until_it_is_cleared() {
        let mut poller = Poller::new().unwrap();
        let event = Event::new().unwrap();
        poller.add(event.fd(), Interest::Readable, 42).unwrap();
        let mut seen = Vec::new();
        assert_eq!(poller.wait(0, |token, _| seen.push(token)).unwrap(), 0);
        event.signal();
        event.signal();
        for _ in 0..2 {
            poller.wait(0, |token, ready| seen.push(token + u64::from(!ready.readable))).unwrap();
        }
        event.clear();
        assert_eq!(poller.wait(0, |token, _| seen.push(token)).unwrap(), 0);
        assert_eq!(seen, [42, 42]);
    }

    #[test]
    fn a_kernel_without_fine_waits_is_served_too() {
        let mut poller = Poller { coarse: true, ..Poller::new().unwrap() };
        let event = Event::new().unwrap();
        poller.add(event.fd(), Interest::Both, 1).unwrap();
        event.signal();
        let mut ready = Vec::new();
        poller.wait(u64::MAX, |_, readiness| ready.push(readiness)).unwrap();
        assert_eq!(ready, [Readiness { readable: true, writable: true }]);
        poller.remove(event.fd()).unwrap();
        assert_eq!(poller.wait(1, |_, _| ()).unwrap(), 0);
    }
}
