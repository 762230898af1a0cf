//! What is known of a network device beyond the files that placement needs.

use super::rss::{FlowHash, NtupleRule, RssContext};
use crate::topology::{Nic, Reading, Source, list};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A device, beside its [`Nic`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// What the link layer says.
    pub link: Reading<Link>,
    /// Driver and firmware, as the driver describes itself.
    pub identity: Reading<Identity>,
    /// What the driver offers to XDP and AF_XDP.
    pub xdp_support: Reading<XdpSupport>,
    /// The XDP programs attached to it.
    pub attached: Reading<Vec<Attached>>,
    /// How many queues it has and may have.
    pub channels: Reading<Channels>,
    /// How long its rings are and may be.
    pub rings: Reading<Rings>,
    /// Interrupt moderation.
    pub coalesce: Reading<Coalesce>,
    /// Offloads by the kernel's name for them, such as `rx-gro-hw`.
    pub features: Reading<BTreeMap<String, Feature>>,
    /// Switches of the driver's own, by its name for them.
    pub private_flags: Reading<BTreeMap<String, bool>>,
    /// RSS contexts; the first is context 0.
    pub rss: Reading<Vec<RssContext>>,
    /// What is hashed, for each kind of traffic that the driver tells about.
    pub hash_fields: Reading<Vec<FlowHash>>,
    /// Classification rules, by location.
    pub rules: Reading<Vec<NtupleRule>>,
    /// Receive and transmit queues, as netdev netlink shows them.
    pub queue_links: Reading<Vec<QueueLink>>,
    /// NAPI instances, as netdev netlink shows them.
    pub napis: Reading<Vec<Napi>>,
    /// Packets and drops of each queue.
    pub queue_counters: Reading<Vec<QueueCounters>>,
    /// The driver's own counters (`ethtool -S`), in its order.
    pub statistics: Reading<Vec<(String, u64)>>,
    /// Receive packet steering (RPS) of each receive queue, by number.
    pub rps: Vec<Rps>,
    /// Transmit packet steering (XPS) of each transmit queue, by number.
    pub xps: Vec<Xps>,
    /// Hard interrupts that NAPI defers, for the device (`napi_defer_hard_irqs`).
    pub defer_hard_irqs: Reading<u32>,
    /// How long NAPI waits before it polls by itself, for the device, in nanoseconds.
    pub gro_flush_timeout_ns: Reading<u64>,
    /// NAPI runs in kernel threads of its own: 0 no, 1 yes.
    pub threaded: Reading<u32>,
    /// The kernel threads that run its NAPI instances, and where they may run.
    pub napi_threads: Vec<NapiThread>,
    /// RDMA devices of the same function, which have queues and interrupts of their own.
    pub rdma_devices: Vec<String>,
    /// Packets and bytes of the device as a whole.
    pub totals: Reading<Totals>,
}

/// What a device has received and sent (`/sys/class/net/DEV/statistics`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}

impl Device {
    /// True if it shows an indirection table, so that a hash decides between queues.
    #[must_use]
    pub fn has_table(&self) -> bool {
        self.rss.known().and_then(|rss| rss.first()).is_some_and(|rss| !rss.table.is_empty())
    }

    /// The driver as it calls itself (`ethtool -i`), or else as sysfs or the link layer names it: a
    /// virtual device has one too.
    #[must_use]
    pub fn driver(&self, nic: &Nic) -> Reading<String> {
        if let Some(identity) = self.identity.known() {
            return Reading::Known(identity.driver.clone());
        }
        let kind = self.link.known().and_then(|link| link.kind.clone());
        match (&nic.driver, kind) {
            (Reading::Unknown(_), Some(kind)) => Reading::Known(kind),
            (driver, _) => driver.clone(),
        }
    }
}

/// The link layer (`ip -d link`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// `veth`, `bond`, `vlan`...; `None` for a physical device.
    pub kind: Option<String>,
    /// The hardware address, as text.
    pub address: String,
    /// The permanent hardware address, if it has one.
    pub permanent_address: Option<String>,
    /// `up`, `down`, `lowerlayerdown`, `unknown`...
    pub state: String,
    /// Switched on by the administrator.
    pub is_up: bool,
    /// Carries a signal.
    pub has_carrier: bool,
    /// The index of the bond or bridge that it is part of.
    pub master: Option<u32>,
    /// The index of what it stands on (a VLAN's device, a veth's peer).
    pub lower: Option<u32>,
    /// Receive queues that it was made with.
    pub rx_queues: Option<u32>,
    /// Transmit queues that it was made with.
    pub tx_queues: Option<u32>,
    /// Mb/s; `None` if there is no link or no notion of speed.
    pub speed_mbps: Option<u32>,
    /// The largest MTU that the driver takes, in bytes.
    pub max_mtu_bytes: Option<u32>,
}

/// What a driver says of itself (`ethtool -i`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The driver.
    pub driver: String,
    /// Its version: the kernel's as a rule.
    pub version: String,
    /// The firmware's version.
    pub firmware: String,
    /// The bus address.
    pub bus: String,
}

/// What a driver offers to XDP (netdev netlink, `dev-get`), in the kernel's own words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpSupport {
    /// `basic`, `redirect`, `ndo-xmit`, `xsk-zerocopy`, `hw-offload`, `rx-sg`, `ndo-xmit-sg`.
    pub features: Vec<String>,
    /// What a program can read of a packet: `timestamp`, `hash`, `vlan-tag`.
    pub rx_metadata: Vec<String>,
    /// What an AF_XDP sender can ask for: `tx-timestamp`, `tx-checksum`, `tx-launch-time-fifo`.
    pub xsk_features: Vec<String>,
    /// The most fragments of a zero-copy packet; `None` if it has one.
    pub zerocopy_max_segments: Option<u32>,
}

impl XdpSupport {
    /// True if the driver offers `feature`.
    #[must_use]
    pub fn offers(&self, feature: &str) -> bool {
        self.features.iter().any(|other| other == feature)
    }
}

/// Where a program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// In the driver.
    Native,
    /// Behind it, on socket buffers.
    Generic,
    /// In the hardware.
    Offloaded,
}

/// A program on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Where it sits.
    pub mode: AttachMode,
    /// The program's id.
    pub program: u32,
}

/// How many queues there are (`ethtool -l`). A combined channel receives and sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channels {
    /// That only receive, now and at most.
    pub rx: (u32, u32),
    /// That only send, now and at most.
    pub tx: (u32, u32),
    /// For other purposes (link interrupts), now and at most.
    pub other: (u32, u32),
    /// That do both, now and at most.
    pub combined: (u32, u32),
}

/// How many packets fit into a ring (`ethtool -g`), now and at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rings {
    /// Receive.
    pub rx: (u32, u32),
    /// Transmit.
    pub tx: (u32, u32),
}

/// Interrupt moderation (`ethtool -c`). `None`: the driver has no such setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coalesce {
    /// Microseconds from a packet to its interrupt.
    pub rx_usecs: Option<u32>,
    /// Packets to an interrupt.
    pub rx_frames: Option<u32>,
    /// Microseconds, sending.
    pub tx_usecs: Option<u32>,
    /// Packets, sending.
    pub tx_frames: Option<u32>,
    /// The driver changes the receive values by itself.
    pub adaptive_rx: Option<bool>,
    /// The driver changes the transmit values by itself.
    pub adaptive_tx: Option<bool>,
}

/// An offload (`ethtool -k`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    /// At work.
    pub active: bool,
    /// Asked for.
    pub wanted: bool,
    /// Can be changed.
    pub changeable: bool,
}

/// Receives or sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Receives.
    Rx,
    /// Sends.
    Tx,
}

/// A queue and what it hangs on (netdev netlink, `queue-get`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueLink {
    /// Its number.
    pub index: u32,
    /// Which way.
    pub direction: Direction,
    /// Its NAPI instance; `None` if the driver does not report it.
    pub napi: Option<u32>,
    /// An AF_XDP socket has it; `None` if the kernel does not report it.
    pub has_xsk: Option<bool>,
}

/// A NAPI instance (netdev netlink, `napi-get`). `None`: not told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Napi {
    /// Its id.
    pub id: u32,
    /// Its interrupt.
    pub irq: Option<u32>,
    /// The kernel thread that runs it, if it has one.
    pub thread: Option<u32>,
    /// Hard interrupts that it defers.
    pub defer_hard_irqs: Option<u32>,
    /// How long it waits before it polls by itself, in nanoseconds.
    pub gro_flush_timeout_ns: Option<u64>,
    /// How long the application's polling keeps its interrupt off, in nanoseconds.
    pub irq_suspend_timeout_ns: Option<u64>,
    /// It runs in a kernel thread.
    pub threaded: Option<bool>,
    /// That thread polls all the time, and interrupts stay off (Linux 6.19).
    #[serde(default)]
    pub busy_polls: Option<bool>,
}

/// A kernel thread that runs a NAPI instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NapiThread {
    /// Its process id.
    pub pid: u32,
    /// The instance.
    pub napi: u32,
    /// The CPUs that it may run on.
    pub cpus: Reading<Vec<u32>>,
}

/// Counters of one queue (netdev netlink, `qstats-get`). `None`: the driver does not count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueCounters {
    /// Its number.
    pub index: u32,
    /// Which way.
    pub direction: Direction,
    /// Packets.
    pub packets: Option<u64>,
    /// Bytes.
    pub bytes: Option<u64>,
    /// Packets thrown away by the hardware.
    pub hw_drops: Option<u64>,
    /// Packets lost because there was no memory for them.
    pub alloc_fail: Option<u64>,
}

/// Receive packet steering of a queue: work that the kernel moves to other CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rps {
    /// The receive queue.
    pub queue: u32,
    /// The CPUs that its packets are moved to; empty as a rule.
    pub cpus: Reading<Vec<u32>>,
    /// Entries of its flow table (RFS); 0 is off.
    pub flow_entries: Reading<u32>,
}

/// Transmit packet steering of a queue: the CPUs or flows that send through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xps {
    /// The transmit queue.
    pub queue: u32,
    /// The CPUs whose packets go through it; empty: any.
    pub cpus: Reading<Vec<u32>>,
    /// The receive queues whose flows go through it; empty: not by queue.
    pub rx_queues: Reading<Vec<u32>>,
}

/// A BPF program that is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its kind: `xdp`, `sched_cls`...
    pub kind: String,
    /// The hash over its instructions, as hex.
    pub tag: String,
    /// When it was loaded, in nanoseconds after boot.
    pub loaded_ns: u64,
    /// The user that loaded it.
    pub uid: u32,
    /// The maps that it uses.
    pub maps: Vec<ProgramMap>,
    /// The links that hold it attached: (id, index of the device, in whatever network namespace
    /// that is).
    pub links: Vec<(u32, Option<u32>)>,
    /// Processes that have it or its link open.
    pub processes: Vec<Process>,
    /// Where it, its link or its maps are pinned.
    pub pins: Vec<String>,
}

/// A map of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramMap {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its kind: `xskmap`, `percpu_array`...
    pub kind: String,
    /// How many entries fit.
    pub max_entries: u32,
    /// An XSKMAP's queues that have a socket; `None` if they could not be read.
    pub queues: Option<Vec<u32>>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

/// An AF_XDP socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XskSocket {
    /// The socket's inode.
    pub inode: u64,
    /// The process that has it; `None` if that could not be read.
    pub process: Option<Process>,
    /// The threads of the process that are named after a queue or pinned to one CPU.
    pub workers: Vec<WorkerThread>,
    /// The index of its device; `None` if the kernel does not report it (XDP_SOCKETS_DIAG).
    pub device: Option<u32>,
    /// Its queue; `None` if the kernel does not report it.
    pub queue: Option<u32>,
    /// Zero-copy; `None` if the kernel does not report it.
    pub zerocopy: Option<bool>,
    /// Entries of its receive ring; `None` if the kernel does not report it.
    pub rx_ring: Option<u32>,
    /// Entries of its transmit ring; `None` if the kernel does not report it.
    pub tx_ring: Option<u32>,
    /// Counters; `None` if the kernel does not report it.
    pub counters: Option<XskCounters>,
}

/// A thread that may serve a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerThread {
    /// Its id.
    pub tid: u32,
    /// Its name.
    pub name: String,
    /// The CPUs that it may run on.
    pub cpus: Vec<u32>,
    /// The queue that its name speaks of, if it is one of ours.
    pub queue: Option<u32>,
}

/// XDP_STATISTICS of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XskCounters {
    /// Dropped for reasons not below.
    pub rx_dropped: u64,
    /// Descriptors that the kernel did not accept, receiving.
    pub rx_invalid: u64,
    /// The receive ring was full.
    pub rx_ring_full: u64,
    /// The fill ring was empty.
    pub fill_ring_empty: u64,
    /// Descriptors that the kernel did not accept, sending.
    pub tx_invalid: u64,
    /// The transmit ring was empty.
    pub tx_ring_empty: u64,
}

impl XskCounters {
    /// What was dropped for another reason than an empty fill ring: in copy mode the kernel counts
    /// such a packet as dropped as well.
    #[must_use]
    pub const fn rx_refused(&self) -> u64 {
        self.rx_dropped.saturating_sub(self.fill_ring_empty)
    }
}

/// Reads what belongs to `nic`.
pub(super) fn read(source: &Source, nic: &Nic) -> Device {
    let name = nic.name.as_str();
    let base = format!("/sys/class/net/{name}");
    let number = |file: &str| source.parsed(format!("{base}/{file}"), |text| text.parse().ok());
    let napis = source.napis(name);
    Device {
        link: source.link(name),
        identity: source.identity(name),
        xdp_support: source.xdp_support(name),
        attached: source.attached(name),
        channels: source.channels(name),
        rings: source.rings(name),
        coalesce: source.coalesce(name),
        features: source.features(name),
        private_flags: source.private_flags(name),
        rss: source.rss(name),
        hash_fields: source.hash_fields(name),
        rules: source.rules(name),
        queue_links: source.queue_links(name),
        napi_threads: napi_threads(source, &napis),
        napis,
        queue_counters: source.queue_counters(name),
        statistics: source.statistics(name),
        rps: nic.queues.iter().map(|queue| rps(source, &base, queue.index)).collect(),
        xps: (0..nic.tx_queues as u32).map(|queue| xps(source, &base, queue)).collect(),
        defer_hard_irqs: source.number(format!("{base}/napi_defer_hard_irqs")),
        gro_flush_timeout_ns: number("gro_flush_timeout"),
        threaded: source.number(format!("{base}/threaded")),
        rdma_devices: source.names(format!("{base}/device/infiniband")),
        totals: totals(source, &base),
        name: name.to_owned(),
    }
}

fn totals(source: &Source, base: &str) -> Reading<Totals> {
    let number = |name: &str| {
        source.parsed(format!("{base}/statistics/{name}"), |text| text.trim().parse::<u64>().ok())
    };
    let all = ["rx_packets", "rx_bytes", "tx_packets", "tx_bytes"].map(number);
    if let Some(reason) = all.iter().find_map(Reading::reason) {
        return Reading::unknown(reason);
    }
    let [rx_packets, rx_bytes, tx_packets, tx_bytes] =
        all.map(|number| number.known().copied().unwrap_or_default());
    Reading::Known(Totals { rx_packets, rx_bytes, tx_packets, tx_bytes })
}

fn napi_threads(source: &Source, napis: &Reading<Vec<Napi>>) -> Vec<NapiThread> {
    let thread = |napi: &Napi| {
        let pid = napi.thread?;
        let cpus = source.parsed(format!("/proc/{pid}/status"), |status| {
            let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
            list::parse(list.trim())
        });
        Some(NapiThread { pid, napi: napi.id, cpus })
    };
    napis.known().into_iter().flatten().filter_map(thread).collect()
}

fn rps(source: &Source, base: &str, queue: u32) -> Rps {
    let at = format!("{base}/queues/rx-{queue}");
    Rps {
        queue,
        cpus: source.parsed(format!("{at}/rps_cpus"), parse_mask),
        flow_entries: source.number(format!("{at}/rps_flow_cnt")),
    }
}

fn xps(source: &Source, base: &str, queue: u32) -> Xps {
    let at = format!("{base}/queues/tx-{queue}");
    Xps {
        queue,
        cpus: source.parsed(format!("{at}/xps_cpus"), parse_mask),
        rx_queues: source.parsed(format!("{at}/xps_rxqs"), parse_mask),
    }
}

/// The kernel's masks: hex words of 32 bits, the highest first, with commas: `1,00000003`.
fn parse_mask(text: &str) -> Option<Vec<u32>> {
    /// More words than any machine has: a captured file cannot make us allocate without end.
    const MAX_WORDS: usize = 2_048;
    let words: Vec<&str> = text.split(',').collect();
    if words.len() > MAX_WORDS {
        return None;
    }
    let mut bits = Vec::new();
    for (at, word) in words.iter().rev().enumerate() {
        let word = u32::from_str_radix(word.trim(), 16).ok()?;
        bits.extend((0..32).filter(|bit| word & (1 << bit) != 0).map(|bit| at as u32 * 32 + bit));
    }
    Some(bits)
}
