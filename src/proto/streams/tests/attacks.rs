//! A hostile peer, one test for each way.

use super::harness::{AMPLE, End, Pair};
use crate::proto::streams::{Bounds, Delivery, Limits, StreamError, StreamEvent, Streams};
use crate::time::Instant;
use crate::wire::frame::Frame;
use crate::wire::{Dir, Side, StreamId, VARINT_MAX};
use bytes::Bytes;

const THEIRS: StreamId = StreamId::new(Side::Client, Dir::Bi, 0);

fn id(initiator: Side, dir: Dir, index: u64) -> StreamId {
    StreamId::new(initiator, dir, index)
}

/// A server that grants 1,000 bytes a stream, 2,500 in all, and 3 streams of each kind.
fn server() -> End {
    let limits = Limits {
        data: 2_500,
        stream_data_bidi_local: 1_000,
        stream_data_bidi_remote: 1_000,
        stream_data_uni: 1_000,
        streams_bidi: 3,
        streams_uni: 3,
    };
    let mut server = End::new(Side::Server, limits);
    server.streams.set_peer_limits(&AMPLE);
    server
}

fn code(result: Result<impl std::fmt::Debug, StreamError>) -> u64 {
    result.unwrap_err().code()
}

const FLOW_CONTROL: u64 = 0x03;
const STREAM_LIMIT: u64 = 0x04;
const STREAM_STATE: u64 = 0x05;
const FINAL_SIZE: u64 = 0x06;

#[test]
fn attack_23_huge_offsets_are_flow_control_errors() {
    for (offset, data) in
        [(VARINT_MAX, &b""[..]), (VARINT_MAX - 1, b"x"), (u64::MAX, b"xyz"), (1 << 40, b"x")]
    {
        assert_eq!(code(server().stream(THEIRS, offset, data, false)), FLOW_CONTROL);
        assert_eq!(code(server().stream(THEIRS, offset, data, true)), FLOW_CONTROL);
    }
    let huge = Frame::ResetStream { stream: THEIRS, code: 0, final_size: VARINT_MAX };
    assert_eq!(code(server().frame(&huge)), FLOW_CONTROL);
}

#[test]
fn attack_23_the_largest_windows_take_the_largest_offsets() {
    let limits = Limits {
        data: u64::MAX,
        stream_data_bidi_remote: u64::MAX,
        streams_bidi: u64::MAX,
        ..AMPLE
    };
    let mut server = End::new(Side::Server, limits);
    let last = id(Side::Client, Dir::Bi, (1 << 60) - 1);
    server.stream(last, 0, b"x", false).unwrap();
    let reset = Frame::ResetStream { stream: last, code: 0, final_size: VARINT_MAX };
    server.frame(&reset).unwrap();
    assert_eq!(server.streams.stats().consumed_bytes, VARINT_MAX);
    assert_eq!(code(server.stream(THEIRS, 0, b"x", false)), FLOW_CONTROL);
    assert!(server.streams.memory_bytes() < 4_096);
}

#[test]
fn attack_27_a_byte_over_the_streams_limit() {
    let mut server = server();
    server.stream(THEIRS, 999, b"x", false).unwrap();
    assert_eq!(code(server.stream(THEIRS, 1_000, b"x", false)), FLOW_CONTROL);
}

#[test]
fn attack_27_a_byte_over_the_connections_limit() {
    let mut server = server();
    for index in 0..2 {
        server.stream(id(Side::Client, Dir::Bi, index), 999, b"x", false).unwrap();
    }
    let third = id(Side::Client, Dir::Uni, 0);
    server.stream(third, 499, b"x", false).unwrap();
    assert_eq!(code(server.stream(third, 500, b"x", false)), FLOW_CONTROL);
    // A reset claims the bytes that were never sent as well (RFC 9000 §4.5).
    let reset = Frame::ResetStream { stream: third, code: 0, final_size: 501 };
    assert_eq!(code(server.frame(&reset)), FLOW_CONTROL);
}

#[test]
fn attack_27_a_stream_over_the_limit() {
    for dir in [Dir::Bi, Dir::Uni] {
        let mut server = server();
        server.stream(id(Side::Client, dir, 2), 0, b"x", false).unwrap();
        assert_eq!(code(server.stream(id(Side::Client, dir, 3), 0, b"x", false)), STREAM_LIMIT);
        let beyond = id(Side::Client, dir, 1 << 59);
        assert_eq!(code(server.stream(beyond, 0, b"x", false)), STREAM_LIMIT);
        assert_eq!(server.streams.stats().open, 1, "the skipped ones have no state");
    }
    let frame = Frame::MaxStreamData { stream: id(Side::Client, Dir::Bi, 3), max: 1 };
    assert_eq!(code(server().frame(&frame)), STREAM_LIMIT);
}

#[test]
fn attack_27_two_final_sizes() {
    // RFC 9000 §4.5, also for a half that is over.
    let reset = |final_size| Frame::ResetStream { stream: THEIRS, code: 0, final_size };
    for over in [false, true] {
        let start = || {
            let mut server = server();
            if over {
                server.stream(THEIRS, 0, &[0; 9], false).unwrap();
            }
            server.stream(THEIRS, 9, b"x", true).unwrap();
            server
        };
        assert_eq!(code(start().stream(THEIRS, 10, b"x", false)), FINAL_SIZE);
        assert_eq!(code(start().stream(THEIRS, 8, b"x", true)), FINAL_SIZE);
        assert_eq!(code(start().frame(&reset(9))), FINAL_SIZE);
        assert_eq!(code(start().frame(&reset(11))), FINAL_SIZE);
        start().frame(&reset(10)).unwrap();
    }
    let mut short = server();
    short.stream(THEIRS, 9, b"x", false).unwrap();
    assert_eq!(code(short.stream(THEIRS, 4, b"x", true)), FINAL_SIZE);
    assert_eq!(code(short.frame(&reset(9))), FINAL_SIZE);
    // After a reset.
    let mut server = server();
    server.frame(&reset(10)).unwrap();
    assert_eq!(code(server.stream(THEIRS, 10, b"x", false)), FINAL_SIZE);
    assert_eq!(code(server.frame(&reset(11))), FINAL_SIZE);
    server.stream(THEIRS, 3, b"late", false).unwrap();
    assert!(server.got.is_empty());
}

#[test]
fn attack_28_one_byte_fragments_stay_below_twice_the_window() {
    const WINDOW: u64 = 1 << 16;
    let limits = Limits { data: WINDOW, stream_data_bidi_remote: WINDOW / 4, ..AMPLE };
    let mut server = End::new(Side::Server, limits);
    let base = server.streams.memory_bytes();
    let mut refused = 0;
    // Four streams share the connection's window; every second byte of each.
    for offset in (1..WINDOW / 4).step_by(2) {
        for index in 0..4 {
            let stream = id(Side::Client, Dir::Bi, index);
            match server.stream(stream, offset, b"x", false).unwrap() {
                Delivery::Refused => refused += 1,
                other => assert_eq!(other, Delivery::Buffered),
            }
            let held = server.streams.memory_bytes() - base;
            assert!(held as u64 <= 2 * WINDOW, "{held} bytes at offset {offset}");
        }
    }
    assert!(refused > 10_000);
    assert_eq!(server.streams.stats().refused_frames, refused);
    // What was refused was not counted as received and comes again: the stream is not lost.
    let data: Vec<u8> = (0..WINDOW / 4).map(|at| if at % 2 == 1 { b'x' } else { b'.' }).collect();
    for at in (0..data.len()).step_by(1_000) {
        let piece = &data[at..data.len().min(at + 1_000)];
        let delivery = server.stream(THEIRS, at as u64, piece, false).unwrap();
        assert_ne!(delivery, Delivery::Refused);
    }
    assert_eq!(server.got[&THEIRS], data);
    for index in 1..4 {
        let stream = id(Side::Client, Dir::Bi, index);
        server.frame(&Frame::ResetStream { stream, code: 0, final_size: WINDOW / 4 }).unwrap();
    }
    server.streams.shrink();
    assert!(server.streams.memory_bytes() - base < 2_048);
}

#[test]
fn attack_28_a_byte_at_the_end_of_each_window_stays_below_twice_the_connections() {
    let limits = Limits { data: 1 << 20, stream_data_uni: 1 << 16, streams_uni: 1 << 20, ..AMPLE };
    let mut server = End::new(Side::Server, limits);
    let base = server.streams.memory_bytes();
    for index in 0..16 {
        server.stream(id(Side::Client, Dir::Uni, index), (1 << 16) - 1, b"x", false).unwrap();
    }
    assert!(server.streams.memory_bytes() - base < 2 << 20);
    let one_more = server.stream(id(Side::Client, Dir::Uni, 16), 0, b"x", false);
    assert_eq!(code(one_more), FLOW_CONTROL);
}

#[test]
fn attack_29_opening_and_resetting_earns_no_credit_before_teardown() {
    let mut server = server();
    let reset = |index| Frame::ResetStream {
        stream: id(Side::Client, Dir::Bi, index),
        code: 0,
        final_size: 0,
    };
    for index in 0..3 {
        server.frame(&reset(index)).unwrap();
    }
    // Our halves are open still: the application has not answered, so the slots are held.
    assert!(!server.streams.has_control());
    assert_eq!(code(server.frame(&reset(3))), STREAM_LIMIT);
    server
        .streams
        .app()
        .send(id(Side::Client, Dir::Bi, 1), Bytes::from_static(b"a"), true)
        .unwrap();
    let answer = server.packet(1_200).unwrap();
    assert!(!server.streams.has_control());
    server.acked(&answer);
    let credit = server.packet(1_200).unwrap();
    assert_eq!(credit.read(), [Frame::MaxStreams { dir: Dir::Bi, max: 4 }]);
    server.frame(&reset(3)).unwrap();
    assert_eq!(code(server.frame(&reset(4))), STREAM_LIMIT);
}

#[test]
fn attack_29_resets_open_the_connections_window_and_do_not_make_it_grow() {
    const TRIP_NS: u64 = 1_000_000;
    // Both ways to have data thrown away: the peer resets, or sends on what we have stopped.
    for stopped in [false, true] {
        let limits = Limits { data: 4_000, streams_uni: 1_000, ..AMPLE };
        let bounds = Bounds { connection_window: 1 << 20, ..Bounds::default() };
        let mut server = End::new(Side::Server, limits);
        server.streams = Streams::with_bounds(Side::Server, limits, bounds);
        for round in 0..500 {
            server.streams.set_clock(Instant::from_nanos(round * TRIP_NS), TRIP_NS);
            let stream = id(Side::Client, Dir::Uni, round);
            if stopped {
                server.stream(stream, 0, b"", false).unwrap();
                server.streams.app().stop_sending(stream, 0).unwrap();
                server.stream(stream, 3_999, b"x", true).unwrap();
            } else {
                let reset = Frame::ResetStream { stream, code: 0, final_size: 4_000 };
                server.frame(&reset).unwrap();
            }
            // RFC 9000 §4.5: what was claimed is given back.
            let granted = Frame::MaxData(4_000 * (round + 2));
            let packet = server.packet(1_200).unwrap();
            assert!(packet.read().contains(&granted), "round {round}: {packet:?}");
        }
        let stats = server.streams.stats();
        assert_eq!((stats.windows_grown, stats.consumed_bytes), (0, 2_000_000));
    }
}

#[test]
fn attack_29_a_flood_of_news_is_one_event() {
    let mut pair = Pair::ample();
    let stream = pair.client_sends(Dir::Bi, b"x", false);
    pair.settle();
    let before = pair.client.streams.memory_bytes();
    for code in 0..1_000 {
        pair.client.streams.on_stop_sending(stream, code).unwrap();
        pair.client.streams.on_reset_stream(stream, code, 0).unwrap();
    }
    let events: Vec<_> = std::iter::from_fn(|| pair.client.streams.pop_event()).collect();
    let expected =
        [StreamEvent::StopSending { stream, code: 0 }, StreamEvent::Reset { stream, code: 0 }];
    assert_eq!(events, expected);
    assert_eq!(pair.client.streams.memory_bytes(), before);
}

#[test]
fn attack_30_frames_in_the_wrong_direction() {
    let mut server = server();
    let ours = server.streams.app().open(Dir::Uni).unwrap();
    let theirs = id(Side::Client, Dir::Uni, 0);
    // Whether the stream is open or not, and once it is gone.
    for open in [false, true] {
        if open {
            server.stream(theirs, 0, b"x", false).unwrap();
        }
        for stream in [ours, id(Side::Server, Dir::Uni, 9)] {
            assert_eq!(code(server.stream(stream, 0, b"x", false)), STREAM_STATE);
            let frame = Frame::ResetStream { stream, code: 0, final_size: 0 };
            assert_eq!(code(server.frame(&frame)), STREAM_STATE);
            let frame = Frame::StreamDataBlocked { stream, limit: 0 };
            assert_eq!(code(server.frame(&frame)), STREAM_STATE);
        }
        for stream in [theirs, id(Side::Client, Dir::Uni, 2)] {
            let frame = Frame::MaxStreamData { stream, max: 9 };
            assert_eq!(code(server.frame(&frame)), STREAM_STATE);
            let frame = Frame::StopSending { stream, code: 9 };
            assert_eq!(code(server.frame(&frame)), STREAM_STATE);
        }
    }
}

#[test]
fn attack_30_frames_for_a_stream_that_we_have_not_opened() {
    let mut server = server();
    server.streams.app().open(Dir::Bi).unwrap();
    let stream = id(Side::Server, Dir::Bi, 1);
    assert_eq!(code(server.stream(stream, 0, b"x", false)), STREAM_STATE);
    for frame in [
        Frame::ResetStream { stream, code: 0, final_size: 0 },
        Frame::StopSending { stream, code: 0 },
        Frame::MaxStreamData { stream, max: 0 },
        Frame::StreamDataBlocked { stream, limit: 0 },
    ] {
        assert_eq!(code(server.frame(&frame)), STREAM_STATE);
    }
    server.stream(id(Side::Server, Dir::Bi, 0), 0, b"x", false).unwrap();
}

#[test]
fn complaints_of_the_peer_move_nothing() {
    let mut server = server();
    for frame in [
        Frame::DataBlocked(0),
        Frame::StreamsBlocked { dir: Dir::Bi, limit: 3 },
        Frame::StreamDataBlocked { stream: THEIRS, limit: 0 },
    ] {
        server.frame(&frame).unwrap();
    }
    assert!(!server.streams.has_control());
    let needed = StreamEvent::Needed { dir: Dir::Bi };
    assert_eq!(server.events, [needed, StreamEvent::Opened { stream: THEIRS }]);
}
