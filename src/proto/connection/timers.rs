//! What is due when (RFC 9002 §6.2, A.8, A.9; RFC 9000 §10.1).

use super::config::{after, nanos};
use super::error::CloseReason;
use super::space::{Handshake, SpaceId};
use super::{Application, Connection, State};
use crate::proto::sent::SentFrame;
use crate::time::Instant;
use crate::wire::Side;
use std::time::Duration;

/// Doublings of the probe timeout that are told apart.
const MAX_BACKOFF: u8 = 20;
/// Packets that one probe timeout may send (RFC 9002 §6.2.4).
pub(super) const PROBES: u8 = 2;
/// Bytes of a CRYPTO stream that fit into one such packet.
const PROBE_CRYPTO_BYTES: u64 = 1_000;
/// Acknowledgements that may be probes as well, between two probe timeouts, at any distance from
/// the last probe that a probe timeout without the back-off has. A peer that sends all the time
/// and acknowledges nothing gets few more: each is remembered until it is acknowledged.
const ACK_PROBES: u8 = 2;
/// Those that come after, in a time that the timer backs off to: of half a minute, one in 4 s.
const ACK_PROBES_LATER_BITS: u8 = 3;
/// Probe timeouts that follow an acknowledgement that is a probe, at a distance that begins anew:
/// it may be lost, or its answer may.
const FOLLOW_UPS: u8 = 2;

impl Connection {
    /// When [`handle_timeout`](Connection::handle_timeout) is due, if ever.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let d = &self.deadlines;
        let at = match self.state {
            State::Drained => return None,
            State::Closing | State::Draining => d.close,
            State::Established if self.paths_busy => self.next_timeout_of_paths(),
            State::Handshaking | State::Established => {
                let mut at = d.idle.min(d.handshake).min(d.keep_alive).min(d.pacing);
                let key_expiry = self.keys.as_ref().and_then(|k| k.expiry());
                let others = [
                    self.data.received.deadline,
                    self.loss_detection_timeout().map(|(at, _)| at),
                    key_expiry,
                    self.streams.has_resumed().then_some(Instant::EPOCH),
                ];
                for t in others.into_iter().flatten() {
                    at = at.min(t);
                }
                at
            }
        };
        (at != Instant::NEVER).then_some(at)
    }

    /// Does what is due at `now`; calling too early does nothing.
    pub fn handle_timeout(&mut self, now: Instant, app: &mut dyn Application) {
        match self.state {
            State::Drained => return,
            State::Closing | State::Draining => {
                if self.deadlines.close <= now {
                    self.state = State::Drained;
                    self.tell_changes(now);
                }
                return;
            }
            State::Handshaking | State::Established => {}
        }
        if self.deadlines.idle <= now {
            self.end_silently(now, CloseReason::IdleTimeout);
        } else if self.deadlines.handshake <= now {
            self.end_silently(now, CloseReason::HandshakeTimeout);
        } else {
            self.handle_soft_timeouts(now);
        }
        self.deliver(app);
        if self.observed {
            self.tell_all_changes(now);
        }
    }

    fn handle_soft_timeouts(&mut self, now: Instant) {
        if self.deadlines.pacing <= now {
            self.deadlines.pacing = Instant::NEVER;
        }
        if self.deadlines.keep_alive <= now {
            self.pending.ping = true;
            self.rearm_keep_alive(now);
        }
        if let Some(keys) = &mut self.keys {
            keys.expire(now);
        }
        if self.paths_busy {
            self.handle_path_timeouts(now);
        }
        if let Some((at, cause)) = self.loss_detection_timeout()
            && at <= now
        {
            match cause {
                Cause::Loss(space) => self.detect_losses(now, space),
                Cause::Probe(_) if self.is_silenced() => {}
                Cause::Probe(space) => self.on_probe_timeout(space),
            }
        }
    }

    /// As [`next_timeout`](Self::next_timeout), where paths have timers of their own.
    #[cold]
    #[inline(never)]
    fn next_timeout_of_paths(&self) -> Instant {
        let d = &self.deadlines;
        let silent = self.is_silenced();
        let detection = self.loss_detection_timeout();
        let detection = detection.filter(|(_, cause)| !silent || matches!(cause, Cause::Loss(_)));
        let others = [
            self.data.received.deadline.filter(|_| !silent),
            detection.map(|(at, _)| at),
            self.keys.as_ref().and_then(|k| k.expiry()),
            self.streams.has_resumed().then_some(Instant::EPOCH),
        ];
        let first = d.idle.min(d.keep_alive).min(d.pacing).min(self.path_deadline());
        others.into_iter().flatten().fold(first, Instant::min)
    }

    /// RFC 9002 §6.2.2.1: one that may not send is not woken for it.
    fn is_silenced(&self) -> bool {
        self.paths_busy && (!self.path.has_budget() || self.path.validation.is_blocked())
    }

    /// RFC 9002 §6.2.1: the base of the probe timeout, without the backoff.
    pub(super) fn pto_ns(&self) -> u64 {
        self.path.pto_ns(self.peer_max_ack_delay_ns)
    }

    /// Three probe timeouts, which several timers of RFC 9000 take, at most `max_ns`: the peer
    /// chooses the first sample of the round-trip time.
    pub(super) fn three_ptos_ns(&self, max_ns: u64) -> u64 {
        (3 * self.pto_ns()).min(max_ns)
    }

    pub(super) fn rearm_keep_alive(&mut self, now: Instant) {
        if self.keep_alive_ns != 0 && self.confirmed {
            self.deadlines.keep_alive = after(now, self.keep_alive_ns);
        }
    }

    /// Sends a PING after so much quiet time from now on; `None` sends none.
    pub fn set_keep_alive(&mut self, now: Instant, interval: Option<Duration>) {
        self.keep_alive_ns = interval.map_or(0, nanos);
        self.deadlines.keep_alive = Instant::NEVER;
        self.rearm_keep_alive(now);
    }

    /// RFC 9002 A.8: the earliest of the loss times, else of the probe timeouts.
    #[inline]
    fn loss_detection_timeout(&self) -> Option<(Instant, Cause)> {
        if let Some(h) = &self.handshake {
            return self.handshake_loss_timeout(h);
        }
        match self.data.sent.loss_time() {
            Some(at) => Some((at, Cause::Loss(SpaceId::Data))),
            None => self.data_probe_timeout().map(|at| (at, Cause::Probe(SpaceId::Data))),
        }
    }

    /// While there are three packet number spaces.
    #[cold]
    fn handshake_loss_timeout(&self, h: &Handshake) -> Option<(Instant, Cause)> {
        let losses = [
            (h.initial.sent.loss_time(), SpaceId::Initial),
            (h.handshake.sent.loss_time(), SpaceId::Handshake),
            (self.data.sent.loss_time(), SpaceId::Data),
        ];
        let earliest = losses.into_iter().filter_map(|(at, s)| Some((at?, s))).min_by_key(|x| x.0);
        if let Some((at, space)) = earliest {
            return Some((at, Cause::Loss(space)));
        }
        // RFC 9002 §6.2.2.1: a server that may not send is not woken for it.
        if self.path.validation.budget() == 0 {
            return None;
        }
        self.handshake_probe_timeout(h).map(|(at, space)| (at, Cause::Probe(space)))
    }

    /// RFC 9002 §6.2.1: not for 1-RTT packets before the handshake is confirmed.
    #[inline]
    fn data_probe_timeout(&self) -> Option<Instant> {
        if !self.confirmed || !self.data.sent.has_ack_eliciting() {
            return None;
        }
        let timeout_ns = self.backed_off(self.pto_ns());
        Some(self.data.sent.last_eliciting_sent_at().plus_ns(timeout_ns))
    }

    /// True if an acknowledgement that is about to leave is to be a probe as well: packets of ours
    /// are outstanding, and a probe would be due but for the back-off.
    #[cold]
    pub(super) fn ack_is_probe(&self, now: Instant) -> bool {
        let sent = &self.data.sent;
        let doublings = match self.ack_probes_left {
            0 => self.pto_count.min(MAX_BACKOFF).saturating_sub(ACK_PROBES_LATER_BITS),
            _ => 0,
        };
        let distance_ns = self.pto_ns().saturating_mul(1 << doublings);
        sent.has_ack_eliciting() && sent.last_eliciting_sent_at().plus_ns(distance_ns) <= now
    }

    /// The peer is heard again while probes of ours are unanswered, and its packet is about to be
    /// acknowledged. True if that asks as well.
    #[cold]
    pub(super) fn hears_again(&mut self, now: Instant) -> bool {
        if self.ack_is_probe(now) {
            return true;
        }
        // The last probe left a moment ago, and its answer may be lost, as others were. The next one
        // does not wait for the back-off: 28 s, where the peer was there after 70 ms.
        if self.follow_ups == 0 && self.ack_probes_left > 0 && self.data.sent.has_ack_eliciting() {
            self.ack_probes_left -= 1;
            self.follow_ups = FOLLOW_UPS;
        }
        false
    }

    /// A client keeps a datagram that it has no keys for yet, and its probes are unanswered: what the server
    /// sent before was lost, and the server may be unable to send more before it hears from us. RFC 9002
    /// §6.2.3 lets a client probe sooner then: the next probe timeouts, `FOLLOW_UPS` of them, come
    /// without the back-off. What is kept is not authentic yet. So a forger gains as many probe timeouts for each
    /// datagram that can wait: `EARLY_MAX` until there are Handshake keys, and as
    /// many again until there are 1-RTT keys.
    #[cold]
    pub(super) fn hears_early(&mut self) {
        if self.side == Side::Client && self.pto_count > 0 && self.follow_ups == 0 {
            self.follow_ups = FOLLOW_UPS;
        }
    }

    /// An acknowledgement that is a probe as well is about to leave.
    #[cold]
    pub(super) fn note_ack_probe(&mut self) {
        self.ack_probes_left = self.ack_probes_left.saturating_sub(1);
        self.follow_ups = FOLLOW_UPS;
        self.stats.ack_probes += 1;
    }

    /// A probe timeout with the back-off.
    #[inline]
    const fn backed_off(&self, pto_ns: u64) -> u64 {
        if self.pto_count == 0 { pto_ns } else { pto_ns.saturating_mul(self.backoff()) }
    }

    #[cold]
    const fn backoff(&self) -> u64 {
        1 << match self.follow_ups {
            0 if self.pto_count < MAX_BACKOFF => self.pto_count,
            0 => MAX_BACKOFF,
            left => FOLLOW_UPS - left,
        }
    }

    /// RFC 9002 §6.2.2.1: true for a client whose server may be unable to send until it hears from the client:
    /// until it has validated the client's address, and also later, where the client's NAT has forgotten it
    /// and the server does not know the new address.
    pub(super) fn is_unsure(&self, h: &Handshake) -> bool {
        self.side == Side::Client && (!h.peer_validated_us || self.state == State::Handshaking)
    }

    fn handshake_probe_timeout(&self, h: &Handshake) -> Option<(Instant, SpaceId)> {
        let short = self.backed_off(self.path.rtt.pto_base_ns(0));
        let mut earliest: Option<(Instant, SpaceId)> = None;
        let mut offer = |at: Instant, space| {
            if earliest.is_none_or(|(t, _)| at < t) {
                earliest = Some((at, space));
            }
        };
        for (s, id) in [(&h.initial, SpaceId::Initial), (&h.handshake, SpaceId::Handshake)] {
            // A lost flight that waits behind a window full of 1-RTT packets is due as well:
            // those are acknowledged only once it has arrived, and nothing else would ever
            // let it into the window (RFC 9002 §7.5 lets probes pass).
            let held_back = s.crypto_send.has_pending() && s.sent.next_pn() > 0;
            if s.sent.has_ack_eliciting() || held_back {
                offer(s.sent.last_eliciting_sent_at().plus_ns(short), id);
            }
        }
        let nothing = !h.initial.sent.has_ack_eliciting() && !h.handshake.sent.has_ack_eliciting();
        if nothing && self.is_unsure(h) {
            let last = h.initial.sent.last_eliciting_sent_at();
            let base = last.max(h.handshake.sent.last_eliciting_sent_at());
            let space =
                if h.handshake.keys.is_some() { SpaceId::Handshake } else { SpaceId::Initial };
            offer(base.plus_ns(short), space);
        }
        if let Some(at) = self.data_probe_timeout() {
            offer(at, SpaceId::Data);
        }
        earliest
    }

    /// RFC 9002 §6.2.4: sends what is likely to elicit an acknowledgement, beyond the window.
    fn on_probe_timeout(&mut self, space: SpaceId) {
        self.stats.ptos += 1;
        if self.pto_count > 0 && self.follow_ups > 0 {
            self.follow_ups -= 1;
        } else {
            self.pto_count = self.pto_count.saturating_add(1).min(MAX_BACKOFF);
            self.follow_ups = 0;
            self.ack_probes_left = if space == SpaceId::Data { ACK_PROBES } else { 0 };
        }
        if space == SpaceId::Data {
            self.data.probes = PROBES;
            self.repeat_oldest_data();
            return;
        }
        // RFC 9002 §6.2.4: the server may have done with the handshake, and with its keys.
        self.data.probes = u8::from(self.state == State::Established);
        let Some(h) = &mut self.handshake else { return };
        // Both handshake spaces probe at once: the flight often has packets in each.
        for id in [SpaceId::Initial, SpaceId::Handshake] {
            let Some(s) = h.space(id) else { continue };
            if s.keys.is_none() || (id != space && !s.sent.has_ack_eliciting()) {
                continue;
            }
            s.probes = if id == space { PROBES } else { 1 };
            if s.sent.has_ack_eliciting() {
                s.crypto_send.repeat_some(u64::from(s.probes) * PROBE_CRYPTO_BYTES);
            }
        }
    }

    /// Lets the owners of the oldest outstanding frames send them once more, while the packet
    /// itself stays outstanding: its acknowledgement would still tell something.
    fn repeat_oldest_data(&mut self) {
        let Some(frames) = self.data.sent.oldest_eliciting_frames() else { return };
        for frame in frames {
            match frame {
                SentFrame::HandshakeDone => self.pending.handshake_done = true,
                SentFrame::NewToken => self.pending.new_token = true,
                SentFrame::NewConnectionId { sequence } => {
                    self.local_cids.announcement_lost(sequence);
                }
                SentFrame::Crypto { offset, len } => {
                    if let Some(t) = &mut self.tickets {
                        t.on_lost(offset, len);
                    }
                }
                // A retirement sent twice would be counted twice: the PING stands for it.
                SentFrame::RetireConnectionId { .. } | SentFrame::Ack { .. } | SentFrame::Ping => {}
                SentFrame::Streams(frame) => self.streams.on_lost(&frame),
            }
        }
    }
}

/// Why the loss detection timer is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Loss(SpaceId),
    Probe(SpaceId),
}
