//! New connections that are not wished, and balancers that ask.

use super::*;
use quiclane::HealthCheck;
use std::net::UdpSocket;

#[test]
fn new_connections_are_refused_while_it_is_wished_and_health_checks_are_answered() {
    let (mut config, trusting) = configs();
    config.health = Some(HealthCheck::new(*b"0 does it live?", *b"yes").unwrap());
    let server = open(workers(2));
    let listener = echo_server(&server, &config);
    let client = open(workers(1));
    let connect = || {
        let (handler, told) = Client::new("hello");
        let handle =
            client.connect(listener.local_addr(), "localhost", &trusting, handler).unwrap();
        (handle, told)
    };
    let (kept, told) = connect();
    wait_for(&told, |t| matches!(t, Told::Echoed(_)).then_some(()));
    for by_listener in [true, false] {
        let wish = |refuses| match by_listener {
            true => listener.refuse_new(refuses),
            false => server.refuse_new(refuses),
        };
        wish(true);
        let (_refused, told) = connect();
        match wait_for_close(&told) {
            CloseReason::PeerTransport { code, .. } => assert_eq!(code, 2, "CONNECTION_REFUSED"),
            other => panic!("{other:?}"),
        }
        let balancer = UdpSocket::bind(any_port()).unwrap();
        balancer.set_read_timeout(Some(PATIENCE)).unwrap();
        balancer.send_to(b"0 does it live?", listener.local_addr()).unwrap();
        let mut answer = [0; 100];
        let (len, from) = balancer.recv_from(&mut answer).unwrap();
        assert_eq!((&answer[..len], from), (&b"yes"[..], listener.local_addr()));
        wish(false);
        let (_accepted, told) = connect();
        wait_for(&told, |t| matches!(t, Told::Echoed(_)).then_some(()));
    }
    assert!(!kept.is_closed());
}
