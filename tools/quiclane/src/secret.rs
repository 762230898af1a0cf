//! The secret that a server keeps across restarts.

use crate::error::Failure;
use std::fs::{Metadata, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// How many bytes it has.
const SECRET_BYTES: usize = 32;
/// Users other than the owner may read, write or execute.
const OTHERS: u32 = 0o077;

/// Reads the secret of `--secret-file`. Another user who could read it could reset every connection
/// of the server, and make tokens that it accepts, so only the owner may have access.
pub(crate) fn read(path: &Path) -> Result<[u8; SECRET_BYTES], Failure> {
    let failed = |error| Failure::file("read", path, &error);
    // O_NONBLOCK: opening a FIFO would wait. The type is checked on the open file.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|error| match error.kind() {
        ErrorKind::NotFound => usage(path, "is not there; make one", path),
        _ => failed(error),
    })?;
    check(path, &file.metadata().map_err(failed)?)?;
    let mut bytes = Vec::with_capacity(SECRET_BYTES + 1);
    file.take(SECRET_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    let found = bytes.len();
    bytes.try_into().map_err(|_| {
        let more = if found > SECRET_BYTES { "more than " } else { "" };
        let found = found.min(SECRET_BYTES);
        wrong(path, &format!("has {more}{found} bytes where {SECRET_BYTES} random ones are needed"))
    })
}

fn check(path: &Path, metadata: &Metadata) -> Result<(), Failure> {
    if !metadata.is_file() {
        return Err(wrong(path, "is not a regular file"));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS != 0 {
        let why = format!("has mode {mode:04o}: others may use it");
        return Err(wrong(path, &why));
    }
    Ok(())
}

/// The file may be something that is needed, as a key: the remedy writes another file.
fn wrong(path: &Path, why: &str) -> Failure {
    let mut other = path.as_os_str().to_owned();
    other.push(".new");
    usage(path, &format!("{why}; make another"), Path::new(&other))
}

fn usage(path: &Path, why: &str, new: &Path) -> Failure {
    let (path, new) = (path.display(), new.display());
    Failure::Usage(format!(
        "--secret-file {path} {why}: (umask 077; head -c {SECRET_BYTES} /dev/urandom >{new})"
    ))
}
