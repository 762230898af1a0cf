//! Streams, as a handler meets them.

use super::*;
use crate::exec::{Acceptor, NewConnection, Refusal, StreamHandler};
use crate::proto::connection::TransportConfig;
use crate::proto::streams::{SendError, StreamsRef};
use crate::wire::{Dir, StreamId};
use bytes::BytesMut;
use std::sync::Mutex;

/// What a handler was told of streams, in words.
type Words = Arc<Mutex<Vec<String>>>;

type Begin = Box<dyn FnMut(&mut StreamsRef<'_>) + Send>;

/// Begins as the test wants it, and writes down what it is told.
struct Listener {
    words: Words,
    begin: Begin,
}

impl Listener {
    fn new(begin: impl FnMut(&mut StreamsRef<'_>) + Send + 'static) -> (Box<Self>, Words) {
        let words = Words::default();
        (Box::new(Self { words: words.clone(), begin: Box::new(begin) }), words)
    }

    fn tell(&self, what: String) {
        self.words.lock().unwrap().push(what);
    }
}

fn told(words: &Words) -> Vec<String> {
    words.lock().unwrap().clone()
}

impl Handler for Listener {
    fn connected(&mut self, c: &mut ConnectionRef<'_>, _: bool) {
        (self.begin)(&mut c.streams());
    }

    fn send_complete(
        &mut self,
        _: &mut ConnectionRef<'_>,
        stream: StreamId,
        context: u64,
        cancelled: bool,
    ) {
        self.tell(format!("complete {} {context} {cancelled}", stream.raw()));
    }

    fn send_ready(&mut self, c: &mut ConnectionRef<'_>, stream: StreamId) {
        let taken = c.streams().send_copy(stream, &[4; 1_000], true);
        self.tell(format!("ready {} {taken:?}", stream.raw()));
    }

    fn refused(&mut self, _: &mut ConnectionRef<'_>, refusal: Refusal) {
        self.tell(format!("{refusal:?}"));
    }

    fn streams_available(&mut self, c: &mut ConnectionRef<'_>, dir: Dir, count: u64) {
        assert_eq!(count, c.streams().available(dir));
        self.tell(format!("available {dir:?} {count}"));
    }

    fn stream_closed(&mut self, c: &mut ConnectionRef<'_>, stream: StreamId, context: u64) {
        let over = c.is_closed();
        self.tell(format!("stream closed {} {context} {over}", stream.raw()));
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, _: CloseReason) {
        self.tell("closed".to_owned());
    }
}

#[test]
fn sends_complete_one_by_one_and_the_end_cancels_the_others() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let (handler, words) = Listener::new(|streams| {
        for number in 0..2 {
            let stream = streams.open(Dir::Bi).unwrap();
            streams.set_context(stream, 10 + number);
            let data = Bytes::from(vec![1; 5_000]);
            streams.send_tracked(stream, data.clone(), false, 2 * number).unwrap();
            streams.send_tracked(stream, data, number == 0, 2 * number + 1).unwrap();
        }
    });
    let handle = scene.connect_with(handler);
    scene.run(30);
    let done = ["complete 0 0 false", "complete 0 1 false"];
    let others = ["complete 4 2 false", "complete 4 3 false", "stream closed 0 10 false"];
    let mut now = told(&words);
    now.sort();
    assert_eq!(now, [&done[..], &others[..]].concat());
    let stream = StreamId::from_raw(4);
    handle.send_tracked(stream, Bytes::from_static(b"late"), true, 7).unwrap();
    handle.close(1, Bytes::new()).unwrap();
    scene.run(1);
    let end = ["complete 4 7 true", "stream closed 4 11 true", "closed"];
    assert_eq!(told(&words)[5..], end);
}

/// A client's settings with these of the transport's.
fn client_with(transport: TransportConfig) -> ClientConfig {
    ClientConfig { transport: Arc::new(transport), ..client_config() }
}

#[test]
fn copied_sends_find_room_again_and_arrive_whole() {
    let mut scene = Scene::new(1, LaneLimits::default());
    let config =
        client_with(TransportConfig { send_copy_bytes: 10_000, ..TransportConfig::default() });
    let (handler, words) = Listener::new(|streams| {
        let stream = streams.open(Dir::Bi).unwrap();
        for _ in 0..600 {
            assert_eq!(streams.send_copy(stream, &[3; 10], false), Ok(10));
        }
        assert_eq!(streams.send_copy(stream, &[3; 9_000], false), Ok(4_000));
        let full = Err(SendError::Full { limit: 10_000 });
        assert_eq!(streams.send_copy(stream, b"more", false), full);
    });
    let handle = scene.connect_as(&config, handler);
    scene.run(40);
    assert_eq!(told(&words)[..1], ["ready 0 Ok(1000)"]);
    let got: usize = scene.told_server().iter().map(bytes_of).sum();
    assert_eq!(got, 6_000 + 4_000 + 1_000);

    words.lock().unwrap().clear();
    handle.open(Dir::Bi, |_, stream| assert!(stream.is_ok())).unwrap();
    let stream = StreamId::from_raw(4);
    handle.send_copy(stream, &[3; 10_001], false).unwrap();
    handle.send_copy(stream, &[3; 10_000], false).unwrap();
    scene.run(40);
    let refused = Refusal::Send { stream, error: SendError::TooLarge { limit: 10_000 } };
    // The first would never fit: nothing waits for it.
    assert_eq!(told(&words), [format!("{refused:?}")]);
    handle.send_copy(stream, &[3; 5_000], false).unwrap();
    handle.send_copy(stream, &[3; 5_001], false).unwrap();
    scene.run(40);
    let refused = Refusal::Send { stream, error: SendError::Full { limit: 10_000 } };
    assert_eq!(told(&words)[1..3], [format!("{refused:?}"), "ready 4 Ok(1000)".to_owned()]);
    let got: usize = scene.told_server().iter().map(bytes_of).sum();
    assert_eq!(got, 11_000 + 10_000 + 6_000);
}

/// Bytes of stream data.
fn bytes_of(told: &Told) -> usize {
    if let Told::Data(_, data, _) = told { data.len() } else { 0 }
}

/// A server's application that makes more of streams, and sends nothing.
struct Taker {
    words: Words,
    /// Reads what it left, at this interval.
    reads: Option<Duration>,
    received: usize,
}

/// A stream that a server takes into memory of its own.
struct IntoMemory(Words);

impl IntoMemory {
    fn tell(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }
}

impl StreamHandler for IntoMemory {
    fn data(&mut self, _: &mut ConnectionRef<'_>, _: StreamId, _: &[u8], _: bool) -> usize {
        panic!("its memory is provided");
    }

    fn buffer_filled(
        &mut self,
        _: &mut ConnectionRef<'_>,
        stream: StreamId,
        buffer: BytesMut,
        len: usize,
        fin: bool,
    ) {
        assert!(buffer[..len].iter().all(|byte| u64::from(*byte) == stream.raw() + 1));
        self.tell(format!("filled {} {len} of {} {fin}", stream.raw(), buffer.len()));
    }

    fn receive_buffer_needed(&mut self, c: &mut ConnectionRef<'_>, stream: StreamId) {
        c.streams().provide(stream, BytesMut::zeroed(2_500)).unwrap();
        self.tell(format!("needed {}", stream.raw()));
    }

    fn closed(&mut self, c: &mut ConnectionRef<'_>, stream: StreamId, _: u64) {
        assert!(!c.set_stream_handler(stream, Box::new(Self(self.0.clone()))), "it is gone");
        self.tell(format!("own {} closed", stream.raw()));
    }
}

impl Drop for IntoMemory {
    fn drop(&mut self) {
        self.tell("dropped".to_owned());
    }
}

impl Handler for Taker {
    fn stream_opened(&mut self, c: &mut ConnectionRef<'_>, stream: StreamId) {
        if self.reads.is_none() {
            c.streams().provide(stream, BytesMut::zeroed(4_000)).unwrap();
            assert!(c.set_stream_handler(stream, Box::new(IntoMemory(self.words.clone()))));
        }
    }

    fn stream_data(&mut self, c: &mut ConnectionRef<'_>, s: StreamId, _: &[u8], _: bool) -> usize {
        c.set_timer(self.reads.unwrap(), s.raw());
        0
    }

    fn timer(&mut self, c: &mut ConnectionRef<'_>, token: u64) {
        let (stream, mut part) = (StreamId::from_raw(token), [0; 1_000]);
        let (len, fin) = c.streams().read(stream, &mut part).unwrap();
        self.received += len;
        assert_eq!(c.streams().received(stream).unwrap_or(20_000), self.received as u64);
        if fin {
            self.words.lock().unwrap().push(format!("read {}", self.received));
        } else if len > 0 {
            c.set_timer(self.reads.unwrap(), token);
        }
    }

    fn stream_closed(&mut self, _: &mut ConnectionRef<'_>, stream: StreamId, _: u64) {
        self.words.lock().unwrap().push(format!("closed {}", stream.raw()));
    }

    fn peer_needs_streams(&mut self, c: &mut ConnectionRef<'_>, dir: Dir) {
        let granted = c.streams().grant_streams(dir, 2);
        self.words.lock().unwrap().push(format!("needs {dir:?}, may have {granted}"));
    }
}

/// A scene whose server takes data like this, with these settings.
fn scene_with(reads: Option<Duration>, transport: TransportConfig) -> (Scene, Words) {
    let words = Words::default();
    let shared = words.clone();
    let acceptor: Arc<dyn Acceptor> = Arc::new(move |_: &NewConnection<'_>| {
        Some(Box::new(Taker { words: shared.clone(), reads, received: 0 }) as Box<dyn Handler>)
    });
    let config = ServerConfig { transport: Arc::new(transport), ..server_config() };
    (Scene::with_acceptor(1, LaneLimits::default(), &config, &acceptor), words)
}

/// Sends so much on each of some unidirectional streams.
fn sends(streams: &mut StreamsRef<'_>, count: usize, len: usize) {
    for _ in 0..count {
        let stream = streams.open(Dir::Uni).unwrap();
        streams.send(stream, vec![stream.raw() as u8 + 1; len].into(), true).unwrap();
    }
}

#[test]
fn a_streams_own_handler_gets_its_callbacks_and_memory_is_filled() {
    let (mut scene, words) = scene_with(None, TransportConfig::default());
    let (handler, _) = Listener::new(|streams| sends(streams, 1, 9_500));
    let handle = scene.connect_with(handler);
    scene.run(30);
    let whole = [
        "filled 2 4000 of 4000 false",
        "needed 2",
        "filled 2 2500 of 2500 false",
        "needed 2",
        "filled 2 2500 of 2500 false",
        "needed 2",
        "filled 2 500 of 2500 true",
        "own 2 closed",
        "dropped",
    ];
    // The first is made to show that a closed stream takes none.
    let said: Vec<_> = told(&words);
    assert_eq!(said.iter().filter(|word| *word != "dropped").count(), whole.len() - 1);
    assert_eq!(said[..7], whole[..7]);
    assert_eq!(said.last().unwrap(), "dropped");

    // One that is cut off by the end of the connection.
    words.lock().unwrap().clear();
    handle
        .open(Dir::Uni, |c, stream| {
            c.streams().send(stream.unwrap(), vec![7; 100].into(), false).unwrap();
        })
        .unwrap();
    scene.run(5);
    assert!(told(&words).is_empty());
    handle.close(1, Bytes::new()).unwrap();
    scene.run(5);
    let cut = ["filled 6 100 of 4000 false", "dropped", "own 6 closed", "dropped"];
    assert_eq!(told(&words), cut);
}

#[test]
fn a_panic_in_a_streams_own_handler_ends_its_connection() {
    struct Faulty;
    impl StreamHandler for Faulty {
        fn acknowledged(&mut self, _: &mut ConnectionRef<'_>, _: StreamId, _: u64, _: bool) {
            panic!("as the test wants it");
        }
    }
    let mut scene = Scene::new(1, LaneLimits::default());
    let handle = scene.connect(None);
    let other = scene.connect(Some(b"hello"));
    scene.run(10);
    let fails = |c: &mut ConnectionRef<'_>| {
        let stream = c.streams().open(Dir::Bi).unwrap();
        assert!(c.set_stream_handler(stream, Box::new(Faulty)));
        c.streams().send(stream, Bytes::from_static(b"x"), false).unwrap();
    };
    handle.run(fails).unwrap();
    scene.run(10);
    assert!(handle.is_closed() && !other.is_closed());
    assert_eq!(scene.client.lane().counters().callback_panics, 1);
}

#[test]
fn streams_are_granted_when_the_peer_needs_them() {
    let few = TransportConfig { uni_streams: 1, ..TransportConfig::default() };
    let (mut scene, words) = scene_with(None, few);
    let (handler, client_words) = Listener::new(|streams| {
        sends(streams, 1, 10);
        assert!(streams.open(Dir::Uni).is_err());
    });
    let handle = scene.connect_with(handler);
    scene.run(10);
    assert!(told(&words).contains(&"needs Uni, may have 3".to_owned()), "{:?}", told(&words));
    assert!(told(&client_words).iter().any(|word| word.starts_with("available Uni")));
    handle.run(|c| sends(&mut c.streams(), 2, 10)).unwrap();
    scene.run(10);
    assert!(!handle.is_closed());
}

/// How often windows of the server's first connection grew.
fn grown(scene: &mut Scene) -> u64 {
    let (_, entry) = scene.servers[0].lane().table.get_slot(0).unwrap();
    entry.connection.streams_stats().windows_grown
}

/// Sends 4 MB through windows that begin at 16 KiB, over a round trip of 2 ms. How many milliseconds it
/// takes, and how often windows grew.
fn transfer(grows: u32) -> (u64, u64) {
    let transport = TransportConfig {
        stream_window_bytes: 16 << 10,
        connection_window_bytes: 32 << 10,
        stream_window_max_bytes: 16 << grows << 10,
        connection_window_max_bytes: 32 << grows << 10,
        ..TransportConfig::default()
    };
    let config = ServerConfig { transport: Arc::new(transport), ..server_config() };
    let mut scene = Scene::with_config(1, LaneLimits::default(), &config);
    static DATA: &[u8] = &[8; 4_000_000];
    scene.connect(Some(DATA));
    let mut ms = 0;
    let all = |told: &Told| matches!(told, Told::Data(_, _, true));
    while !scene.server_log.lock().unwrap().iter().any(all) {
        scene.step();
        ms += 1;
        assert!(ms < 10_000);
    }
    (ms, grown(&mut scene))
}

#[test]
fn windows_grow_until_they_limit_nothing() {
    let (fixed, none) = transfer(0);
    let (tuned, grown) = transfer(10);
    assert_eq!(none, 0);
    // By the shortest round trip they stop a step earlier than by an average.
    assert!(grown >= 7 && tuned * 4 < fixed, "{tuned} ms of {fixed}, {grown} times");
}

#[test]
fn a_slow_reader_reads_all_and_no_window_grows() {
    let small = TransportConfig {
        stream_window_bytes: 2_000,
        connection_window_bytes: 4_000,
        ..TransportConfig::default()
    };
    let (mut scene, words) = scene_with(Some(Duration::from_millis(50)), small);
    let (handler, _) = Listener::new(|streams| sends(streams, 1, 20_000));
    scene.connect_with(handler);
    scene.run(1_500);
    assert_eq!(told(&words), ["read 20000", "closed 2"]);
    assert_eq!(grown(&mut scene), 0);
}
