//! Two [`Streams`](super::Streams) wired together, and what must hold between them.

mod attacks;
mod completion;
mod copied;
mod harness;
mod lifecycle;
mod model;
mod receiving;
mod sending;
mod taking;
