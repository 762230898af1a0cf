//! Timers and dirty lists for the other stacks, whose users bring their own.
//!
//! [`Timers`] is a hashed wheel of 1 ms ticks that is lazy: a deadline that moves later (as with every
//! packet) costs a comparison, and the entry is looked at again when the earlier time comes. It
//! replaces the timers of tokio below quinn, at a lower cost.

/// Nanoseconds in a tick: what timers of an event loop resolve.
const TICK_NS: u64 = 1_000_000;
/// Ticks that the wheel covers; a later deadline is looked at again at its end.
const SLOTS: u64 = 4096;
/// No entry is queued for the connection.
const NONE: u64 = u64::MAX;

/// One deadline per connection.
pub(crate) struct Timers {
    slots: Vec<Vec<u32>>,
    queued: Vec<u64>,
    cursor: u64,
}

impl Timers {
    /// No deadline; time begins at 0.
    pub(crate) fn new() -> Self {
        Self { slots: vec![Vec::new(); SLOTS as usize], queued: Vec::new(), cursor: 0 }
    }

    /// The deadline of `connection` is now `deadline_ns`.
    pub(crate) fn set(&mut self, connection: usize, deadline_ns: Option<u64>) {
        let Some(deadline_ns) = deadline_ns else { return };
        if connection >= self.queued.len() {
            self.queued.resize(connection + 1, NONE);
        }
        let tick = deadline_ns.div_ceil(TICK_NS).clamp(self.cursor + 1, self.cursor + SLOTS - 1);
        if tick < self.queued[connection] {
            self.queued[connection] = tick;
            self.slots[(tick % SLOTS) as usize].push(connection as u32);
        }
    }

    /// Calls `look` for each connection whose deadline may have come; it sets the next one.
    pub(crate) fn expire(&mut self, now_ns: u64, due: &mut Vec<usize>) {
        let now = now_ns / TICK_NS;
        self.cursor = self.cursor.max(now.saturating_sub(SLOTS));
        while self.cursor < now {
            self.cursor += 1;
            for connection in self.slots[(self.cursor % SLOTS) as usize].drain(..) {
                let connection = connection as usize;
                if self.queued[connection] <= self.cursor {
                    self.queued[connection] = NONE;
                    due.push(connection);
                }
            }
        }
    }
}

/// Connections that may have something to send, in the order in which they came to have it.
#[derive(Default)]
pub(crate) struct Dirty {
    queue: std::collections::VecDeque<u32>,
    marked: Vec<bool>,
}

impl Dirty {
    /// `connection` may have something to send.
    pub(crate) fn mark(&mut self, connection: usize) {
        if connection >= self.marked.len() {
            self.marked.resize(connection + 1, false);
        }
        if !self.marked[connection] {
            self.marked[connection] = true;
            self.queue.push_back(connection as u32);
        }
    }

    /// Copies which connections are marked; they stay marked.
    pub(crate) fn snapshot(&self, list: &mut Vec<usize>) {
        list.extend(self.queue.iter().map(|&connection| connection as usize));
    }

    /// The connection that waits longest.
    pub(crate) fn pop(&mut self) -> Option<usize> {
        let connection = self.queue.pop_front()? as usize;
        self.marked[connection] = false;
        Some(connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(timers: &mut Timers, now_ns: u64) -> Vec<usize> {
        let mut list = Vec::new();
        timers.expire(now_ns, &mut list);
        list
    }

    #[test]
    fn a_deadline_comes_once_and_not_early() {
        let mut timers = Timers::new();
        timers.set(3, Some(5 * TICK_NS - 1));
        assert!(due(&mut timers, 4 * TICK_NS).is_empty());
        assert_eq!(due(&mut timers, 5 * TICK_NS), [3]);
        assert!(due(&mut timers, 50 * TICK_NS).is_empty());
    }

    #[test]
    fn an_earlier_deadline_replaces_and_a_later_one_waits() {
        let mut timers = Timers::new();
        timers.set(0, Some(10 * TICK_NS));
        timers.set(0, Some(4 * TICK_NS));
        assert_eq!(due(&mut timers, 4 * TICK_NS), [0]);
        timers.set(0, Some(8 * TICK_NS));
        timers.set(0, Some(20 * TICK_NS));
        assert_eq!(due(&mut timers, 8 * TICK_NS), [0]);
        timers.set(0, Some(20 * TICK_NS));
        assert!(due(&mut timers, 19 * TICK_NS).is_empty());
        assert_eq!(due(&mut timers, 20 * TICK_NS), [0]);
    }

    #[test]
    fn a_far_deadline_is_looked_at_again() {
        let mut timers = Timers::new();
        timers.set(1, Some(3 * SLOTS * TICK_NS));
        assert_eq!(due(&mut timers, SLOTS * TICK_NS), [1]);
        timers.set(1, Some(3 * SLOTS * TICK_NS));
        assert!(due(&mut timers, (SLOTS + 1) * TICK_NS).is_empty());
    }
}
