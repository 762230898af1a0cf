//! The library that does the arithmetic: aws-lc-rs or ring.
//!
//! The two have the same shape, so that one name, [`lib`], stands for either. With both features
//! on, each does what it does best: aws-lc-rs the handshakes, ring the packets.

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::quic::Suite;
use rustls::{CipherSuite, SupportedCipherSuite};
#[cfg(all(feature = "aws-lc-rs", feature = "ring"))]
use rustls::{Tls13CipherSuite, crypto::CipherSuiteCommon};

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
/// [`super::ClientTls::builder_with`].
#[must_use]
pub fn default_provider() -> CryptoProvider {
    provider().as_ref().clone()
}

/// The provider as rustls wants it, made once.
///
/// AES-128 first because its packet protection is the cheapest of the three and the others
/// protect against no attack that is known. A server follows the client's order, so that a
/// client without AES instructions gets its ChaCha20.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        let mut provider = tls::default_provider();
        provider.cipher_suites.retain(|suite| suite.tls13().is_some_and(|s| s.quic.is_some()));
        provider.cipher_suites.iter_mut().for_each(|suite| *suite = with_packets(*suite));
        provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => 0,
            CipherSuite::TLS13_AES_256_GCM_SHA384 => 1,
            _ => 2,
        });
        Arc::new(provider)
    })
}

/// The suite as it is: its library protects packets too.
#[cfg(not(all(feature = "aws-lc-rs", feature = "ring")))]
const fn with_packets(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    suite
}

/// The suite with ring's packet protection.
///
/// ring lays a key out in one piece, aws-lc-rs behind a pointer of its own: a key that is not in
/// the cache is then missed twice, the second time where nobody can be told to look ahead. And
/// ring's fixed cost per packet is lower, which is most of a small packet.
#[cfg(all(feature = "aws-lc-rs", feature = "ring"))]
fn with_packets(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let same = rustls::crypto::ring::ALL_CIPHER_SUITES.iter().find(|s| s.suite() == suite.suite());
    let (Some(tls), Some(packets)) = (suite.tls13(), same.and_then(|same| same.tls13())) else {
        return suite;
    };
    let CipherSuiteCommon { suite, hash_provider, confidentiality_limit } = tls.common;
    // One value for each suite and process.
    SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
        common: CipherSuiteCommon { suite, hash_provider, confidentiality_limit },
        hkdf_provider: tls.hkdf_provider,
        aead_alg: tls.aead_alg,
        quic: packets.quic,
    })))
}

/// The suite of Initial packets, which is AES-128-GCM whatever is negotiated later
/// (RFC 9001 §5.2).
pub(super) fn initial_suite() -> Option<Suite> {
    let suites = &provider().cipher_suites;
    let wanted = CipherSuite::TLS13_AES_128_GCM_SHA256;
    suites.iter().find(|suite| suite.suite() == wanted)?.tls13()?.quic_suite()
}
