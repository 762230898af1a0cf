//! One descriptor to wait on for all that a queue has.
//!
//! A worker registers what [`poll_fds`](crate::datapath::Datapath::poll_fds) returns once. The AF_XDP socket behind it may be
//! replaced, and ports come and go: so the worker waits on an epoll of its own kind, level triggered
//! like any other descriptor, and what is in it changes here.

use super::sys::Failed;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// An epoll that holds the sockets of a queue.
pub(super) struct PollSet {
    epoll: OwnedFd,
    fds: [RawFd; 1],
}

impl PollSet {
    /// A set with one socket in it.
    pub(super) fn new(socket: RawFd) -> Result<Self, Failed> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(Failed::last("epoll_create1"));
        }
        // SAFETY: `fd` was returned by epoll_create1() just now and has no other owner.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        let set = Self { fds: [epoll.as_raw_fd()], epoll };
        set.add(socket)?;
        Ok(set)
    }

    /// What to wait on.
    pub(super) const fn fds(&self) -> &[RawFd] {
        &self.fds
    }

    /// Adds a socket; one that is there stays.
    pub(super) fn add(&self, socket: RawFd) -> Result<(), Failed> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        // SAFETY: `event` is valid for reads for the length of the call.
        let result = unsafe {
            libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, socket, &raw mut event)
        };
        if result == 0 {
            return Ok(());
        }
        let failed = Failed::last("epoll_ctl");
        if failed.errno() == libc::EEXIST { Ok(()) } else { Err(failed) }
    }

    /// Takes a socket out. A closed one is out already.
    pub(super) fn remove(&self, socket: RawFd) {
        // SAFETY: EPOLL_CTL_DEL reads no event.
        unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_DEL,
                socket,
                std::ptr::null_mut(),
            )
        };
    }
}
