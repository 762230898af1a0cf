//! Two connections wired together in virtual time, with an application that records.

use super::*;
use crate::proto::crypto::testing;
use crate::proto::crypto::{ClientTls, ServerTls, initial_keys};
use crate::proto::observer::{DropReason, Observation};
use crate::proto::path::{Addresses, PathId};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};

/// One way between the two, in nanoseconds.
pub(super) const DELAY_NS: u64 = 1_000_000;

/// What the two sides do by chance, and what they tell of it.
pub(super) const CLIENT_SEED: u64 = 1;
pub(super) const SERVER_SEED: u64 = 2;
pub(super) const CLIENT_GREASE: u64 = 0xe00b_5e1f_0001_0203;
pub(super) const SERVER_GREASE: u64 = 0xf00b_5e1f_0001_0204;

/// What one side's application saw.
#[derive(Default)]
pub(super) struct Recorder {
    pub(super) data: BTreeMap<StreamId, Vec<u8>>,
    pub(super) fins: Vec<StreamId>,
    /// Data came before the connection was said to be there.
    pub(super) early: bool,
    /// Sends this at once when connected.
    pub(super) initial: Option<Bytes>,
    pub(super) events: Vec<Event>,
    /// Answers each finished stream with its own bytes.
    pub(super) echo: bool,
    /// Takes at most this many bytes of each slice.
    pub(super) appetite: Option<usize>,
    /// Closes the connection inside its data callback, at this time.
    pub(super) closes_at: Option<Instant>,
}

impl Application for Recorder {
    fn data(&mut self, c: &mut Connection, stream: StreamId, data: &[u8], fin: bool) -> usize {
        self.early |= !self.events.iter().any(|e| matches!(e, Event::Connected { .. }));
        let taken = self.appetite.map_or(data.len(), |n| n.min(data.len()));
        let all = self.data.entry(stream).or_default();
        all.extend_from_slice(&data[..taken]);
        if fin && taken == data.len() {
            self.fins.push(stream);
            if self.echo && stream.dir() == Dir::Bi {
                c.streams().send(stream, Bytes::copy_from_slice(all), true).unwrap();
            }
        }
        if let Some(now) = self.closes_at {
            c.close(now, 7, Bytes::new());
        }
        taken
    }

    fn event(&mut self, c: &mut Connection, event: Event) {
        if matches!(event, Event::Connected { .. })
            && let Some(initial) = self.initial.take()
        {
            let stream = c.streams().open(Dir::Bi).unwrap();
            c.streams().send(stream, initial, true).unwrap();
        }
        self.events.push(event);
    }
}

impl Recorder {
    pub(super) fn closed(&self) -> Option<&CloseReason> {
        self.events.iter().find_map(|e| match e {
            Event::Closed(reason) => Some(reason),
            _ => None,
        })
    }
}

/// What one side's observer has picked.
pub(super) struct Heard<T>(Receiver<T>);

impl<T> Heard<T> {
    /// All that was heard since the last call.
    pub(super) fn take(&self) -> Vec<T> {
        self.0.try_iter().collect()
    }
}

/// A datagram under way.
pub(super) struct Flight {
    pub(super) due: Instant,
    pub(super) to: Side,
    /// Where it comes from and goes to, as the receiver sees it.
    pub(super) at: Addresses,
    pub(super) bytes: Vec<u8>,
    pub(super) ecn: Ecn,
}

pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) client: Connection,
    pub(super) server: Connection,
    pub(super) client_app: Recorder,
    pub(super) server_app: Recorder,
    pub(super) flights: Vec<Flight>,
    /// Sees every datagram and says whether it arrives.
    pub(super) filter: Box<dyn FnMut(&mut Flight) -> bool>,
    /// What the client's first address looks like to the server, behind its NAT.
    pub(super) nat: SocketAddr,
    /// Addresses of the client's that carry nothing any more.
    pub(super) dead: Vec<SocketAddr>,
    pub(super) sent: u64,
}

pub(super) fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

pub(super) fn cid(n: u8) -> ConnectionId {
    ConnectionId::new(&[n; 8]).unwrap()
}

impl Pair {
    pub(super) fn new() -> Self {
        Self::with(TransportConfig::default(), TransportConfig::default())
    }

    pub(super) fn with(client: TransportConfig, server: TransportConfig) -> Self {
        let (server_tls, client_tls) = testing::pair();
        Self::with_tls(client, server, Arc::new(client_tls), Arc::new(server_tls))
    }

    pub(super) fn with_tls(
        client: TransportConfig,
        server: TransportConfig,
        client_tls: Arc<ClientTls>,
        server_tls: Arc<ServerTls>,
    ) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let client = Connection::connect(ClientArgs {
            config: Arc::new(client),
            tls: &client_tls,
            server_name: "localhost",
            now,
            local: addr(1000),
            remote: addr(443),
            local_cid: cid(1),
            initial_dcid: cid(2),
            token: Vec::new(),
            seed: CLIENT_SEED,
            grease: CLIENT_GREASE,
        })
        .unwrap();
        let server = Connection::accept(ServerArgs {
            config: Arc::new(server),
            tls: Some(server_tls),
            now,
            local: addr(443),
            remote: addr(1000),
            local_cid: cid(3),
            reset_token: [3; 16],
            preferred_cid: Some((cid(4), [4; 16])),
            initial_keys: initial_keys(1, cid(2).as_slice(), Side::Server),
            original_dcid: cid(2),
            retry_scid: None,
            peer_cid: cid(1),
            address_validated: false,
            seed: SERVER_SEED,
            grease: SERVER_GREASE,
        })
        .unwrap();
        Self {
            now,
            client,
            server,
            client_app: Recorder::default(),
            server_app: Recorder { echo: true, ..Recorder::default() },
            flights: Vec::new(),
            filter: Box::new(|_| true),
            nat: addr(1000),
            dead: Vec::new(),
            sent: 0,
        }
    }

    /// A pair that has finished its handshake.
    pub(super) fn connected() -> Self {
        let mut pair = Self::new();
        pair.settle();
        assert!(pair.client.is_confirmed() && pair.server.is_confirmed());
        pair
    }

    fn flush(&mut self, from: Side) {
        let mut buf = [0u8; 2048];
        loop {
            let connection = match from {
                Side::Client => &mut self.client,
                Side::Server => &mut self.server,
            };
            let (at, t) = match connection.wants_elsewhere(self.now) {
                Some((id, at)) => (at, connection.transmit_elsewhere(self.now, id, &mut buf)),
                None => {
                    let at = connection.path.addresses();
                    (at, connection.transmit(self.now, &mut buf))
                }
            };
            let Some(t) = t else { break };
            self.sent += 1;
            assert!(self.sent < 1_000_000, "a storm of datagrams");
            let Some(at) = self.through_nat(from, at) else { continue };
            let mut flight = Flight {
                due: self.now.plus_ns(DELAY_NS),
                to: from.peer(),
                at,
                bytes: buf[..t.len].to_vec(),
                ecn: t.ecn,
            };
            if (self.filter)(&mut flight) {
                self.flights.push(flight);
            }
        }
    }

    /// The ends of a path of `from`, as the other side sees them; `None` where nothing passes.
    fn through_nat(&self, from: Side, Addresses { local, remote }: Addresses) -> Option<Addresses> {
        let inside = addr(1000);
        let (local, remote) = match from {
            Side::Client if local == inside => (self.nat, remote),
            Side::Client => (local, remote),
            Side::Server if remote == self.nat => (local, inside),
            // The NAT has forgotten it.
            Side::Server if remote.ip() == inside.ip() => return None,
            Side::Server => (local, remote),
        };
        let client = if from == Side::Client { local } else { remote };
        let passes = !self.dead.contains(&client);
        passes.then_some(Addresses { local: remote, remote: local })
    }

    pub(super) fn deliver(&mut self, to: Side, ecn: Ecn, bytes: &mut [u8]) {
        let (client, server) = (addr(1000), addr(443));
        let at = match to {
            Side::Client => Addresses { local: client, remote: server },
            Side::Server => Addresses { local: server, remote: self.nat },
        };
        self.deliver_at(to, &at, ecn, bytes);
    }

    /// Delivers a datagram that comes from and goes to these addresses.
    pub(super) fn deliver_at(
        &mut self,
        to: Side,
        at: &Addresses,
        ecn: Ecn,
        bytes: &mut [u8],
    ) -> Option<PathId> {
        let now = self.now;
        match to {
            Side::Client => self.client.receive(now, at.ends(), ecn, bytes, &mut self.client_app),
            Side::Server => self.server.receive(now, at.ends(), ecn, bytes, &mut self.server_app),
        }
    }

    /// Hears one side from now on: what `pick` makes of each observation that it takes.
    pub(super) fn hear<T: Send + 'static>(
        &mut self,
        side: Side,
        pick: impl Fn(&Observation<'_>) -> Option<T> + Send + 'static,
    ) -> Heard<T> {
        let (tell, heard) = channel();
        let observer = move |_: Instant, what: &Observation<'_>| {
            if let Some(picked) = pick(what) {
                // The test may have heard enough.
                let _ = tell.send(picked);
            }
        };
        let connection = match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        };
        connection.set_observer(self.now, Some(Box::new(observer)));
        Heard(heard)
    }

    /// Hears why one side drops packets from now on.
    pub(super) fn hear_drops(&mut self, side: Side) -> Heard<DropReason> {
        self.hear(side, |what| match what {
            Observation::PacketDropped(dropped) => Some(dropped.reason),
            _ => None,
        })
    }

    fn issue_cids(&mut self) {
        for (c, n) in [(&mut self.client, 100), (&mut self.server, 200)] {
            while c.wants_cid() {
                // The first one of each is number 0, and no id is issued twice.
                let n = n + c.local_cids.issued() as u8;
                c.add_cid(cid(n), [n; 16]);
            }
        }
    }

    /// Sends everything, then jumps to the next event. False when nothing is left to happen
    /// before `limit`.
    pub(super) fn step(&mut self, limit: Instant) -> bool {
        self.issue_cids();
        self.flush(Side::Client);
        self.flush(Side::Server);
        let arrival = self.flights.iter().map(|f| f.due).min();
        let timers = [self.client.next_timeout(), self.server.next_timeout()];
        let next = timers.into_iter().flatten().chain(arrival).min();
        let Some(next) = next.filter(|t| *t <= limit) else { return false };
        self.now = self.now.max(next);
        let (due, later) =
            std::mem::take(&mut self.flights).into_iter().partition(|f: &Flight| f.due <= self.now);
        self.flights = later;
        for mut f in due {
            let mut bytes = std::mem::take(&mut f.bytes);
            self.deliver_at(f.to, &f.at, f.ecn, &mut bytes);
        }
        self.client.handle_timeout(self.now, &mut self.client_app);
        self.server.handle_timeout(self.now, &mut self.server_app);
        true
    }

    /// Runs for a while of virtual time.
    pub(super) fn run_ms(&mut self, ms: u64) {
        let limit = self.now.plus_ns(ms * 1_000_000);
        while self.step(limit) {}
        self.now = self.now.max(limit);
    }

    /// Runs until what was asked for is done, give or take delayed acknowledgements.
    pub(super) fn settle(&mut self) {
        self.run_ms(200);
    }
}
