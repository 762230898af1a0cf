//! rustls as quinn gets it: one suite, one group, tickets as wanted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
};

use crate::Failure;
use crate::identity::{ALPN, Identity};

/// AWS-LC with AES-128-GCM and X25519 alone: what every stack of the suite uses. rustls' own
/// first choices would be AES-256-GCM and a post-quantum hybrid.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    Arc::new(provider)
}

/// A server; with `tickets` it issues stateless ones, as quiche does.
pub(crate) fn server(identity: &Identity, tickets: bool) -> Result<Arc<ServerConfig>, Failure> {
    let key = PrivatePkcs8KeyDer::from(identity.key_der.clone());
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![identity.leaf.clone()], key.into())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    if tickets {
        config.ticketer = aws_lc_rs::Ticketer::new()?;
    }
    Ok(Arc::new(config))
}

/// A client, and the count of certificates that it verified: a resumption verifies none.
pub(crate) fn client(
    identity: &Identity,
    tickets: bool,
) -> Result<(Arc<ClientConfig>, Arc<AtomicU64>), Failure> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.root.clone())?;
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
    let count = Arc::new(AtomicU64::new(0));
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Counting { inner, count: count.clone() }))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    if !tickets {
        config.resumption = Resumption::disabled();
    }
    Ok((Arc::new(config), count))
}

/// The usual verifier, counted.
#[derive(Debug)]
struct Counting {
    inner: Arc<WebPkiServerVerifier>,
    count: Arc<AtomicU64>,
}

impl ServerCertVerifier for Counting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.count.fetch_add(1, Relaxed);
        self.inner.verify_server_cert(end_entity, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
