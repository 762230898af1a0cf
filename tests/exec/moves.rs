//! Connections whose addresses change, over the loopback device, which has all of 127.0.0.0/8.

use super::*;
use quiclane::exec::{MigrateError, Migration};
use std::net::IpAddr;

/// Echoes, and tells where the peer is.
struct Watching(Sender<SocketAddr>);

impl Handler for Watching {
    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        Echo.stream_data(connection, stream, data, fin)
    }

    fn peer_address_changed(&mut self, connection: &mut ConnectionRef<'_>, remote: SocketAddr) {
        assert_eq!(connection.remote(), remote);
        self.0.send(remote).unwrap();
    }
}

/// Moves a client to another address of this machine's, with the port that it has.
fn migrate(handle: &Handle, ip: IpAddr, when: Migration) -> SocketAddr {
    loop {
        let (tell, told) = channel();
        let task = move |c: &mut ConnectionRef<'_>| {
            let local = SocketAddr::new(ip, c.local().port());
            tell.send(c.migrate(local, when).map(|()| local)).unwrap();
        };
        handle.run(task).unwrap();
        match told.recv_timeout(PATIENCE).unwrap() {
            Ok(local) => return local,
            // The handshake is not confirmed yet, or an id is on its way.
            Err(MigrateError::NotEstablished | MigrateError::NoConnectionId) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_client_moves_between_addresses_of_its_own() {
    let (server_config, client_config) = configs();
    let server = open(workers(2));
    let (tell, seen) = channel();
    let accept = move |_: &quiclane::exec::NewConnection<'_>| {
        Some(Box::new(Watching(tell.clone())) as Box<dyn Handler>)
    };
    let listener = server.listen(any_port(), &server_config, accept).unwrap();
    let client = open(workers(1));
    let message: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let (handler, told) = Client::new(message.clone());
    let remote = listener.local_addr();
    let handle = client.connect(remote, "localhost", &client_config, handler).unwrap();
    let mut all = Vec::new();
    let mut moved = || loop {
        match told.recv_timeout(PATIENCE).unwrap() {
            Told::Moved(local) => break local,
            Told::Echoed(data) => all.push(data),
            Told::Connected { .. } | Told::Acknowledged(_) => {}
            other => panic!("{other:?}"),
        }
    };
    for (last, when) in
        [(2, Migration::Validated), (3, Migration::AtOnce), (1, Migration::Validated)]
    {
        let local = migrate(&handle, IpAddr::from([127, 0, 0, last]), when);
        assert_eq!(moved(), local);
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), local);
    }
    let last = all.pop().unwrap_or_else(|| echoed(&told));
    assert!(last == message && all.is_empty());
    client.shutdown(0, PATIENCE);
    status_until(&server, |rows| rows.iter().all(|row| row.connections == 0));
}
