//! The network as a whole: what its parts do together, and that a seed repeats it.

use super::*;
use crate::datapath::{Datapath, Link, Path};
use std::cell::Cell;

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn at(ns: u64) -> Instant {
    Instant::from_nanos(ns)
}

/// A network of two hosts, A at 10.0.0.1 and B at 10.0.0.2, with a queue each.
struct Pair {
    net: SimNet,
    a: SimDatapath,
    b: SimDatapath,
}

fn pair_with(seed: u64, config: SimConfig) -> Pair {
    let net = SimNet::new(seed, config);
    let a = net.attach(&[ip(1)], 1).unwrap().remove(0);
    let b = net.attach(&[ip(2)], 1).unwrap().remove(0);
    Pair { net, a, b }
}

fn pair() -> Pair {
    pair_with(1, SimConfig::default())
}

fn a_to_b() -> Path {
    Path { local: socket("10.0.0.1:1"), remote: socket("10.0.0.2:2"), link: Link::UNKNOWN }
}

fn put(datapath: &mut SimDatapath, path: &Path, payload: &[u8]) {
    datapath.tx_buffer(path).expect("room")[..payload.len()].copy_from_slice(payload);
    datapath.tx_commit(payload.len(), path, Ecn::Ect0);
}

fn receive(datapath: &mut SimDatapath) -> Vec<(Path, Vec<u8>)> {
    let mut all = Vec::new();
    datapath.receive(usize::MAX, &mut |meta, bytes| all.push((meta.path, bytes.to_vec())));
    all
}

fn payloads(datapath: &mut SimDatapath) -> Vec<Vec<u8>> {
    receive(datapath).into_iter().map(|(_, bytes)| bytes).collect()
}

fn balanced(net: &SimNet) {
    let stats = net.stats();
    assert_eq!(
        stats.sent + stats.injected + stats.copied,
        stats.delivered + stats.dropped_total() + net.in_flight() as u64,
        "{stats:?}"
    );
}

#[test]
fn a_datagram_arrives_when_its_path_says() {
    let Pair { net, mut a, mut b } = pair();
    net.advance(at(500));
    put(&mut a, &a_to_b(), b"hello");
    assert_eq!(net.next_event(), None, "it is sent by the flush");
    assert!(!a.prepare_sleep());
    a.flush().unwrap();
    assert!(a.prepare_sleep());
    assert_eq!((net.next_event(), net.in_flight()), (Some(at(1_000_500)), 1));
    net.advance(at(1_000_499));
    assert!(b.prepare_sleep() && payloads(&mut b).is_empty());
    net.advance(at(1_000_500));
    assert_eq!(net.next_event(), Some(net.now()), "what waits in a queue is due");
    assert!(!b.prepare_sleep());
    let got = receive(&mut b);
    let want = Path { local: a_to_b().remote, remote: a_to_b().local, link: Link::UNKNOWN };
    assert_eq!(got, [(want, b"hello".to_vec())]);
    assert_eq!((net.next_event(), net.frames_in_use()), (None, 0));
    assert_eq!((a.stats().tx_packets, a.stats().tx_bytes), (1, 5));
    assert_eq!((b.stats().rx_packets, b.stats().rx_bytes), (1, 5));
    balanced(&net);
}

#[test]
fn datagrams_due_at_one_instant_keep_their_order() {
    let Pair { net, mut a, mut b } = pair();
    for i in 0..100 {
        put(&mut a, &a_to_b(), &[i]);
    }
    a.flush().unwrap();
    net.advance(at(1_000_000));
    let order: Vec<u8> = payloads(&mut b).into_iter().flatten().collect();
    assert_eq!(order, (0..100).collect::<Vec<_>>());
}

#[test]
fn one_held_back_is_overtaken() {
    let Pair { net, mut a, mut b } = pair();
    let hold = Fault::HoldUntil(at(50)).during(at(0), at(1));
    net.set_path(a.host(), b.host(), vec![hold, Fault::delay_ns(10)]);
    put(&mut a, &a_to_b(), b"first");
    a.flush().unwrap();
    net.advance(at(5));
    put(&mut a, &a_to_b(), b"second");
    a.flush().unwrap();
    // Due at 60 and at 15.
    net.advance(at(59));
    assert_eq!(payloads(&mut b), [b"second"]);
    net.advance(at(60));
    assert_eq!(payloads(&mut b), [b"first"]);
}

#[test]
fn copies_follow_their_original_and_meet_the_rest_of_the_path() {
    let Pair { net, mut a, mut b } = pair();
    let copy = Fault::Duplicate { chance: Chance::ALWAYS, copies: 2, spacing_ns: 3 };
    net.set_path(a.host(), b.host(), vec![copy, Fault::delay_ns(10)]);
    put(&mut a, &a_to_b(), b"x");
    a.flush().unwrap();
    for due in [10, 13, 16] {
        assert_eq!(net.next_event(), Some(at(if due == 10 { 3 } else { due })), "{due}");
        net.advance(at(due - 1));
        assert_eq!(payloads(&mut b).len(), 0);
        net.advance(at(due));
        assert_eq!(payloads(&mut b), [b"x"]);
    }
    let stats = net.stats();
    assert_eq!((stats.sent, stats.copied, stats.delivered), (1, 2, 3));
    balanced(&net);
}

#[test]
fn a_path_changed_leaves_alone_what_is_on_its_way() {
    let Pair { net, mut a, mut b } = pair();
    put(&mut a, &a_to_b(), b"old");
    a.flush().unwrap();
    net.set_path(a.host(), b.host(), vec![Fault::Drop(Chance::ALWAYS)]);
    put(&mut a, &a_to_b(), b"new");
    a.flush().unwrap();
    net.advance(at(1_000_000));
    assert_eq!(payloads(&mut b), [b"old"]);
    assert_eq!(net.stats().dropped(DropReason::Loss), 1);
    balanced(&net);
}

/// Everything that can go wrong, both ways, for 5,000 datagrams and their echoes. Returns the trace's hash.
fn storm(seed: u64) -> (u64, NetStats) {
    let Pair { net, mut a, mut b } = pair_with(seed, SimConfig::default());
    let faults = vec![
        Fault::Drop(Chance::percent(2)),
        Fault::DropBursts {
            good_to_bad: Chance::per_million(5_000),
            bad_to_good: Chance::percent(30),
            drop_good: Chance::NEVER,
            drop_bad: Chance::percent(80),
        },
        Fault::Delay { base_ns: 1000, jitter_ns: 9000, keep_order: false },
        Fault::Reorder { chance: Chance::percent(5), extra_ns: 50_000 },
        Fault::Duplicate { chance: Chance::percent(3), copies: 1, spacing_ns: 777 },
        Fault::Corrupt { chance: Chance::percent(3), max_bits: 8 },
        Fault::Truncate(Chance::percent(1)),
        Fault::Mtu { max_bytes: 1400 },
        Fault::Bottleneck {
            bytes_per_second: 600_000_000,
            queue_bytes: 20_000,
            mark_above_bytes: Some(10_000),
        },
        Fault::MarkEcn(Chance::percent(1)),
        Fault::blackout(at(1_000_000), at(1_100_000)),
    ];
    net.set_path(a.host(), b.host(), faults.clone());
    net.set_path(b.host(), a.host(), faults);
    net.put_behind_nat(a.host(), &[ip(101), ip(102)], None).unwrap();
    net.rebind_at(a.host(), at(3_000_000));
    let mut rng = Rng::new(seed ^ 1);
    let mut payload = vec![0; 1500];
    for turn in 0..5_000u64 {
        net.advance(at(turn * 1000));
        rng.fill(&mut payload);
        put(&mut a, &a_to_b(), &payload[..rng.between(1, 1500) as usize]);
        a.flush().unwrap();
        receive(&mut a);
        for (path, bytes) in receive(&mut b) {
            put(&mut b, &path, &bytes);
        }
        b.flush().unwrap();
    }
    while let Some(next) = net.next_event() {
        net.advance(next);
        receive(&mut a);
        receive(&mut b);
    }
    balanced(&net);
    assert_eq!((net.frames_in_use(), net.in_flight()), (0, 0));
    (net.trace_hash(), net.stats())
}

#[test]
fn one_seed_is_one_run() {
    let (hash, stats) = storm(42);
    assert_eq!(storm(42), (hash, stats));
    assert_ne!(storm(43).0, hash);
    // The run itself, forever: a change here changes what every recorded seed means.
    assert_eq!(hash, 1_773_882_824_814_715_251);
    let reasons =
        [DropReason::Loss, DropReason::AboveMtu, DropReason::QueueFull, DropReason::NoMapping];
    assert_eq!(reasons.map(|reason| stats.dropped(reason)), [369, 347, 349, 42]);
    assert_eq!((stats.sent, stats.copied, stats.delivered), (9_177, 232, 8_302));
}

#[test]
fn a_fault_on_one_path_does_not_change_the_luck_of_another() {
    let survivors = |other: Vec<Fault>| {
        let Pair { net, mut a, mut b } = pair();
        net.set_path(b.host(), a.host(), other);
        net.set_path(a.host(), b.host(), vec![Fault::Drop(Chance::percent(50))]);
        for i in 0..100 {
            put(&mut b, &Path { local: socket("10.0.0.2:2"), ..a_to_b() }, &[i]);
            put(&mut a, &a_to_b(), &[i]);
        }
        a.flush().unwrap();
        b.flush().unwrap();
        payloads(&mut b)
    };
    let calm = survivors(vec![]);
    assert_eq!(survivors(vec![Fault::Drop(Chance::percent(9)); 5]), calm);
    assert!((30..70).contains(&calm.len()));
}

#[test]
fn flows_spread_over_queues_and_follow_the_table() {
    let net = SimNet::new(1, SimConfig { default_path: vec![], ..SimConfig::default() });
    let mut server = net.attach(&[ip(2)], 4).unwrap();
    let mut client = net.attach(&[ip(1)], 1).unwrap().remove(0);
    let host = server[0].host();
    let path = |port: u16| Path { local: SocketAddr::new(ip(1), port), ..a_to_b() };
    let mut counts = |client: &mut SimDatapath| {
        for port in 1..=200 {
            put(client, &path(port), &[1]);
        }
        client.flush().unwrap();
        server
            .iter_mut()
            .map(|queue| {
                let index = queue.capabilities().queue as usize;
                let got = receive(queue);
                for (path, _) in &got {
                    assert_eq!(net.queue_of(host, &path.local, &path.remote), index);
                }
                got.len()
            })
            .collect::<Vec<_>>()
    };
    let spread = counts(&mut client);
    assert_eq!(spread, [56, 49, 58, 37]);
    assert_eq!(counts(&mut client), spread, "a flow keeps its queue");
    assert!(net.set_queue_table(host, &[3]));
    assert_eq!(counts(&mut client), [0, 0, 0, 200]);
    assert!(net.steer_flow(host, a_to_b().remote, path(7).local, 1));
    assert_eq!(counts(&mut client), [0, 1, 0, 199]);
    assert!(!net.set_queue_table(host, &[4]) && !net.set_queue_table(host, &[]));
    assert!(!net.steer_flow(host, a_to_b().remote, path(8).local, 4));
    assert_eq!(counts(&mut client), [0, 1, 0, 199]);
}

#[test]
fn a_translator_hides_its_host_and_forgets() {
    let Pair { net, mut a, mut b } =
        pair_with(1, SimConfig { default_path: vec![], ..SimConfig::default() });
    let host = a.host();
    net.put_behind_nat(host, &[ip(101), ip(102)], None).unwrap();
    let mut exchange = |net: &SimNet| {
        put(&mut a, &a_to_b(), b"?");
        a.flush().unwrap();
        let (path, _) = receive(&mut b).remove(0);
        put(&mut b, &path, b"!");
        net.advance(net.now().plus_ns(10));
        b.flush().unwrap();
        (path.remote, receive(&mut a).first().map(|(path, _)| *path))
    };
    let (seen, answer) = exchange(&net);
    assert_eq!(seen, socket("10.0.0.101:40000"));
    assert_eq!(answer, Some(a_to_b()), "the host knows nothing of it");
    assert_eq!(exchange(&net).0, seen, "a mapping lasts");
    // Forgets at 25: while the answer to the third question is being thought of.
    net.rebind_at(host, at(25));
    assert_eq!(exchange(&net), (seen, None), "what comes to the old port is lost");
    assert_eq!(net.stats().dropped(DropReason::NoMapping), 1);
    let (seen, answer) = exchange(&net);
    assert_eq!(seen, socket("10.0.0.102:40001"));
    assert!(answer.is_some());
    balanced(&net);
}

#[test]
fn limits_are_kept_and_counted() {
    let config = SimConfig { tx_frames: 4, rx_frames: 3, ..SimConfig::default() };
    let Pair { net, mut a, mut b } = pair_with(1, config);
    for i in 0..4 {
        put(&mut a, &a_to_b(), &[i]);
    }
    assert!(a.tx_buffer(&a_to_b()).is_none());
    assert_eq!(a.stats().tx_no_buffer, 1);
    a.flush().unwrap();
    assert!(a.tx_buffer(&a_to_b()).is_some());
    net.advance(at(1_000_000));
    assert_eq!(payloads(&mut b), [[0], [1], [2]]);
    assert_eq!(net.stats().dropped(DropReason::ReceiveQueueFull), 1);
    assert_eq!((b.stats().drop_socket_full, b.stats().drops()), (1, 1));
    balanced(&net);
}

#[test]
fn a_network_that_is_full_drops() {
    let Pair { net, mut a, b } = pair();
    net.set_path(a.host(), b.host(), vec![Fault::HoldUntil(Instant::NEVER)]);
    for i in 0..MAX_IN_FLIGHT as u64 + 10 {
        if a.tx_buffer(&a_to_b()).is_none() {
            a.flush().unwrap();
        }
        put(&mut a, &a_to_b(), &i.to_le_bytes());
    }
    a.flush().unwrap();
    assert_eq!(net.in_flight(), MAX_IN_FLIGHT);
    assert_eq!(net.stats().dropped(DropReason::TooManyInFlight), 10);
    assert_eq!(net.frames_in_use(), MAX_IN_FLIGHT);
    balanced(&net);
}

#[test]
fn empty_datagrams_cost_budget_and_are_counted() {
    let Pair { net, mut a, mut b } = pair();
    for payload in [&b""[..], b"", b"", b"x"] {
        put(&mut a, &a_to_b(), payload);
    }
    a.flush().unwrap();
    net.advance(at(1_000_000));
    assert_eq!(b.receive(3, &mut |_, _| panic!("nothing to hand out")), 0);
    assert_eq!(b.stats().drop_empty, 3);
    assert!(!b.prepare_sleep());
    assert_eq!(payloads(&mut b), [b"x"]);
}

#[test]
fn what_reaches_nobody_is_accounted_for() {
    let Pair { net, mut a, mut b } = pair();
    put(&mut a, &Path { remote: socket("10.0.0.9:9"), ..a_to_b() }, b"nobody");
    // Not an address of this host: the kernel would refuse it as well.
    put(&mut a, &Path { local: socket("10.0.0.8:9"), ..a_to_b() }, b"forged");
    a.flush().unwrap();
    assert_eq!(net.stats().dropped(DropReason::NoHost), 1);
    assert_eq!((a.stats().tx_packets, a.stats().tx_errors, net.stats().sent), (1, 1, 1));
    net.inject(socket("203.0.113.1:1"), socket("10.0.0.9:9"), Ecn::NotEct, b"nobody");
    net.inject(socket("203.0.113.1:1"), socket("10.0.0.2:9"), Ecn::NotEct, &[0; 1501]);
    net.inject(socket("203.0.113.1:1"), socket("10.0.0.2:9"), Ecn::NotEct, b"attack");
    assert_eq!(net.stats().dropped(DropReason::AboveBuffer), 1);
    assert_eq!(b.stats().drop_truncated, 1);
    let got = receive(&mut b);
    assert_eq!(got[0].0.remote, socket("203.0.113.1:1"));
    assert_eq!(got[0].1, b"attack");
    // A queue without a worker takes nothing, and gives back what it has.
    put(&mut a, &a_to_b(), b"one");
    a.flush().unwrap();
    net.advance(at(1_000_000));
    put(&mut a, &a_to_b(), b"two");
    a.flush().unwrap();
    drop(b);
    net.advance(at(2_000_000));
    assert_eq!(net.stats().dropped(DropReason::Closed), 1);
    assert_eq!((net.next_event(), net.frames_in_use()), (None, 0));
    balanced(&net);
}

#[test]
fn a_wildcard_sends_from_the_first_address_of_the_family() {
    let net = SimNet::new(1, SimConfig { default_path: vec![], ..SimConfig::default() });
    let addresses = ["10.0.0.1", "10.0.0.3", "2001:db8::1"].map(|a| a.parse().unwrap());
    let mut a = net.attach(&addresses, 1).unwrap().remove(0);
    let mut b = net.attach(&[ip(2), "2001:db8::2".parse().unwrap()], 1).unwrap().remove(0);
    for (local, remote, want) in [
        ("0.0.0.0:7", "10.0.0.2:2", "10.0.0.1:7"),
        ("10.0.0.3:7", "10.0.0.2:2", "10.0.0.3:7"),
        ("[::]:7", "[2001:db8::2]:2", "[2001:db8::1]:7"),
    ] {
        let path = Path { local: socket(local), remote: socket(remote), link: Link::UNKNOWN };
        put(&mut a, &path, b"x");
        a.flush().unwrap();
        assert_eq!(receive(&mut b)[0].0.remote, socket(want));
    }
}

#[test]
fn addresses_belong_to_one_host() {
    let Pair { net, a, .. } = pair();
    let taken = AttachError::AddressTaken(ip(2));
    assert_eq!(net.attach(&[ip(3), ip(2)], 1).err(), Some(taken));
    assert_eq!(net.put_behind_nat(a.host(), &[ip(2)], None).err(), Some(taken));
    assert!(net.attach(&[ip(3)], 1).is_ok(), "a failed attempt takes nothing");
    assert_eq!(net.attach(&[ip(4)], 0).err(), Some(AttachError::Nothing));
    assert_eq!(net.attach(&[], 1).err(), Some(AttachError::Nothing));
    assert_eq!(net.put_behind_nat(a.host(), &[], None).err(), Some(AttachError::Nothing));
    assert!(taken.to_string().contains("10.0.0.2"));
}

#[test]
fn taps_see_what_happens_when_and_where() {
    let Pair { net, mut a, mut b } = pair();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let log = seen.clone();
    net.observe(move |event| {
        assert_eq!(event.payload, b"x");
        log.borrow_mut().push((event.at.as_nanos(), event.kind, event.id));
    });
    put(&mut a, &a_to_b(), b"x");
    put(&mut a, &a_to_b(), b"x");
    net.set_path(
        a.host(),
        b.host(),
        vec![Fault::delay_ns(5), Fault::DropThese(vec![1]), Fault::delay_ns(2)],
    );
    a.flush().unwrap();
    net.advance(at(100));
    receive(&mut b);
    let want = [
        (0, TapKind::Sent, 0),
        (0, TapKind::Sent, 1),
        (5, TapKind::Dropped(DropReason::Loss), 1),
        (7, TapKind::Delivered { queue: 0 }, 0),
    ];
    assert_eq!(*seen.borrow(), want);
}

#[test]
fn the_network_may_be_looked_at_while_a_datagram_is_handled() {
    let Pair { net, mut a, mut b } = pair();
    put(&mut a, &a_to_b(), b"x");
    a.flush().unwrap();
    net.advance(at(1_000_000));
    let looked = Cell::new(false);
    b.receive(1, &mut |_, _| looked.set(net.now() == at(1_000_000)));
    assert!(looked.get());
}

#[test]
fn frames_are_used_again() {
    let Pair { net, mut a, mut b } = pair();
    for turn in 0..1000u64 {
        for _ in 0..8 {
            put(&mut a, &a_to_b(), b"x");
        }
        a.flush().unwrap();
        net.advance(at((turn + 1) * 1_000_000));
        assert_eq!(payloads(&mut b).len(), 8);
    }
    assert_eq!(net.core.borrow().pooled(), 8, "as many as were ever in use at once");
}
