//! A raw echo over the library's datapaths: the cost of a ping-pong below QUIC.
//!
//! Both sides poll on one pinned thread each. No connection, no cryptography: a datagram comes
//! out of the ring and its copy goes into the other. `tools/bench net` puts QUIC's ping-pong
//! beside it.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use quiclane::datapath::memory::Datagrams;
use quiclane::datapath::xdp::{PortUse, Require, XdpConfig, XdpDatapath, XdpDevice};
use quiclane::datapath::{Datapath, Link, MAX_BURST, Mode, Path};
use quiclane::ecn::Ecn;
use quiclane_measure::percentile;

use crate::{Failure, clock};

/// An echo that takes longer counts as lost, and the next goes out.
const PATIENCE: Duration = Duration::from_millis(100);
/// Echoes before anything counts: the neighbour is known, and the caches are warm.
const WARM_UP: usize = 1_000;
/// After this many lost ones in a row the run fails.
const MAX_LOST: u32 = 50;
/// The queue that both sides use.
const QUEUE: u32 = 0;

/// Arguments of both sides.
#[derive(Args)]
pub(crate) struct EchoArgs {
    /// The network device
    #[arg(long)]
    dev: String,
    /// Our address and port
    #[arg(long)]
    local: SocketAddr,
    /// Send pings to this address, instead of echoing
    #[arg(long)]
    to: Option<SocketAddr>,
    /// The payload of a ping, in bytes
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// How long it runs, in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Use generic (skb) mode
    #[arg(long)]
    generic: bool,
}

/// Answers, or pings and prints one JSON object.
pub(crate) fn run(args: &EchoArgs) -> Result<(), Failure> {
    let mode = if args.generic { Mode::Generic } else { Mode::NativeCopy };
    let config = XdpConfig {
        require: Require::Xdp,
        force_mode: Some(mode),
        ..XdpConfig::new(args.dev.as_str())
    };
    let (device, _) = XdpDevice::attach(&config)?;
    let usage = if args.to.is_some() { PortUse::Client } else { PortUse::Server };
    let mut datapath = device.open_queue(QUEUE, &[args.local])?;
    device.listen_as(args.local, usage)?;
    let limit = Duration::from_secs_f64(args.seconds);
    match args.to {
        None => answer(&mut datapath, limit),
        Some(remote) => ping(&mut datapath, args, remote, limit),
    }
}

fn answer(datapath: &mut XdpDatapath, limit: Duration) -> Result<(), Failure> {
    println!("ready");
    let until = clock::now() + limit;
    let mut burst = Datagrams::default();
    while clock::now() < until {
        datapath.receive(MAX_BURST, &mut |meta, payload| burst.put(meta, payload));
        while let Some(datagram) = burst.pop() {
            send(datapath, &datagram.meta.path, datagram.payload());
        }
        datapath.flush()?;
    }
    Ok(())
}

fn send(datapath: &mut XdpDatapath, path: &Path, datagram: &[u8]) {
    if let Some(buffer) = datapath.tx_buffer(path) {
        buffer[..datagram.len()].copy_from_slice(datagram);
        datapath.tx_commit(datagram.len(), path, Ecn::NotEct);
    }
}

fn ping(
    datapath: &mut XdpDatapath,
    args: &EchoArgs,
    remote: SocketAddr,
    limit: Duration,
) -> Result<(), Failure> {
    let mut path = Path { local: args.local, remote, link: Link::UNKNOWN };
    let payload = vec![0x51; args.bytes];
    let mut times_ns = Vec::with_capacity(1 << 20);
    let (mut lost, mut done) = (0, 0);
    let begin = clock::now();
    while begin.elapsed() < limit {
        let sent = clock::now();
        send(datapath, &path, &payload);
        datapath.flush()?;
        let mut back = false;
        while !back && sent.elapsed() < PATIENCE {
            datapath.receive(MAX_BURST, &mut |meta, _| {
                path.link = meta.path.link;
                back = true;
            });
        }
        lost = if back { 0 } else { lost + 1 };
        if lost > MAX_LOST {
            return Err(format!("{remote} does not answer").into());
        }
        done += usize::from(back);
        if back && done > WARM_UP {
            times_ns.push(sent.elapsed().as_nanos() as u64);
        }
    }
    times_ns.sort_unstable();
    let at = |part| percentile(&times_ns, part).map_or(0.0, |ns| ns as f64 / 1e3);
    println!(
        "{}",
        serde_json::json!({"pings": times_ns.len(), "p50_us": at(0.5), "p99_us": at(0.99)})
    );
    Ok(())
}
