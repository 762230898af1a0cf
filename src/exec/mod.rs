//! Who runs what where.
pub mod clock;
pub mod handoff;
pub mod sys;
pub mod table;
pub mod wheel;
