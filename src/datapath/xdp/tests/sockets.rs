//! Sockets that go wrong in ways that the public API cannot bring about.

use super::super::datapath::PORTS_EVERY;
use super::*;
use crate::datapath::{Datapath, Link, Mode, Path};
use crate::ecn::Ecn;
use quiclane_testkit::netns::{self, Lab, LabConfig, Side};
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

const PORT: u16 = 4433;

fn device(lab: &Lab) -> Arc<XdpDevice> {
    lab.enter(Side::Server);
    let config = XdpConfig {
        frames: 512,
        rx_entries: 128,
        tx_entries: 128,
        ..XdpConfig::new(lab.device(Side::Server))
    };
    XdpDevice::attach(&config).unwrap().0
}

fn server() -> SocketAddr {
    SocketAddr::new(Side::Server.ip(false), PORT)
}

/// A kernel socket of the client, with a thread of the client's namespace behind it.
fn client(lab: &Lab) -> UdpSocket {
    let namespace = lab.namespace(Side::Client);
    let bind = move || {
        netns::enter(&namespace);
        let socket = UdpSocket::bind(SocketAddr::new(Side::Client.ip(false), 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    };
    std::thread::spawn(bind).join().unwrap()
}

/// The one queue of the server, with the port steered to it, and a client.
fn listening(lab: &Lab) -> (XdpDatapath, UdpSocket) {
    let device = device(lab);
    let datapath = device.open_queue(0, &[server()]).unwrap();
    device.listen(server()).unwrap();
    (datapath, client(lab))
}

#[test]
fn attack_51_a_slot_that_leads_elsewhere_is_found() {
    if !privileged("attack_51_a_slot_that_leads_elsewhere_is_found") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let device = device(&lab);
    let zero = device.open_queue(0, &[]).unwrap();
    let one = device.open_queue(1, &[]).unwrap();
    zero.verify_slot().unwrap();
    one.verify_slot().unwrap();
    // The mistake that loses every packet while all statistics stay at zero.
    zero.enter_slot_of(&one);
    let error = zero.verify_slot().unwrap_err();
    assert!(matches!(error, XdpError::WrongSlot { queue: 0, found: Some(1), .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&lab.device(Side::Server)) && text.contains("queue 1"), "{text}");
    zero.empty_slot();
    let error = zero.verify_slot().unwrap_err();
    assert!(matches!(error, XdpError::WrongSlot { queue: 0, found: None, .. }), "{error}");
}

#[test]
fn attack_50_completions_that_stop_replace_the_socket() {
    if !privileged("attack_50_completions_that_stop_replace_the_socket") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 1 });
    let (mut datapath, client) = listening(&lab);
    let fds = datapath.poll_fds().to_vec();
    // Learn the way back from a packet.
    let path = loop {
        client.send_to(b"hello", server()).unwrap();
        let mut path = None;
        datapath.receive(64, &mut |meta, _| path = Some(meta.path));
        if let Some(path) = path.filter(|path| path.link.is_known()) {
            break path;
        }
    };
    // A kick that gets lost: the kernel never looks at the ring.
    datapath.withhold_kicks(true);
    commit(&mut datapath, &path, b"lost");
    while datapath.stats().tx_stalls == 0 {
        datapath.flush().unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    datapath.withhold_kicks(false);
    assert_eq!(datapath.poll_fds(), fds, "a worker waits on the same descriptor as before");
    commit(&mut datapath, &path, b"arrives");
    datapath.flush().unwrap();
    let mut buffer = [0; 64];
    let length = client.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"arrives");
    // Received on the new socket, and waking the old descriptor.
    client.send_to(b"again", server()).unwrap();
    let mut seen = 0;
    while seen == 0 {
        seen = datapath.receive(64, &mut |meta, payload| {
            assert!(meta.path.link.is_known());
            assert_eq!(payload, b"again");
        });
    }
    assert_eq!(datapath.stats().tx_stalls, 1);
}

fn commit(datapath: &mut XdpDatapath, path: &Path, payload: &[u8]) {
    let buffer = datapath.tx_buffer(path).unwrap();
    buffer[..payload.len()].copy_from_slice(payload);
    datapath.tx_commit(payload.len(), path, Ecn::NotEct);
}

#[test]
fn frames_come_back_whatever_becomes_of_them() {
    if !privileged("frames_come_back_whatever_becomes_of_them") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let device = device(&lab);
    let mut datapath = device.open_queue(0, &[server()]).unwrap();
    let free = datapath.free_frames();
    assert_eq!(free, 512 - 128);
    let known = Path {
        local: server(),
        remote: SocketAddr::new(Side::Client.ip(false), 9),
        link: Link { header: [2; 22], len: 14 },
    };
    let unknown = Path { link: Link::UNKNOWN, ..known };
    let foreign = Path { remote: "[fd77::2]:9".parse().unwrap(), ..known };
    let nowhere = Path { remote: "203.0.113.1:9".parse().unwrap(), ..unknown };
    let mut no_room = 0;
    for round in 0..2_000 {
        let path = [known, unknown, foreign, nowhere][round % 4];
        match datapath.tx_buffer(&path) {
            Some(_) if round % 7 == 0 => {}
            Some(_) => datapath.tx_commit(round % 1400, &path, Ecn::Ect0),
            None => no_room += 1,
        }
        if round % 200 == 199 {
            datapath.flush().unwrap();
        }
    }
    for _ in 0..200 {
        datapath.flush().unwrap();
        std::thread::sleep(Duration::from_millis(1));
        if datapath.free_frames() == free {
            break;
        }
    }
    assert_eq!(datapath.free_frames(), free, "{:?}", datapath.stats());
    assert_eq!(datapath.stats().tx_no_buffer, no_room);
    assert!(datapath.stats().tx_errors > 0, "a mixed path cannot be sent to");
}

#[test]
fn a_sink_that_panics_costs_no_frame_and_is_not_given_the_same_again() {
    if !privileged("a_sink_that_panics_costs_no_frame_and_is_not_given_the_same_again") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 1 });
    let (mut datapath, client) = listening(&lab);
    let (mut seen, mut panics) = (Vec::new(), 0);
    // More often than there are frames.
    for round in 0..600u32 {
        client.send_to(&(2 * round).to_be_bytes(), server()).unwrap();
        client.send_to(&(2 * round + 1).to_be_bytes(), server()).unwrap();
        while seen.len() < 2 * (round as usize + 1) {
            let receive = || {
                datapath.receive(64, &mut |_, payload| {
                    let number = u32::from_be_bytes(payload.try_into().unwrap());
                    seen.push(number);
                    // Without the hook, which would print each.
                    if number.is_multiple_of(2) {
                        std::panic::resume_unwind(Box::new(()));
                    }
                })
            };
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(receive)).is_err() {
                panics += 1;
                datapath.recover();
            }
        }
    }
    assert_eq!((seen, panics), ((0..1_200).collect(), 600));
}

#[test]
fn a_received_frame_for_which_the_fill_ring_has_no_room_is_kept() {
    if !privileged("a_received_frame_for_which_the_fill_ring_has_no_room_is_kept") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 1 });
    let (mut datapath, client) = listening(&lab);
    // As if the kernel were late to say what it took: there is never room for what was received.
    assert_eq!(datapath.crowd_fill_ring(), 256 - 128);
    let (mut sent, mut seen, mut taken) = (0, 0, 0);
    while seen < 40 {
        client.send_to(b"hello", server()).unwrap();
        sent += 1;
        let crowded = datapath.crowd_fill_ring();
        let free = datapath.free_frames();
        let received = datapath.receive(64, &mut |_, payload| assert_eq!(payload, b"hello"));
        // A packet may come between the two: then there was room for its frame.
        assert!((free..=free + received).contains(&datapath.free_frames()));
        taken += crowded;
        seen += received;
    }
    assert!(taken > 0);
    // None is lost: those that came as extras, and those that wait, are all there is. A packet that was
    // sent and not seen yet has a frame in the RX ring.
    let late = sent - seen;
    assert!(
        datapath.free_frames() + late >= 512 - 256 - 1,
        "{} are free, {late} packets are late",
        datapath.free_frames()
    );
}

#[test]
fn a_datagram_lost_in_the_kernel_socket_beside_a_port_is_counted() {
    if !privileged("a_datagram_lost_in_the_kernel_socket_beside_a_port_is_counted") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 1 });
    // Not steered: every datagram goes to the kernel socket, which is not read.
    let mut datapath = device(&lab).open_queue(0, &[server()]).unwrap();
    let client = client(&lab);
    let mut sent = 0;
    let mut flood = || {
        for _ in 0..2_000 {
            client.send_to(&[7; 1_000], server()).unwrap();
            sent += 1;
        }
        sent
    };
    let (mut sent, mut stats) = (0, datapath.stats());
    while stats.drop_socket_full == 0 {
        assert!(sent < 100_000, "{stats:?}");
        sent = flood();
        // The kernel sockets are read once in so many calls.
        for _ in 0..=PORTS_EVERY {
            datapath.receive(64, &mut |_, payload| assert_eq!(payload, [7; 1_000]));
        }
        stats = datapath.stats();
    }
    assert!(stats.rx_via_kernel + stats.drop_socket_full <= sent, "{sent} sent: {stats:?}");
    assert_eq!(stats.drops(), stats.drop_socket_full);
    // What was lost since, too, and it stays counted.
    flood();
    datapath.close_port(server());
    let after = datapath.stats().drop_socket_full;
    assert!(after > stats.drop_socket_full, "{after}");
}

/// What a client's connection does that another worker has taken over, and that AF_XDP does not reach.
#[test]
fn a_queue_sends_through_the_kernel_from_a_port_of_another_queue() {
    if !privileged("a_queue_sends_through_the_kernel_from_a_port_of_another_queue") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let device = device(&lab);
    let mut zero = device.open_queue(0, &[]).unwrap();
    let mut one = device.open_queue(1, &[]).unwrap();
    let any = SocketAddr::new(Side::Server.ip(false), 0);
    let local = zero.open_port(any).unwrap();
    // On this machine itself: not behind the device.
    let peer = UdpSocket::bind(any).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let remote = peer.local_addr().unwrap();
    let send = |queue: &mut XdpDatapath, local| {
        let path = Path { local, remote, link: Link::UNKNOWN };
        queue.tx_buffer(&path).unwrap()[..5].copy_from_slice(b"hello");
        queue.tx_commit(5, &path, Ecn::NotEct);
        let stats = queue.stats();
        (stats.tx_via_kernel, stats.tx_errors)
    };
    for number in 1..=2 {
        assert_eq!(send(&mut one, local), (number, 0));
        assert_eq!(peer.recv_from(&mut [0; 8]).unwrap(), (5, local));
    }
    // The answer finds the queue that has the port.
    peer.send_to(b"and back", local).unwrap();
    let got = |queue: &mut XdpDatapath| {
        (0..=PORTS_EVERY).map(|_| queue.receive(8, &mut |_, _| {})).sum::<usize>()
    };
    assert_eq!((got(&mut one), got(&mut zero)), (0, 1));
    let nobodys = SocketAddr::new(local.ip(), remote.port());
    assert_eq!(send(&mut one, nobodys), (2, 1), "a port that no queue has");
    // Nothing keeps the port open once neither queue uses it.
    drop((zero, one));
    UdpSocket::bind(local).unwrap();
}

#[test]
fn a_queue_that_another_socket_has_is_refused_with_its_name() {
    if !privileged("a_queue_that_another_socket_has_is_refused_with_its_name") {
        return;
    }
    let lab = Lab::new(LabConfig::default());
    let device = device(&lab);
    // A socket without a program, as another process might have it.
    let config = XdpConfig::new(lab.device(Side::Server));
    let binding = super::super::socket::Binding {
        device: &config.device,
        ifindex: device.info().ifindex,
        queue: 1,
        mode: Mode::NativeCopy,
        config: &config,
        metadata: None,
    };
    let Ok(socket) = super::super::socket::Socket::open(&binding) else { panic!("not bound") };
    let error = device.open_queue(1, &[]).err().unwrap();
    assert!(matches!(error, XdpError::QueueBusy { queue: 1, .. }), "{error}");
    assert!(error.to_string().contains(&config.device), "{error}");
    drop(socket);
    // Its rings are unmapped some time later: opening waits for it.
    device.open_queue(1, &[]).unwrap();
}
