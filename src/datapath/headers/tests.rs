use super::*;
use proptest::prelude::*;

const LOCAL_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const REMOTE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// The link header of packets from us to the peer, with `tags`.
fn link(tags: &[[u8; 4]]) -> Link {
    let mut header = [0; 22];
    header[..6].copy_from_slice(&REMOTE_MAC);
    header[6..12].copy_from_slice(&LOCAL_MAC);
    for (index, tag) in tags.iter().enumerate() {
        header[12 + 4 * index..16 + 4 * index].copy_from_slice(tag);
    }
    Link { header, len: (ETHERNET_BYTES + 4 * tags.len()) as u8 }
}

const TAGS: [[u8; 4]; 2] = [[0x88, 0xa8, 0x01, 0x23], [0x81, 0x00, 0x00, 0x07]];

fn path_v4(tags: &[[u8; 4]]) -> Path {
    Path {
        local: "192.0.2.1:443".parse().unwrap(),
        remote: "198.51.100.7:50123".parse().unwrap(),
        link: link(tags),
    }
}

fn path_v6(tags: &[[u8; 4]]) -> Path {
    Path {
        local: "[2001:db8::1]:443".parse().unwrap(),
        remote: "[2001:db8:5::9]:50123".parse().unwrap(),
        link: link(tags),
    }
}

fn build(path: &Path, payload: &[u8], ecn: Ecn) -> Vec<u8> {
    let template = Template::new(path, FlowKey::new(7)).unwrap();
    let at = Template::ROOM_BYTES;
    let mut frame = vec![0xaa; at + payload.len()];
    frame[at..].copy_from_slice(payload);
    let range = template.write(&mut frame, at..at + payload.len(), ecn);
    frame[range].to_vec()
}

/// What the peer sends to us: the path as the peer sees it.
fn arriving(path: &Path, payload: &[u8], ecn: Ecn) -> Vec<u8> {
    let mut header = path.link.header;
    header[..6].copy_from_slice(&LOCAL_MAC);
    header[6..12].copy_from_slice(&REMOTE_MAC);
    let theirs =
        Path { local: path.remote, remote: path.local, link: Link { header, len: path.link.len } };
    build(&theirs, payload, ecn)
}

/// Reads a frame as a datapath and its worker do: the checksum is compared in the end.
fn received(frame: &[u8]) -> Result<Parsed, DropReason> {
    let parsed = parse(frame, Checksums::Defer)?;
    let Checksum::Unverified(field) = parsed.checksum else { panic!("not compared yet") };
    let holds = udp_checksum_holds(&parsed.path, field, &frame[parsed.payload.clone()]);
    if holds { Ok(parsed) } else { Err(DropReason::UdpChecksum) }
}

/// RFC 1071 read literally.
fn naive_sum(bytes: &[u8]) -> u16 {
    let mut total = 0u32;
    for word in bytes.chunks(2) {
        let low = word.get(1).copied().unwrap_or(0);
        total += u32::from(u16::from_be_bytes([word[0], low]));
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// Writes right IPv4 header and UDP checksums into an untagged IPv4 frame.
fn repair_v4(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let ip = !naive_sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&ip.to_be_bytes());
}

#[test]
fn the_fast_sum_is_the_sum_of_the_rfc() {
    // RFC 1071 §3, the worked example.
    let example = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(fold(sum(&example)).to_ne_bytes(), [0xdd, 0xf2]);
    let bytes: Vec<u8> = (0..700u32).map(|i| (i * 31 % 251) as u8).collect();
    for length in 0..bytes.len() {
        let slice = &bytes[..length];
        assert_eq!(fold(sum(slice)).to_ne_bytes(), naive_sum(slice).to_be_bytes(), "{length}");
    }
    assert_eq!(fold(sum(&[0xff; 65_535])).to_ne_bytes(), naive_sum(&[0xff; 65_535]).to_be_bytes());
}

#[test]
fn an_ipv4_packet_is_what_a_second_implementation_writes() {
    let frame = build(&path_v4(&[]), b"quic", Ecn::Ect0);
    let expected = [
        0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00, // Ethernet
        0x45, 0x02, 0, 32, 0, 0, 0x40, 0, 64, 17, 0x4e, 0xbe, 192, 0, 2, 1, 198, 51, 100, 7, 0x01,
        0xbb, 0xc3, 0xcb, 0, 12, 0x2c, 0xb9, b'q', b'u', b'i', b'c',
    ];
    // The two checksums by the naive sum, so that this test stands on its own.
    let mut check = expected;
    repair_v4(&mut check);
    check[40..42].fill(0);
    let mut pseudo = check[26..34].to_vec();
    pseudo.extend([0, 17, 0, 12]);
    pseudo.extend(&check[34..]);
    let udp = !naive_sum(&pseudo);
    check[40..42].copy_from_slice(&udp.to_be_bytes());
    assert_eq!(frame, check);
}

#[test]
fn a_reply_carries_the_tags_of_the_packet_and_swapped_macs() {
    for count in 0..=VLAN_TAGS_MAX {
        for path in [path_v4(&TAGS[..count]), path_v6(&TAGS[..count])] {
            let frame = arriving(&path, b"hello", Ecn::NotEct);
            let parsed = parse(&frame, Checksums::Verify).unwrap();
            let len = usize::from(path.link.len);
            assert_eq!(parsed.path.link.header[..len - 2], path.link.header[..len - 2]);
            assert_eq!(parsed.path.link.len, path.link.len);
            let reply = build(&parsed.path, b"olleh", Ecn::NotEct);
            assert_eq!(reply[..len], build(&path, b"", Ecn::NotEct)[..len]);
        }
    }
}

proptest! {
    #[test]
    fn what_is_built_is_parsed(
        tags in 0..=VLAN_TAGS_MAX,
        v6 in any::<bool>(),
        payload in proptest::collection::vec(any::<u8>(), 1..1500),
        ecn in 0..4u8,
    ) {
        let path = if v6 { path_v6(&TAGS[..tags]) } else { path_v4(&TAGS[..tags]) };
        let ecn = Ecn::from_tos(ecn);
        let mut frame = arriving(&path, &payload, ecn);
        // Ethernet pads short frames; the padding belongs to no header and no payload.
        frame.resize(frame.len().max(60), 0x55);
        let parsed = parse(&frame, Checksums::Verify).unwrap();
        prop_assert_eq!(parsed.path.local, path.local);
        prop_assert_eq!(parsed.path.remote, path.remote);
        prop_assert_eq!(parsed.ecn, ecn);
        prop_assert_eq!(&frame[parsed.payload], &payload[..]);
        prop_assert_eq!(verdict_for(&frame, |to| (to == path.local).then_some(0)), Verdict::Redirect);
    }

    #[test]
    fn no_input_panics_and_what_parses_would_have_been_redirected(
        mut frame in proptest::collection::vec(any::<u8>(), 0..120),
        edits in proptest::collection::vec((0..60usize, any::<u8>()), 0..4),
        shape in 0..6usize,
    ) {
        // Half of a random frame is a real one, or nothing would get past the EtherType.
        let base = match shape {
            0 => arriving(&path_v4(&[]), b"payload", Ecn::Ce),
            1 => arriving(&path_v6(&[]), b"payload", Ecn::Ce),
            2 => arriving(&path_v4(&TAGS[..1]), b"payload", Ecn::Ce),
            3 => arriving(&path_v6(&TAGS), b"payload", Ecn::Ce),
            _ => Vec::new(),
        };
        let kept = base.len().min(frame.len());
        frame[..kept].copy_from_slice(&base[..kept]);
        for (at, value) in edits {
            if let Some(byte) = frame.get_mut(at) { *byte = value; }
        }
        if parse(&frame, Checksums::Trusted).is_ok() {
            prop_assert_eq!(verdict_for(&frame, |_| Some(0)), Verdict::Redirect);
        }
    }

    #[test]
    fn a_flipped_bit_behind_the_macs_is_never_taken_for_the_same_datagram(
        v6 in any::<bool>(),
        payload in proptest::collection::vec(any::<u8>(), 1..200),
        position in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let path = if v6 { path_v6(&[]) } else { path_v4(&[]) };
        let frame = arriving(&path, &payload, Ecn::NotEct);
        let mut bad = frame.clone();
        let at = ETHERNET_BYTES + position.index(frame.len() - ETHERNET_BYTES);
        bad[at] ^= 1 << bit;
        // Where two things are wrong, either may be found first.
        let later = received(&bad).map(|parsed| parsed.payload).ok();
        prop_assert_eq!(parse(&bad, Checksums::Verify).map(|parsed| parsed.payload).ok(), later);
        let Ok(parsed) = parse(&bad, Checksums::Verify) else { return Ok(()) };
        // IPv6 has no header checksum: class, flow label and hop limit may change unseen. And a
        // UDP checksum whose last bit flips to zero means "none" in IPv4.
        let udp = if v6 { 54 } else { 34 };
        let unprotected = v6 && (at < 18 || at == 21);
        prop_assert!(unprotected || bad[udp + 6..udp + 8] == [0, 0], "{}", at);
        prop_assert_eq!(&bad[parsed.payload], &payload[..]);
    }
}

#[test]
fn a_zero_udp_checksum_is_sent_as_ones() {
    // Two payload bytes that make the sum all ones: found by trying them all.
    let path = path_v4(&[]);
    let found = (0..=u16::MAX).find(|word| {
        let frame = build(&path, &word.to_be_bytes(), Ecn::NotEct);
        assert_ne!(frame[40..42], [0, 0]);
        frame[40..42] == [0xff, 0xff]
    });
    let payload = found.unwrap().to_be_bytes();
    let frame = arriving(&path, &payload, Ecn::NotEct);
    assert!(parse(&frame, Checksums::Verify).is_ok());
}

/// A NIC that is told where the UDP header begins sums from there to the end, the field included.
#[test]
fn an_unsummed_packet_becomes_the_summed_one_when_a_nic_completes_it() {
    let tags = [[0x81, 0x00, 0x00, 0x07], [0x81, 0x00, 0x00, 0x08]];
    let paths = [path_v4(&[]), path_v6(&[]), path_v4(&tags), path_v6(&tags)];
    for path in paths {
        for length in [0, 1, 2, 99, 1200, 1472] {
            let payload: Vec<u8> = (0..length).map(|i| (i * 7 + length) as u8).collect();
            let template = Template::new(&path, FlowKey::new(7)).unwrap();
            let at = Template::ROOM_BYTES;
            let mut frame = vec![0xaa; at + payload.len()];
            frame[at..].copy_from_slice(&payload);
            let packet = template.write_unsummed(&mut frame, at..at + payload.len(), Ecn::Ce);
            let packet = &mut frame[packet];
            let udp = template.headers_bytes() - UDP_BYTES;
            let unfinished = [packet[udp + 6], packet[udp + 7]];
            let checksum = !naive_sum(&packet[udp..]);
            packet[udp + 6..udp + 8].copy_from_slice(&checksum.to_be_bytes());
            let whole = build(&path, &payload, Ecn::Ce);
            assert_eq!(packet, &whole[..], "{path:?}, {length} bytes");
            assert_ne!(unfinished, whole[udp + 6..udp + 8], "{path:?}, {length} bytes");
        }
    }
}

/// What a kernel leaves to hardware on a wire that has none: the sum of the pseudo header.
#[test]
fn attack_46_an_unfinished_checksum_counts_as_none() {
    for path in [path_v4(&[]), path_v6(&[])] {
        let theirs = Path { local: path.remote, remote: path.local, ..path };
        let template = Template::new(&theirs, FlowKey::new(7)).unwrap();
        let at = Template::ROOM_BYTES;
        let mut frame = vec![0x5a; at + 99];
        let packet = template.write_unsummed(&mut frame, at..at + 99, Ecn::Ect0);
        let packet = &mut frame[packet];
        assert_eq!(parse(packet, Checksums::Verify), Err(DropReason::UdpChecksum));
        assert_eq!(received(packet).map(|parsed| parsed.payload.len()), Ok(99));
        // It guards addresses, protocol and length: of another datagram it is wrong.
        let udp = packet.len() - 99 - UDP_BYTES;
        packet[udp + 6] ^= 0x40;
        assert_eq!(received(packet), Err(DropReason::UdpChecksum));
    }
}

#[test]
fn flow_labels_are_constant_per_flow_and_differ_between_flows() {
    let label = |path: &Path, key: u64| {
        let template = Template::new(path, FlowKey::new(key)).unwrap();
        let mut frame = vec![0; 200];
        let range = template.write(&mut frame, 100..110, Ecn::Ce);
        u32::from_be_bytes([
            0,
            frame[range.start + 15],
            frame[range.start + 16],
            frame[range.start + 17],
        ]) & 0x000f_ffff
    };
    let path = path_v6(&[]);
    let mut other = path;
    other.remote.set_port(50_124);
    assert_eq!(label(&path, 7), label(&path, 7));
    assert_ne!(label(&path, 7), label(&other, 7));
    assert_ne!(label(&path, 7), label(&path, 8));
    assert_ne!(label(&path, 7), 0);
}

#[test]
fn a_template_needs_a_link_and_one_family() {
    let mut path = path_v4(&[]);
    path.link = Link::UNKNOWN;
    assert!(Template::new(&path, FlowKey::new(0)).is_none());
    path.link = link(&[]);
    path.remote = path_v6(&[]).remote;
    assert!(Template::new(&path, FlowKey::new(0)).is_none());
}

#[test]
fn attack_43_fragments_are_passed_and_never_parsed() {
    for bits in [0x2000u16, 0x0001, 0x3fff] {
        let mut frame = arriving(&path_v4(&[]), &[0; 64], Ecn::NotEct);
        frame[20..22].copy_from_slice(&bits.to_be_bytes());
        repair_v4(&mut frame);
        assert_eq!(verdict(&frame), Verdict::PassFragment);
        assert_eq!(parse(&frame, Checksums::Verify), Err(DropReason::Malformed));
    }
    let mut frame = arriving(&path_v6(&[]), &[0; 64], Ecn::NotEct);
    frame[20] = 44;
    assert_eq!(verdict(&frame), Verdict::PassFragment);
    assert_eq!(parse(&frame, Checksums::Verify), Err(DropReason::Malformed));
    // Do-not-fragment alone is no fragment.
    let frame = arriving(&path_v4(&[]), &[0; 64], Ecn::NotEct);
    assert_eq!(frame[20], 0x40);
    assert_eq!(verdict(&frame), Verdict::Redirect);
}

#[test]
fn attack_44_a_third_tag_is_left_to_the_kernel() {
    let frame = arriving(&path_v4(&TAGS), b"x", Ecn::NotEct);
    assert_eq!(verdict(&frame), Verdict::Redirect);
    let mut deep = frame[..12].to_vec();
    deep.extend([0x81, 0, 0, 9]);
    deep.extend(&frame[12..]);
    assert_eq!(verdict(&deep), Verdict::PassVlanDepth);
    assert_eq!(parse(&deep, Checksums::Verify), Err(DropReason::Malformed));
}

#[test]
fn attack_45_options_runts_and_short_ihl_never_reach_quic() {
    let frame = arriving(&path_v4(&[]), &[0; 32], Ecn::NotEct);
    let set = |at: usize, value: u8| {
        let mut frame = frame.clone();
        frame[at] = value;
        frame
    };
    assert_eq!(verdict(&set(14, 0x46)), Verdict::PassOptions);
    assert_eq!(verdict(&set(14, 0x44)), Verdict::PassMalformed);
    assert_eq!(verdict(&set(14, 0x65)), Verdict::PassMalformed);
    assert_eq!(verdict(&set(23, 6)), Verdict::PassNotUdp);
    assert_eq!(verdict(&set(12, 0)), Verdict::PassNotIp);
    for at in [14, 12, 23] {
        assert_eq!(parse(&set(at, 0x46), Checksums::Trusted), Err(DropReason::Malformed));
    }
    let v6 = arriving(&path_v6(&[]), &[0; 32], Ecn::NotEct);
    for (next, expected) in
        [(0, Verdict::PassExtension), (140, Verdict::PassExtension), (58, Verdict::PassNotUdp)]
    {
        let mut frame = v6.clone();
        frame[20] = next;
        assert_eq!(verdict(&frame), expected);
    }
    for (frame, headers) in [(&frame, 42), (&v6, 62)] {
        for length in 0..headers {
            assert_eq!(verdict(&frame[..length]), Verdict::PassShort, "{length}");
            assert_eq!(parse(&frame[..length], Checksums::Trusted), Err(DropReason::Malformed));
        }
    }
}

#[test]
fn attack_46_lengths_and_checksums_that_lie_are_told_apart() {
    let v4 = arriving(&path_v4(&[]), &[1; 32], Ecn::NotEct);
    let v6 = arriving(&path_v6(&[]), &[1; 32], Ecn::NotEct);
    let with = |frame: &[u8], at: usize, bytes: [u8; 2]| {
        let mut frame = frame.to_vec();
        frame[at..at + 2].copy_from_slice(&bytes);
        if frame[12] == 0x08 {
            repair_v4(&mut frame);
        }
        let now = parse(&frame, Checksums::Verify).map(|parsed| parsed.payload.len());
        assert_eq!(received(&frame).map(|parsed| parsed.payload.len()), now);
        now
    };
    // UDP length: below its header, beyond IP.
    assert_eq!(with(&v4, 38, [0, 7]), Err(DropReason::UdpLength));
    assert_eq!(with(&v4, 38, [0, 41]), Err(DropReason::UdpLength));
    assert_eq!(with(&v6, 58, [0, 7]), Err(DropReason::UdpLength));
    assert_eq!(with(&v6, 58, [0, 41]), Err(DropReason::UdpLength));
    // IP length: beyond the frame, below the headers.
    assert_eq!(with(&v4, 16, [0, 61]), Err(DropReason::Malformed));
    assert_eq!(with(&v4, 16, [0, 27]), Err(DropReason::Malformed));
    assert_eq!(with(&v6, 18, [0, 41]), Err(DropReason::Malformed));
    assert_eq!(with(&v6, 18, [0, 7]), Err(DropReason::Malformed));
    // Zero checksum: legal in IPv4, not in IPv6. Any other wrong one in neither.
    assert_eq!(with(&v4, 40, [0, 0]), Ok(32));
    assert_eq!(with(&v6, 60, [0, 0]), Err(DropReason::UdpChecksum));
    assert_eq!(with(&v4, 40, [1, 2]), Err(DropReason::UdpChecksum));
    assert_eq!(with(&v6, 60, [1, 2]), Err(DropReason::UdpChecksum));
    // What an AEAD guards is handed on, wherever the checksum is wrong.
    let mut bad = v4.clone();
    bad[40..42].copy_from_slice(&[1, 2]);
    let handed = parse(&bad, Checksums::Defer).unwrap();
    assert_eq!(handed.checksum, Checksum::Unverified([1, 2]));
    let mut bad = v4.clone();
    bad[24] ^= 0x10;
    assert_eq!(parse(&bad, Checksums::Verify), Err(DropReason::IpChecksum));
    assert_eq!(parse(&bad, Checksums::Defer), Err(DropReason::IpChecksum));
    assert!(parse(&bad, Checksums::Trusted).is_ok());
}

/// [MsQuic 6057, 6144].
#[test]
fn attack_75_lengths_below_their_headers_are_never_subtracted() {
    let v4 = arriving(&path_v4(&[]), &[1; 32], Ecn::NotEct);
    let v6 = arriving(&path_v6(&[]), &[1; 32], Ecn::NotEct);
    let with = |frame: &[u8], at: usize, length: u16| {
        let mut frame = frame.to_vec();
        frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
        if frame[12] == 0x08 {
            repair_v4(&mut frame);
        }
        for checksums in [Checksums::Verify, Checksums::Trusted] {
            assert!(parse(&frame, checksums).is_err());
        }
        parse(&frame, Checksums::Defer).unwrap_err()
    };
    for length in 0..8 {
        assert_eq!(with(&v4, 38, length), DropReason::UdpLength, "{length}");
        assert_eq!(with(&v6, 58, length), DropReason::UdpLength, "{length}");
        assert_eq!(with(&v6, 18, length), DropReason::Malformed, "{length}");
    }
    // The total length of IPv4 counts its header of 20 bytes, and UDP's of 8.
    for length in 0..28 {
        assert_eq!(with(&v4, 16, length), DropReason::Malformed, "{length}");
    }
}

#[test]
fn attack_44_a_device_takes_its_own_frames_in_allowed_vlans() {
    let mut vlans = VlanSet::NONE;
    assert_eq!(vlans.insert(4095), Err(BadVlan(4095)));
    vlans.insert(7).unwrap();
    let none = LinkRules { mac: LOCAL_MAC, vlans: VlanSet::NONE };
    let seven = LinkRules { vlans, ..none };
    let judged = |tags: &[[u8; 4]], rules: &LinkRules| {
        let frame = arriving(&path_v4(tags), b"x", Ecn::NotEct);
        verdict_on(&frame, rules, |_| Some(0))
    };
    assert_eq!(judged(&[], &none), Verdict::Redirect);
    assert_eq!(judged(&TAGS[1..], &none), Verdict::PassVlan);
    assert_eq!(judged(&TAGS[1..], &seven), Verdict::Redirect);
    assert_eq!(judged(&TAGS, &seven), Verdict::PassVlan, "every tag has to be allowed");
    vlans.insert(0x123).unwrap();
    assert_eq!(judged(&TAGS, &LinkRules { vlans, ..none }), Verdict::Redirect);
    assert_eq!(format!("{vlans:?}"), "{7, 291}");
    let mut frame = arriving(&path_v6(&TAGS[1..]), b"x", Ecn::NotEct);
    frame[3] ^= 1;
    assert_eq!(verdict_on(&frame, &seven, |_| Some(0)), Verdict::PassOtherHost);
    assert_eq!(verdict_on(&frame, &seven, |_| None), Verdict::PassNotListened);
}

#[test]
fn attack_47_a_datagram_without_payload_has_its_own_reason() {
    for path in [path_v4(&[]), path_v6(&[])] {
        let frame = arriving(&path, b"", Ecn::NotEct);
        assert_eq!(verdict(&frame), Verdict::Redirect);
        assert_eq!(parse(&frame, Checksums::Verify), Err(DropReason::Empty));
    }
}

#[test]
fn nobody_answers_to_a_group_to_loopback_or_to_port_zero() {
    for remote in ["127.0.0.1:9", "0.1.2.3:9", "224.0.0.1:9", "255.255.255.255:9", "198.51.100.7:0"]
    {
        let mut path = path_v4(&[]);
        path.remote = remote.parse().unwrap();
        let frame = arriving(&path, b"x", Ecn::NotEct);
        assert_eq!(parse(&frame, Checksums::Verify), Err(DropReason::Malformed), "{remote}");
    }
    for remote in ["[::1]:9", "[::]:9", "[ff02::1]:9", "[::ffff:192.0.2.9]:9"] {
        let mut path = path_v6(&[]);
        path.remote = remote.parse().unwrap();
        let frame = arriving(&path, b"x", Ecn::NotEct);
        assert_eq!(parse(&frame, Checksums::Verify), Err(DropReason::Malformed), "{remote}");
    }
    // A frame to a group of MACs can be read, but its link header is no way back.
    let mut frame = arriving(&path_v4(&[]), b"x", Ecn::NotEct);
    frame[0] = 0xff;
    assert_eq!(parse(&frame, Checksums::Verify).unwrap().path.link, Link::UNKNOWN);
}

#[test]
fn small_initials_are_dropped_for_servers_only() {
    let mut payload = vec![0u8; 1199];
    payload[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
    let path = path_v4(&[]);
    let small = arriving(&path, &payload, Ecn::NotEct);
    assert_eq!(verdict(&small), Verdict::DropSmallInitial);
    assert_eq!(verdict_for(&small, |_| Some(0)), Verdict::Redirect);
    payload.push(0);
    assert_eq!(verdict(&arriving(&path, &payload, Ecn::NotEct)), Verdict::Redirect);
    payload.truncate(100);
    for (at, value) in [(0, 0x43), (0, 0xd3), (0, 0xe3), (0, 0xf3), (4, 2), (1, 1)] {
        let mut other = payload.clone();
        other[at] = value;
        assert_eq!(
            verdict(&arriving(&path, &other, Ecn::NotEct)),
            Verdict::Redirect,
            "{at} {value:x}"
        );
    }
    // Too short to be a long header at all.
    assert_eq!(verdict(&arriving(&path, &payload[..4], Ecn::NotEct)), Verdict::Redirect);
    assert_eq!(verdict(&arriving(&path, &payload[..5], Ecn::NotEct)), Verdict::DropSmallInitial);
}

#[test]
fn every_verdict_has_its_number_and_name() {
    for (number, verdict) in Verdict::ALL.iter().enumerate() {
        assert_eq!(*verdict as usize, number);
        assert_eq!(Verdict::from_raw(number as u32), Some(*verdict));
    }
    assert_eq!(Verdict::from_raw(Verdict::ALL.len() as u32), None);
    let names: std::collections::HashSet<_> = Verdict::ALL.iter().map(|v| v.name()).collect();
    assert_eq!(names.len(), Verdict::ALL.len());
}

#[test]
fn the_program_numbers_the_verdicts_as_we_do() {
    let header = include_str!("../../../bpf/steer.h");
    let (_, verdicts) = header.split_once("enum steer_verdict {").unwrap();
    let (verdicts, _) = verdicts.split_once("};").unwrap();
    let theirs: Vec<_> = verdicts.split(',').map(str::trim).filter(|it| !it.is_empty()).collect();
    let name = |verdict: Verdict| verdict.name().replace('-', "_").to_uppercase();
    let ours = Verdict::ALL.map(|verdict| format!("STEER_{} = {}", name(verdict), verdict as u32));
    let count = format!("STEER_VERDICTS = {}", Verdict::ALL.len());
    assert_eq!(theirs, ours.iter().chain([&count]).collect::<Vec<_>>());
}
