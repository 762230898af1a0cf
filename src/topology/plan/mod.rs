//! What would be changed on a device, and why: a value, made without touching anything.
//!
//! ```text
//!   Survey + PlanRequest --make--> Plan <--text--> TOML file that a person reads and edits
//!                                    |
//!                                    +--> topology::apply writes it, with a way back
//! ```
//!
//! [`make`] decides two things. Which CPUs work: that is [`place`](super::place()) under a
//! [`Policy`]. And what the device has to be told so that a queue's interrupt, NAPI, transmit
//! steering and worker meet on one CPU: a list of [`Line`]s, each with today's value, the new
//! value, the reason and the risk.
//!
//! A plan holds lines that are right already, too: it says how the device is to be, so that it
//! can be applied again after a boot. A setting that the driver does not offer is an
//! [`Omission`], with the reason.

mod make;
mod parse;
mod persist;
mod policy;
mod setting;
mod text;
mod today;

pub use make::{PlanError, PlanRequest, make};
pub use parse::ParseError;
pub use persist::persist;
pub use policy::Policy;
pub use setting::{Setting, Table, Value};
pub use today::today;

use super::{Assignment, Reading};
use crate::topology::survey::Survey;
use std::fmt;

pub(super) use today::napi_of;

/// Which device a plan is for. What is not known is not compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its permanent hardware address; of a virtual device, which has none, the address.
    pub address: Option<String>,
    /// Where it sits.
    pub bus: Option<String>,
    /// Its driver.
    pub driver: Option<String>,
}

impl Target {
    /// The device called `name`, if the survey shows it.
    #[must_use]
    pub fn of(survey: &Survey, name: &str) -> Option<Self> {
        let (nic, device) = survey.device(name)?;
        let link = device.link.known();
        let permanent = link.and_then(|link| link.permanent_address.clone());
        let bus = nic.bus.known().cloned();
        let current = link.map(|link| link.address.clone()).filter(|_| bus.is_none());
        let identity = device.identity.known().map(|identity| identity.driver.clone());
        Some(Self {
            name: name.to_owned(),
            address: permanent.or(current).filter(|address| !address.is_empty()),
            bus,
            driver: nic.driver.known().cloned().or(identity),
        })
    }

    /// How `other` is another device than this one, if it is: (what, ours, theirs).
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let pairs = [
            ("address", &self.address, &other.address),
            ("bus address", &self.bus, &other.bus),
            ("driver", &self.driver, &other.driver),
        ];
        pairs.into_iter().find_map(|(what, ours, theirs)| match (ours, theirs) {
            (Some(ours), Some(theirs)) if !ours.eq_ignore_ascii_case(theirs) => {
                Some((what, ours.clone(), theirs.clone()))
            }
            _ => None,
        })
    }
}

/// What it costs others to write a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Risk {
    /// Nothing.
    None,
    /// The kernel's own sockets on the device pay more CPU or latency.
    OthersPay,
    /// Flows on the device move to other queues and CPUs, and may be reordered once.
    TrafficMoves,
    /// The device may reset: its link goes down for up to seconds.
    LinkReset,
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::OthersPay => "other traffic slows down",
            Self::TrafficMoves => "other traffic moves",
            Self::LinkReset => "link reset",
        })
    }
}

/// One setting of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What is set.
    pub setting: Setting,
    /// What it is today.
    pub today: Reading<Value>,
    /// What it is to be.
    pub new: Value,
}

impl Line {
    /// False if today's value is right already.
    #[must_use]
    pub fn changes(&self) -> bool {
        !self.today.known().is_some_and(|today| today.fulfils(&self.new))
    }

    /// What it costs others.
    #[must_use]
    pub fn risk(&self) -> Risk {
        if !self.changes() {
            return Risk::None;
        }
        match self.setting {
            Setting::Channels | Setting::Rings => Risk::LinkReset,
            // Offloads of the receive path are part of what the hardware is programmed with.
            Setting::Feature(_) => Risk::LinkReset,
            Setting::Table | Setting::Key | Setting::Fields(_) => Risk::TrafficMoves,
            Setting::Irq(_) | Setting::Rps(_) | Setting::Rfs(_) | Setting::Xps(_) => {
                Risk::TrafficMoves
            }
            Setting::Coalesce
            | Setting::DeferHardIrqs
            | Setting::GroFlushTimeout
            | Setting::Threaded
            | Setting::Napi(_) => Risk::OthersPay,
        }
    }

    /// Why it is in a plan.
    #[must_use]
    pub fn why(&self) -> &'static str {
        if self.new.polls_busily() {
            return "a kernel thread polls this queue all the time: it needs a CPU of its own, near the worker";
        }
        why(&self.setting)
    }
}

/// Why a setting is in a plan.
fn why(setting: &Setting) -> &'static str {
    match setting {
        Setting::Feature(name) => match name.as_str() {
            "rx-lro" => "LRO merges packets: AF_XDP loses the boundaries of datagrams",
            "rx-gro-hw" => "the NIC merges packets before XDP sees them",
            "rx-vlan-hw-parse" => {
                "the NIC removes the VLAN tag, so XDP accepts packets of every VLAN"
            }
            _ => "an offload of the receive path",
        },
        Setting::Channels => "one queue for each worker: a queue without a worker loses packets",
        Setting::Rings => "as long as a worker's AF_XDP rings: shorter rings drop bursts",
        Setting::Coalesce => "adaptive moderation makes latency vary; a fixed one is predictable",
        Setting::Key => "a key of zeros hashes every flow to the same slot",
        Setting::Table => "every slot of the hash leads to a queue that has a worker",
        Setting::Fields(_) => {
            "without ports in the hash all flows between two hosts arrive on one queue"
        }
        Setting::Irq(_) => {
            "a queue's interrupt on the CPU of its worker: packets stay in its cache"
        }
        Setting::Rps(_) => "RPS moves packets to other CPUs, after the NIC has chosen one",
        Setting::Rfs(_) => "RFS follows sockets of the kernel, and AF_XDP has none",
        Setting::Xps(_) => "packets that a worker's CPU sends leave through the worker's own queue",
        Setting::DeferHardIrqs => "NAPI polls again before it arms the interrupt",
        Setting::GroFlushTimeout => "how long NAPI waits before it polls again by itself",
        Setting::Threaded => "kernel threads for NAPI would run on any CPU, away from the worker",
        Setting::Napi(_) => "NAPI of this queue polls again before it arms the interrupt",
    }
}

/// A setting that a plan leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Omission {
    /// What would have been set: a section, or a setting.
    pub what: String,
    /// Why it is not.
    pub reason: String,
}

/// How a device is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Which device.
    pub device: Target,
    /// The policy that it was made with, by name; `None` if a person wrote it.
    pub policy: Option<Policy>,
    /// Which CPU serves which queue.
    pub workers: Vec<Assignment>,
    /// What is set, in the order of writing.
    pub lines: Vec<Line>,
    /// The settings that it leaves out.
    pub omissions: Vec<Omission>,
    /// What an operator should know.
    pub notes: Vec<String>,
}

impl Plan {
    /// The line of a setting.
    #[must_use]
    pub fn line(&self, setting: &Setting) -> Option<&Line> {
        self.lines.iter().find(|line| line.setting == *setting)
    }

    /// How many lines change something.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.lines.iter().filter(|line| line.changes()).count()
    }

    /// What the whole of it costs others.
    #[must_use]
    pub fn risk(&self) -> Risk {
        self.lines.iter().map(Line::risk).max().unwrap_or(Risk::None)
    }

    /// The plan that a TOML file holds.
    ///
    /// # Errors
    /// Names the line and the key.
    pub fn from_toml(text: &str) -> Result<Self, ParseError> {
        parse::plan(text)
    }

    /// As a TOML file for people: every line with today's value, and comments that teach.
    #[must_use]
    pub fn to_toml(&self) -> String {
        text::plan(self)
    }
}

#[cfg(test)]
mod tests;
