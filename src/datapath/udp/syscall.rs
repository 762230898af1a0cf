//! Every system call of the UDP datapath, and all of its `unsafe`.
//!
//! Each function takes slices and gives `io::Result`; none keeps a pointer beyond its own
//! return, so the whole contract with the kernel is in this file: a `msghdr` points at memory
//! that is borrowed for the call, with lengths that are the lengths of those borrows.
#![expect(unsafe_code, reason = "the one file of this module that makes system calls")]

use super::abi::{CONTROL_BYTES, Control, NAME_BYTES, Name};
use crate::time::SECOND_NS;
use std::io;
use std::mem::{MaybeUninit, size_of, size_of_val, zeroed};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// The most messages that one call sends. A message costs 2.6 us, and the call around it less
/// than a tenth of that: sharing it among more than 64 would gain nothing that can be measured.
pub(super) const SEND_BATCH: usize = 64;
/// The most messages that one call receives.
pub(super) const RECEIVE_BATCH: usize = 64;

/// A new non-blocking UDP socket.
pub(super) fn socket(ipv4: bool) -> io::Result<OwnedFd> {
    let family = if ipv4 { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: socket(2) takes no pointers.
    let fd = check(unsafe { libc::socket(family, kind, libc::IPPROTO_UDP) })?;
    // SAFETY: the call succeeded, so `fd` is open and owned by no other value.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bind(2).
pub(super) fn bind(fd: BorrowedFd<'_>, address: &SocketAddr) -> io::Result<()> {
    let name = Name::new(address);
    let bytes = name.bytes();
    // SAFETY: the pointer is to `bytes.len()` readable bytes; bind(2) copies them and asks for
    // no alignment.
    let done = unsafe {
        libc::bind(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len() as libc::socklen_t)
    };
    check(done).map(drop)
}

/// getsockname(2).
pub(super) fn local_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let mut name = Name::EMPTY;
    let mut len = NAME_BYTES as libc::socklen_t;
    // SAFETY: the pointer is to NAME_BYTES writable bytes and `len` says so; the kernel writes
    // at most that many and the true length to `len`.
    let done = unsafe {
        libc::getsockname(fd.as_raw_fd(), name.storage().as_mut_ptr().cast(), &raw mut len)
    };
    check(done)?;
    name.set_len(len);
    name.get().ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
}

/// setsockopt(2) with an int.
pub(super) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    set_option_bytes(fd, level, name, &value.to_ne_bytes())
}

/// setsockopt(2) with bytes.
pub(super) fn set_option_bytes(
    fd: BorrowedFd<'_>,
    level: i32,
    name: i32,
    value: &[u8],
) -> io::Result<()> {
    // SAFETY: the pointer is to `value.len()` readable bytes, which the kernel copies.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    check(done).map(drop)
}

/// getsockopt(2) of an int.
pub(super) fn option(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<i32> {
    let mut values = [0];
    option_words(fd, level, name, &mut values)?;
    Ok(values[0].cast_signed())
}

/// getsockopt(2) of an array of 32-bit words; returns how many the kernel wrote.
pub(super) fn option_words(
    fd: BorrowedFd<'_>,
    level: i32,
    name: i32,
    values: &mut [u32],
) -> io::Result<usize> {
    let mut len = size_of_val(values) as libc::socklen_t;
    // SAFETY: the pointer is to `len` writable bytes, and any bits make a u32; the kernel
    // writes at most `len` bytes and the number of them to `len`.
    let done = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, name, values.as_mut_ptr().cast(), &raw mut len)
    };
    check(done)?;
    Ok(len as usize / size_of::<u32>())
}

/// What one received message says of itself.
pub(super) struct Slot {
    pub(super) name: Name,
    pub(super) control: Control,
    pub(super) len: usize,
    /// The datagram was longer than its buffer.
    pub(super) truncated: bool,
}

impl Slot {
    pub(super) const EMPTY: Self =
        Self { name: Name::EMPTY, control: Control::EMPTY, len: 0, truncated: false };

    fn filled(&mut self, header: &libc::msghdr, len: usize) {
        self.name.set_len(header.msg_namelen);
        self.control.set_len(header.msg_controllen);
        self.len = len;
        self.truncated = header.msg_flags & libc::MSG_TRUNC != 0;
    }
}

/// recvmmsg(2): one message into each buffer, as many as there are buffers and slots.
pub(super) fn receive_many<'a>(
    fd: BorrowedFd<'_>,
    slots: &mut [Slot],
    buffers: impl Iterator<Item = &'a mut [u8]>,
) -> io::Result<usize> {
    let mut vectors = [const { MaybeUninit::uninit() }; RECEIVE_BATCH];
    let mut headers = [const { MaybeUninit::uninit() }; RECEIVE_BATCH];
    let mut count = 0;
    let places = vectors.iter_mut().zip(&mut headers);
    for ((slot, buffer), (vector, header)) in slots.iter_mut().zip(buffers).zip(places) {
        let vector = vector.write(vector_of(buffer));
        let msg_hdr = receive_header(&mut slot.name, &mut slot.control, vector);
        header.write(libc::mmsghdr { msg_hdr, msg_len: 0 });
        count += 1;
    }
    // SAFETY: the first `count` headers are written, and each points at an iovec, a name, a
    // control buffer and a payload buffer that are borrowed mutably for the call, are distinct,
    // and are as long as the header says. A null timeout is allowed.
    let got = unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr().cast(),
            count as libc::c_uint,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
        )
    };
    let got = check(got)? as usize;
    for (slot, header) in slots.iter_mut().zip(&headers[..got.min(count)]) {
        // SAFETY: the first `count` headers were written above.
        let header = unsafe { header.assume_init_ref() };
        slot.filled(&header.msg_hdr, header.msg_len as usize);
    }
    Ok(got.min(count))
}

/// recvmsg(2): one message, or with `MSG_ERRQUEUE` one entry of the error queue.
pub(super) fn receive_one(
    fd: BorrowedFd<'_>,
    slot: &mut Slot,
    buffer: &mut [u8],
    flags: i32,
) -> io::Result<()> {
    let mut vector = vector_of(buffer);
    let mut header = receive_header(&mut slot.name, &mut slot.control, &mut vector);
    // SAFETY: the header points at an iovec, a name, a control buffer and a payload buffer that
    // are borrowed mutably for the call and as long as it says.
    let got = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT | flags) };
    let got = check_long(got)?;
    slot.filled(&header, got);
    Ok(())
}

/// One message to send.
pub(super) struct Outgoing<'a> {
    pub(super) payload: &'a [u8],
    pub(super) name: &'a Name,
    pub(super) control: &'a Control,
}

/// sendmmsg(2): returns how many messages the kernel took, which is at least one.
pub(super) fn send_many<'a>(
    fd: BorrowedFd<'_>,
    messages: impl Iterator<Item = Outgoing<'a>>,
) -> io::Result<usize> {
    let mut vectors = [const { MaybeUninit::uninit() }; SEND_BATCH];
    let mut headers = [const { MaybeUninit::uninit() }; SEND_BATCH];
    let mut count = 0;
    let places = vectors.iter_mut().zip(&mut headers);
    for (message, (vector, header)) in messages.zip(places) {
        let msg_hdr = send_header(&message, vector);
        header.write(libc::mmsghdr { msg_hdr, msg_len: 0 });
        count += 1;
    }
    // SAFETY: the first `count` headers are written, and each points at an iovec, a name, a
    // control buffer and a payload that are borrowed for the call and as long as the header
    // says; sendmmsg(2) only reads them, and writes `msg_len` in the header.
    let sent = unsafe {
        libc::sendmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr().cast(),
            count as libc::c_uint,
            libc::MSG_DONTWAIT,
        )
    };
    Ok(check(sent)? as usize)
}

/// sendmsg(2).
pub(super) fn send_one(fd: BorrowedFd<'_>, message: &Outgoing<'_>) -> io::Result<()> {
    let mut vector = MaybeUninit::uninit();
    let header = send_header(message, &mut vector);
    // SAFETY: the header points at an iovec, a name, a control buffer and a payload that are
    // borrowed for the call and as long as it says; sendmsg(2) only reads them.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) };
    check_long(sent).map(drop)
}

fn vector_of(buffer: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() }
}

fn empty_header() -> libc::msghdr {
    // SAFETY: msghdr is a C struct of pointers and integers, and zero is a value of each. It is
    // not written as a literal because musl has private padding in it.
    unsafe { zeroed() }
}

fn receive_header(
    name: &mut Name,
    control: &mut Control,
    vector: &mut libc::iovec,
) -> libc::msghdr {
    let mut header = empty_header();
    header.msg_name = name.storage().as_mut_ptr().cast();
    header.msg_namelen = NAME_BYTES as libc::socklen_t;
    header.msg_iov = vector;
    header.msg_iovlen = 1;
    header.msg_control = control.storage().as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES;
    header
}

fn send_header(message: &Outgoing<'_>, vector: &mut MaybeUninit<libc::iovec>) -> libc::msghdr {
    // The kernel's interface has no const; it does not write through these.
    let payload = libc::iovec {
        iov_base: message.payload.as_ptr().cast_mut().cast(),
        iov_len: message.payload.len(),
    };
    let mut header = empty_header();
    let name = message.name.bytes();
    header.msg_name = name.as_ptr().cast_mut().cast();
    header.msg_namelen = name.len() as libc::socklen_t;
    header.msg_iov = vector.write(payload);
    header.msg_iovlen = 1;
    let control = message.control.bytes();
    if !control.is_empty() {
        header.msg_control = control.as_ptr().cast_mut().cast();
        header.msg_controllen = control.len();
    }
    header
}

/// The time of day in nanoseconds since 1970: the clock of the kernel's arrival times, and of nothing
/// else here.
pub(super) fn time_of_day_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for writes for the length of the call.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut now) };
    now.tv_sec as u64 * SECOND_NS + now.tv_nsec as u64
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_long(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
