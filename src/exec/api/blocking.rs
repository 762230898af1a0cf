//! Calls that wait for a worker, for threads that are none.
//!
//! A worker's thread that waited for a worker could wait for ever: for itself, or for one that waits
//! for it. So it may not wait at all. It posts, and has the answer posted back.

use super::handle::HandleError;
use crossbeam::channel::{self, Sender};
use std::cell::Cell;
use std::fmt;

thread_local! {
    /// The workers that this thread turns.
    static WORKERS: Cell<usize> = const { Cell::new(0) };
}

/// The calling thread turns one more worker.
pub(in crate::exec) fn worker_begins() {
    WORKERS.set(WORKERS.get() + 1);
}

/// The calling thread turns one worker fewer.
pub(in crate::exec) fn worker_ends() {
    WORKERS.set(WORKERS.get().saturating_sub(1));
}

/// True on a thread that turns a worker: it must not wait for one.
pub(in crate::exec) fn on_worker_thread() -> bool {
    WORKERS.get() > 0
}

/// Why a call that waits has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitError {
    /// It was made on a worker's thread, in a callback or between turns. Nothing was posted.
    OnWorkerThread,
    /// It could not be posted.
    NotPosted(HandleError),
    /// The closure was dropped: the worker or the connection ended first, or the closure panicked.
    Dropped,
    /// It was posted, and time was up before the end came. What was asked for goes on.
    TimedOut,
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnWorkerThread => f.write_str(
                "a worker's thread cannot wait for a worker: post the closure, with WorkerRef::post_to \
                 or Handle::run, and have it post the answer back",
            ),
            Self::NotPosted(error) => error.fmt(f),
            Self::Dropped => f.write_str(
                "the closure did not run to its end: the worker or the connection ended first, or it \
                 panicked",
            ),
            Self::TimedOut => f.write_str(
                "the connection was not drained in time: it takes three probe timeouts (RFC 9000 \
                 §10.2), and a worker that is not stuck; give more patience",
            ),
        }
    }
}

impl std::error::Error for WaitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotPosted(error) => Some(error),
            Self::OnWorkerThread | Self::Dropped | Self::TimedOut => None,
        }
    }
}

/// Has `post` post a closure that is given the way back, and waits for the value that it sends.
pub(in crate::exec) fn wait_for<T>(
    post: impl FnOnce(Sender<T>) -> Result<(), HandleError>,
) -> Result<T, WaitError> {
    if on_worker_thread() {
        return Err(WaitError::OnWorkerThread);
    }
    let (reply, answer) = channel::bounded(1);
    post(reply).map_err(WaitError::NotPosted)?;
    // It fails when the closure is dropped, and every inbox drops what it holds when its worker ends.
    answer.recv().map_err(|_| WaitError::Dropped)
}
