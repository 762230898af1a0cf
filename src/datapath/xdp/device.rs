//! A device with our program attached, shared by the workers that serve its queues.

use super::config::XdpConfig;
use super::datapath::XdpDatapath;
use super::error::XdpError;
use super::ladder::{Ladder, rungs};
use super::loader::{AttachError, Program, VerdictCounters};
use super::netlink::Netlink;
use super::socket::{BindError, Binding, Socket};
use super::sys::{self, DeviceQuery};
use super::who;
use crate::datapath::Mode;
use crate::datapath::headers::{LinkRules, PORT_DROP_SMALL_INITIALS, Verdict};
use aya::programs::XdpMode;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// A program that a dead process left stays attached for some milliseconds: so often, and so long
/// in between, attaching is tried again. A program that a living process holds is not waited for.
const ATTACH_ATTEMPTS: u32 = 25;
const ATTACH_PAUSE: Duration = Duration::from_millis(10);
/// igb resets itself when a program is attached and drops the link 0.4 s later: so long a physical
/// device is watched for that.
const FLAP_WATCH: Duration = Duration::from_millis(800);
/// How often the carrier is looked at.
const CARRIER_PAUSE: Duration = Duration::from_millis(20);
/// How long a device may take to get its link back: copper at 10 Gb/s needs some seconds.
const CARRIER_WAIT: Duration = Duration::from_secs(10);
/// Drivers of devices without a link that could flap.
const VIRTUAL_DRIVERS: [&str; 5] = ["veth", "tun", "virtio_net", "bridge", "dummy"];
/// `NETDEV_XDP_ACT_XSK_ZEROCOPY`.
const FEATURE_ZEROCOPY: u64 = 1 << 3;
/// `NETDEV_XDP_ACT_BASIC`.
const FEATURE_BASIC: u64 = 1;
/// `NETDEV_XSK_FLAGS_TX_CHECKSUM`.
const XSK_FEATURE_CHECKSUM: u64 = 1 << 1;
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

/// What is known of a device since it was attached.
#[derive(Clone, Debug)]
pub(super) struct DeviceInfo {
    pub(super) name: String,
    pub(super) ifindex: u32,
    pub(super) mtu: u32,
    pub(super) mac: [u8; 6],
    pub(super) queues: u32,
    pub(super) driver: String,
    /// Zero-copy senders may leave UDP checksums to it.
    pub(super) offers_checksums: bool,
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
    program: Program,
    ladder: Ladder,
    /// Zero-copy was refused once: other queues need not try.
    zerocopy_refused: bool,
    open_queues: BTreeSet<u32>,
    /// What was asked for, and which addresses each stands for now.
    ports: BTreeMap<SocketAddr, Port>,
    /// Ports that this process has kernel sockets on, with their number.
    reserved: BTreeMap<SocketAddr, u32>,
}

struct Port {
    usage: PortUse,
    installed: BTreeSet<SocketAddr>,
}

impl XdpDevice {
    /// Loads the program and attaches it in the best mode that the configuration allows.
    ///
    /// The [`Ladder`] tells which rungs failed and why. Whether zero-copy is had is certain once a
    /// queue is open: see [`XdpDevice::ladder`].
    ///
    /// # Errors
    /// The device, the privilege or a kernel feature is missing, another program is attached, or no
    /// allowed rung works.
    pub fn attach(config: &XdpConfig) -> Result<(Arc<Self>, Ladder), XdpError> {
        config.validate()?;
        let info = inspect(config)?;
        let rungs = rungs(config.require, config.force_mode);
        let mut ladder = Ladder::default();
        refuse_foreign(&info.name, info.ifindex)?;
        let mut program =
            Program::load(info.queues, &LinkRules { mac: info.mac, vlans: config.vlans })?;
        let mut attached = false;
        let mut zerocopy_refused = !rungs.contains(&Mode::NativeZerocopy);
        if rungs.iter().any(|&mode| mode != Mode::Generic) {
            attached = attach_native(&info, &mut program, &rungs, &mut ladder)?;
            zerocopy_refused |= attached && refuse_zerocopy(&info, &rungs, &mut ladder);
        }
        let generic = !attached;
        if generic && rungs.contains(&Mode::Generic) {
            attached = attach_generic(&info, &mut program, &mut ladder)?;
        }
        ladder.reached = attached.then(|| best(&rungs, generic, zerocopy_refused)).flatten();
        if ladder.reached.is_none() {
            let device = info.name;
            return Err(XdpError::Refused { device, require: config.require, ladder });
        }
        if !generic {
            wait_after_attach(&info.name, &info.driver);
        }
        tracing::info!(device = info.name, queues = info.queues, %ladder, "XDP program attached");
        let state = State {
            program,
            ladder: ladder.clone(),
            zerocopy_refused,
            open_queues: BTreeSet::new(),
            ports: BTreeMap::new(),
            reserved: BTreeMap::new(),
        };
        let config = config.clone();
        let (state, claiming) = (Mutex::new(state), Mutex::default());
        let device = Self { info, config, generic, state, claiming };
        Ok((Arc::new(device), ladder))
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

    /// Opens a queue: call it on the thread that will serve it, since its memory is touched here
    /// first. `ports` are the addresses that get a kernel socket beside; a port of 0 is chosen by
    /// the kernel, see [`XdpDatapath::local_addresses`]. Steering is a matter of
    /// [`XdpDevice::listen`].
    ///
    /// # Errors
    /// The queue does not exist or is taken, a port is in use, memory may not be locked, or a rung
    /// that is required is not reached.
    pub fn open_queue(
        self: &Arc<Self>,
        queue: u32,
        ports: &[SocketAddr],
    ) -> Result<XdpDatapath, XdpError> {
        if queue >= self.info.queues {
            let (device, queues) = (self.info.name.clone(), self.info.queues);
            return Err(XdpError::QueueOutOfRange { device, queue, queues });
        }
        if !self.state().open_queues.insert(queue) {
            let device = self.info.name.clone();
            return Err(XdpError::QueueBusy { device, queue, holders: vec![ourselves()] });
        }
        // From here on the queue is given back when the lease is dropped.
        let lease = QueueLease { device: Arc::clone(self), queue };
        let socket = lease.bind()?;
        XdpDatapath::new(lease, socket, ports)
    }

    /// How often the program gave each verdict, over all queues. Zeroes, and a line in the log, if
    /// the kernel does not tell.
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

    /// Keeps others from claiming a port until it is dropped.
    pub(super) fn claiming(&self) -> MutexGuard<'_, ()> {
        self.claiming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this process has kernel sockets on `address` beside queues of the device.
    pub(super) fn holds_port(&self, address: SocketAddr) -> bool {
        self.state().reserved.contains_key(&address)
    }

    /// A kernel socket of a port is open, or about to be.
    pub(super) fn hold_port(&self, address: SocketAddr) {
        *self.state().reserved.entry(address).or_default() += 1;
    }

    /// A kernel socket of a port is closed.
    pub(super) fn release_port(&self, address: SocketAddr) {
        let mut state = self.state();
        if let Some(count) = state.reserved.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                state.reserved.remove(&address);
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

/// A queue of a device, taken by a datapath until it is dropped.
pub(super) struct QueueLease {
    device: Arc<XdpDevice>,
    queue: u32,
}

impl QueueLease {
    pub(super) fn device(&self) -> &XdpDevice {
        &self.device
    }

    pub(super) fn shared(&self) -> Arc<XdpDevice> {
        Arc::clone(&self.device)
    }

    pub(super) const fn queue(&self) -> u32 {
        self.queue
    }

    /// Binds a socket on the best rung that is left, and enters it into the XSKMAP.
    pub(super) fn bind(&self) -> Result<Socket, XdpError> {
        let device = &self.device;
        if !device.generic && !device.state().zerocopy_refused {
            match self.bind_mode(Mode::NativeZerocopy) {
                Ok(socket) => return self.enter(socket),
                Err(BindError::Fatal(error)) => return Err(error),
                Err(BindError::Mode(error)) => self.refuse_zerocopy(&error)?,
            }
        }
        let mode = if device.generic { Mode::Generic } else { Mode::NativeCopy };
        match self.bind_mode(mode) {
            Ok(socket) => self.enter(socket),
            Err(BindError::Fatal(error)) => Err(error),
            Err(BindError::Mode(error)) => {
                let call = "bind(AF_XDP)";
                Err(XdpError::System { device: device.info.name.clone(), call, error })
            }
        }
    }

    fn bind_mode(&self, mode: Mode) -> Result<Socket, BindError> {
        let (info, config) = (&self.device.info, &self.device.config);
        if mode == Mode::NativeZerocopy && config.chunk_bytes < 4096 && info.driver == "igb" {
            let (device, driver) = (info.name.clone(), info.driver.clone());
            return Err(XdpError::ChunkTooSmall { device, driver, needed: 4096 }.into());
        }
        Socket::open(&Binding {
            device: &info.name,
            ifindex: info.ifindex,
            queue: self.queue,
            mode,
            config,
            metadata: config.metadata(mode, info.offers_checksums),
        })
    }

    /// Steps down to copies, if that is allowed.
    fn refuse_zerocopy(&self, error: &io::Error) -> Result<(), XdpError> {
        let device = &self.device;
        let mut state = device.state();
        state.zerocopy_refused = true;
        let reason = format!("queue {}: bind: {error}", self.queue);
        state.ladder.step_down(&device.info.name, Mode::NativeZerocopy, reason);
        state.ladder.reached = rungs(device.config.require, device.config.force_mode)
            .contains(&Mode::NativeCopy)
            .then_some(Mode::NativeCopy);
        if state.ladder.reached.is_some() {
            return Ok(());
        }
        let (name, require) = (device.info.name.clone(), device.config.require);
        Err(XdpError::Refused { device: name, require, ladder: state.ladder.clone() })
    }

    /// Enters a bound socket into the XSKMAP, and checks that it got there.
    fn enter(&self, socket: Socket) -> Result<Socket, XdpError> {
        self.enter_fd(socket.fd)?;
        self.verify_slot()?;
        Ok(socket)
    }

    /// Empties the slot of this queue, as a mistake would.
    #[cfg(test)]
    pub(super) fn empty_slot(&self) {
        self.device.state().program.unset_socket(self.queue);
    }

    pub(super) fn enter_fd(&self, fd: RawFd) -> Result<(), XdpError> {
        self.device.state().program.set_socket(self.queue, fd)
    }

    /// A slot with the socket of another queue loses every packet while all counters of the kernel
    /// stay at zero: so the program itself is asked where the slot leads.
    pub(super) fn verify_slot(&self) -> Result<(), XdpError> {
        let found = self.device.state().program.slot(self.queue)?;
        if found == Some(self.queue) {
            return Ok(());
        }
        let device = self.device.info.name.clone();
        Err(XdpError::WrongSlot { device, queue: self.queue, found })
    }
}

impl Drop for QueueLease {
    fn drop(&mut self) {
        let mut state = self.device.state();
        state.program.unset_socket(self.queue);
        state.open_queues.remove(&self.queue);
    }
}

/// Reads what has to be known of a device, and refuses what cannot work.
fn inspect(config: &XdpConfig) -> Result<DeviceInfo, XdpError> {
    let name = config.device.clone();
    let Some(ifindex) = sys::device_index(&name) else {
        return Err(XdpError::NoSuchDevice { device: name });
    };
    let named = |failed| XdpError::from_call(&config.device, failed);
    let mut query = DeviceQuery::new(&name).map_err(named)?;
    let mtu = query.mtu().map_err(named)?;
    if mtu > config.mtu_limit() {
        let (limit, chunk_bytes) = (config.mtu_limit(), config.chunk_bytes);
        return Err(XdpError::MtuTooLarge { device: name, mtu, limit, chunk_bytes });
    }
    let mac = query.mac().map_err(named)?;
    // A device that cannot tell its channels has one queue.
    let queues = query.receive_queues().unwrap_or(1).max(1);
    let driver = query.driver().unwrap_or_default();
    // A kernel that does not tell (before 6.8) takes no metadata either.
    let offers_checksums = Netlink::generic()
        .and_then(|mut netlink| netlink.xsk_features(ifindex))
        .is_ok_and(|features| features & XSK_FEATURE_CHECKSUM != 0);
    Ok(DeviceInfo { name, ifindex, mtu, mac, queues, driver, offers_checksums })
}

/// Fails if a program is attached that a living process holds, or that stays.
pub(super) fn refuse_foreign(device: &str, ifindex: u32) -> Result<(), XdpError> {
    for attempt in 0..ATTACH_ATTEMPTS {
        let found =
            who::foreign_program(ifindex).map_err(|failed| XdpError::from_call(device, failed))?;
        let Some(program) = found else { return Ok(()) };
        if program.holder.is_some() || attempt + 1 == ATTACH_ATTEMPTS {
            return Err(XdpError::Occupied { device: device.to_owned(), queue: 0, program });
        }
        thread::sleep(ATTACH_PAUSE);
    }
    Ok(())
}

/// Attaches in the driver. False, with the reason noted, if the driver cannot.
fn attach_native(
    info: &DeviceInfo,
    program: &mut Program,
    rungs: &[Mode],
    ladder: &mut Ladder,
) -> Result<bool, XdpError> {
    let Err(error) = attach(info, program, XdpMode::Driver)? else { return Ok(true) };
    let reason = native_refused(info, &error);
    for &mode in rungs.iter().filter(|&&mode| mode != Mode::Generic) {
        ladder.step_down(&info.name, mode, reason.clone());
    }
    Ok(false)
}

/// Why the driver does not take a program, with the remedy where the error is a known one.
fn native_refused(info: &DeviceInfo, error: &io::Error) -> String {
    let DeviceInfo { name, queues, driver, .. } = info;
    match (driver.as_str(), error.raw_os_error()) {
        ("veth", Some(libc::ENOSPC)) => format!(
            "the other end of {name} has more transmit queues than {name} has receive queues \
             ({queues}): ethtool -L {name} rx N, or ethtool -L tx {queues} on the other end"
        ),
        _ => format!("attaching in the driver: {error}"),
    }
}

fn attach_generic(
    info: &DeviceInfo,
    program: &mut Program,
    ladder: &mut Ladder,
) -> Result<bool, XdpError> {
    let Err(error) = attach(info, program, XdpMode::Skb)? else { return Ok(true) };
    ladder.step_down(&info.name, Mode::Generic, format!("attaching above the driver: {error}"));
    Ok(false)
}

/// Attaches in one mode. The inner error is one that another mode may not have.
fn attach(
    info: &DeviceInfo,
    program: &mut Program,
    mode: XdpMode,
) -> Result<Result<(), io::Error>, XdpError> {
    let mut last = io::Error::from_raw_os_error(libc::EBUSY);
    for attempt in 0..ATTACH_ATTEMPTS {
        if attempt > 0 {
            // Somebody attached between our look and now, or is about to be gone.
            thread::sleep(ATTACH_PAUSE);
            refuse_foreign(&info.name, info.ifindex)?;
        }
        match program.attach(info.ifindex, mode) {
            Ok(()) => return Ok(Ok(())),
            Err(AttachError::Program(error)) => return Err(error),
            Err(AttachError::NoLink) => {
                let error = io::Error::from_raw_os_error(libc::EINVAL);
                return Err(XdpError::Kernel { what: "bpf_link for XDP (Linux 5.9)", error });
            }
            Err(AttachError::Kernel(error)) => last = error,
        }
        match last.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => {}
            Some(libc::EPERM | libc::EACCES) => {
                return Err(XdpError::privilege("attaching an XDP program"));
            }
            Some(libc::ENODEV) => {
                return Err(XdpError::NoSuchDevice { device: info.name.clone() });
            }
            _ => break,
        }
    }
    Ok(Err(last))
}

/// Notes that the driver does not offer zero-copy, where the kernel tells. True if it does not.
fn refuse_zerocopy(info: &DeviceInfo, rungs: &[Mode], ladder: &mut Ladder) -> bool {
    let features = sys::attached(info.ifindex).map_or(0, |attached| attached.features);
    // Without even the basic flag the kernel does not tell (before 6.3): binding will.
    let refused = features & FEATURE_BASIC != 0 && features & FEATURE_ZEROCOPY == 0;
    if refused && rungs.contains(&Mode::NativeZerocopy) {
        let reason = format!("the driver {} does not offer it", info.driver);
        ladder.step_down(&info.name, Mode::NativeZerocopy, reason);
    }
    refused
}

/// The rung that is reached, if the configuration allows it.
fn best(rungs: &[Mode], generic: bool, zerocopy_refused: bool) -> Option<Mode> {
    let mode = match (generic, zerocopy_refused) {
        (true, _) => Mode::Generic,
        (false, true) => Mode::NativeCopy,
        (false, false) => Mode::NativeZerocopy,
    };
    rungs.contains(&mode).then_some(mode)
}

/// A physical device may drop its link some time after a program was attached: packets sent before
/// that are lost, so it is waited for.
pub(super) fn wait_after_attach(device: &str, driver: &str) {
    if VIRTUAL_DRIVERS.contains(&driver) {
        return;
    }
    let looks = FLAP_WATCH.as_millis() / CARRIER_PAUSE.as_millis();
    for _ in 0..looks {
        if !has_carrier(device) {
            break;
        }
        thread::sleep(CARRIER_PAUSE);
    }
    if !wait_for_carrier(device, CARRIER_WAIT) {
        tracing::warn!(device, "no carrier");
    }
}

fn wait_for_carrier(device: &str, patience: Duration) -> bool {
    let looks = patience.as_millis().div_ceil(CARRIER_PAUSE.as_millis());
    for _ in 0..looks {
        if has_carrier(device) {
            return true;
        }
        thread::sleep(CARRIER_PAUSE);
    }
    has_carrier(device)
}

fn has_carrier(device: &str) -> bool {
    let flags = DeviceQuery::new(device).and_then(|mut query| query.flags());
    flags.is_ok_and(|flags| flags & libc::IFF_RUNNING != 0)
}

fn ourselves() -> super::error::Holder {
    super::error::Holder { pid: std::process::id(), name: "this process".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_veth_with_too_few_queues_is_told_so() {
        let info = |driver: &str| DeviceInfo {
            name: "v0".to_owned(),
            ifindex: 1,
            mtu: 1_500,
            mac: [0; 6],
            queues: 2,
            driver: driver.to_owned(),
            offers_checksums: false,
        };
        let error = io::Error::from_raw_os_error(libc::ENOSPC);
        let reason = native_refused(&info("veth"), &error);
        assert!(
            reason.contains("more transmit queues") && reason.contains("ethtool -L"),
            "{reason}"
        );
        assert!(!native_refused(&info("ice"), &error).contains("transmit queues"));
    }
}
