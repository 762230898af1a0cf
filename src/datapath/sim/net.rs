//! The network itself: hosts, paths between them, and what is on its way.

use super::fault::{Fault, Node, Passing, Verdict};
use super::nat::Nat;
use super::rng::{Rng, splitmix64};
use super::trace::{DropReason, TapEvent, TapKind, Watchers};
use super::{AttachError, HostId, MAX_IN_FLIGHT, QUEUE_TABLE_LEN, SimConfig};
use crate::datapath::{Checksum, Link, Path, QueueStats, RxMeta};
use crate::ecn::Ecn;
use crate::time::Instant;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};

/// The payload of one datagram, in a buffer that returns to the pool.
pub(super) struct Frame {
    bytes: Box<[u8]>,
    len: usize,
}

impl Frame {
    pub(super) fn payload(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A datagram on its way.
struct Packet {
    id: u64,
    frame: Frame,
    source: SocketAddr,
    destination: SocketAddr,
    ecn: Ecn,
    to: HostId,
    route: usize,
    /// The next node of the route.
    node: usize,
}

impl Packet {
    fn event(&self, at: Instant, kind: TapKind) -> TapEvent<'_> {
        TapEvent {
            at,
            kind,
            id: self.id,
            source: self.source,
            destination: self.destination,
            ecn: self.ecn,
            payload: self.frame.payload(),
        }
    }
}

enum Work {
    Packet(Packet),
    Rebind(HostId),
}

/// Ordered by time, then by the order in which it was scheduled.
struct Scheduled {
    at: Instant,
    sequence: u64,
    work: Work,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

struct Queue {
    arrived: VecDeque<(RxMeta, Frame)>,
    dropped_full: u64,
    dropped_long: u64,
    open: bool,
}

struct Host {
    addresses: Vec<IpAddr>,
    queues: Vec<Queue>,
    /// Which queue gets the flows of a hash value, as the indirection table of a NIC.
    table: Vec<usize>,
    /// Flows that have a queue of their own, by local and remote address.
    flows: BTreeMap<(SocketAddr, SocketAddr), usize>,
    nat: Option<Nat>,
}

impl Host {
    fn queue_of(&self, local: &SocketAddr, remote: &SocketAddr) -> usize {
        if let Some(queue) = self.flows.get(&(*local, *remote)) {
            return *queue;
        }
        let hash = flow_hash(local, remote) as usize;
        self.table[hash % self.table.len()]
    }
}

/// The same for a flow in every run and every network.
fn flow_hash(local: &SocketAddr, remote: &SocketAddr) -> u64 {
    let mut state = 0;
    for address in [local, remote] {
        let (high, low) = match address.ip() {
            IpAddr::V4(ip) => (0, u64::from(ip.to_bits())),
            IpAddr::V6(ip) => ((ip.to_bits() >> 64) as u64, ip.to_bits() as u64),
        };
        for word in [high, low, u64::from(address.port())] {
            state ^= word;
            state = splitmix64(&mut state);
        }
    }
    state
}

/// The path between two hosts.
#[derive(Clone, Copy)]
struct Route {
    index: usize,
    /// How many times it has been set.
    set: u64,
}

pub(super) struct Core {
    pub(super) config: SimConfig,
    pub(super) now: Instant,
    pub(super) watchers: Watchers,
    rng: Rng,
    scheduled: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
    next_id: u64,
    in_flight: usize,
    hosts: Vec<Host>,
    by_address: BTreeMap<IpAddr, HostId>,
    routes: Vec<Vec<Node>>,
    route_by_ends: BTreeMap<(HostId, HostId), Route>,
    /// Received datagrams in all queues.
    waiting: usize,
    pool: Vec<Box<[u8]>>,
    frames_out: usize,
}

impl Core {
    pub(super) fn new(seed: u64, config: SimConfig) -> Self {
        Self {
            config,
            now: Instant::EPOCH,
            watchers: Watchers::default(),
            rng: Rng::new(seed),
            scheduled: BinaryHeap::new(),
            sequence: 0,
            next_id: 0,
            in_flight: 0,
            hosts: Vec::new(),
            by_address: BTreeMap::new(),
            routes: Vec::new(),
            route_by_ends: BTreeMap::new(),
            waiting: 0,
            pool: Vec::new(),
            frames_out: 0,
        }
    }

    // Hosts.

    pub(super) fn attach(
        &mut self,
        addresses: &[IpAddr],
        queues: usize,
    ) -> Result<HostId, AttachError> {
        if queues == 0 || addresses.is_empty() {
            return Err(AttachError::Nothing);
        }
        let id = HostId(self.hosts.len());
        self.claim(addresses, id)?;
        let queue =
            || Queue { arrived: VecDeque::new(), dropped_full: 0, dropped_long: 0, open: true };
        self.hosts.push(Host {
            addresses: addresses.to_vec(),
            queues: (0..queues).map(|_| queue()).collect(),
            table: (0..QUEUE_TABLE_LEN).map(|i| i % queues).collect(),
            flows: BTreeMap::new(),
            nat: None,
        });
        Ok(id)
    }

    fn claim(&mut self, addresses: &[IpAddr], id: HostId) -> Result<(), AttachError> {
        if let Some(taken) = addresses.iter().find(|a| self.by_address.contains_key(a)) {
            return Err(AttachError::AddressTaken(*taken));
        }
        self.by_address.extend(addresses.iter().map(|address| (*address, id)));
        Ok(())
    }

    pub(super) fn put_behind_nat(
        &mut self,
        host: HostId,
        public: &[IpAddr],
        shift: Option<u16>,
    ) -> Result<(), AttachError> {
        if public.is_empty() {
            return Err(AttachError::Nothing);
        }
        self.claim(public, host)?;
        self.hosts[host.0].nat = Some(Nat::new(public.to_vec(), shift));
        Ok(())
    }

    pub(super) fn rebind(&mut self, host: HostId) {
        if let Some(nat) = &mut self.hosts[host.0].nat {
            nat.rebind();
        }
    }

    pub(super) fn rebind_at(&mut self, host: HostId, at: Instant) {
        self.schedule(at.max(self.now), Work::Rebind(host));
    }

    pub(super) fn set_queue_table(&mut self, host: HostId, table: &[usize]) -> bool {
        let host = &mut self.hosts[host.0];
        let valid = !table.is_empty() && table.iter().all(|queue| *queue < host.queues.len());
        if valid {
            host.table = table.to_vec();
        }
        valid
    }

    pub(super) fn steer_flow(
        &mut self,
        host: HostId,
        local: SocketAddr,
        remote: SocketAddr,
        queue: usize,
    ) -> bool {
        let host = &mut self.hosts[host.0];
        let valid = queue < host.queues.len();
        if valid {
            host.flows.insert((local, remote), queue);
        }
        valid
    }

    pub(super) fn queue_of(&self, host: HostId, local: &SocketAddr, remote: &SocketAddr) -> usize {
        self.hosts[host.0].queue_of(local, remote)
    }

    pub(super) fn set_path(&mut self, from: HostId, to: HostId, faults: Vec<Fault>) -> usize {
        // What is on its way keeps the nodes that it began with.
        let index = self.routes.len();
        let route = self.route_by_ends.entry((from, to)).or_insert(Route { index, set: 0 });
        *route = Route { index, set: route.set + 1 };
        // Random numbers of its own, whatever other paths there are.
        let ends = ((from.0 as u64) << 32) | to.0 as u64;
        let rng = self.rng.fork(ends).fork(route.set);
        let nodes = faults.into_iter().enumerate();
        let nodes = nodes.map(|(i, fault)| Node::new(fault, rng.fork(i as u64))).collect();
        self.routes.push(nodes);
        index
    }

    fn route(&mut self, from: HostId, to: HostId) -> usize {
        match self.route_by_ends.get(&(from, to)) {
            Some(route) => route.index,
            None => self.set_path(from, to, self.config.default_path.clone()),
        }
    }

    // Frames.

    /// A frame with as much of `payload` as a buffer holds.
    fn take_frame(&mut self, payload: &[u8]) -> Frame {
        self.frames_out += 1;
        let bytes = self.pool.pop();
        let mut bytes =
            bytes.unwrap_or_else(|| vec![0; self.config.max_datagram_bytes].into_boxed_slice());
        let len = payload.len().min(bytes.len());
        bytes[..len].copy_from_slice(&payload[..len]);
        Frame { bytes, len }
    }

    pub(super) fn return_frame(&mut self, frame: Frame) {
        self.frames_out -= 1;
        self.pool.push(frame.bytes);
    }

    pub(super) fn frames_out(&self) -> usize {
        self.frames_out
    }

    #[cfg(test)]
    pub(super) fn pooled(&self) -> usize {
        self.pool.len()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    // Datagrams.

    /// A host sends `payload`. False if it has no such local address.
    pub(super) fn send(&mut self, from: HostId, payload: &[u8], path: &Path, ecn: Ecn) -> bool {
        let Some(local) = self.source(from, path) else { return false };
        let nat = self.hosts[from.0].nat.as_mut();
        let source = nat.map_or(local, |nat| nat.outward(local));
        let to = self.by_address.get(&path.remote.ip()).copied();
        let route = to.map(|to| self.route(from, to));
        let packet = Packet {
            id: self.next_id(),
            frame: self.take_frame(payload),
            source,
            destination: path.remote,
            ecn,
            to: to.unwrap_or(from),
            route: route.unwrap_or(0),
            node: 0,
        };
        self.watchers.note(&packet.event(self.now, TapKind::Sent));
        if to.is_some() {
            self.travel(self.now, packet);
        } else {
            self.drop_packet(self.now, packet, DropReason::NoHost);
        }
        true
    }

    /// The local address of a path; the wildcard means the first of the right family.
    fn source(&self, from: HostId, path: &Path) -> Option<SocketAddr> {
        let addresses = &self.hosts[from.0].addresses;
        let local = path.local;
        let ip = if local.ip().is_unspecified() {
            *addresses.iter().find(|a| a.is_ipv4() == path.remote.is_ipv4())?
        } else {
            *addresses.iter().find(|a| **a == local.ip())?
        };
        Some(SocketAddr::new(ip, local.port()))
    }

    pub(super) fn inject(
        &mut self,
        source: SocketAddr,
        destination: SocketAddr,
        ecn: Ecn,
        payload: &[u8],
    ) {
        let frame = self.take_frame(payload);
        let long = payload.len() > frame.len;
        let to = self.by_address.get(&destination.ip()).copied();
        let packet = Packet {
            id: self.next_id(),
            frame,
            source,
            destination,
            ecn,
            to: to.unwrap_or(HostId(0)),
            route: 0,
            node: 0,
        };
        self.watchers.note(&packet.event(self.now, TapKind::Injected));
        match to {
            None => self.drop_packet(self.now, packet, DropReason::NoHost),
            Some(_) => self.deliver(self.now, packet, long),
        }
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    fn schedule(&mut self, at: Instant, work: Work) {
        let sequence = self.sequence;
        self.sequence += 1;
        self.scheduled.push(Reverse(Scheduled { at, sequence, work }));
    }

    /// A packet passes the nodes of its route, from where it is, until one makes it wait.
    fn travel(&mut self, at: Instant, mut packet: Packet) {
        loop {
            let Some(node) = self.routes[packet.route].get_mut(packet.node) else {
                return self.deliver(at, packet, false);
            };
            let verdict = node.pass(
                at,
                &mut Passing {
                    bytes: &mut packet.frame.bytes,
                    len: &mut packet.frame.len,
                    ecn: &mut packet.ecn,
                    ipv4: packet.destination.is_ipv4(),
                },
            );
            packet.node += 1;
            match verdict {
                Verdict::Pass { later_ns: 0 } => {}
                Verdict::Pass { later_ns } => return self.wait(at, later_ns, packet),
                Verdict::Copies { copies, spacing_ns } => {
                    for number in 1..=u64::from(copies) {
                        let copy = self.copy(&packet);
                        self.watchers.note(&copy.event(at, TapKind::Copied));
                        self.wait(at, number.saturating_mul(spacing_ns), copy);
                    }
                }
                Verdict::Drop(reason) => return self.drop_packet(at, packet, reason),
            }
        }
    }

    fn copy(&mut self, packet: &Packet) -> Packet {
        Packet { frame: self.take_frame(packet.frame.payload()), ..*packet }
    }

    fn wait(&mut self, at: Instant, later_ns: u64, packet: Packet) {
        if self.in_flight >= MAX_IN_FLIGHT {
            return self.drop_packet(at, packet, DropReason::TooManyInFlight);
        }
        self.in_flight += 1;
        self.schedule(at.plus_ns(later_ns), Work::Packet(packet));
    }

    /// The end of the path. `long`: it was larger than any buffer, and its end is lost.
    fn deliver(&mut self, at: Instant, mut packet: Packet, long: bool) {
        let host = &mut self.hosts[packet.to.0];
        if let Some(nat) = &host.nat {
            match nat.inward(&packet.destination) {
                Some(private) => packet.destination = private,
                None => return self.drop_packet(at, packet, DropReason::NoMapping),
            }
        }
        let queue = host.queue_of(&packet.destination, &packet.source);
        let receiver = &mut host.queues[queue];
        let refused = if !receiver.open {
            Some(DropReason::Closed)
        } else if long {
            receiver.dropped_long += 1;
            Some(DropReason::AboveBuffer)
        } else if receiver.arrived.len() >= self.config.rx_frames {
            receiver.dropped_full += 1;
            Some(DropReason::ReceiveQueueFull)
        } else {
            None
        };
        if let Some(reason) = refused {
            return self.drop_packet(at, packet, reason);
        }
        self.watchers.note(&packet.event(at, TapKind::Delivered { queue }));
        let path = Path { local: packet.destination, remote: packet.source, link: Link::UNKNOWN };
        let meta = RxMeta { path, ecn: packet.ecn, checksum: Checksum::Verified };
        self.waiting += 1;
        receiver.arrived.push_back((meta, packet.frame));
    }

    fn drop_packet(&mut self, at: Instant, packet: Packet, reason: DropReason) {
        self.watchers.note(&packet.event(at, TapKind::Dropped(reason)));
        self.return_frame(packet.frame);
    }

    // Time.

    pub(super) fn next_event(&self) -> Option<Instant> {
        if self.waiting > 0 {
            return Some(self.now);
        }
        self.scheduled.peek().map(|Reverse(next)| next.at)
    }

    pub(super) fn advance(&mut self, now: Instant) {
        while self.scheduled.peek().is_some_and(|Reverse(next)| next.at <= now) {
            let Some(Reverse(Scheduled { at, work, .. })) = self.scheduled.pop() else { break };
            self.now = self.now.max(at);
            match work {
                Work::Packet(packet) => {
                    self.in_flight -= 1;
                    self.travel(at, packet);
                }
                Work::Rebind(host) => self.rebind(host),
            }
        }
        self.now = self.now.max(now);
    }

    // Queues.

    pub(super) fn pop(&mut self, host: HostId, queue: usize) -> Option<(RxMeta, Frame)> {
        let arrived = self.hosts[host.0].queues[queue].arrived.pop_front();
        self.waiting -= usize::from(arrived.is_some());
        arrived
    }

    pub(super) fn has_arrived(&self, host: HostId, queue: usize) -> bool {
        !self.hosts[host.0].queues[queue].arrived.is_empty()
    }

    pub(super) fn close(&mut self, host: HostId, queue: usize) {
        let receiver = &mut self.hosts[host.0].queues[queue];
        receiver.open = false;
        for (_, frame) in std::mem::take(&mut receiver.arrived) {
            self.waiting -= 1;
            self.return_frame(frame);
        }
    }

    pub(super) fn add_drops(&self, host: HostId, queue: usize, stats: &mut QueueStats) {
        let receiver = &self.hosts[host.0].queues[queue];
        stats.drop_socket_full += receiver.dropped_full;
        stats.drop_truncated += receiver.dropped_long;
    }
}
