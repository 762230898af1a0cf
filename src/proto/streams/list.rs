//! Queues of streams, linked through the streams themselves.
//!
//! A connection asks "who has something to send" for every packet. The answer is a queue whose
//! links lie in the streams' own slots: joining and leaving cost a few stores, never an
//! allocation, and a stream is in a queue at most once, so that no queue can outgrow the table.

use super::slot::Stream;

/// No slot, no piece.
pub(super) const NONE: u32 = u32::MAX;

/// A stream's place in a queue that it may leave from the middle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) prev: u32,
    pub(super) next: u32,
}

impl Link {
    /// In no queue.
    pub(super) const FREE: Self = Self { prev: NONE, next: NONE };
}

/// Which of a stream's links a queue uses.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// Data to send, new or again.
    Send,
    /// Control frames to send.
    Control,
    /// Events for the application.
    Event,
    /// Data that waits for an application that asked to have it again.
    Resumed,
}

/// How many links a stream has.
pub(super) const WAYS: usize = 4;

/// First and last of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    head: u32,
    tail: u32,
}

impl List {
    /// An empty list.
    pub(super) const EMPTY: Self = Self { head: NONE, tail: NONE };

    /// True if no stream waits.
    pub(super) const fn is_empty(&self) -> bool {
        self.head == NONE
    }

    /// Who is first.
    pub(super) const fn first(&self) -> Option<u32> {
        if self.head == NONE { None } else { Some(self.head) }
    }

    /// Puts `slot`, which is in no queue of this way, at the end.
    #[inline]
    pub(super) fn push(&mut self, slots: &mut [Stream], way: Way, slot: u32) {
        slots[slot as usize].links[way as usize] = Link { prev: self.tail, next: NONE };
        if self.tail == NONE {
            self.head = slot;
        } else {
            slots[self.tail as usize].links[way as usize].next = slot;
        }
        self.tail = slot;
    }

    /// Takes `slot`, which is in this queue, out of it.
    #[inline]
    pub(super) fn remove(&mut self, slots: &mut [Stream], way: Way, slot: u32) {
        let Link { prev, next } = slots[slot as usize].links[way as usize];
        if prev == NONE {
            self.head = next;
        } else {
            slots[prev as usize].links[way as usize].next = next;
        }
        if next == NONE {
            self.tail = prev;
        } else {
            slots[next as usize].links[way as usize].prev = prev;
        }
        slots[slot as usize].links[way as usize] = Link::FREE;
    }

    /// Puts the first at the end.
    #[inline]
    pub(super) fn rotate(&mut self, slots: &mut [Stream], way: Way) {
        if self.head != self.tail {
            let first = self.head;
            self.remove(slots, way, first);
            self.push(slots, way, first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::slot::Stream;
    use super::*;

    fn order(list: &List, slots: &[Stream]) -> Vec<u32> {
        let mut seen = Vec::new();
        let mut at = list.head;
        while at != NONE {
            seen.push(at);
            at = slots[at as usize].links[Way::Send as usize].next;
        }
        seen
    }

    #[test]
    fn streams_leave_from_anywhere() {
        let mut slots: Vec<Stream> = (0..5).map(|_| Stream::vacant()).collect();
        let mut list = List::EMPTY;
        for slot in 0..5 {
            list.push(&mut slots, Way::Send, slot);
        }
        list.remove(&mut slots, Way::Send, 2);
        list.remove(&mut slots, Way::Send, 0);
        list.remove(&mut slots, Way::Send, 4);
        assert_eq!(order(&list, &slots), [1, 3]);
        list.rotate(&mut slots, Way::Send);
        assert_eq!(order(&list, &slots), [3, 1]);
        list.remove(&mut slots, Way::Send, 1);
        list.rotate(&mut slots, Way::Send);
        assert_eq!(list.first(), Some(3));
        list.remove(&mut slots, Way::Send, 3);
        assert!(list.is_empty());
        list.push(&mut slots, Way::Send, 2);
        assert_eq!(order(&list, &slots), [2]);
    }
}
