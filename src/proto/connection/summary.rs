//! What a handshake took: its times, its sizes, and what was agreed on.

use super::space::Handshake;
use crate::proto::crypto::Session;
use crate::time::Instant;
use std::time::Duration;

/// What a connection's handshake took, once it is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandshakeSummary {
    /// From the start of the connection until TLS had read all that the peer says in Initial packets: the time
    /// of the first flight, with Retry and lost packets. To the microsecond, 71 minutes at most.
    pub first_flight: Duration,
    /// From the start until the handshake was complete. The application's word on a certificate, and the time
    /// that a listener took to answer, count.
    pub complete: Duration,
    /// Bytes of TLS messages that we sent in Initial packets: a client's ClientHello, a server's ServerHello.
    pub initial_tx_bytes: u32,
    /// The same of the peer's.
    pub initial_rx_bytes: u32,
    /// Bytes of TLS messages that we sent in Handshake packets: of a server, with its certificates.
    pub handshake_tx_bytes: u32,
    /// The same of the peer's.
    pub handshake_rx_bytes: u32,
    /// The cipher suite, by its number in IANA's list: 0x1301 is `TLS_AES_128_GCM_SHA256`.
    pub cipher_suite: u16,
    /// The group of the key exchange, by its number in IANA's list: 0x001d is `x25519`. 0 if there was none.
    pub key_exchange: u16,
    /// A session was resumed.
    pub resumed: bool,
    /// The server asked for proof of the client's address first (Retry).
    pub retried: bool,
}

/// What is kept of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    first_flight_us: u32,
    complete_us: u32,
    initial: [u32; 2],
    handshake: [u32; 2],
    cipher_suite: u16,
    key_exchange: u16,
    resumed: bool,
    retried: bool,
}

impl Taken {
    /// There are keys of Handshake packets: TLS wants nothing more in Initial packets.
    pub(super) fn note_first_flight(&mut self, now: Instant, h: &Handshake) {
        self.first_flight_us = micros(now.ns_since(h.began_at));
        self.initial =
            [h.initial.crypto_send.written(), h.initial.crypto_recv.read_bytes()].map(cut);
    }

    /// The handshake is complete.
    pub(super) fn note_complete(&mut self, now: Instant, h: &Handshake, session: &Session) {
        self.complete_us = micros(now.ns_since(h.began_at));
        let space = &h.handshake;
        self.handshake = [space.crypto_send.written(), space.crypto_recv.read_bytes()].map(cut);
        (self.cipher_suite, self.key_exchange) = session.agreed();
        self.resumed = session.resumed();
        self.retried = h.retry_scid.is_some();
    }
}

impl From<Taken> for HandshakeSummary {
    fn from(taken: Taken) -> Self {
        let time = |us: u32| Duration::from_micros(us.into());
        Self {
            first_flight: time(taken.first_flight_us),
            complete: time(taken.complete_us),
            initial_tx_bytes: taken.initial[0],
            initial_rx_bytes: taken.initial[1],
            handshake_tx_bytes: taken.handshake[0],
            handshake_rx_bytes: taken.handshake[1],
            cipher_suite: taken.cipher_suite,
            key_exchange: taken.key_exchange,
            resumed: taken.resumed,
            retried: taken.retried,
        }
    }
}

fn micros(ns: u64) -> u32 {
    cut(ns / 1_000)
}

fn cut(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
