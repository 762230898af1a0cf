use super::*;
use crate::datapath::memory::MemoryDatapath;
use crate::datapath::{Checksum, Link as LinkLayer, Path};
use crate::ecn::Ecn;
use crate::exec::relay::{Hub, RelayDatapath};
use crate::exec::sys::{Interest, Poller};
use crate::lb::{Config, Route};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

const BYTES: usize = 1_200;

fn codec() -> Codec {
    let key = Some([1; 16]);
    Codec::new(&Config { config_id: 0, server_id: 7, key, secret: [2; 16] }).unwrap()
}

fn remote(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 1_024 + n))
}

fn path(n: u16) -> Path {
    let local = SocketAddr::from(([192, 0, 2, 2], 443));
    Path { local, remote: remote(n), link: LinkLayer::UNKNOWN }
}

fn meta(n: u16) -> RxMeta {
    RxMeta { path: path(n), ecn: Ecn::Ect0, checksum: Checksum::Unverified([3, 4]) }
}

/// A packet for a connection of ours.
fn ours(worker: u16, number: u32) -> Vec<u8> {
    let route = Route { process: 0, worker, slot: 5, generation: 1 };
    let id = codec().encode(route, number.into());
    [&[0x40], id.as_slice(), &number.to_be_bytes()].concat()
}

/// A client's first packet.
fn initial(id: u64) -> Vec<u8> {
    [&[0xc0, 0, 0, 0, 1, 8], &id.to_be_bytes()[..], &[0, 0, 0, 0]].concat()
}

/// The thread of queue 1 of a fleet with two QUIC threads for each of two queues.
struct Rig {
    forwarder: Forwarder<MemoryDatapath>,
    relays: Vec<RelayDatapath>,
    hub: Arc<Hub>,
    fleet: Arc<WorkerFleet>,
}

const FIRST: usize = 2;

fn rig() -> Rig {
    let fleet = WorkerFleet::new(4, 16).unwrap();
    let hub = Hub::new(2).unwrap();
    let links = vec![Link::new(), Link::new()];
    let mut forwarder = Forwarder::new(links.clone(), FIRST, codec(), fleet.clone());
    let datapath = MemoryDatapath::new(BYTES);
    let capabilities = datapath.capabilities().clone();
    forwarder.set_datapath(datapath);
    let relay = |(at, link)| RelayDatapath::new(hub.clone(), link, capabilities.clone(), at == 0);
    let relays = links.into_iter().enumerate().map(relay).collect();
    Rig { forwarder, relays, hub, fleet }
}

impl Rig {
    fn arrives(&mut self, n: u16, datagram: &[u8]) {
        self.forwarder.datapath().unwrap().arrived().put(&meta(n), datagram);
    }

    fn received(&mut self, at: usize) -> Vec<Vec<u8>> {
        received(&mut self.relays[at])
    }

    fn sent(&mut self) -> Vec<Vec<u8>> {
        let sent = self.forwarder.datapath().unwrap().sent();
        std::iter::from_fn(|| sent.pop().map(|datagram| datagram.payload().to_vec())).collect()
    }
}

fn received(relay: &mut RelayDatapath) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while relay.receive(MAX_BURST, &mut |_, bytes| all.push(bytes.to_vec())) > 0 {}
    all
}

fn send(relay: &mut RelayDatapath, payload: &[u8]) -> bool {
    let Some(buffer) = relay.tx_buffer(&path(9)) else { return false };
    buffer[..payload.len()].copy_from_slice(payload);
    relay.tx_commit(payload.len(), &path(9), Ecn::Ect1);
    true
}

/// Whether a descriptor is readable now.
fn is_readable(fd: std::os::fd::RawFd) -> bool {
    let mut poller = Poller::new().unwrap();
    poller.add(fd, Interest::Readable, 0).unwrap();
    poller.wait(0, |_, _| {}).unwrap() > 0
}

#[test]
fn datagrams_reach_the_worker_that_their_id_names_in_order_and_whole() {
    let mut rig = rig();
    for number in 0..40 {
        // Workers 2 and 3 are of this queue; 0 and 1 have the same places on the other.
        rig.arrives(1, &ours((number % 4) as u16, number));
    }
    assert_eq!(rig.forwarder.turn().unwrap(), 40);
    for at in 0..2 {
        let expected: Vec<_> =
            (0..40).filter(|n| n % 2 == at).map(|n| ours((n % 4) as u16, n)).collect();
        let mut shown = Vec::new();
        rig.relays[at as usize].preview(3, &mut |bytes| shown.push(bytes.to_vec()));
        assert_eq!(shown, expected[..3]);
        assert_eq!(rig.relays[at as usize].backlog().waiting, 20);
        assert_eq!(rig.received(at as usize), expected);
    }
    rig.arrives(8, &ours(3, 1));
    rig.forwarder.turn().unwrap();
    let mut seen = None;
    rig.relays[1].receive(1, &mut |meta, _| seen = Some(*meta));
    let seen = seen.unwrap();
    assert_eq!((seen.path, seen.ecn, seen.checksum), (path(8), meta(8).ecn, meta(8).checksum));
    let stats = rig.relays[1].stats();
    assert_eq!((stats.rx_packets, stats.rx_bytes), (21, 21 * ours(0, 0).len() as u64));
}

#[test]
fn packets_of_one_handshake_meet_and_handshakes_spread() {
    let mut rig = rig();
    let mut at = [0; 2];
    for id in 0..64 {
        for _ in 0..2 {
            rig.arrives(id as u16, &initial(id));
        }
        rig.forwarder.turn().unwrap();
        let counts = [rig.received(0).len(), rig.received(1).len()];
        assert!(counts == [2, 0] || counts == [0, 2], "{counts:?}");
        at[usize::from(counts[1] > 0)] += 1;
    }
    // All on one side: once in 2^63 times.
    assert!(at[0] > 0 && at[1] > 0, "{at:?}");
    // Too short for an id: it still goes somewhere.
    rig.arrives(1, &[0x40, 1]);
    rig.forwarder.turn().unwrap();
    assert_eq!(rig.received(0).len() + rig.received(1).len(), 1);
}

#[test]
fn a_worker_that_is_behind_loses_what_has_no_buffer_and_the_other_loses_nothing() {
    let mut rig = rig();
    let behind = RELAY_SLOTS + 70;
    for number in 0..behind as u32 {
        rig.arrives(1, &ours(2, number));
    }
    rig.arrives(1, &ours(3, 0));
    while rig.forwarder.turn().unwrap() > 0 {}
    assert_eq!(rig.forwarder.refused(), Refused { full: 70, truncated: 0 });
    assert_eq!(rig.received(1).len(), 1);
    let first: Vec<_> = (0..RELAY_SLOTS as u32).map(|number| ours(2, number)).collect();
    assert_eq!(rig.received(0), first);
    // The buffers are back: as many fit once more.
    for number in 0..RELAY_SLOTS as u32 {
        rig.arrives(1, &ours(2, number));
    }
    while rig.forwarder.turn().unwrap() > 0 {}
    assert_eq!((rig.forwarder.refused().full, rig.received(0)), (70, first));
}

#[test]
fn a_datagram_larger_than_a_buffer_is_dropped_and_counted() {
    let mut rig = rig();
    rig.arrives(1, &[&ours(2, 0)[..], &[0; BYTES]].concat());
    rig.arrives(1, &ours(2, 1));
    rig.forwarder.turn().unwrap();
    assert_eq!(rig.forwarder.refused(), Refused { full: 0, truncated: 1 });
    assert_eq!(rig.received(0), [ours(2, 1)]);
}

#[test]
fn what_workers_send_leaves_in_their_order_and_waits_for_room() {
    let mut rig = rig();
    rig.forwarder.datapath().unwrap().limit_sent(3);
    for number in 0..5 {
        assert!(send(&mut rig.relays[0], &[0, number]) && send(&mut rig.relays[1], &[1, number]));
    }
    let mut all = Vec::new();
    for _ in 0..10 {
        rig.forwarder.turn().unwrap();
        assert_eq!(rig.forwarder.is_blocked(), !rig.forwarder.is_drained());
        all.extend(rig.sent());
    }
    assert!(rig.forwarder.is_drained());
    for worker in 0..2 {
        let of_one: Vec<_> = all.iter().filter(|datagram| datagram[0] == worker).collect();
        assert_eq!(of_one.len(), 5);
        assert!(of_one.is_sorted());
    }
    let stats = rig.relays[0].stats();
    assert_eq!((stats.tx_packets, stats.tx_bytes, stats.tx_no_buffer), (5, 10, 0));
}

#[test]
fn a_path_and_a_mark_leave_with_their_datagram() {
    let mut rig = rig();
    assert!(send(&mut rig.relays[1], b"x"));
    rig.forwarder.turn().unwrap();
    let sent = rig.forwarder.datapath().unwrap().sent().pop().unwrap();
    assert_eq!((sent.meta.path, sent.meta.ecn, sent.payload()), (path(9), Ecn::Ect1, &b"x"[..]));
}

#[test]
fn a_worker_without_a_buffer_waits_and_is_woken_for_the_first_that_comes_back() {
    let mut rig = rig();
    rig.forwarder.datapath().unwrap().limit_sent(0);
    let fits = (0..).take_while(|_| send(&mut rig.relays[0], b"x")).count();
    assert_eq!((fits, rig.relays[0].stats().tx_no_buffer), (RELAY_SLOTS, 1));
    let wakeup = &rig.fleet.inbox(FIRST).unwrap().wakeup;
    wakeup.announce_sleep();
    assert!(rig.relays[0].prepare_sleep());
    rig.forwarder.turn().unwrap();
    assert!(rig.forwarder.is_blocked() && !is_readable(wakeup.fd()));
    rig.forwarder.datapath().unwrap().limit_sent(1);
    rig.forwarder.turn().unwrap();
    assert!(is_readable(wakeup.fd()) && !rig.relays[0].prepare_sleep());
    wakeup.awake();
    assert!(send(&mut rig.relays[0], b"x") && !send(&mut rig.relays[0], b"x"));
}

#[test]
fn only_a_side_that_sleeps_is_woken() {
    let mut rig = rig();
    let wakeup = |worker| &rig.fleet.inbox(worker).unwrap().wakeup;
    rig.forwarder.datapath.as_mut().unwrap().arrived().put(&meta(1), &ours(2, 0));
    rig.forwarder.turn().unwrap();
    assert!(!is_readable(wakeup(2).fd()));
    wakeup(2).announce_sleep();
    wakeup(3).announce_sleep();
    assert!(!rig.relays[0].prepare_sleep(), "a datagram waits");
    assert!(rig.relays[1].prepare_sleep());
    rig.forwarder.datapath.as_mut().unwrap().arrived().put(&meta(1), &ours(3, 0));
    rig.forwarder.turn().unwrap();
    assert!(!is_readable(wakeup(2).fd()) && is_readable(wakeup(3).fd()));
    // The other direction.
    assert!(send(&mut rig.relays[0], b"x"));
    rig.relays[0].flush().unwrap();
    assert!(!is_readable(rig.hub.wakeup.fd()) && !rig.forwarder.prepare_sleep());
    rig.forwarder.turn().unwrap();
    rig.hub.wakeup.announce_sleep();
    rig.relays[0].flush().unwrap();
    assert!(rig.forwarder.prepare_sleep() && !is_readable(rig.hub.wakeup.fd()), "nothing was sent");
    assert!(send(&mut rig.relays[0], b"x"));
    rig.relays[0].flush().unwrap();
    assert!(is_readable(rig.hub.wakeup.fd()));
}

#[test]
fn a_sink_that_panics_has_used_its_buffer_up_and_no_more() {
    let mut rig = rig();
    for round in 0..2 * RELAY_SLOTS as u32 {
        rig.arrives(1, &ours(2, round));
        rig.forwarder.turn().unwrap();
        let relay = std::panic::AssertUnwindSafe(&mut rig.relays[0]);
        let caught = std::panic::catch_unwind(move || {
            let relay = relay;
            // Without a message of the hook.
            relay.0.receive(1, &mut |_, _| std::panic::resume_unwind(Box::new(())));
        });
        assert!(caught.is_err());
        rig.relays[0].recover();
    }
    assert_eq!(rig.forwarder.refused().full, 0);
}

#[test]
fn one_worker_of_a_queue_tells_what_its_datapath_counted() {
    let mut rig = rig();
    rig.arrives(1, &ours(2, 0));
    rig.forwarder.turn().unwrap();
    rig.received(0);
    let mut told = rig.forwarder.datapath().unwrap().stats();
    assert_eq!(told.rx_packets, 1);
    told.drop_relay_full = 3;
    rig.hub.publish(&told, &crate::datapath::udp::UdpStats::default());
    let [first, second] = [0, 1].map(|at: usize| rig.relays[at].stats());
    // The datagram counts once.
    assert_eq!((first.rx_packets, first.rx_calls, first.drop_relay_full), (1, told.rx_calls, 3));
    assert_eq!(second, crate::datapath::QueueStats::default());
}

#[test]
fn workers_hear_that_the_thread_of_their_queue_has_lost_its_datapath_or_ended() {
    let mut rig = rig();
    rig.hub.set_lost(true);
    assert!(rig.relays[1].flush().unwrap_err().to_string().contains("lost"));
    rig.hub.set_lost(false);
    rig.relays[1].flush().unwrap();
    rig.hub.set_ended();
    assert!(rig.relays[0].flush().unwrap_err().to_string().contains("ended"));
    assert!(!rig.hub.is_abandoned());
    rig.hub.hang_up();
    rig.hub.hang_up();
    assert!(rig.hub.is_abandoned());
}

/// Both sides sleep whenever they may: a wake-up that is lost stops this test for good.
#[test]
fn two_threads_that_sleep_lose_no_datagram_and_no_wake_up() {
    const DATAGRAMS: u32 = 20_000;
    const WINDOW: u32 = 100;
    let Rig { mut forwarder, relays, hub, fleet } = rig();
    let is_over = AtomicBool::new(false);
    let mut relay = relays.into_iter().next().unwrap();
    std::thread::scope(|scope| {
        // The QUIC thread sends everything back.
        scope.spawn(|| {
            let inbox = fleet.inbox(FIRST).unwrap();
            let mut poller = Poller::new().unwrap();
            poller.add(inbox.wakeup.fd(), Interest::Readable, 0).unwrap();
            while !is_over.load(Ordering::Relaxed) {
                let mut burst = Vec::new();
                relay.receive(MAX_BURST, &mut |_, bytes| burst.push(bytes.to_vec()));
                for datagram in &burst {
                    assert!(send(&mut relay, datagram));
                }
                relay.flush().unwrap();
                inbox.wakeup.announce_sleep();
                if burst.is_empty() && relay.prepare_sleep() && !is_over.load(Ordering::Relaxed) {
                    poller.wait(u64::MAX, |_, _| inbox.wakeup.clear()).unwrap();
                }
                inbox.wakeup.awake();
            }
        });
        let mut poller = Poller::new().unwrap();
        poller.add(hub.wakeup.fd(), Interest::Readable, 0).unwrap();
        let (mut put, mut back) = (0, 0);
        while back < DATAGRAMS {
            while put < DATAGRAMS && put - back < WINDOW {
                forwarder.datapath().unwrap().arrived().put(&meta(1), &ours(2, put));
                put += 1;
            }
            let work = forwarder.turn().unwrap();
            let sent = forwarder.datapath().unwrap().sent();
            while let Some(datagram) = sent.pop() {
                assert_eq!(datagram.payload(), ours(2, back));
                back += 1;
            }
            hub.wakeup.announce_sleep();
            if work == 0 && forwarder.prepare_sleep() {
                poller.wait(u64::MAX, |_, _| hub.wakeup.clear()).unwrap();
            }
            hub.wakeup.awake();
        }
        is_over.store(true, Ordering::Relaxed);
        fleet.inbox(FIRST).unwrap().wakeup.signal();
    });
    assert_eq!(forwarder.refused(), Refused::default());
}
