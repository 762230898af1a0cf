//! What the fuzz targets do with their input: one function each.
//!
//! Each asserts what must hold for any bytes: nothing panics, positions stay inside, what was read can
//! be written and reads back the same, and a state machine agrees with a simpler model of itself.
//!
//! The targets of `tests/fuzz` call them under libFuzzer, and `tests/replay.rs` of this package calls
//! them on every file of the corpus in an ordinary test run. To fuzz one of them for a minute, without
//! a sanitizer since nothing here is unsafe, and with what is new kept apart from the corpus:
//!
//! ```text
//! mkdir -p /tmp/frame
//! RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz -s none frame \
//!     /tmp/frame tests/fuzz/corpus/frame -- -max_total_time=60 -max_len=1500
//! ```
//!
//! An input that fails is left in `tests/fuzz/artifacts`. It belongs in the corpus, under a name that
//! says what it is, with the commit that fixes it.

mod authenticated_peer;
mod frames;
mod headers;
mod ids;
mod input;
mod ledger;
mod packets;
mod ranges;
mod reassembly;
mod whimsical;
mod wire_peer;

/// A target: its name, which is that of its corpus directory, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 8] = [
    ("packet", packets::packet),
    ("frame", frames::frame),
    ("transport_parameters", frames::transport_parameters),
    ("ack_ranges", ranges::ack_ranges),
    ("connection_id", ids::connection_id),
    ("reassembly", reassembly::reassembly),
    ("headers", headers::headers),
    ("authenticated_peer", authenticated_peer::authenticated_peer),
];

/// Runs the body of the target called `name`.
///
/// # Panics
/// An assertion fails, or there is no such target.
pub fn run(name: &str, data: &[u8]) {
    match TARGETS.iter().find(|(known, _)| *known == name) {
        Some((_, body)) => body(data),
        None => panic!("there is no target {name}"),
    }
}
