//! The four rings that a process shares with the kernel.
//!
//! ```text
//!           fill: frames to receive into          RX: frames received
//!   us  ------------------------------->  kernel  --------------------->  us
//!           TX: frames to send                    completion: frames sent
//! ```
//!
//! Each ring is an array of a power of two of entries, a producer index and a consumer index, which
//! only ever grow and wrap at 2^32. The producer writes entries, then moves its index with release
//! ordering; the consumer reads the index with acquire ordering, then the entries, then moves its
//! own. So an entry is touched by one side at a time, and each side needs to look at the other's
//! index (a cache line that travels between cores) only when what it saw last does not suffice.
//!
//! The sockets are made by `xsk-rs`, which keeps its own view of the rings and never touches it
//! here: this module maps the same pages a second time and works on bursts, where `xsk-rs` calls a
//! C function for each descriptor and copies it into a structure of 40 bytes. Over RX, fill, TX and
//! completion that is 43 instructions a packet against 89 (callgrind), 2 to 8 ns against 7 to 20.

use super::sys::{Failed, Mapping};
use libxdp_sys as xdp;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// An entry of the RX and TX rings: `struct xdp_desc`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// Where the packet begins, in bytes from the start of the UMEM.
    pub(super) address: u64,
    /// Bytes of the packet.
    pub(super) length: u32,
    /// True if there is metadata in front; never that a packet goes on in the next frame.
    pub(super) options: u32,
}

const _: () = assert!(size_of::<Descriptor>() == size_of::<xdp::xdp_desc>());

/// What can lie in a ring: plain integers, so that any bits the kernel writes are a value.
pub(super) trait Entry: Copy {}
impl Entry for Descriptor {}
impl Entry for u64 {}

/// Where a ring's memory comes from.
enum Memory {
    /// Shared with the kernel.
    Kernel(#[expect(dead_code, reason = "held so that the pages stay mapped")] Mapping),
    /// A test plays the kernel on the heap.
    #[cfg(test)]
    Test(#[expect(dead_code, reason = "held so that the memory stays allocated")] Vec<u64>),
}

/// One ring, seen from either side.
struct Ring<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    mask: u32,
    _memory: Memory,
}

impl<T: Entry> Ring<T> {
    fn map(fd: RawFd, page: u64, offset: &xdp::xdp_ring_offset, size: u32) -> Result<Self, Failed> {
        let bytes = offset.desc as usize + size as usize * size_of::<T>();
        let mapping = Mapping::new(fd, page, bytes)?;
        // The kernel's own offsets: it aligns indexes to cache lines and entries behind them.
        let ring = Self::carve(
            mapping.start().cast(),
            mapping.bytes(),
            [offset.producer, offset.consumer, offset.flags, offset.desc].map(|at| at as usize),
            size,
            Memory::Kernel(mapping),
        );
        Ok(ring)
    }

    /// Finds the parts of a ring in `bytes` of memory at `start`.
    fn carve(
        start: NonNull<u8>,
        bytes: usize,
        [producer, consumer, flags, entries]: [usize; 4],
        size: u32,
        memory: Memory,
    ) -> Self {
        assert!(size.is_power_of_two(), "ring sizes are powers of two");
        assert!(entries + size as usize * size_of::<T>() <= bytes, "entries within the mapping");
        assert!(producer.max(consumer).max(flags) + 4 <= bytes, "indexes within the mapping");
        assert!((producer | consumer | flags).is_multiple_of(4) && entries.is_multiple_of(8));
        // SAFETY: all four offsets were just checked to lie, with what they point to, in the
        // `bytes` of memory at `start`, which `memory` keeps alive, and to be aligned for it:
        // `start` is a page or a heap block of u64.
        unsafe {
            Self {
                producer: start.add(producer).cast(),
                consumer: start.add(consumer).cast(),
                flags: start.add(flags).cast(),
                entries: start.add(entries).cast(),
                mask: size - 1,
                _memory: memory,
            }
        }
    }

    const fn size(&self) -> u32 {
        self.mask + 1
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: `carve` placed it in memory that lives as long as `self`; both sides access it
        // atomically only.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.consumer.as_ref() }
    }

    /// The kernel asks to be woken when it stops looking at the ring by itself.
    fn needs_wakeup(&self) -> bool {
        // SAFETY: as for `producer`.
        let flags = unsafe { self.flags.as_ref() }.load(Ordering::Relaxed);
        flags & xdp::XDP_RING_NEED_WAKEUP != 0
    }

    fn entry(&self, index: u32) -> *mut T {
        // SAFETY: the masked index is below the size, for which `carve` checked the memory.
        unsafe { self.entries.add((index & self.mask) as usize) }.as_ptr()
    }
}

/// A ring that we fill: fill and TX.
pub(super) struct Producer<T> {
    ring: Ring<T>,
    /// Our index, ahead of the published one by what was not submitted yet.
    next: u32,
    /// The index up to which the kernel can take entries now.
    submitted: u32,
    /// The kernel's index when we looked last.
    consumed: u32,
}

impl Producer<u64> {
    /// The fill ring of a socket.
    pub(super) fn fill(
        fd: RawFd,
        offsets: &xdp::xdp_mmap_offsets,
        size: u32,
    ) -> Result<Self, Failed> {
        Ring::map(fd, xdp::XDP_UMEM_PGOFF_FILL_RING, &offsets.fr, size).map(Self::new)
    }
}

impl Producer<Descriptor> {
    /// The TX ring of a socket.
    pub(super) fn transmit(
        fd: RawFd,
        offsets: &xdp::xdp_mmap_offsets,
        size: u32,
    ) -> Result<Self, Failed> {
        Ring::map(fd, u64::from(xdp::XDP_PGOFF_TX_RING), &offsets.tx, size).map(Self::new)
    }
}

impl<T: Entry> Producer<T> {
    fn new(ring: Ring<T>) -> Self {
        let next = ring.producer().load(Ordering::Relaxed);
        let consumed = ring.consumer().load(Ordering::Acquire);
        Self { ring, next, submitted: next, consumed }
    }

    /// True if `wanted` entries can be pushed. Looks at the kernel's index only if what was free
    /// when it looked last is not enough.
    pub(super) fn has_room(&mut self, wanted: u32) -> bool {
        if self.ring.size() - self.next.wrapping_sub(self.consumed) >= wanted {
            return true;
        }
        // Acquire: the kernel has read an entry before it moves past it.
        self.consumed = self.ring.consumer().load(Ordering::Acquire);
        self.ring.size() - self.next.wrapping_sub(self.consumed) >= wanted
    }

    /// Adds an entry, which the kernel sees after [`Producer::submit`]. False if the ring is full.
    pub(super) fn push(&mut self, entry: T) -> bool {
        if !self.has_room(1) {
            return false;
        }
        // SAFETY: `has_room` says that the kernel is done with the entry at this index, and it does
        // not look at it again before `submit`.
        unsafe { self.ring.entry(self.next).write_volatile(entry) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Hands what was pushed to the kernel.
    pub(super) fn submit(&mut self) {
        if self.submitted != self.next {
            self.submitted = self.next;
            // Release: the entries are written before the index that covers them.
            self.ring.producer().store(self.next, Ordering::Release);
        }
    }

    /// Entries that were submitted and that the kernel has not taken yet.
    pub(super) fn waiting(&mut self) -> u32 {
        self.consumed = self.ring.consumer().load(Ordering::Acquire);
        self.submitted.wrapping_sub(self.consumed)
    }

    /// The kernel will not look at this ring before it is kicked.
    pub(super) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// A ring that the kernel fills: RX and completion.
pub(super) struct Consumer<T> {
    ring: Ring<T>,
    /// Our index.
    next: u32,
    /// The kernel's index when we looked last.
    produced: u32,
}

impl Consumer<u64> {
    /// The completion ring of a socket.
    pub(super) fn completion(
        fd: RawFd,
        offsets: &xdp::xdp_mmap_offsets,
        size: u32,
    ) -> Result<Self, Failed> {
        Ring::map(fd, xdp::XDP_UMEM_PGOFF_COMPLETION_RING, &offsets.cr, size).map(Self::new)
    }
}

impl Consumer<Descriptor> {
    /// The RX ring of a socket.
    pub(super) fn receive(
        fd: RawFd,
        offsets: &xdp::xdp_mmap_offsets,
        size: u32,
    ) -> Result<Self, Failed> {
        Ring::map(fd, u64::from(xdp::XDP_PGOFF_RX_RING), &offsets.rx, size).map(Self::new)
    }
}

impl<T: Entry> Consumer<T> {
    fn new(ring: Ring<T>) -> Self {
        let next = ring.consumer().load(Ordering::Relaxed);
        let produced = ring.producer().load(Ordering::Acquire);
        Self { ring, next, produced }
    }

    /// How many entries can be read, at most `wanted`. Looks at the kernel's index only if what it
    /// saw last is less than that.
    pub(super) fn available(&mut self, wanted: u32) -> u32 {
        if self.produced.wrapping_sub(self.next) < wanted {
            // Acquire: what the index covers is read after it.
            self.produced = self.ring.producer().load(Ordering::Acquire);
        }
        // An index that a broken kernel moved too far must not make us read an entry twice.
        self.produced.wrapping_sub(self.next).min(wanted).min(self.ring.size())
    }

    /// The entry at `offset` from the first that was not released. Has to be below what
    /// [`Consumer::available`] returned last; beyond it the entry is an old one.
    pub(super) fn peek(&self, offset: u32) -> T {
        // SAFETY: the pointer is inside the ring whatever the offset, and T is made of integers.
        // Below `available` the kernel does not write it before `release`.
        unsafe { self.ring.entry(self.next.wrapping_add(offset)).read_volatile() }
    }

    /// Gives `count` entries back to the kernel.
    pub(super) fn release(&mut self, count: u32) {
        self.next = self.next.wrapping_add(count);
        // Release: the entries are read before the index moves past them.
        self.ring.consumer().store(self.next, Ordering::Release);
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! Rings without a kernel: the test holds the other end.

    use super::*;

    /// Offsets of a ring on the heap: three indexes on lines of their own, then the entries.
    const OFFSETS: [usize; 4] = [0, 64, 128, 192];

    /// The kernel's end of a ring.
    pub(crate) struct Kernel<T> {
        producer: NonNull<AtomicU32>,
        consumer: NonNull<AtomicU32>,
        flags: NonNull<AtomicU32>,
        entries: NonNull<T>,
        mask: u32,
    }

    fn ring<T: Entry>(size: u32, start: u32) -> (Ring<T>, Kernel<T>) {
        let bytes = OFFSETS[3] + size as usize * size_of::<T>();
        let mut memory = vec![0u64; bytes / 8];
        let base = NonNull::new(memory.as_mut_ptr()).unwrap().cast();
        let ring = Ring::carve(base, bytes, OFFSETS, size, Memory::Test(memory));
        ring.producer().store(start, Ordering::Relaxed);
        ring.consumer().store(start, Ordering::Relaxed);
        let kernel = Kernel {
            producer: ring.producer,
            consumer: ring.consumer,
            flags: ring.flags,
            entries: ring.entries,
            mask: ring.mask,
        };
        (ring, kernel)
    }

    /// A ring that we produce into. The kernel's end must not outlive it.
    pub(crate) fn producer<T: Entry>(size: u32, start: u32) -> (Producer<T>, Kernel<T>) {
        let (ring, kernel) = ring(size, start);
        (Producer::new(ring), kernel)
    }

    /// A ring that we consume from. The kernel's end must not outlive it.
    pub(crate) fn consumer<T: Entry>(size: u32, start: u32) -> (Consumer<T>, Kernel<T>) {
        let (ring, kernel) = ring(size, start);
        (Consumer::new(ring), kernel)
    }

    impl<T: Entry> Kernel<T> {
        fn index(&self, which: NonNull<AtomicU32>) -> &AtomicU32 {
            // SAFETY: the memory lives in the ring, which the test keeps alive longer.
            unsafe { which.as_ref() }
        }

        /// Takes one entry out, as the kernel does from fill and TX.
        pub(crate) fn take(&self) -> Option<T> {
            let at = self.index(self.consumer).load(Ordering::Relaxed);
            if at == self.index(self.producer).load(Ordering::Acquire) {
                return None;
            }
            // SAFETY: the masked index is inside the ring, which the test keeps alive.
            let entry = unsafe { self.entries.add((at & self.mask) as usize).read() };
            self.index(self.consumer).store(at.wrapping_add(1), Ordering::Release);
            Some(entry)
        }

        /// Puts one entry in, as the kernel does into RX and completion.
        pub(crate) fn put(&self, entry: T) {
            let at = self.index(self.producer).load(Ordering::Relaxed);
            // SAFETY: as in `take`.
            unsafe { self.entries.add((at & self.mask) as usize).write(entry) };
            self.index(self.producer).store(at.wrapping_add(1), Ordering::Release);
        }

        /// Takes `count` entries without looking at them.
        pub(crate) fn advance_consumer(&self, count: u32) {
            let at = self.index(self.consumer).load(Ordering::Relaxed);
            self.index(self.consumer).store(at.wrapping_add(count), Ordering::Release);
        }

        /// Puts `count` entries in as they lie there.
        pub(crate) fn advance_producer(&self, count: u32) {
            let at = self.index(self.producer).load(Ordering::Relaxed);
            self.index(self.producer).store(at.wrapping_add(count), Ordering::Release);
        }

        /// Sets or clears the wish to be woken.
        pub(crate) fn set_needs_wakeup(&self, on: bool) {
            let flags = if on { xdp::XDP_RING_NEED_WAKEUP } else { 0 };
            self.index(self.flags).store(flags, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
