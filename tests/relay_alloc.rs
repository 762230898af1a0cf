//! Allocations of a thread that only moves datagrams (`Profile::MaxThroughput`): none once it runs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/configs.rs"]
mod configs;
#[path = "common/echo_handler.rs"]
mod echo_handler;

use bytes::Bytes;
use configs::configs;
use echo_handler::Echo;
use quiclane::exec::{ConnectionRef, Handler, Pin, Profile, Registration, RegistrationConfig};
use quiclane::wire::{Dir, StreamId};
use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);
const MESSAGE_BYTES: usize = 4_000_000;

/// The thread whose allocations count; 0: none.
static WATCHED: AtomicI32 = AtomicI32::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);

struct Counting;

fn tid() -> i32 {
    // SAFETY: gettid() has no preconditions.
    unsafe { libc::gettid() }
}

fn count() {
    let watched = WATCHED.load(Ordering::Relaxed);
    if watched != 0 && tid() == watched {
        CALLS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every method passes its arguments to `System` unchanged and returns what that returns,
// so the contract of `GlobalAlloc` holds as it holds for `System`. Counting neither allocates nor
// unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count();
        // SAFETY: `at` came from `System` with this layout, as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The thread of that name.
fn thread(name: &str) -> i32 {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(Result::unwrap);
    let is_it = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    let mut found = tasks.filter(is_it);
    let task = found.next().unwrap();
    assert!(found.next().is_none(), "two threads are called {name}");
    task.file_name().to_str().unwrap().parse().unwrap()
}

/// Sends its message when it is woken, and tells when all of it has come back.
struct Client {
    back: usize,
    tell: Sender<usize>,
}

impl Handler for Client {
    fn woken(&mut self, connection: &mut ConnectionRef<'_>, _: u64) {
        self.back = 0;
        let stream = connection.streams().open(Dir::Bi).unwrap();
        connection.streams().send(stream, Bytes::from(vec![7; MESSAGE_BYTES]), true).unwrap();
    }

    fn stream_data(
        &mut self,
        _: &mut ConnectionRef<'_>,
        _: StreamId,
        data: &[u8],
        fin: bool,
    ) -> usize {
        self.back += data.len();
        if fin {
            self.tell.send(self.back).unwrap();
        }
        data.len()
    }

    fn confirmed(&mut self, _: &mut ConnectionRef<'_>) {
        self.tell.send(0).unwrap();
    }
}

#[test]
fn a_thread_that_moves_datagrams_allocates_nothing_once_it_runs() {
    WATCHED.store(tid(), Ordering::Relaxed);
    let (server_config, client_config) = configs();
    WATCHED.store(0, Ordering::Relaxed);
    assert!(CALLS.swap(0, Ordering::Relaxed) > 0, "allocations are counted");
    let profile = Profile::MaxThroughput;
    let name = "counted".to_owned();
    let config = RegistrationConfig { pin: Pin::Off, profile, name, ..RegistrationConfig::udp(1) };
    let server = Registration::open(config).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = server.listen(any, &server_config, |_| Some(Box::new(Echo))).unwrap();
    let config = RegistrationConfig { pin: Pin::Off, ..RegistrationConfig::udp(1) };
    let client = Registration::open(config).unwrap();
    let (tell, told) = channel();
    let handler = Client { back: 0, tell };
    let to = listener.local_addr();
    let handle = client.connect(to, "localhost", &client_config, handler).unwrap();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), 0);
    let exchange = || {
        handle.wake(0).unwrap();
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), MESSAGE_BYTES);
    };
    // The queues of the socket grow to what they need.
    exchange();
    let moved =
        || -> u64 { server.status().iter().map(|row| row.counters.lane.rx_datagrams).sum() };
    let before = moved();
    WATCHED.store(thread("counted-d0"), Ordering::Relaxed);
    exchange();
    exchange();
    WATCHED.store(0, Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(100));
    assert!(moved() - before > (MESSAGE_BYTES / 1_500) as u64, "the datagrams went there");
    assert_eq!(CALLS.load(Ordering::Relaxed), 0);
}
