//! From frames to packets: what goes into a packet, and in which order.

use super::space::Received;
use super::transmit::{MIN_PN_AND_PAYLOAD, Permit, SealedAs};
use super::{Connection, SpaceId};
use crate::proto::crypto::TAG_LEN;
use crate::proto::recovery::SentInfo;
use crate::proto::sent::SentFrame;
use crate::time::{Instant, MICROSECOND_NS};
use crate::wire::frame::{self, Frame, write_ack};
use crate::wire::packet::{LongHeader, PacketType, patch_length, pn_len, write_short};
use crate::wire::{VERSION_1, Writer};

use super::config::ACK_DELAY_EXPONENT;

/// Space that the header of a CRYPTO frame takes at most.
const CRYPTO_HEADER_MAX: usize = 1 + 8 + 4;
/// As [`QUIET_MAX`](crate::proto::recovery::QUIET_MAX), for Initial and Handshake packets: a
/// handshake takes a handful of them.
const HANDSHAKE_QUIET_MAX: u32 = 64;
/// The same for a client that has not proved its address: each is 48 bytes of what such a
/// handshake may hold, and probes acknowledge as well.
const UNVALIDATED_QUIET_MAX: u32 = 4;
/// Room that has to be left for a control frame to be tried.
const CONTROL_ROOM: usize = 64;

/// A packet of a datagram that is being put together; positions within the datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draft {
    pub(super) space: SpaceId,
    start: usize,
    /// The two bytes of a long header's length.
    length_at: Option<usize>,
    pn_at: usize,
    payload_at: usize,
    /// Where the payload ends; the tag follows.
    pub(super) end: usize,
    pn: u64,
    pub(super) ack_eliciting: bool,
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
        let repeats = self.data.probes > 0 || self.keys.as_ref().is_some_and(|k| k.owes_answer());
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
        if permit == Permit::AckOnly {
            return asks && self.write_ack_probe(w);
        }
        let before = w.position();
        self.write_rare_frames(w);
        let sent = &mut self.data.sent;
        if self.streams.has_control() {
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
    /// backed off: the answer to this ends the back-off, where the next probe may be half a
    /// minute away (RFC 9000 §13.2.4).
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
        if self.pending.any() {
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
        while let Some(&data) = p.path_responses.front()
            && Frame::PathResponse(data).write(w).is_ok()
        {
            // RFC 9000 §13.3: sent once; the peer asks again.
            p.path_responses.pop_front();
            sent.push_frame(SentFrame::Ping);
        }
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
                retire_prior_to: 0,
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

    /// Begins a packet of `space` in `buf`, which lies at `start` of the datagram. `None` if
    /// the space has nothing to say. A `quiet` one has nothing but acknowledgements in it.
    pub(super) fn draft(
        &mut self,
        now: Instant,
        space: SpaceId,
        buf: &mut [u8],
        start: usize,
        full: bool,
        quiet: bool,
    ) -> Option<Draft> {
        if space == SpaceId::Data {
            self.draft_data(now, buf, start, full)
        } else {
            self.draft_long(now, space, buf, start, full, quiet)
        }
    }

    fn draft_long(
        &mut self,
        now: Instant,
        space: SpaceId,
        buf: &mut [u8],
        start: usize,
        full: bool,
        quiet: bool,
    ) -> Option<Draft> {
        let scid = self.first_local_cid();
        let dcid = *self.remote_cids.current();
        let validated = self.path.validation.is_validated();
        let h = self.handshake.as_mut()?;
        let token =
            if space == SpaceId::Initial { std::mem::take(&mut h.token) } else { Vec::new() };
        let kind =
            if space == SpaceId::Initial { PacketType::Initial } else { PacketType::Handshake };
        let header = LongHeader { kind, version: VERSION_1, dcid, scid, token: &token };
        let quiet_max = if validated { HANDSHAKE_QUIET_MAX } else { UNVALIDATED_QUIET_MAX };
        let draft = h.space(space).and_then(|s| {
            draft_in_space(now, s, space, &header, buf, start, full, quiet, quiet_max)
        });
        if space == SpaceId::Initial {
            h.token = token;
        }
        draft
    }

    fn draft_data(
        &mut self,
        now: Instant,
        buf: &mut [u8],
        start: usize,
        full: bool,
    ) -> Option<Draft> {
        // RFC 9001 §5.7: 1-RTT data waits for the end of the handshake, though a server could
        // send sooner.
        if !self.is_established() {
            return None;
        }
        let full = full || self.data.probes > 0;
        let permit = if full { Permit::Full } else { Permit::AckOnly };
        let phase = self.keys.as_ref()?.phase();
        let pn = self.data.sent.next_pn();
        let number_len = pn_len(pn, self.data.sent.largest_acked());
        let room = buf.len().checked_sub(TAG_LEN)?;
        let mut w = Writer::new(&mut buf[..room]);
        let pn_at =
            write_short(&mut w, self.remote_cids.current(), false, phase, pn, number_len).ok()?;
        let payload_at = w.position();
        // The packet may be padded later: every STREAM frame says how long it is.
        let ack_eliciting = self.write_data_frames(now, &mut w, permit, true);
        if w.position() == payload_at {
            self.data.sent.abandon();
            return None;
        }
        self.data.probes = self.data.probes.saturating_sub(1);
        pad_to(&mut w, self.min_short_end(pn_at));
        Some(Draft {
            space: SpaceId::Data,
            start,
            length_at: None,
            pn_at: start + pn_at,
            payload_at: start + payload_at,
            end: start + w.position(),
            pn,
            ack_eliciting,
        })
    }

    /// Protects a draft and enters it into the books.
    pub(super) fn finish_draft(&mut self, now: Instant, d: &Draft, buf: &mut [u8], padded: bool) {
        let total = d.end + TAG_LEN;
        if let Some(at) = d.length_at {
            patch_length(buf, at, total - d.pn_at);
        }
        let packet = &mut buf[d.start..total];
        let (header, pn_at) = (d.payload_at - d.start, d.pn_at - d.start);
        if d.space == SpaceId::Data {
            let end = d.end - d.start;
            // The whole datagram leaves without a mark.
            let ack_eliciting = d.ack_eliciting;
            let kind = SealedAs { ack_eliciting, mtu_probe: false, marked: false };
            self.seal_data(now, packet, header, pn_at, d.pn, end, kind);
            return;
        }
        let Some(s) = self.handshake.as_mut().and_then(|h| h.space(d.space)) else { return };
        let Some(keys) = &s.keys else { return };
        let sealed = keys.local.packet().seal(d.pn, packet, header, d.end - d.payload_at);
        if sealed.is_none() || !keys.local.header().mask(packet, pn_at) {
            s.sent.abandon();
            return;
        }
        let info = SentInfo {
            bytes: packet.len() as u16,
            ack_eliciting: d.ack_eliciting,
            // RFC 9002 §2: padding counts as in flight.
            in_flight: d.ack_eliciting || padded,
            ..SentInfo::default()
        };
        let bytes = packet.len() as u64;
        s.sent.commit(now, info);
        self.stats.tx_packets += 1;
        if d.ack_eliciting {
            self.on_eliciting_sent(now, bytes, d.pn);
        } else if padded {
            self.path.bytes_in_flight += bytes;
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "the layout of one packet, and what may go in")]
fn draft_in_space(
    now: Instant,
    s: &mut super::space::HandshakeSpace,
    space: SpaceId,
    header: &LongHeader<'_>,
    buf: &mut [u8],
    start: usize,
    full: bool,
    quiet: bool,
    quiet_max: u32,
) -> Option<Draft> {
    s.keys.as_ref()?;
    let probing = s.probes > 0 && !quiet;
    let full = full && !quiet;
    let crypto = s.crypto_send.has_pending() && (full || probing);
    if !crypto && !probing && s.sent.quiet() >= quiet_max {
        s.received.ack_sent();
    }
    if !crypto && !probing && !s.received.ack_due(now) {
        return None;
    }
    let pn = s.sent.next_pn();
    let room = buf.len().checked_sub(TAG_LEN)?;
    let mut w = Writer::new(&mut buf[..room]);
    let layout = header.write(&mut w, pn, pn_len(pn, s.sent.largest_acked())).ok()?;
    let payload_at = w.position();
    if (probing || s.received.ack_is_pending(now))
        && let Some(largest) = write_received(&mut w, &mut s.received, now)
    {
        s.sent.push_frame(SentFrame::Ack { largest });
    }
    let mut ack_eliciting = false;
    while (full || probing)
        && let Some(frame) = write_crypto(&mut w, &mut s.crypto_send)
    {
        s.sent.push_frame(frame);
        ack_eliciting = true;
    }
    if probing && !ack_eliciting && Frame::Ping.write(&mut w).is_ok() {
        s.sent.push_frame(SentFrame::Ping);
        ack_eliciting = true;
    }
    if w.position() == payload_at {
        s.sent.abandon();
        return None;
    }
    s.probes = s.probes.saturating_sub(u8::from(probing));
    pad_to(&mut w, layout.pn_at + MIN_PN_AND_PAYLOAD);
    Some(Draft {
        space,
        start,
        length_at: Some(start + layout.length_at),
        pn_at: start + layout.pn_at,
        payload_at: start + payload_at,
        end: start + w.position(),
        pn,
        ack_eliciting,
    })
}

fn pad_to(w: &mut Writer<'_>, end: usize) {
    if w.position() < end {
        let _fits = Frame::Padding { len: end - w.position() }.write(w);
    }
}

/// Writes the next piece of a CRYPTO stream.
fn write_crypto(
    w: &mut Writer<'_>,
    crypto: &mut super::crypto_stream::CryptoSend,
) -> Option<SentFrame> {
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
