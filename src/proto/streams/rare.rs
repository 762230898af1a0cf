//! What only few streams need: kept beside the streams, so that all others stay at three cache lines.
//!
//! A stream gets its rare state with the first call that needs one, and gives it back when it is
//! gone. What one stream gives back the next one takes up with its memory, so that a connection
//! that tracks every send allocates nothing in steady state.

use super::flow::Tuning;
use bytes::BytesMut;
use std::collections::VecDeque;

/// A stream without rare state.
pub(super) const NO_RARE: u32 = u32::MAX;

/// Entries for which a queue keeps memory after its stream is gone.
const KEPT_ENTRIES: usize = 64;

/// A send whose completion the application wants to hear of.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrackedSend {
    /// Offset of the stream after its last byte.
    pub(super) end: u64,
    /// It ended the stream.
    pub(super) fin: bool,
    /// The application's own number.
    pub(super) context: u64,
}

/// Memory of the application's that is given back to it.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) buffer: BytesMut,
    /// Bytes at its start that were received.
    pub(super) len: usize,
    /// The stream ends with them.
    pub(super) fin: bool,
}

/// The rare state of a stream.
#[derive(Debug)]
pub(super) struct Rare {
    /// Sends whose completion was not told yet, the oldest first.
    pub(super) sends: VecDeque<TrackedSend>,
    /// The application provides the memory to receive into.
    pub(super) owned: bool,
    /// It was told that more is needed, and has not provided any since.
    pub(super) needs_told: bool,
    /// That memory, what is to be filled first in front.
    pub(super) provided: VecDeque<BytesMut>,
    /// Bytes received into the first of it.
    pub(super) front_len: usize,
    /// Memory to give back.
    pub(super) filled: VecDeque<Filled>,
    /// The stream's window.
    pub(super) tuning: Tuning,
}

impl Rare {
    const fn new() -> Self {
        Self {
            sends: VecDeque::new(),
            owned: false,
            needs_told: false,
            provided: VecDeque::new(),
            front_len: 0,
            filled: VecDeque::new(),
            tuning: Tuning::NEW,
        }
    }

    /// As new, but for some memory.
    fn recycle(&mut self) {
        self.sends.clear();
        self.sends.shrink_to(KEPT_ENTRIES);
        self.provided.clear();
        self.provided.shrink_to(KEPT_ENTRIES);
        self.filled.clear();
        self.filled.shrink_to(KEPT_ENTRIES);
        (self.owned, self.needs_told, self.front_len) = (false, false, 0);
        self.tuning = Tuning::NEW;
    }

    /// Without the application's own memory.
    fn heap_bytes(&self) -> usize {
        self.sends.capacity() * size_of::<TrackedSend>()
            + self.provided.capacity() * size_of::<BytesMut>()
            + self.filled.capacity() * size_of::<Filled>()
    }
}

#[derive(Debug, Default)]
struct Slab {
    states: Vec<Rare>,
    /// Those that no stream has.
    free: Vec<u32>,
}

/// The rare states of a connection's streams. Made with the first.
#[derive(Debug, Default)]
pub(super) struct RareStates {
    slab: Option<Box<Slab>>,
}

impl RareStates {
    /// The state that a stream knows by `index`; made if it has none.
    pub(super) fn of(&mut self, index: &mut u32) -> &mut Rare {
        let slab = self.slab.get_or_insert_default();
        if *index == NO_RARE {
            *index = slab.free.pop().unwrap_or_else(|| {
                slab.states.push(Rare::new());
                (slab.states.len() - 1) as u32
            });
        }
        &mut slab.states[*index as usize]
    }

    /// The state that a stream knows by `index`, if it has one.
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Rare> {
        self.slab.as_mut()?.states.get_mut(index as usize)
    }

    /// Takes back the state of a stream that is gone.
    pub(super) fn give(&mut self, index: u32) {
        if let Some(slab) = &mut self.slab {
            slab.states[index as usize].recycle();
            slab.free.push(index);
        }
    }

    /// Gives unused memory back.
    pub(super) fn shrink(&mut self) {
        let Some(slab) = &mut self.slab else { return };
        if slab.free.len() == slab.states.len() {
            self.slab = None;
            return;
        }
        for &index in &slab.free {
            slab.states[index as usize] = Rare::new();
        }
    }

    /// Bytes of heap held.
    pub(super) fn heap_bytes(&self) -> usize {
        self.slab.as_ref().map_or(0, |slab| {
            size_of::<Slab>()
                + slab.states.capacity() * size_of::<Rare>()
                + slab.free.capacity() * size_of::<u32>()
                + slab.states.iter().map(Rare::heap_bytes).sum::<usize>()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_stream_gives_back_the_next_takes_up() {
        let mut states = RareStates::default();
        let (mut a, mut b) = (NO_RARE, NO_RARE);
        states.of(&mut a).sends.push_back(TrackedSend { end: 1, fin: false, context: 2 });
        states.of(&mut b);
        assert_ne!(a, b);
        states.give(a);
        let held = states.heap_bytes();
        let mut c = NO_RARE;
        assert!(states.of(&mut c).sends.is_empty());
        assert_eq!((c, states.heap_bytes()), (a, held));
        states.give(c);
        states.shrink();
        assert!(states.heap_bytes() < held && states.get_mut(b).is_some());
        states.give(b);
        states.shrink();
        assert_eq!(states.heap_bytes(), 0);
    }
}
