//! Copied sends, and counts of streams.

use super::harness::{AMPLE, End, Pair, pattern};
use crate::proto::streams::{Bounds, Limits, OpenError, SendError, StreamEvent, Streams};
use crate::wire::frame::Frame;
use crate::wire::{Dir, Side, StreamId};
use bytes::Bytes;

const LIMIT: u32 = 1_000;

/// A client that buffers so much of a stream, with one open.
fn client() -> (Pair, StreamId) {
    let mut pair = Pair::ample();
    let bounds = Bounds { send_copy_bytes: LIMIT, open_streams: 12, ..Bounds::default() };
    pair.client.streams = Streams::with_bounds(Side::Client, AMPLE, bounds);
    pair.client.streams.set_peer_limits(&AMPLE);
    let id = pair.client.streams.app().open(Dir::Bi).unwrap();
    (pair, id)
}

fn ready(pair: &Pair) -> usize {
    let ready = |event: &&StreamEvent| matches!(event, StreamEvent::SendReady { .. });
    pair.client.events.iter().filter(ready).count()
}

#[test]
fn small_copies_arrive_as_one() {
    let (mut pair, id) = client();
    let data = pattern(600);
    for (n, part) in data.chunks(6).enumerate() {
        let mut scratch = part.to_vec();
        assert_eq!(pair.client.streams.app().send_copy(id, &scratch, n == 99), Ok(6));
        // Ours again at once.
        scratch.fill(0xee);
    }
    let packet = pair.client.packet(1_200).unwrap();
    assert_eq!(packet.read().len(), 1);
    pair.server.receive(&packet).unwrap();
    assert_eq!((&pair.server.got[&id], pair.server.ended[&id]), (&data, 1));
    assert_eq!(pair.client.streams.app().send_copy(id, b"x", false), Err(SendError::Finished));
}

#[test]
fn what_finds_no_room_is_left_and_room_is_told_when_half_is_free() {
    let (mut pair, id) = client();
    let data = pattern(1_700);
    let limit = u64::from(LIMIT);
    assert_eq!(pair.client.streams.app().send_copy(id, &data[..700], false), Ok(700));
    assert_eq!(pair.client.streams.app().send_copy(id, &data[700..], true), Ok(300));
    let full = Err(SendError::Full { limit });
    assert_eq!(pair.client.streams.app().send_copy(id, &data[1_000..], true), full);
    let late = Bytes::copy_from_slice(&data[1_000..]);
    assert_eq!(
        pair.client.streams.app().send_copied(id, late, true),
        Err(SendError::Full { limit })
    );
    assert_eq!(pair.client.streams.stats().short_copies, 3);
    let flight = pair.client.flight(403);
    assert_eq!(flight.len(), 3);
    flight.iter().for_each(|packet| assert!(pair.server.receive(packet).unwrap()));
    pair.client.acked(&flight[0]);
    assert_eq!(ready(&pair), 0, "600 of 1,000 are buffered");
    pair.client.acked(&flight[1]);
    assert_eq!(ready(&pair), 1);
    pair.client.acked(&flight[2]);
    assert_eq!(ready(&pair), 1, "nobody waits any more");
    assert_eq!(pair.client.streams.app().send_copy(id, &data[1_000..], true), Ok(700));
    pair.settle();
    assert_eq!((&pair.server.got[&id], pair.server.ended[&id]), (&data, 1));
}

#[test]
fn a_piece_that_would_never_fit_is_said_to_be_too_large() {
    let (mut pair, id) = client();
    let limit = u64::from(LIMIT);
    let piece = Bytes::from(pattern(1_001));
    let sent = pair.client.streams.app().send_copied(id, piece, true);
    assert_eq!(sent, Err(SendError::TooLarge { limit }));
    // Nothing waits: no event will come.
    assert_eq!(pair.client.streams.app().send_copy(id, &pattern(1_000), false), Ok(1_000));
    pair.settle();
    assert_eq!(ready(&pair), 0);
    let bounds = Bounds { send_copy_bytes: 0, ..Bounds::default() };
    pair.client.streams = Streams::with_bounds(Side::Client, AMPLE, bounds);
    pair.client.streams.set_peer_limits(&AMPLE);
    let id = pair.client.streams.app().open(Dir::Bi).unwrap();
    let none = Err(SendError::TooLarge { limit: 0 });
    assert_eq!(pair.client.streams.app().send_copy(id, b"x", false), none);
    assert_eq!(pair.client.streams.app().send_copy(id, b"", true), Ok(0));
}

/// Bytes of a block of copies.
const BLOCK: usize = 4096;

/// A client that has three blocks for copies of all streams, two of a stream, and some streams open.
fn sharing() -> (Pair, [StreamId; 4]) {
    let mut pair = Pair::ample();
    let bounds = Bounds {
        send_copy_bytes: 2 * BLOCK as u32,
        connection_send_copy_bytes: 3 * BLOCK as u32,
        ..Bounds::default()
    };
    pair.client.streams = Streams::with_bounds(Side::Client, AMPLE, bounds);
    pair.client.streams.set_peer_limits(&AMPLE);
    let ids = [0; 4].map(|_| pair.client.streams.app().open(Dir::Bi).unwrap());
    (pair, ids)
}

/// The streams that were told that there is room.
fn told_ready(pair: &mut Pair) -> Vec<StreamId> {
    let events = std::iter::from_fn(|| pair.client.streams.pop_event());
    let all: Vec<_> = std::mem::take(&mut pair.client.events).into_iter().chain(events).collect();
    let ready = |event| match event {
        StreamEvent::SendReady { stream } => Some(stream),
        _ => None,
    };
    all.into_iter().filter_map(ready).collect()
}

const FULL: SendError = SendError::ConnectionFull { limit: 3 * BLOCK as u64 };

#[test]
fn copies_of_all_streams_have_a_bound_together() {
    let (mut pair, [a, b, c, lent]) = sharing();
    let data = pattern(2 * BLOCK);
    let mut app = pair.client.streams.app();
    assert_eq!(app.send_copy(a, &data, false), Ok(2 * BLOCK));
    // What is lent takes no memory of ours.
    app.send(lent, data.clone().into(), false).unwrap();
    assert_eq!(app.send_copy(b, &data, false), Ok(BLOCK));
    assert_eq!(app.send_copy(c, &data, false), Err(FULL));
    assert_eq!(app.send_copied(c, data.clone().into(), false), Err(FULL));
    assert_eq!(pair.client.streams.stats().short_copies, 3);
    pair.settle();
    assert_eq!(told_ready(&mut pair), [b, c], "once each");
    let mut app = pair.client.streams.app();
    assert_eq!(app.send_copied(c, data.clone().into(), true), Ok(()));
    assert_eq!(app.send_copy(b, &data[BLOCK..], true), Ok(BLOCK));
    assert_eq!(app.send_copy(a, b"x", false), Err(FULL));
    pair.settle();
    assert_eq!(told_ready(&mut pair), [a]);
    assert!(pair.server.got[&b] == data && pair.server.got[&c] == data);
}

#[test]
fn a_byte_in_a_block_counts_as_the_block_and_a_reset_frees_it() {
    let (mut pair, [a, b, c, d]) = sharing();
    let mut app = pair.client.streams.app();
    for id in [a, b, c] {
        assert_eq!(app.send_copy(id, b"x", false), Ok(1));
    }
    assert_eq!(app.send_copy(d, b"x", false), Err(FULL));
    assert_eq!(app.send_copy(c, &pattern(BLOCK - 1), false), Ok(BLOCK - 1), "its block has room");
    app.reset(a, 0).unwrap();
    assert_eq!(told_ready(&mut pair), [], "two of three blocks are taken");
    pair.client.streams.app().reset(b, 0).unwrap();
    assert_eq!(told_ready(&mut pair), [d]);
    assert_eq!(pair.client.streams.app().send_copy(d, b"x", true), Ok(1));
    pair.settle();
    assert_eq!((&pair.server.got[&d][..], pair.server.ended[&d]), (&b"x"[..], 1));
}

#[test]
fn copies_and_lent_data_keep_their_order_and_survive_losses() {
    let (mut pair, id) = client();
    let data = pattern(900);
    for (n, part) in data.chunks(50).enumerate() {
        if n % 3 == 0 {
            pair.client.streams.app().send(id, Bytes::copy_from_slice(part), false).unwrap();
        } else {
            assert_eq!(pair.client.streams.app().send_copy(id, part, false), Ok(50));
        }
    }
    let flight = pair.client.flight(110);
    flight.iter().for_each(|packet| pair.client.lost(packet));
    assert_eq!(pair.client.streams.app().send_copy(id, b"!", true), Ok(1));
    pair.settle();
    assert_eq!(pair.server.got[&id], [&data[..], b"!"].concat());
    pair.client.streams.shrink();
    assert!(pair.client.streams.app().reset(id, 1).is_err(), "all is acknowledged");
}

#[test]
fn a_peer_that_needs_streams_is_told_of_once_for_each_limit() {
    let (mut pair, _) = client();
    assert_eq!(pair.client.streams.app().available(Dir::Bi), AMPLE.streams_bidi - 1);
    let needed = |limit, pair: &mut Pair| {
        let frame = Frame::StreamsBlocked { dir: Dir::Uni, limit };
        pair.client.events.clear();
        pair.client.frame(&frame).unwrap();
        pair.client.events.clone()
    };
    let event = StreamEvent::Needed { dir: Dir::Uni };
    assert_eq!(needed(AMPLE.streams_uni - 1, &mut pair), []);
    assert_eq!(needed(AMPLE.streams_uni, &mut pair), [event]);
    assert_eq!(needed(AMPLE.streams_uni, &mut pair), []);
    // The bound is below what the transport parameters granted.
    assert_eq!(pair.client.streams.app().grant_streams(Dir::Uni, 5), AMPLE.streams_uni);
    assert!(!pair.client.streams.has_control());
    assert_eq!(pair.server.streams.app().available(Dir::Uni), AMPLE.streams_uni);
}

/// What a server with two unidirectional streams tells of a peer that says it is blocked at `limit`.
fn complains(server: &mut End, limit: u64) -> usize {
    server.events.clear();
    server.frame(&Frame::StreamsBlocked { dir: Dir::Uni, limit }).unwrap();
    let needed = StreamEvent::Needed { dir: Dir::Uni };
    server.events.iter().filter(|event| **event == needed).count()
}

#[test]
fn a_limit_that_is_repeated_after_a_loss_is_no_new_limit() {
    let mut server = End::new(Side::Server, Limits { streams_uni: 2, ..AMPLE });
    assert_eq!(complains(&mut server, 2), 1);
    assert_eq!(server.streams.app().grant_streams(Dir::Uni, 3), 5);
    // The answer is on its way.
    assert_eq!(complains(&mut server, 2), 0);
    let grant = server.packet(100).unwrap();
    assert_eq!(grant.read(), [Frame::MaxStreams { dir: Dir::Uni, max: 5 }]);
    assert_eq!(complains(&mut server, 2), 0, "of the limit before");
    assert_eq!(complains(&mut server, 5), 1);
    // Declared lost, though it arrived: the same limit goes out again.
    server.lost(&grant);
    assert_eq!(complains(&mut server, 5), 0);
    assert_eq!(server.packet(100).unwrap().read(), grant.read());
    assert_eq!(complains(&mut server, 5), 0, "told before");
}

#[test]
fn a_peer_that_is_blocked_while_its_limit_is_repeated_is_heard() {
    let mut server = End::new(Side::Server, Limits { streams_uni: 2, ..AMPLE });
    assert_eq!(server.streams.app().grant_streams(Dir::Uni, 3), 5);
    let grant = server.packet(100).unwrap();
    server.lost(&grant);
    assert_eq!(complains(&mut server, 5), 1);
}

#[test]
fn streams_that_are_granted_at_run_time_can_be_opened() {
    let few = Limits { streams_uni: 2, ..AMPLE };
    let mut pair = Pair::new(AMPLE, few);
    for _ in 0..2 {
        pair.client_sends(Dir::Uni, b"x", false);
    }
    let limit = Err(OpenError::LimitReached { limit: 2 });
    assert_eq!(pair.client.streams.app().open(Dir::Uni), limit);
    pair.settle();
    assert!(pair.server.events.contains(&StreamEvent::Needed { dir: Dir::Uni }));
    assert_eq!(pair.server.streams.app().grant_streams(Dir::Uni, 3), 5);
    pair.settle();
    assert!(pair.client.events.contains(&StreamEvent::Available { dir: Dir::Uni, count: 3 }));
    for _ in 0..3 {
        pair.client_sends(Dir::Uni, b"x", false);
    }
    assert!(pair.client.streams.app().open(Dir::Uni).is_err());
    pair.settle();
    let needed = StreamEvent::Needed { dir: Dir::Uni };
    let count = pair.server.events.iter().filter(|event| **event == needed).count();
    assert_eq!(count, 2, "once for each limit");
}
