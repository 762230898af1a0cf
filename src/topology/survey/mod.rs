//! All that a look at a machine can see: what the inspection verbs show, judge and change.
//!
//! A [`Survey`] is a [`Machine`] with everything around it: how the host is set up, what each
//! device was told and can do, which programs are attached and which processes have AF_XDP
//! sockets. Like the machine it is plain values. Two kinds of things are read:
//!
//! ```text
//!   files    /sys, /proc                       text(), list(), names()   --+
//!                                                                          +--> Survey
//!   answers  ethtool, netdev and route netlink, ask("ethtool/eth0/rings")--+
//!            ioctls, BPF: what only the running
//!            kernel can say, when it is asked
//! ```
//!
//! A captured tree has the files where they were, and each answer as JSON below
//! `quiclane/answers`. So a survey of another machine is read by the same code as one of this
//! machine, from [`Source::captured`], and the reader never knows the difference.
//!
//! What was not answered is [`Reading::Unknown`] with the reason, and stays so through every
//! verb: nothing here guesses.

pub mod device;
pub mod host;
pub mod rss;
pub mod server;

use crate::topology::{Machine, Nic, Reading, Source};
use device::{Device, Program, XskSocket};
use host::Host;
use server::Server;

/// What there is to see of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// CPUs, nodes and network devices.
    pub machine: Machine,
    /// The kernel, its settings, and what the CPUs are busy with.
    pub host: Host,
    /// What is known of each device beyond [`Machine::nics`], in the same order.
    pub devices: Vec<Device>,
    /// The BPF programs that are loaded.
    pub programs: Reading<Vec<Program>>,
    /// The AF_XDP sockets of this network namespace, as far as the kernel shows them.
    pub sockets: Reading<Vec<XskSocket>>,
    /// The servers of ours that run in this network namespace.
    pub servers: Vec<Server>,
}

impl Survey {
    /// Reads everything.
    #[must_use]
    pub fn read(source: &Source) -> Self {
        Self::of(source, source.machine())
    }

    /// Reads what belongs to one device, and the host: quicker where there are many devices.
    #[must_use]
    pub fn read_device(source: &Source, name: &str) -> Self {
        Self::of(source, source.machine_with(name))
    }

    /// Reads all that belongs to a machine that was read just now, and to its devices.
    #[must_use]
    pub fn of(source: &Source, machine: Machine) -> Self {
        let host = host::read(source, &machine);
        Self::around(source, machine, host)
    }

    /// Another look, some time later, at what belongs to one device: it may be another than
    /// before. What does not change while one watches is taken over: CPUs, nodes and caches, and of
    /// the host all but what its CPUs count.
    #[must_use]
    pub fn again(&self, source: &Source, name: &str) -> Self {
        let machine = Machine {
            cpus: self.machine.cpus.clone(),
            nodes: self.machine.nodes.clone(),
            nics: source.nic(name).into_iter().collect(),
        };
        Self::around(source, machine, self.host.again(source))
    }

    fn around(source: &Source, machine: Machine, host: Host) -> Self {
        Self {
            host,
            devices: machine.nics.iter().map(|nic| device::read(source, nic)).collect(),
            programs: source.programs(),
            sockets: source.sockets(),
            servers: server::read(source),
            machine,
        }
    }

    /// The device called `name`, in both halves.
    #[must_use]
    pub fn device(&self, name: &str) -> Option<(&Nic, &Device)> {
        let device = self.devices.iter().find(|device| device.name == name)?;
        Some((self.machine.nic(name)?, device))
    }
}
