//! `quiclane undo`: writes the old settings back, and reads them again.

use super::apply::{failed, lock, say, write};
use super::{now_unix_s, refused, show, store};
use crate::error::Failure;
use crate::inspect;
use clap::Args;
use quiclane::topology::apply::{
    Hardware, LineReport, Live, Lost, Mark, Refusal, Snapshot, Store, check, spare_queues_in_use,
};
use quiclane::topology::plan::Plan;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Clone, Debug, Args)]
pub(crate) struct UndoArgs {
    /// Restore this snapshot [default: that of the last `apply` that was not undone].
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// List the snapshots.
    #[arg(long, conflicts_with = "id")]
    list: bool,
    /// Print one JSON object on standard output.
    #[arg(long)]
    json: bool,
}

pub(crate) fn undo(args: &UndoArgs) -> Result<(), Failure> {
    if args.list {
        return list(args.json);
    }
    let store = store()?;
    let snapshot = match &args.id {
        Some(id) => store.load(id).map_err(|error| Failure::Usage(error.to_string()))?,
        None => latest(&store)?,
    };
    let _lock = lock(&store, &snapshot.device.name)?;
    let restored = put_back(&store, &snapshot, "undo")?;
    say(args.json, &restored.plan, &restored.redo, Some(&snapshot.id), &restored.report)?;
    eprintln!("quiclane: `quiclane undo {}` reverts this undo", restored.redo);
    restored.judge(&snapshot)
}

/// The last `apply` that was not undone.
fn latest(store: &Store) -> Result<Snapshot, Failure> {
    let stands = |s: &Snapshot| s.cause == "apply" && store.marked(&s.id, Mark::Undone).is_none();
    store.list().into_iter().rev().find(stands).ok_or_else(|| {
        let place = store.root().display();
        Failure::Failed(format!(
            "there is nothing to undo in {place}: every `apply` was undone. `quiclane undo ID` \
             takes an undo back; `quiclane undo --list` names them"
        ))
    })
}

/// The result of restoring a snapshot.
pub(super) struct Restored {
    plan: Plan,
    /// The snapshot of the settings until now.
    redo: String,
    pub(super) report: Vec<LineReport>,
    lost: Vec<Lost>,
}

impl Restored {
    /// What could not be put back, and why.
    fn bad(&self) -> Vec<String> {
        let mut bad = failed(&self.report);
        bad.extend(self.lost.iter().map(|lost| format!("{} ({})", lost.setting, lost.reason)));
        bad
    }

    fn judge(&self, snapshot: &Snapshot) -> Result<(), Failure> {
        let bad = self.bad();
        if bad.is_empty() {
            return Ok(());
        }
        Err(Failure::Partly(format!(
            "{} of {} settings of {id} could not be restored: {}; `quiclane undo {id}` tries again",
            bad.len(),
            self.report.len() + self.lost.len(),
            bad.join(", "),
            id = snapshot.id,
        )))
    }
}

/// Restores a snapshot; the caller has locked the device.
pub(super) fn put_back(
    store: &Store,
    snapshot: &Snapshot,
    verb: &str,
) -> Result<Restored, Failure> {
    let mut device = Live::new(&snapshot.device.name);
    let survey = device.look();
    let after = store.marked(&snapshot.id, Mark::Applied);
    let after: Option<BTreeMap<String, String>> =
        after.and_then(|text| serde_json::from_str(&text).ok());
    let (mut plan, mut lost) = snapshot.way_back(&survey, after.as_ref());
    lost.extend(spare_queues_in_use(&survey, &mut plan));
    check(&survey, &plan).map_err(|refusal| match refusal {
        Refusal::Privilege(_) => refused(&refusal),
        other => Failure::Partly(format!(
            "none of the {} settings of {} could be restored: {other}",
            plan.lines.len(),
            snapshot.id
        )),
    })?;
    let cause = format!("{verb} {}", snapshot.id);
    let mut redo = Snapshot::take(&survey, &plan, &cause, now_unix_s());
    store.keep(&mut redo)?;
    let report = write(store, &mut device, &plan, &redo)?;
    let restored = Restored { plan, redo: redo.id, report, lost };
    let bad = restored.bad();
    if !bad.is_empty() {
        store.mark(&snapshot.id, Mark::Failed, &(bad.join("\n") + "\n"))?;
    }
    // The reverter does not restore it again, nor does `undo` offer it.
    store.mark(&snapshot.id, Mark::Undone, &format!("{cause}: {} failed\n", bad.len()))?;
    Ok(restored)
}

#[derive(Serialize)]
struct ListJson {
    snapshots: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    id: String,
    device: String,
    cause: String,
    taken_unix_s: u64,
    settings: usize,
    state: &'static str,
    deadline_unix_s: Option<u64>,
    /// What could not be put back, and why.
    failed: Vec<String>,
}

fn entry(store: &Store, snapshot: &Snapshot) -> Entry {
    let pending = store.pending(&snapshot.id);
    let is = |mark| store.marked(&snapshot.id, mark).is_some();
    let state = if is(Mark::Undone) && is(Mark::Failed) {
        "undone in part"
    } else if is(Mark::Undone) {
        "undone"
    } else if is(Mark::Failed) {
        "not restored"
    } else if is(Mark::Confirmed) {
        "confirmed"
    } else if pending.is_some() {
        "waits for confirm"
    } else if is(Mark::Applied) && snapshot.cause == "apply" {
        "applied"
    } else if is(Mark::Applied) {
        // The settings before an undo: that undo can be reverted by its id.
        "written by undo"
    } else {
        "interrupted"
    };
    Entry {
        id: snapshot.id.clone(),
        device: snapshot.device.name.clone(),
        cause: snapshot.cause.clone(),
        taken_unix_s: snapshot.taken_unix_s,
        settings: snapshot.wanted.len(),
        state,
        deadline_unix_s: pending.map(|pending| pending.deadline_unix_s),
        failed: store
            .marked(&snapshot.id, Mark::Failed)
            .map_or_else(Vec::new, |text| text.lines().map(str::to_owned).collect()),
    }
}

fn list(json: bool) -> Result<(), Failure> {
    let snapshots: Vec<Entry> = match store() {
        Ok(store) => store.list().iter().map(|snapshot| entry(&store, snapshot)).collect(),
        Err(_) => Vec::new(),
    };
    if json {
        return inspect::print_json("quiclane.undo_list/1", &ListJson { snapshots });
    }
    if snapshots.is_empty() {
        return inspect::print("there are no snapshots\n");
    }
    let mut table = show::table(["id", "device", "before", "settings", "state"]);
    for entry in snapshots {
        let settings = entry.settings.to_string();
        table.add_row([entry.id, entry.device, entry.cause, settings, entry.state.to_owned()]);
    }
    inspect::print(&format!("{}\n", show::trimmed(table)))
}
