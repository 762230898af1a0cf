//! The only place of this program that reads a clock, and what reading it costs.

use std::time::Instant;

/// Pairs of reads from which the cost of one is taken.
const CALIBRATION_READS: usize = 2001;

/// The time now.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock; stacks get it passed")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// What two reads with nothing between them show, in nanoseconds: the part of every measured
/// section that is not the section.
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
