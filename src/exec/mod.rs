//! Workers: their threads, tables, timers and inboxes, and the API for applications.
//!
//! The only module that knows both the protocol and the datapath, and the only one that knows
//! threads and a clock.
//!
//! ```text
//!   application threads                  worker 0: thread pinned beside queue 0
//!   +-----------------+   commands     +---------------------------------------------+
//!   | Registration    |--------------->| inbox   (bounded rings, handoff.rs)         |
//!   | Listener        |                |   |                                         |
//!   | Handle (Send)   |                |   v          Lane (lane/)                   |
//!   +-----------------+                | +-----------------------------------------+ |
//!                                      | | Table   slot + generation -> connection | |
//!        Handler callbacks <-----------|-| Wheel   one timer for each connection   | |
//!        ConnectionRef (not Send) ---->| | Services  timers, fds, closures         | |
//!                                      | | touched list -> who writes next         | |
//!                                      | +-----------------------------------------+ |
//!                                      |   ^ datagrams, lent        | buffers, lent  |
//!                                      |   |                        v                |
//!                                      | Datapath: AF_XDP queue 0, or kernel UDP     |
//!                                      +---------------------------------------------+
//!                                            |  a datagram of worker 1's connection
//!                                            v  (counted: rx_wrong_queue)
//!                                        worker 1: thread, queue 1, table, inbox, ...
//! ```
//!
//! # The model
//!
//! As in MsQuic, the application learns of everything that happens in a callback on the
//! thread that owns the connection. Callbacks of one connection never run in parallel and
//! never recurse; calls made in a callback run inline, on a [`ConnectionRef`] that cannot leave
//! it. As in mvfst, the worker serves the application too: its timers, its descriptors, its
//! closures, what it wants before and after each turn ([`WorkerRef`]). Workers post closures to each
//! other. From any other thread there is a [`Handle`], which posts to the
//! owner's bounded inbox.
//!
//! A connection belongs to one worker at a time. On the packet path nothing is locked, and no
//! atomic is shared with another worker but the counters of the inbox rings, once a turn.
//!
//! With [`Profile::MaxThroughput`] a worker is one of several QUIC threads of a queue, and its datapath is
//! two rings to the thread that has the socket:
//!
//! ```text
//!   thread of queue 0: AF_XDP or kernel UDP, steers by connection id
//!        |  ^                         |  ^
//!        v  |  rings (relay.rs)       v  |
//!      worker 0                     worker 1            thread of queue 1, workers 2 and 3, ...
//! ```
//!
//! # Where things are
//!
//! Bottom to top; a file imports what stands above it in this table (`tests/tidy.rs` holds it to
//! that, in more detail).
//!
//! | file | what |
//! |---|---|
//! | `sys`, `clock`, `entropy` | the machine: system calls, time, random bytes |
//! | `config`, `counters`, `address` | all settings; all counters; where a connection is |
//! | `affinity`, `crowding` | where a thread runs, and whether it may spin there |
//! | `fate` | how a connection ended, for those who wait |
//! | `relay` | the way between two threads, where datapath and QUIC have one each |
//! | `source` | the datapaths of a worker, and where they come from |
//! | `table`, `wheel`, `handoff`, `overrun`, `delay`, `status` | the parts of a worker |
//! | `pressure`, `rates` | which new connections a worker takes: by its load, by their number |
//! | `owners` | which worker a datagram is for that names none: a stateless reset, a client's first packet |
//! | `api/` | what applications touch: handler, references, handle, services |
//! | `message` | what passes between threads, datagrams aside |
//! | `lane/` | a worker without thread, clock and datapath: what simulations drive |
//! | `forward` | the turn of a thread that only moves datagrams |
//! | `worker` | the turn: lane, datapaths, inbox, sleep |
//! | `simulated` | workers without threads, for simulations |
//! | `registration/` | the front door: opening, listening, connecting, shutting down |
//!
//! # Whose loop it is
//!
//! [`Registration::open`] starts a thread for each worker, which sleeps by itself. With
//! [`Registration::open_without_threads`] the application owns threads and loops: [`WorkerLoop::turn`]
//! never sleeps, and says when the application may wait, for how long, and on which descriptor. The
//! examples `loop_epoll`, `loop_tokio` and `loop_foreign` do so. Which wake-ups a worker needs before
//! anyone may sleep for it is in `worker` and `handoff`.
//!
//! # Connections that move
//!
//! A connection whose datagrams keep arriving at another worker moves there, with all that it has:
//! `lane/moving.rs` tells how. An address that all its handles share says where it went, and the calls
//! of each thread stay in their order (`address`, checked in every interleaving by `tools/models`).

mod address;
mod affinity;
mod api;
pub mod clock;
mod config;
mod counters;
mod crowding;
mod delay;
mod entropy;
mod fate;
mod forward;
mod handoff;
mod lane;
mod message;
mod overrun;
mod owners;
pub mod parity {
    #![doc = include_str!("parity.md")]
}
mod predecessors;
mod pressure;
mod rates;
mod registration;
mod relay;

mod simulated;
mod source;
mod status;
mod sync;
mod sys;
mod table;
mod takeover;
#[cfg(test)]
mod testing;
mod wheel;
mod worker;

pub use crate::datapath::udp::{UdpError, UdpErrorKind};
pub use crate::proto::connection::{
    Drained, HandshakeSummary, IDEAL_SEND_MIN_BYTES, MigrateError, Migration, NetworkStatistics,
};
pub use crate::proto::streams::StreamsRef;
pub use affinity::PinError;
pub use api::{
    Acceptor, ConnectionRef, Decision, Deferred, Handle, HandleError, Handler, NewConnection,
    Processor, StreamHandler, TimerId, Unanswered, WaitError, WatchId, WorkerRef,
};
pub use config::{
    Affinity, ClientConfig, Io, LaneLimits, Pin, Polling, Profile, RegistrationConfig,
    ServerConfig, UdpTuning,
};
pub use counters::{LaneCounters, Snapshot, TurnCounters};
pub use lane::Lane;
pub use message::{ConnectFailure, Refusal};
pub use overrun::{CALLBACK_BUDGET_NS, Callback, OverrunCounters};
pub use pressure::Pressure;
pub use registration::{
    ListenError, Listener, Monitor, Next, Offer, OfferError, OpenError, Progress, Registration,
    ShutdownReport, TakenOver, Wait, WorkerLoop, WorkerSeed,
};
pub use simulated::{SimulatedWorkers, Worker};
pub use source::{LadderStep, OpenDatapathError};
pub use status::WorkerStatus;
pub use sys::{Interest, Readiness};
pub use takeover::{TakeoverError, TookOver};
pub use worker::Turn;

pub use crate::topology::survey::server::DeviceChanges;
