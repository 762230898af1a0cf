//! Where the threads of a registration sit, and what they are called.

use super::super::affinity::WorkerPlacement;
use super::super::config::{Affinity, Pin, Polling, Profile, RegistrationConfig};
use super::super::source::Source;
use super::super::status::Board;
use super::super::sys;
use super::relays::{self, Line};
use super::start::OpenError;
use crate::topology::{self, Machine, Note, Placement};
use std::sync::Arc;
use std::thread::JoinHandle;

/// The longest name that the kernel keeps of a thread: `TASK_COMM_LEN` less the zero at its end.
const THREAD_NAME_BYTES: usize = 15;

pub(super) fn polling(config: &RegistrationConfig) -> Polling {
    match config.profile {
        Profile::Scavenger => Polling::Sleep,
        Profile::LowLatency | Profile::RealTime | Profile::MaxThroughput => config.polling,
    }
}

/// Where workers run, and the threads of their queues, if those are others.
pub(super) struct Seating {
    pub(super) is_pinned: bool,
    pub(super) places: Vec<WorkerPlacement>,
    /// For each queue.
    pub(super) soft_cpus: Vec<Vec<u32>>,
    pub(super) lines: Vec<Line>,
    pub(super) relays: Vec<JoinHandle<()>>,
}

/// Starts the threads of the queues: nothing that follows may fail.
pub(super) fn seat(
    config: &RegistrationConfig,
    machine: &Machine,
    placement: &Placement,
    plan: &relays::Plan<'_>,
) -> Result<Seating, OpenError> {
    let is_pinned = is_pinned(config.pin, matches!(plan.source, Source::Xdp { .. }));
    let places = places(config, machine, placement, is_pinned)?;
    let is_soft = is_pinned && config.affinity == Affinity::Soft;
    let soft_cpus = if is_soft { soft_cpus(machine, placement)? } else { Vec::new() };
    let (lines, relays) = plan.start(queue_threads(config, plan.source, placement, is_pinned))?;
    Ok(Seating { is_pinned, places, soft_cpus, lines, relays })
}

/// Where each worker runs.
fn places(
    config: &RegistrationConfig,
    machine: &Machine,
    placement: &Placement,
    is_pinned: bool,
) -> Result<Vec<WorkerPlacement>, OpenError> {
    let rows = &placement.rows;
    let count = config.workers_of_a_queue();
    if is_pinned && config.profile == Profile::MaxThroughput {
        let allowed = sys::allowed_cpus().map_err(OpenError::System)?;
        return Ok(relays::beside(machine, rows, &allowed, count));
    }
    Ok(rows.iter().flat_map(|row| vec![place(row, is_pinned); count]).collect())
}

/// The place of what serves a queue.
fn place(row: &topology::Assignment, is_pinned: bool) -> WorkerPlacement {
    if is_pinned {
        return WorkerPlacement::from(*row);
    }
    WorkerPlacement { queue: row.queue, ..WorkerPlacement::default() }
}

/// The threads of the queues, if workers are not that themselves: their names, and where each runs.
fn queue_threads(
    config: &RegistrationConfig,
    source: &Source,
    placement: &Placement,
    is_pinned: bool,
) -> Vec<(String, WorkerPlacement)> {
    if config.profile != Profile::MaxThroughput {
        return Vec::new();
    }
    let letter = if matches!(source, Source::Xdp { .. }) { 'q' } else { 'd' };
    let thread = |row: &topology::Assignment| {
        let name = thread_name(&config.name, &format!("-{letter}{}", row.queue));
        (name, place(row, is_pinned))
    };
    placement.rows.iter().map(thread).collect()
}

/// For each worker the CPUs that it may move to: those of its CPU's node that this process may use; all
/// of them if the node is not known.
fn soft_cpus(machine: &Machine, placement: &Placement) -> Result<Vec<Vec<u32>>, OpenError> {
    let allowed = sys::allowed_cpus().map_err(OpenError::System)?;
    let is_near = |cpu: u32, node: Option<u32>| {
        let there = machine.cpu(cpu).and_then(|cpu| cpu.node.known().copied());
        node.is_none() || there == node
    };
    let of = |row: &topology::Assignment| {
        allowed.iter().copied().filter(|&cpu| is_near(cpu, row.node)).collect()
    };
    Ok(placement.rows.iter().map(of).collect())
}

/// What is known of workers before they start: the CPUs that serve their queues, and why those are not
/// where [`RegistrationConfig::near`] wants them.
pub(super) fn tell(boards: &[Arc<Board>], placement: &Placement, seating: &Seating) {
    let count = seating.places.len() / placement.rows.len().max(1);
    for (boards, row) in boards.chunks(count.max(1)).zip(&placement.rows) {
        let unmet = placement.notes.iter().find_map(|note| match note {
            Note::NotNear { queue, unmet, .. } if *queue == row.queue => {
                Some(format!("{unmet}; {}", unmet.remedy()))
            }
            _ => None,
        });
        let queue_cpu = seating.is_pinned.then_some(row.cpu);
        for board in boards {
            board.change_facts(|facts| {
                facts.queue_cpu = queue_cpu;
                facts.unmet.clone_from(&unmet);
            });
        }
    }
}

/// The suffix of a worker's thread name. A worker of an AF_XDP queue is named after the queue, by
/// which inspection finds it; a worker with a UDP socket after its number.
pub(super) fn suffix(
    config: &RegistrationConfig,
    source: &Source,
    number: usize,
    queue: u32,
) -> String {
    match source {
        Source::Xdp { .. } if config.profile == Profile::MaxThroughput => format!("-{number}"),
        Source::Xdp { .. } => format!("-q{queue}"),
        Source::Udp { .. } => format!("-{number}"),
    }
}

/// The thread name that `ps -L` shows. The prefix is cut, so that the number stays: the kernel would
/// cut the number.
pub(super) fn thread_name(name: &str, suffix: &str) -> String {
    let mut end = name.len().min(THREAD_NAME_BYTES.saturating_sub(suffix.len()));
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &name[..end])
}

pub(super) fn is_pinned(pin: Pin, is_xdp: bool) -> bool {
    match pin {
        Pin::All => true,
        Pin::Xdp => is_xdp,
        Pin::Off => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_shows_the_whole_number_of_a_queue() {
        for (name, suffix, shown) in [
            ("quiclane", "-q3", "quiclane-q3"),
            ("quiclane-web", "-q12", "quiclane-we-q12"),
            // 2 bytes a letter: none is cut in half.
            (
                "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
                "-q12",
                "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}-q12",
            ),
        ] {
            let thread = std::thread::Builder::new().name(thread_name(name, suffix));
            let comm = || std::fs::read_to_string("/proc/thread-self/comm").unwrap();
            let comm = thread.spawn(comm).unwrap().join().unwrap();
            assert_eq!(comm.trim_end(), shown);
        }
    }
}
