//! HKDF (RFC 5869), for the key schedule of TLS 1.3 and for Initial keys.
//!
//! A handshake derives some forty secrets, each with HMAC under a key that is used once to four
//! times. HMAC begins by hashing its padded key: two compressions, which a key that is kept has done
//! once, and a key that is set up for each output does again. So an expander keeps its HMAC key, and
//! an output that fits one block costs two compressions instead of four, and no allocation.

use super::aead::{Aead, HeaderSecret, IV_LEN, MAX_KEY_LEN, PacketSecret};
use super::keys::DirectionKeys;
use crate::wire::VERSION_1;
#[cfg(all(feature = "aws-lc-rs", not(feature = "ring")))]
use aws_lc_rs::hmac;
#[cfg(feature = "ring")]
use ring::hmac;
use rustls::crypto::hmac::Tag;
use rustls::crypto::tls13::{Hkdf, HkdfExpander, OkmBlock, OutputLengthError};
use std::sync::OnceLock;

/// The longest output of a hash.
const MAX_HASH_LEN: usize = 64;
/// RFC 5869 §2.3: blocks of an output at most.
const MAX_BLOCKS: usize = 255;

/// HKDF over one hash.
pub(super) struct HmacHkdf(&'static hmac::Algorithm);

/// With SHA-256.
pub(super) static SHA256: HmacHkdf = HmacHkdf(&hmac::HMAC_SHA256);
/// With SHA-384.
pub(super) static SHA384: HmacHkdf = HmacHkdf(&hmac::HMAC_SHA384);

impl HmacHkdf {
    fn hash_len(&self) -> usize {
        self.0.digest_algorithm().output_len()
    }

    fn key(&self, secret: &[u8]) -> hmac::Key {
        hmac::Key::new(*self.0, secret)
    }

    fn extract(&self, salt: Option<&[u8]>, secret: &[u8]) -> Expander {
        let zeroes = [0; MAX_HASH_LEN];
        let salt = self.key(salt.unwrap_or(&zeroes[..self.hash_len()]));
        Expander(self.key(hmac::sign(&salt, secret).as_ref()))
    }
}

impl Hkdf for HmacHkdf {
    fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        Box::new(self.extract(salt, &[0; MAX_HASH_LEN][..self.hash_len()]))
    }

    fn extract_from_secret(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        Box::new(self.extract(salt, secret))
    }

    fn expander_for_okm(&self, okm: &OkmBlock) -> Box<dyn HkdfExpander> {
        Box::new(Expander(self.key(okm.as_ref())))
    }

    fn hmac_sign(&self, key: &OkmBlock, message: &[u8]) -> Tag {
        Tag::new(hmac::sign(&self.key(key.as_ref()), message).as_ref())
    }
}

/// HKDF-Expand under one secret, whose HMAC key is set up.
struct Expander(hmac::Key);

impl Expander {
    /// RFC 5869 §2.3: T(number), after the block before it.
    fn block(&self, before: &[u8], info: &[&[u8]], number: u8) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(before);
        info.iter().for_each(|part| context.update(part));
        context.update(&[number]);
        context.sign()
    }
}

impl HkdfExpander for Expander {
    fn expand_slice(&self, info: &[&[u8]], output: &mut [u8]) -> Result<(), OutputLengthError> {
        let len = HkdfExpander::hash_len(self);
        if output.len() > MAX_BLOCKS * len {
            return Err(OutputLengthError);
        }
        let mut before = None::<hmac::Tag>;
        for (chunk, number) in output.chunks_mut(len).zip(1..=u8::MAX) {
            let block = self.block(before.as_ref().map_or(&[], AsRef::as_ref), info, number);
            chunk.copy_from_slice(&block.as_ref()[..chunk.len()]);
            before = Some(block);
        }
        Ok(())
    }

    fn expand_block(&self, info: &[&[u8]]) -> OkmBlock {
        OkmBlock::new(self.block(&[], info, 1).as_ref())
    }

    fn hash_len(&self) -> usize {
        self.0.algorithm().digest_algorithm().output_len()
    }
}

/// RFC 9001 §5.2: the salt of version 1.
const INITIAL_SALT: [u8; 20] = [
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad,
    0xcc, 0xbb, 0x7f, 0x0a,
];

/// What the Initial keys of both directions are made from (RFC 9001 §5.2).
pub(crate) struct InitialSecret(Expander);

impl InitialSecret {
    /// Of the destination id of a client's first Initial; `None` for a version that this endpoint does
    /// not speak.
    pub(crate) fn new(version: u32, client_dcid: &[u8]) -> Option<Self> {
        if version != VERSION_1 {
            return None;
        }
        static SALT: OnceLock<hmac::Key> = OnceLock::new();
        let salt = SALT.get_or_init(|| SHA256.key(&INITIAL_SALT));
        Some(Self(Expander(SHA256.key(hmac::sign(salt, client_dcid).as_ref()))))
    }

    /// What the client protects its Initials with.
    pub(crate) fn client(&self) -> Option<DirectionKeys> {
        self.direction(b"tls13 client in")
    }

    /// What the server protects its Initials with.
    pub(crate) fn server(&self) -> Option<DirectionKeys> {
        self.direction(b"tls13 server in")
    }

    fn direction(&self, label: &[u8]) -> Option<DirectionKeys> {
        let mut secret = [0; 32];
        expand_label(&self.0, label, &mut secret)?;
        let secret = Expander(SHA256.key(&secret));
        let (mut key, mut iv, mut header) = ([0; MAX_KEY_LEN], [0; IV_LEN], [0; MAX_KEY_LEN]);
        let key = &mut key[..Aead::Aes128.key_len()];
        let header = &mut header[..Aead::Aes128.key_len()];
        expand_label(&secret, b"tls13 quic key", key)?;
        expand_label(&secret, b"tls13 quic iv", &mut iv)?;
        expand_label(&secret, b"tls13 quic hp", header)?;
        Some(DirectionKeys {
            packet: PacketSecret::new(Aead::Aes128, key, &iv)?,
            header: HeaderSecret::new(Aead::Aes128, header)?,
        })
    }
}

/// RFC 8446 §7.1, HKDF-Expand-Label without a context; `label` has its prefix.
fn expand_label(secret: &Expander, label: &[u8], output: &mut [u8]) -> Option<()> {
    let length = u16::try_from(output.len()).ok()?.to_be_bytes();
    let label_len = [u8::try_from(label.len()).ok()?];
    secret.expand_slice(&[&length, &label_len, label, &[0]], output).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::crypto::provider;
    use crate::proto::crypto::testing::hex;
    use rustls::SupportedCipherSuite;

    /// RFC 5869 §A.1, §A.2 and §A.3.
    #[test]
    fn vectors_of_the_rfc() {
        let long = |from: u8| (0..80).map(|i| from + i).collect::<Vec<u8>>();
        let cases = [
            (
                vec![0x0b; 22],
                Some(hex("000102030405060708090a0b0c")),
                hex("f0f1f2f3f4f5f6f7f8f9"),
                "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
            ),
            (
                long(0),
                Some(long(0x60)),
                long(0xb0),
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
            ),
            (
                vec![0x0b; 22],
                None,
                vec![],
                "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
            ),
        ];
        for (secret, salt, info, expected) in cases {
            let expander = SHA256.extract_from_secret(salt.as_deref(), &secret);
            let expected = hex(expected);
            let mut output = vec![0; expected.len()];
            let (first, second) = info.split_at(info.len() / 2);
            expander.expand_slice(&[first, second], &mut output).unwrap();
            assert_eq!(output, expected);
            assert_eq!(expander.expand_block(&[&info]).as_ref(), &expected[..32]);
        }
    }

    #[test]
    fn what_has_no_salt_or_secret_has_zeroes_of_the_hash() {
        for (hkdf, len) in [(&SHA256, 32), (&SHA384, 48)] {
            let zeroes = vec![0; len];
            let block =
                |expander: Box<dyn HkdfExpander>| expander.expand_block(&[b"x"]).as_ref().to_vec();
            let explicit = block(hkdf.extract_from_secret(Some(&zeroes), &zeroes));
            assert_eq!(explicit.len(), len);
            assert_eq!(block(hkdf.extract_from_zero_ikm(None)), explicit);
            assert_eq!(block(hkdf.extract_from_zero_ikm(Some(&zeroes))), explicit);
            assert_ne!(block(hkdf.extract_from_zero_ikm(Some(b"salt"))), explicit);
        }
    }

    #[test]
    fn an_output_that_is_too_long_is_refused() {
        let expander = SHA256.extract_from_zero_ikm(None);
        let mut output = vec![0; MAX_BLOCKS * 32 + 1];
        assert!(expander.expand_slice(&[], &mut output).is_err());
        assert!(expander.expand_slice(&[], &mut output[1..]).is_ok());
    }

    /// The key schedule of TLS is the same as with the provider's own HKDF.
    #[test]
    fn agrees_with_the_provider() {
        let suites: Vec<_> = provider::library_suites().collect();
        assert_eq!(suites.len(), 3);
        for suite in suites {
            let theirs = suite.hkdf_provider;
            let ours = provider::with_packets(SupportedCipherSuite::Tls13(suite)).unwrap();
            let ours = ours.tls13().unwrap().hkdf_provider;
            assert!(!std::ptr::addr_eq(theirs, ours), "{:?} has its own", suite.common.suite);
            let okm = OkmBlock::new(&[7; 48][..theirs.extract_from_zero_ikm(None).hash_len()]);
            let blocks = [theirs, ours].map(|hkdf| {
                let tag = hkdf.hmac_sign(&okm, b"message");
                let block = hkdf.expander_for_okm(&okm).expand_block(&[b"a", b"b"]);
                (tag.as_ref().to_vec(), block.as_ref().to_vec())
            });
            assert_eq!(blocks[0], blocks[1]);
        }
    }
}
