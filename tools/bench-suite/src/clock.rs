//! The only place of this program that reads a clock, and the cost of a read.

use std::time::Instant;

/// Pairs of reads from which the cost of one is taken.
const CALIBRATION_READS: usize = 2001;

/// The time now.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock; stacks get it passed")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The time between two reads with nothing between them, in nanoseconds: every measured section
/// contains this much that is not its own.
pub(crate) fn read_cost_ns() -> u64 {
    let mut costs: Vec<u64> = (0..CALIBRATION_READS)
        .map(|_| {
            let start = now();
            now().duration_since(start).as_nanos() as u64
        })
        .collect();
    costs.sort_unstable();
    costs[CALIBRATION_READS / 2]
}
