//! A peer that holds the keys of a connection, and so may write anything into its packets.
//!
//! It does the handshake as a peer should. After that its packets carry what the caller wants.

use quiclane::proto::crypto::{
    ClientTls, KeyChange, Keys, Level, OneRttSecrets, PacketKey, ServerTls, Session, TAG_LEN,
    initial_keys,
};
use quiclane::time::Instant;
use quiclane::wire::frame::{Frame, write_ack};
use quiclane::wire::packet::{
    self, LongHeader, Packet, PacketType, decode_pn, patch_length, write_short,
};
use quiclane::wire::transport_parameters::TransportParameters;
use quiclane::wire::{ConnectionId, Reader, Side, VERSION_1, Writer};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A datagram of ours.
pub(super) const DATAGRAM_BYTES: usize = 1200;
/// The id that the client writes into its first Initial.
const INITIAL_DCID: [u8; 8] = [2; 8];

/// An id of eight equal bytes.
pub(super) fn cid(n: u8) -> ConnectionId {
    ConnectionId::new(&[n; 8]).unwrap_or(ConnectionId::EMPTY)
}

/// A packet of the victim's that was opened: its payload.
pub(super) struct Opened {
    pub(super) kind: PacketType,
    pub(super) payload: Vec<u8>,
}

/// One packet number space.
#[derive(Default)]
struct Space {
    next_pn: u64,
    received: BTreeSet<u64>,
    crypto_sent: u64,
    /// Bytes of TLS that wait to be sent.
    crypto: Vec<u8>,
    crypto_read: u64,
    ack_due: bool,
}

/// Keys of the 1-RTT space, through their phases.
struct OneRtt {
    keys: Keys,
    local: PacketKey,
    remote: PacketKey,
    next: OneRttSecrets,
    send_phase: bool,
    /// The first packet that is sent with this phase's key.
    began: u64,
    receive_phase: bool,
    /// We have updated; the victim's packets come with this key once it follows.
    pending_remote: Option<PacketKey>,
}

pub(super) struct WirePeer {
    session: Box<Session>,
    /// When the handshake began: it takes no time that TLS would look at.
    now: Instant,
    initial: Option<Keys>,
    handshake: Option<Keys>,
    one_rtt: Option<OneRtt>,
    spaces: [Space; 3],
    /// The connection id of the victim.
    pub(super) remote_cid: ConnectionId,
    local_cid: ConnectionId,
}

/// What a TLS session of the peer needs.
pub(super) struct PeerTls {
    pub(super) client: Arc<ClientTls>,
    pub(super) server: Arc<ServerTls>,
}

fn index(kind: PacketType) -> Option<usize> {
    match kind {
        PacketType::Initial => Some(0),
        PacketType::Handshake => Some(1),
        PacketType::Short => Some(2),
        PacketType::ZeroRtt
        | PacketType::Retry
        | PacketType::VersionNegotiation
        | PacketType::UnknownVersion => None,
    }
}

impl WirePeer {
    /// A peer on `side`, with these transport parameters besides its ids.
    pub(super) fn new(
        side: Side,
        now: Instant,
        tls: &PeerTls,
        mut parameters: TransportParameters,
    ) -> Option<Self> {
        let local_cid = cid(1);
        parameters.initial_source_connection_id = Some(local_cid);
        if side == Side::Server {
            parameters.original_destination_connection_id = ConnectionId::new(&INITIAL_DCID);
        }
        let mut encoded = Vec::new();
        parameters.encode(&mut encoded);
        let session = match side {
            Side::Client => Session::client(now, &tls.client, "localhost", &encoded).ok()?,
            Side::Server => Session::server(&tls.server, &encoded).ok()?,
        };
        let mut peer = Self {
            session,
            now,
            initial: initial_keys(VERSION_1, &INITIAL_DCID, side),
            handshake: None,
            one_rtt: None,
            spaces: Default::default(),
            remote_cid: ConnectionId::new(&INITIAL_DCID)?,
            local_cid,
        };
        peer.pump_tls();
        Some(peer)
    }

    /// The id that the client's first Initial goes to.
    pub(super) fn initial_dcid() -> ConnectionId {
        ConnectionId::new(&INITIAL_DCID).unwrap_or(ConnectionId::EMPTY)
    }

    /// True once both keys of 1-RTT packets are there and TLS has nothing more to do.
    pub(super) fn is_done(&self) -> bool {
        self.one_rtt.is_some() && !self.session.is_handshaking()
    }

    fn pump_tls(&mut self) {
        loop {
            let space = match self.session.write_level() {
                Level::Initial => 0,
                Level::Handshake => 1,
                Level::ZeroRtt | Level::OneRtt => 2,
            };
            let before = self.spaces[space].crypto.len();
            let change = self.session.write(&mut self.spaces[space].crypto);
            let wrote = self.spaces[space].crypto.len() > before;
            match change {
                Some(KeyChange::Handshake(keys)) => self.handshake = Some(keys),
                Some(KeyChange::OneRtt { keys, next }) => {
                    self.one_rtt = Some(OneRtt {
                        local: keys.local.packet(),
                        remote: keys.remote.packet(),
                        keys,
                        next,
                        send_phase: false,
                        began: 0,
                        receive_phase: false,
                        pending_remote: None,
                    });
                }
                None if !wrote => return,
                None => {}
            }
        }
    }

    /// Opens all packets of a datagram of the victim's. The second value counts the packets that
    /// cannot be opened.
    pub(super) fn open(&mut self, datagram: &mut [u8]) -> (Vec<Opened>, usize) {
        let (mut opened, mut failed, mut at) = (Vec::new(), 0, 0);
        while at < datagram.len() {
            let Ok(p) = packet::parse(datagram, at, self.local_cid.len()) else {
                failed += 1;
                break;
            };
            let (start, end) = (at, p.end);
            at = end;
            if p.kind != PacketType::Short {
                self.remote_cid = p.scid;
            }
            match self.open_one(&p, &mut datagram[start..end], start) {
                Some(one) => opened.push(one),
                None => failed += 1,
            }
        }
        (opened, failed)
    }

    fn open_one(&mut self, p: &Packet, bytes: &mut [u8], start: usize) -> Option<Opened> {
        let space = index(p.kind)?;
        let pn_offset = p.pn_offset - start;
        let largest = self.spaces[space].received.last().copied();
        let header_key = match space {
            0 => self.initial.as_ref()?.remote.header(),
            1 => self.handshake.as_ref()?.remote.header(),
            _ => self.one_rtt.as_ref()?.keys.remote.header(),
        };
        let u = header_key.unmask(bytes, pn_offset)?;
        let pn = decode_pn(u.truncated_pn, u.pn_len, largest);
        let header = pn_offset + u.pn_len;
        let len = match space {
            0 => self.initial.as_ref()?.remote.packet().open(pn, bytes, header)?,
            1 => self.handshake.as_ref()?.remote.packet().open(pn, bytes, header)?,
            _ => {
                let next_pn = self.spaces[2].next_pn;
                let one = self.one_rtt.as_mut()?;
                let phase = one.send_phase;
                let len = one.open(u.first & 0x04 != 0, pn, bytes, header)?;
                if one.send_phase != phase {
                    one.began = next_pn;
                }
                len
            }
        };
        let new = self.spaces[space].received.insert(pn);
        assert!(new, "packet number {pn} was used twice in space {space}");
        let payload = bytes[header..header + len].to_vec();
        self.note(space, &payload);
        Some(Opened { kind: p.kind, payload })
    }

    /// Reads the handshake out of a payload, and whether an acknowledgement is due.
    fn note(&mut self, space: usize, payload: &[u8]) {
        let mut reader = Reader::new(payload);
        while !reader.is_empty() {
            let Ok(frame) = Frame::read(&mut reader) else { return };
            self.spaces[space].ack_due |= frame.ack_eliciting();
            let Frame::Crypto { offset, data } = frame else { continue };
            let read = self.spaces[space].crypto_read;
            let end = offset + data.len() as u64;
            // Nothing is lost in the handshake: data that does not continue is a repetition.
            if space < 2 && offset <= read && end > read {
                let level = if space == 0 { Level::Initial } else { Level::Handshake };
                let fresh = &data[(read - offset) as usize..];
                let taken = self.session.read(self.now, level, fresh);
                assert!(taken.is_ok(), "the victim's handshake is refused: {taken:?}");
                self.spaces[space].crypto_read = end;
                self.pump_tls();
            }
        }
    }

    /// The next datagram of the handshake, if one is due.
    pub(super) fn handshake_datagram(&mut self) -> Option<Vec<u8>> {
        let mut datagram = Vec::new();
        for space in 0..2 {
            let s = &mut self.spaces[space];
            if s.crypto.is_empty() && !s.ack_due {
                continue;
            }
            let room = (DATAGRAM_BYTES - 150).saturating_sub(datagram.len());
            let take = s.crypto.len().min(room.saturating_sub(100));
            let piece: Vec<u8> = s.crypto.drain(..take).collect();
            let offset = s.crypto_sent;
            s.crypto_sent += piece.len() as u64;
            let mut buf = [0; DATAGRAM_BYTES];
            let mut w = Writer::new(&mut buf);
            if !s.received.is_empty() {
                s.ack_due = false;
                self.write_ack_of_all(space, 0, &mut w);
            }
            if !piece.is_empty() {
                let _fits = Frame::Crypto { offset, data: &piece }.write(&mut w);
            }
            let len = w.position();
            // An Initial's datagram is filled up by its last packet (RFC 9000 §14.1).
            let last = space == 1 || (self.spaces[1].crypto.is_empty() && !self.spaces[1].ack_due);
            let pad = if last { DATAGRAM_BYTES - datagram.len() } else { 0 };
            let mut payload = buf[..len].to_vec();
            payload.resize(len.max(pad.saturating_sub(60)), 0);
            datagram.extend(self.seal_long(space, &payload)?);
        }
        if !datagram.is_empty() && datagram.len() < DATAGRAM_BYTES {
            // Bytes behind the packets are no packet, and are dropped.
            datagram.resize(DATAGRAM_BYTES, 0);
        }
        (!datagram.is_empty()).then_some(datagram)
    }

    fn seal_long(&mut self, space: usize, payload: &[u8]) -> Option<Vec<u8>> {
        let kind = if space == 0 { PacketType::Initial } else { PacketType::Handshake };
        let pn = self.spaces[space].next_pn;
        self.spaces[space].next_pn += 1;
        let keys = if space == 0 { self.initial.as_ref()? } else { self.handshake.as_ref()? };
        let (dcid, scid) = (self.remote_cid, self.local_cid);
        let mut buf = vec![0; payload.len() + 100];
        let mut w = Writer::new(&mut buf);
        let header = LongHeader { kind, version: VERSION_1, dcid, scid, token: b"" };
        let layout = header.write(&mut w, pn, 4).ok()?;
        let start = w.position();
        w.bytes(payload).ok()?;
        patch_length(&mut buf, layout.length_at, start + payload.len() + TAG_LEN - layout.pn_at);
        let total = keys.local.packet().seal(pn, &mut buf, start, payload.len())?;
        assert!(keys.local.header().mask(&mut buf[..total], layout.pn_at));
        buf.truncate(total);
        Some(buf)
    }

    /// A 1-RTT packet with this payload; `bits` are changed in its first byte.
    pub(super) fn seal(&mut self, payload: &[u8], bits: u8) -> Option<Vec<u8>> {
        let pn = self.spaces[2].next_pn;
        self.spaces[2].next_pn += 1;
        let one = self.one_rtt.as_ref()?;
        let mut buf = vec![0; payload.len() + 100];
        let mut w = Writer::new(&mut buf);
        let pn_at = write_short(&mut w, &self.remote_cid, false, one.send_phase, pn, 4).ok()?;
        let header = w.position();
        w.bytes(payload).ok()?;
        buf[0] ^= bits;
        let total = one.local.seal(pn, &mut buf, header, payload.len())?;
        assert!(one.keys.local.header().mask(&mut buf[..total], pn_at));
        buf.truncate(total);
        Some(buf)
    }

    /// Changes the key that we send with, whether or not it is our turn.
    pub(super) fn update_keys(&mut self) {
        let Some(one) = &mut self.one_rtt else { return };
        let (local, remote) = one.next.next_keys();
        one.local = local.expand();
        one.send_phase = !one.send_phase;
        one.began = self.spaces[2].next_pn;
        one.pending_remote = Some(remote.expand());
    }

    /// The number of the first packet with the key that we send with.
    pub(super) fn phase_began(&self) -> u64 {
        self.one_rtt.as_ref().map_or(0, |one| one.began)
    }

    /// True while the victim has not followed our last change.
    pub(super) fn update_is_pending(&self) -> bool {
        self.one_rtt.as_ref().is_none_or(|one| one.pending_remote.is_some())
    }

    /// The number of the next 1-RTT packet.
    pub(super) fn next_pn(&self) -> u64 {
        self.spaces[2].next_pn
    }

    /// Skips 1-RTT packet numbers.
    pub(super) fn skip(&mut self, count: u64) {
        self.spaces[2].next_pn += count;
    }

    /// Acknowledges all 1-RTT packets that arrived; if they are many, without the oldest.
    pub(super) fn write_ack(&self, delay_raw: u64, w: &mut Writer<'_>) -> bool {
        self.write_ack_of_all(2, delay_raw, w)
    }

    fn write_ack_of_all(&self, space: usize, delay_raw: u64, w: &mut Writer<'_>) -> bool {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for pn in self.spaces[space].received.iter().rev() {
            if let Some((low, _)) = ranges.last_mut().filter(|(low, _)| *low == pn + 1) {
                *low = *pn;
            } else if ranges.len() == 32 {
                break;
            } else {
                ranges.push((*pn, *pn));
            }
        }
        let count = ranges.len();
        count > 0 && write_ack(w, ranges.into_iter(), count, delay_raw, None).is_ok()
    }
}

impl OneRtt {
    fn open(&mut self, phase: bool, pn: u64, bytes: &mut [u8], header: usize) -> Option<usize> {
        if phase == self.receive_phase {
            return self.remote.open(pn, bytes, header);
        }
        if let Some(next) = &self.pending_remote {
            let len = next.open(pn, bytes, header)?;
            self.remote = self.pending_remote.take()?;
            self.receive_phase = phase;
            return Some(len);
        }
        // The victim has changed keys: RFC 9001 §6.2, we follow at once.
        let len = self.next.next_remote().expand().open(pn, bytes, header)?;
        let (local, remote) = self.next.next_keys();
        (self.local, self.remote) = (local.expand(), remote.expand());
        (self.send_phase, self.receive_phase) = (!self.send_phase, phase);
        Some(len)
    }
}
