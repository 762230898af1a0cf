//! CPUs, packages, caches and memory nodes: from hwloc, the only reader of them.
//!
//! hwloc looks at the machine that it runs on. It can be pointed at another tree only for a whole
//! process (`HWLOC_FSROOT`), and the crate has no way to give it XML. So what it says is an answer
//! like the kernel's ([`Source::ask`]): a captured tree holds it as JSON, `processors`.
//!
//! ```text
//!   hwloc --> Processors --> Vec<Cpu>, Vec<Node>
//!                ^
//!   quiclane/answers/processors.json (captured)
//! ```
//!
//! Which CPUs are isolated is a matter of scheduling, which hwloc does not describe: that is a file.

use super::source::Source;
use super::{Cpu, Node, Reading, list, sys};
use hwloc2::{Bitmap, ObjectType, Topology, TopologyFlag, TopologyObject};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Last-level caches are of one of these kinds; hwloc keeps no instruction caches.
const CACHES: [ObjectType; 5] = [
    ObjectType::L1Cache,
    ObjectType::L2Cache,
    ObjectType::L3Cache,
    ObjectType::L4Cache,
    ObjectType::L5Cache,
];

/// What hwloc says of the CPUs that are online. Sets of CPUs are lists such as `0-3,8`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Processors {
    cores: Vec<CoreRow>,
    /// The CPUs of each last-level cache.
    caches: Vec<String>,
    nodes: Vec<NodeRow>,
}

/// A physical core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CoreRow {
    package: Option<u32>,
    /// Unique only within the package.
    core: Option<u32>,
    cpus: String,
}

/// A memory node that has CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct NodeRow {
    node: u32,
    cpus: String,
    /// How far the memory of each node is, by node; empty if the firmware does not say.
    distances: BTreeMap<u32, u64>,
}

/// The CPUs that are online, and the nodes.
pub(super) fn read(source: &Source) -> (Vec<Cpu>, Vec<Node>) {
    let isolated = source.list("/sys/devices/system/cpu/isolated");
    let isolated = isolated.known().map(Vec::as_slice).unwrap_or_default();
    match source.ask("processors", from_hwloc) {
        Reading::Known(processors) => processors.rows(isolated),
        Reading::Unknown(reason) => {
            tracing::warn!("CPUs and memory nodes are unknown: {reason}");
            (Vec::new(), Vec::new())
        }
    }
}

impl Processors {
    /// A list that is none counts as empty: a captured file may hold anything.
    fn rows(&self, isolated: &[u32]) -> (Vec<Cpu>, Vec<Node>) {
        let cpus_of = |text: &String| list::parse(text).unwrap_or_default();
        let mut cpus: BTreeMap<u32, Cpu> = BTreeMap::new();
        for row in &self.cores {
            let siblings = cpus_of(&row.cpus);
            for &id in &siblings {
                let cpu = || cpu_of(id, row, &siblings, isolated.contains(&id));
                cpus.entry(id).or_insert_with(cpu);
            }
        }
        for domain in self.caches.iter().map(cpus_of) {
            for id in &domain {
                let Some(cpu) = cpus.get_mut(id) else { continue };
                cpu.cache = Reading::Known(domain.clone());
            }
        }
        let mut nodes = Vec::new();
        for row in &self.nodes {
            let members = cpus_of(&row.cpus);
            for id in &members {
                let Some(cpu) = cpus.get_mut(id) else { continue };
                cpu.node = Reading::Known(row.node);
            }
            let distances = row.distances.clone();
            nodes.push(Node { id: row.node, cpus: members, distances });
        }
        nodes.sort_by_key(|node| node.id);
        (cpus.into_values().collect(), nodes)
    }
}

fn cpu_of(id: u32, row: &CoreRow, siblings: &[u32], isolated: bool) -> Cpu {
    let above = |number: Option<u32>, what: &str| match number {
        Some(number) => Reading::Known(number),
        None => Reading::unknown(format!("hwloc shows no {what} above cpu {id}")),
    };
    Cpu {
        id,
        node: above(None, "node"),
        package: above(row.package, "package"),
        core: above(row.core, "core"),
        siblings: siblings.to_vec(),
        cache: Reading::unknown(format!("hwloc shows no cache above cpu {id}")),
        isolated,
    }
}

/// Asks hwloc, also for what a cpuset keeps from this process: which CPUs it may use is the
/// concern of [`place`](super::place), not a fact about the machine.
fn from_hwloc() -> Reading<Processors> {
    let Some(topology) = Topology::with_flags(vec![TopologyFlag::IncludeDisallowed]) else {
        return Reading::unknown("hwloc cannot read the topology of this machine");
    };
    let Ok(pus) = topology.objects_with_type(&ObjectType::PU) else {
        return Reading::unknown("hwloc shows no CPUs");
    };
    let mut cores: BTreeMap<Vec<u32>, CoreRow> = BTreeMap::new();
    let mut caches: BTreeMap<Vec<u32>, String> = BTreeMap::new();
    let mut nodes: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pu in pus {
        let core = ancestor(pu, &[ObjectType::Core]);
        let siblings = core.and_then(members).unwrap_or_else(|| vec![pu.os_index()]);
        let row = CoreRow {
            package: ancestor(pu, &[ObjectType::Package]).and_then(number),
            core: core.and_then(number),
            cpus: list::format(siblings.iter().copied()),
        };
        cores.entry(siblings).or_insert(row);
        if let Some(domain) = ancestor(pu, &CACHES).and_then(members) {
            let text = list::format(domain.iter().copied());
            caches.entry(domain).or_insert(text);
        }
        // NUMA nodes hang beside the tree in hwloc 2, and the crate panics when it is asked for
        // objects of that kind. The first node of a CPU's set is the one with its ordinary memory.
        if let Some(node) = pu.nodeset().and_then(|set| u32::try_from(set.first()).ok()) {
            nodes.entry(node).or_default().push(pu.os_index());
        }
    }
    let distances = if nodes.len() > 1 { sys::node_distances() } else { BTreeMap::new() };
    let node = |(node, cpus): (u32, Vec<u32>)| NodeRow {
        node,
        cpus: list::format(cpus),
        distances: distances.get(&node).cloned().unwrap_or_default(),
    };
    Reading::Known(Processors {
        cores: cores.into_values().collect(),
        caches: caches.into_values().collect(),
        nodes: nodes.into_iter().map(node).collect(),
    })
}

/// The outermost object of one of these kinds above a CPU.
fn ancestor<'a>(pu: &'a TopologyObject, kinds: &[ObjectType]) -> Option<&'a TopologyObject> {
    let above = std::iter::successors(pu.parent(), |object| object.parent());
    above.filter(|object| kinds.contains(&object.object_type())).last()
}

/// The kernel's number of an object, if it has given one.
fn number(object: &TopologyObject) -> Option<u32> {
    Some(object.os_index()).filter(|&number| number != u32::MAX)
}

/// The CPUs of an object that are online.
fn members(object: &TopologyObject) -> Option<Vec<u32>> {
    let set: Bitmap = object.cpuset()?;
    let last = u32::try_from(set.last()).ok()?;
    Some((0..=last).filter(|&cpu| set.is_set(cpu)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Where the test below has hwloc read from.
    const HELPER: &str = "topology::cpus::tests::what_hwloc_says_here";

    /// Two packages with a node each, two caches in a package, two threads in a core.
    const XML: &str = include_str!("cpus/two_packages.xml");

    /// Prints what hwloc says, for the test below: hwloc looks elsewhere only for a whole process.
    #[test]
    fn what_hwloc_says_here() {
        println!("{}", serde_json::to_string(&from_hwloc()).unwrap());
    }

    #[test]
    fn a_machine_with_nodes_is_read_by_hwloc() {
        let file = std::env::temp_dir().join(format!("quiclane-hwloc-{}", std::process::id()));
        std::fs::write(&file, XML).unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args([HELPER, "--exact", "--nocapture"])
            .env("HWLOC_XMLFILE", &file)
            .output();
        std::fs::remove_file(&file).unwrap();
        let output = output.unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let line = stdout.lines().find(|line| line.starts_with('{'));
        let line = line.unwrap_or_else(|| panic!("{stdout}"));
        let Reading::Known(processors) = serde_json::from_str::<Reading<Processors>>(line).unwrap()
        else {
            panic!("{line}")
        };
        let (cpus, nodes) = processors.rows(&[5]);
        let near = BTreeMap::from([(0, 10), (1, 21)]);
        let far = BTreeMap::from([(0, 21), (1, 10)]);
        let node = |id, cpus: &[u32], distances| Node { id, cpus: cpus.to_vec(), distances };
        assert_eq!(nodes, [node(0, &[0, 1, 4, 5], near), node(1, &[2, 3, 6, 7], far)]);
        let cpu = &cpus[6];
        assert_eq!((cpu.id, &cpu.siblings, cpu.sibling_rank()), (6, &vec![2, 6], 1));
        assert_eq!((&cpu.package, &cpu.core), (&Reading::Known(1), &Reading::Known(0)));
        assert_eq!((&cpu.node, &cpu.cache), (&Reading::Known(1), &Reading::Known(vec![2, 6])));
        assert!(cpus[5].isolated && !cpus[6].isolated);
    }

    #[test]
    fn hwloc_knows_the_machine_that_runs_this() {
        let machine = Source::live().machine();
        let online = Source::live().list("/sys/devices/system/cpu/online");
        let cpus: Vec<u32> = machine.cpus.iter().map(|cpu| cpu.id).collect();
        assert_eq!(Some(&cpus), online.known());
        let of_nodes: usize = machine.nodes.iter().map(|node| node.cpus.len()).sum();
        assert_eq!(of_nodes, cpus.len());
        assert!(machine.cpus.iter().all(|cpu| cpu.siblings.contains(&cpu.id)));
    }

    #[test]
    fn what_a_captured_file_has_wrong_is_left_out() {
        let row = |cpus: &str| CoreRow { package: None, core: Some(1), cpus: cpus.to_owned() };
        let processors = Processors {
            cores: vec![row("0-1"), row("1,2"), row("x")],
            caches: vec!["0,9".to_owned(), "?".to_owned()],
            nodes: vec![NodeRow { node: 3, cpus: "1".to_owned(), distances: BTreeMap::new() }],
        };
        let (cpus, nodes) = processors.rows(&[]);
        assert_eq!(cpus.iter().map(|cpu| cpu.id).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(cpus[0].node.reason(), Some("hwloc shows no node above cpu 0"));
        assert_eq!((&cpus[0].cache, nodes.len()), (&Reading::Known(vec![0, 9]), 1));
        assert_eq!(cpus[2].cache.reason(), Some("hwloc shows no cache above cpu 2"));
    }
}
