//! `quiclane apply`: snapshot, write, read back, report.

use super::reverter::{self, Seconds};
use super::show::{self, ReportJson};
use super::{now_unix_s, read_plan, refused, store_to_write};
use crate::error::Failure;
use crate::inspect;
use clap::Args;
use quiclane::topology::apply::{
    Hardware, LineReport, Live, Mark, Refusal, Snapshot, Store, check, drift, run,
};
use quiclane::topology::plan::{Line, Plan, today};
use quiclane::topology::survey::Survey;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

#[derive(Clone, Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The plan, a file that `quiclane plan -o` wrote.
    #[arg(value_name = "FILE")]
    plan: PathBuf,
    /// Write nothing; show what would be written. This needs no privilege.
    #[arg(long)]
    dry_run: bool,
    /// Restore the old settings after this time (60s, 5m) unless `quiclane confirm` is run before;
    /// also when this terminal or process is gone.
    #[arg(long, value_name = "TIME", conflicts_with = "dry_run")]
    confirm: Option<Seconds>,
    /// Print one JSON object on standard output.
    #[arg(long)]
    json: bool,
}

pub(crate) fn apply(args: &ApplyArgs) -> Result<(), Failure> {
    let plan = read_plan(&args.plan)?;
    let mut device = Live::new(&plan.device.name);
    let survey = device.look();
    match check(&survey, &plan) {
        // Looking needs no privilege.
        Err(Refusal::Privilege(_)) if args.dry_run => {
            eprintln!("quiclane: applying it needs CAP_NET_ADMIN and the rights of root: sudo");
        }
        checked => checked.map_err(|refusal| refused(&refusal))?,
    }
    for drift in drift(&survey, &plan) {
        eprintln!(
            "quiclane: {} is {} now, and was {} when the plan was made",
            drift.setting, drift.found, drift.planned
        );
    }
    let plan = as_of_now(plan, &survey);
    if args.dry_run || plan.changes() == 0 {
        return nothing_written(args, &plan);
    }
    let store = store_to_write()?;
    let _lock = lock(&store, &plan.device.name)?;
    refuse_pending(&store, &plan.device.name)?;
    let mut snapshot = Snapshot::take(&device.look(), &plan, "apply", now_unix_s());
    store.keep(&mut snapshot)?;
    if let Some(patience) = args.confirm {
        reverter::start(&store, &snapshot.id, patience)?;
    }
    let report = write(&store, &mut device, &plan, &snapshot)?;
    say(args.json, &plan, &snapshot.id, None, &report)?;
    match args.confirm {
        Some(patience) => eprintln!(
            "quiclane: the old settings come back in {patience} unless you run: quiclane confirm {}",
            snapshot.id
        ),
        None => eprintln!("quiclane: `quiclane undo {}` restores the old settings", snapshot.id),
    }
    judge(&report, &snapshot.id)
}

/// The plan with what its settings are now in place of what they were.
fn as_of_now(mut plan: Plan, survey: &Survey) -> Plan {
    for line in &mut plan.lines {
        line.today = today(survey, &plan.device.name, &line.setting);
    }
    plan
}

fn nothing_written(args: &ApplyArgs, plan: &Plan) -> Result<(), Failure> {
    let lines: Vec<_> = plan.lines.iter().map(show::dry_line).collect();
    if args.json {
        let report = ReportJson {
            device: plan.device.name.clone(),
            snapshot: None,
            restores: None,
            dry_run: args.dry_run,
            lines,
        };
        return inspect::print_json("quiclane.apply/1", &report);
    }
    inspect::print(&show::report(&lines))?;
    if plan.changes() == 0 {
        eprintln!("quiclane: {} is as planned already: nothing to write", plan.device.name);
    } else {
        let lines: Vec<&Line> = plan.lines.iter().filter(|line| line.changes()).collect();
        eprintln!(
            "quiclane: nothing was written; {} lines would be, at the risk: {}",
            lines.len(),
            plan.risk()
        );
    }
    Ok(())
}

/// One process at a time writes to a device. A reverter takes the lock for moments, so that one
/// refusal means nothing.
pub(super) fn lock(store: &Store, device: &str) -> Result<File, Failure> {
    const TRIES: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(50);
    for _ in 0..TRIES {
        if let Some(lock) = store.try_lock(device)? {
            return Ok(lock);
        }
        std::thread::sleep(PAUSE);
    }
    Err(Failure::Failed(format!(
        "another quiclane is writing to {device}: try again when it is done"
    )))
}

fn refuse_pending(store: &Store, device: &str) -> Result<(), Failure> {
    let pending = |snapshot: &Snapshot| {
        snapshot.device.name == device && store.pending(&snapshot.id).is_some()
    };
    match store.list().iter().rev().find(|snapshot| pending(snapshot)) {
        None => Ok(()),
        Some(snapshot) => Err(Failure::Failed(format!(
            "an earlier `apply` to {device} still waits: `quiclane confirm {}` keeps it, \
             `quiclane undo {}` puts it back",
            snapshot.id, snapshot.id
        ))),
    }
}

/// Writes, and keeps the results. A signal that would end the process waits until every line was
/// tried: half a plan is worse than a late answer to Ctrl-C.
pub(super) fn write(
    store: &Store,
    device: &mut Live,
    plan: &Plan,
    snapshot: &Snapshot,
) -> Result<Vec<LineReport>, Failure> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&asked))?;
    }
    let report = run(device, plan);
    let after = Snapshot::take(&device.look(), plan, "after", now_unix_s()).values;
    let text = serde_json::to_string_pretty(&after).map_err(std::io::Error::from)?;
    store.mark(&snapshot.id, Mark::Applied, &text)?;
    Ok(report)
}

/// Prints what became of the lines.
pub(super) fn say(
    json: bool,
    plan: &Plan,
    snapshot: &str,
    restores: Option<&str>,
    report: &[LineReport],
) -> Result<(), Failure> {
    let lines: Vec<_> = report.iter().map(show::report_line).collect();
    if !json {
        return inspect::print(&show::report(&lines));
    }
    let schema = if restores.is_some() { "quiclane.undo/1" } else { "quiclane.apply/1" };
    let report = ReportJson {
        device: plan.device.name.clone(),
        snapshot: Some(snapshot.to_owned()),
        restores: restores.map(str::to_owned),
        dry_run: false,
        lines,
    };
    inspect::print_json(schema, &report)
}

/// Exit code 5 and a list if not all of it could be done.
fn judge(report: &[LineReport], id: &str) -> Result<(), Failure> {
    let failed = failed(report);
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::Partly(format!(
        "{} of {} lines are not as the plan says: {}; `quiclane undo {id}` restores the others",
        failed.len(),
        report.len(),
        failed.join(", ")
    )))
}

/// The lines that are not as they should be.
pub(super) fn failed(report: &[LineReport]) -> Vec<String> {
    let bad = report.iter().filter(|line| !line.outcome.is_good());
    bad.map(|line| line.setting.to_string()).collect()
}
