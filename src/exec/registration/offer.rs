//! A process that offers itself to a successor: the predecessor's side of `exec/takeover`.

use super::{Registration, Shared};
use crate::datapath::fed;
use crate::exec::config::Profile;
use crate::exec::message::{Command, Control};
use crate::exec::source::{OpenDatapathError, Source};
use crate::exec::takeover::{Channel, Device, Message, Order, PROTOCOL, listen_at};
use crate::lb::MAX_PROCESSES;
use crossbeam::channel::{self, Sender};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the thread looks whether the offer is over, while it waits for a successor.
const LOOK: Duration = Duration::from_millis(100);
/// How long a worker has to carry out an order: one whose turns are an application's may be slow.
const WORKER_PATIENCE: Duration = Duration::from_secs(5);

/// Why a process cannot offer itself.
#[derive(Debug)]
pub struct OfferError {
    path: PathBuf,
    error: io::Error,
}

impl fmt::Display for OfferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot be taken over at {}: {}; the path has to be at most 100 bytes long, in a directory that \
             this process may write to",
            self.path.display(),
            self.error
        )
    }
}

impl std::error::Error for OfferError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// The process that has taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenOver {
    /// Its process id.
    pub pid: u32,
    /// Its version of Quiclane.
    pub version: String,
}

/// A socket in the file system at which another process may take over, until this is dropped.
#[derive(Debug)]
#[must_use = "the offer ends when it is dropped"]
pub struct Offer {
    path: PathBuf,
    inode: u64,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    over: AtomicBool,
    taken: Mutex<Option<TakenOver>>,
    changed: Condvar,
}

impl Offer {
    /// The process that has taken over, if one has within `patience`. From then on this one accepts no
    /// connection, and serves those that it has: [`Registration::status`] tells how many there are. Shut it down
    /// when there are none, or when they have had their time.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> Option<TakenOver> {
        let taken = self.state.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let waited =
            self.state.changed.wait_timeout_while(taken, patience, |taken| taken.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
        // A successor puts its own in this place, as whoever comes after it.
        let taken = self.state.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.is_some() {
            return;
        }
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Registration {
    /// Lets another process take over, at a socket in the file system: see `RegistrationConfig::takeover`.
    /// A process of the same user may, and one of root. What is at `path` is replaced, as the offer of the
    /// process that this one took over from.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn offer_takeover(&self, path: impl AsRef<Path>) -> Result<Offer, OfferError> {
        let path = path.as_ref().to_owned();
        let fail = |error| OfferError { path: path.clone(), error };
        let socket = listen_at(&path).map_err(fail)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(LOOK)).map_err(|e| fail(e.into()))?;
        let inode = fs::symlink_metadata(&path).map_err(fail)?.ino();
        let state = Arc::new(State::default());
        let desk = Desk { shared: self.shared.clone(), state: state.clone() };
        let thread = std::thread::Builder::new().name("quiclane-offer".to_owned());
        let thread = thread.spawn(move || desk.serve(&socket)).map_err(fail)?;
        Ok(Offer { path, inode, state, thread: Some(thread) })
    }
}

/// What the thread of an offer works with.
struct Desk {
    shared: Arc<Shared>,
    state: Arc<State>,
}

impl Desk {
    fn is_over(&self) -> bool {
        self.state.over.load(Ordering::Relaxed)
    }

    fn serve(&self, socket: &OwnedFd) {
        let mut has_failed = false;
        while !self.is_over() {
            // It gives up after `LOOK`.
            let fd = match rustix::net::accept_with(socket, SocketFlags::CLOEXEC) {
                Ok(fd) => fd,
                Err(Errno::AGAIN | Errno::INTR) => continue,
                // Without a descriptor to give it does not wait.
                Err(error) => {
                    if !std::mem::replace(&mut has_failed, true) {
                        tracing::warn!(%error, "who wants to take over is not let in: see ulimit -n");
                    }
                    std::thread::sleep(LOOK);
                    continue;
                }
            };
            let channel = Channel::over(fd);
            if !channel.is_trusted() {
                tracing::warn!("a process of another user wants to take over");
                continue;
            }
            let mut began = false;
            match self.hand_over(&channel, &mut began) {
                Ok(taken) => {
                    tracing::info!(pid = taken.pid, version = taken.version, "taken over");
                    *self.state.taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(taken);
                    self.state.changed.notify_all();
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "a takeover broke off");
                    let reason = error.to_string();
                    let _ = channel.send(&Message::Refused { reason }, None);
                    drop(channel);
                    if began {
                        self.resume();
                    }
                }
            }
        }
    }

    /// All that a successor asks for, until it serves.
    fn hand_over(&self, channel: &Channel, began: &mut bool) -> io::Result<TakenOver> {
        channel.set_patience(Some(WORKER_PATIENCE))?;
        let (Message::Hello { protocol, version, pid }, _) = channel.receive()? else {
            return Err(io::Error::other("it did not say hello"));
        };
        if protocol != PROTOCOL {
            let what = format!(
                "this process speaks version {PROTOCOL} of the takeover, and {version} speaks {protocol}"
            );
            return Err(io::Error::other(what));
        }
        if self.shared.succession.taken_over.load(Ordering::Relaxed) {
            let what =
                "another process has taken over already: stop this one, or take over from that";
            return Err(io::Error::other(what));
        }
        let Ok(_one) = self.shared.succession.under_way.try_lock() else {
            return Err(io::Error::other("another process is taking over: wait for it"));
        };
        self.offer(channel, began)?;
        tracing::info!(pid, version, "a process takes over");
        channel.set_patience(Some(LOOK))?;
        loop {
            let message = match channel.receive() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.is_over() => {
                    continue;
                }
                other => other?.0,
            };
            match message {
                Message::Leave { worker } => {
                    self.ask(worker.into(), |reply| Order::Leave { reply })?;
                    channel.send(&Message::Left, None)?;
                }
                Message::Yield { worker } => {
                    self.ask(worker.into(), |reply| Order::Yield { reply })?;
                    channel.send(&Message::Yielded, None)?;
                }
                Message::Complete => {
                    channel.send(&Message::Completed, None)?;
                    self.complete();
                    return Ok(TakenOver { pid, version });
                }
                other => return Err(io::Error::other(format!("{other:?} out of turn"))),
            }
        }
    }

    /// Says what this process is, and gives what it has.
    fn offer(&self, channel: &Channel, began: &mut bool) -> io::Result<()> {
        let Shared { fleet, source, identity, profile, .. } = &*self.shared;
        if *profile == Profile::MaxThroughput {
            let what = "the running process has the profile MaxThroughput, which cannot be taken over from: \
                        stop it first";
            return Err(io::Error::other(what));
        }
        let older = fleet.predecessors().map_or(Ok(Vec::new()), |older| older.share())?;
        let next = (identity.process + 1) % MAX_PROCESSES as u8;
        if older.iter().any(|(process, _)| *process == next) {
            let what = format!(
                "connection ids tell {MAX_PROCESSES} processes apart, and the first of them still has \
                 connections: wait for its end, or shorten the time that it has"
            );
            return Err(io::Error::other(what));
        }
        let handed = match source {
            Source::Xdp { device, .. } => {
                let handed = device.hand_over().map_err(|e| io::Error::other(e.to_string()))?;
                Some((device.name().to_owned(), handed))
            }
            Source::Udp { .. } => None,
        };
        let device = handed.as_ref().map(|(name, handed)| Device {
            name: name.clone(),
            generic: handed.generic,
            zerocopy_refused: handed.zerocopy_refused,
        });
        let (version, pid) = (env!("CARGO_PKG_VERSION").to_owned(), std::process::id());
        let identity = identity.clone();
        let process = identity.process;
        channel.send(&Message::Offer { version, pid, identity, device }, None)?;
        for (process, feed) in &older {
            channel.send(&Message::Feed { process: *process }, Some(feed.as_fd()))?;
        }
        *began = true;
        for worker in 0..fleet.len() {
            self.offer_worker(channel, process, worker)?;
        }
        if let Some((_, handed)) = &handed {
            for (address, usage) in &handed.ports {
                let server = *usage == crate::datapath::xdp::PortUse::Server;
                channel.send(&Message::Port { address: *address, server }, None)?;
            }
            channel.send(&Message::Link, Some(handed.link.as_fd()))?;
        }
        channel.send(&Message::End, None)
    }

    /// Gives what a worker has.
    fn offer_worker(&self, channel: &Channel, process: u8, worker: usize) -> io::Result<()> {
        let (far, near) = fed::feed()?;
        let shown = self.ask(worker, |reply| Order::Show { feed: near, reply })?;
        let number = worker as u16;
        channel.send(&Message::Worker { number, queue: shown.queue }, None)?;
        for (address, listens, fd) in &shown.sockets {
            let (address, listens) = (*address, *listens);
            channel.send(&Message::Socket { address, listens }, Some(fd.as_fd()))?;
        }
        if let Some(xdp) = &shown.xdp {
            channel.send(&Message::Queue, Some(xdp.as_fd()))?;
        }
        channel.send(&Message::Feed { process }, Some(far.as_fd()))
    }

    /// Has a worker carry out an order, and waits for its answer.
    fn ask<T>(
        &self,
        worker: usize,
        order: impl FnOnce(Sender<Result<T, OpenDatapathError>>) -> Order,
    ) -> io::Result<T> {
        let (reply, answer) = channel::bounded(1);
        let refused = || io::Error::other(format!("worker {worker} does not answer"));
        let inbox = self.shared.fleet.inbox(worker).ok_or_else(refused)?;
        let command = Command::Control(Control::Takeover(order(reply)));
        inbox.post_last(command).map_err(|_| refused())?;
        let answered = answer.recv_timeout(WORKER_PATIENCE).map_err(|_| refused())?;
        answered.map_err(|error| io::Error::other(format!("worker {worker}: {error}")))
    }

    /// The successor serves. Only now: one that dies before has everything put back, queues too.
    fn complete(&self) {
        self.shared.succession.taken_over.store(true, Ordering::Relaxed);
        for worker in 0..self.shared.fleet.len() {
            if let Err(error) = self.ask(worker, |reply| Order::Done { reply }) {
                tracing::warn!(%error, "a worker would not go on without its successor");
            }
        }
    }

    /// The successor has died, or given up: everything is as it was before.
    fn resume(&self) {
        if let Source::Xdp { device, .. } = &self.shared.source
            && let Err(error) = device.reclaim()
        {
            tracing::error!(%error, "the XDP program cannot be put back");
        }
        for worker in 0..self.shared.fleet.len() {
            if let Err(error) = self.ask(worker, |reply| Order::Resume { reply }) {
                tracing::error!(%error, "a worker does not serve its queue again");
            }
        }
        tracing::info!("this process goes on");
    }
}
