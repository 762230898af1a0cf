//! Packets that no honest endpoint would write: sealed with the keys of a test connection.

use super::pair::*;
use super::*;
use crate::proto::crypto::{TAG_LEN, initial_keys};
use crate::proto::packet_builder::{Header, Number, PacketBuilder};
use crate::proto::recovery::SentInfo;
use crate::wire::frame::Frame;
use crate::wire::packet::{LongHeader, PacketType, patch_length};
use crate::wire::{VERSION_1, Writer};

/// The payload that some frames make.
pub(super) fn payload(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut buf = vec![0; 4096];
    let mut w = Writer::new(&mut buf);
    for f in frames {
        f.write(&mut w).unwrap();
    }
    let len = w.position();
    buf.truncate(len);
    buf
}

impl Pair {
    fn one(&mut self, side: Side) -> &mut Connection {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    /// A 1-RTT packet of `from` with any payload. `bits` are or-ed into the first byte.
    pub(super) fn forge_1rtt(&mut self, from: Side, payload: &[u8], bits: u8) -> Vec<u8> {
        let c = self.one(from);
        let pn = c.data.sent.next_pn();
        c.data.sent.push_frame(crate::proto::sent::SentFrame::Ping);
        let info = SentInfo { bytes: 100, ack_eliciting: true, ..Default::default() };
        let now = self.now;
        self.one(from).data.sent.commit(now, info);
        self.forge_numbered(from, pn, payload, bits)
    }

    /// As [`forge_1rtt`](Self::forge_1rtt), with a number that the books do not know.
    pub(super) fn forge_numbered(
        &mut self,
        from: Side,
        pn: u64,
        payload: &[u8],
        bits: u8,
    ) -> Vec<u8> {
        let c = self.one(from);
        let dcid = *c.remote_cids.current();
        let keys = c.keys.as_mut().unwrap();
        let mut buf = vec![0; payload.len() + 100];
        let header = Header::Short { dcid: &dcid, phase: keys.phase(), local_cid_len: 0 };
        let (packet, mut w) = PacketBuilder::begin(header, Number::long(pn), &mut buf).unwrap();
        w.bytes(payload).unwrap();
        let draft = packet.end(w, SentInfo::default());
        buf[0] |= bits;
        let total = draft.protect(&mut buf, keys).unwrap();
        buf.truncate(total);
        buf
    }

    /// Forges a packet and hands it to the other side at once.
    pub(super) fn attack_1rtt(&mut self, from: Side, payload: &[u8]) {
        let mut packet = self.forge_1rtt(from, payload, 0);
        self.deliver(from.peer(), Ecn::NotEct, &mut packet);
    }

    /// As [`attack_1rtt`](Self::attack_1rtt), with frames.
    pub(super) fn attack(&mut self, from: Side, frames: &[Frame<'_>]) {
        self.attack_1rtt(from, &payload(frames));
    }

    /// The transport code that `side` closed the connection with, if it did.
    pub(super) fn verdict(&self, side: Side) -> Option<u64> {
        let app = match side {
            Side::Client => &self.client_app,
            Side::Server => &self.server_app,
        };
        match app.closed() {
            Some(CloseReason::Transport(e)) => Some(e.code),
            Some(CloseReason::Handshake(e)) => Some(e.code()),
            _ => None,
        }
    }
}

/// An Initial of a client to the server of a [`Pair`], in a datagram of `size` bytes.
pub(super) fn initial(payload: &[u8], pn: u64, scid: ConnectionId, size: usize) -> Vec<u8> {
    initial_from(Side::Client, cid(2), scid, payload, pn, size)
}

/// An Initial of either side; anyone can make one.
pub(super) fn initial_from(
    side: Side,
    dcid: ConnectionId,
    scid: ConnectionId,
    payload: &[u8],
    pn: u64,
    size: usize,
) -> Vec<u8> {
    let header =
        LongHeader { kind: PacketType::Initial, version: VERSION_1, dcid, scid, token: b"" };
    initial_with(side, &header, payload, pn, size)
}

/// An Initial with any header.
pub(super) fn initial_with(
    side: Side,
    header: &LongHeader<'_>,
    payload: &[u8],
    pn: u64,
    size: usize,
) -> Vec<u8> {
    let keys = initial_keys(VERSION_1, cid(2).as_slice(), side).unwrap();
    let mut buf = vec![0; 2048];
    let mut w = Writer::new(&mut buf);
    let layout = header.write(&mut w, pn, 4).unwrap();
    let start = w.position();
    w.bytes(payload).unwrap();
    let end = (start + payload.len()).max(size.saturating_sub(TAG_LEN));
    patch_length(&mut buf, layout.length_at, end + TAG_LEN - layout.pn_at);
    let total = keys.local.packet().seal(pn, &mut buf, start, end - start).unwrap();
    assert!(keys.local.header().mask(&mut buf[..total], layout.pn_at));
    buf.truncate(total);
    buf
}
