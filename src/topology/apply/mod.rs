//! Writes a plan to a device, with a way back. The only part of `topology` that writes.
//!
//! ```text
//!   check      is it the device that the plan means, may we, is a queue in use that would vanish
//!   Snapshot   every value of the device, kept in a Store before the first write
//!   run        writes line by line, looks again, says what became of each line
//!   way back   from a snapshot, a plan that restores it; written by `run` as well
//! ```
//!
//! What is written depends on the device as it is at that moment: interrupts have other numbers
//! after a change of the channels. So a line becomes a [`Write`] only when its turn comes, from a
//! survey made since the last reset; [`Live`] then writes nothing that does not belong to the
//! device.

mod check;
mod live;
mod run;
mod snapshot;
mod store;
mod write;

pub use check::{Drift, Refusal, check, drift, spare_queues_in_use};
pub use live::Live;
pub use run::{LineReport, Outcome, run};
pub use snapshot::{Lost, Snapshot};
pub use store::{Mark, Pending, Store, civil, trusted};
pub use write::Write;

use crate::topology::survey::Survey;

/// A device that can be looked at and written to.
pub trait Hardware {
    /// What there is to see of it now.
    fn look(&self) -> Survey;

    /// Writes one thing.
    ///
    /// # Errors
    /// Why it was not written, in words.
    fn write(&mut self, write: &Write) -> Result<(), String>;
}

#[cfg(test)]
mod tests;
