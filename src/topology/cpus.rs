//! CPUs and memory nodes: from sysfs, and on the running machine from hwloc.
//!
//! hwloc knows the kernels and the firmware that sysfs alone misleads about, and is asked
//! first. It can only look at the machine that it runs on, so a captured tree is read from its
//! files; a test holds the two against each other where it runs.

use super::source::Source;
use super::{Cpu, Node, Reading};
use hwloc2::{ObjectType, Topology, TopologyObject};

/// The CPUs that are online, and the nodes.
pub(super) fn read(source: &Source) -> (Vec<Cpu>, Vec<Node>) {
    let from_files = from_sysfs(source);
    if source.is_live()
        && let Some(mut cpus) = from_hwloc()
    {
        // Isolation is a matter of scheduling, which hwloc does not describe.
        for cpu in &mut cpus {
            cpu.isolated = from_files.iter().any(|other| other.id == cpu.id && other.isolated);
        }
        let nodes = nodes(&cpus);
        return (cpus, nodes);
    }
    let nodes = nodes(&from_files);
    (from_files, nodes)
}

/// What `/sys/devices/system` says.
pub(super) fn from_sysfs(source: &Source) -> Vec<Cpu> {
    const CPUS: &str = "/sys/devices/system/cpu";
    const NODES: &str = "/sys/devices/system/node";
    let node_lists: Vec<(u32, Vec<u32>)> = source
        .numbered(NODES, "node")
        .into_iter()
        .filter_map(|id| {
            let list = source.list(format!("{NODES}/node{id}/cpulist"));
            list.known().map(|cpus| (id, cpus.clone()))
        })
        .collect();
    let isolated = source.list(format!("{CPUS}/isolated"));
    let online = match source.list(format!("{CPUS}/online")) {
        Reading::Known(online) => online,
        Reading::Unknown(_) => source.numbered(CPUS, "cpu"),
    };
    let cpu = |id: u32| {
        let directory = format!("{CPUS}/cpu{id}/topology");
        let node = node_lists.iter().find(|(_, cpus)| cpus.contains(&id));
        let siblings = source.list(format!("{directory}/thread_siblings_list"));
        Cpu {
            id,
            node: match node {
                Some((node, _)) => Reading::Known(*node),
                None => Reading::unknown(format!("no node lists cpu {id} in {NODES}")),
            },
            package: source.number(format!("{directory}/physical_package_id")),
            core: source.number(format!("{directory}/core_id")),
            siblings: siblings.known().cloned().unwrap_or_else(|| vec![id]),
            isolated: isolated.known().is_some_and(|cpus| cpus.contains(&id)),
        }
    };
    online.into_iter().map(cpu).collect()
}

/// What hwloc says; `None` if it cannot be had.
pub(super) fn from_hwloc() -> Option<Vec<Cpu>> {
    let topology = Topology::new()?;
    // NUMA nodes have no ordinary depth in hwloc 2, and asking for objects of that type
    // panics: a CPU's node is in its own nodeset.
    let pus = topology.objects_with_type(&ObjectType::PU).ok()?;
    let mut cpus: Vec<Cpu> = pus.into_iter().map(cpu_of).collect();
    cpus.sort_by_key(|cpu| cpu.id);
    if cpus.is_empty() { None } else { Some(cpus) }
}

fn cpu_of(pu: &TopologyObject) -> Cpu {
    let id = pu.os_index();
    let core = ancestor(pu, &ObjectType::Core);
    let siblings = core.and_then(|core| core.cpuset()).map(|set| {
        let last = u32::try_from(set.last()).unwrap_or(0);
        (0..=last).filter(|&cpu| set.is_set(cpu)).collect()
    });
    let node = pu.nodeset().and_then(|set| u32::try_from(set.first()).ok());
    let index = |object: Option<&TopologyObject>, what: &str| match object {
        Some(object) => Reading::Known(object.os_index()),
        None => Reading::unknown(format!("hwloc shows no {what} above cpu {id}")),
    };
    Cpu {
        id,
        node: node.map_or_else(|| Reading::unknown("hwloc gives no node"), Reading::Known),
        package: index(ancestor(pu, &ObjectType::Package), "package"),
        core: index(core, "core"),
        siblings: siblings.unwrap_or_else(|| vec![id]),
        isolated: false,
    }
}

fn ancestor<'a>(object: &'a TopologyObject, kind: &ObjectType) -> Option<&'a TopologyObject> {
    let mut at = object.parent();
    while let Some(object) = at {
        if object.object_type() == *kind {
            return Some(object);
        }
        at = object.parent();
    }
    None
}

fn nodes(cpus: &[Cpu]) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for cpu in cpus {
        let Some(&id) = cpu.node.known() else { continue };
        match nodes.iter_mut().find(|node| node.id == id) {
            Some(node) => node.cpus.push(cpu.id),
            None => nodes.push(Node { id, cpus: vec![cpu.id] }),
        }
    }
    nodes.sort_by_key(|node| node.id);
    nodes
}
