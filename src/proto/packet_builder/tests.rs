use super::*;
use crate::proto::congestion::Algorithm;
use crate::proto::crypto::{Keys, initial_keys};
use crate::proto::path::PathConfig;
use crate::proto::path::PathId;
use crate::proto::sent::SentFrame;
use crate::wire::packet::{PacketType, parse};
use crate::wire::{Reader, Side, VERSION_1};

const NOW: Instant = Instant::EPOCH;

fn cid(byte: u8) -> ConnectionId {
    ConnectionId::new(&[byte; 8]).unwrap()
}

/// Keys of the client and of the server.
fn both_keys() -> [Keys; 2] {
    [Side::Client, Side::Server]
        .map(|side| initial_keys(VERSION_1, cid(9).as_slice(), side).unwrap())
}

fn path() -> Path {
    let config = PathConfig {
        initial_rtt_ns: 100_000_000,
        congestion: Algorithm::NewReno,
        paced: true,
        ecn: true,
        initial_mtu_bytes: 1_200,
        max_mtu_bytes: 1_472,
    };
    let [local, remote] = ["[::1]:1000", "[::1]:443"].map(|address| address.parse().unwrap());
    Path::new(NOW, local, remote, true, &config)
}

const ASKS: SentInfo = SentInfo {
    bytes: 0,
    ack_eliciting: true,
    in_flight: true,
    mtu_probe: false,
    ecn_capable: false,
    path: PathId(0),
};

fn long(kind: PacketType) -> LongHeader<'static> {
    LongHeader { kind, version: VERSION_1, dcid: cid(1), scid: cid(2), token: b"" }
}

/// Opens the packet at `start` of a client's datagram: its number, its frames and where it ends.
fn open(datagram: &mut [u8], start: usize, keys: &Keys) -> (u64, Vec<String>, usize) {
    let p = parse(datagram, start, 8).unwrap();
    let packet = &mut datagram[start..p.end];
    let u = keys.remote.header().unmask(packet, p.pn_offset - start).unwrap();
    let payload_at = p.pn_offset - start + u.pn_len;
    let len = keys.remote.packet().open(u.truncated_pn, packet, payload_at).unwrap();
    let mut reader = Reader::new(&packet[payload_at..payload_at + len]);
    let mut frames = Vec::new();
    while !reader.is_empty() {
        frames.push(format!("{:?}", crate::wire::frame::Frame::read(&mut reader).unwrap()));
    }
    (u.truncated_pn, frames, p.end)
}

#[test]
fn a_packet_of_either_header_is_read_by_the_peer_and_stands_in_the_books() {
    let [ours, theirs] = both_keys();
    let header = long(PacketType::Handshake);
    let short = Header::Short { dcid: &cid(1), phase: false, local_cid_len: 8 };
    for header in [Header::Long(&header), short] {
        let (mut sent, mut path, mut buf) = (SentPackets::default(), path(), [0xff; 1_200]);
        for pn in 0..2_u64 {
            let number = Number::next(&sent);
            let (packet, mut w) = PacketBuilder::begin(header, number, &mut buf).unwrap();
            assert!(packet.is_empty(&w));
            Frame::Ping.write(&mut w).unwrap();
            sent.push_frame(SentFrame::Ping);
            assert!(!packet.is_empty(&w));
            let draft = packet.end(w, ASKS);
            let book = Book { sent: &mut sent, path: &mut path };
            let info = draft.finish(NOW, &mut buf, &ours.local, book).unwrap();
            let len = usize::from(info.bytes);
            assert_eq!((sent.next_pn(), sent.eliciting()), (pn + 1, pn as u32 + 1));
            assert_eq!(path.bytes_in_flight, (pn + 1) * len as u64);
            let mut datagram = buf[..len].to_vec();
            let (read, frames, end) = open(&mut datagram, 0, &theirs);
            assert_eq!((read, &frames[0][..], end), (pn, "Ping", len));
        }
        assert_eq!(sent.oldest_eliciting_frames().unwrap().count(), 1);
    }
}

#[test]
fn a_short_packet_is_as_long_as_a_reset_needs_and_a_long_one_can_be_sampled() {
    let [ours, theirs] = both_keys();
    for local_cid_len in [0, 8, 20] {
        let header = Header::Short { dcid: &cid(1), phase: true, local_cid_len };
        let mut buf = [0; 100];
        let (packet, mut w) = PacketBuilder::begin(header, Number::long(7), &mut buf).unwrap();
        Frame::Ping.write(&mut w).unwrap();
        let draft = packet.end(w, ASKS);
        let least = (22 + usize::from(local_cid_len)).max(1 + 8 + 4 + 1 + TAG_LEN);
        assert_eq!(draft.protect(&mut buf, &ours.local), Some(least), "{local_cid_len}");
    }
    let (header, sent, mut buf) = (long(PacketType::Initial), SentPackets::default(), [0; 100]);
    let (packet, mut w) =
        PacketBuilder::begin(Header::Long(&header), Number::next(&sent), &mut buf).unwrap();
    Frame::Ping.write(&mut w).unwrap();
    let len = packet.end(w, ASKS).protect(&mut buf, &ours.local).unwrap();
    let (_, frames, _) = open(&mut buf[..len], 0, &theirs);
    assert_eq!(frames, ["Ping", "Padding { len: 2 }"], "a number of one byte");
}

#[test]
fn the_last_of_several_packets_fills_the_datagram_once_all_are_drafted() {
    let [ours, theirs] = both_keys();
    let (mut spaces, mut path) = ([SentPackets::default(), SentPackets::default()], path());
    let mut buf = [0xff; 1_200];
    let mut drafts = Vec::new();
    let mut end = 0;
    for (kind, sent) in [PacketType::Initial, PacketType::Handshake].into_iter().zip(&mut spaces) {
        let header = long(kind);
        let (packet, mut w) =
            PacketBuilder::begin(Header::Long(&header), Number::next(sent), &mut buf[end..])
                .unwrap();
        Frame::Ping.write(&mut w).unwrap();
        sent.push_frame(SentFrame::Ping);
        let draft = packet.end(w, ASKS);
        drafts.push((end, draft));
        end += draft.len();
    }
    let (start, last) = drafts.last_mut().unwrap();
    last.pad(&mut buf[*start..], 1_200 - end);
    for ((start, draft), sent) in drafts.into_iter().zip(&mut spaces) {
        let book = Book { sent, path: &mut path };
        draft.finish(NOW, &mut buf[start..], &ours.local, book).unwrap();
    }
    assert_eq!(path.bytes_in_flight, 1_200);
    let (_, first, at) = open(&mut buf, 0, &theirs);
    let (_, second, end) = open(&mut buf, at, &theirs);
    assert_eq!((&first[0][..], &second[0][..], end), ("Ping", "Ping", 1_200));
}

#[test]
fn what_has_no_room_is_not_begun_and_what_cannot_be_sealed_is_forgotten() {
    struct Broken;
    impl Seal for Broken {
        fn seal(self, _: &mut [u8], _: Layout, _: usize) -> bool {
            false
        }
    }
    let header = Header::Short { dcid: &cid(1), phase: false, local_cid_len: 8 };
    let (mut sent, mut path) = (SentPackets::default(), path());
    for room in 0..1 + 8 + 1 + TAG_LEN {
        let mut buf = vec![0; room];
        assert!(PacketBuilder::begin(header, Number::next(&sent), &mut buf).is_none(), "{room}");
    }
    let mut buf = [0; 100];
    let (packet, mut w) = PacketBuilder::begin(header, Number::next(&sent), &mut buf).unwrap();
    Frame::Ping.write(&mut w).unwrap();
    sent.push_frame(SentFrame::Ping);
    let draft = packet.end(w, ASKS);
    let book = Book { sent: &mut sent, path: &mut path };
    assert!(draft.finish(NOW, &mut buf, Broken, book).is_none());
    assert_eq!((sent.next_pn(), path.bytes_in_flight), (0, 0));
    sent.push_frame(SentFrame::HandshakeDone);
    sent.commit(NOW, ASKS);
    let frames: Vec<_> = sent.oldest_eliciting_frames().unwrap().collect();
    assert_eq!(frames, [SentFrame::HandshakeDone]);
}
