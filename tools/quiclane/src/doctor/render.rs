//! A report as lines for people, and as JSON.

use super::finding::{Finding, Kind, NotJudged, Report, Severity};
use crate::error::Failure;
use crate::inspect::{columns, has_color, print, print_json, sheet};
use serde::Serialize;
use std::fmt::Write;

/// Between what was found and the command that mends it.
const ARROW: &str = ">>>";
/// Longer lines of text are hard to read, however wide the terminal.
const TEXT_COLUMNS: usize = 100;
/// The heads of an explanation: `Afterwards  `.
const HEAD_COLUMNS: usize = 12;

/// The width of the page, and whether it has colours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    /// `None`: not a terminal, and a finding is one line.
    pub(super) columns: Option<usize>,
    pub(super) color: bool,
}

impl Page {
    fn of_stdout() -> Self {
        Self { columns: columns().map(|width| width.max(40)), color: has_color() }
    }

    fn paint(self, style: &str, text: &str) -> String {
        if self.color { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Breaks a text at spaces; every line but the first is indented.
    fn wrap(self, text: &str, indent: usize) -> String {
        let Some(columns) = self.columns else { return text.to_owned() };
        let width = columns.min(TEXT_COLUMNS + indent).saturating_sub(indent).max(20);
        sheet::wrap(text, width, indent)
    }
}

const fn style(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "1;31",
        Severity::Warn => "1;33",
        Severity::Note => "36",
    }
}

/// Prints the report.
pub(super) fn report(report: &Report, json: bool) -> Result<(), Failure> {
    if json {
        return print_json("quiclane.doctor/1", report);
    }
    print(&text(report, Page::of_stdout()))
}

/// Findings, what could not be judged, and the sum.
pub(super) fn text(report: &Report, page: Page) -> String {
    let mut out = String::new();
    findings(&mut out, report, page);
    not_judged(&mut out, report, page);
    if !out.is_empty() {
        out.push('\n');
    }
    out += &page.wrap(&sum(report), 0);
    out.push('\n');
    if let Some(worst) = report.findings.first() {
        let _ = writeln!(out, "quiclane doctor --explain {} explains the worst", worst.id);
    }
    out
}

/// A column for the device, where findings are of more than one.
fn device_columns(report: &Report) -> usize {
    if report.devices.len() < 2 {
        return 0;
    }
    report.devices.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("host".len()) + 2
}

fn findings(out: &mut String, report: &Report, page: Page) {
    let names = device_columns(report);
    let indent = "ERROR ".len() + "QL000 ".len() + names;
    let width = |text: &str| text.chars().count();
    let fits = |says: usize, finding: &Finding| {
        let line = indent + says + 1 + ARROW.len() + 1 + width(&finding.mend);
        page.columns.is_none_or(|columns| line <= columns)
    };
    let fitting = report.findings.iter().filter(|it| fits(width(&it.says), it));
    let column = fitting.map(|it| width(&it.says)).max().unwrap_or(0);
    for finding in &report.findings {
        let severity = format!("{:<5}", finding.severity.name());
        let _ = write!(out, "{} {} ", page.paint(style(finding.severity), &severity), finding.id);
        if names > 0 {
            let _ = write!(out, "{:<names$}", finding.device.as_deref().unwrap_or("host"));
        }
        let (arrow, says) = (page.paint("2", ARROW), &finding.says);
        if fits(column.max(width(says)), finding) {
            let _ = writeln!(out, "{says:<column$} {arrow} {}", finding.mend);
        } else if fits(width(says), finding) {
            let _ = writeln!(out, "{says} {arrow} {}", finding.mend);
        } else {
            let mend = page.wrap(&finding.mend, indent + ARROW.len() + 1);
            let says = page.wrap(says, indent);
            let _ = writeln!(out, "{says}\n{:indent$}{arrow} {mend}", "");
        }
    }
}

/// Checks that were not judged for the same reason share a line.
fn not_judged(out: &mut String, report: &Report, page: Page) {
    let mut groups: Vec<(&Option<String>, &str, Vec<&str>)> = Vec::new();
    for NotJudged { id, device, reason, .. } in &report.not_judged {
        match groups.iter_mut().find(|group| (group.0, group.1) == (device, reason)) {
            Some(group) => group.2.push(id),
            None => groups.push((device, reason, vec![id])),
        }
    }
    if groups.is_empty() {
        return;
    }
    if !out.is_empty() {
        out.push('\n');
    }
    let _ = writeln!(out, "{}", page.paint("1", "not judged"));
    for (device, reason, ids) in groups {
        let device = device.as_deref().filter(|_| report.devices.len() > 1);
        let device = device.map(|device| format!("{device}: ")).unwrap_or_default();
        let reason = page.wrap(&format!("{device}{reason}"), 6);
        let ids = page.wrap(&folded(&ids), 2);
        let _ = writeln!(out, "  {}\n      {reason}", page.paint("2", &ids));
    }
}

/// `QL010-QL012 QL020`.
fn folded(ids: &[&str]) -> String {
    let number = |id: &str| id.trim_start_matches("QL").parse::<u32>().unwrap_or(0);
    let mut runs: Vec<(&str, &str)> = Vec::new();
    for &id in ids {
        match runs.last_mut() {
            Some((_, last)) if number(last) + 1 == number(id) => *last = id,
            _ => runs.push((id, id)),
        }
    }
    let run = |(first, last): &(&str, &str)| match number(last) - number(first) {
        0 => (*first).to_owned(),
        1 => format!("{first} {last}"),
        _ => format!("{first}-{last}"),
    };
    runs.iter().map(run).collect::<Vec<_>>().join(" ")
}

fn sum(report: &Report) -> String {
    let count = |severity, what: &str| {
        let number = report.count(severity);
        let plural = if number == 1 { "" } else { "s" };
        (number > 0).then(|| format!("{number} {what}{plural}"))
    };
    let found: Vec<String> = [
        count(Severity::Error, "error"),
        count(Severity::Warn, "warning"),
        count(Severity::Note, "note"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let found = if found.is_empty() { "no findings".to_owned() } else { found.join(", ") };
    let devices = match &report.devices[..] {
        [] => "no device with XDP, and none that is physical and up".to_owned(),
        devices => devices.join(", "),
    };
    let judged = format!("{} judged, {} not", report.judged, report.not_judged.len());
    format!("{devices}: {found}; {judged}")
}

/// A kind, as JSON shows it.
#[derive(Serialize)]
struct Row {
    id: &'static str,
    severity: Severity,
    title: &'static str,
    scope: &'static str,
    reads: &'static str,
    why: &'static str,
    mend: &'static str,
    afterwards: &'static str,
}

impl From<&Kind> for Row {
    fn from(kind: &Kind) -> Self {
        Self {
            id: kind.id,
            severity: kind.severity,
            title: kind.title,
            scope: kind.check.scope(),
            reads: kind.reads,
            why: kind.why,
            mend: kind.mend,
            afterwards: kind.afterwards,
        }
    }
}

/// Prints every kind.
pub(super) fn list(kinds: &[&Kind], json: bool) -> Result<(), Failure> {
    if json {
        #[derive(Serialize)]
        struct List {
            kinds: Vec<Row>,
        }
        let kinds = kinds.iter().map(|kind| Row::from(*kind)).collect();
        return print_json("quiclane.doctor_list/1", &List { kinds });
    }
    let page = Page::of_stdout();
    let mut out = String::new();
    for kind in kinds {
        let severity = format!("{:<5}", kind.severity.name());
        let severity = page.paint(style(kind.severity), &severity);
        let _ = writeln!(out, "{} {severity} {}", kind.id, page.wrap(kind.title, 12));
    }
    print(&out)
}

/// Prints all about a kind, and what it found here.
pub(super) fn explain(kind: &Kind, report: &Report, json: bool) -> Result<(), Failure> {
    if json {
        #[derive(Serialize)]
        struct Explained<'a> {
            kind: Row,
            #[serde(flatten)]
            report: &'a Report,
        }
        let explained = Explained { kind: Row::from(kind), report };
        return print_json("quiclane.doctor_explain/1", &explained);
    }
    print(&explanation(kind, report, Page::of_stdout()))
}

/// The texts of a kind, and its state on this machine.
pub(super) fn explanation(kind: &Kind, report: &Report, page: Page) -> String {
    let severity = page.paint(style(kind.severity), kind.severity.name());
    let mut out = format!("{} {severity} {}\n\n", kind.id, page.paint("1", kind.title));
    let named = |text: &str| match &report.devices[..] {
        [only] => text.replace("DEV", only),
        _ => text.to_owned(),
    };
    for (head, text) in [
        ("Read", kind.reads),
        ("Why", kind.why),
        ("Mend", kind.mend),
        ("Afterwards", kind.afterwards),
    ] {
        let head = format!("{head:<HEAD_COLUMNS$}");
        let _ =
            writeln!(out, "{}{}", page.paint("1", &head), page.wrap(&named(text), HEAD_COLUMNS));
    }
    out.push('\n');
    here(&mut out, report, page);
    out
}

fn here(out: &mut String, report: &Report, page: Page) {
    let head = |name: &Option<String>| {
        let name = name.as_deref().unwrap_or("host");
        format!("{name:<0$}", HEAD_COLUMNS.max(name.chars().count() + 1))
    };
    for finding in &report.findings {
        let _ = writeln!(
            out,
            "{}{}",
            page.paint("1", &head(&finding.device)),
            page.wrap(&finding.says, HEAD_COLUMNS)
        );
        for evidence in &finding.read {
            let text = format!("{} [{}]", evidence.what, evidence.from);
            let text = page.wrap(&text, HEAD_COLUMNS + 2);
            let _ = writeln!(out, "{:HEAD_COLUMNS$}- {text}", "");
        }
        let mend = page.wrap(&finding.mend, HEAD_COLUMNS + 4);
        let _ = writeln!(out, "{:HEAD_COLUMNS$}{} {mend}", "", page.paint("2", ARROW));
    }
    for NotJudged { device, reason, .. } in &report.not_judged {
        let text = page.wrap(&format!("not judged: {reason}"), HEAD_COLUMNS);
        let _ = writeln!(out, "{}{text}", page.paint("1", &head(device)));
    }
    if report.findings.is_empty() && report.not_judged.is_empty() {
        let place =
            if report.devices.is_empty() { "here".to_owned() } else { report.devices.join(", ") };
        let _ = writeln!(out, "{place}: this is not found here");
    }
}
