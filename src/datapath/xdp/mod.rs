//! AF_XDP: packets between a NIC queue and this process, without the kernel's network stack.
//!
//! An XDP program (`bpf/steer.bpf.c`) runs for every packet a NIC receives. It hands packets to
//! registered addresses and ports to an AF_XDP socket of the queue they arrived on. The socket shares memory
//! with the kernel: a UMEM, cut into frames, and four rings that say whose turn each frame is.
//!
//! ```text
//!            control plane, shared                      one worker, one thread, one queue
//!   XdpDevice  program, maps, ports, ladder    XdpDatapath
//!     |  loader: aya, bpf_link                    |  socket: xsk-rs, options
//!     |  who: programs and sockets of others      |  umem, rings: frames, bursts
//!     |  ladder: zero-copy, copy, generic         |  metadata: checksums left to the NIC
//!     |                                           |  neighbours: link addresses for first packets
//!     '--- open_queue(queue) ------------------>  '  ports: kernel sockets beside
//! ```
//!
//! [`XdpDevice::attach`] loads and attaches; [`XdpDevice::listen`] says what to steer;
//! [`XdpDevice::open_queue`], on the thread that will serve the queue, makes an [`XdpDatapath`].
//!
//! [`HashProbe`] stands apart, for diagnosis: it only looks at what arrives, and where.
//!
//! Faults here are silent, so much of this module checks itself: the slot of each socket is read
//! back through the kernel, completions that stop replace the socket, nothing that another process
//! attached is removed, each step down the ladder is logged with its reason, and what this process
//! attached dies with it.

mod attach;
mod carrier;
mod config;
mod datapath;
mod device;
mod error;
mod handover;
mod inspect;
mod ladder;
mod layout;
mod lease;
mod loader;
mod metadata;
mod neighbours;
mod netlink;
mod poll;
mod ports;
mod probe;
mod registration;
mod rings;
mod share;
mod socket;
mod stall;
mod steering;
mod sys;
mod umem;
mod who;

#[cfg(test)]
mod tests;

pub use crate::datapath::headers::VerdictCounters;
pub use config::{BusyPoll, TxChecksum, XdpConfig, XdpProgram};
pub use datapath::XdpDatapath;
pub(crate) use device::HandedDevice;
pub use device::{PortUse, XdpDevice};
pub use error::{ForeignProgram, Holder, XdpError};
pub use ladder::{Ladder, Require};
pub use loader::is_ours;
pub use probe::{Arrival, Carrier, HashProbe, HashType};
pub use sys::CAPABILITIES;
