//! Losses: counters of sockets, servers, the NIC and the kernel's stack. With two looks
//! (`--watch-seconds`) it is what was lost between them.

use crate::doctor::context::{Context, Host, known, named};
use crate::doctor::finding::{Check, Found, Judgement, Kind, Severity};
use crate::inspect::sheet::count;
use quiclane::topology::survey::device::{QueueCounters, XskCounters, XskSocket};
use quiclane::topology::survey::host::Backlog;
use std::collections::BTreeMap;

/// One squeeze in this many packets is normal on a busy machine.
const PACKETS_PER_SQUEEZE: u64 = 10_000;

/// Counters of a server that rise if the sender leaves checksums to hardware that is not there.
const OF_CHECKSUMS: &[&str] = &["damaged", "drop_udp_checksum"];

/// The drivers' own names for packets that the NIC had no buffer for.
const NIC_DROPS: &[&str] = &[
    "rx_missed_errors",
    "rx_no_buffer_count",
    "rx_no_dma_resources",
    "rx_out_of_buffer",
    "rx_discards_phy",
    "rx_dropped.nic",
    "port.rx_dropped",
    "rx_fifo_errors",
    "rx_queue_drops",
    "rx_overruns",
];

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "QL050",
        severity: Severity::Warn,
        title: "Packets arrive on wrong queues",
        reads: "wrong_queue of each worker: /run/quiclane/PID.json",
        why: "The packets belong to connections of other workers, and are handed over from thread \
              to thread: each costs a copy and a second thread. The table, the key or the hashed \
              fields changed under the server, a rule sends flows away, or clients move.",
        mend: "quiclane plan DEV",
        afterwards: "quiclane doctor DEV --watch-seconds 10: gone",
        check: Check::Device(wrong_queue),
    },
    Kind {
        id: "QL051",
        severity: Severity::Warn,
        title: "A socket's receive ring was full",
        reads: "rx_ring_full of the sockets (XDP_STATISTICS, sock_diag)",
        why: "Packets came faster than the worker took them, and were dropped. The worker shares \
              its CPU, or the load needs more queues.",
        mend: "quiclane plan DEV",
        afterwards: "quiclane doctor DEV --watch-seconds 10: gone",
        check: Check::Device(ring_full),
    },
    Kind {
        id: "QL052",
        severity: Severity::Warn,
        title: "A socket's fill ring was empty",
        reads: "fill_ring_empty of the sockets (XDP_STATISTICS, sock_diag)",
        why: "The kernel had no frame for a packet, and dropped it. The worker gave frames back \
              too late, as when it shares its CPU, or the application keeps them.",
        mend: "quiclane serve --dev DEV --cpus LIST",
        afterwards: "quiclane doctor DEV --watch-seconds 10: gone",
        check: Check::Device(fill_empty),
    },
    Kind {
        id: "QL053",
        severity: Severity::Warn,
        title: "A socket refused packets or descriptors",
        reads: "rx_dropped, rx_invalid and tx_invalid of the sockets (XDP_STATISTICS, sock_diag)",
        why: "rx_dropped counts packets that did not fit a chunk, usually merged ones. In copy \
              mode it also counts those for which the fill ring had no frame; these belong to \
              QL052 and are left out here. Invalid descriptors are a fault of the program that \
              owns the socket.",
        mend: "ethtool -K DEV gro off lro off",
        afterwards: "quiclane doctor DEV --watch-seconds 10: gone",
        check: Check::Device(refused),
    },
    Kind {
        id: "QL054",
        severity: Severity::Warn,
        title: "The NIC drops packets",
        reads: "drops of each queue (netdev netlink, qstats-get) and the driver's counters \
                (ethtool -S DEV)",
        why: "The NIC had no descriptor for the packets: its ring was not emptied in time. No \
              counter of a socket or a server shows them.",
        mend: "ethtool -G DEV rx 2048",
        afterwards: "quiclane doctor DEV --watch-seconds 10: gone",
        check: Check::Device(nic_drops),
    },
    Kind {
        id: "QL057",
        severity: Severity::Warn,
        title: "A server throws away what arrives",
        reads: "dropped of each worker: /run/quiclane/PID.json",
        why: "The packets reached the server and could not be used: malformed headers, more \
              than its socket held, or a wrong UDP checksum where no AEAD guards the packet \
              (damaged). A wrong checksum may come from a sender that leaves checksums to \
              hardware that is not there (QL069). Clients get no answer.",
        mend: "quiclane doctor DEV --explain QL069",
        afterwards: "quiclane doctor DEV --watch-seconds 10: gone",
        check: Check::Device(thrown_away),
    },
    Kind {
        id: "QL055",
        severity: Severity::Warn,
        title: "The kernel's backlog drops packets",
        reads: "/proc/net/softnet_stat, second column",
        why: "Packets for the kernel's own stack were dropped on their way between CPUs. This \
              concerns kernel UDP sockets, generic XDP behind RPS, and veth.",
        mend: "sysctl -w net.core.netdev_max_backlog=5000",
        afterwards: "quiclane doctor --watch-seconds 10: gone",
        check: Check::Host(softnet_drops),
    },
    Kind {
        id: "QL056",
        severity: Severity::Note,
        title: "Softirqs run out of their budget",
        reads: "/proc/net/softnet_stat, first and third column; net.core.netdev_budget",
        why: "NAPI had more work than its budget allows at one time, and left packets waiting. \
              Often the CPU of the interrupt is shared with something else.",
        mend: "sysctl -w net.core.netdev_budget=600",
        afterwards: "quiclane doctor --watch-seconds 10: gone",
        check: Check::Host(squeezes),
    },
];

/// What a counter grew by since the earlier look; its whole value if there was none.
fn since(now: u64, before: Option<u64>) -> u64 {
    now.saturating_sub(before.unwrap_or(0))
}

/// Counters by name that grew since the earlier look, and by how much. A counter that a server does
/// not name is zero.
pub(super) fn rises<'a>(
    now: &'a BTreeMap<String, u64>,
    before: Option<&'a BTreeMap<String, u64>>,
) -> impl Iterator<Item = (&'a str, u64)> {
    now.iter().filter_map(move |(name, count)| {
        let rise = since(*count, before.and_then(|before| before.get(name).copied()));
        (rise > 0).then_some((name.as_str(), rise))
    })
}

pub(super) fn when(is_watched: bool) -> &'static str {
    if is_watched { "while watched" } else { "so far" }
}

fn wrong_queue(cx: &Context<'_>) -> Judgement {
    let before = cx.before();
    let mut hits = Vec::new();
    let mut is_served = false;
    for (server, worker) in cx.served() {
        is_served = true;
        let earlier = before.and_then(|before| {
            let mut all = before.served();
            let same = all.find(|(s, w)| s.pid == server.pid && w.queue == worker.queue);
            same.map(|(_, worker)| worker.wrong_queue)
        });
        // The status file of a server has the rate of the last second.
        let rise = match earlier {
            Some(earlier) => since(worker.wrong_queue, Some(earlier)),
            None => worker.wrong_queue_recent,
        };
        if rise > 0 {
            hits.push((server.pid, worker, rise));
        }
    }
    if !is_served && !cx.socket_queues()?.is_empty() {
        return Err(
            "the process with the sockets has no status file in /run/quiclane that counts it"
                .to_owned(),
        );
    }
    if hits.is_empty() {
        return Ok(None);
    }
    let queues: Vec<u32> = hits.iter().map(|(_, worker, _)| worker.queue).collect();
    let total = hits.iter().map(|(_, _, rise)| rise).sum::<u64>();
    let period = if before.is_some() { "while watched" } else { "in the last second" };
    let packets = count(usize::try_from(total).unwrap_or(usize::MAX), "packet");
    let verb = if total == 1 { "is" } else { "are" };
    let says =
        format!("{packets} on {} {verb} of other workers, {period}", named("queue", &queues));
    hits.iter()
        .fold(Found::new(says), |found, (pid, worker, rise)| {
            let what = format!("queue {}: {rise}, {} in all", worker.queue, worker.wrong_queue);
            found.read(what, format!("/run/quiclane/{pid}.json"))
        })
        .judged()
}

/// Sockets and one of their counters, where it rose.
fn socket_counter(cx: &Context<'_>, name: &str, of: fn(&XskCounters) -> u64) -> Judgement {
    let before = cx.before();
    let earlier = |socket: &XskSocket| {
        let sockets = before?.sockets().ok()?;
        let same = sockets.into_iter().find(|other| other.inode == socket.inode)?;
        same.counters.as_ref().map(of)
    };
    let mut hits = Vec::new();
    let mut silent = false;
    for socket in cx.sockets()? {
        let Some(counters) = &socket.counters else {
            silent = true;
            continue;
        };
        let rise = since(of(counters), earlier(socket));
        if rise > 0 {
            hits.push((socket, rise));
        }
    }
    if hits.is_empty() {
        let reason = "the kernel does not report the counters of a socket (XDP_SOCKETS_DIAG)";
        return if silent { Err(reason.to_owned()) } else { Ok(None) };
    }
    let total = hits.iter().map(|(_, rise)| rise).sum::<u64>();
    let sockets = count(hits.len(), "socket");
    let found = Found::new(format!("{name} is {total} on {sockets} {}", when(before.is_some())));
    hits.iter()
        .fold(found, |found, (socket, rise)| {
            let queue = socket.queue.map_or_else(|| "?".to_owned(), |queue| queue.to_string());
            found.read(format!("queue {queue}: {name} {rise}"), "ss --xdp -e")
        })
        .judged()
}

fn ring_full(cx: &Context<'_>) -> Judgement {
    socket_counter(cx, "rx_ring_full", |counters| counters.rx_ring_full)
}

fn fill_empty(cx: &Context<'_>) -> Judgement {
    socket_counter(cx, "fill_ring_empty", |counters| counters.fill_ring_empty)
}

fn refused(cx: &Context<'_>) -> Judgement {
    socket_counter(cx, "rx_dropped + rx_invalid + tx_invalid", |counters| {
        counters.rx_refused() + counters.rx_invalid + counters.tx_invalid
    })
}

/// Packets that servers threw away, by reason and queue.
fn thrown_away(cx: &Context<'_>) -> Judgement {
    let before = cx.before();
    let mut by_reason: BTreeMap<&str, u64> = BTreeMap::new();
    let mut read = Vec::new();
    let mut is_served = false;
    for (server, worker) in cx.served() {
        is_served = true;
        let earlier = before.and_then(|before| {
            let mut all = before.served();
            all.find(|(s, w)| s.pid == server.pid && w.queue == worker.queue)
        });
        let Some(dropped) = &worker.dropped else {
            return Err(format!("the server (pid {}) is too old to report it", server.pid));
        };
        let known = earlier.and_then(|(_, worker)| worker.dropped.as_ref());
        for (reason, rise) in rises(dropped, known) {
            *by_reason.entry(reason).or_default() += rise;
            let what = format!("queue {}: {reason} {rise}", worker.queue);
            read.push((what, format!("/run/quiclane/{}.json", server.pid)));
        }
    }
    if !is_served && !cx.socket_queues()?.is_empty() {
        return Err(
            "the process with the sockets has no status file in /run/quiclane that counts it"
                .to_owned(),
        );
    }
    if read.is_empty() {
        return Ok(None);
    }
    let reasons: Vec<String> =
        by_reason.iter().map(|(reason, rise)| format!("{reason} {rise}")).collect();
    let total = by_reason.values().sum::<u64>();
    let packets = count(usize::try_from(total).unwrap_or(usize::MAX), "packet");
    let period = when(before.is_some());
    let mut found = Found::new(format!("{packets} thrown away {period}: {}", reasons.join(", ")));
    for (what, from) in read {
        found = found.read(what, from);
    }
    // The other end of a veth is where the checksums are missing.
    let is_checksum = OF_CHECKSUMS.iter().any(|it| by_reason.contains_key(it));
    if is_checksum && cx.driver().as_deref() == Ok("veth") {
        let peer = cx.peer().map_or_else(|_| "PEER".to_owned(), |peer| peer.name().to_owned());
        found = found.mend(format!("ethtool -K {peer} tx off"));
    }
    found.judged()
}

fn nic_drops(cx: &Context<'_>) -> Judgement {
    let before = cx.before();
    let mut hits: Vec<(String, u64, String)> = Vec::new();
    if let Some(queues) = cx.device.queue_counters.known() {
        let earlier = before.and_then(|before| before.device.queue_counters.known());
        for queue in queues {
            let same = |other: &&QueueCounters| {
                (other.index, other.direction) == (queue.index, queue.direction)
            };
            let lost = |it: &QueueCounters| it.hw_drops.unwrap_or(0) + it.alloc_fail.unwrap_or(0);
            let rise = since(lost(queue), earlier.and_then(|all| all.iter().find(same)).map(lost));
            if rise > 0 {
                let what = format!("queue {}: {rise}", queue.index);
                hits.push((what, rise, format!("netdev netlink, qstats-get, {}", cx.name())));
            }
        }
    }
    if let (Some(statistics), true) = (cx.device.statistics.known(), hits.is_empty()) {
        let earlier = before.and_then(|before| before.device.statistics.known());
        for (name, value) in statistics.iter().filter(|(name, _)| NIC_DROPS.contains(&&**name)) {
            let same = earlier.and_then(|all| all.iter().find(|(other, _)| other == name));
            let rise = since(*value, same.map(|(_, value)| *value));
            if rise > 0 {
                hits.push((format!("{name} {rise}"), rise, cx.ethtool("-S")));
            }
        }
    }
    if hits.is_empty() {
        // One of the two sources is enough to judge.
        return known(&cx.device.queue_counters)
            .map(|_| None)
            .or_else(|_| known(&cx.device.statistics).map(|_| None));
    }
    let total = hits.iter().map(|(_, rise, _)| rise).sum::<u64>();
    let packets = count(usize::try_from(total).unwrap_or(usize::MAX), "packet");
    let found = Found::new(format!("the NIC dropped {packets} {}", when(before.is_some())));
    hits.into_iter().fold(found, |found, (what, _, from)| found.read(what, from)).judged()
}

/// CPUs and their backlog since the earlier look.
fn backlogs(host: &Host<'_>) -> Result<Vec<(u32, Backlog)>, String> {
    let earlier = |cpu: u32| {
        let states = &host.before?.host.cpus;
        states.iter().find(|state| state.cpu == cpu)?.backlog.known().copied()
    };
    let states = &host.survey.host.cpus;
    states
        .iter()
        .map(|state| {
            let now = *known(&state.backlog)?;
            let before = earlier(state.cpu).unwrap_or_default();
            let rise = Backlog {
                processed: now.processed.saturating_sub(before.processed),
                dropped: now.dropped.saturating_sub(before.dropped),
                squeezed: now.squeezed.saturating_sub(before.squeezed),
            };
            Ok((state.cpu, rise))
        })
        .collect()
}

fn softnet_drops(host: &Host<'_>) -> Judgement {
    let mut all = backlogs(host)?;
    all.retain(|(_, backlog)| backlog.dropped > 0);
    if all.is_empty() {
        return Ok(None);
    }
    let cpus: Vec<u32> = all.iter().map(|(cpu, _)| *cpu).collect();
    let total = all.iter().map(|(_, backlog)| backlog.dropped).sum::<u64>();
    let packets = count(usize::try_from(total).unwrap_or(usize::MAX), "packet");
    let period = when(host.before.is_some());
    let found =
        Found::new(format!("the backlog of {} dropped {packets} {period}", named("cpu", &cpus)));
    all.iter()
        .fold(found, |found, (cpu, backlog)| {
            found.read(format!("cpu {cpu}: {} dropped", backlog.dropped), "/proc/net/softnet_stat")
        })
        .judged()
}

fn squeezes(host: &Host<'_>) -> Judgement {
    let mut all = backlogs(host)?;
    all.retain(|(_, it)| it.squeezed > 0 && it.squeezed * PACKETS_PER_SQUEEZE > it.processed);
    if all.is_empty() {
        return Ok(None);
    }
    let cpus: Vec<u32> = all.iter().map(|(cpu, _)| *cpu).collect();
    let found = Found::new(format!("softirqs of {} run out of budget", named("cpu", &cpus)));
    all.iter()
        .fold(found, |found, (cpu, it)| {
            let what = format!("cpu {cpu}: {} times in {} packets", it.squeezed, it.processed);
            found.read(what, "/proc/net/softnet_stat")
        })
        .judged()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quiclane::counters::Meaning;
    use quiclane::exec::Snapshot;

    #[test]
    fn counters_of_checksums_are_declared_as_drops() {
        for name in OF_CHECKSUMS {
            let mut all = Snapshot::default().iter();
            let found = all.find(|(_, counter, _)| counter.name == *name);
            let meaning = found.map(|(_, counter, _)| counter.meaning);
            assert_eq!(meaning, Some(Meaning::Dropped), "{name}");
        }
    }
}
