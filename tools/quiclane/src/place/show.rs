//! Plans and the results of applying them, as text and as JSON.

use crate::inspect;
use crate::inspect::sheet::{count, wrap};
use comfy_table::{ColumnConstraint, ContentArrangement, Table, TableComponent, Width, presets};
use quiclane::topology::Reading;
use quiclane::topology::apply::{LineReport, Outcome};
use quiclane::topology::plan::{Line, Plan, Target, Value};
use serde::Serialize;
use std::fmt::Write;

/// A value that is longer than this is cut in a table: keys and tables of slots.
const VALUE_COLUMNS: usize = 36;

/// A plan as JSON.
#[derive(Serialize)]
pub(super) struct PlanJson<'a> {
    device: &'a Target,
    policy: Option<&'static str>,
    risk: String,
    workers: Vec<WorkerJson>,
    lines: Vec<LineJson>,
    left_out: Vec<OmissionJson<'a>>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct WorkerJson {
    queue: u32,
    cpu: u32,
    node: Option<u32>,
}

#[derive(Serialize)]
struct LineJson {
    setting: String,
    today: Option<String>,
    unknown: Option<String>,
    new: String,
    changes: bool,
    risk: String,
    why: &'static str,
}

#[derive(Serialize)]
struct OmissionJson<'a> {
    what: &'a str,
    reason: &'a str,
}

impl<'a> PlanJson<'a> {
    pub(super) fn new(plan: &'a Plan) -> Self {
        let worker = |row: &quiclane::topology::Assignment| WorkerJson {
            queue: row.queue,
            cpu: row.cpu,
            node: row.node,
        };
        let line = |line: &Line| LineJson {
            setting: line.setting.to_string(),
            today: line.today.known().map(Value::to_string),
            unknown: line.today.reason().map(str::to_owned),
            new: line.new.to_string(),
            changes: line.changes(),
            risk: line.risk().to_string(),
            why: line.why(),
        };
        let omission = |omission: &'a quiclane::topology::plan::Omission| OmissionJson {
            what: &omission.what,
            reason: &omission.reason,
        };
        Self {
            device: &plan.device,
            policy: plan.policy.map(quiclane::topology::plan::Policy::name),
            risk: plan.risk().to_string(),
            workers: plan.workers.iter().map(worker).collect(),
            lines: plan.lines.iter().map(line).collect(),
            left_out: plan.omissions.iter().map(omission).collect(),
            notes: &plan.notes,
        }
    }
}

/// The results of the lines, as JSON.
#[derive(Serialize)]
pub(super) struct ReportJson {
    pub(super) device: String,
    pub(super) snapshot: Option<String>,
    pub(super) restores: Option<String>,
    pub(super) dry_run: bool,
    pub(super) lines: Vec<ReportLineJson>,
}

#[derive(Serialize)]
pub(super) struct ReportLineJson {
    setting: String,
    before: Option<String>,
    wanted: String,
    after: Option<String>,
    outcome: &'static str,
    reason: Option<String>,
}

/// A line of a report.
pub(super) fn report_line(line: &LineReport) -> ReportLineJson {
    let (outcome, reason) = outcome(line);
    ReportLineJson {
        setting: line.setting.to_string(),
        before: line.before.known().map(Value::to_string),
        wanted: line.wanted.to_string(),
        after: line.after.known().map(Value::to_string),
        outcome,
        reason,
    }
}

/// A line of a plan of which nothing was written.
pub(super) fn dry_line(line: &Line) -> ReportLineJson {
    let today = line.today.known().map(Value::to_string);
    ReportLineJson {
        setting: line.setting.to_string(),
        before: today.clone(),
        wanted: line.new.to_string(),
        after: today,
        outcome: if line.changes() { "would_change" } else { "already" },
        reason: line.changes().then(|| format!("risk: {}", line.risk())),
    }
}

fn outcome(line: &LineReport) -> (&'static str, Option<String>) {
    match &line.outcome {
        Outcome::Done => ("done", None),
        Outcome::Already => ("already", None),
        Outcome::Refused(reason) => ("refused", Some(reason.clone())),
        Outcome::NotTried(reason) => ("not_tried", Some(reason.clone())),
        Outcome::Differs => {
            let found = match &line.after {
                Reading::Known(value) => format!("it reads back as {value}"),
                Reading::Unknown(reason) => format!("it cannot be read back: {reason}"),
            };
            ("differs", Some(found))
        }
    }
}

/// A table with a rule below its head and no other.
pub(super) fn table<const N: usize>(head: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    for part in [TableComponent::HeaderLines, TableComponent::MiddleHeaderIntersections] {
        table.set_style(part, '─');
    }
    // On a terminal words are not broken: text that is too wide is wrapped in its own column.
    match inspect::columns() {
        Some(columns) => {
            let width = u16::try_from(columns).unwrap_or(u16::MAX);
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    table.set_header(head);
    table
}

/// The lines of a table, without blanks at their ends. On a terminal no column is narrower than its
/// longest word, as long as the width allows.
pub(super) fn trimmed(mut table: Table) -> String {
    const PADDING: usize = 2;
    for at in 0..table.column_count() {
        let rows = table.header().into_iter().chain(table.row_iter());
        let cells = rows.filter_map(|row| row.cell_iter().nth(at));
        let words = cells.map(|cell| {
            let content = cell.content();
            content.split_whitespace().map(|word| word.chars().count()).max().unwrap_or(0)
        });
        let width = u16::try_from(words.max().unwrap_or(0) + PADDING).unwrap_or(u16::MAX);
        if let Some(column) = table.column_mut(at) {
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(width)));
        }
    }
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// A value for a table: several numbers stand below one another, and a long value is cut.
fn short(text: &str) -> String {
    if text.chars().count() <= VALUE_COLUMNS {
        return text.to_owned();
    }
    let words: Vec<&str> = text.split(' ').collect();
    let pairs = words.chunks(2);
    if pairs.clone().all(|pair| pair.len() == 2 && pair[1].parse::<u64>().is_ok()) {
        return pairs.map(|pair| pair.join(" ")).collect::<Vec<_>>().join("\n");
    }
    text.chars().take(VALUE_COLUMNS - 1).chain(['…']).collect()
}

/// Lines that differ only in their queue are one row, `irq.rx-0..3`.
fn folded(lines: &[&Line]) -> Vec<[String; 4]> {
    let mut rows: Vec<([String; 4], Vec<u32>, &Line)> = Vec::new();
    for line in lines {
        let today = line.today.known().map_or_else(|| "?".to_owned(), Value::to_string);
        let cells = [short(&today), short(&line.new.to_string()), line.risk().to_string()];
        let same = rows.last_mut().filter(|(row, queues, first)| {
            first.setting.section() == line.setting.section()
                && queues.last().map(|queue| queue + 1) == line.setting.queue()
                && line.setting.queue().is_some()
                && row[1..] == cells
        });
        match (same, line.setting.queue()) {
            (Some((row, queues, first)), Some(queue)) => {
                queues.push(queue);
                row[0] = format!("{}..{queue}", first.setting);
            }
            _ => {
                let [today, new, risk] = cells;
                let queues = line.setting.queue().into_iter().collect();
                rows.push(([line.setting.to_string(), today, new, risk], queues, line));
            }
        }
    }
    rows.into_iter().map(|(row, ..)| row).collect()
}

/// A plan for people: workers, what changes, what is left out.
pub(super) fn plan(plan: &Plan) -> String {
    let mut out = String::new();
    let mut workers = table(["queue", "cpu", "node"]);
    for row in &plan.workers {
        let node = row.node.map_or_else(|| "?".to_owned(), |node| node.to_string());
        workers.add_row([row.queue.to_string(), row.cpu.to_string(), node]);
    }
    // Writing to a string does not fail.
    let _ = writeln!(out, "{}\n", trimmed(workers));
    let changes: Vec<&Line> = plan.lines.iter().filter(|line| line.changes()).collect();
    if changes.is_empty() {
        let _ = writeln!(out, "{} is as it should be: nothing to change", plan.device.name);
    } else {
        let mut lines = table(["setting", "today", "new", "risk"]);
        for row in folded(&changes) {
            lines.add_row(row);
        }
        let _ = writeln!(out, "{}\n", trimmed(lines));
    }
    let already = plan.lines.len() - changes.len();
    if already > 0 {
        let verb = if already == 1 { "is" } else { "are" };
        let _ = writeln!(out, "{} {verb} right already", count(already, "setting"));
    }
    for omission in &plan.omissions {
        let _ =
            writeln!(out, "{}", told(&format!("left out: {}: {}", omission.what, omission.reason)));
    }
    for note in &plan.notes {
        let _ = writeln!(out, "{}", told(&format!("note: {note}")));
    }
    out
}

/// A sentence; on a terminal its lines end between words.
fn told(text: &str) -> String {
    const INDENT: usize = 6;
    let width = inspect::columns().map(|columns| columns.saturating_sub(INDENT).max(INDENT));
    width.map_or_else(|| text.to_owned(), |width| wrap(text, width, INDENT))
}

/// The results of the lines, as text; lines that were right before are only counted.
pub(super) fn report(lines: &[ReportLineJson]) -> String {
    let mut out = String::new();
    let moved: Vec<&ReportLineJson> =
        lines.iter().filter(|line| line.outcome != "already").collect();
    if !moved.is_empty() {
        let mut rows = table(["setting", "before", "wanted", "result"]);
        for line in &moved {
            let before = line.before.clone().unwrap_or_else(|| "?".to_owned());
            rows.add_row([
                line.setting.clone(),
                short(&before),
                short(&line.wanted),
                line.outcome.replace('_', " "),
            ]);
        }
        let _ = writeln!(out, "{}\n", trimmed(rows));
    }
    let already = lines.len() - moved.len();
    if already > 0 {
        let verb = if already == 1 { "was" } else { "were" };
        let _ = writeln!(out, "{} {verb} right already", count(already, "setting"));
    }
    for line in moved {
        if let Some(reason) = line.reason.as_ref().filter(|_| line.outcome != "would_change") {
            let _ = writeln!(out, "{}: {}: {reason}", line.setting, line.outcome.replace('_', " "));
        }
    }
    out
}
