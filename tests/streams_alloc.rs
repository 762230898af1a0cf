//! Allocations of streams, counted: none in steady state, and otherwise no more than documented.
//!
//! The allocator counts for each thread by itself, as the harness runs tests in parallel.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

use bytes::Bytes;
use quiclane::proto::sent::StreamFrame;
use quiclane::proto::streams::{Delivery, Limits, Streams};
use quiclane::wire::frame::Frame;
use quiclane::wire::{Dir, Reader, Side, Writer};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static LIVE_BYTES: Cell<i64> = const { Cell::new(0) };
}

struct Counting;

fn count(calls: u64, bytes: i64) {
    // While a thread ends, its counter does not exist.
    let _ = CALLS.try_with(|cell| cell.set(cell.get() + calls));
    let _ = LIVE_BYTES.try_with(|cell| cell.set(cell.get() + bytes));
}

// SAFETY: every method passes its arguments to `System` unchanged and returns what that returns,
// so the contract of `GlobalAlloc` holds as it holds for `System`. Counting touches thread-local
// cells without destructors, which neither allocate nor unwind.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(0, -(layout.size() as i64));
        // SAFETY: `at` came from `System` with this layout, as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size as i64 - layout.size() as i64);
        // SAFETY: `at` came from `System` with this layout, as the caller promises.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn calls() -> u64 {
    CALLS.with(Cell::get)
}

fn live_bytes() -> i64 {
    LIVE_BYTES.with(Cell::get)
}

const LIMITS: Limits = Limits {
    data: 1 << 20,
    stream_data_bidi_local: 1 << 18,
    stream_data_bidi_remote: 1 << 18,
    stream_data_uni: 1 << 18,
    streams_bidi: 128,
    streams_uni: 128,
};

/// Frames that a packet can carry in these tests.
const FRAMES_MAX: usize = 256;

/// An end of a connection, with bookkeeping that does not allocate.
struct End {
    streams: Streams,
    buffer: Box<[u8; 1_200]>,
    len: usize,
    sent: Vec<StreamFrame>,
    answers: bool,
    delivered: u64,
}

impl End {
    fn new(side: Side) -> Self {
        let mut streams = Streams::new(side, LIMITS);
        streams.set_peer_limits(&LIMITS);
        Self {
            streams,
            buffer: Box::new([0; 1_200]),
            len: 0,
            sent: Vec::with_capacity(FRAMES_MAX),
            answers: side == Side::Server,
            delivered: 0,
        }
    }

    fn write(&mut self) -> bool {
        self.sent.clear();
        let mut w = Writer::new(&mut self.buffer[..]);
        self.streams.write_control(&mut w, &mut |frame| self.sent.push(frame));
        self.streams.write_data(&mut w, &mut |frame| self.sent.push(frame));
        self.len = w.position();
        self.len > 0
    }

    fn acked(&mut self) {
        for frame in &self.sent {
            self.streams.on_acked(frame);
        }
        while self.streams.pop_event().is_some() {}
    }

    fn read(&mut self, packet: &[u8]) {
        let mut r = Reader::new(packet);
        while !r.is_empty() {
            match Frame::read(&mut r).unwrap() {
                Frame::Stream { stream, offset, data, fin } => {
                    let delivery = self.streams.on_stream(stream, offset, data, fin).unwrap();
                    while self.streams.pop_event().is_some() {}
                    self.deliver(delivery, data);
                    if self.answers && fin {
                        let answer = Bytes::from_static(&[2; 1_000]);
                        self.streams.app().send(stream, answer, true).unwrap();
                    }
                }
                Frame::MaxData(max) => self.streams.on_max_data(max).unwrap(),
                Frame::MaxStreamData { stream, max } => {
                    self.streams.on_max_stream_data(stream, max).unwrap();
                }
                Frame::MaxStreams { dir, max } => self.streams.on_max_streams(dir, max).unwrap(),
                Frame::Padding { .. } => {}
                other => panic!("unexpected {other:?}"),
            }
        }
        while self.streams.pop_event().is_some() {}
    }

    fn deliver(&mut self, delivery: Delivery, data: &[u8]) {
        let stream = match delivery {
            Delivery::Lend { stream, skip, fin } => {
                self.streams.taken(stream, data.len() - skip, &[], fin);
                self.delivered += (data.len() - skip) as u64;
                stream
            }
            Delivery::Ready { stream } => stream,
            _ => return,
        };
        while let Some(buffer) = self.streams.detach_ready(stream) {
            let len = buffer.front().0.len();
            self.delivered += len as u64;
            self.streams.attach(stream, buffer, len);
        }
    }
}

/// Exchanges packets until there are none.
fn settle(client: &mut End, server: &mut End) {
    loop {
        let up = client.write();
        if up {
            server.read(&client.buffer[..client.len]);
            client.acked();
        }
        let down = server.write();
        if down {
            client.read(&server.buffer[..server.len]);
            server.acked();
        }
        if !up && !down {
            return;
        }
    }
}

fn requests(client: &mut End, server: &mut End, rounds: usize, at_once: usize) {
    for _ in 0..rounds {
        for _ in 0..at_once {
            let id = client.streams.app().open(Dir::Bi).unwrap();
            client.streams.app().send(id, Bytes::from_static(&[1; 100]), true).unwrap();
        }
        settle(client, server);
    }
}

#[test]
fn a_request_allocates_nothing() {
    let (mut client, mut server) = (End::new(Side::Client), End::new(Side::Server));
    for at_once in [1, 32, 100] {
        requests(&mut client, &mut server, 10, at_once);
        let before = calls();
        requests(&mut client, &mut server, 100, at_once);
        assert_eq!(calls() - before, 0, "{at_once} requests at once");
    }
    assert_eq!(client.streams.stats().open, 0);
    assert_eq!(client.streams.stats().closed, 110 * (1 + 32 + 100));
}

/// Requests in copied parts, and in parts of which each is tracked.
fn tracked_and_copied(client: &mut End, server: &mut End, rounds: usize) {
    for _ in 0..rounds {
        for _ in 0..10 {
            let id = client.streams.app().open(Dir::Bi).unwrap();
            for part in 0..4 {
                assert_eq!(client.streams.app().send_copy(id, &[2; 70], false), Ok(70));
                let (data, fin) = (Bytes::from_static(&[1; 70]), part == 3);
                client.streams.app().send_tracked(id, data, fin, part).unwrap();
            }
        }
        settle(client, server);
    }
}

#[test]
fn copies_and_tracked_sends_allocate_nothing_once_there_is_memory_for_them() {
    let (mut client, mut server) = (End::new(Side::Client), End::new(Side::Server));
    tracked_and_copied(&mut client, &mut server, 20);
    let before = calls();
    tracked_and_copied(&mut client, &mut server, 100);
    assert_eq!(calls() - before, 0);
    assert_eq!(client.streams.stats().open, 0);
}

/// Sends `packets` packets of one stream; every tenth arrives five packets late.
fn bulk(client: &mut End, server: &mut End, id: quiclane::wire::StreamId, packets: usize) {
    let data = Bytes::from_static(&[3; 10_000]);
    let mut late = Box::new([0; 1_200]);
    let mut late_len = 0;
    for i in 0..packets {
        if !client.streams.has_data() {
            client.streams.app().send(id, data.clone(), false).unwrap();
        }
        assert!(client.write());
        if i % 10 == 3 {
            late.copy_from_slice(&client.buffer[..]);
            late_len = client.len;
        } else {
            server.read(&client.buffer[..client.len]);
        }
        if i % 10 == 8 {
            server.read(&late[..late_len]);
        }
        client.acked();
        if server.write() {
            client.read(&server.buffer[..server.len]);
            server.acked();
        }
    }
}

#[test]
fn bulk_allocates_nothing_even_out_of_order() {
    let (mut client, mut server) = (End::new(Side::Client), End::new(Side::Server));
    let id = client.streams.app().open(Dir::Uni).unwrap();
    bulk(&mut client, &mut server, id, 100);
    let before = calls();
    bulk(&mut client, &mut server, id, 2_000);
    // The one allocation is the test's own.
    assert_eq!(calls() - before, 1);
    assert!(server.streams.stats().buffered_frames > 800);
    assert_eq!(server.delivered, client.streams.stats().sent_bytes);
}

#[test]
fn memory_is_what_it_says_and_an_idle_connection_holds_none() {
    let start = live_bytes();
    let mut streams = Streams::new(Side::Server, LIMITS);
    streams.set_peer_limits(&LIMITS);
    assert!(size_of::<Streams>() <= 600);
    assert_eq!(live_bytes(), start);
    let own = size_of::<Streams>() as i64;
    for index in 0..100 {
        let id = quiclane::wire::StreamId::new(Side::Client, Dir::Bi, index);
        // Early ones, ones in order, and a few that are sent on.
        streams.on_stream(id, 10 * (index % 3), &[0; 200], false).unwrap();
        if index % 7 == 0 {
            streams.app().send(id, Bytes::from_static(&[1; 500]), true).unwrap();
        }
        assert_eq!(streams.memory_bytes() as i64 - own, live_bytes() - start);
    }
    for index in 0..100 {
        let id = quiclane::wire::StreamId::new(Side::Client, Dir::Bi, index);
        streams.on_reset_stream(id, 0, 400).unwrap();
        streams.on_stop_sending(id, 0).unwrap();
    }
    let mut buffer = [0; 4_096];
    let mut frames = Vec::with_capacity(FRAMES_MAX);
    while streams.has_control() {
        streams.write_control(&mut Writer::new(&mut buffer), &mut |frame| frames.push(frame));
    }
    frames.iter().for_each(|frame| streams.on_acked(frame));
    drop(frames);
    while streams.pop_event().is_some() {}
    assert_eq!(streams.open_streams(), 0);
    assert_eq!(streams.memory_bytes() as i64 - own, live_bytes() - start);
    streams.shrink();
    assert_eq!(streams.memory_bytes() as i64, own);
    assert_eq!(live_bytes(), start);
}
