//! Applications that have the last word on certificates, and that keep something in tickets.

use super::*;
use quiclane::exec::{ClientConfig, Handle};
use quiclane::proto::crypto::{ClientTls, ServerTls};
use quiclane::{CertificateVerdict, PeerCertificate};
use quiclane_testkit::Identity;

/// Leaves the verdict on the server's certificate to who holds the other end; else it is a client.
struct Undecided {
    client: Client,
    asked: Sender<(Handle, PeerCertificate)>,
}

impl Handler for Undecided {
    fn peer_certificate(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        certificate: &PeerCertificate,
    ) -> CertificateVerdict {
        self.asked.send((connection.handle(), certificate.clone())).unwrap();
        CertificateVerdict::Later
    }

    fn connected(&mut self, connection: &mut ConnectionRef<'_>, resumed: bool) {
        self.client.connected(connection, resumed);
    }

    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        self.client.stream_data(connection, stream, data, fin)
    }

    fn closed(&mut self, connection: &mut ConnectionRef<'_>, reason: CloseReason) {
        self.client.closed(connection, reason);
    }
}

#[test]
fn a_certificate_is_judged_later_by_another_thread() {
    let identity = Identity::new();
    let server = ServerTls::builder().certificate_der(&[&identity.certificate], &identity.key);
    let config = ServerConfig::new(server.unwrap().alpn(["echo"]).build().unwrap());
    let client = ClientTls::builder().pinned_certificate_der(&Identity::new().certificate);
    // A session that is resumed shows no certificate.
    let client = client.alpn(["echo"]).application_judges().sessions(0).build().unwrap();
    let (server, registration) = (open(workers(1)), open(workers(1)));
    let listener = echo_server(&server, &config);
    for verdict in [CertificateVerdict::Accept, CertificateVerdict::Refuse(46)] {
        let (client_side, told) = Client::new("hello");
        let (asked, certificate) = channel();
        let handler = Undecided { client: client_side, asked };
        let client_config = ClientConfig::new(client.clone());
        registration.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
        let (handle, certificate) = certificate.recv_timeout(PATIENCE).unwrap();
        assert!(certificate.problem().is_some_and(|problem| problem.contains("not the pinned")));
        // Nothing goes on by itself: the server is not told of a connection.
        assert!(told.recv_timeout(Duration::from_millis(200)).is_err());
        let judged = handle.run_and_wait(move |c| c.judge_certificate(verdict));
        assert!(judged.unwrap());
        if verdict == CertificateVerdict::Accept {
            assert_eq!(echoed(&told), b"hello");
            let late = handle.run_and_wait(move |c| c.judge_certificate(verdict));
            assert!(!late.unwrap(), "nothing waits for it");
            handle.close(0, Bytes::new()).unwrap();
        } else {
            let reason = wait_for_close(&told);
            assert!(reason.to_string().contains("certificate"), "{reason}");
        }
    }
}

/// Tells what it is told of tickets.
struct Keeps(Sender<Vec<u8>>);

impl Handler for Keeps {
    fn resumed(&mut self, _: &mut ConnectionRef<'_>, data: &[u8]) {
        self.0.send(data.to_vec()).unwrap();
    }
}

/// Tells that a ticket came.
struct Gets(Sender<()>);

impl Handler for Gets {
    fn ticket_received(&mut self, connection: &mut ConnectionRef<'_>) {
        self.0.send(()).unwrap();
        connection.close(0, Bytes::new());
    }
}

#[test]
fn a_server_is_told_what_it_kept_in_the_ticket_of_a_client() {
    let (mut config, client_config) = configs();
    config.tls = Arc::new(config.tls.with_ticket_data(b"settings of the first").unwrap());
    let (server, registration) = (open(workers(1)), open(workers(1)));
    let (told, resumed) = channel();
    let keeps = move |_: &quiclane::exec::NewConnection<'_>| -> Option<Box<dyn Handler>> {
        Some(Box::new(Keeps(told.clone())))
    };
    let listener = server.listen(any_port(), &config, keeps).unwrap();
    for _ in 0..2 {
        let (got, ticket) = channel();
        registration
            .connect(listener.local_addr(), "localhost", &client_config, Gets(got))
            .unwrap();
        ticket.recv_timeout(PATIENCE).unwrap();
    }
    assert_eq!(resumed.recv_timeout(PATIENCE).unwrap(), b"settings of the first");
}
