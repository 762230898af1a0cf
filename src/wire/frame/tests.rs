use super::*;
use crate::wire::{Full, Reader, Side, VARINT_MAX, Writer, varint_len};
use proptest::prelude::*;

/// Reads one frame and expects nothing behind it.
fn read(bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
    let mut r = Reader::new(bytes);
    let frame = Frame::read(&mut r)?;
    assert!(r.is_empty(), "{} bytes left behind {frame:?}", r.remaining());
    Ok(frame)
}

/// The error code and the frame type that `bytes` are refused with.
fn refused(bytes: &[u8]) -> (u64, u64) {
    let error = Frame::read(&mut Reader::new(bytes)).expect_err("is no frame");
    assert!(!error.reason().is_empty());
    (error.code(), error.frame_type)
}

const FRAME_ENCODING_ERROR: u64 = 0x07;
const PROTOCOL_VIOLATION: u64 = 0x0a;

fn stream(raw: u64) -> StreamId {
    StreamId::from_raw(raw)
}

#[test]
fn padding_is_one_run() {
    let mut bytes = vec![0; 1100];
    assert_eq!(read(&bytes), Ok(Frame::Padding { len: 1100 }));
    bytes.push(1);
    let mut r = Reader::new(&bytes);
    assert_eq!(Frame::read(&mut r), Ok(Frame::Padding { len: 1100 }));
    assert_eq!(Frame::read(&mut r), Ok(Frame::Ping));
}

#[test]
fn stream_flags_say_which_fields_are_there() {
    let data = &[0xaa, 0xbb][..];
    let frame = |offset, fin| Frame::Stream { stream: stream(4), offset, data, fin };
    // RFC 9000 §19.8: OFF 0x04, LEN 0x02, FIN 0x01.
    assert_eq!(read(&[0x08, 4, 0xaa, 0xbb]), Ok(frame(0, false)));
    assert_eq!(read(&[0x09, 4, 0xaa, 0xbb]), Ok(frame(0, true)));
    assert_eq!(read(&[0x0a, 4, 2, 0xaa, 0xbb]), Ok(frame(0, false)));
    assert_eq!(read(&[0x0c, 4, 7, 0xaa, 0xbb]), Ok(frame(7, false)));
    assert_eq!(read(&[0x0f, 4, 7, 2, 0xaa, 0xbb]), Ok(frame(7, true)));
    let mut r = Reader::new(&[0x0b, 4, 1, 0xaa, 0x01]);
    let expected = Frame::Stream { stream: stream(4), offset: 0, data: &[0xaa], fin: true };
    assert_eq!(Frame::read(&mut r), Ok(expected));
    assert_eq!(r.rest(), [0x01]);
}

#[test]
fn ack_ranges_descend_as_in_rfc_9000_19_3_1() {
    // Largest 100, delay 9; 95..=100, gap of 3 missing: 90..=91, gap of 1 missing: 88.
    let bytes = [0x02, 0x40, 100, 9, 2, 5, 2, 1, 0, 0];
    let Ok(Frame::Ack(ack)) = read(&bytes) else { panic!("no ACK") };
    assert_eq!((ack.largest, ack.delay_raw, ack.ecn), (100, 9, None));
    assert_eq!(ack.range_count(), 3);
    assert_eq!(ack.ranges().collect::<Vec<_>>(), [(95, 100), (90, 91), (88, 88)]);
}

#[test]
fn ack_with_ecn_counts() {
    let bytes = [0x03, 3, 0, 0, 3, 1, 2, 3];
    let Ok(Frame::Ack(ack)) = read(&bytes) else { panic!("no ACK") };
    assert_eq!(ack.ecn, Some(EcnCounts { ect0: 1, ect1: 2, ce: 3 }));
    assert_eq!(ack.ranges().collect::<Vec<_>>(), [(0, 3)]);
    assert_eq!(refused(&bytes[..7]), (FRAME_ENCODING_ERROR, 0x03));
}

/// ATTACKS row 26.
#[test]
fn attack_26_an_ack_range_below_zero_is_refused() {
    // The first range, the gap, and a later range, each one too far.
    for bytes in [
        &[0x02, 4, 0, 0, 5][..],
        &[0x02, 4, 0, 1, 4, 0, 0],
        &[0x02, 4, 0, 1, 3, 0, 0],
        &[0x02, 4, 0, 1, 2, 0, 1],
    ] {
        assert_eq!(refused(bytes), (FRAME_ENCODING_ERROR, 0x02));
    }
    let Ok(Frame::Ack(ack)) = read(&[0x02, 4, 0, 1, 2, 0, 0]) else { panic!("no ACK") };
    assert_eq!(ack.ranges().collect::<Vec<_>>(), [(2, 4), (0, 0)]);
}

/// ATTACKS row 26.
#[test]
fn attack_26_an_ack_of_more_ranges_than_bytes_ends_with_the_bytes() {
    let mut bytes = vec![0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0];
    bytes.extend([0xff; 8]);
    bytes.extend([0; 1400]);
    assert_eq!(refused(&bytes), (FRAME_ENCODING_ERROR, 0x02));
}

/// ATTACKS row 23.
#[test]
fn attack_23_offsets_beyond_the_last_byte_are_refused() {
    let max = [0xff; 8];
    let stream = |data: &[u8]| [&[0x0c, 0][..], &max, data].concat();
    assert!(read(&stream(&[])).is_ok());
    assert_eq!(refused(&stream(&[1])), (FRAME_ENCODING_ERROR, 0x0c));
    let crypto = |len: u8, data: &[u8]| [&[0x06][..], &max, &[len], data].concat();
    assert!(read(&crypto(0, &[])).is_ok());
    assert_eq!(refused(&crypto(1, &[1])), (FRAME_ENCODING_ERROR, 0x06));
    // A length that no packet has.
    let huge = [&[0x0a, 0][..], &max, &[0; 20]].concat();
    assert_eq!(refused(&huge), (FRAME_ENCODING_ERROR, 0x0a));
}

/// ATTACKS row 20.
#[test]
fn attack_20_unknown_and_truncated_types_are_refused() {
    assert_eq!(refused(&[]), (FRAME_ENCODING_ERROR, 0));
    assert_eq!(refused(&[0x1f]), (FRAME_ENCODING_ERROR, 0x1f));
    assert_eq!(refused(&[0x40]), (FRAME_ENCODING_ERROR, 0));
    assert_eq!(refused(&[0x7f, 0xff, 0]), (FRAME_ENCODING_ERROR, 0x3fff));
}

/// RFC 9221 §3; ATTACKS row 39.
#[test]
fn attack_39_datagram_frames_are_violations_as_long_as_they_are_not_offered() {
    assert_eq!(refused(&[0x30, 0, 0]), (PROTOCOL_VIOLATION, 0x30));
    assert_eq!(refused(&[0x31, 1, 0]), (PROTOCOL_VIOLATION, 0x31));
    assert_eq!(refused(&[0x31]), (PROTOCOL_VIOLATION, 0x31));
}

#[test]
fn a_type_in_a_longer_form_is_a_violation() {
    // RFC 9000 §12.4: PING in two and in eight bytes.
    assert_eq!(refused(&[0x40, 0x01]), (PROTOCOL_VIOLATION, 0x01));
    assert_eq!(refused(&[0xc0, 0, 0, 0, 0, 0, 0, 1]), (PROTOCOL_VIOLATION, 0x01));
    // Not so for other varints.
    assert_eq!(read(&[0x10, 0x40, 0x01]), Ok(Frame::MaxData(1)));
}

#[test]
fn values_out_of_range_are_refused() {
    let past_2_60 = ((0xc0_u64 << 56) | (MAX_STREAM_COUNT + 1)).to_be_bytes();
    let at_2_60 = ((0xc0_u64 << 56) | MAX_STREAM_COUNT).to_be_bytes();
    for kind in [0x12, 0x13, 0x16, 0x17] {
        assert!(read(&[&[kind][..], &at_2_60].concat()).is_ok());
        let error = refused(&[&[kind][..], &past_2_60].concat());
        assert_eq!(error, (FRAME_ENCODING_ERROR, u64::from(kind)));
    }
    // NEW_TOKEN without a token.
    assert_eq!(refused(&[0x07, 0]), (FRAME_ENCODING_ERROR, 0x07));
}

#[test]
fn new_connection_id_lengths_and_order_are_checked() {
    let frame = |sequence: u8, retire: u8, len: u8| {
        let mut bytes = vec![0x18, sequence, retire, len];
        bytes.extend(vec![5; usize::from(len)]);
        bytes.extend([6; 16]);
        bytes
    };
    for len in [1, 20] {
        assert!(read(&frame(3, 3, len)).is_ok());
    }
    for (sequence, retire, len) in [(3, 3, 0), (3, 3, 21), (3, 3, 255), (3, 4, 8)] {
        assert_eq!(refused(&frame(sequence, retire, len)), (FRAME_ENCODING_ERROR, 0x18));
    }
}

#[test]
fn every_frame_cut_short_is_refused() {
    for frame in one_of_each() {
        // PADDING and data without a length are whole wherever they end; so is their kin.
        if matches!(frame, Frame::Padding { .. }) {
            continue;
        }
        let bytes = written(&frame);
        for cut in 0..bytes.len() {
            assert!(Frame::read(&mut Reader::new(&bytes[..cut])).is_err(), "{frame:?} at {cut}");
        }
    }
}

#[test]
fn every_frame_comes_back_and_names_its_type() {
    for frame in one_of_each() {
        let bytes = written(&frame);
        assert_eq!(read(&bytes), Ok(frame.clone()));
        assert_eq!(u64::from(bytes[0]), frame.frame_type(), "{frame:?}");
    }
}

#[test]
fn frames_that_do_not_fit_write_nothing() {
    for frame in one_of_each() {
        let whole = written(&frame).len();
        for room in 0..whole {
            let mut buffer = vec![0xee; room + 1];
            let mut w = Writer::new(&mut buffer);
            w.u8(1).unwrap();
            assert_eq!(frame.write(&mut w), Err(Full), "{frame:?} in {room}");
            assert_eq!(w.written(), [1]);
        }
    }
}

/// RFC 9000 §12.4, table 3 ("IH01": Initial, Handshake, 0-RTT, 1-RTT), less what §12.5 says
/// cannot occur in 0-RTT.
#[test]
fn frames_are_allowed_where_rfc_9000_12_4_says() {
    let table = [
        "IH01", "IH01", "IH_1", "IH_1", "__01", "__01", "IH_1", "___1", "__01", "__01", "__01",
        "__01", "__01", "__01", "__01", "__01", "__01", "__01", "___1", "__01", "___1", "IH01",
        "__01", "___1",
    ];
    let kinds =
        [PacketType::Initial, PacketType::Handshake, PacketType::ZeroRtt, PacketType::Short];
    let frames = one_of_each();
    assert_eq!(frames.len(), table.len());
    for (frame, row) in frames.iter().zip(table) {
        for (kind, mark) in kinds.into_iter().zip(row.chars()) {
            assert_eq!(frame.allowed_in(kind), mark != '_', "{frame:?} in {kind:?}");
        }
        for kind in [PacketType::Retry, PacketType::VersionNegotiation, PacketType::UnknownVersion]
        {
            assert!(!frame.allowed_in(kind));
        }
    }
}

#[test]
fn only_four_frames_elicit_no_acknowledgement() {
    let silent: Vec<u64> = one_of_each()
        .iter()
        .filter(|frame| !frame.ack_eliciting())
        .map(Frame::frame_type)
        .collect();
    assert_eq!(silent, [0x00, 0x02, 0x03, 0x1c, 0x1d]);
}

#[test]
fn header_lengths_are_what_is_written() {
    for id in [0, 0x40, 0x4000, VARINT_MAX] {
        for offset in [0, 1, 0x40, 0x4000, 0x4000_0000] {
            for data_len in [None, Some(0), Some(63), Some(1200), Some(20_000)] {
                let mut buffer = [0; 32];
                let mut w = Writer::new(&mut buffer);
                write_stream_header(&mut w, stream(id), offset, data_len, false).unwrap();
                assert_eq!(w.position(), stream_header_len(stream(id), offset, data_len));
            }
            let mut buffer = [0; 32];
            let mut w = Writer::new(&mut buffer);
            write_crypto_header(&mut w, offset, 900).unwrap();
            assert_eq!(w.position(), 1 + varint_len(offset) + varint_len(900));
        }
    }
}

#[test]
fn an_ack_needs_as_many_ranges_as_it_announces() {
    let mut buffer = [0; 64];
    let mut w = Writer::new(&mut buffer);
    let ranges = [(8, 9), (3, 4)];
    for count in [0, 3] {
        assert_eq!(write_ack(&mut w, ranges.into_iter(), count, 0, None), Err(Full));
        assert_eq!(w.position(), 0);
    }
    assert_eq!(write_ack(&mut w, std::iter::empty(), 1, 0, None), Err(Full));
    write_ack(&mut w, ranges.into_iter(), 1, 0, None).unwrap();
    assert_eq!(w.written(), [0x02, 9, 0, 0, 1]);
}

fn written(frame: &Frame<'_>) -> Vec<u8> {
    let mut buffer = vec![0; 4096];
    let mut w = Writer::new(&mut buffer);
    frame.write(&mut w).unwrap();
    w.written().to_vec()
}

/// A frame of every type, in the order of their numbers.
fn one_of_each() -> Vec<Frame<'static>> {
    let ack = |bytes: &'static [u8]| Frame::read(&mut Reader::new(bytes)).unwrap();
    let id = StreamId::new(Side::Server, Dir::Bi, 1 << 20);
    vec![
        Frame::Padding { len: 33 },
        Frame::Ping,
        ack(&[0x02, 0x40, 100, 9, 2, 5, 2, 1, 0, 0]),
        ack(&[0x03, 0x40, 100, 9, 1, 5, 2, 1, 1, 0x40, 0x80, 3]),
        Frame::ResetStream { stream: id, code: 77, final_size: 1 << 40 },
        Frame::StopSending { stream: id, code: VARINT_MAX },
        Frame::Crypto { offset: 300, data: b"client hello" },
        Frame::NewToken { token: b"token" },
        Frame::Stream { stream: id, offset: 1 << 33, data: b"data", fin: true },
        Frame::MaxData(1 << 20),
        Frame::MaxStreamData { stream: id, max: 70_000 },
        Frame::MaxStreams { dir: Dir::Bi, max: MAX_STREAM_COUNT },
        Frame::MaxStreams { dir: Dir::Uni, max: 3 },
        Frame::DataBlocked(5),
        Frame::StreamDataBlocked { stream: id, limit: 6 },
        Frame::StreamsBlocked { dir: Dir::Bi, limit: 7 },
        Frame::StreamsBlocked { dir: Dir::Uni, limit: 8 },
        Frame::NewConnectionId {
            sequence: 9,
            retire_prior_to: 9,
            cid: ConnectionId::new(&[0xc1; 17]).unwrap(),
            reset_token: [0x5a; 16],
        },
        Frame::RetireConnectionId { sequence: 500 },
        Frame::PathChallenge(*b"pathpath"),
        Frame::PathResponse(*b"htaphtap"),
        Frame::ConnectionClose { code: 0x0a, frame_type: 0x1e, reason: b"no" },
        Frame::ApplicationClose { code: 1 << 30, reason: &[] },
        Frame::HandshakeDone,
    ]
}

/// Ranges from the largest down that do not touch each other.
fn descending_ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let step = 0..5_000u64;
    (0..VARINT_MAX - (1 << 20), prop::collection::vec((step.clone(), step), 1..40)).prop_map(
        |(bottom, steps)| {
            let mut low = bottom;
            let mut ranges = Vec::new();
            for (len, gap) in steps {
                ranges.push((low, low + len));
                low += len + gap + 2;
            }
            ranges.reverse();
            ranges
        },
    )
}

proptest! {
    #[test]
    fn acks_come_back(
        ranges in descending_ranges(), delay_raw in 0..1u64 << 40, ecn in prop::option::of(0..99u64),
    ) {
        let ecn = ecn.map(|n| EcnCounts { ect0: n, ect1: n * 2, ce: n << 30 });
        let mut buffer = vec![0; 1000];
        let mut w = Writer::new(&mut buffer);
        write_ack(&mut w, ranges.iter().copied(), ranges.len(), delay_raw, ecn).unwrap();
        let bytes = w.written().to_vec();
        let Ok(Frame::Ack(ack)) = read(&bytes) else { panic!("no ACK") };
        prop_assert_eq!((ack.largest, ack.delay_raw, ack.ecn), (ranges[0].1, delay_raw, ecn));
        prop_assert_eq!(ack.range_count(), ranges.len() as u64);
        prop_assert_eq!(ack.ranges().collect::<Vec<_>>(), ranges);
        prop_assert_eq!(written(&Frame::Ack(ack)), bytes);
    }

    #[test]
    fn stream_frames_come_back(
        raw in 0..=VARINT_MAX, offset in 0..=VARINT_MAX >> 1, shift in 0..62u32, fin in any::<bool>(),
        data in prop::collection::vec(any::<u8>(), 0..1500), has_len in any::<bool>(),
    ) {
        let (id, offset) = (stream(raw >> shift), offset >> shift);
        let mut buffer = vec![0; 2000];
        let mut w = Writer::new(&mut buffer);
        write_stream_header(&mut w, id, offset, has_len.then_some(data.len()), fin).unwrap();
        w.bytes(&data).unwrap();
        let expected = Frame::Stream { stream: id, offset, data: &data, fin };
        prop_assert_eq!(read(w.written()), Ok(expected));
    }

    /// Any payload is read to its end or to an error; what was read is written and reads back.
    #[test]
    fn reading_is_total_and_writing_inverts_it(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200), frame_type in 0..0x20u8,
    ) {
        if let Some(first) = bytes.first_mut() {
            *first = frame_type;
        }
        let mut r = Reader::new(&bytes);
        while !r.is_empty() {
            let before = r.remaining();
            let Ok(frame) = Frame::read(&mut r) else { break };
            prop_assert!(r.remaining() < before);
            let again = written(&frame);
            prop_assert_eq!(read(&again), Ok(frame.clone()));
            if let Frame::Ack(ack) = &frame {
                prop_assert_eq!(ack.ranges().count() as u64, ack.range_count());
            }
        }
    }
}
