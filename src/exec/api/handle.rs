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
use super::super::clock::Clock;
use super::super::handoff::PostError;
use super::super::message::{Command, Op, WorkerFleet, WorkerInbox};
use super::acceptor::Answer;
use super::blocking::{WaitError, on_worker_thread, wait_for};
use super::references::ConnectionRef;
use crate::proto::connection::Drained;
use crate::proto::streams::OpenError;
use crate::wire::{Dir, StreamId};
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How often a call that waits looks whether a full inbox has room.
const RETRY: Duration = Duration::from_micros(200);

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

    /// Copies `data`, and posts it as [`StreamsRef::send_copy`](crate::exec::StreamsRef::send_copy), all or
    /// nothing: if there is no room for all of it,
    /// [`Handler::refused`](crate::exec::Handler::refused) is called with
    /// [`SendError::Full`](crate::proto::streams::SendError) or `ConnectionFull`, and later
    /// [`Handler::send_ready`](crate::exec::Handler::send_ready). If there never is room for so much, the
    /// error is `TooLarge`, and nothing follows.
    ///
    /// # Errors
    /// [`HandleError`].
    pub fn send_copy(&self, stream: StreamId, data: &[u8], fin: bool) -> Result<(), HandleError> {
        self.post(Op::SendCopied { stream, data: Bytes::copy_from_slice(data), fin })
    }

    /// Posts [`StreamsRef::send_tracked`](crate::exec::StreamsRef::send_tracked).
    ///
    /// # Errors
    /// [`HandleError`].
    pub fn send_tracked(
        &self,
        stream: StreamId,
        data: Bytes,
        fin: bool,
        context: u64,
    ) -> Result<(), HandleError> {
        self.post(Op::SendTracked { stream, data, fin, context })
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

    /// Posts the answer to a client. The `last` word of one who will not ask again finds room where
    /// calls do not.
    pub(super) fn decide(&self, answer: Answer, last: bool) -> Result<(), HandleError> {
        self.post_with(
            Op::Decide(answer),
            if last { WorkerInbox::post_last } else { WorkerInbox::post },
        )
    }

    /// Closes the connection, and waits until it is drained, but no longer than `patience`: until its
    /// worker has forgotten it, and its handler has had its last callback. For threads that turn no
    /// worker. One that is closing already, or over, is waited for as well.
    ///
    /// A close takes three probe timeouts (RFC 9000 §10.2): a few round trips, and 10 s at most. A full
    /// inbox is tried again within `patience`.
    ///
    /// # Errors
    /// [`WaitError::OnWorkerThread`] at once, and before anything is posted, on a worker's thread.
    /// [`WaitError::NotPosted`] if the inbox was full all the time. [`WaitError::TimedOut`] if the
    /// connection was not drained in time: it is closing all the same. [`WaitError::Dropped`] if nobody
    /// can tell how it ended: it never began, or its worker ended first.
    pub fn close_and_wait(
        &self,
        code: u64,
        reason: Bytes,
        patience: Duration,
    ) -> Result<Drained, WaitError> {
        if on_worker_thread() {
            return Err(WaitError::OnWorkerThread);
        }
        let clock = Clock::monotonic();
        let until = clock.now() + patience;
        while let Err(error @ HandleError::Full) = self.close(code, reason.clone()) {
            if clock.now() >= until {
                return Err(WaitError::NotPosted(error));
            }
            std::thread::sleep(RETRY);
        }
        match self.address.fate.wait(until - clock.now()) {
            Some(ending) => ending.ok_or(WaitError::Dropped),
            None => Err(WaitError::TimedOut),
        }
    }

    fn post(&self, op: Op) -> Result<(), HandleError> {
        self.post_with(op, WorkerInbox::post)
    }

    fn post_with(
        &self,
        op: Op,
        put: impl FnOnce(&WorkerInbox, Command) -> Result<(), PostError>,
    ) -> Result<(), HandleError> {
        if self.is_closed() {
            return Err(HandleError::Closed);
        }
        let target = self.address.clone();
        let post = self.address.begin_post();
        let posted = match self.fleet.inbox(self.worker()) {
            Some(inbox) => put(inbox, Command::Connection { target, op }),
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
