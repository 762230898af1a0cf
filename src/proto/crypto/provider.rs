//! The library that does the arithmetic of TLS: aws-lc-rs or ring.
//!
//! The two have the same shape, so that one name, [`lib`], stands for either. With both features
//! on, each does what it does best: aws-lc-rs the handshakes, ring the packets (`aead.rs`).

use std::ptr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::crypto::tls13::Hkdf;
use rustls::crypto::{CipherSuiteCommon, CryptoProvider};
use rustls::{CipherSuite, SupportedCipherSuite, Tls13CipherSuite};

use super::aead::Aead;
use super::hkdf;
use super::material::Notes;

#[cfg(feature = "aws-lc-rs")]
pub(super) use aws_lc_rs as lib;
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
pub(super) use ring as lib;

#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs as tls;
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
use rustls::crypto::ring as tls;

#[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
compile_error!(
    "quiclane needs a cryptographic provider: enable feature `aws-lc-rs` (default) or `ring`"
);

/// The provider that this build uses.
pub const NAME: &str = if cfg!(feature = "aws-lc-rs") { "aws-lc-rs" } else { "ring" };

/// The provider that configurations use where they are given no other: TLS 1.3 suites only,
/// AES-128-GCM first. To change a part, take this, set the field (random numbers, key exchange
/// groups, where signatures come from), and give it to [`super::ServerTls::builder_with`] and
/// [`super::ClientTls::builder_with`]. This library protects the packets, and does not use the
/// packet protection that a suite brings. It drops suites that QUIC does not know. The suites are
/// for QUIC alone: they protect no records of TLS over TCP.
#[must_use]
pub fn default_provider() -> CryptoProvider {
    provider().as_ref().clone()
}

/// The suites, the best first.
const PREFERRED: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];

/// The provider as rustls wants it, made once.
///
/// AES-128 first because its packet protection is the cheapest of the three and the others
/// protect against no attack that is known. A server follows the client's order, so that a
/// client without AES instructions gets its ChaCha20.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        let mut provider = tls::default_provider();
        provider.cipher_suites =
            provider.cipher_suites.into_iter().filter_map(with_packets).collect();
        provider
            .cipher_suites
            .sort_by_key(|suite| PREFERRED.iter().position(|wanted| *wanted == suite.suite()));
        Arc::new(provider)
    })
}

/// The suites that carry our packet protection, by those that they were made of: one value for
/// each suite and process.
static MADE: Mutex<Vec<(&Tls13CipherSuite, &Tls13CipherSuite)>> = Mutex::new(Vec::new());

/// The suite with our packet protection; `None` if QUIC defines none for the suite.
///
/// TLS hands the bytes of its keys out (`material.rs`), and `aead.rs` makes keys of them.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library adds variants in minor versions")]
pub(super) fn with_packets(suite: SupportedCipherSuite) -> Option<SupportedCipherSuite> {
    let aead = match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => Aead::Aes128,
        CipherSuite::TLS13_AES_256_GCM_SHA384 => Aead::Aes256,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Aead::ChaCha20,
        _ => return None,
    };
    let theirs = suite.tls13()?;
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let known = made.iter().find(|(from, ours)| ptr::eq(*from, theirs) || ptr::eq(*ours, theirs));
    if let Some((_, ours)) = known {
        return Some(SupportedCipherSuite::Tls13(ours));
    }
    let CipherSuiteCommon { suite, hash_provider, confidentiality_limit } = theirs.common;
    let notes: &Notes = Box::leak(Box::new(Notes(aead)));
    let ours = Box::leak(Box::new(Tls13CipherSuite {
        common: CipherSuiteCommon { suite, hash_provider, confidentiality_limit },
        hkdf_provider: hkdf_of(theirs),
        // Over QUIC no record is ever protected (RFC 9001 §4), and TLS makes keys for four of them.
        aead_alg: notes,
        quic: Some(notes),
    }));
    made.push((theirs, ours));
    Some(SupportedCipherSuite::Tls13(ours))
}

/// What derives the keys of a suite: `hkdf.rs` for the libraries' own suites, and what it brings for
/// any other, or where it has to be a validated one.
fn hkdf_of(suite: &'static Tls13CipherSuite) -> &'static dyn Hkdf {
    let theirs = suite.hkdf_provider;
    if theirs.fips() || !library_suites().any(|known| ptr::eq(known, suite)) {
        return theirs;
    }
    match suite.common.hash_provider.output_len() {
        32 => &hkdf::SHA256,
        48 => &hkdf::SHA384,
        _ => theirs,
    }
}

/// The suites of TLS 1.3 as the library has them.
pub(super) fn library_suites() -> impl Iterator<Item = &'static Tls13CipherSuite> {
    tls::ALL_CIPHER_SUITES.iter().filter_map(|suite| suite.tls13())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_gets_our_packet_protection_once_whoever_brings_it() {
        let of = |suite: SupportedCipherSuite| {
            let suite = with_packets(suite)?;
            assert!(suite.tls13().is_some_and(|s| s.quic.is_some()));
            suite.tls13().map(ptr::from_ref)
        };
        let theirs = tls::default_provider().cipher_suites;
        let ours = &provider().cipher_suites;
        let known: Vec<_> = theirs.iter().filter_map(|suite| of(*suite)).collect();
        assert_eq!(known.len(), 3, "those of TLS 1.3");
        assert!(theirs.len() > ours.len() || theirs.iter().all(|s| s.tls13().is_some()));
        for suite in ours {
            let same = of(*suite);
            assert_eq!(same, suite.tls13().map(ptr::from_ref), "it is ours already");
            assert!(same.is_some_and(|suite| known.contains(&suite)), "and made once");
        }
    }
}
