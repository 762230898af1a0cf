//! One certificate for all stacks: a leaf of ECDSA P-256, signed by a root of the same kind.
//!
//! A leaf below a root, and not a self-signed one, because libraries differ in whether they
//! check the signature of a root that they trust already: so each client verifies two
//! signatures, the chain's and the handshake's.

use quiclane_testkit::Authority;
use quiclane_testkit::rcgen::CertificateParams;
use rustls::pki_types::CertificateDer;

use crate::Failure;

/// The name in the certificate.
pub(crate) const SERVER_NAME: &str = "localhost";
/// The application protocol of the benchmark.
pub(crate) const ALPN: &[u8] = b"bench";

/// The certificates of servers, and the root that clients trust.
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
        let root = Authority::root("quiclane bench root");
        let leaf = root.signs(&CertificateParams::new(vec![SERVER_NAME.to_owned()])?);
        Ok(Self {
            root: CertificateDer::from(root.der),
            root_pem: root.pem,
            leaf: CertificateDer::from(leaf.certificate),
            leaf_pem: leaf.certificate_pem,
            key_der: leaf.key,
            key_pem: leaf.key_pem,
        })
    }
}
