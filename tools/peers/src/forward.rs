//! A UDP forwarder that impairs the path, for interop tests: not every kernel or container has netem.
//!
//! ```text
//! client A --\                 /-- socket A --\
//! client B ---> listen socket <--- socket B ---> target      one thread for --> ,
//!                              \-- ...                       one per client for <--
//! ```
//!
//! Each client gets its own socket to the target, so the target sees one address per client, or one
//! after another. Standard output tells each of them.
//! With a delay, datagrams of both directions wait in one line: it is constant, so the line
//! stays in order. The kernel handles ECN codepoints and GSO: codepoints are lost here, and segments
//! arrive one by one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clap::Args;
use socket2::{Domain, Protocol, Socket, Type};

use crate::impair::{Counts, Impairer, MAX_HOLD};
use crate::{Failure, announce, clock, signalled};

/// Clients served at once; datagrams of one more are dropped and counted.
const MAX_FLOWS: usize = 1024;
/// Datagrams that are delayed at once; one more is dropped and counted.
const MAX_DELAYED: usize = 65_536;
/// The receive buffer of each socket: a burst of a sender with a large window.
const SOCKET_BUFFER_BYTES: usize = 8 * 1024 * 1024;
/// The largest UDP payload.
const MAX_DATAGRAM_BYTES: usize = 65_536;

/// Arguments of `forward`.
#[derive(Args)]
pub(crate) struct ForwardArgs {
    /// Listen on this address; port 0 picks one, and the ready line names it
    #[arg(long)]
    listen: SocketAddr,
    /// Forward datagrams to this address
    #[arg(long)]
    to: SocketAddr,
    /// Probability that a datagram is dropped, either way
    #[arg(long, default_value_t = 0.0, value_parser = probability)]
    loss: f64,
    /// Probability that a datagram is overtaken by later ones, either way
    #[arg(long, default_value_t = 0.0, value_parser = probability)]
    reorder: f64,
    /// Delay of every datagram, one way, in microseconds
    #[arg(long, default_value_t = 0)]
    delay_us: u64,
    /// Forget the address of each client after so many milliseconds, as a NAT does: its next datagram
    /// leaves from another port, and what comes for the old one is lost; 0 never forgets
    #[arg(long, default_value_t = 0)]
    rebind_ms: u64,
    /// Forget no more than so often in all
    #[arg(long, default_value_t = usize::MAX)]
    max_rebinds: usize,
    /// Leave from these addresses of this machine, from the first on: a client that was forgotten gets
    /// the next address with the port that it had, and the next time another port, in turns
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    from: Vec<IpAddr>,
    /// The seed that decides which datagrams are hit
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds until the forwarder stops by itself
    #[arg(long, alias = "timeout", default_value_t = 600)]
    max_seconds: u64,
}

fn probability(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text} is not a number"))?;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err(format!("{text} is not in 0..=1")) }
}

/// Forwards until the time is over or a signal arrives, then prints the counts.
pub(crate) fn run(args: &ForwardArgs) -> Result<(), Failure> {
    if let Some(other) = args.from.iter().find(|from| from.is_ipv4() != args.to.is_ipv4()) {
        let to = args.to;
        return Err(format!("--from {other} and --to {to} are of different families").into());
    }
    let listen = Arc::new(bind(args.listen)?);
    announce("forward", listen.local_addr()?)?;
    let shared = Arc::new(Shared::default());
    let (line, releaser) = delay_line(args, &shared);
    let mut front = Front::new(args, listen, line, shared.clone());
    let thread = thread::spawn(move || front.run());
    let limit = Duration::from_secs(args.max_seconds);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime
        .block_on(async { tokio::time::timeout(limit, signalled()).await.unwrap_or(Ok(())) });
    shared.stop.store(true, Relaxed);
    let totals = thread.join().map_err(|_| "the forwarding thread panicked")?;
    if let Some(releaser) = releaser {
        releaser.join().map_err(|_| "the delaying thread panicked")?;
    }
    print_totals(totals, &shared);
    ended
}

fn print_totals((to_target, to_client, flows): (Counts, Counts, usize), shared: &Shared) {
    let row = |name: &str, c: Counts| {
        println!(
            "forward: {name} forwarded={} lost={} reordered={}",
            c.forwarded, c.lost, c.reordered
        );
    };
    row("to-target", to_target);
    row("to-client", to_client);
    println!(
        "forward: sockets={flows} refused={} overflowed={} send_errors={}",
        shared.refused.load(Relaxed),
        shared.overflowed.load(Relaxed),
        shared.send_errors.load(Relaxed),
    );
}

/// Seen by all threads of the forwarder.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    refused: AtomicU64,
    overflowed: AtomicU64,
    send_errors: AtomicU64,
}

/// The settings that threads need, without the parser's types.
#[derive(Clone)]
struct Path {
    to: SocketAddr,
    from: Vec<IpAddr>,
    loss: f64,
    reorder: f64,
    rebind: Option<Duration>,
    max_rebinds: usize,
    seed: u64,
}

impl From<&ForwardArgs> for Path {
    fn from(args: &ForwardArgs) -> Self {
        let rebind = (args.rebind_ms > 0).then(|| Duration::from_millis(args.rebind_ms));
        Self {
            to: args.to,
            from: args.from.clone(),
            loss: args.loss,
            reorder: args.reorder,
            rebind,
            max_rebinds: args.max_rebinds,
            seed: args.seed,
        }
    }
}

impl Path {
    fn impairer(&self, flow: usize, back: bool) -> Impairer {
        let stream = flow as u64 * 2 + u64::from(back);
        Impairer::new(self.seed, stream, self.loss, self.reorder)
    }

    /// Where a client leaves from that was forgotten so often, and whose last port was `port`; port 0
    /// is any.
    fn exit(&self, rebinds: usize, port: u16) -> SocketAddr {
        let any: IpAddr = match self.to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let addresses = if self.from.is_empty() { &[any][..] } else { &self.from };
        let moves = addresses.len() > 1 && !rebinds.is_multiple_of(2);
        let address = addresses[rebinds.div_ceil(2) % addresses.len()];
        SocketAddr::new(address, if moves { port } else { 0 })
    }
}

/// The thread behind the listening socket: all clients' datagrams to the target.
struct Front {
    args: Path,
    listen: Arc<UdpSocket>,
    line: Option<SyncSender<Delayed>>,
    shared: Arc<Shared>,
    flows: HashMap<SocketAddr, Flow>,
    /// How many sockets to the target were opened.
    opened: usize,
    /// How often a client got another socket.
    rebinds: usize,
    /// Counts of flows whose client got another socket.
    past: (Counts, Counts),
}

struct Flow {
    opened: Instant,
    port: u16,
    exit: Exit,
    impairer: Impairer,
    back: JoinHandle<Counts>,
    /// What comes for it is lost.
    forgotten: Arc<AtomicBool>,
}

impl Flow {
    /// Ends it, and adds its counts.
    fn end(self, (to_target, to_client): &mut (Counts, Counts)) {
        self.forgotten.store(true, Relaxed);
        to_target.add(self.impairer.counts());
        to_client.add(self.back.join().unwrap_or_default());
    }
}

impl Front {
    fn new(
        args: &ForwardArgs,
        listen: Arc<UdpSocket>,
        line: Option<SyncSender<Delayed>>,
        shared: Arc<Shared>,
    ) -> Self {
        let (flows, past) = (HashMap::new(), (Counts::default(), Counts::default()));
        Self { args: args.into(), listen, line, shared, flows, opened: 0, rebinds: 0, past }
    }

    fn run(&mut self) -> (Counts, Counts, usize) {
        let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
        let mut swept = clock::now();
        while !self.shared.stop.load(Relaxed) {
            let received = self.listen.recv_from(&mut buffer);
            let now = clock::now();
            if let Ok((len, client)) = received {
                self.forward(client, &buffer[..len], now);
            }
            if now.duration_since(swept) >= MAX_HOLD {
                swept = now;
                for flow in self.flows.values_mut() {
                    flow.impairer.expire(now, &mut |d| flow.exit.send(d, now));
                }
            }
        }
        self.finish()
    }

    fn forward(&mut self, client: SocketAddr, datagram: &[u8], now: Instant) {
        let old = |flow: &Flow| self.args.rebind.is_some_and(|age| now - flow.opened >= age);
        let mut port = 0;
        if self.rebinds < self.args.max_rebinds
            && self.flows.get(&client).is_some_and(old)
            && let Some(flow) = self.flows.remove(&client)
        {
            port = flow.port;
            flow.end(&mut self.past);
            self.rebinds += 1;
        }
        if !self.flows.contains_key(&client) {
            match self.open(client, port, now) {
                Some(flow) => self.flows.insert(client, flow),
                None => {
                    self.shared.refused.fetch_add(1, Relaxed);
                    return;
                }
            };
        }
        if let Some(flow) = self.flows.get_mut(&client) {
            flow.impairer.offer(datagram, now, &mut |d| flow.exit.send(d, now));
        }
    }

    fn open(&mut self, client: SocketAddr, port: u16, now: Instant) -> Option<Flow> {
        let number = self.opened;
        if self.flows.len() >= MAX_FLOWS {
            return None;
        }
        let socket = Arc::new(bind(self.args.exit(self.rebinds, port)).ok()?);
        socket.connect(self.args.to).ok()?;
        let from = socket.local_addr().ok()?;
        println!("forward: {client} leaves from {from}");
        let exit = |door| Exit { door, line: self.line.clone(), shared: self.shared.clone() };
        let forgotten = Arc::new(AtomicBool::new(false));
        let back = Back {
            socket: socket.clone(),
            forgotten: forgotten.clone(),
            exit: exit(Door::Client(self.listen.clone(), client)),
            impairer: self.args.impairer(number, true),
        };
        self.opened += 1;
        Some(Flow {
            opened: now,
            port: from.port(),
            forgotten,
            exit: exit(Door::Target(socket)),
            impairer: self.args.impairer(number, false),
            back: thread::spawn(move || back.run()),
        })
    }

    /// Adds up both directions; the clients' threads end by the same flag.
    fn finish(&mut self) -> (Counts, Counts, usize) {
        for (_, flow) in self.flows.drain() {
            flow.end(&mut self.past);
        }
        self.line = None;
        (self.past.0, self.past.1, self.opened)
    }
}

/// The thread behind one client's socket: the target's datagrams to that client.
struct Back {
    socket: Arc<UdpSocket>,
    forgotten: Arc<AtomicBool>,
    exit: Exit,
    impairer: Impairer,
}

impl Back {
    fn run(mut self) -> Counts {
        let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
        while !self.exit.shared.stop.load(Relaxed) && !self.forgotten.load(Relaxed) {
            // An error is the timeout, or ICMP for a target that is not ready yet.
            let received = self.socket.recv(&mut buffer);
            let (now, exit) = (clock::now(), &self.exit);
            if let Ok(len) = received {
                self.impairer.offer(&buffer[..len], now, &mut |d| exit.send(d, now));
            }
            self.impairer.expire(now, &mut |d| exit.send(d, now));
        }
        self.impairer.counts()
    }
}

/// How the datagrams of a direction leave: at once, or through the delay line.
struct Exit {
    door: Door,
    line: Option<SyncSender<Delayed>>,
    shared: Arc<Shared>,
}

#[derive(Clone)]
enum Door {
    Target(Arc<UdpSocket>),
    Client(Arc<UdpSocket>, SocketAddr),
}

/// A delayed datagram.
struct Delayed {
    entered: Instant,
    door: Door,
    datagram: Vec<u8>,
}

impl Exit {
    fn send(&self, datagram: &[u8], now: Instant) {
        let Some(line) = &self.line else { return self.door.send(datagram, &self.shared) };
        let (door, datagram) = (self.door.clone(), datagram.to_vec());
        if line.try_send(Delayed { entered: now, door, datagram }).is_err() {
            self.shared.overflowed.fetch_add(1, Relaxed);
        }
    }
}

impl Door {
    fn send(&self, datagram: &[u8], shared: &Shared) {
        let sent = match self {
            Self::Target(socket) => socket.send(datagram),
            Self::Client(socket, client) => socket.send_to(datagram, client),
        };
        if sent.is_err() {
            shared.send_errors.fetch_add(1, Relaxed);
        }
    }
}

type DelayLine = (Option<SyncSender<Delayed>>, Option<JoinHandle<()>>);

/// Starts the thread that sends delayed datagrams at their time.
fn delay_line(args: &ForwardArgs, shared: &Arc<Shared>) -> DelayLine {
    if args.delay_us == 0 {
        return (None, None);
    }
    let (sender, receiver) = sync_channel(MAX_DELAYED);
    let (delay, shared) = (Duration::from_micros(args.delay_us), shared.clone());
    (Some(sender), Some(thread::spawn(move || release(&receiver, delay, &shared))))
}

fn release(line: &Receiver<Delayed>, delay: Duration, shared: &Shared) {
    while let Ok(next) = line.recv() {
        let due = next.entered + delay;
        thread::sleep(due.saturating_duration_since(clock::now()));
        next.door.send(&next.datagram, shared);
    }
}

/// A socket with a deep buffer whose reads end every [`MAX_HOLD`], to look at flags and time.
fn bind(address: SocketAddr) -> Result<UdpSocket, Failure> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // The kernel caps both at its limits; a smaller buffer only loses more.
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_read_timeout(Some(MAX_HOLD))?;
    socket.bind(&address.into()).map_err(|e| format!("cannot bind {address}: {e}"))?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(from: &[&str]) -> Path {
        Path {
            to: "10.0.0.9:4433".parse().unwrap(),
            from: from.iter().map(|address| address.parse().unwrap()).collect(),
            loss: 0.0,
            reorder: 0.0,
            rebind: None,
            max_rebinds: usize::MAX,
            seed: 1,
        }
    }

    /// A NAT with several addresses: address, port, address, port.
    #[test]
    fn address_and_port_change_in_turns() {
        let exits = |from: &[&str]| [0, 1, 2, 3, 4].map(|n| path(from).exit(n, 77).to_string());
        let two = ["10.0.0.1:0", "10.0.0.2:77", "10.0.0.2:0", "10.0.0.1:77", "10.0.0.1:0"];
        assert_eq!(exits(&["10.0.0.1", "10.0.0.2"]), two);
        assert_eq!(exits(&["10.0.0.1"]), ["10.0.0.1:0"; 5]);
        assert_eq!(exits(&[]), ["0.0.0.0:0"; 5]);
    }
}
