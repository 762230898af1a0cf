//! `quiclane xdp list`: XDP programs, who holds them, and the AF_XDP sockets behind them.

use crate::error::Failure;
use crate::inspect::sheet::{self, NONE, Sheet, Shown, Side};
use crate::inspect::{ReadArgs, Unknowns, print, print_json};
use crate::nic::mode_name;
use clap::{Args, Subcommand};
use quiclane::topology::joined;
use quiclane::topology::survey::Survey;
use quiclane::topology::survey::device::{Attached, Process, Program};
use serde::Serialize;
use std::collections::BTreeSet;

/// XDP programs.
#[derive(Clone, Debug, Args)]
pub(crate) struct XdpArgs {
    #[command(subcommand)]
    command: XdpCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum XdpCommand {
    /// List the XDP programs: device, mode, link or pin, holder, AF_XDP queues and maps.
    List(XdpListArgs),
}

#[derive(Clone, Debug, Args)]
struct XdpListArgs {
    /// Show programs that are on no device of this network namespace too.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    read: ReadArgs,
}

pub(crate) fn run(args: &XdpArgs) -> Result<(), Failure> {
    let XdpCommand::List(args) = &args.command;
    let list = List::new(&Survey::read(&args.read.source()?));
    if args.read.json {
        return print_json("quiclane.xdp_list/1", &list);
    }
    print(&list.text(args.all))
}

#[derive(Clone, Debug, Serialize)]
struct List {
    rows: Vec<Row>,
    unknown: Unknowns,
}

/// A program on a device; or one that is on none.
#[derive(Clone, Debug, Serialize)]
struct Row {
    device: Option<String>,
    mode: Option<&'static str>,
    program: u32,
    name: Option<String>,
    tag: Option<String>,
    /// Ids of the links that hold it on the device.
    links: Option<Vec<u32>>,
    pins: Option<Vec<String>>,
    processes: Option<Vec<Process>>,
    xskmaps: Option<Vec<Xskmap>>,
    /// Queues of the device that have an AF_XDP socket, and the process that has it.
    sockets: Vec<Socket>,
}

#[derive(Clone, Debug, Serialize)]
struct Xskmap {
    id: u32,
    name: String,
    max_entries: u32,
    queues: Option<Vec<u32>>,
}

#[derive(Clone, Debug, Serialize)]
struct Socket {
    queue: u32,
    pid: Option<u32>,
}

impl List {
    fn new(survey: &Survey) -> Self {
        let mut unknown = Unknowns::default();
        let programs = unknown.take("programs", &survey.programs);
        let find = |id: u32| programs.as_ref()?.iter().find(|program| program.id == id);
        let mut rows = Vec::new();
        for (nic, device) in survey.machine.nics.iter().zip(&survey.devices) {
            let field = format!("attached.{}", nic.name);
            for at in unknown.take(&field, &device.attached).unwrap_or_default() {
                let index = nic.index.known().copied();
                let mut row = Row::attached(survey, &nic.name, index, at, find(at.program));
                row.fill_maps(&mut unknown);
                rows.push(row);
            }
        }
        let attached: BTreeSet<u32> = rows.iter().map(|row| row.program).collect();
        let is_loose =
            |program: &&Program| program.kind == "xdp" && !attached.contains(&program.id);
        rows.extend(programs.iter().flatten().filter(is_loose).map(Row::loose));
        Self { rows, unknown }
    }

    fn text(&self, all: bool) -> String {
        let (shown, folded): (Vec<_>, Vec<_>) =
            self.rows.iter().partition(|row| all || row.is_prominent());
        let mut sheet = Sheet::new(&[
            ("device", Side::Left),
            ("mode", Side::Left),
            ("program", Side::Left),
            ("held by", Side::Left),
            ("process", Side::Left),
            ("xsk queues", Side::Left),
            ("xskmap", Side::Left),
        ]);
        for row in &shown {
            sheet.row(row.cells());
        }
        let mut text = match (shown.is_empty(), self.unknown.0.is_empty()) {
            (false, _) => sheet.render(),
            (true, true) => "no XDP program is on any device\n".to_owned(),
            (true, false) => "no XDP program was seen\n".to_owned(),
        };
        if !folded.is_empty() {
            let programs = sheet::count(folded.len(), "XDP program");
            text += &format!("and {programs} on no device here; --all shows them\n");
        }
        for row in shown {
            if row.name.as_deref() == Some("") {
                text += &format!(
                    "program {} has no name: it was loaded without CAP_PERFMON\n",
                    row.program
                );
            }
            for pin in row.pins.iter().flatten() {
                text += &format!("program {} is pinned at {pin}\n", row.program);
            }
        }
        text + &sheet::reasons([("", &self.unknown)].into_iter())
    }
}

impl Row {
    fn attached(
        survey: &Survey,
        device: &str,
        index: Option<u32>,
        at: Attached,
        program: Option<&Program>,
    ) -> Self {
        let mut row = program.map_or_else(|| Self::bare(at.program), Self::loose);
        row.device = Some(device.to_owned());
        row.mode = Some(mode_name(at.mode));
        let is_here = |&&(_, on): &&(u32, Option<u32>)| on.is_none() || on == index;
        row.links = program
            .map(|program| program.links.iter().filter(is_here).map(|&(id, _)| id).collect());
        let queues = joined::queues(survey, device).unwrap_or_default();
        row.sockets = queues
            .iter()
            .filter_map(|queue| {
                let holder = queue.holder.known()?.as_ref()?;
                let pid = holder.process.as_ref().map(|process| process.pid);
                Some(Socket { queue: queue.queue, pid })
            })
            .collect();
        row
    }

    /// An XSKMAP answers no lookup: the sockets tell which of its slots are in use.
    fn fill_maps(&mut self, unknown: &mut Unknowns) {
        let queues: Vec<u32> = self.sockets.iter().map(|socket| socket.queue).collect();
        let maps = self.xskmaps.iter_mut().flatten();
        let mut silent: Vec<&mut Xskmap> = maps.filter(|map| map.queues.is_none()).collect();
        if let ([map], false) = (&mut silent[..], queues.is_empty()) {
            map.queues = Some(queues);
            return;
        }
        for map in silent {
            let reason = "an XSKMAP answers no lookup, and no socket of the device is known";
            unknown.0.insert(format!("xskmap.{}.queues", map.id), reason.to_owned());
        }
    }

    /// A program of which only the id is known.
    const fn bare(program: u32) -> Self {
        Self {
            device: None,
            mode: None,
            program,
            name: None,
            tag: None,
            links: None,
            pins: None,
            processes: None,
            xskmaps: None,
            sockets: Vec::new(),
        }
    }

    fn loose(program: &Program) -> Self {
        let xskmaps = program.maps.iter().filter(|map| map.kind == "xskmap");
        Self {
            name: Some(program.name.clone()),
            tag: Some(program.tag.clone()),
            links: Some(program.links.iter().map(|&(id, _)| id).collect()),
            pins: Some(program.pins.clone()),
            processes: Some(program.processes.clone()),
            xskmaps: Some(
                xskmaps
                    .map(|map| Xskmap {
                        id: map.id,
                        name: map.name.clone(),
                        max_entries: map.max_entries,
                        queues: map.queues.clone(),
                    })
                    .collect(),
            ),
            ..Self::bare(program.id)
        }
    }

    /// Shown without `--all`: programs on a device, and programs that no process holds any more.
    fn is_prominent(&self) -> bool {
        let is_left_behind = self.processes.as_ref().is_some_and(Vec::is_empty);
        self.device.is_some() || is_left_behind
    }

    fn cells(&self) -> [Shown; 7] {
        let program = match &self.name {
            Some(name) if name.is_empty() => format!("{} (no name)", self.program),
            Some(name) => format!("{} {name}", self.program),
            None => self.program.to_string(),
        };
        let one = |process: &Process| format!("{} {}", process.pid, process.name);
        let processes = self.processes.as_ref().map(|list| join(list.iter().map(one)));
        let map = |map: &Xskmap| match &map.queues {
            Some(queues) => format!("{} {}", map.id, sheet::ranges(queues)),
            None => format!("{} {}", map.id, sheet::UNKNOWN),
        };
        let has_links = self.links.as_ref().is_some_and(|links| !links.is_empty());
        let nowhere = if has_links { "(elsewhere)" } else { "(none)" };
        let device = self.device.clone().unwrap_or_else(|| nowhere.to_owned());
        [
            device.into(),
            self.mode.unwrap_or(NONE).into(),
            program.into(),
            self.held_by(),
            Shown::known(processes),
            self.sockets_text().into(),
            Shown::known(self.xskmaps.as_ref().map(|maps| join(maps.iter().map(map)))),
        ]
    }

    /// A link goes with its holder; a program that was attached by netlink stays until it is detached.
    fn held_by(&self) -> Shown {
        let Some(links) = &self.links else { return Shown::known::<&str>(None) };
        let mut held: Vec<String> = links.iter().map(|id| format!("link {id}")).collect();
        if self.pins.as_ref().is_some_and(|pins| !pins.is_empty()) {
            held.push("pin".to_owned());
        }
        if links.is_empty() && self.device.is_some() {
            held.insert(0, "netlink".to_owned());
        }
        join(held.into_iter()).into()
    }

    /// `0-7`; and `pid 812`, unless that process has the program too.
    fn sockets_text(&self) -> String {
        let pids: BTreeSet<Option<u32>> = self.sockets.iter().map(|socket| socket.pid).collect();
        join(pids.into_iter().map(|pid| {
            let mine = self.sockets.iter().filter(|socket| socket.pid == pid);
            let queues: Vec<u32> = mine.map(|socket| socket.queue).collect();
            let holders = self.processes.as_deref().unwrap_or_default();
            if matches!(holders, [only] if Some(only.pid) == pid) {
                return sheet::ranges(&queues);
            }
            let whose = pid.map_or_else(|| sheet::UNKNOWN.to_owned(), |pid| pid.to_string());
            format!("{} pid {whose}", sheet::ranges(&queues))
        }))
    }
}

fn join(list: impl Iterator<Item = String>) -> String {
    let list: Vec<String> = list.collect();
    if list.is_empty() { NONE.to_owned() } else { list.join(", ") }
}
