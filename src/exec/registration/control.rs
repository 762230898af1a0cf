//! What a registration asks of its workers.

use super::super::lane::{ConnectRequest, Listener};
use super::super::port::{PortError, Purpose};
use crate::time::Instant;
use crossbeam::channel::Sender;
use std::net::SocketAddr;

/// Carried out by a worker between two turns.
pub(in crate::exec) enum Control {
    /// Open an address, and say which it became.
    Open { address: SocketAddr, purpose: Purpose, reply: Sender<Result<SocketAddr, PortError>> },
    /// Accept connections.
    Listen(Box<Listener>),
    /// Accept no more for the listener of this number.
    StopListening(u32),
    /// Begin a connection; the port to send from is opened first, if need be.
    Connect(Box<ConnectRequest>),
    /// Close all connections with this code, and end when they are gone, or then.
    Finish { code: u64, until: Instant },
}
