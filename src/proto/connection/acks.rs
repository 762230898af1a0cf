//! Acknowledgements: ours for what arrived, the peer's for what we sent, and the losses that
//! follow from them (RFC 9000 §13, RFC 9002 §5, §6, A.7).

use super::error::TransportError;
use super::other_paths::OtherPaths;
use super::space::{AckPolicy, Arrival, SpaceId};
use super::{Connection, Event, State};
use crate::proto::congestion::{Congestion, Controller};
use crate::proto::ecn::EcnVerdict;
use crate::proto::observer::Observation;
use crate::proto::recovery::{Losses, NeverSent, PACKET_THRESHOLD, Resolved};
use crate::proto::sent::SentFrame;
use crate::time::{Instant, MICROSECOND_NS};
use crate::wire::frame::{Ack, EcnCounts};

/// What reading the frames of a packet came to.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) ack_eliciting: bool,
    /// Something could not be kept: the peer has to send it again.
    pub(super) refused: bool,
}

/// What one ACK frame newly acknowledged.
#[derive(Default)]
struct NewlyAcked {
    /// Packets that took the active path.
    packets: u64,
    /// Bytes of these that were in flight.
    bytes: u64,
    /// Packets that took other paths than the active one.
    elsewhere: u64,
    ack_eliciting: bool,
    /// Packets that had left with an ECT codepoint.
    marked: u64,
    /// When the largest of the frame was sent, if it is among them.
    largest_sent_at: Option<Instant>,
    /// Packets that left in the same instant are told to the controller at once.
    batch_sent_at: Instant,
    batch_bytes: u64,
}

impl NewlyAcked {
    /// Notes a packet of the active path; returns a batch that is complete: when it was sent, and
    /// its bytes.
    #[inline]
    fn note(&mut self, p: &Resolved, largest: u64) -> Option<(Instant, u64)> {
        self.packets += 1;
        self.ack_eliciting |= p.info.ack_eliciting;
        self.marked += u64::from(p.info.ecn_capable);
        if p.pn == largest {
            self.largest_sent_at = Some(p.sent_at);
        }
        if !p.info.in_flight {
            return None;
        }
        let done = (self.batch_bytes > 0 && self.batch_sent_at != p.sent_at)
            .then_some((self.batch_sent_at, self.batch_bytes));
        if done.is_some() {
            self.batch_bytes = 0;
        }
        self.batch_sent_at = p.sent_at;
        self.batch_bytes += u64::from(p.info.bytes);
        self.bytes += u64::from(p.info.bytes);
        done
    }
}

/// RFC 9000 §19.3: the delay that an ACK frame tells; a delay beyond all numbers is the largest.
pub(super) fn told_delay_ns(delay_raw: u64, exponent: u8) -> u64 {
    let unit_ns = MICROSECOND_NS.checked_shl(u32::from(exponent)).unwrap_or(u64::MAX);
    delay_raw.saturating_mul(unit_ns)
}

impl From<NeverSent> for TransportError {
    fn from(_: NeverSent) -> Self {
        Self::protocol_violation("acknowledges a packet that was never sent")
    }
}

impl Connection {
    /// Notes a packet whose frames were read.
    #[inline]
    pub(super) fn note_arrival(&mut self, now: Instant, arrival: &Arrival, outcome: Outcome) {
        if outcome.refused {
            return self.tell_refused(now, arrival);
        }
        let eliciting = outcome.ack_eliciting;
        if arrival.space == SpaceId::Data {
            let policy = AckPolicy {
                delay_ns: self.config.max_ack_delay_ns(),
                threshold: self.config.ack_threshold,
            };
            self.data.received.note(now, arrival.pn, eliciting, arrival.ecn, policy);
            return;
        }
        let Some(h) = &mut self.handshake else { return };
        let Some(s) = h.space(arrival.space) else { return };
        if s.keys.is_some() {
            // RFC 9000 §13.2.1: Initial and Handshake packets are acknowledged at once.
            let policy = AckPolicy { delay_ns: 0, threshold: 1 };
            s.received.note(now, arrival.pn, eliciting, arrival.ecn, policy);
        }
    }

    /// ACK arrived.
    pub(super) fn on_ack(
        &mut self,
        now: Instant,
        space: SpaceId,
        ack: &Ack<'_>,
    ) -> Result<(), TransportError> {
        if self.observed {
            self.tell_acknowledged(now, space, ack);
        }
        let acked = match space {
            SpaceId::Data => self.apply_data_ack(now, ack)?,
            SpaceId::Initial | SpaceId::Handshake => self.apply_handshake_ack(now, space, ack)?,
        };
        if space == SpaceId::Handshake
            && let Some(h) = &mut self.handshake
        {
            h.peer_validated_us = true;
        }
        if acked.packets == 0 {
            if acked.elsewhere > 0 {
                self.read_ack_of_other_paths(now, ack);
            }
            return Ok(());
        }
        if acked.batch_bytes > 0 {
            self.path.congestion.on_acked(
                now,
                acked.batch_sent_at,
                acked.batch_bytes,
                self.streams.app_limited,
                &self.path.rtt,
            );
        }
        if let Some(sent_at) = acked.largest_sent_at
            && acked.ack_eliciting
        {
            self.sample_rtt(now, space, sent_at, ack.delay_raw, acked.packets);
        }
        if space == SpaceId::Data {
            self.read_ecn_report(now, ack.ecn, acked.marked, acked.largest_sent_at);
        }
        // RFC 9002 §6.2.1: a new acknowledgement ends the back-off, but not for a client whose server may
        // be unable to send: one that acknowledges each probe and sends nothing else would be asked in
        // each round trip. Where the handshake goes on, CRYPTO ends it.
        if self.handshake.as_ref().is_none_or(|h| !self.is_unsure(h)) {
            self.pto_count = 0;
        }
        self.detect_losses(now, space);
        self.path.on_ack_end(now, self.data.sent.oldest_sent_at());
        if self.network_watched && acked.bytes > 0 {
            self.watch_network(now, acked.bytes);
        }
        Ok(())
    }

    /// An ACK frame newly acknowledged so many bytes.
    #[cold]
    #[inline(never)]
    pub(super) fn watch_network(&mut self, now: Instant, acked: u64) {
        let (State::Established, Some(watch)) = (self.state, &mut self.network) else { return };
        let mut changed = watch.note(acked, self.path.bytes_in_flight + acked);
        if now >= watch.due {
            changed |= watch.report(now, self.path.rtt.smoothed_ns());
            self.events.push_back(Event::NetworkStatistics);
        }
        if changed {
            self.events.push_back(Event::IdealSendBuffer { bytes: watch.ideal });
        }
    }

    /// An ACK frame newly acknowledged packets, and none of the active path's. It says nothing of that one
    /// (RFC 9000 §9.4), and leaves its back-off as it is; but what it does not acknowledge may be lost.
    #[cold]
    #[inline(never)]
    fn read_ack_of_other_paths(&mut self, now: Instant, ack: &Ack<'_>) {
        self.read_ecn_report(now, ack.ecn, 0, None);
        self.detect_losses(now, SpaceId::Data);
        self.path.on_ack_end(now, self.data.sent.oldest_sent_at());
    }

    fn apply_data_ack(
        &mut self,
        now: Instant,
        ack: &Ack<'_>,
    ) -> Result<NewlyAcked, TransportError> {
        let mut acked = NewlyAcked::default();
        let Self { data, streams, path, others, remote_cids, .. } = self;
        data.sent.check_acked(ack.largest)?;
        data.sent.note_largest_acked(ack.largest);
        let received = &mut data.received;
        let tickets = &mut self.tickets;
        let app_limited = streams.app_limited;
        let mut new_mtu = None;
        for (lo, hi) in ack.ranges() {
            if hi < data.sent.first_pn() {
                break;
            }
            data.sent.acknowledge(lo, hi, |p, frames| {
                if p.info.path == path.id {
                    path.on_resolved(&p);
                    if p.info.mtu_probe {
                        new_mtu = path.mtu.on_probe_acked(now, p.info.bytes).or(new_mtu);
                    } else {
                        path.mtu.on_packet_acked(p.pn, p.info.bytes);
                    }
                    if let Some((sent_at, bytes)) = acked.note(&p, ack.largest) {
                        path.congestion.on_acked(now, sent_at, bytes, app_limited, &path.rtt);
                    }
                } else {
                    // RFC 9000 §9.4: it says nothing of the active path.
                    acked.elsewhere += 1;
                    resolve_elsewhere(others, &p);
                }
                for frame in frames {
                    match frame {
                        SentFrame::Ack { largest } => received.ack_acknowledged(largest),
                        SentFrame::RetireConnectionId { sequence } => {
                            remote_cids.retirement_acknowledged(sequence)
                        }
                        SentFrame::Crypto { offset, len } => {
                            if tickets.as_mut().is_some_and(|t| t.on_acked(offset, len)) {
                                *tickets = None;
                            }
                        }
                        SentFrame::Streams(frame) => streams.on_acked(&frame),
                        // Their arrival changes nothing here.
                        SentFrame::NewConnectionId { .. }
                        | SentFrame::NewToken
                        | SentFrame::HandshakeDone
                        | SentFrame::Ping => {}
                    }
                }
            })?;
        }
        data.sent.trim();
        if let Some(mtu) = new_mtu {
            self.path.set_mtu(mtu);
        }
        self.read_late_arrivals(now, ack)?;
        if let Some(keys) = &mut self.keys {
            keys.acknowledged(ack.largest);
        }
        Ok(acked)
    }

    /// Packets that were declared lost and arrived after all: the congestion event that they caused
    /// is taken back.
    #[inline]
    fn read_late_arrivals(&mut self, now: Instant, ack: &Ack<'_>) -> Result<(), NeverSent> {
        let Some(oldest) = self.path.spurious.oldest(now) else { return Ok(()) };
        for (lo, hi) in ack.ranges() {
            if hi < oldest {
                break;
            }
            if self.path.spurious.on_range(lo, hi, ack.largest)? {
                self.stats.spurious_congestion_events += 1;
                self.path.congestion.on_spurious();
                if let Some(o) = &mut self.observing {
                    o.tell(now, &Observation::CongestionWasSpurious);
                }
            }
        }
        Ok(())
    }

    fn apply_handshake_ack(
        &mut self,
        now: Instant,
        space: SpaceId,
        ack: &Ack<'_>,
    ) -> Result<NewlyAcked, TransportError> {
        let mut acked = NewlyAcked::default();
        let Self { path, streams, .. } = self;
        let app_limited = streams.app_limited;
        let Some(s) = self.handshake.as_mut().and_then(|h| h.space(space)) else {
            return Ok(acked);
        };
        s.sent.check_acked(ack.largest)?;
        s.sent.note_largest_acked(ack.largest);
        let (received, crypto) = (&mut s.received, &mut s.crypto_send);
        for (lo, hi) in ack.ranges() {
            s.sent.acknowledge(lo, hi, |p, frames| {
                path.on_resolved(&p);
                if let Some((sent_at, bytes)) = acked.note(&p, ack.largest) {
                    path.congestion.on_acked(now, sent_at, bytes, app_limited, &path.rtt);
                }
                for frame in frames {
                    match frame {
                        SentFrame::Ack { largest } => received.ack_acknowledged(largest),
                        SentFrame::Crypto { offset, len } => {
                            crypto.on_acked(offset, len);
                        }
                        // RFC 9000 §12.4: of these PING alone is in such packets.
                        SentFrame::Ping
                        | SentFrame::Streams(_)
                        | SentFrame::NewConnectionId { .. }
                        | SentFrame::RetireConnectionId { .. }
                        | SentFrame::NewToken
                        | SentFrame::HandshakeDone => {}
                    }
                }
            })?;
        }
        s.sent.trim();
        Ok(acked)
    }

    /// RFC 9002 §5: the round trip of a packet that left at `sent_at`, by an ACK frame that
    /// newly acknowledges so many `packets`.
    ///
    /// A frame may say that it was held back for more than a probe timeout beyond what may be
    /// subtracted. It repeats one that was lost: nothing newer arrived since. It is no sample, or
    /// the time until the peer's probe would count as a round trip: 25 s of it made the next probe
    /// timeout 76 s, since no more than max_ack_delay may be subtracted (§5.3), and nothing from
    /// Initial packets. A shorter delay comes from a peer whose timers run late. It is a part of
    /// the round trip, or each acknowledgement of that peer would come after a probe.
    fn sample_rtt(
        &mut self,
        now: Instant,
        space: SpaceId,
        sent_at: Instant,
        delay_raw: u64,
        packets: u64,
    ) {
        let told_ns = told_delay_ns(delay_raw, self.peer_ack_delay_exponent);
        // Computing a probe timeout takes longer than this comparison.
        if told_ns > self.peer_max_ack_delay_ns {
            let borne_ns = if space == SpaceId::Data { self.peer_max_ack_delay_ns } else { 0 };
            if told_ns - borne_ns > self.pto_ns() {
                self.stats.repeated_acks += 1;
                return;
            }
        }
        let delay_ns = match space {
            // RFC 9002 §5.3: no delay is believed before the keys that authenticate its limit.
            SpaceId::Initial | SpaceId::Handshake => 0,
            SpaceId::Data if self.confirmed => told_ns.min(self.peer_max_ack_delay_ns),
            SpaceId::Data => told_ns,
        };
        self.path.rtt.update(now.ns_since(sent_at), delay_ns, now);
        let max_delay_ns = self.peer_max_ack_delay_ns;
        self.path.patience.on_ack(packets, delay_ns, max_delay_ns, self.path.rtt.smoothed_ns());
    }

    fn read_ecn_report(
        &mut self,
        now: Instant,
        counts: Option<EcnCounts>,
        marked: u64,
        largest_sent_at: Option<Instant>,
    ) {
        if self.path.ecn.on_report(counts, marked) == EcnVerdict::Congestion
            && let Some(sent_at) = largest_sent_at
        {
            let event =
                Congestion { sent_time: sent_at, lost_bytes: 0, persistent: false, ecn: true };
            let reduced = self.path.congestion.on_congestion(now, &event, &self.path.rtt);
            self.stats.congestion_events += u64::from(reduced);
            self.tell_congestion(now, &event, reduced);
            self.path.spurious.convict();
        }
    }

    /// RFC 9002 §6.1, A.10.
    pub(super) fn detect_losses(&mut self, now: Instant, space: SpaceId) {
        let delay = self.path.rtt.loss_delay_ns();
        let first_sample = self.path.rtt.first_sample();
        let losses = match space {
            SpaceId::Data => self.detect_data_losses(now, delay, first_sample),
            SpaceId::Initial | SpaceId::Handshake => {
                self.detect_handshake_losses(now, space, delay, first_sample)
            }
        };
        if losses.packets == 0 {
            return;
        }
        self.stats.lost_packets += losses.packets;
        self.stats.lost_bytes += losses.bytes;
        let Some(sent_time) = losses.newest_sent_at else { return };
        // RFC 9002 §7.6.
        let span_ns = self.path.rtt.persistent_congestion_ns(self.peer_max_ack_delay_ns);
        let persistent = losses.longest_run_ns > span_ns;
        self.stats.persistent_congestions += u64::from(persistent);
        let event = Congestion { sent_time, lost_bytes: losses.bytes, persistent, ecn: false };
        let reduced = self.path.congestion.on_congestion(now, &event, &self.path.rtt);
        self.stats.congestion_events += u64::from(reduced);
        self.tell_congestion(now, &event, reduced);
        if persistent {
            // RFC 9002 §5.2: the path may have become another one.
            self.path.rtt.forget_minimum();
            self.path.spurious.convict();
        } else {
            self.path.spurious.on_event(reduced, now.plus_ns(self.pto_ns()));
        }
    }

    fn detect_data_losses(
        &mut self,
        now: Instant,
        delay: u64,
        first_sample: Option<Instant>,
    ) -> Losses {
        let (path, observing) = (&mut self.path, &mut self.observing);
        let (others, stats) = (&mut self.others, &mut self.stats);
        let (streams, cids, local, pending, tickets) = (
            &mut self.streams,
            &mut self.remote_cids,
            &mut self.local_cids,
            &mut self.pending,
            &mut self.tickets,
        );
        let threshold = path.spurious.packet_threshold();
        let (mut newest_lost, mut largest_lost) = (0, 0);
        let sent = &mut self.data.sent;
        let losses = sent.detect_losses(now, delay, threshold, first_sample, |p, frames| {
            if let Some(o) = observing {
                o.tell_lost(now, SpaceId::Data, &p, delay);
            }
            if p.info.path != path.id {
                stats.lost_packets += u64::from(p.info.in_flight);
                stats.lost_bytes += u64::from(p.info.bytes) * u64::from(p.info.in_flight);
                resolve_elsewhere(others, &p);
            } else if p.info.mtu_probe {
                path.on_resolved(&p);
                path.mtu.on_probe_lost(now, p.info.bytes);
            } else {
                path.on_resolved(&p);
                newest_lost = p.pn;
                largest_lost = largest_lost.max(p.info.bytes);
                if p.info.in_flight {
                    path.spurious.on_lost(p.pn);
                }
            }
            for frame in frames {
                match frame {
                    SentFrame::RetireConnectionId { sequence } => cids.retirement_lost(sequence),
                    SentFrame::NewConnectionId { sequence } => local.announcement_lost(sequence),
                    SentFrame::HandshakeDone => pending.handshake_done = true,
                    SentFrame::NewToken => pending.new_token = true,
                    SentFrame::Crypto { offset, len } => {
                        if let Some(t) = tickets {
                            t.on_lost(offset, len);
                        }
                    }
                    SentFrame::Ack { .. } | SentFrame::Ping => {}
                    SentFrame::Streams(frame) => streams.on_lost(&frame),
                }
            }
        });
        if largest_lost > 0
            && let Some(mtu) = self.path.mtu.on_packets_lost(now, newest_lost, largest_lost)
        {
            self.path.set_mtu(mtu);
        }
        losses
    }

    fn detect_handshake_losses(
        &mut self,
        now: Instant,
        space: SpaceId,
        delay: u64,
        first_sample: Option<Instant>,
    ) -> Losses {
        let (path, observing) = (&mut self.path, &mut self.observing);
        let Some(s) = self.handshake.as_mut().and_then(|h| h.space(space)) else {
            return Losses::default();
        };
        let crypto = &mut s.crypto_send;
        s.sent.detect_losses(now, delay, PACKET_THRESHOLD, first_sample, |p, frames| {
            path.on_resolved(&p);
            if let Some(o) = observing {
                o.tell_lost(now, space, &p, delay);
            }
            for frame in frames {
                if let SentFrame::Crypto { offset, len } = frame {
                    crypto.on_lost(offset, len);
                }
            }
        })
    }
}

/// A packet that took another path than the active one was acknowledged or lost.
#[cold]
fn resolve_elsewhere(others: &mut Option<Box<OtherPaths>>, p: &Resolved) {
    if let Some(others) = others {
        others.on_resolved(p);
    }
}
