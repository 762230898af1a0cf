//! Connections that follow their datagrams from worker to worker, on the kernel's sockets: what the
//! kernel receives on a CPU goes to the worker that is pinned there. Over loopback the sender's CPU
//! receives, so the client's thread chooses the worker.

use super::*;
use quiclane::exec::{Progress, WorkerStatus};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

const CONNECTIONS: usize = 64;
const REQUEST_BYTES: usize = 3_000;

/// Keeps the calling thread on one CPU.
fn stay_on(cpu: u32) {
    let me = std::fs::read_link("/proc/thread-self").unwrap();
    let thread = me.file_name().unwrap().to_str().unwrap();
    let taskset = Command::new("taskset").args(["-p", "-c", &cpu.to_string(), thread]).output();
    assert!(taskset.unwrap().status.success());
}

/// What the server's applications share.
#[derive(Default)]
struct Board {
    handles: Mutex<Vec<Handle>>,
    moves: AtomicU64,
    calls: AtomicU64,
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
struct Asking {
    at: usize,
    answers: Arc<AtomicU64>,
}

/// A byte of an answer, and of the request.
fn byte(at: usize) -> u8 {
    (at % 251) as u8
}

impl Asking {
    fn ask(&mut self, connection: &mut ConnectionRef<'_>) {
        self.at = 0;
        let request: Vec<u8> = (0..REQUEST_BYTES).map(byte).collect();
        // The peer's limit on streams is raised as they close.
        let Ok(stream) = connection.streams().open(Dir::Bi) else { return };
        connection.streams().send(stream, request.into(), true).unwrap();
    }
}

impl Handler for Asking {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _: bool) {
        self.ask(connection);
    }

    fn streams_available(&mut self, connection: &mut ConnectionRef<'_>, _: Dir) {
        self.ask(connection);
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

fn connections(rows: &[WorkerStatus]) -> Vec<u64> {
    rows.iter().map(|row| row.counters.lane.connections).collect()
}

#[test]
fn connections_follow_the_cpu_that_their_datagrams_arrive_on() {
    let (server_config, client_config) = configs();
    let config = RegistrationConfig { polling: Polling::Sleep, ..RegistrationConfig::udp(2) };
    let server = open(config);
    let cpus: Vec<u32> = server.status().iter().map(|row| row.cpu.unwrap()).collect();
    let board = Arc::new(Board::default());
    let shared = board.clone();
    let accept = move |_: &quiclane::exec::NewConnection| {
        Some(Box::new(Server { board: shared.clone(), last: [0; 2] }) as Box<dyn Handler>)
    };
    let listener = server.listen(any_port(), &server_config, accept).unwrap();
    // The test turns the client's worker itself.
    let (client, seeds) = Registration::open_without_threads(workers(1)).unwrap();
    let mut turning = seeds.into_iter().next().unwrap().start().unwrap();
    let answers = Arc::new(AtomicU64::new(0));
    stay_on(cpus[0]);
    for _ in 0..CONNECTIONS {
        let asking = Asking { at: 0, answers: answers.clone() };
        client.connect(listener.local_addr(), "localhost", &client_config, asking).unwrap();
    }
    let begun = std::time::Instant::now();
    let mut turn_until = |done: &mut dyn FnMut() -> bool| {
        while !done() {
            assert_eq!(turning.turn(Some(Duration::from_millis(1))), Progress::Running);
            assert!(begun.elapsed() < PATIENCE, "it takes too long");
        }
    };
    turn_until(&mut || connections(&server.status()) == [CONNECTIONS as u64, 0]);
    turn_until(&mut || board.handles.lock().unwrap().len() == CONNECTIONS);
    let stop = Arc::new(AtomicBool::new(false));
    let posting = post(&board, &stop);
    for round in 1..5 {
        let home = round % 2;
        stay_on(cpus[home]);
        turn_until(&mut || connections(&server.status())[home] == CONNECTIONS as u64);
        // From now on nothing arrives at the wrong worker, and all are served on.
        let wrong = |rows: &[WorkerStatus]| -> u64 {
            rows.iter().map(|row| row.counters.lane.rx_wrong_queue).sum()
        };
        let (settled, before) = (wrong(&server.status()), answers.load(Ordering::Relaxed));
        turn_until(&mut || answers.load(Ordering::Relaxed) > before + 50 * CONNECTIONS as u64);
        // What was on its way when the last one moved.
        let late = wrong(&server.status()) - settled;
        assert!(late <= 256, "{late} datagrams at the wrong worker");
        assert_eq!(board.moves.load(Ordering::Relaxed), (round * CONNECTIONS) as u64);
    }
    stop.store(true, Ordering::Relaxed);
    let calls: u64 = posting.into_iter().map(|thread| thread.join().unwrap()).sum();
    let calls = calls * CONNECTIONS as u64;
    turn_until(&mut || board.calls.load(Ordering::Relaxed) == calls);
    for row in server.status() {
        let lane = row.counters.lane;
        assert_eq!((lane.rx_wrong_queue_dropped, lane.rx_wrong_queue_share), (0, 0));
        assert_eq!((lane.commands_late, lane.moves_declined), (0, 0));
    }
    std::thread::scope(|threads| {
        let ending = threads.spawn(|| client.shutdown(0, PATIENCE));
        while turning.turn(Some(Duration::from_millis(1))) == Progress::Running {}
        ending.join().unwrap();
    });
    status_until(&server, |rows| rows.iter().all(|row| row.connections == 0));
}
