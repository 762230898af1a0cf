//! TLS after the handshake: tickets, and nothing else (RFC 9001 §4.4, §6).
//!
//! A server's TLS goes with the handshake. A client's could go as well, but for the tickets that
//! a server sends then; it holds 4 KiB, half of what an idle connection may. So it stays until the
//! tickets have had time to come: a client without a memory for them lets it go at once, the
//! others when the connection falls idle. What comes later is read as far as to know that it
//! is a ticket, and a ticket may be ignored (RFC 8446 §4.6.1).

use super::crypto_stream::{Bounds, CryptoRecv};
use super::error::{TransportError, code};
use crate::proto::crypto::{Level, Session};
use crate::time::Instant;

/// NewSessionTicket (RFC 8446 §4).
const NEW_SESSION_TICKET: u8 = 4;
/// CertificateRequest.
const CERTIFICATE_REQUEST: u8 = 13;
/// Type and length of a message.
const HEADER_BYTES: usize = 4;

/// What a client receives in CRYPTO frames of 1-RTT packets.
#[derive(Debug, Default)]
pub(super) struct LateCrypto {
    recv: CryptoRecv,
    messages: Messages,
}

impl LateCrypto {
    /// Takes in what a CRYPTO frame carries: TLS reads it, as long as it is there.
    ///
    /// # Errors
    /// It is no ticket, or more than is buffered.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        mut session: Option<&mut Session>,
        offset: u64,
        data: &[u8],
    ) -> Result<(), TransportError> {
        let Self { recv, messages } = self;
        let read = |bytes: &[u8]| {
            let followed = messages.follow(bytes);
            match &mut session {
                Some(session) => {
                    session.read(now, Level::OneRtt, bytes).map_err(|e| TransportError::from(&e))
                }
                None => followed,
            }
        };
        recv.receive(offset, data, Bounds::VALIDATED, read).unwrap_or_else(|e| Err(e.into()))
    }

    /// True if no message is half read.
    pub(super) const fn is_between(&self) -> bool {
        self.messages.is_between()
    }

    /// Bytes of memory held.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.recv.heap_bytes()
    }

    /// Where the next message begins.
    #[cfg(test)]
    pub(super) const fn next_offset(&self) -> u64 {
        self.recv.read_bytes()
    }
}

/// Follows TLS messages by their headers.
#[derive(Debug, Default)]
struct Messages {
    header: [u8; HEADER_BYTES],
    /// How much of the header is there.
    have: usize,
    /// How much of the body is still to come.
    left: usize,
}

impl Messages {
    /// No message is half read.
    const fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// Follows what comes next.
    ///
    /// # Errors
    /// It is no ticket, and a server may send nothing else.
    fn follow(&mut self, mut bytes: &[u8]) -> Result<(), TransportError> {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                self.left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            if self.have == 0 {
                check_type(first)?;
            }
            self.header[self.have] = first;
            self.have += 1;
            bytes = rest;
            if self.have == HEADER_BYTES {
                let [_, high, middle, low] = self.header.map(usize::from);
                self.left = high << 16 | middle << 8 | low;
                self.have = 0;
            }
        }
        Ok(())
    }
}

fn check_type(message: u8) -> Result<(), TransportError> {
    match message {
        NEW_SESSION_TICKET => Ok(()),
        // RFC 9001 §4.4.
        CERTIFICATE_REQUEST => {
            Err(TransportError::protocol_violation("a certificate is asked for too late"))
        }
        // RFC 9001 §6: KeyUpdate above all.
        _ => Err(unexpected()),
    }
}

/// What a message other than a ticket is.
pub(super) fn unexpected() -> TransportError {
    TransportError::new(code::UNEXPECTED_MESSAGE, "TLS message after the handshake")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message, in pieces of `size` bytes.
    fn follow(messages: &mut Messages, message: &[u8], size: usize) -> Option<u64> {
        message.chunks(size).find_map(|piece| messages.follow(piece).err()).map(|e| e.code)
    }

    #[test]
    fn tickets_are_followed_however_they_are_cut() {
        let ticket = [&[4, 0, 1, 2][..], &[24; 258]].concat();
        for size in [1, 2, 3, 5, 100, 1_000] {
            let mut messages = Messages::default();
            for _ in 0..3 {
                assert_eq!(follow(&mut messages, &ticket, size), None);
                assert!(messages.is_between());
            }
            assert_eq!(follow(&mut messages, &ticket[..100], size), None);
            assert!(!messages.is_between());
        }
        assert_eq!(follow(&mut Messages::default(), &[4, 0, 0, 0, 4, 0, 0, 1, 7], 9), None);
    }

    #[test]
    fn other_messages_after_the_handshake_end_the_connection() {
        // RFC 9001 §4.4, §6.
        let code = |message| follow(&mut Messages::default(), &[4, 0, 0, 1, 0, message], 2);
        assert_eq!(code(24), Some(code::UNEXPECTED_MESSAGE), "KeyUpdate");
        assert_eq!(code(13), Some(code::PROTOCOL_VIOLATION), "CertificateRequest");
        assert_eq!(code(1), Some(code::UNEXPECTED_MESSAGE), "ClientHello");
    }
}
