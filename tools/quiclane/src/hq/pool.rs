//! Threads that wait for disks, so that workers do not.
//!
//! A worker posts a [`Job`] and goes on; the answer lies in the connection's [`Answers`] when
//! its handler is woken. A connection has at most one job for each of its open files, so that
//! the queue is as short as the limit of open files says.

use super::budget::Refusal;
use super::store::{Opened, Store, Trouble, read};
use crate::sys::Wait;
use quiclane::StreamId;
use quiclane::exec::{Handle, HandleError};
use std::fs::File;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// This many disks or file servers may be slow at one time without holding up others.
const THREADS: usize = 4;
/// How often a worker whose inbox is full is tried again, and after which pause: 5 s in all. After
/// that the answer waits until the connection is woken by something else.
const WAKE_ATTEMPTS: u32 = 500;
const WAKE_PAUSE: Duration = Duration::from_millis(10);

/// The work of a thread.
#[derive(Debug)]
pub(super) enum Work {
    Open(String),
    Read { file: Arc<File>, at: u64, len: usize },
}

/// The result of a job.
#[derive(Debug)]
pub(super) enum Outcome {
    Opened(Result<Opened, Refusal>),
    Read(Result<Vec<u8>, Refusal>),
}

/// The results for one connection.
pub(super) type Answers = Arc<Mutex<Vec<(StreamId, Outcome)>>>;

/// Takes the results.
pub(super) fn take(answers: &Answers) -> Vec<(StreamId, Outcome)> {
    std::mem::take(&mut *answers.lock().unwrap_or_else(PoisonError::into_inner))
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) stream: StreamId,
    pub(super) answers: Answers,
    pub(super) handle: Handle,
}

/// The threads; they end with the last sender.
#[derive(Debug)]
pub(super) struct Pool(Sender<Job>);

impl Pool {
    pub(super) fn start(store: &Arc<Store>) -> io::Result<Self> {
        let (sender, jobs) = channel();
        let jobs = Arc::new(Mutex::new(jobs));
        for number in 0..THREADS {
            let (store, jobs) = (store.clone(), jobs.clone());
            let thread = std::thread::Builder::new().name(format!("files-{number}"));
            thread.spawn(move || work_off(&store, &jobs))?;
        }
        Ok(Self(sender))
    }

    pub(super) fn post(&self, job: Job) {
        // The threads end after the last sender, which this is.
        let _always_heard = self.0.send(job);
    }
}

fn work_off(store: &Store, jobs: &Mutex<Receiver<Job>>) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        // A connection that is gone waits for no answer.
        if !job.handle.is_closed() {
            let outcome = perform(store, &job.work);
            let mut answers = job.answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.push((job.stream, outcome));
            drop(answers);
            wake(&job.handle);
        }
    }
}

fn perform(store: &Store, work: &Work) -> Outcome {
    let refusal = |trouble| match trouble {
        // This call may wait; EAGAIN here means that a directory was moved during the lookup.
        Trouble::WouldWait => Refusal::Busy,
        Trouble::Refused(refusal) => refusal,
    };
    match work {
        Work::Open(path) => Outcome::Opened(store.file(path, Wait::Yes).map_err(refusal)),
        Work::Read { file, at, len } => {
            Outcome::Read(read(file, *at, *len, Wait::Yes).map_err(refusal))
        }
    }
}

fn wake(handle: &Handle) {
    for _ in 0..WAKE_ATTEMPTS {
        if handle.wake(0) != Err(HandleError::Full) {
            return;
        }
        std::thread::sleep(WAKE_PAUSE);
    }
}
