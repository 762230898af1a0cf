//! Who holds a device or a queue: for errors that name the culprit.
//!
//! This module reads what the kernel shows of other processes, and never guesses the rest. All of
//! it is bounded and none of it is on the packet path. `topology` knows more about processes; a
//! datapath that cannot open has to name the culprit without it.

use super::error::{ForeignProgram, Holder};
use super::sys::{Attached, Failed, attached};
use libbpf_rs::query::{MapInfoIter, ProgInfoIter, ProgInfoQueryOptions};
use std::fs;
use std::path::Path;

/// Processes that one search looks at.
const PROCESSES_MAX: usize = 65_536;
/// Descriptors of one process that a search looks at.
const DESCRIPTORS_MAX: usize = 65_536;
/// Maps of the machine that a search looks at.
const MAPS_MAX: usize = 16_384;
/// Holders that an error names.
const HOLDERS_MAX: usize = 4;
/// Offset of the completion ring in the mappings of an AF_XDP socket: nothing else maps a socket
/// there (`XDP_UMEM_PGOFF_COMPLETION_RING`).
const COMPLETION_RING_OFFSET: &str = "180000000";

/// The program attached to a device, if any.
pub(super) fn foreign_program(ifindex: u32) -> Result<Option<ForeignProgram>, Failed> {
    let found = attached(ifindex)?;
    let Some((id, mode)) = first(found) else { return Ok(None) };
    let (name, is_ours) = match program(id) {
        Some((name, is_ours)) => (Some(name), is_ours),
        None => (None, false),
    };
    Ok(Some(ForeignProgram { id, name, is_ours, mode, holder: program_holder(id) }))
}

fn first(found: Attached) -> Option<(u32, &'static str)> {
    [
        (found.driver_program, "native"),
        (found.generic_program, "generic"),
        (found.hardware_program, "hardware"),
        (found.any_program, "attached"),
    ]
    .into_iter()
    .find(|&(id, _)| id != 0)
}

/// The program's name, and true if it is one of ours; `None` without the privilege to ask.
fn program(id: u32) -> Option<(String, bool)> {
    let query = ProgInfoQueryOptions::default().include_map_ids(true);
    let found = ProgInfoIter::with_query_opts(query).find(|program| program.id == id)?;
    let name = found.name.to_string_lossy().into_owned();
    let maps: Vec<String> = MapInfoIter::default()
        .take(MAPS_MAX)
        .filter(|map| found.map_ids.contains(&map.id))
        .map(|map| map.name.to_string_lossy().into_owned())
        .collect();
    let maps: Vec<&str> = maps.iter().map(String::as_str).collect();
    let is_ours = super::loader::is_ours(&name, &maps);
    Some((name, is_ours))
}

/// The process with a link to the program: what keeps it attached.
fn program_holder(id: u32) -> Option<Holder> {
    let wanted = format!("prog_id:\t{id}");
    processes().find(|&pid| has_link(pid, &wanted)).map(holder)
}

fn has_link(pid: u32, wanted: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.flatten().take(DESCRIPTORS_MAX).any(|descriptor| {
        let is_link = fs::read_link(descriptor.path())
            .is_ok_and(|target| target.as_os_str() == "anon_inode:bpf_link");
        let info =
            Path::new("/proc").join(pid.to_string()).join("fdinfo").join(descriptor.file_name());
        is_link
            && fs::read_to_string(info).is_ok_and(|info| info.lines().any(|line| line == wanted))
    })
}

/// Other processes of this network namespace that have AF_XDP rings mapped. Which queue a socket is
/// bound to, the kernel tells only where it has XDP_SOCKETS_DIAG.
pub(super) fn socket_holders() -> Vec<Holder> {
    let ours = std::process::id();
    let namespace = fs::read_link("/proc/thread-self/ns/net").ok();
    processes()
        .filter(|&pid| pid != ours)
        .filter(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok() == namespace)
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|maps| {
                maps.lines().any(|line| {
                    line.contains("socket:[")
                        && line.split_ascii_whitespace().nth(2) == Some(COMPLETION_RING_OFFSET)
                })
            })
        })
        .take(HOLDERS_MAX)
        .map(holder)
        .collect()
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .take(PROCESSES_MAX)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn holder(pid: u32) -> Holder {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Holder { pid, name: name.trim().to_owned() }
}
