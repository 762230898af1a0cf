//! More work than a worker can do: who is served, and what others are told.

use super::forged::{
    Kind, anywhere, bytes_of, hello, id, initial, initial_of, meta, sized_initial,
};
use super::*;
use crate::datapath::memory::MemoryDatapath;
use crate::datapath::{MAX_BURST, Path};
use crate::exec::Pressure;
use crate::exec::api::{Acceptor, Decision, NewConnection};
use crate::proto::health::HealthCheck;
use crate::time::MILLISECOND_NS;
use crate::wire::Dir;
use crate::wire::frame::Frame;
use crate::wire::packet::{self, PacketType};
use std::sync::Mutex;
use std::sync::atomic::Ordering;

/// Who is told of the load writes it down, and accepts everyone.
struct Listens(Arc<Mutex<Vec<(usize, Pressure)>>>);

impl Acceptor for Listens {
    fn accept(&self, _: &NewConnection<'_>) -> Decision {
        Decision::accept(())
    }

    fn pressure_changed(&self, worker: usize, pressure: Pressure) {
        self.0.lock().unwrap().push((worker, pressure));
    }
}

fn ask(handle: &Handle) {
    let asked = handle.open(Dir::Bi, |c, stream| {
        c.streams().send(stream.unwrap(), Bytes::from_static(b"request"), true).unwrap();
    });
    asked.unwrap();
}

fn answered(scene: &Scene) -> usize {
    let log = scene.client_log.lock().unwrap();
    log.iter().filter(|told| matches!(told, Told::Data(_, _, true))).count()
}

/// What kind of packet an answer is; `None` for one that is no packet.
fn kind(answer: &[u8]) -> Option<PacketType> {
    packet::parse(answer, 0, 8).ok().map(|p| p.kind)
}

/// A scene with this many connections.
fn established(limits: LaneLimits, count: usize) -> (Scene, Vec<Handle>) {
    let mut scene = Scene::new(1, limits);
    let handles = (0..count).map(|_| scene.connect(None)).collect();
    scene.run(50);
    let told = scene.told_client();
    assert_eq!(told.iter().filter(|t| matches!(t, Told::Connected(_))).count(), count);
    (scene, handles)
}

#[test]
fn established_connections_are_served_before_the_client_initials_of_the_same_burst() {
    let (mut scene, handles) = established(LaneLimits::default(), 1);
    ask(&handles[0]);
    scene.client.turn(scene.now).unwrap();
    let request = take_sent(&mut scene.client).remove(0);
    let server = &mut scene.servers[0];
    for n in 0..40 {
        server.datapaths()[0]
            .arrived()
            .put(&meta(anywhere(n)), &initial(Kind::Ping, id(n.into()), b"", 0));
    }
    carry(server, &request);
    server.turn(scene.now).unwrap();
    assert!(scene.server_log.lock().unwrap().iter().any(|t| matches!(t, Told::Data(_, _, true))));
    // In the turn with the request no handshake began; then one in each turn.
    for turn in 0..=40 {
        let counters = scene.counters();
        assert_eq!((counters.handshakes, counters.initials_waiting), (turn, 40 - turn));
        scene.servers[0].turn(scene.now).unwrap();
    }
}

/// When the handshakes of three clients begin, in milliseconds, while a connection has one request
/// in each turn.
fn handshakes_beside_a_slow_connection(share: u8) -> Vec<u64> {
    let limits = LaneLimits { handshake_share_percent: share, ..LaneLimits::default() };
    let (mut scene, handles) = established(limits, 1);
    for n in 0..3 {
        let bytes = initial(Kind::Ping, id(n.into()), b"", 0);
        scene.servers[0].datapaths()[0].arrived().put(&meta(anywhere(n)), &bytes);
    }
    let mut began = Vec::new();
    for ms in 0..100 {
        scene.now = scene.now.plus_ns(MILLISECOND_NS);
        ask(&handles[0]);
        scene.client.turn(scene.now).unwrap();
        for request in take_sent(&mut scene.client) {
            carry(&mut scene.servers[0], &request);
        }
        scene.servers[0].turn(scene.now).unwrap();
        began.resize(scene.counters().handshakes as usize, ms);
        let sent = take_sent(&mut scene.servers[0]);
        let ours = sent.iter().filter(|datagram| datagram.meta.path.remote == CLIENT.into());
        ours.for_each(|datagram| carry(&mut scene.client, datagram));
    }
    began
}

#[test]
fn a_handshake_begins_each_ten_milliseconds_however_slow_the_connections_are() {
    // A tenth of two datagrams in a turn would pay for one after 800 turns.
    assert_eq!(handshakes_beside_a_slow_connection(10), [10, 20, 30]);
    assert!(handshakes_beside_a_slow_connection(0).is_empty());
}

/// Requests, and turns of the server, in a millisecond.
const REQUESTS_EACH_MS: usize = 20;
const TURNS_EACH_MS: usize = 4;
/// The flood: ten times as many as an idle server would begin.
const FLOOD_EACH_MS: u32 = 40;

/// A second in which connections have something to do in every turn, with and without a flood of
/// client Initials. Requests that were answered in each millisecond, and the server's counters.
fn second_of_load(flood: u32, limits: LaneLimits) -> (Vec<usize>, LaneCounters) {
    let (mut scene, handles) = established(limits, 100);
    scene.client_log.lock().unwrap().clear();
    let forged: Vec<_> = (0..512).map(|n| initial(Kind::Hello, id(n), b"", 0)).collect();
    let (mut arrived, mut answers) = (0_u32, Vec::new());
    for ms in 0..1_000 {
        scene.now = scene.now.plus_ns(MILLISECOND_NS);
        for n in 0..REQUESTS_EACH_MS {
            ask(&handles[(ms * REQUESTS_EACH_MS + n) % handles.len()]);
        }
        scene.client.turn(scene.now).unwrap();
        let requests = take_sent(&mut scene.client);
        let server = &mut scene.servers[0];
        for turn in 0..TURNS_EACH_MS {
            for _ in 0..flood / TURNS_EACH_MS as u32 {
                let bytes = &forged[arrived as usize % forged.len()];
                server.datapaths()[0].arrived().put(&meta(anywhere(arrived)), bytes);
                arrived += 1;
            }
            let mine = requests.iter().skip(turn).step_by(TURNS_EACH_MS);
            mine.for_each(|datagram| carry(server, datagram));
            server.turn(scene.now).unwrap();
        }
        let sent = take_sent(server);
        let ours = sent.iter().filter(|datagram| datagram.meta.path.remote == CLIENT.into());
        ours.for_each(|datagram| carry(&mut scene.client, datagram));
        scene.client.turn(scene.now).unwrap();
        answers.push(answered(&scene));
    }
    (answers, scene.counters())
}

#[test]
fn a_flood_of_handshakes_takes_its_share_and_delays_no_request() {
    let (alone, _) = second_of_load(0, LaneLimits::default());
    let (beside, counters) = second_of_load(FLOOD_EACH_MS, LaneLimits::default());
    assert_eq!(*alone.last().unwrap(), 1_000 * REQUESTS_EACH_MS);
    assert_eq!(alone, beside, "each request was answered in the turn in which it was before");
    // The share: a tenth of the datagrams of the connections. A handshake takes 160 of it, and Retry,
    // which the worker asks for since so many find no place to wait, four.
    let received = counters.rx_datagrams - 1_000 * u64::from(FLOOD_EACH_MS);
    let work = received + counters.tx_datagrams - counters.answers;
    let begun = counters.handshakes + counters.handshakes_failed;
    let taken = begun * 160 + counters.answers * 4;
    assert!((work / 12..=work / 10 + 160).contains(&taken), "{taken} of {work}: {counters:?}");
    assert!(counters.initials_dropped > 10_000, "{counters:?}");
    let none = LaneLimits { handshake_share_percent: 0, ..LaneLimits::default() };
    let (_, counters) = second_of_load(FLOOD_EACH_MS, none);
    assert_eq!((counters.handshakes, counters.handshakes_failed), (0, 0), "{counters:?}");
}

#[test]
fn what_finds_no_place_to_wait_leads_to_retry_for_a_while() {
    let limits = LaneLimits { initials_waiting: 4, ..LaneLimits::default() };
    let mut scene = Scene::new(1, limits);
    let put = |scene: &mut Scene, n: u32, token: &[u8]| {
        let bytes = initial(Kind::Ping, id(n.into()), token, 0);
        scene.servers[0].datapaths()[0].arrived().put(&meta(anywhere(n)), &bytes);
    };
    (0..10).for_each(|n| put(&mut scene, n, b""));
    scene.servers[0].turn(scene.now).unwrap();
    let counters = scene.counters();
    assert_eq!((counters.initials_dropped, counters.initials_waiting), (6, 3));
    assert_eq!((counters.handshakes, counters.pressure), (1, 0));
    // A token that proves nothing is asked for proof too.
    put(&mut scene, 20, b"a token of another server");
    scene.servers[0].turn(scene.now).unwrap();
    let counters = scene.counters();
    assert_eq!((counters.pressure, counters.pressure_changes), (Pressure::Retry as u64, 1));
    let sent = take_sent(&mut scene.servers[0]);
    assert_eq!(sent.iter().filter(|d| kind(d.payload()) == Some(PacketType::Retry)).count(), 4);
    scene.run(101);
    assert_eq!((scene.counters().pressure, scene.counters().pressure_changes), (0, 2));
    let answers = scene.inject(anywhere(30), &initial(Kind::Ping, id(30), b"", 0));
    assert_ne!(answers.first().and_then(|a| kind(a)), Some(PacketType::Retry));
}

/// A datagram that arrives at the server with its next turn.
fn put(scene: &mut Scene, from: std::net::SocketAddr, datagram: &[u8]) {
    scene.servers[0].datapaths()[0].arrived().put(&meta(from), datagram);
}

#[test]
fn a_proven_address_goes_first_and_a_token_that_proves_nothing_takes_no_place_of_it() {
    let limits = LaneLimits { initials_waiting: 4, ..LaneLimits::default() };
    let mut scene = Scene::new(1, limits);
    let (now, honest) = (scene.now, anywhere(100));
    let listener = &mut scene.servers[0].lane().listeners[0];
    let token = listener.endpoint.new_token(now, &[7; 12], honest.ip());
    let mut damaged = token.clone();
    *damaged.last_mut().unwrap() ^= 1;
    // Of another server; one with our mark; one of another client; none.
    let junk = [&b"x"[..], b"a token of another server", &damaged, &token, b""];
    for n in 0..20 {
        let bytes = initial(Kind::Ping, id(n), junk[n as usize % junk.len()], 0);
        put(&mut scene, anywhere(n as u32), &bytes);
    }
    put(&mut scene, honest, &initial(Kind::Ping, id(100), &token, 0));
    scene.servers[0].turn(scene.now).unwrap();
    let counters = scene.counters();
    assert_eq!((counters.initials_dropped, counters.initials_waiting), (16, 4), "{counters:?}");
    let (_, entry) = scene.servers[0].lane().table.get_slot(0).unwrap();
    assert_eq!((entry.connection.remote(), counters.handshakes), (honest, 1));
    assert!(entry.connection.is_address_validated(), "the token was not used up before");
}

#[test]
fn an_initial_that_can_begin_nothing_takes_no_place() {
    let limits = LaneLimits { initials_waiting: 4, ..LaneLimits::default() };
    let mut scene = Scene::new(1, limits);
    for n in 0..10 {
        let bytes = sized_initial(1_199, &bytes_of(&[Frame::Ping]), id(n), b"", 0);
        put(&mut scene, anywhere(n as u32), &bytes);
    }
    (10..14).for_each(|n| put(&mut scene, anywhere(n), &initial(Kind::Ping, id(n.into()), b"", 0)));
    scene.servers[0].turn(scene.now).unwrap();
    let counters = scene.counters();
    assert_eq!((counters.initials_dropped, counters.initials_waiting), (0, 3));
    assert_eq!(scene.servers[0].lane().endpoint_stats().small_initials, 10);
}

#[test]
fn a_source_that_floods_leaves_places_to_others() {
    let limits = LaneLimits { initials_waiting: 16, ..LaneLimits::default() };
    let mut scene = Scene::new(1, limits);
    (0..20).for_each(|n| put(&mut scene, anywhere(1), &initial(Kind::Ping, id(n), b"", 0)));
    (20..28).for_each(|n| put(&mut scene, anywhere(n), &initial(Kind::Ping, id(n.into()), b"", 0)));
    scene.servers[0].turn(scene.now).unwrap();
    let counters = scene.counters();
    assert_eq!((counters.initials_source_share, counters.initials_dropped), (12, 0));
    assert_eq!(counters.initials_waiting + counters.handshakes, 16);
    assert_eq!(counters.pressure, 0, "nobody else is asked for proof because of it");
}

#[test]
fn the_missing_halves_of_client_hellos_wait_as_the_first_ones_did() {
    const CLIENTS: u64 = 20;
    let (mut scene, handles) = established(LaneLimits::default(), 1);
    let hello = hello();
    let (first, rest) = hello.split_at(100);
    let [first, rest] =
        [(0, first), (100, rest)].map(|(offset, data)| bytes_of(&[Frame::Crypto { offset, data }]));
    for n in 0..CLIENTS {
        scene.inject(anywhere(n as u32), &initial_of(&first, id(n), b"", 0));
    }
    let counters = scene.counters();
    assert_eq!((counters.handshakes, counters.accepted), (CLIENTS, 1));
    // A burst with a request, and all that was missing.
    ask(&handles[0]);
    scene.client.turn(scene.now).unwrap();
    for n in 0..CLIENTS {
        put(&mut scene, anywhere(n as u32), &initial_of(&rest, id(n), b"", 1));
    }
    take_sent(&mut scene.client).iter().for_each(|d| carry(&mut scene.servers[0], d));
    scene.servers[0].turn(scene.now).unwrap();
    assert!(scene.server_log.lock().unwrap().iter().any(|t| matches!(t, Told::Data(_, _, true))));
    // No session in that turn, and one in each without anything else to do.
    for turn in 0..=CLIENTS {
        let counters = scene.counters();
        assert_eq!((counters.accepted, counters.initials_waiting), (1 + turn, CLIENTS - turn));
        scene.servers[0].turn(scene.now).unwrap();
    }
}

#[test]
fn an_initial_that_waited_for_so_long_that_it_was_sent_again_is_dropped() {
    let limits = LaneLimits { handshake_share_percent: 0, ..LaneLimits::default() };
    let (mut scene, handles) = established(limits, 1);
    ask(&handles[0]);
    scene.client.turn(scene.now).unwrap();
    let request = take_sent(&mut scene.client).remove(0);
    let server = &mut scene.servers[0];
    server.datapaths()[0].arrived().put(&meta(anywhere(1)), &initial(Kind::Ping, id(1), b"", 0));
    carry(server, &request);
    server.turn(scene.now).unwrap();
    assert_eq!(scene.counters().initials_waiting, 1);
    scene.now = scene.now.plus_ns(SECOND_NS);
    scene.servers[0].turn(scene.now).unwrap();
    let counters = scene.counters();
    assert_eq!((counters.initials_waiting, counters.initials_expired), (0, 1));
    assert_eq!(counters.handshakes, 0);
}

/// Turns of a millisecond in which the server leaves so many datagrams waiting.
fn late(scene: &mut Scene, turns: u64, waiting: usize) {
    for _ in 0..turns {
        scene.now = scene.now.plus_ns(MILLISECOND_NS);
        let server = &mut scene.servers[0];
        let there = server.datapaths()[0].arrived().len();
        for _ in there..waiting + MAX_BURST {
            server.datapaths()[0].arrived().put(&meta(anywhere(0)), &[0; 9]);
        }
        server.turn(scene.now).unwrap();
    }
}

#[test]
fn a_worker_that_is_late_asks_for_proof_then_refuses_then_says_nothing_and_goes_back() {
    let told = Arc::<Mutex<Vec<_>>>::default();
    let acceptor: Arc<dyn Acceptor> = Arc::new(Listens(told.clone()));
    let limits = LaneLimits { queue_delay_max: Duration::from_millis(10), ..LaneLimits::default() };
    let mut scene = Scene::with_acceptor(1, limits, &server_config(), &acceptor);
    let handle = scene.connect(None);
    scene.run(20);
    let mut number = 100;
    let mut knock = |scene: &mut Scene| {
        number += 1;
        let from = anywhere(number);
        let bytes = initial(Kind::Ping, id(number.into()), b"", 0);
        let lane = scene.servers[0].lane();
        lane.receive(0, &meta(from), &mut bytes.clone());
        // No time passes: the turn sends what the lane has to say.
        lane.transmit::<MemoryDatapath>(&mut []);
        lane.endpoint_stats()
    };
    // A turn takes a millisecond and reads 64: so many that wait make for so much delay.
    late(&mut scene, 150, 64 * 12);
    let stats = knock(&mut scene);
    assert_eq!((stats.retries, stats.refusals), (1, 0));
    late(&mut scene, 150, 64 * 25);
    let stats = knock(&mut scene);
    assert_eq!((stats.retries, stats.refusals), (1, 1));
    late(&mut scene, 150, 64 * 50);
    assert_eq!(knock(&mut scene), stats, "no answer");
    let counters = scene.counters();
    assert_eq!((counters.refused_pressure, counters.initials_shed), (1, 1));
    // The connection that was there goes on all the same.
    assert!(!handle.is_closed());
    scene.servers[0].datapaths()[0].arrived().clear();
    scene.run(400);
    use Pressure::{Refuse, Retry, Shed};
    let steps = [Retry, Refuse, Shed, Refuse, Retry, Pressure::None].map(|pressure| (0, pressure));
    assert_eq!(*told.lock().unwrap(), steps);
    scene.connect(None);
    scene.run(20);
    assert_eq!(scene.counters().connections, 2);
}

/// Turns the server whenever it has to be, as if it slept in between, and nothing arrived. How often.
fn sleep_on(scene: &mut Scene) -> usize {
    scene.servers[0].datapaths()[0].arrived().clear();
    let mut turns = 0;
    loop {
        let next = scene.servers[0].turn(scene.now).unwrap().next;
        turns += 1;
        assert!(turns < 10, "it does not sleep");
        if next == Instant::NEVER {
            return turns;
        }
        scene.now = scene.now.max(next);
    }
}

#[test]
fn a_worker_that_sleeps_is_not_late_and_says_so_before_the_next_client_comes() {
    let told = Arc::<Mutex<Vec<_>>>::default();
    let acceptor: Arc<dyn Acceptor> = Arc::new(Listens(told.clone()));
    let limits = LaneLimits { queue_delay_max: Duration::from_millis(10), ..LaneLimits::default() };
    let mut scene = Scene::with_acceptor(1, limits, &server_config(), &acceptor);
    late(&mut scene, 150, 64 * 25);
    assert_eq!(scene.counters().pressure, Pressure::Refuse as u64);
    assert!(sleep_on(&mut scene) >= 3);
    use Pressure::{Refuse, Retry};
    let steps = [Refuse, Retry, Pressure::None].map(|pressure| (0, pressure));
    assert_eq!(*told.lock().unwrap(), steps);
    // The first client after the pause is accepted.
    scene.now = scene.now.plus_ns(10 * SECOND_NS);
    scene.inject(anywhere(1), &initial(Kind::Ping, id(1), b"", 0));
    let counters = scene.counters();
    assert_eq!((counters.refused_pressure, counters.handshakes), (0, 1));
    // Initials that find no place lead to Retry, which ends without a further datagram too.
    told.lock().unwrap().clear();
    let limits = LaneLimits { initials_waiting: 1, ..LaneLimits::default() };
    let mut scene = Scene::with_acceptor(1, limits, &server_config(), &acceptor);
    for n in 0..3 {
        let bytes = initial(Kind::Close, id(n), b"", 0);
        scene.servers[0].datapaths()[0].arrived().put(&meta(anywhere(n as u32)), &bytes);
    }
    scene.servers[0].turn(scene.now).unwrap();
    assert_eq!(scene.counters().initials_dropped, 2);
    sleep_on(&mut scene);
    assert_eq!(*told.lock().unwrap(), [Retry, Pressure::None].map(|pressure| (0, pressure)));
}

#[test]
fn a_second_worker_is_not_late_because_the_first_is() {
    let told = Arc::<Mutex<Vec<_>>>::default();
    let acceptor: Arc<dyn Acceptor> = Arc::new(Listens(told.clone()));
    let limits = LaneLimits { queue_delay_max: Duration::from_millis(10), ..LaneLimits::default() };
    let mut scene = Scene::with_acceptor(2, limits, &server_config(), &acceptor);
    late(&mut scene, 150, 64 * 12);
    scene.servers[1].turn(scene.now).unwrap();
    assert_eq!(*told.lock().unwrap(), [(0, Pressure::Retry)]);
    assert_eq!(scene.servers[1].lane().counters().pressure, 0);
}

#[test]
fn new_connections_are_refused_at_the_application_s_wish_and_others_go_on() {
    let (mut scene, handles) = established(LaneLimits::default(), 1);
    for which in 0..2 {
        let wish = scene.servers[0].lane().listeners[0].refusing[which].clone();
        wish.store(true, Ordering::Relaxed);
        scene.client_log.lock().unwrap().clear();
        scene.connect(None);
        ask(&handles[0]);
        scene.run(20);
        let told = scene.told_client();
        let refused =
            |told: &Told| matches!(told, Told::Closed(CloseReason::PeerTransport { code: 2, .. }));
        assert!(told.iter().any(refused), "{told:?}");
        assert!(told.iter().any(|told| matches!(told, Told::Data(_, _, true))), "{told:?}");
        wish.store(false, Ordering::Relaxed);
        scene.connect(None);
        scene.run(20);
        assert_eq!(scene.counters().connections, 2 + which as u64);
    }
    let counters = scene.counters();
    assert_eq!((counters.refused_by_wish, counters.refused_pressure), (2, 0));
    assert_eq!(scene.servers[0].lane().endpoint_stats().refusals, 2);
}

#[test]
fn a_refusal_is_limited_in_rate_and_shorter_than_what_it_answers() {
    let mut config = server_config();
    config.answers.refusals = 10;
    let mut scene = Scene::with_config(1, LaneLimits::default(), &config);
    scene.servers[0].lane().listeners[0].refusing[0].store(true, Ordering::Relaxed);
    let all =
        (0..20).flat_map(|n| scene.inject(anywhere(n), &initial(Kind::Ping, id(n.into()), b"", 0)));
    let all: Vec<_> = all.collect();
    assert!(!all.is_empty() && all.iter().all(|answer| answer.len() < 100), "{all:?}");
    let stats = scene.servers[0].lane().endpoint_stats();
    assert_eq!((stats.refusals, stats.limited_refusals), (all.len() as u64, 20 - all.len() as u64));
    // What could not begin a connection gets no answer.
    scene.now = scene.now.plus_ns(SECOND_NS);
    let small = initial(Kind::Ping, id(50), b"", 0);
    assert!(scene.inject(anywhere(50), &small[..1_199]).is_empty());
}

#[test]
fn a_health_check_is_answered_shorter_than_it_is_and_at_a_limited_rate() {
    let mut config = server_config();
    config.health = Some(HealthCheck::new(*b"0 alive?", *b"yes").unwrap());
    config.answers.health_checks = 30;
    let mut scene = Scene::with_config(1, LaneLimits::default(), &config);
    let long = [&b"0 alive?"[..], &[7; 200]].concat();
    for question in [&b"0 alive?"[..], b"0 alive? yes", &long] {
        assert_eq!(scene.inject(anywhere(1), question), [b"yes"]);
    }
    for other in [&b"0 alive"[..], b"0 alive!", b"1 alive?", &[0x30; 100], b""] {
        assert!(scene.inject(anywhere(2), other).is_empty(), "{other:?}");
    }
    let lane = scene.servers[0].lane();
    lane.listeners[0].refusing[0].store(true, Ordering::Relaxed);
    assert_eq!(scene.inject(anywhere(1), b"0 alive?").len(), 0, "three of 30 a second at once");
    scene.now = scene.now.plus_ns(SECOND_NS);
    assert_eq!(scene.inject(anywhere(1), b"0 alive?").len(), 1, "also while it refuses");
    let (counters, stats) = (scene.counters(), scene.servers[0].lane().endpoint_stats());
    assert_eq!((stats.health_checks, stats.limited_health_checks), (4, 1));
    assert_eq!((counters.connections, counters.memory_bytes), (0, 0));
    // To a port of no listener.
    let path = Path { local: ([192, 0, 2, 1], 1).into(), ..meta(anywhere(1)).path };
    let lane = scene.servers[0].lane();
    let meta = RxMeta { path, ..meta(anywhere(1)) };
    assert_eq!(lane.receive(0, &meta, &mut b"0 alive?".to_vec()), Routed::Dropped);
}

#[test]
fn handshakes_that_hold_much_memory_lead_to_retry_until_they_hold_less() {
    let limits = LaneLimits { handshake_memory_bytes: 40_000, ..LaneLimits::default() };
    let mut scene = Scene::new(1, limits);
    let mut begun = 0;
    let retried = loop {
        begun += 1;
        assert!(begun < 40, "{:?}", scene.counters());
        let answers = scene.inject(anywhere(begun), &initial(Kind::Ping, id(begun.into()), b"", 0));
        if answers.first().and_then(|answer| kind(answer)) == Some(PacketType::Retry) {
            break scene.counters();
        }
    };
    assert!(retried.handshake_bytes >= 40_000 && begun > 2, "{begun}: {retried:?}");
    assert_eq!(retried.pressure, Pressure::Retry as u64);
    assert_eq!(retried.handshake_bytes, retried.memory_bytes);
    // They end in their time.
    scene.run(11_000);
    let counters = scene.counters();
    assert_eq!((counters.handshake_bytes, counters.pressure, counters.handshakes), (0, 0, 0));
    // A handshake that is done holds nothing of it: its connection does.
    scene.connect(None);
    scene.run(20);
    let counters = scene.counters();
    assert_eq!((counters.handshake_bytes, counters.connections), (0, 1));
    assert!(counters.memory_bytes > 1_000, "{counters:?}");
}

#[test]
fn a_network_that_begins_too_many_connections_is_asked_for_proof_and_then_not_answered() {
    let limits = LaneLimits { network_new_per_second: 20, ..LaneLimits::default() };
    let mut scene = Scene::new(1, limits);
    let from = |host: u8| std::net::SocketAddr::from(([198, 51, 100, host], 4_000));
    let retries = |scene: &mut Scene| scene.servers[0].lane().endpoint_stats().retries;
    for n in 0..2 {
        scene.inject(from(n), &initial(Kind::Ping, id(n.into()), b"", 0));
    }
    assert_eq!((scene.counters().handshakes, retries(&mut scene)), (2, 0));
    // 20 in a second are two at once; proven addresses have two of their own.
    for n in 10..12 {
        assert!(!scene.begin_proven(from(n), n.into()).is_empty());
    }
    assert_eq!((scene.counters().handshakes, retries(&mut scene)), (4, 2));
    assert_eq!(scene.begin_proven(from(12), 12), Vec::<Vec<u8>>::new());
    assert_eq!((scene.counters().refused_rate, scene.counters().handshakes), (1, 4));
    // Another network is another matter.
    scene.inject(anywhere(1), &initial(Kind::Ping, id(50), b"", 0));
    assert_eq!((scene.counters().handshakes, retries(&mut scene)), (5, 3));
}
