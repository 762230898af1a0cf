//! What Quiclane servers count besides packets, on AF_XDP and kernel sockets alike: clients that
//! they refuse, and CPUs that they share. Only findings that an operator can act on: limited answers
//! and evicted handshakes are how a server meets a flood, and no finding.

use super::counters::{rises, when};
use crate::doctor::context::{Host, known, named};
use crate::doctor::finding::{Check, Found, Judgement, Kind, Severity};
use crate::inspect::sheet::count;
use quiclane::topology::survey::server::{Server, ServerWorker};
use std::collections::{BTreeMap, BTreeSet};

/// Limits: the counter of the clients that each refused, and the option that raises it.
const LIMITS: [(&str, &str); 5] = [
    ("refused_full", "quiclane serve --workers N"),
    ("refused_memory", "quiclane serve --max-memory MIB"),
    ("refused_source_connections", "quiclane serve --max-per-source N"),
    ("refused_rate", "quiclane serve --new-per-second N --network-new-per-second N"),
    ("refused_pressure", "quiclane serve --workers N"),
];

pub(super) const KINDS: &[Kind] = &[
    Kind {
        id: "QL058",
        severity: Severity::Warn,
        title: "A server refuses clients",
        reads: "refused of each worker: /run/quiclane/PID.json",
        why: "A limit is reached, and the clients get CONNECTION_REFUSED: the worker's table is \
              full (refused_full), its connections hold as much memory as they may \
              (refused_memory), the worker was late with what arrives for a second and more \
              (refused_pressure: it has too few CPUs for its load), more connections began in a \
              second than may (refused_rate; these are not answered), or one address has as many connections as it may \
              (refused_source_connections: often a NAT or a proxy with many clients behind it). \
              If you want these clients, raise the limit; if not, the limit does its work.",
        mend: "quiclane serve --max-memory MIB --max-per-source N",
        afterwards: "quiclane doctor --watch-seconds 10: gone",
        check: Check::Host(refuses),
    },
    Kind {
        id: "QL059",
        severity: Severity::Note,
        title: "Other threads compete for a worker's CPU",
        reads: "crowded of each worker: /run/quiclane/PID.json; it counts what \
                /proc/PID/task/TID/schedstat says",
        why: "The worker waited for its CPU for more than a twentieth of the time. Then it sleeps \
              at once instead of spinning, and each request pays for the wake-up. A client on the \
              same machine, another server, or the work of an interrupt may be on that CPU.",
        mend: "quiclane serve --cpus LIST",
        afterwards: "quiclane doctor --watch-seconds 10: gone",
        check: Check::Host(crowded),
    },
];

/// Every worker with its server, and its state at the earlier look.
fn workers<'a>(
    host: &Host<'a>,
) -> impl Iterator<Item = (&'a Server, &'a ServerWorker, Option<&'a ServerWorker>)> {
    let before = host.before;
    let all = host.survey.servers.iter();
    all.flat_map(|server| server.workers.iter().map(move |worker| (server, worker))).map(
        move |(server, worker)| {
            let same = |other: &&ServerWorker| {
                (other.queue, &other.device) == (worker.queue, &worker.device)
            };
            let earlier = before.and_then(|before| {
                let mut servers = before.servers.iter();
                let lives = |other: &&Server| {
                    (other.pid, other.started_ticks) == (server.pid, server.started_ticks)
                };
                servers.find(lives)?.workers.iter().find(same)
            });
            (server, worker, earlier)
        },
    )
}

/// The reason for no judgement where a server may run, and none has a status file.
fn told(host: &Host<'_>) -> Result<(), String> {
    if host.survey.servers.is_empty() && !known(&host.survey.sockets)?.is_empty() {
        return Err(
            "the process with the sockets has no status file in /run/quiclane that counts it"
                .to_owned(),
        );
    }
    Ok(())
}

fn is_older(server: &Server) -> String {
    format!("the server (pid {}) is too old to report it", server.pid)
}

fn file(server: &Server) -> String {
    format!("/run/quiclane/{}.json", server.pid)
}

fn refuses(host: &Host<'_>) -> Judgement {
    told(host)?;
    let mut by_reason: BTreeMap<&str, u64> = BTreeMap::new();
    let mut read = Vec::new();
    for (server, worker, earlier) in workers(host) {
        let refused = worker.refused.as_ref().ok_or_else(|| is_older(server))?;
        for (reason, rise) in rises(refused, earlier.and_then(|it| it.refused.as_ref())) {
            if LIMITS.iter().any(|(name, _)| *name == reason) {
                *by_reason.entry(reason).or_default() += rise;
                read.push((format!("queue {}: {reason} {rise}", worker.queue), file(server)));
            }
        }
    }
    let Some((worst, _)) = by_reason.iter().max_by_key(|(_, rise)| **rise) else {
        return Ok(None);
    };
    let raise = LIMITS.iter().find(|(name, _)| name == worst).map(|(_, command)| *command);
    let reasons: Vec<String> =
        by_reason.iter().map(|(reason, rise)| format!("{reason} {rise}")).collect();
    let total = usize::try_from(by_reason.values().sum::<u64>()).unwrap_or(usize::MAX);
    let period = when(host.before.is_some());
    let clients = count(total, "client");
    let mut found = Found::new(format!("{clients} refused {period}: {}", reasons.join(", ")));
    found.mend = raise.map(str::to_owned);
    read.into_iter().fold(found, |found, (what, from)| found.read(what, from)).judged()
}

fn crowded(host: &Host<'_>) -> Judgement {
    told(host)?;
    let (mut cpus, mut queues) = (BTreeSet::new(), BTreeSet::new());
    let mut total = 0;
    let mut read = Vec::new();
    for (server, worker, earlier) in workers(host) {
        let now = worker.crowded.ok_or_else(|| is_older(server))?;
        let rise = now.saturating_sub(earlier.and_then(|it| it.crowded).unwrap_or(0));
        if rise == 0 {
            continue;
        }
        total += rise;
        queues.insert(worker.queue);
        // With soft affinity that is only where it started.
        cpus.extend(worker.cpu.filter(|_| worker.soft_cpus.is_empty()));
        read.push((format!("queue {}: crowded {rise}", worker.queue), file(server)));
    }
    if read.is_empty() {
        return Ok(None);
    }
    let list = |set: BTreeSet<u32>| set.into_iter().collect::<Vec<_>>();
    let whose = match cpus.is_empty() {
        true => format!("the CPU of {}", named("queue", &list(queues))),
        false => named("cpu", &list(cpus)),
    };
    let times = count(usize::try_from(total).unwrap_or(usize::MAX), "time");
    let period = when(host.before.is_some());
    let found = Found::new(format!("other threads wanted {whose}: {times} {period}"));
    read.into_iter().fold(found, |found, (what, from)| found.read(what, from)).judged()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quiclane::counters::Meaning;
    use quiclane::exec::Snapshot;

    /// Counters of refused clients that no option raises: too many unfinished handshakes of one
    /// source are a flood, and refusing them is right.
    const BY_DESIGN: &[&str] = &[
        "refused_source_handshakes",
        "initials_dropped",
        "initials_source_share",
        "initials_shed",
    ];

    #[test]
    fn every_declared_refusal_has_a_limit_and_every_limit_a_declared_counter() {
        let counters = Snapshot::default().iter().map(|(_, counter, _)| counter);
        let refusals = counters.filter(|counter| counter.meaning == Meaning::Refused);
        let declared: BTreeSet<&str> = refusals.map(|counter| counter.name).collect();
        let limits = LIMITS.iter().map(|(name, _)| *name);
        let named: BTreeSet<&str> = limits.chain(BY_DESIGN.iter().copied()).collect();
        assert_eq!(named, declared);
    }

    #[test]
    fn counters_that_the_texts_name_are_declared() {
        let declared: BTreeSet<&str> =
            Snapshot::default().iter().map(|(_, counter, _)| counter.name).collect();
        let is_part = |part: char| part.is_ascii_lowercase() || part == '_';
        let mut met = 0;
        for kind in KINDS {
            for word in kind.why.split(|part| !is_part(part)).filter(|word| word.contains('_')) {
                assert!(word == "_" || declared.contains(word), "{}: {word}", kind.id);
                met += usize::from(declared.contains(word));
            }
        }
        assert!(met >= LIMITS.len(), "{met}");
        let crowded = KINDS.iter().find(|kind| kind.id == "QL059").unwrap().reads;
        let name = crowded.split(' ').next().unwrap();
        let turns = Snapshot::SETS.iter().find(|set| set.name == "turns").unwrap();
        assert!(turns.counters.iter().any(|counter| counter.name == name), "{name}");
    }
}
