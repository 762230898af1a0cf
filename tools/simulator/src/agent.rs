//! The application at either end of a connection: follows the plan, and checks its callbacks.

use crate::oracle::{End, Shared};
use crate::run::Planted;
use crate::scenario::{KINDS, Plan, Reply, StreamPlan};
use bytes::Bytes;
use quiclane::datapath::sim::Rng;
use quiclane::exec::{ConnectFailure, ConnectionRef, Handler, Processor, WorkerRef};
use quiclane::proto::streams::SendError;
use quiclane::{CloseReason, Dir, Side, StreamId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

/// The code with which applications close connections, and those of resets and stops.
pub(crate) const CLOSE_CODE: u64 = 42;
const RESET_CODE: u64 = 7;
const STOP_CODE: u64 = 9;
const ABANDON_CODE: u64 = 11;

/// The purpose of a timer: in the upper bits of its token, above the stream's id.
const KIND_SHIFT: u32 = 60;
const LOOK_ROUND: u64 = 1;
const CLOSE: u64 = 2;
const UPDATE_KEYS: u64 = 3;
const RESUME: u64 = 4;
const MOVE: u64 = 5;
/// The interval at which a client looks whether all is done.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The bytes that all streams carry, each from a place of its own. The length is prime, so that
/// no two offsets that flow control or packets favour look the same.
const PATTERN_BYTES: usize = 65_537;
static PATTERN: LazyLock<&'static [u8]> = LazyLock::new(|| {
    let mut bytes = vec![0; PATTERN_BYTES];
    Rng::new(0).fill(&mut bytes);
    Vec::leak(bytes)
});

/// The bytes of a stream at `offset`, `limit` of them or fewer.
fn pattern(plan: &StreamPlan, offset: u64, limit: u64) -> &'static [u8] {
    let from = (plan.pattern.wrapping_add(offset) % PATTERN_BYTES as u64) as usize;
    let whole = &PATTERN[from..];
    &whole[..whole.len().min(limit as usize)]
}

fn matches(plan: &StreamPlan, mut offset: u64, mut data: &[u8]) -> bool {
    while !data.is_empty() {
        let expected = pattern(plan, offset, data.len() as u64);
        if &data[..expected.len()] != expected {
            return false;
        }
        offset += expected.len() as u64;
        data = &data[expected.len()..];
    }
    true
}

/// One end's view of a stream.
#[derive(Debug)]
struct Stream {
    plan: StreamPlan,
    ours: bool,
    /// How much this end will send; `None`: it echoes what it receives.
    to_send: Option<u64>,
    sent: u64,
    acknowledged: u64,
    send_over: bool,
    received: u64,
    receive_over: bool,
    resuming: bool,
}

/// One end of a connection.
pub(crate) struct Agent {
    plan: Plan,
    side: Side,
    shared: Shared,
    number: usize,
    /// Streams opened, of each direction.
    opened: [u64; 2],
    streams: BTreeMap<u64, Stream>,
    closed_streams: u64,
    is_closed: bool,
    rng: Rng,
    planted: Option<Planted>,
}

impl Agent {
    pub(crate) fn new(plan: Plan, side: Side, shared: Shared, planted: Option<Planted>) -> Self {
        let number = shared.begins(plan.port, side);
        let rng = Rng::new(u64::from(plan.port)).fork(side as u64);
        Self {
            plan,
            side,
            shared,
            number,
            opened: [0; 2],
            streams: BTreeMap::new(),
            closed_streams: 0,
            is_closed: false,
            rng,
            planted,
        }
    }

    fn complain(&self, what: impl std::fmt::Display) {
        let (side, port) = (self.side, self.plan.port);
        self.shared.complain_of(port, format!("{side:?} of port {port}: {what}"));
    }

    /// Every callback begins here.
    fn told(&self, what: &'static str, a: u64, b: u64) {
        if self.is_closed {
            self.complain(format_args!("{what} after closed"));
        }
        self.shared.told(self.plan.port, self.side, what, a, b);
    }

    fn stream(&mut self, stream: StreamId) -> &mut Stream {
        let (plan, side) = (&self.plan, self.side);
        self.streams.entry(stream.raw()).or_insert_with(|| {
            let (plan, ours) = (plan.stream(stream), stream.initiator() == side);
            let uni = stream.dir() == Dir::Uni;
            let to_send = match plan.reply {
                _ if ours => Some(plan.bytes),
                Reply::Bytes(bytes) => Some(bytes),
                Reply::Echo => None,
            };
            Stream {
                plan,
                ours,
                to_send,
                sent: 0,
                acknowledged: 0,
                send_over: uni && !ours,
                received: 0,
                receive_over: uni && ours,
                resuming: false,
            }
        })
    }

    /// Opens what the plan has and the peer allows.
    fn open(&mut self, c: &mut ConnectionRef<'_>) {
        for dir in [Dir::Bi, Dir::Uni] {
            while self.opened[dir as usize] < self.plan.count((self.side, dir)) {
                let Ok(stream) = c.streams().open(dir) else { break };
                let expected = StreamId::new(self.side, dir, self.opened[dir as usize]);
                if stream != expected {
                    self.complain(format_args!("opened {stream:?}, not {expected:?}"));
                }
                self.opened[dir as usize] += 1;
                self.write(c, stream);
                self.reset_if_due(c, stream);
            }
        }
    }

    /// Fills the send buffer of the stream, as far as the plan allows.
    fn write(&mut self, c: &mut ConnectionRef<'_>, id: StreamId) {
        if c.is_closed() {
            return;
        }
        let mut refused = None;
        let s = self.stream(id);
        let Some(total) = s.to_send else { return };
        while !s.send_over && s.sent - s.acknowledged < s.plan.buffer_bytes {
            let free = s.plan.buffer_bytes - (s.sent - s.acknowledged);
            let data = pattern(&s.plan, s.sent, free.min(total - s.sent));
            s.sent += data.len() as u64;
            s.send_over = s.sent == total;
            if let Err(error) = c.streams().send(id, Bytes::from_static(data), s.send_over) {
                refused = Some(error);
                s.send_over = true;
            }
        }
        // The peer has asked us to stop, and the callback that says so is on its way.
        let refused = refused.filter(|error| !matches!(error, SendError::Stopped(_)));
        if let Some(error) = refused {
            self.complain(format_args!("send on {id:?}: {error:?}"));
        }
    }

    fn reset_if_due(&mut self, c: &mut ConnectionRef<'_>, id: StreamId) {
        let s = self.stream(id);
        if s.ours && s.plan.reset_at.is_some_and(|at| s.acknowledged >= at) {
            s.plan.reset_at = None;
            s.send_over = true;
            // It may be done already; then there is nothing to give up.
            let _ = c.streams().reset(id, RESET_CODE);
        }
    }

    /// Ends the echo of a stream that the peer has reset.
    fn abandon(&mut self, c: &mut ConnectionRef<'_>, id: StreamId) {
        let s = self.stream(id);
        if !s.send_over && s.to_send.is_none() {
            s.send_over = true;
            let _ = c.streams().reset(id, ABANDON_CODE);
        }
    }

    /// Bytes that the peer sends on a stream if neither side ends it early.
    fn expected(s: &Stream) -> u64 {
        match s.plan.reply {
            Reply::Bytes(bytes) if s.ours => bytes,
            _ => s.plan.bytes,
        }
    }

    /// Checks what arrived. Returns what is wrong with it, if anything.
    fn check(s: &Stream, data: &[u8], fin: bool) -> Option<String> {
        let end = s.received + data.len() as u64;
        let expected = Self::expected(s);
        if s.receive_over {
            return Some("data after the end".to_owned());
        }
        if !matches(&s.plan, s.received, data) {
            return Some(format!("wrong bytes in {}..{end}", s.received));
        }
        (end > expected || fin && end != expected)
            .then(|| format!("ends at {end} (fin {fin}), expected {expected}"))
    }

    fn set_timers(&mut self, c: &mut ConnectionRef<'_>) {
        for delay in &self.plan.key_updates[self.side as usize] {
            c.set_timer(*delay, UPDATE_KEYS << KIND_SHIFT);
        }
        if let Some((side, delay)) = self.plan.closes
            && side == self.side
        {
            c.set_timer(delay, CLOSE << KIND_SHIFT);
        }
        if self.side == Side::Client {
            for (n, (delay, _)) in self.plan.moves.iter().enumerate() {
                c.set_timer(*delay, MOVE << KIND_SHIFT | n as u64);
            }
        }
        if self.side == Side::Client && !self.plan.ends_idle {
            c.set_timer(LOOK_INTERVAL, LOOK_ROUND << KIND_SHIFT);
        }
    }

    fn close(&mut self, c: &mut ConnectionRef<'_>) {
        self.shared.closing(self.number);
        c.close(CLOSE_CODE, Bytes::from_static(b"as planned"));
    }

    fn done_if_all_closed(&mut self) {
        if self.closed_streams == self.plan.total() {
            self.shared.done(self.number);
        }
    }

    fn migrate(&mut self, c: &mut ConnectionRef<'_>, n: u16) {
        let Some((_, when)) = self.plan.moves.get(usize::from(n)).copied() else { return };
        let local = SocketAddr::new(c.local().ip(), self.plan.moved_port(n));
        // It may have no id for the new path yet.
        let outcome = c.migrate(local, when);
        self.told("migrate", u64::from(n), u64::from(outcome.is_ok()));
    }

    fn resume(&mut self, c: &mut ConnectionRef<'_>, id: StreamId) {
        let Some(s) = self.streams.get_mut(&id.raw()) else { return };
        s.resuming = false;
        if !s.receive_over
            && let Err(error) = c.streams().resume_receive(id)
        {
            self.complain(format_args!("resume of {id:?}: {error:?}"));
        }
    }
}

impl Handler for Agent {
    fn connected(&mut self, c: &mut ConnectionRef<'_>, resumed: bool) {
        self.told("connected", u64::from(resumed), c.worker() as u64);
        self.shared.connected(self.number);
        self.set_timers(c);
        self.open(c);
        self.done_if_all_closed();
    }

    fn confirmed(&mut self, _: &mut ConnectionRef<'_>) {
        self.told("confirmed", 0, 0);
    }

    fn peer_address_changed(&mut self, c: &mut ConnectionRef<'_>, remote: SocketAddr) {
        self.told("peer_address", u64::from(remote.port()), 0);
        // Of servers, one that prefers another address moves.
        let may = self.side == Side::Server || self.shared.server_moves();
        if !may || c.remote() != remote {
            self.complain(format_args!("the peer is at {}, not {remote}", c.remote()));
        }
    }

    fn local_address_changed(&mut self, c: &mut ConnectionRef<'_>, local: SocketAddr) {
        self.told("local_address", u64::from(local.port()), 0);
        let may = self.side == Side::Client || self.shared.server_moves();
        if !may || c.local() != local {
            self.complain(format_args!("we are at {}, not {local}", c.local()));
        }
    }

    fn migration_failed(&mut self, _: &mut ConnectionRef<'_>, local: SocketAddr) {
        self.told("migration_failed", u64::from(local.port()), 0);
        if self.plan.moves.is_empty() {
            self.complain(format_args!("a move to {local} that nobody asked for has failed"));
        }
    }

    fn stream_opened(&mut self, c: &mut ConnectionRef<'_>, stream: StreamId) {
        self.told("stream_opened", stream.raw(), 0);
        if !KINDS.iter().any(|kind| {
            *kind == (stream.initiator(), stream.dir())
                && stream.index() < self.plan.count(*kind)
                && kind.0 != self.side
        }) {
            self.complain(format_args!("{stream:?} was never planned"));
        }
        self.write(c, stream);
    }

    fn stream_data(
        &mut self,
        c: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        self.told("data", stream.raw(), (data.len() as u64) << 1 | u64::from(fin));
        if let Some(wrong) = Self::check(self.stream(stream), data, fin) {
            self.complain(format_args!("{stream:?}: {wrong}"));
            return data.len();
        }
        let draw = self.rng.next_u64();
        let s = self.stream(stream);
        let taken = match s.plan.appetite {
            Some(most) => data.len().min((draw % (most + 1)) as usize),
            None => data.len(),
        };
        let at = s.received;
        s.received += taken as u64;
        let complete = fin && taken == data.len();
        s.receive_over |= complete;
        let rest = taken < data.len() && !std::mem::replace(&mut s.resuming, true);
        if taken == data.len() {
            s.resuming = false;
        }
        if rest {
            let soon = Duration::from_nanos(draw >> 40);
            let after = Planted::resumes_after(self.planted, soon);
            if let Some(after) = after {
                c.set_timer(after, RESUME << KIND_SHIFT | stream.raw());
            }
        }
        self.answer(c, stream, at, taken as u64, complete);
        taken
    }

    fn acknowledged(&mut self, c: &mut ConnectionRef<'_>, id: StreamId, bytes: u64, fin: bool) {
        self.told("acknowledged", id.raw(), bytes << 1 | u64::from(fin));
        let s = self.stream(id);
        s.acknowledged += bytes;
        let (sent, acknowledged, over) = (s.sent, s.acknowledged, s.send_over);
        if acknowledged > sent || fin && !(over && acknowledged == sent) {
            self.complain(format_args!(
                "{id:?}: {acknowledged} acknowledged of {sent}, fin {fin}, over {over}"
            ));
        }
        self.write(c, id);
        self.reset_if_due(c, id);
    }

    fn stream_reset(&mut self, c: &mut ConnectionRef<'_>, id: StreamId, code: u64) {
        self.told("reset", id.raw(), code);
        if ![RESET_CODE, STOP_CODE, ABANDON_CODE].contains(&code) {
            self.complain(format_args!("{id:?} reset with {code}"));
        }
        let s = self.stream(id);
        if std::mem::replace(&mut s.receive_over, true) {
            self.complain(format_args!("{id:?} reset after its end"));
        }
        self.abandon(c, id);
    }

    fn stop_sending(&mut self, _: &mut ConnectionRef<'_>, id: StreamId, code: u64) {
        self.told("stop_sending", id.raw(), code);
        if code != STOP_CODE {
            self.complain(format_args!("{id:?} stopped with {code}"));
        }
        self.stream(id).send_over = true;
    }

    fn stream_closed(&mut self, _: &mut ConnectionRef<'_>, id: StreamId, _context: u64) {
        self.told("stream_closed", id.raw(), 0);
        let s = self.stream(id);
        if !(s.receive_over && s.send_over) {
            let s = format!("{s:?}");
            self.complain(format_args!("{id:?} closed before its end: {s}"));
        }
        self.streams.remove(&id.raw());
        self.closed_streams += 1;
        self.done_if_all_closed();
    }

    fn streams_available(&mut self, c: &mut ConnectionRef<'_>, dir: Dir) {
        self.told("streams_available", dir as u64, 0);
        if c.is_established() {
            self.open(c);
        }
    }

    fn timer(&mut self, c: &mut ConnectionRef<'_>, token: u64) {
        self.told("timer", token, 0);
        if c.is_closed() {
            return;
        }
        match token >> KIND_SHIFT {
            LOOK_ROUND if self.shared.both_done(self.plan.port) => match self.plan.lingers.take() {
                Some(idle) => {
                    c.set_timer(idle, token);
                }
                None => self.close(c),
            },
            LOOK_ROUND => {
                c.set_timer(LOOK_INTERVAL, token);
            }
            CLOSE => self.close(c),
            MOVE => self.migrate(c, (token & 0xff) as u16),
            UPDATE_KEYS => {
                let updated = c.update_keys();
                self.told("keys", u64::from(updated), 0);
            }
            _ => self.resume(c, StreamId::from_raw(token & ((1 << KIND_SHIFT) - 1))),
        }
    }

    fn ideal_processor_changed(&mut self, c: &mut ConnectionRef<'_>, to: Processor) -> bool {
        self.told("processor", c.worker() as u64, to.worker as u64);
        if to.worker == c.worker() {
            self.complain("is asked to move to where it is");
        }
        self.rng.below(self.plan.stays[self.side as usize]) != 0
    }

    fn moved(&mut self, c: &mut ConnectionRef<'_>, from: usize) {
        self.told("moved", from as u64, c.worker() as u64);
    }

    fn not_connected(&mut self, _: &mut WorkerRef<'_>, failure: ConnectFailure) {
        self.complain(format_args!("not connected: {failure:?}"));
        self.shared.ended(self.number, End::NotConnected);
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, reason: CloseReason) {
        self.told("closed", self.closed_streams, 0);
        self.is_closed = true;
        self.shared.ended(self.number, End::Closed { reason, plan: Box::new(self.plan.clone()) });
    }
}

impl Agent {
    /// What a receiver does with what it took: echoes it, or stops the stream.
    fn answer(
        &mut self,
        c: &mut ConnectionRef<'_>,
        id: StreamId,
        mut at: u64,
        taken: u64,
        fin: bool,
    ) {
        let s = self.stream(id);
        let end = at + taken;
        let mut refused = None;
        while !s.send_over && s.to_send.is_none() && (at < end || fin) {
            let data = pattern(&s.plan, at, end - at);
            at += data.len() as u64;
            s.sent = at;
            s.send_over = fin && at == end;
            if let Err(error) = c.streams().send(id, Bytes::from_static(data), s.send_over) {
                refused = Some(error);
                s.send_over = true;
            }
        }
        if let Some(error) = refused {
            self.complain(format_args!("echo on {id:?}: {error:?}"));
        }
        let s = self.stream(id);
        if !s.receive_over && s.plan.stop_at.is_some_and(|stop| s.received >= stop) {
            s.plan.stop_at = None;
            s.receive_over = true;
            if let Err(error) = c.streams().stop_sending(id, STOP_CODE) {
                self.complain(format_args!("stop of {id:?}: {error:?}"));
            }
            self.abandon(c, id);
        }
    }
}
