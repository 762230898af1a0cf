//! What an application touches: it implements [`Handler`], its callbacks are given a
//! [`ConnectionRef`] or a [`WorkerRef`], and other threads hold a [`Handle`].
//!
//! These name each other: a handler is given references, a reference gives out handles, a handle
//! carries closures over references, and behind both stand the services of the worker.

mod acceptor;
mod belongings;
mod blocking;
mod entry;
mod handle;
mod handler;
mod references;
mod seat;
mod services;
mod stream_handler;

pub use acceptor::{Acceptor, Decision, Deferred, NewConnection, Unanswered};
pub(super) use acceptor::{Answer, take};
pub(super) use belongings::Belongings;
pub use belongings::{TimerId, WatchId};
pub use blocking::WaitError;
pub(super) use blocking::{on_worker_thread, wait_for, worker_begins, worker_ends};
pub(super) use entry::Entry;
pub use handle::{Handle, HandleError};
pub use handler::{Handler, Processor};
pub use references::{ConnectionRef, WorkerRef};
pub(super) use seat::{Handshake, MoveState, Seat, Way};
pub(super) use services::{Edge, Job, Services, Setting, TimerTarget, WatchTarget, watch_of};
pub use stream_handler::StreamHandler;
pub(super) use stream_handler::{StreamHandlers, tell_own};
