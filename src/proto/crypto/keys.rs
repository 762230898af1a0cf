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

use super::provider;
use crate::wire::Side;

/// Bytes of the authentication tag at the end of every protected packet; all of QUIC's AEADs
/// have 16.
pub const TAG_LEN: usize = 16;

/// Bytes of ciphertext that the header mask is computed from (RFC 9001 §5.4.2).
pub const SAMPLE_LEN: usize = 16;

/// The sample starts where the payload would start if the packet number had this length.
const MAX_PN_LEN: usize = 4;

/// QUIC version 1.
const VERSION_1: u32 = 0x0000_0001;

/// Seals or opens the payload of packets in one direction and one key phase.
pub struct PacketKey(Box<dyn quic::PacketKey>);

impl PacketKey {
    /// Seals `packet[header_len..header_len + payload_len]` in place, writes the tag behind it
    /// and returns where the packet ends. `None` if the packet has no room for the tag, and
    /// then nothing was changed.
    ///
    /// The packet number must be the full one, and never the same twice for one key.
    #[inline]
    #[must_use = "a packet that was not sealed must not be sent"]
    pub fn seal(
        &self,
        pn: u64,
        packet: &mut [u8],
        header_len: usize,
        payload_len: usize,
    ) -> Option<usize> {
        let (header, rest) = packet.split_at_mut_checked(header_len)?;
        let (payload, room) = rest.split_at_mut_checked(payload_len)?;
        let room = room.get_mut(..TAG_LEN)?;
        let tag = self.0.encrypt_in_place(pn, header, payload).ok()?;
        room.copy_from_slice(tag.as_ref());
        Some(header_len + payload_len + TAG_LEN)
    }

    /// Opens `packet[header_len..]` in place and returns how many bytes of payload there are.
    /// `None` if it is forged, damaged, or shorter than a tag; the payload is then unspecified.
    ///
    /// Count the failures: [`PacketKey::integrity_limit`] is how many are allowed.
    #[inline]
    #[must_use]
    pub fn open(&self, pn: u64, packet: &mut [u8], header_len: usize) -> Option<usize> {
        let (header, payload) = packet.split_at_mut_checked(header_len)?;
        if payload.len() < TAG_LEN {
            return None;
        }
        self.0.decrypt_in_place(pn, header, payload).ok().map(<[u8]>::len)
    }

    /// Where the key lies, and its length.
    #[inline]
    pub(in crate::proto) fn memory(&self) -> (*const u8, usize) {
        (std::ptr::from_ref(&*self.0).cast(), size_of_val(&*self.0))
    }

    /// Packets that may be sealed with one key before it must be updated (RFC 9001 §6.6).
    #[must_use]
    pub fn confidentiality_limit(&self) -> u64 {
        self.0.confidentiality_limit()
    }

    /// Packets that may fail to open, over all keys of a connection, before it must be closed
    /// with AEAD_LIMIT_REACHED (RFC 9001 §6.6).
    #[must_use]
    pub fn integrity_limit(&self) -> u64 {
        self.0.integrity_limit()
    }
}

impl Keys {
    /// Bytes of heap held, as far as the keys tell.
    pub(in crate::proto) fn heap_bytes(&self) -> usize {
        let one = |keys: &DirectionKeys| keys.packet.memory().1 + keys.header.memory().1;
        one(&self.local) + one(&self.remote)
    }
}

/// What [`HeaderKey::unmask`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmasked {
    /// The first byte, without its mask.
    pub first: u8,
    /// The packet number as it was on the wire: its low bytes.
    pub truncated_pn: u64,
    /// How many bytes it had, 1 to 4.
    pub pn_len: usize,
}

/// Hides and shows the packet number and the low bits of the first byte. Stays the same
/// through key updates (RFC 9001 §6).
pub struct HeaderKey(Box<dyn quic::HeaderProtectionKey>);

impl HeaderKey {
    /// Where the key lies, and its length.
    #[inline]
    pub(in crate::proto) fn memory(&self) -> (*const u8, usize) {
        (std::ptr::from_ref(&*self.0).cast(), size_of_val(&*self.0))
    }

    /// Hides the header of a sealed packet. `pn_offset` is where the packet number starts; how
    /// long it is stands in the first byte. `false` if the packet is too short to be sampled,
    /// and then nothing was changed: a sender pads so that `pn_len + payload_len >= 4`.
    #[inline]
    #[must_use = "a packet whose header was not masked must not be sent"]
    pub fn mask(&self, packet: &mut [u8], pn_offset: usize) -> bool {
        let Some((first, pn, sample)) = split(packet, pn_offset) else { return false };
        self.0.encrypt_in_place(sample, first, pn).is_ok()
    }

    /// Shows the header of a received packet, in place. `None` if the packet is too short to
    /// be sampled (RFC 9001 §5.4.2: discard it), and then nothing was changed.
    #[inline]
    #[must_use]
    pub fn unmask(&self, packet: &mut [u8], pn_offset: usize) -> Option<Unmasked> {
        let (first, pn, sample) = split(packet, pn_offset)?;
        self.0.decrypt_in_place(sample, first, pn).ok()?;
        let pn_len = usize::from(*first & 0x03) + 1;
        let truncated_pn = pn.iter().take(pn_len).fold(0, |n, byte| (n << 8) | u64::from(*byte));
        Some(Unmasked { first: *first, truncated_pn, pn_len })
    }
}

/// First byte, the four bytes where the packet number may be, and the sample.
#[inline]
fn split(packet: &mut [u8], pn_offset: usize) -> Option<(&mut u8, &mut [u8], &[u8])> {
    let sample_at = pn_offset.checked_add(MAX_PN_LEN)?;
    let (head, tail) = packet.split_at_mut_checked(sample_at)?;
    let sample = tail.get(..SAMPLE_LEN)?;
    let (first, rest) = head.split_first_mut()?;
    let pn = rest.get_mut(pn_offset.checked_sub(1)?..)?;
    Some((first, pn, sample))
}

/// Both keys of one direction.
pub struct DirectionKeys {
    /// For the payload.
    pub packet: PacketKey,
    /// For the packet number.
    pub header: HeaderKey,
}

impl From<quic::DirectionalKeys> for DirectionKeys {
    fn from(keys: quic::DirectionalKeys) -> Self {
        Self { packet: PacketKey(keys.packet), header: HeaderKey(keys.header) }
    }
}

/// The keys of one level.
pub struct Keys {
    /// What this endpoint sends with.
    pub local: DirectionKeys,
    /// What it receives with.
    pub remote: DirectionKeys,
}

impl From<quic::Keys> for Keys {
    fn from(keys: quic::Keys) -> Self {
        Self { local: keys.local.into(), remote: keys.remote.into() }
    }
}

/// The keys of Initial packets, from the destination connection id of the client's first
/// Initial (RFC 9001 §5.2). After a Retry, from the id that the Retry chose. `None` for a
/// version that this endpoint does not speak.
#[must_use]
pub fn initial_keys(version: u32, client_dcid: &[u8], side: Side) -> Option<Keys> {
    if version != VERSION_1 {
        return None;
    }
    let side = match side {
        Side::Client => rustls::Side::Client,
        Side::Server => rustls::Side::Server,
    };
    Some(provider::initial_suite()?.keys(client_dcid, side, quic::Version::V1).into())
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
    /// (RFC 9001 §6.3). The key to seal with need not wait in memory: an idle connection is
    /// 0.7 KB smaller without it, and [`OneRttSecrets::next_keys`] takes 2 us.
    #[must_use]
    pub fn next_remote(&self) -> PacketKey {
        PacketKey(self.0.clone().next_packet_keys().remote)
    }

    /// Steps to the next phase: its key to seal with and its key to open with. Keep the
    /// previous one for packets that come late (§6.5).
    pub fn next_keys(&mut self) -> (PacketKey, PacketKey) {
        let keys = self.0.next_packet_keys();
        (PacketKey(keys.local), PacketKey(keys.remote))
    }
}

#[cfg(test)]
mod tests;
