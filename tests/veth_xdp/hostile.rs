//! Frames that a hostile or broken peer sends, on the wire. Rows 43 to 50 of the attacks.

use super::echo::{Echo, turn};
use super::*;
use quiclane::datapath::Datapath;
use quiclane::datapath::headers::Verdict;
use quiclane::datapath::xdp::XdpDatapath;
use quiclane_testkit::netns::{Lab, LabConfig, Side, privileged};
use quiclane_testkit::raw::{Frame, Raw, repair_ip};

/// A server on one queue, and a raw socket at the client's end.
struct Rig {
    datapath: XdpDatapath,
    device: Arc<XdpDevice>,
    raw: Raw,
    lab: Lab,
    /// Datagrams handed out whose checksum was wrong.
    damaged: usize,
}

impl Rig {
    fn new(mode: Mode) -> Self {
        Self::in_vlans(mode, &[])
    }

    fn in_vlans(mode: Mode, ids: &[u16]) -> Self {
        let lab = Lab::new(LabConfig { queues: 1 });
        lab.enter(Side::Server);
        let mut config = config(&lab, mode);
        for &id in ids {
            config.vlans.insert(id).unwrap();
        }
        let (device, _) = XdpDevice::attach(&config).unwrap();
        for v6 in [false, true] {
            device.listen(any(v6)).unwrap();
        }
        let datapath = device.open_queue(0, &[any(false), any(true)]).unwrap();
        let raw = Raw::open(&lab, Side::Client);
        Self { datapath, device, raw, lab, damaged: 0 }
    }

    fn frame(&self, v6: bool, payload: &[u8]) -> Frame {
        Frame::to_server(&self.raw, v6, PORT, payload)
    }

    /// Sends a frame and then a good one, and waits for the good one: by then the first is processed.
    /// Returns the payloads that were handed out before it.
    fn deliver(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        const LAST: &[u8] = b"the last one";
        self.raw.send(frame);
        self.raw.send(&self.frame(false, LAST).bytes());
        let mut seen = Vec::new();
        for _ in 0..1_000_000 {
            self.datapath.receive(64, &mut |meta, payload| {
                self.damaged += usize::from(!meta.is_intact(payload));
                seen.push(payload.to_vec());
            });
            self.datapath.flush().unwrap();
            if seen.iter().any(|payload| payload == LAST) {
                // What came through the kernel may be behind.
                for _ in 0..200 {
                    self.datapath.receive(64, &mut |_, payload| seen.push(payload.to_vec()));
                }
                seen.retain(|payload| payload != LAST);
                return seen;
            }
            std::thread::yield_now();
        }
        panic!("the good frame never arrived: {:?}", self.datapath.stats());
    }

    /// As `deliver`; also returns how the counters changed.
    fn counted(&mut self, frame: &[u8]) -> (Vec<Vec<u8>>, QueueStats) {
        let before = self.datapath.stats();
        let seen = self.deliver(frame);
        let after = self.datapath.stats();
        let change = QueueStats {
            drop_malformed: after.drop_malformed - before.drop_malformed,
            drop_ip_checksum: after.drop_ip_checksum - before.drop_ip_checksum,
            drop_udp_checksum: after.drop_udp_checksum - before.drop_udp_checksum,
            drop_udp_length: after.drop_udp_length - before.drop_udp_length,
            drop_empty: after.drop_empty - before.drop_empty,
            rx_via_kernel: after.rx_via_kernel - before.rx_via_kernel,
            ..QueueStats::default()
        };
        (seen, change)
    }
}

#[test]
fn attack_43_fragments_are_put_together_by_the_kernel() {
    if !privileged("attack_43_fragments_are_put_together_by_the_kernel") {
        return;
    }
    for mode in [Mode::NativeCopy, Mode::Generic] {
        let mut rig = Rig::new(mode);
        // The path has a smaller MTU than our device: what fits the device comes in two fragments.
        let device = rig.lab.device(Side::Client);
        rig.lab.must_run(Side::Client, &["ip", "link", "set", &device, "mtu", "1300"]);
        for v6 in [false, true] {
            let socket = client(&rig.lab, v6);
            let payload: Vec<u8> = (0..1400u32).map(|i| i as u8).collect();
            socket.send(&payload).unwrap();
            let mut seen = Vec::new();
            while seen.is_empty() {
                rig.datapath.receive(64, &mut |_, payload| seen.push(payload.to_vec()));
            }
            assert_eq!(seen, [payload]);
        }
        assert_eq!(rig.datapath.stats().rx_via_kernel, 2);
        assert_eq!(rig.device.verdicts().get(Verdict::PassFragment), 4);
    }
}

/// Reassembled datagrams of up to 65,507 bytes once arrived, where a datagram of the device has 1,472.
#[test]
fn attack_43_fragments_of_more_than_the_device_takes_are_dropped_and_counted() {
    if !privileged("attack_43_fragments_of_more_than_the_device_takes_are_dropped_and_counted") {
        return;
    }
    let mut rig = Rig::new(Mode::NativeCopy);
    for v6 in [false, true] {
        let socket = client(&rig.lab, v6);
        for length in [1_473, 4_000, 16_000] {
            let before = rig.datapath.stats().drop_truncated;
            socket.send(&vec![7; length]).unwrap();
            let mut seen = 0;
            while rig.datapath.stats().drop_truncated == before && seen == 0 {
                seen += rig.datapath.receive(64, &mut |_, _| ());
            }
            assert_eq!(seen, 0, "{length} bytes, IPv6 {v6}");
        }
    }
    assert_eq!((rig.datapath.stats().drop_truncated, rig.datapath.stats().rx_via_kernel), (6, 0));
}

#[test]
fn attack_44_replies_carry_the_tags_of_the_request() {
    if !privileged("attack_44_replies_carry_the_tags_of_the_request") {
        return;
    }
    let tags = [[0x88, 0xa8, 0x01, 0x23], [0x81, 0x00, 0xe0, 0x07]];
    let Rig { mut datapath, device, raw, lab: _lab, damaged: _ } =
        Rig::in_vlans(Mode::NativeCopy, &[0x123, 7]);
    for v6 in [false, true] {
        for count in 0..=2 {
            let mut frame = Frame::to_server(&raw, v6, PORT, b"tagged");
            frame.tags = tags[..count].to_vec();
            let sent = frame.bytes();
            raw.send(&sent);
            while turn(&mut datapath) == 0 {}
            let back = raw.receive(|back| back[..6] == raw.mac && back.ends_with(b"tagged"));
            assert_eq!(back[..6], sent[6..12]);
            assert_eq!(back[6..12], sent[..6]);
            // A packet socket removes the outer tag, and reports it separately: the rest of the
            // reply is compared with the rest of the request.
            let visible = back.len() - (sent.len() - 4 * count);
            assert!(visible <= 4 * count && visible + 4 >= 4 * count, "{visible} of {count}");
            assert_eq!(back[12..12 + visible], sent[12 + 4 * count - visible..12 + 4 * count]);
        }
    }
    let mut deep = Frame::to_server(&raw, false, PORT, b"deep");
    deep.tags = [&tags[..], &tags[..1]].concat();
    raw.send(&deep.bytes());
    while device.verdicts().get(Verdict::PassVlanDepth) == 0 {
        std::thread::yield_now();
    }
}

/// A neighbour of another VLAN once reached a port that the kernel, and its
/// firewall, would not have let it reach.
#[test]
fn attack_44_other_vlans_and_frames_for_neighbours_are_left_to_the_kernel() {
    if !privileged("attack_44_other_vlans_and_frames_for_neighbours_are_left_to_the_kernel") {
        return;
    }
    let tag = |id: u8| [0x81, 0x00, 0x00, id];
    for ids in [&[][..], &[7]] {
        let mut rig = Rig::in_vlans(Mode::NativeCopy, ids);
        let mut refused = 0;
        for (tags, allowed) in [
            (vec![], true),
            (vec![tag(7)], ids.contains(&7)),
            (vec![tag(8)], false),
            (vec![tag(8), tag(7)], false),
            (vec![tag(7), tag(8)], false),
        ] {
            let mut frame = rig.frame(false, b"tagged");
            frame.tags = tags.clone();
            let (seen, change) = rig.counted(&frame.bytes());
            assert_eq!(seen.len(), usize::from(allowed), "{tags:?} in {ids:?}");
            // There is no device for those VLANs: the kernel drops them, and sends no answer.
            assert_eq!((change.drops(), change.rx_via_kernel), (0, 0), "{tags:?} in {ids:?}");
            refused += u64::from(!allowed);
            assert_eq!(rig.device.verdicts().get(Verdict::PassVlan), refused, "{tags:?}");
        }
        // A promiscuous device receives frames for other hosts.
        let device = rig.lab.device(Side::Server);
        rig.lab.must_run(Side::Server, &["ip", "link", "set", &device, "promisc", "on"]);
        let mut frame = rig.frame(false, b"for a neighbour");
        frame.destination_mac[5] ^= 1;
        let (seen, change) = rig.counted(&frame.bytes());
        assert_eq!((seen.len(), change.drops(), change.rx_via_kernel), (0, 0, 0));
        assert_eq!(rig.device.verdicts().get(Verdict::PassOtherHost), 1);
    }
}

#[test]
fn attack_45_options_go_to_the_kernel_and_runts_nowhere() {
    if !privileged("attack_45_options_go_to_the_kernel_and_runts_nowhere") {
        return;
    }
    let mut rig = Rig::new(Mode::NativeCopy);
    // An empty Record Route option: legal.
    let mut frame = rig.frame(false, b"options");
    frame.options = vec![7, 7, 4, 0, 0, 0, 0, 0];
    let (seen, change) = rig.counted(&frame.bytes());
    assert_eq!(seen, [b"options".to_vec()]);
    assert_eq!(change.rx_via_kernel, 1);
    assert_eq!(rig.device.verdicts().get(Verdict::PassOptions), 1);
    let good = rig.frame(false, b"runt").bytes();
    for length in [14, 33, 41] {
        let (seen, change) = rig.counted(&good[..length]);
        assert_eq!((seen.len(), change.drops()), (0, 0), "{length}");
    }
    assert_eq!(rig.device.verdicts().get(Verdict::PassShort), 3);
    let mut short = good.clone();
    short[14] = 0x44;
    let (seen, _) = rig.counted(&short);
    assert!(seen.is_empty());
    assert_eq!(rig.device.verdicts().get(Verdict::PassMalformed), 1);
}

#[test]
fn attack_46_lying_lengths_and_checksums_are_dropped_and_counted() {
    if !privileged("attack_46_lying_lengths_and_checksums_are_dropped_and_counted") {
        return;
    }
    let mut rig = Rig::new(Mode::NativeCopy);
    type Counter = fn(&QueueStats) -> u64;
    let udp_length: Counter = |c| c.drop_udp_length;
    let udp_checksum: Counter = |c| c.drop_udp_checksum;
    let malformed: Counter = |c| c.drop_malformed;
    let ip_checksum: Counter = |c| c.drop_ip_checksum;
    /// Name, IPv6, where to write, what, and the counter that has to rise.
    type Case = (&'static str, bool, usize, [u8; 2], Option<Counter>);
    let cases: [Case; 9] = [
        ("UDP length 7", false, 38, [0, 7], Some(udp_length)),
        ("UDP length beyond IP", false, 38, [4, 0], Some(udp_length)),
        ("UDP length 0 in IPv6", true, 58, [0, 0], Some(udp_length)),
        ("IP length beyond the frame", false, 16, [5, 0], Some(malformed)),
        ("IP length 27", false, 16, [0, 27], Some(malformed)),
        ("IPv6 length beyond the frame", true, 18, [5, 0], Some(malformed)),
        ("wrong IP checksum", false, 24, [1, 1], Some(ip_checksum)),
        ("no UDP checksum in IPv6", true, 60, [0, 0], Some(udp_checksum)),
        ("no UDP checksum in IPv4", false, 40, [0, 0], None),
    ];
    for (name, v6, at, bytes, counter) in cases {
        let mut frame = rig.frame(v6, b"lies").bytes();
        frame[at..at + 2].copy_from_slice(&bytes);
        if at != 24 {
            repair_ip(&mut frame, 14);
        }
        let (seen, change) = rig.counted(&frame);
        match counter {
            Some(counter) => {
                assert_eq!((seen.len(), counter(&change), change.drops()), (0, 1, 1), "{name}");
            }
            None => assert_eq!((&seen[..], change.drops()), (&[b"lies".to_vec()][..], 0), "{name}"),
        }
    }
    assert_eq!(rig.damaged, 0);
    // An AEAD guards more than a checksum: a wrong checksum is reported with the datagram.
    for (v6, at) in [(false, 40), (true, 60)] {
        let mut frame = rig.frame(v6, b"lies").bytes();
        frame[at..at + 2].copy_from_slice(&[1, 1]);
        let (seen, change) = rig.counted(&frame);
        assert_eq!((&seen[..], change.drops()), (&[b"lies".to_vec()][..], 0));
    }
    assert_eq!(rig.damaged, 2);
}

#[test]
fn attack_47_datagrams_without_payload_cost_budget_and_are_counted() {
    if !privileged("attack_47_datagrams_without_payload_cost_budget_and_are_counted") {
        return;
    }
    let mut rig = Rig::new(Mode::NativeCopy);
    let empty = rig.frame(false, b"").bytes();
    for _ in 0..100 {
        rig.raw.send(&empty);
    }
    rig.raw.send(&rig.frame(false, b"something").bytes());
    // A call with a budget of ten takes ten frames, though none is a datagram to hand out.
    let mut calls = 0;
    let mut handed = 0;
    while handed == 0 {
        let before = rig.datapath.stats().drop_empty;
        handed = rig.datapath.receive(10, &mut |_, _| {});
        assert!(rig.datapath.stats().drop_empty - before <= 10);
        calls += 1;
    }
    assert_eq!(rig.datapath.stats().drop_empty, 100);
    assert!(calls >= 10, "{calls}");
}

#[test]
fn attack_02_small_initials_die_in_the_program() {
    if !privileged("attack_02_small_initials_die_in_the_program") {
        return;
    }
    let mut rig = Rig::new(Mode::NativeCopy);
    let mut payload = vec![0; 1199];
    payload[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
    let (seen, change) = rig.counted(&rig.frame(false, &payload).bytes());
    assert_eq!((seen.len(), change.drops()), (0, 0));
    assert_eq!(rig.device.verdicts().get(Verdict::DropSmallInitial), 1);
    payload.push(0);
    let (seen, _) = rig.counted(&rig.frame(false, &payload).bytes());
    assert_eq!(seen, [payload]);
}

#[test]
fn attack_49_an_empty_fill_ring_is_counted_and_recovers_at_once() {
    if !privileged("attack_49_an_empty_fill_ring_is_counted_and_recovers_at_once") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 1 });
    lab.enter(Side::Server);
    let config = XdpConfig { rx_entries: 256, ..config(&lab, Mode::NativeCopy) };
    let device = XdpDevice::attach(&config).unwrap().0;
    device.listen(any(false)).unwrap();
    let mut datapath = device.open_queue(0, &[any(false)]).unwrap();
    let raw = Raw::open(&lab, Side::Client);
    let frame = Frame::to_server(&raw, false, PORT, b"flood").bytes();
    // The queue is not read: 256 frames are posted.
    for _ in 0..1_000 {
        raw.send(&frame);
    }
    while device.verdicts().get(Verdict::Redirect) < 1_000 {
        std::thread::yield_now();
    }
    let stats = datapath.stats();
    assert!(stats.xdp_rx_fill_ring_empty > 0, "{stats:?}");
    assert_eq!(datapath.receive(1_000, &mut |_, _| {}), 256);
    let dropped = datapath.stats().drops();
    // Every packet is accounted for.
    assert_eq!(256 + dropped, 1_000, "{:?}", datapath.stats());
    for _ in 0..256 {
        raw.send(&frame);
    }
    let mut received = 0;
    while received < 256 {
        received += datapath.receive(64, &mut |_, _| {});
    }
    assert_eq!(datapath.stats().drops(), dropped);
}

#[test]
fn a_storm_of_noise_is_accounted_for_to_the_last_frame() {
    if !privileged("a_storm_of_noise_is_accounted_for_to_the_last_frame") {
        return;
    }
    let lab = Lab::new(LabConfig { queues: 1 });
    let device = listening(&lab, Mode::NativeCopy);
    let echo = Echo::start(&lab, &device, &[0], &[any(false), any(true)]);
    let raw = Raw::open(&lab, Side::Client);
    let before = device.verdicts().total();
    let sent: u64 = 4_000;
    let mut noise = 0x9e37_79b9_u32;
    for number in 0..sent {
        let mut frame = Frame::to_server(&raw, number % 2 == 0, PORT, &[0; 64]).bytes();
        for _ in 0..4 {
            noise ^= noise << 13;
            noise ^= noise >> 17;
            noise ^= noise << 5;
            let at = 12 + noise as usize % (frame.len() - 12);
            frame[at] = (noise >> 24) as u8;
        }
        raw.send(&frame);
        if number % 64 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    // The transfer of an honest client continues.
    round_trip(&client(&lab, false), b"still here");
    while device.verdicts().total() < before + sent {
        std::thread::yield_now();
    }
    let verdicts = device.verdicts();
    let stats = echo.stop();
    let taken = stats[0].rx_packets - stats[0].rx_via_kernel + stats[0].drops();
    assert_eq!(taken, verdicts.get(Verdict::Redirect), "{stats:?}");
}
