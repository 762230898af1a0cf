//! How the memory of a queue is cut up, and how many entries its rings have.
//!
//! What the UMEM, its registration and the metadata in front of packets have in common.

use crate::datapath::headers::{HEADERS_MAX_BYTES, Template};

/// Bytes that the kernel keeps free in front of what it receives: `XDP_PACKET_HEADROOM`.
pub(super) const RX_HEADROOM_BYTES: usize = 256;
/// Where the payload of a frame to send begins: a cache line boundary with room for all headers.
pub(super) const TX_PAYLOAD_OFFSET: usize = 128;
/// Bytes of metadata: `struct xsk_tx_metadata` as of Linux 6.14, of which 6.8 knows the first 16.
pub(super) const METADATA_BYTES: usize = 24;

const _: () = assert!(
    TX_PAYLOAD_OFFSET >= Template::ROOM_BYTES,
    "headers are written in front of the payload"
);
const _: () = assert!(
    HEADERS_MAX_BYTES + METADATA_BYTES <= TX_PAYLOAD_OFFSET,
    "metadata and the longest headers lie in front of the payload"
);

/// How a UMEM is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) chunk_bytes: usize,
    pub(super) frames: u32,
}

impl Layout {
    /// Bytes of the whole memory.
    pub(super) const fn bytes(self) -> usize {
        self.frames as usize * self.chunk_bytes
    }

    /// Where a chunk begins.
    pub(super) const fn address(self, chunk: u32) -> u64 {
        chunk as u64 * self.chunk_bytes as u64
    }
}

/// Entries of the four rings.
#[derive(Clone, Copy)]
pub(super) struct RingSizes {
    pub(super) fill: u32,
    pub(super) completion: u32,
    pub(super) rx: u32,
    pub(super) tx: u32,
}
