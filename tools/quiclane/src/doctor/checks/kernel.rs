//! What the kernel was built with, how it is set, and what this process may do.

use crate::doctor::context::{Host, known};
use crate::doctor::finding::{Check, Found, Judgement, Kind, Severity};
use quiclane::datapath::xdp::CAPABILITIES;

const CONFIG: &str = "the kernel's configuration (/proc/config.gz, /boot/config-*)";

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "QL090",
        severity: Severity::Error,
        title: "The kernel has no AF_XDP",
        reads: "CONFIG_XDP_SOCKETS: the kernel's configuration (/proc/config.gz, /boot/config-*)",
        why: "AF_XDP sockets cannot be opened: only kernel UDP sockets remain.",
        mend: "quiclane serve --io udp",
        afterwards: "zgrep XDP_SOCKETS= /proc/config.gz: y, on a kernel that was built with it",
        check: Check::Host(xdp_sockets),
    },
    Kind {
        id: "QL091",
        severity: Severity::Warn,
        title: "BPF programs are not compiled",
        reads: "/proc/sys/net/core/bpf_jit_enable, or CONFIG_BPF_JIT_ALWAYS_ON (/proc/config.gz, \
                /boot/config-*)",
        why: "The steering program is interpreted, about ten times slower, for every packet of \
              the device.",
        mend: "sysctl -w net.core.bpf_jit_enable=1",
        afterwards: "sysctl net.core.bpf_jit_enable: 1",
        check: Check::Host(jit),
    },
    Kind {
        id: "QL092",
        severity: Severity::Note,
        title: "The kernel has no type information",
        reads: "CONFIG_DEBUG_INFO_BTF: the kernel's configuration (/proc/config.gz, \
                /boot/config-*)",
        why: "Programs that read RX metadata (the NIC's hash and timestamps) cannot be loaded \
              without BTF, so `quiclane flow explain --verify` has to go by counters.",
        mend: "apt install linux-image-amd64",
        afterwards: "ls /sys/kernel/btf/vmlinux",
        check: Check::Host(btf),
    },
    Kind {
        id: "QL093",
        severity: Severity::Note,
        title: "The kernel does not report AF_XDP sockets",
        reads: "CONFIG_XDP_SOCKETS_DIAG: the kernel's configuration (/proc/config.gz, \
                /boot/config-*)",
        why: "The kernel cannot be asked which socket is bound to which queue, nor for its mode \
              and counters (`ss --xdp` shows nothing): what the tools show of sockets of other \
              programs is incomplete. Quiclane servers report this themselves, in /run/quiclane.",
        mend: "modprobe xsk_diag || apt install linux-image-amd64",
        afterwards: "ss --xdp",
        check: Check::Host(diag),
    },
    Kind {
        id: "QL094",
        severity: Severity::Note,
        title: "This process may not open AF_XDP sockets",
        reads: "CapEff of the process that looks: /proc/self/status",
        why: "AF_XDP needs CAP_NET_RAW for the socket, CAP_NET_ADMIN and CAP_BPF for the program, \
              and CAP_IPC_LOCK for its memory unless `ulimit -l` allows as much. A server started \
              from this shell gets kernel UDP sockets, or does not start. A unit with \
              AmbientCapabilities is not concerned.",
        mend: "setcap cap_net_admin,cap_net_raw,cap_bpf,cap_ipc_lock+ep $(command -v quiclane)",
        afterwards: "getcap $(command -v quiclane); quiclane serve --require native",
        check: Check::Host(capabilities),
    },
];

fn xdp_sockets(host: &Host<'_>) -> Judgement {
    match host.option("CONFIG_XDP_SOCKETS")? {
        Some(_) => Ok(None),
        None => Found::new("the kernel was built without AF_XDP")
            .read("CONFIG_XDP_SOCKETS is not set", CONFIG)
            .judged(),
    }
}

fn jit(host: &Host<'_>) -> Judgement {
    let switch = match known(&host.survey.host.bpf_jit) {
        Ok(switch) => *switch,
        // Only the first network namespace has the file.
        Err(_) if host.option("CONFIG_BPF_JIT_ALWAYS_ON") == Ok(Some("y")) => return Ok(None),
        Err(reason) => {
            return Err(format!(
                "{reason}; only the first network namespace has it: nsenter -t 1 -n sysctl \
                 net.core.bpf_jit_enable"
            ));
        }
    };
    if switch != 0 {
        return Ok(None);
    }
    Found::new("BPF programs are interpreted")
        .read("0", "/proc/sys/net/core/bpf_jit_enable")
        .judged()
}

fn btf(host: &Host<'_>) -> Judgement {
    match host.option("CONFIG_DEBUG_INFO_BTF")? {
        Some(_) => Ok(None),
        None => Found::new("the kernel has no BTF: no RX metadata")
            .read("CONFIG_DEBUG_INFO_BTF is not set", CONFIG)
            .judged(),
    }
}

fn diag(host: &Host<'_>) -> Judgement {
    let found = Found::new("sockets of other programs are seen in part: no XDP_SOCKETS_DIAG");
    match host.option("CONFIG_XDP_SOCKETS_DIAG")? {
        Some("y") => Ok(None),
        // Asking loads the module; once it is loaded the sockets report where they are bound.
        Some(_) => {
            let sockets = host.survey.sockets.known();
            let is_blind = sockets.is_some_and(|all| all.iter().any(|it| it.device.is_none()));
            if !is_blind {
                return Ok(None);
            }
            found
                .read("CONFIG_XDP_SOCKETS_DIAG=m, and no answer", CONFIG)
                .mend("modprobe xsk_diag")
                .judged()
        }
        None => found
            .read("CONFIG_XDP_SOCKETS_DIAG is not set", CONFIG)
            .mend("apt install linux-image-amd64")
            .judged(),
    }
}

fn capabilities(host: &Host<'_>) -> Judgement {
    let it = known(&host.survey.host.capabilities)?;
    let can_bpf = it.bpf || it.sys_admin;
    let [admin, raw, bpf, lock] = CAPABILITIES;
    let needed = [(it.net_admin, admin), (it.net_raw, raw), (can_bpf, bpf)];
    // Without CAP_IPC_LOCK alone the limit decides: QL071.
    if needed.iter().all(|(has, _)| *has) {
        return Ok(None);
    }
    let all = needed.into_iter().chain([(it.ipc_lock, lock)]);
    let missing: Vec<&str> = all.filter_map(|(has, name)| (!has).then_some(name)).collect();
    let missing = missing.join(", ");
    Found::new(format!("this process has no {missing}"))
        .read(format!("CapEff without {missing}"), "/proc/self/status")
        .mend(setcap())
        .judged()
}

/// Grants this program file the capabilities that it needs.
fn setcap() -> String {
    let names = CAPABILITIES.map(str::to_ascii_lowercase).join(",");
    let program = std::env::current_exe()
        .map_or_else(|_| "$(command -v quiclane)".to_owned(), |path| path.display().to_string());
    format!("setcap {names}+ep {program}")
}
