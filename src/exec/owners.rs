//! Finds the worker that owns a connection by something else than an id that we issued.
//!
//! Two kinds of datagrams name no worker, and the NIC hands them to the queue that the addresses hash
//! to: a stateless reset, whose id is random, and a client's first packets, whose id the client chose.
//! The one is known by the token at its end, the other by its id and address. So workers note here
//! which worker a token or a handshake belongs to, as a keyed hash, each kind in a table of its own. A
//! worker that receives a datagram that leads nowhere looks here.
//!
//! A table is small and loses entries rather than grow: a set of [`WAYS`] places for each hash, which
//! is one cache line. What finds no place is counted, and is recognised only where the owner receives
//! it.
//!
//! Writing is rare: when a peer gives out the token of the id in use, when a handshake begins, when a
//! connection ends. Reading is for datagrams that lead nowhere.

use crate::lb::MAX_WORKERS;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Places for hashes that fall together: a cache line of them.
const WAYS: usize = 8;
/// Sets of places. With eight ways, 65,536 entries have 512 KiB, and half as many find a place all but
/// once in ten thousand times.
const SETS: usize = 1 << 13;
/// The low bits of an entry are the worker, the others those of the hash. 0 is a free place.
const WORKER_MASK: u64 = MAX_WORKERS as u64 - 1;

const _: () = assert!(MAX_WORKERS.is_power_of_two() && SETS.is_power_of_two());

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Owners {
    /// The key is secret: a peer cannot choose two tokens or ids that collide.
    hash: RandomState,
    /// Empty where there is one worker.
    entries: Box<[AtomicU64]>,
    /// How many entries there are: at 0 the table is not read.
    noted: AtomicUsize,
}

impl Owners {
    pub(super) fn new(workers: usize) -> Self {
        let places = if workers > 1 { SETS * WAYS } else { 0 };
        let entries = (0..places).map(|_| AtomicU64::new(0)).collect();
        Self { hash: RandomState::new(), entries, noted: AtomicUsize::new(0) }
    }

    /// The hash of what a connection is known by: the same on every worker.
    pub(super) fn digest(&self, known_by: impl Hash) -> u64 {
        self.hash.hash_one(known_by)
    }

    /// True if no worker has noted anything.
    pub(super) fn is_empty(&self) -> bool {
        self.noted.load(Ordering::Relaxed) == 0
    }

    fn set(&self, digest: u64) -> &[AtomicU64] {
        let first = (digest >> 32) as usize % SETS * WAYS;
        self.entries.get(first..first + WAYS).unwrap_or_default()
    }

    /// Notes that a connection of `worker` is known by this hash. False if there is no place for it.
    pub(super) fn note(&self, digest: u64, worker: usize) -> bool {
        if self.entries.is_empty() {
            return true;
        }
        let entry = entry(digest, worker);
        let is_noted = self.set(digest).iter().any(|place| {
            place.compare_exchange(0, entry, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        });
        if is_noted {
            self.noted.fetch_add(1, Ordering::Relaxed);
        }
        is_noted
    }

    /// Forgets what `worker` has noted, if it has.
    pub(super) fn forget(&self, digest: u64, worker: usize) {
        let entry = entry(digest, worker);
        let is_found = self.set(digest).iter().any(|place| {
            place.compare_exchange(entry, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        });
        if is_found {
            self.noted.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The worker whose connection is known by this hash.
    pub(super) fn owner(&self, digest: u64) -> Option<u16> {
        let entries = self.set(digest).iter().map(|place| place.load(Ordering::Relaxed));
        let mut matching =
            entries.filter(|entry| *entry != 0 && entry & !WORKER_MASK == digest & !WORKER_MASK);
        matching.next().map(|entry| (entry & WORKER_MASK) as u16)
    }
}

fn entry(digest: u64, worker: usize) -> u64 {
    digest & !WORKER_MASK | worker as u64 & WORKER_MASK
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u64) -> u64 {
        // In one set, and each different.
        5 << 32 | number << 10
    }

    #[test]
    fn a_token_leads_to_its_worker_until_it_is_forgotten() {
        let owners = Owners::new(3);
        assert!(owners.is_empty() && owners.owner(digest(1)).is_none());
        assert!(owners.note(digest(1), 2) && owners.note(digest(2), 1));
        assert_eq!((owners.owner(digest(1)), owners.owner(digest(2))), (Some(2), Some(1)));
        owners.forget(digest(1), 1);
        assert_eq!(owners.owner(digest(1)), Some(2), "another worker's is not forgotten");
        owners.forget(digest(1), 2);
        owners.forget(digest(1), 2);
        assert_eq!((owners.owner(digest(1)), owners.is_empty()), (None, false));
        owners.forget(digest(2), 1);
        assert!(owners.is_empty());
    }

    #[test]
    fn a_full_set_takes_no_more_and_loses_nothing() {
        let owners = Owners::new(2);
        for number in 1..=WAYS as u64 {
            assert!(owners.note(digest(number), 1));
        }
        assert!(!owners.note(digest(9), 1));
        owners.forget(digest(9), 1);
        assert!((1..=WAYS as u64).all(|number| owners.owner(digest(number)) == Some(1)));
        owners.forget(digest(3), 1);
        assert!(owners.note(digest(9), 0));
        assert_eq!(owners.owner(digest(9)), Some(0));
    }

    #[test]
    fn one_worker_needs_no_table() {
        let owners = Owners::new(1);
        assert!(owners.entries.is_empty() && owners.note(digest(1), 0) && owners.is_empty());
        owners.forget(digest(1), 0);
        assert_eq!(owners.owner(digest(1)), None);
    }
}
