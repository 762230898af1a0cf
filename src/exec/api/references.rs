//! What callbacks are given: the connection, and the worker. Calls on them run inline.
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
//! What may leave is a [`Handle`](crate::exec::Handle): calls on it are posted to the owner.

use super::super::address::{Address, OwnedAddress};
use super::super::config::ClientConfig;
use super::super::message::{Command, ConnectRequest};
use super::super::sys::{Interest, Readiness};
use super::belongings::{TimerId, WatchId};
use super::handle::{Handle, HandleError};
use super::handler::Handler;
use super::seat::Seat;
use super::services::{Edge, Services};
use super::stream_handler::StreamHandler;
use crate::proto::connection::{
    CloseReason, Connection, ConnectionStats, HandshakeSummary, MigrateError, Migration,
    NetworkStatistics,
};
use crate::proto::crypto::CertificateVerdict;
use crate::proto::streams::StreamsRef;
use crate::time::Instant;
use crate::wire::{Side, StreamId};
use bytes::Bytes;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// A connection, in a callback of its own.
///
/// Not `Send`, and bound to the callback: see the top of
/// `exec/api/references.rs`.
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
    pub(in crate::exec) fn new(
        connection: &'a mut Connection,
        seat: &'a mut Seat,
        services: &'a mut Services,
    ) -> Self {
        Self { connection, seat, services, at_home: PhantomData }
    }

    /// The streams of the connection: open, send, reset, and the rest.
    #[inline]
    pub fn streams(&mut self) -> StreamsRef<'_> {
        self.connection.streams()
    }

    /// Gives a stream an application of its own, which gets its callbacks from now on. False, and
    /// `handler` is dropped, if there is no such stream. The one that it had is dropped.
    pub fn set_stream_handler(
        &mut self,
        stream: StreamId,
        handler: Box<dyn StreamHandler>,
    ) -> bool {
        let known = self.connection.streams().context(stream).is_some();
        if known {
            self.seat.stream_handlers.get_or_insert_default().set(stream, handler);
        }
        known
    }

    // ---- the connection --------------------------------------------------------------------

    /// Closes the connection at once: what is not delivered yet is void.
    ///
    /// [`Handler::closed`] follows when this callback has returned, and
    /// [`Handler::drained`] when the connection has left its place.
    pub fn close(&mut self, code: u64, reason: Bytes) {
        let now = self.services.now();
        self.connection.close(now, code, reason);
    }

    /// As [`close`](Self::close), and tells the end inline: what is returned is what
    /// [`Handler::closed`] would have been told, and that method is not called any more. An
    /// application that gives up what it holds need not wait for another callback. Handles see that the
    /// connection is gone. What is told of its streams comes after this callback, as ever, and
    /// [`Handler::drained`] in its time.
    ///
    /// `None` if the connection has closed before, by either side: `closed` was told, or follows.
    pub fn close_inline(&mut self, code: u64, reason: Bytes) -> Option<CloseReason> {
        if self.connection.is_closed() {
            return None;
        }
        self.close(code, reason);
        let told = self.connection.ending()?.reason;
        self.seat.told_inline = true;
        if let Some(address) = &self.seat.address {
            address.end();
        }
        Some(told)
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
        self.connection.local()
    }

    /// Moves a client to another address of its own, which the worker sends and receives at. See
    /// [`Handler::local_address_changed`](super::Handler::local_address_changed). From an address that goes
    /// away it moves by itself
    /// ([`leave_lost_addresses`](crate::exec::RegistrationConfig::leave_lost_addresses)).
    ///
    /// # Errors
    /// [`MigrateError`].
    pub fn migrate(&mut self, local: SocketAddr, when: Migration) -> Result<(), MigrateError> {
        self.connection.migrate(self.services.now(), local, when)
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

    /// What is known of the path that packets take.
    #[must_use]
    pub fn network_statistics(&self) -> NetworkStatistics {
        self.connection.network_statistics()
    }

    /// Tells [`Handler::network_statistics`](super::Handler::network_statistics) and
    /// [`Handler::ideal_send_buffer_changed`](super::Handler::ideal_send_buffer_changed) from now on, at most
    /// once each round trip and each `every`; `None` ends that. At first it is as
    /// [`TransportConfig::network_statistics`](crate::TransportConfig::network_statistics) says.
    pub fn tell_network_statistics(&mut self, every: Option<Duration>) {
        self.connection.set_network_statistics(self.services.now(), every);
    }

    /// How long the handshake took, how large it was, and what was agreed on in it; `None` until it is complete.
    #[must_use]
    pub fn handshake_summary(&self) -> Option<HandshakeSummary> {
        self.connection.handshake_summary()
    }

    /// Sends a PING after so much quiet time from now on, so that neither the peer nor a NAT on the way
    /// forgets the connection; `None` sends none. At first it is as
    /// [`TransportConfig::keep_alive`](crate::TransportConfig::keep_alive) says.
    pub fn set_keep_alive(&mut self, interval: Option<Duration>) {
        self.connection.set_keep_alive(self.services.now(), interval);
    }

    /// Says what becomes of the peer by its certificate, where
    /// [`Handler::peer_certificate`](super::Handler::peer_certificate) has left that for
    /// [later](CertificateVerdict::Later). False if nothing waits for it. From other threads:
    /// [`Handle::run`](super::Handle::run).
    pub fn judge_certificate(&mut self, verdict: CertificateVerdict) -> bool {
        self.connection.judge_certificate(self.services.now(), verdict)
    }

    /// Gives back memory that an idle connection does not need.
    pub fn shrink(&mut self) {
        self.connection.shrink();
    }

    /// A handle, by which other threads reach this connection.
    #[must_use]
    pub fn handle(&mut self) -> Handle {
        let worker = self.services.worker() as u16;
        let key = self.seat.key;
        let made = || OwnedAddress::new(Address::at(worker, key));
        let address = self.seat.address.get_or_insert_with(made);
        if self.seat.over || self.seat.told_inline {
            address.end();
        }
        Handle::new(Arc::clone(address), self.services.fleet().clone())
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
        self.services.set_connection_timer(self.seat, after, token)
    }

    /// Takes a timer back, of this connection or of the worker; false if it has come due already.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.services.cancel_timer_for(self.seat, timer)
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
        self.services.watch_for_connection(self.seat, descriptor.as_fd(), interest, token)
    }

    /// Stops watching a descriptor. Call it before the descriptor is closed.
    pub fn unwatch(&mut self, watch: WatchId) {
        self.services.unwatch_for(self.seat, watch);
    }

    /// Has `task` run with this connection after the callback, in the same turn or the next.
    /// It is dropped if the connection is gone by then. `Send`, since it goes with a connection that
    /// moves to another worker.
    pub fn spawn(&mut self, task: impl FnOnce(&mut ConnectionRef<'_>) + Send + 'static) {
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
/// [`Registration::on_worker`](crate::exec::Registration::on_worker), and by
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
    pub(in crate::exec) fn new(services: &'a mut Services) -> Self {
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
    /// [`Registration::connect`](crate::exec::Registration::connect) does from outside. A proxy calls
    /// it in a callback of the connection that it serves. The connection is made after the callback.
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

    /// Has `task` run on the worker of that number, in one of its next turns. This worker's own number
    /// is as good as another. Closures from one thread run in their order.
    ///
    /// # Errors
    /// That worker's inbox is full, it has ended, or there is none. `task` is dropped then.
    pub fn post_to(
        &self,
        worker: usize,
        task: impl FnOnce(&mut WorkerRef<'_>) + Send + 'static,
    ) -> Result<(), HandleError> {
        let inbox = self.services.fleet().inbox(worker).ok_or(HandleError::Closed)?;
        Ok(inbox.post(Command::Worker(Box::new(task)))?)
    }

    /// Has `task` run first in every turn from the next one on, before anything is received, until it
    /// returns [`ControlFlow::Break`]. It keeps no worker awake: a worker that sleeps calls it when
    /// something else wakes it.
    pub fn before_turn(
        &mut self,
        task: impl FnMut(&mut WorkerRef<'_>) -> ControlFlow<()> + 'static,
    ) {
        self.services.turn_tasks(Edge::Before).push(Box::new(task));
    }

    /// Has `task` run last in every turn, this one included, after everything was sent and before the
    /// worker may sleep, until it returns [`ControlFlow::Break`]. What it spawns or posts is served in
    /// the next turn, which then follows at once.
    pub fn after_turn(
        &mut self,
        task: impl FnMut(&mut WorkerRef<'_>) -> ControlFlow<()> + 'static,
    ) {
        self.services.turn_tasks(Edge::After).push(Box::new(task));
    }

    /// Has `task` run once, `after` that time.
    pub fn set_timer(
        &mut self,
        after: Duration,
        task: impl FnOnce(&mut WorkerRef<'_>) + 'static,
    ) -> TimerId {
        self.services.set_worker_timer(after, Box::new(task))
    }

    /// Takes a timer of the worker back; false if it has come due already.
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
