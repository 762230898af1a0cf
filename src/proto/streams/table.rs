//! Where the streams of a connection live, and how an id finds its stream.
//!
//! Streams lie in slots that are reused last-in first-out, so that a connection which opens and
//! closes one stream at a time stays in three cache lines. Two names lead to a slot:
//!
//! - a [`StreamRef`], kept with every sent frame: an index and a generation, checked in one
//!   comparison. Generations count over the whole connection and not per slot, so that a name
//!   stays stale even when the slots were given back in between;
//! - the id on the wire. A handful of slots is searched one by one. More have an index of
//!   buckets of eight: a bucket is a cache line, and an id belongs to the bucket of its low
//!   bits. Ids in use lie close together, so the buckets fill evenly without a hash, and a key
//!   to keep secret is not needed. A peer that picks its ids to fill one bucket sends the ninth
//!   to a sorted list, where a search takes log2(streams) steps: there is no chain to make long.

use super::list::NONE;
use super::slot::Stream;
use crate::proto::sent::StreamRef;
use crate::wire::StreamId;

/// Entries of a bucket.
const WAYS: usize = 8;
/// The index doubles when its buckets hold more than this on average: then ids in a row fill
/// none of them, and survivors at random overflow rarely.
const LOAD_MAX: usize = 5;

/// Up to so many slots are searched one by one: a connection with a stream or two then has no
/// index to keep warm.
const SCAN_MAX: usize = 4;
/// Slots double up to here.
const DOUBLING_MAX: usize = 64;

/// One cache line of the index.
#[repr(C, align(64))]
#[derive(Clone, Debug)]
struct Bucket {
    /// Low bits of the id.
    tags: [u32; WAYS],
    /// Slot of the stream, `NONE` if the entry is free.
    slots: [u32; WAYS],
}

const _: () = assert!(size_of::<Bucket>() == 64, "a bucket is a cache line");

impl Bucket {
    const EMPTY: Self = Self { tags: [0; WAYS], slots: [NONE; WAYS] };

    /// Bits of the entries whose tag is that of `id`.
    #[inline]
    fn matches(&self, id: StreamId) -> u32 {
        let tag = tag(id);
        (0..WAYS).fold(0, |bits, i| bits | u32::from(self.tags[i] == tag) << i)
    }
}

/// The streams of a connection.
#[derive(Debug)]
pub(super) struct Table {
    /// All slots; those in use are the streams.
    pub(super) slots: Vec<Stream>,
    /// A power of two of buckets; empty as long as there are at most [`SCAN_MAX`] slots.
    buckets: Vec<Bucket>,
    /// Streams whose bucket was full, by id.
    overflow: Vec<(StreamId, u32)>,
    /// Chain of free slots.
    free: u32,
    /// Streams in use.
    open: u32,
    /// Generation of the next stream.
    generation: u32,
    /// Slot found last.
    recent: u32,
}

impl Table {
    /// No streams, no heap.
    pub(super) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            buckets: Vec::new(),
            overflow: Vec::new(),
            free: NONE,
            open: 0,
            generation: 0,
            recent: 0,
        }
    }

    /// Streams in use.
    pub(super) const fn len(&self) -> usize {
        self.open as usize
    }

    /// The slot of the stream `id`.
    #[inline]
    pub(super) fn find(&mut self, id: StreamId) -> Option<u32> {
        if let Some(stream) = self.slots.get(self.recent as usize)
            && stream.id == id
        {
            return Some(self.recent);
        }
        let slot = self.search(id)?;
        self.recent = slot;
        Some(slot)
    }

    /// As [`Table::find`], without remembering.
    pub(super) fn search(&self, id: StreamId) -> Option<u32> {
        let Some(bucket) = self.buckets.get(self.bucket_of(id)) else {
            return self.slots.iter().position(|stream| stream.id == id).map(|slot| slot as u32);
        };
        let mut bits = bucket.matches(id);
        while bits != 0 {
            let slot = bucket.slots[bits.trailing_zeros() as usize];
            if self.slots.get(slot as usize).is_some_and(|stream| stream.id == id) {
                return Some(slot);
            }
            bits &= bits - 1;
        }
        let at = self.overflow.binary_search_by_key(&id, |entry| entry.0).ok()?;
        Some(self.overflow[at].1)
    }

    /// The slot that `name` names, if its stream still lives.
    #[inline]
    pub(super) fn resolve(&self, name: StreamRef) -> Option<u32> {
        let stream = self.slots.get(name.slot as usize)?;
        (stream.generation == name.generation && !stream.is_vacant()).then_some(name.slot)
    }

    /// The name of the stream in `slot`.
    #[inline]
    pub(super) fn name(&self, slot: u32) -> StreamRef {
        StreamRef { slot, generation: self.slots[slot as usize].generation }
    }

    /// Makes the stream `id`, which is not in the table, with both halves open: `recv_window`
    /// and `send_max` as for [`Stream::occupy`].
    #[inline]
    pub(super) fn insert(&mut self, id: StreamId, recv_window: u64, send_max: u64) -> u32 {
        let slot = self.take_slot();
        self.slots[slot as usize].occupy(id, self.generation, recv_window, send_max);
        self.generation = self.generation.wrapping_add(1);
        self.open += 1;
        if self.slots.len() > SCAN_MAX {
            if self.open as usize > self.buckets.len() * LOAD_MAX {
                self.rebuild((self.buckets.len() * 2).max(1));
            } else {
                self.enter(id, slot);
            }
        }
        self.recent = slot;
        slot
    }

    /// Forgets the stream in `slot`.
    #[inline]
    pub(super) fn remove(&mut self, slot: u32) {
        let id = self.slots[slot as usize].id;
        if !self.buckets.is_empty() {
            self.leave(id, slot);
        }
        self.open -= 1;
        self.slots[slot as usize].vacate(self.free);
        self.free = slot;
    }

    /// Gives unused memory back.
    pub(super) fn shrink(&mut self) {
        while self.slots.last().is_some_and(Stream::is_vacant) {
            self.slots.pop();
        }
        self.slots.shrink_to_fit();
        self.free = NONE;
        for (slot, stream) in self.slots.iter_mut().enumerate().rev() {
            if stream.is_vacant() {
                stream.vacate(self.free);
                self.free = slot as u32;
            }
        }
        let buckets = if self.slots.len() > SCAN_MAX {
            self.len().div_ceil(LOAD_MAX).next_power_of_two()
        } else {
            0
        };
        if buckets < self.buckets.len() {
            self.rebuild(buckets);
        }
    }

    /// Bytes of heap held.
    pub(super) const fn heap_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Stream>()
            + self.buckets.capacity() * size_of::<Bucket>()
            + self.overflow.capacity() * size_of::<(StreamId, u32)>()
    }

    #[inline]
    fn take_slot(&mut self) -> u32 {
        let slot = self.free;
        if let Some(place) = self.slots.get(slot as usize) {
            self.free = place.next_vacant();
            return slot;
        }
        make_room(&mut self.slots);
        self.slots.push(Stream::vacant());
        (self.slots.len() - 1) as u32
    }

    /// The bucket of `id`; meaningless if there are none. All four kinds of ids share the
    /// buckets, each kind filling them evenly.
    #[inline]
    const fn bucket_of(&self, id: StreamId) -> usize {
        id.index() as usize & self.buckets.len().wrapping_sub(1)
    }

    #[inline]
    fn enter(&mut self, id: StreamId, slot: u32) {
        let at = self.bucket_of(id);
        let bucket = &mut self.buckets[at];
        if let Some(way) = bucket.slots.iter().position(|&slot| slot == NONE) {
            bucket.slots[way] = slot;
            bucket.tags[way] = tag(id);
        } else if let Err(place) = self.overflow.binary_search_by_key(&id, |entry| entry.0) {
            self.overflow.insert(place, (id, slot));
        }
    }

    #[inline]
    fn leave(&mut self, id: StreamId, slot: u32) {
        let at = self.bucket_of(id);
        let bucket = &mut self.buckets[at];
        if let Some(way) = bucket.slots.iter().position(|&entry| entry == slot) {
            bucket.slots[way] = NONE;
        } else if let Ok(place) = self.overflow.binary_search_by_key(&id, |entry| entry.0) {
            self.overflow.remove(place);
        }
    }

    fn rebuild(&mut self, buckets: usize) {
        self.buckets = vec![Bucket::EMPTY; buckets];
        self.overflow = Vec::new();
        for slot in 0..self.slots.len() {
            if buckets > 0 && !self.slots[slot].is_vacant() {
                self.enter(self.slots[slot].id, slot as u32);
            }
        }
    }
}

/// Makes room for one more: from one on, because many connections carry one stream; doubling
/// while that is cheap; by a quarter where doubling would leave much memory idle.
pub(super) fn make_room<T>(items: &mut Vec<T>) {
    let len = items.len();
    if len == items.capacity() {
        items.reserve_exact(if len < DOUBLING_MAX { len.max(1) } else { len / 4 });
    }
}

/// What a bucket keeps of an id.
const fn tag(id: StreamId) -> u32 {
    id.raw() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Dir, Side};
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn id(index: u64) -> StreamId {
        StreamId::new(Side::Client, Dir::Bi, index)
    }

    #[test]
    fn ten_thousand_in_a_row_fill_the_buckets_evenly() {
        let mut table = Table::new();
        let slots: Vec<u32> = (0..10_000).map(|i| table.insert(id(i), 0, 0)).collect();
        assert!(table.overflow.is_empty());
        for (i, &slot) in slots.iter().enumerate() {
            assert_eq!(table.find(id(i as u64)), Some(slot));
        }
        assert_eq!(table.find(id(10_000)), None);
        assert!(table.buckets.len() * size_of::<Bucket>() <= 10_000 * 32);
    }

    #[test]
    fn attack_09_ids_that_collide_cost_a_search_not_a_walk() {
        // Survivors chosen so that all fall into one bucket, whatever the size of the index.
        let mut table = Table::new();
        let slots: Vec<u32> = (0..2_000).map(|i| table.insert(id(i << 32), 0, 0)).collect();
        assert!(table.buckets.len() <= 512, "collisions alone must not grow the index");
        assert_eq!(table.overflow.len(), 2_000 - WAYS);
        for (i, &slot) in slots.iter().enumerate() {
            assert_eq!(table.find(id((i as u64) << 32)), Some(slot));
        }
        for &slot in &slots {
            table.remove(slot);
        }
        assert!(table.overflow.is_empty());
        assert_eq!(table.find(id(1 << 32)), None);
    }

    #[test]
    fn a_name_is_stale_after_reuse_and_after_shrinking() {
        let mut table = Table::new();
        let slot = table.insert(id(0), 0, 0);
        let old = table.name(slot);
        assert_eq!(table.resolve(old), Some(slot));
        table.remove(slot);
        assert_eq!(table.resolve(old), None);
        assert_eq!(table.insert(id(1), 0, 0), slot);
        assert_eq!(table.resolve(old), None);
        table.remove(slot);
        table.shrink();
        assert_eq!(table.heap_bytes(), 0);
        assert_eq!(table.insert(id(2), 0, 0), slot);
        assert_eq!(table.resolve(old), None);
    }

    #[test]
    fn shrinking_keeps_the_streams_in_use() {
        let mut table = Table::new();
        let slots: Vec<u32> = (0..1_000).map(|i| table.insert(id(i), 0, 0)).collect();
        let before = table.heap_bytes();
        for &slot in slots.iter().filter(|&&slot| slot != 3 && slot != 40) {
            table.remove(slot);
        }
        table.shrink();
        assert!(table.heap_bytes() < before / 10);
        assert_eq!((table.find(id(3)), table.find(id(40)), table.len()), (Some(3), Some(40), 2));
        let reused: Vec<u32> = (1_000..1_045).map(|i| table.insert(id(i), 0, 0)).collect();
        assert!(reused.iter().all(|&slot| slot != 3 && slot != 40));
        assert_eq!(table.slots.len(), 47, "the free slots below come first");
    }

    proptest! {
        #[test]
        fn finds_what_a_map_finds(
            steps in prop::collection::vec((0..4u8, 0..64u64, 0..3u32), 1..300),
        ) {
            let mut table = Table::new();
            let mut model: HashMap<StreamId, u32> = HashMap::new();
            for (kind, index, spread) in steps {
                let id = StreamId::from_raw((index << (spread * 13)) << 2 | u64::from(kind));
                prop_assert_eq!(table.find(id), model.get(&id).copied());
                match model.remove(&id) {
                    Some(slot) => table.remove(slot),
                    None => { model.insert(id, table.insert(id, 0, 0)); }
                }
                if index == 63 {
                    table.shrink();
                }
                prop_assert_eq!(table.len(), model.len());
            }
            for (id, slot) in model {
                prop_assert_eq!(table.find(id), Some(slot));
            }
        }
    }
}
