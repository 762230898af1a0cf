//! The heap, counted: calls of the global allocator per side, and bytes in use.
//!
//! Two meters, because each sees what the other cannot. [`Counting`] wraps the system allocator and
//! counts the calls of Rust code, by the side that is running: "allocations per packet".
//! [`in_use_bytes`] asks malloc for the bytes in use, which includes what BoringSSL and AWS-LC took in
//! C: "bytes per idle connection".
//!
//! This is the one module of the suite with `unsafe`: a global allocator cannot be written
//! without it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::process::{Command, Stdio};

use crate::Failure;

thread_local! {
    // `const` and without a destructor: no lazy initialisation, so no allocation in here.
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// The system allocator, counting calls that hand out memory, per thread.
pub(crate) struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count() {
    CALLS.with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: every method passes its arguments unchanged to `System`, which meets the contract
// of `GlobalAlloc`, and returns what `System` returned; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller meets the contract of `alloc`, which is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller meets the contract of `alloc_zeroed`, which is that of `System`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: `block` came from `System` with `layout`, since all of ours do.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from `System` with `layout`, since all of ours do.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Allocations and reallocations of this thread so far.
pub(crate) fn calls() -> u64 {
    CALLS.with(Cell::get)
}

/// Bytes that malloc has handed out, to C code too, with its own bookkeeping.
pub(crate) fn in_use_bytes() -> i64 {
    // SAFETY: mallinfo2 takes no argument and returns its result by value.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as i64
}

/// Runs this program on these arguments, and returns its output. malloc runs without caches of threads:
/// it counts what is in them as handed out, so that memory that one side gives back and the other
/// takes would count for the first.
pub(crate) fn counted_exactly(line: &[&str]) -> Result<String, Failure> {
    let output = Command::new(std::env::current_exe()?)
        .args(line)
        .env("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")
        .stderr(Stdio::inherit())
        .output()?;
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_is_one_call_and_its_bytes_are_in_use() {
        let (calls_before, bytes_before) = (calls(), in_use_bytes());
        let block = std::hint::black_box(vec![0u8; 100_000]);
        assert_eq!(calls() - calls_before, 1);
        assert!(in_use_bytes() - bytes_before >= 100_000);
        drop(block);
        assert!(in_use_bytes() - bytes_before < 100_000);
    }
}
