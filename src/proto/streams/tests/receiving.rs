//! Receiving: what the application sees, and when.

use super::harness::{AMPLE, End, Pair, pattern};
use crate::proto::streams::{Delivery, Limits, ReceiveError, StreamEvent};
use crate::wire::frame::Frame;
use crate::wire::{Dir, Side, StreamId};

const ID: StreamId = StreamId::new(Side::Client, Dir::Bi, 0);

fn server() -> End {
    let mut server = End::new(Side::Server, AMPLE);
    server.streams.set_peer_limits(&AMPLE);
    server
}

#[test]
fn data_in_order_is_lent_and_leaves_no_memory() {
    let mut server = server();
    let before = server.streams.memory_bytes();
    for i in 0..100u64 {
        let delivery = server.stream(ID, i * 10, &[i as u8; 10], i == 99).unwrap();
        assert!(matches!(delivery, Delivery::Lend { skip: 0, fin, .. } if fin == (i == 99)));
    }
    assert_eq!(server.got[&ID].len(), 1_000);
    assert!(server.streams.memory_bytes() - before <= 192 + 64);
    assert_eq!(server.streams.stats().buffered_frames, 0);
}

#[test]
fn what_arrives_early_follows_what_it_waited_for() {
    let mut server = server();
    let data = pattern(40);
    assert_eq!(server.stream(ID, 20, &data[20..30], false).unwrap(), Delivery::Buffered);
    assert_eq!(server.stream(ID, 30, &data[30..], true).unwrap(), Delivery::Buffered);
    assert!(!server.got.contains_key(&ID));
    assert_eq!(server.stream(ID, 0, &data[..10], false).unwrap(), lend(&server, 0, false));
    assert_eq!(server.got[&ID], data[..10]);
    server.stream(ID, 5, &data[5..20], false).unwrap();
    assert_eq!((&server.got[&ID], server.ended[&ID]), (&data, 1));
    assert_eq!(server.stream(ID, 20, &data[20..30], false).unwrap(), Delivery::Nothing);
    assert_eq!(server.streams.stats().duplicate_frames, 0, "a half that is over counts nothing");
}

fn lend(server: &End, skip: usize, fin: bool) -> Delivery {
    let slot = server.streams.table.search(ID).unwrap();
    Delivery::Lend { stream: server.streams.table.name(slot), skip, fin }
}

#[test]
fn an_overlap_with_what_waits_is_copied_and_what_came_first_counts() {
    let mut server = server();
    server.stream(ID, 4, b"EF", false).unwrap();
    let delivery = server.stream(ID, 0, b"abcdxxgh", true).unwrap();
    assert!(matches!(delivery, Delivery::Ready { .. }));
    assert_eq!(server.got[&ID], b"abcdEFgh");
    assert_eq!(server.ended[&ID], 1);
}

#[test]
fn duplicates_bring_nothing() {
    let mut server = server();
    server.stream(ID, 0, b"abcdef", false).unwrap();
    assert_eq!(server.stream(ID, 0, b"ABCDEF", false).unwrap(), Delivery::Nothing);
    assert_eq!(server.stream(ID, 2, b"CDEFgh", false).unwrap(), lend(&server, 4, false));
    assert_eq!(server.got[&ID], b"abcdefgh");
    assert_eq!(server.streams.stats().duplicate_frames, 1);
}

#[test]
fn a_fin_alone_ends_the_stream_wherever_it_arrives() {
    for fin_first in [false, true] {
        let mut server = server();
        if fin_first {
            assert_eq!(server.stream(ID, 3, b"", true).unwrap(), Delivery::Nothing);
        }
        server.stream(ID, 0, b"abc", false).unwrap();
        if !fin_first {
            server.stream(ID, 3, b"", true).unwrap();
        }
        assert_eq!((&server.got[&ID][..], server.ended[&ID]), (&b"abc"[..], 1));
        assert_eq!(server.stream(ID, 3, b"", true).unwrap(), Delivery::Nothing);
        assert_eq!(server.ended[&ID], 1);
    }
    let mut server = server();
    server.stream(ID, 0, b"", true).unwrap();
    assert_eq!((server.got[&ID].len(), server.ended[&ID]), (0, 1));
}

#[test]
fn a_rest_pauses_the_stream_until_it_is_resumed() {
    let mut server = server();
    let data = pattern(100);
    server.appetite = 4;
    server.stream(ID, 0, &data[..10], false).unwrap();
    assert_eq!(server.got[&ID], data[..4]);
    // Paused: even what is next in order waits.
    assert_eq!(server.stream(ID, 10, &data[10..50], false).unwrap(), Delivery::Buffered);
    assert_eq!(server.stream(ID, 50, &data[50..], true).unwrap(), Delivery::Buffered);
    server.resume(ID);
    assert_eq!(server.got[&ID], data[..8]);
    server.appetite = usize::MAX;
    server.resume(ID);
    assert_eq!((&server.got[&ID], server.ended[&ID]), (&data, 1));
    assert_eq!(server.streams.app().resume_receive(ID), Err(ReceiveError::Ended));
}

#[test]
fn an_application_that_takes_nothing_keeps_the_window_shut() {
    let limits = Limits { stream_data_bidi_remote: 1_000, ..AMPLE };
    let mut pair = Pair::new(AMPLE, limits);
    pair.server.appetite = 0;
    let data = pattern(5_000);
    let id = pair.client_sends(Dir::Bi, &data, true);
    pair.settle();
    assert_eq!(pair.server.streams.stats().received_bytes, 1_000);
    assert_eq!(pair.server.streams.stats().consumed_bytes, 0);
    pair.server.appetite = usize::MAX;
    pair.server.resume(id);
    pair.settle();
    assert_eq!((&pair.server.got[&id], pair.server.ended[&id]), (&data, 1));
}

#[test]
fn a_resumed_stream_that_closes_is_not_named() {
    let mut server = server();
    server.appetite = 0;
    server.stream(ID, 0, b"abc", false).unwrap();
    server.streams.app().resume_receive(ID).unwrap();
    server.streams.app().resume_receive(ID).unwrap();
    server.frame(&Frame::StopSending { stream: ID, code: 0 }).unwrap();
    let reset = server.packet(1_200).unwrap();
    server.frame(&Frame::ResetStream { stream: ID, code: 0, final_size: 9 }).unwrap();
    server.acked(&reset);
    assert!(matches!(server.events.last(), Some(StreamEvent::Closed { .. })));
    assert_eq!(server.streams.next_resumed(), None);
}

#[test]
fn the_application_may_stop_the_stream_while_it_reads() {
    let mut server = server();
    let Delivery::Lend { stream, .. } = server.streams.on_stream(ID, 0, b"abcdef", false).unwrap()
    else {
        panic!("in order")
    };
    server.streams.app().stop_sending(ID, 7).unwrap();
    assert!(!server.streams.is_receiving(stream));
    server.streams.taken(stream, 2, b"cdef", false);
    assert_eq!(server.streams.stats().consumed_bytes, 6);
    assert!(server.streams.detach_ready(stream).is_none());

    // The same with a buffer in the application's hands.
    let id = StreamId::new(Side::Client, Dir::Bi, 1);
    server.streams.on_stream(id, 3, b"def", false).unwrap();
    let Delivery::Ready { stream } = server.streams.on_stream(id, 0, b"abcd", false).unwrap()
    else {
        panic!("overlaps")
    };
    let buffer = server.streams.detach_ready(stream).unwrap();
    server.streams.app().stop_sending(id, 7).unwrap();
    server.streams.attach(stream, buffer, 6);
    assert_eq!(server.streams.stats().consumed_bytes, 12);
    assert!(server.streams.detach_ready(stream).is_none());
}

#[test]
fn a_stopped_stream_counts_what_it_throws_away() {
    // RFC 9000 §3.5: flow control of the connection goes on.
    let mut pair = Pair::new(AMPLE, Limits { data: 1_000, ..AMPLE });
    let id = pair.client_sends(Dir::Bi, &pattern(600), false);
    let flight = pair.client.flight(110);
    pair.server.receive(&flight[3]).unwrap();
    pair.server.streams.app().stop_sending(id, 5).unwrap();
    assert_eq!(pair.server.streams.app().stop_sending(id, 5), Err(ReceiveError::Ended));
    for packet in &flight {
        pair.server.receive(packet).unwrap();
    }
    let stats = pair.server.streams.stats();
    assert_eq!((stats.received_bytes, stats.consumed_bytes), (600, 600));
    assert!(pair.server.got.is_empty());
    pair.settle();
    assert!(pair.client.events.contains(&StreamEvent::StopSending { stream: id, code: 5 }));
    assert!(!pair.server.events.iter().any(|event| matches!(event, StreamEvent::Reset { .. })));
}

#[test]
fn limits_rise_when_half_of_a_window_was_taken_and_never_for_a_stream_that_ends() {
    let limits = Limits { stream_data_bidi_remote: 100, data: 400, ..AMPLE };
    let mut server = End::new(Side::Server, limits);
    server.stream(ID, 0, &[0; 49], false).unwrap();
    assert!(!server.streams.has_control());
    server.stream(ID, 49, &[0; 11], false).unwrap();
    let packet = server.packet(100).unwrap();
    assert_eq!(packet.read(), [Frame::MaxStreamData { stream: ID, max: 160 }]);
    // Lost: the newest value is sent, if it is still of use (RFC 9000 §13.3).
    server.stream(ID, 60, &[0; 20], false).unwrap();
    server.lost(&packet);
    let again = server.packet(100).unwrap();
    assert_eq!(again.read(), [Frame::MaxStreamData { stream: ID, max: 180 }]);
    server.stream(ID, 80, &[0; 100], true).unwrap();
    server.lost(&again);
    assert!(!server.streams.has_control());
    for index in 1..3 {
        let id = StreamId::new(Side::Client, Dir::Bi, index);
        server.stream(id, 0, &[0; 10], false).unwrap();
    }
    let packet = server.packet(100).unwrap();
    assert_eq!(packet.read(), [Frame::MaxData(600)]);
}

#[test]
fn lower_streams_are_open_without_state_and_told_when_touched() {
    // RFC 9000 §2.1.
    let mut server = server();
    let id = |index| StreamId::new(Side::Client, Dir::Uni, index);
    server.stream(id(40), 0, b"x", true).unwrap();
    assert_eq!(server.streams.stats().accepted, 41);
    assert_eq!(server.streams.stats().closed, 1);
    server.stream(id(7), 0, b"y", true).unwrap();
    server.stream(id(8), 0, b"z", true).unwrap();
    let opened: Vec<_> = server
        .events
        .iter()
        .filter(|event| matches!(event, StreamEvent::Opened { .. }))
        .cloned()
        .collect();
    assert_eq!(opened, [40, 7, 8].map(|index| StreamEvent::Opened { stream: id(index) }));
    // Gone is gone.
    assert_eq!(server.stream(id(7), 0, b"y", true).unwrap(), Delivery::Nothing);
    assert_eq!(server.stream(id(40), 0, b"x", true).unwrap(), Delivery::Nothing);
    assert_eq!((server.got[&id(7)].len(), server.ended[&id(7)]), (1, 1));
}
