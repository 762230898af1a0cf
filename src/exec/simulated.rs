//! Workers without threads and without a clock: for simulations and benchmarks.
//!
//! ```
//! use quiclane::datapath::udp::UdpDatapath;
//! use quiclane::exec::{SimulatedWorkers, LaneLimits, Worker};
//! use quiclane::time::Instant;
//!
//! let workers = SimulatedWorkers::new(2, 7)?; // two workers of one host; the seed makes runs repeatable
//! let worker: Worker<UdpDatapath> = workers.worker(0, Instant::EPOCH, LaneLimits::default());
//! # drop(worker);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Give each worker a datapath with [`Worker::add_datapath`], then [`Worker::listen`] or
//! [`Worker::connect`], then call [`Worker::turn`] with whatever time it shall be.

use super::address::Address;
use super::api::{Acceptor, Handle, Handler, Services, Setting};
use super::config::{ClientConfig, INBOX_COMMANDS, LaneLimits, Polling, ServerConfig};
use super::counters::Snapshot;
use super::entropy::Entropy;
use super::lane::{Lane, LaneParts};
use super::message::{ConnectRequest, Control, Listener, WorkerFleet};
use super::worker::{self, Turn};
use crate::datapath::{Datapath, DatapathError};
use crate::lb::{Codec, Config};
use crate::proto::crypto::ResetKey;
use crate::proto::endpoint::Endpoint;
use crate::proto::token::{TokenConfig, Tokens, UsedTokens};
use crate::time::Instant;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// The workers of one simulated host: they hand datagrams to each other, and share keys.
pub struct SimulatedWorkers {
    fleet: Arc<WorkerFleet>,
    seed: u64,
    used_tokens: UsedTokens,
}

impl std::fmt::Debug for SimulatedWorkers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedWorkers")
            .field("workers", &self.fleet.len())
            .finish_non_exhaustive()
    }
}

impl SimulatedWorkers {
    /// A host for `workers` workers. Everything random follows from `seed`.
    ///
    /// # Errors
    /// The process has no descriptors left: inboxes have one each.
    pub fn new(workers: usize, seed: u64) -> io::Result<Self> {
        let used_tokens = UsedTokens::new(&TokenConfig::default(), UsedTokens::DEFAULT_CAPACITY);
        Ok(Self { fleet: WorkerFleet::new(workers, INBOX_COMMANDS)?, seed, used_tokens })
    }

    /// The worker of that number, at that time.
    #[must_use]
    pub fn worker<D: Datapath>(
        &self,
        number: usize,
        now: Instant,
        limits: LaneLimits,
    ) -> Worker<D> {
        let mut host = Entropy::seeded(self.seed);
        let keys = Keys {
            cid: host.bytes(),
            reset: host.bytes(),
            tokens: host.bytes(),
            used_tokens: self.used_tokens.clone(),
        };
        let services = Services::new(Setting {
            now,
            worker: number as u16,
            fleet: self.fleet.clone(),
            entropy: Entropy::seeded(self.seed ^ (number as u64 + 1) << 32),
            clock: None,
            poller: None,
        });
        let config = Config { config_id: 0, server_id: 0, key: Some(keys.cid), secret: keys.cid };
        let Ok(codec) = Codec::new(&config) else { unreachable!("0 is no reserved id") };
        let reset = ResetKey::new(&keys.reset);
        let lane = Lane::new(LaneParts { services, codec, process: 0, reset, limits });
        Worker { worker: worker::Worker::new(lane, self.fleet.clone(), Polling::Spin), keys }
    }
}

/// What workers of a host have in common.
struct Keys {
    cid: [u8; 16],
    reset: [u8; 32],
    tokens: [u8; 32],
    used_tokens: UsedTokens,
}

/// A worker of a [`SimulatedWorkers`]. The caller turns it. `D` is the type of its datapaths.
pub struct Worker<D> {
    worker: worker::Worker<D>,
    keys: Keys,
}

impl<D: Datapath> Worker<D> {
    /// Adds a datapath, and says which number it has.
    ///
    /// # Errors
    /// Its descriptors cannot be waited for.
    pub fn add_datapath(&mut self, datapath: D) -> io::Result<usize> {
        self.worker.add_datapath(datapath)
    }

    /// The datapaths, by number.
    pub fn datapaths(&mut self) -> &mut [D] {
        self.worker.datapaths()
    }

    /// Its lane.
    pub fn lane(&mut self) -> &mut Lane {
        self.worker.lane()
    }

    /// What the worker has counted.
    pub fn snapshot(&mut self) -> Snapshot {
        self.worker.snapshot()
    }

    /// Accepts connections that arrive at `datapath` for `local`.
    pub fn listen(
        &mut self,
        datapath: usize,
        local: SocketAddr,
        config: &ServerConfig,
        acceptor: Arc<dyn Acceptor>,
    ) {
        let keys = &self.keys;
        let endpoint = Endpoint::new(
            config.transport.clone(),
            config.tls.clone(),
            Tokens::new(&keys.tokens, TokenConfig::default(), keys.used_tokens.clone()),
            ResetKey::new(&keys.reset),
            config.retry,
        )
        .limited(&config.answers)
        .with_health(config.health.clone());
        let (over, refusing) = (Arc::default(), [(); 2].map(|()| Arc::default()));
        let part = Listener { id: 0, datapath, local, over, refusing, endpoint, acceptor };
        self.worker.lane().listen(part);
    }

    /// Begins a connection from `local` through `datapath`.
    pub fn connect(
        &mut self,
        datapath: usize,
        local: SocketAddr,
        remote: SocketAddr,
        server_name: &str,
        config: &ClientConfig,
        handler: Box<dyn Handler>,
    ) -> Handle {
        let address = Address::pending(self.worker.lane().number() as u16);
        let mut request =
            ConnectRequest::new(remote, server_name, config, handler, address.clone());
        (request.datapath, request.local) = (datapath, local);
        self.worker.lane().connect(request);
        Handle::new(address, self.worker.fleet().clone())
    }

    /// One turn, at `now`; then what callbacks asked for in it. A connection that a callback began
    /// ([`WorkerRef::connect`](super::WorkerRef::connect)) goes through the first datapath, from an
    /// unspecified address.
    ///
    /// # Errors
    /// A datapath is lost. The turn was finished all the same; connections that use another
    /// one go on.
    pub fn turn(&mut self, now: Instant) -> Result<Turn, DatapathError> {
        let mut turn = self.worker.turn(now);
        while let Some(control) = self.worker.next_control() {
            self.carry_out(control);
            if let Ok(turn) = &mut turn {
                turn.next = self.worker.lane().next_timeout();
            }
        }
        turn
    }

    fn carry_out(&mut self, control: Control) {
        match control {
            Control::Connect(request) => self.worker.lane().connect(*request),
            Control::Listen(listener) => self.worker.lane().listen(*listener),
            Control::StopListening(id) => self.worker.lane().stop_listening(id),
            Control::Takeover(_) => {}
            Control::Finish { code, .. } => self.worker.lane().close_all(code),
            // There is no address to open: the caller gets no answer, which is an error there.
            Control::Open { reply, .. } => drop(reply),
        }
    }

    /// After a turn: returns at once, or sleeps until something arrives, `turn.next` comes, or
    /// `until`, whichever is first. `now` is the time of the turn.
    pub fn wait(&mut self, now: Instant, turn: Turn, until: Instant) {
        self.worker.wait(now, turn, until);
    }

    /// The last turn panicked.
    #[cfg(test)]
    pub(super) fn recover(&mut self, now: Instant) -> usize {
        self.worker.recover(now)
    }

    #[cfg(test)]
    pub(super) fn fleet(&self) -> &Arc<WorkerFleet> {
        self.worker.fleet()
    }

    /// The worker without what a simulation adds.
    #[cfg(test)]
    pub(super) fn into_inner(self) -> worker::Worker<D> {
        self.worker
    }
}
