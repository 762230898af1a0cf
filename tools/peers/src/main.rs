//! Peers and measurements.

fn main() {}
