//! Handshakes that succeed, and every way to fail with its code.

use super::*;
use crate::proto::crypto::testing::{
    Identity, NOW, Outcome, answer, answer_at, drain, handshake, handshake_at, pair,
};
use crate::proto::crypto::{TlsConfigError, default_provider, tell_time_of_day};
use crate::time::SECOND_NS;
use std::sync::atomic::{AtomicUsize, Ordering};

fn sessions(client: &ClientTls, server: &ServerTls) -> (Box<Session>, Box<Session>) {
    let client = Session::client(NOW, client, "localhost", b"client parameters").unwrap();
    (client, Session::server(server, b"server parameters").unwrap())
}

/// The client's first flight.
fn client_hello(client: &mut Session) -> Vec<u8> {
    let said = drain(client, &mut Outcome::default());
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].0, Level::Initial);
    said[0].1.clone()
}

#[test]
fn a_handshake_gives_both_sides_the_same_keys_and_facts() {
    let (server_tls, client_tls) = pair();
    let (mut client, mut server) = sessions(&client_tls, &server_tls);
    assert!(client.is_handshaking() && server.is_handshaking());
    let (at_client, at_server) = handshake(&mut client, &mut server);

    assert!(!client.is_handshaking() && !server.is_handshaking());
    assert_eq!(client.peer_transport_parameters(), Some(&b"server parameters"[..]));
    assert_eq!(server.peer_transport_parameters(), Some(&b"client parameters"[..]));
    assert_eq!((client.alpn(), server.alpn()), (Some(&b"test"[..]), Some(&b"test"[..])));
    assert_eq!((client.server_name(), server.server_name()), (None, Some("localhost")));
    assert!(!client.resumed() && !server.resumed());
    assert!(client.peer_certificate().is_some() && server.peer_certificate().is_none());
    assert_eq!(client.write_level(), Level::OneRtt);
    assert_eq!(server.write_level(), Level::OneRtt);

    for (sender, receiver) in [
        (at_client.handshake.as_ref(), at_server.handshake.as_ref()),
        (at_server.handshake.as_ref(), at_client.handshake.as_ref()),
        (at_client.one_rtt.as_ref(), at_server.one_rtt.as_ref()),
        (at_server.one_rtt.as_ref(), at_client.one_rtt.as_ref()),
    ] {
        let (sender, receiver) = (&sender.unwrap().local, &receiver.unwrap().remote);
        let mut packet = [0x41; 48];
        sender.packet().seal(77, &mut packet, 12, 20).unwrap();
        assert!(sender.header().mask(&mut packet, 10));
        assert_eq!(receiver.header().unmask(&mut packet, 10).unwrap().pn_len, 2);
        assert_eq!(receiver.packet().open(77, &mut packet, 12), Some(20));
    }

    let (mut ours, mut theirs) = ([0; 32], [0; 32]);
    assert!(client.export_keying_material(b"label", b"context", &mut ours));
    assert!(server.export_keying_material(b"label", b"context", &mut theirs));
    assert_eq!(ours, theirs);
    assert_ne!(ours, [0; 32]);
}

#[test]
fn handshake_bytes_may_come_one_at_a_time() {
    let (server_tls, client_tls) = pair();
    let (mut client, mut server) = sessions(&client_tls, &server_tls);
    let (mut at_client, mut at_server) = (Outcome::default(), Outcome::default());
    for (level, bytes) in drain(&mut client, &mut at_client) {
        bytes.iter().for_each(|byte| server.read(NOW, level, &[*byte]).unwrap());
    }
    for (level, bytes) in drain(&mut server, &mut at_server) {
        bytes.iter().for_each(|byte| client.read(NOW, level, &[*byte]).unwrap());
        drain(&mut client, &mut at_client).iter().for_each(|(level, bytes)| {
            server.read(NOW, *level, bytes).unwrap();
        });
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
}

#[test]
fn a_second_connection_resumes_and_a_third_as_well() {
    let (server_tls, client_tls) = pair();
    for connection in 0..4 {
        let (mut client, mut server) = sessions(&client_tls, &server_tls);
        // What is remembered from the last time is not given out before the server confirms.
        drain(&mut client, &mut Outcome::default());
        assert_eq!(client.peer_transport_parameters(), None);
        let (mut client, _) = sessions(&client_tls, &server_tls);
        handshake(&mut client, &mut server);
        // The first ClientHello of each round used a ticket up; two are given per handshake.
        assert_eq!(client.resumed(), connection > 0, "connection {connection}");
        assert_eq!(server.resumed(), connection > 0, "connection {connection}");
        assert_eq!(client.alpn(), Some(&b"test"[..]));
        assert_eq!(client.peer_transport_parameters(), Some(&b"server parameters"[..]));
    }
}

#[test]
fn resumption_can_be_off_on_either_side() {
    let identity = Identity::new();
    let server = |tickets| {
        let builder = ServerTls::builder()
            .certificate_pem(identity.certificate_pem.as_bytes(), identity.key_pem.as_bytes());
        builder.unwrap().alpn(["test"]).tickets(tickets).build().unwrap()
    };
    let client = |sessions| {
        let builder = ClientTls::builder().pinned_certificate_der(&identity.certificate);
        builder.alpn(["test"]).sessions(sessions).build().unwrap()
    };
    for (tickets, remembered) in [(0, 16), (2, 0)] {
        let (server_tls, client_tls) = (server(tickets), client(remembered));
        for _ in 0..2 {
            let (mut client, mut server) = sessions(&client_tls, &server_tls);
            handshake(&mut client, &mut server);
            assert!(!client.resumed() && !server.resumed());
        }
    }
}

/// Runs until one side fails, and returns its error.
fn failure(client: &mut Session, server: &mut Session) -> (&'static str, TlsError) {
    let (mut at_client, mut at_server) = (Outcome::default(), Outcome::default());
    let mut up = drain(client, &mut at_client);
    while !up.is_empty() {
        let down = match answer(server, &mut at_server, &up) {
            Ok(down) => down,
            Err(error) => return ("server", error),
        };
        up = match answer(client, &mut at_client, &down) {
            Ok(up) => up,
            Err(error) => return ("client", error),
        };
    }
    panic!("the handshake succeeded");
}

/// ATTACKS row 14, RFC 9001 §8.1: 0x178.
#[test]
fn attack_14_no_protocol_in_common() {
    let (server_tls, _) = pair();
    let other = ClientTls::builder().dangerous_insecure().alpn(["other"]).build().unwrap();
    let (mut client, mut server) = sessions(&other, &server_tls);
    let (who, error) = failure(&mut client, &mut server);
    assert_eq!((who, error.code(), error.alert_number()), ("server", 0x178, Some(0x78)));
    // Once failed, always failed: the library is not fed again.
    assert_eq!(server.read(NOW, Level::Initial, b"more"), Err(error));
}

/// Groups that only one side prefers: the server asks for another key share, all at the
/// Initial level (RFC 8446 §4.1.4).
#[test]
fn a_hello_retry_request_stays_at_the_initial_level() {
    let identity = Identity::new();
    let mut provider = super::super::provider::provider().as_ref().clone();
    provider.kx_groups.retain(|group| group.name() == rustls::NamedGroup::secp384r1);
    let key = rustls::pki_types::PrivateKeyDer::try_from(identity.key.clone()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate.clone().into()], key)
        .unwrap();
    config.alpn_protocols = vec![b"test".to_vec()];
    let pinned = ClientTls::builder().pinned_certificate_der(&identity.certificate);
    let client_tls = pinned.alpn(["test"]).build().unwrap();
    let (mut client, mut server) = sessions(&client_tls, &ServerTls(Arc::new(config), None));

    let (mut at_client, mut at_server) = (Outcome::default(), Outcome::default());
    let hello = drain(&mut client, &mut at_client);
    let retry = answer(&mut server, &mut at_server, &hello).unwrap();
    assert_eq!(retry.len(), 1);
    assert_eq!((retry[0].0, server.read_level()), (Level::Initial, Level::Initial));
    assert!(at_server.handshake.is_none());
    let second = answer(&mut client, &mut at_client, &retry).unwrap();
    assert_eq!((second.len(), second[0].0), (1, Level::Initial));
    let mut up = second;
    while !up.is_empty() {
        let down = answer(&mut server, &mut at_server, &up).unwrap();
        up = answer(&mut client, &mut at_client, &down).unwrap();
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
}

/// A raw rustls session, for what our builders do not let a user do wrong.
fn odd_client(edit: impl FnOnce(&mut rustls::ClientConfig)) -> ClientTls {
    let tls = ClientTls::builder().dangerous_insecure().alpn(["test"]).build().unwrap();
    let mut config = rustls::ClientConfig::clone(&tls.0);
    edit(&mut config);
    ClientTls(Arc::new(config), true)
}

/// ATTACKS row 14: a client that offers no protocol at all.
#[test]
fn attack_14_client_without_protocols() {
    let (server_tls, _) = pair();
    let silent = odd_client(|config| config.alpn_protocols.clear());
    let (mut client, mut server) = sessions(&silent, &server_tls);
    let (who, error) = failure(&mut client, &mut server);
    assert_eq!((who, error.code()), ("server", 0x178));
}

/// ATTACKS row 14: a server that selects no protocol.
#[test]
fn attack_14_server_without_protocols() {
    let (server_tls, client_tls) = pair();
    let mut config = rustls::ServerConfig::clone(&server_tls.0);
    config.alpn_protocols.clear();
    let silent = ServerTls(Arc::new(config), None);
    let (mut client, mut server) = sessions(&client_tls, &silent);
    let (_, error) = failure(&mut client, &mut server);
    assert_eq!(error.code(), 0x178);
}

/// Takes the extension of type `kind` out of a ClientHello and mends the lengths.
fn without_extension(hello: &[u8], kind: u16) -> Vec<u8> {
    let be16 = |at: usize| usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    let mut at = 4 + 2 + 32;
    at += 1 + usize::from(hello[at]);
    at += 2 + be16(at);
    at += 1 + usize::from(hello[at]);
    let (extensions_at, end) = (at, at + 2 + be16(at));
    assert_eq!(end, hello.len());
    let mut kept = Vec::new();
    at += 2;
    while at < end {
        let next = at + 4 + be16(at + 2);
        if be16(at) != usize::from(kind) {
            kept.extend_from_slice(&hello[at..next]);
        }
        at = next;
    }
    let mut out = hello[..extensions_at].to_vec();
    out.extend_from_slice(&(kept.len() as u16).to_be_bytes());
    out.extend_from_slice(&kept);
    let body = (out.len() - 4) as u32;
    out[1..4].copy_from_slice(&body.to_be_bytes()[1..]);
    assert!(out.len() < hello.len(), "there was no extension {kind:#x}");
    out
}

/// ATTACKS row 14, RFC 9001 §8.2: 0x16d.
#[test]
fn attack_14_no_transport_parameters() {
    let (server_tls, client_tls) = pair();
    let (mut client, mut server) = sessions(&client_tls, &server_tls);
    let hello = without_extension(&client_hello(&mut client), 0x39);
    let error = server.read(NOW, Level::Initial, &hello).unwrap_err();
    assert_eq!(error.code(), 0x16d);
}

/// TLS KeyUpdate, update_not_requested.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// ATTACKS row 14, RFC 9001 §6: a TLS KeyUpdate is unexpected_message, 0x10a.
#[test]
fn attack_14_tls_key_update() {
    let (server_tls, client_tls) = pair();
    let (mut client, mut server) = sessions(&client_tls, &server_tls);
    handshake(&mut client, &mut server);
    assert_eq!(server.read(NOW, Level::OneRtt, &KEY_UPDATE).unwrap_err().code(), 0x10a);
    assert_eq!(client.read(NOW, Level::OneRtt, &KEY_UPDATE).unwrap_err().code(), 0x10a);

    // In the middle of the handshake.
    let (mut client, mut server) = sessions(&client_tls, &server_tls);
    let hello = client_hello(&mut client);
    server.read(NOW, Level::Initial, &hello).unwrap();
    drain(&mut server, &mut Outcome::default());
    assert_eq!(server.read(NOW, Level::Handshake, &KEY_UPDATE).unwrap_err().code(), 0x10a);
    assert_eq!(client.read(NOW, Level::Initial, &KEY_UPDATE).unwrap_err().code(), 0x10a);
}

/// RFC 9001 §4.1.3: handshake bytes at a level that TLS does not read from.
#[test]
fn bytes_at_a_wrong_level_are_a_protocol_violation() {
    let (server_tls, client_tls) = pair();
    for wrong in [Level::ZeroRtt, Level::Handshake, Level::OneRtt] {
        let (mut client, mut server) = sessions(&client_tls, &server_tls);
        let hello = client_hello(&mut client);
        assert_eq!(server.read(NOW, wrong, &hello).unwrap_err().code(), 0x0a);
    }
    let (mut client, mut server) = sessions(&client_tls, &server_tls);
    handshake(&mut client, &mut server);
    assert_eq!(client.read(NOW, Level::Initial, &[1]).unwrap_err().code(), 0x0a);
    assert_eq!(server.read(NOW, Level::Handshake, &[1]).unwrap_err().code(), 0x0a);
}

/// RFC 9001 §4.1.3, RFC 8446 §5.1: bytes of the next level's messages behind a ServerHello.
#[test]
fn a_message_that_spans_a_change_of_keys_is_refused() {
    let (server_tls, client_tls) = pair();
    let (mut client, mut server) = sessions(&client_tls, &server_tls);
    let hello = client_hello(&mut client);
    server.read(NOW, Level::Initial, &hello).unwrap();
    let flight = drain(&mut server, &mut Outcome::default());
    let mut both = flight[0].1.clone();
    both.extend_from_slice(&flight[1].1);
    assert_eq!(client.read(NOW, Level::Initial, &both).unwrap_err().code(), 0x10a);
}

#[test]
fn whom_a_client_trusts() {
    let (ours, other) = (Identity::of("ours"), Identity::of("other"));
    let server = ServerTls::builder()
        .certificate_der(&[&ours.certificate], &ours.key)
        .unwrap()
        .alpn(["test"])
        .build()
        .unwrap();
    let client =
        |builder: crate::proto::crypto::ClientTlsBuilder| builder.alpn(["test"]).build().unwrap();
    let outcome = |tls: &ClientTls, name: &str| {
        let mut client = Session::client(NOW, tls, name, b"").unwrap();
        let mut server = Session::server(&server, b"").unwrap();
        let hello = client_hello(&mut client);
        server.read(NOW, Level::Initial, &hello).unwrap();
        for (level, bytes) in drain(&mut server, &mut Outcome::default()) {
            client.read(NOW, level, &bytes).map_err(|error| error.code())?;
            drain(&mut client, &mut Outcome::default());
        }
        Ok::<(), u64>(())
    };
    let start = ClientTls::builder;
    let rooted = client(start().roots_pem(ours.certificate_pem.as_bytes()).unwrap());
    assert_eq!(outcome(&rooted, "localhost"), Ok(()));
    // bad_certificate: the right certificate for another name.
    assert_eq!(outcome(&rooted, "example.com"), Err(0x12a));
    // unknown_ca.
    let stranger = client(start().roots_der(&[&other.certificate]).unwrap());
    assert_eq!(outcome(&stranger, "localhost"), Err(0x130));
    // A pin is for the certificate, whatever the name; to another certificate it is closed.
    assert_eq!(outcome(&client(start().pinned_certificate_der(&ours.certificate)), "a.b"), Ok(()));
    let pinned = client(start().pinned_certificate_pem(other.certificate_pem.as_bytes()).unwrap());
    assert_eq!(outcome(&pinned, "localhost"), Err(0x130));
    assert_eq!(outcome(&client(start().dangerous_insecure()), "a.b"), Ok(()));
}

/// A server that shows a pinned certificate without its key: the signature tells.
#[test]
fn a_stolen_certificate_is_no_use_without_its_key() {
    let (victim, thief) = (Identity::new(), Identity::new());
    let provider = super::super::provider::provider();
    let key = rustls::pki_types::PrivateKeyDer::try_from(thief.key.clone()).unwrap();
    let forged = rustls::sign::CertifiedKey::new(
        vec![victim.certificate.clone().into()],
        provider.key_provider.load_private_key(key).unwrap(),
    );
    let (server_tls, _) = pair();
    let mut config = rustls::ServerConfig::clone(&server_tls.0);
    config.cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(forged));
    let server_tls = ServerTls(Arc::new(config), None);
    for builder in [
        ClientTls::builder().pinned_certificate_der(&victim.certificate),
        ClientTls::builder().dangerous_insecure(),
    ] {
        let (mut client, mut server) =
            sessions(&builder.alpn(["test"]).build().unwrap(), &server_tls);
        let (who, error) = failure(&mut client, &mut server);
        // decrypt_error.
        assert_eq!((who, error.code()), ("client", 0x133));
    }
}

#[test]
fn client_certificates_when_demanded() {
    let (server_id, client_id) = (Identity::new(), Identity::new());
    let server_tls = ServerTls::builder()
        .certificate_der(&[&server_id.certificate], &server_id.key)
        .unwrap()
        .require_client_certificates(client_id.certificate_pem.as_bytes())
        .unwrap()
        .alpn(["test"])
        .build()
        .unwrap();
    let start =
        || ClientTls::builder().pinned_certificate_der(&server_id.certificate).alpn(["test"]);
    let known = start()
        .certificate_pem(client_id.certificate_pem.as_bytes(), client_id.key_pem.as_bytes())
        .unwrap()
        .build()
        .unwrap();
    let (mut client, mut server) = sessions(&known, &server_tls);
    handshake(&mut client, &mut server);
    assert_eq!(server.peer_certificate(), Some(&client_id.certificate[..]));

    let (mut client, mut server) = sessions(&start().build().unwrap(), &server_tls);
    let (who, error) = failure(&mut client, &mut server);
    // certificate_required.
    assert_eq!((who, error.code()), ("server", 0x174));
}

#[test]
fn names_that_are_none_are_refused() {
    let (_, client_tls) = pair();
    for name in ["", "not a name", "a..b", "-"] {
        let error = Session::client(NOW, &client_tls, name, b"").unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
    assert!(Session::client(NOW, &client_tls, "192.0.2.1", b"").is_ok());
    assert!(Session::client(NOW, &client_tls, "2001:db8::1", b"").is_ok());
}

#[test]
fn bytes_that_are_no_handshake_give_an_alert_and_no_panic() {
    let (server_tls, client_tls) = pair();
    let hello = {
        let (mut client, _) = sessions(&client_tls, &server_tls);
        client_hello(&mut client)
    };
    for at in 0..hello.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = hello.clone();
            bad[at] ^= flip;
            let mut server = Session::server(&server_tls, b"").unwrap();
            if let Err(error) = server.read(NOW, Level::Initial, &bad) {
                assert!((0x100..0x200).contains(&error.code()), "{error}");
                assert!(server.read(NOW, Level::Initial, &bad).is_err());
            }
        }
    }
}

/// A client and a server whose certificate is good from 2001 on.
fn of_2001() -> (ClientTls, ServerTls) {
    let identity = Identity::valid_from(2001);
    let server_tls = ServerTls::builder()
        .certificate_der(&[&identity.certificate], &identity.key)
        .unwrap()
        .alpn(["test"])
        .build()
        .unwrap();
    let client_tls = ClientTls::builder().roots_der(&[&identity.certificate]).unwrap();
    (client_tls.alpn(["test"]).build().unwrap(), server_tls)
}

/// What the client says to the server's certificate at `now`.
fn judged(now: Instant, (client, server): &(ClientTls, ServerTls)) -> Result<(), TlsError> {
    let mut client = Session::client(now, client, "localhost", b"").unwrap();
    let mut server = Session::server(server, b"").unwrap();
    server.read(now, Level::Initial, &client_hello(&mut client)).unwrap();
    let said = drain(&mut server, &mut Outcome::default());
    answer_at(now, &mut client, &mut Outcome::default(), &said).map(|_| ())
}

#[test]
fn certificates_are_judged_by_the_time_that_is_passed_in() {
    let tls = of_2001();
    for (now, good) in [(Instant::EPOCH, false), (NOW, true)] {
        let read = judged(now, &tls);
        assert_eq!(read.is_ok(), good, "{read:?}");
    }
}

#[test]
fn certificates_are_judged_by_the_time_of_day_where_a_thread_has_a_clock() {
    let tls = of_2001();
    // The process began before the machine knew the time; then it was set.
    assert!(judged(Instant::EPOCH, &tls).is_err());
    tell_time_of_day(Some(|| NOW - Instant::EPOCH));
    assert_eq!(judged(Instant::EPOCH, &tls), Ok(()));
    // And was set back.
    tell_time_of_day(Some(|| core::time::Duration::ZERO));
    assert!(judged(NOW, &tls).is_err());
    tell_time_of_day(None);
    assert_eq!(judged(NOW, &tls), Ok(()));
}

#[test]
fn a_ticket_is_as_old_as_the_time_that_is_passed_in_says() {
    let (server_tls, client_tls) = pair();
    let resumed = |now: Instant| {
        let mut client = Session::client(now, &client_tls, "localhost", b"").unwrap();
        let mut server = Session::server(&server_tls, b"").unwrap();
        handshake_at(now, &mut client, &mut server);
        assert_eq!(client.resumed(), server.resumed());
        server.resumed()
    };
    let hours = |hours: u64| Instant::from_nanos(NOW.as_nanos() + hours * 3_600 * SECOND_NS);
    assert!(!resumed(NOW));
    assert!(resumed(hours(1)));
    // The keys of tickets are replaced every six hours, and forgotten after another six.
    assert!(!resumed(hours(14)));
    assert!(resumed(hours(15)));
}

/// Random numbers that are none, and are counted.
#[derive(Debug, Default)]
struct Counted(AtomicUsize);

impl rustls::crypto::SecureRandom for Counted {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), rustls::crypto::GetRandomFailed> {
        let number = self.0.fetch_add(1, Ordering::Relaxed) as u8;
        bytes.fill(number);
        Ok(())
    }
}

#[test]
fn a_provider_of_ones_own_is_used() {
    let identity = Identity::new();
    let mut provider = default_provider();
    let random: &'static Counted = Box::leak(Box::default());
    provider.secure_random = random;
    let server = ServerTls::builder_with(provider.clone())
        .certificate_der(&[&identity.certificate], &identity.key)
        .unwrap()
        .alpn(["test"])
        .build()
        .unwrap();
    let client = ClientTls::builder_with(provider.clone()).dangerous_insecure().alpn(["test"]);
    let client = client.build().unwrap();
    let (mut client, mut server) = sessions(&client, &server);
    let of_client = random.0.load(Ordering::Relaxed);
    assert!(of_client > 0, "the client's hello has random bytes");
    handshake(&mut client, &mut server);
    assert!(random.0.load(Ordering::Relaxed) > of_client + 2, "hello and tickets have some too");

    provider.cipher_suites.clear();
    let bare = ClientTls::builder_with(provider.clone()).dangerous_insecure().alpn(["test"]);
    assert_eq!(bare.build().unwrap_err(), TlsConfigError::NoSuite { count: 0 });
    let bare = ServerTls::builder_with(provider)
        .certificate_der(&[&identity.certificate], &identity.key)
        .unwrap()
        .alpn(["test"]);
    assert!(bare.build().unwrap_err().to_string().contains("default_provider()"));
}

/// The messages of TLS in `bytes`.
fn messages(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while let &[_, high, middle, low, ..] = bytes {
        let len = 4 + usize::from(high) * 65_536 + usize::from(middle) * 256 + usize::from(low);
        let (message, rest) = bytes.split_at(len);
        all.push(message);
        bytes = rest;
    }
    all
}

#[test]
fn nobody_is_asked_of_a_certificate_whose_key_the_client_has_not_proved_to_have() {
    let (own, shown) = (Identity::new(), Identity::of("another"));
    let roots = own.certificate_pem.as_bytes();
    let server = ServerTls::builder().certificate_der(&[&own.certificate], &own.key).unwrap();
    let server = server.require_client_certificates(roots).unwrap().application_judges();
    let server = server.alpn(["test"]).build().unwrap();
    let client = ClientTls::builder().pinned_certificate_der(&own.certificate).alpn(["test"]);
    let chain = [&shown.certificate[..], &own.certificate];
    let client = client.certificate_der(&chain, &shown.key).unwrap().build().unwrap();
    let run = |forges: bool| {
        let (mut client, mut server) = sessions(&client, &server);
        let (mut at_client, mut at_server) = (Outcome::default(), Outcome::default());
        let hello = drain(&mut client, &mut at_client);
        let flight = answer(&mut server, &mut at_server, &hello).unwrap();
        let said = answer(&mut client, &mut at_client, &flight).unwrap();
        let said: Vec<u8> = said.into_iter().flat_map(|(_, bytes)| bytes).collect();
        let messages = messages(&said);
        // RFC 8446 §4: Certificate, CertificateVerify, Finished.
        assert_eq!(messages.iter().map(|message| message[0]).collect::<Vec<_>>(), [11, 15, 20]);
        server.read(NOW, Level::Handshake, messages[0]).unwrap();
        assert_eq!(server.take_certificate(), None, "anyone has this certificate");
        let mut proof = messages[1].to_vec();
        *proof.last_mut().unwrap() ^= u8::from(forges);
        let proved = server.read(NOW, Level::Handshake, &proof);
        assert_eq!(proved.is_err(), forges, "{proved:?}");
        server.take_certificate()
    };
    assert_eq!(run(true), None);
    let asked = run(false).unwrap();
    assert!(asked.chain().eq(chain) && asked.chain().len() == 2);
    assert!(asked.problem().is_some());
}

#[test]
fn a_server_that_is_to_judge_what_it_does_not_demand_is_not_built() {
    let own = Identity::new();
    let server = ServerTls::builder().certificate_der(&[&own.certificate], &own.key).unwrap();
    let error = server.alpn(["test"]).application_judges().build().unwrap_err();
    assert_eq!(error, TlsConfigError::NothingToJudge);
    assert!(error.to_string().contains("require_client_certificates()"), "{error}");
}
