//! The vectors of RFC 9001, Appendix A, and what must fail.

use super::*;
use crate::proto::crypto::Level;
use crate::proto::crypto::aead::Aead;
use crate::proto::crypto::testing::{NOW, handshake, hex, pair};
use crate::proto::crypto::{Session, TAG_LEN, Unmasked};
use crate::wire::VERSION_1;

const DCID: &str = "8394c8f03e515708";

/// RFC 9001 §A.2: the CRYPTO frame of the client's Initial.
const CLIENT_HELLO: &str = "
    060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e868
    04fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578
    616d706c652e636f6dff01000100000a00080006001d00170018001000070005
    04616c706e000500050100000000003300260024001d00209370b2c9caa47fba
    baf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b000302030400
    0d0010000e0403050306030203080408050806002d00020101001c0002400100
    3900320408ffffffffffffffff05048000ffff07048000ffff08011001048000
    75300901100f088394c8f03e51570806048000ffff";

/// RFC 9001 §A.2: the start and the end of the protected packet.
const CLIENT_INITIAL_START: &str = "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11d242b123dc9bd8bab936b47d92ec356c";
const CLIENT_INITIAL_END: &str = "e221af44860018ab0856972e194cd934";

/// RFC 9001 §A.3: the server's Initial, before and after.
const SERVER_HEADER: &str = "c1000000010008f067a5502a4262b50040750001";
const SERVER_PAYLOAD: &str = "
    02000000000600405a020000560303eefce7f7b37ba1d1632e96677825ddf739
    88cfc79825df566dc5430b9a045a1200130100002e00330024001d00209d3c94
    0d89690b84d08a60993c144eca684d1081287c834d5311bcf32bb9da1a002b00
    020304";
const SERVER_PACKET: &str = "
    cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a
    5816b6394100f37a1c69797554780bb38cc5a99f5ede4cf73c3ec2493a1839b3
    dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84
    022f8ef4cdd93795d77d06edbb7aaf2f58891850abbdca3d20398c276456cbc4
    2158407dd074ee";

fn initial(side: Side) -> Keys {
    initial_keys(VERSION_1, &hex(DCID), side).expect("version 1")
}

/// RFC 9001 §A.2's packet before protection, with room for the tag.
fn client_initial() -> (Vec<u8>, usize) {
    let mut packet = hex("c300000001088394c8f03e5157080000449e00000002");
    let header_len = packet.len();
    packet.extend(hex(CLIENT_HELLO));
    packet.resize(header_len + 1162 + TAG_LEN, 0);
    (packet, header_len)
}

#[test]
fn client_initial_of_the_rfc() {
    let keys = initial(Side::Client);
    let (mut packet, header_len) = client_initial();
    let len = packet.len();
    assert_eq!(keys.local.packet().seal(2, &mut packet, header_len, 1162), Some(len));
    assert!(keys.local.header().mask(&mut packet, header_len - 4));
    assert_eq!(len, 1200);
    assert_eq!(packet[..48], hex(CLIENT_INITIAL_START));
    assert_eq!(packet[len - 16..], hex(CLIENT_INITIAL_END));
}

#[test]
fn server_initial_of_the_rfc() {
    let keys = initial(Side::Server);
    let mut packet = hex(SERVER_HEADER);
    let header_len = packet.len();
    packet.extend(hex(SERVER_PAYLOAD));
    let payload_len = packet.len() - header_len;
    packet.resize(packet.len() + TAG_LEN, 0);
    keys.local.packet().seal(1, &mut packet, header_len, payload_len).expect("room for the tag");
    assert!(keys.local.header().mask(&mut packet, header_len - 2));
    assert_eq!(packet, hex(SERVER_PACKET));

    let keys = initial(Side::Client);
    let unmasked = keys.remote.header().unmask(&mut packet, header_len - 2).expect("long enough");
    assert_eq!(unmasked, Unmasked { first: 0xc1, truncated_pn: 1, pn_len: 2 });
    assert_eq!(keys.remote.packet().open(1, &mut packet, header_len), Some(payload_len));
    assert_eq!(packet[..header_len], hex(SERVER_HEADER));
    assert_eq!(packet[header_len..header_len + payload_len], hex(SERVER_PAYLOAD));
}

/// RFC 9001 §A.5: a short header packet under ChaCha20-Poly1305, whose keys come from a
/// traffic secret. The handshake does not show its secrets, so the keys are made from the RFC's
/// key, iv and hp.
#[test]
fn chacha20_short_header_of_the_rfc() {
    let (key, hp) = (
        hex("c6d98ff3441c3fe1b2182094f69caa2ed4b716b65488960a7a984979fb23e1c8"),
        hex("25a282b9e82f06f21f488917a4fc8f1b73573685608597d0efcb076b0ab7a7a4"),
    );
    let iv = hex("e0459b3474bdd0e44a41c144");
    let header = HeaderSecret::new(Aead::ChaCha20, &hp).expect("32 bytes").expand();
    let packet_key = PacketSecret::new(Aead::ChaCha20, &key, &iv).expect("32 and 12").expand();

    let mut packet = hex("4200bff401");
    packet.resize(5 + TAG_LEN, 0);
    packet_key.seal(654_360_564, &mut packet, 4, 1).expect("room for the tag");
    assert!(header.mask(&mut packet, 1));
    assert_eq!(packet, hex("4cfe4189655e5cd55c41f69080575d7999c25a5bfb"));

    let unmasked = header.unmask(&mut packet, 1).expect("long enough");
    assert_eq!(unmasked, Unmasked { first: 0x42, truncated_pn: 0x00_bff4, pn_len: 3 });
    assert_eq!(packet_key.open(654_360_564, &mut packet, 4), Some(1));
    assert_eq!(packet[4], 0x01);
}

#[test]
fn only_version_1_has_initial_keys() {
    for version in [0, 2, 0x6b33_43cf, 0xff00_001d, u32::MAX] {
        assert!(initial_keys(version, &hex(DCID), Side::Client).is_none(), "{version:#x}");
    }
}

#[test]
fn any_changed_bit_and_another_number_fail_to_open() {
    let (client, server) = (initial(Side::Client), initial(Side::Server));
    let (mut sealed, header_len) = client_initial();
    client.local.packet().seal(2, &mut sealed, header_len, 1162).expect("room for the tag");
    for at in (0..sealed.len() * 8).step_by(7) {
        let mut forged = sealed.clone();
        forged[at / 8] ^= 1 << (at % 8);
        assert_eq!(server.remote.packet().open(2, &mut forged, header_len), None, "bit {at}");
    }
    assert_eq!(server.remote.packet().open(3, &mut sealed.clone(), header_len), None);
    assert_eq!(server.local.packet().open(2, &mut sealed.clone(), header_len), None);
    assert_eq!(server.remote.packet().open(2, &mut sealed, header_len), Some(1162));
}

#[test]
fn lengths_out_of_range_are_refused_without_a_trace() {
    let keys = initial(Side::Client);
    let mut packet = [0x43; 40];
    // One byte short of room for the tag, a header beyond the end, sums that overflow.
    for (header_len, payload_len) in [(10, 15), (41, 0), (usize::MAX, 1), (1, usize::MAX)] {
        assert_eq!(keys.local.packet().seal(0, &mut packet, header_len, payload_len), None);
    }
    for header_len in [25, 40, 41, usize::MAX] {
        assert_eq!(keys.remote.packet().open(0, &mut packet, header_len), None);
    }
    // RFC 9001 §5.4.2: 4 bytes from the packet number's start, then 16 of sample.
    for pn_offset in [0, 21, 40, usize::MAX - 3, usize::MAX] {
        assert!(!keys.local.header().mask(&mut packet, pn_offset), "{pn_offset}");
        assert_eq!(keys.remote.header().unmask(&mut packet, pn_offset), None, "{pn_offset}");
    }
    assert_eq!(packet, [0x43; 40]);
    assert!(keys.local.header().mask(&mut packet, 20));
}

#[test]
fn masks_hide_and_show_every_length_and_form() {
    let (client, server) = (initial(Side::Client), initial(Side::Server));
    for (form, free_bits) in [(0xc0u8, 0x0fu8), (0x40, 0x1f)] {
        for pn_len in 1..=4usize {
            let mut packet: Vec<u8> = (0..64u8).map(|i| i.wrapping_mul(5)).collect();
            packet[0] = form | (pn_len as u8 - 1);
            let plain = packet.clone();
            assert!(client.local.header().mask(&mut packet, 9));
            assert_eq!(packet[0] & !free_bits, form);
            assert_eq!(packet[1..9], plain[1..9]);
            assert_eq!(packet[9 + pn_len..], plain[9 + pn_len..]);
            let unmasked = server.remote.header().unmask(&mut packet, 9).expect("long enough");
            let pn = plain[9..9 + pn_len].iter().fold(0u64, |n, b| (n << 8) | u64::from(*b));
            assert_eq!(unmasked, Unmasked { first: plain[0], truncated_pn: pn, pn_len });
            assert_eq!(packet, plain);
        }
    }
}

#[test]
fn limits_of_aes_gcm_are_those_of_the_rfc() {
    // RFC 9001 §6.6: 2^23 packets sealed, 2^52 forged.
    let key = initial(Side::Client);
    assert_eq!(key.confidentiality_limit(), 1 << 23);
    assert_eq!(key.integrity_limit(), 1 << 52);
    // And ChaCha20 has its own, §6.6: none that counts, and 2^36.
    let chacha = PacketSecret::new(Aead::ChaCha20, &[1; 32], &[2; 12]).expect("32 and 12");
    assert_eq!(chacha.confidentiality_limit(), u64::MAX);
    assert_eq!(chacha.integrity_limit(), 1 << 36);
}

#[test]
fn key_updates_agree_and_differ_from_each_other() {
    let (server_tls, client_tls) = pair();
    let mut client = Session::client(NOW, &client_tls, "localhost", b"c").unwrap();
    let mut server = Session::server(&server_tls, b"s").unwrap();
    let (at_client, at_server) = handshake(&mut client, &mut server);
    assert_eq!(client.read_level(), Level::OneRtt);

    let first =
        (at_client.one_rtt.unwrap().local.packet(), at_server.one_rtt.unwrap().remote.packet());
    let (mut client_next, mut server_next) = (at_client.next.unwrap(), at_server.next.unwrap());
    let mut phases = vec![first];
    for _ in 0..3 {
        let ahead = server_next.next_remote().expand();
        let client_seals = client_next.next_keys().0.expand();
        let server_opens = server_next.next_keys().1.expand();
        let mut packet = [0x55; 64];
        let len = client_seals.seal(1, &mut packet, 8, 40).expect("room for the tag");
        assert_eq!(ahead.open(1, &mut packet[..len], 8), Some(40));
        phases.push((client_seals, server_opens));
    }
    for (sealing, (seals, _)) in phases.iter().enumerate() {
        let mut packet = [0x55; 64];
        let len = seals.seal(9, &mut packet, 8, 40).expect("room for the tag");
        for (opening, (_, opens)) in phases.iter().enumerate() {
            let opened = {
                let mut copy = packet;
                opens.open(9, &mut copy[..len], 8)
            };
            assert_eq!(opened, (sealing == opening).then_some(40), "{sealing} {opening}");
        }
    }
}
