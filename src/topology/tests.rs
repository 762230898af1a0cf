//! Machines made from the formats that the kernel documents, written out as trees of files.
//! Each says what it is modelled on; none was captured from hardware.

use super::*;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that stands for `/`, removed in the end.
pub(super) struct Tree(pub(super) PathBuf);

impl Tree {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("quiclane-topology-{}-{number}", std::process::id());
        let root = std::env::temp_dir().join(name);
        fs::create_dir_all(&root).unwrap();
        Self(root)
    }

    pub(super) fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    pub(super) fn link(&self, path: &str, target: &str) -> &Self {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
        self
    }

    /// CPUs `(id, package, core, siblings)` and nodes `(id, cpus)`.
    pub(super) fn cpus(&self, cpus: &[(u32, u32, u32, &str)], nodes: &[(u32, &str)]) -> &Self {
        let mut cores: Vec<serde_json::Value> = Vec::new();
        for (_, package, core, siblings) in cpus {
            let row = serde_json::json!({"package": package, "core": core, "cpus": siblings});
            if !cores.contains(&row) {
                cores.push(row);
            }
        }
        let distance = |from: u32, to: u32| if from == to { 10 } else { 21 };
        let distances = |from: u32| -> BTreeMap<u32, u32> {
            nodes.iter().map(|(to, _)| (*to, distance(from, *to))).collect()
        };
        let nodes: Vec<_> = nodes
            .iter()
            .map(|(id, cpus)| {
                serde_json::json!({"node": id, "cpus": cpus, "distances": distances(*id)})
            })
            .collect();
        // A last-level cache for each node.
        let caches: Vec<_> = nodes.iter().map(|node| node["cpus"].clone()).collect();
        let answer = serde_json::json!({
            "known": {"cores": cores, "caches": caches, "nodes": nodes}
        });
        self.file("quiclane/answers/processors.json", &answer.to_string());
        self.file("sys/devices/system/cpu/isolated", "\n");
        self
    }

    /// A PCI device of `driver` with `queues` queues, whose interrupts begin at `first_irq`.
    pub(super) fn pci_nic(
        &self,
        name: &str,
        address: &str,
        driver: &str,
        node: i32,
        queues: u32,
    ) -> &Self {
        let pci = format!("sys/devices/pci0000:16/{address}");
        let net = format!("{pci}/net/{name}");
        self.link(
            &format!("sys/class/net/{name}"),
            &format!("../../devices/pci0000:16/{address}/net/{name}"),
        );
        self.file(&format!("{net}/ifindex"), "4\n").file(&format!("{net}/mtu"), "1500\n");
        self.link(&format!("{net}/device"), &format!("../../../{address}"));
        self.link(&format!("{pci}/driver"), &format!("../../../bus/pci/drivers/{driver}"));
        self.file(&format!("{pci}/numa_node"), &format!("{node}\n"));
        self.file(&format!("{pci}/vendor"), "0x8086\n");
        for queue in 0..queues {
            self.file(&format!("{net}/queues/rx-{queue}/rps_cpus"), "0\n");
            self.file(&format!("{net}/queues/tx-{queue}/xps_cpus"), "0\n");
        }
        self
    }

    pub(super) fn irq(&self, device: &str, number: u32, cpus: &str) -> &Self {
        self.file(&format!("sys/devices/pci0000:16/{device}/msi_irqs/{number}"), "msix\n");
        self.file(&format!("proc/irq/{number}/effective_affinity_list"), cpus);
        self.file(&format!("proc/irq/{number}/smp_affinity_list"), "0-7\n")
    }

    fn machine(&self) -> Machine {
        Source::captured(&self.0).machine()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Made: two nodes of two cores with two threads each, an `ice` with 4 queues on node 1.
pub(super) fn two_nodes() -> Tree {
    let tree = Tree::new();
    let cpus = [
        (0, 0, 0, "0,4"),
        (1, 0, 1, "1,5"),
        (2, 1, 0, "2,6"),
        (3, 1, 1, "3,7"),
        (4, 0, 0, "0,4"),
        (5, 0, 1, "1,5"),
        (6, 1, 0, "2,6"),
        (7, 1, 1, "3,7"),
    ];
    tree.cpus(&cpus, &[(0, "0-1,4-5"), (1, "2-3,6-7")]);
    tree.pci_nic("eth2", "0000:17:00.0", "ice", 1, 4);
    let mut interrupts = String::from("      CPU0  CPU1\n");
    interrupts += "  64:  0  1  PCI-MSIX-0000:17:00.0  0-edge  ice-0000:17:00.0:misc\n";
    tree.irq("0000:17:00.0", 64, "2");
    for queue in 0..4u32 {
        let number = 65 + queue;
        let name = format!("ice-eth2-TxRx-{queue}");
        interrupts += &format!("  {number}:  0  1  PCI-MSIX-0000:17:00.0  1-edge  {name}\n");
        tree.irq("0000:17:00.0", number, ["2", "3", "6", "0"][queue as usize]);
    }
    interrupts += " NMI:  0  0  Non-maskable interrupts\n ERR:  0\n";
    tree.file("proc/interrupts", &interrupts);
    tree
}

fn request(device: &str) -> Request {
    Request { device: Some(device.to_owned()), near: Near::Node, ..Request::default() }
}

fn cpus_of(placement: &Placement) -> Vec<u32> {
    placement.rows.iter().map(|row| row.cpu).collect()
}

#[test]
fn a_device_is_read_with_its_queues_and_their_interrupts() {
    let tree = two_nodes();
    let machine = tree.machine();
    let nic = machine.nic("eth2").unwrap();
    assert_eq!(nic.driver, Reading::Known("ice".to_owned()));
    assert_eq!(nic.bus, Reading::Known("0000:17:00.0".to_owned()));
    assert_eq!(nic.node, Reading::Known(1));
    assert_eq!((nic.queues.len(), nic.tx_queues, nic.irqs.len()), (4, 4, 5));
    let irq = nic.queues[3].irq.known().unwrap();
    assert_eq!((irq.number, irq.effective_cpus.known()), (68, Some(&vec![0])));
    assert_eq!(nic.irqs[0].name, Reading::Known("ice-0000:17:00.0:misc".to_owned()));
}

#[test]
fn cpus_are_read_with_core_and_node() {
    let tree = two_nodes();
    let machine = tree.machine();
    let distances = BTreeMap::from([(0, 21), (1, 10)]);
    assert_eq!(machine.nodes[1], Node { id: 1, cpus: vec![2, 3, 6, 7], distances });
    let cpu = machine.cpu(6).unwrap();
    assert_eq!((&cpu.node, &cpu.package), (&Reading::Known(1), &Reading::Known(1)));
    assert_eq!((&cpu.siblings, cpu.sibling_rank()), (&vec![2, 6], 1));
    assert_eq!(cpu.cache, Reading::Known(vec![2, 3, 6, 7]));
}

#[test]
fn queues_go_to_the_node_of_the_device_and_to_distinct_cores_first() {
    let tree = two_nodes();
    let placement = place(&tree.machine(), &request("eth2")).unwrap();
    assert_eq!(cpus_of(&placement), [2, 3, 6, 7]);
    let shared = |at: usize| match &placement.notes[at] {
        Note::SharedCore { first, second } => (*first, *second),
        other => panic!("{other}"),
    };
    assert_eq!((shared(0), shared(1)), (((0, 2), (2, 6)), ((1, 3), (3, 7))));
    assert!(placement.rows.iter().all(|row| row.node == Some(1)));
    let two = place(&tree.machine(), &Request { queues: vec![3, 1], ..request("eth2") }).unwrap();
    assert_eq!((cpus_of(&two), two.notes.len()), (vec![2, 3], 0));
    assert_eq!(two.rows[0].queue, 3);
}

#[test]
fn the_operators_list_wins_and_is_told_what_it_costs() {
    let tree = two_nodes();
    let wish = Request { cpus: vec![1, 2, 5, 3], ..request("eth2") };
    let placement = place(&tree.machine(), &wish).unwrap();
    assert_eq!(cpus_of(&placement), [1, 2, 5, 3]);
    assert!(placement.notes.contains(&Note::OtherNode {
        queue: 0,
        cpu: 1,
        cpu_node: 0,
        nic_node: 1
    }));
    assert!(placement.notes.contains(&Note::SharedCore { first: (0, 1), second: (2, 5) }));
    let wish = Request { cpus: vec![1, 9], ..request("eth2") };
    assert_eq!(place(&tree.machine(), &wish), Err(PlacementError::NoCpu(9)));
}

#[test]
fn too_few_cpus_are_an_error_or_shared_with_a_note() {
    let tree = two_nodes();
    let few = Request { allowed: vec![0, 1, 2, 3], ..request("eth2") };
    let error = PlacementError::TooFewCpus { queues: 4, cpus: 2 };
    assert_eq!(place(&tree.machine(), &few), Err(error));
    let shared = Request { sharing: Sharing::Allow, ..few };
    let placement = place(&tree.machine(), &shared).unwrap();
    assert_eq!(cpus_of(&placement), [2, 3, 2, 3]);
    assert!(placement.notes.contains(&Note::SharedCpu { cpu: 2, queues: vec![0, 2] }));
}

#[test]
fn a_node_without_usable_cpus_is_said() {
    let tree = two_nodes();
    let wish = Request { allowed: vec![0, 1, 4, 5], ..request("eth2") };
    let placement = place(&tree.machine(), &wish).unwrap();
    assert_eq!(cpus_of(&placement), [0, 1, 4, 5]);
    assert!(placement.notes.contains(&Note::NodeHasNoCpu { device: "eth2".into(), node: 1 }));
}

#[test]
fn node_minus_one_is_unknown_and_never_node_zero() {
    // Made: a board whose firmware tells no distances.
    let tree = Tree::new();
    let cpus = [(0, 0, 0, "0"), (1, 0, 1, "1"), (2, 1, 0, "2"), (3, 1, 1, "3")];
    tree.cpus(&cpus, &[(0, "0-1"), (1, "2-3")]);
    tree.pci_nic("eth0", "0000:18:00.0", "igb", -1, 4);
    let machine = tree.machine();
    let node = &machine.nic("eth0").unwrap().node;
    assert!(node.reason().unwrap().contains("reads -1"), "{node}");
    let placement = place(&machine, &request("eth0")).unwrap();
    assert_eq!(cpus_of(&placement), [0, 1, 2, 3]);
    assert!(matches!(&placement.notes[0], Note::NodeUnknown { device, .. } if device == "eth0"));
}

#[test]
fn a_virtio_device_is_read_through_the_function_that_carries_it() {
    // Made, after the layout of virtio-pci: net -> virtio2 -> PCI function.
    let tree = Tree::new();
    tree.cpus(&[(0, 0, 0, "0")], &[(0, "0")]);
    let pci = "sys/devices/pci0000:16/0000:16:03.0";
    tree.link("sys/class/net/eth0", "../../devices/pci0000:16/0000:16:03.0/virtio2/net/eth0");
    tree.link(&format!("{pci}/virtio2/net/eth0/device"), "../../../virtio2");
    tree.link(&format!("{pci}/virtio2/driver"), "../../../../bus/virtio/drivers/virtio_net");
    tree.file(&format!("{pci}/virtio2/net/eth0/queues/rx-0/rps_cpus"), "0");
    tree.file(&format!("{pci}/vendor"), "0x1af4").file(&format!("{pci}/numa_node"), "0");
    tree.irq("0000:16:03.0", 38, "0").irq("0000:16:03.0", 39, "0");
    let lines = " 38: 1 PCI-MSIX-0000:16:03.0 1-edge virtio2-input.0\n \
                 39: 1 PCI-MSIX-0000:16:03.0 2-edge virtio2-output.0\n";
    tree.file("proc/interrupts", lines);
    let machine = tree.machine();
    let nic = machine.nic("eth0").unwrap();
    assert_eq!(nic.driver, Reading::Known("virtio_net".to_owned()));
    assert_eq!(nic.bus, Reading::Known("0000:16:03.0".to_owned()));
    assert_eq!(nic.node, Reading::Known(0));
    assert_eq!(nic.queues[0].irq.known().map(|irq| irq.number), Some(38));
}

#[test]
fn a_virtual_device_has_neither_node_nor_interrupts_and_says_why() {
    // Made, after veth.
    let tree = Tree::new();
    tree.cpus(&[(0, 0, 0, "0"), (1, 0, 1, "1")], &[(0, "0-1")]);
    tree.link("sys/class/net/veth0", "../../devices/virtual/net/veth0");
    tree.file("sys/devices/virtual/net/veth0/ifindex", "7");
    for queue in 0..2 {
        tree.file(&format!("sys/devices/virtual/net/veth0/queues/rx-{queue}/rps_cpus"), "0");
    }
    let machine = tree.machine();
    let nic = machine.nic("veth0").unwrap();
    assert_eq!(nic.node.reason(), Some("veth0 is a virtual device"));
    assert!(nic.queues[1].irq.reason().unwrap().contains("no message-signalled"));
    assert_eq!(cpus_of(&place(&machine, &request("veth0")).unwrap()), [0, 1]);
}

#[test]
fn names_of_interrupts_tell_the_queue_they_receive_for() {
    use super::nics::rx_queue_of;
    for name in [
        "eth0-TxRx-3",
        "i40e-eth0-TxRx-3",
        "eth0-Tx-Rx-3",
        "eth0-rx-3",
        "mlx5_comp3@pci:0000:17:00.0",
        "virtio2-input.3",
    ] {
        assert_eq!(rx_queue_of(name), Some(3), "{name}");
    }
    for name in ["eth0-tx-3", "virtio2-output.3", "virtio2-config", "eth0", "mlx5_async0@pci:1"] {
        assert_eq!(rx_queue_of(name), None, "{name}");
    }
}

#[test]
fn what_does_not_exist_cannot_be_placed() {
    let tree = two_nodes();
    let machine = tree.machine();
    assert_eq!(place(&machine, &request("eth9")), Err(PlacementError::NoDevice("eth9".to_owned())));
    let wish = Request { queues: vec![4], ..request("eth2") };
    let error = PlacementError::NoQueue { device: "eth2".to_owned(), queue: 4, queues: 4 };
    assert_eq!(place(&machine, &wish), Err(error));
    assert_eq!(place(&machine, &Request::default()), Err(PlacementError::NothingToPlace));
    assert!(
        place(&Machine::default(), &Request { queues: vec![0], ..Request::default() }).is_err()
    );
}

#[test]
fn an_empty_tree_is_an_empty_machine() {
    let tree = Tree::new();
    assert_eq!(tree.machine(), Machine::default());
}
