//! QUIC as state machines: no I/O, no clock, no threads, no `unsafe`.
//!
//! The time is an argument wherever something depends on it, TLS included. One thing is written
//! from here: the secrets of connections, into a writer for which the application asked
//! ([`crypto::ServerTlsBuilder::key_log`]).
#![forbid(unsafe_code)]
// A frame that nothing handles, or that nothing repairs after loss, does not compile.
#![cfg_attr(not(test), deny(clippy::wildcard_enum_match_arm))]

mod byte_ranges;
pub mod congestion;
pub mod connection;
pub mod crypto;
mod ecn;
pub mod endpoint;
pub(crate) mod health;
pub(crate) mod limiter;
pub(crate) mod mtu;
pub mod observer;
pub(crate) mod pacer;
mod packet_builder;
mod path;
mod path_validation;
mod patience;
pub mod ranges;
pub(crate) mod recovery;
pub(crate) mod rtt;
pub mod sent;
pub(crate) mod source;
pub(crate) mod spurious;
pub mod streams;
pub(crate) mod token;
