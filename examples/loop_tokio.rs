//! A worker inside a tokio runtime of one thread, as a future among others.
//!
//! ```text
//! cargo run --example loop_tokio -- cert.pem key.pem
//! ```
//!
//! The worker serves and connects to itself. The program ends when the client has its answers.
//!
//! tokio's timers count in milliseconds, so that what a connection sends in steps (pacing) comes in
//! larger bursts than on a worker that sleeps by itself.

mod shared;

use quiclane::exec::{Next, Wait, WorkerLoop};
use shared::Application;
use std::error::Error;
use std::io;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// Waits until the worker's descriptor is readable, or its next timer comes due.
async fn wait(worker: &AsyncFd<WorkerLoop>, wait: Wait) -> io::Result<()> {
    // tokio has a clock of its own: the wait is a duration there.
    let mut ready = match wait.timeout() {
        None => worker.readable().await?,
        Some(timeout) => match timeout_at(Instant::now() + timeout, worker.readable()).await {
            Ok(ready) => ready?,
            Err(_elapsed) => return Ok(()),
        },
    };
    // tokio is told of what comes, and not of what is there. The turn that follows takes all that is
    // there, and looks once more before it says that there is nothing.
    ready.clear_ready();
    Ok(())
}

/// Makes the worker's descriptor known to the runtime.
#[expect(
    deprecated,
    reason = "its successor is unsafe: a descriptor must stay open, as the worker's does until it is dropped"
)]
fn registered(worker: WorkerLoop) -> io::Result<AsyncFd<WorkerLoop>> {
    AsyncFd::with_interest(worker, Interest::READABLE)
}

/// Turns the worker until the registration has ended, and tells others how often.
async fn drive(
    worker: WorkerLoop,
    mut application: Application,
    turns: watch::Sender<u64>,
) -> Result<(), Box<dyn Error>> {
    let mut worker = registered(worker)?;
    loop {
        let next = worker.get_mut().turn();
        application.turned();
        turns.send_modify(|turns| *turns += 1);
        match next {
            // The other tasks of the runtime go on.
            Next::Turn => tokio::task::yield_now().await,
            Next::Wait(until) => wait(&worker, until).await?,
            Next::Ended => break,
        }
    }
    application.finish()
}

fn main() -> Result<(), Box<dyn Error>> {
    let (application, worker) = Application::start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (turns, mut changed) = watch::channel(0);
        // Another task of the same thread, which goes on while the worker does.
        let observer = tokio::spawn(async move {
            let mut seen = 0;
            while changed.changed().await.is_ok() {
                seen += 1;
            }
            seen
        });
        drive(worker, application, turns).await?;
        let seen: u64 = observer.await?;
        println!("another task ran {seen} times meanwhile");
        assert!(seen > 0, "the worker leaves time to others");
        Ok(())
    })
}
