//! Behaviour of single drivers that an operator does not expect.

use crate::doctor::context::{Context, known, named};
use crate::doctor::finding::{Check, Found, Judgement, Kind, Severity};
use quiclane::topology::survey::device::{AttachMode, Attached};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "QL060",
        severity: Severity::Note,
        title: "igb: zero-copy begins with Linux 6.14",
        reads: "the driver (ethtool -i DEV) and /proc/sys/kernel/osrelease",
        why: "The hardware can do zero-copy, and the driver of this kernel cannot: workers run in \
              copy mode until the kernel is newer.",
        mend: "apt install linux-image-amd64/stable-backports",
        afterwards: "quiclane nic list: zc",
        check: Check::Device(igb_kernel),
    },
    Kind {
        id: "QL061",
        severity: Severity::Note,
        title: "igb: zero-copy cuts frames in small chunks",
        reads: "the driver (ethtool -i DEV) and its XDP features (netdev netlink, dev-get)",
        why: "With chunks of 2048 bytes igb delivers the first 1024 bytes of longer packets \
              without any error. Quiclane uses 4096 by itself and refuses 2048; other AF_XDP \
              programs on this device have to be configured.",
        mend: "quiclane serve --dev DEV --frame-size 4096",
        afterwards: "quiclane serve starts; with --frame-size 2048 it refuses",
        check: Check::Device(igb_chunks),
    },
    Kind {
        id: "QL062",
        severity: Severity::Error,
        title: "ena: too many queues for XDP",
        reads: "the driver (ethtool -i DEV) and its channels (ethtool -l DEV)",
        why: "ena uses one more transmit queue for every XDP queue: a program is refused unless \
              at most half of the queues are in use.",
        mend: "quiclane plan DEV",
        afterwards: "ethtool -l DEV: combined at most half of the maximum",
        check: Check::Device(ena),
    },
    Kind {
        id: "QL063",
        severity: Severity::Warn,
        title: "ice: RDMA keeps the channels from being changed",
        reads: "the driver (ethtool -i DEV) and /sys/class/net/DEV/device/infiniband",
        why: "While irdma uses the device, `ethtool -L` is refused with EBUSY, and a plan that \
              changes the number of queues cannot be applied. RDMA also holds interrupts that \
              queues could have.",
        mend: "modprobe -r irdma",
        afterwards: "/sys/class/net/DEV/device/infiniband is gone",
        check: Check::Device(ice),
    },
    Kind {
        id: "QL064",
        severity: Severity::Note,
        title: "ixgbe: switching ntuple rules resets the table",
        reads: "the driver (ethtool -i DEV), the indirection table (ethtool -x DEV), and \
                rx-ntuple-filter (ethtool -k DEV)",
        why: "The table of this device is not the default one. The next `ethtool -K DEV ntuple`, \
              by any process, sets it back, and queues without a socket get packets.",
        mend: "ethtool -K DEV ntuple on; quiclane plan DEV",
        afterwards: "quiclane rss show DEV after each change of ntuple",
        check: Check::Device(ixgbe),
    },
    Kind {
        id: "QL065",
        severity: Severity::Note,
        title: "virtio-net: set RSS after the program is attached",
        reads: "the driver (ethtool -i DEV), rx-hashing (ethtool -k DEV), the attached programs \
                (ip link show DEV)",
        why: "Attaching XDP resets the device. RSS that was set before is off afterwards, without \
              a message: all packets arrive on one queue.",
        mend: "quiclane plan DEV",
        afterwards: "quiclane rss show DEV once the server runs",
        check: Check::Device(virtio_rss),
    },
    Kind {
        id: "QL066",
        severity: Severity::Note,
        title: "virtio-net: zero-copy begins with Linux 6.11",
        reads: "the driver (ethtool -i DEV) and /proc/sys/kernel/osrelease",
        why: "The older driver copies. The hypervisor has to offer the device with \
              iommu_platform=on as well.",
        mend: "apt install linux-image-amd64/stable-backports",
        afterwards: "quiclane nic list: zc",
        check: Check::Device(virtio_kernel),
    },
    Kind {
        id: "QL067",
        severity: Severity::Warn,
        title: "A device that stands on others",
        reads: "the kind of the device: ip -d link show DEV",
        why: "Bonds, bridges and VLANs have no queues of their own. AF_XDP binds to queues: \
              zero-copy and native mode are possible on the devices below, with one server \
              process or one set of workers for each.",
        mend: "quiclane nic list",
        afterwards: "quiclane doctor, with the name of each device below",
        check: Check::Device(stacked),
    },
    Kind {
        id: "QL068",
        severity: Severity::Error,
        title: "veth: the other end has more TX queues",
        reads: "/sys/class/net/PEER/queues/tx-* and /sys/class/net/DEV/queues/rx-*; XDP features \
                (netdev netlink, dev-get) where the other end is in another namespace",
        why: "What the other end sends on queue N arrives on receive queue N. A program is \
              refused (ENOSPC) while the other end has more transmit queues than this one has \
              receive queues.",
        mend: "quiclane plan DEV",
        afterwards: "quiclane nic list: as many queues on both ends",
        check: Check::Device(veth_queues),
    },
    Kind {
        id: "QL069",
        severity: Severity::Warn,
        title: "veth: the other end leaves checksums to hardware",
        reads: "tx-checksum-ip-generic and tx-udp-segmentation of the other end: ethtool -k PEER",
        why: "A veth has no hardware. What the kernel sends from there reaches XDP with checksums \
              that were never filled in. Quiclane accepts the packets that an AEAD guards and \
              drops the others, so that a client of an unknown version gets no Version \
              Negotiation; other AF_XDP programs may drop all packets. With segmentation a \
              generic program sees one long packet instead of many.",
        mend: "ethtool -K PEER tx off",
        afterwards: "ethtool -k PEER: tx-checksumming: off",
        check: Check::Device(veth_offloads),
    },
];

fn is_driver(cx: &Context<'_>, names: &[&str]) -> Result<bool, String> {
    Ok(names.contains(&cx.driver()?.as_str()))
}

fn from_driver(cx: &Context<'_>, found: Found) -> Result<Found, String> {
    Ok(found.read(format!("driver {}", cx.driver()?), cx.ethtool("-i")))
}

/// A driver that has zero-copy from some kernel on.
fn needs_kernel(cx: &Context<'_>, driver: &str, needed: (u32, u32)) -> Judgement {
    if !is_driver(cx, &[driver])? || cx.host.kernel()? >= needed {
        return Ok(None);
    }
    // A vendor may have backported it to an older kernel.
    if cx.device.xdp_support.known().is_some_and(|it| it.offers("xsk-zerocopy")) {
        return Ok(None);
    }
    let release = known(&cx.host.survey.host.kernel)?;
    let (major, minor) = needed;
    let says = format!("{driver} copies on Linux {release}: zero-copy needs {major}.{minor}");
    from_driver(cx, Found::new(says))?
        .read(format!("Linux {release}"), "/proc/sys/kernel/osrelease")
        .judged()
}

fn igb_kernel(cx: &Context<'_>) -> Judgement {
    needs_kernel(cx, "igb", (6, 14))
}

fn virtio_kernel(cx: &Context<'_>) -> Judgement {
    needs_kernel(cx, "virtio_net", (6, 11))
}

fn igb_chunks(cx: &Context<'_>) -> Judgement {
    if !is_driver(cx, &["igb"])? || !known(&cx.device.xdp_support)?.offers("xsk-zerocopy") {
        return Ok(None);
    }
    from_driver(cx, Found::new("igb cuts zero-copy packets in chunks of 2048 bytes"))?
        .read("xsk-zerocopy", format!("netdev netlink, dev-get, {}", cx.name()))
        .judged()
}

fn ena(cx: &Context<'_>) -> Judgement {
    if !is_driver(cx, &["ena"])? {
        return Ok(None);
    }
    let (now, most) = known(&cx.device.channels)?.combined;
    // A device whose program is attached has solved this already.
    let is_attached = known(&cx.device.attached)?.iter().any(|p| p.mode == AttachMode::Native);
    if now <= most / 2 || is_attached {
        return Ok(None);
    }
    from_driver(cx, Found::new(format!("ena takes XDP on {} of its {now} queues only", most / 2)))?
        .read(format!("combined {now}, at most {most}"), cx.ethtool("-l"))
        .mend(format!("{} combined {}", cx.ethtool("-L"), (most / 2).max(1)))
        .judged()
}

fn ice(cx: &Context<'_>) -> Judgement {
    let rdma = &cx.device.rdma_devices;
    if !is_driver(cx, &["ice"])? || rdma.is_empty() {
        return Ok(None);
    }
    from_driver(
        cx,
        Found::new(format!("{} keeps the channels from being changed", rdma.join(", "))),
    )?
    .read(rdma.join(", "), cx.file("device/infiniband"))
    .judged()
}

fn ixgbe(cx: &Context<'_>) -> Judgement {
    if !is_driver(cx, &["ixgbe"])? {
        return Ok(None);
    }
    let contexts = known(&cx.device.rss)?;
    let Some(table) = contexts.iter().find(|c| c.id == 0).map(|c| &c.table) else {
        return Ok(None);
    };
    let queues = cx.nic.queues.len().max(1);
    if table.iter().enumerate().all(|(slot, queue)| *queue == (slot % queues) as u32) {
        return Ok(None);
    }
    let mut used: Vec<u32> = table.clone();
    used.sort_unstable();
    used.dedup();
    from_driver(cx, Found::new("the table is not the default: switching ntuple resets it"))?
        .read(format!("the table names {}", named("queue", &used)), cx.ethtool("-x"))
        .judged()
}

fn virtio_rss(cx: &Context<'_>) -> Judgement {
    if !is_driver(cx, &["virtio_net"])? || !known(&cx.device.attached)?.is_empty() {
        return Ok(None);
    }
    if !cx.feature("rx-hashing")?.is_some_and(|feature| feature.active) {
        return Ok(None);
    }
    from_driver(cx, Found::new("the present RSS is off once a program is attached"))?
        .read("rx-hashing: on", cx.ethtool("-k"))
        .read("no program", format!("ip link show {}", cx.name()))
        .judged()
}

fn stacked(cx: &Context<'_>) -> Judgement {
    let link = known(&cx.device.link)?;
    let stacks = ["bond", "team", "bridge", "vlan", "macvlan", "ipvlan", "openvswitch"];
    let Some(kind) = link.kind.as_deref().filter(|kind| stacks.contains(kind)) else {
        return Ok(None);
    };
    let index = known(&cx.nic.index)?;
    let survey = cx.host.survey;
    let below = survey.machine.nics.iter().zip(&survey.devices).filter(|(nic, device)| {
        let is_slave = device.link.known().and_then(|link| link.master).as_ref() == Some(index);
        is_slave || (link.lower.is_some() && link.lower.as_ref() == nic.index.known())
    });
    let below: Vec<&str> = below.map(|(nic, _)| nic.name.as_str()).collect();
    let show = format!("ip -d link show {}", cx.name());
    let found = Found::new(format!("a {kind} has no queues: bind to what it stands on"))
        .read(format!("kind {kind}"), show);
    match below.first() {
        None => found.judged(),
        Some(first) => found
            .read(format!("it stands on {}", below.join(", ")), "ip -d link")
            .mend(format!("quiclane serve --dev {first}"))
            .judged(),
    }
}

fn veth_queues(cx: &Context<'_>) -> Judgement {
    let is_native = |it: &Attached| it.mode == AttachMode::Native;
    if !is_driver(cx, &["veth"])? || known(&cx.device.attached)?.iter().any(is_native) {
        return Ok(None);
    }
    let rx = cx.nic.queues.len();
    let peer = match cx.peer() {
        Ok(peer) => peer,
        Err(gone) => return veth_withdrawn(cx, rx, gone),
    };
    let tx = peer.nic.tx_queues;
    if tx <= rx {
        return Ok(None);
    }
    Found::new(format!("{} sends on {tx} queues, {} receives on {rx}", peer.name(), cx.name()))
        .read(format!("{tx} transmit queues"), peer.file("queues"))
        .read(format!("{rx} receive queues"), cx.file("queues"))
        .mend(format!("{} tx {rx}", peer.ethtool("-L")))
        .judged()
}

/// For a veth whose other end is in another namespace. It offers native XDP only if the other end
/// has no more transmit queues than this one has receive queues: so the offer tells.
fn veth_withdrawn(cx: &Context<'_>, rx: usize, gone: String) -> Judgement {
    let support = known(&cx.device.xdp_support).map_err(|_| gone)?;
    if support.offers("basic") {
        return Ok(None);
    }
    let name = cx.name();
    let says =
        format!("the other end sends on more queues than {name} receives on ({rx}): no native XDP");
    let found = Found::new(says)
        .read("no basic", format!("netdev netlink, dev-get, {name}"))
        .read(format!("{rx} receive queues"), cx.file("queues"));
    match cx.device.channels.known().map(|channels| channels.rx) {
        Some((now, most)) if now < most => found.mend(format!("{} rx {most}", cx.ethtool("-L"))),
        // To be run in the namespace of the other end.
        _ => found.mend(format!("ethtool -L PEER tx {rx}")),
    }
    .judged()
}

fn veth_offloads(cx: &Context<'_>) -> Judgement {
    if !is_driver(cx, &["veth"])? {
        return Ok(None);
    }
    let peer = cx.peer()?;
    let checksums = peer.feature("tx-checksum-ip-generic")?.is_some_and(|it| it.active);
    let segments = peer.feature("tx-udp-segmentation")?.is_some_and(|it| it.active);
    let is_generic = known(&cx.device.attached)?.iter().any(|it| it.mode == AttachMode::Generic);
    let says = match (checksums, segments && is_generic) {
        (true, _) => format!("{} sends packets without checksums", peer.name()),
        (false, true) => format!("{} sends many packets as one", peer.name()),
        (false, false) => return Ok(None),
    };
    let on = |is_on: bool| if is_on { "on" } else { "off" };
    let what =
        format!("tx-checksum-ip-generic: {}, tx-udp-segmentation: {}", on(checksums), on(segments));
    Found::new(says)
        .read(what, peer.ethtool("-k"))
        .mend(format!("{} tx off", peer.ethtool("-K")))
        .judged()
}
