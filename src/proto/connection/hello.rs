//! What a server keeps of a client while it has no configuration for it.

use super::error::TransportError;
use crate::wire::ClientHello;

/// RFC 9001 §4.8: an alert is the error 0x100 plus its number.
const CRYPTO_ERROR_BASE: u64 = 0x0100;
/// RFC 8446 §6: the alert for a message that cannot be read.
const DECODE_ERROR: u8 = 50;

/// What is kept until there is a configuration.
pub(super) struct Undecided {
    /// The ClientHello, once all of it has arrived.
    pub(super) hello: Vec<u8>,
    /// Resets the id that the client writes to.
    pub(super) reset_token: [u8; 16],
    pub(super) grease: u64,
}

impl Undecided {
    pub(super) fn new(reset_token: [u8; 16], grease: u64) -> Self {
        Self { hello: Vec::new(), reset_token, grease }
    }

    /// Bytes of heap held.
    pub(super) fn heap_bytes(&self) -> usize {
        self.hello.capacity()
    }

    /// The first message of the client's has arrived.
    pub(super) fn keep(&mut self, message: &[u8]) -> Result<(), TransportError> {
        if !self.hello.is_empty() {
            // RFC 8446 §4.1.2: it has nothing more to say before it was answered.
            let what = "CRYPTO data after a ClientHello that was not answered";
            return Err(TransportError::protocol_violation(what));
        }
        ClientHello::parse(message).map_err(|_| alert(DECODE_ERROR, "ClientHello is malformed"))?;
        self.hello = message.to_vec();
        Ok(())
    }
}

/// The error of an alert.
pub(super) fn alert(number: u8, reason: &'static str) -> TransportError {
    TransportError::new(CRYPTO_ERROR_BASE + u64::from(number), reason)
}
