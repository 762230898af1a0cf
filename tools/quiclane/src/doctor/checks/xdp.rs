//! Programs on the device, pins that programs left behind, and the mode of the sockets.

use crate::doctor::context::{Context, Host, known, named};
use crate::doctor::finding::{Check, Found, Judgement, Kind, Severity};
use crate::inspect::sheet::count;
use quiclane::datapath::xdp;
use quiclane::topology::survey::Survey;
use quiclane::topology::survey::device::{AttachMode, Program};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "QL040",
        severity: Severity::Error,
        title: "Another owner's program is attached",
        reads: "the attached programs, with the names of their maps and who holds them (ip link \
                show DEV, bpftool prog show); /run/quiclane",
        why: "A device takes one XDP program of a mode. Quiclane never removes a program of \
              another owner: it refuses to start, and the packets go where that program sends \
              them.",
        mend: "ip link set dev DEV xdp off",
        afterwards: "quiclane xdp list: no foreign program",
        check: Check::Device(foreign),
    },
    Kind {
        id: "QL041",
        severity: Severity::Warn,
        title: "The program runs in generic mode, native is offered",
        reads: "the attached program's mode (ip link show DEV) and the XDP features of the driver \
                (netdev netlink, dev-get)",
        why: "Behind the driver each packet costs a socket buffer and a copy before the program \
              sees it; in the driver it costs neither.",
        mend: "quiclane serve --dev DEV --require native",
        afterwards: "quiclane xdp list: native",
        check: Check::Device(generic),
    },
    Kind {
        id: "QL042",
        severity: Severity::Warn,
        title: "Pins that no process uses",
        reads: "loaded programs, their pins in /sys/fs/bpf, and the processes that have them open",
        why: "A pin keeps a program, map or link alive after its process. A link that was left \
              behind goes on steering packets into a map whose sockets are gone, and the next \
              server cannot attach.",
        mend: "rm PIN",
        afterwards: "quiclane xdp list: the program is gone",
        check: Check::Host(stale_pins),
    },
    Kind {
        id: "QL043",
        severity: Severity::Warn,
        title: "The steering program has no socket",
        reads: "the attached program (ip link show DEV) and the queues with sockets (netdev \
                netlink, sock_diag, the XSKMAP, /run/quiclane)",
        why: "Quiclane's program is attached and has no socket: every packet goes to the kernel, as \
              if no program were attached, and costs one more lookup. This is normal for a moment \
              while a server starts; a server that stays like this has lost its sockets.",
        mend: "ip link set dev DEV xdp off",
        afterwards: "quiclane xdp list: XSK on queues, or no program",
        check: Check::Device(no_sockets),
    },
    Kind {
        id: "QL044",
        severity: Severity::Warn,
        title: "Sockets copy, zero-copy is offered",
        reads: "the sockets' mode (sock_diag, /run/quiclane) and the XDP features of the driver \
                (netdev netlink, dev-get)",
        why: "The driver can receive into the worker's frames, and the kernel copies each packet \
              instead. Most often the server stepped down at its start, and logged the reason.",
        mend: "quiclane serve --dev DEV --require zerocopy",
        afterwards: "quiclane queue show DEV: zc",
        check: Check::Device(copies),
    },
    Kind {
        id: "QL045",
        severity: Severity::Error,
        title: "A worker has lost its datapath",
        reads: "the status file of the server: /run/quiclane/PID.json",
        why: "The socket of a queue is gone: the device was removed, or an error could not be \
              recovered. What arrives on that queue is lost until the server starts again.",
        mend: "systemctl restart quiclane",
        afterwards: "quiclane doctor DEV",
        check: Check::Device(lost),
    },
];

/// A program of Quiclane: by its name or the names of its maps, or held by a server with a status
/// file.
fn is_ours(survey: &Survey, program: &Program) -> bool {
    let maps: Vec<&str> = program.maps.iter().map(|map| map.name.as_str()).collect();
    let is_server = |pid: u32| survey.servers.iter().any(|server| server.pid == pid);
    xdp::is_ours(&program.name, &maps) || program.processes.iter().any(|it| is_server(it.pid))
}

/// Its name in messages.
pub(super) fn name_of(program: &Program) -> &str {
    if program.name.is_empty() { "without a name" } else { &program.name }
}

const fn mode_name(mode: AttachMode) -> &'static str {
    match mode {
        AttachMode::Native => "native",
        AttachMode::Generic => "generic",
        AttachMode::Offloaded => "offloaded",
    }
}

const fn off_word(mode: AttachMode) -> &'static str {
    match mode {
        AttachMode::Native => "xdpdrv",
        AttachMode::Generic => "xdpgeneric",
        AttachMode::Offloaded => "xdpoffload",
    }
}

fn show(cx: &Context<'_>) -> String {
    format!("ip link show {}", cx.name())
}

fn foreign(cx: &Context<'_>) -> Judgement {
    let programs = cx.programs()?;
    let Some((attached, program)) =
        programs.iter().find(|(_, program)| !is_ours(cx.host.survey, program))
    else {
        return Ok(None);
    };
    let id = attached.program;
    let owner = match &program.processes[..] {
        [] => String::new(),
        [first, ..] => format!(" of {} (pid {})", first.name, first.pid),
    };
    let says = format!(
        "{} program {id} {}{owner} is attached",
        mode_name(attached.mode),
        name_of(program)
    );
    let found = Found::new(says)
        .read(format!("program {id}, {}", mode_name(attached.mode)), show(cx))
        .read(format!("name: {}", name_of(program)), format!("bpftool prog show id {id}"));
    match (&program.processes[..], program.links.first()) {
        // No other process can replace a link: its own process has to end.
        ([first, ..], Some(_)) => found.mend(format!("kill {}", first.pid)),
        ([], Some((link, _))) => found.mend(format!("bpftool link detach id {link}")),
        (_, None) => {
            found.mend(format!("ip link set dev {} {} off", cx.name(), off_word(attached.mode)))
        }
    }
    .judged()
}

fn generic(cx: &Context<'_>) -> Judgement {
    let attached = known(&cx.device.attached)?;
    let Some(program) = attached.iter().find(|it| it.mode == AttachMode::Generic) else {
        return Ok(None);
    };
    let support = known(&cx.device.xdp_support)?;
    if !support.offers("basic") {
        return Ok(None);
    }
    Found::new(format!("program {} runs in generic mode, native is offered", program.program))
        .read(format!("program {}, generic", program.program), show(cx))
        .read(support.features.join(" "), format!("netdev netlink, dev-get, {}", cx.name()))
        .judged()
}

/// Which processes have a program open can be read only with the right to look into them.
fn stale_pins(host: &Host<'_>) -> Judgement {
    let programs = known(&host.survey.programs)?;
    let matters = |program: &&Program| program.kind == "xdp" || is_ours(host.survey, program);
    let pinned = programs.iter().filter(matters).filter(|program| !program.pins.is_empty());
    let stale: Vec<&Program> = pinned.filter(|program| program.processes.is_empty()).collect();
    let Some(first) = stale.first() else { return Ok(None) };
    let capabilities = known(&host.survey.host.capabilities)?;
    if !capabilities.sys_ptrace && !capabilities.sys_admin {
        return Err("which process has a program open is seen with CAP_SYS_PTRACE only".to_owned());
    }
    let pins: Vec<&str> =
        stale.iter().flat_map(|program| &program.pins).map(String::as_str).collect();
    let found = Found::new(format!(
        "{} of program {} {} without a process",
        count(pins.len(), "pin"),
        first.id,
        first.name
    ));
    stale
        .iter()
        .fold(found, |found, program| {
            let what = format!("program {}: {}", program.id, program.pins.join(", "));
            found.read(what, format!("bpftool prog show id {}", program.id))
        })
        .mend(format!("rm {}", pins.join(" ")))
        .judged()
}

fn no_sockets(cx: &Context<'_>) -> Judgement {
    let programs = cx.programs()?;
    let Some((attached, _)) = programs.iter().find(|(_, program)| is_ours(cx.host.survey, program))
    else {
        return Ok(None);
    };
    if !cx.socket_queues()?.is_empty() {
        return Ok(None);
    }
    let id = attached.program;
    Found::new(format!("program {id} steers packets, and no queue has a socket"))
        .read(format!("program {id}, {}", mode_name(attached.mode)), show(cx))
        .read("no queue with a socket", format!("quiclane queue show {}", cx.name()))
        .mend(format!("ip link set dev {} {} off", cx.name(), off_word(attached.mode)))
        .judged()
}

fn copies(cx: &Context<'_>) -> Judgement {
    if !known(&cx.device.xdp_support)?.offers("xsk-zerocopy") {
        return Ok(None);
    }
    let mut found: Vec<(u32, String)> = Vec::new();
    for (server, worker) in cx.served() {
        if worker.mode.as_deref().is_some_and(|mode| mode != "native-zerocopy") {
            found.push((worker.queue, format!("/run/quiclane/{}.json", server.pid)));
        }
    }
    if found.is_empty() {
        for socket in cx.sockets()? {
            match (socket.queue, socket.zerocopy) {
                (Some(queue), Some(false)) => found.push((queue, "sock_diag".to_owned())),
                (_, Some(true)) => {}
                _ => return Err("the kernel does not report the mode of a socket".to_owned()),
            }
        }
    }
    if found.is_empty() {
        return Ok(None);
    }
    let queues: Vec<u32> = found.iter().map(|(queue, _)| *queue).collect();
    let says = format!("the sockets of {} copy, zero-copy is offered", named("queue", &queues));
    found
        .iter()
        .fold(Found::new(says), |it, (queue, from)| {
            it.read(format!("queue {queue}: copy"), &**from)
        })
        .judged()
}

fn lost(cx: &Context<'_>) -> Judgement {
    let lost: Vec<_> = cx.served().filter(|(_, worker)| worker.error.is_some()).collect();
    let queues: Vec<u32> = lost.iter().map(|(_, worker)| worker.queue).collect();
    if lost.is_empty() {
        return Ok(None);
    }
    let found = Found::new(format!("the datapath of {} is lost", named("queue", &queues)));
    lost.iter()
        .fold(found, |found, (server, worker)| {
            let error = worker.error.as_deref().unwrap_or_default();
            let from = format!("/run/quiclane/{}.json", server.pid);
            found.read(format!("queue {}: {error}", worker.queue), from)
        })
        .judged()
}
