//! What both sides' configurations share: reading certificates, checking ALPN, writing a key
//! log, and the errors that tell a user what to change.

use core::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::provider::with_packets;
use super::ticketer::TICKET_DATA_MAX_BYTES;

/// RFC 7301 §3.1: an ALPN name has 1 to 255 bytes.
const ALPN_MAX_BYTES: usize = 255;

/// Why a [`super::ServerTls`] or [`super::ClientTls`] could not be built. Each message names
/// the thing, the value and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// A server without a certificate.
    NoCertificate,
    /// A client that was not told whom to trust.
    NoTrust,
    /// No application protocol.
    NoAlpn,
    /// An application protocol's name that TLS cannot carry.
    BadAlpn {
        /// Its length.
        len: usize,
    },
    /// PEM text that cannot be read.
    BadPem {
        /// Which input.
        what: &'static str,
        /// What the parser said.
        detail: String,
    },
    /// PEM text without what was looked for.
    EmptyPem {
        /// Which input.
        what: &'static str,
        /// The kind of section that it lacks.
        lacks: &'static str,
    },
    /// A certificate or key that the TLS library refuses, or that do not belong together.
    BadIdentity {
        /// What the library said.
        detail: String,
    },
    /// A root or pinned certificate that cannot be used.
    BadRoot {
        /// Which of them, from 0.
        index: usize,
        /// What the library said.
        detail: String,
    },
    /// A provider without a cipher suite for QUIC packets.
    NoSuite {
        /// How many cipher suites it has.
        count: usize,
    },
    /// The application is to judge certificates that no client is asked for.
    NothingToJudge,
    /// More than fits a ticket was to be kept in it.
    LongTicketData {
        /// Bytes.
        len: usize,
    },
    /// The TLS library refused the whole.
    Tls {
        /// What the library said.
        detail: String,
    },
}

impl fmt::Display for TlsConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate => f.write_str(
                "server TLS has no certificate: give a chain and its key with \
                 certificate_pem() or certificate_der()",
            ),
            Self::NoTrust => f.write_str(
                "client TLS trusts no server: give roots_pem(), roots_der() or \
                 pinned_certificate_der(), or call dangerous_insecure() for a test",
            ),
            Self::NoAlpn => f.write_str(
                "TLS has no application protocol, which QUIC requires: name one with alpn(), \
                 e.g. alpn([\"hq-interop\"])",
            ),
            Self::BadAlpn { len } => write!(
                f,
                "an application protocol (ALPN) has a name of {len} bytes: use 1 to {ALPN_MAX_BYTES}"
            ),
            Self::BadPem { what, detail } => write!(
                f,
                "{what} is not readable PEM ({detail}): give the text between and with the \
                 BEGIN and END lines"
            ),
            Self::EmptyPem { what, lacks } => write!(
                f,
                "{what} has no section \"{lacks}\": check that it is PEM and the right file"
            ),
            Self::BadIdentity { detail } => write!(
                f,
                "the certificate chain and private key cannot be used ({detail}): the first \
                 certificate must be the server's own and the key must be its key"
            ),
            Self::BadRoot { index, detail } => write!(
                f,
                "trusted certificate {index} (counted from 0) cannot be used ({detail}): give \
                 X.509 certificates"
            ),
            Self::NoSuite { count } => write!(
                f,
                "of the provider's {count} cipher suites none is of TLS 1.3 with keys for QUIC \
                 packets: take default_provider() and change what must differ"
            ),
            Self::NothingToJudge => f.write_str(
                "the application is to judge client certificates (application_judges()) and no \
                 client is asked for one: call require_client_certificates() as well",
            ),
            Self::LongTicketData { len } => write!(
                f,
                "{len} bytes are to be kept in session tickets: a ticket holds \
                 {TICKET_DATA_MAX_BYTES} of the application's; keep a key to the rest"
            ),
            Self::Tls { detail } => write!(f, "the TLS library refused the settings: {detail}"),
        }
    }
}

impl std::error::Error for TlsConfigError {}

impl TlsConfigError {
    pub(super) fn from_tls(error: &rustls::Error) -> Self {
        Self::Tls { detail: error.to_string() }
    }
}

/// All certificates of `pem`, at least one.
pub(super) fn certificates(
    what: &'static str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsConfigError::BadPem { what, detail: error.to_string() })?;
    if chain.is_empty() {
        return Err(TlsConfigError::EmptyPem { what, lacks: "CERTIFICATE" });
    }
    Ok(chain)
}

/// The first private key of `pem`: PKCS #8, PKCS #1 or SEC 1.
pub(super) fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsConfigError> {
    let what = "the private key";
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) => Ok(key),
        Err(rustls::pki_types::pem::Error::NoItemsFound) => {
            Err(TlsConfigError::EmptyPem { what, lacks: "PRIVATE KEY" })
        }
        Err(error) => Err(TlsConfigError::BadPem { what, detail: error.to_string() }),
    }
}

/// A DER private key of whichever of the three forms it is.
pub(super) fn private_key_der(der: &[u8]) -> Result<PrivateKeyDer<'static>, TlsConfigError> {
    PrivateKeyDer::try_from(der.to_vec())
        .map_err(|detail| TlsConfigError::BadIdentity { detail: detail.to_owned() })
}

/// Chain and key together, checked to belong together.
pub(super) fn identity(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsConfigError> {
    CertifiedKey::from_der(chain, key, provider)
        .map_err(|error| TlsConfigError::BadIdentity { detail: error.to_string() })
}

/// The provider with the suites that can protect QUIC packets, if there are any. Without this every
/// connection would fail.
pub(super) fn checked_provider(
    provider: Arc<CryptoProvider>,
) -> Result<Arc<CryptoProvider>, TlsConfigError> {
    let mut provider = Arc::unwrap_or_clone(provider);
    let count = provider.cipher_suites.len();
    provider.cipher_suites = provider.cipher_suites.into_iter().filter_map(with_packets).collect();
    match provider.cipher_suites.is_empty() {
        false => Ok(Arc::new(provider)),
        true => Err(TlsConfigError::NoSuite { count }),
    }
}

/// The ALPN list, checked. QUIC has no connection without ALPN (RFC 9001 §8.1).
pub(super) fn checked_alpn(alpn: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, TlsConfigError> {
    if alpn.is_empty() {
        return Err(TlsConfigError::NoAlpn);
    }
    match alpn.iter().find(|name| name.is_empty() || name.len() > ALPN_MAX_BYTES) {
        Some(name) => Err(TlsConfigError::BadAlpn { len: name.len() }),
        None => Ok(alpn),
    }
}

/// Writes the secrets of every connection in the NSS format that Wireshark reads. Only ever
/// on when the user passed a writer: no environment variable turns it on behind their back.
pub(super) struct KeyLog(Mutex<Box<dyn Write + Send>>);

impl KeyLog {
    pub(super) fn new(writer: Box<dyn Write + Send>) -> Self {
        Self(Mutex::new(writer))
    }
}

impl fmt::Debug for KeyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyLog(..)")
    }
}

impl rustls::KeyLog for KeyLog {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = String::with_capacity(label.len() + 2 + 4 * 48);
        line.push_str(label);
        for bytes in [client_random, secret] {
            line.push(' ');
            bytes.iter().for_each(|byte| {
                for digit in [byte >> 4, byte & 0x0f] {
                    line.extend(char::from_digit(u32::from(digit), 16));
                }
            });
        }
        line.push('\n');
        let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk must not end connections; a partial log is seen by who reads it.
        let _ = writer.write_all(line.as_bytes()).and_then(|()| writer.flush());
    }
}
