//! How long a datagram waits from its arrival until the worker looks at it.
//!
//! No clock is read for it, and no system call made. A worker has the time of each turn, and each
//! datapath says after a burst what it knows ([`Backlog`]). From that:
//!
//! | known | delay | error |
//! |---|---|---|
//! | kernel UDP, while bursts are full: when the oldest datagram of a burst reached the host (`SO_TIMESTAMPNS`) | the age of that datagram when it was fetched | none but a jump of the time of day, which spoils one burst |
//! | AF_XDP and simulations: how many datagrams a burst left waiting | what waits has waited for a turn, and the last of it waits for as many more as the bursts that lie before it: `turn x (1 + waiting / received)` | what the NIC holds itself is not seen; the turns to come may be longer or shorter than the last one |
//! | neither, and the worker has a clock | the length of the turn: what arrived as it began waited so long | up to the whole, if nothing arrived |
//!
//! The largest of them is the delay of the turn. Not in it: the time from an interrupt until a worker
//! that sleeps runs again, and the way from one worker to another of a datagram that arrived at the
//! wrong one.

use crate::datapath::Backlog;

/// The queue delay of one worker. In each turn: [`turn`](Self::turn) first, then
/// [`received`](Self::received) for each datapath.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct QueueDelay {
    /// Of the bursts of this turn: datagrams handed out, and those left waiting.
    received: usize,
    waiting: usize,
    age_ns: u64,
    /// The delay of the last turn.
    pub(super) now_ns: u64,
    /// The largest so far.
    pub(super) max_ns: u64,
}

impl QueueDelay {
    /// A turn begins. `took_ns` is the length of the last one; `None` if the worker slept since, or
    /// there was none. `is_timed`: the worker has a clock, and does not jump from event to event.
    pub(super) fn turn(&mut self, took_ns: Option<u64>, is_timed: bool) -> u64 {
        let Self { received, waiting, age_ns, .. } = *self;
        (self.received, self.waiting, self.age_ns) = (0, 0, 0);
        let took_ns = if waiting > 0 || is_timed { took_ns.unwrap_or(0) } else { 0 };
        // A division of 128 bits is a call, and most turns leave nothing waiting.
        let behind_ns = if waiting == 0 { 0 } else { behind_ns(took_ns, waiting, received) };
        self.now_ns = took_ns.saturating_add(behind_ns).max(age_ns);
        self.max_ns = self.max_ns.max(self.now_ns);
        self.now_ns
    }

    /// A burst of `count` datagrams was read from a datapath, which says this of the rest.
    pub(super) fn received(&mut self, count: usize, backlog: Backlog) {
        self.received += count;
        self.waiting += backlog.waiting;
        self.age_ns = self.age_ns.max(backlog.age_ns);
    }
}

/// How long what waits has to wait for the turns that read what lies before it.
#[cold]
fn behind_ns(took_ns: u64, waiting: usize, received: usize) -> u64 {
    let behind = u128::from(took_ns) * waiting as u128 / received.max(1) as u128;
    u64::try_from(behind).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MILLISECOND_NS;

    const MS: u64 = MILLISECOND_NS;

    fn left(waiting: usize) -> Backlog {
        Backlog { waiting, age_ns: 0 }
    }

    #[test]
    fn what_waits_behind_ten_bursts_waits_for_eleven_turns() {
        let mut delay = QueueDelay::default();
        delay.received(64, left(640));
        assert_eq!(delay.turn(Some(2 * MS), false), 22 * MS);
        // It is told of the burst of one turn, and then forgotten.
        assert_eq!(delay.turn(Some(2 * MS), false), 0);
        assert_eq!((delay.now_ns, delay.max_ns), (0, 22 * MS));
    }

    #[test]
    fn a_burst_that_left_nothing_is_as_late_as_its_turn_was_long() {
        let mut delay = QueueDelay::default();
        delay.received(3, left(0));
        assert_eq!(delay.turn(Some(5 * MS), true), 5 * MS);
        delay.received(3, left(0));
        assert_eq!(delay.turn(Some(5 * MS), false), 0, "a simulation jumps to its next event");
        assert_eq!(delay.turn(None, true), 0, "it slept");
    }

    #[test]
    fn the_age_that_the_kernel_tells_counts_if_it_is_more() {
        let mut delay = QueueDelay::default();
        delay.received(1, Backlog { waiting: 0, age_ns: 40 * MS });
        delay.received(1, Backlog { waiting: 0, age_ns: 30 * MS });
        assert_eq!(delay.turn(Some(MS), true), 40 * MS);
        // The worker may sleep after a burst: its age was measured all the same.
        delay.received(1, Backlog { waiting: 0, age_ns: 7 * MS });
        assert_eq!(delay.turn(None, true), 7 * MS);
    }

    #[test]
    fn a_burst_of_nothing_and_a_turn_without_end_are_no_panic() {
        let mut delay = QueueDelay::default();
        delay.received(0, left(usize::MAX));
        assert_eq!(delay.turn(Some(u64::MAX), true), u64::MAX);
    }
}
