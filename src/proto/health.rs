//! The answer to a balancer that asks whether a server lives, without a connection.

use std::fmt;

/// The shortest token: none that is sent by chance.
const TOKEN_MIN_BYTES: usize = 8;
/// The longest one.
const TOKEN_MAX_BYTES: usize = 64;
/// RFC 9000 §17: a header has one of these bits, the form or the fixed bit. With neither, a datagram is
/// no QUIC packet of version 1 (RFC 9443 lists who else shares a port).
const QUIC_BITS: u8 = 0xc0;

/// What a datagram begins with that asks whether the server lives, and what it is answered.
///
/// The answer is shorter than the token, and so than every question: it amplifies nothing, and two
/// servers that answer each other fall silent.
///
/// Each worker answers [`AnswerLimits::health_checks`](crate::AnswerLimits::health_checks) in a second for
/// its part of a listener, from all who ask together. The token is in clear text: whoever has seen it can
/// use up the answers. A balancer should take a server out after several checks in vain, and a
/// firewall let in those of balancers alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    token: Vec<u8>,
    answer: Vec<u8>,
}

/// Why a health check cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthCheckError {
    /// The token has this length: 8 to 64 bytes are needed.
    TokenLength(usize),
    /// The token begins with this byte, as a QUIC packet may: the upper two bits have to be clear.
    LooksLikeQuic(u8),
    /// The answer has this length: 1 byte and more are needed, and fewer than the token has.
    AnswerLength(usize),
}

impl fmt::Display for HealthCheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TokenLength(length) => write!(
                f,
                "a health-check token of {length} bytes: give {TOKEN_MIN_BYTES} to {TOKEN_MAX_BYTES}"
            ),
            Self::LooksLikeQuic(first) => write!(
                f,
                "a health-check token that begins with {first:#04x} looks like a QUIC packet: begin it \
                 with a byte below 0x40, such as a digit"
            ),
            Self::AnswerLength(length) => write!(
                f,
                "a health-check answer of {length} bytes: give at least 1, and fewer than the token has"
            ),
        }
    }
}

impl std::error::Error for HealthCheckError {}

impl HealthCheck {
    /// Answers a datagram that begins with `token` (8 to 64 bytes, the first below 0x40) with `answer`
    /// (shorter than the token).
    ///
    /// # Errors
    /// [`HealthCheckError`] says which of it does not hold.
    pub fn new(
        token: impl Into<Vec<u8>>,
        answer: impl Into<Vec<u8>>,
    ) -> Result<Self, HealthCheckError> {
        let (token, answer) = (token.into(), answer.into());
        if !(TOKEN_MIN_BYTES..=TOKEN_MAX_BYTES).contains(&token.len()) {
            return Err(HealthCheckError::TokenLength(token.len()));
        }
        if token[0] & QUIC_BITS != 0 {
            return Err(HealthCheckError::LooksLikeQuic(token[0]));
        }
        if answer.is_empty() || answer.len() >= token.len() {
            return Err(HealthCheckError::AnswerLength(answer.len()));
        }
        Ok(Self { token, answer })
    }

    /// True if a datagram asks.
    #[inline]
    pub(super) fn is_asked(&self, datagram: &[u8]) -> bool {
        datagram.starts_with(&self.token)
    }

    pub(super) fn answer(&self) -> &[u8] {
        &self.answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_answers_that_could_do_harm_are_refused() {
        use HealthCheckError::{AnswerLength, LooksLikeQuic, TokenLength};
        let of = |token: &[u8], answer: &[u8]| HealthCheck::new(token, answer).map(|_| ());
        assert_eq!(of(b"0health?", b"OK"), Ok(()));
        assert_eq!(of(&[b'0'; 64], &[b'0'; 63]), Ok(()));
        assert_eq!(of(b"0health", b"OK"), Err(TokenLength(7)));
        assert_eq!(of(&[b'0'; 65], b"OK"), Err(TokenLength(65)));
        for first in [0x40, 0x80, 0xc0, b'h'] {
            assert_eq!(of(&[first; 8], b"OK"), Err(LooksLikeQuic(first)));
        }
        assert_eq!(of(b"0health?", b""), Err(AnswerLength(0)));
        assert_eq!(of(b"0health?", b"8 bytes."), Err(AnswerLength(8)), "it could go on for ever");
    }

    #[test]
    fn errors_name_the_value_and_the_remedy() {
        let text = HealthCheck::new(*b"health-check", *b"OK").unwrap_err().to_string();
        assert!(text.contains("0x68") && text.contains("below 0x40"), "{text}");
    }
}
