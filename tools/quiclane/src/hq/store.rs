//! Files below a directory: looked up, and read piece by piece.
//!
//! A caller may ask for calls that do not wait: a worker's thread, which serves other connections
//! too, asks only for what is in memory, and leaves the rest to the threads of `pool`.

use super::budget::Refusal;
use crate::sys::{self, Wait};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

/// The directory that is served.
#[derive(Debug)]
pub(super) struct Store(OwnedFd);

/// A regular file, open for reading.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    /// Its size when it was opened: what the client gets.
    pub(super) size: u64,
}

/// Why nothing was opened or read.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It would have waited for a disk.
    WouldWait,
    /// It cannot be had.
    Refused(Refusal),
}

impl Store {
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let store = sys::open_directory(directory)?;
        // Without openat2(2) (Linux 5.6) no file could be served: the start fails instead.
        sys::open_beneath(&store, c".", libc::O_PATH, Wait::Yes)?;
        Ok(Self(store))
    }

    /// Opens a regular file below the directory, and nothing else: no path leaves the directory,
    /// not by a link and not by one that is made meanwhile (`RESOLVE_BENEATH`); the last name is
    /// not a link (`O_NOFOLLOW`). The type of the file is read from an `O_PATH` descriptor, which
    /// opens nothing: opening a FIFO or a device may wait, or start something.
    pub(super) fn file(&self, path: &str, wait: Wait) -> Result<Opened, Trouble> {
        let normal = |part: Component<'_>| matches!(part, Component::Normal(_));
        if path.is_empty() || !Path::new(path).components().all(normal) {
            return Err(Trouble::Refused(Refusal::NotFound));
        }
        let path = CString::new(path).map_err(|_| Trouble::Refused(Refusal::NotFound))?;
        let named = sys::open_beneath(&self.0, &path, libc::O_PATH, wait).map_err(trouble)?;
        if !File::from(named).metadata().map_err(trouble)?.is_file() {
            return Err(Trouble::Refused(Refusal::NotFound));
        }
        // Another file may have taken its place meanwhile: O_NONBLOCK, and a second check.
        let flags = libc::O_RDONLY | libc::O_NONBLOCK;
        let file: File = sys::open_beneath(&self.0, &path, flags, wait).map_err(trouble)?.into();
        let meta = file.metadata().map_err(trouble)?;
        if !meta.is_file() {
            return Err(Trouble::Refused(Refusal::NotFound));
        }
        Ok(Opened { file, size: meta.len() })
    }
}

/// Reads up to `len` bytes at an offset that the file had when it was opened.
pub(super) fn read(file: &File, at: u64, len: usize, wait: Wait) -> Result<Vec<u8>, Trouble> {
    match sys::read_at(file, at, len, wait) {
        Ok(data) if data.is_empty() => Err(Trouble::Refused(Refusal::Truncated)),
        Ok(data) => Ok(data),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Trouble::WouldWait),
        Err(_) => Err(Trouble::Refused(Refusal::Truncated)),
    }
}

fn trouble(error: io::Error) -> Trouble {
    match error.raw_os_error() {
        // EAGAIN: not in memory, or a name was moved while it was looked up.
        Some(libc::EAGAIN) => Trouble::WouldWait,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Trouble::Refused(Refusal::Busy),
        _ => Trouble::Refused(Refusal::NotFound),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let base = std::env::temp_dir().join(format!("quiclane-{name}-{}", std::process::id()));
            fs::create_dir_all(base.join("root/sub")).unwrap();
            fs::write(base.join("secret"), "no").unwrap();
            fs::write(base.join("root/open"), "yes").unwrap();
            fs::write(base.join("root/empty"), "").unwrap();
            fs::write(base.join("root/sub/deep"), "deep").unwrap();
            Self(base)
        }

        fn root(&self) -> PathBuf {
            self.0.join("root")
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn content(store: &Store, path: &str) -> Option<Vec<u8>> {
        let opened = store.file(path, Wait::Yes).ok()?;
        if opened.size == 0 {
            return Some(Vec::new());
        }
        Some(read(&opened.file, 0, 4096, Wait::Yes).unwrap())
    }

    #[test]
    fn nothing_outside_the_directory_is_served() {
        let tree = Tree::new("store");
        let root = tree.root();
        symlink(tree.0.join("secret"), root.join("link")).unwrap();
        symlink("../secret", root.join("relative")).unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink("sub", root.join("within")).unwrap();
        let store = Store::open(&root).unwrap();
        assert_eq!(content(&store, "open").as_deref(), Some(&b"yes"[..]));
        assert_eq!(content(&store, "empty").as_deref(), Some(&b""[..]));
        assert_eq!(content(&store, "sub/deep").as_deref(), Some(&b"deep"[..]));
        assert_eq!(content(&store, "within/deep").as_deref(), Some(&b"deep"[..]));
        let outside = ["../secret", "/etc/passwd", "link", "relative", "up/secret", "a/../open"];
        for path in outside.into_iter().chain([".", "", "none", "sub", "open\0x"]) {
            assert_eq!(content(&store, path), None, "{path}");
        }
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let tree = Tree::new("store-fifo");
        let made = std::process::Command::new("mkfifo").arg(tree.root().join("fifo")).status();
        assert!(made.unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(tree.root().join("socket")).unwrap();
        let store = Store::open(&tree.root()).unwrap();
        for wait in [Wait::Yes, Wait::No] {
            for path in ["fifo", "socket"] {
                let refused = store.file(path, wait).unwrap_err();
                assert!(matches!(refused, Trouble::Refused(Refusal::NotFound)), "{refused:?}");
            }
        }
        // A writer that waits for a reader still waits: the FIFO was not opened.
        let device = Store::open(Path::new("/dev")).unwrap();
        assert!(device.file("null", Wait::Yes).is_err());
    }

    #[test]
    fn a_file_that_became_shorter_is_an_error_and_no_fault() {
        let tree = Tree::new("store-short");
        let store = Store::open(&tree.root()).unwrap();
        let opened = store.file("open", Wait::Yes).unwrap();
        assert_eq!(opened.size, 3);
        fs::write(tree.root().join("open"), "").unwrap();
        let short = read(&opened.file, 0, 3, Wait::Yes).unwrap_err();
        assert!(matches!(short, Trouble::Refused(Refusal::Truncated)), "{short:?}");
    }

    #[test]
    fn a_directory_that_becomes_a_link_leads_nowhere() {
        let tree = Tree::new("store-race");
        let root = tree.root();
        fs::create_dir(tree.0.join("outside")).unwrap();
        fs::write(tree.0.join("outside/deep"), "no").unwrap();
        symlink("../outside", root.join("trap")).unwrap();
        let store = Store::open(&root).unwrap();
        let exchange = std::thread::spawn({
            let root = root.clone();
            move || {
                for _ in 0..500 {
                    sys::exchange(&root.join("sub"), &root.join("trap")).unwrap();
                }
            }
        });
        let mut looked = 0;
        while !exchange.is_finished() {
            if let Some(got) = content(&store, "sub/deep") {
                assert_eq!(got, b"deep");
            }
            looked += 1;
        }
        exchange.join().unwrap();
        assert!(looked > 0);
    }
}
