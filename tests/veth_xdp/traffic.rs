//! Traffic of honest peers.

use super::echo::{Echo, send, turn};
use super::*;
use quiclane::datapath::headers::{Checksums, Verdict, parse};
use quiclane::datapath::xdp::{BusyPoll, Ladder, PortUse, Require, TxChecksum};
use quiclane::datapath::{Datapath, Link, Path};
use quiclane::ecn::Ecn;
use quiclane_testkit::netns::{Lab, LabConfig, Side, privileged};
use quiclane_testkit::raw::{Frame, Raw, repair_ip};

const FLOWS: u16 = 16;
const ROUNDS: u8 = 20;

fn echo_on_two_queues(mode: Mode) {
    let lab = Lab::new(LabConfig::default());
    let device = listening(&lab, mode);
    assert_eq!(device.queues(), 2);
    let echo = Echo::start(&lab, &device, &[0, 1], &[any(false), any(true)]);
    for v6 in [false, true] {
        let flows: Vec<_> = (0..FLOWS).map(|_| client(&lab, v6)).collect();
        for round in 0..ROUNDS {
            for socket in &flows {
                let length = 40 * usize::from(round) + 1;
                let payload: Vec<u8> = (0..length).map(|i| i as u8 ^ round).collect();
                round_trip(socket, &payload);
            }
        }
    }
    let stats = echo.stop();
    let sent = 2 * u64::from(FLOWS) * u64::from(ROUNDS);
    assert_eq!(total(&stats, |queue| queue.rx_packets), sent);
    assert_eq!(total(&stats, |queue| queue.tx_packets), sent);
    assert_eq!(total(&stats, |queue| queue.drops() + queue.rx_via_kernel), 0, "{stats:?}");
    // Above the driver a veth does not report which queue a packet arrived on: all are on queue 0.
    let served = stats.iter().filter(|queue| queue.rx_packets > 0).count();
    assert_eq!(served, if mode == Mode::Generic { 1 } else { 2 }, "{stats:?}");
    assert_eq!(device.verdicts().get(Verdict::Redirect), sent);
}

#[test]
fn echo_on_two_queues_native() {
    if privileged("echo_on_two_queues_native") {
        echo_on_two_queues(Mode::NativeCopy);
    }
}

#[test]
fn echo_on_two_queues_generic() {
    if privileged("echo_on_two_queues_generic") {
        echo_on_two_queues(Mode::Generic);
    }
}

/// No NIC here computes checksums for AF_XDP. The kernel does it instead, from the same metadata. The
/// frames at a packet socket of the other end show that it read them.
fn checksums_by_metadata(mode: Mode) {
    let lab = Lab::new(LabConfig { queues: 1 });
    lab.enter(Side::Server);
    let config = XdpConfig { tx_checksum: TxChecksum::Kernel, ..config(&lab, mode) };
    let (device, _) = XdpDevice::attach(&config).unwrap();
    assert_eq!(device.open_queue(0, &[]).unwrap().tx_checksum(), "kernel");
    for v6 in [false, true] {
        device.listen(any(v6)).unwrap();
    }
    let echo = Echo::start(&lab, &device, &[0], &[any(false), any(true)]);
    let raw = Raw::open(&lab, Side::Client);
    let lengths = [1usize, 2, 63, 64, 1199, 1400];
    for v6 in [false, true] {
        let socket = client(&lab, v6);
        for length in lengths {
            let payload: Vec<u8> = (0..length).map(|i| (i * 13 + length) as u8).collect();
            round_trip(&socket, &payload);
            let is_answer = |frame: &[u8]| {
                parse(frame, Checksums::Trusted).is_ok_and(|parsed| {
                    parsed.path.remote == server(v6) && frame[parsed.payload] == payload
                })
            };
            let frame = raw.receive(is_answer);
            assert!(parse(&frame, Checksums::Verify).is_ok(), "{length} bytes, IPv6: {v6}");
        }
    }
    let stats = echo.stop();
    assert_eq!(total(&stats, |queue| queue.tx_packets), 2 * lengths.len() as u64);
    assert_eq!(total(&stats, |queue| queue.tx_via_kernel + queue.drops()), 0, "{stats:?}");
    assert_eq!(total(&stats, |queue| queue.xdp_tx_invalid_descs), 0, "{stats:?}");
}

#[test]
fn checksums_by_metadata_native() {
    if privileged("checksums_by_metadata_native") {
        checksums_by_metadata(Mode::NativeCopy);
    }
}

#[test]
fn checksums_by_metadata_generic() {
    if privileged("checksums_by_metadata_generic") {
        checksums_by_metadata(Mode::Generic);
    }
}

#[test]
fn checksums_are_ours_where_no_nic_offers_them() {
    if !privileged("checksums_are_ours_where_no_nic_offers_them") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 1 });
    let device = listening(&lab, Mode::NativeCopy);
    assert_eq!(device.open_queue(0, &[]).unwrap().tx_checksum(), "software");
}

#[test]
fn the_ladder_says_why_zero_copy_is_not_had() {
    if !privileged("the_ladder_says_why_zero_copy_is_not_had") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    lab.enter(Side::Server);
    let plain = XdpConfig::new(lab.device(Side::Server));
    let (device, ladder) = XdpDevice::attach(&plain).unwrap();
    let Ladder { steps, reached, .. } = &ladder;
    assert_eq!(*reached, Some(Mode::NativeCopy));
    assert!(matches!(&steps[..], [(Mode::NativeZerocopy, reason)] if !reason.is_empty()));
    assert_eq!(device.ladder(), ladder);
    let datapath = device.open_queue(0, &[]).unwrap();
    assert_eq!(datapath.capabilities().mode, Mode::NativeCopy);
    drop((datapath, device));
    let error =
        XdpDevice::attach(&XdpConfig { require: Require::Zerocopy, ..plain }).err().unwrap();
    let text = error.to_string();
    assert!(text.contains("zerocopy") && text.contains("native-zerocopy ("), "{text}");
    // A program that was attached on a higher rung is not left behind.
    assert!(!lab.must_run(Side::Server, &["ip", "link"]).contains("prog/xdp"));
}

#[test]
fn packets_of_a_queue_without_a_socket_come_through_the_kernel() {
    if !privileged("packets_of_a_queue_without_a_socket_come_through_the_kernel") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let device = listening(&lab, Mode::NativeCopy);
    let echo = Echo::start(&lab, &device, &[0], &[any(false)]);
    let flows: Vec<_> = (0..FLOWS).map(|_| client(&lab, false)).collect();
    for socket in &flows {
        for _ in 0..4 {
            round_trip(socket, b"whatever the queue");
        }
    }
    let stats = echo.stop();
    let through = total(&stats, |queue| queue.rx_via_kernel);
    assert!(through > 0, "sixteen flows and none on the other queue");
    assert_eq!(device.verdicts().get(Verdict::PassNoSocket), through);
    assert_eq!(total(&stats, |queue| queue.rx_packets), 4 * u64::from(FLOWS));
    // Once the neighbour is resolved, answers do not go through the kernel, however requests arrive.
    assert_eq!(total(&stats, |queue| queue.tx_packets), 4 * u64::from(FLOWS));
}

/// A client on AF_XDP: its first packets go through the kernel, which resolves the neighbour.
#[test]
fn a_client_finds_its_neighbour_by_sending_through_the_kernel() {
    if !privileged("a_client_finds_its_neighbour_by_sending_through_the_kernel") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 1 });
    for v6 in [false, true] {
        let peer = inside(&lab, Side::Client, move || {
            UdpSocket::bind(SocketAddr::new(Side::Client.ip(v6), 0)).unwrap()
        });
        let device = {
            lab.enter(Side::Server);
            XdpDevice::attach(&config(&lab, Mode::NativeCopy)).unwrap().0
        };
        let mut wildcard = any(v6);
        wildcard.set_port(0);
        let mut datapath = device.open_queue(0, &[wildcard]).unwrap();
        let local = datapath.local_addresses().next().unwrap();
        assert_ne!(local.port(), 0);
        device.listen_as(local, PortUse::Client).unwrap();
        let path = Path { local, remote: peer.local_addr().unwrap(), link: Link::UNKNOWN };
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut buffer = [0; 64];
        let mut rounds = 0u64;
        // Until ARP or neighbour discovery is done, which takes a moment.
        while datapath.stats().tx_packets == datapath.stats().tx_via_kernel || rounds < 50 {
            assert!(rounds < 5_000, "the neighbour is never found: {:?}", datapath.stats());
            assert!(send(&mut datapath, &path, Ecn::Ect0, &rounds.to_be_bytes()));
            datapath.flush().unwrap();
            let (length, from) = receive(&peer, &mut buffer);
            assert_eq!(buffer[..length], rounds.to_be_bytes());
            assert_eq!(from, SocketAddr::new(Side::Server.ip(v6), local.port()));
            peer.send_to(b"answer", from).unwrap();
            while datapath.receive(64, &mut |meta, payload| {
                assert_eq!((meta.path.remote, &payload[..]), (path.remote, &b"answer"[..]));
                assert_eq!(meta.path.local.ip(), Side::Server.ip(v6));
            }) == 0
            {}
            rounds += 1;
        }
        let stats = datapath.stats();
        assert!(stats.tx_via_kernel > 0, "the first packet has no link to leave by: {stats:?}");
        assert_eq!((stats.rx_via_kernel, stats.tx_errors), (0, 0), "{stats:?}");
    }
}

#[test]
fn destinations_elsewhere_and_on_this_machine_go_through_the_kernel() {
    if !privileged("destinations_elsewhere_and_on_this_machine_go_through_the_kernel") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 1 });
    lab.enter(Side::Server);
    let device = XdpDevice::attach(&config(&lab, Mode::NativeCopy)).unwrap().0;
    let mut datapath = device.open_queue(0, &[any(false)]).unwrap();
    let neighbour = UdpSocket::bind("127.0.0.1:0").unwrap();
    neighbour.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let path =
        Path { local: any(false), remote: neighbour.local_addr().unwrap(), link: Link::UNKNOWN };
    for _ in 0..3 {
        assert!(send(&mut datapath, &path, Ecn::NotEct, b"to ourselves"));
        let mut buffer = [0; 64];
        let (length, from) = receive(&neighbour, &mut buffer);
        assert_eq!(&buffer[..length], b"to ourselves");
        assert_eq!(from.port(), PORT);
    }
    let nowhere = Path { remote: "203.0.113.9:9".parse().unwrap(), ..path };
    assert!(send(&mut datapath, &nowhere, Ecn::NotEct, b"no route"));
    let stats = datapath.stats();
    assert_eq!((stats.tx_via_kernel, stats.tx_errors), (3, 1), "{stats:?}");
}

#[test]
fn ecn_marks_are_read_and_written() {
    if !privileged("ecn_marks_are_read_and_written") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 1 });
    let device = listening(&lab, Mode::NativeCopy);
    let echo = Echo::start(&lab, &device, &[0], &[any(false), any(true)]);
    let raw = Raw::open(&lab, Side::Client);
    for v6 in [false, true] {
        for mark in 0..4u8 {
            let mut frame = Frame::to_server(&raw, v6, PORT, &[mark; 9]).bytes();
            let tos = |frame: &[u8]| if v6 { frame[15] >> 4 } else { frame[15] };
            frame[15] |= if v6 { mark << 4 } else { mark };
            repair_ip(&mut frame, 14);
            raw.send(&frame);
            let back = raw.receive(|back| back[..6] == raw.mac && back.ends_with(&[mark; 9]));
            assert_eq!(tos(&back) & 3, mark, "IPv6 {v6}");
            if !v6 {
                assert_eq!(back[20] & 0x40, 0x40, "do not fragment");
            }
        }
    }
    echo.stop();
}

#[test]
fn a_worker_can_sleep_until_packets_come() {
    if !privileged("a_worker_can_sleep_until_packets_come") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 1 });
    let device = listening(&lab, Mode::NativeCopy);
    let mut datapath = device.open_queue(0, &[any(false)]).unwrap();
    let socket = client(&lab, false);
    let narrow = lab.device(Side::Client);
    lab.must_run(Side::Client, &["ip", "link", "set", &narrow, "mtu", "1000"]);
    let mut echoed = 0;
    let sender = std::thread::spawn(move || {
        for _ in 0..50 {
            round_trip(&socket, b"wake up");
        }
        // Too large for one packet: fragments come through the kernel, and wake the worker as well.
        socket.send(&[7; 1450]).unwrap();
    });
    let mut large = 0;
    loop {
        echoed += turn_small(&mut datapath, &mut large);
        if large > 0 {
            break;
        }
        if datapath.prepare_sleep() {
            let mut fd =
                libc::pollfd { fd: datapath.poll_fds()[0], events: libc::POLLIN, revents: 0 };
            // SAFETY: `fd` is one valid pollfd.
            let ready = unsafe { libc::poll(&raw mut fd, 1, 10_000) };
            assert_eq!(ready, 1, "nothing woke the worker: {:?}", datapath.stats());
        }
    }
    sender.join().unwrap();
    assert_eq!((echoed, datapath.stats().rx_via_kernel), (50, 1));
}

/// One turn; datagrams that do not fit into a packet are counted separately, and not echoed.
fn turn_small(datapath: &mut quiclane::datapath::xdp::XdpDatapath, large: &mut usize) -> usize {
    let mut small = Vec::new();
    datapath.receive(64, &mut |meta, payload| {
        if payload.len() > 1400 {
            *large += 1;
        } else {
            small.push((meta.path, payload.to_vec()));
        }
    });
    for (path, payload) in &small {
        assert!(send(datapath, path, Ecn::NotEct, payload));
    }
    datapath.flush().unwrap();
    small.len()
}

#[test]
fn busy_polling_is_accepted_and_harmless() {
    if !privileged("busy_polling_is_accepted_and_harmless") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 1 });
    lab.enter(Side::Server);
    let config =
        XdpConfig { busy_poll: Some(BusyPoll::default()), ..config(&lab, Mode::NativeCopy) };
    let device = XdpDevice::attach(&config).unwrap().0;
    device.listen(any(false)).unwrap();
    let echo = Echo::start(&lab, &device, &[0], &[any(false)]);
    let socket = client(&lab, false);
    for _ in 0..100 {
        round_trip(&socket, b"polled");
    }
    assert_eq!(total(&echo.stop(), |queue| queue.rx_packets), 100);
}

#[test]
fn ports_come_and_go_at_run_time() {
    if !privileged("ports_come_and_go_at_run_time") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 1 });
    lab.enter(Side::Server);
    let device = XdpDevice::attach(&config(&lab, Mode::NativeCopy)).unwrap().0;
    let mut datapath = device.open_queue(0, &[]).unwrap();
    let socket = client(&lab, false);
    let wait_for = |datapath: &mut quiclane::datapath::xdp::XdpDatapath, payload: &[u8]| {
        socket.send(payload).unwrap();
        while turn(datapath) == 0 {}
        let mut buffer = [0; 64];
        assert_eq!(receive(&socket, &mut buffer).0, payload.len());
    };
    // With only a kernel socket it is served, slowly.
    assert_eq!(datapath.open_port(any(false)).unwrap(), any(false));
    wait_for(&mut datapath, b"kernel");
    assert_eq!(datapath.stats().rx_via_kernel, 1);
    // An address that is gone and one that is new.
    device.listen(any(false)).unwrap();
    wait_for(&mut datapath, b"af_xdp");
    assert_eq!(datapath.stats().rx_via_kernel, 1);
    device.unlisten(any(false));
    wait_for(&mut datapath, b"kernel again");
    assert_eq!(datapath.stats().rx_via_kernel, 2);
    let server = server(false);
    lab.must_run(Side::Server, &["ip", "addr", "del", "10.77.0.1/24", "dev", device.name()]);
    device.listen(any(false)).unwrap();
    assert_eq!(device.steered(), []);
    lab.must_run(Side::Server, &["ip", "addr", "add", "10.77.0.1/24", "dev", device.name()]);
    device.refresh().unwrap();
    assert_eq!(device.steered(), [server]);
    wait_for(&mut datapath, b"af_xdp again");
    assert_eq!(datapath.stats().rx_via_kernel, 2);
    datapath.close_port(any(false));
    assert_eq!(datapath.local_addresses().count(), 0);
}
