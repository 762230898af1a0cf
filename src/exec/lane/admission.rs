//! Places: what clients may hold of a worker.
//!
//! A client's first packet costs it nothing, and its address may be forged. So places are counted by
//! what their holder has shown:
//!
//! | it has shown | what it may hold | where there is no place |
//! |---|---|---|
//! | nothing | an unfinished handshake, if its source and the worker have few | Retry |
//! | its address, by a token | an unfinished handshake, in place of the oldest | CONNECTION_REFUSED |
//! | a whole handshake | a connection, up to the share of its source | - |
//!
//! A handshake counts until it is done or its place is free. One that fails with its first packet
//! never has a place; it counts for a second all the same, so that a flood of such handshakes leads to
//! Retry as one of unfinished handshakes does.

use super::{Entry, Lane};
use crate::exec::address::Key;
use crate::exec::config::LaneLimits;
use crate::exec::rates::Rates;
use crate::exec::table::Table;
use crate::proto::source::Source;
use crate::time::{Instant, MILLISECOND_NS, SECOND_NS};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

/// How often the memory of a busy connection is looked at. Looking costs about 100 ns and more with
/// many streams; between two looks a connection cannot grow by more than its flow-control windows.
pub(super) const MEASURE_NS: u64 = 50 * MILLISECOND_NS;
/// Handshakes that are done stay in the queue of unfinished ones until they are the oldest, or until
/// they are most of it and more than these.
const FEW_DONE: usize = 64;

/// What one source holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    /// Handshakes without a proven address: an attacker may have begun them in its name.
    unproven: u32,
    /// Handshakes with a proven address: it began them itself.
    proven: u32,
    /// Connections after their handshake.
    connections: u32,
}

/// Why a client whose address is proven gets no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// The table is full, and no handshake in it is unfinished.
    Full,
    /// The worker's connections hold as much memory as they may.
    Memory,
    /// Its source has as many connections as it may.
    SourceConnections,
    /// Its source has as many unfinished handshakes as it may.
    SourceHandshakes,
    /// As many connections have begun in this second as may.
    Rate,
}

impl NoPlace {
    /// True if there may be a place when the client tries again, in a second or so: it is not answered.
    pub(super) fn is_brief(self) -> bool {
        matches!(self, Self::SourceHandshakes | Self::Rate)
    }
}

/// How many events there were within the last second, about: those of this second and a part of
/// those of the one before.
#[derive(Debug, Default)]
struct Recent {
    since: Instant,
    current: u64,
    previous: u64,
}

impl Recent {
    fn roll(&mut self, now: Instant) -> u64 {
        let age_ns = now.ns_since(self.since);
        if age_ns >= SECOND_NS {
            self.previous = if age_ns < 2 * SECOND_NS { self.current } else { 0 };
            self.current = 0;
            self.since = if age_ns < 2 * SECOND_NS { self.since.plus_ns(SECOND_NS) } else { now };
        }
        now.ns_since(self.since).min(SECOND_NS)
    }

    fn note(&mut self, now: Instant) {
        self.roll(now);
        self.current += 1;
    }

    fn count(&mut self, now: Instant) -> u64 {
        let age_ns = self.roll(now);
        self.current + self.previous * (SECOND_NS - age_ns) / SECOND_NS
    }
}

/// Counts the places of a lane, by source.
pub(super) struct Admission {
    limits: LaneLimits,
    sources: HashMap<Source, Held>,
    /// Handshakes in the order in which they began, and some that are done.
    unfinished: VecDeque<Key>,
    /// Those of them that are not done.
    handshakes: usize,
    /// Handshakes that failed.
    failed: Recent,
    /// What the connections hold, as they were looked at last.
    memory_bytes: u64,
    /// What unfinished handshakes hold of it.
    handshake_bytes: u64,
    /// They have held as much as they may, and hold not much less now.
    is_heavy: bool,
    pub(super) rates: Rates,
}

impl Admission {
    pub(super) fn new(limits: LaneLimits) -> Self {
        Self {
            limits,
            sources: HashMap::new(),
            unfinished: VecDeque::new(),
            handshakes: 0,
            failed: Recent::default(),
            memory_bytes: 0,
            handshake_bytes: 0,
            is_heavy: false,
            rates: Rates::new(limits),
        }
    }

    pub(super) fn source(&self, remote: SocketAddr) -> Source {
        Source::of(remote.ip(), self.limits.source_prefix_bits)
    }

    /// Handshakes under way.
    pub(super) fn handshakes(&self) -> usize {
        self.handshakes
    }

    /// Handshakes under way, and those that failed within the last second.
    pub(super) fn pressure(&mut self, now: Instant) -> usize {
        self.handshakes.saturating_add(self.failed.count(now) as usize)
    }

    pub(super) fn handshake_bytes(&self) -> u64 {
        self.handshake_bytes
    }

    /// Whether unfinished handshakes hold as much as they may: once they do, until they hold three
    /// quarters of it.
    pub(super) fn weigh_handshakes(&mut self) -> bool {
        let limit = self.limits.handshake_memory_bytes;
        let least = if self.is_heavy { limit / 4 * 3 } else { limit };
        self.is_heavy = self.handshake_bytes >= least.max(1);
        self.is_heavy
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// True if there is no place for a client whose address may be forged.
    pub(super) fn is_crowded(&self, now: Instant, remote: SocketAddr, table_full: bool) -> bool {
        table_full
            || !self.rates.has_one(now, remote.ip(), false)
            || self.handshakes >= self.limits.handshakes
            || self.memory_bytes >= self.limits.memory_bytes
            || self.sources.get(&self.source(remote)).is_some_and(|held| {
                held.unproven as usize >= self.limits.source_handshakes
                    || held.connections as usize >= self.limits.source_connections
            })
    }

    /// Whether a client whose address is proven may have a place, if one can be made free.
    fn may_enter(&self, now: Instant, remote: SocketAddr, source: Source) -> Result<(), NoPlace> {
        if !self.rates.has_one(now, remote.ip(), true) {
            return Err(NoPlace::Rate);
        }
        if self.memory_bytes >= self.limits.memory_bytes {
            return Err(NoPlace::Memory);
        }
        let held = self.sources.get(&source).copied().unwrap_or_default();
        if held.connections as usize >= self.limits.source_connections {
            return Err(NoPlace::SourceConnections);
        }
        if held.proven as usize >= self.limits.source_handshakes {
            return Err(NoPlace::SourceHandshakes);
        }
        Ok(())
    }

    /// A handshake has its place.
    pub(super) fn began(&mut self, key: Key, source: Source, proven: bool, table: &Table<Entry>) {
        self.handshakes += 1;
        let held = self.sources.entry(source).or_default();
        *if proven { &mut held.proven } else { &mut held.unproven } += 1;
        self.unfinished.push_back(key);
        if self.unfinished.len() > 2 * self.handshakes + FEW_DONE {
            self.unfinished.retain(|key| is_unfinished(table, *key));
        }
    }

    /// A handshake is done: its place is a connection's now.
    pub(super) fn done(&mut self, source: Source, proven: bool) {
        self.handshakes -= 1;
        self.change(source, |held| {
            *if proven { &mut held.proven } else { &mut held.unproven } -= 1;
            held.connections += 1;
        });
    }

    /// A handshake has failed, and its place is free.
    pub(super) fn gave_up(&mut self, now: Instant, source: Source, proven: bool) {
        self.handshakes -= 1;
        self.failed.note(now);
        self.change(source, |held| {
            *if proven { &mut held.proven } else { &mut held.unproven } -= 1;
        });
    }

    /// A handshake has failed before it had a place.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failed.note(now);
    }

    /// The limits.
    pub(super) fn limits(&self) -> &LaneLimits {
        &self.limits
    }

    /// True if the connections hold as much as they may.
    pub(super) fn is_out_of_memory(&self) -> bool {
        self.memory_bytes >= self.limits.memory_bytes
    }

    /// The connections on the account of a source.
    #[cfg(test)]
    pub(super) fn connections_of(&self, source: Source) -> u32 {
        self.sources.get(&source).map_or(0, |held| held.connections)
    }

    /// True if another connection of this source may have a place.
    pub(super) fn has_room_for(&self, source: Source) -> bool {
        let held = self.sources.get(&source).copied().unwrap_or_default();
        (held.connections as usize) < self.limits.source_connections
    }

    /// A connection has come from another worker: it was let in there.
    pub(super) fn arrived(&mut self, source: Source) {
        self.sources.entry(source).or_default().connections += 1;
    }

    /// The place of a connection is free.
    pub(super) fn left(&mut self, source: Source) {
        self.change(source, |held| held.connections -= 1);
    }

    fn change(&mut self, source: Source, change: impl FnOnce(&mut Held)) {
        let Some(held) = self.sources.get_mut(&source) else { return };
        change(held);
        if *held == Held::default() {
            self.sources.remove(&source);
        }
    }

    /// A connection that held `before` bytes was found to hold `now`.
    fn measured(&mut self, before: u32, now: u32) {
        self.memory_bytes = self.memory_bytes - u64::from(before) + u64::from(now);
    }

    /// A handshake that held `before` bytes holds `now`, or is none any more.
    pub(super) fn handshake_measured(&mut self, before: u32, now: u32) {
        self.handshake_bytes = self.handshake_bytes - u64::from(before) + u64::from(now);
    }
}

fn is_unfinished(table: &Table<Entry>, key: Key) -> bool {
    table.peek(key).is_some_and(|entry| entry.seat.handshake.is_some())
}

impl Lane {
    /// Makes sure that a client whose address is proven has a place: perhaps that of the oldest
    /// unfinished handshake.
    pub(super) fn admit(&mut self, remote: SocketAddr, source: Source) -> Result<(), NoPlace> {
        self.admission.may_enter(self.services.now(), remote, source)?;
        let full = |lane: &Self| {
            lane.table.next_key().is_none()
                || lane.admission.handshakes >= lane.admission.limits.handshakes
        };
        while full(self) {
            if !self.evict() {
                return Err(NoPlace::Full);
            }
        }
        Ok(())
    }

    /// Ends the oldest unfinished handshake; false if there is none.
    fn evict(&mut self) -> bool {
        let now = self.services.now();
        while let Some(key) = self.admission.unfinished.pop_front() {
            if !is_unfinished(&self.table, key) {
                continue;
            }
            if self.note_established(key.slot) {
                // It was done in this turn, after the queue was last looked at.
                return true;
            }
            let Some(entry) = self.table.get(key) else { continue };
            let (connection, mut application) = entry.split(&mut self.services);
            connection.abandon(now);
            connection.deliver_events(&mut application);
            self.counters.evicted_handshakes += 1;
            self.remove(key);
            return true;
        }
        false
    }

    pub(super) fn count_no_place(&mut self, why: NoPlace) {
        let counters = &mut self.counters;
        *match why {
            NoPlace::Full => &mut counters.refused_full,
            NoPlace::Memory => &mut counters.refused_memory,
            NoPlace::SourceConnections => &mut counters.refused_source_connections,
            NoPlace::SourceHandshakes => &mut counters.refused_source_handshakes,
            NoPlace::Rate => &mut counters.refused_rate,
        } += 1;
    }
}

/// Looks at what a connection holds.
#[cold]
pub(super) fn measure(admission: &mut Admission, entry: &mut Entry, now: Instant) {
    let bytes = u32::try_from(entry.connection.memory_bytes()).unwrap_or(u32::MAX);
    admission.measured(entry.seat.held_bytes, bytes);
    if entry.seat.handshake.is_some() {
        admission.handshake_measured(entry.seat.held_bytes, bytes);
    }
    (entry.seat.held_bytes, entry.seat.measured_at) = (bytes, now);
}

/// What a connection held is free.
pub(super) fn release(admission: &mut Admission, entry: &Entry) {
    admission.measured(entry.seat.held_bytes, 0);
    if entry.seat.handshake.is_some() {
        admission.handshake_measured(entry.seat.held_bytes, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_within_a_second_is_counted_and_then_forgotten() {
        let mut recent = Recent::default();
        let at = |ms: u64| Instant::from_nanos(5 * SECOND_NS + ms * MILLISECOND_NS);
        for ms in 0..1_000 {
            recent.note(at(ms));
        }
        for (ms, expected) in [(1_000, 1_000), (1_500, 500), (1_900, 100), (2_000, 0)] {
            assert_eq!(recent.count(at(ms)), expected, "after {ms} ms");
        }
        recent.note(at(60_000));
        assert_eq!(recent.count(at(60_001)), 1);
    }
}
