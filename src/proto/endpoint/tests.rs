//! Datagrams of strangers.

use super::*;
use crate::ecn::Ecn;
use crate::proto::connection::{Application, ClientArgs, CloseReason, Connection, Event};
use crate::proto::crypto::testing;
use crate::proto::path::Addresses;
use crate::proto::token::{TokenConfig, UsedTokens};
use crate::wire::StreamId;
use crate::wire::packet::versions;
use std::net::{IpAddr, Ipv4Addr};

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], port))
}

/// Those of the client, from the server.
const ENDS: Addresses = {
    let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
    Addresses { local: SocketAddr::new(address, 1), remote: SocketAddr::new(address, 443) }
};

fn at(ms: u64) -> Instant {
    Instant::from_nanos(1_000_000_000 + ms * 1_000_000)
}

fn endpoint(retry: RetryPolicy) -> (Endpoint, Connection) {
    endpoint_for(retry, Vec::new())
}

/// And a client that has a token from an earlier connection.
fn endpoint_for(retry: RetryPolicy, token: Vec<u8>) -> (Endpoint, Connection) {
    let (server, client) = testing::pair();
    let config = TokenConfig::default();
    let used = UsedTokens::new(&config, 64);
    let tokens = Tokens::new(&[1; 32], config, used);
    let reset = ResetKey::new(&[2; 32]);
    let endpoint = Endpoint::new(Arc::default(), Arc::new(server), tokens, reset, retry);
    let client = Connection::connect(ClientArgs {
        config: Arc::default(),
        tls: &Arc::new(client),
        server_name: "localhost",
        now: at(0),
        local: addr(1),
        remote: addr(443),
        local_cid: ConnectionId::new(&[1; 8]).unwrap(),
        initial_dcid: ConnectionId::new(&[2; 8]).unwrap(),
        token,
        seed: 7,
        grease: 17,
    })
    .unwrap();
    (endpoint, client)
}

fn ask(
    endpoint: &mut Endpoint,
    datagram: &[u8],
    from: SocketAddr,
    now: Instant,
) -> (Incoming, Vec<u8>) {
    let mut answer = [0; 1500];
    let random = std::array::from_fn(|i| i as u8 * 3 + 1);
    let mut cx = Context {
        now,
        remote: from,
        handshakes: 0,
        crowded: false,
        issued_here: true,
        intact: true,
        random,
        answer: &mut answer,
    };
    let incoming = endpoint.incoming(datagram, 8, &mut cx);
    let len = if let Incoming::Answer(len) = incoming { len } else { 0 };
    (incoming, answer[..len].to_vec())
}

fn initial(client: &mut Connection, now: Instant) -> Vec<u8> {
    let mut buf = [0; 1500];
    let t = client.transmit(now, &mut buf).unwrap();
    buf[..t.len].to_vec()
}

/// An application that wants nothing.
struct Nobody;

impl Application for Nobody {
    fn data(&mut self, _: &mut Connection, _: StreamId, d: &[u8], _: bool) -> usize {
        d.len()
    }
    fn event(&mut self, _: &mut Connection, _: Event) {}
}

#[test]
fn a_client_initial_is_accepted_without_retry() {
    let (mut endpoint, mut client) = endpoint(RetryPolicy::Above(10));
    let first = initial(&mut client, at(0));
    assert!(matches!(ask(&mut endpoint, &first, addr(9), at(0)).0, Incoming::Accept(_)));
}

#[test]
fn forged_client_initials_build_no_session() {
    let (mut endpoint, mut client) = endpoint(RetryPolicy::Never);
    let first = initial(&mut client, at(0));
    let (mut forged, protected) = (0, 40);
    for byte in (protected..first.len()).step_by(7) {
        let mut bad = first.clone();
        bad[byte] ^= 1 << (byte % 8);
        let (incoming, _) = ask(&mut endpoint, &bad, addr(9), at(0));
        assert!(matches!(incoming, Incoming::Forged), "byte {byte}: {incoming:?}");
        forged += 1;
    }
    let stats = endpoint.stats();
    assert!(forged > 100);
    assert_eq!((stats.forged, stats.accepted, stats.dropped), (forged, 0, 0));
    assert!(matches!(ask(&mut endpoint, &first, addr(9), at(0)).0, Incoming::Accept(_)));
}

#[test]
fn attack_07_retry_then_refusals_and_duplicates_leave_nothing_behind() {
    let (mut endpoint, mut client) = endpoint(RetryPolicy::Always);
    let first = initial(&mut client, at(0));
    let (incoming, mut retry) = ask(&mut endpoint, &first, addr(9), at(0));
    assert!(matches!(incoming, Incoming::Answer(_)));
    // The client's Initial comes twice: it is asked to prove itself twice.
    let (again, _) = ask(&mut endpoint, &first, addr(9), at(1));
    assert!(matches!(again, Incoming::Answer(_)));
    client.receive(at(1), ENDS.ends(), Ecn::NotEct, &mut retry, &mut Nobody);
    let second = initial(&mut client, at(1));
    // Turned away by not calling `accept`, any number of times, and accepted after all.
    for _ in 0..3 {
        let (incoming, _) = ask(&mut endpoint, &second, addr(9), at(2));
        let Incoming::Accept(initial) = incoming else { panic!("{incoming:?}") };
        assert!(initial.address_validated);
        assert_eq!(initial.original_dcid.as_slice(), [2; 8]);
    }
    let (incoming, _) = ask(&mut endpoint, &second, addr(9), at(3));
    let Incoming::Accept(initial) = incoming else { panic!("{incoming:?}") };
    let local = ConnectionId::new(&[5; 8]).unwrap();
    let place = Place {
        now: at(3),
        local: addr(443),
        remote: addr(9),
        local_cid: local,
        seed: 1,
        grease: 2,
    };
    assert!(endpoint.accept(initial, place).is_some());
    assert_eq!(endpoint.stats().retries, 2);
}

#[test]
fn attack_05_a_retry_token_of_another_address_or_time_is_refused() {
    let (mut endpoint, mut client) = endpoint(RetryPolicy::Always);
    let first = initial(&mut client, at(0));
    let (_, mut retry) = ask(&mut endpoint, &first, addr(9), at(0));
    client.receive(at(1), ENDS.ends(), Ecn::NotEct, &mut retry, &mut Nobody);
    let second = initial(&mut client, at(1));
    for (from, when) in [(addr(10), at(2)), (addr(9), at(3_600_000))] {
        let (incoming, mut refusal) = ask(&mut endpoint, &second, from, when);
        assert!(matches!(incoming, Incoming::Answer(_)), "{incoming:?}");
        // The client understands it, and ends.
        let mut told = Told(None);
        let (_, mut fresh) = fresh_after_retry();
        fresh.receive(at(1), ENDS.ends(), Ecn::NotEct, &mut refusal, &mut told);
        let code = match told.0 {
            Some(CloseReason::PeerTransport { code, .. }) => code,
            other => panic!("{other:?}"),
        };
        assert_eq!(code, code::INVALID_TOKEN);
    }
    assert_eq!(endpoint.stats().invalid_tokens, 2);
}

#[test]
fn attack_05_a_token_damaged_on_the_way_is_dropped_in_silence() {
    let (mut endpoint, mut client) = endpoint(RetryPolicy::Always);
    let first = initial(&mut client, at(0));
    let (_, mut retry) = ask(&mut endpoint, &first, addr(9), at(0));
    client.receive(at(1), ENDS.ends(), Ecn::NotEct, &mut retry, &mut Nobody);
    let second = initial(&mut client, at(1));
    let token = crate::wire::packet::parse(&second, 0, 8).unwrap().token;
    // The last byte of the token, and one of the id that it is bound to.
    for place in [token.end - 1, 6] {
        let mut damaged = second.clone();
        damaged[place] ^= 1;
        let (incoming, _) = ask(&mut endpoint, &damaged, addr(9), at(2));
        assert!(matches!(incoming, Incoming::Forged), "{incoming:?}");
    }
    assert_eq!(endpoint.stats().invalid_tokens, 0);
    assert!(matches!(ask(&mut endpoint, &second, addr(9), at(3)).0, Incoming::Accept(_)));
}

#[test]
fn a_token_is_not_used_up_by_a_client_initial_that_was_damaged_on_the_way() {
    let (mut endpoint, _) = endpoint(RetryPolicy::Always);
    let mut token = Vec::new();
    endpoint.tokens.new_token(at(0), &[5; 12], addr(9).ip(), &mut token);
    let (_, mut client) = endpoint_for(RetryPolicy::Always, token);
    let initial = initial(&mut client, at(0));
    let mut damaged = initial.clone();
    damaged[1_000] ^= 1;
    assert!(matches!(ask(&mut endpoint, &damaged, addr(9), at(1)).0, Incoming::Forged));
    let (incoming, _) = ask(&mut endpoint, &initial, addr(9), at(2));
    let Incoming::Accept(accepted) = incoming else { panic!("{incoming:?}") };
    assert!(accepted.address_validated);
    // Used up now: the next one has to show its address by a Retry.
    assert!(matches!(ask(&mut endpoint, &initial, addr(9), at(3)).0, Incoming::Answer(_)));
}

#[test]
fn no_two_refusals_of_a_client_initial_have_the_same_packet_number() {
    // RFC 9001 §5.3.
    let (_, mut client) = endpoint(RetryPolicy::Always);
    let first = initial(&mut client, at(0));
    let p = crate::wire::packet::parse(&first, 0, 8).unwrap();
    let refusal = |random| {
        let mut out = [0; 1200];
        let close = super::Close { dcid: &p.scid, scid: &p.dcid, code: 0, reason: "" };
        let len = close.write(&mut out, random).unwrap();
        out[..len].to_vec()
    };
    assert_ne!(refusal(2), refusal(4));
}

struct Told(Option<CloseReason>);

impl Application for Told {
    fn data(&mut self, _: &mut Connection, _: StreamId, d: &[u8], _: bool) -> usize {
        d.len()
    }
    fn event(&mut self, _: &mut Connection, event: Event) {
        if let Event::Closed(reason) = event {
            self.0 = Some(reason);
        }
    }
}

/// A client that has followed the same Retry as the one under test.
fn fresh_after_retry() -> (Endpoint, Connection) {
    let (mut endpoint, mut client) = endpoint(RetryPolicy::Always);
    let first = initial(&mut client, at(0));
    let (_, mut retry) = ask(&mut endpoint, &first, addr(9), at(0));
    client.receive(at(1), ENDS.ends(), Ecn::NotEct, &mut retry, &mut Nobody);
    (endpoint, client)
}

#[test]
fn attack_02_small_initials_and_short_ids_are_dropped() {
    let (mut endpoint, mut client) = endpoint(RetryPolicy::Never);
    let first = initial(&mut client, at(0));
    let (small, _) = ask(&mut endpoint, &first[..1199], addr(9), at(0));
    assert!(matches!(small, Incoming::Drop));
}

#[test]
fn attack_10_versions_are_listed_for_full_datagrams_only_and_never_for_a_list() {
    let (mut endpoint, _) = endpoint(RetryPolicy::Never);
    let mut unknown = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8];
    unknown.extend_from_slice(&[7; 8]);
    unknown.push(3);
    unknown.extend_from_slice(&[8; 3]);
    unknown.resize(1200, 0);
    let (incoming, list) = ask(&mut endpoint, &unknown, addr(9), at(0));
    assert!(matches!(incoming, Incoming::Answer(_)));
    let p = packet::parse(&list, 0, 8).unwrap();
    assert_eq!(p.kind, PacketType::VersionNegotiation);
    assert_eq!((p.dcid.as_slice(), p.scid.as_slice()), (&[8; 3][..], &[7; 8][..]));
    assert!(versions(&p, &list).any(|v| v == VERSION_1));
    let (short, _) = ask(&mut endpoint, &unknown[..1199], addr(9), at(0));
    assert!(matches!(short, Incoming::Drop));
    let (answered, _) = ask(&mut endpoint, &list, addr(9), at(0));
    assert!(matches!(answered, Incoming::Drop), "a list is not answered by a list");
}

#[test]
fn attack_38_resets_are_shorter_than_what_they_answer_and_limited() {
    let (mut endpoint, _) = endpoint(RetryPolicy::Never);
    let mut datagram = vec![0x41; 60];
    let mut rounds = 0;
    loop {
        let (incoming, reset) = ask(&mut endpoint, &datagram, addr(9), at(0));
        let Incoming::Answer(len) = incoming else { break };
        assert!(len < datagram.len());
        let cid = ConnectionId::new(&datagram[1..9]).unwrap();
        assert_eq!(reset[len - 16..], endpoint.reset_token(&cid));
        datagram = reset;
        rounds += 1;
    }
    assert!((1..=15).contains(&rounds), "a loop dies out: {rounds}");
    let datagram = vec![0x41; 1200];
    let limit = u64::from(AnswerLimits::default().resets);
    for _ in 0..2 * limit {
        ask(&mut endpoint, &datagram, addr(9), at(0));
    }
    assert!(endpoint.stats().resets <= limit);
    assert!(endpoint.stats().limited_resets >= limit);
}

/// 24,000 junk short packets in a second once left Retry 0.42 s of it.
#[test]
fn a_flood_that_is_answered_in_one_way_leaves_the_other_answers_as_they_are() {
    let (mut endpoint, mut client) = endpoint(RetryPolicy::Always);
    let first = initial(&mut client, at(0));
    let junk = vec![0x41; 43];
    let mut unknown = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8];
    unknown.resize(1200, 7);
    unknown[14] = 3;
    let mut answered = 0;
    for ms in 0..1_000 {
        for _ in 0..24 {
            ask(&mut endpoint, &junk, addr(9), at(ms));
            ask(&mut endpoint, &unknown, addr(9), at(ms));
        }
        let (incoming, _) = ask(&mut endpoint, &first, addr(9), at(ms));
        answered += u32::from(matches!(incoming, Incoming::Answer(_)));
    }
    assert_eq!(answered, 1_000, "every initial has its Retry");
    let stats = endpoint.stats();
    assert!(stats.limited_resets > 10_000 && stats.limited_version_negotiations > 10_000);
    assert_eq!((stats.limited_retries, stats.limited_refusals), (0, 0));
}

#[test]
fn where_there_is_no_room_every_policy_asks_for_proof() {
    for retry in [RetryPolicy::Never, RetryPolicy::Above(1_000), RetryPolicy::Always] {
        let (mut endpoint, mut client) = endpoint(retry);
        let first = initial(&mut client, at(0));
        let mut answer = [0; 1500];
        let mut cx = Context {
            now: at(0),
            remote: addr(9),
            handshakes: 0,
            crowded: true,
            issued_here: true,
            intact: true,
            random: [3; 32],
            answer: &mut answer,
        };
        let incoming = endpoint.incoming(&first, 8, &mut cx);
        assert!(matches!(incoming, Incoming::Answer(_)), "{retry:?}: {incoming:?}");
        assert_eq!(endpoint.stats().retries, 1, "{retry:?}");
    }
}

#[test]
fn attack_38_whatever_can_be_a_packet_to_an_id_of_ours_is_answered_and_nothing_else() {
    let (mut endpoint, _) = endpoint(RetryPolicy::Never);
    let mut answer = [0; 1200];
    let mut answered = |len: usize, id: usize, issued_here: bool| {
        let mut cx = Context {
            now: at(0),
            remote: addr(9),
            handshakes: 0,
            crowded: false,
            issued_here,
            intact: true,
            random: [0x77; 32],
            answer: &mut answer,
        };
        let incoming = endpoint.incoming(&vec![0x41; len], id, &mut cx);
        if let Incoming::Answer(len) = incoming { Some(len) } else { None }
    };
    // An acknowledgement to an id of 17 bytes has 41; the shortest packet has 38.
    assert_eq!(answered(41, 17, true), Some(40));
    assert_eq!(answered(38, 17, true), Some(37), "RFC 9000 section 10.3: one byte shorter");
    assert_eq!(answered(37, 17, true), None, "no packet: nothing that a reset can answer");
    assert_eq!(answered(1200, 17, true), Some(MAX_RESET_BYTES));
    for len in 0..60 {
        assert!(answered(len, 17, true).is_none_or(|reset| reset < len && reset > 20));
        // The id of another host of the fleet, or noise.
        assert_eq!(answered(len, 17, false), None);
    }
}
