//! What a worker knows of a connection besides the protocol's state. Callbacks may look at it.

use super::super::address::{Address, Key};
use super::super::table::InitialKey;
use super::services::WatchId;
use crate::datapath::Link;
use crate::proto::source::Source;
use crate::time::Instant;
use std::sync::Arc;

/// A client's handshake, until it is done.
#[derive(Clone, Copy, Debug)]
pub(in crate::exec) struct Handshake {
    /// The id that the client chose, and its address.
    pub(in crate::exec) initial: InitialKey,
    /// It began with a token: the address is the client's.
    pub(in crate::exec) proven: bool,
}

/// Where a connection sits: what the worker knows of it besides its state.
#[repr(C)]
pub(in crate::exec) struct Seat {
    pub(in crate::exec) key: Key,
    /// The datapath that it sends through.
    pub(in crate::exec) datapath: usize,
    /// When something happened to it last.
    pub(in crate::exec) touched_at: Instant,
    /// On the touched list.
    pub(in crate::exec) touched: bool,
    /// The application was told that it is over: nothing more is told.
    pub(in crate::exec) over: bool,
    /// It gave back what an idle connection does not need.
    pub(in crate::exec) shrunk: bool,
    /// What the connection held when it was looked at last.
    pub(in crate::exec) held_bytes: u32,
    pub(in crate::exec) measured_at: Instant,
    /// The link-layer part of the way to the peer; the addresses are the connection's.
    pub(in crate::exec) link: Link,
    /// The client's handshake, until it is done.
    pub(in crate::exec) handshake: Option<Box<Handshake>>,
    /// Made when the application asks for a handle.
    pub(in crate::exec) address: Option<Arc<Address>>,
    /// The listener that accepted it.
    pub(in crate::exec) listener: Option<u32>,
    /// Where the peer's stateless reset finds it.
    pub(in crate::exec) reset: Option<u64>,
    /// The source that a client came from: its place is on the account of that source.
    pub(in crate::exec) source: Option<Source>,
    /// Watches of its descriptors. Some may have ended.
    pub(in crate::exec) watches: Vec<WatchId>,
}

impl Seat {
    pub(in crate::exec) fn new(key: Key, datapath: usize, link: Link, now: Instant) -> Self {
        Self {
            key,
            datapath,
            link,
            address: None,
            watches: Vec::new(),
            handshake: None,
            source: None,
            held_bytes: 0,
            measured_at: now,
            listener: None,
            reset: None,
            touched: false,
            over: false,
            touched_at: now,
            shrunk: false,
        }
    }
}
