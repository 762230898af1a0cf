//! Looking ahead: what a burst will need is fetched before its first datagram is worked on.
//!
//! Of thousands of connections hardly any is in a cache when its next datagram arrives. The state
//! that a datagram needs is found from pointer to pointer: each miss waits for the one before.
//! But the ids in a burst name its connections at once. So the ids are read first. Then the state
//! of all these connections is fetched side by side, one pointer further at each step:
//!
//! ```text
//!   ids -> slots of the table -> connections -> keys, streams, records of sent packets
//! ```
//!
//! Nothing is decided here: a datagram that is dropped after all has cost its fetches, and one
//! that was not looked at is found all the same.

use super::{Entry, Lane};
use crate::datapath::MAX_BURST;
use crate::exec::address::Key;
use crate::exec::sys;
use crate::lb::{CID_LEN, Route};
use crate::wire::packet;

/// With more connections than these it is worth looking ahead. Each has 4 to 5 KB of hot state with its
/// keys, so fewer stay in a second-level cache, and fetching them from there costs as much as it
/// saves: with 100, requests take 8% longer for it; with 1,000 they take 14% less.
///
/// In tests one is many.
const FEW_CONNECTIONS: usize = if cfg!(test) { 0 } else { 127 };

/// A datagram of the burst to come.
struct Seen {
    id: [u8; CID_LEN],
    route: Option<Route>,
    /// The connection to fetch; `None` if the datagram before is for the same one.
    fetch: Option<Key>,
}

/// What is known of the burst to come.
pub(super) struct Ahead {
    seen: Vec<Seen>,
    /// How many of them have arrived, or were dropped on the way. More may arrive of the last.
    arrived: usize,
    /// The connection that was looked at last: it need not be fetched again.
    warm: Option<Key>,
}

impl Ahead {
    pub(super) fn new() -> Self {
        Self { seen: Vec::with_capacity(MAX_BURST), arrived: 0, warm: None }
    }

    /// The route in the id of a datagram that was looked at; `None` if it was not.
    #[inline]
    pub(super) fn route(&mut self, id: &[u8]) -> Option<Option<Route>> {
        // The datagrams of a buffer that the kernel joined arrive one by one, and were seen as one.
        if let Some(last) = self.arrived.checked_sub(1).and_then(|at| self.seen.get(at))
            && last.id == *id
        {
            return Some(last.route);
        }
        // In the order in which they were seen, less those that the datapath dropped.
        let left = self.seen.get(self.arrived..)?;
        let at = left.iter().position(|seen| seen.id == *id)?;
        let route = left[at].route;
        self.arrived += at + 1;
        Some(route)
    }
}

impl Lane {
    /// True if it is of use to look at a burst before it is received.
    #[must_use]
    pub(crate) fn looks_ahead(&self) -> bool {
        self.table.len() > FEW_CONNECTIONS
    }

    /// Looks at a datagram that will be [received](Self::receive) soon: call it for a whole
    /// burst, then [`fetch_ahead`](Self::fetch_ahead) once.
    pub(crate) fn look_ahead(&mut self, datagram: &[u8]) {
        let Some((_, id)) = packet::destination(datagram, CID_LEN) else { return };
        let Ok(id) = <[u8; CID_LEN]>::try_from(id) else { return };
        if self.ahead.seen.len() >= MAX_BURST {
            return;
        }
        let route = match self.ahead.seen.last() {
            Some(last) if last.id == id => last.route,
            _ => self.codec.decode(&id),
        };
        let here = route.filter(|r| usize::from(r.worker) == self.services.worker());
        let key = here.map(|r| Key { slot: r.slot, generation: r.generation });
        let fetch = key.filter(|_| key != self.ahead.warm);
        if let Some(key) = fetch {
            self.ahead.warm = Some(key);
            self.table.fetch_slot(key.slot);
            self.wheel.fetch(key.slot);
        }
        self.ahead.seen.push(Seen { id, route, fetch });
    }

    /// Fetches what the datagrams that were looked at will need.
    pub(crate) fn fetch_ahead(&mut self) {
        let Self { table, ahead, .. } = self;
        let cold = || ahead.seen.iter().filter_map(|seen| seen.fetch);
        for key in cold() {
            if let Some(entry) = table.peek(key) {
                sys::prefetch(std::ptr::from_ref(entry).cast(), Entry::COLD_AT);
            }
        }
        for key in cold() {
            if let Some(entry) = table.peek(key) {
                entry.connection.hot_memory(&mut sys::prefetch);
                let handler = &*entry.handler;
                sys::prefetch(std::ptr::from_ref(handler).cast(), size_of_val(handler));
            }
        }
    }

    /// The burst has been received: forgets what was read of it.
    pub(crate) fn forget_ahead(&mut self) {
        self.ahead.seen.clear();
        self.ahead.arrived = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(number: u8) -> Seen {
        let route = Some(Route { process: 0, worker: 0, slot: number.into(), generation: 0 });
        Seen { id: [number; CID_LEN], route, fetch: None }
    }

    #[test]
    fn what_was_seen_is_known_though_some_of_it_is_dropped() {
        let mut ahead = Ahead::new();
        ahead.seen.extend([1, 2, 2, 3].map(seen));
        let mut slot = |id: u8| ahead.route(&[id; CID_LEN]).map(|r| r.map(|r| r.slot));
        assert_eq!(slot(1), Some(Some(1)));
        assert_eq!(slot(9), None, "not seen: its id has to be read");
        assert_eq!(slot(2), Some(Some(2)));
        assert_eq!(slot(3), Some(Some(3)), "the one before was dropped on the way");
        assert_eq!(slot(1), None, "all have arrived");
    }

    #[test]
    fn a_joined_buffer_is_seen_once_and_known_for_each_of_its_datagrams() {
        let mut ahead = Ahead::new();
        ahead.seen.extend([1, 2, 1, 3].map(seen));
        let trains = [(1, 44), (2, 3), (1, 44), (3, 2)];
        let known: Vec<(u8, usize)> = trains
            .iter()
            .map(|&(id, length)| {
                let known = (0..length).filter(|_| ahead.route(&[id; CID_LEN]).is_some());
                (id, known.count())
            })
            .collect();
        assert_eq!(known, trains, "every other id has to be decrypted once more");
    }
}
