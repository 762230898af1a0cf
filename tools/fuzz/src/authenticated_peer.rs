//! A peer that has done the handshake and sends mostly legal, sometimes hostile frames, in either
//! role, against an application that closes, resets and changes keys inside its callbacks.
//!
//! What must hold whatever it sends: nothing panics, and memory stays within a bound. The connection's
//! packets decrypt, parse, and keep within all that the peer granted. The application gets each event
//! once, and none after the end. Time always passes, and in silence the connection ends by itself. As
//! long as the peer kept to the rules, the connection never closes with an error of the peer.

use super::input::Input;
use super::ledger::{self, Ledger, STREAM_WINDOW_BYTES, STREAMS, WINDOW_BYTES};
use super::whimsical::{UNACKNOWLEDGED_BYTES, Whimsical, piece};
use super::wire_peer::{DATAGRAM_BYTES, PeerTls, WirePeer, cid};
use quiclane::ecn::Ecn;
use quiclane::proto::connection::{
    Addresses, ClientArgs, CloseReason, Connection, Event, ServerArgs, TransportConfig, code,
};
use quiclane::proto::crypto::initial_keys;
use quiclane::time::{Instant, MILLISECOND_NS, SECOND_NS};
use quiclane::wire::frame::{EcnCounts, Frame, write_ack};
use quiclane::wire::packet::PacketType;
use quiclane::wire::{Dir, Side, StreamId, Writer};
use quiclane_testkit::Identity;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

/// The memory that a connection may hold: both windows, the application's data in send buffers, and
/// bookkeeping, most of which is a table that doubles.
const MEMORY_BYTES: usize = (2 * WINDOW_BYTES + UNACKNOWLEDGED_BYTES) as usize + (256 << 10);
/// A day in 2027: certificates have dates.
const BEGIN_NS: u64 = 1_800_000_000 * SECOND_NS;
/// Datagrams that the victim may write at one instant: more than its window.
const BURST: usize = 500;
/// Timers that may come due in the time of one step.
const TIMEOUTS: usize = 5_000;
/// Packets of ours in one run.
const STEPS: usize = 2_000;
/// In silence, a connection is gone after this long. An input can make round-trip times of
/// a minute, and so a closing state of three probe timeouts of such.
const PATIENCE_NS: u64 = 3_600 * SECOND_NS;

fn tls() -> Option<&'static PeerTls> {
    static TLS: OnceLock<Option<PeerTls>> = OnceLock::new();
    TLS.get_or_init(make_tls).as_ref()
}

fn make_tls() -> Option<PeerTls> {
    let Identity { certificate, key, .. } = Identity::new();
    let server = quiclane::ServerTls::builder()
        .certificate_der(&[&certificate], &key)
        .ok()?
        .alpn(["fuzz"])
        .tickets(1)
        .build()
        .ok()?;
    let client = quiclane::ClientTls::builder()
        .roots_der(&[&certificate])
        .ok()?
        .alpn(["fuzz"])
        .sessions(0)
        .build()
        .ok()?;
    Some(PeerTls { client: Arc::new(client), server: Arc::new(server) })
}

fn address(side: Side) -> SocketAddr {
    let port = if side == Side::Server { 443 } else { 1000 };
    SocketAddr::from(([192, 0, 2, 1], port))
}

struct Run {
    now: Instant,
    victim: Connection,
    app: Whimsical,
    peer: WirePeer,
    ledger: Ledger,
    /// The victim's packets are lost.
    deaf: bool,
    /// The peer never breaks a rule.
    honest: bool,
    /// How often its address has changed, more or less: it is added to its port.
    moved: u16,
    cids: u8,
    /// An earlier datagram, to be sent again.
    earlier: Vec<u8>,
}

/// See the module.
pub(super) fn authenticated_peer(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.u8();
    let side = if kind & 1 == 0 { Side::Client } else { Side::Server };
    let Some(mut run) = tls().and_then(|tls| Run::new(side, tls)) else {
        panic!("no connection could be made");
    };
    run.honest = kind & 2 != 0;
    run.shake_hands();
    let mut steps = 0;
    while !input.is_empty() && steps < STEPS && !run.victim.is_drained() {
        steps += 1;
        run.step(&mut input);
        run.check();
    }
    run.end();
}

fn victim(side: Side, tls: &PeerTls, now: Instant) -> Option<Connection> {
    let config: Arc<TransportConfig> = Arc::new(ledger::config());
    match side {
        Side::Client => Connection::connect(ClientArgs {
            config,
            tls: &tls.client,
            server_name: "localhost",
            now,
            local: address(Side::Client),
            remote: address(Side::Server),
            local_cid: cid(3),
            initial_dcid: WirePeer::initial_dcid(),
            token: Vec::new(),
            seed: 1,
            grease: 3,
        })
        .ok(),
        Side::Server => Connection::accept(ServerArgs {
            config,
            tls: Some(Arc::clone(&tls.server)),
            now,
            local: address(Side::Server),
            remote: address(Side::Client),
            local_cid: cid(3),
            reset_token: [3; 16],
            preferred_cid: None,
            initial_keys: initial_keys(1, WirePeer::initial_dcid().as_slice(), Side::Server),
            original_dcid: WirePeer::initial_dcid(),
            retry_scid: None,
            peer_cid: cid(1),
            address_validated: false,
            seed: 2,
            grease: 4,
        })
        .ok(),
    }
}

impl Run {
    /// `side` is the peer's.
    fn new(side: Side, tls: &PeerTls) -> Option<Self> {
        let now = Instant::from_nanos(BEGIN_NS);
        Some(Self {
            now,
            victim: victim(side.peer(), tls, now)?,
            app: Whimsical::new(now),
            peer: WirePeer::new(side, now, tls, ledger::parameters())?,
            ledger: Ledger::new(side),
            deaf: false,
            honest: false,
            moved: 0,
            cids: 100,
            earlier: Vec::new(),
        })
    }

    fn shake_hands(&mut self) {
        for _ in 0..20 {
            self.listen();
            while let Some(datagram) = self.peer.handshake_datagram() {
                self.deliver(datagram, Ecn::NotEct);
            }
            self.pass(MILLISECOND_NS);
            if self.peer.is_done() && self.victim.is_established() {
                break;
            }
        }
        assert!(self.victim.is_established(), "the handshake did not finish");
        if self.ledger.side == Side::Server {
            self.ledger.confirmed = true;
            self.write(|_, _, w| Frame::HandshakeDone.write(w).is_ok());
        }
        let cid = self.victim.local_cids().next().copied();
        if let Some(cid) = cid {
            self.ledger.their_cids.insert(0, cid);
        }
        self.listen();
        assert!(self.victim.is_confirmed(), "the handshake was not confirmed");
    }

    fn deliver(&mut self, mut datagram: Vec<u8>, ecn: Ecn) {
        let (local, mut remote) = (address(self.ledger.side.peer()), address(self.ledger.side));
        remote.set_port(remote.port() + self.moved);
        let at = Addresses { local, remote };
        self.victim.receive(self.now, at.ends(), ecn, &mut datagram, &mut self.app);
    }

    /// Takes everything that the victim wants to send now.
    fn listen(&mut self) {
        while self.victim.wants_cid() {
            self.cids = self.cids.wrapping_add(1).max(4);
            self.victim.add_cid(cid(self.cids), [self.cids; 16]);
        }
        let mut buf = [0; 2048];
        for written in 0.. {
            assert!(written < BURST, "a storm of datagrams");
            let sent = match self.victim.wants_elsewhere(self.now) {
                Some((id, _)) => self.victim.transmit_elsewhere(self.now, id, &mut buf),
                None => self.victim.transmit(self.now, &mut buf),
            };
            let Some(t) = sent else { break };
            assert!(t.len > 0 && t.len <= 1472, "a datagram of {} bytes", t.len);
            if self.deaf {
                continue;
            }
            let (opened, failed) = self.peer.open(&mut buf[..t.len]);
            assert!(failed == 0 || self.ledger.hostile, "{failed} packets do not open");
            for packet in opened.iter().filter(|p| p.kind == PacketType::Short) {
                self.ledger.read(&packet.payload, self.peer.next_pn());
            }
        }
    }

    /// Lets time pass, and serves the timers that come due.
    fn pass(&mut self, ns: u64) {
        let until = self.now.plus_ns(ns);
        for served in 0.. {
            assert!(served < TIMEOUTS, "timers come due for ever");
            let Some(due) = self.victim.next_timeout().filter(|due| *due <= until) else { break };
            self.now = self.now.max(due);
            self.app.now = self.now;
            self.victim.handle_timeout(self.now, &mut self.app);
            self.listen();
        }
        self.now = until;
        self.app.now = until;
    }

    /// Sends one packet with what `frames` writes; nothing if it writes nothing.
    fn write(&mut self, frames: impl FnOnce(&WirePeer, &mut Ledger, &mut Writer<'_>) -> bool) {
        let mut buf = [0; DATAGRAM_BYTES - 60];
        let mut w = Writer::new(&mut buf);
        let _wrote = frames(&self.peer, &mut self.ledger, &mut w);
        let len = w.position();
        if len > 0 {
            self.send(&buf[..len], 0);
        }
    }

    fn send(&mut self, payload: &[u8], bits: u8) {
        // A header that is sampled needs four bytes behind it.
        let mut payload = payload.to_vec();
        if !payload.is_empty() && payload.len() < 4 {
            payload.resize(4, 0);
        }
        if let Some(datagram) = self.peer.seal(&payload, bits) {
            self.earlier.clone_from(&datagram);
            self.deliver(datagram, Ecn::NotEct);
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() {
            0..=99 => self.legal(input),
            233..=255 if self.honest => self.legal(input),
            100..=139 => {
                let delay = u64::from(input.u8());
                self.write(|peer, _, w| peer.write_ack(delay, w));
            }
            140..=159 => self.app.step(&mut self.victim, input),
            160..=179 => {
                let whim = input.u16();
                self.app.whims.push_back(whim);
            }
            180..=209 => {
                // From a microsecond to 17 s, usually far below a second.
                let n = input.u8();
                let exponent = if n >= 250 { 34 } else { u32::from(n % 20) + 10 };
                self.pass(1 << exponent);
            }
            210..=212 => self.deaf = !self.deaf,
            // Its NAT forgets it.
            213..=214 => self.moved = u16::from(input.u8() % 4),
            215..=222 => self.update_keys(),
            223..=227 => {
                // The same once more, or damaged.
                let mut datagram = self.earlier.clone();
                let at = usize::from(input.u16());
                if let Some(byte) = datagram.get_mut(at) {
                    *byte ^= input.u8();
                }
                let mark = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce][at % 4];
                self.deliver(datagram, mark);
            }
            228..=232 => {
                let count = u64::from(input.u8());
                let from = self.peer.next_pn();
                self.ledger.skipped.extend(from..from + count);
                self.peer.skip(count);
            }
            233..=247 => self.hostile(input),
            _ => self.raw(input),
        }
        self.listen();
    }

    /// RFC 9001 §6.1: not before the last change was acknowledged.
    fn update_keys(&mut self) {
        let l = &self.ledger;
        let began = self.peer.phase_began();
        let answered = l.largest_acked.is_some_and(|pn| pn >= began);
        if l.confirmed && answered && !self.peer.update_is_pending() && !self.deaf {
            self.peer.update_keys();
            self.write(|_, _, w| Frame::Ping.write(w).is_ok());
        }
    }

    /// A packet with up to four frames that an honest peer might send.
    fn legal(&mut self, input: &mut Input<'_>) {
        let count = input.u8() % 4 + 1;
        let mut buf = [0; DATAGRAM_BYTES - 60];
        let mut w = Writer::new(&mut buf);
        for _ in 0..count {
            legal_frame(&self.peer, &mut self.ledger, input, &mut w);
        }
        let len = w.position();
        if len > 0 {
            self.send(&buf[..len], 0);
        }
        // An id in use was retired: continue with another one.
        if let Some(cid) = self.ledger.their_cids.values().next() {
            self.peer.remote_cid = *cid;
        }
    }

    /// A packet with a small violation, which no honest peer sends.
    fn hostile(&mut self, input: &mut Input<'_>) {
        self.ledger.hostile = true;
        let mut buf = [0; DATAGRAM_BYTES - 60];
        let mut w = Writer::new(&mut buf);
        match input.u8() % 8 {
            0 => self.peer.update_keys(),
            1 => self.send(&[1; 4], 1 << (input.u8() % 6)),
            2 => self.send(&[], 0),
            3 => {
                let (high, low) = (u64::from(input.u16()), u64::from(input.u8()));
                let ranges = [(high.saturating_sub(low), high)];
                let counts =
                    EcnCounts { ect0: u64::from(input.u8()), ect1: 0, ce: u64::from(input.u8()) };
                let _fits = write_ack(&mut w, ranges.into_iter(), 1, low, Some(counts));
            }
            _ => {
                self.ledger.generous = true;
                hostile_frame(input, &mut w);
            }
        }
        let len = w.position();
        if len > 0 {
            self.send(&buf[..len], 0);
        }
    }

    /// Bytes of the input as they are.
    fn raw(&mut self, input: &mut Input<'_>) {
        self.ledger.hostile = true;
        // It may be stream data of any bytes, or a limit.
        self.app.garbled = true;
        self.ledger.generous = true;
        let payload: Vec<u8> = (0..input.u8() % 64).map(|_| input.u8()).collect();
        self.send(&payload, 0);
    }

    fn check(&self) {
        let held = self.victim.memory_bytes();
        assert!(held <= MEMORY_BYTES, "{held} bytes are held, {MEMORY_BYTES} may be");
        if let Some(Event::Closed(CloseReason::Transport(e))) = &self.app.closed {
            // It may also have been refused.
            let accused = e.code != code::CONNECTION_REFUSED;
            assert!(self.ledger.hostile || !accused, "an honest peer is accused: {e}");
        }
        let closed = self.ledger.closed;
        assert!(closed.is_none() || self.victim.is_closed(), "closed with {closed:?}, and alive");
    }

    /// In silence the connection ends.
    fn end(&mut self) {
        self.app.whims.clear();
        self.deaf = true;
        let deadline = self.now.plus_ns(PATIENCE_NS);
        while !self.victim.is_drained() && self.now < deadline {
            // What the lane does with a connection that was idle for a while.
            self.victim.shrink();
            self.pass(10 * SECOND_NS);
        }
        self.victim.shrink();
        assert!(self.victim.is_drained(), "in silence, the connection lives on");
        assert!(self.app.closed.is_some(), "the application was not told of the end");
        self.check();
    }
}

/// A stream that we may send on, as far as the input names one.
fn outgoing(l: &Ledger, n: u8) -> Option<StreamId> {
    let dir = if n & 1 == 0 { Dir::Bi } else { Dir::Uni };
    let initiator = if n & 2 == 0 { l.side } else { l.side.peer() };
    let stream = StreamId::new(initiator, dir, u64::from(n >> 2) % (4 * STREAMS));
    l.may_send_on(stream).then_some(stream)
}

/// A stream that the victim may send on.
fn incoming(l: &Ledger, n: u8) -> Option<StreamId> {
    let dir = if n & 1 == 0 { Dir::Bi } else { Dir::Uni };
    let initiator = if n & 2 == 0 { l.side } else { l.side.peer() };
    let stream = StreamId::new(initiator, dir, u64::from(n >> 2) % (4 * STREAMS));
    l.may_receive_on(stream).then_some(stream)
}

fn legal_frame(peer: &WirePeer, l: &mut Ledger, input: &mut Input<'_>, w: &mut Writer<'_>) {
    let (what, n) = (input.u8(), input.u8());
    match what % 24 {
        0..=8 => legal_stream(l, n, input, w),
        9 => legal_reset(l, n, w),
        10 => {
            if let Some(stream) = incoming(l, n) {
                let _fits = Frame::StopSending { stream, code: u64::from(what) }.write(w);
            }
        }
        11 | 12 => {
            let max = l.theirs.data + u64::from(n) * 16;
            if Frame::MaxData(max).write(w).is_ok() {
                l.theirs.data = max;
            }
        }
        13 | 14 => {
            let Some(stream) = incoming(l, n) else { return };
            let flow = l.theirs.flows.entry(stream).or_default();
            let max = flow.limit() + u64::from(n) * 8;
            if (Frame::MaxStreamData { stream, max }).write(w).is_ok() {
                flow.limit = Some(max);
            }
        }
        15 => {
            let dir = if n & 1 == 0 { Dir::Bi } else { Dir::Uni };
            let limit = &mut l.theirs.streams[usize::from(n & 1)];
            let max = *limit + u64::from(n >> 6);
            if (Frame::MaxStreams { dir, max }).write(w).is_ok() {
                *limit = max;
            }
        }
        16 => {
            let mut data = [n; 8];
            data[0] = what;
            if Frame::PathChallenge(data).write(w).is_ok() {
                l.challenges.insert(data);
            }
        }
        17 => legal_new_cid(l, w),
        18 => legal_retirement(peer, l, w),
        19 => {
            let _fits = match n % 3 {
                0 => Frame::DataBlocked(l.ours.data).write(w),
                1 => Frame::StreamsBlocked { dir: Dir::Bi, limit: l.ours.streams[0] }.write(w),
                _ => Frame::Padding { len: usize::from(n) }.write(w),
            };
        }
        20 if l.side == Side::Server => {
            let _fits = match n & 1 {
                0 => Frame::HandshakeDone.write(w),
                _ => Frame::NewToken { token: &[n; 20] }.write(w),
            };
        }
        21 if n < 8 => {
            let (code, reason) = (u64::from(n), b"enough".as_slice());
            let _fits = match n & 1 {
                0 => Frame::ApplicationClose { code, reason }.write(w),
                _ => Frame::ConnectionClose { code, frame_type: 0, reason }.write(w),
            };
        }
        22 => {
            peer.write_ack(u64::from(n), w);
        }
        _ => {
            let _fits = Frame::Ping.write(w);
        }
    }
}

/// Bytes of a stream within all limits: new ones, old ones, or both.
fn legal_stream(l: &mut Ledger, n: u8, input: &mut Input<'_>, w: &mut Writer<'_>) {
    let (back, len, more) = (u64::from(input.u8()), u64::from(input.u8()), input.u8());
    let Some(stream) = outgoing(l, n) else { return };
    let credit = l.ours.data - l.ours.used;
    let flow = l.ours.flows.entry(stream).or_default();
    if flow.reset {
        return;
    }
    // Sometimes behind a gap, sometimes before the end of what was sent.
    let gap = if more & 7 == 7 { u64::from(more) } else { 0 };
    let offset = (flow.end + gap).saturating_sub(back);
    let furthest = flow.fin.unwrap_or(flow.limit()).min(flow.end + credit);
    if offset > furthest {
        return;
    }
    let end = (offset + len).min(furthest).min(offset + w.remaining().saturating_sub(30) as u64);
    if end < offset {
        return;
    }
    let fin = match flow.fin {
        Some(size) => end == size,
        None => more & 0x18 == 0x18 && end >= flow.end,
    };
    let data = piece(stream, offset, (end - offset) as usize);
    if (Frame::Stream { stream, offset, data: &data, fin }).write(w).is_ok() {
        if fin {
            flow.fin = Some(end);
        }
        l.ours.extend(stream, end);
    }
}

fn legal_reset(l: &mut Ledger, n: u8, w: &mut Writer<'_>) {
    let Some(stream) = outgoing(l, n) else { return };
    let flow = l.ours.flows.entry(stream).or_default();
    let final_size = flow.fin.unwrap_or(flow.end);
    if (Frame::ResetStream { stream, code: u64::from(n), final_size }).write(w).is_ok() {
        (flow.fin, flow.reset) = (Some(final_size), true);
    }
}

/// RFC 9000 §5.1.1: never more than the victim holds, and no new demand while the answer to the
/// last one is pending.
fn legal_new_cid(l: &mut Ledger, w: &mut Writer<'_>) {
    let limit = ledger::config().active_connection_ids as usize;
    if !l.retiring.is_empty() {
        return;
    }
    let sequence = l.next_cid;
    let mut retire_prior_to = 0;
    if l.our_cids.len() >= limit {
        retire_prior_to = l.our_cids.first().map_or(0, |oldest| oldest + 1);
    }
    let n = (sequence % 250) as u8;
    // Ours have the length of the first one: the victim's packets are parsed by it.
    let frame = Frame::NewConnectionId {
        sequence,
        retire_prior_to,
        cid: cid_of(sequence),
        reset_token: [n; 16],
    };
    if frame.write(w).is_ok() {
        l.next_cid += 1;
        l.our_cids.insert(sequence);
        let retired = l.our_cids.range(..retire_prior_to).copied().collect::<Vec<_>>();
        l.retiring.extend(retired);
    }
}

fn cid_of(sequence: u64) -> quiclane::wire::ConnectionId {
    let bytes = (sequence + 0x0100_0000_0000).to_be_bytes();
    quiclane::wire::ConnectionId::new(&bytes).unwrap_or(quiclane::wire::ConnectionId::EMPTY)
}

/// Retires the oldest id of the victim, if there is another one to continue with.
fn legal_retirement(peer: &WirePeer, l: &mut Ledger, w: &mut Writer<'_>) {
    let oldest = l.their_cids.iter().next().map(|(sequence, cid)| (*sequence, *cid));
    let Some((sequence, cid)) = oldest.filter(|_| l.their_cids.len() > 1) else { return };
    // RFC 9000 §19.16: not in a packet that is sent to it.
    if cid != peer.remote_cid && (Frame::RetireConnectionId { sequence }).write(w).is_ok() {
        l.their_cids.remove(&sequence);
    }
}

/// Any frame, of any values.
fn hostile_frame(input: &mut Input<'_>, w: &mut Writer<'_>) {
    let (what, small) = (input.u8(), input.u16());
    let big = if what & 0x80 == 0 { u64::from(small) } else { input.u64() >> 2 };
    let stream = StreamId::from_raw(if what & 0x40 == 0 { u64::from(small % 64) } else { big });
    let dir = if small & 1 == 0 { Dir::Bi } else { Dir::Uni };
    let data = [small as u8; 40];
    let _fits = match what % 20 {
        0 => Frame::ResetStream { stream, code: 1, final_size: big }.write(w),
        1 => Frame::StopSending { stream, code: 1 }.write(w),
        2 => Frame::Crypto { offset: big, data: &data }.write(w),
        3 => Frame::NewToken { token: &data }.write(w),
        4..=6 => {
            let offset = big % (1 << 60);
            let data = piece(stream, offset, 40);
            Frame::Stream { stream, offset, data: &data, fin: big & 1 == 0 }.write(w)
        }
        7 => Frame::MaxData(big).write(w),
        8 => Frame::MaxStreamData { stream, max: big }.write(w),
        9 => Frame::MaxStreams { dir, max: big.min(1 << 60) }.write(w),
        10 => Frame::DataBlocked(big).write(w),
        11 => Frame::StreamDataBlocked { stream, limit: big }.write(w),
        12 => Frame::StreamsBlocked { dir, limit: big.min(1 << 60) }.write(w),
        13 | 14 => {
            let sequence = u64::from(small % 16);
            let retire_prior_to = sequence.min(u64::from(what >> 5));
            let reset_token = [small as u8; 16];
            let cid = cid_of(u64::from(what >> 4));
            Frame::NewConnectionId { sequence, retire_prior_to, cid, reset_token }.write(w)
        }
        15 => Frame::RetireConnectionId { sequence: u64::from(small % 16) }.write(w),
        16 => Frame::PathResponse([small as u8; 8]).write(w),
        17 => Frame::HandshakeDone.write(w),
        // DATAGRAM, which was not negotiated.
        18 => w.bytes(&[0x30, 1, 2, 3]),
        _ => {
            let ranges = (0..32).map(|i| 1000 - 3 * i).map(|n| (n, n));
            write_ack(w, ranges, 32, big, None)
        }
    };
}

const _: () = assert!(STREAM_WINDOW_BYTES <= WINDOW_BYTES);
