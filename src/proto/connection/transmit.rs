//! From what is pending to datagrams: which space may send, how much, and when (RFC 9000 §12, §14;
//! RFC 9002 §7).

use super::assemble::Permit;
use super::space::SpaceId;
use super::timers::PROBES;
use super::{Connection, State, Transmit};
use crate::ecn::Ecn;
use crate::proto::congestion::Controller;
use crate::proto::crypto::TAG_LEN;
use crate::proto::mtu::MIN_MTU;
use crate::proto::packet_builder::{Draft, Number, pad_to};
use crate::proto::path::MIN_ROOM;
use crate::proto::recovery::{QUIET_MAX, SentInfo};
use crate::proto::sent::SentFrame;
use crate::time::Instant;
use crate::wire::Side;
use crate::wire::frame::Frame;

/// Where the payload of a packet ends that makes a datagram of 1,200 bytes.
const PADDED_PAYLOAD_END: usize = super::MIN_DATAGRAM_BYTES as usize - TAG_LEN;
/// RFC 9000 §21.4: the shortest distance between skipped packet numbers.
const MIN_SKIP_DISTANCE: u64 = 64;

/// A packet of a datagram that holds several.
#[derive(Clone, Copy, Debug)]
struct Coalesced {
    space: SpaceId,
    /// Where it begins within the datagram.
    start: usize,
    draft: Draft,
}

impl Connection {
    /// Writes the next datagram into `buf`, which should hold
    /// [`max_mtu_bytes`](super::TransportConfig::max_mtu_bytes). Call until `None`.
    pub fn transmit(&mut self, now: Instant, buf: &mut [u8]) -> Option<Transmit> {
        let (len, ecn) = match self.state {
            State::Established if self.handshake.is_none() => {
                let mut limit = buf.len();
                if self.paths_busy {
                    if let Some(sent) = self.transmit_challenge(now, buf) {
                        return Some(sent);
                    }
                    limit = self.path_limit(limit)?;
                }
                let sent = self.transmit_data(now, &mut buf[..limit]);
                if self.paths_busy {
                    self.note_limited(now, sent.map(|(len, _)| len));
                }
                sent?
            }
            State::Handshaking | State::Established => self.transmit_handshake(now, buf)?,
            State::Closing | State::Draining => (self.transmit_close(now, buf)?, Ecn::NotEct),
            State::Drained => return None,
        };
        Some(self.note_datagram(len, ecn))
    }

    /// A datagram is written.
    #[inline]
    pub(super) fn note_datagram(&mut self, len: usize, ecn: Ecn) -> Transmit {
        self.stats.tx_datagrams += 1;
        self.stats.tx_bytes += len as u64;
        Transmit { len, ecn }
    }

    /// True if [`transmit`](Connection::transmit) may have something to write, as far as can be
    /// told without looking at the time.
    #[must_use]
    pub fn wants_transmit(&self) -> bool {
        match self.state {
            State::Handshaking => true,
            State::Established => {
                self.handshake.is_some()
                    || self.has_frames()
                    || self.paths_busy
                    || self.data.probes > 0
                    || self.data.received.deadline.is_some()
            }
            State::Closing | State::Draining => self.close_is_pending(),
            State::Drained => false,
        }
    }

    /// True if there are 1-RTT frames to write, acknowledgements aside.
    #[inline]
    fn has_frames(&self) -> bool {
        self.streams.has_data()
            || self.streams.has_control()
            || self.pending.any()
            || self.path.has_response()
            || self.local_cids.pending
            || self.remote_cids.has_retirements()
            || self.tickets.as_ref().is_some_and(|t| t.has_pending())
    }

    /// A datagram with one 1-RTT packet: the path that nearly every datagram takes.
    #[inline]
    fn transmit_data(&mut self, now: Instant, buf: &mut [u8]) -> Option<(usize, Ecn)> {
        let has_frames = self.has_frames();
        let mut ack_due = self.data.received.ack_due(now);
        let probing = self.data.probes > 0;
        if ack_due && self.data.sent.quiet() >= QUIET_MAX {
            self.withhold_ack();
            ack_due = false;
        }
        if !has_frames && !ack_due && !probing {
            self.streams.app_limited = true;
            self.path.on_app_limited();
            return self.transmit_mtu_probe(now, buf);
        }
        let mtu = usize::from(self.path.mtu.current()).min(buf.len());
        let permit = if probing { Permit::Full } else { self.permit(now, mtu) };
        if permit == Permit::AckOnly && !ack_due {
            return None;
        }
        // Between the data of a transfer that waits for the window anyway: a short answer is
        // not delayed by it.
        let pair = mtu + usize::from(self.config.max_mtu_bytes);
        if permit == Permit::Full
            && !probing
            && self.fills_window(pair)
            && let Some(probe) = self.transmit_mtu_probe(now, buf)
        {
            return Some(probe);
        }
        if self.data.probes == PROBES || (permit == Permit::Full && self.peer_would_wait(mtu)) {
            self.skip();
        }
        // The last probe of a timeout is small: if only that one arrives, it is the size.
        let size = if self.data.probes == 1 { mtu.min(usize::from(MIN_MTU)) } else { mtu };
        let len = self.write_data_packet(now, &mut buf[..size], permit)?;
        if probing {
            self.data.probes -= 1;
        }
        let ecn = self.path.ecn.codepoint();
        self.path.ecn.on_sent();
        Some((len, ecn))
    }

    /// A peer that acknowledges nothing of ours, however often it is asked, gets no more
    /// packets of acknowledgements alone: we keep a record of each until we know whether an older
    /// packet has arrived.
    #[cold]
    fn withhold_ack(&mut self) {
        self.data.received.ack_sent();
        self.stats.tx_withheld_acks += 1;
    }

    /// Asks the congestion controller and the pacer.
    #[inline(always)]
    fn permit(&mut self, now: Instant, bytes: usize) -> Permit {
        if self.path.is_full(bytes) {
            self.streams.app_limited = false;
            return Permit::AckOnly;
        }
        match self.path.pace(now, bytes) {
            Ok(()) => Permit::Full,
            Err(at) => {
                self.streams.app_limited = false;
                self.deadlines.pacing = at;
                Permit::AckOnly
            }
        }
    }

    /// Writes and protects one 1-RTT packet that fills `buf` if there is enough to say.
    #[inline]
    fn write_data_packet(&mut self, now: Instant, buf: &mut [u8], permit: Permit) -> Option<usize> {
        if !self.keys_are_fit(now) {
            return None;
        }
        self.maybe_skip(now);
        let (packet, mut w) = self.begin_data(Number::next(&self.data.sent), buf)?;
        // RFC 9000 §8.2.2: a datagram with a PATH_RESPONSE is padded. What is padded has to say
        // where its data ends.
        let pad = permit == Permit::Full && self.path.has_response();
        let ack_eliciting = self.write_data_frames(now, &mut w, permit, pad);
        if packet.is_empty(&w) {
            self.data.sent.abandon();
            return None;
        }
        if pad {
            pad_to(&mut w, PADDED_PAYLOAD_END);
        }
        let info = SentInfo {
            ack_eliciting,
            in_flight: ack_eliciting,
            ecn_capable: self.path.ecn.is_marking(),
            ..SentInfo::default()
        };
        let draft = packet.end(w, info);
        self.finish_data(now, draft, buf)
    }

    /// RFC 9001 §6.6: updates keys in time, and stops when a key is used up.
    #[inline]
    pub(super) fn keys_are_fit(&mut self, now: Instant) -> bool {
        let limit = self.config.key_update_packets;
        let Some(keys) = &self.keys else { return false };
        if !keys.is_worn(limit) {
            return true;
        }
        if self.update_keys() {
            return true;
        }
        let exhausted = self.keys.as_ref().is_none_or(|k| k.is_exhausted());
        if exhausted {
            self.close_aead_limit(now);
        }
        !exhausted
    }

    /// Skips a packet number now and then: a peer that acknowledges it acknowledges what it has
    /// not received (RFC 9000 §21.4).
    #[inline]
    fn maybe_skip(&mut self, now: Instant) {
        if self.data.sent.next_pn() < self.skip_at {
            return;
        }
        self.wake(now);
        if self.data.sent.next_pn() < self.skip_at {
            return;
        }
        self.skip();
        self.plan_skip();
    }

    /// Skips the next packet number, unless the one before it was skipped.
    fn skip(&mut self) {
        if !self.data.sent.has_just_skipped() {
            self.path.spurious.on_skipped(self.data.sent.next_pn());
            self.data.sent.skip();
        }
    }

    /// True if so many bytes do not fit the window.
    #[inline]
    fn fills_window(&self, bytes: usize) -> bool {
        self.path.is_full(bytes)
    }

    /// True if the next packet, of up to `bytes`, fills the window, there will be more to send,
    /// and the peer is known not to acknowledge as much as is in flight at once: without a skipped
    /// number before this packet, nothing would happen until the peer's delay is over. See
    /// `patience.rs`.
    #[inline]
    fn peer_would_wait(&self, bytes: usize) -> bool {
        self.fills_window(2 * bytes)
            && self.path.patience.outlasts(self.data.sent.eliciting() + 1)
            && self.streams.has_data()
    }

    /// The next packet number to skip lies one to two windows ahead: the more a cheating peer
    /// could gain, the more packets it has to acknowledge blindly, and at least one of any
    /// window is skipped on average.
    pub(super) fn plan_skip(&mut self) {
        let window_packets =
            self.path.congestion.window() / u64::from(self.path.mtu.current().max(1));
        let shortest = window_packets.max(MIN_SKIP_DISTANCE);
        let distance = shortest + self.random() % shortest;
        self.skip_at = self.data.sent.next_pn() + distance;
    }

    /// A datagram of a size that has not been tried yet (RFC 8899).
    pub(super) fn transmit_mtu_probe(
        &mut self,
        now: Instant,
        buf: &mut [u8],
    ) -> Option<(usize, Ecn)> {
        let size = usize::from(self.path.mtu.probe(now)?);
        // While nothing is acknowledged, its loss would say nothing; and it would put off the
        // packets that ask whether the peer is there.
        if self.pto_count > 0 {
            return None;
        }
        if size > buf.len() || self.path.is_full(size) {
            return None;
        }
        self.wake(now);
        let (packet, mut w) = self.begin_data(Number::next(&self.data.sent), &mut buf[..size])?;
        Frame::Ping.write(&mut w).ok()?;
        Frame::Padding { len: w.remaining() }.write(&mut w).ok()?;
        self.data.sent.push_frame(SentFrame::Ping);
        let ecn = self.path.ecn.codepoint();
        let info = SentInfo {
            ack_eliciting: true,
            in_flight: true,
            mtu_probe: true,
            ecn_capable: ecn != Ecn::NotEct,
            ..SentInfo::default()
        };
        let draft = packet.end(w, info);
        let len = self.finish(now, SpaceId::Data, draft, buf)?;
        self.path.mtu.on_probe_sent();
        self.path.ecn.on_sent();
        Some((len, ecn))
    }

    /// A datagram while the handshake lasts: up to one packet of each space, coalesced.
    fn transmit_handshake(&mut self, now: Instant, buf: &mut [u8]) -> Option<(usize, Ecn)> {
        let mtu = usize::from(self.path.mtu.current()).min(buf.len());
        let budget = usize::try_from(self.path.validation.budget()).unwrap_or(usize::MAX);
        let limit = mtu.min(budget);
        if limit < MIN_ROOM {
            return None;
        }
        let permit = self.permit(now, mtu);
        let has_response = self.path.has_response();
        // RFC 9000 §14.1: an Initial that asks for an acknowledgement needs a datagram of 1200
        // bytes. One that the amplification limit makes smaller carries acknowledgements only.
        let short = limit < usize::from(super::MIN_DATAGRAM_BYTES);
        let mut drafts: [Option<Coalesced>; 3] = [None; 3];
        let mut end = 0;
        let spaces = [SpaceId::Initial, SpaceId::Handshake, SpaceId::Data];
        for (slot, space) in drafts.iter_mut().zip(spaces) {
            if limit - end < MIN_ROOM {
                break;
            }
            let permit = if space == SpaceId::Initial && short { Permit::Quiet } else { permit };
            if let Some(draft) = self.draft(now, space, permit, &mut buf[end..limit]) {
                *slot = Some(Coalesced { space, start: end, draft });
                end += draft.len();
            }
        }
        // RFC 9000 §14.1: datagrams that carry an Initial are padded, a server's only if the
        // Initial asks for an acknowledgement.
        let pad = drafts[0]
            .is_some_and(|c| self.side == Side::Client || c.draft.info.ack_eliciting)
            || (has_response && !self.path.has_response());
        let last = drafts.iter_mut().flatten().next_back()?;
        let padded_end = usize::from(super::MIN_DATAGRAM_BYTES).min(limit);
        if pad && end < padded_end {
            last.draft.pad(&mut buf[last.start..], padded_end - end);
            end = padded_end;
        }
        for Coalesced { space, start, mut draft } in drafts.into_iter().flatten() {
            // RFC 9002 §2: padding counts as in flight.
            draft.info.in_flight |= pad && space != SpaceId::Data;
            self.finish(now, space, draft, &mut buf[start..]);
        }
        self.path.validation.on_sent(end);
        // RFC 9001 §4.9.1: a client's first Handshake packet ends its use of Initial keys.
        if self.side == Side::Client && drafts[1].is_some() {
            self.discard_space(SpaceId::Initial);
        }
        Some((end, Ecn::NotEct))
    }
}

impl super::Pending {
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.handshake_done | self.ping | self.new_token
    }
}
