//! Names of connections, and where each is.
//!
//! A [`Key`] names a connection on its worker. An [`Address`] is shared by a connection's owner
//! and its handles: it says which worker and which slot. When a connection moves to another
//! worker, the owner writes the new place into it.

use crate::lb;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Names a connection of this worker: its slot, and which use of that slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Index into the table.
    pub(super) slot: u32,
    /// How often the slot was used before, modulo 2^30.
    pub(super) generation: u32,
}

/// Generations fit beside worker and slot into 64 bits, and come round after a billion uses.
pub(super) const GENERATION_BITS: u32 = 30;
/// Slots that connection ids can name. The last one is not used, so that a word of ones is
/// never a connection's address.
pub(super) const MAX_CONNECTIONS: usize = lb::MAX_SLOTS - 1;

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Ordered, but not made yet.
    Pending,
    /// In this slot of this worker.
    At(u16, Key),
    /// The connection is gone.
    Gone,
}

/// Where a connection is, shared by its handles and its owner.
#[derive(Debug)]
pub(super) struct Address {
    /// The slot in the low 24 bits, then the generation, then the worker.
    packed: AtomicU64,
    /// The worker that is to make the connection. It writes the place when it has made it.
    first_worker: u16,
}

const SLOT_BITS: u32 = lb::MAX_SLOTS.ilog2();
// Both have a slot that no table has.
const PENDING: u64 = u64::MAX;
const GONE: u64 = u64::MAX >> 1;

const _: () = assert!(SLOT_BITS + GENERATION_BITS + lb::MAX_WORKERS.ilog2() <= u64::BITS);
const _: () = assert!(MAX_CONNECTIONS < lb::MAX_SLOTS);

impl Address {
    /// The address of a connection that worker `worker` is asked to make.
    pub(super) fn pending(worker: u16) -> Arc<Self> {
        Arc::new(Self { packed: AtomicU64::new(PENDING), first_worker: worker })
    }

    /// The address of a connection that exists.
    pub(super) fn at(worker: u16, key: Key) -> Arc<Self> {
        let address = Self::pending(worker);
        address.move_to(worker, key);
        address
    }

    /// The connection is in this slot from now on.
    pub(super) fn move_to(&self, worker: u16, key: Key) {
        let place = u64::from(worker) << GENERATION_BITS | u64::from(key.generation);
        self.packed.store(place << SLOT_BITS | u64::from(key.slot), Ordering::Release);
    }

    /// The connection is no more.
    pub(super) fn end(&self) {
        self.packed.store(GONE, Ordering::Release);
    }

    pub(super) fn place(&self) -> Place {
        match self.packed.load(Ordering::Acquire) {
            PENDING => Place::Pending,
            GONE => Place::Gone,
            packed => {
                let slot = (packed % (1 << SLOT_BITS)) as u32;
                let place = packed >> SLOT_BITS;
                let generation = (place % (1 << GENERATION_BITS)) as u32;
                Place::At((place >> GENERATION_BITS) as u16, Key { slot, generation })
            }
        }
    }

    /// The worker to post to.
    pub(super) fn worker(&self) -> u16 {
        match self.place() {
            Place::At(worker, _) => worker,
            Place::Pending | Place::Gone => self.first_worker,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_where_the_connection_is() {
        let address = Address::pending(3);
        assert_eq!((address.place(), address.worker()), (Place::Pending, 3));
        let slot = MAX_CONNECTIONS as u32 - 1;
        let key = Key { slot, generation: (1 << GENERATION_BITS) - 1 };
        let last = lb::MAX_WORKERS as u16 - 1;
        address.move_to(last, key);
        assert_eq!((address.place(), address.worker()), (Place::At(last, key), last));
        address.move_to(1, Key { slot: 0, generation: 0 });
        assert_eq!(address.worker(), 1);
        address.end();
        assert_eq!(address.place(), Place::Gone);
    }
}
