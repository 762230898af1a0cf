use super::*;
use proptest::prelude::*;

fn id(bytes: &[u8]) -> ConnectionId {
    ConnectionId::new(bytes).unwrap()
}

/// A long header as `LongHeader` writes it, its length patched for `payload` bytes.
fn long(kind: PacketType, token: &[u8], pn: u64, pn_len: usize, payload: usize) -> Vec<u8> {
    let header =
        LongHeader { kind, version: VERSION_1, dcid: id(&[1; 8]), scid: id(&[2; 5]), token };
    let mut buffer = vec![0; 200 + token.len() + payload];
    let mut writer = Writer::new(&mut buffer);
    let layout = header.write(&mut writer, pn, pn_len).unwrap();
    assert_eq!(layout.pn_at + pn_len, writer.position());
    let end = writer.position() + payload;
    patch_length(&mut buffer, layout.length_at, pn_len + payload);
    buffer.truncate(end);
    buffer
}

#[test]
fn packet_number_lengths_of_rfc_9000_appendix_a_2() {
    assert_eq!(pn_len(0xac5c02, Some(0xabe8b3)), 2);
    assert_eq!(pn_len(0xace8fe, Some(0xabe8b3)), 3);
}

#[test]
fn packet_number_of_rfc_9000_appendix_a_3() {
    assert_eq!(decode_pn(0x9b32, 2, Some(0xa82f30ea)), 0xa82f9b32);
}

#[test]
fn first_packet_numbers_take_one_byte() {
    assert_eq!(pn_len(0, None), 1);
    assert_eq!(pn_len(127, None), 1);
    assert_eq!(pn_len(128, None), 2);
    assert_eq!(decode_pn(0, 1, None), 0);
    assert_eq!(decode_pn(255, 1, None), 255);
}

#[test]
fn packet_numbers_at_the_end_of_their_space() {
    assert_eq!(decode_pn(0xff, 1, Some(VARINT_MAX - 1)), VARINT_MAX);
    assert_eq!(decode_pn(0xff, 1, Some(VARINT_MAX)), VARINT_MAX);
    assert!(decode_pn(0x00, 1, Some(VARINT_MAX)) <= VARINT_MAX);
    assert_eq!(pn_len(VARINT_MAX, None), 4);
}

/// RFC 9000 A.3: the window of candidates ends half a window beyond the expected number, and
/// begins one past half a window in front of it.
#[test]
fn one_byte_names_every_number_of_the_window() {
    for expected in 128..=1024u64 {
        for pn in expected - 127..=expected + 128 {
            assert_eq!(decode_pn(pn & 0xff, 1, Some(expected - 1)), pn, "expecting {expected}");
        }
    }
}

#[test]
fn a_short_header_reads_back() {
    let dcid = id(&[9; 17]);
    let mut buffer = [0xee; 64];
    let mut writer = Writer::new(&mut buffer);
    let pn_at = write_short(&mut writer, &dcid, true, true, 0x0102_0304, 3).unwrap();
    assert_eq!((pn_at, writer.position()), (18, 21));
    let packet = parse(&buffer, 0, 17).unwrap();
    assert_eq!(packet.kind, PacketType::Short);
    assert_eq!(packet.first, 0x40 | 0x20 | 0x04 | 2);
    assert_eq!((packet.dcid, packet.scid), (dcid, ConnectionId::EMPTY));
    assert_eq!((packet.pn_offset, packet.end), (18, 64));
    assert_eq!(buffer[18..21], [2, 3, 4]);
    assert!(packet.token.is_empty());
}

#[test]
fn the_client_initial_of_rfc_9001_appendix_a_2_parses() {
    // The unprotected header, and the length that it announces.
    let header = [
        0xc3, 0x00, 0x00, 0x00, 0x01, 0x08, 0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08, 0x00,
        0x00, 0x44, 0x9e, 0x00, 0x00, 0x00, 0x02,
    ];
    let mut datagram = header.to_vec();
    datagram.resize(1200, 0);
    let packet = parse(&datagram, 0, 8).unwrap();
    assert_eq!(packet.kind, PacketType::Initial);
    assert_eq!(packet.dcid.as_slice(), [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08]);
    assert_eq!((packet.pn_offset, packet.end), (18, 1200));

    let mut buffer = [0; 32];
    let mut writer = Writer::new(&mut buffer);
    let again = LongHeader {
        kind: PacketType::Initial,
        version: VERSION_1,
        dcid: packet.dcid,
        scid: packet.scid,
        token: &[],
    };
    let layout = again.write(&mut writer, 2, 4).unwrap();
    let len = writer.position();
    patch_length(&mut buffer, layout.length_at, 1182);
    assert_eq!(buffer[..len], header);
}

#[test]
fn coalesced_packets_parse_one_by_one() {
    let initial = long(PacketType::Initial, &[5; 70], 1, 1, 100);
    let handshake = long(PacketType::Handshake, &[5; 70], 2, 2, 50);
    let mut short = vec![0x41];
    short.extend([1; 8 + 2 + 30]);
    let datagram = [&initial[..], &handshake, &short].concat();

    let packet = parse(&datagram, 0, 8).unwrap();
    assert_eq!((packet.kind, packet.end), (PacketType::Initial, initial.len()));
    assert_eq!(datagram[packet.token], [5; 70]);
    let packet = parse(&datagram, packet.end, 8).unwrap();
    assert_eq!(packet.kind, PacketType::Handshake);
    assert_eq!((packet.dcid, packet.scid), (id(&[1; 8]), id(&[2; 5])));
    assert!(packet.token.is_empty(), "only an Initial has a token");
    assert_eq!(packet.end - packet.pn_offset, 52);
    let packet = parse(&datagram, packet.end, 8).unwrap();
    assert_eq!((packet.kind, packet.end), (PacketType::Short, datagram.len()));
    assert_eq!(parse(&datagram, packet.end, 8), Err(HeaderError::Truncated));
    assert_eq!(parse(&datagram, usize::MAX, 8), Err(HeaderError::Truncated));
}

#[test]
fn a_length_beyond_the_datagram_is_refused() {
    let mut datagram = long(PacketType::ZeroRtt, &[], 0, 1, 40);
    datagram.pop();
    assert_eq!(parse(&datagram, 0, 8), Err(HeaderError::LengthBeyondDatagram));
}

#[test]
fn a_token_length_beyond_the_datagram_is_refused() {
    let mut datagram = vec![0xc0, 0, 0, 0, 1, 0, 0];
    datagram.extend([0xff; 8]);
    datagram.extend([0; 40]);
    assert_eq!(parse(&datagram, 0, 8), Err(HeaderError::Truncated));
}

#[test]
fn every_header_cut_short_is_refused() {
    let datagram = long(PacketType::Initial, &[5; 3], 1, 1, 20);
    for cut in 0..datagram.len() {
        assert!(parse(&datagram[..cut], 0, 8).is_err(), "cut at {cut}");
    }
}

#[test]
fn the_fixed_bit_is_required_of_version_1_only() {
    let mut datagram = long(PacketType::Handshake, &[], 0, 1, 20);
    datagram[0] &= !FIXED_BIT;
    assert_eq!(parse(&datagram, 0, 8), Err(HeaderError::FixedBitClear));
    datagram[4] = 2;
    assert_eq!(parse(&datagram, 0, 8).unwrap().kind, PacketType::UnknownVersion);
    datagram[4] = 0;
    datagram.resize(20 + 8, 0);
    assert_eq!(parse(&datagram, 0, 8).unwrap().kind, PacketType::VersionNegotiation);
    assert_eq!(parse(&[0x3f; 40], 0, 8), Err(HeaderError::FixedBitClear));
}

#[test]
fn ids_over_twenty_bytes_are_refused_but_of_unknown_versions() {
    let mut datagram = vec![0xc0, 0, 0, 0, 1, 21];
    datagram.extend([7; 21]);
    datagram.push(3);
    datagram.extend([8; 3 + 20]);
    assert_eq!(parse(&datagram, 0, 8), Err(HeaderError::CidTooLong));
    datagram[4] = 9;
    let packet = parse(&datagram, 0, 8).unwrap();
    assert_eq!((packet.kind, packet.version), (PacketType::UnknownVersion, 9));
    assert_eq!((packet.dcid, packet.scid), (ConnectionId::EMPTY, id(&[8; 3])));
    // RFC 9000 §17.2: the ids must be readable for the Version Negotiation that answers.
    assert_eq!(long_ids(&datagram, 0), Some((&[7; 21][..], &[8; 3][..])));
    assert_eq!(long_ids(&datagram[..20], 0), None);
    assert_eq!(long_ids(&[0x40; 30], 0), None);
}

#[test]
fn a_version_negotiation_reads_back() {
    let mut buffer = [0; 400];
    let mut writer = Writer::new(&mut buffer);
    let listed = [VERSION_1, 0x1a2a_3a4a];
    write_version_negotiation(&mut writer, &[3; 20], &[4; 8], &listed, 0x15).unwrap();
    let datagram = writer.written();
    assert_eq!(datagram[0], 0x80 | 0x40 | 0x15);
    let packet = parse(datagram, 0, 8).unwrap();
    assert_eq!((packet.kind, packet.version), (PacketType::VersionNegotiation, 0));
    assert_eq!((packet.dcid, packet.scid), (id(&[3; 20]), id(&[4; 8])));
    assert_eq!(versions(&packet, datagram).collect::<Vec<_>>(), listed);

    let cut = datagram.len() - 1;
    assert_eq!(parse(&datagram[..cut], 0, 8), Err(HeaderError::BadVersionList));
    assert_eq!(parse(&datagram[..cut - 7], 0, 8), Err(HeaderError::BadVersionList));

    let mut writer = Writer::new(&mut buffer);
    write_version_negotiation(&mut writer, &[3; 255], &[4; 100], &listed, 0).unwrap();
    assert_eq!(long_ids(writer.written(), 0), Some((&[3; 255][..], &[4; 100][..])));
}

#[test]
fn a_retry_reads_back() {
    let mut buffer = [0xaa; 100];
    let mut writer = Writer::new(&mut buffer);
    let (dcid, scid) = (id(&[3; 4]), id(&[4; 17]));
    write_retry_header(&mut writer, VERSION_1, &dcid, &scid, b"token", 0xff).unwrap();
    let tag_at = writer.position();
    let datagram = &buffer[..tag_at + RETRY_TAG_LEN];
    assert_eq!(datagram[0], 0xff);
    let packet = parse(datagram, 0, 4).unwrap();
    assert_eq!((packet.kind, packet.dcid, packet.scid), (PacketType::Retry, dcid, scid));
    assert_eq!(&datagram[packet.token], b"token");
    assert_eq!((packet.pn_offset, packet.end), (tag_at, datagram.len()));
    assert_eq!(versions(&parse(datagram, 0, 4).unwrap(), datagram).count(), 0);

    let without_token = [&datagram[..tag_at - 5], &[0; RETRY_TAG_LEN - 1]].concat();
    assert_eq!(parse(&without_token, 0, 4), Err(HeaderError::Truncated));
}

#[test]
fn headers_that_do_not_fit_write_nothing() {
    let header = LongHeader {
        kind: PacketType::Initial,
        version: VERSION_1,
        dcid: id(&[1; 8]),
        scid: id(&[2; 8]),
        token: &[3; 10],
    };
    let whole = 1 + 4 + 9 + 9 + 11 + 2 + 4;
    for room in 0..whole {
        let mut buffer = vec![0; room];
        let mut writer = Writer::new(&mut buffer);
        assert_eq!(header.write(&mut writer, 0, 4), Err(Full));
        assert_eq!(write_short(&mut writer, &id(&[1; 20]), false, false, 0, 4).is_ok(), room >= 25);
        assert_eq!(writer.position(), if room >= 25 { 25 } else { 0 });
    }
    let mut buffer = vec![0; whole];
    assert!(header.write(&mut Writer::new(&mut buffer), 0, 4).is_ok());
}

proptest! {
    #[test]
    fn packet_numbers_come_back(
        acked in prop::option::of(0..VARINT_MAX - (1 << 31)),
        ahead in 0..1u64 << 31,
        shift in 0..31u32,
        receiver_is_ahead in 0..=1u64,
    ) {
        // The receiver has at least what was acknowledged, and at most what was sent before.
        let pn = acked.map_or(0, |acked| acked + 1) + (ahead >> shift);
        let len = pn_len(pn, acked);
        let received = match receiver_is_ahead {
            0 => acked,
            _ => pn.checked_sub(1),
        };
        prop_assert_eq!(decode_pn(pn & ((1 << (8 * len)) - 1), len, received), pn);
    }

    #[test]
    fn decoded_numbers_are_nearest_and_in_range(
        truncated in any::<u64>(), len in 1..=4usize, largest in prop::option::of(0..=VARINT_MAX),
    ) {
        let pn = decode_pn(truncated, len, largest);
        let window = 1u64 << (8 * len);
        prop_assert!(pn <= VARINT_MAX);
        prop_assert_eq!(pn % window, truncated % window);
        let expected = largest.map_or(0, |largest| (largest + 1).min(VARINT_MAX));
        let distance = pn.abs_diff(expected);
        let at_an_end = pn < window || pn > VARINT_MAX - window;
        prop_assert!(distance <= window / 2 || at_an_end);
    }

    #[test]
    fn parsing_is_total_and_stays_inside(
        mut datagram in prop::collection::vec(any::<u8>(), 0..120),
        version in 0..4u32, start in 0..130usize, short_dcid_len in 0..=20usize,
    ) {
        if let Some(field) = datagram.get_mut(1..5).filter(|_| version < 2) {
            field.copy_from_slice(&version.to_be_bytes());
        }
        for start in [0, start] {
            let Ok(packet) = parse(&datagram, start, short_dcid_len) else { continue };
            prop_assert!(start < packet.pn_offset && packet.pn_offset <= packet.end);
            prop_assert!(packet.end <= datagram.len());
            prop_assert!(packet.token.start <= packet.token.end);
            prop_assert!(packet.token.end <= packet.pn_offset);
            prop_assert!(versions(&packet, &datagram).count() * 4 <= datagram.len());
        }
        let _ = long_ids(&datagram, start);
    }

    #[test]
    fn long_headers_come_back(
        kind in prop::sample::select(vec![
            PacketType::Initial, PacketType::ZeroRtt, PacketType::Handshake,
        ]),
        dcid in prop::collection::vec(any::<u8>(), 0..=20),
        scid in prop::collection::vec(any::<u8>(), 0..=20),
        token in prop::collection::vec(any::<u8>(), 0..300),
        pn in 0..1u64 << 32, pn_len in 1..=4usize, payload in 0..1000usize, before in 0..50usize,
    ) {
        let (dcid, scid) = (id(&dcid), id(&scid));
        let header = LongHeader { kind, version: VERSION_1, dcid, scid, token: &token };
        let mut buffer = vec![0; 2000];
        let mut writer = Writer::new(&mut buffer);
        writer.advance(before);
        let layout = header.write(&mut writer, pn, pn_len).unwrap();
        let end = writer.position() + payload;
        patch_length(&mut buffer, layout.length_at, pn_len + payload);
        let packet = parse(&buffer, before, 0).unwrap();
        prop_assert_eq!(packet.kind, kind);
        prop_assert_eq!(packet.first & 0b1111, (pn_len - 1) as u8);
        prop_assert_eq!((packet.dcid, packet.scid), (dcid, scid));
        prop_assert_eq!((packet.pn_offset, packet.end), (layout.pn_at, end));
        let expected: &[u8] = if kind == PacketType::Initial { &token } else { &[] };
        prop_assert_eq!(&buffer[packet.token], expected);
    }
}

#[test]
fn a_datagram_is_routed_by_the_first_destination_id_of_any_version() {
    // RFC 8999 §5: form bit, version, then the ids with their lengths.
    let mut long = vec![0x80, 0xde, 0xad, 0xbe, 0xef, 30];
    long.extend([7; 30]);
    long.extend([2, 1, 1]);
    assert_eq!(destination(&long, 8), Some((Form::Long, &[7; 30][..])));
    assert_eq!(destination(&long[..20], 8), None);
    let short = [0x40, 1, 2, 3, 4, 5];
    assert_eq!(destination(&short, 4), Some((Form::Short, &[1, 2, 3, 4][..])));
    assert_eq!(destination(&short, 5), Some((Form::Short, &[1, 2, 3, 4, 5][..])));
    assert_eq!(destination(&short, 6), None);
    assert_eq!(destination(&[], 0), None);
}
