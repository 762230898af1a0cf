//! What happens in the network, for counters, the trace hash and taps.

use super::rng::splitmix64;
use crate::ecn::Ecn;
use crate::time::Instant;
use std::net::{IpAddr, SocketAddr};

/// Something that happened to a datagram.
#[derive(Clone, Copy, Debug)]
pub struct TapEvent<'a> {
    /// When.
    pub at: Instant,
    /// What.
    pub kind: TapKind,
    /// Numbers the datagrams of a network from 0; a copy has the number of its original.
    pub id: u64,
    /// Where it came from, as the place where it happened sees it (after address translation).
    pub source: SocketAddr,
    /// Where it was going.
    pub destination: SocketAddr,
    /// Its ECN codepoint, here and now.
    pub ecn: Ecn,
    /// Its payload, here and now.
    pub payload: &'a [u8],
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TapKind {
    /// A host sent it, with the addresses that the network sees.
    Sent,
    /// It was put on the wire by [`inject`](super::SimNet::inject).
    Injected,
    /// The network made this copy of it.
    Copied,
    /// It reached a queue of its destination, and the addresses are those the host sees.
    Delivered {
        /// Which queue.
        queue: usize,
    },
    /// It ended here.
    Dropped(DropReason),
}

/// Why a datagram ended before a host received it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// A fault dropped it.
    Loss,
    /// Larger than a link takes.
    AboveMtu,
    /// The queue of a bottleneck was full.
    QueueFull,
    /// No host has the address.
    NoHost,
    /// The address translator knows no mapping for it.
    NoMapping,
    /// The receiving host's queue was full.
    ReceiveQueueFull,
    /// The receiving host's queue has no datapath any more.
    Closed,
    /// Larger than the receiving host's buffers.
    AboveBuffer,
    /// The network held too many datagrams already.
    TooManyInFlight,
}

impl DropReason {
    /// How many there are.
    pub const COUNT: usize = 9;

    const fn index(self) -> usize {
        self as usize
    }
}

/// Counters of the whole network. At every moment
/// `sent + injected + copied == delivered + dropped_total() + in flight`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetStats {
    /// Datagrams that hosts sent.
    pub sent: u64,
    /// Datagrams put on the wire from outside.
    pub injected: u64,
    /// Copies that the network made.
    pub copied: u64,
    /// Datagrams that reached a queue of a host.
    pub delivered: u64,
    dropped: [u64; DropReason::COUNT],
}

impl NetStats {
    /// Datagrams dropped for one reason.
    #[must_use]
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason.index()]
    }

    /// Datagrams dropped for any reason.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    fn note(&mut self, kind: TapKind) {
        match kind {
            TapKind::Sent => self.sent += 1,
            TapKind::Injected => self.injected += 1,
            TapKind::Copied => self.copied += 1,
            TapKind::Delivered { .. } => self.delivered += 1,
            TapKind::Dropped(reason) => self.dropped[reason.index()] += 1,
        }
    }
}

/// What is called for every event.
pub(super) type Tap = Box<dyn FnMut(&TapEvent<'_>)>;

/// All observers of the network: counters, a hash over everything, and the taps.
#[derive(Default)]
pub(super) struct Watchers {
    pub(super) stats: NetStats,
    pub(super) hash: TraceHash,
    taps: Vec<Tap>,
}

impl Watchers {
    pub(super) fn add(&mut self, tap: Tap) {
        self.taps.push(tap);
    }

    pub(super) fn note(&mut self, event: &TapEvent<'_>) {
        self.stats.note(event.kind);
        self.hash.note(event);
        for tap in &mut self.taps {
            tap(event);
        }
    }
}

/// A hash over every event with its time and its bytes: two runs did the same if it agrees.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TraceHash(u64);

impl TraceHash {
    pub(super) fn value(self) -> u64 {
        self.0
    }

    fn word(&mut self, word: u64) {
        let mut state = self.0.rotate_left(5) ^ word;
        self.0 = splitmix64(&mut state);
    }

    fn address(&mut self, address: &SocketAddr) {
        match address.ip() {
            IpAddr::V4(ip) => self.word(u64::from(ip.to_bits())),
            IpAddr::V6(ip) => {
                let bits = ip.to_bits();
                self.word((bits >> 64) as u64);
                self.word(bits as u64);
            }
        }
        self.word(u64::from(address.port()));
    }

    fn note(&mut self, event: &TapEvent<'_>) {
        self.word(event.at.as_nanos());
        let kind = match event.kind {
            TapKind::Sent => 0,
            TapKind::Injected => 1,
            TapKind::Copied => 2,
            TapKind::Dropped(reason) => 16 + reason.index() as u64,
            TapKind::Delivered { queue } => 1024 + queue as u64,
        };
        self.word(kind << 2 | u64::from(event.ecn.bits()));
        self.word(event.id);
        self.address(&event.source);
        self.address(&event.destination);
        self.word(event.payload.len() as u64);
        for chunk in event.payload.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(payload: &[u8]) -> TapEvent<'_> {
        TapEvent {
            at: Instant::from_nanos(5),
            kind: TapKind::Sent,
            id: 1,
            source: "10.0.0.1:1".parse().unwrap(),
            destination: "[2001:db8::1]:2".parse().unwrap(),
            ecn: Ecn::Ect0,
            payload,
        }
    }

    fn hash(event: &TapEvent<'_>) -> u64 {
        let mut hash = TraceHash::default();
        hash.note(event);
        hash.value()
    }

    #[test]
    fn every_part_of_an_event_counts() {
        let base = event(b"123456789");
        let mut hashes = vec![
            hash(&base),
            hash(&TapEvent { at: Instant::from_nanos(6), ..base }),
            hash(&TapEvent { kind: TapKind::Dropped(DropReason::Loss), ..base }),
            hash(&TapEvent { kind: TapKind::Delivered { queue: 0 }, ..base }),
            hash(&TapEvent { kind: TapKind::Delivered { queue: 1 }, ..base }),
            hash(&TapEvent { id: 2, ..base }),
            hash(&TapEvent { source: "10.0.0.2:1".parse().unwrap(), ..base }),
            hash(&TapEvent { destination: "[2001:db8::1]:3".parse().unwrap(), ..base }),
            hash(&TapEvent { ecn: Ecn::Ce, ..base }),
            hash(&TapEvent { payload: b"123456780", ..base }),
            hash(&TapEvent { payload: b"123456789\0", ..base }),
        ];
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 11);
        assert_eq!(hash(&base), hash(&event(b"123456789")));
    }

    #[test]
    fn counters_and_taps_see_the_same() {
        let mut watchers = Watchers::default();
        let seen = std::rc::Rc::new(std::cell::Cell::new(0));
        let counter = seen.clone();
        watchers.add(Box::new(move |_| counter.set(counter.get() + 1)));
        watchers.note(&event(b"x"));
        watchers.note(&TapEvent { kind: TapKind::Dropped(DropReason::AboveMtu), ..event(b"x") });
        assert_eq!(seen.get(), 2);
        assert_eq!(watchers.stats.sent, 1);
        assert_eq!(watchers.stats.dropped(DropReason::AboveMtu), 1);
        assert_eq!(watchers.stats.dropped(DropReason::TooManyInFlight), 0);
        assert_eq!(watchers.stats.dropped_total(), 1);
    }
}
