//! The datapaths that a registration's workers use, and how they are opened.

use super::config::UdpTuning;
use super::relay::RelayDatapath;
use crate::datapath::fed::FedDatapath;
use crate::datapath::headers::VerdictCounters;
use crate::datapath::udp::{SideSocket, UdpDatapath, UdpError, UdpStats, source_towards};
use crate::datapath::xdp::{Ladder, PortUse, XdpDatapath, XdpDevice, XdpError};
use crate::datapath::{
    Backlog, Capabilities, Datapath, DatapathError, Mode, Path, QueueStats, RxMeta,
};
use crate::ecn::Ecn;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;

/// One step of the ladder of datapaths, taken downwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LadderStep {
    /// What was tried.
    pub tried: Mode,
    /// Why it did not work.
    pub reason: String,
}

/// What all workers of a registration open their datapaths from.
#[derive(Clone)]
pub(super) enum Source {
    /// A device with our program attached.
    Xdp { device: Arc<XdpDevice>, ladder: Ladder },
    /// The kernel's sockets, and the rungs above that failed.
    Udp { tuning: UdpTuning, ladder: Vec<LadderStep> },
}

/// Why a datapath, or an address on it, could not be opened.
#[derive(Debug)]
pub enum OpenDatapathError {
    /// A kernel socket.
    Udp(UdpError),
    /// An AF_XDP queue, or a kernel socket beside it.
    Xdp(XdpError),
    /// No route to the address, or not a unicast address.
    NoRoute {
        /// The address.
        remote: SocketAddr,
        /// What the kernel said.
        error: std::io::Error,
    },
    /// The worker cannot wait for the socket.
    Wait(std::io::Error),
    /// The process that is taken over from does not give up what a worker is to serve.
    Takeover(TakeoverFailure),
    /// Another process has taken over: this one opens no addresses any more.
    TakenOver,
    /// The thread of this queue has ended (profile `MaxThroughput`).
    QueueThread(u32),
}

/// Why a takeover failed at a worker.
#[derive(Debug)]
pub struct TakeoverFailure(pub(super) String);

impl fmt::Display for TakeoverFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for OpenDatapathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(error) => error.fmt(f),
            Self::Xdp(error) => error.fmt(f),
            Self::NoRoute { remote, error } => {
                let ip = remote.ip();
                write!(f, "no route to {remote}: {error}; see `ip route get {ip}`")
            }
            Self::Takeover(failure) => write!(
                f,
                "{failure}: the process that is taken over from goes on; look at its log, and try again"
            ),
            Self::TakenOver => f.write_str(
                "another process has taken over, and this one opens no address any more: open it there",
            ),
            Self::QueueThread(queue) => write!(
                f,
                "the thread of queue {queue} has ended: see its error in the log, and open the \
                 registration anew"
            ),
            Self::Wait(error) => write!(
                f,
                "the worker cannot wait for the socket: {error}; free memory, or raise \
                 fs.epoll.max_user_watches"
            ),
        }
    }
}

impl std::error::Error for OpenDatapathError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Udp(error) => Some(error),
            Self::Xdp(error) => Some(error),
            Self::NoRoute { error, .. } | Self::Wait(error) => Some(error),
            Self::Takeover(_) | Self::TakenOver | Self::QueueThread(_) => None,
        }
    }
}

impl From<UdpError> for OpenDatapathError {
    fn from(error: UdpError) -> Self {
        Self::Udp(error)
    }
}

impl From<XdpError> for OpenDatapathError {
    fn from(error: XdpError) -> Self {
        Self::Xdp(error)
    }
}

/// A worker's datapath: the kind is chosen at start, and a call costs one branch.
pub(super) enum AnyDatapath {
    Udp(Box<UdpDatapath>),
    Xdp(Box<XdpDatapath>),
    /// Either, in a process that another one takes over from.
    Fed(Box<FedDatapath<Self>>),
    /// Neither: they are another thread's.
    Relay(Box<RelayDatapath>),
}

/// What an address is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Clients send to it, and every worker has a socket on it.
    Listen,
    /// Servers answer to it.
    Connect,
}

impl Source {
    /// The device that the program is attached to.
    pub(super) fn device(&self) -> Option<&str> {
        match self {
            Self::Xdp { device, .. } => Some(device.name()),
            Self::Udp { .. } => None,
        }
    }

    /// The device that sockets of the kernel are bound to.
    pub(super) fn bound_device(&self) -> Option<&str> {
        match self {
            Self::Udp { tuning, .. } => tuning.device.as_deref(),
            Self::Xdp { .. } => None,
        }
    }

    /// The steps of the ladder that were taken down.
    pub(super) fn ladder(&self) -> Vec<LadderStep> {
        match self {
            Self::Udp { ladder, .. } => ladder.clone(),
            // A queue may refuse zero-copy after the device has promised it.
            Self::Xdp { device, ladder } => {
                let now = device.ladder();
                steps(if now.steps.len() >= ladder.steps.len() { &now } else { ladder })
            }
        }
    }

    /// What the device's program did.
    pub(super) fn verdicts(&self) -> Option<VerdictCounters> {
        match self {
            Self::Udp { .. } => None,
            Self::Xdp { device, .. } => Some(device.verdicts()),
        }
    }

    /// The datapath of a worker that has one from its start: a queue of the device.
    pub(super) fn at_start(&self, queue: u32) -> Result<Option<AnyDatapath>, OpenDatapathError> {
        match self {
            Self::Udp { .. } => Ok(None),
            Self::Xdp { device, .. } => {
                Ok(Some(AnyDatapath::Xdp(Box::new(device.open_queue(queue, &[])?))))
            }
        }
    }

    /// Opens `address` on a worker's datapath, or makes that datapath. Returns the address with
    /// the port that the kernel chose, if it was to choose. To listen, an address is
    /// [claimed](Self::claim) first, and has its port by then: nothing is waited for here. `cpu` is that
    /// of the worker, if it is pinned: what the kernel receives there goes to its socket.
    pub(super) fn open(
        &self,
        datapath: Option<&mut AnyDatapath>,
        address: SocketAddr,
        purpose: Purpose,
        cpu: Option<u32>,
    ) -> Result<(SocketAddr, Option<AnyDatapath>), OpenDatapathError> {
        match (self, datapath) {
            (_, Some(AnyDatapath::Fed(_))) => Err(OpenDatapathError::TakenOver),
            (Self::Udp { tuning, .. }, datapath) => {
                let config = tuning.config(address, purpose == Purpose::Listen, cpu);
                if let Some(AnyDatapath::Udp(datapath)) = datapath {
                    return Ok((datapath.add_socket(&config)?, None));
                }
                let datapath = UdpDatapath::bind(&config)?;
                Ok((datapath.local_addr(), Some(AnyDatapath::Udp(Box::new(datapath)))))
            }
            (Self::Xdp { device, .. }, Some(AnyDatapath::Xdp(datapath))) => match purpose {
                Purpose::Listen => {
                    datapath.join_port(address)?;
                    Ok((address, None))
                }
                Purpose::Connect => {
                    let bound = datapath.open_port(address)?;
                    device.listen_as(bound, PortUse::Client)?;
                    Ok((bound, None))
                }
            },
            // It has outlived its successor, and serves what it has by the kernel sockets.
            (Self::Xdp { .. }, _) => Err(OpenDatapathError::TakenOver),
        }
    }

    /// Claims `address` until what is returned is dropped, for workers to join. They share its port
    /// among themselves, and the kernel would let them share it with another process of the same
    /// user as well, which would then get some of their datagrams. Takes up to a second if another
    /// process has it: not for a worker's thread.
    pub(super) fn claim(&self, address: SocketAddr) -> Result<SideSocket, OpenDatapathError> {
        Ok(SideSocket::claim(address, self.bound_device())?)
    }

    /// Steers what clients send to `address` to the workers, once all of them can take it.
    pub(super) fn steer(&self, address: SocketAddr) -> Result<(), OpenDatapathError> {
        match self {
            Self::Udp { .. } => Ok(()),
            Self::Xdp { device, .. } => Ok(device.listen_as(address, PortUse::Server)?),
        }
    }

    /// Our address on the way to `remote`, for a client that sends from `bound`.
    pub(super) fn local_towards(
        &self,
        bound: SocketAddr,
        remote: SocketAddr,
    ) -> Result<SocketAddr, OpenDatapathError> {
        match self {
            // The kernel chooses, until the first authentic packet shows the address that it chose.
            // From then on the lane keeps to it, even if the kernel would choose another: an id may
            // not be used from two addresses (RFC 9000 §9.5), and a server may forbid that its
            // client moves (§9).
            Self::Udp { .. } => Ok(bound),
            Self::Xdp { .. } => {
                let chosen = source_towards(remote, None)
                    .map_err(|error| OpenDatapathError::NoRoute { remote, error })?;
                Ok(SocketAddr::new(chosen.ip(), bound.port()))
            }
        }
    }

    /// Our address, with any port, on the way that a new connection to `remote` would take now.
    ///
    /// # Errors
    /// No way leads there.
    pub(super) fn way_towards(&self, remote: SocketAddr) -> io::Result<SocketAddr> {
        source_towards(remote, self.bound_device())
    }
}

/// The steps of a device's ladder.
pub(super) fn steps(ladder: &Ladder) -> Vec<LadderStep> {
    let step = |(tried, reason): &(_, String)| LadderStep { tried: *tried, reason: reason.clone() };
    ladder.steps.iter().map(step).collect()
}

/// One call of either kind.
macro_rules! either {
    ($self:expr, $datapath:ident => $call:expr) => {
        match $self {
            Self::Udp($datapath) => $call,
            Self::Xdp($datapath) => $call,
            Self::Fed($datapath) => $call,
            Self::Relay($datapath) => $call,
        }
    };
}

impl Datapath for AnyDatapath {
    fn capabilities(&self) -> &Capabilities {
        either!(self, datapath => datapath.capabilities())
    }

    fn preview(&mut self, budget: usize, look: &mut dyn FnMut(&[u8])) {
        either!(self, datapath => datapath.preview(budget, look));
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&RxMeta, &mut [u8])) -> usize {
        either!(self, datapath => datapath.receive(budget, sink))
    }

    fn backlog(&mut self) -> Backlog {
        either!(self, datapath => datapath.backlog())
    }

    fn recover(&mut self) {
        either!(self, datapath => datapath.recover());
    }

    fn tx_buffer(&mut self, path: &Path) -> Option<&mut [u8]> {
        either!(self, datapath => datapath.tx_buffer(path))
    }

    fn tx_commit(&mut self, len: usize, path: &Path, ecn: Ecn) {
        either!(self, datapath => datapath.tx_commit(len, path, ecn));
    }

    fn flush(&mut self) -> Result<(), DatapathError> {
        either!(self, datapath => datapath.flush())
    }

    fn prepare_sleep(&mut self) -> bool {
        either!(self, datapath => datapath.prepare_sleep())
    }

    fn poll_fds(&self) -> &[RawFd] {
        either!(self, datapath => datapath.poll_fds())
    }

    fn stats(&self) -> QueueStats {
        either!(self, datapath => datapath.stats())
    }

    fn udp_stats(&self) -> UdpStats {
        either!(self, datapath => datapath.udp_stats())
    }
}
