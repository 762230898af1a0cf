//! What a connection has set up at its worker: timers, watched descriptors, closures that wait.
//!
//! The worker keeps these in its own tables, by number and generation. The application knows them by
//! names that stay the same when the connection moves to another worker, where the numbers are
//! others. [`Owned`] is the list in between; [`Belongings`] are what travels.

use super::super::address::Key;
use super::super::message::Task;
use super::super::sys::Interest;
use crate::time::Instant;
use std::os::fd::RawFd;

/// Names with this bit are a connection's; the others are the worker's own.
const OF_CONNECTION: u64 = 1 << 63;

/// Names a timer: of the connection that set it, or of the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId(pub(super) Name);

/// Names a watched descriptor: of the connection that watches it, or of the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WatchId(pub(super) Name);

/// What the application knows a timer or a watch by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name {
    /// 0 for what belongs to a connection.
    worker: u16,
    number: u64,
}

impl Name {
    /// The name of what belongs to a worker.
    pub(super) fn of_worker(worker: u16, key: Key) -> Self {
        Self { worker, number: token_of(key) }
    }

    /// True if it belongs to a connection.
    pub(super) fn is_of_connection(self) -> bool {
        self.number & OF_CONNECTION != 0
    }

    /// Where it stands in the table of this worker; `None` if it belongs to a connection, or to another
    /// worker.
    pub(super) fn key(self, worker: u16) -> Option<Key> {
        (!self.is_of_connection() && self.worker == worker).then(|| key_of(self.number))
    }
}

/// A key as one word, whose highest bit is 0.
pub(super) fn token_of(key: Key) -> u64 {
    u64::from(key.generation) << u32::BITS | u64::from(key.slot)
}

/// The key that a word stands for.
pub(super) fn key_of(token: u64) -> Key {
    Key { slot: token as u32, generation: (token >> u32::BITS) as u32 }
}

/// Timers or watches of one connection: the names, and where each stands in the worker's table.
#[derive(Debug, Default)]
pub(in crate::exec) struct Owned {
    list: Vec<(u32, Key)>,
    next: u32,
}

impl Owned {
    /// Gives what stands at `key` a name.
    pub(super) fn add(&mut self, key: Key) -> Name {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.list.push((number, key));
        Self::name(number)
    }

    /// Takes a name out of the list; where it stands.
    pub(super) fn remove(&mut self, name: Name) -> Option<Key> {
        let at = self.list.iter().position(|(number, _)| name == Self::name(*number))?;
        Some(self.list.swap_remove(at).1)
    }

    /// What stands at `key` is over.
    pub(in crate::exec) fn forget(&mut self, key: Key) {
        self.list.retain(|(_, at)| *at != key);
    }

    /// Drops those that are over.
    pub(super) fn retain(&mut self, mut lives: impl FnMut(Key) -> bool) {
        self.list.retain(|(_, key)| lives(*key));
    }

    /// Takes all of them.
    pub(super) fn take(&mut self) -> Vec<(u32, Key)> {
        std::mem::take(&mut self.list)
    }

    /// As [`take`](Self::take), where only the keys matter.
    pub(in crate::exec) fn drain(&mut self) -> impl Iterator<Item = Key> {
        self.take().into_iter().map(|(_, key)| key)
    }

    /// Sets one back that has moved, under its name.
    pub(super) fn restore(&mut self, number: u32, key: Key) {
        self.list.push((number, key));
    }

    /// True if the list would have to grow for another.
    pub(super) fn is_full(&self) -> bool {
        self.list.len() == self.list.capacity()
    }

    fn name(number: u32) -> Name {
        Name { worker: 0, number: OF_CONNECTION | u64::from(number) }
    }
}

/// What travels with a connection to another worker.
#[derive(Default)]
pub(in crate::exec) struct Belongings {
    pub(super) timers: Vec<PackedTimer>,
    pub(super) watches: Vec<PackedWatch>,
    pub(super) tasks: Vec<Task>,
}

/// A timer without a worker.
pub(super) struct PackedTimer {
    pub(super) number: u32,
    pub(super) at: Instant,
    pub(super) token: u64,
}

/// A watch without a worker.
pub(super) struct PackedWatch {
    pub(super) number: u32,
    pub(super) fd: RawFd,
    pub(super) interest: Interest,
    pub(super) token: u64,
}
