//! How the NIC spreads packets over its queues, and which of them have sockets.

use crate::doctor::context::{Context, known, named};
use crate::doctor::finding::{Check, Found, Judgement, Kind, Severity};
use crate::inspect::sheet::count;
use quiclane::topology::survey::rss::{FlowType, RssContext, RuleAction};
use std::collections::BTreeSet;

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "QL001",
        severity: Severity::Warn,
        title: "UDP ports are not hashed (IPv4)",
        reads: "the hashed fields of udp4: ethtool -n DEV rx-flow-hash udp4",
        why: "Without the ports (letters f and n) RSS hashes addresses only: all QUIC connections \
              between two hosts, and all behind one NAT, arrive on one queue, and one worker does \
              all the work.",
        mend: "ethtool -N DEV rx-flow-hash udp4 sdfn",
        afterwards: "quiclane rss show DEV: udp4 says sdfn",
        check: Check::Device(udp4),
    },
    Kind {
        id: "QL002",
        severity: Severity::Warn,
        title: "UDP ports are not hashed (IPv6)",
        reads: "the hashed fields of udp6: ethtool -n DEV rx-flow-hash udp6",
        why: "As QL001, for IPv6. The two are set separately: a machine where only one of them is \
              set works well until clients come over the other.",
        mend: "ethtool -N DEV rx-flow-hash udp6 sdfn",
        afterwards: "quiclane rss show DEV: udp6 says sdfn",
        check: Check::Device(udp6),
    },
    Kind {
        id: "QL003",
        severity: Severity::Error,
        title: "RSS sends packets to queues without an AF_XDP socket",
        reads: "the indirection table (ethtool -x DEV) and the queues with sockets (netdev \
                netlink, sock_diag, the XSKMAP, /run/quiclane)",
        why: "An AF_XDP socket receives only what arrives on its own queue. What the table sends \
              to another queue goes to the kernel's stack and past the server: a share of the \
              connections is slow, or never answered.",
        mend: "quiclane plan DEV",
        afterwards: "quiclane queue show DEV: every queue of the table has a socket",
        check: Check::Device(queues_without_socket),
    },
    Kind {
        id: "QL004",
        severity: Severity::Warn,
        title: "Sockets on queues that RSS never uses",
        reads: "the indirection table (ethtool -x DEV) and the queues with sockets",
        why: "The workers of these queues wait for packets that cannot come, and hold CPUs and \
              memory that the busy ones could use.",
        mend: "quiclane plan DEV",
        afterwards: "quiclane rss show DEV: the table names every queue that has a socket",
        check: Check::Device(idle_sockets),
    },
    Kind {
        id: "QL005",
        severity: Severity::Warn,
        title: "RSS uses only some of the queues",
        reads: "the indirection table: ethtool -x DEV",
        why: "No socket is bound yet, and a server that serves all queues, as it does unless told \
              otherwise, would have workers that no packet reaches.",
        mend: "ethtool -X DEV default",
        afterwards: "quiclane rss show DEV: the table names every queue",
        check: Check::Device(few_queues),
    },
    Kind {
        id: "QL006",
        severity: Severity::Note,
        title: "The hash function cannot be predicted",
        reads: "hash function and input transformation: ethtool -x DEV",
        why: "`quiclane flow explain` computes Toeplitz over the fields as they are in the packet. \
              With another function, or with a symmetric one, it cannot compute on which queue a \
              flow arrives; and a symmetric one spreads less.",
        mend: "ethtool -X DEV hfunc toeplitz",
        afterwards: "quiclane rss show DEV: toeplitz, no transformation",
        check: Check::Device(hash_function),
    },
    Kind {
        id: "QL007",
        severity: Severity::Warn,
        title: "A rule takes UDP past the sockets",
        reads: "classification rules: ethtool -n DEV",
        why: "Rules apply before RSS. A rule that drops UDP, or sends it to a queue without an \
              AF_XDP socket, takes packets from the server. No table and no counter of the server \
              shows that.",
        mend: "ethtool -N DEV delete RULE",
        afterwards: "ethtool -n DEV no longer lists the rule",
        check: Check::Device(rules),
    },
    Kind {
        id: "QL008",
        severity: Severity::Warn,
        title: "More queues than workers",
        reads: "the receive queues (/sys/class/net/DEV/queues) and those with sockets; the device \
                shows no indirection table",
        why: "Where there is no table, packets may arrive on any queue; those on a queue without \
              a socket go to the kernel's stack and past the server.",
        mend: "quiclane plan DEV",
        afterwards: "quiclane queue show DEV: every queue has a socket",
        check: Check::Device(more_queues_than_workers),
    },
    Kind {
        id: "QL009",
        severity: Severity::Error,
        title: "More workers than queues",
        reads: "the receive queues (/sys/class/net/DEV/queues) and those with sockets",
        why: "The queues of these sockets are gone, most often by `ethtool -L` under a running \
              server: their workers receive nothing, and what they send is refused.",
        mend: "quiclane plan DEV",
        afterwards: "quiclane queue show DEV: no socket on a queue that is not there",
        check: Check::Device(more_workers_than_queues),
    },
];

fn udp4(cx: &Context<'_>) -> Judgement {
    ports(cx, FlowType::Udp4)
}

fn udp6(cx: &Context<'_>) -> Judgement {
    ports(cx, FlowType::Udp6)
}

fn ports(cx: &Context<'_>, flow: FlowType) -> Judgement {
    if cx.nic.queues.len() < 2 {
        return Ok(None);
    }
    let fields = known(&cx.device.hash_fields)?;
    let of_flow = fields.iter().find(|fields| fields.flow == flow && fields.context == 0);
    let Some(fields) = of_flow else {
        return Err(format!("the driver does not report what it hashes of {flow}"));
    };
    if fields.has_ports() {
        return Ok(None);
    }
    let hashed = if fields.letters.is_empty() { "nothing" } else { &fields.letters };
    Found::new(format!("{flow} hashes {hashed}: the ports are not hashed"))
        .read(format!("{flow}: {hashed}"), cx.ethtool("-n") + &format!(" rx-flow-hash {flow}"))
        .judged()
}

/// Context 0; `None` if the device has no table, or only one queue.
fn main_context<'a>(cx: &Context<'a>) -> Result<Option<&'a RssContext>, String> {
    if cx.nic.queues.len() < 2 && !cx.device.has_table() {
        return Ok(None);
    }
    let contexts = known(&cx.device.rss)?;
    let main = contexts.iter().find(|context| context.id == 0);
    Ok(main.filter(|context| !context.table.is_empty()))
}

/// The queues that the tables of all contexts name.
fn fed_queues(cx: &Context<'_>) -> Result<Option<BTreeSet<u32>>, String> {
    if main_context(cx)?.is_none() {
        return Ok(None);
    }
    let contexts = known(&cx.device.rss)?;
    Ok(Some(contexts.iter().flat_map(|context| &context.table).copied().collect()))
}

fn queues_without_socket(cx: &Context<'_>) -> Judgement {
    let sockets = cx.socket_queues()?;
    if sockets.is_empty() {
        return Ok(None);
    }
    let Some(fed) = fed_queues(cx)? else { return Ok(None) };
    let bare: Vec<u32> = fed.difference(&sockets).copied().collect();
    if bare.is_empty() {
        return Ok(None);
    }
    Found::new(format!("RSS sends packets to {} without a socket", named("queue", &bare)))
        .read(format!("the table names {}", named("queue", &as_list(&fed))), cx.ethtool("-x"))
        .read(format!("sockets on {}", named("queue", &as_list(&sockets))), sockets_from(cx))
        .judged()
}

fn idle_sockets(cx: &Context<'_>) -> Judgement {
    let sockets = cx.socket_queues()?;
    if sockets.is_empty() {
        return Ok(None);
    }
    let Some(mut fed) = fed_queues(cx)? else { return Ok(None) };
    // Rules may send packets to queues that no table names.
    fed.extend(known(&cx.device.rules).into_iter().flatten().filter_map(|rule| {
        if let RuleAction::Queue(queue) = rule.action { Some(queue) } else { None }
    }));
    let idle: Vec<u32> = sockets.difference(&fed).copied().collect();
    if idle.is_empty() {
        return Ok(None);
    }
    Found::new(format!(
        "no packet reaches the {} on {}",
        sockets_word(&idle),
        named("queue", &idle)
    ))
    .read(format!("the table names {}", named("queue", &as_list(&fed))), cx.ethtool("-x"))
    .read(format!("sockets on {}", named("queue", &as_list(&sockets))), sockets_from(cx))
    .judged()
}

const fn sockets_word(queues: &[u32]) -> &'static str {
    if queues.len() == 1 { "socket" } else { "sockets" }
}

fn few_queues(cx: &Context<'_>) -> Judgement {
    let Some(fed) = fed_queues(cx)? else { return Ok(None) };
    let all = cx.nic.queues.len();
    if fed.len() >= all || !cx.socket_queues()?.is_empty() {
        return Ok(None);
    }
    Found::new(format!("RSS uses {} of {}", fed.len(), count(all, "queue")))
        .read(format!("the table names {}", named("queue", &as_list(&fed))), cx.ethtool("-x"))
        .read(count(all, "receive queue"), cx.file("queues"))
        .judged()
}

fn hash_function(cx: &Context<'_>) -> Judgement {
    let Some(context) = main_context(cx)? else { return Ok(None) };
    let Some(function) = &context.hash_function else {
        return Err("the driver does not report its hash function".to_owned());
    };
    let found = match &context.input_transform {
        Some(transform) => Found::new(format!("the hash input is changed first: {transform}"))
            .mend(cx.ethtool("-X") + " xfrm none"),
        None if function != "toeplitz" => {
            Found::new(format!("the hash function is {function}, not toeplitz"))
        }
        None => return Ok(None),
    };
    found.read(format!("hash function {function}"), cx.ethtool("-x")).judged()
}

fn rules(cx: &Context<'_>) -> Judgement {
    let rules = known(&cx.device.rules)?;
    let udp: Vec<_> =
        rules.iter().filter(|rule| ["udp4", "udp6", "ip4", "ip6"].contains(&&*rule.flow)).collect();
    if udp.is_empty() {
        return Ok(None);
    }
    let sockets = cx.socket_queues()?;
    if sockets.is_empty() {
        return Ok(None);
    }
    let wrong = |action: RuleAction| match action {
        RuleAction::Drop => Some("drops it".to_owned()),
        RuleAction::Queue(queue) if !sockets.contains(&queue) => {
            Some(format!("sends it to queue {queue}, which has no socket"))
        }
        RuleAction::VirtualFunction { function, .. } => {
            Some(format!("sends it to virtual function {function}"))
        }
        RuleAction::Queue(_) | RuleAction::Context { .. } => None,
    };
    let Some((rule, does)) = udp.iter().find_map(|rule| Some((rule, wrong(rule.action)?))) else {
        return Ok(None);
    };
    Found::new(format!("rule {} takes {} and {does}", rule.location, rule.flow))
        .read(format!("rule {}: {} {:?}", rule.location, rule.flow, rule.action), cx.ethtool("-n"))
        .read(format!("sockets on {}", named("queue", &as_list(&sockets))), sockets_from(cx))
        .mend(format!("{} delete {}", cx.ethtool("-N"), rule.location))
        .judged()
}

fn more_queues_than_workers(cx: &Context<'_>) -> Judgement {
    let sockets = cx.socket_queues()?;
    if sockets.is_empty() || fed_queues(cx).is_ok_and(|fed| fed.is_some()) {
        return Ok(None);
    }
    let queues = cx.nic.queues.iter().map(|queue| queue.index);
    let bare: Vec<u32> = queues.filter(|queue| !sockets.contains(queue)).collect();
    if bare.is_empty() {
        return Ok(None);
    }
    let workers = count(sockets.len(), "worker");
    let all = count(cx.nic.queues.len(), "queue");
    Found::new(format!("{all} and {workers}: none on {}", named("queue", &bare)))
        .read(format!("{all} that receive"), cx.file("queues"))
        .read(format!("sockets on {}", named("queue", &as_list(&sockets))), sockets_from(cx))
        .judged()
}

fn more_workers_than_queues(cx: &Context<'_>) -> Judgement {
    let sockets = cx.socket_queues()?;
    let is_there = |queue: &u32| cx.nic.queues.iter().any(|other| other.index == *queue);
    let lost: Vec<u32> = sockets.iter().filter(|queue| !is_there(queue)).copied().collect();
    if lost.is_empty() {
        return Ok(None);
    }
    let all = count(cx.nic.queues.len(), "queue");
    Found::new(format!("a socket on {}, of {all}", named("queue", &lost)))
        .read(format!("{all} that receive"), cx.file("queues"))
        .read(format!("sockets on {}", named("queue", &as_list(&sockets))), sockets_from(cx))
        .judged()
}

fn as_list(queues: &BTreeSet<u32>) -> Vec<u32> {
    queues.iter().copied().collect()
}

fn sockets_from(cx: &Context<'_>) -> String {
    format!("quiclane queue show {}", cx.name())
}
