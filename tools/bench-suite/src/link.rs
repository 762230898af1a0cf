//! A path in virtual time: a queue in front of a line, a delay, and random faults.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

/// The properties of a path, one way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    /// From the end of the line to the receiver.
    pub(crate) delay_ns: u64,
    /// The rate of the line.
    pub(crate) bits_per_second: u64,
    /// The size of its queue; more is dropped.
    pub(crate) queue_bytes: u64,
    /// Datagrams of a thousand that are lost.
    pub(crate) lost_per_mille: u64,
    /// Datagrams of a thousand that arrive with a flipped bit.
    pub(crate) corrupted_per_mille: u64,
}

/// One direction of a path.
pub(crate) struct Link {
    line: Line,
    random: u64,
    /// When the line will have sent its queue; all users of the line share this.
    busy_until_ns: Rc<Cell<u64>>,
    under_way: VecDeque<(u64, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
    /// Datagrams that the full queue dropped.
    pub(crate) overflowed: u64,
}

/// xorshift64* (Vigna 2016).
pub(crate) fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

impl Link {
    /// A direction whose faults come from `seed`.
    pub(crate) fn new(line: Line, seed: u64) -> Self {
        Self::sharing(line, seed, Rc::default())
    }

    /// As [`new`](Self::new), on a line and a queue that are shared.
    pub(crate) fn sharing(line: Line, seed: u64, busy_until_ns: Rc<Cell<u64>>) -> Self {
        let mut random = seed.wrapping_mul(2).wrapping_add(1);
        // The first numbers of small seeds are similar.
        for _ in 0..8 {
            next(&mut random);
        }
        let under_way = VecDeque::new();
        Self { line, random, busy_until_ns, under_way, spare: Vec::new(), overflowed: 0 }
    }

    fn chance(&mut self, per_mille: u64) -> bool {
        (next(&mut self.random) >> 32) % 1_000 < per_mille
    }

    /// A datagram leaves at `now_ns`.
    pub(crate) fn send(&mut self, now_ns: u64, datagram: &[u8]) {
        // Drawn for every datagram, also a dropped one: one seed is one list of faults.
        let lost = self.chance(self.line.lost_per_mille);
        let corrupted = self.chance(self.line.corrupted_per_mille);
        let busy_until_ns = self.busy_until_ns.get();
        let waits_ns = busy_until_ns.saturating_sub(now_ns);
        if waits_ns * self.line.bits_per_second / 8 > self.line.queue_bytes * 1_000_000_000 {
            self.overflowed += 1;
            return;
        }
        let bits = datagram.len() as u64 * 8;
        let done_ns = busy_until_ns.max(now_ns) + bits * 1_000_000_000 / self.line.bits_per_second;
        self.busy_until_ns.set(done_ns);
        if lost {
            return;
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(datagram);
        if corrupted {
            let bit = (next(&mut self.random) >> 16) as usize % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        self.under_way.push_back((done_ns + self.line.delay_ns, bytes));
    }

    /// Hands out what has arrived by `now_ns`, at most `budget` datagrams.
    pub(crate) fn receive(&mut self, now_ns: u64, budget: usize, mut each: impl FnMut(&[u8])) {
        for _ in 0..budget {
            let Some((_, bytes)) = self.under_way.pop_front_if(|(due, _)| *due <= now_ns) else {
                break;
            };
            each(&bytes);
            self.spare.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: Line = Line {
        delay_ns: 10_000_000,
        bits_per_second: 8_000_000,
        queue_bytes: 3_000,
        lost_per_mille: 0,
        corrupted_per_mille: 0,
    };

    fn received(link: &mut Link, now_ns: u64) -> usize {
        let mut count = 0;
        link.receive(now_ns, usize::MAX, |_| count += 1);
        count
    }

    #[test]
    fn a_line_takes_its_time_and_its_queue_overflows() {
        let mut link = Link::new(LINE, 1);
        // A thousand bytes take a millisecond.
        (0..6).for_each(|_| link.send(0, &[7; 1_000]));
        assert_eq!((received(&mut link, 10_999_999), received(&mut link, 11_000_000)), (0, 1));
        assert_eq!((received(&mut link, 1_000_000_000), link.overflowed), (3, 2));
    }

    #[test]
    fn faults_come_as_often_as_asked_for_and_from_the_seed() {
        let faulty = Line {
            lost_per_mille: 100,
            corrupted_per_mille: 50,
            queue_bytes: u64::MAX >> 32,
            ..LINE
        };
        let run = |seed| {
            let mut link = Link::new(faulty, seed);
            (0..10_000).for_each(|_| link.send(0, &[7; 100]));
            let (mut whole, mut broken) = (0, 0);
            link.receive(u64::MAX, usize::MAX, |d| {
                *(if d == [7; 100] { &mut whole } else { &mut broken }) += 1;
            });
            (whole, broken)
        };
        let (whole, broken) = run(1);
        assert!((8_400..8_700).contains(&whole) && (350..550).contains(&broken));
        assert_eq!(run(1), (whole, broken));
        assert_ne!(run(2), (whole, broken));
    }
}
