//! Arguments as they are typed.

use crate::doctor::DoctorArgs;
use crate::perf::args::PerfArgs;
use crate::place;
use crate::target::Target;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

/// QUIC on AF_XDP and kernel UDP: serve, fetch and measure; inspect and set up the machine.
#[derive(Debug, Parser)]
#[command(name = "quiclane", version, about, after_long_help = crate::generate::AFTER_HELP)]
pub(crate) struct Cli {
    /// Log more on standard error; repeat for more.
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
    /// Measure throughput, requests, handshakes or latency (ALPN perf).
    ///
    /// The protocol is draft-banks-quic-performance.
    Perf(PerfArgs),
    /// Watch a device: rates, drops and load by queue and CPU.
    Top(crate::top::TopArgs),
    /// Draw the machine: queues, interrupts, workers and the memory nodes between them.
    Topo(crate::topo::TopoArgs),
    /// Capture this machine in a file, which every reading verb takes with --root.
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
    /// Show which queue a flow goes to, and why.
    Flow(crate::flow::FlowArgs),
    /// List XDP programs and AF_XDP sockets.
    Xdp(crate::xdp::XdpArgs),
    /// Find what slows or breaks AF_XDP on this machine, and the commands that mend it.
    Doctor(DoctorArgs),
    /// Plan the queues, interrupts and CPUs of a device, and show what that would change.
    Plan(place::PlanArgs),
    /// Apply a plan to its device; `undo` takes it back.
    Apply(place::ApplyArgs),
    /// Keep what `apply --confirm` has written.
    Confirm(place::ConfirmArgs),
    /// Restore the settings that were there before `apply`.
    Undo(place::UndoArgs),
    /// Write systemd files that apply a plan at every boot.
    Persist(place::PersistArgs),
    /// Wait for `confirm`, and restore a snapshot if it does not come.
    #[command(hide = true)]
    Revert(place::RevertArgs),
}

/// How datagrams are sent and received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IoKind {
    /// AF_XDP; fails where that is not possible.
    Xdp,
    /// Kernel UDP sockets.
    Udp,
    /// AF_XDP where possible, else kernel UDP; the log says which, and why.
    Auto,
}

/// The least that a datapath has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RequireKind {
    /// AF_XDP in any mode.
    Xdp,
    /// AF_XDP in the driver.
    Native,
    /// AF_XDP without copies.
    Zerocopy,
}

/// When an idle worker sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PollKind {
    /// Never: the lowest latency, and a whole CPU for each worker.
    Spin,
    /// After a short while.
    Adaptive,
    /// At once.
    Sleep,
}

/// How the workers' threads are laid out, and how the kernel treats them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProfileKind {
    /// As any other thread: datapath and QUIC on one, so that no packet waits for another.
    LowLatency,
    /// Before every ordinary thread of its CPU (SCHED_FIFO; needs CAP_SYS_NICE). With --poll spin
    /// nothing else runs there.
    RealTime,
    /// When nothing else wants the CPU (SCHED_IDLE), asleep whenever there is nothing to do.
    Scavenger,
    /// Datapath and QUIC apart: a thread for each queue, and beside it --quic-threads for QUIC. For fewer
    /// queues than CPUs; a packet waits for another thread, and is copied once more.
    MaxThroughput,
}

/// Where the worker of a queue is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlaceKind {
    /// On the CPU that serves the interrupt of its queue.
    Irq,
    /// On another CPU of that CPU's last-level cache.
    Cache,
    /// On any CPU of the device's memory node.
    Node,
}

/// How firmly a pinned worker stays on its CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AffinityKind {
    /// It runs nowhere else.
    Hard,
    /// It starts there, and may move to the other CPUs of the same memory node.
    Soft,
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
    /// Set the size of UMEM frames, in bytes [default: 2048].
    #[arg(long, value_name = "2048|4096", value_parser = frame_size)]
    pub(crate) frame_size: Option<usize>,
    /// Run this many workers, on kernel UDP [default: a server has one for each CPU that it may use, a client
    /// one].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) workers: Option<usize>,
    /// Pin the workers to these CPUs, such as 2-5 [default: see --place; for kernel UDP the kernel's
    /// scheduler chooses].
    #[arg(long, value_name = "LIST")]
    pub(crate) cpus: Option<String>,
    /// Place the worker of each queue here, on the device's memory node if the process may use a CPU of
    /// it; the log and doctor say what could not be had [default: irq].
    #[arg(long, value_enum, conflicts_with = "cpus")]
    pub(crate) place: Option<PlaceKind>,
    /// Choose how firmly a pinned worker stays on its CPU [default: hard].
    #[arg(long, value_enum)]
    pub(crate) affinity: Option<AffinityKind>,
    /// Choose how the workers' threads are laid out, and how the kernel treats them.
    #[arg(long, value_enum, default_value = "low-latency")]
    pub(crate) profile: ProfileKind,
    /// Run QUIC on this many threads for each queue, or for each of --workers; needs --profile
    /// max-throughput [default: 2].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) quic_threads: Option<usize>,
    /// Choose when an idle worker sleeps [default: adaptive; with --profile scavenger: sleep].
    #[arg(long, value_enum)]
    pub(crate) poll: Option<PollKind>,
    /// Let workers share CPUs when there are fewer CPUs than queues.
    #[arg(long)]
    pub(crate) share_cpus: bool,
    /// Receive frames of this VLAN too; may be given more than once. Frames of other VLANs are
    /// left to the kernel [default: untagged frames only].
    #[arg(long, value_name = "ID")]
    pub(crate) vlan: Vec<u16>,
    /// Share the XDP program with other processes, by this directory in a BPF file system: each serves
    /// other queues of the device, and another port.
    #[arg(long, value_name = "DIR")]
    pub(crate) share: Option<PathBuf>,
    /// Leave it to the program of another to steer packets: enter the sockets of the queues into its XSKMAP,
    /// which is pinned here.
    #[arg(long, value_name = "PATH", conflicts_with = "share")]
    pub(crate) xskmap: Option<PathBuf>,
    /// Send and accept UDP payloads of at most this many bytes [default: what fits an MTU of 1500].
    #[arg(long, value_name = "BYTES", value_parser = max_datagram)]
    pub(crate) max_datagram: Option<u16>,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  quiclane serve --files /srv/www --cert chain.pem --key key.pem
  quiclane serve --perf --cert-out /tmp/cert.pem --listen 127.0.0.1:4433
  quiclane serve --files /srv/www --dev eth0 --queues 0-3 --require native

SIGTERM or SIGINT ends the server: it refuses new downloads, gives running ones --grace seconds,
and then closes its connections, within half a second. A second signal ends it at once. SIGHUP does
nothing.

With --takeover SOCKET a second server of the same user takes the port over from the first: start it
with the same options. The first serves the connections that it has, and ends when they have, or
after --takeover-time.")]
pub(crate) struct ServeArgs {
    /// Listen on this address and UDP port.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        default_value = "0.0.0.0:4433",
        value_parser = crate::target::listen
    )]
    pub(crate) listen: SocketAddr,
    /// Serve the files of this directory (ALPN hq-interop) [default: none]. A symbolic link is
    /// followed if it stays inside the directory and is not the last name of a path.
    #[arg(long, value_name = "DIR")]
    pub(crate) files: Option<PathBuf>,
    /// Answer measurements too (ALPN perf): every client may ask for any number of bytes.
    #[arg(long)]
    pub(crate) perf: bool,
    /// Make every client prove its address first, by a Retry.
    #[arg(long)]
    pub(crate) retry: bool,
    /// Accept at most this many connections from one IPv4 address, or one /64 of IPv6, on each
    /// worker [default: 131072].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_per_source: Option<u32>,
    /// Refuse new connections on a worker whose connections hold this much memory, in MiB
    /// [default: 2048].
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_memory: Option<u32>,
    /// Ask clients to prove their address where a worker is this late with what arrives, in
    /// milliseconds; refuse them at twice of it, and do not answer them at four times; 0 is never
    /// [default: 250].
    #[arg(long, value_name = "MS", help_heading = "Load")]
    pub(crate) queue_delay_max: Option<u32>,
    /// Give handshakes this much of the time of established connections that always have something
    /// to do, in hundredths [default: 10].
    #[arg(long, value_name = "PERCENT", help_heading = "Load",
          value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) handshake_share: Option<u8>,
    /// Ask clients to prove their address while unfinished handshakes hold this much of the machine's
    /// memory, in millionths [default: 1000].
    #[arg(long, value_name = "PPM", help_heading = "Load")]
    pub(crate) handshake_memory: Option<u32>,
    /// Begin at most this many connections in a second on each worker; 0 is no limit [default: 0].
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub(crate) new_per_second: Option<u32>,
    /// Begin at most this many connections in a second of one IPv4 /24 or IPv6 /56 on each worker;
    /// 0 is no limit [default: 5000].
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub(crate) network_new_per_second: Option<u32>,
    /// Answer a datagram that begins with this token: 8 to 64 bytes, the first one a digit or a sign
    /// below @ in ASCII [default: none]. For a balancer that asks whether the server lives.
    #[arg(long, value_name = "TOKEN", help_heading = "Load")]
    pub(crate) health_token: Option<String>,
    /// Answer it with this, which has to be shorter.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "OK",
        requires = "health_token",
        help_heading = "Load"
    )]
    pub(crate) health_answer: String,
    /// Read the secret of the server, 32 random bytes, from this file of mode 0600. With the same
    /// secret a restarted server resets the connections that it has forgotten, and accepts the
    /// tokens that it gave before [default: a new secret at each start].
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Give running downloads this many seconds to end after SIGTERM.
    #[arg(long, value_name = "S", default_value = "5", value_parser = seconds,
          allow_negative_numbers = true)]
    pub(crate) grace: f64,
    /// Take over from the server that offers itself at this socket, if there is one, and offer this one
    /// there: no connection notices.
    #[arg(long, value_name = "SOCKET")]
    pub(crate) takeover: Option<PathBuf>,
    /// Give connections this many seconds to end once another server has taken over.
    #[arg(long, value_name = "S", default_value = "600", value_parser = seconds,
          allow_negative_numbers = true)]
    pub(crate) takeover_time: f64,
    /// Write the status file, for `doctor` and `top`, to this directory [default: /run/quiclane].
    #[arg(long, value_name = "DIR")]
    pub(crate) status_dir: Option<PathBuf>,
    /// Print JSON objects on standard output, one per line: ready, and the counters at the end.
    #[arg(long)]
    pub(crate) json: bool,
    /// Use this certificate chain, PEM [default: make a self-signed certificate].
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
    /// Trust these certificate authorities, PEM [default: the system's]. The server's certificate
    /// has to be for its name.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Trust exactly this certificate of the server, PEM. The server has to hold its private key;
    /// name, dates and issuer are not checked.
    #[arg(long, value_name = "FILE", conflicts_with = "ca")]
    pub(crate) pin: Option<PathBuf>,
    /// Trust any certificate of the server. For tests.
    #[arg(long, conflicts_with_all = ["ca", "pin"])]
    pub(crate) insecure: bool,
    /// Ask for this name of the server (SNI). Its certificate has to be for the name, unless it is
    /// pinned [default: the host].
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
    /// Fetch the file at this path, such as /index.html.
    pub(crate) path: String,
    /// Write to this file; - is standard output. An existing file is replaced only once everything
    /// has arrived.
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) output: PathBuf,
    /// Give up when nothing has arrived for this many seconds; a handshake gets 10 at most.
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
        text.parse().map_err(|_| format!("\"{text}\" is not a number; give one such as 4"))?;
    if number == 0 { Err("0 is too few; give 1 or more".to_owned()) } else { Ok(number) }
}

/// A time in seconds.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| {
        format!("\"{text}\" is not a number of seconds; give one such as 10 or 0.5")
    })?;
    if number.is_finite() && number >= 0.0 {
        Ok(number)
    } else {
        Err(format!("{text} seconds: give 0 or more"))
    }
}

/// A time in seconds in which something can happen.
fn some_seconds(text: &str) -> Result<f64, String> {
    seconds(text)
        .ok()
        .filter(|number| *number > 0.0)
        .ok_or_else(|| format!("\"{text}\": give a number of seconds above 0, such as 10 or 0.5"))
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
            return Err(format!(
                "--{what} {text}: \"{part}\" runs backwards; did you mean {to}-{from}?"
            ));
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

    /// An option that follows a flattened group in a struct would stand below the group's heading.
    #[test]
    fn options_stand_below_their_own_heading() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                let (name, heading) = (arg.get_id().as_str(), arg.get_help_heading());
                let is_grouped = ["TLS", "Datapath", "Load"].map(Some).contains(&heading);
                assert!(name != "json" || !is_grouped, "{}: {name}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        use clap::CommandFactory;
        check(&Cli::command());
    }
}
