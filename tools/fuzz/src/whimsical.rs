//! An application that makes the calls that the input says, also inside its callbacks, and that checks
//! its callbacks.

use super::input::Input;
use bytes::Bytes;
use quiclane::proto::connection::{Application, Connection, Event};
use quiclane::proto::streams::StreamEvent;
use quiclane::time::Instant;
use quiclane::wire::{Dir, Side, StreamId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The most unacknowledged bytes of the application, over all streams.
pub(super) const UNACKNOWLEDGED_BYTES: u64 = 64 << 10;

/// The byte of a stream at an offset, the same from both sides: what is delivered can be checked
/// without remembering what was sent.
pub(super) fn byte_at(stream: StreamId, offset: u64) -> u8 {
    (stream.raw().wrapping_mul(31) ^ offset ^ offset >> 8) as u8
}

/// A piece of a stream.
pub(super) fn piece(stream: StreamId, offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(|at| byte_at(stream, at)).collect()
}

/// What the application knows of one stream.
#[derive(Default)]
struct Seen {
    delivered: u64,
    ended: bool,
    reset: bool,
    closed: bool,
    sent: u64,
    acknowledged: u64,
}

/// See the module.
pub(super) struct Whimsical {
    /// What to do in the next callbacks, each a number that [`act`](Self::act) understands.
    pub(super) whims: VecDeque<u16>,
    pub(super) now: Instant,
    streams: BTreeMap<StreamId, Seen>,
    /// Streams with data that the application did not take: they are paused until they are resumed.
    held: BTreeSet<StreamId>,
    connected: bool,
    pub(super) closed: Option<Event>,
    unacknowledged: u64,
    /// The peer has sent bytes that are not what they should be.
    pub(super) garbled: bool,
}

impl Whimsical {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            whims: VecDeque::new(),
            now,
            streams: BTreeMap::new(),
            held: BTreeSet::new(),
            connected: false,
            closed: None,
            unacknowledged: 0,
            garbled: false,
        }
    }

    /// A stream that was met before.
    fn pick(&self, n: u16) -> Option<StreamId> {
        let count = self.streams.len().max(1);
        self.streams.keys().nth(usize::from(n) % count).copied()
    }

    /// Sends some bytes on a stream.
    fn send(&mut self, c: &mut Connection, stream: StreamId, len: usize, fin: bool) {
        let seen = self.streams.entry(stream).or_default();
        let len = len.min((UNACKNOWLEDGED_BYTES - self.unacknowledged) as usize);
        let data = Bytes::from(piece(stream, seen.sent, len));
        if c.streams().send(stream, data, fin).is_ok() {
            seen.sent += len as u64;
            self.unacknowledged += len as u64;
        }
    }

    /// Does one thing to the connection.
    pub(super) fn act(&mut self, c: &mut Connection, whim: u16) {
        let [what, n] = whim.to_be_bytes();
        let which = self.pick(u16::from(n));
        match what % 32 {
            0..=7 => {
                if let Some(stream) = which {
                    self.send(c, stream, usize::from(n) << (what % 8), n & 0x31 == 0x31);
                }
            }
            8..=11 => {
                let dir = if n & 1 == 0 { Dir::Bi } else { Dir::Uni };
                if let Ok(stream) = c.streams().open(dir) {
                    let known = self.streams.insert(stream, Seen::default());
                    assert!(known.is_none(), "{stream:?} was opened twice");
                    self.send(c, stream, usize::from(n) * 8, n & 2 != 0);
                }
            }
            12 | 13 => {
                if let Some(stream) = which {
                    let _may_be_done = c.streams().reset(stream, u64::from(n));
                }
            }
            14 | 15 => {
                if let Some(stream) = which {
                    let _may_be_done = c.streams().stop_sending(stream, u64::from(n));
                }
            }
            16..=19 => {
                for stream in std::mem::take(&mut self.held) {
                    let _may_be_done = c.streams().resume_receive(stream);
                }
            }
            20 | 21 => {
                c.update_keys();
            }
            22 => {
                if let Some(stream) = which {
                    c.streams().set_context(stream, u64::from(n));
                }
            }
            23 => c.shrink(),
            24 if n < 32 => c.close(self.now, u64::from(n), Bytes::from_static(b"a whim")),
            25 if n < 4 => c.refuse(self.now),
            26 if c.side() == Side::Server => c.send_new_token(&[n; 40]),
            _ => {}
        }
    }

    /// What a callback does before it returns.
    fn interfere(&mut self, c: &mut Connection) {
        if let Some(whim) = self.whims.pop_front() {
            self.act(c, whim);
        }
    }

    /// Lets the input act from outside a callback.
    pub(super) fn step(&mut self, c: &mut Connection, input: &mut Input<'_>) {
        let whim = input.u16();
        self.act(c, whim);
        c.deliver_events(self);
    }
}

impl Application for Whimsical {
    fn data(&mut self, c: &mut Connection, stream: StreamId, data: &[u8], fin: bool) -> usize {
        assert!(self.closed.is_none(), "data after the end of the connection");
        assert!(self.connected, "data before the connection is there");
        let seen = self.streams.entry(stream).or_default();
        assert!(!seen.ended && !seen.reset && !seen.closed, "data after the end of {stream:?}");
        for (i, byte) in data.iter().enumerate() {
            let expected = byte_at(stream, seen.delivered + i as u64);
            assert!(
                self.garbled || *byte == expected,
                "{stream:?} at {}",
                seen.delivered + i as u64
            );
        }
        // An odd number leaves some data.
        let taken = match self.whims.front() {
            Some(whim) if whim & 1 == 1 => data.len().min(usize::from(*whim >> 8)),
            _ => data.len(),
        };
        seen.delivered += taken as u64;
        seen.ended = fin && taken == data.len();
        if taken < data.len() || (data.is_empty() && !fin) {
            self.held.insert(stream);
        }
        self.interfere(c);
        taken
    }

    fn event(&mut self, c: &mut Connection, event: Event) {
        assert!(self.closed.is_none(), "{event:?} after the end of the connection");
        match &event {
            Event::Connected { .. } => {
                assert!(!self.connected, "connected twice");
                self.connected = true;
            }
            Event::Stream(StreamEvent::Opened { stream }) => {
                let earlier = self.streams.insert(*stream, Seen::default());
                assert!(earlier.is_none(), "{stream:?} was opened twice");
            }
            Event::Stream(StreamEvent::Acknowledged { stream, bytes, .. }) => {
                let seen = self.streams.entry(*stream).or_default();
                seen.acknowledged += bytes;
                assert!(seen.acknowledged <= seen.sent, "more acknowledged than was sent");
                self.unacknowledged = self.unacknowledged.saturating_sub(*bytes);
            }
            Event::Stream(StreamEvent::Reset { stream, .. }) => {
                let seen = self.streams.entry(*stream).or_default();
                assert!(!seen.reset && !seen.ended, "{stream:?} was reset after its end");
                seen.reset = true;
            }
            Event::Stream(StreamEvent::Closed { stream, .. }) => {
                let seen = self.streams.entry(*stream).or_default();
                assert!(!seen.closed, "{stream:?} was closed twice");
                seen.closed = true;
            }
            Event::Closed(_) => {
                self.closed = Some(event);
                return;
            }
            _ => {}
        }
        self.interfere(c);
    }
}
