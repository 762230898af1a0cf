//! The end of a connection (RFC 9000 §10).

use super::closing::{Closing, cut};
use super::error::{CloseReason, TransportError, code};
use super::space::SpaceId;
use super::{Connection, Drained, Event, State};
use crate::ecn::Ecn;
use crate::proto::packet_builder::{Header, Number, PacketBuilder};
use crate::proto::recovery::SentInfo;
use crate::proto::streams::Streams;
use crate::time::{Instant, SECOND_NS};
use crate::wire::frame::Frame;
use crate::wire::{ConnectionId, Side, Writer};
use bytes::Bytes;

/// Three probe timeouts are as long as the peer likes: one that acknowledges its first packet after
/// 9 s makes them 81. This is long enough for a round trip of 1.1 s.
const CLOSING_MAX_NS: u64 = 10 * SECOND_NS;

impl Connection {
    /// The application closes.
    pub(super) fn close_application(&mut self, now: Instant, code: u64, reason: Bytes) {
        if self.is_closed() {
            return;
        }
        let closing = Closing::new(code, 0, reason, true);
        self.begin_closing(now, closing, CloseReason::Local { code });
    }

    /// The peer broke the protocol, or we cannot go on.
    pub(super) fn close_transport(&mut self, now: Instant, e: TransportError) {
        if self.is_closed() {
            return;
        }
        let closing =
            Closing::new(e.code, e.frame_type, Bytes::from_static(e.reason.as_bytes()), false);
        // The peer is told the code; the application also hears which certificate it was.
        let failure = self.session.as_ref().and_then(|session| session.failure());
        let reason = match failure {
            Some(tls) if tls.code() == e.code => CloseReason::Handshake(tls.clone()),
            _ => CloseReason::Transport(e),
        };
        self.begin_closing(now, closing, reason);
    }

    /// A server does not want a client that it has kept waiting for an answer.
    pub(super) fn turn_away(&mut self, now: Instant, error: TransportError) {
        self.close_transport(now, error);
        self.closing = self.closing.take().map(|closing| Box::new(closing.repeated()));
    }

    pub(super) fn close_aead_limit(&mut self, now: Instant) {
        let e = TransportError::new(code::AEAD_LIMIT_REACHED, "a key has protected all it may");
        // The key may not protect the close either: the connection just ends.
        self.end_silently(now, CloseReason::Transport(e));
    }

    fn begin_closing(&mut self, now: Instant, closing: Closing, reason: CloseReason) {
        // RFC 9000 §9.5: also a close after silence may leave from another address.
        self.wake(now);
        self.closing = Some(Box::new(closing));
        self.enter(now, State::Closing, reason);
    }

    /// CONNECTION_CLOSE of type 0x1c arrived.
    pub(super) fn on_connection_close(
        &mut self,
        now: Instant,
        code: u64,
        frame_type: u64,
        reason: &[u8],
    ) {
        let reason = Bytes::copy_from_slice(cut(reason));
        self.begin_draining(now, CloseReason::PeerTransport { code, frame_type, reason });
    }

    /// CONNECTION_CLOSE of type 0x1d arrived.
    pub(super) fn on_application_close(&mut self, now: Instant, code: u64, reason: &[u8]) {
        let reason = Bytes::copy_from_slice(cut(reason));
        self.begin_draining(now, CloseReason::PeerApplication { code, reason });
    }

    /// RFC 9000 §10.2.2: the peer closes, and is answered with one packet, from which it learns that we
    /// know. A server that refuses a client may have no state: who is not connected to it does not answer.
    fn begin_draining(&mut self, now: Instant, reason: CloseReason) {
        if self.is_closed() {
            return;
        }
        self.wake(now);
        self.peer_closed = true;
        self.enter(now, State::Draining, reason);
        let has_state = self.completed || self.side == Side::Server;
        if self.state == State::Draining && has_state {
            self.closing = Some(Box::new(Closing::answer()));
        }
    }

    /// RFC 9000 §10.2.1: the peer has answered our close, so that nothing more is to be said. If ours has
    /// not left yet, the peer closes by itself, and what we say is the answer.
    pub(super) fn close_is_answered(&mut self, now: Instant) {
        self.peer_closed = true;
        self.state = State::Draining;
        self.closing.take_if(|closing| closing.said);
        self.others = None;
        self.paths_busy = false;
        self.tell_changes(now);
    }

    /// How the connection ended; `None` until it closes. It changes until
    /// [`is_drained`](Self::is_drained).
    #[must_use]
    pub fn ending(&self) -> Option<Drained> {
        let reason = CloseReason::clone(self.close_reason.as_ref()?);
        let (handshake_completed, acknowledged) = (self.completed, self.peer_closed);
        Some(Drained { reason, handshake_completed, acknowledged })
    }

    /// The connection is over, and the peer is not told.
    pub(super) fn end_silently(&mut self, now: Instant, reason: CloseReason) {
        if self.is_closed() {
            return;
        }
        self.enter(now, State::Drained, reason);
        self.deadlines.close = now;
    }

    /// Ends a handshake at once, and tells its peer nothing: its place is needed.
    pub fn abandon(&mut self, now: Instant) {
        let reason = "more handshakes began than there are places for";
        let error = TransportError::new(code::CONNECTION_REFUSED, reason);
        self.end_silently(now, CloseReason::Transport(error));
    }

    fn enter(&mut self, now: Instant, state: State, reason: CloseReason) {
        if self.is_closed() {
            return;
        }
        // RFC 9000 §10.2.1: a peer that may have forged its address is answered once, and nothing is
        // kept.
        self.state = match state {
            State::Draining if !self.is_address_validated() => State::Drained,
            State::Handshaking
            | State::Established
            | State::Closing
            | State::Draining
            | State::Drained => state,
        };
        // RFC 9000 §10.2: three probe timeouts.
        self.deadlines.close = now.plus_ns(self.three_ptos_ns(CLOSING_MAX_NS));
        self.path.bytes_in_flight = 0;
        // Streams, and the application's data that they hold, go at once.
        let none = Streams::new(self.side, self.config.limits());
        let streams = std::mem::replace(&mut self.streams, none);
        self.data.sent.forget();
        self.data.probes = 0;
        self.session = None;
        self.tickets = None;
        self.tickets_received = None;
        self.early = None;
        self.keep_last_validated();
        self.events.clear();
        streams.end(|event| self.events.push_back(Event::Stream(event)));
        self.close_reason = Some(Box::new(reason.clone()));
        self.events.push_back(Event::Closed(reason));
        self.tell_changes(now);
    }

    /// Of the other paths, one is of use for a close: the last that is known to lead to the peer, while
    /// the active one is not. A third party that had a packet come from an address of its own
    /// would swallow the close otherwise.
    fn keep_last_validated(&mut self) {
        let validated = self.path.validation.is_validated() && !self.path.is_challenged();
        let others = self.others.take().filter(|_| self.state == State::Closing && !validated);
        self.others = others.and_then(|mut others| {
            others.paths.retain(|other| other.fallback);
            (!others.paths.is_empty()).then_some(others)
        });
        self.paths_busy = self.others.is_some();
    }

    /// A datagram that arrives while closing is answered with the close, ever more rarely.
    pub(super) fn on_closing_datagram(&mut self) {
        if let Some(c) = &mut self.closing {
            c.heard += 1;
            if c.heard >= c.answer_at {
                c.answer_at = c.answer_at.saturating_mul(2);
                (c.pending, c.pending_elsewhere) = (true, true);
            }
        }
    }

    /// True while a CONNECTION_CLOSE has to be written.
    pub(super) fn close_is_pending(&self) -> bool {
        self.closing.as_ref().is_some_and(|c| c.pending)
    }

    /// Writes the close, in every space that the peer may be able to read.
    pub(super) fn transmit_close(&mut self, now: Instant, buf: &mut [u8]) -> Option<usize> {
        let mut closing = self.closing.take()?;
        let budget = usize::try_from(self.path.validation.budget()).unwrap_or(usize::MAX);
        let limit = buf.len().min(usize::from(super::MIN_DATAGRAM_BYTES)).min(budget);
        let mut at = 0;
        if std::mem::take(&mut closing.pending) {
            closing.said = true;
            for space in [SpaceId::Initial, SpaceId::Handshake, SpaceId::Data] {
                if space == SpaceId::Initial && self.peer_reads_handshake() {
                    continue;
                }
                let written = self.write_close(now, space, &closing, &mut buf[at..limit]);
                at += written.unwrap_or(0);
            }
        }
        let is_repeated = closing.is_repeated;
        self.closing = Some(closing);
        if !self.is_address_validated() && !is_repeated && self.others.is_none() {
            self.state = State::Drained;
            self.tell_changes(now);
        }
        self.path.validation.on_sent(at);
        (at > 0).then_some(at)
    }

    /// RFC 9000 §10.2.3: a client that has Handshake keys has them from a server that has them too. That
    /// one believes more of a Handshake packet than of an Initial, which anyone can make.
    fn peer_reads_handshake(&self) -> bool {
        let keys = self.handshake.as_ref().is_some_and(|h| h.handshake.keys.is_some());
        self.side == Side::Client && keys
    }

    /// Writes the close for the path that is the active one at the moment.
    pub(super) fn write_close_elsewhere(
        &mut self,
        now: Instant,
        dcid: &ConnectionId,
        buf: &mut [u8],
    ) -> Option<(usize, Ecn)> {
        let closing = self.closing.as_mut()?;
        closing.pending_elsewhere = false;
        let phase = self.keys.as_ref()?.phase();
        let header = Header::Short { dcid, phase, local_cid_len: self.local_cid_len };
        let number = Number::long(self.data.sent.next_pn());
        let budget = usize::try_from(self.path.validation.budget()).unwrap_or(usize::MAX);
        let size = buf.len().min(usize::from(super::MIN_DATAGRAM_BYTES)).min(budget);
        let (packet, mut w) = PacketBuilder::begin(header, number, &mut buf[..size])?;
        closing.frame(true).write(&mut w).ok()?;
        let draft = packet.end(w, SentInfo::default());
        let len = self.finish(now, SpaceId::Data, draft, buf)?;
        self.path.validation.on_sent(len);
        Some((len, Ecn::NotEct))
    }

    fn write_close(
        &mut self,
        now: Instant,
        space: SpaceId,
        c: &Closing,
        buf: &mut [u8],
    ) -> Option<usize> {
        let (packet, mut w) = match space {
            SpaceId::Data => self.begin_data(Number::long(self.data.sent.next_pn()), buf)?,
            SpaceId::Initial | SpaceId::Handshake => self.begin_long(space, buf)?,
        };
        c.frame(space == SpaceId::Data).write(&mut w).ok()?;
        if space == SpaceId::Initial {
            // RFC 9000 §14.1; a server's close asks for no acknowledgement, and need not.
            pad_initial(&mut w, self.side);
        }
        let draft = packet.end(w, SentInfo::default());
        self.finish(now, space, draft, buf)
    }
}

/// A client's Initial fills its datagram.
fn pad_initial(w: &mut Writer<'_>, side: Side) {
    if side == Side::Client {
        let _fits = Frame::Padding { len: w.remaining() }.write(w);
    }
}
