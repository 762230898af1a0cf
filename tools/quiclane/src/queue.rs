//! `quiclane queue show DEV`: queue, NAPI, interrupt, CPU, node, socket and process in one row.

use crate::error::Failure;
use crate::inspect::sheet::{self, NONE, Sheet, Shown, Side};
use crate::inspect::{ReadArgs, Unknowns, device, print, print_json};
use crate::nic::{VIRTUAL_HAS_NO, mode_name};
use clap::{Args, Subcommand};
use quiclane::topology::Nic;
use quiclane::topology::joined::{self, Holder, QueueRow};
use quiclane::topology::survey::Survey;
use quiclane::topology::survey::device::{Attached, Device, Process, Rings, WorkerThread};
use serde::Serialize;
use std::collections::BTreeMap;

/// Receive queues.
#[derive(Clone, Debug, Args)]
pub(crate) struct QueueArgs {
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum QueueCommand {
    /// Show a row for each receive queue, from its NAPI to the thread that serves it.
    Show(QueueShowArgs),
}

#[derive(Clone, Debug, Args)]
struct QueueShowArgs {
    /// The network device.
    #[arg(value_name = "DEV")]
    device: String,
    /// Show idle queues too.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    read: ReadArgs,
}

pub(crate) fn run(args: &QueueArgs) -> Result<(), Failure> {
    let QueueCommand::Show(args) = &args.command;
    let source = args.read.source()?;
    let survey = Survey::read_device(&source, &args.device);
    let (nic, found) = device(&survey, &args.device, &source)?;
    let rows = joined::queues(&survey, &args.device).unwrap_or_default();
    let show = Show::new(&survey, nic, found, &rows);
    if args.read.json {
        return print_json("quiclane.queue_show/1", &show);
    }
    print(&show.text(args.all))
}

/// A device and its queues.
#[derive(Clone, Debug, Serialize)]
struct Show {
    device: String,
    driver: Option<String>,
    bus: Option<String>,
    node: Option<u32>,
    rx_ring_entries: Option<u32>,
    rx_ring_entries_max: Option<u32>,
    programs: Option<Vec<ProgramRow>>,
    rows: Vec<Row>,
    unknown: Unknowns,
}

/// A program on the device.
#[derive(Clone, Debug, Serialize)]
struct ProgramRow {
    id: u32,
    name: Option<String>,
    mode: &'static str,
}

/// A queue.
#[derive(Clone, Debug, Serialize)]
struct Row {
    queue: u32,
    napi_id: Option<u32>,
    napi_thread: Option<u32>,
    irq: Option<u32>,
    irq_name: Option<String>,
    cpus: Option<Vec<u32>>,
    permitted_cpus: Option<Vec<u32>>,
    node: Option<u32>,
    crosses_node: Option<bool>,
    rps_cpus: Option<Vec<u32>>,
    xps_cpus: Option<Vec<u32>>,
    socket: Option<SocketRow>,
    packets: Option<u64>,
    drops: Option<u64>,
    /// What the server on it threw away, by the name of its counter; `None` if no server tells.
    server_drops: Option<BTreeMap<String, u64>>,
    /// Clients that the server on it refused, by the name of its counter; `None` if no server tells.
    server_refused: Option<BTreeMap<String, u64>>,
    is_idle: bool,
    unknown: Unknowns,
}

/// The AF_XDP socket of a queue, and who has it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SocketRow {
    pub(crate) process: Option<Process>,
    pub(crate) worker: Option<WorkerThread>,
    zerocopy: Option<bool>,
    rx_ring_entries: Option<u32>,
    pub(crate) evidence: String,
    /// No source states it: it is inferred from the evidence.
    is_inferred: bool,
}

impl SocketRow {
    pub(crate) fn new(holder: Holder) -> Self {
        Self {
            evidence: holder.evidence.to_string(),
            is_inferred: holder.evidence.is_inferred(),
            process: holder.process,
            worker: holder.worker,
            zerocopy: holder.zerocopy,
            rx_ring_entries: holder.rx_ring,
        }
    }
}

impl Row {
    fn new(row: &QueueRow) -> Self {
        let mut unknown = Unknowns::default();
        let napi = unknown.take("napi_id", &row.napi);
        let irq = unknown.take("irq", &row.irq);
        let irq_name = irq.as_ref().and_then(|irq| unknown.take("irq_name", &irq.name));
        let permitted =
            irq.as_ref().and_then(|irq| unknown.take("permitted_cpus", &irq.permitted_cpus));
        Self {
            queue: row.queue,
            napi_id: napi.map(|napi| napi.id),
            napi_thread: napi.and_then(|napi| napi.thread),
            irq: irq.map(|irq| irq.number),
            irq_name,
            cpus: unknown.take("cpus", &row.cpus),
            permitted_cpus: permitted,
            node: unknown.take("node", &row.node),
            crosses_node: row.crosses_node,
            rps_cpus: unknown.take("rps_cpus", &row.rps),
            xps_cpus: unknown.take("xps_cpus", &row.xps),
            socket: unknown.take("socket", &row.holder).flatten().map(SocketRow::new),
            packets: unknown.take("packets", &row.packets),
            drops: unknown.take("drops", &row.drops),
            server_drops: row.server_drops.clone(),
            server_refused: row.server_refused.clone(),
            is_idle: row.is_idle(),
            unknown,
        }
    }

    /// What the device lost and what the server threw away, in one number. The line below the
    /// table names the server's part.
    fn all_drops(&self) -> Shown {
        let by_server: u64 = self.server_drops.iter().flatten().map(|(_, count)| count).sum();
        match (self.drops, by_server) {
            (Some(0), 0) => "0".into(),
            (None, 0) => Shown::known::<u64>(None),
            (drops, by_server) => Shown::doubt(drops.unwrap_or(0) + by_server),
        }
    }

    fn is_unknown(&self, field: &str) -> bool {
        self.unknown.0.contains_key(field)
    }

    fn cells(&self) -> [Shown; 13] {
        let node = match (self.node, self.crosses_node) {
            (Some(node), Some(true)) => Shown::alarm(node),
            (node, _) => Shown::known(node),
        };
        let list = |list: &Option<Vec<u32>>| Shown::known(list.as_deref().map(sheet::ranges));
        let socket = self.socket.as_ref();
        let worker = socket.and_then(|socket| socket.worker.as_ref());
        let process = socket.and_then(|socket| socket.process.as_ref());
        [
            self.queue.to_string().into(),
            Shown::known(self.napi_id),
            Shown::known(self.irq),
            list(&self.cpus),
            list(&self.permitted_cpus),
            node,
            list(&self.rps_cpus),
            list(&self.xps_cpus),
            match socket {
                None if self.is_unknown("socket") => Shown::known::<&str>(None),
                None => NONE.into(),
                Some(socket) => match socket.zerocopy {
                    Some(true) => "zc".into(),
                    Some(false) => "copy".into(),
                    None => "xsk".into(),
                },
            },
            // A process that was inferred has a tilde; the line below the table names the evidence.
            process
                .zip(socket)
                .map_or_else(
                    || NONE.to_owned(),
                    |(process, socket)| {
                        format!("{}{}", if socket.is_inferred { "~" } else { "" }, process.pid)
                    },
                )
                .into(),
            worker
                .map_or_else(
                    || NONE.to_owned(),
                    |worker| format!("{}@{}", worker.name, sheet::ranges(&worker.cpus)),
                )
                .into(),
            Shown::known(self.packets),
            self.all_drops(),
        ]
    }
}

const COLUMNS: [(&str, Side); 13] = [
    ("queue", Side::Right),
    ("napi", Side::Right),
    ("irq", Side::Right),
    ("cpu", Side::Right),
    ("may", Side::Right),
    ("node", Side::Right),
    ("rps", Side::Right),
    ("xps", Side::Right),
    ("xsk", Side::Left),
    ("pid", Side::Right),
    ("worker@cpu", Side::Left),
    ("packets", Side::Right),
    ("drops", Side::Right),
];

impl Show {
    fn new(survey: &Survey, nic: &Nic, device: &Device, rows: &[QueueRow]) -> Self {
        let mut unknown = Unknowns::default();
        let rings: Option<Rings> = unknown.take("rx_ring_entries", &device.rings);
        let name_of = |id: u32| {
            let programs = survey.programs.known()?;
            programs.iter().find(|program| program.id == id).map(|program| program.name.clone())
        };
        let attached = unknown.take("programs", &device.attached);
        let program = |at: &Attached| ProgramRow {
            id: at.program,
            name: name_of(at.program),
            mode: mode_name(at.mode),
        };
        Self {
            device: nic.name.clone(),
            driver: unknown.take("driver", &device.driver(nic)),
            bus: unknown.take("bus", &nic.bus),
            node: unknown.take("node", &nic.node),
            rx_ring_entries: rings.map(|rings| rings.rx.0),
            rx_ring_entries_max: rings.map(|rings| rings.rx.1),
            programs: attached.map(|attached| attached.iter().map(program).collect()),
            rows: rows.iter().map(Row::new).collect(),
            unknown,
        }
    }

    fn text(&self, all: bool) -> String {
        let (folded, shown): (Vec<&Row>, Vec<&Row>) =
            self.rows.iter().partition(|row| !all && row.is_idle);
        let mut text = self.headline();
        if !shown.is_empty() {
            let mut sheet = Sheet::new(&COLUMNS).without_unknown_columns();
            for row in &shown {
                sheet.row(row.cells());
            }
            text += &sheet.render();
        }
        if !folded.is_empty() {
            let queues: Vec<u32> = folded.iter().map(|row| row.queue).collect();
            let idle = sheet::count(queues.len(), "idle queue");
            text += &format!("{idle} ({}); --all shows them\n", sheet::ranges(&queues));
        }
        let crossing: Vec<u32> = self
            .rows
            .iter()
            .filter(|row| row.crosses_node == Some(true))
            .map(|row| row.queue)
            .collect();
        if let (false, Some(node)) = (crossing.is_empty(), self.node) {
            let queues = sheet::ranges(&crossing);
            text += &format!(
                "! queues {queues}: the interrupt is on another node than the device (node {node}) \
                 >>> quiclane plan {}\n",
                self.device
            );
        }
        let labels: Vec<String> = shown.iter().map(|row| format!("q{}", row.queue)).collect();
        let rows = labels.iter().zip(&shown).map(|(label, row)| (label.as_str(), &row.unknown));
        let unknown = match self.bus {
            Some(_) => self.unknown.clone(),
            None => self.unknown.without(&VIRTUAL_HAS_NO),
        };
        text += &self.inferred_text();
        text += &self.server_text();
        text += &sheet::reasons([(self.device.as_str(), &unknown)].into_iter());
        text + &sheet::reasons(rows)
    }

    /// The evidence that a process has a queue, where no source states it.
    fn inferred_text(&self) -> String {
        let mut of: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for row in &self.rows {
            let socket = row.socket.as_ref().filter(|socket| socket.is_inferred);
            if let Some(socket) = socket {
                of.entry(&socket.evidence).or_default().push(row.queue);
            }
        }
        let line = |(evidence, queues): (&str, Vec<u32>)| {
            format!("~ pid of queues {} is {evidence}\n", sheet::ranges(&queues))
        };
        of.into_iter().map(line).collect()
    }

    /// Why servers threw packets away, and refused clients.
    fn server_text(&self) -> String {
        let line = |what: &str, of: fn(&Row) -> &Option<BTreeMap<String, u64>>| {
            let mut all: BTreeMap<&str, u64> = BTreeMap::new();
            for (reason, count) in self.rows.iter().filter_map(|row| of(row).as_ref()).flatten() {
                *all.entry(reason).or_default() += count;
            }
            if all.is_empty() {
                return String::new();
            }
            let list: Vec<String> =
                all.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
            format!(
                "! the server {what}: {} >>> quiclane doctor {}\n",
                list.join(", "),
                self.device
            )
        };
        line("threw away", |row| &row.server_drops)
            + &line("refused clients", |row| &row.server_refused)
    }

    fn headline(&self) -> String {
        let mut parts = vec![self.driver.clone().unwrap_or_else(|| "virtual".to_owned())];
        parts.extend(self.bus.clone());
        match self.node {
            Some(node) => parts.push(format!("node {node}")),
            None if self.bus.is_some() => parts.push("node ?".to_owned()),
            None => {}
        }
        parts.push(sheet::count(self.rows.len(), "queue"));
        if let (Some(now), Some(max)) = (self.rx_ring_entries, self.rx_ring_entries_max) {
            parts.push(format!("ring {now} of {max}"));
        }
        for program in self.programs.iter().flatten() {
            let name = match program.name.as_deref() {
                None => "?",
                // A program that was loaded without CAP_PERFMON has no name.
                Some("") => "(no name: loaded without CAP_PERFMON)",
                Some(name) => name,
            };
            parts.push(format!("XDP {} program {} {name}", program.mode, program.id));
        }
        format!("{}: {}\n", self.device, parts.join(", "))
    }
}
