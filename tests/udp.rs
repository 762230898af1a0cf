//! The UDP datapath over loopback, on the kernel's own behaviour.
//!
//! Nothing here depends on time: loopback delivers within the send call, so whatever was sent
//! is there when the send returns. The last tests need a network of their own, made with
//! `unshare`; without one they skip loudly, and fail where CI says that they must run.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use quiclane::datapath::udp::{UdpConfig, UdpDatapath, UdpErrorKind};
use quiclane::datapath::{Datapath, Link, Mode, Path};
use quiclane::ecn::Ecn;
use quiclane_testkit::cpus;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

const LOOPBACKS: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

fn config(local: &str) -> UdpConfig {
    UdpConfig::new(local.parse().unwrap())
}

fn bind(local: &str) -> UdpDatapath {
    UdpDatapath::bind(&config(local)).unwrap()
}

fn path(from: &UdpDatapath, remote: SocketAddr) -> Path {
    Path { local: from.local_addr(), remote, link: Link::UNKNOWN }
}

/// Commits a datagram of `len` bytes, all of which are `fill`.
fn put(datapath: &mut UdpDatapath, path: &Path, ecn: Ecn, len: usize, fill: u8) {
    datapath.tx_buffer(path).expect("room to send")[..len].fill(fill);
    datapath.tx_commit(len, path, ecn);
}

#[derive(Debug, PartialEq, Eq)]
struct Got {
    bytes: Vec<u8>,
    ecn: Ecn,
    local: SocketAddr,
    remote: SocketAddr,
}

fn receive(datapath: &mut UdpDatapath, budget: usize) -> Vec<Got> {
    let mut all = Vec::new();
    let count = datapath.receive(budget, &mut |meta, bytes| {
        let (bytes, ecn) = (bytes.to_vec(), meta.ecn);
        all.push(Got { bytes, ecn, local: meta.path.local, remote: meta.path.remote });
    });
    assert_eq!(count, all.len());
    all
}

/// Receives until nothing is left.
fn drain(datapath: &mut UdpDatapath) -> Vec<Got> {
    let mut all = Vec::new();
    loop {
        let mut more = receive(datapath, 64);
        if more.is_empty() && datapath.prepare_sleep() {
            return all;
        }
        all.append(&mut more);
    }
}

fn lengths(all: &[Got]) -> Vec<usize> {
    all.iter().map(|got| got.bytes.len()).collect()
}

#[test]
fn batches_arrive_as_the_datagrams_that_were_sent() {
    for local in LOOPBACKS {
        for (gso, gro) in [(true, true), (true, false), (false, true), (false, false)] {
            let config = UdpConfig { gso, gro, ..config(local) };
            let mut a = UdpDatapath::bind(&config).unwrap();
            let mut b = UdpDatapath::bind(&config).unwrap();
            let to_b = path(&a, b.local_addr());
            // Runs of equal lengths, shorter ends, a longer one after a shorter, single bytes.
            let lens: Vec<usize> =
                [vec![1200; 30], vec![700, 1500, 1, 1, 1], vec![1472; 20], vec![90]].concat();
            for (fill, len) in lens.iter().enumerate() {
                put(&mut a, &to_b, Ecn::Ect0, *len, fill as u8);
            }
            a.flush().unwrap();
            let got = drain(&mut b);
            let what = format!("{local} gso {gso} gro {gro}");
            assert_eq!(lengths(&got), lens, "{what}");
            for (fill, got) in got.iter().enumerate() {
                assert!(got.bytes.iter().all(|b| *b == fill as u8), "{what}: datagram {fill}");
                assert_eq!((got.remote, got.local), (a.local_addr(), b.local_addr()), "{what}");
                assert_eq!(got.ecn, Ecn::Ect0, "{what}");
            }
            let (sent, received) = (a.stats(), b.stats());
            assert_eq!(sent.tx_packets, lens.len() as u64);
            assert_eq!(sent.tx_kicks, 1, "one system call a flush");
            assert_eq!(received.rx_packets, lens.len() as u64);
            assert_eq!(received.rx_bytes, lens.iter().sum::<usize>() as u64);
            assert_eq!(sent.tx_bytes, received.rx_bytes);
            assert_eq!(received.drops(), 0);
            if gso && a.capabilities().segmentation_offload {
                // [1200 x30, 700] [1500, 1] [1, 1] [1472 x20, 90]
                assert_eq!(a.udp_stats().send_joined, 4);
            } else {
                assert_eq!(a.udp_stats().send_joined, 0);
            }
        }
    }
}

#[test]
fn the_mark_of_each_datagram_survives() {
    for local in LOOPBACKS {
        let (mut a, mut b) = (bind(local), bind(local));
        assert!(a.capabilities().ecn);
        let to_b = path(&a, b.local_addr());
        let marks = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect0, Ecn::Ce, Ecn::Ect1, Ecn::Ect1, Ecn::Ce];
        for mark in marks {
            put(&mut a, &to_b, mark, 1200, 0);
        }
        a.flush().unwrap();
        let got: Vec<_> = drain(&mut b).iter().map(|got| got.ecn).collect();
        assert_eq!(got, marks, "{local}");
    }
}

#[test]
fn a_socket_on_all_addresses_answers_from_the_address_that_was_asked() {
    for (all, asked, own) in
        [("0.0.0.0:0", "127.0.0.2", "127.0.0.1:0"), ("[::]:0", "::1", "[::1]:0")]
    {
        let (mut server, mut client) = (bind(all), bind(own));
        let asked = SocketAddr::new(asked.parse().unwrap(), server.local_addr().port());
        let to_server = path(&client, asked);
        put(&mut client, &to_server, Ecn::NotEct, 10, 1);
        client.flush().unwrap();
        let mut path = None;
        server.receive(64, &mut |meta, _| path = Some(meta.path));
        let path = path.unwrap();
        assert_eq!((path.local, path.remote), (asked, client.local_addr()));
        for _ in 0..3 {
            put(&mut server, &path, Ecn::NotEct, 20, 2);
        }
        server.flush().unwrap();
        let answers = drain(&mut client);
        assert_eq!(lengths(&answers), [20; 3]);
        assert!(answers.iter().all(|got| got.remote == asked), "{answers:?}");
    }
}

#[test]
fn one_datapath_serves_both_families() {
    let mut server = bind("127.0.0.1:0");
    let v6 = server.add_socket(&config("[::1]:0")).unwrap();
    let v4 = server.local_addr();
    assert_eq!(server.local_addrs().collect::<Vec<_>>(), [v4, v6]);
    assert_eq!(server.poll_fds().len(), 2);
    let (mut one, mut two) = (bind("127.0.0.1:0"), bind("[::1]:0"));
    for (client, remote) in [(&mut one, v4), (&mut two, v6)] {
        let path = path(client, remote);
        put(client, &path, Ecn::NotEct, 100, 1);
        client.flush().unwrap();
    }
    let mut paths = Vec::new();
    server.receive(64, &mut |meta, _| paths.push(meta.path));
    assert_eq!(paths.len(), 2);
    for path in &paths {
        put(&mut server, path, Ecn::NotEct, 200, 2);
    }
    server.flush().unwrap();
    assert_eq!(server.stats().tx_kicks, 2, "one call for each socket");
    assert_eq!(receive(&mut one, 64)[0].remote, v4);
    assert_eq!(receive(&mut two, 64)[0].remote, v6);
}

#[test]
fn the_budget_is_kept_and_the_rest_comes_next() {
    let (mut a, mut b) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
    let to_b = path(&a, b.local_addr());
    for fill in 0..10 {
        put(&mut a, &to_b, Ecn::NotEct, 1000, fill);
    }
    a.flush().unwrap();
    let mut fills = Vec::new();
    for want in [3, 3, 3, 1, 0] {
        let got = receive(&mut b, 3);
        assert_eq!(got.len(), want);
        fills.extend(got.iter().map(|got| got.bytes[0]));
        // GRO joined all ten: the rest of them waits in the datapath, where poll does not see it.
        assert_eq!(b.prepare_sleep(), fills.len() == 10, "after {fills:?}");
    }
    assert_eq!(fills, (0..10).collect::<Vec<_>>());
}

#[test]
fn a_datagram_may_be_changed_where_it_lies() {
    let (mut a, mut b) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
    let to_b = path(&a, b.local_addr());
    for _ in 0..4 {
        put(&mut a, &to_b, Ecn::NotEct, 1000, 9);
    }
    a.flush().unwrap();
    // Decryption in place of one must not reach into the next.
    b.receive(64, &mut |_, bytes| {
        assert_eq!(bytes, [9; 1000]);
        bytes.fill(0xff);
    });
}

#[test]
fn attack_47_empty_datagrams_are_counted_and_cost_budget() {
    let mut b = bind("127.0.0.1:0");
    let attacker = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..10 {
        attacker.send_to(&[], b.local_addr()).unwrap();
    }
    attacker.send_to(b"real", b.local_addr()).unwrap();
    // Ten empty ones use up two calls of five, so a flood of them cannot hold the worker.
    for _ in 0..2 {
        assert_eq!(receive(&mut b, 5).len(), 0);
    }
    assert_eq!(b.stats().drop_empty, 10);
    assert_eq!(receive(&mut b, 5)[0].bytes, b"real");
    assert_eq!(b.stats().drop_empty, 10);
    assert_eq!(b.stats().drops(), 10);
}

#[test]
fn datagrams_above_the_limit_are_dropped_and_counted() {
    for gro in [true, false] {
        let config = UdpConfig { gro, max_datagram_bytes: 1200, ..config("127.0.0.1:0") };
        let mut b = UdpDatapath::bind(&config).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for len in [1200, 1201, 9000, 1199] {
            sender.send_to(&vec![1; len], b.local_addr()).unwrap();
        }
        assert_eq!(lengths(&drain(&mut b)), [1200, 1199], "gro {gro}");
        assert_eq!(b.stats().drop_truncated, 2, "gro {gro}");
    }
}

#[test]
fn a_port_in_use_is_told_with_its_remedy() {
    let a = bind("127.0.0.1:0");
    let taken = UdpConfig::new(a.local_addr());
    let error = UdpDatapath::bind(&taken).err().expect("the port is taken");
    assert_eq!(error.kind, UdpErrorKind::PortInUse);
    let text = error.to_string();
    let port = a.local_addr().port();
    for part in [
        format!("127.0.0.1:{port}"),
        format!("port {port} is in use"),
        "bind".to_owned(),
        format!("ss -lunp sport = :{port}"),
    ] {
        assert!(text.contains(&part), "{part:?} is missing: {text}");
    }
}

#[test]
fn other_errors_name_what_to_change() {
    let error = |config: UdpConfig| UdpDatapath::bind(&config).err().expect("must fail");
    // 192.0.2.0/24 is for documentation (RFC 5737): no machine has it.
    let e = error(config("192.0.2.1:0"));
    assert_eq!(e.kind, UdpErrorKind::AddressNotLocal);
    let e = error(UdpConfig { device: Some("no-such-dev".into()), ..config("127.0.0.1:0") });
    assert_eq!(e.kind, UdpErrorKind::NoDevice);
    assert!(e.to_string().contains("no-such-dev"), "{e}");
    let long = "a-name-that-no-device-can-have";
    let e = error(UdpConfig { device: Some(long.into()), ..config("127.0.0.1:0") });
    assert_eq!(e.kind, UdpErrorKind::NoDevice);
    for max_datagram_bytes in [0, 65_508] {
        let e = error(UdpConfig { max_datagram_bytes, ..config("127.0.0.1:0") });
        assert_eq!(e.kind, UdpErrorKind::Settings);
        assert!(e.to_string().contains("max_datagram_bytes"), "{e}");
    }
    let mut datapath = bind("127.0.0.1:0");
    let other = UdpConfig { max_datagram_bytes: 9000, ..config("[::1]:0") };
    assert_eq!(datapath.add_socket(&other).unwrap_err().kind, UdpErrorKind::Settings);
}

#[test]
fn a_refused_datagram_takes_no_other_with_it() {
    let (mut a, mut b) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
    let to_b = path(&a, b.local_addr());
    // A broadcast without SO_BROADCAST is EACCES, also for the two that GSO joined.
    let broadcast = path(&a, "255.255.255.255:9".parse().unwrap());
    for (path, fill) in
        [(&to_b, 1), (&broadcast, 2), (&to_b, 3), (&broadcast, 4), (&broadcast, 5), (&to_b, 6)]
    {
        put(&mut a, path, Ecn::NotEct, 100, fill);
    }
    a.flush().unwrap();
    let fills: Vec<_> = drain(&mut b).iter().map(|got| got.bytes[0]).collect();
    assert_eq!(fills, [1, 3, 6]);
    assert_eq!((a.stats().tx_packets, a.stats().tx_errors), (3, 3));
    assert_eq!((a.udp_stats().send_refused, a.udp_stats().offload_lost), (3, 0));
    assert_eq!(a.udp_stats().send_split, 1);
    assert!(a.prepare_sleep(), "nothing is left behind");
}

#[test]
fn a_datagram_above_the_mtu_is_counted_and_not_fragmented() {
    // Loopback's MTU is 65,536: with 48 bytes of headers, IPv6 takes 65,488.
    let config = UdpConfig { max_datagram_bytes: 65_507, ..config("[::1]:0") };
    let mut a = UdpDatapath::bind(&config).unwrap();
    let mut b = UdpDatapath::bind(&config).unwrap();
    let to_b = path(&a, b.local_addr());
    put(&mut a, &to_b, Ecn::NotEct, 65_489, 1);
    put(&mut a, &to_b, Ecn::NotEct, 65_488, 2);
    a.flush().unwrap();
    assert_eq!(lengths(&drain(&mut b)), [65_488]);
    assert_eq!((a.udp_stats().send_too_big, a.stats().tx_errors), (1, 1));
}

#[test]
fn a_peer_that_is_gone_disturbs_nobody() {
    let (mut a, mut b) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
    let gone = bind("127.0.0.1:0").local_addr();
    let (to_gone, to_b) = (path(&a, gone), path(&a, b.local_addr()));
    for _ in 0..5 {
        put(&mut a, &to_gone, Ecn::NotEct, 100, 1);
        a.flush().unwrap();
        put(&mut a, &to_b, Ecn::NotEct, 100, 2);
        a.flush().unwrap();
        assert_eq!(receive(&mut a, 64).len(), 0);
    }
    assert_eq!(drain(&mut b).len(), 5);
    assert_eq!(a.stats().tx_errors, 0);
}

#[test]
fn a_path_of_a_family_without_a_socket_is_counted() {
    let mut a = bind("127.0.0.1:0");
    let path = path(&a, "[::1]:9".parse().unwrap());
    put(&mut a, &path, Ecn::NotEct, 100, 1);
    a.flush().unwrap();
    assert_eq!((a.stats().tx_errors, a.stats().tx_packets, a.stats().tx_kicks), (1, 0, 0));
}

#[test]
fn what_the_kernel_drops_is_counted_to_the_last_datagram() {
    let config = UdpConfig { rcvbuf_bytes: 16 << 10, gro: false, ..config("127.0.0.1:0") };
    let mut b = UdpDatapath::bind(&config).unwrap();
    let mut a = bind("127.0.0.1:0");
    let to_b = path(&a, b.local_addr());
    let sent = 500;
    for _ in 0..sent {
        if a.tx_buffer(&to_b).is_none() {
            a.flush().unwrap();
        }
        put(&mut a, &to_b, Ecn::NotEct, 1200, 1);
    }
    a.flush().unwrap();
    let got = drain(&mut b).len() as u64;
    let stats = b.stats();
    assert!(got > 0 && stats.drop_socket_full > 0, "{stats:?}");
    assert_eq!(got + stats.drop_socket_full, sent);
    assert_eq!(stats.drops(), stats.drop_socket_full);
}

#[test]
fn a_full_arena_is_counted_and_a_flush_makes_room() {
    let (mut a, mut b) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
    let to_b = path(&a, b.local_addr());
    let mut count = 0;
    while a.tx_buffer(&to_b).is_some() {
        put(&mut a, &to_b, Ecn::NotEct, 1000, 1);
        count += 1;
    }
    assert_eq!(a.stats().tx_no_buffer, 1);
    assert!(!a.prepare_sleep(), "datagrams wait to be sent");
    a.flush().unwrap();
    assert!(a.prepare_sleep());
    assert!(a.tx_buffer(&to_b).is_some());
    assert_eq!(drain(&mut b).len(), count);
}

#[test]
fn sockets_that_share_a_port_are_picked_by_cpu_when_asked() {
    let cpus = cpus::allowed();
    let (Some(&here), Some(&there)) = (cpus.first(), cpus.get(1)) else {
        panic!("this needs two CPUs; this process may use {cpus:?}")
    };
    let shared = UdpConfig { reuse_port: true, ..config("127.0.0.1:0") };
    let first = UdpDatapath::bind(&UdpConfig { incoming_cpu: Some(here), ..shared.clone() });
    let to = first.as_ref().unwrap().local_addr();
    let second = UdpConfig { local: to, incoming_cpu: Some(there), ..shared.clone() };
    let mut group = [first.unwrap(), UdpDatapath::bind(&second).unwrap()];
    // Many flows, which the hash would spread over both. Over loopback, the sender's CPU receives.
    let send = |flows: usize| {
        for _ in 0..flows {
            UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", to).unwrap();
        }
    };
    for (at, cpu) in [(1, there), (0, here), (1, there)] {
        cpus::stay_on(cpu);
        send(40);
        assert_eq!(drain(&mut group[1 - at]).len(), 0);
        assert_eq!(drain(&mut group[at]).len(), 40);
    }
    // What arrives on a CPU that none names is spread.
    let [one, two] = [Some(1_000), Some(1_001)].map(|incoming_cpu| {
        let free = UdpConfig { incoming_cpu, ..config("127.0.0.2:0") };
        UdpConfig { reuse_port: true, ..free }
    });
    let first = UdpDatapath::bind(&one).unwrap();
    let to = first.local_addr();
    let mut group = [first, UdpDatapath::bind(&UdpConfig { local: to, ..two }).unwrap()];
    for _ in 0..40 {
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", to).unwrap();
    }
    let [one, two] = &mut group;
    let (one, two) = (drain(one).len(), drain(two).len());
    assert_eq!(one + two, 40);
    assert!(one > 0 && two > 0, "{one} and {two}");
}

#[test]
fn capabilities_say_what_it_is() {
    let a = bind("127.0.0.1:0");
    let c = a.capabilities();
    assert_eq!((c.mode, c.queue, c.max_datagram_bytes), (Mode::Udp, 0, 1500));
    assert_eq!(c.device, None);
}

/// Runs one test of this file again in a network namespace of its own, which ends with it.
/// True in the inner run. False when it is done, or when no namespace can be had.
fn in_own_network(test: &str) -> bool {
    if std::env::var_os("QUICLANE_OWN_NETWORK").is_some() {
        return true;
    }
    let exe = std::env::current_exe().unwrap();
    // As root a plain namespace; else one of a user namespace, where the kernel allows it.
    for flags in [&["--net"][..], &["--user", "--map-root-user", "--net"]] {
        let possible = Command::new("unshare").args(flags).arg("true").output();
        if possible.is_ok_and(|out| out.status.success()) {
            let mut inner = Command::new("unshare");
            inner.args(flags).arg(&exe).args(["--exact", test, "--nocapture"]);
            let out = inner.env("QUICLANE_OWN_NETWORK", "1").output().unwrap();
            let text = String::from_utf8_lossy(&out.stdout);
            assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
            assert!(text.contains("1 passed"), "the inner run did not run it: {text}");
            return false;
        }
    }
    assert!(std::env::var_os("CI").is_none(), "{test}: CI must be able to make namespaces");
    eprintln!("SKIPPED {test}: `unshare --net` is not permitted; run it as root");
    false
}

fn ip(arguments: &str) {
    let out = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2");
    assert!(out.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_partial_send_keeps_the_rest_for_the_next_flush() {
    if !in_own_network("a_partial_send_keeps_the_rest_for_the_next_flush") {
        return;
    }
    // Datagrams to a neighbour that does not answer wait in the kernel and fill the socket's
    // send buffer; naming the neighbour lets them go.
    ip("link add name va type veth peer name vb");
    ip("address add 10.77.0.1/24 dev va");
    ip("link set va up");
    ip("link set vb up");
    let config = UdpConfig { sndbuf_bytes: 4096, gso: false, ..config("10.77.0.1:0") };
    let mut a = UdpDatapath::bind(&config).unwrap();
    let to = path(&a, "10.77.0.2:9".parse().unwrap());
    let sent = 40;
    for fill in 0..sent {
        put(&mut a, &to, Ecn::NotEct, 1200, fill);
    }
    a.flush().unwrap();
    let part = a.stats().tx_packets;
    assert!(part > 0 && part < u64::from(sent), "{part} of {sent} went");
    assert_eq!(a.udp_stats().send_would_block, 1);
    assert_eq!(a.stats().tx_errors, 0);
    assert!(!a.prepare_sleep(), "the rest has to be sent");
    // The kernel's buffer is full: nothing is lost, nothing moves.
    a.flush().unwrap();
    assert_eq!(a.stats().tx_packets, part);
    ip("neighbour replace 10.77.0.2 lladdr 02:00:00:00:00:02 dev va nud permanent");
    for _ in 0..100_000 {
        a.flush().unwrap();
        if a.prepare_sleep() {
            break;
        }
        std::thread::yield_now();
    }
    assert_eq!(a.stats().tx_packets, u64::from(sent));
    assert_eq!(a.stats().tx_bytes, 1200 * u64::from(sent));
}

#[test]
fn offload_that_the_mtu_refuses_is_undone_for_those_datagrams_only() {
    if !in_own_network("offload_that_the_mtu_refuses_is_undone_for_those_datagrams_only") {
        return;
    }
    ip("link add name va type veth peer name vb");
    ip("link set va mtu 1280");
    ip("address add 10.77.0.1/24 dev va");
    ip("link set va up");
    ip("link set vb up");
    ip("neighbour add 10.77.0.2 lladdr 02:00:00:00:00:02 dev va nud permanent");
    let mut a = bind("10.77.0.1:0");
    let to = path(&a, "10.77.0.2:9".parse().unwrap());
    // 1,252 bytes is what 1,280 carries. Probes above it in a run of their own, then data.
    for len in [1253, 1253, 1252, 1252, 1252] {
        put(&mut a, &to, Ecn::NotEct, len, 1);
    }
    a.flush().unwrap();
    assert_eq!((a.stats().tx_packets, a.stats().tx_errors), (3, 2), "{:?}", a.udp_stats());
    assert_eq!((a.udp_stats().send_too_big, a.udp_stats().offload_lost), (2, 0));
    assert!(a.prepare_sleep());
}

#[test]
fn attack_37_a_path_mtu_that_the_kernel_was_told_holds_nothing_back() {
    if !in_own_network("attack_37_a_path_mtu_that_the_kernel_was_told_holds_nothing_back") {
        return;
    }
    ip("link add name va type veth peer name vb");
    ip("address add 10.77.0.1/24 dev va");
    ip("link set va up");
    ip("link set vb up");
    ip("neighbour add 10.77.0.2 lladdr 02:00:00:00:00:02 dev va nud permanent");
    // What a forged "packet too big" leaves behind. An ordinary socket obeys, to its harm.
    ip("route replace 10.77.0.2 dev va src 10.77.0.1 mtu 600");
    let mut a = bind("10.77.0.1:0");
    let to = path(&a, "10.77.0.2:9".parse().unwrap());
    for _ in 0..4 {
        put(&mut a, &to, Ecn::NotEct, 1200, 1);
    }
    put(&mut a, &to, Ecn::NotEct, 1472, 1);
    a.flush().unwrap();
    assert_eq!((a.stats().tx_packets, a.stats().tx_errors), (5, 0), "{:?}", a.udp_stats());
    assert_eq!((a.udp_stats().send_split, a.udp_stats().send_too_big), (0, 0));
    // Whole datagrams left, not fragments of 600 bytes.
    assert_eq!(ip_counter("FragCreates"), 0);
}

/// A counter of the `Ip` line of this network namespace.
fn ip_counter(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(known, _)| *known == name).expect("a counter of this name").1.parse().unwrap()
}

#[test]
fn the_kernel_tells_how_long_datagrams_wait_once_they_queue_up() {
    let (mut a, mut b) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
    let path = path(&a, b.local_addr());
    // Of different lengths: none are joined.
    let mut flood = |b: &mut UdpDatapath, rounds: usize| {
        for n in 0..rounds {
            put(&mut a, &path, Ecn::NotEct, 100 + n % 7 * 3, 1);
            a.flush().unwrap();
        }
        let mut ages = Vec::new();
        std::thread::sleep(Duration::from_millis(20));
        while !receive(b, 8).is_empty() {
            ages.push(b.backlog().age_ns);
        }
        ages
    };
    assert!(flood(&mut b, 24).iter().all(|age| *age == 0), "three full bursts are no queue");
    flood(&mut b, 64);
    // The kernel begins to note times later than it was asked to, by work of its own that a busy machine puts off.
    let ages = (0..100).map(|_| flood(&mut b, 64));
    let noted = |ages: &Vec<u64>| ages.last().is_some_and(|age| *age >= 20_000_000);
    assert!(ages.into_iter().any(|ages| noted(&ages)), "no datagram has an age");
}
