//! The probe: it notes the packets of one flow, passes everything, and replaces no program.

use super::*;
use quiclane::datapath::xdp::{Arrival, Carrier, HashProbe, HashType, XdpError};
use quiclane_testkit::netns::{Lab, LabConfig, Side, privileged};
use quiclane_testkit::raw::{Frame, Raw, repair_ip};
use std::thread;

const PROTOCOL_AT: usize = 9;
const FRAGMENT_AT: usize = 6;
const TCP: u8 = 6;
const TAG: [u8; 4] = [0x81, 0, 0, 7];
/// `XDP_RSS_L4`: the type that veth reports, since it hashes as the kernel does.
const L4: HashType = HashType(1 << 3);

/// What arrived, as soon as it is `wanted` packets. All frames are on one queue: all that were sent
/// before the last of them have been seen as well.
fn arrived(probe: &HashProbe, wanted: u64) -> Vec<Arrival> {
    for _ in 0..500 {
        let arrivals = probe.arrivals().unwrap();
        if arrivals.iter().map(|arrival| arrival.packets).sum::<u64>() >= wanted {
            return arrivals;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("{wanted} packets, not {:?}", probe.arrivals());
}

/// The frame as TCP, whose ports are where those of UDP are.
fn as_tcp(frame: &Frame) -> Vec<u8> {
    let (mut bytes, at) = (frame.bytes(), frame.network());
    bytes[at + PROTOCOL_AT] = TCP;
    repair_ip(&mut bytes, at);
    bytes
}

fn as_fragment(frame: &Frame) -> Vec<u8> {
    let (mut bytes, at) = (frame.bytes(), frame.network());
    // More fragments follow.
    bytes[at + FRAGMENT_AT] = 0x20;
    repair_ip(&mut bytes, at);
    bytes
}

#[test]
fn notes_the_flow_and_passes_everything() {
    if !privileged("notes_the_flow_and_passes_everything") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 1 });
    let raw = Raw::open(&lab, Side::Client);
    lab.enter(Side::Server);
    let socket = UdpSocket::bind(any(false)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let probe = HashProbe::attach(&lab.device(Side::Server)).unwrap();
    for v6 in [false, true] {
        let plain = Frame::to_server(&raw, v6, PORT, b"plain");
        probe.watch(Carrier::Udp, plain.source, plain.destination).unwrap();
        let other = Frame { source: SocketAddr::new(plain.source.ip(), 50_001), ..plain.clone() };
        let tagged = Frame { tags: vec![TAG], ..plain.clone() };
        let twice = Frame { tags: vec![TAG, TAG], ..plain.clone() };
        let thrice = Frame { tags: vec![TAG; 3], ..plain.clone() };
        for frame in [&other, &thrice] {
            raw.send(&frame.bytes());
        }
        if !v6 {
            raw.send(&as_tcp(&plain));
            raw.send(&as_fragment(&plain));
            raw.send(&Frame { options: vec![1; 4], ..plain.clone() }.bytes());
        }
        for frame in [&tagged, &twice, &plain] {
            raw.send(&frame.bytes());
        }
        let seen = arrived(&probe, 3);
        assert_eq!(seen.iter().map(|arrival| arrival.packets).sum::<u64>(), 3, "{seen:?}");
        assert!(seen.iter().all(|arrival| arrival.queue == 0 && arrival.hash.is_ok()), "{seen:?}");
    }
    // The kernel has got them too: the other flow, the one with options, the plain one.
    let mut buffer = [0; 64];
    for port in [50_001, 50_000, 50_000] {
        let (length, from) = receive(&socket, &mut buffer);
        assert_eq!((&buffer[..length], from.port()), (&b"plain"[..], port));
    }
}

#[test]
fn notes_tcp_where_it_is_asked_for() {
    if !privileged("notes_tcp_where_it_is_asked_for") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 1 });
    let raw = Raw::open(&lab, Side::Client);
    lab.enter(Side::Server);
    let probe = HashProbe::attach(&lab.device(Side::Server)).unwrap();
    let frame = Frame::to_server(&raw, false, PORT, &[0; 20]);
    probe.watch(Carrier::Tcp, frame.source, frame.destination).unwrap();
    raw.send(&frame.bytes());
    raw.send(&as_tcp(&frame));
    let seen = arrived(&probe, 1);
    assert!(matches!(seen[..], [Arrival { queue: 0, packets: 1, .. }]), "{seen:?}");
}

/// The hash that the kernel computed for the flow is the same for each of its packets, and
/// another for another flow; a new flow begins at nothing.
#[test]
fn a_flow_has_one_hash() {
    if !privileged("a_flow_has_one_hash") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 2 });
    let (first, second) = (client(&lab, false), client(&lab, false));
    lab.enter(Side::Server);
    let probe = HashProbe::attach(&lab.device(Side::Server)).unwrap();
    let mut hashes = Vec::new();
    for socket in [&first, &second] {
        probe.watch(Carrier::Udp, socket.local_addr().unwrap(), server(false)).unwrap();
        assert!(probe.arrivals().unwrap().is_empty());
        for _ in 0..20 {
            socket.send(b"flow").unwrap_or_else(|error| {
                // There is no listener: the ICMP answer to an earlier datagram says so.
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
                socket.send(b"flow").unwrap()
            });
        }
        let seen = arrived(&probe, 20);
        assert!(matches!(seen[..], [Arrival { packets: 20, .. }]), "{seen:?}");
        let (hash, kind) = *seen[0].hash.as_ref().unwrap();
        assert_eq!(kind, L4);
        hashes.push(hash);
    }
    assert_ne!(hashes[0], hashes[1]);
}

/// Runs `attach` once no process has the device: a process that another test is starting has copies of
/// all our open descriptors, until its own program runs.
fn when_free<T>(attach: impl Fn() -> Result<T, XdpError>) -> T {
    const TRIES: usize = 500;
    for _ in 0..TRIES {
        match attach() {
            Err(XdpError::Occupied { .. }) => std::thread::sleep(Duration::from_millis(20)),
            attached => return attached.unwrap(),
        }
    }
    panic!("another process keeps the device")
}

#[test]
fn replaces_nobody_and_nobody_replaces_it() {
    if !privileged("replaces_nobody_and_nobody_replaces_it") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let name = lab.device(Side::Server);
    let device = listening(&lab, Mode::NativeCopy);
    let error = HashProbe::attach(&name).map(drop).unwrap_err();
    assert!(error.to_string().contains("quiclane_steer"), "{error}");
    assert!(matches!(error, XdpError::Occupied { .. }), "{error:?}");
    drop(device);
    let probe = when_free(|| HashProbe::attach(&name));
    let error = XdpDevice::attach(&config(&lab, Mode::NativeCopy)).map(drop).unwrap_err();
    assert!(error.to_string().contains("quiclane_probe"), "{error}");
    drop(probe);
    when_free(|| XdpDevice::attach(&config(&lab, Mode::NativeCopy)));
    let error = HashProbe::attach("none0").map(drop).unwrap_err();
    assert!(matches!(error, XdpError::NoSuchDevice { .. }), "{error:?}");
}

/// A device that runs programs only above the driver has no hash to read.
#[test]
fn a_driver_without_it_is_named() {
    if !privileged("a_driver_without_it_is_named") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    lab.enter(Side::Server);
    let error = HashProbe::attach("lo").map(drop).unwrap_err();
    assert!(error.to_string().contains("lo: "), "{error}");
}
