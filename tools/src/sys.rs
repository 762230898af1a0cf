//! Every call of the command line that the compiler cannot check.

use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::time::Duration;

/// Maps a file for reading. Whoever truncates it meanwhile ends the process with a fault, as in
/// every server that maps files.
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapping is private to us and read only; that nobody truncates the file is
    // what the doc asks of the operator.
    unsafe { Mmap::map(file) }
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
    // SAFETY: the descriptor was just opened and belongs to nobody else.
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

/// Leaves the terminal and the group of processes that this one was started in: what ends those
/// does not end this one.
pub(crate) fn leave_terminal() -> io::Result<()> {
    // SAFETY: no pointers are passed; ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    // SAFETY: no pointers are passed.
    if unsafe { libc::setsid() } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What a terminal has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing within the time.
    Nothing,
    /// So many bytes, at the beginning of the buffer.
    Bytes(usize),
    /// It is gone: its window was closed, its connection is lost.
    Gone,
}

/// Reads from a terminal, for `patience` at most. A terminal that is gone stays readable for
/// ever without a byte in it: `poll` tells that apart.
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
