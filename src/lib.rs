//! Quiclane: a QUIC transport for bare metal.
//!
//! An XDP program hands UDP flows to AF_XDP sockets, one for each receive queue of the NIC. A worker,
//! which is a thread pinned near the NIC, serves each queue. It does everything for its connections:
//! rings, packets, crypto, QUIC, timers, and the callbacks of the application. A queue, its socket,
//! its thread and its table of connections are a *lane*. Kernel UDP sockets take the place of AF_XDP
//! where a device cannot have it.
//!
//! An application implements [`exec::Handler`] and opens an [`exec::Registration`], which starts the
//! workers, listens and connects. The examples have a client, an echo server, a server that drives its
//! own loop, and workers in loops of other makers.
//!
//! # The modules
//!
//! Arrows mean "may import", and none runs back:
//!
//! ```text
//! exec -> proto -> wire
//! exec -> datapath
//! exec -> topology
//! exec -> lb -> wire            all may use time, ecn, counters
//! ```
//!
//! | module | what it knows |
//! |---|---|
//! | [`wire`] | bytes to values and back: varints, headers, frames, transport parameters |
//! | [`proto`] | QUIC as state machines, without I/O, clock or threads |
//! | [`lb`] | connection ids that name server, worker and slot (QUIC-LB) |
//! | [`datapath`] | bursts of datagrams in and out: AF_XDP, kernel UDP, a simulated network |
//! | [`topology`] | the machine: NICs, queues, CPUs, NUMA nodes |
//! | [`exec`] | workers and their threads: tables, timers, listeners, handles |
//! | [`time`] | instants as numbers |
//! | [`ecn`] | the two ECN bits |
//! | [`counters`] | the one declaration of every counter |

pub mod counters;
pub mod datapath;
pub mod ecn;
pub mod exec;
pub mod lb;
pub mod proto;
pub mod time;
pub mod topology;
pub mod wire;

pub use proto::connection::{CloseReason, ConnectionStats, TransportConfig};
pub use proto::crypto::{
    CertificateVerdict, ClientTls, PeerCertificate, ServerTls, TlsConfigError,
};
pub use proto::endpoint::{AnswerLimits, RetryPolicy};
pub use proto::health::{HealthCheck, HealthCheckError};
pub use wire::{Dir, Side, StreamId};

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct ReadmeDoctests;
