//! Bytes to values and back (RFC 9000 §16-19, RFC 8999).
#![forbid(unsafe_code)]

mod cid;
mod codec;
pub mod frame;
pub mod packet;
mod stream_id;
pub mod transport_parameters;

pub use stream_id::{Dir, Side, StreamId};
