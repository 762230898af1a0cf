//! Where snapshots are kept, so that the way back is there after a crash.
//!
//! ```text
//!   STATE/20261122-194416-eth0/snapshot.json   every value, written and synced before any write
//!                             /applied         the values after the last write
//!                             /deadline        when it is put back unless confirmed
//!                             /reverter        locked by the process that would do so
//!                             /confirmed       it stays
//!                             /undone          it has been put back: what came of it
//!                             /failed          what could not be put back, and why
//!   STATE/eth0.lock                            held by the process that writes to the device
//! ```
//!
//! Every file appears whole or not at all, so that its presence is the state.

use super::snapshot::Snapshot;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Snapshots that are kept; the oldest go first.
const KEPT: usize = 256;
const SNAPSHOT: &str = "snapshot.json";
const DEADLINE: &str = "deadline";
const REVERTER: &str = "reverter";

/// What has become of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Everything was written that could be.
    Applied,
    /// It stays.
    Confirmed,
    /// It was put back.
    Undone,
    /// Some of it, or all if it is not undone, could not be put back.
    Failed,
}

impl Mark {
    const fn file(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Confirmed => "confirmed",
            Self::Undone => "undone",
            Self::Failed => "failed",
        }
    }
}

/// A snapshot that is put back unless it is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// When, in seconds since 1970.
    pub deadline_unix_s: u64,
}

/// Directories of snapshots: one to write to, and others that were written to at other times, as
/// while a disk could not be.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    others: Vec<PathBuf>,
}

impl Store {
    /// The first of `places` that can be written to, made if it is not there.
    ///
    /// # Errors
    /// Why the last of them cannot.
    pub fn create(places: &[PathBuf]) -> io::Result<Self> {
        let mut error =
            io::Error::new(io::ErrorKind::NotFound, "there is no directory for snapshots");
        for place in places {
            match make(place).and_then(|()| trusted(place)) {
                Ok(()) => match tempfile(place) {
                    Ok(()) => return Ok(Self::at(place, places)),
                    Err(e) => error = named(place, &e),
                },
                Err(e) => error = named(place, &e),
            }
        }
        Err(error)
    }

    /// Those of `places` that there are, and the first that can be written to before the others; if
    /// there is none, there are no snapshots.
    #[must_use]
    pub fn find(places: &[PathBuf]) -> Option<Self> {
        let there = || places.iter().filter(|place| is_ours(place));
        let root = there().find(|place| tempfile(place).is_ok()).or_else(|| there().next())?;
        Some(Self::at(root, places))
    }

    fn at(root: &Path, places: &[PathBuf]) -> Self {
        let others = places.iter().filter(|place| *place != root && is_ours(place));
        Self { root: root.to_owned(), others: others.cloned().collect() }
    }

    /// Where it is written to.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn roots(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.root).chain(&self.others)
    }

    /// Where a snapshot is, or would be.
    fn directory(&self, id: &str) -> PathBuf {
        let places = self.roots().map(|root| root.join(id));
        let mut kept = places.filter(|place| place.join(SNAPSHOT).is_file());
        kept.next().unwrap_or_else(|| self.root.join(id))
    }

    /// Keeps a snapshot and names it; when this returns, it is on the disk.
    ///
    /// # Errors
    /// It could not be written.
    pub fn keep(&self, snapshot: &mut Snapshot) -> io::Result<()> {
        self.forget_oldest();
        let base = format!("{}-{}", stamp(snapshot.taken_unix_s), plain(&snapshot.device.name));
        for number in 1..=KEPT {
            let id = if number == 1 { base.clone() } else { format!("{base}.{number}") };
            match DirBuilder::new().mode(0o700).create(self.directory(&id)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(named(&self.directory(&id), &error)),
                Ok(()) => {
                    snapshot.id = id.clone();
                    let text = serde_json::to_string_pretty(&snapshot)? + "\n";
                    self.put(&id, SNAPSHOT, &text)?;
                    return File::open(&self.root)?.sync_all();
                }
            }
        }
        Err(io::Error::other(format!("{base} is taken {KEPT} times")))
    }

    fn put(&self, id: &str, name: &str, text: &str) -> io::Result<()> {
        let directory = self.directory(id);
        let (part, whole) = (directory.join(format!(".{name}.part")), directory.join(name));
        let write = || {
            let mut file = new_file(&part)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&part, &whole)?;
            File::open(&directory)?.sync_all()
        };
        write().map_err(|error| named(&whole, &error))
    }

    fn forget_oldest(&self) {
        let ids = self.ids();
        for id in ids.iter().take((ids.len() + 1).saturating_sub(KEPT)) {
            if self.pending(id).is_none() {
                // One more than there should be does no harm.
                let _ = fs::remove_dir_all(self.directory(id));
            }
        }
    }

    fn ids(&self) -> Vec<String> {
        let entries =
            self.roots().flat_map(|root| fs::read_dir(root).into_iter().flatten().flatten());
        let mut ids: Vec<String> = entries
            .filter(|entry| entry.path().join(SNAPSHOT).is_file())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        ids.sort_by_key(|id| order(id));
        ids.dedup();
        ids
    }

    /// All snapshots that can be read, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Snapshot> {
        self.ids().iter().filter_map(|id| self.load(id).ok()).collect()
    }

    /// The snapshot called `id`.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn load(&self, id: &str) -> io::Result<Snapshot> {
        if id != plain(id) || id.starts_with('.') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{id:?} is not the id of a snapshot"),
            ));
        }
        let path = self.directory(id).join(SNAPSHOT);
        let text = fs::read_to_string(&path).map_err(|error| named(&path, &error))?;
        let snapshot: Snapshot = serde_json::from_str(&text)
            .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        if !snapshot.is_known() || snapshot.id != id {
            let what = format!("{}: not a snapshot that this program can read", path.display());
            return Err(io::Error::other(what));
        }
        Ok(snapshot)
    }

    /// Says what has become of a snapshot.
    ///
    /// # Errors
    /// It could not be written.
    pub fn mark(&self, id: &str, mark: Mark, text: &str) -> io::Result<()> {
        self.put(id, mark.file(), text)
    }

    /// The text in the file of a mark; `None` if there is no such mark.
    #[must_use]
    pub fn marked(&self, id: &str, mark: Mark) -> Option<String> {
        fs::read_to_string(self.directory(id).join(mark.file())).ok()
    }

    /// Says when a snapshot is put back unless it is confirmed.
    ///
    /// # Errors
    /// It could not be written.
    pub fn set_deadline(&self, id: &str, deadline_unix_s: u64) -> io::Result<()> {
        self.put(id, DEADLINE, &deadline_unix_s.to_string())
    }

    /// The deadline, if a process still waits for it.
    #[must_use]
    pub fn pending(&self, id: &str) -> Option<Pending> {
        let settled = [Mark::Confirmed, Mark::Undone].map(|mark| self.marked(id, mark).is_some());
        if settled.contains(&true) {
            return None;
        }
        let text = fs::read_to_string(self.directory(id).join(DEADLINE)).ok()?;
        let reverter = File::open(self.directory(id).join(REVERTER)).ok()?;
        match reverter.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                Some(Pending { deadline_unix_s: text.trim().parse().ok()? })
            }
            _ => None,
        }
    }

    /// Held by the process that will put a snapshot back, for as long as it waits.
    ///
    /// # Errors
    /// Another process does already, or the file cannot be made.
    pub fn become_reverter(&self, id: &str) -> io::Result<File> {
        let path = self.directory(id).join(REVERTER);
        let file = lock_file(&path)?;
        file.try_lock().map_err(|error| named(&path, &error.into()))?;
        Ok(file)
    }

    /// The lock of a process that writes to a device; waits for the process that holds it.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn lock(&self, device: &str) -> io::Result<File> {
        let file = self.device_lock(device)?;
        file.lock()?;
        Ok(file)
    }

    /// The same, without waiting: `None` if another process holds it.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn try_lock(&self, device: &str) -> io::Result<Option<File>> {
        let file = self.device_lock(device)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn device_lock(&self, device: &str) -> io::Result<File> {
        lock_file(&self.root.join(format!("{}.lock", plain(device))))
    }
}

/// The directory itself is for this user alone; those above it are not.
fn make(place: &Path) -> io::Result<()> {
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create(place)
}

fn lock_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(libc::O_NOFOLLOW);
    options.open(path).map_err(|error| named(path, &error))
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Makes a file, to see that files can be made here: the permissions alone do not tell.
fn tempfile(directory: &Path) -> io::Result<()> {
    let path = directory.join(format!(".{}.part", std::process::id()));
    new_file(&path)?;
    fs::remove_file(&path)
}

/// A file that was not there, so that no link leads to another. What a process that was killed
/// left of the same name goes first.
fn new_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            options.open(path)
        }
        other => other,
    }
}

/// Whether what is found there may be believed: written back by `undo`, it decides over devices.
fn is_ours(place: &Path) -> bool {
    place.is_dir() && trusted(place).inspect_err(|error| tracing::warn!("{error}")).is_ok()
}

/// Makes sure that only root and this user decide what is in a directory.
///
/// # Errors
/// The directory, or one above it, is of another user than root and this one, or others may write
/// to it; one with the sticky bit, as /tmp, keeps what is in it apart.
pub fn trusted(place: &Path) -> io::Result<()> {
    const WRITABLE: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    let ourselves = fs::metadata("/proc/self").map_or(0, |found| found.uid());
    // As it is written, and where links lead.
    for path in [std::path::absolute(place)?, place.canonicalize()?] {
        for (depth, directory) in path.ancestors().enumerate() {
            let found = fs::symlink_metadata(directory)?;
            let refuse = |what: String| {
                let text = format!("{}: {what}: it is not used", directory.display());
                Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
            };
            if found.uid() != 0 && found.uid() != ourselves {
                return refuse(format!("belongs to user {}", found.uid()));
            }
            let is_apart = depth > 0 && found.mode() & STICKY != 0;
            // The mode of a link says nothing.
            if found.is_dir() && found.mode() & WRITABLE != 0 && !is_apart {
                return refuse(format!(
                    "others may write to it (mode {:o})",
                    found.mode() & 0o7777
                ));
            }
        }
    }
    Ok(())
}

/// What may stand in a file name: what network devices are called, as a rule.
fn plain(name: &str) -> String {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.:@".contains(c);
    name.chars().map(|c| if good(c) { c } else { '_' }).collect()
}

/// Ids in the order of their times, the tenth of a second after the ninth.
fn order(id: &str) -> (String, usize) {
    match id.rsplit_once('.').and_then(|(base, number)| Some((base, number.parse().ok()?))) {
        Some((base, number)) => (base.to_owned(), number),
        None => (id.to_owned(), 1),
    }
}

/// `20261122-194416`, in UTC.
fn stamp(unix_s: u64) -> String {
    let (days, seconds) = (unix_s / 86_400, unix_s % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

/// Year, month and day of a number of days since 1970: in years that begin in March, where a leap
/// day is the last of its year.
#[must_use]
pub fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::plan::Target;
    use std::collections::BTreeMap;

    #[test]
    fn times_are_named_in_utc() {
        assert_eq!(stamp(0), "19700101-000000");
        assert_eq!(stamp(951_827_696), "20000229-123456");
        assert_eq!(stamp(1_795_376_656), "20261122-194416");
        assert_eq!(stamp(4_107_542_400), "21000301-000000", "no leap year");
    }

    #[test]
    fn a_snapshot_is_found_wherever_it_was_kept() {
        let base = std::env::temp_dir().join(format!("quiclane-places-{}", std::process::id()));
        let places = ["disk", "memory"].map(|name| base.join(name));
        let snapshot = |taken_unix_s| Snapshot {
            schema: "quiclane.snapshot/1".to_owned(),
            id: String::new(),
            taken_unix_s,
            cause: "apply".to_owned(),
            device: Target { name: "eth0".to_owned(), ..Target::default() },
            values: BTreeMap::new(),
            unknown: BTreeMap::new(),
            wanted: BTreeMap::new(),
        };
        // While the disk could not be written to, one was kept in memory.
        let mut second = snapshot(2_000_000_000);
        Store::create(&places[1..]).unwrap().keep(&mut second).unwrap();
        let mut first = snapshot(1_000_000_000);
        Store::create(&places).unwrap().keep(&mut first).unwrap();
        let store = Store::find(&places).unwrap();
        assert_eq!(store.root(), places[0]);
        let ids: Vec<String> = store.list().into_iter().map(|snapshot| snapshot.id).collect();
        assert_eq!(ids, [first.id, second.id.clone()]);
        store.mark(&second.id, Mark::Confirmed, "yes\n").unwrap();
        assert!(places[1].join(&second.id).join("confirmed").is_file());
        assert!(store.marked(&second.id, Mark::Confirmed).is_some());
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn a_place_that_others_may_write_to_is_not_believed() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let base = std::env::temp_dir().join(format!("quiclane-trust-{}", std::process::id()));
        let place = base.join("state");
        fs::create_dir_all(&place).unwrap();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let places = [place.clone()];
        mode(&place, 0o700);
        assert!(Store::create(&places).is_ok() && Store::find(&places).is_some());
        for (path, bad, good) in [(&place, 0o777, 0o700), (&base, 0o770, 0o755)] {
            mode(path, bad);
            let error = Store::create(&places).unwrap_err();
            assert!(error.to_string().contains("others may write"), "{error}");
            assert!(Store::find(&places).is_none());
            mode(path, good);
        }
        // A link where the file would be is not followed, and not written through.
        let victim = base.join("victim");
        fs::write(&victim, "mine").unwrap();
        symlink(&victim, place.join(format!(".{}.part", std::process::id()))).unwrap();
        symlink(&victim, place.join("eth0.lock")).unwrap();
        let store = Store::create(&places).unwrap();
        assert!(store.try_lock("eth0").is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn the_tenth_comes_after_the_ninth() {
        let mut ids = ["20261122-194416-e.10", "20261122-194416-e", "20261122-194416-e.9"];
        ids.sort_by_key(|id| order(id));
        assert_eq!(ids, ["20261122-194416-e", "20261122-194416-e.9", "20261122-194416-e.10"]);
    }

    #[test]
    fn names_do_not_leave_the_directory() {
        assert_eq!(plain("../x/y z"), ".._x_y_z");
        let store = Store { root: PathBuf::from("/nonexistent"), others: Vec::new() };
        for id in ["..", "../x", ".x", "a/b", ""] {
            assert!(store.load(id).is_err(), "{id}");
        }
    }
}
