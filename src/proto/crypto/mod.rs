//! TLS 1.3 and the keys it makes: everything in QUIC that needs a secret.
//!
//! QUIC puts TLS on its head: TLS gives keys and handshake bytes, QUIC gives the transport
//! and the record protection (RFC 9001). This module wraps the one library that speaks the
//! handshake, so that nothing outside `proto/crypto/` names it.
//!
//! # How a connection drives it
//!
//! ```text
//!            Session::client / Session::server
//!                         |
//!   CRYPTO frames --read(now, level, bytes)-> TLS --write(&mut out)--> CRYPTO frames at write_level()
//!                         |                        \
//!                 Err(TlsError): close              Some(KeyChange): install these keys,
//!                 with error.code()                 then call write again until it adds
//!                                                   no byte and gives no key
//! ```
//!
//! - [`initial_keys`] need no session: both sides derive them from the connection id that the
//!   client chose.
//! - [`PacketKey`] seals and opens a packet in place, [`HeaderKey`] hides and shows the packet
//!   number. They are kept apart because a key update changes the first and never the second.
//! - [`OneRttSecrets::next_keys`] makes the keys of the next key phase.
//! - [`ServerTls`] and [`ClientTls`] are configurations: built once, shared by reference count.
//! - `TokenSecret`, `TokenKey` and `ResetKey` protect what an endpoint hands out and later recognises
//!   (see `crate::proto::token`).
//!
//! # Which library does the arithmetic
//!
//! Feature `aws-lc-rs` (default) or `ring`. When both are on, aws-lc-rs is used. A provider of
//! one's own, for example one whose signatures come from a hardware module, or whose random
//! numbers come from a seed, is given to [`ServerTls::builder_with`] and
//! [`ClientTls::builder_with`].
//!
//! # What time it is
//!
//! As everywhere in `proto`, the caller says what time it is. The `now` of [`Session::client`] and
//! [`Session::read`] judges certificates' dates and tickets' ages, so it must count from 1970. Workers of `exec` let TLS read the system's time of day instead, which their instants
//! do not follow when it is set: see `time.rs`.

mod aead;
mod aside;
mod asking;
mod certificate;
mod client;
mod config;
#[cfg(test)]
mod costs;
mod error;
mod hkdf;
mod keys;
mod material;
mod provider;
mod refused;
mod retry;
mod seal;
mod server;
mod session;
#[cfg(test)]
pub(crate) mod testing;
mod ticketer;
mod time;

pub use aead::{HeaderKey, PacketKey, TAG_LEN, Unmasked};
pub use aside::{CertificateVerdict, PeerCertificate};
pub use client::{ClientTls, ClientTlsBuilder};
pub use config::TlsConfigError;
pub use error::TlsError;
pub(crate) use hkdf::InitialSecret;
pub use keys::{DirectionKeys, KeyChange, Keys, OneRttSecrets, initial_keys};
pub use provider::{NAME as PROVIDER, default_provider};
pub(crate) use retry::{retry_tag, retry_tag_matches};
pub(crate) use seal::{ResetKey, TOKEN_KEY_LEN, TOKEN_NONCE_LEN, TokenKey, TokenSecret};
pub use server::{ServerTls, ServerTlsBuilder};
pub use session::Session;
pub use ticketer::TICKET_DATA_MAX_BYTES;
pub(crate) use ticketer::TICKET_MAX_BYTES;
pub(crate) use time::tell_time_of_day;
#[cfg(test)]
pub(crate) use time::told_time_of_day;

/// The TLS library, for providers of one's own: its version must be ours.
pub use rustls;

/// Which keys protect a packet (RFC 9001 §2.1). Ordered as a handshake passes through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Keys anyone can derive from the client's first connection id.
    Initial,
    /// A client's keys for early data. Not used yet: early data is off.
    ZeroRtt,
    /// Keys both sides have after the hellos.
    Handshake,
    /// Keys of the application's data.
    OneRtt,
}
