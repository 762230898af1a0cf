//! Network devices, their queues and interrupts, from sysfs and procfs.

use super::source::Source;
use super::survey::device::{Direction, QueueLink};
use super::{Irq, Nic, Queue, Reading};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

const CLASS_NET: &str = "/sys/class/net";

/// Every device of the network namespace that the tree shows, by name.
pub(super) fn read(source: &Source) -> Vec<Nic> {
    let names = interrupt_names(source);
    source.names(CLASS_NET).into_iter().map(|name| nic(source, name, &names)).collect()
}

/// The device called `name`, if there is one; nothing of the others is read.
pub(super) fn one(source: &Source, name: &str) -> Option<Nic> {
    let name = source.names(CLASS_NET).into_iter().find(|other| other == name)?;
    Some(nic(source, name, &interrupt_names(source)))
}

fn nic(source: &Source, name: String, interrupts: &BTreeMap<u32, String>) -> Nic {
    let base = format!("{CLASS_NET}/{name}");
    let devices = device_chain(source, &base);
    let irqs = irqs(source, &devices, interrupts);
    let mut queues: Vec<Queue> = source
        .numbered(format!("{base}/queues"), "rx-")
        .into_iter()
        .map(|index| Queue { index, irq: irq_of(index, &irqs) })
        .collect();
    if !irqs.is_empty() && queues.iter().any(|queue| queue.irq.known().is_none()) {
        name_by_napi(source, &name, &mut queues, &irqs);
    }
    Nic {
        index: source.number(format!("{base}/ifindex")),
        driver: driver(source, &name, &devices),
        bus: devices.last().map_or_else(
            || Reading::unknown(format!("{name} is not on a bus")),
            |device| Reading::Known(last_name(device)),
        ),
        node: node(source, &name, &devices),
        mtu_bytes: source.number(format!("{base}/mtu")),
        tx_queues: source.numbered(format!("{base}/queues"), "tx-").len(),
        queues,
        irqs,
        name,
    }
}

/// The directories of the device and of those that it hangs on, nearest first, as long as
/// they are of one physical device: a virtio function and the PCI function that carries it.
fn device_chain(source: &Source, base: &str) -> Vec<PathBuf> {
    let link = PathBuf::from(base).join("device");
    let Some(device) = resolve(source, &link) else {
        // A captured tree may hold the directory itself in place of the link.
        let captured = source.exists(&link);
        return if captured { vec![link] } else { Vec::new() };
    };
    let parent = device.parent().map(Path::to_path_buf);
    let pci_above = parent.filter(|parent| source.exists(parent.join("vendor")));
    let is_pci = source.exists(device.join("msi_irqs")) || source.exists(device.join("irq"));
    let mut chain = vec![device];
    if !is_pci {
        chain.extend(pci_above);
    }
    chain
}

/// Where a link of the tree leads, as a path that begins with `/` and lies below the root.
fn resolve(source: &Source, link: &Path) -> Option<PathBuf> {
    // A link of a class directory leads through another link: the directory is resolved first.
    let directory = link.parent()?;
    let directory = match source.link_target(directory) {
        Some(target) => normal(&directory.parent()?.join(target)),
        None => directory.to_path_buf(),
    };
    let target = source.link_target(directory.join(link.file_name()?))?;
    Some(normal(&directory.join(target)))
}

/// Takes `..` and `.` out of a path without looking at any file.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

fn last_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn driver(source: &Source, name: &str, devices: &[PathBuf]) -> Reading<String> {
    let Some(device) = devices.first() else {
        return Reading::unknown(format!("{name} is a virtual device"));
    };
    let link = device.join("driver");
    match resolve(source, &link) {
        Some(target) => Reading::Known(last_name(&target)),
        None => Reading::unknown(format!("{} is not a link", link.display())),
    }
}

/// The node of the first device of the chain that has one. The kernel writes -1 for "not
/// known", and that is what it means here: it is not node 0.
fn node(source: &Source, name: &str, devices: &[PathBuf]) -> Reading<u32> {
    let mut reason = format!("{name} is a virtual device");
    for device in devices {
        let file = device.join("numa_node");
        match source.parsed(&file, |text| text.parse::<i64>().ok()) {
            Reading::Known(node) => match u32::try_from(node) {
                Ok(node) => return Reading::Known(node),
                Err(_) => reason = format!("{} reads {node}", file.display()),
            },
            Reading::Unknown(why) => reason = why,
        }
    }
    Reading::Unknown(reason)
}

fn irqs(source: &Source, devices: &[PathBuf], names: &BTreeMap<u32, String>) -> Vec<Irq> {
    let numbers = devices
        .iter()
        .map(|device| source.numbered(device.join("msi_irqs"), ""))
        .find(|numbers| !numbers.is_empty())
        .unwrap_or_default();
    let irq = |number: u32| Irq {
        number,
        name: match names.get(&number) {
            Some(name) => Reading::Known(name.clone()),
            None => Reading::unknown(format!("/proc/interrupts has no line {number}")),
        },
        effective_cpus: source.list(format!("/proc/irq/{number}/effective_affinity_list")),
        permitted_cpus: source.list(format!("/proc/irq/{number}/smp_affinity_list")),
    };
    numbers.into_iter().map(irq).collect()
}

fn irq_of(queue: u32, irqs: &[Irq]) -> Reading<Irq> {
    let serves = |irq: &&Irq| irq.name.known().and_then(|name| rx_queue_of(name)) == Some(queue);
    match (irqs.iter().find(serves), irqs.len()) {
        (Some(irq), _) => Reading::Known(irq.clone()),
        (None, 0) => Reading::unknown("the device has no message-signalled interrupts"),
        (None, _) => Reading::unknown(format!("no interrupt is named after queue {queue}")),
    }
}

/// Of a driver whose interrupts have other names: the interrupt of the queue's NAPI instance.
fn name_by_napi(source: &Source, name: &str, queues: &mut [Queue], irqs: &[Irq]) {
    let (links, napis) = (source.queue_links(name), source.napis(name));
    let (Some(links), Some(napis)) = (links.known(), napis.known()) else { return };
    for queue in queues.iter_mut().filter(|queue| queue.irq.known().is_none()) {
        let is_its = |link: &&QueueLink| {
            link.index == queue.index && link.direction == Direction::Rx && link.napi.is_some()
        };
        let napi = links.iter().find(is_its).and_then(|link| link.napi);
        let number = napis.iter().find(|it| Some(it.id) == napi).and_then(|napi| napi.irq);
        if let Some(irq) = irqs.iter().find(|irq| Some(irq.number) == number) {
            queue.irq = Reading::Known(irq.clone());
        }
    }
}

/// The receive queue that an interrupt's name speaks of. Drivers name them freely:
///
/// `eth0-TxRx-3` (igb, ixgbe, i40e, ice, bnxt), `eth0-Tx-Rx-3` (ena), `eth0-rx-3` (e1000e),
/// `mlx5_comp3@pci:0000:17:00.0`, `virtio2-input.3`. What only sends is of no queue here.
pub(super) fn rx_queue_of(name: &str) -> Option<u32> {
    let name = name.split('@').next()?.to_ascii_lowercase();
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let queue = name[stem.len()..].parse().ok()?;
    let receives = ["rx-", "rx", "rx_", "input.", "comp", "_comp"];
    receives.iter().any(|end| stem.ends_with(end)).then_some(queue)
}

/// `/proc/interrupts`: the name that each numbered line ends in.
fn interrupt_names(source: &Source) -> BTreeMap<u32, String> {
    let text = source.text("/proc/interrupts");
    let lines = text.known().map(String::as_str).unwrap_or_default().lines();
    let name = |line: &str| {
        let (number, rest) = line.trim_start().split_once(':')?;
        Some((number.parse().ok()?, rest.split_whitespace().next_back()?.to_owned()))
    };
    lines.filter_map(name).collect()
}
