//! One TLS handshake, as bytes in and out by level.

use core::fmt;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::quic::{ClientConnection, Connection, ServerConnection, Version};
use rustls::{AlertDescription, HandshakeKind};

use super::aside::{Aside, PeerCertificate, TicketTroubles, beside};
use super::keys::{KeyChange, Keys, OneRttSecrets};
use super::material::taken;
use super::refused::Refused;
use super::{ClientTls, Level, ServerTls, TlsError, time};
use crate::time::Instant;

/// A TLS session of one connection.
///
/// Give it the bytes of CRYPTO frames, in order and each level by itself, with
/// [`Session::read`]. After that, and once at the start for a client, call [`Session::write`]
/// until it adds no byte and gives no key: the bytes it appends belong in CRYPTO frames at
/// the level that [`Session::write_level`] said before the call.
///
/// A server may drop the session when the handshake is complete and everything that it wrote
/// is acknowledged: it reads nothing more (what a client sends then is an error, 0x10a). A
/// client keeps it for as long as it wants tickets, see `Session::wants_tickets`.
pub struct Session {
    tls: Connection,
    wants_tickets: bool,
    /// Keys of the Handshake level were given out.
    has_handshake_keys: bool,
    /// What [`Session::write`] appends to belongs to this level.
    write_level: Level,
    /// What is the application's and this session's.
    aside: Aside,
    /// rustls must not be fed after an error.
    failed: Option<TlsError>,
}

impl Session {
    /// Bytes of heap that the TLS library holds for a session: `tests/key_memory.rs` prints 4.2
    /// to 4.6 kB after a handshake, which is rounded up here.
    pub(crate) const HEAP_BYTES: usize = 5 << 10;

    /// A client's session with `server_name`, a DNS name or an IP address, which the server's
    /// certificate must be for. `transport_parameters` is the encoded extension, `now` counts
    /// from 1970: the age of a ticket is known by it.
    ///
    /// # Errors
    /// If the name is neither.
    pub fn client(
        now: Instant,
        tls: &ClientTls,
        server_name: &str,
        transport_parameters: &[u8],
    ) -> Result<Box<Self>, TlsError> {
        let name = ServerName::try_from(server_name).map_err(|_| {
            TlsError::alert(
                AlertDescription::InternalError,
                format!("\"{server_name}\" is neither a DNS name nor an IP address"),
            )
        })?;
        let config = Arc::clone(&tls.0);
        let parameters = transport_parameters.to_vec();
        let name = name.to_owned();
        let session =
            time::at(now, || ClientConnection::new(config, Version::V1, name, parameters))
                .map_err(|error| internal(&error))?;
        Ok(Self::boxed(Connection::Client(session), tls.1, None))
    }

    /// A server's session. `transport_parameters` is the encoded extension.
    ///
    /// # Errors
    /// If the TLS library cannot start a session.
    pub fn server(tls: &ServerTls, transport_parameters: &[u8]) -> Result<Box<Self>, TlsError> {
        let parameters = transport_parameters.to_vec();
        let session = ServerConnection::new(Arc::clone(&tls.0), Version::V1, parameters)
            .map_err(|error| internal(&error))?;
        Ok(Self::boxed(Connection::Server(session), false, tls.1.clone()))
    }

    fn boxed(tls: Connection, wants_tickets: bool, ticket_data: Option<Arc<[u8]>>) -> Box<Self> {
        Box::new(Self {
            tls,
            wants_tickets,
            has_handshake_keys: false,
            write_level: Level::Initial,
            aside: Aside { ticket_data, ..Aside::NONE },
            failed: None,
        })
    }

    /// True if there is a use for the tickets that come after the handshake: a client that
    /// remembers sessions has one.
    #[must_use]
    pub(crate) fn wants_tickets(&self) -> bool {
        self.wants_tickets
    }

    /// Takes the next bytes that the peer sent in CRYPTO frames at `level`. `now` counts from
    /// 1970: certificates are valid at a time, and tickets for a time.
    ///
    /// # Errors
    /// The handshake failed: close with the error's code. Every later call fails likewise.
    pub fn read(&mut self, now: Instant, level: Level, data: &[u8]) -> Result<(), TlsError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.read_in_order(now, level, data).inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn read_in_order(&mut self, now: Instant, level: Level, data: &[u8]) -> Result<(), TlsError> {
        // RFC 9001 §4.1.3: new bytes at any level but the one TLS reads from are a violation;
        // the connection has already discarded what it had received before.
        let expected = self.read_level();
        if level != expected {
            return Err(TlsError::violation(format!(
                "CRYPTO data at level {level:?} while TLS reads at {expected:?}"
            )));
        }
        if data.is_empty() {
            return Ok(());
        }
        let Self { tls, aside, .. } = self;
        time::at(now, || beside(aside, || tls.read_hs(data))).map_err(|error| {
            if let Some(refused) = Refused::of(&error) {
                return TlsError::alert(refused.alert, refused.to_string());
            }
            let alert = self.tls.alert().unwrap_or_else(|| alert_for(&error));
            TlsError::alert(alert, error.to_string())
        })
    }

    /// What ended the handshake, if something did.
    #[must_use]
    pub fn failure(&self) -> Option<&TlsError> {
        self.failed.as_ref()
    }

    /// Appends handshake bytes to send, and gives new keys when there are some. Call again
    /// until it does neither.
    pub fn write(&mut self, out: &mut Vec<u8>) -> Option<KeyChange> {
        let (change, made) = taken(|| self.tls.write_hs(out));
        // Neither is missing: the suites of a configuration note what they make.
        let (change, keys) = (change?, Keys::of(made)?);
        Some(match change {
            rustls::quic::KeyChange::Handshake { .. } => {
                self.has_handshake_keys = true;
                self.write_level = Level::Handshake;
                KeyChange::Handshake(keys)
            }
            rustls::quic::KeyChange::OneRtt { next, .. } => {
                self.write_level = Level::OneRtt;
                KeyChange::OneRtt { keys, next: OneRttSecrets::new(next) }
            }
        })
    }

    /// The level of the bytes that the next [`Session::write`] appends.
    #[must_use]
    pub fn write_level(&self) -> Level {
        self.write_level
    }

    /// The level that [`Session::read`] takes bytes of.
    #[must_use]
    pub fn read_level(&self) -> Level {
        match (self.tls.is_handshaking(), self.has_handshake_keys) {
            (false, _) => Level::OneRtt,
            (true, true) => Level::Handshake,
            (true, false) => Level::Initial,
        }
    }

    /// True if the handshake is still to complete: RFC 9001 §4.1.1, the peer's Finished was
    /// verified and ours was sent.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// The peer's encoded transport parameters. A server has them after the first flight,
    /// authenticated only once the handshake completes. A client has them from the completed
    /// handshake on: never what it remembers from an earlier session.
    #[must_use]
    pub fn peer_transport_parameters(&self) -> Option<&[u8]> {
        if let Connection::Client(client) = &self.tls
            && client.is_handshaking()
        {
            return None;
        }
        self.tls.quic_transport_parameters()
    }

    /// The application protocol that was agreed on.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tls.alpn_protocol()
    }

    /// The name that the client asked for; `None` on a client, and where the client sent no name.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        match &self.tls {
            Connection::Server(server) => server.server_name(),
            Connection::Client(_) => None,
        }
    }

    /// The cipher suite and the group of the key exchange, by their numbers; 0 for what is not known.
    pub(crate) fn agreed(&self) -> (u16, u16) {
        let suite = self.tls.negotiated_cipher_suite().map_or(0, |suite| suite.suite().into());
        let group = self.tls.negotiated_key_exchange_group();
        (suite, group.map_or(0, |group| group.name().into()))
    }

    /// True if an earlier session was resumed, without certificate and signature.
    #[must_use]
    pub fn resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// What the application had kept in the ticket by which the session was resumed; `None` if that was
    /// nothing.
    pub(crate) fn take_resumed_data(&mut self) -> Option<Box<[u8]>> {
        self.aside.shown.take().filter(|data| !data.is_empty() && self.resumed())
    }

    /// The peer's certificate, once, if the application has the last word on it. Until it is said, nothing of
    /// what TLS writes may be sent, and the handshake is not complete.
    pub(crate) fn take_certificate(&mut self) -> Option<PeerCertificate> {
        self.aside.certificate.take()
    }

    /// What went wrong with this session's tickets.
    pub(crate) fn ticket_troubles(&self) -> TicketTroubles {
        self.aside.tickets
    }

    /// Tickets that a client was given so far.
    pub(crate) fn tickets_received(&self) -> u32 {
        match &self.tls {
            Connection::Client(client) => client.tls13_tickets_received(),
            Connection::Server(_) => 0,
        }
    }

    /// The peer's own certificate, in DER: the server's, or the client's where one was
    /// demanded.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        self.tls.peer_certificates()?.first().map(|der| der.as_ref())
    }

    /// Fills `out` with keying material that both sides can derive (RFC 8446 §7.5). `false`
    /// before the handshake is complete.
    pub fn export_keying_material(&self, label: &[u8], context: &[u8], out: &mut [u8]) -> bool {
        self.tls.export_keying_material(out, label, Some(context)).is_ok()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("read_level", &self.read_level())
            .field("write_level", &self.write_level)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

fn internal(error: &rustls::Error) -> TlsError {
    TlsError::alert(AlertDescription::InternalError, error.to_string())
}

/// The alert for errors that rustls raises without choosing one.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library adds variants in minor versions")]
fn alert_for(error: &rustls::Error) -> AlertDescription {
    use rustls::Error;
    match error {
        Error::InvalidMessage(_) => AlertDescription::DecodeError,
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            AlertDescription::UnexpectedMessage
        }
        Error::PeerMisbehaved(_) => AlertDescription::IllegalParameter,
        Error::PeerIncompatible(_) => AlertDescription::HandshakeFailure,
        Error::NoApplicationProtocol => AlertDescription::NoApplicationProtocol,
        Error::InvalidCertificate(_) => AlertDescription::BadCertificate,
        _ => AlertDescription::InternalError,
    }
}

#[cfg(test)]
mod tests;
