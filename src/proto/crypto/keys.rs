//! Packet protection and header protection, in place (RFC 9001 §5).
//!
//! ```text
//!            header_len            payload_len        16
//!   |<--------------------->|<-------------------->|<----->|
//!   | first | ... | pn 1..4 |  frames              |  tag  |
//!                 ^         ^
//!                 pn_offset sealed from here on; the header is authenticated, not hidden,
//!                           until HeaderKey::mask hides the packet number
//! ```
//!
//! Sending: [`PacketKey::seal`], then [`HeaderKey::mask`]. Receiving: [`HeaderKey::unmask`],
//! expand the packet number, [`PacketKey::open`]. Nothing here allocates.

use rustls::quic;

use super::aead::{HeaderKey, HeaderSecret, PacketKey, PacketSecret};
use super::hkdf::InitialSecret;
use super::material::{Taken, taken};
use crate::wire::Side;

/// Both keys of one direction, not worked out yet.
pub struct DirectionKeys {
    pub(super) packet: PacketSecret,
    pub(super) header: HeaderSecret,
}

impl DirectionKeys {
    /// The key for payloads.
    #[must_use]
    pub fn packet(&self) -> PacketKey {
        self.packet.expand()
    }

    /// The key for packet numbers.
    #[must_use]
    pub fn header(&self) -> HeaderKey {
        self.header.expand()
    }
}

/// The keys of one level: 154 bytes, and no heap. An endpoint holds them for each handshake under
/// way.
pub struct Keys {
    /// What this endpoint sends with.
    pub local: DirectionKeys,
    /// What it receives with.
    pub remote: DirectionKeys,
}

impl Keys {
    /// Packets that may be sealed with one key before it must be updated (RFC 9001 §6.6).
    #[must_use]
    pub(crate) fn confidentiality_limit(&self) -> u64 {
        self.local.packet.confidentiality_limit()
    }

    /// Packets that may fail to open, over all keys of a connection, before it must be closed
    /// with AEAD_LIMIT_REACHED (RFC 9001 §6.6).
    #[must_use]
    pub(crate) fn integrity_limit(&self) -> u64 {
        self.remote.packet.integrity_limit()
    }

    /// Turns to the packet keys of the next phase. Header keys stay (§6.1).
    pub fn turn(&mut self, local: PacketSecret, remote: PacketSecret) {
        (self.local.packet, self.remote.packet) = (local, remote);
    }

    /// The keys of a level, if a call into TLS has made all four.
    pub(super) fn of(taken: Taken) -> Option<Self> {
        let ([local, remote], [local_header, remote_header]) = (taken.packets, taken.headers);
        Some(Self {
            local: DirectionKeys { packet: local?, header: local_header? },
            remote: DirectionKeys { packet: remote?, header: remote_header? },
        })
    }
}

/// The keys of Initial packets, from the destination connection id of the client's first
/// Initial (RFC 9001 §5.2). After a Retry, from the id that the Retry chose. `None` for a
/// version that this endpoint does not speak.
#[must_use]
pub fn initial_keys(version: u32, client_dcid: &[u8], side: Side) -> Option<Keys> {
    let secret = InitialSecret::new(version, client_dcid)?;
    let (client, server) = (secret.client()?, secret.server()?);
    Some(match side {
        Side::Client => Keys { local: client, remote: server },
        Side::Server => Keys { local: server, remote: client },
    })
}

/// Keys that the handshake made available.
pub enum KeyChange {
    /// Handshake bytes from now on are at [`super::Level::Handshake`].
    Handshake(Keys),
    /// Handshake bytes from now on are at [`super::Level::OneRtt`].
    OneRtt {
        /// The keys of the first key phase.
        keys: Keys,
        /// What the keys of later key phases are made from.
        next: OneRttSecrets,
    },
}

/// Makes the packet keys of the next key phase, again and again (RFC 9001 §6.1).
pub struct OneRttSecrets(quic::Secrets);

impl OneRttSecrets {
    pub(super) fn new(secrets: quic::Secrets) -> Self {
        Self(secrets)
    }

    /// The next phase's key to open with, and nothing else changes. Made ahead of need, it
    /// makes a packet with the other key phase cost no more time than any other
    /// (RFC 9001 §6.3). The key to seal with need not wait in memory.
    #[must_use]
    pub fn next_remote(&self) -> PacketSecret {
        Self(self.0.clone()).next_keys().1
    }

    /// Steps to the next phase: its key to seal with and its key to open with. Keep the
    /// previous one for packets that come late (§6.5).
    pub fn next_keys(&mut self) -> (PacketSecret, PacketSecret) {
        match taken(|| self.0.next_packet_keys()).1.packets {
            [Some(local), Some(remote)] => (local, remote),
            _ => unreachable!("a configuration's suites note the keys that they make"),
        }
    }
}

#[cfg(test)]
mod tests;
