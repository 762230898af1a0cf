//! Floods of handshakes that fail, from forged addresses: honest clients get in, and connections go on.

use super::forged::{Kind, anywhere, id, initial, meta};
use super::*;
use crate::time::MILLISECOND_NS;

/// Forged datagrams in a millisecond: 40,000 in a second.
const FORGED_EACH_MS: u32 = 40;
/// Forged datagrams that differ; each comes from an address of its own.
const DISTINCT: u64 = 512;
/// Connections that were there before.
const ESTABLISHED: usize = 100;
/// Each of them asks so often.
const REQUEST_EVERY_MS: usize = 50;
/// Honest clients, and when they come.
const HONEST: usize = 20;
const FIRST_HONEST_MS: usize = 500;
const HONEST_EVERY_MS: usize = 40;
/// How long the flood lasts, and how long after its begin every client has to be answered.
const FLOOD_MS: usize = 1_500;
const PATIENCE_MS: usize = 3_000;
/// Turns that the server takes in a millisecond at most.
const TURNS_EACH_MS: usize = 4;

struct Flood {
    scene: Scene,
    forged: Vec<Vec<u8>>,
    arrived: u32,
    most_connections: u64,
    most_memory: u64,
}

impl Flood {
    fn new(kind: Kind) -> Self {
        let forged = (0..DISTINCT).map(|n| initial(kind, id(n), b"", 0)).collect();
        let scene = Scene::new(1, LaneLimits::default());
        Self { scene, forged, arrived: 0, most_connections: 0, most_memory: 0 }
    }

    /// A millisecond, in which so many forged datagrams arrive.
    fn step(&mut self, forged: u32) {
        let Scene { now, servers, client, .. } = &mut self.scene;
        *now = now.plus_ns(MILLISECOND_NS);
        client.turn(*now).unwrap();
        let honest = take_sent(client);
        let server = &mut servers[0];
        for _ in 0..forged {
            let bytes = &self.forged[self.arrived as usize % self.forged.len()];
            server.datapaths()[0].arrived().put(&meta(anywhere(self.arrived)), bytes);
            self.arrived += 1;
        }
        for datagram in honest {
            carry(server, &datagram);
        }
        for _ in 0..TURNS_EACH_MS {
            server.turn(*now).unwrap();
        }
        let sent = take_sent(server);
        let ours = sent.iter().filter(|datagram| datagram.meta.path.remote == CLIENT.into());
        ours.for_each(|datagram| carry(client, datagram));
        let counters = server.lane().counters();
        self.most_connections = self.most_connections.max(counters.connections);
        self.most_memory = self.most_memory.max(counters.memory_bytes);
    }

    fn told(&self, wanted: impl Fn(&Told) -> bool) -> usize {
        self.scene.client_log.lock().unwrap().iter().filter(|told| wanted(told)).count()
    }
}

fn ask(handle: &Handle) {
    handle
        .open(crate::wire::Dir::Bi, |c, stream| {
            c.streams().send(stream.unwrap(), Bytes::from_static(b"request"), true).unwrap();
        })
        .unwrap();
}

/// Returns what the server had counted in the end.
fn run(kind: Kind) -> (LaneCounters, EndpointStats) {
    let mut flood = Flood::new(kind);
    let established: Vec<_> = (0..ESTABLISHED).map(|_| flood.scene.connect(None)).collect();
    (0..50).for_each(|_| flood.step(0));
    assert_eq!(flood.told(|told| matches!(told, Told::Connected(_))), ESTABLISHED);
    flood.scene.client_log.lock().unwrap().clear();
    let mut asked = 0;
    for ms in 0..PATIENCE_MS {
        if ms < FLOOD_MS {
            for handle in established.iter().skip(ms % REQUEST_EVERY_MS).step_by(REQUEST_EVERY_MS) {
                ask(handle);
                asked += 1;
            }
        }
        let came = ms.checked_sub(FIRST_HONEST_MS).filter(|since| since % HONEST_EVERY_MS == 0);
        if came.is_some_and(|since| since / HONEST_EVERY_MS < HONEST) {
            flood.scene.connect(None);
        }
        flood.step(if ms < FLOOD_MS { FORGED_EACH_MS } else { 0 });
    }
    let connected = flood.told(|told| matches!(told, Told::Connected(_)));
    let answered = flood.told(|told| matches!(told, Told::Data(_, _, true)));
    let counters = flood.scene.counters();
    let endpoint = flood.scene.servers[0].lane().endpoint_stats();
    let story = format!("{kind:?}: {counters:?} {endpoint:?}");
    assert_eq!(connected, HONEST, "honest clients: {story}");
    assert!(answered * 10 >= asked * 9, "{answered} of {asked} requests: {story}");
    // As many handshakes as begin before Retry does, and the connections from before.
    assert!(flood.most_connections <= 1_000 + 200, "{} places: {story}", flood.most_connections);
    assert!(flood.most_memory <= 1_200 * 16_384, "{} bytes: {story}", flood.most_memory);
    assert_eq!(u64::from(flood.arrived), FLOOD_MS as u64 * u64::from(FORGED_EACH_MS));
    eprintln!("{connected} of {HONEST} clients, {answered} of {asked} requests; {story}");
    (counters, endpoint)
}

/// Most of them were asked for their address, and what was built for the others has failed.
fn led_to_retry(kind: Kind) {
    let (counters, endpoint) = run(kind);
    assert!(endpoint.retries >= 50_000, "{endpoint:?}");
    assert_eq!(endpoint.limited_retries, 0);
    assert!(counters.handshakes_failed >= 900, "{counters:?}");
    assert_eq!(counters.handshakes, 0);
}

#[test]
fn a_flood_of_closes_keeps_nobody_out() {
    led_to_retry(Kind::Close);
}

#[test]
fn a_flood_of_client_hellos_that_are_none_keeps_nobody_out() {
    led_to_retry(Kind::NotTls);
}

#[test]
fn a_flood_of_client_hellos_without_a_protocol_keeps_nobody_out() {
    led_to_retry(Kind::NoAlpn);
}

#[test]
fn a_flood_of_pings_keeps_nobody_out() {
    let (counters, endpoint) = run(Kind::Ping);
    assert!(endpoint.retries >= 50_000, "{endpoint:?}");
    // They wait for their end, and more are not begun meanwhile.
    assert!((900..=1_000).contains(&counters.handshakes), "{counters:?}");
}

#[test]
fn a_flood_of_short_packets_keeps_nobody_out() {
    let (_, endpoint) = run(Kind::Junk);
    // Their ids are not of this host, so they get no answer, not even a reset.
    let forged = FLOOD_MS as u64 * u64::from(FORGED_EACH_MS);
    assert_eq!((endpoint.dropped, endpoint.resets, endpoint.limited_resets), (forged, 0, 0));
    assert_eq!((endpoint.retries, endpoint.limited_retries), (0, 0));
}
