//! Two [`Streams`] wired together, and what must hold between them.

mod harness;
mod sending;
