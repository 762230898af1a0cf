//! Connections whose addresses change, over the loopback device, which has all of 127.0.0.0/8.

use super::*;
use quiclane::exec::{MigrateError, Migration};
use std::net::IpAddr;

/// What a client and a server that move were told.
#[derive(Debug, PartialEq)]
enum Moved {
    Local(SocketAddr),
    Peer(SocketAddr),
    Failed(SocketAddr),
}

/// Echoes, and tells where the peer is.
struct Watching(Echo, Sender<Moved>);

impl Handler for Watching {
    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        self.0.stream_data(connection, stream, data, fin)
    }

    fn peer_address_changed(&mut self, connection: &mut ConnectionRef<'_>, remote: SocketAddr) {
        assert_eq!(connection.remote(), remote);
        self.1.send(Moved::Peer(remote)).unwrap();
    }
}

/// A client that tells where it is.
struct Mover {
    client: Client,
    moved: Sender<Moved>,
}

impl Handler for Mover {
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

    fn local_address_changed(&mut self, connection: &mut ConnectionRef<'_>, local: SocketAddr) {
        assert_eq!(connection.local(), local);
        self.moved.send(Moved::Local(local)).unwrap();
    }

    fn migration_failed(&mut self, _: &mut ConnectionRef<'_>, local: SocketAddr) {
        self.moved.send(Moved::Failed(local)).unwrap();
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
    let accept = move |_: &quiclane::exec::NewConnection| {
        Some(Box::new(Watching(Echo, tell.clone())) as Box<dyn Handler>)
    };
    let listener = server.listen(any_port(), &server_config, accept).unwrap();
    let client = open(workers(1));
    let message: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let (handler, told) = Client::new(message.clone());
    let (tell, moved) = channel();
    let mover = Mover { client: handler, moved: tell };
    let remote = listener.local_addr();
    let handle = client.connect(remote, "localhost", &client_config, mover).unwrap();
    connected(&told);
    for (last, when) in
        [(2, Migration::Validated), (3, Migration::AtOnce), (1, Migration::Validated)]
    {
        let local = migrate(&handle, IpAddr::from([127, 0, 0, last]), when);
        assert_eq!(moved.recv_timeout(PATIENCE).unwrap(), Moved::Local(local));
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Moved::Peer(local));
    }
    assert_eq!(echoed(&told), message);
    client.shutdown(0, PATIENCE);
    status_until(&server, |rows| rows.iter().all(|row| row.connections == 0));
}
