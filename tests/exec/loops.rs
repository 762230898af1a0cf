//! Workers that a loop of the application turns, and that sleep on a descriptor in it.

use super::*;
use quiclane::exec::{Next, WaitError, WorkerLoop, WorkerSeed};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{TrySendError, sync_channel};

/// Turns a worker until it ends, and waits by `wait`. Returns how many turns it took.
fn drive(mut worker: WorkerLoop, mut wait: impl FnMut(BorrowedFd<'_>, Option<&Timespec>)) -> u64 {
    let mut turns = 0;
    loop {
        turns += 1;
        match worker.turn() {
            Next::Turn => {}
            Next::Wait(until) => {
                let timeout = until.timeout().map(|timeout| timeout.try_into().unwrap());
                wait(worker.as_fd(), timeout.as_ref());
            }
            Next::Ended => return turns,
        }
    }
}

/// Waits in a loop that is told again what it has not taken.
fn level(seed: WorkerSeed) -> u64 {
    drive(seed.start().unwrap(), |fd, timeout| {
        poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], timeout).unwrap();
    })
}

/// Waits in a loop that is told once, as that of tokio.
fn edge(seed: WorkerSeed) -> u64 {
    let worker = seed.start().unwrap();
    let outer = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&outer, &worker, epoll::EventData::new_u64(0), flags).unwrap();
    drive(worker, |_, timeout| {
        let mut events = Vec::with_capacity(8);
        epoll::wait(&outer, rustix::buffer::spare_capacity(&mut events), timeout).unwrap();
    })
}

/// Calls that wait for each other: nothing but the next would wake the worker.
const CALLS: u64 = 500;
/// Longer than a thread takes to post.
const PAUSE: Duration = Duration::from_micros(100);

/// Without a timer a lost wake-up would be waited for for ever.
fn no_wake_up_is_lost(turn: fn(WorkerSeed) -> u64) {
    let (server_config, client_config) = configs();
    let (server, mut seeds) = Registration::open_without_threads(workers(1)).unwrap();
    let seed = seeds.pop().unwrap();
    let own = std::thread::spawn(move || turn(seed));
    let listener = echo_server(&server, &server_config);
    // Every second turn, which often found nothing to do, ends with an invitation and a pause: so many
    // calls come after the turn's look at its inbox and before the sleep.
    let (invite, invited) = sync_channel(0);
    let pause = move |worker: &mut WorkerRef<'_>| {
        let mut is_second = false;
        worker.after_turn(move |_| {
            is_second = !is_second;
            if is_second {
                std::thread::sleep(PAUSE);
                match invite.try_send(()) {
                    Ok(()) => std::thread::sleep(PAUSE),
                    Err(TrySendError::Full(())) => {}
                    Err(TrySendError::Disconnected(())) => return ControlFlow::Break(()),
                }
            }
            ControlFlow::Continue(())
        });
    };
    server.on_worker(0, pause).unwrap();
    let (tell, told) = channel();
    for call in 0..CALLS {
        // A worker that sleeps invites nobody.
        let _ = invited.recv_timeout(10 * PAUSE);
        let tell = tell.clone();
        server.on_worker(0, move |_| tell.send(call).unwrap()).unwrap();
        assert_eq!(told.recv_timeout(PATIENCE), Ok(call));
    }
    // From here on nothing pauses.
    drop(invited);
    // Datagrams wake it as well.
    let client = open(workers(1));
    let (handler, told) = Client::new(vec![7; 1_000_000]);
    client.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
    assert_eq!(echoed(&told), vec![7; 1_000_000]);
    assert!(server.status()[0].counters.turns.sleeps > 0, "{:?}", server.status());
    server.shutdown(0, PATIENCE);
    let turns = own.join().unwrap();
    // The message has about 1,500 datagrams in both directions, and each turn took one at least.
    assert!(turns < 10 * CALLS + 20_000, "{turns} turns: the loop spins");
    wait_for_close(&told);
}

#[test]
fn no_wake_up_is_lost_in_a_level_triggered_loop() {
    no_wake_up_is_lost(level);
}

#[test]
fn no_wake_up_is_lost_in_an_edge_triggered_loop() {
    no_wake_up_is_lost(edge);
}

/// A thread may have several, and is a worker's until the last is dropped.
#[test]
fn one_thread_turns_two_workers() {
    let (server_config, client_config) = configs();
    let (server, server_seeds) = Registration::open_without_threads(workers(1)).unwrap();
    let (client, client_seeds) = Registration::open_without_threads(workers(1)).unwrap();
    let start = |seeds: Vec<WorkerSeed>| seeds.into_iter().next().unwrap().start().unwrap();
    let (mut server_loop, mut client_loop) = (start(server_seeds), start(client_seeds));
    let accept = |_: &quiclane::exec::NewConnection<'_>| Some(Box::new(Echo) as Box<dyn Handler>);
    let own = std::slice::from_mut(&mut server_loop);
    let listener = server.listen_turning(own, any_port(), &server_config, accept).unwrap();
    let (handler, told) = Client::new(&b"across"[..]);
    client.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
    let mut both = |wanted: &mut dyn FnMut() -> bool| {
        while !wanted() {
            let nexts = [server_loop.turn(), client_loop.turn()];
            if nexts.iter().all(|next| matches!(next, Next::Wait(_))) {
                let poll_for = |own| PollFd::new(own, PollFlags::IN);
                let until = nexts.iter().filter_map(|next| match next {
                    Next::Wait(wait) => wait.timeout(),
                    _ => None,
                });
                let timeout = until.min().map(|timeout| timeout.try_into().unwrap());
                poll(&mut [poll_for(&server_loop), poll_for(&client_loop)], timeout.as_ref())
                    .unwrap();
            }
        }
    };
    let mut got = None;
    both(&mut || {
        got = told
            .try_iter()
            .find_map(|t| if let Told::Echoed(data) = t { Some(data) } else { None });
        got.is_some()
    });
    assert_eq!(got.as_deref(), Some(&b"across"[..]));
    client.shutdown(0, PATIENCE);
    while !matches!(client_loop.turn(), Next::Ended) {}
    drop(client_loop);
    let refused = server.listen(any_port(), &server_config, |_| None).unwrap_err();
    assert!(matches!(refused, ListenError::OnWorkerThread), "{refused}");
    server.shutdown(0, PATIENCE);
    while !matches!(server_loop.turn(), Next::Ended) {}
}

#[test]
fn other_threads_wait_for_the_value_of_a_closure() {
    let (server_config, client_config) = configs();
    let server = open(workers(2));
    let listener = echo_server(&server, &server_config);
    let numbers = [0, 1].map(|n| server.on_worker_and_wait(n, |worker| worker.number()));
    assert_eq!(numbers, [Ok(0), Ok(1)]);
    let nobody = server.on_worker_and_wait(2, |_| ());
    assert_eq!(nobody, Err(WaitError::NotPosted(HandleError::Closed)));

    let client = open(workers(1));
    let (handler, told) = Client::new(Bytes::new());
    let remote = listener.local_addr();
    let handle = client.connect(remote, "localhost", &client_config, handler).unwrap();
    connected(&told);
    assert_eq!(handle.run_and_wait(|connection| connection.remote()), Ok(remote));
    handle.close(0, Bytes::new()).unwrap();
    wait_for_close(&told);
    // It is gone, or about to be.
    let late = handle.run_and_wait(|connection| connection.is_closed());
    let gone = Err(WaitError::NotPosted(HandleError::Closed));
    assert!(matches!(late, Ok(true) | Err(WaitError::Dropped)) || late == gone, "{late:?}");
    drop((server, client));
    assert_eq!(handle.run_and_wait(|_| ()), Err(WaitError::NotPosted(HandleError::Closed)));
}

/// Waits in a callback, which it may not.
struct Waiting {
    own: Arc<Mutex<Option<Handle>>>,
    tell: Sender<Result<(), WaitError>>,
}

impl Handler for Waiting {
    fn connected(&mut self, connection: &mut ConnectionRef<'_>, _resumed: bool) {
        let own = connection.handle();
        self.tell.send(own.run_and_wait(|_| ())).unwrap();
        *self.own.lock().unwrap() = Some(own);
    }
}

#[test]
fn waiting_on_a_workers_thread_is_refused_instead_of_hanging() {
    let (server_config, client_config) = configs();
    let server = Arc::new(open(workers(2)));
    let listener = echo_server(&server, &server_config);
    let (tell, told) = channel();
    for worker in 0..2 {
        // For itself, and for the other, which may wait for it.
        let (inner, tell) = (server.clone(), tell.clone());
        let task = move |_: &mut WorkerRef<'_>| {
            tell.send(inner.on_worker_and_wait(worker, |_| ())).unwrap();
        };
        server.on_worker(0, task).unwrap();
        assert_eq!(told.recv_timeout(PATIENCE), Ok(Err(WaitError::OnWorkerThread)));
    }
    let client = open(workers(1));
    let own = Arc::new(Mutex::new(None));
    let handler = Waiting { own: own.clone(), tell };
    client.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
    assert_eq!(told.recv_timeout(PATIENCE), Ok(Err(WaitError::OnWorkerThread)));
    // And in a closure for the connection, which runs on the same thread.
    settled(&client);
    let own = own.lock().unwrap().take().unwrap();
    let inner = own.clone();
    let refused = own.run_and_wait(move |_| inner.run_and_wait(|_| ()));
    assert_eq!(refused, Ok(Err(WaitError::OnWorkerThread)));
    assert!(WaitError::OnWorkerThread.to_string().contains("post_to"));
}

#[test]
fn who_waits_for_a_worker_that_ends_gets_an_error() {
    let (registration, seeds) = Registration::open_without_threads(workers(1)).unwrap();
    std::thread::scope(|threads| {
        let mut worker = seeds.into_iter().next().unwrap().start().unwrap();
        while !matches!(worker.turn(), Next::Wait(_)) {}
        let waiting = threads.spawn(|| registration.on_worker_and_wait(0, |_| ()));
        // The closure is in the inbox, and the worker ends without another turn.
        poll(&mut [PollFd::new(&worker, PollFlags::IN)], None).unwrap();
        drop(worker);
        let refused = waiting.join().unwrap();
        // The worker may end before the post is done.
        let late = Err(WaitError::NotPosted(HandleError::Closed));
        assert!(refused == Err(WaitError::Dropped) || refused == late, "{refused:?}");
    });
    assert_eq!(
        registration.on_worker_and_wait(0, |_| ()),
        Err(WaitError::NotPosted(HandleError::Closed))
    );
}

/// Two workers that the test turns, or not.
fn two_seeds() -> (Registration, [WorkerSeed; 2]) {
    let (registration, seeds) = Registration::open_without_threads(workers(2)).unwrap();
    (registration, seeds.try_into().unwrap())
}

#[test]
fn nobody_waits_for_a_worker_that_never_began() {
    let (server_config, client_config) = configs();
    let (server, [first, second]) = two_seeds();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        let stop = &stop;
        threads.spawn(move || {
            let mut own = first.start().unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                own.turn_and_sleep(Some(Duration::from_millis(1)));
            }
        });
        drop(second);
        let error = server.listen(any_port(), &server_config, |_| None).unwrap_err();
        assert!(matches!(error, ListenError::Worker(1)), "{error}");
        assert_eq!(
            server.on_worker_and_wait(1, |_| ()),
            Err(WaitError::NotPosted(HandleError::Closed))
        );
        let (handler, _) = Client::new("x");
        let refused = server.connect_on(1, any_port(), "localhost", &client_config, handler);
        assert_eq!(refused.map(drop).unwrap_err(), HandleError::Closed);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn two_threads_may_listen_at_once_and_each_turns_its_own_worker() {
    let (server_config, _) = configs();
    let (server, seeds) = two_seeds();
    let done = std::sync::Barrier::new(2);
    std::thread::scope(|threads| {
        for seed in seeds {
            let (server, config, done) = (&server, &server_config, &done);
            threads.spawn(move || {
                let mut own = [seed.start().unwrap()];
                for _ in 0..20 {
                    let accept = |_: &quiclane::exec::NewConnection<'_>| None;
                    let listener = server.listen_turning(&mut own, any_port(), config, accept);
                    drop(listener.unwrap());
                }
                // The other thread may still wait for this worker.
                let (tell, told) = sync_channel(1);
                std::thread::scope(|inner| {
                    inner.spawn(move || {
                        done.wait();
                        let _ = tell.send(());
                    });
                    while told.try_recv().is_err() {
                        own[0].turn_and_sleep(Some(Duration::from_millis(1)));
                    }
                });
            });
        }
    });
}

#[test]
fn the_wait_after_listening_is_told_of_what_the_worker_has_heard_meanwhile() {
    let (server_config, client_config) = configs();
    let (server, seeds) = Registration::open_without_threads(workers(1)).unwrap();
    let mut own: Vec<_> = seeds.into_iter().map(|seed| seed.start().unwrap()).collect();
    while !matches!(own[0].turn(), Next::Wait(_)) {}
    // What the turn said of the time to wait is void from here on.
    let listener = server
        .listen_turning(&mut own, any_port(), &server_config, |_| Some(Box::new(Echo)))
        .unwrap();
    let events =
        poll(&mut [PollFd::from_borrowed_fd(own[0].as_fd(), PollFlags::IN)], None).unwrap();
    assert_eq!(events, 1);
    let client = open(workers(1));
    let (handler, told) = Client::new("hello");
    client.connect(listener.local_addr(), "localhost", &client_config, handler).unwrap();
    loop {
        if let Next::Wait(wait) = own[0].turn() {
            let timeout: Option<Timespec> =
                wait.timeout().map(|timeout| timeout.try_into().unwrap());
            poll(&mut [PollFd::from_borrowed_fd(own[0].as_fd(), PollFlags::IN)], timeout.as_ref())
                .unwrap();
        }
        if told.try_iter().any(|told| matches!(told, Told::Echoed(_))) {
            break;
        }
    }
}

#[test]
fn dropping_a_registration_ends_the_workers_that_others_turn() {
    let (server, seeds) = Registration::open_without_threads(workers(1)).unwrap();
    let mut own = seeds.into_iter().next().unwrap().start().unwrap();
    assert_eq!(own.turn_and_sleep(Some(Duration::ZERO)), Progress::Running);
    // The order finds room where calls do not.
    let mut posted = 0;
    while server.on_worker(0, |_| ()).is_ok() {
        posted += 1;
    }
    assert!(posted >= 1_000, "{posted}");
    drop(server);
    let mut turns = 0;
    while own.turn_and_sleep(Some(Duration::ZERO)) == Progress::Running {
        turns += 1;
        assert!(turns < 1_000, "it does not end");
    }
}
