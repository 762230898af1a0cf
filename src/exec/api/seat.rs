//! What a worker knows of a connection besides the protocol's state. Callbacks may look at it.

use super::super::address::{Home, Key, OwnedAddress};
use super::super::message::Op;
use super::super::table::InitialKey;
use super::belongings::Owned;
use super::stream_handler::StreamHandlers;
use crate::datapath::Link;
use crate::proto::connection::PathId;
use crate::proto::source::Source;
use crate::time::Instant;
use std::collections::VecDeque;

/// A client's handshake, until it is done.
#[derive(Clone, Copy, Debug)]
pub(in crate::exec) struct Handshake {
    /// The id that the client chose, and its address.
    pub(in crate::exec) initial: InitialKey,
    /// It began with a token: the address is the client's.
    pub(in crate::exec) proven: bool,
    /// The listener was not asked yet: the client has not said all that it asks for.
    pub(in crate::exec) unasked: bool,
}

/// How datagrams of one path leave: what the worker knows of it besides the addresses, which are the
/// connection's.
#[derive(Clone, Copy, Debug)]
pub(in crate::exec) struct Way {
    /// The path.
    pub(in crate::exec) path: PathId,
    /// The datapath that they leave through.
    pub(in crate::exec) datapath: usize,
    /// What lies below IP.
    pub(in crate::exec) link: Link,
}

/// Datagrams of the active path in a row that arrived at one other worker.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::exec) struct Astray {
    worker: u16,
    pub(in crate::exec) count: u16,
}

impl Astray {
    /// One more arrived at `worker`. How many it are.
    pub(in crate::exec) fn note(&mut self, worker: u16) -> u16 {
        if self.worker != worker {
            *self = Self { worker, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count
    }
}

/// A move to another worker: see `exec/lane/moving.rs`.
#[derive(Default)]
pub(in crate::exec) struct MoveState {
    /// It was offered to this worker, which has not answered.
    pub(in crate::exec) asked: Option<u16>,
    /// It does not go to this worker before then: its application said so, or there was no place.
    pub(in crate::exec) refused: Option<(u16, Instant)>,
    /// Its application is not asked before then.
    pub(in crate::exec) rests_until: Option<Instant>,
    /// Where it was. Ids that lead there are in use.
    pub(in crate::exec) former: Option<Home>,
    /// Those ids are retired, and are remembered a little longer.
    pub(in crate::exec) releasing: bool,
    /// Calls of handles that wait for those that were posted to the former place.
    pub(in crate::exec) held: Option<VecDeque<Op>>,
}

/// Ways that are remembered besides that of the active path: as many as there are paths besides it.
const OTHER_WAYS_MAX: usize = 3;

/// Where a connection sits: what the worker knows of it besides its state.
#[repr(C)]
pub(in crate::exec) struct Seat {
    pub(in crate::exec) key: Key,
    /// How the peer is reached.
    pub(in crate::exec) way: Way,
    /// When something happened to it last.
    pub(in crate::exec) touched_at: Instant,
    /// On the touched list.
    pub(in crate::exec) touched: bool,
    /// The application was told that it is over: only that it is drained is still told.
    pub(in crate::exec) over: bool,
    /// The application closed, and was told inline: it is not told again.
    pub(in crate::exec) told_inline: bool,
    /// A callback panicked: nothing more is told.
    pub(in crate::exec) panicked: bool,
    /// Its datagrams arrive at another worker.
    pub(in crate::exec) astray: Astray,
    /// It gave back what an idle connection does not need.
    pub(in crate::exec) shrunk: bool,
    /// Its client is to get a token for a later connection, once its address is validated.
    pub(in crate::exec) owes_token: bool,
    /// Its own address has gone away, and it could not move.
    pub(in crate::exec) stranded: bool,
    /// What the connection held when it was looked at last.
    pub(in crate::exec) held_bytes: u32,
    pub(in crate::exec) measured_at: Instant,
    /// The client's handshake, until it is done.
    pub(in crate::exec) handshake: Option<Box<Handshake>>,
    /// Made when the application asks for a handle.
    pub(in crate::exec) address: Option<OwnedAddress>,
    /// What is left of a move, or about to become one.
    pub(in crate::exec) move_state: Option<Box<MoveState>>,
    /// Streams with an application of their own.
    pub(in crate::exec) stream_handlers: Option<Box<StreamHandlers>>,
    /// The listener that accepted it.
    pub(in crate::exec) listener: Option<u32>,
    /// Where the peer's stateless reset finds it.
    pub(in crate::exec) reset: Option<u64>,
    /// The source that a client came from: its place is on the account of that source.
    pub(in crate::exec) source: Option<Source>,
    /// How the peer is reached on other paths, the newest last; most connections have none.
    pub(in crate::exec) other_ways: Vec<Way>,
    /// Its timers.
    pub(in crate::exec) timers: Owned,
    /// Watches of its descriptors. Some may have ended.
    pub(in crate::exec) watches: Owned,
}

impl Seat {
    pub(in crate::exec) fn new(key: Key, datapath: usize, link: Link, now: Instant) -> Self {
        Self {
            key,
            way: Way { path: PathId::default(), datapath, link },
            other_ways: Vec::new(),
            address: None,
            timers: Owned::default(),
            watches: Owned::default(),
            handshake: None,
            source: None,
            held_bytes: 0,
            measured_at: now,
            astray: Astray::default(),
            move_state: None,
            stream_handlers: None,
            listener: None,
            reset: None,
            touched: false,
            over: false,
            told_inline: false,
            panicked: false,
            touched_at: now,
            shrunk: false,
            owes_token: false,
            stranded: false,
        }
    }

    /// True while a client has not said all that it asks for.
    #[inline]
    pub(in crate::exec) fn is_unasked(&self) -> bool {
        self.handshake.as_ref().is_some_and(|handshake| handshake.unasked)
    }

    /// A packet of the peer's took this path: so do the answers. Where there are too many ways, those
    /// of paths that the connection does not have (any more) go first.
    #[cold]
    pub(in crate::exec) fn learn(&mut self, way: Way, has: impl Fn(PathId) -> bool) {
        if way.path == self.way.path {
            // The path stays with its datapath; the neighbour may be another one.
            if way.link.is_known() {
                self.way.link = way.link;
            }
            return;
        }
        self.other_ways.retain(|other| other.path != way.path);
        if self.other_ways.len() >= OTHER_WAYS_MAX {
            let gone = self.other_ways.iter().position(|other| !has(other.path));
            self.other_ways.remove(gone.unwrap_or(0));
        }
        self.other_ways.push(way);
    }

    /// The connection takes another path.
    #[cold]
    pub(in crate::exec) fn follow(&mut self, path: PathId, has: impl Fn(PathId) -> bool) {
        let next = self.way_of(path);
        let before = std::mem::replace(&mut self.way, next);
        self.other_ways.retain(|other| other.path != path);
        self.learn(before, has);
    }

    /// The way of a path. Where nothing has come from yet, the datapath finds the neighbour.
    pub(in crate::exec) fn way_of(&self, path: PathId) -> Way {
        let mut all = std::iter::once(&self.way).chain(&self.other_ways);
        let known = all.find(|way| way.path == path).copied();
        known.unwrap_or(Way { path, datapath: self.way.datapath, link: Link::UNKNOWN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_of_paths_that_are_gone_make_room() {
        let way =
            |n: u8| Way { path: PathId::of(n), datapath: usize::from(n), link: Link::UNKNOWN };
        let key = Key { slot: 0, generation: 0 };
        let mut seat = Seat::new(key, 0, Link::UNKNOWN, Instant::EPOCH);
        // The connection was on path 0, and is on path 1; a flood of others comes and goes.
        seat.learn(way(1), |_| true);
        seat.follow(PathId::of(1), |_| true);
        for n in 2..100 {
            seat.learn(way(n), |path| [0, 1, n].map(PathId::of).contains(&path));
        }
        assert_eq!((seat.way_of(PathId::of(0)).datapath, seat.other_ways.len()), (0, 3));
        assert_eq!(seat.way_of(PathId::of(99)).datapath, 99);
        assert_eq!(seat.way_of(PathId::of(5)).datapath, 1, "as the active one");
    }
}
