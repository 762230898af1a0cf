//! Which servers a client trusts.
//!
//! Test servers present self-signed certificates. `--ca FILE` accepts a chain to a root in
//! the file, and also a server whose own certificate is in the file, be it marked as a CA or
//! not (webpki refuses the first kind as an end entity). `--insecure` accepts any certificate.
//! Both still check the server's signature over the handshake.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::{Failure, GetArgs};

/// The cryptography of both peers.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// TLS of a client, with the trust that the arguments name.
pub(crate) fn client_tls(args: &GetArgs) -> Result<Arc<ClientConfig>, Failure> {
    let policy = match &args.ca {
        Some(path) if !args.insecure => Policy::pinned(certificates(path)?)?,
        _ => Policy::Anyone,
    };
    let verifier = Arc::new(Verifier { policy, provider: provider() });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![args.alpn.clone().into_bytes()];
    Ok(Arc::new(config))
}

/// The certificates of a PEM file, at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let chain = read().map_err(|e| format!("no certificate in {}: {e}", path.display()))?;
    if chain.is_empty() {
        return Err(format!("no certificate in {}", path.display()).into());
    }
    Ok(chain)
}

#[derive(Debug)]
enum Policy {
    Anyone,
    Known { pinned: Vec<CertificateDer<'static>>, chains: Arc<WebPkiServerVerifier> },
}

impl Policy {
    fn pinned(pinned: Vec<CertificateDer<'static>>) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        for certificate in &pinned {
            roots.add(certificate.clone())?;
        }
        let chains =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
        Ok(Self::Known { pinned, chains })
    }
}

#[derive(Debug)]
struct Verifier {
    policy: Policy,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.policy {
            Policy::Anyone => Ok(ServerCertVerified::assertion()),
            Policy::Known { pinned, .. } if pinned.iter().any(|p| p == end_entity) => {
                Ok(ServerCertVerified::assertion())
            }
            Policy::Known { chains, .. } => {
                chains.verify_server_cert(end_entity, intermediates, name, ocsp, now)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
