//! The thread of a queue with [`Profile::MaxThroughput`](super::Profile): it receives, steers and sends,
//! and knows nothing of connections.
//!
//! # Steering
//!
//! The QUIC threads of queue `q` are the workers `q * n .. (q + 1) * n` of the fleet, where each queue has
//! `n`. An id that we issued names its worker, so `worker mod n` says which of the `n` gets the datagram:
//! the owner; or, if that serves another queue, the one with its number here, which hands the datagram
//! over as a worker of any profile does. Anything else (a client's first packets, a stateless reset) goes
//! by a keyed hash of the id and the address it came from: the packets of one handshake meet at one
//! worker, and no client can choose which.

use super::message::WorkerFleet;
use super::relay::{Link, RELAY_SLOTS, Slot};
use crate::datapath::{Datapath, DatapathError, MAX_BURST, RxMeta};
use crate::lb::{CID_LEN, Codec};
use crate::wire::packet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// Datagrams of one QUIC thread that are sent before the next has its turn: what one connection writes at
/// once stays together, for segmentation offload.
const LEAVING_BUDGET: usize = 2 * MAX_BURST;

const _: () = assert!(LEAVING_BUDGET <= RELAY_SLOTS);

/// Says which QUIC thread of the queue gets a datagram.
struct Steering {
    codec: Codec,
    hash: RandomState,
    /// How many there are.
    count: usize,
}

impl Steering {
    fn outlet(&self, meta: &RxMeta, datagram: &[u8]) -> usize {
        let id = packet::destination(datagram, CID_LEN).map_or(&[][..], |(_, id)| id);
        if let Some(route) = self.codec.decode(id) {
            return usize::from(route.worker) % self.count;
        }
        let hash = self.hash.hash_one((id, meta.path.remote));
        (hash % self.count as u64) as usize
    }
}

/// One QUIC thread, seen from the thread of its queue.
struct Outlet {
    link: Arc<Link>,
    /// Its number in the fleet.
    worker: usize,
    /// Taken out of the ring, and the datapath had no buffer for it.
    blocked: Option<Box<Slot>>,
    /// It has got something in this turn.
    is_to_wake: bool,
}

/// Datagrams that were not handed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Refused {
    /// The QUIC thread had no empty buffer.
    pub(super) full: u64,
    /// Larger than a buffer.
    pub(super) truncated: u64,
}

/// See the [module](self). `D` is the kind of its datapath, which kernel UDP gets with its first address.
pub(super) struct Forwarder<D> {
    datapath: Option<D>,
    outlets: Box<[Outlet]>,
    steering: Steering,
    fleet: Arc<WorkerFleet>,
    refused: Refused,
    /// Whose turn to send is first.
    first: usize,
}

impl<D: Datapath> Forwarder<D> {
    /// For the QUIC threads that are the workers from number `first` on.
    pub(super) fn new(
        links: Vec<Arc<Link>>,
        first: usize,
        codec: Codec,
        fleet: Arc<WorkerFleet>,
    ) -> Self {
        let steering = Steering { codec, hash: RandomState::new(), count: links.len() };
        let outlet =
            |(at, link)| Outlet { link, worker: first + at, blocked: None, is_to_wake: false };
        let outlets = links.into_iter().enumerate().map(outlet).collect();
        let refused = Refused::default();
        Self { datapath: None, outlets, steering, fleet, refused, first: 0 }
    }

    /// What it receives from and sends through.
    pub(super) fn datapath(&mut self) -> Option<&mut D> {
        self.datapath.as_mut()
    }

    pub(super) fn set_datapath(&mut self, datapath: D) {
        self.datapath = Some(datapath);
    }

    pub(super) fn refused(&self) -> Refused {
        self.refused
    }

    /// A burst in and what waits out. Returns how many datagrams there were.
    ///
    /// # Errors
    /// The datapath is lost.
    pub(super) fn turn(&mut self) -> Result<usize, DatapathError> {
        if self.datapath.is_none() {
            return Ok(0);
        }
        let received = self.receive();
        // Before the rest: they can begin.
        self.wake();
        let work = received + self.send();
        let flushed = self.datapath.as_mut().map_or(Ok(()), Datapath::flush);
        self.wake();
        flushed.map(|()| work)
    }

    fn receive(&mut self) -> usize {
        let Self { datapath, outlets, steering, refused, .. } = self;
        let Some(datapath) = datapath else { return 0 };
        datapath.receive(MAX_BURST, &mut |meta, datagram| {
            let outlet = &mut outlets[steering.outlet(meta, datagram)];
            let Some(mut slot) = outlet.link.vacant() else {
                refused.full += 1;
                return;
            };
            if slot.fill(meta, datagram) {
                outlet.link.deliver(slot);
                outlet.is_to_wake = true;
            } else {
                refused.truncated += 1;
                outlet.link.unused(slot);
            }
        })
    }

    fn send(&mut self) -> usize {
        let Self { datapath, outlets, first, .. } = self;
        let Some(datapath) = datapath else { return 0 };
        let count = outlets.len();
        *first = (*first + 1) % count;
        (0..count).map(|turn| send_from(&mut outlets[(*first + turn) % count], datapath)).sum()
    }

    /// Once for each burst: a wake-up is a fence, and perhaps a system call.
    fn wake(&mut self) {
        for outlet in &mut self.outlets {
            if std::mem::take(&mut outlet.is_to_wake)
                && let Some(inbox) = self.fleet.inbox(outlet.worker)
            {
                inbox.wakeup.wake();
            }
        }
    }

    /// A turn panicked.
    #[cold]
    pub(super) fn recover(&mut self) {
        if let Some(datapath) = &mut self.datapath {
            datapath.recover();
        }
        self.wake();
    }

    /// True if the datapath had no buffer for what is to leave.
    pub(super) fn is_blocked(&self) -> bool {
        self.outlets.iter().any(|outlet| outlet.blocked.is_some())
    }

    /// True if all that was to leave has left.
    pub(super) fn is_drained(&self) -> bool {
        !self.is_blocked() && self.outlets.iter().all(|outlet| outlet.link.is_idle())
    }

    /// Arms the wake-ups of the datapath. False if there is something to do. To be called after the sleep
    /// was announced.
    pub(super) fn prepare_sleep(&mut self) -> bool {
        let quiet = self.datapath.as_mut().is_none_or(Datapath::prepare_sleep);
        quiet && self.outlets.iter().all(|outlet| outlet.link.is_idle())
    }
}

fn send_from(outlet: &mut Outlet, datapath: &mut impl Datapath) -> usize {
    let mut sent = 0;
    while sent < LEAVING_BUDGET {
        let Some(slot) = outlet.blocked.take().or_else(|| outlet.link.next_leaving()) else {
            break;
        };
        let path = &slot.meta.path;
        let Some(buffer) = datapath.tx_buffer(path) else {
            outlet.blocked = Some(slot);
            break;
        };
        let payload = slot.payload();
        let len = payload.len().min(buffer.len());
        buffer[..len].copy_from_slice(&payload[..len]);
        datapath.tx_commit(len, path, slot.meta.ecn);
        outlet.link.has_left(slot);
        sent += 1;
    }
    outlet.is_to_wake |= sent > 0 && outlet.link.is_awaited();
    sent
}

#[cfg(test)]
mod tests;
