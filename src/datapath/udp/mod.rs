//! Kernel UDP sockets.
#![deny(unsafe_code)]

mod abi;
mod error;
mod side;
mod socket;
mod syscall;

pub use error::{SendError, UdpError, UdpErrorKind};
pub use side::{PathError, Received, SideSocket};

/// What a socket's buffers are asked to hold, in bytes: 20 ms at 1.6 Gb/s.
pub const DEFAULT_BUFFER_BYTES: usize = 4 << 20;

/// How many queued errors one call reads past before it lets its caller go on.
const QUEUED_ERRORS_PER_CALL: usize = 64;
