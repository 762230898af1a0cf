//! The machine.

pub mod toeplitz;
