//! The application's word on certificates, and what it keeps in tickets.

use super::pair::*;
use super::*;
use crate::proto::crypto::testing::{Identity, pair as tls_pair};
use crate::proto::crypto::{CertificateVerdict, ClientTls, PeerCertificate, ServerTls};
use std::time::Duration;

/// A server of `identity`, and a client that trusts another one and asks its application.
fn client_asks(identity: &Identity, trusted: &Identity) -> Pair {
    let chain = [&identity.certificate[..]];
    let server = ServerTls::builder().certificate_der(&chain, &identity.key).unwrap();
    let client = ClientTls::builder().pinned_certificate_der(&trusted.certificate);
    let client = client.alpn(["test"]).application_judges().build().unwrap();
    started(client, server.alpn(["test"]).build().unwrap())
}

/// A client that shows the certificate of `shown`, and a server that trusts `trusted` and asks its
/// application.
fn server_asks(shown: &Identity, trusted: &Identity) -> Pair {
    let own = Identity::new();
    let server = ServerTls::builder().certificate_der(&[&own.certificate], &own.key).unwrap();
    let roots = trusted.certificate_pem.as_bytes();
    let server = server.require_client_certificates(roots).unwrap();
    let client = ClientTls::builder().pinned_certificate_der(&own.certificate);
    let client = client.certificate_der(&[&shown.certificate], &shown.key).unwrap();
    let server = server.alpn(["test"]).application_judges().build().unwrap();
    started(client.alpn(["test"]).build().unwrap(), server)
}

fn started(client: ClientTls, server: ServerTls) -> Pair {
    let (ours, theirs) = (TransportConfig::default(), TransportConfig::default());
    let mut pair = Pair::with_tls(ours, theirs, Arc::new(client), Arc::new(server));
    pair.client_app.initial = Some(Bytes::from_static(b"hello"));
    pair.run_ms(100);
    pair
}

/// What the application of one side was asked.
fn asked(app: &Recorder) -> Vec<PeerCertificate> {
    let certificate = |event: &Event| match event {
        Event::PeerCertificate(certificate) => Some(PeerCertificate::clone(certificate)),
        _ => None,
    };
    app.events.iter().filter_map(certificate).collect()
}

fn is_connected(app: &Recorder) -> bool {
    app.events.iter().any(|event| matches!(event, Event::Connected { .. }))
}

fn echoed(pair: &Pair) -> bool {
    pair.client_app.data.values().any(|data| data == b"hello")
}

#[test]
fn a_handshake_waits_for_the_clients_word_on_the_servers_certificate() {
    let identity = Identity::new();
    let mut pair = client_asks(&identity, &Identity::new());
    pair.run_ms(5_000);
    // Neither side is connected: the client has not finished, and the server does not know it.
    assert!(!is_connected(&pair.client_app) && !is_connected(&pair.server_app));
    let certificates = asked(&pair.client_app);
    assert_eq!(certificates.len(), 1, "asked once, whatever arrives again");
    assert!(certificates[0].chain().eq([&identity.certificate[..]]));
    let problem = certificates[0].problem().unwrap();
    assert!(problem.contains("not the pinned certificate"), "{problem}");
    assert_eq!(certificates[0].verdict(), CertificateVerdict::Refuse(48));
    assert!(pair.client.judge_certificate(pair.now, CertificateVerdict::Later));
    assert!(pair.client.judge_certificate(pair.now, CertificateVerdict::Accept));
    pair.settle();
    assert!(echoed(&pair) && pair.client.is_confirmed() && pair.server.is_confirmed());
    assert!(
        !pair.client.judge_certificate(pair.now, CertificateVerdict::Refuse(42)),
        "said already"
    );
    assert!(
        !pair.server.judge_certificate(pair.now, CertificateVerdict::Refuse(42)),
        "never asked"
    );
    assert!(pair.client.is_established());
}

#[test]
fn a_server_waits_for_its_word_on_a_clients_certificate() {
    let identity = Identity::new();
    let mut pair = server_asks(&identity, &identity);
    let certificates = asked(&pair.server_app);
    assert_eq!((certificates.len(), certificates[0].problem()), (1, None));
    assert!(certificates[0].chain().eq([&identity.certificate[..]]));
    // The client has finished, and has sent: that waits too, and nothing is confirmed.
    assert!(is_connected(&pair.client_app) && !is_connected(&pair.server_app));
    assert!(pair.server_app.data.is_empty() && !pair.client.is_confirmed());
    assert!(!pair.client_app.events.contains(&Event::TicketReceived));
    assert!(pair.server.judge_certificate(pair.now, certificates[0].verdict()));
    pair.settle();
    assert!(echoed(&pair) && pair.client.is_confirmed());
    assert!(pair.client_app.events.contains(&Event::TicketReceived));
}

#[test]
fn what_came_before_the_word_on_a_certificate_is_read_with_it() {
    let identity = Identity::new();
    let mut pair = server_asks(&identity, &identity);
    pair.run_ms(4_000);
    assert_eq!(pair.server.early.as_ref().map(|early| early.len()), Some(1), "the client has sent");
    assert!(pair.server.judge_certificate(pair.now, CertificateVerdict::Accept));
    pair.server.deliver_events(&mut pair.server_app);
    assert!(pair.server_app.data.values().any(|data| data == b"hello") && !pair.server_app.early);
    assert!(pair.server.early.is_none(), "nothing is kept");
    // One way to the client.
    pair.run_ms(1);
    assert!(echoed(&pair) && pair.client.is_confirmed());
    pair.settle();
    // What waited was neither lost nor a round trip of four seconds.
    let stats = pair.client.stats();
    assert_eq!((stats.lost_packets, stats.ptos), (0, 0));
    assert!(pair.client.path.rtt.smoothed_ns() < 10 * DELAY_NS);
}

#[test]
fn who_is_refused_by_its_certificate_is_told_the_alert() {
    let (ours, other) = (Identity::new(), Identity::new());
    for (side, mut pair) in
        [(Side::Client, client_asks(&ours, &ours)), (Side::Server, server_asks(&ours, &other))]
    {
        let (judge, app) = match side {
            Side::Client => (&mut pair.client, &pair.client_app),
            Side::Server => (&mut pair.server, &pair.server_app),
        };
        let certificates = asked(app);
        assert_eq!(certificates[0].problem().is_none(), side == Side::Client);
        assert!(judge.judge_certificate(pair.now, CertificateVerdict::Refuse(49)));
        assert!(!judge.judge_certificate(pair.now, CertificateVerdict::Accept), "it is over");
        pair.settle();
        let heard = if side == Side::Client { &pair.server_app } else { &pair.client_app };
        let is_alert = |reason| matches!(reason, &CloseReason::PeerTransport { code: 0x131, .. });
        assert!(heard.closed().is_some_and(is_alert), "{:?}", heard.closed());
    }
}

#[test]
fn a_handshake_without_a_word_ends_in_its_time() {
    let identity = Identity::new();
    let mut pair = client_asks(&identity, &identity);
    pair.run_ms(60_000);
    assert_eq!(pair.client_app.closed(), Some(&CloseReason::HandshakeTimeout));
    assert!(!is_connected(&pair.client_app) && !is_connected(&pair.server_app));
    assert!(!pair.client.judge_certificate(pair.now, CertificateVerdict::Accept));
}

#[test]
fn what_is_kept_in_a_ticket_comes_back_when_the_session_is_resumed() {
    let (server, client) = tls_pair();
    let (client, plain) = (Arc::new(client), Arc::new(server));
    let data: Vec<u8> = (0..1_000).map(|n| n as u8).collect();
    let keeping = Arc::new(plain.with_ticket_data(&data).unwrap());
    assert!(plain.with_ticket_data(&[0; 1_001]).unwrap_err().to_string().contains("1001 bytes"));
    let long = TransportConfig { cid_rotation: None, ..TransportConfig::default() };
    // Each shows the ticket of the one before.
    for (server, resumed, shown) in [
        (&keeping, false, None),
        (&plain, true, Some(&data)),
        (&keeping, true, None),
        (&keeping, true, Some(&data)),
    ] {
        let mut pair =
            Pair::with_tls(long.clone(), long.clone(), client.clone(), Arc::clone(server));
        pair.settle();
        let told =
            |event: &&Event| matches!(event, Event::Resumed { .. } | Event::Connected { .. });
        let events: Vec<_> = pair.server_app.events.iter().filter(told).cloned().collect();
        let expected = shown.map(|data| Event::Resumed { data: data[..].into() });
        let expected: Vec<_> = expected.into_iter().chain([Event::Connected { resumed }]).collect();
        assert_eq!(events, expected);
        let tickets =
            pair.client_app.events.iter().filter(|e| **e == Event::TicketReceived).count();
        assert!((1..=2).contains(&tickets), "{tickets}");
        assert!(!pair.client_app.events.iter().any(|e| matches!(e, Event::Resumed { .. })));
        pair.client.close(pair.now, 0, Bytes::new());
        pair.run_ms(Duration::from_secs(1).as_millis() as u64);
    }
}

#[test]
fn a_server_may_refuse_a_ticket_by_what_it_kept_in_it() {
    let identity = Identity::new();
    let server = ServerTls::builder().certificate_der(&[&identity.certificate], &identity.key);
    let server = server.unwrap().alpn(["test"]).ticket_filter(|data| data != b"old");
    let server = server.build().unwrap();
    let client = ClientTls::builder().pinned_certificate_der(&identity.certificate);
    let client = Arc::new(client.alpn(["test"]).build().unwrap());
    for (data, resumed) in [(&b"old"[..], false), (b"new", false), (b"old", true)] {
        let server = Arc::new(server.with_ticket_data(data).unwrap());
        let config = TransportConfig::default();
        let mut pair = Pair::with_tls(config.clone(), config, client.clone(), server);
        pair.settle();
        assert!(pair.client_app.events.contains(&Event::Connected { resumed }), "{data:?}");
    }
}

#[test]
fn a_handshake_says_what_it_took() {
    let (server, client) = tls_pair();
    let (client, server) = (Arc::new(client), Arc::new(server));
    for resumed in [false, true] {
        let config = TransportConfig::default();
        let mut pair = Pair::with_tls(config.clone(), config, client.clone(), server.clone());
        assert_eq!(
            (pair.client.handshake_summary(), pair.server.handshake_summary()),
            (None, None)
        );
        pair.settle();
        let of_client = pair.client.handshake_summary().unwrap();
        let of_server = pair.server.handshake_summary().unwrap();
        // A millisecond each way. The server waits from the same time on.
        let ms = Duration::from_millis;
        assert_eq!((of_client.first_flight, of_client.complete), (ms(2), ms(2)));
        assert_eq!((of_server.first_flight, of_server.complete), (ms(1), ms(3)));
        assert_eq!(of_client.initial_tx_bytes, of_server.initial_rx_bytes);
        assert_eq!(of_client.initial_rx_bytes, of_server.initial_tx_bytes);
        assert_eq!(of_client.handshake_tx_bytes, of_server.handshake_rx_bytes);
        assert_eq!(of_client.handshake_rx_bytes, of_server.handshake_tx_bytes);
        // RFC 8446 §4.4.4: a Finished is the hash's size and a header.
        assert_eq!(
            of_client.handshake_tx_bytes,
            4 + if of_client.cipher_suite == 0x1302 { 48 } else { 32 }
        );
        assert!(
            of_client.initial_tx_bytes > 200 && of_client.initial_rx_bytes > 80,
            "{of_client:?}"
        );
        // Without a certificate there is a third left.
        assert_eq!(of_client.handshake_rx_bytes < 300, resumed, "{of_client:?}");
        assert!((0x1301..=0x1303).contains(&of_server.cipher_suite));
        assert_eq!(of_server.cipher_suite, of_client.cipher_suite);
        assert_ne!(of_server.key_exchange, 0);
        assert_eq!(of_server.key_exchange, of_client.key_exchange);
        for summary in [of_client, of_server] {
            assert_eq!((summary.resumed, summary.retried), (resumed, false));
        }
        pair.client.close(pair.now, 0, Bytes::new());
        pair.run_ms(1_000);
    }
}

#[test]
fn a_client_connects_again_whatever_its_session_holds() {
    let own = Identity::new();
    let server = ServerTls::builder().certificate_der(&[&own.certificate], &own.key).unwrap();
    let server = server.require_client_certificates(own.certificate_pem.as_bytes()).unwrap();
    let server = Arc::new(server.alpn(["test"]).build().unwrap());
    // A certificate has a third of a kilobyte.
    for (certificates, kept, resumed) in
        [(1, 1_000, true), (2, 1_000, false), (3, 0, true), (10, 0, false)]
    {
        let chain = vec![&own.certificate[..]; certificates];
        let client = ClientTls::builder().pinned_certificate_der(&own.certificate).alpn(["test"]);
        let client = client.certificate_der(&chain, &own.key).unwrap().build().unwrap();
        let client = Arc::new(client);
        for resumed in [false, resumed, resumed] {
            let server = Arc::new(server.with_ticket_data(&vec![7; kept]).unwrap());
            let config = TransportConfig::default();
            let mut pair = Pair::with_tls(config.clone(), config, client.clone(), server);
            pair.settle();
            let is_so = pair.client_app.events.contains(&Event::Connected { resumed });
            assert!(is_so, "{certificates} certificates: {:?}", pair.client_app.closed());
            // A session that is not resumed gave none of its two tickets.
            let withheld = pair.server.stats().tx_withheld_tickets;
            assert_eq!(withheld > 0, certificates == 10 || (certificates, kept) == (2, 1_000));
            pair.client.close(pair.now, 0, Bytes::new());
            pair.run_ms(1_000);
        }
    }
}
