//! What an application is told of single sends, and when the connection ends.

use super::harness::{AMPLE, End, Pair};
use crate::proto::streams::{SendError, StreamEvent};
use crate::wire::{Dir, Side, StreamId};
use bytes::Bytes;

fn send(end: &mut End, id: StreamId, len: usize, fin: bool, context: u64) {
    let data = Bytes::from(vec![1; len]);
    end.streams.app().send_tracked(id, data, fin, context).unwrap();
}

/// Contexts of the sends that are over, those cancelled with a minus.
fn complete(end: &End) -> Vec<i64> {
    let one = |event: &StreamEvent| match *event {
        StreamEvent::SendComplete { context, cancelled, .. } => {
            Some(if cancelled { -(context as i64) } else { context as i64 })
        }
        _ => None,
    };
    end.events.iter().filter_map(one).collect()
}

fn open(pair: &mut Pair) -> StreamId {
    pair.client.streams.app().open(Dir::Bi).unwrap()
}

#[test]
fn a_send_is_complete_once_all_of_it_is_acknowledged() {
    let mut pair = Pair::ample();
    let id = open(&mut pair);
    send(&mut pair.client, id, 150, false, 1);
    pair.client.streams.app().send(id, Bytes::from_static(&[1; 50]), false).unwrap();
    send(&mut pair.client, id, 100, false, 2);
    send(&mut pair.client, id, 0, false, 3);
    send(&mut pair.client, id, 100, true, 4);
    let flight = pair.client.flight(110);
    assert_eq!(flight.len(), 4);
    // 107 bytes each: the last first, then the third, which completes nothing.
    pair.client.acked(&flight[3]);
    pair.client.acked(&flight[2]);
    assert!(complete(&pair.client).is_empty());
    pair.client.acked(&flight[0]);
    assert!(complete(&pair.client).is_empty());
    pair.client.acked(&flight[1]);
    assert_eq!(complete(&pair.client), [1, 2, 3, 4], "once, in order");
    let again = pair.client.streams.app().send_tracked(id, Bytes::new(), true, 5);
    assert_eq!(again, Err(SendError::Finished));
    pair.client.lost(&flight[1]);
    pair.settle();
    assert_eq!(complete(&pair.client).len(), 4);
}

#[test]
fn a_lone_fin_is_a_send_and_a_send_of_nothing_is_complete_at_once() {
    let mut pair = Pair::ample();
    let id = open(&mut pair);
    send(&mut pair.client, id, 0, false, 1);
    assert!(complete(&pair.client).is_empty() && pair.client.streams.has_event());
    // Told with the next look, though nothing is sent for it.
    pair.client.resume(id);
    assert_eq!(complete(&pair.client), [1]);
    pair.client.streams.app().send(id, Bytes::from_static(b"x"), false).unwrap();
    pair.settle();
    send(&mut pair.client, id, 0, true, 2);
    pair.client.resume(id);
    assert_eq!(complete(&pair.client), [1]);
    pair.settle();
    assert_eq!(complete(&pair.client), [1, 2]);
}

#[test]
fn what_a_reset_leaves_unacknowledged_is_cancelled_before_the_stream_closes() {
    for stopped in [false, true] {
        let mut pair = Pair::ample();
        let id = open(&mut pair);
        send(&mut pair.client, id, 50, false, 1);
        let first = pair.client.packet(110).unwrap();
        send(&mut pair.client, id, 50, false, 2);
        send(&mut pair.client, id, 0, true, 3);
        pair.server.receive(&first).unwrap();
        pair.client.acked(&first);
        if stopped {
            pair.server.streams.app().stop_sending(id, 9).unwrap();
            let stop = pair.server.packet(110).unwrap();
            pair.client.receive(&stop).unwrap();
        } else {
            pair.client.streams.app().reset(id, 9).unwrap();
        }
        pair.settle();
        assert_eq!(complete(&pair.client), [1, -2, -3]);
        if pair.server.streams.app().send(id, Bytes::new(), true).is_ok() {
            pair.settle();
        }
        assert!(matches!(pair.client.events.last(), Some(StreamEvent::Closed { .. })));
    }
}

#[test]
fn the_end_of_the_connection_cancels_sends_and_closes_every_stream_that_is_known() {
    let mut pair = Pair::ample();
    let (a, b) = (open(&mut pair), open(&mut pair));
    send(&mut pair.client, a, 50, false, 1);
    let packet = pair.client.packet(110).unwrap();
    send(&mut pair.client, a, 50, false, 2);
    send(&mut pair.client, b, 50, true, 3);
    pair.client.streams.app().set_context(b, 77);
    let done = pair.client_sends(Dir::Uni, b"x", true);
    // Acknowledged, and the application was not told yet.
    packet.frames.iter().for_each(|frame| pair.client.streams.on_acked(frame));
    let mut told = Vec::new();
    std::mem::replace(&mut pair.client.streams, End::new(Side::Client, AMPLE).streams)
        .end(|event| told.push(event));
    let over =
        |stream, context, cancelled| StreamEvent::SendComplete { stream, context, cancelled };
    let closed = |stream, context| StreamEvent::Closed { stream, context };
    assert_eq!(
        told,
        [
            over(a, 1, false),
            over(a, 2, true),
            closed(a, 0),
            over(b, 3, true),
            closed(b, 77),
            closed(done, 0),
        ]
    );
    // The peer's application was never told of a stream that it does not know.
    let mut server = End::new(Side::Server, AMPLE);
    server.streams.on_stream(a, 0, b"x", false).unwrap();
    server.streams.end(|event| panic!("{event:?}"));
}

#[test]
fn tracking_needs_no_more_memory_the_second_time() {
    let mut pair = Pair::ample();
    let mut held = 0;
    for round in 0..200 {
        let id = pair.client.streams.app().open(Dir::Uni).unwrap();
        for context in 0..10 {
            send(&mut pair.client, id, 10, context == 9, context);
        }
        pair.settle();
        let memory = pair.client.streams.memory_bytes();
        assert!(round < 2 || memory == held, "{held} bytes, then {memory}");
        held = memory;
    }
    assert_eq!(complete(&pair.client).len(), 2_000);
}
