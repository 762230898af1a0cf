//! What a server brings to every handshake.

use core::fmt;
use std::io::Write;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};

use super::asking::AskingClientVerifier;
use super::client::root_store;
use super::config::{
    KeyLog, TlsConfigError, certificates, checked_alpn, checked_provider, identity, private_key,
    private_key_der,
};
use super::provider;
use super::ticketer::{TICKET_DATA_MAX_BYTES, TicketFilter, Ticketer};
use super::time::TimeOfCall;

/// Tickets that a client gets after each full or resumed handshake. A QUIC client keeps one
/// connection to a server and multiplexes, so that one ticket, renewed by every handshake,
/// is what it uses; the second is for a client whose first attempt to resume is lost.
const DEFAULT_TICKETS: usize = 2;

/// A server's TLS: its certificate, its protocols, its tickets. Built once, used by every
/// connection; cloning shares it.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use quiclane::proto::crypto::ServerTls;
///
/// let tls = ServerTls::builder()
///     .certificate_pem(&std::fs::read("chain.pem")?, &std::fs::read("key.pem")?)?
///     .alpn(["hq-interop"])
///     .build()?;
/// # let _ = tls; Ok(())
/// # }
/// ```
///
/// Session tickets are on and stateless: the ticket carries the session under a key that
/// rotates every 6 hours and is accepted for 12; a day after a handshake with certificates there is
/// another one, however often the client resumed. The certificates of a client are part of its
/// session: one with more of them than fit a ticket of 1,536 bytes gets none, and has a full
/// handshake each time. Early data is off.
#[derive(Clone)]
pub struct ServerTls(
    pub(super) Arc<ServerConfig>,
    /// What the application keeps in tickets.
    pub(super) Option<Arc<[u8]>>,
);

impl ServerTls {
    /// Starts with nothing: a certificate and a protocol must be given.
    pub fn builder() -> ServerTlsBuilder {
        Self::builder_over(Arc::clone(provider::provider()))
    }

    /// As [`ServerTls::builder`], with a provider of one's own: see
    /// [`default_provider`](super::default_provider).
    pub fn builder_with(provider: CryptoProvider) -> ServerTlsBuilder {
        Self::builder_over(Arc::new(provider))
    }

    fn builder_over(provider: Arc<CryptoProvider>) -> ServerTlsBuilder {
        ServerTlsBuilder {
            provider,
            identity: None,
            alpn: Vec::new(),
            tickets: DEFAULT_TICKETS,
            client_roots: None,
            asks_application: false,
            ticket_filter: None,
            key_log: None,
        }
    }

    /// The same, but for what the application keeps in the tickets of those who get it: as
    /// [`Handler::resumed`](crate::exec::Handler::resumed) says it to a connection that resumes by one. A client
    /// cannot read it or change it, only show an older one, of twelve hours at most. The keys of tickets are shared.
    ///
    /// # Errors
    /// If it is longer than [`TICKET_DATA_MAX_BYTES`].
    pub fn with_ticket_data(&self, data: &[u8]) -> Result<Self, TlsConfigError> {
        if data.len() > TICKET_DATA_MAX_BYTES {
            return Err(TlsConfigError::LongTicketData { len: data.len() });
        }
        Ok(Self(Arc::clone(&self.0), Some(data.into())))
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("alpn", &self.0.alpn_protocols).finish_non_exhaustive()
    }
}

/// Builds a [`ServerTls`].
#[must_use]
pub struct ServerTlsBuilder {
    provider: Arc<CryptoProvider>,
    identity: Option<CertifiedKey>,
    alpn: Vec<Vec<u8>>,
    tickets: usize,
    client_roots: Option<RootCertStore>,
    asks_application: bool,
    ticket_filter: Option<TicketFilter>,
    key_log: Option<KeyLog>,
}

impl ServerTlsBuilder {
    /// The certificate chain, the server's own first, and its private key, as PEM text.
    ///
    /// # Errors
    /// If either cannot be read, or they do not belong together.
    pub fn certificate_pem(mut self, chain: &[u8], key: &[u8]) -> Result<Self, TlsConfigError> {
        let chain = certificates("the certificate chain", chain)?;
        self.identity = Some(identity(chain, private_key(key)?, &self.provider)?);
        Ok(self)
    }

    /// The certificate chain, the server's own first, and its private key (PKCS #8, PKCS #1
    /// or SEC 1), in DER.
    ///
    /// # Errors
    /// If either cannot be read, or they do not belong together.
    pub fn certificate_der(mut self, chain: &[&[u8]], key: &[u8]) -> Result<Self, TlsConfigError> {
        if chain.is_empty() {
            return Err(TlsConfigError::NoCertificate);
        }
        let chain = chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        self.identity = Some(identity(chain, private_key_der(key)?, &self.provider)?);
        Ok(self)
    }

    /// The application protocols spoken, the preferred one first. A client that offers none
    /// of them is refused with no_application_protocol (0x178).
    pub fn alpn<P: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(|name| name.as_ref().to_vec()).collect();
        self
    }

    /// How many session tickets each handshake gives (default 2); 0 turns resumption off.
    pub fn tickets(mut self, count: usize) -> Self {
        self.tickets = count;
        self
    }

    /// Demands a certificate from every client, issued under one of these roots (PEM text).
    /// Without this call no client is asked for one.
    ///
    /// # Errors
    /// If the roots cannot be read or used.
    pub fn require_client_certificates(mut self, roots: &[u8]) -> Result<Self, TlsConfigError> {
        self.client_roots = Some(root_store(certificates("the client roots", roots)?)?);
        Ok(self)
    }

    /// Gives the application the last word on the client certificates that are demanded:
    /// [`Handler::peer_certificate`](crate::exec::Handler::peer_certificate). Sessions that are resumed show none: whom
    /// it has accepted is not judged again for a day, unless [`tickets`](Self::tickets) are off or
    /// the [`ticket_filter`](Self::ticket_filter) refuses them.
    pub fn application_judges(mut self) -> Self {
        self.asks_application = true;
        self
    }

    /// A client resumes only where this says so, by what the application had kept in its ticket
    /// ([`ServerTls::with_ticket_data`]; empty if that was nothing). The others have a full handshake. It is called on
    /// the thread of the connection, and must not block. A panic of it says no.
    pub fn ticket_filter(
        mut self,
        may_resume: impl Fn(&[u8]) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.ticket_filter = Some(Box::new(may_resume));
        self
    }

    /// Writes every connection's secrets to `log`, in the format of SSLKEYLOGFILE. A
    /// reader of that log can read the traffic: for debugging only.
    pub fn key_log(mut self, log: impl Write + Send + 'static) -> Self {
        self.key_log = Some(KeyLog::new(Box::new(log)));
        self
    }

    /// Checks and freezes the settings.
    ///
    /// # Errors
    /// Without a certificate or a protocol, or if the TLS library refuses the settings.
    pub fn build(self) -> Result<ServerTls, TlsConfigError> {
        let identity = self.identity.ok_or(TlsConfigError::NoCertificate)?;
        let alpn_protocols = checked_alpn(self.alpn)?;
        let provider = checked_provider(self.provider)?;
        let time = Arc::new(TimeOfCall);
        let builder = ServerConfig::builder_with_details(Arc::clone(&provider), time)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TlsConfigError::from_tls(&error))?;
        let builder = match self.client_roots {
            None if self.asks_application => return Err(TlsConfigError::NothingToJudge),
            None => builder.with_no_client_auth(),
            Some(roots) => {
                let roots = Arc::new(roots);
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
                        .build()
                        .map_err(|error| TlsConfigError::Tls { detail: error.to_string() })?;
                builder.with_client_cert_verifier(if self.asks_application {
                    Arc::new(AskingClientVerifier(verifier))
                } else {
                    verifier
                })
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
        config.alpn_protocols = alpn_protocols;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = self.tickets;
        config.max_early_data_size = 0;
        if self.tickets > 0 {
            config.ticketer = Arc::new(Ticketer::new(provider.secure_random, self.ticket_filter));
        }
        if let Some(log) = self.key_log {
            config.key_log = Arc::new(log);
        }
        Ok(ServerTls(Arc::new(config), None))
    }
}

impl fmt::Debug for ServerTlsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTlsBuilder").field("alpn", &self.alpn).finish_non_exhaustive()
    }
}
