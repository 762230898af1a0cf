//! Certificates: read, or made on the spot; and whom a client trusts.

use crate::args::{ServeArgs, TrustArgs};
use crate::error::Failure;
use quiclane::{ClientTls, ServerTls};
use std::path::Path;

/// The server's certificate and key, PEM.
pub(crate) struct Identity {
    chain: Vec<u8>,
    key: Vec<u8>,
}

impl Identity {
    pub(crate) fn from_args(args: &ServeArgs) -> Result<Self, Failure> {
        if let (Some(cert), Some(key)) = (&args.cert, &args.key) {
            return Ok(Self { chain: read(cert)?, key: read(key)? });
        }
        let identity = Self::self_signed()?;
        if let Some(path) = &args.cert_out {
            std::fs::write(path, &identity.chain).map_err(|e| Failure::file("write", path, &e))?;
        }
        Ok(identity)
    }

    fn self_signed() -> Result<Self, Failure> {
        let names = ["localhost".to_owned()];
        let made = rcgen::generate_simple_self_signed(names)
            .map_err(|e| Failure::Failed(format!("no self-signed certificate: {e}")))?;
        Ok(Self {
            chain: made.cert.pem().into_bytes(),
            key: made.signing_key.serialize_pem().into_bytes(),
        })
    }

    pub(crate) fn server_tls(&self, protocols: &[&str]) -> Result<ServerTls, Failure> {
        ServerTls::builder()
            .certificate_pem(&self.chain, &self.key)
            .and_then(|b| b.alpn(protocols).build())
            .map_err(|e| Failure::Usage(format!("the certificate cannot be used: {e}")))
    }
}

/// What a client trusts and speaks.
pub(crate) fn client_tls(args: &TrustArgs, protocol: &str) -> Result<ClientTls, Failure> {
    let builder = ClientTls::builder();
    let builder = match (&args.ca, args.insecure) {
        (Some(path), _) => {
            let pem = read(path)?;
            builder
                .pinned_certificate_pem(&pem)
                .map_err(|e| Failure::Usage(format!("{} cannot be trusted: {e}", path.display())))?
        }
        (None, true) => builder.dangerous_insecure(),
        (None, false) => {
            return Err(Failure::Usage(
                "say whom to trust: --ca FILE with the server's certificate, or --insecure for \
                 tests"
                    .to_owned(),
            ));
        }
    };
    builder
        .alpn([protocol])
        .build()
        .map_err(|e| Failure::Usage(format!("TLS cannot be set up: {e}")))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|e| Failure::file("read", path, &e))
}
