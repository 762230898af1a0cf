//! Names of connections, and where each is.
//!
//! A [`Key`] names a connection on its worker. An [`Address`] is shared by a connection's owner
//! and its handles: it says which worker and which slot. When a connection moves to another
//! worker, the owner writes the new place into it.
//!
//! # Calls that are posted during a move
//!
//! A handle reads the place, then puts its call into that worker's inbox. Calls of one thread must
//! be carried out in their order, also when the connection moves between two of them. So a call is
//! posted between [`begin_post`](Address::begin_post) and [`end_post`](Address::end_post), which count
//! the posts under way, separately for the time before a move and the time after it:
//!
//! ```text
//!   posts under way      [even moves]  [odd moves]
//!   before the move           2             0        to the inbox of worker A
//!   A: move_on(B)             2             0
//!   after the move            1             3        the three go to the inbox of B, which keeps them
//!                             0             4        A: nothing more will come to my inbox
//! ```
//!
//! When the count of the time before is 0, all that was posted to A lies in its inbox. A forwards it,
//! and then tells B that it is all. Only then does B carry out what was posted to B. Nobody waits for
//! another thread; what is kept is as bounded as the inbox is. `tools/models` checks every
//! interleaving of it.

use super::fate::Fate;
use super::sync::{AtomicU32, AtomicU64, Ordering, fence};
use crate::lb;
use std::ops::Deref;
use std::sync::Arc;

/// Names a connection of this worker: its slot, and which use of that slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Index into the table.
    pub(super) slot: u32,
    /// How often the slot was used before, modulo 2^30.
    pub(super) generation: u32,
}

/// A connection's place on a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Home {
    pub(super) worker: u16,
    pub(super) key: Key,
}

impl Home {
    /// The place that an id names.
    pub(super) fn of(route: lb::Route) -> Self {
        let key = Key { slot: route.slot, generation: route.generation };
        Self { worker: route.worker, key }
    }

    /// What an id of this place says, in the process of that number.
    pub(super) fn route(self, process: u8) -> lb::Route {
        let Key { slot, generation } = self.key;
        lb::Route { process, worker: self.worker, slot, generation }
    }
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
    /// How often the connection has moved.
    moves: AtomicU32,
    /// Posts under way that began at an even, and at an odd number of moves.
    posting: [AtomicU32; 2],
    /// The worker that is to make the connection. It writes the place when it has made it.
    first_worker: u16,
    /// How the connection ended, for those who wait for it.
    pub(super) fate: Fate,
}

/// The owner's share of an address: once it is dropped, nobody can tell more of the connection.
#[derive(Debug)]
pub(super) struct OwnedAddress(Arc<Address>);

impl OwnedAddress {
    pub(super) fn new(address: Arc<Address>) -> Self {
        Self(address)
    }
}

impl Deref for OwnedAddress {
    type Target = Arc<Address>;

    fn deref(&self) -> &Arc<Address> {
        &self.0
    }
}

impl Drop for OwnedAddress {
    fn drop(&mut self) {
        self.end();
        self.fate.lose();
    }
}

/// A post that is under way: the number of moves when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Post(u32);

const SLOT_BITS: u32 = lb::MAX_SLOTS.ilog2();
// Both have a slot that no table has.
const PENDING: u64 = u64::MAX;
const GONE: u64 = u64::MAX >> 1;

const _: () = assert!(SLOT_BITS + GENERATION_BITS + lb::MAX_WORKERS.ilog2() <= u64::BITS);
const _: () = assert!(MAX_CONNECTIONS < lb::MAX_SLOTS);
const _: () = assert!(lb::MAX_GENERATIONS == 1 << GENERATION_BITS);

/// Calls that were posted to the home that a connection has left, until there can be no more. The
/// connection may not move again before that.
#[derive(Debug)]
pub(super) struct Settling {
    address: Arc<Address>,
    moved: Post,
    to: Home,
    /// Calls in the former worker's inbox that may be for the connection, once no more come.
    left: Option<usize>,
}

impl Settling {
    /// Where the connection went.
    pub(super) fn to(&self) -> Home {
        self.to
    }

    /// A call was taken out of the former worker's inbox.
    pub(super) fn call_taken(&mut self) {
        self.left = self.left.map(|left| left.saturating_sub(1));
    }

    /// True once all calls are taken that were posted to the former worker. `waiting` says how many lie
    /// in its inbox.
    pub(super) fn ends(&mut self, waiting: impl Fn() -> usize) -> bool {
        if self.left.is_none() && !self.is_posting() {
            // No more will come than lie there now; looked at before, one might have come in between.
            self.left = Some(waiting());
        }
        self.left == Some(0)
    }

    /// True while a post may be under way that began before the move.
    fn is_posting(&self) -> bool {
        fence(Ordering::SeqCst);
        self.address.posting[self.moved.0 as usize % 2].load(Ordering::Acquire) > 0
    }
}

/// A home as one word.
fn pack(home: Home) -> u64 {
    let place = u64::from(home.worker) << GENERATION_BITS | u64::from(home.key.generation);
    place << SLOT_BITS | u64::from(home.key.slot)
}

impl Address {
    /// The address of a connection that worker `worker` is asked to make.
    pub(super) fn pending(worker: u16) -> Arc<Self> {
        Arc::new(Self {
            packed: AtomicU64::new(PENDING),
            moves: AtomicU32::new(0),
            posting: [AtomicU32::new(0), AtomicU32::new(0)],
            first_worker: worker,
            fate: Fate::default(),
        })
    }

    /// The address of a connection that exists.
    pub(super) fn at(worker: u16, key: Key) -> Arc<Self> {
        let address = Self::pending(worker);
        address.move_to(worker, key);
        address
    }

    /// The connection is in this slot from now on.
    pub(super) fn move_to(&self, worker: u16, key: Key) {
        self.packed.store(pack(Home { worker, key }), Ordering::Release);
    }

    /// The connection has gone from one home to the next. The new owner may have ended it already:
    /// then the address stays so.
    pub(super) fn move_on(address: Arc<Self>, from: Home, to: Home) -> Settling {
        let _over = address.packed.compare_exchange(
            pack(from),
            pack(to),
            Ordering::Release,
            Ordering::Relaxed,
        );
        let moved = Post(address.moves.fetch_add(1, Ordering::Release));
        Settling { address, moved, to, left: None }
    }

    /// Announces a post. Read the place after it.
    pub(super) fn begin_post(&self) -> Post {
        loop {
            let moves = self.moves.load(Ordering::Acquire);
            let count = &self.posting[moves as usize % 2];
            count.fetch_add(1, Ordering::Relaxed);
            // With that in `Settling::is_posting`: either this sees the move, or the count is seen there.
            fence(Ordering::SeqCst);
            if self.moves.load(Ordering::Acquire) == moves {
                return Post(moves);
            }
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The call is in the inbox, or was refused.
    pub(super) fn end_post(&self, post: Post) {
        self.posting[post.0 as usize % 2].fetch_sub(1, Ordering::Release);
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

    #[test]
    fn a_post_that_began_before_a_move_is_waited_for() {
        let key = Key { slot: 1, generation: 0 };
        let [a, b] = [0, 1].map(|worker| Home { worker, key });
        let address = Address::at(0, key);
        let early = address.begin_post();
        let mut settling = Address::move_on(address.clone(), a, b);
        assert_eq!((address.worker(), settling.to()), (1, b));
        let late = address.begin_post();
        assert!(!settling.ends(|| 0));
        address.end_post(early);
        assert!(!settling.ends(|| 2), "two calls lie there; a later one goes to the new home");
        for left in [false, true] {
            settling.call_taken();
            assert_eq!(settling.ends(|| 9), left);
        }
        address.end_post(late);
        assert!(Address::move_on(address.clone(), b, a).ends(|| 0));
        // A connection that has ended does not come back.
        address.end();
        Address::move_on(address.clone(), a, b);
        assert_eq!(address.place(), Place::Gone);
    }
}
