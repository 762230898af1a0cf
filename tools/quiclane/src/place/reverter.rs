//! `apply --confirm`: the process that restores a snapshot unless `quiclane confirm` comes.
//!
//! It has to outlive whatever may go wrong with the plan: the terminal of a session whose network is
//! lost, an `apply` that is killed half way. So it is started before the first write, in a session of
//! its own, as a grandchild without a waiting parent. It holds a lock while it waits, so that other
//! processes see it.
//!
//! ```text
//!   apply   holds the device's lock ----writes----> `applied`, lock gone
//!   revert  ready --- looks 10 times a second: confirmed or undone? ends.
//!                     lock free without `applied`: apply died, puts back now.
//!                     time over: waits for the lock, looks again, puts back.
//! ```

use super::undo::put_back;
use super::{STATE_VARIABLE, now_unix_s, store};
use crate::error::Failure;
use crate::sys;
use clap::Args;
use quiclane::topology::apply::{Mark, Snapshot, Store};
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How often the reverter looks.
const LOOK: Duration = Duration::from_millis(100);
/// The longest time that one may wait for a confirmation.
const LONGEST_S: u64 = 24 * 3600;
const READY: &str = "ready";

/// A time such as `60s`, `5m`, or `90`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seconds(u64);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = match text.strip_suffix('m') {
            Some(number) => (number, 60),
            None => (text.strip_suffix('s').unwrap_or(text), 1),
        };
        let seconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
        match seconds {
            Some(seconds) if (1..=LONGEST_S).contains(&seconds) => Ok(Self(seconds)),
            _ => Err(format!("{text:?} is not a time; give one such as 60s or 5m, up to a day")),
        }
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0)
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ConfirmArgs {
    /// Keep the changes of this snapshot [default: the one that waits].
    #[arg(value_name = "ID")]
    id: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RevertArgs {
    /// The snapshot.
    id: String,
    /// How long to wait.
    #[arg(long)]
    after: Seconds,
    /// Not reparented yet.
    #[arg(long)]
    detached: bool,
}

/// Starts the reverter, and returns when it is there.
pub(super) fn start(store: &Store, id: &str, patience: Seconds) -> Result<(), Failure> {
    let failed = |what: String| {
        Failure::Failed(format!(
            "nothing was written: the process that restores the old settings {what}"
        ))
    };
    store.set_deadline(id, now_unix_s().saturating_add(patience.0))?;
    let root = store.root().canonicalize()?;
    let mut child = itself(id, patience)
        .env(STATE_VARIABLE, root)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("cannot be started: {error}")))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    let left = child.wait()?;
    if line.trim() == READY { Ok(()) } else { Err(failed(format!("did not start ({left})"))) }
}

/// Runs this program again, also if its file has been replaced; without the directory and the
/// standard error of the process that starts it.
fn itself(id: &str, patience: Seconds) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["revert", id, "--after", &patience.0.to_string()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// The hidden verb.
pub(crate) fn revert(args: &RevertArgs) -> Result<(), Failure> {
    if args.detached {
        return wait_and_revert(args);
    }
    sys::leave_terminal()?;
    // This process ends now, so the new one is reparented to the process that adopts orphans.
    itself(&args.id, args.after).arg("--detached").stdout(Stdio::inherit()).spawn()?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a deadline for people is in wall-clock time")]
fn clock() -> Instant {
    Instant::now()
}

fn wait_and_revert(args: &RevertArgs) -> Result<(), Failure> {
    let store = store()?;
    let snapshot = store.load(&args.id)?;
    let _waiting = store.become_reverter(&args.id)?;
    let end = clock() + Duration::from_secs(args.after.0);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{READY}")?;
    out.flush()?;
    loop {
        if is_settled(&store, &snapshot) {
            return Ok(());
        }
        // `apply` has held the lock since before this process was there, and `applied` is
        // there before the lock is gone: so it is looked for once more after the lock.
        let died = !is_applied(&store, &snapshot)
            && store.try_lock(&snapshot.device.name)?.is_some()
            && !is_applied(&store, &snapshot);
        if died || clock() >= end {
            break;
        }
        std::thread::sleep(LOOK);
    }
    let _lock = store.lock(&snapshot.device.name)?;
    if is_settled(&store, &snapshot) {
        return Ok(());
    }
    // This process has no terminal: its report goes to a file.
    match put_back(&store, &snapshot, "revert") {
        Ok(_) => Ok(()),
        Err(failure) => Ok(store.mark(&snapshot.id, Mark::Failed, &format!("{failure}\n"))?),
    }
}

fn is_settled(store: &Store, snapshot: &Snapshot) -> bool {
    [Mark::Confirmed, Mark::Undone]
        .into_iter()
        .any(|mark| store.marked(&snapshot.id, mark).is_some())
}

fn is_applied(store: &Store, snapshot: &Snapshot) -> bool {
    store.marked(&snapshot.id, Mark::Applied).is_some()
}

pub(crate) fn confirm(args: &ConfirmArgs) -> Result<(), Failure> {
    let store = store()?;
    let snapshot = match &args.id {
        Some(id) => store.load(id).map_err(|error| Failure::Usage(error.to_string()))?,
        None => waiting(&store)?,
    };
    // An `apply`, or a reverter that is restoring, ends first.
    let _lock = store.lock(&snapshot.device.name)?;
    if store.pending(&snapshot.id).is_none() {
        let state = if store.marked(&snapshot.id, Mark::Undone).is_some() {
            "the old settings were restored"
        } else if store.marked(&snapshot.id, Mark::Confirmed).is_some() {
            "it is confirmed already"
        } else {
            "no reverter waits for it"
        };
        return Err(Failure::Failed(format!("{} does not wait: {state}", snapshot.id)));
    }
    store.mark(&snapshot.id, Mark::Confirmed, "confirmed\n")?;
    eprintln!(
        "quiclane: {} stays as it is; `quiclane undo {}` restores the old settings",
        snapshot.device.name, snapshot.id
    );
    Ok(())
}

fn waiting(store: &Store) -> Result<Snapshot, Failure> {
    let waiting: Vec<Snapshot> =
        store.list().into_iter().filter(|s| store.pending(&s.id).is_some()).collect();
    match &waiting[..] {
        [one] => Ok(one.clone()),
        [] => Err(Failure::Failed("nothing waits for a confirmation".to_owned())),
        several => {
            let ids: Vec<&str> = several.iter().map(|snapshot| snapshot.id.as_str()).collect();
            Err(Failure::Usage(format!(
                "several snapshots wait; name one of them: {}",
                ids.join(", ")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!("60s".parse(), Ok(Seconds(60)));
        assert_eq!("5m".parse(), Ok(Seconds(300)));
        assert_eq!("90".parse(), Ok(Seconds(90)));
        for text in ["", "0", "s", "1h", "-1s", "25000m", "99999999999999999999s"] {
            assert!(text.parse::<Seconds>().is_err(), "{text}");
        }
    }
}
