//! The atomics that a move of a connection is made of, in one place: `tools/models` puts those of a
//! model checker in their stead, and checks the same source.

pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
