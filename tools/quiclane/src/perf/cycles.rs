//! CPU cycles of this process, where the machine counts them.

use std::fs::File;
use std::io::Read;

/// Counts cycles of the calling thread and of the threads that it starts afterwards.
pub(crate) struct Cycles(File);

// `struct perf_event_attr` (linux/perf_event.h): the first 64 bytes, which every kernel takes.
const ATTR_BYTES: usize = 64;
const PERF_TYPE_HARDWARE: u32 = 0;
const PERF_COUNT_HW_CPU_CYCLES: u64 = 0;
const FLAG_INHERIT: u64 = 1 << 1;

impl Cycles {
    /// `None` where cycles are not counted, or this process may not count them.
    pub(crate) fn start() -> Option<Self> {
        let mut attr = [0u8; ATTR_BYTES];
        attr[0..4].copy_from_slice(&PERF_TYPE_HARDWARE.to_ne_bytes());
        attr[4..8].copy_from_slice(&(ATTR_BYTES as u32).to_ne_bytes());
        attr[8..16].copy_from_slice(&PERF_COUNT_HW_CPU_CYCLES.to_ne_bytes());
        attr[40..48].copy_from_slice(&FLAG_INHERIT.to_ne_bytes());
        crate::sys::perf_event_open(&attr).map(Self)
    }

    pub(crate) fn read(&mut self) -> Option<u64> {
        let mut count = [0; 8];
        self.0.read_exact(&mut count).ok()?;
        Some(u64::from_ne_bytes(count)).filter(|c| *c > 0)
    }
}
