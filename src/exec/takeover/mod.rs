//! A new process takes the port over from the running one, and no connection notices.
//!
//! To replace a program, or its settings, a second process is started beside the first. The first has
//! [offered](super::Registration::offer_takeover) itself at a socket in the file system; the second connects to
//! it ([`RegistrationConfig::takeover`](super::RegistrationConfig::takeover)) and gets what it needs by
//! descriptors (SCM_RIGHTS):
//!
//! ```text
//!   predecessor                                           successor
//!        |  <------------------- Hello ----------------------  |
//!        |  -- secrets, process number, kernel sockets, -----> |  loads its own XDP program, enters the
//!        |     AF_XDP sockets, link, feeds                     |  predecessor's sockets, takes the link
//!        |                                                     |
//!        |  <-- Leave(worker) --- for each worker ------------ |  empties the slot of the queue
//!        |      closes its AF_XDP socket, serves               |
//!        |      by the kernel sockets ----- Left ------------> |  binds its own
//!        |  <-- Yield(worker) -------------------------------- |
//!        |      reads them no more -------- Yielded ---------> |  reads them
//!        |                                                     |
//!        |  <------------------ Complete --------------------- |  once its listeners accept
//!        |      accepts no more ---- Completed --------------> |
//!        |                                                     |
//!   its connections go on <======= feed, for each worker ===== |  what arrives for them
//! ```
//!
//! - **Who reads.** The kernel sockets are the same in both processes, and exactly one of both reads each:
//!   what lies in their buffers is not lost, whoever it is for. While a queue changes hands its packets fall
//!   there.
//! - **Whose packet.** Connection ids carry the number of the process (see [`crate::lb`]). The successor
//!   passes what is not its own through a *feed* (`datapath/fed.rs`), with its path and its marks. Until
//!   `Complete` it passes on as well what no connection and no listener of its own is for.
//! - **How it is answered.** The predecessor sends through the kernel sockets that it still has.
//! - **Which secrets.** Both make connection ids, tokens and stateless resets from the same secret: a token
//!   from before is good after, and what is left of a connection can be reset.
//! - **Several in a row.** A predecessor that has predecessors gives their feeds away too. Ids tell four
//!   processes apart; a fifth is refused until the first has ended.
//! - **A successor that dies before `Complete`** leaves the predecessor serving: it puts its program back,
//!   binds the queues that it had given up, and reads its sockets again.
//! - **A successor that dies later**, while the predecessor still has connections, leaves those to go on: the
//!   predecessor reads the kernel sockets again, by which all comes then.
//!
//! Handshakes that were under way go on: an id of the predecessor's tells them, once its client has heard
//! one. What a client repeats before that begins anew with the successor, and the client takes the answer that
//! comes first. A stateless reset by a peer for a connection of the predecessor's is not passed on, since
//! nothing in it names one: that connection ends by its timeout.
//!
//! All of it is control plane, but for the feed, which costs the successor a system call for each datagram.

mod inherit;
mod orders;
mod wire;

pub use inherit::{TakeoverError, TookOver};

pub(super) use inherit::{Inheritance, Received, receive};
pub(super) use orders::{Order, Shown};
pub(super) use wire::{Channel, Device, Message, PROTOCOL, listen_at};

/// What both processes have to agree on: the same in every copy of a process.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Identity {
    /// The number of the process.
    pub(super) process: u8,
    /// What connection ids, tokens and resets are made from.
    pub(super) secret: [u8; 32],
    pub(super) server_id: u32,
    pub(super) cid_config_id: u8,
    pub(super) cid_key: Option<[u8; 16]>,
}
