//! Client Initials wait until established connections are served.
//!
//! A handshake costs as much as a burst of packets, and anyone may ask for one. So in a burst that a
//! worker reads, client Initials of no connection are copied aside, and looked at when the burst has
//! been read:
//!
//! - in a turn in which established connections had nothing to do: a few handshakes
//!   (`LaneLimits::handshakes_per_turn`), and as many answers without state as a burst has datagrams;
//! - in any other turn: as much as their *share* pays for. Each datagram of an established connection,
//!   received or sent, adds `LaneLimits::handshake_share_percent` of a datagram to it; what is looked at
//!   takes of it what it has cost: a TLS session [`SESSION_COST`] datagrams, a connection whose
//!   ClientHello is not whole [`BEGIN_COST`], an answer without state [`ANSWER_COST`].
//!
//! A datagram may cost more than was thought: the application computes, or the machine is slow. Then the
//! share comes late. So one handshake begins for each [`LEAST_INTERVAL_NS`] however little is saved up, unless the
//! share is zero.
//!
//! So handshakes use all of the time that established connections leave, and their share of the time
//! that these could use. A session is made when the ClientHello is whole. Until then later datagrams of
//! a handshake wait too: who sends the halves of many ClientHellos, and then all that is missing,
//! would have all those sessions made in one turn otherwise. A session for a client that its application
//! let wait is made when the answer comes, and taken off the share after that.
//!
//! # Who comes first
//!
//! Clients that prove their address by a token wait in a queue of their own, and are looked at first:
//! three of them, then one of the others, so that a host of proven addresses does not keep newcomers from
//! the Retry by which they would prove theirs. A token is opened for that (AES-GCM over 100 bytes, a
//! fraction of what the copy costs), and not used up. Its mark alone does not do: whoever has
//! seen a token of ours can make that for another one.
//!
//! Where no more can wait (`LaneLimits::initials_waiting` of either kind), what arrives is dropped, and
//! the worker asks for Retry for a while: a client that is dropped tries again within a second or so,
//! and one that is asked comes back with a token. Once half of the places are taken, a source that has a
//! quarter of them gets no more: a single host that floods leaves the others half.

use super::Lane;
use super::receive::{Arrived, Routed};
use crate::datapath::{MAX_BURST, RxMeta};
use crate::exec::address::Key;
use crate::proto::endpoint::may_begin;
use crate::proto::source::Source;
use crate::time::{Instant, MILLISECOND_NS, SECOND_NS};
use crate::wire::packet::{self, PacketType};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

/// What a handshake with its TLS session costs, in datagrams of established connections: 262 us and
/// 1.6 us (`tools/bench overload`, 2 vCPUs). Beside the kernel's part of a datagram it is less: too few
/// handshakes then.
const SESSION_COST: u64 = 160;
/// What a connection costs whose ClientHello is not whole yet: the keys of its Initial, its memory, an
/// acknowledgement. Not measured alone; a tenth of a session, and four answers.
const BEGIN_COST: u64 = 16;
/// How long no handshake begins at most while client Initials wait: at 262 us each that is a fortieth
/// of the time.
const LEAST_INTERVAL_NS: u64 = 10 * MILLISECOND_NS;
/// What an answer without state costs, from the copy aside to the last byte of a Retry: 6 us at most.
const ANSWER_COST: u64 = 4;
/// What may be saved up: a few handshakes.
const CREDIT_MAX: u64 = 4 * SESSION_COST * PERCENT;
/// Credit is counted in hundredths of a datagram.
const PERCENT: u64 = 100;
/// A client sends its Initial again after about a second (RFC 9002 §6.2.2): then there is another copy.
const WAIT_MAX_NS: u64 = SECOND_NS;
/// How long Retry is asked for after an Initial found no place to wait.
const RETRY_AFTER_OVERFLOW_NS: u64 = 100 * MILLISECOND_NS;
/// Clients with a proven address that are looked at before one of the others is.
const PROVEN_IN_A_ROW: u8 = 3;
/// How far back the Initial is looked for that a 0-RTT packet belongs to. A client sends the two together;
/// one whose Initial lies further back sends its early data again.
const LOOK_BACK: usize = 16;
/// Buffers that are kept when nothing waits: a burst's. A flood leaves no more than these.
const SPARE_MAX: usize = MAX_BURST;

/// A datagram that waits.
struct Held {
    at: Arrived,
    meta: RxMeta,
    since: Instant,
    source: Source,
    bytes: Vec<u8>,
}

/// What waits of one kind.
#[derive(Default)]
struct Queue {
    held: VecDeque<Held>,
    /// How many each source has of it.
    sources: HashMap<Source, usize>,
}

impl Queue {
    /// True if its source has what one may have of so many places.
    fn is_used_up(&self, source: Source, places: usize) -> bool {
        let share = (places / 4).max(1);
        self.held.len() >= places / 2 && self.sources.get(&source).is_some_and(|n| *n >= share)
    }

    fn push(&mut self, held: Held) {
        *self.sources.entry(held.source).or_default() += 1;
        self.held.push_back(held);
    }

    fn pop(&mut self) -> Option<Held> {
        let held = self.held.pop_front()?;
        if let Some(count) = self.sources.get_mut(&held.source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&held.source);
            }
        }
        Some(held)
    }

    fn has_just_got_of(&self, remote: SocketAddr) -> bool {
        self.held.iter().rev().take(LOOK_BACK).any(|held| held.meta.path.remote == remote)
    }
}

/// Client Initials that wait.
#[derive(Default)]
pub(super) struct Waiting {
    /// Of clients whose address is proven, and of the others.
    proven: Queue,
    others: Queue,
    /// How many of the first were looked at since one of the others was.
    in_a_row: u8,
    /// Buffers to copy into.
    spare: Vec<Vec<u8>>,
    /// A burst is being read.
    pub(super) in_burst: bool,
    /// Datagrams that established connections got in this turn.
    pub(super) given: u64,
    /// Datagrams that connections have written since handshakes were begun last.
    pub(super) written: u64,
    /// Connections begun in this turn, and sessions made for those that were begun before.
    pub(super) begun: usize,
    /// TLS sessions that are not taken off the credit.
    pub(super) sessions: u64,
    /// In hundredths of a datagram.
    credit: u64,
    overflowed_at: Option<Instant>,
    /// When a client Initial was looked at last, or began to wait while no other did.
    looked_at: Instant,
}

impl Waiting {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.proven.held.len() + self.others.held.len()
    }

    /// True if an Initial found no place a moment ago.
    pub(super) fn is_overrun(&mut self, now: Instant) -> bool {
        if self.overrun_until() <= now {
            self.overflowed_at = None;
        }
        self.overflowed_at.is_some()
    }

    /// Until when it is so; `NEVER` if it is not.
    #[inline]
    pub(super) fn overrun_until(&self) -> Instant {
        self.overflowed_at.map_or(Instant::NEVER, |at| at.plus_ns(RETRY_AFTER_OVERFLOW_NS))
    }

    /// The next one.
    fn pop(&mut self) -> Option<Held> {
        if self.in_a_row < PROVEN_IN_A_ROW
            && let Some(held) = self.proven.pop()
        {
            self.in_a_row += 1;
            return Some(held);
        }
        self.in_a_row = 0;
        self.others.pop().or_else(|| self.proven.pop())
    }

    /// Whether the address was proven with an Initial that has come from there just now; `None` if none
    /// waits.
    fn just_got_of(&self, remote: SocketAddr) -> Option<bool> {
        let [others, proven] = [&self.others, &self.proven].map(|q| q.has_just_got_of(remote));
        (others || proven).then_some(proven)
    }

    fn pay(&mut self, datagrams: u64) {
        self.credit = self.credit.saturating_sub(datagrams * PERCENT);
    }
}

/// What becomes of a datagram of no connection in a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aside {
    /// It is looked at now.
    No,
    /// It waits.
    Waits,
    /// There is no place for it.
    Dropped,
}

impl Lane {
    /// A burst is read from now on, until [`begin_handshakes`](Self::begin_handshakes).
    pub(crate) fn begin_burst(&mut self) {
        (self.waiting.in_burst, self.waiting.given, self.waiting.begun) = (true, 0, 0);
    }

    /// Puts a datagram with a long header of no connection aside, if a burst is being read.
    pub(super) fn put_aside(
        &mut self,
        listener: usize,
        at: Arrived,
        meta: &RxMeta,
        datagram: &[u8],
    ) -> Aside {
        if !self.waiting.in_burst {
            return Aside::No;
        }
        let Ok(packet) = packet::parse(datagram, 0, 0) else { return Aside::No };
        let (now, remote) = (self.services.now(), meta.path.remote);
        let proven = match packet.kind {
            // One that can begin nothing is dropped, and takes no place before that.
            PacketType::Initial if may_begin(datagram, &packet) => {
                let token = &datagram[packet.token.clone()];
                self.listeners[listener].endpoint.proves(now, remote, token)
            }
            // What a client sends with its Initial waits with it, behind it.
            PacketType::ZeroRtt => match self.waiting.just_got_of(remote) {
                Some(proven) => proven,
                None => return Aside::No,
            },
            _ => return Aside::No,
        };
        self.hold_datagram(proven, at, meta, datagram)
    }

    /// Puts a datagram of a handshake aside whose ClientHello is not whole: it may complete it.
    #[cold]
    pub(super) fn put_aside_for(&mut self, key: Key, at: Arrived, meta: &RxMeta, datagram: &[u8]) {
        let handshake = self.table.peek(key).and_then(|entry| entry.seat.handshake.as_ref());
        let proven = handshake.is_some_and(|handshake| handshake.proven);
        self.hold_datagram(proven, at, meta, datagram);
    }

    fn hold_datagram(
        &mut self,
        proven: bool,
        at: Arrived,
        meta: &RxMeta,
        datagram: &[u8],
    ) -> Aside {
        let source = self.admission.source(meta.path.remote);
        let (places, since) = (self.admission.limits().initials_waiting, self.services.now());
        if self.waiting.len() == 0 {
            self.waiting.looked_at = since;
        }
        let Waiting { proven: first, others, spare, overflowed_at, .. } = &mut self.waiting;
        let queue = if proven { first } else { others };
        if queue.held.len() >= places {
            *overflowed_at = Some(since);
            self.counters.initials_dropped += 1;
            return Aside::Dropped;
        }
        if queue.is_used_up(source, places) {
            self.counters.initials_source_share += 1;
            return Aside::Dropped;
        }
        let mut bytes = spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(datagram);
        queue.push(Held { at, meta: *meta, since, source, bytes });
        Aside::Waits
    }

    /// The burst has been read: looks at client Initials that wait, as far as this turn allows.
    /// Returns how many.
    #[inline]
    pub(crate) fn begin_handshakes(&mut self) -> usize {
        let waiting = &mut self.waiting;
        waiting.in_burst = false;
        let work = waiting.given + std::mem::take(&mut waiting.written);
        if work > 0 {
            let share = u64::from(self.admission.limits().handshake_share_percent);
            waiting.credit = (waiting.credit + work * share).min(CREDIT_MAX);
        }
        if waiting.len() == 0 && waiting.sessions == 0 { 0 } else { self.look_at_waiting() }
    }

    #[cold]
    fn look_at_waiting(&mut self) -> usize {
        let idle = self.waiting.given == 0 && self.touched.is_empty();
        let made = std::mem::take(&mut self.waiting.sessions);
        if !idle {
            self.waiting.pay(made * SESSION_COST);
        }
        let (mut looked_at, overdue) = (0, self.overdue());
        while looked_at < MAX_BURST
            && (looked_at < overdue || self.may_look(idle))
            && let Some(held) = self.waiting.pop()
        {
            looked_at += 1;
            self.look_at(held, idle);
        }
        looked_at
    }

    /// How many handshakes should have begun in the time that has passed. After a turn of half a second
    /// that is fifty.
    fn overdue(&self) -> usize {
        if self.admission.limits().handshake_share_percent == 0 {
            return 0;
        }
        let passed_ns = self.services.now().ns_since(self.waiting.looked_at);
        usize::try_from(passed_ns / LEAST_INTERVAL_NS).unwrap_or(usize::MAX)
    }

    fn may_look(&self, idle: bool) -> bool {
        let waiting = &self.waiting;
        let few = waiting.begun < self.admission.limits().handshakes_per_turn;
        (idle && few) || waiting.credit >= SESSION_COST * PERCENT
    }

    fn look_at(&mut self, mut held: Held, idle: bool) {
        let now = self.services.now();
        if now.ns_since(held.since) >= WAIT_MAX_NS {
            self.counters.initials_expired += 1;
        } else {
            self.waiting.looked_at = now;
            let begun = self.waiting.begun;
            match self.receive_from(held.at, &held.meta, &mut held.bytes) {
                // A copy of it has begun there meanwhile: the client sends what is missing again.
                // Or its listener has stopped: the client asks again.
                Routed::Elsewhere(_) | Routed::Before(..) => self.counters.initials_expired += 1,
                Routed::Here | Routed::Dropped => {}
            }
            let sessions = std::mem::take(&mut self.waiting.sessions);
            let begins = self.waiting.begun > begun;
            let other = if begins { BEGIN_COST } else { ANSWER_COST };
            if !idle {
                self.waiting.pay(if sessions > 0 { SESSION_COST } else { other });
            }
        }
        if self.waiting.spare.len() < SPARE_MAX {
            self.waiting.spare.push(held.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::{Checksum, Link, Path};
    use crate::ecn::Ecn;

    fn held(from: u8) -> Held {
        let remote = SocketAddr::from(([192, 0, 2, from], 1));
        let path = Path { local: ([192, 0, 2, 1], 1).into(), remote, link: Link::UNKNOWN };
        Held {
            at: Arrived { datapath: 0, worker: 0 },
            meta: RxMeta { path, ecn: Ecn::NotEct, checksum: Checksum::Verified },
            since: Instant::EPOCH,
            source: Source::of(remote.ip(), 56),
            bytes: Vec::new(),
        }
    }

    #[test]
    fn one_of_the_others_is_looked_at_after_three_with_a_proven_address() {
        let mut waiting = Waiting::default();
        (0..8).for_each(|_| waiting.proven.push(held(1)));
        (0..4).for_each(|_| waiting.others.push(held(2)));
        let order: Vec<u8> = std::iter::from_fn(|| waiting.pop())
            .map(|held| if held.source == self::held(1).source { 1 } else { 2 })
            .collect();
        assert_eq!(order, [1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 2, 2]);
        assert!(waiting.proven.sources.is_empty() && waiting.others.sources.is_empty());
    }

    #[test]
    fn early_data_waits_behind_the_initial_that_it_came_with_and_for_no_other() {
        let mut waiting = Waiting::default();
        let from = |n: u8| held(n).meta.path.remote;
        waiting.proven.push(held(1));
        (2..10).for_each(|n| waiting.others.push(held(n)));
        let found = [1, 2, 9, 10].map(|n| waiting.just_got_of(from(n)));
        assert_eq!(found, [Some(true), Some(false), Some(false), None]);
        // However much waits, a few of it are looked at.
        (0..LOOK_BACK).for_each(|_| waiting.others.push(held(20)));
        assert_eq!([1, 9].map(|n| waiting.just_got_of(from(n))), [Some(true), None]);
    }

    #[test]
    fn a_flood_leaves_few_buffers_behind() {
        let mut lane = crate::exec::testing::Scene::new(1, Default::default());
        let lane = lane.servers[0].lane();
        lane.begin_burst();
        (0..500).for_each(|n| {
            let held = held((n % 250) as u8);
            lane.hold_datagram(false, held.at, &held.meta, &[0; 1_200]);
        });
        while lane.waiting.len() > 0 {
            lane.begin_handshakes();
        }
        assert_eq!(lane.waiting.spare.len(), SPARE_MAX);
    }

    #[test]
    fn a_source_leaves_half_of_the_places_to_others() {
        let mut queue = Queue::default();
        let push = |queue: &mut Queue, from| {
            let held = held(from);
            let fits = queue.held.len() < 16 && !queue.is_used_up(held.source, 16);
            if fits {
                queue.push(held);
            }
            fits
        };
        assert_eq!((0..16).filter(|_| push(&mut queue, 1)).count(), 8);
        assert_eq!((0..16).filter(|_| push(&mut queue, 2)).count(), 4);
        assert_eq!((0..16).filter(|_| push(&mut queue, 3)).count(), 4);
        assert_eq!(queue.held.len(), 16);
    }
}
