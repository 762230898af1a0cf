//! A hierarchical timer wheel over slot indices.
//!
//! Every connection has one timer: the earliest of loss detection, idle, pacing and so on. It
//! moves with nearly every packet, almost always to a later time, and nearly never fires. So
//! what must be cheap is moving it:
//!
//! - moving a timer **later** only stores the new time. The entry stays where it is; when its
//!   old place comes up, it is put where it belongs by then;
//! - moving it **earlier** unlinks it from one doubly linked list and links it into another;
//! - "when does the next one fire" is a look at one bitmap per level.
//!
//! Eight levels of 64 buckets, which cover all of [`Instant`]:
//!
//! ```text
//! level 0   64 buckets of 1 tick      (65.5 us each, 4.2 ms together)
//! level 1   64 buckets of 64 ticks    (4.2 ms each, 268 ms together)
//! level 2   64 buckets of 4096 ticks  (268 ms each, 17 s together)
//! level 3   64 buckets of 17 s        (18 minutes together)          ... level 7: 584 years
//! ```
//!
//! An entry lies on the level of the highest group of six bits in which its tick differs from
//! the current tick. So a lower level always holds earlier entries than a higher one, and
//! within a level the bucket number orders them without wrap-around. When the current tick
//! enters a bucket of a higher level, its entries fall into lower levels.
//!
//! Links are indices into one array, which grows with the table of connections and never
//! otherwise: nothing is allocated when a timer is set, moved or fires.

use super::sys;
use crate::time::Instant;

/// A tick is 2^16 ns = 65.5 us. Pacing sleeps are a few of these; a finer wheel would cascade
/// more often, a coarser one would send later than the pacer allows.
const TICK_SHIFT: u32 = 16;
const LEVEL_BITS: u32 = 6;
const BUCKETS: usize = 1 << LEVEL_BITS;
const LEVELS: usize = 8;
const MAX_TICK: u64 = (1 << (LEVEL_BITS * LEVELS as u32)) - 1;

const _: () = assert!(TICK_SHIFT + LEVEL_BITS * LEVELS as u32 == u64::BITS);

const NIL: u32 = u32::MAX;
const UNLINKED: u16 = u16::MAX;

#[derive(Clone, Copy, Debug)]
struct Node {
    /// When the owner wants to be called; [`Instant::NEVER`] if not at all.
    wanted: Instant,
    /// The tick that decided the bucket that the node lies in. Never later than `wanted`.
    linked_tick: u64,
    prev: u32,
    next: u32,
    /// `level * BUCKETS + bucket`, or [`UNLINKED`].
    bucket: u16,
}

impl Node {
    const IDLE: Self =
        Self { wanted: Instant::NEVER, linked_tick: 0, prev: NIL, next: NIL, bucket: UNLINKED };
}

/// Timers for indices `0..n`, at most one each.
///
/// Drive it so: [`set`](Self::set) whenever an index's deadline changes; in each turn call
/// [`pop_due`](Self::pop_due) until it returns `None` (or the turn's budget is spent), and
/// serve each index that it returns; before sleeping ask [`next_expiry`](Self::next_expiry).
#[derive(Debug)]
pub(super) struct Wheel {
    /// Everything before this tick has been looked at.
    current_tick: u64,
    nodes: Vec<Node>,
    heads: [u32; BUCKETS * LEVELS],
    /// Which buckets of each level are not empty.
    occupied: [u64; LEVELS],
}

impl Wheel {
    /// A wheel that starts at `now`.
    #[must_use]
    pub(super) fn new(now: Instant) -> Self {
        Self {
            current_tick: floor_tick(now),
            nodes: Vec::new(),
            heads: [NIL; BUCKETS * LEVELS],
            occupied: [0; LEVELS],
        }
    }

    /// Allocates for the indices below `len`: the only call that allocates.
    pub(super) fn grow(&mut self, len: usize) {
        if self.nodes.len() < len {
            self.nodes.resize(len, Node::IDLE);
        }
    }

    /// Fetches the timer of `index` into the cache, before [`set`](Self::set) wants it.
    pub(super) fn fetch(&self, index: u32) {
        if let Some(node) = self.nodes.get(index as usize) {
            sys::prefetch(std::ptr::from_ref(node).cast(), size_of_val(node));
        }
    }

    /// Wants `index` to come due at `at`; [`Instant::NEVER`] cancels.
    ///
    /// # Panics
    /// If `index` is beyond what [`grow`](Self::grow) allocated for.
    pub(super) fn set(&mut self, index: u32, at: Instant) {
        let node = &mut self.nodes[index as usize];
        node.wanted = at;
        if at == Instant::NEVER {
            return;
        }
        let tick = ceil_tick(at);
        if node.bucket != UNLINKED {
            if tick >= node.linked_tick {
                return; // Lazy: it is looked at when its old place comes up.
            }
            self.unlink(index);
        }
        self.link(index, tick);
    }

    /// Forgets the timer of `index` and takes it out of its list.
    pub(super) fn remove(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        node.wanted = Instant::NEVER;
        if node.bucket != UNLINKED {
            self.unlink(index);
        }
    }

    /// The next index whose time has come. Its timer is cleared: set it again.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let now_tick = floor_tick(now);
        while let Some((level, bucket, start)) = self.first_bucket() {
            if start > now_tick {
                break;
            }
            self.current_tick = self.current_tick.max(start);
            if level > 0 {
                self.cascade(level * BUCKETS + bucket);
                continue;
            }
            let index = self.heads[bucket];
            self.unlink(index);
            let node = &mut self.nodes[index as usize];
            if node.wanted == Instant::NEVER {
                continue;
            }
            let tick = ceil_tick(node.wanted);
            if tick <= now_tick {
                node.wanted = Instant::NEVER;
                return Some(index);
            }
            self.link(index, tick);
        }
        self.current_tick = self.current_tick.max(now_tick);
        None
    }

    /// No timer comes due before this instant; [`Instant::NEVER`] if none is set.
    ///
    /// It is exact to a tick for timers on the lowest level and a lower bound for others (the
    /// start of their bucket, or the place that they have been moved away from since): a worker that
    /// sleeps until then may wake with nothing due, and never sleeps too long.
    #[must_use]
    pub(super) fn next_expiry(&self) -> Instant {
        match self.first_bucket() {
            None => Instant::NEVER,
            Some((_, _, start)) => Instant::from_nanos(start.saturating_mul(1 << TICK_SHIFT)),
        }
    }

    /// Level, bucket and first tick of the earliest bucket that is not empty.
    fn first_bucket(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|&bits| bits != 0)?;
        let bucket = self.occupied[level].trailing_zeros() as usize;
        let shift = LEVEL_BITS * level as u32;
        let above = self.current_tick >> (shift + LEVEL_BITS) << (shift + LEVEL_BITS);
        Some((level, bucket, above | (bucket as u64) << shift))
    }

    /// Spreads a bucket that the current tick has entered over the lower levels: all of it,
    /// or what stays would be hidden behind later entries of those levels.
    fn cascade(&mut self, at: usize) {
        while self.heads[at] != NIL {
            let index = self.heads[at];
            self.unlink(index);
            let wanted = self.nodes[index as usize].wanted;
            if wanted != Instant::NEVER {
                self.link(index, ceil_tick(wanted));
            }
        }
    }

    fn link(&mut self, index: u32, tick: u64) {
        let tick = tick.max(self.current_tick);
        let differs = tick ^ self.current_tick;
        let level = (63 - (differs | 1).leading_zeros()) / LEVEL_BITS;
        let bucket = (tick >> (LEVEL_BITS * level)) as usize % BUCKETS;
        let (level, at) = (level as usize, level as usize * BUCKETS + bucket);
        let next = self.heads[at];
        if next != NIL {
            self.nodes[next as usize].prev = index;
        }
        self.heads[at] = index;
        self.occupied[level] |= 1 << bucket;
        let node = &mut self.nodes[index as usize];
        node.linked_tick = tick;
        node.prev = NIL;
        node.next = next;
        node.bucket = at as u16;
    }

    fn unlink(&mut self, index: u32) {
        let node = self.nodes[index as usize];
        let at = usize::from(node.bucket);
        match node.prev {
            NIL => self.heads[at] = node.next,
            prev => self.nodes[prev as usize].next = node.next,
        }
        if node.next != NIL {
            self.nodes[node.next as usize].prev = node.prev;
        }
        if self.heads[at] == NIL {
            self.occupied[at / BUCKETS] &= !(1 << (at % BUCKETS));
        }
        self.nodes[index as usize].bucket = UNLINKED;
    }
}

/// The tick that `at` lies in.
const fn floor_tick(at: Instant) -> u64 {
    at.as_nanos() >> TICK_SHIFT
}

/// The first tick that is not before `at`: a timer may fire late, never early.
const fn ceil_tick(at: Instant) -> u64 {
    let tick = at.as_nanos().div_ceil(1 << TICK_SHIFT);
    if tick > MAX_TICK { MAX_TICK } else { tick }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const TICK_NS: u64 = 1 << TICK_SHIFT;

    fn at(tick: u64) -> Instant {
        Instant::from_nanos(tick * TICK_NS)
    }

    fn wheel(len: usize) -> Wheel {
        let mut wheel = Wheel::new(at(1_000));
        wheel.grow(len);
        wheel
    }

    fn drain(wheel: &mut Wheel, now: Instant) -> BTreeSet<u32> {
        std::iter::from_fn(|| wheel.pop_due(now)).collect()
    }

    #[test]
    fn a_timer_fires_once_and_never_early() {
        let mut wheel = wheel(1);
        wheel.set(0, at(1_010).plus_ns(1));
        assert_eq!(wheel.pop_due(at(1_010).plus_ns(TICK_NS - 1)), None);
        assert_eq!(wheel.pop_due(at(1_011)), Some(0));
        assert_eq!(wheel.pop_due(at(9_000)), None);
        assert_eq!(wheel.next_expiry(), Instant::NEVER);
    }

    #[test]
    fn a_timer_in_the_past_is_due_at_once() {
        let mut wheel = wheel(1);
        wheel.set(0, Instant::EPOCH);
        assert_eq!(wheel.pop_due(at(1_000)), Some(0));
    }

    #[test]
    fn a_timer_moved_later_stays_where_it_is_until_its_old_place_comes_up() {
        let mut wheel = wheel(1);
        wheel.set(0, at(1_005));
        wheel.set(0, at(200_000));
        assert_eq!(wheel.next_expiry(), at(1_005));
        assert_eq!(wheel.pop_due(at(1_005)), None);
        assert!(wheel.next_expiry() > at(1_005));
        assert_eq!(wheel.pop_due(at(199_999)), None);
        assert_eq!(wheel.pop_due(at(200_000)), Some(0));
    }

    #[test]
    fn the_end_of_time_can_be_waited_for() {
        let mut wheel = wheel(1);
        wheel.set(0, Instant::from_nanos(u64::MAX - 1));
        assert_eq!(wheel.pop_due(at(MAX_TICK - 1)), None);
        assert_eq!(wheel.pop_due(at(MAX_TICK)), Some(0));
    }

    #[test]
    fn a_timer_set_while_others_are_due_is_not_lost() {
        let mut wheel = wheel(3);
        wheel.set(0, at(1_001));
        wheel.set(1, at(5_000));
        assert_eq!(wheel.pop_due(at(6_000)), Some(0));
        wheel.set(2, at(1_002)); // In the past by now, while index 1 still waits.
        assert_eq!(drain(&mut wheel, at(6_000)), BTreeSet::from([1, 2]));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set { index: u32, ahead_ns: u64 },
        Cancel { index: u32 },
        Remove { index: u32 },
        Advance { ns: u64 },
        AdvanceBudget { ns: u64, budget: usize },
    }

    const INDICES: u32 = 12;

    fn distance() -> impl Strategy<Value = u64> {
        (0u32..52, any::<u64>()).prop_map(|(bits, x)| x & ((1 << bits) - 1))
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..INDICES, distance())
                .prop_map(|(index, ahead_ns)| Step::Set { index, ahead_ns }),
            1 => (0..INDICES).prop_map(|index| Step::Cancel { index }),
            1 => (0..INDICES).prop_map(|index| Step::Remove { index }),
            3 => distance().prop_map(|ns| Step::Advance { ns }),
            1 => (distance(), 0usize..3)
                .prop_map(|(ns, budget)| Step::AdvanceBudget { ns, budget }),
        ]
    }

    /// What the naive model says is due.
    fn due(model: &[Instant], now: Instant) -> BTreeSet<u32> {
        let due = |&(_, &wanted): &(usize, &Instant)| {
            wanted != Instant::NEVER && ceil_tick(wanted) <= floor_tick(now)
        };
        model.iter().enumerate().filter(due).map(|(index, _)| index as u32).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn behaves_like_a_list_of_deadlines(steps in prop::collection::vec(step(), 1..120)) {
            let mut now = at(1_000);
            let mut wheel = wheel(INDICES as usize);
            let mut model = [Instant::NEVER; INDICES as usize];
            for step in steps {
                match step {
                    Step::Set { index, ahead_ns } => {
                        wheel.set(index, now.plus_ns(ahead_ns));
                        model[index as usize] = now.plus_ns(ahead_ns);
                    }
                    Step::Cancel { index } => {
                        wheel.set(index, Instant::NEVER);
                        model[index as usize] = Instant::NEVER;
                    }
                    Step::Remove { index } => {
                        wheel.remove(index);
                        model[index as usize] = Instant::NEVER;
                    }
                    Step::Advance { ns } => {
                        now = now.plus_ns(ns);
                        let expected = due(&model, now);
                        prop_assert_eq!(drain(&mut wheel, now), expected.clone());
                        expected.iter().for_each(|&i| model[i as usize] = Instant::NEVER);
                    }
                    Step::AdvanceBudget { ns, budget } => {
                        now = now.plus_ns(ns);
                        for _ in 0..budget {
                            if let Some(index) = wheel.pop_due(now) {
                                prop_assert!(due(&model, now).contains(&index));
                                model[index as usize] = Instant::NEVER;
                            }
                        }
                    }
                }
                let earliest = model.iter().copied().filter(|&at| at != Instant::NEVER).min();
                if let Some(earliest) = earliest {
                    let tick = at(ceil_tick(earliest));
                    prop_assert!(wheel.next_expiry() <= tick.max(now), "sleeps too long");
                }
            }
        }
    }
}
