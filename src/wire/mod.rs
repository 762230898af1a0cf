//! Bytes to values and back (RFC 9000 §16-19, RFC 8999).
//!
//! Everything here is a total function of its bytes: any input gives a value or an error, and
//! nothing panics, allocates per packet, reads a clock or decides a policy. A received packet
//! goes through it in this order:
//!
//! 1. [`packet::parse`] reads one packet's header at its place in the datagram and tells where
//!    the packet number begins and the packet ends; coalesced packets are parsed one by one.
//! 2. The connection removes the header protection and decrypts in place, then widens
//!    the packet number with [`packet::decode_pn`].
//! 3. A [`Reader`] over the payload feeds [`frame::Frame::read`] until it is empty. Frames
//!    borrow from the payload: stream data is a slice of the buffer it arrived in.
//!
//! Sending is the mirror image through a [`Writer`] over the transmit buffer. A write that does
//! not fit gives [`Full`] and leaves the writer where it stood, so a packet is packed by trying.
#![forbid(unsafe_code)]
// A frame that nothing handles does not compile.
#![cfg_attr(not(test), deny(clippy::wildcard_enum_match_arm))]

mod cid;
mod client_hello;
mod codec;
pub mod frame;
pub mod packet;
mod stream_id;
pub mod transport_parameters;

pub use cid::{ConnectionId, MAX_CID_LEN};
pub use client_hello::{ClientHello, Malformed};
pub(crate) use codec::varint_len;
pub use codec::{Full, Reader, Truncated, VARINT_MAX, Writer};
pub use packet::VERSION_1;
pub use stream_id::{Dir, Side, StreamId};
