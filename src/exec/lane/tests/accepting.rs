//! What a listener is told of its clients, and what it may answer, at once and later.

use super::forged::{anywhere, bytes_of, hello, id, initial_of};
use super::*;
use crate::exec::api::{Acceptor, Decision, Deferred, NewConnection};
use crate::proto::connection::TransportConfig;
use crate::proto::crypto::{ClientTls, ServerTls};
use crate::time::MILLISECOND_NS;
use crate::wire::frame::Frame;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// What an acceptor saw of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    name: Option<String>,
    protocols: Vec<Vec<u8>>,
    hello: Vec<u8>,
}

/// Notes what it sees, and answers with `decide`.
struct Judge<F> {
    seen: Arc<Mutex<Vec<Seen>>>,
    stopped: Arc<AtomicU64>,
    decide: F,
}

impl<F: Fn(&NewConnection<'_>) -> Decision + Send + Sync + 'static> Acceptor for Judge<F> {
    fn accept(&self, client: &NewConnection<'_>) -> Decision {
        assert_eq!(client.remote, CLIENT.into());
        self.seen.lock().unwrap().push(Seen {
            name: client.server_name().map(Into::into),
            protocols: client.protocols().map(Into::into).collect(),
            hello: client.client_hello().into(),
        });
        (self.decide)(client)
    }

    fn stopped(&self) {
        self.stopped.fetch_add(1, Ordering::Relaxed);
    }
}

/// A scene whose listener decides like this, and what it saw.
fn scene_with(
    limits: LaneLimits,
    decide: impl Fn(&NewConnection<'_>) -> Decision + Send + Sync + 'static,
) -> (Scene, Arc<Mutex<Vec<Seen>>>) {
    let seen = Arc::<Mutex<Vec<Seen>>>::default();
    let acceptor: Arc<dyn Acceptor> =
        Arc::new(Judge { seen: seen.clone(), stopped: Arc::default(), decide });
    (Scene::with_acceptor(1, limits, &server_config(), &acceptor), seen)
}

fn offering(protocols: &[&str]) -> ClientConfig {
    let tls = ClientTls::builder().dangerous_insecure().alpn(protocols).build().unwrap();
    ClientConfig::new(tls)
}

/// A configuration of a host that speaks `protocol`, with a window of its own.
fn host(protocol: &str, window: u64) -> ServerConfig {
    let identity = quiclane_testkit::Identity::new();
    let tls = ServerTls::builder()
        .certificate_der(&[&identity.certificate], &identity.key)
        .unwrap()
        .alpn([protocol])
        .build()
        .unwrap();
    let transport = TransportConfig { connection_window_bytes: window, ..Default::default() };
    ServerConfig { transport: Arc::new(transport), ..ServerConfig::new(tls) }
}

/// The code that the client was closed with by the transport.
fn refusal(scene: &Scene) -> Option<u64> {
    scene.told_client().iter().find_map(|told| match told {
        Told::Closed(CloseReason::PeerTransport { code, .. }) => Some(*code),
        _ => None,
    })
}

#[test]
fn a_listener_sees_what_a_client_asks_for_and_chooses_its_configuration() {
    let log = crate::exec::testing::Log::default();
    let noted = log.clone();
    let other = host("other", 12_345);
    let (mut scene, seen) = scene_with(LaneLimits::default(), move |client| {
        let handler = Box::new(Scribe { echo: true, ..Scribe::new(&noted) });
        match client.protocols().any(|name| name == b"other") {
            true => Decision::AcceptWith(handler, other.clone()),
            false => Decision::Accept(handler),
        }
    });
    for (protocols, agreed) in [(&["test", "x"][..], "test"), (&["y", "other"], "other")] {
        scene.client_log.lock().unwrap().clear();
        let handler = Scribe {
            first_message: Some(Bytes::from_static(b"hello")),
            ..Scribe::new(&scene.client_log)
        };
        let handle = scene.connect_as(&offering(protocols), Box::new(handler));
        scene.run(20);
        let told = scene.told_client();
        let echoed = |told: &Told| matches!(told, Told::Data(_, data, true) if data == b"hello");
        assert!(told.iter().any(echoed), "{told:?}");
        let alpn = Arc::new(Mutex::new(None));
        let write = alpn.clone();
        handle
            .run(move |c| {
                *write.lock().unwrap() = c.alpn().map(<[u8]>::to_vec);
            })
            .unwrap();
        scene.run(2);
        assert_eq!(alpn.lock().unwrap().as_deref(), Some(agreed.as_bytes()));
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1].name.as_deref(), Some("localhost"));
    assert_eq!(seen[1].protocols, [&b"y"[..], b"other"]);
    assert_eq!((seen[1].hello[0], seen[1].hello.len() > 200), (1, true));
    let counters = scene.servers[0].lane().counters();
    assert_eq!((counters.accepted, counters.connections, counters.handshakes), (2, 2, 0));
}

#[test]
fn a_client_is_told_the_alert_that_the_listener_chooses() {
    for (decision, code) in [(Decision::RefuseWithAlert(112), 0x170), (Decision::Refuse, 2)] {
        let decision = Mutex::new(Some(decision));
        let (mut scene, _) = scene_with(LaneLimits::default(), move |_| {
            decision.lock().unwrap().take().unwrap_or(Decision::Later)
        });
        scene.connect(None);
        scene.run(5);
        assert_eq!(refusal(&scene), Some(code));
        assert!(scene.servers[0].lane().is_empty());
        // `Later` without a word who answers is a refusal.
        scene.client_log.lock().unwrap().clear();
        scene.connect(None);
        scene.run(5);
        assert_eq!(refusal(&scene), Some(2));
        let counters = scene.servers[0].lane().counters();
        assert_eq!((counters.refused_by_acceptor, counters.accepted, counters.deferred), (2, 0, 0));
        assert_eq!((counters.handshakes, counters.handshakes_failed), (0, 2));
    }
}

#[test]
fn a_client_hello_over_two_datagrams_is_seen_once_and_whole() {
    let log = crate::exec::testing::Log::default();
    let (mut scene, seen) = scene_with(LaneLimits::default(), move |_| {
        Decision::accept(Scribe { echo: true, ..Scribe::new(&log) })
    });
    let long: Vec<String> = (0..20).map(|n| format!("{n:0100}")).collect();
    let mut protocols: Vec<&str> = long.iter().map(String::as_str).collect();
    protocols.push("test");
    let handler = Scribe {
        first_message: Some(Bytes::from_static(b"hello")),
        ..Scribe::new(&scene.client_log)
    };
    scene.connect_as(&offering(&protocols), Box::new(handler));
    scene.run(20);
    let echoed = |told: &Told| matches!(told, Told::Data(_, data, true) if data == b"hello");
    assert!(scene.told_client().iter().any(echoed), "{:?}", scene.told_client());
    let seen = seen.lock().unwrap();
    assert_eq!((seen.len(), seen[0].protocols.len()), (1, 21));
    assert!(seen[0].hello.len() > 2_000);
    assert_eq!(scene.servers[0].lane().counters().connections, 1);
}

/// A scene whose listener lets clients wait, and those that wait.
fn waiting() -> (Scene, Arc<Mutex<Vec<Deferred>>>) {
    let kept = Arc::<Mutex<Vec<Deferred>>>::default();
    let keep = kept.clone();
    let (scene, _) = scene_with(LaneLimits::default(), move |client| {
        keep.lock().unwrap().push(client.defer());
        Decision::Later
    });
    (scene, kept)
}

#[test]
fn a_client_waits_for_its_answer_and_asks_for_it_no_second_time() {
    let (mut scene, kept) = waiting();
    let handle = scene.connect(Some(b"hello"));
    // Its Initial is acknowledged: it asks ever more rarely whether the server still lives.
    let mut sent = 0;
    for _ in 0..8_000 {
        sent += scene.step_by(|_| 0);
    }
    assert!(sent < 30, "{sent} datagrams");
    assert_eq!(kept.lock().unwrap().len(), 1);
    let deferred = kept.lock().unwrap().pop().unwrap();
    assert!(!deferred.is_closed());
    let server_log = scene.server_log.clone();
    let thread = std::thread::spawn(move || {
        let handler = Scribe { echo: true, ..Scribe::new(&server_log) };
        deferred.answer(Decision::accept(handler)).unwrap()
    });
    let server_handle = thread.join().unwrap();
    scene.run(500);
    let echoed = |told: &Told| matches!(told, Told::Data(_, data, true) if data == b"hello");
    assert!(scene.told_client().iter().any(echoed), "{:?}", scene.told_client());
    server_handle.wake(7).unwrap();
    scene.run(2);
    assert!(scene.told_server().contains(&Told::Woken(7)), "the handle reaches the connection");
    let counters = scene.servers[0].lane().counters();
    assert_eq!((counters.deferred, counters.accepted, counters.connections), (1, 1, 1));
    assert!(!handle.is_closed());
}

#[test]
fn a_client_that_nobody_answers_is_turned_away() {
    let (mut scene, kept) = waiting();
    scene.connect(None);
    scene.run(50);
    // Dropped.
    kept.lock().unwrap().clear();
    scene.run(50);
    assert_eq!(refusal(&scene), Some(2));
    let counters = scene.servers[0].lane().counters();
    assert_eq!((counters.refused_by_acceptor, counters.accepted), (1, 0));

    // It has waited for longer than a handshake may take: the answer comes back.
    scene.connect(None);
    scene.run(60_000);
    let deferred = kept.lock().unwrap().pop().unwrap();
    assert!(deferred.is_closed());
    let late = deferred.answer(Decision::RefuseWithAlert(112)).unwrap_err();
    assert_eq!(late.error, HandleError::Closed);
    assert!(matches!(late.decision, Decision::RefuseWithAlert(112)));
    assert!(scene.servers[0].lane().is_empty());
    assert_eq!(scene.servers[0].lane().counters().handshakes, 0);
}

#[test]
fn a_refusal_that_is_lost_is_said_again_when_the_client_asks() {
    let (mut scene, kept) = waiting();
    scene.connect(None);
    scene.run(50);
    kept.lock().unwrap().clear();
    scene.now = scene.now.plus_ns(MILLISECOND_NS);
    scene.servers[0].turn(scene.now).unwrap();
    assert_eq!(take_sent(&mut scene.servers[0]).len(), 1, "the refusal");
    // The client asks whether the server still lives, within a few probe timeouts.
    scene.run(5_000);
    assert_eq!(refusal(&scene), Some(2));
    scene.run(10_000);
    assert!(scene.servers[0].lane().is_empty(), "it is forgotten then");
}

#[test]
fn an_answer_after_the_listener_has_stopped_is_a_refusal() {
    let (mut scene, kept) = waiting();
    scene.connect(None);
    scene.run(50);
    scene.servers[0].lane().stop_listening(0);
    let deferred = kept.lock().unwrap().pop().unwrap();
    let log = crate::exec::testing::Log::default();
    deferred.answer(Decision::accept(Scribe::new(&log))).unwrap();
    scene.run(50);
    assert_eq!(refusal(&scene), Some(2));
    assert_eq!(*log.lock().unwrap(), [Told::NotConnected], "the application is told too");
}

#[test]
fn a_handler_of_a_handshake_that_cannot_go_on_is_told() {
    let log = crate::exec::testing::Log::default();
    let noted = log.clone();
    let (mut scene, _) =
        scene_with(LaneLimits::default(), move |client| match client.server_name() {
            Some(_) => Decision::AcceptWith(Box::new(Scribe::new(&noted)), host("other", 1 << 20)),
            None => Decision::Refuse,
        });
    scene.connect(None);
    scene.run(5);
    // no_application_protocol
    assert_eq!(refusal(&scene), Some(0x178));
    let told = log.lock().unwrap().clone();
    let [Told::Closed(CloseReason::Handshake(_)), Told::Drained(drained)] = &told[..] else {
        panic!("not closed and then drained: {told:?}");
    };
    assert!(!drained.handshake_completed && matches!(drained.reason, CloseReason::Handshake(_)));
    assert!(scene.servers[0].lane().is_empty());
    assert_eq!(scene.servers[0].lane().counters().handshakes_failed, 1);
}

#[test]
fn a_client_that_is_gone_as_its_hello_is_whole_is_not_asked_about() {
    let asked = Arc::new(AtomicU64::new(0));
    let counted = asked.clone();
    let acceptor: Arc<dyn Acceptor> = Arc::new(move |_: &NewConnection<'_>| {
        counted.fetch_add(1, Ordering::Relaxed);
        Some(Box::new(()) as Box<dyn Handler>)
    });
    let mut scene = Scene::with_acceptor(1, LaneLimits::default(), &server_config(), &acceptor);
    let hello = hello();
    let (first, rest) = hello.split_at(100);
    for (n, leaves) in [(1, true), (2, false)] {
        let begin = bytes_of(&[Frame::Crypto { offset: 0, data: first }]);
        scene.inject(anywhere(n), &initial_of(&begin, id(n.into()), b"", 0));
        assert_eq!((scene.counters().handshakes, asked.load(Ordering::Relaxed)), (1, 0));
        let mut frames = vec![Frame::Crypto { offset: 100, data: rest }];
        if leaves {
            frames.push(Frame::ConnectionClose { code: 0, frame_type: 0, reason: b"" });
        }
        scene.inject(anywhere(n), &initial_of(&bytes_of(&frames), id(n.into()), b"", 1));
        scene.step();
    }
    assert_eq!((asked.load(Ordering::Relaxed), scene.counters().accepted), (1, 1));
}
