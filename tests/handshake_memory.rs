//! The memory of a handshake whose client has not proved its address, C allocations included,
//! whatever the client sends.
//!
//! Such a client may be an attacker, from any address, and a server holds many of them before it
//! asks for a proof. The numbers are printed with `--nocapture`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(all(target_os = "linux", target_env = "gnu"))]

use quiclane::ecn::Ecn;
use quiclane::proto::connection::{
    Addresses, Application, Connection, Event, ServerArgs, TransportConfig,
};
use quiclane::proto::crypto::{ClientTls, PROVIDER, ServerTls, Session, TAG_LEN, initial_keys};
use quiclane::time::{Instant, MILLISECOND_NS, SECOND_NS};
use quiclane::wire::frame::Frame;
use quiclane::wire::packet::{LongHeader, PacketType, patch_length};
use quiclane::wire::transport_parameters::TransportParameters;
use quiclane::wire::{ConnectionId, Side, StreamId, VERSION_1, Writer};
use quiclane_testkit::Identity;
use std::net::SocketAddr;
use std::sync::Arc;

/// The memory that a handshake may hold. Once the server has answered, this includes the keys of three
/// levels, and the ClientHello of up to 4,096 bytes (RFC 9000 §7.5), which the TLS library keeps with
/// the session. The certificates of this server take 600 bytes; longer ones come on top, by the choice
/// of their operator.
const LIMIT_BYTES: usize = 16 << 10;
/// Handshakes made at once, so that pages and caches of the allocator even out.
const COUNT: usize = 50;
/// The time for TLS: 2001.
const NOW: Instant = Instant::from_nanos(1_000_000_000 * SECOND_NS);
/// The payload of an Ethernet packet, and of a fragmented datagram.
const DATAGRAM_BYTES: usize = 1_450;
const HUGE_DATAGRAM_BYTES: usize = 16_000;

/// An application that takes everything.
struct Nobody;

impl Application for Nobody {
    fn data(&mut self, _: &mut Connection, _: StreamId, data: &[u8], _: bool) -> usize {
        data.len()
    }

    fn event(&mut self, _: &mut Connection, _: Event) {}
}

/// Bytes that malloc has given out, as it rounds them.
fn malloced_bytes() -> usize {
    // SAFETY: mallinfo2 takes no argument and only reads malloc's own counters, under the
    // locks of its arenas.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

fn id(number: u8) -> ConnectionId {
    ConnectionId::new(&[number; 8]).unwrap()
}

/// The port of every client.
fn local() -> SocketAddr {
    "192.0.2.2:443".parse().unwrap()
}

fn remote() -> SocketAddr {
    "192.0.2.1:1000".parse().unwrap()
}

/// A handshake of the server, and what its client has sent so far.
struct Held {
    connection: Connection,
    now: Instant,
    pn: u64,
}

impl Held {
    fn new(tls: &Arc<ServerTls>, config: &Arc<TransportConfig>) -> Self {
        let connection = Connection::accept(ServerArgs {
            config: Arc::clone(config),
            tls: Some(Arc::clone(tls)),
            now: NOW,
            local: local(),
            remote: remote(),
            local_cid: id(3),
            reset_token: [3; 16],
            preferred_cid: None,
            initial_keys: initial_keys(1, id(2).as_slice(), Side::Server),
            original_dcid: id(2),
            retry_scid: None,
            peer_cid: id(1),
            address_validated: false,
            seed: 1,
            grease: 2,
        });
        Self { connection: connection.unwrap(), now: NOW, pn: 0 }
    }

    /// A datagram arrives, and the server sends what it may.
    fn receive(&mut self, datagram: &mut [u8]) {
        self.now = self.now.plus_ns(MILLISECOND_NS);
        self.connection.handle_timeout(self.now, &mut Nobody);
        let at = Addresses { local: local(), remote: remote() };
        self.connection.receive(self.now, at.ends(), Ecn::NotEct, datagram, &mut Nobody);
        let mut buffer = [0; 2048];
        while self.connection.transmit(self.now, &mut buffer).is_some() {}
    }

    /// An Initial in a datagram of this many bytes.
    fn initial(&mut self, frame: &Frame<'_>, size: usize) {
        // Each packet leaves a gap in the packet numbers to acknowledge.
        self.pn += 2;
        self.receive(&mut initial(frame, self.pn, size));
    }
}

/// An Initial of a client: an attacker can make one.
fn initial(frame: &Frame<'_>, pn: u64, size: usize) -> Vec<u8> {
    let keys = initial_keys(VERSION_1, id(2).as_slice(), Side::Client).unwrap();
    let header = LongHeader {
        kind: PacketType::Initial,
        version: VERSION_1,
        dcid: id(2),
        scid: id(1),
        token: b"",
    };
    let mut out = vec![0; size];
    let mut w = Writer::new(&mut out[..size - TAG_LEN]);
    let layout = header.write(&mut w, pn, 4).unwrap();
    let at = w.position();
    frame.write(&mut w).unwrap();
    patch_length(&mut out, layout.length_at, size - layout.pn_at);
    let total = keys.local.packet().seal(pn, &mut out, at, size - TAG_LEN - at).unwrap();
    assert!(keys.local.header().mask(&mut out[..total], layout.pn_at));
    out
}

/// A packet for which the server has no keys: a Handshake packet, or a 1-RTT packet.
fn sealed(kind: PacketType, size: usize) -> Vec<u8> {
    let mut out = vec![0x5a; size];
    if kind == PacketType::Short {
        out[0] = 0x40;
        out[1..9].copy_from_slice(id(3).as_slice());
        return out;
    }
    let header = LongHeader { kind, version: VERSION_1, dcid: id(3), scid: id(1), token: b"" };
    let mut w = Writer::new(&mut out);
    let layout = header.write(&mut w, 0, 4).unwrap();
    patch_length(&mut out, layout.length_at, size - layout.pn_at);
    out
}

/// A ClientHello of this many bytes.
fn client_hello(client: &ClientTls) -> Vec<u8> {
    let parameters =
        TransportParameters { initial_source_connection_id: Some(id(1)), ..Default::default() };
    let mut encoded = Vec::new();
    parameters.encode(&mut encoded);
    let mut hello = Vec::new();
    let mut session = Session::client(NOW, client, "localhost", &encoded).unwrap();
    assert!(session.write(&mut hello).is_none());
    hello
}

/// One thing that a client does.
type Step<'a> = (&'static str, Box<dyn Fn(&mut Held) + 'a>);

/// Sequences of steps, each on top of those before it.
fn table<'a>(size: usize) -> Vec<Step<'a>> {
    let piece = size - 100;
    vec![
        ("one PING", Box::new(move |held| held.initial(&Frame::Ping, size.min(1_200)))),
        (
            "start of a ClientHello",
            Box::new(move |held| {
                // 4,096 bytes are announced.
                let start = [&[1, 0, 15, 252][..], &[3; 96]].concat();
                held.initial(&Frame::Crypto { offset: 0, data: &start }, size);
            }),
        ),
        (
            "64 overlapping pieces",
            Box::new(move |held| {
                for n in 0..64 {
                    let data = &vec![7; piece][..];
                    held.initial(&Frame::Crypto { offset: 200 + n, data }, size);
                }
            }),
        ),
        (
            "10 datagrams of Handshake packets",
            Box::new(move |held| {
                for _ in 0..10 {
                    held.receive(&mut sealed(PacketType::Handshake, size));
                }
            }),
        ),
        (
            "60 kB of ClientHello in order",
            Box::new(move |held| {
                for at in (100..60_000).step_by(piece) {
                    held.initial(&Frame::Crypto { offset: at as u64, data: &vec![7; piece] }, size);
                }
            }),
        ),
    ]
}

/// What a client can do that makes the server answer.
fn answered<'a>(hello: &'a [u8]) -> Vec<Step<'a>> {
    let size = DATAGRAM_BYTES;
    vec![
        (
            "a ClientHello, and the server's flight",
            Box::new(move |held| {
                for (at, data) in (0..).step_by(1_300).zip(hello.chunks(1_300)) {
                    held.initial(&Frame::Crypto { offset: at, data }, size);
                }
            }),
        ),
        (
            "10 datagrams each of Handshake and 1-RTT packets",
            Box::new(move |held| {
                for _ in 0..10 {
                    held.receive(&mut sealed(PacketType::Handshake, size));
                    held.receive(&mut sealed(PacketType::Short, size));
                }
            }),
        ),
        (
            "1,000 PINGs",
            Box::new(move |held| (0..1_000).for_each(|_| held.initial(&Frame::Ping, 1_200))),
        ),
        (
            "the ClientHello again for 8 s, and probes",
            Box::new(move |held| {
                for _ in 0..80 {
                    held.now = held.now.plus_ns(100 * MILLISECOND_NS);
                    let data = &hello[..hello.len().min(1_000)];
                    held.initial(&Frame::Crypto { offset: 0, data }, 1_200);
                }
            }),
        ),
        (
            "pieces with gaps, up to the bound",
            Box::new(move |held| {
                for at in (hello.len() as u64 + 1..4_000).step_by(60).chain([4_066]) {
                    held.initial(&Frame::Crypto { offset: at, data: &[9; 30] }, 1_200);
                }
            }),
        ),
    ]
}

/// Takes the steps with many handshakes at once; prints what each holds after every step.
fn follow(what: &str, tls: &Arc<ServerTls>, steps: &[Step<'_>]) -> Vec<usize> {
    let config = Arc::new(TransportConfig::default());
    // Makes the allocations that happen once per process or thread.
    let mut first = Held::new(tls, &config);
    steps.iter().for_each(|(_, step)| step(&mut first));
    drop(first);
    let mut all: Vec<Held> = Vec::with_capacity(COUNT);
    let before = malloced_bytes();
    all.extend((0..COUNT).map(|_| Held::new(tls, &config)));
    let mut figures = Vec::new();
    for (name, step) in steps {
        all.iter_mut().for_each(step);
        let held = (malloced_bytes() - before) / COUNT + size_of::<Connection>();
        let counted = all[0].connection.memory_bytes();
        let state = if all[0].connection.is_closed() { ", closed" } else { "" };
        println!("{PROVIDER:<10} {what}: {name:<50} {held:>6} bytes, {counted} counted{state}");
        assert!(all.iter().all(|held| !held.connection.is_address_validated()));
        figures.push(held);
    }
    figures
}

/// A client that offers this many protocols besides the one that the server supports.
fn client(protocols: usize) -> ClientTls {
    let others = (0..protocols).map(|n| format!("protocol {n:07}"));
    let all: Vec<_> = std::iter::once("test".to_owned()).chain(others).collect();
    ClientTls::builder().dangerous_insecure().alpn(all).build().unwrap()
}

#[test]
fn attack_11_a_handshake_without_a_proven_address_is_bounded() {
    let identity = Identity::new();
    let server = ServerTls::builder()
        .certificate_der(&[&identity.certificate], &identity.key)
        .and_then(|builder| builder.alpn(["test"]).build())
        .unwrap();
    let server = Arc::new(server);
    let [small, middle, large] = [0, 137, 228].map(|n| client_hello(&client(n)));
    // A ClientHello that leaves space for a waiting datagram, and the largest.
    assert!((2_500..=2_560).contains(&middle.len()), "{}", middle.len());
    assert!((4_080..=4_096).contains(&large.len()), "{}", large.len());
    for (what, steps) in [
        ("datagrams of 1,450 bytes", table(DATAGRAM_BYTES)),
        ("datagrams of 16 kB", table(HUGE_DATAGRAM_BYTES)),
        ("a small ClientHello", answered(&small)),
        ("a ClientHello of 2.5 kB", answered(&middle)),
        ("a large ClientHello", answered(&large)),
    ] {
        for ((step, _), held) in steps.iter().zip(follow(what, &server, &steps)) {
            assert!(held <= LIMIT_BYTES, "{what}, after {step}: {held} bytes, of {LIMIT_BYTES}");
        }
    }
}
