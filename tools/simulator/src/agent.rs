//! The application at either end of a connection: follows the plan, and checks its callbacks.

mod answers;
mod certificates;
mod ends;
mod network;
mod whims;

pub(crate) use certificates::TICKET_DATA;
pub(crate) use whims::WhimPlan;

use crate::oracle::{End, Shared};
use crate::run::Planted;
use crate::scenario::{KINDS, Plan, Receive, Reply, StreamPlan};
use bytes::{Bytes, BytesMut};
use quiclane::datapath::sim::Rng;
use quiclane::exec::{
    ConnectFailure, ConnectionRef, Drained, Handler, NetworkStatistics, Processor, WorkerRef,
};
use quiclane::proto::streams::{ReceiveError, SendError};
use quiclane::{CloseReason, Dir, Side, StreamId};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
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
const READ: u64 = 6;
const TURN_ON: u64 = 7;
const JUDGE: u64 = 8;
/// A timer that was taken back.
const NEVER: u64 = 9;
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
    /// Where tracked sends end: the first is number `completed`.
    tracked: VecDeque<u64>,
    completed: u64,
    /// It was reset, by us or because the peer asked for it.
    given_up: bool,
    /// A copied send found too little room.
    short: bool,
}

impl Stream {
    /// Lends the next bytes, as the plan wants it.
    fn send(
        &mut self,
        c: &mut ConnectionRef<'_>,
        id: StreamId,
        data: &'static [u8],
    ) -> Result<(), SendError> {
        if self.plan.copied && self.to_send.is_some() {
            let len = data.len();
            let taken = match c.streams().send_copy(id, data, self.send_over) {
                Err(SendError::Full { .. } | SendError::ConnectionFull { .. }) => 0,
                taken => taken?,
            };
            if taken < len {
                (self.sent, self.send_over) = (self.sent - (len - taken) as u64, false);
                self.short = true;
            }
            return Ok(());
        }
        let data = Bytes::from_static(data);
        if !self.plan.tracked {
            return c.streams().send(id, data, self.send_over);
        }
        let number = self.completed + self.tracked.len() as u64;
        c.streams().send_tracked(id, data, self.send_over, number)?;
        self.tracked.push_back(self.sent);
        Ok(())
    }
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
    /// Until it is drained.
    closed_for: Option<CloseReason>,
    told_inline: bool,
    rng: Rng,
    planted: Option<Planted>,
    me: Weak<Mutex<Agent>>,
    /// A callback has come through a stream's own handler.
    by_own: bool,
    network: network::Watched,
    /// It was told of what the ticket held.
    resumed: bool,
    whims: whims::Whims,
}

/// The handler of streams that have their own: it leads to the agent.
pub(crate) struct OwnHandler(Arc<Mutex<Agent>>);

impl OwnHandler {
    pub(crate) fn agent(&self) -> MutexGuard<'_, Agent> {
        let mut agent = lock(&self.0);
        agent.by_own = true;
        agent
    }
}

/// The handler of a connection: it leads to the agent.
pub(crate) struct FrontHandler(Arc<Mutex<Agent>>);

impl FrontHandler {
    pub(crate) fn agent(&self) -> MutexGuard<'_, Agent> {
        let mut agent = lock(&self.0);
        agent.by_own = false;
        agent
    }
}

/// A run has one thread: the lock is never contended.
fn lock(agent: &Mutex<Agent>) -> MutexGuard<'_, Agent> {
    agent.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agent {
    pub(crate) fn front(
        plan: Plan,
        side: Side,
        shared: Shared,
        planted: Option<Planted>,
    ) -> FrontHandler {
        let agent = Arc::new(Mutex::new(Self::new(plan, side, shared, planted)));
        lock(&agent).me = Arc::downgrade(&agent);
        FrontHandler(agent)
    }

    fn new(plan: Plan, side: Side, shared: Shared, planted: Option<Planted>) -> Self {
        let number = shared.begins(plan.port, side);
        let rng = Rng::new(u64::from(plan.port)).fork(side as u64);
        let whims = whims::Whims::new(plan.whims[side as usize].clone());
        Self {
            plan,
            side,
            shared,
            number,
            opened: [0; 2],
            streams: BTreeMap::new(),
            closed_streams: 0,
            is_closed: false,
            closed_for: None,
            told_inline: false,
            rng,
            planted,
            me: Weak::new(),
            by_own: false,
            network: network::Watched::default(),
            resumed: false,
            whims,
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
                tracked: VecDeque::new(),
                completed: 0,
                given_up: false,
                short: false,
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
                self.begin(c, stream);
                self.write(c, stream);
                self.reset_if_due(c, stream);
            }
        }
    }

    /// What the plan wants of a stream at its begin.
    fn begin(&mut self, c: &mut ConnectionRef<'_>, id: StreamId) {
        let s = self.stream(id);
        let (plan, receives) = (s.plan, !s.receive_over);
        if plan.own_handler
            && let Some(me) = self.me.upgrade()
            && !c.set_stream_handler(id, Box::new(OwnHandler(me)))
        {
            self.complain(format_args!("{id:?} is open, and cannot have a handler"));
        }
        if receives && let Receive::Provided(len) = plan.receive {
            self.provide(c, id, len);
        }
    }

    fn provide(&mut self, c: &mut ConnectionRef<'_>, id: StreamId, len: usize) {
        // The end may have come, and the callback that says so is on its way.
        let provided = c.streams().provide(id, BytesMut::zeroed(len));
        if let Err(error) = provided
            && error != ReceiveError::Ended
        {
            self.complain(format_args!("provide for {id:?}: {error:?}"));
        }
    }

    /// Reads what waits, in parts, and sees to it that more is offered.
    fn read(&mut self, c: &mut ConnectionRef<'_>, id: StreamId) {
        let mut part = vec![0; 1 + self.rng.below(30_000) as usize];
        loop {
            let Some(s) = self.streams.get_mut(&id.raw()).filter(|s| !s.receive_over) else {
                return;
            };
            s.resuming = false;
            let (len, fin) = match c.streams().read(id, &mut part) {
                Ok(read) => read,
                Err(error) => return self.complain(format_args!("read of {id:?}: {error:?}")),
            };
            self.told("read", id.raw(), (len as u64) << 1 | u64::from(fin));
            self.takes(c, id, &part[..len], fin);
            if len == 0 || fin || c.is_closed() {
                return;
            }
        }
    }

    /// Takes data that is checked, and does what the plan wants then.
    fn takes(&mut self, c: &mut ConnectionRef<'_>, id: StreamId, data: &[u8], fin: bool) {
        if let Some(wrong) = Self::check(self.stream(id), data, fin) {
            return self.complain(format_args!("{id:?}: {wrong}"));
        }
        let s = self.stream(id);
        let at = s.received;
        s.received += data.len() as u64;
        s.receive_over |= fin;
        self.answer(c, id, at, data.len() as u64, fin);
    }

    /// Stream callbacks come to whom the plan wants.
    fn comes_right(&self, c: &ConnectionRef<'_>, id: StreamId) {
        let own = self.plan.stream(id).own_handler;
        if own != self.by_own && !c.is_closed() {
            self.complain(format_args!("a callback of {id:?} came wrong: {own}"));
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
        while !s.send_over && !s.short && s.sent - s.acknowledged < s.plan.buffer_bytes {
            let free = s.plan.buffer_bytes - (s.sent - s.acknowledged);
            let data = pattern(&s.plan, s.sent, free.min(total - s.sent));
            s.sent += data.len() as u64;
            s.send_over = s.sent == total;
            if let Err(error) = s.send(c, id, data) {
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
            (s.send_over, s.given_up) = (true, true);
            // It may be done already; then there is nothing to give up.
            let _ = c.streams().reset(id, RESET_CODE);
        }
    }

    /// Ends the echo of a stream that the peer has reset.
    fn abandon(&mut self, c: &mut ConnectionRef<'_>, id: StreamId) {
        let s = self.stream(id);
        if !s.send_over && s.to_send.is_none() {
            (s.send_over, s.given_up) = (true, true);
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
        self.check_resumed(resumed);
        self.shared.connected(self.number);
        self.set_timers(c);
        self.open(c);
        self.done_if_all_closed();
    }

    fn confirmed(&mut self, c: &mut ConnectionRef<'_>) {
        self.told("confirmed", 0, 0);
        self.watch_network(c);
    }

    fn network_statistics(&mut self, c: &mut ConnectionRef<'_>, told: &NetworkStatistics) {
        self.check_statistics(c, told);
    }

    fn ideal_send_buffer_changed(&mut self, c: &mut ConnectionRef<'_>, bytes: u64) {
        self.check_ideal(c, bytes);
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
        self.begin(c, stream);
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
        self.comes_right(c, stream);
        let offset = c.streams().received(stream);
        let expected = self.stream(stream).received;
        if offset != Some(expected) {
            self.complain(format_args!("{stream:?}: data at {offset:?}, not {expected}"));
        }
        if let Some(wrong) = Self::check(self.stream(stream), data, fin) {
            self.complain(format_args!("{stream:?}: {wrong}"));
            return data.len();
        }
        let draw = self.rng.next_u64();
        let s = self.stream(stream);
        match s.plan.receive {
            Receive::Provided(_) => self.complain(format_args!("{stream:?} has memory of its own")),
            Receive::Read if !data.is_empty() => {
                if !std::mem::replace(&mut s.resuming, true) {
                    let soon = Duration::from_nanos(draw >> 40);
                    c.set_timer(soon, READ << KIND_SHIFT | stream.raw());
                }
                return 0;
            }
            Receive::OnAndOff if draw.is_multiple_of(4) && !fin => {
                if let Err(error) = c.streams().set_receive(stream, false) {
                    self.complain(format_args!("receive off of {stream:?}: {error:?}"));
                }
                let soon = Duration::from_nanos(draw >> 40);
                c.set_timer(soon, TURN_ON << KIND_SHIFT | stream.raw());
            }
            _ => {}
        }
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

    fn send_ready(&mut self, c: &mut ConnectionRef<'_>, id: StreamId) {
        self.told("send_ready", id.raw(), 0);
        self.comes_right(c, id);
        if !std::mem::replace(&mut self.stream(id).short, false) {
            self.complain(format_args!("{id:?}: nobody waits for room"));
        }
        self.write(c, id);
    }

    fn buffer_filled(
        &mut self,
        c: &mut ConnectionRef<'_>,
        id: StreamId,
        buffer: BytesMut,
        len: usize,
        fin: bool,
    ) {
        let what = if c.is_closed() { "buffer_cut" } else { "buffer" };
        self.told(what, id.raw(), (len as u64) << 1 | u64::from(fin));
        self.comes_right(c, id);
        let s = self.stream(id);
        if s.receive_over || c.is_closed() {
            return;
        }
        let (full, plan) = (len == buffer.len(), s.plan);
        if !full && !fin {
            self.complain(format_args!("{id:?}: {len} of {} bytes come back", buffer.len()));
        }
        self.takes(c, id, &buffer[..len], fin);
        // Half of them provide only when they are asked to.
        if let Receive::Provided(size) = plan.receive
            && size % 2 == 0
            && !self.stream(id).receive_over
        {
            self.provide(c, id, size);
        }
    }

    fn receive_buffer_needed(&mut self, c: &mut ConnectionRef<'_>, id: StreamId) {
        self.told("buffer_needed", id.raw(), 0);
        self.comes_right(c, id);
        let s = self.stream(id);
        if let (Receive::Provided(size), false) = (s.plan.receive, s.receive_over) {
            self.provide(c, id, size);
        }
    }

    fn acknowledged(&mut self, c: &mut ConnectionRef<'_>, id: StreamId, bytes: u64, fin: bool) {
        self.told("acknowledged", id.raw(), bytes << 1 | u64::from(fin));
        self.comes_right(c, id);
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
        self.comes_right(c, id);
        if ![RESET_CODE, STOP_CODE, ABANDON_CODE].contains(&code) {
            self.complain(format_args!("{id:?} reset with {code}"));
        }
        let s = self.stream(id);
        if std::mem::replace(&mut s.receive_over, true) {
            self.complain(format_args!("{id:?} reset after its end"));
        }
        self.abandon(c, id);
    }

    fn stop_sending(&mut self, c: &mut ConnectionRef<'_>, id: StreamId, code: u64) {
        self.told("stop_sending", id.raw(), code);
        self.comes_right(c, id);
        if code != STOP_CODE {
            self.complain(format_args!("{id:?} stopped with {code}"));
        }
        let s = self.stream(id);
        (s.send_over, s.given_up) = (true, true);
    }

    fn send_complete(&mut self, c: &mut ConnectionRef<'_>, id: StreamId, number: u64, cut: bool) {
        let what = if c.is_closed() { "send_cut" } else { "send_complete" };
        self.told(what, id.raw(), number << 1 | u64::from(cut));
        self.comes_right(c, id);
        let s = self.stream(id);
        let (expected, end) = (s.completed, s.tracked.pop_front());
        s.completed += 1;
        let (acknowledged, may) = (s.acknowledged, s.given_up || c.is_closed());
        if number != expected
            || !end.is_some_and(|end| cut || c.is_closed() || end <= acknowledged)
            || cut && !may
        {
            self.complain(format_args!(
                "{id:?}: send {number}, the {expected}th, to {end:?} is complete (cut {cut}) with \
                 {acknowledged} acknowledged"
            ));
        }
    }

    fn stream_closed(&mut self, c: &mut ConnectionRef<'_>, id: StreamId, _context: u64) {
        let cut = c.is_closed();
        self.told(if cut { "stream_cut" } else { "stream_closed" }, id.raw(), 0);
        self.comes_right(c, id);
        let s = self.stream(id);
        if !(cut || s.receive_over && s.send_over) || !s.tracked.is_empty() {
            let s = format!("{s:?}");
            self.complain(format_args!("{id:?} closed before its end: {s}"));
        }
        self.streams.remove(&id.raw());
        if !cut {
            self.closed_streams += 1;
            self.done_if_all_closed();
        }
    }

    fn peer_needs_streams(&mut self, c: &mut ConnectionRef<'_>, dir: Dir) {
        let before = c.streams().grant_streams(dir, 0);
        let after = c.streams().grant_streams(dir, self.rng.below(3));
        self.told("needs_streams", dir as u64, after);
        if after < before {
            self.complain(format_args!("{after} streams are granted, after {before}"));
        }
    }

    fn streams_available(&mut self, c: &mut ConnectionRef<'_>, dir: Dir, count: u64) {
        self.told("streams_available", dir as u64, count);
        if count != c.streams().available(dir) {
            self.complain(format_args!("{count} streams are available, or are not"));
        }
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
                None => {
                    self.check_posted(c.now());
                    self.close(c);
                }
            },
            LOOK_ROUND => {
                c.set_timer(LOOK_INTERVAL, token);
            }
            CLOSE => self.close(c),
            JUDGE => self.judge(c),
            NEVER => self.complain("a timer that was taken back has come due"),
            MOVE => self.migrate(c, (token & 0xff) as u16),
            READ => self.read(c, StreamId::from_raw(token & ((1 << KIND_SHIFT) - 1))),
            TURN_ON => {
                let id = StreamId::from_raw(token & ((1 << KIND_SHIFT) - 1));
                let over = self.streams.get(&id.raw()).is_none_or(|s| s.receive_over);
                if let (Err(error), false) = (c.streams().set_receive(id, true), over) {
                    self.complain(format_args!("receive on of {id:?}: {error:?}"));
                }
            }
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
        if let (ConnectFailure::ClientGone, Some(_)) = (&failure, self.plan.answered_after) {
            // It was answered too late.
            let (reason, plan) = (CloseReason::HandshakeTimeout, Box::new(self.plan.clone()));
            self.shared.ended(self.number, End::Closed { reason, plan });
        } else {
            self.complain(format_args!("not connected: {failure:?}"));
        }
        self.shared.ended(self.number, End::NotConnected);
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, reason: CloseReason) {
        self.is_told_of_close(reason);
    }

    fn drained(&mut self, c: &mut ConnectionRef<'_>, drained: Drained) {
        self.has_drained(c, &drained);
    }
}
