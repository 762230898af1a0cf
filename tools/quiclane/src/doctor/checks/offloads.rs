//! Settings of the device that do not go together with AF_XDP.

use crate::doctor::context::{Context, Sift, known};
use crate::doctor::finding::{Check, Found, Judgement, Kind, Severity};
use quiclane::datapath::xdp::XdpConfig;
use quiclane::topology::survey::device::AttachMode;

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "QL030",
        severity: Severity::Warn,
        title: "The receive ring is short",
        reads: "ring lengths, now and at most: ethtool -g DEV; the worker's receive ring has 1024 \
                entries",
        why: "The NIC's ring holds what arrives while the worker is busy. A ring that is shorter \
              than the worker's own drops packets first. The NIC counts them as rx_missed or \
              rx_no_buffer, and no server sees them.",
        mend: "ethtool -G DEV rx 2048",
        afterwards: "ethtool -g DEV: RX 1024 or more",
        check: Check::Device(short_ring),
    },
    Kind {
        id: "QL031",
        severity: Severity::Note,
        title: "The device cannot have longer rings",
        reads: "ring lengths at most: ethtool -g DEV",
        why: "Even the longest ring of this device is shorter than a worker's: bursts are lost \
              earlier than elsewhere. Polling workers and more queues make up for it.",
        mend: "quiclane serve --dev DEV --poll spin",
        afterwards: "quiclane doctor DEV: QL054 (drops of the NIC) stays away",
        check: Check::Device(small_device),
    },
    Kind {
        id: "QL032",
        severity: Severity::Error,
        title: "Hardware GRO merges packets",
        reads: "rx-gro-hw: ethtool -k DEV",
        why: "The NIC merges packets of a flow before XDP sees them. Most drivers refuse a program \
              then; others hand over frames that are longer than a chunk, which are dropped.",
        mend: "ethtool -K DEV rx-gro-hw off",
        afterwards: "ethtool -k DEV: rx-gro-hw: off",
        check: Check::Device(gro_hw),
    },
    Kind {
        id: "QL033",
        severity: Severity::Error,
        title: "LRO merges packets",
        reads: "rx-lro: ethtool -k DEV",
        why: "While large receive offload is on, a program cannot be attached, or it sees frames \
              that do not fit a chunk.",
        mend: "ethtool -K DEV lro off",
        afterwards: "ethtool -k DEV: large-receive-offload: off",
        check: Check::Device(lro),
    },
    Kind {
        id: "QL034",
        severity: Severity::Warn,
        title: "The NIC takes VLAN tags out of packets that XDP sees",
        reads: "rx-vlan-hw-parse (ethtool -k DEV) and VLAN devices on top of DEV (ip -d link)",
        why: "The tag is in the descriptor and not in the frame: the program, and the AF_XDP \
              socket behind it, cannot tell VLANs apart, and the answer leaves without a tag.",
        mend: "ethtool -K DEV rxvlan off",
        afterwards: "ethtool -k DEV: rx-vlan-offload: off",
        check: Check::Device(vlan),
    },
    Kind {
        id: "QL035",
        severity: Severity::Error,
        title: "The MTU does not fit a frame of the UMEM",
        reads: "/sys/class/net/DEV/mtu; a chunk of 4096 bytes less headroom and headers",
        why: "A packet has to lie in one chunk. Above this MTU drivers refuse the program or drop \
              long packets, and Quiclane refuses to start.",
        mend: "ip link set DEV mtu 1500",
        afterwards: "ip link show DEV: mtu 1500",
        check: Check::Device(mtu),
    },
    Kind {
        id: "QL036",
        severity: Severity::Warn,
        title: "GRO merges packets before a generic program",
        reads: "the attached program's mode (ip link show DEV); rx-gro, rx-gro-list and \
                rx-udp-gro-forwarding: ethtool -k DEV",
        why: "A generic program runs behind GRO. UDP that was merged for forwarding reaches it as \
              one long packet, which does not fit a chunk: the AF_XDP socket drops it whole.",
        mend: "ethtool -K DEV rx-gro-list off rx-udp-gro-forwarding off",
        afterwards: "ethtool -k DEV: both off",
        check: Check::Device(gro_generic),
    },
];

/// Entries of the ring that a worker has.
fn wanted_entries(cx: &Context<'_>) -> u32 {
    XdpConfig::new(cx.name()).rx_entries
}

fn short_ring(cx: &Context<'_>) -> Judgement {
    let (now, most) = known(&cx.device.rings)?.rx;
    let wanted = wanted_entries(cx).min(most);
    if now >= wanted {
        return Ok(None);
    }
    Found::new(format!("the RX ring has {now} entries of {most}"))
        .read(format!("RX {now}, at most {most}"), cx.ethtool("-g"))
        .mend(format!("{} rx {}", cx.ethtool("-G"), (2 * wanted).min(most)))
        .judged()
}

fn small_device(cx: &Context<'_>) -> Judgement {
    let (_, most) = known(&cx.device.rings)?.rx;
    if most == 0 || most >= wanted_entries(cx) {
        return Ok(None);
    }
    Found::new(format!("the longest RX ring has {most} entries"))
        .read(format!("RX at most {most}"), cx.ethtool("-g"))
        .judged()
}

/// A finding if the offload is on. Where the driver does not let it be switched off, only kernel
/// sockets are left.
fn offload(cx: &Context<'_>, name: &str, says: &str) -> Judgement {
    match cx.feature(name)? {
        Some(feature) if feature.active && feature.changeable => {
            Found::new(says).read(format!("{name}: on"), cx.ethtool("-k")).judged()
        }
        Some(feature) if feature.active => {
            Found::new(format!("{says}, and the driver does not let it be switched off"))
                .read(format!("{name}: on [fixed]"), cx.ethtool("-k"))
                .mend("quiclane serve --io udp")
                .judged()
        }
        _ => Ok(None),
    }
}

fn gro_hw(cx: &Context<'_>) -> Judgement {
    // Where it can be switched, virtio_net itself tells its device to merge nothing while a program
    // is attached, and refuses the switch as long.
    if cx.driver()? == "virtio_net" && cx.feature("rx-gro-hw")?.is_some_and(|it| it.changeable) {
        return Ok(None);
    }
    offload(cx, "rx-gro-hw", "hardware GRO merges packets before XDP")
}

fn lro(cx: &Context<'_>) -> Judgement {
    offload(cx, "rx-lro", "LRO merges packets before XDP")
}

fn vlan(cx: &Context<'_>) -> Judgement {
    let index = known(&cx.nic.index)?;
    let mut sift = Sift::new();
    for other in &cx.host.survey.devices {
        let is_on_top = sift.take(&other.link).is_some_and(|link| {
            link.kind.as_deref() == Some("vlan") && link.lower.as_ref() == Some(index)
        });
        sift.hits.extend(is_on_top.then_some(other));
    }
    let Some(above) = sift.hits.first().copied() else {
        return sift.judge(|_| Found::new(""));
    };
    let says = format!("VLAN tags are taken out before XDP, and {} needs them", above.name);
    let found = offload(cx, "rx-vlan-hw-parse", &says)?;
    Ok(found.map(|it| it.read("a VLAN device", format!("ip -d link show {}", above.name))))
}

fn mtu(cx: &Context<'_>) -> Judgement {
    let mtu = *known(&cx.nic.mtu_bytes)?;
    let config = XdpConfig::new(cx.name());
    let limit = config.mtu_limit();
    if mtu <= limit {
        return Ok(None);
    }
    Found::new(format!("MTU {mtu}: a frame of {} bytes holds {limit}", config.chunk_bytes))
        .read(format!("mtu {mtu}"), cx.file("mtu"))
        .judged()
}

fn gro_generic(cx: &Context<'_>) -> Judgement {
    let attached = known(&cx.device.attached)?;
    if !attached.iter().any(|program| program.mode == AttachMode::Generic) {
        return Ok(None);
    }
    for name in ["rx-gro-list", "rx-udp-gro-forwarding"] {
        let found = offload(cx, name, &format!("{name} merges UDP before the generic program"))?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}
