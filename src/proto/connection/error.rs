//! Why a connection ends.

use crate::proto::crypto::TlsError;
use crate::proto::streams::StreamError;
use crate::wire::frame::FrameError;
use bytes::Bytes;
use std::fmt;

/// Error codes of RFC 9000 §20.1.
pub mod code {
    /// The connection is closed without an error.
    pub const NO_ERROR: u64 = 0x00;
    /// Something of our own went wrong.
    pub const INTERNAL_ERROR: u64 = 0x01;
    /// The server does not take new connections.
    pub const CONNECTION_REFUSED: u64 = 0x02;
    /// More data than was allowed.
    pub const FLOW_CONTROL_ERROR: u64 = 0x03;
    /// More streams than were allowed.
    pub const STREAM_LIMIT_ERROR: u64 = 0x04;
    /// A frame for a stream in the wrong state.
    pub const STREAM_STATE_ERROR: u64 = 0x05;
    /// A stream's final size changed.
    pub const FINAL_SIZE_ERROR: u64 = 0x06;
    /// A frame that cannot be read.
    pub const FRAME_ENCODING_ERROR: u64 = 0x07;
    /// Transport parameters that cannot be accepted.
    pub const TRANSPORT_PARAMETER_ERROR: u64 = 0x08;
    /// More connection ids than were allowed.
    pub const CONNECTION_ID_LIMIT_ERROR: u64 = 0x09;
    /// Anything else that breaks the protocol.
    pub const PROTOCOL_VIOLATION: u64 = 0x0a;
    /// A Retry token that is not ours.
    pub const INVALID_TOKEN: u64 = 0x0b;
    /// The application closed the connection before it could say why.
    pub const APPLICATION_ERROR: u64 = 0x0c;
    /// More CRYPTO data than is buffered.
    pub const CRYPTO_BUFFER_EXCEEDED: u64 = 0x0d;
    /// A key update out of turn.
    pub const KEY_UPDATE_ERROR: u64 = 0x0e;
    /// A key was used as often as it may be.
    pub const AEAD_LIMIT_REACHED: u64 = 0x0f;
    /// TLS alerts follow from here: 0x100 + alert.
    pub const CRYPTO_ERROR: u64 = 0x100;
    /// The TLS alert for a message out of place.
    pub const UNEXPECTED_MESSAGE: u64 = CRYPTO_ERROR + 10;
    /// The TLS alert for a missing extension.
    pub const MISSING_EXTENSION: u64 = CRYPTO_ERROR + 109;

    /// What a code means, for people: those that an operator can do something about.
    pub(super) const fn meaning(code: u64) -> Option<&'static str> {
        Some(match code {
            NO_ERROR => "no error",
            INTERNAL_ERROR => "internal error",
            CONNECTION_REFUSED => "the server takes no new connections",
            PROTOCOL_VIOLATION => "protocol violation",
            INVALID_TOKEN => "the token is not valid",
            APPLICATION_ERROR => "its application closed the connection",
            KEY_UPDATE_ERROR => "key update error",
            0x128 => "TLS handshake failure: nothing in common",
            0x12a => "TLS: it refuses the certificate",
            0x12d => "TLS: a certificate has expired",
            0x12e => "TLS: it does not accept the certificate",
            0x130 => "TLS: it does not know who issued the certificate",
            0x170 => "TLS: it does not serve this name",
            0x174 => "TLS: it wants a certificate",
            0x178 => "TLS: it does not speak this application protocol (ALPN)",
            _ => return None,
        })
    }
}

/// A violation that ends the connection with CONNECTION_CLOSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportError {
    /// The code on the wire.
    pub code: u64,
    /// The type of the frame at fault; 0 when no frame is.
    pub frame_type: u64,
    /// What was wrong, for the peer's log.
    pub reason: &'static str,
}

impl TransportError {
    pub(super) const fn new(code: u64, reason: &'static str) -> Self {
        Self { code, frame_type: 0, reason }
    }

    pub(super) const fn protocol_violation(reason: &'static str) -> Self {
        Self::new(code::PROTOCOL_VIOLATION, reason)
    }

    pub(super) const fn connection_id_limit(reason: &'static str) -> Self {
        Self::new(code::CONNECTION_ID_LIMIT_ERROR, reason)
    }

    pub(super) const fn transport_parameter(reason: &'static str) -> Self {
        Self::new(code::TRANSPORT_PARAMETER_ERROR, reason)
    }
}

impl From<StreamError> for TransportError {
    fn from(e: StreamError) -> Self {
        Self::new(e.code(), e.reason())
    }
}

impl From<FrameError> for TransportError {
    fn from(e: FrameError) -> Self {
        Self { code: e.code(), frame_type: e.frame_type, reason: "frame cannot be read" }
    }
}

impl From<&TlsError> for TransportError {
    fn from(e: &TlsError) -> Self {
        Self::new(e.code(), "TLS handshake failed")
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code 0x{:x}, frame type 0x{:x})", self.reason, self.code, self.frame_type)
    }
}

impl std::error::Error for TransportError {}

/// How a connection came to its end, as the application is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Our application closed it.
    Local {
        /// The application's code.
        code: u64,
    },
    /// We closed it because the peer broke the protocol.
    Transport(TransportError),
    /// We closed it because TLS failed: a certificate that is not trusted, for example.
    Handshake(TlsError),
    /// The peer's application closed it.
    PeerApplication {
        /// The application's code.
        code: u64,
        /// What the peer said.
        reason: Bytes,
    },
    /// The peer's transport closed it.
    PeerTransport {
        /// A code of RFC 9000 §20.1.
        code: u64,
        /// The type of the frame that the peer objected to.
        frame_type: u64,
        /// What the peer said.
        reason: Bytes,
    },
    /// Nothing arrived for the idle timeout.
    IdleTimeout,
    /// The handshake took too long.
    HandshakeTimeout,
    /// The peer has lost its state of the connection.
    StatelessReset,
    /// The peer speaks no version that we speak.
    VersionMismatch,
}

/// Characters of a peer's reason that are shown.
const REASON_SHOWN_CHARS: usize = 128;

/// What a peer says, in quotes: nothing in it reaches a terminal or a log as it is, and it is cut.
fn fmt_reason(f: &mut fmt::Formatter<'_>, reason: &[u8]) -> fmt::Result {
    if reason.is_empty() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(reason);
    let mut chars = text.chars();
    f.write_str(": \"")?;
    for shown in chars.by_ref().take(REASON_SHOWN_CHARS) {
        write!(f, "{}", shown.escape_debug())?;
    }
    f.write_str(if chars.next().is_some() { "...\"" } else { "\"" })
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { code } => write!(f, "closed by this application with code {code}"),
            Self::Transport(e) => write!(f, "closed for a violation: {e}"),
            Self::Handshake(e) => e.fmt(f),
            Self::PeerApplication { code, reason } => {
                write!(f, "closed by the peer's application with code {code}")?;
                fmt_reason(f, reason)
            }
            Self::PeerTransport { code, frame_type, reason } => {
                write!(f, "closed by the peer with code 0x{code:x}")?;
                if let Some(meaning) = code::meaning(*code) {
                    write!(f, " ({meaning})")?;
                }
                if *frame_type != 0 {
                    write!(f, ", frame type 0x{frame_type:x}")?;
                }
                fmt_reason(f, reason)
            }
            Self::IdleTimeout => f.write_str("nothing arrived within the idle timeout"),
            Self::HandshakeTimeout => f.write_str("the handshake did not finish in time"),
            Self::StatelessReset => f.write_str(
                "the peer has forgotten the connection: it was restarted, or had given up on us",
            ),
            Self::VersionMismatch => f.write_str("the peer speaks no version of QUIC that we do"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(reason: &[u8]) -> String {
        let reason = Bytes::copy_from_slice(reason);
        CloseReason::PeerApplication { code: 7, reason }.to_string()
    }

    #[test]
    fn a_peers_reason_reaches_no_terminal() {
        assert_eq!(closed(b""), "closed by the peer's application with code 7");
        let text = closed(b"\x1b[2Jgone\nquiclane: all is well\xff");
        assert!(!text.contains(['\x1b', '\n']), "{text}");
        assert!(text.contains("gone") && text.contains("\\n"), "{text}");
        let long = closed(&[b'a'; 300]);
        assert!(long.len() < 200 && long.ends_with("...\""), "{long}");
    }

    #[test]
    fn a_code_is_explained() {
        let reason = Bytes::new();
        let text = CloseReason::PeerTransport { code: 0x178, frame_type: 6, reason }.to_string();
        assert!(text.contains("0x178") && text.contains("ALPN"), "{text}");
    }
}
