//! The table of connections of one worker.
//!
//! A packet finds its connection by number, not by hash: the connection id that we issued says
//! worker, slot and generation (see [`crate::lb`]). The slot is an index into an array; the
//! generation says how often the slot was used before, so that an id of a connection that is
//! gone, or a forged one, finds nothing.
//!
//! ```text
//!   slots   | gen 3, Box -> connection | gen 7, free | gen 1, Box -> connection | ...
//!                                          free list: 1 -> 5 -> ...
//! ```
//!
//! A free slot that was left last is taken first: its memory is still in the cache.
//!
//! Only the first packets of a client carry an id that the client chose. For these alone there
//! is a map, hashed with a secret key (`RandomState`, SipHash), so that a client cannot choose ids
//! that collide (ATTACKS row 9). Its owner bounds it, and removes an entry when the handshake has
//! failed, or was done a while ago. The map's key holds the client's address as well: an attacker
//! that guesses another client's id finds nothing.

use super::address::{GENERATION_BITS, Home, Key, MAX_CONNECTIONS};
use super::sys;
use crate::wire::ConnectionId;
use std::collections::HashMap;
use std::hash::RandomState;
use std::net::SocketAddr;

/// What a client's first packets are known by: the id that it chose, and its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct InitialKey {
    /// The destination connection id of the client's first packet.
    pub(super) dcid: ConnectionId,
    /// The client's address.
    pub(super) remote: SocketAddr,
}

/// The table is full: the limit is in the worker's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Debug)]
enum Place<T> {
    Free {
        next: Option<u32>,
    },
    Live(Box<T>),
    /// Kept for a connection that comes from another worker.
    Reserved,
    /// Its connection lives there now, and ids that lead here are in use.
    Away(Home),
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    place: Place<T>,
}

/// Connections by slot, and by the ids of their first packets.
///
/// [`insert`](Self::insert) gives the key that [`get`](Self::get) takes;
/// [`remove`](Self::remove) ends it. A connection that moves leaves with [`depart`](Self::depart) for
/// a place that the other worker [reserved](Self::reserve), where it is [seated](Self::seat); its slot
/// here says where it is until it is [released](Self::release).
#[derive(Debug)]
pub(super) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Option<u32>,
    /// Slots that are not free.
    len: usize,
    reserved: usize,
    away: usize,
    limit: usize,
    initials: HashMap<InitialKey, Key, RandomState>,
}

impl<T> Table<T> {
    /// An empty table for at most `limit` connections.
    #[must_use]
    pub(super) fn new(limit: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: None,
            len: 0,
            reserved: 0,
            away: 0,
            limit: limit.min(MAX_CONNECTIONS),
            initials: HashMap::default(),
        }
    }

    /// How many connections there are.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.len - self.reserved - self.away
    }

    /// True when there is no connection, and none is to come.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.len == self.away
    }

    /// How many slots were ever used: keys stay below it.
    #[must_use]
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The key that the next [`insert`](Self::insert) will give; `None` at the limit.
    #[must_use]
    pub(super) fn next_key(&self) -> Option<Key> {
        match self.free {
            Some(slot) => Some(Key { slot, generation: self.slots[slot as usize].generation }),
            None if self.slots.len() < self.limit => {
                Some(Key { slot: self.slots.len() as u32, generation: 0 })
            }
            None => None,
        }
    }

    /// Puts what `make` returns for its key into a free slot.
    ///
    /// # Errors
    /// [`Full`] at the limit; `make` was not called then.
    pub(super) fn insert(&mut self, make: impl FnOnce(Key) -> T) -> Result<Key, Full> {
        let key = self.occupy(Place::Reserved).ok_or(Full)?;
        self.slots[key.slot as usize].place = Place::Live(Box::new(make(key)));
        Ok(key)
    }

    fn occupy(&mut self, place: Place<T>) -> Option<Key> {
        let key = self.next_key()?;
        if key.slot as usize == self.slots.len() {
            self.slots.push(Slot { generation: 0, place: Place::Free { next: None } });
        }
        let entry = &mut self.slots[key.slot as usize];
        if let Place::Free { next } = std::mem::replace(&mut entry.place, place) {
            self.free = next;
        }
        self.len += 1;
        Some(key)
    }

    /// The connection that `key` names, if it still lives.
    pub(super) fn get(&mut self, key: Key) -> Option<&mut T> {
        match self.slots.get_mut(key.slot as usize) {
            Some(Slot { generation, place: Place::Live(value) })
                if *generation == key.generation =>
            {
                Some(value)
            }
            _ => None,
        }
    }

    /// As [`get`](Self::get), to look at.
    pub(super) fn peek(&self, key: Key) -> Option<&T> {
        match self.slots.get(key.slot as usize) {
            Some(Slot { generation, place: Place::Live(value) })
                if *generation == key.generation =>
            {
                Some(value)
            }
            _ => None,
        }
    }

    /// Fetches a slot into the cache, before [`get`](Self::get) wants it.
    pub(super) fn fetch_slot(&self, slot: u32) {
        if let Some(slot) = self.slots.get(slot as usize) {
            sys::prefetch(std::ptr::from_ref(slot).cast(), size_of_val(slot));
        }
    }

    /// The connection in `slot` with its key, of any generation.
    pub(super) fn get_slot(&mut self, slot: u32) -> Option<(Key, &mut T)> {
        match self.slots.get_mut(slot as usize) {
            Some(Slot { generation, place: Place::Live(value) }) => {
                Some((Key { slot, generation: *generation }, value))
            }
            _ => None,
        }
    }

    fn slot_of(&mut self, key: Key) -> Option<&mut Place<T>> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        (slot.generation == key.generation).then_some(&mut slot.place)
    }

    /// Keeps a free slot for a connection that comes from another worker; `None` at the limit.
    pub(super) fn reserve(&mut self) -> Option<Key> {
        let key = self.occupy(Place::Reserved)?;
        self.reserved += 1;
        Some(key)
    }

    /// Slots that are kept for connections that come.
    pub(super) fn reserved(&self) -> usize {
        self.reserved
    }

    /// True if the slot is kept for a connection that comes.
    pub(super) fn is_reserved(&self, key: Key) -> bool {
        matches!(
            self.slots.get(key.slot as usize),
            Some(Slot { generation, place: Place::Reserved }) if *generation == key.generation
        )
    }

    /// Sets a connection into the slot that was kept for it.
    ///
    /// # Errors
    /// Gives the connection back if no slot was kept under `key`.
    pub(super) fn seat(&mut self, key: Key, value: Box<T>) -> Result<&mut T, Box<T>> {
        if !self.is_reserved(key) {
            return Err(value);
        }
        self.reserved -= 1;
        let place = &mut self.slots[key.slot as usize].place;
        *place = Place::Live(value);
        match place {
            Place::Live(value) => Ok(value),
            _ => unreachable!("it was set just now"),
        }
    }

    /// Lifts a connection out: it lives at `home` from now on. Its slot is not used for another until
    /// it is [released](Self::release).
    pub(super) fn depart(&mut self, key: Key, home: Home) -> Option<Box<T>> {
        let place = self.slot_of(key)?;
        if !matches!(place, Place::Live(_)) {
            return None;
        }
        let Place::Live(value) = std::mem::replace(place, Place::Away(home)) else { return None };
        self.away += 1;
        Some(value)
    }

    /// Where the connection lives that was here.
    #[cold]
    pub(super) fn away(&self, key: Key) -> Option<Home> {
        match self.slots.get(key.slot as usize) {
            Some(Slot { generation, place: Place::Away(home) })
                if *generation == key.generation =>
            {
                Some(*home)
            }
            _ => None,
        }
    }

    /// Gives up a slot that was kept for a connection that comes, or for one that has left.
    pub(super) fn release(&mut self, key: Key) {
        match self.slot_of(key) {
            Some(Place::Reserved) => self.reserved -= 1,
            Some(Place::Away(_)) => self.away -= 1,
            _ => return,
        }
        self.retire(key.slot);
    }

    /// Ends a connection: its key, and every id made from it, finds nothing from now on.
    pub(super) fn remove(&mut self, key: Key) -> Option<Box<T>> {
        let place = self.slot_of(key)?;
        if !matches!(place, Place::Live(_)) {
            return None;
        }
        let Place::Live(value) = std::mem::replace(place, Place::Reserved) else { return None };
        self.retire(key.slot);
        Some(value)
    }

    fn retire(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        entry.generation = (entry.generation + 1) % (1 << GENERATION_BITS);
        entry.place = Place::Free { next: self.free };
        self.free = Some(slot);
        self.len -= 1;
    }

    /// Makes the first packets of a client find `key`, and no earlier connection.
    pub(super) fn insert_initial(&mut self, initial: InitialKey, key: Key) {
        self.initials.insert(initial, key);
    }

    /// How many connections are found by what a client chose.
    #[cfg(test)]
    pub(super) fn initials(&self) -> usize {
        self.initials.len()
    }

    /// Which connection a client's first packet belongs to.
    #[must_use]
    pub(super) fn find_initial(&self, initial: &InitialKey) -> Option<Key> {
        self.initials.get(initial).copied()
    }

    /// Forgets the entry of a client's first packets that leads to `key`. An entry that leads to a
    /// later connection by now stays.
    pub(super) fn remove_initial(&mut self, initial: &InitialKey, key: Key) {
        if self.initials.get(initial) == Some(&key) {
            self.initials.remove(initial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initial(id: &[u8], port: u16) -> InitialKey {
        InitialKey {
            dcid: ConnectionId::new(id).unwrap(),
            remote: SocketAddr::from(([192, 0, 2, 1], port)),
        }
    }

    #[test]
    fn a_key_of_an_earlier_use_of_the_slot_finds_nothing() {
        let mut table = Table::new(10);
        let old = table.insert(|_| "old").unwrap();
        assert_eq!(table.next_key(), Some(Key { slot: 1, generation: 0 }));
        assert_eq!(*table.remove(old).unwrap(), "old");
        let next = table.next_key();
        let new = table.insert(|_| "new").unwrap();
        assert_eq!(next, Some(new));
        assert_eq!(new.slot, old.slot);
        assert_ne!(new.generation, old.generation);
        assert!(table.get(old).is_none());
        assert!(table.remove(old).is_none());
        assert_eq!(table.get(new), Some(&mut "new"));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn generations_wrap_without_losing_the_slot() {
        let mut table = Table::new(1);
        let first = table.insert(|_| ()).unwrap();
        table.slots[0].generation = (1 << GENERATION_BITS) - 1;
        let last = Key { generation: (1 << GENERATION_BITS) - 1, ..first };
        assert!(table.remove(last).is_some());
        assert_eq!(table.insert(|_| ()), Ok(first));
        assert_eq!(table.slots(), 1);
    }

    #[test]
    fn the_slot_that_was_left_last_is_taken_first() {
        let mut table = Table::new(10);
        let keys: Vec<Key> = (0..4).map(|n| table.insert(|_| n).unwrap()).collect();
        table.remove(keys[1]);
        table.remove(keys[3]);
        assert_eq!(table.insert(|key| i64::from(key.slot)).unwrap().slot, 3);
        assert_eq!(table.insert(|_| 0).unwrap().slot, 1);
        assert_eq!(table.insert(|_| 0).unwrap().slot, 4);
    }

    #[test]
    fn the_limit_holds() {
        let mut table = Table::new(2);
        table.insert(|_| ()).unwrap();
        table.insert(|_| ()).unwrap();
        assert_eq!((table.insert(|_| ()), table.next_key()), (Err(Full), None));
    }

    #[test]
    fn an_initial_that_leads_elsewhere_by_now_is_not_removed_with_what_it_led_to() {
        let mut table = Table::new(4);
        let (old, new) = (table.insert(|_| 1).unwrap(), table.insert(|_| 2).unwrap());
        let initial = initial(b"abcdefgh", 1);
        table.insert_initial(initial, old);
        table.insert_initial(initial, new);
        table.remove_initial(&initial, old);
        assert_eq!(table.find_initial(&initial), Some(new));
        table.remove_initial(&initial, new);
        assert_eq!((table.find_initial(&initial), table.initials()), (None, 0));
    }

    #[test]
    fn an_initial_is_found_by_id_and_address_together() {
        let mut table = Table::new(4);
        let key = table.insert(|_| ()).unwrap();
        table.insert_initial(initial(b"abcdefgh", 1), key);
        assert_eq!(table.find_initial(&initial(b"abcdefgh", 1)), Some(key));
        assert_eq!(table.find_initial(&initial(b"abcdefgh", 2)), None);
        assert_eq!(table.find_initial(&initial(b"abcdefgi", 1)), None);
    }

    #[test]
    fn a_connection_that_moves_is_found_in_its_new_place_alone() {
        let mut here = Table::new(1);
        let mut there = Table::new(1);
        let key = here.insert(|_| 7).unwrap();
        let place = there.reserve().unwrap();
        assert!(there.is_reserved(place) && there.get(place).is_none());
        assert_eq!((there.len(), there.is_empty(), there.next_key()), (0, false, None));
        let home = Home { worker: 1, key: place };
        let travelling = here.depart(key, home).unwrap();
        assert!(here.get(key).is_none(), "two workers must never reach it");
        assert_eq!((here.away(key), here.len(), here.is_empty()), (Some(home), 0, true));
        assert_eq!(here.insert(|_| 8), Err(Full), "ids that lead here are in use");
        assert_eq!(there.seat(place, travelling), Ok(&mut 7));
        assert_eq!((there.len(), there.get(place)), (1, Some(&mut 7)));
        here.release(key);
        assert_eq!(here.away(key), None);
        assert!(here.insert(|_| 9).is_ok());
    }

    #[test]
    fn only_a_slot_that_was_kept_takes_a_connection_and_only_once() {
        let mut table = Table::new(2);
        let live = table.insert(|_| 1).unwrap();
        let kept = table.reserve().unwrap();
        let value = table.seat(live, Box::new(2)).unwrap_err();
        assert!(table.seat(kept, value).is_ok());
        table.seat(kept, Box::new(3)).unwrap_err();
        table.release(kept); // It is neither kept nor left: nothing happens.
        assert_eq!((table.len(), table.get(kept)), (2, Some(&mut 2)));
        table.remove(live);
        let kept = table.reserve().unwrap();
        table.release(kept);
        table.seat(kept, Box::new(4)).unwrap_err();
        assert_eq!((table.len(), table.reserved, table.away), (1, 0, 0));
    }
}
