//! The application's side: what it implements, and what its callbacks are given.
//!
//! An application implements [`Handler`] for each connection. Its methods are called on the
//! thread of the worker that owns the connection, one after another, never in parallel and
//! never from within each other. Each is given a [`ConnectionRef`], on which calls run inline:
//! what they change is changed when they return, and what follows from it is told by a later
//! callback.
//!
//! A `ConnectionRef` cannot leave the callback, nor the thread:
//!
//! ```compile_fail,E0277
//! use quiclane::exec::ConnectionRef;
//!
//! fn leave(connection: &mut ConnectionRef<'_>) {
//!     std::thread::scope(|threads| {
//!         threads.spawn(|| connection.close(0, bytes::Bytes::new())); // not Send
//!     });
//! }
//! ```
//!
//! ```compile_fail
//! use quiclane::exec::{ConnectionRef, Handler};
//!
//! struct Keeper<'a>(Option<&'a mut ConnectionRef<'a>>);
//!
//! impl Handler for Keeper<'static> {
//!     fn connected(&mut self, connection: &mut ConnectionRef<'_>, _resumed: bool) {
//!         self.0 = Some(connection); // does not live long enough
//!     }
//! }
//! ```
//!
//! What may leave is a [`Handle`](super::Handle): calls on it are posted to the owner.

use super::address::Address;
use super::config::ClientConfig;
use super::handle::Handle;
use super::lane::{ConnectFailure, ConnectRequest, Seat};
use super::services::{Services, TimerId, WatchId};
use super::sys::{Interest, Readiness};
use crate::proto::connection::{CloseReason, Connection, ConnectionStats};
use crate::proto::streams::{OpenError, ReceiveError, SendError};
use crate::time::Instant;
use crate::wire::{Dir, Side, StreamId};
use bytes::Bytes;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

/// The application of one connection: what it does when something happens.
///
/// Every method has a default that does nothing, except that data which nobody looks at is
/// taken, so that it does not pile up. `Send`, since a connection may be handed to another
/// worker between callbacks; no method is ever called on two threads at once.
///
/// A method should return within microseconds: other connections of the worker wait for it. One
/// that takes longer than the worker's callback budget is counted by name in
/// [`WorkerStatus`](super::WorkerStatus).
#[expect(unused_variables, reason = "the defaults look at nothing, and names tell what is what")]
pub trait Handler: Send + 'static {
    /// The handshake is complete: streams can be opened, data sent.
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, resumed: bool) {}

    /// The peer has proved that the handshake is complete (RFC 9001 §4.1.2).
    fn confirmed(&mut self, connection: &mut ConnectionRef<'_>) {}

    /// The peer opened a stream.
    fn stream_opened(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId) {}

    /// The next bytes of a stream, lent from the buffer that they arrived in. Returns how many
    /// were taken: the rest is kept, and the stream stays silent until
    /// [`ConnectionRef::resume_receive`]. `fin` comes once, with the last byte or alone.
    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        data.len()
    }

    /// The peer has `bytes` more of what was sent on the stream; with `fin` it has all.
    fn acknowledged(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        bytes: u64,
        fin: bool,
    ) {
    }

    /// The peer gave up sending on the stream: what it had sent is void.
    fn stream_reset(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId, code: u64) {}

    /// The peer asked us to stop sending on the stream, which was reset with the same code.
    fn stop_sending(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId, code: u64) {}

    /// Both directions of the stream are done: its id means nothing any more. `context` is what
    /// [`ConnectionRef::set_context`] attached to it.
    fn stream_closed(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        context: u64,
    ) {
    }

    /// Streams can be opened again, after the peer's limit was reached.
    fn streams_available(&mut self, connection: &mut ConnectionRef<'_>, dir: Dir) {}

    /// The server handed out a token for a later connection (RFC 9000 §8.1.3).
    fn new_token(&mut self, connection: &mut ConnectionRef<'_>, token: &[u8]) {}

    /// Someone called [`Handle::wake`] with this token.
    fn woken(&mut self, connection: &mut ConnectionRef<'_>, token: u64) {}

    /// A timer set with [`ConnectionRef::set_timer`] has come due.
    fn timer(&mut self, connection: &mut ConnectionRef<'_>, token: u64) {}

    /// A descriptor watched with [`ConnectionRef::watch`] is ready.
    fn ready(&mut self, connection: &mut ConnectionRef<'_>, token: u64, readiness: Readiness) {}

    /// A call that was posted through a [`Handle`] could not be carried out.
    fn refused(&mut self, connection: &mut ConnectionRef<'_>, refusal: Refusal) {}

    /// A connection that was ordered could not be made. The only callback then.
    fn not_connected(&mut self, worker: &mut WorkerRef<'_>, failure: ConnectFailure) {}

    /// The connection is over. The last callback.
    fn closed(&mut self, connection: &mut ConnectionRef<'_>, reason: CloseReason) {}
}

/// What nobody attends to: data is taken and forgotten.
impl Handler for () {}

/// A posted call that could not be carried out when its turn came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// [`Handle::send`] or [`Handle::reset`].
    Send {
        /// The stream.
        stream: StreamId,
        /// Why not.
        error: SendError,
    },
    /// [`Handle::stop_sending`] or [`Handle::resume_receive`].
    Receive {
        /// The stream.
        stream: StreamId,
        /// Why not.
        error: ReceiveError,
    },
}

/// A connection, in a callback of its own.
///
/// Not `Send`, and bound to the callback: see the top of
/// `exec/handler.rs`.
pub struct ConnectionRef<'a> {
    connection: &'a mut Connection,
    seat: &'a mut Seat,
    services: &'a mut Services,
    at_home: PhantomData<*mut ()>,
}

impl fmt::Debug for ConnectionRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionRef")
            .field("worker", &self.worker())
            .field("key", &self.seat.key)
            .field("remote", &self.remote())
            .finish_non_exhaustive()
    }
}

impl<'a> ConnectionRef<'a> {
    pub(super) fn new(
        connection: &'a mut Connection,
        seat: &'a mut Seat,
        services: &'a mut Services,
    ) -> Self {
        Self { connection, seat, services, at_home: PhantomData }
    }

    // ---- streams ---------------------------------------------------------------------------

    /// Opens a stream.
    ///
    /// # Errors
    /// The peer allows no more of them for now; [`Handler::streams_available`] tells when.
    pub fn open(&mut self, dir: Dir) -> Result<StreamId, OpenError> {
        self.connection.open(dir)
    }

    /// Lends `data` to a stream until the peer has it ([`Handler::acknowledged`]); nothing is
    /// copied. `fin` ends the stream with it.
    ///
    /// # Errors
    /// The stream is not ours to send on, or is finished, reset or stopped.
    pub fn send(&mut self, stream: StreamId, data: Bytes, fin: bool) -> Result<(), SendError> {
        self.connection.send(stream, data, fin)
    }

    /// Bytes lent to a stream that the peer does not have yet.
    #[must_use]
    pub fn buffered(&self, stream: StreamId) -> u64 {
        self.connection.buffered(stream)
    }

    /// Gives up sending on a stream.
    ///
    /// # Errors
    /// The stream is unknown, not ours to send on, or done.
    pub fn reset(&mut self, stream: StreamId, code: u64) -> Result<(), SendError> {
        self.connection.reset(stream, code)
    }

    /// Asks the peer to stop sending on a stream.
    ///
    /// # Errors
    /// The stream is unknown, not ours to receive on, or done.
    pub fn stop_sending(&mut self, stream: StreamId, code: u64) -> Result<(), ReceiveError> {
        self.connection.stop_sending(stream, code)
    }

    /// Has the data that [`Handler::stream_data`] did not take offered again.
    ///
    /// # Errors
    /// The stream is unknown or not ours to receive on.
    pub fn resume_receive(&mut self, stream: StreamId) -> Result<(), ReceiveError> {
        self.connection.resume_receive(stream)
    }

    /// Attaches a number to a stream; false if there is no such stream.
    pub fn set_context(&mut self, stream: StreamId, context: u64) -> bool {
        self.connection.set_context(stream, context)
    }

    /// The number attached to a stream.
    #[must_use]
    pub fn context(&self, stream: StreamId) -> Option<u64> {
        self.connection.context(stream)
    }

    // ---- the connection --------------------------------------------------------------------

    /// Closes the connection at once: what is not delivered yet is void.
    pub fn close(&mut self, code: u64, reason: Bytes) {
        let now = self.services.now();
        self.connection.close(now, code, reason);
    }

    /// Changes the keys of what is sent from now on (RFC 9001 §6). False when the last change is
    /// not confirmed yet, or the handshake is not. Connections do it by themselves long before
    /// a key is worn out.
    pub fn update_keys(&mut self) -> bool {
        self.connection.update_keys()
    }

    /// Which end of the connection this is.
    #[must_use]
    pub fn side(&self) -> Side {
        self.connection.side()
    }

    /// The peer's address.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.connection.remote()
    }

    /// Our address. A client's is unspecified until the first packet has arrived.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.seat.path.local
    }

    /// The application protocol that was agreed on.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.connection.alpn()
    }

    /// True from the end of the handshake until the connection closes.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.connection.is_established()
    }

    /// True once closing has begun, on either side.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// The connection's counters.
    #[must_use]
    pub fn stats(&self) -> ConnectionStats {
        self.connection.stats()
    }

    /// Gives back memory that an idle connection does not need.
    pub fn shrink(&mut self) {
        self.connection.shrink();
    }

    /// What other threads use to reach this connection.
    #[must_use]
    pub fn handle(&mut self) -> Handle {
        let worker = self.services.worker() as u16;
        let key = self.seat.key;
        let address = self.seat.address.get_or_insert_with(|| Address::at(worker, key));
        Handle::new(address.clone(), self.services.fleet().clone())
    }

    // ---- services of the worker ------------------------------------------------------------

    /// The time of this turn of the worker.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.services.now()
    }

    /// The number of the worker that owns the connection.
    #[must_use]
    pub fn worker(&self) -> usize {
        self.services.worker()
    }

    /// Has [`Handler::timer`] called with `token`, once.
    pub fn set_timer(&mut self, after: Duration, token: u64) -> TimerId {
        self.services.set_connection_timer(self.seat.key, after, token)
    }

    /// Takes a timer back; false if it has come due already.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.services.cancel_timer(timer)
    }

    /// Has [`Handler::ready`] called with `token` whenever the descriptor is ready (level
    /// triggered), until [`unwatch`](Self::unwatch) or the end of the connection.
    ///
    /// # Errors
    /// The descriptor cannot be waited for, is watched already, or the worker has no real
    /// descriptors (a simulation).
    pub fn watch(
        &mut self,
        descriptor: &impl AsFd,
        interest: Interest,
        token: u64,
    ) -> io::Result<WatchId> {
        let (seat, services) = (&mut *self.seat, &mut *self.services);
        let watch = services.watch_for_connection(seat.key, descriptor.as_fd(), interest, token)?;
        if seat.watches.len() == seat.watches.capacity() {
            // Before the list grows, it forgets those that were unwatched.
            services.retain_watches(&mut seat.watches);
        }
        seat.watches.push(watch);
        Ok(watch)
    }

    /// Stops watching a descriptor. Call it before the descriptor is closed.
    pub fn unwatch(&mut self, watch: WatchId) {
        self.services.unwatch(watch);
    }

    /// Has `task` run with this connection after the callback, in the same turn or the next.
    /// It is dropped if the connection is gone by then.
    pub fn spawn(&mut self, task: impl FnOnce(&mut ConnectionRef<'_>) + 'static) {
        self.services.spawn_for_connection(self.seat.key, Box::new(task));
    }

    /// The worker, for what belongs to no connection.
    pub fn on_worker(&mut self) -> WorkerRef<'_> {
        WorkerRef::new(self.services)
    }
}

/// The worker, on its own thread: its clock, timers, descriptors, and work to be done between
/// turns. The event loop of an application that lives beside its connections.
///
/// Given to closures that were posted with
/// [`Registration::on_worker`](super::Registration::on_worker), and by
/// [`ConnectionRef::on_worker`].
pub struct WorkerRef<'a> {
    services: &'a mut Services,
    at_home: PhantomData<*mut ()>,
}

impl fmt::Debug for WorkerRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerRef").field("number", &self.number()).finish_non_exhaustive()
    }
}

impl<'a> WorkerRef<'a> {
    pub(super) fn new(services: &'a mut Services) -> Self {
        Self { services, at_home: PhantomData }
    }

    /// The number of the worker.
    #[must_use]
    pub fn number(&self) -> usize {
        self.services.worker()
    }

    /// The time of this turn.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.services.now()
    }

    /// Begins a connection from this worker to `remote`, as
    /// [`Registration::connect`](super::Registration::connect) does from outside: what a proxy
    /// does in the callback of the connection that it serves. It is made after the callback.
    pub fn connect(
        &mut self,
        remote: SocketAddr,
        server_name: &str,
        config: &ClientConfig,
        handler: impl Handler,
    ) -> Handle {
        let address = Address::pending(self.services.worker() as u16);
        let request =
            ConnectRequest::new(remote, server_name, config, Box::new(handler), address.clone());
        self.services.order(request);
        Handle::new(address, self.services.fleet().clone())
    }

    /// Has `task` run between turns.
    pub fn spawn(&mut self, task: impl FnOnce(&mut WorkerRef<'_>) + 'static) {
        self.services.spawn(Box::new(task));
    }

    /// Has `task` run once, `after` that time.
    pub fn set_timer(
        &mut self,
        after: Duration,
        task: impl FnOnce(&mut WorkerRef<'_>) + 'static,
    ) -> TimerId {
        self.services.set_worker_timer(after, Box::new(task))
    }

    /// Takes a timer back; false if it has come due already.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.services.cancel_timer(timer)
    }

    /// Has `task` run whenever the descriptor is ready (level triggered), until
    /// [`unwatch`](Self::unwatch).
    ///
    /// # Errors
    /// As [`ConnectionRef::watch`].
    pub fn watch(
        &mut self,
        descriptor: &impl AsFd,
        interest: Interest,
        task: impl FnMut(&mut WorkerRef<'_>, Readiness) + 'static,
    ) -> io::Result<WatchId> {
        self.services.watch_for_worker(descriptor.as_fd(), interest, Box::new(task))
    }

    /// Stops watching a descriptor. Call it before the descriptor is closed.
    pub fn unwatch(&mut self, watch: WatchId) {
        self.services.unwatch(watch);
    }
}
