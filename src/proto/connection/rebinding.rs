//! A client whose NAT forgets it during the handshake.
//!
//! RFC 9000 §9 forbids a client to move before the handshake is confirmed. Its NAT knows nothing of that, and
//! the RFC says nothing of what a server does then. quinn, quiche, s2n-quic and picoquic read such packets
//! as if they had come on the path, and answer to the address before: if the NAT has forgotten that one and
//! the server has still something to say, the handshake ends by its timeout. So we answer where the
//! client was heard last, as an address that is not validated allows it:
//!
//! - An Initial from elsewhere with the id that its client chose is the first of another connection, since
//!   the table of handshakes knows addresses. Its client takes the server that answers first.
//! - A packet with an id of ours reaches its connection. If it is authentic, answers go to where it came
//!   from, at most three times what came from there (§8.1). Of Handshake packets the newest decides. Who
//!   has seen the first Initial can forge Initials, and so have the answers for as long as the client
//!   has sent no Handshake packet; it could as well end the handshake by a CONNECTION_CLOSE (§21.2).
//! - The address where the handshake began keeps what is known of it. A Handshake packet proves that the
//!   client got keys, and so it validates that address (§8.1), and none that came later.
//! - When the handshake is done, the client has moved as any other: both addresses are asked with
//!   PATH_CHALLENGE, and the first is returned to if nobody answers from the second (see `paths.rs`).
//!
//! A server that is done has no keys for what its client repeats of the handshake. So a client's probes
//! carry a 1-RTT packet as soon as there can be one (RFC 9002 §6.2.4), and that one is followed.
//!
//! Until there is a next packet of the client's, nothing tells the server. So a client's timer runs until its
//! handshake is complete, and not only until the server has validated the address that it had then:
//! the server may be at its limit at the new one, and what it sent last may be lost.

use super::other_paths::OtherPath;
use super::space::Home;
use super::{Application, Connection};
use crate::ecn::Ecn;
use crate::proto::path::{Addresses, PathId, Validation};
use crate::time::Instant;

impl Connection {
    /// A datagram for a server's handshake came from elsewhere. Returns the path, if answers go there from now
    /// on.
    #[cold]
    #[inline(never)]
    pub(super) fn receive_rebound(
        &mut self,
        now: Instant,
        at: &Addresses,
        ecn: Ecn,
        datagram: &mut [u8],
        app: &mut dyn Application,
    ) -> Option<PathId> {
        let home = self.handshake.as_ref().and_then(|h| h.home);
        let before = (self.path.addresses(), self.path.validation, home);
        let (packets, newest) = (self.stats.rx_packets, self.newest_handshake_packet());
        self.appear_at(at);
        self.receive_coalesced(now, ecn, datagram, app);
        let mut leads = self.stats.rx_packets != packets;
        if let Some(h) = &mut self.handshake {
            let largest = h.handshake.received.largest;
            leads &= largest.is_none() || largest != newest;
            if leads {
                self.stats.handshake_moves += 1;
            } else {
                let (addresses, validation, home) = before;
                (self.path.local, self.path.remote) = (addresses.local, addresses.remote);
                self.path.validation = validation;
                h.home = home;
            }
        }
        leads.then_some(self.path.id)
    }

    fn newest_handshake_packet(&self) -> Option<u64> {
        self.handshake.as_ref().and_then(|h| h.handshake.received.largest)
    }

    /// The peer is at another address, as far as a handshake can know.
    fn appear_at(&mut self, at: &Addresses) {
        let Some(h) = &mut self.handshake else { return };
        let here = Home { addresses: self.path.addresses(), validation: self.path.validation };
        let there = match h.home.take() {
            Some(home) if home.addresses == *at => home,
            home => {
                h.home = home.or(Some(here));
                Home { addresses: *at, validation: Validation::new(false) }
            }
        };
        self.path.remote = there.addresses.remote;
        self.path.validation = there.validation;
    }

    /// A Handshake packet of the client's was authentic (RFC 9000 §8.1).
    pub(super) fn validate_by_handshake(&mut self) {
        match self.handshake.as_mut().and_then(|h| h.home.as_mut()) {
            Some(home) => home.validation.validate(),
            None => self.path.validation.validate(),
        }
    }

    /// The handshake is done, and its client is not where it began: it has moved.
    #[cold]
    pub(super) fn leave_home(&mut self, now: Instant, home: Home) {
        let (at, validation) = (self.path.addresses(), self.path.validation);
        self.path.remote = home.addresses.remote;
        self.path.validation = home.validation;
        let remote_cid = self.remote_cids.current_sequence();
        let mut other = self.new_path(now, &at, false, remote_cid);
        other.path.validation = validation;
        let id = self.add_path(OtherPath { peer_uses: self.peer_uses, ..other });
        self.activate(now, id);
    }
}
