//! From what was typed about datapaths to a registration.

use crate::args::{IoArgs, IoKind, PollKind, RequireKind, ServeArgs, parse_list};
use crate::error::Failure;
use quiclane::TransportConfig;
use quiclane::datapath::Mode;
use quiclane::datapath::xdp::{Require, XdpConfig};
use quiclane::exec::{Io, Polling, Registration, RegistrationConfig, UdpTuning};
use quiclane::topology::Sharing;

/// Opens the workers that the arguments ask for, for a server.
pub(crate) fn open_server(args: &ServeArgs) -> Result<Registration, Failure> {
    let mut config = config(&args.io)?;
    config.secret = args.secret_file.as_deref().map(crate::secret::read).transpose()?;
    let limits = &mut config.limits;
    if let Some(count) = args.max_per_source {
        limits.source_connections = count as usize;
    }
    if let Some(mebibytes) = args.max_memory {
        limits.memory_bytes = u64::from(mebibytes) << 20;
    }
    start(config)
}

/// As [`open_server`], for a client. A server on the same machine has its workers pinned to the first
/// CPUs: a client on kernel UDP that is not told its CPUs runs wherever the kernel finds one free.
pub(crate) fn open_client(args: &IoArgs) -> Result<Registration, Failure> {
    let mut config = config(args)?;
    if matches!(config.io, Io::Udp(_)) && config.cpus.is_empty() {
        config.pin = false;
    }
    start(config)
}

fn start(config: RegistrationConfig) -> Result<Registration, Failure> {
    let registration = Registration::open(config)?;
    for note in registration.notes() {
        tracing::info!("{note}");
    }
    for worker in registration.status() {
        for step in &worker.ladder {
            tracing::warn!("queue {}: not {}: {}", worker.queue, step.tried, step.reason);
        }
    }
    Ok(registration)
}

fn config(args: &IoArgs) -> Result<RegistrationConfig, Failure> {
    let kind = args.io.unwrap_or(if args.dev.is_some() { IoKind::Xdp } else { IoKind::Udp });
    if kind == IoKind::Udp && !args.vlan.is_empty() {
        return Err(Failure::Usage(
            "--vlan is for AF_XDP: add --dev DEV, or leave it to the kernel's VLAN devices"
                .to_owned(),
        ));
    }
    let mut config = match kind {
        IoKind::Udp => {
            let tuning = UdpTuning::default();
            RegistrationConfig {
                io: Io::Udp(tuning),
                workers: Some(args.workers.unwrap_or(1)),
                ..RegistrationConfig::default()
            }
        }
        IoKind::Xdp => RegistrationConfig { io: Io::Xdp(xdp(args, Require::Xdp)?), ..base() },
        IoKind::Auto if args.dev.is_none() => RegistrationConfig {
            workers: Some(args.workers.unwrap_or(1)),
            ..RegistrationConfig::default()
        },
        IoKind::Auto => RegistrationConfig { io: Io::Auto(xdp(args, Require::Any)?), ..base() },
    };
    if let Some(list) = &args.queues {
        config.queues = parse_list("queues", list).map_err(Failure::Usage)?;
    }
    if let Some(list) = &args.cpus {
        config.cpus = parse_list("cpus", list).map_err(Failure::Usage)?;
    }
    if args.share_cpus {
        config.sharing = Sharing::Allow;
    }
    config.polling = match args.poll {
        PollKind::Spin => Polling::Spin,
        PollKind::Adaptive => Polling::default(),
        PollKind::Sleep => Polling::Sleep,
    };
    Ok(config)
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
    Ok(config)
}

/// The transport settings that the arguments ask for.
pub(crate) fn transport(args: &IoArgs) -> TransportConfig {
    let mut config = TransportConfig::default();
    if let Some(bytes) = args.max_datagram {
        config.max_mtu_bytes = bytes;
    }
    config
}
