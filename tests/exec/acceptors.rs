//! Listeners that choose by what a client asks for, or take their time.

use super::*;
use quiclane::exec::{Acceptor, ClientConfig, Decision, NewConnection};
use quiclane::proto::crypto::{ClientTls, ServerTls};
use quiclane_testkit::Identity;
use std::sync::mpsc::sync_channel;

/// Two hosts behind one address, each with its own certificate; a third has to be looked up first.
struct Hosts {
    here: [ServerConfig; 2],
    stopped: Sender<()>,
}

impl Acceptor for Hosts {
    fn accept(&self, client: &NewConnection<'_>) -> Decision {
        assert!(client.client_hello().starts_with(&[1]) && client.protocols().eq([b"echo"]));
        match client.server_name() {
            Some("one.example") => Decision::accept(Echo),
            Some("two.example") => Decision::AcceptWith(Box::new(Echo), self.here[1].clone()),
            Some("three.example") => {
                let (deferred, config) = (client.defer(), self.here[1].clone());
                std::thread::spawn(move || {
                    deferred.answer(Decision::AcceptWith(Box::new(Echo), config)).unwrap();
                });
                Decision::Later
            }
            _ => Decision::RefuseWithAlert(112),
        }
    }

    fn stopped(&self) {
        self.stopped.send(()).unwrap();
    }
}

/// A server's configuration, and that of a client that trusts no other.
fn host(name: &str) -> (ServerConfig, ClientConfig) {
    let Identity { certificate, key, .. } = Identity::of(name);
    let server = ServerTls::builder().certificate_der(&[&certificate], &key).unwrap();
    let client = ClientTls::builder().pinned_certificate_der(&certificate);
    (
        ServerConfig::new(server.alpn(["echo"]).build().unwrap()),
        ClientConfig::new(client.alpn(["echo"]).build().unwrap()),
    )
}

#[test]
fn a_listener_serves_each_name_with_its_own_certificate_at_once_or_later() {
    let ((one, trusts_one), (two, trusts_two)) = (host("one.example"), host("two.example"));
    let (stopped, told) = channel();
    let server = open(workers(2));
    let hosts = Hosts { here: [one.clone(), two], stopped };
    let listener = server.listen_with_acceptor(&mut [], any_port(), &one, hosts).unwrap();
    let client = open(workers(1));
    let meets = [
        ("one.example", &trusts_one, true),
        ("two.example", &trusts_two, true),
        ("three.example", &trusts_two, true),
        ("two.example", &trusts_one, false),
        ("four.example", &trusts_one, false),
    ];
    for (name, config, is_served) in meets {
        let (handler, told) = Client::new("hello");
        client.connect(listener.local_addr(), name, config, handler).unwrap();
        if is_served {
            wait_for(&told, |t| matches!(t, Told::Echoed(_)).then_some(()));
            continue;
        }
        match wait_for_close(&told) {
            CloseReason::PeerTransport { code: 0x170, .. } => assert_eq!(name, "four.example"),
            CloseReason::Handshake(_) => assert_eq!(name, "two.example"),
            reason => panic!("{name}: {reason}"),
        }
    }
    assert!(told.try_recv().is_err());
    drop(listener);
    told.recv_timeout(PATIENCE).unwrap();
    drop(server);
    assert!(told.recv().is_err(), "it is told once");
}

#[test]
fn a_client_that_waits_is_left_when_the_worker_ends() {
    let (config, client_config) = configs();
    let (kept, deferred) = sync_channel(1);
    let server = open(workers(1));
    let listener =
        server.listen_with_acceptor(&mut [], any_port(), &config, Keep(Mutex::new(kept))).unwrap();
    let client = open(workers(1));
    let (handler, _told) = Client::new("hello");
    client.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
    let deferred: quiclane::exec::Deferred = deferred.recv_timeout(PATIENCE).unwrap();
    assert!(!deferred.is_closed());
    server.shutdown(0, Duration::ZERO);
    let late = deferred.answer(Decision::accept(Echo)).unwrap_err();
    assert_eq!(late.error, HandleError::Closed);
    assert!(matches!(late.decision, Decision::Accept(_)));
}

/// Lets clients wait, and hands them out.
struct Keep(Mutex<std::sync::mpsc::SyncSender<quiclane::exec::Deferred>>);

impl Acceptor for Keep {
    fn accept(&self, client: &NewConnection<'_>) -> Decision {
        self.0.lock().unwrap().send(client.defer()).unwrap();
        Decision::Later
    }
}
