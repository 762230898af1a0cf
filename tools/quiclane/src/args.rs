//! Arguments as they are typed.

use crate::doctor::DoctorArgs;
use crate::perf::args::PerfArgs;
use crate::place;
use crate::target::Target;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

/// QUIC on AF_XDP: serve, measure, inspect.
#[derive(Debug, Parser)]
#[command(name = "quiclane", version, about, after_long_help = crate::generate::AFTER_HELP)]
pub(crate) struct Cli {
    /// Say more on standard error; repeat for more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 900)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve files (ALPN hq-interop), and with --perf measurements (ALPN perf).
    Serve(ServeArgs),
    /// Fetch one file (ALPN hq-interop).
    Get(GetArgs),
    /// Measure (ALPN perf, draft-banks-quic-performance).
    Perf(PerfArgs),
    /// Watch a device: rates, drops and load by queue and CPU.
    Top(crate::top::TopArgs),
    /// Draw the machine: queues, interrupts, workers and the memory nodes between them.
    Topo(crate::topo::TopoArgs),
    /// Write the whole machine as files, which every reading verb takes with --root.
    Bundle(crate::bundle::BundleArgs),
    /// Print a script that completes these commands in a shell.
    Completions(crate::generate::CompletionsArgs),
    /// Write manual pages.
    Man(crate::generate::ManArgs),
    /// List the network devices.
    Nic(crate::nic::NicArgs),
    /// Show receive queues with their interrupts, workers and counters.
    Queue(crate::queue::QueueArgs),
    /// Show how a device spreads packets over its queues.
    Rss(crate::rss::RssArgs),
    /// Say to which queue a flow goes, and why.
    Flow(crate::flow::FlowArgs),
    /// List XDP programs and AF_XDP sockets.
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
#[command(next_help_heading = "Datapath")]
pub(crate) struct IoArgs {
    /// Send and receive datagrams this way [default: xdp with --dev, else udp].
    #[arg(long, value_enum)]
    pub(crate) io: Option<IoKind>,
    /// Use AF_XDP on this network device [default: none].
    #[arg(long, value_name = "DEV")]
    pub(crate) dev: Option<String>,
    /// Serve these queues of the device, such as 0-3 or 0,2 [default: all].
    #[arg(long, value_name = "LIST")]
    pub(crate) queues: Option<String>,
    /// Fail unless the datapath is at least this good.
    #[arg(long, value_enum)]
    pub(crate) require: Option<RequireKind>,
    /// Use generic (skb) mode even where the driver could do better.
    #[arg(long)]
    pub(crate) generic: bool,
    /// Make UMEM frames of so many bytes [default: 2048].
    #[arg(long, value_name = "2048|4096", value_parser = frame_size)]
    pub(crate) frame_size: Option<usize>,
    /// Run so many workers for kernel UDP [default: 1].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) workers: Option<usize>,
    /// Pin the workers to these CPUs, such as 2-5 [default: near the device; for kernel UDP the
    /// kernel's scheduler chooses].
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
    /// Send and accept UDP payloads of so many bytes at most [default: what fits an MTU of 1500].
    #[arg(long, value_name = "BYTES", value_parser = max_datagram)]
    pub(crate) max_datagram: Option<u16>,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  quiclane serve --files /srv/www --cert chain.pem --key key.pem
  quiclane serve --perf --cert-out /tmp/cert.pem --listen 127.0.0.1:4433
  quiclane serve --files /srv/www --dev eth0 --queues 0-3 --require native

SIGTERM or SIGINT ends it: new downloads are refused, running ones have --grace to end, then
connections are closed, for half a second at most. A second one ends it at once. SIGHUP does
nothing.")]
pub(crate) struct ServeArgs {
    /// Listen on this address and UDP port.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        default_value = "0.0.0.0:4433",
        value_parser = crate::target::listen
    )]
    pub(crate) listen: SocketAddr,
    /// Serve the files of this directory (ALPN hq-interop) [default: none]. Links are followed
    /// as long as they stay in it, but not as the last name of a path.
    #[arg(long, value_name = "DIR")]
    pub(crate) files: Option<PathBuf>,
    /// Answer measurements too (ALPN perf): every client may ask for any number of bytes.
    #[arg(long)]
    pub(crate) perf: bool,
    /// Make every client prove its address first.
    #[arg(long)]
    pub(crate) retry: bool,
    /// Accept so many connections of one IPv4 address, or one /64 of IPv6, on a worker
    /// [default: 131072].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_per_source: Option<u32>,
    /// Accept no more connections on a worker whose connections hold so many MiB
    /// [default: 2048].
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_memory: Option<u32>,
    /// Read 32 random bytes from this file, mode 0600. A restarted server with the same ones can
    /// reset connections that it has forgotten, and accepts its old tokens [default: random].
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Give running downloads so many seconds to end after SIGTERM.
    #[arg(long, value_name = "S", default_value = "5", value_parser = seconds,
          allow_negative_numbers = true)]
    pub(crate) grace: f64,
    /// Describe this server in this directory for `doctor` and `top` [default: /run/quiclane].
    #[arg(long, value_name = "DIR")]
    pub(crate) status_dir: Option<PathBuf>,
    /// Print one JSON object per line on standard output: ready, and the state at the end.
    #[arg(long)]
    pub(crate) json: bool,
    /// Show this certificate chain, PEM [default: a self-signed one is made].
    #[arg(long, value_name = "FILE", requires = "key", help_heading = "TLS")]
    pub(crate) cert: Option<PathBuf>,
    /// Use this private key, PEM.
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = "TLS")]
    pub(crate) key: Option<PathBuf>,
    /// Write the self-signed certificate to this file, for clients to pin (--pin).
    #[arg(long, value_name = "FILE", conflicts_with = "cert", help_heading = "TLS")]
    pub(crate) cert_out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) io: IoArgs,
}

/// The certificates that a client trusts.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct TrustArgs {
    /// Trust these certificate authorities, PEM [default: the system's]. The server has to prove
    /// its name under one of them.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Trust this one certificate of the server, PEM, byte for byte. That the server has its
    /// key is checked; its name, its dates and who issued it are not.
    #[arg(long, value_name = "FILE", conflicts_with = "ca")]
    pub(crate) pin: Option<PathBuf>,
    /// Trust whatever certificate the server shows. For tests.
    #[arg(long, conflicts_with_all = ["ca", "pin"])]
    pub(crate) insecure: bool,
    /// Ask for this name; the server has to prove it unless its certificate is pinned
    /// [default: the host].
    #[arg(long, value_name = "NAME")]
    pub(crate) server_name: Option<String>,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  quiclane get example.com:4433 /index.html -o index.html
  quiclane get 192.0.2.1:4433 /index.html --ca ca.pem --server-name www.example.com
  quiclane get localhost:4433 /index.html --pin /tmp/cert.pem")]
pub(crate) struct GetArgs {
    /// Connect to this server: a name or an address, and a UDP port, such as [2001:db8::1]:4433.
    #[arg(value_name = "HOST:PORT", value_parser = Target::parse)]
    pub(crate) server: Target,
    /// Fetch the file of this path, such as /index.html.
    pub(crate) path: String,
    /// Write it to this file; - is standard output. A file that is there is replaced when all of
    /// it has arrived, and not before.
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) output: PathBuf,
    /// Give up when nothing has arrived for so many seconds; a handshake gets 10 at most.
    #[arg(long, value_name = "S", default_value = "60", value_parser = some_seconds,
          allow_negative_numbers = true)]
    pub(crate) timeout: f64,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    #[command(flatten)]
    pub(crate) io: IoArgs,
}

/// The smallest UDP payload that QUIC can do with (RFC 9000 §14).
const DATAGRAM_MIN_BYTES: u16 = 1200;
/// The largest payload of a UDP datagram over IPv4.
const DATAGRAM_MAX_BYTES: u16 = 65_507;

fn max_datagram(text: &str) -> Result<u16, String> {
    let wanted = text.parse().ok();
    wanted.filter(|bytes| (DATAGRAM_MIN_BYTES..=DATAGRAM_MAX_BYTES).contains(bytes)).ok_or_else(
        || format!("\"{text}\": give {DATAGRAM_MIN_BYTES} to {DATAGRAM_MAX_BYTES} bytes"),
    )
}

fn frame_size(text: &str) -> Result<usize, String> {
    match text {
        "2048" => Ok(2048),
        "4096" => Ok(4096),
        _ => Err(format!("{text} bytes: a frame has 2048 or 4096; name one of them")),
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number =
        text.parse().map_err(|_| format!("\"{text}\" is no number; give one such as 4"))?;
    if number == 0 { Err("0 is too few; give 1 or more".to_owned()) } else { Ok(number) }
}

/// A time in seconds.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    let number: f64 = text
        .parse()
        .map_err(|_| format!("\"{text}\" is no number of seconds, such as 10 or 0.5"))?;
    if number.is_finite() && number >= 0.0 {
        Ok(number)
    } else {
        Err(format!("{text} seconds: give 0 or more"))
    }
}

/// A time in seconds in which something can happen.
fn some_seconds(text: &str) -> Result<f64, String> {
    seconds(text).ok().filter(|number| *number > 0.0).ok_or_else(|| {
        format!("\"{text}\": a number of seconds above 0 is needed, such as 10 or 0.5")
    })
}

/// The most that one range of a list may name.
const LIST_MAX: u32 = 4096;

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
        if to < from {
            return Err(format!("--{what} {text}: \"{part}\" runs backwards: {to}-{from}?"));
        }
        if to - from >= LIST_MAX {
            return Err(format!(
                "--{what} {text}: \"{part}\" names more than {LIST_MAX}; name fewer"
            ));
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
        let error = parse_list("cpus", "1-0").unwrap_err();
        assert!(error.contains("--cpus 1-0") && error.contains("0-1"), "{error}");
        assert!(parse_list("queues", "").is_err());
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    /// What follows a group of options in a struct would stand below its heading.
    #[test]
    fn options_stand_below_their_own_heading() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                let (name, heading) = (arg.get_id().as_str(), arg.get_help_heading());
                let is_grouped = ["TLS", "Datapath"].map(Some).contains(&heading);
                assert!(name != "json" || !is_grouped, "{}: {name}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        use clap::CommandFactory;
        check(&Cli::command());
    }
}
