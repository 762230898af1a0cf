//! Where a worker's thread runs, and where its memory comes from.
//!
//! A worker is bound to its CPU before it allocates anything: the UMEM, the rings and the table
//! of connections then lie on the node of that CPU, by the thread's memory policy and by first
//! touch.

use super::config::Profile;
use super::sys::{self, Scheduling};
use crate::topology::Assignment;
use std::fmt;
use std::io;

/// A worker's place on the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WorkerPlacement {
    /// The NIC queue, or the worker's own number.
    pub(super) queue: u32,
    /// The CPU to pin to.
    pub(super) cpu: Option<u32>,
    /// The node of that CPU, if it is known.
    pub(super) node: Option<u32>,
}

impl From<Assignment> for WorkerPlacement {
    fn from(row: Assignment) -> Self {
        Self { queue: row.queue, cpu: Some(row.cpu), node: row.node }
    }
}

/// Why a thread could not be pinned or scheduled.
#[derive(Debug)]
pub struct PinError {
    what: String,
    remedy: &'static str,
    error: io::Error,
}

impl PinError {
    /// The kind of the system call's error.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.error.kind()
    }
}

impl fmt::Display for PinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.what, self.error, self.remedy)
    }
}

impl std::error::Error for PinError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Lets the calling thread, which is on its CPU, run on all of `cpus`: what [`Affinity::Soft`] is.
/// Called once the worker has made what it needs. An empty list leaves it where it is. False if the
/// kernel refuses, which is logged: the thread then stays on its own CPU.
///
/// [`Affinity::Soft`]: super::Affinity::Soft
#[must_use]
pub(super) fn loosen(cpus: &[u32]) -> bool {
    if cpus.is_empty() {
        return true;
    }
    // Less than was asked for, and no worse than hard pinning.
    let warn = |error: &io::Error| {
        tracing::warn!(?cpus, %error, "the CPUs of a worker cannot be widened: it stays on its own");
    };
    sys::bind_to_cpus(cpus).inspect_err(warn).is_ok()
}

/// Pins the calling thread, and sets its memory policy and its scheduling.
pub(super) fn take(placement: &WorkerPlacement, profile: Profile) -> Result<(), PinError> {
    if let Some(cpu) = placement.cpu {
        let remedy = "name CPUs that this process may use, or turn pinning off";
        let what = || format!("the thread cannot be pinned to CPU {cpu}");
        sys::bind_to_cpus(&[cpu]).map_err(|error| PinError { what: what(), remedy, error })?;
    }
    if let Some(node) = placement.node
        && let Err(error) = sys::prefer_node(node)
    {
        // Kernels without NUMA, and sandboxes. First touch gives the same in most cases.
        tracing::warn!(node, %error, "the memory policy of a worker cannot be set");
    }
    let scheduling = match profile {
        Profile::LowLatency | Profile::MaxThroughput => return Ok(()),
        Profile::RealTime => Scheduling::RealTime,
        Profile::Scavenger => Scheduling::Idle,
    };
    let remedy = "grant CAP_SYS_NICE, or choose the profile LowLatency";
    let what = || format!("the thread cannot be scheduled for the profile {profile:?}");
    sys::set_scheduling(scheduling).map_err(|error| PinError { what: what(), remedy, error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_takes_its_place() {
        let cpu = sys::allowed_cpus().unwrap()[0];
        let placement = WorkerPlacement { queue: 0, cpu: Some(cpu), node: Some(0) };
        let allowed = std::thread::spawn(move || {
            take(&placement, Profile::Scavenger).unwrap();
            sys::allowed_cpus().unwrap()
        });
        assert_eq!(allowed.join().unwrap(), [cpu]);
    }

    #[test]
    fn a_soft_worker_starts_on_its_cpu_and_may_leave_it() {
        let all = sys::allowed_cpus().unwrap();
        let placement = WorkerPlacement { queue: 0, cpu: Some(all[0]), node: None };
        let cpus = all.clone();
        let allowed = std::thread::spawn(move || {
            take(&placement, Profile::LowLatency).unwrap();
            let hard = sys::allowed_cpus().unwrap();
            assert!(loosen(&[]));
            assert_eq!(sys::allowed_cpus().unwrap(), hard);
            // No such CPU: the kernel refuses, and the thread stays where it is.
            assert!(!loosen(&[100_000]));
            assert_eq!(sys::allowed_cpus().unwrap(), hard);
            assert!(loosen(&cpus));
            (hard, sys::allowed_cpus().unwrap())
        });
        assert_eq!(allowed.join().unwrap(), (vec![all[0]], all));
    }

    #[test]
    fn a_place_that_does_not_exist_is_an_error_with_its_remedy() {
        let placement = WorkerPlacement { cpu: Some(100_000), ..WorkerPlacement::default() };
        let error =
            std::thread::spawn(move || take(&placement, Profile::LowLatency)).join().unwrap();
        let error = error.unwrap_err().to_string();
        assert!(error.contains("CPU 100000") && error.contains("turn pinning off"), "{error}");
    }
}
