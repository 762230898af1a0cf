//! A server's connection whose configuration is not chosen yet.
//!
//! A server may choose certificates, protocols and settings by what the client asks for, and may
//! take its time over it. Until then there is no TLS session: the ClientHello is kept, within the
//! bounds of any ClientHello, and acknowledged, so that the client does not send it again and
//! again.
//!
//! ```text
//! accept(tls: None) -> receive.. -> client_hello() is Some -> choose(..) -> as any other
//!                                                          -> refuse(..)
//! ```

use super::config::{after, nanos};
use super::error::{TransportError, code};
use super::hello::alert;
use super::{Connection, RemoteCids, State, TransportConfig};
use crate::proto::crypto::{Level, ServerTls, Session, TlsError};
use crate::proto::path::Path;
use crate::proto::streams::Streams;
use crate::time::Instant;
use crate::wire::transport_parameters::{PreferredAddress, TransportParameters};
use crate::wire::{ClientHello, ConnectionId};
use std::sync::Arc;

/// The reason phrase for a client that the application does not want.
const TURNED_AWAY: &str = "the application turned the connection away";

/// What a server chooses for one connection.
pub struct Choice<'a> {
    /// Settings.
    pub config: Arc<TransportConfig>,
    /// Certificates and protocols.
    pub tls: &'a ServerTls,
    /// The id for the address that the server prefers, with the token that resets it: for settings
    /// that name such an address.
    pub preferred_cid: Option<(ConnectionId, [u8; 16])>,
}

impl Connection {
    /// What the client asks for, once all of it has arrived, until [`choose`](Self::choose).
    #[must_use]
    pub fn client_hello(&self) -> Option<ClientHello<'_>> {
        let undecided = self.handshake.as_ref()?.undecided.as_ref()?;
        ClientHello::parse(&undecided.hello).ok()
    }

    /// Goes on with the handshake of a connection that was [accepted](Self::accept) without TLS. One
    /// that cannot go on with this configuration closes; a second call does nothing.
    pub fn choose(&mut self, now: Instant, choice: Choice<'_>) {
        if self.state != State::Handshaking {
            return;
        }
        let chosen = match self.begin_session(now, choice) {
            Ok(Some(hello)) if !hello.is_empty() => self.read_hello(now, &hello),
            Ok(_) => Ok(()),
            Err(error) => Err(TransportError::from(&error)),
        };
        if let Err(error) = chosen {
            self.close_transport(now, error);
        }
    }

    /// Makes the TLS session. Gives the ClientHello, if it had to wait.
    pub(super) fn begin_session(
        &mut self,
        now: Instant,
        choice: Choice<'_>,
    ) -> Result<Option<Vec<u8>>, TlsError> {
        let Some(undecided) = self.handshake.as_mut().and_then(|h| h.undecided.take()) else {
            return Ok(None);
        };
        self.adopt(now, choice.config);
        let mut parameters = self.config.parameters();
        parameters.initial_source_connection_id = Some(self.first_local_cid());
        if let Some(h) = &self.handshake {
            parameters.original_destination_connection_id = Some(h.original_dcid);
            parameters.retry_source_connection_id = h.retry_scid;
        }
        parameters.stateless_reset_token = Some(undecided.reset_token);
        let preferred = choice.preferred_cid.filter(|_| self.config.has_preferred());
        parameters.preferred_address = preferred.map(|(cid, reset_token)| PreferredAddress {
            v4: self.config.preferred_v4,
            v6: self.config.preferred_v6,
            cid,
            reset_token,
        });
        parameters.grease = Some(undecided.grease);
        self.session = Some(Session::server(choice.tls, &encoded(&parameters))?);
        if let Some((cid, reset_token)) = preferred {
            self.local_cids.add_preferred(cid, reset_token);
        }
        Ok(Some(undecided.hello))
    }

    fn read_hello(&mut self, now: Instant, hello: &[u8]) -> Result<(), TransportError> {
        if let Some(session) = &mut self.session {
            session.read(now, Level::Initial, hello).map_err(|e| TransportError::from(&e))?;
        }
        self.tls_has_read(now)
    }

    /// Takes other settings than those that the connection began with. It has sent nothing yet but
    /// acknowledgements, and knows nothing of its path but whether the address is the client's.
    fn adopt(&mut self, now: Instant, config: Arc<TransportConfig>) {
        if Arc::ptr_eq(&self.config, &config) {
            return;
        }
        let began_at = self.handshake.as_ref().map_or(now, |h| h.began_at);
        let (local, remote) = (self.path.local, self.path.remote);
        let id = self.path.id;
        let fresh = Path::new(now, local, remote, false, &config.path());
        let before = std::mem::replace(&mut self.path, fresh);
        (self.path.id, self.path.validation) = (id, before.validation);
        self.streams = Streams::with_bounds(self.side, config.limits(), config.bounds());
        let limit = config.parameters().active_connection_id_limit;
        self.remote_cids = RemoteCids::new(*self.remote_cids.current(), limit);
        self.idle_timeout_ns = nanos(config.idle_timeout);
        self.deadlines.handshake = after(began_at, nanos(config.handshake_timeout));
        self.max_rx_bytes = config.max_rx_bytes();
        self.config = config;
        self.restart_idle(now);
        self.set_keep_alive(now, self.config.keep_alive);
        self.set_network_statistics(now, self.config.network_statistics);
        // What the listener's settings let observe is over where others are chosen that observe as well.
        if let Some(original_dcid) = self.handshake.as_ref().map(|h| h.original_dcid) {
            self.start_observing(now, original_dcid);
        }
    }

    /// Turns a client away with a TLS alert (RFC 9001 §4.8), as a TLS server does that does not know
    /// the name (112, `unrecognized_name`) or speaks none of the protocols (120).
    pub fn refuse_with_alert(&mut self, now: Instant, number: u8) {
        self.turn_away(now, alert(number, TURNED_AWAY));
    }

    /// Turns a client away that the application does not want (RFC 9000 §20.1,
    /// CONNECTION_REFUSED).
    pub fn refuse(&mut self, now: Instant) {
        self.turn_away(now, TransportError::new(code::CONNECTION_REFUSED, TURNED_AWAY));
    }
}

/// Transport parameters, as TLS carries them.
pub(super) fn encoded(parameters: &TransportParameters) -> Vec<u8> {
    let mut out = Vec::with_capacity(160);
    parameters.encode(&mut out);
    out
}
