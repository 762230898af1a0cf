//! CPUs of this process, and threads that stay on one.

use std::io;
use std::process::Command;

/// The CPUs that this process may use.
///
/// # Panics
/// If the kernel does not say.
#[must_use]
pub fn allowed() -> Vec<u32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?)
    };
    let ranges =
        list.and_then(|list| list.trim().split(',').map(range).collect::<Option<Vec<_>>>());
    match ranges {
        Some(ranges) => ranges.into_iter().flatten().collect(),
        None => panic!("no list of CPUs in /proc/self/status: {status}"),
    }
}

/// Keeps the calling thread on one CPU.
///
/// # Panics
/// If it cannot be.
pub fn stay_on(cpu: u32) {
    let me = std::fs::read_link("/proc/thread-self").unwrap_or_default();
    let thread = me.file_name().map(|name| name.to_string_lossy().into_owned());
    if let Err(error) = pin(&thread.unwrap_or_default(), cpu) {
        panic!("a thread of this process cannot stay on CPU {cpu}: {error}");
    }
}

/// Keeps a thread, by number, on one CPU.
pub(crate) fn pin(thread: &str, cpu: u32) -> io::Result<()> {
    let done = Command::new("taskset").args(["-pc", &cpu.to_string(), thread]).output()?;
    if done.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&done.stderr).into_owned()))
}
