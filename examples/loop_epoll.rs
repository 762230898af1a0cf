//! A loop of the application's own, with epoll: the worker's descriptor is one among others.
//!
//! ```text
//! cargo run --example loop_epoll -- cert.pem key.pem
//! ```
//!
//! The worker serves and connects to itself, on one thread. The program ends when the client has its
//! answers.

mod shared;

use quiclane::exec::Next;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use shared::Application;
use std::error::Error;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The token of the worker. It needs no work of its own: the loop turns it after each wait.
const WORKER: u64 = 0;
/// The token of what else the application waits for.
const OTHER: u64 = 1;

/// Waits for all that the application waits for. Returns the tokens of what is ready.
fn wait(epoll: &OwnedFd, timeout: Option<Duration>) -> Result<Vec<u64>, Box<dyn Error>> {
    let timeout = timeout.map(Timespec::try_from).transpose()?;
    let mut ready = Vec::with_capacity(8);
    match epoll::wait(epoll, rustix::buffer::spare_capacity(&mut ready), timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(ready.iter().map(|event| event.data.u64()).collect()),
        Err(error) => Err(error.into()),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut application, mut worker) = Application::start()?;
    let (mut other, mut far_end) = UnixStream::pair()?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (token, added) in [
        (WORKER, epoll::add(&epoll, &worker, data(WORKER), epoll::EventFlags::IN)),
        (OTHER, epoll::add(&epoll, &other, data(OTHER), epoll::EventFlags::IN)),
    ] {
        added.map_err(|error| format!("token {token}: {error}"))?;
    }
    far_end.write_all(b"hello")?;
    let mut heard = [0; 5];
    loop {
        let next = worker.turn();
        application.turned();
        let timeout = match next {
            // The worker has more to do. What else there is may be ready all the same.
            Next::Turn => Some(Duration::ZERO),
            Next::Wait(wait) => wait.timeout(),
            Next::Ended => break,
        };
        if wait(&epoll, timeout)?.contains(&OTHER) {
            other.read_exact(&mut heard)?;
        }
    }
    assert_eq!(&heard, b"hello", "the other descriptor was served too");
    application.finish()
}

fn data(token: u64) -> epoll::EventData {
    epoll::EventData::new_u64(token)
}
