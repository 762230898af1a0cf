//! Checks that a plan may be written to this machine at all, before anything is touched.

use super::run::receive_queues;
use super::snapshot::Lost;
use crate::topology::Reading;
use crate::topology::plan::{Line, Plan, Setting, Target, Value, today};
use crate::topology::survey::Survey;
use std::fmt;

/// Why a plan is not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such device.
    NoDevice(String),
    /// The device of that name is another one.
    OtherDevice {
        /// Its name.
        name: String,
        /// What is different.
        what: &'static str,
        /// What the plan says.
        planned: String,
        /// What the device says.
        found: String,
    },
    /// A queue would vanish that an AF_XDP socket has.
    InUse {
        /// The device.
        name: String,
        /// The queue.
        queue: u32,
        /// The process that has it, as far as that is known.
        owner: String,
        /// How many queues there would be.
        queues: u64,
    },
    /// A capability is missing.
    Privilege(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice(name) => {
                write!(f, "there is no device {name}: name one that `ip link` lists")
            }
            Self::OtherDevice { name, what, planned, found } => write!(
                f,
                "{name} is not the device of the plan: its {what} is {found}, and not \
                 {planned}; make a plan for this device"
            ),
            Self::InUse { name, queue, owner, queues } => write!(
                f,
                "{name} would have {queues} queues, and queue {queue} is in use by {owner}: end \
                 that first"
            ),
            Self::Privilege(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Refusal {}

/// Looks whether `plan` can be written.
///
/// # Errors
/// The first reason why not.
pub fn check(survey: &Survey, plan: &Plan) -> Result<(), Refusal> {
    let name = &plan.device.name;
    let found = Target::of(survey, name).ok_or_else(|| Refusal::NoDevice(name.clone()))?;
    if let Some((what, planned, found)) = plan.device.difference(&found) {
        return Err(Refusal::OtherDevice { name: name.clone(), what, planned, found });
    }
    if let Some(refusal) = queue_in_use(survey, plan) {
        return Err(refusal);
    }
    // The last: a dry run needs none, and everything else is said all the same.
    if survey.host.capabilities.known().is_some_and(|capabilities| !capabilities.net_admin) {
        return Err(Refusal::Privilege(format!(
            "changing {name} needs CAP_NET_ADMIN, and for /proc/irq and /sys the rights of root: \
             run it with sudo"
        )));
    }
    Ok(())
}

/// Leaves the number of queues out of a way back, if a queue would vanish that is in use by now:
/// the rest is put back. Returns the lines that were taken out.
pub fn spare_queues_in_use(survey: &Survey, plan: &mut Plan) -> Option<Lost> {
    let refusal = queue_in_use(survey, plan)?;
    plan.lines.retain(|line| line.setting != Setting::Channels);
    Some(Lost { setting: Setting::Channels.to_string(), reason: refusal.to_string() })
}

fn queue_in_use(survey: &Survey, plan: &Plan) -> Option<Refusal> {
    let name = &plan.device.name;
    let queues = plan.line(&Setting::Channels).and_then(|line| receive_queues(&line.new))?;
    let (queue, owner) = in_use(survey, name, queues)?;
    Some(Refusal::InUse { name: name.clone(), queue, owner, queues })
}

/// A queue from `queues` on that has an AF_XDP socket, and the process that has the socket.
fn in_use(survey: &Survey, name: &str, queues: u64) -> Option<(u32, String)> {
    let (nic, device) = survey.device(name)?;
    let vanishes = |queue: u32| u64::from(queue) >= queues;
    let index = nic.index.known();
    let sockets = survey.sockets.known().into_iter().flatten();
    let of_device = sockets.filter(|socket| index.is_some() && socket.device.as_ref() == index);
    for socket in of_device {
        if let Some(queue) = socket.queue.filter(|queue| vanishes(*queue)) {
            let owner = match &socket.process {
                Some(process) => format!("{} (pid {})", process.name, process.pid),
                None => "an AF_XDP socket".to_owned(),
            };
            return Some((queue, owner));
        }
    }
    let links = device.queue_links.known().into_iter().flatten();
    let mut taken = links.filter(|link| link.has_xsk == Some(true) && vanishes(link.index));
    taken.next().map(|link| (link.index, "an AF_XDP socket".to_owned()))
}

/// A line whose value today is not what it was when the plan was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// What has changed.
    pub setting: Setting,
    /// What the plan says that it was.
    pub planned: Value,
    /// What it is.
    pub found: Value,
}

/// What has changed since the plan was made. Nothing is lost by it: what is put back is what is
/// found now.
#[must_use]
pub fn drift(survey: &Survey, plan: &Plan) -> Vec<Drift> {
    let drifted = |line: &Line| {
        let planned = line.today.known()?.clone();
        match today(survey, &plan.device.name, &line.setting) {
            Reading::Known(found) if found != planned => {
                Some(Drift { setting: line.setting.clone(), planned, found })
            }
            _ => None,
        }
    };
    plan.lines.iter().filter_map(drifted).collect()
}
