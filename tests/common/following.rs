//! Applications of connections that follow their datagrams from worker to worker: a client that asks
//! without end, a server that echoes, and threads that call it meanwhile.

use super::echo_handler::Echo;
use quiclane::exec::clock::Clock;
use quiclane::exec::{
    ClientConfig, ConnectionRef, Handle, HandleError, Handler, NewConnection, Pin, Polling,
    Progress, Registration, RegistrationConfig, WorkerLoop, WorkerStatus,
};
use quiclane::time::Instant;
use quiclane::{CloseReason, Dir, StreamId};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

const CONNECTIONS: usize = 64;
const REQUEST_BYTES: usize = 3_000;
/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the server's applications share.
#[derive(Default)]
pub(crate) struct Board {
    handles: Mutex<Vec<Handle>>,
    /// How often connections have moved.
    moves: AtomicU64,
    calls: AtomicU64,
}

impl Board {
    /// What a listener is given.
    pub(crate) fn acceptor(
        self: &Arc<Self>,
    ) -> impl Fn(&NewConnection<'_>) -> Option<Box<dyn Handler>> + Send + Sync + 'static {
        let board = self.clone();
        move |_| Some(Box::new(Server { board: board.clone(), last: [0; 2] }) as Box<dyn Handler>)
    }
}

/// Echoes, and checks that the calls of each thread come in their order.
struct Server {
    board: Arc<Board>,
    /// The last call of each thread.
    last: [u64; 2],
}

impl Handler for Server {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _: bool) {
        self.board.handles.lock().unwrap().push(connection.handle());
    }

    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        Echo.stream_data(connection, stream, data, fin)
    }

    fn woken(&mut self, _: &mut ConnectionRef<'_>, token: u64) {
        let (thread, number) = ((token >> 32) as usize, token & 0xffff_ffff);
        assert_eq!(number, self.last[thread] + 1, "a call of thread {thread}");
        self.last[thread] = number;
        self.board.calls.fetch_add(1, Ordering::Relaxed);
    }

    fn moved(&mut self, _: &mut ConnectionRef<'_>, _: usize) {
        self.board.moves.fetch_add(1, Ordering::Relaxed);
    }
}

/// Asks again as soon as it has the answer, and counts.
pub(crate) struct Asking {
    at: usize,
    /// It waits for a stream.
    waits: bool,
    answers: Arc<AtomicU64>,
}

/// A byte of an answer, and of the request.
fn byte(at: usize) -> u8 {
    (at % 251) as u8
}

impl Asking {
    pub(crate) fn new(answers: Arc<AtomicU64>) -> Self {
        Self { at: 0, waits: false, answers }
    }

    fn ask(&mut self, connection: &mut ConnectionRef<'_>) {
        self.at = 0;
        let request: Vec<u8> = (0..REQUEST_BYTES).map(byte).collect();
        // The peer's limit on streams is raised as they close.
        let stream = connection.streams().open(Dir::Bi);
        self.waits = stream.is_err();
        let Ok(stream) = stream else { return };
        connection.streams().send(stream, request.into(), true).unwrap();
    }
}

impl Handler for Asking {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _: bool) {
        self.ask(connection);
    }

    fn streams_available(&mut self, connection: &mut ConnectionRef<'_>, _: Dir, _: u64) {
        if self.waits {
            self.ask(connection);
        }
    }

    fn stream_data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        _: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        assert!(data.iter().enumerate().all(|(n, got)| *got == byte(self.at + n)));
        self.at += data.len();
        if fin {
            assert_eq!(self.at, REQUEST_BYTES);
            self.answers.fetch_add(1, Ordering::Relaxed);
            self.ask(connection);
        }
        data.len()
    }

    fn closed(&mut self, _: &mut ConnectionRef<'_>, reason: CloseReason) {
        assert_eq!(reason, CloseReason::Local { code: 0 });
    }
}

/// Threads that post to all handles until they are told to stop. They return how often each was called.
fn post(board: &Arc<Board>, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<u64>> {
    let one = |thread: u64| {
        let (board, stop) = (board.clone(), stop.clone());
        std::thread::spawn(move || {
            let handles = board.handles.lock().unwrap().clone();
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                for handle in &handles {
                    while handle.wake(thread << 32 | number) == Err(HandleError::Full) {
                        std::thread::yield_now();
                    }
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            number
        })
    };
    (0..2).map(one).collect()
}

/// How many connections each worker has.
fn connections(rows: &[WorkerStatus]) -> Vec<u64> {
    rows.iter().map(|row| row.counters.lane.connections).collect()
}

/// Datagrams that arrived at another worker than their connection's.
fn wrong(rows: &[WorkerStatus]) -> u64 {
    rows.iter().map(|row| row.counters.lane.rx_wrong_queue).sum()
}

/// A client of one worker, which the calling thread turns.
struct Client {
    registration: Registration,
    turning: WorkerLoop,
    answers: Arc<AtomicU64>,
    clock: Clock,
    until: Instant,
}

impl Client {
    fn turn_until(&mut self, mut done: impl FnMut() -> bool) {
        while !done() {
            assert_eq!(
                self.turning.turn_and_sleep(Some(Duration::from_millis(1))),
                Progress::Running
            );
            assert!(self.clock.now() < self.until, "it takes too long");
        }
    }

    fn end(mut self) {
        std::thread::scope(|threads| {
            let ending = threads.spawn(|| self.registration.shutdown(0, PATIENCE));
            while self.turning.turn_and_sleep(Some(Duration::from_millis(1))) == Progress::Running {
            }
            ending.join().unwrap();
        });
    }
}

/// 64 connections ask a server of two workers without end, and two threads call their server sides.
/// `steer` has the client's datagrams arrive at the worker of that number from now on. After each
/// change every connection ends up there, and nothing is handed over any more.
pub(crate) fn all_follow(
    board: &Arc<Board>,
    status: impl Fn() -> Vec<WorkerStatus>,
    remote: SocketAddr,
    config: &ClientConfig,
    steer: impl Fn(usize),
) {
    let udp =
        RegistrationConfig { pin: Pin::Off, polling: Polling::Sleep, ..RegistrationConfig::udp(1) };
    let (registration, seeds) = Registration::open_without_threads(udp).unwrap();
    let turning = seeds.into_iter().next().unwrap().start().unwrap();
    let answers = Arc::new(AtomicU64::new(0));
    let clock = Clock::monotonic();
    let until = clock.now() + PATIENCE;
    let mut client = Client { registration, turning, answers, clock, until };
    steer(0);
    for _ in 0..CONNECTIONS {
        let asking = Asking::new(client.answers.clone());
        client.registration.connect(remote, "localhost", config, asking).unwrap();
    }
    client.turn_until(|| connections(&status()) == [CONNECTIONS as u64, 0]);
    client.turn_until(|| board.handles.lock().unwrap().len() == CONNECTIONS);
    let stop = Arc::new(AtomicBool::new(false));
    let posting = post(board, &stop);
    for round in 1..5 {
        let home = round % 2;
        steer(home);
        client.turn_until(|| connections(&status())[home] == CONNECTIONS as u64);
        let (settled, answers) = (wrong(&status()), client.answers.clone());
        let before = answers.load(Ordering::Relaxed);
        client.turn_until(|| answers.load(Ordering::Relaxed) > before + 50 * CONNECTIONS as u64);
        // What was on its way when the last one moved.
        let late = wrong(&status()) - settled;
        assert!(late <= 256, "{late} datagrams at the wrong worker");
        assert_eq!(board.moves.load(Ordering::Relaxed), (round * CONNECTIONS) as u64);
    }
    stop.store(true, Ordering::Relaxed);
    let calls: u64 = posting.into_iter().map(|thread| thread.join().unwrap()).sum();
    let calls = calls * CONNECTIONS as u64;
    client.turn_until(|| board.calls.load(Ordering::Relaxed) == calls);
    for row in status() {
        let lane = row.counters.lane;
        assert_eq!((lane.rx_wrong_queue_dropped, lane.rx_wrong_queue_share), (0, 0));
        assert_eq!((lane.commands_late, lane.moves_declined), (0, 0));
    }
    client.end();
}
