//! Output files: written beside their place until they are complete.

use crate::error::Failure;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Standard output, a file that is written in its place (a pipe, a device), or a draft that
/// takes the place of a regular file once it is complete. A draft that is not finished is removed.
pub(crate) struct Output {
    writer: Box<dyn Write>,
    /// The name as given; `None` for standard output.
    place: Option<PathBuf>,
    draft: Option<Draft>,
}

struct Draft {
    file: File,
    path: PathBuf,
}

impl Output {
    /// `-` is standard output. If the name is a link, its target is written.
    ///
    /// # Errors
    /// The place cannot be written to.
    pub(crate) fn new(place: &Path) -> Result<Self, Failure> {
        if place.as_os_str() == "-" {
            return Ok(Self { writer: Box::new(io::stdout()), place: None, draft: None });
        }
        let fail = |error| Failure::file("write", place, &error);
        let present = fs::metadata(place).ok();
        if present.as_ref().is_some_and(|meta| !meta.is_file()) {
            let file = OpenOptions::new().write(true).open(place).map_err(fail)?;
            return Ok(Self::to_device(file, place));
        }
        let place = place.canonicalize().unwrap_or_else(|_| place.to_owned());
        Self::to_draft(place, present)
    }

    /// For a directory where another user may put links: a link is refused, and one that is put
    /// there meanwhile is replaced and not followed.
    ///
    /// # Errors
    /// The place cannot be written to, or is a link.
    pub(crate) fn not_through_links(place: &Path) -> Result<Self, Failure> {
        let fail = |error: io::Error| Failure::file("write", place, &error);
        let present = fs::symlink_metadata(place).ok();
        match &present {
            Some(meta) if meta.is_symlink() => {
                let text = "it is a link, and links are not followed here; name another file";
                Err(fail(io::Error::new(ErrorKind::AlreadyExists, text)))
            }
            Some(meta) if !meta.is_file() => {
                let mut options = OpenOptions::new();
                let opened = options.write(true).custom_flags(libc::O_NOFOLLOW).open(place);
                Ok(Self::to_device(opened.map_err(fail)?, place))
            }
            _ => Self::to_draft(place.to_owned(), present),
        }
    }

    fn to_device(file: File, place: &Path) -> Self {
        let (writer, place) = (Box::new(BufWriter::new(file)), Some(place.to_owned()));
        Self { writer, place, draft: None }
    }

    fn to_draft(place: PathBuf, present: Option<Metadata>) -> Result<Self, Failure> {
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
            // The new file gets the mode of the file that it replaces.
            file.set_permissions(meta.permissions()).map_err(fail)?;
        }
        Ok(Self { writer, place: Some(place), draft: Some(Draft { file, path }) })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.writer.write_all(bytes).map_err(|error| self.failed(error))
    }

    /// Everything has arrived.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.writer.flush().map_err(|error| self.failed(error))?;
        let (Some(draft), Some(place)) = (&self.draft, &self.place) else { return Ok(()) };
        let moved = draft.file.sync_all().and_then(|()| fs::rename(&draft.path, place));
        moved.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> Failure {
        match &self.place {
            Some(place) if error.kind() != ErrorKind::BrokenPipe => {
                Failure::file("write", place, &error)
            }
            _ => Failure::output(error),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(draft) = &self.draft {
            // A draft that took its place is not there any more.
            drop(fs::remove_file(&draft.path));
        }
    }
}
