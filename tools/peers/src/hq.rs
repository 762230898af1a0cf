//! `hq-interop`: files over bare QUIC streams, as in the QUIC interop runner.
//!
//! A request is one line, `GET /path\r\n`, then FIN; the response is the file's bytes, then
//! FIN. There are no headers and no status: the stream is reset if there is no such file.

use std::path::{Component, Path, PathBuf};

use tokio::fs::File;

/// The protocol's name in ALPN.
pub(crate) const ALPN: &str = "hq-interop";
/// A longer request is refused: paths in tests are short.
pub(crate) const MAX_REQUEST_BYTES: usize = 4096;
/// The code of RESET_STREAM for a request that cannot be served.
pub(crate) const RESET_CODE: u32 = 1;
/// Bytes read from a file at a time.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;

/// The request for `path`.
pub(crate) fn request(path: &str) -> String {
    format!("GET {path}\r\n")
}

/// Opens the file that a request asks for, below `root`; `None` if there is no such file.
pub(crate) async fn open(root: &Path, request: &[u8]) -> Option<File> {
    let file = File::open(resolve(root, request)?).await.ok()?;
    file.metadata().await.ok()?.is_file().then_some(file)
}

/// The path that a request asks for, below `root`; `None` if it is malformed or leaves `root`.
fn resolve(root: &Path, request: &[u8]) -> Option<PathBuf> {
    let line = std::str::from_utf8(request).ok()?;
    let line = line.strip_suffix('\n').map(|l| l.strip_suffix('\r').unwrap_or(l)).unwrap_or(line);
    let path = Path::new(line.strip_prefix("GET /")?);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    (plain && path.components().next().is_some()).then(|| root.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_a_file_below_the_root() {
        let root = Path::new("/srv");
        assert_eq!(resolve(root, b"GET /a/b\r\n"), Some(PathBuf::from("/srv/a/b")));
        assert_eq!(resolve(root, b"GET /a\n"), Some(PathBuf::from("/srv/a")));
        assert_eq!(resolve(root, b"GET /a"), Some(PathBuf::from("/srv/a")));
        assert_eq!(resolve(root, request("/a").as_bytes()), Some(PathBuf::from("/srv/a")));
    }

    #[test]
    fn a_request_cannot_leave_the_root() {
        let root = Path::new("/srv");
        for bad in ["GET /../x\r\n", "GET //etc/passwd\r\n", "GET /\r\n", "PUT /a\r\n", "GET a\r\n"]
        {
            assert_eq!(resolve(root, bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(resolve(root, b"GET /\xff\r\n"), None);
    }
}
