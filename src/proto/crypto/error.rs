//! What ends a handshake.

use core::fmt;

use rustls::AlertDescription;

/// RFC 9000 §20.1: a TLS alert is the transport error 0x100 plus the alert's number.
const CRYPTO_ERROR_BASE: u64 = 0x0100;
/// RFC 9000 §20.1.
const PROTOCOL_VIOLATION: u64 = 0x0a;

/// The handshake failed: close the connection with [`TlsError::code`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError {
    code: u64,
    reason: Box<str>,
}

impl TlsError {
    /// An alert, as TLS would have sent it (RFC 9001 §4.8).
    pub(super) fn alert(alert: AlertDescription, reason: impl Into<Box<str>>) -> Self {
        Self { code: CRYPTO_ERROR_BASE + u64::from(u8::from(alert)), reason: reason.into() }
    }

    /// A breach of QUIC's own rules about TLS.
    pub(super) fn violation(reason: impl Into<Box<str>>) -> Self {
        Self { code: PROTOCOL_VIOLATION, reason: reason.into() }
    }

    /// The transport error code for CONNECTION_CLOSE: 0x100 plus the alert, or
    /// PROTOCOL_VIOLATION where the bytes came at a wrong level.
    #[must_use]
    pub fn code(&self) -> u64 {
        self.code
    }

    /// The number of the TLS alert, if it was one.
    #[must_use]
    pub fn alert_number(&self) -> Option<u8> {
        self.code.checked_sub(CRYPTO_ERROR_BASE).and_then(|alert| u8::try_from(alert).ok())
    }

    /// What went wrong, for people. It may name what the peer sent; it holds no secret.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the TLS handshake failed: {} (code {:#x})", self.reason, self.code)
    }
}

impl std::error::Error for TlsError {}
