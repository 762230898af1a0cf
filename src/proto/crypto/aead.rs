//! The three AEADs of QUIC, and the keys that a packet library makes of them.
//!
//! A key comes in two forms. A [`PacketSecret`] or [`HeaderSecret`] is what TLS derives: 32 bytes
//! and an IV. A [`PacketKey`] or [`HeaderKey`] is the same with its round keys and tables worked
//! out, 560 and 260 bytes. Keys that protect a handful of packets, those of Initial and Handshake,
//! stay secrets and are expanded for each packet; the keys of 1-RTT packets are expanded once.
//!
//! ring works with them where it is there. It lays a key out in one piece, aws-lc-rs behind a pointer
//! of its own: a key that is not in the cache is then missed twice, the second time at an address
//! that cannot be prefetched. And ring's fixed cost for a packet is lower, which is most of a small one.

use zeroize::Zeroize;

#[cfg(all(feature = "aws-lc-rs", not(feature = "ring")))]
use aws_lc_rs::aead;
#[cfg(feature = "ring")]
use ring::aead;

/// Bytes of the authentication tag at the end of every protected packet; all of QUIC's AEADs
/// have 16.
pub const TAG_LEN: usize = 16;

/// Bytes of ciphertext that the header mask is computed from (RFC 9001 §5.4.2).
pub(super) const SAMPLE_LEN: usize = 16;

/// The longest key.
pub(super) const MAX_KEY_LEN: usize = 32;
/// Bytes of an IV, and of a nonce.
pub(super) const IV_LEN: usize = 12;
/// The sample starts where the payload would start if the packet number had this length.
const MAX_PN_LEN: usize = 4;
/// The form bit of the first byte: long headers have it.
const LONG_FORM: u8 = 0x80;
/// RFC 9001 §5.4.1: the bits of the first byte that are hidden.
const HIDDEN_LONG: u8 = 0x0f;
const HIDDEN_SHORT: u8 = 0x1f;

/// An AEAD that QUIC may use (RFC 9001 §5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aead {
    Aes128,
    Aes256,
    ChaCha20,
}

impl Aead {
    fn packets(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes128 => &aead::AES_128_GCM,
            Self::Aes256 => &aead::AES_256_GCM,
            Self::ChaCha20 => &aead::CHACHA20_POLY1305,
        }
    }

    fn headers(self) -> &'static aead::quic::Algorithm {
        match self {
            Self::Aes128 => &aead::quic::AES_128,
            Self::Aes256 => &aead::quic::AES_256,
            Self::ChaCha20 => &aead::quic::CHACHA20,
        }
    }

    /// Bytes of a key.
    pub(super) const fn key_len(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes256 | Self::ChaCha20 => MAX_KEY_LEN,
        }
    }

    /// RFC 9001 §6.6, §B.1. ChaCha20 has none that packet numbers do not reach first.
    const fn confidentiality_limit(self) -> u64 {
        match self {
            Self::Aes128 | Self::Aes256 => 1 << 23,
            Self::ChaCha20 => u64::MAX,
        }
    }

    /// RFC 9001 §6.6, §B.1.
    const fn integrity_limit(self) -> u64 {
        match self {
            Self::Aes128 | Self::Aes256 => 1 << 52,
            Self::ChaCha20 => 1 << 36,
        }
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

/// What a [`PacketKey`] is made of.
pub struct PacketSecret {
    aead: Aead,
    key: [u8; MAX_KEY_LEN],
    iv: [u8; IV_LEN],
}

impl PacketSecret {
    /// `None` if the lengths are not the AEAD's.
    pub(super) fn new(aead: Aead, key: &[u8], iv: &[u8]) -> Option<Self> {
        Some(Self { aead, key: padded(aead, key)?, iv: iv.try_into().ok()? })
    }

    /// Packets that may be sealed with one key before it must be updated (RFC 9001 §6.6).
    #[must_use]
    pub(crate) fn confidentiality_limit(&self) -> u64 {
        self.aead.confidentiality_limit()
    }

    /// Packets that may fail to open, over all keys of a connection, before it must be closed
    /// with AEAD_LIMIT_REACHED (RFC 9001 §6.6).
    #[must_use]
    pub(crate) fn integrity_limit(&self) -> u64 {
        self.aead.integrity_limit()
    }

    /// The key, worked out.
    #[must_use]
    pub fn expand(&self) -> PacketKey {
        let Self { aead, key, iv } = self;
        // The length was checked when the secret was made.
        let unbound = aead::UnboundKey::new(aead.packets(), &key[..aead.key_len()]);
        match unbound.map(aead::LessSafeKey::new) {
            Ok(key) => PacketKey { key, iv: *iv },
            Err(_) => unreachable!("a key of {} bytes for {aead:?}", aead.key_len()),
        }
    }
}

impl Drop for PacketSecret {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// What a [`HeaderKey`] is made of.
pub(crate) struct HeaderSecret {
    aead: Aead,
    key: [u8; MAX_KEY_LEN],
}

impl HeaderSecret {
    /// `None` if the length is not the AEAD's.
    pub(super) fn new(aead: Aead, key: &[u8]) -> Option<Self> {
        Some(Self { aead, key: padded(aead, key)? })
    }

    /// The key, worked out.
    #[must_use]
    pub(crate) fn expand(&self) -> HeaderKey {
        let Self { aead, key } = self;
        // The length was checked when the secret was made.
        match aead::quic::HeaderProtectionKey::new(aead.headers(), &key[..aead.key_len()]) {
            Ok(key) => HeaderKey(key),
            Err(_) => unreachable!("a key of {} bytes for {aead:?}", aead.key_len()),
        }
    }
}

impl Drop for HeaderSecret {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

fn padded(aead: Aead, key: &[u8]) -> Option<[u8; MAX_KEY_LEN]> {
    let mut padded = [0; MAX_KEY_LEN];
    (key.len() == aead.key_len()).then(|| padded[..key.len()].copy_from_slice(key))?;
    Some(padded)
}

/// Seals or opens the payload of packets in one direction and one key phase.
pub struct PacketKey {
    key: aead::LessSafeKey,
    iv: [u8; IV_LEN],
}

impl PacketKey {
    /// RFC 9001 §5.3: the IV, and the packet number in its last eight bytes.
    #[inline]
    fn nonce(&self, pn: u64) -> aead::Nonce {
        let [a, b, c, d, low @ ..] = self.iv;
        let [e, f, g, h, i, j, k, l] = (u64::from_be_bytes(low) ^ pn).to_be_bytes();
        aead::Nonce::assume_unique_for_key([a, b, c, d, e, f, g, h, i, j, k, l])
    }

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
        let header = aead::Aad::from(&*header);
        let tag = self.key.seal_in_place_separate_tag(self.nonce(pn), header, payload).ok()?;
        room.copy_from_slice(tag.as_ref());
        Some(header_len + payload_len + TAG_LEN)
    }

    /// Opens `packet[header_len..]` in place and returns how many bytes of payload there are.
    /// `None` if it is forged, damaged, or shorter than a tag; the payload is then unspecified.
    ///
    /// Count the failures: `PacketSecret::integrity_limit` is how many are allowed.
    #[inline]
    #[must_use]
    pub fn open(&self, pn: u64, packet: &mut [u8], header_len: usize) -> Option<usize> {
        let (header, payload) = packet.split_at_mut_checked(header_len)?;
        if payload.len() < TAG_LEN {
            return None;
        }
        let header = aead::Aad::from(&*header);
        self.key.open_in_place(self.nonce(pn), header, payload).ok().map(|plain| plain.len())
    }
}

/// Hides and shows the packet number and the low bits of the first byte. Stays the same
/// through key updates (RFC 9001 §6).
pub struct HeaderKey(aead::quic::HeaderProtectionKey);

impl HeaderKey {
    /// Hides the header of a sealed packet. `pn_offset` is where the packet number starts; how
    /// long it is stands in the first byte. `false` if the packet is too short to be sampled,
    /// and then nothing was changed: a sender pads so that `pn_len + payload_len >= 4`.
    #[inline]
    #[must_use = "a packet whose header was not masked must not be sent"]
    pub fn mask(&self, packet: &mut [u8], pn_offset: usize) -> bool {
        let Some((first, pn, sample)) = split(packet, pn_offset) else { return false };
        let Ok([head, tail @ ..]) = self.0.new_mask(sample) else { return false };
        let pn_len = pn_len(*first);
        *first ^= head & hidden(*first);
        apply(pn, tail, pn_len);
        true
    }

    /// Shows the header of a received packet, in place. `None` if the packet is too short to
    /// be sampled (RFC 9001 §5.4.2: discard it), and then nothing was changed.
    #[inline]
    #[must_use]
    pub fn unmask(&self, packet: &mut [u8], pn_offset: usize) -> Option<Unmasked> {
        let (first, pn, sample) = split(packet, pn_offset)?;
        let [head, tail @ ..] = self.0.new_mask(sample).ok()?;
        *first ^= head & hidden(*first);
        let pn_len = pn_len(*first);
        apply(pn, tail, pn_len);
        let truncated_pn = u64::from(u32::from_be_bytes(*pn) >> unused_bits(pn_len));
        Some(Unmasked { first: *first, truncated_pn, pn_len })
    }
}

/// How long the packet number is.
#[inline]
const fn pn_len(first: u8) -> usize {
    (first & 0x03) as usize + 1
}

/// The bits of the first byte that are hidden; its form is not.
#[inline]
const fn hidden(first: u8) -> u8 {
    if first & LONG_FORM == 0 { HIDDEN_SHORT } else { HIDDEN_LONG }
}

/// Bits of four bytes that a packet number leaves.
#[inline]
const fn unused_bits(pn_len: usize) -> usize {
    8 * (MAX_PN_LEN - pn_len)
}

/// Masks the packet number, and nothing behind it.
#[inline]
fn apply(pn: &mut [u8; MAX_PN_LEN], mask: [u8; MAX_PN_LEN], pn_len: usize) {
    let mask = u32::from_be_bytes(mask) & u32::MAX << unused_bits(pn_len);
    *pn = (u32::from_be_bytes(*pn) ^ mask).to_be_bytes();
}

/// First byte, the four bytes where the packet number may be, and the sample.
#[inline]
fn split(packet: &mut [u8], pn_offset: usize) -> Option<(&mut u8, &mut [u8; MAX_PN_LEN], &[u8])> {
    let sample_at = pn_offset.checked_add(MAX_PN_LEN)?;
    let (head, tail) = packet.split_at_mut_checked(sample_at)?;
    let sample = tail.get(..SAMPLE_LEN)?;
    let (first, rest) = head.split_first_mut()?;
    Some((first, rest.last_chunk_mut()?, sample))
}
