//! What a connection has told its observer; see [`observer`](crate::proto::observer).

use super::space::SpaceId;
use crate::proto::observer::{self, EcnState, LossTrigger, Observation, Observer, Recovery};
use crate::proto::path::PathId;
use crate::proto::recovery::Resolved;
use crate::time::Instant;

/// The observer of a connection, and what it was told last.
pub(super) struct Observing {
    pub(super) observer: Box<dyn Observer>,
    /// The time of what was told last: that of things that are told without a time.
    pub(super) now: Instant,
    pub(super) known: Known,
}

/// What is told when it has changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) state: observer::State,
    pub(super) path: PathId,
    pub(super) validated: bool,
    pub(super) mtu: u16,
    pub(super) ecn: EcnState,
    pub(super) initial_keys: bool,
    pub(super) handshake_keys: bool,
    /// The count of updates of the 1-RTT keys, once there are any.
    pub(super) phase: Option<u64>,
    pub(super) previous_keys: bool,
    pub(super) recovery: Recovery,
}

impl Observing {
    pub(super) fn tell(&mut self, now: Instant, what: &Observation<'_>) {
        self.now = now;
        self.observer.observe(now, what);
    }

    /// A packet of ours was declared lost, by a pass with this loss delay.
    #[cold]
    pub(super) fn tell_lost(&mut self, now: Instant, space: SpaceId, p: &Resolved, delay_ns: u64) {
        let old = p.sent_at.plus_ns(delay_ns) <= now;
        let trigger = match old {
            true => LossTrigger::TimeThreshold,
            false => LossTrigger::ReorderingThreshold,
        };
        self.tell(now, &Observation::PacketLost(told(space, p), trigger));
    }
}

/// A packet, as the observer hears of it.
pub(super) fn told(space: SpaceId, p: &Resolved) -> observer::Resolved {
    observer::Resolved {
        kind: space.packet_type(),
        number: p.pn,
        bytes: p.info.bytes,
        sent_at: p.sent_at,
        mtu_probe: p.info.mtu_probe,
    }
}
