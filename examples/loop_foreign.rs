//! A worker inside a loop of another maker, which calls back for a descriptor and for a timer and has
//! nothing else to offer, as GLib's main loop.
//!
//! ```text
//! cargo run --example loop_foreign -- cert.pem key.pem
//! ```
//!
//! The worker serves and connects to itself. The program ends when the client has its answers.

mod shared;

use quiclane::exec::{Next, WorkerLoop};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use shared::Application;
use std::cell::RefCell;
use std::error::Error;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

/// Turns in one callback. A loop has other sources too, which wait meanwhile.
const TURNS_AT_ONCE: usize = 8;

/// What a callback gets, to add and remove sources.
type Callback = Box<dyn FnMut(&mut dyn ForeignLoop)>;
/// Names a timer.
type TimerId = u64;

/// The loop, as its maker describes it.
trait ForeignLoop {
    /// Calls `callback` whenever the descriptor is readable.
    fn add_fd(&mut self, fd: OwnedFd, callback: Callback);
    /// Calls `callback` once, after that time.
    fn add_timer(&mut self, after: Duration, callback: Callback) -> TimerId;
    fn remove_timer(&mut self, timer: TimerId);
    /// Returns after `quit`.
    fn run(&mut self) -> Result<(), Box<dyn Error>>;
    fn quit(&mut self);
}

/// The worker, and what the application does beside it.
struct Driver {
    worker: WorkerLoop,
    application: Application,
    /// For the time that the worker waits, or for the next turns.
    timer: Option<TimerId>,
}

/// Turns the worker: called for its descriptor and for its timer.
fn drive(driver: &Rc<RefCell<Driver>>, foreign: &mut dyn ForeignLoop) {
    let mut this = driver.borrow_mut();
    // A timer that stayed would come due for nothing, and set the next.
    if let Some(timer) = this.timer.take() {
        foreign.remove_timer(timer);
    }
    let mut after = Some(Duration::ZERO);
    for _ in 0..TURNS_AT_ONCE {
        let next = this.worker.turn();
        this.application.turned();
        match next {
            Next::Turn => {}
            Next::Wait(wait) => {
                after = wait.timeout();
                break;
            }
            Next::Ended => return foreign.quit(),
        }
    }
    this.timer = after.map(|after| {
        let driver = driver.clone();
        foreign.add_timer(after, Box::new(move |foreign| drive(&driver, foreign)))
    });
}

fn main() -> Result<(), Box<dyn Error>> {
    let (application, worker) = Application::start()?;
    // A duplicate names the same descriptor of the kernel: the loop may own it.
    let fd = worker.as_fd().try_clone_to_owned()?;
    let driver = Rc::new(RefCell::new(Driver { worker, application, timer: None }));
    let mut foreign: Box<dyn ForeignLoop> = Box::new(PollLoop::default());
    let for_fd = driver.clone();
    foreign.add_fd(fd, Box::new(move |foreign| drive(&for_fd, foreign)));
    drive(&driver, &mut *foreign);
    foreign.run()?;
    drop(foreign);
    let driver = Rc::into_inner(driver).ok_or("the loop has kept a callback")?.into_inner();
    driver.application.finish()
}

/// The loop as its maker made it, with poll. It counts in milliseconds, as GLib does.
#[derive(Default)]
struct PollLoop {
    fds: Vec<(OwnedFd, Callback)>,
    timers: Vec<(TimerId, Duration, Callback)>,
    next_timer: TimerId,
    /// Since the loop was made.
    now: Duration,
    is_over: bool,
}

impl ForeignLoop for PollLoop {
    fn add_fd(&mut self, fd: OwnedFd, callback: Callback) {
        self.fds.push((fd, callback));
    }

    fn add_timer(&mut self, after: Duration, callback: Callback) -> TimerId {
        self.next_timer += 1;
        let after = Duration::from_millis(after.as_micros().div_ceil(1000) as u64);
        self.timers.push((self.next_timer, self.now + after, callback));
        self.next_timer
    }

    fn remove_timer(&mut self, timer: TimerId) {
        self.timers.retain(|(id, ..)| *id != timer);
    }

    fn quit(&mut self) {
        self.is_over = true;
    }

    fn run(&mut self) -> Result<(), Box<dyn Error>> {
        let clock = quiclane::exec::clock::Clock::monotonic();
        let began = clock.now();
        while !self.is_over {
            self.now = clock.now() - began;
            let first = self.timers.iter().map(|(_, at, _)| at.saturating_sub(self.now)).min();
            let timeout = first.map(Timespec::try_from).transpose()?;
            let mut polled: Vec<_> =
                self.fds.iter().map(|(fd, _)| PollFd::new(fd, PollFlags::IN)).collect();
            match poll(&mut polled, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let ready: Vec<_> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
            self.now = clock.now() - began;
            self.call_timers();
            self.call_fds(&ready);
        }
        // Callbacks hold what they call: they go with the loop.
        self.fds.clear();
        self.timers.clear();
        Ok(())
    }
}

impl PollLoop {
    fn call_timers(&mut self) {
        let due = self.timers.iter().filter(|(_, at, _)| *at <= self.now);
        let due: Vec<_> = due.map(|(timer, ..)| *timer).collect();
        for timer in due {
            // A callback may remove others, and add some that are due at once: those wait.
            let Some(at) = self.timers.iter().position(|(id, ..)| *id == timer) else { continue };
            let (_, _, mut callback) = self.timers.swap_remove(at);
            callback(self);
        }
    }

    fn call_fds(&mut self, ready: &[bool]) {
        // A callback may add sources, which come after those that were polled.
        let mut called = std::mem::take(&mut self.fds);
        for ((_, callback), _) in called.iter_mut().zip(ready).filter(|(_, ready)| **ready) {
            callback(self);
        }
        called.append(&mut self.fds);
        self.fds = called;
    }
}
