//! What a NIC is asked to do to a packet besides sending it.
//!
//! In front of a packet may lie a few bytes of metadata, which the driver reads if the descriptor
//! says so (Linux 6.8). We ask for one thing: to complete the UDP checksum, which spares us reading
//! the payload once more.
//!
//! ```text
//!  | ...      | flags | start, offset |      | Ethernet | IP | UDP: pseudo header's sum | payload |
//!             ^ 24 bytes before       the packet, whose address is in the descriptor
//! ```
//!
//! A driver that does not know of metadata sends the packet with the unfinished checksum, and every
//! receiver drops it. So it is asked for only where the kernel says that the driver offers it
//! (`tx-checksum`, of the netdev family's xsk-features) and reads it: in zero-copy mode.

use super::layout::METADATA_BYTES;
use crate::datapath::headers::UDP_BYTES;
use std::ops::Range;

/// Where the checksum lies in a UDP header.
const UDP_CHECKSUM_AT: u16 = 6;

/// The reader of the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Metadata {
    /// The driver, for its NIC.
    Nic,
    /// The kernel, in the copy modes.
    Kernel,
}

impl Metadata {
    /// The flags that the memory is registered with.
    pub(super) const fn umem_flags(self) -> u32 {
        match self {
            Self::Nic => libc::XDP_UMEM_TX_METADATA_LEN,
            Self::Kernel => libc::XDP_UMEM_TX_METADATA_LEN | libc::XDP_UMEM_TX_SW_CSUM,
        }
    }

    /// The word for logs.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nic => "nic",
            Self::Kernel => "kernel",
        }
    }
}

/// Asks for the UDP checksum of the packet at `packet`, whose headers are `headers_bytes` long.
pub(super) fn ask_for_checksum(frame: &mut [u8], packet: &Range<usize>, headers_bytes: usize) {
    let metadata = &mut frame[packet.start - METADATA_BYTES..packet.start];
    let start = (headers_bytes - UDP_BYTES) as u16;
    metadata.fill(0);
    metadata[..8].copy_from_slice(&u64::from(libc::XDP_TXMD_FLAGS_CHECKSUM).to_ne_bytes());
    metadata[8..10].copy_from_slice(&start.to_ne_bytes());
    metadata[10..12].copy_from_slice(&UDP_CHECKSUM_AT.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_asked_for_where_the_udp_header_is() {
        let mut frame = [0xaa; 256];
        // Ethernet and IPv4.
        ask_for_checksum(&mut frame, &(86..200), 42);
        assert_eq!(frame[62..70], 2u64.to_ne_bytes());
        assert_eq!(frame[70..72], 34u16.to_ne_bytes());
        assert_eq!(frame[72..74], 6u16.to_ne_bytes());
        assert_eq!(frame[74..86], [0; 12]);
        assert!(frame[..62].iter().chain(&frame[86..]).all(|&byte| byte == 0xaa));
    }
}
