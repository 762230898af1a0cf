//! Files over bare QUIC: ALPN hq-interop.
//!
//! A client opens a bidirectional stream and sends `GET /path` with a line end and FIN; the
//! server answers with the bytes of the file and FIN. There are no status codes: a file that
//! cannot be had resets the stream. Files are mapped into memory and lent to the stream as they
//! are: no copy is made before the packet.

use bytes::Bytes;
use quiclane::exec::ConnectionRef;
use quiclane::{Dir, StreamId};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};

/// The protocol's name.
pub(crate) const ALPN: &str = "hq-interop";
/// The longest request that is read.
const MAX_REQUEST_BYTES: usize = 4096;
/// The stream is reset with this when the file cannot be had.
const NOT_FOUND: u64 = 0x404;
/// The stream is reset with this when the request is none.
const BAD_REQUEST: u64 = 0x400;

/// The server's part for one connection.
#[derive(Default)]
pub(crate) struct Files {
    root: Option<PathBuf>,
    requests: HashMap<StreamId, Vec<u8>>,
}

impl Files {
    pub(crate) fn new(root: Option<PathBuf>) -> Self {
        Self { root, requests: HashMap::new() }
    }

    pub(crate) fn data(
        &mut self,
        connection: &mut ConnectionRef<'_>,
        stream: StreamId,
        data: &[u8],
        fin: bool,
    ) {
        if stream.dir() == Dir::Uni {
            return;
        }
        let request = self.requests.entry(stream).or_default();
        request.extend_from_slice(data);
        if request.len() > MAX_REQUEST_BYTES {
            self.refuse(connection, stream, BAD_REQUEST);
        } else if fin {
            self.answer(connection, stream);
        }
    }

    pub(crate) fn gone(&mut self, stream: StreamId) {
        self.requests.remove(&stream);
    }

    fn answer(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId) {
        let request = self.requests.remove(&stream).unwrap_or_default();
        let Some(path) = requested_path(&request) else {
            return self.refuse(connection, stream, BAD_REQUEST);
        };
        match self.root.as_deref().and_then(|root| open(root, path)) {
            // An error here means that the client has changed its mind.
            Some(content) => {
                let _ = connection.send(stream, content, true);
            }
            None => self.refuse(connection, stream, NOT_FOUND),
        }
    }

    fn refuse(&mut self, connection: &mut ConnectionRef<'_>, stream: StreamId, code: u64) {
        self.requests.remove(&stream);
        // Errors mean that there is nothing left to refuse.
        let _ = connection.stop_sending(stream, code);
        let _ = connection.reset(stream, code);
    }
}

/// The path of `GET /path`, with or without a line end.
fn requested_path(request: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(request).ok()?;
    text.strip_prefix("GET ")?.trim_end_matches(['\r', '\n']).strip_prefix('/')
}

/// The content of a file below `root`; nothing above it, whatever the path says.
fn open(root: &Path, path: &str) -> Option<Bytes> {
    let relative = Path::new(path);
    if relative.components().any(|c| !matches!(c, Component::Normal(_))) {
        return None;
    }
    // A link may point outside: what counts is where the file really is.
    let full = root.join(relative).canonicalize().ok()?;
    if !full.starts_with(root.canonicalize().ok()?) {
        return None;
    }
    let file = File::open(full).ok()?;
    let meta = file.metadata().ok()?;
    if !meta.is_file() {
        return None;
    }
    if meta.len() == 0 {
        return Some(Bytes::new());
    }
    Some(Bytes::from_owner(crate::sys::map(&file).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_a_path() {
        assert_eq!(requested_path(b"GET /a/b\r\n"), Some("a/b"));
        assert_eq!(requested_path(b"GET /a"), Some("a"));
        assert_eq!(requested_path(b"PUT /a"), None);
        assert_eq!(requested_path(b"GET a"), None);
        assert_eq!(requested_path(&[0xff, 0xfe]), None);
    }

    #[test]
    fn nothing_outside_the_directory_is_served() {
        let dir = std::env::temp_dir().join(format!("quiclane-hq-{}", std::process::id()));
        let root = dir.join("root");
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(dir.join("secret"), "no").unwrap();
        std::fs::write(root.join("open"), "yes").unwrap();
        std::fs::write(root.join("empty"), "").unwrap();
        std::os::unix::fs::symlink(dir.join("secret"), root.join("link")).unwrap();
        assert_eq!(open(&root, "open").as_deref(), Some(&b"yes"[..]));
        assert_eq!(open(&root, "empty").as_deref(), Some(&b""[..]));
        for path in ["../secret", "/etc/passwd", "link", ".", "", "none", "a/../open"] {
            assert_eq!(open(&root, path), None, "{path}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
