//! What each operation costs, under every provider that is compiled in. Prints and asserts
//! nothing about time:
//!
//! ```text
//! cargo test --release --lib --features ring crypto::costs -- --nocapture --test-threads 1
//! ```

use std::hint::black_box;

use rustls::quic::{Suite, Version};
use rustls::{CipherSuite, SupportedCipherSuite};

use super::aead::{Aead, HeaderSecret, PacketSecret};
use super::testing::{NOW, Outcome, answer, drain, handshake, pair, pair_with_tickets};
use super::{ClientTls, PROVIDER, ServerTls, Session, initial_keys};
use crate::wire::Side;

/// Runs of each case, interleaved; the fastest counts, since noise only adds.
const ROUNDS: usize = if cfg!(debug_assertions) { 2 } else { 40 };
/// Bytes of a packet's payload.
const PAYLOADS: [usize; 3] = [64, 300, 1_350];
/// Calls in a run.
const CALLS: u64 = if cfg!(debug_assertions) { 20 } else { 4_000 };

/// Nanoseconds per call of the fastest of a run of calls.
fn time_once(calls: u64, mut call: impl FnMut(u64)) -> f64 {
    #[expect(clippy::disallowed_methods, reason = "this measures, and decides nothing")]
    let start = std::time::Instant::now();
    (0..calls).for_each(&mut call);
    start.elapsed().as_nanos() as f64 / calls as f64
}

/// One thing to measure.
struct Case<'a> {
    name: String,
    best_ns: f64,
    call: Box<dyn FnMut(u64) + 'a>,
}

/// Cases measured in turn, so that a slow moment of the machine hits all of them.
struct Table<'a>(Vec<Case<'a>>);

impl<'a> Table<'a> {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn add(&mut self, name: String, call: impl FnMut(u64) + 'a) {
        self.0.push(Case { name, best_ns: f64::INFINITY, call: Box::new(call) });
    }

    fn run(mut self, calls: u64) {
        for _ in 0..ROUNDS {
            for case in &mut self.0 {
                case.best_ns = case.best_ns.min(time_once(calls, &mut case.call));
            }
        }
        for case in &self.0 {
            println!("{:<44} {:>10.1} ns", case.name, case.best_ns);
        }
    }
}

fn suites() -> Vec<(&'static str, SupportedCipherSuite)> {
    let mut suites = Vec::new();
    #[cfg(feature = "aws-lc-rs")]
    suites
        .extend(rustls::crypto::aws_lc_rs::DEFAULT_CIPHER_SUITES.iter().map(|s| ("aws-lc-rs", *s)));
    #[cfg(feature = "ring")]
    suites.extend(rustls::crypto::ring::DEFAULT_CIPHER_SUITES.iter().map(|s| ("ring", *s)));
    suites
}

/// Keys of the TLS library's own: what one side sends with opens what the other receives with.
fn keys(suite: Suite, side: rustls::Side) -> rustls::quic::Keys {
    suite.keys(b"8 bytes.", side, Version::V1)
}

/// The TLS library's objects over either provider, and after them ours.
#[test]
fn packets() {
    let mut table = Table::new();
    let mut masks = Table::new();
    for (provider, suite) in suites() {
        let Some(quic) = suite.tls13().and_then(|suite| suite.quic_suite()) else { continue };
        let name = match suite.suite() {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => "aes-128",
            CipherSuite::TLS13_AES_256_GCM_SHA384 => "aes-256",
            _ => "chacha20",
        };
        for payload_len in PAYLOADS {
            let seal = keys(quic, rustls::Side::Client).local.packet;
            let (header, mut payload) = ([0x42; 13], vec![0x42; payload_len]);
            table.add(format!("{provider} {name} seal {payload_len}"), move |pn| {
                assert!(black_box(seal.encrypt_in_place(pn, &header, &mut payload)).is_ok());
            });
            let mut sealed = vec![0x42; payload_len];
            let sealer = keys(quic, rustls::Side::Client).local.packet;
            let tag = sealer.encrypt_in_place(7, &header, &mut sealed).unwrap();
            sealed.extend_from_slice(tag.as_ref());
            let open = keys(quic, rustls::Side::Server).remote.packet;
            let mut packet = sealed.clone();
            // The copy of the packet is part of what is measured: 2 ns to 22 ns.
            table.add(format!("{provider} {name} open {payload_len}"), move |_| {
                packet.copy_from_slice(&sealed);
                assert!(black_box(open.decrypt_in_place(7, &header, &mut packet)).is_ok());
            });
        }
        let key = keys(quic, rustls::Side::Client).local.header;
        let (sample, mut pn) = ([0x42; 16], [0x42; 4]);
        masks.add(format!("{provider} {name} mask"), move |_| {
            let mut first = 0x42;
            assert!(black_box(key.encrypt_in_place(&sample, &mut first, &mut pn)).is_ok());
        });
    }
    for (aead, name) in
        [(Aead::Aes128, "aes-128"), (Aead::Aes256, "aes-256"), (Aead::ChaCha20, "chacha20")]
    {
        ours(aead, name, &mut table, &mut masks);
    }
    table.run(CALLS);
    masks.run(CALLS);
}

/// Our own keys over the same arithmetic: the difference is what the objects between cost.
fn ours(aead: Aead, name: &str, table: &mut Table<'_>, masks: &mut Table<'_>) {
    let packet_secret = || PacketSecret::new(aead, &[7; 32][..aead.key_len()], &[9; 12]).unwrap();
    let header_secret = || HeaderSecret::new(aead, &[7; 32][..aead.key_len()]).unwrap();
    for payload_len in PAYLOADS {
        let (key, mut packet) = (packet_secret().expand(), vec![0x42; 13 + payload_len + 16]);
        table.add(format!("quiclane {name} seal {payload_len}"), move |pn| {
            assert!(black_box(key.seal(pn, &mut packet, 13, payload_len)).is_some());
        });
        let (key, mut sealed) = (packet_secret().expand(), vec![0x42; 13 + payload_len + 16]);
        key.seal(7, &mut sealed, 13, payload_len).expect("room");
        let mut packet = sealed.clone();
        table.add(format!("quiclane {name} open {payload_len}"), move |_| {
            packet.copy_from_slice(&sealed);
            assert_eq!(black_box(key.open(7, &mut packet, 13)), Some(payload_len));
        });
    }
    let (key, mut packet) = (header_secret().expand(), [0x42; 64]);
    masks.add(format!("quiclane {name} mask"), move |_| {
        packet[0] = 0x42;
        assert!(black_box(key.mask(&mut packet, 9)));
    });
    let (key, mut packet) = (header_secret().expand(), [0x42; 64]);
    masks.add(format!("quiclane {name} unmask"), move |_| {
        packet[0] = 0x42;
        assert!(black_box(key.unmask(&mut packet, 9)).is_some());
    });
    let secret = packet_secret();
    masks.add(format!("quiclane {name} packet key of a secret"), move |_| {
        black_box(secret.expand());
    });
    let secret = header_secret();
    masks.add(format!("quiclane {name} header key of a secret"), move |_| {
        black_box(secret.expand());
    });
}

#[test]
fn making_keys() {
    let mut table = Table::new();
    table.add(format!("{PROVIDER} initial_keys"), |_| {
        black_box(initial_keys(1, b"8 bytes.", Side::Server));
    });
    let (server_tls, client_tls) = pair();
    let mut client = Session::client(NOW, &client_tls, "localhost", b"").unwrap();
    let mut server = Session::server(&server_tls, b"").unwrap();
    let mut next = handshake(&mut client, &mut server).0.next.unwrap();
    table.add(format!("{PROVIDER} next_keys"), move |_| {
        black_box(next.next_keys());
    });
    table.add(format!("{PROVIDER} retry_tag"), |_| {
        black_box(super::retry_tag(b"8 bytes.", &[0x42; 120]));
    });
    table.run(CALLS / 4);
}

/// What each side of a handshake does, tickets included. A P-256 certificate.
#[test]
fn handshakes() {
    let rounds = if cfg!(debug_assertions) { 2 } else { 400 };
    for (tickets, resumed) in [(2, false), (1, false), (2, true), (1, true)] {
        let (server_tls, client_tls) = pair_with_tickets(tickets);
        let mut best = [f64::INFINITY; 2];
        for round in 0..=rounds {
            // A client with its memory of this server resumes, one without does not.
            let client_tls = if resumed { client_tls.clone() } else { client_tls.forgetful() };
            let times = handshake_times(&server_tls, &client_tls, resumed && round > 0);
            if round > 0 {
                best.iter_mut().zip(times).for_each(|(best, time)| *best = best.min(time));
            }
        }
        let kind = if resumed { "resumed" } else { "full" };
        let [client, server] = best;
        println!("{PROVIDER} {kind}, {tickets} tickets: client {client:.0}, server {server:.0} ns");
    }
}

/// Nanoseconds that client and server spend on one handshake.
fn handshake_times(server_tls: &ServerTls, client_tls: &ClientTls, resumed: bool) -> [f64; 2] {
    let parameters = [0x42; 80];
    let mut times = [0.0; 2];
    let (mut at_client, mut at_server) = (Outcome::default(), Outcome::default());
    let (mut client, mut server) = (None::<Box<Session>>, None::<Box<Session>>);
    let mut up = Vec::new();
    times[0] += time_once(1, |_| {
        let session = Session::client(NOW, client_tls, "localhost", &parameters).unwrap();
        up = drain(client.insert(session), &mut at_client);
    });
    times[1] += time_once(1, |_| {
        server = Some(Session::server(server_tls, &parameters).unwrap());
    });
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    while !up.is_empty() {
        let mut down = Vec::new();
        times[1] += time_once(1, |_| {
            down = answer(&mut server, &mut at_server, &up).unwrap();
        });
        times[0] += time_once(1, |_| {
            up = answer(&mut client, &mut at_client, &down).unwrap();
        });
    }
    assert_eq!(server.resumed(), resumed);
    times
}
