//! The application's side: what it implements, and what its callbacks are given.
//!
//! An application implements [`Handler`] for each connection. Its methods are called on the
//! thread of the worker that owns the connection, one after another, never in parallel and
//! never from within each other. Each is given a [`ConnectionRef`], on which calls run inline:
//! their effect is there when they return, and what follows from it comes in a later callback.

use super::super::message::{ConnectFailure, Refusal};
use super::super::sys::Readiness;
use super::references::{ConnectionRef, WorkerRef};
use crate::proto::connection::{CloseReason, Drained, NetworkStatistics};
use crate::proto::crypto::{CertificateVerdict, PeerCertificate};
use crate::wire::{Dir, StreamId};
use bytes::BytesMut;
use std::net::SocketAddr;

/// Where a connection's datagrams arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// The number of the worker.
    pub worker: usize,
    /// The CPU that the worker is pinned to; `None` if it is not pinned.
    pub cpu: Option<u32>,
}

/// The application of one connection: what it does when something happens.
///
/// Every method has a default that does nothing. The default of
/// [`stream_data`](Self::stream_data) takes the data and drops it, so that it does not pile up.
/// `Send`, since a connection may be handed to another worker between callbacks; no method is
/// ever called on two threads at once.
///
/// A method should return within microseconds: other connections of the worker wait for it. One
/// that takes longer than [`LaneLimits::callback_budget`](crate::exec::LaneLimits) is counted by name in
/// [`WorkerStatus`](crate::exec::WorkerStatus).
#[expect(unused_variables, reason = "the defaults look at nothing, and names tell what is what")]
pub trait Handler: Send + 'static {
    /// The peer has shown a certificate, and has proved that it has its key: told where TLS is built with
    /// [`ClientTlsBuilder::application_judges`](crate::proto::crypto::ClientTlsBuilder::application_judges), or a
    /// server's with the method of the same name. The answer is the last word. Until there is one the handshake
    /// waits, no longer than [`TransportConfig::handshake_timeout`](crate::TransportConfig::handshake_timeout) and
    /// [`idle_timeout`](crate::TransportConfig::idle_timeout), of either side: it is silent meanwhile. After
    /// [`CertificateVerdict::Later`], [`ConnectionRef::judge_certificate`] says it. The default is what the
    /// configuration alone would say.
    fn peer_certificate(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        certificate: &PeerCertificate,
    ) -> CertificateVerdict {
        certificate.verdict()
    }

    /// The client resumes a session by a ticket in which the application had kept `data`
    /// ([`ServerTls::with_ticket_data`](crate::proto::crypto::ServerTls::with_ticket_data)). Told before `connected`,
    /// and not where it had kept nothing.
    fn resumed(&mut self, connection: &mut ConnectionRef<'_>, data: &[u8]) {}

    /// The server has given a ticket: a later connection to it by the same
    /// [`ClientTls`](crate::proto::crypto::ClientTls) may resume the session.
    fn ticket_received(&mut self, connection: &mut ConnectionRef<'_>) {}

    /// The handshake is complete: streams can be opened, data sent.
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, resumed: bool) {}

    /// The peer has proved that the handshake is complete (RFC 9001 §4.1.2).
    fn confirmed(&mut self, connection: &mut ConnectionRef<'_>) {}

    /// The peer opened a stream.
    fn stream_opened(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId) {}

    /// The next bytes of a stream, lent from the buffer that they arrived in. Returns how many
    /// were taken: the rest is kept, and the stream stays silent until
    /// [`StreamsRef::resume_receive`](crate::exec::StreamsRef::resume_receive). `fin` says that the stream
    /// ends with `data`. It is told once, with the last byte or alone; a last byte that is not taken is shown
    /// again, and `fin` with it.
    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        data.len()
    }

    /// The peer acknowledged `bytes` more of what was sent on the stream; with `fin` it has all.
    fn acknowledged(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        bytes: u64,
        fin: bool,
    ) {
    }

    /// A send by [`StreamsRef::send_tracked`](crate::exec::StreamsRef::send_tracked) is over, which had this
    /// `context`: all of it is acknowledged, its FIN too, or it is `cancelled` by a reset, or by the end
    /// of the connection. Once for each such send, in their order, before `stream_closed`.
    fn send_complete(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        context: u64,
        cancelled: bool,
    ) {
    }

    /// [`StreamsRef::send_copy`](crate::exec::StreamsRef::send_copy) was short of room on the stream, and half
    /// of that is free again.
    fn send_ready(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId) {}

    /// Memory that was given to [`StreamsRef::provide`](crate::exec::StreamsRef::provide) comes back. `len`
    /// bytes at its start were received: all of it, unless the stream is over, by its end (`fin`), a reset,
    /// `stop_sending` or the end of the connection. Empty memory with `fin`: there was none when the stream ended.
    fn buffer_filled(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        buffer: BytesMut,
        len: usize,
        fin: bool,
    ) {
    }

    /// All memory that was provided to receive into is full. Data waits until there is more.
    fn receive_buffer_needed(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId) {}

    /// The peer reset its side of the stream: what it had sent is void.
    fn stream_reset(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId, code: u64) {}

    /// The peer asked us to stop sending on the stream, which was reset with the same code.
    fn stop_sending(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId, code: u64) {}

    /// Both directions of the stream are done, or the connection is over: its id is not valid any more.
    /// `context` is what [`StreamsRef::set_context`](crate::exec::StreamsRef::set_context) attached to it. Told once for
    /// every stream that the application opened or was told of, before `closed`;
    /// [`ConnectionRef::is_closed`] tells the two apart.
    fn stream_closed(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        context: u64,
    ) {
    }

    /// The peer allows more streams of this kind: `count` can be opened now, as
    /// [`StreamsRef::available`](crate::exec::StreamsRef::available) tells at any time.
    fn streams_available(&mut self, connection: &mut ConnectionRef<'_>, dir: Dir, count: u64) {}

    /// The peer wants to open more streams of this kind than it may. Told once for each limit.
    /// [`StreamsRef::grant_streams`](crate::exec::StreamsRef::grant_streams) raises it; otherwise the
    /// peer gets others for those that close.
    fn peer_needs_streams(&mut self, connection: &mut ConnectionRef<'_>, dir: Dir) {}

    /// The server handed out a token for a later connection (RFC 9000 §8.1.3).
    fn new_token(&mut self, connection: &mut ConnectionRef<'_>, token: &[u8]) {}

    /// Acknowledgements have arrived for a round trip, and for the time that
    /// [`TransportConfig::network_statistics`](crate::TransportConfig::network_statistics) asks for.
    fn network_statistics(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        statistics: &NetworkStatistics,
    ) {
    }

    /// So many bytes should lie ready, those in flight included, so that the network does not wait for the
    /// application. Told when that number changes, on connections that ask for network statistics.
    fn ideal_send_buffer_changed(&mut self, connection: &mut ConnectionRef<'_>, bytes: u64) {}

    /// The peer is at another address: its NAT has forgotten it, or it has moved. What is sent goes
    /// there, at first no more than three times what came from there (RFC 9000 §9). If the peer does not
    /// answer there, a second call names the address before.
    fn peer_address_changed(&mut self, connection: &mut ConnectionRef<'_>, remote: SocketAddr) {}

    /// Our packets leave from another address: a move that [`ConnectionRef::migrate`] began is done, or
    /// was taken back; or the address before has gone away
    /// ([`leave_lost_addresses`](crate::exec::RegistrationConfig::leave_lost_addresses)).
    fn local_address_changed(&mut self, connection: &mut ConnectionRef<'_>, local: SocketAddr) {}

    /// The server could not be reached from the address that [`ConnectionRef::migrate`] named, or that the
    /// connection moved to when its own went away.
    fn migration_failed(&mut self, connection: &mut ConnectionRef<'_>, local: SocketAddr) {}

    /// The connection's datagrams arrive at another worker: the NIC chooses another queue for them. With
    /// `true` the connection moves there, with all that it has: streams, timers, watched descriptors,
    /// calls that wait. With `false` it stays, its datagrams are copied from worker to worker, and it is
    /// asked again only when they arrive at yet another one.
    fn ideal_processor_changed(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        processor: Processor,
    ) -> bool {
        true
    }

    /// The connection has moved here from the worker of that number. Callbacks come on this worker's
    /// thread from now on; this is the first.
    fn moved(&mut self, connection: &mut ConnectionRef<'_>, from: usize) {}

    /// A thread called [`Handle::wake`](crate::exec::Handle::wake) with this token.
    fn woken(&mut self, connection: &mut ConnectionRef<'_>, token: u64) {}

    /// A timer set with [`ConnectionRef::set_timer`] has come due.
    fn timer(&mut self, connection: &mut ConnectionRef<'_>, token: u64) {}

    /// A descriptor watched with [`ConnectionRef::watch`] is ready. Ready for nothing: its watch is
    /// over, since the worker that the connection has moved to cannot wait for it
    /// (`fs.epoll.max_user_watches`). Watch it again later.
    fn ready(&mut self, connection: &mut ConnectionRef<'_>, token: u64, readiness: Readiness) {}

    /// A call that was posted through a [`Handle`](crate::exec::Handle) could not be carried out.
    fn refused(&mut self, connection: &mut ConnectionRef<'_>, refusal: Refusal) {}

    /// A connection that the application asked for could not be begun, or a client that it let wait
    /// has gone. It is the only callback then.
    fn not_connected(&mut self, worker: &mut WorkerRef<'_>, failure: ConnectFailure) {}

    /// The connection is over: either side has closed it, or it was given up. No more data goes either
    /// way, its streams are gone, handles get the error that it is, and of all callbacks only
    /// [`drained`](Self::drained) follows. Give up what is held for the connection.
    ///
    /// It comes after the callback in which the application closed. An application that wants it inline
    /// calls [`ConnectionRef::close_inline`], and then this is not called.
    fn closed(&mut self, connection: &mut ConnectionRef<'_>, reason: CloseReason) {}

    /// The connection has left its place: its ids lead nowhere any more, and the handler is dropped next.
    /// The last callback. Between [`closed`](Self::closed) and this, late packets are answered (RFC 9000
    /// §10.2): three probe timeouts, 10 s at most. It comes at once where there is no peer to answer:
    /// after an idle timeout, a stateless reset, or a handshake from an address that may be forged. It
    /// comes too where the worker ends before that time is over, after
    /// [`Registration::shutdown`](crate::exec::Registration::shutdown). It does not come after a callback
    /// that panicked, nor where the worker itself is dropped or panics.
    fn drained(&mut self, connection: &mut ConnectionRef<'_>, drained: Drained) {}
}

/// The application of a connection that needs none: data is taken and dropped.
impl Handler for () {}
