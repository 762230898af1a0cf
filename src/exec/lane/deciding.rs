//! What a listener decides about its clients, and what follows from it.

use super::super::address::{Address, Key, OwnedAddress};
use super::super::api::{Answer, Decision, Handler, NewConnection, Services, take};
use super::super::message::{ConnectFailure, Listener};
use super::super::overrun::Callback;
use super::Lane;
use super::adapter::{discard, guarded};
use crate::proto::connection::{Choice, Connection, TransportConfig};
use crate::proto::crypto::ServerTls;
use crate::time::Instant;
use crate::wire::{ConnectionId, VERSION_1};
use std::cell::Cell;
use std::sync::Arc;

/// The id for the address that a server prefers, with the token that resets it.
type PreferredCid = Option<(ConnectionId, [u8; 16])>;

/// A decision, with all that it needs.
pub(super) enum Decided {
    Accept { handler: Box<dyn Handler>, transport: Arc<TransportConfig>, tls: Arc<ServerTls> },
    Refuse { alert: Option<u8> },
    Wait,
}

/// Asks the listener about a client that has said what it asks for. `None` if it has not.
pub(super) fn ask(
    listener: &Listener,
    services: &mut Services,
    connection: &Connection,
    key: Key,
) -> Option<(Decided, Option<Arc<Address>>)> {
    let fleet = services.fleet().clone();
    let client = NewConnection {
        remote: connection.remote(),
        local: connection.local(),
        worker: services.worker(),
        version: VERSION_1,
        address_validated: connection.is_address_validated(),
        hello: connection.client_hello()?,
        key,
        fleet: &fleet,
        deferred: Cell::default(),
    };
    let entered = services.overruns.entered(Callback::Accept);
    let decision = guarded(|| listener.acceptor.accept(&client)).unwrap_or_else(|message| {
        let remote = client.remote;
        tracing::error!(%remote, message, "an acceptor panicked: the client is turned away");
        services.panics += 1;
        Decision::Refuse
    });
    services.overruns.left(Callback::Accept, entered);
    let address = client.deferred.into_inner();
    let decided = match decision {
        Decision::Later if address.is_some() => Decided::Wait,
        decision => resolve(decision, listener, services),
    };
    Some((decided, address))
}

/// With the configuration that a decision names, or else the listener's.
fn resolve(decision: Decision, listener: &Listener, services: &mut Services) -> Decided {
    match decision {
        Decision::Accept(handler) => {
            let (transport, tls) = listener.endpoint.configuration();
            Decided::Accept { handler, transport: transport.clone(), tls: tls.clone() }
        }
        Decision::AcceptWith(handler, config) => {
            if let Some(address) = config.transport.unreachable_preferred() {
                // As a listener's own configuration is refused when it begins.
                tracing::error!(%address, "an acceptor's configuration prefers an address that no client can reach");
                discard(services, handler);
                return Decided::Refuse { alert: None };
            }
            Decided::Accept { handler, transport: config.transport, tls: config.tls }
        }
        Decision::Refuse | Decision::Later => Decided::Refuse { alert: None },
        Decision::RefuseWithAlert(number) => Decided::Refuse { alert: Some(number) },
    }
}

/// Carries out what was decided about a connection. The application, if it gets one.
pub(super) fn carry_out(
    connection: &mut Connection,
    now: Instant,
    decided: Decided,
    preferred_cid: PreferredCid,
) -> Option<Box<dyn Handler>> {
    match decided {
        Decided::Accept { handler, transport, tls } => {
            connection.choose(now, Choice { config: transport, tls: &tls, preferred_cid });
            return Some(handler);
        }
        Decided::Refuse { alert: None } => connection.refuse(now),
        Decided::Refuse { alert: Some(number) } => connection.refuse_with_alert(now, number),
        Decided::Wait => {}
    }
    None
}

impl Lane {
    /// Counts a decision about the connection that has, or will have, the place `key`, and makes the id
    /// that it needs.
    pub(super) fn prepare(&mut self, key: Key, decided: &Decided) -> PreferredCid {
        match decided {
            Decided::Accept { transport, .. } => {
                // Its TLS session is made now, and that is what a handshake costs.
                self.waiting.sessions += 1;
                let cid = transport.has_preferred().then(|| self.new_cid(key))?;
                return Some((cid, self.reset.token(cid.as_slice())));
            }
            Decided::Refuse { .. } => self.counters.refused_by_acceptor += 1,
            Decided::Wait => self.counters.deferred += 1,
        }
        None
    }

    /// A client has its place, and may by now have said what it asks for.
    #[cold]
    pub(super) fn ask_about(&mut self, key: Key) {
        let Some(entry) = self.table.get(key) else { return };
        let Some(handshake) = entry.seat.handshake.as_mut().filter(|h| h.unasked) else { return };
        // One that has ended with its last datagram is nothing to ask about.
        if entry.connection.is_closed() || entry.connection.client_hello().is_none() {
            return;
        }
        handshake.unasked = false;
        let id = entry.seat.listener;
        let listener = self.listeners.iter().find(|l| Some(l.id) == id && !l.is_over());
        let asked = listener.and_then(|l| ask(l, &mut self.services, &entry.connection, key));
        // A listener that has stopped meanwhile accepts nothing.
        let (decided, address) = asked.unwrap_or((Decided::Refuse { alert: None }, None));
        if let Some(address) = address {
            entry.seat.address = Some(OwnedAddress::new(address));
        }
        self.decide(key, decided);
    }

    /// The answer of an application that took its time. One that comes twice, or too late, is dropped.
    pub(super) fn answered(&mut self, key: Key, answer: &Answer) {
        let waiting = self.table.get(key).filter(|entry| {
            let asked = entry.seat.handshake.as_ref().is_some_and(|h| !h.unasked);
            asked && entry.connection.client_hello().is_some() && !entry.seat.over
        });
        let Some(id) = waiting.map(|entry| entry.seat.listener) else {
            return self.answered_late(answer);
        };
        let listener = self.listeners.iter().find(|l| Some(l.id) == id && !l.is_over());
        let decided = listener.map(|l| resolve(take(answer), l, &mut self.services));
        let decided = decided.unwrap_or_else(|| {
            // A listener that has stopped accepts nothing, and the client goes.
            self.answered_late(answer);
            Decided::Refuse { alert: None }
        });
        self.decide(key, decided);
    }

    /// The client has gone: the application that it would have had is told.
    pub(super) fn answered_late(&mut self, answer: &Answer) {
        self.counters.commands_late += 1;
        if let Decision::Accept(mut handler) | Decision::AcceptWith(mut handler, _) = take(answer) {
            self.on_worker(Callback::Closed, |worker| {
                handler.not_connected(worker, ConnectFailure::ClientGone);
            });
            discard(&mut self.services, handler);
        }
    }

    /// Carries out a decision about a connection that has its place.
    fn decide(&mut self, key: Key, decided: Decided) {
        self.waiting.begun += usize::from(matches!(decided, Decided::Accept { .. }));
        let (now, preferred_cid) = (self.services.now(), self.prepare(key, &decided));
        let Some(entry) = self.table.get(key) else { return };
        if let Some(handler) = carry_out(&mut entry.connection, now, decided, preferred_cid) {
            entry.handler = handler;
            self.counters.accepted += u64::from(!entry.connection.is_closed());
        }
        // It is told at once if its handshake cannot go on.
        self.with(key, |_, _| ());
    }
}
