//! The integrity tag of Retry packets (RFC 9001 §5.8).
//!
//! It proves to a client that the sender of the Retry saw its Initial: the tag covers the
//! connection id that the client chose. The key is public, so it is no protection against an
//! attacker on the path.

use super::provider::lib::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// Bytes of the tag at the end of a Retry packet.
pub(crate) const RETRY_TAG_LEN: usize = 16;

/// RFC 9001 §5.8: version 1's secret, which is no secret.
const KEY: [u8; 16] = [
    0xbe, 0x0c, 0x69, 0x0b, 0x9f, 0x66, 0x57, 0x5a, 0x1d, 0x76, 0x6b, 0x54, 0xe3, 0x68, 0xc8, 0x4e,
];
const NONCE: [u8; 12] = [0x46, 0x15, 0x99, 0xd3, 0x5d, 0x63, 0x2b, 0xf2, 0x23, 0x98, 0x25, 0xbb];

/// Longest connection id in QUIC version 1.
const MAX_CID_LEN: usize = 20;

/// The tag for `retry`, a whole Retry packet without its tag, in answer to an Initial whose
/// destination connection id was `original_dcid`. `None` if that is longer than 20 bytes.
///
/// Sealing nothing with the pseudo-packet as additional data gives just the tag.
#[must_use]
pub(crate) fn retry_tag(original_dcid: &[u8], retry: &[u8]) -> Option<[u8; RETRY_TAG_LEN]> {
    let len = u8::try_from(original_dcid.len()).ok()?;
    if usize::from(len) > MAX_CID_LEN {
        return None;
    }
    let mut pseudo_packet = Vec::with_capacity(1 + original_dcid.len() + retry.len());
    pseudo_packet.push(len);
    pseudo_packet.extend_from_slice(original_dcid);
    pseudo_packet.extend_from_slice(retry);

    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &KEY).ok()?);
    let nonce = Nonce::assume_unique_for_key(NONCE);
    let tag = key.seal_in_place_separate_tag(nonce, Aad::from(pseudo_packet), &mut []).ok()?;
    tag.as_ref().try_into().ok()
}

/// True if `retry`, a whole Retry packet with its tag, answers an Initial to `original_dcid`.
#[must_use]
pub(crate) fn retry_tag_matches(original_dcid: &[u8], retry: &[u8]) -> bool {
    let Some((body, tag)) = retry.split_last_chunk::<RETRY_TAG_LEN>() else { return false };
    // Anyone can compute this tag, so comparing in variable time tells nothing.
    retry_tag(original_dcid, body).is_some_and(|expected| expected == *tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::crypto::testing::hex;

    /// RFC 9001 §A.4.
    const ORIGINAL_DCID: &str = "8394c8f03e515708";
    const RETRY: &str = "ff000000010008f067a5502a4262b5746f6b656e04a265ba2eff4d829058fb3f0f2496ba";

    #[test]
    fn tag_of_the_rfc() {
        let retry = hex(RETRY);
        let (body, tag) = retry.split_at(retry.len() - RETRY_TAG_LEN);
        let made = retry_tag(&hex(ORIGINAL_DCID), body).expect("a legal connection id");
        assert_eq!(made, tag);
        assert!(retry_tag_matches(&hex(ORIGINAL_DCID), &retry));
    }

    #[test]
    fn any_changed_bit_is_seen() {
        let retry = hex(RETRY);
        for at in 0..retry.len() * 8 {
            let mut changed = retry.clone();
            changed[at / 8] ^= 1 << (at % 8);
            assert!(!retry_tag_matches(&hex(ORIGINAL_DCID), &changed), "bit {at}");
        }
        assert!(!retry_tag_matches(&hex("8394c8f03e515709"), &retry));
    }

    #[test]
    fn lengths_out_of_range_are_refused() {
        assert_eq!(retry_tag(&[0; 21], b"retry"), None);
        assert!(retry_tag(&[0; 20], b"retry").is_some());
        assert!(!retry_tag_matches(&[], &[0; 15]));
    }
}
