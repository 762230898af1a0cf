//! The machines that other tests read are consistent.

use quiclane::topology::survey::Survey;
use quiclane::topology::survey::device::Direction;
use quiclane::topology::{Reading, Source};
use quiclane_fixtures::{Tree, machines};

fn survey(tree: &Tree) -> Survey {
    Survey::read(&Source::captured(tree.written().path()))
}

/// The parts of a survey that are unknown, with their reasons, by their place in its Debug form.
fn unknowns(survey: &Survey) -> Vec<String> {
    let text = format!("{survey:#?}");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let reason = |at: usize| format!("{} {}", lines[at - 1], lines[at]);
    (1..lines.len()).filter(|&at| lines[at - 1].ends_with("Unknown(")).map(reason).collect()
}

#[test]
fn what_a_netlink_queue_says_agrees_with_the_files() {
    let mut compared = 0;
    for (name, tree) in machines() {
        let survey = survey(&tree);
        for (nic, device) in survey.machine.nics.iter().zip(&survey.devices) {
            let Some(links) = device.queue_links.known() else { continue };
            let napis = device.napis.known().unwrap();
            for queue in &nic.queues {
                let receives = |link: &&_| {
                    let link: &quiclane::topology::survey::device::QueueLink = link;
                    (link.index, link.direction) == (queue.index, Direction::Rx)
                };
                let link = links.iter().find(receives).unwrap();
                // A virtual device has no NAPI instance, and virtio does not report its interrupt.
                let napi = link.napi.map(|id| napis.iter().find(|napi| napi.id == id).unwrap());
                let Some(irq) = napi.and_then(|napi| napi.irq) else { continue };
                let number = queue.irq.known().map(|irq| irq.number);
                assert_eq!(Some(irq), number, "{name} {} queue {}", nic.name, queue.index);
                compared += 1;
            }
        }
    }
    assert!(compared >= 200, "only {compared} queues were compared");
}

#[test]
fn the_server_is_known_in_all_its_parts_and_well_placed() {
    for tree in [quiclane_fixtures::two_node_ice(), quiclane_fixtures::two_node_ice_64()] {
        let mut survey = survey(&tree);
        let count = survey.machine.nic("eth0").unwrap().queues.len();
        let devices = &mut survey.devices;
        assert_eq!(devices.iter().map(|d| &d.name).collect::<Vec<_>>(), ["eth0", "eth1", "lo"]);
        devices.pop();
        survey.machine.nics.pop();
        assert_eq!(unknowns(&survey), Vec::<String>::new());
        let sockets = survey.sockets.known().unwrap();
        assert_eq!(sockets.len(), count);
        let cpu = |id: u32| survey.machine.cpu(id).unwrap();
        let mut cores = std::collections::BTreeSet::new();
        for (nic, node) in survey.machine.nics.iter().zip([0, 1]) {
            assert_eq!((nic.node.clone(), nic.queues.len()), (Reading::Known(node), count));
            for queue in &nic.queues {
                let irq = queue.irq.known().unwrap();
                let [on] = irq.effective_cpus.known().unwrap()[..] else { panic!("{irq:?}") };
                assert_eq!(cpu(on).node, Reading::Known(node), "{irq:?}");
                assert!(cores.insert(cpu(on).siblings.clone()), "two queues on the core of {on}");
                if nic.name == "eth0" {
                    let mine = |socket: &&_| {
                        let socket: &quiclane::topology::survey::device::XskSocket = socket;
                        socket.queue == Some(queue.index)
                    };
                    assert_eq!(sockets.iter().find(mine).unwrap().workers[0].cpus, [on]);
                }
            }
        }
    }
}

#[test]
fn a_node_that_the_firmware_does_not_tell_is_unknown() {
    let lost = survey(&quiclane_fixtures::lost_node());
    for name in ["eth0", "eth1"] {
        let reason = lost.machine.nic(name).unwrap().node.reason().unwrap();
        assert!(reason.ends_with("numa_node reads -1"), "{reason}");
    }
}

#[test]
fn devices_without_a_bus_or_behind_one_more_are_found() {
    let machine = survey(&quiclane_fixtures::virtio()).machine;
    let nic = machine.nic("enp1s0").unwrap();
    assert_eq!(nic.driver, Reading::Known("virtio_net".to_owned()));
    assert_eq!(nic.queues[3].irq.known().unwrap().number, 44);
    let veth = survey(&quiclane_fixtures::veth());
    let (nic, device) = veth.device("veth0").unwrap();
    assert_eq!((nic.queues.len(), nic.irqs.len()), (2, 0));
    assert!(device.rss.reason().unwrap().contains("not supported"), "{:?}", device.rss);
    let ena = survey(&quiclane_fixtures::ena());
    let rss = ena.device("eth0").unwrap().1.rss.known().unwrap();
    assert_eq!((rss[0].key.len(), rss[0].table.len()), (40, 128));
}

/// It was made, or it is a bundle; nothing is both.
#[test]
fn every_machine_says_how_it_came_to_be() {
    let machines = machines();
    let is_made = |tree: &Tree| tree.get("MADE").is_some();
    for (name, tree) in &machines {
        assert!(is_made(tree) != tree.get("quiclane/bundle.json").is_some(), "{name}");
        assert_eq!(is_made(tree), !name.starts_with("captured "), "{name}");
    }
    assert!(machines.iter().filter(|(_, tree)| !is_made(tree)).count() >= 2, "none is captured");
}
