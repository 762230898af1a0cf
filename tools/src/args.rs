//! Arguments as they are typed.

use crate::doctor::DoctorArgs;
use crate::perf::args::PerfArgs;
use crate::place;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

/// QUIC on AF_XDP: serve, measure, inspect.
#[derive(Debug, Parser)]
#[command(name = "quiclane", version, about, after_long_help = crate::generate::AFTER_HELP)]
pub(crate) struct Cli {
    /// Say more on standard error; repeat for more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve files (ALPN hq-interop) and measurements (ALPN perf).
    Serve(ServeArgs),
    /// Fetch one file (ALPN hq-interop).
    Get(GetArgs),
    /// Measure (ALPN perf, draft-banks-quic-performance).
    Perf(PerfArgs),
    /// Watch a device: rates, drops and load by queue and CPU.
    Top(crate::top::TopArgs),
    /// Draw the machine: queues, interrupts, workers and the memory nodes between them.
    Topo(crate::topo::TopoArgs),
    /// The whole machine as files, which every reading verb takes with --root.
    Bundle(crate::bundle::BundleArgs),
    /// Print a script that completes these commands in a shell.
    Completions(crate::generate::CompletionsArgs),
    /// Write manual pages.
    Man(crate::generate::ManArgs),
    /// Network devices.
    Nic(crate::nic::NicArgs),
    /// Receive queues, and what hangs on them.
    Queue(crate::queue::QueueArgs),
    /// How a device spreads packets over its queues.
    Rss(crate::rss::RssArgs),
    /// Where a flow goes, and why.
    Flow(crate::flow::FlowArgs),
    /// XDP programs and AF_XDP sockets.
    Xdp(crate::xdp::XdpArgs),
    /// Find what is wrong with this machine for lanes, and the commands that mend it.
    Doctor(DoctorArgs),
    /// Say how a device's queues, interrupts and CPUs should be, and what that would change.
    Plan(place::PlanArgs),
    /// Write a plan to its device, with a way back.
    Apply(place::ApplyArgs),
    /// Keep what `apply --confirm` has written.
    Confirm(place::ConfirmArgs),
    /// Put back what was there before `apply`.
    Undo(place::UndoArgs),
    /// Write files for systemd that apply a plan at every boot.
    Persist(place::PersistArgs),
    /// Wait for `confirm`, and put a snapshot back without it.
    #[command(hide = true)]
    Revert(place::RevertArgs),
}

/// How datagrams are sent and received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IoKind {
    /// AF_XDP; fails where it cannot be had.
    Xdp,
    /// Kernel UDP sockets.
    Udp,
    /// AF_XDP if it can be had, else kernel UDP; says which and why.
    Auto,
}

/// What a datapath has to be at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RequireKind {
    /// AF_XDP in any mode.
    Xdp,
    /// AF_XDP in the driver.
    Native,
    /// AF_XDP without copies.
    Zerocopy,
}

/// When a worker with nothing to do sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PollKind {
    /// Never: the lowest latency, and a whole CPU for each worker.
    Spin,
    /// After a short while.
    Adaptive,
    /// At once.
    Sleep,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct IoArgs {
    /// How datagrams are sent and received [default: xdp with --dev, else udp].
    #[arg(long, value_enum)]
    pub(crate) io: Option<IoKind>,
    /// The network device for AF_XDP.
    #[arg(long, value_name = "DEV")]
    pub(crate) dev: Option<String>,
    /// Queues of the device to serve, such as 0-3 or 0,2 [default: all].
    #[arg(long, value_name = "LIST")]
    pub(crate) queues: Option<String>,
    /// Fail unless the datapath is at least this good.
    #[arg(long, value_enum)]
    pub(crate) require: Option<RequireKind>,
    /// Use generic (skb) mode even where the driver could do better.
    #[arg(long)]
    pub(crate) generic: bool,
    /// Workers for kernel UDP [default: 1].
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<usize>,
    /// CPUs for the workers, such as 2-5 [default: beside the device].
    #[arg(long, value_name = "LIST")]
    pub(crate) cpus: Option<String>,
    /// When a worker with nothing to do sleeps.
    #[arg(long, value_enum, default_value = "adaptive")]
    pub(crate) poll: PollKind,
    /// Let workers share CPUs when there are fewer CPUs than queues.
    #[arg(long)]
    pub(crate) share_cpus: bool,
    /// Take frames of this VLAN from the device as well; may be given more than once. Frames of
    /// others are left to the kernel [default: untagged frames alone].
    #[arg(long, value_name = "ID")]
    pub(crate) vlan: Vec<u16>,
    /// Bytes of a UMEM frame: 2048 or 4096.
    #[arg(long, value_name = "BYTES")]
    pub(crate) frame_size: Option<usize>,
    /// The largest UDP payload to send and accept, in bytes.
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_datagram: Option<u16>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where to listen.
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:4433")]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) io: IoArgs,
    /// The directory whose files are served; none serves measurements only.
    #[arg(long, value_name = "DIR")]
    pub(crate) files: Option<PathBuf>,
    /// The certificate chain, PEM; a self-signed one is made if none is given.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// The private key, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// Where to write the self-signed certificate, for clients to pin.
    #[arg(long, value_name = "FILE", conflicts_with = "cert")]
    pub(crate) cert_out: Option<PathBuf>,
    /// Make every client prove its address first.
    #[arg(long)]
    pub(crate) retry: bool,
    /// Connections that one IPv4 address, or one /64 of IPv6, may have on a worker [default: 131072].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_per_source: Option<u32>,
    /// MiB that the connections of a worker may hold before no more are accepted [default: 2048].
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_memory: Option<u32>,
    /// 32 random bytes, mode 0600: clients believe a server that was restarted with the same ones
    /// when it has forgotten their connections, and may return with its tokens [default: random].
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
    /// One JSON object a line on standard output: ready, and the state at the end.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Whom a client trusts.
#[derive(Clone, Debug, Args)]
pub(crate) struct TrustArgs {
    /// Certificates to trust, PEM.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Trust whatever certificate the server shows. For tests.
    #[arg(long, conflicts_with = "ca")]
    pub(crate) insecure: bool,
    /// The name that the server has to prove.
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    pub(crate) server_name: String,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct GetArgs {
    /// The server.
    #[arg(value_name = "ADDR:PORT")]
    pub(crate) server: SocketAddr,
    /// The path of the file, such as /index.html.
    pub(crate) path: String,
    /// Where to write it; - is standard output.
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    #[command(flatten)]
    pub(crate) io: IoArgs,
    /// Give up after this many seconds.
    #[arg(long, value_name = "S", default_value_t = 60)]
    pub(crate) timeout: u64,
}

/// A list such as `0-3,6`.
///
/// # Errors
/// Says which part is not a number or a range.
pub(crate) fn parse_list(what: &str, text: &str) -> Result<Vec<u32>, String> {
    let mut out = Vec::new();
    let bad = |part: &str| {
        format!("--{what} {text}: \"{part}\" is neither a number nor a range such as 0-3")
    };
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let from: u32 = from.trim().parse().map_err(|_| bad(part))?;
        let to: u32 = to.trim().parse().map_err(|_| bad(part))?;
        if to < from || to - from > 4095 {
            return Err(bad(part));
        }
        out.extend(from..=to);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_numbers_and_ranges() {
        assert_eq!(parse_list("queues", "0-2,5"), Ok(vec![0, 1, 2, 5]));
        let error = parse_list("queues", "0-x").unwrap_err();
        assert!(error.contains("--queues") && error.contains("0-x"), "{error}");
        assert!(parse_list("queues", "3-1").is_err());
        assert!(parse_list("queues", "").is_err());
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
