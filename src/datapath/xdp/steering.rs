//! What leads the packets of a queue to its socket: our program, or that of the application.

use super::error::XdpError;
use super::loader::{NOT_TO_BE_TAKEN_OVER, Program};
use crate::datapath::headers::{Verdict, VerdictCounters};
use aya::maps::{Map, MapData, XskMap};
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;

/// See the [module](self).
pub(super) enum Steering {
    Ours(Box<Program>),
    /// Sockets are entered into this map, at the numbers of their queues. Which packets the program behind it
    /// redirects there is its own matter.
    Theirs(XskMap<MapData>),
}

impl Steering {
    /// The map of an application's program, which it has pinned.
    pub(super) fn of_map(path: &Path) -> Result<Self, XdpError> {
        let fail = |detail: String| XdpError::Program {
            what: "the XSKMAP of another program",
            detail: format!("{}: {detail}", path.display()),
        };
        let data = MapData::from_pin(path).map_err(|error| fail(XdpError::chain(&error)))?;
        let map = Map::from_map_data(data).map_err(|error| fail(XdpError::chain(&error)))?;
        XskMap::try_from(map).map(Self::Theirs).map_err(|error| fail(error.to_string()))
    }

    pub(super) fn set_socket(&mut self, queue: u32, socket: RawFd) -> Result<(), XdpError> {
        match self {
            Self::Ours(program) => program.set_socket(queue, socket),
            Self::Theirs(map) => map.set(queue, socket, 0).map_err(|error| XdpError::Program {
                what: "entering a socket into the XSKMAP of another program",
                detail: XdpError::chain(&error),
            }),
        }
    }

    pub(super) fn unset_socket(&mut self, queue: u32) {
        match self {
            Self::Ours(program) => program.unset_socket(queue),
            // The kernel empties the slot when the socket closes.
            Self::Theirs(map) => drop(map.unset(queue)),
        }
    }

    /// Lets other processes change what is shared with them.
    pub(super) fn has_begun(&mut self) {
        if let Self::Ours(program) = self {
            program.has_begun();
        }
    }

    /// The queue of the socket that a slot leads to, as far as that can be asked.
    pub(super) fn slot(&mut self, queue: u32) -> Result<Option<u32>, XdpError> {
        match self {
            Self::Ours(program) => program.slot(queue),
            Self::Theirs(_) => Ok(Some(queue)),
        }
    }

    pub(super) fn add_port(&mut self, address: SocketAddr, flags: u32) -> Result<(), XdpError> {
        match self {
            Self::Ours(program) => program.add_port(address, flags),
            Self::Theirs(_) => Ok(()),
        }
    }

    pub(super) fn remove_port(&mut self, address: SocketAddr) {
        if let Self::Ours(program) = self {
            program.remove_port(address);
        }
    }

    pub(super) fn verdicts(&self) -> Result<VerdictCounters, XdpError> {
        match self {
            Self::Ours(program) => program.verdicts(),
            Self::Theirs(_) => Ok(VerdictCounters::default()),
        }
    }

    pub(super) fn judge(&mut self, frame: &[u8]) -> Result<Option<Verdict>, XdpError> {
        match self {
            Self::Ours(program) => program.judge(frame),
            Self::Theirs(_) => Ok(None),
        }
    }

    /// For a process that takes over.
    pub(super) fn share_link(&self) -> Result<OwnedFd, XdpError> {
        match self {
            Self::Ours(program) => program.share_link(),
            Self::Theirs(_) => Err(NOT_TO_BE_TAKEN_OVER),
        }
    }

    pub(super) fn take_link(&mut self, link: OwnedFd) -> Result<(), XdpError> {
        match self {
            Self::Ours(program) => program.take_link(link),
            Self::Theirs(_) => Err(NOT_TO_BE_TAKEN_OVER),
        }
    }
}
