//! Values that are the same in a server and its restarted successor, from the number of `--secret`.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Fills `out` with a value of `secret` and `data`. A signature for tests, where there is no attacker.
pub(crate) fn sign(secret: u64, data: &[u8], out: &mut [u8]) {
    for (at, word) in out.chunks_mut(8).enumerate() {
        let mut hasher = DefaultHasher::new();
        (secret, at, data).hash(&mut hasher);
        word.copy_from_slice(&hasher.finish().to_be_bytes()[..word.len()]);
    }
}
