//! The scenario of a seed: a network, two hosts, their settings, and what applications do.
//!
//! Everything here is a function of the seed. The data of a stream is a function of the seed, the
//! connection's port and the stream's id, so that both ends can compute it.

use crate::agent::WhimPlan;
use quiclane::datapath::sim::{Chance, Fault, Rng};
use quiclane::ecn::Ecn;
use quiclane::exec::Migration;
use quiclane::proto::congestion::Algorithm;
use quiclane::proto::connection::TransportConfig;
use quiclane::proto::endpoint::RetryPolicy;
use quiclane::time::{Instant, MICROSECOND_NS, MILLISECOND_NS, SECOND_NS};
use quiclane::wire::{Dir, Side, StreamId};
use std::time::Duration;

/// The most connections of a seed.
const MAX_CONNECTIONS: u64 = 20;
/// The longest stream.
const MAX_STREAM_BYTES: u64 = 300_000;
/// The most steps in which an application that reads or writes little gets through a stream.
const MOST_STEPS: u64 = 200;
/// Local ports of the client begin here: one for each connection.
const FIRST_PORT: u16 = 10_000;
/// So much more is the port of a client that has moved.
const PORTS_PER_MOVE: u16 = 100;
/// And so much more what is seen of a port behind a NAT that has forgotten it.
pub(crate) const PORTS_PER_REBIND: u16 = 1_000;

/// The first port of the client that is at this one, or is seen at it.
pub(crate) fn first_port(port: u16) -> u16 {
    FIRST_PORT + port.wrapping_sub(FIRST_PORT) % PORTS_PER_MOVE
}
/// A path loses nothing smaller than this (RFC 9000 §14).
const MIN_MTU_BYTES: u64 = 1_200;

/// Everything that a seed decides.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) ipv6: bool,
    /// Of the client and of the server.
    pub(crate) workers: [usize; 2],
    /// Turns happen at multiples of this: what arrives in between arrives as a burst.
    pub(crate) turn_ns: u64,
    /// The faults of datagrams to the server, and of those to the client.
    pub(crate) paths: [Vec<Fault>; 2],
    /// Settings of the client and of the server.
    pub(crate) transport: [TransportConfig; 2],
    pub(crate) retry: RetryPolicy,
    /// When the flows of the client and of the server go to other queues.
    pub(crate) steering: [Vec<(Instant, Vec<usize>)>; 2],
    /// After how many datagrams connections of the client and of the server move to another worker.
    pub(crate) move_after: [u16; 2],
    /// How many addresses the NAT of the client's has, if it is behind one, and when that forgets.
    pub(crate) nat: Option<(u8, Vec<Instant>)>,
    /// Whether the server prefers another address of its own.
    /// What a client says first does not fit into one datagram.
    pub(crate) long_hello: bool,
    /// Clients, and servers, ask their application about the peer's certificate; then servers demand one.
    pub(crate) asks: [bool; 2],
    pub(crate) preferred: Preferred,
    pub(crate) connections: Vec<Plan>,
}

/// An address that a server prefers (RFC 9000 §9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preferred {
    /// It names none.
    Nowhere,
    /// It is there.
    Answers,
    /// Nobody is there.
    Dead,
}

/// What happens on one connection.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    seed: u64,
    pub(crate) port: u16,
    pub(crate) begins: Instant,
    /// How many streams of each kind: see [`kinds`].
    counts: [u64; 4],
    /// Streams carry some hundred bytes at most.
    small: bool,
    /// The listener turns it away.
    pub(crate) refused: bool,
    /// The listener has a place for the client when it is asked: a refusal then goes out once.
    pub(crate) asked_late: bool,
    /// The listener takes so long to answer.
    pub(crate) answered_after: Option<Duration>,
    /// The application takes so long to judge the peer's certificate, at the client and at the server.
    pub(crate) judged_after: [Option<Duration>; 2],
    /// What the applications do of themselves, the client's and the server's.
    pub(crate) whims: [WhimPlan; 2],
    /// One side closes it at some time after its handshake.
    pub(crate) closes: Option<(Side, Duration)>,
    /// The client closes it this long after its start, done or not.
    pub(crate) gives_up: Option<u64>,
    /// Key updates, of the client and of the server.
    pub(crate) key_updates: [Vec<Duration>; 2],
    /// Neither side closes it.
    pub(crate) ends_idle: bool,
    /// How long it is idle before the client closes it.
    pub(crate) lingers: Option<Duration>,
    /// Whether its application lets it move to another worker, at the client and at the server: one in
    /// so many times it does not.
    pub(crate) stays: [u64; 2],
    /// When the client moves to another port of its own.
    pub(crate) moves: Vec<(Duration, Migration)>,
}

/// The four kinds of streams.
pub(crate) const KINDS: [(Side, Dir); 4] = [
    (Side::Client, Dir::Bi),
    (Side::Client, Dir::Uni),
    (Side::Server, Dir::Bi),
    (Side::Server, Dir::Uni),
];

/// What the responder of a bidirectional stream does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Sends back what it gets.
    Echo,
    /// Sends this many bytes of its own.
    Bytes(u64),
}

/// What happens on one stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamPlan {
    /// The place in the pattern where its bytes begin.
    pub(crate) pattern: u64,
    /// What its initiator sends.
    pub(crate) bytes: u64,
    pub(crate) reply: Reply,
    /// The initiator resets it when this many bytes are acknowledged.
    pub(crate) reset_at: Option<u64>,
    /// The receiver asks to stop when it has this many bytes.
    pub(crate) stop_at: Option<u64>,
    /// A receiver takes no more than this from one callback.
    pub(crate) appetite: Option<u64>,
    /// Bytes that an initiator writes at one time.
    pub(crate) buffer_bytes: u64,
    /// The end of each send is told.
    pub(crate) tracked: bool,
    /// Data is copied when it is sent.
    pub(crate) copied: bool,
    pub(crate) receive: Receive,
    /// The stream has a handler of its own.
    pub(crate) own_handler: bool,
}

/// How a receiver gets its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receive {
    /// By callback.
    Shown,
    /// By callback, and it turns receiving off and on.
    OnAndOff,
    /// By reading what it has left.
    Read,
    /// In memory of its own, so many bytes at a time.
    Provided(usize),
}

/// What an application reads or writes at once: no less than a 200th of the longest stream, or
/// one stream takes longer than a run may.
fn at_least(longest_bytes: u64) -> u64 {
    1 + longest_bytes / MOST_STEPS
}

fn one_in(rng: &mut Rng, n: u64) -> bool {
    rng.below(n) == 0
}

impl Plan {
    /// How many streams of a kind.
    pub(crate) fn count(&self, kind: (Side, Dir)) -> u64 {
        KINDS.iter().position(|k| *k == kind).map_or(0, |at| self.counts[at])
    }

    /// How many streams of all kinds.
    pub(crate) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The plan of that stream.
    pub(crate) fn stream(&self, stream: StreamId) -> StreamPlan {
        let rng = Rng::new(self.seed).fork(u64::from(self.port)).fork(stream.raw());
        let mut rng = rng.fork(1);
        let size = |rng: &mut Rng| match rng.below(20) {
            0..3 => 0,
            _ if self.small => rng.below(600),
            3..10 => rng.below(100),
            10..16 => rng.below(5_000),
            16..19 => rng.below(50_000),
            _ => rng.below(MAX_STREAM_BYTES),
        };
        let bytes = size(&mut rng);
        let reply = if rng.below(2) == 0 { Reply::Echo } else { Reply::Bytes(size(&mut rng)) };
        let longest = if let Reply::Bytes(reply) = reply { bytes.max(reply) } else { bytes };
        let mut calls = rng.fork(2);
        StreamPlan {
            tracked: one_in(&mut calls, 3),
            copied: one_in(&mut calls, 3),
            receive: match calls.below(10) {
                0 => Receive::OnAndOff,
                1 | 2 => Receive::Read,
                3 | 4 => Receive::Provided(calls.between(at_least(longest), 20_000) as usize),
                _ => Receive::Shown,
            },
            own_handler: one_in(&mut calls, 3),
            pattern: rng.next_u64() >> 1,
            bytes,
            reply,
            reset_at: one_in(&mut rng, 12).then(|| rng.below(bytes + 1)),
            stop_at: one_in(&mut rng, 12).then(|| rng.below(bytes + 1)),
            // Enough that reading everything takes a few seconds at most.
            appetite: one_in(&mut rng, 4).then(|| rng.between(at_least(longest), 20_000)),
            // The same: it writes again after a round trip.
            buffer_bytes: match rng.below(2) {
                0 => u64::MAX,
                _ => rng.between(at_least(longest), 40_000),
            },
        }
    }

    fn new(seed: u64, number: u64, rng: &mut Rng, few: bool) -> Self {
        let small = one_in(rng, 4);
        let most = if small { 40 } else { 3 };
        let mut counts = [0; 4];
        for count in &mut counts {
            *count = if rng.below(2) == 0 { 0 } else { rng.between(0, most) };
        }
        let moment = |rng: &mut Rng| Duration::from_nanos(rng.below(2 * SECOND_NS));
        let mut updates = [const { Vec::new() }; 2];
        for times in &mut updates {
            let updates = if one_in(rng, 3) { rng.between(1, 4) } else { 0 };
            times.extend((0..updates).map(|_| moment(rng)));
        }
        let side = if rng.below(2) == 0 { Side::Client } else { Side::Server };
        Self {
            seed,
            port: FIRST_PORT + number as u16,
            begins: Instant::from_nanos(rng.below(if few { 1 } else { SECOND_NS }) + SECOND_NS),
            counts,
            small,
            refused: one_in(rng, 40),
            asked_late: false,
            answered_after: None,
            judged_after: [None; 2],
            whims: [(); 2].map(|()| WhimPlan { one_in: 0, closes_after: None, seed: 0 }),
            closes: one_in(rng, 8).then(|| (side, moment(rng))),
            gives_up: one_in(rng, 16).then(|| rng.below(SECOND_NS / 2)),
            key_updates: updates,
            ends_idle: one_in(rng, 8),
            lingers: None,
            stays: [u64::MAX; 2],
            moves: Vec::new(),
        }
    }

    /// The port that a client moves to, as the `n`th of all.
    pub(crate) fn moved_port(&self, n: u16) -> u16 {
        self.port + PORTS_PER_MOVE * (n + 1)
    }
}

impl Scenario {
    /// When the client's NAT forgets it for the last time.
    pub(crate) fn last_rebind(&self) -> Instant {
        let last = self.nat.as_ref().and_then(|(_, rebinds)| rebinds.last());
        last.copied().unwrap_or(Instant::EPOCH)
    }

    /// Whether the server sees clients at more than one address. One that moves to the address that the server
    /// prefers stays at its own.
    pub(crate) fn clients_move(&self) -> bool {
        self.nat.is_some() || self.connections.iter().any(|plan| !plan.moves.is_empty())
    }

    /// The scenario of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        let root = Rng::new(seed);
        let mut rng = root.fork(1);
        let count = match rng.below(4) {
            0 => 1,
            1 | 2 => rng.between(1, 6),
            _ => rng.between(1, MAX_CONNECTIONS),
        };
        let mut queues = root.fork(9);
        let mut more = || usize::from(one_in(&mut queues, 3));
        let workers = [1 + rng.below(2) as usize + more(), 1 + rng.below(2) as usize + more()];
        let turns = [MICROSECOND_NS, 20 * MICROSECOND_NS, 200 * MICROSECOND_NS, MILLISECOND_NS];
        let retries = [RetryPolicy::Never, RetryPolicy::Always, RetryPolicy::Above(2)];
        let mut network = root.fork(2);
        let paths = [path(&mut network.fork(1)), path(&mut network.fork(2))];
        let mut settings = root.fork(3);
        let mut plans = root.fork(4);
        let few = network.below(2) == 0;
        let mut nat = nat(&mut root.fork(6));
        let mut moves = root.fork(7);
        let mut ids = root.fork(8);
        let mut transport = [transport(&mut settings), transport(&mut settings)];
        let mut connections: Vec<_> =
            (0..count).map(|n| Plan::new(seed, n, &mut plans, few)).collect();
        for plan in &mut connections {
            plan.moves = migrations(&mut moves);
            plan.stays =
                [0, 1].map(|_| *queues.pick(&[u64::MAX, u64::MAX, u64::MAX, 2]).unwrap_or(&1));
            // One that waits for a server that has lost it has to speak first.
            plan.ends_idle &= nat.is_none();
        }
        let long_hello = answers(&mut root.fork(11), &mut connections);
        let asks = verdicts(&mut root.fork(14), &mut connections);
        whims(&mut root.fork(15), &mut connections);
        transport[1].active_migration = !one_in(&mut ids, 8);
        let preferred = match ids.below(8) {
            0 | 1 => Preferred::Answers,
            2 => Preferred::Dead,
            _ => Preferred::Nowhere,
        };
        for side in &mut transport {
            side.cid_rotation = rotation(&mut ids);
        }
        bounds(&mut root.fork(12), &mut transport);
        copies(&mut root.fork(13), &mut transport);
        for plan in &mut connections {
            let lingers = one_in(&mut ids, 3);
            plan.lingers = lingers.then(|| Duration::from_millis(ids.between(1_000, 8_000)));
        }
        if let Some((_, rebinds)) = &mut nat {
            during_handshakes(&mut root.fork(9), rebinds, &connections);
            transport[0].keep_alive = Some(Duration::from_millis(moves.between(200, 3_000)));
        }
        Self {
            seed,
            ipv6: rng.below(2) == 0,
            workers,
            turn_ns: *rng.pick(&turns).unwrap_or(&MICROSECOND_NS),
            paths,
            transport,
            retry: *rng.pick(&retries).unwrap_or(&RetryPolicy::Never),
            steering: [10, 5].map(|of| steering(&mut root.fork(of), workers[usize::from(of == 5)])),
            move_after: [0, 1].map(|_| *queues.pick(&[0, 1, 2, 4, 4, 10]).unwrap_or(&4)),
            nat,
            preferred,
            long_hello,
            asks,
            connections,
        }
    }
}

/// How the listener answers. True if what clients say first does not fit into one datagram.
fn answers(rng: &mut Rng, connections: &mut [Plan]) -> bool {
    let long_hello = one_in(rng, 4);
    if one_in(rng, 3) {
        for plan in &mut *connections {
            let after = Duration::from_nanos(rng.below(SECOND_NS));
            plan.answered_after = Some(after).filter(|_| one_in(rng, 2));
        }
    }
    for plan in connections {
        plan.asked_late = long_hello || plan.answered_after.is_some();
    }
    long_hello
}

/// Who judges certificates, and when.
fn verdicts(rng: &mut Rng, connections: &mut [Plan]) -> [bool; 2] {
    let asks = [one_in(rng, 3), one_in(rng, 4)];
    for plan in connections {
        plan.judged_after = [(); 2].map(|()| {
            let after = Duration::from_nanos(rng.below(SECOND_NS));
            Some(after).filter(|_| one_in(rng, 2))
        });
    }
    asks
}

/// What applications do that no plan needs.
fn whims(rng: &mut Rng, connections: &mut [Plan]) {
    for plan in connections {
        for whims in &mut plan.whims {
            whims.one_in = *rng.pick(&[0, 2, 10, 50]).unwrap_or(&0);
            // Many connections have a few callbacks only.
            let most = 1 << rng.between(1, 9);
            let after = rng.between(1, most);
            whims.closes_after = Some(after).filter(|_| one_in(rng, 12));
            whims.seed = rng.next_u64();
        }
    }
}

/// What both sides may hold.
fn bounds(rng: &mut Rng, transport: &mut [TransportConfig; 2]) {
    for side in transport {
        side.connection_window_max_bytes = side.connection_window_bytes << rng.below(4);
        side.stream_window_max_bytes = side.stream_window_bytes << rng.below(4);
        side.send_copy_bytes = rng.between(at_least(MAX_STREAM_BYTES), 40_000) as u32;
        side.granted_streams_max = rng.between(1, 100) as u32;
    }
}

/// What all streams together may hold of copies: at least a block, whatever is asked for.
fn copies(rng: &mut Rng, transport: &mut [TransportConfig; 2]) {
    for side in transport {
        side.connection_send_copy_bytes = rng.below(100_000) as u32;
    }
}

/// A host's indirection table changes under living connections.
fn steering(rng: &mut Rng, workers: usize) -> Vec<(Instant, Vec<usize>)> {
    if workers == 1 || rng.below(2) == 0 {
        return Vec::new();
    }
    let times = rng.between(1, 4);
    let mut changes: Vec<_> = (0..times)
        .map(|_| {
            let at = Instant::from_nanos(SECOND_NS + rng.below(2 * SECOND_NS));
            (at, (0..8).map(|_| rng.below(workers as u64) as usize).collect::<Vec<_>>())
        })
        .collect();
    // And then one queue for all, and each in turn.
    let later = rng.below(6);
    changes.extend((0..later).map(|n| {
        let at = Instant::from_nanos(2 * SECOND_NS + rng.below(4 * SECOND_NS));
        (at, vec![n as usize % workers; 8])
    }));
    changes.sort();
    changes
}

/// The client's NAT, and when it forgets.
fn nat(rng: &mut Rng) -> Option<(u8, Vec<Instant>)> {
    if rng.below(2) == 0 {
        return None;
    }
    let times = rng.between(1, 8);
    let mut rebinds: Vec<_> =
        (0..times).map(|_| Instant::from_nanos(SECOND_NS + rng.below(3 * SECOND_NS))).collect();
    rebinds.sort();
    Some((rng.between(1, 3) as u8, rebinds))
}

/// Half of the times at which a NAT forgets are soon after a connection has begun.
fn during_handshakes(rng: &mut Rng, rebinds: &mut [Instant], connections: &[Plan]) {
    for at in rebinds.iter_mut() {
        if rng.below(2) == 0
            && let Some(plan) = rng.pick(connections)
        {
            *at = plan.begins.plus_ns(rng.below(SECOND_NS / 4));
        }
    }
    rebinds.sort();
}

/// After how much silence connection ids change. A worker notices silence after a second.
fn rotation(rng: &mut Rng) -> Option<Duration> {
    (!one_in(rng, 4)).then(|| Duration::from_millis(rng.between(1, 3_000)))
}

/// When a client moves, after its handshake.
fn migrations(rng: &mut Rng) -> Vec<(Duration, Migration)> {
    let times = if one_in(rng, 3) { rng.between(1, 5) } else { 0 };
    let one = |_| {
        let when = if rng.below(2) == 0 { Migration::Validated } else { Migration::AtOnce };
        (Duration::from_nanos(rng.below(2 * SECOND_NS)), when)
    };
    (0..times).map(one).collect()
}

/// Faults of one direction.
fn path(rng: &mut Rng) -> Vec<Fault> {
    let base_ns = rng.between(50 * MICROSECOND_NS, 60 * MILLISECOND_NS);
    let jitter_ns = if one_in(rng, 3) { rng.below(base_ns) } else { 0 };
    let mut faults = vec![Fault::Delay { base_ns, jitter_ns, keep_order: rng.below(2) == 0 }];
    let percent = |rng: &mut Rng, most: u64| Chance::per_million(rng.below(most * 10_000) as u32);
    if one_in(rng, 3) {
        faults.push(Fault::Drop(percent(rng, 10)));
    }
    if one_in(rng, 6) {
        faults.push(Fault::DropBursts {
            good_to_bad: percent(rng, 2),
            bad_to_good: Chance::percent(20 + rng.below(60) as u32),
            drop_good: Chance::NEVER,
            drop_bad: Chance::percent(20 + rng.below(70) as u32),
        });
    }
    if one_in(rng, 4) {
        let extra_ns = rng.between(MICROSECOND_NS, 30 * MILLISECOND_NS);
        faults.push(Fault::Reorder { chance: percent(rng, 20), extra_ns });
    }
    if one_in(rng, 4) {
        let copies = rng.between(1, 3) as u8;
        let spacing_ns = rng.below(20 * MILLISECOND_NS);
        faults.push(Fault::Duplicate { chance: percent(rng, 20), copies, spacing_ns });
    }
    if one_in(rng, 4) {
        faults.push(Fault::Corrupt { chance: percent(rng, 5), max_bits: rng.between(1, 20) as u8 });
    }
    if one_in(rng, 8) {
        faults.push(Fault::Truncate(percent(rng, 3)));
    }
    if one_in(rng, 4) {
        faults.push(Fault::Mtu { max_bytes: rng.between(MIN_MTU_BYTES, 1_500) as usize });
    }
    if one_in(rng, 4) {
        let queue_bytes = rng.between(15_000, 200_000);
        faults.push(Fault::Bottleneck {
            bytes_per_second: rng.between(100_000, 5_000_000),
            queue_bytes,
            mark_above_bytes: (rng.below(2) == 0).then_some(queue_bytes / 2),
        });
    }
    match rng.below(12) {
        0 => faults.push(Fault::MarkEcn(percent(rng, 10))),
        1 => faults.push(Fault::RewriteEcn(Ecn::NotEct)),
        2 => faults.push(Fault::RewriteEcn(Ecn::Ce)),
        _ => {}
    }
    if one_in(rng, 6) {
        let from = Instant::from_nanos(SECOND_NS + rng.below(2 * SECOND_NS));
        let long = one_in(rng, 4);
        let length_ns = rng.between(MILLISECOND_NS, if long { 40 } else { 1 } * SECOND_NS);
        faults.push(Fault::blackout(from, from.plus_ns(length_ns)));
    }
    faults
}

/// Settings of one side.
fn transport(rng: &mut Rng) -> TransportConfig {
    let size_class = rng.below(10);
    let stream_window_bytes = rng.between(2_000, 2 << (10 + size_class));
    let max_mtu_bytes = rng.between(MIN_MTU_BYTES, 1_500) as u16;
    let limit = |rng: &mut Rng| if one_in(rng, 3) { rng.between(1, 4) } else { 100 };
    let algorithms = [Algorithm::NewReno, Algorithm::Cubic];
    TransportConfig {
        // Long enough for probes to get through after a second of silence.
        idle_timeout: Duration::from_millis(rng.between(40_000, 60_000)),
        handshake_timeout: Duration::from_secs(60),
        keep_alive: None,
        initial_rtt: Duration::from_millis(rng.between(50, 333)),
        max_ack_delay: Duration::from_millis(rng.between(1, 40)),
        ack_threshold: rng.between(1, 10) as u32,
        connection_window_bytes: stream_window_bytes * rng.between(1, 8),
        stream_window_bytes,
        // See `Scenario::new`.
        connection_window_max_bytes: 0,
        stream_window_max_bytes: 0,
        send_copy_bytes: 0,
        connection_send_copy_bytes: 0,
        granted_streams_max: 0,
        bidi_streams: limit(rng),
        uni_streams: limit(rng),
        congestion: *rng.pick(&algorithms).unwrap_or(&Algorithm::NewReno),
        pacing: rng.below(2) == 0,
        active_migration: true,
        preferred_v4: None,
        preferred_v6: None,
        follow_preferred_address: true,
        cid_rotation: None,
        ecn: rng.below(4) != 0,
        initial_mtu_bytes: MIN_MTU_BYTES as u16,
        max_mtu_bytes,
        active_connection_ids: rng.between(2, 8),
        key_update_packets: if one_in(rng, 6) { rng.between(20, 200) } else { 1 << 22 },
        // See `Agent::watch_network`.
        network_statistics: None,
        observers: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2 to 89 bytes of 300,000 were written in a round trip: "not over after 400 s".
    #[test]
    fn no_stream_is_lent_or_eaten_in_more_steps_than_a_run_has_time_for() {
        let mut small_steps = 0;
        for seed in 0..300 {
            for plan in Scenario::new(seed).connections {
                for kind in KINDS {
                    for index in 0..plan.count(kind) {
                        let s = plan.stream(StreamId::new(kind.0, kind.1, index));
                        let reply = if let Reply::Bytes(bytes) = s.reply { bytes } else { 0 };
                        let longest = s.bytes.max(reply);
                        let least = s.buffer_bytes.min(s.appetite.unwrap_or(u64::MAX));
                        assert!(longest / MOST_STEPS < least, "seed {seed}: {s:?}");
                        small_steps += u64::from(longest / 20 > least);
                    }
                }
            }
        }
        assert!(small_steps > 10, "{small_steps} streams take more than 20 steps");
    }
}
