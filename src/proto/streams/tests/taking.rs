//! Data that the application reads by itself, or provides the memory for.

use super::harness::{AMPLE, End, Pair, pattern};
use crate::proto::sent::StreamRef;
use crate::proto::streams::{Bounds, Delivery, Limits, ReceiveError, StreamEvent, Streams};
use crate::time::Instant;
use crate::wire::frame::Frame;
use crate::wire::{Dir, Side, StreamId};
use bytes::BytesMut;

const ID: StreamId = StreamId::new(Side::Client, Dir::Bi, 0);

fn server() -> End {
    let mut server = End::new(Side::Server, AMPLE);
    server.streams.set_peer_limits(&AMPLE);
    server
}

/// A server whose client has opened the stream, and sent nothing.
fn opened() -> End {
    let mut server = server();
    server.stream(ID, 0, b"", false).unwrap();
    server
}

/// What came back of provided memory, and whether more is needed.
fn filled(end: &mut End) -> Vec<(Vec<u8>, usize, bool)> {
    let events = std::mem::take(&mut end.events).into_iter();
    let one = |event| match event {
        StreamEvent::BufferFilled { buffer, len, fin, .. } => {
            Some((buffer[..len].to_vec(), buffer.len(), fin))
        }
        StreamEvent::BufferNeeded { .. } => Some((Vec::new(), usize::MAX, false)),
        _ => None,
    };
    events.filter_map(one).collect()
}

const NEEDED: (Vec<u8>, usize, bool) = (Vec::new(), usize::MAX, false);

fn provide(end: &mut End, len: usize) {
    end.streams.app().provide(ID, BytesMut::zeroed(len)).unwrap();
    // Drains the events.
    end.resume(ID);
}

#[test]
fn what_was_left_is_read_later_and_then_offered_again() {
    let mut server = server();
    let data = pattern(100);
    server.appetite = 0;
    server.stream(ID, 0, &data[..40], false).unwrap();
    server.stream(ID, 60, &data[60..80], false).unwrap();
    assert_eq!(server.streams.app().received(ID), Some(0));
    assert_eq!(server.streams.app().peek(ID), Ok(&data[..40]));
    let mut out = [0; 30];
    assert_eq!(server.streams.app().read(ID, &mut out), Ok((30, false)));
    assert_eq!(out[..], data[..30]);
    server.appetite = usize::MAX;
    assert_eq!(server.stream(ID, 40, &data[40..60], false).unwrap(), Delivery::Buffered);
    assert_eq!(server.streams.app().read(ID, &mut out), Ok((30, false)));
    assert_eq!(server.streams.app().read(ID, &mut out), Ok((20, false)));
    assert_eq!((server.streams.app().received(ID), &out[..20]), (Some(80), &data[60..80]));
    assert_eq!(server.streams.app().read(ID, &mut out), Ok((0, false)));
    // Nothing waits: it is offered again.
    server.stream(ID, 80, &data[80..], true).unwrap();
    assert_eq!((&server.got[&ID][..], server.ended[&ID]), (&data[80..], 1));
    assert_eq!(server.streams.app().read(ID, &mut out), Err(ReceiveError::Ended));
}

#[test]
fn a_fin_is_read_with_the_last_byte_or_alone() {
    for alone in [false, true] {
        let mut server = server();
        server.appetite = 0;
        server.stream(ID, 0, b"abc", !alone).unwrap();
        let mut out = [0; 10];
        if alone {
            assert_eq!(server.streams.app().set_receive(ID, false), Ok(()));
            assert_eq!(server.streams.app().read(ID, &mut out), Ok((3, false)));
            server.stream(ID, 3, b"", true).unwrap();
            assert_eq!(server.streams.app().read(ID, &mut out), Ok((0, true)));
        } else {
            assert_eq!(server.streams.app().read(ID, &mut out), Ok((3, true)));
        }
        assert_eq!(server.streams.app().read(ID, &mut out), Err(ReceiveError::Ended));
        assert!(server.got[&ID].is_empty() && server.ended.is_empty());
    }
}

#[test]
fn receiving_that_is_off_holds_the_peer_back_and_loses_nothing() {
    let limits = Limits { stream_data_bidi_remote: 1_000, ..AMPLE };
    let mut pair = Pair::new(AMPLE, limits);
    let data = pattern(5_000);
    let id = pair.client_sends(Dir::Bi, &data[..10], false);
    pair.settle();
    pair.server.streams.app().set_receive(id, false).unwrap();
    pair.client.streams.app().send(id, data[10..].to_vec().into(), true).unwrap();
    pair.settle();
    assert_eq!(pair.server.got[&id].len(), 10);
    assert_eq!(pair.server.streams.stats().received_bytes, 1_000);
    // Resuming is not turning on.
    pair.server.resume(id);
    assert_eq!(pair.server.got[&id].len(), 10);
    pair.server.streams.app().set_receive(id, true).unwrap();
    pair.server.resume(id);
    pair.settle();
    assert_eq!((&pair.server.got[&id], pair.server.ended[&id]), (&data, 1));
}

#[test]
fn a_fin_that_came_while_receiving_was_off_is_told_when_it_is_on() {
    let mut server = server();
    server.stream(ID, 0, b"abc", false).unwrap();
    server.streams.app().set_receive(ID, false).unwrap();
    assert_eq!(server.stream(ID, 3, b"", true).unwrap(), Delivery::Buffered);
    assert!(server.ended.is_empty());
    server.streams.app().set_receive(ID, true).unwrap();
    server.resume(ID);
    assert_eq!((&server.got[&ID][..], server.ended[&ID]), (&b"abc"[..], 1));
}

#[test]
fn provided_memory_is_filled_in_order_and_comes_back_full() {
    let mut server = opened();
    let data = pattern(100);
    provide(&mut server, 30);
    provide(&mut server, 20);
    assert_eq!(server.stream(ID, 0, &data[..25], false).unwrap(), Delivery::Placed);
    assert_eq!(filled(&mut server), []);
    // Early data waits in the stream's own memory.
    assert_eq!(server.stream(ID, 40, &data[40..60], false).unwrap(), Delivery::Placed);
    assert_eq!(server.stream(ID, 25, &data[25..40], false).unwrap(), Delivery::Placed);
    let first = (data[..30].to_vec(), 30, false);
    let second = (data[30..50].to_vec(), 20, false);
    assert_eq!(filled(&mut server), [first, second, NEEDED]);
    server.stream(ID, 60, &data[60..90], false).unwrap();
    assert_eq!(filled(&mut server), [], "told once");
    assert_eq!(server.streams.app().received(ID), Some(50));
    provide(&mut server, 45);
    server.stream(ID, 90, &data[90..], true).unwrap();
    let third = (data[50..95].to_vec(), 45, false);
    assert_eq!(filled(&mut server), [third, NEEDED]);
    provide(&mut server, 45);
    assert_eq!(filled(&mut server), [(data[95..].to_vec(), 45, true)]);
    assert!(!server.got.contains_key(&ID), "no callback was shown anything");
    let late = server.streams.app().provide(ID, BytesMut::zeroed(1));
    assert_eq!(late, Err(ReceiveError::Ended));
}

#[test]
fn an_end_without_memory_and_memory_without_data_are_both_told() {
    let mut full = opened();
    provide(&mut full, 3);
    full.stream(ID, 0, b"abc", false).unwrap();
    assert_eq!(filled(&mut full), [(b"abc".to_vec(), 3, false), NEEDED]);
    full.stream(ID, 3, b"", true).unwrap();
    assert_eq!(filled(&mut full), [(Vec::new(), 0, true)]);

    let mut reset = opened();
    provide(&mut reset, 3);
    provide(&mut reset, 4);
    reset.stream(ID, 0, b"a", false).unwrap();
    reset.streams.on_reset_stream(ID, 7, 10).unwrap();
    reset.resume(ID);
    let order: Vec<_> = reset.events.iter().skip(1).cloned().collect();
    assert!(matches!(order[0], StreamEvent::Reset { .. }), "{order:?}");
    assert_eq!(filled(&mut reset), [(b"a".to_vec(), 3, false), (Vec::new(), 4, false)]);

    let mut stopped = opened();
    provide(&mut stopped, 3);
    stopped.streams.app().stop_sending(ID, 1).unwrap();
    stopped.resume(ID);
    assert_eq!(filled(&mut stopped), [(Vec::new(), 3, false)]);

    let mut over = opened();
    provide(&mut over, 3);
    over.stream(ID, 0, b"a", false).unwrap();
    let taken = over.streams.app().take_provided(ID).unwrap();
    assert_eq!((&taken.0[..taken.1], taken.0.len()), (&b"a"[..], 3));
    provide(&mut over, 8);
    let mut told = Vec::new();
    std::mem::replace(&mut over.streams, Streams::new(Side::Server, AMPLE))
        .end(|event| told.push(event));
    let back = |event: &StreamEvent| matches!(event, StreamEvent::BufferFilled { len: 0, .. });
    assert!(back(&told[0]) && told.len() == 2, "{told:?}");
}

#[test]
fn memory_that_is_provided_in_a_callback_takes_what_the_callback_left() {
    let mut server = server();
    server.appetite = 2;
    server.stream(ID, 0, b"abcdef", false).unwrap();
    provide(&mut server, 3);
    assert_eq!(filled(&mut server), [(b"cde".to_vec(), 3, false), NEEDED]);
    provide(&mut server, 2);
    server.stream(ID, 6, b"", true).unwrap();
    assert_eq!(filled(&mut server), [(b"f".to_vec(), 2, true)]);
}

#[test]
fn a_gap_that_closes_in_provided_memory_opens_the_window() {
    let small = Limits { stream_data_bidi_remote: 1_000, ..AMPLE };
    let mut server = End::new(Side::Server, small);
    server.stream(ID, 0, b"", false).unwrap();
    provide(&mut server, 5_000);
    let data = pattern(1_000);
    server.stream(ID, 100, &data[100..], false).unwrap();
    // What arrived early arrives again with what was missing: nothing of it is next in order alone.
    assert_eq!(server.stream(ID, 0, &data[..500], false).unwrap(), Delivery::Placed);
    let packet = server.packet(100).unwrap();
    assert_eq!(packet.read(), [Frame::MaxStreamData { stream: ID, max: 2_000 }]);
}

#[test]
fn no_window_is_lost_to_provided_memory_however_packets_come() {
    let small = Limits { data: 3_000, stream_data_bidi_remote: 1_000, ..AMPLE };
    let mut pair = Pair::new(AMPLE, small);
    let data = pattern(20_000);
    let id = pair.client_sends(Dir::Bi, &data, true);
    let mut got = Vec::new();
    pair.server.stream(id, 0, b"", false).unwrap();
    provide(&mut pair.server, 1);
    while pair.server.ended.is_empty() && got.len() < data.len() {
        let mut flight = pair.client.flight(300);
        flight.reverse();
        for packet in &flight {
            pair.server.receive(packet).unwrap();
        }
        flight.iter().for_each(|packet| pair.client.acked(packet));
        got.extend(filled(&mut pair.server).into_iter().flat_map(|one| one.0));
        let more = pair.server.streams.app().provide(id, BytesMut::zeroed(777));
        assert!(more.is_ok() || got.len() == data.len());
        for packet in pair.server.flight(300) {
            pair.client.receive(&packet).unwrap();
            pair.server.acked(&packet);
        }
        pair.server.resume(id);
    }
    assert!(got == data);
}

#[test]
fn memory_without_room_is_refused() {
    let mut server = opened();
    let app = &mut server.streams.app();
    // Room without length is none: `with_capacity` instead of `zeroed`.
    for buffer in [BytesMut::new(), BytesMut::with_capacity(100)] {
        assert_eq!(app.provide(ID, buffer), Err(ReceiveError::EmptyBuffer));
    }
    // Nothing was provided: callbacks are shown data.
    server.stream(ID, 0, b"abc", true).unwrap();
    assert_eq!((&server.got[&ID][..], server.ended[&ID]), (&b"abc"[..], 1));
}

/// Brings a stream to a lone end that is about to be shown; `late`: that waited while receiving was off.
fn lone_end(late: bool) -> (Streams, StreamRef) {
    let mut server = server();
    server.stream(ID, 0, b"abc", false).unwrap();
    let stream = if late {
        server.streams.app().set_receive(ID, false).unwrap();
        server.stream(ID, 3, b"", true).unwrap();
        server.streams.app().set_receive(ID, true).unwrap();
        server.streams.next_resumed().unwrap()
    } else {
        let delivery = server.streams.on_stream(ID, 3, b"", true).unwrap();
        let Delivery::Lend { stream, skip: 0, fin: true } = delivery else {
            panic!("{delivery:?}")
        };
        stream
    };
    (server.streams, stream)
}

#[test]
fn an_end_that_a_callback_is_shown_is_told_by_nothing_else() {
    let ended = Err(ReceiveError::Ended);
    for late in [false, true] {
        let (mut streams, stream) = lone_end(late);
        let buffer = late.then(|| streams.detach_ready(stream).unwrap());
        if let Some(buffer) = &buffer {
            assert_eq!(buffer.front(), (&b""[..], true));
        } else {
            assert!(streams.is_to_show(stream, b"", true));
        }
        // Within the callback.
        assert_eq!(streams.app().read(ID, &mut [0; 9]), Err(ReceiveError::Ended));
        assert_eq!(streams.app().provide(ID, BytesMut::zeroed(9)), ended);
        assert_eq!(streams.app().set_receive(ID, true), ended);
        match buffer {
            Some(buffer) => streams.attach(stream, buffer, 0),
            None => streams.taken(stream, 0, b"", true),
        }
        let next = streams.next_resumed().and_then(|next| streams.detach_ready(next));
        assert!(next.is_none() && streams.detach_ready(stream).is_none());
        let ends = |event: &StreamEvent| matches!(event, StreamEvent::BufferFilled { .. });
        assert!(!std::iter::from_fn(|| streams.pop_event()).any(|event| ends(&event)));
    }
}

/// Sends a megabyte through windows of a kilobyte, over a path whose round trip takes a second. Returns
/// how many round trips it took, and the receiver's counters.
fn transfer(appetite: usize) -> (u64, u64) {
    let small = Limits { data: 2_000, stream_data_bidi_remote: 1_000, ..AMPLE };
    let mut pair = Pair::new(AMPLE, small);
    let bounds = Bounds { stream_window: 100_000, connection_window: 200_000, ..Bounds::default() };
    pair.server.streams = Streams::with_bounds(Side::Server, small, bounds);
    pair.server.streams.set_peer_limits(&AMPLE);
    let id = pair.client_sends(Dir::Bi, &pattern(1_000_000), true);
    pair.server.appetite = appetite;
    let mut trips = 0;
    while pair.server.ended.is_empty() && trips < 1_000 {
        trips += 1;
        pair.server.streams.set_clock(Instant::from_nanos(trips * 1_000_000_000), 1_000_000_000);
        for packet in pair.client.flight(1_200) {
            pair.server.receive(&packet).unwrap();
            pair.client.acked(&packet);
        }
        pair.server.resume(id);
        for packet in pair.server.flight(1_200) {
            pair.client.receive(&packet).unwrap();
            pair.server.acked(&packet);
        }
    }
    (trips, pair.server.streams.stats().windows_grown)
}

#[test]
fn windows_grow_for_a_fast_application_and_not_for_a_slow_one() {
    let (trips, grown) = transfer(usize::MAX);
    assert!(trips < 40 && grown >= 12, "{trips} round trips, {grown} times");
    // Fixed windows would take 1,000 round trips.
    let (trips, grown) = transfer(100);
    assert_eq!((trips, grown), (1_000, 0));
}
