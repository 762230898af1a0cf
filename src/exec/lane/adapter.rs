//! From the protocol's callbacks to the application's [`Handler`].

use super::super::api::{
    ConnectionRef, Handler, Processor, Seat, Services, StreamHandler, StreamHandlers, tell_own,
};
use super::super::message::Refusal;
use super::super::overrun::Callback;
use super::super::sys::Readiness;
use crate::proto::connection::{Application, Connection, Event};
use crate::proto::streams::StreamEvent;
use crate::wire::StreamId;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a callback. If it panics, what the panic said.
pub(in crate::exec) fn guarded<R>(body: impl FnOnce() -> R) -> Result<R, String> {
    // What a callback can reach is closed and dropped after a panic, and not looked at again.
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let message = text.or_else(|| panic.downcast_ref::<String>().cloned());
        // A payload that panics as it is dropped would get past this.
        std::mem::forget(panic);
        message.unwrap_or_else(|| "without a message".to_owned())
    })
}

/// Drops what is the application's: its code runs in that too, and a panic there is its own.
pub(super) fn discard<T>(services: &mut Services, what: T) {
    if let Err(message) = guarded(|| drop(what)) {
        has_panicked_in_drop(services, &message);
    }
}

#[cold]
fn has_panicked_in_drop(services: &mut Services, message: &str) {
    let worker = services.worker();
    tracing::error!(worker, message, "what an application has left panicked as it was dropped");
    services.panics += 1;
}

/// Drops the applications of streams, one by one, so that none is left when one of them panics.
pub(super) fn discard_streams(services: &mut Services, streams: Option<Box<StreamHandlers>>) {
    for own in streams.into_iter().flat_map(|streams| streams.all()) {
        discard(services, own);
    }
}

/// One connection's application, with what its callbacks may reach.
///
/// A connection lives on for a while after it has closed, to answer what still arrives. Its
/// application gets one more callback, when that is over: timers, descriptors and calls of handles
/// that come later are dropped.
pub(super) struct CallbackAdapter<'a> {
    pub(super) handler: &'a mut dyn Handler,
    pub(super) seat: &'a mut Seat,
    pub(super) services: &'a mut Services,
}

impl CallbackAdapter<'_> {
    /// Calls the application, and notes that it was. One that panics gets no further callback, and its
    /// connection is closed; the result is the default then.
    fn call<R: Default>(
        &mut self,
        connection: &mut Connection,
        callback: Callback,
        body: impl FnOnce(&mut dyn Handler, &mut ConnectionRef<'_>) -> R,
    ) -> R {
        let entered = self.services.overruns.entered(callback);
        let mut reference = ConnectionRef::new(connection, self.seat, self.services);
        let result = guarded(|| body(self.handler, &mut reference));
        self.services.overruns.left(callback, entered);
        result.unwrap_or_else(|message| {
            self.has_panicked(connection, callback, &message);
            R::default()
        })
    }

    #[cold]
    fn has_panicked(&mut self, connection: &mut Connection, callback: Callback, message: &str) {
        let (remote, name) = (connection.remote(), callback.name());
        tracing::error!(%remote, callback = name, message, "a callback panicked: its connection is closed");
        self.services.panics += 1;
        // Nothing more is told to it.
        (self.seat.over, self.seat.panicked) = (true, true);
        self.end_address();
        connection.fail(self.services.now(), "the application failed");
    }

    pub(super) fn woken(&mut self, connection: &mut Connection, token: u64) {
        if !connection.is_closed() {
            self.call(connection, Callback::Woken, |handler, c| handler.woken(c, token));
        }
    }

    pub(super) fn refused(&mut self, connection: &mut Connection, refusal: Refusal) {
        if !connection.is_closed() {
            self.call(connection, Callback::Woken, |handler, c| handler.refused(c, refusal));
        }
    }

    pub(super) fn timer(&mut self, connection: &mut Connection, token: u64) {
        if !connection.is_closed() {
            self.call(connection, Callback::Timer, |handler, c| handler.timer(c, token));
        }
    }

    pub(super) fn ready(&mut self, connection: &mut Connection, token: u64, ready: Readiness) {
        if !connection.is_closed() {
            self.call(connection, Callback::Ready, |handler, c| handler.ready(c, token, ready));
        }
    }

    /// Asks whether the connection moves to another worker.
    pub(super) fn ideal_processor_changed(
        &mut self,
        connection: &mut Connection,
        processor: Processor,
    ) -> bool {
        self.call(connection, Callback::Moved, |handler, c| {
            handler.ideal_processor_changed(c, processor)
        })
    }

    /// The connection has moved here.
    pub(super) fn moved(&mut self, connection: &mut Connection, from: usize) {
        self.call(connection, Callback::Moved, |handler, c| handler.moved(c, from));
    }

    /// The connection is about to leave its place.
    pub(super) fn drained(&mut self, connection: &mut Connection) {
        // What is to be told before that: a key that is used up ends a connection as it writes.
        connection.deliver_events(self);
        let Some(drained) = connection.ending() else { return };
        if !self.seat.panicked {
            let told = drained.clone();
            self.call(connection, Callback::Closed, |handler, c| handler.drained(c, told));
        }
        if let Some(address) = &self.seat.address {
            address.end();
            address.fate.tell(&drained);
        }
    }

    /// A watch did not survive the move.
    pub(super) fn lost_watch(&mut self, connection: &mut Connection, token: u64) {
        let nothing = Readiness { readable: false, writable: false };
        self.ready(connection, token, nothing);
    }

    /// Runs a closure with the connection.
    pub(super) fn run(
        &mut self,
        connection: &mut Connection,
        task: impl FnOnce(&mut ConnectionRef<'_>),
    ) {
        self.call(connection, Callback::Task, |_, c| task(c));
    }
}

impl Application for CallbackAdapter<'_> {
    fn data(
        &mut self,
        connection: &mut Connection,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        if self.seat.over {
            return data.len();
        }
        if self.seat.stream_handlers.is_some()
            && let Some(own) = self.take_own(stream)
        {
            return self.call_own(connection, Callback::StreamData, (stream, own), |own, c| {
                own.data(c, stream, data, fin)
            });
        }
        self.call(connection, Callback::StreamData, |handler, c| {
            handler.stream_data(c, stream, data, fin)
        })
    }

    fn event(&mut self, connection: &mut Connection, event: Event) {
        if self.seat.over {
            return;
        }
        let callback = match event {
            Event::PeerCertificate(_)
            | Event::Resumed { .. }
            | Event::Connected { .. }
            | Event::HandshakeConfirmed
            | Event::TicketReceived => Callback::Connected,
            Event::Stream(StreamEvent::Acknowledged { .. } | StreamEvent::SendComplete { .. }) => {
                Callback::Acknowledged
            }
            Event::Stream(_) | Event::NewToken { .. } => Callback::StreamEvent,
            Event::PeerAddressChanged { .. }
            | Event::LocalAddressChanged { .. }
            | Event::MigrationFailed { .. } => Callback::AddressChanged,
            Event::NetworkStatistics | Event::IdealSendBuffer { .. } => Callback::Network,
            Event::Closed(_) => Callback::Closed,
        };
        if self.seat.stream_handlers.is_some()
            && let Event::Stream(event) = event
        {
            self.stream_event(connection, callback, event);
            return;
        }
        let over = matches!(event, Event::Closed(_));
        if over {
            // Before the callback: a thread that the handler signals in it may use a handle at once,
            // and must get the error that the connection is gone.
            self.end_address();
        }
        if !(over && self.seat.told_inline) {
            self.call(connection, callback, |handler, c| tell(handler, c, event));
        }
        if over {
            self.seat.over = true;
            // The handler may have asked for a handle just now.
            self.end_address();
            let streams = self.seat.stream_handlers.take();
            for own in streams.into_iter().flat_map(|streams| streams.all()) {
                self.drop_own(connection, own);
            }
        }
    }
}

impl CallbackAdapter<'_> {
    /// The own application of a stream, if it has one, for a call.
    fn take_own(&mut self, stream: StreamId) -> Option<Box<dyn StreamHandler>> {
        self.seat.stream_handlers.as_mut()?.take(stream)
    }

    /// Drops the own application of a stream: as a callback, so that a panic in it ends the connection.
    fn drop_own(&mut self, connection: &mut Connection, own: Box<dyn StreamHandler>) {
        if let Err(message) = guarded(|| drop(own)) {
            self.has_panicked(connection, Callback::StreamEvent, &message);
        }
    }

    /// Calls the own application of a stream. After a panic too it is dropped elsewhere.
    fn call_own<R: Default>(
        &mut self,
        connection: &mut Connection,
        callback: Callback,
        (stream, mut own): (StreamId, Box<dyn StreamHandler>),
        body: impl FnOnce(&mut dyn StreamHandler, &mut ConnectionRef<'_>) -> R,
    ) -> R {
        let result = self.call(connection, callback, |_, c| body(&mut *own, c));
        let replaced = match &mut self.seat.stream_handlers {
            Some(handlers) => handlers.put(stream, own),
            None => Some(own),
        };
        if let Some(own) = replaced {
            self.drop_own(connection, own);
        }
        result
    }

    #[cold]
    fn stream_event(
        &mut self,
        connection: &mut Connection,
        callback: Callback,
        event: StreamEvent,
    ) {
        let stream = event.stream();
        let is_closed = matches!(event, StreamEvent::Closed { .. });
        let is_opened = matches!(event, StreamEvent::Opened { .. });
        let named = stream.filter(|_| !is_opened);
        match named.and_then(|stream| Some((stream, self.take_own(stream)?))) {
            Some(own) => {
                self.call_own(connection, callback, own, |own, c| tell_own(own, c, event));
            }
            None => self.call(connection, callback, |handler, c| tell_stream(handler, c, event)),
        }
        if let (true, Some(stream), Some(handlers)) =
            (is_closed, stream, &mut self.seat.stream_handlers)
            && let Some(own) = handlers.forget(stream)
        {
            self.drop_own(connection, own);
        }
    }

    fn end_address(&self) {
        if let Some(address) = &self.seat.address {
            address.end();
        }
    }
}

fn tell(handler: &mut dyn Handler, c: &mut ConnectionRef<'_>, event: Event) {
    match event {
        Event::PeerCertificate(certificate) => {
            let verdict = handler.peer_certificate(c, &certificate);
            c.judge_certificate(verdict);
        }
        Event::Resumed { data } => handler.resumed(c, &data),
        Event::Connected { resumed } => handler.connected(c, resumed),
        Event::TicketReceived => handler.ticket_received(c),
        Event::HandshakeConfirmed => handler.confirmed(c),
        Event::Stream(event) => tell_stream(handler, c, event),
        Event::NewToken { token } => handler.new_token(c, &token),
        Event::PeerAddressChanged { remote } => handler.peer_address_changed(c, remote),
        Event::LocalAddressChanged { local } => handler.local_address_changed(c, local),
        Event::MigrationFailed { local } => handler.migration_failed(c, local),
        Event::NetworkStatistics => {
            let statistics = c.network_statistics();
            handler.network_statistics(c, &statistics);
        }
        Event::IdealSendBuffer { bytes } => handler.ideal_send_buffer_changed(c, bytes),
        Event::Closed(reason) => handler.closed(c, reason),
    }
}

fn tell_stream(handler: &mut dyn Handler, c: &mut ConnectionRef<'_>, event: StreamEvent) {
    match event {
        StreamEvent::Opened { stream } => handler.stream_opened(c, stream),
        StreamEvent::Acknowledged { stream, bytes, fin } => {
            handler.acknowledged(c, stream, bytes, fin);
        }
        StreamEvent::SendComplete { stream, context, cancelled } => {
            handler.send_complete(c, stream, context, cancelled);
        }
        StreamEvent::StopSending { stream, code } => handler.stop_sending(c, stream, code),
        StreamEvent::Reset { stream, code } => handler.stream_reset(c, stream, code),
        StreamEvent::Closed { stream, context } => handler.stream_closed(c, stream, context),
        StreamEvent::SendReady { stream } => handler.send_ready(c, stream),
        StreamEvent::BufferFilled { stream, buffer, len, fin } => {
            handler.buffer_filled(c, stream, buffer, len, fin);
        }
        StreamEvent::BufferNeeded { stream } => handler.receive_buffer_needed(c, stream),
        StreamEvent::Available { dir, count } => handler.streams_available(c, dir, count),
        StreamEvent::Needed { dir } => handler.peer_needs_streams(c, dir),
    }
}
