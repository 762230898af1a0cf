//! The host: its kernel, its settings, and what its CPUs are busy with.

use crate::topology::{Machine, Reading, Source};
use serde::{Deserialize, Serialize};

/// A host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: Reading<String>,
    /// The kernel's release, such as `6.18.5`.
    pub kernel: Reading<String>,
    /// The kernel's command line.
    pub boot_arguments: Reading<String>,
    /// The capabilities of the process that looks.
    pub capabilities: Reading<Capabilities>,
    /// Memory that a process without CAP_IPC_LOCK may lock, in bytes; `u64::MAX` is no limit.
    pub memlock_bytes: Reading<u64>,
    /// Huge pages.
    pub huge_pages: Vec<HugePages>,
    /// The daemon that moves interrupts; `None` if it does not run.
    pub irqbalance: Reading<Option<u32>>,
    /// Microseconds that `poll` polls a device (`net.core.busy_poll`).
    pub busy_poll_us: Reading<u32>,
    /// Microseconds that a read polls a device (`net.core.busy_read`).
    pub busy_read_us: Reading<u32>,
    /// BPF programs are compiled (`net.core.bpf_jit_enable`).
    pub bpf_jit: Reading<u32>,
    /// Packets that one softirq may handle (`net.core.netdev_budget`).
    pub netdev_budget: Reading<u32>,
    /// Every CPU that is online, in the order of [`Machine::cpus`].
    pub cpus: Vec<CpuState>,
    /// What a kernel was built with, by option, such as `CONFIG_XDP_SOCKETS_DIAG`: only the
    /// options that matter here.
    pub kernel_options: Reading<Vec<(String, String)>>,
}

/// Capabilities that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Change devices.
    pub net_admin: bool,
    /// Open raw and AF_XDP sockets.
    pub net_raw: bool,
    /// Load programs.
    pub bpf: bool,
    /// Lock memory without limit.
    pub ipc_lock: bool,
    /// Everything else.
    pub sys_admin: bool,
    /// Look into other processes.
    pub sys_ptrace: bool,
}

/// Huge pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugePages {
    /// The memory node; `None` for the whole machine.
    pub node: Option<u32>,
    /// The size of one, in KiB.
    pub size_kib: u32,
    /// How many there are.
    pub total: u64,
    /// How many are free.
    pub free: u64,
}

/// A CPU: how it is set, and what it is busy with. Counts are since boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuState {
    /// Its number.
    pub cpu: u32,
    /// The governor of its frequency: `performance`, `powersave`...
    pub governor: Reading<String>,
    /// Idle states that it may enter, the lightest first.
    pub idle_states: Vec<IdleState>,
    /// NET_RX softirqs.
    pub net_rx_softirqs: Reading<u64>,
    /// NET_TX softirqs.
    pub net_tx_softirqs: Reading<u64>,
    /// Time by kind, in ticks of 10 ms.
    pub time: Reading<CpuTime>,
    /// Packets that the kernel's own stack took, dropped and put off.
    pub backlog: Reading<Backlog>,
}

/// An idle state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdleState {
    /// Its name.
    pub name: String,
    /// How long it takes to leave it, in microseconds.
    pub exit_latency_us: u32,
    /// May not be entered.
    pub disabled: bool,
}

/// Where the time of a CPU went, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// Programs.
    pub user: u64,
    /// The kernel.
    pub system: u64,
    /// Nothing.
    pub idle: u64,
    /// Hard interrupts.
    pub irq: u64,
    /// Soft interrupts.
    pub softirq: u64,
}

/// A line of `/proc/net/softnet_stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Packets taken.
    pub processed: u64,
    /// Packets dropped: the backlog was full.
    pub dropped: u64,
    /// Times that a budget ran out with work left.
    pub squeezed: u64,
}

/// Reads the host.
pub(super) fn read(source: &Source, machine: &Machine) -> Host {
    let sysctl = |name: &str| source.number(format!("/proc/sys/net/core/{name}"));
    Host {
        name: source.text("/proc/sys/kernel/hostname"),
        kernel: source.text("/proc/sys/kernel/osrelease"),
        boot_arguments: source.text("/proc/cmdline"),
        capabilities: source.parsed("/proc/self/status", capabilities),
        memlock_bytes: source.parsed("/proc/self/limits", memlock),
        huge_pages: huge_pages(source),
        irqbalance: source.irqbalance(),
        busy_poll_us: sysctl("busy_poll"),
        busy_read_us: sysctl("busy_read"),
        bpf_jit: sysctl("bpf_jit_enable"),
        netdev_budget: sysctl("netdev_budget"),
        cpus: cpu_states(source, machine),
        kernel_options: source.kernel_options(),
    }
}

/// The bits are those of `linux/capability.h`.
fn capabilities(status: &str) -> Option<Capabilities> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let bits = u64::from_str_radix(line.trim(), 16).ok()?;
    let has = |bit: u32| bits & (1 << bit) != 0;
    Some(Capabilities {
        net_admin: has(12),
        net_raw: has(13),
        bpf: has(39),
        ipc_lock: has(14),
        sys_admin: has(21),
        sys_ptrace: has(19),
    })
}

/// The soft limit: `Max locked memory  8388608  8388608  bytes`.
fn memlock(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        bytes => bytes.parse().ok(),
    }
}

fn huge_pages(source: &Source) -> Vec<HugePages> {
    let mut places = vec![(None, "/sys/kernel/mm/hugepages".to_owned())];
    for node in source.numbered("/sys/devices/system/node", "node") {
        places.push((Some(node), format!("/sys/devices/system/node/node{node}/hugepages")));
    }
    let mut found = Vec::new();
    for (node, directory) in places {
        for name in source.names(&directory) {
            let size = name.strip_prefix("hugepages-").and_then(|name| name.strip_suffix("kB"));
            let Some(size_kib) = size.and_then(|size| size.parse().ok()) else { continue };
            let count = |file: &str| {
                let read = source.number(format!("{directory}/{name}/{file}"));
                read.known().copied().map(u64::from)
            };
            let (Some(total), Some(free)) = (count("nr_hugepages"), count("free_hugepages")) else {
                continue;
            };
            found.push(HugePages { node, size_kib, total, free });
        }
    }
    found
}

fn cpu_states(source: &Source, machine: &Machine) -> Vec<CpuState> {
    let counters = Counters::read(source);
    let state = |cpu: u32| {
        let base = format!("/sys/devices/system/cpu/cpu{cpu}");
        let governor = source.text(format!("{base}/cpufreq/scaling_governor"));
        counters.state(cpu, governor, idle_states(source, &base))
    };
    machine.cpus.iter().map(|cpu| state(cpu.id)).collect()
}

impl Host {
    /// The same host later: only what is counted is read.
    pub(super) fn again(&self, source: &Source) -> Self {
        let counters = Counters::read(source);
        let state =
            |old: &CpuState| counters.state(old.cpu, old.governor.clone(), old.idle_states.clone());
        Self { cpus: self.cpus.iter().map(state).collect(), ..self.clone() }
    }
}

/// The files that count for all CPUs.
struct Counters {
    softirqs: Reading<String>,
    stat: Reading<String>,
    backlog: Reading<String>,
}

impl Counters {
    fn read(source: &Source) -> Self {
        Self {
            softirqs: source.text("/proc/softirqs"),
            stat: source.text("/proc/stat"),
            backlog: source.text("/proc/net/softnet_stat"),
        }
    }

    fn state(&self, cpu: u32, governor: Reading<String>, idle_states: Vec<IdleState>) -> CpuState {
        let of_kind =
            |kind: &str| from(&self.softirqs, "/proc/softirqs", |text| softirq(text, kind, cpu));
        CpuState {
            cpu,
            governor,
            idle_states,
            net_rx_softirqs: of_kind("NET_RX"),
            net_tx_softirqs: of_kind("NET_TX"),
            time: from(&self.stat, "/proc/stat", |text| cpu_time(text, cpu)),
            backlog: from(&self.backlog, "/proc/net/softnet_stat", |text| softnet(text, cpu)),
        }
    }
}

/// What `find` finds in a text that was read once for all CPUs.
fn from<T>(text: &Reading<String>, file: &str, find: impl FnOnce(&str) -> Option<T>) -> Reading<T> {
    match text {
        Reading::Unknown(reason) => Reading::Unknown(reason.clone()),
        Reading::Known(text) => match find(text) {
            Some(value) => Reading::Known(value),
            None => Reading::unknown(format!("{file} does not say")),
        },
    }
}

/// A head line names the CPUs, which may have gaps: `   CPU0  CPU2`.
fn softirq(text: &str, kind: &str, cpu: u32) -> Option<u64> {
    let mut lines = text.lines();
    let name = format!("CPU{cpu}");
    let column = lines.next()?.split_whitespace().position(|head| head == name)?;
    let line = lines.find_map(|line| line.trim_start().strip_prefix(kind)?.strip_prefix(':'))?;
    line.split_whitespace().nth(column)?.parse().ok()
}

/// `cpu3 user nice system idle iowait irq softirq ...` (proc_stat(5)).
fn cpu_time(text: &str, cpu: u32) -> Option<CpuTime> {
    let name = format!("cpu{cpu} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name))?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|f| f.parse().ok()).collect();
    let [user, nice, system, idle, iowait, irq, softirq, ..] = fields[..] else { return None };
    Some(CpuTime { user: user + nice, system, idle: idle + iowait, irq, softirq })
}

/// A line for each CPU that is online, in hex; the 13th field is the CPU's number.
fn softnet(text: &str, cpu: u32) -> Option<Backlog> {
    const CPU_FIELD: usize = 12;
    text.lines().enumerate().find_map(|(at, line)| {
        let fields: Vec<u64> = line
            .split_whitespace()
            .map_while(|field| u64::from_str_radix(field, 16).ok())
            .collect();
        let number = fields.get(CPU_FIELD).copied().unwrap_or(at as u64);
        let [processed, dropped, squeezed, ..] = fields[..] else { return None };
        (number == u64::from(cpu)).then_some(Backlog { processed, dropped, squeezed })
    })
}

fn idle_states(source: &Source, base: &str) -> Vec<IdleState> {
    let state = |at: u32| {
        let directory = format!("{base}/cpuidle/state{at}");
        Some(IdleState {
            name: source.text(format!("{directory}/name")).known()?.clone(),
            exit_latency_us: *source.number(format!("{directory}/latency")).known()?,
            disabled: *source.number(format!("{directory}/disable")).known()? != 0,
        })
    };
    source.numbered(format!("{base}/cpuidle"), "state").into_iter().filter_map(state).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_texts_are_read() {
        let status = "Name:\tx\nCapEff:\t000000c000003000\n";
        let found = capabilities(status).unwrap();
        assert!(found.net_admin && found.net_raw && found.bpf && !found.ipc_lock);
        let limits = "Limit  Soft  Hard  Units\nMax locked memory  8388608  unlimited  bytes\n";
        assert_eq!(memlock(limits), Some(8_388_608));
        assert_eq!(memlock("Max locked memory  unlimited  unlimited  bytes"), Some(u64::MAX));
    }

    #[test]
    fn columns_are_found_by_their_head() {
        let text = "       CPU0   CPU2\n HI:  1  2\n NET_RX:  30  40\n";
        assert_eq!(softirq(text, "NET_RX", 2), Some(40));
        assert_eq!(softirq(text, "NET_RX", 1), None);
        let stat = "cpu  1 1 1 1 1 1 1 0\ncpu0 10 1 20 300 5 6 7 0 0 0\n";
        let time = CpuTime { user: 11, system: 20, idle: 305, irq: 6, softirq: 7 };
        assert_eq!(cpu_time(stat, 0), Some(time));
    }

    #[test]
    fn the_backlog_names_its_cpu() {
        let line = |cpu: u32| format!("0000000a 00000001 00000002 0 0 0 0 0 0 0 0 0 {cpu:08x} 0 0");
        let text = format!("{}\n{}\n", line(0), line(3));
        let backlog = Backlog { processed: 10, dropped: 1, squeezed: 2 };
        assert_eq!(softnet(&text, 3), Some(backlog));
        assert_eq!(softnet(&text, 1), None);
    }
}
