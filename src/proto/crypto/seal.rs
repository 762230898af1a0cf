//! The keys of what an endpoint hands out and later recognises: address tokens and stateless
//! reset tokens.

use core::fmt;

use super::provider::lib::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use super::provider::lib::hmac;

/// Bytes of secret that a [`TokenKey`] is made from.
pub(crate) const TOKEN_KEY_LEN: usize = 32;
/// Bytes of nonce for each token.
pub(crate) const TOKEN_NONCE_LEN: usize = 12;

/// Seals and opens tokens: AES-256-GCM.
pub(crate) struct TokenKey(LessSafeKey);

impl TokenKey {
    /// A key from 32 bytes of good randomness.
    #[must_use]
    pub(crate) fn new(secret: &[u8; TOKEN_KEY_LEN]) -> Self {
        match UnboundKey::new(&AES_256_GCM, secret) {
            Ok(key) => Self(LessSafeKey::new(key)),
            Err(_) => unreachable!("AES-256-GCM takes every key of 32 bytes"),
        }
    }

    /// Seals `plain` in place and returns the tag. The nonce must be random: with one key, at
    /// most 2^32 tokens keep the chance that two share a nonce below 2^-32.
    pub(crate) fn seal(
        &self,
        nonce: &[u8; TOKEN_NONCE_LEN],
        aad: &[u8],
        plain: &mut [u8],
    ) -> Option<[u8; 16]> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(aad), plain).ok()?;
        tag.as_ref().try_into().ok()
    }

    /// Opens `sealed`, which ends in its tag, in place.
    pub(crate) fn open<'a>(
        &self,
        nonce: &[u8; TOKEN_NONCE_LEN],
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Option<&'a [u8]> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.0.open_in_place(nonce, Aad::from(aad), sealed).ok().map(|plain| &*plain)
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

/// Makes the keys of tokens, one for each purpose and period (HMAC-SHA256 as the
/// pseudo-random function of a key hierarchy, NIST SP 800-108).
pub(crate) struct TokenSecret(hmac::Key);

impl TokenSecret {
    /// From 32 bytes of good randomness.
    #[must_use]
    pub(crate) fn new(secret: &[u8; TOKEN_KEY_LEN]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The key for `label` and `period`.
    #[must_use]
    pub(crate) fn key(&self, label: &[u8], period: u64) -> TokenKey {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(label);
        context.update(&period.to_be_bytes());
        TokenKey::new(&prefix(&context.sign()))
    }

    /// Bytes that only a holder of the secret can compute. They are not secret once used: `label`
    /// must not be one of a key.
    #[must_use]
    pub(crate) fn mark<const N: usize>(&self, label: &[u8]) -> [u8; N] {
        prefix(&hmac::sign(&self.0, label))
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(..)")
    }
}

/// Makes stateless reset tokens: HMAC-SHA256 of the connection id (RFC 9000 §10.3.2).
pub(crate) struct ResetKey(hmac::Key);

impl ResetKey {
    /// A key from a secret that outlives the process, or resets sent after a restart mean
    /// nothing to the peer.
    #[must_use]
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The stateless reset token of connection id `cid`.
    #[must_use]
    pub(crate) fn token(&self, cid: &[u8]) -> [u8; 16] {
        prefix(&hmac::sign(&self.0, cid))
    }
}

impl fmt::Debug for ResetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResetKey(..)")
    }
}

/// The first bytes of a tag of 32; zeros beyond.
fn prefix<const N: usize>(tag: &hmac::Tag) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::crypto::testing::hex;

    #[test]
    fn a_token_opens_with_its_key_nonce_and_data_only() {
        let key = TokenKey::new(&[7; 32]);
        let mut sealed = b"who and when".to_vec();
        let tag = key.seal(&[1; 12], b"retry", &mut sealed).expect("short");
        assert_ne!(&sealed, b"who and when");
        sealed.extend_from_slice(&tag);

        let open = |key: &TokenKey, nonce: [u8; 12], aad: &[u8], mut sealed: Vec<u8>| {
            key.open(&nonce, aad, &mut sealed).map(<[u8]>::to_vec)
        };
        assert_eq!(open(&key, [1; 12], b"retry", sealed.clone()).unwrap(), b"who and when");
        assert_eq!(open(&key, [2; 12], b"retry", sealed.clone()), None);
        assert_eq!(open(&key, [1; 12], b"other", sealed.clone()), None);
        assert_eq!(open(&TokenKey::new(&[8; 32]), [1; 12], b"retry", sealed.clone()), None);
        assert_eq!(open(&key, [1; 12], b"retry", sealed[..10].to_vec()), None);
    }

    #[test]
    fn keys_differ_by_secret_label_and_period() {
        let secret = TokenSecret::new(&[1; TOKEN_KEY_LEN]);
        let seal = |key: TokenKey| key.seal(&[0; 12], b"", &mut [0; 8]).expect("short");
        let tag = seal(secret.key(b"one", 7));
        assert_eq!(tag, seal(secret.key(b"one", 7)));
        assert_ne!(tag, seal(secret.key(b"two", 7)));
        assert_ne!(tag, seal(secret.key(b"one", 8)));
        assert_ne!(tag, seal(TokenSecret::new(&[2; TOKEN_KEY_LEN]).key(b"one", 7)));
    }

    #[test]
    fn reset_tokens_are_the_truncated_hmac_of_rfc_4231() {
        // RFC 4231 §4.2, test case 1: key of twenty 0x0b, data "Hi There".
        let token = ResetKey::new(&[0x0b; 20]).token(b"Hi There");
        assert_eq!(token.to_vec(), hex("b0344c61d8db38535ca8afceaf0bf12b"));
    }
}
