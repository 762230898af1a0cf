//! The address at which a server prefers to be reached (RFC 9000 §9.6).
//!
//! A server that is reached at an address of many hosts names one of its own in the handshake
//! ([`preferred_v4`](super::TransportConfig::preferred_v4), `preferred_v6`). Once the handshake is
//! confirmed, its client asks with PATH_CHALLENGE whether the server is there, and moves if it answers: once,
//! and unless [`follow_preferred_address`](super::TransportConfig::follow_preferred_address) is false. If
//! nobody answers, everything stays as it is, and the application is told nothing.
//!
//! A client that moves itself meanwhile asks at the preferred address from its new one; if both answer, it
//! takes the preferred one (§9.6.3). An address of another family than the one in use is not tried: we know
//! no address of ours to try it from.
//!
//! The server does what it does for any packet to another address of its own: it answers, asks, and
//! moves once its client has said more than a probe there, and has answered (see `paths.rs`). Having
//! moved, it forgets the first address at once, and does not return to it when a packet of its client arrives
//! there (§9.6.2): a late one is read, and begins no path.

use super::config::is_host;
use super::other_paths::{OtherPath, Preferred};
use super::{Connection, Migration};
use crate::proto::path::Addresses;
use crate::time::Instant;
use crate::wire::Side;
use crate::wire::transport_parameters::PreferredAddress;
use std::net::SocketAddr;

impl Connection {
    /// A server's parameters name an address.
    pub(super) fn note_preferred(&mut self, named: &PreferredAddress) {
        if self.config.follow_preferred_address {
            let PreferredAddress { v4, v6, .. } = *named;
            self.preferred = Some(Box::new(Preferred::Named { v4, v6 }));
        }
    }

    /// Where a client wants to reach its server, if that is somewhere else.
    fn preferred_remote(&self) -> Option<SocketAddr> {
        let Preferred::Named { v4, v6 } = **self.preferred.as_ref()? else { return None };
        let remote = match self.path.remote {
            SocketAddr::V4(_) => SocketAddr::V4(v4?),
            SocketAddr::V6(_) => SocketAddr::V6(v6?),
        };
        (is_host(remote) && remote.ip().is_loopback() == self.path.remote.ip().is_loopback())
            .then_some(remote)
            .filter(|remote| *remote != self.path.remote)
    }

    /// Asks whether the server is at the address that it prefers, unless that is under way.
    #[cold]
    #[inline(never)]
    pub(super) fn seek_preferred(&mut self, now: Instant) {
        if self.side == Side::Server || !self.confirmed {
            return;
        }
        let Some(remote) = self.preferred_remote() else { return };
        // RFC 9000 §9.6.3: from where the client is about to be.
        let others = self.others.iter().flat_map(|others| &others.paths);
        let wanted = others.rev().find(|other| other.wanted && other.path.remote != remote);
        let local = wanted.map_or(self.path.local, |other| other.path.local);
        let is_old = |other: &OtherPath| other.path.remote == remote && other.path.local != local;
        let old = self.others.as_mut().and_then(|others| others.take_first(is_old));
        self.forget(old);
        // The server needs an id of ours to answer with, and that may just have left: a probe timeout
        // is time enough for it. Where we need one, the server sends it, and this is called again.
        let from = now.plus_ns(self.pto_ns());
        let _ = self.begin_path(now, from, &Addresses { local, remote }, Migration::Validated);
    }

    /// A client has taken another path. RFC 9000 §9.6.3: to the address that its server prefers, if it is that
    /// one, and no other is wanted any more.
    pub(super) fn note_preferred_move(&mut self, before: SocketAddr) {
        if self.side == Side::Server || before == self.path.remote {
            return;
        }
        self.preferred = Some(Box::new(Preferred::Left(before)));
        self.stats.preferred_moves += 1;
        // RFC 9000 §18.2: what the server asked for holds for the address of the handshake.
        self.peer_allows_migration = true;
        while let Some(others) = &mut self.others
            && let Some(gone) = others.take_first(|other| other.path.remote == before)
        {
            self.forget(Some(gone));
        }
    }

    /// A path is given up that a client wanted: true if it led to the address that the server prefers.
    pub(super) fn gives_up_preferred(&mut self, gone: &OtherPath) -> bool {
        let preferred = gone.path.remote != self.path.remote;
        if preferred {
            self.preferred = None;
        }
        preferred
    }

    /// True if the server may have sent from this address before it noticed that its client has moved to
    /// the one that it prefers.
    pub(super) fn has_left(&self, remote: SocketAddr) -> bool {
        matches!(self.preferred.as_deref(), Some(Preferred::Left(left)) if *left == remote)
    }

    /// RFC 9000 §9.6.2: true if a server that has moved to the address that it prefers would leave it.
    pub(super) fn leaves_preferred(&self, local: SocketAddr) -> bool {
        let leaves = self.config.prefers(self.path.local) && !self.config.prefers(local);
        leaves && self.side == Side::Server
    }
}
