//! A UMEM and a socket that we register ourselves.
//!
//! `xsk-rs` makes the others. It stands on libxdp, which cannot state a length of metadata when it
//! registers a UMEM (`tx_metadata_len`, Linux 6.8); without one the kernel refuses descriptors that
//! have any. So a socket that leaves checksums to the NIC takes this way: the same five calls that
//! libxdp would make, with that field filled in.

use super::layout::{Layout, METADATA_BYTES, RingSizes};
use super::metadata::Metadata;
use super::sys::{self, Failed, Mapping};
use std::ffi::c_int;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

/// A socket with its memory, not bound yet. The kernel holds the pages until the socket closes.
pub(super) struct Registration {
    socket: OwnedFd,
    memory: Mapping,
    metadata: Metadata,
}

impl Registration {
    /// Allocates, and registers memory and rings.
    pub(super) fn new(
        layout: Layout,
        sizes: RingSizes,
        huge_pages: bool,
        metadata: Metadata,
    ) -> Result<Self, Failed> {
        let memory = Mapping::memory(layout.bytes(), huge_pages)?;
        let socket = sys::xdp_socket()?;
        let registration = libc::xdp_umem_reg {
            addr: memory.start().as_ptr().expose_provenance() as u64,
            len: memory.bytes() as u64,
            chunk_size: layout.chunk_bytes as u32,
            headroom: 0,
            flags: metadata.umem_flags(),
            tx_metadata_len: METADATA_BYTES as u32,
        };
        let set = |name: c_int, value: &u32, call| {
            sys::set_option(socket.as_raw_fd(), libc::SOL_XDP, name, value, call)
        };
        sys::set_option(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_UMEM_REG,
            &registration,
            "setsockopt(XDP_UMEM_REG)",
        )?;
        set(libc::XDP_UMEM_FILL_RING, &sizes.fill, "setsockopt(XDP_UMEM_FILL_RING)")?;
        set(
            libc::XDP_UMEM_COMPLETION_RING,
            &sizes.completion,
            "setsockopt(XDP_UMEM_COMPLETION_RING)",
        )?;
        set(libc::XDP_RX_RING, &sizes.rx, "setsockopt(XDP_RX_RING)")?;
        set(libc::XDP_TX_RING, &sizes.tx, "setsockopt(XDP_TX_RING)")?;
        Ok(Self { socket, memory, metadata })
    }

    /// Binds to a queue; may be tried again.
    pub(super) fn bind(&self, ifindex: u32, queue: u32, flags: u16) -> Result<(), Failed> {
        sys::bind_xdp(self.socket.as_raw_fd(), ifindex, queue, flags)
    }

    pub(super) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Where the memory begins.
    pub(super) const fn base(&self) -> NonNull<u8> {
        self.memory.start().cast()
    }

    pub(super) const fn metadata(&self) -> Metadata {
        self.metadata
    }
}
