//! `quiclane nic list`: a line for each network device.

use crate::doctor::{self, Finding, Severity};
use crate::error::Failure;
use crate::inspect::sheet::{self, NONE, Sheet, Shown, Side};
use crate::inspect::{ReadArgs, Unknowns, print, print_json};
use clap::{Args, Subcommand};
use quiclane::topology::Nic;
use quiclane::topology::survey::Survey;
use quiclane::topology::survey::device::{AttachMode, Attached, Device};
use serde::Serialize;

/// Network devices.
#[derive(Clone, Debug, Args)]
pub(crate) struct NicArgs {
    #[command(subcommand)]
    command: NicCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum NicCommand {
    /// List the network devices, one a line: driver, memory node, queues, XDP.
    List(NicListArgs),
}

#[derive(Clone, Debug, Args)]
struct NicListArgs {
    /// Show virtual devices and those that are down in full.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    read: ReadArgs,
}

pub(crate) fn run(args: &NicArgs) -> Result<(), Failure> {
    let NicCommand::List(args) = &args.command;
    let survey = Survey::read(&args.read.source()?);
    let mut found = doctor::of_devices(&survey);
    let pairs = survey.machine.nics.iter().zip(&survey.devices);
    let row = |(nic, device): (&Nic, &Device)| NicRow::new(nic, device, found.remove(&nic.name));
    let rows: Vec<NicRow> = pairs.map(row).collect();
    if args.read.json {
        #[derive(Serialize)]
        struct List<'a> {
            rows: &'a [NicRow],
        }
        return print_json("quiclane.nic_list/1", &List { rows: &rows });
    }
    print(&text(&rows, args.all))
}

/// A device.
#[derive(Clone, Debug, Serialize)]
struct NicRow {
    name: String,
    driver: Option<String>,
    bus: Option<String>,
    node: Option<u32>,
    speed_mbps: Option<u32>,
    /// Receive queues that it has.
    queues: u32,
    /// Receive queues that it may have.
    queues_max: Option<u32>,
    xdp: Xdp,
    mtu_bytes: Option<u32>,
    state: Option<String>,
    is_physical: bool,
    /// Doctor's findings, the worst first; `None` if doctor does not look at such a device unasked.
    findings: Option<Vec<Brief>>,
    unknown: Unknowns,
}

/// A finding of doctor, in short.
#[derive(Clone, Debug, Serialize)]
struct Brief {
    id: &'static str,
    severity: Severity,
    says: String,
}

/// Fields that only hardware has.
pub(crate) const VIRTUAL_HAS_NO: [&str; 4] = ["driver", "bus", "node", "queues_max"];

/// Findings that make a driver refuse a program.
const REFUSES_NATIVE: [&str; 5] = ["QL032", "QL033", "QL035", "QL062", "QL068"];

/// What a device offers to XDP, and which program is attached.
#[derive(Clone, Debug, Serialize)]
struct Xdp {
    /// Native mode is possible; `None` if the kernel does not report it. False also where the driver has
    /// it and would refuse a program with the present settings.
    native: Option<bool>,
    /// The finding that explains why it would be refused.
    refused: Option<&'static str>,
    /// AF_XDP without copies; `None` if the kernel does not report it.
    zerocopy: Option<bool>,
    attached: Option<Vec<Attached>>,
}

impl NicRow {
    fn new(nic: &Nic, device: &Device, findings: Option<Vec<Finding>>) -> Self {
        let mut unknown = Unknowns::default();
        let link = unknown.take("state", &device.link);
        let channels = device.channels.known();
        let queues_max = unknown.take("queues_max", &device.channels);
        let support = unknown.take("xdp", &device.xdp_support);
        let refused = findings.iter().flatten().map(|finding| finding.id);
        let refused = refused.filter(|id| REFUSES_NATIVE.contains(id)).min();
        Self {
            name: nic.name.clone(),
            driver: unknown.take("driver", &device.driver(nic)),
            bus: unknown.take("bus", &nic.bus),
            node: unknown.take("node", &nic.node),
            speed_mbps: link.as_ref().and_then(|link| link.speed_mbps),
            queues: channels
                .map(|channels| channels.combined.0 + channels.rx.0)
                .filter(|&queues| queues > 0)
                .unwrap_or(nic.queues.len() as u32),
            queues_max: queues_max.map(|channels| channels.combined.1 + channels.rx.1),
            xdp: Xdp {
                native: support
                    .as_ref()
                    .map(|support| support.offers("basic") && refused.is_none()),
                refused,
                zerocopy: support.as_ref().map(|support| support.offers("xsk-zerocopy")),
                attached: unknown.take("xdp.attached", &device.attached),
            },
            mtu_bytes: unknown.take("mtu_bytes", &nic.mtu_bytes),
            state: link.map(|link| link.state),
            is_physical: nic.bus.known().is_some(),
            findings: findings.map(|found| found.into_iter().map(Brief::of).collect()),
            unknown,
        }
    }

    /// Shown in full without `--all`.
    fn is_prominent(&self) -> bool {
        self.is_physical && !self.is_down()
    }

    fn is_down(&self) -> bool {
        self.state.as_deref().is_some_and(|state| state.ends_with("down"))
    }

    /// Unknown fields that are expected to be known.
    fn asked(&self) -> Unknowns {
        self.unknown.without(if self.is_physical { &[] } else { &VIRTUAL_HAS_NO[..] })
    }

    /// Findings beyond notes: those that doctor's exit code is about.
    fn faults(&self) -> Option<Vec<&Brief>> {
        let is_fault = |brief: &&Brief| brief.severity < Severity::Note;
        Some(self.findings.as_ref()?.iter().filter(is_fault).collect())
    }

    /// The worst of them, and the command that shows the others.
    fn advice(&self) -> Option<String> {
        let faults = self.faults()?;
        let worst = faults.first()?;
        let more = match faults.len() - 1 {
            0 => String::new(),
            others => format!("; {others} more"),
        };
        let name = &self.name;
        Some(format!("{name}: {} {}{more} >>> quiclane doctor {name}\n", worst.id, worst.says))
    }

    fn kind(&self) -> &'static str {
        match (self.is_physical, self.is_down()) {
            (false, _) => "virtual",
            (true, true) => "down",
            (true, false) => "physical",
        }
    }
}

impl Brief {
    fn of(finding: Finding) -> Self {
        Self { id: finding.id, severity: finding.severity, says: finding.says }
    }
}

fn text(rows: &[NicRow], all: bool) -> String {
    let nothing_physical = !rows.iter().any(NicRow::is_prominent);
    let is_shown = |row: &&NicRow| all || nothing_physical || row.is_prominent();
    let (shown, folded): (Vec<_>, Vec<_>) = rows.iter().partition(is_shown);
    let mut sheet = Sheet::new(&[
        ("device", Side::Left),
        ("driver", Side::Left),
        ("node", Side::Right),
        ("speed", Side::Right),
        ("queues", Side::Right),
        ("xdp", Side::Left),
        ("prog", Side::Left),
        ("mtu", Side::Right),
        ("state", Side::Left),
        ("verdict", Side::Left),
    ]);
    for row in &shown {
        sheet.row(cells(row));
    }
    let mut text = sheet.render();
    if !folded.is_empty() {
        let names: Vec<_> =
            folded.iter().map(|row| format!("{} ({})", row.name, row.kind())).collect();
        text += &format!("and {}; --all shows them\n", names.join(", "));
    }
    text.extend(shown.iter().filter_map(|row| row.advice()));
    let asked: Vec<_> = shown.iter().map(|row| (row.name.as_str(), row.asked())).collect();
    text + &sheet::reasons(asked.iter().map(|(name, unknown)| (*name, unknown)))
}

fn cells(row: &NicRow) -> [Shown; 10] {
    let virtual_or_unknown = |known: Option<String>| match known {
        None if !row.is_physical => NONE.into(),
        known => Shown::known(known),
    };
    let queues = match row.queues_max {
        Some(max) => format!("{}/{max}", row.queues),
        None => format!("{}/?", row.queues),
    };
    let offered = match (row.xdp.native, row.xdp.zerocopy) {
        (None, _) => Shown::known::<String>(None),
        (Some(true), Some(true)) => "native+zc".into(),
        (Some(true), _) => "native".into(),
        (Some(false), _) => match row.xdp.refused {
            // One cause, which doctor reports.
            Some(id) => Shown::doubt(format!("generic ({id})")),
            None => "generic".into(),
        },
    };
    let verdict = match row.faults().map(|faults| faults.len()) {
        None => NONE.into(),
        Some(0) => "OK".into(),
        Some(many) => Shown::doubt(sheet::count(many, "finding")),
    };
    [
        row.name.clone().into(),
        virtual_or_unknown(row.driver.clone()),
        virtual_or_unknown(row.node.map(|node| node.to_string())),
        row.speed_mbps.map_or_else(|| NONE.to_owned(), speed).into(),
        queues.into(),
        offered,
        row.xdp.attached.as_deref().map_or_else(|| Shown::known::<String>(None), programs),
        Shown::known(row.mtu_bytes),
        Shown::known(row.state.clone()),
        verdict,
    ]
}

fn programs(attached: &[Attached]) -> Shown {
    let one = |at: &Attached| match at.mode {
        AttachMode::Native => at.program.to_string(),
        other => format!("{} {}", at.program, mode_name(other)),
    };
    let list: Vec<_> = attached.iter().map(one).collect();
    if list.is_empty() { NONE.into() } else { list.join(", ").into() }
}

/// The name in words.
pub(crate) const fn mode_name(mode: AttachMode) -> &'static str {
    match mode {
        AttachMode::Native => "native",
        AttachMode::Generic => "generic",
        AttachMode::Offloaded => "offloaded",
    }
}

/// `2500` Mb/s is `2.5G`.
fn speed(mbps: u32) -> String {
    match mbps {
        0..1000 => format!("{mbps}M"),
        _ if mbps.is_multiple_of(1000) => format!("{}G", mbps / 1000),
        _ => format!("{}.{}G", mbps / 1000, mbps % 1000 / 100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_in_decimal_units() {
        assert_eq!([speed(100), speed(2500), speed(100_000)], ["100M", "2.5G", "100G"]);
    }
}
