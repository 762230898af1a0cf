//! A connection with its application: what a table of connections holds, and what moves.

use super::handler::Handler;
use super::seat::Seat;
use crate::proto::connection::Connection;

/// A connection with its application, by whole cache lines, what every packet touches first.
#[repr(C, align(64))]
pub(in crate::exec) struct Entry {
    pub(in crate::exec) handler: Box<dyn Handler>,
    pub(in crate::exec) seat: Seat,
    pub(in crate::exec) connection: Connection,
}

/// What an ordinary packet may touch of a connection, its keys aside: each line of it is a miss
/// where there are thousands.
const HOT_BYTES: usize = Entry::COLD_AT - Connection::COLD_AT + Connection::HOT_BYTES;
const _: () = assert!(HOT_BYTES <= 4096, "the hot state of a connection is 4 KiB at most");

/// An entry goes to other threads, one at a time.
const _: fn() = || {
    fn moves<T: Send>() {}
    moves::<Entry>();
};

impl Entry {
    /// An ordinary packet touches the fields before this one.
    pub(in crate::exec) const COLD_AT: usize =
        std::mem::offset_of!(Self, connection) + Connection::COLD_AT;
}
