//! Certificates: read, or made at the start; and what a client trusts.

use crate::args::{ServeArgs, TrustArgs};
use crate::error::Failure;
use crate::output::Output;
use crate::target::Target;
use quiclane::TlsConfigError;
use quiclane::{ClientTls, CloseReason, ServerTls};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// How long a self-signed certificate is valid: it is made anew at every start. Its first day is
/// yesterday, for clients whose clocks are behind.
const SELF_SIGNED_DAYS: i64 = 365;
/// TLS alerts (RFC 8446 §6) with which a client refuses a certificate: 42 to 46, and 48.
const BAD_CERTIFICATE: u8 = 42;
const CERTIFICATE_UNKNOWN: u8 = 46;
const UNKNOWN_CA: u8 = 48;
/// Mode bits with which other users may read or write a private key.
const OTHERS: u32 = 0o077;

/// The server's certificate and key, PEM.
pub(crate) struct Identity {
    chain: Vec<u8>,
    key: Vec<u8>,
    /// Where they come from, for errors.
    from: String,
    /// It is self-signed: clients need a copy to trust it.
    is_made: bool,
    /// The draft of the certificate for clients to pin, until the server listens.
    out: Option<Output>,
}

impl Identity {
    pub(crate) fn from_args(args: &ServeArgs) -> Result<Self, Failure> {
        if let (Some(cert), Some(key)) = (&args.cert, &args.key) {
            warn_of_open_key(key);
            let from = format!("--cert {} with --key {}", cert.display(), key.display());
            let (chain, key) = (read(cert)?, read(key)?);
            return Ok(Self { chain, key, from, is_made: false, out: None });
        }
        let mut identity = Self::self_signed(args.listen.ip())?;
        if let Some(path) = &args.cert_out {
            let mut out = Output::not_through_links(path)?;
            out.write(&identity.chain)?;
            identity.out = Some(out);
        }
        Ok(identity)
    }

    /// Called when the server listens: writes the certificate for clients. If it were written
    /// before, a server that cannot start would replace the certificate of one that runs.
    pub(crate) fn publish(self) -> Result<(), Failure> {
        match self.out {
            Some(out) => out.finish()?,
            None if self.is_made => tracing::warn!(
                "the certificate is self-signed, and no client can check it: --cert-out FILE \
                 writes it for clients to pin, --cert and --key name one of your own"
            ),
            None => {}
        }
        Ok(())
    }

    /// A certificate for the names that a client on this machine, or one that reaches `listen`,
    /// would use.
    fn self_signed(listen: IpAddr) -> Result<Self, Failure> {
        let fail = |e: rcgen::Error| Failure::Failed(format!("no self-signed certificate: {e}"));
        let mut names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        if !listen.is_unspecified() && !names.contains(&listen.to_string()) {
            names.push(listen.to_string());
        }
        let mut parameters = rcgen::CertificateParams::new(names).map_err(fail)?;
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        let common_name = rcgen::DnType::CommonName;
        parameters.distinguished_name.push(common_name, "quiclane self-signed");
        (parameters.not_before, parameters.not_after) = validity();
        let key = rcgen::KeyPair::generate().map_err(fail)?;
        let made = parameters.self_signed(&key).map_err(fail)?;
        let (chain, key) = (made.pem().into_bytes(), key.serialize_pem().into_bytes());
        let from = "the self-signed certificate".to_owned();
        Ok(Self { chain, key, from, is_made: true, out: None })
    }

    pub(crate) fn server_tls(&self, protocols: &[&str]) -> Result<ServerTls, Failure> {
        ServerTls::builder()
            .certificate_pem(&self.chain, &self.key)
            .and_then(|b| b.alpn(protocols).build())
            .map_err(|e| Failure::Usage(format!("{} cannot be used: {e}", self.from)))
    }
}

#[expect(clippy::disallowed_methods, reason = "a certificate is valid from a date")]
fn validity() -> (time::OffsetDateTime, time::OffsetDateTime) {
    let now = time::OffsetDateTime::from(std::time::SystemTime::now());
    (now - time::Duration::days(1), now + time::Duration::days(SELF_SIGNED_DAYS))
}

fn warn_of_open_key(key: &Path) {
    if let Ok(meta) = fs::metadata(key)
        && meta.mode() & OTHERS != 0
    {
        let (path, mode) = (key.display(), meta.mode() & 0o777);
        tracing::warn!("{path} has mode {mode:04o}: others may read this key; chmod 600 {path}");
    }
}

impl TrustArgs {
    /// The name of the server: --server-name, or the host.
    ///
    /// # Errors
    /// --server-name is not a name.
    pub(crate) fn server_name(&self, target: &Target) -> Result<String, Failure> {
        let name = self.server_name.as_deref().unwrap_or_else(|| target.server_name());
        if ClientTls::is_server_name(name) {
            return Ok(name.to_owned());
        }
        Err(Failure::Usage(format!(
            "--server-name \"{name}\": neither a DNS name nor an IP address"
        )))
    }
}

/// Why a connection ended; for a refused certificate, with the options that change the trust.
pub(crate) fn explained(reason: &CloseReason) -> String {
    let is_refusal = |alert| matches!(alert, BAD_CERTIFICATE..=CERTIFICATE_UNKNOWN | UNKNOWN_CA);
    match reason {
        CloseReason::Handshake(error) if error.alert_number().is_some_and(is_refusal) => {
            format!("{reason}; see --ca, --pin and --server-name")
        }
        reason => reason.to_string(),
    }
}

/// The TLS settings of a client: what it trusts, and its ALPN.
pub(crate) fn client_tls(args: &TrustArgs, protocol: &str) -> Result<ClientTls, Failure> {
    let builder = ClientTls::builder();
    let unusable = |path: &Path, e: TlsConfigError| {
        Failure::Usage(format!("{} cannot be trusted: {e}", path.display()))
    };
    let builder = match (&args.ca, &args.pin, args.insecure) {
        (Some(path), ..) => builder.roots_pem(&read(path)?).map_err(|e| unusable(path, e))?,
        (_, Some(path), _) => {
            builder.pinned_certificate_pem(&read(path)?).map_err(|e| unusable(path, e))?
        }
        (.., true) => builder.dangerous_insecure(),
        _ => builder
            .roots_der(&system_roots()?.iter().map(AsRef::as_ref).collect::<Vec<_>>())
            .map_err(|e| Failure::Failed(format!("the system's authorities: {e}")))?,
    };
    builder
        .alpn([protocol])
        .build()
        .map_err(|e| Failure::Usage(format!("TLS cannot be set up: {e}")))
}

/// The authorities that this system trusts.
fn system_roots() -> Result<Vec<Vec<u8>>, Failure> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "a certificate authority of the system cannot be used");
    }
    if found.certs.is_empty() {
        let why = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
        return Err(Failure::Usage(format!(
            "this system trusts no certificate authority{why}: install ca-certificates, or name \
             --ca FILE, or --pin FILE with the server's own certificate; --insecure for tests"
        )));
    }
    tracing::debug!("{} authorities of the system", found.certs.len());
    Ok(found.certs.iter().map(|der| der.to_vec()).collect())
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|e| Failure::file("read", path, &e))
}
