//! Sending: how packets are filled, and what becomes of what was sent.

use super::harness::{AMPLE, Packet, Pair, pattern};
use crate::proto::sent::StreamFrame;
use crate::proto::streams::{Limits, StreamEvent, Streams};
use crate::wire::frame::Frame;
use crate::wire::{Dir, StreamId, Writer};
use bytes::Bytes;

/// Offset, length and FIN of the STREAM frames of a packet.
fn segments(packet: &Packet) -> Vec<(u64, usize, bool)> {
    packet.read().iter().filter_map(segment).collect()
}

fn segment(frame: &Frame<'_>) -> Option<(u64, usize, bool)> {
    match *frame {
        Frame::Stream { offset, data, fin, .. } => Some((offset, data.len(), fin)),
        _ => None,
    }
}

/// A client with `len` bytes sent in packets of about 100 bytes and not acknowledged.
fn in_flight(len: usize) -> (Pair, StreamId, Vec<u8>, Vec<Packet>) {
    let mut pair = Pair::ample();
    let data = pattern(len);
    let id = pair.client_sends(Dir::Bi, &data, true);
    let flight = pair.client.flight(110);
    assert_eq!(flight.len(), len.div_ceil(107).max(1));
    (pair, id, data, flight)
}

fn deliver_all(pair: &mut Pair, flight: &[Packet]) {
    for packet in flight {
        assert!(pair.server.receive(packet).unwrap());
    }
}

#[test]
fn a_packet_is_filled_to_the_last_byte() {
    let (_, _, _, flight) = in_flight(1_000);
    for packet in &flight[..flight.len() - 1] {
        assert_eq!(packet.bytes.len(), 110);
        assert_eq!(packet.read().len(), 1);
        // RFC 9000 §19.8: no LEN bit, so the data runs to the end.
        assert_eq!(packet.bytes[0] & 0x02, 0);
    }
    let last = flight.last().unwrap();
    assert!(last.bytes.len() < 110);
    assert_eq!(last.bytes[0] & 0x03, 0x03, "LEN and FIN");
}

#[test]
fn every_size_of_data_fits_every_room_without_a_misread() {
    for explicit in [false, true] {
        for len in 50..150 {
            let mut pair = Pair::ample();
            let id = pair.client_sends(Dir::Uni, &pattern(len), true);
            let mut buffer = [0xff; 100];
            let mut w = Writer::new(&mut buffer);
            let mut record = Vec::new();
            if explicit {
                pair.client.streams.write_data_with_lengths(&mut w, &mut |f| record.push(f));
                w.u8(0x01).ok();
            } else {
                pair.client.streams.write_data(&mut w, &mut |f| record.push(f));
            }
            let packet = Packet { bytes: w.written().to_vec(), frames: record };
            let read: Vec<_> = segments(&packet);
            let sent = len.min(if explicit { 96 } else { 98 });
            assert!(read[0].1 >= sent - 1, "{len}: {read:?}");
            assert_eq!(read.len(), 1);
            // Without a length, data that does not reach the end would swallow what follows.
            let has_length = packet.bytes.iter().find(|&&byte| byte != 0).unwrap() & 0x02 != 0;
            assert!(has_length || packet.bytes.len() == 100, "{len}");
            assert_eq!(read[0].2, read[0].1 == len, "{len}: FIN with the last byte");
            assert!(matches!(packet.frames[0],
                StreamFrame::Stream { len, .. } if usize::from(len) == read[0].1));
            if !explicit {
                pair.server.receive(&packet).unwrap();
                assert_eq!(pair.server.got[&id], pattern(len)[..read[0].1]);
            }
        }
    }
}

#[test]
fn streams_take_turns_packet_by_packet() {
    let mut pair = Pair::ample();
    let ids: Vec<_> = (0..3).map(|_| pair.client_sends(Dir::Bi, &pattern(400), true)).collect();
    let turns: Vec<StreamId> = pair
        .client
        .flight(110)
        .iter()
        .flat_map(|packet| {
            let frames = packet.read();
            frames
                .iter()
                .map(|frame| match frame {
                    Frame::Stream { stream, .. } => *stream,
                    other => panic!("{other:?}"),
                })
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(turns[..6], [ids, turns[..3].to_vec()].concat()[..]);
    assert_eq!(turns[0], turns[3]);
    assert_ne!(turns[0], turns[1]);
}

#[test]
fn many_small_streams_share_a_packet() {
    let mut pair = Pair::ample();
    for _ in 0..20 {
        pair.client_sends(Dir::Uni, b"0123456789", true);
    }
    let packet = pair.client.packet(1200).unwrap();
    assert_eq!(packet.frames.len(), 20);
    assert!(pair.client.packet(1200).is_none());
    pair.server.receive(&packet).unwrap();
    assert_eq!(pair.server.got.len(), 20);
}

#[test]
fn data_is_gathered_across_pieces() {
    let mut pair = Pair::ample();
    let data = pattern(3_000);
    let id = pair.client.streams.app().open(Dir::Bi).unwrap();
    for piece in data.chunks(13) {
        pair.client.streams.app().send(id, Bytes::copy_from_slice(piece), false).unwrap();
    }
    pair.client.streams.app().send(id, Bytes::new(), true).unwrap();
    pair.settle();
    assert_eq!(pair.server.got[&id], data);
    assert_eq!(pair.server.ended[&id], 1);
    assert_eq!(pair.client.streams.app().buffered(id), 0);
}

#[test]
fn only_what_was_lost_is_sent_again_and_before_anything_new() {
    let (mut pair, id, data, flight) = in_flight(1_000);
    for (i, packet) in flight.iter().enumerate() {
        if i != 2 && i != 5 {
            pair.server.receive(packet).unwrap();
            pair.client.acked(packet);
        }
    }
    let other = pair.client_sends(Dir::Uni, &pattern(50), true);
    pair.client.lost(&flight[2]);
    pair.client.lost(&flight[5]);
    let again = pair.client.flight(300);
    let offsets = |packets: &[Packet]| packets.iter().flat_map(segments).collect::<Vec<_>>();
    let lost = offsets(&[flight[2].clone(), flight[5].clone()]);
    assert_eq!(offsets(&again)[..2], lost);
    assert_eq!(pair.client.streams.stats().resent_bytes as usize, lost[0].1 + lost[1].1);
    deliver_all(&mut pair, &again);
    again.iter().for_each(|packet| pair.client.acked(packet));
    assert_eq!(pair.server.got[&id], data);
    assert_eq!(pair.server.got[&other].len(), 50);
    assert_eq!(pair.client.streams.app().buffered(id), 0);
}

#[test]
fn an_acknowledged_part_of_a_lost_range_stays_home() {
    // Sent as one frame, lost, sent again in pieces; one piece acknowledged, another lost.
    let mut pair = Pair::ample();
    pair.client_sends(Dir::Uni, &pattern(1_000), true);
    let whole = pair.client.packet(1_200).unwrap();
    pair.client.lost(&whole);
    let pieces = pair.client.flight(260);
    assert_eq!(pieces.len(), 4);
    pair.client.acked(&pieces[1]);
    pair.client.lost(&whole);
    let again: Vec<_> = pair.client.flight(2_000).iter().flat_map(segments).collect();
    let (lo, len, _) = segments(&pieces[1])[0];
    assert_eq!(again.len(), 2);
    assert_eq!(again[0], (0, lo as usize, false));
    assert_eq!(again[1].0, lo + len as u64);
    assert!(again[1].2, "the FIN was not acknowledged either");
}

#[test]
fn a_loss_that_was_none_costs_nothing_more() {
    let (mut pair, id, _, flight) = in_flight(500);
    for packet in &flight {
        pair.client.lost(packet);
    }
    assert!(pair.client.streams.has_data());
    // The acknowledgements were late, not the packets.
    deliver_all(&mut pair, &flight);
    for packet in flight.iter().rev() {
        pair.client.acked(packet);
    }
    assert!(!pair.client.streams.has_data());
    assert!(pair.client.packet(1_200).is_none());
    assert_eq!(pair.client.streams.app().buffered(id), 0);
    let bytes: u64 = pair
        .client
        .events
        .iter()
        .map(|event| match event {
            StreamEvent::Acknowledged { bytes, .. } => *bytes,
            other => panic!("{other:?}"),
        })
        .sum();
    assert_eq!(bytes, 500);
    assert!(matches!(pair.client.events.last(), Some(StreamEvent::Acknowledged { fin: true, .. })));
}

#[test]
fn a_lost_fin_is_sent_again_alone() {
    let mut pair = Pair::ample();
    let id = pair.client_sends(Dir::Bi, b"all of it", false);
    pair.settle();
    pair.client.streams.app().send(id, Bytes::new(), true).unwrap();
    for _ in 0..3 {
        let fin = pair.client.packet(1_200).unwrap();
        assert_eq!(segments(&fin), [(9, 0, true)]);
        assert!(pair.client.packet(1_200).is_none());
        pair.client.lost(&fin);
    }
    pair.settle();
    assert_eq!(pair.server.ended[&id], 1);
    assert!(matches!(
        pair.client.events.last(),
        Some(StreamEvent::Acknowledged { bytes: 0, fin: true, .. })
    ));
}

#[test]
fn a_lone_fin_may_be_acknowledged_before_the_data() {
    let mut pair = Pair::ample();
    let id = pair.client_sends(Dir::Uni, b"data", false);
    let data = pair.client.packet(1_200).unwrap();
    pair.client.streams.app().send(id, Bytes::new(), true).unwrap();
    let fin = pair.client.packet(1_200).unwrap();
    pair.client.acked(&fin);
    pair.client.lost(&fin);
    assert!(!pair.client.streams.has_data(), "an acknowledged FIN is not lost");
    assert_eq!(pair.client.streams.app().buffered(id), 4);
    pair.client.lost(&data);
    let again = pair.client.packet(1_200).unwrap();
    assert_eq!(segments(&again), [(0, 4, true)]);
    pair.client.acked(&data);
    assert!(matches!(pair.client.events.last(), Some(StreamEvent::Closed { .. })));
}

#[test]
fn a_fin_needs_no_credit() {
    let mut pair = Pair::new(AMPLE, Limits { data: 10, stream_data_bidi_remote: 10, ..AMPLE });
    let id = pair.client_sends(Dir::Bi, &[1; 10], false);
    let data = pair.client.packet(1_200).unwrap();
    pair.client.streams.app().send(id, Bytes::new(), true).unwrap();
    assert!(pair.client.streams.has_data());
    let fin = pair.client.packet(1_200).unwrap();
    assert_eq!(segments(&fin), [(10, 0, true)]);
    deliver_all(&mut pair, &[fin, data]);
    assert_eq!((pair.server.got[&id].len(), pair.server.ended[&id]), (10, 1));
}

#[test]
fn bytes_return_to_the_application_in_order_as_they_are_acknowledged() {
    let mut pair = Pair::ample();
    let owner = Bytes::from(pattern(500));
    let id = pair.client.streams.app().open(Dir::Uni).unwrap();
    for piece in 0..5 {
        pair.client
            .streams
            .app()
            .send(id, owner.slice(piece * 100..piece * 100 + 100), false)
            .unwrap();
    }
    let flight = pair.client.flight(105);
    assert_eq!(flight.len(), 5);
    pair.client.acked(&flight[1]);
    assert_eq!(pair.client.streams.app().buffered(id), 500);
    pair.client.acked(&flight[0]);
    let first_two: usize = flight[..2].iter().flat_map(segments).map(|segment| segment.1).sum();
    assert_eq!(pair.client.streams.app().buffered(id), 500 - first_two as u64);
    flight[2..].iter().for_each(|packet| pair.client.acked(packet));
    assert_eq!(pair.client.streams.app().buffered(id), 0);
    assert!(owner.is_unique());
}

#[test]
fn blocked_is_said_once_for_each_limit() {
    // RFC 9000 §4.1.
    let mut pair = Pair::new(AMPLE, Limits { data: 300, stream_data_uni: 100, ..AMPLE });
    let ids: Vec<_> = (0..4).map(|_| pair.client_sends(Dir::Uni, &pattern(200), false)).collect();
    let mut frames = Vec::new();
    for packet in pair.client.flight(1_200) {
        frames.extend(packet.frames.iter().copied());
    }
    let count = |frames: &[StreamFrame], wanted: fn(&StreamFrame) -> bool| {
        frames.iter().filter(|frame| wanted(frame)).count()
    };
    assert_eq!(count(&frames, |f| matches!(f, StreamFrame::StreamDataBlocked { .. })), 3);
    assert_eq!(count(&frames, |f| matches!(f, StreamFrame::DataBlocked)), 1);
    // More to send changes nothing, and what is lost is said again.
    pair.client.streams.app().send(ids[0], Bytes::from_static(b"more"), false).unwrap();
    assert!(!pair.client.streams.has_control() && !pair.client.streams.has_data());
    frames.iter().for_each(|frame| pair.client.streams.on_lost(frame));
    let again = pair.client.packet(1_200).unwrap();
    assert_eq!(count(&again.frames, |f| matches!(f, StreamFrame::StreamDataBlocked { .. })), 3);
    // A new limit ends it: what was lost means nothing any more.
    pair.client.streams.on_lost(&StreamFrame::DataBlocked);
    pair.client.streams.on_max_data(1_000).unwrap();
    assert!(!pair.client.streams.has_control());
    pair.client.streams.on_lost(&StreamFrame::DataBlocked);
    assert!(!pair.client.streams.has_control());
    // And it is said of the new limit as of the old one.
    pair.client.streams.on_max_stream_data(ids[0], 150).unwrap();
    let _data = pair.client.packet(1_200).unwrap();
    let packet = pair.client.packet(1_200).unwrap();
    assert!(packet.read().contains(&Frame::StreamDataBlocked { stream: ids[0], limit: 150 }));
}

#[test]
fn a_connection_without_credit_says_so_when_there_is_more_to_send() {
    let mut pair = Pair::new(AMPLE, Limits { data: 100, ..AMPLE });
    let id = pair.client_sends(Dir::Uni, &pattern(100), false);
    let _data = pair.client.packet(1_200).unwrap();
    assert!(!pair.client.streams.has_control());
    pair.client.streams.app().send(id, Bytes::from_static(b"more"), false).unwrap();
    assert!(!pair.client.streams.has_data());
    let blocked = pair.client.packet(1_200).unwrap();
    assert_eq!(blocked.read(), [Frame::DataBlocked(100)]);
    // Nothing is blocked once the stream is gone.
    pair.client.lost(&blocked);
    pair.client.streams.app().reset(id, 0).unwrap();
    let reset = pair.client.packet(1_200).unwrap();
    assert_eq!(reset.read(), [Frame::ResetStream { stream: id, code: 0, final_size: 100 }]);
}

#[test]
fn control_that_does_not_fit_stays_owed() {
    let mut pair = Pair::ample();
    let ids: Vec<_> = (0..30).map(|_| pair.client_sends(Dir::Bi, b"x", false)).collect();
    ids.iter().for_each(|&id| pair.client.streams.app().reset(id, 1 << 40).unwrap());
    let flight = pair.client.flight(50);
    assert!(flight.len() > 5);
    deliver_all(&mut pair, &flight);
    let resets = |event: &&StreamEvent| matches!(event, StreamEvent::Reset { .. });
    assert_eq!(pair.server.events.iter().filter(resets).count(), 30);
    assert!(!pair.client.streams.has_control());
}

#[test]
fn attack_22_a_packet_never_has_more_frames_than_its_record_can_count() {
    let many = Limits { streams_bidi: 1_000, ..AMPLE };
    let mut pair = Pair::new(many, many);
    let ids: Vec<_> = (0..1_000).map(|_| pair.client_sends(Dir::Bi, b"", true)).collect();
    ids.iter().for_each(|&id| pair.client.streams.app().stop_sending(id, 0).unwrap());
    let flight = pair.client.flight(9_000);
    assert!(flight.iter().all(|packet| packet.frames.len() <= 200));
    deliver_all(&mut pair, &flight);
    flight.iter().for_each(|packet| pair.client.acked(packet));
    assert_eq!(pair.server.ended.len(), 1_000);
    // The peer's STOP_SENDING frames make a frame pending for each stream.
    let flight = pair.server.flight(9_000);
    assert!(flight.iter().all(|packet| packet.frames.len() <= 200));
    let resets = flight.iter().flat_map(|packet| &packet.frames);
    let resets = resets.filter(|frame| matches!(frame, StreamFrame::ResetStream { .. })).count();
    assert_eq!(resets, 1_000);
}

#[test]
fn nothing_is_sent_before_the_peers_limits_are_known() {
    let mut client = Streams::new(crate::wire::Side::Client, AMPLE);
    assert!(client.app().open(Dir::Bi).is_err());
    assert!(!client.has_control() && !client.has_data());
    assert!(client.app().open(Dir::Uni).is_err());
    client.set_peer_limits(&AMPLE);
    assert_eq!(client.pop_event(), Some(StreamEvent::Available { dir: Dir::Bi, count: 100 }));
    assert_eq!(client.pop_event(), Some(StreamEvent::Available { dir: Dir::Uni, count: 100 }));
    assert_eq!(client.pop_event(), None);
    assert!(client.app().open(Dir::Bi).is_ok());
}

#[test]
fn remembered_limits_rise_when_the_true_ones_come() {
    // RFC 9000 §7.4.1: 0-RTT goes out on the limits of the last connection.
    let remembered = Limits { stream_data_bidi_remote: 10, data: 10, ..AMPLE };
    let mut pair = Pair::new(AMPLE, remembered);
    let id = pair.client_sends(Dir::Bi, &pattern(100), true);
    let early: usize = pair.client.flight(1_200).iter().flat_map(segments).map(|s| s.1).sum();
    assert_eq!(early, 10);
    pair.client.streams.set_peer_limits(&AMPLE);
    assert!(pair.client.streams.has_data());
    let rest = pair.client.packet(1_200).unwrap();
    assert_eq!(segments(&rest), [(10, 90, true)]);
    assert_eq!(pair.client.streams.app().buffered(id), 100);
}
