//! From what is pending to datagrams: who may send, how much, and when (RFC 9000 §12, §14;
//! RFC 9002 §7).

use super::assemble::Draft;
use super::timers::PROBES;
use super::{Connection, SpaceId, State, Transmit};
use crate::ecn::Ecn;
use crate::proto::congestion::Controller;
use crate::proto::crypto::TAG_LEN;
use crate::proto::mtu::MIN_MTU;
use crate::proto::recovery::{QUIET_MAX, SentInfo};
use crate::proto::sent::SentFrame;
use crate::time::Instant;
use crate::wire::frame::Frame;
use crate::wire::packet::{pn_len, write_short};
use crate::wire::{Side, Writer};

/// RFC 9001 §5.4.2: packet number and payload have 4 bytes at least, so that the sample fits.
pub(super) const MIN_PN_AND_PAYLOAD: usize = 4;
/// Where the payload of a packet ends that makes a datagram of 1,200 bytes.
const PADDED_PAYLOAD_END: usize = super::MIN_DATAGRAM_BYTES as usize - TAG_LEN;
/// RFC 9000 §10.3: a 1-RTT packet is this much longer than the ids that we ask the peer to write,
/// at least. The stateless reset that answers it is shorter, and still as long as a packet to us.
pub(super) const MIN_SHORT_OVERHEAD_BYTES: usize = 22;
/// Space that a datagram must have for a packet to be begun in it.
const MIN_ROOM: usize = 64;
/// RFC 9000 §21.4: the shortest distance between packet numbers left out.
const MIN_SKIP_DISTANCE: u64 = 64;

/// What a finished 1-RTT packet is.
#[derive(Clone, Copy, Debug)]
pub(super) struct SealedAs {
    pub(super) ack_eliciting: bool,
    pub(super) mtu_probe: bool,
    /// Its datagram leaves with an ECT mark.
    pub(super) marked: bool,
}

/// What may be sent right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permit {
    /// Anything.
    Full,
    /// Acknowledgements alone: the window, or the pacer, holds the rest back.
    AckOnly,
}

impl Connection {
    /// Writes the next datagram into `buf`, which should hold
    /// [`max_mtu_bytes`](super::TransportConfig::max_mtu_bytes). Call until `None`.
    pub fn transmit(&mut self, now: Instant, buf: &mut [u8]) -> Option<Transmit> {
        let (len, ecn) = match self.state {
            State::Established if self.handshake.is_none() => self.transmit_data(now, buf)?,
            State::Handshaking | State::Established => self.transmit_handshake(now, buf)?,
            State::Closing => (self.transmit_close(buf)?, Ecn::NotEct),
            State::Draining | State::Drained => return None,
        };
        self.stats.tx_datagrams += 1;
        self.stats.tx_bytes += len as u64;
        Some(Transmit { len, ecn, remote: self.path.remote })
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
                    || self.data.probes > 0
                    || self.data.received.deadline.is_some()
            }
            State::Closing => self.close_is_pending(),
            State::Draining | State::Drained => false,
        }
    }

    /// RFC 9000 §8.2.2: a datagram with a PATH_RESPONSE is padded.
    #[inline]
    pub(super) fn answers_path(&self) -> bool {
        !self.pending.path_responses.is_empty()
    }

    /// True if there are 1-RTT frames to write, acknowledgements aside.
    #[inline]
    fn has_frames(&self) -> bool {
        self.streams.has_data()
            || self.streams.has_control()
            || self.pending.any()
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
            self.app_limited = true;
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
    /// acknowledgements by themselves: each is remembered until an older packet's fate is known.
    #[cold]
    fn withhold_ack(&mut self) {
        self.data.received.ack_sent();
        self.stats.tx_withheld_acks += 1;
    }

    /// Asks the congestion controller and the pacer.
    #[inline]
    fn permit(&mut self, now: Instant, bytes: usize) -> Permit {
        if self.path.is_full(bytes) {
            self.app_limited = false;
            return Permit::AckOnly;
        }
        if !self.config.pacing {
            return Permit::Full;
        }
        match self.path.pace(now, bytes) {
            Ok(()) => Permit::Full,
            Err(at) => {
                self.app_limited = false;
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
        self.maybe_skip();
        let pn = self.data.sent.next_pn();
        let number_len = pn_len(pn, self.data.sent.largest_acked());
        let keys = self.keys.as_ref()?;
        let room = buf.len().checked_sub(TAG_LEN)?;
        let mut w = Writer::new(&mut buf[..room]);
        let pn_at =
            write_short(&mut w, self.remote_cids.current(), false, keys.phase(), pn, number_len)
                .ok()?;
        let header = w.position();
        // What is padded has to say where its data ends.
        let pad = permit == Permit::Full && self.answers_path();
        let ack_eliciting = self.write_data_frames(now, &mut w, permit, pad);
        let mut end = w.position();
        if end == header {
            self.data.sent.abandon();
            return None;
        }
        let wanted = if pad { PADDED_PAYLOAD_END } else { self.min_short_end(pn_at) };
        if end < wanted {
            let len = (wanted - end).min(w.remaining());
            let _fits = Frame::Padding { len }.write(&mut w);
            end = w.position();
        }
        let kind = SealedAs { ack_eliciting, mtu_probe: false, marked: self.path.ecn.is_marking() };
        self.seal_data(now, buf, header, pn_at, pn, end, kind)
    }

    /// Where the frames of a 1-RTT packet end at the earliest; padding fills what is left. It is
    /// not counted as in flight: a packet that owes its length to the rule above is an
    /// acknowledgement as a rule, and those must not wait for the window.
    #[inline]
    pub(super) fn min_short_end(&self, pn_at: usize) -> usize {
        let answerable = MIN_SHORT_OVERHEAD_BYTES + usize::from(self.local_cid_len) - TAG_LEN;
        answerable.max(pn_at + MIN_PN_AND_PAYLOAD)
    }

    /// Protects a finished packet and enters it into the books.
    #[expect(clippy::too_many_arguments, reason = "the layout of one packet, on the hot path")]
    #[inline]
    pub(super) fn seal_data(
        &mut self,
        now: Instant,
        buf: &mut [u8],
        header: usize,
        pn_at: usize,
        pn: u64,
        end: usize,
        kind: SealedAs,
    ) -> Option<usize> {
        let keys = self.keys.as_mut()?;
        let sealed = keys.seal(pn, buf, header, end - header);
        let sealed = sealed.filter(|&total| keys.local_header.mask(&mut buf[..total], pn_at));
        let Some(total) = sealed else {
            self.data.sent.abandon();
            return None;
        };
        let info = SentInfo {
            bytes: total as u16,
            ack_eliciting: kind.ack_eliciting,
            in_flight: kind.ack_eliciting,
            mtu_probe: kind.mtu_probe,
            ecn_capable: kind.marked,
        };
        self.data.sent.commit(now, info);
        self.stats.tx_packets += 1;
        if kind.ack_eliciting {
            self.on_eliciting_sent(now, total as u64, pn);
        }
        Some(total)
    }

    /// An ack-eliciting packet has left.
    #[inline]
    pub(super) fn on_eliciting_sent(&mut self, now: Instant, bytes: u64, pn: u64) {
        self.path.bytes_in_flight += bytes;
        self.path.congestion.on_sent(now, bytes, pn);
        if self.config.pacing {
            self.path.pacer.on_sent(bytes);
        }
        if !self.sent_since_received {
            // RFC 9000 §10.1: the first one after hearing from the peer restarts the timer.
            self.sent_since_received = true;
            self.restart_idle(now);
        }
    }

    /// RFC 9001 §6.6: updates keys in time, and stops when a key is used up.
    #[inline]
    fn keys_are_fit(&mut self, now: Instant) -> bool {
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

    /// Leaves out a packet number now and then: a peer that acknowledges it has not received
    /// what it acknowledges (RFC 9000 §21.4).
    #[inline]
    fn maybe_skip(&mut self) {
        if self.data.sent.next_pn() < self.skip_at {
            return;
        }
        self.skip();
        self.plan_skip();
    }

    /// Leaves out the next packet number, unless the one before it was.
    fn skip(&mut self) {
        if !self.data.sent.has_just_skipped() {
            self.path.spurious.on_skipped(self.data.sent.next_pn());
            self.data.sent.skip();
        }
    }

    /// True if the window has no room for so many bytes.
    #[inline]
    fn fills_window(&self, bytes: usize) -> bool {
        self.path.is_full(bytes)
    }

    /// True if the next packet, of up to `bytes`, fills the window, there will be more to send,
    /// and the peer is known to sit on as much as is in flight: without a gap before this
    /// packet, nothing would happen until its delay is over. See `patience.rs`.
    #[inline]
    fn peer_would_wait(&self, bytes: usize) -> bool {
        self.fills_window(2 * bytes)
            && self.path.patience.outlasts(self.data.sent.eliciting() + 1)
            && self.streams.has_data()
    }

    /// The next number to leave out lies one to two windows ahead: the more a cheating peer
    /// could gain, the more packets it has to acknowledge blindly, and at least one of any
    /// window is skipped on average.
    pub(super) fn plan_skip(&mut self) {
        let window_packets =
            self.path.congestion.window() / u64::from(self.path.mtu.current().max(1));
        let span = window_packets.max(MIN_SKIP_DISTANCE);
        let distance = span + self.random() % span;
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
        let pn = self.data.sent.next_pn();
        let number_len = pn_len(pn, self.data.sent.largest_acked());
        let phase = self.keys.as_ref()?.phase();
        let mut w = Writer::new(&mut buf[..size - TAG_LEN]);
        let pn_at =
            write_short(&mut w, self.remote_cids.current(), false, phase, pn, number_len).ok()?;
        let header = w.position();
        Frame::Ping.write(&mut w).ok()?;
        Frame::Padding { len: w.remaining() }.write(&mut w).ok()?;
        let end = w.position();
        self.data.sent.push_frame(SentFrame::Ping);
        let mark = self.path.ecn.codepoint();
        let kind = SealedAs { ack_eliciting: true, mtu_probe: true, marked: mark != Ecn::NotEct };
        let len = self.seal_data(now, &mut buf[..size], header, pn_at, pn, end, kind)?;
        self.path.mtu.on_probe_sent();
        self.path.ecn.on_sent();
        Some((len, mark))
    }

    /// A datagram while the handshake lasts: up to one packet of each space, coalesced.
    fn transmit_handshake(&mut self, now: Instant, buf: &mut [u8]) -> Option<(usize, Ecn)> {
        let mtu = usize::from(self.path.mtu.current()).min(buf.len());
        let budget = usize::try_from(self.path.validation.budget()).unwrap_or(usize::MAX);
        let limit = mtu.min(budget);
        if limit < MIN_ROOM {
            return None;
        }
        let full = self.permit(now, mtu) == Permit::Full;
        let answers_path = self.answers_path();
        // RFC 9000 §14.1: an Initial that asks for an acknowledgement needs a datagram of 1200
        // bytes. One that the amplification limit makes smaller carries acknowledgements only.
        let short = limit < usize::from(super::MIN_DATAGRAM_BYTES);
        let mut drafts: [Option<Draft>; 3] = [None; 3];
        let mut at = 0;
        for (i, space) in
            [SpaceId::Initial, SpaceId::Handshake, SpaceId::Data].into_iter().enumerate()
        {
            if limit - at < MIN_ROOM {
                break;
            }
            let quiet = space == SpaceId::Initial && short;
            if let Some(draft) = self.draft(now, space, &mut buf[at..limit], at, full, quiet) {
                at = draft.end + TAG_LEN;
                drafts[i] = Some(draft);
            }
        }
        // RFC 9000 §14.1: datagrams that carry an Initial are padded, a server's only if the
        // Initial asks for an acknowledgement.
        let pad = drafts[0].is_some_and(|d| self.side == Side::Client || d.ack_eliciting)
            || (answers_path && !self.answers_path());
        let last = drafts.iter().rposition(Option::is_some)?;
        if pad
            && at < usize::from(super::MIN_DATAGRAM_BYTES).min(limit)
            && let Some(draft) = &mut drafts[last]
        {
            let wanted = usize::from(super::MIN_DATAGRAM_BYTES).min(limit) - at;
            buf[draft.end..draft.end + wanted].fill(0);
            draft.end += wanted;
            at += wanted;
        }
        for draft in drafts.iter().flatten() {
            self.finish_draft(now, draft, buf, pad);
        }
        self.path.validation.on_sent(at);
        // RFC 9001 §4.9.1: a client's first Handshake packet ends its use of Initial keys.
        if self.side == Side::Client && drafts[1].is_some() {
            self.discard_space(SpaceId::Initial);
        }
        Some((at, Ecn::NotEct))
    }
}

impl super::Pending {
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.handshake_done | self.ping | self.new_token | !self.path_responses.is_empty()
    }
}
