//! Connection ids that change while the path stays (RFC 9000 §9.5).
//!
//! # After silence
//!
//! A connection that was idle may go on from another address, of its NAT or of its own. Who watches
//! both networks would know it by its connection id, and so it takes another one: when it has sent
//! nothing but acknowledgements for [`cid_rotation`](super::TransportConfig::cid_rotation), and the peer
//! has given an id that no path has had. The old one is retired in the same packet, unless that closes the
//! connection. Nothing is measured
//! for each packet: [`Connection::shrink`] says that the connection is idle, and the next packet looks how
//! long it was.
//!
//! # The peer changes its id
//!
//! RFC 9000 lets an endpoint change the id at any time, and asks nothing of its peer: only ids in both
//! directions that are new make two flows look like strangers. So we follow, as MsQuic does: where the
//! peer retires the id that it wrote to, we take another of its ids as well. Two that follow each other
//! must come to an end: each side counts the changes of both, and follows while the peer has made more.
//! So no answer raises the larger of the two counts. A flag "the peer's next change is an answer" was
//! tried first: where two changes of ours were under way, one of the answers was answered, and ids
//! changed once in a round trip for ever.
//!
//! The price: while we have made more changes than the peer, its changes are taken for answers, and are not
//! followed. A peer that does not answer ours, as RFC 9000 allows, is followed again once it has made as many as
//! we have. Until then its flow and ours can be told to belong together, unless we change by ourselves.
//!
//! That the peer writes to another id is seen by RETIRE_CONNECTION_ID. A comparison for each packet
//! would tell sooner, and says the same: peers retire an id once they have left it.

use super::config::nanos;
use super::error::TransportError;
use super::space::Arrival;
use super::{CidChanges, Connection, State};
use crate::time::Instant;
use crate::wire::ConnectionId;

impl Connection {
    /// The connection is idle: the next 1-RTT packet looks for how long.
    pub(super) fn rest(&mut self) {
        if self.rested.is_none() && self.confirmed && self.config.cid_rotation.is_some() {
            self.rested = Some(self.skip_at);
            // That packet asks whether its number is to be skipped: no other is asked anything more.
            self.skip_at = 0;
        }
    }

    /// A 1-RTT packet is about to be written, the first after [`rest`](Self::rest).
    #[cold]
    #[inline(never)]
    pub(super) fn wake(&mut self, now: Instant) {
        let Some(skip_at) = self.rested.take() else { return };
        self.skip_at = skip_at;
        let interval_ns = self.config.cid_rotation.map_or(0, nanos);
        let busy_at = self.data.sent.last_eliciting_sent_at().max(self.cid_since);
        if interval_ns > 0 && now.ns_since(busy_at) >= interval_ns {
            self.cid_changes.ours += u32::from(self.rotate_cid(now));
        }
    }

    /// Packets of the active path carry another id of the peer's from now on. False if it has given none
    /// that no path has had.
    pub(super) fn rotate_cid(&mut self, now: Instant) -> bool {
        // A peer without ids has nothing to rotate.
        if self.remote_cids.current().is_empty() || self.state != State::Established {
            return false;
        }
        let before = self.remote_cids.current_sequence();
        let Some(next) = self.remote_cids.take_unused() else { return false };
        self.remote_cids.switch_to(next);
        self.release_cid(before);
        self.cid_since = now;
        self.stats.cid_rotations += 1;
        true
    }

    /// An id of the peer's is not written any more, unless on a path besides the active one.
    pub(super) fn release_cid(&mut self, sequence: u64) {
        let others = self.others.iter().flat_map(|others| &others.paths);
        if others.into_iter().all(|other| other.remote_cid != sequence) {
            self.remote_cids.release(sequence);
        }
    }

    /// The active path carries another id of the peer's, and it was not the peer that began.
    pub(super) fn note_cid_change(&mut self, now: Instant) {
        self.cid_changes.ours += 1;
        self.cid_since = now;
    }

    /// NEW_CONNECTION_ID arrived.
    #[cold]
    #[inline(never)]
    pub(super) fn on_new_connection_id(
        &mut self,
        now: Instant,
        (sequence, retire_prior_to): (u64, u64),
        cid: ConnectionId,
        reset_token: [u8; 16],
    ) -> Result<(), TransportError> {
        let before = self.remote_cids.current_sequence();
        self.remote_cids.add(sequence, retire_prior_to, cid, reset_token)?;
        if self.remote_cids.current_sequence() != before {
            self.note_cid_change(now);
        }
        self.renew_path_ids();
        self.seek_preferred(now);
        Ok(())
    }

    /// RETIRE_CONNECTION_ID arrived.
    #[cold]
    #[inline(never)]
    pub(super) fn on_retire_connection_id(
        &mut self,
        now: Instant,
        sequence: u64,
        arrival: &Arrival,
    ) -> Result<(), TransportError> {
        self.local_cids.retire(sequence, &arrival.dcid)?;
        if self.peer_uses != Some(sequence) || arrival.path != Some(self.path.id) {
            return Ok(());
        }
        self.peer_uses = self.local_cids.sequence_of(&arrival.dcid);
        let CidChanges { ours, theirs } = &mut self.cid_changes;
        *theirs += 1;
        if *theirs > *ours {
            *ours = *theirs;
            self.rotate_cid(now);
        }
        Ok(())
    }
}
