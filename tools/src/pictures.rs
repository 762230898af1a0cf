//! The pictures of the README, below `tools/pictures`: drawn here from machines that are made for
//! tests, so that they cannot show what the command no longer does. When they are to change:
//! `QUICLANE_PICTURES=write cargo test -p quiclane-tools --bin quiclane pictures`.

use std::path::Path;

/// What a page that many load may weigh.
const BYTES_MAX: usize = 60_000;

/// Compares a picture with the one that is kept, or keeps it.
pub(crate) fn keep(name: &str, picture: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("pictures").join(name);
    assert!(picture.len() < BYTES_MAX, "{name}: {} bytes", picture.len());
    if std::env::var_os("QUICLANE_PICTURES").is_some_and(|value| value == "write") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, picture).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == picture,
        "{} shows something else than the command; \
         QUICLANE_PICTURES=write cargo test -p quiclane-tools --bin quiclane pictures",
        path.display()
    );
}
