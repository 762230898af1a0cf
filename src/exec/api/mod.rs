//! What an application touches: it implements [`Handler`], its callbacks are given a
//! [`ConnectionRef`] or a [`WorkerRef`], and other threads hold a [`Handle`].
//!
//! These name each other: a handler is given references, a reference gives out handles, a handle
//! carries closures over references, and behind both stand the services of the worker.

mod handle;
mod handler;
mod references;
mod seat;
mod services;

pub use handle::{Handle, HandleError};
pub use handler::Handler;
pub use references::{ConnectionRef, WorkerRef};
pub(super) use seat::{Handshake, Seat, Way};
pub(super) use services::{Job, Services, Setting, TimerTarget, WatchTarget, watch_of};
pub use services::{TimerId, WatchId};
