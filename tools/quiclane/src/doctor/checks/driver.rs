//! What the driver and the link offer.

use crate::doctor::context::{Context, known};
use crate::doctor::finding::{Check, Found, Judgement, Kind, Severity};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "QL037",
        severity: Severity::Error,
        title: "The link is down",
        reads: "state and carrier: ip link show DEV",
        why: "No packet comes or goes. Some drivers reset the link when a program is attached; \
              then it is up again within seconds.",
        mend: "ip link set DEV up",
        afterwards: "ip link show DEV: LOWER_UP",
        check: Check::Device(link),
    },
    Kind {
        id: "QL038",
        severity: Severity::Note,
        title: "Zero-copy is not offered",
        reads: "XDP features of the driver (netdev netlink, dev-get): xsk-zerocopy",
        why: "The kernel copies every packet between the driver's memory and the worker's. This \
              works, and costs a copy of each packet both ways.",
        mend: "quiclane serve --dev DEV --require native",
        afterwards: "quiclane nic list: zc where the driver offers it",
        check: Check::Device(zerocopy),
    },
    Kind {
        id: "QL039",
        severity: Severity::Warn,
        title: "Only generic XDP is offered",
        reads: "XDP features of the driver (netdev netlink, dev-get): basic, redirect",
        why: "The program runs behind the driver on socket buffers: each packet costs an \
              allocation and a copy before the program sees it. Loopback and many cloud devices \
              are like that; kernel UDP sockets with GRO and GSO are the better datapath for \
              bulk there.",
        mend: "quiclane serve --io udp",
        afterwards: "quiclane nic list: native, on a device whose driver has it",
        check: Check::Device(native),
    },
];

fn link(cx: &Context<'_>) -> Judgement {
    let link = known(&cx.device.link)?;
    let show = format!("ip link show {}", cx.name());
    match (link.is_up, link.has_carrier) {
        (true, true) => Ok(None),
        (false, _) => Found::new("the link is switched off")
            .read(format!("state {}", link.state), show)
            .judged(),
        (true, false) => Found::new("the link has no carrier")
            .read(format!("state {}", link.state), show)
            .mend(format!("ethtool {}", cx.name()))
            .judged(),
    }
}

fn features_text(cx: &Context<'_>) -> Result<String, String> {
    let support = known(&cx.device.xdp_support)?;
    let none = support.features.is_empty();
    Ok(if none { "no XDP features".to_owned() } else { support.features.join(" ") })
}

fn zerocopy(cx: &Context<'_>) -> Judgement {
    let support = known(&cx.device.xdp_support)?;
    // Without native XDP, QL039 is the finding, and this one follows from it.
    if support.offers("xsk-zerocopy") || !support.offers("basic") {
        return Ok(None);
    }
    Found::new("the driver copies: no AF_XDP zero-copy")
        .read(features_text(cx)?, format!("netdev netlink, dev-get, {}", cx.name()))
        .judged()
}

fn native(cx: &Context<'_>) -> Judgement {
    let support = known(&cx.device.xdp_support)?;
    if support.offers("basic") && support.offers("redirect") {
        return Ok(None);
    }
    // A veth has native XDP, unless the other end has too many queues: that is QL068.
    if cx.driver()? == "veth" {
        return Ok(None);
    }
    Found::new("the driver has no native XDP: generic mode only")
        .read(features_text(cx)?, format!("netdev netlink, dev-get, {}", cx.name()))
        .judged()
}
