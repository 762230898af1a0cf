//! Open descriptors of processes, from `/proc`, as far as the caller may look into other processes.

use crate::topology::list;
use crate::topology::survey::device::{Process, WorkerThread};
use std::fs;
use std::os::fd::RawFd;

/// Processes that one search looks at.
const PROCESSES_MAX: usize = 65_536;
/// Descriptors of one process, or threads, that a search looks at.
const ENTRIES_MAX: usize = 65_536;

/// Every process that shows itself.
pub(super) fn all() -> impl Iterator<Item = u32> {
    numbers("/proc").take(PROCESSES_MAX)
}

/// The descriptors of a process, each with what it is: `socket:[1234]`, `anon_inode:bpf_link`...
pub(super) fn descriptors(pid: u32) -> impl Iterator<Item = (RawFd, String)> {
    numbers(&format!("/proc/{pid}/fd")).take(ENTRIES_MAX).filter_map(move |fd| {
        let target = fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok()?;
        Some((fd as RawFd, target.into_os_string().into_string().ok()?))
    })
}

/// What the kernel says of a descriptor.
pub(super) fn descriptor_info(pid: u32, fd: RawFd) -> String {
    fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default()
}

/// A number in a text of `name:\tvalue` lines.
pub(super) fn field(info: &str, name: &str) -> Option<u32> {
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().parse().ok()
}

/// A process with its name.
pub(super) fn process(pid: u32) -> Process {
    Process { pid, name: name(&format!("/proc/{pid}")).unwrap_or_default() }
}

/// The process called `wanted`.
pub(super) fn called(wanted: &str) -> Option<u32> {
    all().find(|pid| name(&format!("/proc/{pid}")).as_deref() == Some(wanted))
}

/// The threads of a process that are named after a queue, or may run on one CPU alone.
pub(super) fn workers(pid: u32) -> Vec<WorkerThread> {
    let thread = |tid: u32| {
        let at = format!("/proc/{pid}/task/{tid}");
        let status = fs::read_to_string(format!("{at}/status")).ok()?;
        let name = name(&at)?;
        let cpus = allowed_cpus(&status)?;
        let queue = queue_of(&name);
        (queue.is_some() || cpus.len() == 1).then_some(WorkerThread { tid, name, cpus, queue })
    };
    let mut threads: Vec<WorkerThread> =
        numbers(&format!("/proc/{pid}/task")).take(ENTRIES_MAX).filter_map(thread).collect();
    threads.sort_by_key(|thread| thread.tid);
    threads
}

/// The queue of one of our workers: threads are called `NAME-qN` where N is a queue.
fn queue_of(name: &str) -> Option<u32> {
    let (_, queue) = name.rsplit_once("-q")?;
    queue.bytes().all(|byte| byte.is_ascii_digit()).then(|| queue.parse().ok())?
}

fn allowed_cpus(status: &str) -> Option<Vec<u32>> {
    let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    list::parse(cpus.trim())
}

fn name(at: &str) -> Option<String> {
    Some(fs::read_to_string(format!("{at}/comm")).ok()?.trim_end().to_owned())
}

/// The entries of a directory that are numbers.
fn numbers(directory: &str) -> impl Iterator<Item = u32> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_known_by_its_name() {
        assert_eq!(queue_of("quiclane-q12"), Some(12));
        assert_eq!(queue_of("quiclane-3"), None);
        assert_eq!(queue_of("my-quic-q"), None);
        assert_eq!(queue_of("x-q1y"), None);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let info = "pos:\t0\nlink_type:\txdp\nlink_id:\t7\nprog_id:\t42\n";
        assert_eq!(field(info, "prog_id"), Some(42));
        assert_eq!(field(info, "link_id"), Some(7));
        assert_eq!(field(info, "link"), None);
        assert_eq!(field(info, "link_type"), None);
    }

    #[test]
    fn this_process_sees_itself() {
        let pid = std::process::id();
        assert!(all().any(|other| other == pid));
        assert!(descriptors(pid).count() > 0);
        let thread = std::thread::Builder::new().name("lane-q5".to_owned());
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let (begin, begun) = std::sync::mpsc::channel();
        let thread = thread.spawn(move || {
            // A thread takes its name before anything of ours runs in it.
            begin.send(()).unwrap();
            wait.recv()
        });
        let thread = thread.unwrap();
        begun.recv().unwrap();
        let found = workers(pid).into_iter().find(|thread| thread.name == "lane-q5").unwrap();
        assert_eq!(found.queue, Some(5));
        assert!(!found.cpus.is_empty() && found.tid != pid);
        drop(end);
        thread.join().unwrap().unwrap_err();
    }
}
