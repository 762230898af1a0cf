use super::super::tests::{Tree, two_nodes};
use super::super::{Note, Placement, Request, Sharing, Source, place};
use super::*;

/// Made: two nodes of four cores with two threads each and two caches of two cores, and an `ice` with
/// 4 queues on node 1. CPUs 4 to 7 and 12 to 15 are of node 1; 4, 5, 12, 13 share a cache.
fn two_caches(irq_cpus: [&str; 4]) -> Tree {
    let tree = Tree::new();
    let siblings: Vec<String> = (0..8).map(|core| format!("{core},{}", core + 8)).collect();
    let cpu = |id: u32| (id, id % 8 / 4, id % 4, siblings[id as usize % 8].as_str());
    let cpus: Vec<_> = (0..16).map(cpu).collect();
    tree.cpus(&cpus, &[(0, "0-3,8-11"), (1, "4-7,12-15")]);
    let answer = std::fs::read_to_string(tree.0.join("quiclane/answers/processors.json")).unwrap();
    let mut answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    answer["known"]["caches"] =
        serde_json::json!(["0-1,8-9", "2-3,10-11", "4-5,12-13", "6-7,14-15"]);
    tree.file("quiclane/answers/processors.json", &answer.to_string());
    tree.pci_nic("eth2", "0000:17:00.0", "ice", 1, 4);
    let mut interrupts = String::from("      CPU0\n");
    for (queue, cpus) in (0..4u32).zip(irq_cpus) {
        let number = 65 + queue;
        interrupts += &format!("  {number}:  0  PCI-MSIX-0000:17:00.0  ice-eth2-TxRx-{queue}\n");
        tree.irq("0000:17:00.0", number, cpus);
        tree.file(&format!("proc/irq/{number}/smp_affinity_list"), cpus);
    }
    tree.file("proc/interrupts", &interrupts);
    tree
}

/// What `apply` has just written, and no interrupt has come since.
#[test]
fn an_interrupt_that_is_about_to_move_is_served_where_it_goes() {
    let tree = two_caches(["4", "4", "4", "4"]);
    for (number, cpu) in (65..69).zip(["7", "6", "5", "4"]) {
        tree.file(&format!("proc/irq/{number}/smp_affinity_list"), cpu);
    }
    let placement = placed(&tree, &wish(Near::Irq));
    assert_eq!((cpus(&placement), unmet(&placement)), (vec![7, 6, 5, 4], vec![]));
}

fn wish(near: Near) -> Request {
    Request { device: Some("eth2".to_owned()), near, ..Request::default() }
}

fn placed(tree: &Tree, request: &Request) -> Placement {
    place(&Source::captured(&tree.0).machine(), request).unwrap()
}

fn cpus(placement: &Placement) -> Vec<u32> {
    placement.rows.iter().map(|row| row.cpu).collect()
}

/// The queues that are not where they were to be, and why.
fn unmet(placement: &Placement) -> Vec<(u32, Unmet)> {
    let of = |note: &Note| match note {
        Note::NotNear { queue, unmet, .. } => Some((*queue, unmet.clone())),
        _ => None,
    };
    placement.notes.iter().filter_map(of).collect()
}

#[test]
fn a_worker_sits_where_its_interrupt_is_served() {
    let tree = two_caches(["7", "4", "13", "6"]);
    let placement = placed(&tree, &wish(Near::Irq));
    assert_eq!((cpus(&placement), unmet(&placement)), (vec![7, 4, 13, 6], vec![]));
    let two = placed(&tree, &Request { queues: vec![3, 1], ..wish(Near::Irq) });
    assert_eq!(cpus(&two), [6, 4]);
}

#[test]
fn a_worker_sits_beside_its_interrupt_under_one_cache() {
    let tree = two_caches(["4", "4", "6", "15"]);
    let placement = placed(&tree, &wish(Near::Cache));
    // Another core first; then the threads of the interrupt's core and of the worker's.
    assert_eq!(cpus(&placement), [5, 13, 7, 14]);
    assert_eq!(unmet(&placement), []);
    let node = placed(&tree, &wish(Near::Node));
    assert_eq!((cpus(&node), unmet(&node)), (vec![4, 5, 6, 7], vec![]));
}

#[test]
fn an_interrupt_of_several_cpus_is_met_by_any_of_them() {
    let tree = two_caches(["0-7", "4-5", "4", "6-7"]);
    let placement = placed(&tree, &wish(Near::Irq));
    assert_eq!(cpus(&placement), [4, 5, 13, 6]);
    assert_eq!(unmet(&placement), [(2, Unmet::Taken { irq: 67, cpu: 4, queue: 0 })]);
}

#[test]
fn a_worker_does_not_leave_the_node_for_its_interrupt() {
    let tree = two_caches(["1", "99", "4", "4"]);
    let placement = placed(&tree, &wish(Near::Irq));
    assert!(placement.rows.iter().all(|row| row.node == Some(1)), "{:?}", placement.rows);
    assert_eq!(cpus(&placement), [6, 7, 4, 5]);
    let expected = [
        (0, Unmet::OtherNode { irq: 65, cpu: 1 }),
        (1, Unmet::Offline { irq: 66, cpu: 99 }),
        (3, Unmet::Taken { irq: 68, cpu: 4, queue: 2 }),
    ];
    assert_eq!(unmet(&placement), expected);
    let cache = placed(&tree, &wish(Near::Cache));
    assert_eq!(unmet(&cache)[..2], expected[..2]);
    let note = cache.notes[0].to_string();
    assert!(note.contains("near cache") && note.contains("quiclane plan DEV"), "{note}");
}

#[test]
fn a_cpu_that_the_process_may_not_use_is_said() {
    let tree = two_caches(["4", "5", "6", "7"]);
    let few = Request { allowed: vec![5, 6, 7, 12], ..wish(Near::Irq) };
    let placement = placed(&tree, &few);
    assert_eq!(cpus(&placement), [12, 5, 6, 7], "the other thread of its core shares the cache");
    assert_eq!(unmet(&placement), [(0, Unmet::Forbidden { irq: 65, cpu: 4 })]);
    assert!(placement.notes[0].to_string().contains("cpuset.cpus"), "{}", placement.notes[0]);
}

#[test]
fn a_cache_without_another_cpu_gives_the_interrupts_own() {
    let tree = two_caches(["4", "5", "6", "7"]);
    let few = Request { allowed: vec![4, 6, 7], queues: vec![0, 2], ..wish(Near::Cache) };
    let placement = placed(&tree, &few);
    assert_eq!(cpus(&placement), [4, 7]);
    assert_eq!(unmet(&placement), [(0, Unmet::CacheFull { irq: 65, cpu: 4 })]);
}

#[test]
fn workers_that_must_share_share_with_their_own_interrupt() {
    let tree = two_caches(["4", "5", "5", "4"]);
    let few = Request { allowed: vec![4, 5], sharing: Sharing::Allow, ..wish(Near::Irq) };
    let placement = placed(&tree, &few);
    assert_eq!(cpus(&placement), [4, 5, 5, 4]);
    assert_eq!(unmet(&placement), []);
    assert!(placement.notes.contains(&Note::SharedCpu { cpu: 4, queues: vec![0, 3] }));
}

#[test]
fn a_queue_without_an_interrupt_says_so() {
    // Made, after veth.
    let tree = Tree::new();
    tree.cpus(&[(0, 0, 0, "0"), (1, 0, 1, "1")], &[(0, "0-1")]);
    tree.link("sys/class/net/eth2", "../../devices/virtual/net/eth2");
    for queue in 0..2 {
        tree.file(&format!("sys/devices/virtual/net/eth2/queues/rx-{queue}/rps_cpus"), "0");
    }
    for near in [Near::Irq, Near::Cache] {
        let placement = placed(&tree, &wish(near));
        assert_eq!(cpus(&placement), [0, 1]);
        assert_eq!(unmet(&placement), [(0, Unmet::NoInterrupts), (1, Unmet::NoInterrupts)]);
    }
    assert_eq!(unmet(&placed(&tree, &wish(Near::Node))), []);
}

#[test]
fn an_interrupt_that_is_not_known_is_said() {
    let tree = two_caches(["4", "5", "6", "7"]);
    tree.file("proc/interrupts", "  CPU0\n 65: 0 PCI-MSIX ice-eth2-TxRx-0\n");
    std::fs::remove_file(tree.0.join("proc/irq/65/effective_affinity_list")).unwrap();
    let placement = placed(&tree, &Request { queues: vec![0, 1], ..wish(Near::Irq) });
    let reasons: Vec<String> =
        unmet(&placement).iter().map(|(_, unmet)| unmet.to_string()).collect();
    assert!(reasons[0].contains("/proc/irq/65/effective_affinity_list"), "{reasons:?}");
    assert!(reasons[1].contains("no interrupt is named after queue 1"), "{reasons:?}");
}

/// The kernel knows the interrupt of a NAPI instance, whatever the driver calls it.
#[test]
fn an_interrupt_with_a_name_of_its_own_is_found_by_napi() {
    let tree = two_caches(["4", "5", "6", "7"]);
    tree.file("proc/interrupts", "  CPU0\n 65: 0 PCI-MSIX gve-ntfy-blk0@pci:0000:17:00.0\n");
    let answer = |name: &str, known: serde_json::Value| {
        let text = serde_json::json!({ "known": known }).to_string();
        tree.file(&format!("quiclane/answers/device/eth2/{name}.json"), &text);
    };
    answer(
        "queue_links",
        serde_json::json!([{"index": 2, "direction": "rx", "napi": 515, "has_xsk": null}]),
    );
    answer("napis", serde_json::json!([{"id": 515, "irq": 66}]));
    let placement = placed(&tree, &Request { queues: vec![2], ..wish(Near::Irq) });
    assert_eq!((cpus(&placement), unmet(&placement)), (vec![5], vec![]));
}

#[test]
fn a_node_without_cpus_for_us_gives_way_to_the_nearest() {
    let tree = two_nodes();
    let mut machine = Source::captured(&tree.0).machine();
    // A third node, nearer to the device's than node 0.
    for id in [4, 5] {
        let cpu = machine.cpus.iter_mut().find(|cpu| cpu.id == id).unwrap();
        (cpu.node, cpu.siblings) = (Reading::Known(2), vec![id]);
    }
    machine.nodes[1].distances = [(0, 32), (1, 10), (2, 16)].into();
    let request = Request { allowed: vec![0, 1, 4, 5], queues: vec![0, 1], ..wish(Near::Node) };
    let placement = place(&machine, &request).unwrap();
    assert_eq!(cpus(&placement), [4, 5]);
    assert!(placement.notes.contains(&Note::NodeHasNoCpu { device: "eth2".into(), node: 1 }));
}

#[test]
fn a_node_of_memory_alone_is_served_from_the_nearest() {
    let tree = two_nodes();
    let mut machine = Source::captured(&tree.0).machine();
    machine.nics[0].node = Reading::Known(2);
    for (node, far) in [(0, 32), (1, 16)] {
        machine.nodes[node].distances.insert(2, far);
    }
    let request = Request { queues: vec![0, 1], ..wish(Near::Node) };
    let placement = place(&machine, &request).unwrap();
    assert_eq!(cpus(&placement), [2, 3]);
    assert!(placement.notes.contains(&Note::NodeHasNoCpu { device: "eth2".into(), node: 2 }));
    // Nothing says how far: in order of number.
    machine.nodes.iter_mut().for_each(|node| node.distances.clear());
    assert_eq!(cpus(&place(&machine, &request).unwrap()), [0, 1]);
}

#[test]
fn interrupts_on_one_cpu_give_it_one_worker() {
    let tree = two_caches(["5", "5", "5", "5"]);
    let placement = placed(&tree, &wish(Near::Irq));
    assert_eq!(cpus(&placement), [5, 4, 12, 13]);
    assert_eq!(unmet(&placement).len(), 3);
}
