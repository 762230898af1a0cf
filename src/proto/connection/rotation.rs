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
//! must come to an end. So an id of ours that is younger than [`YOUNG_NS`] stays: the peer's change is most
//! likely the answer to ours, and both directions have new ids already.
//!
//! Two rules were tried before. A flag "the peer's next change is an answer" failed where two changes of ours
//! were under way. A count of the changes of both sides failed where one side did not count what the other saw,
//! as a change that came with another path. Both times ids changed once in a round trip for ever.
//! An age needs no agreement, and bounds what a peer that changes its id all the time can make us do.
//!
//! That the peer writes to another id is seen by RETIRE_CONNECTION_ID. A comparison for each packet
//! would tell sooner, and says the same: peers retire an id once they have left it.

use super::config::nanos;
use super::error::TransportError;
use super::space::Arrival;
use super::{Connection, State};
use crate::time::Instant;
use crate::wire::ConnectionId;

/// An id of ours does not follow a change of the peer's as long as it is younger than this, or than
/// [`YOUNG_PTOS`] probe timeouts. The answer to a change comes within a round trip; but who changed its id with its
/// path retires the old one when the old path is given up, after three probe timeouts of one that was never measured
/// (RFC 9000 §8.2.4), which are three seconds.
const YOUNG_NS: u64 = 5_000_000_000;

/// See [`YOUNG_NS`]: where round trips are long.
const YOUNG_PTOS: u64 = 5;

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
            self.rotate_cid(now);
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
            self.cid_since = now;
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
        let pto_ns = self.path.pto_ns(self.peer_max_ack_delay_ns);
        if now.ns_since(self.cid_since) >= YOUNG_NS.max(YOUNG_PTOS * pto_ns) {
            self.rotate_cid(now);
        }
        Ok(())
    }
}
