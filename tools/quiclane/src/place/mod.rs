//! Placement: `plan`, `apply`, `confirm`, `undo`, `persist`.
//!
//! `plan` only reads. `apply` keeps a snapshot of the device, writes the plan, and reports each
//! line; `undo` writes the snapshot back. With `--confirm` a process of its own ([`reverter`]) is
//! there before the first write, and restores the snapshot unless `confirm` comes in time.

mod apply;
mod persist;
mod plan;
mod reverter;
mod show;
mod undo;

pub(crate) use apply::{ApplyArgs, apply};
pub(crate) use persist::{PersistArgs, persist};
pub(crate) use plan::{PlanArgs, plan};
pub(crate) use reverter::{ConfirmArgs, RevertArgs, confirm, revert};
pub(crate) use undo::{UndoArgs, undo};

use crate::error::Failure;
use quiclane::topology::apply::{Refusal, Store};
use quiclane::topology::plan::Plan;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The default directories of snapshots.
const STATE: [&str; 2] = ["/var/lib/quiclane", "/run/quiclane/state"];
/// The variable that names another directory.
const STATE_VARIABLE: &str = "QUICLANE_STATE";

fn places() -> Vec<PathBuf> {
    match std::env::var_os(STATE_VARIABLE).filter(|place| !place.is_empty()) {
        Some(place) => vec![PathBuf::from(place)],
        None => STATE.into_iter().map(PathBuf::from).collect(),
    }
}

/// A store that can be written to.
fn store_to_write() -> Result<Store, Failure> {
    Store::create(&places()).map_err(|error| {
        let text = format!(
            "no snapshot can be written, and without one nothing is changed: {error}; name \
             a directory with {STATE_VARIABLE}"
        );
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => Failure::Permission(text),
            _ => Failure::Failed(text),
        }
    })
}

/// The store, if there is one.
fn store() -> Result<Store, Failure> {
    Store::find(&places()).ok_or_else(|| {
        let places: Vec<String> = places().iter().map(|p| p.display().to_string()).collect();
        Failure::Failed(format!("there are no snapshots in {}", places.join(" or ")))
    })
}

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "snapshots are named by the time of day")]
fn now_unix_s() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn read_plan(path: &Path) -> Result<Plan, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::file("read", path, &e))?;
    Plan::from_toml(&text).map_err(|error| Failure::Usage(format!("{} {error}", path.display())))
}

fn refused(refusal: &Refusal) -> Failure {
    let text = refusal.to_string();
    match refusal {
        Refusal::Privilege(_) => Failure::Permission(text),
        Refusal::NoDevice(_) => Failure::Usage(text),
        Refusal::OtherDevice { .. } | Refusal::InUse { .. } => Failure::Failed(text),
    }
}
