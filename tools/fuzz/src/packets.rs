//! Packet headers.

use super::input::Input;
use quiclane::wire::packet::{
    LongHeader, Packet, PacketType, RETRY_TAG_LEN, decode_pn, long_ids, parse, patch_length,
    pn_len, versions, write_retry_header, write_short, write_version_negotiation,
};
use quiclane::wire::{ConnectionId, MAX_CID_LEN, VARINT_MAX, VERSION_1, Writer};

/// A byte with the length of our ids, eight bytes for packet numbers, and a datagram, of which every
/// coalesced packet is parsed.
pub(super) fn packet(data: &[u8]) {
    let mut input = Input::new(data);
    let short_dcid_len = usize::from(input.u8()) % (MAX_CID_LEN + 1);
    packet_numbers(input.u64());
    let datagram = input.rest();
    let mut start = 0;
    while let Ok(packet) = parse(datagram, start, short_dcid_len) {
        assert!(start < packet.pn_offset && packet.pn_offset <= packet.end);
        assert!(packet.end <= datagram.len());
        assert!(packet.token.start <= packet.token.end && packet.token.end <= packet.pn_offset);
        same_ids(&packet, datagram, start);
        same_when_written(&packet, datagram, start);
        start = packet.end;
    }
}

/// Both ways to read the ids agree.
fn same_ids(packet: &Packet, datagram: &[u8], start: usize) {
    let ids = long_ids(datagram, start);
    let Some((dcid, scid)) = ids else {
        assert_eq!((packet.kind, packet.scid), (PacketType::Short, ConnectionId::EMPTY));
        assert_eq!(datagram[start + 1..packet.pn_offset], *packet.dcid.as_slice());
        return;
    };
    assert_ne!(packet.kind, PacketType::Short);
    for (whole, id) in [(dcid, packet.dcid), (scid, packet.scid)] {
        let fits = ConnectionId::new(whole);
        assert!(fits.is_some() || packet.kind == PacketType::UnknownVersion);
        assert_eq!(id, fits.unwrap_or(ConnectionId::EMPTY));
    }
}

/// The same header, written anew, parses to the same.
fn same_when_written(packet: &Packet, datagram: &[u8], start: usize) {
    let mut buffer = vec![0; datagram.len() + 64];
    let mut w = Writer::new(&mut buffer);
    let token = &datagram[packet.token.clone()];
    let written = match packet.kind {
        PacketType::Initial | PacketType::ZeroRtt | PacketType::Handshake => {
            let Packet { kind, version, dcid, scid, .. } = *packet;
            let header = LongHeader { kind, version, dcid, scid, token };
            header.write(&mut w, 0, 1).map(|layout| {
                // The length field is patched to the one byte of packet number.
                let end = w.position();
                patch_length(w.written(), layout.length_at, 1);
                end
            })
        }
        PacketType::Retry => {
            let (dcid, scid) = (&packet.dcid, &packet.scid);
            let header = write_retry_header(&mut w, VERSION_1, dcid, scid, token, packet.first);
            header.map(|()| w.position() + RETRY_TAG_LEN)
        }
        PacketType::VersionNegotiation => {
            let listed: Vec<u32> = versions(packet, datagram).collect();
            assert_eq!(listed.len() * 4, packet.end - packet.pn_offset);
            let (dcid, scid) = (packet.dcid.as_slice(), packet.scid.as_slice());
            write_version_negotiation(&mut w, dcid, scid, &listed, packet.first)
                .map(|()| w.position())
        }
        PacketType::Short => write_short(&mut w, &packet.dcid, false, false, 0, 1).map(|at| at + 1),
        PacketType::UnknownVersion => return,
    };
    let Ok(end) = written else { panic!("no room for {packet:?}") };
    let Ok(again) = parse(&buffer[..end], 0, packet.dcid.len()) else {
        panic!("{packet:?} at {start} does not come back")
    };
    assert_eq!((again.kind, again.version), (packet.kind, packet.version));
    assert_eq!((again.dcid, again.scid), (packet.dcid, packet.scid));
    assert_eq!(buffer[again.token], *token);
}

/// Truncated packet numbers decode to the same number, whatever their distance.
fn packet_numbers(seed: u64) {
    let len = 1 + (seed >> 62) as usize;
    let window = 1u64 << (8 * len);
    for largest in [None, Some(seed & VARINT_MAX)] {
        let pn = decode_pn(seed, len, largest);
        assert!(pn <= VARINT_MAX && pn % window == seed % window);
    }
    // Up to 2^31 in flight, which is what four bytes can tell apart.
    let acked = (seed & VARINT_MAX) >> (seed % 62);
    let pn = (acked + 1 + (seed >> 33)).min(VARINT_MAX);
    let window = 1u64 << (8 * pn_len(pn, Some(acked)));
    assert_eq!(decode_pn(pn % window, pn_len(pn, Some(acked)), Some(acked)), pn);
}
