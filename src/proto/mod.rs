//! QUIC as state machines: no I/O, no clock, no threads, no `unsafe`.
#![forbid(unsafe_code)]

pub mod congestion;
pub mod connection;
pub mod crypto;
pub mod endpoint;
mod limiter;
pub mod mtu;
pub mod pacer;
pub mod ranges;
pub mod recovery;
pub mod rtt;
pub mod sent;
pub mod source;
pub mod spurious;
pub mod streams;
pub mod token;
