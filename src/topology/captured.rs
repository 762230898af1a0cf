//! A captured machine: a directory, or the records of an archive, that stands for `/`.
//!
//! The tree may come from a stranger. Every symbolic link is followed here, step by step, and
//! one that leads out of the tree is an error: no file of the machine that looks is ever read.
//!
//! ```text
//!   /sys/class/net/eth0/mtu
//!   /sys/class/net/eth0 -> ../../devices/pci0000:16/.../net/eth0     followed below the root
//!   /sys/class/net/evil -> /etc                                      refused
//! ```

use super::record::{REFUSED, Record};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::ops::Bound;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Links on the way to one file: a ring of them ends here, as in the kernel.
const LINKS_MAX: u32 = 40;
/// Bytes of one file; what we read is a few MiB at most.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A tree that stands for `/`. Paths begin with `/`.
#[derive(Debug)]
pub(super) struct Captured {
    store: Store,
    /// Directories that were found so far, without links.
    directories: Mutex<HashMap<PathBuf, PathBuf>>,
    /// Files that were there and could not be read when the tree was made, and why.
    refused: OnceLock<BTreeMap<PathBuf, String>>,
}

#[derive(Debug)]
enum Store {
    Disk(PathBuf),
    Memory(BTreeMap<PathBuf, Record>),
}

/// What is at a path that has no links on its way.
enum Kind {
    File,
    Directory,
    Link(PathBuf),
    /// A device or a pipe: reading it could take for ever.
    Special,
    Missing,
}

/// Why there is no way to a path.
#[derive(Clone, Copy, Debug)]
enum Blocked {
    Ring,
    Outside,
}

impl From<Blocked> for io::Error {
    fn from(blocked: Blocked) -> Self {
        match blocked {
            Blocked::Ring => Self::from_raw_os_error(libc::ELOOP),
            Blocked::Outside => Self::other("a link leads out of the captured tree"),
        }
    }
}

impl Captured {
    pub(super) fn directory(root: PathBuf) -> Self {
        Self::of(Store::Disk(root))
    }

    pub(super) fn records(records: BTreeMap<PathBuf, Record>) -> Self {
        Self::of(Store::Memory(records))
    }

    fn of(store: Store) -> Self {
        Self { store, directories: Mutex::default(), refused: OnceLock::new() }
    }

    /// The text of a file. What could not be read when the tree was made cannot be read now, for
    /// the same reason.
    pub(super) fn text(&self, path: &Path) -> io::Result<String> {
        let text = self.text_here(path);
        if text.is_ok() {
            return text;
        }
        let refused = self.refused.get_or_init(|| self.read_refused());
        refused.get(path).map_or(text, |reason| Err(io::Error::other(reason.clone())))
    }

    fn text_here(&self, path: &Path) -> io::Result<String> {
        let (at, kind) = self.find(path, &mut 0)?;
        match kind {
            Kind::File => self.store.text(&at),
            Kind::Directory => Err(io::Error::from_raw_os_error(libc::EISDIR)),
            Kind::Special => Err(io::Error::other("neither a file nor a directory")),
            Kind::Link(_) | Kind::Missing => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        }
    }

    fn read_refused(&self) -> BTreeMap<PathBuf, String> {
        let text = self.text_here(Path::new(REFUSED)).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Where a link leads, as it is written; the path itself may lead through other links.
    pub(super) fn link_target(&self, path: &Path) -> Option<PathBuf> {
        let at = self.directory_of(path, &mut 0).ok()?.join(path.file_name()?);
        match self.store.kind(&at) {
            Kind::Link(target) => Some(target),
            _ => None,
        }
    }

    /// True if there is something at the end of all links; and whether it is a directory.
    pub(super) fn presence(&self, path: &Path) -> Option<bool> {
        match self.find(path, &mut 0).ok()?.1 {
            Kind::Directory => Some(true),
            Kind::File => Some(false),
            Kind::Link(_) | Kind::Special | Kind::Missing => None,
        }
    }

    /// The names in a directory, in no order; `None` if there is no such directory.
    pub(super) fn names(&self, path: &Path) -> Option<Vec<OsString>> {
        let (at, kind) = self.find(path, &mut 0).ok()?;
        matches!(kind, Kind::Directory).then(|| self.store.names(&at))
    }

    /// The path without links in its directories: where something is to be put in this tree.
    pub(super) fn place_of(&self, path: &Path) -> Option<PathBuf> {
        Some(self.directory_of(path, &mut 0).ok()?.join(path.file_name()?))
    }

    /// The path without links, and what is there; `links` counts those on the whole way.
    fn find(&self, path: &Path, links: &mut u32) -> Result<(PathBuf, Kind), Blocked> {
        let Some(name) = path.file_name() else {
            return Ok((PathBuf::from("/"), Kind::Directory));
        };
        let at = self.directory_of(path, links)?.join(name);
        match self.store.kind(&at) {
            Kind::Link(target) => self.follow(&at, &target, links),
            kind => Ok((at, kind)),
        }
    }

    fn follow(
        &self,
        link: &Path,
        target: &Path,
        links: &mut u32,
    ) -> Result<(PathBuf, Kind), Blocked> {
        *links += 1;
        if *links > LINKS_MAX {
            return Err(Blocked::Ring);
        }
        let mut at = link.parent().unwrap_or(link).to_path_buf();
        let mut kind = Kind::Directory;
        for component in target.components() {
            match component {
                Component::Normal(name) => (at, kind) = self.find(&at.join(name), links)?,
                Component::CurDir => {}
                // Through a file as well: no tree that the kernel wrote has such a link.
                Component::ParentDir if at.pop() => kind = Kind::Directory,
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                    return Err(Blocked::Outside);
                }
            }
        }
        Ok((at, kind))
    }

    /// The directory that `path` is in, without links; found once for all files in it.
    fn directory_of(&self, path: &Path, links: &mut u32) -> Result<PathBuf, Blocked> {
        let Some(parent) = path.parent() else { return Ok(PathBuf::from("/")) };
        let known = || self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known().get(parent) {
            return Ok(found.clone());
        }
        let (found, _) = self.find(parent, links)?;
        known().insert(parent.to_path_buf(), found.clone());
        Ok(found)
    }
}

impl Store {
    fn kind(&self, at: &Path) -> Kind {
        match self {
            Self::Disk(root) => kind_on_disk(&below(root, at)),
            Self::Memory(records) => match records.get(at) {
                Some(Record::File(_)) => Kind::File,
                Some(Record::Link(target)) => Kind::Link(target.clone()),
                Some(Record::Directory) => Kind::Directory,
                None if children(records, at).next().is_some() => Kind::Directory,
                None => Kind::Missing,
            },
        }
    }

    fn text(&self, at: &Path) -> io::Result<String> {
        match self {
            Self::Disk(root) => {
                let mut text = String::new();
                let file = fs::File::open(below(root, at))?;
                file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
                if text.len() as u64 > FILE_BYTES_MAX {
                    return Err(io::Error::from_raw_os_error(libc::EFBIG));
                }
                Ok(text)
            }
            Self::Memory(records) => match records.get(at) {
                Some(Record::File(text)) => Ok(text.clone()),
                _ => Err(io::Error::from_raw_os_error(libc::ENOENT)),
            },
        }
    }

    fn names(&self, at: &Path) -> Vec<OsString> {
        match self {
            Self::Disk(root) => {
                let Ok(entries) = fs::read_dir(below(root, at)) else { return Vec::new() };
                entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect()
            }
            Self::Memory(records) => {
                let name = |path: &PathBuf| Some(path.strip_prefix(at).ok()?.iter().next()?.into());
                let mut names: Vec<OsString> = children(records, at).filter_map(name).collect();
                names.dedup();
                names
            }
        }
    }
}

fn kind_on_disk(at: &Path) -> Kind {
    let Ok(metadata) = fs::symlink_metadata(at) else { return Kind::Missing };
    if metadata.is_file() {
        Kind::File
    } else if metadata.is_dir() {
        Kind::Directory
    } else if metadata.is_symlink() {
        fs::read_link(at).map_or(Kind::Missing, Kind::Link)
    } else {
        Kind::Special
    }
}

/// The records below a directory. Paths are ordered by their components, so they are together.
fn children<'a>(
    records: &'a BTreeMap<PathBuf, Record>,
    at: &'a Path,
) -> impl Iterator<Item = &'a PathBuf> {
    let after = (Bound::Excluded(at), Bound::Unbounded);
    records
        .range::<Path, _>(after)
        .map(|(path, _)| path)
        .take_while(move |path| path.starts_with(at))
}

/// `path`, which begins with `/`, below `root`.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn file(text: &str) -> Record {
        Record::File(text.to_owned())
    }

    fn link(target: &str) -> Record {
        Record::Link(PathBuf::from(target))
    }

    /// A tree with every kind of link, the good ones first.
    fn records() -> BTreeMap<PathBuf, Record> {
        let records = [
            ("/sys/class/net/eth0", link("../../devices/pci/net/eth0")),
            ("/sys/devices/pci/net/eth0/mtu", file("1500\n")),
            ("/sys/devices/pci/net/eth0/device", link("../..")),
            ("/sys/devices/pci/numa_node", file("1\n")),
            ("/sys/devices/empty", Record::Directory),
            ("/proc/absolute", link("/etc/passwd")),
            ("/proc/above", link("../../../../../../../../etc/passwd")),
            ("/proc/directory", link("../..")),
            ("/proc/ring", link("ring2")),
            ("/proc/ring2", link("ring")),
            ("/proc/nowhere", link("missing")),
        ];
        records.into_iter().map(|(path, record)| (PathBuf::from(path), record)).collect()
    }

    /// The same on disk, gone with the guard.
    struct Disk(PathBuf);

    impl Drop for Disk {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn disk() -> Disk {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("quiclane-captured-{}-{number}", std::process::id());
        let root = std::env::temp_dir().join(name);
        for (path, record) in records() {
            let at = below(&root, &path);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            match record {
                Record::File(text) => fs::write(at, text).unwrap(),
                Record::Link(target) => symlink(target, at).unwrap(),
                Record::Directory => fs::create_dir_all(at).unwrap(),
            }
        }
        Disk(root)
    }

    fn both(check: impl Fn(&Captured)) {
        let disk = disk();
        check(&Captured::directory(disk.0.clone()));
        check(&Captured::records(records()));
    }

    #[test]
    fn files_are_found_through_links() {
        both(|tree| {
            let text = |path: &str| tree.text(Path::new(path)).unwrap();
            assert_eq!(text("/sys/class/net/eth0/mtu"), "1500\n");
            assert_eq!(text("/sys/class/net/eth0/device/numa_node"), "1\n");
            assert_eq!(tree.names(Path::new("/sys/class/net")).unwrap(), ["eth0"]);
            let mut names = tree.names(Path::new("/sys/class/net/eth0")).unwrap();
            names.sort();
            assert_eq!(names, ["device", "mtu"]);
            assert_eq!(tree.presence(Path::new("/sys/class/net/eth0/device")), Some(true));
            assert_eq!(tree.presence(Path::new("/sys/devices/empty")), Some(true));
            assert_eq!(tree.presence(Path::new("/sys/class/net/eth0/mtu")), Some(false));
            assert_eq!(tree.presence(Path::new("/sys/class/net/eth1")), None);
            let target = tree.link_target(Path::new("/sys/class/net/eth0/device")).unwrap();
            assert_eq!(target, Path::new("../.."));
        });
    }

    #[test]
    fn no_link_leads_out() {
        both(|tree| {
            let error = |path: &str| tree.text(Path::new(path)).unwrap_err().to_string();
            for path in ["/proc/absolute", "/proc/above", "/proc/directory/etc/passwd"] {
                assert_eq!(error(path), "a link leads out of the captured tree", "{path}");
                assert_eq!(tree.presence(Path::new(path)), None, "{path}");
            }
            assert_eq!(tree.names(Path::new("/proc/directory")), None);
            assert!(error("/proc/ring").contains("Too many levels"), "{}", error("/proc/ring"));
            assert!(error("/proc/nowhere").starts_with("No such file"));
            assert!(error("/sys/devices/pci").starts_with("Is a directory"));
        });
    }

    #[test]
    fn a_pipe_is_not_read() {
        let disk = disk();
        let status = std::process::Command::new("mkfifo").arg(disk.0.join("proc/stat")).status();
        assert!(status.unwrap().success());
        let tree = Captured::directory(disk.0.clone());
        let error = tree.text(Path::new("/proc/stat")).unwrap_err();
        assert_eq!(error.to_string(), "neither a file nor a directory");
    }
}
