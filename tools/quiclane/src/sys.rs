//! Every unsafe call of the command line.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// Whether a call may wait for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Yes,
    /// Fails with EAGAIN if the data is not in memory.
    No,
}

/// A directory to open files below.
pub(crate) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map(OwnedFd::from)
}

/// Opens a file below a directory. Links are followed if they stay below it; the last name must
/// not be a link.
pub(crate) fn open_beneath(
    directory: &OwnedFd,
    path: &CStr,
    flags: libc::c_int,
    wait: Wait,
) -> io::Result<OwnedFd> {
    // SAFETY: `open_how` is plain numbers, for which zero is a value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_NOFOLLOW | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
    if wait == Wait::No {
        how.resolve |= libc::RESOLVE_CACHED;
    }
    let fd = directory.as_raw_fd();
    // SAFETY: the path ends with a zero, and the kernel reads the size of `how` that it is told.
    let opened = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            fd,
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    if opened < 0 {
        let error = io::Error::last_os_error();
        // RESOLVE_CACHED needs Linux 5.12: older kernels answer as if they had to wait.
        let unknown = wait == Wait::No && error.raw_os_error() == Some(libc::EINVAL);
        return Err(if unknown { io::Error::from_raw_os_error(libc::EAGAIN) } else { error });
    }
    // SAFETY: the descriptor was just opened and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(opened as i32) })
}

/// Reads up to `len` bytes at an offset; fewer at the end of the file, and where the rest is not
/// in memory and the call may not wait.
pub(crate) fn read_at(file: &File, at: u64, len: usize, wait: Wait) -> io::Result<Vec<u8>> {
    let mut data: Vec<u8> = Vec::with_capacity(len);
    let part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: len };
    let flags = if wait == Wait::No { libc::RWF_NOWAIT } else { 0 };
    let at = libc::off_t::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the vector names `len` bytes that were allocated, which the kernel only writes.
    let read = unsafe { libc::preadv2(file.as_raw_fd(), &raw const part, 1, at, flags) };
    let Ok(read) = usize::try_from(read) else {
        let error = io::Error::last_os_error();
        return Err(match error.raw_os_error() {
            // A file system without RWF_NOWAIT: as if it had to wait.
            Some(libc::EOPNOTSUPP) => io::ErrorKind::WouldBlock.into(),
            _ => error,
        });
    };
    // SAFETY: the kernel wrote as many bytes as it says, at most `len`.
    unsafe { data.set_len(read.min(len)) };
    Ok(data)
}

/// Raises the number of descriptors that this process may have as far as it may, and gives it.
pub(crate) fn raise_descriptors() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit, which the call fills.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 0;
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: the pointer is to a live rlimit, which the call reads.
    let done = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0;
    if done { raised.rlim_cur } else { limit.rlim_cur }
}

/// Lets two names change places, at one instant.
#[cfg(test)]
pub(crate) fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let [a, b] = [a, b].map(|path| CString::new(path.as_os_str().as_bytes()).unwrap());
    let (here, how) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
    // SAFETY: both paths end with a zero.
    match unsafe { libc::renameat2(here, a.as_ptr(), here, b.as_ptr(), how) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Seconds of CPU, user and system, of all threads since the start.
pub(crate) fn cpu_seconds() -> f64 {
    // SAFETY: `rusage` is plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live rusage, which the call fills.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } != 0 {
        return 0.0;
    }
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Opens a performance counter for the calling thread, on any CPU. The attribute says its own
/// size in bytes 4 to 7, as `perf_event_attr` does.
pub(crate) fn perf_event_open(attr: &[u8; 64]) -> Option<File> {
    let size = u32::from_ne_bytes([attr[4], attr[5], attr[6], attr[7]]);
    if size as usize > attr.len() {
        return None;
    }
    // SAFETY: as checked above, the kernel reads at most the 64 bytes that are there.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, attr.as_ptr(), 0, -1, -1, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the descriptor was just opened and has no other owner.
    Some(unsafe { File::from_raw_fd(fd) })
}

/// Moves the calling thread into a network namespace of `ip netns`, for good.
pub(crate) fn enter_netns(namespace: &File) -> io::Result<()> {
    // SAFETY: no pointers are passed, and the descriptor is open for the duration of the call.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Leaves the terminal and the process group of this process: a signal to those does not end it.
pub(crate) fn leave_terminal() -> io::Result<()> {
    // SAFETY: no pointers are passed; ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    // SAFETY: no pointers are passed.
    if unsafe { libc::setsid() } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The number of a network device.
pub(crate) fn device_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name ends with a zero.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

/// The result of a read from a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing within the time.
    Nothing,
    /// This many bytes, at the beginning of the buffer.
    Bytes(usize),
    /// It is gone: its window was closed, its connection is lost.
    Gone,
}

/// Reads from a terminal, for `patience` at most. A terminal that is gone stays readable without
/// ever having a byte; `poll` reports that.
pub(crate) fn hear(
    terminal: &impl AsFd,
    buffer: &mut [u8],
    patience: Duration,
) -> io::Result<Heard> {
    let fd = terminal.as_fd().as_raw_fd();
    let mut asked = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let milliseconds = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the pointer is to one live pollfd, which the call fills; the descriptor is open as
    // long as it is borrowed.
    if unsafe { libc::poll(&raw mut asked, 1, milliseconds) } < 0 {
        return interrupted(Heard::Nothing);
    }
    if asked.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0 {
        return Ok(Heard::Gone);
    }
    if asked.revents & libc::POLLIN == 0 {
        return Ok(Heard::Nothing);
    }
    // SAFETY: the pointer and the length are those of one live buffer, which the call fills.
    let read = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
    match usize::try_from(read) {
        Ok(0) => Ok(Heard::Gone),
        Ok(bytes) => Ok(Heard::Bytes(bytes)),
        Err(_) if io::Error::last_os_error().raw_os_error() == Some(libc::EIO) => Ok(Heard::Gone),
        Err(_) => interrupted(Heard::Nothing),
    }
}

/// The last error of the system, or `value` if it only was a signal.
fn interrupted<T>(value: T) -> io::Result<T> {
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::Interrupted => Ok(value),
        error => Err(error),
    }
}
