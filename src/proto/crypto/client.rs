//! What a client brings to every handshake.

use core::fmt;
use std::io::Write;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::aside::{Aside, PeerCertificate, current};
use super::config::{
    KeyLog, TlsConfigError, certificates, checked_alpn, checked_provider, identity, private_key,
    private_key_der,
};
use super::time::TimeOfCall;
use super::{provider, refused};

/// Servers whose tickets are remembered.
const DEFAULT_SESSIONS: usize = 256;

/// A client's TLS: whom it trusts, its protocols, the tickets that servers gave it. Built
/// once, used by every connection; cloning shares it, tickets included.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use quiclane::proto::crypto::ClientTls;
///
/// let tls = ClientTls::builder()
///     .roots_pem(&std::fs::read("/etc/ssl/certs/ca-certificates.crt")?)?
///     .alpn(["hq-interop"])
///     .build()?;
/// # let _ = tls; Ok(())
/// # }
/// ```
///
/// Resumption is on: a connection to a server that gave a ticket uses it up, and gets a new
/// one. Early data is off.
#[derive(Clone)]
pub struct ClientTls(
    pub(super) Arc<ClientConfig>,
    /// Tickets are remembered.
    pub(super) bool,
);

impl ClientTls {
    /// Starts with nothing: whom to trust and a protocol must be given.
    pub fn builder() -> ClientTlsBuilder {
        Self::builder_over(Arc::clone(provider::provider()))
    }

    /// As [`ClientTls::builder`], with a provider of one's own: see
    /// [`default_provider`](super::default_provider).
    pub fn builder_with(provider: CryptoProvider) -> ClientTlsBuilder {
        Self::builder_over(Arc::new(provider))
    }

    fn builder_over(provider: Arc<CryptoProvider>) -> ClientTlsBuilder {
        ClientTlsBuilder {
            provider,
            trust: None,
            alpn: Vec::new(),
            identity: None,
            sessions: DEFAULT_SESSIONS,
            asks_application: false,
            key_log: None,
        }
    }

    /// True if a server can be asked for by this name: a DNS name or an IP address.
    #[must_use]
    pub fn is_server_name(name: &str) -> bool {
        ServerName::try_from(name).is_ok()
    }

    /// The same settings without the memory of servers.
    #[cfg(test)]
    pub(super) fn forgetful(&self) -> Self {
        let mut config = ClientConfig::clone(&self.0);
        config.resumption = Resumption::in_memory_sessions(DEFAULT_SESSIONS);
        Self(Arc::new(config), self.1)
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("alpn", &self.0.alpn_protocols).finish_non_exhaustive()
    }
}

/// Whom a client believes.
enum Trust {
    Roots(RootCertStore),
    Pinned(CertificateDer<'static>),
    Anyone,
}

/// Builds a [`ClientTls`].
#[must_use]
pub struct ClientTlsBuilder {
    provider: Arc<CryptoProvider>,
    trust: Option<Trust>,
    alpn: Vec<Vec<u8>>,
    identity: Option<CertifiedKey>,
    sessions: usize,
    asks_application: bool,
    key_log: Option<KeyLog>,
}

impl ClientTlsBuilder {
    /// Trusts servers whose certificate was issued under one of these roots, for the name
    /// that the connection is opened to. PEM text, for example the system's bundle.
    ///
    /// # Errors
    /// If the text cannot be read or holds no certificate that can be a root.
    pub fn roots_pem(mut self, pem: &[u8]) -> Result<Self, TlsConfigError> {
        self.trust = Some(Trust::Roots(root_store(certificates("the trusted roots", pem)?)?));
        Ok(self)
    }

    /// As [`ClientTlsBuilder::roots_pem`], from DER.
    ///
    /// # Errors
    /// If one of them cannot be used.
    pub fn roots_der(mut self, roots: &[&[u8]]) -> Result<Self, TlsConfigError> {
        let roots = roots.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        self.trust = Some(Trust::Roots(root_store(roots)?));
        Ok(self)
    }

    /// Trusts exactly one certificate, byte for byte, whatever name and dates it bears. The
    /// server must still prove that it has the key.
    pub fn pinned_certificate_der(mut self, certificate: &[u8]) -> Self {
        self.trust = Some(Trust::Pinned(CertificateDer::from(certificate.to_vec())));
        self
    }

    /// As [`ClientTlsBuilder::pinned_certificate_der`], from the first certificate of a PEM
    /// text.
    ///
    /// # Errors
    /// If the text cannot be read or holds no certificate.
    pub fn pinned_certificate_pem(mut self, pem: &[u8]) -> Result<Self, TlsConfigError> {
        let certificate = certificates("the pinned certificate", pem)?.swap_remove(0);
        self.trust = Some(Trust::Pinned(certificate));
        Ok(self)
    }

    /// Trusts any server that answers: an attacker on the path can read and change everything.
    /// For tests and measurements on networks of one's own.
    pub fn dangerous_insecure(mut self) -> Self {
        self.trust = Some(Trust::Anyone);
        self
    }

    /// The application protocols offered, the preferred one first.
    pub fn alpn<P: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(|name| name.as_ref().to_vec()).collect();
        self
    }

    /// The certificate chain and key to show to a server that asks, as PEM text.
    ///
    /// # Errors
    /// If either cannot be read, or they do not belong together.
    pub fn certificate_pem(mut self, chain: &[u8], key: &[u8]) -> Result<Self, TlsConfigError> {
        let chain = certificates("the client's certificate chain", chain)?;
        self.identity = Some(identity(chain, private_key(key)?, &self.provider)?);
        Ok(self)
    }

    /// The certificate chain and key to show to a server that asks, in DER.
    ///
    /// # Errors
    /// If either cannot be read, or they do not belong together.
    pub fn certificate_der(mut self, chain: &[&[u8]], key: &[u8]) -> Result<Self, TlsConfigError> {
        let chain = chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        self.identity = Some(identity(chain, private_key_der(key)?, &self.provider)?);
        Ok(self)
    }

    /// For how many servers tickets are remembered, in memory (default 256); 0 turns
    /// resumption off.
    pub fn sessions(mut self, servers: usize) -> Self {
        self.sessions = servers;
        self
    }

    /// Gives the application the last word on the server's certificate:
    /// [`Handler::peer_certificate`](crate::exec::Handler::peer_certificate). Sessions that are resumed show none:
    /// a server that one connection has accepted is not judged by the next one with this TLS or a clone of it,
    /// unless [`sessions`](Self::sessions) is 0.
    pub fn application_judges(mut self) -> Self {
        self.asks_application = true;
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
    /// Without someone to trust or a protocol, or if the TLS library refuses the settings.
    pub fn build(self) -> Result<ClientTls, TlsConfigError> {
        let trust = self.trust.ok_or(TlsConfigError::NoTrust)?;
        let alpn_protocols = checked_alpn(self.alpn)?;
        let provider = checked_provider(self.provider)?;
        let time = Arc::new(TimeOfCall);
        let builder = ClientConfig::builder_with_details(Arc::clone(&provider), time)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TlsConfigError::from_tls(&error))?;
        let whom = match trust {
            Trust::Roots(roots) => Whom::under(roots, &provider)?,
            Trust::Pinned(certificate) => Whom::Exactly(certificate),
            Trust::Anyone => Whom::Anyone,
        };
        let verifier =
            Arc::new(Verifier { whom, provider, asks_application: self.asks_application });
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
            }
        };
        config.alpn_protocols = alpn_protocols;
        config.enable_early_data = false;
        config.resumption = match self.sessions {
            0 => Resumption::disabled(),
            servers => Resumption::in_memory_sessions(servers),
        };
        if let Some(log) = self.key_log {
            config.key_log = Arc::new(log);
        }
        Ok(ClientTls(Arc::new(config), self.sessions > 0))
    }
}

impl fmt::Debug for ClientTlsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTlsBuilder").field("alpn", &self.alpn).finish_non_exhaustive()
    }
}

/// A store of roots. In a bundle of many, as systems have, some that the library cannot use
/// are normal and skipped; none that it can use is an error.
pub(super) fn root_store(
    roots: Vec<CertificateDer<'static>>,
) -> Result<RootCertStore, TlsConfigError> {
    let mut store = RootCertStore::empty();
    let mut first_refusal = None;
    for (index, root) in roots.into_iter().enumerate() {
        if let Err(error) = store.add(root) {
            first_refusal.get_or_insert((index, error.to_string()));
        }
    }
    match first_refusal {
        Some((index, detail)) if store.is_empty() => Err(TlsConfigError::BadRoot { index, detail }),
        None if store.is_empty() => Err(TlsConfigError::NoTrust),
        _ => Ok(store),
    }
}

/// Whom a client believes. Signatures are checked in any case, so that the peer has the key of
/// the certificate that it shows.
#[derive(Debug)]
struct Verifier {
    whom: Whom,
    provider: Arc<CryptoProvider>,
    asks_application: bool,
}

#[derive(Debug)]
enum Whom {
    /// What was issued under known roots, for the name that was asked for.
    Roots(Arc<WebPkiServerVerifier>),
    /// One certificate.
    Exactly(CertificateDer<'static>),
    Anyone,
}

impl Whom {
    fn under(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Result<Self, TlsConfigError> {
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map(Self::Roots)
            .map_err(|error| TlsConfigError::Tls { detail: error.to_string() })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = match &self.whom {
            Whom::Roots(roots) => roots
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .map_err(|error| refused::explained(error, end_entity, intermediates.len())),
            Whom::Exactly(pinned) if pinned.as_ref() != end_entity.as_ref() => {
                Err(refused::not_pinned(end_entity))
            }
            Whom::Exactly(_) | Whom::Anyone => Ok(ServerCertVerified::assertion()),
        };
        if !self.asks_application {
            return verdict;
        }
        let certificate = PeerCertificate::judged(end_entity, intermediates, &verdict);
        current(|aside| aside.claimed = Some(certificate));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        let verified = verify_tls13_signature(message, certificate, signature, algorithms)?;
        current(Aside::is_proved);
        Ok(verified)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
