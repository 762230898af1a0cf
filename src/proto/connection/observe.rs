//! Tells the observer of a connection what happens; see [`observer`](crate::proto::observer).
//!
//! The callers test [`Connection::observed`] where packets go by, and call what stands here out of line.
//! What changes rarely (state, keys, path, recovery figures) is compared with what was told last, so
//! that no place that changes it can forget to tell.

use super::observing::{Known, Observing, told};
use super::space::{Arrival, SpaceId};
use super::{Connection, Event, State};
use crate::ecn::Ecn;
use crate::proto::congestion::{Congestion, Controller};
use crate::proto::observer::{
    self, CongestionEvent, DropReason, KeyChange, Observation, Observer, PacketDropped,
    PacketReceived, PacketSent, PathChange, Recovery, Start,
};
use crate::proto::packet_builder::Draft;
use crate::time::Instant;
use crate::wire::frame::Ack;
use crate::wire::packet::{KEY_PHASE, PacketType};
use crate::wire::{ConnectionId, VERSION_1};

impl Connection {
    /// Has `observer` hear what happens from now on; `None` ends that. See
    /// [`TransportConfig::observers`](super::TransportConfig::observers) for an observer from the
    /// beginning.
    pub fn set_observer(&mut self, now: Instant, observer: Option<Box<dyn Observer>>) {
        let known = self.known();
        self.observing = observer.map(|observer| Box::new(Observing { observer, now, known }));
        self.observed = self.observing.is_some();
    }

    /// Asks the settings for an observer of a connection that begins.
    pub(super) fn start_observing(&mut self, now: Instant, original_dcid: ConnectionId) {
        let Some(observers) = &self.config.observers else { return };
        let start = Start {
            side: self.side,
            remote: self.path.remote,
            version: VERSION_1,
            local_cid: self.first_local_cid(),
            remote_cid: *self.remote_cids.current(),
            original_dcid,
        };
        let observer = observers.observer(&start);
        self.set_observer(now, observer);
        self.tell(now, &Observation::Started(start));
        if self.observed && self.known().initial_keys {
            self.tell(now, &Observation::Keys(KeyChange::Installed(PacketType::Initial)));
        }
    }

    /// Tells the observer, if there is one.
    #[cold]
    pub(super) fn tell(&mut self, now: Instant, what: &Observation<'_>) {
        if let Some(o) = &mut self.observing {
            o.tell(now, what);
        }
    }

    /// A packet, which lies at the start of `datagram`, is about to be protected and sent. The draft
    /// is passed by value, so that it may stay in registers where nothing observes.
    #[cold]
    #[inline(never)]
    pub(super) fn tell_sent(
        &mut self,
        now: Instant,
        space: SpaceId,
        draft: Draft,
        datagram: &[u8],
    ) {
        self.tell_changes(now);
        let info = draft.info;
        let packet = PacketSent {
            kind: space.packet_type(),
            number: draft.number(),
            bytes: draft.len(),
            datagram: self.stats.tx_datagrams + 1,
            dcid: *self.remote_cids.current(),
            key_phase: self.key_phase(space),
            ecn: if info.ecn_capable { self.path.ecn.codepoint() } else { Ecn::NotEct },
            ack_eliciting: info.ack_eliciting,
            in_flight: info.in_flight,
            mtu_probe: info.mtu_probe,
            payload: draft.payload(datagram),
        };
        self.tell(now, &Observation::PacketSent(packet));
    }

    /// An authentic packet arrived; its header is unprotected.
    #[cold]
    #[inline(never)]
    pub(super) fn tell_received(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        packet: &[u8],
        payload: &[u8],
    ) {
        self.tell_changes(now);
        let mut key_phase = self.key_phase(arrival.space);
        let bit = packet.first().is_some_and(|first| first & KEY_PHASE != 0);
        // The bit is that of the count; a packet from before the last update has the other.
        if arrival.space == SpaceId::Data && bit != (key_phase % 2 == 1) {
            key_phase = key_phase.saturating_sub(1);
        }
        let packet = PacketReceived {
            kind: arrival.space.packet_type(),
            number: arrival.pn,
            bytes: packet.len(),
            datagram: self.stats.rx_datagrams,
            dcid: arrival.dcid,
            key_phase,
            ecn: arrival.ecn,
            payload,
        };
        self.tell(now, &Observation::PacketReceived(packet));
    }

    /// A packet, or what is left of a datagram, was dropped.
    #[cold]
    pub(super) fn tell_dropped(
        &mut self,
        now: Instant,
        kind: Option<PacketType>,
        bytes: usize,
        reason: DropReason,
    ) {
        let datagram = self.stats.rx_datagrams;
        let dropped = PacketDropped { kind, bytes, datagram, reason };
        self.tell(now, &Observation::PacketDropped(dropped));
    }

    /// What an authentic packet carries could not be kept.
    #[cold]
    pub(super) fn tell_refused(&mut self, now: Instant, arrival: &Arrival) {
        let kind = arrival.space.packet_type();
        self.tell(now, &Observation::PacketRefused { kind, number: arrival.pn });
    }

    /// Packets that an ACK frame is about to acknowledge for the first time, and losses that it
    /// shows to be none. Those of a frame that is refused are told as well: it ends the connection.
    #[cold]
    #[inline(never)]
    pub(super) fn tell_acknowledged(&mut self, now: Instant, space: SpaceId, ack: &Ack<'_>) {
        let Some(o) = &mut self.observing else { return };
        let sent = match space {
            SpaceId::Data => &self.data.sent,
            SpaceId::Initial | SpaceId::Handshake => {
                let Some(s) = self.handshake.as_mut().and_then(|h| h.space(space)) else { return };
                &s.sent
            }
        };
        for (lo, hi) in ack.ranges() {
            for p in sent.outstanding(lo, hi) {
                o.tell(now, &Observation::PacketAcknowledged(told(space, &p)));
            }
            if space == SpaceId::Data {
                for number in self.path.spurious.candidates(lo, hi) {
                    o.tell(now, &Observation::LossWasSpurious { number: *number });
                }
            }
        }
    }

    /// The controller was told of congestion.
    #[cold]
    pub(super) fn tell_congestion(&mut self, now: Instant, c: &Congestion, reduced: bool) {
        let Congestion { lost_bytes, persistent, ecn, .. } = *c;
        let event = CongestionEvent { lost_bytes, persistent, ecn, reduced };
        self.tell(now, &Observation::Congestion(event));
    }

    /// The application is about to be told something.
    #[cold]
    #[inline(never)]
    pub(super) fn tell_event(&mut self, event: &Event) {
        if let Some(o) = &mut self.observing {
            o.tell(o.now, &Observation::Event(event));
        }
    }

    /// What has changed of state, keys and path since it was told last.
    #[cold]
    #[inline(never)]
    pub(super) fn tell_changes(&mut self, now: Instant) {
        // A packet is being written for another path than the active one: nothing has changed.
        if !self.observed || self.path.id != self.data.sent.path() {
            return;
        }
        let new = self.known();
        let Some(o) = &mut self.observing else { return };
        let old = o.known;
        o.known = Known { recovery: old.recovery, ..new };
        let mut keys = |change| o.tell(now, &Observation::Keys(change));
        let levels = [
            (old.initial_keys, new.initial_keys, PacketType::Initial),
            (old.handshake_keys, new.handshake_keys, PacketType::Handshake),
            (old.phase.is_some(), new.phase.is_some(), PacketType::Short),
        ];
        for (had, has, kind) in levels {
            match (had, has) {
                (false, true) => keys(KeyChange::Installed(kind)),
                (true, false) => keys(KeyChange::Discarded(kind)),
                (true, true) | (false, false) => {}
            }
        }
        if let (Some(before), Some(phase)) = (old.phase, new.phase)
            && before < phase
        {
            // A peer may update again before the keys from before its last update have expired.
            if old.previous_keys {
                keys(KeyChange::PreviousDiscarded { phase: before.saturating_sub(1) });
            }
            let by_peer = self.keys.as_ref().is_some_and(|k| k.phase_is_received());
            keys(KeyChange::Updated { phase, by_peer });
        }
        if let Some(phase) = new.phase
            && old.previous_keys
            && !new.previous_keys
        {
            keys(KeyChange::PreviousDiscarded { phase: phase.saturating_sub(1) });
        }
        let mut path = |change| o.tell(now, &Observation::Path(change));
        if new.path != old.path {
            path(PathChange::Moved { local: self.path.local, remote: self.path.remote });
        }
        if new.validated && (!old.validated || new.path != old.path) {
            path(PathChange::Validated);
        }
        if new.mtu != old.mtu {
            path(PathChange::Mtu { bytes: new.mtu });
        }
        if new.ecn != old.ecn {
            path(PathChange::Ecn(new.ecn));
        }
        if new.state != old.state {
            o.tell(now, &Observation::State(new.state));
        }
    }

    /// As [`tell_changes`](Self::tell_changes), the figures of recovery included: after what may have
    /// changed more of them than the bytes in flight.
    #[cold]
    #[inline(never)]
    pub(super) fn tell_all_changes(&mut self, now: Instant) {
        self.tell_changes(now);
        let recovery = self.recovery_figures();
        let Some(o) = &mut self.observing else { return };
        if std::mem::replace(&mut o.known.recovery, recovery) != recovery {
            o.tell(now, &Observation::Recovery(recovery));
        }
    }

    fn key_phase(&self, space: SpaceId) -> u64 {
        match (space, &self.keys) {
            (SpaceId::Data, Some(keys)) => keys.updates,
            (SpaceId::Data, None) | (SpaceId::Initial | SpaceId::Handshake, _) => 0,
        }
    }

    fn known(&self) -> Known {
        let state = match self.state {
            State::Handshaking => observer::State::Handshaking,
            State::Established if self.confirmed => observer::State::Confirmed,
            State::Established => observer::State::Established,
            State::Closing => observer::State::Closing,
            State::Draining => observer::State::Draining,
            State::Drained => observer::State::Drained,
        };
        let handshake = self.handshake.as_ref();
        Known {
            state,
            path: self.path.id,
            validated: self.path.validation.is_validated(),
            mtu: self.path.mtu.current(),
            ecn: self.path.ecn.state(),
            initial_keys: handshake.is_some_and(|h| h.initial.keys.is_some()),
            handshake_keys: handshake.is_some_and(|h| h.handshake.keys.is_some()),
            phase: self.keys.as_ref().map(|k| k.updates),
            previous_keys: self.keys.as_ref().is_some_and(|k| k.expiry().is_some()),
            recovery: self.recovery_figures(),
        }
    }

    fn recovery_figures(&self) -> Recovery {
        let path = &self.path;
        Recovery {
            window_bytes: path.congestion.window(),
            ssthresh_bytes: path.congestion.ssthresh(),
            in_flight_bytes: path.bytes_in_flight,
            latest_rtt_ns: path.rtt.latest_ns(),
            smoothed_rtt_ns: path.rtt.smoothed_ns(),
            rtt_variance_ns: path.rtt.variance_ns(),
            min_rtt_ns: path.rtt.min_ns(),
            pacing_bytes_per_second: path.congestion.pacing_rate(),
            probe_count: self.pto_count,
        }
    }
}
