//! From the datapath options of the command line to a registration.

use crate::args::{
    AffinityKind, IoArgs, IoKind, PlaceKind, PollKind, ProfileKind, RequireKind, ServeArgs,
    parse_list,
};
use crate::error::Failure;
use quiclane::TransportConfig;
use quiclane::datapath::Mode;
use quiclane::datapath::xdp::{Require, XdpConfig, XdpProgram};
use quiclane::exec::{
    Affinity, Io, Pin, Polling, Profile, Registration, RegistrationConfig, UdpTuning,
};
use quiclane::topology::{Near, Sharing};
use std::time::Duration;

/// Headers before the payload of a datagram over IPv4.
const IPV4_AND_UDP_BYTES: u32 = 28;

/// Opens the workers that the arguments ask for, for a server.
pub(crate) fn open_server(args: &ServeArgs) -> Result<Registration, Failure> {
    let mut config = config(&args.io, None)?;
    config.secret = args.secret_file.as_deref().map(crate::secret::read).transpose()?;
    config.takeover = args.takeover.clone();
    let limits = &mut config.limits;
    if let Some(count) = args.max_per_source {
        limits.source_connections = count as usize;
    }
    if let Some(mebibytes) = args.max_memory {
        limits.memory_bytes = u64::from(mebibytes) << 20;
    }
    if let Some(ms) = args.queue_delay_max {
        limits.queue_delay_max = Duration::from_millis(ms.into());
    }
    if let Some(percent) = args.handshake_share {
        limits.handshake_share_percent = percent;
    }
    if let Some(count) = args.new_per_second {
        limits.new_per_second = count;
    }
    if let Some(count) = args.network_new_per_second {
        limits.network_new_per_second = count;
    }
    if let Some(ppm) = args.handshake_memory {
        config.handshake_memory_ppm = ppm;
    }
    // The library has logged which modes failed, and how workers were placed.
    Ok(Registration::open(config)?)
}

/// As [`open_server`], for a client.
pub(crate) fn open_client(args: &IoArgs) -> Result<Registration, Failure> {
    Ok(Registration::open(config(args, Some(1))?)?)
}

/// The datapath that was asked for.
fn kind(args: &IoArgs) -> IoKind {
    args.io.unwrap_or(if args.dev.is_some() { IoKind::Xdp } else { IoKind::Udp })
}

/// Refuses options without effect: a user who gives one expects an effect.
fn check(args: &IoArgs) -> Result<(), Failure> {
    let kind = kind(args);
    let typed = [
        ("--queues", args.queues.is_some()),
        ("--require", args.require.is_some()),
        ("--generic", args.generic),
        ("--frame-size", args.frame_size.is_some()),
        ("--vlan", !args.vlan.is_empty()),
        ("--place", args.place.is_some()),
        ("--share", args.share.is_some()),
        ("--xskmap", args.xskmap.is_some()),
    ];
    let usage = |text: String| Err(Failure::Usage(text));
    match (kind, &args.dev) {
        (IoKind::Udp, Some(device)) => {
            return usage(format!("--dev {device} is for AF_XDP: not with --io udp"));
        }
        (IoKind::Xdp | IoKind::Auto, None) => {
            let io = if kind == IoKind::Xdp { "xdp" } else { "auto" };
            return usage(format!(
                "--io {io} needs --dev DEV, the network device; `ip link` lists them"
            ));
        }
        (IoKind::Udp, None) => {
            if let Some((option, _)) = typed.iter().find(|(_, is_typed)| *is_typed) {
                return usage(format!("{option} is for AF_XDP: it needs --dev DEV"));
            }
            let of_pinned =
                [("--share-cpus", args.share_cpus), ("--affinity", args.affinity.is_some())];
            let typed = of_pinned.iter().find(|(_, is_typed)| *is_typed);
            if let Some((option, _)) = typed.filter(|_| args.cpus.is_none()) {
                return usage(format!(
                    "{option}: the kernel's scheduler places workers of kernel UDP unless CPUs are \
                     named: it needs --cpus LIST, or --dev DEV"
                ));
            }
        }
        (IoKind::Xdp, Some(_)) if args.workers.is_some() => {
            return usage(
                "--workers is for kernel UDP: AF_XDP has a worker for each queue, see --queues"
                    .to_owned(),
            );
        }
        (IoKind::Xdp | IoKind::Auto, Some(_)) => {}
    }
    if args.quic_threads.is_some() && args.profile != ProfileKind::MaxThroughput {
        return usage(
            "--quic-threads: workers have no other threads for QUIC: it needs --profile max-throughput"
                .to_owned(),
        );
    }
    check_size(args)
}

/// A datagram that no packet of the device can hold is never sent.
fn check_size(args: &IoArgs) -> Result<(), Failure> {
    let (Some(bytes), Some(device)) = (args.max_datagram, &args.dev) else { return Ok(()) };
    let Some(mtu) = mtu(device) else { return Ok(()) };
    if u32::from(bytes) + IPV4_AND_UDP_BYTES > mtu {
        return Err(Failure::Usage(format!(
            "--max-datagram {bytes}: with IPv4 and UDP that is {} bytes, and the MTU of {device} \
             is {mtu}",
            u32::from(bytes) + IPV4_AND_UDP_BYTES
        )));
    }
    Ok(())
}

fn mtu(device: &str) -> Option<u32> {
    std::fs::read_to_string(format!("/sys/class/net/{device}/mtu")).ok()?.trim().parse().ok()
}

/// `workers` is what kernel UDP gets by default; `None`: one for each CPU.
fn config(args: &IoArgs, workers: Option<usize>) -> Result<RegistrationConfig, Failure> {
    check(args)?;
    let workers = args.workers.or(workers);
    let mut config = match kind(args) {
        IoKind::Udp => {
            RegistrationConfig { io: Io::Udp(udp(args)), workers, ..RegistrationConfig::default() }
        }
        IoKind::Xdp => RegistrationConfig { io: Io::Xdp(xdp(args, Require::Xdp)?), ..base() },
        IoKind::Auto => {
            RegistrationConfig { io: Io::Auto(xdp(args, Require::Any)?), workers, ..base() }
        }
    };
    if let Some(list) = &args.queues {
        config.queues = parse_list("queues", list).map_err(Failure::Usage)?;
    }
    if let Some(list) = &args.cpus {
        config.cpus = parse_list("cpus", list).map_err(Failure::Usage)?;
    }
    // The scheduler places workers of kernel UDP unless CPUs are named: two processes that both
    // pin themselves to the first CPU would take turns there.
    config.pin = if args.cpus.is_some() { Pin::All } else { Pin::Xdp };
    config.near = match args.place {
        None => Near::default(),
        Some(PlaceKind::Irq) => Near::Irq,
        Some(PlaceKind::Cache) => Near::Cache,
        Some(PlaceKind::Node) => Near::Node,
    };
    config.affinity = match args.affinity {
        None => Affinity::default(),
        Some(AffinityKind::Hard) => Affinity::Hard,
        Some(AffinityKind::Soft) => Affinity::Soft,
    };
    if args.share_cpus {
        config.sharing = Sharing::Allow;
    }
    (config.profile, config.polling) = profile(args)?;
    if let Some(count) = args.quic_threads {
        config.quic_threads = count;
    }
    Ok(config)
}

/// How the kernel treats the workers, and when they sleep.
fn profile(args: &IoArgs) -> Result<(Profile, Polling), Failure> {
    let profile = match args.profile {
        ProfileKind::LowLatency => Profile::LowLatency,
        ProfileKind::RealTime => Profile::RealTime,
        ProfileKind::Scavenger => Profile::Scavenger,
        ProfileKind::MaxThroughput => Profile::MaxThroughput,
    };
    let polling = match args.poll {
        None => Polling::default(),
        Some(PollKind::Sleep) => Polling::Sleep,
        Some(_) if profile == Profile::Scavenger => {
            return Err(Failure::Usage(
                "--profile scavenger sleeps whenever it has nothing to do, to leave the CPU to \
                 others: leave out --poll, or choose another profile"
                    .to_owned(),
            ));
        }
        Some(PollKind::Spin) => Polling::Spin,
        Some(PollKind::Adaptive) => Polling::default(),
    };
    Ok((profile, polling))
}

fn udp(args: &IoArgs) -> UdpTuning {
    let mut tuning = UdpTuning::default();
    if let Some(bytes) = args.max_datagram {
        tuning.max_datagram_bytes = tuning.max_datagram_bytes.max(usize::from(bytes));
    }
    tuning
}

fn base() -> RegistrationConfig {
    RegistrationConfig::default()
}

fn xdp(args: &IoArgs, least: Require) -> Result<XdpConfig, Failure> {
    let Some(device) = &args.dev else {
        return Err(Failure::Usage(
            "--io xdp needs --dev DEV, the network device; `ip link` lists them".to_owned(),
        ));
    };
    let mut config = XdpConfig::new(device.as_str());
    config.require = match args.require {
        None => least,
        Some(RequireKind::Xdp) => Require::Xdp,
        Some(RequireKind::Native) => Require::Native,
        Some(RequireKind::Zerocopy) => Require::Zerocopy,
    };
    if args.generic {
        config.force_mode = Some(Mode::Generic);
    }
    for &id in &args.vlan {
        config.vlans.insert(id).map_err(|bad| Failure::Usage(format!("--vlan {id}: {bad}")))?;
    }
    if let Some(bytes) = args.frame_size {
        config.chunk_bytes = bytes;
    }
    if let Some(directory) = &args.share {
        config.program = XdpProgram::Shared(directory.clone());
    }
    if let Some(map) = &args.xskmap {
        config.program = XdpProgram::Theirs(map.clone());
    }
    Ok(config)
}

/// The transport settings that the arguments ask for.
///
/// # Errors
/// Arguments that contradict each other: found before anything is opened.
pub(crate) fn transport(args: &IoArgs) -> Result<TransportConfig, Failure> {
    check(args)?;
    let mut config = TransportConfig::default();
    if let Some(bytes) = args.max_datagram {
        config.max_mtu_bytes = bytes;
    }
    Ok(config)
}
