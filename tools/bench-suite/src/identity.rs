//! One certificate for all stacks: a leaf of ECDSA P-256, signed by a root of the same kind.
//!
//! A leaf below a root, and not a self-signed one, because libraries differ in whether they
//! check the signature of a root that they trust already: so each client verifies two
//! signatures, the chain's and the handshake's.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;

use crate::Failure;

/// The name in the certificate.
pub(crate) const SERVER_NAME: &str = "localhost";
/// The application protocol of the benchmark.
pub(crate) const ALPN: &[u8] = b"bench";

/// What servers present and clients trust.
pub(crate) struct Identity {
    /// The root, as clients trust it.
    pub(crate) root: CertificateDer<'static>,
    /// The root, for libraries that read PEM.
    pub(crate) root_pem: String,
    /// The server's certificate.
    pub(crate) leaf: CertificateDer<'static>,
    /// The server's certificate, for libraries that read PEM.
    pub(crate) leaf_pem: String,
    /// The server's key, PKCS #8.
    pub(crate) key_der: Vec<u8>,
    /// The server's key, for libraries that read PEM.
    pub(crate) key_pem: String,
}

impl Identity {
    /// Makes a root and a leaf.
    pub(crate) fn new() -> Result<Self, Failure> {
        let root_key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        // A name of its own: with rcgen's one default for both, the leaf looks self-issued.
        params.distinguished_name.push(DnType::CommonName, "quiclane bench root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&root_key)?;
        let issuer = Issuer::new(params, root_key);
        let key = KeyPair::generate()?;
        let names = vec![SERVER_NAME.to_owned()];
        let leaf = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        Ok(Self {
            root: root.der().clone(),
            root_pem: root.pem(),
            leaf: leaf.der().clone(),
            leaf_pem: leaf.pem(),
            key_der: key.serialize_der(),
            key_pem: key.serialize_pem(),
        })
    }
}
