//! From opening to closing: states, events, credit for streams.

use super::harness::{AMPLE, End, Pair, pattern};
use crate::proto::sent::StreamFrame;
use crate::proto::streams::{
    Delivery, Limits, OpenError, ReceiveError, SendError, StreamEvent, StreamsStats,
};
use crate::wire::frame::Frame;
use crate::wire::{Dir, Side, StreamId};
use bytes::Bytes;

fn closed(events: &[StreamEvent]) -> usize {
    events.iter().filter(|event| matches!(event, StreamEvent::Closed { .. })).count()
}

#[test]
fn a_request_and_its_answer_leave_nothing_behind() {
    let mut pair = Pair::ample();
    for round in 0..300 {
        let id = pair.client_sends(Dir::Bi, b"request", true);
        pair.client.streams.app().set_context(id, round);
        pair.settle();
        assert_eq!(pair.server.got[&id], b"request");
        pair.server.streams.app().send(id, Bytes::from_static(b"answer"), true).unwrap();
        pair.settle();
        assert_eq!(pair.client.got[&id], b"answer");
        assert_eq!((pair.client.ended[&id], pair.server.ended[&id]), (1, 1));
        let end = StreamEvent::Closed { stream: id, context: round };
        let available = |event: &&StreamEvent| !matches!(event, StreamEvent::Available { .. });
        assert_eq!(pair.client.events.iter().rfind(available), Some(&end));
        assert_eq!(pair.client.streams.app().context(id), None);
    }
    for end in [&mut pair.client, &mut pair.server] {
        let StreamsStats { open, closed, .. } = end.streams.stats();
        assert_eq!((open, closed), (0, 300));
        end.streams.shrink();
        assert_eq!(end.streams.memory_bytes(), size_of_val(&end.streams));
    }
}

#[test]
fn bulk_arrives_through_windows_smaller_than_itself() {
    let small = Limits { data: 5_000, stream_data_uni: 3_000, ..AMPLE };
    let mut pair = Pair::new(AMPLE, small);
    let data = pattern(100_000);
    let id = pair.client_sends(Dir::Uni, &data, true);
    pair.settle();
    assert_eq!(pair.server.got[&id], data);
    assert_eq!(pair.client.streams.stats().open, 0);
    assert_eq!(pair.server.streams.stats().consumed_bytes, 100_000);
}

#[test]
fn no_more_streams_than_allowed_and_new_ones_after_old_ones_closed() {
    let mut pair = Pair::new(AMPLE, Limits { streams_uni: 4, ..AMPLE });
    for _ in 0..4 {
        pair.client_sends(Dir::Uni, b"x", true);
    }
    assert_eq!(pair.client.streams.app().open(Dir::Uni), Err(OpenError::LimitReached { limit: 4 }));
    assert_eq!(pair.client.streams.app().open(Dir::Uni), Err(OpenError::LimitReached { limit: 4 }));
    let packet = pair.client.packet(1_200).unwrap();
    let blocked = Frame::StreamsBlocked { dir: Dir::Uni, limit: 4 };
    assert_eq!(packet.read().iter().filter(|&frame| *frame == blocked).count(), 1);
    assert!(!pair.client.streams.has_control());
    pair.server.receive(&packet).unwrap();
    pair.client.acked(&packet);
    pair.settle();
    assert!(pair.client.events.contains(&StreamEvent::Available { dir: Dir::Uni, count: 4 }));
    assert_eq!(pair.client.streams.app().open(Dir::Uni).map(StreamId::index), Ok(4));
    // Streams of the other kind are not concerned.
    assert!(pair.client.streams.app().open(Dir::Bi).is_ok());
}

#[test]
fn a_complaint_that_was_answered_is_not_made() {
    let mut pair = Pair::new(AMPLE, Limits { streams_uni: 0, ..AMPLE });
    assert!(pair.client.streams.app().open(Dir::Uni).is_err());
    assert!(pair.client.streams.has_control());
    pair.client.streams.on_max_streams(Dir::Uni, 3).unwrap();
    assert!(!pair.client.streams.has_control());
    pair.client.streams.on_lost(&StreamFrame::StreamsBlocked { dir: Dir::Uni });
    assert!(!pair.client.streams.has_control());
}

#[test]
fn a_stream_that_closes_takes_along_what_it_owed() {
    let limits = Limits { stream_data_uni: 100, ..AMPLE };
    let mut server = End::new(Side::Server, limits);
    let id = |index| StreamId::new(Side::Client, Dir::Uni, index);
    for index in 0..2 {
        server.stream(id(index), 0, &[0; 60], false).unwrap();
    }
    server.stream(id(0), 60, b"", true).unwrap();
    assert_eq!(server.streams.stats().closed, 1);
    // Takes the slot.
    server.stream(id(2), 0, b"x", false).unwrap();
    let packet = server.packet(1_200).unwrap();
    assert_eq!(packet.read(), [Frame::MaxStreamData { stream: id(1), max: 160 }]);
}

#[test]
fn a_lost_max_streams_is_said_again() {
    let mut pair = Pair::new(AMPLE, Limits { streams_uni: 1, ..AMPLE });
    for round in 1..5 {
        pair.client_sends(Dir::Uni, b"x", true);
        let up = pair.client.packet(1_200).unwrap();
        pair.server.receive(&up).unwrap();
        pair.client.acked(&up);
        let grant = pair.server.packet(1_200).unwrap();
        pair.server.lost(&grant);
        let again = pair.server.packet(1_200).unwrap();
        assert_eq!(again.read(), [Frame::MaxStreams { dir: Dir::Uni, max: round + 1 }]);
        pair.client.receive(&again).unwrap();
    }
}

#[test]
fn a_reset_gives_back_what_was_lent_and_agrees_on_the_final_size() {
    let mut pair = Pair::ample();
    let owner = Bytes::from(pattern(1_000));
    let id = pair.client.streams.app().open(Dir::Bi).unwrap();
    pair.client.streams.app().send(id, owner.clone(), true).unwrap();
    let first = pair.client.packet(310).unwrap();
    pair.server.receive(&first).unwrap();
    pair.client.streams.app().reset(id, 77).unwrap();
    assert!(owner.is_unique());
    assert!(!pair.client.streams.has_data());
    assert_eq!(pair.client.streams.app().send(id, owner, false), Err(SendError::Reset));
    assert_eq!(pair.client.streams.app().reset(id, 78), Err(SendError::Reset));
    let reset = pair.client.packet(1_200).unwrap();
    let size = pair.server.got[&id].len() as u64;
    assert_eq!(reset.read(), [Frame::ResetStream { stream: id, code: 77, final_size: size }]);
    // Lost, and the data's fate means nothing any more.
    pair.client.lost(&first);
    pair.client.lost(&reset);
    assert!(!pair.client.streams.has_data());
    let again = pair.client.packet(1_200).unwrap();
    assert_eq!(again.bytes, reset.bytes);
    pair.server.receive(&again).unwrap();
    pair.server.receive(&again).unwrap();
    pair.client.acked(&again);
    pair.client.lost(&reset);
    assert!(!pair.client.streams.has_control());
    let resets: Vec<_> = pair.server.events.iter().skip(1).collect();
    assert_eq!(resets, [&StreamEvent::Reset { stream: id, code: 77 }]);
    // The other direction goes on.
    pair.server.streams.app().send(id, Bytes::from_static(b"still here"), true).unwrap();
    pair.settle();
    assert_eq!(pair.client.got[&id], b"still here");
    assert_eq!((closed(&pair.client.events), closed(&pair.server.events)), (1, 1));
}

#[test]
fn stop_sending_is_answered_by_a_reset_with_its_code() {
    // RFC 9000 §3.5.
    let mut pair = Pair::ample();
    let id = pair.client_sends(Dir::Bi, &pattern(5_000), false);
    let packet = pair.client.packet(1_200).unwrap();
    pair.server.receive(&packet).unwrap();
    pair.server.streams.app().stop_sending(id, 42).unwrap();
    let stop = pair.server.packet(1_200).unwrap();
    pair.server.lost(&stop);
    let again = pair.server.packet(1_200).unwrap();
    pair.client.receive(&again).unwrap();
    let told = StreamEvent::StopSending { stream: id, code: 42 };
    assert_eq!(pair.client.events, [told]);
    let late = Bytes::from_static(b"late");
    assert_eq!(pair.client.streams.app().send(id, late, false), Err(SendError::Stopped(42)));
    let reset = pair.client.packet(1_200).unwrap();
    let sent = pair.client.streams.stats().sent_bytes;
    assert_eq!(reset.read(), [Frame::ResetStream { stream: id, code: 42, final_size: sent }]);
    pair.server.receive(&reset).unwrap();
    // Asked for: not told again.
    assert!(!pair.server.events.iter().any(|event| matches!(event, StreamEvent::Reset { .. })));
    pair.server.lost(&stop);
    assert!(!pair.server.streams.has_control());
}

#[test]
fn a_finished_stream_ignores_stop_sending() {
    let mut pair = Pair::ample();
    let id = pair.client_sends(Dir::Bi, b"done", true);
    pair.settle();
    pair.client.frame(&Frame::StopSending { stream: id, code: 1 }).unwrap();
    assert!(!pair.client.streams.has_control());
    assert_eq!(pair.client.streams.app().reset(id, 1), Err(SendError::Finished));
    assert_eq!(pair.client.streams.app().send(id, Bytes::new(), true), Err(SendError::Finished));
}

#[test]
fn a_stream_with_all_its_data_ignores_a_reset() {
    // RFC 9000 §3.2: "Data Recvd".
    let mut pair = Pair::ample();
    pair.server.appetite = 0;
    let id = pair.client_sends(Dir::Uni, b"whole", true);
    let packet = pair.client.packet(1_200).unwrap();
    pair.server.receive(&packet).unwrap();
    pair.server.frame(&Frame::ResetStream { stream: id, code: 1, final_size: 5 }).unwrap();
    pair.server.appetite = 10;
    pair.server.resume(id);
    assert_eq!((&pair.server.got[&id][..], pair.server.ended[&id]), (&b"whole"[..], 1));
}

#[test]
fn a_reset_discards_what_waits_and_opens_the_connections_window() {
    let mut pair = Pair::new(AMPLE, Limits { data: 1_000, ..AMPLE });
    pair.server.appetite = 0;
    let id = pair.client_sends(Dir::Uni, &pattern(800), false);
    let packet = pair.client.packet(1_200).unwrap();
    pair.server.receive(&packet).unwrap();
    assert!(!pair.server.streams.has_control());
    pair.client.streams.app().reset(id, 9).unwrap();
    pair.settle();
    let stats = pair.server.streams.stats();
    assert_eq!((stats.received_bytes, stats.consumed_bytes, stats.open), (800, 800, 0));
    assert!(pair.server.got[&id].is_empty());
    // MAX_DATA came with it.
    let id = pair.client_sends(Dir::Uni, &pattern(1_000), true);
    pair.server.appetite = usize::MAX;
    pair.settle();
    assert_eq!(pair.server.got[&id].len(), 1_000);
}

#[test]
fn each_half_answers_for_itself() {
    let mut pair = Pair::ample();
    let ours = pair.client_sends(Dir::Uni, b"x", false);
    pair.settle();
    assert_eq!(pair.client.streams.app().stop_sending(ours, 0), Err(ReceiveError::NotReceivable));
    assert_eq!(pair.client.streams.app().resume_receive(ours), Err(ReceiveError::NotReceivable));
    let data = Bytes::from_static(b"y");
    assert_eq!(
        pair.server.streams.app().send(ours, data.clone(), false),
        Err(SendError::NotSendable)
    );
    assert_eq!(pair.server.streams.app().reset(ours, 0), Err(SendError::NotSendable));
    let unknown = StreamId::new(Side::Client, Dir::Bi, 5);
    assert_eq!(pair.client.streams.app().send(unknown, data, false), Err(SendError::UnknownStream));
    assert_eq!(pair.client.streams.app().resume_receive(unknown), Err(ReceiveError::UnknownStream));
    assert!(!pair.client.streams.app().set_context(unknown, 1));
    assert_eq!(pair.client.streams.app().buffered(unknown), 0);
}

#[test]
fn the_fate_of_a_frame_of_a_stream_that_is_gone_reaches_no_stream() {
    let mut pair = Pair::ample();
    let first = pair.client_sends(Dir::Uni, b"first", true);
    let old = pair.client.packet(1_200).unwrap();
    pair.server.receive(&old).unwrap();
    pair.client.acked(&old);
    assert_eq!(closed(&pair.client.events), 1);
    let second = pair.client_sends(Dir::Uni, b"second", true);
    assert_ne!(first, second);
    let StreamFrame::Stream { stream, .. } = old.frames[0] else { panic!("a STREAM frame") };
    pair.client.acked(&old);
    pair.client.lost(&old);
    for frame in [
        StreamFrame::ResetStream { stream },
        StreamFrame::StopSending { stream },
        StreamFrame::MaxStreamData { stream },
        StreamFrame::StreamDataBlocked { stream },
    ] {
        pair.client.streams.on_acked(&frame);
        pair.client.streams.on_lost(&frame);
    }
    assert!(!pair.client.streams.has_control());
    assert_eq!(pair.client.streams.app().buffered(second), 6);
    assert_eq!(pair.client.streams.id_of(stream), None);
    assert!(pair.client.streams.detach_ready(stream).is_none());
    pair.client.streams.taken(stream, 3, b"abc", true);
    pair.settle();
    assert_eq!(pair.server.got[&second], b"second");
}

#[test]
fn the_context_lives_until_the_end_is_told() {
    let mut pair = Pair::ample();
    let id = pair.client_sends(Dir::Uni, b"x", true);
    pair.client.streams.app().set_context(id, 99);
    let packet = pair.client.packet(1_200).unwrap();
    packet.frames.iter().for_each(|frame| pair.client.streams.on_acked(frame));
    let told = pair.client.streams.pop_event();
    assert_eq!(told, Some(StreamEvent::Acknowledged { stream: id, bytes: 1, fin: true }));
    assert_eq!(pair.client.streams.app().context(id), Some(99));
    let told = pair.client.streams.pop_event();
    assert_eq!(told, Some(StreamEvent::Closed { stream: id, context: 99 }));
    assert_eq!(pair.client.streams.app().context(id), None);
}

#[test]
fn a_resumed_stream_is_forgotten_when_it_ends() {
    let mut pair = Pair::ample();
    pair.server.appetite = 0;
    let id = pair.client_sends(Dir::Uni, b"abc", false);
    let packet = pair.client.packet(1_200).unwrap();
    pair.server.receive(&packet).unwrap();
    pair.server.streams.app().resume_receive(id).unwrap();
    pair.client.streams.app().reset(id, 0).unwrap();
    let reset = pair.client.packet(1_200).unwrap();
    pair.server.receive(&reset).unwrap();
    assert_eq!(pair.server.streams.stats().open, 0);
    let next = pair.client_sends(Dir::Uni, b"next", true);
    let packet = pair.client.packet(1_200).unwrap();
    pair.server.appetite = 9;
    pair.server.receive(&packet).unwrap();
    assert_eq!(pair.server.got[&next], b"next");
    assert_eq!(pair.server.streams.next_resumed(), None);
}

#[test]
fn ten_thousand_streams_at_once() {
    let many = Limits { streams_bidi: 10_000, data: 1 << 30, ..AMPLE };
    let mut pair = Pair::new(many, many);
    let ids: Vec<_> = (0..10_000).map(|_| pair.client_sends(Dir::Bi, b"hello", true)).collect();
    pair.settle();
    let per_stream = pair.server.streams.memory_bytes() / 10_000;
    assert!(per_stream <= 350, "{per_stream} bytes for each stream");
    for &id in ids.iter().rev() {
        assert_eq!(pair.server.got[&id], b"hello");
        pair.server.streams.app().send(id, Bytes::from_static(b"bye"), true).unwrap();
    }
    pair.settle();
    assert_eq!(closed(&pair.client.events), 10_000);
    assert_eq!(closed(&pair.server.events), 10_000);
    pair.server.streams.shrink();
    assert_eq!(pair.server.streams.memory_bytes(), size_of_val(&pair.server.streams));
    assert!(matches!(pair.server.stream(ids[3], 0, b"again", false), Ok(Delivery::Nothing)));
}
