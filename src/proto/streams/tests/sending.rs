//! Sending, and what becomes of what was sent.

use super::harness::{AMPLE, Pair, pattern};
use crate::proto::streams::{StreamEvent, StreamsStats};
use crate::wire::Dir;
use bytes::Bytes;

#[test]
fn a_request_and_its_answer_leave_nothing_behind() {
    let mut pair = Pair::ample();
    for round in 0..300 {
        let id = pair.client_sends(Dir::Bi, b"request", true);
        pair.client.streams.set_context(id, round);
        pair.settle();
        assert_eq!(pair.server.got[&id], b"request");
        pair.server.streams.send(id, Bytes::from_static(b"answer"), true).unwrap();
        pair.settle();
        assert_eq!(pair.client.got[&id], b"answer");
        assert_eq!((pair.client.ended[&id], pair.server.ended[&id]), (1, 1));
        assert!(
            pair.client.events.contains(&StreamEvent::Closed { stream: id, context: round }),
            "round {round}: {:?}",
            pair.client.events
        );
    }
    for end in [&pair.client, &pair.server] {
        let StreamsStats { open, closed, .. } = end.streams.stats();
        assert_eq!((open, closed), (0, 300));
    }
}

#[test]
fn bulk_arrives_through_windows_smaller_than_itself() {
    let mut small = AMPLE;
    small.data = 5_000;
    small.stream_data_uni = 3_000;
    let mut pair = Pair::new(AMPLE, small);
    let data = pattern(100_000);
    let id = pair.client_sends(Dir::Uni, &data, true);
    pair.settle();
    assert_eq!(pair.server.got[&id], data);
    assert_eq!(pair.client.streams.stats().open, 0);
    assert_eq!(pair.server.streams.stats().consumed_bytes, 100_000);
}
