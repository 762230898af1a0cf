//! The paths of a connection besides the active one, while there are some.
//!
//! There are few: the path that was active before, until the new one is validated (RFC 9000 §9.3.2),
//! and paths that either side probes. Most connections never have one.

use crate::proto::path::{Addresses, Path, PathId};
use crate::proto::recovery::Resolved;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

/// Paths besides the active one: the one before it, one that the peer probes, and one that overtakes.
/// A path that comes beyond takes the place of the oldest that can be spared. Each is less than a
/// kilobyte.
pub(super) const OTHER_PATHS_MAX: usize = 3;

/// A path that is not the active one.
#[derive(Debug)]
pub(super) struct OtherPath {
    pub(super) path: Path,
    /// The number of the id that packets carry there.
    pub(super) remote_cid: u64,
    /// The number of the id of ours that the peer began the path with.
    pub(super) peer_uses: Option<u64>,
    /// The path was active and validated: packets return to it if the active one turns out to be none.
    pub(super) fallback: bool,
    /// We move there once it is validated.
    pub(super) wanted: bool,
}

/// What a client knows of its server's addresses.
#[derive(Debug)]
pub(super) enum Preferred {
    /// The server has named them, and the client has not tried them, or is about to.
    Named { v4: Option<SocketAddrV4>, v6: Option<SocketAddrV6> },
    /// The client has moved from this address: what the server sent before it noticed comes from there.
    Left(SocketAddr),
}

/// The newest packets are probes alone (RFC 9000 §9.1).
#[derive(Clone, Copy, Debug)]
struct Probes {
    /// The largest number of a packet that was more than a probe.
    above: Option<u64>,
    /// The largest number.
    last: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct OtherPaths {
    pub(super) paths: Vec<OtherPath>,
    probes: Option<Probes>,
}

impl OtherPaths {
    /// The path between these ends.
    pub(super) fn between(&mut self, at: &Addresses) -> Option<&mut OtherPath> {
        self.paths.iter_mut().find(|other| other.path.is_between(at.ends()))
    }

    /// The path with this number.
    pub(super) fn get(&mut self, id: PathId) -> Option<&mut OtherPath> {
        self.paths.iter_mut().find(|other| other.path.id == id)
    }

    /// The largest number of a packet that was more than a probe; `largest` is the largest number of all.
    pub(super) fn newest(&self, largest: Option<u64>) -> Option<u64> {
        let probes = self.probes.filter(|probes| Some(probes.last) == largest);
        probes.map_or(largest, |probes| probes.above)
    }

    /// Notes the number of a packet; `largest` was the largest before it. True if the packet moves the peer's
    /// path: it is the highest-numbered one that is more than a probe (RFC 9000 §9.3).
    pub(super) fn note_number(&mut self, pn: u64, largest: Option<u64>, probing: bool) -> bool {
        let newest = self.newest(largest);
        let last = largest.map_or(pn, |largest| largest.max(pn));
        if newest.is_some_and(|newest| newest > pn) {
            return false;
        }
        let above = if probing { newest } else { Some(pn) };
        self.probes = (above != Some(last)).then_some(Probes { above, last });
        !probing
    }

    /// Takes a path out.
    pub(super) fn take(&mut self, id: PathId) -> Option<OtherPath> {
        let at = self.paths.iter().position(|other| other.path.id == id)?;
        Some(self.paths.remove(at))
    }

    /// Takes out the path to return to.
    pub(super) fn take_fallback(&mut self) -> Option<OtherPath> {
        self.take_first(|other| other.fallback)
    }

    /// Takes out the oldest path that is such a one.
    pub(super) fn take_first(&mut self, is: impl Fn(&OtherPath) -> bool) -> Option<OtherPath> {
        let at = self.paths.iter().position(is)?;
        Some(self.paths.remove(at))
    }

    /// Enters a path. Returns the one that has to go for it: there is one fallback at most, so one
    /// can always go.
    pub(super) fn add(&mut self, other: OtherPath) -> Option<OtherPath> {
        let spared = match self.paths.len() {
            0..OTHER_PATHS_MAX => None,
            _ => {
                let spare = self.paths.iter().position(|other| !other.fallback && !other.wanted);
                spare.or_else(|| self.paths.iter().position(|other| !other.fallback))
            }
        };
        let gone = spared.map(|at| self.paths.remove(at));
        self.paths.push(other);
        gone
    }

    /// A packet that took one of them was acknowledged or lost.
    pub(super) fn on_resolved(&mut self, p: &Resolved) {
        if let Some(other) = self.get(p.info.path) {
            other.path.on_resolved(p);
        }
    }

    /// Bytes of memory held.
    pub(super) fn memory_bytes(&self) -> usize {
        let heap: usize = self.paths.iter().map(|other| other.path.memory_bytes()).sum();
        size_of::<Self>() + self.paths.capacity() * size_of::<OtherPath>() + heap
    }
}
