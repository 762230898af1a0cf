//! The library that does the arithmetic: aws-lc-rs or ring.
//!
//! The two have the same shape, so that one name, [`lib`], stands for either. aws-lc-rs wins
//! when both features are on (a build of the whole workspace can turn both on).

use std::sync::{Arc, OnceLock};

use rustls::CipherSuite;
use rustls::crypto::CryptoProvider;
use rustls::quic::Suite;

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

pub(super) use tls::Ticketer;

/// The provider as rustls wants it, made once: TLS 1.3 suites only, AES-128-GCM first.
///
/// AES-128 first because its packet protection is the cheapest of the three and the others
/// protect against no attack that is known. A server follows the client's order, so that a
/// client without AES instructions gets its ChaCha20.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        let mut provider = tls::default_provider();
        provider.cipher_suites.retain(|suite| suite.tls13().is_some_and(|s| s.quic.is_some()));
        provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => 0,
            CipherSuite::TLS13_AES_256_GCM_SHA384 => 1,
            _ => 2,
        });
        Arc::new(provider)
    })
}

/// The suite of Initial packets, which is AES-128-GCM whatever is negotiated later
/// (RFC 9001 §5.2).
pub(super) fn initial_suite() -> Option<Suite> {
    tls::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13()?.quic_suite()
}
