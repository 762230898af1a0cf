//! The certificate a server presents.

use std::path::Path;
use std::sync::Arc;

use quiclane_testkit::Identity;
use quiclane_testkit::certificate::named;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{Failure, ServeArgs, trust};

/// Names that the self-signed certificate is good for.
const SELF_SIGNED_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// TLS of a server: the certificate of the arguments, or a self-signed ECDSA P-256 one.
pub(crate) fn server_tls(args: &ServeArgs) -> Result<Arc<ServerConfig>, Failure> {
    let (chain, key, pem) = match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => from_files(cert, key)?,
        _ => self_signed(),
    };
    write_out(args, &pem)?;
    let mut config = ServerConfig::builder_with_provider(trust::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![args.alpn.clone().into_bytes()];
    Ok(Arc::new(config))
}

/// The same certificate and its key in PEM, for a stack with a TLS of its own.
#[cfg(any(feature = "quiche", feature = "ngtcp2"))]
pub(crate) fn pem(args: &ServeArgs) -> Result<(String, String), Failure> {
    let (chain, key) = match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => (std::fs::read_to_string(cert)?, std::fs::read_to_string(key)?),
        _ => {
            let made = Identity::self_signed(&named("quiclane peer", &SELF_SIGNED_NAMES));
            (made.certificate_pem, made.key_pem)
        }
    };
    write_out(args, &chain)?;
    Ok((chain, key))
}

/// Writes the chain for clients, if the arguments ask for that.
fn write_out(args: &ServeArgs, pem: &str) -> Result<(), Failure> {
    let Some(path) = &args.cert_out else { return Ok(()) };
    std::fs::write(path, pem).map_err(|e| format!("cannot write {}: {e}", path.display()).into())
}

/// The chain, the key, and the chain in PEM.
type Presented = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, String);

fn from_files(cert: &Path, key: &Path) -> Result<Presented, Failure> {
    let chain = trust::certificates(cert)?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|e| format!("no private key in {}: {e}", key.display()))?;
    Ok((chain, private, std::fs::read_to_string(cert)?))
}

fn self_signed() -> Presented {
    let made = Identity::self_signed(&named("quiclane peer", &SELF_SIGNED_NAMES));
    let key = PrivatePkcs8KeyDer::from(made.key);
    (vec![CertificateDer::from(made.certificate)], key.into(), made.certificate_pem)
}
