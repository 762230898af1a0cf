//! Workers without threads and without a clock: for simulations and benchmarks.
//!
//! ```
//! use quiclane::datapath::udp::UdpDatapath;
//! use quiclane::exec::{Crew, LaneLimits, Worker};
//! use quiclane::time::Instant;
//!
//! let crew = Crew::new(2, 7)?; // two workers of one host; the seed makes runs repeatable
//! let worker: Worker<UdpDatapath> = crew.worker(0, Instant::EPOCH, LaneLimits::default());
//! # drop(worker);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Give each worker a datapath with [`Worker::add_port`], then [`Worker::listen`] or
//! [`Worker::connect`], then call [`Worker::turn`] with whatever time it shall be.

use super::address::Address;
use super::api::{Handle, Handler, Services, Setting};
use super::config::{ClientConfig, INBOX_COMMANDS, LaneLimits, Polling, ServerConfig};
use super::entropy::Entropy;
use super::handoff::Fleet;
use super::lane::{Lane, LaneParts};
use super::message::{Acceptor, Command, ConnectRequest, Listener};
use super::worker::Worker;
use crate::datapath::Datapath;
use crate::lb::{Codec, Config};
use crate::proto::crypto::ResetKey;
use crate::proto::endpoint::Endpoint;
use crate::proto::token::{TokenConfig, Tokens, UsedTokens};
use crate::time::Instant;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// The workers of one simulated host: they hand datagrams to each other, and share keys.
pub struct Crew {
    fleet: Arc<Fleet<Command>>,
    seed: u64,
    used_tokens: UsedTokens,
}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crew").field("workers", &self.fleet.len()).finish_non_exhaustive()
    }
}

impl Crew {
    /// Room for `workers` workers. Everything random follows from `seed`.
    ///
    /// # Errors
    /// The process has no descriptors left: inboxes have one each.
    pub fn new(workers: usize, seed: u64) -> io::Result<Self> {
        let used_tokens = UsedTokens::new(&TokenConfig::default(), UsedTokens::DEFAULT_CAPACITY);
        Ok(Self { fleet: Fleet::new(workers, INBOX_COMMANDS)?, seed, used_tokens })
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
        let secrets = Keys {
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
        let config =
            Config { config_id: 0, server_id: 0, key: Some(secrets.cid), secret: secrets.cid };
        let Ok(codec) = Codec::new(&config) else { unreachable!("0 is no reserved id") };
        let reset = ResetKey::new(&secrets.reset);
        let lane = Lane::new(LaneParts { services, codec, reset, limits });
        Worker::new(lane, self.fleet.clone(), Polling::Spin).with_keys(secrets)
    }
}

/// What workers of a host have in common.
#[derive(Clone)]
pub(super) struct Keys {
    cid: [u8; 16],
    reset: [u8; 32],
    tokens: [u8; 32],
    used_tokens: UsedTokens,
}

impl<D: Datapath> Worker<D> {
    /// Accepts connections that arrive at `port` for `local`. On a worker of a [`Crew`]; those
    /// of a registration are told by [`Registration::listen`](super::Registration::listen).
    pub fn listen(
        &mut self,
        port: usize,
        local: SocketAddr,
        config: &ServerConfig,
        acceptor: Acceptor,
    ) {
        let Some(keys) = self.keys() else { return };
        let endpoint = Endpoint::new(
            config.transport.clone(),
            config.tls.clone(),
            Tokens::new(&keys.tokens, TokenConfig::default(), keys.used_tokens.clone()),
            ResetKey::new(&keys.reset),
            config.retry,
        )
        .limited(&config.answers);
        let over = Arc::default();
        self.lane().listen(Listener { id: 0, port, local, over, endpoint, acceptor });
    }

    /// Begins a connection from `local` through `port`.
    pub fn connect(
        &mut self,
        port: usize,
        local: SocketAddr,
        remote: SocketAddr,
        server_name: &str,
        config: &ClientConfig,
        handler: Box<dyn Handler>,
    ) -> Handle {
        let address = Address::pending(self.lane().number() as u16);
        let mut request =
            ConnectRequest::new(remote, server_name, config, handler, address.clone());
        (request.port, request.local) = (port, local);
        self.lane().connect(request);
        Handle::new(address, self.fleet().clone())
    }
}
