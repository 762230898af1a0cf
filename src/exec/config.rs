//! Settings of a registration, a server and a client: given once, at the start.

use super::overrun::CALLBACK_BUDGET_NS;
use crate::datapath::udp::UdpConfig;
use crate::datapath::xdp::XdpConfig;
use crate::lb;
use crate::proto::connection::TransportConfig;
use crate::proto::crypto::{ClientTls, ServerTls};
use crate::proto::endpoint::{AnswerLimits, RetryPolicy};
use crate::proto::health::HealthCheck;
use crate::proto::source::SUBSCRIBER_PREFIX_BITS;
use crate::topology::{Near, Sharing};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Commands that may wait in one worker's inbox, unless the configuration says otherwise.
pub(super) const INBOX_COMMANDS: usize = 4096;

/// Threads that run QUIC for each queue, with the profile for it. A thread that only moves datagrams keeps
/// up with two that work on them.
const QUIC_THREADS: usize = 2;

/// A thousandth of the machine's memory, as in MsQuic.
const HANDSHAKE_MEMORY_PPM: u32 = 1_000;
const MILLION: u64 = 1_000_000;

/// Where datagrams come from and go to.
#[derive(Clone, Debug)]
pub enum Io {
    /// AF_XDP on a device, a worker for each queue. If no rung of the ladder that the
    /// configuration allows can be had, the registration does not start.
    Xdp(XdpConfig),
    /// Kernel UDP sockets, one for each worker and address.
    Udp(UdpTuning),
    /// AF_XDP if it can be had, kernel UDP otherwise; the reason is logged and in the status.
    Auto(XdpConfig),
}

/// How kernel sockets are opened.
#[derive(Clone, Debug)]
pub struct UdpTuning {
    /// Send many datagrams as one message, where the kernel can.
    pub gso: bool,
    /// Receive many datagrams as one message, where the kernel can.
    pub gro: bool,
    /// The kernel's receive buffer, in bytes.
    pub rcvbuf_bytes: usize,
    /// The kernel's send buffer, in bytes.
    pub sndbuf_bytes: usize,
    /// The largest payload of a datagram, in bytes.
    pub max_datagram_bytes: usize,
    /// How long a receive call may poll the NIC for, in microseconds.
    pub busy_poll_us: Option<u32>,
    /// Send and receive through this device only.
    pub device: Option<String>,
}

impl Default for UdpTuning {
    fn default() -> Self {
        let udp = UdpConfig::new(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        Self {
            gso: udp.gso,
            gro: udp.gro,
            rcvbuf_bytes: udp.rcvbuf_bytes,
            sndbuf_bytes: udp.sndbuf_bytes,
            max_datagram_bytes: udp.max_datagram_bytes,
            busy_poll_us: udp.busy_poll_us,
            device: udp.device,
        }
    }
}

impl UdpTuning {
    /// The socket of a worker: with `reuse_port` one of several, for what arrives on `cpu`.
    pub(super) fn config(
        &self,
        local: SocketAddr,
        reuse_port: bool,
        cpu: Option<u32>,
    ) -> UdpConfig {
        UdpConfig {
            local,
            reuse_port,
            max_datagram_bytes: self.max_datagram_bytes,
            gso: self.gso,
            gro: self.gro,
            rcvbuf_bytes: self.rcvbuf_bytes,
            sndbuf_bytes: self.sndbuf_bytes,
            busy_poll_us: self.busy_poll_us,
            incoming_cpu: cpu.filter(|_| reuse_port),
            device: self.device.clone(),
        }
    }
}

/// How the workers' threads are laid out, and how the kernel treats them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Profile {
    /// Datapath and QUIC on one thread: no packet waits for another thread, unless it arrives on
    /// another worker's queue.
    #[default]
    LowLatency,
    /// As `LowLatency`, and before every ordinary thread of its CPU (`SCHED_FIFO`). Needs
    /// CAP_SYS_NICE. With [`Polling::Spin`] nothing else runs on that CPU.
    RealTime,
    /// Only when nothing else wants the CPU (`SCHED_IDLE`), and asleep whenever there is
    /// nothing to do.
    Scavenger,
    /// Datapath and QUIC on threads of their own: for each queue one that receives, steers by connection
    /// id and sends, and beside it [`RegistrationConfig::quic_threads`] that run QUIC and are the workers.
    /// One queue then feeds several CPUs, which is more than one CPU's worth of QUIC where the NIC has fewer
    /// queues than the machine has CPUs, or one queue gets most of the load.
    ///
    /// It costs what `LowLatency` spares: each datagram is copied once more on its way in and on its way
    /// out, and passes two rings (2,048 buffers of the largest datagram for each worker, 3 MiB at an MTU of
    /// 1500); where threads sleep it costs a wake-up of another thread, so that a round trip takes longer;
    /// and a CPU for each queue that does no QUIC. Where there is one queue for each CPU, `LowLatency` does
    /// more with the same CPUs.
    ///
    /// Workers share their queue's kernel socket, or its AF_XDP socket; a connection stays on its worker, and
    /// if its datagrams begin to arrive on another queue it moves to the worker of the same place there. A
    /// process with this profile takes over from no other one, and none takes over from it.
    MaxThroughput,
}

/// When a worker that has nothing to do sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polling {
    /// Never: the lowest latency, and a CPU of its own for each worker.
    Spin,
    /// After it has found nothing to do for this long; at once while others want its CPU.
    Adaptive {
        /// How long it looks again before it sleeps.
        spin: Duration,
    },
    /// At once.
    Sleep,
}

impl Default for Polling {
    /// Sleeping costs about 80 us of wake-up on small machines: a worker that has just been
    /// busy pays a little CPU to not pay that, and an idle one costs nothing.
    fn default() -> Self {
        Self::Adaptive { spin: Duration::from_micros(50) }
    }
}

/// Limits of a lane: what its peers may hold of it. What is refused for one of them is counted in
/// [`LaneCounters`](super::LaneCounters).
///
/// At a limit, a client whose address may be forged is asked for proof (Retry). A client with that
/// proof gets CONNECTION_REFUSED if there is no place for it either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneLimits {
    /// Connections at one time, 1 to 1,048,575.
    pub connections: usize,
    /// Handshakes under way at one time, 1 and more. Beyond it the oldest is ended for a client
    /// whose address is proven.
    pub handshakes: usize,
    /// Connections of one source at one time: of an IPv4 address, or of a prefix of IPv6.
    pub source_connections: usize,
    /// Handshakes of one source under way at one time, those with a proven address and those without
    /// each. Beyond it a client with a proven address is not answered: it tries again.
    pub source_handshakes: usize,
    /// How many bits of an IPv6 address make a source: 0 to 64.
    pub source_prefix_bits: u8,
    /// Bytes that the connections may hold together before no more are accepted. What applications
    /// hold is not in it.
    pub memory_bytes: u64,
    /// A connection moves to another worker after so many of its datagrams in a row arrived there, and
    /// none here. 1 and more; 0: it never moves.
    pub move_after: u16,
    /// How late a worker may be with what arrives before it takes fewer new connections: at this queue
    /// delay it asks every client for proof of its address, at twice of it (or after a second at it) it
    /// refuses, at four times of it it does not answer. Zero: never. See
    /// [`Pressure`](super::Pressure).
    pub queue_delay_max: Duration,
    /// How long a callback, or all those of a turn, may take. What takes longer is counted, by name, and
    /// holds up every other connection of the worker.
    pub callback_budget: Duration,
    /// Bytes that unfinished handshakes may hold before every client is asked for proof of its
    /// address, until they hold three quarters of it. A registration lowers it to the worker's part of
    /// [`RegistrationConfig::handshake_memory_ppm`].
    pub handshake_memory_bytes: u64,
    /// Handshakes begun in a turn in which established connections had nothing to do, 1 and more. Each
    /// holds up by about 250 us what arrives meanwhile.
    pub handshakes_per_turn: usize,
    /// How much handshakes may take of the time of established connections that have something to do in
    /// every turn, in hundredths of what these take: 0 to 100. With 0, such connections keep all
    /// clients out.
    pub handshake_share_percent: u8,
    /// Client Initials that wait at one time until established connections are served: of clients with a
    /// proven address, and of others, each. What finds no place is dropped: the client tries again. Once
    /// half of the places are taken, a source that has a quarter of them gets no more. They hold 1,200
    /// bytes and more.
    pub initials_waiting: usize,
    /// New connections in a second. Beyond it a client is asked for proof of its address, and one that
    /// has proved it is not answered: it tries again. 0: no limit.
    pub new_per_second: u32,
    /// The same of one network, counted for proven addresses and others each. 0: no limit.
    pub network_new_per_second: u32,
    /// How many bits of an IPv4 address make a network: 0 to 32.
    pub network_v4_bits: u8,
    /// How many bits of an IPv6 address make a network: 0 to 64.
    pub network_v6_bits: u8,
}

impl Default for LaneLimits {
    /// A source may have an eighth of the connections. Four datagrams in a row are no accident of the
    /// network, and come within a round trip where there is any load. An idle connection holds 3.5 KB (`tools/bench`),
    /// so 2 GiB hold 600,000 of them. A CPU finishes two to four thousand handshakes in a second: a
    /// load test from one network meets no limit, and a faster worker is not one network's alone. What
    /// waits with 1,024 before it is begun within a third of a second, before a client asks again.
    fn default() -> Self {
        Self {
            connections: 1 << 20,
            handshakes: 1 << 14,
            source_connections: 1 << 17,
            source_handshakes: 1 << 11,
            source_prefix_bits: SUBSCRIBER_PREFIX_BITS,
            memory_bytes: 2 << 30,
            move_after: 4,
            queue_delay_max: Duration::from_millis(250),
            callback_budget: Duration::from_nanos(CALLBACK_BUDGET_NS),
            handshake_memory_bytes: u64::MAX,
            handshakes_per_turn: 1,
            handshake_share_percent: 10,
            initials_waiting: 1 << 10,
            new_per_second: 0,
            network_new_per_second: 5_000,
            network_v4_bits: 24,
            network_v6_bits: 56,
        }
    }
}

/// Which workers are pinned to CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// All.
    All,
    /// Those of AF_XDP. Nothing ties a kernel socket to a CPU: the scheduler places its worker.
    Xdp,
    /// None.
    Off,
}

/// How firmly a pinned worker stays on its CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Affinity {
    /// It runs there and nowhere else.
    #[default]
    Hard,
    /// It starts there, and may run on every CPU of the same memory node that the process may use (of
    /// all nodes, if that CPU's is not known), as MsQuic's workers with an ideal processor. Linux has no
    /// such call: the thread is bound to the CPU, makes its sockets and memory there, and then its mask
    /// is widened. From then on the scheduler chooses among these CPUs. If the kernel refuses the mask,
    /// the worker stays as with `Hard`, and the log says so.
    Soft,
}

/// What a [`Registration`](super::Registration) is opened with.
#[derive(Clone, Debug)]
pub struct RegistrationConfig {
    /// Where datagrams come from and go to.
    pub io: Io,
    /// How many workers kernel sockets get; `None`: one for each CPU of this process. AF_XDP
    /// has one for each queue. With [`Profile::MaxThroughput`] each stands for a thread with sockets and its
    /// `quic_threads`, and `None` is as many as fill the CPUs.
    pub workers: Option<usize>,
    /// The queues to serve; empty: all of the device.
    pub queues: Vec<u32>,
    /// The CPUs that serve the queues, in that order; empty: chosen near the device.
    pub cpus: Vec<u32>,
    /// Which workers are pinned, each to its CPU and its memory to that CPU's node.
    pub pin: Pin,
    /// Where the worker of a queue is placed, if `cpus` is empty: by default on the CPU that serves
    /// the queue's interrupt. What could not be had is in
    /// [`Registration::notes`](super::Registration::notes) and [`WorkerStatus::unmet`](super::WorkerStatus).
    pub near: Near,
    /// How firmly a pinned worker stays on its CPU.
    pub affinity: Affinity,
    /// Whether one CPU may serve several queues.
    pub sharing: Sharing,
    /// When a worker sleeps.
    pub polling: Polling,
    /// How the workers' threads are laid out, and how the kernel treats them.
    pub profile: Profile,
    /// With [`Profile::MaxThroughput`]: how many threads run QUIC for each queue, or, with kernel UDP, for
    /// each of [`workers`](Self::workers), which then counts threads with sockets. 1 and more. They are
    /// placed on CPUs of the queue's memory node that serve no queue, as far as there are any; the kernel's
    /// scheduler places the others on that node. No other profile looks at it.
    pub quic_threads: usize,
    /// Whether a connection of this side (a client) whose own address goes away moves by itself, to the
    /// address that a new connection to its server would come from, if there is one and the server allows
    /// it. [`Handler::local_address_changed`](super::Handler::local_address_changed) and
    /// [`migration_failed`](super::Handler::migration_failed) tell of it, as of a move by
    /// [`ConnectionRef::migrate`](super::ConnectionRef::migrate). Without it, or where it cannot move, the
    /// connection is lost unless the address comes back in time. An address goes away when it is removed,
    /// or its device is, or is taken down. So does one whose device has been without its carrier for 200 ms,
    /// if packets to the server leave from an address of another device by then: the kernel takes another
    /// route if one is there and `net.ipv4.conf.*.ignore_routes_with_linkdown` (and that of `net.ipv6`) is 1,
    /// or if what manages the network has removed the first. What comes back moves nothing.
    pub leave_lost_addresses: bool,
    /// Limits of each worker.
    pub limits: LaneLimits,
    /// The share of the machine's memory that unfinished handshakes of all workers may hold before
    /// clients are asked for proof of their address, in millionths; each worker has an equal part of
    /// it. 1,000,000 and more: no such limit. [`LaneLimits::handshake_memory_bytes`] may be less.
    pub handshake_memory_ppm: u32,
    /// Calls that may wait in each worker's inbox.
    pub inbox_commands: usize,
    /// The id of this host in connection ids, 0 without a balancer.
    pub server_id: u32,
    /// The configuration id that the balancers have for this host, 0 to 6.
    pub cid_config_id: u8,
    /// The key that balancers share with this host; `None`: random.
    pub cid_key: Option<[u8; 16]>,
    /// What tokens, stateless resets and (without `cid_key`) connection ids are made from. One
    /// that outlives the process lets clients return, and lets a host that restarted end the
    /// connections that it has forgotten. `None`: random.
    pub secret: Option<[u8; 32]>,
    /// A socket in the file system at which a running process offers itself
    /// ([`Registration::offer_takeover`](super::Registration::offer_takeover)): this one takes over from it,
    /// with its `secret`. `None`, or no process there: it begins by itself.
    pub takeover: Option<PathBuf>,
    /// The names of the threads begin with this; `-qN` with the queue, or `-N` with the number of
    /// the worker, follows. Linux cuts names to 15 bytes.
    pub name: String,
}

impl Default for RegistrationConfig {
    fn default() -> Self {
        Self {
            io: Io::Udp(UdpTuning::default()),
            workers: None,
            queues: Vec::new(),
            cpus: Vec::new(),
            pin: Pin::All,
            near: Near::default(),
            affinity: Affinity::default(),
            sharing: Sharing::Forbid,
            polling: Polling::default(),
            profile: Profile::default(),
            quic_threads: QUIC_THREADS,
            leave_lost_addresses: true,
            limits: LaneLimits::default(),
            handshake_memory_ppm: HANDSHAKE_MEMORY_PPM,
            inbox_commands: INBOX_COMMANDS,
            server_id: 0,
            cid_config_id: 0,
            cid_key: None,
            secret: None,
            takeover: None,
            name: "quiclane".to_owned(),
        }
    }
}

impl RegistrationConfig {
    /// Kernel UDP sockets and `workers` workers.
    #[must_use]
    pub fn udp(workers: usize) -> Self {
        Self { workers: Some(workers), ..Self::default() }
    }

    /// AF_XDP on a device, a worker for each of its queues.
    pub fn xdp(device: impl Into<String>) -> Self {
        Self { io: Io::Xdp(XdpConfig::new(device)), ..Self::default() }
    }

    /// The limits of each of `workers` workers, on a machine with this much memory.
    pub(super) fn limits_of_one(&self, workers: usize, memory_bytes: Option<u64>) -> LaneLimits {
        let ppm = u64::from(self.handshake_memory_ppm);
        let share = memory_bytes.filter(|_| ppm < MILLION).map(|bytes| bytes / MILLION * ppm);
        let part = share.map_or(u64::MAX, |share| share / workers.max(1) as u64);
        let handshake_memory_bytes = self.limits.handshake_memory_bytes.min(part);
        LaneLimits { handshake_memory_bytes, ..self.limits }
    }

    /// How many workers each queue has.
    pub(super) fn workers_of_a_queue(&self) -> usize {
        if self.profile == Profile::MaxThroughput { self.quic_threads } else { 1 }
    }

    /// How many threads each queue has.
    pub(super) fn threads_of_a_queue(&self) -> usize {
        if self.profile == Profile::MaxThroughput { self.quic_threads.saturating_add(1) } else { 1 }
    }

    /// What the connection ids of this host are made with.
    pub(super) fn cid_config(&self, secret: [u8; 16], random_key: [u8; 16]) -> lb::Config {
        lb::Config {
            config_id: self.cid_config_id,
            server_id: self.server_id,
            key: Some(self.cid_key.unwrap_or(random_key)),
            secret,
        }
    }
}

/// What a listener needs for each connection.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Certificates and protocols.
    pub tls: Arc<ServerTls>,
    /// Settings of the connections.
    pub transport: Arc<TransportConfig>,
    /// When clients have to prove their address first.
    pub retry: RetryPolicy,
    /// How many datagrams each worker answers in a second without a connection, for this listener.
    pub answers: AnswerLimits,
    /// What a balancer asks with whether the server lives, and its answer. It is also answered while
    /// new connections are refused.
    pub health: Option<HealthCheck>,
}

impl ServerConfig {
    /// Default settings, and proof of address once a worker has a thousand handshakes under
    /// way.
    #[must_use]
    pub fn new(tls: ServerTls) -> Self {
        Self {
            tls: Arc::new(tls),
            transport: Arc::default(),
            retry: RetryPolicy::Above(1000),
            answers: AnswerLimits::default(),
            health: None,
        }
    }
}

/// What a client needs for a connection.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The certificates to trust, and the application protocols.
    pub tls: Arc<ClientTls>,
    /// Settings of the connection.
    pub transport: Arc<TransportConfig>,
    /// A token of an earlier connection's
    /// [`Handler::new_token`](super::Handler::new_token).
    pub token: Vec<u8>,
}

impl ClientConfig {
    /// Default settings.
    #[must_use]
    pub fn new(tls: ClientTls) -> Self {
        Self { tls: Arc::new(tls), transport: Arc::default(), token: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_the_memory_of_handshakes_equally() {
        let of = |ppm, own, memory| {
            let mut config =
                RegistrationConfig { handshake_memory_ppm: ppm, ..RegistrationConfig::default() };
            config.limits.handshake_memory_bytes = own;
            config.limits_of_one(4, memory).handshake_memory_bytes
        };
        let all = u64::MAX;
        assert_eq!(of(HANDSHAKE_MEMORY_PPM, all, Some(16_000 * MILLION)), 4 * MILLION);
        assert_eq!(of(HANDSHAKE_MEMORY_PPM, MILLION, Some(16_000 * MILLION)), MILLION);
        assert_eq!(of(1_000_000, all, Some(16_000 * MILLION)), all);
        assert_eq!(of(HANDSHAKE_MEMORY_PPM, all, None), all, "unknown");
    }
}
