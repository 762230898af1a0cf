//! Where a fetched file goes: beside its place until it is complete.

use crate::error::Failure;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Standard output, a file that is written in its place (a pipe, a device), or a draft that
/// takes the place of a regular file once it is complete. A draft that is not finished is removed.
pub(super) struct Output {
    writer: Box<dyn Write>,
    /// What was named; `None` for standard output.
    place: Option<PathBuf>,
    draft: Option<Draft>,
}

struct Draft {
    file: File,
    path: PathBuf,
}

impl Output {
    /// # Errors
    /// The place cannot be written to.
    pub(super) fn new(place: &Path) -> Result<Self, Failure> {
        if place.as_os_str() == "-" {
            return Ok(Self { writer: Box::new(std::io::stdout()), place: None, draft: None });
        }
        let fail = |error| Failure::file("write", place, &error);
        let present = fs::metadata(place).ok();
        if present.as_ref().is_some_and(|meta| !meta.is_file()) {
            let file = OpenOptions::new().write(true).open(place).map_err(fail)?;
            let (writer, place) = (Box::new(BufWriter::new(file)), Some(place.to_owned()));
            return Ok(Self { writer, place, draft: None });
        }
        // Where a link leads, so that the link stays.
        let place = place.canonicalize().unwrap_or_else(|_| place.to_owned());
        let Some(name) = place.file_name() else {
            let text = format!("cannot write {}: it names no file", place.display());
            return Err(Failure::Usage(text));
        };
        let draft = format!(".{}.{}.part", name.to_string_lossy(), std::process::id());
        let path = place.with_file_name(draft);
        let fail = |error| Failure::file("write", &place, &error);
        let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(fail)?;
        let writer = Box::new(BufWriter::new(file.try_clone().map_err(fail)?));
        if let Some(meta) = present {
            // A file that is replaced stays as open, or as closed, to others as it was.
            file.set_permissions(meta.permissions()).map_err(fail)?;
        }
        Ok(Self { writer, place: Some(place), draft: Some(Draft { file, path }) })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.writer.write_all(bytes).map_err(|error| self.failed(error))
    }

    /// Everything has arrived.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        self.writer.flush().map_err(|error| self.failed(error))?;
        let (Some(draft), Some(place)) = (&self.draft, &self.place) else { return Ok(()) };
        let moved = draft.file.sync_all().and_then(|()| fs::rename(&draft.path, place));
        moved.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: std::io::Error) -> Failure {
        match &self.place {
            Some(place) if error.kind() != ErrorKind::BrokenPipe => {
                Failure::file("write", place, &error)
            }
            _ => error.into(),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(draft) = &self.draft {
            // It is gone by now if it took its place.
            drop(fs::remove_file(&draft.path));
        }
    }
}
