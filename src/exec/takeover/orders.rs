//! What a process that is taken over from asks of its workers, in the order of a takeover.

use crate::exec::source::OpenDatapathError;
use crossbeam::channel::Sender;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// An order to a worker, with where its answer goes.
pub(in crate::exec) enum Order {
    /// Read this feed as well from now on, and show what there is.
    Show { feed: OwnedFd, reply: Sender<Result<Shown, OpenDatapathError>> },
    /// Give up the queue, and serve by the kernel sockets.
    Leave { reply: Sender<Result<(), OpenDatapathError>> },
    /// Read the kernel sockets no more.
    Yield { reply: Sender<Result<(), OpenDatapathError>> },
    /// The successor serves: once it has ended, read the kernel sockets again.
    Done { reply: Sender<Result<(), OpenDatapathError>> },
    /// The successor has died: serve again, and read the feed no more.
    Resume { reply: Sender<Result<(), OpenDatapathError>> },
}

/// What a worker serves.
pub(in crate::exec) struct Shown {
    pub(in crate::exec) queue: u32,
    /// Its kernel sockets: whether clients send to them.
    pub(in crate::exec) sockets: Vec<(SocketAddr, bool, OwnedFd)>,
    /// Its AF_XDP socket.
    pub(in crate::exec) xdp: Option<OwnedFd>,
}
