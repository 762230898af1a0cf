//! Protocols between threads, checked in every interleaving that the memory model allows.
//!
//! The sources of the library are compiled a second time here, with the atomics of loom in place of
//! those of the standard library. The rings between workers are those of crossbeam in the library;
//! here a locked queue stands for each, since loom does not know crossbeam's.

mod sync {
    pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
}

/// What the sources need of the library's `lb` module.
mod lb {
    pub(crate) const MAX_SLOTS: usize = 1 << 24;
    pub(crate) const MAX_WORKERS: usize = 1 << 10;
    pub(crate) const MAX_GENERATIONS: u32 = 1 << 30;

    #[derive(Clone, Copy)]
    pub(crate) struct Route {
        #[expect(dead_code, reason = "ids carry it, addresses do not")]
        pub(crate) process: u8,
        pub(crate) worker: u16,
        pub(crate) slot: u32,
        pub(crate) generation: u32,
    }
}

/// How a connection ended, which no model asks.
mod fate {
    #[derive(Debug, Default)]
    pub(crate) struct Fate {}

    impl Fate {
        pub(crate) fn lose(&self) {}
    }
}

#[expect(dead_code, reason = "a model uses what it is about")]
#[path = "../../../src/exec/address.rs"]
mod address;
pub mod moving;
pub mod takeover;
