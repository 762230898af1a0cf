//! The successor's side: what it gets, and which of its workers goes on with what.

use super::Identity;
use super::wire::{Channel, Device, Message, PROTOCOL};
use crate::datapath::udp::{SideSocket, UdpDatapath};
use crate::datapath::xdp::{HandedDevice, PortUse};
use crate::exec::predecessors::Predecessors;
use crate::exec::source::{AnyDatapath, OpenDatapathError, Source, TakeoverFailure};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long the predecessor has for an answer. It asks its workers, which answer between two turns, and one that
/// gives up its queue waits for what it has sent.
const PATIENCE: Duration = Duration::from_secs(10);
/// Descriptors that a predecessor may send: of 1,024 workers a feed, an AF_XDP socket and a few addresses.
const DESCRIPTORS_MAX: usize = 16_384;

/// Why a process did not take over from another one.
#[derive(Debug)]
#[non_exhaustive]
pub enum TakeoverError {
    /// The socket cannot be connected to.
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// The other process does not agree.
    Refused(String),
    /// The two do not fit together.
    Differs(String),
    /// The other process stopped to answer, or said something else than it should.
    Broken(String),
}

impl fmt::Display for TakeoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { path, error } => write!(
                f,
                "cannot take over at {}: {error}; it has to be a socket of a process of the same user",
                path.display()
            ),
            Self::Refused(reason) => write!(f, "the running process does not hand over: {reason}"),
            Self::Differs(what) => write!(f, "cannot take over: {what}"),
            Self::Broken(what) => {
                write!(f, "the takeover broke off: {what}; the running process goes on")
            }
        }
    }
}

impl std::error::Error for TakeoverError {}

impl From<io::Error> for TakeoverError {
    fn from(error: io::Error) -> Self {
        Self::Broken(match error.kind() {
            io::ErrorKind::UnexpectedEof => "the running process closed the socket".to_owned(),
            io::ErrorKind::WouldBlock => {
                format!("the running process said nothing for {} s", PATIENCE.as_secs())
            }
            _ => error.to_string(),
        })
    }
}

/// The process that was taken over from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TookOver {
    /// Its process id.
    pub pid: u32,
    /// Its version of Quiclane.
    pub version: String,
    /// The number that this process has in connection ids.
    pub process: u8,
}

/// All that a successor gets.
pub(in crate::exec) struct Received {
    /// The predecessor's.
    pub(in crate::exec) identity: Identity,
    pub(in crate::exec) device: Option<(String, HandedDevice)>,
    pub(in crate::exec) predecessors: Predecessors,
    pub(in crate::exec) inheritance: Inheritance,
}

/// A worker of the predecessor.
#[derive(Debug)]
struct Share {
    number: u16,
    queue: u32,
    sockets: Vec<(SocketAddr, bool, OwnedFd)>,
}

/// What this process's workers go on with.
pub(in crate::exec) struct Inheritance {
    pub(in crate::exec) from: TookOver,
    channel: Mutex<Channel>,
    /// By worker of this process, once that is known.
    shares: Mutex<Vec<Vec<Share>>>,
    /// Where listeners are.
    listened: Vec<SocketAddr>,
}

/// Connects to the process that offers itself at `path`, and gets what it has. `None` if there is none.
pub(in crate::exec) fn receive(path: &Path) -> Result<Option<Received>, TakeoverError> {
    let channel = match Channel::connect(path) {
        Ok(channel) => channel,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(TakeoverError::Connect { path: path.to_owned(), error }),
    };
    if !channel.is_trusted() {
        let error = io::ErrorKind::PermissionDenied.into();
        return Err(TakeoverError::Connect { path: path.to_owned(), error });
    }
    channel.set_patience(Some(PATIENCE))?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let hello = Message::Hello { protocol: PROTOCOL, version, pid: std::process::id() };
    channel.send(&hello, None)?;
    let (version, pid, identity, device) = match channel.receive()?.0 {
        Message::Offer { version, pid, identity, device } => (version, pid, identity, device),
        Message::Refused { reason } => return Err(TakeoverError::Refused(reason)),
        other => return Err(out_of_turn(&other)),
    };
    let process = (identity.process + 1) % crate::lb::MAX_PROCESSES as u8;
    let mut gathered = Gathered::default();
    while gathered.take(channel.receive()?)? {}
    let from = TookOver { pid, version, process };
    let shares = gathered.shares.drain(..).map(|share| vec![share]).collect();
    Ok(Some(Received {
        identity,
        predecessors: Predecessors::new(std::mem::take(&mut gathered.feeds)),
        inheritance: Inheritance {
            from,
            channel: Mutex::new(channel),
            shares: Mutex::new(shares),
            listened: std::mem::take(&mut gathered.listened),
        },
        device: gathered.device(device)?,
    }))
}

fn out_of_turn(message: &Message) -> TakeoverError {
    let said = format!("{message:?}");
    let what = said.split([' ', '{']).next().unwrap_or_default();
    TakeoverError::Broken(format!("the running process said {what} out of turn"))
}

/// What has come so far.
#[derive(Default)]
struct Gathered {
    shares: Vec<Share>,
    feeds: Vec<(u8, OwnedFd)>,
    listened: Vec<SocketAddr>,
    xdp: Vec<(u32, OwnedFd)>,
    ports: Vec<(SocketAddr, PortUse)>,
    link: Option<OwnedFd>,
    descriptors: usize,
}

impl Gathered {
    /// Takes a message; false if it was the last.
    fn take(&mut self, (message, fd): (Message, Option<OwnedFd>)) -> Result<bool, TakeoverError> {
        self.descriptors += usize::from(fd.is_some());
        if self.descriptors > DESCRIPTORS_MAX {
            let what = format!("the running process sends more than {DESCRIPTORS_MAX} descriptors");
            return Err(TakeoverError::Broken(what));
        }
        match (message, fd) {
            (Message::Worker { number, queue }, None) => {
                self.shares.push(Share { number, queue, sockets: Vec::new() });
            }
            (Message::Socket { address, listens }, Some(fd)) if !self.shares.is_empty() => {
                if listens && !self.listened.contains(&address) {
                    self.listened.push(address);
                }
                self.last().sockets.push((address, listens, fd));
            }
            (Message::Queue, Some(fd)) if !self.shares.is_empty() => {
                let queue = self.last().queue;
                self.xdp.push((queue, fd));
            }
            (Message::Port { address, server }, None) => {
                let usage = if server { PortUse::Server } else { PortUse::Client };
                self.ports.push((address, usage));
            }
            (Message::Link, Some(fd)) => self.link = Some(fd),
            (Message::Feed { process }, Some(fd)) => self.feeds.push((process, fd)),
            (Message::End, None) => return Ok(false),
            (other, _) => return Err(out_of_turn(&other)),
        }
        Ok(true)
    }

    fn last(&mut self) -> &mut Share {
        let last = self.shares.len() - 1;
        &mut self.shares[last]
    }

    fn device(
        self,
        device: Option<Device>,
    ) -> Result<Option<(String, HandedDevice)>, TakeoverError> {
        let Some(Device { name, generic, zerocopy_refused }) = device else { return Ok(None) };
        let link = self.link.ok_or_else(|| {
            TakeoverError::Broken("the running process sent no link of its XDP program".to_owned())
        })?;
        let (sockets, ports) = (self.xdp, self.ports);
        Ok(Some((name, HandedDevice { link, generic, zerocopy_refused, sockets, ports })))
    }
}

impl Inheritance {
    /// Says which queues this process's workers serve, by their number. A worker goes on with what served
    /// its queue; what is left is spread.
    pub(in crate::exec) fn assign(&self, queues: &[u32]) {
        let mut shares = lock(&self.shares);
        let all = std::mem::take(&mut *shares);
        shares.resize_with(queues.len(), Vec::new);
        for (at, share) in all.into_iter().flatten().enumerate() {
            let same = queues.iter().position(|queue| *queue == share.queue);
            // Workers of kernel UDP all have queue 0.
            let same = same.filter(|_| queues.iter().any(|queue| *queue != 0));
            shares[same.unwrap_or(at % queues.len())].push(share);
        }
    }

    /// Addresses at which the predecessor listens.
    pub(in crate::exec) fn listened(&self) -> &[SocketAddr] {
        &self.listened
    }

    /// Opens the datapath of a worker, from what the predecessor gives up for it. `None` if that is nothing.
    pub(in crate::exec) fn open(
        &self,
        worker: usize,
        source: &Source,
        queue: u32,
        cpu: Option<u32>,
    ) -> Result<Option<AnyDatapath>, OpenDatapathError> {
        let shares = lock(&self.shares).get_mut(worker).map(std::mem::take).unwrap_or_default();
        let mut bound = None;
        if let Source::Xdp { device, .. } = source {
            // What lies in its rings is the predecessor's; what comes from now on falls to the kernel
            // sockets, which it reads until this queue is bound: that takes some tens of milliseconds.
            device.clear_slot(queue);
            for share in &shares {
                self.ask(&Message::Leave { worker: share.number })?;
            }
            bound = Some(device.open_queue(queue, &[])?);
        }
        let mut sockets = Vec::new();
        for share in shares {
            self.ask(&Message::Yield { worker: share.number })?;
            sockets.extend(share.sockets);
        }
        match source {
            Source::Xdp { .. } => {
                let adopt = |(address, _, fd): (SocketAddr, bool, OwnedFd)| {
                    SideSocket::adopt(fd).map_err(|error| failed(&format!("{address}: {error}")))
                };
                let sockets: Vec<_> = sockets.into_iter().map(adopt).collect::<Result<_, _>>()?;
                let Some(mut datapath) = bound else { return Ok(None) };
                datapath.adopt_ports(sockets)?;
                Ok(Some(AnyDatapath::Xdp(Box::new(datapath))))
            }
            Source::Udp { tuning, .. } => {
                let Some((address, listens, _)) = sockets.first() else { return Ok(None) };
                let config = tuning.config(*address, *listens, cpu);
                let fds = sockets.into_iter().map(|(_, _, fd)| fd).collect();
                let datapath = UdpDatapath::adopt(fds, &config)?;
                Ok(Some(AnyDatapath::Udp(Box::new(datapath))))
            }
        }
    }

    /// Returns once a worker of the predecessor has done what it was asked for.
    fn ask(&self, message: &Message) -> Result<(), OpenDatapathError> {
        let channel = lock(&self.channel);
        let said = channel
            .send(message, None)
            .and_then(|()| channel.receive())
            .map_err(|error| failed(&TakeoverError::from(error).to_string()))?;
        match said.0 {
            Message::Left | Message::Yielded => Ok(()),
            Message::Refused { reason } => Err(failed(&reason)),
            other => Err(failed(&out_of_turn(&other).to_string())),
        }
    }

    /// Tells the predecessor that this process serves. It accepts no more connections.
    pub(in crate::exec) fn complete(&self) -> Result<(), TakeoverError> {
        let channel = lock(&self.channel);
        channel.send(&Message::Complete, None)?;
        match channel.receive()?.0 {
            Message::Completed => Ok(()),
            other => Err(out_of_turn(&other)),
        }
    }
}

fn failed(what: &str) -> OpenDatapathError {
    OpenDatapathError::Takeover(TakeoverFailure(what.to_owned()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
