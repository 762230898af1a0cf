//! The application of a single stream.

use super::references::ConnectionRef;
use crate::proto::streams::StreamEvent;
use crate::wire::StreamId;
use bytes::BytesMut;
use std::collections::HashMap;

/// The application of one stream: what it does when something happens there.
///
/// [`ConnectionRef::set_stream_handler`] gives a stream one. From then on it gets the stream's callbacks
/// instead of the connection's [`Handler`](super::Handler), under the same rules: on the thread of the connection's
/// worker, one after another. It moves with its connection to another worker, hence `Send`. It is
/// dropped after [`closed`](Self::closed), which every stream gets, also when the connection ends. A panic ends
/// its connection, in [`Drop`] too.
///
/// ```
/// use quiclane::exec::{ConnectionRef, StreamHandler};
/// use quiclane::wire::StreamId;
///
/// /// Counts what one stream brings.
/// struct Count(u64);
///
/// impl StreamHandler for Count {
///     fn data(&mut self, _: &mut ConnectionRef<'_>, _: StreamId, data: &[u8], fin: bool) -> usize {
///         self.0 += data.len() as u64;
///         if fin {
///             println!("{} bytes", self.0);
///         }
///         data.len()
///     }
/// }
/// ```
#[expect(unused_variables, reason = "the defaults look at nothing, and names tell what is what")]
pub trait StreamHandler: Send + 'static {
    /// As [`Handler::stream_data`](super::Handler::stream_data).
    fn data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        data.len()
    }

    /// As [`Handler::acknowledged`](super::Handler::acknowledged).
    fn acknowledged(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        bytes: u64,
        fin: bool,
    ) {
    }

    /// As [`Handler::send_complete`](super::Handler::send_complete).
    fn send_complete(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        context: u64,
        cancelled: bool,
    ) {
    }

    /// As [`Handler::send_ready`](super::Handler::send_ready).
    fn send_ready(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId) {}

    /// As [`Handler::buffer_filled`](super::Handler::buffer_filled).
    fn buffer_filled(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        buffer: BytesMut,
        len: usize,
        fin: bool,
    ) {
    }

    /// As [`Handler::receive_buffer_needed`](super::Handler::receive_buffer_needed).
    fn receive_buffer_needed(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId) {}

    /// As [`Handler::stream_reset`](super::Handler::stream_reset).
    fn reset(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId, code: u64) {}

    /// As [`Handler::stop_sending`](super::Handler::stop_sending).
    fn stop_sending(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId, code: u64) {}

    /// As [`Handler::stream_closed`](super::Handler::stream_closed). The last callback.
    fn closed(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId, context: u64) {}
}

/// Tells the application of a stream what happened there.
pub(in crate::exec) fn tell_own(
    own: &mut dyn StreamHandler,
    c: &mut ConnectionRef<'_>,
    event: StreamEvent,
) {
    match event {
        StreamEvent::Acknowledged { stream, bytes, fin } => own.acknowledged(c, stream, bytes, fin),
        StreamEvent::SendComplete { stream, context, cancelled } => {
            own.send_complete(c, stream, context, cancelled);
        }
        StreamEvent::SendReady { stream } => own.send_ready(c, stream),
        StreamEvent::BufferFilled { stream, buffer, len, fin } => {
            own.buffer_filled(c, stream, buffer, len, fin);
        }
        StreamEvent::BufferNeeded { stream } => own.receive_buffer_needed(c, stream),
        StreamEvent::StopSending { stream, code } => own.stop_sending(c, stream, code),
        StreamEvent::Reset { stream, code } => own.reset(c, stream, code),
        StreamEvent::Closed { stream, context } => own.closed(c, stream, context),
        // The connection's own.
        StreamEvent::Opened { .. } | StreamEvent::Available { .. } | StreamEvent::Needed { .. } => {
        }
    }
}

/// The streams of a connection that have an application of their own: `None` while that one is called.
#[derive(Default)]
pub(in crate::exec) struct StreamHandlers {
    handlers: HashMap<StreamId, Option<Box<dyn StreamHandler>>>,
}

impl StreamHandlers {
    pub(in crate::exec) fn set(&mut self, stream: StreamId, handler: Box<dyn StreamHandler>) {
        self.handlers.insert(stream, Some(handler));
    }

    /// Takes the application of a stream out for a call.
    pub(in crate::exec) fn take(&mut self, stream: StreamId) -> Option<Box<dyn StreamHandler>> {
        self.handlers.get_mut(&stream)?.take()
    }

    /// Puts it back. Given back if there is another one by now.
    pub(in crate::exec) fn put(
        &mut self,
        stream: StreamId,
        handler: Box<dyn StreamHandler>,
    ) -> Option<Box<dyn StreamHandler>> {
        let Some(place @ None) = self.handlers.get_mut(&stream) else { return Some(handler) };
        *place = Some(handler);
        None
    }

    /// The stream is closed: its application, to be dropped.
    pub(in crate::exec) fn forget(&mut self, stream: StreamId) -> Option<Box<dyn StreamHandler>> {
        self.handlers.remove(&stream)?
    }

    /// All of them, to be dropped one by one.
    pub(in crate::exec) fn all(self) -> impl Iterator<Item = Box<dyn StreamHandler>> {
        self.handlers.into_values().flatten()
    }
}
