//! Client Initials that no honest client would write, from any address.

use super::*;
use crate::datapath::Path;
use crate::proto::crypto::{ClientTls, Session, TAG_LEN, initial_keys};
use crate::wire::frame::Frame;
use crate::wire::packet::{self, LongHeader, PacketType, patch_length};
use crate::wire::transport_parameters::TransportParameters;
use crate::wire::{Side, VERSION_1, Writer};
use std::net::SocketAddr;

/// What such a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An Initial with CONNECTION_CLOSE.
    Close,
    /// An Initial whose CRYPTO data is no ClientHello.
    NotTls,
    /// An Initial with a ClientHello that names no application protocol.
    NoAlpn,
    /// An Initial with the ClientHello of a client that could go on.
    Hello,
    /// An Initial with a PING.
    Ping,
    /// A short packet to no connection.
    Junk,
}

/// The source id of forged Initials.
const SPOOFED: &[u8] = b"spoofed!";

pub(super) fn hello() -> Vec<u8> {
    let tls = ClientTls::builder().dangerous_insecure().alpn(["test"]).build().unwrap();
    let mut parameters = Vec::new();
    TransportParameters {
        initial_source_connection_id: ConnectionId::new(SPOOFED),
        ..Default::default()
    }
    .encode(&mut parameters);
    let mut session = Session::client(Instant::EPOCH, &tls, "localhost", &parameters).unwrap();
    let mut hello = Vec::new();
    assert!(session.write(&mut hello).is_none());
    hello
}

fn hello_without_alpn() -> Vec<u8> {
    let mut hello = hello();
    // The extension has a reserved number that no server knows (RFC 8701).
    let alpn = b"\x00\x10\x00\x07\x00\x05\x04test";
    let at = hello.windows(alpn.len()).position(|window| window == alpn).unwrap();
    hello[at..at + 2].copy_from_slice(&[0x3a, 0x3a]);
    hello
}

/// The payload of an Initial.
fn payload(kind: Kind) -> Vec<u8> {
    let made;
    let frame = match kind {
        Kind::Close => Frame::ConnectionClose { code: 0, frame_type: 0, reason: b"" },
        Kind::NotTls => Frame::Crypto { offset: 0, data: &[0x77; 300] },
        Kind::NoAlpn => {
            made = hello_without_alpn();
            Frame::Crypto { offset: 0, data: &made }
        }
        Kind::Hello => {
            made = hello();
            Frame::Crypto { offset: 0, data: &made }
        }
        Kind::Ping | Kind::Junk => Frame::Ping,
    };
    bytes_of(&[frame])
}

/// Frames, written one after another.
pub(super) fn bytes_of(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut buffer = vec![0; 1_100];
    let mut w = Writer::new(&mut buffer);
    frames.iter().for_each(|frame| frame.write(&mut w).unwrap());
    w.written().to_vec()
}

/// A client's Initial in a datagram of 1200 bytes.
pub(super) fn initial(kind: Kind, dcid: ConnectionId, token: &[u8], pn: u64) -> Vec<u8> {
    if kind == Kind::Junk {
        let mut junk = vec![0x41; 43];
        junk[1..1 + dcid.len()].copy_from_slice(dcid.as_slice());
        return junk;
    }
    initial_of(&payload(kind), dcid, token, pn)
}

/// A client's Initial with these frames in a datagram of 1200 bytes.
pub(super) fn initial_of(frames: &[u8], dcid: ConnectionId, token: &[u8], pn: u64) -> Vec<u8> {
    sized_initial(1200, frames, dcid, token, pn)
}

/// The same in a datagram of this many bytes.
pub(super) fn sized_initial(
    bytes: usize,
    frames: &[u8],
    dcid: ConnectionId,
    token: &[u8],
    pn: u64,
) -> Vec<u8> {
    let keys = initial_keys(VERSION_1, dcid.as_slice(), Side::Client).unwrap();
    let mut out = vec![0; bytes];
    let mut w = Writer::new(&mut out[..bytes - TAG_LEN]);
    let scid = ConnectionId::new(SPOOFED).unwrap();
    let header = LongHeader { kind: PacketType::Initial, version: VERSION_1, dcid, scid, token };
    let layout = header.write(&mut w, pn, 4).unwrap();
    let at = w.position();
    w.bytes(frames).unwrap();
    let rest = w.remaining();
    Frame::Padding { len: rest }.write(&mut w).unwrap();
    patch_length(&mut out, layout.length_at, bytes - layout.pn_at);
    let total = keys.local.packet().seal(pn, &mut out, at, bytes - TAG_LEN - at).unwrap();
    assert!(keys.local.header().mask(&mut out[..total], layout.pn_at));
    out
}

pub(super) fn id(number: u64) -> ConnectionId {
    ConnectionId::new(&(number | 1 << 63).to_be_bytes()).unwrap()
}

/// A source address that may be forged.
pub(super) fn anywhere(number: u32) -> SocketAddr {
    SocketAddr::from((
        (0x0a00_0000 + (number & 0xff_ffff)).to_be_bytes(),
        1_024 + number as u16 / 2,
    ))
}

pub(super) fn meta(remote: SocketAddr) -> RxMeta {
    let path = Path { local: SERVER.into(), remote, link: Link::UNKNOWN };
    RxMeta { path, ecn: Ecn::NotEct, checksum: crate::datapath::Checksum::Verified }
}

impl Scene {
    /// A datagram arrives, and the server takes its turn. Returns what it sent.
    pub(super) fn inject(&mut self, from: SocketAddr, datagram: &[u8]) -> Vec<Vec<u8>> {
        let server = &mut self.servers[0];
        server.datapaths()[0].arrived().put(&meta(from), datagram);
        server.turn(self.now).unwrap();
        take_sent(server).iter().map(|datagram| datagram.payload().to_vec()).collect()
    }

    /// A client at `from` proves its address by a Retry, and begins a handshake that it will not
    /// finish. The server asks for the proof. Returns what it answered.
    pub(super) fn begin_proven(&mut self, from: SocketAddr, number: u64) -> Vec<Vec<u8>> {
        self.begin_proven_with(Kind::Ping, from, number)
    }

    /// As [`begin_proven`](Self::begin_proven), by such a datagram.
    pub(super) fn begin_proven_with(
        &mut self,
        kind: Kind,
        from: SocketAddr,
        number: u64,
    ) -> Vec<Vec<u8>> {
        let retry = self.inject(from, &initial(Kind::Ping, id(number), b"", 0));
        let [retry] = &retry[..] else { panic!("{} answers", retry.len()) };
        let p = packet::parse(retry, 0, 8).unwrap();
        assert_eq!(p.kind, PacketType::Retry);
        self.inject(from, &initial(kind, p.scid, &retry[p.token.clone()], 1))
    }

    pub(super) fn counters(&mut self) -> LaneCounters {
        self.servers[0].lane().counters()
    }
}
