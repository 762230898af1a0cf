//! The XDP program, run by the kernel on frames that we make up.

use super::*;
use crate::datapath::headers::{LinkRules, PORT_DROP_SMALL_INITIALS, VlanSet};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const LISTENED_V4: [u8; 4] = [192, 0, 2, 1];
const LISTENED_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const SERVER_PORT: u16 = 4433;
const CLIENT_PORT: u16 = 50_000;
/// The kernel runs frames of 14 bytes and more.
const ETHERNET_BYTES: usize = 14;

/// The program with a server's and a client's port on one address of each family.
fn program() -> Program {
    let mut program = Program::load(4, &rules()).unwrap();
    for (address, flags) in ports() {
        program.add_port(address, flags).unwrap();
    }
    program
}

/// Of the device that all frames below are sent to, but those that say otherwise.
fn rules() -> LinkRules {
    let mut vlans = VlanSet::NONE;
    vlans.insert(7).unwrap();
    LinkRules { mac: [2, 0, 0, 0, 0, 1], vlans }
}

fn ports() -> [(SocketAddr, u32); 4] {
    let ends =
        |port| [SocketAddr::from((LISTENED_V4, port)), SocketAddr::from((LISTENED_V6, port))];
    let [a, b] = ends(SERVER_PORT);
    let [c, d] = ends(CLIENT_PORT);
    let server = PORT_DROP_SMALL_INITIALS;
    [(a, server), (b, server), (c, 0), (d, 0)]
}

/// The decision in Rust for the same ports.
fn expected(frame: &[u8]) -> Verdict {
    verdict_on(frame, &rules(), |to| {
        ports().iter().find(|(port, _)| *port == to).map(|(_, flags)| *flags)
    })
}

fn ethernet(tags: &[u16], ethertype: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 7]);
    }
    frame.extend(ethertype.to_be_bytes());
    frame
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut udp = vec![0xc3, 0x50];
    udp.extend(port.to_be_bytes());
    udp.extend((8 + payload.len() as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    udp
}

fn ipv4(tags: &[u16], port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(tags, 0x0800);
    let udp = udp(port, payload);
    frame.extend([0x45, 0]);
    frame.extend((20 + udp.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 198, 51, 100, 7]);
    frame.extend(LISTENED_V4);
    frame.extend(udp);
    frame
}

fn ipv6(tags: &[u16], port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(tags, 0x86dd);
    let udp = udp(port, payload);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((udp.len() as u16).to_be_bytes());
    frame.extend([17, 64]);
    frame.extend([0x20, 1, 0xd, 0xb8, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    frame.extend(LISTENED_V6);
    frame.extend(udp);
    frame
}

/// A client's Initial in a datagram of `length` bytes.
fn initial(length: usize) -> Vec<u8> {
    let mut payload = vec![0; length];
    payload[..5].copy_from_slice(&[0xc0, 0, 0, 0, 1]);
    payload
}

fn with(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// A frame for each verdict, and some that must not get another.
fn examples() -> Vec<(&'static str, Vec<u8>, Verdict)> {
    use Verdict as V;
    let v4 = |payload: &[u8]| ipv4(&[], SERVER_PORT, payload);
    let v6 = |payload: &[u8]| ipv6(&[], SERVER_PORT, payload);
    let one_tag = || ipv4(&[0x8100], SERVER_PORT, b"x");
    let two_tags = || ipv6(&[0x88a8, 0x8100], SERVER_PORT, b"x");
    let mut other_address = v4(b"x");
    other_address[33] = 2;
    vec![
        ("IPv4", v4(b"x"), V::Redirect),
        ("IPv6", v6(b"x"), V::Redirect),
        ("a tag", ipv4(&[0x8100], SERVER_PORT, b"x"), V::Redirect),
        ("two tags", ipv6(&[0x88a8, 0x8100], SERVER_PORT, b"x"), V::Redirect),
        ("a tag with a priority", with(one_tag(), 14, &[0xe0, 7]), V::Redirect),
        ("a VLAN of others", with(one_tag(), 14, &[0, 8]), V::PassVlan),
        ("a priority alone", with(one_tag(), 14, &[0xe0, 0]), V::PassVlan),
        ("within a VLAN of others", with(two_tags(), 14, &[0x0f, 0xff]), V::PassVlan),
        ("a VLAN of others within ours", with(two_tags(), 18, &[1, 7]), V::PassVlan),
        ("a neighbour's", with(v4(b"x"), 5, &[9]), V::PassOtherHost),
        ("a neighbour's Initial", with(v6(&initial(5)), 0, &[6]), V::PassOtherHost),
        ("to all", with(one_tag(), 0, &[0xff; 6]), V::PassOtherHost),
        ("a neighbour's ARP", with(ethernet(&[], 0x0806), 5, &[9]), V::PassNotIp),
        ("no payload", v4(b""), V::Redirect),
        ("UDP length 7", with(v4(b"x"), 38, &[0, 7]), V::Redirect),
        ("UDP length 65535", with(v6(b"x"), 58, &[255, 255]), V::Redirect),
        ("IP length 0", with(v4(b"x"), 16, &[0, 0]), V::Redirect),
        (
            "a client's small Initial from a server",
            ipv4(&[], CLIENT_PORT, &initial(100)),
            V::Redirect,
        ),
        ("an Initial of 1200", v4(&initial(1200)), V::Redirect),
        ("version 2", with(v4(&initial(100)), 46, &[2]), V::Redirect),
        ("a Handshake packet", with(v4(&initial(100)), 42, &[0xe0]), V::Redirect),
        ("an Initial of 1199", v4(&initial(1199)), V::DropSmallInitial),
        ("an Initial of 1199", v6(&initial(1199)), V::DropSmallInitial),
        (
            "a tagged Initial",
            ipv6(&[0x8100, 0x8100], SERVER_PORT, &initial(5)),
            V::DropSmallInitial,
        ),
        ("an IPv4 fragment", with(v4(b"x"), 20, &[0x20, 0]), V::PassFragment),
        ("the end of one", with(v4(b"x"), 20, &[0, 9]), V::PassFragment),
        ("an IPv6 fragment", with(v6(b"x"), 20, &[44]), V::PassFragment),
        ("IHL 6", with(v4(b"xxxxxxxx"), 14, &[0x46]), V::PassOptions),
        ("IHL 4", with(v4(b"x"), 14, &[0x44]), V::PassMalformed),
        ("version 6 in IPv4", with(v4(b"x"), 14, &[0x65]), V::PassMalformed),
        ("version 4 in IPv6", with(v6(b"x"), 14, &[0x45]), V::PassMalformed),
        ("hop by hop", with(v6(b"x"), 20, &[0]), V::PassExtension),
        ("routing", with(v6(b"x"), 20, &[43]), V::PassExtension),
        ("shim6", with(v6(b"x"), 20, &[140]), V::PassExtension),
        ("TCP", with(v4(b"x"), 23, &[6]), V::PassNotUdp),
        ("ICMPv6", with(v6(b"x"), 20, &[58]), V::PassNotUdp),
        ("another port", ipv4(&[], 53, b"x"), V::PassNotListened),
        ("another address", other_address, V::PassNotListened),
        ("ARP", ethernet(&[], 0x0806), V::PassNotIp),
        ("a length for an EtherType", ethernet(&[], 46), V::PassNotIp),
        ("three tags", ipv4(&[0x88a8, 0x8100, 0x8100], SERVER_PORT, b"x"), V::PassVlanDepth),
        ("a runt of 14", v4(b"")[..14].to_vec(), V::PassShort),
        ("a runt of 33", v4(b"")[..33].to_vec(), V::PassShort),
        ("a runt of 41", v4(b"")[..41].to_vec(), V::PassShort),
        ("a runt of 61", v6(b"")[..61].to_vec(), V::PassShort),
        ("half a tag", ethernet(&[], 0x8100), V::PassShort),
    ]
}

#[test]
fn attack_45_the_program_and_the_parser_agree_on_every_example() {
    if !privileged("attack_45_the_program_and_the_parser_agree_on_every_example") {
        return;
    }
    let mut program = program();
    let mut seen = std::collections::HashSet::new();
    for (name, frame, verdict) in examples() {
        assert_eq!(expected(&frame), verdict, "{name}, in Rust");
        assert_eq!(program.judge(&frame).unwrap(), Some(verdict), "{name}, in eBPF");
        seen.insert(verdict);
    }
    // What is left depends on the sockets, not on the frame.
    assert_eq!(seen.len(), Verdict::ALL.len() - 1);
    assert!(!seen.contains(&Verdict::PassNoSocket));
}

/// [MsQuic 6057, 6144]: lengths that reach back into their own headers.
#[test]
fn attack_75_the_program_and_the_parser_agree_on_lengths_below_their_headers() {
    if !privileged("attack_75_the_program_and_the_parser_agree_on_lengths_below_their_headers") {
        return;
    }
    let mut program = program();
    for length in 0..=48u16 {
        let bytes = length.to_be_bytes();
        for (frame, at) in [
            (ipv4(&[], SERVER_PORT, &initial(1200)), 16),
            (ipv4(&[], SERVER_PORT, &initial(1200)), 38),
            (ipv6(&[], SERVER_PORT, &initial(1200)), 18),
            (ipv6(&[], SERVER_PORT, &initial(1200)), 58),
        ] {
            let frame = with(frame, at, &bytes);
            let verdict = expected(&frame);
            assert_eq!(program.judge(&frame).unwrap(), Some(verdict), "{length} at {at}");
            // Lengths that lie are the parser's to count; a header's worth of Initial is small.
            let small = (at == 38 || at == 58) && length >= 13;
            let wanted = if small { Verdict::DropSmallInitial } else { Verdict::Redirect };
            assert_eq!(verdict, wanted, "{length} at {at}");
        }
    }
}

#[test]
fn every_verdict_is_acted_on_and_counted() {
    if !privileged("every_verdict_is_acted_on_and_counted") {
        return;
    }
    let mut program = program();
    for (name, frame, verdict) in examples() {
        let before = program.verdicts().unwrap();
        let action = program.run(&frame).unwrap();
        let after = program.verdicts().unwrap();
        // No slot has a socket: what would be redirected passes, and says so.
        let (counted, wanted) = match verdict {
            Verdict::Redirect => (Verdict::PassNoSocket, XDP_PASS),
            Verdict::DropSmallInitial => (verdict, XDP_DROP),
            _ => (verdict, XDP_PASS),
        };
        assert_eq!(action, wanted, "{name}");
        assert_eq!(after.get(counted), before.get(counted) + 1, "{name}");
        assert_eq!(after.total(), before.total() + 1, "{name}");
    }
}

#[test]
fn a_port_can_be_taken_back() {
    if !privileged("a_port_can_be_taken_back") {
        return;
    }
    let mut program = program();
    let frame = ipv4(&[], CLIENT_PORT, &initial(100));
    let address = SocketAddr::from((LISTENED_V4, CLIENT_PORT));
    assert_eq!(program.judge(&frame).unwrap(), Some(Verdict::Redirect));
    program.add_port(address, PORT_DROP_SMALL_INITIALS).unwrap();
    assert_eq!(program.judge(&frame).unwrap(), Some(Verdict::DropSmallInitial));
    program.remove_port(address);
    program.remove_port(address);
    assert_eq!(program.judge(&frame).unwrap(), Some(Verdict::PassNotListened));
}

/// Inputs of the comparison: enough to meet every pair of odd fields many times, and few enough
/// for two seconds.
const INPUTS: u64 = 60_000;

#[test]
fn attack_45_the_program_and_the_parser_agree_on_mutated_frames() {
    if !privileged("attack_45_the_program_and_the_parser_agree_on_mutated_frames") {
        return;
    }
    let mut program = program();
    let bases: Vec<_> = examples().into_iter().map(|(_, frame, _)| frame).collect();
    let mut seen = std::collections::HashMap::new();
    for seed in 0..INPUTS {
        let frame = mutated(&bases, &mut Random(seed));
        let verdict = expected(&frame);
        *seen.entry(verdict).or_insert(0u32) += 1;
        let judged = program.judge(&frame).unwrap();
        assert_eq!(judged, Some(verdict), "seed {seed}: {frame:02x?}");
    }
    // A comparison that never leaves the first branch would prove nothing.
    for verdict in Verdict::ALL {
        let count = seen.get(&verdict).copied().unwrap_or(0);
        assert!(count > 200 || verdict == Verdict::PassNoSocket, "{verdict}: {count}");
    }
}

/// One of the examples with up to three fields changed, cut or extended; or noise.
fn mutated(bases: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut frame = bases[random.below(bases.len())].clone();
    if random.below(16) == 0 {
        frame.iter_mut().for_each(|byte| *byte = random.next() as u8);
    }
    for _ in 0..random.below(4) {
        // Headers are what is judged: most changes belong there.
        let at = random.below(frame.len().min(70));
        frame[at] = match random.below(3) {
            0 => random.next() as u8,
            1 => frame[at] ^ 1 << random.below(8),
            _ => [0, 4, 5, 6, 8, 17, 44, 0x45, 0x60, 0x81, 0x88, 0xff][random.below(12)],
        };
    }
    if random.below(4) == 0 {
        let length = ETHERNET_BYTES + random.below(frame.len());
        frame.resize(length.min(1400), 0);
    }
    frame.truncate(1400);
    frame
}
