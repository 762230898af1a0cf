//! A device with our program attached, shared by the workers that serve its queues.

use super::attach::{Attachment, attach};
use super::carrier::wait_for_carrier;
use super::config::XdpConfig;
use super::error::XdpError;
use super::inspect::{DeviceInfo, inspect};
use super::ladder::{Ladder, rungs};
use super::netlink::Netlink;
use super::steering::Steering;
use crate::datapath::Mode;
use crate::datapath::headers::{PORT_DROP_SMALL_INITIALS, Verdict, VerdictCounters};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The index of the loopback device in every network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// What an address and port are used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortUse {
    /// Clients send to it: their Initials in datagrams below 1200 bytes are dropped before they
    /// cost anything (RFC 9000 §14.1).
    Server,
    /// Servers answer to it, with small Initials if they like.
    Client,
}

impl PortUse {
    const fn flags(self) -> u32 {
        match self {
            Self::Server => PORT_DROP_SMALL_INITIALS,
            Self::Client => 0,
        }
    }
}

/// What a process gives away of its device.
pub(crate) struct HandedDevice {
    /// The link that holds the program.
    pub(crate) link: OwnedFd,
    /// It holds the program above the driver.
    pub(crate) generic: bool,
    /// The queues were not to be had without copies.
    pub(crate) zerocopy_refused: bool,
    /// The sockets of its queues. They are closed once their queues are given up.
    pub(crate) sockets: Vec<(u32, OwnedFd)>,
    /// The addresses that are steered to the queues.
    pub(crate) ports: Vec<(SocketAddr, PortUse)>,
}

/// A device with our program attached: the control plane of its queues. Workers share it in an
/// [`Arc`]; none of it is on the packet path. The program is detached when the last handle goes,
/// datapaths included, and by the kernel when the process dies.
pub struct XdpDevice {
    info: DeviceInfo,
    config: XdpConfig,
    generic: bool,
    state: Mutex<State>,
    /// Held while a port is claimed, which may take a second: `state` is not.
    claiming: Mutex<()>,
}

struct State {
    program: Steering,
    ladder: Ladder,
    /// Zero-copy was refused once: other queues need not try.
    zerocopy_refused: bool,
    open_queues: BTreeSet<u32>,
    /// What was asked for, and which addresses each stands for now.
    ports: BTreeMap<SocketAddr, Port>,
    /// Ports that this process has kernel sockets on, with their number.
    reserved: BTreeMap<SocketAddr, u32>,
    /// A descriptor of the socket on a port that one queue may have alone, for the others to send from.
    lent: BTreeMap<SocketAddr, OwnedFd>,
}

struct Port {
    usage: PortUse,
    installed: BTreeSet<SocketAddr>,
}

impl XdpDevice {
    /// Loads the program and attaches it in the best mode that the configuration allows.
    ///
    /// The [`Ladder`] tells which rungs failed and why. Zero-copy is certain only once a
    /// queue is open: see [`XdpDevice::ladder`].
    ///
    /// # Errors
    /// The device, the privilege or a kernel feature is missing, another program is attached, or no
    /// allowed rung works.
    pub fn attach(config: &XdpConfig) -> Result<(Arc<Self>, Ladder), XdpError> {
        config.validate()?;
        let info = inspect(config)?;
        let Attachment { program, ladder, generic, zerocopy_refused } = attach(config, &info)?;
        tracing::info!(device = info.name, queues = info.queues, %ladder, "XDP program attached");
        let device = Self::new(info, config, (program, ladder.clone()), generic, zerocopy_refused);
        Ok((Arc::new(device), ladder))
    }

    pub(super) fn new(
        info: DeviceInfo,
        config: &XdpConfig,
        (program, ladder): (Steering, Ladder),
        generic: bool,
        zerocopy_refused: bool,
    ) -> Self {
        let state = State {
            program,
            ladder,
            zerocopy_refused,
            open_queues: BTreeSet::new(),
            ports: BTreeMap::new(),
            reserved: BTreeMap::new(),
            lent: BTreeMap::new(),
        };
        let config = config.clone();
        let (state, claiming) = (Mutex::new(state), Mutex::default());
        Self { info, config, generic, state, claiming }
    }

    /// The name of the device.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// How many receive queues the device has.
    #[must_use]
    pub const fn queues(&self) -> u32 {
        self.info.queues
    }

    /// The rungs that failed so far, and the one that was reached.
    #[must_use]
    pub fn ladder(&self) -> Ladder {
        self.state().ladder.clone()
    }

    /// Steers UDP to `address` into the queues' sockets, for a server. See [`XdpDevice::listen_as`].
    ///
    /// # Errors
    /// As [`XdpDevice::listen_as`].
    pub fn listen(&self, address: SocketAddr) -> Result<(), XdpError> {
        self.listen_as(address, PortUse::Server)
    }

    /// Steers UDP to `address` into the queues' sockets. Asking again changes the use.
    ///
    /// An unspecified address stands for the addresses that the device and the loopback device
    /// have (127.0.0.0/8 and ::1 apart), not for any address: a machine that forwards packets, as
    /// a router or for containers, would otherwise take those of others. Addresses that come later
    /// are served through the kernel socket until [`XdpDevice::refresh`].
    ///
    /// # Errors
    /// The kernel refuses to change the map, or to tell the addresses.
    pub fn listen_as(&self, address: SocketAddr, usage: PortUse) -> Result<(), XdpError> {
        let wanted = self.expand(address)?;
        let mut state = self.state();
        for &endpoint in &wanted {
            state.program.add_port(endpoint, usage.flags())?;
        }
        let old = state.ports.insert(address, Port { usage, installed: wanted });
        let gone = old.map(|old| old.installed).unwrap_or_default();
        state.withdraw(gone);
        Ok(())
    }

    /// Leaves UDP to `address` to the kernel again.
    pub fn unlisten(&self, address: SocketAddr) {
        let mut state = self.state();
        if let Some(port) = state.ports.remove(&address) {
            state.withdraw(port.installed);
        }
    }

    /// Looks up again which addresses the unspecified ones stand for.
    ///
    /// # Errors
    /// As [`XdpDevice::listen`].
    pub fn refresh(&self) -> Result<(), XdpError> {
        let asked: Vec<_> = self
            .state()
            .ports
            .iter()
            .filter(|(address, _)| address.ip().is_unspecified())
            .map(|(&address, port)| (address, port.usage))
            .collect();
        asked.into_iter().try_for_each(|(address, usage)| self.listen_as(address, usage))
    }

    /// The endpoints that are steered into the queues' sockets now, sorted.
    #[must_use]
    pub fn steered(&self) -> Vec<SocketAddr> {
        let state = self.state();
        let endpoints: BTreeSet<_> =
            state.ports.values().flat_map(|port| port.installed.iter().copied()).collect();
        endpoints.into_iter().collect()
    }

    /// How often the program gave each verdict, over all queues. Zeroes, and a line in the log, if
    /// the kernel does not report it.
    #[must_use]
    pub fn verdicts(&self) -> VerdictCounters {
        self.state().program.verdicts().unwrap_or_else(|error| {
            tracing::warn!(%error, "verdict counters cannot be read");
            VerdictCounters::default()
        })
    }

    /// What the program would decide on `frame`, by running it in the kernel; nothing is counted
    /// and nothing is sent. Frames of less than 14 bytes cannot be run.
    ///
    /// # Errors
    /// The kernel refuses to run it.
    pub fn judge(&self, frame: &[u8]) -> Result<Option<Verdict>, XdpError> {
        self.state().program.judge(frame)
    }

    /// Waits until the device has a carrier. True if it has one within `patience`.
    #[must_use]
    pub fn wait_for_carrier(&self, patience: Duration) -> bool {
        wait_for_carrier(&self.info.name, patience)
    }

    pub(super) const fn info(&self) -> &DeviceInfo {
        &self.info
    }

    pub(super) const fn config(&self) -> &XdpConfig {
        &self.config
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing here unwinds half way through a change that others could see.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The endpoints that an address stands for.
    fn expand(&self, address: SocketAddr) -> Result<BTreeSet<SocketAddr>, XdpError> {
        let plain = |ip| SocketAddr::new(ip, address.port());
        if !address.ip().is_unspecified() {
            return Ok(BTreeSet::from([plain(address.ip())]));
        }
        let addresses = Netlink::new()
            .and_then(|mut netlink| netlink.addresses())
            .map_err(|failed| XdpError::from_call(&self.info.name, failed))?;
        Ok(addresses
            .into_iter()
            .filter(|&(ifindex, _)| ifindex == self.info.ifindex || ifindex == LOOPBACK_INDEX)
            .map(|(_, ip)| ip)
            .filter(|ip| ip.is_ipv4() == address.is_ipv4() && !ip.is_loopback())
            .map(plain)
            .collect())
    }

    /// True if a queue may be bound without copies.
    pub(super) fn may_be_zerocopy(&self) -> bool {
        !self.generic && !self.state().zerocopy_refused
    }

    /// The mode of a queue that is bound with copies.
    pub(super) const fn copy_mode(&self) -> Mode {
        if self.generic { Mode::Generic } else { Mode::NativeCopy }
    }

    /// A queue could not be bound without copies: steps down, if that is allowed.
    pub(super) fn refuse_zerocopy(&self, queue: u32, error: &io::Error) -> Result<(), XdpError> {
        let mut state = self.state();
        state.zerocopy_refused = true;
        let reason = format!("queue {queue}: bind: {error}");
        state.ladder.step_down(&self.info.name, Mode::NativeZerocopy, reason);
        state.ladder.reached = rungs(self.config.require, self.config.force_mode)
            .contains(&Mode::NativeCopy)
            .then_some(Mode::NativeCopy);
        if state.ladder.reached.is_some() {
            return Ok(());
        }
        let (device, require) = (self.info.name.clone(), self.config.require);
        Err(XdpError::Refused { device, require, ladder: state.ladder.clone() })
    }

    /// Notes that a datapath has a queue; false if another one has it.
    pub(super) fn take_queue(&self, queue: u32) -> bool {
        self.state().open_queues.insert(queue)
    }

    /// A queue is free, and its slot of the XSKMAP empty.
    pub(super) fn give_back_queue(&self, queue: u32) {
        let mut state = self.state();
        state.program.unset_socket(queue);
        state.open_queues.remove(&queue);
    }

    /// Enters a socket into the slot of its queue in the XSKMAP.
    pub(super) fn set_slot(&self, queue: u32, socket: RawFd) -> Result<(), XdpError> {
        self.state().program.set_socket(queue, socket)
    }

    /// The queue of the socket that a slot leads to.
    pub(super) fn slot(&self, queue: u32) -> Result<Option<u32>, XdpError> {
        self.state().program.slot(queue)
    }

    /// What another process needs to take the device over, less the sockets of its queues.
    ///
    /// # Errors
    /// The program is not attached by a link, or the limit on open files.
    pub(crate) fn hand_over(&self) -> Result<HandedDevice, XdpError> {
        let state = self.state();
        let of = |(address, port): (&SocketAddr, &Port)| (*address, port.usage);
        Ok(HandedDevice {
            link: state.program.share_link()?,
            generic: self.generic,
            zerocopy_refused: state.zerocopy_refused,
            sockets: Vec::new(),
            ports: state.ports.iter().map(of).collect(),
        })
    }

    /// Puts this process's program in the place of the one that a link holds.
    pub(super) fn take_link(&self, link: OwnedFd) -> Result<(), XdpError> {
        self.state().program.take_link(link)
    }

    /// Puts this process's program back in its place, after another process took it.
    ///
    /// # Errors
    /// The kernel does not take it: the device is gone.
    pub(crate) fn reclaim(&self) -> Result<(), XdpError> {
        let link = self.state().program.share_link()?;
        self.take_link(link)
    }

    /// Lets the packets of a queue fall to the kernel sockets.
    pub(crate) fn clear_slot(&self, queue: u32) {
        self.state().program.unset_socket(queue);
    }

    /// Empties a slot, as a mistake would.
    #[cfg(test)]
    pub(super) fn empty_slot(&self, queue: u32) {
        self.state().program.unset_socket(queue);
    }

    /// Keeps others from claiming a port until it is dropped.
    pub(super) fn claiming(&self) -> MutexGuard<'_, ()> {
        self.claiming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if this process has kernel sockets on `address` beside queues of the device.
    pub(super) fn holds_port(&self, address: SocketAddr) -> bool {
        self.state().reserved.contains_key(&address)
    }

    /// A kernel socket of a port is open, or about to be.
    pub(super) fn hold_port(&self, address: SocketAddr) {
        *self.state().reserved.entry(address).or_default() += 1;
    }

    /// Lets other queues send through a queue's kernel socket, until no queue has one on that port.
    pub(super) fn lend_port(&self, address: SocketAddr, socket: OwnedFd) {
        self.state().lent.insert(address, socket);
    }

    /// A descriptor of a kernel socket that another queue has, on an address of which `serves` is true.
    pub(super) fn borrow_port(&self, serves: impl Fn(SocketAddr) -> bool) -> Option<OwnedFd> {
        let state = self.state();
        let (_, socket) = state.lent.iter().find(|(address, _)| serves(**address))?;
        socket.try_clone().ok()
    }

    /// A kernel socket of a port is closed.
    pub(super) fn release_port(&self, address: SocketAddr) {
        let mut state = self.state();
        if let Some(count) = state.reserved.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                state.reserved.remove(&address);
                state.lent.remove(&address);
            }
        }
    }
}

impl State {
    /// Takes endpoints out of the program that nothing asked for stands for any more.
    fn withdraw(&mut self, gone: BTreeSet<SocketAddr>) {
        for endpoint in gone {
            match self.ports.values().find(|port| port.installed.contains(&endpoint)) {
                None => self.program.remove_port(endpoint),
                Some(port) => {
                    let flags = port.usage.flags();
                    if let Err(error) = self.program.add_port(endpoint, flags) {
                        tracing::warn!(%error, %endpoint, "a port keeps its old use");
                    }
                }
            }
        }
    }
}
