//! Survey and policy in, plan out. Pure: the same survey gives the same plan.

use super::policy::{Candidates, choose};
use super::setting::BUSY_POLL;
use super::{Line, Omission, Plan, Policy, Setting, Table, Target, Value, today};
use crate::topology::list;
use crate::topology::live::version;
use crate::topology::survey::Survey;
use crate::topology::survey::device::{Channels, Device};
use crate::topology::survey::rss::FlowType;
use crate::topology::{
    Assignment, Near, Nic, Placement, PlacementError, Queue, Reading, Request, Sharing, place,
};
use std::fmt;

/// Entries of a hardware ring: as many as a worker's AF_XDP ring has by default.
const RING_ENTRIES: u32 = 1024;
/// A ring up to this length is left alone: a worker posts this many frames to receive into.
const LONG_RING_ENTRIES: u32 = 2048;
/// Polls without a packet before NAPI arms the interrupt again.
const DEFER_HARD_IRQS: u64 = 2;
/// The time between two of those polls: what a worker that polls sets for its own sockets.
const GRO_FLUSH_TIMEOUT_NS: u64 = 20_000;
/// Since when kernels know [`BUSY_POLL`].
const BUSY_POLL_SINCE: (u32, u32) = (6, 19);
/// The interrupt moderation that replaces one that adapts.
const RX_USECS: u64 = 20;
/// Offloads that take from a packet what AF_XDP needs to see.
const HARMFUL_FEATURES: [&str; 3] = ["rx-lro", "rx-gro-hw", "rx-vlan-hw-parse"];

/// What a plan is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanRequest {
    /// The device.
    pub device: String,
    /// Which CPUs work.
    pub policy: Policy,
    /// How many workers; `None`: one for each core that the policy offers, as far as there are
    /// queues.
    pub workers: Option<u32>,
    /// The CPUs of the workers, in their order. Empty: by the policy.
    pub cpus: Vec<u32>,
    /// Have a kernel thread poll each queue all the time, in place of its interrupt (threaded NAPI with
    /// busy polling, Linux 6.19). Each thread takes a CPU, which it does not choose beside the worker:
    /// pin it, as `doctor` says (QL023).
    pub busy_napi: bool,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// There is no such device.
    NoDevice(String),
    /// A plan for no workers.
    NoWorkers,
    /// More workers than the device can have queues.
    TooManyWorkers {
        /// How many were asked for.
        workers: u32,
        /// How many queues there can be.
        queues: u32,
        /// Why not more.
        reason: String,
    },
    /// More workers than CPUs.
    TooFewCpus {
        /// How many workers.
        workers: u32,
        /// How many CPUs there are for them.
        cpus: usize,
    },
    /// The CPUs cannot be placed.
    Placement(PlacementError),
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice(device) => {
                write!(f, "there is no device {device}: name one that `ip link` lists")
            }
            Self::NoWorkers => f.write_str("a plan for 0 workers: ask for at least one"),
            Self::TooManyWorkers { workers, queues, reason } => {
                write!(
                    f,
                    "{workers} workers need {workers} queues, and only {queues} are possible: {reason}; ask \
                     for {queues} workers at most"
                )
            }
            Self::TooFewCpus { workers, cpus } => write!(
                f,
                "{workers} workers and {cpus} CPUs for them: ask for fewer workers, or for more \
                 CPUs by another policy or by name"
            ),
            Self::Placement(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PlanError {}

/// Makes a plan.
///
/// # Errors
/// The wish cannot be met on this machine: see [`PlanError`].
pub fn make(survey: &Survey, request: &PlanRequest) -> Result<Plan, PlanError> {
    let no_device = || PlanError::NoDevice(request.device.clone());
    let (nic, device) = survey.device(&request.device).ok_or_else(no_device)?;
    let target = Target::of(survey, &request.device).ok_or_else(no_device)?;
    let candidates = choose(survey, nic, request.policy);
    let shape = shape(survey, nic, device, request, &candidates)?;
    let placement = placed(survey, nic, request, &shape, &candidates)?;
    let mut notes = if request.cpus.is_empty() { candidates.notes } else { Vec::new() };
    for note in placement.notes.iter().map(ToString::to_string) {
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    if let Some(pid) = survey.host.irqbalance.known().copied().flatten() {
        notes.push(format!(
            "irqbalance runs (pid {pid}) and will move the interrupts back: stop it, or ban them \
             (IRQBALANCE_BANNED_CPULIST)"
        ));
    }
    notes.extend(shape.notes.iter().cloned());
    let mut draft = Draft {
        survey,
        nic,
        device,
        shape: &shape,
        busy_napi: request.busy_napi,
        lines: Vec::new(),
        omissions: Vec::new(),
    };
    draft.all(&placement);
    let Draft { mut lines, omissions, .. } = draft;
    lines.sort_by(|a, b| a.setting.cmp(&b.setting));
    Ok(Plan {
        device: target,
        policy: request.cpus.is_empty().then_some(request.policy),
        workers: placement.rows,
        lines,
        omissions,
        notes,
    })
}

/// How many workers there are, on which queues.
struct Shape {
    workers: u32,
    /// Receive queues when all is written.
    queues: u32,
    /// Transmit queues when all is written.
    tx_queues: u32,
    /// What the channels are set to; or why they are not.
    channels: Result<Value, String>,
    notes: Vec<String>,
}

/// What kind of channels a device has, and how many it may have.
enum Kind {
    Combined(u32),
    Separate(u32),
}

fn kind(channels: &Channels) -> Option<Kind> {
    let separate = channels.rx.1.min(channels.tx.1);
    match (channels.combined.1, separate) {
        (0, 0) => None,
        (0, most) => Some(Kind::Separate(most)),
        (most, _) => Some(Kind::Combined(most)),
    }
}

fn shape(
    survey: &Survey,
    nic: &Nic,
    device: &Device,
    request: &PlanRequest,
    candidates: &Candidates,
) -> Result<Shape, PlanError> {
    if request.workers == Some(0) {
        return Err(PlanError::NoWorkers);
    }
    let cores = if request.cpus.is_empty() { candidates.cores } else { request.cpus.len() };
    let cores = u32::try_from(cores.max(1)).unwrap_or(u32::MAX);
    let known = match &device.channels {
        Reading::Known(channels) => {
            kind(channels).ok_or_else(|| "the device has no channels to change".to_owned())
        }
        Reading::Unknown(reason) => Err(reason.clone()),
    };
    let floor = veth_floor(survey, nic, device);
    match known {
        Ok(kind) => match floor {
            Some(floor) => veth(nic, device, request, cores, &kind, floor),
            None => changeable(nic, request, cores, &kind),
        },
        Err(reason) => fixed(nic, device, request, cores, reason),
    }
}

/// What a veth may not go below, and why.
struct Floor {
    rx_queues: u32,
    reason: String,
}

/// What the other end of a veth sends on queue N arrives on queue N here, and the driver refuses
/// a program while the other end has more transmit queues than this one has receive queues.
fn veth_floor(survey: &Survey, nic: &Nic, device: &Device) -> Option<Floor> {
    if device.driver(nic).known()? != "veth" {
        return None;
    }
    let lower = device.link.known().and_then(|link| link.lower);
    let peer = survey.machine.nics.iter().zip(&survey.devices).find(|(other, found)| {
        // An index of another namespace may be taken in this one as well.
        let back = found.link.known().and_then(|link| link.lower);
        lower.is_some()
            && other.index.known() == lower.as_ref()
            && back.as_ref() == nic.index.known()
    });
    Some(match peer {
        Some((peer, _)) => Floor {
            rx_queues: u32::try_from(peer.tx_queues).unwrap_or(u32::MAX),
            reason: format!(
                "{} sends on {} queues, and each needs its own here, or native XDP is refused",
                peer.name, peer.tx_queues
            ),
        },
        None => Floor {
            rx_queues: u32::try_from(nic.queues.len()).unwrap_or(u32::MAX),
            reason: format!(
                "the other end of {} is in another namespace: if it has more transmit queues than \
                 receive queues here, native XDP is refused",
                nic.name
            ),
        },
    })
}

/// A veth gets more receive queues, or as many as it has, and keeps its transmit queues: those
/// bind the other end.
fn veth(
    nic: &Nic,
    device: &Device,
    request: &PlanRequest,
    cores: u32,
    kind: &Kind,
    floor: Floor,
) -> Result<Shape, PlanError> {
    let (Kind::Combined(most) | Kind::Separate(most)) = *kind;
    let least = floor.rx_queues.min(most);
    if request.workers.is_some_and(|workers| workers < least) {
        return fixed(nic, device, request, cores, floor.reason);
    }
    let wanted = PlanRequest {
        workers: Some(request.workers.unwrap_or_else(|| cores.min(most).max(least))),
        ..request.clone()
    };
    let mut shape = changeable(nic, &wanted, cores, kind)?;
    let tx_queues = u32::try_from(nic.tx_queues).unwrap_or(u32::MAX);
    if let (Kind::Separate(_), Reading::Known(channels)) = (kind, &device.channels) {
        let numbers = [("rx", shape.workers.into()), ("tx", channels.tx.0.into())];
        shape.channels = Ok(Value::of_numbers(numbers));
        shape.tx_queues = tx_queues;
    }
    if shape.workers > cores {
        shape.notes.push(floor.reason);
    }
    Ok(shape)
}

fn changeable(
    nic: &Nic,
    request: &PlanRequest,
    cores: u32,
    kind: &Kind,
) -> Result<Shape, PlanError> {
    let (Kind::Combined(most) | Kind::Separate(most)) = *kind;
    let ena = nic.driver.known().is_some_and(|driver| driver == "ena");
    let (most, reason) = if ena && most > 1 {
        (most / 2, "ena needs half of its queues to send from XDP")
    } else {
        (most, "the driver offers no more")
    };
    let workers = request.workers.unwrap_or_else(|| cores.min(most));
    if workers > most {
        let reason = reason.to_owned();
        return Err(PlanError::TooManyWorkers { workers, queues: most, reason });
    }
    let channels = match kind {
        Kind::Combined(_) => Value::of_numbers([("combined", workers.into())]),
        Kind::Separate(_) => Value::of_numbers([("rx", workers.into()), ("tx", workers.into())]),
    };
    let mut notes = Vec::new();
    if ena {
        notes.push(format!("{reason}: {most} of them can have workers"));
    }
    let (queues, tx_queues) = (workers, workers);
    Ok(Shape { workers, queues, tx_queues, channels: Ok(channels), notes })
}

/// A device whose queues cannot be changed: all of them are served, or the table leads to the
/// first of them.
fn fixed(
    nic: &Nic,
    device: &Device,
    request: &PlanRequest,
    cores: u32,
    reason: String,
) -> Result<Shape, PlanError> {
    let queues = u32::try_from(nic.queues.len()).unwrap_or(u32::MAX);
    let has_table = device.has_table();
    let natural = if has_table { cores.min(queues) } else { queues };
    let workers = request.workers.unwrap_or(natural.max(1));
    if workers > queues {
        return Err(PlanError::TooManyWorkers { workers, queues, reason });
    }
    let mut notes = Vec::new();
    if workers < queues && !has_table {
        notes.push(format!(
            "the device has {queues} queues and no indirection table: queues {} receive as well, \
             and have no worker",
            list::format(workers..queues)
        ));
    }
    let tx_queues = u32::try_from(nic.tx_queues).unwrap_or(u32::MAX);
    Ok(Shape { workers, queues, tx_queues, channels: Err(reason), notes })
}

/// The rules of [`place`], on the device as it will be.
fn placed(
    survey: &Survey,
    nic: &Nic,
    request: &PlanRequest,
    shape: &Shape,
    candidates: &Candidates,
) -> Result<Placement, PlanError> {
    let mut machine = survey.machine.clone();
    if let Some(nic) = machine.nics.iter_mut().find(|other| other.name == nic.name) {
        let irq = || Reading::unknown("the queue is not there yet");
        nic.queues = (0..shape.queues).map(|index| Queue { index, irq: irq() }).collect();
    }
    let chosen = if request.cpus.is_empty() { &candidates.cpus } else { &request.cpus };
    let by_place = request.cpus.is_empty() && request.policy == Policy::Node;
    // CPUs are shared only where the caller gave no number of workers: on a device that cannot have
    // fewer queues.
    let forced = request.workers.is_none() && request.cpus.is_empty();
    let wish = Request {
        device: Some(request.device.clone()),
        queues: (0..shape.workers).collect(),
        cpus: if by_place { Vec::new() } else { chosen.clone() },
        allowed: Vec::new(),
        sharing: if forced { Sharing::Allow } else { Sharing::Forbid },
        // The plan moves the interrupts to the workers, and not the workers to the interrupts.
        near: Near::Node,
    };
    place(&machine, &wish).map_err(|error| match error {
        PlacementError::TooFewCpus { cpus, .. } => {
            PlanError::TooFewCpus { workers: shape.workers, cpus }
        }
        other => PlanError::Placement(other),
    })
}

/// The lines as they come together.
struct Draft<'a> {
    survey: &'a Survey,
    nic: &'a Nic,
    device: &'a Device,
    shape: &'a Shape,
    busy_napi: bool,
    lines: Vec<Line>,
    omissions: Vec<Omission>,
}

impl Draft<'_> {
    fn all(&mut self, placement: &Placement) {
        self.features();
        self.channels();
        self.rings();
        self.coalesce();
        self.rss();
        self.interrupts(&placement.rows);
        self.steering(&placement.rows);
        self.napi();
    }

    fn today(&self, setting: &Setting) -> Reading<Value> {
        today(self.survey, &self.nic.name, setting)
    }

    fn omit(&mut self, what: impl ToString, reason: impl Into<String>) {
        self.omissions.push(Omission { what: what.to_string(), reason: reason.into() });
    }

    fn line(&mut self, setting: Setting, new: Value) {
        let today = self.today(&setting);
        self.lines.push(Line { setting, today, new });
    }

    /// A line, if today's value is known: what cannot be read could not be put back.
    fn known(&mut self, setting: Setting, new: Value) {
        match self.today(&setting) {
            Reading::Known(today) => {
                self.lines.push(Line { setting, today: Reading::Known(today), new });
            }
            Reading::Unknown(reason) => self.omit(setting, reason),
        }
    }

    fn features(&mut self) {
        let features = match &self.device.features {
            Reading::Unknown(reason) => return self.omit("features", reason.clone()),
            Reading::Known(features) => features.clone(),
        };
        for name in HARMFUL_FEATURES {
            let setting = Setting::Feature(name.to_owned());
            match features.get(name) {
                None => self.omit(setting, "the kernel has no such feature"),
                Some(feature) if feature.changeable && self.switches_itself(name) => {
                    let reason = "virtio_net switches it off while a program is attached, and \
                                  refuses the switch meanwhile";
                    self.omit(setting, reason);
                }
                Some(feature) if feature.changeable => self.line(setting, Value::Switch(false)),
                Some(feature) if feature.active => {
                    self.omit(setting, "it is on, and the driver does not let it be changed");
                }
                Some(_) => self.omit(setting, "it is off, and cannot be switched on"),
            }
        }
    }

    /// True of an offload that the driver itself ends while a program is attached.
    fn switches_itself(&self, feature: &str) -> bool {
        let is_virtio = self.nic.driver.known().is_some_and(|driver| driver == "virtio_net");
        is_virtio && feature == "rx-gro-hw"
    }

    fn channels(&mut self) {
        match self.shape.channels.clone() {
            Ok(channels) => self.line(Setting::Channels, channels),
            Err(reason) => self.omit(Setting::Channels, reason),
        }
    }

    fn rings(&mut self) {
        let rings = match &self.device.rings {
            Reading::Unknown(reason) => return self.omit(Setting::Rings, reason.clone()),
            Reading::Known(rings) => *rings,
        };
        let wanted = |(now, most): (u32, u32)| match now {
            RING_ENTRIES..=LONG_RING_ENTRIES => now,
            _ => RING_ENTRIES.min(most.max(now)),
        };
        if rings.rx.1 == 0 || rings.tx.1 == 0 {
            return self.omit(Setting::Rings, "the driver does not say how long a ring may be");
        }
        let new = [("rx", wanted(rings.rx).into()), ("tx", wanted(rings.tx).into())];
        self.line(Setting::Rings, Value::of_numbers(new));
    }

    fn coalesce(&mut self) {
        let coalesce = match &self.device.coalesce {
            Reading::Unknown(reason) => return self.omit(Setting::Coalesce, reason.clone()),
            Reading::Known(coalesce) => *coalesce,
        };
        let Some(adapts) = coalesce.adaptive_rx else {
            return self.omit(
                Setting::Coalesce,
                "the driver has no adaptive moderation: it stays as it is",
            );
        };
        // A value that the operator has chosen is kept; one that adapted was the driver's choice.
        let usecs = match coalesce.rx_usecs {
            Some(usecs) if !adapts => u64::from(usecs),
            _ => RX_USECS,
        };
        let new = match coalesce.rx_usecs {
            Some(_) => Value::of_numbers([("adaptive-rx", 0), ("rx-usecs", usecs)]),
            None => Value::of_numbers([("adaptive-rx", 0)]),
        };
        self.line(Setting::Coalesce, new);
    }

    fn rss(&mut self) {
        if self.shape.queues == 1 && !self.device.has_table() {
            return self.omit("rss", "every packet arrives on the only queue");
        }
        match self.today(&Setting::Key) {
            Reading::Known(Value::Key(key)) if key.iter().all(|byte| *byte == 0) => {
                let good = crate::topology::toeplitz::MICROSOFT_KEY;
                let key = good.into_iter().cycle().take(key.len()).collect();
                self.line(Setting::Key, Value::Key(key));
            }
            Reading::Known(_) => self.omit(
                Setting::Key,
                "every key that is not zero spreads flows equally well, and a new key would move all flows",
            ),
            Reading::Unknown(reason) => self.omit(Setting::Key, reason),
        }
        self.known(Setting::Table, Value::Table(Table::Equal(self.shape.workers)));
        for flow in [FlowType::Udp4, FlowType::Udp6] {
            self.known(Setting::Fields(flow), Value::Letters("sdfn".to_owned()));
        }
    }

    fn interrupts(&mut self, rows: &[Assignment]) {
        if self.nic.irqs.is_empty() {
            return self.omit("irq", "the device has no interrupts of its own");
        }
        for row in rows {
            let setting = Setting::Irq(row.queue);
            let queue = self.nic.queues.iter().find(|queue| queue.index == row.queue);
            if let Some(Reading::Unknown(reason)) = queue.map(|queue| &queue.irq) {
                let reason = reason.clone();
                self.omit(setting, reason);
            } else {
                self.line(setting, Value::Cpus(vec![row.cpu]));
            }
        }
    }

    /// RPS and RFS off for every queue; XPS to each worker's CPU.
    fn steering(&mut self, rows: &[Assignment]) {
        for queue in 0..self.shape.queues {
            self.per_queue(Setting::Rps(queue), Value::Cpus(Vec::new()));
            self.per_queue(Setting::Rfs(queue), Value::Number(0));
        }
        for row in rows.iter().filter(|row| row.queue < self.shape.tx_queues) {
            // Workers that share a CPU share its transmit queues as well.
            self.per_queue(Setting::Xps(row.queue), Value::Cpus(vec![row.cpu]));
        }
    }

    /// A line, unless the queue is there and does not say; one reason for a whole section.
    fn per_queue(&mut self, setting: Setting, new: Value) {
        let queue = setting.queue().unwrap_or_default() as usize;
        let there = match setting {
            Setting::Xps(_) => self.device.xps.len(),
            _ => self.device.rps.len(),
        };
        match self.today(&setting) {
            Reading::Unknown(reason) if queue < there => {
                let section = setting.section();
                if !self.omissions.iter().any(|omission| omission.what == section) {
                    self.omit(section, reason);
                }
            }
            today => self.lines.push(Line { setting, today, new }),
        }
    }

    fn napi(&mut self) {
        let (defer, flush) = (DEFER_HARD_IRQS, GRO_FLUSH_TIMEOUT_NS);
        if self.today(&Setting::Napi(0)).known().is_some() {
            let busy = self.busy_napi && self.can_poll_busily();
            for queue in 0..self.shape.workers {
                let new = [("defer-hard-irqs", defer), ("gro-flush-timeout-ns", flush)];
                let new = match busy {
                    true => Value::of_numbers([new[0], new[1], ("threaded", BUSY_POLL)]),
                    false => Value::of_numbers(new),
                };
                self.line(Setting::Napi(queue), new);
            }
            let each = "it is set for each queue that has a worker; the other queues keep theirs";
            self.omit(Setting::DeferHardIrqs, each);
            self.omit(Setting::GroFlushTimeout, each);
        } else {
            if self.busy_napi {
                self.can_poll_busily();
            }
            self.known(Setting::DeferHardIrqs, Value::Number(defer));
            self.known(Setting::GroFlushTimeout, Value::Number(flush));
        }
        if self.busy_napi && self.lines.iter().any(|line| line.new.polls_busily()) {
            self.omit(Setting::Threaded, "each queue that has a worker has a thread of its own");
        } else if self.nic.irqs.is_empty() {
            self.omit(
                Setting::Threaded,
                "NAPI of a device without interrupts runs on the sender's CPU: `threaded = { new = \
                 1 }` gives it threads, which taskset can pin",
            );
        } else {
            self.known(Setting::Threaded, Value::Number(0));
        }
    }

    /// True if the kernel can have a thread poll a NAPI instance all the time; else says why not.
    fn can_poll_busily(&mut self) -> bool {
        const WHAT: &str = "napi: threads that poll all the time";
        let tells = match self.today(&Setting::Napi(0)) {
            Reading::Known(Value::Numbers(numbers)) => numbers.contains_key("threaded"),
            Reading::Known(_) => false,
            Reading::Unknown(reason) => {
                self.omit(WHAT, reason);
                return false;
            }
        };
        let release = self.survey.host.kernel.known().map_or("unknown", String::as_str).to_owned();
        let is_new = version(&release).is_some_and(|running| running >= BUSY_POLL_SINCE);
        let (major, minor) = BUSY_POLL_SINCE;
        if !is_new {
            self.omit(WHAT, format!("Linux {major}.{minor} has it, this is {release}"));
        } else if !tells {
            self.omit(WHAT, "the kernel does not say whether the NAPI of queue 0 has a thread");
        }
        tells && is_new
    }
}
