//! From a packet's payload to what its frames mean (RFC 9000 §19).

use super::acks::Outcome;
use super::error::{TransportError, code};
use super::space::Arrival;
use super::{Application, Connection, Event};
use crate::proto::sent::StreamRef;
use crate::proto::streams::{Delivery, StreamError};
use crate::time::Instant;
use crate::wire::frame::Frame;
use crate::wire::packet::PacketType;
use crate::wire::{Reader, Side, StreamId};

impl Connection {
    /// Reads all frames of a payload and lets them act. It has one caller: as a call of its own it
    /// costs each packet some dozens of instructions, and whether it is one changes with its size.
    #[inline(always)]
    pub(super) fn read_frames(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        payload: &[u8],
        app: &mut dyn Application,
    ) -> Result<Outcome, TransportError> {
        let kind = arrival.space.packet_type();
        let mut outcome = Outcome::default();
        let mut reader = Reader::new(payload);
        while !reader.is_empty() {
            let frame = Frame::read(&mut reader)?;
            if kind != PacketType::Short && !frame.allowed_in(kind) {
                // RFC 9000 §12.4.
                return Err(TransportError {
                    frame_type: frame.frame_type(),
                    ..TransportError::protocol_violation("frame not allowed in this packet")
                });
            }
            outcome.ack_eliciting |= frame.ack_eliciting();
            if let Frame::Stream { stream, offset, data, fin } = frame {
                outcome.refused |= self.on_stream(stream, offset, data, fin, app)?;
            } else {
                self.on_frame(now, arrival, &frame).map_err(|e| at_frame(e, &frame))?;
            }
            if self.is_closed() {
                break;
            }
        }
        Ok(outcome)
    }

    /// Everything but STREAM.
    fn on_frame(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        frame: &Frame<'_>,
    ) -> Result<(), TransportError> {
        match *frame {
            Frame::Padding { .. } | Frame::Ping | Frame::Stream { .. } => {}
            Frame::Ack(ref ack) => self.on_ack(now, arrival.space, ack)?,
            Frame::Crypto { offset, data } => self.on_crypto(now, arrival.space, offset, data)?,
            Frame::ConnectionClose { code, frame_type, reason } => {
                self.on_connection_close(now, code, frame_type, reason);
            }
            Frame::ApplicationClose { code, reason } => {
                self.on_application_close(now, code, reason);
            }
            Frame::NewConnectionId { sequence, retire_prior_to, cid, reset_token } => {
                let numbers = (sequence, retire_prior_to);
                self.on_new_connection_id(now, numbers, cid, reset_token)?;
            }
            Frame::RetireConnectionId { sequence } => {
                self.on_retire_connection_id(now, sequence, arrival)?;
            }
            Frame::PathChallenge(data) => self.on_path_challenge(arrival.path, data),
            Frame::PathResponse(data) => self.on_path_response(now, data),
            Frame::HandshakeDone => self.on_handshake_done(now)?,
            Frame::NewToken { token } => self.on_new_token(token)?,
            Frame::ResetStream { .. }
            | Frame::StopSending { .. }
            | Frame::MaxData(_)
            | Frame::MaxStreamData { .. }
            | Frame::MaxStreams { .. }
            | Frame::DataBlocked(_)
            | Frame::StreamDataBlocked { .. }
            | Frame::StreamsBlocked { .. } => self.on_stream_control(frame)?,
        }
        Ok(())
    }

    fn on_stream_control(&mut self, frame: &Frame<'_>) -> Result<(), StreamError> {
        let s = &mut self.streams;
        match *frame {
            Frame::ResetStream { stream, code, final_size } => {
                s.on_reset_stream(stream, code, final_size)
            }
            Frame::StopSending { stream, code } => s.on_stop_sending(stream, code),
            Frame::MaxData(max) => s.on_max_data(max),
            Frame::MaxStreamData { stream, max } => s.on_max_stream_data(stream, max),
            Frame::MaxStreams { dir, max } => s.on_max_streams(dir, max),
            Frame::DataBlocked(limit) => s.on_data_blocked(limit),
            Frame::StreamDataBlocked { stream, limit } => s.on_stream_data_blocked(stream, limit),
            Frame::StreamsBlocked { dir, limit } => s.on_streams_blocked(dir, limit),
            Frame::Padding { .. }
            | Frame::Ping
            | Frame::Ack(_)
            | Frame::Crypto { .. }
            | Frame::NewToken { .. }
            | Frame::Stream { .. }
            | Frame::NewConnectionId { .. }
            | Frame::RetireConnectionId { .. }
            | Frame::PathChallenge(_)
            | Frame::PathResponse(_)
            | Frame::ConnectionClose { .. }
            | Frame::ApplicationClose { .. }
            | Frame::HandshakeDone => Ok(()),
        }
    }

    /// STREAM: lends what is next in order to the application. True if the stream could not
    /// keep the data: the packet must not be acknowledged.
    #[inline]
    fn on_stream(
        &mut self,
        id: StreamId,
        offset: u64,
        data: &[u8],
        fin: bool,
        app: &mut dyn Application,
    ) -> Result<bool, TransportError> {
        match self.streams.on_stream(id, offset, data, fin)? {
            Delivery::Lend { stream, skip, fin } => {
                self.deliver_stream_events(app);
                let fresh = &data[skip..];
                if self.is_closed() || !self.streams.is_to_show(stream, fresh, fin) {
                    return Ok(false);
                }
                let taken = app.data(self, id, fresh, fin).min(fresh.len());
                self.streams.taken(stream, taken, &fresh[taken..], fin);
                self.deliver_buffered(stream, app);
                Ok(false)
            }
            Delivery::Ready { stream } => {
                self.deliver_stream_events(app);
                self.deliver_buffered(stream, app);
                Ok(false)
            }
            Delivery::Buffered | Delivery::Placed | Delivery::Nothing => Ok(false),
            Delivery::Refused => {
                self.stats.rx_refused += 1;
                Ok(true)
            }
        }
    }

    /// A stream is announced before its first data.
    #[inline]
    fn deliver_stream_events(&mut self, app: &mut dyn Application) {
        while let Some(event) = self.streams.pop_event() {
            self.emit(Event::Stream(event), app);
        }
    }

    /// Lends what had been buffered and is now in order, or is asked for again.
    pub(super) fn deliver_buffered(&mut self, stream: StreamRef, app: &mut dyn Application) {
        while let Some(buffer) = self.streams.detach_ready(stream) {
            let Some(id) = self.streams.id_of(stream) else {
                self.streams.attach(stream, buffer, 0);
                return;
            };
            let (front, fin) = buffer.front();
            let len = front.len();
            let taken = app.data(self, id, front, fin).min(len);
            if self.is_closed() {
                // The application has closed: the streams that the buffer belongs to are gone.
                return;
            }
            self.streams.attach(stream, buffer, taken);
            if taken < len {
                return;
            }
        }
    }

    fn on_handshake_done(&mut self, now: Instant) -> Result<(), TransportError> {
        // RFC 9000 §19.20: only a server says so.
        if self.side == Side::Server {
            return Err(TransportError::protocol_violation("HANDSHAKE_DONE from a client"));
        }
        // Early, that is before TLS has finished, it cannot be: its packet needs 1-RTT keys, and
        // a client has them only with the server's Finished.
        if self.is_established() {
            self.confirm(now);
        }
        Ok(())
    }

    fn on_new_token(&mut self, token: &[u8]) -> Result<(), TransportError> {
        // RFC 9000 §19.7.
        if self.side == Side::Server {
            return Err(TransportError::protocol_violation("NEW_TOKEN from a client"));
        }
        self.events.push_back(Event::NewToken { token: token.into() });
        Ok(())
    }
}

/// Says which frame was at fault.
fn at_frame(e: TransportError, frame: &Frame<'_>) -> TransportError {
    let frame_type = if e.code >= code::CRYPTO_ERROR { 0x06 } else { frame.frame_type() };
    TransportError { frame_type, ..e }
}
