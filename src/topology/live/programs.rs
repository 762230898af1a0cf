//! The BPF programs of the machine: what they are, what holds them, and where they are pinned.

use super::refused::Refused;
use super::{Kernel, processes};
use crate::topology::survey::device::{Program, ProgramMap};
use crate::topology::sys;
use libbpf_rs::query::{
    LinkInfoIter, LinkTypeInfo, MapInfoIter, ProgInfoIter, ProgInfoQueryOptions, ProgramInfo,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Programs, maps and links that are read.
const OBJECTS_MAX: usize = 16_384;
/// Where BPF objects are pinned.
const PINS: &str = "/sys/fs/bpf";
/// How deep below it, and how many, are looked at.
const PINS_DEPTH: usize = 8;
const PINS_MAX: usize = 4_096;

/// The links of each program: (id, index of the device).
type Links = BTreeMap<u32, Vec<(u32, Option<u32>)>>;

/// Every program that is loaded, by id.
pub(super) fn programs(_: &Kernel) -> Result<Vec<Program>, Refused> {
    sys::can_list_programs()?;
    let (maps, links, holders, pins) = (maps(), links(), holders(), pins());
    let programs =
        ProgInfoIter::with_query_opts(ProgInfoQueryOptions::default().include_map_ids(true));
    let program = |info: ProgramInfo| {
        let id = info.id;
        let links = links.get(&id).cloned().unwrap_or_default();
        let is_pin_of = |pin: &&Pin| {
            pin.program == Some(id)
                || pin.link.is_some_and(|link| links.iter().any(|&(id, _)| id == link))
                || pin.map.is_some_and(|map| info.map_ids.contains(&map))
        };
        let pids = holders.get(&id).into_iter().flatten();
        Program {
            id,
            name: info.name.to_string_lossy().into_owned(),
            kind: sys::program_kind(info.ty as u32),
            tag: info.tag.0.iter().map(|byte| format!("{byte:02x}")).collect(),
            loaded_ns: u64::try_from(info.load_time.as_nanos()).unwrap_or(u64::MAX),
            uid: info.created_by_uid,
            maps: info.map_ids.iter().filter_map(|map| maps.get(map).cloned()).collect(),
            processes: pids.map(|&pid| processes::process(pid)).collect(),
            pins: pins.iter().filter(is_pin_of).map(|pin| pin.path.clone()).collect(),
            links,
        }
    };
    let mut programs: Vec<Program> = programs.take(OBJECTS_MAX).map(program).collect();
    programs.sort_by_key(|program| program.id);
    Ok(programs)
}

fn maps() -> BTreeMap<u32, ProgramMap> {
    let map = |info: libbpf_rs::query::MapInfo| {
        let map = ProgramMap {
            id: info.id,
            name: info.name.to_string_lossy().into_owned(),
            kind: sys::map_kind(info.ty as u32),
            max_entries: info.max_entries,
            // An XSKMAP answers no lookup (EOPNOTSUPP), and its keys are all numbers below its
            // size, with a socket or without: which have one, only the packets know.
            queues: None,
        };
        (info.id, map)
    };
    MapInfoIter::default().take(OBJECTS_MAX).map(map).collect()
}

fn links() -> Links {
    let mut links = Links::new();
    for link in LinkInfoIter::default().take(OBJECTS_MAX) {
        let device = match link.info {
            LinkTypeInfo::Xdp(xdp) => Some(xdp.ifindex),
            LinkTypeInfo::Tcx(tcx) => Some(tcx.ifindex),
            LinkTypeInfo::Netkit(netkit) => Some(netkit.ifindex),
            _ => None,
        };
        // 0: the device is gone.
        let device = device.filter(|&index| index != 0);
        links.entry(link.prog_id).or_default().push((link.id, device));
    }
    links
}

/// The processes that have a program, or a link of it, open.
fn holders() -> BTreeMap<u32, BTreeSet<u32>> {
    let mut holders = BTreeMap::<u32, BTreeSet<u32>>::new();
    for pid in processes::all() {
        for (fd, target) in processes::descriptors(pid) {
            // Older kernels write `bpf-link`.
            let target = target.strip_prefix("anon_inode:").unwrap_or_default();
            if !matches!(target, "bpf-prog" | "bpf_link" | "bpf-link") {
                continue;
            }
            let info = processes::descriptor_info(pid, fd);
            if let Some(program) = processes::field(&info, "prog_id") {
                holders.entry(program).or_default().insert(pid);
            }
        }
    }
    holders
}

/// Something pinned.
struct Pin {
    path: String,
    program: Option<u32>,
    link: Option<u32>,
    map: Option<u32>,
}

fn pins() -> Vec<Pin> {
    let mut paths = Vec::new();
    collect(Path::new(PINS), PINS_DEPTH, &mut paths);
    paths.sort();
    paths.iter().filter_map(|path| pin(path)).collect()
}

fn collect(directory: &Path, depth: usize, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if paths.len() >= PINS_MAX {
            return;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 0 => collect(&entry.path(), depth - 1, paths),
            Ok(kind) if kind.is_file() => paths.push(entry.path()),
            _ => {}
        }
    }
}

/// What is pinned, the kernel tells of the descriptor that it is opened as.
fn pin(path: &Path) -> Option<Pin> {
    let object = sys::open_pinned(path).ok()?;
    let info = processes::descriptor_info(std::process::id(), object.as_raw_fd());
    let link = processes::field(&info, "link_id");
    Some(Pin {
        path: path.to_string_lossy().into_owned(),
        program: processes::field(&info, "prog_id").filter(|_| link.is_none()),
        link,
        map: processes::field(&info, "map_id"),
    })
}
