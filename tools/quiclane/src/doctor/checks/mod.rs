//! The checks, one file for each part of the machine. Each file holds its kinds (the texts) and
//! beside them the pure functions that judge a survey.

mod counters;
mod cpu;
mod driver;
mod irq;
mod kernel;
mod memory;
mod napi;
mod offloads;
mod quirks;
mod rss;
mod servers;
mod steering;
mod workers;
mod xdp;

use super::finding::Kind;

/// Every kind, by id.
pub(crate) fn all() -> Vec<&'static Kind> {
    let files = [
        rss::KINDS,
        irq::KINDS,
        steering::KINDS,
        workers::KINDS,
        napi::KINDS,
        offloads::KINDS,
        driver::KINDS,
        quirks::KINDS,
        xdp::KINDS,
        counters::KINDS,
        servers::KINDS,
        memory::KINDS,
        cpu::KINDS,
        kernel::KINDS,
    ];
    let mut kinds: Vec<&Kind> = files.into_iter().flatten().collect();
    kinds.sort_by_key(|kind| kind.id);
    kinds
}
