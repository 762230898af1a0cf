//! A seeded network in memory, with faults.
//!
//! One seed is one run: time is whatever the driver says, every random number comes from the
//! seed, and events at one instant happen in the order in which they were caused. So a failure
//! is repeated by its seed, and [`SimNet::trace_hash`] tells whether two runs did the same,
//! down to the last bit on the wire.
//!
//! ```text
//!   host A                      path A -> B                       host B
//! SimDatapath -- flush --> [Delay] -> [Drop] -> [Bottleneck] --> queue 0: SimDatapath
//!      ^                                                    \--> queue 1: SimDatapath
//!      |                        path B -> A
//!      +------------ [Delay] <- [Duplicate] <------------------- flush
//! ```
//!
//! A path is a list of [`Fault`]s for each direction between two hosts. A host has addresses
//! and queues; like a NIC it picks the queue of a datagram by a hash of the flow through an
//! indirection table, which can be changed under a live connection
//! ([`SimNet::set_queue_table`]). A host can be put behind an address translator that forgets
//! ([`SimNet::rebind`]).
//!
//! To drive it, until [`SimNet::next_event`] and every timer of the scenario say `None`:
//!
//! 1. take the earliest of `next_event` and the timers, and [`advance`](SimNet::advance) to it;
//! 2. let each worker have a turn: receive, process, transmit, flush.
//!
//! ```
//! use quiclane::datapath::sim::{Fault, SimConfig, SimNet};
//! use quiclane::datapath::{Datapath, Link, Path};
//! use quiclane::ecn::Ecn;
//! use quiclane::time::Instant;
//!
//! let net = SimNet::new(7, SimConfig::default());
//! let mut a = net.attach(&["10.0.0.1".parse()?], 1)?.remove(0);
//! let mut b = net.attach(&["10.0.0.2".parse()?], 1)?.remove(0);
//! net.set_path(a.host(), b.host(), vec![Fault::delay_ns(5_000_000)]);
//!
//! let path = Path { local: "10.0.0.1:1".parse()?, remote: "10.0.0.2:2".parse()?, link: Link::UNKNOWN };
//! a.tx_buffer(&path).ok_or("full")?[..5].copy_from_slice(b"hello");
//! a.tx_commit(5, &path, Ecn::Ect0);
//! a.flush()?;
//!
//! let arrival = net.next_event().ok_or("nothing is on its way")?;
//! assert_eq!(arrival, Instant::from_nanos(5_000_000));
//! net.advance(arrival);
//! assert_eq!(b.receive(64, &mut |_, bytes| assert_eq!(bytes, b"hello")), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod endpoint;
mod fault;
mod nat;
mod net;
mod rng;
#[cfg(test)]
mod tests;
mod trace;

pub use endpoint::{SimDatapath, SimMedium};
pub use fault::Fault;
pub use rng::{Chance, Rng};
pub use trace::{DropReason, NetStats, TapEvent, TapKind};

use crate::ecn::Ecn;
use crate::time::{Instant, MILLISECOND_NS};
use net::Core;
use std::cell::RefCell;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

/// Datagrams that a network holds at most; beyond, they are dropped and counted.
const MAX_IN_FLIGHT: usize = 65_536;
/// The length of the indirection table that a host begins with.
const QUEUE_TABLE_LEN: usize = 128;

/// What is the same for the whole network.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// The largest UDP payload that a host can send or receive.
    pub max_datagram_bytes: usize,
    /// How many datagrams a queue takes between two flushes.
    pub tx_frames: usize,
    /// How many received datagrams a queue holds.
    pub rx_frames: usize,
    /// The path between two hosts without a path of their own.
    pub default_path: Vec<Fault>,
}

impl Default for SimConfig {
    /// Ethernet, rings as long as a NIC's, and a millisecond each way.
    fn default() -> Self {
        Self {
            max_datagram_bytes: 1_500,
            tx_frames: 256,
            rx_frames: 1_024,
            default_path: vec![Fault::delay_ns(MILLISECOND_NS)],
        }
    }
}

/// Names a host of one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(usize);

/// Why a host could not be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// Another host, or address translator, has the address.
    AddressTaken(IpAddr),
    /// No address, or no queue.
    Nothing,
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressTaken(address) => write!(f, "{address} is taken: give another"),
            Self::Nothing => f.write_str("a host needs an address and a queue"),
        }
    }
}

impl std::error::Error for AttachError {}

/// The network. Clones are handles of the same one; it lives on one thread.
#[derive(Clone)]
pub struct SimNet {
    core: Rc<RefCell<Core>>,
}

impl SimNet {
    /// A network without hosts, at [`Instant::EPOCH`].
    #[must_use]
    pub fn new(seed: u64, config: SimConfig) -> Self {
        Self { core: Rc::new(RefCell::new(Core::new(seed, config))) }
    }

    /// A host with these addresses; returns a datapath for each of its queues.
    ///
    /// # Errors
    /// An address is taken, or there is nothing to attach.
    pub fn attach(
        &self,
        addresses: &[IpAddr],
        queues: usize,
    ) -> Result<Vec<SimDatapath>, AttachError> {
        let host = self.core.borrow_mut().attach(addresses, queues)?;
        Ok((0..queues).map(|queue| endpoint::datapath(self.core.clone(), host, queue)).collect())
    }

    /// What datagrams from one host to another meet, first to last. What is on its way
    /// already is not affected.
    pub fn set_path(&self, from: HostId, to: HostId, faults: Vec<Fault>) {
        let _ = self.core.borrow_mut().set_path(from, to, faults);
    }

    /// Puts a host behind an address translator: the network sees it under a port of the first
    /// of these addresses, and after each [`rebind`](Self::rebind) of the next. With a `shift`, ports
    /// tell who is behind them: they are the private ones, and so much more after each rebind.
    ///
    /// # Errors
    /// An address is taken, or the list is empty.
    pub fn put_behind_nat(
        &self,
        host: HostId,
        public: &[IpAddr],
        shift: Option<u16>,
    ) -> Result<(), AttachError> {
        self.core.borrow_mut().put_behind_nat(host, public, shift)
    }

    /// The host's address translator forgets all its mappings now.
    pub fn rebind(&self, host: HostId) {
        self.core.borrow_mut().rebind(host);
    }

    /// The host's address translator forgets all its mappings at `at`.
    pub fn rebind_at(&self, host: HostId, at: Instant) {
        self.core.borrow_mut().rebind_at(host, at);
    }

    /// Which queue gets the flows of each hash value, as `ethtool -X` sets it. False, and
    /// nothing is changed, if it is empty or names a queue that there is not.
    pub fn set_queue_table(&self, host: HostId, table: &[usize]) -> bool {
        self.core.borrow_mut().set_queue_table(host, table)
    }

    /// Gives one flow a queue, whatever the table says, as an ntuple rule does. False if there
    /// is no such queue.
    pub fn steer_flow(
        &self,
        host: HostId,
        local: SocketAddr,
        remote: SocketAddr,
        queue: usize,
    ) -> bool {
        self.core.borrow_mut().steer_flow(host, local, remote, queue)
    }

    /// The queue of a host that a flow arrives on, with the addresses as the host sees them.
    #[must_use]
    pub fn queue_of(&self, host: HostId, local: &SocketAddr, remote: &SocketAddr) -> usize {
        self.core.borrow().queue_of(host, local, remote)
    }

    /// Calls `tap` for everything that happens from now on. It must not call the network.
    pub fn observe(&self, tap: impl FnMut(&TapEvent<'_>) + 'static) {
        self.core.borrow_mut().watchers.add(Box::new(tap));
    }

    /// Delivers a datagram that no host sent, past every fault: for attacks.
    pub fn inject(&self, source: SocketAddr, destination: SocketAddr, ecn: Ecn, payload: &[u8]) {
        self.core.borrow_mut().inject(source, destination, ecn, payload);
    }

    /// The next instant at which something happens; now, if received datagrams wait in a
    /// queue; `None` if nothing is on its way.
    #[must_use]
    pub fn next_event(&self) -> Option<Instant> {
        self.core.borrow().next_event()
    }

    /// Lets everything happen that is due until `now`. Time does not run back.
    pub fn advance(&self, now: Instant) {
        self.core.borrow_mut().advance(now);
    }

    /// The time that the network was last advanced to.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.core.borrow().now
    }

    /// Counters of the whole network.
    #[must_use]
    pub fn stats(&self) -> NetStats {
        self.core.borrow().watchers.stats
    }

    /// A hash over everything that has happened, with its times and bytes.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.core.borrow().watchers.hash.value()
    }

    /// Datagrams on their way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.core.borrow().in_flight()
    }

    /// Buffers in use: in flight, or in a queue.
    #[must_use]
    pub fn frames_in_use(&self) -> usize {
        self.core.borrow().frames_out()
    }
}
