//! From frames to packets: what goes into a packet of each space, and in which order.
//!
//! [`packet_builder`](crate::proto::packet_builder) knows how a packet is made; here it gets
//! the connection's ids, packet numbers, keys and records of sent packets.

use super::Connection;
use super::config::ACK_DELAY_EXPONENT;
use super::crypto_stream::CryptoSend;
use super::space::{Handshake, HandshakeSpace, Received, SpaceId};
use crate::proto::packet_builder::{Book, Draft, Header, Number, PacketBuilder};
use crate::proto::path::Path;
use crate::proto::recovery::{SentInfo, SentPackets};
use crate::proto::sent::SentFrame;
use crate::time::{Instant, MICROSECOND_NS};
use crate::wire::frame::{self, Frame, write_ack};
use crate::wire::packet::{LongHeader, PacketType};
use crate::wire::{VERSION_1, Writer};

/// Space that the header of a CRYPTO frame takes at most.
const CRYPTO_HEADER_MAX: usize = 1 + 8 + 4;
/// As [`QUIET_MAX`](crate::proto::recovery::QUIET_MAX), for Initial and Handshake packets: a
/// handshake takes a handful of them.
const HANDSHAKE_QUIET_MAX: u32 = 64;
/// The same for a client that has not proved its address: each is 48 bytes of what such a
/// handshake may hold, and probes acknowledge as well. With 4, a server whose first four were lost said nothing
/// more, and a client whose ClientHello has two parts did not learn which one to send again.
const UNVALIDATED_QUIET_MAX: u32 = 12;
/// Bytes that have to be left in a packet for a control frame to be tried.
const CONTROL_ROOM: usize = 64;

/// What may be sent right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permit {
    /// Anything.
    Full,
    /// Acknowledgements alone: the window, or the pacer, holds the rest back. Probes of Initial and
    /// Handshake packets pass.
    AckOnly,
    /// Acknowledgements alone, and no probe either.
    Quiet,
}

impl Connection {
    /// Writes the frames of a 1-RTT packet; true if one of them asks for an acknowledgement.
    #[inline]
    pub(super) fn write_data_frames(
        &mut self,
        now: Instant,
        w: &mut Writer<'_>,
        permit: Permit,
        lengths: bool,
    ) -> bool {
        let received = &mut self.data.received;
        // RFC 9000 §13.2.1: a probe tells what arrived, since the last ACK may be lost as well.
        let repeats = self.data.probes > 0 || self.keys.as_ref().is_some_and(|k| k.must_answer());
        let pending = received.ack_is_pending(now);
        let mut asks = false;
        if (repeats || pending)
            && let Some(largest) = write_received(w, received, now)
        {
            self.data.sent.push_frame(SentFrame::Ack { largest });
            if let Some(keys) = &mut self.keys {
                keys.answered();
            }
            asks = self.pto_count > 0 && pending && self.hears_again(now);
        }
        if permit != Permit::Full {
            return asks && self.write_ack_probe(w);
        }
        let before = w.position();
        self.write_rare_frames(w);
        let sent = &mut self.data.sent;
        if self.streams.has_control() {
            self.streams.set_clock(now, self.path.rtt.min_ns());
            self.streams.write_control(w, &mut |f| sent.push_frame(SentFrame::Streams(f)));
        }
        if self.streams.has_data() && !sent.is_full() {
            let mut push = |f| sent.push_frame(SentFrame::Streams(f));
            if lengths {
                self.streams.write_data_with_lengths(w, &mut push);
            } else {
                self.streams.write_data(w, &mut push);
            }
        }
        if w.position() > before {
            return true;
        }
        if asks {
            return self.write_ack_probe(w);
        }
        let asks = self.data.probes > 0 || self.data.sent.wants_ping();
        if asks && Frame::Ping.write(w).is_ok() {
            self.data.sent.push_frame(SentFrame::Ping);
        }
        w.position() > before
    }

    /// Makes an acknowledgement a probe as well. The peer is heard again while our own timer is
    /// backed off, and the next probe may be half a minute away. The answer to this one ends the
    /// back-off (RFC 9000 §13.2.4).
    #[cold]
    fn write_ack_probe(&mut self, w: &mut Writer<'_>) -> bool {
        if Frame::Ping.write(w).is_err() {
            return false;
        }
        self.data.sent.push_frame(SentFrame::Ping);
        self.note_ack_probe();
        true
    }

    /// Frames that a bulk transfer never sends.
    #[inline]
    fn write_rare_frames(&mut self, w: &mut Writer<'_>) {
        if self.pending.any() | self.path.has_response() {
            self.write_pending(w);
        }
        if self.local_cids.pending || self.remote_cids.has_retirements() {
            self.write_cids(w);
        }
        if let Some(tickets) = &mut self.tickets
            && let Some(frame) = write_crypto(w, tickets)
        {
            self.data.sent.push_frame(frame);
        }
    }

    fn write_pending(&mut self, w: &mut Writer<'_>) {
        let (p, sent) = (&mut self.pending, &mut self.data.sent);
        if p.handshake_done && Frame::HandshakeDone.write(w).is_ok() {
            p.handshake_done = false;
            sent.push_frame(SentFrame::HandshakeDone);
        }
        write_path_responses(&mut self.path, sent, w);
        if p.new_token {
            let token = self.new_token.as_deref().unwrap_or_default();
            let frame = Frame::NewToken { token };
            if token.is_empty() || frame.write(w).is_ok() {
                p.new_token = false;
                sent.push_frame(SentFrame::NewToken);
            }
        }
        if p.ping && Frame::Ping.write(w).is_ok() {
            p.ping = false;
            sent.push_frame(SentFrame::Ping);
        }
    }

    fn write_cids(&mut self, w: &mut Writer<'_>) {
        while w.remaining() >= CONTROL_ROOM
            && let Some(c) = self.local_cids.next_announcement()
        {
            let frame = Frame::NewConnectionId {
                sequence: c.sequence,
                retire_prior_to: c.retire_prior_to,
                cid: c.cid,
                reset_token: c.reset_token,
            };
            if frame.write(w).is_err() {
                break;
            }
            self.local_cids.announced(c.sequence);
            self.data.sent.push_frame(SentFrame::NewConnectionId { sequence: c.sequence });
        }
        while w.remaining() >= CONTROL_ROOM
            && !self.data.sent.is_full()
            && let Some(sequence) = self.remote_cids.next_retirement()
        {
            if (Frame::RetireConnectionId { sequence }).write(w).is_err() {
                break;
            }
            self.remote_cids.retirement_sent();
            self.data.sent.push_frame(SentFrame::RetireConnectionId { sequence });
        }
    }

    /// Begins a 1-RTT packet in `buf`.
    ///
    /// This and [`finish_data`](Self::finish_data) are inlined: nearly every datagram passes both.
    #[inline(always)]
    pub(super) fn begin_data<'b>(
        &self,
        number: Number,
        buf: &'b mut [u8],
    ) -> Option<(PacketBuilder, Writer<'b>)> {
        let header = Header::Short {
            dcid: self.remote_cids.current(),
            phase: self.keys.as_ref()?.phase(),
            local_cid_len: self.local_cid_len,
        };
        PacketBuilder::begin(header, number, buf)
    }

    /// Begins an Initial or Handshake packet in `buf`. `None` if there are no keys for it.
    pub(super) fn begin_long<'b>(
        &mut self,
        space: SpaceId,
        buf: &'b mut [u8],
    ) -> Option<(PacketBuilder, Writer<'b>)> {
        let scid = self.first_local_cid();
        let dcid = *self.remote_cids.current();
        let Handshake { initial, handshake, token, .. } = &mut **self.handshake.as_mut()?;
        let (s, kind) = match space {
            SpaceId::Initial => (initial, PacketType::Initial),
            SpaceId::Handshake => (handshake, PacketType::Handshake),
            SpaceId::Data => return None,
        };
        s.keys.as_ref()?;
        let header = LongHeader { kind, version: VERSION_1, dcid, scid, token };
        PacketBuilder::begin(Header::Long(&header), Number::next(&s.sent), buf)
    }

    /// Writes a packet of `space` into `buf`, all but its protection. `None` if the space has
    /// nothing to say.
    pub(super) fn draft(
        &mut self,
        now: Instant,
        space: SpaceId,
        permit: Permit,
        buf: &mut [u8],
    ) -> Option<Draft> {
        match space {
            SpaceId::Initial | SpaceId::Handshake => self.draft_long(now, space, permit, buf),
            SpaceId::Data => self.draft_data(now, permit, buf),
        }
    }

    fn draft_long(
        &mut self,
        now: Instant,
        space: SpaceId,
        permit: Permit,
        buf: &mut [u8],
    ) -> Option<Draft> {
        let validated = self.path.validation.is_validated();
        let quiet_max = if validated { HANDSHAKE_QUIET_MAX } else { UNVALIDATED_QUIET_MAX };
        let s = self.handshake.as_mut()?.space(space)?;
        if !s.has_to_speak(now, permit, quiet_max) {
            return None;
        }
        let (packet, mut w) = self.begin_long(space, buf)?;
        let s = self.handshake.as_mut()?.space(space)?;
        let ack_eliciting = s.write_frames(now, &mut w, permit);
        if packet.is_empty(&w) {
            s.sent.abandon();
            return None;
        }
        s.probes = s.probes.saturating_sub(u8::from(s.is_probing(permit)));
        let info = SentInfo { ack_eliciting, in_flight: ack_eliciting, ..SentInfo::default() };
        Some(packet.end(w, info))
    }

    fn draft_data(&mut self, now: Instant, permit: Permit, buf: &mut [u8]) -> Option<Draft> {
        // RFC 9001 §5.7: 1-RTT data waits for the end of the handshake, though a server could
        // send sooner.
        if !self.is_established() {
            return None;
        }
        let permit = if self.data.probes > 0 { Permit::Full } else { permit };
        let (packet, mut w) = self.begin_data(Number::next(&self.data.sent), buf)?;
        // The packet may be padded later: every STREAM frame says how long it is.
        let ack_eliciting = self.write_data_frames(now, &mut w, permit, true);
        if packet.is_empty(&w) {
            self.data.sent.abandon();
            return None;
        }
        self.data.probes = self.data.probes.saturating_sub(1);
        // The whole datagram leaves without an ECN codepoint.
        let info = SentInfo { ack_eliciting, in_flight: ack_eliciting, ..SentInfo::default() };
        Some(packet.end(w, info))
    }

    /// Protects a packet that lies at the start of `buf` and records it as sent; returns its length.
    pub(super) fn finish(
        &mut self,
        now: Instant,
        space: SpaceId,
        draft: Draft,
        buf: &mut [u8],
    ) -> Option<usize> {
        if space == SpaceId::Data {
            return self.finish_data(now, draft, buf);
        }
        if self.observed {
            self.tell_sent(now, space, draft, buf);
        }
        let s = self.handshake.as_mut()?.space(space)?;
        let keys = &s.keys.as_ref()?.local;
        let book = Book { sent: &mut s.sent, path: &mut self.path };
        let info = draft.finish(now, buf, keys, book)?;
        self.note_sent(now, info);
        Some(usize::from(info.bytes))
    }

    /// As [`finish`](Self::finish), for a 1-RTT packet.
    #[inline(always)]
    pub(super) fn finish_data(
        &mut self,
        now: Instant,
        draft: Draft,
        buf: &mut [u8],
    ) -> Option<usize> {
        if self.observed {
            self.tell_sent(now, SpaceId::Data, draft, buf);
        }
        let keys = self.keys.as_mut()?;
        let book = Book { sent: &mut self.data.sent, path: &mut self.path };
        let info = draft.finish(now, buf, keys, book)?;
        self.note_sent(now, info);
        Some(usize::from(info.bytes))
    }

    /// A packet of any space has left.
    #[inline(always)]
    fn note_sent(&mut self, now: Instant, info: SentInfo) {
        self.stats.tx_packets += 1;
        if info.ack_eliciting && !self.sent_since_received {
            // RFC 9000 §10.1: the first one after hearing from the peer restarts the timer.
            self.sent_since_received = true;
            self.restart_idle(now);
        }
    }
}

impl HandshakeSpace {
    /// True if the next packet is a probe.
    fn is_probing(&self, permit: Permit) -> bool {
        self.probes > 0 && permit != Permit::Quiet
    }

    /// True if there is something to send now. A peer that acknowledges nothing of ours gets no
    /// more than `quiet_max` acknowledgements by themselves.
    fn has_to_speak(&mut self, now: Instant, permit: Permit, quiet_max: u32) -> bool {
        if self.keys.is_none() {
            return false;
        }
        let probing = self.is_probing(permit);
        let crypto = self.crypto_send.has_pending() && (permit == Permit::Full || probing);
        if crypto || probing {
            return true;
        }
        if self.sent.quiet() >= quiet_max {
            self.received.ack_sent();
        }
        self.received.ack_due(now)
    }

    /// Writes the frames of a packet; true if one of them asks for an acknowledgement.
    fn write_frames(&mut self, now: Instant, w: &mut Writer<'_>, permit: Permit) -> bool {
        let probing = self.is_probing(permit);
        if (probing || self.received.ack_is_pending(now))
            && let Some(largest) = write_received(w, &mut self.received, now)
        {
            self.sent.push_frame(SentFrame::Ack { largest });
        }
        let mut ack_eliciting = false;
        while (permit == Permit::Full || probing)
            && let Some(frame) = write_crypto(w, &mut self.crypto_send)
        {
            self.sent.push_frame(frame);
            ack_eliciting = true;
        }
        if probing && !ack_eliciting && Frame::Ping.write(w).is_ok() {
            self.sent.push_frame(SentFrame::Ping);
            ack_eliciting = true;
        }
        ack_eliciting
    }
}

/// Writes the frames that answer challenges of a path, into a packet that takes it.
pub(super) fn write_path_responses(path: &mut Path, sent: &mut SentPackets, w: &mut Writer<'_>) {
    while let Some(data) = path.next_response()
        && Frame::PathResponse(data).write(w).is_ok()
    {
        path.response_sent();
        sent.push_frame(SentFrame::Ping);
    }
}

/// Writes the next piece of a CRYPTO stream.
fn write_crypto(w: &mut Writer<'_>, crypto: &mut CryptoSend) -> Option<SentFrame> {
    if !crypto.has_pending() {
        return None;
    }
    let room = w.remaining().checked_sub(CRYPTO_HEADER_MAX)?;
    let (offset, data) = crypto.take(room)?;
    let len = data.len();
    frame::write_crypto_header(w, offset, len).ok()?;
    w.bytes(data).ok()?;
    Some(SentFrame::Crypto { offset, len: len as u16 })
}

/// Writes an ACK frame for all that arrived; returns the largest number in it.
fn write_received(w: &mut Writer<'_>, received: &mut Received, now: Instant) -> Option<u64> {
    let largest = received.ranges.max()?;
    let delay_us = now.ns_since(received.largest_at) / MICROSECOND_NS;
    let count = received.ranges.len();
    let ecn = received.ecn_counts();
    let ranges = received.ranges.iter().rev();
    write_ack(w, ranges, count, delay_us >> ACK_DELAY_EXPONENT, ecn).ok()?;
    received.ack_sent();
    Some(largest)
}
