//! What a peer may do and what it was granted: an honest peer keeps within these limits when it writes,
//! and the victim's packets are judged by them.

use super::whimsical::byte_at;
use quiclane::proto::connection::TransportConfig;
use quiclane::wire::frame::Frame;
use quiclane::wire::transport_parameters::TransportParameters;
use quiclane::wire::{ConnectionId, Dir, Reader, Side, StreamId};
use std::collections::{BTreeMap, BTreeSet};

/// Windows so small that inputs reach them.
pub(super) const WINDOW_BYTES: u64 = 16 << 10;
pub(super) const STREAM_WINDOW_BYTES: u64 = 4 << 10;
/// Streams of each kind at a time.
pub(super) const STREAMS: u64 = 8;

/// The victim's settings, and so what it grants us.
pub(super) fn config() -> TransportConfig {
    TransportConfig {
        connection_window_bytes: WINDOW_BYTES,
        stream_window_bytes: STREAM_WINDOW_BYTES,
        bidi_streams: STREAMS,
        uni_streams: STREAMS,
        ..TransportConfig::default()
    }
}

/// What we grant the victim.
pub(super) fn parameters() -> TransportParameters {
    TransportParameters {
        max_idle_timeout_ms: 30_000,
        initial_max_data: WINDOW_BYTES,
        initial_max_stream_data_bidi_local: STREAM_WINDOW_BYTES,
        initial_max_stream_data_bidi_remote: STREAM_WINDOW_BYTES,
        initial_max_stream_data_uni: STREAM_WINDOW_BYTES,
        initial_max_streams_bidi: STREAMS,
        initial_max_streams_uni: STREAMS,
        active_connection_id_limit: 4,
        ..TransportParameters::default()
    }
}

/// One direction of a stream.
#[derive(Default)]
pub(super) struct Flow {
    /// The end of what was sent on it.
    pub(super) end: u64,
    pub(super) fin: Option<u64>,
    pub(super) reset: bool,
    /// The granted limit; `None` is the limit that streams begin with.
    pub(super) limit: Option<u64>,
}

impl Flow {
    pub(super) fn limit(&self) -> u64 {
        self.limit.unwrap_or(STREAM_WINDOW_BYTES)
    }

    fn extend(&mut self, end: u64) -> u64 {
        let more = end.saturating_sub(self.end);
        self.end += more;
        more
    }
}

/// Limits on what one side sends.
pub(super) struct Allowance {
    pub(super) data: u64,
    pub(super) streams: [u64; 2],
    pub(super) used: u64,
    pub(super) flows: BTreeMap<StreamId, Flow>,
}

impl Allowance {
    fn new() -> Self {
        Self { data: WINDOW_BYTES, streams: [STREAMS; 2], used: 0, flows: BTreeMap::new() }
    }

    /// Counts bytes of a stream. Returns how many are new.
    pub(super) fn extend(&mut self, stream: StreamId, end: u64) {
        self.used += self.flows.entry(stream).or_default().extend(end);
    }
}

fn kind(dir: Dir) -> usize {
    usize::from(dir == Dir::Uni)
}

/// See the module.
pub(super) struct Ledger {
    pub(super) side: Side,
    /// What we may send.
    pub(super) ours: Allowance,
    /// What the victim may send.
    pub(super) theirs: Allowance,
    /// Streams of the victim's that it has used.
    pub(super) met: BTreeSet<StreamId>,
    /// The victim's ids, by number, that we have not retired.
    pub(super) their_cids: BTreeMap<u64, ConnectionId>,
    pub(super) next_cid: u64,
    /// Ids of ours that the victim may use.
    pub(super) our_cids: BTreeSet<u64>,
    /// Numbers that the victim was told to retire, and has not.
    pub(super) retiring: BTreeSet<u64>,
    pub(super) challenges: BTreeSet<[u8; 8]>,
    pub(super) largest_acked: Option<u64>,
    /// Packet numbers that we skipped.
    pub(super) skipped: BTreeSet<u64>,
    pub(super) confirmed: bool,
    /// The victim has closed the connection.
    pub(super) closed: Option<u64>,
    /// Something was sent that no honest peer sends.
    pub(super) hostile: bool,
    /// Limits were granted that are not recorded here.
    pub(super) generous: bool,
}

impl Ledger {
    pub(super) fn new(side: Side) -> Self {
        Self {
            side,
            ours: Allowance::new(),
            theirs: Allowance::new(),
            met: BTreeSet::new(),
            their_cids: BTreeMap::new(),
            next_cid: 1,
            our_cids: BTreeSet::from([0]),
            retiring: BTreeSet::new(),
            challenges: BTreeSet::new(),
            largest_acked: None,
            skipped: BTreeSet::new(),
            confirmed: false,
            closed: None,
            hostile: false,
            generous: false,
        }
    }

    /// True if we may send on a stream of this name now.
    pub(super) fn may_send_on(&self, stream: StreamId) -> bool {
        if stream.initiator() == self.side {
            stream.index() < self.ours.streams[kind(stream.dir())]
        } else {
            stream.dir() == Dir::Bi && self.met.contains(&stream)
        }
    }

    /// True if the victim may send on a stream of this name that it or we have used.
    pub(super) fn may_receive_on(&self, stream: StreamId) -> bool {
        if stream.initiator() == self.side {
            stream.dir() == Dir::Bi && stream.index() < self.ours.streams[0]
        } else {
            self.met.contains(&stream)
        }
    }

    /// Judges a payload of the victim's 1-RTT packets, and enters what it grants.
    pub(super) fn read(&mut self, payload: &[u8], next_pn: u64) {
        let mut reader = Reader::new(payload);
        assert!(!reader.is_empty(), "a packet without a frame");
        while !reader.is_empty() {
            match Frame::read(&mut reader) {
                Ok(frame) => self.on_frame(&frame, next_pn),
                Err(e) => panic!("the victim wrote what cannot be read: {e:?}"),
            }
        }
    }

    fn on_frame(&mut self, frame: &Frame<'_>, next_pn: u64) {
        match frame {
            Frame::Ack(ack) => {
                for (low, high) in ack.ranges() {
                    assert!(high < next_pn, "{high} was never sent, {next_pn} is next");
                    let skipped = self.skipped.range(low..=high).next();
                    assert!(skipped.is_none(), "{skipped:?} was skipped, and is acknowledged");
                }
                self.largest_acked = self.largest_acked.max(Some(ack.largest));
            }
            Frame::Stream { stream, offset, data, fin } => {
                let end = offset + data.len() as u64;
                self.on_their_bytes(*stream, end, *fin);
                for (at, byte) in (*offset..).zip(data.iter()) {
                    assert_eq!(*byte, byte_at(*stream, at), "{stream:?} at {at}");
                }
            }
            Frame::ResetStream { stream, final_size, .. } => {
                self.on_their_bytes(*stream, *final_size, true);
            }
            Frame::StopSending { stream, .. } => assert!(
                stream.initiator() == self.side || stream.dir() == Dir::Bi,
                "STOP_SENDING for a stream that only the victim sends on"
            ),
            Frame::MaxData(max) => self.ours.data = self.ours.data.max(*max),
            Frame::MaxStreamData { stream, max } => {
                let flow = self.ours.flows.entry(*stream).or_default();
                flow.limit = Some(flow.limit().max(*max));
            }
            Frame::MaxStreams { dir, max } => {
                let limit = &mut self.ours.streams[kind(*dir)];
                *limit = (*limit).max(*max);
            }
            Frame::NewConnectionId { sequence, cid, .. } => {
                self.their_cids.insert(*sequence, *cid);
            }
            Frame::RetireConnectionId { sequence } => {
                assert!(*sequence < self.next_cid || self.hostile, "{sequence} was never issued");
                self.our_cids.remove(sequence);
                self.retiring.remove(sequence);
            }
            Frame::PathResponse(data) => {
                let asked = self.hostile || self.challenges.contains(data);
                assert!(asked, "a PATH_RESPONSE without a challenge");
            }
            Frame::HandshakeDone => {
                assert_eq!(self.side, Side::Client, "HANDSHAKE_DONE to a server");
                self.confirmed = true;
            }
            Frame::NewToken { .. } => assert_eq!(self.side, Side::Client, "a client gave a token"),
            Frame::ConnectionClose { code, .. } => self.closed = Some(*code),
            Frame::ApplicationClose { .. } => self.closed = Some(0),
            Frame::Padding { .. }
            | Frame::Ping
            | Frame::Crypto { .. }
            | Frame::DataBlocked(_)
            | Frame::StreamDataBlocked { .. }
            | Frame::StreamsBlocked { .. }
            | Frame::PathChallenge(_) => {}
        }
    }

    /// The victim sent on a stream up to `end`.
    fn on_their_bytes(&mut self, stream: StreamId, end: u64, fin: bool) {
        if stream.initiator() == self.side {
            assert_eq!(stream.dir(), Dir::Bi, "the victim sent on a stream that is ours alone");
        } else {
            let limit = self.theirs.streams[kind(stream.dir())];
            assert!(
                self.generous || stream.index() < limit,
                "{stream:?} is over the limit of {limit}"
            );
            self.met.insert(stream);
        }
        self.theirs.extend(stream, end);
        let flow = self.theirs.flows.entry(stream).or_default();
        assert!(self.generous || flow.end <= flow.limit(), "{stream:?} is over its limit");
        if fin {
            let size = *flow.fin.get_or_insert(end);
            assert_eq!(size, end, "the final size of {stream:?} changed");
        }
        assert!(flow.fin.is_none_or(|size| flow.end <= size), "{stream:?} goes on after its end");
        assert!(
            self.generous || self.theirs.used <= self.theirs.data,
            "over the connection's limit"
        );
    }
}
