//! The command line of Quiclane.

fn main() {}
