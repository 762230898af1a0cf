//! Ethernet, IP and UDP headers.
//!
//! The input is the frame itself, so that the same corpus can be given to the eBPF program.

use quiclane::datapath::headers::{
    Checksums, DropReason, FlowKey, HEADERS_MAX_BYTES, Parsed, Template, Verdict, parse, verdict,
    verdict_for,
};
use quiclane::datapath::{QueueStats, RxMeta};
use quiclane::ecn::Ecn;

/// A received frame.
pub(super) fn headers(frame: &[u8]) {
    let verified = parse(frame, Checksums::Verify);
    let trusted = parse(frame, Checksums::Trusted);
    deferred_is_not_lost(&verified, frame);
    if let Err(reason) = verified {
        let mut stats = QueueStats::default();
        reason.count(&mut stats);
        assert_eq!(stats.drops(), 1);
    }
    let Ok(parsed) = trusted else {
        assert!(verified.is_err(), "checksums make no frame right");
        return;
    };
    // ATTACKS row 45: the socket accepts exactly the frames that the program redirects.
    assert!(matches!(verdict(frame), Verdict::Redirect | Verdict::DropSmallInitial));
    let ours = verdict_for(frame, |address| (address == parsed.path.local).then_some(0));
    assert_eq!(ours, Verdict::Redirect);
    assert_eq!(verdict_for(frame, |_| None), Verdict::PassNotListened);
    if let Ok(verified) = verified {
        assert_eq!(verified, parsed);
    }
    lies_where_it_says(&parsed, frame);
    for ecn in [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce] {
        replies(&parsed, frame, ecn);
    }
}

/// Comparing a checksum later has the same result as comparing it at once, except for a checksum that
/// is not filled in.
fn deferred_is_not_lost(verified: &Result<Parsed, DropReason>, frame: &[u8]) {
    let deferred = match parse(frame, Checksums::Defer) {
        Ok(deferred) => deferred,
        Err(reason) => {
            assert!(verified.is_err(), "{reason:?} only where it is deferred");
            return;
        }
    };
    let meta = RxMeta { path: deferred.path, ecn: deferred.ecn, checksum: deferred.checksum };
    match verified {
        Ok(verified) => {
            assert!(meta.is_intact(&frame[deferred.payload.clone()]));
            assert_eq!((verified.path, &verified.payload), (deferred.path, &deferred.payload));
        }
        Err(reason) => assert_eq!(*reason, DropReason::UdpChecksum),
    }
}

/// Payload and ports are behind the headers, and within the length of IP.
fn lies_where_it_says(parsed: &Parsed, frame: &[u8]) {
    let payload = &parsed.payload;
    assert!(payload.start < payload.end && payload.end <= frame.len());
    assert!(payload.start <= HEADERS_MAX_BYTES);
    let udp = &frame[payload.start - 8..payload.start];
    assert_eq!(udp[..2], parsed.path.remote.port().to_be_bytes());
    assert_eq!(udp[2..4], parsed.path.local.port().to_be_bytes());
    assert_eq!(parsed.path.local.is_ipv4(), parsed.path.remote.is_ipv4());
    // The length of IPv4 counts its header, that of IPv6 does not.
    let udp_at = payload.start - 8;
    let (length_at, from) = if parsed.path.local.is_ipv4() {
        (udp_at - 18, udp_at - 20)
    } else {
        (udp_at - 36, udp_at)
    };
    let length = u16::from_be_bytes([frame[length_at], frame[length_at + 1]]);
    assert!(payload.end <= from + usize::from(length));
}

/// A reply with the same payload is a frame with right checksums, addressed to the sender.
fn replies(parsed: &Parsed, frame: &[u8], ecn: Ecn) {
    let template = Template::new(&parsed.path, FlowKey::new(frame.len() as u64));
    assert_eq!(template.is_some(), parsed.path.link.is_known());
    // No socket has port 0: there is no template for a reply to it.
    let Some(template) = template.filter(|_| parsed.path.local.port() != 0) else { return };
    let payload = &frame[parsed.payload.clone()];
    let mut buffer = vec![0xee; Template::ROOM_BYTES];
    buffer.extend_from_slice(payload);
    let place = Template::ROOM_BYTES..buffer.len();
    let packet = template.write(&mut buffer, place, ecn);
    assert_eq!(packet.len(), template.headers_bytes() + payload.len());
    let reply = match parse(&buffer[packet.clone()], Checksums::Verify) {
        Ok(reply) => reply,
        Err(reason) => panic!("our own frame is dropped: {reason:?}"),
    };
    assert_eq!((reply.path.local, reply.path.remote), (parsed.path.remote, parsed.path.local));
    assert_eq!(reply.ecn, ecn);
    assert_eq!(buffer[packet][reply.payload], *payload);
}
