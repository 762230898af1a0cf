//! What other threads hold of a connection.
//!
//! A [`Handle`] names a connection and reaches its owner's inbox. The calling thread does none of
//! the work: every call is posted as a command, in order, and carried out in the owner's next
//! turn. The inbox is bounded. When it is full the caller gets an error, and decides.
//!
//! ```text
//!   any thread                                     the owner's thread
//!   handle.send(stream, data, fin)  --- ring --->  streams().send(..)  -> packets
//!   handle.wake(token)              --- ring --->  handler.woken(..)
//!   handle.run(closure)             --- ring --->  closure(&mut ConnectionRef)
//! ```
//!
//! The handle holds an [`Address`] that is shared with the owner: it says which worker and
//! which slot. When a connection moves to another worker, the owner writes the new place into
//! it; calls that went to the old place are forwarded by it, and carried out before those that went
//! to the new one. An address is made only for connections that the application asked a handle of.

use super::super::address::{Address, Place};
use super::super::handoff::PostError;
use super::super::message::{Command, Op, WorkerFleet};
use super::blocking::{WaitError, wait_for};
use super::references::ConnectionRef;
use crate::proto::streams::OpenError;
use crate::wire::{Dir, StreamId};
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// A connection, from any thread. Cheap to clone.
///
/// ```
/// fn assert_send_and_sync<T: Send + Sync + Clone>() {}
/// assert_send_and_sync::<quiclane::exec::Handle>();
/// ```
#[derive(Clone)]
pub struct Handle {
    address: Arc<Address>,
    fleet: Arc<WorkerFleet>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("place", &self.address.place()).finish_non_exhaustive()
    }
}

/// Why a call was not posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandleError {
    /// The owner's inbox is full: it is behind, or stuck in a callback. Try again later.
    Full,
    /// The connection, or its worker, is gone.
    Closed,
}

impl fmt::Display for HandleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => {
                "the worker's inbox is full: try again later, or raise \
                 RegistrationConfig::inbox_commands"
            }
            Self::Closed => "the connection, or its worker, is gone: a client may connect again",
        })
    }
}

impl std::error::Error for HandleError {}

impl From<PostError> for HandleError {
    fn from(error: PostError) -> Self {
        match error {
            PostError::Full => Self::Full,
            PostError::Closed => Self::Closed,
        }
    }
}

impl Handle {
    pub(in crate::exec) fn new(address: Arc<Address>, fleet: Arc<WorkerFleet>) -> Self {
        Self { address, fleet }
    }

    /// The number of the worker that owns the connection now.
    #[must_use]
    pub fn worker(&self) -> usize {
        usize::from(self.address.worker())
    }

    /// True once the connection is gone: nothing can be posted any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.address.place() == Place::Gone
    }

    /// Posts [`StreamsRef::send`](crate::exec::StreamsRef::send). If the stream refuses,
    /// [`Handler::refused`](crate::exec::Handler::refused) is called.
    ///
    /// # Errors
    /// [`HandleError`].
    pub fn send(&self, stream: StreamId, data: Bytes, fin: bool) -> Result<(), HandleError> {
        self.post(Op::Send { stream, data, fin })
    }

    /// Opens a stream, and has `then` called with it on the owner's thread.
    ///
    /// # Errors
    /// [`HandleError`].
    pub fn open(
        &self,
        dir: Dir,
        then: impl FnOnce(&mut ConnectionRef<'_>, Result<StreamId, OpenError>) + Send + 'static,
    ) -> Result<(), HandleError> {
        self.run(move |connection| {
            let stream = connection.streams().open(dir);
            then(connection, stream);
        })
    }

    /// Posts [`StreamsRef::reset`](crate::exec::StreamsRef::reset).
    ///
    /// # Errors
    /// [`HandleError`].
    pub fn reset(&self, stream: StreamId, code: u64) -> Result<(), HandleError> {
        self.post(Op::Reset { stream, code })
    }

    /// Posts [`StreamsRef::stop_sending`](crate::exec::StreamsRef::stop_sending).
    ///
    /// # Errors
    /// [`HandleError`].
    pub fn stop_sending(&self, stream: StreamId, code: u64) -> Result<(), HandleError> {
        self.post(Op::StopSending { stream, code })
    }

    /// Posts [`StreamsRef::resume_receive`](crate::exec::StreamsRef::resume_receive).
    ///
    /// # Errors
    /// [`HandleError`].
    pub fn resume_receive(&self, stream: StreamId) -> Result<(), HandleError> {
        self.post(Op::ResumeReceive { stream })
    }

    /// Posts [`ConnectionRef::close`].
    ///
    /// # Errors
    /// [`HandleError`].
    pub fn close(&self, code: u64, reason: Bytes) -> Result<(), HandleError> {
        self.post(Op::Close { code, reason })
    }

    /// Has [`Handler::woken`](crate::exec::Handler::woken) called with `token`: how another thread
    /// says "there is something for you" without a closure.
    ///
    /// # Errors
    /// [`HandleError`].
    pub fn wake(&self, token: u64) -> Result<(), HandleError> {
        self.post(Op::Wake { token })
    }

    /// Has `task` run on the owner's thread, with the connection.
    ///
    /// # Errors
    /// [`HandleError`]; `task` is dropped then, and also if the connection ends first.
    pub fn run(
        &self,
        task: impl FnOnce(&mut ConnectionRef<'_>) + Send + 'static,
    ) -> Result<(), HandleError> {
        self.post(Op::Run(Box::new(task)))
    }

    /// As [`run`](Self::run), and waits for what `task` returns. For threads that turn no worker.
    ///
    /// # Errors
    /// [`WaitError`]; at once, and before anything is posted, on a worker's thread.
    pub fn run_and_wait<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut ConnectionRef<'_>) -> T + Send + 'static,
    ) -> Result<T, WaitError> {
        wait_for(|reply| self.run(move |connection| drop(reply.send(task(connection)))))
    }

    fn post(&self, op: Op) -> Result<(), HandleError> {
        if self.is_closed() {
            return Err(HandleError::Closed);
        }
        let target = self.address.clone();
        let post = self.address.begin_post();
        let posted = match self.fleet.inbox(self.worker()) {
            Some(inbox) => inbox.post(Command::Connection { target, op }),
            None => Err(PostError::Closed),
        };
        self.address.end_post(post);
        Ok(posted?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::address::Key;
    use super::*;

    #[test]
    fn calls_are_posted_in_order_to_the_worker_that_owns_the_connection() {
        let fleet = WorkerFleet::new(2, 2).unwrap();
        let key = Key { slot: 4, generation: 2 };
        let handle = Handle::new(Address::at(1, key), fleet.clone());
        handle.wake(7).unwrap();
        handle.run(|_| ()).unwrap();
        assert_eq!(handle.wake(8), Err(HandleError::Full));
        assert!(fleet.inbox(0).unwrap().is_empty());
        let inbox = fleet.inbox(1).unwrap();
        let Some(Command::Connection { target, op: Op::Wake { token: 7 } }) = inbox.command()
        else {
            panic!("not what was posted first");
        };
        assert_eq!(target.place(), Place::At(1, key));
        target.end();
        assert_eq!(handle.wake(9), Err(HandleError::Closed));
        assert!(handle.is_closed());
    }
}
