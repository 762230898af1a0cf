//! Machines made up for tests: what a survey of them would have read.

use super::survey::Survey;
use super::survey::device::{
    Channels, Coalesce, Device, Direction, Feature, Link, Napi, QueueLink, Rings, Rps, Xps,
};
use super::survey::host::Capabilities;
use super::survey::rss::{FlowHash, FlowType, RssContext};
use super::{Cpu, Irq, Machine, Nic, Node, Queue, Reading, Source};

/// What the machine is like. The device is `eth0`, of driver `ice`.
#[derive(Clone, Debug)]
pub(super) struct Rig {
    pub(super) nodes: u32,
    pub(super) cores_per_node: u32,
    /// Hardware threads of a core.
    pub(super) threads: u32,
    /// Cores that share a last-level cache.
    pub(super) cores_per_cache: u32,
    /// The device's node; none reads -1.
    pub(super) nic_node: Option<u32>,
    pub(super) queues: u32,
    pub(super) max_queues: u32,
}

impl Default for Rig {
    fn default() -> Self {
        Self {
            nodes: 2,
            cores_per_node: 4,
            threads: 1,
            cores_per_cache: 4,
            nic_node: Some(1),
            queues: 8,
            max_queues: 64,
        }
    }
}

fn unknown<T>(reason: &str) -> Reading<T> {
    Reading::Unknown(reason.to_owned())
}

impl Rig {
    fn cores(&self) -> u32 {
        self.nodes * self.cores_per_node
    }

    /// First threads of all cores have the low numbers, as on most servers.
    fn cpu(&self, id: u32) -> Cpu {
        let core = id % self.cores();
        Cpu {
            id,
            node: Reading::Known(core / self.cores_per_node),
            package: Reading::Known(core / self.cores_per_node),
            core: Reading::Known(core),
            siblings: (0..self.threads).map(|thread| core + thread * self.cores()).collect(),
            cache: Reading::Known(self.cache(id)),
            isolated: false,
        }
    }

    pub(super) fn survey(&self) -> Survey {
        let cpus: Vec<Cpu> = (0..self.cores() * self.threads).map(|id| self.cpu(id)).collect();
        let on = |node: u32| cpus.iter().filter(move |cpu| cpu.node.known() == Some(&node));
        let node = |id| Node {
            id,
            cpus: on(id).map(|cpu| cpu.id).collect(),
            distances: (0..self.nodes).map(|to| (to, if to == id { 10 } else { 21 })).collect(),
        };
        let nodes = (0..self.nodes).map(node).collect();
        let machine = Machine { cpus, nodes, nics: vec![self.nic()] };
        // An empty tree: nothing is known but what is filled in here.
        let mut survey = Survey::of(&Source::captured("/nonexistent"), machine);
        survey.sockets = Reading::Known(Vec::new());
        survey.host.irqbalance = Reading::Known(None);
        survey.host.capabilities =
            Reading::Known(Capabilities { net_admin: true, ..Capabilities::default() });
        self.fill(&mut survey.devices[0]);
        survey
    }

    fn cache(&self, cpu: u32) -> Vec<u32> {
        let core = cpu % self.cores();
        let first = core / self.cores_per_cache * self.cores_per_cache;
        let same = |id: &u32| (first..first + self.cores_per_cache).contains(&(id % self.cores()));
        (0..self.cores() * self.threads).filter(same).collect()
    }

    fn irq(&self, number: u32, name: String) -> Irq {
        let all = (0..self.cores() * self.threads).collect();
        Irq {
            number,
            name: Reading::Known(name),
            effective_cpus: Reading::Known(vec![0]),
            permitted_cpus: Reading::Known(all),
        }
    }

    fn nic(&self) -> Nic {
        let irq = |queue: u32| self.irq(100 + queue, format!("ice-eth0-TxRx-{queue}"));
        let node = self.nic_node.map_or_else(
            || unknown("/sys/class/net/eth0/device/numa_node reads -1"),
            Reading::Known,
        );
        Nic {
            name: "eth0".to_owned(),
            index: Reading::Known(2),
            driver: Reading::Known("ice".to_owned()),
            bus: Reading::Known("0000:17:00.0".to_owned()),
            node,
            mtu_bytes: Reading::Known(1500),
            queues: (0..self.queues)
                .map(|index| Queue { index, irq: Reading::Known(irq(index)) })
                .collect(),
            tx_queues: self.queues as usize,
            irqs: (0..self.queues).map(irq).collect(),
        }
    }

    fn fill(&self, device: &mut Device) {
        let feature = |active| Feature { active, wanted: active, changeable: true };
        let features = [
            ("rx-lro", feature(true)),
            ("rx-gro-hw", Feature::default()),
            ("rx-vlan-hw-parse", feature(true)),
            ("rx-checksum", feature(true)),
        ];
        device.features =
            Reading::Known(features.into_iter().map(|(name, f)| (name.to_owned(), f)).collect());
        device.link = Reading::Known(Link {
            address: "02:00:00:00:00:07".to_owned(),
            permanent_address: Some("02:00:00:00:00:01".to_owned()),
            ..Link::default()
        });
        device.attached = Reading::Known(Vec::new());
        device.channels = Reading::Known(Channels {
            combined: (self.queues, self.max_queues),
            other: (1, 1),
            ..Channels::default()
        });
        device.rings = Reading::Known(Rings { rx: (512, 4096), tx: (4096, 8160) });
        device.coalesce = Reading::Known(Coalesce {
            rx_usecs: Some(50),
            tx_usecs: Some(50),
            adaptive_rx: Some(true),
            adaptive_tx: Some(true),
            ..Coalesce::default()
        });
        self.fill_rss(device);
        let queues = 0..self.queues;
        device.queue_links = Reading::Known(queues.clone().map(queue_link).collect());
        device.napis = Reading::Known(queues.clone().map(napi).collect());
        device.rps = queues.clone().map(rps).collect();
        device.xps = queues.map(xps).collect();
        device.defer_hard_irqs = Reading::Known(0);
        device.gro_flush_timeout_ns = Reading::Known(0);
        device.threaded = Reading::Known(0);
    }

    fn fill_rss(&self, device: &mut Device) {
        let hash = |flow, letters: &str| FlowHash { flow, letters: letters.to_owned(), context: 0 };
        device.rss = Reading::Known(vec![RssContext {
            hash_function: Some("toeplitz".to_owned()),
            key: (0..40).collect(),
            table: (0..128).map(|slot| slot * self.queues / 128).collect(),
            ..RssContext::default()
        }]);
        device.hash_fields =
            Reading::Known(vec![hash(FlowType::Udp4, "sd"), hash(FlowType::Udp6, "sdfn")]);
    }
}

fn queue_link(index: u32) -> QueueLink {
    QueueLink { index, direction: Direction::Rx, napi: Some(8192 + index), has_xsk: Some(false) }
}

fn napi(queue: u32) -> Napi {
    Napi {
        id: 8192 + queue,
        irq: Some(100 + queue),
        defer_hard_irqs: Some(0),
        gro_flush_timeout_ns: Some(0),
        ..Napi::default()
    }
}

fn rps(queue: u32) -> Rps {
    Rps { queue, cpus: Reading::Known(Vec::new()), flow_entries: Reading::Known(0) }
}

fn xps(queue: u32) -> Xps {
    Xps { queue, cpus: Reading::Known(vec![queue]), rx_queues: Reading::Known(Vec::new()) }
}
