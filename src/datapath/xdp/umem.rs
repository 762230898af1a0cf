//! The memory that packets lie in, and the owner of each part of it.
//!
//! A UMEM is one mapping cut into chunks of equal size, one frame each. At any time a frame is
//! either the kernel's (its address is in the fill ring, in a driver's queue, in the TX ring) or
//! ours, and the types say which: an [`RxFrame`] or a [`TxFrame`] is a frame of ours, cannot be
//! copied, and is used up by handing it to the kernel. So a frame cannot be sent twice, or be filled
//! again while it is being read.
//!
//! ```text
//!  chunk   | 0            128 | 256                                            4096 |
//!  receive |    the kernel's headroom    | frame ->                                 |
//!  send    | metadata, headers| payload ->                                          |
//! ```
//!
//! Frames to send are taken last in, first out: the frame whose completion came last is the one
//! that is still in the cache. Frames to receive into go round the fill ring in order, so their
//! number is the working set: [`super::XdpConfig::receive_frames`] keeps it small.

use super::error::XdpError;
use super::layout::{Layout, RingSizes};
use super::metadata::Metadata;
use super::registration::Registration;
use super::rings::Descriptor;
use super::sys::Failed;
use std::error::Error;
use std::num::NonZeroU32;
use std::ptr::NonNull;
use xsk_rs::config::{FrameSize, QueueSize, UmemConfig};

/// A frame that was received and is ours until it is posted again.
#[must_use = "a frame that is dropped is lost to the rings"]
pub(super) struct RxFrame {
    chunk: u32,
    offset: u32,
    length: u32,
}

/// A frame of ours to write a packet into.
#[must_use = "a frame that is dropped is lost to the rings"]
pub(super) struct TxFrame {
    chunk: u32,
}

// Frames are made here and in `carve` alone.
impl Layout {
    /// The frame that a received descriptor lies in; `None` for one outside of every frame.
    fn received(self, descriptor: Descriptor) -> Option<RxFrame> {
        let chunk_bytes = self.chunk_bytes as u64;
        let chunk = descriptor.address / chunk_bytes;
        let offset = descriptor.address % chunk_bytes;
        let fits = offset + u64::from(descriptor.length) <= chunk_bytes;
        (chunk < u64::from(self.frames) && fits).then_some(RxFrame {
            chunk: chunk as u32,
            offset: offset as u32,
            length: descriptor.length,
        })
    }

    /// The frame that a completed address lies in; `None` for one outside of every frame.
    fn completed(self, address: u64) -> Option<TxFrame> {
        let chunk = address / self.chunk_bytes as u64;
        (chunk < u64::from(self.frames)).then_some(TxFrame { chunk: chunk as u32 })
    }
}

/// The memory of one worker, and the frames of it that are free.
pub(super) struct Umem {
    owner: Owner,
    base: NonNull<u8>,
    layout: Layout,
    free: Vec<TxFrame>,
    huge_pages: bool,
    /// Options of every descriptor that is sent.
    options: u32,
}

/// Who made the mapping and registered it.
pub(super) enum Owner {
    Library(xsk_rs::Umem),
    /// With room for metadata, which the library cannot state.
    Ourselves(Registration),
}

impl Umem {
    /// Allocates on the calling thread, whose memory policy decides the node: pages are touched
    /// here first.
    pub(super) fn new(
        layout: Layout,
        sizes: RingSizes,
        huge_pages: bool,
    ) -> Result<Self, XdpError> {
        let config = umem_config(layout, sizes)?;
        let frames = NonZeroU32::new(layout.frames).ok_or(XdpError::config("no frames"))?;
        let (made, huge_pages) = with_huge_pages(layout, huge_pages, |huge_pages| {
            xsk_rs::Umem::new(config, frames, huge_pages)
        });
        let (owner, descriptors) =
            made.map_err(|error| XdpError::from_umem(&error, layout.bytes() as u64))?;
        let first = descriptors.first().ok_or(XdpError::config("no frames"))?;
        // SAFETY: this UMEM is not shared yet, so nothing writes to it; the slice is empty
        // (lengths start at 0) and used for its address alone.
        let first_data = unsafe { owner.data(first) }.contents().as_ptr().addr();
        let base = first_data - first.addr();
        // xsk-rs handed its pointer to the mapping to libxdp and the kernel, which exposed it: this
        // picks the pointer to the whole mapping up again.
        let base = NonNull::new(std::ptr::with_exposed_provenance_mut(base))
            .ok_or(XdpError::config("the UMEM lies at address zero"))?;
        Ok(Self::carve(Owner::Library(owner), base, layout, huge_pages))
    }

    /// As [`Umem::new`], of a socket whose packets have metadata in front.
    pub(super) fn with_metadata(
        layout: Layout,
        sizes: RingSizes,
        huge_pages: bool,
        metadata: Metadata,
    ) -> Result<Self, XdpError> {
        let (made, huge_pages) = with_huge_pages(layout, huge_pages, |huge_pages| {
            Registration::new(layout, sizes, huge_pages, metadata)
        });
        let registration = made.map_err(|failed| unregistered(failed, layout))?;
        let base = registration.base();
        let umem = Self::carve(Owner::Ourselves(registration), base, layout, huge_pages);
        Ok(Self { options: libc::XDP_TX_METADATA, ..umem })
    }

    fn carve(owner: Owner, base: NonNull<u8>, layout: Layout, huge_pages: bool) -> Self {
        // Last in, first out: the lowest frame first.
        let free = (0..layout.frames).rev().map(|chunk| TxFrame { chunk }).collect();
        Self { owner, base, layout, free, huge_pages, options: 0 }
    }

    /// What the sockets are made from.
    pub(super) const fn owner(&self) -> &Owner {
        &self.owner
    }

    /// True if packets that are sent have metadata in front.
    pub(super) const fn has_metadata(&self) -> bool {
        self.options != 0
    }

    /// The reader of the metadata in front of packets, the NIC or the kernel; `None` without metadata.
    pub(super) const fn metadata(&self) -> Option<Metadata> {
        match &self.owner {
            Owner::Library(_) => None,
            Owner::Ourselves(registration) => Some(registration.metadata()),
        }
    }

    /// True if the memory is made of huge pages.
    pub(super) const fn huge_pages(&self) -> bool {
        self.huge_pages
    }

    #[cfg(test)]
    pub(super) fn free_frames(&self) -> usize {
        self.free.len()
    }

    /// Takes the free frame that was used last.
    pub(super) fn take(&mut self) -> Option<TxFrame> {
        self.free.pop()
    }

    /// Gives a frame back that was not sent.
    pub(super) fn give_back(&mut self, frame: TxFrame) {
        self.free.push(frame);
    }

    /// A frame that the kernel has sent is free again. False if there is no frame at `address`.
    pub(super) fn reclaim(&mut self, address: u64) -> bool {
        match self.layout.completed(address) {
            Some(frame) => {
                self.free.push(frame);
                true
            }
            None => false,
        }
    }

    /// The frame of a received descriptor. `None` if it lies outside of the memory.
    pub(super) fn received(&self, descriptor: Descriptor) -> Option<RxFrame> {
        self.layout.received(descriptor)
    }

    /// The bytes received in a frame.
    pub(super) fn received_bytes(&mut self, frame: &RxFrame) -> &mut [u8] {
        self.bytes(frame.chunk, frame.offset as usize, frame.length as usize)
    }

    /// The bytes behind a received descriptor that stays in its ring. `None` if it lies outside of
    /// the memory.
    pub(super) fn look_at(&mut self, descriptor: Descriptor) -> Option<&[u8]> {
        let frame = self.layout.received(descriptor)?;
        Some(self.received_bytes(&frame))
    }

    /// All bytes of a frame to send.
    pub(super) fn frame_bytes(&mut self, frame: &TxFrame) -> &mut [u8] {
        self.bytes(frame.chunk, 0, self.layout.chunk_bytes)
    }

    /// Uses a free frame up to receive into; the result is for the fill ring.
    pub(super) const fn post(&self, frame: TxFrame) -> u64 {
        self.layout.address(frame.chunk)
    }

    /// Where a received frame is; the fill ring wants to know.
    pub(super) const fn address_of(&self, frame: &RxFrame) -> u64 {
        self.layout.address(frame.chunk)
    }

    /// A received frame that is not posted again for now is free.
    pub(super) fn set_free(&mut self, frame: RxFrame) {
        self.free.push(TxFrame { chunk: frame.chunk });
    }

    /// Uses a frame up to send `length` bytes from `start`; the result is for the TX ring.
    pub(super) const fn send(&self, frame: TxFrame, start: usize, length: usize) -> Descriptor {
        Descriptor {
            address: self.layout.address(frame.chunk) + start as u64,
            length: length as u32,
            options: self.options,
        }
    }

    fn bytes(&mut self, chunk: u32, offset: usize, length: usize) -> &mut [u8] {
        let start = self.layout.address(chunk) as usize + offset;
        // Frames are made by `Layout` alone, which checked them: the release build trusts that.
        debug_assert!(chunk < self.layout.frames && offset + length <= self.layout.chunk_bytes);
        // SAFETY: `Layout::received`, `Layout::completed` and `new` make no frame outside of the
        // mapping of `frames * chunk_bytes` bytes at `base`, which `owner` keeps mapped; and no
        // bytes outside of their chunk. A frame that exists is not the kernel's, and `&mut self`
        // lends one frame at a time.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(start), length) }
    }
}

fn umem_config(layout: Layout, sizes: RingSizes) -> Result<UmemConfig, XdpError> {
    let size = |entries: u32| {
        QueueSize::new(entries).map_err(|_| XdpError::config("ring sizes are powers of two"))
    };
    let chunk_bytes = u32::try_from(layout.chunk_bytes)
        .ok()
        .and_then(|bytes| FrameSize::new(bytes).ok())
        .ok_or(XdpError::config("a chunk is 2048 or 4096 bytes"))?;
    UmemConfig::builder()
        .frame_size(chunk_bytes)
        .fill_queue_size(size(sizes.fill)?)
        .comp_queue_size(size(sizes.completion)?)
        .frame_headroom(0)
        .build()
        .map_err(|_| XdpError::config("a chunk is 2048 or 4096 bytes"))
}

/// Makes memory of huge pages if they are asked for and there are some; else of pages of the usual
/// size, which costs misses in the TLB and nothing else. True if they are huge.
fn with_huge_pages<T, E: Error + 'static>(
    layout: Layout,
    huge_pages: bool,
    make: impl Fn(bool) -> Result<T, E>,
) -> (Result<T, E>, bool) {
    if huge_pages {
        match make(true) {
            Ok(made) => return (Ok(made), true),
            // Whatever else is wrong with the memory, the next attempt says.
            Err(error) => {
                tracing::debug!(error = %XdpError::chain(&error), "UMEM of huge pages");
                tracing::info!(
                    "no huge pages for a UMEM of {} KiB: pages of the usual size; \
                     `sysctl vm.nr_hugepages` reserves some",
                    layout.bytes() >> 10
                );
            }
        }
    }
    (make(false), false)
}

/// Why memory with metadata could not be registered.
fn unregistered(failed: Failed, layout: Layout) -> XdpError {
    match failed.errno() {
        libc::EINVAL => {
            let what = "transmit metadata of AF_XDP sockets (Linux 6.8)";
            XdpError::Kernel { what, error: failed.error }
        }
        _ => XdpError::from_umem(&failed.error, layout.bytes() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout { chunk_bytes: 4096, frames: 4 };

    fn at(address: u64, length: u32) -> Option<(u32, u32, u32)> {
        let descriptor = Descriptor { address, length, options: 0 };
        LAYOUT.received(descriptor).map(|frame| (frame.chunk, frame.offset, frame.length))
    }

    #[test]
    fn descriptors_outside_of_the_memory_are_refused() {
        assert_eq!(at(256, 1500), Some((0, 256, 1500)));
        assert_eq!(at(3 * 4096 + 256, 3840), Some((3, 256, 3840)));
        assert_eq!(at(4 * 4096, 1), None, "behind the last chunk");
        assert_eq!(at(u64::MAX, 1), None);
        assert_eq!(at(256, 3841), None, "across the end of its chunk");
        assert_eq!(at(256, u32::MAX), None);
        assert_eq!(at(4095, 1), Some((0, 4095, 1)));
        assert!(LAYOUT.completed(4 * 4096 - 1).is_some());
        assert!(LAYOUT.completed(4 * 4096).is_none());
    }
}
