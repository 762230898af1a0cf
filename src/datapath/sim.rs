//! A seeded network in memory, with faults.
